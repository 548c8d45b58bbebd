"""Adam against torch's; clipping; states."""

import numpy as np
import pytest

import nbrnn
from nbrnn.module import Gradients

NAN, INF = float("nan"), float("inf")


def gradients_of(net, rng):
    flat = rng.normal(size=net.flat.size).astype(net.flat.dtype)
    return Gradients(None, None, {}, flat)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("options", [{}, {"lr": 0.03, "betas": (0.8, 0.99), "eps": 1e-6, "weight_decay": 0.1}])
def test_adam_agrees_with_torch(dtype, options):
    torch = pytest.importorskip("torch")
    net = nbrnn.RNN(3, 4, dtype=dtype, rng=0)
    parameter = torch.from_numpy(net.flat.copy()).requires_grad_()
    ours, theirs = nbrnn.optim.Adam(net, **options), torch.optim.Adam([parameter], **options)
    rng = np.random.default_rng(0)
    for _ in range(30):
        grads = gradients_of(net, rng)
        parameter.grad = torch.from_numpy(grads.flat.copy())
        ours.step(grads)
        theirs.step()
    np.testing.assert_allclose(net.flat, parameter.detach(), rtol=2e-5 if dtype == np.float32 else 1e-12, atol=1e-7)
    assert net.flat.dtype == dtype


def test_state_dict_goes_on_to_the_bit():
    net = nbrnn.RNN(3, 4, rng=0)
    opt, rng = nbrnn.optim.Adam(net, lr=0.1), np.random.default_rng(0)
    for _ in range(3):
        opt.step(gradients_of(net, rng))
    saved, flat, later = opt.state_dict(), net.flat.copy(), [gradients_of(net, rng) for _ in range(3)]
    for grads in later:
        opt.step(grads)
    wanted = net.flat.copy()
    net.flat = flat
    fresh = nbrnn.optim.Adam(net)
    fresh.load_state_dict(saved)
    for grads in later:
        fresh.step(grads)
    np.testing.assert_array_equal(net.flat, wanted)
    with pytest.raises(ValueError, match="state_dict.*m missing"):
        fresh.load_state_dict({k: v for k, v in saved.items() if k != "m"})
    with pytest.raises(ValueError, match=r"state\['m'\] must have shape"):
        nbrnn.optim.Adam(nbrnn.RNN(3, 5)).load_state_dict(saved)


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


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_gradients_that_are_not_finite_are_left_alone(value):
    grads = Gradients(None, None, {}, np.array([1.0, value, 2.0]))
    assert not np.isfinite(nbrnn.clip_grad_norm(grads, 1.0))
    np.testing.assert_array_equal(grads.flat, [1.0, value, 2.0])


@pytest.mark.parametrize(
    "change, error, words",
    [
        (dict(lr=-1), ValueError, "lr must be a finite number >= 0, got -1"),
        (dict(lr=NAN), ValueError, "lr must be a finite number"),
        (dict(lr=INF), ValueError, "lr must be a finite number"),
        (dict(lr="fast"), TypeError, "lr must be a real number"),
        (dict(betas=(0.9, 1.0)), ValueError, "betas must be < 1"),
        (dict(betas=(NAN, 0.9)), ValueError, r"betas\[0\] must be"),
        (dict(betas=0.9), ValueError, "betas must be a pair"),
        (dict(eps=-1e-8), ValueError, "eps must be"),
        (dict(weight_decay=NAN), ValueError, "weight_decay must be"),
        (dict(net=3), TypeError, "net must be a layer or a network, got int"),
    ],
)
def test_bad_input(change, error, words):
    with pytest.raises(error, match=words):
        nbrnn.optim.Adam(**({"net": nbrnn.RNN(1, 2)} | change))


def test_bad_gradients():
    net = nbrnn.RNN(1, 2)
    opt = nbrnn.optim.Adam(net)
    with pytest.raises(TypeError, match="grads must come from backward"):
        opt.step(net.flat)
    with pytest.raises(ValueError, match=r"grads.flat must have shape \(10,\)"):
        opt.step(Gradients(None, None, {}, np.zeros(9, np.float32)))
    with pytest.raises(TypeError, match="grads must come from"):
        nbrnn.clip_grad_norm(net.flat, 1.0)
    for bound in (0, -1, NAN, -INF):
        with pytest.raises(ValueError, match="max_norm must be"):
            nbrnn.clip_grad_norm(Gradients(None, None, {}, np.zeros(9)), bound)
    three = Gradients(None, None, {}, np.array([3.0, 4.0]))
    assert nbrnn.clip_grad_norm(three, INF) == 5
    np.testing.assert_array_equal(three.flat, [3, 4])
    with pytest.raises(TypeError, match="state must be what state_dict"):
        opt.load_state_dict(None)
    with pytest.raises(TypeError, match="must be of dtype float32, got complex128"):
        opt.load_state_dict(opt.state_dict() | {"m": np.zeros(10, complex)})
