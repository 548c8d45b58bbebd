"""One layer in one direction: its packed weights, and which kernels run with which arguments.

Where arrays are and who launches is the business of a ``Machine``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._cells import Cell
from . import kernels
from .machine import Machine
from .plan import MOST_ROWS, Plan
from .product import SUMMING, TILE
from .schedule import Schedule

Weights = Mapping[str, NDArray[Any]]


class Sequences(NamedTuple):
    """Numbers of sequences: those of time t and place b begin at ``t * time + b * batch`` and stand side by side."""

    data: Any  #: flat
    time: int
    batch: int


@dataclass
class Tape:
    """What ``Direction.forward`` leaves for the way back: references to x, y and h, and what it has saved."""

    schedule: Schedule
    arrays: tuple[Any, ...]  # the schedule's, where the machine wants them
    x: Sequences
    y: Sequences
    h: Any
    saved: Any


class Direction:
    """One layer in one direction.

    Parameters
    ----------
    machine : Machine
    cell : type of Cell
        Without a projection.
    weights : mapping of arrays
        torch's weight_ih (G*H, I), weight_hh (G*H, H), and where there are any bias_ih, bias_hh (G*H,).
    rows : {1, 2, 4}
        Sequences in a tile.
    chunk : int
        Rows that are summed by themselves in gradients of weights; more, if there were more than ``MOST_PARTS`` parts.
    """

    #: Parts of a gradient.
    MOST_PARTS = 64

    def __init__(
        self, machine: Machine, cell: type[Cell], weights: Weights, rows: int = MOST_ROWS, chunk: int = 256
    ) -> None:
        if cell.projected:
            raise NotImplementedError("no CUDA kernels for a projection yet")
        w_ih, w_hh = weights["weight_ih"], weights["weight_hh"]
        self.machine, self.cell, self.dtype, self.chunk = machine, cell, w_ih.dtype, chunk
        self.I, self.H, self.G, self.E = w_ih.shape[1], w_hh.shape[1], len(cell.gates), cell.extras()
        self.plan = plan = Plan(cell, self.dtype, self.H, rows)
        self.w_ih = machine.put(plan.by_gate(w_ih, cell.of_input()))
        self.w_forward = machine.put(plan.pack_forward(w_hh))
        self.w_backward = machine.put(plan.pack_backward(w_hh))
        bias, hidden_bias = self._biases(weights)
        self.bias, self.hidden_bias = machine.put(bias), machine.put(hidden_bias)
        self._no_index = machine.put(np.zeros(0, np.int64))
        self._none = machine.put(np.zeros(0, self.dtype))
        at = {gate: g * self.H for g, gate in enumerate(cell.gates)}
        units = np.arange(self.H)
        #: Row of torch's matrices for each of ours.
        self._rows_ih = np.concatenate([at[g] + units for g in cell.of_input()])
        self._rows_hh = np.concatenate([at[g] + units for g in cell.of_hidden()])

    def _biases(self, weights: Weights) -> tuple[NDArray[Any], NDArray[Any]]:
        """Those that join the inputs' sums (G, H), and those of the hidden halves of split gates."""
        cell = self.cell
        bias = np.zeros((self.G, self.H), self.dtype)
        apart = np.zeros((max(1, len(cell.split)), self.H), self.dtype)
        if "bias_ih" in weights:
            b_ih = self.plan.by_gate(weights["bias_ih"], cell.of_input())
            b_hh = self.plan.by_gate(weights["bias_hh"], cell.of_hidden())
            together = self.G - len(cell.split)
            bias += b_ih
            bias[self.G - together :] += b_hh[:together]
            apart[: len(cell.split)] = b_hh[together:]
        return bias, apart

    # Launches

    def _product(
        self,
        trans_a: bool,
        trans_b: bool,
        a: tuple[Any, Any, int],
        b: tuple[Any, Any, int],
        c: tuple[Any, Any, int],
        sizes: tuple[int, int, int],
        second: tuple[Any, int] | None = None,
        bias: Any = None,
        chunk: int | None = None,
        add: bool = False,
    ) -> None:
        """C = A B; each is (array, index or None, stride), sizes are M, N, K."""
        M, N, K = sizes
        if M == 0 or N == 0:
            return
        kernel = kernels.product_kernel(self.dtype, trans_a, trans_b)
        parts = 1 if chunk is None else self._parts(K, chunk)
        grid = (-(-M // TILE), -(-N // TILE), parts)

        def of(matrix: tuple[Any, Any, int]) -> tuple[Any, Any, int]:
            return matrix[0], self._no_index if matrix[1] is None else matrix[1], matrix[2]

        more = (self._none, 0) if second is None else second
        bias = self._none if bias is None else bias
        rest = (M, N, K, max(K, 1) if chunk is None else chunk, M * N, add)
        self.machine.launch(kernel, grid, (*of(a), *of(b), *more, bias, *of(c), *rest))

    def _parts(self, rows: int, chunk: int) -> int:
        return max(1, -(-rows // chunk))

    def _sum_parts(self, parts: Any, stride: int, count: int, rows: NDArray[Any], N: int) -> Any:
        """Parts added up, in a new array, with rows where torch has them."""
        out = self.machine.empty(len(rows) * N, self.dtype)
        grid = (-(-len(rows) * N // SUMMING),)
        index = self.machine.put(rows.astype(np.int64) * N)
        kernel = kernels.sum_parts_kernel(self.dtype)
        self.machine.launch(kernel, grid, (parts, stride, count, len(rows), N, out, index))
        return out

    def forward(
        self, schedule: Schedule, x: Sequences, y: Sequences, h: Any, c: Any, keep: bool
    ) -> tuple[Any, Any, Tape]:
        """Run all steps of x into y.

        h (B, H) and c (B, E * H) are the state before.  Returns the state after, and the tape: x, y and h must not
        change before ``backward``.
        """
        machine, rows, width = self.machine, schedule.rows, self.G * self.H
        arrays = tuple(machine.put(a) for a in (schedule.starts, schedule.lengths, schedule.order, schedule.cuts))
        gx = machine.empty(rows * width, self.dtype)
        offsets = machine.put(schedule.offsets(x.time, x.batch))
        self._product(
            False, True, (x.data, offsets, 0), (self.w_ih, None, self.I), (gx, None, width), (rows, width, self.I),
            bias=self.bias,
        )  # fmt: skip
        h_after, c_after = machine.empty(h.size, self.dtype), machine.empty(c.size, self.dtype)
        saved = machine.empty(rows * self.cell.slots() * self.H if keep else 0, self.dtype)
        if schedule.batch:
            kernel = kernels.forward_kernel(self.plan, keep)
            numbers = (schedule.steps, schedule.batch, schedule.reverse, y.time, y.batch)
            state = (h, c, h_after, c_after)
            data = (self.w_forward, gx, self.hidden_bias, *arrays, *state, y.data, saved, *numbers)
            machine.launch(kernel, (self.plan.blocks(schedule.batch),), data)
        return h_after, c_after, Tape(schedule, arrays, x, y, h, saved)

    def backward(
        self, tape: Tape, dy: Sequences | None, dh: Any, dc: Any, dx: Sequences, add: bool = False
    ) -> tuple[Any, Any, dict[str, Any]]:
        """Take ``forward`` back, using the tape up.

        dx is written (or added to) where sequences run.  Returns the gradients for the state before, and those of the
        weights, named and shaped as torch's.
        """
        machine, schedule, cell = self.machine, tape.schedule, self.cell
        rows, width, row = schedule.rows, self.G * self.H, cell.slots() * self.H
        dh_before, dc_before = machine.empty(dh.size, self.dtype), machine.empty(dc.size, self.dtype)
        if schedule.batch:
            dy = dy or Sequences(self._none, 0, 0)
            numbers = (schedule.steps, schedule.batch, schedule.reverse, dy.time, dy.batch)
            data = (self.w_backward, dy.data, *tape.arrays, dh, dc, dh_before, dc_before, tape.saved, *numbers)
            machine.launch(kernels.backward_kernel(self.plan), (self.plan.blocks(schedule.batch),), data)
        saved = tape.saved
        from_hidden = saved[(cell.sums() - self.G) * self.H :]
        to_x = machine.put(schedule.offsets(dx.time, dx.batch))
        self._product(
            False, False, (saved, None, row), (self.w_ih, None, self.I), (dx.data, to_x, 0), (rows, self.I, width),
            add=add,
        )  # fmt: skip

        chunk = self._chunk(rows)
        parts = self._parts(rows, chunk)
        of_x = machine.put(schedule.offsets(tape.x.time, tape.x.batch))
        of_h = machine.put(schedule.offsets_before(tape.y.time, tape.y.batch))
        gradients = {}
        for name, sums, (source, index), n, order, second in (
            ("weight_ih", saved, (tape.x.data, of_x), self.I, self._rows_ih, None),
            ("weight_hh", from_hidden, (tape.y.data, of_h), self.H, self._rows_hh, (tape.h, self.H)),
        ):
            total = machine.empty(parts * width * n, self.dtype)
            self._product(
                True, False, (sums, None, row), (source, index, 0), (total, None, n), (width, n, rows),
                second=second, chunk=chunk,
            )  # fmt: skip
            gradients[name] = self._sum_parts(total, width * n, parts, order, n)
        all_sums = cell.sums() * self.H
        total = machine.empty(parts * all_sums, self.dtype)
        grid = (-(-all_sums // SUMMING), parts)
        machine.launch(kernels.sum_rows_kernel(self.dtype), grid, (saved, row, rows, all_sums, chunk, total))
        gradients["bias_ih"] = self._sum_parts(total, all_sums, parts, self._rows_ih, 1)
        gradients["bias_hh"] = self._sum_parts(total[all_sums - width :], all_sums, parts, self._rows_hh, 1)
        return dh_before, dc_before, gradients

    def _chunk(self, rows: int) -> int:
        """Rows in a part: follows from the number of rows alone, so that bits do."""
        return max(self.chunk, -(-rows // self.MOST_PARTS))
