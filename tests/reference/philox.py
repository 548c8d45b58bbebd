"""Philox4x32-10, in Python integers (Salmon et al., SC 2011, section 5.3)."""

MASK = 0xFFFFFFFF


def philox(counter, key):
    """Four words for a counter of four words and a key of two."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & MASK, (p0 >> 32) ^ c3 ^ k1, p0 & MASK
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return c0, c1, c2, c3


def kept(key, kind, layer, direction, t, b, unit, p):
    """Whether dropout with probability p keeps the number at that place."""
    word = philox((unit // 4, b, t, kind << 24 | layer << 1 | direction), key)[unit % 4]
    return word >= round(p * 2**32)
