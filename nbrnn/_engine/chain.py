"""Layers run together over stretches of time, forward and back.

A *chain* is a number of layers of which each needs, for a step, only that step of the one below: the layers of a
stack in one direction.  It can be run stretch by stretch, in constant memory, and taken back stretch by stretch.  In
a bidirectional network each layer and direction is a chain of its own.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._cpu.chosen import Chosen
from .._cpu.dropout import BETWEEN_LAYERS
from .._cpu.pieces import Loop
from .._cpu.unit import Unit, dropout
from .._memory import aligned, aligned_copy
from .batch import Batch
from .rooms import Rooms

Array = NDArray[Any]
States = Sequence[Array] | Array  # one for each layer, to be changed in place


@dataclasses.dataclass(frozen=True)
class Drop:
    """Dropout between layers, for one forward pass."""

    p: float
    key: tuple[int, int]

    def __call__(self, x: Array, layer: int, directions: int, t0: int) -> Array:
        """x (steps, B, D * K), which ``layer`` hands on."""
        return dropout(x, self.p, self.key, BETWEEN_LAYERS, layer, directions, t0)


@dataclasses.dataclass(frozen=True)
class RecurrentDrop:
    """Dropout of what of h enters W_hh, for one forward pass."""

    p: float
    key: tuple[int, int]

    def __call__(self, unit: Unit, batch: Batch, layer: int, reverse: bool) -> Array:
        """The masks of one layer and direction."""
        return unit.masks(batch.size, self.p, self.key, layer, int(reverse))


class Pass(NamedTuple):
    """What one pass over the sequences is told.

    ``checkpoint``: keep only the states, every so many steps; None: keep all that the way back needs.
    """

    batch: Batch
    drop: Drop | None = None
    drop_recurrent: RecurrentDrop | None = None
    checkpoint: int | None = None


@dataclasses.dataclass
class Kept:
    """What each layer of a chain was given, what it gave, and what ``forward`` saved of it, in a stretch of time."""

    inputs: list[Array | Chosen]
    outputs: list[Array]
    saved: list[Array]


@dataclasses.dataclass
class Stretch:
    """What the way back needs to know of the steps [t0, t0 + steps).

    ``h`` and ``c`` are the states of each layer on entry; ``kept`` is None where it has to be computed again.
    """

    t0: int
    steps: int
    h: list[Array]
    c: list[Array]
    kept: Kept | None = None


class Room:
    """Memory that a chain runs in, for stretches of at most so many steps, with at most ``rows`` steps of sequences to
    be saved (None: nothing is saved), and with ``choices`` rows that its inputs are chosen from (0: they aren't).
    """

    def __init__(self, units: list[Unit], steps: int, size: int, rows: int | None, choices: int) -> None:
        forms = [u.form for u in units]
        self.between = [aligned((steps, size, f.K), f.dtype) for f in forms[:-1]]
        self.saved = None if rows is None else [aligned((rows, f.saved_width), f.dtype) for f in forms]
        self.work = [f.forward_workspace(size, 0 if q else choices) for q, f in enumerate(forms)]
        self.size = sum(a.nbytes for a in [*self.between, *(self.saved or ()), *itertools.chain(*self.work)])


class RoomBack:
    """Memory that the way back runs in."""

    def __init__(self, units: list[Unit], steps: int, size: int, choices: int) -> None:
        forms = [u.form for u in units]
        self.choices, self.firsts = forms[0].sums_of_choices(choices)
        self.work = [(f.backward_workspace(size), f.gradients_workspace()) for f in forms]
        self.between = [aligned((steps, size, f.I), f.dtype) for f in forms[1:]]
        arrays = [a for work in self.work for part in work for a in part]
        self.size = sum(a.nbytes for a in [self.choices, self.firsts, *self.between, *arrays])


class Chain:
    """Layers ``first``, ``first + 1``, ... in one direction, which run in some of ``rooms``."""

    def __init__(self, units: list[Unit], first: int, reverse: bool, rooms: Rooms) -> None:
        self.units, self.first, self.reverse, self.rooms = units, first, reverse, rooms
        form = units[0].form
        self._key = (first, reverse, form.lanes)
        self._between = form.K if len(units) > 1 else 0

    def stretches(self, steps: int, at_most: int) -> Iterator[tuple[int, int]]:
        """(t0, steps) of stretches of at most so many steps, in the order they are run."""
        starts = range(0, steps, at_most)
        for t0 in reversed(starts) if self.reverse else starts:
            yield t0, min(at_most, steps - t0)

    def masks(self, way: Pass) -> list[Array]:
        """What each layer's h is multiplied by where it enters W_hh: computed again on the way back."""
        if way.drop_recurrent is None:
            return [u.form.no_masks for u in self.units]
        return [way.drop_recurrent(u, way.batch, self.first + q, self.reverse) for q, u in enumerate(self.units)]

    # Each of these yields the loops that it wants to be run, one after another, but for the small: so two chains can be
    # gone through together (``Stack``).

    def run(
        self, way: Pass, t0: int, x: Array | Chosen, y: Array, h: States, c: States, masks: list[Array], room: Room
    ) -> Generator[Loop, None, Kept]:
        """Run the steps of x into y; states change in place."""
        when, kept = way.batch.when(t0, self.reverse), Kept([], [], [])
        rows = 0 if room.saved is None else way.batch.rows(t0, len(x))
        for q, unit in enumerate(self.units):
            last = q == len(self.units) - 1
            out = y if last else room.between[q][: len(x)]
            saved = None if room.saved is None else room.saved[q][:rows]
            yield from unit.forward(when, x, out, h[q], c[q], masks[q], saved, room.work[q])
            kept.inputs.append(x)
            kept.outputs.append(out)
            if saved is not None:
                kept.saved.append(saved)
            x = out if way.drop is None or last else way.drop(out, self.first + q, 1, t0)
        return kept

    def infer(self, batch: Batch, x: Array | Chosen, y: Array, h: States, c: States) -> Iterator[Loop]:
        """Run all of x into y, keeping nothing: states change in place."""
        most, between = batch.steps, 0
        if self._between > 0:
            most = between = self.comfortable(batch)
        choices = _choices(x)
        key = (self._key, "infer", between, batch.size, choices)
        room = self.rooms.take(key, lambda: Room(self.units, between, batch.size, None, choices))
        if most >= batch.steps:
            yield from self._through(batch, 0, x, y, h, c, room)
        else:
            for t0, steps in self.stretches(batch.steps, most):
                yield from self._through(batch, t0, x[t0 : t0 + steps], y[t0 : t0 + steps], h, c, room)
        self.rooms.give(key, room, room.size)

    def _through(
        self, batch: Batch, t0: int, x: Array | Chosen, y: Array, h: States, c: States, room: Room
    ) -> Iterator[Loop]:
        """Run the steps of x into y as ``run`` does, keeping nothing."""
        when = batch.when(t0, self.reverse)
        for q, unit in enumerate(self.units):
            out = y if q == len(self.units) - 1 else room.between[q][: len(x)]
            yield from unit.forward(when, x, out, h[q], c[q], unit.form.no_masks, None, room.work[q])
            x = out

    def comfortable(self, batch: Batch) -> int:
        """Steps in a stretch of inference: what passes between layers should stay in a cache."""
        return max(1, min(batch.steps, 2**18 // max(1, batch.size * self._between)))

    def record(
        self,
        way: Pass,
        x: Array | Chosen,
        y: Array,
        h: list[Array],
        c: list[Array],
        made: list[Stretch],
        give_back: list[Callable[[], None]],
    ) -> Iterator[Loop]:
        """Run all of x into y; states change in place.

        What the way back needs is added to ``made``; what is to be called when that isn't needed any more, to give its
        memory back, to ``give_back``.
        """
        batch, masks = way.batch, self.masks(way)
        most = max(1, min(way.checkpoint or batch.steps, batch.steps))
        rows = batch.rows(0, batch.steps) if way.checkpoint is None else None
        choices = _choices(x)
        key = (self._key, "record", most, batch.size, rows, choices)
        room = self.rooms.take(key, lambda: Room(self.units, most, batch.size, rows, choices))
        for t0, steps in self.stretches(batch.steps, most):
            now = slice(t0, t0 + steps)
            stretch = Stretch(t0, steps, list(map(np.array, h)), list(map(np.array, c)))
            kept = yield from self.run(way, t0, x[now], y[now], h, c, masks, room)
            if way.checkpoint is None:
                stretch.kept = kept
            made.append(stretch)
        give_back.append(functools.partial(self.rooms.give, key, room, room.size))

    def back(
        self,
        way: Pass,
        stretches: list[Stretch],
        x: Array | Chosen,
        dy: Array | None,
        dx: Array,
        add: bool,
        dh: list[Array],
        dc: list[Array],
        totals: list[Any],
        retain: bool,
    ) -> Iterator[Loop]:
        """Take ``record`` back: dx is written (or added to), dh and dc become gradients for the states before; totals
        are written.

        Where x is chosen, dx is that of what it is chosen from.
        """
        if not stretches:
            for total in totals:
                for sums in total[:4]:
                    sums.fill(0)
            return
        size, most = way.batch.size, max([s.steps for s in stretches])
        members = max([u.form.most_for_gradients() for u in self.units])
        key = (self._key, "back", most, size, members, _choices(x))
        back = self.rooms.take(key, lambda: RoomBack(self.units, most, size, _choices(x)))
        if isinstance(x, Chosen):
            back.choices.fill(0)
            totals = [totals[0]._replace(chosen=back.choices, firsts=back.firsts), *totals[1:]]
        works, between, masks = back.work, back.between, self.masks(way)
        again = None
        if way.checkpoint is not None:
            again = (
                Room(self.units, most, size, most * size, _choices(x)),
                aligned((most, size, self.units[-1].form.K), dx.dtype),
            )
        for stretch in reversed(stretches):
            t0, steps = stretch.t0, stretch.steps
            now, kept = slice(t0, t0 + steps), stretch.kept
            if again is not None:
                room, scratch = again
                h, c = list(map(np.array, stretch.h)), list(map(np.array, stretch.c))
                kept = yield from self.run(way, t0, x[now], scratch[:steps], h, c, masks, room)
            assert kept is not None
            when = way.batch.when(t0, self.reverse)
            gradient = np.empty((steps, size, 0), dx.dtype) if dy is None else dy[now]
            for q in reversed(range(len(self.units))):
                unit, saved, (backward_work, gradients_work) = self.units[q], kept.saved[q], works[q]
                if retain and again is None:
                    saved = aligned_copy(saved)  # the way back works in place
                yield from unit.backward(when, gradient, dh[q], dc[q], masks[q], saved, backward_work)
                given, gave, adding = kept.inputs[q], kept.outputs[q], add and q == 0
                into = between[q - 1][:steps] if q > 0 else dx if isinstance(given, Chosen) else dx[now]
                begun = stretch is not stretches[-1]
                unit.gradients(
                    when, given, gave, stretch.h[q], masks[q], into, adding, saved, begun, totals[q], gradients_work
                )
                gradient = into
                if q > 0 and way.drop is not None:
                    gradient = way.drop(into, self.first + q - 1, 1, t0)
        if isinstance(x, Chosen):
            self.units[0].gradients_of_choices(x, dx, add, totals[0], works[0][1])
        self.rooms.give(key, back, back.size)

    def numbers_kept(self, way: Pass) -> int:
        """How many numbers ``record`` keeps (or, with a checkpoint, ``back`` computes again at a time)."""
        batch, copies = way.batch, 1 if way.drop is None else 2
        most = min(way.checkpoint or batch.steps, batch.steps)
        rows = batch.rows(0, batch.steps) if way.checkpoint is None else most * batch.size
        between, states = copies * most * batch.size, -(-batch.steps // max(1, most)) * batch.size
        numbers = -between * self.units[-1].form.K  # the last layer writes y
        for unit in self.units:
            form = unit.form
            numbers += rows * form.saved_width + between * form.K + states * (form.K + form.E * form.H)
        return numbers


def _choices(x: Array | Chosen) -> int:
    """How many rows x is chosen from; 0 if it isn't."""
    return len(x.table) if isinstance(x, Chosen) else 0
