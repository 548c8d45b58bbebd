"""Arrays of other libraries, seen as ours, and ours as theirs."""

from __future__ import annotations

from typing import Any

import numpy as np

from .array import DeviceArray
from .machine import Machine


class Kind:
    """A library's arrays: how results are given back to who came with one of them."""

    def wrap(self, array: DeviceArray) -> Any:
        """An array of ours as one of this library's, without a copy."""
        return array

    def stream(self) -> Any:
        """The stream that this library is using now; None: it has no say."""
        return None


OURS = Kind()


def kind_of(value: Any) -> Kind | None:
    """The kind of a value that is on a device; None if it isn't on any."""
    return OURS if isinstance(value, DeviceArray) else None


def adopted(machine: Machine, value: Any, name: str, dtype: np.dtype[Any] | None) -> DeviceArray | None:
    """A value that is on a device, without a copy; None if it isn't on any.

    Raises
    ------
    TypeError
        Its dtype isn't the one wanted (None: any).
    ValueError
        It is on another device than the machine.
    """
    if not isinstance(value, DeviceArray):
        return None
    if value.machine is not machine:
        raise ValueError(f"{name} must be on the same device as the parameters")
    if dtype is not None and value.dtype != dtype:
        raise TypeError(f"{name} must have dtype {dtype.name}, got {value.dtype.name}")
    return value
