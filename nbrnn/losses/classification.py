"""Losses of classes: one of several, or each by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .. import _check
from .._cuda import losses as on_device
from .._loops import elementwise, softmax
from .._memory import fresh
from .inputs import MOST, Array, by_step, count, limits, ready, sides, steps


def cross_entropy(
    y: Array,
    target: ArrayLike,
    lengths: Any = None,
    *,
    ignore_index: int = -100,
    weight: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    batch_first: bool = False,
) -> tuple[float, Array]:
    """Cross entropy of logits and integer targets: the mean of -log softmax(y)[target].

    Parameters
    ----------
    y : ndarray, shape (T, B, classes), or any (..., classes) without ``lengths``
        Logits.
    target : array_like of int, shape of y without the last axis
        0..classes-1, or ``ignore_index``.
    lengths : array_like of int, shape (B,), optional
        Steps that count, of each sequence.
    ignore_index : int
        Steps with this target don't count.
    weight : array_like, shape (classes,), optional
        Weight of each class, >= 0; the mean is weighted too.
    label_smoothing : float
        0..1: how much of the target is spread evenly over all classes.
    batch_first : bool
        Whether y is (B, T, classes).

    Returns
    -------
    loss : float
        As torch's cross_entropy; 0 if nothing counts.
    dy : ndarray
        Its gradient.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong dtype, shape or range.

    Examples
    --------
    >>> import numpy as np
    >>> from nbrnn import losses
    >>> loss, dy = losses.cross_entropy(np.zeros((2, 4)), [0, 3])
    >>> round(loss, 4), dy[0].tolist()
    (1.3863, [-0.375, 0.125, 0.125, 0.125])
    """
    place, y, chosen = sides(y, target, whole=True)
    if y.ndim == 0 or y.shape[-1] == 0:
        raise ValueError(f"y must have shape (..., classes), got {y.shape}")
    classes = y.shape[-1]
    _check.shape(chosen, "target", y.shape[:-1])
    ignored = max(-MOST - 1, min(_check.integer(ignore_index, "ignore_index"), MOST))
    smoothing = _check.number(label_smoothing, "label_smoothing", 0, 1)
    ends = steps(y, lengths, batch_first, 3)
    w = np.ones(classes)
    if weight is not None:
        w = np.array(_check.real(weight, "weight"), np.float64, order="C")
        _check.shape(w, "weight", (classes,))
        if not (np.isfinite(w).all() and (w >= 0).all()):
            raise ValueError("weight must be finite and >= 0 for each class")
    if place is not None:
        with place.on():
            there: Any = y
            own = None if weight is None else w
            return place.wrap(on_device.cross_entropy(there, chosen, ends, batch_first, ignored, own, smoothing))
    dy = fresh(y.shape, y.dtype)
    given, slope = (by_step(ready(a, inner=True), ends, batch_first, 1) for a in (y, dy))
    goal = by_step(chosen, ends, batch_first)
    fits, loss = softmax.run_cross_entropy(given, goal, limits(ends, given), w, smoothing, ignored, slope)
    if not fits:
        raise ValueError(f"target must lie in 0..{classes - 1}, or be ignore_index ({ignore_index})")
    return loss, dy


def bce_with_logits(
    y: Array,
    target: ArrayLike,
    lengths: Any = None,
    *,
    weight: ArrayLike | None = None,
    pos_weight: ArrayLike | None = None,
    batch_first: bool = False,
) -> tuple[float, Array]:
    """Binary cross entropy of logits: each number is a question of its own.

    Parameters
    ----------
    y : ndarray, shape (T, B, ...), or any without ``lengths``
        Logits.
    target : array_like, shape of y
        How much of a yes: 0..1.
    lengths : array_like of int, shape (B,), optional
        Steps that count, of each sequence.
    weight : array_like, optional
        Weight of each number, >= 0, of a shape that broadcasts to that of y; the mean is over the numbers, not over
        the weights.
    pos_weight : array_like, optional
        Weight of a yes against that of a no, >= 0, of a shape that broadcasts to that of y: (n,) for n questions.
    batch_first : bool
        Whether y is (B, T, ...).

    Returns
    -------
    loss : float
        With p = sigmoid(y), mean of -weight (pos_weight target log(p) + (1 - target) log(1 - p)), from forms which
        neither overflow nor lose digits; 0 if nothing counts.  As torch.nn.BCEWithLogitsLoss.
    dy : ndarray
        Its gradient; without weights (p - target) / count.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong dtype, shape or range.

    Examples
    --------
    >>> import numpy as np
    >>> from nbrnn import losses
    >>> loss, dy = losses.bce_with_logits(np.zeros((2, 1)), [[0], [1]])
    >>> round(loss, 4), dy.tolist()
    (0.6931, [[0.25], [-0.25]])
    """
    place, y, goal = sides(y, target)
    _check.shape(goal, "target", y.shape)
    weights = [_weights(a, name, y) for a, name in ((weight, "weight"), (pos_weight, "pos_weight"))]
    ends = steps(y, lengths, batch_first, 2)
    numbers = count(y, ends)
    if place is not None:
        with place.on():
            there: Any = y
            own = [None if a is None else w for a, w in zip((weight, pos_weight), weights, strict=True)]
            return place.wrap(on_device.binary(there, goal, ends, batch_first, own, numbers))
    if numbers == 0:
        return 0.0, np.zeros(y.shape, y.dtype)
    with np.errstate(over="ignore"):
        goal = goal.astype(y.dtype, copy=False)
    dy = fresh(y.shape, y.dtype)
    given, goal, w, positive, slope = (by_step(ready(a), ends, batch_first) for a in (y, goal, *weights, dy))
    run = elementwise.binary_kernel(y.dtype)
    fits, total = run(given, goal, limits(ends, given), w, positive, y.dtype.type(1 / numbers), slope)
    if not fits:
        raise ValueError("target must lie in 0..1")
    return total / numbers, dy


def _weights(value: Any, name: str, y: Array) -> Array:
    """Weights for each number of y, as a view; 1 for None."""
    given = np.ones((), y.dtype) if value is None else _check.real(value, name)
    if not (np.isfinite(given).all() and (given >= 0).all()):
        raise ValueError(f"{name} must be finite and >= 0")
    try:
        return np.broadcast_to(given.astype(y.dtype), y.shape)
    except ValueError:
        raise ValueError(f"{name} must broadcast to the shape of y, {y.shape}, got {given.shape}") from None
