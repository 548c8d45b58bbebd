"""A line of the table: nbrnn and its peers on one layer, checked against each other, then timed in turn."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from . import problem as problems
from .grid import Line
from .peers import PEERS
from .problem import Problem
from .timing import Contender, Timing, measure

#: GFLOP/s of multiply-adds by dtype and number of threads.
Peaks = Mapping[tuple[str, int], float]


def run(line: Line, peers: Sequence[str], threads: Sequence[int], seconds: float, peaks: Peaks) -> dict[str, Any]:
    """Measure a line.

    Parameters
    ----------
    line : Line
    peers : sequence of str
        Names of ``PEERS``, all of them installed.
    threads : sequence of int
        Numbers of threads to try, 1 first.
    seconds : float
        About how long the timing may take; checks, compilation and warming up come on top.
    peaks : mapping
        What the machine can do.

    Returns
    -------
    dict
        The line's fields, ``results`` (one for each contender, with its error and seconds) and what follows from
        them, see ``conclusions``.
    """
    problem = Problem(line)
    ours = problems.contenders(problem, threads)
    wanted = ours[0].results()
    checked = [_check(line, contender, wanted) for contender in ours]
    for name in peers:
        checked += _try(problem, name, threads, wanted)
    right = [(contender, record) for contender, record in checked if record["status"] == "ok" and contender]
    for (_, record), timing in zip(right, measure([c for c, _ in right], seconds), strict=True):
        record |= fields(timing)
    results = [record for _, record in checked]
    return line.fields() | {"results": results} | conclusions(line, results, peaks)


_Checked = tuple[Contender | None, dict[str, Any]]


def _try(problem: Problem, name: str, threads: Sequence[int], wanted: dict[str, Any]) -> list[_Checked]:
    """A peer's contenders with their errors, or a record of why there are none: a failure of one stops no other."""
    try:
        return [_check(problem.line, c, wanted) for c in PEERS[name].contenders(problem, threads)]
    except Exception as error:
        return [(None, {"name": name} | problems.failure(error))]


def _check(line: Line, contender: Contender, wanted: dict[str, Any]) -> _Checked:
    """A contender with its record: called twice, the second time to see that it gives the same again."""
    error = max(problems.difference(wanted, contender.results()) for _ in range(2))
    record = {"name": contender.name, "how": contender.how, "threads": contender.threads}
    return contender, record | problems.judgement(line.dtype, error)


def fields(timing: Timing) -> dict[str, Any]:
    """For the JSON."""
    return {"seconds" if name == "median" else name: value for name, value in dataclasses.asdict(timing).items()}


def conclusions(line: Line, results: Iterable[dict[str, Any]], peaks: Peaks) -> dict[str, Any]:
    """What follows from the medians of a line.

    Parameters
    ----------
    line : Line
    results : iterable of dict
        Records with ``name``, ``threads`` and, where timed, ``seconds``; among them one of nbrnn.
    peaks : mapping
        What the machine can do.

    Returns
    -------
    dict
        ``best``: nbrnn's best time; ``best_threads``; ``gflops`` at that; ``share`` of the peak of as many threads;
        ``rival``: the fastest peer; ``ratio``: its time over ours (above 1: nbrnn is faster), both None where there is
        no peer.
    """
    timed = [r for r in results if "seconds" in r]
    ours = min((r for r in timed if r["name"] == "nbrnn"), key=lambda r: r["seconds"])
    rival = min((r for r in timed if r["name"] != "nbrnn"), key=lambda r: r["seconds"], default=None)
    gflops = line.flops() / ours["seconds"] / 1e9
    return {
        "best": ours["seconds"],
        "best_threads": ours["threads"],
        "gflops": gflops,
        "share": gflops / peaks[line.dtype, ours["threads"]],
        "rival": rival and rival["name"],
        "ratio": rival and rival["seconds"] / ours["seconds"],
    }
