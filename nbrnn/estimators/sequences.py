"""What the estimators for whole sequences share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from sklearn.utils.validation import check_is_fitted

from .. import _check
from ..training import History
from .base import RecurrentEstimator, outputs, seeds
from .inputs import sequences
from .scale import Scale

Array = NDArray[Any]


class SequenceEstimator(RecurrentEstimator):
    """What the two share: recurrent layers, a pool over time, a linear layer."""

    bidirectional: bool
    pool: str
    validation_fraction: float
    patience: int | None
    scale: bool

    def _learn(
        self, xs: list[Array], y: Array, loss: Callable[..., Any], classes: int | None = None
    ) -> tuple[Any, History]:
        """The network, trained on a part of the sequences and held against the rest, and the history."""
        self.n_features_in_ = xs[0].shape[1]
        rngs = seeds(self.random_state, 5)
        known, held = self._split(len(xs), rngs[4], None if classes is None else y)
        C = self.n_features_in_
        self.scale_ = Scale.of([xs[q] for q in known]) if _check.flag(self.scale, "scale") else Scale.none(C)
        target = self._targets(y, known)
        net = self._network(C, classes or target.shape[1], self.bidirectional, self.pool, rngs)
        scaled = [self.scale_.to(x, net.dtype) for x in xs]

        def part(places: Array) -> Any:
            return [scaled[q] for q in places], target[places]

        validation = part(held) if len(held) else None
        history = self._train(net, part(known), loss, rngs[3], validation, self.patience)
        return net, history

    def _split(self, count: int, seed: Any, labels: Array | None) -> tuple[Array, Array]:
        """Places of what is learned from, and of what is held back; of all classes their share, if there are labels."""
        fraction = _check.number(self.validation_fraction, "validation_fraction", 0)
        if fraction >= 1:
            raise ValueError(f"validation_fraction must be < 1, got {fraction}")
        if fraction == 0:
            if self.patience is not None:
                raise ValueError(f"patience must be None where validation_fraction is 0, got {self.patience}")
            return np.arange(count), np.zeros(0, np.int64)
        state = int(np.random.default_rng(seed).integers(2**31))
        known, held = train_test_split(np.arange(count), test_size=fraction, random_state=state, stratify=labels)
        return known, held

    def _targets(self, y: Array, known: Array) -> Array:
        """What the network learns."""
        return y

    def _outputs(self, X: Any) -> Array:
        """What the network gives for each sequence, (n, ...)."""
        check_is_fitted(self)
        xs = sequences(X, self.n_features_in_, type(self).__name__)
        return outputs(self.net_, [self.scale_.to(x, self.net_.dtype) for x in xs])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags


def as_many(xs: list[Array], y: Array) -> None:
    """Raise unless there is a target for each sequence."""
    if len(y) != len(xs):
        raise ValueError(f"y must have an entry for each of the {len(xs)} sequences of X, got {len(y)}")


def given(y: Any, who: str) -> None:
    """Raise if there are no targets."""
    if y is None:
        raise ValueError(f"y must be given: {who} requires y to be passed, but the target y is None")
