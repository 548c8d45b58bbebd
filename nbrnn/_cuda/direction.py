"""One layer in one direction: its weights, and what is done once for all steps.

The loop over time is the business of a family of kernels (``families``); where arrays are and who launches, that of a
``Machine``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._cells import Cell
from .families import Run, Sequences, choose
from .machine import Machine
from .plan import MOST_ROWS, by_gate
from .products import Matrix, Products
from .schedule import Schedule

__all__ = ["Direction", "Sequences", "Tape"]

Weights = Mapping[str, NDArray[Any]]


@dataclass
class Tape:
    """What ``Direction.forward`` leaves for the way back: references to x, y and h, and what it has saved."""

    run: Run
    x: Sequences
    saved: Any


class Direction:
    """One layer in one direction.

    Parameters
    ----------
    machine : Machine
    cell : type of Cell
    weights : mapping of arrays
        torch's weight_ih (G*H, I), weight_hh (G*H, K), and where there are any bias_ih, bias_hh (G*H,), weight_hr
        (K, H).
    rows : {1, 2, 4}
        Most sequences in a tile.
    chunk : int
        Rows that are summed by themselves in gradients of weights; more, if there were more than
        ``Products.MOST_PARTS`` parts.
    family : str, optional
        Which kernels run the loop over time; None takes those that ``families.choose`` does.

    Attributes
    ----------
    I, H, K : int
        Sizes of inputs, of what each gate sees to, and of h: K is H without a projection.
    """

    def __init__(
        self,
        machine: Machine,
        cell: type[Cell],
        weights: Weights,
        rows: int = MOST_ROWS,
        chunk: int = 256,
        family: str | None = None,
    ) -> None:
        w_ih, w_hh = weights["weight_ih"], weights["weight_hh"]
        self.machine, self.cell, self.dtype = machine, cell, w_ih.dtype
        self.G, self.E = len(cell.gates), cell.extras()
        self.I, self.H, self.K = w_ih.shape[1], len(w_hh) // self.G, w_hh.shape[1]
        self.products = Products(machine, self.dtype, chunk)
        self.w_ih = machine.put(by_gate(cell, w_ih, cell.of_input()))
        bias, hidden_bias = self._biases(weights)
        self.bias = machine.put(bias)
        w_hr = weights["weight_hr"] if cell.projected else None
        self.family = choose(self.products, cell, w_hh, machine.put(hidden_bias), w_hr, rows, family)
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
            b_ih = by_gate(cell, weights["bias_ih"], cell.of_input())
            b_hh = by_gate(cell, weights["bias_hh"], cell.of_hidden())
            together = self.G - len(cell.split)
            bias += b_ih
            bias[self.G - together :] += b_hh[:together]
            apart[: len(cell.split)] = b_hh[together:]
        return bias, apart

    def forward(
        self, schedule: Schedule, x: Sequences, y: Sequences, h: Any, c: Any, keep: bool
    ) -> tuple[Any, Any, Tape]:
        """Run all steps of x into y.

        h (B, K) and c (B, E * H) are the state before.  Returns the state after, and the tape: x, y and h must not
        change before ``backward``.
        """
        machine, rows, width = self.machine, schedule.rows, self.G * self.H
        starts, lengths, order, cuts = (
            machine.put(a) for a in (schedule.starts, schedule.lengths, schedule.order, schedule.cuts)
        )
        before = machine.put(schedule.offsets_before(y.time, y.batch))
        run = Run(schedule, (starts, lengths, order, cuts), before, y, h)
        gx = machine.empty(rows * width, self.dtype)
        offsets = machine.put(schedule.offsets(x.time, x.batch))
        self.products.multiply(
            Matrix(x.data, 0, offsets), Matrix(self.w_ih, self.I), Matrix(gx, width), (rows, width, self.I),
            trans_b=True, bias=self.bias,
        )  # fmt: skip
        saved = machine.empty(rows * self.cell.slots() * self.H if keep else 0, self.dtype)
        h_after, c_after = self.family.forward(run, gx, c, saved, keep)
        return h_after, c_after, Tape(run, x, saved)

    def backward(
        self, tape: Tape, dy: Sequences | None, dh: Any, dc: Any, dx: Sequences, add: bool = False
    ) -> tuple[Any, Any, dict[str, Any]]:
        """Take ``forward`` back, using the tape up.

        dx is written (or added to) where sequences run.  Returns the gradients for the state before, and those of the
        weights, named and shaped as torch's.
        """
        machine, run, cell, products, H, K = self.machine, tape.run, self.cell, self.products, self.H, self.K
        schedule, saved = run.schedule, tape.saved
        rows, width, row = schedule.rows, self.G * H, cell.slots() * H
        dh_before, dc_before = self.family.backward(run, dy, dh, dc, saved)

        to_x = machine.put(schedule.offsets(dx.time, dx.batch))
        products.multiply(
            Matrix(saved, row), Matrix(self.w_ih, self.I), Matrix(dx.data, 0, to_x), (rows, self.I, width), add=add
        )
        of_x = machine.put(schedule.offsets(tape.x.time, tape.x.batch))
        of_hidden = Matrix(saved[(cell.sums() - self.G) * H :], row)
        gradients = {
            "weight_ih": products.gradient(
                Matrix(saved, row), Matrix(tape.x.data, 0, of_x), rows, self._rows_ih, self.I
            ),
            "weight_hh": products.gradient(
                of_hidden, Matrix(run.y.data, 0, run.before), rows, self._rows_hh, K, second=(run.h, K)
            ),
        }
        orders = self._rows_ih, self._rows_hh
        gradients["bias_ih"], gradients["bias_hh"] = products.sum_rows(
            Matrix(saved, row), rows, orders, cell.sums() * H
        )
        if cell.projected:
            yielded, projected = (Matrix(saved[q * H :], row) for q in (cell.slot_projection(), cell.slot_projected()))
            gradients["weight_hr"] = products.gradient(yielded, projected, rows, np.arange(K), H)
        return dh_before, dc_before, gradients
