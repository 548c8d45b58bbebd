"""Single steps: RNNCell, GRUCell and LSTMCell, with torch's signatures."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import _check, layers
from ._cuda.array import DeviceArray
from ._cuda.exchange import kind_of
from ._passes import RecurrentTape
from ._place import is_there
from .module import Gradients, Parametric, Seed, Tape
from .recurrent import Recurrent

Array = NDArray[Any]


class RecurrentCell(Parametric):
    """What RNNCell, GRUCell and LSTMCell share: a layer that is run for one step."""

    def __init__(self, layer: Recurrent) -> None:
        super().__init__()
        self._layer = layer
        self._rng, self._parameters = layer._rng, layer._parameters
        self.input_size, self.hidden_size, self.bias = layer.input_size, layer.hidden_size, layer.bias
        self.dtype = layer.dtype
        self._fix()

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state | {"_parameters": state["_layer"]._parameters})

    def _lift(self, x: Any, state: Any) -> tuple[Array, Any]:
        """x and state as of a layer, for one step."""
        if not is_there(self._parameters, "x", kind_of(x), None):
            x = _check.array(x, "x", self.dtype)
        shape = tuple(x.shape)
        if len(shape) not in (1, 2) or shape[-1] != self.input_size:
            raise ValueError(f"x must have shape (B, {self.input_size}), or ({self.input_size},), got {shape}")
        return _alone(x), self._lift_state(state, "state", shape[:-1])

    def _lift_state(self, state: Any, name: str, batch: tuple[int, ...]) -> Any:
        def lift(part: Any, label: str) -> Any:
            if part is None or (not isinstance(part, np.ndarray) and kind_of(part) is None):
                return part  # the layer says what is wrong
            _check.shape(part, label, (*batch, self.hidden_size))
            return _alone(part)

        if not self._layer.cell.extras():
            return lift(state, name)
        if isinstance(state, tuple | list) and len(state) == 2:
            return tuple(lift(part, f"{name}[{n}] ({'hc'[n]})") for n, part in enumerate(state))
        return state

    def __call__(self, x: Array, state: Any = None) -> Any:
        """One step.

        Parameters
        ----------
        x : ndarray, shape (B, I) or (I,)
            After ``to("cuda")``, it and the state are on the GPU, the last axis contiguous.
        state : ndarray h, or pair (h, c) for the LSTM, optional
            Of shape (B, H) or (H,); None stands for zeros.

        Returns
        -------
        state : as the argument
            After the step.

        Raises
        ------
        TypeError, ValueError
            As for the layers.
        """
        return _first(self._layer(*self._lift(x, state))[1])

    def forward(self, x: Array, state: Any = None) -> tuple[Any, Tape]:
        """One step, and a tape for ``backward``.

        Parameters
        ----------
        x, state
            As in a call; x must not be changed before ``backward``.

        Returns
        -------
        state : as the argument
            After the step.
        tape : Tape

        Raises
        ------
        TypeError, ValueError
            As in a call.
        """
        _, after, tape = self._layer.forward(*self._lift(x, state))
        return _first(after), tape

    def backward(self, tape: Tape, dstate: Any = None, retain: bool = False) -> Gradients:
        """Backpropagation through the step.

        Parameters
        ----------
        tape : Tape
            From ``forward`` of this cell.
        dstate : as state, optional
            Gradient of the loss for the state after the step; None stands for zero.
        retain : bool
            Leave the tape usable for another ``backward``.

        Returns
        -------
        Gradients
            ``x``, ``state`` (before the step), ``params``, ``flat``.

        Raises
        ------
        RuntimeError, TypeError, ValueError
            As for the layers.
        """
        batch = tape.x_shape[1:-1] if isinstance(tape, RecurrentTape) else ()
        grads = self._layer.backward(tape, None, self._lift_state(dstate, "dstate", batch), retain)
        return Gradients(None if grads.x is None else grads.x[0], _first(grads.state), None, grads.flat, grads.shapes)


def _alone(a: Any) -> Any:
    """With an axis before the others, for the only step or layer."""
    return a[None] if isinstance(a, np.ndarray | DeviceArray) else a.reshape(1, *a.shape)


def _first(state: Any) -> Any:
    """The state of the only layer."""
    return tuple(part[0] for part in state) if isinstance(state, tuple) else state[0]


class _Single(Recurrent):
    """A layer whose parameters are named as a cell's: without a suffix."""

    def _suffixes(self) -> list[str]:
        return [""]

    def _called(self) -> str:
        return f"{type(self).__name__[1:]}Cell"


class _RNN(_Single, layers.RNN):
    pass


class _GRU(_Single, layers.GRU):
    pass


class _LSTM(_Single, layers.LSTM):
    pass


class RNNCell(RecurrentCell):
    """One step of a plain recurrent layer: h' = act(W_ih x + b_ih + W_hh h + b_hh).

    Parameters
    ----------
    input_size, hidden_size : int
        I and H, >= 1.
    bias : bool
        Whether there are b_ih and b_hh.
    nonlinearity : "tanh" or "relu"
        act.
    dtype : float32 or float64
        Of parameters, inputs, states and all arithmetic.
    rng : numpy.random.Generator, seed or None
        For the initial parameters, U(-1/sqrt(H), 1/sqrt(H)).

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong kind or out of range.

    Examples
    --------
    >>> import numpy as np, nbrnn
    >>> cell = nbrnn.RNNCell(3, 5, rng=0)
    >>> h = None
    >>> for x in np.ones((7, 2, 3), np.float32):
    ...     h = cell(x, h)
    >>> h.shape
    (2, 5)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        *,
        dtype: DTypeLike = np.float32,
        rng: Seed = None,
    ) -> None:
        layer = _RNN(input_size, hidden_size, nonlinearity=nonlinearity, bias=bias, dtype=dtype, rng=rng)
        self.nonlinearity = layer.nonlinearity
        super().__init__(layer)


class GRUCell(RecurrentCell):
    """One step of a GRU.

    Parameters
    ----------
    input_size, hidden_size, bias, dtype, rng
        As for ``RNNCell``.

    Raises
    ------
    TypeError, ValueError
        As for ``RNNCell``.

    Examples
    --------
    >>> import numpy as np, nbrnn
    >>> cell = nbrnn.GRUCell(3, 5, rng=0)
    >>> cell(np.ones((2, 3), np.float32)).shape
    (2, 5)
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, *, dtype: DTypeLike = np.float32, rng: Seed = None
    ) -> None:
        super().__init__(_GRU(input_size, hidden_size, bias=bias, dtype=dtype, rng=rng))


class LSTMCell(RecurrentCell):
    """One step of an LSTM: ``h, c = cell(x, (h, c))``.

    Parameters
    ----------
    input_size, hidden_size, bias, dtype, rng
        As for ``RNNCell``.

    Raises
    ------
    TypeError, ValueError
        As for ``RNNCell``.

    Examples
    --------
    >>> import numpy as np, nbrnn
    >>> cell = nbrnn.LSTMCell(3, 5, rng=0)
    >>> h, c = cell(np.ones((2, 3), np.float32))
    >>> h.shape, c.shape
    ((2, 5), (2, 5))
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, *, dtype: DTypeLike = np.float32, rng: Seed = None
    ) -> None:
        super().__init__(_LSTM(input_size, hidden_size, bias=bias, dtype=dtype, rng=rng))
