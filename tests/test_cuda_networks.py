"""Parts of networks on an emulated device, against the CPU's."""

import numpy as np
import pytest

import nbrnn
from nbrnn._cuda.array import DeviceArray
from tests.ptx import compile as nvvm

if not nvvm.has_numba_cuda():
    pytest.skip("numba-cuda is not installed", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore")

from tests.cuda_resources import CAN_ASSEMBLE, wasted  # noqa: E402
from tests.emulated import Emulated  # noqa: E402
from tests.test_cuda_kernels import WITHIN, caught_in  # noqa: E402
from tests.test_cuda_kernels import compare as compare_numbers  # noqa: E402

#: Two sequences of three steps, one of them shorter.
T, B, LENGTHS = 3, 2, [1, 3]


def compare(found, wanted, within, what):
    if wanted.any():
        compare_numbers(found, wanted, within, what)
    else:
        np.testing.assert_array_equal(found, wanted, what)


def both(machine, make, x, lengths=None, seed=1):
    """A part, or network, on the CPU and on the machine: y, dx, and gradients agree, and nothing is left unwritten."""
    host, there = make(), make().to("cuda")
    dtype = host.flat.dtype if host.flat.size else x.dtype
    more = {"rng": seed}
    y, state, tape = host.forward(x, lengths=lengths, **more)
    dy = np.random.default_rng(2).normal(size=y.shape).astype(dtype)
    grads = host.backward(tape, dy)
    on_device = DeviceArray.put(machine, x)
    found, state, tape = there.forward(on_device, lengths=lengths, **more)
    assert type(found) is DeviceArray
    assert found.readonly
    slopes = there.backward(tape, DeviceArray.put(machine, dy))
    within = WITHIN[dtype.name]
    compare(found.numpy(), y, within, "y")
    if grads.x is None:
        assert slopes.x is None
    else:
        compare(slopes.x.numpy(), grads.x, within, "dx")
    compare(slopes.flat.numpy(), grads.flat, within, "gradients")
    for name, array in grads.params.items():
        np.testing.assert_array_equal(slopes.params[name].numpy().shape, array.shape)
        compare(slopes.params[name].numpy(), array, within, name)
    if lengths is not None and y.ndim == 3:
        past = np.arange(y.shape[0])[:, None] >= np.asarray(lengths)
        assert (found.numpy()[past] == 0).all()
    return there, on_device


def given(dtype="float32", n=3, spoilt=True):
    """x, with NaN past the ends."""
    x = np.random.default_rng(0).normal(size=(T, B, n)).astype(dtype)
    if spoilt:
        x[1:, 0] = np.nan
    return x


@pytest.mark.parametrize(
    "activation, dtype",
    [*((name, "float32") for name in (None, "softmax", "sigmoid", "tanh", "relu")), ("softmax", "float64")],
)
def test_linear(machine, activation, dtype):
    make = lambda: nbrnn.Linear(3, 4, activation is None, activation, dtype=dtype, rng=0)
    net, x = both(machine, make, given(dtype), LENGTHS)
    y, state = net(x, lengths=LENGTHS)
    assert state is None
    compare(y.numpy(), make()(given(dtype), lengths=LENGTHS)[0], WITHIN[dtype], "y of a call")


def test_linear_of_other_shapes(machine):
    make = lambda: nbrnn.Linear(3, 2, rng=0)
    x = given(spoilt=False)
    both(machine, make, x)
    both(machine, make, x[0])
    both(machine, make, x[0, 0])
    both(machine, make, x[:0])
    net = make().to("cuda")
    # (B, T, n) in memory, seen as (T, B, n), and every other number.
    turned = DeviceArray.put(machine, np.ascontiguousarray(x.swapaxes(0, 1))).swapaxes(0, 1)
    wide = DeviceArray.put(machine, np.repeat(x, 2, 2))[:, :, ::2]
    for array in (turned, wide):
        for lengths in (None, LENGTHS):
            y, _, tape = net.forward(array, lengths=lengths)
            want, _, other = make().forward(x, lengths=lengths)
            compare(y.numpy(), want, 5e-6, "y")
            assert net.backward(tape, y).x.shape == x.shape


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_layer_norm(machine, dtype):
    def make():
        layer = nbrnn.LayerNorm(3, dtype=dtype)
        layer.flat = np.random.default_rng(5).normal(size=6)
        return layer

    both(machine, make, given(dtype), LENGTHS)
    if dtype == "float32":
        x = DeviceArray.put(machine, given(spoilt=False))
        plain = nbrnn.LayerNorm(3, elementwise_affine=False)
        compare(plain(x)[0].numpy(), plain(x.numpy())[0], 5e-6, "y without factors")


@pytest.mark.parametrize("mode", ["last", "mean", "max"])
def test_pool(machine, mode):
    make = lambda: nbrnn.Pool(mode)
    x = given()
    x[2, 1, 0] = np.nan  # larger than any number
    if mode != "max":
        x[2, 1, 0] = 1
    for lengths in (LENGTHS, [0, 2]):
        host, there = make(), make()
        y, _, tape = host.forward(x, lengths=lengths)
        found, _, other = there.forward(DeviceArray.put(machine, x), lengths=lengths)
        np.testing.assert_allclose(found.numpy(), y, 1e-6)
        dy = np.arange(6, dtype="f").reshape(2, 3)
        want, got = host.backward(tape, dy).x, there.backward(other, DeviceArray.put(machine, dy)).x
        np.testing.assert_allclose(got.numpy(), want, 1e-6)
    turned = np.ascontiguousarray(given(spoilt=False).swapaxes(0, 1))
    found = make()(DeviceArray.put(machine, turned).swapaxes(0, 1))[0]
    np.testing.assert_allclose(found.numpy(), make()(turned.swapaxes(0, 1))[0], 1e-6)
    np.testing.assert_allclose(make()(DeviceArray.put(machine, turned[0]))[0].numpy(), make()(turned[0])[0], 1e-6)


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_dropout(machine, p):
    """The numbers that the CPU drops."""
    make = lambda: nbrnn.Dropout(p)
    net, x = both(machine, make, given(), LENGTHS)
    assert np.isnan(net(x, lengths=LENGTHS)[0].numpy()).sum() == 0
    both(machine, make, given(spoilt=False)[0])
    y = net.forward(x.swapaxes(0, 1), rng=3)[0]
    np.testing.assert_array_equal(y.numpy(), make().forward(x.numpy().swapaxes(0, 1), rng=3)[0])


@pytest.mark.parametrize("dtype", [np.int64, np.int32])
def test_embedding(machine, dtype):
    make = lambda: nbrnn.Embedding(5, 3, padding_idx=2, rng=0)
    x = np.array([[4, 0], [9, 0], [2, 1]], dtype)  # 9 past the end
    both(machine, make, x, LENGTHS if dtype == np.int64 else [1, 2])


def test_embedding_of_many(machine):
    """More than a warp sees at once, in the order in which they stand: the CPU's bits."""
    net = nbrnn.Embedding(4, 2, rng=0)
    x = np.random.default_rng(0).integers(0, 4, (35, 2))
    dy = np.random.default_rng(0).normal(size=(35, 2, 2)).astype("f")
    want = net.backward(net.forward(x)[2], dy)
    net.to("cuda")
    tape = net.forward(DeviceArray.put(machine, x))[2]
    np.testing.assert_array_equal(net.backward(tape, DeviceArray.put(machine, dy)).flat.numpy(), want.flat)


def test_indices_out_of_range_are_seen(machine):
    net = nbrnn.Embedding(3, 2, rng=0).to("cuda")
    y, _, tape = net.forward(DeviceArray.put(machine, np.array([0, 3, -1])))
    assert np.isnan(y.numpy()).any(1).tolist() == [False, True, True]
    ones = DeviceArray.put(machine, np.ones((3, 2), "f"))
    np.testing.assert_array_equal(net.backward(tape, ones).params["weight"].numpy(), [[1, 1], [0, 0], [0, 0]])


def network():
    return nbrnn.Sequential(
        nbrnn.Embedding(4, 3, rng=0), nbrnn.LayerNorm(3), nbrnn.Pool("mean"), nbrnn.Linear(3, 2, rng=1)
    )


def test_sequential(machine):
    x = np.array([[1, 0], [9, 3], [9, 3]])
    net, there = both(machine, network, x, LENGTHS)
    y, state = net(there, lengths=LENGTHS)
    compare(y.numpy(), network()(x, lengths=LENGTHS)[0], 5e-6, "y")
    assert state == (None,) * 4


def test_mixes_are_refused(machine):
    net, x = nbrnn.Linear(3, 2, rng=0), np.ones((2, 3), "f")
    there = DeviceArray.put(machine, x)
    for cpu in (net, nbrnn.Sequential(nbrnn.Linear(3, 2, rng=0))):
        with pytest.raises(TypeError, match=r"x must be on the CPU.*got an array on the GPU.*to\('cuda'\)"):
            cpu(there)
        with pytest.raises(ValueError, match="stream must be None"):
            cpu(x, stream=1)
        with pytest.raises(ValueError, match="stream must be None"):
            cpu.backward(cpu.forward(x)[2], stream=1)
    with pytest.raises(ValueError, match="stream must be None where x is on the CPU"):
        nbrnn.Dropout()(x, stream=1)
    own = nbrnn.Linear(3, 2, rng=0).to("cuda")
    with pytest.raises(TypeError, match=r"x must be on the GPU.*got an array on the CPU.*to\('cpu'\)"):
        own(x)
    y, _, tape = own.forward(there)
    with pytest.raises(TypeError, match="dy must be an array on the GPU"):
        own.backward(tape, y.numpy())
    with pytest.raises(ValueError, match="dy must have shape"):
        own.backward(tape, there)
    with pytest.raises(TypeError, match="x must be of dtype float32, got float64"):
        own(DeviceArray.put(machine, np.ones((2, 3))))
    with pytest.raises(ValueError, match="same device"):
        own(DeviceArray.put(Emulated(), x))
    with pytest.raises(ValueError, match=r"x must have shape \(\.\.\., 3\)"):
        own(there[:, :2])
    with pytest.raises(TypeError, match="x must be integers"):
        nbrnn.Embedding(3, 2).to("cuda")(there)
    grads = own.backward(tape, y)  # the tape has stayed usable
    assert grads.x.shape == (2, 3)
    own.to("cpu")
    own(x)


def test_mutants_are_caught_and_nothing_is_wasted(machine):
    """Stores moved."""
    net = nbrnn.Sequential(nbrnn.Embedding(4, 3, rng=0), nbrnn.LayerNorm(3), nbrnn.Linear(3, 2, activation="softmax"))
    net.to("cuda")
    x = DeviceArray.put(machine, np.array([[1, 0], [1, 3], [2, 3]], np.int32))
    y, _, tape = net.forward(x, lengths=LENGTHS)
    net.backward(tape, y)
    nbrnn.Pool("max")(net[0](x)[0])
    seen = set()
    for launch in machine.launches:
        name = launch[0].key[0]
        if name not in seen and name not in ("product", "sum_rows", "sum_parts"):
            seen.add(name)
            assert not CAN_ASSEMBLE or not wasted(launch[0])
            left = caught_in(launch)
            assert not left, name + "\n" + "\n".join(map(str, left))
    assert seen == {
        "look_up", "add_rows", "normalise", "normalise_back", "stretch", "mapped", "softmax", "softmax_back",
        "take_rows", "put_rows", "pool", "assign",
    }  # fmt: skip
