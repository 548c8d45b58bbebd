"""Recurrent layers on a GPU: from users' arrays there to kernels and back.

Nothing is copied between the host and the device but what describes a batch, ``lengths`` and ``resets``.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _check
from ._axes import Axes
from ._cells import Cell
from ._cuda.array import DeviceArray
from ._cuda.chain import Drop, Pass
from ._cuda.direction import State
from ._cuda.exchange import Kind, adopted, kind_of
from ._cuda.machine import Machine
from ._cuda.nets import thread_net
from ._cuda.stack import Record, Stack
from ._params import Parameters
from ._passes import RecurrentTape, checkpoint_every, drops_of
from .module import Gradients, Seed

Array = NDArray[Any]


@dataclasses.dataclass
class Call:
    """The arguments of one call, checked; x is (T, B, I), states are (L*D, B, ...) or None for zeros."""

    shape: tuple[int, ...]  # of x as it was given
    x: DeviceArray
    h: DeviceArray | None
    c: DeviceArray | None
    lengths: Array | None
    resets: Array | None
    batched: bool


class OnDevice:
    """A recurrent layer on a machine.

    Parameters
    ----------
    axes : Axes
    cell : type of Cell
    parameters : Parameters
        On that machine.
    places : list of mappings
        As ``Stack`` wants them.
    """

    def __init__(self, axes: Axes, cell: type[Cell], parameters: Parameters, places: list[Mapping[str, Array]]) -> None:
        self.axes, self.parameters = axes, parameters
        self.machine: Machine = parameters.machine
        self.stack = Stack(self.machine, cell, places, axes.dtype, axes.D)

    def net(self, cell: type[Cell], layers: list[Mapping[str, Array]]) -> Any:
        """What ``jit`` gives: a snapshot of the parameters, which are copied to the host and packed there."""
        return thread_net(self.machine, cell, layers)

    # What users pass

    def _array(self, value: Any, name: str) -> DeviceArray:
        """An array that is on the device, with numbers side by side in the last axis."""
        array = adopted(self.machine, value, name, self.axes.dtype)
        if array is None:
            raise TypeError(f"{name} must be an array on the GPU, as x and the parameters are, got {_called(value)}")
        inner = array.shape[-1:] < (2,) or array.strides[-1] == 1
        if array.size and not (inner and min(array.strides, default=0) >= 0):
            raise ValueError(
                f"{name} must have its last axis contiguous, got strides {array.strides} for shape {array.shape}: "
                "make it contiguous"
            )
        return array

    def states(self, state: Any, name: str, batch: int, batched: bool, missing: bool) -> list[DeviceArray | None]:
        """h and c, (L*D, B, ...); None where that was given, or there is none."""
        if state is None:
            return [None, None]
        entries = self.axes.entries(state, name, "array on the GPU", lambda value: kind_of(value) is not None)
        found: list[DeviceArray | None] = []
        for (label, part), shape in zip(entries, self.axes.state_shapes(batch, batched), strict=False):
            if part is None and missing:
                found.append(None)
                continue
            array = self._array(part, label)
            _check.shape(array, label, shape)  # type: ignore[arg-type]
            array = array if batched else array[:, None]
            if not array[:1].contiguous:
                raise ValueError(f"{label} must be contiguous, got strides {array.strides} for shape {array.shape}")
            found.append(array)
        return [*found, None][:2]

    def _call(self, x: Any, state: Any, lengths: Any, resets: Any) -> Call:
        array = self._array(x, "x")
        given, batched = self.axes.sequences(array)
        steps, size = given.shape[:2]
        for value, name in ((lengths, "lengths"), (resets, "resets")):
            if kind_of(value) is not None:
                raise TypeError(f"{name} must be on the host, got an array on the GPU: give a list or a NumPy array")
        lengths, resets = self.axes.limits(lengths, resets, steps, size, batched)
        if max(steps, size, steps * size if lengths is None else int(lengths.sum())) > np.iinfo(np.int32).max:
            raise ValueError(
                f"x must have fewer than 2**31 steps of sequences, got shape {given.shape}: run fewer at once"
            )
        h, c = self.states(state, "state", size, batched, missing=False)
        return Call(array.shape, given, h, c, lengths, resets, batched)

    def _output(self, out: Any, shape: tuple[int, ...], x: Any, state: Any) -> DeviceArray:
        """Where y is to be written."""
        array = self._array(out, "out")
        states = state if isinstance(state, tuple | list) else (state,)
        given = [("x", x), *(("state", s) for s in states if s is not None)]
        others = [(name, _stand_in(self._array(a, name))) for name, a in given]
        _check.output(_stand_in(array), shape, self.axes.dtype, others)
        return array

    # What kernels get

    def _units(self, h: DeviceArray | None, c: DeviceArray | None, size: int) -> list[State]:
        """A state for each layer and direction; None stands for zeros."""
        shapes = self.axes.state_shapes(size, True)
        h, c = (self.stack.zeros(*shape) if a is None else a for a, shape in zip((h, c), shapes, strict=True))
        return [State(h[u].numbers(), c[u].numbers()) for u in range(self.axes.L * self.axes.D)]

    def _empty_state(self, size: int) -> tuple[DeviceArray, DeviceArray]:
        shapes = self.axes.state_shapes(size, True)
        h, c = (DeviceArray.empty(self.machine, shape, self.axes.dtype) for shape in shapes)
        return h, c

    def _user_state(self, kind: Kind, h: DeviceArray, c: DeviceArray, batched: bool) -> Any:
        if not batched:
            h, c = h[:, 0], c[:, 0]
        return (kind.wrap(h), kind.wrap(c)) if self.axes.E else kind.wrap(h)

    def _run(self, call: Call, y: DeviceArray, way: Pass, keep: bool) -> tuple[tuple[DeviceArray, DeviceArray], Record]:
        """Run the layer into y; the state after, and what the way back needs."""
        size = call.x.shape[1]
        after = self._empty_state(size)
        weights = self.stack.weights(self.parameters.version, self.parameters._write)
        into = self.axes.turn(y, call.batched)
        state, to = self._units(call.h, call.c, size), self._units(*after, size)
        return after, self.stack.forward(way, weights, call.x, into, state, to, keep)

    # What users call

    def infer(self, x: Any, state: Any, lengths: Any, resets: Any, out: Any, stream: Any) -> tuple[Any, Any]:
        """See ``Recurrent.__call__``."""
        with self._on(kind_of(x), stream) as kind:
            call = self._call(x, state, lengths, resets)
            steps, size, _ = call.x.shape
            shape = self.axes.y_shape(steps, size, call.batched)
            y = self._empty(shape) if out is None else self._output(out, shape, x, state)
            batch = self.stack.batch(steps, size, call.lengths, call.resets)
            after, _ = self._run(call, y, Pass(batch), False)
            return kind.wrap(y) if out is None else out, self._user_state(kind, *after, call.batched)

    def record(
        self, layer: Any, x: Any, state: Any, lengths: Any, resets: Any, rng: Seed, checkpoint: Any, stream: Any
    ) -> tuple[Any, Any, RecurrentTape]:
        """See ``Recurrent.forward``."""
        with self._on(kind_of(x), stream) as kind:
            call = self._call(x, state, lengths, resets)
            steps, size, _ = call.x.shape
            checkpoint = checkpoint_every(checkpoint, steps)
            drops: Any = drops_of(layer, layer._generator(rng))
            between, recurrent = (d and Drop(d.p, d.key) for d in drops)
            # The tape refers to x, but to a state of its own.
            call.h, call.c = (a if a is None else self._copy(a) for a in (call.h, call.c))
            y = self._empty(self.axes.y_shape(steps, size, call.batched))
            batch = self.stack.batch(steps, size, call.lengths, call.resets)
            after, record = self._run(call, y, Pass(batch, between, recurrent, checkpoint), True)
            y.readonly = True
            tape = RecurrentTape(layer, self, record, call.batched, call.shape, y.shape, kind)
            return kind.wrap(y), self._user_state(kind, *after, call.batched), tape

    def backward(self, layer: Any, tape: RecurrentTape, dy: Any, dstate: Any, retain: bool, stream: Any) -> Gradients:
        """See ``Recurrent.backward``."""
        batch = tape.record.way.batch
        with self._on(tape.kind, stream) as kind:
            if dy is not None:
                dy = self._array(dy, "dy")
                _check.shape(dy, "dy", tape.y_shape)
                dy = self.axes.turn(dy, tape.batched)
            dh, dc = self.states(dstate, "dstate", batch.size, tape.batched, missing=True)
            dx, flat = self._empty(tape.x_shape), self._empty((self.parameters.size,))
            if not batch.full:
                self.machine.zero(dx.flat)
            before, into = self._empty_state(batch.size), self.axes.turn(dx, tape.batched)
            by_unit = layer._by_unit(self.parameters.views_of(flat))
            gradients = [{name: a.numbers() for name, a in own.items()} for own in by_unit]
            dstates, to = self._units(dh, dc, batch.size), self._units(*before, batch.size)
            try:
                self.stack.backward(tape.record, dy, into, dstates, to, gradients, retain)
            finally:
                if not retain:
                    tape._consume()  # what it kept has been worked on in place
            whole = kind.wrap(flat)
            state = self._user_state(kind, *before, tape.batched)
            return Gradients(kind.wrap(dx), state, None, whole, self.parameters.shapes)

    @contextlib.contextmanager
    def _on(self, kind: Any, stream: Any) -> Iterator[Kind]:
        """On the stream that was given, or else that which the library of x is using."""
        with self.machine.on(kind.stream() if stream is None else stream):
            yield kind

    def _empty(self, shape: tuple[int, ...]) -> DeviceArray:
        return DeviceArray.empty(self.machine, shape, self.axes.dtype)

    def _copy(self, a: DeviceArray) -> DeviceArray:
        """Another array with the same numbers; those of each layer and direction must be contiguous."""
        if a.contiguous:
            return a.copy()
        made = DeviceArray.empty(self.machine, a.shape, a.dtype)
        for u in range(len(a)):
            self.machine.copy(made[u].numbers(), a[u].numbers())
        return made


def _called(value: Any) -> str:
    return "a NumPy array" if isinstance(value, np.ndarray) else type(value).__name__


def _stand_in(a: DeviceArray) -> Array:
    """A NumPy array that has all of an array on the device but its numbers: nobody may look at them."""
    strides = tuple(s * a.dtype.itemsize for s in a.strides)
    address = a.machine.address(a.flat) if a.size else 0
    interface = {"version": 3, "shape": a.shape, "typestr": a.dtype.str, "strides": strides}
    return np.asarray(SimpleNamespace(__array_interface__=interface | {"data": (address or 64, a.readonly)}))
