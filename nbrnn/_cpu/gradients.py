"""Gradients of weights and inputs, from those of the sums: large products over all steps of all sequences.

The same code serves every cell: it is told how many gates there are and where their gradients stand.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from .._kernel import kernel
from . import tiles
from .rows import add_row, address, copy_row, multiply_slabs, primitive, spread_row
from .schedule import cut, first_step, running
from .team import assemble, nought, offer, part_ways, share

NV = tiles.NV

#: Rows that are gathered and multiplied at once: the slabs they are copied to stay in the first caches.
CHUNK = 256


class Panels(NamedTuple):
    """W_ih packed for dx, with the cell's sizes."""

    w: Any
    lanes: Any
    I: int
    H: int
    K: int
    gates: int
    sums: int
    slots: int
    slot: int  #: numbers in a slot
    projected: bool


class Totals(NamedTuple):
    """Gradients of the weights in whole tiles: (2, gates * slot, Ip), (2, gates * slot, Kp), (2, Kw, Mp) and
    (2, S * slot).  [0] are the sums, [1] what rounding has left over.
    """

    w_ih: Any
    w_hh: Any
    w_hr: Any
    bias: Any


class Work(NamedTuple):
    """Workspaces, the first five for each member: six tables of CHUNK addresses, rows of dx (CHUNK, Ip), slabs
    (vectors, CHUNK, W) and (CHUNK, W), sums, and zeros (K,).
    """

    tables: Any
    dx: Any
    slabs: Any
    slab: Any
    bias: Any
    zeros: Any


@primitive
def dx_rows(e, panels, n, dsums, out, out_stride):
    """n rows of dx: gradients of the sums times W_ih."""
    stride = panels.slots * panels.slot
    tiles.product(
        e,
        n,
        e.ptr(dsums),
        stride,
        panels.gates,
        panels.slot,
        panels.H,
        panels.w,
        e.integer(0),
        panels.I,
        e.integer(0),
        e.ptr(out),
        out_stride,
        add=False,
    )


@primitive
def outer_tile(e, panels, count, a, b, b_step, c, c_stride, rest):
    """See ``tiles.outer``."""
    tiles.outer(e, count, e.ptr(a), e.ptr(b), b_step, e.ptr(c), c_stride, rest)


@kernel
def add_outer(panels, mine, count, a, a_stride, width, rows, masks, n, total, work):
    """total[0, m, k] += sum over r < count of a[r][m] * rows[r][k], for m < width and k < n; of the m a member's part.

    ``a`` is the address of padded rows, ``a_stride`` bytes apart; ``rows`` a table of addresses of n numbers each;
    ``masks`` one of addresses of what those are to be multiplied by, 0 for nothing.
    """
    item, W, columns = total.itemsize, work.slab.shape[1], total.shape[2]
    slabs, slab, step = address(work.slabs), address(work.slab), CHUNK * W
    begin, end = share(width // W, mine.member, mine.members)
    for r in range(count):
        spread_row(panels, slabs + r * W * item, step, rows[r], n)
        if masks[r] != 0:
            multiply_slabs(panels, slabs + r * W * item, step, masks[r], n)
    for m in range(begin * W, end * W, W):
        for r in range(count):
            copy_row(panels, slab + r * W * item, a + r * a_stride + m * item, W)
        for k in range(0, columns, NV * W):
            to = address(total) + (m * columns + k) * item
            outer_tile(panels, count, slab, slabs + k * CHUNK * item, step, to, columns, total.shape[1] * columns)


@kernel
def add_chunk(panels, mine, saved, first, count, add, totals, work):
    """What rows [first, first + count) of ``saved`` contribute, whose addresses stand in the tables.

    A member has some of the rows of dx, and some of the rows of each matrix: sums are never split, so that their bits
    don't depend on the number of members.
    """
    xs, hs, ms, dxs = work.tables[0], work.tables[1], work.tables[2], work.tables[3]
    masks, nothing = work.tables[4], work.tables[5]
    item, stride, slot = saved.itemsize, saved.strides[0], panels.slot * saved.itemsize
    at = address(saved) + first * stride

    begin, end = share(count, mine.member, mine.members)
    dx_rows(panels, end - begin, at + begin * stride, address(work.dx), work.dx.shape[1])
    for r in range(begin, end):
        row = address(work.dx) + (r - begin) * work.dx.shape[1] * item
        if add:
            add_row(panels, dxs[r], row, panels.I)
        else:
            copy_row(panels, dxs[r], row, panels.I)

    width = panels.gates * panels.slot
    add_outer(panels, mine, count, at, stride, width, xs, nothing, panels.I, totals.w_ih, work)
    hidden = at + (panels.sums - panels.gates) * slot
    add_outer(panels, mine, count, hidden, stride, width, hs, masks, panels.K, totals.w_hh, work)
    if panels.projected:
        to, height = totals.w_hr, totals.w_hr.shape[1]
        add_outer(panels, mine, count, at + stride - slot, stride, height, ms, nothing, panels.H, to, work)

    # A chunk is summed by itself first, as in ``outer``.
    begin, end = share(work.bias.size, mine.member, mine.members)
    work.bias[begin:end] = 0
    for r in range(first, first + count):
        for m in range(begin, end):
            work.bias[m] += saved[r, m]
    for m in range(begin, end):
        total, more = totals.bias[0, m], work.bias[m] + totals.bias[1, m]
        new = total + more
        left = more - (new - total)
        totals.bias[0, m] = new
        totals.bias[1, m] = left if math.isfinite(left) else type(left)(0)


@kernel
def gradients(seat, team, panels, when, begin, end, row, x, y, h, masks, dx, add, saved, totals, rooms):
    """Add steps of one ``backward`` to the gradients of the weights, and write (or add to) dx.

    Parameters
    ----------
    seat, team : as for ``forward``
    panels : Panels
    when : When
    begin, end : steps [begin, end) in the order they were run
    row : where those begin in ``saved``
    x, y : (steps, B, I), (steps, B, K) of the forward run, contiguous in the inner axis
    h : (B, K) the state it began with
    masks : as for ``forward``
    dx : (steps, B, I), for running sequences written or, with ``add``, added to
    saved : as ``backward`` left it
    totals : Totals, added to
    rooms : Work, with rooms for so many members
    """
    if seat.members == 0:
        seat = assemble(team, offer())
    steps = x.shape[0]
    item, stride = saved.itemsize, saved.strides[0]
    q = seat.member
    work = Work(rooms.tables[q], rooms.dx[q], rooms.slabs[q], rooms.slab[q], rooms.bias[q], rooms.zeros)
    n, filled = nought(), nought()
    for s in range(begin, end):
        now = steps - 1 - s if when.reverse else s
        t = when.t0 + now
        n = running(when, t, n)
        for i in range(n):
            b = when.order[i]
            work.tables[0, filled] = address(x) + now * x.strides[0] + b * x.strides[1]
            if cut(when, t, i):
                work.tables[1, filled] = address(work.zeros)
            elif first_step(when, t, i, steps):
                work.tables[1, filled] = address(h) + b * h.strides[0]
            else:
                before = now + 1 if when.reverse else now - 1
                work.tables[1, filled] = address(y) + before * y.strides[0] + b * y.strides[1]
            work.tables[2, filled] = address(saved) + (row + 1) * stride - 2 * panels.slot * item
            work.tables[3, filled] = address(dx) + now * dx.strides[0] + b * dx.strides[1]
            work.tables[4, filled] = address(masks) + b * masks.strides[1] if masks.size > 0 else 0
            filled += 1
            row += 1
            if filled == CHUNK:
                add_chunk(panels, seat, saved, row - filled, filled, add, totals, work)
                filled = 0
    if filled > 0:
        add_chunk(panels, seat, saved, row - filled, filled, add, totals, work)
    part_ways(seat)
