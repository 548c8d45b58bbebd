"""Single steps: from Python, by streams; and in compiled code, by ``nbrnn.jit.run``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numba
import numpy as np

from .. import jit
from .again import run_again
from .compare import Peaks, conclusions
from .grid import Line, Shape
from .peers import PEERS
from .problem import Problem, difference, failure, judgement
from .timing import Array, Step, settle, timing

#: Calls of one contender before it is the next one's turn; inputs that are gone through again and again.
TURN, INPUTS = 480, 16
LEAST_TURNS = 4


def stream(
    cell: str, dtype: str, size: tuple[int, int], peers: Sequence[str], seconds: float, peaks: Peaks
) -> dict[str, Any]:
    """Latencies of one step of one sequence from Python, each call timed by itself, all on one thread.

    Parameters
    ----------
    cell, dtype : str
    size : tuple of int
        I and H.
    peers : sequence of str
        Names of ``PEERS``, all of them installed; those without a ``step`` are left out.
    seconds : float
        About how long the timing may take.
    peaks : mapping
        What the machine can do.

    Returns
    -------
    dict
        As for a line, each result with ``seconds`` (the median) and ``p999``.
    """
    numba.set_num_threads(1)
    line = Line(cell, dtype, "inference", Shape(1, 1, *size))
    problem = Problem(line)
    xs = np.random.default_rng(1).normal(size=(INPUTS, 1, size[0])).astype(dtype)
    wanted, out = problem.layer(xs)[0], np.empty(size[1], dtype)
    results = []
    right: list[tuple[dict[str, Any], Step]] = []
    for name in ("nbrnn", *(peer for peer in peers if PEERS[peer].step)):
        record: dict[str, Any] = {"name": name, "threads": 1}
        results.append(record)
        try:
            step = _ours(problem) if name == "nbrnn" else PEERS[name].step(problem)  # type: ignore[misc]
            record |= judgement(dtype, difference({"y": wanted}, {"y": _outputs(step, xs, out).reshape(wanted.shape)}))
        except Exception as error:
            record |= failure(error)
        if record["status"] == "ok":
            right.append((record, step))
    for (record, _), taken in zip(right, _latencies([step for _, step in right], xs, out, seconds), strict=True):
        record |= {"seconds": float(np.median(taken)), "p999": float(np.quantile(taken, 0.999)), "calls": taken.size}
    return line.fields() | {"results": results} | conclusions(line, results, peaks)


def _ours(problem: Problem) -> Step:
    return Step(problem.layer.stream(), (problem.line.shape.I,))


def _outputs(step: Step, xs: Array, out: Array) -> Array:
    """y of every step."""
    with step.inside():
        return np.stack([np.array(step.run(x.reshape(step.shape), out)) for x in xs])


def _latencies(steps: Sequence[Step], xs: Array, out: Array, seconds: float) -> list[Array]:
    """Seconds of each call of each step, a few hundred calls in turn."""
    taken: list[list[float]] = [[] for _ in steps]
    turn, begun, turns = list(range(len(steps))), time.perf_counter(), 0
    while turns < LEAST_TURNS or time.perf_counter() - begun < seconds:
        for i in turn:
            settle()
            _outputs(steps[i], xs, out)  # what the one before has driven out of the caches comes back untimed
            run, room = steps[i].run, taken[i]
            inputs = [x.reshape(steps[i].shape) for x in xs] * (TURN // INPUTS)
            with steps[i].inside():
                for x in inputs:
                    before = time.perf_counter()
                    run(x, out)
                    room.append(time.perf_counter() - before)
        turn = turn[1:] + turn[:1]
        turns += 1
    return [np.array(room) for room in taken]


def compiled(cell: str, dtype: str, size: tuple[int, int], seconds: float) -> dict[str, Any]:
    """Seconds of one step inside compiled code, in sequences of a thousand.

    Parameters
    ----------
    cell, dtype : str
    size : tuple of int
        I and H.
    seconds : float
        About how long the timing may take.

    Returns
    -------
    dict
        The fields of a line, ``seconds`` of a step (the median) and ``gflops``.
    """
    steps, line = 1000, Line(cell, dtype, "inference", Shape(1, 1, *size))
    problem = Problem(line)
    net, x = problem.layer.jit(), np.random.default_rng(1).normal(size=(steps, size[0])).astype(dtype)
    state, y = jit.zero_state(net), np.empty((steps, size[1]), dtype)
    run_again(net, x, state, y, 1)
    taken: list[float] = []
    begun = time.perf_counter()
    while len(taken) < LEAST_TURNS or time.perf_counter() - begun < seconds:
        before = time.perf_counter()
        run_again(net, x, state, y, 10)
        taken.append((time.perf_counter() - before) / (10 * steps))
    median = timing(taken, 10 * steps).median
    return line.fields() | {"seconds": median, "gflops": line.flops() / median / 1e9}
