"""What the parts of a network without state compute, on rows (N, n) on a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .array import DeviceArray
from .machine import Flat
from .pointwise import blocks, mapped_kernel
from .products import Matrix, Products
from .softmax import rows_of_warps, softmax_back_kernel, softmax_kernel

#: Rows that are summed by themselves in gradients.
CHUNK = 256


def _products(a: DeviceArray) -> Products:
    return Products(a.machine, a.dtype, CHUNK)


def product(x: DeviceArray, weight: DeviceArray, bias: DeviceArray | None) -> DeviceArray:
    """x W^T + b."""
    (rows, n), m = x.shape, weight.shape[0]
    y = DeviceArray.empty(x.machine, (rows, m), x.dtype)
    _products(x).multiply(
        Matrix(x.numbers(), n), Matrix(weight.numbers(), n), Matrix(y.flat, m), (rows, m, n), trans_b=True,
        bias=None if bias is None else bias.numbers(),
    )  # fmt: skip
    return y


def product_back(dy: DeviceArray, weight: DeviceArray) -> DeviceArray:
    """dy W."""
    (rows, m), n = dy.shape, weight.shape[1]
    dx = DeviceArray.empty(dy.machine, (rows, n), dy.dtype)
    _products(dy).multiply(Matrix(dy.numbers(), m), Matrix(weight.numbers(), n), Matrix(dx.flat, n), (rows, n, m))
    return dx


def product_of_columns(dy: DeviceArray, x: DeviceArray, to: DeviceArray) -> None:
    """dy^T x."""
    (rows, m), n = dy.shape, x.shape[1]
    into = Matrix(to.numbers(), index=dy.machine.put(np.arange(m) * n))
    _products(dy).gradient(Matrix(dy.numbers(), m), Matrix(x.numbers(), n), rows, into, (m, n))


def sum_of_rows(a: DeviceArray, to: DeviceArray) -> None:
    """Sum over the rows, in a fixed order."""
    rows, n = a.shape
    into = Matrix(to.numbers(), index=a.machine.put(np.arange(n)))
    _products(a).sum_rows(Matrix(a.numbers(), n), rows, n, [(0, n, into)], False)


def mapped(formula: Callable[..., Any], a: DeviceArray, b: DeviceArray | None = None) -> DeviceArray:
    """``formula`` of each number of a, or of a and b."""
    to = DeviceArray.empty(a.machine, a.shape, a.dtype)
    if a.size:
        second: Flat = a.flat[:0] if b is None else b.numbers()
        kernel = mapped_kernel(formula, b is not None, a.dtype)
        a.machine.launch(kernel, blocks(a.size), (a.numbers(), second, to.flat))
    return to


def softmax(x: DeviceArray) -> None:
    """e^x / sum e^x of each row, in place."""
    rows, n = x.shape
    if x.size:
        x.machine.launch(softmax_kernel(x.dtype), rows_of_warps(rows), (x.numbers(), n, rows))


def softmax_back(y: DeviceArray, dy: DeviceArray) -> DeviceArray:
    """y (dy - sum dy y) of each row."""
    (rows, n), dx = y.shape, DeviceArray.empty(y.machine, y.shape, y.dtype)
    if y.size:
        kernel = softmax_back_kernel(y.dtype)
        y.machine.launch(kernel, rows_of_warps(rows), (y.numbers(), dy.numbers(), n, rows, dx.flat))
    return dx
