"""The forward loop over time: one layer, one direction, all cells."""

from __future__ import annotations

from .._kernel import kernel, part
from .inputs import sum_rows, takes_digits
from .rows import address, copy_row, multiply_padded, row_address, zero_row
from .schedule import among, cut, gather, own, running, scatter, steps_done
from .steps import biases, columns_of_step, in_bytes, is_projected, layout, project, step
from .team import LATER, assemble, lay_down, meet, nought, offer, part_ways, seats


@part
def list_rows(when, x, now, first, n, table, at):
    """Addresses of n rows of x at a time, into a table."""
    for i in range(n):
        table[at + i] = address(x) + now * x.strides[0] + when.order[when.first + first + i] * x.strides[1]


@part
def list_starts(when, index, now, n, start, stride, starts):
    """Addresses of what the sums of n rows start from, ``stride`` apart: one after another, or as ``index`` says."""
    for i in range(n):
        row = i
        if index is not None:
            row = index[now, when.order[when.first + i]]
        starts[i] = start + row * stride


@kernel
def sum_choices(net, x, tables, ahead, digits):
    """What each of the V rows of x (V, I), from which the inputs are chosen, adds to the sums, into ``ahead``."""
    for v in range(len(x)):
        tables[0, 0, v] = address(x) + v * x.strides[0]
    by_digits = takes_digits(net)
    room = digits[0] if by_digits else ahead[0]
    sum_rows(net, by_digits, 0, layout(net)[2], len(x), address(tables), address(ahead), ahead.strides[0], room)


@part(pasted=True)
def fill(when, x, s, rooms, running_now, table):
    """(s', rows): rows of x for the steps [s, s'), as many as there is room for."""
    steps, filled = x.shape[0], nought()
    while s < steps:
        now = steps - 1 - s if when.reverse else s
        running_now = running(when, when.t0 + now, running_now)
        n = own(when, running_now)
        if filled + n > rooms:
            break
        list_rows(when, x, now, nought(), n, table, filled)
        filled += n
        s += 1
    return s, filled


@kernel
def forward(
    seat, team, net, when, x, index, y, h, c, masks, saved, h_work, c_work, m_work, rows_work, tables, ahead, digits
):
    """Run a stretch of time of one layer and direction.

    Parameters
    ----------
    seat : Seat
        ``CALLER``; that of a member, when it is called once more for each of them; or one with ``LATER``.
    team : Team
    net : network (forward buffer)
    when : When
    x : (steps, B, I) inputs, contiguous in the inner axis
    index : (steps, B), or None
        If x is chosen: which of the rows that ``sum_choices`` has summed it is at each step; x isn't read.
    y : (steps, B, K) outputs, contiguous in the inner axis; written, 0 past a sequence's end
    h : (B, K) hidden state before and, written, after
    c : (B, E * H) what else the cell carries, before and after
    masks : (3, B, Kp), or of size 0
        [0]: what h is multiplied by, for each sequence of the caller's, where it enters W_hh.  [1:] are room for two
        such products, beside ``h_work``.  Of size 0: h enters as it is.
    saved : (rows, slots * Hp) or None
        One row for each step of each sequence, in the order they are run.
    h_work, c_work, m_work, rows_work, tables : workspaces (2, B, Kp), (B, E * Hp), (B, Hp), (members, ...) for ``step``
        on a matrix unit, and (2, members abreast, rows) for addresses, with as many rows as B and ``ahead`` have
    ahead : workspace (rows, S * Hp)
        Room for what the inputs of several steps add to the sums, to be computed at once, if a member's sequences
        fit in its part of it; else each step computes its own.  Or what ``sum_choices`` has left.
    digits : workspace (members, ...) for ``sum_rows``
    """
    if seat.members == LATER:
        lay_down(seat.desk)
        return
    called = seat.members == 0
    if called:
        seat = assemble(team, offer())
    steps, batch, _ = y.shape
    K, H = net.K, net.H
    item = x.itemsize
    h_row, c_row = h_work.shape[2] * item, c_work.shape[1] * item

    by_digits = takes_digits(net)
    group, groups, place, size = seats(seat, min(team.abreast, tables.shape[1]))
    if by_digits:
        groups = min(groups, len(digits) // size)
    if in_bytes(net):
        groups = min(groups, len(rows_work) // size)
    if group >= groups:
        return  # one member too many: the others do all
    friends, times = group * size, nought()
    when = among(when, steps, group, groups)
    mine = columns_of_step(net, place, size)

    here, there = address(h_work) + when.first * h_row, address(h_work) + (batch + when.first) * h_row
    m_row = m_work.shape[1] * item
    at_c, at_m = address(c_work) + when.first * c_row, address(m_work) + when.first * m_row
    # Beside each h in the workspace, so far apart, its product with the mask; or h itself.
    masked, at_mask = masks.size > 0, address(masks)
    apart = at_mask + batch * h_row - address(h_work) if masked else 0
    rooms, most, own_digits = ahead.shape[0] // groups, when.last - when.first, ahead[:0].reshape(-1)
    if by_digits:
        own_digits = digits[seat.member]
    own_rows = address(h_work)
    if in_bytes(net):
        own_rows = address(rows_work) + seat.member * rows_work.strides[0]
    if index is not None or (not (by_digits or in_bytes(net)) and (steps == 1 or rooms < most)):
        rooms = 0
    # Rows that a step takes at a time: as many as there is room for what their inputs add.
    few = most if rooms == 0 else min(rooms, most)
    table = tables[0, place, group * rooms if rooms > 0 else when.first :]
    starts = tables[1, place, when.first :]

    if place == 0:
        gather(net, when, h, K, h_work[0])
        gather(net, when, h, K, h_work[1])
        gather(net, when, c, H, c_work)
        if masked:
            for i in range(when.first, when.last):
                for q in range(2):
                    at_h, mask = address(h_work) + (q * batch + i) * h_row, at_mask + when.order[i] * h_row
                    multiply_padded(net, at_h + apart, at_h, mask, K)
    times = meet(seat, friends, size, times)
    running_now, kept = nought(), 0
    start, stride, inputs = address(ahead) + group * rooms * ahead.strides[0], ahead.strides[0], 0
    if index is None and rooms == 0:
        start, stride, inputs = biases(net), 0, net.I
        list_starts(when, None, nought(), when.last - when.first, start, stride, starts)
    ready, done = nought(), nought()
    for s in range(steps):
        now = steps - 1 - s if when.reverse else s
        running_now = running(when, when.t0 + now, running_now)
        n = own(when, running_now)
        at_y = address(y) + now * y.strides[0] + mine.h * item
        for i in range(n, when.last - when.first):
            zero_row(net, at_y + when.order[when.first + i] * y.strides[1], mine.h_count)
        if index is not None:
            list_starts(when, index, now, n, start, stride, starts)
        elif rooms == 0:
            list_rows(when, x, now, nought(), n, table, nought())
        was_cut = False
        for i in range(n):
            if cut(when, when.t0 + now, when.first + i):
                was_cut = True
                for q in range(1 + masked):
                    zero_row(net, here + q * apart + i * h_row + mine.h * item, mine.h_count)
                for q in range(mine.pieces):
                    zero_row(net, at_c + i * c_row + (q * mine.slot + mine.c) * item, mine.c_count)
        if was_cut:
            times = meet(seat, friends, size, times)
        at_saved = row_address(saved, kept + when.first)
        units, rows, at = (mine.c, mine.c_count), (address(table), address(starts)), nought()
        while True:
            now_rows, new_rows = min(few, n - at), nought()
            if few < most:
                list_rows(when, x, now, at, now_rows, table, nought())
                new_rows, done = now_rows, nought()
            elif rooms > 0 and s == ready:
                ready, new_rows = fill(when, x, s, rooms, running_now, table)
                done = nought()
            if new_rows > 0:
                sum_rows(net, by_digits, mine.c, mine.c_count, new_rows, rows[0], start, stride, own_digits)
            if rooms > 0:
                list_starts(when, None, now, now_rows, start + done * stride, stride, starts)
                done += now_rows
            old, new = here + at * h_row, there + at * h_row
            state = (old, old + apart, new, at_c + at * c_row, at_m + at * m_row)
            to = row_address(saved, kept + when.first + at)
            step(net, *units, s & 1, now_rows, *rows, inputs, *state, to, own_rows)
            at += few
            if at >= n:
                break
        if is_projected(net):
            times = meet(seat, friends, size, times)
            project(net, mine.h, mine.h_count, n, at_m, at_saved, there)
        kept += running_now
        for i in range(n):
            to, new_h = at_y + when.order[when.first + i] * y.strides[1], there + i * h_row + mine.h * item
            copy_row(net, to, new_h, mine.h_count)
            if masked:
                mask = at_mask + when.order[when.first + i] * h_row + mine.h * item
                multiply_padded(net, new_h + apart, new_h, mask, mine.h_count)
        times = meet(seat, friends, size, times)
        here, there = there, here

    if place == 0:
        for i in range(when.first, when.last):
            # The two buffers have changed places since a sequence ended: its last h stands where it was written then.
            if (steps if when.reverse else steps_done(when, i, steps)) % 2 == 1:
                copy_row(net, address(h_work) + i * h_row, address(h_work) + (batch + i) * h_row, K)
        scatter(net, when, h_work[0], K, h)
        scatter(net, when, c_work, H, c)
    if called:
        part_ways(seat)
