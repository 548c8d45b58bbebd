"""Diagnostics: each against the definition of what it says it shows."""

import copy
import dataclasses
import pickle
import sys
import types

import numpy as np
import pytest
from hypothesis import given

import nbrnn
from nbrnn import diagnostics, losses
from nbrnn._cells import Cell
from nbrnn._cells.ops import tanh
from nbrnn.diagnostics.probe import probed
from nbrnn.recurrent import Recurrent
from nbrnn.training import History
from tests.cases import KINDS, Case, cases, examples
from tests.tolerances import assert_close

same = np.testing.assert_array_equal
ALL = (*KINDS, "MGU")


def given_of(case):
    """What diagnostics take of the arguments of a call."""
    return {name: value for name, value in case.arguments().items() if name != "resets"}


# Gradient flow


def perturbed(case, x, where=None, change=0.0, of=0):
    """y of a stack, in loops over the reference's cells, with ``change`` added to h (or c) after one step."""
    stack = case.reference()
    lengths = np.full(case.B, case.T) if case.lengths is None else case.lengths
    y = np.zeros((case.T, case.B, case.D * case.K))
    for b in range(case.B):
        given = list(x[: lengths[b], b])
        for layer in range(case.L):
            gave = np.zeros((lengths[b], case.D * case.K))
            for d in range(case.D):
                unit = layer * case.D + d
                state = [case.h[unit, b], case.c[unit, b]]
                for t in range(lengths[b])[:: -1 if d else 1]:
                    state = list(stack.cell.forward(stack.weights[unit], given[t], *state)[:2])
                    if where == (unit, t, b):
                        state[of] = state[of] + change
                    gave[t, d * case.K : (d + 1) * case.K] = state[0]
            given = list(gave)
        y[: lengths[b], b] = given if len(given) else 0
    return y


def gradients(case, of, size):
    """dL/dh_t (or dL/dc_t) of L = sum(dy y), shape (U, T, B, size), by differences."""
    lengths = np.full(case.B, case.T) if case.lengths is None else case.lengths
    result = np.zeros((case.L * case.D, case.T, case.B, size))
    for unit, t, b, k in np.ndindex(result.shape):
        if t < lengths[b]:
            step = 1e-6 * np.eye(size)[k]
            above, below = (perturbed(case, case.x, (unit, t, b), sign * step, of) for sign in (1, -1))
            result[unit, t, b, k] = ((above - below) * case.dy).sum() / 2e-6
    return result


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", ALL)
def test_flow_is_what_a_small_change_of_h_does(kind, bidirectional):
    case = Case(kind, T=4, B=2, I=2, H=3, P=2, L=2, bidirectional=bidirectional, stateful=True, seed=3)
    case.lengths = np.array([4, 2])
    np.testing.assert_allclose(perturbed(case, case.x), case.layer(case.x, **given_of(case))[0], atol=1e-12)
    flow = diagnostics.gradient_flow(case.layer, case.x, dy=case.dy, **given_of(case))
    expected = gradients(case, 0, case.K)
    np.testing.assert_allclose(flow.per_sequence, np.linalg.norm(expected, axis=-1), rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(flow.norms, np.sqrt((expected**2).sum((-1, -2))), rtol=1e-7, atol=1e-8)
    assert (flow.per_sequence[:, 2:, 1] == 0).all()
    if case.has_c:
        expected = gradients(case, 1, case.H)
        np.testing.assert_allclose(flow.cell_norms, np.sqrt((expected**2).sum((-1, -2))), rtol=1e-7, atol=1e-8)
    else:
        assert np.isnan(flow.cell_norms).all()
    names = ["l0", "l0_reverse", "l1", "l1_reverse"] if bidirectional else ["l0", "l1"]
    assert flow.names == names
    assert flow.loss is None


@examples(0.5)
@given(case=cases(cut=False, checkpoint=None))
def test_a_layer_in_pieces_is_the_layer(case):
    """Forward and backward of the probe, which is what the flow is read from, and norms at both ends."""
    inside, (probe,) = probed(case.layer)
    y, state, tape = inside.forward(case.user(case.x), **given_of(case))
    grads = inside.backward(tape, case.user(case.dy), case.state(case.dh, case.dc))
    whole_y, whole_h, whole_c, whole = case.train()
    h, c = case.split(state)
    pairs = [(case.ours(y), whole_y), (h, whole_h), (grads.x, whole.x)]
    pairs += zip(case.split(grads.state), case.split(whole.state), strict=True)
    for a, b in [*pairs, (c, whole_c)]:
        if b is not None:
            assert a.dtype == case.dtype
            assert_close(a, b, case.dtype, case.T, "piece by piece")

    flow = diagnostics.gradient_flow(case.layer, case.user(case.x), dy=case.user(case.dy), **given_of(case))
    assert flow.norms.shape == (case.L * case.D, case.T)
    assert flow.per_sequence.shape == (case.L * case.D, case.T, case.B)
    if case.T and case.lengths is None:  # the top layer's last step gets dy alone
        top = np.linalg.norm(case.dy[-1, :, : case.K].astype(float), axis=-1)
        assert_close(flow.per_sequence[-case.D, -1], top, case.dtype, 1, "last step")
    assert len(repr(flow).splitlines()) == 2 + len(probe.names)


@pytest.mark.parametrize("batch_first", [False, True])
def test_flow_through_a_network_is_that_of_each_layer_with_what_the_others_say(batch_first):
    rng = np.random.default_rng(0)
    make = dict(batch_first=batch_first, dtype=np.float64)
    first = nbrnn.LSTM(2, 3, bidirectional=True, proj_size=2, dropout=0.5, num_layers=2, rng=1, **make)
    rest = [nbrnn.Dropout(0.9), nbrnn.Linear(4, 5, activation="tanh", dtype=np.float64, rng=2)]
    rest = [*rest, nbrnn.Sequential(nbrnn.GRU(5, 4, rng=3, **make), nbrnn.Linear(4, 1, dtype=np.float64, rng=4))]
    x, target, lengths = rng.normal(size=(6, 3, 2)), rng.normal(size=(6, 3, 1)), [6, 0, 3]
    turn = (lambda a: a.swapaxes(0, 1)) if batch_first else (lambda a: a)
    x[3:, 2] = np.nan

    between, _ = first(turn(x), lengths=lengths)
    upper = nbrnn.Sequential(*copy.deepcopy([rest[1], *rest[2]]))
    y, _, tape = upper.forward(between, lengths=lengths)
    value, dy = losses.mse(turn(y), target, lengths)
    grads = upper.backward(tape, turn(dy))
    below = diagnostics.gradient_flow(first, turn(x), dy=grads.x, lengths=lengths)
    above = diagnostics.gradient_flow(upper, between, dy=turn(dy), lengths=lengths)

    net = nbrnn.Sequential(first, *rest)
    flat, drawn = net.flat.copy(), copy.deepcopy(first._rng)
    flow = diagnostics.gradient_flow(net, turn(x), turn(target), losses.mse, lengths=lengths)
    assert flow.names == ["0.l0", "0.l0_reverse", "0.l1", "0.l1_reverse", "3.0.l0"]
    np.testing.assert_allclose(flow.norms, np.concatenate([below.norms, above.norms]), rtol=1e-12)
    np.testing.assert_allclose(flow.cell_norms[:4], below.cell_norms, rtol=1e-12)
    assert flow.loss == pytest.approx(value, rel=1e-12)
    assert flow.per_sequence[:, :, 1].max() == 0
    # Nothing has happened to the network itself.
    same(net.flat, flat)
    assert first._rng.random() == drawn.random()


def identity(scale, T, nonlinearity="tanh", dtype=np.float64, H=6):
    """An RNN whose recurrent weights are a rotation, times a number; x that leaves it at 0."""
    layer = nbrnn.RNN(1, H, nonlinearity=nonlinearity, bias=False, dtype=dtype, rng=0)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(H, H)))[0]
    layer.params["weight_hh_l0"] = scale * rotation
    dy = np.zeros((T, 2, H), dtype)
    dy[-1] = np.random.default_rng(2).normal(size=(2, H))
    return layer, np.zeros((T, 2, 1), dtype), dy


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.5])
def test_gradients_vanish_and_explode_by_the_size_of_the_weights(scale):
    layer, x, dy = identity(scale, 40)
    flow = diagnostics.gradient_flow(layer, x, dy=dy)
    expected = np.linalg.norm(dy[-1]) * scale ** np.arange(39, -1, -1.0)
    np.testing.assert_allclose(flow.norms[0], expected, rtol=1e-12)
    np.testing.assert_allclose(flow.factors, [scale], rtol=1e-12)


def test_norms_are_those_of_very_small_and_very_large_gradients():
    layer, x, dy = identity(0.5, 900)
    np.testing.assert_allclose(diagnostics.gradient_flow(layer, x, dy=dy).factors, [0.5], rtol=1e-9)
    layer, x, dy = identity(10.0, 60, dtype=np.float32)
    flow = diagnostics.gradient_flow(layer, x, dy=dy)
    assert not np.isfinite(flow.norms[0, 0])  # in float32 it has exploded
    np.testing.assert_allclose(flow.norms[0, -30], 1e29 * np.linalg.norm(dy[-1]), rtol=1e-4)
    assert "nan" in repr(flow)


def test_the_lstm_keeps_a_gradient_that_the_rnn_loses():
    """With an open forget gate; c is the way it goes."""
    rng = np.random.default_rng(0)
    x, dy = rng.normal(size=(100, 1, 2)), np.zeros((100, 1, 8))
    dy[-1] = 1
    rnn, lstm = (kind(2, 8, dtype=np.float64, rng=0) for kind in (nbrnn.RNN, nbrnn.LSTM))
    bias = np.zeros(32)
    bias[8:16] = 6
    lstm.params["bias_ih_l0"] = bias
    lost, kept = (diagnostics.gradient_flow(layer, x, dy=dy) for layer in (rnn, lstm))
    assert lost.norms[0, 0] < 1e-15 * lost.norms[0, -1]
    assert kept.norms[0, 0] > 1e-4 * kept.norms[0, -1]
    assert kept.cell_norms[0, 0] > 0.1 * kept.cell_norms[0, -2]


# Jacobian spectrum


def jacobian(case, t):
    """d(h, c)_T / d(h, c)_t by differences, with what is carried as one vector."""
    x, layer = case.user(case.x), case.layer
    _, middle = layer(x[: t + 1], case.state(case.h, case.c))
    parts = middle if case.has_c else (middle,)
    vector, shapes = np.concatenate([p.ravel() for p in parts]), [p.shape for p in parts]

    def after(v):
        cut = np.split(v, [np.prod(shapes[0])])
        given = tuple(p.reshape(s) for p, s in zip(cut, shapes, strict=False))
        _, end = layer(x[t + 1 :], given if case.has_c else given[0])
        return np.concatenate([p.ravel() for p in (end if case.has_c else (end,))])

    step = 1e-6
    return np.array([(after(vector + step * e) - after(vector - step * e)) / (2 * step) for e in np.eye(len(vector))]).T


@pytest.mark.parametrize("L", [1, 2])
@pytest.mark.parametrize("kind", ALL)
def test_spectrum_is_that_of_the_jacobian(kind, L):
    case = Case(kind, T=6, B=1, I=2, H=4, P=3, L=L, stateful=True, seed=2)
    seen = L * case.K
    whole, part = (
        diagnostics.jacobian_spectrum(case.layer, case.x, case.state(case.h, case.c), of=of) for of in ("state", "h")
    )
    for t in range(case.T):
        found = jacobian(case, t)
        for spectrum, expected in ((whole, found), (part, found[:seen, :seen])):
            expected = np.linalg.svd(expected, compute_uv=False)
            np.testing.assert_allclose(spectrum.singular_values[t], expected, rtol=1e-6, atol=1e-7 * expected[0])
    same(part.t, np.arange(6))
    same(part.log10[-1], np.zeros(seen))
    np.testing.assert_allclose(part.rates * 5, np.log(10) * part.log10[0])
    last = diagnostics.jacobian_spectrum(case.layer, case.x[:, 0], _unbatched(case), steps=2)
    same(last.t, [4, 5])
    np.testing.assert_allclose(last.log10, part.log10[-2:], atol=1e-9)


def _unbatched(case):
    return (case.h[:, 0], case.c[:, 0]) if case.has_c else case.h[:, 0]


def test_spectrum_of_a_linear_layer_is_that_of_powers_of_its_weights():
    layer = nbrnn.RNN(1, 5, nonlinearity="relu", dtype=np.float64, rng=0)
    W = np.random.default_rng(0).uniform(0, 0.5, (5, 5))  # all stays positive
    for name in layer.params:
        layer.params[name] = W if name == "weight_hh_l0" else np.ones(layer.params[name].shape)
    spectrum = diagnostics.jacobian_spectrum(layer, np.ones((8, 1)))
    for k in range(8):
        expected = np.linalg.svd(np.linalg.matrix_power(W, k), compute_uv=False)
        np.testing.assert_allclose(spectrum.singular_values[-1 - k], expected, rtol=1e-7, atol=1e-14 * expected[0])


def test_spectrum_keeps_every_digit_however_far_apart_the_values_are():
    """Against the product in numbers of 800 digits; floats hold 308 orders of magnitude."""
    mp = pytest.importorskip("mpmath").mp
    H, T = 4, 60
    layer = nbrnn.RNN(1, H, nonlinearity="relu", dtype=np.float64, rng=0)
    W = np.random.default_rng(0).normal(size=(H, H)) * [1, 1e-2, 1e-4, 1e-7]
    for name in layer.params:
        layer.params[name] = np.zeros(layer.params[name].shape)
    layer.params["weight_hh_l0"] = W / 10
    layer.params["bias_ih_l0"] = np.ones(H)
    x = np.zeros((T, 1))
    spectrum = diagnostics.jacobian_spectrum(layer, x)
    assert (layer(x)[0] > 0).all()
    with mp.workdps(800):
        expected = mp.svd_r(mp.matrix((W / 10).tolist()) ** (T - 1), compute_uv=False)
        logs = np.array([float(mp.log10(s)) for s in expected])
    assert logs[0] - logs[-1] > 340
    np.testing.assert_allclose(spectrum.log10[0], logs, atol=1e-9)
    assert "e-" in repr(spectrum)


def test_what_dies_is_gone():
    """A relu that is 0 passes nothing: the rank of the product is that of the units alive at every step, or less."""
    layer = nbrnn.RNN(3, 12, nonlinearity="relu", rng=3)
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    alive = (layer(x)[0] > 0).sum(1)
    spectrum = diagnostics.jacobian_spectrum(layer, x)
    ranks = np.isfinite(spectrum.log10).sum(1)
    assert ranks[-1] == 12
    assert (np.diff(ranks) >= 0).all()
    assert all(ranks[t] <= alive[t + 1 :].min(initial=12) for t in range(40))
    product = np.eye(12)
    for t in range(39, 30, -1):
        product = product @ (np.asarray(layer.params["weight_hh_l0"], float) * (layer(x)[0][t] > 0)[:, None])
        assert ranks[t - 1] == np.linalg.matrix_rank(product)


def test_a_layer_of_zeros_remembers_nothing():
    layer = nbrnn.RNN(1, 3, rng=0)
    layer.params["weight_hh_l0"] = np.zeros((3, 3))
    spectrum = diagnostics.jacobian_spectrum(layer, np.ones((4, 1), np.float32))
    same(spectrum.log10[:-1], np.full((3, 3), -np.inf))
    same(spectrum.rates, np.full(3, -np.inf))
    same(spectrum.singular_values[:-1], np.zeros((3, 3)))


@pytest.mark.parametrize("kind", ALL)
def test_spectrum_of_float32_and_axes(kind):
    case = Case(kind, "float32", T=20, B=1, I=2, H=6, P=3, batch_first=True, seed=4)
    double = Case(kind, "float64", T=20, B=1, I=2, H=6, P=3, seed=4)
    double.layer.flat = case.layer.flat
    a = diagnostics.jacobian_spectrum(case.layer, case.user(case.x), of="state")
    b = diagnostics.jacobian_spectrum(double.layer, case.x.astype(np.float64), of="state")
    assert a.log10.dtype == np.float64
    np.testing.assert_allclose(a.log10[:, 0], b.log10[:, 0], atol=1e-3)


def test_spectrum_says_where_it_isnt_finite():
    layer, x, _ = identity(1.0, 100, "relu")
    layer.params["weight_ih_l0"], layer.params["weight_hh_l0"] = np.ones((6, 1)), 1000 * np.ones((6, 6))
    spectrum = diagnostics.jacobian_spectrum(layer, x[:, 0] + 1e-100)
    np.testing.assert_allclose(spectrum.rates, [np.log(6000), *5 * [-np.inf]])
    assert spectrum.singular_values[0, 0] == np.inf  # the logarithm is 374
    layer = nbrnn.LSTM(1, 2, dtype=np.float64, rng=0)
    with pytest.raises(FloatingPointError, match="isn't finite"):
        diagnostics.jacobian_spectrum(layer, np.full((5, 1), np.nan))


# Saturation


def reference_gates(case):
    """{unit: {gate: (N, H)}} from the traces of the reference."""
    *_, trace = case.reference().forward(case.x, case.h, case.c, case.lengths)
    names = {
        "tanh": {2: "h"}, "relu": {2: "h"}, "GRU": {2: "r", 3: "z", 4: "n"}, "MGU": {2: "f", 3: "n"},
        "LSTM": {3: "i", 4: "f", 5: "g", 6: "o"}, "projected": {3: "i", 4: "f", 5: "g", 6: "o"},
    }[case.kind]  # fmt: skip
    act = {"tanh": np.tanh, "relu": lambda a: np.maximum(a, 0)}.get(case.kind, lambda a: a)
    found = {}
    for (unit, _, _), step in trace[-1].items():
        for at, gate in names.items():
            found.setdefault(unit, {}).setdefault(gate, []).append(act(step[at]))
    return {unit: {gate: np.array(a) for gate, a in gates.items()} for unit, gates in found.items()}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ALL)
def test_saturation_is_that_of_the_gates(kind, bias):
    case = Case(
        kind, T=9, B=4, I=3, H=5, P=3, L=2, bidirectional=True, bias=bias, ragged=True, stateful=True, seed=5
    )  # fmt: skip
    case.x *= 4
    layer = case.layer
    layer.flat = 2.5 * layer.flat
    result = diagnostics.saturation(layer, case.x, **given_of(case), low=0.2, high=0.7, bins=8)
    assert result.steps == case.lengths.sum()
    names, gates = ["l0", "l0_reverse", "l1", "l1_reverse"], reference_gates(case)
    assert list(result.gates) == [f"{names[u]}.{gate}" for u in range(4) for gate in gates[u]]
    seen = 0
    for u in range(4):
        for gate, values in gates[u].items():
            found = result[f"{names[u]}.{gate}"]
            kind_of = "relu" if kind == "relu" else "tanh" if gate in "hng" else "sigmoid"
            assert found.activation == kind_of
            low, high = {"sigmoid": (0.2, 0.7), "tanh": (-0.7, 0.7), "relu": (0, np.inf)}[kind_of]
            same(found.low, (values <= low).mean(0))
            same(found.high, (values > high).mean(0))
            same(found.histogram, np.histogram(values.clip(max=found.edges[-1]), found.edges)[0])
            assert found.histogram.sum() == values.size
            stuck = (values <= low).all(0) | (values > high).all(0)
            assert found.stuck == stuck.mean()
            seen += (found.low > 0).sum() + (found.high > 0).sum()
    assert seen > 15


def test_saturation_of_networks_and_of_nothing():
    net = nbrnn.Sequential(
        nbrnn.GRU(2, 3, batch_first=True, rng=0), nbrnn.Linear(3, 4, rng=0), nbrnn.LSTM(4, 2, batch_first=True, rng=0)
    )
    x = np.full((2, 5, 2), np.nan, np.float32)
    x[0], x[1, :2] = 1, 2
    result = diagnostics.saturation(net, x, [5, 2])
    assert list(result.gates) == ["0.l0.r", "0.l0.z", "0.l0.n", "2.l0.i", "2.l0.f", "2.l0.g", "2.l0.o"]
    assert (result.steps, result["2.l0.i"].histogram.sum()) == (7, 14)
    nothing = diagnostics.saturation(net, x, [0, 0])
    assert nothing.steps == 0
    same(nothing["0.l0.r"].low, np.zeros(3))


# Gradient checks


@pytest.mark.parametrize("kind", ALL)
def test_right_gradients_pass(kind):
    case = Case(kind, T=5, B=3, I=2, H=3, P=2, L=2, bidirectional=kind == "LSTM", ragged=True, stateful=True, seed=1)
    report = diagnostics.gradcheck(case.layer, case.x, **given_of(case), samples=8, rng=0)
    assert report, report
    assert report.error < 1e-7
    states = ["state[0]", "state[1]"] if case.has_c else ["state"]
    assert list(report.errors) == ["x", *states, *case.layer.params]
    assert "right" in repr(report)


@pytest.mark.parametrize("batch_first", [False, True])
def test_networks_with_losses_lengths_and_dropout_pass(batch_first):
    net = nbrnn.Sequential(
        nbrnn.GRU(2, 4, num_layers=2, dropout=0.3, batch_first=batch_first, rng=0),
        nbrnn.Dropout(0.5, rng=0),
        nbrnn.Sequential(nbrnn.Linear(4, 3, activation="sigmoid", rng=1)),
    )
    x = np.random.default_rng(0).normal(size=(5, 3, 2)).astype(np.float32)
    target = np.random.default_rng(0).integers(0, 3, (5, 3))
    if batch_first:
        x, target = x.swapaxes(0, 1), target.T
    flat = net.flat.copy()
    report = diagnostics.gradcheck(net, x, target, losses.cross_entropy, lengths=[5, 1, 3], samples=None, rng=0)
    assert report, report
    assert report.checked == x.size + 2 * 3 * 4 + net.flat.size
    same(net.flat, flat)
    # The same with the places drawn.
    a, b = (diagnostics.gradcheck(net, x, samples=3, rng=5) for _ in range(2))
    assert a.errors == b.errors
    assert a.checked < report.checked


class Wrong(Cell):
    """An RNN that has forgotten a square."""

    gates = ("h",)
    saved = ("h_new",)

    @staticmethod
    def forward(sums, state):
        (a,) = sums
        h_new = tanh(a)
        return (h_new,), (h_new,)

    @staticmethod
    def backward(dstate, saved):
        (dh,), (h_new,) = dstate, saved
        return (dh * (1 - h_new),), (0,)


class WrongLayer(Recurrent):
    cell = Wrong


class Halved(nbrnn.Linear):
    """Passes on half of what it should."""

    def backward(self, *arguments, **options):
        grads = super().backward(*arguments, **options)
        return dataclasses.replace(grads, x=grads.x * 0.5)


def test_wrong_gradients_fail():
    x = np.random.default_rng(0).normal(size=(4, 2, 2)).astype(np.float32)
    report = diagnostics.gradcheck(WrongLayer(2, 3, rng=0), x, rng=0)
    assert not report
    assert report.error > 0.01
    assert "WRONG" in repr(report)
    assert set(report.errors) == {"x", "state", "weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"}
    assert all(error > 1e-3 for error in report.errors.values())

    net = nbrnn.Sequential(nbrnn.RNN(2, 3, rng=0), Halved(3, 1, rng=0))
    report = diagnostics.gradcheck(net, x, np.zeros((4, 2, 1)), losses.mse, rng=0)
    assert report.errors["1.weight"] < 1e-7 < 1e-2 < report.errors["0.bias_ih_l0"]
    name, index = report.where
    difference = abs(report.gradient - report.difference)
    assert report.errors[name] == report.error
    assert len(index) == (3 if name == "x" else net.params[name].ndim if name in net.params else 3)
    assert difference > 0.1 * abs(report.difference)


def test_one_wrong_number_is_found():
    class Bent(nbrnn.Linear):
        def backward(self, *arguments, **options):
            grads = super().backward(*arguments, **options)
            grads.params["weight"][1, 2] *= 1.0001
            return grads

    report = diagnostics.gradcheck(Bent(4, 3, rng=0), np.ones((2, 2, 4), np.float32), samples=None, rng=0)
    assert not report
    assert report.where == ("weight", (1, 2))
    assert report.errors["bias"] < 1e-8


def test_kinks_are_no_errors():
    """Steps of 0.01 across many kinks of relu."""
    layer = nbrnn.RNN(2, 10, nonlinearity="relu", dtype=np.float64, rng=0)
    x = np.random.default_rng(0).normal(size=(20, 5, 2))
    assert diagnostics.gradcheck(layer, x, samples=30, eps=1e-4, rng=0)
    assert not diagnostics.gradcheck(layer, x, samples=30, eps=0.5, rng=0)


# Pictures


RESULTS = {
    "flow": lambda: diagnostics.gradient_flow(*_lstm(), dy=np.ones((6, 2, 8), np.float32)),
    "spectrum": lambda: diagnostics.jacobian_spectrum(nbrnn.GRU(2, 4, rng=0), np.ones((6, 2), np.float32)),
    "saturation": lambda: diagnostics.saturation(*_lstm()),
    "check": lambda: diagnostics.gradcheck(*_lstm(), samples=2, rng=0),
    "history": lambda: History(loss=[3.0, 2.0, 1.0], validation=[3.0, 2.5, 2.0], norm=[0.1, 10.0, 1.0]),
}


def _lstm():
    return nbrnn.LSTM(2, 4, bidirectional=True, rng=0), np.ones((6, 2, 2), np.float32)


@pytest.mark.parametrize("name", RESULTS)
def test_results_copy_pickle_and_show(name):
    result = RESULTS[name]()
    for other in (copy.deepcopy(result), pickle.loads(pickle.dumps(result))):
        assert repr(other) == repr(result)


@pytest.mark.parametrize("name", RESULTS)
def test_pictures(name, monkeypatch):
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # with Axes given, it isn't touched
    figure = Figure(layout="constrained")
    axes = figure.add_subplot()
    assert diagnostics.plot(RESULTS[name](), axes) is axes
    figure.canvas.draw()
    labels = [text.get_text() for text in (axes.get_legend().get_texts() if axes.get_legend() else [])]
    ticks = [text.get_text() for text in axes.get_yticklabels()]
    if name == "flow":
        assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_yscale()) == ("step t", "norm of dL/dh_t", "log")
        assert labels == ["l0", "l0_reverse"]
        assert axes.lines[0].get_color() == axes.lines[1].get_color()
        assert axes.lines[1].get_linestyle() == "--"
    elif name == "spectrum":
        assert labels == ["largest", "median"]
        assert axes.get_ylabel() == "singular values of dh_T/dh_t"
        np.testing.assert_allclose(axes.lines[0].get_ydata(), RESULTS[name]().log10[:, 0])
    elif name == "saturation":
        assert labels == ["low", "between", "high"]
        assert ticks[:2] == ["l0.i (sigmoid)", "l0.f (sigmoid)"]
        assert len(axes.patches) == 3 * 8
        np.testing.assert_allclose(sum(p.get_width() for p in axes.patches), 8)
    elif name == "check":
        assert ticks[:3] == ["x", "state[0]", "state[1]"]
        assert axes.get_xscale() == "log"
        assert "1e-06" in axes.get_xlabel()
    else:
        assert labels == ["loss", "validation", "gradient norm"]
        assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_yscale()) == ("epoch", "loss", "log")
        same(axes.lines[1].get_ydata(), [3.0, 2.5, 2.0])
        (right,) = [a for a in figure.axes if a is not axes]
        assert right.get_ylabel() == "largest norm of the gradients"


def test_several_results_in_one_picture():
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    for name in ("RNN", "GRU"):
        layer = getattr(nbrnn, name)(1, 3, rng=0)
        flow = diagnostics.gradient_flow(layer, np.ones((4, 1, 1), np.float32), dy=np.ones((4, 1, 3), np.float32))
        diagnostics.plot(flow, axes, label=name, alpha=0.5)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["RNN", "GRU"]
    assert axes.lines[0].get_color() != axes.lines[1].get_color()
    assert axes.lines[1].get_alpha() == 0.5


def test_the_epoch_whose_weights_were_kept():
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    history = types.SimpleNamespace(loss=[3.0, 2.0, 1.0], validation=[3.0, 2.0, 2.5], norm=[], best=1)
    axes = diagnostics.plot(history, Figure().add_subplot())
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["loss", "validation", "best epoch"]
    same(axes.lines[2].get_xdata(), [2, 2])  # epochs are counted from 1 on the axis


def test_a_figure_of_its_own():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    axes = diagnostics.plot(History(loss=[1.0, 0.0]))
    assert axes.figure.number in plt.get_fignums()
    assert axes.get_yscale() == "linear"  # 0 has no logarithm
    plt.close(axes.figure)


def test_what_is_no_axes_is_refused():
    pytest.importorskip("matplotlib")
    with pytest.raises(TypeError, match="ax must be a matplotlib Axes"):
        diagnostics.plot(History(), 3)


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="pip install"):
        diagnostics.plot(History())


# Bad input, odd input


class Twin(nbrnn.GRU):
    """A layer whose constructor takes other arguments than its kind."""

    def __init__(self, size):
        super().__init__(size, size, num_layers=2, rng=0)


def test_layers_with_constructors_of_their_own():
    layer, x = Twin(3), np.ones((4, 1, 3), np.float32)
    dy = np.ones((4, 1, 3), np.float32)
    plain = nbrnn.GRU(3, 3, num_layers=2, rng=0)
    same(diagnostics.gradient_flow(layer, x, dy=dy).norms, diagnostics.gradient_flow(plain, x, dy=dy).norms)
    same(diagnostics.jacobian_spectrum(layer, x).log10, diagnostics.jacobian_spectrum(plain, x).log10)
    assert diagnostics.gradcheck(layer, x, samples=3, rng=0)


def test_axes_make_no_difference():
    case = Case("LSTM", T=5, B=1, I=2, H=3, L=2, bidirectional=True)
    whole = diagnostics.gradient_flow(case.layer, case.x, dy=case.dy)
    alone = diagnostics.gradient_flow(case.layer, case.x[:, 0], dy=case.dy[:, 0])
    turned = Case("LSTM", T=5, B=1, I=2, H=3, L=2, bidirectional=True, batch_first=True)
    turned = diagnostics.gradient_flow(turned.layer, turned.user(case.x), dy=turned.user(case.dy))
    same(whole.per_sequence, alone.per_sequence)
    same(whole.per_sequence, turned.per_sequence)


def test_errors_name_the_argument():
    layer, x = nbrnn.GRU(2, 3, rng=0), np.ones((4, 1, 2), np.float32)
    dy, flow = np.ones((4, 1, 3), np.float32), diagnostics.gradient_flow
    linear = nbrnn.Linear(2, 3, rng=0)
    for wrong, message, call in [
        (TypeError, "net must be a layer or a network, got int", lambda: flow(3, x, dy=dy)),
        (ValueError, "net must have a recurrent layer", lambda: flow(linear, x, dy=dy)),
        (ValueError, "loss or dy must be given, got neither", lambda: flow(layer, x)),
        (ValueError, "loss or dy must be given, got both", lambda: flow(layer, x, x, losses.mse, dy=dy)),
        (TypeError, "loss must be callable", lambda: flow(layer, x, x, "mse")),
        (TypeError, "dy must be of dtype float32", lambda: flow(layer, x, dy=dy.astype(float))),
        (ValueError, r"dy must have shape \(4, 1, 3\)", lambda: flow(layer, x, dy=dy[1:])),
        (TypeError, "x must be of dtype", lambda: flow(layer, x.astype(float), dy=dy)),
        (ValueError, "lengths must lie in", lambda: flow(layer, x, dy=dy, lengths=[5])),
        (TypeError, "layer must be a recurrent layer", lambda: diagnostics.jacobian_spectrum(linear, x)),
        (ValueError, "one direction", lambda: diagnostics.jacobian_spectrum(nbrnn.GRU(2, 3, bidirectional=True), x)),
        (ValueError, "x must be one sequence", lambda: diagnostics.jacobian_spectrum(layer, np.repeat(x, 2, 1))),
        (ValueError, "at least one step", lambda: diagnostics.jacobian_spectrum(layer, x[:0])),
        (ValueError, "steps must be at most 4", lambda: diagnostics.jacobian_spectrum(layer, x, steps=5)),
        (ValueError, "steps must be >= 1", lambda: diagnostics.jacobian_spectrum(layer, x, steps=0)),
        (ValueError, "of must be one of 'h', 'state'", lambda: diagnostics.jacobian_spectrum(layer, x, of="c")),
        (ValueError, "low must be smaller than high", lambda: diagnostics.saturation(layer, x, low=0.9, high=0.1)),
        (ValueError, "bins must be >= 1", lambda: diagnostics.saturation(layer, x, bins=0)),
        (TypeError, "net must be a layer", lambda: diagnostics.gradcheck(nbrnn.GRUCell(2, 3), x)),
        (ValueError, "eps must be", lambda: diagnostics.gradcheck(layer, x, eps=0)),
        (ValueError, "samples must be >= 1", lambda: diagnostics.gradcheck(layer, x, samples=0)),
        (ValueError, "loss must be given", lambda: diagnostics.gradcheck(layer, x, dy)),
        (FloatingPointError, "loss must be finite", lambda: diagnostics.gradcheck(layer, x, dy * np.nan, losses.mse)),
        (TypeError, "result must be a GradientFlow", lambda: diagnostics.plot(3)),
    ]:
        with pytest.raises(wrong, match=message):
            call()
