"""Gradients against differences of the loss itself, in float64, for every input of every cell."""

import numpy as np
import pytest

from tests.cases import KINDS, Case

STEP = 1e-6


def loss(case, x, h, c):
    given = dict(state=case.state(h, c), lengths=case.lengths, resets=case.resets)
    if case.recurrent_dropout > 0:
        y, state, _ = case.layer.forward(x, **given, rng=case.seed)
    else:
        y, state = case.layer(x, **given)
    after_h, after_c = case.split(state)
    total = (y * case.dy).sum() + (after_h * case.dh).sum()
    return total + (0 if after_c is None else (after_c * case.dc).sum())


def differences(f, a):
    """Central differences of f(a) for each number of a."""
    result = np.zeros_like(a)
    for index in np.ndindex(a.shape):
        shifted = a.copy()
        shifted[index] = a[index] + STEP
        above = f(shifted)
        shifted[index] = a[index] - STEP
        result[index] = (above - f(shifted)) / (2 * STEP)
    return result


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_gradient(kind, bidirectional):
    check(kind, bidirectional)


@pytest.mark.parametrize("kind", KINDS)
def test_every_gradient_with_recurrent_dropout(kind):
    check(kind, True, recurrent_dropout=0.4, dropout=0.2)


def check(kind, bidirectional, **more):
    case = Case(
        kind, "float64", T=5, B=3, I=2, H=4, P=2, L=2, bidirectional=bidirectional, ragged=True, cut=True,
        stateful=True, seed=11, **more,
    )  # fmt: skip
    _, _, _, grads = case.train(rng=case.seed)
    dh, dc = case.split(grads.state)
    flat = case.layer.flat.copy()

    def of_parameters(vector):
        case.layer.flat = vector
        value = loss(case, case.x, case.h, case.c)
        case.layer.flat = flat
        return value

    expected = {
        "x": (grads.x, differences(lambda a: loss(case, a, case.h, case.c), case.x)),
        "h": (dh, differences(lambda a: loss(case, case.x, a, case.c), case.h)),
        "parameters": (grads.flat, differences(of_parameters, flat)),
    }
    if case.has_c:
        expected["c"] = (dc, differences(lambda a: loss(case, case.x, case.h, a), case.c))
    for name, (got, wanted) in expected.items():
        assert np.abs(wanted).max() > 0.01
        np.testing.assert_allclose(got, wanted, rtol=1e-7, atol=2e-8, err_msg=name)
