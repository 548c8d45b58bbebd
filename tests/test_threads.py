"""Calls shared by threads: the same bits as alone, whatever else is going on in the process."""

from unittest import mock

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nbrnn._cpu import workers
from tests.cases import KINDS, cases, examples
from tests.teams import TEAMS, forced


def results(case):
    y, h, c, grads = case.train(rng=case.seed)
    inferred, _ = case.layer(case.user(case.x), **case.arguments())
    return [a for a in (y, h, c, grads.x, *case.split(grads.state), grads.flat, inferred) if a is not None]


@examples(2)
@given(
    cases(kind=st.sampled_from(KINDS), T=st.integers(0, 9), B=st.integers(0, 9), H=st.integers(1, 70)),
    st.sampled_from(TEAMS),
)
def test_the_bits_are_those_of_one_thread(case, team):
    wanted = results(case)
    with forced(*team):
        got = results(case)
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


@examples(1)
@given(
    cases(T=st.integers(0, 9), B=st.integers(0, 9), H=st.integers(1, 40)),
    st.sampled_from([(1, 1), *TEAMS]),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(0, 2),
)
def test_calls_cut_into_pieces_give_the_same_bits(case, team, rows, steps, alone):
    wanted = results(case)
    with forced(*team, rows, steps, alone):
        got = results(case)
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


@examples(1)
@given(
    cases(T=st.integers(0, 9), B=st.integers(0, 9), H=st.integers(1, 40)),
    st.sampled_from(TEAMS),
    st.integers(1, 5),
    st.sampled_from([0.0, 1e-6, 1e-5, 1e-4]),
)
def test_workers_that_come_late_or_not_at_all_change_no_bit(case, team, steps, wait):
    wanted = results(case)
    with forced(*team, steps=steps), mock.patch.object(workers, "WAIT", wait):
        got = results(case)
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(a, b)
