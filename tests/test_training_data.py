"""What fit goes through: sequences put together by length, stretches of time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nbrnn
from nbrnn.training.data import GROUP, Batch, source, stretches

mse = nbrnn.losses.mse


def ragged(n, seed=0, features=2, longest=9, shortest=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(shortest, longest + 1, n)
    return [rng.standard_normal((k, features)).astype(np.float32) for k in lengths]


class Last(nbrnn.module.Module):
    """The last output of each sequence: a network without an axis of time in y."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.batch_first = layer.batch_first
        self._parameters = layer._parameters

    def _pick(self, y, lengths):
        at = np.asarray(lengths) - 1, np.arange(len(lengths))
        return at[::-1] if self.batch_first else at

    def __call__(self, x, state=None, lengths=None):
        y, state = self.layer(x, state, lengths)
        return y[self._pick(y, lengths)], state

    def forward(self, x, state=None, lengths=None, *, rng=None):
        y, state, tape = self.layer.forward(x, state, lengths, rng=rng)
        at = self._pick(y, lengths)
        return y[at], state, (tape, at, y.shape)

    def backward(self, tape, dy=None, dstate=None, retain=False):
        inner, at, shape = tape
        full = np.zeros(shape, dy.dtype)
        full[at] = dy
        return self.layer.backward(inner, full, dstate)

    def _lengths_after(self, lengths):
        return None


@given(st.integers(1, 40), st.integers(1, 12), st.booleans(), st.booleans(), st.integers(0, 99))
def test_each_sequence_comes_once_an_epoch(n, size, shuffle, batch_first, seed):
    net = nbrnn.GRU(2, 3, batch_first=batch_first, rng=0)
    xs = ragged(n, seed)
    targets = [np.full((len(x), 1), q) for q, x in enumerate(xs)]
    data = source(net, (xs, targets), "data", size)
    rng = np.random.default_rng(seed) if shuffle else None
    plan = data.plan(rng)
    assert sorted(np.concatenate(plan)) == list(range(n))
    assert len(plan) == len(data) == -(-n // size)
    assert sorted(map(len, plan))[1:] == [size] * (len(plan) - 1)
    assert shuffle or list(np.concatenate(plan)) == list(range(n))
    for indices in plan:
        batch = data.batch(indices)
        x, target = (a.swapaxes(0, 1) if batch_first else a for a in (batch.x, batch.target))
        assert x.shape == (max(batch.lengths), len(indices), 2)
        assert batch.size == len(indices)
        for b, q in enumerate(indices):
            k = batch.lengths[b]
            np.testing.assert_array_equal(x[:k, b], xs[q])
            assert not x[k:, b].any()
            assert (target[:k, b] == q).all()
            assert not target[k:, b].any()


def test_batches_are_of_like_lengths_and_differ_between_epochs():
    rng = np.random.default_rng(0)
    xs = [np.zeros((k, 1), np.float32) for k in rng.integers(1, 200, 1600)]
    data = source(nbrnn.GRU(1, 2, rng=0), (xs, xs), "data", 16)
    first, second = data.plan(rng), data.plan(rng)
    steps = sum(map(len, xs))
    for plan in (first, second):
        computed = sum(len(i) * max(len(xs[q]) for q in i) for i in plan)
        assert computed < (1 + 1.5 / GROUP) * steps  # 1.9 times as many as they come
    assert len({frozenset(i) for i in first} & {frozenset(i) for i in second}) == 0
    lengths = [len(xs[i[0]]) for i in first]
    assert abs(np.corrcoef(lengths, np.arange(len(first)))[0, 1]) < 0.3  # long and short ones in turn
    assert sum(len(i) * max(len(xs[q]) for q in i) for i in data.by_length()) < 1.01 * steps


def test_a_little_data_gives_different_batches_too():
    data = source(nbrnn.GRU(2, 2, rng=0), (ragged(64), [np.zeros((len(x), 2)) for x in ragged(64)]), "data", 16)
    rng = np.random.default_rng(0)
    first, second = ({frozenset(i.tolist()) for i in data.plan(rng)} for _ in range(2))
    assert not first & second


@pytest.mark.parametrize("batch_first", [False, True])
def test_a_list_of_sequences_trains_as_one_batch_of_them(batch_first):
    xs = ragged(5, shortest=1)
    rng = np.random.default_rng(1)
    targets = [rng.standard_normal((len(x), 3)) for x in xs]
    order = np.argsort([len(x) for x in xs], kind="stable")
    results = []
    for given_as in ("list", "batch"):
        net = nbrnn.GRU(2, 3, batch_first=batch_first, rng=0)
        if given_as == "list":
            data = [xs[q] for q in order], [targets[q] for q in order]
        else:
            longest = max(map(len, xs))
            x, target = np.zeros((longest, 5, 2), np.float32), np.zeros((longest, 5, 3))
            for b, q in enumerate(order):
                x[: len(xs[q]), b], target[: len(xs[q]), b] = xs[q], targets[q]
            turn = (lambda a: a.swapaxes(0, 1).copy()) if batch_first else (lambda a: a)
            data = turn(x), turn(target), [len(xs[q]) for q in order]
        history = nbrnn.fit(net, data, mse, nbrnn.optim.Adam(net), 4, shuffle=False, progress=False, validation=data)
        results.append((net.flat.copy(), history.loss, history.validation))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    assert results[0][1:] == results[1][1:]


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("as_array", [False, True])
def test_labels_of_whole_sequences(batch_first, as_array):
    """Whether the first number of a sequence is positive, from where the network stands at its end."""
    xs = ragged(60, shortest=2, longest=5)
    labels = [int(x[0, 0] > 0) for x in xs]
    net = Last(nbrnn.LSTM(2, 2 * 4, proj_size=2, batch_first=batch_first, rng=0))
    accuracy = lambda y, target, lengths: (y.argmax(-1) == target).mean() if lengths is None else 1 / 0
    data = (xs, np.array(labels) if as_array else labels)
    history = nbrnn.fit(
        net, data, nbrnn.losses.cross_entropy, nbrnn.optim.Adam(net, lr=0.03), 40, batch_size=16, rng=0,
        progress=False, validation=data, metric=accuracy,
    )  # fmt: skip
    assert history.metric[-1] > 0.95
    assert len(history.metric) == 40
    scores = nbrnn.training.evaluate(net, data, nbrnn.losses.cross_entropy, metric=accuracy)
    assert scores.loss == pytest.approx(history.validation[-1], rel=1e-6)  # in batches of another size
    assert scores.metric > 0.95


def test_label_sequences_of_other_lengths_come_as_a_list():
    seen = []

    def loss(y, target, lengths):
        assert isinstance(target, list)
        assert y.shape[:2] == (max(lengths), len(target))
        seen.extend(t.tolist() for t in target)
        return 0.0, np.zeros_like(y)

    for batch_first in (False, True):
        net = nbrnn.GRU(2, 3, batch_first=batch_first, rng=0)
        xs, labels = ragged(4, shortest=3), [[1, 2], np.array([3]), [], [2, 1, 2]]
        nbrnn.fit(net, (xs, labels), loss, nbrnn.optim.Adam(net), 1, batch_size=3, progress=False)
        assert sorted(seen) == [[], [1, 2], [2, 1, 2], [3]]
        seen.clear()


class Two(nbrnn.module.Module):
    """Sums up two inputs' layers, as long as the second."""

    def __init__(self):
        super().__init__()
        self.one, self.other = nbrnn.GRU(2, 3, rng=0), nbrnn.GRU(1, 3, rng=1)
        self._parameters = type(self.one._parameters).join({"one": self.one.params, "other": self.other.params})
        self.calls = []

    def __call__(self, x, state=None, lengths=None):
        y, _, _ = self.forward(x, lengths=lengths)
        return y, None

    def forward(self, x, state=None, lengths=None, *, rng=None):
        self.calls.append((x, lengths))
        _, h, tape = self.one.forward(x[0], None, None if lengths is None else lengths[0])
        y, _, other = self.other.forward(x[1], h, None if lengths is None else lengths[1])
        return y, None, (tape, other)

    def backward(self, tape, dy=None, dstate=None, retain=False):
        back = self.other.backward(tape[1], dy)
        flat = np.concatenate([self.one.backward(tape[0], None, back.state).flat, back.flat])
        return nbrnn.Gradients(None, None, None, flat, self._parameters.shapes)

    def _lengths_after(self, lengths):
        return lengths[1]


def test_networks_with_two_inputs():
    rng = np.random.default_rng(0)
    a, b = ragged(7, shortest=1), [rng.standard_normal((k, 1)).astype(np.float32) for k in range(1, 8)]
    targets = [rng.standard_normal((k, 3)) for k in range(1, 8)]
    net = Two()
    opt = nbrnn.optim.Adam(net, lr=0.02)
    history = nbrnn.fit(net, ((a, b), targets), mse, opt, 30, batch_size=4, rng=0, progress=False)
    assert history.loss[-1] < history.loss[0]
    (x, y), (m, n) = net.calls[0]
    assert x.shape == (max(m), 4, 2)
    assert y.shape == (max(n), 4, 1)
    # One batch of arrays goes to the network untouched.
    x = np.zeros((3, 2, 2), np.float32), np.zeros((4, 2, 1), np.float32)
    for lengths in (([3, 2], [4, 1]), None):
        data = (x, np.zeros((4, 2, 3))) if lengths is None else (x, np.zeros((4, 2, 3)), lengths)
        nbrnn.fit(net, data, mse, opt, 1, progress=False)
        assert net.calls[-1][0] is x
        assert net.calls[-1][1] is lengths


def test_data_that_does_not_fit_is_named():
    net, pooled = nbrnn.GRU(2, 3, rng=0), Last(nbrnn.GRU(2, 3, rng=0))
    xs = ragged(3, shortest=2)
    targets = [np.zeros((len(x), 3)) for x in xs]
    opt = nbrnn.optim.Adam(net)
    for data, error, words in (
        (([], []), ValueError, "data must hold at least one sequence"),
        ((xs, targets[:2]), ValueError, r"data\[1\] must have an entry for each of 3 sequences, got 2"),
        ((xs, None), TypeError, r"data\[1\] must be a list or an array"),
        (
            (xs, [targets[0], targets[1][:1], targets[2]]),
            ValueError,
            r"data\[1\]\[1\] must have an entry for each of the",
        ),
        ((xs, [0, 1, 2]), ValueError, r"data\[1\]\[0\] must have an entry for each"),
        (([*xs[:2], xs[2][:, :1]], targets), ValueError, r"data\[0\] must hold arrays that differ in their first"),
        (([*xs[:2], xs[2].astype(float)], targets), ValueError, r"data\[0\] must hold arrays .*float64"),
        (([*xs[:2], 3.0], targets), TypeError, r"data\[0\]\[2\] must be a NumPy array"),
        (([*xs[:2], np.array(3.0)], targets), ValueError, r"data\[0\]\[2\] must have shape"),
        (((xs, xs[:2]), targets), ValueError, r"data\[0\]\[1\] must hold 3 sequences"),
    ):
        with pytest.raises(error, match=words):
            nbrnn.fit(net, data, mse, opt, 1, progress=False)
    with pytest.raises(ValueError, match=r"data\[1\] must hold entries of one shape"):
        nbrnn.fit(pooled, (xs, [*targets[:2], 0]), mse, nbrnn.optim.Adam(pooled), 1, progress=False)


# Stretches of time


def long_batch(net, steps=11, size=3, lengths=None, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((steps, size, 2)).astype(np.float32)
    target = rng.standard_normal((steps, size, 3))
    turn = (lambda a: a.swapaxes(0, 1)) if net.batch_first else (lambda a: a)
    return (turn(x), turn(target)) if lengths is None else (turn(x), turn(target), lengths)


@given(st.integers(0, 14), st.integers(1, 15), st.booleans(), st.booleans(), st.integers(0, 99))
def test_stretches_make_up_the_batch(steps, k, batch_first, with_lengths, seed):
    net = nbrnn.GRU(2, 3, batch_first=batch_first, rng=0)
    lengths = np.random.default_rng(seed).integers(0, steps + 1, 3) if with_lengths else None
    x, target, *_ = long_batch(net, steps)
    batch = Batch(x, target, lengths, 3)
    parts = list(stretches(net, batch, k))
    axis = int(batch_first)
    if steps <= k:
        assert parts == [batch]
        return
    longest = steps if lengths is None else max(lengths)
    cut = np.split(x, [longest], axis)[0]
    whole = np.concatenate([np.zeros_like(cut[:, :0] if axis else cut[:0]), *(p.x for p in parts)], axis)
    np.testing.assert_array_equal(whole[:, :longest] if axis else whole[:longest], cut)
    assert all(p.x.shape == (*p.target.shape[:2], 2) for p in parts)
    assert all(p.x.shape[axis] <= k for p in parts)
    if lengths is not None:
        np.testing.assert_array_equal(sum((p.lengths for p in parts), np.zeros(3)), lengths)
        assert all(p.lengths.any() for p in parts)
    assert not parts or abs(sum(p.share for p in parts) - 1) < 1e-12


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("lengths", [None, [11, 4, 7], [9, 0, 3]])
def test_bptt_over_all_steps_is_full_backpropagation(batch_first, lengths):
    flats = []
    for bptt in (None, 11, 12, 5):
        net = nbrnn.Sequential(
            nbrnn.LSTM(2, 4, 2, dropout=0.3, batch_first=batch_first, rng=0), nbrnn.Linear(4, 3, rng=1)
        )
        data = long_batch(net, lengths=lengths)
        history = nbrnn.fit(net, data, mse, nbrnn.optim.Adam(net), 3, bptt=bptt, rng=0, progress=False)
        flats.append((net.flat.tobytes(), history.loss, history.norm))
    assert flats[0] == flats[1] == flats[2] != flats[3]


@pytest.mark.parametrize("lengths", [None, [11, 4, 7], [9, 0, 3]])
def test_bptt_carries_the_state_and_no_gradient(lengths):
    """As a loop written out."""
    net, twin = (nbrnn.Sequential(nbrnn.LSTM(2, 4, rng=0), nbrnn.Linear(4, 3, rng=1)) for _ in range(2))
    data = long_batch(net, lengths=lengths)
    opt = nbrnn.optim.Adam(twin)
    losses = []
    for _ in range(2):
        state, total, count = None, 0.0, 0
        for start in range(0, 11 if lengths is None else max(lengths), 4):
            at = slice(start, start + 4)
            own = None if lengths is None else np.clip(np.array(lengths) - start, 0, 4)
            y, state, tape = twin.forward(data[0][at], state, lengths=own)
            loss, dy = mse(y, data[1][at], own)
            opt.step(twin.backward(tape, dy))
            valid = y.shape[0] * 3 if own is None else own.sum()
            total, count = total + loss * valid, count + valid
        losses.append(total / count)
    history = nbrnn.fit(net, data, mse, nbrnn.optim.Adam(net), 2, bptt=4, progress=False)
    np.testing.assert_array_equal(net.flat, twin.flat)
    assert history.loss == pytest.approx(losses, rel=1e-12)


def test_the_loss_with_stretches_is_that_of_all_steps():
    """Without a change of the parameters, the mean over stretches is the loss of the whole."""
    for lengths in (None, [11, 4, 7]):
        net = nbrnn.GRU(2, 3, rng=0)
        data = long_batch(net, lengths=lengths)
        opt = nbrnn.optim.Adam(net, lr=0.0)
        whole, cut = (nbrnn.fit(net, data, mse, opt, 1, bptt=k, progress=False).loss[0] for k in (None, 3))
        assert cut == pytest.approx(whole, rel=1e-6)


def test_bptt_of_an_unbatched_sequence_and_of_sequences():
    net = nbrnn.GRU(2, 3, batch_first=True, rng=0)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((10, 2)).astype(np.float32)
    history = nbrnn.fit(net, (x, np.zeros((10, 3))), mse, nbrnn.optim.Adam(net), 2, bptt=4, progress=False)
    assert len(history.loss) == 2
    xs = ragged(6)
    data = xs, [np.zeros((len(x), 3)) for x in xs]
    nbrnn.fit(net, data, mse, nbrnn.optim.Adam(net), 2, bptt=4, batch_size=4, progress=False)


def test_where_stretches_make_no_sense():
    one_way = nbrnn.GRU(2, 3, rng=0)
    both_ways = nbrnn.Sequential(nbrnn.GRU(2, 3, bidirectional=True, rng=0), nbrnn.Linear(6, 3, rng=0))
    pooled = Last(nbrnn.GRU(2, 3, rng=0))
    xs = ragged(3, shortest=3)
    for net, data, words in (
        (both_ways, long_batch(both_ways), "bidirectional"),
        (pooled, (xs, np.zeros((3, 3))), "bptt must be None unless y and target have the steps of x"),
        (one_way, (xs, [[1], [1, 2], []]), "bptt must be None unless y and target have the steps of x"),
        (one_way, (np.zeros((9, 3, 2), np.float32), np.zeros((8, 3, 3))), "bptt must be None unless target has the 9"),
        (Two(), ((xs, xs), [np.zeros((len(x), 3)) for x in xs]), "bptt must be None where x is no array"),
    ):
        with pytest.raises(ValueError, match=words):
            nbrnn.fit(net, data, mse, nbrnn.optim.Adam(net), 1, bptt=4, progress=False)
