"""Single steps: RNNCell, GRUCell, LSTMCell."""

import copy
import pickle

import numpy as np
import pytest

import nbrnn

PAIRS = [
    (nbrnn.RNNCell, nbrnn.RNN, {}),
    (nbrnn.RNNCell, nbrnn.RNN, {"nonlinearity": "relu"}),
    (nbrnn.GRUCell, nbrnn.GRU, {}),
    (nbrnn.GRUCell, nbrnn.GRU, {"bias": False}),
    (nbrnn.LSTMCell, nbrnn.LSTM, {}),
]


def h_of(state):
    return state[0] if isinstance(state, tuple) else state


@pytest.mark.parametrize("cell_type, layer_type, options", PAIRS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("batched", [True, False])
def test_steps_are_those_of_the_layer(cell_type, layer_type, options, dtype, batched):
    cell = cell_type(3, 5, dtype=dtype, rng=0, **options)
    layer = layer_type(3, 5, dtype=dtype, rng=0, **options)
    np.testing.assert_array_equal(cell.flat, layer.flat)
    x = np.random.default_rng(0).normal(size=(6, 2, 3) if batched else (6, 3)).astype(dtype)
    state, states = None, []
    for row in x:
        state = cell(row, state)
        states.append(h_of(state))
    np.testing.assert_array_equal(states, layer(x)[0])


@pytest.mark.parametrize("cell_type, layer_type, options", PAIRS)
def test_gradients_are_those_of_the_layer(cell_type, layer_type, options):
    cell = cell_type(3, 5, dtype=np.float64, rng=0, **options)
    layer = layer_type(3, 5, dtype=np.float64, rng=0, **options)
    rng = np.random.default_rng(0)
    x, dy = rng.normal(size=(4, 2, 3)), rng.normal(size=(4, 2, 5))
    _, _, tape = layer.forward(x)
    wanted = layer.backward(tape, dy)
    state, tapes = None, []
    for row in x:
        state, tape = cell.forward(row, state)
        tapes.append(tape)
    flat, dstate, dx = 0, None, []
    for dh, tape in zip(dy[::-1], tapes[::-1], strict=True):
        if dstate is None:
            dstate = (dh, None) if cell_type is nbrnn.LSTMCell else dh
        else:
            dstate = (dstate[0] + dh, dstate[1]) if cell_type is nbrnn.LSTMCell else dstate + dh
        grads = cell.backward(tape, dstate)
        flat, dstate = flat + grads.flat, grads.state
        dx.append(grads.x)
        assert grads.params.keys() == cell.params.keys()
    np.testing.assert_allclose(flat, wanted.flat, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(dx[::-1], wanted.x, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(h_of(dstate), h_of(wanted.state)[0], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM"])
def test_agrees_with_torch(name):
    torch = pytest.importorskip("torch")
    cell, theirs = getattr(nbrnn, name + "Cell")(3, 5, rng=0), getattr(torch.nn, name + "Cell")(3, 5)
    assert [(n, tuple(p.shape)) for n, p in theirs.named_parameters()] == [(n, a.shape) for n, a in cell.params.items()]
    with torch.no_grad():
        for key, parameter in theirs.named_parameters():
            parameter.copy_(torch.from_numpy(cell.params[key].copy()))
    x = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    h = np.random.default_rng(1).normal(size=(2, 5)).astype(np.float32)
    state = (h, 2 * h) if name == "LSTM" else h
    given = tuple(map(torch.from_numpy, state)) if name == "LSTM" else torch.from_numpy(state)
    for a, b in zip(
        np.atleast_3d(cell(x, state)), np.atleast_3d(_arrays(theirs(torch.from_numpy(x), given))), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def _arrays(state):
    return tuple(a.detach().numpy() for a in state) if isinstance(state, tuple) else state.detach().numpy()


@pytest.mark.parametrize("cell_type", [nbrnn.RNNCell, nbrnn.GRUCell, nbrnn.LSTMCell])
def test_copies_and_repr(cell_type):
    cell = cell_type(3, 5, rng=0)
    cell.flat = 2 * cell.flat
    x = np.ones((2, 3), np.float32)
    for twin in (copy.deepcopy(cell), pickle.loads(pickle.dumps(cell))):
        np.testing.assert_array_equal(h_of(twin(x)), h_of(cell(x)))
    assert repr(cell).startswith(f"<{cell_type.__name__}(3, 5, dtype=float32): ")


def test_bad_input():
    cell = nbrnn.LSTMCell(3, 5, rng=0)
    x, h = np.ones((2, 3), np.float32), np.ones((2, 5), np.float32)
    for given, error, words in (
        ((x[:, :2],), ValueError, r"x must have shape \(B, 3\), or \(3,\), got \(2, 2\)"),
        ((x[None],), ValueError, "x must have shape"),
        ((x.astype(float),), TypeError, "x must be of dtype float32"),
        ((x, h), ValueError, "state must be a pair"),
        ((x, (h, h[:1])), ValueError, r"state\[1\] \(c\) must have shape \(2, 5\), got \(1, 5\)"),
        ((x, (h, h.astype(float))), TypeError, r"state\[1\] \(c\) must be of dtype float32"),
        ((x[0], (h, h)), ValueError, r"state\[0\] \(h\) must have shape \(5,\)"),
    ):
        with pytest.raises(error, match=words):
            cell(*given)
    with pytest.raises(TypeError, match="part 0 must be a layer"):
        nbrnn.Sequential(cell)
