"""The functions a cell's formulas are written in, for every kind of value they are run on.

A cell is written once, on values that know ``+ - * /``.  Those values are

- vectors of the CPU emitter, which bring their own ``exp``, ``tanh``, ... as methods (``_cpu.emit.Vec``),
- scalars inside ``@njit`` code (the overloads below),
- NumPy arrays and Python floats, for a look at a cell in a debugger.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload


def _traced(x: Any) -> bool:
    """Whether x brings its own functions: a value of an emitter."""
    return hasattr(x, "sigmoid")


def exp(x: Any) -> Any:
    """e^x."""
    return x.exp() if _traced(x) else np.exp(x)


def tanh(x: Any) -> Any:
    """Hyperbolic tangent."""
    return x.tanh() if _traced(x) else np.tanh(x)


def sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x), from the side that can't overflow."""
    if _traced(x):
        return x.sigmoid()
    t = np.exp(-np.abs(x))
    return np.where(x < 0, t, 1) / (1 + t)


def relu(x: Any) -> Any:
    """max(x, 0); NaN stays NaN."""
    return x.relu() if _traced(x) else np.maximum(x, 0)


def where_positive(x: Any, y: Any) -> Any:
    """y where x > 0 (or x is NaN), else 0: the derivative of ``relu`` applied to y."""
    return x.where_positive(y) if _traced(x) else np.where(x <= 0, 0, y)


# Inside @njit code: on floats, in the precision of the argument.


def _on_floats(function: Callable[..., Any], implementation: Callable[[Any], Any]) -> None:
    @overload(function)
    def typed(x):
        return implementation if isinstance(x, types.Float) else None


def _sigmoid(x):
    one = type(x)(1)
    t = math.exp(-abs(x))
    return t / (one + t) if x < 0 else one / (one + t)


_on_floats(exp, lambda x: math.exp(x))
_on_floats(tanh, lambda x: math.tanh(x))
_on_floats(sigmoid, _sigmoid)
_on_floats(relu, lambda x: type(x)(0) if x < 0 else x)


@overload(where_positive)
def _where_positive(x, y):
    if isinstance(x, types.Float) and isinstance(y, types.Float):
        return lambda x, y: type(y)(0) if x <= 0 else y
    return None
