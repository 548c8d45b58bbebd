"""Steps inside users' own CUDA kernels: a thread has a sequence of its own (``nets``).

Nothing here is a kernel.  Where a function compiled by numba-cuda names one of ``nbrnn.jit``, numba-cuda is led to what
stands here under that name (``nbrnn._inside``).  What is refused is refused when a user's kernel is compiled, which a
launch does before it copies anything.

The sums of a block of units stay in registers while numbers of x and h are read one after another.  The new h is
written to y, which has as many numbers, since all blocks read the old one, and copied at the end of a layer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core.errors import TypingError

from .._cells import Cell
from .._kernel import cached
from .nets import cell_of_thread, units
from .primitives import primitive

I64 = ir.IntType(64)


def require(net: Any, axes: int, **arrays: Any) -> type[Cell]:
    """The cell of a network's type, if those of the arrays are as they must be.

    Raises
    ------
    numba.TypingError
        Says what isn't.
    """
    from numba.cuda import types

    try:
        cell = cell_of_thread(net)
    except LookupError:
        raise TypingError(f'net must come from layer.to("cuda").jit(), got {net}') from None
    if cell is None:
        raise TypingError('net must come from layer.to("cuda").jit() in a CUDA kernel, got that of a layer on the CPU')
    dtype = net.types[0].dtype
    for name, array in arrays.items():
        dimensions = 3 if name == "state" else axes
        if not isinstance(array, types.Array) or array.ndim != dimensions or array.dtype != dtype:
            raise TypingError(f"{name} must be an array of {dtype} with {dimensions} dimensions, got {array}")
        if name != "x" and not array.mutable:
            raise TypingError(f"{name} must be writeable, got {array}")
    return cell


@functools.cache
def functions() -> dict[str, Callable[..., Any]]:
    """Stand-ins for the functions of ``nbrnn.jit``, by name: what they do in kernels is an overload."""
    from numba.cuda.extending import overload

    def output_size(net):
        raise NotImplementedError

    def zero_state(net):
        raise NotImplementedError

    def step(net, x, state, y):
        raise NotImplementedError

    def run(net, x, state, y):
        raise NotImplementedError

    inlined = {"forceinline": True}

    @overload(output_size, jit_options=inlined)
    def _(net):
        require(net, 1)
        return lambda net: net.K

    @overload(zero_state)
    def _(net):
        raise TypingError(
            "zero_state can't allocate in a CUDA kernel: pass an array of zeros of shape (L, S, H), made outside"
        )

    @overload(step, jit_options=inlined)
    def _(net, x, state, y):
        return step_of_thread(require(net, 1, x=x, state=state, y=y))

    @overload(run, jit_options=inlined)
    def _(net, x, state, y):
        one = device_function(step_of_thread(require(net, 2, x=x, state=state, y=y)))

        def run(net, x, state, y):
            for t in range(x.shape[0]):
                one(net, x[t], state, y[t])

        return run

    return {f.__name__: f for f in (output_size, zero_state, step, run)}


def device_function(function: Callable[..., Any]) -> Any:
    """A function that becomes part of those that call it."""
    from numba import cuda

    return cuda.jit(function, device=True, forceinline=True)


@cached
def step_of_thread(cell: type[Cell]) -> Callable[..., None]:
    """``step(net, x, state, y)``: all layers of one step."""
    U, S, E, projected = units(cell), cell.sums(), cell.extras(), cell.projected
    wide, hidden = len(cell.gates) * U, (S - len(cell.gates)) * U
    read, write, read_state, write_state = element(1), put(1), element(3), put(3)
    start, multiply_x, multiply_h = load(S * U), multiply(0, wide), multiply(hidden, wide)
    write_block, formulas, project = put_several(U), step_of_block(cell), dot(U)

    def step(net, x, state, y):
        w, I, H, K = net.w, net.I, net.H, net.K
        if x.shape[0] != I:
            raise ValueError("x must have shape (I,), with I the layer's input size")
        if y.shape[0] != K:
            raise ValueError("y must have shape (K,), with K = output_size(net)")
        if state.shape[0] != net.L or state.shape[1] != 1 + E or state.shape[2] != H:
            raise ValueError("state must have shape (L, S, H), as that of zero_state")
        at = 0
        for layer in range(net.L):
            if projected:
                for k in range(K):
                    write(y, k, w.dtype.type(0))
            for first in range(0, H, U):
                sums = start(w, at)
                at += S * U
                if layer == 0:
                    for k in range(I):
                        sums = multiply_x(sums, read(x, k), w, at)
                        at += wide
                else:
                    for k in range(K):
                        sums = multiply_x(sums, read_state(state, layer - 1, 0, k), w, at)
                        at += wide
                for k in range(K):
                    sums = multiply_h(sums, read_state(state, layer, 0, k), w, at)
                    at += wide
                h = formulas(sums, state, layer, first, H)
                if projected:
                    for k in range(K):
                        write(y, k, project(read(y, k), h, w, at))
                        at += U
                else:
                    write_block(y, first, H, h)
            for k in range(K):
                write_state(state, layer, 0, k, read(y, k))

    return step


# Access to users' arrays, of any layout.


@functools.cache
def element(axes: int) -> Any:
    """``element(array, ...)``: the number at so many indices, none of them negative."""
    if axes == 1:

        @primitive(lambda array, i: array.dtype)
        def element(b, array, i):
            return array.at(i).load()

    else:

        @primitive(lambda array, i, j, k: array.dtype)
        def element(b, array, i, j, k):
            return array.at(i, j, k).load()

    return element


@functools.cache
def put(axes: int) -> Any:
    """``put(array, ..., value)``: write the number at so many indices."""
    from numba.cuda import types

    if axes == 1:

        @primitive(lambda array, i, value: types.none)
        def put(b, array, i, value):
            array.at(i).store(value)

    else:

        @primitive(lambda array, i, j, k, value: types.none)
        def put(b, array, i, j, k, value):
            array.at(i, j, k).store(value)

    return put


@functools.cache
def put_several(count: int) -> Any:
    """``put(array, first, size, values)``: so many numbers from ``first`` on, as far as there is room."""
    from numba.cuda import types

    @primitive(lambda array, first, size, values: types.none)
    def put_several(b, array, first, size, values):
        for q, value in enumerate(values):
            i = b.add(first, I64(q))
            with b.if_then(b.icmp_signed("<", i, size)):
                array.at(i).store(value)

    return put_several


# Blocks of units


def load(count: int) -> Any:
    """``load(w, at)``: so many weights."""
    from numba.cuda import types

    @primitive(lambda w, at: types.UniTuple(w.dtype, count))
    def load(b, w, at):
        return (w + at).load_constants(count)

    return load


def multiply(first: int, count: int) -> Any:
    """``multiply(sums, value, w, at)``: so many products of a number with weights added to the sums from one on."""

    @primitive(lambda sums, value, w, at: sums)
    def multiply(b, sums, value, w, at):
        weights = (w + at).load_constants(count)
        added = [weight.fma(value, sum_) for weight, sum_ in zip(weights, sums[first : first + count], strict=True)]
        return [*sums[:first], *added, *sums[first + count :]]

    return multiply


@functools.cache
def dot(count: int) -> Any:
    """``dot(start, values, w, at)``: the products of so many numbers with weights, added to a first number."""

    @primitive(lambda start, values, w, at: start)
    def dot(b, start, values, w, at):
        for weight, value in zip((w + at).load_constants(count), values, strict=True):
            start = weight.fma(value, start)
        return start

    return dot


def step_of_block(cell: type[Cell]) -> Any:
    """``step(sums, state, layer, first, H)``: the new h of U units from ``first`` on, or what is projected to it.

    What else the cell carries is written to ``state``.
    """
    from numba.cuda import types

    U, S, E = units(cell), cell.sums(), cell.extras()

    @primitive(lambda sums, state, layer, first, H: types.UniTuple(state.dtype, U))
    def step(b, sums, state, layer, first, H):
        h = []
        for u in range(U):
            unit = b.add(first, I64(u))
            there = b.icmp_signed("<", unit, H)
            safe = b.select(there, unit, first)  # the first of a block is always there
            places = [state.at(layer, I64(s), safe) for s in range(1 + E)]
            old = [None if cell.projected else places[0].load(), *(p.load() for p in places[1:])]
            (new, *extras), _ = cell.forward(tuple(sums[s * U + u] for s in range(S)), tuple(old))
            h.append(new)
            with b.if_then(there):
                for place, value in zip(places[1:], extras, strict=True):
                    place.store(value)
        return h

    return step
