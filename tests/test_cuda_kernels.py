"""CUDA kernels, compiled with no driver and run by the emulator with all its checks, against the float64 reference."""

import itertools
import os

import numpy as np
import pytest

from nbrnn._cells import GRU, LSTM, LSTMProjected, RNNRelu, RNNTanh
from nbrnn._cuda.plan import Plan
from tests.cases import Case
from tests.minimal_gated_unit import MGU
from tests.ptx import compile as nvvm
from tests.ptx.mutate import survivors, try_mutants

if not nvvm.has_numba_cuda():
    pytest.skip("numba-cuda is not installed", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore")

from tests.emulated import KEY, Emulated, ptx_of, run_case  # noqa: E402

CELLS = {"tanh": RNNTanh, "relu": RNNRelu, "GRU": GRU, "LSTM": LSTM, "MGU": MGU}
#: Of the largest entry.
WITHIN = {"float32": 5e-6, "float64": 1e-12}
LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"


def compare(found, wanted, within, what):
    if wanted.size:
        assert not np.isnan(found).any(), what
        error = np.abs(found - wanted).max() / max(np.abs(wanted).max(), 1e-300)
        assert error <= within, f"{what}: {error:.1e} of the largest entry"


def check(case, machine, **options):
    """All that kernels give for a case is what the reference gives."""
    reference, within = case.reference(), WITHIN[case.dtype]
    cell = LSTMProjected if case.P else CELLS[case.kind]
    y, h, c, dx, dh, dc, gradients = run_case(machine, cell, case, **options)
    for array in (case.x, case.dy):
        array[...] = array.astype(case.dtype)
    want_y, want_h, want_c, trace = reference.forward(case.x, case.h, case.c, case.lengths, case.resets, KEY)
    pairs = [("y", y, want_y), ("h", h, want_h)] + [("c", c, want_c)] * case.has_c
    if options.get("keep", True):
        want_dx, want_dh, want_dc, want = reference.backward(trace, case.dy, case.dh, case.dc)
        pairs += [("dx", dx, want_dx), ("dh", dh, want_dh)] + [("dc", dc, want_dc)] * case.has_c
        pairs += [(name, a.reshape(want[name].shape), want[name]) for name, a in gradients.items()]
        assert gradients.keys() == case.layer.params.keys()
    for name, found, wanted in pairs:
        compare(found, wanted, within, f"{name} of {case}")
    for kernel, unwritten in machine.runs:
        arrays = [a for a in kernel.arguments if a.way]
        for argument, missing in zip(arrays, unwritten, strict=True):
            assert missing == 0 or argument.way == "in", (kernel.key[0], argument)
    return machine


def drawn(kind, dtype, H, rng):
    """A random case for kernels of one H."""
    return Case(
        kind=kind, dtype=dtype, H=H, T=int(rng.integers(0, 13)), B=int(rng.integers(1, 10)), I=int(rng.integers(1, 20)),
        bidirectional=LONG or bool(rng.random() < 0.5), bias=bool(rng.random() < 0.7), ragged=bool(rng.random() < 0.7),
        cut=bool(rng.random() < 0.5), stateful=bool(rng.random() < 0.8), seed=int(rng.integers(2**31)),
    )  # fmt: skip


@pytest.mark.parametrize("kind, dtype", list(itertools.product(CELLS, WITHIN)))
def test_random_cases(kind, dtype):
    """Some cases for each of some H, in the long run 200, of both directions: what takes long is to compile."""
    rng = np.random.default_rng(None if LONG else sum(map(ord, kind + dtype)))
    for n in range(25 if LONG else 2 if kind in ("GRU", "LSTM") else 1):
        H, rows = int(rng.integers(1, 71)), int(rng.choice([4, 4, 2, 1]))
        cc = ((8, 0), (9, 0))[(n + (kind == "relu")) % 2]
        for k in range(8 if LONG else 2 - n):
            schedule = int(rng.integers(1000)) if k % 4 == 1 and H < 20 else None
            check(
                drawn(kind, dtype, H, rng), Emulated(cc, schedule), rows=rows, chunk=int(rng.choice([16, 256])),
                gaps=int(rng.integers(0, 3)),
            )  # fmt: skip


@pytest.mark.parametrize(
    "kind, dtype, H", [("LSTM", "float32", 128), ("GRU", "float32", 125), ("LSTM", "float64", 128)]
)
def test_weights_that_find_no_room_in_registers(kind, dtype, H):
    case = Case(kind=kind, dtype=dtype, H=H, T=3, B=5, I=2, ragged=True, cut=True, stateful=True, seed=5)
    plan = Plan(CELLS[kind], np.dtype(dtype), H)
    for split in (plan.forward, plan.backward):
        assert split.in_registers < split.weights
    check(case, Emulated())


def test_sizes_out_of_reach_are_refused():
    with pytest.raises(ValueError, match="H is 129"):
        Plan(LSTM, np.dtype("float32"), 129)
    with pytest.raises(ValueError, match="rows is 3"):
        Plan(LSTM, np.dtype("float32"), 8, rows=3)


def caught_in(launch, cc=(9, 0)):
    """Survivors among the mutants of a kernel, each run with the arguments of a launch."""
    kernel, grid, before, after = launch

    def run(text):
        given = [np.copy(a) if isinstance(a, np.ndarray) else a for a in before]
        done = Emulated(cc).execute(text, kernel, grid, given)
        for argument, found, wanted in zip(kernel.arguments, given, after, strict=True):
            np.testing.assert_array_equal(found, wanted, err_msg=argument.name)
        return done

    return survivors(try_mutants(ptx_of(kernel, cc), run))


@pytest.mark.parametrize("kind", CELLS)
def test_mutants_of_recurrent_kernels_are_caught(kind):
    """Barriers taken away, stores moved: each is a fault, or gives other numbers."""
    case = Case(
        kind=kind, dtype="float32", H=5, T=4, B=6, I=2, ragged=True, cut=True, stateful=True, bidirectional=True, seed=2
    )
    machine = check(case, Emulated())
    for name in ("forward", "backward"):
        launch = next(found for found in machine.launches if found[0].key[0] == name)
        left = caught_in(launch)
        assert not left, name + "\n" + "\n".join(map(str, left))


def test_mutants_of_other_kernels_are_caught():
    # Sizes that take several turns of each loop: its last barrier is there for the turn that follows.
    case = Case(kind="GRU", dtype="float32", H=25, T=8, B=6, I=18, ragged=True, cut=True, seed=2)
    machine = check(case, Emulated(), chunk=18)
    seen = set()
    for launch in machine.launches:
        key = launch[0].key
        if key[0] not in ("forward", "backward") and key not in seen:
            seen.add(key)
            left = caught_in(launch)
            assert not left, key[0] + "\n" + "\n".join(map(str, left))
    assert len(seen) == 6


@pytest.mark.parametrize("kind, dtype", [("LSTM", "float32"), ("GRU", "float64")])
def test_bits_of_a_sequence_dont_depend_on_tile_batch_or_order(kind, dtype):
    case = Case(kind=kind, dtype=dtype, H=9, T=5, B=5, I=3, ragged=True, cut=True, stateful=True, seed=4)
    alone = run_case(Emulated(), CELLS[kind], case, rows=4)
    for rows in (1, 2):
        other = run_case(Emulated(), CELLS[kind], case, rows=rows)
        for a, b in zip(alone[:6], other[:6], strict=True):
            np.testing.assert_array_equal(a, b)
    # Nothing kept.
    for a, b in zip(alone[:3], run_case(Emulated(), CELLS[kind], case, keep=False)[:3], strict=True):
        np.testing.assert_array_equal(a, b)
    # Two of the sequences, the other way round.
    few, chosen = Case(kind=kind, dtype=dtype, H=9, T=5, B=2, I=3, seed=4), [3, 1]
    few.lengths, few.resets = case.lengths[chosen], case.resets[:, chosen]
    for name in ("x", "dy", "h", "c", "dh", "dc"):
        setattr(few, name, np.ascontiguousarray(getattr(case, name)[:, chosen]))
    found = run_case(Emulated(), CELLS[kind], few)
    for a, b in zip(alone[:6], found[:6], strict=True):
        np.testing.assert_array_equal(a[:, chosen], b)


def test_nan_stays_in_its_sequence():
    case = Case(kind="LSTM", dtype="float32", H=7, T=4, B=4, I=2, seed=1)
    y = run_case(Emulated(), LSTM, case, keep=False)[0]
    case.x[1, 2, 0] = np.nan
    bad = run_case(Emulated(), LSTM, case, keep=False)[0]
    assert np.isnan(bad[1:, 2]).all()
    bad[1:, 2] = y[1:, 2]
    np.testing.assert_array_equal(bad, y)


@pytest.mark.parametrize("kind", CELLS)
def test_large_sums_saturate(kind):
    case = Case(kind=kind, dtype="float32", H=4, T=3, B=2, I=2, seed=1)
    case.x[...] = 1e4 * np.sign(case.x)
    check(case, Emulated())


@pytest.mark.parametrize("T, B", [(0, 3), (3, 0), (0, 0)])
def test_nothing_to_do(T, B):
    case = Case(kind="LSTM", dtype="float64", H=3, T=T, B=B, I=2, stateful=True, seed=1)
    check(case, Emulated())
