"""A cell as text: every operation of its formulas, so that two cells can be told apart by what they compute.

Files can't tell: a cell may be made by a function, use a helper from elsewhere, be defined at a prompt, or have been
edited since it was imported.
"""

from __future__ import annotations

from typing import Any

from .base import Cell


class Traced:
    """A value that writes down what is done with it."""

    __slots__ = ("name", "notes")

    def __init__(self, notes: list[str], what: str) -> None:
        self.name, self.notes = f"v{len(notes)}", notes
        notes.append(f"{self.name} = {what}")

    def _note(self, operation: str, *operands: Any) -> Traced:
        return Traced(self.notes, f"{operation}({', '.join(map(repr, operands))})")

    def __repr__(self) -> str:
        return self.name

    def __add__(self, other: Any) -> Traced:
        return self._note("add", self, other)

    def __radd__(self, other: Any) -> Traced:
        return self._note("add", other, self)

    def __sub__(self, other: Any) -> Traced:
        return self._note("sub", self, other)

    def __rsub__(self, other: Any) -> Traced:
        return self._note("sub", other, self)

    def __mul__(self, other: Any) -> Traced:
        return self._note("mul", self, other)

    def __rmul__(self, other: Any) -> Traced:
        return self._note("mul", other, self)

    def __truediv__(self, other: Any) -> Traced:
        return self._note("div", self, other)

    def __rtruediv__(self, other: Any) -> Traced:
        return self._note("div", other, self)

    def __neg__(self) -> Traced:
        return self._note("neg", self)

    # The functions of ``ops``.

    def exp(self) -> Traced:
        return self._note("exp", self)

    def tanh(self) -> Traced:
        return self._note("tanh", self)

    def sigmoid(self) -> Traced:
        return self._note("sigmoid", self)

    def relu(self) -> Traced:
        return self._note("relu", self)

    def where_positive(self, value: Any) -> Traced:
        return self._note("where_positive", self, value)


def describe(cell: type[Cell]) -> str:
    """Names and formulas of a cell, as text: equal for cells that compute the same."""
    notes: list[str] = []

    def values(kind: str, count: int) -> tuple[Traced, ...]:
        return tuple(Traced(notes, f"{kind} {n}") for n in range(count))

    names = (cell.gates, cell.split, cell.state, cell.saved, cell.projected)
    state: tuple[Any, ...] = values("state", len(cell.state))
    if cell.projected:
        state = (None, *state[1:])
    after = cell.forward(values("sum", cell.sums()), state)
    try:
        before: Any = cell.backward(values("dstate", len(cell.state)), values("saved", len(cell.saved)))
    except NotImplementedError:  # a cell for inference alone
        before = None
    return repr(names) + "\n" + "\n".join(notes) + f"\n{after}\n{before}"
