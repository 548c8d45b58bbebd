"""save and load: the same network to the bit, or an error that names what is wrong."""

import functools
import hashlib
import pickle
import re

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

import nbrnn
from nbrnn.io import container, network
from nbrnn.module import Parametric
from tests.minimal_gated_unit import MGULayer

FLOATS = ("float32", "float64")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("io")


def again(net, folder, **more):
    """Saved and loaded."""
    nbrnn.save(net, folder / "net")
    return nbrnn.load(folder / "net", **more)


def assert_same(a, b):
    """Two networks of one kind, with one look and the same parameters to the bit."""
    assert type(a) is type(b)
    assert repr(a) == repr(b)
    assert network.describe(a) == network.describe(b)
    assert list(a.params) == list(b.params)
    assert a.flat.dtype == b.flat.dtype
    assert a.flat.tobytes() == b.flat.tobytes()


def leaves(result):
    """The arrays of y and the state."""
    if isinstance(result, tuple | list):
        return [a for part in result for a in leaves(part)]
    return [] if result is None else [result]


def assert_same_results(a, b, x, **more):
    ours, theirs = leaves(a(x, **more)), leaves(b(x, **more))
    assert [u.tobytes() for u in ours] == [v.tobytes() for v in theirs]


@st.composite
def recurrent(draw, I, dtype, batch_first):
    """(a layer, its output size)."""
    kind = draw(st.sampled_from([nbrnn.RNN, nbrnn.GRU, nbrnn.LSTM]))
    H = draw(st.integers(1, 5))
    options = {"nonlinearity": draw(st.sampled_from(["tanh", "relu"]))} if kind is nbrnn.RNN else {}
    if kind is nbrnn.LSTM and H > 1:
        options["proj_size"] = draw(st.integers(0, H - 1))
    layer = kind(
        I, H, draw(st.integers(1, 3)), bias=draw(st.booleans()), bidirectional=draw(st.booleans()),
        dropout=draw(st.sampled_from([0.0, 0.1])), batch_first=batch_first, dtype=dtype, rng=1, **options,
    )  # fmt: skip
    return layer, (options.get("proj_size") or H) * (2 if layer.bidirectional else 1)


@st.composite
def linear(draw, I, dtype):
    O = draw(st.integers(1, 4))
    activation = draw(st.sampled_from([None, "softmax", "sigmoid", "tanh", "relu"]))
    return nbrnn.Linear(I, O, draw(st.booleans()), activation, dtype=dtype, rng=2), O


@st.composite
def networks(draw, I=3, depth=2):
    """(a Sequential, with others in it, its input size, dtype)."""
    dtype, batch_first = draw(st.sampled_from(FLOATS)), draw(st.booleans())

    def sequential(size, depth):
        parts = []
        for _ in range(draw(st.integers(1, 3))):
            kind = draw(st.sampled_from(["recurrent", "linear", "norm", "dropout", "sequential"]))
            if kind == "sequential" and depth:
                part, size = sequential(size, depth - 1)
            elif kind == "recurrent":
                part, size = draw(recurrent(size, dtype, batch_first))
            elif kind == "linear":
                part, size = draw(linear(size, dtype))
            elif kind == "norm":
                part = nbrnn.LayerNorm(size, draw(st.sampled_from([1e-5, 0.1])), draw(st.booleans()), dtype=dtype)
            else:
                part = nbrnn.Dropout(draw(st.sampled_from([0.0, 0.1, 1 / 3])))
            parts.append(part)
        return nbrnn.Sequential(*parts), size

    return sequential(I, depth)[0], dtype


@given(networks())
def test_networks_come_back_to_the_bit(folder, drawn):
    net, dtype = drawn
    loaded = again(net, folder)
    assert_same(net, loaded)
    assert_same_results(net, loaded, np.random.default_rng(0).normal(size=(4, 2, 3)).astype(dtype))
    plain = safetensors.numpy.load_file(folder / "net")
    assert {name: a.tobytes() for name, a in plain.items()} == {name: a.tobytes() for name, a in net.params.items()}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    "make",
    [nbrnn.RNNCell, functools.partial(nbrnn.RNNCell, nonlinearity="relu"), nbrnn.GRUCell, nbrnn.LSTMCell,
     functools.partial(nbrnn.GRUCell, bias=False)],
)  # fmt: skip
def test_cells_come_back(folder, make, dtype):
    cell = make(3, 4, dtype=dtype)
    loaded = again(cell, folder)
    assert_same(cell, loaded)
    assert_same_results(cell, loaded, np.ones((2, 3), dtype))


@pytest.mark.parametrize("mode", ["last", "mean", "max"])
def test_parts_for_symbols_and_whole_sequences_come_back(folder, mode):
    net = nbrnn.Sequential(nbrnn.Embedding(5, 3, padding_idx=-1, rng=0), nbrnn.GRU(3, 4, rng=1), nbrnn.Pool(mode))
    loaded = again(net, folder)
    assert_same(net, loaded)
    assert loaded[0].padding_idx == 4
    assert_same_results(net, loaded, np.arange(10).reshape(5, 2) % 5, lengths=[5, 2])


def test_unusual_parameters_come_back(folder):
    layer = nbrnn.Linear(2, 3)
    numbers = np.array([0x7FC00001, 0xFF800000, 0x80000000, 1, 0x7F7FFFFF, 0, 0x3F800001, 0x7F800000, 2], np.uint32)
    layer.flat = numbers.view(np.float32)
    assert again(layer, folder).flat.tobytes() == numbers.tobytes()


def test_a_loaded_network_can_be_trained_and_pickled(folder):
    net = nbrnn.Sequential(nbrnn.GRU(2, 3, rng=0), nbrnn.Dropout(0.5), nbrnn.Linear(3, 1, rng=1))
    loaded = again(net, folder)
    x = np.ones((5, 2, 2), np.float32)
    flat = []
    for one in (net, loaded):
        y, _, tape = one.forward(x, rng=7)  # generators themselves are fresh
        flat.append(one.backward(tape, y.copy()).flat.tobytes())
    assert flat[0] == flat[1]
    assert_same(pickle.loads(pickle.dumps(loaded)), net)
    loaded.flat = loaded.flat + 1
    assert (loaded.flat != net.flat).all()


def test_a_part_can_be_saved_by_itself(folder):
    net = nbrnn.Sequential(nbrnn.GRU(2, 3, rng=0), nbrnn.Linear(3, 1, rng=1))
    assert_same(again(net[0], folder), net[0])


# Classes of one's own


class GRU(nbrnn.GRU):
    """Of the same name as nbrnn's."""


class Wide(nbrnn.Linear):
    """With arguments of its own."""

    def __init__(self, size, *, rng=None):
        self.size = size
        super().__init__(size, 2 * size, rng=rng)


class Forgets(nbrnn.Linear):
    def __init__(self, size):
        super().__init__(size, size)


class Drawn(nbrnn.Linear):
    """With an initialiser."""

    def __init__(self, size, kernel_init=None, seen=None, *, rng=None):
        self.size, self.kernel_init, self.seen = size, kernel_init, seen
        super().__init__(size, size, rng=rng)


@pytest.mark.parametrize("make", [lambda: MGULayer(2, 3, num_layers=2, rng=0), lambda: GRU(2, 3), lambda: Wide(2)])
def test_own_classes_come_back_if_they_are_given(folder, make):
    net = nbrnn.Sequential(make(), nbrnn.Dropout(0.1))
    name = type(net[0]).__name__
    assert_same(again(net, folder, classes={name: type(net[0])}), net)
    with pytest.raises(ValueError, match=rf"needs the class '{name}': give classes={{'{name}': ...}}"):
        nbrnn.load(folder / "net")


def test_initialisers_that_are_functions_are_left_out(folder):
    net = Drawn(3, kernel_init=np.ones, seen="here")
    loaded = again(net, folder, classes={"Drawn": Drawn})
    assert (loaded.kernel_init, loaded.seen) == (None, "here")
    assert loaded.flat.tobytes() == net.flat.tobytes()
    net = Drawn(3, kernel_init="orthogonal")
    assert again(net, folder, classes={"Drawn": Drawn}).kernel_init == "orthogonal"


def test_what_cannot_be_saved(tmp_path):
    path = tmp_path / "net"
    for wrong in ({}, nbrnn.GRU, None):
        with pytest.raises(TypeError, match="net must be a layer or a network, got"):
            nbrnn.save(wrong, path)
    with pytest.raises(TypeError, match="seen of Drawn can't be saved: it must be a number"):
        nbrnn.save(Drawn(3, seen=np.ones), path)
    with pytest.raises(TypeError, match=r"Forgets must keep its argument size under that name, as self\.size"):
        nbrnn.save(Forgets(3), path)
    assert not list(tmp_path.iterdir())


# Files that aren't right


def spoilt(path, change, arrays=None):
    """What load says of a file of a GRU(2, 3) whose description or arrays have been changed."""
    layer = nbrnn.GRU(2, 3, rng=0)
    description, tensors = network.describe(layer), {name: np.asarray(a) for name, a in layer.params.items()}
    description = change(description) or description
    if arrays:
        arrays(tensors)
    container.write(path, tensors, {"network": description})
    with pytest.raises(ValueError, match="can't be loaded") as caught:
        nbrnn.load(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_descriptions_that_are_not_right_are_refused(folder):
    path = folder / "spoilt"

    def arguments(**values):
        return lambda d: d["arguments"].update(values)

    assert "needs the class 'nbrnn.Transformer': this nbrnn has no such class" in spoilt(
        path, lambda d: d.update({"class": "nbrnn.Transformer"})
    )
    for name in ("nbrnn.fit", "nbrnn.Gradients", "nbrnn.losses", "nbrnn.__version__", "nbrnn.recurrent", "os.system", "builtins.eval"):  # fmt: skip
        assert f"needs the class {name!r}" in spoilt(path, lambda d, name=name: d.update({"class": name}))
    assert "has no argument 'depth'" in spoilt(path, arguments(depth=3))
    assert "has no argument 'rng'" in spoilt(path, arguments(rng=3))
    assert "has no argument 'self'" in spoilt(path, arguments(self=3))
    assert "hidden_size must be an integer" in spoilt(path, arguments(hidden_size="3"))
    assert "hidden_size must be an integer" in spoilt(path, arguments(hidden_size=[3]))
    assert "hidden_size must be >= 1" in spoilt(path, arguments(hidden_size=0))
    assert "dtype must be float32 or float64" in spoilt(path, arguments(dtype="object"))
    assert "hidden_size" in spoilt(path, lambda d: d["arguments"].pop("hidden_size") and None)
    assert "architecture" in spoilt(path, arguments(hidden_size={"size": 3}))
    assert "architecture" in spoilt(path, lambda d: [d])
    assert "architecture" in spoilt(path, lambda d: {"class": "nbrnn.GRU"})
    sequential = {"class": "nbrnn.Sequential", "arguments": {"parts": [3]}}
    assert "part 0 must be a layer or a network, got int" in spoilt(path, lambda d: sequential)
    assert "can't be loaded" in spoilt(path, lambda d: sequential | {"arguments": {"parts": 3}})


@pytest.mark.parametrize("depth", [10, 300, 100_000])
def test_descriptions_of_any_depth_are_loaded_or_refused(folder, depth):
    """Written by hand: they can't even be made by saving."""
    outer, inner = (
        '{"class":"nbrnn.Sequential","arguments":{"parts":[',
        '{"class":"nbrnn.Dropout","arguments":{"p":0.5}}',
    )
    text = '{"network":' + outer * depth + inner + "]}}" * depth + "}"
    note = f'{{"version":1,"sha256":"{hashlib.sha256(text.encode()).hexdigest()}","metadata":{text}}}'
    (folder / "deep").write_bytes(safetensors.numpy.save({}, {"nbrnn": note}))
    try:
        found = nbrnn.load(folder / "deep")
    except ValueError as error:  # versions of Python differ in how deep it may be
        refused = str(error)
        assert depth > 10
    else:
        refused = None
        assert depth < 100_000
        for _ in range(depth - 1):
            assert isinstance(found, nbrnn.Sequential)
            (found,) = found
        assert isinstance(found[0], nbrnn.Dropout)
    assert refused is None or re.search("deep' (can't be loaded|is damaged)", refused)


def test_tensors_that_are_not_right_are_refused(folder):
    path = folder / "spoilt"

    def nothing(description):
        return None

    assert "tensors missing: weight_hh_l0" in spoilt(path, nothing, lambda t: t.pop("weight_hh_l0"))
    assert "tensors not used: more" in spoilt(path, nothing, lambda t: t.update(more=np.ones(1)))
    assert "tensor weight_hh_l0 must be float32 of shape (9, 3), got float32 of shape (3, 9)" in spoilt(
        path, nothing, lambda t: t.update(weight_hh_l0=t["weight_hh_l0"].T)
    )
    assert "tensor bias_hh_l0 must be float32 of shape (9,), got float64 of shape (9,)" in spoilt(
        path, nothing, lambda t: t.update(bias_hh_l0=np.ones(9))
    )
    container.write(path, {}, {"epoch": 3})
    with pytest.raises(ValueError, match="it holds epoch, and no network"):
        nbrnn.load(path)
    with pytest.raises(FileNotFoundError):
        nbrnn.load(folder / "missing")


def test_classes_are_classes_of_layers(folder):
    nbrnn.save(nbrnn.Dropout(0.5), folder / "net")
    with pytest.raises(TypeError, match="classes must be a mapping of names to classes, got type"):
        nbrnn.load(folder / "net", classes=MGULayer)
    with pytest.raises(TypeError, match=r"classes\['x'\] must be a class of layers or networks, got <class 'dict'>"):
        nbrnn.load(folder / "net", classes={"x": dict})


def test_all_public_networks_can_be_described():
    """The arguments of each class are kept under their names, or the class says how it is made."""
    known = network.public()
    assert {"RNN", "GRU", "LSTM", "Linear", "Dropout", "Sequential", "RNNCell", "GRUCell", "LSTMCell"} <= set(known)
    assert all(issubclass(cls, Parametric) for cls in known.values())
