"""What CUDA kernels take of a device: nothing spilt, no stack, no doubles where floats were asked for."""

import pytest

from nbrnn._cells import LSTM, LSTMProjected
from tests.ptx import compile as nvvm

if not (nvvm.has_numba_cuda() and nvvm.tool("ptxas") and nvvm.tool("nvdisasm")):
    pytest.skip("numba-cuda, ptxas or nvdisasm is not installed", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore")

from nbrnn._cuda.spread import shared_memory  # noqa: E402
from tests.cuda_resources import (  # noqa: E402
    CELLS,
    PROCESSORS,
    SHARED,
    cooperative,
    in_doubles,
    others,
    recurrent,
    step_by_step,
)
from tests.emulated import ptx_of  # noqa: E402
from tests.test_cuda_kernels import LONG  # noqa: E402

SIZES = {"float32": (16, 32, 64, 128), "float64": (16, 32, 64, 128)} if LONG else {"float32": (128,), "float64": (64,)}
CAPABILITIES = nvvm.CAPABILITIES if LONG else ((8, 0),)
LINKED = (False, True) if LONG else (False,)


def check(kernel, cc, lto, what):
    found = nvvm.assemble(ptx_of(kernel, cc, lto))
    assert found.spill_stores == found.spill_loads == found.stack == 0, (what, found)
    warps = -(-kernel.threads // 128)  # of each of the four parts of a multiprocessor
    assert -(-found.registers // 8) * 8 * 32 * warps <= 16384, (what, found)
    assert found.shared <= SHARED, (what, found)
    assert found.shared + kernel.shared <= shared_memory(cc), (what, found)
    doubles = in_doubles(nvvm.machine_instructions(found.cubin))
    kinds = {a.dtype.name for a in kernel.arguments if a.way}
    assert (doubles > 0) == ("float64" in kinds and kernel.key[0] != "finish"), what


@pytest.mark.parametrize("lto", LINKED)
@pytest.mark.parametrize("cc", CAPABILITIES)
@pytest.mark.parametrize("dtype", SIZES)
@pytest.mark.parametrize("cell", CELLS)
def test_recurrent_kernels(cell, dtype, cc, lto):
    for H in SIZES[dtype]:
        forward, backward, plan = recurrent(CELLS[cell], dtype, H)
        for kernel in (forward, backward):
            check(kernel, cc, lto, (cell, dtype, H, kernel.key[0]))
        if dtype == "float32" and H <= 64:
            for split in (plan.forward, plan.backward):
                assert split.in_registers == split.weights


@pytest.mark.parametrize("lto", LINKED)
@pytest.mark.parametrize("cc", CAPABILITIES)
@pytest.mark.parametrize("dtype", SIZES)
def test_other_kernels(dtype, cc, lto):
    for kernel in others(dtype):
        check(kernel, cc, lto, kernel.key)


SPREAD = {"LSTM": (256, 512, 1024), "GRU": (1024,), "tanh": (1024,)}


@pytest.mark.parametrize("lto", LINKED)
@pytest.mark.parametrize("cc", CAPABILITIES)
@pytest.mark.parametrize("cell", SPREAD)
def test_cooperative_kernels(cell, cc, lto):
    """All weights stay in registers, on devices of so many multiprocessors."""
    for H in (256, 512, 1024) if LONG else SPREAD[cell]:
        forward, backward, plan = cooperative(CELLS[cell], "float32", H, cc, PROCESSORS[cc])
        assert plan.rows == 4
        for kernel, split in ((forward, plan.forward), (backward, plan.backward)):
            assert split.rest == 0 or (cc, cell, H) == ((8, 0), "LSTM", 1024)  # 25 KB of shared memory there
            assert split.blocks <= PROCESSORS[cc]
            check(kernel, cc, lto, (cell, H, kernel.key[0]))


def test_cooperative_kernels_with_recurrent_dropout():
    for kernel in cooperative(LSTM, "float32", 1024, (8, 0), PROCESSORS[8, 0], masked=True)[:2]:
        check(kernel, (8, 0), False, kernel.key[0])


@pytest.mark.parametrize("lto", LINKED)
@pytest.mark.parametrize("H, processors, cc", [(1024, 132, (9, 0)), (512, 108, (8, 0)), (256, 12, (8, 0))])
def test_cooperative_kernels_of_doubles(H, processors, cc, lto):
    """What finds no room in registers stands in shared memory."""
    for kernel in cooperative(LSTM, "float64", H, cc, processors)[:2]:
        check(kernel, cc, lto, (H, kernel.key[0]))


@pytest.mark.parametrize("dtype", SIZES)
@pytest.mark.parametrize("cell", [*CELLS.values(), LSTMProjected])
def test_kernels_of_a_step(cell, dtype):
    for kernel in step_by_step(cell, dtype):
        check(kernel, (8, 0), False, (cell, kernel.key[0]))
