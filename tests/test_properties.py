"""What must hold for any layer and any input: exactly, to the bit, where API promises bits."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nbrnn._cpu import unit
from nbrnn._engine import chain
from tests.cases import KINDS, Case, cases
from tests.tolerances import assert_close, error, tolerance

same = np.testing.assert_array_equal  # NaN equals NaN, and must stand in the same places

NOT_EMPTY = dict(T=st.integers(1, 9), B=st.integers(1, 9))


def everything(case, **changed):
    """All results of training, by name."""
    y, h, c, grads = case.train(**changed)
    dh, dc = case.split(grads.state)
    return {"y": y, "h": h, "c": c, "dx": case.ours(grads.x), "dh": dh, "dc": dc} | dict(grads.params)


def rows(results, b):
    """What belongs to sequences b of what ``everything`` gave, weights left out."""
    return {
        name: None if a is None else a[:, b] for name, a in results.items() if name in ("y", "h", "c", "dx", "dh", "dc")
    }


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        if a[name] is None:
            assert b[name] is None
        else:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@given(cases(bidirectional=False, ragged=False, **NOT_EMPTY), st.integers(0, 9))
def test_two_pieces_are_the_whole(case, at):
    at = min(at, case.T)
    whole = everything(case)
    first, second = slice(None, at), slice(at, None)
    cuts = case.resets if case.cut else np.zeros((case.T, case.B), bool)

    def piece(part, state):
        return case.layer.forward(
            case.user(case.x[part]), state, resets=case.user(cuts[part]), checkpoint=case.checkpoint
        )

    y1, state, tape1 = piece(first, case.state(case.h, case.c))
    y2, state, tape2 = piece(second, state)
    g2 = case.layer.backward(tape2, case.user(case.dy[second]), case.state(case.dh, case.dc))
    g1 = case.layer.backward(tape1, case.user(case.dy[first]), g2.state)
    same(np.concatenate([case.ours(y1), case.ours(y2)]), whole["y"])
    same(np.concatenate([case.ours(g1.x), case.ours(g2.x)]), whole["dx"])
    for got, names in ((state, ("h", "c")), (g1.state, ("dh", "dc"))):
        for a, name in zip(case.split(got), names, strict=True):
            if a is not None:
                same(a, whole[name])
    for name in g1.params:
        assert_close(g1.params[name] + g2.params[name], whole[name], case.dtype, case.T, name)


@given(cases(batched=True, ragged=True, **NOT_EMPTY), st.sampled_from([np.nan, np.inf, 1e30, -3.0]))
def test_padding_is_inert(case, garbage):
    clean = everything(case)
    inferred, state = case.layer(case.user(case.x), **case.arguments())
    outside = np.arange(case.T)[:, None] >= case.lengths
    case.x[outside], case.dy[outside] = garbage, garbage
    if case.cut:
        case.resets[outside] = True
    assert_same(everything(case), clean)
    again, state_again = case.layer(case.user(case.x), **case.arguments())
    same(again, inferred)
    same(case.split(state_again)[0], case.split(state)[0])
    for name in ("y", "dx"):
        assert not clean[name][outside].any(), name


@given(cases(batched=True, **NOT_EMPTY), st.randoms(use_true_random=False))
def test_order_and_company_change_no_bit(case, random):
    whole = everything(case)
    chosen = random.choices(range(case.B), k=random.randint(1, 2 * case.B))  # some twice, some not at all

    def pick(a, axis=1):
        return None if a is None else np.take(a, chosen, axis)

    case.x, case.dy, case.h, case.c = pick(case.x), pick(case.dy), pick(case.h), pick(case.c)
    case.dh, case.dc, case.resets = pick(case.dh), pick(case.dc), pick(case.resets)
    case.lengths = pick(case.lengths, 0)
    some = everything(case)
    assert_same(rows(some, slice(None)), rows(whole, chosen))


@given(cases(bidirectional=True, batched=True, ragged=False, cut=False, batch_first=False))
def test_reversed_time_swaps_directions(case):
    """Exactly for one layer; in a stack the upper layers' inputs change places, and with them rounding."""
    straight = everything(case)
    swapped = Case(**{f: getattr(case, f) for f in Case.__dataclass_fields__})
    for name, value in case.layer.params.items():
        other = name[: -len("_reverse")] if name.endswith("_reverse") else name + "_reverse"
        if "weight_ih" in name and "_l0" not in name:
            value = np.concatenate(np.split(value, 2, axis=1)[::-1], axis=1)
        swapped.layer.params[other] = value

    def swap(a):
        units = np.arange(len(a)).reshape(-1, 2)[:, ::-1].ravel()
        return a[units]

    def flip(a):
        return np.concatenate(np.split(a, 2, axis=2)[::-1], axis=2)[::-1]

    swapped.x, swapped.dy = case.x[::-1], flip(case.dy)
    swapped.h, swapped.c, swapped.dh, swapped.dc = map(swap, (case.h, case.c, case.dh, case.dc))
    mirrored = everything(swapped)
    for name, back in (("y", flip), ("dx", lambda a: a[::-1]), ("h", swap), ("dh", swap), ("c", swap), ("dc", swap)):
        if straight[name] is None:
            continue
        if case.L == 1 and name != "dx":  # dx is the sum of both directions: in the other order
            same(back(mirrored[name]), straight[name])
        else:
            assert_close(back(mirrored[name]), straight[name], case.dtype, case.T, name)


@given(cases(dtype="float64", **NOT_EMPTY))
def test_backward_is_linear(case):
    rng = np.random.default_rng(1)
    dys = [case.dy, rng.normal(size=case.dy.shape)]
    dhs, dcs = [case.dh, rng.normal(size=case.dh.shape)], [case.dc, rng.normal(size=case.dc.shape)]

    def back(dy, dh, dc):
        case.dy, case.dh, case.dc = dy, dh, dc
        return everything(case)

    a, b = back(dys[0], dhs[0], dcs[0]), back(dys[1], dhs[1], dcs[1])
    both = back(2 * dys[0] - dys[1], 2 * dhs[0] - dhs[1], 2 * dcs[0] - dcs[1])
    for name in both:
        if name not in ("y", "h", "c") and both[name] is not None:
            scale = max(np.abs(a[name]).max(), np.abs(b[name]).max(), 1e-300)
            assert np.abs(both[name] - (2 * a[name] - b[name])).max() <= 10 * tolerance("float64", case.T) * scale, name


@given(cases(L=1, **NOT_EMPTY))
def test_missing_gradients_are_zero(case):
    case.dy[:], case.dh[:], case.dc[:] = 0, 0, 0
    y, _, tape = case.layer.forward(case.user(case.x), **case.arguments())
    grads = case.layer.backward(tape, None, None)
    for a in (grads.x, grads.flat, *case.split(grads.state)):
        assert a is None or not a.any()
    zero = everything(case)
    assert not zero["dx"].any()


@given(cases(batched=True, ragged=True, cut=True, **NOT_EMPTY))
def test_each_sequence_and_each_cut_is_a_run_of_its_own(case):
    """Lengths and resets against runs of the stretches between them, forward and back, both directions: the same bits
    of y, dx and states; the gradients of the weights are the sums.
    """
    whole = everything(case)
    layer, D = case.layer, case.D
    total = {name: np.zeros(a.shape) for name, a in layer.params.items()}
    for b in range(case.B):
        length, one = int(case.lengths[b]), slice(b, b + 1)
        starts = sorted({0} | {t for t in range(length) if case.resets[t, b]})
        ends = [*starts[1:], length]
        after, before = case.h[:, b].copy(), case.dh[:, b].copy()
        for start, end in zip(starts, ends, strict=True):
            if start == end:
                continue
            # The initial state enters the first stretch forward and the last in reverse; the final one leaves the others.
            first, last = start == 0, end == length
            enters, leaves = (first and not case.resets[0, b], last), (last, first)
            h, c, dh, dc = (np.zeros_like(a[:, one]) for a in (case.h, case.c, case.dh, case.dc))
            for d in range(D):
                if enters[d]:
                    h[d::D], c[d::D] = case.h[d::D, one], case.c[d::D, one]
                if leaves[d]:
                    dh[d::D], dc[d::D] = case.dh[d::D, one], case.dc[d::D, one]
            y, state, tape = layer.forward(case.user(case.x[start:end, one]), (h, c) if case.has_c else h)
            grads = layer.backward(tape, case.user(case.dy[start:end, one]), (dh, dc) if case.has_c else dh)
            same(case.ours(y)[:, 0], whole["y"][start:end, b])
            same(case.ours(grads.x)[:, 0], whole["dx"][start:end, b])
            for name, a in grads.params.items():
                total[name] += a
            final, initial = ((s[0] if case.has_c else s)[:, 0] for s in (state, grads.state))
            for d in range(D):
                if leaves[d]:
                    after[d::D] = final[d::D]
                if first if d == 0 else last:
                    before[d::D] = initial[d::D] if enters[d] else 0
        same(after, whole["h"][:, b])
        same(before, whole["dh"][:, b])
    for name, a in total.items():
        assert_close(whole[name], a, case.dtype, case.T, name)


@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_rows_is_covered_by_tiles(kind):
    """Tiles are of 8, 6, 4, 3, 2 rows or one, and which of them follow each other depends on how many rows there are."""
    case = Case(kind, "float32", T=2, B=27, I=5, H=20, P=9, seed=3)
    y, _, _, grads = case.train(dstate=None)
    for B in range(1, 27):
        some = case.train(x=case.x[:, :B].copy(), dy=case.dy[:, :B].copy(), dstate=None)
        same(some[0], y[:, :B])
        same(some[3].x, grads.x[:, :B])


@given(cases(L=st.integers(2, 3), bidirectional=False, **NOT_EMPTY), st.integers(1, 4))
def test_stretches_of_inference_change_no_bit(case, steps):
    """A stack is run over a few steps at a time, layer by layer; how few doesn't matter."""
    y, state = case.layer(case.user(case.x), **case.arguments())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chain.Chain, "comfortable", lambda self, batch: steps)
        again, state_again = case.layer(case.user(case.x), **case.arguments())
    same(again, y)
    for a, b in zip(case.split(state_again), case.split(state), strict=True):
        same(a, b) if a is not None else None


@given(cases(checkpoint=None, **NOT_EMPTY), st.sampled_from([1, 2, 3, 7, 100, "sqrt"]))
def test_checkpointed_is_plain(case, every):
    plain, checkpointed = everything(case), everything(case, checkpoint=every)
    for name, a in plain.items():
        if name in ("y", "h", "c", "dx", "dh", "dc"):
            same(checkpointed[name], a) if a is not None else None
        else:
            assert_close(checkpointed[name], a, case.dtype, case.T, name)


@given(
    cases(L=st.integers(2, 3), dropout=st.sampled_from([0.3, 0.9]), checkpoint=None, **NOT_EMPTY),
    st.sampled_from([1, 2, "sqrt"]),
)
def test_checkpointed_dropout_is_plain(case, every):
    plain, checkpointed = everything(case, rng=3), everything(case, rng=3, checkpoint=every)
    for name in ("y", "dx", "dh"):
        same(checkpointed[name], plain[name])


def strided(draw, a):
    """The same numbers in another layout: reordered axes, gaps, negative strides, unaligned, read-only."""
    way = draw(st.sampled_from(["plain", "fortran", "gaps", "negative", "unaligned", "transposed"]))
    if way == "fortran":
        a = np.asfortranarray(a)
    elif way == "gaps":
        room = np.full([2 * n + 1 for n in a.shape], np.nan, a.dtype)
        view = room[tuple(slice(1, 2 * n + 1, 2) for n in a.shape)]
        view[...] = a
        a = view
    elif way == "negative":
        a = a[tuple([slice(None, None, -1)] * a.ndim)].copy()[tuple([slice(None, None, -1)] * a.ndim)]
    elif way == "unaligned":
        raw = bytearray(a.nbytes + 1)
        view = np.frombuffer(raw, np.uint8)[1:].view(a.dtype).reshape(a.shape)
        view[...] = a
        a = view
    elif way == "transposed" and a.ndim == 3:
        a = np.ascontiguousarray(a.transpose(1, 2, 0)).transpose(2, 0, 1)
    if draw(st.booleans()):
        a = a.view()
        a.flags.writeable = False
    return a


@given(st.data(), cases())
def test_layout_of_arrays_changes_no_bit(data, case):
    clean = everything(case)
    x, dy = strided(data.draw, case.user(case.x)), strided(data.draw, case.user(case.dy))
    for name in ("h", "c", "dh", "dc"):
        setattr(case, name, strided(data.draw, getattr(case, name)))
    case.stateful = True
    if case.cut:
        case.resets = strided(data.draw, case.resets) if case.batched else case.resets
    assert_same(everything(case, x=x, dy=dy), clean)


@given(st.data(), cases())
def test_out_receives_the_result(data, case):
    y, state = case.layer(case.user(case.x), **case.arguments())
    out = strided(data.draw, np.full_like(y, 7))
    assume(out.flags.writeable)
    given_back, state_again = case.layer(case.user(case.x), out=out, **case.arguments())
    assert given_back is out
    same(out, y)
    same(case.split(state_again)[0], case.split(state)[0])


def test_rows_that_are_not_aligned_are_copied_to_where_they_are():
    raw = np.zeros(4 * 24 + 1, np.uint8)
    x = raw[1:].view(np.float32).reshape(4, 2, 3)
    assert not x.flags.aligned
    assert unit.readable(x).flags.aligned
    assert unit.writeable(x).flags.aligned


@given(cases())
def test_inference_agrees_with_training(case):
    y, h, c, _ = case.train()
    got, state = case.layer(case.user(case.x), **case.arguments())
    got_h, got_c = case.split(state)
    for a, b in ((case.ours(got), y), (got_h, h), (got_c, c)):
        if b is not None:
            assert_close(a, b, case.dtype, case.T, "inference")


@given(cases(stateful=True))
def test_nothing_is_aliased_and_nothing_given_is_changed(case):
    given_arrays = [case.x, case.dy, case.h, case.c, case.dh, case.dc, np.asarray(case.layer.flat)]
    before = [a.copy() for a in given_arrays]
    y, state, tape = case.layer.forward(case.user(case.x), **case.arguments())
    grads = case.layer.backward(tape, case.user(case.dy), case.state(case.dh, case.dc))
    made = [y, *(a for a in case.split(state) if a is not None), grads.x, grads.flat]
    made += [a for a in case.split(grads.state) if a is not None]
    for a, b in zip(given_arrays, before, strict=True):
        same(a, b)
    for i, a in enumerate(made):
        for b in given_arrays + made[:i]:
            assert not np.shares_memory(a, b)


@given(cases(), st.booleans())
def test_retained_tape_gives_the_same_again(case, first_retain):
    _, _, tape = case.layer.forward(case.user(case.x), **case.arguments())
    dstate = case.state(case.dh, case.dc)
    a = case.layer.backward(tape, case.user(case.dy), dstate, retain=True)
    b = case.layer.backward(tape, case.user(case.dy), dstate, retain=first_retain)
    same(a.flat, b.flat)
    same(a.x, b.x)
    if not first_retain:
        with pytest.raises(RuntimeError, match="used"):
            case.layer.backward(tape, case.user(case.dy))


@pytest.mark.parametrize("T, B", [(0, 3), (4, 0), (0, 0)])
@pytest.mark.parametrize("ragged", [False, True])
def test_empty(T, B, ragged):
    for kind in ("tanh", "GRU", "LSTM", "projected"):
        case = Case(kind, T=T, B=B, L=2, bidirectional=True, stateful=True, ragged=ragged, checkpoint="sqrt")
        results = everything(case)
        assert results["y"].shape == (T, B, 2 * case.K)
        same(results["h"], case.h)
        same(results["dh"], case.dh)
        assert not any(results[name].any() for name in case.layer.params)
        y, state = case.layer(case.x, **case.arguments())
        assert y.shape == (T, B, 2 * case.K)


def test_length_zero_passes_states_through():
    for kind in ("tanh", "relu", "GRU", "LSTM", "projected"):
        case = Case(kind, B=4, L=2, bidirectional=True, stateful=True, ragged=True)
        case.lengths = np.array([0, 5, 0, 3])
        results = everything(case)
        for name, given_array in (("h", case.h), ("dh", case.dh), ("c", case.c), ("dc", case.dc)):
            if results[name] is not None:
                same(results[name][:, [0, 2]], given_array[:, [0, 2]])
        assert not results["y"][:, [0, 2]].any()


@given(cases(bidirectional=False, **NOT_EMPTY))
def test_error_measure_sees_nan(case):
    """The yardstick of these tests: a NaN must fail."""
    a = case.x.copy()
    a[0, 0, 0] = np.nan
    assert not error(a, case.x) <= 1e10
