"""exp, sigmoid and tanh of vectors.

All three rest on one reduction: for |r| <= ln(2)/2,

    x = k ln 2 + r,    e^x = 2^k (1 + p),    p = e^r - 1 = r + r^2 q(r),

where q is a polynomial (Remez; ``tools/expm1_coefficients.py`` derives it).  p itself is accurate, not only 1 + p, so
that tanh is right near 0.  Largest errors over the whole range, in units of the last place, are measured by
``tests/test_activations.py`` and stated in the docs.  NaN stays NaN.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llvmlite import ir

if TYPE_CHECKING:
    from .emit import Emit, Vec


@dataclasses.dataclass(frozen=True)
class _Format:
    """Constants of a floating-point format."""

    mantissa: int  # stored bits
    bias: int  # of the exponent
    ln2_high: float  # ln 2 with so few bits that k * ln2_high is exact
    ln2_low: float  # the rest
    q: tuple[float, ...]  # coefficients, lowest first
    overflow: float  # e^x is infinite from here on
    underflow: float  # e^x rounds to 0 below
    one: float  # tanh rounds to 1 from here on
    lift: int  # 2^lift e^x is a normal number wherever e^x is not 0

    def magic(self, lift: int) -> float:
        """1.5 * 2^mantissa and what stands for 2^lift as an exponent: adding it rounds to an integer, which then stands
        in the lowest bits, raised by that.
        """
        return 1.5 * 2.0**self.mantissa + self.bias + lift

    @property
    def magic_bits(self) -> int:
        return (self.bias + self.mantissa << self.mantissa) + (1 << self.mantissa - 1) + self.bias


_FORMATS = {
    32: _Format(
        mantissa=23,
        bias=127,
        ln2_high=0.693145751953125,
        ln2_low=1.4286068203094173e-06,
        q=(
            0.5,
            0.1666666716337204,
            0.04166645184159279,
            0.008333079516887665,
            0.0013936556642875075,
            0.00020075931388419122,
        ),
        overflow=89.0,
        underflow=-104.0,
        one=15.0,
        lift=32,
    ),
    64: _Format(
        mantissa=52,
        bias=1023,
        ln2_high=0.6931471803691238,
        ln2_low=1.9082149292705877e-10,
        q=(
            0.5000000000000007,
            0.16666666666666696,
            0.0416666666665606,
            0.00833333333329773,
            0.0013888888936302408,
            0.0001984126995353922,
            2.4801500241037086e-05,
            2.755718141756017e-06,
            2.762782174583871e-07,
            2.5127093642328543e-08,
        ),
        overflow=710.0,
        underflow=-746.0,
        one=30.0,
        lift=64,
    ),
}


def _expm1(r: Vec, q: Sequence[float]) -> Vec:
    """r + r^2 q(r) by Estrin's scheme: sums of two terms of q, of which two are added at a time, so that few operations
    wait for each other.
    """
    e, square = r.e, r * r
    terms, power = [e.fma(r, e.vec(high), e.vec(low)) for low, high in zip(q[::2], q[1::2], strict=True)], square
    while len(terms) > 1:
        pairs = [e.fma(power, high, low) for low, high in zip(terms[::2], terms[1::2], strict=False)]
        terms, power = pairs + terms[2 * len(pairs) :], power * power
    return e.fma(square, terms[0], r)


def _reduced(x: Vec, times: float = 1.0, lift: int = 0) -> tuple[Vec, ir.Value]:
    """p, with e^y = 2^k (1 + p), for y = ``times`` x, a power of 2, between ``underflow`` and ``overflow``; and bits of
    which the lowest are the exponent of 2^(k + lift) as a number has it.
    """
    e, form = x.e, _FORMATS[x.e.bits]
    magic = form.magic(lift)
    rounded = e.fma(x, e.vec(times * 1.4426950408889634), e.vec(magic))
    n = rounded - magic
    r = e.fma(n, e.vec(-form.ln2_low), e.fma(n, e.vec(-form.ln2_high), x if times == 1 else x * times))
    return _expm1(r, form.q), e.b.bitcast(rounded.x, e.bits_type)


def _two_to(k: ir.Value, e: Emit) -> Vec:
    """The power of 2 with the exponent that the lowest bits of k are."""
    return e.vec(0.0).like(e.b.bitcast(e.b.shl(k, e.bits_of(_FORMATS[e.bits].mantissa)), e.type))


def _exp(x: Vec) -> Vec:
    """e^x for x between ``underflow`` and ``overflow``: in two factors, since 2^k itself may be no normal number."""
    e, form = x.e, _FORMATS[x.e.bits]
    p, k = _reduced(x)
    k, bias = e.b.sub(k, e.bits_of(form.magic_bits)), e.bits_of(form.bias)
    half = e.b.ashr(k, e.bits_of(1))
    first, second = _two_to(e.b.add(half, bias), e), _two_to(e.b.add(e.b.sub(k, half), bias), e)
    return e.fma(first, p, first) * second


def exp(x: Vec) -> Vec:
    """e^x, with gradual underflow."""
    form = _FORMATS[x.e.bits]
    x = x.if_less(form.underflow, form.underflow, x)
    return _exp((-x).if_less(-form.overflow, form.overflow, x))


def sigmoid(x: Vec) -> Vec:
    """1 / (1 + e^-x) where x >= 0, else e^x / (1 + e^x): full relative accuracy down to the smallest number.

    Both sides of the fraction times 2^lift: so e^-|x| needs no second factor, and only the quotient may be no normal
    number.
    """
    e, form = x.e, _FORMATS[x.e.bits]
    t = -abs(x)
    p, k = _reduced(t.if_less(form.underflow, form.underflow, t), lift=form.lift)
    high, one = _two_to(k, e), 2.0**form.lift
    return x.if_negative(e.fma(high, p, high), one) / e.fma(high, p, high + one)


def tanh(x: Vec) -> Vec:
    """m / (2 - m) with m = 1 - e^(-2|x|), and the sign of x (that of -0 too)."""
    e, form = x.e, _FORMATS[x.e.bits]
    a = -abs(x)
    p, k = _reduced(a.if_less(-form.one, -form.one, a), times=2.0)
    t = _two_to(k, e)
    sign = e.b.and_(e.b.bitcast(x.x, e.bits_type), e.bits_of(1 << e.bits - 1))
    quotient = e.fma(-t, p, 1.0 - t) / e.fma(t, p, 1.0 + t)
    return x.like(e.b.bitcast(e.b.or_(e.b.bitcast(quotient.x, e.bits_type), sign), e.type))
