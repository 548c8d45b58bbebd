"""Instructions that threads of a warp execute together, and tensor cores.

The machine calls these when all threads that a member mask names have arrived: see `machine.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tests.ptx import arith
from tests.ptx.errors import Fault, PtxError
from tests.ptx.opcodes import Execute, Modifiers, opcode, operands_of
from tests.ptx.operands import Array, Lanes, reader
from tests.ptx.parse import Instruction

if TYPE_CHECKING:
    from tests.ptx.program import Program

#: By opcode: which operand is the member mask; -1 for the last, None if the whole warp takes part.
MASKS: dict[str, int | None] = {"shfl": -1, "vote": -1, "match": -1, "redux": -1, "mma": None}


def mask_of(ins: Instruction, launch: Program) -> Array | None:
    """Member mask of an instruction: shape (N,), uint32; None if it doesn't wait for others."""
    if ins.opcode in ("bar", "barrier"):
        return launch.operands.source(ins.operands[0], "u32") if "warp" in ins.modifiers else None
    if ins.opcode not in MASKS:
        return None
    where = MASKS[ins.opcode]
    text = "0xffffffff" if where is None else ins.operands[where]
    return launch.operands.source(text, "u32")


class Groups:
    """Lanes that take part together: of one warp, with one mask."""

    def __init__(self, launch: Program, ix: Lanes, mask: Array | None):
        grid = launch.grid
        self.lanes = grid.lanes[ix]
        key = grid.warp[self.lanes].astype(np.int64)
        if mask is not None:
            key = key << 32 | mask[ix]
        _, self.of = np.unique(key, return_inverse=True)
        self.count = int(self.of.max()) + 1 if len(self.of) else 0
        self.bit = np.uint32(1) << grid.in_warp[self.lanes].astype(np.uint32)

    def union(self, chosen: Array) -> Array:
        """For each lane, the bits of those in its group that are chosen."""
        bits = np.zeros(self.count, np.uint32)
        np.bitwise_or.at(bits, self.of[chosen], self.bit[chosen])
        return bits[self.of]


def take_sync(ins: Instruction, mods: Modifiers) -> None:
    if not mods.has("sync"):
        raise PtxError(f"{ins.text}: only the .sync form is emulated")


@opcode("shfl", "b32")
def shfl(ins: Instruction, mods: Modifiers, launch: Program) -> Execute:
    """Read another thread's register; one's own where the other is out of the segment."""
    operands_of(ins, 5)
    mods.type()
    take_sync(ins, mods)
    mode = mods.take("up down bfly idx")
    texts = ins.operands[0].split("|")
    d = launch.operands.target(texts[0].strip(), "b32")
    p = launch.operands.target(texts[1].strip(), "pred") if len(texts) == 2 else None
    a = launch.operands.source(ins.operands[1], "b32")
    b, c, mask = (launch.operands.source(o, "u32") for o in ins.operands[2:])
    grid = launch.grid

    def run(ix: Lanes) -> None:
        lanes, lane = grid.lanes[ix], grid.in_warp[ix]
        n, clamp, segment = (
            (b[ix] & 31).astype(np.int64),
            (c[ix] & 31).astype(np.int64),
            (c[ix] >> 8 & 31).astype(np.int64),
        )
        low = lane & segment
        last = low | clamp & ~segment
        other = {"up": lane - n, "down": lane + n, "bfly": lane ^ n, "idx": low | n & ~segment}[mode]
        inside = other >= last if mode == "up" else other <= last
        other = np.where(inside, other, lane)
        source = grid.warp_start[ix] + other
        here = np.zeros(grid.N + 32, bool)
        here[lanes] = True
        named = mask[ix] >> other.astype(np.uint32) & 1
        bad = ~here[source] | (named == 0) | (other >= grid.warp_size[grid.warp[lanes]])
        if np.count_nonzero(bad):
            i = int(np.flatnonzero(bad)[0])
            raise Fault(
                "warp", f"reads a register of lane {int(other[i])} of its warp, which doesn't take part", int(lanes[i])
            )
        d[ix] = a[source]
        if p is not None:
            p[ix] = inside

    return run


@opcode("vote")
def vote(ins: Instruction, mods: Modifiers, launch: Program) -> Execute:
    operands_of(ins, 3)
    type_ = mods.type()
    take_sync(ins, mods)
    mode = mods.take("ballot" if type_ == "b32" else "all any uni")
    d = launch.operands.target(ins.operands[0], type_)
    p = reader(launch.operands.predicate(ins.operands[1]))
    mask = launch.operands.source(ins.operands[2], "u32")

    def run(ix: Lanes) -> None:
        groups, chosen = Groups(launch, ix, mask), p(ix)
        yes = groups.union(chosen)
        if mode == "ballot":
            d[ix] = yes
            return
        all_ = yes == groups.union(np.ones(len(chosen), bool))
        d[ix] = {"all": all_, "any": yes != 0, "uni": all_ | (yes == 0)}[mode]

    return run


@opcode("match", "b32 b64")
def match(ins: Instruction, mods: Modifiers, launch: Program) -> Execute:
    """Which threads hold the same value."""
    operands_of(ins, 3)
    type_ = mods.type()
    take_sync(ins, mods)
    mode = mods.take("any all")
    texts = ins.operands[0].split("|")
    d = launch.operands.target(texts[0].strip(), "b32")
    q = launch.operands.target(texts[1].strip(), "pred") if len(texts) == 2 else None
    a = launch.operands.source(ins.operands[1], type_)
    mask = launch.operands.source(ins.operands[2], "u32")

    def run(ix: Lanes) -> None:
        groups = Groups(launch, ix, mask)
        everyone = groups.union(np.ones(len(groups.lanes), bool))
        _, value = np.unique(a[ix], return_inverse=True)
        _, groups.of = np.unique(groups.of.astype(np.int64) * (value.max() + 1) + value, return_inverse=True)
        groups.count = int(groups.of.max()) + 1
        same = groups.union(np.ones(len(groups.lanes), bool))
        whole = same == everyone
        d[ix] = same if mode == "any" else np.where(whole, same, np.uint32(0))
        if q is not None:
            q[ix] = whole

    return run


@opcode("redux", "u32 s32 b32")
def redux(ins: Instruction, mods: Modifiers, launch: Program) -> Execute:
    operands_of(ins, 3)
    type_ = mods.type()
    take_sync(ins, mods)
    name = mods.take("and or xor" if type_ == "b32" else "add min max")
    ufuncs: dict[str, Any] = {
        "add": np.add,
        "min": np.minimum,
        "max": np.maximum,
        "and": np.bitwise_and,
        "or": np.bitwise_or,
        "xor": np.bitwise_xor,
    }
    d = launch.operands.target(ins.operands[0], type_)
    a, mask = launch.operands.source(ins.operands[1], type_), launch.operands.source(ins.operands[2], "u32")

    def run(ix: Lanes) -> None:
        groups, values = Groups(launch, ix, mask), a[ix]
        order = np.argsort(groups.of, kind="stable")
        starts = np.flatnonzero(np.diff(groups.of[order], prepend=-1))
        d[ix] = ufuncs[name].reduceat(values[order], starts)[groups.of]

    return run


@opcode("activemask", "b32")
def activemask(ins: Instruction, mods: Modifiers, launch: Program) -> Execute:
    """Threads of the warp that are here now: no promise about who will be."""
    operands_of(ins, 1)
    mods.type()
    d = launch.operands.target(ins.operands[0], "b32")

    def run(ix: Lanes) -> None:
        groups = Groups(launch, ix, None)
        d[ix] = groups.union(np.ones(len(groups.lanes), bool))

    return run


def warp_barrier(launch: Program, mask: Array) -> Execute:
    """`bar.warp.sync`: the only instruction of a warp that orders memory."""
    clocks = launch.memory.clocks

    def run(ix: Lanes) -> None:
        if clocks is not None:
            lanes, masks = launch.grid.lanes[ix], mask[ix]
            for value in np.unique(masks):
                clocks.warp_barrier(lanes[masks == value])

    return run


@opcode("mma")
def mma(ins: Instruction, mods: Modifiers, launch: Program) -> Execute:
    """D = A B + C of a warp: sums in float64, rounded once to float32 (a device's order of sums isn't documented)."""
    take_sync(ins, mods)
    for name in ("aligned", "row", "col"):
        if not mods.has(name):
            raise PtxError(f"{ins.text}: .{name} is needed")
    shape = mods.take("m16n8k8 m16n8k16")
    types, mods.left = mods.left, []
    kind = types[1] if len(types) == 4 else ""
    K = int(shape[6:])
    if types != ["f32", kind, kind, "f32"] or (kind, K) not in (
        ("tf32", 8),
        ("bf16", 16),
        ("f16", 16),
        ("bf16", 8),
        ("f16", 8),
    ):
        raise PtxError(f"this mma is not emulated: {ins.text}")
    operands_of(ins, 4)
    packed = 1 if kind == "tf32" else 2
    counts = (4, 16 * K // packed // 32, 8 * K // packed // 32, 4)
    vectors = [launch.operands.vector(o, n) for o, n in zip(ins.operands, counts, strict=True)]
    targets = [launch.operands.target(t, "f32") for t in vectors[0]]
    A, B = ([launch.operands.source(t, "b32") for t in v] for v in vectors[1:3])
    C = [launch.operands.source(t, "f32") for t in vectors[3]]
    group, place = np.arange(32) // 4, np.arange(32) % 4

    def unpack(bits: Array) -> list[Array]:
        """Numbers in a register of 32 bits."""
        if kind == "tf32":
            return [(bits & np.uint32(0xFFFFE000)).view(np.float32)]
        halves = [(bits & np.uint32(0xFFFF)).astype(np.uint16), (bits >> np.uint32(16)).astype(np.uint16)]
        return [arith.from_bf16(h) if kind == "bf16" else h.view(np.float16) for h in halves]

    def run(ix: Lanes) -> None:
        if len(launch.grid.lanes[ix]) % 32:
            raise Fault("warp", "mma needs all 32 threads of a warp", int(launch.grid.lanes[ix][0]))
        W = len(launch.grid.lanes[ix]) // 32
        a, b, c = np.zeros((W, 16, K)), np.zeros((W, K, 8)), np.zeros((W, 16, 8))
        for r, source in enumerate(A):
            for h, numbers in enumerate(unpack(source[ix])):
                a[:, group + 8 * (r & 1), packed * place + h + 4 * packed * (r >> 1)] = numbers.reshape(W, 32)
        for r, source in enumerate(B):
            for h, numbers in enumerate(unpack(source[ix])):
                b[:, packed * place + h + 4 * packed * r, group] = numbers.reshape(W, 32)
        for r, source in enumerate(C):
            c[:, group + 8 * (r >> 1), 2 * place + (r & 1)] = source[ix].reshape(W, 32)
        d = (a @ b + c).astype(np.float32)
        for r, target in enumerate(targets):
            target[ix] = d[:, group + 8 * (r >> 1), 2 * place + (r & 1)].reshape(-1)

    return run


def barrier_operands(ins: Instruction, mods: Modifiers, launch: Program) -> tuple[str, Array, Array | None, Any]:
    """Kind of a block's barrier ("sync", "arrive" or an operation), its number, its count, and (target, predicate)."""
    mods.has("cta")
    kind = mods.take("sync arrive red")
    texts = list(ins.operands)
    reduction = None
    if kind == "red":
        type_ = mods.type()
        kind = mods.take("popc" if type_ == "u32" else "and or")
        reduction = launch.operands.target(texts.pop(0), type_), reader(launch.operands.predicate(texts.pop()))
    number = launch.operands.source(texts[0], "u32")
    count = launch.operands.source(texts[1], "u32") if len(texts) > 1 else None
    if kind == "arrive" and count is None:
        raise PtxError(f"{ins.text}: a number of threads is needed")
    return kind, number, count, reduction
