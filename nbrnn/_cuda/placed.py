"""A schedule where a machine's kernels can read it."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import kernels
from .machine import Flat, Machine
from .offsets import THREADS
from .schedule import Schedule

#: Arrays of offsets that are kept: a training step of a stack needs about four for each direction.
_MOST = 16


class Placed:
    """A schedule with its arrays on a machine; what is made there of them, when first asked for, is kept.

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
        #: Steps of each sequence if all have as many, and none is cut: they are in the caller's order then.  Else None.
        self.alike: int | None = schedule.alike
        self.starts, self.lengths, self.order, self.cuts = (
            machine.put(a) for a in (schedule.starts, schedule.lengths, schedule.order, schedule.cuts)
        )
        self._kept: dict[tuple[int, int, bool, bool], Flat] = {}

    def _index(self, time: int, place: int, before: bool, cut: bool) -> Flat:
        """See ``offsets.offsets``."""
        key = time, place, before, cut
        if key not in self._kept:
            if len(self._kept) == _MOST:
                self._kept.clear()
            self._kept[key] = out = self.machine.empty(self.rows, np.dtype(np.int64))
            if self.rows:
                data = (self.starts, self.lengths, self.order, self.cuts, self.steps, self.batch, self.reverse)
                blocks = -(-self.steps * self.batch // THREADS)
                self.machine.launch(kernels.offsets_kernel(), (blocks,), (*data, *key, out))
        return self._kept[key]

    def offsets(self, sequences: Any) -> Flat:
        """(rows,) int64: where each row's numbers begin in Sequences."""
        return self._index(sequences.time, sequences.batch, False, False)

    def offsets_before(self, sequences: Any) -> Flat:
        """The same for the h before the step, in y; ``ZEROS`` after a cut, ``SECOND - b`` for the initial state b."""
        return self._index(sequences.time, sequences.batch, True, True)

    def places(self, width: int) -> Flat:
        """(rows,) int64: where each sequence's numbers begin in an array (B, width)."""
        return self._index(0, width, False, False)

    def places_before(self, width: int) -> Flat:
        """The same; ``ZEROS`` after a cut."""
        return self._index(0, width, False, True)
