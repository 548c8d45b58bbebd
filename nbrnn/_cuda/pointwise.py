"""Kernels that work number by number: one thread for each.

What they compute is handed down to them, as the very functions that the CPU runs: formulas on values that know
``+ - * /``, and loops of one pass over vectors (``_loops.update``), each thread of which sees vectors of one number.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir

from .._kernel import digest_of
from . import primitives
from .kernels import Kernel, arguments_of
from .machine import Flat, Machine
from .sums import THREADS


def blocks(size: int) -> tuple[int, ...]:
    """A grid with a thread for each of so many numbers."""
    return (-(-size // THREADS),)


@functools.cache
def sources(function: Callable[..., Any]) -> str:
    """What tells a function that comes from outside from others of that name: it is no part of the core."""
    code = function.__code__
    return f"{code.co_name}:{code.co_firstlineno}:{digest_of(pathlib.Path(code.co_filename))}"


# Copies


def assign(source: np.dtype[Any], dtype: np.dtype[Any]) -> Callable[..., None]:
    """The kernel that brings an array of up to three axes, of any strides, into C order and to another dtype."""
    from numba import cuda, from_dtype

    read, number = primitives.read(), from_dtype(dtype)

    def kernel(a, b_size, c_size, a_stride, b_stride, c_stride, to):
        e = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if e < to.shape[0]:
            row = e // c_size
            at = row // b_size * a_stride + row % b_size * b_stride + e % c_size * c_stride
            to[e] = number(read(a, at))

    return kernel


@functools.cache
def assign_kernel(source: np.dtype[Any], dtype: np.dtype[Any]) -> Kernel:
    """See ``assign``."""
    text = f"a:in:{source.str} b_size:i8 c_size:i8 a_stride:i8 b_stride:i8 c_stride:i8 to:out"
    key = ("assign", source.name, dtype.name)
    return Kernel(key, functools.partial(assign, source, dtype), arguments_of(text, dtype), THREADS)


def take_rows(dtype: np.dtype[Any]) -> Callable[..., None]:
    """The kernel for ``to[r, k] = a[index[r] + k]``."""
    from numba import cuda

    read, write = primitives.read(), primitives.write()

    def kernel(a, index, n, stride, to):
        e = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if e < to.shape[0]:
            row = e // n
            write(to, e, read(a, read(index, row) + (e - row * n) * stride))

    return kernel


@functools.cache
def take_rows_kernel(dtype: np.dtype[Any]) -> Kernel:
    """See ``take_rows``."""
    arguments = arguments_of("a:in index:in:i8 n:i8 stride:i8 to:out", dtype)
    return Kernel(("take_rows", dtype.name), functools.partial(take_rows, dtype), arguments, THREADS)


def put_rows(dtype: np.dtype[Any]) -> Callable[..., None]:
    """The kernel for ``to[index[r] + k] = a[r, k]``."""
    from numba import cuda

    read, write = primitives.read(), primitives.write()

    def kernel(a, index, n, to):
        e = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if e < a.shape[0]:
            row = e // n
            write(to, read(index, row) + e - row * n, read(a, e))

    return kernel


@functools.cache
def put_rows_kernel(dtype: np.dtype[Any]) -> Kernel:
    """See ``put_rows``."""
    arguments = arguments_of("a:in index:in:i8 n:i8 to:inout", dtype)
    return Kernel(("put_rows", dtype.name), functools.partial(put_rows, dtype), arguments, THREADS)


# Formulas


def mapped(formula: Callable[..., Any], both: bool) -> Callable[..., None]:
    """The kernel for ``to[k] = formula(a[k])``, or ``formula(a[k], b[k])``."""
    from numba import cuda

    read, write = primitives.read(), primitives.write()
    one = primitives.primitive(lambda x: x)(lambda b, x: x.like(formula(x)))
    two = primitives.primitive(lambda x, y: x)(lambda b, x, y: x.like(formula(x, y)))

    def kernel(a, b, to):
        e = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if e < to.shape[0]:
            if both:
                write(to, e, two(read(a, e), read(b, e)))
            else:
                write(to, e, one(read(a, e)))

    return kernel


@functools.cache
def mapped_kernel(formula: Callable[..., Any], both: bool, dtype: np.dtype[Any]) -> Kernel:
    """See ``mapped``; ``a`` and ``to`` may be the same array."""
    key = ("mapped", sources(formula), str(both), dtype.name)
    return Kernel(key, functools.partial(mapped, formula, both), arguments_of("a:inout b:in to:inout", dtype), THREADS)


# Loops over vectors


def update(loop: Callable[..., None], present: tuple[bool, ...], numbers: int) -> Callable[..., None]:
    """The kernel of a loop over parameters p, gradients g, vectors and numbers: a step of an optimiser.

    Each thread runs the loop on vectors of one number: those of u, v and w that are ``present``, None for the others;
    and on the first few numbers.
    """
    from numba import cuda
    from numba.cuda import types
    from numba.cuda.extending import intrinsic

    @intrinsic
    def run_on_one(typingctx, p, g, u, v, w, n0, n1, n2, n3, n4, n5, n6, n7, k):
        carried = [kind if there else types.none for kind, there in zip((u, v, w), present, strict=False)]
        kinds = [p, g, *carried, *[n0] * numbers]

        def emit(context, b, signature, given):
            at, one = context.cast(b, given[-1], signature.args[-1], types.int64), ir.IntType(64)(1)

            def element(kind, value):
                array = context.make_helper(b, kind, value)
                array.data = b.gep(array.data, [at], inbounds=True)
                array.nitems, array.shape = one, context.make_tuple(b, types.UniTuple(types.int64, 1), [one])
                return array._getvalue()

            values = [
                context.get_dummy_value() if kind is types.none else element(kind, value)
                for kind, value in zip(kinds, given[: 2 + len(carried)], strict=False)
            ]
            context.compile_internal(b, loop, types.none(*kinds), [*values, *given[5 : 5 + numbers]])
            return context.get_dummy_value()

        return types.none(p, g, u, v, w, n0, n1, n2, n3, n4, n5, n6, n7, k), emit

    def kernel(p, g, u, v, w, n0, n1, n2, n3, n4, n5, n6, n7):
        k = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if k < p.shape[0]:
            run_on_one(p, g, u, v, w, n0, n1, n2, n3, n4, n5, n6, n7, k)

    return kernel


#: Most vectors and numbers of a loop.
VECTORS, NUMBERS = 3, 8


@functools.cache
def update_kernel(loop: Callable[..., None], present: tuple[bool, ...], numbers: int, dtype: np.dtype[Any]) -> Kernel:
    """See ``update``; what isn't there is an empty array, or 0."""
    text = "p:inout g:in u:inout v:inout w:inout " + " ".join(f"n{q}:{dtype.str}" for q in range(NUMBERS))
    key = ("update", sources(loop), str(present), str(numbers), dtype.name)
    return Kernel(key, functools.partial(update, loop, present, numbers), arguments_of(text, dtype), THREADS)


def updated(
    machine: Machine,
    loop: Callable[..., None],
    present: tuple[bool, ...],
    p: Flat,
    g: Flat,
    vectors: tuple[Flat, ...],
    numbers: tuple[float, ...],
) -> None:
    """Run such a loop; ``vectors`` are those that are there."""
    if p.size == 0:
        return
    own, number, nothing = iter(vectors), np.dtype(p.dtype).type, p[:0]
    carried = [next(own) if there else nothing for there in present]
    filled = [*carried, *[nothing] * (VECTORS - len(carried))]
    given = [*map(number, numbers), *[number(0)] * (NUMBERS - len(numbers))]
    kernel = update_kernel(loop, present, len(numbers), np.dtype(p.dtype))
    machine.launch(kernel, blocks(p.size), (p, g, *filled, *given))
