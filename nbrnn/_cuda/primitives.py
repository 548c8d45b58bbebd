"""What kernels are made of: functions that emit code, straight-line where loops would be in the way.

Registers have no addresses: whatever is to live in one, such as a thread's weights, must be named by constants when
code is made; whether a compiler unrolls a loop of Numba's so far is its own affair.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from llvmlite import ir

from .._cells import Cell
from .emit import I32, Pointer, Scalar, sum_over_lanes
from .plan import Split
from .schedule import SECOND, ZEROS


def primitive(result: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
    """Make a function for kernels of ``body(builder, *arguments)``.

    Arrays arrive as ``Pointer``, integers as 64-bit values of LLVM, floats as ``Scalar``, tuples as lists of these.
    The body returns None, a ``Scalar``, or a list of them for a tuple, perhaps nested.

    Parameters
    ----------
    result : callable
        From the Numba types of the arguments to that of the result.
    """
    from numba.cuda import types
    from numba.cuda.extending import intrinsic

    def arrives(context: Any, b: Any, kind: Any, value: Any) -> Any:
        if isinstance(kind, types.Array):
            return Pointer(b, context.make_helper(b, kind, value).data)
        if isinstance(kind, types.BaseTuple):
            return [arrives(context, b, k, b.extract_value(value, i)) for i, k in enumerate(kind)]
        if isinstance(kind, types.Float):
            return Scalar(b, value)
        return context.cast(b, value, kind, types.int64)

    def leaves(context: Any, b: Any, kind: Any, value: Any) -> Any:
        if value is None:
            return context.get_dummy_value()
        if isinstance(value, ir.Value):
            return value
        if isinstance(value, Scalar):
            return value.x
        return context.make_tuple(b, kind, [leaves(context, b, k, v) for k, v in zip(kind, value, strict=True)])

    def decorate(body: Callable[..., Any]) -> Any:
        def typing(typingctx, *kinds):
            def emit(context, b, signature, arguments):
                given = [arrives(context, b, k, v) for k, v in zip(signature.args, arguments, strict=True)]
                return leaves(context, b, signature.return_type, body(b, *given))

            return result(*kinds)(*kinds), emit

        # Numba matches calls against the signature: that of the body, with a typing context for the builder.
        names = list(inspect.signature(body).parameters)[1:]
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        typing.__signature__ = inspect.Signature([inspect.Parameter(n, kind) for n in ["typingctx", *names]])  # type: ignore[attr-defined]
        typing.__name__ = typing.__qualname__ = body.__name__
        typing.__doc__, typing.__module__ = body.__doc__, body.__module__
        return intrinsic(typing)

    return decorate


# Access without the look at negative indices that Numba's own subscripts begin with.


@functools.cache
def read() -> Any:
    """``read(array, i)``."""

    @primitive(lambda array, i: array.dtype)
    def read(b, array, i):
        return (array + i).load()

    return read


@functools.cache
def read_several(count: int) -> Any:
    """``read(array, i, stride)``: so many numbers, a stride apart."""
    from numba.cuda import types

    @primitive(lambda array, i, stride: types.UniTuple(array.dtype, count))
    def read_several(b, array, i, stride):
        at = array + i
        return [(at + b.mul(stride, ir.IntType(64)(q))).load() for q in range(count)]

    return read_several


@functools.cache
def read_row() -> Any:
    """``read(array, at, second, stride, i)``: number i of the row that begins at ``at``.

    That may be ``schedule.ZEROS``, or name a row of ``second``.
    """

    @primitive(lambda array, at, second, stride, i: array.dtype)
    def read_row(b, array, at, second, stride, i):
        long = ir.IntType(64)
        in_second = second + b.mul(b.sub(long(SECOND), at), stride)
        row = Pointer(b, b.select(b.icmp_signed("<", at, long(0)), in_second.x, (array + at).x)) + i
        nothing = ir.Constant(row.x.type.pointee, 0.0)
        before = b.block
        with b.if_then(b.icmp_signed("!=", at, long(ZEROS))):
            value = row.load()
            here = b.block
        both = b.phi(nothing.type)
        both.add_incoming(nothing, before)
        both.add_incoming(value.x, here)
        return Scalar(b, both)

    return read_row


@functools.cache
def write() -> Any:
    """``write(array, i, value)``."""
    from numba.cuda import types

    @primitive(lambda array, i, value: types.none)
    def write(b, array, i, value):
        (array + i).store(value if isinstance(value, Scalar) else Scalar(b, value))

    return write


@functools.cache
def write_several() -> Any:
    """``write(array, i, stride, values)``."""
    from numba.cuda import types

    @primitive(lambda array, i, stride, values: types.none)
    def write_several(b, array, i, stride, values):
        at = array + i
        for q, value in enumerate(values):
            (at + b.mul(stride, ir.IntType(64)(q))).store(value)

    return write_several


# Products (``plan.Split``)


def load_weights(split: Split) -> Any:
    """``load(weights, thread)``: those of a thread that stay in registers."""
    from numba.cuda import types

    @primitive(lambda weights, thread: types.UniTuple(weights.dtype, split.in_registers))
    def load_weights(b, weights, thread):
        at = weights + thread
        return [(at + n * split.threads).load() for n in range(split.in_registers)]

    return load_weights


def multiply(split: Split, rest_at: int = 0) -> Any:
    """``multiply(kept, weights, vectors, first, thread)``: the sums of the thread's unit and sequence.

    ``vectors``, from number ``first`` on, has [rows][parts][room] numbers.  A weight that isn't kept is read from
    ``weights``, ``rest_at`` numbers further than its place among all.
    """
    from numba.cuda import types

    @primitive(lambda kept, weights, vectors, first, thread: types.UniTuple(weights.dtype, split.outputs))
    def multiply(b, kept, weights, vectors, first, thread):
        own = b.and_(b.trunc(thread, I32), I32(split.lanes - 1))
        vectors = vectors + b.add(first, b.zext(own, ir.IntType(64)))
        rest = weights + thread
        size = split.per_group * split.outputs
        sums: list[list[Any]] = [[None] * size for _ in range(split.rows)]
        for turn in range(split.turns):
            for part in range(split.parts):
                xs = [
                    (vectors + ((row * split.parts + part) * split.room + turn * split.lanes)).load()
                    for row in range(split.rows)
                ]
                for q in range(size):
                    n = (turn * split.parts + part) * size + q
                    w = kept[n] if n < len(kept) else (rest + (n * split.threads + rest_at)).load()
                    for x, of_row in zip(xs, sums, strict=True):
                        of_row[q] = w * x if of_row[q] is None else w.fma(x, of_row[q])
        tuples = [
            tuple(of_row[q * split.outputs : (q + 1) * split.outputs])
            for of_row in sums
            for q in range(split.per_group)
        ]
        return list(sum_over_lanes(tuples, own, split.lanes))

    return multiply


# Cells


def step(cell: type[Cell]) -> Any:
    """``step(given, biases, sums, state)``: (state after, what is saved).

    ``given`` are the sums as far as they stem from the input, with all biases but those of split gates' hidden halves.
    """
    from numba.cuda import types

    gates, states = len(cell.gates), len(cell.state)

    @primitive(
        lambda given, biases, sums, state: types.Tuple(
            (types.UniTuple(given.dtype, states), types.UniTuple(given.dtype, len(cell.saved)))
        )
    )
    def step(b, given, biases, sums, state):
        totals = given + biases[: len(cell.split)]
        apart = len(totals) - gates
        totals = totals[:apart] + [total + s for total, s in zip(totals[apart:], sums, strict=True)]
        after, saved = cell.forward(tuple(totals), tuple(state))
        return [[state[0].like(v) for v in after], [state[0].like(v) for v in saved]]

    return step


def step_back(cell: type[Cell]) -> Any:
    """``step_back(dstate, saved)``: gradients for (all sums, those from h among them, the state before)."""
    from numba.cuda import types

    gates, states, sums = len(cell.gates), len(cell.state), cell.sums()

    @primitive(lambda dstate, saved: types.Tuple(tuple(types.UniTuple(dstate.dtype, n) for n in (sums, gates, states))))
    def step_back(b, dstate, saved):
        given, before = cell.backward(tuple(dstate), tuple(saved))
        dsums = [dstate[0].like(v) for v in given]
        return [dsums, dsums[sums - gates :], [dstate[0].like(v) for v in before]]

    return step_back


# The state of a unit: h, and E numbers more.


def read_state(extras: int) -> Any:
    """``read_state(h, at_h, c, at_c, stride)``."""
    from numba.cuda import types

    @primitive(lambda h, at_h, c, at_c, stride: types.UniTuple(h.dtype, 1 + extras))
    def read_state(b, h, at_h, c, at_c, stride):
        at = c + at_c
        return [(h + at_h).load(), *((at + b.mul(stride, ir.IntType(64)(q))).load() for q in range(extras))]

    return read_state


@functools.cache
def write_state() -> Any:
    """``write_state(h, at_h, c, at_c, stride, state)``."""
    from numba.cuda import types

    @primitive(lambda h, at_h, c, at_c, stride, state: types.none)
    def write_state(b, h, at_h, c, at_c, stride, state):
        (h + at_h).store(state[0])
        at = c + at_c
        for q, value in enumerate(state[1:]):
            (at + b.mul(stride, ir.IntType(64)(q))).store(value)

    return write_state


def read_extras(extras: int) -> Any:
    """``read(h, c, at, stride, none)``: the state with this h, and zeros beside it if ``none``."""
    from numba.cuda import types

    @primitive(lambda h, c, at, stride, none: types.UniTuple(c.dtype, 1 + extras))
    def read_extras(b, h, c, at, stride, none):
        at, long = c + at, ir.IntType(64)
        found = [(at + b.mul(stride, long(q))).load() for q in range(extras)]
        return [h, *(v.if_not(b.icmp_unsigned("!=", none, long(0)), v.like(0)) for v in found)]

    return read_extras


@functools.cache
def write_extras() -> Any:
    """``write(c, at, stride, state, none)``: all but h, or zeros if ``none``."""
    from numba.cuda import types

    @primitive(lambda c, at, stride, state, none: types.none)
    def write_extras(b, c, at, stride, state, none):
        at, long = c + at, ir.IntType(64)
        for q, v in enumerate(state[1:]):
            (at + b.mul(stride, long(q))).store(v.if_not(b.icmp_unsigned("!=", none, long(0)), v.like(0)))

    return write_extras


@functools.cache
def add_to_h() -> Any:
    """``add_to_h(state, value)``: the state with a number added to its first."""

    @primitive(lambda state, value: state)
    def add_to_h(b, state, value):
        return [state[0] + value, *state[1:]]

    return add_to_h


def numba_dtype(dtype: Any) -> Any:
    """float32 or float64 as Numba's."""
    from numba.cuda import types

    return types.float32 if dtype.itemsize == 4 else types.float64


def zeros(count: int, dtype: Any) -> Any:
    """``zeros()``: a tuple of so many."""
    from numba.cuda import types

    kind = numba_dtype(dtype)

    @primitive(lambda: types.UniTuple(kind, count))
    def zeros(b):
        return [Scalar(b, ir.Constant(ir.FloatType() if dtype.itemsize == 4 else ir.DoubleType(), 0.0))] * count

    return zeros


# Tiles of large products


@functools.cache
def multiply_tile(depth: int, left_row: int, right_row: int, across: int, each: int) -> Any:
    """``multiply(sums, left, y, right, x)``: ``each`` by 4 sums, with ``depth`` products added to each."""
    from numba.cuda import types

    @primitive(lambda sums, left, y, right, x: types.UniTuple(right.dtype, 4 * each))
    def multiply_tile(b, sums, left, y, right, x):
        left, right = left + y, right + x
        for k in range(depth):
            us = [(left + (k * left_row + across * i)).load() for i in range(each)]
            vs = [(right + (k * right_row + across * j)).load() for j in range(4)]
            sums = [us[q // 4].fma(vs[q % 4], sums[q]) for q in range(4 * each)]
        return sums

    return multiply_tile


@functools.cache
def pick() -> Any:
    """``pick(values, i)``: one of a tuple."""

    @primitive(lambda values, i: values.dtype)
    def pick(b, values, i):
        found = values[0]
        for q, value in enumerate(values[1:], 1):
            found = found.if_not(b.icmp_unsigned("==", i, ir.IntType(64)(q)), value)
        return found

    return pick
