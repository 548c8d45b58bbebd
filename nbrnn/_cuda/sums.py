"""Sums and largest numbers of whole arrays, in an order that depends on their size alone.

A warp takes a stretch of numbers and leaves one; that is done again until there is one.  A sum of n numbers is off by
about log n roundings, so that float32 does for a loss.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from . import primitives
from .emit import Scalar
from .kernels import Kernel, arguments_of
from .machine import Flat, Machine

#: Lanes of a warp, threads of a block, numbers that a warp takes.
LANES, THREADS, STRETCH = 32, 128, 512


@functools.cache
def sum_across() -> Any:
    """``sum_across(x)``: the sum over the lanes of a warp, the same bits for each."""

    @primitives.primitive(lambda x: x)
    def sum_across(b, x):
        return _across(x, lambda a, other: a + other)

    return sum_across


@functools.cache
def largest() -> Any:
    """``largest(x, y)``: the larger one, NaN if one is."""
    return primitives.primitive(lambda x, y: x)(lambda b, x, y: _larger(x, y))


@functools.cache
def largest_across() -> Any:
    """``largest_across(x)``: the largest of a warp, for each lane; NaN if there is one."""
    return primitives.primitive(lambda x: x)(lambda b, x: _across(x, _larger))


def _across(x: Scalar, combine: Callable[[Scalar, Scalar], Scalar]) -> Scalar:
    mask = LANES // 2
    while mask:
        x = combine(x, x.from_lane(mask))
        mask //= 2
    return x


def _larger(x: Scalar, y: Scalar) -> Scalar:
    b = x.b
    not_smaller = b.fcmp_unordered(">=", x.x, y.x)  # x is larger, or one is NaN
    y_is_number = b.fcmp_ordered("==", y.x, y.x)
    return y.if_not(b.and_(not_smaller, y_is_number), x)


def reduction(kind: str, dtype: np.dtype[Any]) -> Callable[..., None]:
    """The kernel that makes one number of each stretch of an array.

    "sum": of the numbers; "squares": of (a / unit)^2; "largest": of |a|, NaN if there is one.
    """
    from numba import cuda

    read, write, zero = primitives.read(), primitives.write(), dtype.type(0)
    add_up, larger, largest_of_all = sum_across(), largest(), largest_across()

    def kernel(a, unit, to):
        warp = cuda.blockIdx.x * (THREADS // LANES) + cuda.threadIdx.x // LANES
        if warp < to.shape[0]:
            lane = cuda.threadIdx.x & (LANES - 1)
            result = zero
            for k in range(warp * STRETCH + lane, min(a.shape[0], (warp + 1) * STRETCH), LANES):
                x = read(a, k)
                if kind == "largest":
                    result = larger(result, abs(x))
                elif kind == "squares":
                    x = x / read(unit, 0)
                    result += x * x
                else:
                    result += x
            result = largest_of_all(result) if kind == "largest" else add_up(result)
            if lane == 0:
                write(to, warp, result)

    return kernel


@functools.cache
def reduction_kernel(kind: str, dtype: np.dtype[Any]) -> Kernel:
    """See ``reduction``."""
    made = functools.partial(reduction, kind, dtype)
    return Kernel(("reduction", kind, dtype.name), made, arguments_of("a:in unit:in to:out", dtype), THREADS)


def reduced(machine: Machine, kind: str, a: Flat, unit: Flat | None = None) -> Flat:
    """One number of an array: an array of size 1."""
    unit = a[:0] if unit is None else unit
    while True:
        count = max(1, -(-a.size // STRETCH))
        to = machine.empty(count, a.dtype)
        grid = (-(-count // (THREADS // LANES)),)
        machine.launch(reduction_kernel(kind, a.dtype), grid, (a, unit, to))
        if count == 1:
            return to
        a, kind, unit = to, "sum" if kind == "squares" else kind, to[:0]
