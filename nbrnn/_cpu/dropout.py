"""Dropout whose bits anyone can compute: Philox4x32-10 (Salmon et al., SC 2011) as a function of the place.

For the number at time t, sequence b, unit u of what a layer and direction hand on, the counter is

    (u // 4,  b,  t,  kind * 2^24 + layer * 2 + direction)

and word u % 4 of the four that come out decides: the number is kept where word >= p * 2^32, and then divided by
1 - p.  Recurrent dropout drops the same units at all times: its t is 0.  The key is drawn once for each forward pass.
So the bits don't depend on threads, tiles, stretches of time or on the processor, and are computed again on the way
back instead of being stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .._kernel import kernel
from .emit import I64
from .rows import address

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


#: Counters that are run through the rounds side by side, and numbers that they decide on.
ABREAST = 8
AT_ONCE = 4 * ABREAST


def _words(b: Any, counter: Sequence[Any], key: Sequence[Any]) -> list[Any]:
    """``philox`` of eight counters, as vectors of 64-bit integers below 2^32: a product is one instruction."""
    wide = ir.VectorType(I64, ABREAST)

    def all_lanes(x: int) -> ir.Constant:
        return ir.Constant(wide, [x] * ABREAST)

    half, low = all_lanes(32), all_lanes(0xFFFFFFFF)
    m0, m1, w0, w1 = (all_lanes(int(x)) for x in (_M0, _M1, _W0, _W1))
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        p0, p1 = b.mul(m0, c0), b.mul(m1, c2)
        high0, high1 = b.lshr(p0, half), b.lshr(p1, half)
        c0, c1, c2, c3 = b.xor(b.xor(high1, c1), k0), b.and_(p1, low), b.xor(b.xor(high0, c3), k1), b.and_(p0, low)
        k0, k1 = b.and_(b.add(k0, w0), low), b.and_(b.add(k1, w1), low)
    return [c0, c1, c2, c3]


@intrinsic
def drop_many(typingctx, x, y, scale, q, c1, c2, c3, k0, k1, threshold):
    """``dropout`` of the 32 numbers that counters (q, c1, c2, c3), (q + 1, c1, ...) decide on, from address x to y."""

    def emit(context, builder, signature, arguments):
        b, (source, to, factor, first, *words, bound) = builder, arguments
        number = ir.FloatType() if scale.bitwidth == 32 else ir.DoubleType()
        many, bits = ir.VectorType(number, AT_ONCE), ir.VectorType(ir.IntType(scale.bitwidth), ABREAST)

        def spread(value: Any, count: int) -> Any:
            kind = ir.VectorType(value.type, count)
            one = b.insert_element(ir.Constant(kind, ir.Undefined), value, ir.IntType(32)(0))
            zeros = ir.Constant(ir.VectorType(ir.IntType(32), count), [0] * count)
            return b.shuffle_vector(one, ir.Constant(kind, ir.Undefined), zeros)

        lanes = ir.Constant(ir.VectorType(I64, ABREAST), list(range(ABREAST)))
        counter = [b.add(spread(first, ABREAST), lanes), *(spread(w, ABREAST) for w in words[:3])]
        found = _words(b, counter, [spread(w, ABREAST) for w in words[3:]])
        # Signed, which more processors can: all are below 2^33.
        bound = spread(bound, ABREAST)
        masks = [b.sext(b.icmp_signed(">=", word, bound), bits) for word in found]

        def pick(left: Any, right: Any, places: list[int]) -> Any:
            return b.shuffle_vector(left, right, ir.Constant(ir.VectorType(ir.IntType(32), len(places)), places))

        half = list(range(2 * ABREAST))
        pairs = [pick(masks[0], masks[1], half), pick(masks[2], masks[3], half)]
        kept = pick(pairs[0], pairs[1], [k * ABREAST + n for n in range(ABREAST) for k in range(4)])
        size = scale.bitwidth // 8
        values = b.load(b.inttoptr(source, ir.PointerType()), typ=many, align=size)
        scaled = b.bitcast(b.fmul(values, spread(factor, AT_ONCE)), kept.type)
        b.store(b.bitcast(b.and_(scaled, kept), many), b.inttoptr(to, ir.PointerType()), align=size)
        return context.get_dummy_value()

    word = types.uint64
    return types.void(types.int64, types.int64, scale, word, word, word, word, word, word, word), emit


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
    size = y.itemsize
    many = n // AT_ONCE if x.strides[2] == size and y.strides[2] == size else 0
    for s in range(steps):
        for b in range(batch):
            here, to = address(x[s, b]), address(y[s, b])
            for q in range(many):
                at = q * AT_ONCE * size
                counter = np.uint64(q * ABREAST), np.uint64(b), np.uint64(t0 + s), place
                drop_many(here + at, to + at, scale, *counter, key0, key1, threshold)
            for q in range(many * ABREAST, (n + 3) // 4):
                words = philox(np.uint64(q), np.uint64(b), np.uint64(t0 + s), place, key0, key1)
                for k in range(4):
                    u = 4 * q + k
                    if u < n:
                        y[s, b, u] = x[s, b, u] * scale if words[k] >= threshold else zero
