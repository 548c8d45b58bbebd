"""Products of float32 on a processor's matrix unit (AMX), which multiplies numbers of 8 bits and sums them in float32.

A float32 has 24 bits: it is the sum of three numbers of 8, its *digits*, the first of which is x rounded, the second
what is left, rounded, the third what is left of that.  A product of two numbers is nine products of digits, of which
three don't matter:

    x y = x1 y1 + (x1 y2 + x2 y1) + (x1 y3 + x2 y2 + x3 y1) + at most 2^-23 |x y|, of either sign.

Each product of digits is exact, and the unit forms six of them in less than half of the time in which a fused
multiply-add forms one of whole numbers (Henry, Tang and Heinecke, "Leveraging the bfloat16 artificial intelligence
datatype for higher-precision computations", ARITH 2019).  Sums of 32 products are added up by themselves first: errors
are no larger than those of a plain sum (``tests/test_digits.py``).

A *tile* of the unit is 16 rows of 64 bytes.  C, 16 rows and columns of float32, takes in A B for tiles of digits

    A[m][j] = (a[j][m], a[j + 16][m]),    B[j][k] = (b[j][k], b[j + 16][k]),

of 32 rows of what stands to its left and its right: which pairs are made doesn't matter as long as both have the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from llvmlite import ir

from . import tiles
from .emit import Emit, Int, Ptr, Vec
from .ends import first_lanes, load_first
from .panels import columns_of
from .rows import stack

#: Rows of a tile, and what is summed in one product of tiles (a *block*), bytes of a tile, and digits.
SIDE, DEPTH, TILE, DIGITS = 16, 32, 1024, 3

#: Of more weights no digits are kept: they take half as much again as the weights do.
MOST_WEIGHTS = 2**24

#: Bytes of the digits of a row of a block, as numbers of float32.
ROW = DIGITS * SIDE

_I32 = ir.IntType(32)
_HIGH = 0xFFFF0000

#: Numbers below can be multiplied: digits of larger ones could be infinite.  And what isn't 0 must not be so small that
#: the unit, which takes subnormal numbers for 0, would miss much of it.
LARGEST, SMALLEST = 2.0**120, 2.0**-60


def part(e: Emit, n: Int, number: Int, of: Int) -> tuple[Int, Int]:
    """[begin, end): the part of range(n) that falls to one of so many, as ``team.share`` has it."""
    begin, end = (Int(e, e.b.udiv((n * q).x, of.x)) for q in (number, number + 1))
    return begin, end


def where(yes: ir.Value, x: Vec) -> Vec:
    """The numbers, or else 0."""
    return Vec(x.e, x.e.b.select(yes, x.x, x.e.vec(0.0).x))


def blocks_of(count: Int) -> Int:
    """How many products of tiles so many rows are."""
    return (count + (DEPTH - 1)) // DEPTH


def numbers_of(n: int) -> int:
    """Numbers that the digits of a row of n numbers take."""
    return (n + DEPTH - 1) // DEPTH * ROW


def note_misfits(e: Emit, found: Ptr, members: Int, to: Ptr) -> None:
    """Write whether numbers of all columns can be multiplied, of what each of so many members has found."""

    def member(q: Int, so_far: Vec) -> list[Vec]:
        return [larger(so_far, (found + q * e.W).load())]

    (all_of_them,) = e.loop(members, [e.vec(0.0)], member)
    to.store(all_of_them)


def _integers(x: Vec) -> ir.Value:
    return x.e.b.bitcast(x.x, x.e.bits_type)


def _numbers(e: Emit, bits: ir.Value) -> Vec:
    return Vec(e, e.b.bitcast(bits, e.type))


def magnitude(x: Vec) -> Vec:
    """|x|, to be compared as integers: infinity is large, NaN larger."""
    e = x.e
    return _numbers(e, e.b.and_(_integers(x), e.bits_of(0x7FFFFFFF)))


def larger(x: Vec, y: Vec) -> Vec:
    """The larger of two such."""
    e = x.e
    a, b = _integers(x), _integers(y)
    return _numbers(e, e.b.select(e.b.icmp_unsigned(">", a, b), a, b))


def digits_of(x: Vec) -> list[ir.Value]:
    """The three, each in the upper half of an integer whose lower one is 0."""
    e = x.e

    def rounded(x: Vec) -> ir.Value:
        return e.b.and_(e.b.add(_integers(x), e.bits_of(0x8000)), e.bits_of(_HIGH))

    first = rounded(x)
    rest = x - _numbers(e, first)
    second = rounded(rest)
    # What is left has 8 bits or fewer.
    return [first, second, e.b.and_(_integers(rest - _numbers(e, second)), e.bits_of(_HIGH))]


def _put_pairs(x: Vec, y: Vec, to: Ptr) -> None:
    """A row of the tile of each digit."""
    e = x.e
    for d, (low, high) in enumerate(zip(digits_of(x), digits_of(y), strict=True)):
        both = e.b.or_(e.b.lshr(low, e.bits_of(16)), high)
        (to + d * (TILE // e.size)).store(_numbers(e, both))


def tile(e: Emit, n: Int) -> Int:
    """Where the digits of the n-th block begin, in numbers."""
    return n * (DIGITS * TILE // e.size)


def split(
    e: Emit,
    row: Callable[[Int], Ptr],
    count: Int,
    n: Int,
    vectors: Int,
    to: Ptr,
    misfits: Ptr,
    apart: Int | None = None,
) -> None:
    """B of n columns and so many rows: tiles [vector][block][digit], of so many vectors, as many blocks ``apart`` as
    there are, or more.

    ``row(r)`` may be any for r >= count.  ``misfits``: a vector, of zeros if numbers of all columns can be multiplied.
    """
    blocks, whole = blocks_of(count), n // e.W

    def some(v: Int, load: Callable[[Ptr], Vec], size: int) -> None:
        """Several vectors: rows lie apart, so that reading anything of one costs more than reading a little more."""
        outs = [to + tile(e, (v + s) * (apart or blocks)) for s in range(size)]

        def block(q: Int, *largest: Vec) -> list[Vec]:
            def pair(j: Int, *largest: Vec) -> list[Vec]:
                places = [q * DEPTH + j + half for half in (0, SIDE)]
                there = [e.b.icmp_signed("<", r.x, count.x) for r in places]
                starts, found = [row(r) + v * e.W for r in places], []
                for s, so_far in enumerate(largest):
                    x, y = (where(yes, load(p + s * e.W)) for yes, p in zip(there, starts, strict=True))
                    _put_pairs(x, y, outs[s] + (tile(e, q) + j * e.W))
                    found.append(larger(so_far, larger(magnitude(x), magnitude(y))))
                return found

            return list(e.loop(e.integer(SIDE), largest, pair))

        for found in e.loop(blocks, [e.vec(0.0)] * size, block):
            misfits.store(larger(misfits.load(), misfit(found)))

    def rest(i: Int) -> None:
        there = first_lanes(e, n - (whole + i) * e.W)
        some(whole + i, lambda p: load_first(p, there), 1)

    misfits.store(0.0)
    tiles.each_tile(whole, (4, 1), lambda v, size: some(v, Ptr.load, size))
    e.each(vectors - whole, rest)


def misfit(largest: Vec) -> Vec:
    """0 where numbers of such largest magnitude can be multiplied, else NaN."""
    zero = largest.if_at_most(0.0, 0.0, largest.if_less(SMALLEST, math.nan, 0.0))
    return largest.if_less(LARGEST, zero, math.nan)


def scales(largest: Vec) -> tuple[Vec, Vec]:
    """Powers of 2 that bring numbers of such largest magnitudes into [1, 4), and their inverses, lane by lane."""
    e = largest.e
    exponent = e.b.lshr(_integers(largest), e.bits_of(23))
    for relation, bound in ("<", 1), (">", 253):
        beyond = e.b.icmp_unsigned(relation, exponent, e.bits_of(bound))
        exponent = e.b.select(beyond, e.bits_of(bound), exponent)
    up, down = (e.b.shl(x, e.bits_of(23)) for x in (e.b.sub(e.bits_of(254), exponent), exponent))
    return _numbers(e, up), _numbers(e, down)


def split_turned(e: Emit, vectors: Int, count: Int, slabs: Ptr, step: Int, to: Ptr, largest: Ptr, back: Ptr) -> None:
    """A of so many vectors of columns: slabs [rows][W], ``step`` numbers apart, become tiles [vector][block][digit].

    Each column is scaled so that digits of small numbers aren't lost: ``largest`` are their largest magnitudes, which
    must be finite; ``back`` is what products have to be multiplied by, written.
    """
    blocks, room, scale = blocks_of(count), stack(e, DEPTH * e.W), stack(e, e.W)

    def vector(v: Int) -> None:
        slab, out = slabs + v * step, to + tile(e, v * blocks)
        rest = slab + count * e.W
        e.each(blocks * DEPTH - count, lambda r: (rest + r * e.W).store(0.0))
        up, down = scales((largest + v * e.W).load())
        scale.store(up)
        (back + v * e.W).store(down)

        def block(q: Int) -> None:
            rows, at_tile = slab + q * (DEPTH * e.W), out + tile(e, q)

            def half(p: Int) -> None:
                at, turned = rows + p * (SIDE * e.W), room + p * (SIDE * e.W)
                for m, column in enumerate(columns_of([at.load(j * e.W) for j in range(SIDE)])):
                    turned.store(column * scale.broadcast(m), m * e.W)

            e.each(e.integer(2), half)

            def row(m: Int) -> None:
                at = room + m * e.W
                _put_pairs(at.load(), at.load(SIDE * e.W), at_tile + m * e.W)

            e.each(e.integer(SIDE), row)

        e.each(blocks, block)

    e.each(vectors, vector)


def split_rows(
    e: Emit, n: Int, row: Callable[[Int], Ptr], parts: Int, part_stride: Int, depth: Int, to: Ptr, back: Ptr
) -> None:
    """A of n rows, of ``parts`` pieces of ``depth`` numbers, ``part_stride`` apart, as tiles
    [16 rows][part][block][digit].

    Each row is scaled likewise; ``back`` of a row with numbers that aren't finite is NaN: its products are worth
    nothing, those of the others are what they would be without it.
    """
    blocks, whole = blocks_of(depth), depth // DEPTH
    ends = [first_lanes(e, depth % DEPTH - half) for half in (0, SIDE)]

    def each_block(i: Int, body: Callable[..., Sequence[Vec]], carried: Sequence[Vec]) -> list[Vec]:
        """``body(block, numbers of its first half, and of its second)``."""

        def part(g: Int, *carried: Vec) -> list[Vec]:
            source, place = row(i) + g * part_stride, g * blocks

            def full(q: Int, *_: Vec) -> Sequence[Vec]:
                at = source + q * DEPTH
                return body(place + q, at.load(), at.load(SIDE), *_)

            def last(q: Int, *_: Vec) -> Sequence[Vec]:
                at = source + whole * DEPTH
                halves = [load_first(at + half, there) for half, there in zip((0, SIDE), ends, strict=True)]
                return body(place + whole, *halves, *_)

            return list(e.loop(blocks - whole, e.loop(whole, carried, full), last))

        return list(e.loop(parts, carried, part))

    def one(i: Int) -> None:
        def look(q: Int, x: Vec, y: Vec, so_far: Vec) -> list[Vec]:
            return [larger(so_far, larger(magnitude(x), magnitude(y)))]

        (largest,) = each_block(i, look, [zero])
        peak = e.intrinsic(f"llvm.vector.reduce.umax.v{e.W}i32", _I32, [_integers(largest)])
        room.put_number(e.b.bitcast(peak, e.scalar_type))
        up, down = scales(room.broadcast())
        finite = e.b.icmp_unsigned("<", peak, _I32(0x7F800000))
        (back + i).put_number(e.b.select(finite, e.b.extract_element(down.x, _I32(0)), e.scalar_type(math.nan)))
        out = to + (tile(e, i // SIDE * (parts * blocks)) + i % SIDE * e.W)

        def put(q: Int, x: Vec, y: Vec) -> list[Vec]:
            _put_pairs(x * up, y * up, out + tile(e, q))
            return []

        each_block(i, put, [])

    room, zero = stack(e, 1), e.vec(0.0)
    e.each(n, one)
