"""A label for each sequence."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from sklearn.utils import assert_all_finite
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d

from .. import losses
from .inputs import sequences
from .sequences import SequenceEstimator, as_many, given

Array = NDArray[Any]


class SequenceClassifier(ClassifierMixin, SequenceEstimator):  # type: ignore[misc]
    """A label for each sequence: recurrent layers, a pool over time, a linear layer; cross-entropy.

    Parameters
    ----------
    cell : "lstm", "gru" or "rnn"
    hidden_size, num_layers : int
        As for the layers.
    bidirectional : bool
        Whether a second direction runs from each sequence's end to its beginning.
    pool : "mean", "max" or "last"
        What becomes of the outputs of a sequence's steps; see ``Pool``.
    dropout : float
        Probability, 0..1, with which numbers between layers, and what the linear layer sees, are dropped in training.
    recurrent_dropout : float
        The same for what of h goes from step to step; see ``LSTM``.
    lr, weight_decay : float
        Of AdamW.
    epochs : int
        Times all sequences are gone through.
    batch_size : int
        Sequences in a batch, of like lengths.
    clip_norm : float or None
        Bound for the norm of the gradients; None: no bound.
    validation_fraction : float
        0..1; the part of the sequences (for labels: of each class) that is held back, for ``history_.validation``.
    patience : int, optional
        Training ends when the loss on that part hasn't become lower than ever for so many epochs, and the network is
        that of the best one.
    scale : bool
        Whether each column is brought to mean 0 and deviation 1, over all steps of what is learned from.
    dtype : "float32" or "float64"
        Of the network.
    random_state : int, numpy.random.RandomState or None
        For initial values, order of batches, dropout and what is held back.  With an int the fit is the same, to the
        bit, in every run and for any number of threads or processes.
    verbose : bool
        Whether a progress bar is shown.

    Attributes
    ----------
    classes_ : ndarray, shape (n_classes,)
        The labels there are, sorted.
    n_features_in_ : int
        C, the number of columns.
    net_ : Sequential
        The trained network; it takes scaled (T, B, C) arrays and gives logits.
    scale_ : Scale
        ``mean`` and ``deviation`` of the columns.
    history_ : History

    Notes
    -----
    X is a list of arrays (T_i, C), or an array (n, T, C); an array (n, T), or a list of vectors, counts as sequences of
    one column.  Any real dtype; no NaN.  Parameters are looked at by ``fit``, as is usual in scikit-learn.

    Examples
    --------
    >>> import numpy as np
    >>> from nbrnn.estimators import SequenceClassifier
    >>> rng = np.random.default_rng(0)
    >>> X = [np.cumsum(rng.standard_normal((rng.integers(10, 30), 2)) + drift, 0) for drift in (0.5, -0.5) * 40]
    >>> y = ["up", "down"] * 40
    >>> model = SequenceClassifier("gru", hidden_size=8, epochs=10, random_state=0).fit(X[:60], y[:60])
    >>> model.score(X[60:], y[60:])
    1.0
    >>> model.classes_.tolist(), model.predict_proba(X[:5]).shape
    (['down', 'up'], (5, 2))
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

    def fit(self, X: Any, y: Any) -> SequenceClassifier:
        """Train a network from scratch.

        Parameters
        ----------
        X : list of array_like (T_i, C), or array_like, shape (n, T, C) or (n, T)
            Sequences.
        y : array_like, shape (n,)
            Their labels, of any kind, at least two different ones.

        Returns
        -------
        SequenceClassifier
            This one.

        Raises
        ------
        TypeError, ValueError
            X, y or a parameter is of the wrong kind, shape or range.
        """
        xs, labels = sequences(X), _labels(y, type(self).__name__)
        as_many(xs, labels)
        classes, numbers = np.unique(labels, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(f"y must have labels of at least two classes, got 1 class, {classes[0]!r}")
        self.net_, self.history_ = self._learn(xs, numbers.astype(np.int64), losses.cross_entropy, len(classes))
        self.classes_ = classes
        return self

    def decision_function(self, X: Any) -> Array:
        """Logits; for two classes the difference of the second's and the first's.

        Parameters
        ----------
        X : as for ``fit``

        Returns
        -------
        ndarray, shape (n, n_classes), or (n,) for two classes

        Raises
        ------
        TypeError, ValueError
            X is of the wrong kind or shape; a NotFittedError before ``fit``.
        """
        z = self._outputs(X)
        return z[:, 1] - z[:, 0] if z.shape[1] == 2 else z

    def predict_log_proba(self, X: Any) -> Array:
        """Logarithms of probabilities.

        Parameters
        ----------
        X : as for ``fit``

        Returns
        -------
        ndarray, shape (n, n_classes)

        Raises
        ------
        TypeError, ValueError
            As for ``decision_function``.
        """
        z = self._outputs(X)
        z = z - z.max(-1, keepdims=True)
        return z - np.log(np.exp(z).sum(-1, keepdims=True))

    def predict_proba(self, X: Any) -> Array:
        """Probabilities of the classes, in the order of ``classes_``.

        Parameters
        ----------
        X : as for ``fit``

        Returns
        -------
        ndarray, shape (n, n_classes)

        Raises
        ------
        TypeError, ValueError
            As for ``decision_function``.
        """
        return np.exp(self.predict_log_proba(X))

    def predict(self, X: Any) -> Array:
        """The most probable labels.

        Parameters
        ----------
        X : as for ``fit``

        Returns
        -------
        ndarray, shape (n,)

        Raises
        ------
        TypeError, ValueError
            As for ``decision_function``.
        """
        best = self._outputs(X).argmax(-1)
        return self.classes_[best]


def _labels(y: Any, who: str) -> Array:
    """(n,) labels."""
    given(y, who)
    labels = column_or_1d(y, warn=True)
    assert_all_finite(labels, input_name="y")
    check_classification_targets(labels)
    return labels
