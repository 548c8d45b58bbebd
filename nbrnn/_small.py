"""Small calls: a few steps of one layer, where looking at everything takes longer than the work.

What such a call needs beside its arrays is made ready for each shape of x, and kept with the layer's form.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._axes import Axes
from ._cpu import cost, workers
from ._cpu.form import Form, Sums
from ._cpu.loops import backward_kernel, forward_kernel, gradients_kernel
from ._cpu.team import CALLER
from ._cpu.unit import Unit, readable
from ._cpu.workers import ALONE
from ._engine.batch import Batch
from ._engine.chain import Pass
from ._engine.stack import Stack
from ._memory import aligned, aligned_copy
from ._passes import RecurrentTape
from .module import Tape

Array = NDArray[Any]

#: Shapes for which calls of a layer are kept ready, and training steps.
MOST = 16

#: Bytes that the gradients of the weights may take, since they are kept for each shape.
SMALL_SUMS = 2**20

#: Seconds that a call for inference may take, and bytes of the weights of such a layer: of any longer one,
#: looking at everything, which takes 20 us or more, is at most a few hundredths.
LONGEST, SMALL_WEIGHTS = 1e-3, 2**19


class Shape(NamedTuple):
    """What follows from the shape of x."""

    seconds: float  #: about, on one thread
    batched: bool
    size: int
    y_shape: tuple[int, ...]
    way: Pass
    when: Any


class Ready(NamedTuple):
    """What a call for inference needs: memory to work in, among others, so nobody else may have it meanwhile."""

    shape: Shape
    run: Callable[..., None]
    after: tuple[Any, ...]  #: the kernel's last arguments


class ReadyToTrain(NamedTuple):
    """The same for a training step, from ``forward`` to the last ``backward``."""

    shape: Shape
    run: Callable[..., None]
    after: tuple[Any, ...]
    saved: Array
    back: Callable[..., None]
    work_back: tuple[Array, ...]
    gradients: Callable[..., None]
    work_of_gradients: Any
    sums: Sums
    no_dy: Array


def infer(axes: Axes, stack: Stack, x: Array, state: Any, out: Any = None) -> tuple[Array, Any] | None:
    """y and the state after of a plain call of a NumPy array; None if it isn't small, or x or out not just as it must
    be.
    """
    form = stack.parts[0][0]
    if out is not None and not (type(out) is np.ndarray and _as_it_must_be(out, axes)):
        return None
    ready = _take(form.ready, _make_ready, axes, stack, x, LONGEST)
    if ready is None:
        return None
    shape = ready.shape
    h, c = axes.states(state, "state", shape.size, shape.batched)
    y = np.empty(shape.y_shape, axes.dtype) if out is None else axes.output(out, shape.y_shape, x, state)
    x3, y3 = axes.turn(x, shape.batched), axes.turn(y, shape.batched)
    ready.run(CALLER, ALONE, stack.units[0].net, shape.when, x3, None, y3, h[0], c[0], *ready.after)
    _give(form.ready, x.shape, ready)
    return y if out is None else out, axes.user_state(h, c, shape.batched)


def record(layer: Any, axes: Axes, stack: Stack, x: Array, state: Any) -> tuple[Array, Any, Tape] | None:
    """The same for ``forward``: y, the state after, and the tape."""
    form = stack.parts[0][0]
    ready = _take(form.ready_to_train, _make_ready_to_train, axes, stack, x, cost.WORTH_IT)
    if ready is None:
        return None
    shape, unit = ready.shape, stack.units[0]
    h, c = axes.states(state, "state", shape.size, shape.batched)
    began, y = h[0].copy(), np.empty(shape.y_shape, axes.dtype)
    x3, y3 = axes.turn(x, shape.batched), axes.turn(y, shape.batched)
    ready.run(CALLER, ALONE, unit.net, shape.when, x3, None, y3, h[0], c[0], *ready.after)
    y.setflags(write=False)
    kept = Record(unit, ready, x3, y3, began, x.shape)
    tape = RecurrentTape(layer, stack, kept, shape.batched, x.shape, shape.y_shape)
    return y.view(), axes.user_state(h, c, shape.batched), tape


class Record:
    """What ``record`` leaves for the way back: in place of what a stack leaves."""

    chosen = False

    def __init__(
        self, unit: Unit, ready: ReadyToTrain, x: Array, y: Array, began: Array, x_shape: tuple[int, ...]
    ) -> None:
        self._unit, self._ready, self._x, self._y, self._began, self._x_shape = unit, ready, x, y, began, x_shape
        self.way = ready.shape.way

    def back(self, dy: Array | None, dx: Array, dh: Array, dc: Array, gradients: Array, retain: bool) -> None:
        """As of a stack."""
        ready, unit, when = self._ready, self._unit, self._ready.shape.when
        net, panels = unit.nets_back
        masks, x, y = unit.form.no_masks, self._x, self._y
        saved = aligned_copy(ready.saved) if retain else ready.saved  # the way back works in place
        slope = ready.no_dy if dy is None else readable(dy)
        ready.back(CALLER, ALONE, net, when, slope, dh[0], dc[0], masks, saved, *ready.work_back)
        given = (x, None, y, self._began, masks, dx, False, saved, False, ready.sums.totals, ready.work_of_gradients)
        ready.gradients(CALLER, ALONE, panels, when, 0, len(x), 0, *given)
        unit.read_sums(ready.sums, gradients)

    def __del__(self) -> None:
        _give(self._unit.form.ready_to_train, self._x_shape, self._ready)


def _as_it_must_be(a: Array, axes: Axes) -> bool:
    """Whether an array can be read or written as it is."""
    flags = a.flags
    return bool(a.dtype == axes.dtype and flags.c_contiguous and flags.aligned)


def _take(
    kept: dict[Any, Any], make: Callable[[Form, Shape], Any], axes: Axes, stack: Stack, x: Array, most: float
) -> Any:
    """What is ready for the shape of x; None if that isn't small, takes so many seconds or would be shared, or x isn't
    just as it must be.
    """
    if not _as_it_must_be(x, axes):
        return None
    ready = kept.pop(x.shape, None)
    if ready is not None and ready.shape.seconds < cost.WORTH_IT:
        return ready
    form = stack.parts[0][0]
    shape = _shape(axes, stack, x, most) if ready is None else ready.shape
    if shape is not None and _is_small(form, shape, most):
        return make(form, shape) if ready is None else ready
    if ready is not None:
        _give(kept, x.shape, ready)
    return None


def _is_small(form: Form, shape: Shape, most: float) -> bool:
    """Whether a call takes less than so many seconds, and no other thread would share it; or takes hardly any."""
    if shape.seconds < cost.WORTH_IT:
        return True
    if shape.seconds >= most or form.count * form.dtype.itemsize > SMALL_WEIGHTS:
        return False
    plan = cost.plan(form.work_forward, shape.size, workers.allowed())
    return plan.members == 1 and plan.holds(shape.size, shape.way.batch.steps)


def _give(kept: dict[Any, Any], shape: tuple[int, ...], ready: Any) -> None:
    if len(kept) < MOST:
        kept[shape] = ready


def _shape(axes: Axes, stack: Stack, x: Array, most: float) -> Shape | None:
    form = stack.parts[0][0]
    if len(stack.units) > 1 or x.size == 0 or x.ndim not in (2, 3) or x.shape[-1] != form.I:
        return None
    batched, steps, size = x.ndim == 3, x.shape[0], 1
    if batched:
        steps, size = x.shape[1::-1] if axes.batch_first else x.shape[:2]
    seconds = cost.plan(form.work_forward, size, 1).seconds * steps
    if seconds >= most:
        return None
    batch = Batch.of(steps, size, None, None)
    return Shape(seconds, batched, size, axes.y_shape(steps, size, batched), Pass(batch), batch.when(0, False))


def _make_ready(form: Form, shape: Shape) -> Ready:
    run = forward_kernel(form.cell, form.dtype, form.forward_lanes, False)
    return Ready(shape, run, (form.no_masks, None, *form.forward_workspace(shape.size)))


def _make_ready_to_train(form: Form, shape: Shape) -> ReadyToTrain | None:
    steps, size = shape.way.batch.steps, shape.size
    gradients = cost.plan_of_gradients(form.work_of_gradients, size, 1).seconds * steps
    shared = form.most_for_gradients() > 1 and gradients >= cost.WORTH_IT
    if shared or 2 * form.count * form.dtype.itemsize > SMALL_SUMS:
        return None
    saved = aligned((steps * size, form.saved_width), form.dtype)
    return ReadyToTrain(
        shape,
        forward_kernel(form.cell, form.dtype, form.forward_lanes, True),
        (form.no_masks, saved, *form.forward_workspace(size)),
        saved,
        backward_kernel(form.cell, form.dtype, form.back_lanes),
        form.backward_workspace(size),
        gradients_kernel(form.dtype, form.lanes),
        form.gradients_workspace(),
        form.new_sums(),
        np.empty((steps, size, 0), form.dtype),
    )
