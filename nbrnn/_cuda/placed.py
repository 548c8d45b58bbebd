"""A schedule where a machine's kernels can read it."""

from __future__ import annotations

import functools
from typing import Any

from .machine import Flat, Machine
from .schedule import Schedule

#: Arrays of offsets that are kept: a training step of a stack needs about four for each direction.
_MOST = 32


class Placed:
    """A schedule with its arrays on a machine, put there when first asked for and then kept.

    Parameters
    ----------
    machine : Machine
    schedule : Schedule

    Attributes
    ----------
    starts, lengths, order, cuts : flat arrays
        See ``Schedule``.
    """

    def __init__(self, machine: Machine, schedule: Schedule) -> None:
        self.machine, self.schedule = machine, schedule
        self.steps, self.batch, self.reverse, self.rows = (
            schedule.steps, schedule.batch, schedule.reverse, schedule.rows
        )  # fmt: skip
        self.starts, self.lengths, self.order, self.cuts = (
            machine.put(a) for a in (schedule.starts, schedule.lengths, schedule.order, schedule.cuts)
        )
        self._kept: dict[tuple[str, tuple[int, ...]], Flat] = {}

    def _index(self, name: str, *numbers: int) -> Flat:
        key = name, numbers
        if key not in self._kept:
            if len(self._kept) == _MOST:
                self._kept.clear()
            self._kept[key] = self.machine.put(getattr(self.schedule, name)(*numbers))
        return self._kept[key]

    @functools.cached_property
    def places(self) -> Flat:
        """``Schedule.places``."""
        return self.machine.put(self.schedule.places)

    def offsets(self, sequences: Any) -> Flat:
        """``Schedule.offsets`` of Sequences."""
        return self._index("offsets", sequences.time, sequences.batch)

    def offsets_before(self, sequences: Any) -> Flat:
        """``Schedule.offsets_before`` of Sequences."""
        return self._index("offsets_before", sequences.time, sequences.batch)

    def places_before(self, width: int) -> Flat:
        """``Schedule.places_before``."""
        return self._index("places_before", width)
