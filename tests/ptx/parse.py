"""PTX text to modules, kernels and instructions.

Only the text is looked at here: what an instruction does, and whether it is known at all, is decided in the modules
`opcodes_*`.  Registers that are declared in an inner scope (`{ .reg .b32 %temp; ... }`) get names of their own, so
that nothing later has to know about scopes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.ptx.errors import PtxError

#: Bytes of PTX's types.
SIZES = {f"{kind}{8 * size}": size for kind in "bus" for size in (1, 2, 4, 8)}
SIZES |= {"f16": 2, "bf16": 2, "f16x2": 4, "bf16x2": 4, "f32": 4, "f64": 8, "pred": 1, "b128": 16}

_NAME = r"[A-Za-z_$%][\w$]*"
_LABEL = re.compile(rf"\s*({_NAME})\s*:(?!:)")
_WORD = re.compile(r"(?<![\w$.])[A-Za-z_$%][\w$]*(?:\.[xyz]\b)?")
_HEAD = re.compile(r"(?:\.(?:visible|weak|extern|common)\s+)*\.(entry|func)\b")


@dataclass
class Instruction:
    """One instruction: `@!%p1 add.s32 %r1, %r2, 3` has the opcode "add", the modifiers ("s32",) and three operands."""

    text: str
    line: int
    opcode: str
    modifiers: tuple[str, ...]
    operands: tuple[str, ...]
    predicate: str | None = None  # with a leading "!" where negated


@dataclass
class Variable:
    """A variable in some memory: `.shared .align 4 .b8 name[256]`."""

    name: str
    space: str
    type: str
    size: int  # in bytes; 0 for `name[]`
    align: int
    data: bytes = b""  # what it begins with


@dataclass
class Kernel:
    """The body of an `.entry`."""

    name: str
    params: list[Variable]
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)  # name: number of the instruction that follows
    registers: dict[str, str] = field(default_factory=dict)  # name: type
    ranges: dict[str, tuple[str, int]] = field(default_factory=dict)  # "%r" of `%r<10>`: type, count
    variables: list[Variable] = field(default_factory=list)
    tables: dict[str, list[str]] = field(default_factory=dict)  # `.branchtargets`
    max_threads: int | None = None
    general: dict[str, bool] = field(default_factory=dict)  # whether an operand is a register, as far as asked

    def type_of(self, name: str) -> str:
        """Type of a register."""
        if name in self.registers:
            return self.registers[name]
        found = re.fullmatch(r"(.*?[^0-9])(\d+)", name)
        if found and found[1] in self.ranges and int(found[2]) < self.ranges[found[1]][1]:
            return self.ranges[found[1]][0]
        raise PtxError(f"{name} is not a register of {self.name}")


@dataclass
class Module:
    """What a PTX text holds."""

    kernels: dict[str, Kernel]
    variables: list[Variable]
    functions: list[str]  # names of device functions with a body; calls of them are refused
    target: str = ""

    def kernel(self, name: str | None = None) -> Kernel:
        """The kernel of a name, or the only one."""
        if name is None:
            if len(self.kernels) != 1:
                raise PtxError(f"say which kernel: {', '.join(self.kernels) or 'there is none'}")
            return next(iter(self.kernels.values()))
        if name not in self.kernels:
            raise PtxError(f"no kernel {name}: there are {', '.join(self.kernels)}")
        return self.kernels[name]


def parse(text: str) -> Module:
    """Read a PTX text."""
    text = _without_comments(text)
    module = Module({}, [], [])
    if found := re.search(r"^\s*\.target\s+(\w+)", text, re.M):
        module.target = found[1]
    if (found := re.search(r"^\s*\.address_size\s+(\d+)", text, re.M)) and found[1] != "64":
        raise PtxError("only .address_size 64 is emulated")
    at, outside = 0, []
    bodies = []
    for head in _HEAD.finditer(text):
        if head.start() < at:
            continue
        outside.append(text[at : head.start()])
        brace, semicolon = text.find("{", head.start()), text.find(";", head.start())
        if brace < 0 or 0 <= semicolon < brace:  # a declaration without a body
            at = semicolon + 1
            continue
        at = _closing(text, brace) + 1
        bodies.append((head[1], text[head.start() : brace], brace + 1, at - 1))
    outside.append(text[at:])
    for statement in "".join(outside).split(";"):
        module.variables += _variables(statement)
    for kind, head_text, start, end in bodies:
        if kind == "func":
            module.functions.append(_after(r"\.func\s+(?:\([^)]*\)\s*)?([\w$]+)", head_text))
            continue
        name = _after(r"\.entry\s+([\w$]+)", head_text)
        params = re.search(r"\((.*)\)", head_text, re.S)
        kernel = Kernel(name, [v for p in (params[1].split(",") if params else ()) for v in _variables(p)])
        if limit := re.search(r"\.(?:maxntid|reqntid)\s+([\d,\s]+)", head_text):
            kernel.max_threads = 1
            for n in limit[1].split(","):
                kernel.max_threads *= int(n)
        _Body(kernel, text, start, end).read()
        module.kernels[name] = kernel
    return module


def split(operands: str) -> list[str]:
    """Parts between commas, where braces and brackets keep together what they hold."""
    parts, depth, start = [], 0, 0
    for i, c in enumerate(operands):
        depth += (c in "{[(") - (c in "}])")
        if c == "," and depth == 0:
            parts.append(operands[start:i].strip())
            start = i + 1
    parts.append(operands[start:].strip())
    return [p for p in parts if p]


def _without_comments(text: str) -> str:
    """The same text, with blanks in place of comments: lines keep their numbers."""
    text = re.sub(r"/\*.*?\*/", lambda m: re.sub(r"[^\n]", " ", m[0]), text, flags=re.S)
    return re.sub(r"//[^\n]*", "", text)


def _closing(text: str, brace: int) -> int:
    depth = 0
    for found in re.compile(r"[{}]").finditer(text, brace):
        depth += 1 if found[0] == "{" else -1
        if depth == 0:
            return found.start()
    raise PtxError("a brace is not closed")


def _after(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    if not found:
        raise PtxError(f"no name in {text[:80]!r}")
    return found[1]


def _variables(statement: str) -> Iterator[Variable]:
    """Variables that a statement declares: none if it does something else."""
    found = re.search(r"\.(param|shared|local|global|const)\b(.*)", statement, re.S)
    if not found:
        return
    space, rest = found[1], found[2]
    align = re.search(r"\.align\s+(\d+)", rest)
    rest = re.sub(r"\.ptr\b(\s*\.(global|shared|const|local))?|\.align\s+\d+", " ", rest)
    one = re.match(r"\s*\.(\w+)\s+([\w$%]+)\s*(\[[^\]]*\])?\s*(?:=\s*(.*))?\s*$", rest, re.S)
    if not one or one[1] not in SIZES:
        raise PtxError(f"can't read the declaration {' '.join(statement.split())!r}")
    item = SIZES[one[1]]
    count = 1 if one[3] is None else int(one[3][1:-1].strip() or 0)
    data = b""
    if one[4]:
        for number in one[4].strip("{} \n\t").split(","):
            try:
                data += (int(number.strip().rstrip("U"), 0) & (1 << 8 * item) - 1).to_bytes(item, "little")
            except ValueError:
                raise PtxError(f"can't read the initial value {number.strip()!r} of {one[2]}") from None
    yield Variable(one[2], space, one[1], count * item, int(align[1]) if align else item, data)


class _Body:
    """Reads the statements between the braces of a kernel."""

    def __init__(self, kernel: Kernel, text: str, start: int, end: int):
        self.kernel, self.text, self.at, self.end = kernel, text, start, end
        self.scopes: list[dict[str, str]] = [{}]
        self.count = 0
        self.line_at, self.line = 0, 1

    def read(self) -> None:
        space = re.compile(r"[\s;]*")
        while True:
            self.at = space.match(self.text, self.at, self.end).end()  # type: ignore[union-attr]
            if self.at >= self.end:
                return
            if self.text[self.at] == "{":
                self.scopes.append({})
                self.at += 1
            elif self.text[self.at] == "}":
                self.scopes.pop()
                self.at += 1
            elif label := _LABEL.match(self.text, self.at, self.end):
                self.kernel.labels[self._renamed(label[1])] = len(self.kernel.instructions)
                self.at, self.last_label = label.end(), label[1]
            else:
                stop = self.text.find(";", self.at, self.end)
                if stop < 0:
                    raise PtxError(f"no semicolon after {self.text[self.at : self.at + 60]!r}")
                statement = " ".join(self.text[self.at : stop].split())
                if statement.startswith((".loc ", ".file ")):  # these end with their line
                    stop = self.text.find("\n", self.at, self.end)
                self._statement(statement, self._line(self.at))
                self.at = stop + 1

    def _line(self, at: int) -> int:
        self.line += self.text.count("\n", self.line_at, at)
        self.line_at = at
        return self.line

    def _renamed(self, name: str) -> str:
        for scope in reversed(self.scopes):
            if name in scope:
                return scope[name]
        return name

    def _declare(self, name: str) -> str:
        """A name for what an inner scope declares, that nothing else has."""
        if len(self.scopes) == 1:
            return name
        self.count += 1
        self.scopes[-1][name] = f"{name}${self.count}$"
        return self.scopes[-1][name]

    def _statement(self, s: str, line: int) -> None:
        kernel = self.kernel
        if s.startswith(".reg"):
            found = re.fullmatch(r"\.reg\s+\.(\w+)\s+(.*)", s)
            if not found or found[1] not in SIZES:
                raise PtxError(f"can't read {s!r}")
            for name in split(found[2]):
                if many := re.fullmatch(r"(.*)<(\d+)>", name):
                    if len(self.scopes) > 1:
                        for i in range(int(many[2])):
                            kernel.registers[self._declare(f"{many[1]}{i}")] = found[1]
                    else:
                        kernel.ranges[many[1]] = found[1], int(many[2])
                else:
                    kernel.registers[self._declare(name)] = found[1]
        elif s.startswith(".branchtargets"):
            kernel.tables[self.last_label] = [self._renamed(t) for t in split(s.split(None, 1)[1])]
        elif s.startswith((".param", ".shared", ".local", ".global", ".const")):
            for variable in _variables(s):
                variable.name = self._declare(variable.name)
                kernel.variables.append(variable)
        elif s.startswith((".pragma", ".loc ", ".file ")):
            pass
        elif s.startswith("."):
            raise PtxError(f"directive not known: {s}")
        else:
            kernel.instructions.append(self._instruction(s, line))

    def _instruction(self, s: str, line: int) -> Instruction:
        found = re.fullmatch(r"(?:@\s*(!?)\s*([%\w$]+)\s+)?([a-z]\w*)((?:(?:\.|::)\w+)*)\s*(.*)", s)
        if not found:
            raise PtxError(f"line {line}: can't read {s!r}")
        negated, predicate, opcode, modifiers, rest = found.groups()
        rename = any(self.scopes[1:])
        operands = split(_WORD.sub(lambda m: self._renamed(m[0]), rest) if rename else rest)
        if predicate:
            predicate = negated + self._renamed(predicate)
        return Instruction(
            s, line, opcode, tuple(modifiers.strip(".").split(".")) if modifiers else (), tuple(operands), predicate
        )
