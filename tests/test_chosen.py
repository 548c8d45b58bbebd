"""Inputs that are chosen from a few: as if they stood in memory, to the bit; gradients of what is chosen from."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nbrnn
from nbrnn._cpu import cost
from nbrnn._cpu.chosen import Chosen
from tests.cases import Case, cases
from tests.kernels import CHOSEN
from tests.teams import TEAMS, forced
from tests.tolerances import assert_close

same = np.testing.assert_array_equal
BATCHED = dict(batched=True, T=st.integers(1, 9), B=st.integers(1, 9))
LAYERS = st.sampled_from(CHOSEN).flatmap(lambda both: cases(kind=both[0], dtype=both[1], **BATCHED))


def choose(case, choices):
    """(table, index): inputs for a case, out of so many rows."""
    rng = np.random.default_rng(case.seed + 1)
    table = rng.normal(size=(choices, case.I)).astype(case.dtype)
    return table, rng.integers(0, choices, (case.T, case.B))


def run(case, x):
    """What doesn't depend on how x is given, and the gradients."""
    y, h, c, grads = case.train(x=x, rng=case.seed)
    inferred, state = case.layer(x, **case.arguments())
    parts = [y, h, c, inferred, *case.split(state), *case.split(grads.state)]
    return [a for a in parts if a is not None], grads


def compare(case, choices):
    table, index = choose(case, choices)
    wanted, plain = run(case, case.user(table[index]))
    got, grads = run(case, case.user(Chosen(table, index)))
    for a, b in zip(got, wanted, strict=True):
        same(a, b)
    for name, a in plain.params.items():
        assert_close(grads.params[name], a, case.dtype, case.T, name)
    dtable, dx = np.zeros(table.shape), case.ours(plain.x)
    ends = case.lengths if case.ragged else np.full(case.B, case.T)
    for b in range(case.B):
        np.add.at(dtable, index[: ends[b], b], dx[: ends[b], b])
    assert_close(grads.x, dtable, case.dtype, case.T, "dx")
    return grads


@given(LAYERS, st.integers(1, 40))
def test_a_choice_is_as_good_as_the_rows(case, choices):
    compare(case, choices)


@pytest.mark.parametrize("kind, dtype", CHOSEN)
def test_many_rows_and_choices(kind, dtype):
    """More of both than are gathered at once, and padding in every matrix."""
    case = Case(kind, dtype, T=40, B=17, I=33, H=37, P=9, bidirectional=True, L=2, ragged=True, stateful=True, seed=3)
    for choices in (3, 300):
        compare(case, choices)


@pytest.mark.parametrize("choices", ["all the same", "each another", "runs", "the last"])
def test_rows_of_a_choice_are_found_wherever_they_are(choices):
    """In chunks of 160 or 320 rows: the gradient of a table is what comes of each row, added up where it was chosen."""
    case = Case("LSTM", "float64", T=37, B=19, I=5, H=21, seed=8)
    table, (T, B) = np.random.default_rng(0).normal(size=(703, 5)), (37, 19)
    index = {"all the same": np.full(703, 6), "each another": np.random.default_rng(1).permutation(703),
             "runs": np.arange(703) // 11 * 11, "the last": np.where(np.arange(703) % 2, 702, np.arange(703))}  # fmt: skip
    index = index[choices].reshape(T, B)
    (_, _, _, got), (_, _, _, grads) = case.train(x=Chosen(table, index)), case.train(x=table[index])
    dx = np.zeros_like(table)
    np.add.at(dx, index, grads.x)
    np.testing.assert_allclose(got.x, dx, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(got.flat, grads.flat, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("kind, dtype", [("GRU", "float32"), ("LSTM", "float64")])
def test_bits_do_not_depend_on_the_team(kind, dtype):
    case = Case(kind, dtype, T=7, B=11, I=9, H=70, bidirectional=True, ragged=True, seed=5)
    table, index = choose(case, 13)
    wanted, alone = run(case, Chosen(table, index))
    for team in TEAMS:
        with forced(*team):
            got, grads = run(case, Chosen(table, index))
        for a, b in zip([*got, grads.flat, grads.x], [*wanted, alone.flat, alone.x], strict=True):
            same(a, b)


def chosen(tape):
    """Whether the first part of a network has handed on a choice."""
    return tape.tapes[0].y_shape[-2:] == tape.tapes[0].y_shape


def network(**changed):
    options = dict(dtype="float64") | changed
    return nbrnn.Sequential(
        nbrnn.Embedding(6, 5, rng=0, padding_idx=2, dtype=options["dtype"]),
        nbrnn.LSTM(5, 9, rng=1, **options),
        nbrnn.Linear(9 * (1 + options.get("bidirectional", False)), 3, rng=2, dtype=options["dtype"]),
    )


@pytest.mark.parametrize(
    "options", [{}, {"batch_first": True, "bidirectional": True}, {"recurrent_dropout": 0.5, "num_layers": 2}], ids=str
)
@pytest.mark.parametrize("checkpoint", [None, 3])
def test_in_a_network(options, checkpoint, monkeypatch):
    net, rng = network(**options), np.random.default_rng(0)
    x, lengths = rng.integers(0, 6, (8, 10)), rng.integers(0, 9, 10)
    x[np.arange(8)[:, None] >= lengths] = 99  # no vector's place
    x = x.T if net.batch_first else x
    dy, results = None, []
    for often in (10**6, 0):
        monkeypatch.setattr(cost, "OFTEN", often)
        y, state, tape = net.forward(x, lengths=lengths, rng=7, checkpoint=checkpoint)
        assert chosen(tape) == (often == 0)
        dy = np.random.default_rng(1).normal(size=y.shape)
        first = net.backward(tape, dy, retain=True)
        again = net.backward(tape, dy)
        same(first.flat, again.flat)
        with pytest.raises(RuntimeError):
            net.backward(tape, dy)
        results.append((y, state, net(x, lengths=lengths)[0], first))
    (y, state, inferred, grads), (y2, state2, inferred2, grads2) = results
    same(y, y2)
    same(inferred, inferred2)
    for a, b in zip(state[1], state2[1], strict=True):
        same(a, b)
    assert grads.x is None
    assert grads2.x is None
    for name, a in grads.params.items():
        assert_close(grads2.params[name], a, "float64", 8, name)
    assert not grads2.params["0.weight"][2].any()


def test_it_is_done_where_vectors_are_chosen_often():
    net = network()
    for shape, often in (((6, 4), True), ((6, 3), False), ((23, 1), False), ((24, 1), True), ((0, 4), False)):
        assert chosen(net.forward(np.zeros(shape, int))[2]) == often
    large = nbrnn.Sequential(nbrnn.Embedding(400, 2), nbrnn.GRU(2, 400))  # 2.5 MB of sums
    assert not chosen(large.forward(np.zeros((1600, 1), int))[2])


def test_what_is_never_chosen_has_no_influence():
    """Not even NaN."""
    results = []
    for garbage in (0, np.nan):
        net, x = network(), np.random.default_rng(0).integers(0, 5, (9, 8))
        weight = np.array(net.params["0.weight"])
        weight[5] = garbage
        net.params["0.weight"] = weight
        y, _, tape = net.forward(x)
        assert chosen(tape)
        results.append((y, net.backward(tape, np.ones_like(y)).flat))
    for a, b in zip(*results, strict=True):
        same(a, b)
        assert np.isfinite(a).all()


def test_a_million_choices_keep_their_digits():
    """One vector chosen each time: its gradient is a sum over all steps."""
    gradients = []
    for dtype in ("float32", "float64"):
        net = nbrnn.Sequential(nbrnn.Embedding(2, 1, dtype=dtype, rng=0), nbrnn.RNN(1, 4, dtype=dtype, rng=0))
        net.flat = np.linspace(-0.5, 0.5, net.flat.size)
        y, _, tape = net.forward(np.zeros((1_000_000, 1), int))
        assert chosen(tape)
        gradients.append(net.backward(tape, np.full_like(y, 0.1)).flat)
    assert np.abs(gradients[0] - gradients[1]).max() < 1e-5 * np.abs(gradients[1]).max()


def test_bad_input(monkeypatch):
    monkeypatch.setattr(cost, "OFTEN", 0)
    net = network()
    for bad in (6, -1):
        with pytest.raises(ValueError, match=r"x must lie in 0..5"):
            net.forward(np.full((4, 2), bad))
        with pytest.raises(ValueError, match=r"x must lie in 0..5"):
            net(np.full((4, 2), bad))
    with pytest.raises(ValueError, match="lengths"):
        net(np.zeros((4, 2), int), lengths=[5, 1])
    with pytest.raises(ValueError, match="state"):
        net(np.zeros((4, 2), int), state=(np.zeros(2), None, None))
    y, _, tape = net.forward(np.zeros((4, 2), int))
    net.flat = net.flat
    with pytest.raises(RuntimeError):
        net.backward(tape, np.ones_like(y))
