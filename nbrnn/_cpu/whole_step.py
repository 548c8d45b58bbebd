"""Sums of a step in whole numbers (``whole``), forward and back, and what becomes of them meanwhile.

Rows of h, or of gradients of the sums, are brought into bytes at each step; the bytes of W_hh are packed beside its
numbers (``whole_weights``), by which rows are multiplied that can't be: those with numbers that aren't finite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

from llvmlite import ir

from . import digits, tiles, whole
from .digits import SIDE
from .emit import I64, Emit, Int, Ptr, Vec, truth
from .packing import block_vectors, known, whole_at, whole_back_at
from .rows import NetView, stack
from .squares import Unit
from .tiles import NV, Piece
from .whole import NUMBERS

#: Rows that are brought into bytes at a time.
ROWS = 128


def room_size(parts: int, depth: int, rows: int) -> int:
    """Numbers that a thread wants for so many rows."""
    return ROWS + whole.row_numbers(parts, depth, min(rows, ROWS))


#: (block, vector, row, what it was scaled by, levels, column, the row's sums): a vector of a row has been multiplied.
Convert = Callable[[Int, "Int | int", Int, Vec, Sequence[ir.Value], Ptr, Ptr], None]

#: (block, row, what it was scaled by, sums): all of a block's vectors have been.
Finish = Callable[[Int, Int, Vec, Ptr], None]


class Activate(Protocol):
    """What becomes of the sums of so many rows from row i on, or of blocks ``along`` from j on, 1 or -1."""

    def __call__(self, j: Int, i: Int, count: int, sums: Ptr, along: Int | None = None) -> None: ...


class _Product:
    """Some rows times blocks of V vectors of columns.

    Parameters
    ----------
    e : Emit
    weights : Ptr
        What says whether they can be multiplied so, and their bytes.
    V, parts, depth
        Vectors of a block; parts of a row, and numbers of a part.
    blocks, low, down
        How many blocks, from which one on, and whether from the last to the first.
    room : Ptr
        Of ``room_size``: what rows are scaled by, and their bytes.
    width : int
        Numbers that each row's sums of a block want.
    convert, finish
        What is done with each vector, and with each block.
    """

    def __init__(
        self, e: Emit, weights: Ptr, V: int, parts: Int, depth: Int, blocks: Int, low: Int, down: Int, room: Ptr,
        width: int, convert: Convert, finish: Finish,
    ) -> None:  # fmt: skip
        self.e, self.weights, self.V, self.blocks, self.low, self.down = e, weights, V, blocks, low, down
        self.tiles, self.size = whole.blocks_of(parts, depth), whole.column_numbers(parts, depth)
        self.scales, self.a, self.width = room, room + ROWS, width
        self.convert, self.finish = convert, finish
        self.levels, self.sums = stack(e, 2 * len(whole.LEVELS) * NUMBERS), stack(e, 2 * SIDE * width)

    def column(self, j: Int, q: Int | int) -> Ptr:
        return self.weights + (self.e.W + (j * self.V + q) * self.size)

    def block(self, k: Int) -> Int:
        return self.low + k + self.down * (self.blocks - 1 - k * 2)

    def of(self, n: Int, rows: Callable[[Int, Int], None]) -> None:
        """For n rows, some at a time; ``rows(first, count)`` brings so many of them into bytes."""
        e = self.e

        def chunk(p: Int) -> None:
            first = p * ROWS
            count = (n - first).at_most(ROWS)
            rows(first, count)
            spoiled = self.weights.number()
            with e.b.if_then(e.b.fcmp_unordered("uno", spoiled, spoiled), likely=False):
                e.each(count, lambda i: (self.scales + i).put_number(e.scalar_type(math.nan)))
            with e.b.if_else(e.b.icmp_signed(">=", count.x, I64(whole.LEAST))) as (many, few):
                with many:
                    self._many(first, count)
                with few:
                    e.each(self.blocks, lambda k: e.each(count, lambda r: self._one(first, self.block(k), r)))

        e.each((n + (ROWS - 1)) // ROWS, chunk)

    def _one(self, first: Int, j: Int, r: Int) -> None:
        scale, columns = (self.scales + r).broadcast(), [self.column(j, q) for q in range(self.V)]
        for q, levels in enumerate(whole.sums_of_row(self.e, self.tiles, self.a + r * SIDE, columns)):
            self.convert(j, q, first + r, scale, levels, columns[q], self.sums)
        self.finish(j, first + r, scale, self.sums)

    def _many(self, begin: Int, count: Int) -> None:
        """Groups of 16 rows: while the unit multiplies by a vector, the one before is converted, and the block before
        that is finished.
        """
        e, V, unit, one = self.e, self.V, Unit(self.e), len(whole.LEVELS) * NUMBERS
        groups = (count + (SIDE - 1)) // SIDE
        total = self.blocks * groups * V

        def place(b: Int) -> tuple[Int, Int, Int]:
            """Block, first row and number of rows of a number of such."""
            k = Int(e, e.b.udiv(b.x, groups.x))
            row = (b - k * groups) * SIDE
            return self.block(k), row, (count - row).at_most(SIDE)

        def task(t: Int) -> None:
            b = t // V
            j, row, _ = place(b)
            then = t + (V - 1)
            before, q = then // V, then % V
            j1, row1, count1 = place(before - 1)
            j2, row2, count2 = place(before - 2)
            count1 = count1 * truth(e, ">=", t, 1) * truth(e, "<=", t, total)
            count2 = count2 * truth(e, ">=", before, 2)
            levels = self.levels + (t + 1) % 2 * one
            sums1, sums2 = (self.sums + (before + s) % 2 * (SIDE * self.width) for s in range(2))

            def convert(r: Int) -> None:
                i, column = row1 + r, self.column(j1, q)
                found, sums = whole.levels_at(levels + r * SIDE), sums1 + r * self.width
                self.convert(j1, q, begin + i, (self.scales + i).broadcast(), found, column, sums)

            def finish(r: Int) -> None:
                i = row2 + r
                self.finish(j2, begin + i, (self.scales + i).broadcast(), sums2 + r * self.width)

            def part(n: Int, number: Int, of: Int, body: Callable[[Int], None]) -> None:
                first, last = digits.part(e, n, number, of)
                e.each(last - first, lambda r: body(first + r))

            def beside(p: Int) -> None:
                part(count1, p, self.tiles, convert)
                part(count2, q * self.tiles + p, steps, finish)

            steps, go = self.tiles * V, e.b.icmp_signed("<", t.x, total.x)
            a = self.a + Int(e, e.b.udiv(row.x, I64(SIDE))) * (self.tiles * whole.BLOCK)
            whole.sums_on_unit(unit, go, self.tiles, a, self.column(j, t % V), self.levels + t % 2 * one, beside)

        unit.begin()
        e.each(total + (V + 1), task)
        unit.end()


def each_row(e: Emit, net: NetView, piece: Piece, starts: Ptr, fed: Ptr, room: Ptr, activate: Activate) -> None:
    """Activate rows and blocks of units, as ``steps.step`` has them."""
    (n, first, count, down), (cell, z) = piece, known(e, net)
    S, V = cell.sums() * block_vectors(cell), len(cell.gates) * block_vectors(cell)
    one, zero = e.integer(1), e.integer(0)

    def rows(begin: Int, count: Int) -> None:
        whole.split_rows(e, count, lambda i: fed + (begin + i) * z.Kp, one, zero, net.K, room + ROWS, room)

    def start(j: Int, q: Int | int, i: Int) -> Vec:
        return (starts.address_at(i) + (j * S + q) * e.W).load()

    def convert(j: Int, q: Int | int, i: Int, scale: Vec, levels: Sequence[ir.Value], column: Ptr, sums: Ptr) -> None:
        place = q + (S - V)
        (sums + place * e.W).store(whole.product(levels, column, scale, start(j, place, i)))

    def finish(j: Int, i: Int, scale: Vec, sums: Ptr) -> None:
        for q in range(S - V):  # to which h adds nothing
            (sums + q * e.W).store(start(j, q, i))
        number = e.b.extract_element(scale.x, ir.IntType(32)(0))
        with e.b.if_then(e.b.fcmp_unordered("uno", number, number), likely=False):
            panel, places = net.w + (z.from_h + j * (net.K * (V * e.W))), range(S - V, S)
            begun = [start(j, q, i) for q in places]
            for q, value in zip(places, tiles.accumulate([begun], [fed + i * z.Kp], panel, net.K)[0], strict=True):
                (sums + q * e.W).store(value)
        activate(j, i, 1, sums)

    weights = net.w + whole_at(z)
    sizes = (V, one, net.K, count // z.U, first // z.U, down)
    _Product(e, weights, *sizes, room, S * e.W, convert, finish).of(n, rows)


def carry_back(
    e: Emit, net: NetView, piece: Piece, dsums: Ptr, stride: int | Int, dh: Ptr, add: bool, room: Ptr
) -> None:
    """A piece of dh (+)= gradients of the sums times W_hh, as ``steps.carry`` has them."""
    (n, first, count, down), (cell, z) = piece, known(e, net)
    gates, panel = e.integer(len(cell.gates)), NV * e.W

    def rows(begin: Int, count: Int) -> None:
        whole.split_rows(e, count, lambda i: dsums + (begin + i) * stride, gates, z.Hp, net.H, room + ROWS, room)

    def convert(j: Int, q: Int | int, i: Int, scale: Vec, levels: Sequence[ir.Value], column: Ptr, sums: Ptr) -> None:
        out = dh + (i * z.Kp + (j * NV + q) * e.W)
        begun = out.load() if add else e.vec(0.0)
        out.store(whole.product(levels, column, scale, begun))
        number = e.b.extract_element(scale.x, ir.IntType(32)(0))
        with e.b.if_then(e.b.fcmp_unordered("uno", number, number), likely=False):

            def part(g: Int, sum_so_far: Vec) -> list[Vec]:
                row, at = dsums + (i * stride + g * z.Hp), net.w + ((j * gates + g) * net.H * panel + q * e.W)
                return e.loop(
                    net.H, [sum_so_far], lambda k, s: [e.fma((row + k).broadcast(), (at + k * panel).load(), s)]
                )

            out.store(e.loop(gates, [begun], part)[0])

    def finish(j: Int, i: Int, scale: Vec, sums: Ptr) -> None:
        pass

    weights, blocks = net.w + whole_back_at(cell, z, net), (count + (panel - 1)) // panel
    sizes = (NV, gates, net.H, blocks, first // panel, down)
    _Product(e, weights, *sizes, room, e.W, convert, finish).of(n, rows)
