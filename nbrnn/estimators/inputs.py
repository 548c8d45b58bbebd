"""What users pass to estimators, as arrays that networks take."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _check

Array = NDArray[Any]

WANTED = "a list of arrays (T_i, C), or an array (n, T, C) or (n, T)"


def sequences(X: Any, columns: int | None = None, estimator: str = "") -> list[Array]:
    """Arrays (T_i, C) of finite floats, from whatever stands for sequences.

    Parameters
    ----------
    X : list of array_like (T_i, C) or (T_i,), or array_like of shape (n, T, C) or (n, T)
        An array of objects counts as the list of them; sequences without an axis for columns have one column.
    columns : int, optional
        The number that C must be.
    estimator : str
        Who wants it to be that.
    """
    if hasattr(X, "toarray"):
        raise TypeError(f"X must be {WANTED}, got a sparse array: convert it, X.toarray()")
    if isinstance(X, list | tuple) or (isinstance(X, np.ndarray) and X.dtype == object and X.ndim == 1):
        # Lists of lists of numbers are what scikit-learn takes for an array.
        given = [_numbers(x, f"X[{q}]") for q, x in enumerate(X)]
        if given and all(x.ndim == 0 for x in given):
            raise ValueError(_dimensions(1))
    else:
        whole = _numbers(X, "X")
        if whole.ndim not in (2, 3):
            raise ValueError(_dimensions(whole.ndim))
        given = list(whole)
    if not given:
        raise ValueError(f"X must be {WANTED}, got 0 sequences: 0 sample(s) while a minimum of 1 is required.")
    found = [x[:, None] if x.ndim == 1 else x for x in given]
    for q, x in enumerate(found):
        if x.ndim != 2:
            raise ValueError(f"X[{q}] must have shape (T, C), got {x.shape}")
        if x.shape[1] != found[0].shape[1]:
            raise ValueError(f"X[{q}] must have {found[0].shape[1]} columns as X[0], got {x.shape[1]}")
        if len(x) == 0:
            raise ValueError(f"X[{q}] must have at least one step, got {_nothing(X)}")
        if not np.isfinite(x).all():
            raise ValueError(f"X[{q}] must be finite, got NaN or inf in it")
    C = found[0].shape[1]
    if C == 0:
        raise ValueError(f"X must have at least one column, got {_nothing(X)}")
    if columns is not None and columns != C:
        raise ValueError(f"X has {C} features, but {estimator} is expecting {columns} features as input")
    return found


def _nothing(X: Any) -> str:
    shape = X.shape if isinstance(X, np.ndarray) else (len(X), 0)
    return f"0 feature(s) (shape={shape}) while a minimum of 1 is required."


def _dimensions(ndim: int) -> str:
    return f"X must be {WANTED}, got {ndim} dimension(s). Reshape your data: X[None] makes one sequence a list of one"


def _numbers(x: Any, name: str) -> Array:
    """Floats: float32 stays as it is, all else becomes float64."""
    given = _check.plain(x, name, WANTED)
    if given.dtype.kind == "c":
        raise ValueError(f"{name} must be real numbers, got dtype {given.dtype}: Complex data not supported")
    if given.dtype == object or given.dtype.kind in "US":
        try:
            given = given.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name} must be real numbers, got dtype {given.dtype}: {error}") from None
    if given.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be real numbers, got dtype {given.dtype}")
    return given if given.dtype == np.float32 else given.astype(np.float64)
