"""Products in whole numbers (AMX and VNNI): as accurate as plain ones, the same bits on the unit and in vectors."""

import math
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbrnn._cpu import isa, whole
from nbrnn._cpu.rows import address, primitive
from nbrnn._cpu.squares import Unit
from nbrnn._kernel import kernel
from nbrnn._memory import aligned
from tests.cases import KINDS, Case, examples
from tests.teams import TEAMS, forced
from tests.test_digits import results
from tests.tolerances import assert_close

pytestmark = pytest.mark.skipif(not isa.HAS_UNIT, reason="no matrix unit here")

#: Vectors of columns that one row is multiplied by side by side.
BESIDE = 2


class Room(NamedTuple):
    w: Any
    lanes: Any


@primitive
def _columns(e, room, b, stride, parts, depth, vectors, to, largest):
    b, to, largest = e.ptr(b), e.ptr(to), e.ptr(largest)

    def vector(q):
        at = to + q * whole.column_numbers(parts, depth)
        row = lambda g, k: b + ((g * depth + k) * stride + q * e.W)
        whole.split_columns(e, row, parts, depth, at, lambda found: (largest + q * e.W).store(found))

    e.each(vectors, vector)


@primitive
def _rows(e, room, n, a, stride, parts, depth, to, back):
    a = e.ptr(a)
    whole.split_rows(e, n, lambda i: a + i * stride, parts, depth, depth, e.ptr(to), e.ptr(back))


@primitive
def _on_unit(e, room, n, parts, depth, vectors, a, back, b, c, stride, levels):
    unit, blocks = Unit(e), whole.blocks_of(parts, depth)
    a, back, b, c, levels = map(e.ptr, (a, back, b, c, levels))
    yes = e.b.icmp_signed("==", n.x, n.x)

    def vector(q):
        column = b + q * whole.column_numbers(parts, depth)

        def group(g):
            whole.sums_on_unit(unit, yes, blocks, a + g * (blocks * whole.BLOCK), column, levels, lambda p: None)

            def row(r):
                i = g * 16 + r
                found = whole.levels_at(levels + r * 16)
                (c + (i * stride + q * 16)).store(whole.product(found, column, (back + i).broadcast(), e.vec(0.0)))

            e.each((n - g * 16).at_most(16), row)

        e.each((n + 15) // 16, group)

    unit.begin()
    e.each(vectors, vector)
    unit.end()


@primitive
def _in_vectors(e, room, n, parts, depth, vectors, a, back, b, c, stride):
    blocks = whole.blocks_of(parts, depth)
    a, back, b, c = map(e.ptr, (a, back, b, c))

    def row(i):
        def some(p):
            columns = [b + (p * BESIDE + q) * whole.column_numbers(parts, depth) for q in range(BESIDE)]
            at = a + (i // 16 * (blocks * whole.BLOCK) + i % 16 * 16)
            for q, levels in enumerate(whole.sums_of_row(e, blocks, at, columns)):
                value = whole.product(levels, columns[q], (back + i).broadcast(), e.vec(0.0))
                (c + (i * stride + (p * BESIDE + q) * 16)).store(value)

        e.each(vectors // BESIDE, some)

    e.each(n, row)


@kernel
def multiply(room, a, b, parts, a_bytes, b_bytes, back, largest, levels, on_unit, in_vectors):
    """C = A B both ways, for C with whole pairs of vectors."""
    n, depth, vectors = a.shape[0], a.shape[1] // parts, b.shape[1] // 16
    _columns(room, address(b), b.shape[1], parts, depth, vectors, address(b_bytes), address(largest))
    _rows(room, n, address(a), a.shape[1], parts, depth, address(a_bytes), address(back))
    given = (n, parts, depth, vectors, address(a_bytes), address(back), address(b_bytes))
    _on_unit(room, given[0], given[1], given[2], given[3], given[4], given[5], given[6], address(on_unit),
             b.shape[1], address(levels))  # fmt: skip
    _in_vectors(room, given[0], given[1], given[2], given[3], given[4], given[5], given[6], address(in_vectors),
                b.shape[1])  # fmt: skip


def product(a, b, parts=1):
    """C, formed on the unit, which must be what is formed in vectors; and what rows were scaled by."""
    (n, total), m = a.shape, b.shape[1]
    depth, width = total // parts, -(-m // 32) * 32
    new = lambda *shape: aligned(shape, np.float32)
    wide = np.zeros((total, width), "f")
    wide[:, :m] = b
    # What stood there before, in rows and numbers that aren't there, must not matter.
    a_bytes, back = new(whole.row_numbers(parts, depth, n)), new(n)
    a_bytes.view(np.uint8)[:] = 77
    b_bytes = new(width // 16 * whole.column_numbers(parts, depth))
    on_unit, in_vectors = new(n, width), new(n, width)
    room = Room(np.zeros(1, np.float32), isa.AMX())
    given = (np.ascontiguousarray(a), wide, parts, a_bytes, b_bytes, back, new(width), new(4 * 256))
    multiply(room, *given, on_unit, in_vectors)
    np.testing.assert_array_equal(on_unit, in_vectors)
    return on_unit[:, :m], back


def matrices(n, depth, m, seed, spread):
    """Rows of A and columns of B of very different size."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(n, depth)), rng.normal(size=(depth, m))
    a *= 2.0 ** rng.integers(-spread, spread + 1, (n, 1))
    b *= 2.0 ** rng.integers(-spread, spread + 1, m)
    return a.astype("f"), b.astype("f")


@examples(3)
@given(
    st.integers(1, 50),
    st.integers(1, 4),
    st.integers(1, 150),
    st.integers(1, 70),
    st.integers(0, 99),
    st.sampled_from([0, 30]),
)
def test_a_product_is_as_accurate_as_a_plain_one(n, parts, depth, m, seed, spread):
    a, b = matrices(n, parts * depth, m, seed, spread)
    c, back = product(a, b, parts)
    exact = a.astype("d") @ b.astype("d")
    # Each number is rounded to 2^-24 of the largest beside it.
    most = np.abs(a).max(1)[:, None].astype("d") * np.abs(b).max(0)
    assert np.isfinite(back).all()
    assert (np.abs(c - exact) <= 2.0**-22 * (most * math.sqrt(parts * depth) + np.abs(exact))).all()


def test_errors_are_no_larger_than_those_of_sums_in_float32():
    rng = np.random.default_rng(0)
    for depth in (128, 512, 1024):
        for a, b in (
            (np.tanh(rng.normal(size=(64, depth))), rng.uniform(-1, 1, (depth, 64))),
            (rng.normal(size=(64, depth)), rng.normal(size=(depth, 64))),
        ):
            a, b = a.astype("f"), b.astype("f")
            exact, chain = a.astype("d") @ b.astype("d"), np.zeros((64, 64), "f")
            for k in range(depth):
                chain += a[:, k : k + 1] * b[k]
            errors = [np.sqrt(np.mean((c - exact) ** 2)) for c in (product(a, b)[0], chain)]
            assert errors[0] < errors[1], depth


@pytest.mark.parametrize(
    "value", [1.0, -1.0, 1 - 2.0**-24, 2 - 2.0**-23, -2 + 2.0**-23, 2.0**-126, 1e-42, 2.0**59, 0.0]
)
def test_the_largest_number_of_a_row_fits_its_bytes(value):
    """All bytes of one are 255, or those of the other 127."""
    a, b = np.full((5, 70), value, "f"), np.full((70, 33), value, "f")
    a[:, ::3] *= -1
    c, exact = product(a, b)[0], a.astype("d") @ b.astype("d")
    assert np.abs(c - exact).max() <= 2.0**-21 * np.abs(exact).max() + 2.0**-126


@pytest.mark.parametrize("sign", [1, -1])
def test_the_longest_sums_fit(sign):
    """All bytes as large as they can be, or what offsets make of that."""
    assert whole.wanted(4, 6144, 6144)
    assert not whole.wanted(4, 6145, 64)
    depth = whole.MOST_DEPTH // 4
    for number in (2 - 2.0**-23, 1.9921874, 1.0):  # the second: 127 in each byte
        a, b = np.full((4, 4 * depth), number, "f"), np.full((4 * depth, 32), sign * number, "f")
        c, exact = product(a, b, 4)[0], sign * number * number * 4 * depth
        np.testing.assert_allclose(c, exact, rtol=2.0**-21)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 2.0**60])
def test_rows_that_cannot_be_multiplied_are_told(value):
    a, b = matrices(21, 40, 33, 0, 0)
    clean = product(a, b)[0]
    a[17, 39] = value
    c, back = product(a, b)
    assert (np.isnan(back) == (np.arange(21) == 17)).all()
    np.testing.assert_array_equal(np.delete(c, 17, 0), np.delete(clean, 17, 0))


# Layers.

#: Units that are enough for that.
SIZE = {"tanh": 260, "relu": 260, "GRU": 130, "LSTM": 120, "projected": 170}


def large(kind, H, **options):
    options = {"T": 4, "B": 9, "I": 20} | options
    case = Case(kind, "float32", H=H, P=H // 2, stateful=True, **options)
    assert case.layer._stack().units[0].form.in_bytes
    return case


KIND = st.sampled_from([k for k in KINDS if k not in ("tanh", "relu")])
UNITS, ROWS = st.integers(160, 190), st.sampled_from([1, 2, 3, 4, 5, 15, 16, 17, 31, 33])


@examples(2)
@given(KIND, UNITS, ROWS, st.booleans(), st.booleans(), st.sampled_from([0.0, 0.4]), st.integers(0, 99))
def test_layers_agree_with_float64(kind, H, B, ragged, bidirectional, p, seed):
    options = dict(T=4, B=B, I=20, ragged=ragged, bidirectional=bidirectional, recurrent_dropout=p, seed=seed)
    case = large(kind, H, **options)
    wanted = Case(kind, "float64", H=H, P=H // 2, stateful=True, **options)
    wanted.layer.flat = case.layer.flat.astype("d")
    for name in ("x", "dy", "h", "c", "dh", "dc"):
        setattr(wanted, name, getattr(case, name).astype("d"))
    for got, exact in zip(results(case), results(wanted), strict=True):
        assert_close(got, exact, "float32", 4, f"{kind} {H} {B}")


@examples(1)
@given(KIND, UNITS, ROWS, st.sampled_from(TEAMS), st.integers(1, 3), st.integers(0, 99))
def test_bits_do_not_depend_on_threads_or_pieces(kind, H, B, team, rows, seed):
    case = large(kind, H, B=B, seed=seed, bidirectional=seed % 3 == 0, ragged=seed % 2 == 0)
    wanted = results(case)
    for more in ({}, {"rows": rows, "steps": 2}):
        with forced(*team, **more):
            case.layer.flat = case.layer.flat  # packed anew, by several
            for a, b in zip(results(case), wanted, strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("B", [3, 4, 18, 131])  # fewer than the unit takes; more than are brought into bytes at a time
def test_a_sequence_knows_nothing_of_the_others(kind, B):
    case = large(kind, SIZE[kind], B=B, T=3, ragged=B > 3)
    y, h, c, grads = case.train()
    for b in (0, B // 2, B - 1):
        alone = large(kind, case.H, B=1, T=3)
        alone.layer.flat = case.layer.flat
        alone.lengths = None if case.lengths is None else case.lengths[b : b + 1]
        for name in ("x", "dy", "h", "c", "dh", "dc"):
            setattr(alone, name, getattr(case, name)[:, b : b + 1].copy())
        y1, h1, c1, grads1 = alone.train()
        pairs = [(y1, y), (h1, h), (c1, c), (grads1.x, grads.x)]
        pairs += list(zip(case.split(grads1.state), case.split(grads.state), strict=True))
        for one, all_of_them in pairs:
            if one is not None:
                np.testing.assert_array_equal(one[:, 0], all_of_them[:, b])


@pytest.mark.parametrize("B", [2, 12])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 1e30])
@pytest.mark.parametrize("name", ["h", "dh", "dy"])
def test_what_cannot_be_multiplied_is_what_it_is_in_vectors(name, value, B):
    """And what stands beside it keeps its bits."""
    case = large("LSTM", SIZE["LSTM"], B=B)
    clean = results(case)
    getattr(case, name)[-1, 1, 3] = value
    got = results(case)
    for a, b in list(zip(got, clean, strict=True))[:-1]:
        np.testing.assert_array_equal(np.delete(a, 1, 1), np.delete(b, 1, 1))
    with isa.use("512"):
        wanted = results(case)
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(np.isfinite(a), np.isfinite(b))
        finite = np.isfinite(b)
        np.testing.assert_allclose(a[finite], b[finite], rtol=1e-3, atol=1e-4 * np.abs(b[finite]).max(initial=1))


@pytest.mark.parametrize("value", [np.inf, np.nan, 2.0**61])
def test_weights_that_cannot_be_multiplied(value):
    """Then all rows are multiplied in vectors, to the bits that those give."""
    case = large("GRU", SIZE["GRU"], B=5)
    weights = case.layer.params["weight_hh_l0"].copy()
    weights[200, 7] = value
    case.layer.params["weight_hh_l0"] = weights
    got = case.train()
    with isa.use("512"):
        wanted = case.train()
    for a, b in ((got[0], wanted[0]), (got[3].x, wanted[3].x)):
        np.testing.assert_array_equal(np.isfinite(a), np.isfinite(b))
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("size", [2.0**-120, 2.0**-60, 2.0**30])
@pytest.mark.parametrize("what", ["x", "weights"])
def test_very_large_and_very_small_numbers(what, size):
    """Of an RNN of rectified units, whose outputs are as large as what it is given."""
    case = large("relu", 260, B=6)
    exact = Case("relu", "float64", H=260, P=130, T=4, B=6, I=20, stateful=True)
    if what == "weights":
        case.layer.params["weight_hh_l0"] = case.layer.params["weight_hh_l0"] * np.float32(size)
    else:
        for name in [name for name in case.layer.params if "bias" in name]:
            case.layer.params[name] = case.layer.params[name] * np.float32(0)
        case.x, case.h = case.x * np.float32(size), case.h * np.float32(size)
    exact.layer.flat = case.layer.flat.astype("d")
    for name in ("x", "dy", "h", "dh"):
        setattr(exact, name, getattr(case, name).astype("d"))
    for a, b in zip(results(case)[:2], results(exact)[:2], strict=True):
        scale = np.abs(b).max((1, 2), keepdims=True)
        assert (np.abs(a - b) <= 1e-5 * scale + 2.0**-126).all()
