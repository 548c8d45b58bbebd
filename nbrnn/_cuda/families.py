"""Families of kernels for the loop over time, each behind the same two calls.

- ``Blocks``: one block of threads for each tile of sequences runs all steps; the weights stay in its registers.
- ``Spread``: all multiprocessors run all steps together; the weights stay in their registers, spread over them.
- ``Steps``: one product and one kernel for the formulas in each step.

Sums are added in an order that depends on the family, the cell, the dtype and H.  So which family a layer gets may
depend on these and on the device, but never on the batch: a sequence has the same bits in all batches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from .._cells import Cell
from . import kernels, stepwise
from .placed import Placed
from .plan import LARGEST, MOST_ROWS, Plan, by_gate
from .products import Matrix, Products
from .spread import SpreadPlan

Weights = Mapping[str, NDArray[Any]]
#: Arrays of the machine by name.
Packed = Mapping[str, Any]


class Sequences(NamedTuple):
    """Numbers of sequences: those of time t and place b begin at ``t * time + b * batch`` and stand side by side."""

    data: Any  #: flat
    time: int
    batch: int


class State(NamedTuple):
    """h (B, K) and c (B, E * H), flat; or gradients for them."""

    h: Any
    c: Any


@dataclasses.dataclass
class Run:
    """Sequences that are run: what is known of them before the loop, where the machine wants it.

    Attributes
    ----------
    weights : mapping of arrays
        As packed at that time.
    schedule : Placed
    y : Sequences
    state : State
        Before.
    masks : array
        (B, K): what h is multiplied by where it enters W_hh; or of size 0.
    """

    weights: Packed
    schedule: Placed
    y: Sequences
    state: State
    masks: Any

    @property
    def masked(self) -> bool:
        """Whether there are masks."""
        return bool(self.masks.size)


class Family(Protocol):
    """What runs the loop over time."""

    def pack(self, weights: Weights) -> dict[str, NDArray[Any]]:
        """Weights as its kernels read them: numbers of torch's in other places, and zeros."""

    def forward(self, run: Run, gx: Any, saved: Any, after: State, keep: bool) -> None:
        """Write y and the state after, and saved if ``keep``."""

    def backward(self, run: Run, dy: Sequences | None, dstate: State, saved: Any, before: State) -> None:
        """Turn saved into gradients of sums; write the gradients for the state before."""


class Blocks:
    """One block for each tile of sequences: H up to ``plan.LARGEST``, no projection."""

    def __init__(self, products: Products, cell: type[Cell], H: int, rows: int) -> None:
        self.machine, self.none = products.machine, products.none
        self.plan = Plan(cell, products.dtype, H, rows)

    def pack(self, weights: Weights) -> dict[str, NDArray[Any]]:
        w_hh = weights["weight_hh"]
        return {"w_forward": self.plan.pack_forward(w_hh), "w_backward": self.plan.pack_backward(w_hh)}

    def forward(self, run: Run, gx: Any, saved: Any, after: State, keep: bool) -> None:
        when, weights, y = run.schedule, run.weights, run.y
        if when.batch:
            data = (
                weights["w_forward"], gx, weights["hidden_bias"], when.starts, when.lengths, when.order, when.cuts,
                run.masks, *run.state, *after, y.data, saved, when.steps, when.batch, when.reverse, y.time, y.batch,
            )  # fmt: skip
            kernel = kernels.forward_kernel(self.plan, keep, run.masked)
            self.machine.launch(kernel, (self.plan.blocks(when.batch),), data)

    def backward(self, run: Run, dy: Sequences | None, dstate: State, saved: Any, before: State) -> None:
        when = run.schedule
        if when.batch:
            dy = dy or Sequences(self.none, 0, 0)
            data = (
                run.weights["w_backward"], dy.data, when.starts, when.lengths, when.order, when.cuts,
                run.masks, *dstate, *before, saved, when.steps, when.batch, when.reverse, dy.time, dy.batch,
            )  # fmt: skip
            kernel = kernels.backward_kernel(self.plan, run.masked)
            self.machine.launch(kernel, (self.plan.blocks(when.batch),), data)


class Spread:
    """All multiprocessors together (``cooperative``): H up to ``spread.LARGEST_SPREAD``, no projection."""

    def __init__(self, products: Products, plan: SpreadPlan) -> None:
        self.machine, self.products, self.plan = products.machine, products, plan

    def pack(self, weights: Weights) -> dict[str, NDArray[Any]]:
        w_hh = weights["weight_hh"]
        return {"w_forward": self.plan.pack_forward(w_hh), "w_backward": self.plan.pack_backward(w_hh)}

    def _plan(self, batch: int) -> SpreadPlan:
        """With no more sequences in a tile than there are; that changes no bits."""
        most = 1 if batch == 1 else 2 if batch == 2 else MOST_ROWS
        return dataclasses.replace(self.plan, rows=min(most, self.plan.rows))

    def _counter(self) -> Any:
        counter = self.machine.empty(1, np.dtype(np.int64))
        self.machine.zero(counter)
        return counter

    def forward(self, run: Run, gx: Any, saved: Any, after: State, keep: bool) -> None:
        when, weights, y = run.schedule, run.weights, run.y
        self.machine.copy(after.c, run.state.c)
        if when.rows:
            plan = self._plan(when.batch)
            data = (
                weights["w_forward"], gx, weights["hidden_bias"], when.starts, when.order, when.cuts, y.data,
                when.offsets_before(y), when.offsets(y), run.state.h, run.masks, after.c, saved, self._counter(),
                when.steps,
            )  # fmt: skip
            self.machine.launch(kernels.cooperative_kernel(plan, keep, run.masked), (plan.forward.blocks,), data)
        _finish(self.products, run, self.plan.H, after.h)

    def backward(self, run: Run, dy: Sequences | None, dstate: State, saved: Any, before: State) -> None:
        when, products = run.schedule, self.products
        self.machine.copy(before.h, dstate.h)
        self.machine.copy(before.c, dstate.c)
        if when.rows:
            plan = self._plan(when.batch)
            given = products.none if dy is None else dy.data
            from_dy = products.no_index if dy is None else when.offsets(dy)
            data = (
                run.weights["w_backward"], given, from_dy, when.starts, when.order, when.cuts, run.masks, *before,
                saved, self._counter(), when.steps,
            )  # fmt: skip
            self.machine.launch(kernels.cooperative_back_kernel(plan, run.masked), (plan.backward.blocks,), data)


class Steps:
    """A product and a kernel for the formulas in each step: any H, and projections."""

    def __init__(self, products: Products, cell: type[Cell], H: int, K: int) -> None:
        self.machine, self.products, self.cell, self.dtype = products.machine, products, cell, products.dtype
        self.H, self.K, self.width = H, K, len(cell.gates) * H

    def pack(self, weights: Weights) -> dict[str, NDArray[Any]]:
        w_hh = by_gate(self.cell, weights["weight_hh"], self.cell.of_hidden())
        return {"w_hh": w_hh} | ({"w_hr": weights["weight_hr"]} if self.cell.projected else {})

    def _launch(self, kernel: kernels.Kernel, numbers: int, *data: Any) -> None:
        self.machine.launch(kernel, (-(-numbers // stepwise.THREADS),), data)

    def _other(self, name: str) -> kernels.Kernel:
        return kernels.other_step_kernel(name, self.dtype)

    def forward(self, run: Run, gx: Any, saved: Any, after: State, keep: bool) -> None:
        machine, when, products, weights, H, K = self.machine, run.schedule, self.products, run.weights, self.H, self.K
        y, h = run.y, run.state.h
        before, now = when.offsets_before(y), when.offsets(y)
        sums = machine.empty(when.batch * self.width, self.dtype)
        room = machine.empty(when.batch * K if run.masked else 0, self.dtype)
        m = machine.empty(when.batch * H if self.cell.projected else 0, self.dtype)
        machine.copy(after.c, run.state.c)
        kernel = kernels.step_kernel(self.cell, self.dtype, keep)
        for first, count in when.schedule.each():
            masked = run.masked
            fed = feed(products, run, K, first, count, room) if masked else _rows_of_step(run, K, first, before=True)
            products.multiply(
                fed, Matrix(weights["w_hh"], K), Matrix(sums, self.width), (count, self.width, K), trans_b=True,
                second=(h, K),
            )  # fmt: skip
            own_y = products.none if self.cell.projected else y.data
            self._launch(
                kernel, count * H, gx, weights["hidden_bias"], sums, own_y, before, now, h, when.cuts, when.order,
                after.c, m, saved, H, first, count,
            )  # fmt: skip
            if self.cell.projected:
                into = _rows_of_step(run, K, first, before=False)
                products.multiply(Matrix(m, H), Matrix(weights["w_hr"], H), into, (count, K, H), trans_b=True)
        _finish(products, run, K, after.h)

    def backward(self, run: Run, dy: Sequences | None, dstate: State, saved: Any, before: State) -> None:
        machine, when, products, cell, H, K = self.machine, run.schedule, self.products, self.cell, self.H, self.K
        weights, row = run.weights, cell.slots() * H
        given = products.none if dy is None else dy.data
        from_dy = products.no_index if dy is None else when.offsets(dy)
        dh, dc = before
        machine.copy(dh, dstate.h)
        machine.copy(dc, dstate.c)
        dm = machine.empty(when.batch * H if cell.projected else 0, self.dtype)
        through = machine.empty(when.batch * K if run.masked else 0, self.dtype)
        of_hidden = saved[(cell.sums() - len(cell.gates)) * H :]
        of_projection = saved[cell.slot_projection() * H :] if cell.projected else None
        kernel = kernels.step_back_kernel(cell, self.dtype)
        for first, count in reversed(when.schedule.each()):
            if cell.projected:
                self._launch(
                    self._other("take_gradients"), count * K, given, from_dy, when.order, dh, of_projection, row, K,
                    first, count,
                )  # fmt: skip
                yielded = Matrix(of_projection, row, None, first)
                products.multiply(yielded, Matrix(weights["w_hr"], H), Matrix(dm, H), (count, H, K))
            self._launch(kernel, count * H, given, from_dy, dm, when.cuts, when.order, dh, dc, saved, H, first, count)
            dsums = Matrix(of_hidden, row, None, first)
            w_hh, sizes = Matrix(weights["w_hh"], K), (count, K, self.width)
            if run.masked:
                products.multiply(dsums, w_hh, Matrix(through, K), sizes)
                self._launch(
                    self._other("add_masked"), count * K, through, run.masks, when.cuts, when.order, dh, K, first, count
                )
            else:
                into = Matrix(dh, 0, when.places_before(K), first) if when.alike is None else Matrix(dh, K)
                products.multiply(dsums, w_hh, into, sizes, add=True)


def all_rows(when: Placed, sequences: Sequences) -> Matrix:
    """What stands in Sequences for all rows: a stride apart if it can be, else where an index says."""
    if when.alike and not when.reverse and sequences.time == when.batch * sequences.batch:
        return Matrix(sequences.data, sequences.batch)
    return Matrix(sequences.data, 0, when.offsets(sequences))


def _rows_of_step(run: Run, K: int, first: int, before: bool) -> Matrix:
    """h of the step whose first row that is, or of the one ``before``: a stride apart if that can be, else by index."""
    when, y = run.schedule, run.y
    if when.alike is None:
        return Matrix(y.data, 0, when.offsets_before(y) if before else when.offsets(y), first)
    step = first // when.batch - before
    if step < 0:
        return Matrix(run.state.h, K)
    return Matrix(y.data[(when.alike - 1 - step if when.reverse else step) * y.time :], y.batch)


def feed(products: Products, run: Run, K: int, first: int, count: int, into: Any) -> Matrix:
    """What enters W_hh in the steps of some rows: h with masks."""
    grid, when, h = (-(-count * K // stepwise.THREADS),), run.schedule, run.state.h
    kernel = kernels.other_step_kernel("feed", products.dtype)
    data = (run.y.data, when.offsets_before(run.y), h, run.masks, when.places(1), into, K, first, count)
    products.machine.launch(kernel, grid, data)
    return Matrix(into, K)


def _finish(products: Products, run: Run, K: int, h_after: Any) -> None:
    """Zeros where y is past a sequence's end, and the h after each one's last step."""
    when, y = run.schedule, run.y
    if when.batch:
        numbers = (K, when.steps, when.batch, when.reverse, y.time, y.batch)
        kernel = kernels.other_step_kernel("finish", products.dtype)
        data = (y.data, run.state.h, when.lengths, when.order, h_after, *numbers)
        products.machine.launch(kernel, (-(-when.batch * K // stepwise.THREADS),), data)


def choose(products: Products, cell: type[Cell], H: int, K: int, rows: int, family: str | None = None) -> Family:
    """The family of a layer and direction; ``family`` may name one: "blocks", "spread" or "steps".

    By a count on paper; nobody has measured it.  One block holds the weights of H <= 128, and its steps cost a barrier
    of its own: nothing is quicker.  Beyond, a step costs a barrier of all blocks (1 to 2 µs) where weights fit the
    registers and shared memory of all multiprocessors, against two launches (5 to 8 µs) of which the product reads all
    weights again.
    """
    machine = products.machine
    plan = SpreadPlan.of(cell, products.dtype, H, machine.processors, machine.cc, rows)
    if family is None:
        family = "blocks" if H <= LARGEST and not cell.projected else "steps" if plan is None else "spread"
    if family == "blocks":
        return Blocks(products, cell, H, rows)
    if family == "spread":
        if plan is None:
            raise ValueError(f"a device of {machine.processors} multiprocessors can't hold the weights of H = {H}")
        return Spread(products, plan)
    return Steps(products, cell, H, K)
