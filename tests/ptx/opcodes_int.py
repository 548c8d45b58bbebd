"""Integers and bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from tests.ptx.errors import PtxError
from tests.ptx.opcodes import BITS, INTEGERS, Execute, Modifiers, elementwise, opcode, operands_of, simple
from tests.ptx.operands import DTYPES, Array, Lanes
from tests.ptx.parse import Instruction

if TYPE_CHECKING:
    from tests.ptx.program import Program


def unsigned(type_: str) -> str:
    """The unsigned type as wide."""
    return "u" + type_[1:]


@opcode("add sub", INTEGERS)
def add(ins: Instruction, mods: Modifiers, launch: Program) -> Execute:
    """Wraps round; `.cc` keeps the carry or borrow."""
    operands_of(ins, 3)
    type_ = mods.type()
    plain = simple(np.add if ins.opcode == "add" else np.subtract, type_, ins, launch)
    if mods.has("sat"):
        if type_ != "s32":
            raise PtxError(f"{ins.text}: .sat is for .s32")
        sign = 1 if ins.opcode == "add" else -1
        return simple(
            lambda a, b: np.clip(a.astype(np.int64) + sign * b.astype(np.int64), -(2**31), 2**31 - 1).astype(np.int32),
            type_,
            ins,
            launch,
        )
    return with_carry(ins, launch, type_, carries=False) if mods.has("cc") else plain


@opcode("addc subc", INTEGERS)
def addc(ins: Instruction, mods: Modifiers, launch: Program) -> Execute:
    """Add with the carry of the instruction before."""
    operands_of(ins, 3)
    type_ = mods.type()
    mods.has("cc")
    return with_carry(ins, launch, type_, carries=True)


def with_carry(ins: Instruction, launch: Program, type_: str, carries: bool) -> Execute:
    """Add or subtract with a carry in, and keep the carry out unless `.cc` is missing."""
    u = unsigned(type_)
    d = launch.operands.target(ins.operands[0], u)
    a, b = (launch.operands.source(o, u) for o in ins.operands[1:])
    carry, keeps, subtracts = launch.carry, "cc" in ins.modifiers, ins.opcode.startswith("sub")

    def run(ix: Lanes) -> None:
        x, y = a[ix], b[ix]
        c = carry[ix].astype(x.dtype) if carries else np.zeros_like(x)
        if subtracts:
            first = x - y
            out = (x < y) | (first < c)
            result = first - c
        else:
            first = x + y
            result = first + c
            out = (first < x) | (result < first)
        d[ix] = result
        if keeps:
            carry[ix] = out

    return run


def high(a: Array, b: Array, type_: str) -> Array:
    """Upper half of a product."""
    bits = a.dtype.itemsize * 8
    if bits < 64:
        wide = np.dtype(f"{'i' if type_[0] == 's' else 'u'}{bits // 4}")
        return ((a.astype(wide) * b.astype(wide)) >> wide.type(bits)).astype(a.dtype)
    half, low = np.uint64(32), np.uint64(0xFFFFFFFF)
    x, y = a.view(np.uint64), b.view(np.uint64)
    x0, x1, y0, y1 = x & low, x >> half, y & low, y >> half
    middle = x1 * y0 + (x0 * y0 >> half)
    top = x1 * y1 + (middle >> half) + ((x0 * y1 + (middle & low)) >> half)
    if type_[0] == "s":
        top = top - np.where(a < 0, y, np.uint64(0)) - np.where(b < 0, x, np.uint64(0))
    return top.view(a.dtype)


def product(ins: Instruction, mods: Modifiers, type_: str) -> tuple[Callable[[Array, Array], Array], str]:
    """How to multiply, and the type of the result."""
    part = mods.take("lo hi wide")
    if part == "lo":
        return np.multiply, type_
    if part == "hi":
        return lambda a, b: high(np.ascontiguousarray(a), np.ascontiguousarray(b), type_), type_
    if type_[1:] == "64":
        raise PtxError(f"{ins.text}: .wide is for 16 and 32 bits")
    wide = type_[0] + str(2 * int(type_[1:]))
    dtype = DTYPES[wide]
    return lambda a, b: a.astype(dtype) * b, wide


@opcode("mul", INTEGERS)
def mul(ins: Instruction, mods: Modifiers, launch: Program) -> Execute:
    operands_of(ins, 3)
    type_ = mods.type()
    f, to = product(ins, mods, type_)
    return simple(f, type_, ins, launch, of=to)


@opcode("mad madc", INTEGERS)
def mad(ins: Instruction, mods: Modifiers, launch: Program) -> Execute:
    """Multiply and add; with `.cc` and as `madc` through the carry."""
    operands_of(ins, 4)
    type_ = mods.type()
    f, to = product(ins, mods, type_)
    keeps = mods.has("cc")
    a, b = (launch.operands.source(o, type_) for o in ins.operands[1:3])
    c, d = launch.operands.source(ins.operands[3], to), launch.operands.target(ins.operands[0], to)
    if not keeps and ins.opcode == "mad":
        return lambda ix: d.__setitem__(ix, f(a[ix], b[ix]) + c[ix])
    carry, carries = launch.carry, ins.opcode == "madc"
    u = DTYPES[unsigned(to)]

    def run(ix: Lanes) -> None:
        p, q = f(a[ix], b[ix]).view(u), c[ix].view(u)
        first = p + q
        result = first + carry[ix].astype(u) if carries else first
        d[ix] = result.view(DTYPES[to])
        if keeps:
            carry[ix] = (first < p) | (result < first)

    return run


@opcode("sad", INTEGERS)
def sad(ins: Instruction, mods: Modifiers, launch: Program) -> Execute:
    """|a - b| + c."""
    operands_of(ins, 4)
    return simple(lambda a, b, c: c + np.where(a < b, b - a, a - b), mods.type(), ins, launch)


def divide(a: Array, b: Array, remainder: bool) -> Array:
    """Quotient cut towards zero, or what is left; by zero: all bits set, as devices do, and a."""
    u = np.dtype(f"u{a.dtype.itemsize}")
    signed = a.dtype.kind == "i"
    x, y = (np.where(v < 0, -v, v).astype(u) if signed else v for v in (a, b))
    zero = y == 0
    q = x // np.where(zero, u.type(1), y)
    if signed:
        q = np.where((a < 0) != (b < 0), -q, q)
    q = q.astype(a.dtype)
    if remainder:
        return np.where(zero, a, a - q * b)
    return np.where(zero, np.array(~u.type(0)).view(a.dtype), q)


@opcode("div rem", INTEGERS)
def div(ins: Instruction, mods: Modifiers, launch: Program) -> Execute:
    operands_of(ins, 3)
    remainder = ins.opcode == "rem"
    return simple(lambda a, b: divide(a, b, remainder), mods.type(), ins, launch)


@opcode("min max", INTEGERS)
def minmax(ins: Instruction, mods: Modifiers, launch: Program) -> Execute:
    operands_of(ins, 3)
    return simple(np.minimum if ins.opcode == "min" else np.maximum, mods.type(), ins, launch)


@opcode("neg abs", "s16 s32 s64")
def neg(ins: Instruction, mods: Modifiers, launch: Program) -> Execute:
    operands_of(ins, 2)
    return simple(np.negative if ins.opcode == "neg" else np.abs, mods.type(), ins, launch)


@opcode("and or xor", f"{BITS} pred")
def logic(ins: Instruction, mods: Modifiers, launch: Program) -> Execute:
    operands_of(ins, 3)
    f = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}[ins.opcode]
    return simple(f, mods.type(), ins, launch)


@opcode("not", f"{BITS} pred")
def complement(ins: Instruction, mods: Modifiers, launch: Program) -> Execute:
    operands_of(ins, 2)
    return simple(np.invert, mods.type(), ins, launch)


@opcode("cnot", BITS)
def cnot(ins: Instruction, mods: Modifiers, launch: Program) -> Execute:
    operands_of(ins, 2)
    return simple(lambda a: (a == 0).astype(a.dtype), mods.type(), ins, launch)


@opcode("shl shr", f"{BITS} {INTEGERS}")
def shift(ins: Instruction, mods: Modifiers, launch: Program) -> Execute:
    """Shifts by more than all bits give zeros, or copies of the sign."""
    operands_of(ins, 3)
    type_ = mods.type()
    if type_[0] == "b":
        type_ = unsigned(type_)
    dtype = DTYPES[type_]
    bits = 8 * dtype.itemsize
    f = np.left_shift if ins.opcode == "shl" else np.right_shift
    amount = ins.operands[2]
    if not launch.operands.is_register(amount):
        n = int(launch.operands.constant(amount, "u32")[0])
        if n < bits:
            fixed = np.broadcast_to(np.array([n], dtype), (launch.N,))
            a = launch.operands.source(ins.operands[1], type_)
            return elementwise(f, launch.operands.target(ins.operands[0], type_), [a, fixed], launch.N)

    def run(a: Array, n: Array) -> Array:
        result = f(a, np.minimum(n, bits - 1).astype(dtype))
        if f is np.right_shift and dtype.kind == "i":
            return result
        return np.where(n >= bits, dtype.type(0), result)

    return simple(run, type_, ins, launch, last="u32")


@opcode("shf", "b32")
def funnel(ins: Instruction, mods: Modifiers, launch: Program) -> Execute:
    """Shift b:a, 64 bits; the upper half of what goes left, the lower of what goes right."""
    operands_of(ins, 4)
    mods.type()
    left, wraps = mods.take("l r") == "l", mods.take("wrap clamp") == "wrap"

    def run(a: Array, b: Array, c: Array) -> Array:
        n = (c & np.uint32(31) if wraps else np.minimum(c, np.uint32(32))).astype(np.uint64)
        both = b.astype(np.uint64) << np.uint64(32) | a
        return (both << n >> np.uint64(32) if left else both >> n).astype(np.uint32)

    return simple(run, "b32", ins, launch)


@opcode("prmt", "b32")
def permute(ins: Instruction, mods: Modifiers, launch: Program) -> Execute:
    """Pick four of eight bytes, or copies of their signs."""
    operands_of(ins, 4)
    mods.type()

    def run(a: Array, b: Array, c: Array) -> Array:
        both = b.astype(np.uint64) << np.uint64(32) | a
        result = np.zeros(len(a), np.uint64)
        for i in range(4):
            pick = (c >> np.uint32(4 * i)).astype(np.uint64)
            byte = both >> ((pick & np.uint64(7)) << np.uint64(3)) & np.uint64(0xFF)
            sign = np.where(byte & np.uint64(0x80), np.uint64(0xFF), np.uint64(0))
            result |= np.where(pick & np.uint64(8), sign, byte) << np.uint64(8 * i)
        return result.astype(np.uint32)

    return simple(run, "b32", ins, launch)


def count_bits(a: Array) -> Array:
    """Number of ones (NumPy 1 has no bitwise_count)."""
    table = count_bits.table  # type: ignore[attr-defined]
    return table[np.ascontiguousarray(a)[:, None].view(np.uint8)].sum(axis=1, dtype=np.uint32)


count_bits.table = np.array([bin(i).count("1") for i in range(256)], np.uint8)  # type: ignore[attr-defined]


def highest_bit(a: Array) -> Array:
    """Position of the highest one of unsigned numbers; -1 for zero."""
    x, result = a.astype(np.uint64), np.full(len(a), -1, np.int64)
    for step in (32, 16, 8, 4, 2, 1):
        big = x >= np.uint64(1) << np.uint64(step)
        x = np.where(big, x >> np.uint64(step), x)
        result += big * step
    return result + (x != 0)


@opcode("popc clz brev", "b32 b64")
def bits(ins: Instruction, mods: Modifiers, launch: Program) -> Execute:
    """Count ones, count leading zeros, or reverse."""
    operands_of(ins, 2)
    type_ = mods.type()
    width = int(type_[1:])
    if ins.opcode == "brev":

        def reverse(a: Array) -> Array:
            ones = np.unpackbits(np.ascontiguousarray(a)[:, None].view(np.uint8), axis=1, bitorder="little")
            return np.packbits(ones[:, ::-1], axis=1, bitorder="little").view(a.dtype)[:, 0]

        return simple(reverse, type_, ins, launch)
    f = count_bits if ins.opcode == "popc" else lambda a: (width - 1 - highest_bit(a)).astype(np.uint32)
    return simple(f, type_, ins, launch, of="u32")


@opcode("bfind", "u32 s32 u64 s64")
def bfind(ins: Instruction, mods: Modifiers, launch: Program) -> Execute:
    """Highest bit that differs from the sign; all ones if there is none."""
    operands_of(ins, 2)
    type_ = mods.type()
    width, amount = int(type_[1:]), mods.has("shiftamt")

    def run(a: Array) -> Array:
        at = highest_bit(np.where(a < 0, ~a, a).view(f"u{a.dtype.itemsize}"))
        return np.where((at >= 0) & amount, width - 1 - at, at).astype(np.int32).view(np.uint32)

    return simple(run, type_, ins, launch, of="u32")


@opcode("bfe", "u32 s32 u64 s64")
def bfe(ins: Instruction, mods: Modifiers, launch: Program) -> Execute:
    """A field of bits: from position b, c bits long; beyond the end copies of the sign, or zeros."""
    operands_of(ins, 4)
    type_ = mods.type()
    dtype, width = DTYPES[type_], int(type_[1:])
    a, d = launch.operands.source(ins.operands[1], type_), launch.operands.target(ins.operands[0], type_)
    b, c = (launch.operands.source(o, "u32") for o in ins.operands[2:])

    def run(ix: Lanes) -> None:
        x, start, length = a[ix], (b[ix] & 0xFF).astype(np.int64), (c[ix] & 0xFF).astype(np.int64)
        up = np.clip(width - start - length, 0, width - 1)  # what lies above the field goes first
        cut = (x << up.astype(dtype)) >> np.minimum(start + up, width - 1).astype(dtype)
        if dtype.kind == "u":
            cut = np.where(start >= width, dtype.type(0), cut)
        d[ix] = np.where(length == 0, dtype.type(0), cut)

    return run


@opcode("bfi", "b32 b64")
def bfi(ins: Instruction, mods: Modifiers, launch: Program) -> Execute:
    """Put the low d bits of a into b from position c."""
    operands_of(ins, 5)
    type_ = mods.type()
    dtype, width = DTYPES[type_], int(type_[1:])
    a, b = (launch.operands.source(o, type_) for o in ins.operands[1:3])
    c, n = (launch.operands.source(o, "u32") for o in ins.operands[3:])
    d = launch.operands.target(ins.operands[0], type_)

    def run(ix: Lanes) -> None:
        start, length = (c[ix] & 0xFF).astype(np.uint64), (n[ix] & 0xFF).astype(np.uint64)
        one, whole = np.uint64(1), np.uint64(2**width - 1)
        ones = np.where(length >= width, whole, (one << np.minimum(length, np.uint64(63))) - one)
        shift = np.minimum(start, np.uint64(63))
        mask = np.where(start >= width, np.uint64(0), ones << shift & whole)
        d[ix] = ((a[ix].astype(np.uint64) << shift) & mask | b[ix].astype(np.uint64) & ~mask).astype(dtype)

    return run


@opcode("lop3", "b32")
def lop3(ins: Instruction, mods: Modifiers, launch: Program) -> Execute:
    """Any function of three bits, by its table of truth."""
    operands_of(ins, 5)
    mods.type()
    table = int(launch.operands.constant(ins.operands[4], "u32")[0])
    a, b, c = (launch.operands.source(o, "b32") for o in ins.operands[1:4])
    d = launch.operands.target(ins.operands[0], "b32")

    def run(ix: Lanes) -> None:
        x, y, z = a[ix], b[ix], c[ix]
        result = np.zeros_like(x)
        for i in range(8):
            if table >> i & 1:
                result |= (x if i & 4 else ~x) & (y if i & 2 else ~y) & (z if i & 1 else ~z)
        d[ix] = result

    return run
