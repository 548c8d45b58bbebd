"""One layer in one direction on the CPU: its packed weights, its workspaces, its compiled loops."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numba import from_dtype, typeof, types
from numpy.typing import NDArray

from .._cells import GRU, LSTM, Cell, LSTMProjected, RNNRelu, RNNTanh
from .._kernel import cached, compiled
from .._memory import aligned, aligned_zeros
from .._nets import net_class
from . import backward as _backward
from . import dropout as _dropout
from . import forward as _forward
from . import gradients as _gradients
from . import isa, packing
from .schedule import When
from .tiles import NV

Array = NDArray[Any]

# Types: arrays of the user's may have any layout and be read-only; workspaces are ours.


def any_array(dtype: np.dtype[Any], dimensions: int, readonly: bool = True) -> Any:
    return types.Array(from_dtype(dtype), dimensions, "A", readonly=readonly)


def own_array(dtype: Any, dimensions: int) -> Any:
    return types.Array(from_dtype(np.dtype(dtype)), dimensions, "C")


def named(cls: Any, *fields: Any) -> Any:
    return types.NamedTuple(fields, cls)


_WHEN = named(
    When, types.int64, types.boolean, own_array(np.int64, 1), own_array(np.int64, 1), any_array(np.dtype(np.bool_), 2)
)


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
            net_type(cell, dtype, lanes),
            _WHEN,
            x,
            any_array(dtype, 3, False),
            state,
            state,
            saved,
            own_array(dtype, 3),
            work,
            work,
            own_array(np.int64, 1),
        ),
    )


@cached
def backward_kernel(cell: type[Cell], dtype: np.dtype[Any], lanes: type[isa.Lanes]) -> Callable[..., None]:
    """The compiled ``backward``."""
    state, work = any_array(dtype, 2, False), own_array(dtype, 2)
    return compiled(
        _backward.backward,
        (net_type(cell, dtype, lanes), _WHEN, any_array(dtype, 3), state, state, work, work, work, work),
    )


@cached
def gradients_kernel(dtype: np.dtype[Any], lanes: type[isa.Lanes]) -> Callable[..., None]:
    """The compiled ``gradients``: the same for all cells."""
    x, work = any_array(dtype, 3), own_array(dtype, 2)
    weights = types.Array(from_dtype(dtype), 1, "C", readonly=True)
    panels = named(_gradients.Panels, weights, typeof(lanes()), *[types.int64] * 7, types.boolean)
    sums = own_array(dtype, 3)
    totals = named(_gradients.Totals, sums, sums, sums, work)
    rooms = named(
        _gradients.Work,
        own_array(np.int64, 2),
        work,
        own_array(dtype, 3),
        work,
        own_array(dtype, 1),
        own_array(dtype, 1),
    )
    return compiled(
        _gradients.gradients,
        (panels, _WHEN, x, x, any_array(dtype, 2), any_array(dtype, 3, False), types.boolean, work, totals, rooms),
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
        z = self.sizes
        return (
            aligned_zeros((2, batch, z.Kp), self.dtype),
            aligned_zeros((batch, self.E * z.Hp), self.dtype),
            aligned_zeros((batch, z.Hp if self.cell.projected else 0), self.dtype),
            aligned((batch,), np.int64),
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
        block = NV * z.W
        widest = packing.padded(max(self.I, self.K, self.H if self.cell.projected else 0), block)
        return _gradients.Work(
            aligned((4, chunk), np.int64),
            aligned((chunk, packing.padded(self.I, block)), self.dtype),
            aligned_zeros((widest // z.W, chunk, z.W), self.dtype),
            aligned((chunk, z.W), self.dtype),
            aligned((self.cell.sums() * z.Hp,), self.dtype),
            aligned_zeros((self.K,), self.dtype),
        )

    def forward(
        self, when: When, x: Array, y: Array, h: Array, c: Array, saved: Array | None, workspace: tuple[Array, ...]
    ) -> None:
        """See ``_cpu.forward.forward``; x and y are copied if their inner axis isn't contiguous."""
        run = forward_kernel(self.cell, self.dtype, self.lanes, saved is not None)
        out = writeable(y)
        run(self.net, when, readable(x), out, h, c, saved, *workspace)
        if out is not y:
            y[...] = out

    def backward(self, when: When, dy: Array, dh: Array, dc: Array, saved: Array, workspace: tuple[Array, ...]) -> None:
        """See ``_cpu.backward.backward``."""
        run = backward_kernel(self.cell, self.dtype, self.lanes)
        run(self.net_back, when, readable(dy), dh, dc, saved, *workspace)

    def gradients(
        self, when: When, x: Array, y: Array, h: Array, dx: Array, add: bool, saved: Array, totals: Any, work: Any
    ) -> None:
        """See ``_cpu.gradients.gradients``; y and dx must be contiguous in their inner axes."""
        run = gradients_kernel(self.dtype, self.lanes)
        run(self.panels, when, readable(x), y, h, dx, add, saved, totals, work)

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
    run, scale = dropout_kernel(x.dtype), x.dtype.type(0 if p == 1 else 1 / (1 - p))
    for d in range(directions):
        part, place = slice(d * n, (d + 1) * n), kind << 24 | layer << 1 | d
        run(x[:, :, part], y[:, :, part], key[0], key[1], round(p * 2**32), scale, place, t0)
    return y
