"""Kernels of losses number by number: the terms of the mean, and the gradient; see ``_loops.elementwise``.

Those formulas, with the same names; but a term is of the dtype here: the mean is a sum of the terms in a tree.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from . import primitives
from .kernels import Kernel, arguments_of
from .sums import THREADS

SQUARE, ABSOLUTE, HUBER = 0, 1, 2


def distance(kind: int, dtype: np.dtype[Any]) -> Callable[..., None]:
    """The kernel for the terms of a function of d = y - target, and their derivatives, 0 past the ends.

    Numbers are in the order (steps, batch, inner), or (batch, steps, inner) if ``turned``.
    """
    from numba import cuda

    read, write, zero, half = primitives.read(), primitives.write(), dtype.type(0), dtype.type(0.5)

    def kernel(y, target, ends, steps, batch, inner, turned, delta, share, scale, terms, dy):
        e = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if e < dy.shape[0]:
            term = slope = zero
            place = e // inner
            t = place % steps if turned else place // batch
            b = place // steps if turned else place % batch
            if ends.shape[0] == 0 or t < read(ends, b):
                d = read(y, e) - read(target, e)
                size = abs(d)
                if kind == SQUARE:
                    term, slope = d * d, d
                elif kind == HUBER and size <= delta:
                    term, slope = half * d * d, d
                else:
                    term = size if kind == ABSOLUTE else delta * (size - half * delta)
                    slope = delta if d > zero else (-delta if d < zero else d)  # d: 0 or NaN
            write(terms, e, term * share)
            write(dy, e, slope * scale)

    return kernel


@functools.cache
def distance_kernel(kind: int, dtype: np.dtype[Any]) -> Kernel:
    """See ``distance``; terms come times ``share``, derivatives times ``scale``."""
    number = dtype.str
    text = (
        f"y:in target:in ends:in:i8 steps:i8 batch:i8 inner:i8 turned:b1 delta:{number} share:{number} scale:{number} "
        "terms:out dy:out"
    )
    key = ("distance", str(kind), dtype.name)
    return Kernel(key, functools.partial(distance, kind, dtype), arguments_of(text, dtype), THREADS)


def binary(dtype: np.dtype[Any]) -> Callable[..., None]:
    """The kernel for the binary cross entropy of logits; NaN where a target that counts isn't in 0..1."""
    from numba import cuda

    read, write = primitives.read(), primitives.write()
    zero, one, nan = dtype.type(0), dtype.type(1), dtype.type(np.nan)

    def kernel(y, target, ends, steps, batch, inner, turned, weight, positive, share, terms, dy):
        k = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if k < dy.shape[0]:
            term = slope = zero
            place = k // inner
            t = place % steps if turned else place // batch
            b = place // steps if turned else place % batch
            if ends.shape[0] == 0 or t < read(ends, b):
                x, z = read(y, k), read(target, k)
                w = read(weight, k) if weight.shape[0] > 0 else one
                p = read(positive, k) if positive.shape[0] > 0 else one
                if z >= zero and z <= one:
                    off, on = w * (one - z), w * (z * p)
                    e = math.exp(-abs(x))
                    log, small, large = math.log1p(e), e / (one + e), one / (one + e)
                    if off > zero:  # a coefficient of 0 times an infinity is nothing
                        term += off * (log + max(x, zero))
                    if on > zero:
                        term += on * (log + max(-x, zero))
                    slope = off * large - on * small if x >= zero else off * small - on * large
                else:
                    term = slope = nan
            write(terms, k, term * share)
            write(dy, k, slope * share)

    return kernel


@functools.cache
def binary_kernel(dtype: np.dtype[Any]) -> Kernel:
    """See ``binary``."""
    text = (
        "y:in target:in ends:in:i8 steps:i8 batch:i8 inner:i8 turned:b1 weight:in positive:in "
        f"share:{dtype.str} terms:out dy:out"
    )
    return Kernel(("binary", dtype.name), functools.partial(binary, dtype), arguments_of(text, dtype), THREADS)
