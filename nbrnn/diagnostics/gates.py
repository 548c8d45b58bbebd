"""How many of a network's gates are shut, open or in between."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _check
from .._cells import Cell
from .._cells.trace import Traced
from ..module import Module
from ..recurrent import Recurrent
from .probe import Walk, probed

Array = NDArray[Any]

#: What the values of an activation lie between.
RANGES = {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0), "relu": (0.0, np.inf)}


@dataclasses.dataclass(eq=False, repr=False)
class GateSaturation:
    """The activations of one gate of one layer and direction, over all valid steps.

    Attributes
    ----------
    activation : "sigmoid", "tanh" or "relu"
    low, high : ndarray, shape (H,)
        For each unit the fraction of steps at which it is saturated.  A sigmoid: below ``low`` and above ``high`` of
        the call; tanh: below -``high`` and above ``high``; relu: 0, and never.
    histogram : ndarray of int, shape (bins,)
        How many activations lie between one edge and the next.
    edges : ndarray, shape (bins + 1,)
    """

    activation: str
    low: Array
    high: Array
    histogram: Array
    edges: Array

    @property
    def stuck(self) -> float:
        """Fraction of the units that are saturated on the same side at every step: for relu, those that are dead."""
        return float(np.mean((self.low == 1) | (self.high == 1)))

    def __repr__(self) -> str:
        low, high = np.mean(self.low), np.mean(self.high)
        return f"<GateSaturation: {self.activation}, {low:.1%} low, {high:.1%} high, {self.stuck:.1%} of units stuck>"


@dataclasses.dataclass(eq=False, repr=False)
class Saturation:
    """How saturated the gates of a network are.

    Attributes
    ----------
    gates : dict of str to GateSaturation
        By layer, direction and gate: ``l0.f``, ``l0_reverse.i``, ``2.l1.z``.
    steps : int
        Valid steps that were counted, of all sequences together.
    """

    gates: dict[str, GateSaturation]
    steps: int

    def __getitem__(self, name: str) -> GateSaturation:
        return self.gates[name]

    def __repr__(self) -> str:
        width = max(map(len, self.gates))
        lines = [
            f"<Saturation: activations at {self.steps:,} steps>",
            f"  {'':{width}}                low  between     high   units stuck",
        ]
        for name, gate in self.gates.items():
            low, high = np.mean(gate.low), np.mean(gate.high)
            shown = "".join(f"  {100 * part:6.1f}%" for part in (low, 1 - low - high, high))
            lines.append(f"  {name:{width}}  {gate.activation:8}{shown}       {100 * gate.stuck:6.1f}%")
        return "\n".join(lines)


def saturation(
    net: Module,
    x: Array,
    lengths: Any = None,
    state: Any = None,
    *,
    low: float = 0.1,
    high: float = 0.9,
    bins: int = 20,
) -> Saturation:
    """How many activations of each gate are saturated: where the slope is small, and little gradient gets through.

    Parameters
    ----------
    net : Module
        A recurrent layer, or a Sequential with some in it.  Dropout is left out, as in a call.
    x : ndarray
        As the network takes it.
    lengths : array_like of int, shape (B,), optional
        Steps of each sequence; no others are counted.
    state : as the network takes it, optional
        The initial state.
    low, high : float
        0 <= low < high <= 1: a sigmoid counts as saturated below low and above high, tanh below -high and above high.
    bins : int
        Of the histograms, >= 1.

    Returns
    -------
    Saturation

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong kind or out of range; there is nothing recurrent.

    Notes
    -----
    What is counted are the results of sigmoid, tanh and relu that a cell saves for its way back under a name of its
    own: r, z, n of the GRU; i, f, g, o of the LSTM; h of the RNN.

    References
    ----------
    A. Karpathy et al., "Visualizing and understanding recurrent networks", arXiv:1506.02078 (2015), section 4.2.

    Examples
    --------
    >>> import numpy as np, nbrnn
    >>> layer = nbrnn.GRU(1, 8, rng=0)
    >>> layer.params["bias_ih_l0"] = np.repeat([0, 5, 0], 8)       # z is open: h stays as it is
    >>> nbrnn.diagnostics.saturation(layer, np.ones((50, 1, 1), np.float32))
    <Saturation: activations at 50 steps>
                          low  between     high   units stuck
      l0.r  sigmoid      0.0%   100.0%     0.0%          0.0%
      l0.z  sigmoid      0.0%     0.0%   100.0%        100.0%
      l0.n  tanh         0.0%   100.0%     0.0%          0.0%
    """
    inside, probes = probed(net)
    low, high = _check.number(low, "low", 0, 1), _check.number(high, "high", 0, 1)
    if low >= high:
        raise ValueError(f"low must be smaller than high ({high}), got {low}")
    bins = _check.size(bins, "bins")
    inside.forward(x, state, lengths)
    gates = {}
    for probe in probes:
        for name, unit, walk in zip(probe.names, probe.units, probe.walks, strict=True):
            for gate, (kind, values) in activations(unit, walk).items():
                gates[f"{name}.{gate}"] = _count(kind, values, low, high, bins)
    return Saturation(gates, int(probes[0].walks[0].inside.sum()))


def activations(unit: Recurrent, walk: Walk) -> dict[str, tuple[str, Array]]:
    """(kind, values (N, H)) of each gate, at the N valid steps; from the cell's own formula, on NumPy arrays."""
    cell, p = unit.cell, {name.removesuffix("_l0"): np.asarray(a) for name, a in unit.params.items()}
    x, h, c = walk.x[walk.inside], walk.h[walk.inside], walk.c[walk.inside]
    of_x, of_h = x @ p["weight_ih"].T, h @ p["weight_hh"].T
    if unit.bias:
        of_x, of_h = of_x + p["bias_ih"], of_h + p["bias_hh"]
    by_x, by_h = (dict(zip(cell.gates, np.split(a, len(cell.gates), 1), strict=True)) for a in (of_x, of_h))
    together = [by_x[g] + by_h[g] for g in cell.gates if g not in cell.split]
    sums = (*(by_x[g] for g in cell.split), *together, *(by_h[g] for g in cell.split))
    carried = np.split(c, cell.extras(), 1) if cell.extras() else []
    _, saved = cell.forward(sums, (None if cell.projected else h, *carried))
    kinds = squashed(cell)
    named = zip(cell.saved, saved, strict=True)
    return {name.removesuffix("_new"): (kinds[name], a) for name, a in named if name in kinds}


def squashed(cell: type[Cell]) -> dict[str, str]:
    """Which of what a cell saves are results of sigmoid, tanh or relu, found by running its formula on names."""
    notes: list[str] = []
    values = [Traced(notes, "given") for _ in range(cell.sums() + len(cell.state))]
    state: tuple[Any, ...] = tuple(values[cell.sums() :])
    _, saved = cell.forward(tuple(values[: cell.sums()]), (None, *state[1:]) if cell.projected else state)
    made = dict(note.split(" = ", 1) for note in notes)
    kinds = {name: made.get(repr(value), "").split("(")[0] for name, value in zip(cell.saved, saved, strict=True)}
    return {name: kind for name, kind in kinds.items() if kind in RANGES}


def _count(kind: str, values: Array, low: float, high: float, bins: int) -> GateSaturation:
    if kind == "sigmoid":
        below, above = values < low, values > high
    elif kind == "tanh":
        below, above = values < -high, values > high
    else:
        below, above = values <= 0, np.zeros(values.shape, bool)
    least, most = RANGES[kind]
    most = max(1.0, float(values.max(initial=0))) if most == np.inf else most
    histogram, edges = np.histogram(values, bins, (least, most))
    count = max(1, len(values))  # of no steps nothing is saturated
    return GateSaturation(kind, below.sum(0) / count, above.sum(0) / count, histogram, edges)
