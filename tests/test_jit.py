"""Steps and sequences inside users' own compiled code."""

import subprocess
import sys

import numba
import numpy as np
import pytest
from hypothesis import given

import nbrnn
from nbrnn._cpu import isa
from tests.cases import Case, cases
from tests.minimal_gated_unit import MGULayer
from tests.processes import copy_of_package, edit, finish, run, start
from tests.tolerances import assert_close

#: Each kind of cell in two widths, and each width by two or three: all pairs would be 40 kernels to compile.  Most of
#: the layers are those that ``tests.guard`` compiles for other widths too.
WIDTHS = {
    "float32": dict(tanh="128", relu="512", GRU="128", LSTM="512", projected="512"),
    "float64": dict(tanh="scalar", relu="256", GRU="256", LSTM="256", projected="scalar"),
}

PLAIN = dict(bidirectional=False, batched=False, batch_first=False, ragged=False, cut=False)


@numba.njit
def rollout(net, xs, state, ys):
    for t in range(len(xs)):
        nbrnn.jit.step(net, xs[t], state, ys[t])


def state_of(case, net):
    """The case's state as compiled code has it."""
    state = nbrnn.jit.zero_state(net)
    state[:, 0, : case.K] = case.h[:, 0]
    if case.has_c:
        state[:, 1] = case.c[:, 0]
    return state


def compare(case, width):
    with isa.use(width):
        net = case.layer.jit()
        x = case.user(case.x)
        y, after = case.layer(x, **case.arguments())
        after_h, after_c = case.split(after)
        for go in (rollout, nbrnn.jit.run):
            state, got = state_of(case, net), np.full(y.shape, np.nan, case.dtype)
            go(net, x, state, got)
            assert_close(got, y, case.dtype, case.T, f"y of {case}")
            assert_close(state[:, 0, : case.K], after_h[:, 0], case.dtype, case.T, "h")
            if case.has_c:
                assert_close(state[:, 1], after_c[:, 0], case.dtype, case.T, "c")


@given(cases(stateful=True, **PLAIN))
def test_agrees_with_the_layer(case):
    compare(case, WIDTHS[case.dtype][case.kind])


@pytest.mark.parametrize("kind", ["MGU", "LSTM"])
def test_larger_layers_and_cells_of_ones_own(kind):
    compare(Case(kind, "float32", T=5, B=1, I=70, H=131, L=3, stateful=True, **PLAIN), "512")
    assert nbrnn.jit.output_size(MGULayer(3, 5).jit()) == 5


def test_a_snapshot():
    layer = nbrnn.GRU(3, 5, rng=0)
    net, x = layer.jit(), np.ones((4, 3), np.float32)
    wanted, y = layer(x)[0], np.empty((4, 5), np.float32)
    layer.flat = 0 * layer.flat
    nbrnn.jit.run(net, x, nbrnn.jit.zero_state(net), y)
    np.testing.assert_allclose(y, wanted, atol=1e-6)


def test_any_strides_of_x():
    layer = nbrnn.LSTM(3, 5, num_layers=2, rng=0)
    net, x = layer.jit(), np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    gaps, backward = np.full((16, 9), np.nan, np.float32)[1::2, 1::3], np.empty((16, 12), np.float32)[::-2, ::-4]
    packed = np.zeros((8, 3), [("a", "f4"), ("b", "i1")])["a"]  # 5 bytes apart
    gaps[...], backward[...], packed[...] = x, x, x
    results = []
    for view in (x, gaps, backward, packed, np.asfortranarray(x)):
        y = np.empty((8, 5), np.float32)
        nbrnn.jit.run(net, view, nbrnn.jit.zero_state(net), y)
        results.append(y)
        rollout(net, view, nbrnn.jit.zero_state(net), y)
        results.append(y)
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])


@numba.njit(parallel=True)
def side_by_side(net, xs, ys):
    for b in numba.prange(len(xs)):
        state = nbrnn.jit.zero_state(net)
        nbrnn.jit.run(net, xs[b], state, ys[b])


def test_in_prange():
    layer = nbrnn.LSTM(3, 17, num_layers=2, rng=0)
    xs = np.random.default_rng(0).normal(size=(16, 9, 3)).astype(np.float32)
    ys = np.empty((16, 9, 17), np.float32)
    side_by_side(layer.jit(), xs, ys)
    np.testing.assert_allclose(ys, layer(xs.swapaxes(0, 1))[0].swapaxes(0, 1), atol=1e-5)


def test_a_million_steps_allocate_nothing():
    """By the count of Numba's runtime, which has to be switched on before anything is compiled."""
    code = """
import numba, numpy as np, nbrnn
from numba.core.runtime import rtsys
@numba.njit
def many(net, x, state, y, steps):
    for _ in range(steps):
        nbrnn.jit.step(net, x, state, y)
net = nbrnn.LSTM(3, 5, proj_size=2, num_layers=2, rng=0).jit()
x, state, y = np.ones(3, np.float32), nbrnn.jit.zero_state(net), np.empty(2, np.float32)
def allocated(steps):
    before = rtsys.get_allocation_stats()
    many(net, x, state, y, steps)
    return rtsys.get_allocation_stats().alloc - before.alloc
allocated(1)
print(allocated(1), allocated(1_000_000), np.isfinite(y).all())
"""
    one, million, finite = run(code, NUMBA_NRT_STATS=1).split()
    assert 0 < int(one) == int(million)  # what it takes to hand over the arguments
    assert finite == "True"


def test_no_threads_are_started():
    code = "import numpy as np, nbrnn; net = nbrnn.GRU(3, 5).jit(); y = np.empty((4, 5), np.float32)\n"
    code += "nbrnn.jit.run(net, np.ones((4, 3), np.float32), nbrnn.jit.zero_state(net), y)\n"
    code += "import numba.np.ufunc.parallel as p; print(p._is_initialized)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "False"


def good():
    net = nbrnn.LSTM(3, 5, num_layers=2, rng=0).jit()
    return [net, np.ones(3, np.float32), nbrnn.jit.zero_state(net), np.empty(5, np.float32)]


@pytest.mark.parametrize(
    "place, value, words",
    [
        (0, (1, 2), "net must come from layer.jit"),
        (1, np.ones(3), "x must be an array of float32"),
        (1, np.ones((1, 3), np.float32), "x must be an array of float32 with 1 dimensions"),
        (2, np.zeros((2, 5), np.float32), "state must be an array of float32 with 3 dimensions"),
        (2, np.zeros((2, 2, 10), np.float32)[:, :, ::2], "state must be C-contiguous"),
        (3, np.zeros(10, np.float32)[::2], "y must be C-contiguous"),
        (3, np.zeros(5), "y must be an array of float32"),
    ],
)
def test_wrong_types_are_told_when_compiled(place, value, words):
    arguments = good()
    arguments[place] = value
    with pytest.raises(numba.TypingError, match=words):
        nbrnn.jit.step(*arguments)


@pytest.mark.parametrize(
    "place, value, words",
    [
        (1, np.ones(4, np.float32), "x must have shape"),
        (2, np.zeros((1, 2, 5), np.float32), "state must have shape"),
        (2, np.zeros((2, 1, 5), np.float32), "state must have shape"),
        (2, np.zeros((2, 2, 6), np.float32), "state must have shape"),
        (3, np.zeros(6, np.float32), "y must have shape"),
    ],
)
def test_wrong_shapes(place, value, words):
    arguments = good()
    arguments[place] = value
    with pytest.raises(ValueError, match=words):
        nbrnn.jit.step(*arguments)
    arguments[1], arguments[3] = (a if a.ndim == 2 else a[None] for a in (arguments[1], arguments[3]))
    with pytest.raises(ValueError, match=words):
        nbrnn.jit.run(*arguments)


def test_overlaps():
    net, x, state, y = good()
    buffer = np.zeros(40, np.float32)
    cases = [
        (buffer[:3], state, buffer[2:7], "y must not overlap x"),
        (buffer[2:8:2], state, buffer[3:8], "y must not overlap x"),
        (buffer[8:2:-2], state, buffer[7:12], "y must not overlap x"),
        (x, buffer[:20].reshape(2, 2, 5), buffer[19:24], "y must not overlap state"),
        (buffer[5:8], buffer[:20].reshape(2, 2, 5), y, "x must not overlap state"),
    ]
    for x, state, y, words in cases:
        with pytest.raises(ValueError, match=words):
            nbrnn.jit.step(net, x, state, y)
    nbrnn.jit.step(net, buffer[:3], good()[2], buffer[3:8])
    with pytest.raises(ValueError, match="y must not overlap x"):
        nbrnn.jit.run(net, buffer[:6].reshape(2, 3), good()[2], buffer[5:15].reshape(2, 5))


def test_bidirectional_layers_have_none():
    with pytest.raises(ValueError, match="jit needs a layer of one direction"):
        nbrnn.GRU(3, 5, bidirectional=True).jit()


def test_users_cached_functions_are_compiled_anew_after_an_edit(tmp_path):
    folder = copy_of_package(tmp_path)
    (folder / "user.py").write_text("""
import time, numba, numpy as np, nbrnn
@numba.njit(cache=True)
def last(net, xs):
    state = nbrnn.jit.zero_state(net)
    y = np.empty(nbrnn.jit.output_size(net), xs.dtype)
    for x in xs:
        nbrnn.jit.step(net, x, state, y)
    return y
y = last(nbrnn.GRU(3, 5, rng=0).jit(), np.ones((7, 3), np.float32))
print(float(y.astype(float).sum()), sum(last.stats.cache_hits.values()))
""")

    def shown():
        total, hits = finish(start(["user.py"], folder=folder)).split()
        return float(total), int(hits)

    right, hits = shown()
    assert hits == 0
    assert shown() == (right, 1)
    edit(
        folder / "nbrnn" / "_cpu" / "exponential.py",
        "one) / e.fma(high, p, high + one)",
        "one) / e.fma(high, p, high + 1.5 * one)",
    )
    changed, hits = shown()
    assert changed != right
    assert hits == 0
    assert shown() == (changed, 1)
