"""Where a call runs: on the CPU for arrays of NumPy's, on a GPU for arrays there."""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._cuda import current
from ._cuda.array import DeviceArray
from ._cuda.exchange import Kind, adopted, kind_of
from ._cuda.machine import Machine
from ._params import Parameters

Array = NDArray[Any]


class Place(NamedTuple):
    """A device, and the library whose arrays a caller came with.

    Attributes
    ----------
    machine : Machine
    kind : Kind
    """

    machine: Machine
    kind: Kind

    def adopt(self, value: Any, name: str, dtype: np.dtype[Any] | None = None) -> DeviceArray:
        """An array of the caller's, without a copy.

        Raises
        ------
        TypeError, ValueError
            It isn't on this device, or of another dtype.
        """
        array = adopted(self.machine, value, name, dtype)
        if array is None:
            got = "a NumPy array" if isinstance(value, np.ndarray) else type(value).__name__
            raise TypeError(f"{name} must be an array on the GPU, as what it goes with is, got {got}")
        return array

    def wrap(self, array: Any) -> Any:
        """An array of ours, or several in a tuple, as the caller's library has them; None stays."""
        if isinstance(array, tuple):
            return tuple(map(self.wrap, array))
        return None if array is None else self.kind.wrap(array)

    def on(self, stream: Any = None) -> contextlib.AbstractContextManager[None]:
        """Within the block, use that stream, or else the one that the library uses."""
        return self.machine.on(self.kind.stream() if stream is None else stream)


def place_of(value: Any, name: str, parameters: Parameters | None = None, stream: Any = None) -> Place | None:
    """Where a call with that argument runs: None for the CPU.

    Without parameters the argument decides.

    Raises
    ------
    TypeError
        The argument and the parameters aren't on the same side.
    ValueError
        A stream is given, and it is the CPU.
    """
    kind = kind_of(value)
    if parameters is not None and parameters.size:
        return Place(parameters.machine, kind) if is_there(parameters, name, kind, stream) and kind else None
    if kind is None:
        if stream is not None:
            raise ValueError(f"stream must be None where {name} is on the CPU, got {stream!r}")
        return None
    return Place(value.machine if isinstance(value, DeviceArray) else current.machine(kind.ordinal or 0), kind)


def is_there(parameters: Parameters, name: str, kind: Kind | None, stream: Any) -> bool:
    """Whether parameters and the argument of that kind are on a GPU; both must be, or neither."""
    on_gpu = parameters.machine is not None
    if on_gpu != (kind is not None):
        places = ("on the CPU", "on the GPU")
        raise TypeError(
            f"{name} must be {places[on_gpu]}, where the layer's parameters are, got an array {places[not on_gpu]}: "
            f"copy {name}, or move the layer with layer.to({'cpu' if on_gpu else 'cuda'!r})"
        )
    if stream is not None and not on_gpu:
        raise ValueError(f"stream must be None for a layer on the CPU, got {stream!r}")
    return on_gpu
