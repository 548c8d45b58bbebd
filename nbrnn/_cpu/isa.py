"""Which vectors this processor has, and how to ask for others.

A vector width is a *type* (an empty NamedTuple class), carried by every network: a kernel compiled for one width and
a kernel compiled for another are two specialisations of the same source, and live side by side in one process.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from typing import NamedTuple

import llvmlite.binding
import numpy as np
from numba.core import config


class V512(NamedTuple):
    """Vectors of 512 bits, 32 registers (AVX-512)."""


class V256(NamedTuple):
    """Vectors of 256 bits, 16 registers (AVX2)."""


class V128(NamedTuple):
    """Vectors of 128 bits (NEON: 32 registers; SSE: 16)."""


class Scalar(NamedTuple):
    """No vectors: one number at a time."""


class AMX(NamedTuple):
    """Vectors of 512 bits, and a unit that multiplies matrices of bfloat16 and sums in float32 (see ``digits``)."""


class AMX8(NamedTuple):
    """The same for loops over time that use the unit too: it multiplies bytes there (see ``whole``)."""


Lanes = V512 | V256 | V128 | Scalar | AMX | AMX8

#: By name.
WIDTHS: dict[str, type[Lanes]] = {"512": V512, "256": V256, "128": V128, "scalar": Scalar}

#: What NBRNN_VECTORS and ``use`` take.
NAMES: dict[str, type[Lanes]] = {"amx": AMX, **WIDTHS}

#: Bits of a vector; 0 stands for one number, whatever its size.
BITS: dict[type[Lanes], int] = {V512: 512, V256: 256, V128: 128, Scalar: 0, AMX: 512, AMX8: 512}

_ARM = platform.machine().lower() in ("arm64", "aarch64")


def features() -> set[str]:
    """Processor features Numba compiles for: the host's, unless NUMBA_CPU_NAME or NUMBA_CPU_FEATURES say otherwise."""
    if config.CPU_FEATURES is not None:
        return {f[1:] for f in config.CPU_FEATURES.split(",") if f.startswith("+")}
    if config.CPU_NAME is not None and llvmlite.binding.get_host_cpu_name() != config.CPU_NAME:
        return set()  # what another processor has isn't known here: take what every one has
    return {name for name, there in llvmlite.binding.get_host_cpu_features().items() if there}


_FEATURES = features()

#: Whether a * b + c in one rounding is one instruction; elsewhere it would be a call for each lane.
HAS_FMA = _ARM or "fma" in _FEATURES


#: To Linux: a request of a process for itself, of the right to the registers of the unit (asm/prctl.h).
_ARCH_PRCTL, _REQUEST, _TILES = 158, 0x1023, 18


def _unit_is_ours() -> bool:
    """Whether there is a matrix unit that may be used: Linux wants to be asked.

    It says no where a thread has too small a stack for signals: what is saved there becomes 8 KB larger.
    """
    if not {"amx-tile", "amx-bf16"} <= _FEATURES or sys.platform != "linux" or sys.maxsize < 2**32:
        return False
    try:
        return bool(ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST, _TILES) == 0)
    except (OSError, AttributeError):
        return False


def _widest() -> type[Lanes]:
    if {"avx512f", "avx512dq", "avx512vl"} <= _FEATURES:
        return AMX if _unit_is_ours() else V512
    if "avx2" in _FEATURES and HAS_FMA:
        return V256
    if _ARM or platform.machine().lower() in ("x86_64", "amd64"):
        return V128
    return Scalar


#: Whether there is a matrix unit that may be used.
HAS_UNIT = False


def _asked_for() -> type[Lanes]:
    global HAS_UNIT
    widest, name = _widest(), os.environ.get("NBRNN_VECTORS", "")
    HAS_UNIT = widest is AMX
    if not name:
        return widest
    if name == "amx" and not HAS_UNIT:
        raise ValueError("NBRNN_VECTORS must not be 'amx' here: there is no such unit, or it may not be used")
    if name not in NAMES:
        raise ValueError(f"NBRNN_VECTORS must be one of {', '.join(NAMES)}, got {name!r}")
    return NAMES[name]


_current: type[Lanes] = _asked_for()


def current() -> type[Lanes]:
    """The width new networks are packed for."""
    return _current


@contextlib.contextmanager
def use(width: str) -> Iterator[None]:
    """Pack networks for another width inside the block (for tests: it is not meant for threads).

    Any width runs on any processor: what the hardware lacks, LLVM splits.  AMX runs where ``HAS_UNIT`` says so.
    """
    global _current
    before, _current = _current, NAMES[width]
    try:
        yield
    finally:
        _current = before


#: With fewer weights than that, there is too little for a matrix unit to do.
LEAST_WEIGHTS = 2**15


def of(lanes: type[Lanes], dtype: np.dtype[np.generic], weights: int) -> type[Lanes]:
    """What a layer of so many weights is computed with: the unit knows float32 only."""
    return vectors(lanes) if dtype != np.float32 or weights <= LEAST_WEIGHTS else lanes


def vectors(lanes: type[Lanes]) -> type[Lanes]:
    """The same without a matrix unit."""
    return V512 if lanes is AMX else lanes


def accumulators(lanes: type[Lanes]) -> int:
    """How many vector registers a tile may fill with sums: what remains holds weights and broadcasts."""
    if lanes in (V512, AMX, AMX8) or (lanes is V128 and _ARM):
        return 24
    # Three rows of four or six of two; without fused multiply-add a product needs a register too.
    return 12 if lanes is V256 else 8


def processor() -> str:
    """The processor Numba compiles for."""
    return str(config.CPU_NAME or llvmlite.binding.get_host_cpu_name())


def describe() -> str:
    """The current width, and whether it was asked for."""
    bits = BITS[_current]
    text = f"{bits} bits" if bits else "none: plain numbers"
    text += ", fused multiply-add" if HAS_FMA else ""
    text += ", AMX" if _current is AMX else ""
    return text + (" (NBRNN_VECTORS)" if os.environ.get("NBRNN_VECTORS") else "")
