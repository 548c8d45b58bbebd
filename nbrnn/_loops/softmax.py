"""Rows of exponentials: the loops of cross entropy, and of what needs a softmax with its logarithm.

A row of logits is read from memory once: the largest, the exponentials and the last scaling find it in the nearest
cache.  The exponentials are those of the kernels, vector by vector, in the dtype of the logits; their sum is kept in
float64, in 16 lanes whatever the width of a vector, so that all widths give the same bits.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import typeof, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from .._cpu import isa
from .._cpu.cost import ACTIVATION
from .._cpu.emit import Int, Vec
from .._cpu.ends import first_lanes, lane_is, load_first, store_first
from .._cpu.isa import BITS
from .._cpu.loops import SEAT, TEAM, any_array, named, own_array
from .._cpu.rows import address, emitter, primitive, zero_row
from .._cpu.team import CALLER, Team, assemble, offer, part_ways, share
from .._cpu.workers import team_of_rows
from .._kernel import cached, compiled, kernel, part
from .._memory import aligned

Array = NDArray[Any]

#: Numbers that are summed side by side.
LANES = 16


#: Rows whose losses are one sum, which is formed by one thread.
BLOCK = 32

#: Bytes of rows that go through a loop together: the processor works on several at once, and finds them in its nearest
#: cache for the next loop.
NEAR = 2**14


class Room(NamedTuple):
    """What a member keeps of the rows that go together; each (BLOCK,), or (members, BLOCK) for all members."""

    top: Any  #: the largest number
    lanes: Any
    factor: Any  #: what to multiply exponentials by
    sums: Any  #: of the exponentials, but for the target's
    own: Any  #: the gradient for the target
    target: Any  #: -1 for a row that doesn't count
    source: Any  #: addresses of logits
    to: Any  #: and of results


#: Seconds that a row takes beside its exponentials, about.
ROW = 40e-9


class _Made(threading.local):
    """The rooms of a thread's calls, which come one after another."""

    def __init__(self) -> None:
        self.rooms: dict[tuple[Any, ...], Room] = {}


_made = _Made()


def rooms(dtype: np.dtype[Any], members: int) -> Room:
    """Rooms of that dtype, for the current vector width: those of the thread's last such call."""
    key = dtype, isa.current(), members
    if key not in _made.rooms:
        _made.rooms[key] = _new_rooms(dtype, members)
    return _made.rooms[key]


def _new_rooms(dtype: np.dtype[Any], members: int) -> Room:
    # Aligned, so that no two members write to the same lines of memory.
    top, *rest = (
        aligned((members, BLOCK), kind) for kind in (dtype, dtype, np.float64, dtype, np.int64, np.int64, np.int64)
    )
    return Room(top, isa.current()(), *rest)


@part
def room_of(rooms, q):
    """Those of a member."""
    return Room(
        rooms.top[q], rooms.lanes, rooms.factor[q], rooms.sums[q], rooms.own[q], rooms.target[q], rooms.source[q],
        rooms.to[q],
    )  # fmt: skip


@part
def together(classes, item):
    """How many rows go together: no more than ``BLOCK``."""
    return max(1, min(BLOCK, NEAR // (classes * item)))


def team_for(rows: int, classes: int, dtype: np.dtype[Any]) -> Team:
    """Who shares so many rows."""
    vectors = classes * dtype.itemsize * 8 / max(BITS[isa.current()], dtype.itemsize * 8)
    return team_of_rows(vectors * ACTIVATION + ROW, rows)


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
def row_max(e, room, source, n, top):
    """The largest of n numbers (-inf for none) to the address ``top``; a NaN among them may get lost."""
    source, whole = e.ptr(source), n // e.W
    (found,) = e.loop(whole, [e.vec(-math.inf)], lambda i, found: [_larger(found, (source + i * e.W).load())])
    rest = source + whole * e.W
    e.ptr(top).put_number(_across(_larger(found, load_first(rest, first_lanes(e, n % e.W), -math.inf)), _larger))


@primitive
def exp_row(e, room, source, to, n, top, left_out, total):
    """``to[k] = exp(source[k] - top)`` for k < n; their sum, ``left_out`` left out, to the float64 at ``total``."""
    source, to, top = e.ptr(source), e.ptr(to), e.ptr(top).broadcast()
    offsets, double = range(0, LANES, e.W), ir.DoubleType()
    wide = double if e.W == 1 else ir.VectorType(double, e.W)

    def summed(v, k):
        """As float64, with 0 in the place of the number that is left out; k is the place of the first."""
        x = e.b.select(lane_is(e, left_out - k), e.vec(0.0).x, v.x)
        return v.like(x if e.bits == 64 else e.b.fpext(x, wide))

    def block(i, *sums):
        values = [((source + i * LANES + p).load() - top).exp() for p in offsets]
        for p, v in zip(offsets, values, strict=True):
            (to + i * LANES + p).store(v)
        return [s + summed(v, i * LANES + p) for p, s, v in zip(offsets, sums, values, strict=True)]

    def last(_, *sums):  # what is missing is 1 at first: an exponential of -inf would take longer than a row
        start = n // LANES * LANES
        masks = [first_lanes(e, n - start - p) for p in offsets]
        values = [(load_first(source + start + p, m, top) - top).exp() for p, m in zip(offsets, masks, strict=True)]
        for p, v, m in zip(offsets, values, masks, strict=True):
            store_first(to + start + p, v, m)
        values = [v.like(e.b.select(m, v.x, e.vec(0.0).x)) for v, m in zip(values, masks, strict=True)]
        return [s + summed(v, start + p) for p, s, v in zip(offsets, sums, values, strict=True)]

    zero = Vec(e, ir.Constant(wide, 0.0 if e.W == 1 else [0.0] * e.W))
    sums = e.loop(n // LANES, [zero for _ in offsets], block)
    sums = e.loop((n % LANES).at_most(1), sums, last)
    while len(sums) > 1:
        half = len(sums) // 2
        sums = [sums[i] + sums[i + half] for i in range(half)]
    e.ptr(total).put_number(_across(sums[0], lambda a, b: a + b))


@primitive
def scale_row(e, room, to, n, factor):
    """``to[k] *= factor`` for k < n."""
    to, whole, factor = e.ptr(to), n // e.W, e.ptr(factor).broadcast()
    e.each(whole, lambda i: (to + i * e.W).store((to + i * e.W).load() * factor))
    rest, mask = to + whole * e.W, first_lanes(e, n % e.W)
    store_first(rest, load_first(rest, mask) * factor, mask)


@intrinsic
def number_at(typingctx, room, place, k):
    """Number k of those at an address."""

    def emit(context, builder, signature, arguments):
        e = emitter(builder, signature.args[0])
        return (e.ptr(Int(e, arguments[1])) + Int(e, arguments[2])).number()

    return room.types[0].dtype(room, types.int64, types.int64), emit


@intrinsic
def put_number_at(typingctx, room, place, k, number):
    """Let it be another one."""

    def emit(context, builder, signature, arguments):
        e = emitter(builder, signature.args[0])
        (e.ptr(Int(e, arguments[1])) + Int(e, arguments[2])).put_number(arguments[3])
        return context.get_dummy_value()

    return types.void(room, types.int64, types.int64, room.types[0].dtype), emit


@part
def smooth(room, q, classes, weight, even, total):
    """Take what all classes should have from the gradient of a row; what that adds to the loss."""
    source, to, top, log_S, loss = room.source[q], room.to[q], np.float64(room.top[q]), room.sums[q], 0.0
    for k in range(classes):
        put_number_at(room, to, k, number_at(room, to, k) - even * weight[k] / total)
        if weight[k] != 0:  # nothing is expected of the others: they may be -inf
            loss += even * weight[k] * (log_S - (np.float64(number_at(room, source, k)) - top))
    return loss


@part
def weigh(target, lengths, weight, ignored, found):
    """found[:2] = (whether all targets that count are classes, the sum of their weights)."""
    T, B, M = target.shape
    found[0], found[1] = 1.0, 0.0
    for t in range(T):
        for b in range(B):
            if t < lengths[b]:
                for m in range(M):
                    c = target[t, b, m]
                    if c != ignored:
                        if c < 0 or c >= weight.size:
                            found[0] = 0.0
                            return
                        found[1] += weight[c]


@kernel
def cross_entropy(seat, team, rooms, y, target, lengths, weight, smoothing, ignored, found, losses, dy):
    """The loss and its gradient.

    With e_k = exp(y_k - max y), class c the target, R the sum of e_k without e_c, and S = R + e_c:

        -log p_c = log S - (y_c - max y)          (log(1 + R) where y_c is the largest)
        dy_k = (G e_k / S - g_k) / W

    where g_k is what class k should have: v_c (1 - s) for the target, and s v_k / classes for all; G is the sum of g,
    and W that of the targets' weights v.  For k = c the difference is taken before the division, from R: so a
    confident answer keeps its digits.

    Parameters
    ----------
    seat, team : as for ``_cpu.forward.forward``
    rooms : Room
        With a row for each member.
    y, dy : (T, B, M, classes), of any strides, but the last axis contiguous
    target : (T, B, M)
    lengths : (B,)
    weight : (classes,)
    smoothing : s
    ignored : the target of rows that don't count
    found : (3,): whether all targets that count are classes, without which nothing is done; W; the loss
    losses : as many numbers as there are blocks of ``BLOCK`` rows
    """
    if seat.members == 0:
        weigh(target, lengths, weight, ignored, found)
        if found[0] == 0:
            return
        seat = assemble(team, offer())
    room = room_of(rooms, seat.member)
    (T, B, M, classes), item, total = y.shape, y.itemsize, found[1]
    even = smoothing / classes
    all_even = even * weight.sum()
    some, rows = together(classes, item), T * B * M
    begin, end = share(losses.size, seat.member, seat.members)
    for block in range(begin, end):
        losses[block] = 0.0
        for first in range(block * BLOCK, min((block + 1) * BLOCK, rows), some):
            n = min(some, min((block + 1) * BLOCK, rows) - first)
            for q in range(n):
                t, b, m = (first + q) // (B * M), (first + q) // M % B, (first + q) % M
                c = target[t, b, m]
                room.target[q] = -1 if t >= lengths[b] or c == ignored or total == 0 else c
                room.source[q] = address(y) + t * y.strides[0] + b * y.strides[1] + m * y.strides[2]
                room.to[q] = address(dy) + t * dy.strides[0] + b * dy.strides[1] + m * dy.strides[2]
                if room.target[q] >= 0:
                    row_max(room, room.source[q], classes, address(room.top) + q * item)
            for q in range(n):
                c = room.target[q]
                if c >= 0:
                    top, sums = address(room.top) + q * item, address(room.sums) + q * 8
                    exp_row(room, room.source[q], room.to[q], classes, top, c, sums)
            for q in range(n):
                c = room.target[q]
                if c >= 0:
                    top, y_c = np.float64(room.top[q]), np.float64(number_at(room, room.source[q], c))
                    e_c, rest = np.float64(number_at(room, room.to[q], c)), room.sums[q]
                    S = e_c + rest
                    log_S = math.log1p(rest) if y_c == top else math.log(S)
                    g = (1 - smoothing) * weight[c]
                    if g != 0:
                        losses[block] += g * (log_S - (y_c - top))
                    G = g + all_even
                    g += even * weight[c]
                    room.factor[q] = G / (S * total)
                    room.own[q] = ((G - g) * e_c - g * rest) / (S * total)
                    room.sums[q] = log_S
            for q in range(n):
                c, to = room.target[q], room.to[q]
                if c < 0:
                    zero_row(room, to, classes)
                    continue
                scale_row(room, to, classes, address(room.factor) + q * item)
                if smoothing != 0:
                    losses[block] += smooth(room, q, classes, weight, even, total)
                put_number_at(room, to, c, room.own[q])
    part_ways(seat)
    if seat.member == 0:
        found[2] = 0.0
        for block in range(losses.size):
            found[2] += losses[block]
        if total != 0:
            found[2] /= total


@kernel
def softmax(seat, team, rooms, y, lengths, scale, top, log_sum, p):
    """p = scale softmax(y), row by row; 0 past the ends.

    log softmax(y) = (y - top) - log_sum; both are NaN for a row of which there is no softmax, and left alone past the
    ends.

    Parameters
    ----------
    seat, team, rooms : as for ``cross_entropy``
    y, p : (T, B, classes), of any strides, but the last axis contiguous
    lengths, scale : (B,)
    top, log_sum : (T, B)
    """
    if seat.members == 0:
        seat = assemble(team, offer())
    room = room_of(rooms, seat.member)
    (T, B, classes), item = y.shape, y.itemsize
    begin, end = share(T * B, seat.member, seat.members)
    some = together(classes, item)
    for first in range(begin, end, some):
        n = min(some, end - first)
        for q in range(n):
            t, b = (first + q) // B, (first + q) % B
            room.target[q] = 0 if t < lengths[b] else -1
            room.source[q] = address(y) + t * y.strides[0] + b * y.strides[1]
            room.to[q] = address(p) + t * p.strides[0] + b * p.strides[1]
            if room.target[q] >= 0:
                row_max(room, room.source[q], classes, address(room.top) + q * item)
        for q in range(n):
            if room.target[q] >= 0:
                largest, sums = address(room.top) + q * item, address(room.sums) + q * 8
                exp_row(room, room.source[q], room.to[q], classes, largest, -1, sums)
        for q in range(n):
            t, b = (first + q) // B, (first + q) % B
            if room.target[q] >= 0:
                top[t, b], log_sum[t, b] = room.top[q], math.log(room.sums[q])
                room.factor[q] = scale[b] / room.sums[q]
                scale_row(room, room.to[q], classes, address(room.factor) + q * item)
            else:
                zero_row(room, room.to[q], classes)
    part_ways(seat)


def _rooms_type(dtype: np.dtype[Any], lanes: type[isa.Lanes]) -> Any:
    numbers, words = own_array(dtype, 2), own_array(np.int64, 2)
    return named(Room, numbers, typeof(lanes()), numbers, own_array(np.float64, 2), numbers, words, words, words)


@cached
def cross_entropy_kernel(dtype: np.dtype[Any], lanes: type[isa.Lanes]) -> Callable[..., None]:
    """The compiled ``cross_entropy``."""
    integers, numbers = any_array(np.dtype(np.int64), 3), own_array(np.float64, 1)
    return compiled(
        cross_entropy,
        (
            SEAT, TEAM, _rooms_type(dtype, lanes), any_array(dtype, 4), integers, own_array(np.int64, 1), numbers,
            types.float64, types.int64, numbers, numbers, any_array(dtype, 4, False),
        ),
    )  # fmt: skip


@cached
def softmax_kernel(dtype: np.dtype[Any], lanes: type[isa.Lanes]) -> Callable[..., None]:
    """The compiled ``softmax``."""
    rows = own_array(np.float64, 2)
    return compiled(
        softmax,
        (
            SEAT, TEAM, _rooms_type(dtype, lanes), any_array(dtype, 3), own_array(np.int64, 1),
            own_array(np.float64, 1), rows, rows, any_array(dtype, 3, False),
        ),
    )  # fmt: skip


def run_cross_entropy(
    y: Array, target: Array, lengths: Array, weight: Array, smoothing: float, ignored: int, dy: Array
) -> tuple[bool, float]:
    """(whether all targets that count are classes, the loss); see ``cross_entropy``."""
    rows, classes = target.size, y.shape[3]
    team, found = team_for(rows, classes, y.dtype), np.empty(3)
    run, losses = cross_entropy_kernel(y.dtype, isa.current()), np.empty(-(-rows // BLOCK))
    own = rooms(y.dtype, team.wanted)
    run(CALLER, team, own, y, target, lengths, weight, smoothing, ignored, found, losses, dy)
    return bool(found[0]), float(found[2])


def run_softmax(y: Array, lengths: Array, scale: Array, top: Array, log_sum: Array, p: Array) -> None:
    """See ``softmax``."""
    team = team_for(top.size, y.shape[2], y.dtype)
    run = softmax_kernel(y.dtype, isa.current())
    run(CALLER, team, rooms(y.dtype, team.wanted), y, lengths, scale, top, log_sum, p)
