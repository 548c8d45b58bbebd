"""LayerNorm: each step's numbers, shifted and scaled to mean 0 and variance 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import _check
from ._cuda import parts
from ._cuda.array import DeviceArray
from ._cuda.normalise import normalised, normalised_back, stretched
from ._cuda.rows import Rows as RowsThere
from ._loops.layer_norm import back, normalise
from ._params import Parameters
from .stateless import Rows, Stateless, given, inside

Array = NDArray[Any]


def _times(a: Any, b: Any) -> Any:
    return a * b


class LayerNorm(Stateless):
    """y = (x - mean x) / sqrt(var x + eps) * weight + bias, on the last axis.

    x is (T, B, dim), or without ``lengths`` of any shape (..., dim).  The variance is the mean of (x - mean x)^2.

    Parameters
    ----------
    dim : int
        Size of x and y, >= 1.
    eps : float
        > 0.
    elementwise_affine : bool
        Whether there are weight, 1 at first, and bias, 0 at first, both (dim,).
    dtype : float32 or float64

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong kind or out of range.

    References
    ----------
    J. L. Ba, J. R. Kiros, G. E. Hinton, "Layer normalization", arXiv:1607.06450 (2016), equations 3 and 4.

    Examples
    --------
    >>> import numpy as np, nbrnn
    >>> y, _ = nbrnn.LayerNorm(4)(np.arange(8, dtype=np.float32).reshape(2, 4))
    >>> y.round(3).tolist()[0] == y.round(3).tolist()[1], bool(abs(y.mean(-1)).max() < 1e-6)
    (True, True)
    """

    def __init__(
        self, dim: int, eps: float = 1e-5, elementwise_affine: bool = True, *, dtype: DTypeLike = np.float32
    ) -> None:
        super().__init__()
        self.dim = _check.size(dim, "dim")
        self.eps = _check.number(eps, "eps", above=0)
        self.elementwise_affine = _check.flag(elementwise_affine, "elementwise_affine")
        self.dtype = _check.float_dtype(dtype)
        shapes = {"weight": (self.dim,), "bias": (self.dim,)} if self.elementwise_affine else {}
        self._parameters = Parameters(shapes, self.dtype)
        if self.elementwise_affine:
            self.params["weight"] = np.ones(self.dim)
        self._fix()

    def _check_x(self, x: Any) -> Array:
        x = given(x, self.dtype)
        if x.ndim == 0 or x.shape[-1] != self.dim:
            raise ValueError(f"x must have shape (..., {self.dim}), got {x.shape}")
        return x

    def _run(self, x: Array, ends: Array | None, rng: np.random.Generator | None) -> tuple[Array, Any]:
        steps = Rows(x, ends)
        z, scale = normalise(steps.of(x), self.eps)
        y = z
        if self.elementwise_affine:
            y = z * np.asarray(self.params["weight"])
            y += np.asarray(self.params["bias"])
        return steps.back(y), (steps, z, scale)

    def _back(self, kept: Any, dy: Array, gradients: Mapping[str, Array]) -> Array:
        steps, z, scale = kept
        dy = steps.of(dy)
        if self.elementwise_affine:
            np.einsum("ij,ij->j", dy, z, out=gradients["weight"])
            np.sum(dy, 0, out=gradients["bias"])
            dy = dy * np.asarray(self.params["weight"])
        return steps.back(back(dy, z, scale))

    def _run_there(
        self, x: DeviceArray, ends: Array | None, rng: np.random.Generator | None
    ) -> tuple[DeviceArray, Any]:
        steps = RowsThere(x, None if ends is None else inside(ends, len(x)))
        z, scale = normalised(steps.of(x), self.eps)
        y = stretched(z, self._own("weight"), self._own("bias")) if self.elementwise_affine else z
        return steps.back(y), (steps, z, scale)

    def _back_there(self, kept: Any, dy: DeviceArray, gradients: Mapping[str, DeviceArray]) -> DeviceArray:
        steps, z, scale = kept
        dy = steps.of(dy)
        if self.elementwise_affine:
            parts.sum_of_rows(parts.mapped(_times, dy, z), gradients["weight"])
            parts.sum_of_rows(dy, gradients["bias"])
            dy = stretched(dy, self._own("weight"))
        return steps.back(normalised_back(dy, z, scale))
