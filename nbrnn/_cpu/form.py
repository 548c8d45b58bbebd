"""One layer in one direction before it has weights: its sizes, the memory it wants, and what goes where in that."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._cells import Cell
from .._memory import aligned, aligned_zeros
from .._nets import net_class
from . import cost, digits, dx, gradients, inputs, isa, packing, slabs, whole, whole_step, workers
from .moves import Order, Shapes, views
from .team import MOST
from .tiles import NV

Array = NDArray[Any]

#: Threads that bring weights into place at most: a few take all that memory gives.
MOVERS = 4


class Packed(NamedTuple):
    """Memory for weights in the order that kernels read them in.

    ``table`` (``moves``) says how they come into the first numbers of ``buffer``, so many as are ``moved``, by way of
    ``rooms``; ``given`` is what kernels are given: a network, and for the way back ``Panels`` too.
    """

    table: Array
    buffer: Array
    moved: int
    rooms: Array
    given: Any


class Sums(NamedTuple):
    """Memory that the gradients of the weights are summed in, as one vector, and as kernels are given it."""

    vector: Array
    totals: gradients.Totals


class Form:
    """One layer in one direction, for all time.

    Parameters
    ----------
    cell : type of Cell
    dtype : dtype
    weights : mapping of str to tuple
        Shapes of the parameters, which lie in this order in one vector: see ``packing``.
    lanes : one of ``isa.NAMES``
    """

    def __init__(self, cell: type[Cell], dtype: np.dtype[Any], weights: Shapes, lanes: type[isa.Lanes]) -> None:
        self.cell, self.dtype, self.weights = cell, dtype, weights
        self.I, self.K = weights["weight_ih"][1], weights["weight_hh"][1]
        self.H = weights["weight_hh"][0] // len(cell.gates)
        self.E = cell.extras()
        self.lanes = isa.of(lanes, dtype, len(cell.gates) * self.H * (self.I + self.K))
        #: Whether dx may come by digits, and what inputs add.
        self.dx_by_digits = self.lanes is isa.AMX and dx.digits_wanted(self.I, self.H, len(cell.gates))
        self.by_digits = self.lanes is isa.AMX and inputs.digits_wanted(self.I, len(cell.gates) * self.H)
        #: Whether h is multiplied in whole numbers, and what loops over time are compiled for.
        self.in_bytes = self.lanes is isa.AMX and whole.wanted(len(cell.gates), self.H, self.K)
        self.forward_lanes = isa.AMX8 if self.in_bytes else self.lanes
        self.back_lanes = isa.AMX8 if self.in_bytes else isa.vectors(self.lanes)
        self.count = sum(map(math.prod, weights.values()))
        self.sizes = packing.sizes(cell, packing.vector_numbers(lanes, dtype), self.I, self.H, self.K)
        #: Numbers that ``forward`` keeps of a step of a sequence, when it does.
        self.saved_width = cell.slots() * self.sizes.Hp
        #: The same with outputs, twice if they are dropped out, and states.
        self.kept_at_most = self.saved_width + 5 * self.K + self.E * self.H
        #: What small calls know of shapes of x, and keep ready by the number of sequences.
        self.shapes: dict[tuple[int, ...], Any] = {}
        self.ready: dict[int, Any] = {}
        self.ready_to_train: dict[int, Any] = {}
        self._spare: dict[str, Packed] = {}

    # Packed weights, for "forward" or for "back".

    def take(self, way: str) -> Packed:
        """Memory for packed weights that nobody else has: what was given back, or something new."""
        spare = self._spare.pop(way, None)
        if spare is not None:
            return spare
        return self._new_forward() if way == "forward" else self._new_back()

    def give(self, way: str, packed: Packed) -> None:
        """Keep what nothing refers to any more, for the next weights."""
        self._spare[way] = packed

    # Where no weight goes, packed weights stay 0.

    def _new_forward(self) -> Packed:
        table, size, room = self._pack_forward
        z, more = self.sizes, 0
        if self.in_bytes or self.by_digits:
            more = packing.digits_at(self.cell, z, self.K, self.in_bytes) - size
        if self.by_digits:
            vectors = z.J * len(self.cell.gates) * packing.block_vectors(self.cell)
            more += z.W + vectors * z.W * digits.numbers_of(self.I)
        buffer = aligned_zeros((size + more,), self.dtype)
        return Packed(table, buffer, size, aligned((MOVERS * room,), self.dtype), self._net(buffer, self.forward_lanes))

    def _new_back(self) -> Packed:
        (table, size, room), cell, G = self._pack_back, self.cell, len(self.cell.gates)
        z, more = self.sizes, 0
        if self.in_bytes:
            vectors = z.Kp // z.W
            more = packing.padded(size, z.W) - size + z.W + vectors * whole.column_numbers(G, self.H)
        buffer = aligned_zeros((size + more,), self.dtype)
        width = packing.padded(self.I, NV * z.W)
        panels = buffer[size - G * self.H * width : size]
        sizes = (self.I, self.H, self.K, G, cell.sums(), cell.slots(), self.sizes.Hp, cell.projected)
        more = z.W + width * G * digits.numbers_of(self.H) if self.dx_by_digits else 0
        given = gradients.Panels(packing.readonly(panels), self.lanes(), *sizes, aligned((more,), self.dtype))
        both = self._net(buffer, self.back_lanes), given
        return Packed(table, buffer, size, aligned((MOVERS * room,), self.dtype), both)

    def _net(self, buffer: Array, lanes: type[isa.Lanes]) -> Any:
        return net_class(self.cell, lanes)(packing.readonly(buffer), self.I, self.H, self.K, 1)

    @functools.cached_property
    def _pack_forward(self) -> Order:
        return packing.pack_forward(self.cell, self.sizes, self.weights, self.I, self.H, self.K)

    @functools.cached_property
    def _pack_back(self) -> Order:
        return packing.pack_back(self.cell, self.sizes, self.weights, self.I, self.H, self.K)

    @functools.cached_property
    def unpack(self) -> Order:
        """Brings what is summed to where the gradients of the parameters lie."""
        return packing.unpack(self.cell, self._totals, self.weights, self.H)

    # What the loops work in: may be used again, for the same number of sequences.

    def forward_workspace(self, batch: int, choices: int = 0) -> tuple[Array, ...]:
        """For ``forward``; with so many rows that x is chosen from."""
        z, sums = self.sizes, self.cell.sums() * self.sizes.Hp
        item, work = self.dtype.itemsize, self.work_forward
        if self.in_bytes or self.by_digits:
            ahead = choices or cost.rows_of_digits(batch, sums * item, workers.most(MOST))
        else:
            ahead = choices or cost.rows_ahead(batch, self.I, work.numbers * item, sums * item)
        members = workers.most(min(MOST, batch * z.J)) if self.in_bytes or self.by_digits else 0
        of_rows = whole_step.room_size(1, self.K, batch) if self.in_bytes else 0
        of_inputs = inputs.room_size(self.I, ahead) if self.by_digits else 0
        return (
            aligned_zeros((2, batch, z.Kp), self.dtype),
            aligned_zeros((batch, self.E * z.Hp), self.dtype),
            aligned_zeros((batch, z.Hp if self.cell.projected else 0), self.dtype),
            aligned_zeros((members, of_rows), self.dtype),
            aligned((2, workers.most(self.sizes.J), max(batch, ahead)), np.int64),
            aligned((ahead, sums), self.dtype),
            aligned((members, of_inputs), self.dtype),
        )

    def backward_workspace(self, batch: int) -> tuple[Array, ...]:
        """For ``backward``."""
        z, members = self.sizes, 0
        if self.in_bytes:
            members = workers.most(min(MOST, batch * (z.Kp // (NV * z.W))))
        each = whole_step.room_size(len(self.cell.gates), self.H, batch) if members > 0 else 0
        return (
            aligned_zeros((batch, z.Kp), self.dtype),
            aligned_zeros((batch, self.E * z.Hp), self.dtype),
            aligned_zeros((batch, z.Mp if self.cell.projected else 0), self.dtype),
            aligned_zeros((members, each), self.dtype),
        )

    def gradients_workspace(self) -> Any:
        """For ``gradients``, of any number of sequences."""
        z, unit = self.sizes, self.lanes is isa.AMX
        chunk = slabs.chunk(self.lanes, z.W, self.dtype.itemsize)
        members = self.most_for_gradients()
        block = NV * z.W
        of_x, of_h, projected = (packing.padded(n, block) for n in (self.I, self.K, self.H))
        widest = max(of_x + of_h, projected)
        # For the digits of slabs and factors, or of some rows that dx comes of.
        dx_rows = chunk + digits.DEPTH * len(self.cell.gates) * digits.numbers_of(self.H)
        many = max(slabs.GROUP + widest // z.W, -(-dx_rows // (chunk // 2 * digits.DIGITS * z.W)))
        return gradients.Work(
            aligned_zeros((members, 6, chunk), np.int64),
            aligned((members, chunk, of_x), self.dtype),
            aligned_zeros((members, widest // z.W, chunk, z.W), self.dtype),
            aligned((members, slabs.GROUP, chunk, z.W), self.dtype),
            aligned((members, self.cell.sums() * z.Hp), self.dtype),
            aligned_zeros((max(self.I, self.K, self.H),), self.dtype),
            aligned((members, unit * many, chunk // 2 * digits.DIGITS * z.W), self.dtype),
            aligned((members, unit * (1 + 2 * slabs.GROUP), z.W), self.dtype),
        )

    def new_sums(self) -> Sums:
        """Memory to sum the gradients of the weights in."""
        vector = aligned((sum(map(math.prod, self._totals.values())),), self.dtype)
        return Sums(vector, gradients.Totals(**views(vector, self._totals)))

    def sums_of_choices(self, choices: int) -> tuple[Array, NDArray[np.int64]]:
        """Memory to sum what comes of each of so many rows that x is chosen from, not yet zero, and to find them."""
        firsts = aligned((self.most_for_gradients(), choices), np.int64)
        firsts.fill(-1)
        return aligned((2, choices, len(self.cell.gates) * self.sizes.Hp), self.dtype), firsts

    @functools.cached_property
    def _totals(self) -> Shapes:
        """What those consist of."""
        z, block = self.sizes, NV * self.sizes.W
        gates = len(self.cell.gates) * z.Hp
        projected = (packing.padded(self.K, z.W), z.Mp) if self.cell.projected else (0, 0)
        return {
            "w_ih": (2, gates, packing.padded(self.I, block)),
            "w_hh": (2, gates, z.Kp),
            "w_hr": (2, *projected),
            "bias": (2, self.cell.sums() * z.Hp),
        }

    @functools.cached_property
    def no_rooms(self) -> Array:
        """For moves that turn nothing."""
        return np.empty(0, self.dtype)

    @functools.cached_property
    def no_masks(self) -> Array:
        """For a pass in which h enters W_hh as it is."""
        return np.empty((0, 0, 0), self.dtype)

    # What there is to do.

    def _work(self, each: int, inputs: int, depth: int, lanes: type[isa.Lanes]) -> cost.Work:
        rows = len(self.cell.gates) * self.H
        units = rows + self.E * self.H
        return cost.Work(rows * each, rows * inputs, self.K, units, depth, self.dtype.itemsize, lanes)

    @functools.cached_property
    def work_forward(self) -> cost.Work:
        return self._work(self.I + self.K, self.I, self.sizes.J, self.forward_lanes)

    @functools.cached_property
    def work_back(self) -> cost.Work:
        return self._work(self.K, 0, self.sizes.Kp // (NV * self.sizes.W), self.back_lanes)

    @functools.cached_property
    def work_of_gradients(self) -> cost.Work:
        return self._work(2 * (self.I + self.K), 0, 1, self.lanes)

    def most_for_gradients(self) -> int:
        """Threads that would share the gradients of the weights."""
        most = cost.most_for_gradients(self.work_of_gradients)
        return most if most == 1 else min(most, workers.allowed(), MOST)
