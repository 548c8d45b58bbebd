"""The loop over time on all multiprocessors at once: each block owns some units (``spread``), for all sequences.

A step reads what all blocks have written in the one before.  So between two steps all blocks meet: ``counter`` counts
who has come, and nobody goes on before all have.  That takes that all blocks are there at the same time.

In PTX's memory model what is written becomes known like this: each thread's writes come before the block's barrier;
the one thread that then counts its block, by an addition that is a *release*, passes on all that is known to it; it
finds the full count by a load that is an *acquire*, and so knows what all others passed on; another barrier tells its
block.
"""

from __future__ import annotations

from collections.abc import Callable

from . import meeting, primitives
from .spread import SpreadPlan


def forward(plan: SpreadPlan, keep: bool, masked: bool) -> Callable[..., None]:
    """The kernel that runs all steps.

    =============  ======================  ======================================================================
    weights        ``plan.pack_forward``
    gx             (rows, G * H)           sums as far as they stem from the input, gates as ``of_input`` says
    hidden_bias    (max(1, split gates),   biases of the hidden halves of split gates
                   H)
    starts, ...    ``schedule.Schedule``
    y, h           numbers                 h before the step begins where ``before`` says; that after it is written
                                           where ``now`` says
    masks          (B, H)                  what h is multiplied by where it enters W_hh, if ``masked``
    c              (B, E * H)              state beside h, changed
    saved          (rows, slots * H)       written, if ``keep``
    counter        (1,)                    0 at first
    =============  ======================  ======================================================================
    """
    from numba import cuda

    split, cell, H, R, G = plan.forward, plan.cell, plan.H, plan.rows, plan.gates
    E, slots, threads, room, Q = cell.extras(), cell.slots(), split.threads, split.room, split.per_group
    alike = split.lanes // (R * Q)  # lanes that are left with the same unit and sequence
    U, blocks, size, lanes = split.units_of_block, split.blocks, split.weights * split.threads, split.lanes
    dtype, zero, all_vectors = primitives.numba_dtype(plan.dtype), plan.dtype.type(0), split.vectors
    in_registers, rest = split.in_registers * threads, split.rest * threads

    read, write, read_row, step = primitives.read(), primitives.write(), primitives.read_row(), primitives.step(cell)
    read_extras, write_extras = primitives.read_extras(E), primitives.write_extras()
    read_sums, read_biases = primitives.read_several(G), primitives.read_several(max(1, len(cell.split)))
    write_saved, load_weights = primitives.write_several(), primitives.load_weights(split)
    multiply, fetch = primitives.multiply(split, all_vectors - in_registers), meeting.fetch_states(split, masked)
    count_me, look = meeting.count_me(), meeting.look()

    def kernel(weights, gx, hidden_bias, starts, order, cuts, y, before, now, h, masks, c, saved, counter, steps):
        vectors = cuda.shared.array(0, dtype)  # h before the step, of a tile; then weights
        thread = cuda.threadIdx.x
        place = thread % lanes // alike
        unit, row = cuda.blockIdx.x * U + thread // lanes * Q + place % Q, place // Q
        valid, u = unit < H and thread % alike == 0, min(unit, H - 1)
        own = cuda.blockIdx.x * size + thread
        kept = load_weights(weights, own)
        for q in range(0, rest, threads):
            write(vectors, all_vectors + q + thread, read(weights, in_registers + q + own))
        for q in range(thread, all_vectors, threads):
            write(vectors, q, zero)
        biases = read_biases(hidden_bias, u, H)
        expected = 0
        for s in range(steps):
            start = read(starts, s)
            count = read(starts, s + 1) - start
            for lead in range(0, count, R):
                i = min(lead + row, count - 1)
                at, b = start + i, read(order, i)
                given = read_sums(gx, at * (G * H) + u, H)
                cuda.syncthreads()  # the block has read the vectors, and written its part of y
                if lead == 0 and start > 0:
                    expected += blocks
                    if thread == 0:
                        count_me(counter)
                        while look(counter) < expected:
                            pass
                    cuda.syncthreads()
                fetch(vectors, y, before, h, masks, order, start, lead, count - 1, thread)
                cuda.syncthreads()
                sums = multiply(kept, vectors, vectors, 0, thread)
                if valid and lead + row < count:
                    cut = read(cuts, at) if cuts.shape[0] > 0 else 0
                    # What this thread wrote itself, or (read by others too, and masked) what is in the tile.
                    held = read_row(y, read(before, at), h, H, u) if masked else read(vectors, row * room + u)
                    state = read_extras(held, c, b * (E * H) + u, H, cut)
                    after, values = step(given, biases, sums, state)
                    write(y, read(now, at) + u, after[0])
                    write_extras(c, b * (E * H) + u, H, after, 0)
                    if keep:
                        write_saved(saved, at * (slots * H) + u, H, values)

    return kernel


def backward(plan: SpreadPlan, masked: bool) -> Callable[..., None]:
    """The kernel that takes the steps of ``forward`` back, from the last one run to the first.

    =============  ======================  ======================================================================
    weights        ``plan.pack_backward``
    dy, dy_index   numbers                 gradient for y, and where each row of it begins; or empty: zero
    starts, ...    ``schedule.Schedule``
    masks          (B, H)                  those of ``forward``, if ``masked``
    dh, dc         (B, H), (B, E * H)      gradients for the state after, turned into those for the state before
    saved          (rows, slots * H)       what ``forward`` kept; its first S slots become the gradients of the sums
    counter        (1,)                    0 at first
    =============  ======================  ======================================================================
    """
    from numba import cuda

    split, cell, H, R, G = plan.backward, plan.cell, plan.H, plan.rows, plan.gates
    E, slots, threads, Q = cell.extras(), cell.slots(), split.threads, split.per_group
    alike = split.lanes // (R * Q)
    U, blocks, size, lanes = split.units_of_block, split.blocks, split.weights * split.threads, split.lanes
    dtype, zero, all_vectors = primitives.numba_dtype(plan.dtype), plan.dtype.type(0), split.vectors
    in_registers, rest = split.in_registers * threads, split.rest * threads
    of_hidden = (cell.sums() - G) * H

    read, write, step_back = primitives.read(), primitives.write(), primitives.step_back(cell)
    read_extras, write_extras = primitives.read_extras(E), primitives.write_extras()
    read_saved, write_sums = primitives.read_several(len(cell.saved)), primitives.write_several()
    load_weights = primitives.load_weights(split)
    multiply, fetch = primitives.multiply(split, all_vectors - in_registers), meeting.fetch_rows(split)
    count_me, look = meeting.count_me(), meeting.look()

    def kernel(weights, dy, dy_index, starts, order, cuts, masks, dh, dc, saved, counter, steps):
        vectors = cuda.shared.array(0, dtype)  # gradients of a tile's sums; then weights
        thread = cuda.threadIdx.x
        place = thread % lanes // alike
        unit, row = cuda.blockIdx.x * U + thread // lanes * Q + place % Q, place // Q
        valid, u = unit < H and thread % alike == 0, min(unit, H - 1)
        own = cuda.blockIdx.x * size + thread
        kept = load_weights(weights, own)
        for q in range(0, rest, threads):
            write(vectors, all_vectors + q + thread, read(weights, in_registers + q + own))
        for q in range(thread, all_vectors, threads):
            write(vectors, q, zero)
        expected = 0
        for s in range(steps - 1, -1, -1):
            start = read(starts, s)
            count = read(starts, s + 1) - start
            for e in range(thread, count * U, threads):
                i = e // U
                mine = cuda.blockIdx.x * U + e - i * U
                if mine < H:
                    at, b = start + i, read(order, i)
                    cut = read(cuts, at) if cuts.shape[0] > 0 else 0
                    gradient = read(dh, b * H + mine)
                    if dy.shape[0] > 0:
                        gradient += read(dy, read(dy_index, at) + mine)
                    state = read_extras(gradient, dc, b * (E * H) + mine, H, 0)
                    dsums, _, directly = step_back(state, read_saved(saved, at * (slots * H) + mine, H))
                    write_sums(saved, at * (slots * H) + mine, H, dsums)
                    write(dh, b * H + mine, zero if cut != 0 else directly[0])
                    write_extras(dc, b * (E * H) + mine, H, directly, cut)
            cuda.syncthreads()
            if count > 0:
                expected += blocks
                if thread == 0:
                    count_me(counter)
                    while look(counter) < expected:
                        pass
                cuda.syncthreads()
            for lead in range(0, count, R):
                fetch(vectors, saved, start + lead, start + count - 1, slots * H, of_hidden, thread)
                cuda.syncthreads()
                through = multiply(kept, vectors, vectors, 0, thread)
                if valid and lead + row < count:
                    cut = read(cuts, start + lead + row) if cuts.shape[0] > 0 else 0
                    if cut == 0:
                        to = read(order, lead + row) * H + u
                        write(dh, to, read(dh, to) + (through[0] * read(masks, to) if masked else through[0]))
                cuda.syncthreads()  # the block has read the vectors, and written its part of dh

    return kernel
