"""A line made concrete: the layer, its inputs, the gradient that comes back; and nbrnn as a contender."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numba
import numpy as np

from .. import layers
from ..recurrent import Recurrent
from .grid import Line
from .timing import Array, Contender, Results, Unsupported

#: Largest max|a - b| / max|b| of any result: some libraries approximate activations, but bfloat16 is found out.
TOLERANCE = {"float32": 2e-4, "float64": 1e-9}


class Problem:
    """What all contenders of a line are given.

    Parameters
    ----------
    line : Line

    Attributes
    ----------
    layer : RNN, GRU or LSTM
        nbrnn's, with random parameters.
    params : dict of str to ndarray
        Copies of its parameters.
    x : ndarray, shape (T, B, I)
    dy : ndarray, shape (T, B, D*H)
        Gradient of the loss for the outputs, for training.
    states : list of ndarray, each of shape (L*D, B, H)
        Initial h and, for the LSTM, c, for training; inference begins at zero.
    lengths : ndarray of int64, shape (B,), or None
    """

    def __init__(self, line: Line) -> None:
        shape, rng = line.shape, np.random.default_rng(0)
        self.line = line
        self.layer: Recurrent = getattr(layers, line.cell)(
            shape.I, shape.H, shape.layers, bidirectional=shape.bidirectional, dtype=line.dtype, rng=rng
        )
        self.params: Results = {name: np.array(a) for name, a in self.layer.params.items()}
        self.x = self._normal(rng, shape.T, shape.B, shape.I)
        self.dy = self._normal(rng, shape.T, shape.B, shape.directions * shape.H)
        self.states = [
            self._normal(rng, shape.layers * shape.directions, shape.B, shape.H)
            for _ in range(2 if line.cell == "LSTM" else 1)
        ]
        self.lengths = shape.lengths()

    def _normal(self, rng: np.random.Generator, *shape: int) -> Array:
        return rng.normal(size=shape).astype(self.line.dtype)

    def state(self) -> Any:
        """The initial state, as nbrnn and torch take it."""
        return tuple(self.states) if len(self.states) == 2 else self.states[0]

    def weights(self, layer: int, direction: int) -> list[Array]:
        """W_ih, W_hh, b_ih and b_hh of a layer and direction."""
        suffix = f"_l{layer}" + ("_reverse" if direction else "")
        return [self.params[kind + suffix] for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]


def results(y: Array, state: Any, gradients: Results | None = None) -> Results:
    """Results by name, the same for all contenders."""
    h, *c = state if isinstance(state, tuple | list) else (state,)
    named = {"y": y, "h": h} | ({"c": c[0]} if c else {}) | (gradients or {})
    return {name: np.asarray(a) for name, a in named.items()}


def difference(ours: Results, theirs: Results) -> float:
    """Largest max|a - b| / max|b| over all that a contender gives; infinite where y is missing, or where something has
    another shape or dtype, or is not finite.
    """
    largest = 0.0 if "y" in theirs else math.inf
    for name, a in theirs.items():
        b = ours[name]
        if a.shape != b.shape or a.dtype != b.dtype or not np.isfinite(a).all():
            return math.inf
        scale = float(np.abs(b).max(initial=0.0))
        largest = max(largest, float(np.abs(a - b).max(initial=0.0)) / (scale or 1.0))
    return largest


def judgement(dtype: str, error: float) -> dict[str, Any]:
    """Whether results with that difference are right, for a record."""
    status = "ok" if error <= TOLERANCE[dtype] else "wrong"
    return {"status": status, "error": error if math.isfinite(error) else None}


def failure(error: Exception) -> dict[str, Any]:
    """Why there are no results, for a record."""
    if isinstance(error, Unsupported):
        return {"status": "unsupported", "reason": str(error)}
    return {"status": "failed", "reason": f"{type(error).__name__}: {error}".splitlines()[0][:300]}


def contenders(problem: Problem, threads: Sequence[int]) -> list[Contender]:
    """Nbrnn itself, once for each number of threads."""
    layer, x, lengths, dy, state = problem.layer, problem.x, problem.lengths, problem.dy, problem.state()

    def infer() -> Any:
        return layer(x, lengths=lengths)

    def train() -> Any:
        # As after a step of an optimiser: the weights are other ones each time, and packing them is part of the work.
        layer._parameters._changed()
        y, after, tape = layer.forward(x, state, lengths)
        return y, after, layer.backward(tape, dy)

    def read(returned: Any) -> Results:
        y, after, *grads = returned
        if not grads:
            return results(y, after)
        return results(y, after, named_gradients(grads[0].x, grads[0].state, grads[0].params))

    call = train if problem.line.mode == "training" else infer
    return [Contender("nbrnn", n, call, read, functools.partial(numba.set_num_threads, n)) for n in threads]


def named_gradients(dx: Array, dstate: Any, dparams: Any) -> Results:
    """Gradients by name, the same for all contenders."""
    dh, *dc = dstate if isinstance(dstate, tuple | list) else (dstate,)
    return {"dx": dx, "dh": dh} | ({"dc": dc[0]} if dc else {}) | {f"d{name}": a for name, a in dparams.items()}
