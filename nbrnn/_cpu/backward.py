"""Backpropagation through time: one layer, one direction, all cells."""

from __future__ import annotations

from .._kernel import kernel
from .rows import add_row, address, row_address, zero_row
from .schedule import cut, gather, running, scatter
from .steps import carry, cell_backward, unproject


@kernel
def backward(net, when, dy, dh, dc, saved, h_work, c_work, m_work):
    """Take the steps of ``forward`` back, from the last one run to the first.

    Parameters
    ----------
    net : network (backward buffer)
    when : When
    dy : (steps, B, K) gradient for y, contiguous in the inner axis; or (steps, B, 0), which means zero
    dh : (B, K) gradient for the state after, turned into that for the state before
    dc : (B, E * H) the same for what else the cell carries
    saved : (rows, slots * Hp)
        What ``forward`` kept; its first S slots become the gradients of the sums.
    h_work, c_work, m_work : workspaces (B, Kp), (B, E * Hp), (B, Mp), of zeros
    """
    steps = dy.shape[0]
    K, H = net.K, net.H
    item = saved.itemsize
    h_row, c_row = h_work.shape[1] * item, c_work.shape[1] * item
    at_h, at_c, at_m = address(h_work), address(c_work), address(m_work)

    gather(when, dh, K, h_work)
    gather(when, dc, H, c_work)
    n = 0
    row = saved.shape[0]
    for s in range(steps - 1, -1, -1):
        now = steps - 1 - s if when.reverse else s
        n = running(when, when.t0 + now, n)
        row -= n
        at_saved = row_address(saved, row)
        if dy.shape[2] > 0:
            for i in range(n):
                dy_row = address(dy) + now * dy.strides[0] + when.order[i] * dy.strides[1]
                add_row(net, at_h + i * h_row, dy_row, K)
        unproject(net, n, at_h, at_saved, at_m)
        cell_backward(net, n, at_h, at_m, at_c, at_saved)
        carry(net, n, at_saved, at_h)
        for i in range(n):
            if cut(when, when.t0 + now, i):
                zero_row(net, at_h + i * h_row, K)
                zero_row(net, at_c + i * c_row, c_work.shape[1])

    scatter(when, h_work, K, dh)
    scatter(when, c_work, H, dc)
