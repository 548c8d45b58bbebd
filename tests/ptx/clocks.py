"""What each thread knows of what others have done: vector clocks.

Time is one counter for the whole grid, moved on by each synchronisation.  Thread t *knows* thread u up to a time: all
that u did until then happened before whatever t does now.  Knowledge is a row with a time for each thread; threads
that left a barrier together share a row, so that a launch of 16,384 threads needs a few dozen.  `bar.warp.sync` would
make a row for each warp: what it teaches stands in a small table beside the rows, for the threads of one's own warp.

Knowledge passes

- between all who take part in a barrier (`bar.sync`, `bar.warp.sync`, the grid's),
- from a release to an acquire that reads it: at its location lies what the releasing thread knew.  A fence followed
  by a relaxed write is a release of what was known *at the fence*; a relaxed read followed by a fence an acquire.
  Atomic read-modify-writes keep what lies there, other writes replace it.  A scope of `.cta` reaches one block.

This is PTX's memory model as its manual states it (causality order; release and acquire patterns), except that the
value read is always the last one written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from tests.ptx.errors import PtxError
from tests.ptx.grid import Grid
from tests.ptx.operands import Array

#: How races.py packs an access: time, flags, lane.
TIME_SHIFT, FLAG_SHIFT = 25, 22
LANE_MASK = (1 << FLAG_SHIFT) - 1
#: Rows may take this much memory.
MOST_BYTES = 2**30


class Knowledge:
    """What lies at a location, or waits for a fence: a row, and times of a few threads beside it."""

    __slots__ = ("points", "row", "shared")

    def __init__(self, row: Array, points: dict[int, int]):
        self.row, self.points, self.shared = row, points, True

    def join(self, other: Knowledge) -> None:
        if other.row is not self.row:
            if self.shared:
                self.row, self.shared = self.row.copy(), False
            np.maximum(self.row, other.row, out=self.row)
        for lane, time in other.points.items():
            self.points[lane] = max(time, self.points.get(lane, 0))

    def copy(self) -> Knowledge:
        self.shared = True  # whoever changes it next makes a copy
        return Knowledge(self.row, dict(self.points))


@dataclass
class Location:
    """Released knowledge at an address: for all blocks, and for those within one block."""

    grid: Knowledge | None = None
    block: dict[int, Knowledge] = field(default_factory=dict)
    version: int = 0


class Clocks:
    """Knowledge of all threads, and the passing of it."""

    def __init__(self, grid: Grid):
        self.grid = grid
        if grid.N > LANE_MASK:
            raise PtxError(f"{grid.N} threads are more than races are watched for ({LANE_MASK})")
        self.begin_anew()

    def begin_anew(self) -> None:
        """Nobody knows anything of anybody."""
        N = self.grid.N
        self.now = 1
        self.rows = np.zeros((4, N), np.int32)
        self.row = np.zeros(N, np.intp)  # of each thread
        self.used = 1
        self.free: list[int] = []
        self.copies: dict[int, Array] = {}  # of rows that lie somewhere
        self.of_warp: Array | None = None  # (N, 32): known of one's own warp
        #: Accesses packed below these are known, whoever made them: anyone, or anyone of one's own block.
        self.floor = np.full(N, 1 << TIME_SHIFT, np.int64)
        self.block_floor = self.floor.copy()
        self.fence_row = np.full(N, -1, np.intp)
        self.fence_time = np.zeros(N, np.int64)
        self.fence_wide = np.zeros(N, bool)  # of gpu or system scope
        self.fence_warp: Array | None = None
        self.any_fence = False
        self.locations: dict[tuple[int, int], Location] = {}
        self.waiting: dict[int, tuple[Knowledge | None, Knowledge | None]] = {}  # for a fence: of any block, of its own
        self.versions = 0
        self.seen: dict[tuple[int, tuple[int, int]], int] = {}

    # Knowledge of single threads

    def known(self, of: Array, to: Array) -> Array:
        """Until when thread `to` knows thread `of`, for each pair."""
        times = self.rows[self.row[to], of]
        if self.of_warp is not None:
            same = self.grid.warp[of] == self.grid.warp[to]
            times = np.where(same, np.maximum(times, self.of_warp[to, self.grid.in_warp[of]]), times)
        return times

    def _new_row(self, values: Array) -> int:
        if not self.free and self.used == len(self.rows):
            self._collect()
        if self.free:
            number = self.free.pop()
        else:
            number, self.used = self.used, self.used + 1
        self.rows[number] = values
        return number

    def _collect(self) -> None:
        """Find rows that nobody needs; make room if there are few."""
        needed = np.zeros(self.used, bool)
        needed[self.row] = True
        needed[self.fence_row[self.fence_row >= 0]] = True
        self.free = [int(i) for i in np.flatnonzero(~needed)]
        for number in self.free:
            self.copies.pop(number, None)
        if len(self.free) < len(self.rows) // 2:
            if 2 * self.rows.nbytes > MOST_BYTES:
                raise PtxError("too many threads know different things: watch fewer threads, or switch races off")
            self.rows = np.concatenate([self.rows, np.zeros_like(self.rows)])

    def _copy(self, number: int) -> Array:
        if number not in self.copies:
            self.copies[number] = self.rows[number].copy()
        return self.copies[number]

    def _give(self, lanes: Array, values: Array) -> None:
        """Threads know a row from now on."""
        self.row[lanes] = self._new_row(values)
        self.floor[lanes] = (int(values.min()) + 1) << TIME_SHIFT
        by_block = values.reshape(self.grid.blocks, -1).min(axis=1).astype(np.int64)
        self.block_floor[lanes] = (by_block[self.grid.block[lanes]] + 1) << TIME_SHIFT

    def _joined(self, lanes: Array) -> Array:
        """All that some threads know, as a new row."""
        numbers = np.unique(self.row[lanes])
        values = self.rows[numbers[0]].copy() if len(numbers) == 1 else self.rows[numbers].max(axis=0)
        if self.of_warp is not None:
            self._fold(values, lanes, self.of_warp)
        return values

    def _fold(self, values: Array, lanes: Array, of_warp: Array) -> None:
        columns = self.grid.warp_start[lanes][:, None] + np.arange(32)
        inside = columns < self.grid.N
        np.maximum.at(values, columns[inside], of_warp[lanes][inside])

    # Barriers

    def barrier(self, lanes: Array, arrived: list[tuple[Array, Array]] = []) -> None:  # noqa: B006 (never changed)
        """Threads meet; others that `bar.arrive` counted teach only what they knew then."""
        if len(lanes):
            values = self._joined(lanes)
            for others, known in arrived:
                np.maximum(values, known, out=values)
                values[others] = np.maximum(values[others], known[others])
            values[lanes] = self.now
            self._give(lanes, values)
        self.now += 1

    def arrive(self, lanes: Array) -> tuple[Array, Array]:
        """What threads know that go on without waiting."""
        values = self._joined(lanes)
        values[lanes] = self.now
        self.now += 1
        return lanes, values

    def warp_barrier(self, lanes: Array) -> None:
        """Threads of one warp meet, for each warp among some lanes (sorted)."""
        g = self.grid
        if self.of_warp is None:
            self.of_warp = np.zeros((g.N, 32), np.int32)
        starts = np.flatnonzero(np.diff(g.warp[lanes], prepend=-1))
        counts = np.diff(np.append(starts, len(lanes)))
        first = np.repeat(lanes[starts], counts)
        different = self.row[lanes] != self.row[first]
        if np.count_nonzero(different):
            for warp in np.unique(g.warp[lanes[different]]):
                members = lanes[g.warp[lanes] == warp]
                values = self.rows[np.unique(self.row[members])].max(axis=0)
                self._give(members, values)
        known = np.maximum.reduceat(self.of_warp[lanes], starts)
        known[np.repeat(np.arange(len(starts)), counts), g.in_warp[lanes]] = self.now
        self.of_warp[lanes] = np.repeat(known, counts, axis=0)
        self.now += 1

    # Fences, releases and acquires

    def fence(self, lanes: Array, wide: bool) -> None:
        """Threads execute a fence of gpu or system scope (wide), or of their block."""
        if self.waiting:
            for lane in self.waiting.keys() & set(lanes.tolist()):
                anyone, own = self.waiting.pop(lane)
                if own:
                    self._learn(lane, own)
                if anyone and wide:
                    self._learn(lane, anyone)
                elif anyone:
                    self.waiting[lane] = anyone, None
        self.fence_row[lanes], self.fence_time[lanes], self.fence_wide[lanes] = self.row[lanes], self.now, wide
        if self.of_warp is not None:
            if self.fence_warp is None:
                self.fence_warp = np.zeros_like(self.of_warp)
            self.fence_warp[lanes] = self.of_warp[lanes]
        self.any_fence = True
        self.now += 1

    def _learn(self, lane: int, what: Knowledge) -> None:
        known = self.rows[self.row[lane]]
        values = np.maximum(known, what.row)
        for other, time in what.points.items():
            values[other] = max(values[other], time)
        if not np.array_equal(values, known):
            self._give(np.array([lane]), values)

    def _released(self, lane: int, from_fence: bool) -> Knowledge:
        number = int(self.fence_row[lane] if from_fence else self.row[lane])
        what = Knowledge(self._copy(number), {lane: int(self.fence_time[lane]) if from_fence else self.now})
        of_warp = self.fence_warp if from_fence else self.of_warp
        if of_warp is not None:
            start = int(self.grid.warp_start[lane])
            for i in np.flatnonzero(of_warp[lane]):
                other = start + int(i)
                if other != lane:
                    what.points[other] = int(of_warp[lane, i])
        return what

    def strong(self, lanes: Array, keys: Callable[[int], tuple[int, int]], order: str, wide: bool, kind: str) -> None:
        """Threads access locations by relaxed or stronger operations, one thread after the other.

        Parameters
        ----------
        lanes : ndarray
            Which threads.
        keys : callable
            The location that the i-th of them accesses.
        order : {"relaxed", "acquire", "release", "acq_rel"}
        wide : bool
            Whether the scope is more than the block.
        kind : {"read", "write", "both"}
        """
        releases, acquires = order in ("release", "acq_rel"), order in ("acquire", "acq_rel")
        if not releases and not self.locations and not (self.any_fence and kind != "read"):
            return
        for i, lane in enumerate(lanes.tolist()):
            key = keys(i)
            location = self.locations.get(key)
            if kind != "write" and location is not None:
                self._read(lane, key, location, acquires, wide)
            if kind == "read":
                continue
            fenced = self.fence_row[lane] >= 0
            if not (releases or fenced):
                if location is not None and kind == "write":
                    del self.locations[key]  # no read-modify-write: what was released can't be read any more
                continue
            if location is None or kind == "write":
                location = self.locations[key] = Location()
            if fenced:
                self._put(lane, location, self._released(lane, True), wide and bool(self.fence_wide[lane]))
            if releases:
                self._put(lane, location, self._released(lane, False), wide)
            self.versions += 1
            location.version = self.versions
        if releases:
            self.now += 1

    def _put(self, lane: int, location: Location, what: Knowledge, wide: bool) -> None:
        block = int(self.grid.block[lane])
        if wide:
            if location.grid is None:
                location.grid = what.copy()
            else:
                location.grid.join(what)
        if block in location.block:
            location.block[block].join(what)
        else:
            location.block[block] = what

    def _read(self, lane: int, key: tuple[int, int], location: Location, acquires: bool, wide: bool) -> None:
        seen = (lane, key)
        if not acquires:
            # The same again waits already, unless a fence has taken it; then it is known.
            if self.seen.get(seen) == location.version:
                return
            self.seen[seen] = location.version
        own = location.block.get(int(self.grid.block[lane]))
        if acquires:
            if wide and location.grid is not None:
                self._learn(lane, location.grid)
            if own is not None:
                self._learn(lane, own)
            return
        anyone = location.grid.copy() if wide and location.grid is not None else None
        mine = own.copy() if own is not None else None
        if lane in self.waiting:
            before = self.waiting[lane]
            for new, old in zip((anyone, mine), before, strict=True):
                if new is not None and old is not None:
                    new.join(old)
            anyone, mine = anyone or before[0], mine or before[1]
        self.waiting[lane] = anyone, mine
