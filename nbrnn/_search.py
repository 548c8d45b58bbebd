"""Greedy and beam search, given something that tells the logits of the next symbol: all sequences at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._parts import Steps
from .attention import Attention, Memory

Array = NDArray[Any]


class Decoder:
    """A decoder step by step: of W sequences for each source those that go on; all, and W = 1, to begin with.

    Where the writer and the speaker were made without an axis for sequences, there is one source and one sequence.

    Parameters
    ----------
    writer : Steps
        The parts up to the last recurrent one: symbols in.
    attention : Attention or None
    memory : Memory or None
        What the attention looks at, of each source.
    speaker : Steps
        The other parts: logits out.
    """

    def __init__(self, writer: Steps, attention: Attention | None, memory: Memory | None, speaker: Steps) -> None:
        self.writer, self.attention, self.memory, self.speaker = writer, attention, memory, speaker
        self.going: Array | None = None  # (B, W); None: all, with W = 1

    def __call__(self, symbols: Any) -> Array:
        """Logits (N, C) of what comes after the symbols (N,) of those that go on; without N for one by itself."""
        h = self.writer(symbols)
        if self.attention is not None and self.memory is not None:
            if h.ndim == 1:
                return self.speaker(self.attention(self.memory, h[None, None])[0, 0])
            going = np.ones((len(h), 1), np.bool_) if self.going is None else self.going
            places = np.zeros((*going.shape, h.shape[1]), h.dtype)
            places[going] = h
            h = self.attention(self.memory, places)[going]
        return self.speaker(h)

    def take(self, rows: Array, sources: Array, going: Array) -> None:
        """From now on there are those that were at these rows (N,), of the sources (B,) that were at these places.

        ``going`` (B, W) is true for each of them, in order.
        """
        self.writer.take(rows)
        self.going = going
        if self.memory is not None and len(sources) < len(self.memory.s):
            self.memory = self.memory.take(sources)


def greedy(decoder: Decoder, batch: int, start: int, end: int, most: int) -> list[Array]:
    """The likeliest symbol at each step, for each of so many sources; without start and end.

    Parameters
    ----------
    decoder : Decoder
    batch, start, end, most : int
        Sources, the two symbols, and how many a sequence may have.
    """
    said: list[tuple[Array, Array]] = []  # what each of the open sources says at each step
    source, symbols = np.arange(batch), np.full(batch, start)
    for _ in range(most):
        if not len(source):
            break
        symbols = likeliest(decoder(symbols))
        going = np.flatnonzero(symbols != end)
        if len(going) < len(source):
            source, symbols = source[going], symbols[going]
            decoder.take(going, going, np.ones((len(going), 1), np.bool_))
        said.append((source, symbols))
    table = np.full((len(said), batch), end)
    for row, (places, now) in zip(table, said, strict=True):
        row[places] = now
    return [column[:n].copy() for column, n in zip(table.T, (table != end).sum(0), strict=True)]


def greedy_alone(decoder: Decoder, start: int, end: int, most: int) -> list[Array]:
    """The same for the only source of a decoder without an axis for sequences, faster."""
    said: list[int] = []
    symbol = start
    while len(said) < most:
        symbol = int(likeliest(decoder(symbol)))
        if symbol == end:
            break
        said.append(symbol)
    return [np.array(said, np.int64)]


def beam(
    decoder: Decoder, batch: int, start: int, end: int, most: int, width: int, penalty: float
) -> list[list[tuple[Array, float]]]:
    """The likeliest sequences found for each source, with their log probabilities; best first.

    At each step the ``width`` best are kept, of those that have ended and all continuations of those that haven't.

    Parameters
    ----------
    decoder : Decoder
    batch, start, end, most : int
        As for ``greedy``.
    width : int
        W, at most.
    penalty : float
        alpha: sequences of n symbols, the end included, are ranked by log p / ((5 + n) / 6)^alpha.
    """
    found: list[list[tuple[Array, float]]] = [[] for _ in range(batch)]
    source = np.arange(batch)
    # Of each source's sequences: log p, how many symbols until the end (0: not yet), and the symbols.
    score, n = np.zeros((batch, 1)), np.zeros((batch, 1), np.int64)
    said = np.zeros((batch, 1, 0), np.int64)
    symbols = np.full((batch, 1), start)
    for step in range(1, most + 1):
        if not len(source):
            break
        going = n == 0
        log_p = log_softmax(decoder(symbols[going]))
        table = np.full((*n.shape, log_p.shape[1]), -np.inf)
        table[going] = score[going][:, None] + log_p
        table[~going, end] = score[~going]
        rank = table / ((5 + np.where(going, step, n)[..., None]) / 6) ** penalty if penalty else table
        best = best_of(rank.reshape(len(table), -1), width)
        parent, symbols = np.divmod(best, table.shape[2])
        each, row = np.arange(len(source))[:, None], np.cumsum(going).reshape(going.shape) - 1
        n, score, row = n[each, parent], table[each, parent, symbols], row[each, parent]
        n[(n == 0) & ((symbols == end) | (score == -np.inf))] = step  # the impossible goes no further either
        said = np.concatenate([said[each, parent], symbols[..., None]], 2)
        is_open = (n == 0).any(1) & (step < most)
        for q in np.flatnonzero(~is_open):
            found[source[q]] = list(_as_said(said[q], n[q], score[q]))
        source, score, n, said, symbols = (a[is_open] for a in (source, score, n, said, symbols))
        decoder.take(row[is_open][n == 0], np.flatnonzero(is_open), n == 0)
    return found


def _as_said(said: Array, n: Array, score: Array) -> Iterator[tuple[Array, float]]:
    """The symbols before the end, and log p, of each sequence that is possible."""
    for symbols, k, p in zip(said, n, score, strict=True):
        if p > -np.inf:
            yield symbols[: k - 1 if k else len(symbols)].copy(), float(p)


def best_of(rank: Array, most: int) -> Array:
    """Places of the largest numbers of each row, largest first; of equal ones, the first."""
    if most == 1:
        return rank.argmax(1)[:, None]
    if most < rank.shape[1]:
        places = np.argpartition(-rank, most - 1, 1)[:, :most]
        places.sort(1)
    else:
        places = np.broadcast_to(np.arange(rank.shape[1]), rank.shape)
    order = np.argsort(-np.take_along_axis(rank, places, 1), 1, kind="stable")
    return np.take_along_axis(places, order, 1)


def log_softmax(logits: Array) -> Array:
    """log of the softmax over the last axis, as float64: so that no two logits become equal that weren't."""
    top = require_numbers(logits.max(-1, keepdims=True))
    return logits - (top + np.log(np.exp(logits - top).sum(-1, keepdims=True))).astype(np.float64)


def likeliest(logits: Array) -> Any:
    """Where the largest number of the last axis is; the first of equal ones."""
    symbols = logits.argmax(-1)
    if logits.ndim > 1:
        require_numbers(logits.max(-1))
    elif not math.isfinite(logits[symbols]):  # the same, several times as fast
        require_numbers(logits[symbols])
    return symbols


def require_numbers(top: Array) -> Array:
    """The largest logits; raises if they aren't numbers."""
    if not np.isfinite(top).all():
        raise FloatingPointError("the logits must be finite, the network gives infinite ones or NaN")
    return top
