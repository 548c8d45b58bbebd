"""Rows shifted and scaled to mean 0 and variance 1, and the way back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import from_dtype, types
from numpy.typing import NDArray

from .._kernel import cached, compiled, kernel, part

Array = NDArray[Any]


@part(inline=True)
def total(a):
    """Sum of a row.  The processor adds eight numbers at once, if it is told that their order doesn't matter."""
    n = len(a)
    zero = a.dtype.type(0)
    s0, s1, s2, s3, s4, s5, s6, s7 = zero, zero, zero, zero, zero, zero, zero, zero
    for q in range(n // 8):
        k = 8 * q
        s0 += a[k]
        s1 += a[k + 1]
        s2 += a[k + 2]
        s3 += a[k + 3]
        s4 += a[k + 4]
        s5 += a[k + 5]
        s6 += a[k + 6]
        s7 += a[k + 7]
    for k in range(n - n % 8, n):
        s0 += a[k]
    return ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))


@kernel
def _normalise(x, eps, z, scale, squares):
    rows, n = x.shape
    size = x.dtype.type(n)
    for r in range(rows):
        mean = total(x[r]) / size
        for k in range(n):
            z[r, k] = x[r, k] - mean
            squares[k] = z[r, k] * z[r, k]
        scale[r] = x.dtype.type(1) / np.sqrt(total(squares) / size + eps)
        for k in range(n):
            z[r, k] *= scale[r]


@kernel
def _back(dz, z, scale, dx, along):
    rows, n = z.shape
    size = z.dtype.type(n)
    for r in range(rows):
        for k in range(n):
            along[k] = dz[r, k] * z[r, k]
        shift, stretch = total(dz[r]) / size, total(along) / size
        for k in range(n):
            dx[r, k] = (dz[r, k] - shift - z[r, k] * stretch) * scale[r]


@cached
def _compiled(dispatcher: Any, dtype: np.dtype[Any]) -> Callable[..., None]:
    number = from_dtype(dtype)
    given, result = types.Array(number, 2, "C", readonly=True), types.Array(number, 2, "C")
    row = types.Array(number, 1, "C")
    if dispatcher is _normalise:
        return compiled(dispatcher, (given, number, result, row, row))
    return compiled(dispatcher, (given, given, types.Array(number, 1, "C", readonly=True), result, row))


def normalise(x: Array, eps: float) -> tuple[Array, Array]:
    """(z, scale): z = (x - mean) scale with scale (N,) = 1 / sqrt(variance + eps), of each row of x (N, n)."""
    x = np.require(x, requirements=("C", "A"))
    z, scale = np.empty_like(x), np.empty(len(x), x.dtype)
    _compiled(_normalise, x.dtype)(x, x.dtype.type(eps), z, scale, np.empty(x.shape[1], x.dtype))
    return z, scale


def back(dz: Array, z: Array, scale: Array) -> Array:
    """dx (N, n), from what ``normalise`` gave.

    That is dz without what would only shift all z of a row, or stretch them: ``normalise`` would undo that again.
    """
    dz = np.require(dz, requirements=("C", "A"))
    dx = np.empty_like(z)
    _compiled(_back, z.dtype)(dz, z, scale, dx, np.empty(z.shape[1], z.dtype))
    return dx
