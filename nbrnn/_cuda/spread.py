"""How all multiprocessors share the work of a step: each owns some units, and keeps their weights for all steps.

A block has a few warps, a warp Q units: lane p takes the k with k % 32 == p, for the Q units and R sequences (see
``plan.Split``).  Weights are in registers, and what finds no room there is in shared memory.  How many warps a block
has follows from the number of multiprocessors; the order in which sums are added doesn't depend on it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._cells import Cell
from .plan import MOST_ROWS, Split, by_gate

#: The largest H of these kernels: an H100's registers are full of weights of float32 then.
LARGEST_SPREAD = 1024
#: Lanes of a warp; fewest warps of a block (one for each part of a multiprocessor), and most.
_WARP, _FEWEST, _MOST = 32, 4, 32


@dataclass(frozen=True)
class Spread(Split):
    """A product whose units are dealt to blocks.

    Attributes
    ----------
    warps : int
        Of a block.
    """

    warps: int

    @property
    def lanes(self) -> int:
        return _WARP

    @property
    def threads(self) -> int:
        return _WARP * self.warps

    @property
    def units_of_block(self) -> int:
        """Units that a block owns."""
        return self.warps * self.per_group

    @property
    def blocks(self) -> int:
        """Blocks that own all units."""
        return -(-self.units // self.units_of_block)

    @property
    def vectors(self) -> int:
        """Numbers in shared memory that a product reads."""
        return self.rows * self.parts * self.room

    @property
    def rest(self) -> int:
        """Weights of a thread in shared memory."""
        return self.weights - self.in_registers

    @property
    def shared(self) -> int:
        """Bytes of shared memory: vectors, and then weights."""
        return (self.vectors + self.rest * self.threads) * 4 * self.words

    def pack(self, matrix: NDArray[Any]) -> NDArray[Any]:
        """(outputs, units, parts, depth) to flat [blocks][turns][parts][Q][outputs][threads], zeros for nothing."""
        outputs, units, parts, depth = matrix.shape
        full = np.zeros((outputs, self.blocks * self.units_of_block, parts, self.room), matrix.dtype)
        full[:, :units, :, :depth] = matrix
        split = full.reshape(outputs, self.blocks, self.warps, self.per_group, parts, self.turns, self.lanes)
        return np.ascontiguousarray(split.transpose(1, 5, 4, 3, 0, 2, 6)).reshape(-1)


@dataclass(frozen=True)
class SpreadPlan:
    """One layer and direction: what its kernels are compiled for.

    Attributes
    ----------
    cell : type of Cell
        Without a projection.
    dtype : dtype
        float32 or float64.
    H : int
        At most ``LARGEST_SPREAD``.
    warps : int
        Of a block.
    rows : {1, 2, 4}
        Sequences in a tile.
    """

    cell: type[Cell]
    dtype: np.dtype[Any]
    H: int
    warps: int
    rows: int = MOST_ROWS

    @classmethod
    def of(
        cls, cell: type[Cell], dtype: np.dtype[Any], H: int, processors: int, cc: tuple[int, int], rows: int = MOST_ROWS
    ) -> SpreadPlan | None:
        """The plan with one block at most for each multiprocessor, or None where that is impossible."""
        if cell.projected or not 1 <= H <= LARGEST_SPREAD:
            return None
        warps = max(_FEWEST, -(-H // (processors * _units_of_warp(len(cell.gates)))))
        if warps > _MOST:
            return None
        while rows:
            plan = cls(cell, dtype, H, warps, rows)
            if max(plan.forward.shared, plan.backward.shared) <= shared_memory(cc):
                return plan
            rows //= 2
        return None

    @property
    def gates(self) -> int:
        """G."""
        return len(self.cell.gates)

    @functools.cached_property
    def forward(self) -> Spread:
        """The product of a step."""
        return self._spread(self.gates, 1, 30 + 14 * (self.dtype.itemsize // 4))

    @functools.cached_property
    def backward(self) -> Spread:
        """The product on the way back."""
        return self._spread(1, self.gates, 30 + 14 * (self.dtype.itemsize // 4))

    def _spread(self, outputs: int, parts: int, spare: int) -> Spread:
        words = self.dtype.itemsize // 4
        return Spread(
            self.H, outputs, parts, self.H, self.rows, _units_of_warp(self.gates), spare, words, self.warps
        )  # fmt: skip

    # Weights, from torch's (G*H, H)

    def pack_forward(self, w_hh: NDArray[Any]) -> NDArray[Any]:
        """Weights of ``forward``."""
        return self.forward.pack(by_gate(self.cell, w_hh, self.cell.of_hidden())[:, :, None])

    def pack_backward(self, w_hh: NDArray[Any]) -> NDArray[Any]:
        """Weights of ``backward``."""
        return self.backward.pack(by_gate(self.cell, w_hh, self.cell.of_hidden()).transpose(2, 0, 1)[None])


def _units_of_warp(gates: int) -> int:
    """Q: such that about four products use a number from shared memory, on the way there."""
    return 4 if gates == 1 else 2 if gates == 2 else 1


def shared_memory(cc: tuple[int, int]) -> int:
    """Bytes of shared memory that a block may ask for (CUDA C++ Programming Guide, compute capabilities)."""
    if cc[0] in (9, 10):
        return 227 * 1024
    if cc in ((8, 0), (8, 7)):
        return 163 * 1024
    return 99 * 1024 if cc >= (8, 0) else 64 * 1024
