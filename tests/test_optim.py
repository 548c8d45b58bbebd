"""Optimisers against the formulas and against torch's; states, parts of networks, bad input, SciPy."""

import copy
import json
import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nbrnn
from nbrnn.module import Gradients
from tests.reference.optimisers import STEPS
from tests.tolerances import error as distance

NAN, INF = float("nan"), float("inf")
OPTIM = nbrnn.optim
KINDS = ["SGD", "RMSprop", "Adam", "AdamW"]
X = np.random.default_rng(5).normal(size=(6, 2, 3)).astype(np.float32)


def gradients_of(net, rng):
    flat = rng.normal(size=net.flat.size).astype(net.flat.dtype)
    return Gradients(None, None, None, flat, net.params.shapes)


@st.composite
def optimisers(draw):
    """(kind, settings)."""
    kind = draw(st.sampled_from(KINDS))
    settings = {"lr": draw(st.sampled_from([0.0, 1e-3, 0.02]))}
    settings["weight_decay"] = draw(st.sampled_from([0.0, 0.1]))
    if kind in ("SGD", "RMSprop"):
        settings["momentum"] = draw(st.sampled_from([0.0, 0.9]))
    if kind == "SGD":
        settings["nesterov"] = settings["momentum"] > 0 and draw(st.booleans())
        settings["dampening"] = 0.0 if settings["nesterov"] else draw(st.sampled_from([0.0, 0.3]))
    elif kind == "RMSprop":
        settings |= {"alpha": draw(st.sampled_from([0.5, 0.99])), "centered": draw(st.booleans()), "eps": 1e-3}
    else:
        settings |= {"betas": draw(st.sampled_from([(0.9, 0.999), (0.0, 0.5)])), "amsgrad": draw(st.booleans())}
    return kind, settings


def vector_net(size, dtype):
    """A network with that many parameters."""
    return nbrnn.Linear(size, 1, bias=False, dtype=dtype, rng=0)


@given(optimisers(), st.integers(1, 70), st.sampled_from([np.float32, np.float64]), st.integers(0, 2**32 - 1))
def test_steps_are_those_of_the_formulas(optimiser, size, dtype, seed):
    kind, settings = optimiser
    net, rng, kept = vector_net(size, dtype), np.random.default_rng(seed), {}
    opt, wanted = getattr(OPTIM, kind)(net, **settings), net.flat.astype(np.float64)
    for t in range(1, 6):
        grads = gradients_of(net, rng)
        before = grads.flat.copy()
        opt.step(grads)
        np.testing.assert_array_equal(grads.flat, before)
        wanted = STEPS[kind](wanted, before.astype(np.float64), kept, t, **settings)
    assert net.flat.dtype == dtype
    assert distance(net.flat, wanted) <= (2e-6 if dtype == np.float32 else 1e-13)


CHOICES = [
    ("SGD", {}),
    ("SGD", {"lr": 0.01, "momentum": 0.9}),
    ("SGD", {"lr": 0.01, "momentum": 0.8, "dampening": 0.5, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.01, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    ("RMSprop", {}),
    ("RMSprop", {"lr": 0.003, "alpha": 0.9, "eps": 1e-6, "weight_decay": 0.1, "momentum": 0.9}),
    ("RMSprop", {"lr": 0.003, "centered": True}),
    ("RMSprop", {"lr": 0.003, "centered": True, "momentum": 0.5}),
    ("Adam", {}),
    ("Adam", {"lr": 0.03, "betas": (0.8, 0.99), "eps": 1e-6, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.01, "amsgrad": True}),
    ("AdamW", {}),
    ("AdamW", {"lr": 0.03, "weight_decay": 0.5, "amsgrad": True}),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind, settings", CHOICES)
def test_agrees_with_torch(kind, settings, dtype):
    torch = pytest.importorskip("torch")
    net = nbrnn.RNN(3, 7, dtype=dtype, rng=0)
    parameter = torch.from_numpy(net.flat.copy()).requires_grad_()
    ours, theirs = getattr(OPTIM, kind)(net, **settings), getattr(torch.optim, kind)([parameter], **settings)
    rng = np.random.default_rng(0)
    for _ in range(100):
        grads = gradients_of(net, rng)
        parameter.grad = torch.from_numpy(grads.flat.copy())
        ours.step(grads)
        theirs.step()
    assert distance(net.flat, parameter.detach()) <= (1e-6 if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_defaults_are_torchs(kind):
    torch = pytest.importorskip("torch")
    theirs = getattr(torch.optim, kind)([torch.zeros(1)]).defaults
    state = getattr(OPTIM, kind)(nbrnn.RNN(1, 2)).state_dict()
    settings = {name: v for name, v in state.items() if name not in ("kind", "t") and not isinstance(v, np.ndarray)}
    assert settings == {name: theirs[name] for name in settings}


@given(optimisers(), st.integers(0, 4), st.booleans())
def test_states_go_on_to_the_bit(optimiser, steps, by_json):
    kind, settings = optimiser
    net, rng = nbrnn.RNN(3, 4, rng=0), np.random.default_rng(0)
    opt = getattr(OPTIM, kind)(net, **settings)
    for _ in range(steps):
        opt.step(gradients_of(net, rng))
    saved, flat, later = opt.state_dict(), net.flat.copy(), [gradients_of(net, rng) for _ in range(3)]
    for grads in later:  # what was saved is not changed by that
        opt.step(grads)
    arrays = {name: v for name, v in saved.items() if isinstance(v, np.ndarray)}
    plain = {name: v for name, v in saved.items() if name not in arrays}
    if by_json:
        saved = arrays | json.loads(json.dumps(plain, allow_nan=False))
    fresh = getattr(OPTIM, kind)(nbrnn.RNN(3, 4, rng=1))
    fresh.net.flat = flat
    fresh.load_state_dict(saved)
    again = fresh.state_dict()
    assert {name: v for name, v in again.items() if name not in arrays} == plain
    for grads in later:
        fresh.step(grads)
    np.testing.assert_array_equal(fresh.net.flat, net.flat)
    for name in arrays:
        np.testing.assert_array_equal(fresh.state_dict()[name], opt.state_dict()[name])
        assert not np.shares_memory(again[name], saved[name])


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda a: pickle.loads(pickle.dumps(a))])
@pytest.mark.parametrize("kind", KINDS)
def test_copies_have_a_network_of_their_own(kind, again):
    net, rng = nbrnn.Sequential(nbrnn.GRU(3, 5, rng=0), nbrnn.Linear(5, 2, rng=1)), np.random.default_rng(0)
    opt = getattr(OPTIM, kind)(net, lr=0.1)
    opt.step(gradients_of(net, rng))
    twin, before, grads = again(opt), net.flat.copy(), gradients_of(net, rng)
    assert repr(twin) == repr(opt)
    twin.step(grads)
    np.testing.assert_array_equal(net.flat, before)
    opt.step(grads)
    np.testing.assert_array_equal(twin.net.flat, net.flat)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda a: pickle.loads(pickle.dumps(a))])
def test_a_network_and_the_optimiser_of_its_part_copied_together_belong_together(again):
    net, rng = nbrnn.Sequential(nbrnn.GRU(3, 5, rng=0), nbrnn.Linear(5, 2, rng=1)), np.random.default_rng(0)
    second, whole = again([OPTIM.Adam(net[1]), net])
    second.step(gradients_of(whole[1], rng))
    assert (whole.flat[-12:] != net.flat[-12:]).all()
    np.testing.assert_array_equal(whole.flat[:-12], net.flat[:-12])


def test_what_does_nothing_changes_nothing():
    for kind, settings in CHOICES:
        net = nbrnn.RNN(3, 4, rng=0)
        before, zero = net.flat.copy(), np.zeros_like(net.flat)
        opt = getattr(OPTIM, kind)(net, **settings | {"weight_decay": 0.0})
        for _ in range(3):
            opt.step(Gradients(None, None, {}, zero))
        np.testing.assert_array_equal(net.flat, before)
        opt = getattr(OPTIM, kind)(net, **settings | {"lr": 0.0})
        opt.step(gradients_of(net, np.random.default_rng(0)))
        np.testing.assert_array_equal(net.flat, before)


def test_gradients_in_any_memory():
    net = nbrnn.RNN(3, 4, dtype=np.float64, rng=0)
    wanted = {}
    g = np.random.default_rng(0).normal(size=net.flat.size)
    spread = np.zeros((g.size, 2))
    spread[:, 1] = g
    room = np.zeros(8 * g.size + 1, np.uint8)
    shifted = room[1:].view(np.float64)
    shifted[:] = g
    fixed = g.copy()
    fixed.flags.writeable = False
    for name, flat in {"plain": g, "spread": spread[:, 1], "shifted": shifted, "fixed": fixed}.items():
        twin = copy.deepcopy(net)
        OPTIM.Adam(twin).step(Gradients(None, None, {}, flat))
        wanted[name] = twin.flat.tobytes()
    assert len(set(wanted.values())) == 1


def test_gradients_that_are_not_finite_stay_where_they_are():
    for kind, settings in CHOICES:
        net = nbrnn.RNN(3, 4, rng=0)
        g = np.ones_like(net.flat)
        g[3] = NAN
        getattr(OPTIM, kind)(net, **settings).step(Gradients(None, None, {}, g))
        assert np.isnan(net.flat).nonzero()[0].tolist() == [3], kind


def test_centred_rmsprop_survives_a_gradient_that_stays_the_same():
    """v - a^2 is then nothing but rounding, of either sign."""
    net = vector_net(64, np.float32)
    opt, g = OPTIM.RMSprop(net, alpha=0.5, centered=True), np.linspace(0.1, 7, 64).astype(np.float32)
    below = False
    for _ in range(60):
        opt.step(Gradients(None, None, {}, g))
        state = opt.state_dict()
        below |= bool((state["v"] - state["mean"] * state["mean"] < 0).any())
    assert below
    assert np.isfinite(net.flat).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_allocates_nothing(kind):
    net = nbrnn.Linear(500, 200, rng=0)
    opt, grads = getattr(OPTIM, kind)(net), gradients_of(net, np.random.default_rng(0))

    def work():
        opt.step(grads)
        nbrnn.clip_grad_norm(grads, 1.0)
        OPTIM.clip_grad_value(grads, 1e-3)

    work()  # compiled or loaded
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000


# Networks and their parts


def test_packed_copies_are_never_stale():
    for make in (
        lambda: nbrnn.GRU(3, 5, rng=0),
        lambda: nbrnn.Linear(3, 5, rng=0),
        lambda: nbrnn.LSTM(3, 5, 2, bidirectional=True, rng=0),
        lambda: nbrnn.Sequential(nbrnn.GRU(3, 5, rng=0), nbrnn.Linear(5, 2, rng=1)),
        lambda: nbrnn.Sequential(nbrnn.Sequential(nbrnn.RNN(3, 5, rng=0)), nbrnn.Linear(5, 2, rng=1)),
    ):
        net = make()
        net(X)
        opt = OPTIM.Adam(net, lr=0.1)
        for _ in range(3):
            y, _, tape = net.forward(X)
            opt.step(net.backward(tape, y))
            fresh = make()
            fresh.flat = net.flat
            np.testing.assert_array_equal(net(X)[0], fresh(X)[0])
            np.testing.assert_array_equal(net.forward(X)[0], fresh.forward(X)[0])


@pytest.mark.parametrize("q", [0, 1])
def test_a_part_of_a_network_optimised_alone(q):
    """The whole sees it, the other part has not changed, and all tapes through the part are out of date."""
    make = lambda: nbrnn.Sequential(nbrnn.GRU(3, 5, rng=0), nbrnn.Linear(5, 2, rng=1))
    net = nbrnn.Sequential(make(), nbrnn.Linear(2, 2, rng=2))
    inner, part = net[0], net[0][q]
    inputs = [X, inner[0](X)[0]]
    net(X)
    y, _, tape = part.forward(inputs[q])
    through = net.forward(X)[2]
    inside = inner.forward(X)[2]
    other = inner[1 - q].forward(inputs[1 - q])
    last = net[1].forward(inner(X)[0])
    others = np.concatenate([inner[1 - q].flat, net[1].flat])
    versions = [p.params.version for p in (net, inner, part)]
    OPTIM.SGD(part, lr=0.1).step(part.backward(tape, y))
    assert all(p.params.version > before for p, before in zip((net, inner, part), versions, strict=True))
    np.testing.assert_array_equal(np.concatenate([inner[1 - q].flat, net[1].flat]), others)
    for module, old in ((net, through), (inner, inside)):
        with pytest.raises(RuntimeError, match="out of date"):
            module.backward(old, np.zeros((6, 2, 2), np.float32))
    inner[1 - q].backward(other[2], other[0])
    net[1].backward(last[2], last[0])
    fresh = nbrnn.Sequential(make(), nbrnn.Linear(2, 2, rng=2))
    fresh.flat = net.flat
    np.testing.assert_array_equal(net(X)[0], fresh(X)[0])
    np.testing.assert_array_equal(part(inputs[q])[0], fresh[0][q](inputs[q])[0])


def test_an_optimiser_outlives_the_move_into_a_network():
    layer, rng = nbrnn.GRU(3, 5, rng=0), np.random.default_rng(0)
    opt = OPTIM.Adam(layer, lr=0.1)
    opt.step(gradients_of(layer, rng))
    net = nbrnn.Sequential(layer, nbrnn.Linear(5, 2, rng=1))
    before = net.flat.copy()
    opt.step(gradients_of(layer, rng))
    changed = net.flat != before
    assert changed[:150].all()
    assert not changed[150:].any()


def test_cells():
    """A cell's parameters are those of a layer inside it."""
    cell = nbrnn.LSTMCell(3, 5, rng=0)
    opt = OPTIM.RMSprop(cell, lr=0.1)
    cell(X[0])
    for _ in range(2):
        (h, c), tape = cell.forward(X[0])
        opt.step(cell.backward(tape, (h, c)))
        fresh = nbrnn.LSTMCell(3, 5)
        fresh.flat = cell.flat
        np.testing.assert_array_equal(cell(X[0])[0], fresh(X[0])[0])
    (h, c), tape = cell.forward(X[0])
    opt.step(gradients_of(cell, np.random.default_rng(0)))
    with pytest.raises(RuntimeError, match="out of date"):
        cell.backward(tape, (h, c))


def test_a_loop_that_fails_counts_as_a_change():
    net = nbrnn.RNN(3, 4, rng=0)

    def half(vector):
        vector[:9] = 0
        raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        net.params._overwrite(half)
    assert (net(X)[0] == copy.deepcopy(net)(X)[0]).all()


# Bounds for gradients


def test_clip_grad_norm_agrees_with_torch():
    torch = pytest.importorskip("torch")
    net = nbrnn.RNN(3, 4, dtype=np.float64, rng=0)
    _, _, tape = net.forward(np.ones((5, 2, 3)))
    grads = net.backward(tape, np.ones((5, 2, 4)))
    for bound in (1e3, 0.5):
        parameter = torch.zeros(net.flat.size, dtype=torch.float64)
        parameter.grad = torch.from_numpy(grads.flat.copy())
        theirs = torch.nn.utils.clip_grad_norm_([parameter], bound)
        x_before = grads.x.copy()
        assert nbrnn.clip_grad_norm(grads, bound) == pytest.approx(float(theirs), rel=1e-12)
        np.testing.assert_allclose(grads.flat, parameter.grad, rtol=1e-5)
        np.testing.assert_array_equal(grads.x, x_before)
    np.testing.assert_array_equal(np.concatenate([a.ravel() for a in grads.params.values()]), grads.flat)
    assert np.linalg.norm(grads.flat) == pytest.approx(0.5, rel=1e-6)


@given(st.integers(0, 3000), st.sampled_from([np.float32, np.float64]), st.integers(0, 2**32 - 1))
def test_norms_of_vectors_of_any_length(size, dtype, seed):
    g = (10 ** np.random.default_rng(seed).uniform(-3, 3, size)).astype(dtype)
    norm = nbrnn.clip_grad_norm(Gradients(None, None, {}, g), INF)
    assert norm == pytest.approx(np.linalg.norm(g.astype(np.float64)), rel=1e-14)
    two = np.stack([g, g], 1)  # other memory, the same bits
    assert nbrnn.clip_grad_norm(Gradients(None, None, {}, two[:, 0]), INF) == norm


def test_norms_beyond_the_range_of_float32_squares():
    grads = Gradients(None, None, {}, np.full(4, 1e30, np.float32))
    assert nbrnn.clip_grad_norm(grads, 1.0) == pytest.approx(2e30)
    np.testing.assert_allclose(grads.flat, 0.5, rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_gradients_that_are_not_finite_are_left_alone(value):
    grads = Gradients(None, None, {}, np.array([1.0, value, 2.0]))
    assert not np.isfinite(nbrnn.clip_grad_norm(grads, 1.0))
    np.testing.assert_array_equal(grads.flat, [1.0, value, 2.0])


def test_clip_grad_value():
    grads = Gradients(None, None, {}, np.array([1.0, -3.0, 0.5]))
    assert OPTIM.clip_grad_value(grads, INF) == 3
    assert OPTIM.clip_grad_value(grads, 4.0) == 3
    np.testing.assert_array_equal(grads.flat, [1, -3, 0.5])
    assert OPTIM.clip_grad_value(grads, 0.75) == 3
    np.testing.assert_array_equal(grads.flat, [0.75, -0.75, 0.5])
    assert OPTIM.clip_grad_value(Gradients(None, None, {}, np.zeros(0)), 1.0) == 0
    grads.flat[:] = [NAN, INF, -INF]
    assert np.isnan(OPTIM.clip_grad_value(grads, 2.0))
    np.testing.assert_array_equal(grads.flat, [NAN, 2, -2])
    infinite = Gradients(None, None, {}, np.array([1.0, -INF], np.float32))
    assert OPTIM.clip_grad_value(infinite, 1e300) == INF
    np.testing.assert_array_equal(infinite.flat, [1, -np.finfo(np.float32).max])


# Bad input


@pytest.mark.parametrize(
    "kind, change, error, words",
    [
        ("Adam", dict(lr=-1), ValueError, "lr must be a finite number >= 0, got -1"),
        ("SGD", dict(lr=NAN), ValueError, "lr must be a finite number"),
        ("AdamW", dict(lr=INF), ValueError, "lr must be a finite number"),
        ("RMSprop", dict(lr="fast"), TypeError, "lr must be a real number"),
        ("Adam", dict(betas=(0.9, 1.0)), ValueError, "betas must be < 1"),
        ("AdamW", dict(betas=(NAN, 0.9)), ValueError, r"betas\[0\] must be"),
        ("Adam", dict(betas=0.9), ValueError, "betas must be a pair"),
        ("Adam", dict(eps=-1e-8), ValueError, "eps must be"),
        ("Adam", dict(amsgrad=1), TypeError, "amsgrad must be True or False"),
        ("SGD", dict(weight_decay=NAN), ValueError, "weight_decay must be"),
        ("SGD", dict(momentum=-0.1), ValueError, "momentum must be a finite number >= 0"),
        ("SGD", dict(dampening=None), TypeError, "dampening must be a real number"),
        ("SGD", dict(nesterov=True), ValueError, "nesterov must be False unless momentum is > 0 and dampening 0"),
        ("SGD", dict(nesterov=True, momentum=0.9, dampening=0.1), ValueError, "nesterov must be False unless"),
        ("RMSprop", dict(alpha=1.1), ValueError, "alpha must be a finite number >= 0 and <= 1"),
        ("RMSprop", dict(eps=INF), ValueError, "eps must be"),
        ("RMSprop", dict(centered=None), TypeError, "centered must be True or False"),
        ("RMSprop", dict(net=3), TypeError, "net must be a layer or a network, got int"),
    ],
)
def test_bad_input(kind, change, error, words):
    with pytest.raises(error, match=words):
        getattr(OPTIM, kind)(**({"net": nbrnn.RNN(1, 2)} | change))


def test_settings_stay_but_for_the_learning_rate():
    opt = OPTIM.SGD(nbrnn.RNN(1, 2))
    opt.lr = np.float32(0.5)
    assert (type(opt.lr), opt.lr) == (float, 0.5)
    for value, kind in ((-1, ValueError), (NAN, ValueError), ("a", TypeError)):
        with pytest.raises(kind, match="lr must be"):
            opt.lr = value
    for name in ("momentum", "net", "nesterov"):
        with pytest.raises(AttributeError, match=f"{name} of <SGD.*make another"):
            setattr(opt, name, 0.9)
    assert repr(opt) == ("<SGD(lr=0.5, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False) after 0 steps>")


@pytest.mark.parametrize("kind", KINDS)
def test_bad_gradients(kind):
    net = nbrnn.RNN(1, 2, rng=0)
    opt, before, rng = getattr(OPTIM, kind)(net), net.flat.copy(), np.random.default_rng(0)
    for grads, error, words in (
        (net.flat, TypeError, "grads must come from backward"),
        (Gradients(None, None, {}, np.zeros(9, np.float32)), ValueError, r"grads.flat must have shape \(10,\)"),
        (Gradients(None, None, {}, np.zeros(10)), TypeError, "grads.flat must be of dtype float32, got float64"),
        (Gradients(None, None, {}, np.zeros(10, ">f4")), TypeError, "grads.flat must be of dtype float32"),
        (Gradients(None, None, {}, [0.0] * 10), TypeError, "grads.flat must be a NumPy array"),
        (gradients_of(nbrnn.Linear(4, 2, rng=0), rng), ValueError, "got those of another network"),
    ):
        with pytest.raises(error, match=words):
            opt.step(grads)
    np.testing.assert_array_equal(net.flat, before)
    assert opt.state_dict()["t"] == 0


def test_bad_gradients_and_bounds_for_clipping():
    for clip, name in ((nbrnn.clip_grad_norm, "max_norm"), (OPTIM.clip_grad_value, "max_value")):
        with pytest.raises(TypeError, match="grads must come from"):
            clip(np.zeros(3), 1.0)
        for bound in (0, -1, NAN, -INF):
            with pytest.raises(ValueError, match=f"{name} must be"):
                clip(Gradients(None, None, {}, np.zeros(9)), bound)
        with pytest.raises(TypeError, match=f"{name} must be"):
            clip(Gradients(None, None, {}, np.zeros(9)), None)
        fixed = np.zeros(9)
        fixed.flags.writeable = False
        for flat, error in (
            (fixed, ValueError),
            (np.zeros((3, 3)), ValueError),
            (np.zeros(3, int), TypeError),
            ([1.0], TypeError),
        ):
            with pytest.raises(error, match="must be"):
                clip(Gradients(None, None, {}, flat), 1.0)
        three = Gradients(None, None, {}, np.array([3.0, 4.0]))
        assert clip(three, INF) == (5 if name == "max_norm" else 4)
        np.testing.assert_array_equal(three.flat, [3, 4])


def test_bad_states():
    opt = OPTIM.Adam(nbrnn.RNN(3, 4, rng=0), lr=0.5)
    opt.step(gradients_of(opt.net, np.random.default_rng(0)))
    saved = opt.state_dict()
    for state, error, words in (
        (None, TypeError, "state must be what state_dict"),
        (saved | {"kind": "SGD"}, ValueError, "state must be that of Adam, got that of SGD"),
        ({k: v for k, v in saved.items() if k != "kind"}, ValueError, "kind missing"),
        ({k: v for k, v in saved.items() if k not in "mv"}, ValueError, "state_dict.*m, v missing"),
        ({k: v for k, v in saved.items() if k != "eps"}, ValueError, "eps missing"),
        (saved | {"lr": -1}, ValueError, "lr must be"),
        (saved | {"t": -1}, ValueError, r"state\['t'\] must be >= 0"),
        (saved | {"amsgrad": True}, ValueError, "v_max missing"),
        (saved | {"m": np.zeros(5, np.float32)}, ValueError, r"state\['m'\] must have shape"),
        (saved | {"v": np.zeros(36, complex)}, TypeError, r"state\['v'\] must be of dtype float32"),
        (saved | {"v": saved["v"].astype(np.float64)}, TypeError, r"state\['v'\] must be of dtype float32"),
    ):
        with pytest.raises(error, match=words):
            opt.load_state_dict(state)
    after = opt.state_dict()
    assert all(np.array_equal(after[name], value) for name, value in saved.items())
    with pytest.raises(ValueError, match="must be that of AdamW"):
        OPTIM.AdamW(opt.net).load_state_dict(saved)


# SciPy


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scipys_minimisers_take_flat_as_it_is(dtype):
    from scipy.optimize import minimize

    wave = np.sin(0.3 * np.arange(100)).astype(dtype)[:, None, None]
    net = nbrnn.Sequential(nbrnn.RNN(1, 6, dtype=dtype, rng=0), nbrnn.Linear(6, 1, dtype=dtype, rng=1))

    def value_and_gradient(flat):
        net.flat = flat
        y, _, tape = net.forward(wave[:-1])
        loss, dy = nbrnn.losses.mse(y, wave[1:])
        return loss, net.backward(tape, dy).flat

    before, _ = value_and_gradient(net.flat)
    for start in (net.flat.copy(), net.flat):
        result = minimize(value_and_gradient, start, jac=True, method="L-BFGS-B", options={"maxiter": 60})
        net.flat = result.x
        assert result.fun < 1e-3 * before
        assert value_and_gradient(result.x)[0] == result.fun
