"""Numbers brought into another order again and again: noted down once, done by one kernel.

``packing`` says what goes where, as assignments between views of two vectors: parameters and packed weights, or sums
of gradients and the gradients of parameters.  Which numbers those are never changes for a layer, so they are noted
down when they are first needed.  A few microseconds are all that is left of it in a training step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numba import uint64
from numpy.typing import NDArray

from .._kernel import kernel, part
from .team import assemble, offer, part_ways

Array = NDArray[Any]
Shapes = Mapping[str, tuple[int, ...]]

#: Axes of an assignment; shorter ones have axes of one number in front.
AXES = 3

#: A matrix that is turned goes by way of a room of our own, so many numbers of each row at a time: it is read and
#: written from front to back, and in the room rows lie so much further apart, lest a power of two lead to the same few
#: places of a cache.
TILE, BESIDE = 256, 8

#: Where a line says whether any member may do it.
LAST = 4 + 3 * AXES

#: So many numbers are worth to be shared out; what is smaller goes with the rest.
LARGE = 1024


@part
def assign(line, source, to, room, own):
    """Do an assignment, by way of the numbers from ``own`` on of a room.

    The line of a table holds: whether to add; where in ``to`` and in ``source`` to begin; how many numbers there are
    along each axis; how far those lie apart in ``to``, and in ``source``; if rows become columns, how many numbers of
    each to turn at a time by way of ``room``, else 0; and 1 if any member may do it, else 0.  (All are unsigned, for an
    index that may be negative takes a comparison each time.)
    """
    add, n_a, n_b, n_c, tile = line[0], line[3], line[4], line[5], line[12]
    to_a, to_b, to_c = line[6], line[7], line[8]
    source_a, source_b, source_c = line[9], line[10], line[11]
    begin, pitch = uint64(0), tile + uint64(BESIDE)
    while tile > 0 and begin < n_c:
        count = min(tile, n_c - begin)
        for a in range(n_a):
            for b in range(n_b):
                p, q = own + (a * n_b + b) * pitch, line[2] + a * source_a + b * source_b + begin
                for c in range(count):
                    room[p + c] = source[q + c]
        for c in range(count):
            for a in range(n_a):
                p, q = own + a * n_b * pitch + c, line[1] + a * to_a + (begin + c) * to_c
                for b in range(n_b):
                    to[q + b * to_b] = room[p + b * pitch]
        begin += count
    if tile == 0:
        for a in range(n_a):
            for b in range(n_b):
                p, q = line[1] + a * to_a + b * to_b, line[2] + a * source_a + b * source_b
                for c in range(n_c):
                    if add:
                        to[p + c * to_c] += source[q + c * source_c]
                    else:
                        to[p + c * to_c] = source[q + c * source_c]


@kernel
def move(table, source, to, room):
    """Do all assignments of a table."""
    for n in range(table.shape[0]):
        assign(table[n], source, to, room, uint64(0))


@kernel
def move_together(seat, team, table, source, to, rooms):
    """The same, by several members.

    Parameters
    ----------
    seat, team : as for ``forward.forward``
    table, source, to
    rooms : as many as members, one after another
    """
    if seat.members == 0:
        seat = assemble(team, offer())
    own, shared = uint64(seat.member) * uint64(rooms.size // team.wanted), 0
    for n in range(table.shape[0]):
        whose = 0
        if table[n, LAST] == 1:
            whose = shared % seat.members
            shared += 1
        if whose == seat.member:
            assign(table[n], source, to, rooms, own)
    part_ways(seat)


class Order(NamedTuple):
    """How numbers of one vector come to stand in another: a table for ``move``, and how many numbers that vector and
    a room have.
    """

    table: Array
    size: int
    room: int


class Moves:
    """Assignments from one vector to another.

    Parameters
    ----------
    source, to : mapping of str to tuple
        Names and shapes of the arrays that the two vectors consist of, one after another.

    Attributes
    ----------
    source, to : mapping of str to ndarray
        What stands for those arrays while assignments are noted: arrays of bytes that nobody reads or writes, so that
        the memory is only promised.
    """

    def __init__(self, source: Shapes, to: Shapes) -> None:
        self._vectors = [np.empty(sum(map(math.prod, shapes.values())), np.int8) for shapes in (to, source)]
        self.to, self.source = (views(v, s) for v, s in zip(self._vectors, (to, source), strict=True))
        self._lines: list[list[int]] = []
        self._room = 0

    def put(self, to: Array, source: Array, add: bool = False) -> None:
        """Note down ``to[...] = source``, or ``+=``, for two views of the same shape."""
        assert to.shape == source.shape
        if not to.size:
            return
        lead = AXES - to.ndim
        turned = source.strides[-1] == 1 != to.strides[-1] and to.shape[-1] > 1 and not add
        tile = min(TILE, to.shape[-1]) if turned else 0
        line = [int(add), *map(_place, (to, source), self._vectors), *[1] * lead, *to.shape]
        self._lines.append([*line, *[0] * lead, *to.strides, *[0] * lead, *source.strides, tile])
        if turned:
            self._room = max(self._room, math.prod(to.shape[:-1]) * (tile + BESIDE))

    def order(self) -> Order:
        """All that has been noted down."""
        added_to = {line[1] for line in self._lines if line[0]}  # what is added waits for what it is added to
        lines = [
            [*line, int(math.prod(line[3 : 3 + AXES]) >= LARGE and line[1] not in added_to)] for line in self._lines
        ]
        return Order(np.array(lines, np.uint64).reshape(-1, LAST + 1), self._vectors[0].size, self._room)


def _place(view: Array, vector: Array) -> int:
    """Where in a vector a view of it begins."""
    first, begin = (int(a.__array_interface__["data"][0]) for a in (view, vector))
    last = first + sum((n - 1) * stride for n, stride in zip(view.shape, view.strides, strict=True))
    assert begin <= first <= last < begin + vector.size  # else it is a copy: what is moved is a vector's own
    return first - begin


def views(vector: Array, shapes: Shapes) -> dict[str, Array]:
    """A vector as named arrays that lie one after another."""
    made, at = {}, 0
    for name, shape in shapes.items():
        made[name] = vector[at : at + math.prod(shape)].reshape(shape)
        at += math.prod(shape)
    return made
