"""How opcodes are found: each is a function that decodes an instruction into one that executes it for some lanes.

A decoder takes the instruction, its modifiers and the launch.  Every modifier must be taken by the decoder: one that is
left over is an error that names it, as is an opcode that nobody knows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.ptx.errors import PtxError
from tests.ptx.operands import Array, Lanes
from tests.ptx.parse import SIZES, Instruction

if TYPE_CHECKING:
    from tests.ptx.program import Program

Execute = Callable[[Lanes], None]
Decoder = Callable[[Instruction, "Modifiers", "Program"], Execute]

INTEGERS = "u16 s16 u32 s32 u64 s64"
BITS = "b16 b32 b64"
FLOATS = "f32 f64"

#: By opcode: types, decoder.
KNOWN: dict[str, list[tuple[frozenset[str], Decoder]]] = {}


class Modifiers:
    """Modifiers of an instruction, to be taken one by one."""

    def __init__(self, instruction: Instruction):
        self.instruction = instruction
        self.left = list(instruction.modifiers)

    def take(self, options: str, default: str | None = None) -> str:
        """The one that stands there, among options separated by blanks."""
        for option in options.split():
            if option in self.left:
                self.left.remove(option)
                return option
        if default is None:
            raise PtxError(f"{self.instruction.text}: one of {options} is needed")
        return default

    def has(self, name: str) -> bool:
        """Whether it stands there."""
        return self.take(name, "") == name

    def type(self) -> str:
        """The last, which is a type."""
        if not self.left or self.left[-1] not in SIZES:
            raise PtxError(f"{self.instruction.text}: no type")
        return self.left.pop()

    def done(self) -> None:
        """Complain of what nobody has taken."""
        if self.left:
            raise PtxError(f"modifier .{self.left[0]} is not emulated here: {self.instruction.text}")


def opcode(names: str, types: str = "") -> Callable[[Decoder], Decoder]:
    """Make a decoder known for opcodes, and for some types if the opcode has one."""

    def know(decoder: Decoder) -> Decoder:
        for name in names.split():
            KNOWN.setdefault(name, []).append((frozenset(types.split()), decoder))
        return decoder

    return know


def decode(instruction: Instruction, launch: Program) -> Execute:
    """The function that executes an instruction for some lanes."""
    modifiers = Modifiers(instruction)
    type_ = instruction.modifiers[-1] if instruction.modifiers else ""
    for types, decoder in KNOWN.get(instruction.opcode, ()):
        if not types or type_ in types:
            execute = decoder(instruction, modifiers, launch)
            modifiers.done()
            return execute
    what = f"type .{type_} of {instruction.opcode}" if instruction.opcode in KNOWN else f"opcode {instruction.opcode}"
    raise PtxError(f"{what} is not emulated: {instruction.text}")


def operands_of(instruction: Instruction, count: int) -> tuple[str, ...]:
    """Operands, which must be so many."""
    if len(instruction.operands) != count:
        raise PtxError(f"{instruction.text}: {count} operands expected")
    return instruction.operands


def elementwise(f: Callable[..., Array], target: Any, sources: list[Array], N: int) -> Execute:
    """Execute target = f(*sources).

    A NumPy ufunc that gives the target's dtype writes right into it where the lanes are a slice.
    """
    if isinstance(f, np.ufunc) and isinstance(target, np.ndarray):
        if len(sources) == 2:
            a, b = sources

            def two(ix: Lanes) -> None:
                if type(ix) is slice:
                    if ix.stop - ix.start == N:
                        f(a, b, out=target)
                    else:
                        f(a[ix], b[ix], out=target[ix])
                else:
                    target[ix] = f(a[ix], b[ix])

            return two
        (c,) = sources

        def one(ix: Lanes) -> None:
            target[ix] = f(c[ix])

        return one
    if len(sources) == 1:
        (a,) = sources
        return lambda ix: target.__setitem__(ix, f(a[ix]))
    if len(sources) == 2:
        a, b = sources
        return lambda ix: target.__setitem__(ix, f(a[ix], b[ix]))
    a, b, c = sources
    return lambda ix: target.__setitem__(ix, f(a[ix], b[ix], c[ix]))


def simple(
    f: Callable[..., Array],
    type_: str,
    instruction: Instruction,
    launch: Program,
    of: str | None = None,
    last: str | None = None,
) -> Execute:
    """Execute d = f(a, b, ...) where all operands have a type: `of` that of the target, `last` of the last source."""
    operands = launch.operands
    target = operands.target(instruction.operands[0], of or type_)
    texts = instruction.operands[1:]
    types = [type_] * len(texts)
    if last:
        types[-1] = last
    return elementwise(f, target, [operands.source(t, k) for t, k in zip(texts, types, strict=True)], launch.N)
