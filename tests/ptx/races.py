"""Who has read and written each unit of a buffer, and whether another access is ordered after that.

A unit is a word of four bytes until something narrower is accessed; then a byte.  Of each unit are kept: the last
write; the last read, and whether several threads have read since; and of the threads that have read since the last
write two in each of four columns, which are warps of a block or blocks of a grid (modulo four); the same again for
relaxed and stronger operations, which conflict with fewer others.  Reads by others are forgotten: a write that comes too early for a forgotten thread is found unless it comes in time for all that are kept.

An access is one int64: time, three flags, lane.  Times only grow, so one comparison says for most accesses that
everyone knows what came before.
"""

from __future__ import annotations

import numpy as np

from tests.ptx.clocks import FLAG_SHIFT, LANE_MASK, TIME_SHIFT, Clocks
from tests.ptx.errors import Fault
from tests.ptx.grid import Grid
from tests.ptx.operands import Array, Lanes

#: Flags: a relaxed or stronger operation; of the scope of a block only; that writes too.
STRONG, NARROW, WRITES = 1 << FLAG_SHIFT, 2 << FLAG_SHIFT, 4 << FLAG_SHIFT
#: Columns of warps or blocks; as many again for relaxed and stronger operations.
GROUPS, COLUMNS = 4, 8
#: Reads that are noted before they are entered.
MOST_NOTED = 32768


class Shadow:
    """Accesses to the units of one buffer."""

    def __init__(self, clocks: Clocks, units: int, shared: bool, name: str):
        grid = clocks.grid
        self.clocks, self.units, self.name = clocks, units, name
        self.floor = clocks.block_floor if shared else clocks.floor
        self.column = (grid.warp if shared or grid.blocks == 1 else grid.block) % GROUPS
        self.write: Array | None = None
        self.weak_write: Array | None = None  # the last that wasn't strong, where others were
        self.read: Array | None = None  # the last
        self.several: Array = np.zeros(0, bool)  # these two are made when something is first read
        self.slots: Array = np.zeros((2, 0), np.int64)
        self.any_strong = False
        self.noted: list[tuple[Array, Array]] = []  # units and packed reads
        self.count = 0
        self.by_warps = True  # all that are noted are of whole warps, in their order

    def split(self, parts: int) -> None:
        """Make each unit into several, which have the same past."""
        self._settle()
        self.units *= parts
        if self.write is not None:
            self.write = np.repeat(self.write, parts)
        if self.weak_write is not None:
            self.weak_write = np.repeat(self.weak_write, parts)
        if self.read is not None:
            self.read, self.several = np.repeat(self.read, parts), np.repeat(self.several, parts)
            self.slots = np.repeat(self.slots.reshape(2, -1, COLUMNS), parts, axis=1).reshape(2, -1)

    def _make_reads(self) -> None:
        self.read = np.zeros(self.units, np.int64)
        self.several = np.zeros(self.units, bool)
        self.slots = np.zeros((2, self.units * COLUMNS), np.int64)

    def reads(self, units: Array, lanes: Array, ix: Lanes, flags: int = 0) -> None:
        """Threads read units: report a write that isn't ordered before, and remember."""
        self.any_strong |= bool(flags & STRONG)
        if self.write is not None:
            self._check(self.write[units], units, lanes, self.floor[ix], flags, "reads", "written")
        if self.weak_write is not None:
            self._check(self.weak_write[units], units, lanes, self.floor[ix], flags, "reads", "written")
        if self.any_strong and not flags & STRONG:
            self._check_slots(units, lanes, flags | WRITES, "reads", "atomically written", WRITES)
        self._remember(units, lanes, flags)

    def _remember(self, units: Array, lanes: Array, flags: int) -> None:
        """Note reads; many are looked at together, before the next write."""
        n = len(units)
        whole = n % 32 == 0 and self.clocks.grid.threads % 32 == 0 and lanes[0] % 32 == 0
        self.by_warps &= whole and bool(lanes[-1] - lanes[0] == n - 1)
        self.noted.append((units, (self.clocks.now << TIME_SHIFT | flags) + lanes))
        self.count += n
        if self.count > MOST_NOTED:
            self._settle()

    def _settle(self) -> None:
        """Enter the reads that were noted, in their order."""
        if not self.noted:
            return
        if self.read is None:
            self._make_reads()
            assert self.read is not None
        noted, self.noted, self.count = self.noted, [], 0
        by_warps, self.by_warps = self.by_warps, True
        units = noted[0][0] if len(noted) == 1 else np.concatenate([n[0] for n in noted])
        now = noted[0][1] if len(noted) == 1 else np.concatenate([n[1] for n in noted])
        if by_warps:  # of whole warps whose threads all read one unit, the ends are enough: two are kept anyway
            rows = units.reshape(-1, 32)
            wanted = np.ones(rows.shape, bool)
            wanted[:, 1:31] = ~(rows == rows[:, :1]).all(axis=1)[:, None]
            units, now = rows[wanted], now.reshape(-1, 32)[wanted]
        lanes = now & LANE_MASK
        before = self.read[units]
        self.read[units] = now  # of those of one unit the last stays
        others = ((before != 0) & ((before & LANE_MASK) != lanes)) | ((self.read[units] & LANE_MASK) != lanes)
        if np.count_nonzero(others):
            self.several[units[others]] = True
        first, second = self.slots
        place = units * COLUMNS + self.column[lanes]
        if self.any_strong:
            place += np.where(now & STRONG, GROUPS, 0)
        kept = first[place]
        first[place] = now
        winner = first[place] & LANE_MASK
        moved = (kept != 0) & ((kept & LANE_MASK) != winner)
        if np.count_nonzero(moved):
            second[place[moved]] = kept[moved]
        lost = winner != lanes
        if np.count_nonzero(lost):
            second[place[lost]] = now[lost]

    def writes(self, units: Array, lanes: Array, ix: Lanes, flags: int = 0) -> None:
        """Threads write units: report accesses that aren't ordered before, and remember."""
        floor = self.floor[ix]
        if self.write is None:
            self.write = np.zeros(self.units, np.int64)
        else:
            self._check(self.write[units], units, lanes, floor, flags, "writes", "written")
            if self.weak_write is not None:
                self._check(self.weak_write[units], units, lanes, floor, flags, "writes", "written")
        self._settle()
        if self.read is not None:
            last = self.read[units]
            open_ = (last >= floor) & (((last & LANE_MASK) != lanes) | self.several[units])
            if np.count_nonzero(open_):
                at = np.flatnonzero(open_)
                self._check_slots(units[at], lanes[at], flags, "writes", "read", 0)
            if not flags & STRONG and np.count_nonzero(last):
                # Whatever is ordered after this write is ordered after these reads too.
                old = units[last != 0]
                self.read[old], self.several[old] = 0, False
                self.slots.reshape(2, -1, COLUMNS)[:, old] = 0
        now = (self.clocks.now << TIME_SHIFT | flags | WRITES) + lanes
        if flags & STRONG:
            if self.weak_write is None:
                self.weak_write = self.write.copy()
            self.any_strong = True
        elif self.weak_write is not None:
            self.weak_write[units] = now
        self.write[units] = now
        if flags & STRONG:
            self._remember(units, lanes, flags | WRITES)
            if not flags & NARROW:
                return
        lost = self.write[units] != now
        if flags & STRONG and np.count_nonzero(lost):
            block = self.clocks.grid.block
            lost &= block[self.write[units] & LANE_MASK] != block[lanes]
        if np.count_nonzero(lost):
            i = int(np.flatnonzero(lost)[0])
            other = int(self.write[units[i]]) & LANE_MASK
            self._report(int(lanes[i]), other, "writes", "writes at the same time")

    def _check(self, past: Array, units: Array, lanes: Array, floor: Array, flags: int, does: str, did: str) -> None:
        late = past >= floor
        if not np.count_nonzero(late):
            return
        at = np.flatnonzero(late)
        at = at[(past[at] & LANE_MASK) != lanes[at]]
        if len(at):
            bad = self._unordered(past[at], lanes[at], flags)
            if len(bad):
                i = int(at[bad[0]])
                self._report(int(lanes[i]), int(past[i]) & LANE_MASK, does, did)

    def _check_slots(self, units: Array, lanes: Array, flags: int, does: str, did: str, only: int) -> None:
        """Compare with all reads that are kept; `only` those with a flag."""
        self._settle()
        if self.read is None:
            return
        kept = self.slots.reshape(2, -1, COLUMNS)[:, units].transpose(1, 0, 2).reshape(len(units), -1)
        open_ = (kept != 0) & ((kept & LANE_MASK) != lanes[:, None])
        if only:
            open_ &= (kept & only) != 0
        row, column = np.nonzero(open_)
        if len(row):
            past = kept[row, column]
            bad = self._unordered(past, lanes[row], flags)
            if len(bad):
                i = bad[0]
                self._report(int(lanes[row[i]]), int(past[i]) & LANE_MASK, does, did)

    def _unordered(self, past: Array, lanes: Array, flags: int) -> Array:
        """Which of some accesses by other threads aren't ordered before what threads do now."""
        others = past & LANE_MASK
        bad = (past >> TIME_SHIFT) > self.clocks.known(others, lanes)
        if flags & STRONG:
            # Relaxed and stronger operations don't race with each other where the scope of both holds the other.
            block = self.clocks.grid.block
            narrow = ((past & NARROW) != 0) | bool(flags & NARROW)
            bad &= ~(((past & STRONG) != 0) & (~narrow | (block[others] == block[lanes])))
        return np.flatnonzero(bad)

    def _report(self, lane: int, other: int, does: str, did: str) -> None:
        grid: Grid = self.clocks.grid
        what = (
            f"{does} what {grid.say(other)} has {did}"
            if "same time" not in did
            else f"{does} where {grid.say(other)} {did}"
        )
        raise Fault("race", f"{what} in {self.name}, and no barrier or release and acquire orders the two", lane)
