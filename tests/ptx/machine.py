"""Execution: each thread of the grid has its own program counter, and all at the lowest block of code run together.

So threads of a warp diverge and meet again, barriers and warp instructions wait until all have come, and a thread that
spins on an atomic lets others run.  Nothing ever waits in Python: what can't go on is a deadlock, and is reported.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.ptx.barriers import Barriers
from tests.ptx.errors import Fault
from tests.ptx.operands import Array, Lanes
from tests.ptx.parse import Instruction, Module
from tests.ptx.program import Code, Program

RUNS, WAITS_WARP, WAITS_BLOCK, WAITS_GRID, DONE = range(5)
NOWHERE = np.iinfo(np.int32).max  # where a thread stands that can't run
#: Blocks of code that threads may execute while others are ready, and how often others than the lowest go first.
PATIENCE, FAIRNESS = 64, 8


class Launch(Program):
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

    def __init__(self, module: Module | str, grid: Any, block: Any, **options: Any):
        super().__init__(module, grid, block, **options)
        self.decoded = False
        self._start()

    def begin_anew(self, seed: int | None, schedule: int | None) -> None:
        super().begin_anew(seed, schedule)
        self._start()

    def _start(self) -> None:
        """All threads stand at the beginning."""
        self.pc = np.zeros(self.N, np.int32)
        self.at = np.zeros(self.N, np.int32)  # the same, but NOWHERE for those that can't run
        self.state = np.zeros(self.N, np.int8)
        self.turn = 0
        self.lane_instructions = 0
        self.unwritten: list[int] = []

    @property
    def done(self) -> Array:
        """Threads that have ended."""
        return self.state == DONE

    def run(self) -> None:
        """Execute the kernel to its end.

        Raises
        ------
        Fault
            What the kernel does wrong, first of all.
        PtxError
            What isn't emulated.
        """
        if not self.decoded:
            self._decode()
            self.decoded = True
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


def short(name: str) -> str:
    """A mangled name of numba's without its types."""
    return name if len(name) < 60 else f"{name[:56]}..."
