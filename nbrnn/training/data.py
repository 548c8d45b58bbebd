"""Data for training: batches as they are given, or sequences that are put together by length."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .. import _check
from ..module import Module

Array = NDArray[Any]

#: What an epoch goes through: for each batch, the places in the data of what is in it.
Plan = list[Array]

#: Batches whose sequences are sorted by length together: more leave less padding, and less variety between epochs.
GROUP = 16


@dataclasses.dataclass(frozen=True)
class Batch:
    """What one call of ``net.forward`` takes, and the loss.

    Attributes
    ----------
    x, target, lengths
        As a user gives them, in the network's axes.
    size : int
        Number of sequences.
    share : float
        Of the batch's steps, if this is a stretch of it; else 1.
    """

    x: Any
    target: Any
    lengths: Any
    size: int
    share: float = 1.0


class Source(Protocol):
    """Where batches come from."""

    def __len__(self) -> int:
        """How many batches there are in an epoch."""

    def plan(self, rng: np.random.Generator | None) -> Plan:
        """What an epoch goes through; in a fixed order if rng is None."""

    def batch(self, indices: Array) -> Batch:
        """One entry of a plan."""

    def contents(self) -> Any:
        """All arrays there are, in tuples and lists."""


class Batches:
    """Batches as they are given."""

    def __init__(self, net: Module, pieces: Sequence[tuple[Any, Any, Any]]) -> None:
        self._batches = [Batch(x, y, n, batch_size(net, x, y)) for x, y, n in pieces]

    def __len__(self) -> int:
        return len(self._batches)

    def plan(self, rng: np.random.Generator | None) -> Plan:
        """Each batch once."""
        order = np.arange(len(self)) if rng is None else rng.permutation(len(self))
        return list(order.reshape(-1, 1))

    def batch(self, indices: Array) -> Batch:
        """That batch."""
        return self._batches[indices[0]]

    def contents(self) -> Any:
        """All there is."""
        return [(b.x, b.target, b.lengths) for b in self._batches]


class Sequences:
    """Sequences of any lengths, put together so that those in a batch are of like lengths.

    Parameters
    ----------
    net : Module
        Whose axes batches have, and which says how long its outputs are.
    xs : list of ndarray (T_i, ...), or tuple of such lists
        Inputs; several lists for a network that takes several.
    targets : list or ndarray
        With as many entries.
    size : int
        Sequences in a batch.
    """

    def __init__(self, net: Module, xs: Any, targets: Any, size: int, name: str) -> None:
        self._several = isinstance(xs, tuple)
        self._xs = [
            _alike(part, f"{name}[0][{q}]" if self._several else f"{name}[0]")
            for q, part in enumerate(xs if self._several else (xs,))
        ]
        self._size, self._count = size, len(self._xs[0])
        lengths = [np.array([len(x) for x in part], np.int64) for part in self._xs]
        for q, part in enumerate(self._xs):
            if len(part) != self._count:
                raise ValueError(f"{name}[0][{q}] must hold {self._count} sequences as {name}[0][0], got {len(part)}")
        if self._count == 0:
            raise ValueError(f"{name} must hold at least one sequence, got none")
        self._lengths = lengths
        #: What batches are sorted by: the work a sequence makes.
        self._work = np.sum(lengths, 0)
        self._first = bool(net.batch_first)
        self._targets, self._padded = self._check_targets(net, targets, name)

    def _check_targets(self, net: Module, targets: Any, name: str) -> tuple[Any, bool]:
        """Targets as arrays, and whether they have an axis of time as y has."""
        name = f"{name}[1]"
        if not isinstance(targets, list | tuple | np.ndarray) or (
            isinstance(targets, np.ndarray) and targets.ndim == 0
        ):
            raise TypeError(f"{name} must be a list or an array, got {type(targets).__name__}")
        if len(targets) != self._count:
            raise ValueError(f"{name} must have an entry for each of {self._count} sequences, got {len(targets)}")
        after = net._lengths_after(self._lengths_of(np.arange(self._count)))
        entries = [np.asarray(t) for t in targets]
        if after is None:  # y has no axis of time
            _same(entries, name, 0)
            return np.stack(entries), False
        fits = [t.ndim > 0 and len(t) == n for t, n in zip(entries, after, strict=True)]
        if all(fits):
            _same(entries, name, 1)
            return entries, True
        if all((t.ndim == 1 and t.dtype.kind in "iu") or t.size == 0 for t in entries):
            # Label sequences of lengths of their own, for CTC.
            return [t if t.size else np.zeros(0, np.int64) for t in entries], False
        q = fits.index(False)
        raise ValueError(
            f"{name}[{q}] must have an entry for each of the {after[q]} steps of the output, got shape "
            f"{entries[q].shape}"
        )

    def _lengths_of(self, indices: Array) -> Any:
        lengths = tuple(n[indices] for n in self._lengths)
        return lengths if self._several else lengths[0]

    def __len__(self) -> int:
        return -(-self._count // self._size)

    def plan(self, rng: np.random.Generator | None) -> Plan:
        """Each sequence once.

        Shuffled, then sorted by length within groups of batches, then the batches shuffled: little padding, and other
        batches in each epoch.  Without a generator: as they stand.
        """
        if rng is None:
            return self._cut(np.arange(self._count))
        order = rng.permutation(self._count)
        group = self._size * max(1, min(GROUP, len(self) // 2))
        plan: Plan = []
        for start in range(0, self._count, group):
            some = order[start : start + group]
            plan += self._cut(some[np.argsort(self._work[some], kind="stable")])
        return [plan[q] for q in rng.permutation(len(plan))]

    def by_length(self) -> Plan:
        """Each sequence once, with the least padding."""
        return self._cut(np.argsort(self._work, kind="stable"))

    def _cut(self, order: Array) -> Plan:
        return [order[q : q + self._size] for q in range(0, len(order), self._size)]

    def batch(self, indices: Array) -> Batch:
        """Those sequences, padded with zeros."""
        places = indices.tolist()
        x = tuple(self._pad(part, places) for part in self._xs)
        if self._padded:
            target: Any = self._pad(self._targets, places)
        elif isinstance(self._targets, list):
            target = [self._targets[q] for q in places]
        else:
            target = self._targets[indices]
        return Batch(x if self._several else x[0], target, self._lengths_of(indices), len(places))

    def _pad(self, parts: Sequence[Array], places: Sequence[int]) -> Array:
        """(T, B, ...) or (B, T, ...)."""
        chosen = [parts[q] for q in places]
        steps, inner = max(map(len, chosen)), chosen[0].shape[1:]
        shape = (len(chosen), steps) if self._first else (steps, len(chosen))
        padded = np.zeros(shape + inner, chosen[0].dtype)
        if self._first:
            for b, part in enumerate(chosen):
                padded[b, : len(part)] = part
        else:
            for b, part in enumerate(chosen):
                padded[: len(part), b] = part
        return padded

    def contents(self) -> Any:
        """All there is."""
        return self._xs, self._targets


def _alike(parts: Any, name: str) -> list[Array]:
    """A list of arrays (T_i, ...) that differ in T_i alone."""
    for q, part in enumerate(parts):
        if not isinstance(part, np.ndarray):
            raise TypeError(f"{name}[{q}] must be a NumPy array, got {type(part).__name__}")
        if part.ndim == 0:
            raise ValueError(f"{name}[{q}] must have shape (T, ...), got {part.shape}")
    _same(parts, name, 1)
    return list(parts)


def _same(parts: Sequence[Array], name: str, axis: int) -> None:
    """Raise unless all have one dtype, and one shape from that axis on."""
    for q, part in enumerate(parts):
        if part.shape[axis:] != parts[0].shape[axis:] or part.ndim != parts[0].ndim or part.dtype != parts[0].dtype:
            raise ValueError(
                f"{name} must hold arrays that differ in their first axis at most, got {parts[0].dtype} of shape "
                f"{parts[0].shape} and, at {q}, {part.dtype} of shape {part.shape}"
                if axis
                else f"{name} must hold entries of one shape and dtype where outputs have no axis of time, got "
                f"{parts[0].dtype} of shape {parts[0].shape} and, at {q}, {part.dtype} of shape {part.shape}"
            )


def source(net: Module, data: Any, name: str, size: int) -> Source:
    """What a user gave as data."""
    if not hasattr(data, "__iter__"):
        raise TypeError(f"{name} must be (x, target) or a sequence of such tuples, got {type(data).__name__}")
    if isinstance(data, tuple) and len(data) == 2 and _is_sequences(data[0]):
        return Sequences(net, data[0], data[1], size, name)
    pieces: list[Any] = [data] if _is_batch(data) else list(data)
    for piece in pieces:
        if not isinstance(piece, tuple | list) or len(piece) not in (2, 3):
            raise TypeError(f"{name} must be (x, target) or (x, target, lengths), or a sequence of such tuples")
    if not pieces:
        raise ValueError(f"{name} must hold at least one batch, got none")
    return Batches(net, [(p[0], p[1], p[2] if len(p) == 3 else None) for p in pieces])


def _is_sequences(x: Any) -> bool:
    """Whether x is a list of arrays, or a tuple of such lists; a batch is a tuple."""
    if isinstance(x, tuple):
        return len(x) > 0 and all(isinstance(part, list) and _is_sequences(part) for part in x)
    return isinstance(x, list) and not any(isinstance(part, tuple | list) for part in x)


def _is_batch(data: Any) -> bool:
    """Whether this is one batch rather than several."""
    if not isinstance(data, tuple) or len(data) not in (2, 3):
        return isinstance(data, tuple) and len(data) > 0 and isinstance(data[0], np.ndarray)
    several = isinstance(data[0], tuple) and all(isinstance(x, np.ndarray) for x in data[0])
    return isinstance(data[0], np.ndarray) or (several and isinstance(data[1], np.ndarray))


def batch_size(net: Module, x: Any, target: Any) -> int:
    """How many sequences there are in a batch: by x, or the first of several, if it is an array; else by the target."""
    first = x[0] if isinstance(x, tuple) and x else x
    if isinstance(first, np.ndarray):
        return first.shape[1 - time_axis(net, first)] if batched(first) else 1
    shape = (len(target),) if isinstance(target, list) else np.shape(target)
    return shape[0 if net.batch_first or len(shape) < 2 else 1] if shape else 1


def batched(x: Array) -> bool:
    """Whether x is (T, B, I), or (T, B) of integers."""
    return x.ndim > (1 if x.dtype.kind in "iu" else 2)


def time_axis(net: Module, x: Array) -> int:
    """Which axis of x is time."""
    return 1 if net.batch_first and batched(x) else 0


def check_stretches(net: Module, batch: Batch, name: str) -> None:
    """Raise unless the batch can be gone through in stretches of time."""
    if not isinstance(batch.x, np.ndarray):
        raise ValueError(f"bptt must be None where x is no array, got {type(batch.x).__name__} in {name}")
    steps = batch.x.shape[time_axis(net, batch.x)]
    probe = np.full(max(1, batch.size), steps)
    after = net._lengths_after(probe)
    if after is None or not np.array_equal(after, probe) or isinstance(batch.target, list):
        raise ValueError("bptt must be None unless y and target have the steps of x")
    axis, shape = time_axis(net, batch.x), np.shape(batch.target)
    if len(shape) <= axis or shape[axis] != steps:
        raise ValueError(f"bptt must be None unless target has the {steps} steps of x, got shape {shape} in {name}")


def stretches(net: Module, batch: Batch, steps: int | None) -> Iterator[Batch]:
    """A batch in stretches of at most so many steps of time, without those past the ends of all sequences."""
    total = 0 if steps is None else batch.x.shape[time_axis(net, batch.x)]
    if steps is None or total <= steps:
        yield batch
        return
    cut = (slice(None),) * time_axis(net, batch.x)
    target = np.asarray(batch.target)
    lengths = None if batch.lengths is None else _check.lengths(batch.lengths, batch.size, total)
    valid = total * batch.size if lengths is None else int(lengths.sum())
    for start in range(0, total if lengths is None else int(lengths.max(initial=0)), steps):
        at = (*cut, slice(start, start + steps))
        x = batch.x[at]
        own = None if lengths is None else np.clip(lengths - start, 0, steps)
        here = x.shape[len(cut)] * batch.size if own is None else int(own.sum())
        yield Batch(x, target[at], own, batch.size, here / max(1, valid))
