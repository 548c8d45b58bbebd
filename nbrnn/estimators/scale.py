"""Numbers to mean 0 and deviation 1, column by column, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclasses.dataclass
class Scale:
    """z = (x - mean) / deviation.

    Attributes
    ----------
    mean, deviation : ndarray of float64, shape (C,)
        A deviation of 0 (a column that never changes) is replaced by 1.
    """

    mean: Array
    deviation: Array

    @classmethod
    def of(cls, parts: Sequence[Array]) -> Scale:
        """That of all rows of some arrays (T_i, C), in two passes, without a copy of them all."""
        count = sum(map(len, parts))
        mean = sum(part.sum(0, dtype=np.float64) for part in parts) / count
        variance = sum(np.square(part - mean).sum(0) for part in parts) / count
        deviation = np.sqrt(variance)
        # What rounding leaves of a column that never changes is no deviation.
        constant = deviation <= 10 * np.finfo(np.float64).eps * np.abs(mean)
        return cls(np.asarray(mean), np.where(constant, 1.0, deviation))

    @classmethod
    def none(cls, columns: int) -> Scale:
        """The one that changes nothing."""
        return cls(np.zeros(columns), np.ones(columns))

    def to(self, x: Array, dtype: Any) -> Array:
        """Scaled."""
        return ((x - self.mean) / self.deviation).astype(dtype)

    def back(self, z: Array) -> Array:
        """As it was."""
        return z * self.deviation + self.mean
