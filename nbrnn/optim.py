"""Optimisers: ``opt = Adam(net, lr=...)``, ``opt.step(grads)``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _check
from .module import Gradients, Parametric

Array = NDArray[Any]


class Adam:
    """Adam (Kingma and Ba, arXiv:1412.6980, algorithm 1), with torch's defaults.

    m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2,
    p = p - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

    Parameters
    ----------
    net : layer, cell or network
        Whose parameters are changed.
    lr : float
        >= 0.
    betas : pair of float
        b1 and b2, 0 <= b < 1.
    eps : float
        >= 0.
    weight_decay : float
        >= 0; times p, added to g.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong kind, out of range or not finite.

    Examples
    --------
    >>> import numpy as np, nbrnn
    >>> layer = nbrnn.RNN(1, 4, rng=0)
    >>> opt = nbrnn.optim.Adam(layer, lr=0.01)
    >>> x = np.ones((5, 1, 1), np.float32)
    >>> first = None
    >>> for _ in range(50):
    ...     y, h, tape = layer.forward(x)
    ...     loss, dy = nbrnn.losses.mse(y, np.zeros_like(y))
    ...     opt.step(layer.backward(tape, dy))
    ...     first = first or loss
    >>> bool(loss < 0.1 * first)
    True
    """

    def __init__(
        self,
        net: Parametric,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        if not isinstance(net, Parametric):
            raise TypeError(f"net must be a layer or a network, got {type(net).__name__}")
        if np.shape(betas) != (2,):
            raise ValueError(f"betas must be a pair, got {betas!r}")
        self.net = net
        self.lr = _check.number(lr, "lr", 0)
        self.betas = tuple(_check.number(b, f"betas[{q}]", 0) for q, b in enumerate(betas))
        if max(self.betas) >= 1:
            raise ValueError(f"betas must be < 1, got {betas!r}")
        self.eps = _check.number(eps, "eps", 0)
        self.weight_decay = _check.number(weight_decay, "weight_decay", 0)
        self._t = 0
        self._m = np.zeros(net.flat.size, net.flat.dtype)
        self._v = np.zeros(net.flat.size, net.flat.dtype)

    def step(self, grads: Gradients) -> None:
        """Change the parameters by one step.

        Parameters
        ----------
        grads : Gradients
            From ``net.backward``.

        Raises
        ------
        TypeError, ValueError
            Not gradients, or of another size than the network's.
        """
        if not isinstance(grads, Gradients):
            raise TypeError(f"grads must come from backward of the network, got {type(grads).__name__}")
        _check.shape(grads.flat, "grads.flat", self._m.shape)
        b1, b2 = self.betas
        p, g = np.asarray(self.net.flat), grads.flat
        if self.weight_decay:
            g = g + self.weight_decay * p
        self._t += 1
        self._m += (1 - b1) * (g - self._m)
        self._v *= b2
        self._v += (1 - b2) * g * g
        size = self.lr / (1 - b1**self._t)
        root = np.sqrt(self._v) / np.sqrt(1 - b2**self._t)
        self.net.flat = p - size * self._m / (root + self.eps)

    def state_dict(self) -> dict[str, Any]:
        """Everything to go on from: step count, moments, settings."""
        return {
            "t": self._t,
            "m": self._m.copy(),
            "v": self._v.copy(),
            "lr": self.lr,
            "betas": self.betas,
            "eps": self.eps,
            "weight_decay": self.weight_decay,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` gave.

        Parameters
        ----------
        state : dict

        Raises
        ------
        TypeError, ValueError
            An entry is missing or of the wrong kind, or the state is that of another network.
        """
        if not isinstance(state, dict):
            raise TypeError(f"state must be what state_dict() gave, got {type(state).__name__}")
        missing = set(self.state_dict()) - set(state)
        if missing:
            raise ValueError(f"state must have the entries of state_dict(), {', '.join(sorted(missing))} missing")
        for name in ("m", "v"):
            _check.shape(_check.real(state[name], f"state[{name!r}]"), f"state[{name!r}]", self._m.shape)
        settings = {k: state[k] for k in ("lr", "betas", "eps", "weight_decay")}
        checked = Adam(self.net, **settings)
        checked._t = _check.size(state["t"], "state['t']", 0)
        checked._m[:], checked._v[:] = state["m"], state["v"]
        self.__dict__.update(checked.__dict__)


def bound(value: Any, name: str) -> float:
    """A number above 0, or infinity."""
    infinite = isinstance(value, float | np.floating) and value == math.inf
    return math.inf if infinite else _check.number(value, name, above=0)


def clip_grad_norm(grads: Gradients, max_norm: float) -> float:
    """Scale the gradients of the parameters so that their norm is at most ``max_norm``, in place.

    Parameters
    ----------
    grads : Gradients
    max_norm : float
        > 0; infinity: measure the norm only.

    Returns
    -------
    float
        The norm before.  If it isn't finite, nothing is scaled.

    Raises
    ------
    TypeError, ValueError
        Not gradients, or a bound that isn't positive.

    References
    ----------
    R. Pascanu et al., "On the difficulty of training recurrent neural networks", arXiv:1211.5063, algorithm 1.
    """
    if not isinstance(grads, Gradients):
        raise TypeError(f"grads must come from backward of a network, got {type(grads).__name__}")
    max_norm = bound(max_norm, "max_norm")
    norm = float(np.sqrt(np.square(grads.flat, dtype=np.float64).sum()))
    if np.isfinite(norm) and norm > max_norm:
        grads.flat *= grads.flat.dtype.type(max_norm / norm)
    return norm
