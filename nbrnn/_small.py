"""Small calls for inference: a few steps of one layer, where looking at everything takes longer than the work.

What such a call needs beside its arrays is made ready for each shape of x, and kept with the layer's form.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._axes import Axes
from ._cpu import cost
from ._cpu.loops import forward_kernel
from ._cpu.team import CALLER
from ._cpu.workers import ALONE
from ._engine.batch import Batch
from ._engine.stack import Stack

Array = NDArray[Any]

#: Shapes for which calls of a layer are kept ready.
MOST = 16


class Ready(NamedTuple):
    """What a call of one shape needs: memory to work in, among others, so nobody else may have it meanwhile."""

    seconds: float  #: about, on one thread
    batched: bool
    size: int
    y_shape: tuple[int, ...]
    run: Callable[..., None]
    when: Any
    after: tuple[Any, ...]  #: the kernel's last arguments


def infer(axes: Axes, stack: Stack, x: Array, state: Any) -> tuple[Array, Any] | None:
    """y and the state after of a plain call of a NumPy array; None if it isn't small, or x not just as it must be."""
    kept, flags = stack.parts[0][0].ready, x.flags
    if not (x.dtype == axes.dtype and flags.c_contiguous and flags.aligned):
        return None
    ready = kept.pop(x.shape, None)
    if ready is None:
        ready = _make_ready(axes, stack, x)
    if ready is None or ready.seconds >= cost.WORTH_IT:
        return None
    h, c = axes.states(state, "state", ready.size, ready.batched)
    y = np.empty(ready.y_shape, axes.dtype)
    into, net = axes.turn(y, ready.batched), stack.units[0].net
    ready.run(CALLER, ALONE, net, ready.when, axes.turn(x, ready.batched), None, into, h[0], c[0], *ready.after)
    if len(kept) < MOST:
        kept[x.shape] = ready
    return y, axes.user_state(h, c, ready.batched)


def _make_ready(axes: Axes, stack: Stack, x: Array) -> Ready | None:
    form = stack.parts[0][0]
    if len(stack.units) > 1 or x.size == 0 or x.ndim not in (2, 3) or x.shape[-1] != form.I:
        return None
    batched = x.ndim == 3
    steps, size, _ = axes.turn(x, batched).shape
    seconds = cost.plan(form.work_forward, size, 1).seconds * steps
    if seconds >= cost.WORTH_IT:
        return None
    run = forward_kernel(form.cell, form.dtype, form.lanes, False)
    when, after = Batch.of(steps, size, None, None).when(0, False), (form.no_masks, None, *form.forward_workspace(size))
    return Ready(seconds, batched, size, axes.y_shape(steps, size, batched), run, when, after)
