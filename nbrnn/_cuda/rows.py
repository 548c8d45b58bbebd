"""Arrays brought into an order that kernels want: side by side, or only the steps that count."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .array import DeviceArray, in_order
from .machine import Flat, Machine
from .pointwise import assign_kernel, blocks, put_rows_kernel, take_rows_kernel


def side_by_side(a: DeviceArray, dtype: np.dtype[Any] | None = None) -> DeviceArray:
    """The array if its numbers stand side by side and have that dtype, else a copy that is so.

    Raises
    ------
    ValueError
        It has more than three axes that can't be seen as one.
    """
    dtype = a.dtype if dtype is None else np.dtype(dtype)
    if a.contiguous and a.dtype == dtype:
        return a
    to = DeviceArray.empty(a.machine, a.shape, dtype)
    if a.size:
        sizes, strides = _axes(a)
        numbers = (sizes[1], sizes[2], *strides)
        a.machine.launch(assign_kernel(a.dtype, dtype), blocks(a.size), (a.flat, *numbers, to.flat))
    return to


def _axes(a: DeviceArray) -> tuple[list[int], list[int]]:
    """Sizes and strides of three axes."""
    sizes, strides = [1], [0]
    for n, s in zip(a.shape, a.strides, strict=True):
        if n == 1:
            continue
        if strides[-1] == n * s and len(sizes) > 1:
            sizes[-1], strides[-1] = sizes[-1] * n, s
        else:
            sizes.append(n)
            strides.append(s)
    sizes, strides = [1, 1, *sizes[1:]], [0, 0, *strides[1:]]
    if len(sizes) > 5:
        raise ValueError(f"an array of so many axes must be contiguous, got strides {a.strides} for shape {a.shape}")
    return sizes[-3:], strides[-3:]


def in_memory_order(a: DeviceArray) -> tuple[DeviceArray, bool]:
    """The array with numbers side by side, and whether the first two axes are exchanged for that.

    Nothing is copied for (B, T, ...) in memory that is seen as (T, B, ...).
    """
    if not a.contiguous and a.ndim > 1 and a.swapaxes(0, 1).contiguous:
        return a.swapaxes(0, 1), True
    return side_by_side(a), False


class Rows:
    """The steps of a batch that count, as rows of a matrix: as ``stateless.Rows``, on a device.

    Where all count, and stand in order, nothing is copied.

    Parameters
    ----------
    x : DeviceArray (..., n)
    inside : ndarray (T, B) of bool, optional
        Which steps count, if not all do.
    """

    def __init__(self, x: DeviceArray, inside: NDArray[Any] | None) -> None:
        self.machine, self.shape = x.machine, x.shape[:-1]
        self.turned = inside is None and not x.contiguous and x.ndim == 3 and x.swapaxes(0, 1).contiguous
        self.chosen = None if inside is None else np.flatnonzero(inside)
        self.count = int(np.prod(self.shape, dtype=np.int64)) if self.chosen is None else len(self.chosen)
        self._offsets: dict[tuple[int, ...], Flat] = {}

    def _at(self, strides: tuple[int, ...]) -> Flat:
        """Where each row begins in an array with such strides."""
        if strides not in self._offsets:
            chosen = np.zeros(0, np.int64) if self.chosen is None else self.chosen
            places = np.unravel_index(chosen, self.shape)
            offsets = sum((p * s for p, s in zip(places, strides, strict=True)), np.zeros(self.count, np.int64))
            self._offsets[strides] = self.machine.put(offsets.astype(np.int64))
        return self._offsets[strides]

    def of(self, a: DeviceArray) -> DeviceArray:
        """(N, n) of (..., n)."""
        n = a.shape[-1]
        if self.chosen is None:
            return side_by_side(a.swapaxes(0, 1) if self.turned else a).reshape(self.count, n)
        to = DeviceArray.empty(self.machine, (self.count, n), a.dtype)
        if to.size:
            index = self._at(a.strides[:-1])
            self.machine.launch(take_rows_kernel(a.dtype), blocks(to.size), (a.flat, index, n, a.strides[-1], to.flat))
        return to

    def back(self, rows: DeviceArray) -> DeviceArray:
        """(..., n) of (N, n): 0 where nothing counts."""
        n = rows.shape[-1]
        if self.chosen is None:
            if self.turned:
                return rows.reshape(*self.shape[::-1], n).swapaxes(0, 1)
            return rows.reshape(*self.shape, n)
        to = DeviceArray.zeros(self.machine, (*self.shape, n), rows.dtype)
        if rows.size:
            index = self._at(in_order(to.shape)[:-1])
            self.machine.launch(put_rows_kernel(rows.dtype), blocks(rows.size), (rows.numbers(), index, n, to.flat))
        return to


def ends_of(machine: Machine, lengths: NDArray[Any] | None) -> Flat:
    """Lengths as kernels read them: an empty array where there are none."""
    return machine.put(np.zeros(0, np.int64) if lengths is None else np.asarray(lengths, np.int64))
