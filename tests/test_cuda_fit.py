"""Training with a network on an emulated device: what happens on the CPU happens there."""

import math

import numpy as np
import pytest

import nbrnn
from nbrnn import losses
from nbrnn._cuda.array import DeviceArray
from nbrnn.optim import schedules
from nbrnn.training import NotFiniteError, evaluate
from tests.ptx import compile as nvvm

if not nvvm.has_numba_cuda():
    pytest.skip("numba-cuda is not installed", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore")

from tests.fake_cuda import installed  # noqa: E402

LENGTHS = (3, 1, 2)
OFF = dict(progress=False, rng=0)


def network(batch_first=False):
    return nbrnn.Sequential(
        nbrnn.GRU(2, 3, batch_first=batch_first, rng=0), nbrnn.Dropout(0.25), nbrnn.Linear(3, 2, rng=1)
    )


def sequences(lengths=LENGTHS):
    """Inputs, and a class for each step."""
    rng = np.random.default_rng(5)
    xs = [rng.normal(size=(n, 2)).astype("f") for n in lengths]
    return xs, [rng.integers(0, 2, len(x)) for x in xs]


def right(y, target, lengths):
    """How many are right: a metric on NumPy's arrays."""
    assert type(y) is type(target) is np.ndarray
    inside = np.arange(len(y))[:, None] < lengths
    return float((y.argmax(-1) == target)[inside].mean())


def agree(found, wanted):
    for name in ("loss", "validation", "metric", "norm", "lr"):
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), 2e-5, err_msg=name)
    assert found.best == wanted.best


def test_everything_at_once(machine, tmp_path):
    """Two sequences, clipping, a schedule, validation, a metric, dropout, checkpoints; and a run that goes on from one."""
    nets, histories = [], []
    for device in ("cpu", "cuda"):
        for part in range(2 if device == "cuda" else 1):
            net = network().to(device)
            opt = nbrnn.optim.AdamW(net, lr=0.05)
            more = {"checkpoint_dir": tmp_path} if device == "cuda" else {}
            history = nbrnn.fit(
                net, sequences((2, 1)), losses.cross_entropy, opt, 1 if more and not part else 2, batch_size=2,
                schedule=schedules.Step(opt, 1, 0.5), validation=sequences((2,)), metric=right, patience=5,
                clip_norm=0.2, clip_value=0.15, **more, **OFF,
            )  # fmt: skip
        nets.append(net)
        histories.append(history)
    agree(*histories[::-1])
    assert max(histories[0].norm) > 0.2
    np.testing.assert_allclose(nets[1].flat.numpy(), nets[0].flat, atol=2e-6)
    # Checkpoints are the host's: another device, or none, can go on.
    net = network()
    opt = nbrnn.optim.AdamW(net, lr=0.05)
    again = nbrnn.fit(
        net, sequences((2, 1)), losses.cross_entropy, opt, 2, batch_size=2, schedule=schedules.Step(opt, 1, 0.5),
        validation=sequences((2,)), metric=right, patience=5, clip_norm=0.2, clip_value=0.15, checkpoint_dir=tmp_path,
        **OFF,
    )  # fmt: skip
    agree(again, histories[0])


def test_stretches_of_batches_with_the_batch_first(machine, tmp_path):
    """bptt: the state stays on the device from stretch to stretch, and in checkpoints on the host."""
    rng = np.random.default_rng(1)
    x, target = rng.normal(size=(2, 3, 2)).astype("f"), rng.normal(size=(2, 3, 2))
    found = []
    for device in ("cpu", "cuda"):
        net = network(batch_first=True).to(device)
        opt = nbrnn.optim.SGD(net, lr=0.1, momentum=0.5)
        folder = {"checkpoint_dir": tmp_path, "checkpoint_every": 1} if device == "cuda" else {}
        history = nbrnn.fit(net, (x, target, [3, 2]), losses.mse, opt, 1, bptt=2, **folder, **OFF)
        found.append((net.params.numpy(), history))
    agree(found[1][1], found[0][1])
    np.testing.assert_allclose(found[1][0], found[0][0], atol=2e-6)
    # From the checkpoint between the two stretches.
    newest = max(tmp_path.iterdir())
    newest.unlink()
    net = network(batch_first=True).to("cuda")
    opt = nbrnn.optim.SGD(net, lr=0.1, momentum=0.5)
    nbrnn.fit(net, (x, target, [3, 2]), losses.mse, opt, 1, bptt=2, **folder, **OFF)
    np.testing.assert_array_equal(net.flat.numpy(), found[1][0])


def test_scores(machine):
    net = network()
    want = evaluate(net, sequences(), losses.cross_entropy, metric=right)
    found = evaluate(net.to("cuda"), sequences(), losses.cross_entropy, metric=right)
    assert math.isclose(found.loss, want.loss, rel_tol=1e-5)
    assert found.metric == want.metric


def test_what_isnt_finite_ends_training_and_undoes_the_step(machine):
    x, target = np.ones((2, 1, 3), "f"), np.ones((2, 1, 2))
    make = lambda: nbrnn.Linear(3, 2, rng=0).to("cuda")
    for given, lr, what in (
        (np.full_like(x, np.nan), 0.1, "the loss is nan"),
        (np.full_like(x, 3e19), 0.1, "the loss is inf"),
        (x, 3e38, "the parameters are not finite"),
    ):
        net = make()
        net.flat = net.flat.numpy() * 4
        before = net.flat.numpy()
        with pytest.raises(NotFiniteError, match=what):
            nbrnn.fit(net, (given, target), losses.mse, nbrnn.optim.SGD(net, lr=lr, momentum=0.9), 3, **OFF)
        np.testing.assert_array_equal(net.flat.numpy(), before)


def test_gradients_that_arent_finite(machine):
    net = nbrnn.Linear(3, 2, rng=0).to("cuda")
    before = net.flat.numpy()
    endless = DeviceArray.put(machine, np.full((2, 1, 2), np.inf, "f"))
    x = np.ones((2, 1, 3), "f")
    with pytest.raises(NotFiniteError, match="the gradients have norm inf"):
        nbrnn.fit(net, (x, x[:, :, :2]), lambda y, target: (1.0, endless), nbrnn.optim.SGD(net), 1, **OFF)
    np.testing.assert_array_equal(net.flat.numpy(), before)


def test_through_a_driver_that_does_all_later():
    """The made-up libcuda runs what it is given when somebody waits for it; all memory is given back."""
    make = lambda: nbrnn.Sequential(nbrnn.Embedding(3, 2, rng=0), nbrnn.Pool("mean"), nbrnn.Linear(2, 2, rng=1))
    data = [np.array([0, 2]), np.array([1])], [1, 0]
    net = make()
    want = nbrnn.fit(net, data, losses.cross_entropy, nbrnn.optim.Adam(net), 1, clip_norm=0.1, **OFF)
    with installed(deferred=True):
        there = make().to("cuda")
        opt = nbrnn.optim.Adam(there)
        found = nbrnn.fit(there, data, losses.cross_entropy, opt, 1, clip_norm=0.1, validation=data, **OFF)
        agree_on = there.params.numpy()
        del opt, there
    np.testing.assert_allclose(found.loss, want.loss, 1e-5)
    np.testing.assert_allclose(agree_on, net.flat, atol=2e-6)


def test_the_device_is_asked_once_for_each_step(machine):
    """A loss of one's own may be a number on the device, or a float."""
    net = nbrnn.Linear(3, 2, rng=0).to("cuda")
    asked, get = [], machine.get
    machine.get = lambda array: asked.append(array.size) or get(array)
    x, target = np.ones((2, 1, 3), "f"), np.ones((2, 1, 2), "f")

    def own(y, target):
        assert type(y) is type(target) is DeviceArray
        return losses.mse(y, target)

    nbrnn.fit(net, [(x, target)] * 2, own, nbrnn.optim.SGD(net), 1, **OFF)
    assert asked == [3, 3]
    nbrnn.fit(net, (x, target), lambda y, target: (1.0, y), nbrnn.optim.SGD(net), 1, **OFF)
    assert asked[2:] == [2]


def test_labels_of_any_length_need_the_cpu(machine):
    net = nbrnn.Linear(3, 2, rng=0).to("cuda")
    xs = [np.ones((2, 3), "f")] * 2
    with pytest.raises(TypeError, match="ctc runs on the CPU only"):
        nbrnn.fit(net, (xs, [np.array([1]), np.zeros(0, int)]), losses.ctc, nbrnn.optim.SGD(net), 1, **OFF)
