"""``fit``: what it takes, and what happens after each epoch."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import _check
from .._progress import Progress
from ..module import Module, Seed
from ..optim import bound
from . import checkpoints
from .data import Sequences, Source, check_stretches, source
from .evaluate import Loss, Metric, batches, check_callables
from .history import History
from .parts import check_one_way
from .run import Run, Settings, fields

Callback = Callable[[int, History], Any]


def fit(
    net: Module,
    data: Any,
    loss: Loss,
    optimizer: Any,
    epochs: int,
    *,
    batch_size: int = 32,
    bptt: int | None = None,
    clip_norm: float = math.inf,
    clip_value: float = math.inf,
    schedule: Any = None,
    validation: Any = None,
    metric: Metric | None = None,
    patience: int | None = None,
    min_delta: float = 0.0,
    restore_best: bool | None = None,
    shuffle: bool = True,
    progress: bool = True,
    rng: Seed = None,
    callback: Callback | Sequence[Callback] | None = None,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
) -> History:
    """Train a network.

    Where the network is on a GPU (``net.to("cuda")``), data, validation and checkpoints stay on the host as they are:
    each batch is put there when its turn comes, the rest of a step runs there, and the GPU is waited for once a step,
    for the loss and whether all is finite.  So a step that fails has been made before that is seen: the parameters are
    put back, but not what the optimiser carries.

    Parameters
    ----------
    net : Module
        A layer or a network.
    data : (x, target) or (x, target, lengths), a sequence of such tuples, or (xs, targets)
        One batch, or several; each makes one step of the optimiser.  x is what the network takes: an array, or a tuple
        for a network that takes several.
        Or sequences of any lengths: ``xs`` is a *list* of arrays (T_i, ...), or for a network that takes several inputs
        a tuple of such lists; ``targets`` a list or an array with an entry for each.  Where the network pools over
        time an entry is a label or an array of one shape; else an array (T_i, ...), or, for CTC, a vector of labels of
        any length (the loss is given a list of those).  They are put together anew in each epoch, shuffled, so that
        sequences of like lengths stand together, and padded with zeros.
    loss : callable
        As those of ``nbrnn.losses``: ``loss, dy = loss(y, target)``; where there are lengths, and y has an axis of
        time, ``loss, dy = loss(y, target, lengths)`` with the lengths of y, which then is given y and target as
        (T, B, ...) even if the network's axes are (B, T, ...).  On a GPU y, target and dy are arrays there, targets
        that aren't integers in the network's dtype; the loss may be a number there or a float.
    optimizer : object with ``step(grads)``
        As those of ``nbrnn.optim``.
    epochs : int
        Times all data is gone through, >= 1; a resumed run's count from its very beginning.
    batch_size : int
        Sequences that are put together, where data is a list of sequences.
    bptt : int, optional
        Truncated backpropagation through time: each batch is gone through in stretches of so many steps.  Each makes a
        step of the optimiser, and hands its final state to the next, but no gradient crosses.  None: no cuts.
    clip_norm : float
        > 0; bound for the norm of the gradients of the parameters (``optim.clip_grad_norm``).
    clip_value : float
        > 0; bound for the absolute value of each of them, after that.
    schedule : object with ``step(metric)``, or pair of it and "epoch" or "batch", optional
        As those of ``nbrnn.optim.schedules``.  Its ``step`` is called after each epoch, with the loss on the validation
        data or else in training; with "batch" after each step of the optimiser, without arguments.
    validation : as data, optional
        What the loss is computed on after each epoch, without dropout.
    metric : callable, optional
        A number ``metric(y, target, lengths)`` for the history, from what the loss is given (lengths may be None): on
        the validation data, or without any on the outputs in training.  Mean over batches as that of the loss.  It is
        given arrays of NumPy's, also where the network is on a GPU: that costs a copy of each y.
    patience : int, optional
        Training ends when the loss on the validation data hasn't become lower than ever for so many epochs.
    min_delta : float
        >= 0; by how much it must be lower, to count.
    restore_best : bool, optional
        Whether the parameters of the epoch with the lowest such loss are put back at the end; None: if ``patience`` is
        given.
    shuffle : bool
        Whether the batches are gone through in another order in each epoch; sequences are put together as they stand
        if not.
    progress : bool
        Whether a progress bar is shown, on stderr.
    rng : numpy.random.Generator, seed or None
        For the order of the batches, and for dropout.  None: a fresh one for the order, and each part's own for
        dropout.  One seed gives the same bits in every run, for any number of threads.
    callback : callable, or sequence of them, optional
        Called after each epoch with its number, from 0, and the history; training ends early where one returns True.
    checkpoint_dir : path, optional
        A folder for checkpoints of this run, one at the beginning and after each epoch; the last two are kept.  If it
        holds some, the run goes on where the last was taken, and comes to the same bits as if it had never been
        interrupted.  A run that had come to its end goes on if there are more epochs now.
    checkpoint_every : int, optional
        Write one after every so many steps of the optimiser within an epoch, too.

    Returns
    -------
    History

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong kind, or ``checkpoint_dir`` holds another run (the message says what differs), or
        checkpoints none of which can be read.
    NotFiniteError
        A FloatingPointError: the loss, its gradients or the parameters are no longer finite.  The parameters are those
        of the last step before.

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
    check_callables(net, loss, metric)
    epochs, batch_size = _check.size(epochs, "epochs"), _check.size(batch_size, "batch_size")
    progress = _check.flag(progress, "progress")
    given = source(net, data, "data", batch_size)
    held = None if validation is None else source(net, validation, "validation", batch_size)
    settings = Settings(
        batch_size=batch_size,
        bptt=None if bptt is None else _check.size(bptt, "bptt"),
        clip_norm=bound(clip_norm, "clip_norm"),
        clip_value=bound(clip_value, "clip_value"),
        patience=None if patience is None else _check.size(patience, "patience"),
        min_delta=_check.number(min_delta, "min_delta", 0),
        restore_best=patience is not None if restore_best is None else _check.flag(restore_best, "restore_best"),
        shuffle=_check.flag(shuffle, "shuffle"),
    )
    if held is None and (patience is not None or settings.restore_best):
        raise ValueError(f"validation must be given for {'restore_best' if patience is None else 'patience'}, got None")
    if settings.bptt is not None:
        _check_bptt(net, given)
    stepped = _schedule(schedule)
    _check_optimizer(net, optimizer, stepped[0], checkpoint_dir is not None)
    callbacks = _callbacks(callback)
    every = None if checkpoint_every is None else _check.size(checkpoint_every, "checkpoint_every")
    if every is not None and checkpoint_dir is None:
        raise ValueError(f"checkpoint_every must be None without checkpoint_dir, got {every}")
    folder = None if checkpoint_dir is None else checkpoints.Folder(checkpoint_dir)
    held_out = [] if held is None else list(batches(held))
    run = Run(net, given, loss, optimizer, settings, held_out, metric, stepped, rng)
    keep = _Keeper(run, folder, {} if folder is None else _identity(run, held, rng), every)
    keep.resume()

    at, history = run.at, run.at.history
    begun = time.perf_counter() - (history.seconds[-1] if history.seconds else 0)
    with Progress(epochs, "training", progress) as bar:
        bar.skip(min(at.epoch, epochs))
        while at.epoch < epochs and not at.stopped:
            epoch = at.epoch
            said = run.epoch(keep.after_step, bar.say)
            history.seconds.append(time.perf_counter() - begun)
            bar.step(said)
            # All are called, whatever the first of them says.
            ends = [bool(function(epoch, history)) for function in callbacks]
            at.stopped = at.stopped or any(ends)
            keep.write()
    run.put_best_back()
    return history


class _Keeper:
    """Writes checkpoints of a run, if there is a folder for them."""

    def __init__(
        self, run: Run, folder: checkpoints.Folder | None, identity: dict[str, Any], every: int | None
    ) -> None:
        self.run, self.folder, self.identity, self.every = run, folder, identity, every

    def resume(self) -> None:
        """Go on where the folder's run stands; if there is none, begin one."""
        if self.folder is None:
            return
        kept = self.folder.read()
        if kept is None:
            self.write()
            return
        if "run" not in kept:
            raise ValueError(
                f"checkpoint_dir must hold checkpoints of fit, got other files of that name in {self.folder.path}"
            )
        different = list(checkpoints.differences(kept["run"], self.identity))
        if different:
            raise ValueError(f"checkpoint_dir must not hold another run's checkpoints: {'; '.join(different)}")
        self.run.restore(kept)

    def after_step(self) -> None:
        """Write one if it is time."""
        if self.every is not None and self.run.at.step % self.every == 0:
            self.write()

    def write(self) -> None:
        """Write one."""
        if self.folder is not None:
            self.folder.write({"run": self.identity, **self.run.snapshot()})


def _identity(run: Run, held: Source | None, rng: Seed) -> dict[str, Any]:
    """What makes this run this one; the number of epochs is not among it."""
    net, optimizer, schedule = run.net, checkpoints.settings_of(run.optimizer), None
    if run.schedule is not None:
        optimizer.pop("lr", None)  # it moves; where it began is what the schedule remembers
        schedule = {"stepped": run.when, **checkpoints.settings_of(run.schedule, run.optimizer)}
    seed: Any = rng
    if isinstance(rng, np.random.Generator):
        seed = type(rng.bit_generator).__name__
    elif isinstance(rng, np.random.SeedSequence):
        seed = [rng.entropy, list(rng.spawn_key)]
    return {
        "format": checkpoints.FORMAT,
        "network": checkpoints.plain(net),
        "parameters": {name: [*shape, net.params.dtype.name] for name, shape in net.params.shapes.items()},
        "optimizer": optimizer,
        "schedule": schedule,
        "data": checkpoints.digest(run.data.contents()),
        "validation": None if held is None else checkpoints.digest(held.contents()),
        "loss": checkpoints.name_of(run.loss),
        "metric": checkpoints.name_of(run.metric),
        "rng": seed,
        **fields(run.settings),
    }


def _schedule(schedule: Any) -> tuple[Any, str]:
    """A schedule, and when it is stepped."""
    pair = schedule if isinstance(schedule, tuple | list) else (schedule, "epoch")
    if len(pair) != 2:
        raise ValueError(f'schedule must be a schedule, or a pair of it and "epoch" or "batch", got {len(pair)} items')
    return pair[0], _check.choice(pair[1], "schedule[1]", ("epoch", "batch"))


def _check_optimizer(net: Module, optimizer: Any, schedule: Any, kept: bool) -> None:
    """Raise unless they have the methods that are called, and belong to the network."""
    given = [(optimizer, "optimizer")] if schedule is None else [(optimizer, "optimizer"), (schedule, "schedule")]
    for thing, name in given:
        for method in ("step", "state_dict", "load_state_dict") if kept else ("step",):
            if not callable(getattr(thing, method, None)):
                raise TypeError(f"{name} must have a method {method}, got {type(thing).__name__}")
    if getattr(optimizer, "net", net) is not net:
        raise ValueError("optimizer must be one for net, got one for another network")
    if getattr(schedule, "opt", optimizer) is not optimizer:
        raise ValueError("schedule must be one of the optimizer, got one of another")


def _callbacks(callback: Any) -> list[Callback]:
    several = list(callback) if isinstance(callback, list | tuple) else [] if callback is None else [callback]
    for function in several:
        if not callable(function):
            raise TypeError(f"callback must be callable, or a sequence of callables, got {type(function).__name__}")
    return several


def _check_bptt(net: Module, given: Source) -> None:
    """Raise unless all data can be gone through in stretches."""
    check_one_way(net)
    plan = given.plan(None)
    for indices in plan[:1] if isinstance(given, Sequences) else plan:  # sequences are all alike
        check_stretches(net, given.batch(indices), "data")
