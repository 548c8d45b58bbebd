"""Parts of a network that work on each step by itself, without state: Linear, Dropout."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import _check
from ._cells.ops import relu, sigmoid, tanh, where_positive
from ._cpu import isa
from ._cpu.activation import activate
from ._cpu.dropout import MODULE
from ._cpu.linear import Packed, kit, packed, product, product_of_columns
from ._cpu.unit import draw_key, dropout
from ._cuda import parts
from ._cuda.array import DeviceArray
from ._cuda.dropout import dropout as dropout_there
from ._cuda.rows import Rows as RowsThere
from ._cuda.rows import side_by_side
from ._memory import require
from ._params import Parameters
from .module import Seed
from .stateless import Rows, Stateless, floats, given, inside

Array = NDArray[Any]

#: Rows that gain by weights that are packed already.
FEW = 64

ACTIVATIONS = (None, "softmax", "sigmoid", "tanh", "relu")


#: act (as GPU kernels run it; for the CPU see ``_cpu.activation``), and dy times its derivative, from y.
FORMULAS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "sigmoid": (sigmoid, lambda y, dy: dy * y * (1 - y)),
    "tanh": (tanh, lambda y, dy: dy * (1 - y * y)),
    "relu": (relu, where_positive),
}


class Linear(Stateless):
    """y = act(x W^T + b), on the last axis.

    x is (T, B, in_features), or without ``lengths`` of any shape (..., in_features).

    Parameters
    ----------
    in_features, out_features : int
        Sizes of x and y, >= 1.
    bias : bool
        Whether there is b.
    activation : None, "softmax", "sigmoid", "tanh" or "relu"
        act; the softmax is over the last axis.
    dtype : float32 or float64
    rng : numpy.random.Generator, seed or None
        For the initial parameters, U(-1/sqrt(in_features), 1/sqrt(in_features)).

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong kind or out of range.

    Examples
    --------
    >>> import numpy as np, nbrnn
    >>> layer = nbrnn.Linear(3, 2, activation="softmax", rng=0)
    >>> y, _ = layer(np.ones((7, 2, 3), np.float32))
    >>> y.shape, bool(np.allclose(y.sum(-1), 1))
    ((7, 2, 2), True)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        activation: str | None = None,
        *,
        dtype: DTypeLike = np.float32,
        rng: Seed = None,
    ) -> None:
        super().__init__(rng)
        self.in_features = _check.size(in_features, "in_features")
        self.out_features = _check.size(out_features, "out_features")
        self.bias = _check.flag(bias, "bias")
        self.activation: str | None = _check.choice(activation, "activation", ACTIVATIONS)
        self.dtype = _check.float_dtype(dtype)
        shapes: dict[str, tuple[int, ...]] = {"weight": (self.out_features, self.in_features)}
        if self.bias:
            shapes["bias"] = (self.out_features,)
        require(lambda: "Linear", self.dtype, parameters=sum(math.prod(shape) for shape in shapes.values()))
        self._parameters = Parameters(shapes, self.dtype)
        bound = 1 / math.sqrt(self.in_features)
        for name, shape in shapes.items():
            self.params[name] = self._rng.uniform(-bound, bound, shape)
        #: The version of the parameters at the last call for few rows, and the weights as packed since.
        self._packed: tuple[int, Packed | None] = (-1, None)
        self._fix()

    def _check_x(self, x: Any) -> Array:
        x = given(x, self.dtype)
        if x.ndim == 0 or x.shape[-1] != self.in_features:
            raise ValueError(f"x must have shape (..., {self.in_features}), got {x.shape}")
        return x

    def _run(self, x: Array, ends: Array | None, rng: np.random.Generator | None) -> tuple[Array, Any]:
        y_size = x.size // self.in_features * self.out_features
        require(lambda: f"Linear for x of shape {x.shape}", self.dtype, y=y_size)
        steps = Rows(x, ends)
        rows = steps.of(x)
        own = self._parameters.arrays
        weight = self._weight() if len(rows) <= FEW else own["weight"]
        y = product(rows, weight, own["bias"] if self.bias else None, across=True)
        if self.activation in ("sigmoid", "tanh"):
            y = activate(self.activation, y)
        elif self.activation == "relu":
            np.maximum(y, 0, out=y)
        elif self.activation == "softmax":
            y = softmax(y)
        return steps.back(y), (steps, rows, y if self.activation else None)

    def _weight(self) -> Array | Packed:
        """The weights for few rows: packed from the second time on that they are asked for, until they change."""
        weight, version = self._parameters.arrays["weight"], self._parameters.version
        before, found = self._packed
        if before != version:
            self._packed = version, None
            return weight
        if found is None or found.own is not kit(self.dtype, isa.current()):
            found = packed(weight)
            self._packed = version, found
        return found

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_packed": (-1, None)}

    def _back(self, kept: Any, dy: Array, gradients: Mapping[str, Array]) -> Array:
        steps, x, y = kept
        dy = steps.of(dy)
        if self.activation == "softmax":
            dy = y * (dy - (dy * y).sum(-1, keepdims=True))
        elif self.activation is not None:
            dy = FORMULAS[self.activation][1](y, dy)
        product_of_columns(dy, x, gradients["weight"], gradients["bias"] if self.bias else None)
        return steps.back(product(dy, self._parameters.arrays["weight"]))

    def _run_there(
        self, x: DeviceArray, ends: Array | None, rng: np.random.Generator | None
    ) -> tuple[DeviceArray, Any]:
        steps = RowsThere(x, None if ends is None else inside(ends, len(x)))
        rows = steps.of(x)
        y = parts.product(rows, self._own("weight"), self._own("bias") if self.bias else None)
        if self.activation == "softmax":
            parts.softmax(y)
        elif self.activation is not None:
            y = parts.mapped(FORMULAS[self.activation][0], y)
        return steps.back(y), (steps, rows, y if self.activation else None)

    def _back_there(self, kept: Any, dy: DeviceArray, gradients: Mapping[str, DeviceArray]) -> DeviceArray:
        steps, x, y = kept
        dy = steps.of(dy)
        if self.activation == "softmax":
            dy = parts.softmax_back(y, dy)
        elif self.activation is not None:
            dy = parts.mapped(FORMULAS[self.activation][1], y, dy)
        parts.product_of_columns(dy, x, gradients["weight"])
        if self.bias:
            parts.sum_of_rows(dy, gradients["bias"])
        return steps.back(parts.product_back(dy, self._own("weight")))


def softmax(x: Array) -> Array:
    """e^x / sum e^x over the last axis, from the side that can't overflow."""
    top = x.max(-1, keepdims=True, initial=-np.inf)
    y = activate("exp", x - np.where(np.isfinite(top), top, x.dtype.type(0)))
    y /= y.sum(-1, keepdims=True)
    return y


class Dropout(Stateless):
    """Drops each number with probability p in ``forward``, and divides the others by 1 - p; a call changes nothing.

    x is (T, B, n), or without ``lengths`` of any shape (..., n).

    Parameters
    ----------
    p : float
        0..1.
    rng : numpy.random.Generator, seed or None
        Where the key comes from that each ``forward`` draws, unless that is given a generator.

    References
    ----------
    N. Srivastava et al., "Dropout", JMLR 15 (2014).  Bits: Philox4x32-10 of the place (see the docs, "Dropout").

    Examples
    --------
    >>> import numpy as np, nbrnn
    >>> x = np.ones((1000, 1, 8), np.float32)
    >>> y, _, tape = nbrnn.Dropout(0.5, rng=0).forward(x)
    >>> sorted(map(float, np.unique(y)))
    [0.0, 2.0]
    """

    def __init__(self, p: float = 0.5, *, rng: Seed = None) -> None:
        super().__init__(rng)
        self.p = _check.number(p, "p", 0, 1)
        self._fix()

    def _check_x(self, x: Any) -> Array:
        x = floats(x)
        if x.ndim == 0:
            raise ValueError("x must have at least one dimension, got none")
        return x

    def _run(self, x: Array, ends: Array | None, rng: np.random.Generator | None) -> tuple[Array, Any]:
        key = None if rng is None or self.p == 0 else draw_key(rng)
        kept = key, None if ends is None else ~inside(ends, len(x))
        return self._drop(x, *kept), kept

    def _back(self, kept: Any, dy: Array, gradients: Mapping[str, Array]) -> Array:
        return self._drop(dy, *kept)  # the very same

    def _drop(self, a: Array, key: tuple[int, int] | None, outside: Array | None) -> Array:
        """Of x or of dy, with zeros outside."""
        if key is None:
            result = a.copy()
        else:
            steps = a if a.ndim == 3 else a.reshape(math.prod(a.shape[:-1]), 1, a.shape[-1])
            result = dropout(steps, self.p, key, MODULE, 0, 1, 0).reshape(a.shape)
        if outside is not None:
            result[outside] = 0
        return result

    def _run_there(
        self, x: DeviceArray, ends: Array | None, rng: np.random.Generator | None
    ) -> tuple[DeviceArray, Any]:
        key = None if rng is None or self.p == 0 else draw_key(rng)
        kept = key, None if ends is None else RowsThere(x, inside(ends, len(x)))
        return self._drop_there(x, *kept), kept

    def _back_there(self, kept: Any, dy: DeviceArray, gradients: Mapping[str, DeviceArray]) -> DeviceArray:
        return self._drop_there(dy, *kept)

    def _drop_there(self, a: DeviceArray, key: tuple[int, int] | None, rows: RowsThere | None) -> DeviceArray:
        shape = a.shape
        if key is None:
            dropped = DeviceArray.empty(a.machine, shape, a.dtype)
            a.machine.copy(dropped.flat, side_by_side(a).numbers())
        else:
            if a.ndim != 3 or (shape[-1] > 1 and a.strides[-1] != 1):
                a = side_by_side(a)
            steps = a if a.ndim == 3 else a.reshape(math.prod(shape[:-1]), 1, shape[-1])
            dropped = dropout_there(a.machine, steps, self.p, key, MODULE, 0, 1, 0).reshape(shape)
        return dropped if rows is None else rows.back(rows.of(dropped))

    def _describe(self) -> list[str]:
        return [f"{self.p:g}"]
