"""A small training loop."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _check
from ._progress import Progress
from .module import Module, Seed, generator
from .optim import bound, clip_grad_norm

Array = NDArray[Any]

#: x and target, or those and lengths.
Piece = tuple[Array, Array] | tuple[Array, Array, Any]
Data = Piece | Sequence[Piece]
Loss = Callable[..., tuple[float, Array]]


@dataclasses.dataclass
class History:
    """What happened in training, an entry for each epoch.

    Attributes
    ----------
    loss : list of float
        Mean over the epoch's batches, weighted by their numbers of sequences.
    validation : list of float
        Loss on the validation data after the epoch; empty without any.
    norm : list of float
        Largest norm of the gradients of the parameters in the epoch, before clipping.
    seconds : list of float
        Time since the beginning.
    """

    loss: list[float] = dataclasses.field(default_factory=list)
    validation: list[float] = dataclasses.field(default_factory=list)
    norm: list[float] = dataclasses.field(default_factory=list)
    seconds: list[float] = dataclasses.field(default_factory=list)


def fit(
    net: Module,
    data: Data,
    loss: Loss,
    optimizer: Any,
    epochs: int,
    *,
    clip_norm: float = math.inf,
    validation: Data | None = None,
    shuffle: bool = True,
    progress: bool = True,
    rng: Seed = None,
    callback: Callable[[int, History], Any] | None = None,
) -> History:
    """Train a network.

    Parameters
    ----------
    net : Module
        A layer or a network.
    data : tuple (x, target) or (x, target, lengths), or a sequence of such tuples
        One batch, or several; each makes one step of the optimiser.
    loss : callable
        As those of ``nbrnn.losses``: ``loss, dy = loss(y, target)``; where there are lengths
        ``loss, dy = loss(y, target, lengths)``, which then is given y and target as (T, B, ...) even if the network's
        axes are (B, T, ...).
    optimizer : object with ``step(grads)``
    epochs : int
        Times all data is gone through, >= 1.
    clip_norm : float
        > 0; bound for the norm of the gradients of the parameters (``optim.clip_grad_norm``).
    validation : as data, optional
        What the loss is computed on after each epoch, without dropout.
    shuffle : bool
        Whether the batches are gone through in another order in each epoch.
    progress : bool
        Whether a progress bar is shown, on stderr.
    rng : numpy.random.Generator, seed or None
        For the order of the batches, and for dropout.
    callback : callable, optional
        Called after each epoch with its number, from 0, and the history; training ends early where it returns True.

    Returns
    -------
    History

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong kind.
    FloatingPointError
        The loss or its gradients are no longer finite; the parameters are those of the last step before.

    Examples
    --------
    >>> import numpy as np, nbrnn
    >>> t = np.arange(200) * 0.3
    >>> wave = np.sin(t).astype(np.float32)[:, None, None]
    >>> net = nbrnn.Sequential(nbrnn.GRU(1, 8, rng=0), nbrnn.Linear(8, 1, rng=1))
    >>> opt = nbrnn.optim.Adam(net, lr=0.03)
    >>> history = nbrnn.fit(net, (wave[:-1], wave[1:]), nbrnn.losses.mse, opt, epochs=60, progress=False)
    >>> bool(history.loss[-1] < 0.05 * history.loss[0])
    True
    """
    if not isinstance(net, Module):
        raise TypeError(f"net must be a layer or a network, got {type(net).__name__}")
    batches, held_out = _pieces(data, "data"), [] if validation is None else _pieces(validation, "validation")
    epochs, shuffle = _check.size(epochs, "epochs"), _check.flag(shuffle, "shuffle")
    progress = _check.flag(progress, "progress")
    if not callable(loss):
        raise TypeError(f"loss must be callable, got {type(loss).__name__}")
    if not hasattr(optimizer, "step"):
        raise TypeError(f"optimizer must have a method step, got {type(optimizer).__name__}")
    clip_norm = bound(clip_norm, "clip_norm")
    random = None if rng is None else generator(rng)
    order = random or np.random.default_rng()
    history, begun = History(), time.perf_counter()
    axis = 0 if net.batch_first else 1
    with Progress(epochs, "training", progress) as bar:
        for epoch in range(epochs):
            total, weight, norms = 0.0, 0, []
            for q in order.permutation(len(batches)) if shuffle else range(len(batches)):
                x, target, lengths = batches[q]
                y, _, tape = net.forward(x, lengths=lengths, rng=random)
                value, dy = _loss(loss, net, y, target, lengths)
                if not np.isfinite(value):
                    raise FloatingPointError(
                        f"the loss is {value} in epoch {epoch}: a smaller lr or clip_norm may help"
                    )
                grads = net.backward(tape, dy)
                norm = clip_grad_norm(grads, clip_norm)
                if not np.isfinite(norm):
                    raise FloatingPointError(f"the gradients have norm {norm} in epoch {epoch}: a smaller lr may help")
                norms.append(norm)
                optimizer.step(grads)
                sequences = x.shape[axis] if x.ndim == 3 else 1
                total, weight = total + value * sequences, weight + sequences
            history.loss.append(total / max(1, weight))
            history.norm.append(max(norms))
            if held_out:
                history.validation.append(_evaluate(net, held_out, loss, axis))
            history.seconds.append(time.perf_counter() - begun)
            bar.step(f"loss {history.loss[-1]:.4g}" + (f", held out {history.validation[-1]:.4g}" if held_out else ""))
            if callback is not None and callback(epoch, history):
                break
    return history


def _pieces(data: Any, name: str) -> list[tuple[Array, Array, Any]]:
    """A list of (x, target, lengths)."""
    if not hasattr(data, "__iter__"):
        raise TypeError(f"{name} must be (x, target) or a sequence of such tuples, got {type(data).__name__}")
    one = isinstance(data, tuple) and len(data) > 0 and isinstance(data[0], np.ndarray)
    pieces = [data] if one else list(data)
    for piece in pieces:
        if not isinstance(piece, tuple | list) or len(piece) not in (2, 3):
            raise TypeError(f"{name} must be (x, target) or (x, target, lengths), or a sequence of such tuples")
    if not pieces:
        raise ValueError(f"{name} must hold at least one batch, got none")
    return [(p[0], p[1], p[2] if len(p) == 3 else None) for p in pieces]


def _loss(loss: Loss, net: Module, y: Array, target: Array, lengths: Any) -> tuple[float, Array]:
    """The loss and dy; where there are lengths, a loss sees the steps first."""
    if lengths is None:
        return loss(y, target)
    if not net.batch_first:
        return loss(y, target, lengths)
    value, dy = loss(y.swapaxes(0, 1), np.asarray(target).swapaxes(0, 1), lengths)
    return value, dy.swapaxes(0, 1)


def _evaluate(net: Any, pieces: list[tuple[Array, Array, Any]], loss: Loss, axis: int) -> float:
    total, weight = 0.0, 0
    for x, target, lengths in pieces:
        y, _ = net(x, lengths=lengths)
        sequences = x.shape[axis] if x.ndim == 3 else 1
        total += _loss(loss, net, y, target, lengths)[0] * sequences
        weight += sequences
    return total / max(1, weight)
