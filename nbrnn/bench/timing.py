"""Timing contenders against each other: in turn, in one process, by medians over rounds."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Results = dict[str, Array]

#: A sample lasts so long at least: enough that the clock and its call cost nothing.  It comes after untimed calls
#: for so long: a processor that has slept takes some milliseconds to be as fast as it was, a second one more.
SAMPLE_SECONDS, WARM_SECONDS = 2e-3, 10e-3
LEAST_ROUNDS, MOST_ROUNDS = 3, 200
#: What is so many times slower than the fastest, and would take that part of the time there is, is timed once.
HOPELESS, LARGE_PART = 20, 0.05
#: Calls up to so long are preceded by an untimed one.
SHORT_SECONDS = 0.1


class Unsupported(Exception):  # noqa: N818
    """A library doesn't do what a line asks for; the message says why."""


@dataclasses.dataclass
class Contender:
    """Something that computes the results of a line.

    Parameters
    ----------
    name : str
        The library.
    threads : int
        How many it may use.
    call : callable
        Computes; this is what is timed.
    read : callable
        Makes named arrays of what ``call`` returns, to be compared; not timed.
    prepare : callable, optional
        Called before ``call``, untimed: sets the number of threads of the process.
    how : str
        Which of several ways of one library this is.
    """

    name: str
    threads: int
    call: Callable[[], Any]
    read: Callable[[Any], Results]
    prepare: Callable[[], None] = lambda: None
    how: str = ""

    def results(self) -> Results:
        """The results of one call."""
        self.prepare()
        return self.read(self.call())


@dataclasses.dataclass
class Step:
    """A step of one sequence, called from Python.

    Parameters
    ----------
    run : callable
        ``run(x, out)`` gives y, of H numbers, and carries the state; ``out`` (H,) may be used for it.
    shape : tuple of int
        Which x it wants.
    inside : callable, optional
        Makes a context manager that steps are taken inside of.
    """

    run: Callable[[Array, Array], Any]
    shape: tuple[int, ...]
    inside: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext


@dataclasses.dataclass
class Timing:
    """Seconds of a call: median and quartiles of the samples, each a mean over so many calls."""

    median: float
    low: float
    high: float
    rounds: int
    calls: int


def measure(contenders: Sequence[Contender], seconds: float) -> list[Timing]:
    """Time contenders in turn: each round takes one sample of each, and begins with another one.

    What slows the machine down for a while so slows all of them.  Before each sample, the threads of the contender
    before have stopped, and untimed calls have woken this one's.  A contender that is far slower than the fastest, or
    one call of which takes longer than all the time there is, is timed once.

    Parameters
    ----------
    contenders : sequence of Contender
        Each has been called before: everything is compiled.
    seconds : float
        About how long this may take; at least three rounds are done.

    Returns
    -------
    list of Timing
        In the order of the contenders.
    """
    once = [min(_sample(contender, 1) for _ in range(2)) for contender in contenders]
    calls = [max(1, math.ceil(SAMPLE_SECONDS / max(taken, 1e-9))) for taken in once]
    most = min(seconds, max(HOPELESS * min(once, default=0.0), LARGE_PART * seconds))
    samples = [[taken] if taken > most else [] for taken in once]
    turn = [i for i, taken in enumerate(samples) if not taken]
    begun, rounds = time.perf_counter(), 0
    while turn and (rounds < LEAST_ROUNDS or time.perf_counter() - begun < seconds) and rounds < MOST_ROUNDS:
        for i in turn:
            samples[i].append(_sample(contenders[i], calls[i]))
        turn = turn[1:] + turn[:1]
        rounds += 1
    return [timing(taken, n) for taken, n in zip(samples, calls, strict=True)]


def _sample(contender: Contender, calls: int) -> float:
    """Mean seconds of a number of calls."""
    settle()
    contender.prepare()
    begun, taken = time.perf_counter(), -1.0
    while taken < WARM_SECONDS:
        contender.call()  # wakes its threads up, and fetches what the one before has driven out of the caches
        taken = time.perf_counter() - begun
    if calls == 1 and taken > SHORT_SECONDS:
        return taken
    begun = time.perf_counter()
    for _ in range(calls):
        contender.call()
    return (time.perf_counter() - begun) / calls


def settle() -> None:
    """Wait until no thread of this process runs: those of some libraries go on spinning for up to 50 ms after a call,
    and would take time from the next contender.

    What a thread on another processor has used is told at that one's clock ticks only, up to 10 ms apart.
    """
    for _ in range(20):
        before = time.process_time()
        time.sleep(0.012)
        if time.process_time() - before < 0.001:
            break


def timing(samples: Sequence[float], calls: int) -> Timing:
    """Median and quartiles of samples."""
    low, high = np.quantile(samples, (0.25, 0.75))
    return Timing(statistics.median(samples), float(low), float(high), len(samples), calls)
