"""Products of matrices with many rows: cut into pieces and shared as ``cost`` says; see ``dense``."""

from __future__ import annotations

import functools
import threading
from typing import Any, NamedTuple

import numpy as np
from numba import typeof, types
from numpy.typing import NDArray

from .._kernel import cached, compiled
from .._memory import aligned, aligned_zeros, fresh
from . import cost, dense, isa, workers
from .dense import ACROSS, AS_IS, CHUNK, PACKED, PACKING, ROWS
from .loops import SEAT, TEAM, any_array, named, own_array
from .packing import padded, vector_numbers
from .panels import NV, Room
from .team import CALLER
from .unit import readable

Array = NDArray[Any]

#: Rows and columns of C that ``columns`` forms at a time: their totals stay in a core's own caches.
HIGH, WIDE = 256, 256

#: Rows of a piece at least: each of them brings all panels into place anew.
LEAST = 64


class Rooms(threading.local):
    """What the calls of a thread work in, one after another."""

    last: Room | None = None


class Kit:
    """The compiled products for a dtype and a width of vectors."""

    def __init__(self, dtype: np.dtype[Any], lanes: type[isa.Lanes]) -> None:
        self.dtype, self.W, self._lanes = dtype, vector_numbers(lanes, dtype), lanes()
        self.block = NV * self.W
        self.nothing = np.empty(0, dtype)
        #: Multiplications in a second, in one thread.
        self.speed = cost.VECTORS_A_SECOND[lanes] * self.W
        self._rooms = Rooms()
        self._room = named(Room, own_array(dtype, 1), typeof(self._lanes), types.int64, types.int64)

    @functools.cached_property
    def product(self) -> Any:
        """The compiled ``dense.product``."""
        a, bias, c = any_array(self.dtype, 2), any_array(self.dtype, 1), any_array(self.dtype, 2, False)
        return compiled(dense.product, (SEAT, TEAM, self._room, a, a, types.int64, bias, c))

    @functools.cached_property
    def pack(self) -> Any:
        """The compiled ``dense.pack``."""
        return compiled(dense.pack, (self._room, any_array(self.dtype, 2), own_array(self.dtype, 2)))

    @functools.cached_property
    def columns(self) -> Any:
        """The compiled ``dense.columns``."""
        a, c, rows = any_array(self.dtype, 2), any_array(self.dtype, 2, False), [types.int64] * 2
        totals = own_array(self.dtype, 4), own_array(self.dtype, 2)
        return compiled(dense.columns, (SEAT, TEAM, self._room, a, a, *rows, *totals, c))

    def room(self, size: int, members: int) -> Room:
        """Room of so many numbers at least for each member: what the thread had before, if that is enough."""
        room = self._rooms.last
        if room is None or room.size < size or room.w.size < room.size * members:
            size = size if room is None else max(size, room.size)
            room = Room(aligned((size * members,), self.dtype), self._lanes, self.block, size)
            self._rooms.last = room
        return room

    def seconds(self, inputs: int, outputs: int) -> float:
        """What a row takes one thread."""
        return inputs * padded(outputs, self.block) / self.speed


@cached
def kit(dtype: np.dtype[Any], lanes: type[isa.Lanes]) -> Kit:
    """The one for these."""
    return Kit(dtype, lanes)


class Packed(NamedTuple):
    """A matrix (m, n) in the order in which few rows are multiplied by it ``ACROSS``: they take as long as to bring it
    into that.
    """

    panels: Array
    m: int
    own: Kit


def packed(b: Array) -> Packed:
    """Of its numbers as they are now."""
    own, b = kit(b.dtype, isa.current()), readable(b)
    panels = aligned((1, padded(len(b), own.block) * b.shape[1]), b.dtype)
    own.pack(own.room(1, 1), b, panels)
    return Packed(panels, len(b), own)


def product(a: Array, b: Array | Packed, bias: Array | None = None, across: bool = False) -> Array:
    """A B + bias, for A (N, n), B (n, m) and bias (m,), all of one dtype; ``across``: A B^T, for B (m, n).

    A row of the result doesn't depend on the others, nor on how B is given, to the bit.
    """
    if isinstance(b, Packed):
        matrix, m, own = b
        how = PACKED
    else:
        own, matrix, m, how = kit(a.dtype, isa.current()), readable(b), b.shape[not across], int(across)
    a, bias, c = readable(a), own.nothing if bias is None else bias, fresh((len(a), m), a.dtype)
    if m == 1 and how != PACKED and len(a) >= own.block:
        # A single column would leave most of each vector empty: so it is the row, with as many outputs as A has rows.
        row = matrix if across else matrix.T
        _multiply(own, row, a, ACROSS, np.repeat(bias, len(a)), c.T)
    else:
        _multiply(own, a, matrix, how, bias, c)
    return c


def _multiply(own: Kit, a: Array, b: Array, how: int, bias: Array, c: Array) -> None:
    """See ``dense.product``."""
    (rows, depth), m = a.shape, c.shape[1]
    size = dense.product_size(rows, depth, own.block, depth > 1 and a.strides[1] != a.itemsize)
    if rows == 0 or (rows + PACKING) * depth * m < own.speed * cost.WORTH_IT:
        own.product(CALLER, workers.ALONE, own.room(size, 1), a, b, how, bias, c)
        return
    each, members = own.seconds(depth, m), workers.allowed()
    # All panels are brought into place for each piece anew.
    plan = cost.plan_of_rows(each * (rows + PACKING) / rows, rows, members, LEAST)
    alone = workers.rouse(plan, rows) if rows >= ROWS else 0
    room, done = own.room(size, members), 0
    with workers.Sharing(plan, alone) as sharing:
        for now in cost.cuts(plan, rows, alone):
            part = slice(done, done + now)
            own.product(CALLER, sharing.team(now), room, a[part], b, how, bias, c[part])
            done += now


def product_of_columns(a: Array, b: Array, to: Array, sums: Array | None = None) -> None:
    """A^T B, for A (N, m) and B (N, n), and the sums of the columns of A, all of one dtype.

    Both are summed ``dense.CHUNK`` rows at a time, and what rounding leaves over is added to the next.
    """
    own = kit(a.dtype, isa.current())
    a, b, rows, (m, n) = readable(a), readable(b), len(a), to.shape
    if rows == 0:
        to.fill(0)
    elif rows <= CHUNK:
        _multiply(own, a.T, b, AS_IS, own.nothing, to)
    if rows <= CHUNK:
        if sums is not None:
            np.add.reduce(a, 0, out=sums)
        return
    most = workers.allowed() if rows * own.seconds(n, m) >= cost.WORTH_IT else 1
    for i in range(0, m, HIGH * most):
        some = slice(i, i + HIGH * most)
        for j in range(0, n, WIDE):
            bias = None if sums is None or j > 0 else sums[some]
            _block(own, a[:, some], b[:, j : j + WIDE], to[some, j : j + WIDE], bias, most)


def _block(own: Kit, a: Array, b: Array, to: Array, sums: Array | None, most: int) -> None:
    """A part of C: its totals stay in the caches of as many threads as may share it."""
    rows, (m, n) = len(a), to.shape
    panels = -(-n // own.block)
    total = aligned_zeros((2, panels, m, own.block), own.dtype)
    of_a = aligned_zeros((2, 0 if sums is None else padded(m, own.W)), own.dtype)
    room, each, done = own.room(dense.columns_size(m, panels, own.block), most), own.seconds(n, m), 0
    plan = cost.plan_of_rows(each, rows, most, CHUNK)
    with workers.Sharing(plan, 0) as sharing:
        for now in cost.cuts(plan, rows, 0):
            own.columns(CALLER, sharing.team(now), room, a, b, done, done + now, total, of_a, to)
            done += now
    if sums is not None:
        sums[...] = of_a[0, :m]
