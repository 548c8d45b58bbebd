"""The arguments of ``nbrnn bench``, and the run."""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numba

from . import compare, grid, machine, report, steps
from .peers import PEERS, installed

MODES = (*grid.MODES, "stream", "jit")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the options of ``nbrnn bench``."""
    parser.add_argument("--quick", action="store_true", help="three shapes of one cell and dtype")
    parser.add_argument("--machine-only", action="store_true", help="measure the machine, and nothing else")
    parser.add_argument("--cell", type=names(grid.CELLS), metavar="CELLS", help="RNN,GRU,LSTM: some of them")
    parser.add_argument("--dtype", type=names(grid.DTYPES), metavar="DTYPES", help="float32,float64: some of them")
    parser.add_argument(
        "--mode", type=names(MODES), metavar="MODES", help="inference,training,stream,jit: some of them"
    )
    parser.add_argument(
        "--shape",
        type=_shape,
        action="append",
        metavar="T,B,I,H",
        help="a shape of your own, if wanted with ,2layers (or more) ,bidirectional ,ragged behind; may be repeated",
    )
    parser.add_argument(
        "--peers", type=_peers, metavar="PEERS", help=f"{','.join(PEERS)}: some of them, or none; else all installed"
    )
    parser.add_argument("--seconds", type=seconds, default=2.0, help="time for each line, about (default: 2)")
    parser.add_argument("--json", type=file, metavar="FILE", help="write everything there; - for the standard output")


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Measure what was asked for, and print it as it comes; all of it at the end.

    With ``--json -`` the tables go to the standard error.
    """
    out = sys.stderr if given.json == "-" else sys.stdout
    peers = installed() if given.peers is None else given.peers
    most = numba.config.NUMBA_NUM_THREADS
    threads = [1, most] if most > 1 else [1]
    printer = report.Printer(peers, lambda text: print(text, file=out, flush=True))
    found = report.header(peers, threads, given.seconds)
    printer.head(found)
    try:
        dtypes = given.dtype or grid.DTYPES
        figures = machine.measure(threads, dtypes)
        found["machine"] |= figures
        printer.machine(figures)
        if not given.machine_only:
            _measure(given, peers, threads, found, printer)
            found["summary"] = report.summary(found["lines"])
            printer.summary(found["summary"])
    finally:  # an interrupted run keeps what it has
        numba.set_num_threads(most)
        if given.json == "-":
            print(json.dumps(found, indent=1, allow_nan=False))
        elif given.json:
            pathlib.Path(given.json).write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
    return found


def _measure(
    given: argparse.Namespace, peers: Sequence[str], threads: Sequence[int], found: dict[str, Any], printer: Any
) -> None:
    """All lines, into ``found``."""
    found |= {"lines": [], "stream": [], "jit": []}
    peaks = {(p["dtype"], p["threads"]): p["gflops"] for p in found["machine"]["peak"]}
    quick, modes = given.quick, given.mode or MODES
    cells = given.cell or (grid.QUICK_CELLS if quick else grid.CELLS)
    dtypes = given.dtype or (grid.QUICK_DTYPES if quick else grid.DTYPES)
    shapes = given.shape or (grid.QUICK_SHAPES if quick else grid.SHAPES)
    for line in grid.lines(cells, dtypes, [mode for mode in modes if mode in grid.MODES], shapes):
        found["lines"].append(compare.run(line, peers, threads, given.seconds, peaks))
        printer.line(found["lines"][-1])
    # Streams and compiled steps have one sequence, and sizes of their own.
    for dtype in dtypes if "stream" in modes else ():
        for cell in cells:
            for size in _sizes(given, grid.STREAM_SIZES):
                found["stream"].append(steps.stream(cell, dtype, size, peers, given.seconds, peaks))
                printer.stream(found["stream"][-1])
    for dtype in dtypes if "jit" in modes else ():
        for cell in cells:
            for size in _sizes(given, grid.JIT_SIZES):
                found["jit"].append(steps.compiled(cell, dtype, size, given.seconds))
                printer.compiled(found["jit"][-1])


def _sizes(given: argparse.Namespace, usual: Sequence[tuple[int, int]]) -> Sequence[tuple[int, int]]:
    """(I, H) of steps: those of ``--shape``, if it is given."""
    if given.shape:
        return list(dict.fromkeys((shape.I, shape.H) for shape in given.shape))
    return grid.QUICK_SIZES if given.quick else usual


def names(known: Sequence[str]) -> Callable[[str], list[str]]:
    """A type of argument: some of the known names, with commas between."""

    def parse(text: str) -> list[str]:
        found = text.split(",")
        for name in found:
            if name not in known:
                raise argparse.ArgumentTypeError(f"must be of {', '.join(known)}, got {name!r}")
        return list(dict.fromkeys(found))

    return parse


def _peers(text: str) -> list[str]:
    found = [] if text == "none" else names(tuple(PEERS))(text)
    for name in found:
        if not PEERS[name].installed():
            wanted = ", ".join(PEERS[name].packages)
            raise argparse.ArgumentTypeError(f"{name} is not installed here (it takes {wanted})")
    return found


def _shape(text: str) -> grid.Shape:
    parts, numbers = text.split(","), r"[1-9]\d{0,9}"
    sizes, options = parts[:4], parts[4:]
    layers = [option.removesuffix("layers") for option in options if re.fullmatch(numbers + "layers", option)]
    ways = [option for option in options if option in ("bidirectional", "ragged")]
    right = len(sizes) == 4 and all(re.fullmatch(numbers, size) for size in sizes)
    if not right or len(layers) > 1 or len(layers) + len(ways) < len(options):
        raise argparse.ArgumentTypeError(
            "must be T,B,I,H, four integers of at least 1, and 2layers (or more), bidirectional or ragged if wanted, "
            f"got {text!r}"
        )
    T, B, I, H = map(int, sizes)
    return grid.Shape(T, B, I, H, int(layers[0]) if layers else 1, "bidirectional" in ways, "ragged" in ways)


def seconds(text: str) -> float:
    """A type of argument: a number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {text!r}")
    return number


def file(text: str) -> str:
    """A type of argument: a file to be written, or - for the standard output."""
    path = pathlib.Path(text)
    if text != "-" and (not text or path.is_dir() or not path.absolute().parent.is_dir()):
        raise argparse.ArgumentTypeError(f"must be - or a file in a folder that is there, got {text!r}")
    return text
