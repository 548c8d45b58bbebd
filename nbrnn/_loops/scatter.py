"""Rows of one matrix, added to chosen rows of another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import from_dtype, types
from numpy.typing import NDArray

from .._kernel import cached, compiled, kernel


@kernel
def _add_rows(to, index, rows):
    n = rows.shape[1]
    for r in range(len(index)):
        i = np.uint64(index[r])  # never from the end: no test for that
        for k in range(n):
            to[i, k] += rows[r, k]


@cached
def _compiled(dtype: np.dtype[Any]) -> Callable[..., None]:
    number = from_dtype(dtype)
    return compiled(
        _add_rows,
        (
            types.Array(number, 2, "C"),
            types.Array(types.int64, 1, "C", readonly=True),
            types.Array(number, 2, "C", readonly=True),
        ),
    )


def add_rows(to: NDArray[Any], index: NDArray[np.int64], rows: NDArray[Any]) -> None:
    """``to[index[r]] += rows[r]`` for each r, one after another: the same bits always; ``numpy.add.at`` is slower.

    Parameters
    ----------
    to : ndarray, shape (m, n)
        C-contiguous, of float32 or float64.
    index : ndarray of int64, shape (N,)
        0..m-1, which is **not** checked.
    rows : ndarray, shape (N, n)
        Of the same dtype.
    """
    _compiled(to.dtype)(to, np.ascontiguousarray(index), np.require(rows, requirements=("C", "A")))
