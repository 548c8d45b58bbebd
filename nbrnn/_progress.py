"""A progress bar: tqdm's where that is installed, else a plain one."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Protocol


class Bar(Protocol):
    """What is used of a bar."""

    def update(self, n: int = 1) -> Any:
        """n more are done."""

    def set_postfix_str(self, s: str, refresh: bool = False) -> Any:
        """Say something beside the bar, at its next update, or at once."""

    def close(self) -> Any:
        """End the line."""


class PlainBar:
    """A line that is rewritten a few times a second, on a terminal; one line at the end elsewhere."""

    def __init__(self, total: int, desc: str) -> None:
        self.total, self.desc, self.done, self.text = total, desc, 0, ""
        self.begun, self.shown, self.width = time.perf_counter(), 0.0, 0

    def update(self, n: int = 1) -> None:
        """n more are done."""
        self.done += n
        if sys.stderr.isatty() and time.perf_counter() - self.shown > 0.1:
            self._show("\r")

    def set_postfix_str(self, s: str, refresh: bool = False) -> None:
        """Say something beside the bar."""
        self.text = s
        if refresh and sys.stderr.isatty():
            self._show("\r")

    def close(self) -> None:
        """End the line."""
        self._show("\r" if sys.stderr.isatty() else "")
        sys.stderr.write("\n")

    def _show(self, lead: str) -> None:
        self.shown = time.perf_counter()
        filled = 30 * self.done // max(1, self.total)
        bar = "#" * filled + "." * (30 - filled)
        seconds = self.shown - self.begun
        line = f"{self.desc} [{bar}] {self.done}/{self.total} {seconds:.1f} s {self.text}"
        sys.stderr.write(lead + line.ljust(self.width if lead else 0))  # over what stood there
        self.width = len(line)
        sys.stderr.flush()


class Progress:
    """A bar as a context manager; no bar at all if not ``shown``."""

    def __init__(self, total: int, description: str, shown: bool) -> None:
        self._bar: Bar | None = None
        if shown:
            self._bar = _tqdm(total, description) or PlainBar(total, description)

    def __enter__(self) -> Progress:
        return self

    def step(self, text: str = "") -> None:
        """One more is done."""
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update()

    def skip(self, n: int) -> None:
        """So many have been done before."""
        if self._bar is not None and n > 0:
            self._bar.update(n)

    def say(self, text: str) -> None:
        """Something about what is being done."""
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()


def _tqdm(total: int, description: str) -> Bar | None:
    """tqdm's bar, where it is installed and there is a terminal to show it on."""
    if not sys.stderr.isatty():
        return None
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    bar: Bar = tqdm(total=total, desc=description)
    return bar
