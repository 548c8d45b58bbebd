"""Floating-point instructions of the emulator against exact fractions, rounded by the plain definition."""

import math
from fractions import Fraction

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from tests.ptx import arith
from tests.ptx_text import apply, in_chunks

MODES = ["rn", "rz", "rm", "rp"]
F32, F64 = np.float32, np.float64
#: Numbers of all exponents, many of them where rounding is hard.
SINGLES = st.floats(width=32, allow_nan=False, allow_infinity=False)
DOUBLES = st.floats(allow_nan=False, allow_infinity=False)
LARGEST = {"f32": float(np.finfo(F32).max), "f64": float(np.finfo(F64).max)}
DTYPE = {"f32": F32, "f64": F64}


def some(type_, count, seed):
    """Finite numbers of all exponents, and the special ones."""
    rng = np.random.default_rng(seed)
    dtype = DTYPE[type_]
    size = np.dtype(dtype).itemsize
    x = rng.integers(0, 2 ** (8 * size), count - 7, f"u{size}", endpoint=False).view(dtype)
    tiny = np.finfo(dtype).smallest_subnormal
    special = np.array([0, -0.0, np.inf, -np.inf, np.nan, tiny, 1], dtype)
    return rng.permutation(np.concatenate([x, special]))


def exact(got, f, type_, mode, *inputs):
    """Check results whose inputs are finite."""
    for row in zip(got.tolist(), *(x.tolist() for x in inputs), strict=True):
        if not all(map(math.isfinite, row[1:])):
            continue
        try:
            wanted = f(*map(Fraction, row[1:]))
        except ZeroDivisionError:
            continue
        assert row[0] == arith.from_fraction(wanted, type_, mode), (row, mode)


@pytest.mark.parametrize("t", ["f32", "f64"])
@pytest.mark.parametrize("mode", MODES)
def test_arithmetic_is_rounded_by_its_mode(t, mode):
    a, b = some(t, 1024, 0), some(t, 1024, 1)
    with np.errstate(all="ignore"):
        b[::3] = a[::3] * DTYPE[t](-1.0000001)  # near cancellations
    for name, f in (
        ("add", Fraction.__add__),
        ("sub", Fraction.__sub__),
        ("mul", Fraction.__mul__),
        ("div", Fraction.__truediv__),
    ):
        got = apply(f"{name}.{mode}.{t} D, A, B", t, (t, a), (t, b))
        exact(got, f, t, mode, a, b)
    exact(apply(f"rcp.{mode}.{t} D, A", t, (t, a)), lambda x: 1 / x, t, mode, a)


@pytest.mark.parametrize("t", ["f32", "f64"])
@pytest.mark.parametrize("mode", MODES)
def test_square_roots_are_rounded_by_their_mode(t, mode):
    a = np.abs(some(t, 512, 2))
    got = apply(f"sqrt.{mode}.{t} D, A", t, (t, a))
    step = {"rz": (0, 1), "rm": (0, 1), "rp": (-1, 0)}
    for x, r in zip(a.tolist(), got.tolist(), strict=True):
        if not math.isfinite(x) or not x:
            continue
        low, high = (float(np.nextafter(DTYPE[t](r), DTYPE[t](s * np.inf))) for s in (-1, 1))
        if mode == "rn":  # no neighbour's middle lies between
            assert ((Fraction(r) + Fraction(low)) / 2) ** 2 <= Fraction(x) <= ((Fraction(r) + Fraction(high)) / 2) ** 2
        else:
            below, above = (Fraction(v) for v in ((r, high) if step[mode][0] == 0 else (low, r)))
            assert below**2 <= Fraction(x) <= above**2


def fma_cases(t, count, seed):
    """Products that nearly cancel, ties, and results that are subnormal."""
    rng = np.random.default_rng(seed)
    dtype = DTYPE[t]
    a, b, c = some(t, count, seed), some(t, count, seed + 1), some(t, count, seed + 2)
    a[::2], b[::2] = rng.standard_normal(len(a[::2])), rng.standard_normal(len(a[::2]))
    with np.errstate(all="ignore"):
        near = (-(a * b)).astype(dtype)
        c[::4] = near[::4] * (1 + rng.integers(-2, 3, len(near[::4])) * np.finfo(dtype).eps)
        scale = dtype(2.0 ** {"f32": -63, "f64": -511}[t])
        a[1::4], b[1::4] = rng.standard_normal(len(a[1::4])) * scale, rng.standard_normal(len(a[1::4])) * scale
        c[1::8] = 0
        c[5::8] = scale * scale * rng.standard_normal(len(c[5::8]))
    # The sum lies just beside the middle between two numbers: rounding twice goes wrong.
    bits = np.finfo(dtype).nmant
    a[2::8] = 1 + dtype(2.0**-bits) * rng.integers(0, 2**10, len(a[2::8]))
    b[2::8] = 1
    c[2::8] = dtype(2.0 ** -(bits + 1)) * rng.choice(np.array([1, -1], dtype), len(c[2::8]))
    eps, part = np.finfo(dtype).eps, dtype(2.0 ** -(bits // 2 + 1))
    a[6::8], b[6::8] = part * (1 + eps), dtype(2.0 ** -(bits + 1)) / part * (1 - eps)
    c[6::8] = 1 + np.finfo(dtype).eps * rng.integers(0, 2**10, len(c[6::8]))
    return a, b, c


@pytest.mark.parametrize("t", ["f32", "f64"])
@pytest.mark.parametrize("mode", MODES)
def test_fused_multiply_add_is_rounded_once(t, mode):
    a, b, c = fma_cases(t, 4096 if mode == "rn" else 1024, 3)
    got = in_chunks(f"fma.{mode}.{t} D, A, B, C", t, (t, a), (t, b), (t, c))
    exact(got, lambda x, y, z: x * y + z, t, mode, a, b, c)
    if t == "f32" and mode == "rn":
        with np.errstate(all="ignore"):
            naive = (a.astype(F64) * b + c).astype(F32)
        assert (naive != got)[np.isfinite(got)].any(), "no case where rounding twice goes wrong"


@given(SINGLES, SINGLES, SINGLES)
def test_fma_of_any_float32(a, b, c):
    x, y, z = (np.array([v], F32) for v in (a, b, c))
    with np.errstate(all="ignore"):
        got = arith.fma32(x, y, z)
    exact(got, lambda p, q, r: p * q + r, "f32", "rn", x, y, z)
    for mode in MODES:
        with np.errstate(all="ignore"):
            got = arith.fma32_directed(x, y, z, mode)
        exact(got, lambda p, q, r: p * q + r, "f32", mode, x, y, z)


@given(DOUBLES, DOUBLES, DOUBLES)
def test_fma_of_any_float64(a, b, c):
    x, y, z = (np.array([v]) for v in (a, b, c))
    with np.errstate(all="ignore"):
        got = arith.fma64(x, y, z)
    exact(got, lambda p, q, r: p * q + r, "f64", "rn", x, y, z)


@given(SINGLES, SINGLES)
def test_quotients_of_any_float32(a, b):
    x, y = np.array([a], F32), np.array([b], F32)
    for mode in MODES:
        exact(apply(f"div.{mode}.f32 D, A, B", "f32", ("f32", x), ("f32", y)), Fraction.__truediv__, "f32", mode, x, y)


@given(DOUBLES)
def test_any_float64_becomes_float32(a):
    x = np.array([a])
    for mode in MODES:
        exact(apply(f"cvt.{mode}.f32.f64 D, A", "f32", ("f64", x)), lambda v: v, "f32", mode, x)


@given(st.integers(-(2**63), 2**64 - 1))
def test_any_integer_becomes_a_float(i):
    t = "s64" if i < 2**63 else "u64"
    x = np.array([i], {"s64": "i8", "u64": "u8"}[t])
    for mode in MODES:
        for to in ("f32", "f64"):
            exact(apply(f"cvt.{mode}.{to}.{t} D, A", to, (t, x)), lambda v: v, to, mode, x)


@given(SINGLES)
def test_any_float32_becomes_narrow(a):
    x = np.array([a], F32)
    half = apply("cvt.rn.f16.f32 D, A", "f16", ("f32", x))
    exact(half.astype(F32), lambda v: v, "f16", "rn", x)
    brain = apply("cvt.rn.bf16.f32 D, A", "u16", ("f32", x))
    exact(arith.from_bf16(brain), lambda v: v, "bf16", "rn", x)


def test_special_numbers_in_a_fused_multiply_add():
    inf, nan, big = np.inf, np.nan, LARGEST
    for t in ("f32", "f64"):
        rows = [(inf, 0, 1, nan), (inf, 1, -inf, nan), (inf, 1, 1, inf), (1, 1, -inf, -inf), (nan, 1, 1, nan)]
        rows += [
            (big[t], big[t], -inf, -inf),
            (big[t], big[t], 0, inf),
            (big[t], 2, -big[t], big[t]),
            (0, -1, 0, 0.0),
            (0, -1, -0.0, -0.0),
            (1, 1, -1, 0.0),
        ]
        a, b, c, wanted = (np.array(v, DTYPE[t]) for v in zip(*rows, strict=True))
        got = apply(f"fma.rn.{t} D, A, B, C", t, (t, a), (t, b), (t, c))
        np.testing.assert_array_equal(got, wanted)
        assert (np.signbit(got) == np.signbit(wanted))[~np.isnan(wanted)].all()
    one = np.ones(1, F32)
    for mode, sign in (("rn", False), ("rm", True), ("rp", False), ("rz", False)):
        assert (
            np.signbit(apply(f"fma.{mode}.f32 D, A, B, C", "f32", ("f32", one), ("f32", one), ("f32", -one)))[0] == sign
        )
        assert np.signbit(apply(f"add.{mode}.f32 D, A, B", "f32", ("f32", one), ("f32", -one)))[0] == sign


TINY = float(np.finfo(F32).tiny)


@pytest.mark.parametrize("form", ["A, B", "A, B, C"])
def test_subnormal_numbers_are_flushed_on_the_way_in_and_out(form):
    a = np.array([TINY / 2, -TINY / 2, TINY, 2.0**-70, -(2.0**-70)], F32)
    b = np.array([1, 1, 0.5, 2.0**-70, 2.0**-70], F32)
    c = np.zeros(5, F32)
    op, inputs = ("mul", [a, b]) if form == "A, B" else ("fma.rn", [a, b, c])
    plain = apply(f"{op}.f32 D, {form}", "f32", *(("f32", x) for x in inputs))
    np.testing.assert_array_equal(plain, (a.astype(F64) * b).astype(F32))
    flushed = apply(f"{op}.ftz.f32 D, {form}", "f32", *(("f32", x) for x in inputs))
    np.testing.assert_array_equal(flushed, 0)
    if op == "mul":
        assert np.signbit(flushed).tolist() == [False, True, False, False, True]


def test_every_form_with_ftz():
    a = np.array([TINY / 2, 1, -TINY / 4], F32)
    zero = np.array([0, 1, -0.0], F32)
    for text in (
        "add.ftz.f32 D, A, 0f00000000",
        "abs.ftz.f32 D, A",
        "max.ftz.f32 D, A, 0fFF800000",
        "cvt.ftz.f64.f32 %g1, A; cvt.rn.f32.f64 D, %g1",
    ):
        np.testing.assert_array_equal(apply(text, "f32", ("f32", a)), np.abs(zero) if "abs" in text else zero)
    assert apply("setp.eq.ftz.f32 %p1, A, 0f00000000; selp.u32 D, 1, 0, %p1", "u32", ("f32", a)).tolist() == [1, 0, 1]
    assert apply("setp.eq.f32 %p1, A, 0f00000000; selp.u32 D, 1, 0, %p1", "u32", ("f32", a)).tolist() == [0, 0, 0]
    # A register that was clean, and then isn't.
    text = "add.ftz.f32 %f9, 0f3F800000, 0f3F800000; add.ftz.f32 %f8, %f9, %f9; mov.f32 %f9, A; add.ftz.f32 D, %f9, 0f00000000"
    np.testing.assert_array_equal(apply(text, "f32", ("f32", a)), np.abs(zero))
    # The constant is subnormal.
    np.testing.assert_array_equal(apply("mul.ftz.f32 D, A, 0f00000001", "f32", ("f32", np.array([2.0**100], F32))), 0)


def test_results_saturate():
    a = np.array([-1, 0.25, 2, np.nan, np.inf, -np.inf, -0.0], F32)
    wanted = np.array([0, 0.25, 1, 0, 1, 0, 0], F32)
    for text in (
        "add.sat.f32 D, A, 0f00000000",
        "cvt.sat.f32.f32 D, A",
        "fma.rn.sat.f32 D, A, 0f3F800000, 0f00000000",
        "fma.rn.ftz.sat.f32 D, A, 0f3F800000, 0f00000000",
    ):
        np.testing.assert_array_equal(apply(text, "f32", ("f32", a)), wanted)


@pytest.mark.parametrize("t", ["f32", "f64"])
def test_smaller_and_larger_with_nan_and_signed_zeros(t):
    a = np.array([1, np.nan, 2, np.nan, 0.0, -0.0, -np.inf], DTYPE[t])
    b = np.array([2, 1, np.nan, np.nan, -0.0, 0.0, 3], DTYPE[t])
    low, high = (apply(f"{n}.{t} D, A, B", t, (t, a), (t, b)) for n in ("min", "max"))
    np.testing.assert_array_equal(low, [1, 1, 2, np.nan, 0, 0, -np.inf])
    np.testing.assert_array_equal(high, [2, 1, 2, np.nan, 0, 0, 3])
    assert np.signbit(low[4:6]).all()
    assert not np.signbit(high[4:6]).any()
    if t == "f32":
        np.testing.assert_array_equal(
            apply("min.NaN.f32 D, A, B", t, (t, a), (t, b)), [1, np.nan, np.nan, np.nan, 0, 0, -np.inf]
        )


@pytest.mark.parametrize("t", ["f32", "f64"])
def test_comparisons_of_floats(t):
    values = [-np.inf, -1, -0.0, 0.0, 1, np.inf, np.nan]
    a, b = (v.reshape(-1).astype(DTYPE[t]) for v in np.meshgrid(values, values))
    ordered = {"eq": a == b, "ne": (a < b) | (a > b), "lt": a < b, "le": a <= b, "gt": a > b, "ge": a >= b}
    nan = np.isnan(a) | np.isnan(b)
    cases = ordered | {n + "u": v | nan for n, v in ordered.items()} | {"num": ~nan, "nan": nan}
    for name, wanted in cases.items():
        got = apply(f"setp.{name}.{t} %p1, A, B; selp.u32 D, 1, 0, %p1", "u32", (t, a), (t, b))
        np.testing.assert_array_equal(got != 0, wanted, name)


def test_kinds_of_numbers_and_signs():
    a = np.array([0, -0.0, 1, -TINY / 2, np.inf, np.nan], F32)
    kinds = {"finite": [1, 1, 1, 1, 0, 0], "infinite": [0, 0, 0, 0, 1, 0], "number": [1, 1, 1, 1, 1, 0]}
    kinds |= {"notanumber": [0, 0, 0, 0, 0, 1], "normal": [0, 0, 1, 0, 0, 0], "subnormal": [0, 0, 0, 1, 0, 0]}
    for name, wanted in kinds.items():
        assert apply(f"testp.{name}.f32 %p1, A; selp.u32 D, 1, 0, %p1", "u32", ("f32", a)).tolist() == wanted
    b = np.array([3, -3, np.inf, -np.inf, 1, -2], F32)
    np.testing.assert_array_equal(apply("copysign.f32 D, A, B", "f32", ("f32", a), ("f32", b)), np.copysign(b, a))
    assert np.signbit(apply("neg.f32 D, A", "f32", ("f32", a[:2]))).tolist() == [True, False]
    np.testing.assert_array_equal(apply("abs.f64 D, A", "f64", ("f64", b)), np.abs(b))


@pytest.mark.parametrize("source", ["f32", "f64"])
@pytest.mark.parametrize("to", ["u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64"])
def test_floats_become_integers_within_the_range(source, to):
    a = np.array(
        [
            0.5,
            1.5,
            -0.5,
            -1.5,
            2.5,
            1e30,
            -1e30,
            np.inf,
            -np.inf,
            np.nan,
            127.5,
            255.5,
            65535.7,
            2.0**31,
            2.0**32,
            2.0**63,
            2.0**64,
            -(2.0**31),
            -(2.0**63),
        ]
    )
    bits = int(to[1:])
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if to[0] == "s" else (0, 2**bits - 1)
    for mode, f in (("rni", round), ("rzi", math.trunc), ("rmi", math.floor), ("rpi", math.ceil)):
        x = a.astype(DTYPE[source])
        wanted = [
            0 if math.isnan(v) else (high if v > 0 else low) if math.isinf(v) else max(low, min(high, f(v)))
            for v in x.tolist()
        ]
        assert apply(f"cvt.{mode}.{to}.{source} D, A", to, (source, x)).tolist() == wanted


def test_floats_are_rounded_to_whole_numbers():
    a = np.array([0.5, 1.5, -0.5, -2.7, 3.2, 1e20, np.inf], F32)
    for mode, f in (("rni", np.rint), ("rzi", np.trunc), ("rmi", np.floor), ("rpi", np.ceil)):
        np.testing.assert_array_equal(apply(f"cvt.{mode}.f32.f32 D, A", "f32", ("f32", a)), f(a))
        np.testing.assert_array_equal(apply(f"cvt.{mode}.f64.f64 D, A", "f64", ("f64", a)), f(a.astype(F64)))


def test_half_precision_widens():
    a = np.array([1, -2.5, 6e-8, np.inf], "f2")
    np.testing.assert_array_equal(apply("cvt.f32.f16 D, A", "f32", ("f16", a)), a.astype(F32))


def test_tensor_core_formats():
    a = np.array([1 + 2**-11, 1 + 2**-10, -1 - 2**-11, 3.14159, np.inf], F32)
    got = apply("cvt.rna.tf32.f32 D, A", "u32", ("f32", a)).view(F32)
    np.testing.assert_array_equal(got[:3], np.array([1 + 2**-10, 1 + 2**-10, -1 - 2**-10], F32))
    assert got[4] == np.inf
    assert abs(got[3] - a[3]) < 2**-10
    got = apply("cvt.rn.bf16x2.f32 D, A, B", "u32", ("f32", a), ("f32", a * 2))
    np.testing.assert_array_equal(got >> 16, arith.to_bf16(a))
    np.testing.assert_array_equal(got & 0xFFFF, arith.to_bf16(a * 2))
    np.testing.assert_array_equal(
        apply("cvt.f32.bf16 D, A", "f32", ("u16", arith.to_bf16(a))), arith.from_bf16(arith.to_bf16(a))
    )


APPROXIMATE = {
    "rcp.approx.f32": (lambda x: 1 / x, 0.01, 1e3, 2**-23, 0),
    "sqrt.approx.f32": (np.sqrt, 1e-3, 1e6, 2**-23, 0),
    "rsqrt.approx.f32": (lambda x: 1 / np.sqrt(x), 1e-3, 1e6, 2**-22.9, 0),
    "ex2.approx.ftz.f32": (np.exp2, -30, 30, 2**-22.5, 0),
    "lg2.approx.f32": (np.log2, 1e-3, 1e3, 2**-22, 2**-22),
    "sin.approx.f32": (np.sin, -1.5, 1.5, 0, 1.5 * 2**-20.9),
    "cos.approx.f32": (np.cos, -1.5, 1.5, 0, 1.5 * 2**-20.9),
    "tanh.approx.f32": (np.tanh, -4, 4, 2**-11, 0),
}


@pytest.mark.parametrize("name", APPROXIMATE)
def test_approximate_functions_err_as_much_as_they_may(name):
    f, low, high, relative, absolute = APPROXIMATE[name]
    x = np.random.default_rng(5).uniform(low, high, 1024).astype(F32)
    wanted = f(x.astype(F64))
    allowed = relative * np.abs(wanted) + absolute + (2**-24 if absolute else 0)
    worst = []
    for seed in (None, 0, 1):
        got = apply(f"{name} D, A", "f32", ("f32", x), seed=seed)
        worst.append((np.abs(got - wanted) / allowed).max())
        assert worst[-1] <= 1.0001
        np.testing.assert_array_equal(got, apply(f"{name} D, A", "f32", ("f32", x), seed=seed))
    assert worst[1] > 0.6
    assert worst[1] != worst[2]
    special = np.array([np.nan, np.inf, 0], F32)
    got = apply(f"{name} D, A", "f32", ("f32", special), seed=0)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(np.isnan(got), np.isnan(f(special)))


def test_approximate_division():
    rng = np.random.default_rng(6)
    a, b = rng.uniform(-9, 9, 1024).astype(F32), rng.uniform(0.1, 9, 1024).astype(F32)
    exact_quotient = a.astype(F64) / b
    for name in ("div.full.f32", "div.approx.ftz.f32"):
        got = apply(f"{name} D, A, B", "f32", ("f32", a), ("f32", b), seed=3)
        error = np.abs(got - exact_quotient) / np.spacing(np.abs(exact_quotient).astype(F32))
        assert 1 < error.max() <= 2.5
    big = np.array([1e38], F32)
    assert apply("div.approx.f32 D, A, B", "f32", ("f32", big), ("f32", big * 2)).tolist() == [0]
    assert apply("div.full.f32 D, A, B", "f32", ("f32", big), ("f32", big * 2)).tolist() == [0.5]


def test_rounding_by_definition():
    """The oracle itself, on numbers worked by hand."""
    half, third = Fraction(1, 2), Fraction(1, 3)
    assert arith.from_fraction(1 + half**24, "f32") == 1
    assert arith.from_fraction(1 + 3 * half**24, "f32") == 1 + 2**-22
    assert arith.from_fraction(third, "f32") == float(F32(1 / 3))
    assert arith.from_fraction(-third, "f64") == -1 / 3
    assert arith.from_fraction(half**150, "f32") == 0
    assert arith.from_fraction(half**150 * 3, "f32") == 2**-148
    assert arith.from_fraction(half**200, "f32", "rp") == 2**-149
    assert arith.from_fraction(-(half**200), "f32", "rp") == 0
    assert arith.from_fraction(Fraction(2) ** 128, "f32") == math.inf
    assert arith.from_fraction(Fraction(2) ** 128, "f32", "rz") == LARGEST["f32"]
