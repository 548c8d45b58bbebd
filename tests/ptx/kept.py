"""Launches that have run, to be run again: most of the time of a short one is that of decoding its kernel."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

from tests.ptx.grid import three
from tests.ptx.machine import Launch
from tests.ptx.parse import Module


class Kept:
    """Some launches, those used last.

    A launch that is taken is nobody else's until it is put back; one that ends with a fault never is.

    Parameters
    ----------
    most : int
        How many numbers their registers may have, of all threads.
    """

    def __init__(self, most: int = 20_000_000):
        self.most, self.held = most, 0
        self.launches: OrderedDict[Any, list[Launch]] = OrderedDict()
        self.lock = threading.Lock()

    def take(
        self,
        module: Module,
        grid: Any,
        block: Any,
        *,
        name: str | None = None,
        dynamic_shared: int = 0,
        seed: int | None = 0,
        schedule: int | None = None,
    ) -> Launch:
        """A launch of a kernel, as if it were new."""
        key = (id(module.kernel(name)), three(grid), three(block), dynamic_shared)  # what is kept holds the kernel
        with self.lock:
            found = self.launches.get(key)
            run = found.pop() if found else None
            if run is not None:
                self.held -= size(run)
        if run is None:
            return Launch(module, grid, block, name=name, dynamic_shared=dynamic_shared, seed=seed, schedule=schedule)
        run.begin_anew(seed, schedule)
        return run

    def put(self, run: Launch) -> None:
        """Keep a launch that has come to its end."""
        key = (id(run.kernel), run.grid.grid, run.grid.block_shape, run.dynamic_shared)
        with self.lock:
            self.launches.setdefault(key, []).append(run)
            self.launches.move_to_end(key)
            self.held += size(run)
            while self.held > self.most:
                _, oldest = self.launches.popitem(last=False)
                self.held -= sum(map(size, oldest))


def size(run: Launch) -> int:
    """Numbers in the registers of a launch."""
    return run.N * len(run.operands.registers)


KEPT = Kept()
