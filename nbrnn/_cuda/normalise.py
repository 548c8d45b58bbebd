"""Kernels for rows of mean 0 and variance 1, and the way back, a warp for each row; see ``_loops.layer_norm``."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from . import primitives
from .array import DeviceArray
from .kernels import Kernel, arguments_of
from .pointwise import blocks
from .softmax import rows_of_warps
from .sums import LANES, THREADS, sum_across


def normalise(dtype: np.dtype[Any]) -> Callable[..., None]:
    """The kernel for z = (x - mean) scale, with scale = 1 / sqrt(variance + eps)."""
    from numba import cuda

    read, write, add_up = primitives.read(), primitives.write(), sum_across()
    zero, one, number = dtype.type(0), dtype.type(1), primitives.numba_dtype(dtype)

    def kernel(x, n, rows, eps, z, scale):
        row = cuda.blockIdx.x * (THREADS // LANES) + cuda.threadIdx.x // LANES
        if row < rows:
            lane, at, size = cuda.threadIdx.x & (LANES - 1), row * n, number(n)
            total = zero
            for k in range(lane, n, LANES):
                total += read(x, at + k)
            mean = add_up(total) / size
            squares = zero
            for k in range(lane, n, LANES):
                d = read(x, at + k) - mean
                squares += d * d
            s = one / math.sqrt(add_up(squares) / size + eps)
            for k in range(lane, n, LANES):
                write(z, at + k, (read(x, at + k) - mean) * s)
            if lane == 0:
                write(scale, row, s)

    return kernel


@functools.cache
def normalise_kernel(dtype: np.dtype[Any]) -> Kernel:
    """See ``normalise``."""
    arguments = arguments_of(f"x:in n:i8 rows:i8 eps:{dtype.str} z:out scale:out", dtype)
    return Kernel(("normalise", dtype.name), functools.partial(normalise, dtype), arguments, THREADS)


def normalise_back(dtype: np.dtype[Any]) -> Callable[..., None]:
    """The kernel for dx = (dz - mean dz - z mean(dz z)) scale."""
    from numba import cuda

    read, write, add_up = primitives.read(), primitives.write(), sum_across()
    zero, number = dtype.type(0), primitives.numba_dtype(dtype)

    def kernel(dz, z, scale, n, rows, dx):
        row = cuda.blockIdx.x * (THREADS // LANES) + cuda.threadIdx.x // LANES
        if row < rows:
            lane, at, size = cuda.threadIdx.x & (LANES - 1), row * n, number(n)
            shift = stretch = zero
            for k in range(lane, n, LANES):
                g = read(dz, at + k)
                shift += g
                stretch += g * read(z, at + k)
            shift, stretch, s = add_up(shift) / size, add_up(stretch) / size, read(scale, row)
            for k in range(lane, n, LANES):
                write(dx, at + k, (read(dz, at + k) - shift - read(z, at + k) * stretch) * s)

    return kernel


@functools.cache
def normalise_back_kernel(dtype: np.dtype[Any]) -> Kernel:
    """See ``normalise_back``."""
    arguments = arguments_of("dz:in z:in scale:in n:i8 rows:i8 dx:out", dtype)
    return Kernel(("normalise_back", dtype.name), functools.partial(normalise_back, dtype), arguments, THREADS)


def stretch(dtype: np.dtype[Any]) -> Callable[..., None]:
    """The kernel for a[r, k] * factor[k] + shift[k]; without shift where that is empty."""
    from numba import cuda

    read, write = primitives.read(), primitives.write()

    def kernel(a, factor, shift, n, to):
        e = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if e < to.shape[0]:
            k = e % n
            value = read(a, e) * read(factor, k)
            if shift.shape[0] > 0:
                value += read(shift, k)
            write(to, e, value)

    return kernel


@functools.cache
def stretch_kernel(dtype: np.dtype[Any]) -> Kernel:
    """See ``stretch``."""
    arguments = arguments_of("a:in factor:in shift:in n:i8 to:out", dtype)
    return Kernel(("stretch", dtype.name), functools.partial(stretch, dtype), arguments, THREADS)


def normalised(x: DeviceArray, eps: float) -> tuple[DeviceArray, DeviceArray]:
    """(z, scale) of rows x (N, n)."""
    (rows, n), machine, dtype = x.shape, x.machine, x.dtype
    z, scale = DeviceArray.empty(machine, x.shape, dtype), DeviceArray.empty(machine, (rows,), dtype)
    if rows:
        arguments = (x.numbers(), n, rows, dtype.type(eps), z.flat, scale.flat)
        machine.launch(normalise_kernel(dtype), rows_of_warps(rows), arguments)
    return z, scale


def normalised_back(dz: DeviceArray, z: DeviceArray, scale: DeviceArray) -> DeviceArray:
    """dx (N, n), from what ``normalised`` gave."""
    (rows, n), machine, dtype = z.shape, z.machine, z.dtype
    dx = DeviceArray.empty(machine, z.shape, dtype)
    if rows:
        arguments = (dz.numbers(), z.numbers(), scale.numbers(), n, rows, dx.flat)
        machine.launch(normalise_back_kernel(dtype), rows_of_warps(rows), arguments)
    return dx


def stretched(a: DeviceArray, factor: DeviceArray, shift: DeviceArray | None = None) -> DeviceArray:
    """a (N, n) times a factor (n,), plus a shift (n,)."""
    to = DeviceArray.empty(a.machine, a.shape, a.dtype)
    if a.size:
        moved = a.flat[:0] if shift is None else shift.numbers()
        arguments = (a.numbers(), factor.numbers(), moved, a.shape[1], to.flat)
        a.machine.launch(stretch_kernel(a.dtype), blocks(a.size), arguments)
    return to
