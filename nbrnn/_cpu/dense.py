"""Products of matrices with many rows, for parts of a network that know no time.

One tile serves them all, sums[r][v] + a[r, k] * panel[k][v] with k upward, whether ``a`` is read along its rows or along
its columns.  What it is multiplied by is brought into a panel just before, and used while it is in the nearest caches:
so nothing is kept from call to call.

A number of C is one sum in one order, whatever the tile, the panel, the member or the piece it falls to.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from llvmlite import ir

from .._kernel import kernel
from . import tiles
from .emit import I64, Emit, Int, Ptr, Vec
from .ends import first_lanes, load_first
from .rows import address, copy_row, primitive, zero_padded
from .team import assemble, meet, nought, offer, part_ways, share

NV = tiles.NV

#: Numbers of a sum that are formed at a time, and rows: a panel and those rows stay in a core's own caches.
DEPTH, ROWS = 512, 512

#: To bring a panel into place takes as long as to multiply so many rows by it.
PACKING = 8

#: Rows that the sums of ``columns`` are formed of, before they are added to the totals.
CHUNK = 256

#: Sums of a column that are formed side by side: an addition has to wait for the one before.
SIDE = 4


class Room(NamedTuple):
    """What a call works in: so many numbers for each member."""

    w: Any
    lanes: Any
    block: int  #: numbers in a row of a panel
    size: int  #: for a member


def product_size(rows: int, depth: int, block: int) -> int:
    """Numbers that a member of ``product`` wants: a panel, rows of one, and what sums begin with."""
    return (min(depth, DEPTH) + min(rows, ROWS) + 1) * block


def columns_size(height: int, block: int) -> int:
    """Numbers that a member of ``columns`` wants: a panel, a row of zeros, rows of sums."""
    return (CHUNK + 1 + height) * block


def turned(square: list[Vec]) -> list[Vec]:
    """W vectors of W numbers: rows become columns, pairs of ever larger blocks changing places."""
    e, step = square[0].e, 1
    lane = ir.VectorType(ir.IntType(32), e.W)
    while step < e.W:
        low = ir.Constant(lane, [k + (e.W - step if k & step else 0) for k in range(e.W)])
        high = ir.Constant(lane, [k + (e.W if k & step else step) for k in range(e.W)])
        for q in range(e.W):
            if not q & step:
                a, b = square[q].x, square[q + step].x
                square[q] = square[q].like(e.b.shuffle_vector(a, b, low))
                square[q + step] = square[q].like(e.b.shuffle_vector(a, b, high))
        step *= 2
    return square


@primitive
def turn_panel(e, room, to, source, stride, depth, width):
    """``to[k][j] = source[j * stride + k]`` for k < depth; past ``width``, any of the others.

    Rows are turned W by W; those that are left over of a sum once more, together with some before them.
    """
    to, source, block = e.ptr(to), e.ptr(source), NV * e.W

    def row(j: int | Int) -> Ptr:
        j, last = e.integer(j), width - 1
        return source + Int(e, e.b.select(e.b.icmp_signed("<", j.x, last.x), j.x, last.x)) * stride

    for v in range(NV):
        rows = [row(v * e.W + q) for q in range(e.W)]

        def square(k: Int, rows: list[Ptr] = rows, v: int = v) -> None:
            for q, column in enumerate(turned([p.load(k) for p in rows])):
                (to + (k + q) * block).store(column, v * e.W)

        e.each(depth // e.W, lambda b, square=square: square(b * e.W))
        enough = Int(e, e.b.zext(e.b.icmp_signed(">=", depth.x, I64(e.W)), I64))
        if e.W > 1:
            e.each(enough * (depth % e.W).at_most(1), lambda _, square=square: square(depth - e.W))
            e.each(
                (1 - enough) * depth,
                lambda k, v=v: e.each(
                    e.integer(e.W), lambda q: (to + k * block + v * e.W + q).put_number((row(q + v * e.W) + k).number())
                ),
            )


@primitive
def copy_panel(e, room, to, source, stride, depth, width):
    """``to[k][j] = source[k * stride + j]`` for k < depth and j < width."""
    to, source, block = e.ptr(to), e.ptr(source), NV * e.W
    whole = Int(e, e.b.zext(e.b.icmp_signed("==", width.x, I64(block)), I64))
    masks = [first_lanes(e, width - v * e.W) for v in range(NV)]

    def row(k: Int) -> None:
        for v in range(NV):
            (to + k * block).store((source + k * stride).load(v * e.W), v * e.W)

    def part(k: Int) -> None:
        for v in range(NV):
            (to + k * block).store(load_first(source + k * stride + v * e.W, masks[v]), v * e.W)

    e.each(whole * depth, row)
    e.each((1 - whole) * depth, part)


@primitive
def times_panel(e, room, n, a, a_row, a_step, depth, panel, start, start_row, c, c_row):
    """c[r * c_row + v] = start[r * start_row + v] + sum over k of a[r * a_row + k * a_step] * panel[k][v], for r < n."""
    a, panel, start, c = map(e.ptr, (a, panel, start, c))

    def tile(first: Int, size: int) -> None:
        rows = [a + (first + r) * a_row for r in range(size)]
        begin = [start + (first + r) * start_row for r in range(size)]

        def body(k: Int, *sums: Vec) -> list[Vec]:
            at, step = panel + k * (NV * e.W), k * a_step
            weights = [at.load(v * e.W) for v in range(NV)]
            broadcasts = [row.broadcast(step) for row in rows]
            return [e.fma(broadcasts[q // NV], weights[q % NV], s) for q, s in enumerate(sums)]

        sums = e.loop(depth, [p.load(v * e.W) for p in begin for v in range(NV)], body)
        for q, s in enumerate(sums):
            (c + (first + q // NV) * c_row).store(s, q % NV * e.W)

    tiles.each_tile(n, tiles.tile_rows(e.lanes, NV), tile)


def add_to_total(sum: Vec, total: Ptr, rest: Int) -> None:
    """Add a sum to a total with what rounding has left over before, which stands ``rest`` numbers further (Kahan 1965;
    see ``tiles.outer``).
    """
    before, more = total.load(), sum + (total + rest).load()
    new = before + more
    left = more - (new - before)
    total.store(new)
    (total + rest).store(abs(left).if_less(math.inf, left, 0.0))


@primitive
def add_panel(e, room, n, sums, total, total_row, rest):
    """total[r] += sums[r] for r < n, a row of a panel each."""
    sums, total, block = e.ptr(sums), e.ptr(total), NV * e.W

    def row(r: Int) -> None:
        for v in range(NV):
            add_to_total((sums + r * block).load(v * e.W), total + (r * total_row + v * e.W), rest)

    e.each(n, row)


@primitive
def add_columns(e, room, count, a, a_row, n, total, rest):
    """total[k] += sum over r < count of a[r * a_row + k] for k < n: four sums side by side, of every fourth row each."""
    a, total = e.ptr(a), e.ptr(total)

    def some(at: Ptr, to: Ptr, load: Callable[[Ptr], Vec]) -> None:
        def rows(q: Int, *sums: Vec) -> list[Vec]:
            return [s + load(at + (q * SIDE + p) * a_row) for p, s in enumerate(sums)]

        sums = e.loop(count // SIDE, [e.vec(0.0)] * SIDE, rows)
        rest_of_rows = at + count // SIDE * SIDE * a_row
        (first,) = e.loop(count % SIDE, sums[:1], lambda r, s: [s + load(rest_of_rows + r * a_row)])
        add_to_total((first + sums[1]) + (sums[2] + sums[3]), to, rest)

    e.each(n // e.W, lambda v: some(a + v * e.W, total + v * e.W, Ptr.load))
    whole, mask = n // e.W * e.W, first_lanes(e, n % e.W)
    e.each((n % e.W).at_most(1), lambda _: some(a + whole, total + whole, lambda p: load_first(p, mask)))


@kernel
def parts(seat, n, panels):
    """(begin, end, first, last): a member's rows and panels, by rows or by panels, whichever leaves less to do."""
    each, few = (n + seat.members - 1) // seat.members, (panels + seat.members - 1) // seat.members
    if (each + PACKING) * panels <= (n + PACKING) * few:
        begin, end = share(n, seat.member, seat.members)
        return begin, end, nought(), panels
    first, last = share(panels, seat.member, seat.members)
    return nought(), n, first, last


@kernel
def product(seat, team, room, a, b, across, bias, c):
    """C = A B + bias.

    Parameters
    ----------
    seat, team : as for ``forward.forward``
    room : Room
    a : (N, n), contiguous in the inner axis
    b : (n, m), contiguous in the inner axis or, if ``across``, in the other
    bias : (m,), contiguous, or of size 0
    c : (N, m), contiguous in the inner axis
    """
    if seat.members == 0:
        seat = assemble(team, offer())
    (rows, whole_depth), m, item, block = a.shape, c.shape[1], a.itemsize, room.block
    panels = (m + block - 1) // block
    begin, end, first, last = parts(seat, rows, panels)
    panel = address(room.w) + seat.member * room.size * item
    nothing = panel + min(whole_depth, DEPTH) * block * item
    spare = nothing + block * item
    for k in range(0, whole_depth, DEPTH):
        depth = min(DEPTH, whole_depth - k)
        for r in range(begin, end, ROWS):
            count = min(ROWS, end - r)
            for j in range(first * block, last * block, block):
                width = min(block, m - j)
                source = address(b) + k * b.strides[0] + j * b.strides[1]
                if across:
                    turn_panel(room, panel, source, b.strides[1] // item, depth, width)
                else:
                    copy_panel(room, panel, source, b.strides[0] // item, depth, width)
                # What isn't a whole panel goes by way of spare rows.
                to, step = address(c) + r * c.strides[0] + j * item, c.strides[0]
                out, out_step = (to, step) if width == block else (spare, block * item)
                start, start_step = out, out_step
                if k == 0:
                    start, start_step = nothing, nought()
                    zero_padded(room, nothing, block)
                    if bias.size > 0:
                        copy_row(room, nothing, address(bias) + j * item, width)
                elif width < block:
                    for q in range(count):
                        copy_row(room, spare + q * out_step, to + q * step, width)
                source = address(a) + r * a.strides[0] + k * item
                times_panel(
                    room, count, source, a.strides[0] // item, 1, depth, panel, start, start_step // item, out,
                    out_step // item,
                )  # fmt: skip
                if width < block:
                    for q in range(count):
                        copy_row(room, to + q * step, spare + q * out_step, width)
    part_ways(seat)


@kernel
def columns(seat, team, room, a, b, begin, end, total, bias, c):
    """C = A^T B, and the sums of the columns of A: what rows [begin, end) add to them.  After the last rows, C.

    Parameters
    ----------
    seat, team : as for ``forward.forward``
    room : Room
    a, b : (N, m), (N, n), contiguous in their inner axes
    total : (2, m, whole panels): [0] the sums so far, [1] what rounding has left over
    bias : (2, whole vectors) the same of the columns of A, or of size 0
    c : (m, n), contiguous in the inner axis
    """
    if seat.members == 0:
        seat = assemble(team, offer())
    item, block, (m, n) = a.itemsize, room.block, c.shape
    top, low, first, last = parts(seat, m, (n + block - 1) // block)
    panel = address(room.w) + seat.member * room.size * item
    nothing = panel + CHUNK * block * item
    sums = nothing + block * item
    zero_padded(room, nothing, block)
    row = total.shape[2]
    W = block // NV
    left, right = share((m + W - 1) // W, seat.member, seat.members)
    for r in range(begin, end, CHUNK):
        count = min(CHUNK, end - r)
        source = address(a) + r * a.strides[0]
        for j in range(first * block, last * block, block):
            beside = address(b) + r * b.strides[0] + j * item
            copy_panel(room, panel, beside, b.strides[0] // item, count, min(block, n - j))
            times_panel(
                room, low - top, source + top * item, 1, a.strides[0] // item, count, panel, nothing, 0, sums, block
            )
            add_panel(room, low - top, sums, address(total) + (top * row + j) * item, row, m * row)
        if bias.size > 0:
            columns_here = min(right * W, m) - left * W
            at = address(bias) + left * W * item
            add_columns(room, count, source + left * W * item, a.strides[0] // item, columns_here, at, bias.shape[1])
    if end == a.shape[0]:
        for i in range(top, low):
            for j in range(first * block, last * block, block):
                to = address(c) + i * c.strides[0] + j * item
                copy_row(room, to, address(total) + (i * row + j) * item, min(block, n - j))
    part_ways(seat)
