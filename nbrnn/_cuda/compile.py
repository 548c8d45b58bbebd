"""Kernels as PTX, by numba-cuda, and a cache of that on disk.

PTX and no more: the driver makes machine code of it when it loads a kernel, and keeps that by itself.  Nothing here
needs a driver or a device, and what stands in the cache needs no numba-cuda either, so that a process which compiles
nothing doesn't import it.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import pathlib
import re
import time
import uuid
import warnings
from typing import Any

import numba
import numpy as np
from numba.core.caching import FunctionCache

from .._kernel import CUDA_CORE, core_of, digest_of
from .kernels import Kernel

#: What PTX depends on besides our sources; NVVM comes in one of several packages, or with the system.
_PACKAGES = ("numba-cuda", "cuda-bindings", "cuda-toolkit", "nvidia-nvvm", "nvidia-cuda-nvcc-cu12")
_INSTALL = "pip install 'nbrnn[cuda]' (for a driver of CUDA 12: 'nbrnn[cuda12]')"


def entry(kernel: Kernel) -> str:
    """The name of a kernel in its PTX, and in profiles."""
    return re.sub(r"\W", "_", f"nbrnn_{kernel.key[0]}")


def ptx_of(kernel: Kernel, cc: tuple[int, int]) -> str:
    """PTX of a kernel for a compute capability, or for the newest one below that the compiler knows."""
    path = _path(kernel, cc)
    found = None if path is None else _load(path)
    if found is None:
        found = compile_ptx(kernel, cc)
        if path is not None:
            _save(path, found)
    return found


def compile_ptx(kernel: Kernel, cc: tuple[int, int]) -> str:
    """The same, always compiled anew."""
    compiler = _compiler()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numba-cuda's advice on performance
        code, _ = compiler.compile(
            kernel.make(), kernel.signature(), device=False, abi="numba", cc=cc, output="ptx",
            launch_bounds=kernel.bounds, debug=False, opt=True, fastmath=False,
        )  # fmt: skip
    text = code.decode().rstrip("\0") if isinstance(code, bytes) else str(code)
    mangled = re.search(r"\.entry\s+(\w+)", text)
    if mangled is None:
        raise RuntimeError(f"numba-cuda {versions()['numba-cuda']} made PTX without an entry for {kernel.key}")
    # Half a page of types of arguments, and at every use of one.
    return text.replace(mangled[1], entry(kernel))


def versions() -> dict[str, str | None]:
    """Of packages that take part; None where one isn't installed."""
    return dict(_versions())


@functools.cache
def _versions() -> tuple[tuple[str, str | None], ...]:
    def version(name: str) -> str | None:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return None

    return tuple((name, version(name)) for name in _PACKAGES)


def missing() -> str | None:
    """What keeps kernels from being compiled here, in words, and what to do; None if nothing does."""
    version = versions()["numba-cuda"]
    if version is None:
        return f"numba-cuda, which compiles CUDA kernels, isn't installed: {_INSTALL}"
    if version.startswith("0.30.") and not hasattr(np, "row_stack"):
        return f"numba-cuda {version} can't compile with NumPy {np.__version__}: pip install 'numpy<2.5'"
    try:
        from numba import cuda
        from numba.cuda.cudadrv import nvvm

        if not hasattr(cuda, "compile"):
            return "Numba's CUDA simulator is on, which compiles nothing: unset NUMBA_ENABLE_CUDASIM"
        nvvm.NVVM()
    except Exception as error:
        return f"numba-cuda {version} can't compile here ({type(error).__name__}: {error}): {_INSTALL}"
    return None


@functools.cache
def _compiler() -> Any:
    reason = missing()
    if reason is not None:
        raise RuntimeError(reason)
    from numba import cuda

    return cuda


# The cache: one file for each kernel and compute capability, which holds its own digest.


@functools.cache
def _digest() -> str | None:
    """Of the sources that kernels are made of; None if they can't be read."""
    sources = core_of(pathlib.Path(__file__).parent.parent, CUDA_CORE)
    return digest_of(*sources) if sources else None


@functools.cache
def folder() -> pathlib.Path | None:
    """Where PTX is kept: where Numba keeps what it has compiled for this file; None if that can't be written."""
    try:
        locator = FunctionCache(ptx_of)._impl.locator
        locator.ensure_cache_path()
        return pathlib.Path(locator.get_cache_path())
    except Exception:
        return None


def _path(kernel: Kernel, cc: tuple[int, int]) -> pathlib.Path | None:
    where, digest = folder(), _digest()
    if where is None or digest is None:
        return None
    forced = getattr(numba.config, "FORCE_CUDA_CC", None)
    key = (kernel.key, kernel.bounds, cc, forced, _versions(), numba.__version__)
    name = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
    return where / f"nbrnn-{digest}-{kernel.key[0]}-{name}.ptx"


def _seal(text: bytes) -> bytes:
    return b"// sha256 " + hashlib.sha256(text).hexdigest().encode() + b"\n"


def _load(path: pathlib.Path) -> str | None:
    try:
        seal, _, text = path.read_bytes().partition(b"\n")
        return text.decode() if seal + b"\n" == _seal(text) else None
    except Exception:
        return None


def _save(path: pathlib.Path, text: str) -> None:
    try:
        temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
        try:
            temporary.write_bytes(_seal(text.encode()) + text.encode())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        _sweep(path.parent)
    except Exception:
        return


def _sweep(where: pathlib.Path) -> None:
    """Remove what earlier sources left behind, and what killed processes did."""
    for path in where.glob("nbrnn-*.ptx"):
        if not path.name.startswith(f"nbrnn-{_digest()}-"):
            path.unlink(missing_ok=True)
    for path in where.glob("nbrnn-*.ptx.*.tmp"):
        if time.time() - path.stat().st_mtime > 3600:
            path.unlink(missing_ok=True)
