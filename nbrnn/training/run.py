"""A network in training: its epochs, batches and steps, and where it stands."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._cuda.array import DeviceArray
from ..module import Module, Seed, generator
from ..optim import clip_grad_norm, clip_grad_value
from .data import Batch, Plan, Source, stretches
from .devices import largest, moved, on_host, read, there
from .evaluate import Loss, Metric, apply, measure, over
from .history import History, NotFiniteError
from .parts import generators

Array = NDArray[Any]

#: Seconds between two looks at an epoch that goes on.
SHOWN = 0.5


@dataclasses.dataclass
class Sums:
    """Of the epoch so far."""

    loss: float = 0.0
    metric: float = 0.0
    weight: float = 0.0
    norm: float = 0.0
    sequences: int = 0


@dataclasses.dataclass
class Position:
    """Where a run stands: all that is to be kept of it besides parameters, optimiser, schedule and generators.

    Attributes
    ----------
    epoch, step, batch, stretch : int
        What comes next: the epoch, the step of the optimiser in it, the batch in its plan, the stretch of that.
    plan : list of ndarray
        What the epoch goes through.
    state
        That the next stretch of the batch begins with.
    best, best_epoch, best_flat
        Lowest validation loss, when that was, and the parameters then.
    stopped : bool
        Whether the run is over before its last epoch.
    """

    epoch: int = 0
    step: int = 0
    batch: int = 0
    stretch: int = 0
    plan: Plan | None = None
    state: Any = None
    sums: Sums = dataclasses.field(default_factory=Sums)
    history: History = dataclasses.field(default_factory=History)
    best: float = math.inf
    best_epoch: int | None = None
    best_flat: Array | None = None
    stopped: bool = False


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to train: the arguments of ``fit`` of these names."""

    batch_size: int
    bptt: int | None
    clip_norm: float
    clip_value: float
    patience: int | None
    min_delta: float
    restore_best: bool
    shuffle: bool


class Run:
    """A network in training."""

    def __init__(
        self,
        net: Module,
        data: Source,
        loss: Loss,
        optimizer: Any,
        settings: Settings,
        held_out: Sequence[Batch],
        metric: Metric | None,
        schedule: tuple[Any, str],
        rng: Seed,
    ) -> None:
        self.net, self.data, self.loss, self.optimizer, self.settings = net, data, loss, optimizer, settings
        self.held_out, self.metric = held_out, metric
        self.schedule, self.when = schedule
        #: For dropout; None: each part's own.
        self.random = None if rng is None else generator(rng)
        self.order = np.random.default_rng() if self.random is None else self.random
        self.at = Position()
        self._before: Any = None if net.device != "cpu" else np.empty_like(net.flat)

    def epoch(self, saved: Callable[[], None], show: Callable[[str], None]) -> str:
        """Go through what is left of the epoch, and what follows it; a line about it.

        ``saved`` is called after each step, ``show`` now and then with what there is to say.
        """
        at, begun = self.at, time.perf_counter()
        shown, counted = begun, at.sums.sequences

        def speed() -> float:
            return (at.sums.sequences - counted) / max(1e-9, time.perf_counter() - begun)

        if at.plan is None:
            at.plan = self.data.plan(self.order if self.settings.shuffle else None)
        while at.batch < len(at.plan):
            batch = self.data.batch(at.plan[at.batch])
            parts = stretches(self.net, batch, self.settings.bptt)
            for part in itertools.islice(parts, at.stretch, None):
                self._step(part)
                at.stretch += 1
                at.step += 1
                saved()
            at.sums.sequences += batch.size
            at.batch, at.stretch, at.state = at.batch + 1, 0, None
            if time.perf_counter() - shown > SHOWN:
                loss, shown = at.sums.loss / (at.sums.weight or 1.0), time.perf_counter()
                show(f"{at.batch}/{len(at.plan)} batches, loss {loss:.4g}, {speed():.4g} sequences/s")
        rate = speed()
        self._finish_epoch()
        said = f"loss {at.history.loss[-1]:.4g}"
        if at.history.validation:
            said += f", held out {at.history.validation[-1]:.4g}"
        return f"{said}, gradient {at.history.norm[-1]:.3g}, {rate:.4g} sequences/s"

    def _step(self, part: Batch) -> None:
        """One step of the optimiser; if anything isn't finite, an error, and the parameters as they were."""
        net, at, settings = self.net, self.at, self.settings
        if net.device != "cpu":
            self._step_there(part)
            return
        if settings.bptt is None:
            y, _, tape = net.forward(part.x, lengths=part.lengths, rng=self.random)
        else:
            y, at.state, tape = net.forward(part.x, state=at.state, lengths=part.lengths, rng=self.random)
        value, dy = apply(self.loss, net, y, part)
        value = float(value)
        if not math.isfinite(value):
            raise self._not_finite(f"the loss is {value}", "a smaller lr or clip_norm may help")
        grads = net.backward(tape, dy)
        norm = clip_grad_norm(grads, settings.clip_norm)
        if not math.isfinite(norm):
            raise self._not_finite(f"the gradients have norm {norm}", "a smaller lr may help")
        if settings.clip_value < math.inf:
            clip_grad_value(grads, settings.clip_value)
        self._before[:] = net.flat
        self.optimizer.step(grads)
        if not np.isfinite(net.flat).all():
            net.flat = self._before
            raise self._not_finite("the parameters are not finite after a step", "a smaller lr may help")
        self._note_step(part, y, value, norm)

    def _step_there(self, part: Batch) -> None:
        """The same on a device, which is asked once: for the loss, the norm, and whether all parameters are finite."""
        net, at, settings = self.net, self.at, self.settings
        here = moved(part, net)
        if settings.bptt is None:
            y, _, tape = net.forward(here.x, lengths=part.lengths, rng=self.random)
        else:
            y, at.state, tape = net.forward(here.x, state=at.state, lengths=part.lengths, rng=self.random)
        loss, dy = apply(self.loss, net, y, here)
        grads = net.backward(tape, dy)
        measured = clip_grad_norm(grads, settings.clip_norm)
        if settings.clip_value < math.inf:
            clip_grad_value(grads, settings.clip_value)
        before = _there(net).copy()
        self.optimizer.step(grads)
        value, norm, finite = read(loss, measured, largest(_there(net)))
        for number, what, remedy in (
            (value, f"the loss is {value}", "a smaller lr or clip_norm may help"),
            (norm, f"the gradients have norm {norm}", "a smaller lr may help"),
            (finite, "the parameters are not finite after a step", "a smaller lr may help"),
        ):
            if not math.isfinite(number):
                net.flat = before
                raise self._not_finite(what, remedy)
        self._note_step(part, y, value, norm)

    def _note_step(self, part: Batch, y: Any, value: float, norm: float) -> None:
        at = self.at
        if self.schedule is not None and self.when == "batch":
            self.schedule.step()
        weight = part.size * part.share
        at.sums.loss += value * weight
        at.sums.weight += weight
        at.sums.norm = max(at.sums.norm, norm)
        if self.metric is not None and not self.held_out:
            at.sums.metric += measure(self.metric, self.net, y, part) * weight

    def _not_finite(self, what: str, remedy: str) -> NotFiniteError:
        at = self.at
        indices = at.plan[at.batch] if at.plan is not None else np.zeros(0, np.int64)
        shown = ", ".join(map(str, indices[:8])) + ", ..." * (len(indices) > 8)
        message = f"{what} in epoch {at.epoch}, step {at.step}, batch {at.batch} (data {shown}): {remedy}"
        return NotFiniteError(message, at.epoch, at.step, at.batch, indices)

    def _finish_epoch(self) -> None:
        """Validation, history, early stopping, schedule; then the next epoch is ahead."""
        at, history, sums = self.at, self.at.history, self.at.sums
        weight = sums.weight or 1.0
        history.loss.append(sums.loss / weight)
        history.norm.append(sums.norm)
        metric = sums.metric / weight
        if self.held_out:
            scores = over(self.net, self.held_out, self.loss, self.metric)
            history.validation.append(scores.loss)
            metric = 0.0 if scores.metric is None else scores.metric
            self._note_best(scores.loss)
        if self.metric is not None:
            history.metric.append(metric)
        if hasattr(self.optimizer, "lr"):
            history.lr.append(float(self.optimizer.lr))
        if self.schedule is not None and self.when == "epoch":
            self.schedule.step(history.validation[-1] if self.held_out else history.loss[-1])
        at.epoch, at.step, at.batch, at.plan, at.sums = at.epoch + 1, 0, 0, None, Sums()

    def _note_best(self, value: float) -> None:
        at, settings = self.at, self.settings
        if value < at.best - settings.min_delta:
            at.best, at.best_epoch = value, at.epoch
            if settings.restore_best:
                at.best_flat = self.net.params.numpy()
        since = at.epoch - (-1 if at.best_epoch is None else at.best_epoch)
        at.stopped = settings.patience is not None and since >= settings.patience

    def put_best_back(self) -> None:
        """The parameters of the epoch with the lowest validation loss, if so wanted and there is one."""
        if self.at.best_flat is not None:
            self.net.flat = self.at.best_flat
            self.at.history.best = self.at.best_epoch

    # What a checkpoint holds

    def snapshot(self) -> dict[str, Any]:
        """All that the rest of the run follows from."""
        schedule = {} if self.schedule is None else {"schedule": self.schedule.state_dict()}
        at = fields(self.at) | {"sums": fields(self.at.sums), "history": fields(self.at.history)}
        at["state"] = on_host(self.at.state)
        if self.at.plan is not None:  # one array rather than one for each batch
            at["plan"] = np.concatenate(self.at.plan), [len(indices) for indices in self.at.plan]
        return {
            "flat": self.net.params.numpy(),
            "optimizer": self.optimizer.state_dict(),
            **schedule,
            "generators": {path: random.bit_generator.state for path, random in self._generators().items()},
            "at": at,
        }

    def restore(self, kept: Mapping[str, Any]) -> None:
        """Stand where a snapshot was taken."""
        self.optimizer.load_state_dict(kept["optimizer"])
        if self.schedule is not None:
            self.schedule.load_state_dict(kept["schedule"])
        for path, random in self._generators().items():
            random.bit_generator.state = kept["generators"][path]
        self.net.flat = kept["flat"]
        at = dict(kept["at"])
        if at["plan"] is not None:
            order, sizes = at["plan"]
            at["plan"] = np.split(order, np.cumsum(sizes)[:-1])
        at["sums"], at["history"] = Sums(**at["sums"]), History(**at["history"])
        self.at = Position(**at)
        self.at.state = there(self.at.state, self.net)

    def _generators(self) -> dict[str, np.random.Generator]:
        return {"order": self.order, **generators(self.net)}


def _there(net: Module) -> DeviceArray:
    """The parameters of a network on a device."""
    flat: Any = net.flat
    return flat


def fields(thing: Any) -> dict[str, Any]:
    """Of a dataclass, by name."""
    return {field.name: getattr(thing, field.name) for field in dataclasses.fields(thing)}
