"""Which sequences run at a step: the part all loops over time share."""

from __future__ import annotations

from typing import Any, NamedTuple

from .._kernel import part
from .rows import address, copy_row


class When(NamedTuple):
    """A stretch of time, and the sequences in it.

    Sequences stand in order of falling length: ``lengths[i]`` is the length of the i-th in that order, ``order[i]``
    its place in the caller's batch.  At time t those with length > t run: the first n, for a falling or rising n.
    That holds for both directions, since the reverse direction of a sequence begins at its own last step.
    """

    t0: int  #: time of the first row of x and y
    first: int  #: sequences [first, last) of that order are looked at
    last: int
    reverse: bool  #: whether time runs backward
    lengths: Any  #: (B,) int64, falling
    order: Any  #: (B,) int64
    resets: Any  #: (T, B) bool at absolute times, or of size 0


@part
def running(when, t, n):
    """Number of sequences that run at time t, from that at a neighbouring time."""
    while n > 0 and when.lengths[n - 1] <= t:
        n -= 1
    while n < when.lengths.size and when.lengths[n] > t:
        n += 1
    return n


@part
def own(when, n):
    """How many of the sequences looked at are among the first n."""
    return min(max(n - when.first, 0), when.last - when.first)


@part
def steps_done(when, i, steps):
    """How many of the stretch's steps lie within sequence i."""
    return min(max(when.lengths[i] - when.t0, 0), steps)


@part
def among(when, steps, part, parts):
    """``when`` for one of so many parts of the sequences looked at, all with about as many steps to do."""
    if parts == 1:
        return when
    # Each sequence goes to the part that its middle falls into.  One step more, so that none weighs nothing.
    total = 0
    for i in range(when.first, when.last):
        total += steps_done(when, i, steps) + 1
    first, last, done = when.first, when.first, 0
    for i in range(when.first, when.last):
        twice = 2 * done + steps_done(when, i, steps) + 1
        first += twice * parts < 2 * total * part
        last += twice * parts < 2 * total * (part + 1)
        done += steps_done(when, i, steps) + 1
    return When(when.t0, first, last, when.reverse, when.lengths, when.order, when.resets)


@part
def first_step(when, t, i, steps):
    """Whether time t is the first that sequence i runs in the stretch of so many steps."""
    return t == (min(when.lengths[i], when.t0 + steps) - 1 if when.reverse else when.t0)


@part
def cut(when, t, i):
    """Whether sequence i starts the step at time t from zero state."""
    if when.resets.size == 0:
        return False
    if when.reverse:
        return t + 1 < when.lengths[i] and when.resets[t + 1, when.order[i]]
    return when.resets[t, when.order[i]]


@part
def gather(net, when, state, n, work):
    """Rows of a state, pieces of n numbers each, into a workspace: in our order, each piece padded."""
    pieces = state.shape[1] // n
    row, room = n * work.itemsize, work.shape[1] // max(pieces, 1) * work.itemsize
    for i in range(when.first, when.last):
        source, to = address(state) + when.order[i] * state.strides[0], address(work) + i * work.strides[0]
        for q in range(pieces):
            copy_row(net, to + q * room, source + q * row, n)


@part
def scatter(net, when, work, n, state):
    """The way back."""
    pieces = state.shape[1] // n
    row, room = n * work.itemsize, work.shape[1] // max(pieces, 1) * work.itemsize
    for i in range(when.first, when.last):
        to, source = address(state) + when.order[i] * state.strides[0], address(work) + i * work.strides[0]
        for q in range(pieces):
            copy_row(net, to + q * row, source + q * room, n)
