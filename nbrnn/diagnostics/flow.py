"""The gradient of a loss for the hidden state at each step."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _check
from ..module import Module
from .probe import objective, probed

Array = NDArray[Any]


@dataclasses.dataclass(eq=False, repr=False)
class GradientFlow:
    """Norms of the gradient of a loss for the hidden states; U recurrent layers and directions, T steps.

    Attributes
    ----------
    norms : ndarray of float64, shape (U, T)
        Of dL/dh_t, over all sequences and units together.
    per_sequence : ndarray of float64, shape (U, T, B)
        Of dL/dh_t for each sequence by itself; 0 past its end.
    cell_norms : ndarray of float64, shape (U, T)
        Of dL/dc_t, for what a cell carries beside h (the LSTM's c); NaN where there is nothing.
    names : list of str
        Of the layers and directions, as in the names of the parameters: ``l0``, ``l0_reverse``, ``2.l1``.
    loss : float or None
    """

    norms: Array
    per_sequence: Array
    cell_norms: Array
    names: list[str]
    loss: float | None = None

    @property
    def factors(self) -> Array:
        """By what the norm is multiplied with each step back, in geometric mean; shape (U,).

        From the last step of a direction to its first, which for the reverse one is the last of the sequence.
        """
        steps = self.norms.shape[1]
        if steps < 2:
            return np.full(len(self.names), np.nan)
        reverse = np.array([name.endswith("_reverse") for name in self.names])
        first, last = np.where(reverse, self.norms[:, ::-1].T, self.norms.T)[[0, -1]]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.exp((np.log(first) - np.log(last)) / (steps - 1)))

    def __repr__(self) -> str:
        of = "" if self.loss is None else f" of a loss of {self.loss:.4g}"
        width = max(map(len, self.names))
        lines = [
            f"<GradientFlow{of}: |dL/dh_t| over {self.norms.shape[1]} steps>",
            f"  {'':{width}}       t = 0      middle        last   each step back",
        ]
        for name, norms, factor in zip(self.names, self.norms, self.factors, strict=True):
            shown = [norms[0], norms[len(norms) // 2], norms[-1]] if len(norms) else [np.nan] * 3
            lines.append(f"  {name:{width}}" + "".join(f"  {norm:10.3g}" for norm in shown) + f"   x {factor:.3g}")
        return "\n".join(lines)


def gradient_flow(
    net: Module,
    x: Array,
    target: Any = None,
    loss: Any = None,
    *,
    dy: Array | None = None,
    lengths: Any = None,
    state: Any = None,
) -> GradientFlow:
    """Norms of dL/dh_t, the gradient of a loss for the hidden state at each step, by every way it has to the loss.

    Those are the ways through the later steps, and through y_t and all that is made of it.  Where the norms fall
    towards the first steps, what happened there can't be learnt from; where they grow, a step of training is torn
    about.  The gradient is exact: what a small number added to h_t would change.  The gradient for the LSTM's c_t is
    that which reaches it from the later steps, h_t left as it is.

    Parameters
    ----------
    net : Module
        A recurrent layer, or a Sequential with some in it.  Dropout is left out, as in a call.
    x : ndarray
        As the network takes it.
    target, loss
        As for ``fit``: ``loss, dy = loss(y, target)``, with lengths ``loss(y, target, lengths)``, which then sees
        (T, B, ...).
    dy : ndarray, shape of y, optional
        Instead of a loss: its gradient for y.
    lengths : array_like of int, shape (B,), optional
        Steps of each sequence.
    state : as the network takes it, optional
        The initial state.

    Returns
    -------
    GradientFlow

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong kind or shape; there is nothing recurrent; neither loss nor dy is given, or both.

    References
    ----------
    Y. Bengio et al., "Learning long-term dependencies with gradient descent is difficult", IEEE Transactions on Neural
    Networks 5 (1994); R. Pascanu et al., arXiv:1211.5063 (2013), eq. 5.

    Examples
    --------
    A loss on the last step of 30, with recurrent weights that halve whatever passes:

    >>> import numpy as np, nbrnn
    >>> layer = nbrnn.RNN(1, 4, bias=False, dtype=np.float64, rng=0)
    >>> layer.params["weight_hh_l0"] = 0.5 * np.eye(4)
    >>> dy = np.zeros((30, 1, 4))
    >>> dy[-1] = 1
    >>> nbrnn.diagnostics.gradient_flow(layer, np.zeros((30, 1, 1)), dy=dy)
    <GradientFlow: |dL/dh_t| over 30 steps>
               t = 0      middle        last   each step back
      l0    3.73e-09    0.000122           2   x 0.5
    """
    inside, probes = probed(net)
    if (loss is None) == (dy is None):
        raise ValueError(f"loss or dy must be given, got {'neither' if loss is None else 'both'}")
    if loss is not None and not callable(loss):
        raise TypeError(f"loss must be callable, got {type(loss).__name__}")
    y, _, tape = inside.forward(x, state, lengths)
    value = None
    if dy is None:
        value, dy = objective(inside, y, target, loss, lengths)
        value = float(value)
    else:
        _check.shape(_check.array(dy, "dy", y.dtype), "dy", y.shape)
    inside.backward(tape, dy)
    walks = [walk for probe in probes for walk in probe.walks]
    if len({walk.inside.shape for walk in walks}) > 1:
        raise ValueError("net must run all its recurrent layers over the same steps")
    each = np.stack([norm(walk.dh) for walk in walks])
    nothing = np.full(each.shape[1:2], np.nan)
    cells = [norm(norm(walk.dc)) if walk.dc.shape[-1] else nothing for walk in walks]
    names = [name for probe in probes for name in probe.names]
    return GradientFlow(norm(each), each, np.stack(cells), names, value)


def norm(a: Array) -> Array:
    """Euclidean norm over the last axis, in float64, of numbers of any size: their squares could underflow."""
    a = np.abs(a.astype(np.float64))
    top = a.max(-1, initial=0)
    with np.errstate(over="ignore", invalid="ignore"):
        scale = np.where((top > 0) & np.isfinite(top), top, 1)
        return np.asarray(scale * np.sqrt(np.square(a / scale[..., None]).sum(-1)))
