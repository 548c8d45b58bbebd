"""Connectionist temporal classification: labels in their order, without saying at which steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .. import _check
from .._loops import softmax
from .._loops.ctc import ctc_kernel
from .._memory import require
from .._place import place_of
from .inputs import Array, integers, limits, logits, ready, steps


def ctc(
    y: Array,
    targets: ArrayLike | Sequence[ArrayLike],
    lengths: Any = None,
    target_lengths: Any = None,
    *,
    blank: int = 0,
    zero_infinity: bool = False,
    batch_first: bool = False,
) -> tuple[float, Array]:
    """Connectionist temporal classification: -log of the probability of the labels, over all their alignments.

    An alignment gives each step a class; equal ones in a row count once, and blanks not at all.

    Parameters
    ----------
    y : ndarray, shape (T, B, classes)
        Logits: the softmax is taken inside.
    targets : sequence of B array_like of int, or array_like of int, shape (B, S)
        Labels of each sequence, 0..classes-1 without the blank; of an array the first ``target_lengths`` in each row,
        the others may be anything.
    lengths : array_like of int, shape (B,), optional
        Steps that count, of each sequence.
    target_lengths : array_like of int, shape (B,), optional
        Labels of each sequence, 0..S; None: all there are.
    blank : int
        The class that stands for no label.
    zero_infinity : bool
        Whether a sequence without any alignment counts as 0 instead of inf.
    batch_first : bool
        Whether y is (B, T, classes).

    Returns
    -------
    loss : float
        Mean over the sequences of -log p(labels) / max(1, number of labels): torch's ctc_loss of log_softmax(y) with
        reduction "mean"; 0 for no sequences.  It is inf if a sequence has no alignment: it has fewer steps than labels
        and blanks between equal neighbours, or logits of -inf rule all of them out.  NaN for a step that has no
        softmax.
    dy : ndarray
        Its gradient for the logits: softmax(y) less the probability of each class at each step given the labels.  For
        a sequence without any alignment it is 0, never NaN, with ``zero_infinity`` or without.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong dtype, shape or range; a label is the blank.

    Notes
    -----
    It runs on the CPU only.  Alignments are summed in float64 for either dtype, (2 S + 1) numbers a step.  A sequence's
    dy is the same bits in any batch of that size, and the loss does not depend on the order of the sequences.

    References
    ----------
    A. Graves, S. Fernández, F. Gomez, J. Schmidhuber, "Connectionist temporal classification", ICML 2006, eq. 5-16.

    Examples
    --------
    >>> import numpy as np
    >>> from nbrnn import losses
    >>> loss, dy = losses.ctc(np.zeros((2, 1, 3)), [[1]])  # "1 1", "- 1" and "1 -", of nine
    >>> round(9 * float(np.exp(-loss)), 12), dy[0, 0].round(4).tolist()
    (3.0, [0.0, -0.3333, 0.3333])
    """
    if place_of(y, "y") is not None:
        raise TypeError("y must be a NumPy array: ctc runs on the CPU only; copy y there, and its gradient back")
    y = logits(y)
    _check.shape(y, "y", ("B", "T", "classes") if batch_first is True else ("T", "B", "classes"))
    blank, ends = _check.integer(blank, "blank"), steps(y, lengths, batch_first, 3)
    zero_infinity = _check.flag(zero_infinity, "zero_infinity")
    rows = ready(y.swapaxes(0, 1) if batch_first else y, inner=True)
    T, B, classes = rows.shape
    if not 0 <= blank < classes:
        raise ValueError(f"blank must be a class, 0..{classes - 1}, got {blank}")
    labels = _labels(targets, target_lengths, B, classes, blank)
    ends = limits(ends, rows)

    counts = np.array([len(own) for own in labels], np.int64)
    require(
        lambda: f"ctc for y of shape {y.shape}", np.float64,
        gradient=y.size * y.itemsize // 8, alignments=int((ends * (2 * counts + 1)).max(initial=0)),
    )  # fmt: skip
    dy = np.empty(y.shape, y.dtype)
    slope = dy.swapaxes(0, 1) if batch_first else dy
    share = 1 / (np.maximum(counts, 1) * max(1, B))
    top, log_sum = np.empty((T, B)), np.empty((T, B))
    softmax.run_softmax(rows, ends, share, top, log_sum, slope)
    starts, loss = np.concatenate([[0], np.cumsum(counts)]), np.empty(B)
    flat = np.concatenate([*labels, np.empty(0, np.int64)])
    ctc_kernel(y.dtype)(rows, top, log_sum, flat, starts, ends, share, blank, loss, slope)
    if zero_infinity:
        loss[loss == np.inf] = 0
    return math.fsum(loss * share), dy  # exact, so in any order


def _labels(targets: Any, target_lengths: Any, B: int, classes: int, blank: int) -> list[Array]:
    """The labels of each sequence."""
    if target_lengths is not None:
        table = integers(targets, "targets")
        _check.shape(table, "targets (with target_lengths)", (B, "S"))
        counts = _lengths(target_lengths, B, table.shape[1])
        labels = [row[:n] for row, n in zip(table, counts, strict=True)]
    else:
        try:
            given = list(targets)
        except TypeError:
            kind = type(targets).__name__
            raise TypeError(f"targets must be a sequence of arrays of integers, got {kind}") from None
        if len(given) != B:
            raise ValueError(f"targets must have one entry for each of the {B} sequences, got {len(given)}")
        labels = [integers(own, f"targets[{b}]").astype(np.int64) for b, own in enumerate(given)]
        for b, own in enumerate(labels):
            _check.shape(own, f"targets[{b}]", ("S",))
    for b, own in enumerate(labels):
        wrong = own[(own < 0) | (own >= classes) | (own == blank)]
        if wrong.size:
            raise ValueError(
                f"targets must lie in 0..{classes - 1}, without the blank ({blank}), got {wrong[0]} for sequence {b}"
            )
    return labels


def _lengths(value: Any, B: int, S: int) -> Array:
    given = integers(value, "target_lengths")
    _check.shape(given, "target_lengths", (B,))
    if B and not (given.min() >= 0 and given.max() <= S):
        raise ValueError(f"target_lengths must lie in 0..{S}, got {given.min()}..{given.max()}")
    return given
