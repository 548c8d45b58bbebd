"""Gradients of weights and inputs, from those of the sums: large products over all steps of all sequences.

The same code serves every cell: it is told how many gates there are and where their gradients stand.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from .._kernel import kernel, part
from . import tiles
from .dx import put_dx
from .emit import Int, Vec
from .rows import address, multiply_slabs, primitive, spread_row
from .schedule import cut, first_step, running
from .slabs import GROUP, add_group, fit_for_digits, gather_group
from .subnormal import flush, restore
from .team import assemble, nought, offer, part_ways, share


class Panels(NamedTuple):
    """W_ih packed for dx, with the cell's sizes; and its digits, after a vector that says what they are good for, or
    nothing.
    """

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
    digits: Any


class Totals(NamedTuple):
    """Gradients of the weights in whole tiles: (2, gates * slot, Ip), (2, gates * slot, Kp), (2, Kw, Mp) and
    (2, S * slot); and None, or where x is chosen from V rows, of the sums for each of those (2, V, gates * slot).
    [0] are the sums, [1] what rounding has left over.  ``firsts``: then (members, V), all -1, see ``add_choices``.
    """

    w_ih: Any
    w_hh: Any
    w_hr: Any
    bias: Any
    chosen: Any = None
    firsts: Any = None


class Work(NamedTuple):
    """Workspaces, all but ``zeros`` for each member: six tables of addresses of so many rows as are gathered at once,
    rows of dx (rows, Ip), slabs (vectors, rows, W) of what is multiplied and (GROUP, rows, W) of what with, sums, and
    zeros, I, K and H at least; for a matrix unit, digits of (GROUP + vectors) slabs, and what numbers there are: (1 + 2
    GROUP, W), see ``fit_for_digits`` and ``gather_group``, else nothing.
    """

    tables: Any
    dx: Any
    slabs: Any
    factors: Any
    bias: Any
    zeros: Any
    digits: Any
    limits: Any


@primitive
def add_rows_kept(e, panels, to, rest, table, count, n):
    """``to[k] += source[k]`` for whole vectors of n numbers, of so many rows whose addresses are in a table: their sum
    is added to what there is, see ``tiles.add_kept``.
    """
    to, table = e.ptr(to), e.ptr(table)

    def some(v: Int, size: int) -> None:
        def row(r: Int, *sums: Vec) -> list[Vec]:
            source = table.address_at(r) + v * e.W
            return [s + source.load(q * e.W) for q, s in enumerate(sums)]

        for q, value in enumerate(e.loop(count, [e.vec(0.0)] * size, row)):
            tiles.add_kept(to + (v + q) * e.W, rest, value)

    tiles.each_tile(n // e.W, (GROUP, 1), some)


@part(pasted=True)
def own_sums(panels, inputs, hidden, vectors, mine):
    """[begin, end): the vectors of gradients of the sums, of so many to each slot, with which a member multiplies.

    About as many products for each: those of the first ``gates`` slots are multiplied with so many ``inputs``, of the
    last ``gates`` with so many numbers of ``hidden``.  The caller, member 0, has the last: it has read them last, when
    it brought the gradients before to the parameters, and the others find nothing in its caches.
    """
    done, total, q = 0, panels.gates * vectors * (inputs + hidden), mine.members - 1 - mine.member
    begin, end = 0, 0
    for m in range(panels.sums * vectors):
        begin += done * mine.members < total * q
        end += done * mine.members < total * (q + 1)
        if m < panels.gates * vectors:
            done += inputs
        if m >= (panels.sums - panels.gates) * vectors:
            done += hidden
    return begin, end


@part
def add_choices(panels, count, at, stride, n, to, step, rest, firsts, work):
    """Add n numbers of each of so many rows from ``at`` on to what has been summed for the choice it stands for.

    Rows of a choice are found first, by a list of them that begins in ``firsts``: so its sums, which may be in a far
    cache, are read and written once.
    """
    choices, nexts, rows = work.tables[0], work.tables[3], work.tables[5]
    for r in range(count - 1, -1, -1):
        nexts[r] = firsts[choices[r]]
        firsts[choices[r]] = r
    for first in range(count):
        choice, r, found = choices[first], first, nought()
        if firsts[choice] != first:
            continue
        while r >= 0:
            rows[found] = at + r * stride
            found += 1
            r = nexts[r]
        add_rows_kept(panels, to + choice * step, rest, address(rows), found, n)
        firsts[choice] = -1


@part(pasted=True)
def add_chunk(panels, mine, index, saved, first, count, add, begun, totals, work):
    """What rows [first, first + count) of ``saved`` contribute, whose addresses stand in the tables.

    If nothing has ``begun``, the totals hold nothing yet, but for ``chosen``, and are written.

    A member has some of the rows of dx, and some of the rows of each matrix: sums are never split, so that their bits
    don't depend on the number of members.
    """
    xs, hs, ms, masks = work.tables[0], work.tables[1], work.tables[2], work.tables[4]
    item, stride, (_, rows, W) = saved.itemsize, saved.strides[0], work.slabs.shape
    at = address(saved) + first * stride
    step, line = rows * W, W * item
    inputs, hidden = totals.w_ih.shape[2], totals.w_hh.shape[2]
    none, of_x, of_h, every = nought(), nought(), inputs // W, panels.sums * panels.slot
    x_slabs, h_slabs = address(work.slabs), address(work.slabs) + of_h * work.slabs.strides[0]
    if index is None:
        begin, end = share(count, mine.member, mine.members)
        put_dx(panels, begin, end, at, stride, add, work)
    fits = masks[0] == 0 and fit_for_digits(panels, hs, count, panels.K, of_h, hidden, work)
    if index is None:
        fits = fits and fit_for_digits(panels, xs, count, panels.I, of_x, inputs, work)
    else:
        inputs = 0  # to be multiplied here
    if not fits:
        if index is None:
            for r in range(count):
                spread_row(panels, x_slabs + r * line, step, xs[r], panels.I)
        for r in range(count):
            spread_row(panels, h_slabs + r * line, step, hs[r], panels.K)
            if masks[r] != 0:
                multiply_slabs(panels, h_slabs + r * line, step, masks[r], panels.K)
    vectors = panels.slot // W
    to_x, from_h = panels.gates * vectors, (panels.sums - panels.gates) * vectors
    begin, end = own_sums(panels, inputs, hidden, vectors, mine)
    for m in range(begin, end, GROUP):
        n = min(GROUP, end - m)
        gather_group(panels, count, n, at + m * line, stride, address(work.bias) + m * line, fits, work)
        if index is None:
            few = min(m + n, to_x) - m
            add_group(panels, fits, count, none, few, every, xs, panels.I, of_x, totals.w_ih, m, begun, work)
        skip = max(from_h - m, 0)
        to = m + skip - from_h
        add_group(panels, fits, count, skip, n - skip, every, hs, panels.K, of_h, totals.w_hh, to, begun, work)
    if index is not None:
        n, rest = max(min(end, to_x) - begin, 0) * W, totals.chosen.shape[1] * totals.chosen.shape[2]
        to = address(totals.chosen) + begin * line
        apart, firsts = totals.chosen.strides[1], totals.firsts[mine.member]
        add_choices(panels, count, at + begin * line, stride, n, to, apart, rest, firsts, work)
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
        fits = fit_for_digits(panels, ms, count, panels.H, of_x, totals.w_hr.shape[2], work)
        if not fits:
            for r in range(count):
                spread_row(panels, x_slabs + r * line, step, ms[r], panels.H)
        begin, end = share(totals.w_hr.shape[1] // W, mine.member, mine.members)
        for m in range(begin, end, GROUP):
            n = min(GROUP, end - m)
            source = at + stride - panels.slot * item + m * line
            gather_group(panels, count, n, source, stride, address(work.bias), fits, work)
            add_group(panels, fits, count, none, n, panels.K - m * W, ms, panels.H, of_x, totals.w_hr, m, begun, work)


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
    steps, kept = y.shape[0], flush()
    item, stride = saved.itemsize, saved.strides[0]
    q = seat.member
    of_unit = rooms.digits[q], rooms.limits[q]
    work = Work(rooms.tables[q], rooms.dx[q], rooms.slabs[q], rooms.factors[q], rooms.bias[q], rooms.zeros, *of_unit)
    n, filled = nought(), nought()
    most = len(work.tables[0])
    for s in range(begin, end + 1):  # once more, for what is left
        now = steps - 1 - s if when.reverse else s
        t, i = when.t0 + now, nought()
        n = running(when, t, n) if s < end else nought()
        while i < n or s == end:
            while i < n and filled < most:
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
                i += 1
            if filled == most or (s == end and (filled > 0 or not begun)):
                add_chunk(panels, seat, index, saved, row - filled, filled, add, begun, totals, work)
                filled, begun = nought(), True
            if s == end:
                break
    restore(kept)
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
    of_unit, item, stride = (rooms.digits[0], rooms.limits[0]), x.itemsize, totals.chosen.strides[1]
    work = Work(rooms.tables[0], rooms.dx[0], rooms.slabs[0], rooms.factors[0], rooms.bias[0], rooms.zeros, *of_unit)
    (_, rows, W), slabs = work.slabs.shape, address(work.slabs)
    width, most, none, fits = totals.chosen.shape[2], len(work.tables[0]), nought(), len(x) < 0
    for first in range(0, max(len(x), 1), most):
        count, at = min(most, len(x) - first), address(totals.chosen) + first * stride
        for r in range(count):
            source = address(work.zeros)
            for m in range(width):
                if totals.chosen[0, first + r, m] != 0:  # what was never chosen has no influence, not even NaN
                    source = address(x) + (first + r) * x.strides[0]
                    break
            spread_row(panels, slabs + r * W * item, rows * W, source, panels.I)
            work.tables[3, r] = address(dx) + (first + r) * dx.strides[0]
        put_dx(panels, 0, count, at, stride, add, work)
        for m in range(0, width // W, GROUP):
            n = min(GROUP, width // W - m)
            gather_group(panels, count, n, at + m * W * item, stride, address(work.bias), fits, work)
            add_group(panels, fits, count, none, n, none, work.tables[0], none, none, totals.w_ih, m, first > 0, work)
