"""Calls of kernels with NumPy arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.ptx.errors import PtxError
from tests.ptx.kept import Kept
from tests.ptx.machine import Launch
from tests.ptx.memory import Buffer
from tests.ptx.operands import Array
from tests.ptx.parse import Module


@dataclass(frozen=True)
class Input:
    """An array that the kernel may only read."""

    array: Array


@dataclass(frozen=True)
class Output:
    """An array that the kernel is to fill: reading what it hasn't written yet is a fault."""

    array: Array


def launch(
    module: Module | str,
    grid: Any,
    block: Any,
    args: Sequence[Any],
    *,
    abi: str = "c",
    kept: Kept | None = None,
    **options: Any,
) -> Launch:
    """Execute a kernel.

    Parameters
    ----------
    module : Module or str
        PTX.
    grid, block : int or tuple of int
    args : sequence
        Numbers, and C-contiguous arrays: read and written, or an `Input`, or an `Output`.  With abi="numba" tuples too.
    abi : {"c", "numba"}
        Whether an array is one pointer, or the seven and more parameters that numba passes.
    kept : Kept, optional
        Takes a launch like this one from there, decoded, and puts it back: what is returned is changed by the next.
    **options
        Of `Launch`: name, checks, dynamic_shared, seed, schedule, profile.

    Returns
    -------
    Launch
        With counts; `unwritten` has the number of bytes of each output that nothing has written.

    Raises
    ------
    Fault
        The first thing that the kernel does wrong.
    PtxError
        The PTX can't be read, or the arguments don't fit.
    """
    run = Launch(module, grid, block, **options) if kept is None else kept.take(module, grid, block, **options)
    placed: list[tuple[Array, Buffer, bool]] = []
    flat: list[Any] = []
    for number, argument in enumerate(args):
        _flatten(run, argument, f"argument {number}", abi, flat, placed)
    params = run.kernel.params
    if len(flat) != len(params):
        raise PtxError(f"{run.kernel.name} has {len(params)} parameters; the arguments make {len(flat)}")
    for variable, value in zip(params, flat, strict=True):
        run.params.give(variable, value)
    run.run()
    run.unwritten = []
    for array, buffer, is_input in placed:
        if not is_input:
            array.reshape(-1).view(np.uint8)[:] = buffer.data[: buffer.size]
        missing = 0
        if buffer.written is not None:
            missing = int(np.count_nonzero(~buffer.written[: buffer.size >> buffer.unit_shift])) << buffer.unit_shift
        run.unwritten.append(missing)
    if kept is not None:
        kept.put(run)
    return run


def _flatten(
    run: Launch, argument: Any, name: str, abi: str, flat: list[Any], placed: list[tuple[Array, Buffer, bool]]
) -> None:
    """Append what an argument is to the kernel."""
    if isinstance(argument, tuple) and abi == "numba":
        fields = getattr(argument, "_fields", range(len(argument)))
        for field, part in zip(fields, argument, strict=True):
            _flatten(run, part, f"{name}.{field}", abi, flat, placed)
        return
    is_input, is_output = isinstance(argument, Input), isinstance(argument, Output)
    array = argument.array if is_input or is_output else argument
    if not isinstance(array, np.ndarray):
        flat.append(0 if array is None else array)
        return
    if not array.flags.c_contiguous or not (is_input or array.flags.writeable):
        raise PtxError(f"{name} must be C-contiguous, and writable unless it is an Input")
    data = None if is_output else array.reshape(-1).view(np.uint8).copy()
    buffer = run.memory.add(
        "global", f"{name} ({array.dtype} {array.shape})", array.nbytes, data, writable=not is_input
    )
    placed.append((array, buffer, is_input))
    if abi == "numba":
        flat += [0, 0, math.prod(array.shape), array.itemsize, buffer.address, *array.shape, *array.strides]
    else:
        flat.append(buffer.address)
