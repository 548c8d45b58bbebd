"""Losses: values and gradients, against torch and differences."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbrnn import losses
from nbrnn._cpu import isa
from tests.processes import run
from tests.reference import losses as reference


def numeric(f, y, step=1e-6):
    dy = np.zeros_like(y)
    for index in np.ndindex(y.shape):
        shifted = y.copy()
        shifted[index] += step
        above = f(shifted)
        shifted[index] -= 2 * step
        dy[index] = (above - f(shifted)) / (2 * step)
    return dy


SHAPES = st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(1, 4))


@given(SHAPES, st.integers(0, 999), st.booleans(), st.booleans())
def test_mse(shape, seed, ragged, batch_first):
    rng = np.random.default_rng(seed)
    y, target = rng.normal(size=shape), rng.normal(size=shape)
    B, T = shape[:2] if batch_first else shape[1::-1]
    lengths = rng.integers(0, T + 1, B) if ragged else None
    inside = np.ones((T, B), bool) if lengths is None else np.arange(T)[:, None] < lengths
    inside = inside.T if batch_first else inside
    y[~inside] = np.nan
    loss, dy = losses.mse(y, target, lengths, batch_first=batch_first)
    squares = (y - target)[inside] ** 2
    assert loss == pytest.approx(squares.mean() if squares.size else 0)
    wanted = np.zeros(shape)
    wanted[inside] = 2 * (y - target)[inside] / max(1, squares.size)
    np.testing.assert_allclose(dy, wanted, rtol=1e-12)
    assert losses.mse(y.astype(np.float32), target, lengths, batch_first=batch_first)[1].dtype == np.float32


@given(
    SHAPES,
    st.integers(0, 999),
    st.sampled_from([0.0, 0.1, 1.0]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_cross_entropy_agrees_with_torch(shape, seed, smoothing, weighted, ignored, ragged, single):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    dtype = np.float32 if single else np.float64
    y, target = (3 * rng.normal(size=shape)).astype(dtype), rng.integers(0, shape[2], shape[:2])
    options = {"label_smoothing": smoothing}
    weight = rng.uniform(0.1, 2, shape[2]) if weighted else None
    if ignored:
        target[rng.random(shape[:2]) < 0.4] = -7
        options["ignore_index"] = -7
    lengths = rng.integers(0, shape[0] + 1, shape[1]) if ragged else None
    loss, dy = losses.cross_entropy(y, target, lengths, weight=weight, **options)
    theirs = target.copy()
    if ragged:
        theirs[np.arange(shape[0])[:, None] >= lengths] = options.get("ignore_index", -100)
    ty = torch.from_numpy(y.astype(np.float64)).requires_grad_()
    tloss = torch.nn.functional.cross_entropy(
        ty.reshape(-1, shape[2]), torch.from_numpy(theirs.reshape(-1)),
        weight=None if weight is None else torch.from_numpy(weight), **options,
    )  # fmt: skip
    if torch.isnan(tloss):  # nothing counts: torch divides by zero, we say 0
        assert loss == 0
        assert not dy.any()
        return
    tloss.backward()
    tolerance = 1e-5 if single else 1e-10
    assert loss == pytest.approx(float(tloss.detach()), rel=tolerance, abs=1e-12)
    np.testing.assert_allclose(dy, ty.grad.numpy(), rtol=tolerance, atol=tolerance / 10)
    assert dy.dtype == dtype


def test_gradients_are_those_of_the_values():
    rng = np.random.default_rng(0)
    y, target, classes = rng.normal(size=(3, 2, 4)), rng.normal(size=(3, 2, 4)), rng.integers(0, 4, (3, 2))
    for f in (
        lambda a: losses.mse(a, target, [3, 1]),
        lambda a: losses.cross_entropy(a, classes, [3, 1], label_smoothing=0.2, weight=[1, 2, 0.5, 0]),
    ):
        np.testing.assert_allclose(f(y)[1], numeric(lambda a, f=f: f(a)[0], y), rtol=1e-6, atol=1e-9)


def test_extreme_logits():
    loss, dy = losses.cross_entropy(np.array([[1e4, -1e4]], np.float32), [1])
    assert loss == 2e4
    np.testing.assert_allclose(dy, [[1, -1]])


Y = np.zeros((3, 2, 4))


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: losses.mse(Y.tolist(), Y), TypeError, "y must be a NumPy array"),
        (lambda: losses.mse(Y.astype(int), Y), TypeError, "y must be a NumPy array of float32 or float64, got int64"),
        (lambda: losses.mse(Y, Y[0]), ValueError, r"target must have shape \(3, 2, 4\), got \(2, 4\)"),
        (lambda: losses.mse(Y, Y.astype(complex)), TypeError, "target must be real"),
        (lambda: losses.mse(Y, Y, [4, 1]), ValueError, "lengths must lie in 0..3"),
        (lambda: losses.mse(Y[0, 0], Y[0, 0], [1]), ValueError, "lengths must be None unless"),
        (lambda: losses.cross_entropy(Y, np.zeros((3, 2))), TypeError, "target must be integers"),
        (lambda: losses.cross_entropy(Y, np.zeros((3, 3), int)), ValueError, r"target must have shape \(3, 2\)"),
        (
            lambda: losses.cross_entropy(Y, np.full((3, 2), 4)),
            ValueError,
            r"target must lie in 0..3, or be ignore_index",
        ),
        (lambda: losses.cross_entropy(Y, np.full((3, 2), -1)), ValueError, "target must lie in"),
        (
            lambda: losses.cross_entropy(Y, np.zeros((3, 2), int), weight=[1, 2]),
            ValueError,
            r"weight must have shape \(4,\)",
        ),
        (
            lambda: losses.cross_entropy(Y, np.zeros((3, 2), int), weight=[1, 2, np.nan, 1]),
            ValueError,
            "weight must be",
        ),
        (
            lambda: losses.cross_entropy(Y, np.zeros((3, 2), int), label_smoothing=2),
            ValueError,
            "label_smoothing must be",
        ),
        (lambda: losses.mae(Y, Y, batch_first=1), TypeError, "batch_first must be True or False"),
        (lambda: losses.mae(Y, Y[0]), ValueError, "target must have shape"),
        (lambda: losses.huber(Y, Y, delta=0), ValueError, "delta must be a finite number > 0, got 0"),
        (lambda: losses.huber(Y, Y, delta="a"), TypeError, "delta must be a real number"),
        (lambda: losses.bce_with_logits(Y, Y + 2), ValueError, "target must lie in 0..1"),
        (lambda: losses.bce_with_logits(Y, Y - 0.01), ValueError, "target must lie in 0..1"),
        (lambda: losses.bce_with_logits(Y, Y * np.nan), ValueError, "target must lie in 0..1"),
        (lambda: losses.bce_with_logits(Y, Y, weight=[1, 2]), ValueError, r"weight must broadcast to .* got \(2,\)"),
        (lambda: losses.bce_with_logits(Y, Y, pos_weight=-1), ValueError, "pos_weight must be finite and >= 0"),
        (lambda: losses.bce_with_logits(Y, Y, pos_weight=1j), TypeError, "pos_weight must be real numbers"),
        (lambda: losses.cross_entropy(Y[..., :0], np.zeros((3, 2), int)), ValueError, "y must have shape"),
    ],
)
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_logits_of_minus_infinity():
    """Classes that are ruled out: torch's value and gradient, as long as the target isn't one of them."""
    torch = pytest.importorskip("torch")
    for y in ([[0.0, -np.inf, 1.0]], [[1e308, -1e308, 0.0]], [[-np.inf, -np.inf, 3.0], [1.0, 2.0, 3.0]]):
        y = np.array(y)
        target = [int(np.argmax(row)) for row in y]
        loss, dy = losses.cross_entropy(y, target)
        given = torch.tensor(y, requires_grad=True)
        wanted = torch.nn.functional.cross_entropy(given, torch.tensor(target))
        wanted.backward()
        np.testing.assert_allclose(loss, float(wanted.detach()), rtol=1e-14)
        np.testing.assert_allclose(dy, given.grad.numpy(), rtol=1e-14)


@pytest.mark.parametrize("index", [None, 0.5, "a", [0, 1]])
def test_ignore_index_is_an_integer(index):
    with pytest.raises(TypeError, match="ignore_index must be an integer"):
        losses.cross_entropy(np.zeros((2, 3)), [0, 1], ignore_index=index)


def test_axes_of_losses():
    loss, dy = losses.mse(np.zeros((3, 2)), np.ones((3, 2)), [3, 1])
    assert loss == 1
    assert dy.shape == (3, 2)
    assert losses.mse(np.array(3.0), 1.0)[1].shape == ()
    with pytest.raises(ValueError, match="lengths must be None unless y has 3 axes"):
        losses.cross_entropy(np.zeros((3, 2)), [0, 1, 0], [3, 1])
    with pytest.raises(TypeError, match="weight must be real numbers"):
        losses.cross_entropy(np.zeros((3, 2)), [0, 1, 0], weight=[1j, 1])


# All losses of numbers: (loss, reference, targets in 0..1).
NUMBERS = {
    "mse": (losses.mse, reference.square, False),
    "mae": (losses.mae, reference.absolute, False),
    "huber": (losses.huber, reference.huber, False),
    "bce_with_logits": (losses.bce_with_logits, reference.binary, True),
}
BOUND = {np.float32: 1e-6, np.float64: 1e-12}
NAMES, DTYPES = pytest.mark.parametrize("name", NUMBERS), pytest.mark.parametrize("dtype", BOUND)


def numbers(rng, shape, unit):
    y = 2 * rng.normal(size=shape)
    return y, rng.choice([0.0, 0.3, 1.0], size=shape) if unit else 2 * rng.normal(size=shape)


def assert_near(found, wanted, dtype):
    """A loss and its gradient, relative to the largest."""
    (loss, dy), (value, slope) = found, wanted
    assert abs(loss - value) <= BOUND[dtype] * abs(value)
    assert dy.dtype == dtype
    assert np.abs(dy - slope).max(initial=0) <= BOUND[dtype] * np.abs(slope).max(initial=0)


@NAMES
@DTYPES
@given(SHAPES, st.integers(0, 9999), st.data())
def test_losses_of_numbers(name, dtype, shape, seed, data):
    """The reference, whatever stands in the padding, for any layout."""
    f, formula, unit = NUMBERS[name]
    rng = np.random.default_rng(seed)
    y, target = (a.astype(dtype) for a in numbers(rng, shape, unit))
    lengths, options = rng.integers(0, shape[0] + 1, shape[1]), {}
    if name == "huber":
        options["delta"] = data.draw(st.sampled_from([0.5, 1.0, 3.0]))
    if unit and data.draw(st.booleans()):
        options["pos_weight"] = rng.uniform(0, 3, shape[2]).astype(dtype)
        options["weight"] = rng.uniform(0, 3, (shape[1], 1)).astype(dtype)
    wanted = reference.mean(formula, y, target, lengths, **options)
    past = np.arange(shape[0])[:, None] >= lengths
    y[past] = target[past] = np.nan
    loss, dy = f(y, target, lengths, **options)
    assert_near((loss, dy), wanted, dtype)
    assert not dy[past].any()
    for other in (np.asfortranarray(y), y[::-1].copy()[::-1], np.repeat(y, 2, 2)[..., ::2]):
        value, slope = f(other, target, lengths, **options)
        assert value == loss
        np.testing.assert_array_equal(slope, dy)
    if "weight" in options:
        options["weight"] = options["weight"][:, None]
    by_sequence = (y.swapaxes(0, 1), target.swapaxes(0, 1), lengths)
    if "weight" not in options:
        value, slope = f(*by_sequence, batch_first=True, **options)
        np.testing.assert_array_equal(slope.swapaxes(0, 1), dy)
        assert value == loss


@NAMES
@DTYPES
def test_losses_of_numbers_agree_with_torch(name, dtype):
    torch = pytest.importorskip("torch")
    f, _, unit = NUMBERS[name]
    theirs = {"mse": "MSELoss", "mae": "L1Loss", "huber": "HuberLoss", "bce_with_logits": "BCEWithLogitsLoss"}[name]
    rng = np.random.default_rng(0)
    for shape in ((7,), (4, 3), (5, 3, 6), (2, 3, 4, 5)):
        y, target = (a.astype(dtype) for a in numbers(rng, shape, unit))
        weights = {"weight": rng.uniform(0, 3, shape), "pos_weight": rng.uniform(0, 3, shape[-1])}
        for options in {"huber": [{}, {"delta": 0.7}], "bce_with_logits": [{}, weights]}.get(name, [{}]):
            options = {n: v.astype(dtype) if isinstance(v, np.ndarray) else v for n, v in options.items()}
            given_y = torch.from_numpy(y.astype(np.float64)).requires_grad_()
            wide = {n: torch.from_numpy(v.astype(np.float64)) if isinstance(v, np.ndarray) else v
                    for n, v in options.items()}  # fmt: skip
            wanted = getattr(torch.nn, theirs)(**wide)(given_y, torch.from_numpy(target.astype(np.float64)))
            wanted.backward()
            assert_near(f(y, target, **options), (float(wanted.detach()), given_y.grad.numpy()), dtype)


@NAMES
def test_gradients_of_numbers_are_those_of_the_values(name):
    f, _, unit = NUMBERS[name]
    y, target = numbers(np.random.default_rng(1), (3, 2, 4), unit)
    np.testing.assert_allclose(
        f(y, target, [3, 1])[1], numeric(lambda a: f(a, target, [3, 1])[0], y), rtol=1e-6, atol=1e-9
    )


@NAMES
def test_nan_that_counts_is_seen(name):
    """A loss that is undefined must not look like one."""
    f, _, unit = NUMBERS[name]
    y, target = numbers(np.random.default_rng(2), (3, 2, 4), unit)
    y[1, 0, 2] = np.nan
    loss, dy = f(y, target, [2, 3])
    assert np.isnan(loss)
    assert np.isnan(dy[1, 0, 2])
    assert np.isnan(dy).sum() == 1


def test_kinks():
    """|d| = 0 has slope 0; Huber's pieces meet in value and slope."""
    assert losses.mae(np.zeros(2), [0, 1])[1].tolist() == [0, -0.5]
    for end in (1 - 1e-12, 1.0, 1 + 1e-12):
        loss, dy = losses.huber(np.array([end, -end]), [0, 0])
        assert loss == pytest.approx(0.5)
        assert dy == pytest.approx([0.5, -0.5])


@DTYPES
def test_binary_logits_of_any_size(dtype):
    """No overflow, no lost digits, and no 0 * inf."""
    big = np.array([80.0, -80.0, 1e4, -1e4, np.inf, -np.inf], dtype)
    loss, dy = losses.bce_with_logits(big, big > 0)
    assert loss == pytest.approx(2 * np.exp(-80) / 6, rel=1e-5)
    assert dy[:2] == pytest.approx(np.array([-1, 1]) * np.exp(-80) / 6, rel=1e-5)
    assert not dy[2:].any()
    loss, dy = losses.bce_with_logits(big[:4], big[:4] < 0)
    assert loss == pytest.approx((80 + 1e4) / 2)
    assert dy.tolist() == [0.25, -0.25, 0.25, -0.25]
    assert losses.bce_with_logits(big[4:], [0.0, 1.0])[0] == np.inf


@DTYPES
@given(SHAPES, st.integers(0, 9999), st.booleans(), st.booleans(), st.sampled_from([0.0, 0.1, 1.0]))
def test_cross_entropy(dtype, shape, seed, weighted, ignored, smoothing):
    """The reference, whatever stands in the padding, for any layout and any number of classes."""
    rng = np.random.default_rng(seed)
    T, B, classes = shape[0], shape[1], int(rng.integers(1, 70))
    y, target = (3 * rng.normal(size=(T, B, classes))).astype(dtype), rng.integers(0, classes, (T, B))
    lengths, options = rng.integers(0, T + 1, B), {"label_smoothing": smoothing}
    if weighted:
        options["weight"] = rng.integers(0, 3, classes) / 2
    if ignored:
        target[rng.random((T, B)) < 0.3] = options["ignore_index"] = int(rng.integers(-2, classes))
    wanted = reference.cross_entropy(y, target, lengths, **options)
    past = np.arange(T)[:, None] >= lengths
    y[past], target[past] = np.nan, 10**6
    loss, dy = losses.cross_entropy(y, target, lengths, **options)
    assert abs(loss - wanted[0]) <= BOUND[dtype] * max(1, wanted[0])
    assert np.abs(dy - wanted[1]).max(initial=0) <= BOUND[dtype] * max(1, np.abs(wanted[1]).max(initial=0))
    assert not dy[past].any()
    read_only = np.repeat(y, 2, 2)[..., ::2]
    read_only.flags.writeable = False
    for other in (np.asfortranarray(y), y[::-1].copy()[::-1], read_only):
        value, slope = losses.cross_entropy(other, target.astype(np.int32), lengths, **options)
        assert value == loss
        np.testing.assert_array_equal(slope, dy)
    flipped = (y.swapaxes(0, 1), target.swapaxes(0, 1), lengths)
    slope = losses.cross_entropy(*flipped, batch_first=True, **options)[1]
    np.testing.assert_allclose(slope.swapaxes(0, 1), dy, rtol=4 * np.finfo(dtype).eps, atol=0)


@DTYPES
def test_cross_entropy_of_many_classes(dtype):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    for N, classes in ((50, 60), (32, 9), (6, 30_000)):
        y, target = (4 * rng.normal(size=(N, classes))).astype(dtype), rng.integers(0, classes, N)
        for smoothing in (0.0, 0.1):
            theirs = torch.from_numpy(y.astype(np.float64)).requires_grad_()
            wanted = torch.nn.functional.cross_entropy(theirs, torch.from_numpy(target), label_smoothing=smoothing)
            wanted.backward()
            found = losses.cross_entropy(y, target, label_smoothing=smoothing)
            assert_near(found, (float(wanted.detach()), theirs.grad.numpy()), dtype)


@DTYPES
def test_a_confident_answer_keeps_its_digits(dtype):
    """1 - p of the target is a sum over the others, not a difference."""
    y = np.array([[30.0, 0.0, -1.0]], dtype)
    loss, dy = losses.cross_entropy(y, [0])
    e = np.exp([-30.0, -31.0])
    others = e / (1 + e.sum())
    assert loss == pytest.approx(np.log1p(e.sum()), rel=BOUND[dtype])
    assert dy[0] == pytest.approx([-others.sum(), *others], rel=BOUND[dtype], abs=0)


@DTYPES
def test_every_vector_width_gives_the_same_bits(dtype):
    rng = np.random.default_rng(4)
    for classes in (1, 2, 7, 15, 16, 17, 33, 60, 1000):
        y, target = (3 * rng.normal(size=(5, classes))).astype(dtype), rng.integers(0, classes, 5)
        results = []
        for width in isa.WIDTHS:
            with isa.use(width):
                results.append(losses.cross_entropy(y, target, label_smoothing=0.1))
        for loss, dy in results[1:]:
            assert loss == results[0][0]
            np.testing.assert_array_equal(dy, results[0][1])


def test_nan_and_unaligned_logits():
    y, target = np.random.default_rng(5).normal(size=(4, 3, 5)), np.zeros((4, 3), int)
    odd = np.empty(y.nbytes + 1, np.uint8)[1:].view(np.float64).reshape(y.shape)
    odd[...] = y
    np.testing.assert_array_equal(losses.cross_entropy(odd, target)[1], losses.cross_entropy(y, target)[1])
    np.testing.assert_array_equal(losses.huber(odd, y + 1)[1], losses.huber(y, y + 1)[1])
    y[2, 1, 3] = np.nan
    loss, dy = losses.cross_entropy(y, target)
    assert np.isnan(loss)
    assert np.isnan(dy[2, 1]).all()
    assert np.isnan(dy).sum() == 5


def test_targets_of_any_integers():
    y = np.random.default_rng(6).normal(size=(3, 4))
    loss, _ = losses.cross_entropy(y[:2], [1, 3])
    top = np.iinfo(np.uint64).max
    for target, index in (
        (np.array([1, 3, 255], np.uint8), 255), (np.array([1, 3, top], np.uint64), int(top)), ([1, 3, -(2**63)], -(2**63)),
    ):  # fmt: skip
        assert losses.cross_entropy(y, target, ignore_index=index)[0] == loss
        with pytest.raises(ValueError, match="target must lie in 0..3"):
            losses.cross_entropy(y, target)
    assert losses.cross_entropy(y[:2], [1, 3], ignore_index=10**30)[0] == loss


#: Rows that end at a page which can't be touched, and begin behind one: a slip ends the process.
GUARDED = """
import numpy as np
from nbrnn._cpu import isa
from nbrnn._loops import softmax
from tests.guard import Arena
lengths, ran = np.full(1, 2), 0
for dtype in (np.dtype(np.float32), np.dtype(np.float64)):
    for width in isa.WIDTHS:
        with isa.use(width):
            for classes in [*range(1, 40), 100, 257]:
                for at_end in (True, False):
                    y, dy = (Arena(2).array((2, 1, 1, classes), dtype, at_end) for _ in range(2))
                    y[...], dy[...] = np.linspace(-3, 3, y.size).reshape(y.shape), np.nan
                    for target in (0, classes - 1, -1):
                        goal = np.full((2, 1, 1), target)
                        fits, _ = softmax.run_cross_entropy(y, goal, lengths, np.ones(classes), 0.0, -1, dy)
                        assert fits and np.isfinite(dy).all()
                        ran += 1
print(ran)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs mprotect")
def test_no_row_is_read_or_written_past_its_ends():
    assert int(run(GUARDED)) == 2 * 4 * 41 * 2 * 3
