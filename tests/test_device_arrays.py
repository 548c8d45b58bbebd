"""Arrays with a shape on a device, and parameters that live there: on an emulated one."""

import copy
import pickle

import numpy as np
import pytest

import nbrnn
from nbrnn._cuda.array import DeviceArray

KEYS = (0, -1, slice(1, None), slice(None, None, 2), (slice(None), 1), (0, slice(0, 2), -1), (None, 1), slice(3, 3))


@pytest.mark.parametrize("key", KEYS, ids=str)
@pytest.mark.parametrize("turned", [False, True])
def test_views_are_numpys(machine, key, turned):
    host = np.arange(3 * 4 * 5, dtype="f").reshape(3, 4, 5)
    array = DeviceArray.put(machine, host)
    if turned:
        host, array = host.swapaxes(0, 2), array.swapaxes(0, 2)
    np.testing.assert_array_equal(array[key].numpy(), host[key])
    assert array[key].contiguous == host[key].flags.c_contiguous
    assert array[key].shape == host[key].shape


def test_reshape_and_copy(machine):
    array = DeviceArray.put(machine, np.arange(12.0))
    np.testing.assert_array_equal(array.reshape(3, 4).copy().numpy(), np.arange(12.0).reshape(3, 4))
    with pytest.raises(ValueError, match="12 numbers"):
        array.reshape(5, 2)
    with pytest.raises(ValueError, match="contiguous"):
        array.reshape(3, 4).swapaxes(0, 1).numbers()


def test_nothing_is_copied_to_the_host_unasked(machine):
    array = DeviceArray.zeros(machine, (2, 3), np.float32)
    with pytest.raises(TypeError, match="numpy()"):
        np.asarray(array)
    with pytest.raises(TypeError, match="one number"):
        float(array)
    assert float(DeviceArray.put(machine, np.array([2.5]))) == 2.5
    with pytest.raises(IndexError):
        array[2]
    with pytest.raises(IndexError):
        array[0, 0, 0]


def test_interface(machine):
    array = DeviceArray.put(machine, np.arange(12.0).reshape(3, 4))
    found = array.swapaxes(0, 1).__cuda_array_interface__
    assert found["shape"] == (4, 3)
    assert found["strides"] == (8, 32)
    assert found["typestr"] == "<f8"
    assert found["data"] == (machine.address(array.flat), False)


@pytest.mark.parametrize(
    "make",
    [lambda: nbrnn.LSTM(2, 3, rng=0), lambda: nbrnn.Sequential(nbrnn.GRU(2, 3, rng=0), nbrnn.Linear(3, 2, rng=0))],
)
def test_parameters_move(machine, make):
    net, other = make(), make()
    version = net._parameters.version
    assert net.device == "cpu"
    assert net.to("cuda") is net
    assert net.device == "cuda"
    assert net._parameters.version > version
    np.testing.assert_array_equal(net.flat.numpy(), other.flat)
    for name, value in other.params.items():
        np.testing.assert_array_equal(net.params[name].numpy(), value)
    # Live views, both ways of writing them.
    view = net.params[next(iter(net.params))]
    net.flat = np.arange(net.flat.size)
    np.testing.assert_array_equal(view.numpy().reshape(-1), np.arange(view.size))
    net.params[next(iter(net.params))] = DeviceArray.zeros(machine, view.shape, np.float32)
    assert not view.numpy().any()
    for again in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert again.device == "cuda"
        np.testing.assert_array_equal(again.flat.numpy(), net.flat.numpy())
        assert repr(again) == repr(net)
    wanted = net.flat.numpy()
    net.to("cpu")
    assert net.device == "cpu"
    np.testing.assert_array_equal(net.flat, wanted)


def test_what_cant_be_moved(machine):
    net = nbrnn.Sequential(nbrnn.GRU(2, 3), nbrnn.Linear(3, 2))
    with pytest.raises(ValueError, match="whole network"):
        net[0].to("cuda")
    with pytest.raises(ValueError, match="'cuda:n', got 'gpu'"):
        net.to("gpu")
    with pytest.raises(TypeError, match="int"):
        net.to(0)
    net.to("cuda")
    with pytest.raises(ValueError, match="shape"):
        net.flat = DeviceArray.zeros(machine, (3,), np.float32)
    with pytest.raises(ValueError, match="same device"):
        nbrnn.Sequential(nbrnn.GRU(2, 3).to("cuda"), nbrnn.Linear(3, 2))
    assert nbrnn.Sequential(nbrnn.GRU(2, 3).to("cuda"), nbrnn.Linear(3, 2).to("cuda")).device == "cuda"


def test_what_runs_on_the_cpu_only_says_so(machine):
    net = nbrnn.Sequential(nbrnn.Embedding(5, 3), nbrnn.GRU(3, 4), nbrnn.Linear(4, 5)).to("cuda")
    x = np.zeros((4, 2), int)
    for call in (
        lambda: nbrnn.generate(net, [0, 1], 3),
        lambda: nbrnn.diagnostics.gradient_flow(net, x),
        lambda: nbrnn.diagnostics.saturation(net, x),
        lambda: nbrnn.diagnostics.gradcheck(net, x),
        lambda: nbrnn.diagnostics.jacobian_spectrum(net[1], np.zeros((4, 3), np.float32)),
    ):
        with pytest.raises(ValueError, match="net must be on the CPU"):
            call()
    parts = [nbrnn.Sequential(nbrnn.Embedding(5, 3), nbrnn.GRU(3, 4), *rest) for rest in ([], [nbrnn.Linear(4, 5)])]
    with pytest.raises(ValueError, match="Seq2Seq, which runs there only"):
        nbrnn.Seq2Seq(*parts, start=0, end=1).to("cuda")
