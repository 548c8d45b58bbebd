"""A pass of one layer in one direction, of which all is kept: without the chains and stretches of time that many layers
and checkpoints need, which would take longer than a small layer's step.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._cpu.form import Form, Sums
from .._cpu.pieces import run
from .._cpu.unit import Unit
from .._memory import aligned, aligned_copy
from .chain import Pass
from .rooms import Rooms

Array = NDArray[Any]


class Room(NamedTuple):
    """Memory that a pass runs in, and leaves something in."""

    saved: Array
    work: tuple[Array, ...]


class RoomBack(NamedTuple):
    """Memory that the way back runs in."""

    work: tuple[Array, ...]
    work_of_gradients: Any
    sums: Sums


def _make_back(form: Form, size: int) -> RoomBack:
    return RoomBack(form.backward_workspace(size), form.gradients_workspace(), form.new_sums())


def _bytes(*arrays: Array) -> int:
    return sum(a.nbytes for a in arrays)


def _masks(unit: Unit, way: Pass) -> Array:
    """What h is multiplied by where it enters W_hh: computed again on the way back."""
    return unit.form.no_masks if way.drop_recurrent is None else way.drop_recurrent(unit, way.batch, 0, False)


class Alone:
    """What such a pass leaves for the way back."""

    chosen = False

    def __init__(
        self, unit: Unit, rooms: Rooms, way: Pass, key: Any, room: Room, x: Array, y: Array, began: Array
    ) -> None:
        self.way, self._unit, self._rooms, self._key, self._room = way, unit, rooms, key, room
        self._x, self._y, self._began = x, y, began

    def back(self, dy: Array | None, dx: Array, dh: Array, dc: Array, gradients: Array, retain: bool) -> None:
        """See ``Stack.back``; of the states those of the layer."""
        unit, form, batch, masks = self._unit, self._unit.form, self.way.batch, _masks(self._unit, self.way)
        key = ("back", batch.size, form.most_for_gradients(), form.lanes)
        room = self._rooms.take(key, lambda: _make_back(form, batch.size))
        saved = aligned_copy(self._room.saved) if retain else self._room.saved  # the way back works in place
        slope = np.empty((batch.steps, batch.size, 0), dx.dtype) if dy is None else dy
        when, of_sums = batch.when(0, False), (room.sums.totals, room.work_of_gradients)
        for loop in unit.backward(when, slope, dh, dc, masks, saved, room.work):
            run(loop)
        unit.gradients(when, self._x, self._y, self._began, masks, dx, False, saved, False, *of_sums)
        unit.read_sums(room.sums, gradients)
        self._rooms.give(key, room, _bytes(*room.work, *room.work_of_gradients, room.sums.vector))

    def __del__(self) -> None:
        self._rooms.give(self._key, self._room, _bytes(self._room.saved, *self._room.work))


def record(unit: Unit, rooms: Rooms, way: Pass, x: Array, y: Array, h: Array, c: Array) -> Alone:
    """See ``Stack.record``; of the states those of the layer."""
    form, batch = unit.form, way.batch
    rows = batch.rows(0, batch.steps)
    key, began = ("record", batch.size, rows, form.lanes), np.array(h)
    room = rooms.take(
        key, lambda: Room(aligned((rows, form.saved_width), form.dtype), form.forward_workspace(batch.size))
    )
    for loop in unit.forward(batch.when(0, False), x, y, h, c, _masks(unit, way), room.saved, room.work):
        run(loop)
    return Alone(unit, rooms, way, key, room, x, y, began)
