"""Threads that wait for work: started when first wanted, as many as were ever wanted."""

from __future__ import annotations

import atexit
import functools
import math
import os
import sys
import threading
import time

import numba
import numpy as np
from numba import types

from .._kernel import compiled
from .._memory import aligned
from . import cost
from . import team as _team
from .team import LINE, MOST, WORDS, Team

#: How long a worker looks for a next job before it goes to sleep, and how long a call waits for workers, in seconds.
AWAKE, WAIT = 200e-6, 50e-6

#: How long it takes to wake one; for what is not twice as long, nobody waits.
WAKING = 200e-6


class Workers:
    """Worker threads and the desk they sit at."""

    def __init__(self) -> None:
        # int64: the words, then how many looks there are
        self._desk = aligned((WORDS * LINE // 8,), np.int64)
        self._desk.fill(0)
        self.desk = int(self._desk.__array_interface__["data"][0])
        self._serve = compiled(_team.serve, (types.int64, types.int64))
        idle = compiled(_team.idle, (types.int64, types.int64))
        # The shortest of a few: a thread may be interrupted.
        self._look = min(_seconds(functools.partial(idle, self.desk, 500)) for _ in range(5)) / 500
        self._bells: list[threading.Lock] = []
        self._asleep: list[bool] = []
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._stopped = False

    def team(self, wanted: int, seconds: float, abreast: int) -> Team:
        """A team for a call that would take one thread so long."""
        wanted = min(wanted, MOST)
        self.wake(wanted)
        return Team(self.desk, wanted, int(min(WAIT, seconds / 20) / self._look) + 1, abreast)

    def wake(self, wanted: int) -> bool:
        """Wake (or start) the workers of a team of so many; whether any wasn't awake."""
        count = min(wanted, MOST) - 1
        if len(self._bells) >= count and not any(self._asleep[:count]):
            return False
        with self._lock:
            if self._stopped:
                return False
            for n in range(count):
                if n == len(self._bells):
                    bell = threading.Lock()
                    bell.acquire()
                    thread = threading.Thread(target=self._live, args=(n, bell), name=f"nbrnn-{n + 1}", daemon=True)
                    try:
                        thread.start()
                    except RuntimeError:  # no more threads: the call goes on with those there are
                        return True
                    self._threads.append(thread)
                    self._bells.append(bell)
                    self._asleep.append(False)
                elif self._asleep[n]:
                    self._asleep[n] = False
                    self._bells[n].release()
        return True

    def _live(self, n: int, bell: threading.Lock) -> None:
        looks = max(1, int(AWAKE / self._look))
        while not self._stopped:
            self._serve(self.desk, looks)
            with self._lock:
                if self._stopped:
                    return
                self._asleep[n] = True
            # Who looked just before that is about to open the door, and rings no bell.
            if self._serve(self.desk, looks // 4 + 1):
                with self._lock:
                    if self._asleep[n]:
                        self._asleep[n] = False
                        continue
            bell.acquire()

    def stop(self) -> None:
        """Let all threads end: compiled code must not outlive the interpreter."""
        with self._lock:
            self._stopped = True
            for n, bell in enumerate(self._bells):
                if self._asleep[n]:
                    self._asleep[n] = False
                    bell.release()
        for thread in self._threads:
            thread.join(1.0)


def _seconds(call: functools.partial[None]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


_workers: Workers | None = None
_making = threading.Lock()


def workers() -> Workers:
    """The workers of this process."""
    global _workers
    if _workers is None:
        with _making:
            if _workers is None:
                _workers = Workers()
    return _workers


def _in_child() -> None:
    """A forked process has none of its parent's threads."""
    global _workers, _making
    _workers, _making = None, threading.Lock()


def _at_exit() -> None:
    if _workers is not None:
        _workers.stop()


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)

#: A call that works alone.
ALONE = Team(0, 1, 0, 1)


def rouse(plan: cost.Plan, steps: int) -> int:
    """Wake who would share so many steps; how many of those to do alone in the meantime."""
    if plan.members == 1 or plan.seconds * steps < 2 * WAKING or not workers().wake(plan.members):
        return 0
    return min(steps // 2, math.ceil(WAKING / plan.seconds))


def team(plan: cost.Plan, steps: int, alone: int = 0) -> Team:
    """Who shares so many steps; nobody if they are to be done alone."""
    seconds = plan.seconds * steps
    if alone > 0 or plan.members == 1 or seconds < cost.WORTH_IT:
        return ALONE
    return workers().team(plan.members, seconds, plan.abreast)


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
