"""Which sequences run at a step, as arrays of integers that kernels read.

Sequences stand in order of falling length, so that those in a tile are about as long.  What is kept of each step of
each sequence has one *row*; rows stand in the order in which steps are run, and there are none for steps past a
sequence's end: whatever stands there, nobody looks at it.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

#: In place of an offset: a row of zeros, or (from here on, falling) rows of a second array.
ZEROS, SECOND = -1, -2


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The steps of one direction.

    Attributes
    ----------
    steps, batch : int
        T and B.
    reverse : bool
    starts : (T + 1,) int32
        Row of the first sequence at each step, in the order in which steps are run: sequence i of those that run has
        row ``starts[s] + i``.
    lengths, order : (B,) int32
        Falling; and the places in the caller's batch.
    cuts : (rows,) uint8, or of size 0
        Whether the step starts from zero state.
    times, places : (rows,) int64
        What each row is of: a time and a place in the caller's batch.
    """

    steps: int
    batch: int
    reverse: bool
    starts: Array
    lengths: Array
    order: Array
    cuts: Array
    times: Array
    places: Array

    @classmethod
    def of(
        cls, steps: int, batch: int, lengths: Array | None, resets: Array | None, reverse: bool, t0: int = 0
    ) -> Schedule:
        """Of the steps [t0, t0 + steps) of sequences with ``lengths`` (B,) and ``resets`` (T, B), or None."""
        whole = t0 + steps if resets is None else len(resets)
        ends = np.full(batch, whole) if lengths is None else np.asarray(lengths)
        given = np.clip(ends - t0, 0, steps)
        order = np.argsort(-given, kind="stable")
        sorted_lengths = given[order]
        now = np.arange(steps - 1, -1, -1) if reverse else np.arange(steps)
        count = np.searchsorted(-sorted_lengths, -now, side="left") if batch else np.zeros(steps, np.int64)
        starts = np.concatenate([[0], np.cumsum(count)])
        if max(steps, batch, starts[-1]) > np.iinfo(np.int32).max:
            most = max(steps, batch, int(starts[-1]))
            raise ValueError(f"{most:,} steps of sequences are more than a kernel can count; run fewer at once")
        times = np.repeat(now, count)
        ranks = np.arange(starts[-1]) - np.repeat(starts[:-1], count)
        places = order[ranks] if batch else np.zeros(0, np.int64)
        cuts = np.zeros(0, np.uint8)
        if resets is not None:
            resets = np.asarray(resets)
            if reverse:
                after = t0 + times + 1
                cuts = ((after < ends[places]) & resets[np.minimum(after, whole - 1), places]).astype(np.uint8)
            else:
                cuts = resets[t0 + times, places].astype(np.uint8)
        return cls(
            steps, batch, reverse, starts.astype(np.int32), sorted_lengths.astype(np.int32), order.astype(np.int32),
            cuts, times.astype(np.int64), places.astype(np.int64),
        )  # fmt: skip

    @property
    def rows(self) -> int:
        """Steps of sequences."""
        return int(self.starts[-1])

    def each(self) -> list[tuple[int, int]]:
        """(first row, number of sequences) of each step at which any runs."""
        starts = self.starts.tolist()
        return [(first, end - first) for first, end in itertools.pairwise(starts) if end > first]

    def places_before(self, width: int) -> Array:
        """(rows,) int64: where each sequence's numbers begin in an array (B, width); ``ZEROS`` after a cut."""
        offsets = self.places * width
        return np.where(self.cuts != 0, ZEROS, offsets) if self.cuts.size else offsets

    def offsets(self, time: int, batch: int) -> Array:
        """(rows,) int64: where each row's numbers begin in an array with such strides, in numbers."""
        return self.times * time + self.places * batch

    def offsets_before(self, time: int, batch: int) -> Array:
        """The same for the h before the step, in y; ``ZEROS`` after a cut, ``SECOND - b`` for the initial state b."""
        before = self.times + 1 if self.reverse else self.times - 1
        lengths = np.zeros(self.batch, np.int64)
        lengths[self.order] = self.lengths
        first = before == lengths[self.places] if self.reverse else before < 0
        offsets = np.where(first, SECOND - self.places, before * time + self.places * batch)
        return np.where(self.cuts != 0, ZEROS, offsets) if self.cuts.size else offsets
