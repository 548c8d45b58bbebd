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
    """

    steps: int
    batch: int
    reverse: bool
    starts: Array
    lengths: Array
    order: Array
    cuts: Array

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
        most = max(steps, batch, int(starts[-1]))
        if most > np.iinfo(np.int32).max:
            raise ValueError(f"{most:,} steps of sequences are more than a kernel can count; run fewer at once")
        cuts = np.zeros(0, np.uint8)
        if resets is not None:
            times = np.repeat(now, count)
            places = order[np.arange(starts[-1]) - np.repeat(starts[:-1], count)]
            if reverse:
                after = t0 + times + 1
                cuts = ((after < ends[places]) & resets[np.minimum(after, whole - 1), places]).astype(np.uint8)
            else:
                cuts = resets[t0 + times, places].astype(np.uint8)
        return cls(
            steps,
            batch,
            reverse,
            starts.astype(np.int32),
            sorted_lengths.astype(np.int32),
            order.astype(np.int32),
            cuts,
        )

    @property
    def rows(self) -> int:
        """Steps of sequences."""
        return int(self.starts[-1])

    @property
    def alike(self) -> int | None:
        """Steps of each sequence if all have as many, and none is cut: ``order`` is the caller's then.  Else None."""
        some = len(self.lengths) > 0 and self.cuts.size == 0
        return int(self.lengths[0]) if some and self.lengths[0] == self.lengths[-1] else None

    def each(self) -> list[tuple[int, int]]:
        """(first row, number of sequences) of each step at which any runs."""
        starts = self.starts.tolist()
        return [(first, end - first) for first, end in itertools.pairwise(starts) if end > first]
