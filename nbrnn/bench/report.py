"""The tables, the summary and the JSON."""

from __future__ import annotations

import datetime as dt
import math
import platform
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import llvmlite
import numba
import numpy as np

from .._version import __version__
from . import keras_peer, machine
from .grid import Shape
from .peers import PEERS

#: Grows when a field of the JSON changes its meaning.
FORMAT = 1


def header(peers: Sequence[str], threads: Sequence[int], seconds: float) -> dict[str, Any]:
    """What the JSON begins with."""
    versions = {
        "nbrnn": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": numba.__version__,
        "llvmlite": llvmlite.__version__,
    }
    for peer in peers:
        versions |= PEERS[peer].versions()
    if "keras" in peers:
        versions["keras's backend"] = str(keras_peer.backend())
    return {
        "format": FORMAT,
        "date": dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds"),
        "versions": versions,
        "threads": list(threads),
        "seconds": seconds,
        "machine": machine.description(),
    }


def geometric_mean(ratios: Iterable[float]) -> float:
    """exp of the mean logarithm; NaN of nothing."""
    logs = [math.log(ratio) for ratio in ratios]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


def summary(lines: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each mode and dtype: how many lines have a peer, and the geometric mean and the lowest of their ratios."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in lines:
        if line["ratio"] is not None:
            groups.setdefault((line["mode"], line["dtype"]), []).append(line)
    found = []
    for (mode, dtype), members in groups.items():
        lowest = min(members, key=lambda line: line["ratio"])
        mean = geometric_mean(line["ratio"] for line in members)
        found.append(
            {
                "mode": mode,
                "dtype": dtype,
                "lines": len(members),
                "geometric_mean": mean,
                "lowest": lowest["ratio"],
                "lowest_line": f"{lowest['cell']} {shape_of(lowest)}",
                "lowest_rival": lowest["rival"],
            }
        )
    return found


def shape_of(line: dict[str, Any]) -> Shape:
    """The shape of a record."""
    return Shape(*(line[name] for name in ("T", "B", "I", "H", "layers", "bidirectional", "ragged")))


def time_text(seconds: float) -> str:
    """Three digits and a unit."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9)):
        if seconds >= 0.9995 * scale or unit == "ns":
            value = seconds / scale
            digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
            return f"{value:.{digits}f} {unit}"
    raise AssertionError


class Printer:
    """Prints figures as they come.

    Parameters
    ----------
    peers : sequence of str
        Columns beside nbrnn's.
    show : callable
        Prints a line.
    """

    def __init__(self, peers: Sequence[str], show: Callable[[str], None]) -> None:
        self.peers, self.show = peers, show
        self._group: tuple[str, ...] = ()
        self._remarks: list[str] = []

    def head(self, header: dict[str, Any]) -> None:
        """What is measured with, and on what."""
        found = header["machine"]
        self.show(f"{found['processor']} ({found['target']}), {found['vectors']}, {max(header['threads'])} threads")
        self.show(", ".join(f"{name} {version}" for name, version in header["versions"].items()))

    def machine(self, figures: dict[str, Any]) -> None:
        """What the machine can do."""
        self.show("\nmultiply-adds in registers")
        for p in figures["peak"]:
            self.show(f"  {p['dtype']:8s} {_threads(p['threads']):>10s} {p['gflops']:9.1f} GFLOP/s")
        self.show("reads")
        for b in figures["bandwidth"]:
            size = f"{b['bytes'] / 2**10:,.0f} KiB" + (" each" if b["threads"] > 1 else "")
            self.show(f"  {b['level']:8s} {_threads(b['threads']):>10s} {b['gigabytes']:9.1f} GB/s  ({size})")

    def _new_group(self, *group: str, columns: Sequence[str]) -> None:
        if group != self._group:
            self._group = group
            self.show(f"\n{', '.join(group)}")
            self.show(f"{'cell':5s}{'T,B,I,H':28s}" + "".join(f"{column:>14s}" for column in columns))

    def line(self, line: dict[str, Any]) -> None:
        """A line of the table."""
        columns = ["nbrnn", "on 1 thread", *self.peers, "ratio", "GFLOP/s", "% of peak"]
        self._new_group(line["mode"], line["dtype"], columns=columns)
        one = [r for r in line["results"] if r["name"] == "nbrnn" and r["threads"] == 1]
        cells = [self._best(line, "nbrnn"), time_text(one[0]["seconds"]), *(self._best(line, p) for p in self.peers)]
        cells += [_ratio(line["ratio"]), f"{line['gflops']:.1f}", f"{100 * line['share']:.0f}"]
        self.show(f"{line['cell']:5s}{shape_of(line)!s:28s}" + "".join(f"{cell:>14s}" for cell in cells))

    def stream(self, line: dict[str, Any]) -> None:
        """Latencies of a step: the median, and what one call in a thousand exceeds."""
        names = [r["name"] for r in line["results"]]
        columns = [c for name in names for c in (name, "99.9 %")] + ["ratio"]
        self._new_group("one step from Python (I,H), on 1 thread", line["dtype"], columns=columns)
        cells = []
        for r in line["results"]:
            timed = "seconds" in r
            cells += [time_text(r["seconds"]), time_text(r["p999"])] if timed else [self._status(line, r), "-"]
        cells.append(_ratio(line["ratio"]))
        self.show(f"{line['cell']:5s}{line['I']},{line['H']:<25d} " + "".join(f"{cell:>14s}" for cell in cells))

    def compiled(self, line: dict[str, Any]) -> None:
        """A step in compiled code."""
        self._new_group("one step in compiled code (I,H)", line["dtype"], columns=["nbrnn.jit.run", "GFLOP/s"])
        cells = [time_text(line["seconds"]), f"{line['gflops']:.1f}"]
        self.show(f"{line['cell']:5s}{line['I']},{line['H']:<25d} " + "".join(f"{cell:>14s}" for cell in cells))

    def summary(self, rows: Iterable[dict[str, Any]]) -> None:
        """The end: means, what is lowest, and what went wrong."""
        for k, row in enumerate(rows):
            if k == 0:
                self.show("\ntime of the best peer / time of nbrnn (above 1: nbrnn is faster)")
            self.show(
                f"  {row['mode']:10s} {row['dtype']:8s} geometric mean {row['geometric_mean']:.2f} of {row['lines']} "
                f"lines, lowest {row['lowest']:.2f} ({row['lowest_line']}, {row['lowest_rival']})"
            )
        for remark in self._remarks:
            self.show(remark)

    def _best(self, line: dict[str, Any], name: str) -> str:
        """A library's best time with its threads, or why there is none."""
        records = [r for r in line["results"] if r["name"] == name]
        timed = [r for r in records if "seconds" in r]
        if timed and all("seconds" in r for r in records):
            best = min(timed, key=lambda r: r["seconds"])
            return f"{time_text(best['seconds'])} /{best['threads']}"
        return self._status(line, next(r for r in records if "seconds" not in r))

    def _status(self, line: dict[str, Any], record: dict[str, Any]) -> str:
        if record["status"] == "unsupported":
            return "-"
        where = f"{line['cell']} {line['dtype']} {line['mode']} {shape_of(line)}"
        why = record.get("reason") or f"results differ by {record['error'] or math.inf:.1e}"
        self._remarks.append(f"{record['name']} {record['status']}: {where}: {why}")
        return str(record["status"])


def _threads(n: int) -> str:
    return f"{n} thread{'s' * (n > 1)}"


def _ratio(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"
