"""Backpropagation through time: one layer, one direction, all cells."""

from __future__ import annotations

from collections.abc import Callable

from . import primitives
from .plan import Plan


def backward(plan: Plan, masked: bool) -> Callable[..., None]:
    """The kernel that takes the steps of ``forward`` back, from the last one run to the first.

    Its arguments are flat:

    =============  ===========================  =================================================================
    weights        ``plan.pack_backward``
    dy             numbers dy_time, dy_batch    gradient for y; or empty, which means zero
                   apart
    starts, ...    ``schedule.Schedule``
    masks          (B, H)                       those of ``forward``, if ``masked``
    dh, dc         (B, H), (B, E * H)           gradients for the state after
    dh_before, ... the same                     written: those for the state before
    saved          (rows, slots * H)            what ``forward`` kept; its first S slots become the gradients of
                                                the sums
    =============  ===========================  =================================================================
    """
    from numba import cuda

    split, cell, H, R, G = plan.backward, plan.cell, plan.H, plan.rows, plan.gates
    E, slots, threads, room, Q, P = cell.extras(), cell.slots(), split.threads, split.room, split.per_group, split.lanes
    alike = P // (R * Q)  # lanes that are left with the same unit and sequence
    half, both, dtype = R * G * room, 2 * R * G * room, primitives.numba_dtype(plan.dtype)
    zero, one = plan.dtype.type(0), plan.dtype.type(1)

    read, write, read_state = primitives.read(), primitives.write(), primitives.read_state(E)
    write_state, zeros = primitives.write_state(), primitives.zeros(1 + E, plan.dtype)
    read_saved, write_several = primitives.read_several(len(cell.saved)), primitives.write_several()
    no_sums, nothing = primitives.zeros(G, plan.dtype), primitives.zeros(len(cell.saved), plan.dtype)
    add_to_h = primitives.add_to_h()
    load_weights, multiply = primitives.load_weights(split), primitives.multiply(split)
    step_back = primitives.step_back(cell)

    def kernel(
        weights, dy, starts, lengths, order, cuts, masks, dh, dc, dh_before, dc_before, saved,
        steps, batch, reverse, dy_time, dy_batch,
    ):  # fmt: skip
        vectors = cuda.shared.array(both, dtype)  # gradients of the sums at this step, and at the one after
        thread = cuda.threadIdx.x
        place = thread % P // alike
        unit = thread // P * Q + place % Q
        row = place // Q
        lead = cuda.blockIdx.x * R
        valid = unit < H and thread % alike == 0
        mine = valid and lead + row < batch
        u, i = min(unit, H - 1), min(lead + row, batch - 1)
        length = read(lengths, i) if lead + row < batch else 0
        longest = read(lengths, lead)
        first, last = (steps - length, steps) if reverse else (0, length)
        begin, end = (steps - longest, steps) if reverse else (0, longest)
        b = read(order, i)
        mask = read(masks, b * H + u) if masked else one

        kept = load_weights(weights, thread)
        dstate = read_state(dh, b * H + u, dc, b * (E * H) + u, H)
        for q in range(thread, both, threads):
            write(vectors, q, zero)
        cuda.syncthreads()
        source = 0
        for s in range(end - 1, begin - 1, -1):
            runs = mine and s >= first and s < last
            at = read(starts, s) + i
            after, values = dstate, nothing()
            if runs:  # nobody else may look: what is read here is written over
                values = read_saved(saved, at * (slots * H) + u, H)
                if dy.shape[0] > 0:
                    t = steps - 1 - s if reverse else s
                    after = add_to_h(after, read(dy, t * dy_time + b * dy_batch + u))
            dsums, of_hidden, before = step_back(after, values)
            if runs:
                write_several(saved, at * (slots * H) + u, H, dsums)
            if valid:
                write_several(vectors, source + row * (G * room) + unit, room, of_hidden if runs else no_sums())
            cuda.syncthreads()
            through = multiply(kept, weights, vectors, source, thread)
            if runs:
                dstate = add_to_h(before, through[0] * mask if masked else through[0])
                if cuts.shape[0] > 0 and read(cuts, at) != 0:
                    dstate = zeros()
            source = half - source
        if mine:
            write_state(dh_before, b * H + u, dc_before, b * (E * H) + u, H, dstate)

    return kernel
