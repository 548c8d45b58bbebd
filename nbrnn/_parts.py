"""The parts of a network one by one: forward, back, and step by step.  Arrays are (T, B, ...) here, always."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _check
from ._cpu.linear import packed, product
from .embedding import Embedding
from .module import Module, Tape
from .networks import Sequential, chooses
from .pointwise import Dropout, Linear
from .recurrent import Recurrent
from .stateless import Stateless, inside
from .stream import Stream

Array = NDArray[Any]


def leaves(net: Module) -> list[Module]:
    """The parts of a network that aren't networks themselves, in order."""
    return [leaf for part in net for leaf in leaves(part)] if isinstance(net, Sequential) else [net]


def recurrent(net: Module, name: str, one_way: bool) -> list[Recurrent]:
    """Its recurrent parts; raises if it has parts that don't give a y for each step."""
    for part in leaves(net):
        if isinstance(part, Recurrent):
            if one_way and part.bidirectional:
                raise ValueError(f"{name} must be of one direction, got a bidirectional {type(part).__name__}")
        elif not isinstance(part, Stateless) or part._needs_steps:
            raise ValueError(f"{name} must consist of parts that take one step at a time, got {type(part).__name__}")
    return [part for part in leaves(net) if isinstance(part, Recurrent)]


def symbols(x: Any, name: str) -> Array:
    """An array of integers, of anything array-like."""
    given = _check.plain(x, name, "integers")
    if given.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, got dtype {given.dtype}")
    return given


def symbol(value: Any, name: str, count: int) -> int:
    """One of so many symbols."""
    number = _check.size(value, name, 0)
    if number >= count:
        raise ValueError(f"{name} must be < {count}, the number of the decoder's symbols, got {number}")
    return number


def ends(lengths: Any, name: str, x: Array) -> Array | None:
    """Lengths of x (T, B, ...), checked."""
    if lengths is None:
        return None
    try:
        return _check.lengths(lengths, x.shape[1], x.shape[0])
    except (TypeError, ValueError) as error:
        raise type(error)(str(error).replace("lengths", name, 1)) from None


def inside_of(a: Any, ends: Array | None) -> Array:
    """a (T, B, n), 0 past the ends."""
    return a if ends is None else np.where(inside(ends, len(a))[..., None], a, a.dtype.type(0))


def kind(value: Any) -> str:
    """What a value is, for what is said of it."""
    several = isinstance(value, tuple | list)
    return f"a {type(value).__name__} of {len(value)}" if several else type(value).__name__


def symbols_in(net: Module, name: str) -> int:
    """How many symbols a network takes: rows of the Embedding that is its first part, or the size of its vectors."""
    for part in leaves(net):
        for size in ("num_embeddings", "input_size", "in_features"):
            if hasattr(part, size):
                return int(getattr(part, size))
    raise ValueError(f"{name} must have an Embedding, a Linear or a recurrent layer, got none")


def size_out(parts: Sequence[Module]) -> int:
    """Size of what comes out of parts with a recurrent one among them."""
    for part in reversed(parts):
        if isinstance(part, Linear):
            return part.out_features
        if isinstance(part, Recurrent):
            break
    assert isinstance(part, Recurrent)
    return part._axes.D * part._axes.K


def require_logits(net: Module, name: str) -> None:
    """Raise if a network ends with probabilities or the like."""
    last = next((part for part in reversed(leaves(net)) if not isinstance(part, Dropout)), None)
    if isinstance(last, Linear) and last.activation is not None:
        raise ValueError(f"{name} must end with logits, got a Linear with activation {last.activation!r}")


# States of networks, nested as the parts are, as lists over the leaves.


def flatten(net: Module, state: Any, name: str) -> list[Any]:
    """The states of the leaves; None stands for None in all."""
    if not isinstance(net, Sequential):
        return [state]
    given = net._states(state, name)
    return [leaf for part, own in zip(net, given, strict=True) for leaf in flatten(part, own, name)]


def nest(net: Module, states: Iterator[Any]) -> Any:
    """The inverse of ``flatten``."""
    return tuple(nest(part, states) for part in net) if isinstance(net, Sequential) else next(states)


# Whole sequences.


def turn(part: Module, a: Any) -> Any:
    """Between (T, B, ...) and a part's own axes: a view."""
    return a.swapaxes(0, 1) if part.batch_first and a is not None else a


def run(parts: Sequence[Module], x: Array, states: Sequence[Any], lengths: Any) -> tuple[Array, list[Any]]:
    """y and the states after, for inference."""
    after = []
    for q, (part, state) in enumerate(zip(parts, states, strict=True)):
        if chooses(parts, q, turn(part, x)):
            y, own = part._choose(turn(part, x), state, lengths)[0], None  # type: ignore[attr-defined]
        else:
            y, own = part(turn(part, x), state, lengths)
        x = turn(part, y)
        after.append(own)
    return x, after


def forward(
    parts: Sequence[Module], x: Array, states: Sequence[Any], lengths: Any, rng: np.random.Generator | None
) -> tuple[Array, list[Any], list[Tape]]:
    """y, the states after, and the tapes."""
    after, tapes = [], []
    for q, (part, state) in enumerate(zip(parts, states, strict=True)):
        if chooses(parts, q, turn(part, x)):
            (y, tape), own = part._choose(turn(part, x), state, lengths), None  # type: ignore[attr-defined]
        else:
            y, own, tape = part.forward(turn(part, x), state, lengths, rng=rng)
        x = turn(part, y)
        after.append(own)
        tapes.append(tape)
    return x, after, tapes


def backward(
    parts: Sequence[Module], tapes: Sequence[Tape], dy: Array | None, dstates: Sequence[Any], retain: bool
) -> tuple[Array | None, list[Any], list[Array]]:
    """dx, the gradients for the states before, and those of the parameters of each part."""
    before, flats = [], []
    for part, tape, dstate in reversed(list(zip(parts, tapes, dstates, strict=True))):
        grads = part.backward(tape, turn(part, dy), dstate, retain)
        # Of two axes it is that of vectors which were chosen from: see ``networks.chooses``.
        dy = grads.x if grads.x is None or grads.x.ndim == 2 else turn(part, grads.x)
        before.append(grads.state)
        flats.append(grads.flat)
    return dy, before[::-1], flats[::-1]


# Step by step.


class Steps:
    """Parts one after another that take one step at a time, and carry their states.

    A snapshot of the parameters, as streams are; nothing is checked.

    Parameters
    ----------
    parts : sequence of Module
        As ``recurrent`` wants them.
    batch_size : int or None
        None: one sequence, without an axis for it.
    states : sequence
        Of each part; with an axis for the batch, always.
    symbols : int
        x are symbols out of so many, which the first part takes as vectors unless it is an Embedding; 0: x is vectors.
    """

    def __init__(
        self, parts: Sequence[Module], batch_size: int | None, states: Sequence[Any], symbols: int = 0
    ) -> None:
        self._steps: list[Callable[[Any], Array]] = []
        if symbols and not isinstance(parts[0], Embedding):
            dtype = next(part._parameters.dtype for part in parts if part._parameters.size)
            one = batch_size is None
            self._steps.append(_one(symbols, dtype) if one else lambda x: one_hot(x, symbols, dtype))
        for part, state in zip(parts, states, strict=True):
            if isinstance(part, Recurrent):
                stream = part.stream(batch_size)
                stream.state = state if batch_size is not None or state is None else _first(state)
                self._steps.append(stream)
            elif isinstance(part, Embedding):
                self._steps.append(_rows(part))
            elif not isinstance(part, Dropout):
                self._steps.append(_alone(part))

    def __call__(self, x: Any) -> Array:
        """y (B, ...) for x (B, ...), or for symbols (B,); without B for one sequence."""
        for step in self._steps:
            x = step(x)
        return x

    def take(self, rows: Array) -> None:
        """From now on the sequences are those that were at these places."""
        self._steps = [step._take(rows) if isinstance(step, Stream) else step for step in self._steps]


def _first(state: Any) -> Any:
    """The state of the only sequence of a batch, without the axis."""
    return tuple(s[:, 0] for s in state) if isinstance(state, tuple) else state[:, 0]


def _rows(part: Embedding) -> Callable[[Any], Array]:
    table = np.array(part.params["weight"])
    return lambda symbols: table[symbols]


def _alone(part: Any) -> Callable[[Any], Array]:
    """A part without state; that which most networks end with without the checks of a call."""
    if not isinstance(part, Linear) or part.activation is not None:
        return lambda x: part(x)[0]
    weight, bias = packed(np.asarray(part.params["weight"])), np.array(part.params["bias"]) if part.bias else None

    def linear(x: Array) -> Array:
        y = product(x.reshape(-1, x.shape[-1]), weight, bias)
        return y[0] if x.ndim == 1 else y

    return linear


def one_hot(symbols: Any, size: int, dtype: Any) -> Array:
    """Rows of 0 with a 1 at the symbol: (..., size) for symbols (...)."""
    x = np.zeros((np.size(symbols), size), dtype)
    x[np.arange(len(x)), np.ravel(symbols)] = 1
    return x.reshape(*np.shape(symbols), size)


def _one(size: int, dtype: Any) -> Callable[[Any], Array]:
    """The same for one symbol at a time, in a fraction of the time."""
    x, last = np.zeros(size, dtype), 0

    def row(symbol: Any) -> Array:
        nonlocal last
        x[last], last = 0, symbol
        x[symbol] = 1
        return x

    return row
