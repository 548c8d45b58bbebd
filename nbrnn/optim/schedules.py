"""Schedules of learning rates: each sets ``opt.lr`` when it is made and whenever its ``step`` is called.

Call ``step`` after each step of the optimiser, or after each epoch: what a schedule counts are its own calls.  All but
``Plateau`` are functions of the number t of calls so far and of the learning rate that the optimiser had when the
schedule was made; what ``opt.lr`` is set to meanwhile is forgotten.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import _check
from .base import Optimizer
from .schedule_base import Schedule


class Step(Schedule):
    """Times ``gamma`` every so many calls: lr = base gamma^(t // every), as torch's StepLR.

    Parameters
    ----------
    opt : Optimizer
    every : int
        >= 1.
    gamma : float
        >= 0.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong kind or out of range.

    Examples
    --------
    >>> import nbrnn
    >>> opt = nbrnn.optim.SGD(nbrnn.RNN(1, 2), lr=0.8)
    >>> schedule = nbrnn.optim.schedules.Step(opt, every=2, gamma=0.5)
    >>> for epoch in range(5):
    ...     print(schedule.lr)
    ...     schedule.step()
    0.8
    0.8
    0.4
    0.4
    0.2
    """

    _settings = ("every", "gamma")

    def __init__(self, opt: Optimizer, every: int, gamma: float = 0.1) -> None:
        super().__init__(opt)
        self.every, self.gamma = _check.size(every, "every"), _check.number(gamma, "gamma", 0)

    def _at(self, t: int) -> float:
        return self.base * self.gamma ** (t // self.every)


class Cosine(Schedule):
    """Half a cosine from the optimiser's learning rate to ``lr_min``.

    lr = lr_min + (base - lr_min) (1 + cos(pi t / total)) / 2; after ``total`` calls it goes up again, as torch's
    CosineAnnealingLR does.

    Parameters
    ----------
    opt : Optimizer
    total : int
        Calls until ``lr_min`` is reached, >= 1.
    lr_min : float
        >= 0.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong kind or out of range.

    References
    ----------
    I. Loshchilov and F. Hutter, "SGDR: stochastic gradient descent with warm restarts", arXiv:1608.03983, equation 5.
    """

    _settings = ("total", "lr_min")

    def __init__(self, opt: Optimizer, total: int, lr_min: float = 0.0) -> None:
        super().__init__(opt)
        self.total, self.lr_min = _check.size(total, "total"), _check.number(lr_min, "lr_min", 0)

    def _at(self, t: int) -> float:
        return _between(self.base, self.lr_min, t / self.total)


class WarmUp(Schedule):
    """From lr / steps up to lr in equal parts, and then another schedule.

    The first step of the optimiser is taken with base / steps, the one numbered ``steps`` with base: that is where
    ``then`` is at its own beginning.  From there on each call is one of ``then``, or changes nothing.

    Parameters
    ----------
    opt : Optimizer
    steps : int
        >= 1.
    then : Schedule, optional
        Of the same optimiser, and not begun.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong kind or out of range, or ``then`` is that of another optimiser.

    Examples
    --------
    >>> import nbrnn
    >>> from nbrnn.optim import schedules
    >>> opt = nbrnn.optim.Adam(nbrnn.RNN(1, 2), lr=0.8)
    >>> schedule = schedules.WarmUp(opt, 4, then=schedules.Step(opt, every=1, gamma=0.5))
    >>> for epoch in range(6):
    ...     print(round(schedule.lr, 6))
    ...     schedule.step()
    0.2
    0.4
    0.6
    0.8
    0.4
    0.2
    """

    _settings = ("steps",)
    _memory = ("t", "base", "then")

    def __init__(self, opt: Optimizer, steps: int, then: Schedule | None = None) -> None:
        super().__init__(opt)
        self.steps, self.then = _check.size(steps, "steps"), then
        if then is not None:
            if not isinstance(then, Schedule):
                raise TypeError(f"then must be a schedule or None, got {type(then).__name__}")
            if then.opt is not opt:
                raise ValueError("then must be a schedule of the same optimiser, got one of another")
            if then.t:
                raise ValueError(f"then must not have begun, got {then!r}")
        opt.lr = self._at(0)

    def _advance(self, metric: Any) -> None:
        if self.t + 1 < self.steps or self.then is None:
            super()._advance(metric)
        else:
            self.then.step(metric)

    def _at(self, t: int) -> float:
        return self.base * min(1.0, (t + 1) / self.steps)

    def _called(self) -> str:
        return super()._called()[:-1] + (f", then={self.then._called()})" if self.then else ")")

    def _loaded(self, state: Any) -> Any:
        fresh = super()._loaded(state)
        if self.then is not None:
            fresh.then = self.then._loaded(state["then"])
        elif state["then"] is not None:
            raise ValueError("state['then'] must be None for a WarmUp with nothing after it, got a state")
        return fresh

    def _adopt(self, loaded: Any) -> None:
        then = self.then
        if then is not None:
            then._adopt(loaded.then)
        super()._adopt(loaded)
        self.then = then  # the object that its maker knows


class OneCycle(Schedule):
    """Up to ``lr_max`` and down again to almost nothing, each way half a cosine, as torch's OneCycleLR.

    From lr_max / div_factor up while t <= u = pct_start total - 1, then down to lr_max / (div_factor final_div_factor)
    at t = total - 1, where it stays.  The optimiser's own learning rate doesn't matter, and momentum stays as it is
    (torch: ``cycle_momentum=False``).

    Parameters
    ----------
    opt : Optimizer
    lr_max : float
        >= 0.
    total : int
        Steps of the whole cycle, >= 1.
    pct_start : float
        Part of it in which the learning rate goes up, 0..1.
    div_factor, final_div_factor : float
        > 0.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong kind or out of range.

    References
    ----------
    L. Smith and N. Topin, "Super-convergence", arXiv:1708.07120.
    """

    _settings = ("lr_max", "total", "pct_start", "div_factor", "final_div_factor")

    def __init__(
        self,
        opt: Optimizer,
        lr_max: float,
        total: int,
        pct_start: float = 0.3,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
    ) -> None:
        super().__init__(opt)
        self.lr_max, self.total = _check.number(lr_max, "lr_max", 0), _check.size(total, "total")
        self.pct_start = _check.number(pct_start, "pct_start", 0, 1)
        self.div_factor = _check.number(div_factor, "div_factor", above=0)
        self.final_div_factor = _check.number(final_div_factor, "final_div_factor", above=0)
        opt.lr = self._at(0)

    def _at(self, t: int) -> float:
        first = self.lr_max / self.div_factor
        top, last = self.pct_start * self.total - 1, self.total - 1
        t = min(t, last)
        if t <= top and top > 0:
            return _between(first, self.lr_max, t / top)
        if top < last:
            return _between(self.lr_max, first / self.final_div_factor, (t - top) / (last - top))
        return self.lr_max


class Plateau(Schedule):
    """Times ``factor`` whenever a metric has stopped falling, as torch's ReduceLROnPlateau (with ``eps=0``).

    A metric is better if it is < (1 - threshold) best, or the first.  After more than ``patience`` calls in a row
    without a better one, lr = max(factor lr, lr_min), and the next ``cooldown`` calls don't count as such.  A metric
    that isn't finite is never better.

    Parameters
    ----------
    opt : Optimizer
    factor : float
        0..1.
    patience : int
        >= 0.
    threshold : float
        >= 0.
    cooldown : int
        >= 0.
    lr_min : float
        >= 0.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong kind or out of range.

    Examples
    --------
    >>> import nbrnn
    >>> opt = nbrnn.optim.SGD(nbrnn.RNN(1, 2), lr=0.8)
    >>> schedule = nbrnn.optim.schedules.Plateau(opt, factor=0.5, patience=1)
    >>> for loss in [3.0, 2.0, 2.0, 2.0, 1.0]:
    ...     schedule.step(loss)
    ...     print(schedule.lr)
    0.8
    0.8
    0.8
    0.4
    0.4
    """

    _settings = ("factor", "patience", "threshold", "cooldown", "lr_min")
    _memory = ("t", "base", "best", "bad", "cooling")

    def __init__(
        self,
        opt: Optimizer,
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        cooldown: int = 0,
        lr_min: float = 0.0,
    ) -> None:
        super().__init__(opt)
        self.factor = _check.number(factor, "factor", 0, 1)
        self.patience, self.cooldown = _check.size(patience, "patience", 0), _check.size(cooldown, "cooldown", 0)
        self.threshold, self.lr_min = _check.number(threshold, "threshold", 0), _check.number(lr_min, "lr_min", 0)
        self.best: float | None = None
        self.bad, self.cooling = 0, 0

    def _advance(self, metric: Any) -> None:
        finite = not isinstance(metric, float | np.floating) or math.isfinite(metric)
        value = _check.number(metric, "metric") if finite else math.nan
        better = finite and (self.best is None or value < (1 - self.threshold) * self.best)
        self.best = value if better else self.best
        self.bad = 0 if better or self.cooling else self.bad + 1
        self.cooling = max(0, self.cooling - 1)
        if self.bad > self.patience:
            self.opt.lr = max(self.factor * self.opt.lr, min(self.lr_min, self.opt.lr))
            self.bad, self.cooling = 0, self.cooldown

    def _loaded(self, state: Any) -> Any:
        fresh = super()._loaded(state)
        fresh.best = None if state["best"] is None else _check.number(state["best"], "state['best']")
        fresh.bad = _check.size(state["bad"], "state['bad']", 0)
        fresh.cooling = _check.size(state["cooling"], "state['cooling']", 0)
        return fresh


def _between(start: float, end: float, part: float) -> float:
    """From start (part 0) to end (part 1) along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * part)) / 2
