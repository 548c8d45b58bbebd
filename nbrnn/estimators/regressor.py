"""Numbers for each sequence."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import RegressorMixin
from sklearn.utils.validation import check_array

from .. import _check
from .base import LOSSES
from .inputs import sequences
from .scale import Scale
from .sequences import SequenceEstimator, as_many, given

Array = NDArray[Any]


class SequenceRegressor(RegressorMixin, SequenceEstimator):  # type: ignore[misc]
    """Numbers for each sequence: recurrent layers, a pool over time, a linear layer.

    Parameters
    ----------
    cell, hidden_size, num_layers, bidirectional, pool, dropout, recurrent_dropout
        As for ``SequenceClassifier``.
    loss : "mse", "mae" or "huber"
        Of the scaled targets.
    lr, weight_decay, epochs, batch_size, clip_norm, validation_fraction, patience
        As for ``SequenceClassifier``.
    scale : bool
        Whether each column of X, and each of y, is brought to mean 0 and deviation 1.
    dtype, random_state, verbose
        As for ``SequenceClassifier``.

    Attributes
    ----------
    n_features_in_, net_, scale_, history_
        As for ``SequenceClassifier``.
    target_scale_ : Scale
        ``mean`` and ``deviation`` of the targets.

    Examples
    --------
    >>> import numpy as np
    >>> from nbrnn.estimators import SequenceRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = [rng.standard_normal((rng.integers(5, 15), 1)) for _ in range(150)]
    >>> y = [1000 + 50 * x.max() for x in X]
    >>> model = SequenceRegressor("gru", hidden_size=16, pool="max", epochs=40, random_state=0).fit(X[:100], y[:100])
    >>> model.score(X[100:], y[100:]) > 0.8
    True
    """

    def __init__(
        self,
        cell: str = "lstm",
        hidden_size: int = 32,
        num_layers: int = 1,
        bidirectional: bool = False,
        pool: str = "mean",
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        loss: str = "mse",
        lr: float = 1e-2,
        weight_decay: float = 0.0,
        epochs: int = 30,
        batch_size: int = 32,
        clip_norm: float | None = 1.0,
        validation_fraction: float = 0.0,
        patience: int | None = None,
        scale: bool = True,
        dtype: Any = "float32",
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.cell = cell
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bidirectional = bidirectional
        self.pool = pool
        self.dropout = dropout
        self.recurrent_dropout = recurrent_dropout
        self.loss = loss
        self.lr = lr
        self.weight_decay = weight_decay
        self.epochs = epochs
        self.batch_size = batch_size
        self.clip_norm = clip_norm
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.scale = scale
        self.dtype = dtype
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any) -> SequenceRegressor:
        """Train a network from scratch.

        Parameters
        ----------
        X : list of array_like (T_i, C), or array_like, shape (n, T, C) or (n, T)
            Sequences.
        y : array_like of real numbers, shape (n,) or (n, k)

        Returns
        -------
        SequenceRegressor
            This one.

        Raises
        ------
        TypeError, ValueError
            X, y or a parameter is of the wrong kind, shape or range.
        """
        loss = LOSSES[_check.choice(self.loss, "loss", tuple(LOSSES))]
        xs, target = sequences(X), _numbers(y, type(self).__name__)
        as_many(xs, target)
        self._one_d = target.ndim == 1
        self.net_, self.history_ = self._learn(xs, target.reshape(len(target), -1), loss)
        return self

    def _targets(self, y: Array, known: Array) -> Array:
        self.target_scale_ = Scale.of([y[known]]) if self.scale else Scale.none(y.shape[1])
        return self.target_scale_.to(y, _check.float_dtype(self.dtype))

    def predict(self, X: Any) -> Array:
        """The numbers.

        Parameters
        ----------
        X : as for ``fit``

        Returns
        -------
        ndarray of float64, shape (n,) or (n, k), as y was

        Raises
        ------
        TypeError, ValueError
            X is of the wrong kind or shape; a NotFittedError before ``fit``.
        """
        y = self.target_scale_.back(self._outputs(X)) if hasattr(self, "target_scale_") else self._outputs(X)
        return y[:, 0] if self._one_d else y

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _numbers(y: Any, who: str) -> Array:
    """(n,) or (n, k) finite numbers, float64."""
    given(y, who)
    return check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
