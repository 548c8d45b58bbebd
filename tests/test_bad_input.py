"""Bad input gets an error that names the argument, before any kernel runs; the layer stays usable."""

import time

import numpy as np
import pytest

import nbrnn

F = np.float32


@pytest.fixture
def layer():
    return nbrnn.LSTM(3, 5, num_layers=2, rng=0)


X = np.ones((4, 2, 3), F)
NAN, INF = float("nan"), float("inf")

CONSTRUCTORS = [
    (dict(input_size=0), ValueError, "input_size must be >= 1, got 0"),
    (dict(input_size=-2), ValueError, "input_size must be >= 1, got -2"),
    (dict(input_size=2.0), TypeError, "input_size must be an integer"),
    (dict(input_size=True), TypeError, "input_size must be an integer"),
    (dict(hidden_size="5"), TypeError, "hidden_size must be an integer"),
    (dict(hidden_size=None), TypeError, "hidden_size must be an integer"),
    (dict(num_layers=0), ValueError, "num_layers must be >= 1"),
    (dict(bias=1), TypeError, "bias must be True or False, got 1"),
    (dict(batch_first="no"), TypeError, "batch_first must be True or False"),
    (dict(bidirectional=None), TypeError, "bidirectional must be True or False"),
    (dict(dropout=-0.1), ValueError, "dropout must be a finite number >= 0 and <= 1, got -0.1"),
    (dict(dropout=1.5), ValueError, "dropout must be"),
    (dict(dropout=NAN), ValueError, "dropout must be a finite number"),
    (dict(dropout=INF), ValueError, "dropout must be a finite number"),
    (dict(dropout="0.5"), TypeError, "dropout must be a real number"),
    (dict(dropout=True), TypeError, "dropout must be a real number"),
    (dict(recurrent_dropout=1.1), ValueError, "recurrent_dropout must be a finite number >= 0 and <= 1, got 1.1"),
    (dict(recurrent_dropout=NAN), ValueError, "recurrent_dropout must be a finite number"),
    (dict(recurrent_dropout="0.5"), TypeError, "recurrent_dropout must be a real number"),
    (dict(dtype="float16"), TypeError, "dtype must be float32 or float64"),
    (dict(dtype=np.int32), TypeError, "dtype must be float32 or float64"),
    (dict(dtype=None), TypeError, "dtype must be float32 or float64"),
    (dict(dtype=">f4"), TypeError, "dtype must be float32 or float64"),
    (dict(dtype="nonsense"), TypeError, "dtype must be float32 or float64"),
    (dict(rng="seed"), TypeError, "rng must be"),
    (dict(rng=-1), ValueError, "rng must be"),
    (dict(rng=True), TypeError, "rng must be"),
    (dict(rng=np.random.RandomState(0)), TypeError, "rng must be"),
]


@pytest.mark.parametrize("change, error, words", CONSTRUCTORS)
@pytest.mark.parametrize("kind", [nbrnn.RNN, nbrnn.GRU, nbrnn.LSTM])
def test_constructors(kind, change, error, words):
    with pytest.raises(error, match=words):
        kind(**({"input_size": 3, "hidden_size": 5} | change))


def test_constructors_of_one_kind():
    with pytest.raises(ValueError, match="nonlinearity must be one of 'tanh', 'relu', got 'sigmoid'"):
        nbrnn.RNN(3, 5, nonlinearity="sigmoid")
    with pytest.raises(TypeError, match="nonlinearity must be one of"):
        nbrnn.RNN(3, 5, nonlinearity=["tanh"])
    for size in (5, 6):
        with pytest.raises(ValueError, match=r"proj_size must be smaller than hidden_size \(5\)"):
            nbrnn.LSTM(3, 5, proj_size=size)
    with pytest.raises(ValueError, match="proj_size must be >= 0, got -1"):
        nbrnn.LSTM(3, 5, proj_size=-1)
    for kind in (nbrnn.RNN, nbrnn.GRU):
        with pytest.raises(TypeError):
            kind(3, 5, proj_size=2)
    for later in ("forget_bias", "reset_after", "device"):
        with pytest.raises(TypeError, match="unexpected keyword"):
            nbrnn.GRU(3, 5, **{later: 1})


class Tensor:
    def __array__(self, dtype=None, copy=None):
        return X


CALLS = [
    (dict(x=X.tolist()), TypeError, "x must be a NumPy array of float32, got list; convert it"),
    (dict(x=Tensor()), TypeError, "x must be a NumPy array of float32, got .*Tensor; convert it"),
    (dict(x=None), TypeError, "x must be a NumPy array"),
    (dict(x=X.astype(np.float64)), TypeError, r"x must be of dtype float32, got float64; convert it: x.astype"),
    (dict(x=X.astype(int)), TypeError, "x must be of dtype float32, got int64"),
    (dict(x=X.astype(complex)), TypeError, "x must be of dtype float32, got complex128"),
    (dict(x=X.astype(np.float16)), TypeError, "x must be of dtype float32, got float16"),
    (dict(x=X.astype(">f4")), TypeError, "x must be of dtype float32, got >f4"),
    (dict(x=X.astype(object)), TypeError, "x must be of dtype float32, got object"),
    (dict(x=np.ma.masked_array(X)), TypeError, "x must not be a masked array"),
    (dict(x=X[0, 0]), ValueError, r"x must have shape \(T, B, 3\), or \(T, 3\) unbatched, got \(3,\)"),
    (dict(x=X[None]), ValueError, "x must have shape"),
    (dict(x=np.ones((4, 2, 4), F)), ValueError, r"x must have shape \(T, B, 3\).*got \(4, 2, 4\)"),
    (dict(x=np.float32(1)), TypeError, "x must be a NumPy array"),
    (dict(x=np.array(1, F)), ValueError, "x must have shape"),
    (dict(state=np.ones((2, 2, 5), F)), ValueError, r"state must be a pair \(h, c\); got an array of shape"),
    (dict(state=3), TypeError, r"state must be a pair \(h, c\) of NumPy arrays, got int"),
    (dict(state={"h": 0, "c": 0}), TypeError, r"state must be a pair \(h, c\) of NumPy arrays, got dict"),
    (dict(state=(np.ones((2, 2, 5), F),)), ValueError, "state must be a pair .*got a tuple of 1"),
    (dict(state=(np.ones((2, 2, 5), F),) * 3), ValueError, "state must be a pair .*got a tuple of 3"),
    (dict(state=(np.ones((2, 2, 5), F), None)), TypeError, r"state\[1\] \(c\) must be a NumPy array"),
    (
        dict(state=(np.ones((1, 2, 5), F),) * 2),
        ValueError,
        r"state\[0\] \(h\) must have shape \(2, 2, 5\), got \(1, 2, 5\)",
    ),
    (dict(state=(np.ones((2, 2, 5), F), np.ones((2, 2, 4), F))), ValueError, r"state\[1\] \(c\) must have shape"),
    (dict(state=(np.ones((2, 2, 5)), np.ones((2, 2, 5), F))), TypeError, r"state\[0\] \(h\) must be of dtype float32"),
    (dict(lengths=[4]), ValueError, r"lengths must have shape \(2,\), got \(1,\)"),
    (dict(lengths=[[4, 4]]), ValueError, "lengths must have shape"),
    (dict(lengths=4), ValueError, "lengths must have shape"),
    (dict(lengths=[4.0, 2.0]), TypeError, "lengths must be integers, got dtype float64"),
    (dict(lengths=[True, False]), TypeError, "lengths must be integers, got dtype bool"),
    (dict(lengths=["4", "2"]), TypeError, "lengths must be integers"),
    (dict(lengths=[5, 1]), ValueError, r"lengths must lie in 0..4 \(the steps of x\), got 1..5"),
    (dict(lengths=[-1, 1]), ValueError, "lengths must lie in 0..4"),
    (dict(lengths=np.array([2**64 - 1, 1], np.uint64)), ValueError, "lengths must lie in 0..4"),
    (dict(resets=np.zeros((4, 2))), TypeError, "resets must be booleans, got dtype float64"),
    (dict(resets=np.zeros((4, 2), int)), TypeError, "resets must be booleans"),
    (dict(resets=np.zeros((2, 4), bool)), ValueError, r"resets must have shape \(4, 2\), got \(2, 4\)"),
    (dict(resets=True), ValueError, "resets must have shape"),
]


@pytest.mark.parametrize("change, error, words", CALLS)
@pytest.mark.parametrize("method", ["__call__", "forward"])
def test_calls(layer, method, change, error, words):
    before = layer(X)[0]
    with pytest.raises(error, match=words):
        getattr(layer, method)(**({"x": X} | change))
    np.testing.assert_array_equal(layer(X)[0], before)


def test_arity_of_states_without_c():
    gru = nbrnn.GRU(3, 5, rng=0)
    with pytest.raises(ValueError, match="state must be one array, h; got a tuple of 2"):
        gru(X, (np.ones((1, 2, 5), F), np.ones((1, 2, 5), F)))
    with pytest.raises(TypeError, match="state must be a NumPy array, got str"):
        gru(X, "zeros")


def test_masks_are_not_ignored(layer):
    """A masked array says that some of it isn't valid: refused wherever it is given."""
    masked = np.ma.masked_array([1, 1], [True, False])
    for arguments in (dict(lengths=masked), dict(resets=np.ma.masked_array(np.zeros((4, 2), bool)))):
        with pytest.raises(TypeError, match="must not be a masked array"):
            layer(X, **arguments)
    with pytest.raises(TypeError, match="must not be a masked array"):
        layer.flat = np.ma.masked_array(layer.flat)


def test_sequences_of_unequal_parts(layer):
    with pytest.raises(ValueError, match="lengths must be integers, got a sequence of unequal parts"):
        layer(X, lengths=[1, [2, 3]])
    with pytest.raises(ValueError, match="resets must be booleans, got a sequence of unequal parts"):
        layer(X, resets=[[True], [True, False]])


def test_a_tape_keeps_its_own_resets():
    """Buffers of done flags are used again and again: what a tape was given must stay."""
    gru, cuts = nbrnn.GRU(3, 5, rng=0), np.zeros((4, 2), bool)
    cuts[2] = True
    y, _, tape = gru.forward(X, resets=cuts)
    wanted = gru.backward(tape, np.ones_like(y), retain=True).flat
    cuts[:] = False
    np.testing.assert_array_equal(gru.backward(tape, np.ones_like(y)).flat, wanted)


def test_seeds_are_looked_at_even_where_nothing_is_drawn(layer):
    with pytest.raises(TypeError, match="rng must be"):
        nbrnn.GRU(3, 5, rng=0).forward(X, rng="seed")


def test_settings_are_fixed():
    gru = nbrnn.GRU(3, 5, num_layers=2, dropout=0.5, rng=0)
    for thing, name, value in (
        (gru, "dropout", 7.0), (gru, "batch_first", True), (gru, "hidden_size", 4),
        (gru, "cell", nbrnn.LSTM(3, 5).cell), (gru, "proj_size", 2), (nbrnn.Dropout(0.5), "batch_first", True),
        (nbrnn.Linear(3, 2), "activation", "tanh"), (nbrnn.Dropout(0.5), "p", 0.1), (nbrnn.LSTMCell(3, 5), "bias", False),
    ):  # fmt: skip
        with pytest.raises(AttributeError, match=f"{name} of .* can't be changed"):
            setattr(thing, name, value)
    with pytest.raises(AttributeError, match="can't be removed"):
        del gru.hidden_size
    gru.note = "mine"  # anything else may be added
    del gru.note


@pytest.mark.parametrize(
    "make",
    [
        lambda: nbrnn.GRU(3, 5, num_layers=10**9),
        lambda: nbrnn.Linear(10**9, 10**9),
        lambda: nbrnn.GRU(3, 5)(np.broadcast_to(F(0), (1, 2**40, 3))),
        lambda: nbrnn.GRU(3, 5, num_layers=40)(np.broadcast_to(F(0), (1, 2**29, 3))),
        lambda: nbrnn.GRU(3, 50).stream(10**9),
        lambda: nbrnn.Linear(1, 100)(np.broadcast_to(F(0), (10**9, 1, 1))),
        lambda: nbrnn.GRU(1, 5, 3, bidirectional=True).forward(np.broadcast_to(F(0), (10**8, 5, 1)), checkpoint="sqrt"),
    ],
)
def test_what_cannot_fit_is_refused_before_work_starts(make):
    begun = time.perf_counter()
    with pytest.raises(MemoryError, match=r"needs [\d,.]+ GiB"):
        make()
    assert time.perf_counter() - begun < 5


@pytest.mark.parametrize("size", [10**30, 10**400, 2**48])
def test_sizes_beyond_reason(size):
    with pytest.raises(ValueError, match=r"hidden_size must be < 2\*\*48"):
        nbrnn.GRU(3, size)
    with pytest.raises(ValueError, match="dropout must be a finite number"):
        nbrnn.GRU(3, 5, dropout=10**400)


def test_unbatched():
    layer = nbrnn.LSTM(3, 5, rng=0)
    with pytest.raises(ValueError, match="lengths must be None where x is unbatched"):
        layer(X[:, 0], lengths=[2])
    with pytest.raises(ValueError, match=r"state\[0\] \(h\) must have shape \(1, 5\)"):
        layer(X[:, 0], (np.ones((1, 1, 5), F), np.ones((1, 1, 5), F)))
    with pytest.raises(ValueError, match=r"resets must have shape \(4,\)"):
        layer(X[:, 0], resets=np.zeros((4, 1), bool))


def overlapping():
    buffer = np.zeros((4, 2, 8), F)
    yield buffer[:, :, :3], buffer[:, :, 2:7]
    flat = np.zeros(64, F)
    yield flat[:24].reshape(4, 2, 3), flat[23:63].reshape(4, 2, 5)


@pytest.mark.parametrize("x, out", list(overlapping()))
def test_out_that_overlaps_x(layer, x, out):
    with pytest.raises(ValueError, match="out must not overlap x"):
        layer(x, out=out)


def test_out_beside_x_is_fine(layer):
    buffer = np.zeros((4, 2, 8), F)
    x, out = buffer[:, :, :3], buffer[:, :, 3:]
    x[...] = X
    y, _ = layer(x, out=out)
    np.testing.assert_array_equal(y, layer(X)[0])


def test_out(layer):
    state = np.zeros((2, 2, 5), F), np.zeros((2, 4, 5), F)[:, ::2]
    read_only = np.zeros((4, 2, 5), F)
    read_only.flags.writeable = False
    self_overlapping = np.lib.stride_tricks.as_strided(np.zeros(64, F), (4, 2, 5), (4, 4, 4), writeable=True)
    for out, error, words in (
        ([], TypeError, "out must be a NumPy array"),
        (np.zeros((4, 2, 5)), TypeError, "out must be of dtype float32, got float64"),
        (np.zeros((4, 2, 4), F), ValueError, r"out must have shape \(4, 2, 5\), got \(4, 2, 4\)"),
        (np.zeros((4, 10), F), ValueError, "out must have shape"),
        (read_only, ValueError, "out must be writeable"),
        (self_overlapping, ValueError, "out must not overlap itself"),
        (np.broadcast_to(np.zeros(5, F), (4, 2, 5)), ValueError, "out must be writeable"),
        (layer.flat[:40].reshape(4, 2, 5), ValueError, "out must be writeable"),
    ):
        with pytest.raises(error, match=words):
            layer(X, out=out)
    with pytest.raises(ValueError, match="out must not overlap state"):
        layer(X, state, out=np.lib.stride_tricks.as_strided(state[1].base, (4, 2, 5), writeable=True))


@pytest.mark.parametrize(
    "every, error, words",
    [
        (0, ValueError, "checkpoint must be >= 1"),
        (-3, ValueError, "checkpoint must be >= 1"),
        (2.0, TypeError, "checkpoint must be an integer"),
        ("cube", ValueError, "checkpoint must be one of 'sqrt', got 'cube'"),
        (True, TypeError, "checkpoint must be an integer"),
        (NAN, TypeError, "checkpoint must be an integer"),
    ],
)
def test_checkpoint(layer, every, error, words):
    with pytest.raises(error, match=words):
        layer.forward(X, checkpoint=every)


def test_tapes(layer):
    y, state, tape = layer.forward(X)
    dy = np.ones_like(y)
    for bad, error, words in (
        (dict(dy=dy[1:]), ValueError, r"dy must have shape \(4, 2, 5\), got \(3, 2, 5\)"),
        (dict(dy=dy.astype(float)), TypeError, "dy must be of dtype float32"),
        (dict(dy=1.0), TypeError, "dy must be a NumPy array"),
        (dict(dstate=state[0]), ValueError, "dstate must be a pair"),
        (dict(dstate=(state[0][:1], None)), ValueError, r"dstate\[0\] \(h\) must have shape"),
        (dict(retain="yes"), TypeError, "retain must be True or False"),
    ):
        with pytest.raises(error, match=words):
            layer.backward(tape, **bad)
    for wrong in (None, 3, "tape", y):
        with pytest.raises(TypeError, match="tape must come from forward"):
            layer.backward(wrong, dy)
    with pytest.raises(ValueError, match="got another's"):
        nbrnn.LSTM(3, 5, num_layers=2, rng=0).backward(tape, dy)
    layer.backward(tape, dy)  # still usable after all that
    with pytest.raises(RuntimeError, match="tape has been used"):
        layer.backward(tape, dy)


@pytest.mark.parametrize("change", ["flat", "entry", "of the network"])
def test_tape_after_the_parameters_changed(change):
    layer = nbrnn.GRU(3, 5, rng=0)
    net = nbrnn.Sequential(layer, nbrnn.Linear(5, 1, rng=0))
    y, _, tape = layer.forward(X)
    _, _, tape_of_net = net.forward(X)
    if change == "flat":
        layer.flat = layer.flat
    elif change == "entry":
        layer.params["bias_hh_l0"] = np.zeros(15)
    else:
        net.flat = 0.5 * net.flat
    for part, own in ((layer, tape), (net, tape_of_net)):
        with pytest.raises(RuntimeError, match="parameters have changed"):
            part.backward(own)
    layer.backward(layer.forward(X)[2], np.ones_like(y))


def test_forward_results_are_read_only(layer):
    y, _, tape = layer.forward(X)
    with pytest.raises(ValueError, match="read-only"):
        y[0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        y.flags.writeable = True
    assert "tape of" in repr(tape)
    layer.backward(tape)
    assert "used" in repr(tape)


def test_bidirectional_layers_have_no_stream():
    with pytest.raises(ValueError, match="one direction"):
        nbrnn.GRU(3, 5, bidirectional=True).stream()


def test_non_finite_input_is_a_defined_result():
    """NaN and infinities go through the formulas as they would in NumPy, and reach no other sequence."""
    for kind in (nbrnn.RNN, nbrnn.GRU, nbrnn.LSTM):
        layer = kind(3, 20, rng=0)
        clean = layer(X)[0]
        for value in (np.nan, np.inf, -np.inf, 3e38):
            x = X.copy()
            x[1, 0, 2] = value
            y = layer(x)[0]
            np.testing.assert_array_equal(y[:, 1], clean[:, 1])
            np.testing.assert_array_equal(y[0], clean[0])
            assert np.isnan(y[1:, 0]).all() if np.isnan(value) else np.isfinite(y).all()
            back = layer.backward(layer.forward(x)[2], np.ones_like(y))
            assert np.isfinite(back.x[:, 1]).all()
