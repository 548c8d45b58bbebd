"""What all recurrent layers share: arguments, calls, tapes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import _cells, _check, _small, initial
from ._axes import Axes
from ._cpu.packing import join_forward
from ._cuda.exchange import kind_of
from ._engine.chain import Pass
from ._engine.rooms import Rooms
from ._engine.stack import Stack, Stacks
from ._memory import SURELY, fresh, require
from ._params import Parameters
from ._passes import RecurrentTape, checkpoint_every, drops_of
from ._place import is_there
from ._recurrent_device import OnDevice
from .module import Gradients, Module, Seed, Tape
from .stream import Stream

Array = NDArray[Any]
State = Array | tuple[Array, Array] | None


class Recurrent(Module):
    """What RNN, GRU and LSTM share; see there.

    A subclass names its ``cell``, and has with that all that they have.
    """

    #: The mathematics of a step.
    cell: type[_cells.Cell]
    _recurrent = True
    #: Size of what h is projected to; 0: it isn't.
    proj_size: int = 0
    #: What the biases of a gate f begin with, both together; None: as the others.
    forget_bias: float | None = None

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        dtype: DTypeLike = np.float32,
        rng: Seed = None,
        recurrent_dropout: float = 0.0,
        kernel_init: initial.Init = None,
        recurrent_init: initial.Init = None,
    ) -> None:
        super().__init__(rng)
        self.input_size = _check.size(input_size, "input_size")
        self.hidden_size = _check.size(hidden_size, "hidden_size")
        self.num_layers = _check.size(num_layers, "num_layers")
        self.bias = _check.flag(bias, "bias")
        self.batch_first = _check.flag(batch_first, "batch_first")
        self.dropout = _check.number(dropout, "dropout", 0, 1)
        self.bidirectional = _check.flag(bidirectional, "bidirectional")
        self.dtype = _check.float_dtype(dtype)
        self.recurrent_dropout = _check.number(recurrent_dropout, "recurrent_dropout", 0, 1)
        self.kernel_init = initial.known(kernel_init, "kernel_init")
        self.recurrent_init = initial.known(recurrent_init, "recurrent_init")
        self._axes = Axes(
            self.input_size,
            self.hidden_size,
            self.proj_size or self.hidden_size,
            self.num_layers,
            2 if self.bidirectional else 1,
            self.cell.extras(),
            self.batch_first,
            self.dtype,
        )
        require(self._called, self.dtype, parameters=self._count())
        shapes = self._shapes()
        self._parameters = Parameters(shapes, self.dtype)
        for name, shape in shapes.items():  # one by one: the draws are of float64, and may be large
            self.params[name] = self._draw(name, shape)
        self._stacks: Stacks | None = None
        self._device: OnDevice | None = None
        self._rooms = Rooms()
        self._fix()

    def _count(self) -> int:
        """Number of parameters."""
        D, K, H, L = self._axes.D, self._axes.K, self.hidden_size, self.num_layers
        inputs = self.input_size + (L - 1) * D * K
        each = len(self.cell.gates) * H * (K + 2 * self.bias) + self.proj_size * H
        return D * (len(self.cell.gates) * H * inputs + L * each)

    def _suffixes(self) -> list[str]:
        """What the names of the parameters of each layer and direction end in."""
        return [f"_l{layer}{way}" for layer in range(self.num_layers) for way in ("", "_reverse")[: self._axes.D]]

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the parameters, in torch's order."""
        D, K = self._axes.D, self._axes.K
        rows = len(self.cell.gates) * self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {}
        for unit, name in enumerate(self._suffixes()):
            shapes["weight_ih" + name] = (rows, self.input_size if unit < D else D * K)
            shapes["weight_hh" + name] = (rows, K)
            if self.bias:
                shapes["bias_ih" + name] = shapes["bias_hh" + name] = (rows,)
            if self.proj_size:
                shapes["weight_hr" + name] = (self.proj_size, self.hidden_size)
        return shapes

    def _draw(self, name: str, shape: Any) -> Array:
        """What a parameter begins with."""
        gates = self.cell.gates
        for kind, setting in (("weight_ih", "kernel_init"), ("weight_hh", "recurrent_init")):
            init = getattr(self, setting)
            if name.startswith(kind) and init is not None:
                return initial.stacked(init, setting, shape, len(gates), self._rng)
        bound = 1 / math.sqrt(self.hidden_size)
        values = self._rng.uniform(-bound, bound, shape)
        if self.forget_bias is not None and name.startswith("bias"):
            block = values.reshape(len(gates), -1)[gates.index("f")]
            block[:] = self.forget_bias if name.startswith("bias_ih") else 0  # so that their sum is exact
        return values

    def _by_unit(self, arrays: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """Arrays, or what else is named as the parameters, apart for each layer and direction, without the suffix."""
        kinds = ["weight_ih", "weight_hh"] + ["bias_ih", "bias_hh"] * self.bias + ["weight_hr"] * bool(self.proj_size)
        return [{kind: arrays[kind + name] for kind in kinds} for name in self._suffixes()]

    def _stack(self) -> Stack:
        """The network with its weights packed, as of now."""
        if self._stacks is None:
            shapes = self._by_unit(self._parameters.shapes)
            self._stacks = Stacks(self.cell, self.dtype, shapes, self._axes.D, self._rooms)
        return self._stacks.now(self._parameters.version, self._parameters.vector)

    def _there(self) -> OnDevice:
        """The network on the device that the parameters are on."""
        if self._device is None or self._device.machine is not self._parameters.machine:
            places = self._parameters.views_of(np.arange(self._parameters.size))
            self._device = OnDevice(self._axes, self.cell, self._parameters, self._by_unit(places))
        return self._device

    # What users call

    def __call__(
        self,
        x: Array,
        state: State = None,
        lengths: Any = None,
        resets: Any = None,
        out: Array | None = None,
        *,
        stream: Any = None,
    ) -> tuple[Array, Any]:
        """Run the layer for inference: nothing is dropped, nothing is kept.

        Parameters
        ----------
        x : ndarray, shape (T, B, I), or (B, T, I) with ``batch_first``, or (T, I) unbatched
            Of the layer's dtype; any strides, read-only or not.  T = 0 and B = 0 are valid.  After ``to("cuda")``, it
            and all arrays but ``lengths`` and ``resets`` are on the GPU, the last axis contiguous; results are then of
            its kind.
        state : ndarray, or pair of ndarrays for the LSTM, optional
            h of shape (L*D, B, K), c of shape (L*D, B, H), layer-major, then direction; without B for unbatched x.
            None stands for zeros.
        lengths : array_like of int, shape (B,), optional
            Steps of each sequence, 0..T, in any order.  What lies past a sequence's end has no influence, not even
            NaN; y there is exactly 0.  The reverse direction begins at a sequence's own last step; the final state
            is that after a sequence's own last step, or the initial state for length 0.
        resets : array_like of bool, shape (T, B), or (B, T) with ``batch_first``, or (T,) unbatched, optional
            ``resets[t, b]`` cuts sequence b between its steps t-1 and t, in every layer and both directions: the
            forward direction starts step t, and the reverse direction step t-1, from zero state.  ``resets[0]``
            discards the initial state of the forward direction.
        out : ndarray, optional
            Where y is written: of y's shape and dtype, not overlapping x or state.
        stream : CUDA stream, optional
            For a layer on the GPU, where to run; None: the stream in use by the library that x is of.

        Returns
        -------
        y : ndarray, shape (T, B, D*K), or (B, T, D*K) with ``batch_first``, or (T, D*K) unbatched
            Outputs of the last layer, forward direction first.
        state : as the argument
            The state after the last step of each sequence; aliases nothing.

        Raises
        ------
        TypeError
            An argument is of the wrong kind or dtype.
        ValueError
            An argument has the wrong shape or values.
        MemoryError
            The result doesn't fit in this machine's memory.

        Examples
        --------
        >>> import numpy as np, nbrnn
        >>> layer = nbrnn.GRU(3, 5, rng=0)
        >>> x = np.ones((7, 2, 3), np.float32)
        >>> y, h = layer(x, lengths=[7, 4])
        >>> y.shape, h.shape
        ((7, 2, 5), (1, 2, 5))
        >>> bool((y[4:, 1] == 0).all() and (h[0, 1] == y[3, 1]).all())
        True
        """
        plain = type(x) is np.ndarray and stream is self._parameters.machine is None
        if plain and (small := _small.infer(self._axes, self._stack(), x, state, lengths, resets, out)):
            return small
        if is_there(self._parameters, "x", kind_of(x), stream):
            return self._there().infer(x, state, lengths, resets, out, stream)
        call = self._axes.call(x, state, lengths, resets)
        shape = self._axes.y_shape(call.x.shape[0], call.x.shape[1], call.batched)
        stack, made = self._stack(), math.prod(shape) if out is None else 0
        between = stack.numbers_to_infer(call.batch)
        require(lambda: f"{self._called()} for x of shape {np.shape(x)}", self.dtype, y=made, between_layers=between)
        y = fresh(shape, self.dtype) if out is None else self._axes.output(out, shape, x, state)
        stack.infer(call.batch, call.x, self._axes.turn(y, call.batched), call.h, call.c)
        return y if out is None else out, self._axes.user_state(call.h, call.c, call.batched)

    def forward(
        self,
        x: Array,
        state: State = None,
        lengths: Any = None,
        resets: Any = None,
        rng: Seed = None,
        checkpoint: int | str | None = None,
        *,
        stream: Any = None,
    ) -> tuple[Array, Any, Tape]:
        """Run the layer for training: applies the dropout that is set, and keeps what ``backward`` needs.

        Parameters
        ----------
        x, state, lengths, resets
            As in a call.  x must not be changed before ``backward``: the tape refers to it.
        rng : numpy.random.Generator, seed or None
            Where the key of the dropout comes from; None: the layer's own generator.  Not touched without dropout.
        checkpoint : int or "sqrt", optional
            Keep only the states every so many steps, and compute the rest again in ``backward``: less memory, for the
            time of one more run forward.  "sqrt" stands for the ceiling of the square root of T.  What layers hand to
            each other is computed again as well in a unidirectional stack, and kept in a bidirectional one.
        stream : CUDA stream, optional
            As in a call.

        Returns
        -------
        y : ndarray
            As in a call; read-only, since the tape refers to it.
        state
            As in a call.
        tape : Tape
            For one ``backward``.

        Raises
        ------
        TypeError, ValueError, MemoryError
            As in a call.

        Examples
        --------
        >>> import numpy as np, nbrnn
        >>> layer = nbrnn.LSTM(3, 5, rng=0)
        >>> x = np.ones((7, 2, 3), np.float32)
        >>> y, (h, c), tape = layer.forward(x)
        >>> grads = layer.backward(tape, dy=2 * y)     # of the loss (y ** 2).sum()
        >>> grads.x.shape, grads.params["weight_ih_l0"].shape, grads.flat.shape
        ((7, 2, 3), (20, 3), (200,))
        """
        if is_there(self._parameters, "x", kind_of(x), stream):
            return self._there().record(self, x, state, lengths, resets, rng, checkpoint, stream)
        rng = self._generator(rng)
        drops = self.recurrent_dropout > 0 or (self.dropout > 0 and self.num_layers > 1)
        plain = type(x) is np.ndarray and checkpoint is None and not drops
        if plain and (small := _small.record(self, self._axes, self._stack(), x, state, lengths, resets)):
            return small
        call = self._axes.call(x, state, lengths, resets)
        stack = self._stack()
        way = Pass(call.batch, *drops_of(self, rng), checkpoint_every(checkpoint, call.batch.steps))
        shape = self._axes.y_shape(call.x.shape[0], call.x.shape[1], call.batched)
        if (stack.kept_at_most + shape[-1]) * math.prod(shape[:-1]) >= SURELY:
            called, tape_size = f"{self._called()}.forward for x of shape {np.shape(x)}", stack.numbers_to_record(way)
            require(lambda: called, self.dtype, y=math.prod(shape), tape=tape_size)
        base = fresh(shape, self.dtype)
        record = stack.record(way, call.x, self._axes.turn(base, call.batched), list(call.h), list(call.c))
        base.flags.writeable = False
        tape = RecurrentTape(self, stack, record, call.batched, call.dx_shape, shape)
        return base.view(), self._axes.user_state(call.h, call.c, call.batched), tape

    def backward(
        self, tape: Tape, dy: Array | None = None, dstate: Any = None, retain: bool = False, *, stream: Any = None
    ) -> Gradients:
        """Backpropagation through time, exact.

        Parameters
        ----------
        tape : Tape
            From ``forward`` of this layer, with the parameters unchanged since.
        dy : ndarray, shape of y, optional
            Gradient of the loss for y; None stands for zero.  What lies past a sequence's end is ignored.
        dstate : as state, optional
            Gradient for the final state; None, for all or for one of the pair (h, c), stands for zero.
        retain : bool
            Leave the tape usable for another ``backward`` (costs a copy of what it keeps).
        stream : CUDA stream, optional
            As in a call.

        Returns
        -------
        Gradients
            ``x`` (shape of x; 0 past a sequence's end), ``state`` (for the initial state), ``params``, ``flat``.

        Raises
        ------
        RuntimeError
            The tape has been used, or the parameters have changed since.
        TypeError, ValueError
            An argument is of the wrong kind, shape or dtype; the tape stays usable.
        """
        if not isinstance(tape, RecurrentTape):
            raise TypeError(f"tape must come from forward of this layer, got {type(tape).__name__}")
        retain = _check.flag(retain, "retain")
        with tape._lock:
            tape._check(self)
            if is_there(self._parameters, "tape", tape.kind, stream):
                return self._there().backward(self, tape, dy, dstate, retain, stream)
            record = tape.record
            if dy is not None:
                dy = _check.array(dy, "dy", self.dtype)
                _check.shape(dy, "dy", tape.y_shape)
                dy = self._axes.turn(dy, tape.batched)
            dh, dc = self._check_dstate(tape, dstate)
            small = isinstance(record, _small.Record)
            if not small:
                between, dx_size = tape.stack.numbers_to_go_back(record, retain), math.prod(tape.x_shape)
                require(lambda: f"{self._called()}.backward", self.dtype, dx=dx_size, between_layers=between)
            dx = fresh(tape.x_shape, self.dtype, zero=not record.way.batch.full)
            flat = fresh((self._parameters.size,), self.dtype)
            try:
                into = dx if record.chosen else self._axes.turn(dx, tape.batched)
                if small:
                    record.back(dy, into, dh, dc, flat, retain)
                else:
                    tape.stack.back(record, dy, into, list(dh), list(dc), flat, retain)
            finally:
                if not retain:
                    tape._consume()  # even if interrupted: what it kept has been worked on in place
            dstate = self._axes.user_state(dh, dc, tape.batched)
            return Gradients(dx, dstate, None, flat, self._parameters.shapes)

    def _check_dstate(self, tape: Any, dstate: Any) -> Any:
        if self._parameters.machine is not None:
            return self._there().states(dstate, "dstate", tape.record.way.batch.size, tape.batched, missing=True)
        return self._axes.states(dstate, "dstate", tape.record.way.batch.size, tape.batched, missing=True)

    def stream(self, batch_size: int | None = None) -> Stream:
        """A stream: takes one step at a time and carries the state.

        Parameters
        ----------
        batch_size : int, optional
            Sequences that run side by side; None: one, without an axis for it.

        Returns
        -------
        Stream
            A snapshot of the parameters, for one thread at a time.

        Raises
        ------
        ValueError
            The layer is bidirectional: its output at a step depends on all later ones.

        Examples
        --------
        >>> import numpy as np, nbrnn
        >>> layer = nbrnn.GRU(3, 5, rng=0)
        >>> stream = layer.stream()
        >>> x = np.ones((2, 3), np.float32)
        >>> y0, y1 = stream(x[0]), stream(x[1])
        >>> bool(np.allclose(y1, layer(x)[0][1]))
        True
        """
        if self.bidirectional:
            raise ValueError("stream needs a layer of one direction, this one is bidirectional")
        if self._parameters.machine is not None:
            raise ValueError(
                "stream needs a layer on the CPU, this one is on the GPU: call it for one step, with a state"
            )
        size = None if batch_size is None else _check.size(batch_size, "batch_size", 0)
        return Stream(self._stack(), self._axes, size)

    def jit(self) -> Any:
        """The layer for your own compiled code; see ``nbrnn.jit``.

        Returns
        -------
        NamedTuple
            A snapshot of the parameters, for functions compiled by Numba (of a layer on a GPU: by ``@cuda.jit``).

        Raises
        ------
        ValueError
            The layer is bidirectional: its output at a step depends on all later ones.
        """
        if self.bidirectional:
            raise ValueError("jit needs a layer of one direction, this one is bidirectional")
        if self._parameters.machine is not None:
            return self._there().net(self.cell, self._by_unit(self._parameters.views_of(self._parameters.numpy())))
        units = self._stack().units
        return join_forward([unit.net_of_steps for unit in units])

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_stacks": None, "_device": None, "_rooms": Rooms()}
