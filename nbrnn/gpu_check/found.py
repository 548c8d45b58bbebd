"""What this machine has of a GPU and all that it takes to use one, and what is missing."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
from typing import Any

import numba
import numpy as np

from .._cuda import compile as compiler
from .._cuda import device, driver, kernels
from .._cuda.blas import VARIABLE
from .._version import __version__


class MissingError(RuntimeError):
    """Something that a GPU takes isn't here; the message says what, and what to do."""


def versions() -> dict[str, str]:
    """Of everything that takes part and is installed."""
    found = {
        "nbrnn": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": numba.__version__,
    }
    for name in (*compiler.versions(), "torch", "nvmath-python", "cupy-cuda12x", "cupy-cuda13x"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def find(ordinal: int = 0) -> device.Device:
    """The GPU, on which a first kernel has been compiled, loaded and run.

    Raises
    ------
    MissingError
    """
    try:
        on = device.device(ordinal)
    except (RuntimeError, ValueError) as error:  # no driver, an old one, no device
        raise MissingError(str(error)) from None
    reason = compiler.missing()
    if reason is not None:
        raise MissingError(reason)
    given = np.arange(6, dtype=np.float32)
    try:
        sums = on.empty(3, given.dtype)
        on.launch(kernels.sum_rows_kernel(given.dtype), (1, 1), (on.put(given), 3, 2, 3, 2, sums))
        found = on.get(sums)
    except RuntimeError as error:  # the driver's compiler, a device that is too old for numba-cuda's
        raise MissingError(f"{on!r} can't run kernels: {error}") from None
    if not np.array_equal(found, given[:3] + given[3:]):
        raise MissingError(f"{on!r} adds 0 1 2 and 3 4 5 to {found}")
    return on


def description(on: device.Device) -> dict[str, Any]:
    """For the JSON, and the first lines."""
    return {
        "name": on.name,
        "compute_capability": ".".join(map(str, on.cc)),
        "multiprocessors": on.processors,
        "memory": on.total_memory,
        "driver": driver.version_text(on.driver.version),
        "products": products(on),
        "cache": None if compiler.folder() is None else str(compiler.folder()),
    }


def products(on: device.Device) -> str:
    """What multiplies matrices there."""
    return f"nbrnn's own kernels (cuBLAS: {VARIABLE}=1)" if on.blas is None else on.blas.about


def summary() -> str:
    """A line for ``nbrnn info``."""
    try:
        on = device.device(0)
    except (RuntimeError, ValueError) as error:
        return str(error)
    reason = compiler.missing()
    known = f"{on.name}, compute capability {on.cc[0]}.{on.cc[1]}, driver for CUDA {description(on)['driver']}"
    compiles = reason or f"numba-cuda {compiler.versions()['numba-cuda']} (nbrnn gpu-check tries it)"
    return f"{known}; {compiles}; products: {products(on)}"
