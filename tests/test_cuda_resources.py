"""What CUDA kernels take of a device: nothing spilt, no stack, no doubles where floats were asked for."""

import pytest

from tests.ptx import compile as nvvm

if not (nvvm.has_numba_cuda() and nvvm.tool("ptxas") and nvvm.tool("nvdisasm")):
    pytest.skip("numba-cuda, ptxas or nvdisasm is not installed", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore")

from tests.cuda_resources import (  # noqa: E402
    CELLS,
    LIMITS,
    SHARED,
    in_doubles,
    key_of,
    others,
    read_table,
    recurrent,
    resident,
    rows,
)
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


#: A few rows for a quick run; all of all devices take ten minutes.
QUICK = {("GRU, forward", "float32", "32"), ("LSTM, back", "float64", "16"), ("product A B", "float32", "")}


@pytest.mark.parametrize("cc", nvvm.CAPABILITIES)
def test_the_tables_of_the_docs(cc):
    written, now = read_table(cc), rows()
    assert [key_of(line) for line in written] == [row.key for row in now]
    for row, wanted in zip(now, written, strict=True):
        for column in ("spills", "stack", "MUFU.TANH", *["float64"] * (row.dtype == "float32")):
            assert wanted[column] == "0", wanted
        if LONG or (cc == (9, 0) and row.key in QUICK):
            assert row.cells(cc) == wanted


@pytest.mark.parametrize(
    "threads, registers, shared, warps",
    [
        (32, 16, 0, 32),  # no more than 32 blocks
        (64, 16, 0, 64),
        (1024, 32, 0, 64),
        (1024, 33, 0, 32),
        (256, 144, 2048, 8),  # 14 warps have registers; whole fours of them, whole blocks
        (64, 16, 100 * 1024, 4),
        (64, 16, 113 * 1024, 4),
        (64, 16, 114 * 1024, 2),  # a block has 1 KB of its own
    ],
)
def test_how_many_warps_there_may_be(threads, registers, shared, warps):
    assert resident(LIMITS[9, 0], threads, registers, shared) == warps
