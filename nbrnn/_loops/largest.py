"""The largest number of each sequence, and the step where it stands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import from_dtype, types
from numpy.typing import NDArray

from .._kernel import cached, compiled, kernel


@kernel
def _largest(rows, between_steps, between_sequences, ends, best, at):
    batch, n = best.shape
    for b in range(batch):
        for t in range(ends[b]):
            row = np.uint64(t * between_steps + b * between_sequences)  # never from the end: no test for that
            for k in range(n):
                new, old = rows[row, k], best[b, k]
                larger = (new > old) | ((new != new) & (old == old)) | (t == 0)
                best[b, k] = new if larger else old
                at[b, k] = t if larger else at[b, k]


@cached
def _compiled(dtype: np.dtype[Any]) -> Callable[..., None]:
    number, word = from_dtype(dtype), types.int64
    rows, ends = types.Array(number, 2, "C", readonly=True), types.Array(word, 1, "C", readonly=True)
    return compiled(_largest, (rows, word, word, ends, types.Array(number, 2, "C"), types.Array(word, 2, "C")))


def largest(x: NDArray[Any], ends: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The largest number of x (T, B, n) before the ends (B,), and the first step that has it: both (B, n).

    NaN is larger than any number; where there is no step both are 0.
    """
    steps, batch, n = x.shape
    best, at = np.zeros((batch, n), x.dtype), np.zeros((batch, n), np.int64)
    turned = x.swapaxes(0, 1)
    if turned.flags.c_contiguous and turned.flags.aligned:
        rows, strides = turned.reshape(batch * steps, n), (1, steps)
    else:
        rows, strides = np.require(x, requirements=("C", "A")).reshape(steps * batch, n), (batch, 1)
    _compiled(x.dtype)(rows, *strides, ends, best, at)
    return best, at
