"""Products on a matrix unit (AMX): as accurate as plain ones, the same bits for a row whatever stands beside it."""

import math
import os
import subprocess
import sys
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbrnn._cells import LSTM
from nbrnn._cpu import digits, isa, squares
from nbrnn._cpu.form import Form
from nbrnn._cpu.rows import address, primitive
from nbrnn._kernel import kernel
from nbrnn._memory import aligned
from tests.cases import KINDS, Case, examples
from tests.teams import TEAMS, forced
from tests.tolerances import assert_close

pytestmark = pytest.mark.skipif(not isa.HAS_UNIT, reason="no matrix unit here")

#: Of a number of float32.
ROUNDING = 2.0**-24


class Room(NamedTuple):
    w: Any
    lanes: Any


@primitive
def _split(e, room, rows, stride, count, n, vectors, to, misfits):
    rows, last = e.ptr(rows), count - 1
    digits.split(e, lambda r: rows + r.at_most(last) * stride, count, n, vectors, e.ptr(to), e.ptr(misfits))


@primitive
def _split_rows(e, room, n, rows, stride, depth, to, back):
    one, rows = e.integer(1), e.ptr(rows)
    digits.split_rows(e, n, lambda i: rows + i * stride, one, e.integer(0), depth, e.ptr(to), e.ptr(back))


@primitive
def _product(e, room, n, depth, a, back, vectors, b, to, stride):
    to, zero = e.ptr(to), e.vec(0.0)
    given = (digits.blocks_of(depth), e.ptr(a), e.ptr(back), vectors, e.ptr(b))
    squares.product(e, n, *given, lambda k: zero, lambda i, k: to + (i * stride + k * e.W))


@kernel
def multiply(room, a, b, a_digits, b_digits, back, misfits, c):
    """C = A B, for C with whole pairs of vectors."""
    (n, depth), (_, m), vectors = a.shape, b.shape, c.shape[1] // 16
    _split(room, address(b), m, depth, m, vectors, address(b_digits), address(misfits))
    _split_rows(room, n, address(a), depth, depth, address(a_digits), address(back))
    _product(room, n, depth, address(a_digits), address(back), vectors, address(b_digits), address(c), c.shape[1])


def product(a, b):
    """(A B, what isn't finite of A's rows, whether B fits)."""
    (n, depth), m = a.shape, b.shape[1]
    room, width, dtype = Room(np.zeros(1, "f"), isa.AMX()), -(-m // 32) * 32, np.dtype("f")
    a_digits = aligned((-(-n // 16) * 16 * digits.numbers_of(depth),), dtype)
    b_digits, back = aligned((width * digits.numbers_of(depth),), dtype), aligned((n,), dtype)
    misfits, c = aligned((16,), dtype), aligned((n, width), dtype)
    for scratch in (a_digits, b_digits, c):
        scratch.fill(np.nan)  # nothing may rely on memory being clean
    multiply(room, a, b, a_digits, b_digits, back, misfits, c)
    return c[:, :m], ~np.isfinite(back), bool(np.isfinite(misfits).all())


def matrices(n, depth, m, seed, spread):
    """A and B, whose rows and columns differ in size by up to so many powers of 2."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(n, depth)) * 2.0 ** rng.integers(-spread, spread + 1, (n, 1))
    b = rng.normal(size=(depth, m)) * 2.0 ** rng.integers(-min(spread, 50), min(spread, 50) + 1, (1, m))
    return a.astype("f"), b.astype("f")


SIZES = st.integers(1, 70)


@examples(4)
@given(SIZES, st.integers(1, 300), SIZES, st.integers(0, 99), st.sampled_from([0, 20, 70]))
def test_a_product_is_as_accurate_as_a_plain_one(n, depth, m, seed, spread):
    a, b = matrices(n, depth, m, seed, spread)
    c, bad, fits = product(a, b)
    assert fits
    assert not bad.any()
    exact, size = a.astype("d") @ b.astype("d"), np.abs(a).astype("d") @ np.abs(b).astype("d")
    # What is dropped of each product, and what sums of 32 and their sums are rounded by.
    assert (np.abs(c - exact) <= (2 + 16 + 6 * math.ceil(depth / 32)) * ROUNDING * size).all()


def test_errors_are_smaller_than_those_of_sums_in_float32():
    a, b = matrices(200, 512, 200, 0, 0)
    exact, plain = a.astype("d") @ b.astype("d"), np.zeros((200, 200), "f")
    for k in range(512):
        plain = (plain + a[:, k : k + 1].astype("d") * b[k].astype("d")).astype("f")
    c, _, _ = product(a, b)
    rms = lambda x: math.sqrt(((x - exact) ** 2).mean())
    assert rms(c) < 0.7 * rms(plain)
    # Digits are dropped of either sign: nothing is lost on average.
    assert abs((c - exact).mean()) < 0.02 * rms(c)


@examples(2)
@given(SIZES, st.integers(1, 100), SIZES, st.integers(0, 99))
def test_a_row_of_a_product_knows_nothing_of_the_others(n, depth, m, seed):
    a, b = matrices(n, depth, m, seed, 30)
    c, _, _ = product(a, b)
    i = seed % n
    np.testing.assert_array_equal(product(a[i : i + 1].copy(), b)[0][0], c[i])
    for value in (np.inf, -np.inf, np.nan):
        a[i, seed % depth] = value
        spoiled, bad, _ = product(a, b)
        np.testing.assert_array_equal(bad, np.arange(n) == i)
        np.testing.assert_array_equal(np.delete(spoiled, i, 0), np.delete(c, i, 0))


@pytest.mark.parametrize("value", [np.inf, np.nan, 2.0**121, 2.0**-70, 2.0**-130])
def test_what_the_unit_cannot_multiply_is_told(value):
    a, b = matrices(5, 40, 33, 0, 0)
    b[:, 7] = 0
    assert product(a, b)[2]
    b[3, 7] = value
    assert not product(a, b)[2]


# Layers: sizes for which inputs, gradients of weights and of inputs all come by digits.


def large(kind, I, H, **options):
    options = {"T": 3, "B": 9} | options
    case = Case(kind, "float32", I=I, H=H, P=H // 2, stateful=True, **options)
    case.layer.flat = case.layer.flat * np.float32(2)
    return case


def results(case, **changed):
    y, h, c, grads = case.train(rng=case.seed, **changed)
    return [a for a in (y, h, c, grads.x, *case.split(grads.state), grads.flat) if a is not None]


KIND, INPUTS, UNITS = st.sampled_from(KINDS), st.integers(128, 200), st.integers(86, 150)


@examples(2)
@given(KIND, INPUTS, UNITS, st.integers(1, 40), st.booleans(), st.booleans(), st.integers(0, 99))
def test_layers_agree_with_float64(kind, I, H, B, ragged, bidirectional, seed):
    H = max(H, 256) if kind in ("tanh", "relu") else H
    case = large(kind, I, H, B=B, ragged=ragged, bidirectional=bidirectional, seed=seed)
    assert case.layer._stack().parts[0][0].by_digits
    wanted = Case(kind, "float64", I=I, H=H, P=H // 2, T=3, B=B, stateful=True, ragged=ragged,
                  bidirectional=bidirectional, seed=seed)  # fmt: skip
    wanted.layer.flat = case.layer.flat.astype("d")
    for name in ("x", "dy", "h", "c", "dh", "dc"):
        setattr(wanted, name, getattr(case, name).astype("d"))
    for got, exact in zip(results(case), results(wanted), strict=True):
        assert_close(got, exact, "float32", 3, f"{kind} {I} {H} {B}")


@examples(1)
@given(KIND, INPUTS, UNITS, st.integers(1, 20), st.sampled_from(TEAMS), st.integers(1, 3), st.integers(0, 99))
def test_bits_do_not_depend_on_threads_or_pieces(kind, I, H, B, team, rows, seed):
    case = large(kind, I, H, B=B, seed=seed, bidirectional=seed % 3 == 0, ragged=seed % 2 == 0)
    wanted = results(case)
    with forced(*team):
        for a, b in zip(results(case), wanted, strict=True):
            np.testing.assert_array_equal(a, b)
    with forced(*team, rows=rows, steps=2):
        for a, b in zip(results(case), wanted, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("members", [1, 2, 4])
def test_weights_may_be_brought_into_digits_by_several(members):
    """To the same bits; and a weight that can't be is found whoever meets it: then all are multiplied in vectors."""
    case = large("GRU", 130, 200, B=9)
    wanted, weights = results(case), case.layer.flat.copy()
    with forced(members, 1):
        case.layer.flat = weights
        for a, b in zip(results(case), wanted, strict=True):
            np.testing.assert_array_equal(a, b)
        for row, column in ((0, 0), (299, 64), (599, 129)):
            case.layer.flat = weights
            spoiled = case.layer.params["weight_ih_l0"].copy()
            spoiled[row, column] = 2.0**121
            case.layer.params["weight_ih_l0"] = spoiled
            got = case.train()
            with isa.use("512"):
                in_vectors = case.train()
            for a, b in ((got[0], in_vectors[0]), (got[3].x, in_vectors[3].x)):
                assert (np.abs(a - b) <= 2e-5 * np.abs(b).max((0, 1))).all()  # by column: one may be very large


def test_very_large_layers_keep_no_digits():
    """They would take half as much memory again as the weights."""
    for I, H, by_digits in ((2048, 2048, True), (2049, 2048, False), (8192, 4096, False)):
        form = Form(LSTM, np.dtype("f"), {"weight_ih": (4 * H, I), "weight_hh": (4 * H, H)}, isa.AMX)
        assert form.by_digits == form.dx_by_digits == by_digits


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("B", [40, 1500])  # more rows than there is room for, too
def test_a_sequence_knows_nothing_of_the_others(kind, B):
    H = 256 if kind in ("tanh", "relu") else 70
    case = large(kind, 130, H, B=B, T=2, ragged=True)
    y, h, c, grads = case.train()
    for b in (0, B // 2, B - 1):
        alone = large(kind, 130, H, B=1, T=2)
        alone.layer.flat, alone.lengths = case.layer.flat, case.lengths[b : b + 1]
        for name in ("x", "dy", "h", "c", "dh", "dc"):
            setattr(alone, name, getattr(case, name)[:, b : b + 1].copy())
        y1, h1, c1, grads1 = alone.train()
        pairs = [(y1, y), (h1, h), (c1, c), (grads1.x, grads.x)]
        pairs += list(zip(case.split(grads1.state), case.split(grads.state), strict=True))
        for one, all_of_them in pairs:
            if one is not None:
                np.testing.assert_array_equal(one[:, 0], all_of_them[:, b])


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("name", ["x", "dy"])
def test_what_is_not_finite_is_what_it_is_in_vectors(name, value):
    case = large("LSTM", 130, 70, T=4, B=12)
    clean = results(case)
    getattr(case, name)[2, 5, 3] = value
    got = results(case)
    for a, b in list(zip(got, clean, strict=True))[:-1]:
        np.testing.assert_array_equal(np.delete(a, 5, 1), np.delete(b, 5, 1))
    with isa.use("512"):
        wanted = results(case)
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("size", [2.0**-120, 2.0**-80, 2.0**60])
@pytest.mark.parametrize("what", ["x", "dy", "weights"])
def test_very_large_and_very_small_numbers(what, size):
    case = large("tanh", 130, 256, T=2, B=30)
    if what == "weights":
        case.layer.params["weight_ih_l0"] = case.layer.params["weight_ih_l0"] * np.float32(size)
    else:
        setattr(case, what, getattr(case, what) * np.float32(size))
    case.dh[:] = 0
    exact = Case("tanh", "float64", I=130, H=256, T=2, B=30, stateful=True)
    exact.layer.flat = case.layer.flat.astype("d")
    for name in ("x", "dy", "h", "dh"):
        setattr(exact, name, getattr(case, name).astype("d"))
    with np.errstate(all="ignore"):
        for got, wanted in zip(results(case), results(exact), strict=True):
            largest = np.abs(wanted).max()
            if 2.0**-118 < largest < 2.0**120:
                # On the way back, numbers below the smallest normal one are 0: of a sum, each of 60 rows may lose one.
                lost = 60 * 2.0**-126 if what == "dy" else 0
                assert np.abs(got - wanted).max() < 3e-5 * largest + lost
            else:
                assert np.isfinite(got).all() or largest > 2.0**127


def test_factors_that_vanish_keep_their_digits():
    """Each column of what weights' gradients are made of has a scale of its own."""
    case = large("GRU", 130, 90, T=2, B=30)
    case.dy *= (2.0 ** -np.arange(90)).astype("f")
    case.dh[:] = 0
    exact = Case("GRU", "float64", I=130, H=90, T=2, B=30, stateful=True)
    exact.layer.flat = case.layer.flat.astype("d")
    for name in ("x", "dy", "h", "dh"):
        setattr(exact, name, getattr(case, name).astype("d"))
    with forced(1, 1):
        got, wanted = case.train()[3].params["weight_ih_l0"], exact.train()[3].params["weight_ih_l0"]
    rows = np.abs(got - wanted).max(1) / np.abs(wanted).max(1)
    assert rows.max() < 1e-5


def test_it_can_be_switched_off():
    def run(name, **more):
        line = [sys.executable, "-c", "from nbrnn._cpu import isa; print(isa.current().__name__)"]
        environment = os.environ | {"NBRNN_VECTORS": name} | more
        return subprocess.run(line, env=environment, capture_output=True, text=True)

    assert run("512").stdout.strip() == "V512"
    assert run("amx").stdout.strip() == "AMX"
    other = {"NUMBA_CPU_NAME": "skylake-avx512", "NUMBA_CPU_FEATURES": "+avx512f,+avx512dq,+avx512vl,+fma"}
    assert run("", **other).stdout.strip() == "V512"
    assert "ValueError: NBRNN_VECTORS must not be 'amx' here" in run("amx", **other).stderr
