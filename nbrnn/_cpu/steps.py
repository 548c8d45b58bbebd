"""One step of a cell, forward and backward, for a few rows: where a cell's formulas meet the emitter.

Workspaces are in *slots order*: row i is the i-th sequence that is still running.  Their strides are those of
``packing.Sizes``; addresses are those of row 0.

========  ===================  ==========================================================================
xs        table                addresses of rows of x, I numbers each
h, h_new  [n][Kp]              hidden state before and after the step
c         [n][E][Hp]           what else the cell carries, in place (E = 1 for the LSTM, 0 for others)
m         [n][Hp]              what a projection takes
saved     [n][slots][Hp]       values kept for backward, later the gradients of the sums; None: keep nothing
dh        [n][Kp]              gradient for h
dm        [n][Mp]              gradient for what a projection takes
dc        [n][E][Hp]           gradient for c
========  ===================  ==========================================================================
"""

from __future__ import annotations

from .._cells import Cell
from .._nets import cell_of
from .emit import Emit, Int, Ptr
from .packing import Sizes, block_vectors, sizes
from .rows import NetView, primitive, stack
from .tiles import accumulate, each_tile, product, tile_rows


def _known(e: Emit, net: NetView) -> tuple[type[Cell], Sizes]:
    cell = cell_of(net.type)
    return cell, sizes(cell, e.W, net.I, net.H, net.K)


def _slot(saved: Ptr, cell: type[Cell], z: Sizes, row: Int, slot: int) -> Ptr:
    return saved + z.Hp * (row * cell.slots() + slot)


@primitive
def step(e, net, n, xs, h, h_new, c, m, saved):
    """n rows of one step: sums of a few rows at a time in registers, then activations and the new state."""
    cell, z = _known(e, net)
    blocks, G, S, E = block_vectors(cell), len(cell.gates), cell.sums(), cell.extras()
    xs, h, c, w = e.ptr(xs), e.ptr(h), e.ptr(c), net.w
    keep = None if saved is None else e.ptr(saved)
    if not cell.projected:
        out, out_stride = e.ptr(h_new), z.Kp
    elif keep is None:
        out, out_stride = e.ptr(m), z.Hp
    else:
        out, out_stride = _slot(keep, cell, z, e.integer(0), cell.slot_projected()), z.Hp * cell.slots()

    room = stack(e, tile_rows(e.lanes, S * blocks)[0] * S * blocks * e.W)

    def block(j: Int) -> None:
        bias = w + (z.bias + j * (S * z.U))
        from_x = w + (z.from_x + j * (net.I * (G * z.U)))
        from_h = w + (z.from_h + j * (net.K * (G * z.U)))

        def tile(i: Int, size: int) -> None:
            start = [bias.load(q * e.W) for q in range(S * blocks)]
            sums = [list(start) for _ in range(size)]
            given = accumulate(
                [s[: G * blocks] for s in sums], [xs.address_at(i + r) for r in range(size)], from_x, net.I
            )
            sums = [g + s[G * blocks :] for g, s in zip(given, sums, strict=True)]
            split = (S - G) * blocks
            given = accumulate([s[split:] for s in sums], [h + (i + r) * z.Kp for r in range(size)], from_h, net.K)
            sums = [s[:split] + g for g, s in zip(given, sums, strict=True)]
            # Activations row by row, by way of the stack: written out for each row they would be most of the code.
            for r in range(size):
                for q, value in enumerate(sums[r]):
                    (room + (r * S * blocks + q) * e.W).store(value)
            e.each(e.integer(size), lambda r: activate(j, i + r, room + r * (S * blocks * e.W)))

        def activate(j: Int, i: Int, sums: Ptr) -> None:
            for v in range(blocks):
                column = j * z.U + v * e.W
                carried = [c + (i * E + q) * z.Hp + column for q in range(E)]
                old_h = None if cell.projected else (h + i * z.Kp + column).load()
                (new_h, *new_c), values = cell.forward(
                    tuple((sums + (q * blocks + v) * e.W).load() for q in range(S)),
                    (old_h, *(p.load() for p in carried)),
                )
                (out + i * out_stride + column).store(new_h)
                for p, value in zip(carried, new_c, strict=True):
                    p.store(value)
                if keep is not None:
                    for q, value in enumerate(values):
                        (_slot(keep, cell, z, i, q) + column).store(value)

        each_tile(n, tile_rows(e.lanes, S * blocks), tile)

    e.each(z.J, block)


@primitive
def project(e, net, n, m, saved, h_new):
    """h_new = W_hr m; nothing for a cell without projection."""
    cell, z = _known(e, net)
    if not cell.projected:
        return
    if saved is None:
        source, stride = e.ptr(m), z.Hp
    else:
        source, stride = _slot(e.ptr(saved), cell, z, e.integer(0), cell.slot_projected()), z.Hp * cell.slots()
    one, zero = e.integer(1), e.integer(0)
    product(e, n, source, stride, one, zero, net.H, net.w + z.projection, net.K, e.ptr(h_new), z.Kp, add=False)


@primitive
def unproject(e, net, n, dh, saved, dm):
    """dm = dh W_hr, keeping dh for the gradient of W_hr; nothing for a cell without projection."""
    cell, z = _known(e, net)
    if not cell.projected:
        return
    dh, saved = e.ptr(dh), e.ptr(saved)

    def keep(i: Int) -> None:
        to, source = _slot(saved, cell, z, i, cell.slot_projection()), dh + i * z.Kp
        e.each(net.K, lambda k: (to + k).put_number((source + k).number()))

    e.each(n, keep)
    panels = net.w + z.Kp * (net.H * len(cell.gates))
    product(e, n, dh, z.Kp, e.integer(1), e.integer(0), net.K, panels, net.H, e.ptr(dm), z.Mp, add=False)


@primitive
def cell_backward(e, net, n, dh, dm, dc, saved):
    """From dh (or dm) and dc after the step to the gradients of the sums, in place of the values saved; dh and dc
    become those before the step, as far as they go there directly.
    """
    cell, z = _known(e, net)
    E = cell.extras()
    dh, stride = (e.ptr(dm), z.Mp) if cell.projected else (e.ptr(dh), z.Kp)
    dc, saved = e.ptr(dc), e.ptr(saved)

    def row(i: Int) -> None:
        def vector(b: Int) -> None:
            column = b * e.W
            at_h = dh + i * stride + column
            carried = [dc + (i * E + q) * z.Hp + column for q in range(E)]
            kept = [_slot(saved, cell, z, i, q) + column for q in range(cell.slots_of_step())]
            dsums, (direct, *before) = cell.backward(
                (at_h.load(), *(p.load() for p in carried)), tuple(p.load() for p in kept[: len(cell.saved)])
            )
            for p, value in zip(kept, dsums, strict=False):
                p.store(value)
            for p, value in zip(carried, before, strict=True):
                p.store(value)
            at_h.store(direct)

        e.each(z.Hp // e.W, vector)

    e.each(n, row)


@primitive
def carry(e, net, n, saved, dh):
    """dh (+)= gradients of the sums times W_hh: the way back to the h before the step."""
    cell, z = _known(e, net)
    sums, gates = cell.sums(), len(cell.gates)
    first = _slot(e.ptr(saved), cell, z, e.integer(0), sums - gates)
    product(
        e,
        n,
        first,
        z.Hp * cell.slots(),
        e.integer(gates),
        z.Hp,
        net.H,
        net.w,
        net.K,
        e.ptr(dh),
        z.Kp,
        add=not cell.projected,
    )
