"""Rows of exponentials: the loops of cross entropy, and of what needs a softmax with its logarithm.

A row of logits is read from memory once: the largest, the exponentials and the last scaling find it in the nearest
cache.  The exponentials are those of the kernels, vector by vector, in the dtype of the logits; their sum is kept in
float64, in 16 lanes whatever the width of a vector, so that all widths give the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import typeof, types

from .._cpu import isa
from .._cpu.emit import Vec
from .._cpu.ends import first_lanes, load_first, store_first
from .._cpu.loops import any_array, named, own_array
from .._cpu.rows import address, primitive, zero_row
from .._kernel import cached, compiled, kernel

#: Numbers that are summed side by side.
LANES = 16


class Room(NamedTuple):
    """Room for what rows have in common: w[TOP], the largest number; w[FACTOR], what to multiply by."""

    w: Any
    lanes: Any


TOP, FACTOR = 0, 1


def room(dtype: np.dtype[Any]) -> Room:
    """Of that dtype, for the current vector width."""
    return Room(np.zeros(2, dtype), isa.current()())


def _across(v: Vec, combine: Callable[[Vec, Vec], Vec]) -> ir.Value:
    """All lanes combined, lane i with lane i + half, again and again."""
    e, shift = v.e, v.e.W // 2
    while shift:
        order = ir.Constant(ir.VectorType(ir.IntType(32), e.W), [(i + shift) % e.W for i in range(e.W)])
        v, shift = combine(v, v.like(e.b.shuffle_vector(v.x, v.x, order))), shift // 2
    return v.x if e.W == 1 else e.b.extract_element(v.x, ir.IntType(32)(0))


def _larger(a: Vec, b: Vec) -> Vec:
    return a.like(a.e.b.select(a.e.b.fcmp_ordered("<", a.x, b.x), b.x, a.x))


@primitive
def row_max(e, room, source, n):
    """``w[TOP]`` = the largest of n numbers (-inf for none); a NaN among them may get lost."""
    source, whole = e.ptr(source), n // e.W
    (top,) = e.loop(whole, [e.vec(-math.inf)], lambda i, top: [_larger(top, (source + i * e.W).load())])
    rest = source + whole * e.W
    room.w.put_number(_across(_larger(top, load_first(rest, first_lanes(e, n % e.W))), _larger), TOP)


@primitive
def exp_row(e, room, source, to, n, total):
    """``to[k] = exp(source[k] - w[TOP])`` for k < n; adds their sum to the float64 at ``total``."""
    source, to, top = e.ptr(source), e.ptr(to), room.w.broadcast(TOP)
    offsets, double = range(0, LANES, e.W), ir.DoubleType()
    wide = double if e.W == 1 else ir.VectorType(double, e.W)

    def widened(v):
        return v if e.bits == 64 else v.like(e.b.fpext(v.x, wide))

    def block(i, *sums):
        values = [((source + i * LANES + p).load() - top).exp() for p in offsets]
        for p, v in zip(offsets, values, strict=True):
            (to + i * LANES + p).store(v)
        return [s + widened(v) for s, v in zip(sums, values, strict=True)]

    def last(_, *sums):  # what is missing counts as -inf, whose exponential is 0
        start = n // LANES * LANES
        masks = [first_lanes(e, n - start - p) for p in offsets]
        values = [(load_first(source + start + p, m) - top).exp() for p, m in zip(offsets, masks, strict=True)]
        for p, v, m in zip(offsets, values, masks, strict=True):
            store_first(to + start + p, v, m)
        return [s + widened(v) for s, v in zip(sums, values, strict=True)]

    zero = Vec(e, ir.Constant(wide, 0.0 if e.W == 1 else [0.0] * e.W))
    sums = e.loop(n // LANES, [zero for _ in offsets], block)
    sums = e.loop((n % LANES).at_most(1), sums, last)
    while len(sums) > 1:
        half = len(sums) // 2
        sums = [sums[i] + sums[i + half] for i in range(half)]
    at = e.ptr(total)
    before = e.b.load(at.x, typ=double, align=8)
    at.put_number(e.b.fadd(before, _across(sums[0], lambda a, b: a + b)))


@primitive
def scale_row(e, room, to, n):
    """``to[k] *= w[FACTOR]`` for k < n."""
    to, whole, factor = e.ptr(to), n // e.W, room.w.broadcast(FACTOR)
    e.each(whole, lambda i: (to + i * e.W).store((to + i * e.W).load() * factor))
    rest, mask = to + whole * e.W, first_lanes(e, n % e.W)
    store_first(rest, load_first(rest, mask) * factor, mask)


@kernel(allocates=True)
def cross_entropy(room, y, target, lengths, weight, smoothing, ignored, dy):
    """(whether all targets that count are classes, the loss).

    With e_k = exp(y_k - max y), class c the target, R the sum of e_k without e_c, and S = R + e_c:

        -log p_c = log S - (y_c - max y)          (log(1 + R) where y_c is the largest)
        dy_k = (G e_k / S - g_k) / W

    where g_k is what class k should have: v_c (1 - s) for the target, and s v_k / classes for all; G is the sum of g,
    and W that of the targets' weights v.  For k = c the difference is taken before the division, from R: so a
    confident answer keeps its digits.

    Parameters
    ----------
    y, dy : (T, B, M, classes), of any strides, but the last axis contiguous
    target : (T, B, M)
    lengths : (B,)
    weight : (classes,)
    smoothing : s
    ignored : the target of rows that don't count
    """
    T, B, M, classes = y.shape
    total = 0.0
    for t in range(T):
        for b in range(B):
            if t < lengths[b]:
                for m in range(M):
                    c = target[t, b, m]
                    if c != ignored:
                        if c < 0 or c >= classes:
                            return False, 0.0
                        total += weight[c]
    even = smoothing / classes
    all_even = even * weight.sum()
    item, sums = y.itemsize, np.zeros(1)
    loss = 0.0
    for t in range(T):
        for b in range(B):
            for m in range(M):
                source = address(y) + t * y.strides[0] + b * y.strides[1] + m * y.strides[2]
                to = address(dy) + t * dy.strides[0] + b * dy.strides[1] + m * dy.strides[2]
                c = target[t, b, m]
                if t >= lengths[b] or c == ignored or total == 0:
                    zero_row(room, to, classes)
                    continue
                row_max(room, source, classes)
                top, y_c = np.float64(room.w[TOP]), np.float64(y[t, b, m, c])
                sums[0] = 0
                exp_row(room, source, to, c, address(sums))
                exp_row(room, source + (c + 1) * item, to + (c + 1) * item, classes - 1 - c, address(sums))
                e_c, rest = math.exp(y_c - top), sums[0]
                S = e_c + rest
                log_S = math.log1p(rest) if y_c == top else math.log(S)
                g = (1 - smoothing) * weight[c]
                G = g + all_even
                room.w[FACTOR] = G / (S * total)
                dy[t, b, m, c] = 0
                scale_row(room, to, classes)
                if g != 0:
                    loss += g * (log_S - (y_c - top))
                if smoothing != 0:
                    for k in range(classes):
                        dy[t, b, m, k] -= even * weight[k] / total
                        if weight[k] != 0:  # nothing is expected of the others: they may be -inf
                            loss += even * weight[k] * (log_S - (np.float64(y[t, b, m, k]) - top))
                g += even * weight[c]
                dy[t, b, m, c] = ((G - g) * e_c - g * rest) / (S * total)
    return True, loss / total if total != 0 else 0.0


@kernel(allocates=True)
def softmax(room, y, lengths, scale, top, log_sum, p):
    """p = scale softmax(y), row by row; 0 past the ends.

    log softmax(y) = (y - top) - log_sum; both are NaN for a row of which there is no softmax, and left alone past the
    ends.

    Parameters
    ----------
    y, p : (T, B, classes), of any strides, but the last axis contiguous
    lengths, scale : (B,)
    top, log_sum : (T, B)
    """
    T, B, classes = y.shape
    sums = np.zeros(1)
    for t in range(T):
        for b in range(B):
            to = address(p) + t * p.strides[0] + b * p.strides[1]
            if t >= lengths[b]:
                zero_row(room, to, classes)
                continue
            source = address(y) + t * y.strides[0] + b * y.strides[1]
            row_max(room, source, classes)
            top[t, b] = room.w[TOP]
            sums[0] = 0
            exp_row(room, source, to, classes, address(sums))
            log_sum[t, b] = math.log(sums[0])
            room.w[FACTOR] = scale[b] / sums[0]
            scale_row(room, to, classes)


def _room_type(dtype: np.dtype[Any], lanes: type[isa.Lanes]) -> Any:
    return named(Room, own_array(dtype, 1), typeof(lanes()))


@cached
def cross_entropy_kernel(dtype: np.dtype[Any], lanes: type[isa.Lanes]) -> Callable[..., tuple[bool, float]]:
    """The compiled ``cross_entropy``."""
    integers, weights = any_array(np.dtype(np.int64), 3), own_array(np.float64, 1)
    return compiled(
        cross_entropy,
        (
            _room_type(dtype, lanes), any_array(dtype, 4), integers, own_array(np.int64, 1), weights, types.float64,
            types.int64, any_array(dtype, 4, False),
        ),
    )  # fmt: skip


@cached
def softmax_kernel(dtype: np.dtype[Any], lanes: type[isa.Lanes]) -> Callable[..., None]:
    """The compiled ``softmax``."""
    rows = own_array(np.float64, 2)
    return compiled(
        softmax,
        (
            _room_type(dtype, lanes), any_array(dtype, 3), own_array(np.int64, 1), own_array(np.float64, 1), rows, rows,
            any_array(dtype, 3, False),
        ),
    )  # fmt: skip
