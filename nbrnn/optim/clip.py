"""Bounds for gradients, by norm and by value."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import from_dtype, types

from .. import _check
from .._cuda import single
from .._kernel import cached, compiled
from .._loops import update
from .._place import Place, place_of
from ..module import Gradients
from .base import Array

#: Partial sums of the norm: fixed, since they are part of what its bits are.
LANES = 512


def bound(value: Any, name: str) -> float:
    """A number above 0, or infinity."""
    infinite = isinstance(value, float | np.floating) and value == math.inf
    return math.inf if infinite else _check.number(value, name, above=0)


@cached
def _sum_of_squares(dtype: np.dtype[Any]) -> Callable[..., float]:
    blocks, rest = (types.Array(from_dtype(dtype), axes, "C", readonly=True) for axes in (2, 1))
    return compiled(update.sum_of_squares, (blocks, rest, types.Array(types.float64, 1, "C")))


def _norm(g: Array) -> float:
    g = np.require(g, requirements=("C", "A"))
    whole = g.size // LANES * LANES
    return math.sqrt(_sum_of_squares(g.dtype)(g[:whole].reshape(-1, LANES), g[whole:], np.empty(LANES)))


def _place(grads: Any) -> Place | None:
    """Where the gradients are; None: on the CPU."""
    if not isinstance(grads, Gradients):
        raise TypeError(f"grads must come from backward of a network, got {type(grads).__name__}")
    return place_of(grads.flat, "grads.flat")


def _writeable(grads: Gradients) -> Array:
    """The gradients of the parameters, to be changed in place."""
    g = grads.flat
    g = _check.array(g, "grads.flat", _check.float_dtype(getattr(g, "dtype", np.float32)))
    if g.ndim != 1 or not g.flags.writeable:
        kind = "writeable" if g.flags.writeable else "read-only"
        raise ValueError(f"grads.flat must be a writeable vector, got a {kind} array of shape {g.shape}")
    return g


def clip_grad_norm(grads: Gradients, max_norm: float) -> float:
    """Scale the gradients of the parameters so that their norm is at most ``max_norm``, in place.

    The norm is summed up in float64, in an order that is always the same; of gradients on a GPU in their own dtype.

    Parameters
    ----------
    grads : Gradients
    max_norm : float
        > 0; infinity: measure the norm only.

    Returns
    -------
    float
        The norm before.  If it isn't finite, nothing is scaled.  On a GPU it is an array of shape () there, of the kind
        of the gradients, that nothing waits for.

    Raises
    ------
    TypeError, ValueError
        Not gradients, or a bound that isn't positive.

    References
    ----------
    R. Pascanu et al., "On the difficulty of training recurrent neural networks", arXiv:1211.5063, algorithm 1.

    Examples
    --------
    >>> import numpy as np, nbrnn
    >>> layer = nbrnn.RNN(1, 4, rng=0)
    >>> y, h, tape = layer.forward(np.ones((5, 1, 1), np.float32))
    >>> grads = layer.backward(tape, y)
    >>> bool(nbrnn.clip_grad_norm(grads, 0.5) > 0.5), round(float(np.linalg.norm(grads.flat)), 6)
    (True, 0.5)
    """
    place, max_norm = _place(grads), bound(max_norm, "max_norm")
    if place is not None:
        with place.on():
            found: float = place.wrap(single.clip_norm(place.adopt(grads.flat, "grads.flat"), max_norm))
            return found
    g = _writeable(grads)
    norm = _norm(g)
    if math.isfinite(norm) and norm > max_norm:
        g *= g.dtype.type(max_norm / norm)
    return norm


def clip_grad_value(grads: Gradients, max_value: float) -> float:
    """Bring each gradient of a parameter into -max_value..max_value, in place.

    Parameters
    ----------
    grads : Gradients
    max_value : float
        > 0; infinity: measure only.

    Returns
    -------
    float
        The largest absolute value before; 0 without parameters.  NaN if there is NaN among them, which stays; infinite
        ones are brought to the bound.  On a GPU it is an array of shape () there, as that of ``clip_grad_norm``.

    Raises
    ------
    TypeError, ValueError
        Not gradients, or a bound that isn't positive.

    Examples
    --------
    >>> import numpy as np, nbrnn
    >>> layer = nbrnn.RNN(1, 4, rng=0)
    >>> y, h, tape = layer.forward(np.ones((5, 1, 1), np.float32))
    >>> grads = layer.backward(tape, y)
    >>> bool(nbrnn.optim.clip_grad_value(grads, 0.125) > 0.125), float(np.abs(grads.flat).max())
    (True, 0.125)
    """
    place, max_value = _place(grads), bound(max_value, "max_value")
    if place is not None:
        with place.on():
            found: float = place.wrap(single.clip_value(place.adopt(grads.flat, "grads.flat"), max_value))
            return found
    g = _writeable(grads)
    if not g.size:
        return 0.0
    low, high = float(g.min()), float(g.max())
    largest = math.nan if math.isnan(high) else max(-low, high)
    if max_value < math.inf:
        edge = g.dtype.type(min(max_value, float(np.finfo(g.dtype).max)))
        np.clip(g, -edge, edge, out=g)
    return largest
