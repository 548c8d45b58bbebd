"""Products of matrices on a processor's matrix unit (AMX), of numbers that have been brought into digits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

from . import tiles
from .digits import SIDE, TILE, blocks_of, tile, where
from .emit import I64, Emit, Int, Ptr, Vec
from .rows import stack

#: Which digits are multiplied, in an order in which tiles that are there are used again.
PAIRS = ((2, 0), (1, 0), (1, 1), (0, 1), (0, 0), (0, 2))

_I8, _I16 = ir.IntType(8), ir.IntType(16)


class Unit:
    """The instructions, for eight tiles of 1 KB."""

    def __init__(self, e: Emit) -> None:
        self.e = e

    def _do(self, name: str, *arguments: ir.Value) -> None:
        self.e.intrinsic(f"llvm.x86.{name}", ir.VoidType(), arguments)

    def begin(self) -> None:
        """Make all tiles as large as they can be."""
        e = self.e
        form = stack(e, 16)
        form.store(0.0)
        b = e.b
        for place, value, kind in [
            (0, 1, _I8),
            *((16 + 2 * t, 64, _I16) for t in range(8)),
            *((48 + t, SIDE, _I8) for t in range(8)),
        ]:
            b.store(kind(value), form.after(e.integer(place)).x, align=1)
        self._do("ldtilecfg", form.x)

    def end(self) -> None:
        """Give them back: whoever has tiles costs more to be interrupted."""
        self._do("tilerelease")

    def zero(self, t: int) -> None:
        self._do("tilezero", _I8(t))

    def load(self, t: int, at: Ptr) -> None:
        """Rows that follow each other."""
        self._do("tileloadd64", _I8(t), at.x, I64(64))

    def add_product(self, c: int, a: int, b: int) -> None:
        self._do("tdpbf16ps", _I8(c), _I8(a), _I8(b))

    def add_whole(self, c: int, a: int, b: int) -> None:
        """Products of bytes, those of A without signs."""
        self._do("tdpbusd", _I8(c), _I8(a), _I8(b))

    def store(self, t: int, at: Ptr, stride: int) -> None:
        """Rows, so many bytes apart."""
        self._do("tilestored64", _I8(t), at.x, I64(stride))


Put = Callable[[Ptr, Int, Int, Int, Int], None]


def squares(e: Emit, rows: Int, vectors: Int, blocks: Int, a: Ptr, b: Ptr, put: Put) -> None:
    """A B for so many rows of A, with room for 32 more, so many vectors (2 at least) of B and blocks of both.

    ``put(sums, m, k, first, last)``: rows [first, last) of a square of sums that begins at row m and vector k are at
    ``sums``, 32 numbers each.  That is done while the unit multiplies for the next square: it takes long enough, and
    vectors have nothing else to do.
    """
    unit, step, width = Unit(e), tile(e, blocks), 2 * e.W
    room, other = stack(e, 4 * SIDE * SIDE), stack(e, 4 * SIDE * SIDE)

    def square(m: Int, k: Int, before: Sequence[Any]) -> Sequence[Any]:
        left, right = [a + (m * 2 + p) * step for p in range(2)], [b + (k + p) * step for p in range(2)]
        sums, m_before, k_before, count = before
        first = m * (2 * SIDE)
        mine = (rows - first).at_most(2 * SIDE)
        for t in range(4):
            unit.zero(t)

        def block(q: Int) -> None:
            there: dict[int, int] = {}

            def bring(t: int, source: Ptr, digit: int) -> None:
                if there.get(t) != digit:
                    there[t] = digit
                    unit.load(t, source + (tile(e, q) + digit * (TILE // e.size)))

            for da, db in PAIRS:
                for p in range(2):
                    for s in range(2):
                        bring(4 + p, left[p], da)
                        bring(6 + s, right[s], db)
                        unit.add_product(2 * p + s, 4 + p, 6 + s)
            put(sums, m_before, k_before, part(q, count), part(q + 1, count))

        def part(q: Int, n: Int) -> Int:
            return Int(e, e.b.udiv((q * n).x, blocks.x))

        e.each(blocks, block)
        here = Ptr(e, e.b.select(e.b.icmp_unsigned("==", sums.x, room.x), other.x, room.x))
        for p in range(2):
            for s in range(2):
                unit.store(2 * p + s, here + (p * SIDE * width + s * e.W), width * e.size)
        return here, first, k, mine

    # Of B, which may be in no near cache, each part is read once.
    def column(q: Int, *before: Any) -> Sequence[Any]:
        k, high = (q * 2).at_most(vectors - 2), (rows + (2 * SIDE - 1)) // (2 * SIDE)
        return e.loop(high, before, lambda m, *before: square(m, k, before))

    unit.begin()
    zero = e.integer(0)
    sums, m, k, count = e.loop((vectors + 1) // 2, [room, zero, zero, zero], column)
    unit.end()
    put(sums, m, k, zero, count)


def outer(
    e: Emit,
    vectors: Int,
    count: Int,
    a: Ptr,
    back: Ptr,
    beside: Int,
    b: Ptr,
    c: Ptr,
    c_stride: Int,
    rest: Int,
    begun: Int,
) -> None:
    """``tiles.outer`` for so many vectors of A, what its columns were scaled by, and ``beside`` vectors of B."""
    width, has_begun = 2 * e.W, e.b.trunc(begun.x, ir.IntType(1))

    def add(sums: Ptr, m: Int, k: Int, first: Int, last: Int) -> None:
        def row(i: Int) -> None:
            r = first + i
            out, at, scale = c + ((m + r) * c_stride + k * e.W), sums + r * width, (back + m).broadcast(r)
            for s in range(2):
                total, left = out + s * e.W, out + rest + s * e.W
                sum_so_far, more = where(has_begun, total.load()), where(has_begun, left.load())
                new, lost = tiles.kept(sum_so_far, more, at.load(s * e.W) * scale)
                total.store(new)
                left.store(lost)

        e.each(last - first, row)

    squares(e, vectors * SIDE, beside, blocks_of(count), a, b, add)


def product(
    e: Emit,
    n: Int,
    blocks: Int,
    a: Ptr,
    back: Ptr,
    vectors: Int,
    b: Ptr,
    start: Callable[[Int], Vec],
    to: Callable[[Int, Int], Ptr],
) -> None:
    """Rows of C = A B + start, for what ``split_rows`` has made of n rows: ``to(row, vector)`` of C."""

    def write(sums: Ptr, m: Int, k: Int, first: Int, last: Int) -> None:
        begin = [start(k + s) for s in range(2)]

        def row(i: Int) -> None:
            r = first + i
            at, scale = sums + r * (2 * e.W), (back + m).broadcast(r)
            for s in range(2):
                to(m + r, k + s).store(at.load(s * e.W) * scale + begin[s])

        e.each(last - first, row)

    squares(e, n, vectors, blocks, a, b, write)
