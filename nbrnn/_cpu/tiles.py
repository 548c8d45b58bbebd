"""Small matrix products in registers: what all time is spent in.

A *panel* is a part of a weight matrix, packed so that one pass reads it from front to back: ``panel[k][v]`` holds, for
input k, the weights of a few vectors v of outputs.  A *tile* is a few rows times a panel; its sums live in registers.

Each sum is formed in one order, k upward, whatever the size of the tile a row falls into: so a row's result doesn't
depend on its neighbours, to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from .cost import OWN_SIZE
from .emit import LINE, Emit, Int, Ptr, Vec, truth
from .isa import V256, V512, Lanes, accumulators

#: Vectors of outputs in a panel of ``product``; columns of ``outer`` are padded to as many.
NV = 2

#: Inputs that are written out one after another, and lines fetched beside them, in tiles of so many rows at least: what
#: counts inputs takes the units that multiply, on the processors of Intel's that have vectors of 512 or 256 bits.
AT_ONCE, FETCHED, MANY_ROWS = 4, 2, 3

#: So many rows, or fewer, are multiplied by several panels of ``product`` at a time.
FEW = 2

#: With so many sums in a tile, no addition has to wait for the one before.
MANY_SUMS = 12


def tile_rows(lanes: type[Lanes], vectors: int) -> tuple[int, ...]:
    """Sizes of tiles, largest first: as many rows of ``vectors`` sums each as registers hold, then fewer."""
    most = max(1, min(8, accumulators(lanes) // vectors))
    return (most, *(size for size in (4, 3, 2, 1) if size < most))


def each_tile(n: Int, sizes: Sequence[int], body: Callable[[Int, int], None]) -> None:
    """Cover rows 0..n by tiles: ``body(first row, number of rows)``.

    A single row takes as long as two: where one would be left over, 4 rows are 2 and 2, 5 are 3 and 2, 7 are 4 and 3,
    if tiles have these sizes.
    """
    start = n.e.integer(0)
    for size in sizes:
        count = (n - start) // size
        if size > 2 and 2 in sizes:
            count = count - truth(n.e, "==", (n - start) % size, 1) * count.at_most(1)
        n.e.each(count, lambda q, size=size, start=start: body(start + q * size, size))  # type: ignore[misc]
        start = start + count * size


def each_in_turn(first: Int, count: Int, down: Int, body: Callable[[Int], None]) -> None:
    """``body(i)`` for i in [first, first + count), from the last to the first if ``down`` is 1.

    Loops over steps take panels up and down in turn: what was read last is still in the caches.
    """
    start, stride = first + down * (count - 1), 1 - down * 2
    first.e.each(count, lambda q: body(start + q * stride))


Sums = list[list[Vec]]


def large(e: Emit, rows: int) -> bool:
    """Whether a tile of so many rows has so much to do that what counts its inputs would be in the way."""
    return e.lanes in (V512, V256) and rows >= MANY_ROWS


Ahead = tuple[Int, Callable[[Int], None]]


class Turn(NamedTuple):
    """A tile of so many rows, from row ``first`` on, where tiles have ``most``."""

    first: Int
    rows: int
    most: int


def next_panel(panel: Ptr, size: Int, depth: Int, vectors: int, down: Int, turn: Turn, count: Int) -> Ahead | None:
    """What a tile does beside: fetch some of the panel after this one, from the cache that cores share.

    The first tile that is multiplied by a panel would wait for it, while those that follow find it near.  A panel has
    ``size`` numbers, ``depth`` rows of ``vectors`` each are fetched of it.  ``count`` numbers, in all panels, are gone
    through again and again: if a core's own caches hold them, there is nothing to fetch.
    """
    if turn.rows < turn.most:
        return None
    e, lines, nth = panel.e, vectors * panel.e.W * panel.e.size // LINE, turn.first // turn.most
    start = (panel + size * (1 - down * 2)).after(nth * depth * (LINE * FETCHED // AT_ONCE))

    def fetch(q: Int) -> None:
        for line in range(FETCHED):
            start.after(q * (LINE * FETCHED) + line * LINE).expect(later=True)

    wanted = truth(e, "<", nth, lines * AT_ONCE // FETCHED) * truth(e, ">", count * e.size, int(OWN_SIZE))
    return wanted, fetch


def accumulate(sums: Sums, rows: Sequence[Ptr], panel: Ptr, count: Int, ahead: Ahead | None = None) -> Sums:
    """sums[r][v] + sum over k < count of rows[r][k] * panel[k][v]; ``ahead``: see ``next_panel``."""
    return accumulate_beside(sums, rows, [panel], count, ahead)


def accumulate_beside(
    sums: Sums, rows: Sequence[Ptr], panels: Sequence[Ptr], count: Int, ahead: Ahead | None = None
) -> Sums:
    """The same with several panels, whose vectors follow each other in ``sums``."""
    e, vectors = rows[0].e, len(sums[0])
    each = vectors // len(panels)
    flat = [s for row in sums for s in row]

    def body(k: Int, *flat: Vec) -> list[Vec]:
        starts, new = [panel + k * (each * e.W) for panel in panels], list(flat)

        def load(v: int) -> Vec:
            return starts[v // each].load(v % each * e.W)

        # What there are fewer of stays in registers, while the others come one after another.
        if len(rows) < vectors:
            broadcasts = [row.broadcast(k) for row in rows]
            for v in range(vectors):
                weights = load(v)
                for r, x in enumerate(broadcasts):
                    new[r * vectors + v] = e.fma(x, weights, flat[r * vectors + v])
        else:
            panel_row = [load(v) for v in range(vectors)]
            for r, row in enumerate(rows):
                x = row.broadcast(k)
                for v, weights in enumerate(panel_row):
                    new[r * vectors + v] = e.fma(x, weights, flat[r * vectors + v])
        return new

    flat = e.loop_by(AT_ONCE, count, flat, body, ahead) if large(e, len(rows)) else e.loop(count, flat, body)
    return [list(flat[r * vectors : (r + 1) * vectors]) for r in range(len(rows))]


class Piece(NamedTuple):
    """What is computed at a time: so many numbers from ``first`` on of n rows, the last first if ``down`` is 1."""

    n: Int
    first: Int
    numbers: Int
    down: Int


def product(
    e: Emit,
    piece: Piece,
    a: Ptr,
    a_stride: Int,
    parts: Int,
    part_stride: Int,
    depth: Int,
    panels: Ptr,
    c: Ptr,
    c_stride: Int,
    add: bool,
    many: bool = False,
) -> None:
    """A piece of C (+)= A times a packed matrix, whole panels.

    If there are ``many`` rows, it matters little how the last few are covered: less to compile.

    A row of A consists of ``parts`` pieces of ``depth`` numbers, ``part_stride`` apart (the gates of one step).  The
    packed matrix is ``[panels][parts][depth][NV W]``; rows of C are padded to whole panels.
    """
    (n, first, count, down), block = piece, NV * e.W
    panel_size = parts * depth * block
    most, *fewer = tile_rows(e.lanes, NV)

    def tile(j: Int, beside: int, i: Int, size: int) -> None:
        rows = [a + (i + r) * a_stride for r in range(size)]
        width = beside * NV
        outs = [c + (i + r) * c_stride + j * block for r in range(size)]
        start = [[out.load(v * e.W) if add else e.vec(0.0) for v in range(width)] for out in outs]

        def part(g: Int, *flat: Vec) -> list[Vec]:
            sums = [list(flat[r * width : (r + 1) * width]) for r in range(size)]
            pieces, at = [row + g * part_stride for row in rows], panels + (j * panel_size + g * (depth * block))
            ahead = next_panel(at, panel_size, depth, NV, down, Turn(i, size, most), count * parts * depth)
            sums = accumulate_beside(sums, pieces, [at + panel_size * p for p in range(beside)], depth, ahead)
            return [s for row in sums for s in row]

        flat = e.loop(parts, [s for row in start for s in row], part)
        for r, out in enumerate(outs):
            for v in range(width):
                out.store(flat[r * width + v], v * e.W)

    def cover(begin: Int, number: Int, beside: int, sizes: Sequence[int]) -> None:
        def group(q: Int) -> None:
            each_tile(n, sizes, lambda i, size: tile(begin + q * beside, beside, i, size))

        each_in_turn(e.integer(0), number, down, group)

    # A sum is a chain of additions, each of which waits for the one before: those of one panel and few rows are too few
    # to keep a processor busy.
    begin, number, beside = first // block, (count + (block - 1)) // block, 4 if accumulators(e.lanes) >= 8 * NV else 2
    groups = e.integer(0)
    if not many:
        groups = number // beside * truth(e, "<=", n, FEW)
        cover(begin, groups, beside, (FEW, 1))
    cover(begin + groups * beside, number - groups * beside, 1, (most, 1) if many else (most, *fewer))


def tile_of_outer(lanes: type[Lanes], W: int) -> tuple[int, int]:
    """Rows and vectors, at most, of a tile of ``outer``.

    With few rows, more vectors: sums wait for each other, and each number of a row is used more often.
    """
    rows = min(W, 4 if accumulators(lanes) < 8 * NV else 8)
    return rows, NV + (rows * NV < MANY_SUMS and rows * (NV + 1) <= accumulators(lanes))


def outer(
    e: Emit,
    slabs: Int,
    count: Int,
    a: Ptr,
    a_step: Int,
    vectors: Int,
    b: Ptr,
    b_step: Int,
    c: Ptr,
    c_stride: Int,
    rest: Int,
    begun: Int,
) -> None:
    """C[m][v] += sum over r < count of a[r][m] * b[v][r], for the W numbers m of each of some slabs ``a`` and so many
    slabs ``b``, an even number; if ``begun`` is 0, not 1, whatever stood in C before is left out.

    A slab is ``[rows][W]``: one vector of each row, one after another, a step from the next one's.

    What is added is summed by itself first, and then added with what rounding has left over from before, which stands
    ``rest`` numbers further than C (Kahan 1965): one plain sum over a million rows would lose half of its digits.
    """
    rows, most = tile_of_outer(e.lanes, e.W)

    def tile(m: Int, first: int, v: Int, vectors: int) -> None:
        """Some rows of a slab, and some vectors."""
        out = c + ((m * e.W + first) * c_stride + v * e.W)
        outs = [out + c_stride * q for q in range(rows)]
        # The sums so far of a large matrix are in no near cache: they may come while this loop runs.
        for line in range(0, vectors * e.W * e.size, LINE):
            for out in outs:
                out.after(e.integer(line)).expect(to_write=True)
                (out + rest).after(e.integer(line)).expect(to_write=True)

        def row(r: Int, *sums: Vec) -> list[Vec]:
            column, new = a + (a_step * m + (r * e.W + first)), []
            slabs = [(b + (b_step * (v + k) + r * e.W)).load() for k in range(vectors)]
            for q in range(rows):  # each number when it is wanted: else registers run out
                x = column.broadcast(q)
                new += [e.fma(x, slab, s) for slab, s in zip(slabs, sums[q * vectors :], strict=False)]
            return new

        # Where there is a matrix unit, few rows come here: less to compile.
        at_once, begin = large(e, rows) and not e.unit, [e.vec(0.0)] * (rows * vectors)
        sums = e.loop_by(AT_ONCE, count, begin, row) if at_once else e.loop(count, begin, row)
        places = [out + k * e.W for out in outs for k in range(vectors)]

        def add(_: Int) -> None:
            for place, s in zip(places, sums, strict=True):
                add_kept(place, rest, s)

        def put(_: Int) -> None:
            for place, s in zip(places, sums, strict=True):
                place.store(s)
                (place + rest).store(0.0)

        e.each(begun, add)
        e.each(1 - begun, put)

    def some(v: Int, size: int) -> None:
        def slab(m: Int) -> None:
            for first in range(0, e.W, rows):
                tile(m, first, v, size)

        e.each(slabs, slab)

    each_tile(vectors, (most, NV) if most > NV else (NV,), some)


def add_kept(at: Ptr, rest: Int, value: Vec) -> None:
    """Add to sums what ``outer`` adds to them."""
    new, left = kept(at.load(), (at + rest).load(), value)
    at.store(new)
    (at + rest).store(left)


def kept(total: Vec, left: Vec, value: Vec) -> tuple[Vec, Vec]:
    """A sum and what is left over, with a number more."""
    more = value + left
    new = total + more
    left = more - (new - total)
    return new, abs(left).if_less(math.inf, left, 0.0)
