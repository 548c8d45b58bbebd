"""generate: the right distribution, reproducible, the same as plain calls."""

import numpy as np
import pytest

import nbrnn

same = np.testing.assert_array_equal


def make(cell="LSTM", *, symbols=6, hidden=7, floats=False, dtype=np.float64, seed=0, **more):
    rng = np.random.default_rng(seed)
    first = [] if floats else [nbrnn.Embedding(symbols, 4, dtype=dtype, rng=rng)]
    layer = getattr(nbrnn, cell)(symbols if floats else 4, hidden, dtype=dtype, rng=rng, **more)
    net = nbrnn.Sequential(*first, layer, nbrnn.Linear(hidden, symbols, dtype=dtype, rng=rng))
    net.flat = 3 * net.flat
    return net


def logits(net, symbols):
    """Of what comes after symbols (T,), by one plain call."""
    given = symbols[:, None] if net._x_axes == 2 else np.eye(6, dtype=net.dtype)[symbols][:, None]
    return net(given.swapaxes(0, 1) if net.batch_first else given)[0].reshape(len(symbols), -1)[-1]


@pytest.mark.parametrize("cell", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("options", [{}, {"floats": True}, {"num_layers": 2}, {"batch_first": True}], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_likeliest_are_those_of_plain_calls(cell, options, dtype):
    net = make(cell, dtype=dtype, **options)
    prompt = np.array([[0, 3], [5, 1], [2, 2]])
    said = nbrnn.generate(net, prompt.T if net.batch_first else prompt, 12, temperature=0)
    said = said.T if net.batch_first else said
    assert said.shape == (12, 2)
    for b in range(2):
        alone = nbrnn.generate(net, prompt[:, b], 12, temperature=0)
        same(alone, said[:, b])
        so_far = list(prompt[:, b])
        for symbol in alone:
            assert symbol == logits(net, np.array(so_far)).argmax()
            so_far.append(symbol)
    same(nbrnn.generate(net, prompt[:, 0], 12, top_k=1, rng=0), said[:, 0])


def test_reproducible_from_the_seed():
    net = make(symbols=6)
    a, b, c = (nbrnn.generate(net, [0, 1], 50, rng=seed) for seed in (3, 3, 4))
    same(a, b)
    assert (a != c).any()
    generator = np.random.default_rng(3)
    same(nbrnn.generate(net, [0, 1], 50, rng=generator), a)
    assert (nbrnn.generate(net, [0, 1], 50, rng=generator) != a).any()


def test_two_pieces_are_the_whole():
    """With the prompt as long as what was said: the generator has given no more than was needed."""
    net, generator = make("GRU"), np.random.default_rng(0)
    whole = nbrnn.generate(net, [0], 40, rng=0)
    first = nbrnn.generate(net, [0], 25, rng=generator)
    second = nbrnn.generate(net, [0, *first], 15, rng=generator)
    same(np.concatenate([first, second]), whole)


def test_noise_that_is_drawn_ahead_is_drawn_in_order(monkeypatch):
    net = make("GRU")
    whole = nbrnn.generate(net, [[0, 1, 2]], 40, rng=0)
    for ahead in (1, 50, 100):
        monkeypatch.setattr("nbrnn.generation.AHEAD", ahead)
        same(nbrnn.generate(net, [[0, 1, 2]], 40, rng=0), whole)


def chi_square(counts, p):
    expected = counts.sum() * p
    return float(((counts - expected) ** 2 / expected).sum())


#: Exceeded with probability 0.001, by degrees of freedom.
CRITICAL = {2: 13.82, 5: 20.52}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("top_k", [None, 3])
def test_what_follows_is_distributed_as_the_softmax(temperature, top_k):
    net, B = make("GRU", dtype=np.float32), 20_000
    prompt = np.tile([[0], [4]], B)
    (first,) = nbrnn.generate(net, prompt, 1, temperature, top_k, rng=5)
    row = logits(net, np.array([0, 4])).astype(float) / temperature
    possible = np.sort(row)[::-1][: top_k or 6]
    p = np.where(row >= possible[-1], np.exp(row - row.max()), 0)
    p /= p.sum()
    counts = np.bincount(first, minlength=6)
    assert not counts[p == 0].any()
    assert chi_square(counts[p > 0], p[p > 0]) < CRITICAL[len(possible) - 1]


@pytest.mark.parametrize("options", [{}, {"floats": True}], ids=str)
def test_steps_of_one_sequence_are_distributed_as_the_softmax(options):
    """Whole rollouts: sequence by sequence, each next symbol against the network's own probabilities."""
    net = make("LSTM", **options)
    net.flat = 0.5 * net.flat
    said = nbrnn.generate(net, [1], 4000, rng=1)
    given = np.concatenate([[1], said[:-1]])[:, None]
    y = net(given if net._x_axes == 2 else np.eye(6)[given])[0][:, 0]
    p = np.exp(y - y.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    # Sums of independent draws, step by step: their deviation in units of what it should be.
    z = (np.eye(6)[said] - p).sum(0) / np.sqrt((p * (1 - p)).sum(0))
    assert np.abs(z).max() < 4


def test_a_net_without_memory_and_a_layer_alone():
    net = nbrnn.Sequential(nbrnn.Embedding(3, 4, rng=0), nbrnn.Linear(4, 3, rng=1))
    said = nbrnn.generate(net, [2, 0], 10, temperature=0)
    follows = net(np.arange(3))[0].argmax(-1)
    same(said, [follows[s] for s in [0, *said[:-1]]])
    layer = nbrnn.GRU(5, 5, rng=0)
    said = nbrnn.generate(layer, [1, 2], 10, temperature=0)
    for t in range(10):
        y, _ = layer(np.eye(5, dtype=np.float32)[[1, 2, *said[:t]]])
        assert said[t] == y[-1].argmax()


def test_parts_without_state_between_and_after():
    parts = lambda: (
        nbrnn.Embedding(6, 4, rng=0), nbrnn.Dropout(0.5), nbrnn.Linear(4, 4, activation="tanh", rng=1),
        nbrnn.GRU(4, 5, rng=2), nbrnn.LayerNorm(5), nbrnn.Linear(5, 5, bias=False, rng=3), nbrnn.LSTM(5, 5, rng=4), nbrnn.Dropout(0.5),
        nbrnn.Linear(5, 6, activation="relu", rng=5), nbrnn.Linear(6, 6, rng=6), nbrnn.Dropout(0.5),
    )  # fmt: skip
    flat, given = nbrnn.Sequential(*parts()), parts()
    nested = nbrnn.Sequential(given[0], nbrnn.Sequential(*given[1:6], nbrnn.Sequential(given[6])), *given[7:])
    flat.flat, nested.flat = 2 * flat.flat, 2 * nested.flat
    said = nbrnn.generate(flat, [0, 1], 20, temperature=0)
    same(nbrnn.generate(nested, [0, 1], 20, temperature=0), said)
    for t in range(20):
        assert said[t] == logits(flat, np.array([0, 1, *said[:t]])).argmax()


def test_sizes_that_are_zero():
    net = make()
    assert nbrnn.generate(net, [0, 1], 0).shape == (0,)
    assert nbrnn.generate(net, np.zeros((2, 3), int), 0).shape == (0, 3)
    assert nbrnn.generate(net, np.zeros((2, 0), int), 4, rng=0).shape == (4, 0)


def test_it_sees_the_parameters_as_they_are_now():
    net = make("GRU")
    before = nbrnn.generate(net, [0], 30, temperature=0)
    net.flat = -net.flat
    assert (nbrnn.generate(net, [0], 30, temperature=0) != before).any()


def test_bad_input():
    net, run = make(), nbrnn.generate
    softmax = nbrnn.Sequential(nbrnn.GRU(4, 5), nbrnn.Linear(5, 4, activation="softmax"))
    wide = nbrnn.Sequential(nbrnn.GRU(4, 5), nbrnn.Linear(5, 6))
    pool = nbrnn.Sequential(nbrnn.GRU(4, 5), nbrnn.Pool("last"), nbrnn.Linear(5, 4))
    first = make("GRU", batch_first=True)
    for call, error, words in (
        (lambda: run("net", [0], 1), TypeError, "net must be a layer or a network, got str"),
        (
            lambda: run(nbrnn.GRU(3, 3, bidirectional=True), [0], 1),
            ValueError,
            "one direction, got a bidirectional GRU",
        ),
        (lambda: run(pool, [0], 1), ValueError, "one step at a time, got Pool"),
        (lambda: run(softmax, [0], 1), ValueError, "net must end with logits, got a Linear with activation 'softmax'"),
        (lambda: run(wide, [0], 1), ValueError, "got 6 logits for 4 symbols"),
        (lambda: run(nbrnn.Dropout(), [0], 1), ValueError, "net must have an Embedding, a Linear or a recurrent layer"),
        (lambda: run(net, [], 1), TypeError, "prompt must be integers"),
        (lambda: run(net, np.zeros(0, int), 1), ValueError, r"prompt must have shape \(P,\) or \(P, B\), P >= 1"),
        (
            lambda: run(first, np.zeros((3, 0), int), 1),
            ValueError,
            r"prompt must have shape \(P,\) or \(B, P\), P >= 1",
        ),
        (lambda: run(net, 3, 1), ValueError, r"prompt must have shape .* got \(\)"),
        (lambda: run(net, [[[0]]], 1), ValueError, r"prompt must have shape .* got \(1, 1, 1\)"),
        (lambda: run(net, [0.5], 1), TypeError, "prompt must be integers, got dtype float64"),
        (lambda: run(net, [0, 6], 1), ValueError, r"prompt must lie in 0..5, got 0..6"),
        (lambda: run(net, [-1], 1), ValueError, "prompt must lie in 0..5"),
        (lambda: run(net, [0], -1), ValueError, "n must be >= 0"),
        (lambda: run(net, [0], 1.0), TypeError, "n must be an integer"),
        (lambda: run(net, [0], 1, -0.5), ValueError, "temperature must be a finite number >= 0, got -0.5"),
        (lambda: run(net, [0], 1, np.inf), ValueError, "temperature must be a finite number"),
        (lambda: run(net, [0], 1, 1.0, 0), ValueError, "top_k must be >= 1"),
        (lambda: run(net, [0], 1, 1.0, 7), ValueError, "top_k must be <= 6, the number of symbols, got 7"),
        (lambda: run(net, [0], 1, 1.0, 2.0), TypeError, "top_k must be an integer"),
        (lambda: run(net, [0], 1, rng="seed"), TypeError, "rng must be"),
    ):
        with pytest.raises(error, match=words):
            call()
    net.params["2.bias"] = np.full(6, np.nan)
    for prompt in ([0], [[0, 1]]):
        with pytest.raises(FloatingPointError, match="logits must be finite"):
            run(net, prompt, 1)
