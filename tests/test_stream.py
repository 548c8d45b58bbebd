"""Streaming: one step at a time."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nbrnn
from tests.cases import cases
from tests.tolerances import assert_close


@given(cases(bidirectional=False, batch_first=False, ragged=False, cut=False, B=st.integers(1, 5)), st.booleans())
def test_steps_are_those_of_the_layer(case, use_out):
    stream = case.layer.stream(case.B if case.batched else None)
    if case.stateful:
        stream.state = case.state(case.h, case.c)
    x = case.user(case.x)
    y, state = case.layer(x, **case.arguments())
    got = []
    for row in x:
        out = np.full(y.shape[1:], 7, case.dtype) if use_out else None
        step = stream(row, out)
        assert out is None or step is out
        got.append(step)
    if got:
        assert_close(np.stack(got), y, case.dtype, case.T, "stream")
    for a, b in zip(case.split(stream.state), case.split(state), strict=True):
        if b is not None:
            assert_close(a, b, case.dtype, case.T, "state")


def test_a_stream_is_a_snapshot():
    layer = nbrnn.GRU(3, 5, num_layers=2, rng=0)
    x = np.ones((4, 3), np.float32)
    stream, wanted = layer.stream(), layer(x)[0]
    layer.flat = 0 * layer.flat
    np.testing.assert_allclose([stream(row) for row in x], wanted, atol=1e-6)
    assert not layer(x)[0].any()


def test_reset():
    layer = nbrnn.LSTM(3, 5, num_layers=2, rng=0)
    x = np.ones((3, 3), np.float32)
    stream = layer.stream(batch_size=3)
    first = stream(x)
    second = stream(x)
    assert (first != second).all()
    stream.reset()
    np.testing.assert_array_equal(stream(x), first)
    stream.reset([True, False, True])
    np.testing.assert_array_equal(stream(x), [first[0], second[1], first[2]])
    h, c = stream.state
    assert h.shape == c.shape == (2, 3, 5)
    h[:] = 9  # a copy
    assert not (stream.state[0] == 9).any()
    stream.state = None
    np.testing.assert_array_equal(stream(x), first)
    assert "batch size 3" in repr(stream)


def test_a_copy_goes_its_own_way():
    layer = nbrnn.LSTM(3, 5, num_layers=2, rng=0)
    x = np.ones((3, 3), np.float32)
    stream = layer.stream(batch_size=3)
    first = stream(x)
    for twin in (copy.copy(stream), copy.deepcopy(stream)):
        np.testing.assert_array_equal(twin(x), stream.__copy__()(x))
        assert (twin.state[0] != stream.state[0]).any()
        twin.reset()
        np.testing.assert_array_equal(twin(x), first)
    with pytest.raises(TypeError, match="can't be pickled"):
        pickle.dumps(stream)


def test_no_sequences():
    assert nbrnn.GRU(3, 5, num_layers=2).stream(batch_size=0)(np.ones((0, 3), np.float32)).shape == (0, 5)


def test_bad_input():
    layer = nbrnn.LSTM(3, 5, rng=0)
    stream, single = layer.stream(2), layer.stream()
    x = np.ones((2, 3), np.float32)
    before = stream.state[0]
    for call, error, words in (
        (lambda: stream(x[0]), ValueError, r"x must have shape \(2, 3\), got \(3,\)"),
        (lambda: single(x), ValueError, r"x must have shape \(3,\), got \(2, 3\)"),
        (lambda: stream(x.astype(float)), TypeError, "x must be of dtype float32"),
        (lambda: stream(x, np.zeros((2, 4), np.float32)), ValueError, r"out must have shape \(2, 5\)"),
        (lambda: stream(np.zeros((2, 5), np.float32)[:, :3], None), None, None),
        (lambda: stream.reset([True]), ValueError, r"mask must have shape \(2,\)"),
        (lambda: stream.reset([1, 0]), TypeError, "mask must be booleans"),
        (lambda: single.reset([True]), ValueError, "mask must be None"),
        (lambda: setattr(stream, "state", x), ValueError, "state must be a pair"),
        (lambda: setattr(stream, "state", (x, x)), ValueError, r"state\[0\] \(h\) must have shape \(1, 2, 5\)"),
        (lambda: layer.stream(-1), ValueError, "batch_size must be >= 0"),
        (lambda: layer.stream(2.0), TypeError, "batch_size must be an integer"),
    ):
        if error is None:
            call()
            stream.reset()
            continue
        with pytest.raises(error, match=words):
            call()
        np.testing.assert_array_equal(stream.state[0], before)
    buffer = np.zeros((2, 8), np.float32)
    with pytest.raises(ValueError, match="out must not overlap x"):
        stream(buffer[:, :3], buffer[:, 2:7])
