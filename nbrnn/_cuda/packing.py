"""Weights that follow the parameters: gathered anew on the machine when these have changed, without the host.

Kernels read weights in orders of their own, which hold each number of a layer's vector of parameters any number of
times, zeros, and sums of two biases.  What makes these orders is plain NumPy, and linear.  So where each number comes
from is found once, by packing places in the vector instead of numbers; from then on one kernel does all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import kernels
from .gather import NOWHERE, THREADS
from .machine import Flat, Machine

Arrays = Mapping[str, NDArray[Any]]
#: What makes packed arrays of weights, and where in the vector each number of these weights stands.
Packer = tuple[Callable[[Arrays], Arrays], Arrays]
#: Each packed array begins at a multiple of so many numbers: a whole number of memory's segments.
_ALIGNED = 64


class Packing:
    """Packed weights of several layers and directions, all from one vector.

    Parameters
    ----------
    machine : Machine
    dtype : dtype
    packers : sequence of pairs
        For each layer and direction: what makes packed arrays of weights, and where in the vector each number of these
        weights stands.
    """

    def __init__(self, machine: Machine, dtype: np.dtype[Any], packers: Sequence[Packer]) -> None:
        self.machine, self.dtype = machine, dtype
        parts = [
            (unit, name, *both)
            for unit, (pack, places) in enumerate(packers)
            for name, both in origins(pack, places).items()
        ]
        # Those with second places stand together, at the end, for there are few.
        parts.sort(key=lambda part: bool((part[3] != NOWHERE).any()))
        self._at: list[dict[str, slice]] = [{} for _ in packers]
        self._begin, self._count = 0, 0
        firsts, seconds = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
        for unit, name, first, second in parts:
            self._at[unit][name] = slice(self._count, self._count + first.size)
            room = -(-first.size // _ALIGNED) * _ALIGNED
            for places, into in ((first, firsts), (second, seconds)):
                padded = np.full(room, NOWHERE, np.int32)
                padded[: places.size] = places
                into.append(padded)
            self._count += room
            if not (second != NOWHERE).any():
                self._begin = self._count
        self._first = machine.put(np.concatenate(firsts))
        self._second = machine.put(np.concatenate(seconds)[self._begin :])

    def __call__(self, vector: Flat) -> list[Mapping[str, Flat]]:
        """The packed arrays of each layer and direction, as of now."""
        out = self.machine.empty(self._count, self.dtype)
        data = (vector, self._first, self._second, self._begin, self._count, out)
        self.machine.launch(kernels.gather_kernel(self.dtype), (-(-self._count // THREADS),), data)
        return [{name: out[at] for name, at in own.items()} for own in self._at]


def origins(pack: Callable[[Arrays], Arrays], places: Arrays) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """Of each number that ``pack`` makes, the place of what it is, and the place of a bias that is added to it."""

    def of(wanted: Callable[[str], bool]) -> dict[str, NDArray[Any]]:
        marked = {name: (at + 1) * wanted(name) for name, at in places.items()}  # 0 is what nothing stands for
        return {name: a.reshape(-1) - 1 for name, a in pack(marked).items()}

    first, second = of(lambda name: name != "bias_hh"), of(lambda name: name == "bias_hh")
    both = {}
    for name, a in first.items():
        b = second[name]
        both[name] = np.where(a == NOWHERE, b, a), np.where(a == NOWHERE, NOWHERE, b)
    return both
