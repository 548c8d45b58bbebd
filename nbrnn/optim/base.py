"""What all optimisers share: one pass over the parameters in place, a learning rate, states."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from numba import from_dtype, types
from numpy.typing import NDArray

from .. import _check
from .._cpu.subnormal import flushed
from .._cuda.array import DeviceArray
from .._cuda.pointwise import updated
from .._kernel import cached, compiled
from .._memory import aligned_copy, aligned_zeros
from .._place import Place, place_of
from ..module import Gradients, Parametric

Array = NDArray[Any]


@cached
def _compiled(loop: Any, dtype: np.dtype[Any], present: tuple[bool, ...], numbers: int) -> Callable[..., None]:
    """A loop of ``_loops.update`` for parameters of that dtype: p, g, vectors (or None), numbers."""
    number = from_dtype(dtype)
    vector, read = types.Array(number, 1, "C"), types.Array(number, 1, "C", readonly=True)
    own = [vector if there else types.none for there in present]
    return flushed(compiled(loop, (vector, read, *own, *[number] * numbers)))


class Optimizer:
    """What all optimisers can do.

    A step changes the parameters in place, in one pass, in their own dtype; factors that are the same for all of them
    are computed in float64 first.  What is carried from step to step is where the parameters are, on a GPU too: it
    follows them with the first step after the network's ``to``.  Gradients that aren't finite are computed with as they
    are.  Settings but ``lr`` stay as they were given.
    """

    net: Parametric
    #: Names of the constructor's arguments after net.
    _settings: ClassVar[tuple[str, ...]] = ("lr",)

    def __init__(self, net: Parametric, lr: float, **settings: Any) -> None:
        if not isinstance(net, Parametric):
            raise TypeError(f"net must be a layer or a network, got {type(net).__name__}")
        self.lr = lr
        vars(self).update(settings, net=net)
        self._t = 0
        self._vectors: dict[str, Any] = {}  # on a device, DeviceArrays

    def _carry(self, **vectors: bool) -> None:
        """Have these vectors, one number for each parameter, from 0 on; those marked False are None."""
        size, dtype = self.net.flat.size, self.net.flat.dtype
        self._vectors = {name: aligned_zeros((size,), dtype) if there else None for name, there in vectors.items()}
        self._follow()

    def _follow(self) -> None:
        """Have the vectors where the parameters are."""
        machine = self.net._parameters.machine
        for name, v in self._vectors.items():
            if v is not None and getattr(v, "machine", None) is not machine:
                host = v.numpy() if isinstance(v, DeviceArray) else v
                self._vectors[name] = aligned_copy(host) if machine is None else DeviceArray.put(machine, host)

    @property
    def lr(self) -> float:
        """The learning rate, >= 0: may be set at any time."""
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._lr = _check.number(value, "lr", 0)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "net" or (name in self._settings and name != "lr"):
            raise AttributeError(f"{name} of {self!r} can't be changed: make another")
        super().__setattr__(name, value)

    def step(self, grads: Gradients) -> None:
        """Change the parameters by one step.

        Parameters
        ----------
        grads : Gradients
            From ``net.backward``; on the GPU if the parameters are.

        Raises
        ------
        TypeError, ValueError
            Not gradients, or those of another network; nothing has changed then.
        """
        if not isinstance(grads, Gradients):
            raise TypeError(f"grads must come from backward of the network, got {type(grads).__name__}")
        place = place_of(grads.flat, "grads.flat", self.net._parameters)
        with contextlib.nullcontext() if place is None else place.on():
            g = self._checked(grads, place)
            self._t += 1
            self._step(g)

    def _step(self, g: Array) -> None:
        """Step number ``_t``."""
        raise NotImplementedError

    def _run(self, loop: Any, g: Any, *numbers: float) -> None:
        """Run a loop of ``_loops.update`` on the parameters and all vectors."""
        self._follow()
        vectors, parameters = self._vectors.values(), self.net._parameters
        present = tuple(v is not None for v in vectors)
        if parameters.machine is not None:
            own = tuple(v.numbers() for v in vectors if v is not None)
            change = functools.partial(updated, parameters.machine, loop.py_func, present)
            parameters._overwrite(change, g.numbers(), own, numbers)
            return
        entry = _compiled(loop, g.dtype, present, len(numbers))
        parameters._overwrite(entry, g, *vectors, *numbers)

    def _checked(self, grads: Gradients, place: Place | None) -> Any:
        """The gradients as one vector, as the loops take it."""
        parameters = self.net._parameters
        if place is None:
            g: Any = _check.array(grads.flat, "grads.flat", parameters.dtype)
        else:
            g = place.adopt(grads.flat, "grads.flat", parameters.dtype)
        _check.shape(g, "grads.flat", (parameters.size,))
        if grads.shapes and grads.shapes != parameters.shapes:
            raise ValueError(f"grads must come from backward of {self.net._called()}, got those of another network")
        return np.require(g, requirements=("C", "A")) if place is None else g

    def state_dict(self) -> dict[str, Any]:
        """Everything to go on from, to the bit.

        Returns
        -------
        dict
            ``kind`` (the class's name), ``t`` (steps so far), the settings as plain Python values, and arrays: copies
            of what is carried from step to step.
        """
        settings = {name: getattr(self, name) for name in self._settings}
        carried = {name: _host(v) for name, v in self._vectors.items() if v is not None}
        return {"kind": type(self).__name__, "t": self._t, **settings, **carried}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` gave, settings included.

        Parameters
        ----------
        state : dict

        Raises
        ------
        TypeError, ValueError
            An entry is missing or of the wrong kind, or the state is that of another optimiser or network; nothing
            has changed then.
        """
        if not isinstance(state, dict):
            raise TypeError(f"state must be what state_dict() gave, got {type(state).__name__}")
        kind = type(self).__name__
        _have(state, ("kind", "t", *self._settings))
        if state["kind"] != kind:
            raise ValueError(f"state must be that of {kind}, got that of {state['kind']}")
        fresh = type(self)(self.net, **{name: state[name] for name in self._settings})
        fresh._t = _check.size(state["t"], "state['t']", 0)
        carried = [name for name, v in fresh._vectors.items() if v is not None]
        _have(state, carried)
        for name in carried:
            vector = _check.array(state[name], f"state[{name!r}]", self.net.flat.dtype)
            _check.shape(vector, f"state[{name!r}]", (self.net.flat.size,))
            fresh._vectors[name] = aligned_copy(vector)
        fresh._follow()
        vars(self).update(vars(fresh))

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_vectors": {n: None if v is None else _host(v) for n, v in self._vectors.items()}}

    def __copy__(self) -> Any:
        """As deepcopy, with a network of its own: two must not carry the same vectors."""
        return copy.deepcopy(self)

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._settings)
        return f"<{type(self).__name__}({settings}) after {self._t:,} step{'s' * (self._t != 1)}>"


def _host(vector: Any) -> Array:
    """A copy, on the CPU."""
    copied: Array = vector.numpy() if isinstance(vector, DeviceArray) else vector.copy()
    return copied


def _have(state: dict[str, Any], names: Sequence[str]) -> None:
    missing = sorted(set(names) - set(state))
    if missing:
        raise ValueError(f"state must have the entries of state_dict(), {', '.join(missing)} missing")
