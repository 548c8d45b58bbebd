"""Panels of a matrix, and rows times a panel: what products of matrices with many rows are made of (``dense``).

A panel is what ``tiles`` calls so, with up to ``NV`` vectors for each k; the last panel of a matrix has as few as it
needs.  Each sum is formed in one order, k upward, whatever the tile a row falls into.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from llvmlite import ir

from .._kernel import part
from . import tiles
from .emit import Int, Ptr, Vec, truth
from .ends import first_lanes, load_first, store_first
from .rows import primitive

#: Vectors in a row of a panel: the last panel may have fewer.
NV, FEWER = 4, (2, 1)

#: Sums of a column that are formed side by side: an addition has to wait for the one before.
SIDE = 4


class Room(NamedTuple):
    """What a call works in: so many numbers for each member."""

    w: Any
    lanes: Any
    block: int  #: numbers in a row of a panel
    size: int  #: for a member


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


@primitive
def put_rows(e, room, to, stride, source, depth, width, vectors):
    """``to[k * stride + j] = source[k][j]``, likewise."""
    to, source, whole = e.ptr(to), e.ptr(source), width // e.W
    mask = first_lanes(e, width % e.W)

    def row(k: Int) -> None:
        out, at = to + k * stride, source + k * (vectors * e.W)
        e.each(whole, lambda v: (out + v * e.W).store((at + v * e.W).load()))
        rest = whole * e.W
        e.each((width % e.W).at_most(1), lambda _: store_first(out + rest, (at + rest).load(), mask))

    e.each(depth, row)


def times_panel(vectors: int) -> Any:
    """The primitive for panels with so many vectors in a row:

    c[r * c_row + v] = start[r * start_row + v] + sum over k of a[r * a_row + k] * panel[k][v], for r < n.
    """

    def times(e, room, n, a, a_row, depth, panel, start, start_row, c, c_row):
        a, panel, start, c = map(e.ptr, (a, panel, start, c))

        def tile(first: Int, size: int) -> None:
            rows = [a + (first + r) * a_row for r in range(size)]
            begin = [start + (first + r) * start_row for r in range(size)]

            def body(k: Int, *sums: Vec) -> list[Vec]:
                at = panel + k * (vectors * e.W)
                weights = [at.load(v * e.W) for v in range(vectors)]
                broadcasts = [row.broadcast(k) for row in rows]
                return [e.fma(broadcasts[q // vectors], weights[q % vectors], s) for q, s in enumerate(sums)]

            sums = [p.load(v * e.W) for p in begin for v in range(vectors)]
            sums = e.loop_by(tiles.AT_ONCE, depth, sums, body) if tiles.large(e, size) else e.loop(depth, sums, body)
            for q, s in enumerate(sums):
                (c + (first + q // vectors) * c_row).store(s, q % vectors * e.W)

        tiles.each_tile(n, tiles.tile_rows(e.lanes, vectors), tile)

    return primitive(times)


times_whole, times_two, times_one = map(times_panel, (NV, *FEWER))


@primitive
def add_all(e, room, vectors, sums, total, rest):
    """total[v] += sums[v] for v < vectors."""
    sums, total = e.ptr(sums), e.ptr(total)
    e.each(vectors, lambda v: tiles.add_kept(total + v * e.W, rest, (sums + v * e.W).load()))


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
        tiles.add_kept(to, rest, (first + sums[1]) + (sums[2] + sums[3]))

    e.each(n // e.W, lambda v: some(a + v * e.W, total + v * e.W, Ptr.load))
    whole, mask = n // e.W * e.W, first_lanes(e, n % e.W)
    e.each((n % e.W).at_most(1), lambda _: some(a + whole, total + whole, lambda p: load_first(p, mask)))


@part(inline=True)
def times(room, vectors, n, a, a_row, depth, panel, start, start_row, c, c_row):
    """See ``times_panel``."""
    if vectors == NV:
        times_whole(room, n, a, a_row, depth, panel, start, start_row, c, c_row)
    elif vectors == 2:
        times_two(room, n, a, a_row, depth, panel, start, start_row, c, c_row)
    else:
        times_one(room, n, a, a_row, depth, panel, start, start_row, c, c_row)


@part(inline=True)
def vectors_of(width, W):
    """Vectors in a row of a panel of so many numbers."""
    return 1 if width <= W else (2 if width <= 2 * W else NV)
