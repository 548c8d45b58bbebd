"""Families of kernels for the loop over time, each behind the same two calls.

- ``Blocks``: one block of threads for each tile of sequences runs all steps; the weights stay in its registers.
- ``Steps``: one product and one kernel for the formulas in each step.

Sums are added in an order that depends on the family, the cell, the dtype and H.  So which family a layer gets may
depend on these and on the device, but never on the batch: a sequence has the same bits in all batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from .._cells import Cell
from . import kernels, stepwise
from .machine import Machine
from .plan import LARGEST, Plan, by_gate
from .products import Matrix, Products
from .schedule import Schedule


class Sequences(NamedTuple):
    """Numbers of sequences: those of time t and place b begin at ``t * time + b * batch`` and stand side by side."""

    data: Any  #: flat
    time: int
    batch: int


@dataclass
class Run:
    """Sequences that are run: what is known of them before the loop, where the machine wants it.

    Attributes
    ----------
    schedule : Schedule
    arrays : tuple
        Its starts, lengths, order and cuts.
    before : array
        Where h before the step of each row is: ``Schedule.offsets_before`` of y.
    y : Sequences
    h : array
        (B, K): the state before.
    """

    schedule: Schedule
    arrays: tuple[Any, Any, Any, Any]
    before: Any
    y: Sequences
    h: Any


class Family(Protocol):
    """What runs the loop over time."""

    def forward(self, run: Run, gx: Any, c: Any, saved: Any, keep: bool) -> tuple[Any, Any]:
        """Write y, and saved if ``keep``; gives the state after."""

    def backward(self, run: Run, dy: Sequences | None, dh: Any, dc: Any, saved: Any) -> tuple[Any, Any]:
        """Turn saved into gradients of sums; gives those for the state before."""


class Blocks:
    """One block for each tile of sequences: H up to ``plan.LARGEST``, no projection."""

    def __init__(
        self, products: Products, cell: type[Cell], w_hh: NDArray[Any], hidden_bias: Any, rows: int
    ) -> None:
        self.machine, self.none, self.hidden_bias = products.machine, products.none, hidden_bias
        self.plan = plan = Plan(cell, products.dtype, w_hh.shape[1], rows)
        self.w_forward = self.machine.put(plan.pack_forward(w_hh))
        self.w_backward = self.machine.put(plan.pack_backward(w_hh))

    def forward(self, run: Run, gx: Any, c: Any, saved: Any, keep: bool) -> tuple[Any, Any]:
        machine, schedule, y = self.machine, run.schedule, run.y
        h_after, c_after = machine.empty(run.h.size, self.plan.dtype), machine.empty(c.size, self.plan.dtype)
        if schedule.batch:
            numbers = (schedule.steps, schedule.batch, schedule.reverse, y.time, y.batch)
            data = (
                self.w_forward, gx, self.hidden_bias, *run.arrays, run.h, c, h_after, c_after, y.data, saved, *numbers
            )  # fmt: skip
            machine.launch(kernels.forward_kernel(self.plan, keep), (self.plan.blocks(schedule.batch),), data)
        return h_after, c_after

    def backward(self, run: Run, dy: Sequences | None, dh: Any, dc: Any, saved: Any) -> tuple[Any, Any]:
        machine, schedule = self.machine, run.schedule
        dh_before, dc_before = machine.empty(dh.size, self.plan.dtype), machine.empty(dc.size, self.plan.dtype)
        if schedule.batch:
            dy = dy or Sequences(self.none, 0, 0)
            numbers = (schedule.steps, schedule.batch, schedule.reverse, dy.time, dy.batch)
            data = (self.w_backward, dy.data, *run.arrays, dh, dc, dh_before, dc_before, saved, *numbers)
            machine.launch(kernels.backward_kernel(self.plan), (self.plan.blocks(schedule.batch),), data)
        return dh_before, dc_before


class Steps:
    """A product and a kernel for the formulas in each step: any H, and projections."""

    def __init__(
        self, products: Products, cell: type[Cell], w_hh: NDArray[Any], hidden_bias: Any, w_hr: NDArray[Any] | None
    ) -> None:
        self.machine, self.products, self.cell, self.hidden_bias = products.machine, products, cell, hidden_bias
        self.dtype, self.H, self.K = products.dtype, len(w_hh) // len(cell.gates), w_hh.shape[1]
        self.width = len(w_hh)
        self.w_hh = self.machine.put(by_gate(cell, w_hh, cell.of_hidden()))
        self.w_hr = None if w_hr is None else self.machine.put(w_hr)

    def _launch(self, kernel: kernels.Kernel, numbers: int, *data: Any) -> None:
        if numbers:
            self.machine.launch(kernel, (-(-numbers // stepwise.THREADS),), data)

    def _other(self, name: str) -> kernels.Kernel:
        return kernels.other_step_kernel(name, self.dtype)

    def _copy(self, array: Any) -> Any:
        made = self.machine.empty(array.size, self.dtype)
        self.machine.copy(made, array)
        return made

    def forward(self, run: Run, gx: Any, c: Any, saved: Any, keep: bool) -> tuple[Any, Any]:
        machine, schedule, products, H, K, y = self.machine, run.schedule, self.products, self.H, self.K, run.y
        _, lengths, order, cuts = run.arrays
        now = machine.put(schedule.offsets(y.time, y.batch))
        sums = machine.empty(schedule.batch * self.width, self.dtype)
        m = machine.empty(schedule.batch * H if self.cell.projected else 0, self.dtype)
        c_after = self._copy(c)
        kernel = kernels.step_kernel(self.cell, self.dtype, keep)
        for first, count in schedule.each():
            fed = Matrix(y.data, 0, run.before, first)
            products.multiply(
                fed, Matrix(self.w_hh, K), Matrix(sums, self.width), (count, self.width, K), trans_b=True,
                second=(run.h, K),
            )  # fmt: skip
            own_y = products.none if self.cell.projected else y.data
            self._launch(
                kernel, count * H, gx, self.hidden_bias, sums, own_y, run.before, now, run.h, cuts, order, c_after, m,
                saved, H, first, count,
            )  # fmt: skip
            if self.cell.projected:
                into = Matrix(y.data, 0, now, first)
                products.multiply(Matrix(m, H), Matrix(self.w_hr, H), into, (count, K, H), trans_b=True)
        h_after = machine.empty(run.h.size, self.dtype)
        numbers = (K, schedule.steps, schedule.batch, schedule.reverse, y.time, y.batch)
        self._launch(self._other("finish"), schedule.batch * K, y.data, run.h, lengths, order, h_after, *numbers)
        return h_after, c_after

    def backward(self, run: Run, dy: Sequences | None, dh: Any, dc: Any, saved: Any) -> tuple[Any, Any]:
        machine, schedule, products, cell, H, K = self.machine, run.schedule, self.products, self.cell, self.H, self.K
        _, _, order, cuts = run.arrays
        row = cell.slots() * H
        given = products.none if dy is None else dy.data
        from_dy = products.no_index if dy is None else machine.put(schedule.offsets(dy.time, dy.batch))
        to_before = machine.put(schedule.places_before(K))
        dh, dc = self._copy(dh), self._copy(dc)
        dm = machine.empty(schedule.batch * H if cell.projected else 0, self.dtype)
        of_hidden = saved[(cell.sums() - len(cell.gates)) * H :]
        of_projection = saved[cell.slot_projection() * H :] if cell.projected else None
        kernel = kernels.step_back_kernel(cell, self.dtype)
        for first, count in reversed(schedule.each()):
            if cell.projected:
                self._launch(
                    self._other("take_gradients"), count * K, given, from_dy, order, dh, of_projection, row, K, first,
                    count,
                )  # fmt: skip
                yielded = Matrix(of_projection, row, None, first)
                products.multiply(yielded, Matrix(self.w_hr, H), Matrix(dm, H), (count, H, K))
            self._launch(kernel, count * H, given, from_dy, dm, cuts, order, dh, dc, saved, H, first, count)
            dsums = Matrix(of_hidden, row, None, first)
            products.multiply(
                dsums, Matrix(self.w_hh, K), Matrix(dh, 0, to_before, first), (count, K, self.width), add=True
            )
        return dh, dc


def choose(
    products: Products,
    cell: type[Cell],
    w_hh: NDArray[Any],
    hidden_bias: Any,
    w_hr: NDArray[Any] | None,
    rows: int,
    family: str | None = None,
) -> Family:
    """The family of a layer and direction; ``family`` may name one, "blocks" or "steps"."""
    if family is None:
        family = "blocks" if w_hh.shape[1] <= LARGEST and not cell.projected else "steps"
    if family == "blocks":
        return Blocks(products, cell, w_hh, hidden_bias, rows)
    return Steps(products, cell, w_hh, hidden_bias, w_hr)
