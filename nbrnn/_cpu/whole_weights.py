"""W_hh in bytes (``whole``), beside its numbers: as a step reads it, and for the way back."""

from __future__ import annotations

import math
from collections.abc import Callable

from llvmlite import ir

from .._kernel import kernel
from . import digits, whole
from .emit import Emit, Int, Ptr, Vec
from .packing import block_vectors, known, whole_at, whole_back_at
from .rows import address, primitive
from .team import assemble, offer, part_ways
from .tiles import NV


def _split(
    e: Emit,
    vectors: Int,
    member: Int,
    members: Int,
    row: Callable[[Int, Int, Int], Ptr],
    parts: Int,
    depth: Int,
    to: Ptr,
    found: Ptr,
) -> None:
    """A member's part of so many vectors of columns: rows are ``row(vector, part, k)``."""

    def note(largest: Vec) -> None:
        found.store(digits.larger(found.load(), largest.if_less(whole.LARGEST, 0.0, math.nan)))

    def vector(k: Int) -> None:
        q = begin + k
        at = to + q * whole.column_numbers(parts, depth)
        whole.split_columns(e, lambda g, k: row(q, g, k), parts, depth, at, note)

    begin, end = digits.part(e, vectors, member, members)
    found.store(0.0)
    e.each(end - begin, vector)


def _note(e: Emit, found: Ptr, members: Int, to: Ptr) -> None:
    """Write what all members have found: a number, NaN if weights can't be multiplied so."""
    digits.note_misfits(e, found, members, to)
    spoiled = e.b.fcmp_unordered("uno", to.load().x, to.load().x)
    any_lane = e.intrinsic(f"llvm.vector.reduce.or.v{e.W}i1", ir.IntType(1), [spoiled])
    to.store(Vec(e, e.b.select(any_lane, e.vec(math.nan).x, e.vec(0.0).x)))


@primitive
def split_hidden(e, net, member, members, found):
    """A member's part of the bytes of W_hh, which is packed as a step reads it, is written behind it; and to ``found``,
    NaN if there are columns that can't be.
    """
    if not e.in_bytes:
        return
    cell, z = known(e, net)
    V = len(cell.gates) * block_vectors(cell)

    def row(q: Int, g: Int, k: Int) -> Ptr:
        j = q // V
        return net.w + (z.from_h + (j * net.K + k) * (V * e.W) + (q - j * V) * e.W)

    to = net.w + (whole_at(z) + e.W)
    _split(e, z.J * V, member, members, row, e.integer(1), net.K, to, e.ptr(found))


@primitive
def note_hidden(e, net, found, members):
    """Write what all members have found before the bytes."""
    if e.in_bytes:
        _note(e, e.ptr(found), members, net.w + whole_at(known(e, net)[1]))


@primitive
def split_back(e, net, member, members, found):
    """The same for the way back, behind all that is packed for that."""
    if not e.in_bytes:
        return
    cell, z = known(e, net)
    gates, panel = len(cell.gates), NV * e.W

    def row(q: Int, g: Int, k: Int) -> Ptr:
        return net.w + (((q // NV * gates + g) * net.H + k) * panel + q % NV * e.W)

    to = net.w + (whole_back_at(cell, z, net) + e.W)
    _split(e, z.Kp // e.W, member, members, row, e.integer(gates), net.H, to, e.ptr(found))


@primitive
def note_back(e, net, found, members):
    """The same for the way back."""
    if e.in_bytes:
        _note(e, e.ptr(found), members, net.w + whole_back_at(*known(e, net), net))


@kernel
def pack_back(seat, team, net, found):
    """Write the bytes of W_hh for the way back; ``found``: (members, W), what each has found."""
    if seat.members == 0:
        seat = assemble(team, offer())
    split_back(net, seat.member, seat.members, address(found) + seat.member * found.strides[0])
    part_ways(seat)
    if seat.member == 0:
        note_back(net, address(found), seat.members)
