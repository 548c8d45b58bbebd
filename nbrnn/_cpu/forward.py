"""The forward loop over time: one layer, one direction, all cells."""

from __future__ import annotations

from .._kernel import kernel
from .rows import address, copy_row, row_address, zero_row
from .schedule import cut, gather, running, scatter, steps_done
from .steps import project, step


@kernel
def forward(net, when, x, y, h, c, saved, h_work, c_work, m_work, xs):
    """Run a stretch of time of one layer and direction.

    Parameters
    ----------
    net : network (forward buffer)
    when : When
    x, y : (steps, B, I) inputs and (steps, B, K) outputs, contiguous in the inner axis; y is written, 0 past a
        sequence's end
    h : (B, K) hidden state before and, written, after
    c : (B, E * H) what else the cell carries, before and after
    saved : (rows, slots * Hp) or None
        One row for each step of each sequence, in the order they are run.
    h_work, c_work, m_work, xs : workspaces (2, B, Kp), (B, E * Hp), (B, Hp), and (B,) for addresses
    """
    steps, batch, _ = x.shape
    K, H = net.K, net.H
    item = x.itemsize
    h_row, c_row = h_work.shape[2] * item, c_work.shape[1] * item
    here, there = address(h_work), address(h_work) + batch * h_row
    at_c, at_m, at_xs = address(c_work), address(m_work), address(xs)

    gather(when, h, K, h_work[0])
    gather(when, h, K, h_work[1])
    gather(when, c, H, c_work)
    n = 0
    kept = 0
    for s in range(steps):
        now = steps - 1 - s if when.reverse else s
        n = running(when, when.t0 + now, n)
        for i in range(n, batch):
            zero_row(net, address(y) + now * y.strides[0] + when.order[i] * y.strides[1], K)
        for i in range(n):
            xs[i] = address(x) + now * x.strides[0] + when.order[i] * x.strides[1]
            if cut(when, when.t0 + now, i):
                zero_row(net, here + i * h_row, K)
                zero_row(net, at_c + i * c_row, c_work.shape[1])
        at_saved = row_address(saved, kept)
        step(net, n, at_xs, here, there, at_c, at_m, at_saved)
        project(net, n, at_m, at_saved, there)
        kept += n
        for i in range(n):
            copy_row(net, address(y) + now * y.strides[0] + when.order[i] * y.strides[1], there + i * h_row, K)
        here, there = there, here

    for i in range(batch):
        # The two buffers have changed places since a sequence ended: its last h stands where it was written then.
        if (steps if when.reverse else steps_done(when, i, steps)) % 2 == 1:
            copy_row(net, address(h_work) + i * h_row, address(h_work) + (batch + i) * h_row, K)
    scatter(when, h_work[0], K, h)
    scatter(when, c_work, H, c)
