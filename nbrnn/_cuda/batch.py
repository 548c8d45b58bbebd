"""The sequences of one call, on a machine: how long each is and where it is cut, for any stretch of time."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from .machine import Machine
from .placed import Placed
from .schedule import Schedule


class Batch:
    """Sequences as the caller has them.

    Parameters
    ----------
    machine : Machine
    steps, size : int
        T and B.
    lengths : (B,) int64, or None
    resets : (T, B) bool, or None
    """

    def __init__(
        self, machine: Machine, steps: int, size: int, lengths: NDArray[Any] | None, resets: NDArray[Any] | None
    ) -> None:
        self.machine, self.steps, self.size, self.lengths, self.resets = machine, steps, size, lengths, resets
        self._placed: dict[tuple[int, int, bool], Placed] = {}

    @property
    def full(self) -> bool:
        """Whether every sequence has all T steps."""
        return self.lengths is None or bool((self.lengths == self.steps).all())

    def when(self, t0: int, steps: int, reverse: bool) -> Placed:
        """The schedule of the steps [t0, t0 + steps)."""
        if self.lengths is None and self.resets is None:
            t0 = 0  # all stretches of as many steps are alike
        key = t0, steps, reverse
        if key not in self._placed:
            schedule = Schedule.of(steps, self.size, self.lengths, self.resets, reverse, t0)
            self._placed[key] = Placed(self.machine, schedule)
        return self._placed[key]
