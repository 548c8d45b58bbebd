"""from_torch: the outputs are torch's, and nothing of what it is given is left unused."""

import collections

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nbrnn
from tests.tolerances import assert_close

# Without torch


@st.composite
def layers(draw):
    kind = draw(st.sampled_from([nbrnn.RNN, nbrnn.GRU, nbrnn.LSTM]))
    options = {"proj_size": draw(st.integers(0, 3))} if kind is nbrnn.LSTM else {}
    return kind(
        draw(st.integers(1, 4)), 4, draw(st.integers(1, 11)), bias=draw(st.booleans()),
        bidirectional=draw(st.booleans()), dtype=draw(st.sampled_from(["float32", "float64"])), rng=0, **options,
    )  # fmt: skip


@given(layers(), st.text(alphabet="ab._lweight_ih0", max_size=6), st.randoms(use_true_random=False))
def test_names_and_shapes_tell_what_a_stack_is(layer, prefix, random):
    names = list(layer.params)
    random.shuffle(names)
    mapping = {prefix + name: layer.params[name] for name in names}
    again = nbrnn.from_torch(mapping)
    assert repr(again) == repr(layer)
    assert again.flat.tobytes() == layer.flat.tobytes()
    mapping["other.weight"] = mapping["z." + prefix] = np.ones(3)
    if not "other.weight".startswith(prefix):
        assert nbrnn.from_torch(mapping, prefix=prefix).flat.tobytes() == layer.flat.tobytes()
    with pytest.raises(ValueError, match=r"tensors not used: .*other\.weight"):
        nbrnn.from_torch(mapping)


@pytest.mark.parametrize("make", [nbrnn.RNNCell, nbrnn.GRUCell, nbrnn.LSTMCell])
@pytest.mark.parametrize("bias", [True, False])
def test_names_without_a_layer_are_of_a_cell(make, bias):
    cell = make(2, 3, bias=bias)
    again = nbrnn.from_torch({"cell." + name: a for name, a in cell.params.items()})
    assert type(again) is make
    assert repr(again) == repr(cell)
    assert again.flat.tobytes() == cell.flat.tobytes()


def test_what_names_do_not_tell_can_be_said():
    made = nbrnn.from_torch(dict(nbrnn.RNN(2, 3, 2).params), nonlinearity="relu", batch_first=True, dropout=0.5)
    assert (made.nonlinearity, made.batch_first, made.dropout) == ("relu", True, 0.5)
    assert nbrnn.from_torch(dict(nbrnn.RNN(2, 3).params)).nonlinearity == "tanh"
    assert nbrnn.from_torch(dict(nbrnn.RNNCell(2, 3).params), nonlinearity="relu").nonlinearity == "relu"


def changed(**changes):
    """Parameters of a GRU with two layers, some of them otherwise (None: missing)."""
    params = {name: np.asarray(a) for name, a in nbrnn.GRU(2, 3, 2).params.items()} | changes
    return {"r." + name: a for name, a in params.items() if a is not None}


def two():
    one, other = nbrnn.GRU(2, 3).params, nbrnn.LSTM(3, 3).params
    return {"encoder.rnn." + k: a for k, a in one.items()} | {"decoder.rnn." + k: a for k, a in other.items()}


def test_a_prefix_chooses():
    assert type(nbrnn.from_torch(two(), prefix="encoder.rnn.")) is nbrnn.GRU
    assert type(nbrnn.from_torch(two(), prefix="decoder")) is nbrnn.LSTM


LSTM = dict(nbrnn.LSTM(2, 3, proj_size=2).params)


@pytest.mark.parametrize(
    "error, text, mapping, options",
    [
        (ValueError, "one recurrent stack, got 'decoder.rnn.', 'encoder.rnn.': choose one with prefix=", two(), {}),
        (ValueError, "a recurrent stack that begins with 'x', got tensors 'encoder.rnn.weight_ih_l0'", two(), {"prefix": "x"}),
        (ValueError, "a recurrent stack, got tensors none", {}, {}),
        (ValueError, "tensors not used: 'fc.weight'; prefix='r.' chooses", changed() | {"fc.weight": np.ones(1)}, {}),
        (ValueError, "tensors not used: 'r.fc.weight'", changed() | {"r.fc.weight": np.ones(1)}, {"prefix": "r."}),
        (ValueError, "tensors not used: r.weight_hr_l1", changed(weight_hr_l1=np.ones((2, 2), np.float32)), {}),
        (ValueError, "tensors missing: r.bias_hh_l2, .*; tensors not used: r.weight_ih_l7", changed(weight_ih_l1=None, weight_ih_l7=np.ones((9, 3), np.float32)), {}),
        (ValueError, "tensors missing: r.weight_hh_l1", changed(weight_hh_l1=None), {}),
        (ValueError, "tensors missing: r.bias_hh_l0", changed(bias_hh_l0=None), {}),
        (ValueError, "tensor missing: r.weight_hh_l0", changed(weight_hh_l0=None), {}),
        (ValueError, "tensors missing: r.bias_hh_l0_reverse", changed(weight_ih_l0_reverse=np.ones((9, 2), np.float32)), {}),
        (ValueError, r"tensor r.weight_ih_l1 must be float32 of shape \(9, 3\), got .* \(9, 4\)", changed(weight_ih_l1=np.ones((9, 4), np.float32)), {}),
        (ValueError, r"tensor r.weight_ih_l0 must be a matrix, got shape \(9,\)", changed(weight_ih_l0=np.ones(9, np.float32)), {}),
        (ValueError, "r.weight_hh_l0 must have 1, 3 or 4 blocks of 3 rows, got 6 rows", changed(weight_hh_l0=np.ones((6, 3), np.float32)), {}),
        (ValueError, "r.weight_hh_l0 must have 4 blocks of 4 rows, as it has a projection, got 9 rows", changed(weight_hr_l0=np.ones((3, 4), np.float32)), {}),
        (ValueError, "must have 4 blocks", {name.removesuffix("_l0"): a for name, a in LSTM.items()} | {"weight_hh": np.ones((9, 3), np.float32)}, {}),
        (ValueError, "one dtype, got float32, float64", changed(bias_hh_l1=np.ones(9)), {}),
        (TypeError, r"tensor r.bias_hh_l1 must be float32 or float64, got float16: convert it", changed(bias_hh_l1=np.ones(9, np.float16)), {}),
        (TypeError, "tensor r.bias_hh_l1 must be a tensor or an array of float32 or float64, got int64", changed(bias_hh_l1=np.arange(9)), {}),
        (TypeError, "tensor r.bias_hh_l1 must be a tensor or an array of float32 or float64, got list", changed(bias_hh_l1=[1.0] * 9), {}),
        (TypeError, "names of tensors must be str, got 3", {3: np.ones(1)}, {}),
        (ValueError, "nonlinearity must be None for GRU,", changed(), {"nonlinearity": "tanh"}),
        (ValueError, "batch_first must be None for GRUCell,", dict(nbrnn.GRUCell(2, 3).params), {"batch_first": True}),
        (ValueError, "dropout must be", changed(), {"dropout": 2}),
        (TypeError, "module_or_state_dict must be a module of torch.nn or a mapping of names to tensors, got list", [], {}),
        (TypeError, "must be a module of torch.nn or a mapping of names to tensors, got Adam", nbrnn.optim.Adam(nbrnn.GRU(2, 3)), {}),
    ],
)  # fmt: skip
def test_what_is_not_a_stack_is_refused(error, text, mapping, options):
    with pytest.raises(error, match=text):
        nbrnn.from_torch(mapping, **options)


# With torch


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def results(made):
    """The arrays of nested tuples, of torch's tensors or ours."""
    if isinstance(made, tuple):
        return [a for part in made for a in results(part)]
    return [made.detach().numpy() if hasattr(made, "detach") else made]


def compare(torch, module, net, *shape, dtype="float32", ours=lambda made: made, x=None):
    """Outputs of both for random numbers, or for x; ``ours``: what of net's corresponds."""
    x = np.random.default_rng(0).normal(size=shape).astype(dtype) if x is None else x
    module.eval()
    wanted, got = results(module(torch.from_numpy(x))), results(ours(net(x)))
    assert len(wanted) == len(got)
    for a, b in zip(got, wanted, strict=True):
        assert a.dtype == b.dtype
        assert_close(a, b, dtype, len(x), type(module).__name__)


OPTIONS = [
    {}, {"num_layers": 3, "bidirectional": True}, {"bias": False, "batch_first": True},
    {"bidirectional": True, "bias": False}, {"num_layers": 2, "dropout": 0.3},
]  # fmt: skip
MODULES = [(kind, options) for kind in ("RNN", "GRU", "LSTM") for options in OPTIONS]
MODULES += [("RNN", {"nonlinearity": "relu", "num_layers": 2})]
MODULES += [("LSTM", {"proj_size": 2}), ("LSTM", {"proj_size": 3, "num_layers": 2, "bidirectional": True})]


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind, options", MODULES)
def test_recurrent_modules(torch, kind, options, dtype):
    module = getattr(torch.nn, kind)(3, 5, dtype=getattr(torch, dtype), **options)
    net = nbrnn.from_torch(module)
    assert type(net) is getattr(nbrnn, kind)
    for name, value in options.items():
        assert getattr(net, name) == value
    compare(torch, module, net, 6, 2, 3, dtype=dtype)
    seen = {name: options[name] for name in ("nonlinearity", "batch_first", "dropout") if name in options}
    plain = nbrnn.from_torch({"a.b." + name: tensor for name, tensor in module.state_dict().items()}, **seen)
    assert repr(plain) == repr(net)
    assert plain.flat.tobytes() == net.flat.tobytes()


@pytest.mark.parametrize("kind", ["RNNCell", "GRUCell", "LSTMCell"])
@pytest.mark.parametrize("bias", [True, False])
def test_cells(torch, kind, bias):
    options = {"nonlinearity": "relu"} if kind == "RNNCell" else {}
    module = getattr(torch.nn, kind)(3, 5, bias=bias, **options)
    compare(torch, module, nbrnn.from_torch(module), 2, 3)
    compare(torch, module, nbrnn.from_torch(module.state_dict(), **options), 2, 3)


def first(made):
    return made[0]


@pytest.mark.parametrize("bias", [True, False])
def test_linear_and_its_activations(torch, bias):
    nn = torch.nn
    module = nn.Linear(3, 4, bias=bias, dtype=torch.float64)
    compare(torch, module, nbrnn.from_torch(module), 6, 2, 3, dtype="float64", ours=first)
    for activation in (nn.Softmax(dim=-1), nn.Sigmoid(), nn.Tanh(), nn.ReLU(inplace=True)):
        module = nn.Sequential(nn.Linear(3, 4, bias=bias), activation, nn.Dropout(0.2), nn.Sequential(nn.Linear(4, 2)))
        net = nbrnn.from_torch(module)
        assert len(net) == 3
        assert net[1].p == 0.2
        compare(torch, module, net, 6, 2, 3, ours=first)


@pytest.mark.parametrize("padding", [None, 0, -1])
def test_embedding(torch, padding):
    module = torch.nn.Embedding(5, 3, padding_idx=padding)
    net = nbrnn.from_torch(module)
    assert net.padding_idx == module.padding_idx
    compare(torch, module, net, x=np.arange(5)[:, None], ours=first)
    module = torch.nn.Sequential(module, torch.nn.Linear(3, 2))
    compare(torch, module, nbrnn.from_torch(module), x=np.arange(5)[:, None], ours=first)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_layer_norm(torch, affine, dtype):
    nn, to = torch.nn, getattr(torch, dtype)
    module = nn.Sequential(nn.Linear(3, 4, dtype=to), nn.LayerNorm(4, eps=1e-3, elementwise_affine=affine, dtype=to))
    with torch.no_grad():
        for parameter in module[1].parameters():
            parameter.normal_()
    net = nbrnn.from_torch(module)
    assert (net[1].eps, net[1].elementwise_affine) == (1e-3, affine)
    compare(torch, module, net, 6, 2, 3, dtype=dtype, ours=first)


class First(collections.namedtuple("First", "module")):
    """A torch network whose recurrent layers give y only: what nbrnn's Sequential does with one of torch's."""

    def __call__(self, x):
        for part in self.module:
            x = part(x)
            x = x[0] if isinstance(x, tuple) else x
        return x

    def eval(self):
        self.module.eval()


def test_recurrent_layers_in_a_sequential(torch):
    nn = torch.nn
    module = nn.Sequential(nn.GRU(3, 5, batch_first=True), nn.LSTM(5, 4, bidirectional=True, batch_first=True), nn.Linear(8, 2), nn.Tanh())  # fmt: skip
    compare(torch, First(module), nbrnn.from_torch(module), 6, 4, 3, ours=first)


def test_modules_keep_nothing_of_torch(torch):
    module = torch.nn.GRU(2, 3)
    net = nbrnn.from_torch(module)
    before = net.flat.copy()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 1
    assert (net.flat == before).all()


@pytest.mark.parametrize(
    "error, text, make",
    [
        (TypeError, "torch.nn.modules.conv.Conv1d has no counterpart", lambda nn: nn.Conv1d(2, 3, 1)),
        (TypeError, "torch.nn.modules.conv.Conv1d has no counterpart", lambda nn: nn.Sequential(nn.Conv1d(2, 3, 1))),
        (TypeError, "batchnorm.BatchNorm1d has no counterpart", lambda nn: nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))),
        (TypeError, "Mine has no counterpart", lambda nn: type("Mine", (nn.GRU,), {})(2, 3)),
        (TypeError, "Tanh has no counterpart by itself", lambda nn: nn.Tanh()),
        (TypeError, "Tanh has no counterpart by itself", lambda nn: nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Tanh())),
        (TypeError, "ReLU has no counterpart by itself", lambda nn: nn.Sequential(nn.Dropout(), nn.ReLU())),
        (ValueError, "dim of Softmax must be -1, the last axis, got 1", lambda nn: nn.Sequential(nn.Linear(2, 3), nn.Softmax(dim=1))),
        (ValueError, "max_norm of Embedding must be None, got 1.0", lambda nn: nn.Embedding(3, 2, max_norm=1.0)),
        (ValueError, "scale_grad_by_freq of Embedding must be False", lambda nn: nn.Embedding(3, 2, scale_grad_by_freq=True)),
        (ValueError, "normalized_shape of LayerNorm must be one axis", lambda nn: nn.LayerNorm((2, 3))),
        (ValueError, "LayerNorm must have a bias beside its weight", lambda nn: nn.LayerNorm(2, bias=False)),
        (TypeError, "tensor weight must be float32 or float64, got float16: convert it", lambda nn: nn.Linear(2, 3).half()),
        (TypeError, "tensor weight_ih_l0 must be float32 or float64, got bfloat16: convert it", lambda nn: nn.GRU(2, 3).bfloat16()),
        (TypeError, "tensor weight_ih_l0 must be float32 or float64, got bfloat16", lambda nn: nn.GRU(2, 3).bfloat16().state_dict()),
        (ValueError, "all tensors must be of one dtype, got float32, float64", lambda nn: nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2).double())),
        (ValueError, "tensors missing: weight", lambda nn: nn.utils.weight_norm(nn.Linear(2, 3))),
        (TypeError, "ParametrizedLinear has no counterpart", lambda nn: nn.utils.parametrizations.weight_norm(nn.Linear(2, 3))),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_modules_without_a_counterpart_are_refused(torch, error, text, make):
    with pytest.raises(error, match=text):
        nbrnn.from_torch(make(torch.nn))


def test_tied_tensors_are_refused(torch):
    nn = torch.nn
    one = nn.Linear(3, 3)
    with pytest.raises(ValueError, match=r"0\.weight and 2\.weight are one tensor"):
        nbrnn.from_torch(nn.Sequential(one, nn.Dropout(), one))


def test_a_module_tells_by_itself(torch):
    with pytest.raises(ValueError, match="batch_first, prefix must be None for a module"):
        nbrnn.from_torch(torch.nn.GRU(2, 3), prefix="", batch_first=True)
