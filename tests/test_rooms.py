"""Memory that a layer keeps between calls: what is given back is used again, never by two at once, and not for ever."""

import concurrent.futures
import copy
import dataclasses
import gc
import pickle
import threading

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nbrnn
from nbrnn import _memory, _small
from nbrnn._cpu import isa
from nbrnn._engine import rooms
from nbrnn._engine.rooms import Rooms
from tests.cases import KINDS, Case, cases, examples

X = np.random.default_rng(0).normal(size=(6, 3, 4)).astype(np.float32)


def test_what_is_taken_nobody_else_has():
    kept = Rooms()
    first = kept.take("key", object)
    second = kept.take("key", object)
    assert first is not second
    kept.give("key", first, 10)
    assert kept.take("key", object) is first
    assert kept.take("key", object) is not first


def test_what_is_too_much_is_forgotten_the_oldest_first(monkeypatch):
    monkeypatch.setattr(rooms, "BESIDE", 100)
    monkeypatch.setattr(rooms, "LARGEST", 1000)
    kept, made = Rooms(), [object() for _ in range(4)]
    kept.give("large", made[0], 1001)
    assert kept.take("large", lambda: None) is None
    for name, room in zip("abc", made[1:], strict=True):
        kept.give(name, room, 60)
    assert kept.take("a", lambda: None) is None
    assert kept.take("b", lambda: None) is made[2]
    assert kept.take("c", lambda: None) is made[3]


def test_a_tape_keeps_its_memory_until_nothing_refers_to_it():
    """Two tapes alive at once, of equal shape, and a third after one is gone: none disturbs another."""
    layer = nbrnn.LSTM(4, 5, rng=0)
    dy = np.ones((6, 3, 5), np.float32)
    wanted = [layer.backward(layer.forward(q * X)[2], dy).flat for q in (1, 2, 3)]
    first, second = (layer.forward(q * X)[2] for q in (1, 2))
    got_first = layer.backward(first, dy).flat
    third = layer.forward(3 * X)[2]  # in the memory of the first
    layer(X)
    np.testing.assert_array_equal(layer.backward(second, dy, retain=True).flat, wanted[1])
    np.testing.assert_array_equal(layer.backward(third, dy).flat, wanted[2])
    np.testing.assert_array_equal(layer.backward(second, dy).flat, wanted[1])
    np.testing.assert_array_equal(got_first, wanted[0])


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("small", [True, False])
def test_the_memory_of_a_tape_is_used_again_whatever_becomes_of_the_weights(layers, small):
    layer = nbrnn.GRU(4, 5, layers, rng=0)

    def saved():
        _, _, tape = layer.forward(X if small else np.asfortranarray(X))
        record = tape.record
        assert isinstance(record, _small.Record) == small
        if small:
            kept = record._ready.backs[0].saved
        else:
            kept = record._saved if layers == 1 else record.stretches[0][0][0].kept.saved[0]
        at = kept.ctypes.data
        layer.backward(tape, np.ones((6, 3, 5), np.float32))
        return at

    first = saved()
    layer.flat = 2 * layer.flat
    gc.collect()
    assert saved() == first


@pytest.mark.parametrize("kind", KINDS)
def test_nan_of_one_call_does_not_reach_the_next(kind):
    case = Case(kind, "float32", T=4, B=3, I=5, H=33, P=3, L=2, ragged=True, stateful=True, seed=1)

    def made():
        y, h, _, grads = case.train()
        return y, h, grads.x, grads.flat

    wanted = made()
    case.layer(np.full_like(case.x, np.nan))
    case.train(x=np.full_like(case.x, np.nan), dy=np.full_like(case.dy, np.nan))
    for a, b in zip(made(), wanted, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_small_call_is_as_any_other():
    """What is made ready for a shape serves it again, whatever comes in between; other ways give the same bits."""
    for layer in (
        nbrnn.LSTM(4, 5, rng=0),
        nbrnn.GRU(4, 5, batch_first=True, rng=0),
        nbrnn.RNN(4, 5, rng=0),
        nbrnn.LSTM(4, 5, 2, rng=0),
        nbrnn.GRU(4, 5, 2, bidirectional=True, rng=0),
    ):
        for x in (X, X[:, 0], X[:1], X[:0], X[:, :0]):
            y, state = layer(x)
            more = layer(x, state)
            for _ in range(3):
                layer(np.full_like(x, np.nan))
                got = layer(x, state)
                out = np.empty_like(y)
                layer(np.asfortranarray(x), state, out=out)
                np.testing.assert_array_equal(got[0], more[0])
                np.testing.assert_array_equal(out, more[0])
                np.testing.assert_array_equal(np.stack(got[1]), np.stack(more[1]))
                assert got[0].shape == y.shape
        before = layer(X)[0]
        layer.flat = 2 * layer.flat
        assert not np.array_equal(layer(X)[0], before)
        out = np.empty_like(before)
        np.testing.assert_array_equal(layer(X)[0], layer(X, out=out)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_small_training_step_is_as_any_other(kind):
    """Made ready for a shape, it serves it again; the general way gives the same bits."""
    for batch_first in (False, True):
        case = Case(kind, "float32", T=5, B=4, I=7, H=9, P=4, batch_first=batch_first, stateful=True, seed=2)
        layer = case.layer
        for q, x in enumerate((case.x, case.x[:1], case.x[:, :1], case.x)):
            x, dy = np.ascontiguousarray(case.user(x)), np.ones((*case.user(x).shape[:2], case.K), np.float32)
            size = x.shape[0 if batch_first else 1]
            given, back = (
                case.state(case.h[:, :size], case.c[:, :size]),
                case.state(case.dh[:, :size], case.dc[:, :size]),
            )
            results = []
            for own in (x, x, np.full_like(x, np.nan), x, np.asfortranarray(x)):
                y, after, tape = layer.forward(own, given)
                if own is x:
                    assert isinstance(tape.record, _small.Record)
                grads = layer.backward(tape, dy, back, retain=q % 2 == 0)
                if q % 2 == 0:
                    again = layer.backward(tape, dy, back)
                    np.testing.assert_array_equal(grads.flat, again.flat)
                    np.testing.assert_array_equal(grads.x, again.x)
                before = grads.state if isinstance(grads.state, tuple) else (grads.state,)
                if not np.isnan(own).any():
                    after = after if isinstance(after, tuple) else (after,)
                    results.append([y, *after, grads.x, grads.flat, *before])
            for more in results[1:]:
                for a, b in zip(more, results[0], strict=True):
                    np.testing.assert_array_equal(a, b)
        none = layer.backward(layer.forward(x, given)[2])
        assert not none.flat.any()
        assert not none.x.any()


def test_small_training_steps_alive_at_once():
    """Each tape has memory of its own, also on several threads; what is left is kept for a few shapes only."""
    layer, dy = nbrnn.LSTM(4, 5, rng=0), np.ones((6, 3, 5), np.float32)
    tapes = [layer.forward(q * X)[2] for q in range(4)]
    got = [layer.backward(tape, dy).flat for tape in tapes[::-1]][::-1]
    for q, flat in enumerate(got):
        np.testing.assert_array_equal(flat, layer.backward(layer.forward(q * X)[2], dy).flat)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for q, flat in pool.map(lambda q: (q, layer.backward(layer.forward(q % 4 * X)[2], dy).flat), range(200)):
            np.testing.assert_array_equal(flat, got[q % 4])
    del tapes
    kept = layer._stack().parts[0][0].ready_to_train
    for size in range(1, 3 * _small.MOST):
        layer.forward(np.zeros((1, size, 4), np.float32))
        assert len(kept) <= _small.MOST
    assert len(kept) >= _small.MOST - 1


@given(cases(T=st.integers(1, 9), B=st.integers(1, 9), checkpoint=None))
@examples(2)
def test_the_short_way_and_the_long_one_give_the_same_bits(case):
    """Of all that a layer can be: several layers, two directions, lengths, cuts."""
    other = dataclasses.replace(case, strided=not case.strided)
    results = []
    for one in (case, other, case):
        x, arguments = one.user(one.x), one.arguments()
        if not one.strided:
            x = np.ascontiguousarray(x)
        y, state = one.layer(x, **arguments)
        _, _, tape = one.layer.forward(x, **arguments)
        if not x.flags.c_contiguous:  # the others may be too large
            assert not isinstance(tape.record, _small.Record)
        dstate = one.state(one.dh, one.dc)
        kept = one.layer.backward(tape, one.user(one.dy), dstate, retain=True)
        grads = one.layer.backward(tape, one.user(one.dy), dstate)
        one.layer(np.full_like(x, np.nan), **arguments)
        none = one.layer.backward(one.layer.forward(x, **arguments)[2])
        assert not none.flat.any()
        assert not none.x.any()
        made = [
            y,
            *one.split(state),
            *one.train(x)[:3],
            *one.split(grads.state),
            grads.x,
            grads.flat,
            kept.x,
            kept.flat,
        ]
        results.append([a for a in made if a is not None])
    for more in results[1:]:
        for a, b in zip(more, results[0], strict=True):
            np.testing.assert_array_equal(a, b)


def test_what_is_not_small_goes_the_general_way():
    for layer, x in (
        (nbrnn.LSTM(4, 5, recurrent_dropout=0.1), X),
        (nbrnn.LSTM(4, 5, 2, dropout=0.1), X),
        (nbrnn.RNN(200, 400), np.zeros((1, 1, 200), np.float32)),
        (nbrnn.GRU(4, 64), np.zeros((500, 2, 4), np.float32)),
        (nbrnn.GRU(4, 64, 2, bidirectional=True), np.zeros((200, 1, 4), np.float32)),
    ):
        assert not isinstance(layer.forward(x)[2].record, _small.Record)
    assert isinstance(nbrnn.LSTM(4, 5, dropout=0.1).forward(X)[2].record, _small.Record)
    net = nbrnn.LSTM(4, 5, 2, bidirectional=True)
    assert isinstance(net.forward(X, lengths=[6, 2, 1], resets=np.ones((6, 3), bool))[2].record, _small.Record)
    assert not isinstance(nbrnn.LSTM(4, 5).forward(X, checkpoint=2)[2].record, _small.Record)


def test_calls_are_kept_ready_for_a_few_numbers_of_sequences_only():
    layer = nbrnn.RNN(4, 5, rng=0)
    form = layer._stack().parts[0][0]
    for _ in range(2):  # those not used for longest make room
        for size in range(1, 3 * _small.MOST):
            x = np.ones((1, size, 4), np.float32)
            np.testing.assert_array_equal(layer(x)[0], layer(np.asfortranarray(x))[0])
            assert len(form.ready) <= _small.MOST
    layer(x)
    layer(x)
    assert size in form.ready
    for steps in range(1, 2 * _small.MOST_SHAPES):
        layer(np.ones((steps, 4), np.float32))
        assert len(form.shapes) <= _small.MOST_SHAPES
    for wrong in (np.ones((3, 1, 5), np.float32), np.ones(4, np.float32)):
        with pytest.raises(ValueError, match="x must have shape"):
            layer(wrong)


def test_what_is_ready_serves_fewer_steps():
    """And more steps get more memory."""
    layer, x = nbrnn.LSTM(4, 5, 2, bidirectional=True, rng=0), np.ones((40, 3, 4), np.float32)
    form = layer._stack().parts[0][0]
    dy = np.ones((40, 3, 10), np.float32)
    for steps, least in (5, 5), (3, 5), (17, 17), (16, 17), (40, 40), (1, 40):
        y, _ = layer(x[:steps])
        np.testing.assert_array_equal(y, layer(np.asfortranarray(x[:steps]))[0])
        flats = [
            layer.backward(layer.forward(a)[2], dy[:steps]).flat for a in (x[:steps], np.asfortranarray(x[:steps]))
        ]
        np.testing.assert_array_equal(*flats)
        for kept in (form.ready, form.ready_to_train):
            assert kept[3].steps >= least


@pytest.mark.parametrize("batch_first", [False, True])
def test_calls_with_out_are_kept_ready_too(batch_first):
    layer, x = nbrnn.LSTM(4, 5, batch_first=batch_first, rng=0), X.swapaxes(0, 1).copy() if batch_first else X
    kept = layer._stack().parts[0][0].ready
    y, (h, c) = layer(x)
    out, state = np.full_like(y, np.nan), (h.copy(), c.copy())
    ready = kept[3]
    got, after = layer(x, out=out)
    assert got is out
    assert kept[3] is ready
    for a, b in zip((got, *after), (y, h, c), strict=True):
        np.testing.assert_array_equal(a, b)
    turned = np.asfortranarray(np.full_like(y, np.nan))  # which goes the general way
    assert layer(x, out=turned)[0] is turned
    np.testing.assert_array_equal(turned, y)
    for wrong, message in ((x[..., :4], "shape"), (y[:1], "shape"), (np.broadcast_to(y[:1], y.shape), "writeable")):
        with pytest.raises(ValueError, match=message):
            layer(x, out=wrong)
    with pytest.raises(TypeError, match="out must"):
        layer(x, out=y.astype("d"))
    room = np.zeros(y.size + x.size + h.size, np.float32)
    for arguments, name in (
        ((room[: x.size].reshape(x.shape), state), "x"),
        ((x, (room[: h.size].reshape(h.shape), c)), "state"),
    ):
        with pytest.raises(ValueError, match=f"out must not overlap {name}"):
            layer(*arguments, out=room[: y.size].reshape(y.shape))


def test_long_calls_that_nobody_would_share_are_kept_ready():
    """The same results as of the general way; what several threads would share, and long calls, go that way."""
    with isa.use("256"):  # the model says which are: it depends on the vectors
        look_at_long_calls()


def look_at_long_calls():
    layer, rng = nbrnn.LSTM(4, 32, rng=0), np.random.default_rng(0)
    kept = layer._stack().parts[0][0].ready
    before = numba.get_num_threads()
    try:
        for threads in range(1, min(2, numba.config.NUMBA_NUM_THREADS) + 1):
            numba.set_num_threads(threads)
            x = rng.normal(size=(2000, 1, 4)).astype("f")
            y, (h, c) = layer(x)
            assert 1 in kept
            y_too, (h_too, c_too) = layer(np.asfortranarray(x))
            for a, b in ((y, y_too), (h, h_too), (c, c_too)):
                np.testing.assert_array_equal(a, b)
            wide = np.zeros((30, 64, 4), np.float32)
            layer(wide)
            assert (64 in kept) == (threads == 1)
            kept.clear()
            for options, together in ({"num_layers": 2}, False), ({"bidirectional": True}, True):
                other = nbrnn.LSTM(4, 32, **options, rng=0)
                y, (h, c) = other(x[:1000])
                assert (1 in other._stack().parts[0][0].ready) == (threads == 1 or not together)
                y_too, (h_too, c_too) = other(np.asfortranarray(x[:1000]))
                for a, b in ((y, y_too), (h, h_too), (c, c_too)):
                    np.testing.assert_array_equal(a, b)
    finally:
        numba.set_num_threads(before)
    layer(np.zeros((100_000, 1, 4), np.float32))
    assert not kept


def test_copies_begin_with_nothing():
    layer = nbrnn.RNN(4, 5, rng=0)
    layer(X)
    for twin in (copy.copy(layer), copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert twin._rooms is not layer._rooms
        assert not twin._rooms._spare
        np.testing.assert_array_equal(twin(X)[0], layer(X)[0])


def test_threads_share_a_layers_memory_safely():
    layer = nbrnn.LSTM(4, 20, rng=0)
    inputs = [q * X for q in range(1, 7)]
    dy = np.ones((6, 3, 20), np.float32)
    wanted = [(layer(x)[0], layer.backward(layer.forward(x)[2], dy).flat) for x in inputs]
    wrong = []

    def work(x, y, flat):
        for _ in range(40):
            if not np.array_equal(layer(x)[0], y) or not np.array_equal(
                layer.backward(layer.forward(x)[2], dy).flat, flat
            ):
                wrong.append(x)

    threads = [threading.Thread(target=work, args=(x, *w)) for x, w in zip(inputs, wanted, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_results_are_made_in_memory_of_earlier_ones():
    size = (300, 1000)

    def place(a):
        return a.__array_interface__["data"][0]

    first = _memory.fresh(size, np.float32)
    at = place(first)
    assert at % _memory.ALIGNMENT == 0
    assert first.flags.c_contiguous
    assert first.flags.writeable
    part = first[10:20, ::2]
    del first
    other = _memory.fresh(size, np.float32)
    assert place(other) != at  # of which there is a view
    del part
    again = _memory.fresh((1000, 300), np.float32)
    assert place(again) == at
    assert again.shape == (1000, 300)
    again.flags.writeable = False
    view = again.view()
    with pytest.raises(ValueError, match="WRITEABLE"):
        view.flags.writeable = True


def test_memory_of_results_is_not_kept_for_ever():
    def kept():
        return sum(room.size for rooms in _memory._spare.values() for room in rooms)

    made = [_memory.fresh((n, 2**18), np.float32) for n in range(1, 16)]
    assert sum(a.nbytes for a in made) > _memory.KEPT
    del made
    assert 0 < kept() <= _memory.KEPT
    assert _memory.fresh((2**24 + 1,), np.float32).base is None
    assert _memory.fresh((10,), np.float32).base is None


def test_threads_do_not_share_the_memory_of_results():
    wrong = []

    def go(n):
        for _ in range(300):
            a = _memory.fresh((2**15 + n % 2,), np.float64)
            a.fill(n)
            if (a != n).any():
                wrong.append(n)

    threads = [threading.Thread(target=go, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
