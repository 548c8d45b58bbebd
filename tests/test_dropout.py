"""Philox: known answers, and the place as the counter; recurrent dropout as weights with columns of their own."""

import copy
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nbrnn
from nbrnn._cpu import dropout as module
from nbrnn._cpu.unit import dropout
from nbrnn._passes import drops_of
from tests.cases import DTYPES, KINDS, Case, cases
from tests.processes import run
from tests.reference import philox as reference
from tests.tolerances import assert_close

same = np.testing.assert_array_equal

#: From the known-answer tests of Random123: counter, key, words.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize("counter, key, words", KNOWN)
def test_known_answers(counter, key, words):
    assert reference.philox(counter, key) == words
    assert tuple(map(int, module.philox(*map(np.uint64, counter + key)))) == words


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bits_depend_on_the_place_alone(directions, dtype):
    key, p, layer, t0 = (123456789, 987654321), 0.3, 2, 5
    x = np.random.default_rng(0).normal(size=(4, 3, 6 * directions)).astype(dtype)
    y = dropout(x, p, key, module.BETWEEN_LAYERS, layer, directions, t0)
    for t, b, n in np.ndindex(x.shape):
        d, unit = divmod(n, 6)
        keep = reference.kept(key, 0, layer, d, t0 + t, b, unit, p)
        assert y[t, b, n] == (x[t, b, n] * dtype(1 / (1 - p)) if keep else 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("p", [0.3, 1.0, 2.0**-31])
def test_many_at_once_are_the_same(dtype, p):
    """Rows of every length around those that are dropped together, at once or (with steps between numbers) one by one."""
    key, longest = (3, 2**32 - 1), 2 * module.AT_ONCE + 5
    x = np.random.default_rng(1).normal(size=(2, 2, longest)).astype(dtype)
    x[0, 1, 7::11] = np.nan  # what is dropped is 0, whatever it was
    spread = np.zeros((2, 2, 3 * longest), dtype)
    spread[:, :, ::3] = x
    keep = np.array(
        [[[reference.kept(key, 1, 4, 0, 9 + t, b, u, p) for u in range(longest)] for b in range(2)] for t in range(2)]
    )
    wanted = np.where(keep, x * dtype(0 if p == 1 else 1 / (1 - p)), 0).astype(dtype)
    for n in range(longest + 1):
        for a in (x[:, :, :n], spread[:, :, : 3 * n : 3]):
            found = dropout(a, p, key, module.MODULE, 4, 1, 9)
            same(found, wanted[:, :, :n])
            assert not np.signbit(found[~keep[:, :, :n]]).any()


@pytest.mark.skipif(sys.platform == "win32", reason="needs mprotect")
def test_no_number_past_the_end_is_read_or_written():
    """Rows that end at a page which can't be touched."""
    run("""
import numpy as np
from nbrnn._cpu import unit
from tests.guard import Arena
rooms = Arena(1), Arena(1)
for n in (1, 31, 32, 33, 64, 70):
    x, y = (room.array((1, 1, n), np.float32, True) for room in rooms)
    x[...] = 1
    unit._drop(x, y, 0.5, (1, 2), 1, 0, 0, 0)
    assert set(np.unique(y)) <= {0, 2}
""")


def test_forward_draws_one_key():
    layer, x = nbrnn.GRU(3, 5, 3, dropout=0.5), np.ones((4, 2, 3), np.float32)
    rng, twin = np.random.default_rng(0), np.random.default_rng(0)
    layer.forward(x, rng=rng)
    twin.integers(0, 2**32, 2)
    assert rng.bit_generator.state == twin.bit_generator.state


def test_forward_drops_and_a_call_does_not():
    layer, x = nbrnn.GRU(3, 50, 2, dropout=0.5, rng=0), np.ones((4, 2, 3), np.float32)
    a, b, inferred = layer.forward(x)[0], layer.forward(x)[0], layer(x)[0]
    assert (a != b).any()
    assert (a != inferred).any()
    np.testing.assert_array_equal(layer.forward(x, rng=5)[0], layer.forward(x, rng=5)[0])
    np.testing.assert_array_equal(inferred, layer(x)[0])


def recurrent_cases(**fixed):
    """With recurrent dropout."""
    some = dict(T=st.integers(1, 7), B=st.integers(1, 6), recurrent_dropout=st.sampled_from([0.1, 0.5, 0.9]))
    return cases(**(some | fixed))


def results(case, **changed):
    """y, states and gradients of x and states: what is promised to the bit; and the gradients of the weights."""
    y, h, c, grads = case.train(**({"rng": case.seed} | changed))
    dh, dc = case.split(grads.state)
    return [a for a in (y, h, c, case.ours(grads.x), dh, dc) if a is not None], grads.flat


def key_of(seed):
    return tuple(map(int, np.random.default_rng(seed).integers(0, 2**32, 2)))


def mask(case, layer, direction, b):
    """What h of a sequence is multiplied by."""
    p = case.recurrent_dropout
    kept = [reference.kept(key_of(case.seed), 2, layer, direction, 0, b, u, p) for u in range(case.K)]
    return np.array(kept) * (1 / (1 - p))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_masks_depend_on_the_place_alone(dtype, bidirectional):
    case = Case("projected", dtype, B=5, H=9, P=6, L=2, bidirectional=bidirectional, recurrent_dropout=0.3)
    for n, unit in enumerate(case.layer._stack().units):
        layer, direction = divmod(n, case.D)
        got = unit.masks(case.B, 0.3, key_of(case.seed), layer, direction)[0, :, : case.K]
        wanted = np.array([mask(case, layer, direction, b) for b in range(case.B)]).astype(dtype)
        assert 0 < (wanted == 0).mean() < 1
        same(got, wanted)


@given(recurrent_cases(dropout=0.0, checkpoint=None))
def test_dropped_numbers_are_columns_of_zeros(case):
    """W_hh (m * h) = (W_hh diag(m)) h: each sequence alone, without dropout, in a layer with weights of its own."""
    y, h, c, grads = case.train(rng=case.seed)
    dx, (dh, dc) = case.ours(grads.x), case.split(grads.state)
    total = {name: np.zeros(a.shape) for name, a in grads.params.items()}
    for b in range(case.B):
        alone = Case(**{f: getattr(case, f) for f in Case.__dataclass_fields__} | {"recurrent_dropout": 0.0})
        masks = {}
        for n, name in enumerate(case.layer._suffixes()):
            masks["weight_hh" + name] = mask(case, *divmod(n, case.D), b)
        for name, a in case.layer.params.items():
            alone.layer.params[name] = a * masks.get(name, 1.0)
        for name in ("x", "dy", "h", "c", "dh", "dc", "resets"):
            a = getattr(case, name)
            setattr(alone, name, None if a is None else a[:, b : b + 1])
        alone.lengths = None if case.lengths is None else case.lengths[b : b + 1]
        one_y, one_h, one_c, one = alone.train()
        one_dh, one_dc = case.split(one.state)
        for whole, part in ((y, one_y), (h, one_h), (c, one_c), (dx, case.ours(one.x)), (dh, one_dh), (dc, one_dc)):
            if whole is not None:
                assert_close(whole[:, b : b + 1], part, case.dtype, 10 * case.T, "a sequence")
        for name, a in one.params.items():
            total[name] += a * masks.get(name, 1.0)
    for name, a in total.items():
        assert_close(grads.params[name], a, case.dtype, 10 * case.T, name)


@given(cases(recurrent_dropout=1.0, T=st.integers(1, 6), B=st.integers(1, 5)))
def test_with_all_dropped_the_recurrent_weights_are_not_used(case):
    got, flat = results(case)
    for name, a in case.layer.params.items():
        if name.startswith("weight_hh"):
            case.layer.params[name] = np.full(a.shape, 3.0)
    again, flat_again = results(case)
    for a, b in zip(got, again, strict=True):
        same(a, b)
    same(flat, flat_again)
    for name, a in case.layer._parameters.views_of(flat).items():
        if name.startswith("weight_hh"):
            assert not a.any()


@given(recurrent_cases(dropout=st.sampled_from([0.0, 0.5])))
def test_inference_never_drops(case):
    plain = Case(**{f: getattr(case, f) for f in Case.__dataclass_fields__} | {"recurrent_dropout": 0.0})
    same(case.layer(case.user(case.x), **case.arguments())[0], plain.layer(case.user(case.x), **case.arguments())[0])
    if not case.bidirectional:
        streams = case.layer.stream(case.B), plain.layer.stream(case.B)
        for row in case.x:
            same(*(stream(row) for stream in streams))


@given(recurrent_cases(bidirectional=False, ragged=False, dropout=0.0), st.integers(0, 9))
def test_a_mask_is_the_same_at_all_times(case, at):
    """So with one key two pieces are the whole."""
    at, layer = min(at, case.T), case.layer
    whole, flat = results(case)
    cuts = case.resets if case.cut else np.zeros((case.T, case.B), bool)

    def piece(part, state):
        return layer.forward(
            case.user(case.x[part]), state, resets=case.user(cuts[part]), checkpoint=case.checkpoint, rng=case.seed
        )

    y1, state, tape1 = piece(slice(None, at), case.state(case.h, case.c))
    y2, state, tape2 = piece(slice(at, None), state)
    g2 = layer.backward(tape2, case.user(case.dy[at:]), case.state(case.dh, case.dc))
    g1 = layer.backward(tape1, case.user(case.dy[:at]), g2.state)
    got = [np.concatenate([case.ours(y1), case.ours(y2)]), *case.split(state)]
    got += [np.concatenate([case.ours(g1.x), case.ours(g2.x)]), *case.split(g1.state)]
    for a, b in zip([a for a in got if a is not None], whole, strict=True):
        same(a, b)
    assert_close(g1.flat + g2.flat, flat, case.dtype, case.T, "weights")


@given(recurrent_cases(batched=True, dropout=st.sampled_from([0.0, 0.5])), st.integers(1, 6))
def test_sequences_that_follow_change_no_bit(case, first):
    """A mask goes by the place in the batch, whatever comes after it and however the lengths order it."""
    whole, _ = results(case)
    for name in ("x", "dy", "h", "c", "dh", "dc", "resets"):
        a = getattr(case, name)
        setattr(case, name, None if a is None else a[:, :first])
    case.lengths = None if case.lengths is None else case.lengths[:first]
    for a, b in zip(results(case)[0], whole, strict=True):
        same(a, b[:, :first])


@given(recurrent_cases(checkpoint=None, dropout=st.sampled_from([0.0, 0.5])), st.sampled_from([1, 2, 3, "sqrt"]))
def test_checkpoints_and_retained_tapes_change_no_bit(case, every):
    plain, flat = results(case)
    again, flat_again = results(case, checkpoint=every)
    for a, b in zip(again, plain, strict=True):
        same(a, b)
    assert_close(flat_again, flat, case.dtype, case.T, "weights")
    for checkpoint in (None, every):
        _, _, tape = case.layer.forward(case.user(case.x), rng=case.seed, checkpoint=checkpoint, **case.arguments())
        dstate = case.state(case.dh, case.dc)
        for retain in (True, False):
            grads = case.layer.backward(tape, case.user(case.dy), dstate, retain=retain)
            same(case.ours(grads.x), plain[3 if case.has_c else 2])
            same(grads.flat, flat if checkpoint is None else flat_again)


@pytest.mark.parametrize("kind", KINDS)
def test_one_key_serves_both(kind):
    """Kinds differ: what passes between layers is dropped as without recurrent dropout."""
    case = Case(kind, L=2, dropout=0.5, recurrent_dropout=0.5)
    rng, twin = np.random.default_rng(3), np.random.default_rng(3)
    case.layer.forward(case.x, rng=rng)
    twin.integers(0, 2**32, 2)
    assert rng.bit_generator.state == twin.bit_generator.state
    drops = drops_of(case.layer, np.random.default_rng(3))
    assert drops[0].key == drops[1].key == key_of(3)


def test_forward_drops_what_is_recurrent():
    layer, x = nbrnn.GRU(3, 50, recurrent_dropout=0.5, rng=0), np.ones((4, 2, 3), np.float32)
    twin = copy.deepcopy(layer)
    a, b, inferred = layer.forward(x)[0], layer.forward(x)[0], layer(x)[0]
    np.testing.assert_allclose(a[0], inferred[0], rtol=1e-6)  # nothing to drop of an initial state of zeros
    assert (a[1:] != b[1:]).any()
    assert (a[1:] != inferred[1:]).any()
    same(twin.forward(x)[0], a)
    same(layer.forward(x, rng=5)[0], layer.forward(x, rng=5)[0])


@pytest.mark.parametrize("T, B", [(0, 3), (4, 0), (0, 0)])
def test_nothing_to_drop(T, B):
    for kind in KINDS:
        case = Case(kind, T=T, B=B, L=2, bidirectional=True, stateful=True, recurrent_dropout=0.5)
        y, h, _, grads = case.train()
        assert y.shape == (T, B, 2 * case.K)
        same(h, case.h)
        assert not grads.flat.any()
