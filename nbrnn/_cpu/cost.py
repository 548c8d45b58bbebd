"""How long a step takes, about, and how many threads should share it.

The model is coarse on purpose.  A thread does so many multiply-adds a second as long as the weights it reads at each
step come fast enough; it reads them once a step, however many rows there are, from its own caches or from the one
that is shared.  Three figures follow:

- how much to do at a time: a call is cut into pieces, so that Python looks for an interrupt (Ctrl-C) between them,
- whether a call is worth another thread at all,
- how threads share it.  With rows of their own they never wait for each other.  *Abreast*, on the same rows, each has
  some of the hidden units, so that each core's caches hold its part of the weights; but they must meet at every step.
  Two directions of a layer can be run *side by side*, by half of the threads each.

What is chosen never changes a result: sums are formed in the same order in any case.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from . import isa
from .isa import BITS, V128, V256, V512, Lanes

#: Multiply-adds a second in one thread, in vectors; about two thirds of what processors of 2.5 GHz do at best.
VECTORS_A_SECOND = {isa.AMX: 4e9, isa.AMX8: 4e9, V512: 4e9, V256: 4e9, V128: 4e9, isa.Scalar: 1.5e9}

#: So many times as fast a matrix unit is, if there are so many rows; and bytes of a number that steps multiply by.
UNIT, ROWS_OF_UNIT_STEP, BYTES_OF_UNIT = 2, 4, 3

#: Bytes a second that a thread reads from its own caches, and from the shared one; and how much its own caches hold.
OWN_CACHE, SHARED_CACHE, OWN_SIZE = 100e9, 25e9, 1.2e6

#: Seconds: what an activation of one vector takes; for few threads to meet; that a step takes in any case.  And bytes a
#: second that a thread reads from what another one has just written: its part of h, at every step.
ACTIVATION, MEETING, STEP, EXCHANGE = 6e-9, 0.4e-6, 0.1e-6, 1e9

#: Bytes of weights a second that a thread brings into another order.
MOVED = 6e9

#: Below this a call is not worth a second thread: finding together takes about a microsecond if the others are awake,
#: but caches have to follow.
WORTH_IT = 150e-6

#: A further thread must save this share of the time.
GAIN = 0.05

#: Weights whose gradients make a thread's part worth the while; and rows that one reading of them serves.
SHARE, FEW = 2**14, 64

#: Seconds of work between two looks for an interrupt, as estimated: the estimate may be wrong by a factor of a few.
#: Shorter where members meet at every step: on a busy machine each may have to wait for its turn of the processor.
PIECE, PIECE_ABREAST = 0.05, 0.01


#: Inputs of several steps are multiplied at once if a step has fewer rows than the first figure and as many inputs as
#: the second, or fewer rows than the third and weights that fill a thread's own caches: at 16 rows that saves up to a
#: fifth.  And how many rows and bytes of sums to compute ahead at most.
FEW_ROWS, SOME_INPUTS, MORE_ROWS, ROWS_AHEAD, BYTES_AHEAD, ROWS_OF_UNIT = 4, 16, 33, 256, 2**19, 512


#: How often each row of a table must be chosen, on average, for its sums to be computed beforehand, and how many bytes
#: those may be: what comes from a far cache comes no sooner than it is computed.
OFTEN, BYTES_OF_CHOICES = 4, 2**20


class Work(NamedTuple):
    """What a step does with each row."""

    numbers: int  #: weights, each used once a row
    inputs: int  #: those of them which ``rows_ahead`` may use for several steps at once
    outputs: int  #: numbers of h
    units: int  #: activations
    depth: int  #: parts that the weights can be cut into
    item: int  #: bytes of a number
    lanes: type[Lanes]


class Plan(NamedTuple):
    """How a loop over time is shared and cut."""

    seconds: float  #: a step in one thread
    members: int
    abreast: int
    rows: int  #: sequences at a time
    steps: int  #: and steps

    def holds(self, rows: int, steps: int) -> bool:
        """Whether so much is one piece."""
        return rows <= self.rows and steps <= self.steps


def step_seconds(work: Work, rows: int, abreast: int) -> float:
    """A step of so many rows in one of the threads that share it."""
    W = max(1, BITS[work.lanes] // (8 * work.item))
    ahead = FEW_ROWS - 1 if rows < FEW_ROWS else 0
    numbers = (work.numbers - work.inputs * ahead / FEW_ROWS) / abreast
    unit = work.lanes is isa.AMX8
    size = numbers * (BYTES_OF_UNIT if unit else work.item)
    products = rows * numbers / W / VECTORS_A_SECOND[work.lanes]
    if unit and rows >= ROWS_OF_UNIT_STEP:
        products /= UNIT
    reading = min(size, OWN_SIZE) / OWN_CACHE + max(size - OWN_SIZE, 0) / SHARED_CACHE
    activations = rows * work.units / abreast / W * ACTIVATION
    theirs = rows * work.outputs * work.item * (abreast - 1) / abreast
    exchange = MEETING * (3 + abreast) / 4 + theirs / EXCHANGE if abreast > 1 else 0
    # Reading goes on beside the products, but not quite.
    return max(products + reading / 2, reading) + activations + STEP + exchange


def _fastest(work: Work, rows: int, threads: int) -> tuple[float, int, int]:
    """(seconds, members, abreast) of steps of so many rows with at most so many threads."""
    best, members, abreast = step_seconds(work, rows, 1), 1, 1
    if rows >= FEW_ROWS:  # however few of them are a thread's own
        work = work._replace(inputs=0)
    for m in range(2, threads + 1):
        sides = [side for side in range(1, min(m, work.depth) + 1) if m % side == 0 and m // side <= rows]
        ways = [(step_seconds(work, -(-rows // (m // side)), side), side) for side in sides]
        if ways and min(ways)[0] < (1 - GAIN) * best:
            (best, abreast), members = min(ways), m
    return best, members, abreast


def _cut(seconds: float, members: int, abreast: int, rows: int) -> Plan:
    """The plan for steps of so many rows that take one thread so long."""
    at_once = rows if seconds <= PIECE else max(1, int(rows * PIECE / seconds))
    piece = PIECE if abreast == 1 else PIECE_ABREAST
    return Plan(seconds, members, abreast, at_once, max(1, int(piece / min(seconds, piece))))


@functools.lru_cache(maxsize=4096)
def plan(work: Work, rows: int, threads: int) -> Plan:
    """The plan for steps of so many rows with at most so many threads."""
    _, members, abreast = _fastest(work, rows, threads)
    return _cut(step_seconds(work, rows, 1), members, abreast, rows)


@functools.lru_cache(maxsize=4096)
def plan_of_two(work: Work, rows: int, threads: int) -> Plan | None:
    """The plan for two loops of such steps side by side, each with half of the threads, where ``seconds`` are those of
    both; None if it is better that one follows the other.

    Side by side, each takes as long as with half of the threads, and both take no longer than one: weights are read
    half as often as where each thread has rows of its own, and nobody waits as those abreast do.  But a thread abreast
    has fewer weights to read, which may fit its own cache; and many rows take about as long either way.
    """
    if threads < 2:
        return None
    together, members, abreast = _fastest(work, rows, threads // 2)
    if together > (1 - GAIN) * 2 * _fastest(work, rows, threads)[0]:
        return None
    return _cut(2 * step_seconds(work, rows, 1), 2 * members, abreast, rows)


@functools.lru_cache(maxsize=4096)
def plan_of_gradients(work: Work, rows: int, members: int) -> Plan:
    """The same for the gradients of the weights: each member has a part of every matrix, and none waits for another.

    Where a call is cut doesn't depend on the number of threads: the last bits of a sum depend on that.
    """
    seconds = max(1, rows) * step_seconds(work, FEW, 1) / FEW
    return Plan(seconds, members, 1, rows, max(1, int(PIECE / seconds)))


def plan_of_rows(seconds: float, rows: int, members: int, least: int) -> Plan:
    """The same for so many rows that don't depend on each other, each of which takes one thread so long: a piece has so
    many at least, or a multiple of that.
    """
    return Plan(seconds, members, 1, rows, max(1, int(PIECE / seconds / least)) * least)


def most_for_gradients(work: Work) -> int:
    """Threads for whom there is enough to do in that."""
    return max(1, work.numbers // SHARE)


def rows_ahead(rows: int, inputs: int, weights: int, sums: int) -> int:
    """How many rows of sums to compute ahead, at steps of so many rows; 0: none.

    ``weights`` and ``sums`` are the bytes of all weights and of a row of sums.
    """
    few = rows < FEW_ROWS and inputs >= SOME_INPUTS
    large = rows < MORE_ROWS and weights > OWN_SIZE
    ahead = max(2 * rows, min(ROWS_AHEAD, BYTES_AHEAD // sums))
    return ahead if rows > 0 and (few or large) and ahead * sums <= 2 * BYTES_AHEAD else 0


def rows_of_digits(rows: int, sums: int, threads: int) -> int:
    """The same where there is a matrix unit, which wants many rows, for so many threads."""
    return max(16 * min(rows, threads), min(ROWS_OF_UNIT, 2 * BYTES_AHEAD // sums))


def worth_choosing(rows: int, choices: int, sums: int) -> bool:
    """Whether to compute what each of so many rows of a table adds to the sums, rather than for each row of x, which is
    one of those; ``sums`` are the bytes of one.
    """
    return OFTEN * choices <= rows and choices * sums <= BYTES_OF_CHOICES


def cuts(plan: Plan, steps: int, first: int) -> list[int]:
    """Steps of the pieces that so many are cut into, the first of which is given, or 0."""
    rest = steps - first
    whole, left = divmod(rest, plan.steps)
    return [first] * (first > 0) + [plan.steps] * whole + [left] * (left > 0)
