"""Memory of a million steps, measured from outside: the largest resident size of a process."""

import sys

import numpy as np
import pytest

import nbrnn
from tests.processes import run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

MEASURE = """
import numpy as np, nbrnn, re
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
def reset():
    open("/proc/self/clear_refs", "w").write("5")
T = {steps}
layer = nbrnn.LSTM(4, 32, rng=0)
def go(T):
    x = np.ones((T, 1, 4), np.float32)
    {go}
go(300)
{more}
reset()
before = peak()
go(T)
print(peak() - before)
"""

MILLION = 1_000_000


def growth(go, steps=MILLION, more=""):
    """Bytes by which the peak grew over a run that was warmed up with a short one."""
    return int(run(MEASURE.format(go=go, steps=steps, more=more)))


def test_inference_needs_x_and_y_alone():
    arrays = MILLION * (4 + 32) * 4
    assert growth("y, _ = layer(x)") - arrays < 2 * 2**20


def test_checkpointed_training_needs_a_twentieth_of_the_tape():
    arrays = MILLION * (4 + 32 + 32 + 4) * 4  # x, y, dy, dx
    tape = MILLION * (4 + 1) * 32 * 4  # four gates and c
    go = "y, _, tape = layer.forward(x, checkpoint='sqrt'); dy = np.ones_like(y); g = layer.backward(tape, dy)"
    assert growth(go) - arrays < 0.05 * tape


def test_plain_training_needs_the_tape():
    """The same measure sees the tape where it is kept."""
    steps = MILLION // 5
    arrays, tape = steps * (4 + 32 + 32 + 4) * 4, steps * 5 * 32 * 4
    go = "y, _, tape = layer.forward(x); dy = np.ones_like(y); g = layer.backward(tape, dy)"
    extra = growth(go, steps) - arrays
    assert 0.95 * tape < extra < 1.1 * tape


def test_stacks_are_checkpointed_as_a_whole():
    steps, more = MILLION // 5, "layer = nbrnn.LSTM(4, 32, num_layers=3, rng=0)"
    arrays, tape = steps * (4 + 32 + 32 + 4) * 4, 3 * steps * 5 * 32 * 4
    go = "y, _, tape = layer.forward(x, checkpoint='sqrt'); dy = np.ones_like(y); g = layer.backward(tape, dy)"
    assert growth(go, steps, more) - arrays < 0.05 * tape


@pytest.mark.parametrize("make", [lambda x, layer: layer(x), lambda x, layer: layer.forward(x)])
def test_what_cannot_fit_is_refused_with_its_size(make):
    layer = nbrnn.LSTM(4, 64, rng=0)
    x = np.broadcast_to(np.float32(0), (2_000_000_000, 64, 4))
    with pytest.raises(MemoryError, match=r"GiB"):
        make(x, layer)
    assert layer(np.zeros((2, 1, 4), np.float32))[0].shape == (2, 1, 64)


def test_a_layer_that_cannot_fit_is_refused():
    with pytest.raises(MemoryError, match=r"LSTM needs .* GiB"):
        nbrnn.LSTM(2**31, 2**31)
