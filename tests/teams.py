"""Calls shared by threads, however small they are."""

from __future__ import annotations

import contextlib

from nbrnn._cpu import cost, team, workers

#: Members, and how many of them share the hidden units of the same rows.
TEAMS = ((2, 1), (2, 2), (3, 1), (3, 2), (3, 3), (4, 2), (5, 4))


@contextlib.contextmanager
def forced(members, abreast, rows=10**6, steps=10**6, alone=0, wait=0.02, both=False):
    """Let every call inside the block be shared by so many threads, ``abreast`` of them on the same rows, and be cut
    into pieces of so many rows and steps, of which the first is done alone.  It waits so many seconds for all of them to come.
    ``both``: half of them have one direction, half the other.
    """
    before = []

    def replace(module, name, value):
        before.append((module, name, getattr(module, name)))
        setattr(module, name, value)

    replace(workers, "allowed", lambda: members)
    replace(workers, "most", lambda at_most: min(16, at_most))
    replace(workers, "WAIT", wait)
    replace(workers, "rouse", lambda plan, steps: min(alone, steps))
    replace(cost, "WORTH_IT", 0.0)
    replace(cost, "SHARE", 1)
    replace(cost, "plan", lambda work, *_: cost.Plan(1e4, members, min(abreast, work.depth), rows, steps))
    replace(cost, "plan_of_two", lambda *a: cost.plan(*a) if both else None)
    given = cost.plan_of_gradients
    replace(cost, "plan_of_gradients", lambda *a: given(*a)._replace(seconds=1e4))
    replace(cost, "plan_of_rows", lambda _, n, most, least: cost.Plan(1e4, most, 1, n, -(-steps // least) * least))
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def _word(n):
    """A word of the desk, without the bits for members; 0 if there is no desk yet."""
    made = workers._workers
    return 0 if made is None else int(made._desk[n * team.LINE // 8]) >> team.SHIFT


def offered():
    """How many jobs this process has offered to workers."""
    return _word(team.DOOR)


def shared():
    """The number of the last of them to which somebody came."""
    return _word(team.BEGIN)
