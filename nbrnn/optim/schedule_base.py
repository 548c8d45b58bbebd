"""What all schedules share: an optimiser, a count of calls, states."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

from .. import _check
from .base import Optimizer


class Schedule:
    """What all schedules can do.

    Parameters
    ----------
    opt : Optimizer
        Whose ``lr`` is set.
    """

    #: Names of the constructor's arguments after opt.
    _settings: ClassVar[tuple[str, ...]] = ()
    #: What else changes from call to call, or is remembered from the beginning.
    _memory: ClassVar[tuple[str, ...]] = ("t", "base")

    def __init__(self, opt: Optimizer) -> None:
        if not isinstance(opt, Optimizer):
            raise TypeError(f"opt must be an optimiser of nbrnn.optim, got {type(opt).__name__}")
        self.opt, self.t, self.base = opt, 0, opt.lr

    @property
    def lr(self) -> float:
        """The optimiser's learning rate as it is now."""
        return self.opt.lr

    def step(self, metric: float | None = None) -> None:
        """Go on to the next learning rate.

        Parameters
        ----------
        metric : float, optional
            What ``Plateau`` goes by, as the loss on validation data; the others take no notice of it.

        Raises
        ------
        TypeError
            There is no metric, and it is needed.
        """
        self._advance(metric)
        self.t += 1

    def _advance(self, metric: Any) -> None:
        """What a call does, before it is counted."""
        self.opt.lr = self._at(self.t + 1)

    def _at(self, t: int) -> float:
        """The learning rate after t calls."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Everything to go on from, to the bit.

        Returns
        -------
        dict
            Of strings, integers, floats, None and, for a schedule inside another, such dictionaries.
        """
        entries = {name: getattr(self, name) for name in (*self._settings, *self._memory)}
        entries = {name: v.state_dict() if isinstance(v, Schedule) else v for name, v in entries.items()}
        return {"kind": type(self).__name__, "lr": self.lr, **entries}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` gave: settings, place and learning rate.

        Parameters
        ----------
        state : dict

        Raises
        ------
        TypeError, ValueError
            An entry is missing or of the wrong kind, or the state is that of another kind of schedule; nothing has
            changed then.
        """
        lr = self.lr
        try:
            self._adopt(self._loaded(state))
            self.opt.lr = state["lr"]
        except BaseException:
            self.opt.lr = lr
            raise

    def _loaded(self, state: Any) -> Any:
        """A schedule like this one, of the same optimiser, in that state."""
        kind = type(self).__name__
        if not isinstance(state, dict):
            raise TypeError(f"state must be what state_dict() of {kind} gave, got {type(state).__name__}")
        missing = {"kind", "lr", *self._settings, *self._memory} - set(state)
        if missing:
            raise ValueError(f"state must have the entries of state_dict(), {', '.join(sorted(missing))} missing")
        if state["kind"] != kind:
            raise ValueError(f"state must be that of {kind}, got that of {state['kind']}")
        _check.number(state["lr"], "state['lr']", 0)
        fresh = type(self)(self.opt, **{name: state[name] for name in self._settings})
        fresh.t = _check.size(state["t"], "state['t']", 0)
        fresh.base = _check.number(state["base"], "state['base']", 0)
        return fresh

    def _adopt(self, loaded: Schedule) -> None:
        vars(self).update(vars(loaded))

    def __copy__(self) -> Any:
        """As deepcopy, with an optimiser of its own: two schedules of one optimiser would be at odds."""
        return copy.deepcopy(self)

    def _called(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self._settings)})"

    def __repr__(self) -> str:
        return f"<{self._called()} after {self.t:,} call{'s' * (self.t != 1)}: lr {self.lr:g}>"
