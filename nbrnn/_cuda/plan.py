"""How a block of threads shares the work of a step: known when a kernel is compiled.

One block has a tile of R sequences for the whole of time, and the weights stay where they are: most in registers, what
finds no room there in the first cache.  A step is the product of the recurrent weights with the vectors of the tile,
the cell's formulas, and one barrier.

A product gives each of n *units* a few sums (forward: one for each gate, of h; back: one, of the gates' gradients):

    sum[o] = sum over parts g and k < depth of  W[o][unit][g][k] * vector[g][k]

Units are dealt to groups of P neighbouring lanes, Q units to each; lane p takes the k with k % P == p, for all Q units
and R sequences, so that a number read from shared memory is used Q times the number of sums, and W is used R times.
Then the lanes add up what they have.  With P = Q * 4 >= Q * R each lane is left with one unit of one sequence (if R is
less than 4, several lanes with the same one), and goes on with it alone: the state of that unit never leaves its
registers.  Sums are added in an order that depends on the cell, the dtype and H alone.

    thread = group * P + p        unit = group * Q + v % Q,  sequence = v // Q   with v = p * R * Q // P
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._cells import Cell

#: The largest H of these kernels: more threads than a block may have, or more shared memory, beyond.
LARGEST = 128
#: Most sequences in a tile.
MOST_ROWS = 4
#: Registers that each of the four parts of a multiprocessor has, and a thread at most.
_FILE, _MOST = 16384, 255


@dataclass(frozen=True)
class Split:
    """A product, and who does what of it.

    Attributes
    ----------
    units, outputs : int
        What comes out: so many units with so many sums each.
    parts, depth : int
        What goes in: so many vectors of so many numbers.
    rows : int
        R: sequences in a tile.
    per_group : int
        Q.
    spare : int
        Registers that a thread needs for all else than weights.
    words : int
        Registers that a number takes.
    """

    units: int
    outputs: int
    parts: int
    depth: int
    rows: int
    per_group: int
    spare: int
    words: int

    @property
    def lanes(self) -> int:
        """P."""
        return MOST_ROWS * self.per_group

    @property
    def turns(self) -> int:
        """Numbers of a vector that a lane takes."""
        return -(-self.depth // self.lanes)

    @property
    def room(self) -> int:
        """A vector in shared memory: ``depth`` rounded up to whole turns."""
        return self.turns * self.lanes

    @property
    def threads(self) -> int:
        """Threads of a block: whole warps."""
        groups = -(-self.units // self.per_group)
        return -(-groups * self.lanes // 32) * 32

    @property
    def weights(self) -> int:
        """Weights of a thread."""
        return self.turns * self.parts * self.per_group * self.outputs

    @property
    def in_registers(self) -> int:
        """How many of those stay in registers."""
        warps = -(-self.threads // 128)  # of a part
        registers = min(_MOST, _FILE // (32 * warps) // 8 * 8)
        sums = self.words * self.rows * self.per_group * self.outputs
        return max(1, min(self.weights, (registers - self.spare - sums) // self.words))

    def pack(self, matrix: NDArray[Any]) -> NDArray[Any]:
        """(outputs, units, parts, depth) to flat [turns][parts][Q][outputs][threads], zeros where there is nothing."""
        outputs, units, parts, depth = matrix.shape
        groups = self.threads // self.lanes
        full = np.zeros((outputs, groups * self.per_group, parts, self.room), matrix.dtype)
        full[:, :units, :, :depth] = matrix
        split = full.reshape(outputs, groups, self.per_group, parts, self.turns, self.lanes)
        return np.ascontiguousarray(split.transpose(4, 3, 2, 0, 1, 5)).reshape(-1)


def by_gate(cell: type[Cell], matrix: NDArray[Any], wanted: tuple[str, ...]) -> NDArray[Any]:
    """(G*H, ...) to (G, H, ...), gates as wanted."""
    order = cell.gates
    by_gate = matrix.reshape(len(order), len(matrix) // len(order), *matrix.shape[1:])
    return by_gate[[order.index(g) for g in wanted]]


@dataclass(frozen=True)
class Plan:
    """One layer and direction: what its kernels are compiled for.

    Attributes
    ----------
    cell : type of Cell
    dtype : dtype
        float32 or float64.
    H : int
        At most ``LARGEST``.
    rows : {1, 2, 4}
        Sequences in a tile: 4 use each weight four times, 1 needs fewer instructions where there are few sequences.
    """

    cell: type[Cell]
    dtype: np.dtype[Any]
    H: int
    rows: int = MOST_ROWS

    def __post_init__(self) -> None:
        if not 1 <= self.H <= LARGEST:
            raise ValueError(f"H is {self.H}, and must be 1 to {LARGEST} for kernels of one block per tile")
        if self.rows not in (1, 2, 4):
            raise ValueError(f"rows is {self.rows}, and must be 1, 2 or 4")

    @property
    def gates(self) -> int:
        """G."""
        return len(self.cell.gates)

    @property
    def words(self) -> int:
        """Registers of a number."""
        return self.dtype.itemsize // 4

    @functools.cached_property
    def forward(self) -> Split:
        """The product of a step: Q such that about four products use a number from shared memory."""
        per_group = 4 if self.gates == 1 else 2 if self.gates == 2 else 1
        spare = 28 + 10 * self.words  # ptxas spills nothing with six fewer
        return Split(self.H, self.gates, 1, self.H, self.rows, per_group, spare, self.words)

    @functools.cached_property
    def backward(self) -> Split:
        """The product on the way back."""
        spare = 28 + 14 * self.words
        return Split(self.H, 1, self.gates, self.H, self.rows, 4, spare, self.words)

    def blocks(self, batch: int) -> int:
        """Tiles of a batch."""
        return -(-batch // self.rows)

    # Weights, from torch's (G*H, H)

    def pack_forward(self, w_hh: NDArray[Any]) -> NDArray[Any]:
        """Weights of ``forward``."""
        return self.forward.pack(by_gate(self.cell, w_hh, self.cell.of_hidden())[:, :, None])

    def pack_backward(self, w_hh: NDArray[Any]) -> NDArray[Any]:
        """Weights of ``backward``."""
        return self.backward.pack(by_gate(self.cell, w_hh, self.cell.of_hidden()).transpose(2, 0, 1)[None])
