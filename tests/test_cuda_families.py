"""Families of CUDA kernels for what one block can't hold, run by the emulator, against the float64 reference."""

import numpy as np
import pytest

from tests.cases import Case
from tests.ptx import compile as nvvm

if not nvvm.has_numba_cuda():
    pytest.skip("numba-cuda is not installed", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore")

from tests.emulated import Emulated  # noqa: E402
from tests.test_cuda_kernels import CELLS, LONG, WITHIN, check  # noqa: E402


def drawn(kind, dtype, H, rng, most=10):
    """A random case."""
    return Case(
        kind=kind, dtype=dtype, H=H, P=int(rng.integers(1, 40)), T=int(rng.integers(0, most)),
        B=int(rng.integers(1, most)), I=int(rng.integers(1, 20)), bidirectional=bool(rng.random() < 0.5),
        bias=bool(rng.random() < 0.7), ragged=bool(rng.random() < 0.7), cut=bool(rng.random() < 0.5),
        stateful=bool(rng.random() < 0.8), seed=int(rng.integers(2**31)),
    )  # fmt: skip


@pytest.mark.parametrize("dtype", WITHIN)
@pytest.mark.parametrize("kind", [*CELLS, "projected"])
def test_random_cases_step_by_step(kind, dtype):
    rng = np.random.default_rng(None if LONG else sum(map(ord, kind + dtype)))
    for H in (1, 33, 70) * (4 if LONG else 1):
        check(drawn(kind, dtype, H, rng), Emulated(), family="steps", gaps=int(rng.integers(0, 3)))
