"""Sequence to sequence: right gradients, inert padding, attention as in the paper, greedy and beam search."""

import copy
import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nbrnn
from nbrnn._search import best_of
from nbrnn.attention import softmax
from tests.reference.attention import attend
from tests.tolerances import assert_close

same = np.testing.assert_array_equal
KINDS = (None, "dot", "general")


def make(
    attention=None, *, cell="GRU", dtype=np.float64, symbols=5, width=3, hidden=4, layers=1, two_way=False,
    floats=False, batch_first=False, tail=True, seed=0, **more,
):  # fmt: skip
    """An encoder and a decoder, the last two of whose symbols are start and end."""
    rng = np.random.default_rng(seed)
    Layer = getattr(nbrnn, cell)
    own = {"dtype": dtype, "rng": rng}
    size = hidden if tail else symbols
    encoder = Layer(
        width, size // 2 if two_way else size, layers, bidirectional=two_way, batch_first=batch_first, **own, **more
    )
    decoder = Layer(symbols if floats else width, size, layers, batch_first=batch_first, **own, **more)
    last = [nbrnn.Linear(decoder.proj_size or size, symbols, **own)] if tail else []
    if floats:
        ends = encoder, (nbrnn.Sequential(decoder, *last) if last else decoder)
    else:
        ends = (
            nbrnn.Sequential(nbrnn.Embedding(symbols, width, **own), encoder),
            nbrnn.Sequential(nbrnn.Embedding(symbols, width, **own), decoder, *last),
        )
    return nbrnn.Seq2Seq(*ends, attention, start=symbols - 2, end=symbols - 1, rng=rng)


def batch(net, lengths, written, *, seed=0, symbols=5, width=3, garbage=0):
    """(source, decoder input), ragged: (T, B) symbols, or (T, B, n) floats with garbage past the ends."""
    rng, B = np.random.default_rng(seed), len(lengths)
    T, U = max(lengths), max(written)
    if net.encoder._x_axes == 2:
        x = rng.integers(0, symbols, (T, B)), rng.integers(0, symbols, (U, B))
        garbage = 0 if garbage == 0 else -(10**9)
    else:
        x = rng.normal(size=(T, B, width)).astype(net.dtype), rng.normal(size=(U, B, symbols)).astype(net.dtype)
    for a, ends in zip(x, (lengths, written), strict=True):
        a[np.arange(len(a))[:, None] >= np.array(ends)] = garbage
    return tuple(a.swapaxes(0, 1) for a in x) if net.batch_first else x


def check_gradients(net, x, lengths, dstate=None):
    """backward against differences, in every parameter and float input."""
    rng = np.random.default_rng(7)
    y, state, tape = net.forward(x, lengths=lengths)
    dy = rng.normal(size=y.shape)
    grads = net.backward(tape, dy, dstate)

    def value(inputs):
        y, state = net(inputs, lengths=lengths)
        carried = 0.0
        if dstate is not None:
            carried = sum(float((a * b).sum()) for a, b in zip(plain(state), plain(dstate), strict=True))
        return float((y * dy).sum()) + carried

    # Along some axes, and along some directions in which all parameters change.
    flat, step = net.flat.copy(), 1e-6
    directions = [*np.eye(flat.size)[rng.permutation(flat.size)[:40]], *rng.normal(size=(8, flat.size)) / 8]
    found = []
    for direction in directions:
        ends = []
        for sign in (1, -1):
            net.flat = flat + sign * step * direction
            ends.append(value(x))
        found.append((ends[0] - ends[1]) / (2 * step))
    net.flat = flat
    np.testing.assert_allclose(directions @ grads.flat, found, rtol=1e-6, atol=1e-8)
    for k, dx in enumerate(grads.x):
        if dx is None:
            assert net.encoder._x_axes == 2
            continue
        for index in np.ndindex(dx.shape):
            ends = []
            for sign in (1, -1):
                shifted = [a.copy() for a in x]
                shifted[k][index] += sign * step
                ends.append(value(tuple(shifted)))
            np.testing.assert_allclose(dx[index], (ends[0] - ends[1]) / (2 * step), rtol=1e-6, atol=1e-8)


def plain(state):
    """All arrays of a state."""
    if state is None:
        return []
    return [a for part in state for a in plain(part)] if isinstance(state, tuple) else [state]


@pytest.mark.parametrize("attention", KINDS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cell": "LSTM", "layers": 2, "two_way": True},
        {"cell": "RNN", "floats": True},
        {"cell": "LSTM", "proj_size": 2},
        {"batch_first": True, "two_way": True, "floats": True},
        {"tail": False},
    ],
    ids=str,
)
def test_gradients(attention, options):
    net = make(attention, **options)
    lengths = ([4, 2, 0], [2, 3, 1])
    check_gradients(net, batch(net, *lengths), lengths)


@pytest.mark.parametrize("attention", KINDS)
def test_gradients_for_the_final_state(attention):
    net = make(attention, cell="LSTM")
    lengths = ([4, 2], [3, 0])
    x = batch(net, *lengths)
    rng = np.random.default_rng(3)
    dstate = (None, tuple(rng.normal(size=(1, 2, 4)) for _ in "hc"), None)
    check_gradients(net, x, lengths, dstate)
    y, _, tape = net.forward(x, lengths=lengths)
    with_zeros, _, other = net.forward(x, lengths=lengths)
    a, b = net.backward(tape, None, dstate), net.backward(other, np.zeros_like(with_zeros), dstate)
    same(a.flat, b.flat)


def test_nested_networks_are_their_parts():
    own = {"dtype": np.float64}
    parts = lambda: (
        nbrnn.Embedding(5, 3, rng=0, **own), nbrnn.GRU(3, 4, rng=1, **own), nbrnn.GRU(4, 4, rng=2, **own),
        nbrnn.Linear(4, 5, rng=3, **own),
    )  # fmt: skip
    a, b, c, d = parts()
    e, f, g, h = parts()
    nets = [
        nbrnn.Seq2Seq(
            nbrnn.Sequential(a, nbrnn.Sequential(b, c)), nbrnn.Sequential(e, f, nbrnn.Sequential(g, h)), "general",
            start=3, end=4, rng=0,
        ),
    ]  # fmt: skip
    a, b, c, d = parts()
    nets.append(nbrnn.Seq2Seq(nbrnn.Sequential(a, b, c), nbrnn.Sequential(*parts()), "general", start=3, end=4, rng=0))
    lengths = ([4, 2], [2, 3])
    x, results = batch(nets[0], *lengths), []
    for net in nets:
        y, state, tape = net.forward(x, lengths=lengths)
        results.append((y, *plain(state), net.backward(tape, np.ones_like(y)).flat))
    for one, other in zip(*results, strict=True):
        same(one, other)
    nothing, first, (second, none) = nets[0](x)[1]
    assert nothing is none is None
    assert first.shape == second.shape == (1, 2, 4)


@pytest.mark.parametrize("attention", KINDS)
@pytest.mark.parametrize("floats", [False, True])
@pytest.mark.parametrize("tail", [False, True])
def test_padding_is_inert(attention, floats, tail):
    """NaN, or symbols that aren't any, past the ends reach nothing."""
    net, lengths = make(attention, floats=floats, tail=tail, dtype=np.float32), ([5, 0, 2], [3, 4, 0])
    outside = np.arange(4)[:, None] >= np.array(lengths[1])
    results = []
    for garbage in (0, np.nan):
        x = batch(net, *lengths, garbage=garbage)
        y, _, tape = net.forward(x, lengths=lengths)
        assert not y[outside].any()
        dy = np.ones_like(y)
        dy[outside] = garbage
        grads = net.backward(tape, dy)
        results.append([y, net(x, lengths=lengths)[0], grads.flat, *(a for a in grads.x if a is not None)])
        results[-1].extend(net.greedy(x[0], lengths[0], max_length=4))
    assert np.isfinite(results[0][2]).all()
    for a, b in zip(*results, strict=True):
        same(a, b)


@pytest.mark.parametrize("attention", KINDS)
@pytest.mark.parametrize("cell", ["GRU", "LSTM"])
def test_sequences_do_not_depend_on_their_batch(attention, cell):
    net = make(attention, cell=cell, two_way=True)
    lengths = [5, 1, 3, 4], [2, 4, 3, 1]
    x = batch(net, *lengths)
    y, state = net(x, lengths=lengths)
    written, found = net.greedy(x[0], lengths[0], max_length=6), net.beam(x[0], lengths[0], max_length=3, beam=4)
    for b, (n, m) in enumerate(zip(*lengths, strict=True)):
        source, given_ = x[0][:n, b : b + 1], x[1][:m, b : b + 1]
        alone, after = net((source, given_))
        assert_close(alone[:, 0], y[:m, b], np.float64, 10, "y")
        for one, all_ in zip(plain(after), plain(state), strict=True):
            assert_close(one[:, 0], all_[:, b], np.float64, 10, "state")
        same(net.greedy(source, max_length=6)[0], written[b])
        (alone,) = net.beam(source, max_length=3, beam=4)
        for (s, p), (s_all, p_all) in zip(alone, found[b], strict=True):
            same(s, s_all)
            assert abs(p - p_all) < 1e-12


def test_batch_first_is_a_matter_of_axes():
    first, second = make("general", two_way=True), make("general", two_way=True, batch_first=True)
    second.flat = first.flat
    lengths = ([4, 2, 3], [2, 3, 1])
    x = batch(first, *lengths)
    turned = tuple(a.T for a in x)
    y, state, tape = first.forward(x, lengths=lengths)
    z, state_too, tape_too = second.forward(turned, lengths=lengths)
    same(y.swapaxes(0, 1), z)
    for a, b in zip(plain(state), plain(state_too), strict=True):
        same(a, b)
    dy = np.random.default_rng(0).normal(size=y.shape)
    a, b = first.backward(tape, dy), second.backward(tape_too, np.ascontiguousarray(dy.swapaxes(0, 1)))
    np.testing.assert_allclose(a.flat, b.flat, rtol=1e-12, atol=1e-14)
    same(first.attention_weights(x, lengths).swapaxes(0, 1), second.attention_weights(turned, lengths))
    for one, other in zip(first.greedy(x[0], lengths[0]), second.greedy(turned[0], lengths[0]), strict=True):
        same(one, other)


@pytest.mark.parametrize("attention", ["dot", "general"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_attention_is_that_of_the_paper(attention, dtype):
    """What the network gives from plain calls of its parts, and attention in plain loops."""
    net = make(attention, two_way=True, dtype=dtype)
    lengths = ([6, 3, 0], [4, 2, 3])
    x = batch(net, *lengths)
    y, _ = net(x, lengths=lengths)
    embed, decoder, last = net.decoder
    s, (_, h_n) = net.encoder(x[0], lengths=lengths[0])
    h, _ = decoder(embed(x[1], lengths=lengths[1])[0], np.concatenate(list(h_n), -1)[None], lengths[1])
    weights = [
        np.asarray(net.params[f"attention.weight_{k}"], np.float64) for k in ("ca" if attention == "general" else "c")
    ]
    looks = net.attention_weights(x, lengths)
    assert looks.shape == (4, 3, 6)
    assert looks.dtype == dtype
    for b, (n, m) in enumerate(zip(*lengths, strict=True)):
        wanted, wanted_weights = attend(h[:m, b], s[:n, b], *weights)
        assert_close(looks[:m, b, :n], wanted_weights, dtype, 10, f"weights of sequence {b}")
        assert not looks[m:, b].any()
        assert not looks[:, b, n:].any()
        wanted = wanted @ np.asarray(last.params["weight"], np.float64).T + last.params["bias"]
        assert_close(y[:m, b], wanted, dtype, 10, f"sequence {b}")


def test_softmax_outside_is_zero():
    scores = np.array([[[1.0, 2.0, 3.0]], [[1e4, -1e4, 0.0]], [[5.0, np.inf, 1.0]]])
    outside = np.array([[[False, False, True]], [[False, True, True]], [[True, True, True]]])
    weights = softmax(scores, outside)
    np.testing.assert_allclose(
        weights[:, 0], [[1 / (1 + np.e), np.e / (1 + np.e), 0], [1, 0, 0], [0, 0, 0]], rtol=1e-14
    )
    assert softmax(np.zeros((2, 3, 0), np.float32), None).shape == (2, 3, 0)


@pytest.mark.parametrize("attention", KINDS)
def test_values_and_gradients_are_those_of_torch(attention):
    """Sequence by sequence, each of its own length: torch sees no padding."""
    torch = pytest.importorskip("torch")
    net = make(attention, cell="LSTM", layers=2, two_way=True, hidden=6)
    lengths = ([5, 2, 3], [2, 4, 3])
    x = batch(net, *lengths)
    y, _, tape = net.forward(x, lengths=lengths)
    dy = np.random.default_rng(1).normal(size=y.shape)
    grads = net.backward(tape, dy)

    def theirs(layer, **options):
        made = torch.nn.LSTM(layer.input_size, layer.hidden_size, 2, dtype=torch.float64, **options)
        for name, parameter in made.named_parameters():
            parameter.data.copy_(torch.from_numpy(layer.params[name].copy()))
        return made

    tensor = lambda name: torch.tensor(net.params[name].copy(), requires_grad=True)
    own = {
        name: tensor(name)
        for name in net.params
        if ("weight_" not in name and "bias_" not in name) or "attention" in name
    }
    encoder, decoder = theirs(net.encoder[1], bidirectional=True), theirs(net.decoder[1])
    for b, (n, m) in enumerate(zip(*lengths, strict=True)):
        s, states = encoder(own["encoder.0.weight"][torch.from_numpy(x[0][:n, b])])
        joined = tuple(torch.cat([a[0::2], a[1::2]], -1) for a in states)
        h, _ = decoder(own["decoder.0.weight"][torch.from_numpy(x[1][:m, b])], joined)
        if attention is not None:
            keys = s if attention == "dot" else s @ own["attention.weight_a"].T
            context = torch.softmax(h @ keys.T, -1) @ s
            h = torch.tanh(torch.cat([context, h], -1) @ own["attention.weight_c"].T)
        logits = h @ own["decoder.2.weight"].T + own["decoder.2.bias"]
        assert_close(y[:m, b], logits.detach(), np.float64, 10, "y")
        (logits * torch.from_numpy(dy[:m, b])).sum().backward()
    for name, tensor in own.items():
        assert_close(grads.params[name], tensor.grad, np.float64, 10, name)
    for side, module in (("encoder", encoder), ("decoder", decoder)):
        for name, parameter in module.named_parameters():
            assert_close(grads.params[f"{side}.1.{name}"], parameter.grad, np.float64, 10, name)


# Decoding.


def rollout(net, source, most):
    """The likeliest symbols by plain calls, each time from the beginning."""
    said = [net.start]
    while len(said) <= most:
        given_ = np.array(said) if net.decoder._x_axes == 2 else np.eye(5, dtype=net.dtype)[said]
        symbol = int(net((source, given_[:, None]))[0][-1, 0].argmax())
        if symbol == net.end:
            break
        said.append(symbol)
    return said[1:]


@pytest.mark.parametrize("attention", KINDS)
@pytest.mark.parametrize("floats", [False, True])
def test_greedy_is_the_rollout_by_plain_calls(attention, floats):
    lengths, how_long = [5, 1, 3, 4, 2, 5, 4, 3], set()
    for seed in range(6):
        net = make(attention, seed=seed, floats=floats, cell="LSTM", hidden=8, dtype=np.float32)
        net.flat = 4 * net.flat
        source, _ = batch(net, lengths, [1] * 8, seed=seed)
        written = net.greedy(source, lengths, max_length=7)
        for b, n in enumerate(lengths):
            same(written[b], rollout(net, source[:n, b : b + 1], 7))
        how_long |= {len(w) for w in written}
        for one, ((first, p),) in zip(written, net.beam(source, lengths, max_length=7, beam=1), strict=True):
            same(one, first)
            assert p <= 0
    assert len(how_long) > 2


def log_softmax(y):
    return y - y.max() - np.log(np.exp(y - y.max()).sum())


def tree(net, source, most):
    """All that can be written, with log probabilities, by plain calls."""
    C, found = net.decoder[-1].out_features, {}
    for n in range(most + 1):
        for symbols in itertools.product([c for c in range(C) if c != net.end], repeat=n):
            given_ = np.array([net.start, *symbols])[:, None]
            logs = [log_softmax(row) for row in net((source, given_))[0][:, 0]]
            p = sum(logs[t][c] for t, c in enumerate(symbols))
            found[symbols] = p + (logs[n][net.end] if n < most else 0.0)
    return found


@pytest.mark.parametrize("attention", KINDS)
@pytest.mark.parametrize("penalty", [0.0, 0.8])
def test_a_beam_as_wide_as_the_tree_is_exact(attention, penalty):
    net = make(attention, symbols=4, seed=1)
    net.flat = 2 * net.flat
    source, _ = batch(net, [3, 3], [1, 1], symbols=4)
    found = net.beam(source, max_length=3, beam=200, length_penalty=penalty)
    for b in range(2):
        wanted = tree(net, source[:, b : b + 1], 3)
        assert len(found[b]) == len(wanted) == 1 + 3 + 9 + 27
        assert abs(sum(np.exp(p) for _, p in found[b]) - 1) < 1e-12
        for symbols, p in found[b]:
            assert abs(wanted[tuple(symbols.tolist())] - p) < 1e-12
        ranks = [p / ((5 + min(len(s) + 1, 3)) / 6) ** penalty for s, p in found[b]]
        assert ranks == sorted(ranks, reverse=True)


def plain_beam(net, source, most, width):
    """Beam search over one source as it is described, by plain calls."""
    kept = [((), 0.0, False)]
    for _ in range(most):
        candidates = []
        for symbols, p, ended in kept:
            if ended:
                candidates.append((symbols, p, True))
                continue
            logs = log_softmax(net((source, np.array([net.start, *symbols])[:, None]))[0][-1, 0])
            for c, log in enumerate(logs):
                candidates.append((symbols, p + log, True) if c == net.end else ((*symbols, c), p + log, False))
        kept = sorted(candidates, key=lambda entry: -entry[1])[:width]
    return [(symbols, p) for symbols, p, _ in kept]


@settings(max_examples=20)
@given(st.integers(0, 1000), st.integers(1, 6), st.integers(1, 5), st.sampled_from(KINDS))
def test_beam_search_is_what_it_is_said_to_be(seed, width, most, attention):
    net = make(attention, seed=seed)
    net.flat = 2 * net.flat
    source, _ = batch(net, [4, 4, 4], [1, 1, 1], seed=seed)
    for b, found in enumerate(net.beam(source, max_length=most, beam=width)):
        wanted = plain_beam(net, source[:, b : b + 1], most, width)
        assert [tuple(s.tolist()) for s, _ in found] == [s for s, _ in wanted]
        np.testing.assert_allclose([p for _, p in found], [p for _, p in wanted], rtol=1e-11)


def test_wider_beams_find_no_worse_here():
    """Not so in general; but with all kept that can be, the best is the best there is."""
    net = make("dot", symbols=4, seed=5)
    source, _ = batch(net, [3], [1], symbols=4)
    best = max(tree(net, source, 3).values())
    for width in (1, 2, 5, 100):
        p = net.beam(source, max_length=3, beam=width)[0][0][1]
        assert p <= best + 1e-12
    assert abs(p - best) < 1e-12


def test_what_cannot_be_is_not_found():
    """Logits of minus infinity: of four symbols one, and the end, can follow."""
    net = make(symbols=4)
    bias = net.params["decoder.2.bias"].copy()
    bias[[0, 2]] = -np.inf
    net.params["decoder.2.bias"] = bias
    source, _ = batch(net, [3, 2], [1, 1], symbols=4)
    for found in net.beam(source, max_length=3, beam=10):
        assert sorted(s.tolist() for s, _ in found) == [[], [1], [1, 1], [1, 1, 1]]
        assert abs(sum(np.exp(p) for _, p in found) - 1) < 1e-12


def test_logits_that_are_no_numbers_are_an_error():
    net = make("dot", dtype=np.float32)
    net.params["decoder.2.bias"] = np.full(5, np.nan)
    source, _ = batch(net, [3, 2], [1, 1])
    with pytest.raises(FloatingPointError, match="logits must be finite"):
        net.greedy(source)
    with pytest.raises(FloatingPointError, match="logits must be finite"):
        net.beam(source)


@given(st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=1, max_size=4), st.integers(1, 8))
def test_best_of(rows, most):
    rank = np.array(rows, float)
    best = best_of(rank, most)
    assert best.shape == (len(rows), min(most, 6))
    for row, places in zip(rank, best, strict=True):
        same(row[places], np.sort(row)[::-1][:most])
        assert len(set(places)) == len(places)


def test_nothing_to_write():
    net = make("general")
    assert net.greedy(np.zeros((3, 0), int)) == []
    assert net.beam(np.zeros((3, 0), int)) == []
    y, _, tape = net.forward((np.zeros((3, 2), int), np.zeros((0, 2), int)))
    assert y.shape == (0, 2, 5)
    assert not net.backward(tape, y).flat.any()
    y, _, tape = net.forward((np.zeros((0, 2), int), np.zeros((3, 2), int)))
    assert y.shape == (3, 2, 5)
    assert np.isfinite(net.backward(tape, y).flat).all()
    assert len(net.greedy(np.zeros((0, 2), int), max_length=3)) == 2


@pytest.mark.parametrize("attention", [None, "dot"])
def test_learns_to_reverse_digits(attention):
    rng, B, T = np.random.default_rng(0), 64, 4
    emb = lambda q: nbrnn.Embedding(7, 12, rng=q)
    net = nbrnn.Seq2Seq(
        nbrnn.Sequential(emb(0), nbrnn.GRU(12, 24, rng=1)),
        nbrnn.Sequential(emb(2), nbrnn.GRU(12, 24, rng=3), nbrnn.Linear(24, 7, rng=4)),
        attention, start=5, end=6, rng=5,
    )  # fmt: skip
    opt = nbrnn.optim.Adam(net, lr=0.01)

    def draw():
        lengths = rng.integers(1, T + 1, B)
        source, given_, target = rng.integers(0, 5, (T, B)), np.full((T + 1, B), 5), np.full((T + 1, B), 6)
        for b, n in enumerate(lengths):
            target[:n, b] = given_[1 : n + 1, b] = source[:n, b][::-1]
        return source, given_, target, (lengths, lengths + 1)

    for _ in range(400):
        source, given_, target, lengths = draw()
        y, _, tape = net.forward((source, given_), lengths=lengths)
        _, dy = nbrnn.losses.cross_entropy(y, target, lengths[1])
        grads = net.backward(tape, dy)
        nbrnn.clip_grad_norm(grads, 1.0)
        opt.step(grads)
    source, _, _, (lengths, _) = draw()
    written = net.greedy(source, lengths, max_length=T + 2)
    right = [np.array_equal(w, source[:n, b][::-1]) for b, (w, n) in enumerate(zip(written, lengths, strict=True))]
    assert np.mean(right) > 0.9
    best = [found[0][0] for found in net.beam(source, lengths, max_length=T + 2, beam=3)]
    right = [np.array_equal(w, source[:n, b][::-1]) for b, (w, n) in enumerate(zip(best, lengths, strict=True))]
    assert np.mean(right) > 0.9


# As a module.


def test_parameters_are_one_vector():
    net = make("general", cell="LSTM")
    assert next(iter(net.params)) == "encoder.0.weight"
    assert list(net.params)[-2:] == ["attention.weight_a", "attention.weight_c"]
    same(net.flat, np.concatenate([a.ravel() for a in net.params.values()]))
    source, _ = batch(net, [3, 2], [1, 1])
    before = net.greedy(source, max_length=5)
    net.flat = -3 * net.flat
    assert np.shares_memory(net.encoder.flat, net.flat)
    after = net.greedy(source, max_length=5)
    assert any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    with pytest.raises(ValueError, match="part of"):
        nbrnn.Sequential(net.encoder)
    y, _, tape = net.forward(batch(net, [3, 2], [1, 1]))
    grads = net.backward(tape, np.ones_like(y))
    same(np.concatenate([grads.params[name].ravel() for name in net.params]), grads.flat)
    assert list(grads.params) == list(net.params)


@pytest.mark.parametrize("attention", KINDS)
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies(attention, copied):
    net = make(attention)
    x = batch(net, [3, 2], [2, 2])
    y, _ = net(x)
    twin = copied(net)
    same(twin(x)[0], y)
    net.flat = 0 * net.flat
    same(twin(x)[0], y)
    twin.params["decoder.2.bias"] = np.zeros(5)
    assert not twin.decoder[2].params["bias"].any()
    assert (twin(x)[0] != y).any()
    y, _, tape = twin.forward(x)
    twin.backward(tape, y)
    assert (twin.attention, twin.start, twin.end) == (attention, 3, 4)


def test_repr_and_fixed_attributes():
    net = make("dot")
    assert repr(net).splitlines()[0] == f"<Seq2Seq('dot', start=3, end=4): {net.flat.size} parameters>"
    assert repr(net).splitlines()[1].startswith("  encoder: <Sequential")
    assert repr(make()).startswith("<Seq2Seq(start=3, end=4)")
    for name in ("encoder", "decoder", "attention", "start", "end", "batch_first"):
        with pytest.raises(AttributeError, match="can't be changed"):
            setattr(net, name, None)
    assert net._lengths_after(None) is None
    assert net._lengths_after(([1, 2], [3, 4])) == [3, 4]
    assert net.dtype == np.float64


def test_dropout_is_drawn_from_one_generator():
    own = {"dtype": np.float64}
    net = nbrnn.Seq2Seq(
        nbrnn.Sequential(nbrnn.Embedding(5, 3, rng=0, **own), nbrnn.Dropout(0.3), nbrnn.GRU(3, 4, rng=1, **own)),
        nbrnn.Sequential(
            nbrnn.Embedding(5, 3, rng=0, **own), nbrnn.GRU(3, 4, rng=1, **own), nbrnn.Dropout(0.3),
            nbrnn.Linear(4, 5, rng=1, **own),
        ),
        "dot", start=3, end=4, rng=0,
    )  # fmt: skip
    x = batch(net, [3, 2], [2, 2])
    y = [net.forward(x, rng=seed)[0] for seed in (1, 1, 2)]
    same(y[0], y[1])
    assert (y[0] != y[2]).any()
    assert (y[0] != net(x)[0]).any()
    check = [net.greedy(x[0], max_length=4) for _ in range(2)]
    for a, b in zip(*check, strict=True):
        same(a, b)


def test_tapes():
    net, other = make("dot"), make("dot")
    x = batch(net, [3, 2], [2, 2])
    y, _, tape = net.forward(x)
    with pytest.raises(ValueError, match="WRITEABLE"):
        y.flags.writeable = True
    for dy, dstate, error, words in (
        (y[:1], None, ValueError, "dy must have shape"),
        (y.astype(np.float32), None, TypeError, "dy must be of dtype float64"),
        (y, (None, None), ValueError, "dstate must have 3 entries"),
        (y, (None, np.zeros((1, 1, 4)), None), ValueError, "dstate must have shape"),
        (y, (None, None, y), ValueError, "dstate must be None for Linear"),
    ):
        with pytest.raises(error, match=words):
            net.backward(tape, dy, dstate)
    with pytest.raises(TypeError, match="retain"):
        net.backward(tape, y, retain=1)
    with pytest.raises(ValueError, match="of this very layer or network"):
        other.backward(tape, y)
    with pytest.raises(TypeError, match="tape must come from forward of this network"):
        net.backward(net.encoder.forward(x[0])[2], y)
    kept = net.backward(tape, y, retain=True)
    same(net.backward(tape, y).flat, kept.flat)
    with pytest.raises(RuntimeError, match="has been used"):
        net.backward(tape, y)
    _, _, tape = net.forward(x)
    net.flat = 2 * net.flat
    with pytest.raises(RuntimeError, match="out of date"):
        net.backward(tape, y)


def test_bad_networks():
    gru = lambda n, *a, **k: nbrnn.GRU(3, n, *a, **k)
    for encoder, decoder, more, error, words in (
        ("gru", gru(4), {}, TypeError, "encoder must be a layer or a network, got str"),
        (gru(4), 3, {}, TypeError, "decoder must be a layer or a network, got int"),
        (gru(4), nbrnn.Linear(3, 3), {}, ValueError, "as many recurrent parts, at least one, got 1 and 0"),
        (nbrnn.Linear(3, 3), nbrnn.Linear(3, 3), {}, ValueError, "got 0 and 0"),
        (gru(3), gru(4), {}, ValueError, "it has 3 numbers h, wanted 4"),
        (gru(4, 2), gru(4), {}, ValueError, "it has 2 layers, wanted 1"),
        (gru(4), gru(4, bidirectional=True), {}, ValueError, "decoder must be of one direction, got a bidirectional GRU"),
        (gru(4, bidirectional=True), gru(4), {}, ValueError, "it has 8 numbers h, wanted 4"),
        (nbrnn.LSTM(3, 3), gru(3), {}, ValueError, "it has 3 numbers c, wanted 0"),
        (gru(4), gru(4, batch_first=True), {}, ValueError, "batch_first must be the same"),
        (nbrnn.Sequential(gru(4), nbrnn.Pool("last")), gru(4), {}, ValueError, "encoder must consist of parts .* got Pool"),
        (gru(4), nbrnn.Sequential(gru(4), nbrnn.Linear(4, 3, activation="softmax")), {}, ValueError, "end with logits"),
        (gru(4), gru(4), {}, ValueError, "got 4 logits for 3 symbols"),
        (gru(3), gru(3), {"start": 3}, ValueError, "start must be < 3"),
        (gru(3), gru(3), {"end": -1}, ValueError, "end must be >= 0"),
        (gru(3), gru(3), {"end": 1.0}, TypeError, "end must be an integer"),
        (gru(3), gru(3), {"attention": "cosine"}, ValueError, "attention must be one of None, 'dot', 'general'"),
        (
            nbrnn.Sequential(gru(3), nbrnn.Linear(3, 2)), gru(3), {"attention": "dot"}, ValueError,
            "needs outputs of one size, got 2 and 3",
        ),
        (gru(3), gru(3, dtype=np.float64), {}, ValueError, "one dtype"),
    ):  # fmt: skip
        with pytest.raises(error, match=words):
            nbrnn.Seq2Seq(encoder, decoder, **({"start": 0, "end": 1} | more))
    same_twice = gru(3)
    with pytest.raises(ValueError, match="stand in it twice"):
        nbrnn.Seq2Seq(same_twice, same_twice, start=0, end=1)


def test_bad_input():
    net = make("dot", dtype=np.float32)
    s, w = batch(net, [3, 2], [2, 2])
    floats = make(floats=True, batch_first=True, dtype=np.float32)
    for call, error, words in (
        (lambda: net(s), TypeError, r"x must be a pair \(source, decoder_input\), got ndarray"),
        (lambda: net((s, w, w)), TypeError, "got a tuple of 3"),
        (lambda: net((s[0], w)), ValueError, r"source must have shape \(T, B\), got \(2,\)"),
        (lambda: net((s, w[:, :1])), ValueError, "one batch size, got 2 and 1"),
        (lambda: net((s, w + 0.5)), TypeError, "decoder_input must be integers, got dtype float64"),
        (lambda: net((s, w), s), ValueError, "state must be None"),
        (lambda: net((s, w), lengths=[1, 2, 3]), TypeError, "lengths must be a pair"),
        (lambda: net((s, w), lengths=([4, 1], None)), ValueError, r"lengths\[0\] must lie in 0..3"),
        (lambda: net((s, w), lengths=(None, [1])), ValueError, r"lengths\[1\] must have shape \(2,\)"),
        (lambda: net((s + 10, w)), ValueError, "must lie in 0..4"),
        (lambda: floats((np.zeros((2, 3), np.float32), w)), ValueError, r"source must have shape \(B, T, n\)"),
        (lambda: floats((np.zeros((2, 3, 3)), w)), TypeError, "source must be of dtype float32"),
        (lambda: floats.attention_weights((s, w)), ValueError, "attention must be 'dot' or 'general' .*, got None"),
        (lambda: net.greedy(s, [1]), ValueError, r"lengths must have shape \(2,\)"),
        (lambda: net.greedy(s, max_length=0), ValueError, "max_length must be >= 1"),
        (lambda: net.beam(s, beam=0), ValueError, "beam must be >= 1"),
        (lambda: net.beam(s, length_penalty=-1), ValueError, "length_penalty must be a finite number >= 0"),
    ):
        with pytest.raises(error, match=words):
            call()
    same(net(([[0, 1]], [[2, 3]]))[0], net((np.array([[0, 1]]), np.array([[2, 3]], np.int8)))[0])


@pytest.mark.parametrize("batch_first", [False, True])
def test_fit_trains_it(batch_first):
    """On batches, and on lists of sequences of any lengths."""
    net = make("dot", batch_first=batch_first, dtype=np.float32, symbols=6, width=8, hidden=16)
    rng, start, end = np.random.default_rng(0), net.start, net.end
    sources = [rng.integers(0, 4, rng.integers(1, 6)) for _ in range(24)]
    written = [np.array([start, *s[::-1]]) for s in sources]
    targets = [np.array([*s[::-1], end]) for s in sources]
    opt = nbrnn.optim.Adam(net, lr=0.01)
    history = nbrnn.fit(
        net, ((sources, written), targets), nbrnn.losses.cross_entropy, opt, 15, batch_size=8, rng=0, progress=False
    )
    assert history.loss[-1] < 0.9 * history.loss[0]

    lengths = tuple(np.array([len(s) for s in part]) for part in (sources, written))
    padded = [np.zeros((n.max(), len(n)), np.int64) for n in (*lengths, lengths[1])]
    for to, part in zip(padded, (sources, written, targets), strict=True):
        for b, s in enumerate(part):
            to[: len(s), b] = s
    x, y, target = ((a.T if batch_first else a) for a in padded)
    loss = nbrnn.training.evaluate(net, [((x, y), target, lengths)], nbrnn.losses.cross_entropy).loss
    history = nbrnn.fit(net, [((x, y), target, lengths)], nbrnn.losses.cross_entropy, opt, 15, rng=0, progress=False)
    assert history.loss[0] == pytest.approx(loss, rel=1e-4)
    assert history.loss[-1] < history.loss[0]
