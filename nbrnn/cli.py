"""The command ``nbrnn``."""

from __future__ import annotations

import argparse
import os
import pathlib
import platform
import sys
from collections.abc import Sequence

from ._version import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    parser = argparse.ArgumentParser(prog="nbrnn", description="Recurrent networks for NumPy, SciPy and Numba.")
    parser.add_argument("--version", action="version", version=f"nbrnn {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    demo = commands.add_parser("demo", help="forecast a real series")
    demo.add_argument(
        "--output", type=_picture, default=pathlib.Path("nbrnn_demo.png"), help="where to save the picture"
    )
    demo.add_argument("--no-progress", action="store_true", help="show no progress bar")
    commands.add_parser("info", help="versions and what this machine offers")
    from .bench import command as benchmark

    benchmark.add_arguments(commands.add_parser("bench", help="how fast this machine, nbrnn and installed peers are"))
    from .gpu_check import command as gpu_check

    gpu_check.add_arguments(commands.add_parser("gpu-check", help="whether this machine's GPU agrees with its CPU"))
    given = parser.parse_args(arguments)
    if given.command == "demo":
        from . import demo as demonstration

        demonstration.run(given.output, progress=not given.no_progress)
    elif given.command == "bench":
        benchmark.run(given)
    elif given.command == "gpu-check":
        return gpu_check.run(given)
    else:
        print(info())
    return 0


def _picture(text: str) -> pathlib.Path:
    """Where a picture can be saved."""
    path = pathlib.Path(text)
    if path.suffix.lower() not in (".png", ".pdf", ".svg", ".jpg"):
        raise argparse.ArgumentTypeError(f"must end in .png, .pdf, .svg or .jpg, got {text!r}")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"must be a file in a folder that is there, got {text!r}")
    return path


def info() -> str:
    """Versions, vector width, threads, cache folder, CUDA: a line each."""
    import llvmlite
    import numba
    import numpy as np
    import scipy

    from ._cpu import forward, isa, workers
    from .gpu_check import found

    cache = getattr(forward.forward, "_cache", None)
    lines = {
        "nbrnn": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "numba": f"{numba.__version__} (llvmlite {llvmlite.__version__})",
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "machine": f"{platform.machine()}, {platform.system()}",
        "processor": isa.processor(),
        "vectors": isa.describe(),
        "threads": f"at most {workers.allowed()} a call (numba.set_num_threads), {os.cpu_count()} processors",
        "cache": str(getattr(cache, "cache_path", "none: compiles anew in each process")),
        "cuda": found.summary(),
    }
    return "\n".join(f"{name:10s} {text}" for name, text in lines.items())


if __name__ == "__main__":
    sys.exit(main())
