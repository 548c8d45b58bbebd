"""Running code in processes of its own, on the package or on an edited copy of it."""

from __future__ import annotations

import ctypes
import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]


def environment(folder, cache=None, **more):
    """Variables for a process that imports nbrnn (and tests) from a folder."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA_", "NBRNN_", "PYTHONPATH"))}
    kept["PYTHONPATH"] = str(folder)
    if cache is None and pathlib.Path(folder) == ROOT:
        cache = os.environ.get("NUMBA_CACHE_DIR")  # what this process has compiled needn't be compiled again
    if cache is not None:
        kept["NUMBA_CACHE_DIR"] = str(cache)
    return kept | {k: str(v) for k, v in more.items()}


def _obey_permissions():
    """Take root's right to write where permissions forbid it (CAP_DAC_OVERRIDE) from the process to come."""
    ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)  # PR_CAPBSET_DROP


def start(arguments, folder=ROOT, cache=None, obey=False, **more):
    """A Python process, not waited for."""
    return subprocess.Popen(
        [sys.executable, *arguments], env=environment(folder, cache, **more), cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=_obey_permissions if obey and os.geteuid() == 0 else None,
    )  # fmt: skip


def finish(process, timeout=600):
    """What a process printed; raises if it failed."""
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == 0, f"status {process.returncode}\n{out}\n{err}"
    return out


def run(code, **where):
    """What a piece of Python prints."""
    return finish(start(["-c", code], **where))


def copy_of_package(folder, tests=False):
    """The package (and the tests) copied to a folder."""
    ignore = shutil.ignore_patterns("__pycache__", "*.nbc")
    for name in ("nbrnn", "tests") if tests else ("nbrnn",):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    return folder


def edit(path, before, after):
    """Replace a piece of a file that is there once."""
    text = path.read_text()
    assert text.count(before) == 1, (path, before, text.count(before))
    path.write_text(text.replace(before, after))
