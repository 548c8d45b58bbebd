"""Inputs that are chosen from a few: each a row of a table, as an Embedding has."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Chosen:
    """x (T, B, I), made of rows of a table (V, I): seen from outside as if it stood in memory.

    What a row adds to the sums is computed once, however often it is chosen, and so is what the way back makes of it.

    Parameters
    ----------
    table : ndarray, shape (V, I)
        Must not change while this is used.
    index : ndarray of int64, shape (T, B)
        0..V-1 where a sequence has a step, which is **not** checked.
    """

    ndim = 3

    def __init__(self, table: Array, index: NDArray[np.int64]) -> None:
        self.table, self.index, self.dtype = table, index, table.dtype

    @property
    def shape(self) -> tuple[int, int, int]:
        return (*self.index.shape, self.table.shape[1])

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, steps: slice) -> Chosen:
        return Chosen(self.table, self.index[steps])

    def swapaxes(self, first: int, second: int) -> Chosen:
        """With T and B the other way round."""
        return Chosen(self.table, self.index.swapaxes(first, second))
