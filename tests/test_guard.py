"""Sweeps against protected pages, in processes of their own; and that an off-by-one is caught."""

import os
import signal
import sys

import pytest

from tests.processes import copy_of_package, edit, finish, start

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs mprotect")


@pytest.mark.parametrize("widths", ["own", "others"])
def test_no_array_is_read_or_written_past_its_ends(widths):
    """All cells, all vector widths, both dtypes side by side; the plain run is thinner at foreign widths.

    There, less is optimised too: that takes away no access to memory, and is compiled in half the time.
    """
    long = os.environ.get("HYPOTHESIS_PROFILE") == "long"
    options = {} if long or widths == "own" else {"NUMBA_OPT": 1}
    arguments = ["-m", "tests.guard", "--widths", widths, *["--thin"] * (not long)]
    sweeps = [start([*arguments, "--dtype", dtype], **options) for dtype in ("float32", "float64")]
    for sweep in sweeps:
        assert ", 0 faults" in finish(sweep)


MUTANTS = {
    "a row copied one number too far": ("rows", "e.each(n % e.W, lambda k: (rest_to + k).put_number((rest + k).number()))",
                                        "e.each(n % e.W + 1, lambda k: (rest_to + k).put_number((rest + k).number()))"),
    "one input too many in a sum": ("tiles", "else e.loop(count, flat, body)", "else e.loop(count + 1, flat, body)"),
    "one block of units too many": ("steps", "e.each(number - done, ", "e.each(number - done + 1, "),
    "one pair of blocks too many": ("steps", "pairs = number // PAIR", "pairs = (number + 1) // PAIR"),
    "one vector too many of dy": ("rows", "(to + b * e.W).load() + (source + b * e.W).load()",
                                  "(to + b * e.W).load() + (source + b * e.W + e.W).load()"),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_an_off_by_one_in_a_copy_is_caught(name, tmp_path):
    module, before, after = MUTANTS[name]
    copy_of_package(tmp_path, tests=True)
    edit(tmp_path / "nbrnn" / "_cpu" / f"{module}.py", before, after)
    arguments = ["-m", "tests.guard", "--quick", "--dtype", "float32", "--widths", "256", "--kinds", "GRU"]
    # What isn't optimised does the same with memory, and is compiled sooner.
    process = start(arguments, folder=tmp_path, cache=tmp_path / "cache", NUMBA_OPT=0)
    out, err = process.communicate(timeout=300)
    assert process.returncode in (-signal.SIGSEGV, -signal.SIGBUS), f"not caught: {process.returncode}\n{out}\n{err}"
    assert "Segmentation fault" in err or "Bus error" in err
