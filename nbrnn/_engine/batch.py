"""The sequences of one call: how long each is, where it is cut, and in which order kernels see them."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._cpu.schedule import When

Array = NDArray[Any]

_NO_RESETS = np.zeros((0, 0), np.bool_)


class Batch:
    """Sequences in order of falling length, which lets a step run the first few of them.

    Parameters
    ----------
    steps, size : int
        T and B.
    lengths : (B,) int64
        Falling.
    order : (B,) int64
        Places in the caller's batch.
    resets : (T, B) bool, or of size 0
        In the caller's order.

    Attributes
    ----------
    full : bool
        Whether every sequence has all T steps.
    """

    __slots__ = ("_whole", "full", "lengths", "order", "resets", "size", "steps")

    def __init__(self, steps: int, size: int, lengths: Array, order: Array, resets: Array) -> None:
        self.steps, self.size, self.lengths, self.order, self.resets = steps, size, lengths, order, resets
        self.full = size == 0 or bool(lengths[-1] == steps)
        self._whole = self._from(0, False), self._from(0, True)

    @classmethod
    def of(cls, steps: int, size: int, lengths: Array | None, resets: Array | None) -> Batch:
        """From what the user gave; None stands for full length and no cuts."""
        if lengths is None and resets is None:
            return _plain(steps, size)
        resets = _NO_RESETS if resets is None else resets
        if lengths is None:
            plain = _plain(steps, size)
            return cls(steps, size, plain.lengths, plain.order, resets)
        order = (-lengths).argsort(kind="stable").astype(np.int64, copy=False)
        return cls(steps, size, lengths[order], order, resets)

    def when(self, t0: int, reverse: bool) -> When:
        """The stretch of time that begins at t0, for kernels."""
        return self._whole[reverse] if t0 == 0 else self._from(t0, reverse)

    def _from(self, t0: int, reverse: bool) -> When:
        return When(t0, 0, self.size, reverse, self.lengths, self.order, self.resets)

    def rows(self, t0: int, steps: int) -> int:
        """Steps of sequences within [t0, t0 + steps)."""
        if self.full:
            return steps * self.size
        return int(np.clip(self.lengths - t0, 0, steps).sum())


@functools.lru_cache(maxsize=32)
def _plain(steps: int, size: int) -> Batch:
    """Sequences that are all full, without cuts."""
    return Batch(steps, size, np.full(size, steps, np.int64), np.arange(size, dtype=np.int64), _NO_RESETS)
