"""What the parts of a network without state share: calls, tapes, and what becomes of steps past a sequence's end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _check
from ._cuda.array import DeviceArray
from ._memory import fresh
from ._place import Place, place_of
from .module import Gradients, Module, Seed, Tape

Array = NDArray[Any]


class Stateless(Module):
    """A part without state.

    With ``lengths``, what lies past a sequence's end has no influence, and y and dx there are 0.
    """

    # What a subclass does.  ``ends`` are the lengths (B,) as int64; None where every step of x counts.

    def _check_x(self, x: Any) -> Array:
        """x, or an error."""
        raise NotImplementedError

    def _run(self, x: Array, ends: Array | None, rng: np.random.Generator | None) -> tuple[Array, Any]:
        """(y, what the way back needs); rng is None for inference."""
        raise NotImplementedError

    def _back(self, kept: Any, dy: Array, gradients: Mapping[str, Array]) -> Array | None:
        """dx; writes the gradients of the parameters."""
        raise NotImplementedError

    # The same for x on a device.

    def _run_there(
        self, x: DeviceArray, ends: Array | None, rng: np.random.Generator | None
    ) -> tuple[DeviceArray, Any]:
        """As ``_run``."""
        raise NotImplementedError

    def _back_there(self, kept: Any, dy: DeviceArray, gradients: Mapping[str, DeviceArray]) -> DeviceArray | None:
        """As ``_back``."""
        raise NotImplementedError

    def _own(self, name: str) -> DeviceArray:
        """A parameter that is on a device."""
        found: Any = self.params[name]
        assert isinstance(found, DeviceArray)
        return found

    def _enter(self, x: Any, state: Any, lengths: Any) -> tuple[Any, Array | None]:
        """x and the ends, checked."""
        if state is not None:
            raise ValueError(f"state must be None for {type(self).__name__}, got {type(state).__name__}")
        x = self._check_x(x)
        if lengths is None:
            return x, None
        if x.ndim != self._x_axes:
            axes = "(T, B)" if self._x_axes == 2 else "(T, B, n)"
            raise ValueError(f"lengths must be None unless x is {axes}, got x of shape {x.shape}")
        ends = _check.lengths(lengths, x.shape[1], x.shape[0])
        return x, None if (ends == x.shape[0]).all() else ends

    def __call__(self, x: Array, state: None = None, lengths: Any = None, *, stream: Any = None) -> tuple[Array, None]:
        """y for x, for inference.

        Parameters
        ----------
        x : ndarray
            As the part takes it; (T, B, ...) where there are ``lengths``.  After ``to("cuda")`` it is on the GPU, and
            so is y, of its kind; so it is for a part without parameters that is given an array there.
        state : None
            There is none: for the protocol of all parts.
        lengths : array_like of int, shape (B,), optional
            Steps of each sequence, 0..T.  What lies past them has no influence, not even NaN; y there is 0.  They are
            on the host.
        stream : CUDA stream, optional
            On a GPU, where to run; None: the stream in use by the library that x is of.

        Returns
        -------
        y : ndarray
        state : None

        Raises
        ------
        TypeError, ValueError
            An argument is of the wrong kind, shape or dtype.
        """
        place = place_of(x, "x", self._parameters, stream)
        if place is None:
            return self._run(*self._enter(x, state, lengths), None)[0], None
        with place.on(stream):
            y, _ = self._run_there(*self._enter(place.adopt(x, "x"), state, lengths), None)
            return place.wrap(y), None

    def forward(
        self, x: Array, state: None = None, lengths: Any = None, *, rng: Seed = None, stream: Any = None
    ) -> tuple[Array, None, StatelessTape]:
        """Run for training: applies dropout, and keeps what ``backward`` needs.

        Parameters
        ----------
        x, state, lengths
            As in a call; x must not be changed before ``backward``.
        rng : numpy.random.Generator, seed or None
            Where the key of the dropout comes from; None: the part's own generator.  Not touched without dropout.
        stream : CUDA stream, optional
            As in a call.

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
        place = place_of(x, "x", self._parameters, stream)
        if place is not None:
            with place.on(stream):
                own, kept = self._run_there(*self._enter(place.adopt(x, "x"), state, lengths), self._generator(rng))
                own.readonly = True
                return place.wrap(own), None, StatelessTape(self, own, kept, place)
        y, kept = self._run(*self._enter(x, state, lengths), self._generator(rng))
        # For good: a view of an array that itself is read-only can't be opened.
        for array in (y, y.base):
            if isinstance(array, np.ndarray):
                array.flags.writeable = False
        return y.view(), None, StatelessTape(self, y, kept)

    def backward(
        self, tape: Tape, dy: Array | None = None, dstate: None = None, retain: bool = False, *, stream: Any = None
    ) -> Gradients:
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
        stream : CUDA stream, optional
            As in a call.

        Returns
        -------
        Gradients
            ``x`` (None where x is integers), ``params``, ``flat``; ``state`` is None.

        Raises
        ------
        RuntimeError
            The tape has been used, or the parameters have changed since.
        TypeError, ValueError
            An argument is of the wrong kind, shape or dtype; the tape stays usable.
        """
        if not isinstance(tape, StatelessTape):
            raise TypeError(f"tape must come from forward of this part, got {type(tape).__name__}")
        retain = _check.flag(retain, "retain")
        with tape._lock:
            tape._check(self)
            self._check_dstate(tape, dstate)
            if tape.place is not None:
                with tape.place.on(stream):
                    return self._backward_there(tape, tape.place, dy, retain)
            if stream is not None:
                raise ValueError(f"stream must be None on the CPU, got {stream!r}")
            dy = np.zeros(tape.y_shape, tape.dtype) if dy is None else _check.array(dy, "dy", tape.dtype)
            _check.shape(dy, "dy", tape.y_shape)
            flat = fresh((self._parameters.size,), tape.dtype, zero=True)
            params = self._parameters.views_of(flat)
            dx = self._back(tape.kept, dy, params)
            if not retain:
                tape._consume()
            return Gradients(dx, None, None, flat, self._parameters.shapes)

    def _backward_there(self, tape: StatelessTape, place: Place, dy: Any, retain: bool) -> Gradients:
        if dy is None:
            slope = DeviceArray.zeros(place.machine, tape.y_shape, tape.dtype)
        else:
            slope = place.adopt(dy, "dy", tape.dtype)
            _check.shape(slope, "dy", tape.y_shape)  # type: ignore[arg-type]
        flat = DeviceArray.empty(place.machine, (self._parameters.size,), tape.dtype)
        params = self._parameters.views_of(flat)
        dx = self._back_there(tape.kept, slope, params)
        if not retain:
            tape._consume()
        return Gradients(place.wrap(dx), None, None, place.wrap(flat), self._parameters.shapes)

    def _check_dstate(self, tape: Any, dstate: Any) -> None:
        if dstate is not None:
            raise ValueError(f"dstate must be None for {type(self).__name__}, got {type(dstate).__name__}")


class StatelessTape(Tape):
    """What ``forward`` of a part without state leaves for ``backward``."""

    def __init__(self, module: Module, y: Array | DeviceArray, kept: Any, place: Place | None = None) -> None:
        super().__init__(module)
        self.y_shape, self.dtype, self.kept, self.place = y.shape, y.dtype, kept, place

    def _release(self) -> None:
        del self.kept


def given(x: Any, dtype: np.dtype[Any]) -> Array:
    """x of that dtype."""
    if not isinstance(x, DeviceArray):
        return _check.array(x, "x", dtype)
    if x.dtype != dtype:
        raise TypeError(f"x must be of dtype {dtype.name}, got {x.dtype.name}")
    return x  # type: ignore[return-value]


def floats(x: Any) -> Array:
    """x of float32 or float64, for parts that have no dtype of their own."""
    if isinstance(x, DeviceArray) and x.dtype.kind == "f":
        return x  # type: ignore[return-value]
    if not isinstance(x, np.ndarray) or x.dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        got = x.dtype if isinstance(x, np.ndarray) else type(x).__name__
        raise TypeError(f"x must be a NumPy array of float32 or float64, got {got}")
    return _check.array(x, "x", x.dtype)


def inside(ends: Array, steps: int) -> Array:
    """Which steps lie in their sequences: (T, B)."""
    return np.arange(steps)[:, None] < ends


class Rows:
    """The steps of a batch that count, as rows of a matrix: for parts that work on each step by itself.

    Where all count nothing is copied, be it (T, B, n) in memory or (B, T, n) that is seen as (T, B, n).
    """

    def __init__(self, x: Array, ends: Array | None) -> None:
        self.shape = x.shape[:-1]
        self.inside = None if ends is None else inside(ends, len(x))
        self.batch_first = x.ndim == 3 and not x.flags.c_contiguous and x.swapaxes(0, 1).flags.c_contiguous

    def of(self, a: Array) -> Array:
        """(N, n) of (..., n)."""
        if self.inside is not None:
            return a[self.inside]
        if a.ndim == 2:
            return a
        return (a.swapaxes(0, 1) if self.batch_first else a).reshape(-1, a.shape[-1])

    def back(self, rows: Array) -> Array:
        """(..., n) of (N, n): 0 where nothing counts."""
        n = rows.shape[-1]
        if self.inside is not None:
            a = fresh((*self.shape, n), rows.dtype, zero=True)
            a[self.inside] = rows
            return a
        if self.batch_first:
            return rows.reshape(*self.shape[::-1], n).swapaxes(0, 1)
        if len(self.shape) == 1:
            return rows
        return rows.reshape(*self.shape, n)
