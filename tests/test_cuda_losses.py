"""Losses on an emulated device, against the CPU's."""

import numpy as np
import pytest

from nbrnn import losses
from nbrnn._cuda.array import DeviceArray
from nbrnn._cuda.sums import STRETCH, reduced
from tests.ptx import compile as nvvm

if not nvvm.has_numba_cuda():
    pytest.skip("numba-cuda is not installed", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore")

from tests.cuda_resources import CAN_ASSEMBLE, wasted  # noqa: E402
from tests.test_cuda_kernels import WITHIN, caught_in, compare  # noqa: E402

T, B, LENGTHS = 3, 2, [1, 3]


def both(machine, loss, y, target, lengths=None, **settings):
    """A loss on the CPU and on the machine, for y and target in several orders of memory."""
    want, want_dy = loss(y, target, lengths, **settings)
    within = WITHIN[y.dtype.name]
    put = lambda a: DeviceArray.put(machine, np.array(a, order="C"))
    layouts = [(put(y), put(target), settings)]
    if y.ndim == 3:
        turned = put(y.swapaxes(0, 1)), put(target.swapaxes(0, 1))
        layouts.append((turned[0], turned[1], settings | {"batch_first": True}))
        layouts.append((turned[0].swapaxes(0, 1), put(target), settings))
    for given, goal, own in layouts:
        value, dy = loss(given, goal, lengths, **own)
        assert type(value) is DeviceArray
        assert value.shape == ()
        assert value.dtype == y.dtype
        found = dy.numpy().swapaxes(0, 1) if own.get("batch_first") else dy.numpy()
        assert dy.shape == given.shape
        if want:
            assert abs(float(value) - want) <= within * abs(want)
        else:
            assert float(value) == 0
        if want_dy.any():
            compare(found, want_dy, within, "dy")
        else:
            np.testing.assert_array_equal(found, want_dy)


def numbers(dtype="float32", n=3, seed=0):
    """y of three steps of two sequences, with NaN past an end."""
    y = np.random.default_rng(seed).normal(size=(T, B, n)).astype(dtype)
    y[1:, 0] = np.nan
    return y


@pytest.mark.parametrize(
    "name, dtype", [("mse", "float32"), ("mae", "float32"), ("huber", "float32"), ("huber", "float64")]
)
def test_distances(machine, name, dtype):
    settings = {"delta": 0.5} if name == "huber" else {}
    y, target = numbers(dtype), numbers(dtype, seed=1)
    target[2, 1, 0] = y[2, 1, 0]
    both(machine, getattr(losses, name), y, target, LENGTHS, **settings)
    if name == "mse" and dtype == "float32":
        both(machine, losses.mse, y[:, 1], target[:, 1])
        both(machine, losses.mse, y[:, 1], target[:, 1].astype("f8"))
        both(machine, losses.mse, y[:, 1], np.ones((T, 3), np.int32))
        both(machine, losses.mse, y, target, [0, 0])
        both(machine, losses.mse, y[:0], target[:0])
        bad, slope = losses.mse(DeviceArray.put(machine, y), DeviceArray.put(machine, target))
        assert np.isnan(float(bad))
        np.testing.assert_array_equal(np.isnan(slope.numpy()), np.isnan(y))


@pytest.mark.parametrize("dtype", WITHIN)
def test_binary(machine, dtype):
    y, rng = numbers(dtype), np.random.default_rng(3)
    target = rng.random((T, B, 3)).astype(dtype)
    target[1] = [0, 1, 1]
    both(machine, losses.bce_with_logits, y, target, LENGTHS)
    weights = {"weight": rng.random((B, 1)), "pos_weight": [1.0, 0.0, 2.5]}
    if dtype == "float32":
        whole = np.where(np.isnan(y), 0, y)
        value, dy = losses.bce_with_logits(*(DeviceArray.put(machine, a) for a in (whole, target)), LENGTHS, **weights)
        want, want_dy = losses.bce_with_logits(whole, target, LENGTHS, **weights)
        assert abs(float(value) - want) <= 5e-6 * want
        compare(dy.numpy(), want_dy, 5e-6, "dy")
        whole[0, 0] = [100, -100, 0]
        both(machine, losses.bce_with_logits, whole, target, LENGTHS)
        target[0, 0, 0] = 1.5
        bad, _ = losses.bce_with_logits(DeviceArray.put(machine, whole), DeviceArray.put(machine, target))
        assert np.isnan(float(bad))


@pytest.mark.parametrize("dtype", WITHIN)
def test_cross_entropy(machine, dtype):
    y = numbers(dtype, 5)
    target = np.array([[4, 0], [77, 2], [77, -100]])
    both(machine, losses.cross_entropy, y, target, LENGTHS)
    weight = [1.0, 0.5, 0.0, 3.0, 1.0]
    both(machine, losses.cross_entropy, y, target, LENGTHS, weight=weight, label_smoothing=0.25)
    if dtype == "float32":
        both(machine, losses.cross_entropy, y[:, 1], target[:, 1])
        both(machine, losses.cross_entropy, y[0, 1], target[0, 1])
        both(machine, losses.cross_entropy, y[:, 1], np.array([-7, -7, -7]), ignore_index=-7)  # nothing counts
        y[0] = [[50, -50, 0, 0, 30], [1e4, -np.inf, 0, 0, 0]]  # confident, and ruled out
        both(machine, losses.cross_entropy, y, target.astype(np.int32), LENGTHS)
        value, dy = losses.cross_entropy(
            DeviceArray.put(machine, y[:, 1]), DeviceArray.put(machine, np.array([0, 5, 1]))
        )
        assert np.isnan(float(value))
        assert np.isnan(dy.numpy()[1]).all()


def test_more_classes_than_lanes(machine):
    y = np.random.default_rng(0).normal(size=(2, 70)).astype("f")
    both(machine, losses.cross_entropy, y, np.array([69, 3]), label_smoothing=0.1)


def test_sums_are_of_any_size(machine):
    """In several passes; the largest number is seen wherever it stands, and so is NaN."""
    rng = np.random.default_rng(0)
    for size in (0, 1, 33, STRETCH, STRETCH + 1, 3 * STRETCH + 7):
        a = rng.normal(size=size).astype("f")
        flat = machine.put(a)
        assert abs(float(reduced(machine, "sum", flat)[0]) - a.astype("d").sum()) <= 1e-6 * max(1, abs(a).sum())
        largest = reduced(machine, "largest", flat)
        assert largest[0] == (abs(a).max() if size else 0)
        if size:
            a[rng.integers(size)] = np.nan
            assert np.isnan(reduced(machine, "largest", machine.put(a))[0])


def test_mixes_are_refused(machine):
    y, target = np.zeros((2, 3), "f"), np.zeros((2, 3), "f")
    there = DeviceArray.put(machine, y)
    for loss in (losses.mse, losses.mae, losses.huber, losses.bce_with_logits, losses.cross_entropy):
        with pytest.raises(TypeError, match="target must be an array on the GPU.*got a NumPy array"):
            loss(there, target)
        with pytest.raises(TypeError, match="target must be on the CPU, as y is"):
            loss(y, there)
    with pytest.raises(TypeError, match="ctc runs on the CPU only"):
        losses.ctc(there[:, None], [[1]])
    with pytest.raises(TypeError, match="target must be integers"):
        losses.cross_entropy(there, there[:, 0])
    with pytest.raises(ValueError, match=r"target must have shape \(2, 3\)"):
        losses.mse(there, there[:1])
    with pytest.raises(TypeError, match="y must be"):
        losses.mse(DeviceArray.put(machine, np.ones(3, int)), DeviceArray.put(machine, np.ones(3, int)))


def test_mutants_are_caught_and_nothing_is_wasted(machine):
    put = lambda a: DeviceArray.put(machine, a)
    y, target = put(np.random.default_rng(0).normal(size=(T, B, 3)).astype("f")), put(np.ones((T, B, 3), "f"))
    losses.huber(y, target, LENGTHS)
    losses.bce_with_logits(y, target, LENGTHS)
    losses.cross_entropy(y, put(np.ones((T, B), int)), LENGTHS, label_smoothing=0.1)
    reduced(machine, "largest", y.flat)
    reduced(machine, "squares", y.flat, machine.put(np.ones(1, "f")))
    seen = set()
    for launch in machine.launches:
        name = launch[0].key[:2] if launch[0].key[0] == "reduction" else launch[0].key[0]
        if name not in seen:
            seen.add(name)
            assert not CAN_ASSEMBLE or not wasted(launch[0])
            left = caught_in(launch)
            assert not left, str(name) + "\n" + "\n".join(map(str, left))
    assert len(seen) == 8
