"""Threads that wait for work: started when first wanted, as many as were ever wanted."""

from __future__ import annotations

import atexit
import contextlib
import functools
import math
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import types

from .._kernel import cached, compiled
from .._memory import aligned
from . import cost
from . import team as _team
from .team import COMING, LINE, MOST, TELLS, WORDS, Team

#: Seconds: how long a worker looks for a next job before it goes to sleep, how long a call waits for workers at most,
#: and how long the end of the process does for those of a call.
AWAKE, WAIT, LAST = 1e-3, 500e-6, 1.0

#: How long it takes to wake one; for what is not twice as long, nobody waits.
WAKING = 200e-6

#: A shared piece may take so many times what one thread is expected to need.
SLOW = 5


@cached
def _kernel(function: Any) -> Callable[..., Any]:
    """A compiled loop at a desk.  Kept: a forked child may find Numba's compiler locked by a thread that it lacks."""
    return compiled(function, (types.int64, types.int64))


@cached
def _processor() -> Callable[..., int]:
    return compiled(_team.processor_here, ())


def leave(processor: int) -> bool:
    """Go from that processor to another one, if this thread runs there and there is another that it may run on; whether
    it is elsewhere in the end.

    Now and then a thread that is woken is put beside the one that woke it, though another processor has nothing to do,
    and stays there for 10 ms: two that share a call then take longer than one.
    """
    if processor < 0 or _processor()() != processor:
        return True
    with contextlib.suppress(OSError):  # where the system forbids it
        allowed = os.sched_getaffinity(0)  # type: ignore[attr-defined,unused-ignore]
        if len(allowed) > 1:
            os.sched_setaffinity(0, allowed - {processor})  # type: ignore[attr-defined,unused-ignore]
            os.sched_setaffinity(0, allowed)  # type: ignore[attr-defined,unused-ignore]
    return _processor()() != processor


class Worker:
    """A thread, the bell that wakes it and who rang it, and whether it has gone to sleep."""

    def __init__(self, name: str, live: Callable[[Worker], None]) -> None:
        self.bell, self.asleep, self.rung_from = threading.Lock(), False, _processor()()
        self.bell.acquire()
        self.thread = threading.Thread(target=live, args=(self,), name=name, daemon=True)


class Workers:
    """Worker threads and the desk they sit at."""

    def __init__(self) -> None:
        self._desk = aligned((WORDS * LINE // 8,), np.int64)
        self._desk.fill(0)
        self.desk = int(self._desk.__array_interface__["data"][0])
        self._tell(_processor()() >= 0)
        self._serve, self._close, idle = map(_kernel, (_team.serve, _team.close, _team.idle))
        # The shortest of a few: a thread may be interrupted.
        self._look = min(_seconds(functools.partial(idle, self.desk, 500)) for _ in range(5)) / 500
        self._all: list[Worker] = []
        self._lock = threading.RLock()  # a signal's handler may make calls of its own
        self._stopped = self._no_more = False

    def team(self, wanted: int, seconds: float, abreast: int) -> Team:
        """A team for a call that would take one thread so long."""
        self.wake(wanted)
        # Nobody is waited for who isn't there.
        wanted = 1 if self._stopped else min(wanted, MOST, 1 + len(self._all))
        return Team(self.desk, wanted, int(min(WAIT, seconds / 20) / self._look) + 1, abreast)

    def expect(self, seconds: float) -> None:
        """A next job comes within so long: no worker is to go to sleep before."""
        self._desk[COMING * LINE // self._desk.itemsize] = int(seconds / self._look)

    def _tell(self, whether: bool) -> None:
        """Let workers know which processor a caller runs on, if they can do anything about it."""
        self._desk[TELLS * LINE // self._desk.itemsize] = whether

    def wake(self, wanted: int) -> bool:
        """Wake (or start) the workers of a team of so many; whether any wasn't awake."""
        count = min(wanted, MOST) - 1
        if (self._no_more or len(self._all) >= count) and not any(worker.asleep for worker in self._all[:count]):
            return False
        with self._lock:
            if self._stopped:
                return False
            for worker in self._all[:count]:
                self._ring(worker)
            while len(self._all) < count and not self._no_more:
                worker = Worker(f"nbrnn-{len(self._all) + 1}", self._live)
                # Noted before, since an interrupt (Ctrl-C) may come when it has just been started.
                self._all.append(worker)
                try:
                    worker.thread.start()
                except RuntimeError:  # no more threads: calls go on with those there are
                    self._all.pop()
                    self._no_more = True
            return True

    @staticmethod
    def _ring(worker: Worker) -> None:
        if worker.asleep:
            worker.asleep, worker.rung_from = False, _processor()()
            worker.bell.release()

    def _live(self, worker: Worker) -> None:
        looks = max(1, int(AWAKE / self._look))
        while not self._stopped:
            leave(worker.rung_from)
            while self._serve(self.desk, looks) < 0:
                if not leave(_processor()()):
                    self._tell(False)
            with self._lock:
                if self._stopped:
                    return
                worker.asleep = True
            # Who looked just before that is about to open the door, and rings no bell.
            if self._serve(self.desk, looks // 4 + 1):
                with self._lock:
                    if worker.asleep:
                        worker.asleep = False
                        continue
            worker.bell.acquire()

    def stop(self) -> None:
        """Let all threads end: compiled code must not outlive the interpreter."""
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
            for worker in self._all:
                self._ring(worker)
        # A thread that nobody waits for may be in a long call, with workers that would go from job to job.
        last = time.monotonic() + LAST
        self.expect(0)
        self._close(self.desk, int(LAST / self._look))
        for worker in self._all:
            if worker.thread.ident is not None:
                worker.thread.join(max(0.0, last - time.monotonic()))


def _seconds(call: functools.partial[None]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


_workers: Workers | None = None
_former: list[Workers] = []
_making = threading.RLock()


def workers() -> Workers:
    """The workers of this process."""
    global _workers
    if _workers is None:
        with _making:
            if _workers is None:
                made = Workers()
                _workers = _workers or made  # a signal's handler may have been first
    return _workers


def _in_child() -> None:
    """A forked process has none of its parent's threads.

    It keeps the desk: a call in the midst of which it was forked (by a signal's handler) goes on there, alone.
    """
    global _workers, _making
    if _workers is not None:
        _former.append(_workers)
    _workers, _making = None, threading.RLock()


def _at_exit() -> None:
    if _workers is not None:
        _workers.stop()


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)

#: A call that works alone.
ALONE = Team(0, 1, 0, 1)


def rouse(plan: cost.Plan, steps: int) -> int:
    """Wake who would share so many steps; how many of those to do alone in the meantime.

    None if even one takes longer than that.
    """
    if plan.members == 1 or plan.seconds * steps < 2 * WAKING or not workers().wake(plan.members):
        return 0
    if plan.seconds > WAKING:
        return 0
    return min(steps // 2, math.ceil(WAKING / plan.seconds))


def team(plan: cost.Plan, steps: int, alone: int = 0) -> Team:
    """Who shares so many steps; nobody if they are to be done alone."""
    seconds = plan.seconds * steps
    if alone > 0 or plan.members == 1 or seconds < cost.WORTH_IT:
        return ALONE
    return workers().team(plan.members, seconds, plan.abreast)


def team_of_rows(seconds: float, rows: int) -> Team:
    """Who shares so many rows that don't depend on each other, all at once, if each takes one thread so long."""
    if rows == 0 or seconds * rows < cost.WORTH_IT:
        return ALONE
    plan = cost.plan_of_rows(seconds, rows, allowed(), rows)
    rouse(plan._replace(seconds=plan.seconds * rows), 1)  # to wait for those who are asleep, if at all
    return team(plan, rows)


def team_of_moves(size: int, most: int) -> Team:
    """Who shares that so many bytes are brought into another order, at most so many."""
    seconds = size / cost.MOVED
    if seconds < cost.WORTH_IT:
        return ALONE
    plan = cost.plan_of_rows(seconds, 1, min(allowed(), most), 1)
    rouse(plan, 1)
    return team(plan, 1)


class Sharing:
    """The pieces of one call: shared as long as that goes well.

    Workers stay awake from one to the next, even if they have missed one.

    Where other processes want the processors, a member that waits for another may wait for its turn of some
    milliseconds at every step.  A piece that took far too long is therefore the last that is shared.
    """

    def __init__(self, plan: cost.Plan, alone: int) -> None:
        self._plan, self._alone, self._deadline, self._late = plan, alone, math.inf, False

    def __enter__(self) -> Sharing:
        return self

    def __exit__(self, *raised: object) -> None:
        self._expect(0.0)

    def _expect(self, seconds: float) -> None:
        if self._plan.members > 1:
            workers().expect(seconds)

    def team(self, steps: int) -> Team:
        """Who shares the next piece, of so many steps."""
        now, seconds = time.perf_counter(), SLOW * self._plan.seconds * steps
        self._late = self._late or now > self._deadline
        self._expect(0.0 if self._late else seconds)
        found = ALONE if self._late else team(self._plan, steps, self._alone)
        self._alone = 0
        self._deadline = now + seconds if found.wanted > 1 else math.inf
        return found


def most(at_most: int) -> int:
    """Threads that a call will ever use, or ``at_most``."""
    return max(1, min(int(numba.config.NUMBA_NUM_THREADS), MOST, at_most))


def allowed() -> int:
    """Threads that a call may use: as ``numba.set_num_threads`` says, in this thread.

    Numba's own threads are not started for the question: a process that forks may not want them.
    """
    parallel = sys.modules.get("numba.np.ufunc.parallel")
    if parallel is None or not getattr(parallel, "_is_initialized", True):
        return int(numba.config.NUMBA_NUM_THREADS)
    return int(numba.get_num_threads())
