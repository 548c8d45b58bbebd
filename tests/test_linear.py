"""Products of matrices with many rows: against float64, to the bit whatever they are shared and cut into, at guarded pages."""

import copy
import pickle
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nbrnn
from nbrnn._cpu import dense, isa, linear
from nbrnn._cpu.linear import packed, product, product_of_columns
from tests.processes import run
from tests.teams import forced, offered, shared

#: Around vectors, panels, and what is formed at a time.
SIZES = st.one_of(
    st.just(1), st.integers(1, 40), st.sampled_from([63, 64, 65, 100, 127, 128, 129, 257, 511, 512, 513, 1025])
)
ROWS = st.one_of(st.integers(0, 20), st.sampled_from([64, 255, 256, 257, 511, 512, 513, 770]))
WIDTHS = st.sampled_from([isa.current(), *isa.WIDTHS.values()])
NAMES = {lanes: name for name, lanes in isa.NAMES.items()}
DTYPES = st.sampled_from(["float32", "float64"])


def numbers(seed, *shapes, dtype):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(dtype) for shape in shapes]


def bound(a, b, dtype, rows=1):
    """What rounding may do to each number of A B."""
    depth = a.shape[1] if rows == 1 else min(a.shape[1], dense.CHUNK) + 4
    return np.finfo(dtype).eps * (depth + 2) * (abs(a).astype("f8") @ abs(b).astype("f8") + 1)


@given(ROWS, SIZES, SIZES, st.integers(0, 99), DTYPES, WIDTHS, st.booleans(), st.booleans())
def test_product(rows, n, m, seed, dtype, lanes, across, bias):
    a, b, c = numbers(seed, (rows, n), (n, m), (m,), dtype=dtype)
    wanted = a.astype("f8") @ b.astype("f8") + (c if bias else 0)
    with isa.use(NAMES[lanes]):
        got = product(a, np.ascontiguousarray(b.T) if across else b, c if bias else None, across=across)
    assert got.dtype == dtype
    assert (abs(got - wanted) <= bound(a, b, dtype) + np.finfo(dtype).eps * abs(c)).all()


@given(ROWS, SIZES, SIZES, st.integers(0, 99), DTYPES, WIDTHS, st.booleans())
def test_product_of_columns(rows, m, n, seed, dtype, lanes, bias):
    a, b = numbers(seed, (rows, m), (rows, n), dtype=dtype)
    to, sums = np.full((m, n), np.nan, dtype), np.full(m, np.nan, dtype)
    with isa.use(NAMES[lanes]):
        product_of_columns(a, b, to, sums if bias else None)
    assert (abs(to - a.astype("f8").T @ b.astype("f8")) <= bound(a.T, b, dtype, rows)).all()
    if bias:
        ones = np.ones((rows, 1), dtype)
        assert (abs(sums - a.astype("f8").sum(0)) <= bound(a.T, ones, dtype, rows)[:, 0]).all()
    else:
        assert np.isnan(sums).all()


@given(st.integers(1, 40), SIZES, SIZES, st.integers(0, 99), DTYPES, st.data())
def test_a_row_does_not_depend_on_the_others(rows, n, m, seed, dtype, data):
    a, b, c = numbers(seed, (rows, n), (n, m), (m,), dtype=dtype)
    whole = product(a, b, c)
    np.testing.assert_array_equal(product(a, b.T.copy(), c, across=True), whole)
    np.testing.assert_array_equal(product(a, packed(b.T), c), whole)
    first = data.draw(st.integers(0, rows - 1))
    last = data.draw(st.integers(first + 1, rows))
    np.testing.assert_array_equal(product(a[first:last], b, c), whole[first:last])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nor_on_where_sums_are_cut(dtype):
    """Long sums of many rows, beside one row; and the order is that of a plain loop."""
    a, b, c = numbers(0, (1200, 1100), (1100, 70), (70,), dtype=dtype)
    whole = product(a, b, c)
    for row in (0, 511, 512, 1199):
        np.testing.assert_array_equal(product(a[row : row + 1], b, c)[0], whole[row])
    column = product(a, b[:, :1], c[:1])
    np.testing.assert_array_equal(column, product(a, packed(b[:, :1].T), c[:1]))
    for row in (0, 511, 512, 1199):
        np.testing.assert_array_equal(product(a[row : row + 1], b[:, :1], c[:1])[0], column[row])
    exact = (a * 8).round(), (b * 8).round()  # of which no sum is rounded
    np.testing.assert_array_equal(product(*exact, c.round()), exact[0] @ exact[1] + c.round())


@pytest.mark.alone
@pytest.mark.parametrize("members", [2, 3, 4])
@pytest.mark.parametrize("rows, n, m", [(5, 70, 300), (300, 5, 3), (600, 70, 130), (1500, 300, 300), (1030, 130, 1)])
def test_the_bits_are_those_of_one_thread(rows, n, m, members):
    x, w, dy, b = numbers(1, (rows, n), (m, n), (rows, m), (m,), dtype="float32")

    def results():
        dw, db = np.empty((m, n), "f"), np.empty(m, "f")
        product_of_columns(dy, x, dw, db)
        return product(x, w, b, across=True), product(dy, w), dw, db

    wanted = results()
    for steps, alone in ((10**6, 0), (256, 0), (100, 7)):
        before = offered()
        with forced(members, 1, steps=steps, alone=alone):
            got = results()
        assert offered() > before
        assert shared() > before
        for one, other in zip(got, wanted, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.alone
@given(
    st.tuples(st.integers(0, 5), st.integers(0, 40), st.integers(1, 40)), st.integers(2, 4), st.booleans(),
    st.sampled_from([0.0, 0.25]), st.integers(0, 99), DTYPES,
)  # fmt: skip
def test_a_shared_loss_has_the_same_bits(shape, members, ragged, smoothing, seed, dtype):
    rng = np.random.default_rng(seed)
    y, target = rng.normal(size=shape).astype(dtype), rng.integers(0, shape[2], shape[:2])
    lengths = rng.integers(0, shape[0] + 1, shape[1]) if ragged else None
    loss, dy = nbrnn.losses.cross_entropy(y, target, lengths, label_smoothing=smoothing)
    with forced(members, 1, wait=0.001):
        again, slope = nbrnn.losses.cross_entropy(y, target, lengths, label_smoothing=smoothing)
    assert loss == again
    np.testing.assert_array_equal(slope, dy)


def test_many_rows_lose_no_digits():
    """One sum of so many rows would lose some."""
    rows, rng = 200_000, np.random.default_rng(0)
    x, dy = (rng.uniform(size=(rows, n)).astype("f") for n in (1, 3))
    dw, db = np.empty((3, 1), "f"), np.empty(3, "f")
    product_of_columns(dy, x, dw, db)
    wide, tall = x.astype("f8"), dy.astype("f8")
    np.testing.assert_allclose(dw, tall.T @ wide, rtol=3e-7)
    np.testing.assert_allclose(db, tall.sum(0), rtol=3e-7)
    assert (abs(np.cumsum(dy, 0)[-1] / tall.sum(0) - 1) > 3e-6).any()


def test_infinite_numbers_and_nan_stay_where_they_are():
    x, w = np.ones((300, 70), "f"), np.ones((33, 70), "f")
    x[7, 3], x[250, 5], w[20, 9] = np.nan, np.inf, np.nan
    y = product(x, w, across=True)
    assert np.isnan(y[7]).all()
    assert np.isnan(y[:, 20]).all()
    rest = np.delete(np.delete(y, 7, 0), 20, 1)
    assert (np.delete(rest, 249, 0) == 70).all()
    assert (rest[249] == np.inf).all()
    dw, db = np.empty((33, 70), "f"), np.empty(33, "f")
    dy = np.ones((300, 33), "f")
    dy[11, 2] = np.inf
    product_of_columns(dy, x, dw, db)
    assert np.isnan(dw[:, 3]).all()
    assert np.isinf(np.delete(dw, 3, 1)[2]).all()
    assert np.isinf(np.delete(dw, 2, 0)[:, 5]).all()
    assert np.isfinite(np.delete(np.delete(dw, 2, 0), [3, 5], 1)).all()
    assert np.isinf(db[2])
    assert (np.delete(db, 2) == 300).all()


def test_packed_weights_follow_the_parameters():
    layer, other = nbrnn.Linear(7, 5, rng=0), nbrnn.Linear(7, 5, rng=1)
    x = np.ones((1, 7), "f")
    for source in (layer, other):
        flat = source.flat.copy()
        layer.flat = flat
        wanted = np.ones(7) @ flat[:35].astype("f8").reshape(5, 7).T + flat[35:]
        results = [layer(x)[0] for _ in range(3)]
        results += [copied(layer)(x)[0] for copied in (copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net)))]
        for y in results:
            np.testing.assert_array_equal(y, results[0])
            np.testing.assert_allclose(y[0], wanted, rtol=1e-5, atol=1e-6)
    assert layer._packed[1] is not None
    with isa.use("128"):
        np.testing.assert_array_equal(layer(x)[0], results[0])


def test_rooms_are_those_of_the_thread_and_grow():
    own = linear.kit(np.dtype("f4"), isa.current())
    small = own.room(100, 1)
    assert own.room(50, 1) is small
    large = own.room(small.size + 1, 3)
    assert large.w.size >= 3 * large.size
    assert own.room(10, 2) is large


#: Matrices that end at a page which can't be touched, and begin behind one: a slip ends the process.
GUARDED = """
import numpy as np
from nbrnn._cpu import isa, linear
from nbrnn._cpu.linear import packed, product, product_of_columns
from tests.guard import Arena
arenas, ran, rng = {}, 0, np.random.default_rng(0)
def put(name, a, at_end):
    arena = arenas.setdefault(name, Arena(600))
    array = arena.array(a.shape, a.dtype, at_end)
    array[...] = a
    return array
linear.aligned = lambda shape, dtype: put(("room", len(shape)), np.full(shape, np.nan, dtype), at_end)
linear.aligned_zeros = lambda shape, dtype: put(("totals", len(shape)), np.zeros(shape, dtype), at_end)
for dtype in ("f4", "f8"):
    for width in isa.WIDTHS:
        with isa.use(width):
            own = linear.kit(np.dtype(dtype), isa.current())
            sizes = [1, 2, own.W - 1, own.W, own.W + 1, 2 * own.W + 1, own.block - 1, own.block, own.block + 1, 131]
            for i, n in enumerate(sizes):
                for j, m in enumerate(sizes):
                    if n and m and (i + j) % 2 == 0:
                        for rows in (1, 7)[i % 2 :: 2] + (258,) * (j % 5 == 0):
                            x, w, b, dy = (rng.normal(size=s).astype(dtype) for s in ((rows, n), (m, n), (m,), (rows, m)))
                            for at_end in (True, False):
                                own._rooms.last = None
                                x_, w_, b_, dy_ = (put(k, a, at_end) for k, a in zip("xwbd", (x, w, b, dy)))
                                linear.fresh = lambda s, d: put("y", np.empty(s, d), at_end)
                                y = product(x_, w_, b_, across=True).copy()
                                if width != "scalar":
                                    np.testing.assert_array_equal(product(x_, packed(w_), b_), y)
                                dx = product(dy_, w_).copy()
                                dw, db = (put(k, np.full(s, np.nan, dtype), at_end) for k, s in (("W", (m, n)), ("B", m)))
                                product_of_columns(dy_, x_, dw, db)
                                for got, wanted in ((y, x @ w.T + b), (dx, dy @ w), (dw, dy.T @ x), (db, dy.sum(0))):
                                    np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-3)
                                ran += 1
            own._rooms.last = None
print(ran)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs mprotect")
def test_no_matrix_is_read_or_written_past_its_ends():
    assert int(run(GUARDED)) > 500


@pytest.mark.parametrize("rows", [3, 300, 3000])
def test_a_single_column_may_lie_anywhere(rows):
    """Its numbers may be any distance apart, and what is said to be that of the next in a row means nothing."""
    rng = np.random.default_rng(0)
    z, b = rng.normal(size=(rows * 2, 3)), rng.normal(size=(5, 1))
    for a in (z[::2, 0][:, None], z[:, 1][:, None], z.T[:1].T, z[::-1, 2][:, None]):
        np.testing.assert_allclose(product(a, b, across=True), a @ b.T, rtol=1e-12, atol=1e-12)
