"""Embedding, LayerNorm, Pool, the products of Linear, and all of them in a Sequential."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nbrnn
from nbrnn._cpu.linear import product, product_of_columns
from tests.reference import modules as reference
from tests.test_networks import check_gradients, numeric
from tests.tolerances import error

same = np.testing.assert_array_equal

MODES = ("last", "mean", "max")
#: Largest error against float64 or torch, of the largest number.
CLOSE = {"float32": 1e-6, "float64": 1e-12}

dtypes = st.sampled_from(["float32", "float64"])


def assert_close(a, b, dtype, what):
    assert a.dtype == dtype, what
    found, allowed = error(a, b), CLOSE[np.dtype(dtype).name]
    assert found <= allowed, f"{what}: error {found:.2e}, allowed {allowed:.2e}"


@st.composite
def ragged(draw):
    """(T, B, lengths, rng): empty sequences, empty batches and no steps among them."""
    steps, batch = draw(st.integers(0, 6)), draw(st.integers(0, 4))
    lengths = draw(st.lists(st.integers(0, steps), min_size=batch, max_size=batch))
    return steps, batch, lengths, np.random.default_rng(draw(st.integers(0, 99)))


def past(steps, lengths):
    return np.arange(steps)[:, None] >= np.array(lengths, int)


# Embedding


@given(ragged(), dtypes, st.sampled_from([None, 0, -1]), st.sampled_from(["int64", "int32", "uint8", ">i4"]))
def test_embedding_is_the_reference(batch, dtype, padding_idx, kind):
    steps, size, lengths, rng = batch
    layer = nbrnn.Embedding(5, 3, padding_idx=padding_idx, dtype=dtype, rng=rng)
    assert padding_idx is None or not layer.params["weight"][padding_idx].any()
    x, outside = rng.integers(0, 5, (steps, size)), past(steps, lengths)
    dy = rng.normal(size=(steps, size, 3)).astype(dtype)
    wanted, dweight = reference.embedding(
        layer.params["weight"], x, lengths, dy, None if padding_idx is None else padding_idx % 5
    )
    x = x.astype(kind)
    x[outside] = 77  # anything
    dy[outside] = np.nan
    y, state, tape = layer.forward(x, lengths=lengths)
    same(y, wanted)
    same(layer(x, lengths=lengths)[0], y)
    assert y.dtype == dtype
    assert state is None
    grads = layer.backward(tape, dy)
    assert grads.x is None
    assert_close(grads.params["weight"], dweight, dtype, "dweight")


@pytest.mark.parametrize("shape", [(), (4,), (4, 2), (4, 2, 3), (0, 2)])
def test_embedding_takes_indices_of_any_shape(shape):
    layer, rng = nbrnn.Embedding(5, 3, dtype=np.float64, rng=0), np.random.default_rng(0)
    x = rng.integers(0, 5, shape)
    y, _, tape = layer.forward(x)
    same(y, layer.params["weight"][x])
    dy, wanted = rng.normal(size=y.shape), np.zeros((5, 3))
    np.add.at(wanted, x, dy)
    np.testing.assert_allclose(layer.backward(tape, dy).params["weight"], wanted, rtol=1e-13, atol=1e-15)


def test_embedding_initial_vectors_are_normal():
    weight = nbrnn.Embedding(300, 200, rng=0).params["weight"]
    assert abs(weight.mean()) < 0.02
    assert abs(weight.std() - 1) < 0.02
    same(weight, nbrnn.Embedding(300, 200, rng=0).params["weight"])


def test_indices_that_change_after_forward_do_no_harm():
    layer, x = nbrnn.Embedding(5, 3, rng=0), np.array([1, 2, 2])
    y, _, tape = layer.forward(x)
    x[:] = 10**9  # would be written to, far outside
    grads = layer.backward(tape, np.ones_like(y))
    same(grads.params["weight"][:, 0], [0, 1, 2, 0, 0])


# Pool


@given(ragged(), dtypes, st.sampled_from(MODES), st.booleans())
def test_pool_is_the_reference(batch, dtype, mode, ties):
    steps, size, lengths, rng = batch
    x, outside = rng.normal(size=(steps, size, 3)).astype(dtype), past(steps, lengths)
    if ties:
        x = np.round(x)
    dy = rng.normal(size=(size, 3)).astype(dtype)
    wanted, dx = reference.pool(mode, x, lengths, dy)
    x[outside] = np.nan
    part = nbrnn.Pool(mode)
    y, _, tape = part.forward(x, lengths=lengths)
    assert_close(y, wanted, dtype, "y")
    same(part(x, lengths=lengths)[0], y)
    dy[np.array(lengths, int) == 0] = np.nan  # of an empty sequence: nothing to give it to
    assert_close(part.backward(tape, dy).x, dx, dtype, "dx")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("steps", [0, 4])
def test_pool_of_one_sequence(mode, steps):
    x = np.random.default_rng(0).normal(size=(steps, 3))
    part = nbrnn.Pool(mode)
    y, _, tape = part.forward(x)
    batch, _, batch_tape = part.forward(x[:, None])
    same(y, batch[0])
    same(part.backward(tape, np.ones(3)).x, part.backward(batch_tape, np.ones((1, 3))).x[:, 0])
    if steps == 0:
        same(y, np.zeros(3))


def test_largest_of_nan_and_infinities():
    """NaN is what comes out, as of torch; a sequence of minus infinities has minus infinity, at its first step."""
    x = np.full((3, 2, 1), -np.inf)
    x[1, 0] = np.nan
    part = nbrnn.Pool("max")
    y, _, tape = part.forward(x, lengths=[3, 2])
    same(y, [[np.nan], [-np.inf]])
    same(part.backward(tape, np.ones((2, 1))).x[:, :, 0], [[0, 1], [1, 0], [0, 0]])


# LayerNorm


@given(st.integers(0, 5), st.integers(1, 9), dtypes, st.integers(0, 99))
def test_layer_norm_is_the_reference(rows, n, dtype, seed):
    rng = np.random.default_rng(seed)
    layer = nbrnn.LayerNorm(n, dtype=dtype)
    layer.flat = rng.normal(size=2 * n)
    x, dy = (rng.normal(size=(rows, n)).astype(dtype) for _ in range(2))
    y, _, tape = layer.forward(x)
    grads = layer.backward(tape, dy)
    weight, bias = (np.asarray(layer.params[name], np.float64) for name in ("weight", "bias"))
    wanted = reference.layer_norm(x, weight, bias, 1e-5, dy)
    # The parts of dx may cancel (for n = 2 it is nearly 0): errors are measured by the parts.  So, too, where x is
    # nearly constant: 1 / deviation multiplies its rounding.
    part = np.abs(dy * weight).max(initial=0) / np.sqrt(x.var(-1).min(initial=np.inf) + 1e-5)
    scales = {"y": max(1, part), "dx": max(1, part) * part, "dw": max(1, part), "db": 1}
    for a, b, what in zip((y, grads.x, *grads.params.values()), wanted, scales, strict=True):
        assert a.dtype == dtype
        assert np.abs(a - b).max(initial=0) <= 4 * CLOSE[dtype] * scales[what], what


def test_layer_norm_does_not_see_shifts_and_scales():
    x = np.random.default_rng(0).normal(size=(4, 2, 8))
    layer = nbrnn.LayerNorm(8, 1e-12, elementwise_affine=False, dtype=np.float64)
    y = layer(x)[0]
    np.testing.assert_allclose(layer(3 * x + 100)[0], y, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(y.mean(-1), 0, atol=1e-14)
    np.testing.assert_allclose(y.var(-1), 1, rtol=1e-10)
    assert layer.flat.size == 0
    same(nbrnn.LayerNorm(8, dtype=np.float64).params["weight"], np.ones(8))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("lengths", [None, [3, 1]])
def test_layer_norm_gradients(affine, lengths):
    layer, rng = nbrnn.LayerNorm(5, 0.1, affine, dtype=np.float64), np.random.default_rng(0)
    layer.flat = rng.normal(size=layer.flat.size)
    check_gradients(layer, rng.normal(size=(4, 2, 5)), lengths=lengths)


# Linear


@pytest.mark.parametrize("rows, n, m", [(0, 3, 2), (1, 128, 60), (500, 128, 60), (136, 128, 60), (70, 200, 100)])
def test_products_in_blocks_are_products(rows, n, m):
    rng = np.random.default_rng(0)
    a, b, c = rng.normal(size=(rows, n)), rng.normal(size=(n, m)), rng.normal(size=(rows, m))
    np.testing.assert_allclose(product(a, b), a @ b, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(product(a[::-1], b)[::-1], a @ b, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(product(a, b.T, across=True), a @ b, rtol=1e-11, atol=1e-12)
    to = np.full((n, m), np.nan)
    product_of_columns(a, c, to)
    np.testing.assert_allclose(to, a.T @ c, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("make", [lambda: nbrnn.Linear(3, 4, activation="relu", rng=0), lambda: nbrnn.LayerNorm(3)])
def test_rows_are_found_in_any_layout(make):
    """Batch-first memory, strides and ragged batches give what contiguous memory gives."""
    part, rng = make(), np.random.default_rng(0)
    x = rng.normal(size=(5, 4, 3)).astype(np.float32)
    y, _, tape = part.forward(x)
    dy = rng.normal(size=y.shape).astype(np.float32)
    wanted = part.backward(tape, dy)
    wide = np.zeros((10, 4, 6), np.float32)
    wide[::2, :, ::2] = x
    for layout in (x.swapaxes(0, 1).copy().swapaxes(0, 1), np.asfortranarray(x), wide[::2, :, ::2]):
        for gradient in (dy, np.asfortranarray(dy), dy.swapaxes(0, 1).copy().swapaxes(0, 1)):
            for lengths in (None, [5, 5, 5, 5]):
                again, _, tape = part.forward(layout, lengths=lengths)
                np.testing.assert_allclose(again, y, rtol=1e-5, atol=1e-6)
                grads = part.backward(tape, gradient)
                np.testing.assert_allclose(grads.x, wanted.x, rtol=1e-5, atol=1e-5)
                np.testing.assert_allclose(grads.flat, wanted.flat, rtol=1e-5, atol=1e-5)
    lengths = [5, 0, 2, 3]
    np.testing.assert_allclose(
        part(x, lengths=lengths)[0], np.where(past(5, lengths)[:, :, None], 0, y), rtol=1e-5, atol=1e-6
    )


# torch


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("padding_idx", [None, 3])
def test_embedding_agrees_with_torch(dtype, padding_idx):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    layer = nbrnn.Embedding(7, 5, padding_idx=padding_idx, dtype=dtype, rng=0)
    theirs = torch.nn.Embedding(7, 5, padding_idx=padding_idx, dtype=getattr(torch, dtype))
    theirs.weight.data = torch.from_numpy(layer.params["weight"].copy())
    x = rng.integers(0, 7, (9, 4))
    y, _, tape = layer.forward(x)
    dy = rng.normal(size=y.shape).astype(dtype)
    out = theirs(torch.from_numpy(x))
    out.backward(torch.from_numpy(dy))
    assert_close(y, out.detach().numpy(), dtype, "y")
    assert_close(layer.backward(tape, dy).params["weight"], theirs.weight.grad.numpy(), dtype, "dweight")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("affine", [True, False])
def test_layer_norm_agrees_with_torch(dtype, affine):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    layer = nbrnn.LayerNorm(16, 1e-3, affine, dtype=dtype)
    theirs = torch.nn.LayerNorm(16, 1e-3, affine, dtype=getattr(torch, dtype))
    assert list(layer.params) == [name for name, _ in theirs.named_parameters()]
    layer.flat = rng.normal(size=layer.flat.size)
    for name, parameter in theirs.named_parameters():
        parameter.data = torch.from_numpy(layer.params[name].copy())
    x = (rng.normal(size=(9, 4, 16)) * 3 + 1).astype(dtype)
    y, _, tape = layer.forward(x)
    dy = rng.normal(size=y.shape).astype(dtype)
    given = torch.from_numpy(x).requires_grad_()
    out = theirs(given)
    out.backward(torch.from_numpy(dy))
    grads = layer.backward(tape, dy)
    assert_close(y, out.detach().numpy(), dtype, "y")
    assert_close(grads.x, given.grad.numpy(), dtype, "dx")
    for name, parameter in theirs.named_parameters():
        assert_close(grads.params[name], parameter.grad.numpy(), dtype, name)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", [None, "softmax", "sigmoid", "tanh", "relu"])
def test_linear_gradients_agree_with_torch(dtype, activation):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    layer = nbrnn.Linear(16, 7, activation=activation, dtype=dtype, rng=0)
    x = rng.normal(size=(9, 4, 16)).astype(dtype)
    y, _, tape = layer.forward(x)
    dy = rng.normal(size=y.shape).astype(dtype)
    given, weight, bias = (torch.from_numpy(a.copy()).requires_grad_() for a in (x, *layer.params.values()))
    out = torch.nn.functional.linear(given, weight, bias)
    if activation is not None:
        out = torch.softmax(out, -1) if activation == "softmax" else getattr(torch, activation)(out)
    out.backward(torch.from_numpy(dy))
    grads = layer.backward(tape, dy)
    assert_close(y, out.detach().numpy(), dtype, "y")
    assert_close(grads.x, given.grad.numpy(), dtype, "dx")
    assert_close(grads.params["weight"], weight.grad.numpy(), dtype, "dweight")
    assert_close(grads.params["bias"], bias.grad.numpy(), dtype, "dbias")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("mode", MODES)
def test_pool_agrees_with_torch(dtype, mode):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, part = rng.normal(size=(9, 4, 5)).astype(dtype), nbrnn.Pool(mode)
    x[3] = x[6]  # for max: torch, too, takes the first
    y, _, tape = part.forward(x)
    dy = rng.normal(size=y.shape).astype(dtype)
    given = torch.from_numpy(x).requires_grad_()
    out = {"last": lambda a: a[-1], "mean": lambda a: a.mean(0), "max": lambda a: a.max(0).values}[mode](given)
    out.backward(torch.from_numpy(dy))
    assert_close(y, out.detach().numpy(), dtype, "y")
    assert_close(part.backward(tape, dy).x, given.grad.numpy(), dtype, "dx")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_classifier_of_ragged_sequences_agrees_with_torch(dtype):
    """Embedding, LSTM, LayerNorm, mean over the valid steps, Linear: all gradients."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    net = nbrnn.Sequential(
        nbrnn.Embedding(11, 6, padding_idx=0, dtype=dtype, rng=0), nbrnn.LSTM(6, 8, dtype=dtype, rng=1),
        nbrnn.LayerNorm(8, dtype=dtype), nbrnn.Pool("mean"), nbrnn.Linear(8, 3, dtype=dtype, rng=2),
    )  # fmt: skip
    kind = getattr(torch, dtype)
    theirs = torch.nn.ModuleList([
        torch.nn.Embedding(11, 6, padding_idx=0, dtype=kind), torch.nn.LSTM(6, 8, dtype=kind),
        torch.nn.LayerNorm(8, dtype=kind), torch.nn.Identity(), torch.nn.Linear(8, 3, dtype=kind),
    ])  # fmt: skip
    assert list(net.params) == [name for name, _ in theirs.named_parameters()]
    for name, parameter in theirs.named_parameters():
        parameter.data = torch.from_numpy(net.params[name].copy())
    lengths, x = np.array([7, 2, 5]), rng.integers(0, 11, (7, 3))
    y, _, tape = net.forward(x, lengths=lengths)
    dy = rng.normal(size=y.shape).astype(dtype)
    grads = net.backward(tape, dy)
    embedding, lstm, norm, _, linear = theirs
    z = norm(lstm(embedding(torch.from_numpy(x)))[0])
    valid = torch.from_numpy(~past(7, lengths))[:, :, None]
    out = linear(torch.where(valid, z, 0).sum(0) / torch.from_numpy(lengths.astype(dtype))[:, None])
    out.backward(torch.from_numpy(dy))
    assert_close(y, out.detach().numpy(), dtype, "y")
    for name, parameter in theirs.named_parameters():
        found, allowed = error(grads.params[name], parameter.grad.numpy()), 3 * CLOSE[dtype]
        assert found <= allowed, (name, found)


# In a network


def classifier(batch_first=False, mode="max", dtype=np.float64, nested=False):
    parts = [
        nbrnn.Embedding(9, 4, dtype=dtype, rng=0),
        nbrnn.Dropout(0.25, rng=1),
        nbrnn.GRU(4, 5, batch_first=batch_first, dtype=dtype, rng=2),
        nbrnn.LayerNorm(5, dtype=dtype),
        nbrnn.Pool(mode),
        nbrnn.Linear(5, 3, activation="tanh", dtype=dtype, rng=3),
        nbrnn.Linear(3, 2, dtype=dtype, rng=4),
    ]
    if not nested:
        return nbrnn.Sequential(*parts)
    return nbrnn.Sequential(nbrnn.Sequential(*parts[:2]), nbrnn.Sequential(*parts[2:4]), nbrnn.Sequential(*parts[4:]))


def run(net, x, lengths):
    """(y, gradients) with dropout, and y without."""
    y, _, tape = net.forward(x, lengths=lengths, rng=5)
    dy = np.random.default_rng(6).normal(size=y.shape).astype(y.dtype)
    return y, net.backward(tape, dy), net(x, lengths=lengths)[0]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("lengths", [None, [6, 0, 4]])
def test_a_network_has_its_axes_from_end_to_end(mode, lengths):
    """Batch-first, nested or neither: the same numbers."""
    x = np.random.default_rng(0).integers(0, 9, (6, 3))
    wanted = run(classifier(mode=mode), x, lengths)
    assert wanted[0].shape == (3, 2)
    for batch_first in (False, True):
        for nested in (False, True):
            net = classifier(batch_first, mode, nested=nested)
            y, grads, inferred = run(net, x.T.copy() if batch_first else x, lengths)
            np.testing.assert_allclose(y, wanted[0], rtol=1e-13, atol=1e-15)
            np.testing.assert_allclose(inferred, wanted[2], rtol=1e-13, atol=1e-15)
            np.testing.assert_allclose(grads.flat, wanted[1].flat, rtol=1e-11, atol=1e-14)
            assert grads.x is None


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("batch_first", [False, True])
def test_gradients_of_a_network_with_all_parts(mode, batch_first):
    net, x, lengths = classifier(batch_first, mode), np.random.default_rng(0).integers(0, 9, (6, 3)), [6, 0, 4]
    x = x.T if batch_first else x
    y, _, tape = net.forward(x, lengths=lengths, rng=5)
    dy = np.random.default_rng(6).normal(size=y.shape)
    flat = net.flat.copy()

    def loss(vector):
        net.flat = vector
        return float((net.forward(x, lengths=lengths, rng=5)[0] * dy).sum())

    grads = net.backward(tape, dy)
    np.testing.assert_allclose(grads.flat, numeric(loss, flat), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("batch_first", [False, True])
def test_steps_outside_are_inert(batch_first):
    net, lengths = classifier(batch_first, dtype=np.float32), [6, 0, 4]
    results = []
    for garbage in (0, 10**6):
        x = np.random.default_rng(0).integers(0, 9, (6, 3))
        x[past(6, lengths)] = garbage
        y, grads, inferred = run(net, x.T if batch_first else x, lengths)
        results.append((y, grads.flat, inferred))
    for a, b in zip(*results, strict=True):
        same(a, b)


@pytest.mark.parametrize("batch_first", [False, True])
def test_one_sequence_goes_through_all_parts(batch_first):
    net, x = classifier(batch_first), np.random.default_rng(0).integers(0, 9, 6)
    y, state = net(x)
    assert y.shape == (2,)
    batch = x[None] if batch_first else x[:, None]
    np.testing.assert_allclose(net(batch)[0][0], y, rtol=1e-13)
    again, _, tape = net.forward(x, rng=0)
    assert again.shape == (2,)
    assert net.backward(tape, np.ones(2)).flat.shape == net.flat.shape


def test_lengths_after():
    lengths = [3, 2]
    assert nbrnn.Linear(3, 2)._lengths_after(lengths) is lengths
    assert nbrnn.Sequential(nbrnn.GRU(3, 2), nbrnn.Dropout(0.5))._lengths_after(lengths) is lengths
    assert nbrnn.Pool("max")._lengths_after(lengths) is None
    assert classifier(nested=True)._lengths_after(lengths) is None


def test_a_pool_with_resets_and_checkpoints():
    """Cuts reach the recurrent parts; a Pool and what follows don't see them."""
    net, x = classifier(), np.random.default_rng(0).integers(0, 9, (6, 3))
    cuts = np.zeros((6, 3), bool)
    cuts[3] = True
    y, _, tape = net.forward(x, resets=cuts, rng=0, checkpoint=2)
    np.testing.assert_allclose(y, net.forward(x, resets=cuts, rng=0)[0], rtol=1e-12)
    net.backward(tape, np.ones_like(y))
    last = classifier(mode="last")
    np.testing.assert_allclose(last(x, resets=cuts)[0], last(x[3:])[0], rtol=1e-12)


@pytest.mark.parametrize(
    "parts, words",
    [
        (lambda: (nbrnn.Linear(3, 4), nbrnn.Embedding(5, 4)), "it must be the first part, got it as part 1"),
        (lambda: (nbrnn.Dropout(0.5), nbrnn.Sequential(nbrnn.Embedding(5, 4))), "it must be the first part"),
        (lambda: (nbrnn.Pool("max"), nbrnn.GRU(3, 4)), r"part 1 needs sequences, but part 0 \(a Pool\) leaves none"),
        (lambda: (nbrnn.Pool("max"), nbrnn.Linear(3, 4), nbrnn.Pool("max")), "part 2 needs sequences"),
        (lambda: (nbrnn.Sequential(nbrnn.Pool("max")), nbrnn.Sequential(nbrnn.LSTM(3, 4))), "part 1 needs sequences"),
    ],
)
def test_parts_that_do_not_go_together(parts, words):
    with pytest.raises(ValueError, match=words):
        nbrnn.Sequential(*parts())


# What all can do


def every():
    return [
        (nbrnn.Embedding(5, 3, padding_idx=1, rng=0), np.arange(8).reshape(4, 2) % 5),
        (nbrnn.LayerNorm(3, dtype=np.float64), np.ones((4, 2, 3))),
        (nbrnn.Pool("mean"), np.ones((4, 2, 3), np.float32)),
        (classifier(nested=True), np.ones((4, 2), int)),
    ]


@pytest.mark.parametrize("part, x", every(), ids=lambda value: type(value).__name__)
def test_copies_and_pickles(part, x):
    wanted = part(x)[0]
    for other in (copy.deepcopy(part), copy.copy(part), pickle.loads(pickle.dumps(part))):
        same(other(x)[0], wanted)
        same(other.flat, part.flat)
        assert repr(other) == repr(part)
        y, _, tape = other.forward(x, rng=0)
        with pytest.raises(ValueError, match="tape must come from forward"):
            part.backward(tape, np.ones_like(y))
        grads = other.backward(tape, np.ones_like(y))
        pickle.loads(pickle.dumps(grads))


@pytest.mark.parametrize("part, x", every(), ids=lambda value: type(value).__name__)
def test_results_are_read_only_and_tapes_are_used_once(part, x):
    y, _, tape = part.forward(x)
    with pytest.raises(ValueError, match="WRITEABLE"):
        y.flags.writeable = True
    assert not np.shares_memory(part(x)[0], x)
    nothing = part.backward(tape, retain=True)
    assert not nothing.flat.any()
    with pytest.raises(ValueError, match="dy must have shape"):
        part.backward(tape, np.ones((1, 1, 1, 1), y.dtype))
    with pytest.raises(ValueError, match="dstate must"):
        part.backward(tape, y, (1, 2, 3, 4, 5))
    part.backward(tape, y)
    with pytest.raises(RuntimeError, match="used"):
        part.backward(tape, y)


def test_reprs():
    assert repr(nbrnn.Embedding(5, 3)) == "<Embedding(5, 3, dtype=float32): 15 parameters>"
    assert (
        repr(nbrnn.Embedding(5, 3, padding_idx=-1)) == "<Embedding(5, 3, padding_idx=4, dtype=float32): 15 parameters>"
    )
    assert repr(nbrnn.LayerNorm(8, 1e-3, False)).startswith("<LayerNorm(8, eps=0.001, elementwise_affine=False")
    assert repr(nbrnn.Pool("max")) == "<Pool('max'): 0 parameters>"


F = np.float32


@pytest.mark.parametrize(
    "make, wrong, words",
    [
        (lambda: nbrnn.Embedding(0, 3), ValueError, "num_embeddings must be >= 1, got 0"),
        (lambda: nbrnn.Embedding(3, 2.5), TypeError, "embedding_dim must be an integer"),
        (lambda: nbrnn.Embedding(3, 2, padding_idx=3), ValueError, r"padding_idx must lie in -3..2, got 3"),
        (lambda: nbrnn.Embedding(3, 2, padding_idx=0.5), TypeError, "padding_idx must be an integer"),
        (lambda: nbrnn.Embedding(3, 2, dtype=np.int32), TypeError, "dtype must be float32 or float64"),
        (lambda: nbrnn.Embedding(2**40, 2**7), MemoryError, "Embedding needs"),
        (lambda: nbrnn.Embedding(3, 2)([0, 1]), TypeError, "x must be a NumPy array of integers, got list"),
        (lambda: nbrnn.Embedding(3, 2)(np.zeros(4)), TypeError, "x must be integers, got dtype float64"),
        (lambda: nbrnn.Embedding(3, 2)(np.zeros(4, bool)), TypeError, "x must be integers, got dtype bool"),
        (lambda: nbrnn.Embedding(3, 2)(np.ma.array([0])), TypeError, "x must not be a masked array"),
        (lambda: nbrnn.Embedding(3, 2)(np.array([0, 3])), ValueError, r"x must lie in 0..2, got 0..3"),
        (lambda: nbrnn.Embedding(3, 2)(np.array([-1, 1])), ValueError, r"x must lie in 0..2, got -1..1"),
        (lambda: nbrnn.Embedding(3, 2)(np.array([2**64 - 1], np.uint64)), ValueError, "x must lie in 0..2"),
        (lambda: nbrnn.Embedding(3, 2)(np.zeros(4, int), lengths=[1]), ValueError, r"lengths must be None unless x is \(T, B\)"),
        (lambda: nbrnn.Embedding(3, 2)(np.zeros((4, 1), int), lengths=[5]), ValueError, r"lengths must lie in 0..4"),
        (lambda: nbrnn.LayerNorm(0), ValueError, "dim must be >= 1"),
        (lambda: nbrnn.LayerNorm(3, eps=0), ValueError, "eps must be"),
        (lambda: nbrnn.LayerNorm(3, elementwise_affine=1), TypeError, "elementwise_affine must be True or False"),
        (lambda: nbrnn.LayerNorm(3)(np.zeros((4, 2), F)), ValueError, r"x must have shape \(..., 3\), got \(4, 2\)"),
        (lambda: nbrnn.LayerNorm(3)(np.zeros((4, 3))), TypeError, "x must be of dtype float32, got float64"),
        (lambda: nbrnn.Pool("sum"), ValueError, "mode must be one of 'last', 'mean', 'max', got 'sum'"),
        (lambda: nbrnn.Pool(1), TypeError, "mode must be one of"),
        (lambda: nbrnn.Pool("max")(np.zeros(3)), ValueError, r"x must have shape \(T, B, n\), or \(T, n\) unbatched"),
        (lambda: nbrnn.Pool("max")(np.zeros((3, 2), int)), TypeError, "x must be a NumPy array of float32 or float64"),
        (lambda: nbrnn.Pool("max")(np.zeros((3, 2)), lengths=[1, 1]), ValueError, "lengths must be None unless"),
        (lambda: nbrnn.Pool("max")(np.zeros((3, 2, 1)), lengths=[4, 1]), ValueError, "lengths must lie in 0..3"),
        (lambda: nbrnn.Pool("max")(np.zeros((3, 2, 1)), np.zeros(2)), ValueError, "state must be None for Pool"),
    ],
)  # fmt: skip
def test_bad_input(make, wrong, words):
    with pytest.raises(wrong, match=words):
        make()
