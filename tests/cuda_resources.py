"""What CUDA kernels take of a device, by ptxas: `python -m tests.cuda_resources [--cc 80] [--lto]`."""

from __future__ import annotations

import argparse
import itertools
from collections import Counter

import numpy as np

from nbrnn._cells import GRU, LSTM, Cell, RNNTanh
from nbrnn._cuda import kernels
from nbrnn._cuda.plan import Plan
from nbrnn._cuda.product import ACROSS
from nbrnn._cuda.spread import SpreadPlan
from tests.emulated import ptx_of
from tests.ptx.compile import assemble, machine_instructions, tool

CELLS = {"tanh": RNNTanh, "GRU": GRU, "LSTM": LSTM}
#: Largest shared memory of a block that needs no special leave.
SHARED = 48 * 1024
#: Whether ptxas and nvdisasm are installed.
CAN_ASSEMBLE = bool(tool("ptxas") and tool("nvdisasm"))
#: Multiprocessors of an A100, an H100 and a B200.
PROCESSORS = {(8, 0): 108, (9, 0): 132, (10, 0): 148}


def recurrent(cell: type[Cell], dtype: str, H: int, rows: int = 4) -> tuple[kernels.Kernel, kernels.Kernel, Plan]:
    """The kernels forward and back, and their plan."""
    plan = Plan(cell, np.dtype(dtype), H, rows)
    return kernels.forward_kernel(plan, True), kernels.backward_kernel(plan), plan


def cooperative(
    cell: type[Cell], dtype: str, H: int, cc: tuple[int, int], processors: int, masked: bool = False
) -> tuple[kernels.Kernel, kernels.Kernel, SpreadPlan]:
    """The kernels of all multiprocessors together, and their plan."""
    plan = SpreadPlan.of(cell, np.dtype(dtype), H, processors, cc)
    assert plan is not None
    return kernels.cooperative_kernel(plan, True, masked), kernels.cooperative_back_kernel(plan, masked), plan


def step_by_step(cell: type[Cell], dtype: str) -> list[kernels.Kernel]:
    """The kernels of one step."""
    kind = np.dtype(dtype)
    return [kernels.step_kernel(cell, kind, True), kernels.step_back_kernel(cell, kind)]


def others(dtype: str) -> list[kernels.Kernel]:
    """All kernels that know nothing of cells."""
    kind = np.dtype(dtype)
    ways = ((False, True), (False, False), (True, False))
    return [
        *(kernels.product_kernel(kind, *w) for w in ways),
        *(kernels.product_kernel(kind, *w, ACROSS) for w in ways),
        kernels.sum_rows_kernel(kind),
        kernels.sum_parts_kernel(kind),
        kernels.drop_kernel(kind),
        kernels.gather_kernel(kind),
        kernels.offsets_kernel(),
        *(kernels.other_step_kernel(name, kind) for name in ("take_gradients", "feed", "add_masked", "finish")),
    ]


def in_doubles(instructions: Counter[str]) -> int:
    """Machine instructions that compute in float64."""
    found = 0
    for opcode, times in instructions.items():
        name, *modifiers = opcode.split(".")
        found += times * (
            name in ("DADD", "DMUL", "DFMA", "DSETP", "DMNMX") or "F64" in modifiers or "64H" in modifiers
        )
    return found


def wasted(kernel: kernels.Kernel, cc: tuple[int, int] = (8, 0)) -> str:
    """What a kernel takes that it shouldn't: spills, a stack, or doubles where there are only floats; "" for none."""
    found = assemble(ptx_of(kernel, cc))
    doubles = in_doubles(machine_instructions(found.cubin))
    float64 = any(a.dtype == np.float64 for a in kernel.arguments)
    numbers = found.spill_stores, found.spill_loads, found.stack, 0 if float64 else doubles
    return f"{kernel.key[0]}: {numbers}" if any(numbers) else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lto", action="store_true", help="optimise at link time, as numba-cuda does with nvJitLink")
    parser.add_argument("--cc", default="90", help="80, 90 or 100")
    given = parser.parse_args()
    cc = int(given.cc[:-1]), int(given.cc[-1])
    print(
        "| cell | dtype | H | way | threads | weights (in registers) | registers | spills | stack | shared | float64 |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")

    def row(kernel: kernels.Kernel, *first: object) -> None:
        found = assemble(ptx_of(kernel, cc, given.lto))
        spilled = found.spill_stores + found.spill_loads
        doubles = in_doubles(machine_instructions(found.cubin))
        numbers = (found.registers, spilled, found.stack, found.shared + kernel.shared, doubles)
        print("|", " | ".join(map(str, (*first, *numbers))), "|", flush=True)

    for dtype, (name, cell) in itertools.product(("float32", "float64"), CELLS.items()):
        for H in (16, 32, 64, 128):
            forward, backward, plan = recurrent(cell, dtype, H)
            for way, kernel, split in (("forward", forward, plan.forward), ("back", backward, plan.backward)):
                weights = f"{split.weights} ({split.in_registers})"
                row(kernel, name, dtype, H, way, split.threads, weights)
    for dtype, (name, cell) in itertools.product(("float32", "float64"), CELLS.items()):
        for H in (256, 512, 1024):
            if SpreadPlan.of(cell, np.dtype(dtype), H, PROCESSORS[cc], cc) is None:
                continue
            there, back, spread = cooperative(cell, dtype, H, cc, PROCESSORS[cc])
            for way, kernel, part in (("forward", there, spread.forward), ("back", back, spread.backward)):
                threads = f"{part.blocks} x {part.threads}"
                row(kernel, name, dtype, H, way, threads, f"{part.weights} ({part.in_registers})")
        for kernel in step_by_step(cell, dtype):
            row(kernel, name, dtype, "any", kernel.key[0], kernel.threads, "")
    for dtype in ("float32", "float64"):
        for kernel in others(dtype):
            row(kernel, " ".join(kernel.key[:1] + kernel.key[2:]), dtype, "", "", kernel.threads, "")


if __name__ == "__main__":
    main()
