"""Tests on all processors, with pytest alone: other pytest processes help the first one, from the last file backwards.

Each process claims a test before it runs it, so that they meet somewhere and end together.  What the others find, the
first one reports as its own.  Tests marked ``alone``, which want all processors or look at the clock, wait until the
others have ended.  ``NBRNN_TEST_PROCESSES`` says how many processes there may be; 1 is plain pytest.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import tempfile
import time

#: Tells a helper where the claims are, and what has been found.
FOLDER = "NBRNN_TEST_FOLDER"

#: From so many tests on, kernels are compiled beforehand.
MANY = 1000


def processes():
    """One for each processor, four at most: each takes gigabytes."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(os.environ.get("NBRNN_TEST_PROCESSES", min(4, there)))


def share(session):
    """Called when tests have been collected: let others help, where that is possible and worth it."""
    config, option = session.config, session.config.option
    if FOLDER in os.environ:
        config.pluginmanager.register(Helper(os.environ[FOLDER]))
    elif (
        processes() > 1
        and len({item.path for item in session.items}) > 1
        and not (option.collectonly or option.usepdb or option.capture == "no" or option.basetemp)
        and not (
            getattr(option, "numprocesses", None) or hasattr(config, "workerinput")
        )  # pytest-xdist does it already
    ):
        config.pluginmanager.register(First())


def free(folder, names):
    """Which of some names nobody has claimed, claimed now one by one: whoever makes its file first has it."""
    for name in names:
        with contextlib.suppress(FileExistsError):
            os.close(os.open(folder / hashlib.sha256(name.encode()).hexdigest(), os.O_CREAT | os.O_EXCL))
            yield name


def together(item):
    return item.get_closest_marker("alone") is None


def by_file(folder, session, items):
    """Files and their tests as far as they are free: each test with the next, which is claimed before it is run, since
    fixtures that both need are kept.

    Before many tests the kernels that most of them need are compiled, so that no two processes compile the same.
    """
    if len(session.items) >= MANY:
        from tests import kernels

        for name in free(folder, kernels.NAMES):
            kernels.make_ready(name)
    items = {item.nodeid: item for item in items if together(item)}
    mine, others = itertools.tee(items[name] for name in free(folder, items))
    next(others, None)
    return itertools.groupby(itertools.zip_longest(mine, others), lambda both: both[0].path)


def run(item, after):
    item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)


class Helper:
    """Runs what is free, and writes down what it found file by file."""

    def __init__(self, folder):
        self.folder, self.reports, self.parent = pathlib.Path(folder), [], os.getppid()

    def pytest_runtest_logreport(self, report):
        self.reports.append(report)

    def pytest_runtestloop(self, session):
        files = [list(items) for _, items in itertools.groupby(session.items, lambda item: item.path)]
        tell = session.config.hook.pytest_report_to_serializable
        for n, (_, items) in enumerate(by_file(self.folder, session, itertools.chain(*reversed(files)))):
            for both in items:
                if os.getppid() != self.parent:
                    raise session.Interrupted("nobody waits for it any more")
                run(*both)
            found = self.folder / f"{os.getpid()}-{n}.part"
            found.write_bytes(pickle.dumps([tell(config=session.config, report=report) for report in self.reports]))
            found.rename(found.with_suffix(".found"))
            self.reports.clear()
        return True


def end(helper):
    """With the processes that its tests have started."""
    if helper.poll() is None and hasattr(os, "killpg"):
        os.killpg(helper.pid, signal.SIGKILL)
    helper.kill()
    helper.wait()


class First:
    """Runs tests in their order, and reports what helpers find between its own files."""

    def pytest_runtestloop(self, session):
        if session.testsfailed and not session.config.option.continue_on_collection_errors:
            return None  # pytest says so
        self.session, self.reported = session, set()
        with tempfile.TemporaryDirectory() as folder:
            self.folder = pathlib.Path(folder)
            helpers = [self.start() for _ in range(processes() - 1)]
            try:
                self.together(helpers)
            finally:
                for helper in helpers:
                    end(helper)
        left = [item for item in session.items if item.nodeid not in self.reported]  # and what a helper died of
        for both in itertools.zip_longest(left, left[1:]):
            run(*both)
            self.stop_if_asked()
        return True

    def start(self):
        given = self.session.config.invocation_params
        return subprocess.Popen(
            [sys.executable, "-m", "pytest", *given.args], cwd=given.dir, env=os.environ | {FOLDER: str(self.folder)},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def together(self, helpers):
        for _, items in by_file(self.folder, self.session, self.session.items):
            for item, after in items:
                run(item, after)
                self.reported.add(item.nodeid)
                self.stop_if_asked()
            self.report()
        shared = sum(map(together, self.session.items))
        while len(self.reported) < shared and any(helper.poll() is None for helper in helpers):
            time.sleep(0.1)
            self.report()
        self.report()

    def report(self):
        """What helpers have found since the last time."""
        hook, config = self.session.config.hook, self.session.config
        for path in sorted(self.folder.glob("*.found")):
            for data in pickle.loads(path.read_bytes()):
                report = hook.pytest_report_from_serializable(config=config, data=data)
                if report.nodeid not in self.reported:
                    self.reported.add(report.nodeid)
                    hook.pytest_runtest_logstart(nodeid=report.nodeid, location=report.location)
                hook.pytest_runtest_logreport(report=report)
                if report.when == "teardown":
                    hook.pytest_runtest_logfinish(nodeid=report.nodeid, location=report.location)
            path.unlink()
        self.stop_if_asked()

    def stop_if_asked(self):
        if self.session.shouldfail:
            raise self.session.Failed(self.session.shouldfail)
        if self.session.shouldstop:
            raise self.session.Interrupted(self.session.shouldstop)
