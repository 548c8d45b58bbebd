"""Launches of products and sums: which kernel, on how many blocks, with which arguments; or by cuBLAS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from . import kernels
from .machine import Machine
from .product import SUMMING, TILE, tile_rows

#: Sums of fewer products stay with our kernel, where there is cuBLAS: what takes long there is to read and write, which
#: cuBLAS needs once more for a bias, and for rows that don't stand a stride apart.  By a count on paper.
DEEP = 64
#: So many chunks of a gradient are summed at once by cuBLAS.
CHUNKS = 16


class Matrix(NamedTuple):
    """Rows of numbers: a stride apart, or where ``index`` says; the first of them is row ``first``."""

    data: Any  #: flat
    stride: int = 0
    index: Any = None
    first: int = 0


class Products:
    """Products of matrices on a machine.

    Parameters
    ----------
    machine : Machine
    dtype : dtype
        float32 or float64.
    chunk : int
        Rows that are summed by themselves in gradients of weights; more, if there were more than ``MOST_PARTS`` parts.
    """

    #: Parts of a gradient.
    MOST_PARTS = 64

    def __init__(self, machine: Machine, dtype: np.dtype[Any], chunk: int) -> None:
        self.machine, self.dtype, self.chunk = machine, dtype, chunk
        self.no_index = machine.put(np.zeros(0, np.int64))
        self.none = machine.put(np.zeros(0, dtype))

    def copy(self, array: Any) -> Any:
        """A new array with the same numbers."""
        made = self.machine.empty(array.size, self.dtype)
        self.machine.copy(made, array)
        return made

    def multiply(
        self,
        a: Matrix,
        b: Matrix,
        c: Matrix,
        sizes: tuple[int, int, int],
        trans_a: bool = False,
        trans_b: bool = False,
        second: tuple[Any, int] | None = None,
        bias: Any = None,
        chunk: int | None = None,
        add: bool = False,
    ) -> None:
        """C = A B; sizes are M, N, K (see ``product.product``)."""
        M, N, K = sizes
        if M == 0 or N == 0:
            return
        if chunk is None and self._by_cublas(K):
            self._gemm(a, b, c, sizes, trans_a, trans_b, second, bias, add)
            return
        rows = tile_rows(M)
        kernel = kernels.product_kernel(self.dtype, trans_a, trans_b, rows)
        grid = (-(-M // rows), -(-N // TILE), 1 if chunk is None else self._parts(K, chunk))
        data = (
            a.data, self._index(a), a.stride, a.first, b.data, self._index(b), b.stride, *(second or (self.none, 0)),
            self.none if bias is None else bias, c.data, self._index(c), c.stride, c.first,
            M, N, K, max(K, 1) if chunk is None else chunk, M * N, add,
        )  # fmt: skip
        self.machine.launch(kernel, grid, data)

    def _index(self, matrix: Matrix) -> Any:
        return self.no_index if matrix.index is None else matrix.index

    def _by_cublas(self, K: int) -> bool:
        return self.machine.has_gemm and K >= DEEP

    def _gemm(
        self,
        a: Matrix,
        b: Matrix,
        c: Matrix,
        sizes: tuple[int, int, int],
        trans_a: bool,
        trans_b: bool,
        second: tuple[Any, int] | None,
        bias: Any,
        add: bool,
    ) -> None:
        """``multiply`` by cuBLAS, which knows no index: rows come side by side before, and to their places after."""
        M, N, K = sizes
        a = self._side_by_side(a, (K, M) if trans_a else (M, K), second)
        b = self._side_by_side(b, (N, K) if trans_b else (K, N), second)
        aside = c.index is not None
        into = Matrix(self.machine.empty(M * N, self.dtype), N) if aside else _from_first(c, (M, N))
        adds = add and not aside
        if bias is not None:
            self._move(Matrix(bias), into, (M, N), add=adds)
            adds = True
        # In gradients K is the number of rows, which may be millions: part after part, so that digits aren't lost.
        part = max(CHUNKS * self.chunk, -(-K // self.MOST_PARTS)) if trans_a else K
        strides = a.stride, b.stride, into.stride
        for k in range(0, K, part):
            from_a = a.data[k * (a.stride if trans_a else 1) :]
            from_b = b.data[k * (1 if trans_b else b.stride) :]
            now = M, N, min(part, K - k)
            self.machine.gemm(from_a, from_b, into.data, now, strides, trans_a, trans_b, adds or k > 0)
        if aside:
            self._move(into, c, (M, N), add=add)

    def _side_by_side(self, a: Matrix, shape: tuple[int, int], second: tuple[Any, int] | None) -> Matrix:
        """A (rows, columns) with rows a stride apart that don't overlap, from the first one on: itself, or a copy."""
        rows, columns = shape
        if a.index is None and (a.stride >= columns or rows == 1):
            return _from_first(a, shape)
        copy = Matrix(self.machine.empty(rows * columns, self.dtype), columns)
        self._move(a, copy, shape, second)
        return copy

    def _move(
        self,
        a: Matrix,
        c: Matrix,
        shape: tuple[int, int],
        second: tuple[Any, int] | None = None,
        add: bool = False,
    ) -> None:
        """C = A (rows, columns), or C + A."""
        rows, columns = shape
        data = (
            a.data, self._index(a), a.stride, a.first, *(second or (self.none, 0)),
            c.data, self._index(c), c.stride, c.first, columns, add,
        )  # fmt: skip
        self.machine.launch(kernels.move_rows_kernel(self.dtype), (rows, -(-columns // SUMMING)), data)

    def gradient(
        self,
        sums: Matrix,
        given: Matrix,
        rows: int,
        into: Matrix,
        sizes: tuple[int, int],
        second: tuple[Any, int] | None = None,
        add: bool = False,
    ) -> None:
        """C = A^T B, or C + A^T B: sums over rows of ``sums`` (rows, M) times ``given`` (rows, N); C has an index."""
        (M, N), chunk = sizes, self._chunk(rows)
        parts = self._parts(rows, chunk)
        if parts == 1 or self._by_cublas(rows):
            self.multiply(sums, given, into, (M, N, rows), trans_a=True, second=second, add=add)
            return
        total = self.machine.empty(parts * M * N, self.dtype)
        self.multiply(sums, given, Matrix(total, N), (M, N, rows), trans_a=True, second=second, chunk=chunk)
        self._sum_parts(Matrix(total, M * N), parts, into, sizes, add)

    def sum_rows(self, a: Matrix, rows: int, columns: int, into: Sequence[tuple[int, int, Matrix]], add: bool) -> None:
        """C = sum of A (rows, columns) over rows, or C + that: for each (begin, end, C), of those columns."""
        chunk = self._chunk(rows)
        parts = self._parts(rows, chunk)
        total = self.machine.empty(parts * columns, self.dtype)
        grid = (-(-columns // SUMMING), parts)
        kernel = kernels.sum_rows_kernel(self.dtype)
        self.machine.launch(kernel, grid, (a.data, a.stride, rows, columns, chunk, total))
        for begin, end, c in into:
            self._sum_parts(Matrix(total[begin:], columns), parts, c, (end - begin, 1), add)

    def _sum_parts(self, parts: Matrix, count: int, into: Matrix, sizes: tuple[int, int], add: bool) -> None:
        """C = sum of parts (M, N), or C + that; C has an index."""
        M, N = sizes
        kernel = kernels.sum_parts_kernel(self.dtype)
        data = (parts.data, parts.stride, count, M, N, into.data, into.index, add)
        self.machine.launch(kernel, (-(-M * N // SUMMING),), data)

    def _chunk(self, rows: int) -> int:
        """Rows in a part: follows from the number of rows alone, so that bits do."""
        return max(self.chunk, -(-rows // self.MOST_PARTS))

    def _parts(self, rows: int, chunk: int) -> int:
        return max(1, -(-rows // chunk))


def _from_first(a: Matrix, shape: tuple[int, int]) -> Matrix:
    """A (rows, columns), which has no index, from its first row on; of a single row, the stride is no matter."""
    rows, columns = shape
    return Matrix(a.data[a.first * a.stride :], max(a.stride, columns) if rows == 1 else a.stride)
