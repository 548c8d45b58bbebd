"""What every network has in common: parameters, tapes, gradients."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import re
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._cpu.moves import views
from ._params import Parameters, Storage

if TYPE_CHECKING:
    from typing import Self  # of Python 3.11

Array = NDArray[Any]
Seed = np.random.Generator | np.random.SeedSequence | int | None


@dataclasses.dataclass(init=False, repr=False, eq=False)
class Gradients:
    """Gradients of a loss.

    Parameters
    ----------
    x, state, params, flat
        See below.
    shapes : mapping of str to tuple
        Where ``params`` is None: the names and shapes of what ``flat`` consists of, in order.

    Attributes
    ----------
    x : ndarray
        For the input, in its shape; None where that is integers.
    state : as the state
        For the initial state; None where there is none.
    params : dict of str to ndarray
        For the parameters: views of ``flat``.
    flat : ndarray
        For all parameters, as one vector in the order of ``layer.flat``.
    """

    x: Array | None
    state: Any
    params: Mapping[str, Array]
    flat: Array

    def __init__(
        self,
        x: Array | None,
        state: Any,
        params: Mapping[str, Array] | None,
        flat: Array,
        shapes: Mapping[str, tuple[int, ...]] | None = None,
    ) -> None:
        self.x, self.state, self.flat = x, state, flat
        self._params, self._shapes = params, shapes

    @property  # type: ignore[no-redef]
    def params(self) -> Mapping[str, Array]:
        """Made when first asked for: that may take as long as a step of a small layer, and optimisers don't ask."""
        if self._params is None:
            self._params = views(self.flat, self._shapes or {})
        return self._params

    @params.setter
    def params(self, params: Mapping[str, Array]) -> None:
        self._params, self._shapes = params, None

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Of ``params``."""
        if self._shapes is None:
            self._shapes = {name: tuple(a.shape) for name, a in self.params.items()}
        return self._shapes

    def __repr__(self) -> str:
        return f"Gradients(x={self.x!r}, state={self.state!r}, params={self.params!r})"

    def __reduce__(self) -> Any:
        """A copy's ``params`` are views of its own ``flat``."""
        return Gradients, (self.x, self.state, None, self.flat, dict(self.shapes))


class Tape:
    """What a forward pass leaves for the way back; used once, unless told otherwise."""

    def __init__(self, module: Parametric) -> None:
        self._module = module
        self._version = module._parameters.version
        self._used = False
        # One backward at a time: it works in place.  (And a lock can't be copied, nor then can a tape.)
        self._lock = threading.Lock()

    def _check(self, module: Parametric) -> None:
        if self._module is not module:
            raise ValueError("tape must come from forward of this very layer or network, got another's")
        if self._used:
            raise RuntimeError("tape has been used: call forward again, or backward with retain=True before")
        if self._version != module._parameters.version:
            raise RuntimeError("tape is out of date: the parameters have changed since forward; call forward again")

    def _consume(self) -> None:
        self._used = True
        self._release()

    def _release(self) -> None:
        """Let go of what was kept."""

    def __repr__(self) -> str:
        return f"<tape of {self._module!r}{', used' if self._used else ''}>"


class Parametric:
    """Something with parameters, that can be copied, pickled and shown.

    Calls may run on several threads at once; that no thread assigns parameters meanwhile is the caller's business.
    A subclass keeps each argument of its constructor under its own name, for ``repr``, and ends with ``_fix()``.

    Parameters
    ----------
    rng : numpy.random.Generator, seed or None
    """

    _fixed: frozenset[str] = frozenset()
    _cpu_only: bool = False

    def __init_subclass__(cls, cpu_only: bool = False, **options: Any) -> None:
        """``cpu_only``: a class of what can't be moved to a GPU."""
        super().__init_subclass__(**options)
        cls._cpu_only = cls._cpu_only or cpu_only

    def __init__(self, rng: Seed = None) -> None:
        self._rng = generator(rng)
        self._parameters = Parameters({}, np.float32)

    @property
    def params(self) -> Parameters:
        """Parameters by name: read-only live views; assign to an entry to change it (copies in, casts)."""
        return self._parameters

    @property
    def flat(self) -> Array:
        """All parameters as one contiguous vector: a read-only live view; assign to change them (copies in, casts)."""
        return self._parameters.flat

    @flat.setter
    def flat(self, vector: ArrayLike) -> None:
        self._parameters.flat = vector

    @property
    def device(self) -> str:
        """Where the parameters are: "cpu", or "cuda" with ":n" for a device other than the first."""
        machine = self._parameters.machine
        return "cpu" if machine is None else f"cuda:{machine.ordinal}" if machine.ordinal else "cuda"

    def to(self, device: str) -> Self:
        """Move the parameters, in place.

        From then on, calls take arrays of that device and give back their kind; tapes from before are out of date.

        Parameters
        ----------
        device : str
            "cpu", "cuda" (the first GPU) or "cuda:n".

        Returns
        -------
        Parametric
            This one.

        Raises
        ------
        TypeError, ValueError
            There is no such device, or this is part of a network: the whole must be moved.
        RuntimeError
            The GPU can't be used: the message says what is missing.

        Examples
        --------
        >>> import nbrnn
        >>> layer = nbrnn.LSTM(3, 5)
        >>> layer.to("cpu").device
        'cpu'
        """
        if not isinstance(device, str):
            raise TypeError(f"device must be a string, got {type(device).__name__}")
        found = re.fullmatch(r"cpu|cuda(?::(\d+))?", device)
        if found is None:
            raise ValueError(f"device must be 'cpu', 'cuda' or 'cuda:n', got {device!r}")
        parameters = self._parameters
        if parameters._whole() is not None:
            raise ValueError("device must be that of the whole network: call its to(), not that of a part")
        if device == "cpu":
            if parameters.machine is not None:
                parameters.move(Storage(parameters.size, parameters.dtype), 0)
                parameters._changed()
            return self
        if self._cpu_only:
            raise ValueError(f"device must be 'cpu' for a {type(self).__name__}, which runs there only, got {device!r}")
        from ._cuda import current
        from ._cuda.array import DeviceStorage
        from ._cuda.exchange import adopted

        machine = current.machine(int(found[1] or 0))
        if machine is not parameters.machine:
            parameters.move(DeviceStorage(machine, parameters.size, parameters.dtype, adopted), 0)
            parameters._changed()
        return self

    def _generator(self, rng: Seed) -> np.random.Generator:
        return self._rng if rng is None else generator(rng)

    def _fix(self) -> None:
        """All is built: what can be seen of it from outside stays as it is."""
        settings = {
            name
            for cls in type(self).__mro__
            for name, value in vars(cls).items()
            if isinstance(value, type) or not (callable(value) or isinstance(value, property))
        }
        self._fixed = frozenset(name for name in settings | set(vars(self)) if not name.startswith("_"))

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._fixed:
            raise AttributeError(f"{name} of {self!r} can't be changed: make another")
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        if name in self._fixed:
            raise AttributeError(f"{name} of {self!r} can't be removed")
        super().__delattr__(name)

    def _describe(self) -> list[str]:
        """What stands between the brackets of the repr: the constructor's arguments, without defaults."""
        parts = []
        for name, known in inspect.signature(type(self)).parameters.items():
            if name not in vars(self):
                continue
            value = vars(self)[name]
            if known.default is inspect.Parameter.empty:
                parts.append(repr(value))
            elif name == "dtype":
                parts.append(f"dtype={np.dtype(value).name}")
            elif repr(value) != repr(known.default):
                parts.append(f"{name}={value!r}")
        return parts

    def _architecture(self) -> dict[str, Any]:
        """The constructor's arguments by name, but for rng: ``type(self)(**arguments)`` is built as this is.

        Those of ``*parts`` come as a sequence, by the name ``parts``.
        """
        arguments = {}
        for name in inspect.signature(type(self)).parameters:
            if name != "rng":
                if not hasattr(self, name):
                    raise TypeError(
                        f"{type(self).__name__} must keep its argument {name} under that name, as self.{name}"
                    )
                arguments[name] = getattr(self, name)
        return arguments

    def _called(self) -> str:
        """What it is called in what is said of it."""
        return type(self).__name__

    def __repr__(self) -> str:
        count = self._parameters.size
        return f"<{self._called()}({', '.join(self._describe())}): {count:,} parameter{'s' * (count != 1)}>"

    def __copy__(self) -> Any:
        """As deepcopy: two that share parameters or a generator would be no copies."""
        return copy.deepcopy(self)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_parameters": (self._parameters.shapes, self._parameters.numpy(), self.device)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        shapes, flat, device = state["_parameters"]
        parameters = Parameters(shapes, flat.dtype)
        parameters.flat = flat
        vars(self).update(state | {"_parameters": parameters})
        self.to(device)


class Module(Parametric):
    """A network or a part of one: ``y, state = module(x, state, lengths)``."""

    #: Whether x and y are (B, T, ...); None: the module takes (T, B, ...), or doesn't care.
    batch_first: bool | None = None
    #: Whether there is a recurrent layer in it, which takes ``resets`` and ``checkpoint``.
    _recurrent: bool = False
    #: Axes of x where it is a batch of sequences: 3 for (T, B, n), 2 for integers (T, B).
    _x_axes: int = 3
    #: Whether x must have an axis of time, and whether y has one.
    _needs_steps: bool = False
    _keeps_steps: bool = True

    def __call__(self, x: Array, state: Any = None, lengths: Any = None) -> tuple[Array, Any]:
        """y and the state after, for inference."""
        raise NotImplementedError

    def forward(self, x: Array, state: Any = None, lengths: Any = None, *, rng: Seed = None) -> tuple[Array, Any, Tape]:
        """y, the state after, and a tape for ``backward``."""
        raise NotImplementedError

    def backward(self, tape: Tape, dy: Array | None = None, dstate: Any = None, retain: bool = False) -> Gradients:
        """Gradients from those for y and the state after."""
        raise NotImplementedError

    def _check_dstate(self, tape: Any, dstate: Any) -> Any:
        """Raise what ``backward`` would say of dstate."""
        raise NotImplementedError

    def _lengths_after(self, lengths: Any) -> Any:
        """Of y, for x of those lengths: None where y has no axis of time, or all of it counts."""
        return lengths


def require_on_cpu(net: Parametric) -> None:
    """Raise if the parameters of an argument ``net`` are on a GPU."""
    if net.device != "cpu":
        raise ValueError(f"net must be on the CPU for this, got one on {net.device!r}: call its to('cpu')")


def generator(rng: Seed) -> np.random.Generator:
    """A generator: the one given, one from a seed, or a fresh one."""
    if isinstance(rng, bool) or not isinstance(
        rng, np.random.Generator | np.random.SeedSequence | int | np.integer | None
    ):
        raise TypeError(f"rng must be a numpy.random.Generator, a seed or None, got {type(rng).__name__}")
    try:
        return np.random.default_rng(rng)
    except ValueError:
        raise ValueError(f"rng must be a numpy.random.Generator, a seed >= 0 or None, got {rng!r}") from None
