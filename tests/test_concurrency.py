"""Calls from many threads and processes, forks, interrupts and ends: right results, and nothing hangs.

Each runs in a process of its own (see ``at_once``).
"""

import importlib.util
import os
import subprocess
import sys

import pytest

from tests.at_once import LIMIT
from tests.processes import finish, start

pytestmark = pytest.mark.alone

#: For systems that fork and send signals.
posix = pytest.mark.skipif(sys.platform == "win32", reason="fork and signals")


def run(name, *arguments, threads=2, **variables):
    """What a process prints that ends well, without a word of complaint."""
    process = start(
        ["-W", "error", "-m", "tests.at_once", name, *map(str, arguments)],
        NUMBA_NUM_THREADS=threads, **variables,
    )  # fmt: skip
    try:
        return finish(process, timeout=LIMIT + 10)
    except subprocess.TimeoutExpired:
        process.kill()
        raise


@pytest.mark.parametrize("name", ["eight_threads_infer", "eight_threads_train", "pool_of_threads", "two_directions"])
def test_calls_from_many_threads(name):
    run(name)


def test_more_workers_than_processors():
    run("eight_threads_infer", threads=5)


def test_the_number_of_threads_is_obeyed_in_each_thread():
    run("numbers_of_threads")


def test_one_thread_starts_no_other():
    run("one_thread", threads=1)


@pytest.mark.parametrize("name", ["nobody_comes", "no_threads_are_left", "interrupted_at_the_start"])
def test_workers_that_are_not_there(name):
    run(name)


def test_a_worker_comes_to_later_pieces_of_a_call():
    run("too_late_for_the_first_piece")


def test_workers_stay_awake_while_pieces_come():
    run("awake_while_pieces_come")


@pytest.mark.parametrize("layer", ["workqueue", "omp", "tbb"])
def test_threads_of_users_functions(layer):
    # Asked in a process of its own: in this one, a peer may have loaded a TBB that Numba would not find by itself.
    if layer != "workqueue" and subprocess.call(
        [sys.executable, "-c", f"import numba.np.ufunc.{layer}pool"], stderr=subprocess.DEVNULL
    ):
        pytest.skip(f"Numba has no {layer} here")
    assert run("users_threads", NUMBA_THREADING_LAYER=layer).split() == [layer]


@pytest.mark.parametrize("method", ["spawn", pytest.param("fork", marks=posix)])
def test_pools_of_processes(method):
    run("pool_of_processes", method)


@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_joblib(backend):
    if importlib.util.find_spec("joblib") is None:
        pytest.skip("joblib is not installed")
    run("joblib_pool", backend)


@posix
@pytest.mark.parametrize(
    "name", ["fork_after_calls", "fork_during_calls", "fork_within_a_call", "fork_while_numba_compiles"]
)
def test_forks(name):
    run(name)


@posix
@pytest.mark.parametrize("threads", [1, 2])
def test_an_interrupt_is_raised_within_half_a_second(threads):
    for _ in range(3):  # other processes may have the processors for a while
        if max(map(float, run("interrupts", threads).split())) < 0.5:
            return
    if os.getloadavg()[0] > os.cpu_count():
        pytest.skip("the machine is busy")
    pytest.fail("an interrupt took longer, three times")


@pytest.mark.parametrize("pause", [0, 0.0002, 0.1])
def test_a_process_ends_while_workers_are_awake_or_asleep(pause):
    run("end", pause)


@posix
def test_many_ends():
    run("end_many_times")


def test_workers_end_during_a_call_that_nobody_waits_for():
    for left in (2, 1, 0):  # other processes may have the processors for a while
        try:
            run("end_during_a_call")
            break
        except AssertionError:
            if left == 0:
                raise
