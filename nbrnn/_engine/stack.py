"""A whole recurrent network: layers of chains, run forward and back, in the layout of the public face."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._cells import Cell
from .._cpu import cost, isa
from .._cpu.chosen import Chosen
from .._cpu.form import Form
from .._cpu.pieces import Loop, run
from .._cpu.unit import Unit, writeable
from . import alone
from .batch import Batch
from .chain import Chain, Pass, Stretch
from .rooms import Rooms

Array = NDArray[Any]
#: A layer in one direction, and where its parameters stand.
Part = tuple[Form, slice]


@dataclasses.dataclass
class Record:
    """What one forward pass leaves for the way back."""

    way: Pass
    inputs: list[Array | Chosen]  # of each level
    stretches: list[list[list[Stretch]]]  # of each level and direction
    give_back: list[Callable[[], None]]  # their memory

    @property
    def chosen(self) -> bool:
        """Whether x is, so that dx is that of what it is chosen from."""
        return isinstance(self.inputs[0], Chosen)

    def __del__(self) -> None:
        for give in self.give_back:
            give()


def _run(ways: Sequence[Iterator[Loop]], together: bool = True) -> None:
    """Run the loops of chains: one chain after another, or the n-th loops of all together, of which none may depend on
    another.  What chains do between loops is done in turn in any case.
    """
    if together and len(ways) > 1:
        for loops in itertools.zip_longest(*ways):
            run(*loops)
    else:
        for way in ways:
            for loop in way:
                run(loop)


class Stack:
    """Layers with their weights packed: a snapshot of the parameters.

    *Levels* follow one another over the whole of time: in one direction the stack is a single level of one chain; a
    bidirectional one has a level for each layer, of two chains.

    Parameters
    ----------
    parts : list of pairs
        For each layer and direction, layer-major: what it is, and where its parameters stand in the vector of all.
    parameters : ndarray
        That vector.  Must not change while the stack is used.
    directions : 1 or 2
    rooms : Rooms
        Memory that outlives the snapshot.
    """

    def __init__(self, parts: list[Part], parameters: Array, directions: int, rooms: Rooms) -> None:
        self.parts, self.directions, self.rooms = parts, directions, rooms
        self.units = [Unit(form, parameters[at]) for form, at in parts]
        self.K, self.dtype = parts[0][0].K, parts[0][0].dtype

    @functools.cached_property
    def levels(self) -> list[list[Chain]]:
        """Made when first needed: small calls (``_small``) do without, and stacks are made anew for new parameters."""
        if self.directions == 1:
            return [[Chain(self.units, 0, False, self.rooms)]]
        return [
            [
                Chain([self.units[2 * layer]], layer, False, self.rooms),
                Chain([self.units[2 * layer + 1]], layer, True, self.rooms),
            ]
            for layer in range(len(self.units) // 2)
        ]

    @functools.cached_property
    def kept_at_most(self) -> int:
        """Numbers that ``record`` keeps of a step of a sequence, at most: what ``numbers_to_record`` counts exactly."""
        return sum(form.kept_at_most for form, _ in self.parts)

    def _own(self, level: int, direction: int) -> slice:
        """Which entries of a list over layers and directions a chain has."""
        return slice(None) if self.directions == 1 else slice(2 * level + direction, 2 * level + direction + 1)

    def _part(self, y: Array, direction: int) -> Array:
        """The columns of a direction."""
        return y if self.directions == 1 else y[:, :, direction * self.K : (direction + 1) * self.K]

    def takes_choices(self, rows: int, choices: int) -> bool:
        """Whether x of so many rows is better given as a choice out of so many (``Chosen``) than as it stands."""
        form = self.parts[0][0]
        return cost.worth_choosing(rows, choices, form.cell.sums() * form.sizes.Hp * form.dtype.itemsize)

    def infer(self, batch: Batch, x: Array | Chosen, y: Array, h: Array, c: Array) -> None:
        """x (T, B, I) into y (T, B, D * K); states (B, K) and (B, E * H) of each layer and direction in place."""
        to = writeable(y)
        if self.directions == 1:
            for loop in self.levels[0][0].infer(batch, x, to, h, c):
                run(loop)
        else:
            for n, (there, back) in enumerate(self.levels):
                out, q = to if n == len(self.levels) - 1 else np.empty(y.shape, y.dtype), 2 * n
                ways = (
                    there.infer(batch, x, out[:, :, : self.K], h[q : q + 1], c[q : q + 1]),
                    back.infer(batch, x, out[:, :, self.K :], h[q + 1 : q + 2], c[q + 1 : q + 2]),
                )
                _run(ways)
                x = out
        if to is not y:
            y[...] = to

    def record(self, way: Pass, x: Array | Chosen, y: Array, h: list[Array], c: list[Array]) -> Record | alone.Alone:
        """The same, keeping what the way back needs."""
        if len(self.units) == 1 and way.checkpoint is None and way.batch.steps > 0 and not isinstance(x, Chosen):
            return alone.record(self.units[0], self.rooms, way, x, y, h[0], c[0])
        record = Record(way, [], [], [])
        for n, level in enumerate(self.levels):
            last = n == len(self.levels) - 1
            out = y if last else np.empty(y.shape, y.dtype)
            record.inputs.append(x)
            made: list[list[Stretch]] = []
            ways = []
            for d, chain in enumerate(level):
                own = self._own(n, d)
                made.append([])
                ways.append(chain.record(way, x, self._part(out, d), h[own], c[own], made[d], record.give_back))
            _run(ways, together=way.checkpoint is None)  # whose stretches come in another order for each
            record.stretches.append(made)
            x = out if way.drop is None or last else way.drop(out, n, self.directions, 0)
        return record

    def back(
        self,
        record: Record | alone.Alone,
        dy: Array | None,
        dx: Array,
        dh: list[Array],
        dc: list[Array],
        gradients: Array,
        retain: bool,
    ) -> None:
        """Take a record back.

        ``dx`` (T, B, I) is written where sequences run; ``dh`` and ``dc`` turn from gradients for the states after
        into those for the states before; ``gradients`` is written: a vector as that of the parameters.
        """
        keys = [("sums", q, u.form.lanes) for q, u in enumerate(self.units)]
        sums = [self.rooms.take(key, u.form.new_sums) for key, u in zip(keys, self.units, strict=True)]
        totals = [one.totals for one in sums]
        if isinstance(record, alone.Alone):
            record.back(dy, dx, dh[0], dc[0], totals[0], retain)
        else:
            self._back_through_levels(record, dy, dx, dh, dc, totals, retain)
        for key, unit, one, (_, at) in zip(keys, self.units, sums, self.parts, strict=True):
            unit.read_sums(one, gradients[at])
            self.rooms.give(key, one, one.vector.nbytes)

    def _back_through_levels(
        self,
        record: Record,
        dy: Array | None,
        dx: Array,
        dh: list[Array],
        dc: list[Array],
        totals: list[Any],
        retain: bool,
    ) -> None:
        """The same for the totals that gradients are read from."""
        way = record.way
        for n in reversed(range(len(self.levels))):
            x = record.inputs[n]
            into = dx if n == 0 else np.empty(x.shape, x.dtype)
            ways = []
            for d, chain in enumerate(self.levels[n]):
                own, stretches = self._own(n, d), record.stretches[n][d]
                part = None if dy is None else self._part(dy, d)
                ways.append(chain.back(way, stretches, x, part, into, d > 0, dh[own], dc[own], totals[own], retain))
            # The second direction adds to what the first has written of dx.
            _run(ways, together=way.checkpoint is None)
            dy = into
            if n > 0 and way.drop is not None:
                dy = way.drop(into, n - 1, self.directions, 0)

    # How many numbers a pass holds at a time, besides x, y and dx.

    def _passed(self, batch: Batch) -> int:
        """In what one level hands to the next."""
        return batch.steps * batch.size * self.directions * self.K

    def numbers_to_infer(self, batch: Batch) -> int:
        """For ``infer``."""
        if self.directions == 1:
            return 0
        return min(2, len(self.levels) - 1) * self._passed(batch)

    def numbers_to_record(self, way: Pass) -> int:
        """For ``record``, and what ``back`` computes again."""
        copies = 1 if way.drop is None else 2
        passed = copies * (len(self.levels) - 1) * self._passed(way.batch)
        return passed + sum(chain.numbers_kept(way) for level in self.levels for chain in level)

    def numbers_to_go_back(self, record: Record | alone.Alone, retain: bool) -> int:
        """For ``back``."""
        if isinstance(record, alone.Alone) and not retain:
            return 0
        copies = 1 if record.way.drop is None else 2
        passed = min(2, len(self.levels) - 1) * copies * self._passed(record.way.batch)
        return passed + (sum(chain.numbers_kept(record.way) for chain in self.levels[0]) if retain else 0)


class Stacks:
    """The stack of a layer: the last one, or another when the parameters have changed.

    Parameters
    ----------
    cell : type of Cell
    dtype : dtype
    shapes : list of mappings
        For each layer and direction the shapes of its parameters: see ``Form``.
    directions : 1 or 2
    rooms : Rooms
    """

    def __init__(
        self, cell: type[Cell], dtype: np.dtype[Any], shapes: list[Mapping[str, Any]], directions: int, rooms: Rooms
    ) -> None:
        self._cell, self._dtype, self._shapes, self._directions, self._rooms = cell, dtype, shapes, directions, rooms
        self._parts: dict[Any, list[Part]] = {}
        self._last: tuple[Any, Stack] | None = None

    def now(self, version: int, parameters: Array) -> Stack:
        """The stack of those parameters, for the vectors in use; ``version`` is another one when they have changed."""
        key, last = (version, isa.current()), self._last
        if last is None or last[0] != key:
            last = self._last = None  # if nobody else has it either, its memory is there for the next one
            stack = Stack(self._parts_for(key[1]), parameters, self._directions, self._rooms)
            last = self._last = (key, stack)
        return last[1]

    def _parts_for(self, lanes: type[isa.Lanes]) -> list[Part]:
        if lanes not in self._parts:
            forms = [Form(self._cell, self._dtype, shapes, lanes) for shapes in self._shapes]
            ends = itertools.accumulate(form.count for form in forms)
            self._parts[lanes] = [(form, slice(end - form.count, end)) for form, end in zip(forms, ends, strict=True)]
        return self._parts[lanes]
