"""Connectionist temporal classification: against all alignments, differences, and torch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbrnn.losses import ctc
from tests.reference import alignments

BOUND = {np.float32: 1e-6, np.float64: 1e-12}


def random_labels(rng, most, classes, blank):
    others = [c for c in range(classes) if c != blank]
    return rng.choice(others, rng.integers(0, most + 1)) if others else np.empty(0, int)


def random_case(rng, T, B, classes, most, blank=0):
    """y, targets, lengths."""
    y = 3 * rng.normal(size=(T, B, classes))
    return y, [random_labels(rng, most, classes, blank) for _ in range(B)], rng.integers(0, T + 1, B)


def largest(a, b):
    """Largest difference, relative to the largest of b."""
    return np.abs(a - b).max(initial=0) / max(np.abs(b).max(initial=0), np.finfo(np.float64).tiny)


@given(st.integers(1, 5), st.integers(1, 3), st.integers(0, 9999), st.data())
def test_is_the_sum_over_all_alignments(T, classes, seed, data):
    rng = np.random.default_rng(seed)
    blank = data.draw(st.integers(0, classes - 1))
    y, targets, lengths = random_case(rng, T, 2, classes, 4, blank)
    loss, dy = ctc(y, targets, lengths, blank=blank)
    wanted, total = np.zeros_like(y), 0.0
    for b, (labels, n) in enumerate(zip(targets, lengths, strict=True)):
        value, slope = alignments.ctc(y[:n, b], labels, blank)
        total += value / max(1, len(labels)) / 2
        wanted[:n, b] = slope / max(1, len(labels)) / 2
    assert loss == pytest.approx(total, rel=1e-12, abs=1e-14)
    np.testing.assert_allclose(dy, wanted, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_agrees_with_torch(dtype):
    """500 ragged cases; in many of them some sequence is too short for its labels."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    impossible = 0
    for case in range(500):
        T, B, classes = rng.integers(1, 25), rng.integers(1, 6), rng.integers(2, 9)
        blank = int(rng.integers(classes)) if case % 3 == 0 else 0
        y, targets, lengths = random_case(rng, T, B, classes, min(T, 12), blank)
        y, zero_infinity = y.astype(dtype), bool(case % 2)
        loss, dy = ctc(y, targets, lengths, blank=blank, zero_infinity=zero_infinity)
        theirs = torch.from_numpy(y.astype(np.float64)).requires_grad_()
        each = torch.nn.functional.ctc_loss(
            torch.log_softmax(theirs, -1), torch.from_numpy(np.concatenate(targets).astype(np.int64)),
            torch.from_numpy(lengths), torch.tensor([len(own) for own in targets]), blank, "none", zero_infinity,
        )  # fmt: skip
        counts = torch.tensor([max(1, len(own)) for own in targets])
        (each / counts).mean().backward()
        wanted, slope = float((each / counts).mean().detach()), theirs.grad.numpy()
        if wanted == np.inf:  # torch's gradient is NaN there
            impossible += 1
            slope[:, np.isinf(each.detach().numpy())] = 0
            assert loss == np.inf
        else:
            assert abs(loss - wanted) <= BOUND[dtype] * abs(wanted), case
        assert dy.dtype == dtype
        assert np.isfinite(dy).all()
        assert largest(dy, slope) <= BOUND[dtype], case
    assert impossible > 50


def test_gradient_is_that_of_the_value():
    rng = np.random.default_rng(1)
    y, targets, lengths = rng.normal(size=(7, 3, 4)), [[1, 1, 3], [2], []], [7, 5, 3]
    _, dy = ctc(y, targets, lengths)
    for index in np.ndindex(y.shape):
        step = np.zeros_like(y)
        step[index] = 1e-6
        slope = (ctc(y + step, targets, lengths)[0] - ctc(y - step, targets, lengths)[0]) / 2e-6
        assert dy[index] == pytest.approx(slope, rel=1e-6, abs=1e-9)


@given(st.integers(0, 8), st.integers(1, 4), st.integers(1, 20), st.integers(0, 9999), st.booleans())
def test_properties(T, B, classes, seed, single):
    """Padding is inert; the layout, the batch's axis, and the order of sequences change no bit."""
    rng = np.random.default_rng(seed)
    y, targets, lengths = random_case(rng, T, B, classes, 4)
    y = y.astype(np.float32 if single else np.float64)
    past = np.arange(T)[:, None] >= lengths
    y[past] = 0
    options = {"zero_infinity": True}
    loss, dy = ctc(y, targets, lengths, **options)
    assert not dy[past].any()
    np.testing.assert_allclose(dy.sum(-1), 0, atol=1e-6 if single else 1e-14)
    padded = y.copy()
    padded[past] = np.nan
    table = np.full((B, 6), -5)
    for row, own in zip(table, targets, strict=True):
        row[: len(own)] = own
    counts = [len(own) for own in targets]
    order = rng.permutation(B)
    for other, (value, slope) in {
        "padding": ctc(padded, targets, lengths, **options),
        "a table of labels": ctc(padded, table, lengths, counts, **options),
        "layout": ctc(np.asfortranarray(padded), targets, lengths, **options),
        "strides": ctc(np.repeat(padded, 2, 2)[..., ::2], targets, lengths, **options),
    }.items():
        assert value == loss, other
        np.testing.assert_array_equal(slope, dy, other)
    value, slope = ctc(padded.swapaxes(0, 1), targets, lengths, batch_first=True, **options)
    assert value == loss
    np.testing.assert_array_equal(slope.swapaxes(0, 1), dy)
    value, slope = ctc(padded[:, order], [targets[b] for b in order], lengths[order], **options)
    assert value == loss
    np.testing.assert_array_equal(slope, dy[:, order])


def test_what_has_no_alignment():
    y = np.random.default_rng(2).normal(size=(3, 3, 4)).astype(np.float32)
    targets = [[1, 1], [2, 2, 3], []]  # three steps; four would be needed; nothing but blanks
    loss, dy = ctc(y, targets)
    assert loss == np.inf
    assert not dy[:, 1].any()
    zeroed, same = ctc(y, targets, zero_infinity=True)
    np.testing.assert_array_equal(dy, same)
    apart = [ctc(y[:, b : b + 1], targets[b : b + 1])[0] for b in (0, 2)]
    assert zeroed == pytest.approx(sum(apart) / 3)
    assert apart[1] == pytest.approx(-alignments.log_softmax(y[:, 2])[:, 0].sum())
    # No steps: certain for no labels, impossible for one.
    assert ctc(y[:0], [[], [], []])[0] == 0
    assert ctc(y[:0], [[], [1], []])[0] == np.inf
    assert ctc(y, [[], [1], [2]], [0, 0, 0], zero_infinity=True)[0] == 0
    assert ctc(y[:, :0], [])[0] == 0
    assert ctc(np.zeros((4, 1, 1)), [[]])[0] == 0


def test_logits_of_minus_infinity_and_nan():
    y = np.random.default_rng(3).normal(size=(4, 2, 3))
    ruled_out = y.copy()
    ruled_out[:, 0, 1] = -np.inf
    loss, dy = ctc(ruled_out, [[2], [1]])
    wanted, _ = ctc(np.delete(ruled_out[:, :1], 1, 2), [[1]])
    assert loss == pytest.approx((wanted + ctc(y[:, 1:], [[1]])[0]) / 2)
    assert not dy[:, 0, 1].any()
    assert np.isfinite(dy).all()
    loss, dy = ctc(ruled_out, [[1], [1]])  # each alignment of the first has a step of probability 0
    assert loss == np.inf
    assert not dy[:, 0].any()
    assert dy[:, 1].any()
    for row in ([np.nan, 0, 0], [np.inf, 0, 0], [-np.inf] * 3):  # no softmax: an undefined loss must be seen
        broken = y.copy()
        broken[2, 0] = row
        loss, dy = ctc(broken, [[1], [1]])
        assert np.isnan(loss)
        assert np.isnan(dy[:, 0]).all()
        assert np.isfinite(dy[:, 1]).all()


def test_long_sequences():
    """10^4 steps: float32 logits give what float64 arithmetic makes of the same numbers."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(4)
    y, labels = (2 * rng.normal(size=(10_000, 1, 12))).astype(np.float32), rng.integers(1, 12, 200)
    loss, dy = ctc(y, [labels])
    exact, slope = ctc(y.astype(np.float64), [labels])
    assert abs(loss - exact) <= 1e-6 * exact
    assert largest(dy, slope) <= 1e-6
    theirs = torch.from_numpy(y.astype(np.float64)).requires_grad_()
    wanted = torch.nn.functional.ctc_loss(
        torch.log_softmax(theirs, -1), torch.from_numpy(labels)[None], torch.tensor([10_000]), torch.tensor([200])
    )
    wanted.backward()
    assert exact == pytest.approx(float(wanted.detach()), rel=1e-12)
    assert largest(slope, theirs.grad.numpy()) <= 1e-9  # torch's alphas grow to -10^5, and lose digits


def test_a_confident_network_keeps_its_digits():
    """The gradient is a difference of two numbers near 1: in float32 it has as many digits as its own size."""
    path = [0, 1, 1, 0, 2, 0, 0, 2]
    y = np.full((8, 1, 4), -6, np.float32)
    y[np.arange(8), 0, path] = 6.5
    y += np.random.default_rng(5).normal(size=y.shape).astype(np.float32) / 8
    dy, slope = ctc(y, [[1, 2, 2]])[1], ctc(y.astype(np.float64), [[1, 2, 2]])[1]
    assert np.abs(slope).max() < 1e-4
    assert largest(dy, slope) <= 1e-6


Y = np.zeros((5, 2, 4))


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: ctc(Y.tolist(), [[1], [1]]), TypeError, "y must be a NumPy array"),
        (lambda: ctc(Y[0], [[1], [1]]), ValueError, r"y must have shape \(T, B, classes\), got \(2, 4\)"),
        (lambda: ctc(Y, [[1]]), ValueError, "targets must have one entry for each of the 2 sequences, got 1"),
        (lambda: ctc(Y, 3), TypeError, "targets must be a sequence of arrays of integers, got int"),
        (lambda: ctc(Y, [[1], [0]]), ValueError, r"targets must lie in 0..3, without the blank \(0\), got 0 for sequence 1"),
        (lambda: ctc(Y, [[4], [1]]), ValueError, "targets must lie in 0..3, .* got 4 for sequence 0"),
        (lambda: ctc(Y, [[-1], [1]]), ValueError, "targets must lie in"),
        (lambda: ctc(Y, [[1], [2]], blank=2), ValueError, r"without the blank \(2\), got 2 for sequence 1"),
        (lambda: ctc(Y, [[1], [1]], blank=4), ValueError, "blank must be a class, 0..3, got 4"),
        (lambda: ctc(Y, [[1], [1]], blank=0.5), TypeError, "blank must be an integer"),
        (lambda: ctc(Y, [[1.0], [1]]), TypeError, r"targets\[0\] must be integers"),
        (lambda: ctc(Y, [[[1]], [[1]]]), ValueError, r"targets\[0\] must have shape \(S,\)"),
        (lambda: ctc(Y, [[1], [1]], [6, 1]), ValueError, "lengths must lie in 0..5"),
        (lambda: ctc(Y, [[1], [1]], None, [2, 1]), ValueError, r"target_lengths must lie in 0..1, got 1..2"),
        (lambda: ctc(Y, [1, 2], None, [1, 1]), ValueError, "targets .with target_lengths. must have shape"),
        (lambda: ctc(Y, [[1], [1]], None, [1]), ValueError, r"target_lengths must have shape \(2,\)"),
        (lambda: ctc(Y, [[1], [1]], None, [1, 0.5]), TypeError, "target_lengths must be integers"),
        (lambda: ctc(Y, [[1], [1]], zero_infinity=1), TypeError, "zero_infinity must be True or False"),
        (lambda: ctc(Y, [[1], [1]], batch_first=1), TypeError, "batch_first must be True or False"),
        (lambda: ctc(Y[..., :0], [[], []]), ValueError, "blank must be a class"),
    ],
)  # fmt: skip
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words):
        call()
