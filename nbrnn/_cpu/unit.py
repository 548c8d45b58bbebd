"""One layer in one direction on the CPU: its packed weights, its workspaces, its compiled loops."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._memory import aligned, aligned_zeros, fresh
from .._nets import net_class
from . import cost, digits, isa, workers
from . import dropout as _dropout
from .chosen import Chosen
from .form import MOVERS, Form, Packed, Sums
from .loops import (
    backward_kernel,
    bytes_back_kernel,
    choices_kernel,
    digits_kernel,
    dropout_kernel,
    dx_digits_kernel,
    forward_kernel,
    gradients_kernel,
    move_kernel,
    sum_choices_kernel,
)
from .pieces import Loop, start
from .schedule import When
from .team import CALLER

Array = NDArray[Any]


class Unit:
    """One layer in one direction, as of the moment its weights were packed.

    Parameters
    ----------
    form : Form
    parameters : ndarray
        The vector of its parameters.  Must not change while the unit is used.
    """

    def __init__(self, form: Form, parameters: Array) -> None:
        self.form, self._parameters = form, parameters
        self._packed: dict[str, Packed] = {}

    def __del__(self) -> None:
        for way, packed in self._packed.items():
            self.form.give(way, packed)

    # Packed when first needed: who never trains never pays for the way back.  (``functools.cached_property`` would take
    # a lock.  Threads that come at the same time may both pack: the same numbers, so it doesn't matter whose stay.)

    @property
    def net(self) -> Any:
        """Weights for ``forward``; good for as long as somebody has the unit."""
        packed = self._packed.get("forward")
        return self._pack("forward") if packed is None else packed.given

    @property
    def nets_back(self) -> tuple[Any, Any]:
        """Weights for ``backward`` and for ``gradients``, likewise."""
        packed = self._packed.get("back")
        return self._pack("back") if packed is None else packed.given

    @property
    def net_of_steps(self) -> Any:
        """The same for single steps, of one type for layers of any sizes, without what only ``forward`` reads."""
        form, net = self.form, self.net
        return net_class(form.cell, isa.vectors(form.lanes))(net.w[: form.sizes.end], *net[1:])

    def _pack(self, way: str) -> Any:
        packed, form = self.form.take(way), self.form
        _move(packed.table, self._parameters, packed.buffer[: packed.moved], packed.rooms)
        if way == "forward" and (form.in_bytes or form.by_digits):
            numbers = form.K + (form.by_digits * form.I)
            found = aligned((2, MOVERS, form.sizes.W), form.dtype)
            kernel = digits_kernel(form.cell, form.dtype, form.forward_lanes)
            kernel(CALLER, _team(form, numbers), packed.given, form.by_digits, found)
        if way == "back" and form.in_bytes:
            found = aligned((MOVERS, form.sizes.W), form.dtype)
            kernel = bytes_back_kernel(form.cell, form.dtype, form.back_lanes)
            kernel(CALLER, _team(form, form.K), packed.given[0], found)
        if way == "back" and form.dx_by_digits:
            panels, found = packed.given[1], aligned((MOVERS, form.sizes.W), form.dtype)
            dx_digits_kernel(form.dtype, form.lanes)(CALLER, _team(form, form.I), panels, panels.digits, found)
        return self._packed.setdefault(way, packed).given

    def masks(self, batch: int, p: float, key: tuple[int, int], layer: int, direction: int) -> Array:
        """What h is multiplied by where it enters W_hh, and the room that ``forward`` wants beside it."""
        masks = aligned_zeros((3, batch, self.form.sizes.Kp), self.form.dtype)
        own = masks[:1, :, : self.form.K]
        own.fill(1)
        _drop(own, own, p, key, _dropout.RECURRENT, layer, direction, 0)
        return masks

    # A loop is run at once if it is small. Else it is given back, for ``pieces.run``: to be run by itself, or with that
    # of the other direction.

    def forward(
        self,
        when: When,
        x: Array | Chosen,
        y: Array,
        h: Array,
        c: Array,
        masks: Array,
        saved: Array | None,
        workspace: tuple[Array, ...],
    ) -> tuple[Loop, ...]:
        """See ``_cpu.forward.forward``; x is copied if its inner axis isn't contiguous."""
        form = self.form
        if isinstance(x, Chosen):
            sum_choices_kernel(form.cell, form.dtype, form.forward_lanes)(self.net, x.table, *workspace[-3:])
        kernel = forward_kernel(form.cell, form.dtype, form.forward_lanes, saved is not None, isinstance(x, Chosen))
        x, index = _inputs(x)
        arguments = (self.net, when, x, index, y, h, c, masks, saved, *workspace)
        return start(kernel, form.work_forward, False, 3, arguments)

    def backward(
        self,
        when: When,
        dy: Array,
        dh: Array,
        dc: Array,
        masks: Array,
        saved: Array,
        workspace: tuple[Array, ...],
    ) -> tuple[Loop, ...]:
        """See ``_cpu.backward.backward``; dy is copied if its inner axis isn't contiguous."""
        form = self.form
        kernel = backward_kernel(form.cell, form.dtype, form.back_lanes)
        arguments = (self.nets_back[0], when, readable(dy), dh, dc, masks, saved, *workspace)
        return start(kernel, form.work_back, True, 1, arguments)

    def gradients(
        self,
        when: When,
        x: Array | Chosen,
        y: Array,
        h: Array,
        masks: Array,
        dx: Array,
        add: bool,
        saved: Array,
        begun: bool,
        totals: Any,
        work: Any,
    ) -> None:
        """Run ``_cpu.gradients.gradients``; y and dx must be contiguous in their inner axes."""
        form, panels, steps = self.form, self.nets_back[1], len(y)
        run = gradients_kernel(form.dtype, form.lanes, isinstance(x, Chosen))
        given = (*_inputs(x), y, h, masks, dx, add, saved)
        # Threads may have been allowed since the rooms were made.
        members = min(form.most_for_gradients(), len(work.tables))
        plan = cost.plan_of_gradients(form.work_of_gradients, len(when.order), members)
        if members == 1 and plan.holds(len(when.order), steps):
            run(CALLER, workers.ALONE, panels, when, 0, steps, 0, *given, begun, totals, work)
            return
        done = row = 0
        # Where these are cut must not depend on threads: the last bits of a sum depend on it.
        with workers.Sharing(plan, 0) as sharing:
            for now in cost.cuts(plan, steps, 0):
                team = sharing.team(now)
                run(CALLER, team, panels, when, done, done + now, row, *given, begun or done > 0, totals, work)
                if done + now < steps:
                    start = steps - done - now if when.reverse else done
                    row += int(np.clip(when.lengths - when.t0 - start, 0, now).sum())
                done += now

    def gradients_of_choices(self, x: Chosen, dx: Array, add: bool, totals: Any, work: Any) -> None:
        """See ``_cpu.gradients.gradients_of_choices``: what is left to do when all steps have been taken back."""
        choices_kernel(self.form.dtype, self.form.lanes)(self.nets_back[1], x.table, dx, add, totals, work)

    def read_sums(self, sums: Sums, to: Array) -> None:
        """Write the gradients of the parameters, as one vector, from what has been summed."""
        _move(self.form.unpack.table, sums.vector, to, self.form.no_rooms)


def _move(table: Array, source: Array, to: Array, rooms: Array) -> None:
    """See ``_cpu.moves.move``."""
    team = workers.team_of_moves(to.nbytes, MOVERS)
    if team is workers.ALONE:
        move_kernel(to.dtype)(table, source, to, rooms)
    else:
        move_kernel(to.dtype, True)(CALLER, team, table, source, to, rooms)


def _team(form: Form, numbers: int) -> Any:
    """Who brings so many numbers of each row of weights into digits or bytes."""
    size = len(form.cell.gates) * form.H * digits.numbers_of(numbers) * form.dtype.itemsize
    return workers.team_of_moves(size, MOVERS)


def _inputs(x: Array | Chosen) -> tuple[Array, NDArray[np.int64] | None]:
    """x and the index, as kernels take them: of what is chosen, they read nothing but that."""
    if isinstance(x, Chosen):
        return np.empty((len(x), 0, x.shape[2]), x.dtype), x.index
    return readable(x), None


def _plain(a: Array) -> bool:
    """Whether kernels can read and write its rows: contiguous and aligned."""
    flags = a.flags
    return bool(flags.aligned and (flags.c_contiguous or a.strides[-1] == a.itemsize or a.shape[-1] <= 1))


def readable(x: Array) -> Array:
    """x, or a copy of it, such that kernels can read its rows."""
    return x if _plain(x) else np.require(x, requirements=("C", "A"))


def writeable(y: Array) -> Array:
    """y, or a new array of its shape, such that kernels can write its rows."""
    return y if _plain(y) else np.empty(y.shape, y.dtype)


def draw_key(rng: np.random.Generator) -> tuple[int, int]:
    """The key of a pass with dropout: all that is ever drawn for it."""
    low, high = rng.integers(0, 2**32, 2)
    return int(low), int(high)


def dropout(x: Array, p: float, key: tuple[int, int], kind: int, layer: int, directions: int, t0: int) -> Array:
    """x (steps, B, D * n) with numbers dropped with probability p, the others divided by 1 - p."""
    x, y = np.require(x, requirements="A"), fresh(x.shape, x.dtype)
    n = x.shape[2] // directions
    for d in range(directions):
        part = slice(d * n, (d + 1) * n)
        _drop(x[:, :, part], y[:, :, part], p, key, kind, layer, d, t0)
    return y


def _drop(x: Array, y: Array, p: float, key: tuple[int, int], kind: int, layer: int, direction: int, t0: int) -> None:
    """y = x (steps, B, n) of one direction with numbers dropped."""
    run, scale = dropout_kernel(x.dtype), x.dtype.type(0 if p == 1 else 1 / (1 - p))
    run(x, y, key[0], key[1], round(p * 2**32), scale, kind << 24 | layer << 1 | direction, t0)
