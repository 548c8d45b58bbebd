"""Loops over time as they are run: alone or shared, whole or in pieces between which Python looks for an interrupt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._memory import aligned
from . import cost, workers
from .loops import side_by_side_kernel
from .team import CALLER, LATER, RECORD, Seat, Team
from .workers import ALONE

Array = NDArray[Any]


class Loop(NamedTuple):
    """A loop over a stretch of time of one layer in one direction, ready to be run."""

    kernel: Callable[..., None]
    work: cost.Work
    back: bool  #: whether time is taken back
    along: int  #: how many arguments have an axis for time
    #: What the kernel is given after seat and team: net, when, those, three that go from piece to piece, what is saved,
    #: workspaces.
    arguments: tuple[Any, ...]

    def pieces(self, plan: cost.Plan, alone: int) -> Iterator[Loop]:
        """Its pieces as they are run, of so many steps as the plan says, but the first of so many as are done alone."""
        counts = cost.cuts(plan, len(self.arguments[2]), alone)
        if not self.back:
            return self._forward(plan, counts)
        return reversed(list(self._forward(plan, counts[::-1])))

    def _forward(self, plan: cost.Plan, counts: list[int]) -> Iterator[Loop]:
        """Pieces of so many steps, in the order they are run forward."""
        net, when, *others = self.arguments
        n = self.along
        along, states, saved, workspace = others[:n], others[n : n + 3], others[n + 3], others[n + 4 :]
        for first in range(when.first, when.last, plan.rows):
            row, start = 0, sum(counts) if when.reverse else 0
            for count in counts:
                start -= count * when.reverse
                part = when._replace(t0=when.t0 + start, first=first, last=min(first + plan.rows, when.last))
                rows = int(np.clip(part.lengths - part.t0, 0, count).sum())
                now = [None if a is None else a[start : start + count] for a in along]
                keep = None if saved is None else saved[row : row + rows]
                yield self._replace(arguments=(net, part, *now, *states, keep, *workspace))
                row, start = row + rows, start + count * (not when.reverse)


def start(
    kernel: Callable[..., None], work: cost.Work, back: bool, along: int, arguments: tuple[Any, ...]
) -> tuple[Loop, ...]:
    """Run a loop at once if not even two such are worth another thread; what is still to be run.

    How many threads there may be isn't even asked: that takes as long as a small step.
    """
    if 2 * cost.plan(work, len(arguments[1].order), 1).seconds * len(arguments[2]) < cost.WORTH_IT:
        kernel(CALLER, ALONE, *arguments)
        return ()
    return (Loop(kernel, work, back, along, arguments),)


def run(*loops: Loop) -> None:
    """Run a loop; or two for the same work that don't depend on each other, side by side where that is faster."""
    work, arguments = loops[0].work, loops[0].arguments
    rows, steps = len(arguments[1].order), len(arguments[2])
    if len(loops) * cost.plan(work, rows, 1).seconds * steps < cost.WORTH_IT:
        _call(loops, ALONE)
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
            _call(parts, sharing.team(len(parts[0].arguments[2])))


class Notes:
    """Where two kernels are laid down."""

    def __init__(self) -> None:
        self._memory = [aligned((RECORD,), np.uint8) for _ in range(2)]
        self.seats = [Seat(a.__array_interface__["data"][0], 0, LATER, 0) for a in self._memory]


#: Those that no call uses now.
_spare: list[Notes] = []


def _call(loops: tuple[Loop, ...], team: Team) -> None:
    """Call one kernel; or two, side by side if the team has members."""
    if len(loops) == 1 or team.wanted == 1:
        for loop in loops:
            loop.kernel(CALLER, team, *loop.arguments)
        return
    first, second = loops
    try:
        notes = _spare.pop()
    except IndexError:
        notes = Notes()
    first.kernel(notes.seats[0], team, *first.arguments)
    second.kernel(notes.seats[1], team, *second.arguments)
    side_by_side_kernel()(CALLER, team, notes.seats[0].desk, notes.seats[1].desk)
    _spare.append(notes)
