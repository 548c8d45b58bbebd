"""Which thread, warp and block each lane is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.ptx.errors import PtxError
from tests.ptx.operands import Array, Lanes

#: Most that any device allows.
MAX_THREADS, MAX_GRID = (1024, 1024, 64), (2**31 - 1, 65535, 65535)


def three(size: Any) -> tuple[int, int, int]:
    """Three numbers from one to three."""
    sizes = (size,) if np.ndim(size) == 0 else tuple(size)
    x, y, z = (*map(int, sizes), 1, 1)[:3]
    return x, y, z


class Grid:
    """Threads of a launch, block after block: thread t of block b is lane b * threads + t."""

    def __init__(self, grid: Any, block: Any):
        self.grid, self.block_shape = three(grid), three(block)
        self.threads, self.blocks = math.prod(self.block_shape), math.prod(self.grid)
        if not (0 < self.threads <= 1024 and all(b <= m for b, m in zip(self.block_shape, MAX_THREADS, strict=True))):
            raise PtxError(f"a block of {self.block_shape} threads can't be launched")
        if not self.blocks or any(g > m for g, m in zip(self.grid, MAX_GRID, strict=True)):
            raise PtxError(f"a grid of {self.grid} blocks can't be launched")
        self.N = N = self.blocks * self.threads
        self.full = slice(0, N)
        self.lanes = np.arange(N)
        self.block = self.lanes // self.threads
        self.thread = self.lanes % self.threads
        self.warps_per_block = -(-self.threads // 32)
        self.warp = self.block * self.warps_per_block + self.thread // 32
        self.warps = self.blocks * self.warps_per_block
        self.in_warp = self.thread % 32
        self.warp_start = self.lanes - self.in_warp  # the lane that is the warp's first
        starts = np.unique(self.warp_start)
        self.warp_size = np.diff(np.append(starts, N))

    def special(self, dynamic_shared: int = 0) -> dict[str, Array]:
        """Registers that say which thread it is, and what its block was given."""
        u4, N = np.uint32, self.N
        registers: dict[str, Any] = {"%laneid": self.in_warp, "%warpid": self.thread // 32, "%smid": self.block}
        for names, shape, at in (("%tid.", self.block_shape, self.thread), ("%ctaid.", self.grid, self.block)):
            x, y, _ = shape
            registers |= {names + "x": at % x, names + "y": at // x % y, names + "z": at // (x * y)}
        for axis in range(3):
            registers["%ntid." + "xyz"[axis]] = self.block_shape[axis]
            registers["%nctaid." + "xyz"[axis]] = self.grid[axis]
        registers["%nwarpid"], registers["%gridid"] = self.warps_per_block, 0
        registers["%dynamic_smem_size"] = dynamic_shared
        one, n = np.uint64(1), self.in_warp.astype(np.uint64)
        below, whole = (one << n) - one, np.uint64(0xFFFFFFFF)
        registers["%lanemask_lt"], registers["%lanemask_le"] = below, below | one << n
        registers["%lanemask_eq"] = one << n
        registers["%lanemask_ge"], registers["%lanemask_gt"] = whole ^ below, whole ^ (below | one << n)
        return {k: np.ascontiguousarray(np.broadcast_to(np.asarray(v).astype(u4), (N,))) for k, v in registers.items()}

    def say(self, lane: int) -> str:
        """Name of a lane for a message."""

        def at(i: int, shape: tuple[int, int, int]) -> str:
            x, y, z = shape
            place = (i % x, i // x % y, i // (x * y))
            return str(place[0]) if y == z == 1 else str(place)

        return f"thread {at(lane % self.threads, self.block_shape)} of block {at(lane // self.threads, self.grid)}"

    def say_many(self, lanes: Array) -> str:
        """Name of a group of lanes."""
        shown = ", ".join(self.say(int(i)) for i in lanes[:3])
        return shown + (f" and {len(lanes) - 3} more" if len(lanes) > 3 else "")

    def narrowed(self, lanes: Array) -> Lanes:
        """The same lanes as a slice where they are evenly spaced: slices are many times faster than index arrays."""
        n = len(lanes)
        if n == self.N:
            return self.full
        first = int(lanes[0])
        if n == 1:
            return slice(first, first + 1)
        step, last = int(lanes[1]) - first, int(lanes[-1])
        if step > 0 and last - first == step * (n - 1) and (step == 1 or bool((np.diff(lanes) == step).all())):
            return slice(first, last + 1, step)
        return lanes
