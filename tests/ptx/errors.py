"""What the emulator says when a kernel is wrong, and when the emulator doesn't know something."""

from __future__ import annotations


class PtxError(Exception):
    """PTX that can't be read, or that the emulator doesn't know: never a fault of what the kernel does."""


class Fault(Exception):  # noqa: N818 (the kernel's, not the emulator's)
    """A kernel did something wrong.

    Parameters
    ----------
    kind : str
        What kind of fault: "bounds", "alignment", "read-only", "uninitialised", "register", "race", "barrier", "warp",
        "deadlock", "steps" or "trap".
    what : str
        What happened, and what was expected.
    lane : int, optional
        Number of the thread within the grid.
    """

    def __init__(self, kind: str, what: str, lane: int | None = None):
        super().__init__(what)
        self.kind, self.what, self.lane = kind, what, lane
        self.where = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}{self.where}"
