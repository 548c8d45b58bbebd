"""One step at a time, with the state carried along."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _check, jit
from ._axes import Axes
from ._cpu import isa
from ._cpu.packing import join_forward
from ._cpu.pieces import run
from ._cpu.unit import readable, writeable
from ._engine.batch import Batch
from ._engine.stack import Stack
from ._memory import aligned_zeros, require

Array = NDArray[Any]


class Stream:
    """Takes one step at a time and carries the state: made by ``layer.stream()``.

    A snapshot of the layer's parameters, for one thread at a time: two at once would corrupt its memory.

    Parameters
    ----------
    stack : Stack
        Of one direction.
    axes : Axes
    batch_size : int or None
    """

    def __init__(self, stack: Stack, axes: Axes, batch_size: int | None) -> None:
        self._stack, self._axes, self._batched = stack, axes, batch_size is not None
        self._B = 1 if batch_size is None else batch_size
        units, form = stack.units, stack.units[0].form
        L, K, H, E = len(units), form.K, form.H, form.E
        held = sum(self._B * (3 * u.form.sizes.Kp + 3 * u.form.sizes.Hp * (1 + E)) for u in units)
        require(lambda: f"a stream of {self._B:,} sequences", stack.dtype, state_and_workspace=held)
        if self._batched:
            self._h, self._c = axes.states(None, "state", self._B, True)
            # Everything a step needs, so that it makes no arrays of its own.
            self._when = Batch.of(1, self._B, None, None).when(0, False)
            self._between = np.empty((L - 1, 1, self._B, K), stack.dtype)
            self._parts = [
                (u, h, c, u.form.forward_workspace(self._B)) for u, h, c in zip(units, self._h, self._c, strict=True)
            ]
            for unit in units:
                unit.net  # packed now: later changes of the parameters don't reach a stream  # noqa: B018
        else:
            self._state = aligned_zeros((L, 1 + E, H), stack.dtype)
            self._h, self._c = self._state[:, :1, :K], self._state[:, 1:].reshape(L, 1, E * H)
            self._net = units[0].net_of_steps if L == 1 else join_forward([unit.net_of_steps for unit in units])
            self._step = jit.entry(form.cell, form.dtype, isa.vectors(form.lanes))
        self._dtype, self._in, self._out = stack.dtype, (axes.I,), (K,)

    def __call__(self, x: Array, out: Array | None = None) -> Array:
        """One step.

        Parameters
        ----------
        x : ndarray, shape (I,), or (B, I) with a batch size
        out : ndarray, shape of the result, optional
            Where to write it.

        Returns
        -------
        y : ndarray, shape (K,), or (B, K) with a batch size
            The last layer's output; ``out`` if that is given, else a fresh array.

        Raises
        ------
        TypeError, ValueError
            As for a layer; the state stays as it was.
        """
        if self._takes(x) and x.flags.aligned:
            if out is None:
                y = np.empty(self._out, self._dtype)
                self._step(self._net, x, self._state, y)
                return y
            if type(out) is np.ndarray and out.dtype == self._dtype and out.shape == self._out and out.flags.carray:
                with contextlib.suppress(ValueError):  # out overlaps x, or seems to: looked at below
                    self._step(self._net, x, self._state, out)
                    return out
        stack = self._stack
        x = _check.array(x, "x", stack.dtype)
        lead = (self._B,) if self._batched else ()
        _check.shape(x, "x", (*lead, self._axes.I))
        shape = (*lead, stack.K)
        y = np.empty(shape, stack.dtype) if out is None else _check.output(out, shape, stack.dtype, [("x", x)])
        to = writeable(y)
        if not self._batched:
            self._step(self._net, readable(x), self._state, to)
        else:
            given, outputs = x[None], to[None]
            for between, (unit, h, c, workspace) in zip([*self._between, outputs], self._parts, strict=True):
                for loop in unit.forward(self._when, given, between, h, c, unit.form.no_masks, None, workspace):
                    run(loop)
                given = between
        if to is not y:
            y[...] = to
        return y if out is None else out

    def _takes(self, x: Any) -> bool:
        """Whether x is just what a stream of one sequence wants: most often it is, and there is nothing to convert."""
        return not self._batched and type(x) is np.ndarray and x.dtype == self._dtype and x.shape == self._in

    @property
    def state(self) -> Any:
        """The state, h or (h, c): h (L, B, K), c (L, B, H), without B if there is no batch size.  A copy; assign to
        change it, None for zeros.
        """
        return self._axes.user_state(self._h.copy(), self._c.copy(), self._batched)

    @state.setter
    def state(self, state: Any) -> None:
        self._h[...], self._c[...] = self._axes.states(state, "state", self._B, self._batched)

    def reset(self, mask: ArrayLike | None = None) -> None:
        """Set the state to zero.

        Parameters
        ----------
        mask : array_like of bool, shape (B,), optional
            For which sequences; None: for all.

        Raises
        ------
        TypeError, ValueError
            The mask isn't one, or there is no batch.
        """
        if mask is None:
            chosen: Any = slice(None)
        else:
            if not self._batched:
                raise ValueError("mask must be None for a stream without a batch size")
            chosen = _check.mask(mask, "mask", (self._B,))
        self._h[:, chosen] = 0
        self._c[:, chosen] = 0

    def _take(self, rows: Array) -> Stream:
        """A stream whose sequences go on from the states of these places of the batch; this one is used up."""
        stream = self if len(rows) == self._B else Stream(self._stack, self._axes, len(rows))
        stream._h[...], stream._c[...] = self._h[:, rows], self._c[:, rows]
        return stream

    def __copy__(self) -> Stream:
        """Another stream of the same snapshot, with a state of its own, from where this one is."""
        twin = Stream(self._stack, self._axes, self._B if self._batched else None)
        twin.state = self.state
        return twin

    def __deepcopy__(self, memo: Any) -> Stream:
        return self.__copy__()

    def __reduce__(self) -> Any:
        raise TypeError("a stream can't be pickled: pickle the layer and stream.state")

    def __repr__(self) -> str:
        return f"<stream of {len(self._stack.units)} layers, batch size {self._B if self._batched else None}>"
