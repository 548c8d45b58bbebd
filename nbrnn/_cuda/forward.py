"""The forward loop over time: one layer, one direction, all cells."""

from __future__ import annotations

from collections.abc import Callable

from . import primitives
from .plan import Plan


def forward(plan: Plan, keep: bool, masked: bool) -> Callable[..., None]:
    """The kernel that runs all steps of a tile of sequences in each block.

    Its arguments are flat:

    =============  ===========================  =================================================================
    weights        ``plan.pack_forward``
    gx             (rows, G * H)                sums as far as they stem from the input, gates as ``of_input`` says
    hidden_bias    (max(1, split gates), H)     biases of the hidden halves of split gates
    starts, ...    ``schedule.Schedule``
    masks          (B, H)                       what h is multiplied by where it enters W_hh, if ``masked``
    h, c           (B, H), (B, E * H)           state before
    h_after, ...   the same                     written: the state after
    y              numbers y_time, y_batch      written, 0 past a sequence's end
                   apart
    saved          (rows, slots * H)            written, if ``keep``
    =============  ===========================  =================================================================
    """
    from numba import cuda

    split, cell, H, R, G = plan.forward, plan.cell, plan.H, plan.rows, plan.gates
    E, slots, threads, room, Q, P = cell.extras(), cell.slots(), split.threads, split.room, split.per_group, split.lanes
    alike = P // (R * Q)  # lanes that are left with the same unit and sequence
    half, both, dtype = R * room, 2 * R * room, primitives.numba_dtype(plan.dtype)
    zero, one = plan.dtype.type(0), plan.dtype.type(1)

    read, write, read_state = primitives.read(), primitives.write(), primitives.read_state(E)
    write_state, nothing = primitives.write_state(), primitives.zeros(1 + E, plan.dtype)
    read_sums, read_biases = primitives.read_several(G), primitives.read_several(max(1, len(cell.split)))
    write_saved = primitives.write_several()
    load_weights, multiply, step = primitives.load_weights(split), primitives.multiply(split), primitives.step(cell)

    def kernel(
        weights, gx, hidden_bias, starts, lengths, order, cuts, masks, h, c, h_after, c_after, y, saved,
        steps, batch, reverse, y_time, y_batch,
    ):  # fmt: skip
        vectors = cuda.shared.array(both, dtype)  # h of the step before and, written meanwhile, of this one
        thread = cuda.threadIdx.x
        place = thread % P // alike
        unit = thread // P * Q + place % Q
        row = place // Q
        lead = cuda.blockIdx.x * R
        valid = unit < H and thread % alike == 0
        mine = valid and lead + row < batch
        # Whoever has nothing of its own goes along with a neighbour, so that all loads are of something.
        u, i = min(unit, H - 1), min(lead + row, batch - 1)
        length = read(lengths, i) if lead + row < batch else 0
        longest = read(lengths, lead)  # lengths fall
        first, last = (steps - length, steps) if reverse else (0, length)
        begin, end = (steps - longest, steps) if reverse else (0, longest)
        b = read(order, i)
        mask = read(masks, b * H + u) if masked else one

        kept = load_weights(weights, thread)
        biases = read_biases(hidden_bias, u, H)
        state = read_state(h, b * H + u, c, b * (E * H) + u, H)
        if cuts.shape[0] > 0 and length > 0 and read(cuts, read(starts, first) + i) != 0:
            state = nothing()
        for q in range(thread, both, threads):
            write(vectors, q, zero)
        cuda.syncthreads()
        if valid:
            write(vectors, row * room + unit, state[0] * mask if masked else state[0])
        cuda.syncthreads()
        source = 0
        for s in range(begin, end):
            runs = s >= first and s < last
            at = read(starts, s) + (i if runs else lead)
            given = read_sums(gx, at * (G * H) + u, H)
            sums = multiply(kept, weights, vectors, source, thread)
            after, values = step(given, biases, sums, state)
            if runs:
                state = after
                if mine:
                    t = steps - 1 - s if reverse else s
                    write(y, t * y_time + b * y_batch + u, state[0])
                    if keep:
                        write_saved(saved, at * (slots * H) + u, H, values)
                if cuts.shape[0] > 0 and s + 1 < last and read(cuts, read(starts, s + 1) + i) != 0:
                    state = nothing()
            source = half - source
            if valid:
                write(vectors, source + row * room + unit, state[0] * mask if masked else state[0])
            cuda.syncthreads()
        if mine:
            write_state(h_after, b * H + u, c_after, b * (E * H) + u, H, state)
            for t in range(length, steps):
                write(y, t * y_time + b * y_batch + u, zero)

    return kernel
