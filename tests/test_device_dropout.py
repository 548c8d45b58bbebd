"""Dropout on a device drops what it drops on the CPU, to the bit: run by the emulator with all its checks."""

import numpy as np
import pytest

from nbrnn._cpu import dropout as on_cpu
from nbrnn._cpu.unit import dropout as dropout_on_cpu
from nbrnn._cuda import dropout as module
from nbrnn._cuda.array import DeviceArray
from nbrnn._cuda.dropout import dropout, masks
from tests.ptx import compile as nvvm
from tests.reference import philox as reference

if not nvvm.has_numba_cuda():
    pytest.skip("numba-cuda is not installed", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore")

from tests.emulated import Emulated  # noqa: E402
from tests.test_cuda_kernels import caught_in  # noqa: E402

same = np.testing.assert_array_equal
KEY = (0xF0E1D2C3, 987654321)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "shape, directions, p",
    [
        ((3, 2, 7), 1, 0.3),
        ((2, 3, 10), 2, 0.5),
        ((1, 9, 64), 1, 1e-4),
        ((4, 1, 1), 1, 0.9999),
        ((2, 2, 12), 2, 0.0),
        ((2, 2, 6), 1, 1.0),
        ((1, 1, 530), 1, 0.25),
        ((0, 2, 6), 1, 0.5),
        ((2, 0, 6), 1, 0.5),
    ],
)
def test_bits_are_the_cpus(shape, directions, p, dtype):
    machine = Emulated()
    x = np.random.default_rng(0).normal(size=shape).astype(dtype)
    if x.size:
        x[0, 0, 0] = np.nan
    place = (on_cpu.BETWEEN_LAYERS, 2, directions, 2**31 - 2)
    wanted = dropout_on_cpu(x, p, KEY, *place)
    given = DeviceArray.put(machine, x)
    same(dropout(machine, given, p, KEY, *place).numpy(), wanted)
    same(given.numpy(), x)
    assert dropout(machine, given, p, KEY, *place, out=given) is given
    same(given.numpy(), wanted)


def test_strides_over_time_and_batch():
    machine, x = Emulated(), np.random.default_rng(0).normal(size=(3, 4, 9)).astype("f")
    wide, out = DeviceArray.put(machine, x), DeviceArray.zeros(machine, (3, 4, 9), "f")
    for a, view in [(x[:, ::2, 1:8], np.s_[:, ::2, 1:8]), (x[1:, :, :5], np.s_[1:, :, :5])]:
        wanted = dropout_on_cpu(a, 0.4, KEY, on_cpu.MODULE, 0, 1, 3)
        found = dropout(machine, wide[view], 0.4, KEY, on_cpu.MODULE, 0, 1, 3, out=out[view])
        same(found.numpy(), wanted)
    turned = x.swapaxes(0, 1)
    same(
        dropout(machine, wide.swapaxes(0, 1), 0.4, KEY, on_cpu.MODULE, 0, 1, 3).numpy(),
        dropout_on_cpu(turned, 0.4, KEY, on_cpu.MODULE, 0, 1, 3),
    )
    # Nothing but the view is written: what no view has seen is still 0.
    assert not out[0, 1::2].numpy().any()
    assert not out[0, :, 8].numpy().any()


def test_more_steps_than_blocks(monkeypatch):
    monkeypatch.setattr(module, "_MOST", 2)
    x = np.random.default_rng(0).normal(size=(5, 2, 3)).astype("f")
    machine = Emulated()
    found = dropout(machine, DeviceArray.put(machine, x), 0.5, KEY, on_cpu.BETWEEN_LAYERS, 1, 1, 7)
    same(found.numpy(), dropout_on_cpu(x, 0.5, KEY, on_cpu.BETWEEN_LAYERS, 1, 1, 7))
    assert machine.launches[0][1] == (1, 2)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_masks(dtype):
    machine, size, H, p, layer = Emulated(), 3, 6, 0.3, 4
    for direction in (0, 1):
        found = masks(machine, size, H, dtype, p, KEY, layer, direction).numpy()
        assert found.dtype == dtype
        assert module.RECURRENT == on_cpu.RECURRENT
        for b, u in np.ndindex(size, H):
            keep = reference.kept(KEY, on_cpu.RECURRENT, layer, direction, 0, b, u, p)
            assert found[b, u] == (np.dtype(dtype).type(1 / (1 - p)) if keep else 0)
    assert masks(machine, 0, H, dtype, p, KEY, layer, 0).shape == (0, H)


def test_what_the_kernel_cant_read_is_refused():
    machine = Emulated()
    x = DeviceArray.zeros(machine, (2, 3, 4), "f")
    for bad, out in [(x.swapaxes(1, 2), None), (x, x[:, :, ::2]), (x, DeviceArray.zeros(machine, (2, 3, 4), "d"))]:
        with pytest.raises(ValueError, match="inner axis"):
            dropout(machine, bad, 0.5, KEY, 0, 0, 1, 0, out=out)


def test_mutants_are_caught():
    """Stores moved or taken away give other numbers."""
    machine, x = Emulated(), np.random.default_rng(1).normal(size=(3, 2, 7)).astype("f")
    dropout(machine, DeviceArray.put(machine, x), 0.4, KEY, on_cpu.MODULE, 0, 1, 3)
    left = caught_in(machine.launches[0])
    assert not left, "\n".join(map(str, left))
