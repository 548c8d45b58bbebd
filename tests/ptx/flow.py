"""Basic blocks of a kernel, and which registers may be read before they are written."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.ptx.errors import PtxError
from tests.ptx.parse import Instruction, Kernel

JUMPS = {"bra", "brx", "ret", "exit"}
#: Instructions that stand in a block of their own: threads may have to wait there.
MEETINGS = {"bar", "barrier", "shfl", "vote", "match", "redux", "mma", "call"}


@dataclass
class Block:
    """Instructions that are executed one after the other: a jump only as the last, a meeting alone."""

    instructions: list[Instruction] = field(default_factory=list)
    next: list[int] = field(default_factory=list)  # blocks that may follow


def blocks_of(kernel: Kernel) -> tuple[list[Block], dict[str, int]]:
    """Blocks in the order of the text, and the block that each label begins."""
    starts = {0, *kernel.labels.values()}
    for i, ins in enumerate(kernel.instructions):
        if ins.opcode in JUMPS:
            starts.add(i + 1)
        elif ins.opcode in MEETINGS:
            starts |= {i, i + 1}
    order = sorted(s for s in starts if s < len(kernel.instructions))
    number = {start: n for n, start in enumerate(order)}
    blocks = [
        Block(kernel.instructions[a:b]) for a, b in zip(order, [*order[1:], len(kernel.instructions)], strict=True)
    ]
    end = len(blocks)
    blocks.append(Block([Instruction("ret (the end of the kernel)", 0, "ret", (), ())]))
    labels = {name: number.get(at, end) for name, at in kernel.labels.items()}
    for n, block in enumerate(blocks[:-1]):
        last = block.instructions[-1]
        if last.opcode not in JUMPS or last.predicate:
            block.next.append(n + 1)
        if last.opcode == "bra":
            block.next.append(target(labels, last.operands[0], last))
        elif last.opcode == "brx":
            block.next += [target(labels, name, last) for name in table(kernel, last)]
    return blocks, labels


def target(labels: dict[str, int], name: str, ins: Instruction) -> int:
    """The block that a label begins."""
    if name not in labels:
        raise PtxError(f"{ins.text}: there is no label {name}")
    return labels[name]


def table(kernel: Kernel, ins: Instruction) -> list[str]:
    """Labels of an indirect jump."""
    if ins.operands[1] not in kernel.tables:
        raise PtxError(f"{ins.text}: there is no table {ins.operands[1]}")
    return kernel.tables[ins.operands[1]]


def read_too_early(blocks: list[Block], read: list[list[set[str]]], written: list[list[set[str]]]) -> set[str]:
    """Registers that some path reads before it writes them, from what each instruction reads and writes.

    Writes under a predicate count for nothing, so a register named here need not be wrong: the machine watches it.
    """
    numbers: dict[str, int] = {}

    def bits(names: set[str]) -> int:
        value = 0
        for name in names:
            value |= 1 << numbers.setdefault(name, len(numbers))
        return value

    writes = [
        [0 if i.predicate else bits(w) for i, w in zip(b.instructions, ws, strict=True)]
        for b, ws in zip(blocks, written, strict=True)
    ]
    reads = [[bits(r) for r in rs] for rs in read]
    everything = (1 << len(numbers)) - 1
    made = [0] * len(blocks)
    for n, ws in enumerate(writes):
        for w in ws:
            made[n] |= w
    before: list[int] = [0] + [everything] * (len(blocks) - 1)
    work = list(range(len(blocks)))
    while work:
        n = work.pop()
        after = before[n] | made[n]
        for m in blocks[n].next:
            if before[m] & ~after:
                before[m] &= after
                work.append(m)
    early = 0
    for n in range(len(blocks)):
        done = before[n]
        for r, w in zip(reads[n], writes[n], strict=True):
            early |= r & ~done
            done |= w
    return {name for name, i in numbers.items() if early >> i & 1}
