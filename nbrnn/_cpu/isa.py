"""Which vectors this processor has, and how to ask for others.

A vector width is a *type* (an empty NamedTuple class), carried by every network: a kernel compiled for one width and
a kernel compiled for another are two specialisations of the same source, and live side by side in one process.
"""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from typing import NamedTuple

import llvmlite.binding
from numba.core import config


class V512(NamedTuple):
    """Vectors of 512 bits, 32 registers (AVX-512)."""


class V256(NamedTuple):
    """Vectors of 256 bits, 16 registers (AVX2)."""


class V128(NamedTuple):
    """Vectors of 128 bits (NEON: 32 registers; SSE: 16)."""


class Scalar(NamedTuple):
    """No vectors: one number at a time."""


Lanes = V512 | V256 | V128 | Scalar

#: By name: what NBRNN_VECTORS and ``use`` take.
WIDTHS: dict[str, type[Lanes]] = {"512": V512, "256": V256, "128": V128, "scalar": Scalar}

#: Bits of a vector; 0 stands for one number, whatever its size.
BITS: dict[type[Lanes], int] = {V512: 512, V256: 256, V128: 128, Scalar: 0}

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


def _widest() -> type[Lanes]:
    if {"avx512f", "avx512dq", "avx512vl"} <= _FEATURES:
        return V512
    if "avx2" in _FEATURES and HAS_FMA:
        return V256
    if _ARM or platform.machine().lower() in ("x86_64", "amd64"):
        return V128
    return Scalar


def _asked_for() -> type[Lanes]:
    name = os.environ.get("NBRNN_VECTORS", "")
    if not name:
        return _widest()
    if name not in WIDTHS:
        raise ValueError(f"NBRNN_VECTORS must be one of {', '.join(WIDTHS)}, got {name!r}")
    return WIDTHS[name]


_current: type[Lanes] = _asked_for()


def current() -> type[Lanes]:
    """The width new networks are packed for."""
    return _current


@contextlib.contextmanager
def use(width: str) -> Iterator[None]:
    """Pack networks for another width inside the block (for tests: it is not meant for threads).

    Any width runs on any processor: what the hardware lacks, LLVM splits.
    """
    global _current
    before, _current = _current, WIDTHS[width]
    try:
        yield
    finally:
        _current = before


def accumulators(lanes: type[Lanes]) -> int:
    """How many vector registers a tile may fill with sums: what remains holds weights and broadcasts."""
    if lanes is V512 or (lanes is V128 and _ARM):
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
    return text + (" (NBRNN_VECTORS)" if os.environ.get("NBRNN_VECTORS") else "")
