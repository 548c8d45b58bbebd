"""Kernels that run one step, or part of one: for any H, and for projections.

The products between them are those of ``product``.  A thread has one number to see to.  All kernels are told which
rows they are for: ``count`` of them, from ``first`` on (see ``schedule``); the sequence of row ``first + i`` is
``order[i]``.  None depends on H, which is an argument, so that one compilation serves layers of all sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .._cells import Cell
from . import primitives

#: Threads of a block.
THREADS = 128


def step(cell: type[Cell], dtype: np.dtype[Any], keep: bool) -> Callable[..., None]:
    """The kernel that takes the sums of a step through a cell's formulas.

    =============  ================  ============================================================================
    gx             (rows, G * H)     sums as far as they stem from the input, gates as ``of_input`` says
    hidden_bias    (max(1, split     biases of the hidden halves of split gates
                   gates), H)
    sums           (count, G * H)    those that stem from h, gates as ``of_hidden`` says
    y, h           numbers           h before the step begins where ``before`` says (``Placed.offsets_before``);
                                     that after it is written where ``now`` says (``Placed.offsets``)
    cuts, order    ``Schedule``
    c              (B, E * H)        state beside h, changed
    m              (count, H)        with a projection, written instead of y: what is to be projected
    saved          (rows, slots, H)  written, if ``keep``
    =============  ================  ============================================================================
    """
    from numba import cuda

    G, E, slots, projected = len(cell.gates), cell.extras(), cell.slots(), cell.projected
    zero, projected_slot = dtype.type(0), cell.slot_projected()
    read, write, read_row = primitives.read(), primitives.write(), primitives.read_row()
    read_sums, read_biases = primitives.read_several(G), primitives.read_several(max(1, len(cell.split)))
    read_extras, write_extras, write_saved = (
        primitives.read_extras(E), primitives.write_extras(), primitives.write_several()
    )  # fmt: skip
    formulas = primitives.step(cell)

    def kernel(
        gx, hidden_bias, sums, y, before, now, h, cuts, order, c, m, saved, H, first, count,
    ):  # fmt: skip
        e = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if e < count * H:
            i = e // H
            u = e - i * H
            row, b = first + i, read(order, i)
            cut = read(cuts, row) if cuts.shape[0] > 0 else 0
            # A projection's formula can't read the old h.
            held = zero if projected else read_row(y, read(before, row), h, H, u)
            state = read_extras(held, c, b * (E * H) + u, H, cut)
            given, biases = read_sums(gx, row * (G * H) + u, H), read_biases(hidden_bias, u, H)
            after, values = formulas(given, biases, read_sums(sums, i * (G * H) + u, H), state)
            if projected:
                write(m, e, after[0])
            else:
                write(y, read(now, row) + u, after[0])
            write_extras(c, b * (E * H) + u, H, after, 0)
            if keep:
                write_saved(saved, row * (slots * H) + u, H, values)
                if projected:
                    write(saved, row * (slots * H) + projected_slot * H + u, after[0])

    return kernel


def step_back(cell: type[Cell], dtype: np.dtype[Any]) -> Callable[..., None]:
    """The kernel that takes ``step`` back.

    =============  =================  ===========================================================================
    dy, dy_index   numbers            gradient for y, and where each row of it begins; or empty, which means zero
    dm             (count, H)         with a projection, the gradient for what was projected, in place of dy and dh
    dh, dc         (B, H), (B, E*H)   gradient for the state after the step, turned into what goes directly to the
                                      one before
    saved          (rows, slots, H)   what ``step`` kept; its first S slots become the gradients of the sums
    =============  =================  ===========================================================================
    """
    from numba import cuda

    E, slots, projected = cell.extras(), cell.slots(), cell.projected
    zero = dtype.type(0)
    read, write = primitives.read(), primitives.write()
    read_extras, write_extras = primitives.read_extras(E), primitives.write_extras()
    read_saved, write_sums = primitives.read_several(len(cell.saved)), primitives.write_several()
    formulas = primitives.step_back(cell)

    def kernel(dy, dy_index, dm, cuts, order, dh, dc, saved, H, first, count):
        e = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if e < count * H:
            i = e // H
            u = e - i * H
            row, b = first + i, read(order, i)
            cut = read(cuts, row) if cuts.shape[0] > 0 else 0
            if projected:
                gradient = read(dm, e)
            else:
                gradient = read(dh, b * H + u)
                if dy.shape[0] > 0:
                    gradient += read(dy, read(dy_index, row) + u)
            state = read_extras(gradient, dc, b * (E * H) + u, H, 0)
            dsums, _, directly = formulas(state, read_saved(saved, row * (slots * H) + u, H))
            write_sums(saved, row * (slots * H) + u, H, dsums)
            if not projected:
                write(dh, b * H + u, zero if cut != 0 else directly[0])
            write_extras(dc, b * (E * H) + u, H, directly, cut)

    return kernel


def take_gradients(dtype: np.dtype[Any]) -> Callable[..., None]:
    """The kernel for ``out[first + i] = dh[b] + dy[row]``, K numbers each; dh becomes zero."""
    from numba import cuda

    read, write, zero = primitives.read(), primitives.write(), dtype.type(0)

    def kernel(dy, dy_index, order, dh, out, out_stride, K, first, count):
        e = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if e < count * K:
            i = e // K
            k = e - i * K
            b = read(order, i)
            gradient = read(dh, b * K + k)
            if dy.shape[0] > 0:
                gradient += read(dy, read(dy_index, first + i) + k)
            write(out, (first + i) * out_stride + k, gradient)
            write(dh, b * K + k, zero)

    return kernel


def feed(dtype: np.dtype[Any]) -> Callable[..., None]:
    """The kernel for ``out[i] = masks[b] * h`` before the step of row ``first + i``: what enters W_hh."""
    from numba import cuda

    read, write, read_row = primitives.read(), primitives.write(), primitives.read_row()

    def kernel(y, before, h, masks, places, out, K, first, count):
        e = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if e < count * K:
            i = e // K
            k = e - i * K
            row = first + i
            write(out, e, read(masks, read(places, row) * K + k) * read_row(y, read(before, row), h, K, k))

    return kernel


def add_masked(dtype: np.dtype[Any]) -> Callable[..., None]:
    """The kernel for ``dh[b] += masks[b] * through[i]``, where no cut is between the step and the one before."""
    from numba import cuda

    read, write = primitives.read(), primitives.write()

    def kernel(through, masks, cuts, order, dh, K, first, count):
        e = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if e < count * K:
            i = e // K
            cut = read(cuts, first + i) if cuts.shape[0] > 0 else 0
            if cut == 0:
                at = read(order, i) * K + e - i * K
                write(dh, at, read(dh, at) + read(masks, at) * read(through, e))

    return kernel


def finish(dtype: np.dtype[Any]) -> Callable[..., None]:
    """The kernel that puts zeros where y is past a sequence's end, and gathers the h after each one's last step."""
    from numba import cuda

    read, write, zero = primitives.read(), primitives.write(), dtype.type(0)

    def kernel(y, h, lengths, order, h_after, K, steps, batch, reverse, y_time, y_batch):
        e = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if e < batch * K:
            i = e // K
            k = e - i * K
            length, b = read(lengths, i), read(order, i)
            for t in range(length, steps):
                write(y, t * y_time + b * y_batch + k, zero)
            if length > 0:
                last = read(y, (0 if reverse else length - 1) * y_time + b * y_batch + k)
            else:
                last = read(h, b * K + k)
            write(h_after, b * K + k, last)

    return kernel
