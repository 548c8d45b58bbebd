"""Families of kernels for the loop over time, each behind the same two calls.

- ``Blocks``: one block of threads for each tile of sequences runs all steps; the weights stay in its registers.
- ``Spread``: all multiprocessors run all steps together; the weights stay in their registers, spread over them.
- ``Steps``: one product and one kernel for the formulas in each step.

Sums are added in an order that depends on the family, the cell, the dtype and H.  So which family a layer gets may
depend on these and on the device, but never on the batch: a sequence has the same bits in all batches.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from .._cells import Cell
from . import kernels, stepwise
from .plan import LARGEST, MOST_ROWS, Plan, by_gate
from .products import Matrix, Products
from .schedule import Schedule
from .spread import SpreadPlan


class Sequences(NamedTuple):
    """Numbers of sequences: those of time t and place b begin at ``t * time + b * batch`` and stand side by side."""

    data: Any  #: flat
    time: int
    batch: int


@dataclasses.dataclass
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
    masks : array
        (B, K): what h is multiplied by where it enters W_hh; or of size 0.
    places : array
        The schedule's, where there are masks.
    """

    schedule: Schedule
    arrays: tuple[Any, Any, Any, Any]
    before: Any
    y: Sequences
    h: Any
    masks: Any
    places: Any

    @property
    def masked(self) -> bool:
        """Whether there are masks."""
        return bool(self.masks.size)


class Family(Protocol):
    """What runs the loop over time."""

    def forward(self, run: Run, gx: Any, c: Any, saved: Any, keep: bool) -> tuple[Any, Any]:
        """Write y, and saved if ``keep``; gives the state after."""

    def backward(self, run: Run, dy: Sequences | None, dh: Any, dc: Any, saved: Any) -> tuple[Any, Any]:
        """Turn saved into gradients of sums; gives those for the state before."""


class Blocks:
    """One block for each tile of sequences: H up to ``plan.LARGEST``, no projection."""

    def __init__(self, products: Products, cell: type[Cell], w_hh: NDArray[Any], hidden_bias: Any, rows: int) -> None:
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
                self.w_forward, gx, self.hidden_bias, *run.arrays, run.masks, run.h, c, h_after, c_after, y.data, saved,
                *numbers,
            )  # fmt: skip
            machine.launch(
                kernels.forward_kernel(self.plan, keep, run.masked), (self.plan.blocks(schedule.batch),), data
            )
        return h_after, c_after

    def backward(self, run: Run, dy: Sequences | None, dh: Any, dc: Any, saved: Any) -> tuple[Any, Any]:
        machine, schedule = self.machine, run.schedule
        dh_before, dc_before = machine.empty(dh.size, self.plan.dtype), machine.empty(dc.size, self.plan.dtype)
        if schedule.batch:
            dy = dy or Sequences(self.none, 0, 0)
            numbers = (schedule.steps, schedule.batch, schedule.reverse, dy.time, dy.batch)
            data = (self.w_backward, dy.data, *run.arrays, run.masks, dh, dc, dh_before, dc_before, saved, *numbers)
            machine.launch(kernels.backward_kernel(self.plan, run.masked), (self.plan.blocks(schedule.batch),), data)
        return dh_before, dc_before


class Spread:
    """All multiprocessors together (``cooperative``): H up to ``spread.LARGEST_SPREAD``, no projection."""

    def __init__(self, products: Products, plan: SpreadPlan, w_hh: NDArray[Any], hidden_bias: Any) -> None:
        self.machine, self.products, self.hidden_bias, self.plan = products.machine, products, hidden_bias, plan
        self.w_forward = self.machine.put(plan.pack_forward(w_hh))
        self.w_backward = self.machine.put(plan.pack_backward(w_hh))

    def _plan(self, batch: int) -> SpreadPlan:
        """With no more sequences in a tile than there are; that changes no bits."""
        most = 1 if batch == 1 else 2 if batch == 2 else MOST_ROWS
        return dataclasses.replace(self.plan, rows=min(most, self.plan.rows))

    def _counter(self) -> Any:
        counter = self.machine.empty(1, np.dtype(np.int64))
        self.machine.zero(counter)
        return counter

    def forward(self, run: Run, gx: Any, c: Any, saved: Any, keep: bool) -> tuple[Any, Any]:
        schedule, y = run.schedule, run.y
        starts, _, order, cuts = run.arrays
        c_after = self.products.copy(c)
        if schedule.rows:
            plan = self._plan(schedule.batch)
            now = self.machine.put(schedule.offsets(y.time, y.batch))
            data = (
                self.w_forward, gx, self.hidden_bias, starts, order, cuts, y.data, run.before, now, run.h, run.masks,
                c_after, saved, self._counter(), schedule.steps,
            )  # fmt: skip
            self.machine.launch(kernels.cooperative_kernel(plan, keep, run.masked), (plan.forward.blocks,), data)
        return _finish(self.products, run, self.plan.H), c_after

    def backward(self, run: Run, dy: Sequences | None, dh: Any, dc: Any, saved: Any) -> tuple[Any, Any]:
        schedule, products = run.schedule, self.products
        starts, _, order, cuts = run.arrays
        dh, dc = products.copy(dh), products.copy(dc)
        if schedule.rows:
            plan = self._plan(schedule.batch)
            given = products.none if dy is None else dy.data
            from_dy = products.no_index if dy is None else self.machine.put(schedule.offsets(dy.time, dy.batch))
            data = (
                self.w_backward, given, from_dy, starts, order, cuts, run.masks, dh, dc, saved, self._counter(),
                schedule.steps,
            )  # fmt: skip
            self.machine.launch(kernels.cooperative_back_kernel(plan, run.masked), (plan.backward.blocks,), data)
        return dh, dc


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
        self.machine.launch(kernel, (-(-numbers // stepwise.THREADS),), data)

    def _other(self, name: str) -> kernels.Kernel:
        return kernels.other_step_kernel(name, self.dtype)

    def forward(self, run: Run, gx: Any, c: Any, saved: Any, keep: bool) -> tuple[Any, Any]:
        machine, schedule, products, H, K, y = self.machine, run.schedule, self.products, self.H, self.K, run.y
        _, _, order, cuts = run.arrays
        now = machine.put(schedule.offsets(y.time, y.batch))
        sums = machine.empty(schedule.batch * self.width, self.dtype)
        room = machine.empty(schedule.batch * K if run.masked else 0, self.dtype)
        m = machine.empty(schedule.batch * H if self.cell.projected else 0, self.dtype)
        c_after = products.copy(c)
        kernel = kernels.step_kernel(self.cell, self.dtype, keep)
        for first, count in schedule.each():
            fed = Matrix(y.data, 0, run.before, first)
            if run.masked:
                fed = feed(products, run, K, first, count, room)
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
        return _finish(products, run, K), c_after

    def backward(self, run: Run, dy: Sequences | None, dh: Any, dc: Any, saved: Any) -> tuple[Any, Any]:
        machine, schedule, products, cell, H, K = self.machine, run.schedule, self.products, self.cell, self.H, self.K
        _, _, order, cuts = run.arrays
        row = cell.slots() * H
        given = products.none if dy is None else dy.data
        from_dy = products.no_index if dy is None else machine.put(schedule.offsets(dy.time, dy.batch))
        to_before = machine.put(schedule.places_before(K))
        dh, dc = products.copy(dh), products.copy(dc)
        dm = machine.empty(schedule.batch * H if cell.projected else 0, self.dtype)
        through = machine.empty(schedule.batch * K if run.masked else 0, self.dtype)
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
            into, sizes = Matrix(dh, 0, to_before, first), (count, K, self.width)
            if run.masked:
                products.multiply(dsums, Matrix(self.w_hh, K), Matrix(through, K), sizes)
                self._launch(self._other("add_masked"), count * K, through, run.masks, cuts, order, dh, K, first, count)
            else:
                products.multiply(dsums, Matrix(self.w_hh, K), into, sizes, add=True)
        return dh, dc


def feed(products: Products, run: Run, K: int, first: int, count: int, into: Any) -> Matrix:
    """What enters W_hh in the steps of some rows: h with masks."""
    grid = (-(-count * K // stepwise.THREADS),)
    kernel = kernels.other_step_kernel("feed", products.dtype)
    data = (run.y.data, run.before, run.h, run.masks, run.places, into, K, first, count)
    products.machine.launch(kernel, grid, data)
    return Matrix(into, K)


def _finish(products: Products, run: Run, K: int) -> Any:
    """Zeros where y is past a sequence's end; gives the h after each one's last step."""
    machine, schedule, y = products.machine, run.schedule, run.y
    _, lengths, order, _ = run.arrays
    h_after = machine.empty(run.h.size, products.dtype)
    if schedule.batch:
        numbers = (K, schedule.steps, schedule.batch, schedule.reverse, y.time, y.batch)
        grid = (-(-schedule.batch * K // stepwise.THREADS),)
        kernel = kernels.other_step_kernel("finish", products.dtype)
        machine.launch(kernel, grid, (y.data, run.h, lengths, order, h_after, *numbers))
    return h_after


def choose(
    products: Products,
    cell: type[Cell],
    w_hh: NDArray[Any],
    hidden_bias: Any,
    w_hr: NDArray[Any] | None,
    rows: int,
    family: str | None = None,
) -> Family:
    """The family of a layer and direction; ``family`` may name one: "blocks", "spread" or "steps".

    By a count on paper; nobody has measured it.  One block holds the weights of H <= 128, and its steps cost a barrier
    of its own: nothing is quicker.  Beyond, a step costs a barrier of all blocks (1 to 2 µs) where weights fit the
    registers and shared memory of all multiprocessors, against two launches (5 to 8 µs) of which the product reads all
    weights again.
    """
    machine, H = products.machine, w_hh.shape[1]
    plan = SpreadPlan.of(cell, products.dtype, H, machine.processors, machine.cc, rows)
    if family is None:
        family = "blocks" if H <= LARGEST and not cell.projected else "steps" if plan is None else "spread"
    if family == "blocks":
        return Blocks(products, cell, w_hh, hidden_bias, rows)
    if family == "spread":
        if plan is None:
            raise ValueError(f"a device of {machine.processors} multiprocessors can't hold the weights of H = {H}")
        return Spread(products, plan, w_hh, hidden_bias)
    return Steps(products, cell, w_hh, hidden_bias, w_hr)
