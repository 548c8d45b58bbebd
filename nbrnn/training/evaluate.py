"""A loss and a metric on data, without training."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _check
from .._cuda.array import DeviceArray
from ..module import Module
from .data import Batch, Sequences, Source, source
from .devices import moved, on_host

Array = NDArray[Any]
Loss = Callable[..., tuple[float, Array]]
Metric = Callable[[Array, Any, Any], float]


class Scores(NamedTuple):
    """Means over batches, weighted by their numbers of sequences.

    Attributes
    ----------
    loss : float
    metric : float or None
        None if none was asked for.
    """

    loss: float
    metric: float | None


def evaluate(net: Module, data: Any, loss: Loss, *, metric: Metric | None = None, batch_size: int = 32) -> Scores:
    """A loss, and a metric, on data; without dropout.

    Data are on the host, also where the network is on a GPU.

    Parameters
    ----------
    net : Module
    data, loss, metric
        As for ``fit``.
    batch_size : int
        Sequences that are put together, where data is a list of sequences.

    Returns
    -------
    Scores
        ``loss`` and ``metric``: means over the batches, weighted by their numbers of sequences.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong kind.

    Examples
    --------
    >>> import numpy as np, nbrnn
    >>> net = nbrnn.GRU(3, 2, rng=0)
    >>> xs = [np.ones((length, 3), np.float32) for length in (4, 7)]
    >>> targets = [np.zeros((length, 2)) for length in (4, 7)]
    >>> largest = lambda y, target, lengths: abs(y).max()
    >>> scores = nbrnn.training.evaluate(net, (xs, targets), nbrnn.losses.mse, metric=largest)
    >>> 0 < scores.loss < scores.metric < 1
    True
    """
    check_callables(net, loss, metric)
    given = source(net, data, "data", _check.size(batch_size, "batch_size"))
    return over(net, batches(given), loss, metric)


def check_callables(net: Any, loss: Any, metric: Any) -> None:
    """Raise unless they are what their names say."""
    if not isinstance(net, Module):
        raise TypeError(f"net must be a layer or a network, got {type(net).__name__}")
    if not callable(loss):
        raise TypeError(f"loss must be callable, got {type(loss).__name__}")
    if metric is not None and not callable(metric):
        raise TypeError(f"metric must be callable or None, got {type(metric).__name__}")


def batches(given: Source) -> Iterable[Batch]:
    """All batches, with as little padding as there can be."""
    plan = given.by_length() if isinstance(given, Sequences) else given.plan(None)
    return map(given.batch, plan)


def over(net: Module, given: Iterable[Batch], loss: Loss, metric: Metric | None) -> Scores:
    """The scores over batches."""
    total, measured, weight = 0.0, 0.0, 0
    for batch in given:
        here = moved(batch, net)
        y, _ = net(here.x, lengths=batch.lengths)
        total += float(apply(loss, net, y, here)[0]) * batch.size
        if metric is not None:
            measured += measure(metric, net, y, batch) * batch.size
        weight += batch.size
    weight = max(1, weight)
    return Scores(total / weight, None if metric is None else measured / weight)


def apply(loss: Loss, net: Module, y: Any, batch: Batch) -> tuple[Any, Any]:
    """The loss, a number on the network's device, and dy; where there are lengths, a loss sees the steps first."""
    lengths = _after(net, batch)
    turned = lengths is not None and bool(net.batch_first)
    seen, target = _steps_first(y, batch.target) if turned else (y, batch.target)
    value, dy = loss(seen, target) if lengths is None else loss(seen, target, lengths)
    return value, dy.swapaxes(0, 1) if turned else dy


def measure(metric: Metric, net: Module, y: Any, batch: Batch) -> float:
    """The metric, which sees what the loss sees, on the host."""
    lengths, y = _after(net, batch), on_host(y)
    if lengths is None or not net.batch_first:
        return float(metric(y, batch.target, lengths))
    return float(metric(*_steps_first(y, batch.target), lengths))


def _after(net: Module, batch: Batch) -> Any:
    """Lengths of y; None where it has no axis of time, or all of it counts."""
    return None if batch.lengths is None else net._lengths_after(batch.lengths)


def _steps_first(y: Any, target: Any) -> tuple[Any, Any]:
    """Views of (T, B, ...); labels as a list stay as they are."""
    if isinstance(target, list):
        return y.swapaxes(0, 1), target
    return y.swapaxes(0, 1), (target if isinstance(target, DeviceArray) else np.asarray(target)).swapaxes(0, 1)
