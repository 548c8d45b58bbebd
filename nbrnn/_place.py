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
    """A device, and the library whose arrays a caller came with."""

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
            raise TypeError(f"{name} must be an array on the GPU, as what it goes with is, got {_what(value)}")
        return array

    def wrap(self, array: DeviceArray | None) -> Any:
        """An array of ours as one of the caller's library."""
        return None if array is None else self.kind.wrap(array)

    def wrap_all(self, arrays: Any) -> Any:
        """The same for arrays in tuples, and None."""
        if isinstance(arrays, tuple):
            return tuple(map(self.wrap_all, arrays))
        return self.wrap(arrays)

    def on(self) -> contextlib.AbstractContextManager[None]:
        """Within the block, use the stream that the library uses."""
        return self.machine.on(self.kind.stream())


def place_of(value: Any, name: str, parameters: Parameters | None = None) -> Place | None:
    """Where a call with that argument runs: None for the CPU.

    Raises
    ------
    TypeError
        The argument and the parameters aren't on the same side.
    """
    kind, there = kind_of(value), None if parameters is None or parameters.size == 0 else parameters
    if there is None:
        if kind is None:
            return None
        return Place(value.machine if isinstance(value, DeviceArray) else current.machine(getattr(kind, "ordinal", None) or 0), kind)
    if there.machine is not None and kind is None:
        raise TypeError(
            f"{name} must be an array on the GPU, as the parameters are, got {_what(value)}: "
            'put it there, or move the parameters by to("cpu")'
        )
    if kind is None:
        return None
    if there.machine is None:
        raise TypeError(
            f"{name} must be a NumPy array, as the parameters are on the CPU, got an array on the GPU: "
            'move the parameters by to("cuda")'
        )
    return Place(there.machine, kind)


def _what(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
