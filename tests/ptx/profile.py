"""Counts of what a launch did, for judging a kernel without a device."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from tests.ptx.grid import Grid
from tests.ptx.operands import Array, Lanes
from tests.ptx.parse import Instruction

if TYPE_CHECKING:
    from tests.ptx.memory import Buffer


class Profile:
    """What is counted.

    Attributes
    ----------
    instructions : Counter
        Warp instructions by opcode with its modifiers.
    requests, sectors : Counter
        By global buffer: loads, stores and atomics of a warp, and the aligned 32 bytes they touch.
    shared_requests, shared_cycles : int
        Accesses of a warp to shared memory, and cycles they take: one each without bank conflicts (two for 8 bytes a
        thread, four for 16).
    """

    def __init__(self, grid: Grid):
        self.grid = grid
        self.instructions: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.sectors: Counter[str] = Counter()
        self.shared_requests = self.shared_cycles = 0

    def count(self, instructions: list[Instruction], ix: Lanes) -> None:
        warps = len(np.unique(self.grid.warp[ix]))
        for ins in instructions:
            self.instructions[".".join((ins.opcode, *ins.modifiers))] += warps

    def access(self, buffer: Buffer, offset: Array, ix: Lanes, size: int) -> None:
        warp = self.grid.warp[ix].astype(np.int64)
        if buffer.space == "global":
            self.requests[buffer.name] += len(np.unique(warp))
            first, last = offset >> 5, (offset + size - 1) >> 5
            touched = np.concatenate([warp << 40 | first, warp << 40 | last])
            self.sectors[buffer.name] += len(np.unique(touched))
        elif buffer.space == "shared":
            words = max(1, size // 4)
            self.shared_requests += len(np.unique(warp))
            # A warp's 8-byte access goes in two halves, a 16-byte one in four quarters.
            part = self.grid.in_warp[ix] * words // 32
            word = np.concatenate([(warp * 8 + part) << 32 | (offset >> 2) + i for i in range(words)])
            word = np.unique(word)  # threads that want the same word share it
            bank = (word >> 32) * 32 + (word & 31)
            groups, times = np.unique(bank, return_counts=True)
            worst = np.zeros(int(groups.max()) // 32 + 1, np.int64)
            np.maximum.at(worst, groups // 32, times)
            self.shared_cycles += int(worst.sum())
