"""Execution: each thread of the grid has its own program counter, and all at the lowest block of code run together.

So threads of a warp diverge and meet again, barriers and warp instructions wait until all have come, and a thread that
spins on an atomic lets others run.  Nothing ever waits in Python: what can't go on is a deadlock, and is reported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.ptx import arith, flow, opcodes_float, opcodes_int, opcodes_memory  # noqa: F401 (they make opcodes known)
from tests.ptx.barriers import Barriers
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

RUNS, WAITS_WARP, WAITS_BLOCK, WAITS_GRID, DONE = range(5)
NOWHERE = np.iinfo(np.int32).max  # where a thread stands that can't run
#: Blocks of code that threads may execute while others are ready, and how often others than the lowest go first.
PATIENCE, FAIRNESS = 64, 8


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


class Launch:
    """One launch of a kernel; `run` executes it.

    Parameters
    ----------
    module : Module or str
    grid, block : int or tuple of int
    name : str, optional
        Which kernel; needed where there are several.
    seed : int or None
        Of the approximate functions' errors; None for none.
    schedule : int or None
        Seed of an adversarial scheduler: which warp runs next is random, as is the order of atomics.
    """

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
        self.pc = np.zeros(N, np.int32)
        self.at = np.zeros(N, np.int32)  # the same, but NOWHERE for those that can't run
        self.state = np.zeros(N, np.int8)
        self.steps = self.lane_instructions = 0
        self._symbols(dynamic_shared)

    @property
    def done(self) -> Array:
        """Threads that have ended."""
        return self.state == DONE

    def _symbols(self, dynamic_shared: int) -> None:
        """Place variables."""
        self.symbols: dict[str, int] = {}
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
            self.symbols[v.name] = buffer.address

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
        self.operands = Operands(self.kernel, self.N, self.grid.special(), self.symbols)
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

    # Running

    def run(self) -> None:
        """Execute the kernel to its end.

        Raises
        ------
        Fault
            What the kernel does wrong, first of all.
        PtxError
            What isn't emulated.
        """
        self._decode()
        self.barriers = Barriers(self)
        with np.errstate(all="ignore"):
            while True:
                group = self._next()
                if group is None:
                    if self._unblock():
                        continue
                    return
                self._go(*group)

    def _next(self) -> tuple[int, Array, int, int] | None:
        """Block of code, threads that are to execute it, lowest block of the others, and for how many blocks."""
        lowest = int(self.at.min())
        if lowest == NOWHERE:
            return None
        if self.random is not None:
            ready = np.flatnonzero(self.at != NOWHERE)
            warp = self.grid.warp[ready[self.random.integers(len(ready))]]
            ready = ready[self.grid.warp[ready] == warp]
            lowest = int(self.at[ready].min())
            return lowest, ready[self.at[ready] == lowest], NOWHERE, int(self.random.integers(1, 40))
        here = self.at == lowest
        n = np.count_nonzero(here)
        if n == self.N:
            return lowest, self.grid.lanes, NOWHERE, PATIENCE
        others = int(np.where(here, NOWHERE, self.at).min())
        self.turn += 1
        if others != NOWHERE and self.turn % FAIRNESS == 0:
            # Someone else for once: those that wait for the longest way ahead in turn.
            ahead = np.unique(self.at[(self.at != NOWHERE) & ~here])
            block = int(ahead[self.turn // FAIRNESS % len(ahead)])
            return block, np.flatnonzero(self.at == block), lowest, PATIENCE
        return lowest, np.flatnonzero(here), others, PATIENCE

    turn = 0
    unwritten: list[int] = []  # noqa: RUF012 (set by call.launch)

    def _go(self, block: int, lanes: Array, others: int, patience: int) -> None:
        """Run threads from a block on, until they part, wait, meet others or lose patience."""
        ix = self.grid.narrowed(lanes)
        while True:
            code = self.code[block]
            if code.kind == "warp":
                lanes = self._gather(block, lanes, code)
                if not len(lanes):
                    return
                ix = self.grid.narrowed(lanes)
            self.steps += 1
            if self.steps > self.checks.steps:
                raise self._located(
                    Fault("steps", f"not at its end after {self.checks.steps} steps", int(lanes[0])),
                    code.instructions[0],
                )
            self.lane_instructions += len(lanes) * code.size
            code.ran = True
            if self.profile is not None:
                self.profile.count(code.instructions, ix)
            execute = None
            try:
                for execute in code.body:
                    execute(ix)
                execute = None
                after = self._end(code, block, ix, lanes)
            except Fault as fault:
                number = -1 if execute is None else code.body.index(execute)
                raise self._located(fault, code.instructions[number]) from None
            if after is None:
                return
            patience -= 1
            if after >= others or patience <= 0:
                self.pc[ix] = self.at[ix] = after
                return
            block = after

    def _end(self, code: Code, block: int, ix: Lanes, lanes: Array) -> int | None:
        """Where all threads go next; None if they part or wait, and stand where they do."""
        kind = code.kind
        if kind in ("", "warp"):
            if kind == "warp":
                self.state[ix] = RUNS
            return block + 1
        if kind == "bra":
            if code.predicate is None:
                return int(code.target)
            p = code.predicate(ix)
            n = np.count_nonzero(p)
            if n == len(p):
                return int(code.target)
            if n == 0:
                return block + 1
            self.pc[ix] = self.at[ix] = np.where(p, code.target, block + 1)
            return None
        if kind == "exit":
            if code.predicate is not None:
                p = code.predicate(ix)
                self.pc[ix] = self.at[ix] = block + 1
                lanes = lanes[p]
            self.state[lanes], self.at[lanes] = DONE, NOWHERE
            return None
        if kind == "brx":
            index, blocks = code.target
            which = index[ix]
            if np.count_nonzero(which >= len(blocks)):
                raise Fault(
                    "bounds", "the index of a jump is beyond its table", int(lanes[np.argmax(which >= len(blocks))])
                )
            self.pc[ix] = self.at[ix] = blocks[which]
            return None
        if kind == "grid":
            self.pc[ix], self.at[ix], self.state[ix] = block, NOWHERE, WAITS_GRID
            return None
        self._barrier(code, block, ix, lanes)
        return None

    def _barrier(self, code: Code, block: int, ix: Lanes, lanes: Array) -> None:
        kind, number, count, reduction = code.target
        self.pc[ix] = block
        if code.predicate is not None:
            p = code.predicate(ix)
            past = lanes[~p]
            self.pc[past] = self.at[past] = block + 1
            lanes = lanes[p]
            if not len(lanes):
                return
        if kind == "arrive":
            self.pc[lanes] = self.at[lanes] = block + 1
        else:
            self.at[lanes], self.state[lanes] = NOWHERE, WAITS_BLOCK
        self.barriers.come(self.grid.narrowed(lanes), kind, number, count, reduction)

    def wake(self, lanes: Array) -> None:
        """Threads go on behind what they have waited at."""
        self.state[lanes] = RUNS
        self.pc[lanes] += 1
        self.at[lanes] = self.pc[lanes]

    # Waiting

    def _gather(self, block: int, lanes: Array, code: Code) -> Array:
        """Threads that can execute a warp instruction, of those here and those that wait at it; the others wait."""
        mask = code.mask
        if code.predicate is not None:
            p = code.predicate(self.grid.narrowed(lanes))
            past = lanes[~p]
            self.pc[past], self.at[past], self.state[past] = block + 1, block + 1, RUNS
            lanes = lanes[p]
            if not len(lanes):
                return lanes
        grid = self.grid
        if mask is None:  # activemask
            return lanes
        if len(lanes) == self.N:
            first = mask[0]
            if first == 0xFFFFFFFF and np.count_nonzero(mask == first) == self.N:
                return lanes
        waiting = np.flatnonzero((self.state == WAITS_WARP) & (self.pc == block))
        if len(waiting):
            lanes = np.union1d(lanes, waiting)
        own = mask[lanes]
        bit = np.uint32(1) << grid.in_warp[lanes].astype(np.uint32)
        if np.count_nonzero(own & bit) < len(lanes):
            i = int(np.argmin((own & bit) != 0))
            raise self._located(
                Fault("warp", f"is not in the member mask {int(own[i]):#010x}", int(lanes[i])), code.instructions[0]
            )
        alive = np.zeros(grid.warps, np.uint32)
        there = np.flatnonzero(self.state != DONE)
        np.bitwise_or.at(alive, grid.warp[there], np.uint32(1) << grid.in_warp[there].astype(np.uint32))
        _, of = np.unique(grid.warp[lanes].astype(np.int64) << 32 | own, return_inverse=True)
        here = np.zeros(int(of.max()) + 1, np.uint32)
        np.bitwise_or.at(here, of, bit)
        needed = own & alive[grid.warp[lanes]]
        ready = (here[of] & needed) == needed
        stay = lanes[~ready]
        self.pc[stay], self.at[stay], self.state[stay] = block, NOWHERE, WAITS_WARP
        return lanes[ready]

    def _unblock(self) -> bool:
        """Nobody can run: let the grid pass its barrier, or find that all have ended, or report a deadlock."""
        if bool((self.state == WAITS_GRID).all()):
            if self.memory.clocks:
                self.memory.clocks.barrier(self.grid.lanes)
            blocks = np.unique(self.pc)
            if len(blocks) > 1:
                raise Fault(
                    "barrier",
                    f"divergent: threads wait for the grid at {' and at '.join(self.text_at(int(b)) for b in blocks)}",
                )
            self.wake(self.grid.lanes)
            return True
        # Threads of a warp may have ended while others waited for them.
        for block in np.unique(self.pc[self.state == WAITS_WARP]):
            lanes = np.flatnonzero((self.state == WAITS_WARP) & (self.pc == block))
            ready = self._gather(int(block), lanes, self.code[block])
            if len(ready):
                self.state[ready], self.at[ready] = RUNS, block
                return True
        if bool((self.state == DONE).all()):
            return False
        raise self._deadlock()

    def _deadlock(self) -> Fault:
        groups = self.barriers.stuck()
        for state, what in ((WAITS_WARP, "wait for others of their warp"), (WAITS_GRID, "wait for the grid")):
            for block in np.unique(self.pc[self.state == state]):
                lanes = np.flatnonzero((self.state == state) & (self.pc == block))
                groups.append(f"{len(lanes)} threads ({self.grid.say_many(lanes)}) {what}, {self.text_at(int(block))}")
        ended = np.flatnonzero(self.state == DONE)
        if len(ended):
            groups.append(f"{len(ended)} threads have ended ({self.grid.say_many(ended)})")
        fault = Fault("deadlock", "nobody can go on: " + "; ".join(groups))
        fault.where = f" [kernel {short(self.kernel.name)}]"
        return fault

    def executed(self) -> set[int]:
        """Lines of the text whose instructions some thread has executed."""
        return {ins.line for code in self.code if code.ran for ins in code.instructions}

    def text_at(self, block: int) -> str:
        """Words for the place where a block begins."""
        ins = self.code[block].instructions[0]
        return f"line {ins.line}: {ins.text}"

    def _located(self, fault: Fault, ins: Instruction) -> Fault:
        if not fault.where:
            who = f", {self.grid.say(fault.lane)}" if fault.lane is not None else ""
            fault.where = f" [kernel {short(self.kernel.name)}, line {ins.line}: {ins.text}{who}]"
        return fault


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


def short(name: str) -> str:
    """A mangled name of numba's without its types."""
    return name if len(name) < 60 else f"{name[:56]}..."
