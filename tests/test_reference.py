"""Layers against float64 loops: outputs, states and every gradient, over all flags."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nbrnn
from tests.cases import DTYPES, KINDS, Case, cases, examples
from tests.tolerances import assert_close, error


def compare(case, key=None, rng=None):
    reference = case.reference()
    y, h, c, trace = reference.forward(case.x, case.h, case.c, case.lengths, case.resets, key)
    dx, dh, dc, gradients = reference.backward(trace, case.dy, case.dh, case.dc)
    got_y, got_h, got_c, grads = case.train(rng=rng)
    got_dh, got_dc = case.split(grads.state)
    pairs = {"y": (got_y, y), "h": (got_h, h), "dx": (case.ours(grads.x), dx), "dh": (got_dh, dh)}
    if case.has_c:
        pairs |= {"c": (got_c, c), "dc": (got_dc, dc)}
    pairs |= {name: (grads.params[name], gradients[name]) for name in grads.params}
    if key is None:
        inferred, state = case.layer(case.user(case.x), **case.arguments())
        pairs |= {"inferred y": (case.ours(inferred), y), "inferred h": (case.split(state)[0], h)}
    for what, (a, b) in pairs.items():
        assert_close(a, b, case.dtype, case.T, f"{what} of {case}")


@given(cases())
@examples(2.5)
def test_agrees_with_reference(case):
    compare(case)


@given(
    cases(
        recurrent_dropout=st.sampled_from([0.1, 0.5, 1.0]), dropout=st.sampled_from([0.0, 0.4]), T=st.integers(0, 6),
        B=st.integers(0, 5), H=st.integers(1, 33), I=st.integers(1, 5),
    )
)  # fmt: skip
@examples(1)
def test_recurrent_dropout_agrees_with_reference(case):
    low, high = np.random.default_rng(case.seed + 1).integers(0, 2**32, 2)
    compare(case, (int(low), int(high)), np.random.default_rng(case.seed + 1))


@given(
    cases(
        L=st.integers(2, 3), dropout=st.sampled_from([0.1, 0.5, 1.0]), T=st.integers(1, 5), B=st.integers(1, 4),
        H=st.integers(1, 9), I=st.integers(1, 5),
    )
)  # fmt: skip
@examples(0.7)
def test_dropout_agrees_with_reference(case):
    # The key is the one thing drawn: two words below 2^32.
    low, high = np.random.default_rng(case.seed + 1).integers(0, 2**32, 2)
    compare(case, (int(low), int(high)), np.random.default_rng(case.seed + 1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_longer_sequences(kind, dtype):
    """Enough rows for several chunks of the weight gradients, enough units for several blocks."""
    case = Case(kind, dtype, T=120, B=7, I=5, H=37, P=11, L=2, bidirectional=True, ragged=True, cut=True, stateful=True)
    case.resets = np.random.default_rng(0).random((case.T, case.B)) < 0.02
    compare(case)


@pytest.mark.parametrize("every", [None, 1, "sqrt"])
def test_gradients_keep_their_digits_over_many_steps(every):
    """Sums over 200,000 steps in float32: no further from float64 than a step's own rounding."""
    layer, exact = nbrnn.RNN(1, 4, rng=0), nbrnn.RNN(1, 4, dtype="float64")
    exact.flat = layer.flat
    steps = 20_000 if every == 1 else 200_000
    grads = []
    for net in (layer, exact):
        x = np.ones((steps, 1, 1), net.dtype)
        y, _, tape = net.forward(x, checkpoint=every)
        grads.append(net.backward(tape, np.full_like(y, 0.1)).flat)
    assert error(*grads) < 1e-5
