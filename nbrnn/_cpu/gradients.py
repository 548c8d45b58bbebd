"""Gradients of weights and inputs, from those of the sums: large products over all steps of all sequences.

The same code serves every cell: it is told how many gates there are and where their gradients stand.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from .._kernel import kernel
from . import tiles
from .emit import Int, Vec
from .rows import add_row, address, copy_row, multiply_slabs, primitive, spread_row
from .schedule import cut, first_step, running
from .team import assemble, nought, offer, part_ways, share

NV = tiles.NV

#: Rows that are gathered and multiplied at once: the three slabs of a tile stay in the first cache (30 KB).
CHUNK = 160

#: Vectors of gradients of the sums that are gathered at once.
GROUP = 4


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
    (2, S * slot); and None, or where x is chosen from V rows, of the sums for each of those (2, V, gates * slot).
    [0] are the sums, [1] what rounding has left over.
    """

    w_ih: Any
    w_hh: Any
    w_hr: Any
    bias: Any
    chosen: Any = None


class Work(NamedTuple):
    """Workspaces, the first five for each member: five tables of CHUNK addresses, rows of dx (CHUNK, Ip), slabs
    (vectors, CHUNK, W) of what is multiplied and (GROUP, CHUNK, W) of what with, sums, and zeros, I and K at least.
    """

    tables: Any
    dx: Any
    slabs: Any
    factors: Any
    bias: Any
    zeros: Any


@primitive
def dx_rows(e, panels, n, dsums, stride, out, out_stride):
    """n rows of dx: gradients of the sums times W_ih."""
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
        many=True,
    )


@primitive
def outer_tile(e, panels, count, a, b, b_step, c, c_stride, rest, begun):
    """See ``tiles.outer``."""
    tiles.outer(e, count, e.ptr(a), e.ptr(b), b_step, e.ptr(c), c_stride, rest, begun)


@primitive
def gather_slabs(e, panels, vectors, count, source, stride, to, sums):
    """So many vectors of each of ``count`` rows, ``stride`` bytes apart, into slabs, and their sums over the rows.

    Several at a time: rows lie pages apart, so that reading anything of one costs more than reading a little more.
    """
    source, to, sums = e.ptr(source), e.ptr(to), e.ptr(sums)

    def some(v: Int, size: int) -> None:
        def row(r: Int, *sums: Vec) -> list[Vec]:
            values = [(source.after(r * stride) + (v + q) * e.W).load() for q in range(size)]
            for q, value in enumerate(values):
                (to + ((v + q) * CHUNK + r) * e.W).store(value)
            return [s + value for s, value in zip(sums, values, strict=True)]

        for q, value in enumerate(e.loop(count, [e.vec(0.0)] * size, row)):
            (sums + (v + q) * e.W).store(value)

    tiles.each_tile(vectors, (GROUP, 1), some)


@primitive
def add_row_kept(e, panels, to, rest, source, n):
    """``to[k] += source[k]`` for whole vectors of n numbers, see ``tiles.add_kept``."""
    to, source = e.ptr(to), e.ptr(source)
    e.each(n // e.W, lambda b: tiles.add_kept(to + b * e.W, rest, (source + b * e.W).load()))


@kernel
def own_sums(panels, inputs, hidden, vectors, mine):
    """[begin, end): the vectors of gradients of the sums, of so many to each slot, with which a member multiplies.

    About as many products for each: those of the first ``gates`` slots are multiplied with so many ``inputs``, of the
    last ``gates`` with so many numbers of ``hidden``.
    """
    done, total = 0, panels.gates * vectors * (inputs + hidden)
    begin, end = 0, 0
    for m in range(panels.sums * vectors):
        begin += done * mine.members < total * mine.member
        end += done * mine.members < total * (mine.member + 1)
        if m < panels.gates * vectors:
            done += inputs
        if m >= (panels.sums - panels.gates) * vectors:
            done += hidden
    return begin, end


@kernel
def add_outer(panels, count, begin, end, factors, slabs, total, begun, work):
    """total[0, m, k] += sum over rows r < count of factors[m][r] * slabs[k][r], for vectors [begin, end) of m; or =, if
    nothing has ``begun``.

    ``factors`` and ``slabs`` are addresses of slabs, the former of vector ``begin``.
    """
    item, W, columns = total.itemsize, work.slabs.shape[2], total.shape[2]
    step = CHUNK * W
    for k in range(0, columns, NV * W):
        for m in range(begin, end):
            to = address(total) + (m * W * columns + k) * item
            factor = factors + (m - begin) * step * item
            rest = total.shape[1] * columns
            outer_tile(panels, count, factor, slabs + k * CHUNK * item, step, to, columns, rest, int(begun))


@kernel
def put_dx(panels, begin, end, at, stride, add, work):
    """Write (or add to) rows [begin, end) of dx, at the addresses in the table; what they come of is ``stride`` bytes
    apart.
    """
    dxs, item, room = work.tables[3], work.dx.itemsize, address(work.dx)
    dx_rows(panels, end - begin, at + begin * stride, stride // item, room, work.dx.shape[1])
    for r in range(begin, end):
        if add:
            add_row(panels, dxs[r], room, panels.I)
        else:
            copy_row(panels, dxs[r], room, panels.I)
        room += work.dx.shape[1] * item


@kernel
def add_chunk(panels, mine, index, saved, first, count, add, begun, totals, work):
    """What rows [first, first + count) of ``saved`` contribute, whose addresses stand in the tables.

    If nothing has ``begun``, the totals hold nothing yet, but for ``chosen``, and are written.

    A member has some of the rows of dx, and some of the rows of each matrix: sums are never split, so that their bits
    don't depend on the number of members.
    """
    xs, hs, ms, masks = work.tables[0], work.tables[1], work.tables[2], work.tables[4]
    item, stride, W = saved.itemsize, saved.strides[0], work.slabs.shape[2]
    at = address(saved) + first * stride
    step, line, factors = CHUNK * W, W * item, address(work.factors)
    inputs, hidden = totals.w_ih.shape[2], totals.w_hh.shape[2]
    x_slabs = address(work.slabs)
    h_slabs = x_slabs + inputs * CHUNK * item
    if index is None:
        begin, end = share(count, mine.member, mine.members)
        put_dx(panels, begin, end, at, stride, add, work)
        for r in range(count):
            spread_row(panels, x_slabs + r * line, step, xs[r], panels.I)
    else:
        inputs = 0  # to be multiplied here
    for r in range(count):
        spread_row(panels, h_slabs + r * line, step, hs[r], panels.K)
        if masks[r] != 0:
            multiply_slabs(panels, h_slabs + r * line, step, masks[r], panels.K)
    vectors = panels.slot // W
    to_x, from_h = panels.gates * vectors, (panels.sums - panels.gates) * vectors
    begin, end = own_sums(panels, inputs, hidden, vectors, mine)
    for m in range(begin, end, GROUP):
        n = min(GROUP, end - m)
        gather_slabs(panels, n, count, at + m * line, stride, factors, address(work.bias) + m * line)
        if index is None:
            add_outer(panels, count, m, min(m + n, to_x), factors, x_slabs, totals.w_ih, begun, work)
        skip = max(from_h - m, 0)
        hidden_factors = factors + skip * step * item
        add_outer(panels, count, m + skip - from_h, m + n - from_h, hidden_factors, h_slabs, totals.w_hh, begun, work)
    if index is not None:
        n, rest = max(min(end, to_x) - begin, 0) * W, totals.chosen.shape[1] * totals.chosen.shape[2]
        to = address(totals.chosen) + begin * line
        for r in range(count):
            add_row_kept(panels, to + xs[r] * totals.chosen.strides[1], rest, at + r * stride + begin * line, n)
    # A chunk is summed by itself first, as in ``outer``.
    for m in range(begin * W, end * W):
        if not begun:
            totals.bias[0, m] = totals.bias[1, m] = 0
        total, more = totals.bias[0, m], work.bias[m] + totals.bias[1, m]
        new = total + more
        left = more - (new - total)
        totals.bias[0, m] = new
        totals.bias[1, m] = left if math.isfinite(left) else type(left)(0)

    if panels.projected:
        for r in range(count):
            spread_row(panels, x_slabs + r * line, step, ms[r], panels.H)
        begin, end = share(totals.w_hr.shape[1] // W, mine.member, mine.members)
        for m in range(begin, end, GROUP):
            n = min(GROUP, end - m)
            source = at + stride - panels.slot * item + m * line
            gather_slabs(panels, n, count, source, stride, factors, address(work.bias))
            add_outer(panels, count, m, m + n, factors, x_slabs, totals.w_hr, begun, work)


@kernel
def gradients(seat, team, panels, when, begin, end, row, x, index, y, h, masks, dx, add, saved, begun, totals, rooms):
    """Add steps of one ``backward`` to the gradients of the weights, and write (or add to) dx.

    Where x is chosen, what comes of x is only summed here for each row that there is to choose from: what becomes of
    that see ``gradients_of_choices``.

    Parameters
    ----------
    seat, team : as for ``forward``
    panels : Panels
    when : When
    begin, end : steps [begin, end) in the order they were run
    row : where those begin in ``saved``
    x, index, y : of the forward run
    h : (B, K) the state it began with
    masks : as for ``forward``
    dx : (steps, B, I), for running sequences written or, with ``add``, added to
    saved : as ``backward`` left it
    begun : whether the totals hold something; else they are written, but for ``chosen``
    totals : Totals, added to
    rooms : Work, with rooms for so many members
    """
    if seat.members == 0:
        seat = assemble(team, offer())
    steps = y.shape[0]
    item, stride = saved.itemsize, saved.strides[0]
    q = seat.member
    work = Work(rooms.tables[q], rooms.dx[q], rooms.slabs[q], rooms.factors[q], rooms.bias[q], rooms.zeros)
    n, filled = nought(), nought()
    for s in range(begin, end):
        now = steps - 1 - s if when.reverse else s
        t = when.t0 + now
        n = running(when, t, n)
        for i in range(n):
            b = when.order[i]
            if index is None:
                work.tables[0, filled] = address(x) + now * x.strides[0] + b * x.strides[1]
            else:
                work.tables[0, filled] = index[now, b]
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
                add_chunk(panels, seat, index, saved, row - filled, filled, add, begun, totals, work)
                filled, begun = nought(), True
    if filled > 0 or not begun:
        add_chunk(panels, seat, index, saved, row - filled, filled, add, begun, totals, work)
    part_ways(seat)


@kernel
def gradients_of_choices(panels, x, dx, add, totals, rooms):
    """Add what comes of x, of which each of V rows may have been chosen many times, and write (or add to) dx.

    The products are those of V rows: how often each was chosen doesn't matter any more.

    Parameters
    ----------
    panels : Panels
    x, dx : (V, I), contiguous in the inner axis
    add, totals, rooms : as for ``gradients``
    """
    work = Work(rooms.tables[0], rooms.dx[0], rooms.slabs[0], rooms.factors[0], rooms.bias[0], rooms.zeros)
    item, W, stride, slabs = x.itemsize, work.slabs.shape[2], totals.chosen.strides[1], address(work.slabs)
    width = totals.chosen.shape[2]
    for first in range(0, max(len(x), 1), CHUNK):
        count, at = min(CHUNK, len(x) - first), address(totals.chosen) + first * stride
        for r in range(count):
            source = address(work.zeros)
            for m in range(width):
                if totals.chosen[0, first + r, m] != 0:  # what was never chosen has no influence, not even NaN
                    source = address(x) + (first + r) * x.strides[0]
                    break
            spread_row(panels, slabs + r * W * item, CHUNK * W, source, panels.I)
            work.tables[3, r] = address(dx) + (first + r) * dx.strides[0]
        put_dx(panels, 0, count, at, stride, add, work)
        for m in range(0, width // W, GROUP):
            n = min(GROUP, width // W - m)
            gather_slabs(panels, n, count, at + m * W * item, stride, address(work.factors), address(work.bias))
            add_outer(panels, count, m, m + n, address(work.factors), slabs, totals.w_ih, first > 0, work)
