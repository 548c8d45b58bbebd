"""Users' arrays and ours: axes, states, and the checks of both."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _check
from ._cpu.chosen import Chosen
from ._engine.batch import Batch
from ._memory import SURELY, require

Array = NDArray[Any]


@dataclasses.dataclass
class Call:
    """The arguments of one call, checked; sequences are (T, B, ...), states batched and ours to change."""

    x: Any  # an array, or Chosen
    h: Array  # (L * D, B, K)
    c: Array  # (L * D, B, E * H)
    batch: Batch
    batched: bool
    dx_shape: tuple[int, ...]  #: as the user sees it; of what x is chosen from, if it is


@dataclasses.dataclass(frozen=True)
class Axes:
    """The sizes of a layer that decide what its arrays look like.

    Inside, sequences are (T, B, ...) and states (L*D, B, ...), always.  A user may have the batch first, or none.
    """

    I: int
    H: int
    K: int
    L: int
    D: int
    E: int  # what a cell carries beside h
    batch_first: bool
    dtype: np.dtype[Any]

    def y_shape(self, steps: int, batch: int, batched: bool) -> tuple[int, ...]:
        """Of y, as the user sees it."""
        features = self.D * self.K
        if not batched:
            return (steps, features)
        return (batch, steps, features) if self.batch_first else (steps, batch, features)

    def output(self, out: Any, shape: tuple[int, ...], x: Any, state: Any) -> Array:
        """``out``, if y of that shape can be written there, apart from x and the states."""
        states = state if isinstance(state, tuple | list) else (state,)
        return _check.output(out, shape, self.dtype, [("x", x), *(("state", s) for s in states)])

    def turn(self, a: Any, batched: bool) -> Any:
        """(T, B, ...) from the user's axes: a view."""
        if not batched:
            return a[:, None]
        return a.swapaxes(0, 1) if self.batch_first else a

    def sequences(self, x: Any) -> tuple[Any, bool]:
        """x as (T, B, I), a view, and whether it had a B; of the shape that it must have, or a ValueError."""
        batched = x.ndim != 2
        if x.ndim not in (2, 3) or x.shape[-1] != self.I:
            axes = "B, T" if self.batch_first else "T, B"
            raise ValueError(f"x must have shape ({axes}, {self.I}), or (T, {self.I}) unbatched, got {tuple(x.shape)}")
        return self.turn(x, batched), batched

    def limits(
        self, lengths: Any, resets: Any, steps: int, size: int, batched: bool
    ) -> tuple[Array | None, Array | None]:
        """lengths (B,) and resets (T, B) of the host's, from what the user gave."""
        if lengths is not None:
            if not batched:
                raise ValueError("lengths must be None where x is unbatched: cut x to the length instead")
            lengths = _check.lengths(lengths, size, steps)
        if resets is not None:
            wanted = (steps,) if not batched else (size, steps) if self.batch_first else (steps, size)
            resets = self.turn(_check.mask(resets, "resets", wanted), batched)
        return lengths, resets

    def call(self, x: Any, state: Any, lengths: Any, resets: Any) -> Call:
        """The arguments of a call, or an error that names the one that is wrong."""
        given = x if isinstance(x, Chosen) else _check.array(x, "x", self.dtype)
        x, batched = self.sequences(given)
        steps, size = x.shape[:2]
        lengths, resets = self.limits(lengths, resets, steps, size, batched)
        states = 2 * self.L * self.D * size * (self.K + self.E * self.H)  # those before and after
        if states >= SURELY:
            require(lambda: f"a batch of {size:,} sequences", self.dtype, states=states)
        h, c = self.states(state, "state", size, batched)
        dx_shape = given.table.shape if isinstance(given, Chosen) else given.shape
        return Call(x, h, c, Batch.of(steps, size, lengths, resets), batched, dx_shape)

    def entries(self, state: Any, name: str, arrays: str, is_array: Callable[[Any], bool]) -> list[tuple[str, Any]]:
        """What a state that isn't None consists of, h or h and c: how it is called in errors, and what was given.

        ``arrays`` says what it must consist of, ``is_array`` whether something may be that.
        """
        several = isinstance(state, tuple | list)
        if not several and not is_array(state):
            wanted = f"a pair (h, c) of {arrays}s" if self.E else f"a {arrays}"
            raise TypeError(f"{name} must be {wanted}, got {type(state).__name__}")
        if several != bool(self.E) or (several and len(state) != 2):
            got = f"a {type(state).__name__} of {len(state)}" if several else f"an array of shape {np.shape(state)}"
            raise ValueError(f"{name} must be {'a pair (h, c)' if self.E else 'one array, h'}; got {got}")
        if not several:
            return [(name, state)]
        return [(f"{name}[0] (h)", state[0]), (f"{name}[1] (c)", state[1])]

    def state_shapes(self, batch: int, batched: bool) -> list[tuple[int, ...]]:
        """Of h and c, as the user sees them."""
        count, middle = self.L * self.D, (batch,) if batched else ()
        return [(count, *middle, self.K), (count, *middle, self.E * self.H)]

    def states(self, state: Any, name: str, batch: int, batched: bool, missing: bool = False) -> tuple[Array, Array]:
        """(h, c) of our own, (L*D, B, K) and (L*D, B, E*H), from what the user gave; None stands for zeros.

        ``missing``: whether an entry of a pair may be None too.
        """
        count = self.L * self.D
        if state is None:
            return np.zeros((count, batch, self.K), self.dtype), np.zeros((count, batch, self.E * self.H), self.dtype)
        given, made = self.entries(state, name, "NumPy array", lambda value: isinstance(value, np.ndarray)), []
        for n, size in enumerate((self.K, self.E * self.H)):
            if n >= len(given) or (missing and given[n][1] is None):
                made.append(np.zeros((count, batch, size), self.dtype))
            else:
                label, part = given[n]
                array = _check.array(part, label, self.dtype)
                _check.shape(array, label, (count, batch, size) if batched else (count, size))
                ours = np.array(array, order="C")
                made.append(ours if batched else ours.reshape(count, batch, size))
        return made[0], made[1]

    def user_state(self, h: Array, c: Array, batched: bool) -> Any:
        """A state as the user sees it."""
        if not batched:
            h, c = h[:, 0], c[:, 0]
        return (h, c) if self.E else h
