"""Networks of layers: Sequential.

All parts of a network follow one protocol, that of the recurrent layers::

    y, state = part(x, state=None, lengths=None)
    y, state, tape = part.forward(x, state=None, lengths=None, rng=None)
    grads = part.backward(tape, dy=None, dstate=None)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _check
from ._cuda.array import DeviceArray
from ._memory import fresh
from ._params import Parameters
from ._place import Place, place_of
from .embedding import Embedding
from .module import Gradients, Module, Seed, Tape
from .recurrent import Recurrent

Array = NDArray[Any]


class Sequential(Module):
    """Parts one after another.

    The parts' parameters move into one vector, ``flat``; the parts go on working by themselves, but none can be part
    of two networks, and arrays that their ``params`` handed out before stay as they were.  A state is a tuple with an
    entry for each part, None where it has none.

    Parameters
    ----------
    *parts : Module
        Of one dtype; the recurrent ones all with the same ``batch_first``, which then is that of the network.  An
        Embedding can only be the first; after a Pool there are no steps, so that neither a recurrent part nor another
        Pool can follow.

    Raises
    ------
    TypeError, ValueError
        A part isn't one, or doesn't go with the others.

    Examples
    --------
    >>> import numpy as np, nbrnn
    >>> net = nbrnn.Sequential(nbrnn.GRU(3, 5, rng=0), nbrnn.Linear(5, 2, rng=1))
    >>> y, state = net(np.ones((7, 2, 3), np.float32))
    >>> y.shape, state[0].shape, state[1]
    ((7, 2, 2), (1, 2, 5), None)
    >>> list(net.params)[-1], net.flat.shape
    ('1.bias', (162,))

    Words of 7 and 4 letters, each with a vector of three numbers for its class:

    >>> net = nbrnn.Sequential(nbrnn.Embedding(26, 8), nbrnn.LSTM(8, 16), nbrnn.Pool("last"), nbrnn.Linear(16, 3))
    >>> net(np.zeros((7, 2), int), lengths=[7, 4])[0].shape
    (2, 3)
    """

    def __init__(self, *parts: Module) -> None:
        super().__init__()
        for q, part in enumerate(parts):
            if not isinstance(part, Module):
                raise TypeError(f"part {q} must be a layer or a network, got {type(part).__name__}")
        if not parts:
            raise ValueError("a network must have at least one part, got none")
        pooled = None
        for q, part in enumerate(parts):
            if q and part._x_axes == 2:
                raise ValueError(f"an Embedding takes integers, so that it must be the first part, got it as part {q}")
            if pooled is not None and (part._needs_steps or part._recurrent):
                raise ValueError(f"part {q} needs sequences, but part {pooled} (a Pool) leaves none")
            if not part._keeps_steps:
                pooled = q
        axes = {part.batch_first for part in parts} - {None}
        if len(axes) > 1:
            raise ValueError("batch_first must be the same for all parts, got both")
        self.batch_first = axes.pop() if axes else None
        self._parts = parts
        self._fix()
        self._parameters = Parameters.join({str(q): part._parameters for q, part in enumerate(parts)})

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, index: int) -> Module:
        return self._parts[index]

    def __iter__(self) -> Iterator[Module]:
        return iter(self._parts)

    def _architecture(self) -> dict[str, Any]:
        return {"parts": self._parts}

    def _states(self, state: Any, name: str) -> tuple[Any, ...]:
        if state is None:
            return (None,) * len(self._parts)
        if not isinstance(state, tuple | list):
            raise TypeError(f"{name} must be a tuple with an entry for each part, got {type(state).__name__}")
        if len(state) != len(self._parts):
            raise ValueError(f"{name} must have {len(self._parts)} entries, one for each part, got {len(state)}")
        return tuple(state)

    def _turn(self, part: Module, a: Any, axes: int = 3) -> Any:
        """Between the network's axes and those of a part that takes (T, B, ...) only: a view.

        ``axes`` is how many there are where two of them are T and B.
        """
        turned = self.batch_first and part.batch_first is None and getattr(a, "ndim", 0) == axes
        return a.swapaxes(0, 1) if turned else a

    def __call__(
        self, x: Array, state: Any = None, lengths: Any = None, resets: Any = None, *, stream: Any = None
    ) -> tuple[Array, tuple[Any, ...]]:
        """Run the network for inference.

        Parameters
        ----------
        x : ndarray
            As the first part takes it.  After ``to("cuda")`` it and the state are on the GPU, and so is what comes of
            them, of its kind.
        state : tuple, optional
            An entry for each part; None stands for zeros.
        lengths, resets : array_like, optional
            As for the recurrent layers; y past a sequence's end is 0.  None of what follows a Pool sees them.
        stream : CUDA stream, optional
            On a GPU, where to run; None: the stream in use by the library that x is of.

        Returns
        -------
        y : ndarray
        state : tuple

        Raises
        ------
        TypeError, ValueError, MemoryError
            As of the parts.
        """
        place = place_of(x, "x", self._parameters, stream)
        if place is not None:
            with place.on(stream):
                y, states = self._call(place.adopt(x, "x"), state, lengths, resets)
                return place.wrap(y), place.wrap(states)
        return self._call(x, state, lengths, resets)

    def _call(self, x: Any, state: Any, lengths: Any, resets: Any) -> tuple[Any, tuple[Any, ...]]:
        states = []
        self._check_used(resets=resets)
        for q, (part, given) in enumerate(zip(self._parts, self._states(state, "state"), strict=True)):
            cuts = {"resets": resets} if part._recurrent else {}
            own = self._turn(part, x, part._x_axes)
            if chooses(self._parts, q, own):
                y, after = part._choose(own, given, lengths)[0], None  # type: ignore[attr-defined]
            else:
                y, after = part(own, given, lengths, **cuts)
            x, lengths = self._turn(part, y), part._lengths_after(lengths)
            states.append(after)
        return x, tuple(states)

    def forward(
        self,
        x: Array,
        state: Any = None,
        lengths: Any = None,
        resets: Any = None,
        rng: Seed = None,
        checkpoint: int | str | None = None,
        *,
        stream: Any = None,
    ) -> tuple[Array, tuple[Any, ...], Tape]:
        """Run the network for training.

        Parameters
        ----------
        x, state, lengths, resets
            As in a call; x must not be changed before ``backward``.
        rng : numpy.random.Generator, seed or None
            Where all that is drawn for dropout comes from; None: each part's own generator.
        checkpoint : int or "sqrt", optional
            For the recurrent parts; see there.
        stream : CUDA stream, optional
            As in a call.

        Returns
        -------
        y : ndarray
            Read-only.
        state : tuple
        tape : Tape
            For one ``backward``.

        Raises
        ------
        TypeError, ValueError, MemoryError
            As of the parts.
        """
        rng = None if rng is None else self._generator(rng)
        place = place_of(x, "x", self._parameters, stream)
        if place is not None:
            with place.on(stream):
                y, after, tape = self._forward(place.adopt(x, "x"), state, lengths, resets, rng, checkpoint)
                tape.place = place
                return place.wrap(y), place.wrap(after), tape
        return self._forward(x, state, lengths, resets, rng, checkpoint)

    def _forward(
        self, x: Any, state: Any, lengths: Any, resets: Any, rng: Seed, checkpoint: int | str | None
    ) -> tuple[Any, tuple[Any, ...], SequentialTape]:
        states, tapes = [], []
        self._check_used(resets=resets, checkpoint=checkpoint)
        for q, (part, given) in enumerate(zip(self._parts, self._states(state, "state"), strict=True)):
            more = {"resets": resets, "checkpoint": checkpoint} if part._recurrent else {}
            own = self._turn(part, x, part._x_axes)
            if chooses(self._parts, q, own):
                (y, tape), after = part._choose(own, given, lengths), None  # type: ignore[attr-defined]
            else:
                y, after, tape = part.forward(own, given, lengths, rng=rng, **more)
            x, lengths = self._turn(part, y), part._lengths_after(lengths)
            states.append(after)
            tapes.append(tape)
        return x, tuple(states), SequentialTape(self, tapes, x)

    def backward(
        self, tape: Tape, dy: Array | None = None, dstate: Any = None, retain: bool = False, *, stream: Any = None
    ) -> Gradients:
        """Backpropagation through all parts.

        Parameters
        ----------
        tape : Tape
            From ``forward`` of this network, with the parameters unchanged since.
        dy : ndarray, shape of y, optional
            Gradient of the loss for y; None stands for zero.
        dstate : tuple, optional
            Gradients for the final states, an entry for each part; None stands for zero.
        retain : bool
            Leave the tape usable for another ``backward``.
        stream : CUDA stream, optional
            As in a call.

        Returns
        -------
        Gradients
            ``x`` (None where x is integers), ``state`` (with an entry for each part), ``params``, ``flat``.

        Raises
        ------
        RuntimeError
            The tape has been used, or the parameters have changed since.
        TypeError, ValueError
            An argument is of the wrong kind, shape or dtype; the tape stays usable.
        """
        if not isinstance(tape, SequentialTape):
            raise TypeError(f"tape must come from forward of this network, got {type(tape).__name__}")
        retain = _check.flag(retain, "retain")
        with tape._lock:
            if tape.place is None:
                if stream is not None:
                    raise ValueError(f"stream must be None on the CPU, got {stream!r}")
                return self._go_back(tape, dy, dstate, retain)
            with tape.place.on(stream):
                return self._go_back_there(tape, tape.place, dy, dstate, retain)

    def _go_back(self, tape: SequentialTape, dy: Array | None, dstate: Any, retain: bool) -> Gradients:
        self._check_dstate(tape, dstate)
        if dy is not None:
            dy = _check.array(dy, "dy", tape.dtype)
            _check.shape(dy, "dy", tape.y_shape)
        flat = fresh((self._parameters.size,), self._parameters.dtype)
        dx, states = self._through_parts(tape, dy, dstate, retain, flat.__setitem__)
        return Gradients(dx, states, None, flat, self._parameters.shapes)

    def _go_back_there(self, tape: SequentialTape, place: Place, dy: Any, dstate: Any, retain: bool) -> Gradients:
        self._check_dstate(tape, dstate)
        slope = None
        if dy is not None:
            slope = place.adopt(dy, "dy", tape.dtype)
            _check.shape(slope, "dy", tape.y_shape)  # type: ignore[arg-type]
        flat = DeviceArray.empty(place.machine, (self._parameters.size,), self._parameters.dtype)

        def put(at: slice, gradients: Any) -> None:
            place.machine.copy(flat.flat[at], gradients.numbers())

        dx, states = self._through_parts(tape, slope, dstate, retain, put)
        return Gradients(place.wrap(dx), place.wrap(states), None, place.wrap(flat), self._parameters.shapes)

    def _through_parts(
        self, tape: SequentialTape, dy: Any, dstate: Any, retain: bool, put: Callable[[slice, Any], None]
    ) -> tuple[Any, tuple[Any, ...]]:
        """dx and the gradients for the states; ``put`` is told where those of a part's parameters belong."""
        states: list[Any] = []
        end = self._parameters.size
        given = self._states(dstate, "dstate")
        for part, own, after in reversed(list(zip(self._parts, tape.tapes, given, strict=True))):
            grads = part.backward(own, self._turn(part, dy), after, retain)
            dy = self._turn(part, grads.x)
            states.insert(0, grads.state)
            put(slice(end - grads.flat.size, end), grads.flat)
            end -= grads.flat.size
        if not retain:
            tape._consume()
        return dy, tuple(states)

    def _check_dstate(self, tape: Any, dstate: Any) -> None:
        """Everything that could be wrong, before any part's tape is used up."""
        tape._check(self)
        for part, own, given in zip(self._parts, tape.tapes, self._states(dstate, "dstate"), strict=True):
            own._check(part)
            part._check_dstate(own, given)

    def _check_used(self, **options: Any) -> None:
        """Raise if an option is given that no part takes."""
        for name, value in options.items():
            if value is not None and not self._recurrent:
                raise ValueError(f"{name} must be None for a network without recurrent parts, got {value!r}")

    @property
    def _recurrent(self) -> bool:  # type: ignore[override]
        return any(part._recurrent for part in self._parts)

    @property
    def _x_axes(self) -> int:  # type: ignore[override]
        return self._parts[0]._x_axes

    @property
    def _needs_steps(self) -> bool:  # type: ignore[override]
        return any(part._needs_steps or part._recurrent for part in self._parts)

    @property
    def _keeps_steps(self) -> bool:  # type: ignore[override]
        return all(part._keeps_steps for part in self._parts)

    def _lengths_after(self, lengths: Any) -> Any:
        for part in self._parts:
            lengths = part._lengths_after(lengths)
        return lengths

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the parameters."""
        return self._parameters.dtype

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_parameters": None}  # the parts have them

    def __setstate__(self, state: dict[str, Any]) -> None:
        parts = {str(q): part._parameters for q, part in enumerate(state["_parts"])}
        vars(self).update(state | {"_parameters": Parameters.join(parts)})

    def __repr__(self) -> str:
        inner = "".join(f"\n  {q}: " + repr(part).replace("\n", "\n  ") for q, part in enumerate(self._parts))
        return f"<{self._called()}: {self._parameters.size:,} parameters>{inner}"


class SequentialTape(Tape):
    """What ``forward`` of a Sequential leaves for ``backward``."""

    #: Where it is kept; None: on the CPU.
    place: Place | None = None

    def __init__(self, module: Module, tapes: list[Tape], y: Array) -> None:
        super().__init__(module)
        self.tapes, self.y_shape, self.dtype = tapes, y.shape, y.dtype

    def _release(self) -> None:
        del self.tapes


def chooses(parts: Sequence[Module], q: int, x: Any) -> bool:
    """Whether part q, given x (T, B), is an Embedding that had better hand the next, recurrent part a choice out of its
    vectors than what it chose.
    """
    if q + 1 >= len(parts) or not isinstance(x, np.ndarray) or x.ndim != 2:
        return False
    first, second = parts[q : q + 2]
    if not isinstance(first, Embedding) or not isinstance(second, Recurrent):
        return False
    fits = first.embedding_dim == second.input_size and first.dtype == second.dtype
    here = first._parameters.machine is second._parameters.machine is None
    return fits and here and second._stack().takes_choices(x.size, first.num_embeddings)
