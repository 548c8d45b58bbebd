"""Initial values: those of today where nothing is said, and what each name and setting promises."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nbrnn
from nbrnn import initial

LAYERS = [nbrnn.RNN, nbrnn.GRU, nbrnn.LSTM]


def blocks(layer, kind):
    """(parameter, gate) -> its block, of all layers and directions."""
    G = len(layer.cell.gates)
    for name, a in layer.params.items():
        if name.startswith(kind):
            for gate, block in zip(layer.cell.gates, np.split(a, G), strict=True):
                yield (name, gate), block


def halves(shape, rng):
    """For pickles, it stands here."""
    return rng.choice([0.5, -0.5], shape)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", LAYERS)
def test_without_settings_all_is_uniform_in_order(kind, dtype):
    layer, rng = kind(3, 5, 2, bidirectional=True, dtype=dtype, rng=7), np.random.default_rng(7)
    for name, a in layer.params.items():
        bound = 1 / np.sqrt(5)
        np.testing.assert_array_equal(a, rng.uniform(-bound, bound, a.shape).astype(dtype), err_msg=name)
    assert layer._rng.bit_generator.state == rng.bit_generator.state


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 10**6))
def test_orthogonal_is(rows, columns, seed):
    q = initial.orthogonal((rows, columns), np.random.default_rng(seed))
    assert q.shape == (rows, columns)
    product = q.T @ q if rows >= columns else q @ q.T
    np.testing.assert_allclose(product, np.eye(min(rows, columns)), atol=1e-13)


def test_orthogonal_prefers_no_sign():
    """Without the fix of signs all would have a negative first entry."""
    rng = np.random.default_rng(0)
    many = np.array([initial.orthogonal((3, 3), rng) for _ in range(4000)])
    assert np.abs(many.mean(0)).max() < 5 / np.sqrt(3 * len(many))
    np.testing.assert_allclose((many**2).mean(0), 1 / 3, atol=0.02)
    assert abs((np.linalg.det(many) > 0).mean() - 0.5) < 0.05


@pytest.mark.parametrize("kind", LAYERS)
def test_recurrent_blocks_are_orthogonal_each(kind):
    layer = kind(3, 8, 2, bidirectional=True, recurrent_init="orthogonal", dtype="float64", rng=0)
    made = dict(blocks(layer, "weight_hh"))
    assert len(made) == 4 * len(layer.cell.gates)
    for block in made.values():
        np.testing.assert_allclose(block @ block.T, np.eye(8), atol=1e-14)
    assert len({block.tobytes() for block in made.values()}) == len(made)


def test_projected_blocks_are_as_orthogonal_as_they_can_be():
    layer = nbrnn.LSTM(12, 8, proj_size=3, kernel_init="orthogonal", recurrent_init="orthogonal", rng=0)
    for _, block in blocks(layer, "weight_hh"):
        np.testing.assert_allclose(block.T @ block, np.eye(3), atol=1e-6)
    for _, block in blocks(layer, "weight_ih"):
        np.testing.assert_allclose(block @ block.T, np.eye(8), atol=1e-6)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("setting, weight, fan_in", [("kernel_init", "ih", 300), ("recurrent_init", "hh", 100)])
def test_variances_go_by_the_sizes_of_a_gate(kind, setting, weight, fan_in):
    H = 100
    for name, variance in (("glorot", 2 / (fan_in + H)), ("he", 2 / fan_in)):
        layer = kind(300, H, rng=1, **{setting: name})
        for _, block in blocks(layer, f"weight_{weight}"):
            assert block.var() == pytest.approx(variance, rel=0.06)
            assert abs(block.mean()) < 5 * np.sqrt(variance / block.size)
        if name == "glorot":
            assert np.abs(layer.params[f"weight_{weight}_l0"]).max() <= np.sqrt(3 * variance)
        else:
            kurtosis = (block**4).mean() / block.var() ** 2
            assert kurtosis == pytest.approx(3, rel=0.1)  # normal, not uniform


@pytest.mark.parametrize("kind", LAYERS)
def test_identity(kind):
    layer = kind(3, 5, kernel_init="identity", recurrent_init="identity", rng=0)
    for _, block in blocks(layer, "weight_hh"):
        np.testing.assert_array_equal(block, np.eye(5))
    for _, block in blocks(layer, "weight_ih"):
        np.testing.assert_array_equal(block, np.eye(5, 3))


def test_identity_copies_the_state_of_a_rectifier():
    """What Le, Jaitly and Hinton want of it: without inputs and biases, h stays as it is."""
    layer = nbrnn.RNN(3, 5, nonlinearity="relu", bias=False, recurrent_init="identity", rng=0)
    h = np.arange(10, dtype=np.float32).reshape(1, 2, 5)
    _, after = layer(np.zeros((50, 2, 3), np.float32), h)
    np.testing.assert_array_equal(after, h)


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}, {"proj_size": 2}])
def test_forget_bias_is_exact_and_changes_nothing_else(options):
    plain = nbrnn.LSTM(3, 5, rng=4, **options)
    layer = nbrnn.LSTM(3, 5, rng=4, forget_bias=1.5, **options)
    for name, a in layer.params.items():
        wanted = plain.params[name].copy()
        if name.startswith("bias"):
            wanted[5:10] = 1.5 if name.startswith("bias_ih") else 0
        np.testing.assert_array_equal(a, wanted, err_msg=name)
    with pytest.raises(ValueError, match="forget_bias must be None without biases, got 1 with bias=False"):
        nbrnn.LSTM(3, 5, bias=False, forget_bias=1, **options)


def test_a_function_gives_the_whole_matrix():
    asked = []

    def give(shape, rng):
        asked.append(shape)
        return rng.normal(size=shape)

    layer = nbrnn.GRU(3, 5, 2, bidirectional=True, kernel_init=give, dtype="float64", rng=2)
    assert asked == [(15, 3), (15, 3), (15, 10), (15, 10)]
    np.testing.assert_array_equal(layer.params["weight_ih_l0"], np.random.default_rng(2).normal(size=(15, 3)))
    assert np.abs(layer.params["weight_hh_l0"]).max() <= 1 / np.sqrt(5)
    lists = nbrnn.RNN(1, 2, recurrent_init=lambda shape, rng: [[1, 2], [3, 4]])
    np.testing.assert_array_equal(lists.params["weight_hh_l0"], [[1, 2], [3, 4]])


def test_layers_keep_their_settings():
    plain = nbrnn.LSTM(3, 5, rng=0)
    assert (plain.kernel_init, plain.recurrent_init, plain.forget_bias) == (None, None, None)
    assert repr(plain) == "<LSTM(3, 5, dtype=float32): 200 parameters>"
    layer = nbrnn.LSTM(3, 5, kernel_init=halves, recurrent_init="orthogonal", forget_bias=1, rng=0)
    assert "recurrent_init='orthogonal', forget_bias=1.0" in repr(layer)
    for twin in (copy.copy(layer), copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert repr(twin) == repr(layer)
        assert (twin.kernel_init, twin.recurrent_init, twin.forget_bias) == (halves, "orthogonal", 1.0)
        np.testing.assert_array_equal(twin.flat, layer.flat)
    with pytest.raises(AttributeError, match="forget_bias of .* can't be changed"):
        layer.forget_bias = 2.0


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("setting", ["kernel_init", "recurrent_init"])
def test_errors(kind, setting):
    options = "'orthogonal', 'glorot', 'he', 'identity'"
    with pytest.raises(ValueError, match=f"{setting} must be one of {options}, got 'xavier'"):
        kind(3, 5, **{setting: "xavier"})
    with pytest.raises(TypeError, match=f"{setting} must be one of {options}, a function or None, got float"):
        kind(3, 5, **{setting: 0.1})
    with pytest.raises(ValueError, match=rf"what {setting} returns must have shape \(\d+, \d\), got \(2, 2\)"):
        kind(3, 5, **{setting: lambda shape, rng: np.zeros((2, 2))})
    with pytest.raises(TypeError, match=f"what {setting} returns must be real numbers"):
        kind(3, 5, **{setting: lambda shape, rng: np.zeros(shape, complex)})


def test_errors_of_forget_bias():
    for wrong, error in (("1", TypeError), (True, TypeError), (np.nan, ValueError), (np.inf, ValueError)):
        with pytest.raises(error, match="forget_bias must be"):
            nbrnn.LSTM(3, 5, forget_bias=wrong)
    for kind in (nbrnn.RNN, nbrnn.GRU):
        with pytest.raises(TypeError, match="unexpected keyword"):
            kind(3, 5, forget_bias=1.0)
