"""What training puts on a network's device, and what it asks of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from .._cuda.array import DeviceArray
from .._cuda.sums import reduced
from ..module import Module
from .data import Batch


def there(value: Any, net: Module) -> Any:
    """Arrays, also in tuples, on the network's device: copies, if that isn't the CPU; anything else as it is."""
    machine = net._parameters.machine
    if isinstance(value, tuple):
        return tuple(there(inner, net) for inner in value)
    return value if machine is None or not isinstance(value, np.ndarray) else DeviceArray.put(machine, value)


def on_host(value: Any) -> Any:
    """Copies on the host of arrays on a device, also in tuples; anything else as it is."""
    if isinstance(value, tuple):
        return tuple(map(on_host, value))
    return value.numpy() if isinstance(value, DeviceArray) else value


def moved(batch: Batch, net: Module) -> Batch:
    """The batch with x and target where the network is; there, targets that aren't integers are of its dtype."""
    if net._parameters.machine is None:
        return batch
    target = batch.target
    if not (isinstance(target, list) and all(isinstance(own, np.ndarray) for own in target)):  # labels for CTC
        target = np.asarray(target)
        if target.dtype.kind in "fb":
            with np.errstate(over="ignore"):
                target = target.astype(net._parameters.dtype)
    return dataclasses.replace(batch, x=there(batch.x, net), target=there(target, net))


def largest(vector: DeviceArray) -> DeviceArray:
    """The largest absolute value; NaN if there is one."""
    return DeviceArray(vector.machine, reduced(vector.machine, "largest", vector.numbers()), ())


def read(*numbers: Any) -> Iterator[float]:
    """Single numbers as floats; those on a device, of one dtype, are waited for together."""
    asked = [n for n in numbers if isinstance(n, DeviceArray)]
    if asked:
        machine = asked[0].machine
        together = machine.empty(len(asked), asked[0].dtype)
        for q, number in enumerate(asked):
            machine.copy(together[q : q + 1], number.numbers())
        found = iter(machine.get(together))
    return iter([float(next(found)) if isinstance(n, DeviceArray) else float(n) for n in numbers])
