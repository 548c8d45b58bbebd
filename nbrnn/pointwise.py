"""Parts of a network without state: Linear, Dropout."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import _check
from ._cpu.activation import activate
from ._cpu.dropout import MODULE
from ._cpu.unit import draw_key, dropout
from ._memory import require
from ._params import Parameters
from .module import Gradients, Module, Seed, Tape

Array = NDArray[Any]

ACTIVATIONS = (None, "softmax", "sigmoid", "tanh", "relu")


class Pointwise(Module):
    """A part without state, which works on each step by itself.

    x is (T, B, n), or of any shape (..., n) without ``lengths``.  With them, what lies past a sequence's end has no
    influence, and y and dx there are 0.
    """

    # What a subclass does, on arrays (T, B, n) in which all that lies past the ends is 0.

    def _run(self, x: Array, rng: np.random.Generator | None) -> tuple[Array, Any]:
        """(y, what the way back needs); rng is None for inference."""
        raise NotImplementedError

    def _back(self, kept: Any, dy: Array, gradients: Mapping[str, Array]) -> Array:
        """dx; writes the gradients of the parameters."""
        raise NotImplementedError

    def _check_x(self, x: Any) -> Array:
        """x, or an error."""
        raise NotImplementedError

    def _enter(self, x: Any, state: Any, lengths: Any) -> tuple[Array, Array | None]:
        """x as (T, B, n), and which steps are inside their sequences."""
        if state is not None:
            raise ValueError(f"state must be None for {type(self).__name__}, got {type(state).__name__}")
        x = self._check_x(x)
        if lengths is None:
            return (x if x.ndim == 3 else x.reshape(math.prod(x.shape[:-1]), 1, x.shape[-1])), None
        if x.ndim != 3:
            raise ValueError(f"lengths must be None unless x is (T, B, n), got x of shape {x.shape}")
        inside = np.arange(x.shape[0])[:, None, None] < _check.lengths(lengths, x.shape[1], x.shape[0])[:, None]
        return _only(x, inside), inside

    def __call__(self, x: Array, state: None = None, lengths: Any = None) -> tuple[Array, None]:
        """y for x, for inference.

        Parameters
        ----------
        x : ndarray, shape (T, B, n), or (..., n) without ``lengths``
        state : None
            There is none: for the protocol of all parts.
        lengths : array_like of int, shape (B,), optional
            Steps of each sequence; y past them is 0.

        Returns
        -------
        y : ndarray
        state : None

        Raises
        ------
        TypeError, ValueError
            An argument is of the wrong kind, shape or dtype.
        """
        given, inside = self._enter(x, state, lengths)
        y = _only(self._run(given, None)[0], inside)
        return y.reshape(*np.shape(x)[:-1], y.shape[-1]), None

    def forward(
        self, x: Array, state: None = None, lengths: Any = None, *, rng: Seed = None
    ) -> tuple[Array, None, PointwiseTape]:
        """Run for training: applies dropout, and keeps what ``backward`` needs.

        Parameters
        ----------
        x, state, lengths
            As in a call; x must not be changed before ``backward``.
        rng : numpy.random.Generator, seed or None
            Where the key of the dropout comes from; None: the part's own generator.  Not touched without dropout.

        Returns
        -------
        y : ndarray
            Read-only, since the tape may refer to it.
        state : None
        tape : Tape
            For one ``backward``.

        Raises
        ------
        TypeError, ValueError
            As in a call.
        """
        given, inside = self._enter(x, state, lengths)
        y, kept = self._run(given, self._generator(rng))
        y.flags.writeable = False  # the tape may refer to it
        y = _only(y, inside)
        tape = PointwiseTape(self, np.shape(x), y.shape, inside, kept)
        y.flags.writeable = False
        return y.reshape(*np.shape(x)[:-1], y.shape[-1]), None, tape

    def backward(self, tape: Tape, dy: Array | None = None, dstate: None = None, retain: bool = False) -> Gradients:
        """Gradients for x and the parameters.

        Parameters
        ----------
        tape : Tape
            From ``forward`` of this part, with the parameters unchanged since.
        dy : ndarray, shape of y, optional
            Gradient of the loss for y; None stands for zero.  What lies past a sequence's end is ignored.
        dstate : None
        retain : bool
            Leave the tape usable for another ``backward``.

        Returns
        -------
        Gradients
            ``x``, ``params``, ``flat``; ``state`` is None.

        Raises
        ------
        RuntimeError
            The tape has been used, or the parameters have changed since.
        TypeError, ValueError
            An argument is of the wrong kind, shape or dtype; the tape stays usable.
        """
        if not isinstance(tape, PointwiseTape):
            raise TypeError(f"tape must come from forward of this part, got {type(tape).__name__}")
        retain = _check.flag(retain, "retain")
        with tape._lock:
            return self._go_back(tape, dy, dstate, retain)

    def _go_back(self, tape: PointwiseTape, dy: Array | None, dstate: None, retain: bool) -> Gradients:
        tape._check(self)
        self._check_dstate(tape, dstate)
        shape = (*tape.x_shape[:-1], tape.y_shape[-1])
        dy = np.zeros(shape, tape.dtype) if dy is None else _check.array(dy, "dy", tape.dtype)
        _check.shape(dy, "dy", shape)
        flat = np.zeros(self._parameters.size, tape.dtype)
        params = self._parameters.views_of(flat)
        dx = _only(self._back(tape.kept, _only(dy.reshape(tape.y_shape), tape.inside), params), tape.inside)
        if not retain:
            tape._consume()
        return Gradients(dx.reshape(tape.x_shape), None, params, flat)

    def _check_dstate(self, tape: Any, dstate: Any) -> None:
        if dstate is not None:
            raise ValueError(f"dstate must be None for {type(self).__name__}, got {type(dstate).__name__}")


def _only(a: Array, inside: Array | None) -> Array:
    """a, with zeros outside."""
    return a if inside is None else np.where(inside, a, a.dtype.type(0))


class PointwiseTape(Tape):
    """What ``forward`` of a part without state leaves for ``backward``."""

    def __init__(
        self, module: Module, x_shape: tuple[int, ...], y_shape: tuple[int, ...], inside: Array | None, kept: Any
    ) -> None:
        super().__init__(module)
        self.x_shape, self.y_shape, self.inside, self.kept = x_shape, y_shape, inside, kept
        self.dtype = kept[0].dtype

    def _release(self) -> None:
        del self.kept


class Linear(Pointwise):
    """y = act(x W^T + b), on the last axis.

    Parameters
    ----------
    in_features, out_features : int
        Sizes of x and y, >= 1.
    bias : bool
        Whether there is b.
    activation : None, "softmax", "sigmoid", "tanh" or "relu"
        act; the softmax is over the last axis.
    dtype : float32 or float64
    rng : numpy.random.Generator, seed or None
        For the initial parameters, U(-1/sqrt(in_features), 1/sqrt(in_features)).

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong kind or out of range.

    Examples
    --------
    >>> import numpy as np, nbrnn
    >>> layer = nbrnn.Linear(3, 2, activation="softmax", rng=0)
    >>> y, _ = layer(np.ones((7, 2, 3), np.float32))
    >>> y.shape, bool(np.allclose(y.sum(-1), 1))
    ((7, 2, 2), True)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        activation: str | None = None,
        *,
        dtype: DTypeLike = np.float32,
        rng: Seed = None,
    ) -> None:
        super().__init__(rng)
        self.in_features = _check.size(in_features, "in_features")
        self.out_features = _check.size(out_features, "out_features")
        self.bias = _check.flag(bias, "bias")
        self.activation: str | None = _check.choice(activation, "activation", ACTIVATIONS)
        self.dtype = _check.float_dtype(dtype)
        shapes: dict[str, tuple[int, ...]] = {"weight": (self.out_features, self.in_features)}
        if self.bias:
            shapes["bias"] = (self.out_features,)
        require(lambda: "Linear", self.dtype, parameters=sum(math.prod(shape) for shape in shapes.values()))
        self._parameters = Parameters(shapes, self.dtype)
        bound = 1 / math.sqrt(self.in_features)
        for name, shape in shapes.items():
            self.params[name] = self._rng.uniform(-bound, bound, shape)
        self._fix()

    def _check_x(self, x: Any) -> Array:
        x = _check.array(x, "x", self.dtype)
        if x.ndim == 0 or x.shape[-1] != self.in_features:
            raise ValueError(f"x must have shape (..., {self.in_features}), got {x.shape}")
        return x

    def _run(self, x: Array, rng: np.random.Generator | None) -> tuple[Array, Any]:
        require(
            lambda: f"Linear for x of shape {x.shape}", self.dtype, y=x.size // self.in_features * self.out_features
        )
        y = x @ np.asarray(self.params["weight"]).T
        if self.bias:
            y += np.asarray(self.params["bias"])
        if self.activation in ("sigmoid", "tanh"):
            y = activate(self.activation, y)
        elif self.activation == "relu":
            y = np.maximum(y, 0)
        elif self.activation == "softmax":
            y = softmax(y)
        return y, (x, y)

    def _back(self, kept: Any, dy: Array, gradients: Mapping[str, Array]) -> Array:
        x, y = kept
        if self.activation == "sigmoid":
            dy = dy * y * (1 - y)
        elif self.activation == "tanh":
            dy = dy * (1 - y * y)
        elif self.activation == "relu":
            dy = np.where(y <= 0, dy.dtype.type(0), dy)
        elif self.activation == "softmax":
            dy = y * (dy - (dy * y).sum(-1, keepdims=True))
        rows = dy.reshape(-1, self.out_features)
        gradients["weight"][...] = rows.T @ x.reshape(-1, self.in_features)
        if self.bias:
            gradients["bias"][...] = rows.sum(0)
        return dy @ np.asarray(self.params["weight"])


def softmax(x: Array) -> Array:
    """e^x / sum e^x over the last axis, from the side that can't overflow."""
    top = x.max(-1, keepdims=True, initial=-np.inf)
    y = activate("exp", x - np.where(np.isfinite(top), top, x.dtype.type(0)))
    return y / y.sum(-1, keepdims=True)


class Dropout(Pointwise):
    """Drops each number with probability p in ``forward``, and divides the others by 1 - p; a call changes nothing.

    Parameters
    ----------
    p : float
        0..1.
    rng : numpy.random.Generator, seed or None
        Where the key comes from that each ``forward`` draws, unless that is given a generator.

    References
    ----------
    N. Srivastava et al., "Dropout", JMLR 15 (2014).  Bits: Philox4x32-10 of the place (see the docs, "Dropout").

    Examples
    --------
    >>> import numpy as np, nbrnn
    >>> x = np.ones((1000, 1, 8), np.float32)
    >>> y, _, tape = nbrnn.Dropout(0.5, rng=0).forward(x)
    >>> sorted(map(float, np.unique(y)))
    [0.0, 2.0]
    """

    def __init__(self, p: float = 0.5, *, rng: Seed = None) -> None:
        super().__init__(rng)
        self.p = _check.number(p, "p", 0, 1)
        self._fix()

    def _check_x(self, x: Any) -> Array:
        if not isinstance(x, np.ndarray) or x.dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
            got = x.dtype if isinstance(x, np.ndarray) else type(x).__name__
            raise TypeError(f"x must be a NumPy array of float32 or float64, got {got}")
        if x.ndim == 0:
            raise ValueError("x must have at least one dimension, got none")
        return _check.array(x, "x", x.dtype)

    def _run(self, x: Array, rng: np.random.Generator | None) -> tuple[Array, Any]:
        if rng is None or self.p == 0:
            return x.copy(), (x[:0], None)
        key = draw_key(rng)
        return dropout(x, self.p, key, MODULE, 0, 1, 0), (x[:0], key)

    def _back(self, kept: Any, dy: Array, gradients: Mapping[str, Array]) -> Array:
        key = kept[1]
        return dy.copy() if key is None else dropout(dy, self.p, key, MODULE, 0, 1, 0)

    def _describe(self) -> list[str]:
        return [f"{self.p:g}"]
