"""Mutants of a kernel: what a test of it must notice.

Each barrier and each fence is taken away, each acquire and release made relaxed, and the address of each store to
global or shared memory moved by one element, one at a time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.ptx.errors import Fault
from tests.ptx.machine import Launch
from tests.ptx.parse import SIZES, _without_comments

_GUARD = r"(?:@!?%[\w$]+\s+)?"
_BARRIER = re.compile(rf"{_GUARD}\b(?:bar|barrier)(?:\.cta|\.warp)?\.(?:sync|arrive)\b[^;]*;")
_GRID = re.compile(r"\bcall(?:\.uni)?\s[^;]*\bcudaCGSynchronize\b[^;]*;")
_FENCE = re.compile(rf"{_GUARD}\b(?:fence|membar)\.[^;]*;")
_ORDERED = re.compile(r"\b(?:ld|st|atom|red)(?:\.\w+)*\.(acquire|release|acq_rel)\b[^;]*;")
_STORE = re.compile(r"\bst((?:\.\w+)*)\.(\w+)\s*\[([^\]]*)\][^;]*;")


@dataclass(frozen=True)
class Mutant:
    """A changed kernel.

    Attributes
    ----------
    kind : {"barrier", "fence", "order", "store"}
    line : int
        Where in the text.
    before, after : str
        The instruction that was changed, and what it became.
    text : str
        The whole PTX.
    """

    kind: str
    line: int
    before: str
    after: str
    text: str

    def __str__(self) -> str:
        return f"line {self.line}: {' '.join(self.before.split())} -> {self.after or 'nothing'}"


def mutants(text: str, kinds: str = "barrier fence order store") -> Iterator[Mutant]:
    """All mutants of a PTX text, of some kinds."""
    text = _without_comments(text)
    changes: list[tuple[str, int, str, str]] = []
    for kind, pattern in (("barrier", _BARRIER), ("barrier", _GRID), ("fence", _FENCE)):
        changes += [(kind, m.start(), m[0], "") for m in pattern.finditer(text)]
    for m in _ORDERED.finditer(text):
        changes.append(("order", m.start(), m[0], m[0].replace("." + m[1], ".relaxed", 1)))
    for m in _STORE.finditer(text):
        if re.search(r"\.(param|local)\b", m[1]) or m[2] not in SIZES:
            continue
        vector = re.search(r"\.v([24])\b", m[1])
        size = SIZES[m[2]] * int(vector[1] if vector else 1)
        base, _, offset = m[3].partition("+")
        address = f"[{base.strip()}+{int(offset.strip() or '0', 0) + size}]"
        changes.append(("store", m.start(), m[0], m[0].replace(f"[{m[3]}]", address, 1)))
    for kind, at, before, after in sorted(changes, key=lambda c: c[1]):
        if kind in kinds.split():
            line = text.count("\n", 0, at) + 1
            yield Mutant(kind, line, before, after, text[:at] + after + text[at + len(before) :])


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant: the fault or the wrong result that gave it away, or nothing."""

    mutant: Mutant
    caught: str

    def __str__(self) -> str:
        return f"{self.mutant}: {self.caught or 'NOT CAUGHT'}"


def try_mutants(
    text: str, run: Callable[[str], Launch | None], kinds: str = "barrier fence order store"
) -> list[Outcome]:
    """Run all mutants of a kernel.

    Parameters
    ----------
    text : str
        PTX; the kernel itself must pass.
    run : callable
        Executes a PTX text, and raises AssertionError if a result is wrong.  If it returns the launch, what was not
        executed is not changed either.
    kinds : str
        Which mutants, separated by blanks.
    """
    done = run(text)
    outcomes = []
    for mutant in mutants(text, kinds):
        if done is not None and mutant.line not in done.executed():
            continue
        try:
            run(mutant.text)
            caught = ""
        except Fault as fault:
            caught = f"{fault.kind}: {fault.what}"
        except AssertionError as error:
            caught = f"wrong result: {str(error).strip().splitlines()[0] if str(error).strip() else 'assert'}"
        outcomes.append(Outcome(mutant, caught))
    return outcomes


def survivors(outcomes: list[Outcome]) -> list[Mutant]:
    """Mutants that nothing gave away."""
    return [o.mutant for o in outcomes if not o.caught]
