"""A whole recurrent network on a machine: layers of chains, run forward and back, all of a layer's steps at a time."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._cells import Cell
from .array import DeviceArray
from .batch import Batch
from .chain import Chain, Pass, Stretch
from .direction import Direction, State
from .families import Packed
from .machine import Flat, Machine
from .packing import Packing

#: Plain batches whose schedules are kept.
_BATCHES = 4


@dataclasses.dataclass
class Record:
    """What one forward pass leaves for the way back."""

    way: Pass
    weights: list[Packed]
    inputs: list[DeviceArray]  # of each level
    stretches: list[list[list[Stretch]]]  # of each level and direction


class Stack:
    """The layers of a network.

    *Levels* follow one another over the whole of time: in one direction the stack is a single level of one chain; a
    bidirectional one has a level for each layer, of two chains.

    Parameters
    ----------
    machine : Machine
    cell : type of Cell
    places : list of mappings
        For each layer and direction, layer-major: weights as ``Direction`` wants them, but with the place of each
        number in the vector of parameters in place of the number.
    dtype : dtype
    directions : 1 or 2
    """

    def __init__(
        self,
        machine: Machine,
        cell: type[Cell],
        places: Sequence[Mapping[str, NDArray[Any]]],
        dtype: np.dtype[Any],
        directions: int,
    ) -> None:
        self.machine, self.dtype, self.directions = machine, dtype, directions
        self.units = [Direction(machine, cell, {n: a.shape for n, a in own.items()}, dtype) for own in places]
        if directions == 1:
            self.levels = [[Chain(self.units, 0, False)]]
        else:
            self.levels = [
                [Chain([unit], layer, bool(d)) for d, unit in enumerate(self.units[2 * layer : 2 * layer + 2])]
                for layer in range(len(self.units) // 2)
            ]
        self._packing = Packing(machine, dtype, [(u.pack, own) for u, own in zip(self.units, places, strict=True)])
        # What was made on a stream is kept for that stream: on another it might not be there yet.
        self._packed: tuple[tuple[int, int], list[Packed]] | None = None
        self._batches: collections.OrderedDict[tuple[int, int, int], Batch] = collections.OrderedDict()
        self._zeros: tuple[int, Flat] | None = None

    # What outlives a call

    def weights(self, version: int, vector: Flat) -> list[Packed]:
        """The weights packed, from a vector of parameters that changes with its version."""
        key = version, self.machine.stream
        if self._packed is None or self._packed[0] != key:
            self._packed = key, self._packing(vector)
        return self._packed[1]

    def batch(self, steps: int, size: int, lengths: NDArray[Any] | None, resets: NDArray[Any] | None) -> Batch:
        """The sequences of a call; what is known of plain ones is kept for the next call."""
        if lengths is not None or resets is not None:
            return Batch(self.machine, steps, size, lengths, resets)
        key = steps, size, self.machine.stream
        made = self._batches.pop(key, None) or Batch(self.machine, steps, size, None, None)
        self._batches[key] = made  # the latest last
        while len(self._batches) > _BATCHES:
            self._batches.popitem(last=False)
        return made

    def zeros(self, *shape: int) -> DeviceArray:
        """Zeros that nobody may write to."""
        size = int(np.prod(shape))
        if self._zeros is None or self._zeros[0] != self.machine.stream or self._zeros[1].size < size:
            fresh = self.machine.empty(size, self.dtype)
            self.machine.zero(fresh)
            self._zeros = self.machine.stream, fresh
        return DeviceArray(self.machine, self._zeros[1][:size], shape)

    # Passes

    def _own(self, level: int, direction: int) -> slice:
        """Which entries of a list over layers and directions a chain has."""
        return slice(None) if self.directions == 1 else slice(2 * level + direction, 2 * level + direction + 1)

    def _part(self, y: DeviceArray, direction: int) -> DeviceArray:
        """The columns of a direction."""
        K = self.units[0].K
        return y if self.directions == 1 else y[:, :, direction * K : (direction + 1) * K]

    def forward(
        self,
        way: Pass,
        weights: list[Packed],
        x: DeviceArray,
        y: DeviceArray,
        state: Sequence[State],
        after: Sequence[State],
        keep: bool,
    ) -> Record:
        """x (T, B, I) into y (T, B, D * K), and the states after; what the way back needs, if ``keep``."""
        record = Record(way, weights, [], [])
        for n, level in enumerate(self.levels):
            last = n == len(self.levels) - 1
            out = y if last else DeviceArray.empty(self.machine, y.shape, self.dtype)
            made = []
            for d, chain in enumerate(level):
                own = self._own(n, d)
                made.append(chain.forward(way, weights[own], x, self._part(out, d), state[own], after[own], keep))
            if keep:
                record.inputs.append(x)
                record.stretches.append(made)
            x = out if way.drop is None or last else way.drop.between(out, n, self.directions, 0, None)
        return record

    def backward(
        self,
        record: Record,
        dy: DeviceArray | None,
        dx: DeviceArray,
        dstate: Sequence[State],
        before: Sequence[State],
        gradients: Sequence[Mapping[str, Flat]],
        retain: bool,
    ) -> None:
        """Take a record back.

        ``dx`` (T, B, I) is written where sequences run; ``before`` are the gradients for the states before;
        ``gradients`` those of the weights, for each layer and direction.
        """
        way = record.way
        for n in reversed(range(len(self.levels))):
            x = record.inputs[n]
            into = dx if n == 0 else DeviceArray.empty(self.machine, x.shape, self.dtype)
            for d, chain in enumerate(self.levels[n]):
                own = self._own(n, d)
                chain.backward(
                    way, record.weights[own], record.stretches[n][d], x, None if dy is None else self._part(dy, d),
                    into, d > 0, dstate[own], before[own], gradients[own], retain,
                )  # fmt: skip
            dy = into
            if n > 0 and way.drop is not None:
                dy = way.drop.between(into, n - 1, self.directions, 0, into)
