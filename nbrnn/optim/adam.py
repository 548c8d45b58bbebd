"""Adam and AdamW."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from .. import _check
from .._loops import update
from ..module import Parametric
from .base import Array, Optimizer


class Adam(Optimizer):
    """Adam (Kingma and Ba, arXiv:1412.6980, algorithm 1), with torch's defaults.

    g = g + weight_decay p,  m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2,
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
        >= 0.
    amsgrad : bool
        Whether the largest v so far stands for v in the last formula (Reddi et al., arXiv:1904.09237, algorithm 2).

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

    betas: tuple[float, float]
    eps: float
    weight_decay: float
    amsgrad: bool
    _settings = ("lr", "betas", "eps", "weight_decay", "amsgrad")
    #: Whether weight decay is taken off the parameters instead of being added to g.
    _decoupled: ClassVar[bool] = False

    def __init__(
        self,
        net: Parametric,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
    ) -> None:
        super().__init__(
            net,
            lr,
            betas=_pair(betas),
            eps=_check.number(eps, "eps", 0),
            weight_decay=_check.number(weight_decay, "weight_decay", 0),
            amsgrad=_check.flag(amsgrad, "amsgrad"),
        )
        self._carry(m=True, v=True, v_max=self.amsgrad)

    def _step(self, g: Array) -> None:
        b1, b2 = self.betas
        decay, shrink = (0.0, 1 - self.lr * self.weight_decay) if self._decoupled else (self.weight_decay, 1.0)
        size, scale = self.lr / (1 - b1**self._t), 1 / math.sqrt(1 - b2**self._t)
        self._run(update.adam, g, size, shrink, decay, 1 - b1, b2, 1 - b2, scale, self.eps)


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, arXiv:1711.05101, algorithm 2), as torch's.

    p = p - lr weight_decay p, and then a step of Adam without weight decay.

    Parameters
    ----------
    net, lr, betas, eps, weight_decay, amsgrad
        As for ``Adam``.

    Raises
    ------
    TypeError, ValueError
        As for ``Adam``.

    Examples
    --------
    >>> import nbrnn
    >>> nbrnn.optim.AdamW(nbrnn.RNN(1, 4))
    <AdamW(lr=0.001, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.01, amsgrad=False) after 0 steps>
    """

    _decoupled = True

    def __init__(
        self,
        net: Parametric,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
    ) -> None:
        super().__init__(net, lr, betas, eps, weight_decay, amsgrad)


def _pair(betas: Any) -> tuple[float, float]:
    if np.shape(betas) != (2,):
        raise ValueError(f"betas must be a pair, got {betas!r}")
    b1, b2 = (_check.number(b, f"betas[{q}]", 0) for q, b in enumerate(betas))
    if max(b1, b2) >= 1:
        raise ValueError(f"betas must be < 1, got {betas!r}")
    return b1, b2
