"""Pool: one vector of a whole sequence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _check
from ._cuda.array import DeviceArray
from ._cuda.pooling import pooled, pooled_back
from ._cuda.rows import side_by_side
from ._loops.largest import largest
from .stateless import Stateless, floats, inside

Array = NDArray[Any]


class Pool(Stateless):
    """The last step of each sequence, or the mean or the largest number of all its steps.

    x is (T, B, n), and y (B, n): for a Linear, and a loss, without ``lengths``.  Unbatched, x is (T, n) and y (n,).  In
    a network with ``batch_first`` x is (B, T, n), and y the same.  With ``lengths`` only a sequence's own steps count;
    y of an empty sequence is 0.

    The gradient of the largest number goes to the first step that has it.  NaN counts as larger than any number.

    Parameters
    ----------
    mode : "last", "mean" or "max"

    Raises
    ------
    TypeError, ValueError
        mode is none of these.

    Examples
    --------
    >>> import numpy as np, nbrnn
    >>> x = np.array([1.0, 5, 3]).reshape(3, 1, 1)
    >>> [float(nbrnn.Pool(mode)(x, lengths=[3])[0][0, 0]) for mode in ("last", "mean", "max")]
    [3.0, 3.0, 5.0]
    >>> [float(nbrnn.Pool(mode)(x, lengths=[2])[0][0, 0]) for mode in ("last", "mean", "max")]
    [5.0, 3.0, 5.0]
    """

    _needs_steps, _keeps_steps = True, False

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode: str = _check.choice(mode, "mode", ("last", "mean", "max"))
        self._fix()

    def _lengths_after(self, lengths: Any) -> None:
        return None

    def _check_x(self, x: Any) -> Array:
        x = floats(x)
        if x.ndim not in (2, 3):
            raise ValueError(f"x must have shape (T, B, n), or (T, n) unbatched, got {x.shape}")
        return x

    def _run(self, x: Array, ends: Array | None, rng: np.random.Generator | None) -> tuple[Array, Any]:
        x_shape, x = x.shape, x if x.ndim == 3 else x[:, None]
        steps, batch = x.shape[:2]
        counts = True if ends is None else inside(ends, steps)[:, :, None]
        ends = np.full(batch, steps, np.int64) if ends is None else ends
        at: Array | None = None  # the step that is taken, for each number
        if self.mode == "max":
            y, at = largest(x, ends)
        elif self.mode == "mean" or steps == 0:
            y = np.add.reduce(x, 0, where=counts)
            y /= _divisor(ends, x.dtype)
        else:
            at = np.maximum(ends - 1, 0)[:, None]
            y = x[_places(at, x)]
            y[ends == 0] = 0
        return y.reshape(x_shape[1:]), (x_shape, ends, counts, at)

    def _back(self, kept: Any, dy: Array, gradients: Mapping[str, Array]) -> Array:
        x_shape, ends, counts, at = kept
        steps, batch, n = x_shape[0], len(ends), x_shape[-1]
        dy = np.where((ends > 0)[:, None], dy.reshape(batch, n), dy.dtype.type(0))
        dx = (np.empty if counts is True and at is None else np.zeros)((steps, batch, n), dy.dtype)
        if at is None:
            np.copyto(dx, dy / _divisor(ends, dy.dtype), where=counts)
        elif steps:
            dx[_places(at, dx)] = dy
        return dx.reshape(x_shape)

    def _run_there(
        self, x: DeviceArray, ends: Array | None, rng: np.random.Generator | None
    ) -> tuple[DeviceArray, Any]:
        x_shape, x = x.shape, x if x.ndim == 3 else x[:, None]
        limits = x.machine.put(np.full(x.shape[1], x.shape[0], np.int64) if ends is None else ends)
        y, at = pooled(self.mode, x, limits)
        return y.reshape(x_shape[1:]), (x_shape, limits, at)

    def _back_there(self, kept: Any, dy: DeviceArray, gradients: Mapping[str, DeviceArray]) -> DeviceArray:
        x_shape, limits, at = kept
        dy = side_by_side(dy).reshape(limits.size, x_shape[-1])
        return pooled_back(self.mode, x_shape[0], dy, limits, at).reshape(x_shape)

    def _describe(self) -> list[str]:
        return [repr(self.mode)]


def _places(at: Array, x: Array) -> tuple[Array, Array, Array]:
    """Where in x (T, B, n) the numbers stand that are those of the steps ``at``, (B, n) or (B, 1)."""
    return at, np.arange(x.shape[1])[:, None], np.arange(x.shape[2])


def _divisor(ends: Array, dtype: np.dtype[Any]) -> Array:
    """How many steps a mean is of, (B, 1)."""
    return np.maximum(ends, 1).astype(dtype)[:, None]
