"""A pass of one layer in one direction, of which all is kept: without the chains and stretches of time that many layers
and checkpoints need, which would take longer than a small layer's step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._cpu.pieces import run
from .._cpu.unit import Unit
from .._memory import aligned_copy
from .chain import Pass, Room, RoomBack
from .rooms import Rooms

Array = NDArray[Any]


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

    @property
    def _saved(self) -> Array:
        assert self._room.saved is not None
        return self._room.saved[0]

    def back(self, dy: Array | None, dx: Array, dh: Array, dc: Array, totals: Any, retain: bool) -> None:
        """See ``Chain.back``; of states and totals those of the layer."""
        unit, batch, masks = self._unit, self.way.batch, _masks(self._unit, self.way)
        key = ("back", batch.size, unit.form.most_for_gradients(), unit.form.lanes)
        room = self._rooms.take(key, lambda: RoomBack([unit], 0, batch.size, 0))
        (work, work_of_gradients), when = room.work[0], batch.when(0, False)
        saved = aligned_copy(self._saved) if retain else self._saved  # the way back works in place
        slope = np.empty((batch.steps, batch.size, 0), dx.dtype) if dy is None else dy
        for loop in unit.backward(when, slope, dh, dc, masks, saved, work):
            run(loop)
        given = (self._x, self._y, self._began, masks, dx, False, saved, False)
        unit.gradients(when, *given, totals, work_of_gradients)
        self._rooms.give(key, room, room.size)

    def __del__(self) -> None:
        self._rooms.give(self._key, self._room, self._room.size)


def record(unit: Unit, rooms: Rooms, way: Pass, x: Array, y: Array, h: Array, c: Array) -> Alone:
    """See ``Stack.record``; of the states those of the layer."""
    batch = way.batch
    rows = batch.rows(0, batch.steps)
    key, began = ("record", batch.size, rows, unit.form.lanes), np.array(h)
    left = Alone(unit, rooms, way, key, rooms.take(key, lambda: Room([unit], 0, batch.size, rows, 0)), x, y, began)
    for loop in unit.forward(batch.when(0, False), x, y, h, c, _masks(unit, way), left._saved, left._room.work[0]):
        run(loop)
    return left
