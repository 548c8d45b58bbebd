"""Linear, Dropout, Sequential: one protocol, right gradients, one vector of parameters."""

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nbrnn
from nbrnn.pointwise import ACTIVATIONS
from tests.reference import philox

same = np.testing.assert_array_equal


def numeric(f, a, step=1e-6):
    result = np.zeros_like(a)
    for index in np.ndindex(a.shape):
        shifted = a.copy()
        shifted[index] += step
        above = f(shifted)
        shifted[index] -= 2 * step
        result[index] = (above - f(shifted)) / (2 * step)
    return result


def check_gradients(net, x, **given_arguments):
    """backward of any network against differences."""
    rng = np.random.default_rng(5)
    y, _, tape = net.forward(x, **given_arguments)
    dy = rng.normal(size=y.shape)
    grads = net.backward(tape, dy)
    flat = net.flat.copy()

    def of_parameters(vector):
        net.flat = vector
        value = float((net(x, **given_arguments)[0] * dy).sum())
        net.flat = flat
        return value

    np.testing.assert_allclose(
        grads.x, numeric(lambda a: float((net(a, **given_arguments)[0] * dy).sum()), x), rtol=1e-6, atol=1e-8
    )
    if flat.size:
        np.testing.assert_allclose(grads.flat, numeric(of_parameters, flat), rtol=1e-6, atol=1e-8)
    same(np.concatenate([grads.params[name].ravel() for name in net.params] or [np.zeros(0)]), grads.flat)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_linear_gradients(activation, bias):
    net = nbrnn.Linear(3, 4, bias, activation, dtype=np.float64, rng=0)
    x = np.random.default_rng(0).normal(size=(4, 2, 3))
    check_gradients(net, x)
    check_gradients(net, x, lengths=[3, 1])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_linear_agrees_with_torch(activation, dtype):
    torch = pytest.importorskip("torch")
    net = nbrnn.Linear(7, 5, activation=activation, dtype=dtype, rng=0)
    x = np.random.default_rng(0).normal(size=(4, 2, 7)).astype(dtype) * 5
    theirs = torch.nn.functional.linear(*(torch.from_numpy(a.copy()) for a in (x, *net.params.values())))
    if activation is not None:
        theirs = torch.softmax(theirs, -1) if activation == "softmax" else getattr(torch, activation)(theirs)
    np.testing.assert_allclose(net(x)[0], theirs, rtol=2e-5 if dtype == np.float32 else 1e-12, atol=1e-7)
    assert net(x)[0].dtype == dtype


def test_linear_takes_any_leading_axes():
    net = nbrnn.Linear(3, 4, rng=0)
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 3)).astype(np.float32)
    y = net(x)[0]
    for index in np.ndindex(2, 3, 4):
        np.testing.assert_allclose(net(x[index])[0], y[index], rtol=1e-6, atol=1e-7)  # another product: other last bits
    assert net(x[:, :0])[0].shape == (2, 0, 4, 4)
    grads = net.backward(net.forward(x)[2], np.ones_like(y))
    assert grads.x.shape == x.shape
    assert net(x.astype(np.float32)[::-1, ::2])[0].shape == (2, 2, 4, 4)


def test_softmax_of_large_numbers():
    net = nbrnn.Linear(2, 3, activation="softmax", rng=0)
    y = net(np.array([[3e4, -3e4], [0, 0]], np.float32))[0]
    np.testing.assert_allclose(y.sum(-1), 1, rtol=1e-6)


def test_padding_is_inert():
    """NaN past the ends reaches nothing: y and dx there are 0, the gradients of the weights finite."""
    rng = np.random.default_rng(0)
    for net in (
        nbrnn.Linear(3, 4, activation="softmax", rng=0),
        nbrnn.Dropout(0.4, rng=0),
        nbrnn.LayerNorm(3),
        nbrnn.Sequential(
            nbrnn.Linear(3, 3, rng=0), nbrnn.GRU(3, 4, rng=1), nbrnn.Dropout(0.2), nbrnn.Linear(4, 2, rng=2)
        ),
    ):
        x, lengths = rng.normal(size=(5, 3, 3)).astype(np.float32), [5, 0, 2]
        outside = np.arange(5)[:, None] >= np.array(lengths)
        results = []
        for garbage in (0, np.nan):
            x[outside] = garbage
            y, _, tape = net.forward(x, lengths=lengths, rng=7)
            dy = np.ones_like(y)
            dy[outside] = garbage
            grads = net.backward(tape, dy)
            results.append((y, grads.x, grads.flat, net(x, lengths=lengths)[0]))
        for a, b in zip(*results, strict=True):
            same(a, b)
            if a.ndim == 3:
                assert not a[outside].any()


@given(st.floats(0, 1), st.integers(0, 100))
def test_dropout(p, seed):
    """What is kept is what the reference keeps, number by number."""
    layer, x = nbrnn.Dropout(p, rng=seed), np.full((4, 3, 6), 2.0)
    same(layer(x)[0], x)
    y, _, tape = layer.forward(x)
    key = tuple(map(int, np.random.default_rng(seed).integers(0, 2**32, 2)))
    keep = [philox.kept(key, 1, 0, 0, t, b, unit, p) for t, b, unit in np.ndindex(x.shape)]
    scale = np.reshape(keep, x.shape) * (1 / (1 - p) if p < 1 else 0.0)
    np.testing.assert_allclose(y, 2 * scale, rtol=1e-15)
    dy = np.random.default_rng(0).normal(size=x.shape)
    np.testing.assert_allclose(layer.backward(tape, dy).x, dy * scale, rtol=1e-15)


def test_dropout_draws_nothing_where_there_is_none():
    rng = np.random.default_rng(0)
    before = copy.deepcopy(rng.bit_generator.state)
    for layer in (
        nbrnn.Dropout(0.0),
        nbrnn.GRU(3, 5, 2),
        nbrnn.GRU(3, 5, 1, dropout=0.5),
        nbrnn.Linear(3, 2),
        nbrnn.GRU(3, 5, recurrent_dropout=0.0),
    ):
        layer.forward(np.ones((4, 2, 3), np.float32), rng=rng)
    assert rng.bit_generator.state == before
    nbrnn.Dropout(0.1).forward(np.ones((4, 2, 3), np.float32), rng=rng)
    assert rng.bit_generator.state != before


def small(dtype=np.float64, batch_first=False):
    return nbrnn.Sequential(
        nbrnn.Linear(3, 4, activation="tanh", dtype=dtype, rng=0),
        nbrnn.LSTM(4, 5, 2, bidirectional=True, proj_size=2, batch_first=batch_first, dtype=dtype, rng=1),
        nbrnn.Linear(4, 2, dtype=dtype, rng=2),
        nbrnn.GRU(2, 3, batch_first=batch_first, dtype=dtype, rng=3),
    )


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("lengths", [None, [4, 2]])
def test_sequential_gradients(batch_first, lengths):
    x = np.random.default_rng(0).normal(size=(2, 4, 3) if batch_first else (4, 2, 3))
    check_gradients(small(batch_first=batch_first), x, lengths=lengths)


def test_nested_networks_have_the_axes_of_the_whole():
    """Parts without axes of their own, one level down: x is turned for them as for any other."""
    x, lengths = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32), [4, 2]
    make = lambda: (
        nbrnn.GRU(3, 5, batch_first=True, rng=0),
        nbrnn.Linear(5, 4, activation="tanh", rng=1),
        nbrnn.Linear(4, 2, rng=2),
    )
    gru, first, second = make()
    flat, nested = nbrnn.Sequential(*make()), nbrnn.Sequential(gru, nbrnn.Sequential(first, second))
    assert nested.batch_first is True
    y, state, tape = nested.forward(x, lengths=lengths)
    wanted, _, wanted_tape = flat.forward(x, lengths=lengths)
    same(y, wanted)
    same(nested(x, lengths=lengths)[0], flat(x, lengths=lengths)[0])
    assert not y[1, 2:].any()
    assert state[1] == (None, None)
    dy = np.random.default_rng(1).normal(size=y.shape).astype(np.float32)
    a, b = nested.backward(tape, dy), flat.backward(wanted_tape, dy)
    same(a.x, b.x)
    same(a.flat, b.flat)


@pytest.mark.parametrize("net", [nbrnn.Linear(3, 2), nbrnn.Sequential(nbrnn.GRU(3, 2)), nbrnn.Dropout(0.5)])
def test_retain_must_be_a_flag_before_anything_is_used_up(net):
    y, _, tape = net.forward(np.ones((4, 2, 3), np.float32))
    with pytest.raises(TypeError, match="retain must be True or False"):
        net.backward(tape, y, retain=1)
    net.backward(tape, y)


def test_options_that_no_part_takes_are_refused():
    net, x = nbrnn.Sequential(nbrnn.Linear(3, 2), nbrnn.Sequential(nbrnn.Dropout(0.5))), np.ones((4, 2, 3), np.float32)
    with pytest.raises(ValueError, match="resets must be None for a network without recurrent parts"):
        net(x, resets=np.zeros((4, 2), bool))
    with pytest.raises(ValueError, match="checkpoint must be None for a network without recurrent parts"):
        net.forward(x, checkpoint=2)


def test_errors_speak_of_the_axes_that_the_user_has():
    net = small(np.float32, batch_first=True)
    x = np.ones((2, 4, 3), np.float32)
    y, _, tape = net.forward(x)
    with pytest.raises(ValueError, match=r"dy must have shape \(2, 4, 3\), got \(4, 2, 3\)"):
        net.backward(tape, y.swapaxes(0, 1))
    with pytest.raises(TypeError, match="dy must be a NumPy array of float32, got list"):
        net.backward(tape, y.tolist())
    with pytest.raises(TypeError, match="x must be a NumPy array of float32, got list"):
        net(x.tolist())


def test_results_do_not_alias_and_stay_as_they_are():
    x = np.ones((4, 2, 3), np.float32)
    for part in (nbrnn.Dropout(0.5), nbrnn.Dropout(0), nbrnn.Linear(3, 2, activation="tanh"), small(np.float32)):
        assert not np.shares_memory(part(x)[0], x)
        y, _, _ = part.forward(x)
        assert not np.shares_memory(y, x)
        with pytest.raises(ValueError, match="WRITEABLE"):
            y.flags.writeable = True


def test_a_part_is_free_again_when_its_network_is_gone():
    gru = nbrnn.GRU(3, 5, rng=0)
    net = nbrnn.Sequential(gru)
    with pytest.raises(ValueError, match="can't be part of another"):
        nbrnn.Sequential(gru)
    del net
    again = nbrnn.Sequential(gru, nbrnn.Linear(5, 2))
    again.flat = 0 * again.flat
    assert not gru.flat.any()


def test_repr_of_nested_networks():
    inner = nbrnn.Sequential(nbrnn.GRU(3, 5), nbrnn.Linear(5, 4))
    lines = repr(nbrnn.Sequential(inner, nbrnn.Linear(4, 2))).splitlines()
    assert [line[: len(line) - len(line.lstrip())] for line in lines] == ["", "  ", "    ", "    ", "  "]


def test_batch_first_is_a_matter_of_axes():
    x = np.random.default_rng(0).normal(size=(4, 2, 3))
    first, second = small(), small(batch_first=True)
    second.flat = first.flat
    for lengths in (None, [4, 2]):
        a, b = first(x, lengths=lengths)[0], second(x.swapaxes(0, 1), lengths=lengths)[0]
        np.testing.assert_allclose(b.swapaxes(0, 1), a, rtol=1e-12, atol=1e-14)
    assert first.batch_first is False
    assert second.batch_first is True
    assert nbrnn.Sequential(nbrnn.Linear(3, 2)).batch_first is None
    same(second(x[:, 0])[0], first(x[:, 0])[0])  # unbatched: no axes to turn


def test_sequential_is_its_parts_one_after_another():
    net, x = small(), np.random.default_rng(0).normal(size=(4, 2, 3))
    y, state = net(x)
    value, states = x, []
    for part in net:
        value, after = part(value)
        states.append(after)
    same(y, value)
    assert state[0] is None
    for a, b in zip(state[1], states[1], strict=True):
        same(a, b)
    assert len(net) == 4
    assert net[1].hidden_size == 5


def test_sequential_carries_states_and_their_gradients():
    """Two pieces with carried state are the whole, both ways."""
    net = nbrnn.Sequential(
        nbrnn.GRU(3, 4, dtype=np.float64, rng=0), nbrnn.Linear(4, 3, dtype=np.float64, rng=1),
        nbrnn.LSTM(3, 5, dtype=np.float64, rng=2),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    x, dy = rng.normal(size=(6, 2, 3)), rng.normal(size=(6, 2, 5))
    y, _, tape = net.forward(x)
    whole = net.backward(tape, dy)
    y1, state, tape1 = net.forward(x[:4])
    y2, _, tape2 = net.forward(x[4:], state)
    g2 = net.backward(tape2, dy[4:])
    g1 = net.backward(tape1, dy[:4], g2.state)
    same(np.concatenate([y1, y2]), y)
    np.testing.assert_allclose(np.concatenate([g1.x, g2.x]), whole.x, rtol=1e-12)
    np.testing.assert_allclose(g1.flat + g2.flat, whole.flat, rtol=1e-11, atol=1e-13)


def test_resets_and_checkpoints_reach_the_recurrent_parts():
    net, x = small(), np.random.default_rng(0).normal(size=(6, 2, 3))
    cuts = np.zeros((6, 2), bool)
    cuts[3] = True
    y, _, tape = net.forward(x, resets=cuts)
    same(y, np.concatenate([net(x[:3])[0], net(x[3:])[0]]))
    again, _, tape_again = net.forward(x, resets=cuts, checkpoint=2)
    same(again, y)
    np.testing.assert_allclose(
        net.backward(tape_again, np.ones_like(y)).flat, net.backward(tape, np.ones_like(y)).flat, rtol=1e-11
    )


def test_parameters_of_a_network_are_one_vector():
    linear, gru = nbrnn.Linear(3, 4, rng=0), nbrnn.GRU(4, 5, rng=1)
    values, x = {"0": linear.flat.copy(), "1": gru.flat.copy()}, np.ones((4, 2, 3), np.float32)
    net = nbrnn.Sequential(linear, gru, nbrnn.Dropout(0.5))
    same(net.flat, np.concatenate([values["0"], values["1"]]))
    assert list(net.params)[:3] == ["0.weight", "0.bias", "1.weight_ih_l0"]
    before = net(x)[0]
    net.flat = 0.5 * net.flat
    same(linear.flat, 0.5 * values["0"])
    assert (net(x)[0] != before).any()
    gru.params["bias_ih_l0"] = np.zeros(15)
    assert not net.params["1.bias_ih_l0"].any()
    net.params["1.weight_hh_l0"] = np.zeros((15, 5))
    assert not gru.params["weight_hh_l0"].any()
    outer = nbrnn.Sequential(net, nbrnn.Linear(5, 2, rng=2))
    assert "0.1.weight_ih_l0" in outer.params
    outer.flat = 0 * outer.flat
    assert not gru.flat.any()
    assert not net.flat.any()
    assert np.shares_memory(gru.flat, outer.flat)


def test_bad_networks():
    gru = nbrnn.GRU(3, 5, rng=0)
    for parts, error, words in (
        ((), ValueError, "at least one part"),
        ((gru, "linear"), TypeError, "part 1 must be a layer or a network, got str"),
        ((gru, gru), ValueError, "stand in it twice"),
        (
            (gru, nbrnn.Linear(5, 2, dtype=np.float64)),
            ValueError,
            "all parts must have one dtype, got float32, float64",
        ),
        ((gru, nbrnn.GRU(5, 5, batch_first=True)), ValueError, "batch_first must be the same"),
    ):
        with pytest.raises(error, match=words):
            nbrnn.Sequential(*parts)
    net = nbrnn.Sequential(gru)
    with pytest.raises(ValueError, match="can't be part of another"):
        nbrnn.Sequential(gru)
    nbrnn.Sequential(copy.deepcopy(gru), nbrnn.Linear(5, 2))
    x = np.ones((4, 2, 3), np.float32)
    for state, error, words in (
        (np.zeros((1, 2, 5)), TypeError, "state must be a tuple with an entry for each part"),
        ((None, None), ValueError, "state must have 1 entries"),
        ((np.zeros((1, 1, 5), np.float32),), ValueError, "state must have shape"),
    ):
        with pytest.raises(error, match=words):
            net(x, state)


def test_a_failed_backward_leaves_the_tape_usable():
    net = nbrnn.Sequential(nbrnn.GRU(3, 4, rng=0), nbrnn.Linear(4, 2, rng=1))
    y, _, tape = net.forward(np.ones((4, 2, 3), np.float32))
    for dy, dstate, error in (
        (np.ones((4, 2, 3), np.float32), None, ValueError),
        (np.ones_like(y), (np.zeros((1, 1, 4), np.float32), None), ValueError),
        (np.ones_like(y), (None, np.zeros(1)), ValueError),
        (y.astype(float), None, TypeError),
    ):
        with pytest.raises(error):
            net.backward(tape, dy, dstate)
    kept = net.backward(tape, np.ones_like(y), retain=True)
    same(net.backward(tape, np.ones_like(y)).flat, kept.flat)
    with pytest.raises(RuntimeError, match="used"):
        net.backward(tape)
    with pytest.raises(TypeError, match="tape must come from forward"):
        net.backward(net[0].forward(np.ones((4, 2, 3), np.float32))[2])


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: nbrnn.Linear(0, 2), "in_features must be >= 1"),
        (lambda: nbrnn.Linear(2, 2, activation="gelu"), "activation must be one of"),
        (lambda: nbrnn.Dropout(1.5), "p must be"),
        (lambda: nbrnn.Dropout(float("nan")), "p must be"),
        (lambda: nbrnn.Linear(3, 2)(np.ones((4, 2), np.float32)), r"x must have shape \(..., 3\), got \(4, 2\)"),
        (lambda: nbrnn.Linear(3, 2)(np.ones((4, 3), np.float32), lengths=[1]), "lengths must be None unless"),
        (lambda: nbrnn.Linear(3, 2)(np.ones((4, 2, 3), np.float32), np.ones(3)), "state must be None for Linear"),
    ],
)
def test_bad_input(make, words):
    with pytest.raises(ValueError, match=words):
        make()
