"""Dropout whose bits anyone can compute: Philox4x32-10 (Salmon et al., SC 2011) as a function of the place.

For the number at time t, sequence b, unit u of what a layer and direction hand on, the counter is

    (u // 4,  b,  t,  kind * 2^24 + layer * 2 + direction)

and word u % 4 of the four that come out decides: the number is kept where word >= p * 2^32, and then divided by
1 - p.  Recurrent dropout drops the same units at all times: its t is 0.  The key is drawn once for each forward pass.
So the bits don't depend on threads, tiles, stretches of time or on the processor, and are computed again on the way
back instead of being stored.
"""

from __future__ import annotations

import numpy as np

from .._kernel import kernel

#: What is dropped: what one layer hands to the next; what a Dropout module lets through; what of h enters W_hh.
BETWEEN_LAYERS, MODULE, RECURRENT = 0, 1, 2

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)


@kernel
def philox(c0, c1, c2, c3, k0, k1):
    """Four words (as uint64 below 2^32) for a counter of four and a key of two such words."""
    for _ in range(10):
        p0, p1 = _M0 * c0, _M1 * c2
        c0, c1, c2, c3 = (p1 >> _HALF) ^ c1 ^ k0, p1 & _LOW, (p0 >> _HALF) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    return c0, c1, c2, c3


@kernel
def dropout(x, y, key0, key1, threshold, scale, place, t0):
    """y = x with numbers dropped.

    Parameters
    ----------
    x, y : (steps, B, n), x any strides
    key0, key1 : uint64 below 2^32
    threshold : uint64, p * 2^32
    scale : 1 / (1 - p), of the dtype
    place : uint64, the counter's last word
    t0 : time of x[0]
    """
    steps, batch, n = x.shape
    zero = scale - scale
    for s in range(steps):
        for b in range(batch):
            for q in range((n + 3) // 4):
                words = philox(np.uint64(q), np.uint64(b), np.uint64(t0 + s), place, key0, key1)
                for k in range(4):
                    u = 4 * q + k
                    if u < n:
                        y[s, b, u] = x[s, b, u] * scale if words[k] >= threshold else zero
