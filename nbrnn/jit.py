"""Recurrent layers inside your own compiled code: ``net = layer.jit()``, then ``step`` or ``run`` in ``@njit``.

``net`` is a NamedTuple, a snapshot of the parameters; pass it as an argument (captured as a global it is frozen into
the compiled code).  Nothing here allocates memory (but ``zero_state``) or starts threads; under ``prange``, use a state
for each iteration.

In a CUDA kernel of yours (``@cuda.jit``), a thread steps a sequence of its own, with a net from
``layer.to("cuda").jit()``: ``step``, ``run`` and ``output_size`` are the same, states are made outside.  Arrays may
have any layout there.  Overlaps aren't noticed, and a thread whose arrays have wrong shapes stops: compiled with
``debug=True``, the launch raises then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._cells import Cell
from ._cpu.isa import Lanes
from ._cpu.loops import any_array, net_type, own_array
from ._cpu.rows import address
from ._cpu.single import require_apart, rows_of_state, step_of_one, typed_run, typed_step
from ._kernel import cached, compiled, kernel

__all__ = ["output_size", "run", "step", "zero_state"]

Array = NDArray[Any]


@kernel(inline=True)
def output_size(net: Any) -> int:
    """Number of outputs of a step.

    Parameters
    ----------
    net : NamedTuple
        From ``layer.jit()``.

    Returns
    -------
    int
        K: the hidden size, or the size it is projected to.
    """
    return net.K


@kernel(inline=True, allocates=True)
def zero_state(net: Any) -> Array:
    """A state to begin with.

    Parameters
    ----------
    net : NamedTuple
        From ``layer.jit()``.

    Returns
    -------
    ndarray, shape (L, S, H)
        For each layer h and, for the LSTM, c (S = 2; else 1), zero.  With a projection h is the first K numbers of its
        row.
    """
    return np.zeros((net.L, rows_of_state(net), net.H), net.w.dtype)


@kernel(inline=True)
def step(net: Any, x: Array, state: Array, y: Array) -> None:
    """One step, in place.

    Parameters
    ----------
    net : NamedTuple
        From ``layer.jit()``.
    x : ndarray, shape (I,)
        Any strides.
    state : ndarray, shape (L, S, H), C-contiguous
        As of ``zero_state``; changed.
    y : ndarray, shape (K,), contiguous
        Written.  x, state and y must not overlap (nor y lie between the numbers of x).

    Raises
    ------
    numba.TypingError
        An array has the wrong dtype or layout (when the calling function is compiled).
    ValueError
        An array has the wrong shape, or two overlap.

    Examples
    --------
    >>> import numba, numpy as np, nbrnn
    >>> layer = nbrnn.GRU(3, 5, num_layers=2, rng=0)
    >>> @numba.njit
    ... def rollout(net, xs):
    ...     state = nbrnn.jit.zero_state(net)
    ...     y = np.empty(nbrnn.jit.output_size(net), xs.dtype)
    ...     for x in xs:
    ...         nbrnn.jit.step(net, x, state, y)
    ...     return y
    >>> xs = np.ones((7, 3), np.float32)
    >>> bool(np.allclose(rollout(layer.jit(), xs), layer(xs)[0][-1], atol=1e-6))
    True
    """
    rows = typed_step(net, x, state, y)
    if x.size != net.I:
        raise ValueError("x must have shape (I,), with I the layer's input size")
    if y.size != net.K:
        raise ValueError("y must have shape (K,), with K = output_size(net)")
    if state.shape[0] != net.L or state.shape[1] != rows or state.shape[2] != net.H:
        raise ValueError("state must have shape (L, S, H), as that of zero_state")
    ours, item = state.size * state.itemsize, x.itemsize
    require_apart(address(x), x.size, x.strides[0], address(state), ours, address(y), y.size * item, item)
    step_of_one(net, address(x), x.strides[0], address(state), address(y))


@kernel(inline=True)
def run(net: Any, x: Array, state: Array, y: Array) -> None:
    """A sequence of steps, in place.

    Parameters
    ----------
    net : NamedTuple
        From ``layer.jit()``.
    x : ndarray, shape (T, I)
        Any strides.
    state : ndarray, shape (L, S, H), C-contiguous
        As of ``zero_state``; changed.
    y : ndarray, shape (T, K), C-contiguous
        Written.  x, state and y must not overlap (nor y lie between the numbers of x).

    Raises
    ------
    numba.TypingError
        An array has the wrong dtype or layout (when the calling function is compiled).
    ValueError
        An array has the wrong shape, or two overlap.
    """
    rows = typed_run(net, x, state, y)
    if x.shape[1] != net.I:
        raise ValueError("x must have shape (T, I), with I the layer's input size")
    if y.shape[0] != x.shape[0] or y.shape[1] != net.K:
        raise ValueError("y must have shape (T, K), with T as of x and K = output_size(net)")
    if state.shape[0] != net.L or state.shape[1] != rows or state.shape[2] != net.H:
        raise ValueError("state must have shape (L, S, H), as that of zero_state")
    ours, item = state.size * state.itemsize, x.itemsize
    for t in range(x.shape[0]):
        at = address(x) + t * x.strides[0]
        require_apart(at, x.shape[1], x.strides[1], address(state), ours, address(y), y.size * item, item)
    for t in range(x.shape[0]):
        step_of_one(net, address(x) + t * x.strides[0], x.strides[1], address(state), address(y) + t * y.strides[0])


@cached
def entry(cell: type[Cell], dtype: np.dtype[Any], lanes: type[Lanes]) -> Callable[..., None]:
    """The compiled ``step`` for any x, to be called from Python."""
    return compiled(step, (net_type(cell, dtype, lanes), any_array(dtype, 1), own_array(dtype, 3), own_array(dtype, 1)))
