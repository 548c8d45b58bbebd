"""exp, sigmoid and tanh of whole arrays: the functions that cells use, for output layers and for measuring them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import from_dtype, typeof, types
from numpy.typing import NDArray

from .._kernel import cached, compiled, kernel
from . import isa
from .emit import Emit, Int, Vec
from .rows import NetView, address, primitive, stack


class Values(NamedTuple):
    """Numbers in a row."""

    w: Any
    lanes: Any


def _map(e: Emit, values: NetView, to: Int, n: Int, function: Callable[[Vec], Vec]) -> None:
    """``to[k] = function(w[k])`` for k < n."""
    source, out, whole = values.w, e.ptr(to), n // e.W
    e.each(whole, lambda b: (out + b * e.W).store(function((source + b * e.W).load())))
    # The last few by way of a vector of their own.
    spare, rest = stack(e, e.W), whole * e.W
    spare.store(0.0)
    e.each(n - rest, lambda k: (spare + k).put_number((source + rest + k).number()))
    spare.store(function(spare.load()))
    e.each(n - rest, lambda k: (out + rest + k).put_number((spare + k).number()))


@primitive
def exp_row(e, values, to, n):
    """e^x."""
    _map(e, values, to, n, Vec.exp)


@primitive
def sigmoid_row(e, values, to, n):
    """1 / (1 + e^-x)."""
    _map(e, values, to, n, Vec.sigmoid)


@primitive
def tanh_row(e, values, to, n):
    """Hyperbolic tangent."""
    _map(e, values, to, n, Vec.tanh)


@kernel
def _exp(values, y):
    exp_row(values, address(y), y.size)


@kernel
def _sigmoid(values, y):
    sigmoid_row(values, address(y), y.size)


@kernel
def _tanh(values, y):
    tanh_row(values, address(y), y.size)


_KERNELS = {"exp": _exp, "sigmoid": _sigmoid, "tanh": _tanh}


@cached
def _compiled(name: str, dtype: np.dtype[Any], lanes: type[isa.Lanes]) -> Callable[..., None]:
    row = types.Array(from_dtype(dtype), 1, "C")
    source = types.Array(from_dtype(dtype), 1, "C", readonly=True)
    return compiled(_KERNELS[name], (types.NamedTuple([source, typeof(lanes())], Values), row))


def activate(name: str, x: NDArray[Any]) -> NDArray[Any]:
    """A new array of the function ("exp", "sigmoid" or "tanh") of each number of x (float32 or float64)."""
    x = np.require(x, requirements=("C", "A"))
    y = np.empty_like(x)
    lanes = isa.current()
    _compiled(name, x.dtype, lanes)(Values(x.reshape(-1), lanes()), y.reshape(-1))
    return y
