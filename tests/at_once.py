"""Calls from several threads and processes at once, in a process of its own.

    python -m tests.at_once eight_threads_infer

ends with status 0 if all results are right to the bit, work was shared where it should be, and nothing hung.
"""

from __future__ import annotations

import concurrent.futures
import copy
import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import time
from unittest import mock

import numba
import numpy as np

import nbrnn
from nbrnn._cpu import workers
from nbrnn._cpu.team import COMING, LINE
from tests.teams import offered, shared

#: Seconds that a process may take, and how long a worker is waited for where other processes want the processors.
LIMIT, PATIENCE = 120, 15

#: (T, B, I, H) shared by sequences, and by hidden units.
ROWS, UNITS = (20, 64, 128, 256), (60, 1, 32, 512)

#: The same shared by directions.
BOTH = (200, 2, 64, 128)


def limit(seconds):
    """A process that hangs shows where, and ends: a forked one too, which has no thread that could see to it."""
    if hasattr(signal, "SIGALRM"):
        faulthandler.register(signal.SIGALRM, chain=True)
        signal.alarm(seconds)


def alone():
    """Calls within the block use one thread, whatever Numba says."""
    return mock.patch.object(workers, "allowed", return_value=1)


class Calls:
    """A layer, and what its calls give in one thread."""

    def __init__(self, shape=ROWS, seed=0, train=True):
        T, B, I, H = shape
        rng, both = np.random.default_rng(seed), shape == BOTH
        self.layer = nbrnn.LSTM(I, H, rng=seed, bidirectional=both)
        self.x, self.dy = rng.normal(size=(T, B, I)).astype("f"), rng.normal(size=(T, B, H << both)).astype("f")
        with alone():
            self.wanted_y = self.layer(self.x)[0]
            self.wanted = self._train() if train else None

    def _train(self):
        y, _, tape = self.layer.forward(self.x)
        return [y, *(grads := self.layer.backward(tape, self.dy)).state, grads.x, grads.flat]

    def infer(self, times=1):
        for _ in range(times):
            np.testing.assert_array_equal(self.layer(self.x)[0], self.wanted_y)

    def train(self, times=1):
        for _ in range(times):
            for a, b in zip(self._train(), self.wanted, strict=True):
                np.testing.assert_array_equal(a, b)

    def share(self, call=None):
        """Right results, and sooner or later a worker comes: a machine may be busy."""
        before, call, last = shared(), call or self.infer, time.monotonic() + PATIENCE
        while time.monotonic() < last:
            call()
            if shared() > before:
                return
        raise AssertionError("no call was shared")


def descend(layer, x, rounds):
    """Parameters after so many steps of gradient descent."""
    for _ in range(rounds):
        y, _, tape = layer.forward(x)
        layer.flat = layer.flat - np.float32(1e-4) * layer.backward(tape, y).flat
    return layer.flat.copy()


def together(*functions):
    """Run functions at the same time, in a thread each; raises what they raise."""
    start = threading.Barrier(len(functions))

    def run(function):
        start.wait()
        return function()

    with concurrent.futures.ThreadPoolExecutor(len(functions)) as pool:
        return [f.result(LIMIT) for f in [pool.submit(run, function) for function in functions]]


# Threads


def eight_threads_infer():
    rows, units = Calls(ROWS, train=False), Calls(UNITS, train=False)
    before = shared()
    together(*[lambda c=c: c.infer(10) for c in (rows, units) for _ in range(4)])
    if shared() == before:
        rows.share()


def two_directions():
    """Of one layer, called from several threads and from a forked process; with and without workers that are awake."""
    calls = Calls(BOTH)
    assert workers.cost.plan_of_two(calls.layer._stack().units[0].form.work_forward, BOTH[1], 2) is not None
    calls.share()
    calls.share(calls.train)
    together(*[lambda: calls.infer(40)] * 3, *[lambda: calls.train(10)] * 3)
    for pause in (0.0, 0.0003, 0.01):
        time.sleep(pause)
        calls.infer(2)
        time.sleep(pause)
        calls.train()
    if hasattr(os, "fork"):
        wait_for(child(lambda: check_in_child(calls)))
    calls.share()
    with mock.patch.object(workers, "rouse", return_value=7):  # the first steps alone, as if workers were asleep
        calls.share()
        calls.share(calls.train)


def eight_threads_train():
    rounds = 4
    x = [np.random.default_rng(n).normal(size=ROWS[:3]).astype("f") for n in range(8)]
    layers = [nbrnn.LSTM(*ROWS[2:], rng=n) for n in range(8)]
    with alone():
        wanted = [descend(copy.deepcopy(layer), a, rounds) for layer, a in zip(layers, x, strict=True)]
    got = together(*[lambda n=n: descend(layers[n], x[n], rounds) for n in range(8)])
    np.testing.assert_array_equal(got, wanted)
    Calls().share()


def numbers_of_threads():
    calls = Calls()
    calls.share()
    for n in (1, 2, 1, 2, 1):
        numba.set_num_threads(n)
        before = offered()
        calls.infer(3)
        calls.train()
        assert (offered() > before) == (n > 1), n

    def with_threads(n, times):
        numba.set_num_threads(n)
        calls.infer(times)
        return numba.get_num_threads()

    numba.set_num_threads(2)
    before = offered()
    assert together(lambda: with_threads(1, 5)) == [1]
    assert offered() == before  # this thread's number is another's
    assert together(*[lambda n=n: with_threads(n, 15) for n in (1, 2, 1, 2)]) == [1, 2, 1, 2]
    assert offered() > before
    calls.share()


def one_thread():
    calls = Calls()
    calls.infer()
    calls.train()
    assert workers._workers is None
    assert threading.active_count() == 1


def pool_of_threads():
    calls = Calls()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: calls.infer(2), range(16)))
    calls.share(calls.train)


# Workers that don't come


def nobody_comes():
    """Threads that end at once: calls wait for them in vain."""
    calls = Calls()
    with mock.patch.object(workers.Workers, "_live", return_value=None):
        before = offered()
        calls.infer(5)
        calls.train(5)
        assert offered() > before
        assert shared() == 0


def no_threads_are_left():
    """The system starts one worker and no more: it isn't asked again, and nobody is waited for."""
    calls, begun, start = Calls(), [], threading.Thread.start

    def start_one(thread):
        begun.append(thread)
        if len(begun) > 1:
            raise RuntimeError("can't start new thread")
        start(thread)

    with (
        mock.patch.object(threading.Thread, "start", start_one),
        mock.patch.object(workers, "allowed", return_value=4),
        mock.patch.object(workers.cost, "plan", return_value=workers.cost.Plan(1.0, 4, 1, 64, 10**6)),
    ):
        calls.share()
        calls.share(calls.train)
    assert len(begun) == 2
    assert workers.workers().team(4, 1.0, 1).wanted == 2


def interrupted_at_the_start():
    """Ctrl-C just when a worker has been started: it works as any other."""
    calls, start = Calls(), threading.Thread.start

    def start_and_stop(thread):
        start(thread)
        raise KeyboardInterrupt

    with mock.patch.object(threading.Thread, "start", start_and_stop):
        try:
            calls.infer()
        except KeyboardInterrupt:
            pass
        else:
            raise AssertionError("no worker was started")
    for pause in (0, 0.01):  # awake, and asleep
        time.sleep(pause)
        calls.share()
    calls.share(calls.train)
    assert threading.active_count() == 2


def too_late_for_the_first_piece():
    """A worker that sleeps when a long call begins comes to its later pieces."""
    calls, long = Calls(train=False), Calls((600, *ROWS[1:]), train=False)
    calls.share()
    time.sleep(0.01)
    before, team, asked = shared(), workers.Workers.team, []

    def ask(*arguments):
        asked.append(arguments)
        given = team(*arguments)
        return given._replace(patience=0) if len(asked) == 1 else given

    with mock.patch.object(workers.Workers, "team", ask):
        for _ in range(5):
            asked.clear()
            time.sleep(0.01)
            long.infer()
            if shared() > before:
                return
    raise AssertionError("only the first piece asked for workers")


def awake_while_pieces_come():
    """A worker that has missed a piece doesn't go to sleep before the next, however long that takes."""
    calls, long = Calls(train=False), Calls((600, *ROWS[1:]))
    calls.share()
    made = workers.workers()
    worker, coming, asked = made._all[0], made._desk[COMING * LINE // 8 :][:1], []

    def ask(*arguments):
        asked.append(int(coming[0]))
        return workers.Workers.team(made, *arguments)

    # To pack weights is no piece of a loop: nobody announces it.
    packing = mock.patch.object(workers, "team_of_moves", return_value=workers.ALONE)
    with mock.patch.object(made, "team", ask), packing:
        long.infer()
        long.train()
    assert len(asked) > 6
    assert min(asked) > 0
    assert coming[0] == 0
    made.expect(60.0)
    made.wake(2)
    time.sleep(0.1)  # a hundred times as long as it looks for a job that nobody has announced
    assert not worker.asleep
    made.expect(0.0)
    wait_until(lambda: worker.asleep)


def wait_until(condition):
    """Within ten seconds."""
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen")


# Users' own threads


@numba.njit(parallel=True)
def rollouts(net, x):
    y = np.empty((x.shape[0], x.shape[1], nbrnn.jit.output_size(net)), x.dtype)
    for b in numba.prange(x.shape[0]):
        state = nbrnn.jit.zero_state(net)
        for t in range(x.shape[1]):
            nbrnn.jit.step(net, x[b, t], state, y[b, t])
    return y


def users_threads():
    """A function of the user's in Numba's threads, before, between and during calls, which come from two threads."""
    calls, cell = Calls(), nbrnn.RNN(8, 16, rng=0)
    net, x = cell.jit(), np.random.default_rng(0).normal(size=(64, 20, 8)).astype("f")
    stream, wanted = cell.stream(), np.empty((64, 20, 16), np.float32)
    for b in range(64):
        stream.reset()
        wanted[b] = [stream(row) for row in x[b]]

    def roll(times):
        for _ in range(times):
            np.testing.assert_array_equal(rollouts(net, x), wanted)

    roll(1)
    for _ in range(10):
        calls.infer()
        roll(1)
    calls.share(calls.train)
    together(lambda: roll(100), lambda: calls.infer(15), lambda: calls.train(4))
    roll(1)
    print(numba.threading_layer())


# Processes


def in_process(seed):
    """What a process of a pool does: right results, with workers of its own."""
    calls = Calls(seed=seed)
    calls.share()
    calls.train()
    return offered() > 0


def pool_of_processes(method):
    calls = Calls()
    calls.share()
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        assert all(pool.map(in_process, range(2), timeout=LIMIT))
        calls.infer(3)
    calls.share(calls.train)


def joblib_pool(backend):
    import joblib

    calls = Calls()
    task = in_process if backend == "loky" else lambda seed: calls.train(2) or True
    assert all(joblib.Parallel(2, backend=backend, timeout=LIMIT)(joblib.delayed(task)(n) for n in range(4)))
    calls.share()


def child(function):
    """Fork, and run a function in the child: its number."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        limit(LIMIT // 2)
        function()
        status = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    os._exit(status)


def wait_for(process):
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0


def check_in_child(calls):
    assert offered() == 0
    assert threading.active_count() == 1
    calls.share()
    calls.share(calls.train)


def fork_after_calls():
    calls = Calls()
    calls.share()
    for pause in (0, 0, 0.01, 0.01):  # workers awake, and asleep
        calls.infer()
        time.sleep(pause)
        process = child(lambda: check_in_child(calls))
        calls.infer(3)
        wait_for(process)
        calls.share(calls.train)

    def grandchild():
        calls.share()
        wait_for(child(lambda: check_in_child(calls)))
        calls.share()

    wait_for(child(grandchild))


def fork_during_calls():
    """Another thread is in the midst of calls that are shared; it rests while the child looks for workers."""
    calls, long = Calls(), Calls((300, *ROWS[1:]), train=False)
    calls.share()
    done, going = threading.Event(), threading.Event()

    def go_on():
        while not done.is_set():
            going.wait()
            long.infer()

    thread = threading.Thread(target=go_on)
    thread.start()
    for n in range(6):
        going.set()
        time.sleep(0.01 + 0.007 * n)
        process = child(lambda: check_in_child(calls))
        going.clear()
        wait_for(process)
    done.set()
    going.set()
    thread.join(LIMIT)
    calls.share(calls.train)


def fork_within_a_call():
    """A signal's handler forks: parent and child both go on with the call."""
    calls, long = Calls(), Calls((1500, *ROWS[1:]), train=False)
    calls.share()
    children = []

    def fork(*_):
        children.append(os.fork())
        if children[0] == 0:
            limit(LIMIT // 2)

    signal.signal(signal.SIGPROF, fork)
    signal.setitimer(signal.ITIMER_PROF, 0.1)
    long.infer()
    assert len(children) == 1
    calls.share(calls.train)
    if children[0]:
        wait_for(children[0])


def fork_while_numba_compiles():
    """The child lacks the thread that holds Numba's lock: what has been compiled must do without."""
    from numba.core.compiler_lock import global_compiler_lock

    calls, held, done = Calls(), threading.Event(), threading.Event()
    calls.share(calls.train)

    def hold():
        with global_compiler_lock:
            held.set()
            done.wait(LIMIT)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(LIMIT)
    wait_for(child(lambda: check_in_child(calls)))
    done.set()
    thread.join()


# Interrupts


def latency(after, call, *arguments):
    """Seconds from an interrupt, so long after the beginning, to the end of a call; None if that ended before."""
    sent, ended, lock = [], [], threading.Lock()

    def interrupt():
        time.sleep(after)
        with lock:
            if not ended:
                sent.append(time.perf_counter())
                os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        call(*arguments)
        with lock:
            ended.append(True)
    except KeyboardInterrupt:
        return time.perf_counter() - sent[0]
    finally:
        thread.join()
    return None


def latency_of_backward(after, layer, x):
    y, _, tape = layer.forward(x)
    seconds = latency(after, layer.backward, tape, y)
    try:
        layer.backward(tape, y)
    except RuntimeError:
        return seconds
    raise AssertionError("a tape that was worked on in place can be used again")


def until_interrupted(measure, after, *arguments):
    """A latency; sooner after the beginning if the call is too short."""
    while (seconds := measure(after, *arguments)) is None:
        after /= 2
    return seconds


def interrupts(threads):
    """Prints the latencies of some calls of a few seconds."""
    check, found = [Calls(ROWS), Calls(UNITS), Calls(BOTH)], []
    with mock.patch.object(workers, "allowed", return_value=int(threads)):
        for T, B, H, both in ((500, 64, 1024, False), (20_000, 1, 512, False), (40_000, 1, 240, True)):
            layer = nbrnn.LSTM(8, H, rng=0, bidirectional=both)
            x = np.zeros((T, B, 8), np.float32)
            layer(x[:2])
            found += [until_interrupted(latency, after, layer, x) for after in (0.02, 0.3)]
            found.append(until_interrupted(latency, 0.2, layer.forward, x[: T // 2]))
            for after in (0.02, 0.15, 0.3):
                found.append(until_interrupted(latency_of_backward, after, layer, x[: T // 10]))
            for calls in check:
                calls.infer(2)
                calls.train(2)
    if int(threads) > 1:
        for calls in check:
            calls.share()
    print(" ".join(f"{s:.3f}" for s in found))


# The end of a process


def end(pause):
    calls = Calls(train=False)
    calls.share()
    calls.infer()
    time.sleep(float(pause))


def end_many_times():
    """Children end as any process does, with workers awake or asleep or just going to sleep."""
    calls = Calls(train=False)
    calls.share()
    for n in range(16):
        process = os.fork()
        if process == 0:
            calls.share()
            time.sleep((n % 8) * 60e-6)
            return
        wait_for(process)


def end_during_a_call():
    """A thread that nobody waits for goes on with a long call."""
    calls = Calls(train=False)
    calls.share()
    x = np.zeros((20_000, 1, 8), np.float32)
    layer = nbrnn.LSTM(8, 512, rng=0)
    before = shared()
    threading.Thread(target=layer, args=(x,), daemon=True).start()
    while shared() < before + 2:
        time.sleep(0.001)
    stopping = time.monotonic()
    workers._workers.stop()
    assert time.monotonic() - stopping < 0.9 * workers.LAST
    before = offered()
    assert not any(worker.thread.is_alive() for worker in workers._workers._all)
    calls.infer(2)
    assert offered() == before


def main():
    limit(LIMIT)
    # A process started in the background by a shell ignores the signal, and so would its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    name, *arguments = sys.argv[1:]
    globals()[name](*arguments)


if __name__ == "__main__":
    main()
