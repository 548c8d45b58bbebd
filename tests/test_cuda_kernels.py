"""CUDA kernels, compiled with no driver and run by the emulator with all its checks, against the float64 reference."""

import itertools
import os

import numpy as np
import pytest

from nbrnn._cells import GRU, LSTM, RNNRelu, RNNTanh
from tests.cases import Case
from tests.minimal_gated_unit import MGU
from tests.ptx import compile as nvvm

if not nvvm.has_numba_cuda():
    pytest.skip("numba-cuda is not installed", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore")

from tests.emulated import Emulated, run_case  # noqa: E402

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
    y, h, c, dx, dh, dc, gradients = run_case(machine, CELLS[case.kind], case, **options)
    for array in (case.x, case.dy):
        array[...] = array.astype(case.dtype)
    want_y, want_h, want_c, trace = reference.forward(case.x, case.h, case.c, case.lengths, case.resets)
    pairs = [("y", y, want_y), ("h", h, want_h)] + [("c", c, want_c)] * case.has_c
    if options.get("keep", True):
        want_dx, want_dh, want_dc, want = reference.backward(trace, case.dy, case.dh, case.dc)
        pairs += [("dx", dx, want_dx), ("dh", dh, want_dh)] + [("dc", dc, want_dc)] * case.has_c
        pairs += [(name, a.reshape(want[name].shape), want[name]) for name, a in gradients.items()]
        assert gradients.keys() == case.layer.params.keys()
    for name, found, wanted in pairs:
        compare(found, wanted, within, f"{name} of {case}")
    for kernel, run in machine.runs:
        arrays = [a for a in kernel.arguments if a.way]
        for argument, unwritten in zip(arrays, run.unwritten, strict=True):
            assert unwritten == 0 or argument.way == "in", (kernel.key[0], argument)
    return machine


def drawn(kind, dtype, H, rng):
    """A random case for kernels of one H."""
    return Case(
        kind=kind, dtype=dtype, H=H, T=int(rng.integers(0, 13)), B=int(rng.integers(1, 10)), I=int(rng.integers(1, 20)),
        bidirectional=bool(rng.random() < 0.5), bias=bool(rng.random() < 0.7), ragged=bool(rng.random() < 0.7),
        cut=bool(rng.random() < 0.5), stateful=bool(rng.random() < 0.8), seed=int(rng.integers(2**31)),
    )  # fmt: skip


@pytest.mark.parametrize("kind, dtype", list(itertools.product(CELLS, WITHIN)))
def test_random_cases(kind, dtype):
    """Some cases for each of some H: what takes long is to compile."""
    rng = np.random.default_rng(None if LONG else sum(map(ord, kind + dtype)))
    for n in range(40 if LONG else 2):
        H, rows = int(rng.integers(1, 71)), int(rng.choice([4, 4, 2, 1]))
        cc = ((8, 0), (9, 0))[n % 2]
        for k in range(8 if LONG else 2):
            schedule = int(rng.integers(1000)) if k % 4 == 1 and H < 20 else None
            check(
                drawn(kind, dtype, H, rng), Emulated(cc, schedule), rows=rows, chunk=int(rng.choice([16, 256])),
                gaps=int(rng.integers(0, 3)),
            )  # fmt: skip
