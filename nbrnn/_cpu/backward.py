"""Backpropagation through time: one layer, one direction, all cells."""

from __future__ import annotations

from .._kernel import kernel
from .rows import add_product_padded, add_row, address, row_address, zero_padded, zero_row
from .schedule import among, cut, gather, own, running, scatter
from .steps import carry, cell_backward, columns_back, in_bytes, is_projected, unproject
from .subnormal import flush, restore
from .team import LATER, assemble, lay_down, meet, nought, offer, part_ways, seats


@kernel
def backward(seat, team, net, when, dy, dh, dc, masks, saved, h_work, c_work, m_work, rows_work):
    """Take the steps of ``forward`` back, from the last one run to the first.

    Parameters
    ----------
    seat, team : as for ``forward``
    net : network (backward buffer)
    when : When
    dy : (steps, B, K) gradient for y, contiguous in the inner axis; or (steps, B, 0), which means zero
    dh : (B, K) gradient for the state after, turned into that for the state before
    dc : (B, E * H) the same for what else the cell carries
    masks : as for ``forward``; [1] is room for what passes through W_hh
    saved : (rows, slots * Hp)
        What ``forward`` kept; its first S slots become the gradients of the sums.
    h_work, c_work, m_work : workspaces (B, Kp), (B, E * Hp), (B, Mp), of zeros
    rows_work : workspace (members, ...) for ``carry`` on a matrix unit
    """
    if seat.members == LATER:
        lay_down(seat.desk)
        return
    called = seat.members == 0
    if called:
        seat = assemble(team, offer())
    steps = dy.shape[0]
    K, H = net.K, net.H
    item = saved.itemsize
    h_row, c_row = h_work.shape[1] * item, c_work.shape[1] * item

    group, groups, place, size = seats(seat, team.abreast)
    own_rows = address(h_work)
    if in_bytes(net):
        groups = min(groups, len(rows_work) // size)
        own_rows = address(rows_work) + seat.member * rows_work.strides[0]
    if group >= groups:
        return  # one member too many: the others do all
    friends, times = group * size, nought()
    kept = flush()
    when = among(when, steps, group, groups)
    mine = columns_back(net, place, size)

    at_h, at_c = address(h_work) + when.first * h_row, address(c_work) + when.first * c_row
    at_m = address(m_work) + when.first * m_work.shape[1] * item

    # So far from dh in the workspace what passes through W_hh, to be multiplied by the mask; or dh itself.
    masked, at_mask = masks.size > 0, address(masks)
    apart = at_mask + dy.shape[1] * h_row - address(h_work) if masked else 0

    if place == 0:
        gather(net, when, dh, K, h_work)
        gather(net, when, dc, H, c_work)
    times = meet(seat, friends, size, times)
    running_now, row = nought(), saved.shape[0]
    for s in range(steps - 1, -1, -1):
        now = steps - 1 - s if when.reverse else s
        running_now = running(when, when.t0 + now, running_now)
        n = own(when, running_now)
        row -= running_now
        at_saved = row_address(saved, row + when.first)
        if dy.shape[2] > 0:
            at_dy = address(dy) + now * dy.strides[0] + mine.h * item
            for i in range(n):
                add_row(
                    net,
                    at_h + i * h_row + mine.h * item,
                    at_dy + when.order[when.first + i] * dy.strides[1],
                    mine.h_count,
                )
        if is_projected(net):
            times = meet(seat, friends, size, times)
            unproject(net, n, mine.h, mine.h_count, at_h, at_saved, mine.c, mine.c_count, at_m)
        cell_backward(net, mine.c, mine.c_count, n, at_h, at_m, at_c, at_saved)
        times = meet(seat, friends, size, times)
        if masked:
            # Where ``carry`` adds it shall find nothing; where it overwrites, nothing goes to dh directly.
            empty = at_h if is_projected(net) else at_h + apart
            for i in range(n):
                zero_padded(net, empty + i * h_row + mine.h * item, mine.h_count)
        carry(net, mine.h, mine.h_count, s & 1, n, at_saved, at_h + apart, own_rows)
        if masked:
            for i in range(n):
                row_h, mask = at_h + i * h_row + mine.h * item, at_mask + when.order[when.first + i] * h_row
                add_product_padded(net, row_h, row_h + apart, mask + mine.h * item, mine.h_count)
        for i in range(n):
            if cut(when, when.t0 + now, when.first + i):
                zero_row(net, at_h + i * h_row + mine.h * item, mine.h_count)
                for q in range(mine.pieces):
                    zero_row(net, at_c + i * c_row + (q * mine.slot + mine.c) * item, mine.c_count)

    times = meet(seat, friends, size, times)
    if place == 0:
        scatter(net, when, h_work, K, dh)
        scatter(net, when, c_work, H, dc)
    restore(kept)
    if called:
        part_ways(seat)
