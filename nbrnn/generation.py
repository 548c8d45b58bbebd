"""Generation: a network goes on with a sequence of symbols."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _check, _parts
from ._search import require_numbers
from .module import Module, Seed, generator
from .recurrent import Recurrent

Array = NDArray[Any]

#: Numbers of noise that are drawn at a time.
AHEAD = 2**16


def generate(
    net: Module, prompt: ArrayLike, n: int, temperature: float = 1.0, top_k: int | None = None, rng: Seed = None
) -> Array:
    """Go on with a sequence of symbols: each is drawn by the network's probabilities, and then is what the network sees.

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
        Only so many, the likeliest, come into question; None: all.
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
    recurrent = _parts.recurrent(net, "net", one_way=True)
    _parts.require_logits(net, "net")
    known = _parts.symbols_in(net, "net")
    turned = any(part.batch_first for part in recurrent)
    prompt = _parts.symbols(prompt, "prompt")
    if prompt.ndim not in (1, 2) or 0 in prompt.shape[turned if prompt.ndim == 2 else 0 :][:1]:
        raise ValueError(
            f"prompt must have shape (P,) or {'(B, P)' if turned else '(P, B)'}, P >= 1, got {prompt.shape}"
        )
    if prompt.size and not (prompt.min() >= 0 and prompt.max() < known):
        raise ValueError(f"prompt must lie in 0..{known - 1}, got {prompt.min()}..{prompt.max()}")
    n, temperature = _check.size(n, "n", 0), _check.number(temperature, "temperature", 0)
    random = generator(rng)
    steps = prompt[:, None] if prompt.ndim == 1 else prompt.T if turned else prompt
    go_on, logits = _begin(net, steps, known, prompt.ndim == 2)
    classes = logits.shape[-1]
    if classes > known:
        raise ValueError(f"net must take all symbols that it gives, got {classes} logits for {known} symbols")
    if top_k is not None:
        top_k = _check.size(top_k, "top_k")
        if top_k > classes:
            raise ValueError(f"top_k must be <= {classes}, the number of symbols, got {top_k}")
    made = _generate(go_on, logits, n, temperature, top_k, random)
    return made.T if turned and prompt.ndim == 2 else made
