"""Distances of numbers: squared, absolute, and something of both."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .. import _check
from .._cuda import losses as on_device
from .._loops import elementwise
from .._memory import fresh
from .inputs import Array, by_step, count, limits, ready, sides, steps


def mse(y: Array, target: ArrayLike, lengths: Any = None, *, batch_first: bool = False) -> tuple[float, Array]:
    """Mean squared error.

    Parameters
    ----------
    y : ndarray, shape (T, B, ...), or any without ``lengths``
    target : array_like, shape of y
    lengths : array_like of int, shape (B,), optional
        Steps that count, of each sequence.
    batch_first : bool
        Whether y is (B, T, ...).

    Returns
    -------
    loss : float
        Mean of (y - target)^2; 0 if nothing counts.
    dy : ndarray
        Its gradient, 2 (y - target) / count.

    Raises
    ------
    TypeError, ValueError
        y isn't an array of floats, or target has another shape.

    Examples
    --------
    >>> import numpy as np
    >>> from nbrnn import losses
    >>> loss, dy = losses.mse(np.array([[1.0], [3.0]]), [[0.0], [0.0]])
    >>> loss, dy.tolist()
    (5.0, [[1.0], [3.0]])
    """
    return _mean(elementwise.SQUARE, y, target, lengths, batch_first)


def mae(y: Array, target: ArrayLike, lengths: Any = None, *, batch_first: bool = False) -> tuple[float, Array]:
    """Mean absolute error.

    Parameters
    ----------
    y : ndarray, shape (T, B, ...), or any without ``lengths``
    target : array_like, shape of y
    lengths : array_like of int, shape (B,), optional
        Steps that count, of each sequence.
    batch_first : bool
        Whether y is (B, T, ...).

    Returns
    -------
    loss : float
        Mean of abs(y - target); 0 if nothing counts.
    dy : ndarray
        Its gradient, sign(y - target) / count; 0 where they are equal.

    Raises
    ------
    TypeError, ValueError
        y isn't an array of floats, or target has another shape.

    Examples
    --------
    >>> import numpy as np
    >>> from nbrnn import losses
    >>> loss, dy = losses.mae(np.array([[1.0], [-3.0]]), [[0.0], [0.0]])
    >>> loss, dy.tolist()
    (2.0, [[0.5], [-0.5]])
    """
    return _mean(elementwise.ABSOLUTE, y, target, lengths, batch_first)


def huber(
    y: Array, target: ArrayLike, lengths: Any = None, *, delta: float = 1.0, batch_first: bool = False
) -> tuple[float, Array]:
    """Huber's loss: squares up to ``delta``, straight lines beyond, so that outliers pull no harder than others.

    Parameters
    ----------
    y : ndarray, shape (T, B, ...), or any without ``lengths``
    target : array_like, shape of y
    lengths : array_like of int, shape (B,), optional
        Steps that count, of each sequence.
    delta : float
        > 0.
    batch_first : bool
        Whether y is (B, T, ...).

    Returns
    -------
    loss : float
        With d = y - target, mean of d^2 / 2 where abs(d) <= delta, and of delta (abs(d) - delta / 2) elsewhere; 0 if
        nothing counts.  As torch.nn.HuberLoss.
    dy : ndarray
        Its gradient: d, but no less than -delta and no more than delta, over the count.

    Raises
    ------
    TypeError, ValueError
        y isn't an array of floats, target has another shape, or delta isn't > 0.

    References
    ----------
    P. J. Huber, "Robust estimation of a location parameter", Annals of Mathematical Statistics 35 (1964).

    Examples
    --------
    >>> import numpy as np
    >>> from nbrnn import losses
    >>> loss, dy = losses.huber(np.array([[0.5], [-3.0]]), [[0.0], [0.0]])
    >>> loss, dy.tolist()
    (1.3125, [[0.25], [-0.5]])
    """
    return _mean(elementwise.HUBER, y, target, lengths, batch_first, _check.number(delta, "delta", above=0))


def _mean(
    kind: int, y: Array, target: ArrayLike, lengths: Any, batch_first: bool, delta: float = 1.0
) -> tuple[float, Array]:
    """(loss, dy) of a kind of ``elementwise.distance``."""
    place, y, wanted = sides(y, target)
    _check.shape(wanted, "target", y.shape)
    ends = steps(y, lengths, batch_first, 2)
    numbers = count(y, ends)
    if place is not None:
        with place.on():
            there: Any = y
            return place.wrap(on_device.distance(kind, there, wanted, ends, batch_first, delta, numbers))
    if numbers == 0:
        return 0.0, np.zeros(y.shape, y.dtype)
    with np.errstate(over="ignore"):
        wanted = wanted.astype(y.dtype, copy=False)
    dy = fresh(y.shape, y.dtype)
    given, goal, slope = (by_step(ready(a), ends, batch_first) for a in (y, wanted, dy))
    scale = (2 if kind == elementwise.SQUARE else 1) / numbers
    run = elementwise.distance_kernel(y.dtype)
    total = run(kind, given, goal, limits(ends, given), y.dtype.type(delta), y.dtype.type(scale), slope)
    return total / numbers, dy
