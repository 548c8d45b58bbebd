"""Rows of numbers in memory: where a user's arrays meet the padded workspaces of the kernels.

Vector code elsewhere touches only workspaces, whose rows are padded to whole vectors.  What reads or writes an array
of the user's goes through the primitives of this file (and the broadcasts of ``tiles``), and stays inside a row's own
numbers to the last one.

Every primitive takes ``net`` first, which brings the dtype and the vector width: a network, or any NamedTuple that
begins with a buffer ``w`` and a width ``lanes``.  Addresses are integers, so that loops can do arithmetic with them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .._kernel import part
from .._nets import is_net, lanes_of
from .emit import I64, LINE, Emit, Int, Ptr

ADDRESS = types.int64


def emitter(builder: Any, net_type: Any) -> Emit:
    """An emitter for the dtype and vector width of a network's type."""
    lanes = lanes_of(net_type) if is_net(net_type) else net_type.types[1].instance_class
    return Emit(builder, net_type.types[0].dtype, lanes)


def primitive(body: Callable[..., None]) -> Any:
    """Make an intrinsic that returns nothing of ``body(e, net, *arguments)``.

    ``net`` is a ``NetView``; the other arguments, integers in the caller's code, arrive as ``Int`` (None stays None).
    """

    def typing(typingctx, net, *arguments):
        signature = types.void(net, *(types.none if isinstance(a, types.NoneType) else types.int64 for a in arguments))

        def emit(context, builder, signature, values):
            e = emitter(builder, signature.args[0])
            view = NetView(e, context, signature.args[0], values[0])
            given = zip(signature.args[1:], values[1:], strict=True)
            body(e, view, *(None if isinstance(t, types.NoneType) else Int(e, v) for t, v in given))
            return context.get_dummy_value()

        return signature, emit

    # Numba matches calls against the signature: that of the body, with a typing context for the emitter.
    names = list(inspect.signature(body).parameters)[1:]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    typing.__signature__ = inspect.Signature([inspect.Parameter(n, kind) for n in ["typingctx", *names]])  # type: ignore[attr-defined]
    typing.__name__ = typing.__qualname__ = body.__name__
    typing.__doc__ = body.__doc__
    typing.__module__ = body.__module__
    return intrinsic(typing)


class NetView:
    """A network inside a primitive: its fields by name, ``w`` as a pointer."""

    def __init__(self, e: Emit, context: Any, net_type: Any, value: Any) -> None:
        self.type = net_type
        self._e, self._context, self._value = e, context, value

    def __getattr__(self, field: str) -> Any:
        position = self.type.fields.index(field)
        value = self._e.b.extract_value(self._value, position)
        if field == "w":
            data = self._context.make_array(self.type.types[position])(self._context, self._e.b, value).data
            return self._e.ptr(Int(self._e, self._e.b.ptrtoint(data, I64)))
        return Int(self._e, value)


def stack(e: Emit, count: int) -> Ptr:
    """Room for so many numbers on the stack."""
    with e.b.goto_entry_block():
        room = e.b.alloca(ir.ArrayType(e.scalar_type, count))
        room.align = LINE
    return e.ptr(Int(e, e.b.ptrtoint(room, I64)))


@intrinsic
def address(typingctx, array):
    """Address of an array's first number."""

    def emit(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.ptrtoint(data, I64)

    return ADDRESS(array), emit


def copy(e: Emit, to: Ptr, stride: Int, source: Ptr, n: Int) -> None:
    """Copy n numbers; vector b of them goes to ``to + b * stride``."""
    whole = n // e.W
    e.each(whole, lambda b: (to + b * stride).store((source + b * e.W).load()))
    rest_to, rest = to + whole * stride, source + whole * e.W
    e.each(n % e.W, lambda k: (rest_to + k).put_number((rest + k).number()))


@part
def row_address(array, row):
    """Address of a row of a two-dimensional array; None for None."""
    if array is None:
        return None
    return address(array) + row * array.strides[0]


@primitive
def copy_row(e, net, to, source, n):
    """``to[k] = source[k]`` for k < n."""
    copy(e, e.ptr(to), e.integer(e.W), e.ptr(source), n)


@primitive
def spread_row(e, net, to, slab, source, n):
    """The same into slabs: numbers bW to (b+1)W go to ``to + b * slab`` (in numbers)."""
    copy(e, e.ptr(to), slab, e.ptr(source), n)


@primitive
def add_row(e, net, to, source, n):
    """``to[k] += source[k]`` for k < n."""
    to, source, whole = e.ptr(to), e.ptr(source), n // e.W
    e.each(whole, lambda b: (to + b * e.W).store((to + b * e.W).load() + (source + b * e.W).load()))
    rest_to, rest = to + whole * e.W, source + whole * e.W
    e.each(n % e.W, lambda k: (rest_to + k).put_number(e.b.fadd((rest_to + k).number(), (rest + k).number())))


@primitive
def zero_row(e, net, to, n):
    """``to[k] = 0`` for k < n."""
    to, whole, zero = e.ptr(to), n // e.W, e.vec(0.0)
    e.each(whole, lambda b: (to + b * e.W).store(zero))
    rest = to + whole * e.W
    e.each(n % e.W, lambda k: (rest + k).put_number(e.scalar_type(0.0)))


# Of workspaces, whose rows are padded: whole vectors.


def _padded(e: Emit, n: Int) -> Int:
    return (n + (e.W - 1)) // e.W


@primitive
def multiply_padded(e, net, to, source, by, n):
    """``to[k] = source[k] * by[k]`` for k < n, and up to the end of a vector."""
    to, source, by = e.ptr(to), e.ptr(source), e.ptr(by)
    e.each(_padded(e, n), lambda b: (to + b * e.W).store((source + b * e.W).load() * (by + b * e.W).load()))


@primitive
def add_product_padded(e, net, to, source, by, n):
    """``to[k] += source[k] * by[k]`` likewise."""
    to, source, by = e.ptr(to), e.ptr(source), e.ptr(by)

    def vector(b: Int) -> None:
        at = b * e.W
        (to + at).store((to + at).load() + (source + at).load() * (by + at).load())

    e.each(_padded(e, n), vector)


@primitive
def multiply_slabs(e, net, to, slab, by, n):
    """What ``spread_row`` has spread, times the numbers of a row, likewise."""
    to, by = e.ptr(to), e.ptr(by)
    e.each(_padded(e, n), lambda b: (to + b * slab).store((to + b * slab).load() * (by + b * e.W).load()))


@primitive
def zero_padded(e, net, to, n):
    """``to[k] = 0`` likewise."""
    to = e.ptr(to)
    e.each(_padded(e, n), lambda b: (to + b * e.W).store(e.vec(0.0)))
