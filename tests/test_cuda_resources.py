"""What CUDA kernels take of a device: nothing spilt, no stack, no doubles where floats were asked for."""

import pytest

from tests.ptx import compile as nvvm

if not (nvvm.has_numba_cuda() and nvvm.tool("ptxas") and nvvm.tool("nvdisasm")):
    pytest.skip("numba-cuda, ptxas or nvdisasm is not installed", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore")

from tests.cuda_resources import CELLS, SHARED, in_doubles, others, recurrent  # noqa: E402
from tests.emulated import ptx_of  # noqa: E402
from tests.test_cuda_kernels import LONG  # noqa: E402

SIZES = {"float32": (16, 32, 64, 128), "float64": (16, 32, 64, 128)} if LONG else {"float32": (128,), "float64": (64,)}
CAPABILITIES = nvvm.CAPABILITIES if LONG else ((8, 0),)
LINKED = (False, True) if LONG else (False,)


def check(kernel, cc, lto, what):
    found = nvvm.assemble(ptx_of(kernel, cc, lto))
    assert found.spill_stores == found.spill_loads == found.stack == 0, (what, found)
    assert found.registers * kernel.threads <= 65536, (what, found)
    assert found.shared <= SHARED, (what, found)
    doubles = in_doubles(nvvm.machine_instructions(found.cubin))
    assert (doubles > 0) == (kernel.arguments[0].dtype == "float64"), what


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
