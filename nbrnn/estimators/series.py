"""Time series as a network sees them: what is known at each step, differences to past seasons, scales."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _check
from .scale import Scale

Array = NDArray[Any]


@dataclasses.dataclass
class Series:
    """One series and what is known beside it.

    Attributes
    ----------
    y : ndarray of float64, shape (T, k)
    X : ndarray of float64, shape (T + steps ahead, m)
        m = 0 where there is nothing.
    """

    y: Array
    X: Array

    def __len__(self) -> int:
        return len(self.y)

    def going_on(self, X: Any, steps: int) -> Series:
        """A copy with room for more steps of y, whose columns are X."""
        m = self.X.shape[1]
        if (X is None) != (m == 0):
            raise ValueError(
                f"X must {'have ' + str(m) + ' columns as for fit' if m else 'be None as for fit'}, got {_of(X)}"
            )
        ahead = np.zeros((steps, 0)) if X is None else table(X, "X")
        if len(ahead) < steps or ahead.shape[1] != m:
            raise ValueError(f"X must have shape ({steps}, {m}) for {steps} steps ahead, got {ahead.shape}")
        room = np.zeros((steps, self.y.shape[1]))
        return Series(np.concatenate([self.y, room]), np.concatenate([self.X, ahead[:steps]]))


def _of(X: Any) -> str:
    return "None" if X is None else f"{type(X).__name__} of shape {np.shape(X)}"


def table(value: Any, name: str) -> Array:
    """(T, k) finite numbers, float64; a vector is one column."""
    given = _check.real(value, name).astype(np.float64)
    if given.ndim not in (1, 2) or 0 in given.shape[1:]:
        raise ValueError(f"{name} must have shape (T,) or (T, k), got {given.shape}")
    if not np.isfinite(given).all():
        raise ValueError(f"{name} must be finite, got NaN or inf in it")
    return given.reshape(len(given), -1) if given.ndim == 2 else given[:, None]


def read(y: Any) -> tuple[bool, bool]:
    """Whether there are several series, and whether a series is a vector."""
    several = isinstance(y, list | tuple) and len(y) > 0 and all(isinstance(one, np.ndarray) and one.ndim for one in y)
    return several, np.ndim(y[0] if several else y) == 1


def as_series(y: Any, X: Any) -> list[Series]:
    """What a user gave, as a list of series of as many numbers a step, with as many columns."""
    several, _ = read(y)
    ys = [table(one, f"y[{q}]") for q, one in enumerate(y)] if several else [table(y, "y")]
    if X is None:
        Xs = [np.zeros((len(one), 0)) for one in ys]
    elif not several:
        Xs = [table(X, "X")]
    else:
        if not isinstance(X, list | tuple) or len(X) != len(ys):
            raise ValueError(f"X must be a list of {len(ys)} arrays, one for each series, got {type(X).__name__}")
        Xs = [table(one, f"X[{q}]") for q, one in enumerate(X)]
    for q, (one, x) in enumerate(zip(ys, Xs, strict=True)):
        at = f"[{q}]" if several else ""
        if len(x) != len(one):
            raise ValueError(f"X{at} must have a row for each of the {len(one)} steps of y{at}, got {len(x)}")
        if one.shape[1] != ys[0].shape[1]:
            raise ValueError(f"y{at} must have {ys[0].shape[1]} columns as y[0], got {one.shape[1]}")
        if x.shape[1] != Xs[0].shape[1]:
            raise ValueError(f"X{at} must have {Xs[0].shape[1]} columns as X[0], got {x.shape[1]}")
    return [Series(one, x) for one, x in zip(ys, Xs, strict=True)]


def joined(known: Series, more: Series) -> Series:
    """One after the other."""
    return Series(np.concatenate([known.y, more.y]), np.concatenate([known.X, more.X]))


class View:
    """What a network is told at a step t, when y is known before an origin o.

    With seasons of s steps, the *base* of step t is the mean of y at t - s, t - 2s, ..., t - ms, all of them further
    seasons back where t - s >= o isn't known yet.  The network gives r_t = (y_t - base_t) / deviation; without seasons
    the base is 0 and r_t is y_t scaled.  It is told, in this order,

    - r_(t-1), or 0 if t - 1 >= o;
    - where ``flagged``, whether t - 1 < o;
    - with seasons, the base, scaled, and how far y was from it at t - s, ..., t - (m-1)s;
    - the columns of X at t, scaled; with seasons also by how much those that ever change from season to season
      differ from t at t - s, ..., t - ms.

    Parameters
    ----------
    series : list of Series
        What scales are taken from.
    season : int or None
        s.
    seasons : int
        m.
    flagged : bool
    """

    def __init__(self, series: Sequence[Series], season: int | None, seasons: int, flagged: bool) -> None:
        self.season, self.seasons, self.flagged = season, seasons, flagged
        self.level = Scale.of([s.y for s in series])
        self.columns = Scale.of([s.X for s in series])
        self.residual = self.level
        self.varying = np.zeros(0, np.int64)
        if season is not None:
            every = [np.arange(self.first, len(s)) for s in series]
            self.residual = Scale.of([s.y[at] - self.base(s, at, at) for s, at in zip(series, every, strict=True)])
            self.residual.mean[:] = 0  # no difference stays none
            changes = [np.any(s.X[season:] != s.X[:-season], 0) for s in series]
            self.varying = np.flatnonzero(np.any(changes, 0))

    @property
    def first(self) -> int:
        """The first step that has all it needs before it."""
        return 1 if self.season is None else self.seasons * self.season + 1

    def _past(self, at: Array, origin: Array) -> list[Array]:
        """The same place in the last seasons known."""
        if self.season is None:
            return []
        late = np.maximum(0, (at - origin) // self.season)
        return [at - (late + q) * self.season for q in range(1, self.seasons + 1)]

    def base(self, series: Series, at: Array, origin: Array) -> Array:
        """What differences are taken to, (..., k)."""
        past = self._past(at, origin)
        if not past:
            return np.zeros((*np.shape(at), series.y.shape[1]))
        return np.mean([series.y[places] for places in past], 0)

    def target(self, series: Series, at: Array, origin: Array) -> Array:
        """r, (..., k)."""
        return (series.y[at] - self.base(series, at, origin) - self.residual.mean) / self.residual.deviation

    def forecast(self, series: Series, at: Array, origin: Array, r: Array) -> Array:
        """y from r."""
        return self.residual.back(r) + self.base(series, at, origin)

    def inputs(self, series: Series, at: Array, origin: Array) -> Array:
        """What the network is told, (..., F); ``at`` and ``origin`` of one shape."""
        before = at - 1
        known = before < origin
        safe = np.where(known, before, origin - 1)
        told = [self.target(series, safe, safe) * known[..., None]]
        if self.flagged:
            told.append(known[..., None].astype(float))
        past = self._past(at, origin)
        if past:
            base = self.base(series, at, origin)
            told.append((base - self.level.mean) / self.level.deviation)
            told += [(series.y[places] - base) / self.residual.deviation for places in past[:-1]]
        x = self.columns.to(series.X, np.float64)
        told.append(x[at])
        if self.varying.size:
            told += [(x[places] - x[at])[..., self.varying] for places in past]
        return np.concatenate(told, -1)
