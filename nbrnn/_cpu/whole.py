"""Products of float32 in whole numbers, on a processor's matrix unit (AMX) and, for a few rows, in vectors (VNNI).

Numbers of a row, times a power of 2, are rounded to whole numbers of 24 bits: three *bytes* each, with an offset on one
side, with signs on the other,

    a = (a2 2^16 + a1 2^8 + a0 - 2^23) / 2^22,      0 <= a_i < 256,
    b = (b2 2^16 + b1 2^8 + b0) / 2^22,             -128 <= b_i < 128.

A product of two is nine products of bytes, of which a0 b0 doesn't matter.  By what they weigh they fall into four
*levels*, each of which is summed by itself:

    a2 b2;   a2 b1 + a1 b2;   a2 b0 + a1 b1 + a0 b2;   a1 b0 + a0 b1.

These sums are exact, in 32 bits, and so they are the same in whatever order and by whatever instruction: what stands in
a recurrence, where one sequence by itself must be fast and many must have the bits of each by itself, can be multiplied
on the unit too.  Both sides are rounded to 2^-24 of the largest of a row; a sum of floats loses about as much
(``tests/test_whole.py``).

A tile of A is 16 rows of 64 bytes; of B, 16 rows of four bytes for each of 16 columns: 64 rows of b, four at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

from .digits import SIDE, TILE, larger, magnitude, scales
from .emit import Emit, Int, Ptr, Vec
from .ends import first_lanes, load_first
from .rows import stack
from .squares import Unit

#: What is multiplied in one product of tiles (a *block*), and bytes of a number.
DEPTH, BYTES = 64, 3

#: Numbers of float32 that a tile takes, and the bytes of a block.
NUMBERS = TILE // 4
BLOCK = BYTES * NUMBERS

#: Of a vector of columns, before its tiles: what they were scaled by, and what offsets add to the first three levels.
HEAD = 4 * SIDE

#: The whole number of 1, after scaling: largest numbers become those from here to twice that.
ONE = 2.0**22

#: Of B, the largest whole number whose bytes are all signed ones.
MOST_OF_B = 127.0 * 2**16 + 127 * 2**8 + 127

#: Rows with larger numbers aren't multiplied so.
LARGEST = 2.0**60

#: With fewer weights that h enters by, there is too little to do.
LEAST_WEIGHTS = 3 * 2**14

#: Longer sums might not fit their 32 bits: a number of the third level is less than 5 * 2^14.
MOST_DEPTH = 3 * 2**13


def wanted(gates: int, H: int, K: int) -> bool:
    """Whether a layer of such sizes multiplies h in whole numbers, where there is a unit for that."""
    return gates * H * K >= LEAST_WEIGHTS and max(gates * H, K) <= MOST_DEPTH


#: So many rows, or more, are multiplied on the unit.
LEAST = 4

#: Products by level: which byte of a, and of b, 0 the highest.
LEVELS = (((0, 0),), ((0, 1), (1, 0)), ((0, 2), (1, 1), (2, 0)), ((1, 2), (2, 1)))

_I8, _I32 = ir.IntType(8), ir.IntType(32)
_LANES = ir.VectorType(_I32, SIDE)


class Whole:
    """A vector of whole numbers of 32 bits."""

    __slots__ = ("x",)

    def __init__(self, x: ir.Value) -> None:
        self.x = x

    def like(self, x: ir.Value) -> Whole:
        return Whole(x)


def _constant(x: int) -> ir.Constant:
    return ir.Constant(_LANES, [x] * SIDE)


def _load(p: Ptr) -> ir.Value:
    return p.e.b.load(p.x, typ=_LANES, align=4)


def blocks_of(parts: Any, depth: Any) -> Any:
    """Products of tiles that a row takes, of so many parts of so many numbers."""
    return parts * ((depth + (DEPTH - 1)) // DEPTH)


def column_numbers(parts: Any, depth: Any) -> Any:
    """Numbers that a vector of columns takes."""
    return HEAD + blocks_of(parts, depth) * BLOCK


def row_numbers(parts: int, depth: int, rows: int) -> int:
    """Numbers that so many rows take."""
    return (rows + SIDE - 1) // SIDE * blocks_of(parts, depth) * BLOCK


def _rounded(x: Vec) -> ir.Value:
    """The nearest whole number."""
    e = x.e
    return e.b.fptosi(e.intrinsic(f"llvm.rint.{e.suffix}", e.type, [x.x]), _LANES)


def split_columns(
    e: Emit, row: Callable[[Int, Int], Ptr], parts: Int, depth: Int, to: Ptr, note: Callable[[Vec], None]
) -> None:
    """A vector of columns of B, whose rows are ``row(part, k)``; ``note(largest)``: their largest magnitudes."""
    b, zero, last = e.b, e.vec(0.0), depth - 1

    def look(g: Int, k: Int, so_far: Vec) -> list[Vec]:
        return [larger(so_far, magnitude(row(g, k).load()))]

    (largest,) = e.loop(parts, [zero], lambda g, so_far: e.loop(depth, [so_far], lambda k, x: look(g, k, x)))
    note(largest)
    up, down = scales(largest)
    much = b.fcmp_ordered(">", (largest * up * ONE).x, e.vec(MOST_OF_B).x)
    up, down = (Vec(e, b.select(much, (x * f).x, x.x)) for x, f in ((up, 0.5), (down, 2.0)))
    each = blocks_of(1, depth)

    def block(g: Int, q: Int, sums: Sequence[Whole]) -> list[Whole]:
        out = to + (HEAD + (g * each + q) * BLOCK)

        def four(k4: Int, *sums: Whole) -> list[Whole]:
            lines, found = [_constant(0)] * BYTES, [s.x for s in sums]
            for i in range(4):
                k = q * DEPTH + k4 * 4 + i
                there = b.icmp_signed("<", k.x, depth.x)
                x = row(g, k.at_most(last)).load() * up * ONE
                rest = _rounded(Vec(e, b.select(there, x.x, zero.x)))
                for d in (2, 1, 0):
                    carried = b.ashr(b.add(rest, _constant(128)), _constant(8))
                    byte = b.sub(rest, b.shl(carried, _constant(8)))
                    found[d] = b.add(found[d], byte)
                    lines[d] = b.or_(lines[d], b.shl(b.and_(byte, _constant(255)), _constant(8 * i)))
                    rest = carried
            for d, line in enumerate(lines):
                b.store(line, (out + (d * NUMBERS + k4 * SIDE)).x, align=4)
            return [Whole(x) for x in found]

        return list(e.loop(e.integer(DEPTH // 4), sums, four))

    begun = [Whole(_constant(0))] * BYTES
    sums = e.loop(parts, begun, lambda g, *sums: e.loop(each, sums, lambda q, *sums: block(g, q, sums)))
    to.store(down)
    for d, s in enumerate(sums):
        b.store(b.mul(s.x, _constant(-128)), (to + (d + 1) * SIDE).x, align=4)


def split_rows(
    e: Emit, n: Int, row: Callable[[Int], Ptr], parts: Int, part_stride: Int, depth: Int, to: Ptr, back: Ptr
) -> None:
    """A of n rows, of parts so far apart, as tiles [16 rows][part][block][byte]; ``back`` is what they were scaled by,
    NaN of rows that can't be.
    """
    b, whole, room, most = e.b, depth // e.W, stack(e, 1), e.vec(2.0**23 - 1)
    mask, each = first_lanes(e, depth % e.W), blocks_of(1, depth)
    blocks = parts * each

    def each_vector(i: Int, body: Callable[..., Sequence[Vec]], carried: Sequence[Vec]) -> list[Vec]:
        def part(g: Int, *carried: Vec) -> list[Vec]:
            at, place = row(i) + g * part_stride, g * each * 4
            rest, end = (depth % e.W).at_most(1), at + whole * e.W
            most = e.loop(whole, carried, lambda q, *c: body(place + q, (at + q * e.W).load(), *c))
            return e.loop(rest, most, lambda _, *c: body(place + whole, load_first(end, mask), *c))

        return e.loop(parts, carried, part)

    def one(i: Int) -> None:
        (largest,) = each_vector(i, lambda q, x, so_far: [larger(so_far, magnitude(x))], [e.vec(0.0)])
        peak = e.intrinsic(f"llvm.vector.reduce.umax.v{e.W}i32", _I32, [b.bitcast(largest.x, _LANES)])
        room.put_number(b.bitcast(peak, e.scalar_type))
        top = room.broadcast()
        up, down = scales(top)
        (back + i).put_number(b.extract_element(top.if_less(LARGEST, down, math.nan).x, _I32(0)))
        out = to + (i // SIDE * blocks * BLOCK + i % SIDE * SIDE)

        def put(q: Int, x: Vec) -> list[Vec]:
            scaled = x * up * ONE
            below = Vec(e, b.select(b.fcmp_ordered("<", scaled.x, most.x), scaled.x, most.x))
            number = b.add(_rounded(below), _constant(2**23))
            at = out + (q // 4 * BLOCK + q % 4 * 4)
            for d in range(BYTES):
                line = b.trunc(b.lshr(number, _constant(16 - 8 * d)), ir.VectorType(_I8, SIDE))
                b.store(line, (at + d * NUMBERS).x, align=1)
            return []

        each_vector(i, put, [])

    e.each(n, one)


def sums_on_unit(
    unit: Unit, wanted: ir.Value, blocks: Int, a: Ptr, b: Ptr, to: Ptr, beside: Callable[[Int], None]
) -> None:
    """The levels of 16 rows of A and a vector of columns: [level][row][16], whole numbers; if they are ``wanted``.

    ``beside(block)``: what vectors do meanwhile, in any case.
    """
    e = unit.e
    with e.b.if_then(wanted):
        for t in range(4):
            unit.zero(t)

    def block(q: Int) -> None:
        with e.b.if_then(wanted):
            for d in range(BYTES):
                unit.load(5 + d, b + (HEAD + q * BLOCK + d * NUMBERS))
            for d in range(BYTES):
                unit.load(4, a + (q * BLOCK + d * NUMBERS))
                for level, pairs in enumerate(LEVELS):
                    for of_a, of_b in pairs:
                        if of_a == d:
                            unit.add_whole(level, 4, 5 + of_b)
        beside(q)

    e.each(blocks, block)
    with e.b.if_then(wanted):
        for t in range(4):
            unit.store(t, to + t * NUMBERS, TILE // SIDE)


def sums_of_row(e: Emit, blocks: Int, a: Ptr, columns: Sequence[Ptr]) -> list[list[ir.Value]]:
    """The levels of one row, whose bytes begin at ``a``, and some vectors of columns, side by side."""
    # The third level in two: else each addition would wait for the one before.
    parts = [*LEVELS[:2], LEVELS[2][::2], LEVELS[2][1:2], LEVELS[3]]

    def block(q: Int, *sums: Whole) -> list[Whole]:
        def four(k4: Int, *sums: Whole) -> list[Whole]:
            numbers = []
            for d in range(BYTES):
                at = a + (q * BLOCK + d * NUMBERS + k4)
                one = e.b.insert_element(ir.Constant(_LANES, ir.Undefined), e.b.load(at.x, typ=_I32, align=4), _I32(0))
                numbers.append(e.b.shuffle_vector(one, one, ir.Constant(_LANES, [0] * SIDE)))
            made = []
            for v, column in enumerate(columns):
                at = column + (HEAD + q * BLOCK + k4 * SIDE)
                weights = [_load(at + d * NUMBERS) for d in range(BYTES)]
                for p, pairs in enumerate(parts):
                    x = sums[v * len(parts) + p].x
                    for of_a, of_b in pairs:
                        # Four bytes as a number of 32 bits: so LLVM had them up to 20, and still takes them.
                        given = [numbers[of_a], weights[of_b]]
                        x = e.intrinsic("llvm.x86.avx512.vpdpbusd.512", _LANES, [x, *given])
                    made.append(Whole(x))
            return made

        return list(e.loop(e.integer(DEPTH // 4), sums, four))

    found = e.loop(blocks, [Whole(_constant(0))] * (len(parts) * len(columns)), block)
    levels = []
    for v in range(len(columns)):
        first, second, third, more, last = (x.x for x in found[v * len(parts) : (v + 1) * len(parts)])
        levels.append([first, second, e.b.add(third, more), last])
    return levels


def levels_at(p: Ptr) -> list[ir.Value]:
    """Of a row of what ``sums_on_unit`` has left."""
    return [_load(p + level * NUMBERS) for level in range(len(LEVELS))]


def product(levels: Sequence[ir.Value], column: Ptr, back: Vec, start: Vec) -> Vec:
    """A vector of A B + start, from its levels."""
    e = column.e
    exact = [e.b.add(x, _load(column + (d + 1) * SIDE)) for d, x in enumerate(levels[:3])]
    first, second, third, last = (Vec(e, e.b.sitofp(x, e.type)) for x in (*exact, levels[3]))
    total = last * 2.0**-36
    for x, weight in ((third, 2.0**-28), (second, 2.0**-20), (first, 2.0**-12)):
        total = e.fma(x, e.vec(weight), total)
    return e.fma(total * column.load(), back, start)
