"""Tests that several processes share: those marked ``alone`` run while the others wait."""

import importlib.util
import subprocess
import sys

import pytest

from tests.processes import ROOT, environment

FILE = """
import os, pathlib, time, pytest

def during():
    begun = time.monotonic()
    time.sleep(0.15)
    return begun, time.monotonic()

def note(name):
    with open(f"{name}-{os.getpid()}", "a") as file:
        print(*during(), file=file)

@pytest.mark.parametrize("n", range(6))
def test_with_others(n):
    note("together")

@pytest.mark.alone
@pytest.mark.parametrize("n", range(2))
def test_by_itself(n):
    note("alone")
    assert n == 0
"""


@pytest.mark.skipif(importlib.util.find_spec("xdist") is None, reason="pytest-xdist is not installed")
@pytest.mark.skipif(sys.platform == "win32", reason="one process runs all there")
def test_nobody_else_runs_while_a_test_is_alone(tmp_path):
    (tmp_path / "conftest.py").write_text("from tests.conftest import *\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = alone\n")
    for name in ("test_a.py", "test_b.py", "test_c.py"):
        (tmp_path / name).write_text(FILE)
    shown = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "3", "-p", "no:cacheprovider"], cwd=tmp_path, text=True,
        env=environment(ROOT), capture_output=True, timeout=120,
    )  # fmt: skip
    assert "3 failed, 21 passed" in shown.stdout
    spans = {
        kind: [
            tuple(map(float, line.split())) for f in tmp_path.glob(f"{kind}-*") for line in f.read_text().splitlines()
        ]
        for kind in ("together", "alone")
    }
    assert [len(spans[kind]) for kind in ("together", "alone")] == [18, 6]

    def at_once(a, b):
        return a[0] < b[1] and b[0] < a[1]

    together = spans["together"]
    assert any(at_once(a, b) for a in together for b in together if a != b)
    for a in spans["alone"]:
        assert not any(at_once(a, b) for b in together + spans["alone"] if a != b)
