"""Optimisers and bounds for gradients on an emulated device, against the CPU's."""

import copy
import math
import pickle

import numpy as np
import pytest

import nbrnn
from nbrnn._cuda.array import DeviceArray
from nbrnn.module import Gradients
from nbrnn.optim import SGD, Adam, AdamW, RMSprop, clip_grad_value
from tests.ptx import compile as nvvm

if not nvvm.has_numba_cuda():
    pytest.skip("numba-cuda is not installed", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore")

from tests.cuda_resources import CAN_ASSEMBLE, wasted  # noqa: E402
from tests.test_cuda_kernels import caught_in  # noqa: E402


def layer(dtype="float32"):
    return nbrnn.Linear(3, 2, dtype=dtype, rng=0)


def gradients(machine, scale=1.0, seed=1, dtype="float32"):
    """The same on the CPU and on the machine."""
    flat = (scale * np.random.default_rng(seed).normal(size=8)).astype(dtype)
    return Gradients(None, None, {}, flat), Gradients(None, None, {}, DeviceArray.put(machine, flat))


def agree(found, wanted):
    """To a few roundings of the largest entry."""
    assert found.dtype == wanted.dtype
    assert abs(found - wanted).max() <= 8 * np.finfo(wanted.dtype).eps * abs(wanted).max()


OPTIMISERS = [
    (SGD, dict(lr=0.1, weight_decay=0.01)),
    (SGD, dict(lr=0.1, momentum=0.9, dampening=0.5, weight_decay=0.01)),
    (SGD, dict(lr=0.1, momentum=0.9, nesterov=True)),
    (RMSprop, dict(weight_decay=0.01)),
    (RMSprop, dict(momentum=0.5, centered=True)),
    (Adam, dict(weight_decay=0.01)),
    (AdamW, dict(amsgrad=True)),
]


@pytest.mark.parametrize("kind, settings", OPTIMISERS, ids=lambda v: "-".join(v) if isinstance(v, dict) else v.__name__)
def test_steps_are_the_cpus(machine, kind, settings):
    """The same loops: what differs is that a device may round a product and a sum once."""
    host, there = layer(), layer().to("cuda")
    one, other = kind(host, **settings), kind(there, **settings)
    version = there._parameters.version
    for q in range(3):
        for optimiser, grads in zip((one, other), gradients(machine, seed=q), strict=True):
            optimiser.step(grads)
        agree(there.flat.numpy(), host.flat)
    assert there._parameters.version == version + 3
    state, want = other.state_dict(), one.state_dict()
    assert state.keys() == want.keys()
    for name, value in want.items():
        if isinstance(value, np.ndarray):
            assert type(state[name]) is np.ndarray
            agree(state[name], value)
        else:
            assert state[name] == value
    assert repr(other) == repr(one)


def test_float64(machine):
    host, there = layer("float64"), layer("float64").to("cuda")
    one, other = Adam(host), Adam(there)
    for optimiser, grads in zip((one, other), gradients(machine, dtype="float64"), strict=True):
        optimiser.step(grads)
    agree(there.flat.numpy(), host.flat)


def test_what_is_carried_goes_where_the_parameters_are(machine):
    """States travel between the CPU and the device, by to(), by state_dict, by copies; nothing of it is lost."""
    host = layer()
    one = Adam(host)
    first, second = gradients(machine), gradients(machine, seed=2)
    one.step(first[0])
    moved = copy.deepcopy(one)
    moved.net.to("cuda")
    again = pickle.loads(pickle.dumps(moved))  # before its vectors have followed
    loaded = Adam(copy.deepcopy(host).to("cuda"))
    loaded.load_state_dict(one.state_dict())
    one.step(second[0])
    for other in (moved, again, loaded):
        assert other.net.device == "cuda"
        other.step(second[1])
        assert isinstance(other._vectors["m"], DeviceArray)
        for name in ("m", "v"):
            agree(other.state_dict()[name], one.state_dict()[name])
        agree(other.net.flat.numpy(), host.flat)
    copied = copy.deepcopy(moved)
    assert copied._vectors["m"] is not moved._vectors["m"]
    np.testing.assert_array_equal(copied.state_dict()["m"], moved.state_dict()["m"])
    moved.net.to("cpu")
    before = moved.state_dict()["m"]
    moved.step(first[0])
    assert isinstance(moved._vectors["m"], np.ndarray)
    assert (moved.state_dict()["m"] != before).any()


@pytest.mark.parametrize("scale, most", [(1.0, 0.5), (1.0, 100.0), (1e25, 1.0), (1e-30, math.inf), (0.0, 1.0)])
def test_clip_by_norm(machine, scale, most):
    """Squares neither overflow nor vanish."""
    host, there = gradients(machine, scale)
    want, found = nbrnn.clip_grad_norm(host, most), nbrnn.clip_grad_norm(there, most)
    assert type(found) is DeviceArray
    assert found.shape == ()
    assert abs(float(found) - want) <= 1e-6 * want
    np.testing.assert_allclose(there.flat.numpy(), host.flat, 1e-6)


@pytest.mark.parametrize("most", [0.5, 100.0, math.inf])
def test_clip_by_value(machine, most):
    host, there = gradients(machine)
    want, found = clip_grad_value(host, most), clip_grad_value(there, most)
    assert float(found) == np.float32(want)
    np.testing.assert_array_equal(there.flat.numpy(), host.flat)


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_what_isnt_finite(machine, bad):
    host, there = gradients(machine)
    host.flat[3] = bad
    there.flat.flat[3] = bad
    np.testing.assert_equal(float(nbrnn.clip_grad_norm(there, 0.5)), float(nbrnn.clip_grad_norm(host, 0.5)))
    np.testing.assert_array_equal(there.flat.numpy(), host.flat)
    np.testing.assert_equal(float(clip_grad_value(there, 0.5)), clip_grad_value(host, 0.5))
    np.testing.assert_array_equal(there.flat.numpy(), host.flat)


def test_mixes_are_refused(machine):
    host, there = gradients(machine)
    with pytest.raises(TypeError, match=r"grads.flat must be on the CPU.*to\('cuda'\)"):
        SGD(layer()).step(there)
    net = layer().to("cuda")
    opt = SGD(net)
    before = net.flat.numpy()
    with pytest.raises(TypeError, match=r"grads.flat must be on the GPU.*to\('cpu'\)"):
        opt.step(host)
    with pytest.raises(ValueError, match="grads.flat must have shape"):
        opt.step(Gradients(None, None, {}, there.flat[:3]))
    np.testing.assert_array_equal(net.flat.numpy(), before)
    assert opt.state_dict()["t"] == 0


def test_mutants_are_caught_and_nothing_is_wasted(machine):
    net = layer().to("cuda")
    there = gradients(machine)[1]
    nbrnn.clip_grad_norm(there, 0.5)
    clip_grad_value(there, 0.01)
    RMSprop(net, momentum=0.5, centered=True).step(there)
    Adam(net, amsgrad=True).step(there)
    seen = set()
    for launch in machine.launches:
        kernel = launch[0]
        if kernel.key not in seen and kernel.key[0] != "reduction":
            seen.add(kernel.key)
            left = caught_in(launch)
            assert not left, kernel.key[0] + "\n" + "\n".join(map(str, left))
            assert not CAN_ASSEMBLE or not wasted(kernel)
    assert len(seen) == 5
