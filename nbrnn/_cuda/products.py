"""Launches of products and sums: which kernel, on how many blocks, with which arguments."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import kernels
from .machine import Machine
from .product import SUMMING, TILE


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
        kernel = kernels.product_kernel(self.dtype, trans_a, trans_b)
        grid = (-(-M // TILE), -(-N // TILE), 1 if chunk is None else self._parts(K, chunk))
        data = (
            a.data, self._index(a), a.stride, a.first, b.data, self._index(b), b.stride, *(second or (self.none, 0)),
            self.none if bias is None else bias, c.data, self._index(c), c.stride, c.first,
            M, N, K, max(K, 1) if chunk is None else chunk, M * N, add,
        )  # fmt: skip
        self.machine.launch(kernel, grid, data)

    def _index(self, matrix: Matrix) -> Any:
        return self.no_index if matrix.index is None else matrix.index

    def gradient(
        self, sums: Matrix, given: Matrix, rows: int, order: NDArray[Any], n: int, second: tuple[Any, int] | None = None
    ) -> Any:
        """Sums over rows of ``sums`` (rows, len(order)) times ``given`` (rows, n), in a new array.

        Row m stands where ``order[m]`` says.
        """
        chunk, m = self._chunk(rows), len(order)
        parts = self._parts(rows, chunk)
        total = self.machine.empty(parts * m * n, self.dtype)
        self.multiply(sums, given, Matrix(total, n), (m, n, rows), trans_a=True, second=second, chunk=chunk)
        return self._sum_parts(total, m * n, parts, order, n)

    def sum_rows(self, a: Matrix, rows: int, wanted: tuple[NDArray[Any], NDArray[Any]], columns: int) -> list[Any]:
        """Sums over rows of A (rows, columns): of the first columns, and of the last, each in an order."""
        chunk = self._chunk(rows)
        parts = self._parts(rows, chunk)
        total = self.machine.empty(parts * columns, self.dtype)
        grid = (-(-columns // SUMMING), parts)
        kernel = kernels.sum_rows_kernel(self.dtype)
        self.machine.launch(kernel, grid, (a.data, a.stride, rows, columns, chunk, total))
        first, last = wanted
        return [
            self._sum_parts(total, columns, parts, first, 1),
            self._sum_parts(total[columns - len(last) :], columns, parts, last, 1),
        ]

    def _sum_parts(self, parts: Any, stride: int, count: int, rows: NDArray[Any], N: int) -> Any:
        """Parts added up, in a new array, with rows where ``rows`` says."""
        out = self.machine.empty(len(rows) * N, self.dtype)
        grid = (-(-len(rows) * N // SUMMING),)
        index = self.machine.put(rows.astype(np.int64) * N)
        kernel = kernels.sum_parts_kernel(self.dtype)
        self.machine.launch(kernel, grid, (parts, stride, count, len(rows), N, out, index))
        return out

    def _chunk(self, rows: int) -> int:
        """Rows in a part: follows from the number of rows alone, so that bits do."""
        return max(self.chunk, -(-rows // self.MOST_PARTS))

    def _parts(self, rows: int, chunk: int) -> int:
        return max(1, -(-rows // chunk))
