"""What inputs add to the sums of a layer, for many rows at once: what stands in no recurrence."""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .._kernel import kernel, part
from . import digits, squares
from .emit import Int
from .packing import block_vectors, digits_at, known
from .rows import NetView, address, emitter, primitive
from .team import assemble, offer, part_ways
from .tiles import Turn, accumulate, each_in_turn, each_tile, next_panel, tile_rows
from .whole_weights import note_hidden, split_hidden

#: With fewer inputs, or fewer sums of them, there is too little for a matrix unit to do.
LEAST_INPUTS, LEAST_OUTPUTS = 128, 256

#: Rows that are brought into digits at a time, if there is so much room.
ROWS = 128


def digits_wanted(I: int, outputs: int) -> bool:
    """Whether a layer of such sizes multiplies its inputs by digits, where there is a unit for that.

    A matter of sizes alone: so a sequence's results don't depend on how many rows there are.
    """
    return I >= LEAST_INPUTS and outputs >= LEAST_OUTPUTS and I * outputs <= digits.MOST_WEIGHTS


def room_size(I: int, rows: int) -> int:
    """Numbers that a thread wants for that, with so many rows to come: of 256 KB of digits, or 32 rows."""
    each = digits.numbers_of(I)
    return ROWS + max(32, min(ROWS, (rows + 31) // 32 * 32, 2**16 // each // 32 * 32)) * each


@primitive
def sum_inputs(e, net, first, count, n, xs, to, stride):
    """What ``step`` can start from: the sums of n rows as far as they stem from the biases and x, for units
    [first, first + count), whole blocks of them; rows of sums are ``stride`` bytes apart.

    So many rows at once use each weight several times that a few rows in a step would use once.
    """
    cell, z = known(e, net)
    blocks, G, S = block_vectors(cell), len(cell.gates), cell.sums()
    xs, to, w = e.ptr(xs), e.ptr(to), net.w

    def block(j: Int) -> None:
        bias = w + (z.bias + j * (S * z.U))
        panel = w + (z.from_x + j * (net.I * (G * z.U)))

        def tile(i: Int, size: int) -> None:
            start = [bias.load(q * e.W) for q in range(S * blocks)]
            rows = [xs.address_at(i + r) for r in range(size)]
            turn, weights = Turn(i, size, most), count * net.I * G
            ahead = next_panel(panel, net.I * (G * z.U), net.I, G * blocks, zero, turn, weights)
            sums = accumulate([start[: G * blocks]] * size, rows, panel, net.I, ahead)
            for r in range(size):
                out = to.after((i + r) * stride) + j * (S * z.U)
                for q, value in enumerate(sums[r] + start[G * blocks :]):
                    out.store(value, q * e.W)

        # With so many rows it matters little how the last few are covered: less to compile.
        each_tile(n, (most, *(size for size in fewer if size < 3)), tile)

    (most, *fewer), zero = tile_rows(e.lanes, G * blocks), e.integer(0)
    each_in_turn(first // z.U, count // z.U, zero, block)


@primitive
def split_inputs(e, net, member, members, found):
    """A member's part of the digits of W_ih, which is packed as ``sum_inputs`` reads it, is written behind it; and to
    ``found``, what they are good for.
    """
    if not e.unit:
        return
    cell, z = known(e, net)
    vectors, blocks = len(cell.gates) * block_vectors(cell), digits.blocks_of(net.I)
    to, last, width = net.w + digits_at(cell, z, net.K, e.in_bytes) + e.W, net.I - 1, vectors * e.W
    misfits, (begin, end) = e.ptr(found), digits.part(e, z.J, member, members)

    def panel(q: Int, *so_far: Any) -> Any:
        j = begin + q
        start, out = net.w + (z.from_x + j * (net.I * width)), to + digits.tile(e, j * vectors * blocks)
        numbers = e.integer(width), e.integer(vectors)
        digits.split(e, lambda k: start + k.at_most(last) * width, net.I, *numbers, out, misfits)
        return [digits.larger(so_far[0], misfits.load())]

    (all_misfits,) = e.loop(end - begin, [e.vec(0.0)], panel)
    misfits.store(all_misfits)


@primitive
def note_inputs(e, net, found, members):
    """See ``digits.note_misfits``."""
    if e.unit:
        cell, z = known(e, net)
        digits.note_misfits(e, e.ptr(found), members, net.w + digits_at(cell, z, net.K, e.in_bytes))


@kernel
def pack_digits(seat, team, net, by_digits, found):
    """Write the bytes of W_hh behind the weights, and the digits of W_ih, if those are wanted.

    ``found``: (2, members, W), what each has found of both.
    """
    if seat.members == 0:
        seat = assemble(team, offer())
    mine = address(found) + seat.member * found.strides[1]
    split_hidden(net, seat.member, seat.members, mine)
    if by_digits:
        split_inputs(net, seat.member, seat.members, mine + found.strides[0])
    part_ways(seat)
    if seat.member == 0:
        note_hidden(net, address(found), seat.members)
        if by_digits:
            note_inputs(net, address(found) + found.strides[0], seat.members)


@primitive
def sum_digits(e, net, first, count, n, xs, to, stride, room):
    """``sum_inputs`` on a matrix unit; at ``room``, of rows with numbers that aren't finite, NaN stands instead."""
    if not e.unit:
        return
    cell, z = known(e, net)
    G, S = len(cell.gates) * block_vectors(cell), cell.sums() * block_vectors(cell)
    xs, to, back, blocks = e.ptr(xs), e.ptr(to), e.ptr(room), digits.blocks_of(net.I)
    a, zero, one = back + ROWS, e.integer(0), e.integer(1)
    digits.split_rows(e, n, xs.address_at, one, zero, net.I, a, back)
    begin = first // z.U
    bias, out = net.w + (z.bias + begin * (S * e.W)), to + begin * (S * e.W)

    def place(k: Int) -> Int:
        """Of a vector of gates, among those of sums."""
        return (k // G * S + k % G) * e.W

    weights = net.w + (digits_at(cell, z, net.K, e.in_bytes) + e.W) + digits.tile(e, begin * G * blocks)
    some = count // z.U
    squares.product(
        e, n, blocks, a, back, some * G, weights,
        lambda k: (bias + place(k)).load(),
        lambda i, k: out.after(i * stride) + place(k),
    )  # fmt: skip

    def rest(i: Int) -> None:
        def block(j: Int) -> None:
            for q in range(G, S):
                at = j * (S * e.W) + q * e.W
                (out.after(i * stride) + at).store((bias + at).load())

        e.each(some, block)

    if S > G:
        e.each(n, rest)


@intrinsic
def takes_digits(typingctx, net):
    """Whether inputs are multiplied by digits: if there is a unit, and weights fit it."""

    def emit(context, builder, signature, arguments):
        e = emitter(builder, signature.args[0])
        view = NetView(e, context, signature.args[0], arguments[0])
        false = ir.IntType(1)(0)
        if not e.unit:
            return false
        cell, z = known(e, view)
        outputs = view.H * len(cell.gates)
        wanted = builder.and_(
            builder.icmp_signed(">=", view.I.x, ir.IntType(64)(LEAST_INPUTS)),
            builder.icmp_signed(">=", outputs.x, ir.IntType(64)(LEAST_OUTPUTS)),
        )
        few = builder.icmp_signed("<=", (view.I * outputs).x, ir.IntType(64)(digits.MOST_WEIGHTS))
        wanted = builder.and_(wanted, few)
        with builder.goto_entry_block():
            result = builder.alloca(ir.IntType(1))
        builder.store(false, result)
        with builder.if_then(wanted):
            found = (view.w + digits_at(cell, z, view.K, e.in_bytes)).load()
            finite = builder.fcmp_ordered("==", found.x, found.x)
            all_lanes = e.intrinsic(f"llvm.vector.reduce.and.v{e.W}i1", ir.IntType(1), [finite])
            builder.store(all_lanes, result)
        return builder.load(result, typ=ir.IntType(1))

    return types.boolean(net), emit


@part(pasted=True)
def sum_rows(net, by_digits, first, count, n, xs, to, stride, room):
    """``sum_inputs``, or the same by digits."""
    most = max(n, 1)
    if by_digits:
        most = min(ROWS, (len(room) - ROWS) // ((net.I + digits.DEPTH - 1) // digits.DEPTH * digits.ROW))
    for begin in range(0, n, most):
        some, at, out = min(most, n - begin), xs + begin * 8, to + begin * stride
        each = some
        if by_digits:
            sum_digits(net, first, count, some, at, out, stride, address(room))
            each = some // some
        for r in range(0, some, each):
            if not (by_digits and math.isfinite(room[r])):
                sum_inputs(net, first, count, each, at + r * 8, out + r * stride, stride)
