"""A fourth cell is one file: it passes the tests of the others without any loop being touched."""

import copy
import os
import pickle
import random
import sys

import numba
import numpy as np
import pytest
from hypothesis import given

from nbrnn._cells import GRU, LSTM, RNNRelu, RNNTanh
from tests import test_finite_differences, test_properties, test_reference
from tests.cases import Case, cases
from tests.minimal_gated_unit import MGU, MGULayer
from tests.processes import finish, start


@given(cases(kind="MGU"))
def test_agrees_with_reference(case):
    test_reference.compare(case)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_finite_differences_agree(bidirectional):
    test_finite_differences.check("MGU", bidirectional)


MORE = dict(L=2, bidirectional=True, stateful=True)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "name, options, arguments",
    [
        ("two_pieces_are_the_whole", dict(L=2, stateful=True, cut=True), [3]),
        ("padding_is_inert", dict(MORE, ragged=True, cut=True), [np.nan]),
        ("order_and_company_change_no_bit", dict(MORE, ragged=True, cut=True), [random.Random(0)]),
        ("reversed_time_swaps_directions", MORE, []),
        ("each_sequence_and_each_cut_is_a_run_of_its_own", dict(MORE, ragged=True, cut=True), []),
        ("checkpointed_is_plain", dict(MORE, ragged=True), [2]),
        ("checkpointed_dropout_is_plain", dict(MORE, dropout=0.3), ["sqrt"]),
    ],
)
def test_properties_hold(dtype, name, options, arguments):
    """Those of the built-in cells, as they stand there."""
    case = Case("MGU", dtype, T=7, B=4, I=3, H=19, **options)
    getattr(test_properties, f"test_{name}").hypothesis.inner_test(case, *arguments)


@pytest.mark.skipif(sys.platform == "win32", reason="needs mprotect")
def test_no_array_is_read_or_written_past_its_ends():
    """In the plain run each width in one dtype, with less optimised (see test_guard.py)."""
    long = os.environ.get("HYPOTHESIS_PROFILE") == "long"
    arguments = [
        "-m",
        "tests.guard",
        "--kinds",
        "MGU",
        "--quick",
        "--widths",
        "256,128,scalar",
        *["--thin"] * (not long),
    ]
    options = {} if long else {"NUMBA_OPT": 1}
    assert finish(start(arguments, **options)).count(", 0 faults") == 2


def test_copies_and_pickles():
    layer = MGULayer(3, 5, rng=0)
    x = np.ones((4, 2, 3), np.float32)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        np.testing.assert_array_equal(twin(x)[0], layer(x)[0])
    stream = layer.stream(batch_size=2)
    np.testing.assert_array_equal([stream(row) for row in x], layer(x)[0])


@pytest.mark.parametrize("cell", [RNNTanh, RNNRelu, GRU, LSTM, MGU])
def test_formulas_run_on_arrays_and_compile_on_scalars(cell):
    """The same lines in a debugger and inside @njit code."""
    rng = np.random.default_rng(0)
    sums = tuple(rng.normal(size=6) for _ in range(cell.sums()))
    state = tuple(rng.normal(size=6) for _ in cell.state)
    after, saved = cell.forward(sums, state)
    before = cell.backward(after, saved)
    forward, backward = numba.njit(cell.forward), numba.njit(cell.backward)
    for k in range(6):
        got_after, got_saved = forward(tuple(a[k] for a in sums), tuple(a[k] for a in state))
        got_before = backward(got_after, got_saved)
        np.testing.assert_allclose(got_after, [a[k] for a in after], rtol=1e-13, atol=1e-15)
        for part, got_part in zip(before, got_before, strict=True):
            np.testing.assert_allclose(got_part, [np.broadcast_to(a, 6)[k] for a in part], rtol=1e-13, atol=1e-15)
