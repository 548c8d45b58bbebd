"""Gradient descent, with or without momentum."""

from __future__ import annotations

from .. import _check
from .._loops import update
from ..module import Parametric
from .base import Array, Optimizer


class SGD(Optimizer):
    """Gradient descent, as torch's.

    g = g + weight_decay p,  p = p - lr g.  With momentum b = momentum b + (1 - dampening) g, in the first step b = g;
    p = p - lr b, or with ``nesterov`` p = p - lr (g + momentum b).

    Parameters
    ----------
    net : layer, cell or network
        Whose parameters are changed.
    lr : float
        >= 0.
    momentum : float
        >= 0.
    dampening : float
    weight_decay : float
        >= 0.
    nesterov : bool
        Needs momentum > 0 and dampening 0.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong kind, out of range or not finite.

    References
    ----------
    I. Sutskever et al., "On the importance of initialization and momentum in deep learning", ICML 2013, section 2;
    there the learning rate is part of b.

    Examples
    --------
    >>> import numpy as np, nbrnn
    >>> layer = nbrnn.RNN(1, 4, rng=0)
    >>> opt = nbrnn.optim.SGD(layer, lr=0.1, momentum=0.9)
    >>> y, h, tape = layer.forward(np.ones((5, 1, 1), np.float32))
    >>> grads, before = layer.backward(tape, y), layer.flat.copy()
    >>> opt.step(grads)
    >>> bool(np.allclose(layer.flat, before - 0.1 * grads.flat))
    True
    """

    momentum: float
    dampening: float
    weight_decay: float
    nesterov: bool
    _settings = ("lr", "momentum", "dampening", "weight_decay", "nesterov")

    def __init__(
        self,
        net: Parametric,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        super().__init__(
            net,
            lr,
            momentum=_check.number(momentum, "momentum", 0),
            dampening=_check.number(dampening, "dampening"),
            weight_decay=_check.number(weight_decay, "weight_decay", 0),
            nesterov=_check.flag(nesterov, "nesterov"),
        )
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise ValueError(
                f"nesterov must be False unless momentum is > 0 and dampening 0, got momentum {self.momentum:g} "
                f"and dampening {self.dampening:g}"
            )
        if self.momentum:
            self._carry(buffer=True)

    def _step(self, g: Array) -> None:
        if not self.momentum:
            self._run(update.sgd, g, self.lr, self.weight_decay)
            return
        loop = update.nesterov if self.nesterov else update.momentum
        fresh = 1.0 if self._t == 1 else 1 - self.dampening
        self._run(loop, g, self.lr, self.weight_decay, self.momentum, fresh)
