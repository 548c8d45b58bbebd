"""Numbers below the smallest normal one, for which a product can take a hundred times as long.

A gradient that vanishes passes through them on its way to 0: at 200 steps of an RNN they were nine tenths of the time.
So does what an optimiser carries for a parameter that has got no gradient for long, and it stays there.  They have few
digits left and nothing to say, so these loops have them be 0: as a state of the thread, that ``flush`` sets and
``restore`` takes back.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .._kernel import cached, compiled, kernel
from .emit import I64

_I32 = ir.IntType(32)

#: Results become 0, operands count as 0: bits of MXCSR on x86; FZ of FPCR, which is both, on ARM.
_FLUSH_X86, _FLUSH_ARM = 0x8040, 1 << 24


def _function(builder: Any, name: str, result: ir.Type, *arguments: ir.Type) -> ir.Function:
    function = builder.module.globals.get(name)
    return function or ir.Function(builder.module, ir.FunctionType(result, arguments), name)


def _word(builder: Any) -> Any:
    """Room for MXCSR, which goes by way of memory."""
    with builder.goto_entry_block():
        return builder.alloca(_I32)


def read(builder: Any, machine: str) -> Any:
    """The state, 64 bits; 0 where it isn't known how."""
    if machine in ("x86_64", "amd64"):
        room = _word(builder)
        builder.call(_function(builder, "llvm.x86.sse.stmxcsr", ir.VoidType(), room.type), [room])
        return builder.zext(builder.load(room, typ=_I32), I64)
    if machine in ("arm64", "aarch64"):
        return builder.call(_function(builder, "llvm.aarch64.get.fpcr", I64), [])
    return I64(0)


def write(builder: Any, machine: str, state: Any) -> None:
    """Put a state that ``read`` has given."""
    if machine in ("x86_64", "amd64"):
        room = _word(builder)
        builder.store(builder.trunc(state, _I32), room)
        builder.call(_function(builder, "llvm.x86.sse.ldmxcsr", ir.VoidType(), room.type), [room])
    elif machine in ("arm64", "aarch64"):
        builder.call(_function(builder, "llvm.aarch64.set.fpcr", ir.VoidType(), I64), [state])


def flushing(builder: Any, machine: str, state: Any) -> Any:
    """That state, but for what becomes of subnormal numbers."""
    return builder.or_(state, I64(_FLUSH_ARM if machine in ("arm64", "aarch64") else _FLUSH_X86))


def _machine() -> str:
    return platform.machine().lower()


@intrinsic
def flush(typingctx):
    """Have subnormal numbers be 0 in this thread; what ``restore`` wants."""

    def emit(context, builder, signature, arguments):
        before = read(builder, _machine())
        write(builder, _machine(), flushing(builder, _machine(), before))
        return before

    return types.int64(), emit


@intrinsic
def restore(typingctx, before):
    """Have them be what they were before."""

    def emit(context, builder, signature, arguments):
        write(builder, _machine(), arguments[0])
        return context.get_dummy_value()

    return types.void(types.int64), emit


@kernel
def begin():
    """``flush``, for callers from Python."""
    return flush()


@kernel
def end(before):
    """``restore``, for the same."""
    restore(before)


@cached
def _ends() -> tuple[Callable[..., int], Callable[..., None]]:
    return compiled(begin, ()), compiled(end, (types.int64,))


def flushed(entry: Callable[..., None]) -> Callable[..., None]:
    """A compiled loop, with subnormal numbers as 0 while it runs."""
    before, after = _ends()

    def run(*arguments: Any) -> None:
        state = before()
        try:
            entry(*arguments)
        finally:
            after(state)

    return run
