"""Layers run together over stretches of time, forward and back.

A *chain* is a number of layers of which each needs, for a step, only that step of the one below: the layers of a
stack in one direction.  It can be run stretch by stretch, in constant memory, and taken back stretch by stretch.  In
a bidirectional network each layer and direction is a chain of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._cpu.unit import Unit, dropout
from .._memory import aligned
from .batch import Batch

Array = NDArray[Any]


@dataclasses.dataclass(frozen=True)
class Drop:
    """Dropout between layers, for one forward pass."""

    p: float
    key: tuple[int, int]

    def __call__(self, x: Array, layer: int, directions: int, t0: int) -> Array:
        """X (steps, B, D * K), which ``layer`` hands on."""
        return dropout(x, self.p, self.key, 0, layer, directions, t0)


@dataclasses.dataclass
class Stretch:
    """What the way back needs to know of the steps [t0, t0 + steps).

    ``h`` and ``c`` are the states of each layer on entry.  ``inputs``, ``outputs`` and ``saved`` (None: to be computed
    again) are, for each layer, what it was given, what it gave and what ``forward`` kept.
    """

    t0: int
    steps: int
    h: list[Array]
    c: list[Array]
    inputs: list[Array] | None = None
    outputs: list[Array] | None = None
    saved: list[Array] | None = None


class Chain:
    """Layers ``first``, ``first + 1``, ... in one direction."""

    def __init__(self, units: list[Unit], first: int, reverse: bool) -> None:
        self.units, self.first, self.reverse = units, first, reverse

    def stretches(self, steps: int, at_most: int) -> Iterator[tuple[int, int]]:
        """(t0, steps) of stretches of at most so many steps, in the order they are run."""
        starts = range(0, steps, at_most)
        for t0 in reversed(starts) if self.reverse else starts:
            yield t0, min(at_most, steps - t0)

    def run(
        self,
        batch: Batch,
        t0: int,
        x: Array,
        y: Array,
        h: list[Array],
        c: list[Array],
        saved: list[Array] | None,
        drop: Drop | None,
    ) -> tuple[list[Array], list[Array]]:
        """Run the steps of x into y, states in place; what each layer was given and what it gave."""
        when, inputs, outputs = batch.when(t0, self.reverse), [], []
        for q, unit in enumerate(self.units):
            last = q == len(self.units) - 1
            out = y if last else aligned((*x.shape[:2], unit.K), unit.dtype)
            unit.forward(when, x, out, h[q], c[q], None if saved is None else saved[q])
            inputs.append(x)
            outputs.append(out)
            x = out if drop is None or last else drop(out, self.first + q, 1, t0)
        return inputs, outputs

    def infer(self, batch: Batch, x: Array, y: Array, h: list[Array], c: list[Array]) -> None:
        """Run all of x into y, keeping nothing: states change in place."""
        for t0, steps in self.stretches(len(x), self._comfortable(batch)):
            self.run(batch, t0, x[t0 : t0 + steps], y[t0 : t0 + steps], h, c, None, None)

    def _comfortable(self, batch: Batch) -> int:
        """Steps in a stretch of inference: what passes between layers should stay in a cache."""
        if len(self.units) == 1:
            return max(1, batch.steps)
        return max(1, int(2**18 // max(1, batch.size * max(u.K for u in self.units))))

    def record(
        self, batch: Batch, x: Array, y: Array, h: list[Array], c: list[Array], drop: Drop | None, every: int | None
    ) -> list[Stretch]:
        """Run all of x into y, keeping what the way back needs: all, or (``every`` k steps) the states."""
        made = []
        rooms: list[Array] | None = None
        for t0, steps in self.stretches(len(x), every or max(1, len(x))):
            stretch = Stretch(t0, steps, [a.copy() for a in h], [a.copy() for a in c])
            if every is None or rooms is None:
                rooms = self._rooms(batch, t0, steps, every)
            saved = self._fitting(rooms, batch, t0, steps)
            xs, ys = x[t0 : t0 + steps], y[t0 : t0 + steps]
            given, gave = self.run(batch, t0, xs, ys, h, c, saved, drop)
            if every is None:
                stretch.inputs, stretch.outputs, stretch.saved = given, gave, saved
            made.append(stretch)
        return made

    def _rooms(self, batch: Batch, t0: int, steps: int, every: int | None) -> list[Array]:
        """Memory for what is saved: of one stretch, or of the longest."""
        rows = batch.rows(t0, steps) if every is None else batch.size * min(every, batch.steps)
        return [aligned(u.saved_shape(rows), u.dtype) for u in self.units]

    @staticmethod
    def _fitting(rooms: list[Array], batch: Batch, t0: int, steps: int) -> list[Array]:
        return [room[: batch.rows(t0, steps)] for room in rooms]

    def back(
        self,
        batch: Batch,
        stretches: list[Stretch],
        x: Array,
        dy: Array | None,
        dx: Array,
        add: bool,
        dh: list[Array],
        dc: list[Array],
        totals: list[Any],
        drop: Drop | None,
        every: int | None,
        retain: bool,
    ) -> None:
        """Take ``record`` back: dx is written (or added to), dh and dc become gradients for the states before."""
        rooms: list[Array] | None = None
        for stretch in reversed(stretches):
            t0, steps = stretch.t0, stretch.steps
            now = slice(t0, t0 + steps)
            inputs, outputs, saved = stretch.inputs, stretch.outputs, stretch.saved
            if inputs is None or outputs is None or saved is None:
                rooms = rooms or self._rooms(batch, t0, steps, every)
                saved = self._fitting(rooms, batch, t0, steps)
                scratch = aligned((steps, batch.size, self.units[-1].K), dx.dtype)
                h, c = [a.copy() for a in stretch.h], [a.copy() for a in stretch.c]
                inputs, outputs = self.run(batch, t0, x[now], scratch, h, c, saved, drop)
            elif retain:
                saved = [a.copy() for a in saved]  # the way back works in place
            when = batch.when(t0, self.reverse)
            gradient = np.empty((steps, batch.size, 0), dx.dtype) if dy is None else dy[now]
            for q in reversed(range(len(self.units))):
                unit = self.units[q]
                unit.backward(when, gradient, dh[q], dc[q], saved[q])
                into = dx[now] if q == 0 else aligned(inputs[q].shape, unit.dtype)
                unit.gradients(when, inputs[q], outputs[q], stretch.h[q], into, add and q == 0, saved[q], totals[q])
                gradient = into
                if q > 0 and drop is not None:
                    gradient = drop(into, self.first + q - 1, 1, t0)
