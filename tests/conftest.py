import contextlib
import gc
import os
import pathlib
import sys
import tempfile

import hypothesis
import pytest

# Compiling a kernel takes seconds the first time: no deadlines.  The plain run is the same every time; the long one
# looks for something new.
hypothesis.settings.register_profile("plain", deadline=None, max_examples=60, derandomize=True, print_blob=True)
hypothesis.settings.register_profile("long", deadline=None, max_examples=2000, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "plain"))

# Compilers make millions of objects that live: looking for garbage among them took an eighth of their time.
gc.set_threshold(100_000)


@pytest.fixture
def machine():
    """An emulated device, which ``to("cuda")`` means."""
    from nbrnn._cuda import current
    from tests.emulated import Emulated

    machine = Emulated()
    with current.use(machine):
        yield machine


#: Where processes that share the tests find each other's files.
FOLDER = "NBRNN_TESTS_FOLDER"


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """All tests: by a process for each processor, as with pytest-xdist's ``-n``; four at most, each keeps 2 GB."""
    option = config.option
    if hasattr(config, "workerinput"):
        return
    every = config.args_source is config.ArgsSource.TESTPATHS and not (option.keyword or option.markexpr)
    plain = option.usepdb or option.collectonly or option.capture == "no"
    if sys.platform != "win32" and every and not plain and getattr(option, "numprocesses", 0) is None:
        option.numprocesses = min(4, len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1)
        option.dist, option.loadscopereorder = "loadfile", False  # tests of a file need the same kernels
    if getattr(option, "numprocesses", None):
        folder = tempfile.TemporaryDirectory(prefix="nbrnn-tests-")
        config.add_cleanup(folder.cleanup)
        os.environ[FOLDER] = folder.name


def shares(config):
    """Whether this process runs some of the tests, and others the others."""
    return hasattr(config, "workerinput") and FOLDER in os.environ and sys.platform != "win32"


def pytest_collection_modifyitems(config, items):
    """Files with tests that are marked ``alone`` come last: then, no process waits for what another has begun."""
    if shares(config):
        last = {item.path for item in items if item.get_closest_marker("alone")}
        items.sort(key=lambda item: item.path in last)


def pytest_collection_finish(session):
    """Processes that share all tests compile the kernels that most of them need first, none of them twice."""
    if shares(session.config) and len(session.items) > 1000:
        from tests import kernels

        for name in kernels.NAMES:
            with contextlib.suppress(FileExistsError), open(pathlib.Path(os.environ[FOLDER], name), "x"):
                kernels.make_ready(name)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """A test that is marked ``alone`` runs while the other processes wait."""
    if not shares(item.config):
        return (yield)
    import fcntl

    alone = item.get_closest_marker("alone") is not None
    with contextlib.ExitStack() as left:
        # Who stands in the door is next, so that nobody waits for ever.
        with locked("door", fcntl.LOCK_EX):
            left.enter_context(locked("room", fcntl.LOCK_EX if alone else fcntl.LOCK_SH))
        return (yield)


@contextlib.contextmanager
def locked(name, how):
    import fcntl

    with open(pathlib.Path(os.environ[FOLDER], name), "w") as file:
        fcntl.flock(file, how)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # closing isn't enough where a test has left a forked process behind
