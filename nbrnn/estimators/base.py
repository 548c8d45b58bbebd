"""What the estimators share: a network from their parameters, its training, its outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state

from .. import _check, losses
from ..layers import GRU, LSTM, RNN
from ..module import Module
from ..networks import Sequential
from ..optim import AdamW
from ..pointwise import Dropout, Linear
from ..pool import Pool
from ..training import History, fit

Array = NDArray[Any]

LOSSES = {"mse": losses.mse, "mae": losses.mae, "huber": losses.huber}
CELLS = {"rnn": RNN, "gru": GRU, "lstm": LSTM}

#: Sequences that go through the network together when nothing is learned.
TOGETHER = 256


def seeds(random_state: Any, count: int) -> list[Any]:
    """Seeds that differ, from what scikit-learn calls a random state."""
    first = check_random_state(random_state).randint(np.iinfo(np.int32).max)
    return list(np.random.SeedSequence(int(first)).spawn(count))


class RecurrentEstimator(BaseEstimator):  # type: ignore[misc]
    """A recurrent network with the parameters of scikit-learn's kind; a subclass's constructor keeps them."""

    cell: str
    hidden_size: int
    num_layers: int
    dropout: float
    recurrent_dropout: float
    lr: float
    weight_decay: float
    epochs: int
    batch_size: int
    clip_norm: float | None
    dtype: Any
    random_state: Any
    verbose: bool

    def _network(
        self, inputs: int, outputs: int, bidirectional: bool, pool: str | None, rngs: Sequence[Any]
    ) -> Sequential:
        """Recurrent layers, a pool over time if there is one, dropout and a linear layer."""
        layer = CELLS[_check.choice(self.cell, "cell", tuple(CELLS))]
        recurrent = layer(
            inputs,
            self.hidden_size,
            self.num_layers,
            # Between the layers as after them; a single layer has nothing to drop between.
            dropout=self.dropout if self.num_layers > 1 else 0.0,
            bidirectional=bidirectional,
            recurrent_dropout=self.recurrent_dropout,
            dtype=self.dtype,
            rng=rngs[0],
        )
        D = 2 if recurrent.bidirectional else 1
        parts: list[Module] = [recurrent]
        if pool is not None:
            parts.append(Pool(pool))
        parts.append(Dropout(self.dropout, rng=rngs[1]))
        parts.append(Linear(D * recurrent.hidden_size, outputs, dtype=recurrent.dtype, rng=rngs[2]))
        return Sequential(*parts)

    def _train(
        self,
        net: Sequential,
        data: Any,
        loss: Callable[..., tuple[float, Array]],
        rng: Any,
        validation: Any = None,
        patience: int | None = None,
    ) -> History:
        return fit(
            net,
            data,
            loss,
            AdamW(net, lr=self.lr, weight_decay=self.weight_decay),
            self.epochs,
            batch_size=self.batch_size,
            clip_norm=math.inf if self.clip_norm is None else self.clip_norm,
            validation=validation,
            patience=patience,
            progress=_check.flag(self.verbose, "verbose"),
            rng=np.random.default_rng(rng),
        )


def outputs(net: Sequential, xs: Sequence[Array]) -> Array:
    """What a network that pools gives for sequences (T_i, C), (n, ...): those of like length together."""
    lengths = np.array([len(x) for x in xs])
    order = np.argsort(lengths, kind="stable")
    found: list[Array] = []
    for start in range(0, len(xs), TOGETHER):
        places = order[start : start + TOGETHER]
        padded = np.zeros((lengths[places].max(), len(places), xs[0].shape[1]), net.dtype)
        for b, q in enumerate(places):
            padded[: lengths[q], b] = xs[q]
        found.append(net(padded, lengths=lengths[places])[0])
    y = np.concatenate(found)
    return y[np.argsort(order)]
