"""What users pass to losses, checked and brought into the form that the loops take."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _check
from .._cuda.exchange import kind_of
from .._place import Place, place_of

Array = NDArray[Any]

MOST = 2**63 - 1


def logits(y: Any) -> Array:
    """y, an array of float32 or float64."""
    if not isinstance(y, np.ndarray) or y.dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        got = y.dtype if isinstance(y, np.ndarray) else type(y).__name__
        raise TypeError(f"y must be a NumPy array of float32 or float64, got {got}")
    return _check.array(y, "y", y.dtype)


def integers(value: Any, name: str) -> Array:
    """Integers of any shape, as int64; what is too large for that becomes the largest there is."""
    given = _check.plain(value, name, "integers")
    if given.dtype.kind not in "iu" and given.size:
        raise TypeError(f"{name} must be integers, got dtype {given.dtype}")
    if given.dtype == np.uint64:
        given = np.minimum(given, np.uint64(MOST))
    return ready(given.astype(np.int64, copy=False))


def sides(y: Any, target: Any, whole: bool = False) -> tuple[Place | None, Any, Any]:
    """Where to compute, y and target: None and arrays of NumPy's, or a place and DeviceArrays.

    Parameters
    ----------
    y, target
        As a user gives them.
    whole : bool
        Whether targets must be integers.
    """
    place = place_of(y, "y")
    if place is None:
        if kind_of(target) is not None:
            raise TypeError("target must be on the CPU, as y is, got an array on the GPU")
        return None, logits(y), integers(target, "target") if whole else _check.real(target, "target")
    given, wanted = place.adopt(y, "y"), place.adopt(target, "target")
    if given.dtype.kind != "f":
        raise TypeError(f"y must be an array of float32 or float64, got {given.dtype}")
    if whole and wanted.dtype.kind not in "iu":
        raise TypeError(f"target must be integers, got dtype {wanted.dtype}")
    return place, given, wanted


def steps(y: Array, lengths: Any, batch_first: bool, axes: int) -> Array | None:
    """(B,) steps that count, as int64; None for all: then y may have any axes, else at least so many."""
    batch_first = _check.flag(batch_first, "batch_first")
    if lengths is None:
        return None
    if y.ndim < axes:
        raise ValueError(f"lengths must be None unless y has {axes} axes or more, got y of shape {y.shape}")
    size, T = y.shape[:2] if batch_first else y.shape[1::-1]
    return _check.lengths(lengths, size, T)


def count(a: Array, lengths: Array | None) -> int:
    """How many numbers of an array (T, B, ...), or (B, T, ...), count."""
    return a.size if lengths is None else int(lengths.sum()) * math.prod(a.shape[2:])


def by_step(a: Array, lengths: Array | None, batch_first: bool, own: int = 0) -> Array:
    """An array (T, B, ...) as (T, B, n, ...), where the last ``own`` axes stay; without lengths, any array so.

    A view where there can be one; of a contiguous array there always is.
    """
    lead, last = a.shape[: a.ndim - own], a.shape[a.ndim - own :]
    if lengths is not None:
        a = a.swapaxes(0, 1) if batch_first else a
        return a.reshape(*a.shape[:2], math.prod(lead[2:]), *last)
    if len(lead) == 3:
        return a
    return a.reshape(*(lead if len(lead) == 2 else (1, 1)), 1 if len(lead) == 2 else math.prod(lead), *last)


def limits(lengths: Array | None, a: Array) -> Array:
    """(B,) lengths of what ``by_step`` made, whole where there are none."""
    return np.full(a.shape[1], a.shape[0]) if lengths is None else np.ascontiguousarray(lengths)


def ready(a: Array, inner: bool = False) -> Array:
    """The array, or a copy where its numbers stand at odd addresses or its last axis should be contiguous and isn't."""
    if not a.flags.aligned or (inner and a.shape[-1] > 1 and a.strides[-1] != a.itemsize):
        return a.copy(order="C")
    return a
