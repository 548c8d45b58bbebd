"""One layer in one direction on the CPU: its packed weights, its workspaces, its compiled loops."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numba import from_dtype, typeof, types
from numpy.typing import NDArray

from .._cells import GRU, LSTM, Cell, LSTMProjected, RNNRelu, RNNTanh
from .._kernel import cached, compiled
from .._memory import aligned, aligned_zeros
from .._nets import net_class
from . import backward as _backward
from . import cost, isa, packing, workers
from . import dropout as _dropout
from . import forward as _forward
from . import gradients as _gradients
from .schedule import When
from .team import CALLER, MOST, Seat, Team
from .tiles import NV

Array = NDArray[Any]

# Types: arrays of the user's may have any layout and be read-only; workspaces are ours.


def any_array(dtype: np.dtype[Any], dimensions: int, readonly: bool = True) -> Any:
    return types.Array(from_dtype(dtype), dimensions, "A", readonly=readonly)


def own_array(dtype: Any, dimensions: int) -> Any:
    return types.Array(from_dtype(np.dtype(dtype)), dimensions, "C")


def named(cls: Any, *fields: Any) -> Any:
    return types.NamedTuple(fields, cls)


_ORDER = own_array(np.int64, 1)
_WHEN = named(When, *[types.int64] * 3, types.boolean, _ORDER, _ORDER, any_array(np.dtype(np.bool_), 2))
_SEAT, _TEAM = types.NamedUniTuple(types.int64, 4, Seat), types.NamedUniTuple(types.int64, 4, Team)


def net_type(cell: type[Cell], dtype: np.dtype[Any], lanes: type[isa.Lanes]) -> Any:
    weights = types.Array(from_dtype(dtype), 1, "C", readonly=True)
    return named(net_class(cell, lanes), weights, *[types.int64] * 4)


@cached
def forward_kernel(cell: type[Cell], dtype: np.dtype[Any], lanes: type[isa.Lanes], keep: bool) -> Callable[..., None]:
    """The compiled ``forward`` that keeps what ``backward`` needs, or the one that doesn't."""
    x, state, work = any_array(dtype, 3), any_array(dtype, 2, False), own_array(dtype, 2)
    saved = work if keep else types.none
    return compiled(
        _forward.forward,
        (
            _SEAT,
            _TEAM,
            net_type(cell, dtype, lanes),
            _WHEN,
            x,
            any_array(dtype, 3, False),
            state,
            state,
            own_array(dtype, 3),
            saved,
            own_array(dtype, 3),
            work,
            work,
            own_array(np.int64, 2),
            work,
        ),
    )


@cached
def backward_kernel(cell: type[Cell], dtype: np.dtype[Any], lanes: type[isa.Lanes]) -> Callable[..., None]:
    """The compiled ``backward``."""
    state, masks, work = any_array(dtype, 2, False), own_array(dtype, 3), own_array(dtype, 2)
    dy, net = any_array(dtype, 3), net_type(cell, dtype, lanes)
    return compiled(_backward.backward, (_SEAT, _TEAM, net, _WHEN, dy, state, state, masks, work, work, work, work))


@cached
def gradients_kernel(dtype: np.dtype[Any], lanes: type[isa.Lanes]) -> Callable[..., None]:
    """The compiled ``gradients``: the same for all cells."""
    x, work = any_array(dtype, 3), own_array(dtype, 2)
    weights = types.Array(from_dtype(dtype), 1, "C", readonly=True)
    panels = named(_gradients.Panels, weights, typeof(lanes()), *[types.int64] * 7, types.boolean)
    sums = own_array(dtype, 3)
    totals = named(_gradients.Totals, sums, sums, sums, work)
    tables, zeros = own_array(np.int64, 3), own_array(dtype, 1)
    rooms = named(_gradients.Work, tables, sums, own_array(dtype, 4), sums, work, zeros)
    steps, state, dx = [types.int64] * 3, any_array(dtype, 2), any_array(dtype, 3, False)
    return compiled(
        _gradients.gradients,
        (_SEAT, _TEAM, panels, _WHEN, *steps, x, x, state, sums, dx, types.boolean, work, totals, rooms),
    )


@cached
def dropout_kernel(dtype: np.dtype[Any]) -> Callable[..., None]:
    """The compiled ``dropout``."""
    word = types.uint64
    return compiled(
        _dropout.dropout,
        (any_array(dtype, 3), any_array(dtype, 3, False), word, word, word, from_dtype(dtype), word, types.int64),
    )


# Made now, so that a cache index of users' functions which names them can be read.
for _cell in (RNNTanh, RNNRelu, GRU, LSTM, LSTMProjected):
    net_class(_cell, isa.current())


class Unit:
    """One layer in one direction, as of the moment its weights were packed.

    Parameters
    ----------
    cell : type of Cell
    weights : mapping of arrays
        torch's weight_ih (G*H, I), weight_hh (G*H, K), and where there are any bias_ih, bias_hh (G*H,) and weight_hr
        (K, H).  Must not change while the unit is used.
    """

    def __init__(self, cell: type[Cell], weights: Mapping[str, Array]) -> None:
        self.cell, self.weights = cell, weights
        w_ih, w_hh = weights["weight_ih"], weights["weight_hh"]
        self.dtype = w_ih.dtype
        self.I, self.K = w_ih.shape[1], w_hh.shape[1]
        self.H = w_hh.shape[0] // len(cell.gates)
        self.E = cell.extras()
        self.lanes = isa.current()
        self.sizes = packing.sizes(cell, packing.vector_numbers(self.lanes, self.dtype), self.I, self.H, self.K)

    # Packed when first needed: who never trains never pays for the way back.

    @functools.cached_property
    def net(self) -> Any:
        """Weights for ``forward``."""
        return packing.pack_forward(self.cell, self.lanes, self.weights, self.I, self.H, self.K)

    @functools.cached_property
    def net_back(self) -> Any:
        """Weights for ``backward``."""
        return packing.pack_backward(self.cell, self.lanes, self.weights, self.I, self.H, self.K)

    @functools.cached_property
    def panels(self) -> Any:
        """Weights for ``gradients``."""
        cell = self.cell
        return _gradients.Panels(
            packing.pack_input(cell, self.lanes, self.weights["weight_ih"], self.H),
            self.lanes(),
            self.I,
            self.H,
            self.K,
            len(cell.gates),
            cell.sums(),
            cell.slots(),
            self.sizes.Hp,
            cell.projected,
        )

    def saved_shape(self, rows: int) -> tuple[int, int]:
        """Shape of what ``forward`` keeps for that many steps of sequences."""
        return rows, self.cell.slots() * self.sizes.Hp

    # What the loops work in: may be used again, for the same number of sequences.

    def forward_workspace(self, batch: int) -> tuple[Array, ...]:
        """For ``forward``."""
        z, sums = self.sizes, self.cell.sums() * self.sizes.Hp
        item, work = self.dtype.itemsize, self._work_forward
        ahead = cost.rows_ahead(batch, self.I, work.numbers * item, sums * item)
        return (
            aligned_zeros((2, batch, z.Kp), self.dtype),
            aligned_zeros((batch, self.E * z.Hp), self.dtype),
            aligned_zeros((batch, z.Hp if self.cell.projected else 0), self.dtype),
            aligned((workers.most(self.sizes.J), max(batch, ahead)), np.int64),
            aligned((ahead, sums), self.dtype),
        )

    def backward_workspace(self, batch: int) -> tuple[Array, ...]:
        """For ``backward``."""
        z = self.sizes
        return (
            aligned_zeros((batch, z.Kp), self.dtype),
            aligned_zeros((batch, self.E * z.Hp), self.dtype),
            aligned_zeros((batch, z.Mp if self.cell.projected else 0), self.dtype),
        )

    def gradients_workspace(self) -> Any:
        """For ``gradients``, of any number of sequences."""
        z, chunk = self.sizes, _gradients.CHUNK
        members = self._plan_of_gradients(1).members
        block = NV * z.W
        widest = packing.padded(max(self.I, self.K, self.H if self.cell.projected else 0), block)
        return _gradients.Work(
            aligned_zeros((members, 6, chunk), np.int64),
            aligned((members, chunk, packing.padded(self.I, block)), self.dtype),
            aligned_zeros((members, widest // z.W, chunk, z.W), self.dtype),
            aligned((members, chunk, z.W), self.dtype),
            aligned((members, self.cell.sums() * z.Hp), self.dtype),
            aligned_zeros((self.K,), self.dtype),
        )

    @functools.cached_property
    def no_masks(self) -> Array:
        """For a pass in which h enters W_hh as it is."""
        return np.empty((0, 0, 0), self.dtype)

    def masks(self, batch: int, p: float, key: tuple[int, int], layer: int, direction: int) -> Array:
        """What h is multiplied by where it enters W_hh, and the room that ``forward`` wants beside it."""
        masks = aligned_zeros((3, batch, self.sizes.Kp), self.dtype)
        own = masks[:1, :, : self.K]
        own.fill(1)
        _drop(own, own, p, key, _dropout.RECURRENT, layer, direction, 0)
        return masks

    # How work is shared, and cut into pieces between which Python looks for an interrupt.

    def _work(self, each: int, inputs: int, depth: int) -> cost.Work:
        rows = len(self.cell.gates) * self.H
        units = rows + self.E * self.H
        return cost.Work(rows * each, rows * inputs, self.K, units, depth, self.dtype.itemsize, self.lanes)

    @functools.cached_property
    def _work_forward(self) -> cost.Work:
        return self._work(self.I + self.K, self.I, self.sizes.J)

    @functools.cached_property
    def _work_back(self) -> cost.Work:
        return self._work(self.K, 0, self.sizes.Kp // (NV * self.sizes.W))

    def _plan_of_gradients(self, rows: int) -> cost.Plan:
        work = self._work(2 * (self.I + self.K), 0, 1)
        return cost.plan_of_gradients(work, rows, min(workers.allowed(), MOST))

    def _pieces(self, when: When, plan: cost.Plan, counts: list[int]) -> Iterator[tuple[When, slice, slice]]:
        """(when, steps, rows saved) of pieces of so many steps, in the order they are run forward."""
        for first in range(when.first, when.last, plan.rows):
            row, start = 0, sum(counts) if when.reverse else 0
            for count in counts:
                start -= count * when.reverse
                part = when._replace(t0=when.t0 + start, first=first, last=min(first + plan.rows, when.last))
                rows = int(np.clip(part.lengths - part.t0, 0, count).sum())
                yield part, slice(start, start + count), slice(row, row + rows)
                row, start = row + rows, start + count * (not when.reverse)

    def forward(
        self,
        when: When,
        x: Array,
        y: Array,
        h: Array,
        c: Array,
        masks: Array,
        saved: Array | None,
        workspace: tuple[Array, ...],
    ) -> None:
        """See ``_cpu.forward.forward``; x and y are copied if their inner axis isn't contiguous."""
        run = forward_kernel(self.cell, self.dtype, self.lanes, saved is not None)
        net, x, out = self.net, readable(x), writeable(y)
        plan = cost.plan(self._work_forward, len(when.order), workers.allowed())
        alone = workers.rouse(plan, len(x))
        if alone == 0 and plan.holds(len(when.order), len(x)):
            run(CALLER, workers.team(plan, len(x)), net, when, x, out, h, c, masks, saved, *workspace)
        else:
            with workers.Sharing(plan, alone) as sharing:
                for part, now, rows in self._pieces(when, plan, cost.cuts(plan, len(x), alone)):
                    team = sharing.team(now.stop - now.start)
                    keep = None if saved is None else saved[rows]
                    run(CALLER, team, net, part, x[now], out[now], h, c, masks, keep, *workspace)
        if out is not y:
            y[...] = out

    def backward(
        self,
        when: When,
        dy: Array,
        dh: Array,
        dc: Array,
        masks: Array,
        saved: Array,
        workspace: tuple[Array, ...],
    ) -> None:
        """See ``_cpu.backward.backward``."""
        run = backward_kernel(self.cell, self.dtype, self.lanes)
        net, dy = self.net_back, readable(dy)
        plan = cost.plan(self._work_back, len(when.order), workers.allowed())
        alone = workers.rouse(plan, len(dy))
        if alone == 0 and plan.holds(len(when.order), len(dy)):
            run(CALLER, workers.team(plan, len(dy)), net, when, dy, dh, dc, masks, saved, *workspace)
        else:
            counts = cost.cuts(plan, len(dy), alone)[::-1]
            with workers.Sharing(plan, alone) as sharing:
                for part, now, rows in reversed(list(self._pieces(when, plan, counts))):
                    team = sharing.team(now.stop - now.start)
                    run(CALLER, team, net, part, dy[now], dh, dc, masks, saved[rows], *workspace)

    def gradients(
        self,
        when: When,
        x: Array,
        y: Array,
        h: Array,
        masks: Array,
        dx: Array,
        add: bool,
        saved: Array,
        totals: Any,
        work: Any,
    ) -> None:
        """See ``_cpu.gradients.gradients``; y and dx must be contiguous in their inner axes."""
        run = gradients_kernel(self.dtype, self.lanes)
        panels, x = self.panels, readable(x)
        plan = self._plan_of_gradients(len(when.order))
        # Threads may have been allowed since the rooms were made.
        plan = plan._replace(members=min(plan.members, len(work.tables)))
        done = row = 0
        # Where these are cut must not depend on threads: the last bits of a sum depend on it.
        with workers.Sharing(plan, 0) as sharing:
            for now in cost.cuts(plan, len(x), 0):
                team = sharing.team(now)
                run(CALLER, team, panels, when, done, done + now, row, x, y, h, masks, dx, add, saved, totals, work)
                if done + now < len(x):
                    start = len(x) - done - now if when.reverse else done
                    row += int(np.clip(when.lengths - when.t0 - start, 0, now).sum())
                done += now

    def new_totals(self) -> Any:
        """Zeros to sum the gradients of the weights in."""
        z, block = self.sizes, NV * self.sizes.W
        gates = len(self.cell.gates) * z.Hp
        projected = (packing.padded(self.K, z.W), z.Mp) if self.cell.projected else (0, 0)
        return _gradients.Totals(
            aligned_zeros((2, gates, packing.padded(self.I, block)), self.dtype),
            aligned_zeros((2, gates, z.Kp), self.dtype),
            aligned_zeros((2, *projected), self.dtype),
            aligned_zeros((2, self.cell.sums() * z.Hp), self.dtype),
        )

    @staticmethod
    def clear_totals(totals: Any) -> Any:
        """Zeros again."""
        for array in totals:
            array.fill(0)
        return totals

    def read_totals(self, totals: Any, to: Mapping[str, Array]) -> None:
        """Write gradients, named and shaped as ``weights``, from what has been summed."""
        packing.unpack(self.cell, totals, self.H, to)


def _plain(a: Array) -> bool:
    """Whether kernels can read and write its rows: contiguous and aligned."""
    return bool(a.flags.aligned and (a.strides[-1] == a.itemsize or a.shape[-1] <= 1))


def readable(x: Array) -> Array:
    """x, or a copy of it, such that kernels can read its rows."""
    return x if _plain(x) else np.require(x, requirements=("C", "A"))


def writeable(y: Array) -> Array:
    """y, or a new array of its shape, such that kernels can write its rows."""
    return y if _plain(y) else np.empty(y.shape, y.dtype)


def draw_key(rng: np.random.Generator) -> tuple[int, int]:
    """The key of a pass with dropout: all that is ever drawn for it."""
    low, high = rng.integers(0, 2**32, 2)
    return int(low), int(high)


def dropout(x: Array, p: float, key: tuple[int, int], kind: int, layer: int, directions: int, t0: int) -> Array:
    """x (steps, B, D * n) with numbers dropped with probability p, the others divided by 1 - p."""
    x, y = np.require(x, requirements="A"), np.empty(x.shape, x.dtype)
    n = x.shape[2] // directions
    for d in range(directions):
        part = slice(d * n, (d + 1) * n)
        _drop(x[:, :, part], y[:, :, part], p, key, kind, layer, d, t0)
    return y


def _drop(x: Array, y: Array, p: float, key: tuple[int, int], kind: int, layer: int, direction: int, t0: int) -> None:
    """y = x (steps, B, n) of one direction with numbers dropped."""
    run, scale = dropout_kernel(x.dtype), x.dtype.type(0 if p == 1 else 1 / (1 - p))
    run(x, y, key[0], key[1], round(p * 2**32), scale, kind << 24 | layer << 1 | direction, t0)
