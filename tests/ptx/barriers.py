"""Barriers of blocks: who waits, and when all have come."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.ptx.errors import Fault
from tests.ptx.operands import Array, Lanes

if TYPE_CHECKING:
    from tests.ptx.machine import Launch


@dataclass
class Barrier:
    """One of the 16 barriers of one block."""

    lanes: list[Array] = field(default_factory=list)  # that wait
    arrived: list[Any] = field(default_factory=list)  # what those knew that don't wait
    count: int = 0  # of both
    expected: int = 0  # 0: the whole block
    kind: str = ""
    result: list[Any] = field(default_factory=list)  # (target, values of the predicate)


class Barriers:
    """All barriers of a launch."""

    def __init__(self, launch: Launch):
        self.launch = launch
        self.waiting: dict[tuple[int, int], Barrier] = {}

    def come(self, ix: Lanes, kind: str, number: Array, count: Array | None, reduction: Any) -> None:
        """Threads reach a barrier's instruction; the machine has stopped those that wait."""
        grid = self.launch.grid
        lanes = grid.lanes[ix]
        numbers, counts = number[ix], None if count is None else count[ix]
        blocks = grid.block[lanes]
        starts = np.flatnonzero(np.diff(blocks, prepend=-1))
        for start, stop in zip(starts, [*starts[1:], len(lanes)], strict=True):
            mine = lanes[start:stop]
            for n in np.unique(numbers[start:stop]):
                some = (
                    mine
                    if int(numbers[start]) == n and (numbers[start:stop] == n).all()
                    else mine[numbers[start:stop] == n]
                )
                expected = 0 if counts is None else int(counts[start])
                self._come(some, int(blocks[start]), int(n), kind, expected, reduction)

    def _come(self, lanes: Array, block: int, number: int, kind: str, expected: int, reduction: Any) -> None:
        launch, first = self.launch, int(lanes[0])
        if number > 15 or expected % 32:
            raise Fault(
                "barrier", f"barrier {number} of {expected} threads: there are 16, for multiples of 32 threads", first
            )
        barrier = self.waiting.setdefault(
            (block, number), Barrier(expected=expected, kind=kind if kind != "arrive" else "sync")
        )
        if barrier.expected != expected:
            raise Fault(
                "barrier",
                f"expects {expected or 'all'} threads at barrier {number}, where others expect {barrier.expected or 'all'}",
                first,
            )
        wanted = barrier.expected or launch.grid.threads
        if not expected and barrier.lanes:
            there = int(barrier.lanes[0][0])
            if launch.pc[there] != launch.pc[first]:
                where = launch.text_at(int(launch.pc[there]))
                raise Fault("barrier", f"divergent: {launch.grid.say(there)} waits for it at {where}", first)
        if expected and kind != "arrive":
            self._aligned(lanes, barrier)
        barrier.count += len(lanes)
        if barrier.count > wanted:
            raise Fault(
                "barrier", f"{barrier.count} threads have come to barrier {number}, which expects {wanted}", first
            )
        if kind == "arrive":
            if launch.memory.clocks:
                barrier.arrived.append(launch.memory.clocks.arrive(lanes))
        else:
            barrier.lanes.append(lanes)
            if reduction is not None:
                barrier.result.append((reduction[0], reduction[1](lanes)))
        if barrier.count == wanted:
            del self.waiting[block, number]
            self._release(barrier)

    def _aligned(self, lanes: Array, barrier: Barrier) -> None:
        """Barriers with a count may be met at different places, but by whole warps."""
        grid, launch = self.launch.grid, self.launch
        warps, counts = np.unique(grid.warp[lanes], return_counts=True)
        for warp, count in zip(warps, counts, strict=True):
            mine = grid.warp == warp
            if count != np.count_nonzero(mine & ~launch.done):
                raise Fault(
                    "barrier",
                    "divergent: not all threads of the warp have come to it together",
                    int(lanes[grid.warp[lanes] == warp][0]),
                )

    def _release(self, barrier: Barrier) -> None:
        launch = self.launch
        if not barrier.lanes:
            return
        lanes = np.sort(np.concatenate(barrier.lanes)) if len(barrier.lanes) > 1 else barrier.lanes[0]
        if launch.memory.clocks:
            launch.memory.clocks.barrier(lanes, barrier.arrived)
        if barrier.result:
            values = np.concatenate([v for _, v in barrier.result])
            n = int(np.count_nonzero(values))
            total = {"popc": n, "and": n == len(values), "or": n > 0}[barrier.kind]
            for (target, _), some in zip(barrier.result, barrier.lanes, strict=True):
                target[some] = np.full(len(some), total, np.uint32 if barrier.kind == "popc" else bool)
        launch.wake(lanes)

    def stuck(self) -> list[str]:
        """What each barrier waits for, in words."""
        lines = []
        for (block, number), barrier in self.waiting.items():
            if barrier.lanes:
                wanted = barrier.expected or self.launch.grid.threads
                lanes = np.concatenate(barrier.lanes)
                where = self.launch.text_at(int(self.launch.pc[lanes[0]]))
                lines.append(
                    f"{barrier.count} of {wanted} threads at barrier {number} of block {block} ({self.launch.grid.say_many(lanes)}), {where}"
                )
        return lines
