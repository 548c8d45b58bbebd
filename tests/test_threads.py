"""Calls shared by threads: the same bits as alone, whatever else is going on in the process."""

import os
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbrnn._cpu import team, workers
from nbrnn._memory import aligned_zeros
from tests.cases import KINDS, Case, cases, examples
from tests.teams import TEAMS, forced, offered, shared

pytestmark = pytest.mark.alone


def results(case):
    y, h, c, grads = case.train(rng=case.seed)
    inferred, _ = case.layer(case.user(case.x), **case.arguments())
    return [a for a in (y, h, c, grads.x, *case.split(grads.state), grads.flat, inferred) if a is not None]


def same_bits(case, **how):
    """A case alone, and shared as ``forced`` is told."""
    wanted = results(case)
    with forced(**how):
        got = results(case)
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


@examples(2)
@given(
    cases(
        kind=st.sampled_from(KINDS), T=st.integers(0, 9), B=st.integers(0, 9), H=st.integers(1, 70),
        recurrent_dropout=st.sampled_from([0.0, 0.4]),
    ),
    st.sampled_from(TEAMS),
)  # fmt: skip
def test_the_bits_are_those_of_one_thread(case, team):
    same_bits(case, members=team[0], abreast=team[1])


@examples(1)
@given(
    cases(
        T=st.integers(0, 9), B=st.integers(0, 9), H=st.integers(1, 40), recurrent_dropout=st.sampled_from([0.0, 0.4])
    ),
    st.sampled_from([(1, 1), *TEAMS]),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(0, 2),
)
def test_calls_cut_into_pieces_give_the_same_bits(case, team, rows, steps, alone):
    same_bits(case, members=team[0], abreast=team[1], rows=rows, steps=steps, alone=alone)


@examples(1)
@given(
    cases(T=st.integers(0, 9), B=st.integers(0, 9), H=st.integers(1, 40)),
    st.sampled_from(TEAMS),
    st.integers(1, 5),
    st.sampled_from([0.0, 1e-6, 1e-5, 1e-4]),
    st.booleans(),
)
def test_workers_that_come_late_or_not_at_all_change_no_bit(case, team, steps, wait, both):
    same_bits(case, members=team[0], abreast=team[1], steps=steps, wait=wait, both=both)


@examples(2)
@given(
    cases(
        kind=st.sampled_from(KINDS), bidirectional=st.just(True), T=st.integers(0, 9), B=st.integers(0, 9),
        H=st.integers(1, 70), recurrent_dropout=st.sampled_from([0.0, 0.4]),
    ),
    st.sampled_from([(1, 1), *TEAMS]),
    st.one_of(st.just(10**6), st.integers(1, 5)),
    st.one_of(st.just(10**6), st.integers(1, 5)),
    st.integers(0, 2),
)  # fmt: skip
def test_two_directions_side_by_side_give_the_same_bits(case, team, rows, steps, alone):
    same_bits(case, members=team[0], abreast=team[1], rows=rows, steps=steps, alone=alone, both=True)


def test_a_tape_that_is_retained_gives_the_same_bits_again():
    """Both directions work on copies of what it keeps."""
    case = Case(T=7, B=3, H=20, bidirectional=True, L=2, ragged=True, stateful=True)

    def both_times():
        _, _, tape = case.layer.forward(case.x, **case.arguments())
        dstate = case.state(case.dh, case.dc)
        return [case.layer.backward(tape, case.dy, dstate, retain=retain) for retain in (True, True, False)]

    wanted = both_times()[0]
    with forced(2, 1, both=True):
        before = shared()
        for got in both_times():
            np.testing.assert_array_equal(got.x, wanted.x)
            np.testing.assert_array_equal(got.flat, wanted.flat)
        assert shared() > before


def test_each_direction_is_run_by_a_member_of_its_own():
    """A call is one job for both, where a direction at a time would be two."""
    case = Case(T=9, B=1, H=20, bidirectional=True, L=1)
    jobs = {}
    case.layer(case.x)  # weights are packed
    for both in (False, True):
        with forced(2, 1, both=both):
            before = offered()
            case.layer(case.x)
            jobs[both] = offered() - before
    assert jobs == {False: 2, True: 1}


def on_a_thread(run):
    """What a function gives on a thread of its own, whose processors are its own business."""
    given = []
    thread = threading.Thread(target=lambda: given.append(run()))
    thread.start()
    thread.join(60)
    assert given, "no end within a minute"
    return given[0]


needs_two = pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2, reason="needs Linux and two processors"
)


@needs_two
def test_a_thread_leaves_a_processor():
    allowed = os.sched_getaffinity(0)

    def run():
        left = 0
        for here in sorted(allowed)[:2] * 10:
            os.sched_setaffinity(0, {here})
            assert workers._processor()() == here
            assert not workers.leave(here)  # nowhere to go
            os.sched_setaffinity(0, allowed)
            assert workers.leave(-1)
            workers.leave(here)
            assert os.sched_getaffinity(0) == allowed
            left += workers._processor()() != here
        return left

    assert on_a_thread(run) > 10  # the system may bring it back at any time


@needs_two
def test_a_worker_is_told_that_its_caller_runs_beside_it():
    desk = aligned_zeros((team.WORDS, team.LINE // 8), np.int64)
    at, serve = desk.ctypes.data, workers._kernel(team.serve)
    here, there = sorted(os.sched_getaffinity(0))[:2]
    desk[team.COMING] = 2**40

    def run():
        os.sched_setaffinity(0, {here})
        return serve(at, 1)

    def call():
        for job, processor, looks in ((1, there, 2**40), (2, here, 2**40), (3, there, 0)):
            time.sleep(0.1)
            desk[team.COMING, 0] = looks
            desk[team.AT, 0] = job << team.SHIFT | processor + 1

    caller = threading.Thread(target=call)
    caller.start()
    assert on_a_thread(run) == -1
    assert on_a_thread(run) == 0
    caller.join()


@needs_two
def test_nobody_is_told_where_it_does_not_help(monkeypatch):
    """As where a processor's number means nothing."""
    made = workers.Workers()
    told = made._desk[team.TELLS * team.LINE // 8 :]
    assert told[0] == 1
    monkeypatch.setattr(workers, "leave", lambda processor: False)
    answers = iter([-1, -1, 0, 0])

    def serve(desk, looks):
        if (answer := next(answers)) == 0:
            made._stopped = True
        return answer

    made._serve = serve
    made._live(workers.Worker("test", made._live))
    assert told[0] == 0
