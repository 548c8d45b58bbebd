"""Gradients of inputs: rows of gradients of the sums times W_ih, as many as are at hand."""

from __future__ import annotations

import math

from numba import types
from numba.extending import intrinsic

from .._kernel import kernel, part
from . import digits, squares, tiles
from .digits import DEPTH, ROW
from .emit import I64, Int, Ptr, Vec
from .rows import add_row, address, copy_row, emitter, primitive
from .team import assemble, offer, part_ways

NV = tiles.NV

#: Numbers that the digits of rows take which are multiplied for dx at a time: they stay in a core's own caches.
OWN_DIGITS = 2**17

#: dx comes by digits where so many sums are added up at least, and so many numbers of a gate.
LEAST_SUMS, LEAST_UNITS = 256, 32


def digits_wanted(I: int, H: int, gates: int) -> bool:
    """Whether dx of a layer of such sizes comes by digits, where there is a unit for that, whatever the rows."""
    return gates * H >= LEAST_SUMS and H >= LEAST_UNITS and I * H * gates <= digits.MOST_WEIGHTS


@primitive
def dx_rows(e, panels, n, dsums, stride, out, out_stride):
    """n rows of dx: gradients of the sums times W_ih."""
    piece, parts = tiles.Piece(n, e.integer(0), panels.I, e.integer(0)), panels.gates
    dsums, out = e.ptr(dsums), e.ptr(out)
    tiles.product(
        e, piece, dsums, stride, parts, panels.slot, panels.H, panels.w, out, out_stride, add=False, many=True
    )


@primitive
def split_panels(e, panels, member, members, to, found):
    """A member's part of the digits of W_ih, which is packed as ``dx_rows`` reads it; and to ``found``, what they are
    good for.
    """
    if not e.unit:
        return
    blocks, width, last = digits.blocks_of(panels.H), NV * e.W, panels.H - 1
    apart, misfits, tiles_of = panels.gates * blocks, e.ptr(found), e.ptr(to) + e.W
    begin, end = digits.part(e, (panels.I + (width - 1)) // width * panels.gates, member, members)

    def part(k: Int, so_far: Vec) -> list[Vec]:
        q = begin + k
        panel, gate = Int(e, e.b.udiv(q.x, panels.gates.x)), Int(e, e.b.urem(q.x, panels.gates.x))
        source, out = panels.w + q * panels.H * width, tiles_of + digits.tile(e, panel * NV * apart + gate * blocks)

        def row(k: Int) -> Ptr:
            return source + k.at_most(last) * width

        digits.split(e, row, panels.H, e.integer(width), e.integer(NV), out, misfits, apart)
        return [digits.larger(so_far, misfits.load())]

    (all_misfits,) = e.loop(end - begin, [e.vec(0.0)], part)
    misfits.store(all_misfits)


@primitive
def note_panels(e, panels, found, members, to):
    """See ``digits.note_misfits``."""
    if e.unit:
        digits.note_misfits(e, e.ptr(found), members, e.ptr(to))


@kernel
def pack_dx_digits(seat, team, panels, to, found):
    """Write ``panels.digits``.

    ``found``: (members, W), what each has found.
    """
    if seat.members == 0:
        seat = assemble(team, offer())
    mine = address(found) + seat.member * found.strides[0]
    split_panels(panels, seat.member, seat.members, address(to), mine)
    part_ways(seat)
    if seat.member == 0:
        note_panels(panels, address(found), seat.members, address(to))


@primitive
def dx_digits(e, panels, n, dsums, stride, out, out_stride, room, rows, weights):
    """``dx_rows`` on a matrix unit; of so many ``rows`` numbers at ``room``, those of rows not finite are NaN."""
    if not e.unit:
        return
    dsums, out, back, weights = map(e.ptr, (dsums, out, room, weights))
    a, blocks = back + rows, panels.gates * digits.blocks_of(panels.H)
    digits.split_rows(e, n, lambda i: dsums + i * stride, panels.gates, panels.slot, panels.H, a, back)
    vectors = (panels.I + (NV * e.W - 1)) // (NV * e.W) * NV
    zero = e.vec(0.0)

    def place(i: Int, k: Int) -> Ptr:
        return out + (i * out_stride + k * e.W)

    squares.product(e, n, blocks, a, back, vectors, weights + e.W, lambda k: zero, place)


@intrinsic
def all_finite(typingctx, panels, at, n):
    """Whether n numbers are."""

    def emit(context, builder, signature, arguments):
        e = emitter(builder, signature.args[0])
        numbers = e.ptr(Int(e, arguments[1]))

        def look(k: Int, found: Int) -> list[Int]:
            x = e.intrinsic(f"llvm.fabs.f{e.bits}", e.scalar_type, [(numbers + k).number()])
            return [found + Int(e, builder.zext(builder.fcmp_unordered(">=", x, e.scalar_type(math.inf)), I64))]

        (found,) = e.loop(Int(e, arguments[2]), [e.integer(0)], look)
        return builder.icmp_signed("==", found.x, I64(0))

    return types.boolean(panels, types.int64, types.int64), emit


@part(pasted=True)
def put_dx(panels, begin, end, at, stride, add, work):
    """Write (or add to) rows [begin, end) of dx, at the addresses in the table; what they come of is ``stride`` bytes
    apart.  The digits of ``work`` are free for that.
    """
    dxs, item, width = work.tables[3], work.dx.itemsize, work.dx.shape[1] * work.dx.itemsize
    by_digits, most, backs = False, max(end - begin, 1), work.digits.reshape(-1)
    if panels.digits.size > 0:
        by_digits = all_finite(panels, address(panels.digits), work.slabs.shape[2])
    if by_digits:
        each = panels.gates * ((panels.H + DEPTH - 1) // DEPTH) * ROW
        most = max(min(OWN_DIGITS, work.digits.size - len(dxs)) // each // DEPTH * DEPTH, DEPTH)
    for first in range(begin, end, most):
        count, source, to = min(most, end - first), at + first * stride, address(work.dx)
        each = count
        if by_digits:
            places = (source, stride // item, to, width // item, address(backs), len(dxs), address(panels.digits))
            dx_digits(panels, count, *places)
            each = count // count
        for r in range(0, count, each):
            if not (by_digits and math.isfinite(backs[r])):
                dx_rows(panels, each, source + r * stride, stride // item, to + r * width, width // item)
        for r in range(count):
            if add:
                add_row(panels, dxs[first + r], to + r * width, panels.I)
            else:
                copy_row(panels, dxs[first + r], to + r * width, panels.I)
