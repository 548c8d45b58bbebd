"""Products of matrices with many rows, for parts of a network that know no time.

One tile serves them all, sums[r][v] + a[r, k] * panel[k][v] with k upward.  What rows are multiplied by is brought into
a panel just before, and used while it is in a core's own caches: so nothing is kept from call to call.

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
from .team import assemble, nought, offer, part_ways, share

#: Vectors in a row of a panel: the last panel may have fewer.
NV, FEWER = 4, (2, 1)

#: Numbers of a sum that are formed at a time, and rows: a panel and those rows stay in a core's own caches.
DEPTH, ROWS = 512, 512

#: To bring a panel into place takes as long as to multiply so many rows by it.
PACKING = 8

#: Rows that the sums of ``columns`` are formed of, before they are added to the totals.
CHUNK = 256

#: Sums of a column that are formed side by side: an addition has to wait for the one before.
SIDE = 4

#: Rows that are copied at a time.
FEW = 16


class Room(NamedTuple):
    """What a call works in: so many numbers for each member."""

    w: Any
    lanes: Any
    block: int  #: numbers in a row of a panel
    size: int  #: for a member


def product_size(rows: int, depth: int, block: int) -> int:
    """Numbers that a member of ``product`` wants: a panel, rows of one, and what sums begin with."""
    return (min(depth, DEPTH) + min(rows, ROWS) + 1) * block


def columns_size(height: int, panels: int, block: int) -> int:
    """Numbers that a member of ``columns`` wants: panels, a row of zeros, rows of sums."""
    return (CHUNK * panels + 1 + height) * block + height * CHUNK


def columns_of(square: list[Vec]) -> list[Vec]:
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
def turn_panel(e, room, to, source, stride, depth, width, vectors):
    """``to[k][j] = source[j * stride + k]`` for k < depth; past ``width``, any of the others.

    Rows are turned W by W; those that are left over of a sum once more, together with some before them.
    """
    to, source, block, last = e.ptr(to), e.ptr(source), vectors * e.W, width - 1
    few = truth(e, "<", depth, e.W)

    def row(j: Int) -> Ptr:
        return source + Int(e, e.b.select(e.b.icmp_signed("<", j.x, last.x), j.x, last.x)) * stride

    def vector(v: Int) -> None:
        rows, at = [row(v * e.W + q) for q in range(e.W)], to + v * e.W

        def square(k: Int) -> None:
            for q, column in enumerate(columns_of([p.load(k) for p in rows])):
                (at + (k + q) * block).store(column)

        def number(k: Int) -> None:
            e.each(e.integer(e.W), lambda q: (at + k * block + q).put_number((row(v * e.W + q) + k).number()))

        e.each(depth // e.W, lambda b: square(b * e.W))
        if e.W > 1:
            e.each((1 - few) * (depth % e.W).at_most(1), lambda _: square(depth - e.W))
            e.each(few * depth, number)

    e.each(vectors, vector)


@primitive
def copy_panel(e, room, to, source, stride, depth, width, vectors):
    """``to[k][j] = source[k * stride + j]`` for k < depth and j < width; then zeros: some other numbers take long."""
    to, source, block = e.ptr(to), e.ptr(source), vectors * e.W
    whole, mask = truth(e, "==", width, NV * e.W), first_lanes(e, width % e.W)

    def row(k: Int) -> None:
        for v in range(NV):
            (to + k * (NV * e.W)).store((source + k * stride).load(v * e.W), v * e.W)

    def part(k: Int) -> None:
        out, at, v = to + k * block, source + k * stride, width // e.W
        e.each(vectors - v, lambda q: (out + (v + q) * e.W).store(0.0))
        e.each(v, lambda v: (out + v * e.W).store((at + v * e.W).load()))
        e.each((width % e.W).at_most(1), lambda _: (out + v * e.W).store(load_first(at + v * e.W, mask)))

    e.each(whole * depth, row)
    e.each((1 - whole) * depth, part)


def truth(e: Emit, relation: str, a: Int, b: int) -> Int:
    """1 where a relation holds, else 0."""
    return Int(e, e.b.zext(e.b.icmp_signed(relation, a.x, I64(b)), I64))


def times_panel(vectors: int) -> Any:
    """The primitive for panels with so many vectors in a row:

    c[r * c_row + v] = start[r * start_row + v] + sum over k of a[r * a_row + k * a_step] * panel[k][v], for r < n.
    """

    def times(e, room, n, a, a_row, a_step, depth, panel, start, start_row, c, c_row):
        a, panel, start, c = map(e.ptr, (a, panel, start, c))

        def tile(first: Int, size: int) -> None:
            rows = [a + (first + r) * a_row for r in range(size)]
            begin = [start + (first + r) * start_row for r in range(size)]

            def body(k: Int, *sums: Vec) -> list[Vec]:
                at, step = panel + k * (vectors * e.W), k * a_step
                weights = [at.load(v * e.W) for v in range(vectors)]
                broadcasts = [row.broadcast(step) for row in rows]
                return [e.fma(broadcasts[q // vectors], weights[q % vectors], s) for q, s in enumerate(sums)]

            sums = e.loop(depth, [p.load(v * e.W) for p in begin for v in range(vectors)], body)
            for q, s in enumerate(sums):
                (c + (first + q // vectors) * c_row).store(s, q % vectors * e.W)

        tiles.each_tile(n, tiles.tile_rows(e.lanes, vectors), tile)

    return primitive(times)


times_whole, times_two, times_one = map(times_panel, (NV, *FEWER))


def add_to_total(part: Vec, total: Ptr, rest: Int) -> None:
    """Add a part of a sum to its total, with what rounding has left over before, which stands ``rest`` numbers further
    (Kahan 1965; see ``tiles.outer``).
    """
    before, more = total.load(), part + (total + rest).load()
    new = before + more
    left = more - (new - before)
    total.store(new)
    (total + rest).store(abs(left).if_less(math.inf, left, 0.0))


@primitive
def add_all(e, room, vectors, sums, total, rest):
    """total[v] += sums[v] for v < vectors."""
    sums, total = e.ptr(sums), e.ptr(total)
    e.each(vectors, lambda v: add_to_total((sums + v * e.W).load(), total + v * e.W, rest))


@primitive
def add_columns(e, room, count, a, a_row, n, total, rest):
    """total[k] += sum over r < count of a[r * a_row + k] for k < n: of every ``SIDE``-th row each, side by side."""
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


@kernel(inline=True)
def times(room, vectors, n, a, a_row, a_step, depth, panel, start, start_row, c, c_row):
    """See ``times_panel``."""
    if vectors == NV:
        times_whole(room, n, a, a_row, a_step, depth, panel, start, start_row, c, c_row)
    elif vectors == 2:
        times_two(room, n, a, a_row, a_step, depth, panel, start, start_row, c, c_row)
    else:
        times_one(room, n, a, a_row, a_step, depth, panel, start, start_row, c, c_row)


@kernel(inline=True)
def vectors_of(width, W):
    """Vectors in a row of a panel of so many numbers."""
    return 1 if width <= W else (2 if width <= 2 * W else NV)


@kernel
def parts(seat, n, panels):
    """(begin, end, first, last): a member's rows and panels, by rows or by panels, whichever leaves less to do."""
    each, few = (n + seat.members - 1) // seat.members, (panels + seat.members - 1) // seat.members
    if (each + PACKING) * panels <= (n + PACKING) * few:
        begin, end = share(n, seat.member, seat.members)
        return begin, end, nought(), panels
    first, last = share(panels, seat.member, seat.members)
    return nought(), n, first, last


#: How a matrix is given that rows are to be multiplied by: as it is; turned; brought into panels before, by ``pack``.
AS_IS, ACROSS, PACKED = range(3)


@kernel
def pack(room, b, to):
    """All panels of a matrix (m, n) that is given ``ACROSS``, one after another."""
    (m, n), item, block = b.shape, b.itemsize, room.block
    for j in range(0, m, block):
        width, step = min(block, m - j), b.strides[0]
        vectors = vectors_of(width, block // NV)
        turn_panel(room, address(to) + j * n * item, address(b) + j * step, step // item, n, width, vectors)


@kernel
def product(seat, team, room, a, b, how, bias, c):
    """C = A B + bias.

    Parameters
    ----------
    seat, team : as for ``forward.forward``
    room : Room
    a : (N, n)
    b : (n, m), ``ACROSS`` (m, n), contiguous in the inner axis; ``PACKED`` (1, ...), what ``pack`` made of (m, n)
    how : one of these
    bias : (m,), contiguous, or of size 0
    c : (N, m), contiguous in the inner axis
    """
    if seat.members == 0:
        seat = assemble(team, offer())
    (rows, whole_depth), m, item, block = a.shape, c.shape[1], a.itemsize, room.block
    W = block // NV
    panels = (m + block - 1) // block
    begin, end, first, last = parts(seat, rows, panels)
    own = address(room.w) + seat.member * room.size * item
    nothing = own + min(whole_depth, DEPTH) * block * item
    spare = nothing + block * item
    for k in range(0, whole_depth, DEPTH):
        depth = min(DEPTH, whole_depth - k)
        for r in range(begin, end, ROWS):
            count = min(ROWS, end - r)
            for j in range(first * block, last * block, block):
                width = min(block, m - j)
                vectors = vectors_of(width, W)
                panel, step = own, b.strides[0]
                if how == ACROSS:
                    turn_panel(room, panel, address(b) + j * step + k * item, step // item, depth, width, vectors)
                elif how == AS_IS:
                    copy_panel(room, panel, address(b) + k * step + j * item, step // item, depth, width, vectors)
                else:
                    panel = address(b) + (j * whole_depth + k * vectors * W) * item
                # What isn't a whole panel goes by way of spare rows.
                to, step = address(c) + r * c.strides[0] + j * item, c.strides[0]
                out, out_step = (to, step) if width == vectors * W else (spare, vectors * W * item)
                start, start_step = out, out_step
                if k == 0:
                    start, start_step = nothing, nought()
                    zero_padded(room, nothing, block)
                    if bias.size > 0:
                        copy_row(room, nothing, address(bias) + j * item, width)
                elif out != to:
                    for q in range(count):
                        copy_row(room, spare + q * out_step, to + q * step, width)
                source = address(a) + r * a.strides[0] + k * a.strides[1]
                times(
                    room, vectors, count, source, a.strides[0] // item, a.strides[1] // item, depth, panel, start,
                    start_step // item, out, out_step // item,
                )  # fmt: skip
                if out != to:
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
    total : (2, panels, m, block): [0] the sums so far, [1] what rounding has left over
    bias : (2, whole vectors) the same of the columns of A, or of size 0
    c : (m, n), contiguous in the inner axis
    """
    if seat.members == 0:
        seat = assemble(team, offer())
    item, block, (m, n) = a.itemsize, room.block, c.shape
    top, low, first, last = parts(seat, m, (n + block - 1) // block)
    panels = address(room.w) + seat.member * room.size * item
    nothing = panels + (last - first) * block * CHUNK * item
    sums = nothing + block * item
    turned = sums + (low - top) * block * item
    zero_padded(room, nothing, block)
    W = block // NV
    left, right = share((m + W - 1) // W, seat.member, seat.members)
    for r in range(begin, end, CHUNK):
        count = min(CHUNK, end - r)
        source = address(a) + r * a.strides[0]
        turn_panel(room, turned, source + top * item, a.strides[0] // item, low - top, count, CHUNK // W)
        # A few rows at a time, so that memory is read from front to back.
        for k in range(0, count, FEW):
            for j in range(first * block, last * block, block):
                width = min(block, n - j)
                vectors = vectors_of(width, W)
                beside = address(b) + (r + k) * b.strides[0] + j * item
                to = panels + ((j - first * block) * CHUNK + k * vectors * W) * item
                copy_panel(room, to, beside, b.strides[0] // item, min(FEW, count - k), width, vectors)
        for j in range(first, last):
            vectors = vectors_of(n - j * block, W)
            panel = panels + (j - first) * block * CHUNK * item
            times(room, vectors, low - top, turned, CHUNK, 1, count, panel, nothing, 0, sums, vectors * W)
            to = address(total) + (j * m * block + top * vectors * W) * item
            add_all(room, (low - top) * vectors, sums, to, total.size // 2)
        if bias.size > 0:
            columns_here = min(right * W, m) - left * W
            at = address(bias) + left * W * item
            add_columns(room, count, source + left * W * item, a.strides[0] // item, columns_here, at, bias.shape[1])
    if end == a.shape[0]:
        for j in range(first, last):
            width = vectors_of(n - j * block, W) * W
            for i in range(top, low):
                source = address(total) + (j * m * block + i * width) * item
                copy_row(room, address(c) + i * c.strides[0] + j * block * item, source, min(block, n - j * block))
    part_ways(seat)
