"""Comparison, selection and moves."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from tests.ptx.errors import PtxError
from tests.ptx.opcodes import BITS, FLOATS, INTEGERS, Execute, Modifiers, elementwise, opcode, operands_of
from tests.ptx.operands import DTYPES, Array, Lanes, reader
from tests.ptx.parse import Instruction

if TYPE_CHECKING:
    from tests.ptx.program import Program

ALL = f"{INTEGERS} {BITS} {FLOATS}"


@opcode("selp", ALL)
def selp(ins: Instruction, mods: Modifiers, launch: Program) -> Execute:
    operands_of(ins, 4)
    type_ = mods.type()
    p = reader(launch.operands.predicate(ins.operands[3]))
    a, b = (launch.operands.source(o, type_) for o in ins.operands[1:3])
    d = launch.operands.target(ins.operands[0], type_)
    return lambda ix: d.__setitem__(ix, np.where(p(ix), a[ix], b[ix]))


COMPARE: dict[str, Callable[[Array, Array], Array]] = {
    "eq": np.equal,
    "ne": lambda a, b: (a < b) | (a > b),
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "equ": lambda a, b: ~((a < b) | (a > b)),
    "neu": np.not_equal,
    "ltu": lambda a, b: ~(a >= b),
    "leu": lambda a, b: ~(a > b),
    "gtu": lambda a, b: ~(a <= b),
    "geu": lambda a, b: ~(a < b),
    "num": lambda a, b: (a == a) & (b == b),
    "nan": lambda a, b: (a != a) | (b != b),
}
UNSIGNED = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}


@opcode("setp", ALL)
def setp(ins: Instruction, mods: Modifiers, launch: Program) -> Execute:
    """Compare, and combine with another predicate; `p|q` gives the opposite (before combining) too."""
    type_ = mods.type()
    name = mods.take(" ".join([*COMPARE, *UNSIGNED]))
    combine = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}.get(mods.take("and or xor", ""))
    flushes = mods.has("ftz")
    operands_of(ins, 3 if combine is None else 4)
    if type_[0] == "b" and name not in ("eq", "ne"):
        raise PtxError(f"{ins.text}: bits are only equal or not")
    if name in UNSIGNED and type_[0] != "u":
        raise PtxError(f"{ins.text}: .{name} compares unsigned numbers")
    if type_[0] != "f" and name in ("equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"):
        raise PtxError(f"{ins.text}: .{name} compares floats")
    f = np.not_equal if name == "ne" and type_[0] != "f" else COMPARE[UNSIGNED.get(name, name)]
    texts = ins.operands[0].split("|")
    targets = [launch.operands.target(t.strip(), "pred") for t in texts]
    if not flushes and combine is None and len(targets) == 1:
        return elementwise(f, targets[0], [launch.operands.source(o, type_) for o in ins.operands[1:3]], launch.N)
    a, b = (launch.flushed(o, type_) if flushes else launch.fetch(o, type_) for o in ins.operands[1:3])
    other = reader(launch.operands.predicate(ins.operands[3])) if combine else None

    def run(ix: Lanes) -> None:
        p = f(a(ix), b(ix))
        q = ~p
        if combine is not None and other is not None:
            third = other(ix)
            p, q = combine(p, third), combine(q, third)
        for target, value in zip(targets, (p, q), strict=False):
            target[ix] = value

    return run


@opcode("mov", f"{ALL} pred")
def mov(ins: Instruction, mods: Modifiers, launch: Program) -> Execute:
    """Copy; or pack narrow registers into a wide one, or unpack."""
    operands_of(ins, 2)
    type_ = mods.type()
    to, source = ins.operands
    operands = launch.operands
    if source.startswith("{"):
        parts = [p.strip() for p in source[1:-1].split(",")]
        width = int(type_[1:]) // len(parts)
        values = [operands.source(p, f"b{width}") for p in parts]
        d = operands.target(to, type_)
        dtype = DTYPES[type_]

        def pack(ix: Lanes) -> None:
            result = values[0][ix].astype(dtype)
            for i, value in enumerate(values[1:], 1):
                result |= value[ix].astype(dtype) << dtype.type(i * width)
            d[ix] = result

        return pack
    if to.startswith("{"):
        parts = [p.strip() for p in to[1:-1].split(",")]
        width = int(type_[1:]) // len(parts)
        a = operands.source(source, type_)
        targets = [operands.target(p, f"b{width}") for p in parts]
        narrow = DTYPES[f"b{width}"]

        def unpack(ix: Lanes) -> None:
            value = a[ix]
            for i, target in enumerate(targets):
                target[ix] = (value >> value.dtype.type(i * width)).astype(narrow)

        return unpack
    if source in ("%clock", "%clock64", "%globaltimer"):
        d = operands.target(to, type_)
        return lambda ix: d.__setitem__(ix, np.broadcast_to(DTYPES[type_].type(launch.steps & 0xFFFFFFFF), d[ix].shape))
    a, d = operands.source(source, type_), operands.target(to, type_)
    return lambda ix: d.__setitem__(ix, a[ix])
