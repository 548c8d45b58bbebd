"""Networks with their recurrent layers run one step at a time, so that what happens at each step can be seen.

A probe takes the place of a recurrent layer in a network.  It runs each layer of the stack, each direction and each
step by itself, with the layer's own ``forward`` and ``backward``; what those would do inside for all steps at once is
here done in pieces, and the gradient that passes from piece to piece can be kept.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._params import Parameters
from ..module import Gradients, Module, Seed, Tape, require_on_cpu
from ..networks import Sequential
from ..pointwise import Dropout
from ..recurrent import Recurrent

Array = NDArray[Any]


def remade(layer: Recurrent, **changes: Any) -> Recurrent:
    """A layer of the same kind with some settings changed, without dropout; its parameters are yet to be set.

    The constructor of a subclass may have arguments of its own; what it made of them is taken over.
    """
    made: Recurrent = object.__new__(type(layer))
    vars(made).update({name: value for name, value in vars(layer).items() if not name.startswith("_")})
    known = [name for name in inspect.signature(Recurrent.__init__).parameters if hasattr(layer, name)]
    settings: dict[str, Any] = {name: 0.0 if name.endswith("dropout") else getattr(layer, name) for name in known}
    Recurrent.__init__(made, **(settings | changes | {"rng": 0}))
    return made


def alone(layer: Recurrent) -> list[Recurrent]:
    """Each layer and direction of a stack as a layer of one direction, layer-major."""
    units = []
    for arrays in layer._by_unit(layer.params):
        inputs = arrays["weight_ih"].shape[1]
        unit = remade(layer, input_size=inputs, num_layers=1, bidirectional=False, batch_first=False)
        for kind, array in arrays.items():
            unit.params[f"{kind}_l0"] = array
        units.append(unit)
    return units


class Walk:
    """One layer of one direction on its way through its sequences, step by step, and back.

    Attributes
    ----------
    x : ndarray, shape (T, B, I)
    h, c : ndarray, shapes (T, B, K) and (T, B, H)
        The state that each step was given.
    dh, dc : ndarray, of the same shapes
        After ``back``: the gradient for the state that each step gave; 0 past a sequence's end.
    """

    def __init__(self, unit: Recurrent, x: Array, h: Array, c: Array, lengths: Array, reverse: bool) -> None:
        steps, size, _ = x.shape
        self.unit, self.inside = unit, np.arange(steps)[:, None] < lengths
        # Of step t of the direction's own time: where it stands in x.
        self._order = np.where(
            self.inside & reverse, lengths - 1 - np.arange(steps)[:, None], np.arange(steps)[:, None]
        )
        x, self.after = self._turn(x), (h, c)
        y = np.empty((steps, size, h.shape[-1]), h.dtype)
        states, self.tapes = [], []
        for t in range(steps):
            states.append(self.after)
            now = x[t : t + 1], self._state(*self.after), self.inside[t].astype(np.int64)
            y[t : t + 1], after, tape = unit.forward(*now)
            self.after = self._split(after)
            self.tapes.append(tape)
        self.y, self.x = self._turn(y), self._turn(x)
        self.h, self.c = (self._in_time([s[n] for s in states], (h, c)[n]) for n in range(2))

    def back(self, dy: Array, dh: Array, dc: Array) -> tuple[Array, Array, Array]:
        """Gradients for x and the state before, from those for y and the state after."""
        dy, dxs, totals = self._turn(dy), [], []
        for t in reversed(range(len(dy))):
            here = self.inside[t][:, None]
            with np.errstate(over="ignore", invalid="ignore"):  # gradients may explode
                totals.append((np.where(here, dh + dy[t], dh.dtype.type(0)), np.where(here, dc, dc.dtype.type(0))))
            grads = self.unit.backward(self.tapes[t], dy[t : t + 1], self._state(dh, dc))
            dh, dc = self._split(grads.state)
            assert grads.x is not None
            dxs.append(grads.x[0])
        self.dh, self.dc = (self._in_time([s[n] for s in reversed(totals)], (dh, dc)[n]) for n in range(2))
        return self._in_time(dxs[::-1], self.x[:0].reshape(-1, self.x.shape[-1])), dh, dc

    def _turn(self, a: Array) -> Array:
        """Between the order of time and the direction's own, which is either way the same exchange."""
        return np.take_along_axis(a, self._order[:, :, None], 0)

    def _in_time(self, steps: list[Array], like: Array) -> Array:
        """(T, B, ...) in the order of time, from the direction's own steps."""
        return (
            self._turn(np.stack(steps)) if steps else np.empty((0, *self._order.shape[1:], like.shape[-1]), like.dtype)
        )

    def _state(self, h: Array, c: Array) -> Any:
        return self.unit._axes.user_state(h[None], c[None], True)

    def _split(self, state: Any) -> tuple[Array, Array]:
        if self.unit.cell.extras():
            return state[0][0], state[1][0]
        return state[0], np.empty((len(state[0]), 0), state.dtype)


class Probe(Module):
    """What stands in a network for a recurrent layer that is looked at.

    Parameters
    ----------
    layer : Recurrent
    prefix : str
        Where in the network it stands, as in the names of its parameters.

    Attributes
    ----------
    names : list of str
        Of each layer and direction.
    walks : list of Walk
        Of the last run, of each layer and direction.
    """

    def __init__(self, layer: Recurrent, prefix: str = "") -> None:
        super().__init__()
        self.batch_first, self.dtype, self._layer = layer.batch_first, layer.dtype, layer
        self.units = alone(layer)
        self.names = [prefix + suffix.lstrip("_") for suffix in layer._suffixes()]
        self._parameters = Parameters({}, layer.dtype)
        self.walks: list[Walk] = []

    def forward(self, x: Array, state: Any = None, lengths: Any = None, *, rng: Seed = None) -> tuple[Array, Any, Tape]:
        """As of the layer, without dropout."""
        axes = self._layer._axes
        call = axes.call(x, state, lengths, None)
        steps, size, _ = call.x.shape
        counts = np.full(size, steps) if lengths is None else np.asarray(lengths, np.int64)
        given, self.walks = call.x, []
        for layer in range(axes.L):
            for d in range(axes.D):
                u = layer * axes.D + d
                self.walks.append(Walk(self.units[u], given, call.h[u], call.c[u], counts, d == 1))
            given = np.concatenate([walk.y for walk in self.walks[-axes.D :]], -1)
        after = [np.stack([walk.after[n] for walk in self.walks]) for n in range(2)]
        y = axes.turn(given, call.batched) if call.batched else given[:, 0]
        return y, axes.user_state(after[0], after[1], call.batched), ProbeTape(self, np.shape(x), call.batched)

    def backward(self, tape: Tape, dy: Array | None = None, dstate: Any = None, retain: bool = False) -> Gradients:
        """As of the layer; of the parameters there are none."""
        assert isinstance(tape, ProbeTape)
        axes, walks = self._layer._axes, self.walks
        dh, dc = self._check_dstate(tape, dstate)
        steps, size = walks[0].inside.shape
        if dy is None:
            gradient = np.zeros((steps, size, axes.D * axes.K), axes.dtype)
        else:
            gradient = axes.turn(dy, tape.batched)
        for layer in reversed(range(axes.L)):
            below: Any = 0
            for d in range(axes.D):
                u = layer * axes.D + d
                dx, dh[u], dc[u] = walks[u].back(gradient[..., d * axes.K : (d + 1) * axes.K], dh[u], dc[u])
                with np.errstate(over="ignore", invalid="ignore"):
                    below = below + dx
            gradient = below
        dx = axes.turn(gradient, tape.batched) if tape.batched else gradient[:, 0]
        return Gradients(dx, axes.user_state(dh, dc, tape.batched), {}, np.zeros(0, axes.dtype))

    def _check_dstate(self, tape: Any, dstate: Any) -> tuple[Array, Array]:
        return self._layer._axes.states(dstate, "dstate", self.walks[0].inside.shape[1], tape.batched, missing=True)


class ProbeTape(Tape):
    """Says whether x was batched; the rest is in the probe's walks."""

    def __init__(self, probe: Probe, x_shape: tuple[int, ...], batched: bool) -> None:
        super().__init__(probe)
        self.x_shape, self.batched = x_shape, batched


def probed(net: Any) -> tuple[Module, list[Probe]]:
    """A copy of a network with a probe for each recurrent layer, and those in order; without dropout.

    Raises
    ------
    TypeError
        Not a network, or one of a kind that can't be looked into.
    ValueError
        There is nothing recurrent in it.
    """
    if not isinstance(net, Module):
        raise TypeError(f"net must be a layer or a network, got {type(net).__name__}")
    require_on_cpu(net)
    probes: list[Probe] = []
    made = _probed(net, "", probes)
    if not probes:
        raise ValueError(f"net must have a recurrent layer, got {net!r}")
    return made, probes


def _probed(net: Module, prefix: str, probes: list[Probe]) -> Module:
    if isinstance(net, Recurrent):
        probes.append(Probe(net, prefix))
        return probes[-1]
    if isinstance(net, Sequential):
        return Sequential(*(_probed(part, f"{prefix}{q}.", probes) for q, part in enumerate(net)))
    if isinstance(net, Dropout):
        return Dropout(0.0)
    if net._recurrent:
        raise TypeError(f"net must be made of layers and Sequential to be looked into, got {type(net).__name__}")
    return copy.deepcopy(net)


def in_double(net: Module) -> Module:
    """A copy of a network that computes in float64.

    Raises
    ------
    TypeError
        A part of it can't be copied so.
    """
    made: Module
    if isinstance(net, Recurrent):
        made = remade(net, dtype=np.float64, **_dropouts(net))
        made.flat = net.flat
        return made
    if isinstance(net, Sequential):
        return Sequential(*map(in_double, net))
    if net._recurrent or net._parameters._parts:
        raise TypeError(f"net must be float64 or made of layers and Sequential, got {type(net).__name__}")
    made = copy.deepcopy(net)
    if net._parameters.size:
        # What has parameters of its own takes its dtype from them and from ``dtype``, which can't be set any more.
        vars(made).update(dtype=np.dtype(np.float64), _parameters=Parameters(net._parameters.shapes, np.float64))
        made.flat = net.flat
    return made


def _dropouts(layer: Recurrent) -> dict[str, float]:
    return {name: value for name, value in vars(layer).items() if name.endswith("dropout")}


def objective(net: Module, y: Array, target: Any, loss: Any, lengths: Any) -> tuple[float, Array]:
    """The loss and dy; where there are lengths, a loss sees the steps first."""
    lengths = None if lengths is None else net._lengths_after(lengths)
    if lengths is None:
        return loss(y, target)
    if not net.batch_first:
        return loss(y, target, lengths)
    value, dy = loss(y.swapaxes(0, 1), np.asarray(target).swapaxes(0, 1), lengths)
    return value, dy.swapaxes(0, 1)
