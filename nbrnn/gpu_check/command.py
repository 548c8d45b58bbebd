"""The arguments of ``nbrnn gpu-check``, and the run."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any

from ..bench.command import file, names, seconds
from ..bench.report import time_text
from . import agreement, found, times

#: Grows when a field of the JSON changes its meaning.
FORMAT = 1
STATUS = (
    "exit status: 0 if the GPU agrees with the CPU in all cases; 1 if it doesn't in one, or if there is no GPU that "
    "can be used (what is missing is said); 2 if an argument is wrong"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the options of ``nbrnn gpu-check``."""
    parser.description = (
        "Run random layers forward and back on the GPU, compare everything that comes out with the CPU's, "
        "and time some sizes beside torch's cuDNN, if torch is installed with CUDA."
    )
    parser.epilog = STATUS
    parser.add_argument("--quick", action="store_true", help="one small case of each cell and dtype, and no times")
    parser.add_argument("--cell", type=names(agreement.CELLS), metavar="CELLS", help="RNN,GRU,LSTM: some of them")
    parser.add_argument("--dtype", type=names(agreement.DTYPES), metavar="DTYPES", help="float32,float64: some of them")
    parser.add_argument(
        "--cases", type=_count, default=8, help="how many for each cell, dtype and range of sizes (default: 8)"
    )
    parser.add_argument("--seed", type=_count, default=1, help="of the cases (default: 1)")
    parser.add_argument("--no-times", action="store_true", help="compare, and time nothing")
    parser.add_argument("--seconds", type=seconds, default=2.0, help="time for each line, about (default: 2)")
    parser.add_argument("--json", type=file, metavar="FILE", help="write everything there; - for the standard output")


def run(given: argparse.Namespace) -> int:
    """Do what was asked for, and print it as it comes; the exit status.

    With ``--json -`` the text goes to the standard error.
    """
    out = sys.stderr if given.json == "-" else sys.stdout

    def show(text: str) -> None:
        print(text, file=out, flush=True)

    report: dict[str, Any] = {
        "format": FORMAT,
        "date": dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds"),
        "versions": found.versions(),
        "device": None,
        "missing": None,
        "agreement": [],
        "times": [],
        "ok": False,
    }
    try:
        _check(given, report, show)
    finally:  # an interrupted run keeps what it has
        if given.json == "-":
            print(json.dumps(report, indent=1, allow_nan=False))
        elif given.json:
            pathlib.Path(given.json).write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    return 0 if report["ok"] else 1


def _check(given: argparse.Namespace, report: dict[str, Any], show: Callable[[str], None]) -> None:
    show(", ".join(f"{name} {version}" for name, version in report["versions"].items()))
    try:
        on = found.find()
    except found.MissingError as error:
        report["missing"] = str(error)
        show(f"no GPU that can be used: {error}")
        return
    report["device"] = about = found.description(on)
    show(
        f"{about['name']}: compute capability {about['compute_capability']}, {about['multiprocessors']} "
        f"multiprocessors, {about['memory'] / 2**30:,.1f} GiB; driver for CUDA {about['driver']}"
    )
    show(f"products: {about['products']}")
    cells, dtypes = given.cell or agreement.CELLS, given.dtype or agreement.DTYPES
    count, sizes = (1, agreement.QUICK_SIZES) if given.quick else (given.cases, agreement.SIZES)
    show("\nlargest difference from the CPU in float64, in parts of the largest number")
    for case in agreement.cases(cells, dtypes, count, sizes, given.seed):
        record = agreement.run(case, on)
        report["agreement"].append(record)
        show(f"  {_difference(record):28s} {'ok' if record['ok'] else 'WRONG':5s} {case}")
    wrong = sum(not record["ok"] for record in report["agreement"])
    within = ", ".join(f"{agreement.WITHIN[dtype]:.0e} in {dtype}" for dtype in dtypes)
    show(f"{len(report['agreement']) - wrong} of {len(report['agreement'])} cases agree (within {within})")
    report["kernels"] = sorted({key[0] for key in on.kernels()})
    show("kernels that ran: " + ", ".join(report["kernels"]))
    report["ok"] = wrong == 0
    # A device on which a kernel has failed does nothing more for this process.
    if not (given.quick or given.no_times or any(record["failed"] for record in report["agreement"])):
        _times(given, report, on, show)


def _times(given: argparse.Namespace, report: dict[str, Any], on: Any, show: Callable[[str], None]) -> None:
    beside = "beside torch's cuDNN" if times.has_torch() else "alone: torch with CUDA isn't installed"
    show(f"\nmedian time of a call, until its results are there, {beside}")
    for record in times.run(given.cell or agreement.CELLS, given.dtype or ("float32",), given.seconds, on):
        report["times"].append(record)
        shape = " ".join(f"{letter}={record[letter]}" for letter in "TBH")
        text = f"  {record['mode']:9s} {record['cell']:4s} {record['dtype']} {shape:20s}"
        if record["failed"]:
            show(f"{text} {record['failed']}")
            continue
        text += f" {time_text(record['nbrnn']['median']):>9s}"
        if "torch" in record:
            ratio = record["torch"]["median"] / record["nbrnn"]["median"]
            text += f" {time_text(record['torch']['median']):>9s}  {ratio:5.2f} times as fast"
        show(text)


def _difference(record: dict[str, Any]) -> str:
    if record["failed"]:
        return str(record["failed"])
    worst = record["errors"][record["worst"]]
    return f"{'not finite' if worst is None else f'{worst:.1e}'} ({record['worst']})"


def _count(text: str) -> int:
    number = int(text) if text.isdecimal() else -1
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1, got {text!r}")
    return number
