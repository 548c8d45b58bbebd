"""Products of matrices of any size, and sums over rows: inputs' sums, and gradients of inputs and weights.

A block computes a tile of 64 by 64 numbers, a thread 4 by 4 of them, sixteen apart, so that neighbours read neighbours;
where there are few rows, a tile of 16 by 64.  Either way, a number is summed by one thread in the order of k.
What is summed over is cut into parts of a fixed size where it is long (the rows of a gradient): each part is summed by
a block of its own, and ``sum_parts`` adds them up in order.  Nothing is added atomically, so that each run gives the
same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import primitives

#: Columns of a tile, and rows unless they are few; depth of what is in shared memory at a time; threads, and columns
#: of threads.
TILE, DEPTH, THREADS, ACROSS = 64, 16, 256, 16
#: Threads of the kernels that sum.
SUMMING = 128


def tile_rows(M: int) -> int:
    """Rows of a tile where there are so many in all."""
    return ACROSS if M <= ACROSS else TILE


def product(dtype: np.dtype[Any], trans_a: bool, trans_b: bool, rows: int = TILE) -> Callable[..., None]:
    """The kernel for C = A B + bias.

    A is (M, K), or (K, M) if ``trans_a``; B is (K, N), or (N, K) if ``trans_b``.  Rows of A, B and C begin a stride
    apart, or where an index says (if it isn't empty); those of A and C are counted from a first one.  An index of A or
    B may also name a row of zeros, or of a second array (``schedule.ZEROS``, ``SECOND``); where one of C is less than
    0, nothing is written.  ``bias`` (N,) may be empty.  With ``add``, C is added to.  Part z of K, of ``chunk``
    numbers, goes to the C that is ``z * part`` numbers further.  ``rows`` are those of a tile.
    """
    from numba import cuda

    number, zero, each = primitives.numba_dtype(dtype), dtype.type(0), rows // ACROSS
    # One number more from row to row in shared memory, so that columns fall into different banks.
    left_row, right_row = rows + 1, TILE + 1
    left_size, right_size = DEPTH * left_row, DEPTH * right_row
    read, write, pick, read_row = primitives.read(), primitives.write(), primitives.pick(), primitives.read_row()
    nothing = primitives.zeros(4 * each, dtype)
    multiply = primitives.multiply_tile(DEPTH, left_row, right_row, ACROSS, each)

    def kernel(
        a, a_index, a_stride, a_first, b, b_index, b_stride, second, second_stride,
        bias, c, c_index, c_stride, c_first, M, N, K, chunk, part, add,
    ):  # fmt: skip
        left, right = cuda.shared.array(left_size, number), cuda.shared.array(right_size, number)
        thread = cuda.threadIdx.x
        x, y = thread & (ACROSS - 1), thread // ACROSS
        m0, n0 = cuda.blockIdx.x * rows, cuda.blockIdx.y * TILE
        begin = cuda.blockIdx.z * chunk
        end = min(K, begin + chunk)
        sums = nothing()
        for k0 in range(begin, end, DEPTH):
            # Neighbouring threads read neighbouring numbers of a row.
            for e in range(thread, rows * DEPTH, THREADS):
                if trans_a:
                    m, k = e & (rows - 1), e // rows
                    row, column = k0 + k, m0 + m
                else:
                    m, k = e // DEPTH, e & (DEPTH - 1)
                    row, column = m0 + m, k0 + k
                value = zero
                if m0 + m < M and k0 + k < end:
                    row += a_first
                    at = read(a_index, row) if a_index.shape[0] > 0 else row * a_stride
                    value = read_row(a, at, second, second_stride, column)
                write(left, k * left_row + m, value)
            for e in range(thread, TILE * DEPTH, THREADS):
                if trans_b:
                    n, k = e // DEPTH, e & (DEPTH - 1)
                    row, column = n0 + n, k0 + k
                else:
                    n, k = e & (TILE - 1), e // TILE
                    row, column = k0 + k, n0 + n
                value = zero
                if n0 + n < N and k0 + k < end:
                    at = read(b_index, row) if b_index.shape[0] > 0 else row * b_stride
                    value = read_row(b, at, second, second_stride, column)
                write(right, k * right_row + n, value)
            cuda.syncthreads()
            sums = multiply(sums, left, y, right, x)
            cuda.syncthreads()
        for i in range(each):
            m = m0 + y + ACROSS * i
            if m < M:
                m += c_first
                at = read(c_index, m) if c_index.shape[0] > 0 else m * c_stride
                written = at >= 0
                at += cuda.blockIdx.z * part
                for j in range(4):
                    n = n0 + x + ACROSS * j
                    if n < N and written:
                        value = pick(sums, 4 * i + j)
                        if bias.shape[0] > 0:
                            value += read(bias, n)
                        if add:
                            value += read(c, at + n)
                        write(c, at + n, value)

    return kernel


def move_rows(dtype: np.dtype[Any]) -> Callable[..., None]:
    """The kernel for ``C[m] = A[m]``, N numbers each, or C + that with ``add``: before and after products by cuBLAS.

    Where rows of A and C begin is told as in ``product``; a block has one row.
    """
    from numba import cuda

    read, write, read_row = primitives.read(), primitives.write(), primitives.read_row()

    def kernel(a, a_index, a_stride, a_first, second, second_stride, c, c_index, c_stride, c_first, N, add):
        m, n = cuda.blockIdx.x, cuda.blockIdx.y * SUMMING + cuda.threadIdx.x
        if n < N:
            row = a_first + m
            at = read(a_index, row) if a_index.shape[0] > 0 else row * a_stride
            value = read_row(a, at, second, second_stride, n)
            row = c_first + m
            to = read(c_index, row) if c_index.shape[0] > 0 else row * c_stride
            if to >= 0:
                if add:
                    value += read(c, to + n)
                write(c, to + n, value)

    return kernel


def sum_rows(dtype: np.dtype[Any]) -> Callable[..., None]:
    """The kernel for sums over rows of A (rows, columns), a stride apart: ``sums[z, n]`` is that of part z."""
    from numba import cuda

    read, write, zero = primitives.read(), primitives.write(), dtype.type(0)

    def kernel(a, stride, rows, columns, chunk, sums):
        n = cuda.blockIdx.x * SUMMING + cuda.threadIdx.x
        if n < columns:
            total = zero
            for r in range(cuda.blockIdx.y * chunk, min(rows, (cuda.blockIdx.y + 1) * chunk)):
                total += read(a, r * stride + n)
            write(sums, cuda.blockIdx.y * columns + n, total)

    return kernel


def sum_parts(dtype: np.dtype[Any]) -> Callable[..., None]:
    """The kernel that adds up parts: C[m, n] = sum over z < count of ``parts[z * stride + m * N + n]``.

    Row m of C begins at ``index[m]``.  With ``add``, C is added to.
    """
    from numba import cuda

    read, write, zero = primitives.read(), primitives.write(), dtype.type(0)

    def kernel(parts, stride, count, M, N, c, index, add):
        e = cuda.blockIdx.x * SUMMING + cuda.threadIdx.x
        if e < M * N:
            total = zero
            for z in range(count):
                total += read(parts, z * stride + e)
            m = e // N
            at = read(index, m) + e - m * N
            if add:
                total += read(c, at)
            write(c, at, total)

    return kernel
