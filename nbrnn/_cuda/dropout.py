"""Dropout on a device: the same numbers are dropped as on the CPU."""

from __future__ import annotations

from typing import Any

from . import kernels
from .array import DeviceArray
from .machine import Machine
from .philox import THREADS

#: The most blocks of a grid's second axis.
_MOST = 65535
#: What is dropped of h where it enters W_hh; ``_cpu.dropout`` has all kinds.
RECURRENT = 2


def _launch(
    machine: Machine,
    x: DeviceArray | None,
    y: DeviceArray,
    p: float,
    key: tuple[int, int],
    kind: int,
    layer: int,
    direction: int,
    directions: int,
    t0: int,
) -> None:
    """y (steps, B, D * n) = x (None: ones) with numbers dropped, from that direction on."""
    steps, size, width = y.shape
    n = width // directions
    if y.size == 0:
        return
    blocks = -(-size * directions * ((n + 3) // 4) // THREADS)
    place, scale = kind << 24 | layer << 1 | direction, y.dtype.type(0 if p == 1 else 1 / (1 - p))
    given, strides = (machine.empty(0, y.dtype), (0, 0)) if x is None else (x.flat, x.strides[:2])
    sizes = (steps, size, directions, n, *strides, *y.strides[:2])
    arguments = (given, y.flat, *key, round(p * 2**32), place, t0, *sizes, scale)
    machine.launch(kernels.drop_kernel(y.dtype), (blocks, min(steps, _MOST)), arguments)


def dropout(
    machine: Machine,
    x: DeviceArray,
    p: float,
    key: tuple[int, int],
    kind: int,
    layer: int,
    directions: int,
    t0: int,
    out: DeviceArray | None = None,
) -> DeviceArray:
    """x (steps, B, D * n) with numbers dropped with probability p, the others divided by 1 - p.

    Parameters
    ----------
    machine : Machine
    x : DeviceArray
        Its inner axis contiguous.
    p, key, kind, layer, directions, t0
        As ``_cpu.unit.dropout`` has them.
    out : DeviceArray, optional
        Where to write the result; may be x, and mustn't overlap it otherwise.
    """
    y = DeviceArray.empty(machine, x.shape, x.dtype) if out is None else out
    for array, name in (x, "x"), (y, "out"):
        if array.shape != x.shape or array.dtype != x.dtype or (array.shape[2] > 1 and array.strides[2] != 1):
            raise ValueError(f"{name} must be like x and contiguous in its inner axis, got {array!r}")
    _launch(machine, x, y, p, key, kind, layer, 0, directions, t0)
    return y


def masks(
    machine: Machine, size: int, H: int, dtype: Any, p: float, key: tuple[int, int], layer: int, direction: int
) -> DeviceArray:
    """What h (B, H) is multiplied by where it enters W_hh: 0 with probability p, else 1 / (1 - p)."""
    made = DeviceArray.empty(machine, (size, H), dtype)
    _launch(machine, None, made[None], p, key, RECURRENT, layer, direction, 1, 0)
    return made
