"""Several pytest processes report each test once, as one process does."""

import os
import re
import signal
import subprocess
import sys

import pytest

from tests.processes import ROOT, environment

CONFTEST = "from tests import side_by_side\n\ndef pytest_collection_finish(session):\n    side_by_side.share(session)\n"
#: Two of these pass; how many processes there are doesn't show.
FILE = """
import os, pathlib, time, pytest

@pytest.fixture(scope="module")
def once():
    yield {n}

@pytest.mark.parametrize("n", range(5))
def test_it(n, once):
    with open("ran-{n}", "a") as file:
        print(n, os.getpid(), file=file)
    time.sleep(0.2)
    assert once == {n}
    if n == 0:
        pytest.skip("nothing to do")
    if n == 1:
        pytest.xfail("known")
    assert n != 2, "it is two"

{more}
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "conftest.py").write_text(CONFTEST)
    for n in range(4):
        (tmp_path / f"test_{n}.py").write_text(FILE.format(n=n, more=""))
    return tmp_path


def report(folder, *arguments, count=3):
    """(status, what pytest printed)."""
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = alone\n")
    shown = subprocess.run(
        [sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider", *arguments], cwd=folder, text=True,
        env=environment(ROOT, NBRNN_TEST_PROCESSES=count), capture_output=True, timeout=120,
    )  # fmt: skip
    return shown.returncode, shown.stdout


def lines(folder):
    return [line.split() for path in sorted(folder.glob("ran-*")) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("count", [1, 3])
def test_each_test_is_run_and_reported_once(folder, count):
    """And those that want all processors by the first process, when the others have ended."""
    more = "@pytest.mark.alone\ndef test_alone():\n    print('alone', os.getpid(), file=open('ran-alone', 'a'))\n"
    more += "    assert len([line for f in pathlib.Path('.').glob('ran-?') for line in open(f)]) == 20\n"
    (folder / "test_3.py").write_text(FILE.format(n=3, more=more))
    status, out = report(folder, count=count)
    assert status == 1
    assert re.search(r"4 failed, 9 passed, 4 skipped, 4 xfailed in", out)
    assert out.count("AssertionError: it is two") == 2 * 4  # in the traceback, and in the summary
    for n in range(4):
        for k in range(5):
            assert len(re.findall(rf"(?m)^(?:PASSED|FAILED|XFAIL) test_{n}.py::test_it\[{k}\]", out)) == (k > 0)
    (alone,) = (process for name, process in lines(folder) if name == "alone")
    others = [process for name, process in lines(folder) if name != "alone"]
    assert len(others) == 4 * 5
    assert len(set(others)) == count
    assert alone in others


def test_what_a_helper_dies_of_is_run_again(folder):
    """A crash is seen, as it is with one process."""
    more = "def test_end():\n    print('end', os.getpid(), file=open('ran-end', 'a'))\n    os.kill(os.getpid(), 9)\n"
    (folder / "test_3.py").write_text(FILE.format(n=3, more=more))
    assert report(folder)[0] == -signal.SIGKILL
    assert len([process for name, process in lines(folder) if name == "end"]) == 2


def test_the_first_failure_ends_it_where_that_is_asked_for(folder):
    status, out = report(folder, "-x")
    assert status == 1
    assert "stopping after 1 failures" in out
    assert len(lines(folder)) < 20


def test_an_interrupt_ends_the_helpers(folder):
    (folder / "test_0.py").write_text("import os, signal\n\ndef test_it():\n    os.kill(os.getpid(), signal.SIGINT)\n")
    (folder / "test_3.py").write_text(
        "import os, time\n\ndef test_it():\n    print('began', os.getpid(), file=open('ran-3', 'w'), flush=True)\n    time.sleep(100)\n"
    )
    assert report(folder)[0] == 2
    for _, process in lines(folder):
        with pytest.raises(ProcessLookupError):
            os.kill(int(process), 0)
