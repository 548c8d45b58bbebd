"""Forecasts of one or several series, some steps ahead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from .. import _check
from .base import LOSSES, RecurrentEstimator, seeds
from .series import Series, View, as_series, joined, read

Array = NDArray[Any]
Loss = Callable[..., tuple[float, Array]]

#: Steps that a direct forecast reads at least before it begins, if nothing is said.
READ = 16


class Forecaster(RecurrentEstimator):
    """Forecasts of time series, with columns known ahead: recurrent layers and a linear layer.

    With ``strategy="direct"`` the network reads the last ``context`` steps of a series, then goes on for ``horizon``
    steps in which it is told all but the series itself (the columns of X, and past seasons), and what it gives there is
    the forecast.  It learns from pieces of the series, with the loss on the forecast alone.  With
    ``strategy="recursive"`` the network learns to forecast one step ahead at each step of the series; further steps are
    forecast from its own forecasts.

    With ``season=s`` it is differences to the last season that are learned and forecast, y_t - y_(t-s), or with
    ``seasons=m`` those to the mean of the last m, of which each is shown to the network; so a network that gives 0 is
    the seasonal naive forecast.  With s = 1 those are differences to the last known value.

    Parameters
    ----------
    horizon : int
        Steps ahead.
    strategy : "direct" or "recursive"
    season : int, optional
        s, steps in a season; None: the series itself is learned, not differences.
    seasons : int
        m >= 1.
    context : int, optional
        Steps of a piece that are read before the forecast begins; "recursive": steps of a piece of which each is
        forecast.  None: as many as ``horizon``, at least 16; "recursive": the whole series is one piece.
    stride : int
        Steps from one piece of the series to the next: more make epochs shorter.
    n_networks : int
        Networks trained apart, whose forecasts are averaged.
    cell : "gru", "lstm" or "rnn"
    hidden_size, num_layers : int
        As for the layers.
    dropout, recurrent_dropout : float
        As for ``SequenceClassifier``.
    loss : "mse", "mae" or "huber"
        Of scaled numbers.
    lr, weight_decay : float
        Of AdamW.
    epochs : int
        Times all pieces are gone through.
    batch_size : int
        Pieces in a batch.
    clip_norm, dtype, random_state, verbose
        As for ``SequenceClassifier``.

    Attributes
    ----------
    nets_ : list of Sequential
    histories_ : list of History
        One for each network.
    n_features_in_ : int
        m, the number of columns of X; 0 without.
    view_ : View
        What a network is told at a step; it has the scales.

    Notes
    -----
    Series and columns are brought to mean 0 and deviation 1 of what ``fit`` is given, differences to deviation 1.  What
    is sure to be > 0 may be better forecast as its logarithm or root: that is left to the caller, as is the choice of
    ``epochs``, for which a part of the past can be held back.

    Examples
    --------
    >>> import numpy as np
    >>> from nbrnn.estimators import Forecaster
    >>> t = np.arange(300)
    >>> y = 100 + 20 * np.sin(0.3 * t) + 5 * np.cos(0.7 * t)
    >>> model = Forecaster(horizon=12, lr=0.02, epochs=40, random_state=0).fit(y[:250])
    >>> forecast = model.predict()
    >>> forecast.shape, bool(abs(forecast - y[250:262]).mean() < 3)
    ((12,), True)
    >>> later = model.update(y[250:270]).predict(horizon=5)
    >>> bool(abs(later - y[270:275]).mean() < 3)
    True
    """

    def __init__(
        self,
        horizon: int = 1,
        strategy: str = "direct",
        season: int | None = None,
        seasons: int = 1,
        context: int | None = None,
        stride: int = 1,
        n_networks: int = 1,
        cell: str = "gru",
        hidden_size: int = 32,
        num_layers: int = 1,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        loss: str = "mse",
        lr: float = 1e-2,
        weight_decay: float = 0.0,
        epochs: int = 30,
        batch_size: int = 32,
        clip_norm: float | None = 1.0,
        dtype: Any = "float32",
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.horizon = horizon
        self.strategy = strategy
        self.season = season
        self.seasons = seasons
        self.context = context
        self.stride = stride
        self.n_networks = n_networks
        self.cell = cell
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.dropout = dropout
        self.recurrent_dropout = recurrent_dropout
        self.loss = loss
        self.lr = lr
        self.weight_decay = weight_decay
        self.epochs = epochs
        self.batch_size = batch_size
        self.clip_norm = clip_norm
        self.dtype = dtype
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, y: Any, X: Any = None) -> Forecaster:
        """Train networks from scratch, and keep the series: ``predict`` goes on where it ends.

        Parameters
        ----------
        y : array_like, shape (T,) or (T, k), or list of such arrays
            A series of numbers, or of k numbers a step; or several series with the same k.  (A list counts as several
            series if it holds arrays.)
        X : array_like, shape (T, m), or list of such arrays, optional
            Columns that are known ahead, such as those of a calendar.

        Returns
        -------
        Forecaster
            This one.

        Raises
        ------
        TypeError, ValueError
            y, X or a parameter is of the wrong kind, shape or range; a series is too short.
        """
        self._check()
        loss, dtype = LOSSES[_check.choice(self.loss, "loss", tuple(LOSSES))], _check.float_dtype(self.dtype)
        series = as_series(y, X)
        direct = self._direct
        needed = self._needed() + (self.horizon if direct else 1)
        for q, one in enumerate(series):
            if len(one) < needed:
                name = f"y[{q}]" if isinstance(y, list) else "y"
                raise ValueError(f"{name} must have at least {needed} steps for these parameters, got {len(one)}")
        view = View(series, self.season, self.seasons, direct and self.horizon > 1)
        pieces: list[Array] = []
        targets: list[Array] = []
        for one in series:
            at, origin = self._pieces(view.first, len(one))
            pieces += list(view.inputs(one, at, origin).astype(dtype))
            targets += list(view.target(one, at, origin).astype(dtype))
        self._kind, self._columns = read(y), series[0].X.shape[1]
        self.nets_, self.histories_ = [], []
        for q in range(self.n_networks):
            rngs = seeds(self.random_state, 4 * self.n_networks)[4 * q : 4 * q + 4]
            net = self._network(pieces[0].shape[1], series[0].y.shape[1], False, None, rngs)
            own = _of_last(loss, self.horizon) if direct else loss
            self.histories_.append(self._train(net, (pieces, targets), own, rngs[3]))
            self.nets_.append(net)
        self.view_, self._series, self.n_features_in_ = view, series, self._columns
        return self

    def predict(self, horizon: int | None = None, X: Any = None) -> Any:
        """Forecast the steps after the series that ``fit`` and ``update`` have been given.

        Parameters
        ----------
        horizon : int, optional
            Steps ahead, at most the parameter for ``strategy="direct"``; None: the parameter.
        X : array_like, shape (horizon, m), or list of such arrays, optional
            The columns in those steps; more rows than ``horizon`` are not looked at.

        Returns
        -------
        ndarray of float64, shape (horizon,) or (horizon, k), or list of such arrays
            As y was.

        Raises
        ------
        TypeError, ValueError
            An argument is of the wrong kind, shape or range; a NotFittedError before ``fit``.
        """
        check_is_fitted(self)
        return self._answer(self._series, X, horizon, self._kind)

    def predict_from(self, y: Any, X: Any = None, X_future: Any = None, horizon: int | None = None) -> Any:
        """Forecast the steps after other series, or after another place of the same.

        Parameters
        ----------
        y : as for ``fit``
            What is known, up to where the forecast begins.
        X : array_like, shape (T, m), or list of such arrays, optional
            The columns in those steps.
        X_future : array_like, shape (horizon, m), or list of such arrays, optional
            The columns in the steps that are forecast.
        horizon : int, optional
            As for ``predict``.

        Returns
        -------
        ndarray of float64, or list of such arrays
            As for ``predict``.

        Raises
        ------
        TypeError, ValueError
            As for ``predict``.
        """
        check_is_fitted(self)
        return self._answer(self._alike(y, X), X_future, horizon, read(y))

    def update(self, y: Any, X: Any = None) -> Forecaster:
        """Go on with more observations, without training.

        Parameters
        ----------
        y : as for ``fit``
            The steps after those known, as many as there are.
        X : as for ``fit``
            The columns in those steps.

        Returns
        -------
        Forecaster
            This one.

        Raises
        ------
        TypeError, ValueError
            An argument is of the wrong kind or shape; a NotFittedError before ``fit``.
        """
        check_is_fitted(self)
        new = self._alike(y, X)
        if len(new) != len(self._series):
            raise ValueError(f"y must hold {len(self._series)} series as for fit, got {len(new)}")
        self._series = [joined(old, more) for old, more in zip(self._series, new, strict=True)]
        return self

    @property
    def _direct(self) -> bool:
        return bool(_check.choice(self.strategy, "strategy", ("direct", "recursive")) == "direct")

    def _check(self) -> None:
        for name in ("horizon", "seasons", "stride", "n_networks"):
            _check.size(getattr(self, name), name)
        for name in ("season", "context"):
            if getattr(self, name) is not None:
                _check.size(getattr(self, name), name)

    def _context(self) -> int:
        """Steps that are read before a direct forecast."""
        return max(self.horizon, READ) if self.context is None else self.context

    def _needed(self) -> int:
        """Steps a series must have so that what follows can be forecast."""
        first = 1 if self.season is None else self.seasons * self.season + 1
        return first + (self._context() if self._direct else (self.context or 1) - 1)

    def _pieces(self, first: int, end: int) -> tuple[Array, Array]:
        """Steps that are learned from, and before which step the series is known at each: both (pieces, steps)."""
        if self._direct:
            c, h = self._context(), self.horizon
            origin = np.arange(end - h, first + c - 1, -self.stride)[::-1, None]
            at = origin + np.arange(-c, h)
            return at, np.broadcast_to(origin, at.shape)
        steps = end - first if self.context is None else self.context
        at = np.arange(end - steps, first - 1, -self.stride)[::-1, None] + np.arange(steps)
        return at, at

    def _alike(self, y: Any, X: Any) -> list[Series]:
        """Series that go with those of ``fit``."""
        series, k = as_series(y, X), self._series[0].y.shape[1]
        for one in series:
            if one.y.shape[1] != k:
                raise ValueError(f"y must have {k} columns as for fit, got {one.y.shape[1]}")
            if one.X.shape[1] != self._columns:
                raise ValueError(f"X must have {self._columns} columns as for fit, got {one.X.shape[1]}")
        return series

    def _answer(self, series: Sequence[Series], X: Any, horizon: int | None, kind: tuple[bool, bool]) -> Any:
        """Forecasts after series, given as these are."""
        h = self.horizon if horizon is None else _check.size(horizon, "horizon")
        if self._direct and h > self.horizon:
            raise ValueError(f'horizon must be <= {self.horizon} for strategy="direct", as it was for fit, got {h}')
        several, vector = kind
        ahead = [None] * len(series) if X is None else X if several else [X]
        if len(ahead) != len(series):
            raise ValueError(f"X must hold an array for each of {len(series)} series, got {len(ahead)}")
        found = []
        for one, x in zip(series, ahead, strict=True):
            if len(one) < self._needed():
                raise ValueError(f"y must have at least {self._needed()} steps to forecast from, got {len(one)}")
            run = one.going_on(x, h)
            forecast = self._all_at_once(run, h) if self._direct else self._one_by_one(run, h)
            found.append(forecast[:, 0] if vector else forecast)
        return found if several else found[0]

    def _all_at_once(self, run: Series, h: int) -> Array:
        """The direct forecast of the last h steps of a series that is known before."""
        T = len(run) - h
        at = np.arange(T - self._context(), T + h)
        origin = np.full(at.shape, T)
        x = self.view_.inputs(run, at, origin)[:, None].astype(self.nets_[0].dtype)
        r = np.mean([net(x)[0][-h:, 0] for net in self.nets_], 0)
        return self.view_.forecast(run, at[-h:], origin[-h:], r)

    def _one_by_one(self, run: Series, h: int) -> Array:
        """The recursive forecast."""
        T = len(run) - h
        at = np.arange(self.view_.first if self.context is None else T + 1 - self.context, T + 1)
        states: list[Any] = [None] * len(self.nets_)
        while True:
            x = self.view_.inputs(run, at, at)[:, None].astype(self.nets_[0].dtype)
            given = [net(x, state) for net, state in zip(self.nets_, states, strict=True)]
            states = [state for _, state in given]
            t = at[-1:]
            run.y[t] = self.view_.forecast(run, t, t, np.mean([y[-1] for y, _ in given], 0))
            if t[0] == len(run) - 1:
                return run.y[T:]
            at = t + 1


def _of_last(loss: Loss, steps: int) -> Loss:
    """A loss on the last steps alone: those before them are what forecasts are made from."""

    def of_last(y: Array, target: Array, lengths: Any = None) -> tuple[float, Array]:
        dy = np.zeros_like(y)
        value, dy[-steps:] = loss(y[-steps:], target[-steps:])
        return value, dy

    return of_last
