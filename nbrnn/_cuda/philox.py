"""The kernel of dropout, with the bits that ``_cpu.dropout`` says: Philox4x32-10 of the place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import primitives

#: Threads of a block; each computes one counter's four words.
THREADS = 128


def drop(dtype: np.dtype[Any]) -> Callable[..., None]:
    """The kernel for y = x with numbers dropped.

    Those of step s, place b and direction d are the n that begin at ``s * time + b * batch + d * n``.  An empty x
    stands for ones.  The first axis of the grid goes over four units of each direction and place, the second over
    steps.  y may be x.
    """
    from numba import cuda

    read, write = primitives.read(), primitives.write()
    zero, one = dtype.type(0), dtype.type(1)
    word = np.uint64  # below 2^32: a product of two is one instruction
    low, half = word(0xFFFFFFFF), word(32)
    m0, m1, w0, w1 = word(0xD2511F53), word(0xCD9E8D57), word(0x9E3779B9), word(0xBB67AE85)

    def kernel(
        x, y, key0, key1, threshold, place, t0,
        steps, size, directions, n, x_time, x_batch, y_time, y_batch, scale,
    ):  # fmt: skip
        fours = (n + 3) // 4
        e = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if e < size * directions * fours:
            row = e // fours
            q = e - row * fours
            b = row // directions
            d = row - b * directions
            first = d * n + 4 * q
            for s in range(cuda.blockIdx.y, steps, cuda.gridDim.y):
                c0, c1, c2, c3 = word(q), word(b), word(t0 + s), place + word(d)
                k0, k1 = key0, key1
                for _ in range(10):
                    p0, p1 = m0 * c0, m1 * c2
                    c0, c1, c2, c3 = (p1 >> half) ^ c1 ^ k0, p1 & low, (p0 >> half) ^ c3 ^ k1, p0 & low
                    k0, k1 = (k0 + w0) & low, (k1 + w1) & low
                of_x, to_y = s * x_time + b * x_batch + first, s * y_time + b * y_batch + first
                for k in range(4):
                    if 4 * q + k < n:
                        value = read(x, of_x + k) if x.shape[0] > 0 else one
                        write(y, to_y + k, value * scale if c0 >= threshold else zero)
                    c0, c1, c2 = c1, c2, c3

    return kernel
