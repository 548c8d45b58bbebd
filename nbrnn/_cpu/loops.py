"""The compiled loops of the CPU, for the types that they are called with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import from_dtype, typeof, types

from .._cells import GRU, LSTM, Cell, LSTMProjected, RNNRelu, RNNTanh
from .._kernel import cached, compiled
from .._nets import net_class
from . import backward as _backward
from . import dropout as _dropout
from . import dx as _dx
from . import forward as _forward
from . import gradients as _gradients
from . import inputs as _inputs
from . import isa
from . import whole_weights as _whole_weights
from .moves import move, move_together
from .schedule import When
from .team import Seat, Team, side_by_side

# Types: arrays of the user's may have any layout and be read-only; workspaces are ours.


def any_array(dtype: np.dtype[Any], dimensions: int, readonly: bool = True) -> Any:
    return types.Array(from_dtype(dtype), dimensions, "A", readonly=readonly)


def own_array(dtype: Any, dimensions: int) -> Any:
    return types.Array(from_dtype(np.dtype(dtype)), dimensions, "C")


def named(cls: Any, *fields: Any) -> Any:
    return types.NamedTuple(fields, cls)


_ORDER = own_array(np.int64, 1)
_WHEN = named(When, *[types.int64] * 3, types.boolean, _ORDER, _ORDER, any_array(np.dtype(np.bool_), 2))
SEAT, TEAM = types.NamedUniTuple(types.int64, 4, Seat), types.NamedUniTuple(types.int64, 4, Team)


def net_type(cell: type[Cell], dtype: np.dtype[Any], lanes: type[isa.Lanes]) -> Any:
    weights = types.Array(from_dtype(dtype), 1, "C", readonly=True)
    return named(net_class(cell, lanes), weights, *[types.int64] * 4)


@cached
def forward_kernel(
    cell: type[Cell], dtype: np.dtype[Any], lanes: type[isa.Lanes], keep: bool, chosen: bool = False
) -> Callable[..., None]:
    """The compiled ``forward`` that keeps what ``backward`` needs, or doesn't; for inputs that are chosen, or not."""
    x, state, work = any_array(dtype, 3), any_array(dtype, 2, False), own_array(dtype, 2)
    saved = work if keep else types.none
    return compiled(
        _forward.forward,
        (
            SEAT,
            TEAM,
            net_type(cell, dtype, lanes),
            _WHEN,
            x,
            _index(chosen),
            any_array(dtype, 3, False),
            state,
            state,
            own_array(dtype, 3),
            saved,
            own_array(dtype, 3),
            work,
            work,
            work,
            own_array(np.int64, 3),
            work,
            work,
        ),
    )


@cached
def digits_kernel(cell: type[Cell], dtype: np.dtype[Any], lanes: type[isa.Lanes]) -> Callable[..., None]:
    """The compiled ``inputs.pack_digits``."""
    given = (net_type(cell, dtype, lanes), types.boolean, own_array(dtype, 3))
    return compiled(_inputs.pack_digits, (SEAT, TEAM, *given))


@cached
def sum_choices_kernel(cell: type[Cell], dtype: np.dtype[Any], lanes: type[isa.Lanes]) -> Callable[..., None]:
    """The compiled ``sum_choices``."""
    given = (any_array(dtype, 2), own_array(np.int64, 3), own_array(dtype, 2), own_array(dtype, 2))
    return compiled(_forward.sum_choices, (net_type(cell, dtype, lanes), *given))


@cached
def backward_kernel(cell: type[Cell], dtype: np.dtype[Any], lanes: type[isa.Lanes]) -> Callable[..., None]:
    """The compiled ``backward``."""
    state, masks, work = any_array(dtype, 2, False), own_array(dtype, 3), own_array(dtype, 2)
    dy, net = any_array(dtype, 3), net_type(cell, dtype, lanes)
    return compiled(_backward.backward, (SEAT, TEAM, net, _WHEN, dy, state, state, masks, work, work, work, work, work))


@cached
def gradients_kernel(dtype: np.dtype[Any], lanes: type[isa.Lanes], chosen: bool = False) -> Callable[..., None]:
    """The compiled ``gradients``, the same for all cells; and for x that is chosen."""
    x, work, sums = any_array(dtype, 3), own_array(dtype, 2), own_array(dtype, 3)
    panels, totals, rooms = _of_gradients(dtype, lanes, chosen)
    steps, state, dx = [types.int64] * 3, any_array(dtype, 2), any_array(dtype, 2 if chosen else 3, False)
    given = (x, _index(chosen), x, state, sums, dx, types.boolean, work, types.boolean)
    return compiled(_gradients.gradients, (SEAT, TEAM, panels, _WHEN, *steps, *given, totals, rooms))


@cached
def choices_kernel(dtype: np.dtype[Any], lanes: type[isa.Lanes]) -> Callable[..., None]:
    """The compiled ``gradients_of_choices``."""
    panels, totals, rooms = _of_gradients(dtype, lanes, True)
    x, dx = any_array(dtype, 2), any_array(dtype, 2, False)
    return compiled(_gradients.gradients_of_choices, (panels, x, dx, types.boolean, totals, rooms))


@cached
def dx_digits_kernel(dtype: np.dtype[Any], lanes: type[isa.Lanes]) -> Callable[..., None]:
    """The compiled ``pack_dx_digits``."""
    panels, _, _ = _of_gradients(dtype, lanes, False)
    return compiled(_dx.pack_dx_digits, (SEAT, TEAM, panels, own_array(dtype, 1), own_array(dtype, 2)))


@cached
def bytes_back_kernel(cell: type[Cell], dtype: np.dtype[Any], lanes: type[isa.Lanes]) -> Callable[..., None]:
    """The compiled ``whole_weights.pack_back``."""
    return compiled(_whole_weights.pack_back, (SEAT, TEAM, net_type(cell, dtype, lanes), own_array(dtype, 2)))


@cached
def move_kernel(dtype: np.dtype[Any], together: bool = False) -> Callable[..., None]:
    """The compiled ``move``, or ``move_together``."""
    number = from_dtype(dtype)
    source, to = types.Array(number, 1, "C", readonly=True), types.Array(number, 1, "C")
    given = (types.Array(types.uint64, 2, "C"), source, to, to)
    return compiled(move_together, (SEAT, TEAM, *given)) if together else compiled(move, given)


def _of_gradients(dtype: np.dtype[Any], lanes: type[isa.Lanes], chosen: bool) -> tuple[Any, Any, Any]:
    """Types of Panels, Totals and Work."""
    weights = types.Array(from_dtype(dtype), 1, "C", readonly=True)
    panels = named(_gradients.Panels, weights, typeof(lanes()), *[types.int64] * 7, types.boolean, own_array(dtype, 1))
    work, sums, slabs = (own_array(dtype, n) for n in (2, 3, 4))
    of_choices = (sums, own_array(np.int64, 2)) if chosen else (types.none,) * 2
    totals = named(_gradients.Totals, sums, sums, sums, work, *of_choices)
    rooms = named(_gradients.Work, own_array(np.int64, 3), sums, slabs, slabs, work, own_array(dtype, 1), sums, sums)
    return panels, totals, rooms


def _index(chosen: bool) -> Any:
    return any_array(np.dtype(np.int64), 2) if chosen else types.none


@cached
def side_by_side_kernel() -> Callable[..., None]:
    """The compiled ``side_by_side``: the same for all kernels that can be laid down."""
    return compiled(side_by_side, (SEAT, TEAM, types.int64, types.int64))


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
    net_class(_cell, isa.vectors(isa.current()))
