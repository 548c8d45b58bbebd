"""Layers run together over stretches of time, forward and back.

A *chain* is a number of layers of which each needs, for a step, only that step of the one below.  In each stretch of
time, all steps of a layer are run before those of the next.  Without checkpoints the whole of time is one stretch.
Arrays are (T, B, ...), always.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from . import dropout
from .array import DeviceArray
from .batch import Batch
from .direction import Direction, Sequences, State, Tape
from .families import Packed
from .machine import Flat

#: Between layers: see ``_cpu.dropout``.
BETWEEN_LAYERS = 0


class Drop(NamedTuple):
    """A dropout of one forward pass."""

    p: float
    key: tuple[int, int]

    def between(self, x: DeviceArray, layer: int, directions: int, t0: int, out: DeviceArray | None) -> DeviceArray:
        """x (steps, B, D * K), which ``layer`` hands on, with numbers dropped."""
        return dropout.dropout(x.machine, x, self.p, self.key, BETWEEN_LAYERS, layer, directions, t0, out)

    def recurrent(self, unit: Direction, size: int, layer: int, reverse: bool) -> Flat:
        """What h (B, K) of a layer and direction is multiplied by where it enters W_hh."""
        return dropout.masks(unit.machine, size, unit.K, unit.dtype, self.p, self.key, layer, int(reverse)).numbers()


class Pass(NamedTuple):
    """What one pass over the sequences is told.

    ``checkpoint``: keep only the states, every so many steps; None: keep all that the way back needs.
    """

    batch: Batch
    drop: Drop | None = None
    drop_recurrent: Drop | None = None
    checkpoint: int | None = None


@dataclasses.dataclass
class Stretch:
    """What the way back needs to know of the steps [t0, t0 + steps).

    ``state`` is that of each layer on entry, ``masks`` are those of recurrent dropout (None: there is none); ``tapes``
    is None where they have to be made again.
    """

    t0: int
    steps: int
    state: Sequence[State]
    masks: list[Flat | None]
    tapes: list[Tape] | None


def sequences(a: DeviceArray) -> Sequences:
    """As kernels take them: numbers of a step side by side."""
    return Sequences(a.flat, *a.strides[:2])


class Chain:
    """Layers ``first``, ``first + 1``, ... in one direction."""

    def __init__(self, units: Sequence[Direction], first: int, reverse: bool) -> None:
        self.units, self.first, self.reverse, self.machine = units, first, reverse, units[0].machine

    def _empty(self, unit: Direction, steps: int, batch: int, width: int) -> DeviceArray:
        return DeviceArray.empty(self.machine, (steps, batch, width), unit.dtype)

    def _states(self, batch: int) -> list[State]:
        """Memory for a state of each layer."""
        empty = self.machine.empty
        return [State(empty(batch * u.K, u.dtype), empty(batch * u.E * u.H, u.dtype)) for u in self.units]

    def _stretches(self, way: Pass) -> Iterator[tuple[int, int]]:
        """(t0, steps), in the order they are run; one of no steps where there are none."""
        steps = way.batch.steps
        most = max(1, min(way.checkpoint or steps, steps))
        starts = range(0, max(1, steps), most)
        for t0 in reversed(starts) if self.reverse else starts:
            yield t0, min(most, steps - t0)

    def _masks(self, way: Pass) -> list[Flat | None]:
        if way.drop_recurrent is None:
            return [None] * len(self.units)
        return [
            way.drop_recurrent.recurrent(u, way.batch.size, self.first + q, self.reverse)
            for q, u in enumerate(self.units)
        ]

    def _run(
        self,
        way: Pass,
        weights: Sequence[Packed],
        masks: list[Flat | None],
        t0: int,
        x: DeviceArray,
        y: DeviceArray,
        state: Sequence[State],
        after: Sequence[State],
        keep: bool,
    ) -> list[Tape]:
        """Run the steps of x, from t0 on, into y."""
        tapes, (steps, size, _) = [], x.shape
        when = way.batch.when(t0, steps, self.reverse)
        for q, unit in enumerate(self.units):
            last = q == len(self.units) - 1
            out = y if last else self._empty(unit, steps, size, unit.K)
            tapes.append(
                unit.forward(weights[q], when, sequences(x), sequences(out), state[q], after[q], keep, masks[q])
            )
            x = out if way.drop is None or last else way.drop.between(out, self.first + q, 1, t0, None)
        return tapes

    def forward(
        self,
        way: Pass,
        weights: Sequence[Packed],
        x: DeviceArray,
        y: DeviceArray,
        state: Sequence[State],
        after: Sequence[State],
        keep: bool,
    ) -> list[Stretch]:
        """Run all of x into y, and write the states after; what the way back needs, if ``keep``."""
        made, masks = [], self._masks(way)
        *others, last = self._stretches(way)
        for t0, steps in (*others, last):
            now = slice(t0, t0 + steps)
            to = after if (t0, steps) == last else self._states(way.batch.size)
            tapes = self._run(way, weights, masks, t0, x[now], y[now], state, to, keep and way.checkpoint is None)
            if keep:
                made.append(Stretch(t0, steps, state, masks, tapes if way.checkpoint is None else None))
            state = to
        return made

    def backward(
        self,
        way: Pass,
        weights: Sequence[Packed],
        stretches: Sequence[Stretch],
        x: DeviceArray,
        dy: DeviceArray | None,
        dx: DeviceArray,
        add_x: bool,
        dstate: Sequence[State],
        before: Sequence[State],
        gradients: Sequence[Mapping[str, Flat]],
        retain: bool,
    ) -> None:
        """Take ``forward`` back: dx is written where sequences run (or added to), and so are gradients."""
        size = way.batch.size
        for stretch in reversed(stretches):
            t0, now, last = stretch.t0, slice(stretch.t0, stretch.t0 + stretch.steps), stretch is stretches[0]
            tapes = self._tapes(way, weights, stretch, x[now], retain)
            to = before if last else self._states(size)
            given = None if dy is None else dy[now]
            for q in reversed(range(len(self.units))):
                unit = self.units[q]
                into = dx[now] if q == 0 else self._empty(unit, stretch.steps, size, unit.I)
                unit.backward(
                    tapes[q], None if given is None else sequences(given), dstate[q], sequences(into), to[q],
                    gradients[q], add_x and q == 0, stretch is not stretches[-1],
                )  # fmt: skip
                given = into
                if q > 0 and way.drop is not None:
                    given = way.drop.between(into, self.first + q - 1, 1, t0, into)
            dstate = to

    def _tapes(
        self, way: Pass, weights: Sequence[Packed], stretch: Stretch, x: DeviceArray, retain: bool
    ) -> list[Tape]:
        """The tapes of a stretch, to be used up: made again where they weren't kept."""
        if stretch.tapes is None:
            y = self._empty(self.units[-1], stretch.steps, way.batch.size, self.units[-1].K)
            after = self._states(way.batch.size)
            return self._run(way, weights, stretch.masks, stretch.t0, x, y, stretch.state, after, True)
        if not retain:
            return stretch.tapes
        products = [u.products for u in self.units]
        return [dataclasses.replace(t, saved=p.copy(t.saved)) for p, t in zip(products, stretch.tapes, strict=True)]
