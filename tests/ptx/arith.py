"""Floating-point arithmetic to the bit: fused multiply-add, directed rounding, flushing, and approximate functions.

A float32 result that is computed in float64 and rounded again can be wrong: where the float64 sum falls on the middle
between two float32 numbers, what was lost decides.  Sums are therefore kept in float64 *rounded to odd* there: a
number that isn't exact gets an odd last bit, so it never looks like a middle (Boldo & Melquiond, "Emulation of FMA and
correctly rounded sums: proved algorithms using rounding to odd", IEEE Trans. Comput. 57(4), 2008).
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np

from tests.ptx.operands import Array

_ONE = np.uint32(1)
_SUBNORMALS = np.uint32(0x00FFFFFF)  # of bits without sign, shifted left by one
_MIDDLE, _BELOW = np.uint64(0x10000000), np.uint64(0x1FFFFFFF)  # of the 29 bits that float32 hasn't
SMALLEST = {"f32": np.float32(2.0**-126), "f64": np.float64(2.0**-1022)}


def has_subnormal(x: Array) -> bool:
    """Whether any of some float32 numbers is subnormal (zeros are not)."""
    bits = x.view(np.uint32) << _ONE
    bits -= _ONE  # zeros become the largest
    return bool(np.minimum.reduce(bits) < _SUBNORMALS)


def flush(x: Array) -> Array:
    """Numbers with subnormal float32 replaced by zeros of their sign."""
    if not has_subnormal(x):
        return x
    return np.where(np.abs(x) < SMALLEST["f32"], np.copysign(np.float32(0), x), x)


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """a + b as float64, and what it lost: exact unless something overflows."""
    s = a + b
    v = s - a
    return s, (a - (s - v)) + (b - v)


def to_odd(s: Array, lost: Array) -> Array:
    """The sum s + lost rounded to odd, where s is it rounded to nearest (float64)."""
    up, down = lost > 0, lost < 0  # both False for NaN
    bits = s.view(np.int64)
    toward_zero = np.where(s > 0, down, up)  # the cut number lies one below
    return np.where(up | down, (bits - toward_zero) | 1, bits).view(np.float64)


def to_f32(s: Array, mode: str = "rn") -> Array:
    """Float64 (rounded to odd, or exact) to float32, by rounding mode rn, rz, rm or rp."""
    r = s.astype(np.float32)
    if mode == "rn":
        return r
    wide = r.astype(np.float64)
    finite = np.isfinite(s)
    inf = np.float32(np.inf)
    low, high = finite & (wide > s), finite & (wide < s)
    if mode in ("rm", "rz"):
        down = low if mode == "rm" else low & (s > 0)
        r = np.where(down, np.nextafter(r, -inf), r)
    if mode in ("rp", "rz"):
        up = high if mode == "rp" else high & (s < 0)
        r = np.where(up, np.nextafter(r, inf), r)
    return r


def zero_sign(result: Array, a: Array, b: Array, mode: str) -> Array:
    """An exact sum a + b of zero is -0 when rounded down, unless both are +0."""
    if mode != "rm":
        return result
    return np.where((result == 0) & (a + b == 0) & (np.signbit(a) | np.signbit(b)), -np.abs(result), result)


def fma32(a: Array, b: Array, c: Array) -> Array:
    """a * b + c in float32, rounded once, to nearest."""
    p = a.astype(np.float64)
    p *= b  # exact: 24 + 24 bits
    s = p + c
    r = s.astype(np.float32)
    tie = (s.view(np.uint64) & _BELOW) == _MIDDLE
    if np.count_nonzero(tie) or has_subnormal(r):
        c = c.astype(np.float64)
        r = to_odd(*two_sum(p, c)).astype(np.float32)
    return r


def fma32_flushed(a: Array, b: Array, c: Array) -> Array:
    """The same with a subnormal result replaced by zero."""
    p = a.astype(np.float64)
    p *= b
    s = p + c
    r = s.astype(np.float32)
    subnormal = has_subnormal(r)
    if subnormal or np.count_nonzero((s.view(np.uint64) & _BELOW) == _MIDDLE):
        r = to_odd(*two_sum(p, c.astype(np.float64))).astype(np.float32)
        return flush(r)
    return r


def fma32_directed(a: Array, b: Array, c: Array, mode: str) -> Array:
    """a * b + c in float32, rounded once, by any mode."""
    p, c = a.astype(np.float64) * b, c.astype(np.float64)
    return zero_sign(to_f32(to_odd(*two_sum(p, c)), mode), p, c, mode)


def add32(a: Array, b: Array, mode: str) -> Array:
    """a + b in float32 by rounding mode."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return zero_sign(to_f32(to_odd(*two_sum(a, b)), mode), a, b, mode)


def mul32(a: Array, b: Array, mode: str) -> Array:
    """a * b in float32 by rounding mode: the product is exact in float64."""
    return to_f32(a.astype(np.float64) * b, mode)


_SPLIT = np.float64(2.0**27 + 1)


def two_product(a: Array, b: Array) -> tuple[Array, Array]:
    """a * b as float64, and what it lost (Dekker): exact unless something over- or underflows."""
    p = a * b
    t = _SPLIT * a
    ah = t - (t - a)
    al = a - ah
    t = _SPLIT * b
    bh = t - (t - b)
    bl = b - bh
    return p, ((ah * bh - p) + ah * bl + al * bh) + al * bl


def fma64(a: Array, b: Array, c: Array) -> Array:
    """a * b + c in float64, rounded once, to nearest.

    Boldo & Melquiond's algorithm where all parts stay far from overflow and underflow; exact fractions elsewhere.
    """
    a, b, c = np.atleast_1d(a), np.atleast_1d(b), np.atleast_1d(c)
    ph, pl = two_product(a, b)
    uh, ul = two_sum(c, pl)
    th, tl = two_sum(ph, uh)
    result = th + to_odd(*two_sum(tl, ul))
    A, B, C, P = np.abs(a), np.abs(b), np.abs(c), np.abs(ph)
    easy = (A < 2.0**900) & (B < 2.0**900) & (P < 2.0**1000) & (C < 2.0**1000) & (P > 2.0**-900)
    easy &= (C > 2.0**-900) | (C == 0)
    # An exact cancellation: to_odd gives +0 or -0 of parts; the sum of the two halves has the right sign.
    if np.count_nonzero(easy) == easy.size:
        return result
    zero = (a == 0) | (b == 0)
    special = ~np.isfinite(a) | ~np.isfinite(b)
    plain = ~easy & (zero | special)
    result = np.where(plain, a * b + c, result)
    whole = ~easy & ~plain & ~np.isfinite(c)
    result = np.where(whole, c, result)
    for i in np.flatnonzero(~easy & ~plain & ~whole):
        exact = Fraction(float(a[i])) * Fraction(float(b[i])) + Fraction(float(c[i]))
        result[i] = from_fraction(exact, "f64") if exact else ph[i] + c[i]
    return result


#: Bits of the significand, smallest exponent (of the last bit of subnormals), first power of two that overflows.
FORMATS = {"f16": (11, -24, 16), "bf16": (8, -133, 128), "f32": (24, -149, 128), "f64": (53, -1074, 1024)}


def from_fraction(x: Fraction, type_: str, mode: str = "rn") -> float:
    """A fraction rounded to a float format: the plain definition, for the rare hard cases and for tests."""
    bits, least, top = FORMATS[type_]
    if not x:
        return 0.0
    sign, magnitude = (-1 if x < 0 else 1), abs(x)
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    if magnitude < Fraction(2) ** exponent:
        exponent -= 1
    ulp = max(exponent - bits + 1, least)
    scaled = magnitude / Fraction(2) ** ulp
    whole = scaled.numerator // scaled.denominator
    rest = scaled - whole
    away = mode == ("rp" if sign > 0 else "rm")
    if mode == "rn":
        whole += rest > Fraction(1, 2) or (rest == Fraction(1, 2) and whole & 1)
    elif away:
        whole += rest > 0
    if whole * Fraction(2) ** ulp >= Fraction(2) ** top:
        largest = float((2**bits - 1) * Fraction(2) ** (top - bits))
        return sign * (float("inf") if mode == "rn" or away else largest)
    return sign * float(whole * Fraction(2) ** ulp)


def by_fractions(f: Callable[..., Fraction], type_: str, mode: str, plain: Array, *args: Array) -> Array:
    """f(*args) exactly, rounded by a mode; `plain`, rounded to nearest, is kept where it is not finite or zero."""
    out = np.array(plain)
    for i in range(out.size):
        numbers = [float(a[i]) for a in args]
        if all(np.isfinite(numbers)) and (np.isfinite(out[i]) or mode != "rn"):
            try:
                exact = f(*map(Fraction, numbers))
            except ZeroDivisionError:
                continue
            if exact:
                out[i] = from_fraction(exact, type_, mode)
    return out


def square_root(x: float, type_: str, mode: str) -> float:
    """A square root rounded by a mode, by comparing squares."""
    dtype = np.dtype({"f32": "f4", "f64": "f8"}[type_])
    r = np.sqrt(dtype.type(x))
    if not (np.isfinite(r) and x > 0):
        return float(r)
    square, exact = Fraction(float(r)) ** 2, Fraction(float(x))
    if square > exact and mode in ("rm", "rz"):
        r = np.nextafter(r, dtype.type(-np.inf))
    if square < exact and mode == "rp":
        r = np.nextafter(r, dtype.type(np.inf))
    return float(r)


def minimum(a: Array, b: Array) -> Array:
    """PTX's min: the number where one is NaN, and -0 below +0."""
    r = np.fmin(a, b)
    return np.where(a == b, np.where(np.signbit(a), a, b), r)


def maximum(a: Array, b: Array) -> Array:
    """PTX's max: the number where one is NaN, and +0 above -0."""
    r = np.fmax(a, b)
    return np.where(a == b, np.where(np.signbit(a), b, a), r)


def to_bf16(x: Array, mode: str = "rn") -> Array:
    """Float32 to the 16 bits of bfloat16."""
    u = x.view(np.uint32)
    r = u >> np.uint32(16)
    if mode == "rn":
        r = (u + (np.uint32(0x7FFF) + (r & _ONE))) >> np.uint32(16)
    elif mode != "rz":
        raise ValueError(mode)
    return np.where(np.isnan(x), 0x7FFF, r).astype(np.uint16)


def from_bf16(bits: Array) -> Array:
    """16 bits of bfloat16 to float32."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


class Approximation:
    """Approximate functions: right, then moved by less than their documented error, so that no test relies on luck.

    The move is a hash of the argument and a seed: the same argument gives the same result in each thread and run, as
    on a device.  With seed None nothing is moved.
    """

    def __init__(self, seed: int | None):
        self.seed = seed

    def moved(self, exact: Array, arguments: Array, relative: float, absolute: float | Array = 0.0) -> Array:
        """Float64 values moved by a relative and an absolute error; rounding to float32 is part of the error."""
        if self.seed is None:
            return exact
        h = arguments.astype(np.float32).view(np.uint32) + np.uint32(self.seed * 0x9E3779B1 & 0xFFFFFFFF)
        for multiplier, shift in ((0x85EBCA6B, 13), (0xC2B2AE35, 16)):
            h = (h ^ (h >> np.uint32(shift))) * np.uint32(multiplier)
        unit = (h ^ (h >> np.uint32(16))).astype(np.float64) * 2.0**-31 - 1.0
        relative = max(0.0, relative - 2.0**-24)
        with np.errstate(invalid="ignore"):
            moved = exact + unit * (relative * np.abs(exact) + absolute)
        return np.where(np.isfinite(exact), moved, exact)
