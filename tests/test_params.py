"""Parameters: torch's names, order and shapes; live read-only views; copies, pickles, repr."""

import copy
import pickle
import warnings

import numpy as np
import pytest
from hypothesis import given

import nbrnn
from tests.cases import cases

X = np.ones((4, 2, 3), np.float32)


@given(cases())
def test_names_order_and_shapes_are_torchs(case):
    torch = pytest.importorskip("torch")
    from tests.test_torch import modules_of

    case.dropout = 0.0
    (module,) = modules_of(case)
    theirs = [(name, tuple(p.shape)) for name, p in module.named_parameters()]
    assert [(name, a.shape) for name, a in case.layer.params.items()] == theirs
    assert case.layer.flat.size == sum(p.numel() for p in module.parameters())
    assert isinstance(module, torch.nn.Module)


def test_flat_is_all_parameters_in_order():
    layer = nbrnn.LSTM(3, 5, num_layers=2, bidirectional=True, proj_size=2, rng=0)
    np.testing.assert_array_equal(layer.flat, np.concatenate([a.ravel() for a in layer.params.values()]))
    assert layer.flat.flags.c_contiguous


def test_initial_values():
    layer = nbrnn.GRU(30, 50, rng=3)
    assert np.abs(layer.flat).max() <= 1 / np.sqrt(50)
    assert abs(float(layer.flat.mean())) < 0.01
    assert float(layer.flat.std()) == pytest.approx(1 / np.sqrt(3 * 50), rel=0.02)
    np.testing.assert_array_equal(layer.flat, nbrnn.GRU(30, 50, rng=np.random.default_rng(3)).flat)
    assert (layer.flat != nbrnn.GRU(30, 50).flat).any()


def test_views_are_live_and_read_only_for_good():
    layer = nbrnn.GRU(3, 5, rng=0)
    flat, weight = layer.flat, layer.params["weight_hh_l0"]
    before = layer(X)[0]
    layer.params["weight_hh_l0"] = np.zeros((15, 5))
    assert not weight.any()
    assert (layer(X)[0] != before).any()
    layer.flat = np.arange(flat.size)
    np.testing.assert_array_equal(flat, np.arange(flat.size))
    for view in (flat, weight, flat[3:], np.asarray(flat), weight.T, flat.reshape(-1, 1)):
        with pytest.raises(ValueError, match="read-only|can't be changed in place"):
            view[0] = 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            view.flags.writeable = True
        base = view
        while isinstance(base, np.ndarray):
            assert not base.flags.writeable
            base = base.base
    before = flat.copy()
    for change in (
        lambda: np.add(flat, 1, out=flat),
        lambda: np.add.at(flat, [0], 1),
        lambda: np.negative.at(weight, 0),
    ):
        with pytest.raises(ValueError, match="can't be changed in place"):
            change()
    np.testing.assert_array_equal(flat, before)


def test_what_is_handed_out_is_an_object_of_its_own():
    """Its shape and strides are its user's; a copy of the mapping is a plain dictionary of copies."""
    layer = nbrnn.GRU(3, 5, rng=0)
    before = layer(X)[0]
    weight, flat = layer.params["weight_ih_l0"], layer.flat
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy 2.5 would rather have views
        weight.shape, flat.dtype = (45,), np.int32
    np.testing.assert_array_equal(layer.params["weight_ih_l0"], nbrnn.GRU(3, 5, rng=0).params["weight_ih_l0"])
    assert layer.flat.dtype == np.float32
    for twin in (copy.copy(layer.params), copy.deepcopy(layer.params), pickle.loads(pickle.dumps(layer.params))):
        assert type(twin) is dict
        assert list(twin) == list(layer.params)
        twin["weight_ih_l0"][:] = 0
    np.testing.assert_array_equal(layer(X)[0], before)
    layer.params.update(twin)
    assert not layer.params["weight_ih_l0"].any()


class Narrow(nbrnn.GRU):
    """A subclass with a constructor of its own."""

    def __init__(self, hidden, scale=None, *more):
        super().__init__(3, hidden, rng=0)
        self.note, self.scale = [1, 2], np.ones(3)


class Pair(nbrnn.Sequential):
    """Likewise."""

    def __init__(self):
        super().__init__(nbrnn.GRU(3, 5, rng=0), nbrnn.Linear(5, 2, rng=1))

    def twice(self, x):
        return 2 * self(x)[0]


def test_subclasses_survive_copies():
    narrow, pair = Narrow(5), Pair()
    for again in (copy.copy, copy.deepcopy, lambda a: pickle.loads(pickle.dumps(a))):
        one, two = again(narrow), again(pair)
        assert type(one) is Narrow
        assert one.note == [1, 2]
        assert repr(one) == repr(narrow) == "<Narrow(scale=array([1., 1., 1.])): 150 parameters>"
        np.testing.assert_array_equal(one(X)[0], narrow(X)[0])
        np.testing.assert_array_equal(two.twice(X), pair.twice(X))
        two.flat = 0 * two.flat  # its parts follow it, and nothing else does
        assert not two[0].flat.any()
        assert pair[0].flat.any()


def test_copies_of_gradients():
    layer = nbrnn.GRU(3, 5, rng=0)
    y, _, tape = layer.forward(X)
    grads = layer.backward(tape, y)
    for twin in (copy.deepcopy(grads), pickle.loads(pickle.dumps(grads))):
        twin.flat[:] = 7
        assert (twin.params["weight_hh_l0"] == 7).all()
    assert not (grads.flat == 7).any()


def test_in_place_arithmetic_says_what_to_write():
    layer = nbrnn.GRU(3, 5, rng=0)
    g = np.ones_like(layer.flat)
    before = layer.flat.copy()
    for statement in ("layer.flat -= g", "layer.flat += g", "layer.flat *= 2", "layer.flat /= 2", "layer.flat **= 2"):
        with pytest.raises(ValueError, match=r"write layer\.flat = layer\.flat - g"):
            exec(statement, {"layer": layer, "g": g})
    with pytest.raises(ValueError, match=r"layer\.params\[name\] = array"):
        layer.params["bias_ih_l0"][:] = 0
    np.testing.assert_array_equal(layer.flat, before)
    layer.flat = layer.flat - g
    np.testing.assert_array_equal(layer.flat, before - g)
    assert type(layer.flat - g) is np.ndarray
    assert isinstance(layer.flat.sum(), np.float32)


def test_copies_of_views_are_plain_and_free():
    layer = nbrnn.GRU(3, 5, rng=0)
    for make in (
        lambda a: a.copy(),
        np.copy,
        np.array,
        copy.copy,
        copy.deepcopy,
        lambda a: pickle.loads(pickle.dumps(a)),
    ):
        a = make(layer.flat)
        a -= 1
        a[0] = 7
        assert a.flags.writeable
        assert (layer.flat != a).any()


def test_assignment_casts_and_copies_in():
    layer = nbrnn.GRU(3, 5, rng=0)
    for dtype in (np.float64, np.float16, np.int64, np.uint8, bool):
        value = np.ones((15,), dtype)
        layer.params["bias_ih_l0"] = value
        value[:] = 0
        np.testing.assert_array_equal(layer.params["bias_ih_l0"], np.ones(15, np.float32))
    layer.params["bias_ih_l0"] = [0.5] * 15
    layer.flat = list(range(layer.flat.size))
    assert layer.flat.dtype == np.float32


@pytest.mark.parametrize(
    "value, error, words",
    [
        (np.zeros(14), ValueError, r"must have shape \(15,\), got \(14,\)"),
        (np.zeros((15, 1)), ValueError, "must have shape"),
        (0.0, ValueError, "must have shape"),
        (np.zeros(15, complex), TypeError, "must be real numbers, got dtype complex128"),
        (["a"] * 15, TypeError, "must be real numbers"),
        (None, TypeError, "must be real numbers"),
    ],
)
def test_bad_assignments(value, error, words):
    layer = nbrnn.GRU(3, 5, rng=0)
    before = layer.flat.copy()
    with pytest.raises(error, match=r"params\['bias_ih_l0'\] " + words):
        layer.params["bias_ih_l0"] = value
    with pytest.raises(error, match="flat must"):
        layer.flat = value
    with pytest.raises(KeyError, match="no parameter 'weight_ih'; there are weight_ih_l0"):
        layer.params["weight_ih"] = value
    with pytest.raises(TypeError, match="can't be removed"):
        del layer.params["bias_ih_l0"]
    np.testing.assert_array_equal(layer.flat, before)


def test_params_is_a_mapping():
    layer = nbrnn.RNN(3, 5, rng=0)
    assert len(layer.params) == 4
    assert "bias_hh_l0" in layer.params
    assert dict(layer.params).keys() == set(layer.params)
    layer.params.update({"bias_hh_l0": np.zeros(5), "bias_ih_l0": np.zeros(5)})
    assert "'weight_ih_l0': (5, 3)" in repr(layer.params)


MAKERS = [
    lambda: nbrnn.RNN(3, 5, nonlinearity="relu", rng=0),
    lambda: nbrnn.GRU(3, 5, 2, dropout=0.5, bidirectional=True, recurrent_dropout=0.3, rng=0),
    lambda: nbrnn.LSTM(3, 5, proj_size=2, dtype=np.float32, bias=False, rng=0),
    lambda: nbrnn.Sequential(nbrnn.GRU(3, 5, rng=0), nbrnn.Dropout(0.3, rng=1), nbrnn.Linear(5, 2, rng=2)),
    lambda: nbrnn.Linear(3, 4, activation="tanh", rng=0),
]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("twin_of", [copy.deepcopy, copy.copy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_and_pickles(make, twin_of):
    layer = make()
    layer.flat = 0.5 * layer.flat
    twin = twin_of(layer)
    assert repr(twin) == repr(layer)
    np.testing.assert_array_equal(twin.flat, layer.flat)
    np.testing.assert_array_equal(twin(X)[0], layer(X)[0])
    np.testing.assert_array_equal(twin.forward(X)[0], layer.forward(X)[0])  # the generators stand at the same place
    before = layer.flat.copy()
    twin.flat = 0 * twin.flat
    np.testing.assert_array_equal(layer.flat, before)


def test_deepcopy_has_a_generator_of_its_own():
    layer = nbrnn.GRU(3, 5, 2, dropout=0.5, rng=0)
    twin = copy.deepcopy(layer)
    first = [layer.forward(X)[0] for _ in range(3)]
    np.testing.assert_array_equal([twin.forward(X)[0] for _ in range(3)], first)


def test_repr():
    assert repr(nbrnn.LSTM(4, 32)) == "<LSTM(4, 32, dtype=float32): 4,864 parameters>"
    layer = nbrnn.RNN(4, 32, num_layers=2, nonlinearity="relu", bidirectional=True, dropout=0.25, dtype="float64")
    assert repr(layer) == (
        "<RNN(4, 32, num_layers=2, nonlinearity='relu', dropout=0.25, bidirectional=True, dtype=float64): "
        "8,704 parameters>"
    )
    assert "dtype=float32, recurrent_dropout=0.5)" in repr(nbrnn.GRU(4, 32, recurrent_dropout=0.5))
    assert "proj_size=3" in repr(nbrnn.LSTM(4, 32, proj_size=3))
    net = nbrnn.Sequential(nbrnn.GRU(3, 5), nbrnn.Linear(5, 2, activation="softmax"))
    assert repr(net).splitlines() == [
        "<Sequential: 162 parameters>",
        "  0: <GRU(3, 5, dtype=float32): 150 parameters>",
        "  1: <Linear(5, 2, activation='softmax', dtype=float32): 12 parameters>",
    ]
