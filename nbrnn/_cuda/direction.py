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
from .families import Packed, Run, Sequences, State, Weights, all_rows, choose, feed
from .machine import Flat, Machine
from .placed import Placed
from .plan import MOST_ROWS, by_gate
from .products import Matrix, Products

__all__ = ["Direction", "Sequences", "State", "Tape"]


@dataclass
class Tape:
    """What ``Direction.forward`` leaves for the way back: references to x, y and the state, and what it has saved."""

    run: Run
    x: Sequences
    saved: Any


class Direction:
    """One layer in one direction.

    Parameters
    ----------
    machine : Machine
    cell : type of Cell
    shapes : mapping of tuples
        Of torch's weight_ih (G*H, I), weight_hh (G*H, K), and where there are any bias_ih, bias_hh (G*H,), weight_hr
        (K, H).
    dtype : dtype
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
        shapes: Mapping[str, tuple[int, ...]],
        dtype: np.dtype[Any],
        rows: int = MOST_ROWS,
        chunk: int = 256,
        family: str | None = None,
    ) -> None:
        self.machine, self.cell, self.dtype = machine, cell, dtype
        self.G, self.E, self.has_bias = len(cell.gates), cell.extras(), "bias_ih" in shapes
        (width, self.I), (_, self.K) = shapes["weight_ih"], shapes["weight_hh"]
        self.H = width // self.G
        self.products = Products(machine, dtype, chunk)
        self.family = choose(self.products, cell, self.H, self.K, rows, family)
        self._no_bias = machine.put(np.zeros(max(1, len(cell.split)) * self.H, dtype))
        self._into = {name: machine.put(at) for name, at in self._rows().items()}

    def _rows(self) -> dict[str, NDArray[np.int64]]:
        """Where each row of the gradients, gates in our order, begins in torch's arrays."""
        at = np.arange(self.G * self.H, dtype=np.int64).reshape(self.G, self.H)
        ih, hh = (
            np.concatenate([at[self.cell.gates.index(g)] for g in wanted])
            for wanted in (self.cell.of_input(), self.cell.of_hidden())
        )
        rows = {"weight_ih": ih * self.I, "weight_hh": hh * self.K, "bias_ih": ih, "bias_hh": hh}
        return rows | {"weight_hr": np.arange(self.K) * self.H}

    def pack(self, weights: Weights) -> dict[str, NDArray[Any]]:
        """Weights as kernels read them: numbers of torch's in other places, zeros, and sums of the two biases."""
        cell = self.cell
        packed = {"w_ih": by_gate(cell, weights["weight_ih"], cell.of_input()), **self.family.pack(weights)}
        if self.has_bias:
            b_ih = by_gate(cell, weights["bias_ih"], cell.of_input())
            b_hh = by_gate(cell, weights["bias_hh"], cell.of_hidden())
            together = self.G - len(cell.split)
            # Those of the hidden halves of split gates stay apart.
            b_ih[self.G - together :] += b_hh[:together]
            packed |= {"bias": b_ih, "hidden_bias": b_hh[together:] if cell.split else 0 * b_hh[:1]}
        return packed

    def forward(
        self,
        weights: Packed,
        schedule: Placed,
        x: Sequences,
        y: Sequences,
        state: State,
        after: State,
        keep: bool,
        masks: Any = None,
    ) -> Tape:
        """Run all steps of x into y, and write the state after.

        ``weights`` are arrays of the machine as ``pack`` makes them; h is multiplied by masks (B, K), if there are any,
        where it enters W_hh.  x, y, ``state`` and masks must not change before ``backward``.
        """
        rows, width = schedule.rows, self.G * self.H
        masks = self.products.none if masks is None else masks
        run = Run(weights if self.has_bias else {**weights, "hidden_bias": self._no_bias}, schedule, y, state, masks)
        gx = self.machine.empty(rows * width, self.dtype)
        self.products.multiply(
            all_rows(schedule, x), Matrix(weights["w_ih"], self.I), Matrix(gx, width), (rows, width, self.I),
            trans_b=True, bias=weights.get("bias"),
        )  # fmt: skip
        saved = self.machine.empty(rows * self.cell.slots() * self.H if keep else 0, self.dtype)
        self.family.forward(run, gx, saved, after, keep)
        return Tape(run, x, saved)

    def backward(
        self,
        tape: Tape,
        dy: Sequences | None,
        dstate: State,
        dx: Sequences,
        before: State,
        gradients: Mapping[str, Flat],
        add_x: bool = False,
        add: bool = False,
    ) -> None:
        """Take ``forward`` back, using the tape up.

        dx is written (or added to, if ``add_x``) where sequences run; ``before`` is written: gradients for the state
        before; and so are those of the weights, in arrays of torch's shapes, which are added to if ``add``.
        """
        run, cell, products, H, K = tape.run, self.cell, self.products, self.H, self.K
        schedule, saved = run.schedule, tape.saved
        rows, width, row = schedule.rows, self.G * H, cell.slots() * H
        self.family.backward(run, dy, dstate, saved, before)

        dsums, of_hidden = Matrix(saved, row), Matrix(saved[(cell.sums() - self.G) * H :], row)
        into = {name: Matrix(array, 0, self._into[name]) for name, array in gradients.items()}
        products.multiply(
            dsums, Matrix(run.weights["w_ih"], self.I), all_rows(schedule, dx), (rows, self.I, width), add=add_x
        )  # fmt: skip
        x, h = all_rows(schedule, tape.x), self._fed(run)
        products.gradient(dsums, x, rows, into["weight_ih"], (width, self.I), add=add)
        products.gradient(of_hidden, h, rows, into["weight_hh"], (width, K), second=(run.state.h, K), add=add)
        if self.has_bias:
            sums = cell.sums() * H
            wanted = [(0, width, into["bias_ih"]), (sums - width, sums, into["bias_hh"])]
            products.sum_rows(dsums, rows, sums, wanted, add)
        if cell.projected:
            yielded, projected = (Matrix(saved[q * H :], row) for q in (cell.slot_projection(), cell.slot_projected()))
            products.gradient(yielded, projected, rows, into["weight_hr"], (K, H), add=add)

    def _fed(self, run: Run) -> Matrix:
        """What entered W_hh in each step."""
        rows = run.schedule.rows
        if run.masked and rows:
            return feed(self.products, run, self.K, 0, rows, self.machine.empty(rows * self.K, self.dtype))
        return Matrix(run.y.data, 0, run.schedule.offsets_before(run.y))
