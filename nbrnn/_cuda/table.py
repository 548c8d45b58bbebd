"""Kernels for rows of a table that are looked up by their numbers, and the way back."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from . import primitives
from .array import DeviceArray
from .kernels import Kernel, arguments_of
from .machine import Flat
from .pointwise import blocks
from .softmax import rows_of_warps
from .sums import LANES, THREADS

#: In place of a row: of one that doesn't count.
NOT_COUNTED = -1


def look_up(dtype: np.dtype[Any]) -> Callable[..., None]:
    """The kernel for ``y[r] = table[index[r]]``: NaN where there is no such row, 0 past the ends.

    ``chosen`` are the rows, ``NOT_COUNTED`` where there is none.
    """
    from numba import cuda

    read, write = primitives.read(), primitives.write()
    zero, nan = dtype.type(0), dtype.type(np.nan)

    def kernel(table, index, ends, batch, rows, n, y, chosen):
        e = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if e < y.shape[0]:
            r = e // n
            i, value = read(index, r), nan
            if ends.shape[0] > 0 and r // batch >= read(ends, r % batch):
                i, value = NOT_COUNTED, zero
            elif i >= 0 and i < rows:
                value = read(table, i * n + e - r * n)
            else:
                i = NOT_COUNTED
            write(y, e, value)
            if e == r * n:
                chosen[r] = i

    return kernel


@functools.cache
def look_up_kernel(dtype: np.dtype[Any]) -> Kernel:
    """See ``look_up``."""
    arguments = arguments_of("table:in index:in:i8 ends:in:i8 batch:i8 rows:i8 n:i8 y:out chosen:out:i8", dtype)
    return Kernel(("look_up", dtype.name), functools.partial(look_up, dtype), arguments, THREADS)


def add_rows(dtype: np.dtype[Any]) -> Callable[..., None]:
    """The kernel for ``to[chosen[r]] += dy[r]``, one after another as they stand, so that bits don't vary.

    Each r has a warp, that of the first r of its row adds up all: a row is written by one warp alone.  To find
    one another they read all of ``chosen``: that is N^2 / 32 reads of a warp, whatever the size of the table.
    """
    from numba import cuda

    read, write = primitives.read(), primitives.write()

    def kernel(chosen, dy, n, left_out, to):
        r = cuda.blockIdx.x * (THREADS // LANES) + cuda.threadIdx.x // LANES
        if r < chosen.shape[0]:
            lane, row = cuda.threadIdx.x & (LANES - 1), read(chosen, r)
            first = row >= 0 and row != left_out
            begin = 0
            while first and begin < r:
                q = begin + lane
                first = cuda.ballot_sync(0xFFFFFFFF, q < r and read(chosen, min(q, r)) == row) == 0
                begin += LANES
            if first:
                for begin in range(r, chosen.shape[0], LANES):
                    q = begin + lane
                    same = cuda.ballot_sync(
                        0xFFFFFFFF, q < chosen.shape[0] and read(chosen, min(q, chosen.shape[0] - 1)) == row
                    )
                    for other in range(LANES):
                        if (same >> other) & 1:
                            for k in range(lane, n, LANES):
                                write(to, row * n + k, read(to, row * n + k) + read(dy, (begin + other) * n + k))

    return kernel


@functools.cache
def add_rows_kernel(dtype: np.dtype[Any]) -> Kernel:
    """See ``add_rows``; the row ``left_out`` isn't added to."""
    arguments = arguments_of("chosen:in:i8 dy:in n:i8 left_out:i8 to:inout", dtype)
    return Kernel(("add_rows", dtype.name), functools.partial(add_rows, dtype), arguments, THREADS)


def looked_up(table: DeviceArray, index: DeviceArray, ends: Flat) -> tuple[DeviceArray, Flat]:
    """y (..., n) of an index (...), of int64 and contiguous; and the rows."""
    machine, n = table.machine, table.shape[1]
    y = DeviceArray.empty(machine, (*index.shape, n), table.dtype)
    chosen = machine.empty(index.size, np.dtype(np.int64))
    if index.size:
        batch = index.shape[1] if index.ndim > 1 else 1
        arguments = (table.numbers(), index.numbers(), ends, batch, table.shape[0], n, y.flat, chosen)
        machine.launch(look_up_kernel(table.dtype), blocks(y.size), arguments)
    return y, chosen


def add_to_rows(chosen: Flat, dy: DeviceArray, left_out: int | None, to: DeviceArray) -> None:
    """The gradient of a table (rows, n), from dy (..., n), contiguous."""
    to.machine.zero(to.numbers())
    if dy.size:
        arguments = (chosen, dy.numbers(), to.shape[1], -1 if left_out is None else left_out, to.numbers())
        to.machine.launch(add_rows_kernel(to.dtype), rows_of_warps(chosen.size), arguments)
