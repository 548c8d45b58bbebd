"""RMSprop."""

from __future__ import annotations

from .. import _check
from .._loops import update
from ..module import Parametric
from .base import Array, Optimizer


class RMSprop(Optimizer):
    """RMSprop, as torch's.

    g = g + weight_decay p,  v = alpha v + (1 - alpha) g^2,  d = g / (sqrt(v) + eps),  p = p - lr d;
    with momentum b = momentum b + d,  p = p - lr b.

    Parameters
    ----------
    net : layer, cell or network
        Whose parameters are changed.
    lr : float
        >= 0.
    alpha : float
        0..1.
    eps : float
        >= 0.
    weight_decay : float
        >= 0.
    momentum : float
        >= 0.
    centered : bool
        Whether the variance max(0, v - a^2) stands for v in d, with a = alpha a + (1 - alpha) g.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong kind, out of range or not finite.

    References
    ----------
    T. Tieleman and G. Hinton, "Lecture 6.5: rmsprop", COURSERA 2012; centred: A. Graves, arXiv:1308.0850, equations
    38-45.

    Examples
    --------
    >>> import numpy as np, nbrnn
    >>> layer = nbrnn.RNN(1, 4, rng=0)
    >>> opt = nbrnn.optim.RMSprop(layer, alpha=0.75)
    >>> y, h, tape = layer.forward(np.ones((5, 1, 1), np.float32))
    >>> grads, before = layer.backward(tape, y), layer.flat.copy()
    >>> opt.step(grads)
    >>> bool(np.allclose(layer.flat, before - 0.01 * np.sign(grads.flat) / 0.5))
    True
    """

    alpha: float
    eps: float
    weight_decay: float
    momentum: float
    centered: bool
    _settings = ("lr", "alpha", "eps", "weight_decay", "momentum", "centered")

    def __init__(
        self,
        net: Parametric,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
    ) -> None:
        super().__init__(
            net,
            lr,
            alpha=_check.number(alpha, "alpha", 0, 1),
            eps=_check.number(eps, "eps", 0),
            weight_decay=_check.number(weight_decay, "weight_decay", 0),
            momentum=_check.number(momentum, "momentum", 0),
            centered=_check.flag(centered, "centered"),
        )
        self._carry(v=True, mean=self.centered, buffer=self.momentum > 0)

    def _step(self, g: Array) -> None:
        self._run(update.rmsprop, g, self.lr, self.weight_decay, self.alpha, 1 - self.alpha, self.eps, self.momentum)
