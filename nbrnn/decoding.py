"""From the outputs of a network trained with ``losses.ctc`` to labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _check
from ._loops import softmax
from ._loops.beam import search_kernel
from ._memory import require
from .losses.inputs import limits, logits, ready, steps

Array = NDArray[Any]

__all__ = ["ctc_beam", "ctc_greedy"]


def ctc_greedy(y: Array, lengths: Any = None, *, blank: int = 0, batch_first: bool = False) -> list[NDArray[np.int64]]:
    """Labels of the most likely alignment: the best class of each step, repeats merged, blanks dropped.

    Parameters
    ----------
    y : ndarray, shape (T, B, classes)
        Logits, or logarithms of probabilities.
    lengths : array_like of int, shape (B,), optional
        Steps that count, of each sequence.
    blank : int
        The class that stands for no label.
    batch_first : bool
        Whether y is (B, T, classes).

    Returns
    -------
    list of ndarray of int64
        The labels of each sequence.  Of equal classes the first is taken.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong dtype, shape or range; y has NaN in a step that counts.

    Examples
    --------
    >>> import numpy as np
    >>> from nbrnn import decoding
    >>> y = np.eye(3)[[1, 1, 0, 1, 2]][:, None]  # the best classes are 1, 1, blank, 1, 2
    >>> [labels.tolist() for labels in decoding.ctc_greedy(y)]
    [[1, 1, 2]]
    """
    y, ends, blank = _checked(y, lengths, blank, batch_first)
    best = y.argmax(-1)
    inside = np.arange(len(y))[:, None] < ends
    undefined = inside & np.isnan(np.take_along_axis(y, best[..., None], -1)[..., 0])
    _refuse(undefined, "y must not have NaN in a step that counts")
    keep = inside & (best != blank)
    keep[1:] &= best[1:] != best[:-1]
    return [best[keep[:, b], b].astype(np.int64) for b in range(y.shape[1])]


def ctc_beam(
    y: Array, lengths: Any = None, *, beam: int = 16, blank: int = 0, batch_first: bool = False
) -> list[tuple[NDArray[np.int64], float]]:
    """The most likely labels, all their alignments summed: prefix beam search.

    Parameters
    ----------
    y : ndarray, shape (T, B, classes)
        Logits: the softmax is taken inside (that of logarithms of probabilities is those themselves).
    lengths : array_like of int, shape (B,), optional
        Steps that count, of each sequence.
    beam : int
        Prefixes that are kept after each step, >= 1.
    blank : int
        The class that stands for no label.
    batch_first : bool
        Whether y is (B, T, classes).

    Returns
    -------
    list of (labels, log probability)
        For each sequence, an ndarray of int64 and a float: the sum over those of the labels' alignments whose prefixes
        all stayed in the beam.  Where none had to leave it, both are exact.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong dtype, shape or range; a step that counts has no softmax (NaN, inf, or nothing but
        -inf).
    MemoryError
        The beam is too large for this machine.

    Notes
    -----
    A step takes O(beam * classes).  Probabilities are kept as logarithms in float64.

    References
    ----------
    A. Graves, "Supervised sequence labelling with recurrent neural networks", Springer 2012, section 7.5.
    A. Hannun et al., "First-pass large vocabulary continuous speech recognition using bi-directional recurrent DNNs",
    arXiv:1408.2873, algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> from nbrnn import decoding
    >>> y = np.log([[[0.6, 0.4]], [[0.6, 0.4]]])  # the best alignment is two blanks: 0.36; a label is likelier: 0.64
    >>> decoding.ctc_greedy(y)[0].tolist()
    []
    >>> labels, log_p = decoding.ctc_beam(y)[0]
    >>> labels.tolist(), round(float(np.exp(log_p)), 12)
    ([1], 0.64)
    """
    rows, ends, blank = _checked(y, lengths, blank, batch_first)
    T, B, classes = rows.shape
    beam = min(_check.size(beam, "beam"), _prefixes(classes - 1, T, beam))
    require(lambda: f"ctc_beam for {T} steps", np.float64, prefixes=5 * (1 + T * beam), beam=10 * beam)
    rows = ready(rows, inner=True)
    top, log_sum = np.zeros((T, B)), np.zeros((T, B))
    nowhere = np.lib.stride_tricks.as_strided(np.empty(classes, y.dtype), rows.shape, (0, 0, y.itemsize))
    softmax.run_softmax(rows, ends, np.ones(B), top, log_sum, nowhere)
    _refuse(np.isnan(log_sum), "y must have a softmax in each step that counts (no NaN, no inf, not only -inf)")
    labels, counts, log_p = np.empty((B, T), np.int64), np.empty(B, np.int64), np.empty(B)
    search_kernel(y.dtype)(rows, top, log_sum, ends, beam, blank, labels, counts, log_p)
    return [(own[:n].copy(), float(p)) for own, n, p in zip(labels, counts, log_p, strict=True)]


def _checked(y: Any, lengths: Any, blank: Any, batch_first: bool) -> tuple[Array, Array, int]:
    """(y as (T, B, classes), lengths, blank)."""
    y, blank = logits(y), _check.integer(blank, "blank")
    _check.shape(y, "y", ("B", "T", "classes") if batch_first is True else ("T", "B", "classes"))
    ends = steps(y, lengths, batch_first, 3)
    if not 0 <= blank < y.shape[2]:
        raise ValueError(f"blank must be a class, 0..{y.shape[2] - 1}, got {blank}")
    rows = y.swapaxes(0, 1) if batch_first else y
    return rows, limits(ends, rows), blank


def _refuse(wrong: Array, what: str) -> None:
    if wrong.any():
        t, b = np.argwhere(wrong)[0]
        raise ValueError(f"{what}, got such a step: {t} of sequence {b}")


def _prefixes(labels: int, T: int, enough: int) -> int:
    """How many prefixes of at most T labels there are; or any number >= ``enough``."""
    total = power = 1
    for _ in range(T):
        power *= labels
        total += power
        if power == 0 or total >= enough:
            break
    return total
