"""Calls shared by threads: the same bits as alone, whatever else is going on in the process."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cases import KINDS, cases, examples
from tests.teams import TEAMS, forced

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
)
def test_workers_that_come_late_or_not_at_all_change_no_bit(case, team, steps, wait):
    same_bits(case, members=team[0], abreast=team[1], steps=steps, wait=wait)
