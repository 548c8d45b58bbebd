"""What every network has in common: parameters, tapes, gradients."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._params import Parameters

Array = NDArray[Any]
Seed = np.random.Generator | np.random.SeedSequence | int | None


@dataclasses.dataclass
class Gradients:
    """Gradients of a loss.

    Attributes
    ----------
    x : ndarray
        For the input, in its shape.
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


class Tape:
    """What a forward pass leaves for the way back; used once, unless told otherwise."""

    def __init__(self, module: Parametric) -> None:
        self._module = module
        self._version = module._parameters.version
        self._used = False

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

    Each argument of a subclass's constructor must be an attribute of that name: copies, pickles and ``repr`` are made
    of them.

    Parameters
    ----------
    rng : numpy.random.Generator, seed or None
    """

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

    def _generator(self, rng: Seed) -> np.random.Generator:
        return self._rng if rng is None else generator(rng)

    def _arguments(self) -> dict[str, Any]:
        """What the constructor would have to be called with to make another like this, but for ``rng``."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters if name != "rng"}

    def _describe(self) -> list[str]:
        """What stands between the brackets of the repr: arguments that must be given, others than their defaults."""
        known, parts = inspect.signature(type(self)).parameters, []
        for name, value in self._arguments().items():
            if known[name].default is inspect.Parameter.empty:
                parts.append(repr(value))
            elif name == "dtype":
                parts.append(f"dtype={np.dtype(value).name}")
            elif value != known[name].default:
                parts.append(f"{name}={value!r}")
        return parts

    def _called(self) -> str:
        """What it is called in what is said of it."""
        return type(self).__name__

    def __repr__(self) -> str:
        count = self._parameters.size
        return f"<{self._called()}({', '.join(self._describe())}): {count:,} parameter{'s' * (count != 1)}>"

    def __copy__(self) -> Any:
        """As deepcopy: two that share parameters or a generator would be no copies."""
        return copy.deepcopy(self)

    def __reduce__(self) -> Any:
        return _rebuild, (type(self), self._arguments(), np.array(self.flat), self._rng)


class Module(Parametric):
    """A network or a part of one: ``y, state = module(x, state, lengths)``."""

    #: Whether x and y are (B, T, ...); None: the module takes (T, B, ...), or doesn't care.
    batch_first: bool | None = None

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


def _rebuild(cls: type[Parametric], arguments: Mapping[str, Any], flat: Array, rng: np.random.Generator) -> Parametric:
    module = cls(**arguments)
    module._rng = rng
    if module._parameters.size:
        module.flat = flat
    return module
