"""Losses: values and gradients, against torch and differences."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbrnn import losses


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
