"""Loops over time as they are run: alone or shared, whole or in pieces between which Python looks for an interrupt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._memory import aligned
from . import cost, workers
from .loops import side_by_side_kernel
from .schedule import When
from .team import CALLER, LATER, RECORD, Seat, Team

Array = NDArray[Any]


class Loop(NamedTuple):
    """A loop over a stretch of time of one layer in one direction, ready to be run."""

    kernel: Callable[..., None]
    work: cost.Work
    back: bool  #: whether time is taken back
    net: Any
    when: When
    along: tuple[Array, ...]  #: arguments with an axis for time, that first
    states: tuple[Array, ...]  #: arguments that go from piece to piece
    saved: Array | None
    workspace: tuple[Array, ...]

    def call(self, seat: Seat, team: Team) -> None:
        """Call the kernel."""
        self.kernel(seat, team, self.net, self.when, *self.along, *self.states, self.saved, *self.workspace)

    def pieces(self, plan: cost.Plan, alone: int) -> Iterator[Loop]:
        """Its pieces as they are run, of so many steps as the plan says, but the first of so many as are done alone."""
        counts = cost.cuts(plan, len(self.along[0]), alone)
        if not self.back:
            return self._forward(plan, counts)
        return reversed(list(self._forward(plan, counts[::-1])))

    def _forward(self, plan: cost.Plan, counts: list[int]) -> Iterator[Loop]:
        """Pieces of so many steps, in the order they are run forward."""
        when = self.when
        for first in range(when.first, when.last, plan.rows):
            row, start = 0, sum(counts) if when.reverse else 0
            for count in counts:
                start -= count * when.reverse
                part = when._replace(t0=when.t0 + start, first=first, last=min(first + plan.rows, when.last))
                rows = int(np.clip(part.lengths - part.t0, 0, count).sum())
                along = tuple([a[start : start + count] for a in self.along])
                saved = None if self.saved is None else self.saved[row : row + rows]
                yield self._replace(when=part, along=along, saved=saved)
                row, start = row + rows, start + count * (not when.reverse)


def run(*loops: Loop) -> None:
    """Run a loop; or two for the same work that don't depend on each other, side by side where that is faster."""
    work, rows, steps = loops[0].work, len(loops[0].when.order), len(loops[0].along[0])
    if len(loops) * cost.plan(work, rows, 1).seconds * steps < cost.WORTH_IT:
        # How many threads there may be isn't even asked: that takes as long as a small step.
        _call(loops, workers.ALONE)
        return
    threads = workers.allowed()
    plan = cost.plan(work, rows, threads) if len(loops) == 1 else cost.plan_of_two(work, rows, threads)
    if plan is None:
        for loop in loops:
            run(loop)
        return
    alone = workers.rouse(plan, steps)
    if alone == 0 and plan.holds(rows, steps):
        _call(loops, workers.team(plan, steps))
        return
    with workers.Sharing(plan, alone) as sharing:
        for parts in zip(*[loop.pieces(plan, alone) for loop in loops], strict=True):
            _call(parts, sharing.team(len(parts[0].along[0])))


def _call(loops: tuple[Loop, ...], team: Team) -> None:
    """Call the kernel of one, or those of two: side by side, if the team has members."""
    if len(loops) == 1 or team.wanted == 1:
        for loop in loops:
            loop.call(CALLER, team)
        return
    notes = aligned((len(loops), RECORD), np.uint8)
    places = [int(note.__array_interface__["data"][0]) for note in notes]
    for loop, place in zip(loops, places, strict=True):
        loop.call(Seat(place, 0, LATER, 0), team)
    side_by_side_kernel()(CALLER, team, *places)
