"""The kernel that finds where rows begin, from what is known of each step and each sequence.

A schedule's rows are as many as all steps of all sequences.  Only numbers for steps and for sequences come from the
host; what there is of each row is made on the device.
"""

from __future__ import annotations

from collections.abc import Callable

from . import primitives
from .schedule import SECOND, ZEROS

#: Threads of a block.
THREADS = 128


def offsets() -> Callable[..., None]:
    """The kernel for ``out[row] = t * time + b * place``, with t and b the time and the place that a row is of.

    With ``before``, t is the time of the step before; at a sequence's first step ``SECOND - b`` is written instead.
    With ``cut``, ``ZEROS`` is written after a cut.  (See ``placed.Placed``.)
    """
    from numba import cuda

    read, write = primitives.read(), primitives.write()

    def kernel(starts, lengths, order, cuts, steps, batch, reverse, time, place, before, cut, out):
        e = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        s = e // batch
        i = e - s * batch
        if s < steps and i < read(starts, s + 1) - read(starts, s):
            row, b, t = read(starts, s) + i, read(order, i), steps - 1 - s if reverse else s
            first = t == (read(lengths, i) - 1 if reverse else 0)
            if before:
                t += 1 if reverse else -1
            at = t * time + b * place
            if before and first:
                at = SECOND - b
            if cut and cuts.shape[0] > 0 and read(cuts, row) != 0:
                at = ZEROS
            write(out, row, at)

    return kernel
