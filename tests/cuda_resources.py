"""What CUDA kernels take of a device, by ptxas and nvdisasm: `python -m tests.cuda_resources [--cc 80] [--table]`.

With ``--table`` the tables of the docs are written, ``docs/cuda_gates/sm_80.csv`` and so on: with LTO off, and on where
that gives another number.  ``tests/test_cuda_resources.py`` computes rows of them anew.
"""

from __future__ import annotations

import argparse
import csv
import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nbrnn._cells import GRU, LSTM, Cell, RNNTanh
from nbrnn._cuda import kernels
from nbrnn._cuda.plan import Plan
from nbrnn._cuda.product import ACROSS
from nbrnn._cuda.spread import SpreadPlan
from tests.emulated import ptx_of
from tests.ptx.compile import CAPABILITIES, assemble, machine_instructions, tool

CELLS = {"tanh": RNNTanh, "GRU": GRU, "LSTM": LSTM}
#: H of recurrent kernels with a block for each tile.
SIZES = {"float32": (16, 32, 64, 128), "float64": (16, 32, 64)}
#: Largest shared memory of a block that needs no special leave.
SHARED = 48 * 1024
#: Whether ptxas and nvdisasm are installed.
CAN_ASSEMBLE = bool(tool("ptxas") and tool("nvdisasm"))
#: Multiprocessors of an A100, an H100 and a B200.
PROCESSORS = {(8, 0): 108, (9, 0): 132, (10, 0): 148}
TABLES = Path(__file__).parents[1] / "docs" / "cuda_gates"


@dataclass(frozen=True)
class Limits:
    """What a multiprocessor has room for: warps, blocks, registers, bytes of shared memory."""

    warps: int = 64
    blocks: int = 32
    registers: int = 65536
    shared: int = 228 * 1024
    #: Registers are dealt out to a warp in such pieces, warps come in fours, a block costs shared memory of its own.
    piece: int = 256
    own: int = 1024


#: A100, H100, B200, by compute capability (CUDA C++ Programming Guide, "Compute Capabilities").
LIMITS = {(8, 0): Limits(shared=164 * 1024), (9, 0): Limits(), (10, 0): Limits()}


def resident(limits: Limits, threads: int, registers: int, shared: int) -> int:
    """Warps of a kernel that a multiprocessor holds at the same time."""
    warps = -(-threads // 32)
    of_warp = -(-registers * 32 // limits.piece) * limits.piece
    by_registers = limits.registers // of_warp // 4 * 4 // warps
    by_shared = limits.shared // (shared + limits.own)
    return warps * min(limits.warps // warps, limits.blocks, by_registers, by_shared)


@dataclass(frozen=True)
class Row:
    """A kernel of the tables: what it is called there, its PTX for (compute capability, LTO), and how much shared memory
    it is given besides what stands in that.
    """

    what: str
    dtype: str
    H: int | None
    threads: int
    ptx: Callable[[tuple[int, int], bool], str]
    shared: int = 0

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells it from all others."""
        return self.what, self.dtype, str(self.H or "")

    def measure(self, cc: tuple[int, int], lto: bool) -> dict[str, int | str]:
        """Columns."""
        found = assemble(self.ptx(cc, lto))
        instructions = machine_instructions(found.cubin)
        shared = found.shared + self.shared
        held = resident(LIMITS[cc], self.threads, found.registers, shared)
        return {
            "registers": found.registers,
            "spills": found.spill_stores + found.spill_loads,
            "stack": found.stack,
            "shared": shared,
            "warps": held,
            "FMA": times(instructions, "FFMA", "FFMA2") if self.dtype == "float32" else times(instructions, "DFMA"),
            "LDS": times(instructions, "LDS"),
            "LDS.128": times(instructions, "LDS", modifier="128"),
            "MMA": times(instructions, "HMMA", "DMMA", "HGMMA", "UTCHMMA"),
            "float64": in_doubles(instructions),
            "MUFU.TANH": times(instructions, "MUFU", modifier="TANH"),
        }

    def cells(self, cc: tuple[int, int]) -> dict[str, str]:
        """The same as text; "a / b" where LTO makes a difference."""
        without, with_lto = self.measure(cc, False), self.measure(cc, True)
        columns = {n: str(a) if a == with_lto[n] else f"{a} / {with_lto[n]}" for n, a in without.items()}
        return {
            "kernel": self.what,
            "dtype": self.dtype,
            "H": str(self.H or ""),
            "threads": str(self.threads),
        } | columns


def times(instructions: Counter[str], *names: str, modifier: str | None = None) -> int:
    """How often an instruction stands in a kernel."""
    split = ((opcode.split("."), n) for opcode, n in instructions.items())
    return sum(n for (name, *more), n in split if name in names and (modifier is None or modifier in more))


def in_doubles(instructions: Counter[str]) -> int:
    """Machine instructions that compute in float64."""
    found = 0
    for opcode, count in instructions.items():
        name, *modifiers = opcode.split(".")
        found += count * (
            name in ("DADD", "DMUL", "DFMA", "DSETP", "DMNMX") or "F64" in modifiers or "64H" in modifiers
        )
    return found


def of_kernel(what: str, dtype: str, H: int | None, kernel: kernels.Kernel) -> Row:
    return Row(what, dtype, H, kernel.threads, functools.partial(ptx_of, kernel), kernel.shared)


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


def tiles(cc: tuple[int, int]) -> Iterator[Row]:
    """Recurrent kernels with a block for each tile of sequences."""
    for dtype, sizes in SIZES.items():
        for (name, cell), H in itertools.product(CELLS.items(), sizes):
            forward, backward, _ = recurrent(cell, dtype, H)
            yield of_kernel(f"{name}, forward", dtype, H, forward)
            yield of_kernel(f"{name}, back", dtype, H, backward)


def others(dtype: str) -> list[kernels.Kernel]:
    """All kernels that know nothing of cells."""
    kind = np.dtype(dtype)
    ways = ((False, True), (False, False), (True, False))
    return [
        *(kernels.product_kernel(kind, *w) for w in ways),
        *(kernels.product_kernel(kind, *w, ACROSS) for w in ways),
        kernels.sum_rows_kernel(kind),
        kernels.sum_parts_kernel(kind),
        kernels.move_rows_kernel(kind),
        kernels.drop_kernel(kind),
        kernels.gather_kernel(kind),
        kernels.offsets_kernel(),
        *(kernels.other_step_kernel(name, kind) for name in ("take_gradients", "feed", "add_masked", "finish")),
    ]


def together(cc: tuple[int, int]) -> Iterator[Row]:
    """Recurrent kernels of all multiprocessors together."""
    for (name, cell), H in itertools.product(CELLS.items(), (256, 512, 1024)):
        forward, backward, _ = cooperative(cell, "float32", H, cc, PROCESSORS[cc])
        yield of_kernel(f"{name}, forward, cooperative", "float32", H, forward)
        yield of_kernel(f"{name}, back, cooperative", "float32", H, backward)


def one_step(cc: tuple[int, int]) -> Iterator[Row]:
    """The formulas of a step, between two products."""
    for dtype, (name, cell) in itertools.product(SIZES, CELLS.items()):
        for way, kernel in zip(("forward", "back"), step_by_step(cell, dtype), strict=True):
            yield of_kernel(f"{name}, {way}, one step", dtype, None, kernel)


def products(cc: tuple[int, int]) -> Iterator[Row]:
    """Kernels that know nothing of cells."""
    names = (
        "product A B'", "product A B", "product A' B",
        "narrow product A B'", "narrow product A B", "narrow product A' B", "sums over rows", "sums of parts", "rows moved", "dropout", "gather", "offsets",
        "gradients of h, one step", "sums, one step", "masks, one step", "last states, one step",
    )  # fmt: skip
    for dtype in SIZES:
        for name, kernel in zip(names, others(dtype), strict=True):
            yield of_kernel(name, dtype, None, kernel)


def steps(cc: tuple[int, int]) -> Iterator[Row]:
    """A user's kernel with ``nbrnn.jit.step``, in blocks of 128 threads; H is an argument."""
    from tests.test_cuda_jit import ptx_of_rollout

    for dtype, name in itertools.product(SIZES, CELLS):
        yield Row(f"{name}, a thread's step", dtype, None, 128, functools.partial(ptx_of_rollout, name, dtype))


#: All of the tables.
GROUPS: list[Callable[[tuple[int, int]], Iterator[Row]]] = [tiles, together, one_step, products, steps]


def rows(cc: tuple[int, int]) -> list[Row]:
    """All kernels of the table for a device, in order."""
    return [row for group in GROUPS for row in group(cc)]


def table_of(cc: tuple[int, int]) -> Path:
    """The file with the table for a device."""
    return TABLES / f"sm_{cc[0]}{cc[1]}.csv"


def read_table(cc: tuple[int, int]) -> list[dict[str, str]]:
    """The rows of the docs' table for a device."""
    with table_of(cc).open(newline="") as file:
        return list(csv.DictReader(file))


def key_of(line: dict[str, str]) -> tuple[str, str, str]:
    """What tells a row of a table from all others."""
    return line["kernel"], line["dtype"], line["H"]


def wasted(kernel: kernels.Kernel, cc: tuple[int, int] = (8, 0)) -> str:
    """What a kernel takes that it shouldn't: spills, a stack, or doubles where there are only floats; "" for none."""
    found = assemble(ptx_of(kernel, cc))
    doubles = in_doubles(machine_instructions(found.cubin))
    float64 = any(a.dtype == np.float64 for a in kernel.arguments)
    numbers = found.spill_stores, found.spill_loads, found.stack, 0 if float64 else doubles
    return f"{kernel.key[0]}: {numbers}" if any(numbers) else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cc", help="80, 90 or 100; all, if it isn't given")
    parser.add_argument("--table", action="store_true", help="write the tables of the docs")
    parser.add_argument("--missing", action="store_true", help="take over the rows that are in them: add new kernels")
    given = parser.parse_args()
    devices = [(int(given.cc[:-1]), int(given.cc[-1]))] if given.cc else CAPABILITIES
    TABLES.mkdir(exist_ok=True)
    for cc in devices:
        known = {key_of(line): line for line in read_table(cc)} if given.missing else {}
        done = []
        for row in rows(cc):
            done.append(known.get(row.key) or row.cells(cc))
            print(f"sm_{cc[0]}{cc[1]}", *(f"{n}={a}" for n, a in done[-1].items()), sep="  ", flush=True)
        if given.table:
            with table_of(cc).open("w", newline="") as file:
                writer = csv.DictWriter(file, list(done[0]), lineterminator="\n")
                writer.writeheader()
                writer.writerows(done)


if __name__ == "__main__":
    main()
