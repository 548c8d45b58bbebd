"""Loads, stores, atomics, fences, and conversions of addresses."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.ptx.arith import flush
from tests.ptx.errors import Fault, PtxError
from tests.ptx.memory import WINDOWS, flags_of
from tests.ptx.opcodes import BITS, FLOATS, INTEGERS, Execute, Modifiers, elementwise, opcode, operands_of
from tests.ptx.operands import DTYPES, Array, Lanes
from tests.ptx.parse import Instruction

if TYPE_CHECKING:
    from tests.ptx.program import Program

TYPES = f"{INTEGERS} {BITS} {FLOATS} u8 s8 b8"
#: What tells the caches something, and nothing else.
HINTS = "ca cg cs lu cv wb wt L1::evict_normal L1::evict_unchanged L1::evict_first L1::evict_last L1::no_allocate L2::64B L2::128B L2::256B"


def addresses(ins: Instruction, launch: Program, text: str) -> Callable[[Lanes], Array]:
    """Signed 64-bit addresses of an operand."""
    base, name, offset = launch.operands.address(text)
    if base is None:
        raise PtxError(f"{ins.text}: nothing is called {name}")
    if base.dtype != np.int64:
        return lambda ix: base[ix].astype(np.int64) + offset
    if offset:
        return lambda ix: base[ix] + offset
    return lambda ix: base[ix]


def strength(ins: Instruction, mods: Modifiers, orders: str) -> tuple[str, bool]:
    """Memory order ("weak" if none), and whether the scope is no more than the block."""
    order = mods.take(f"volatile weak {orders}", "weak")
    if order == "volatile":
        return "relaxed", False
    scope = mods.take("cta cluster gpu sys", "gpu")
    if scope == "cluster":
        raise PtxError(f"{ins.text}: clusters are not emulated")
    return order, scope == "cta"


@opcode("ld ldu", TYPES)
def ld(ins: Instruction, mods: Modifiers, launch: Program) -> Execute:
    operands_of(ins, 2)
    type_ = mods.type()
    count = int(mods.take("v2 v4", "v1")[1])
    space = mods.take("global shared::cta shared local const param::entry param::func param", "generic").split("::")[0]
    dtype = DTYPES[type_]
    if dtype.itemsize * count > 16:
        raise PtxError(f"{ins.text}: more than 16 bytes")
    parts = launch.operands.vector(ins.operands[0], count)
    targets = [launch.operands.target(p, type_, wide=True) for p in parts]
    if space == "param":
        return launch.params.load(ins, launch.operands.address(ins.operands[1]), targets, dtype)
    order, narrow = strength(ins, mods, "relaxed acquire")
    constant = mods.has("nc")
    while mods.take(HINTS, ""):
        pass
    address, memory = addresses(ins, launch, ins.operands[1]), launch.memory
    flags = flags_of(order != "weak", narrow)
    strong = order != "weak" and space != "local"

    def run(ix: Lanes) -> None:
        at = address(ix)
        if strong:
            for buffer, offset, lanes, _ in memory.each(space, at, ix, dtype.itemsize * count, "reads"):
                memory.strong(buffer, offset, lanes, order, narrow, "read")
        values = memory.load(space, at, ix, dtype, count, flags, constant)
        for target, value in zip(targets, values, strict=True):
            target[ix] = value

    return run


@opcode("st", TYPES)
def st(ins: Instruction, mods: Modifiers, launch: Program) -> Execute:
    operands_of(ins, 2)
    type_ = mods.type()
    count = int(mods.take("v2 v4", "v1")[1])
    space = mods.take("global shared::cta shared local const param::func param", "generic").split("::")[0]
    dtype = DTYPES[type_]
    sources = [launch.operands.source(p, type_) for p in launch.operands.vector(ins.operands[1], count)]
    if space == "param":
        return launch.params.store(ins, launch.operands.address(ins.operands[0]), sources, dtype)
    if space == "const":
        raise PtxError(f"{ins.text}: constants can't be written")
    order, narrow = strength(ins, mods, "relaxed release")
    while mods.take(HINTS, ""):
        pass
    address, memory = addresses(ins, launch, ins.operands[0]), launch.memory
    flags = flags_of(order != "weak", narrow)
    strong = order != "weak" and space != "local"

    def run(ix: Lanes) -> None:
        at = address(ix)
        memory.store(space, at, ix, [s[ix] for s in sources], flags)
        if strong:
            for buffer, offset, lanes, _ in memory.each(space, at, ix, dtype.itemsize * count, "writes"):
                memory.strong(buffer, offset, lanes, order, narrow, "write")

    return run


def operation(name: str, dtype: np.dtype[Any]) -> Callable[..., Array]:
    """What an atomic writes, from what was there and its operands."""
    u = np.dtype(f"u{dtype.itemsize}")

    def swap(old: Array, a: Array, b: Array) -> Array:
        return np.where(old.view(u) == a.view(u), b, old)

    functions: dict[str, Callable[..., Array]] = {
        "cas": swap,
        "add": lambda old, a: old + a,
        "min": np.fmin,
        "max": np.fmax,
        "exch": lambda old, a: a,
        "and": lambda old, a: old & a,
        "or": lambda old, a: old | a,
        "xor": lambda old, a: old ^ a,
        "inc": lambda old, a: np.where(old >= a, dtype.type(0), old + dtype.type(1)),
        "dec": lambda old, a: np.where((old == 0) | (old > a), a, old - dtype.type(1)),
    }
    return functions[name]


@opcode("atom red", TYPES)
def atom(ins: Instruction, mods: Modifiers, launch: Program) -> Execute:
    """Read, change and write in one: one thread after the other."""
    type_ = mods.type()
    space = mods.take("global shared::cta shared", "generic").split("::")[0]
    order, narrow = strength(ins, mods, "relaxed acquire release acq_rel")
    order = "relaxed" if order == "weak" else order
    name = mods.take("add min max exch and or xor inc dec cas")
    texts = list(ins.operands) if ins.opcode == "atom" else ["_", *ins.operands]
    if len(texts) != (4 if name == "cas" else 3):
        raise PtxError(f"{ins.text}: a wrong number of operands")
    dtype = DTYPES[type_]
    refused = {"b": "add min max inc dec", "f": "min max and or xor inc dec cas"}.get(type_[0], "").split()
    if name in refused or (dtype.itemsize < 4 and name != "cas"):
        raise PtxError(f"{ins.text}: .{name} is not for .{type_}")
    f = operation(name, dtype)
    flushes = type_ == "f32" and name == "add" and space != "shared"  # as the manual says of global memory
    address, memory = addresses(ins, launch, texts[1]), launch.memory
    sources = [launch.operands.source(t, type_) for t in texts[2:]]
    target = launch.operands.target(texts[0], type_)
    flags = flags_of(True, narrow)
    shift = dtype.itemsize.bit_length() - 1

    def run(ix: Lanes) -> None:
        at, values = address(ix), [s[ix] for s in sources]
        old = np.empty(len(at), dtype)
        for buffer, offset, lanes, here in memory.each(space, at, ix, dtype.itemsize, "atomically writes"):
            if buffer.written is not None:
                memory._initialised(buffer, buffer.units(offset, dtype.itemsize), memory.grid.lanes[lanes])
            memory.before_write(buffer, offset, lanes, dtype.itemsize, flags)
            memory.strong(buffer, offset, lanes, order, narrow, "both")
            if memory.profile is not None:
                memory.profile.access(buffer, offset, lanes, dtype.itemsize)
            mine = values if here is None else [v[here] for v in values]
            got = one_by_one(f, buffer.view(dtype), offset >> shift, mine, launch.order(len(offset)), flushes)
            old[slice(None) if here is None else here] = got
        target[ix] = old

    return run


def one_by_one(
    f: Callable[..., Array], view: Array, at: Array, values: list[Array], order: Array | None, flushes: bool
) -> Array:
    """Apply an atomic for one thread after the other; all at once where they access different places."""
    old = np.empty(len(at), view.dtype)
    left = np.arange(len(at)) if order is None else order
    while len(left):
        # The first thread of each place; the others come later.
        _, first = np.unique(at[left], return_index=True)
        now = left[np.sort(first)]
        place = at[now]
        old[now] = view[place]
        new = f(old[now], *(v[now] for v in values))
        view[place] = flush(new) if flushes else new
        left = np.delete(left, first) if len(first) < len(left) else left[:0]
    return old


@opcode("cvta", "u64 u32")
def cvta(ins: Instruction, mods: Modifiers, launch: Program) -> Execute:
    """Between generic addresses and those within a window."""
    operands_of(ins, 2)
    if mods.type() != "u64":
        raise PtxError(f"{ins.text}: addresses have 64 bits")
    away = mods.has("to")
    window = np.uint64(WINDOWS[mods.take("global shared::cta shared local const").split("::")[0]])
    a = launch.operands.source(ins.operands[1], "u64")
    d = launch.operands.target(ins.operands[0], "u64")
    return elementwise((lambda x: x - window) if away else (lambda x: x + window), d, [a], launch.N)


@opcode("isspacep")
def isspacep(ins: Instruction, mods: Modifiers, launch: Program) -> Execute:
    operands_of(ins, 2)
    space = mods.take("global shared::cta shared local const").split("::")[0]
    number = list(WINDOWS).index(space)
    a, d = launch.operands.source(ins.operands[1], "u64"), launch.operands.target(ins.operands[0], "pred")
    return lambda ix: d.__setitem__(ix, a[ix] >> np.uint64(48) == number)


@opcode("fence membar")
def fence(ins: Instruction, mods: Modifiers, launch: Program) -> Execute:
    """Makes relaxed writes that follow releases, and relaxed reads before acquires."""
    operands_of(ins, 0)
    if ins.opcode == "fence":
        mods.take("sc acq_rel", "acq_rel")
        scope = mods.take("cta gpu sys")
    else:
        scope = mods.take("cta gl sys")
    clocks, lanes = launch.memory.clocks, launch.grid.lanes
    if clocks is None:
        return lambda ix: None
    return lambda ix: clocks.fence(lanes[ix], scope != "cta")


@opcode("prefetch prefetchu")
def prefetch(ins: Instruction, mods: Modifiers, launch: Program) -> Execute:
    """Changes nothing; addresses out of bounds are allowed."""
    mods.take("global local", "generic")
    mods.take("L1 L2 L2::evict_last L2::evict_normal uniform")
    return lambda ix: None


@opcode("trap brkpt")
def trap(ins: Instruction, mods: Modifiers, launch: Program) -> Execute:
    lanes = launch.grid.lanes

    def run(ix: Lanes) -> None:
        raise Fault("trap", "the kernel stops itself", int(lanes[ix][0]))

    return run


@opcode("nanosleep")
def nanosleep(ins: Instruction, mods: Modifiers, launch: Program) -> Execute:
    mods.type()
    return lambda ix: None
