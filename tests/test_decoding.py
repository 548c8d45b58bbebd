"""Labels from outputs: greedy, and beam search against all alignments and against dictionaries."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbrnn import decoding, losses
from tests.reference import alignments


def same(found, wanted):
    for (labels, log_p), (others, other) in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(labels, others)
        assert log_p == other


@given(st.integers(0, 9), st.integers(0, 4), st.integers(1, 5), st.integers(0, 9999), st.booleans(), st.data())
def test_greedy_takes_the_best_of_each_step(T, B, classes, seed, batch_first, data):
    rng = np.random.default_rng(seed)
    y, lengths, blank = (
        rng.normal(size=(T, B, classes)),
        rng.integers(0, T + 1, B),
        data.draw(st.integers(0, classes - 1)),
    )
    y[np.arange(T)[:, None] >= lengths] = np.nan
    given_y = y.swapaxes(0, 1) if batch_first else y
    found = decoding.ctc_greedy(given_y, lengths, blank=blank, batch_first=batch_first)
    assert len(found) == B
    for b, labels in enumerate(found):
        assert labels.dtype == np.int64
        assert tuple(labels) == alignments.labels_of(y[: lengths[b], b].argmax(-1), blank)


@given(st.integers(0, 6), st.integers(1, 3), st.integers(0, 9999), st.booleans(), st.data())
def test_a_beam_for_all_prefixes_is_exact(T, classes, seed, single, data):
    rng = np.random.default_rng(seed)
    blank = data.draw(st.integers(0, classes - 1))
    y = (2 * rng.normal(size=(T, 1, classes))).astype(np.float32 if single else np.float64)
    ((labels, log_p),) = decoding.ctc_beam(y, beam=10**9, blank=blank)
    everything = alignments.probabilities(y[:, 0], blank)
    tolerance = 1e-6 if single else 1e-12
    assert log_p == pytest.approx(max(everything.values()), rel=tolerance, abs=tolerance)
    assert everything[tuple(labels)] == pytest.approx(log_p, rel=tolerance, abs=tolerance)
    loss, _ = losses.ctc(y, [labels], blank=blank)
    assert log_p == pytest.approx(-loss * max(1, len(labels)), rel=tolerance, abs=tolerance)


@given(st.integers(1, 25), st.integers(2, 6), st.integers(1, 8), st.integers(0, 9999), st.data())
def test_a_narrow_beam_is_that_of_the_plain_algorithm(T, classes, beam, seed, data):
    """Prefixes leave the beam, come back, and have descendants in it: the same as with dictionaries of prefixes."""
    rng = np.random.default_rng(seed)
    blank, y = data.draw(st.integers(0, classes - 1)), rng.normal(size=(T, 1, classes))
    ((labels, log_p),) = decoding.ctc_beam(y, beam=beam, blank=blank)
    wanted, other = alignments.beam_search(y[:, 0], beam, blank)
    assert tuple(labels) == wanted
    assert log_p == pytest.approx(other, rel=1e-12)
    exact = -losses.ctc(y, [labels], blank=blank)[0] * max(1, len(labels))
    assert log_p <= exact + 1e-9  # alignments may have been lost, never counted twice


@given(st.integers(0, 12), st.integers(1, 4), st.integers(0, 9999), st.booleans())
def test_sequences_by_themselves_and_padding(T, B, seed, single):
    rng = np.random.default_rng(seed)
    y, lengths = rng.normal(size=(T, B, 5)).astype(np.float32 if single else np.float64), rng.integers(0, T + 1, B)
    apart = [decoding.ctc_beam(y[:n, b : b + 1], beam=4)[0] for b, n in enumerate(lengths)]
    y[np.arange(T)[:, None] >= lengths] = np.nan
    same(decoding.ctc_beam(y, lengths, beam=4), apart)
    same(decoding.ctc_beam(np.asfortranarray(y), lengths, beam=4), apart)
    same(decoding.ctc_beam(y.swapaxes(0, 1), lengths, beam=4, batch_first=True), apart)


def test_a_sum_of_alignments_beats_the_best_one():
    y = np.log(np.array([[[0.6, 0.4]], [[0.6, 0.4]]]))
    assert decoding.ctc_greedy(y)[0].tolist() == []
    ((labels, log_p),) = decoding.ctc_beam(y)
    assert labels.tolist() == [1]
    assert np.exp(log_p) == pytest.approx(0.64)
    ((labels, log_p),) = decoding.ctc_beam(y[:0])
    assert labels.tolist() == []
    assert log_p == 0
    assert decoding.ctc_beam(y[:, :0]) == decoding.ctc_greedy(y[:, :0]) == []


def test_classes_that_are_ruled_out():
    """Logits of -inf: prefixes of probability 0 are no candidates."""
    y = np.full((4, 1, 3), -np.inf)
    y[np.arange(4), 0, [1, 1, 0, 1]] = 0
    ((labels, log_p),) = decoding.ctc_beam(y)
    assert labels.tolist() == [1, 1]
    assert log_p == 0
    assert decoding.ctc_greedy(y)[0].tolist() == [1, 1]


Y = np.zeros((5, 2, 4))
BROKEN = Y.copy()
BROKEN[3, 1, 2] = np.nan


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda f: f(Y.tolist()), TypeError, "y must be a NumPy array"),
        (lambda f: f(Y[0]), ValueError, r"y must have shape \(T, B, classes\)"),
        (lambda f: f(Y[0], batch_first=True), ValueError, r"y must have shape \(B, T, classes\)"),
        (lambda f: f(Y, [6, 1]), ValueError, "lengths must lie in 0..5"),
        (lambda f: f(Y, blank=-1), ValueError, "blank must be a class, 0..3, got -1"),
        (lambda f: f(Y, blank=None), TypeError, "blank must be an integer"),
        (lambda f: f(BROKEN), ValueError, "got such a step: 3 of sequence 1"),
    ],
)
@pytest.mark.parametrize("decode", [decoding.ctc_greedy, decoding.ctc_beam])
def test_bad_input(decode, call, error, words):
    with pytest.raises(error, match=words):
        call(decode)


def test_bad_beams():
    with pytest.raises(ValueError, match="beam must be >= 1, got 0"):
        decoding.ctc_beam(Y, beam=0)
    with pytest.raises(TypeError, match="beam must be an integer"):
        decoding.ctc_beam(Y, beam=1.5)
    with pytest.raises(MemoryError, match="ctc_beam for 50 steps needs"):
        decoding.ctc_beam(np.zeros((50, 1, 30)), beam=10**12)
    everywhere = np.full((2, 1, 3), -np.inf)
    with pytest.raises(ValueError, match="y must have a softmax in each step"):
        decoding.ctc_beam(everywhere)
