"""Memory for results and workspaces: aligned, and refused with a clear word before work starts."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

#: A cache line, and the widest vector.
ALIGNMENT = 64

#: So many numbers fit wherever this runs.
SURELY = 2**20


def aligned(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Uninitialised C-contiguous array that starts at a multiple of 64 bytes."""
    dtype = np.dtype(dtype)
    room = np.empty(math.prod(shape) * dtype.itemsize + ALIGNMENT, np.uint8)
    start = -room.__array_interface__["data"][0] % ALIGNMENT  # faster than room.ctypes.data
    return np.ndarray(shape, dtype, room, start)


def aligned_zeros(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """The same, of zeros."""
    array = aligned(shape, dtype)
    array.fill(0)
    return array


def aligned_copy(a: NDArray[Any]) -> NDArray[Any]:
    """The same, with the numbers of another."""
    array = aligned(a.shape, a.dtype)
    array[...] = a
    return array


#: Bytes of a result whose memory is used again, at least and at most; and of all that is kept for that.
SMALL, LARGE, KEPT = 2**17, 2**26, 2**26

#: By size.  (Without a lock: each thing is done with it at once, and an array may be dropped in the midst of anything.)
_spare: dict[int, list[NDArray[np.uint8]]] = {}


class _Loan:
    """What the array of a result rests on, so that its memory comes back when nothing refers to it any more."""

    __slots__ = ("__array_interface__", "_room")

    def __init__(self, room: NDArray[np.uint8], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._room = room
        place: int = room.__array_interface__["data"][0]
        start = place + -place % ALIGNMENT
        self.__array_interface__ = {"shape": shape, "typestr": dtype.str, "data": (start, False), "version": 3}

    def __del__(self, spare: dict[int, list[NDArray[np.uint8]]] = _spare, kept: int = KEPT) -> None:
        spare.setdefault(self._room.size, []).append(self._room)
        while sum(size * len(rooms) for size, rooms in list(spare.items())) > kept:
            spare.pop(next(iter(list(spare)), 0), None)


def fresh(shape: tuple[int, ...], dtype: DTypeLike, zero: bool = False) -> NDArray[Any]:
    """C-contiguous array for a result, in memory that an earlier one had, if there is some; of zeros, or uninitialised.

    The system would clear each page of new memory when it is first touched: in a training step of a middling network
    that took a sixth of the time.
    """
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if not SMALL <= size <= LARGE:
        return (np.zeros if zero else np.empty)(shape, dtype)
    unit = 1 << size.bit_length() - 4  # at most an eighth more than is wanted
    size = -(-size // unit) * unit + ALIGNMENT
    try:
        room = _spare[size].pop()
    except (KeyError, IndexError):
        room = np.empty(size, np.uint8)
    array: NDArray[Any] = np.asarray(_Loan(room, shape, dtype))
    if zero:
        array.fill(0)
    return array


def require(what: Callable[[], str], dtype: DTypeLike, **numbers: int) -> None:
    """Raise MemoryError if so many numbers of a dtype, by the names of what they are for, don't fit in this machine.

    NumPy alone would notice too late: the system promises memory it hasn't, one array at a time.
    """
    count = sum(numbers.values())
    if count < SURELY:
        return
    item = np.dtype(dtype).itemsize
    total, physical = item * count, _physical()
    if total > physical:
        sizes = {name: count * item for name, count in numbers.items()}
        parts = ", ".join(
            f"{name.replace('_', ' ')} {size / 2**30:,.1f} GiB" for name, size in sizes.items() if size > 0.05 * total
        )
        raise MemoryError(
            f"{what()} needs {total / 2**30:,.1f} GiB ({parts}); this machine has {physical / 2**30:,.1f} GiB"
        )


@functools.cache
def _physical() -> float:
    """Bytes of memory in this machine; infinite where the system doesn't say."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return math.inf
