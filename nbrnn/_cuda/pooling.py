"""Kernels for one vector of a whole sequence: a thread for each of its numbers."""

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
from .sums import THREADS


def pool(mode: str, dtype: np.dtype[Any]) -> Callable[..., None]:
    """The kernel for y (B, n) of x: its last step, or the mean or largest of all its steps, and that step's number."""
    from numba import cuda

    read, write = primitives.read(), primitives.write()
    zero, number = dtype.type(0), primitives.numba_dtype(dtype)

    def kernel(x, ends, n, time, batch, inner, y, at):
        e = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if e < y.shape[0]:
            b = e // n
            first, steps, value, found = b * batch + (e - b * n) * inner, read(ends, b), zero, 0
            if mode == "last":
                if steps > 0:
                    found = steps - 1
                    value = read(x, first + found * time)
            else:
                for t in range(steps):
                    new = read(x, first + t * time)
                    if mode == "mean":
                        value += new
                    elif t == 0 or new > value or (new != new and value == value):
                        value, found = new, t
                if mode == "mean" and steps > 0:
                    value /= number(steps)
            write(y, e, value)
            at[e] = found

    return kernel


@functools.cache
def pool_kernel(mode: str, dtype: np.dtype[Any]) -> Kernel:
    """See ``pool``."""
    arguments = arguments_of("x:in ends:in:i8 n:i8 time:i8 batch:i8 inner:i8 y:out at:out:i8", dtype)
    return Kernel(("pool", mode, dtype.name), functools.partial(pool, mode, dtype), arguments, THREADS)


def pool_back(mean: bool, dtype: np.dtype[Any]) -> Callable[..., None]:
    """The kernel for dx (T, B, n): dy where the step was taken, or for a mean its share of dy."""
    from numba import cuda

    read, write = primitives.read(), primitives.write()
    zero, number = dtype.type(0), primitives.numba_dtype(dtype)

    def kernel(dy, ends, at, n, dx):
        e = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if e < dx.shape[0]:
            t = e // dy.shape[0]
            place = e - t * dy.shape[0]
            steps, value = read(ends, place // n), zero
            if mean and t < steps:
                value = read(dy, place) / number(steps)
            elif not mean and t < steps and t == read(at, place):
                value = read(dy, place)
            write(dx, e, value)

    return kernel


@functools.cache
def pool_back_kernel(mean: bool, dtype: np.dtype[Any]) -> Kernel:
    """See ``pool_back``."""
    arguments = arguments_of("dy:in ends:in:i8 at:in:i8 n:i8 dx:out", dtype)
    return Kernel(("pool_back", str(mean), dtype.name), functools.partial(pool_back, mean, dtype), arguments, THREADS)


def pooled(mode: str, x: DeviceArray, ends: Flat) -> tuple[DeviceArray, Flat]:
    """y (B, n), and the step that was taken for each number."""
    (_, size, n), machine = x.shape, x.machine
    y = DeviceArray.empty(machine, (size, n), x.dtype)
    at = machine.empty(y.size, np.dtype(np.int64))
    if y.size:
        machine.launch(pool_kernel(mode, x.dtype), blocks(y.size), (x.flat, ends, n, *x.strides, y.flat, at))
    return y, at


def pooled_back(mode: str, steps: int, dy: DeviceArray, ends: Flat, at: Flat) -> DeviceArray:
    """dx (T, B, n)."""
    dx = DeviceArray.empty(dy.machine, (steps, *dy.shape), dy.dtype)
    if dx.size:
        kernel = pool_back_kernel(mode == "mean", dy.dtype)
        dy.machine.launch(kernel, blocks(dx.size), (dy.numbers(), ends, at, dy.shape[1], dx.flat))
    return dx
