"""Generation: a network goes on with a sequence of symbols."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _check, _parts
from ._bridge import split
from ._search import likeliest
from .module import Module, Seed, generator, require_on_cpu

Array = NDArray[Any]

#: Numbers of noise that are drawn at a time.
AHEAD = 2**16


def generate(
    net: Module, prompt: ArrayLike, n: int, temperature: float = 1.0, top_k: int | None = None, rng: Seed = None
) -> Array:
    """Go on with a sequence of symbols: each is drawn by the network's probabilities, and then given to it.

    Parameters
    ----------
    net : Module
        A ``Sequential``, or a layer, of one direction; gives logits of the symbols.  If its first part isn't an
        Embedding, it takes vectors with a 1 at the symbol.
    prompt : array_like of int, shape (P,) or (P, B), or (B, P) with ``batch_first``
        What there is already: P >= 1 symbols.
    n : int
        How many are to follow.
    temperature : float
        The probabilities are softmax(logits / temperature); 0: always the likeliest.
    top_k : int, optional
        Only so many, the likeliest, come into question, and what is as likely as the last of them; None: all.
    rng : numpy.random.Generator, seed or None
        Where chance comes from: a number for each symbol that could have followed, each time.

    Returns
    -------
    ndarray of int, shape (n,) or (n, B), or (B, n) with ``batch_first``

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong kind or out of range, or the network can't do this.
    FloatingPointError
        The logits aren't finite.

    Notes
    -----
    The largest of logits / temperature + g, with g from the standard Gumbel distribution for each, is a draw from the
    softmax.

    References
    ----------
    C. J. Maddison, D. Tarlow and T. Minka, "A* sampling", NIPS 2014, section 2.

    Examples
    --------
    >>> import numpy as np, nbrnn
    >>> net = nbrnn.Sequential(nbrnn.Embedding(5, 8, rng=0), nbrnn.GRU(8, 16, rng=1), nbrnn.Linear(16, 5, rng=2))
    >>> symbols = nbrnn.generate(net, [0, 1, 2], n=100, temperature=0.5, rng=3)
    >>> symbols.shape, bool((symbols == nbrnn.generate(net, [0, 1, 2], n=100, temperature=0.5, rng=3)).all())
    ((100,), True)
    """
    if not isinstance(net, Module):
        raise TypeError(f"net must be a layer or a network, got {type(net).__name__}")
    require_on_cpu(net)
    recurrent = _parts.recurrent(net, "net", one_way=True)
    _parts.require_logits(net, "net")
    known = _parts.symbols_in(net, "net")
    first = any(part.batch_first for part in recurrent)
    given = _parts.symbols(prompt, "prompt")
    steps = given[:, None] if given.ndim == 1 else given.T if first else given  # (P, B)
    if given.ndim not in (1, 2) or not len(steps):
        raise ValueError(f"prompt must have shape (P,) or {'(B, P)' if first else '(P, B)'}, P >= 1, got {given.shape}")
    if given.size and not (given.min() >= 0 and given.max() < known):
        raise ValueError(f"prompt must lie in 0..{known - 1}, got {given.min()}..{given.max()}")
    n, temperature = _check.size(n, "n", 0), _check.number(temperature, "temperature", 0)
    random = generator(rng)
    go_on, logits = _begin(net, steps, known, given.ndim == 2)
    classes = logits.shape[-1]
    if classes > known:
        raise ValueError(f"net must take all symbols that it gives, got {classes} logits for {known} symbols")
    if top_k is not None:
        top_k = _check.size(top_k, "top_k")
        if top_k > classes:
            raise ValueError(f"top_k must be <= {classes}, the number of symbols, got {top_k}")
    if top_k == 1:
        temperature = 0.0  # for so few there is nothing to draw, and the first of equals is it
    made = _go_on(go_on, logits, n, temperature, top_k or classes, random)
    return made.T if first and given.ndim == 2 else made


def _begin(net: Module, steps: Array, known: int, batched: bool) -> tuple[_parts.Steps, Array]:
    """What goes on after steps (P, B), and the logits at their end: (B, classes), or (classes,) if not batched."""
    body, tail = split(net)
    vectors = steps if net._x_axes == 2 else _parts.one_hot(steps, known, net._parameters.dtype)
    y, states = _parts.run(body, vectors, [None] * len(body), None)
    size, none = steps.shape[1] if batched else None, [None] * len(tail)
    last = _parts.Steps(tail, size, none)(y[-1] if batched else y[-1, 0])
    return _parts.Steps(body + tail, size, states + none, known), last


def _go_on(
    step: Callable[[Any], Array], logits: Array, n: int, temperature: float, top_k: int, random: np.random.Generator
) -> Array:
    """n symbols, or rows of them."""
    made = np.empty((n, *logits.shape[:-1]), np.int64)
    others = logits.shape[-1] - top_k
    noise, used = np.zeros((0, *logits.shape), logits.dtype), 0
    for t in range(n):
        if t:
            logits = step(made[t - 1])
        if others:
            least = np.partition(logits, others)[..., others : others + 1]
            logits = logits.copy()
            logits[logits < least] = -np.inf
        if temperature:
            if used == len(noise):
                count = min(n - t, max(1, AHEAD // max(1, logits.size)))
                noise, used = (temperature * random.gumbel(size=(count, *logits.shape))).astype(logits.dtype), 0
            logits, used = logits + noise[used], used + 1
        made[t] = likeliest(logits)
    return made
