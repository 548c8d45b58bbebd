"""One step of a cell, forward and backward, for a few rows: where a cell's formulas meet the emitter.

Workspaces are in *slots order*: row i is the i-th sequence that is still running.  Their strides are those of
``packing.Sizes``; addresses are those of row 0.

========  ===================  ==========================================================================
xs        table                addresses of rows of x, I numbers each
starts    table                addresses of what the sums start from, [J][S][U] numbers each
h, h_new  [n][Kp]              hidden state before and after the step
fed       [n][Kp]              what of h enters W_hh: h itself, or h times a mask
c         [n][E][Hp]           what else the cell carries, in place (E = 1 for the LSTM, 0 for others)
m         [n][Hp]              what a projection takes
saved     [n][slots][Hp]       values kept for backward, later the gradients of the sums; None: keep nothing
dh        [n][Kp]              gradient for h
dm        [n][Mp]              gradient for what a projection takes
dc        [n][E][Hp]           gradient for c
========  ===================  ==========================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from numba import types
from numba.extending import intrinsic

from .._cells import Cell
from .._kernel import part
from .._nets import cell_of
from .emit import I64, Emit, Int, Ptr, Vec, load_beside, store_beside, truth
from .isa import accumulators
from .packing import Sizes, block_vectors, known
from .rows import NetView, emitter, primitive, stack
from .team import share
from .tiles import NV, Piece, Turn, accumulate_beside, each_tile, next_panel, product, tile_rows
from .whole_step import Activate, carry_back, each_row

#: Rows, or blocks of a single row, that are activated side by side: each operation waits for the one before, and while
#: those of one do, another's can be done; more would not fit into the registers.  And so many vectors of a row on the
#: way back, where a cell keeps no more slots than that.
PAIR, FEW_SLOTS = 2, 4


def _slot(saved: Ptr, cell: type[Cell], z: Sizes, row: Int, slot: int) -> Ptr:
    return saved + z.Hp * (row * cell.slots() + slot)


# Columns: which hidden units a member of a team has.


class Columns(NamedTuple):
    """A member's part of each row: whole blocks of the step, whole panels on the way back."""

    h: int  #: numbers [h, h + h_count) of h
    h_count: int
    c: int  #: numbers [c, c + c_count) of a slot, with the padding
    c_count: int
    slot: int  #: numbers in a slot (Hp)
    pieces: int  #: slots of what the cell carries beside h (E)


@intrinsic
def layout(typingctx, net):
    """(U, J, Hp, Kp, Mp, NV W, E, whether h is projected) of a network."""

    def emit(context, builder, signature, arguments):
        e = emitter(builder, signature.args[0])
        cell, z = known(e, NetView(e, context, signature.args[0], arguments[0]))
        numbers = (z.U, z.J, z.Hp, z.Kp, z.Mp, NV * z.W, cell.extras(), int(cell.projected))
        return context.make_tuple(builder, signature.return_type, [e.integer(n).x for n in numbers])

    return types.UniTuple(types.int64, 8)(net), emit


@intrinsic
def in_bytes(typingctx, net):
    """Whether steps are computed on a matrix unit: known when code is compiled."""

    def emit(context, builder, signature, arguments):
        return context.get_constant(types.boolean, emitter(builder, signature.args[0]).in_bytes)

    return types.boolean(net), emit


@intrinsic
def is_projected(typingctx, net):
    """Whether h is a projection: known when code is compiled."""

    def emit(context, builder, signature, arguments):
        return context.get_constant(types.boolean, cell_of(signature.args[0]).projected)

    return types.boolean(net), emit


@part
def columns_of_step(net, place, size):
    """The columns of one of so many members, for ``step`` and ``project``."""
    U, J, Hp, Kp, _, panel, E, projected = layout(net)
    begin, end = share(J, place, size)
    first, last = begin * U, min(end * U, net.K)
    if projected:
        first, last = share(Kp // panel, place, size)
        first, last = first * panel, min(last * panel, net.K)
    return Columns(first, max(last - first, 0), begin * U, (end - begin) * U, Hp, E)


@part
def columns_back(net, place, size):
    """The same for ``unproject``, ``cell_backward`` and ``carry``."""
    _, _, Hp, Kp, Mp, panel, E, projected = layout(net)
    first, last = share(Kp // panel, place, size)
    begin, end = share(Mp // panel, place, size) if projected else (first, last)
    begin, end = min(begin * panel, Hp), min(end * panel, Hp)
    return Columns(first * panel, max(min(last * panel, net.K) - first * panel, 0), begin, end - begin, Hp, E)


@primitive
def step(e, net, first, count, down, n, xs, starts, inputs, h, fed, h_new, c, m, saved, room):
    """n rows of one step: their sums, then activations and the new state.

    Units [first, first + count), whole blocks of them; ``down``: 1 to begin with the last.  The sums start from what
    ``sum_inputs`` has left, with ``inputs`` = 0, or from the biases (``biases``), with ``inputs`` = I.  The result is
    the same to the bit.  On a matrix unit, for which ``room`` is, it is always the former.
    """
    cell, z = known(e, net)
    blocks, S, E = block_vectors(cell), cell.sums(), cell.extras()
    starts, h, fed, c = e.ptr(starts), e.ptr(h), e.ptr(fed), e.ptr(c)
    keep, piece = None if saved is None else e.ptr(saved), Piece(n, first, count, down)
    if not cell.projected:
        out, out_stride = e.ptr(h_new), z.Kp
    elif keep is None:
        out, out_stride = e.ptr(m), z.Hp
    else:
        out, out_stride = _slot(keep, cell, z, e.integer(0), cell.slot_projected()), z.Hp * cell.slots()

    def activate(j: Int, i: Int, count: int, sums: Ptr, along: Int | None = None) -> None:
        for first in range(0, blocks, 1 if e.W == 1 else blocks):
            vectors(j, i, count, sums, along, range(first, first + (1 if e.W == 1 else blocks)))

    def vectors(j: Int, i: Int, count: int, sums: Ptr, along: Int | None, vs: Sequence[int]) -> None:
        """Some vectors of each block."""

        def of_each(first: Ptr, stride: Int | int) -> list[Ptr]:
            """Of each row, so far apart, or of each block, from those of row i, block j on."""
            apart = stride if along is None else along * z.U
            return [first + apart * r + v * e.W for r in range(count) for v in vs]

        def load_sums(q: int) -> Vec:
            return load_beside([sums + ((r * S + q) * blocks + v) * e.W for r in range(count) for v in vs])

        column = j * z.U
        carried = [of_each(c + (i * E + q) * z.Hp + column, E * z.Hp) for q in range(E)]
        old_h = None if cell.projected else load_beside(of_each(h + i * z.Kp + column, z.Kp))
        (new_h, *new_c), values = cell.forward(
            tuple(load_sums(q) for q in range(S)), (old_h, *map(load_beside, carried))
        )
        store_beside(of_each(out + i * out_stride + column, out_stride), new_h)
        for places, value in zip(carried, new_c, strict=True):
            store_beside(places, value)
        if keep is not None:
            for q, value in enumerate(values):
                store_beside(of_each(_slot(keep, cell, z, i, q) + column, cell.slots() * z.Hp), value)

    if e.in_bytes:
        each_row(e, net, piece, starts, fed, e.ptr(room), activate)
    else:
        _each_tile_of_rows(e, net, piece, e.ptr(xs), starts, inputs, fed, activate)


def _each_tile_of_rows(
    e: Emit, net: NetView, piece: Piece, xs: Ptr, starts: Ptr, inputs: Int, fed: Ptr, activate: Activate
) -> None:
    """Activate all rows and blocks: sums of a few rows at a time in registers."""
    (n, first, count, down), (cell, z) = piece, known(e, net)
    blocks, G, S, w = block_vectors(cell), len(cell.gates), cell.sums(), net.w
    most, *fewer = tile_rows(e.lanes, G * blocks)
    room, split = stack(e, max(most, PAIR) * S * blocks * e.W), (S - G) * blocks

    def tile(js: Sequence[Int], i: Int, size: int) -> None:
        """The sums of so many rows and some blocks of units, one after another into the room."""
        begun = [[starts.address_at(i + r) + j * (S * z.U) for j in js] for r in range(size)]
        turn, weights, each = Turn(i, size, most), count * (inputs + net.K) * G, G * blocks

        def add(
            sums: list[list[Vec]], rows: Sequence[Ptr], weights_at: int, inputs: Int, depth: Int
        ) -> list[list[Vec]]:
            panels = [w + (weights_at + j * (inputs * (G * z.U))) for j in js]
            ahead = next_panel(panels[0], inputs * (G * z.U), depth, each, down, turn, weights)
            return accumulate_beside(sums, rows, panels, depth, ahead)

        def put(r: int, b: int, q: int, value: Vec) -> None:
            (room + ((r * len(js) + b) * S * blocks + q) * e.W).store(value)

        sums = [[at.load(q * e.W) for at in row for q in range(each)] for row in begun]
        sums = add(sums, [xs.address_at(i + r) for r in range(size)], z.from_x, net.I, inputs)
        for r, row in enumerate(begun):
            more: list[Vec] = []
            for b, at in enumerate(row):
                of_block = sums[r][b * each : (b + 1) * each]
                for q in range(split):  # to which h adds nothing: so that more rows fit into the registers
                    put(r, b, q, of_block[q])
                more += of_block[split:] + [at.load(q * e.W) for q in range(each, S * blocks)]
            sums[r] = more
        sums = add(sums, [fed + (i + r) * z.Kp for r in range(size)], z.from_h, net.K, net.K)
        # Activations by way of the stack: written out for each row they would be most of the code.
        for r, row_sums in enumerate(sums):
            for q, value in enumerate(row_sums):
                put(r, q // each, split + q % each, value)

    def block(j: Int) -> None:
        def rows(i: Int, size: int) -> None:
            tile([j], i, size)
            several = (PAIR, 1) if size > 1 and e.W > 1 else (1,)
            each_tile(e.integer(size), several, lambda r, n: activate(j, i + r, n, room + r * (S * blocks * e.W)))

        each_tile(n, (most, *fewer), rows)

    def pair(j: Int) -> None:
        tile([j, j + stride], e.integer(0), 1)
        activate(j, e.integer(0), PAIR, room, stride)

    number, stride = count // z.U, 1 - down * 2
    begin, pairs = first // z.U + down * (number - 1), e.integer(0)
    # A single row: a sum is a chain of additions, too few of which would be under way.
    if e.W > 1 and PAIR * G * blocks <= accumulators(e.lanes):
        pairs = number // PAIR * truth(e, "==", n, 1)
        e.each(pairs, lambda q: pair(begin + q * PAIR * stride))
    done = pairs * PAIR
    e.each(number - done, lambda q: block(begin + (done + q) * stride))


@intrinsic
def biases(typingctx, net):
    """Where the biases stand."""

    def emit(context, builder, signature, arguments):
        e = emitter(builder, signature.args[0])
        net = NetView(e, context, signature.args[0], arguments[0])
        return builder.ptrtoint((net.w + known(e, net)[1].bias).x, I64)

    return types.int64(net), emit


@primitive
def project(e, net, first, count, n, m, saved, h_new):
    """Numbers [first, first + count) of h_new = W_hr m, whole panels; nothing for a cell without projection."""
    cell, z = known(e, net)
    if not cell.projected:
        return
    if saved is None:
        source, stride = e.ptr(m), z.Hp
    else:
        source, stride = _slot(e.ptr(saved), cell, z, e.integer(0), cell.slot_projected()), z.Hp * cell.slots()
    one, zero = e.integer(1), e.integer(0)
    panels, piece = net.w + z.projection, Piece(n, first, count, zero)
    product(e, piece, source, stride, one, zero, net.H, panels, e.ptr(h_new), z.Kp, add=False)


@primitive
def unproject(e, net, n, h_first, h_count, dh, saved, first, count, dm):
    """Numbers [first, first + count) of dm = dh W_hr, whole panels; nothing for a cell without projection.

    Numbers [h_first, h_first + h_count) of dh are kept for the gradient of W_hr.
    """
    cell, z = known(e, net)
    if not cell.projected:
        return
    dh, saved = e.ptr(dh), e.ptr(saved)

    def keep(i: Int) -> None:
        to, source = _slot(saved, cell, z, i, cell.slot_projection()) + h_first, dh + (i * z.Kp + h_first)
        e.each(h_count, lambda k: (to + k).put_number((source + k).number()))

    e.each(n, keep)
    panels = net.w + z.Kp * (net.H * len(cell.gates))
    one, zero = e.integer(1), e.integer(0)
    product(e, Piece(n, first, count, zero), dh, z.Kp, one, zero, net.K, panels, e.ptr(dm), z.Mp, add=False)


@primitive
def cell_backward(e, net, first, count, n, dh, dm, dc, saved):
    """From dh (or dm) and dc after the step to the gradients of the sums, in place of the values saved; dh and dc
    become those before the step, as far as they go there directly.  Units [first, first + count).
    """
    cell, z = known(e, net)
    E = cell.extras()
    dh, stride = (e.ptr(dm), z.Mp) if cell.projected else (e.ptr(dh), z.Kp)
    dc, saved, few = e.ptr(dc), e.ptr(saved), cell.slots_of_step() <= FEW_SLOTS

    def row(i: Int) -> None:
        def vectors(b: Int, size: int) -> None:
            column, several = first + b * e.W, e.beside(size)
            at_h = several.ptr_like(dh + i * stride + column)
            carried = [several.ptr_like(dc + (i * E + q) * z.Hp + column) for q in range(E)]
            kept = [several.ptr_like(_slot(saved, cell, z, i, q) + column) for q in range(cell.slots_of_step())]
            dsums, (direct, *before) = cell.backward(
                (at_h.load(), *(p.load() for p in carried)), tuple(p.load() for p in kept[: len(cell.saved)])
            )
            for p, value in zip(kept, dsums, strict=False):
                p.store(value)
            for p, value in zip(carried, before, strict=True):
                p.store(value)
            at_h.store(direct)

        each_tile(count // e.W, (FEW_SLOTS, 1) if few and e.W > 1 else (1,), vectors)

    e.each(n, row)


@primitive
def carry(e, net, first, count, down, n, saved, dh, room):
    """dh (+)= gradients of the sums times W_hh: the way back to the h before the step.

    Numbers [first, first + count) of it, whole panels; ``down``: 1 to begin with the last.  ``room`` is for a matrix
    unit.
    """
    cell, z = known(e, net)
    sums, gates = cell.sums(), len(cell.gates)
    from_slot = _slot(e.ptr(saved), cell, z, e.integer(0), sums - gates)
    piece, stride, add = Piece(n, first, count, down), z.Hp * cell.slots(), not cell.projected
    if e.in_bytes:
        carry_back(e, net, piece, from_slot, stride, e.ptr(dh), add, e.ptr(room))
        return
    product(e, piece, from_slot, stride, e.integer(gates), z.Hp, net.H, net.w, e.ptr(dh), z.Kp, add=add)
