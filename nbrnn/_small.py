"""Small calls: a few steps of a small network, where looking at everything takes longer than the work.

What follows from the shape of x is noted down; memory to work in is kept ready for each number of sequences.  Both are
with the form of the first layer.
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
from ._cpu.unit import readable
from ._cpu.workers import ALONE
from ._engine.batch import Batch
from ._engine.chain import Pass
from ._engine.stack import Stack
from ._memory import aligned, aligned_copy
from ._passes import RecurrentTape
from .module import Tape

Array = NDArray[Any]

#: Numbers of sequences for which calls of a network are kept ready, and training steps; and shapes of x that are known.
MOST, MOST_SHAPES = 16, 256

#: Bytes that the gradients of the weights may take, since memory for them is kept for each number of sequences.
SMALL_SUMS = 2**20

#: Seconds that a call for inference may take, and bytes of the weights of such a network: of any longer one,
#: looking at everything, which takes 20 us or more, is at most a few hundredths.  And numbers that may pass between
#: layers: of more, a stack runs some steps at a time.
LONGEST, SMALL_WEIGHTS, MOST_BETWEEN = 1e-3, 2**19, 2**18


class Shape(NamedTuple):
    """What follows from the shape of x."""

    seconds: float  #: for inference, about, on one thread
    trains: bool  #: whether gradients of the weights are little work, and take little memory
    batched: bool
    y_shape: tuple[int, ...]
    full: Batch  #: as it is where all sequences are


class Run(NamedTuple):
    """How one layer in one direction is run forward."""

    n: int  #: which of them
    layer: int
    reverse: bool
    columns: slice | None  #: of what the layer hands on; None: all
    forward: Callable[..., None]
    after: tuple[Any, ...]  #: the kernel's last arguments


class Ready(NamedTuple):
    """What a call for inference needs: memory to work in, among others, so nobody else may have it meanwhile."""

    steps: int  #: at most
    between: list[Array]  #: what each layer but the last hands on
    runs: list[Run]


class Back(NamedTuple):
    """How one layer in one direction is taken back."""

    run: Run
    at: slice  #: of the gradients of all parameters
    saved: Array
    backward: Callable[..., None]
    work: tuple[Array, ...]
    gradients: Callable[..., None]
    work_of_gradients: Any
    sums: Sums
    no_dy: Array


class ReadyToTrain(NamedTuple):
    """What a training step needs, from ``forward`` to the last ``backward``."""

    steps: int
    between: list[Array]
    runs: list[Run]
    backs: list[Back]  #: in the order they are taken back
    between_back: list[Array]  #: gradients for what each layer but the last hands on


def infer(
    axes: Axes, stack: Stack, x: Array, state: Any, lengths: Any, resets: Any, out: Any
) -> tuple[Array, Any] | None:
    """y and the state after of a call for a NumPy array; None if it isn't small, or x or out isn't as it must be."""
    if out is not None and not (type(out) is np.ndarray and _as_it_must_be(out, axes)):
        return None
    shape = _shape(axes, stack, x)
    if shape is None or not (shape.seconds < cost.WORTH_IT or _nobody_shares(stack, shape.full)):
        return None
    kept = stack.parts[0][0].ready
    ready = _take(kept, _make_ready, stack, shape)
    if ready is None:
        return None
    batch, batched = _batch(axes, shape, lengths, resets), shape.batched
    h, c = axes.states(state, "state", batch.size, batched)
    y = np.empty(shape.y_shape, axes.dtype) if out is None else axes.output(out, shape.y_shape, x, state)
    through = [axes.turn(x, batched), *_first(ready.between, batch.steps), axes.turn(y, batched)]
    _run(stack, ready, batch, through, h, c)
    _give(kept, batch.size, ready)
    return y if out is None else out, axes.user_state(h, c, batched)


def record(
    layer: Any, axes: Axes, stack: Stack, x: Array, state: Any, lengths: Any, resets: Any
) -> tuple[Array, Any, Tape] | None:
    """The same for ``forward``: y, the state after, and the tape."""
    shape = _shape(axes, stack, x)
    if shape is None or not (shape.trains and shape.seconds < cost.WORTH_IT):
        return None
    ready = _take(stack.parts[0][0].ready_to_train, _make_ready_to_train, stack, shape)
    if ready is None:
        return None
    batch, batched = _batch(axes, shape, lengths, resets), shape.batched
    h, c = axes.states(state, "state", batch.size, batched)
    began, y = h.copy(), np.empty(shape.y_shape, axes.dtype)
    through = [axes.turn(x, batched), *_first(ready.between, batch.steps), axes.turn(y, batched)]
    _run(stack, ready, batch, through, h, c)
    y.setflags(write=False)
    kept = Record(stack, ready, batch, through, began)
    tape = RecurrentTape(layer, stack, kept, batched, x.shape, shape.y_shape)
    return y.view(), axes.user_state(h, c, batched), tape


def _batch(axes: Axes, shape: Shape, lengths: Any, resets: Any) -> Batch:
    """The sequences of a call."""
    full = shape.full
    if lengths is resets is None:
        return full
    return Batch.of(full.steps, full.size, *axes.limits(lengths, resets, full.steps, full.size, shape.batched))


def _first(arrays: list[Array], steps: int) -> list[Array]:
    """So many steps of each."""
    return [a[:steps] for a in arrays] if arrays else arrays


def _run(stack: Stack, ready: Ready | ReadyToTrain, batch: Batch, through: list[Array], h: Array, c: Array) -> None:
    """Run all layers and directions; ``through``: x, what layers hand on, and y."""
    for n, layer, reverse, columns, forward, after in ready.runs:
        to = through[layer + 1]
        if columns is not None:
            to = to[:, :, columns]
        when = batch.when(0, reverse)
        forward(CALLER, ALONE, stack.units[n].net, when, through[layer], None, to, h[n], c[n], *after)


class Record:
    """What ``record`` leaves for the way back: in place of what a stack leaves."""

    chosen = False

    def __init__(self, stack: Stack, ready: ReadyToTrain, batch: Batch, through: list[Array], began: Array) -> None:
        self._stack, self._ready, self._through, self._began = stack, ready, through, began
        self.way = Pass(batch)

    def back(self, dy: Array | None, dx: Array, dh: Array, dc: Array, gradients: Array, retain: bool) -> None:
        """As of a stack."""
        stack, ready, through, batch = self._stack, self._ready, self._through, self.way.batch
        slopes, rows = [dx, *_first(ready.between_back, batch.steps), dy], batch.rows(0, batch.steps)
        for run, at, saved, backward, work, sum_up, work_of_gradients, sums, no_dy in ready.backs:
            n, layer, reverse, columns, _, _ = run
            unit, x, y, slope = stack.units[n], through[layer], through[layer + 1], slopes[layer + 1]
            if columns is not None:
                y, slope = y[:, :, columns], None if slope is None else slope[:, :, columns]
            slope = no_dy[: batch.steps] if slope is None else readable(slope)
            if len(saved) > rows:
                saved = saved[:rows]
            if retain:
                saved = aligned_copy(saved)  # the way back works in place
            (net, panels), masks, when = unit.nets_back, unit.form.no_masks, batch.when(0, reverse)
            backward(CALLER, ALONE, net, when, slope, dh[n], dc[n], masks, saved, *work)
            # Of two directions, the second adds to what the first has written of dx.
            given = (x, None, y, self._began[n], masks, slopes[layer], reverse, saved, False, sums.totals)
            sum_up(CALLER, ALONE, panels, when, 0, batch.steps, 0, *given, work_of_gradients)
            unit.read_sums(sums, gradients[at])

    def __del__(self) -> None:
        _give(self._stack.parts[0][0].ready_to_train, self.way.batch.size, self._ready)


def _as_it_must_be(a: Array, axes: Axes) -> bool:
    """Whether an array can be read or written as it is."""
    flags = a.flags
    return bool(a.dtype == axes.dtype and flags.c_contiguous and flags.aligned)


def _shape(axes: Axes, stack: Stack, x: Array) -> Shape | None:
    """What follows from the shape of x; None if x isn't just as it must be, or such a call is too long in any case."""
    if not _as_it_must_be(x, axes):
        return None
    known = stack.parts[0][0].shapes
    shape = known.get(x.shape)
    if shape is None and (shape := _look_at(axes, stack, x)) is not None:
        if len(known) >= MOST_SHAPES:
            known.clear()
        known[x.shape] = shape
    return shape


def _look_at(axes: Axes, stack: Stack, x: Array) -> Shape | None:
    if x.size == 0 or x.ndim not in (2, 3) or x.shape[-1] != axes.I:
        return None
    batched, steps, size = x.ndim == 3, x.shape[0], 1
    if batched:
        steps, size = x.shape[1::-1] if axes.batch_first else x.shape[:2]
    forms = [form for form, _ in stack.parts]
    seconds = steps * sum(cost.plan(form.work_forward, size, 1).seconds for form in forms)
    if seconds >= LONGEST or steps * size * axes.D * axes.K * (axes.L - 1) > MOST_BETWEEN:
        return None
    trains = not any(_shares_gradients(form, steps, size) for form in forms)
    trains = trains and sum(2 * form.count * form.dtype.itemsize for form in forms) <= SMALL_SUMS
    return Shape(seconds, trains, batched, axes.y_shape(steps, size, batched), Batch.of(steps, size, None, None))


def _shares_gradients(form: Form, steps: int, size: int) -> bool:
    """Whether another thread would share the gradients of the weights, if it may."""
    work = form.work_of_gradients
    return cost.most_for_gradients(work) > 1 and cost.plan_of_gradients(work, size, 1).seconds * steps >= cost.WORTH_IT


def _nobody_shares(stack: Stack, batch: Batch) -> bool:
    """Whether no other thread would share a call for inference of a small network."""
    forms = [form for form, _ in stack.parts]
    if sum(form.count * form.dtype.itemsize for form in forms) > SMALL_WEIGHTS:
        return False
    threads = workers.allowed()
    if stack.directions == 2 and any(cost.plan_of_two(form.work_forward, batch.size, threads) for form in forms):
        return False
    plans = [cost.plan(form.work_forward, batch.size, threads) for form in forms]
    return all(plan.members == 1 and plan.holds(batch.size, batch.steps) for plan in plans)


def _take(kept: dict[int, Any], make: Callable[[Stack, int, int], Any], stack: Stack, shape: Shape) -> Any:
    """What is ready for so many sequences; None if there is nothing, and no room for more."""
    steps, size = shape.full.steps, shape.full.size
    ready = kept.pop(size, None)
    if ready is not None:
        return ready if ready.steps >= steps else make(stack, max(steps, 2 * ready.steps), size)
    if len(kept) < MOST:
        return make(stack, steps, size)
    for oldest in list(kept)[:1]:  # next time there is room; this time the call goes the general way
        kept.pop(oldest, None)
    return None


def _give(kept: dict[int, Any], size: int, ready: Any) -> None:
    if len(kept) < MOST:
        kept[size] = ready


def _between(stack: Stack, steps: int, size: int) -> list[Array]:
    """Memory for what each layer but the last hands on."""
    layers = len(stack.parts) // stack.directions
    return [aligned((steps, size, stack.directions * stack.K), stack.dtype) for _ in range(layers - 1)]


def _runs(stack: Stack, size: int, saved: list[Array] | None) -> list[Run]:
    made, D = [], stack.directions
    for n, (form, _) in enumerate(stack.parts):
        layer, d = divmod(n, D)
        columns = slice(d * form.K, (d + 1) * form.K) if D == 2 else None
        forward = forward_kernel(form.cell, form.dtype, form.forward_lanes, saved is not None)
        after = (form.no_masks, None if saved is None else saved[n], *form.forward_workspace(size))
        made.append(Run(n, layer, d == 1, columns, forward, after))
    return made


def _make_ready(stack: Stack, steps: int, size: int) -> Ready:
    return Ready(steps, _between(stack, steps, size), _runs(stack, size, None))


def _make_ready_to_train(stack: Stack, steps: int, size: int) -> ReadyToTrain:
    saved = [aligned((steps * size, form.saved_width), form.dtype) for form, _ in stack.parts]
    runs = _runs(stack, size, saved)
    backs = [_back(run, *stack.parts[run.n], saved[run.n], steps, size) for run in sorted(runs, key=lambda r: -r.layer)]
    return ReadyToTrain(steps, _between(stack, steps, size), runs, backs, _between(stack, steps, size))


def _back(run: Run, form: Form, at: slice, saved: Array, steps: int, size: int) -> Back:
    return Back(
        run,
        at,
        saved,
        backward_kernel(form.cell, form.dtype, form.back_lanes),
        form.backward_workspace(size),
        gradients_kernel(form.dtype, form.lanes),
        form.gradients_workspace(),
        form.new_sums(),
        np.empty((steps, size, 0), form.dtype),
    )
