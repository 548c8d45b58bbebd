"""Losses: ``loss, dy = f(y, target, lengths=None)``.

The loss is a float, the mean over all valid steps (and features, where y has as many as the target); dy is its gradient
for y, of y's shape and dtype, 0 where a step doesn't count.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _check

Array = NDArray[Any]


def _checked(y: Any, name: str) -> Array:
    if not isinstance(y, np.ndarray) or y.dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        got = y.dtype if isinstance(y, np.ndarray) else type(y).__name__
        raise TypeError(f"{name} must be a NumPy array of float32 or float64, got {got}")
    return _check.array(y, name, y.dtype)


def _valid(y: Array, lengths: Any, batch_first: bool, axes: int) -> Array | None:
    """Which steps (T, B) of y count; None: all."""
    if lengths is None:
        return None
    if y.ndim < axes:
        raise ValueError(f"lengths must be None unless y has {axes} axes or more, got y of shape {y.shape}")
    size, steps = y.shape[:2] if batch_first else y.shape[1::-1]
    inside = np.arange(steps)[:, None] < _check.lengths(lengths, size, steps)
    return inside.T if batch_first else inside


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
    y = _checked(y, "y")
    target = _check.real(target, "target")
    _check.shape(target, "target", y.shape)
    valid = _valid(y, lengths, batch_first, 2)
    with np.errstate(over="ignore"):
        difference = np.asarray(y - target.astype(y.dtype, copy=False))
    if valid is not None:
        difference[~valid] = 0
    count = y.size if valid is None else int(valid.sum()) * (y.size // max(1, valid.size))
    if count == 0:
        return 0.0, np.zeros_like(y)
    loss = float(np.square(difference, dtype=np.float64).sum() / count)
    return loss, np.asarray(difference * y.dtype.type(2 / count))


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
    y = _checked(y, "y")
    if y.ndim == 0 or y.shape[-1] == 0:
        raise ValueError(f"y must have shape (..., classes), got {y.shape}")
    classes = y.shape[-1]
    target = _check.plain(target, "target", "integers")
    if target.dtype.kind not in "iu" and target.size:
        raise TypeError(f"target must be integers, got dtype {target.dtype}")
    _check.shape(target, "target", y.shape[:-1])
    ignore_index = _check.integer(ignore_index, "ignore_index")
    smoothing = _check.number(label_smoothing, "label_smoothing", 0, 1)
    counts = target != ignore_index
    valid = _valid(y, lengths, batch_first, 3)
    if valid is not None:
        counts &= valid.reshape(valid.shape + (1,) * (counts.ndim - 2))
    if not np.all((target >= 0) & (target < classes) | ~counts):
        raise ValueError(f"target must lie in 0..{classes - 1}, or be ignore_index ({ignore_index})")
    w = np.ones(classes)
    if weight is not None:
        w = _check.real(weight, "weight").astype(np.float64)
        _check.shape(w, "weight", (classes,))
        if not (np.isfinite(w).all() and (w >= 0).all()):
            raise ValueError("weight must be finite and >= 0 for each class")

    dy = np.zeros_like(y)
    rows, chosen = y[counts].astype(np.float64), target[counts].astype(np.int64)
    total = w[chosen].sum()
    if total == 0:
        return 0.0, dy
    with np.errstate(over="ignore"):
        shifted = rows - rows.max(-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    # What each class should have: the share of the target and that of all, by the classes' weights.
    goal = np.broadcast_to(smoothing / classes * w, rows.shape).copy()
    goal[np.arange(len(chosen)), chosen] += (1 - smoothing) * w[chosen]
    dy[counts] = (np.exp(log_p) * goal.sum(-1, keepdims=True) - goal) / total
    # A class that nothing is expected of may have a logit of minus infinity.
    return float(-(goal * np.where(goal == 0, 0, log_p)).sum() / total), dy
