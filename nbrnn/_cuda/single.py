"""Kernels whose numbers are single ones on the device: a mean, a norm, and what depends on a norm."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from . import primitives
from .array import DeviceArray
from .kernels import Kernel, arguments_of
from .machine import Flat, Machine
from .pointwise import blocks
from .sums import THREADS, reduced


def quotient(dtype: np.dtype[Any]) -> Callable[..., None]:
    """The kernel for a / b; 0 where b is."""
    read, write, zero = primitives.read(), primitives.write(), dtype.type(0)

    def kernel(a, b, to):
        d = read(b, 0)
        write(to, 0, zero if d == zero else read(a, 0) / d)

    return kernel


@functools.cache
def quotient_kernel(dtype: np.dtype[Any]) -> Kernel:
    """See ``quotient``."""
    made = functools.partial(quotient, dtype)
    return Kernel(("quotient", dtype.name), made, arguments_of("a:in b:in to:out", dtype), 1)


def root(dtype: np.dtype[Any]) -> Callable[..., None]:
    """The kernel for unit * sqrt(squares); a unit that is 0 or not finite stays as it is."""
    read, write, zero, infinity = primitives.read(), primitives.write(), dtype.type(0), dtype.type(np.inf)

    def kernel(unit, squares, to):
        u = read(unit, 0)
        write(to, 0, u * math.sqrt(read(squares, 0)) if u > zero and u < infinity else u)

    return kernel


@functools.cache
def root_kernel(dtype: np.dtype[Any]) -> Kernel:
    """See ``root``."""
    made = functools.partial(root, dtype)
    return Kernel(("root", dtype.name), made, arguments_of("unit:in squares:in to:out", dtype), 1)


def shorten(dtype: np.dtype[Any]) -> Callable[..., None]:
    """The kernel that brings a vector of a norm to at most another norm, if the one it has is finite."""
    from numba import cuda

    read, write, infinity = primitives.read(), primitives.write(), dtype.type(np.inf)

    def kernel(a, norm, most):
        e = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if e < a.shape[0]:
            n = read(norm, 0)
            if n > most and n < infinity:
                write(a, e, read(a, e) * (most / n))

    return kernel


@functools.cache
def shorten_kernel(dtype: np.dtype[Any]) -> Kernel:
    """See ``shorten``."""
    arguments = arguments_of(f"a:inout norm:in most:{dtype.str}", dtype)
    return Kernel(("shorten", dtype.name), functools.partial(shorten, dtype), arguments, THREADS)


def confine(dtype: np.dtype[Any]) -> Callable[..., None]:
    """The kernel that brings numbers into -edge..edge; NaN stays."""
    from numba import cuda

    read, write = primitives.read(), primitives.write()

    def kernel(a, edge):
        e = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if e < a.shape[0]:
            x = read(a, e)
            if x > edge:
                write(a, e, edge)
            elif x < -edge:
                write(a, e, -edge)

    return kernel


@functools.cache
def confine_kernel(dtype: np.dtype[Any]) -> Kernel:
    """See ``confine``."""
    arguments = arguments_of(f"a:inout edge:{dtype.str}", dtype)
    return Kernel(("confine", dtype.name), functools.partial(confine, dtype), arguments, THREADS)


def clip_norm(vector: DeviceArray, most: float) -> DeviceArray:
    """The norm of a vector, which is brought to at most another one, in place.

    Squares are taken of parts of the largest number: they neither overflow nor vanish.
    """
    machine, flat, dtype = vector.machine, vector.numbers(), vector.dtype
    largest = reduced(machine, "largest", flat)
    norm = machine.empty(1, dtype)
    machine.launch(root_kernel(dtype), (1,), (largest, reduced(machine, "squares", flat, largest), norm))
    if most < math.inf and flat.size:
        machine.launch(shorten_kernel(dtype), blocks(flat.size), (flat, norm, dtype.type(most)))
    return DeviceArray(machine, norm, ())


def clip_value(vector: DeviceArray, edge: float) -> DeviceArray:
    """The largest absolute value, NaN if there is one; numbers are brought into -edge..edge, in place."""
    machine, flat, dtype = vector.machine, vector.numbers(), vector.dtype
    largest = reduced(machine, "largest", flat)
    if edge < math.inf and flat.size:
        edge = min(edge, float(np.finfo(dtype).max))
        machine.launch(confine_kernel(dtype), blocks(flat.size), (flat, dtype.type(edge)))
    return DeviceArray(machine, largest, ())


def mean(machine: Machine, values: Flat, weights: Flat) -> DeviceArray:
    """Sum of values over sum of weights, which is an array of one; 0 if the latter is."""
    to = machine.empty(1, values.dtype)
    machine.launch(quotient_kernel(values.dtype), (1,), (reduced(machine, "sum", values), weights, to))
    return DeviceArray(machine, to, ())
