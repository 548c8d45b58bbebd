"""Kernels that see a row of numbers at once, a warp for each: softmax, cross entropy."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from . import primitives
from .kernels import Kernel, arguments_of
from .sums import LANES, THREADS, largest_across, sum_across


def rows_of_warps(rows: int) -> tuple[int, ...]:
    """A grid with a warp for each of so many rows."""
    return (-(-rows // (THREADS // LANES)),)


def softmax(dtype: np.dtype[Any]) -> Callable[..., None]:
    """The kernel for e^x / sum e^x of each row, in place."""
    from numba import cuda

    read, write, lowest = primitives.read(), primitives.write(), dtype.type(-np.inf)
    zero, highest = dtype.type(0), dtype.type(np.inf)
    add_up, largest = sum_across(), largest_across()

    def kernel(x, n, rows):
        row = cuda.blockIdx.x * (THREADS // LANES) + cuda.threadIdx.x // LANES
        if row < rows:
            lane, at = cuda.threadIdx.x & (LANES - 1), row * n
            top = lowest
            for k in range(lane, n, LANES):
                top = max(top, read(x, at + k))
            top = largest(top)
            if not (top > lowest and top < highest):
                top = zero
            total = zero
            for k in range(lane, n, LANES):
                e = math.exp(read(x, at + k) - top)
                write(x, at + k, e)
                total += e
            total = add_up(total)
            for k in range(lane, n, LANES):
                write(x, at + k, read(x, at + k) / total)

    return kernel


@functools.cache
def softmax_kernel(dtype: np.dtype[Any]) -> Kernel:
    """See ``softmax``."""
    made = functools.partial(softmax, dtype)
    return Kernel(("softmax", dtype.name), made, arguments_of("x:inout n:i8 rows:i8", dtype), THREADS)


def softmax_back(dtype: np.dtype[Any]) -> Callable[..., None]:
    """The kernel for dx = y (dy - sum dy y) of each row."""
    from numba import cuda

    read, write, add_up, zero = primitives.read(), primitives.write(), sum_across(), dtype.type(0)

    def kernel(y, dy, n, rows, dx):
        row = cuda.blockIdx.x * (THREADS // LANES) + cuda.threadIdx.x // LANES
        if row < rows:
            lane, at = cuda.threadIdx.x & (LANES - 1), row * n
            along = zero
            for k in range(lane, n, LANES):
                along += read(dy, at + k) * read(y, at + k)
            along = add_up(along)
            for k in range(lane, n, LANES):
                write(dx, at + k, read(y, at + k) * (read(dy, at + k) - along))

    return kernel


@functools.cache
def softmax_back_kernel(dtype: np.dtype[Any]) -> Kernel:
    """See ``softmax_back``."""
    arguments = arguments_of("y:in dy:in n:i8 rows:i8 dx:out", dtype)
    return Kernel(("softmax_back", dtype.name), functools.partial(softmax_back, dtype), arguments, THREADS)


#: In place of a class: of a row that doesn't count, and of one whose target is no class.
NOT_COUNTED, NO_CLASS = -1, -2


def targets(dtype: np.dtype[Any]) -> Callable[..., None]:
    """The kernel for the class of each row, and what it weighs: 0 where it doesn't count, NaN where it is no class.

    Rows are in the order (steps, batch, inner), or (batch, steps, inner) if ``turned``.
    """
    from numba import cuda

    read, write = primitives.read(), primitives.write()
    zero, one, nan = dtype.type(0), dtype.type(1), dtype.type(np.nan)

    def kernel(target, weight, ends, steps, batch, inner, turned, classes, ignored, chosen, weights):
        row = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if row < weights.shape[0]:
            place = row // inner
            t = place % steps if turned else place // batch
            b = place // steps if turned else place % batch
            c, value = read(target, row), zero
            if c == ignored or (ends.shape[0] > 0 and t >= read(ends, b)):
                c = NOT_COUNTED
            elif c < 0 or c >= classes:
                c, value = NO_CLASS, nan
            else:
                value = read(weight, c) if weight.shape[0] > 0 else one
            chosen[row] = c
            write(weights, row, value)

    return kernel


@functools.cache
def targets_kernel(dtype: np.dtype[Any]) -> Kernel:
    """See ``targets``."""
    text = (
        "target:in:i8 weight:in ends:in:i8 steps:i8 batch:i8 inner:i8 turned:b1 classes:i8 ignored:i8 "
        "chosen:out:i8 weights:out"
    )
    return Kernel(("targets", dtype.name), functools.partial(targets, dtype), arguments_of(text, dtype), THREADS)


def cross_entropy(dtype: np.dtype[Any]) -> Callable[..., None]:
    """The kernel for the loss of each row, and dy: see ``_loops.softmax.cross_entropy``, whose names these are.

    ``total`` is the sum of what rows weigh.  Sums over classes are of the dtype.
    """
    from numba import cuda

    read, write = primitives.read(), primitives.write()
    zero, one, nan, lowest = dtype.type(0), dtype.type(1), dtype.type(np.nan), dtype.type(-np.inf)
    add_up, largest = sum_across(), largest_across()

    def kernel(y, chosen, total, weight, own, even, all_even, classes, rows, losses, dy):
        row = cuda.blockIdx.x * (THREADS // LANES) + cuda.threadIdx.x // LANES
        if row < rows:
            lane, at = cuda.threadIdx.x & (LANES - 1), row * classes
            c, W = read(chosen, row), read(total, 0)
            if c < 0 or zero == W:
                nothing = nan if c == NO_CLASS else zero
                for k in range(lane, classes, LANES):
                    write(dy, at + k, nothing)
                if lane == 0:
                    write(losses, row, nothing)
            else:
                top = lowest
                for k in range(lane, classes, LANES):
                    top = max(top, read(y, at + k))
                top = largest(top)
                rest = zero
                for k in range(lane, classes, LANES):
                    e = math.exp(read(y, at + k) - top)
                    write(dy, at + k, e)
                    if k != c:
                        rest += e
                rest = add_up(rest)
                y_c = read(y, at + c)
                e_c = math.exp(y_c - top)
                S = e_c + rest
                log_S = math.log1p(rest) if y_c == top else math.log(S)
                weight_c = read(weight, c) if weight.shape[0] > 0 else one
                g = own * weight_c
                G = g + all_even
                factor = G / (S * W)
                loss = zero
                for k in range(lane, classes, LANES):
                    weight_k = read(weight, k) if weight.shape[0] > 0 else one
                    slope = read(dy, at + k) * factor
                    if even != zero:
                        slope -= even * weight_k / W
                        if weight_k != zero:  # nothing is expected of the others: they may be -inf
                            loss += even * weight_k * (log_S - (read(y, at + k) - top))
                    if k == c:
                        g_c = g + even * weight_c
                        slope = ((G - g_c) * e_c - g_c * rest) / (S * W)
                        if g != zero:
                            loss += g * (log_S - (y_c - top))
                    write(dy, at + k, slope)
                loss = add_up(loss)
                if lane == 0:
                    write(losses, row, loss)

    return kernel


@functools.cache
def cross_entropy_kernel(dtype: np.dtype[Any]) -> Kernel:
    """See ``cross_entropy``; ``own`` is 1 less the smoothing."""
    number = dtype.str
    text = (
        f"y:in chosen:in:i8 total:in weight:in own:{number} even:{number} all_even:{number} classes:i8 rows:i8 "
        "losses:out dy:inout"
    )
    return Kernel(
        ("cross_entropy", dtype.name), functools.partial(cross_entropy, dtype), arguments_of(text, dtype), THREADS
    )
