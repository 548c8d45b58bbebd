"""Losses number by number: the value, its gradient, and zeros where nothing counts, in one pass.

All take y, target and dy as (T, B, n) of any strides, and ``lengths`` (B,).  The sum is kept in float64; differences
and gradients are of the dtype of y.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import from_dtype, types

from .._cpu.loops import any_array, own_array
from .._kernel import cached, compiled, kernel

SQUARE, ABSOLUTE, HUBER = 0, 1, 2


@kernel
def distance(kind, y, target, lengths, delta, scale, dy):
    """Sum of a function of d = y - target; dy = its derivative * scale.

    d^2, with half the derivative (``SQUARE``); |d| (``ABSOLUTE``); d^2 / 2 where |d| <= delta, and beyond it the
    tangent, delta (|d| - delta / 2) (``HUBER``).
    """
    T, B, n = y.shape
    total = 0.0
    for t in range(T):
        for b in range(B):
            if t >= lengths[b]:
                for k in range(n):
                    dy[t, b, k] = 0
                continue
            for k in range(n):
                d = y[t, b, k] - target[t, b, k]
                wide = np.float64(d)
                if kind == SQUARE:
                    total += wide * wide
                    slope = d
                elif kind == HUBER and abs(d) <= delta:
                    total += 0.5 * wide * wide
                    slope = d
                else:
                    end = np.float64(delta)
                    total += abs(wide) if kind == ABSOLUTE else end * (abs(wide) - 0.5 * end)
                    slope = delta if d > 0 else (-delta if d < 0 else d)  # d: 0 or NaN
                dy[t, b, k] = slope * scale
    return total


@kernel
def binary(y, target, lengths, weight, positive, scale, dy):
    """(whether all targets that count lie in 0..1, the sum); dy = the gradient * scale.

    With z the target, p the weight of positives, w that of the number, and softplus(y) = log(1 + e^y):

        w (p z softplus(-y) + (1 - z) softplus(y)),    w ((1 - z) sigmoid(y) - p z sigmoid(-y))

    Both softplus and both sigmoids come from e^-|y|, which can't overflow.
    """
    T, B, n = y.shape
    zero, one = y.dtype.type(0), y.dtype.type(1)  # plain 0 and 1 would make float64 of what they meet
    total = 0.0
    for t in range(T):
        for b in range(B):
            if t >= lengths[b]:
                for k in range(n):
                    dy[t, b, k] = 0
                continue
            for k in range(n):
                x, z, w = y[t, b, k], target[t, b, k], weight[t, b, k]
                if not (z >= zero and z <= one):
                    return False, 0.0
                off, on = w * (one - z), w * (z * positive[t, b, k])
                e = math.exp(-abs(x))
                log, small, large = math.log1p(e), e / (one + e), one / (one + e)
                if off > zero:  # a coefficient of 0 times an infinity is nothing
                    total += np.float64(off) * np.float64(log + max(x, zero))
                if on > zero:
                    total += np.float64(on) * np.float64(log + max(-x, zero))
                slope = off * large - on * small if x >= zero else off * small - on * large
                dy[t, b, k] = slope * scale
    return True, total


@cached
def distance_kernel(dtype: np.dtype[Any]) -> Callable[..., float]:
    """The compiled ``distance``."""
    number, given = from_dtype(dtype), any_array(dtype, 3)
    lengths = own_array(np.int64, 1)
    return compiled(distance, (types.int64, given, given, lengths, number, number, any_array(dtype, 3, False)))


@cached
def binary_kernel(dtype: np.dtype[Any]) -> Callable[..., tuple[bool, float]]:
    """The compiled ``binary``."""
    given, lengths = any_array(dtype, 3), own_array(np.int64, 1)
    return compiled(binary, (given, given, lengths, given, given, from_dtype(dtype), any_array(dtype, 3, False)))
