"""The forward loop over time: one layer, one direction, all cells."""

from __future__ import annotations

from .._kernel import kernel
from .rows import address, copy_row, zero_row
from .schedule import cut, running, steps_done
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
    E = c.shape[1] // H

    for i in range(batch):
        b = when.order[i]
        for k in range(K):
            h_work[0, i, k] = h_work[1, i, k] = h[b, k]
        for q in range(E):
            for k in range(H):
                c_work[i, q * (c_work.shape[1] // E) + k] = c[b, q * H + k]

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
        if saved is None:
            step(net, n, at_xs, here, there, at_c, at_m, None)
            project(net, n, at_m, None, there)
        else:
            at_saved = address(saved) + kept * saved.strides[0]
            step(net, n, at_xs, here, there, at_c, at_m, at_saved)
            project(net, n, at_m, at_saved, there)
            kept += n
        for i in range(n):
            copy_row(net, address(y) + now * y.strides[0] + when.order[i] * y.strides[1], there + i * h_row, K)
        here, there = there, here

    for i in range(batch):
        b = when.order[i]
        # The two buffers have changed places since a sequence ended: its last h stands where it was written then.
        last = (steps if when.reverse else steps_done(when, i, steps)) % 2
        for k in range(K):
            h[b, k] = h_work[last, i, k]
        for q in range(E):
            for k in range(H):
                c[b, q * H + k] = c_work[i, q * (c_work.shape[1] // E) + k]
