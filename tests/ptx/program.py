"""A kernel made ready for a launch: each instruction decoded once, into a function of the lanes that execute it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.ptx import arith, flow, opcodes_float, opcodes_int, opcodes_memory, opcodes_select  # noqa: F401 (they make opcodes known)
from tests.ptx.clocks import Clocks
from tests.ptx.errors import Fault, PtxError
from tests.ptx.grid import Grid
from tests.ptx.memory import Memory
from tests.ptx.opcodes import Execute, Modifiers, decode
from tests.ptx.opcodes_warp import barrier_operands, mask_of, warp_barrier
from tests.ptx.operands import Array, Lanes, Operands, Register, reader
from tests.ptx.params import Params
from tests.ptx.parse import Instruction, Kernel, Module, parse
from tests.ptx.profile import Profile


@dataclass(frozen=True)
class Checks:
    """What is watched for, besides addresses."""

    races: bool = True
    initialisation: bool = True  # of memory
    registers: bool = True  # read before they are written
    steps: int = 5_000_000  # blocks of code executed, by however many threads


@dataclass
class Code:
    """A decoded block."""

    instructions: list[Instruction]
    body: list[Execute]
    kind: str = ""  # "bra", "brx", "exit", "warp", "barrier", "grid" or nothing
    target: Any = None
    predicate: Callable[[Lanes], Array] | None = None
    mask: Array | None = None
    size: int = 0
    ran: bool = False


class Program:
    """A kernel's instructions as functions, its registers and memories, for a grid.  For parameters see `Launch`."""

    def __init__(
        self,
        module: Module | str,
        grid: Any,
        block: Any,
        *,
        name: str | None = None,
        checks: Checks | None = None,
        dynamic_shared: int = 0,
        seed: int | None = 0,
        schedule: int | None = None,
        profile: bool = False,
    ):
        self.module = parse(module) if isinstance(module, str) else module
        self.kernel: Kernel = self.module.kernel(name)
        self.checks = checks or Checks()
        self.grid = Grid(grid, block)
        if self.kernel.max_threads and self.grid.threads > self.kernel.max_threads:
            raise PtxError(
                f"{self.kernel.name} is for blocks of {self.kernel.max_threads} threads at most, not {self.grid.threads}"
            )
        self.N = N = self.grid.N
        self.approx = arith.Approximation(seed)
        self.random = None if schedule is None else np.random.default_rng(schedule)
        self.profile = Profile(self.grid) if profile else None
        clocks = Clocks(self.grid) if self.checks.races else None
        self.memory = Memory(self.grid, clocks, self.checks.initialisation, self.profile)
        self.params = Params(N)
        self.carry = np.zeros(N, bool)
        self.steps = 0
        self.dynamic_shared = dynamic_shared
        self.special = self.grid.special(dynamic_shared)
        self.symbols = self._symbols(dynamic_shared)

    def begin_anew(self, seed: int | None, schedule: int | None) -> None:
        """Forget what a run has left, in place: what is decoded looks at these very arrays and objects."""
        assert self.profile is None
        self.approx.seed = seed
        self.random = None if schedule is None else np.random.default_rng(schedule)
        self.memory.begin_anew()
        self.params.begin_anew()
        self.carry[:] = False
        self.steps = 0
        for register in self.operands.registers.values():
            register.begin_anew()
        for code in self.code:
            code.ran = False
        assert self._symbols(self.dynamic_shared) == self.symbols

    def _symbols(self, dynamic_shared: int) -> dict[str, int]:
        """Place variables: their addresses."""
        symbols: dict[str, int] = {}
        for v in [*self.module.variables, *self.kernel.variables]:
            if v.space == "param":
                self.params.declare(v)
                continue
            size = v.size or dynamic_shared
            if v.space in ("shared", "local"):
                data = None
                if not size:
                    size = 0
            else:
                data = np.frombuffer(v.data.ljust(size, b"\0"), np.uint8)
            buffer = self.memory.add(v.space, v.name, size, data, writable=v.space != "const")
            symbols[v.name] = buffer.address
        return symbols

    # Decoding

    def fetch(self, text: str, type_: str) -> Callable[[Lanes], Array]:
        """Function that reads an operand."""
        values = self.operands.source(text, type_)
        return lambda ix: values[ix]

    def flushed(self, text: str, type_: str) -> Callable[[Lanes], Array]:
        """The same with subnormal float32 flushed to zero.

        Looking takes longer than adding: it is done once after a register has been written by something that may have
        left a subnormal number there.
        """
        if type_ != "f32":
            return self.fetch(text, type_)
        if not self.operands.is_register(text):
            constant = np.broadcast_to(arith.flush(self.operands.constant(text, "f32")), (self.N,))
            return lambda ix: constant[ix]
        values, register = self.operands.source(text, "f32"), self.operands.register(text)
        self.operands.flushed.add(register)

        def get(ix: Lanes) -> Array:
            if register.unclean:
                if arith.has_subnormal(values):
                    return arith.flush(values[ix])
                register.unclean = False
            return values[ix]

        return get

    def order(self, n: int) -> Array | None:
        """Order in which n threads execute an atomic."""
        return None if self.random is None else self.random.permutation(n)

    def _decode(self) -> None:
        self.operands = Operands(self.kernel, self.N, self.special, self.symbols)
        flow_blocks, self.labels = flow.blocks_of(self.kernel)
        read: list[list[set[Register]]] = []
        written: list[list[set[Register]]] = []
        self.code: list[Code] = []
        for block in flow_blocks:
            code = Code(block.instructions, [], size=len(block.instructions))
            read.append([])
            written.append([])
            for ins in block.instructions:
                self.operands.read, self.operands.written, self.operands.what = set(), set(), ins.text
                predicate = None if ins.predicate is None else reader(self.operands.predicate(ins.predicate))
                execute = self._decode_one(ins, code, predicate)
                if execute is not None:
                    code.body.append(execute)
                read[-1].append(self.operands.read)
                written[-1].append(self.operands.written)
            self.code.append(code)
        self._watch(flow_blocks, read, written)
        for code in self.code:
            for i, ins in enumerate(code.instructions[: len(code.body)]):
                if ins.predicate and ins.opcode not in flow.JUMPS | flow.MEETINGS:
                    code.body[i] = self._predicated(code.body[i], ins)

    def _decode_one(self, ins: Instruction, code: Code, predicate: Callable[[Lanes], Array] | None) -> Execute | None:
        """An instruction as a function, or what it makes of the block's end."""
        if ins.opcode in flow.JUMPS:
            uniform = [m for m in ins.modifiers if m not in (("idx",) if ins.opcode == "brx" else ("uni",))]
            if uniform:
                raise PtxError(f"modifier .{uniform[0]} is not emulated here: {ins.text}")
            code.predicate = predicate
            if ins.opcode == "bra":
                code.kind, code.target = "bra", flow.target(self.labels, ins.operands[0], ins)
            elif ins.opcode == "brx":
                code.kind = "brx"
                blocks = np.array([flow.target(self.labels, t, ins) for t in flow.table(self.kernel, ins)])
                code.target = self.operands.source(ins.operands[0], "u32"), blocks
            else:
                code.kind = "exit"
            return None
        if ins.opcode == "call":
            return self._call(ins, code, predicate)
        if ins.opcode in ("bar", "barrier") and "warp" not in ins.modifiers:
            modifiers = Modifiers(ins)
            modifiers.has("aligned")
            kind, number, count, reduction = barrier_operands(ins, modifiers, self)
            modifiers.done()
            code.kind, code.target, code.predicate = "barrier", (kind, number, count, reduction), predicate
            return None
        if ins.opcode in flow.MEETINGS:
            code.kind, code.predicate, code.mask = "warp", predicate, mask_of(ins, self)
            if ins.opcode in ("bar", "barrier"):
                if ins.modifiers != ("warp", "sync") or code.mask is None:
                    raise PtxError(f"not emulated: {ins.text}")
                return warp_barrier(self, code.mask)
        return decode(ins, self)

    def _call(self, ins: Instruction, code: Code, predicate: Any) -> Execute:
        """The device functions that numba's cooperative groups are made of."""
        operands = list(ins.operands)
        result = operands.pop(0).strip("() ") if operands[0].startswith("(") else None
        name = operands[0]
        values = {"cudaCGGetIntrinsicHandle": 1, "cudaCGSynchronize": 0}
        if name not in values or predicate is not None:
            why = "its body is not inlined" if name in self.module.functions else "it is not known"
            raise PtxError(f"call of {name}: {why}, and calls are not emulated ({ins.text})")
        if name == "cudaCGSynchronize":
            code.kind = "grid"
        room = self.params.calls[result] if result else None

        def run(ix: Lanes) -> None:
            if room is not None:
                room[ix] = 0
                room[ix, 0] = values[name]

        return run

    def _predicated(self, execute: Execute, ins: Instruction) -> Execute:
        assert ins.predicate is not None
        predicate = reader(self.operands.predicate(ins.predicate))
        register = self.operands.register(ins.predicate.lstrip("!"))
        lanes, narrowed, check = self.grid.lanes, self.grid.narrowed, self._check_written

        def run(ix: Lanes) -> None:
            check(register, ix)
            p = predicate(ix)
            n = np.count_nonzero(p)
            if n == len(p):
                execute(ix)
            elif n:
                execute(narrowed(lanes[ix][p]))

        return run

    def _watch(
        self, blocks: list[flow.Block], read: list[list[set[Register]]], written: list[list[set[Register]]]
    ) -> None:
        """Watch registers that may be read before they are written, and those that may hold subnormal numbers."""
        names = [[[{r.name for r in rs} for rs in block] for block in some] for some in (read, written)]
        early = flow.read_too_early(blocks, *names) if self.checks.registers else set()
        registers = self.operands.registers
        grows = bool(early)
        while grows:  # copies of unwritten registers may be unwritten too: reading those is the fault
            grows = False
            for n, block in enumerate(blocks):
                for i, ins in enumerate(block.instructions):
                    if ins.opcode in ("mov", "selp") and {r.name for r in read[n][i]} & early:
                        new = {r.name for r in written[n][i]} - early
                        early |= new
                        grows |= bool(new)
        for name in early:
            registers[name].written = np.zeros(self.N, bool)
        for n, code in enumerate(self.code):
            for i, ins in enumerate(code.instructions):
                predicate = (ins.predicate or "").lstrip("!") if i < len(code.body) else ""
                reads = [r for r in read[n][i] if r.written is not None and r.name != predicate]
                writes = [r for r in written[n][i] if r.written is not None]
                soils = [r for r in written[n][i] if r in self.operands.flushed and "ftz" not in ins.modifiers]
                if i < len(code.body):
                    if soils:
                        code.body[i] = _soiling(code.body[i], soils)
                    if reads or writes:
                        code.body[i] = self._registering(code.body[i], ins, reads, writes)
                elif reads:
                    code.body.append(self._registering(lambda ix: None, ins, reads, []))

    def _registering(
        self, execute: Execute, ins: Instruction, reads: list[Register], writes: list[Register]
    ) -> Execute:
        copies = ins.opcode in ("mov", "selp") and "{" not in "".join(ins.operands)
        choice = reader(self.operands.predicate(ins.operands[3])) if ins.opcode == "selp" else None
        chosen = [self.operands.registers.get(o) for o in ins.operands[1:3]]

        def valid(register: Register | None, ix: Lanes) -> Any:
            return True if register is None or register.written is None else register.written[ix]

        def run(ix: Lanes) -> None:
            if copies:
                sure = valid(chosen[0], ix)
                if choice is not None:
                    sure = np.where(choice(ix), sure, valid(chosen[1], ix))
                execute(ix)
                for register in writes:
                    register.written[ix] = sure  # type: ignore[index]
                return
            for register in reads:
                self._check_written(register, ix)
            execute(ix)
            for register in writes:
                register.written[ix] = True  # type: ignore[index]

        return run

    def _check_written(self, register: Register, ix: Lanes) -> None:
        if register.written is not None:
            done = register.written[ix]
            if np.count_nonzero(done) < len(done):
                lane = int(self.grid.lanes[ix][int(np.argmin(done))])
                raise Fault("register", f"reads {register.name}, which it has never written", lane)


def _soiling(execute: Execute, registers: list[Register]) -> Execute:
    """The same, and some registers may hold subnormal numbers afterwards."""
    if len(registers) == 1:
        (register,) = registers

        def run_one(ix: Lanes) -> None:
            execute(ix)
            register.unclean = True

        return run_one

    def run(ix: Lanes) -> None:
        execute(ix)
        for register in registers:
            register.unclean = True

    return run
