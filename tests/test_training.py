"""fit, the demo, the command."""

import numpy as np
import pytest

import nbrnn
from nbrnn import cli, demo


def wave(steps=120):
    return np.sin(0.3 * np.arange(steps)).astype(np.float32)[:, None, None]


def model(seed=0, **options):
    return nbrnn.Sequential(nbrnn.GRU(1, 12, rng=seed, **options), nbrnn.Linear(12, 1, rng=seed + 1))


def test_fit_learns_a_wave():
    net, x = model(), wave()
    history = nbrnn.fit(
        net, (x[:-1], x[1:]), nbrnn.losses.mse, nbrnn.optim.Adam(net, lr=0.03), epochs=80, clip_norm=1.0,
        validation=(x[1:-1], x[2:]), progress=False,
    )  # fmt: skip
    assert history.loss[-1] < 0.01 * history.loss[0]
    assert history.validation[-1] < 0.01
    assert len(history.loss) == len(history.validation) == len(history.norm) == len(history.seconds) == 80


def test_fit_takes_batches_and_lengths():
    rng = np.random.default_rng(0)
    for batch_first in (False, True):
        net = model(batch_first=batch_first)
        batches = []
        for size in (3, 5):
            x = np.stack([wave(20)[:, 0] for _ in range(size)], 1)
            x[:, 0][15:] = np.nan
            target, lengths = np.roll(x, -1, 0), [14, *rng.integers(5, 19, size - 1)]
            turn = (lambda a: a.swapaxes(0, 1)) if batch_first else (lambda a: a)
            batches.append((turn(x), turn(target), lengths))
        history = nbrnn.fit(net, batches, nbrnn.losses.mse, nbrnn.optim.Adam(net, lr=0.03), 40, progress=False, rng=0)
        assert history.loss[-1] < 0.1 * history.loss[0]


def test_fit_is_reproducible():
    losses = []
    for _ in range(2):
        net = nbrnn.Sequential(nbrnn.GRU(1, 8, rng=0), nbrnn.Dropout(0.5), nbrnn.Linear(8, 1, rng=1))
        data = [(wave(k)[:-1], wave(k)[1:]) for k in (20, 30, 40)]
        losses.append(nbrnn.fit(net, data, nbrnn.losses.mse, nbrnn.optim.Adam(net), 5, progress=False, rng=4).loss)
    assert losses[0] == losses[1]


def test_callback_ends_training():
    net, x = model(), wave()
    history = nbrnn.fit(
        net, (x[:-1], x[1:]), nbrnn.losses.mse, nbrnn.optim.Adam(net), 50, progress=False,
        callback=lambda epoch, history: epoch == 3,
    )  # fmt: skip
    assert len(history.loss) == 4


def test_progress_is_shown_on_stderr(capsys):
    net, x = model(), wave()
    nbrnn.fit(net, (x[:-1], x[1:]), nbrnn.losses.mse, nbrnn.optim.Adam(net), 3)
    out, err = capsys.readouterr()
    assert out == ""
    assert "training [##############################] 3/3" in err


def test_bad_input():
    net, x = model(), wave()
    opt, mse = nbrnn.optim.Adam(net), nbrnn.losses.mse
    for call, error, words in (
        (lambda: nbrnn.fit("net", (x, x), mse, opt, 1), TypeError, "net must be a layer or a network"),
        (lambda: nbrnn.fit(net, [], mse, opt, 1), ValueError, "data must hold at least one batch"),
        (lambda: nbrnn.fit(net, [(x,)], mse, opt, 1), TypeError, "data must be"),
        (lambda: nbrnn.fit(net, [x], mse, opt, 1), TypeError, "data must be"),
        (lambda: nbrnn.fit(net, (x, x), mse, opt, 0), ValueError, "epochs must be >= 1"),
        (lambda: nbrnn.fit(net, (x, x), mse, opt, 1, clip_norm=-1, progress=False), ValueError, "clip_norm must be"),
        (lambda: nbrnn.fit(net, None, mse, opt, 1, progress=False), TypeError, "data must be"),
        (lambda: nbrnn.fit(net, (x, x), None, opt, 1, progress=False), TypeError, "loss must be callable"),
        (lambda: nbrnn.fit(net, (x, x), mse, None, 1, progress=False), TypeError, "optimizer must have"),
        (lambda: nbrnn.fit(net, (x, x), mse, opt, 1, shuffle="no", progress=False), TypeError, "shuffle must be"),
        (lambda: nbrnn.fit(net, (x, x), mse, opt, 1, progress="no"), TypeError, "progress must be"),
        (lambda: nbrnn.fit(net, (x * np.nan, x), mse, opt, 1, progress=False), FloatingPointError, "the loss is nan"),
    ):
        with pytest.raises(error, match=words):
            call()


@pytest.fixture(scope="module")
def errors(tmp_path_factory):
    return demo.run(tmp_path_factory.mktemp("demo") / "picture.png", progress=False, longest=120)


def test_demo_beats_the_others(errors, capsys):
    naive, autoregression, network = errors.values()
    assert network < autoregression < naive
    assert network < 0.5 * naive


def test_series():
    years, numbers = demo.sunspots()
    assert (years[0], years[-1], len(years)) == (1700, 2008, 309)
    assert numbers[years == 1957] == 190.2
    assert (np.diff(years) == 1).all()


def test_demo_is_honest():
    """Nothing of the held-back years is used before they are forecast: changing them changes no earlier forecast."""
    years, numbers = demo.sunspots()
    first = int(np.searchsorted(years, demo.TEST))
    changed = numbers.copy()
    changed[first:] = 55.0
    for series in (numbers, changed):
        scale = demo.Scale(series, first)
        with demo.Progress(1, "", False) as bar:
            network = demo.network_forecasts(scale, 0, 10, bar)[-1]
        if series is numbers:
            wanted = network[:first], demo.autoregression(scale, 9)[: first - 8]
        else:
            # Forecasts up to that of the first held-back year rest on the years before alone.
            np.testing.assert_array_equal(network[:first], wanted[0])
            np.testing.assert_array_equal(demo.autoregression(scale, 9)[: first - 8], wanted[1])


def test_text_plot():
    years, truth = np.arange(1959, 1999), np.abs(np.sin(np.arange(40) / 3)) * 100
    lines = demo.text_plot(years, truth, truth * 0.9).splitlines()
    assert len(lines) == 19
    assert sum(line.count("o") + line.count("#") for line in lines[:16]) == 40


def test_picture_without_matplotlib(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None)
    years, numbers = demo.sunspots()
    saved = demo.draw(tmp_path / "a.png", years, numbers, 259, {"network": numbers[259:]})
    assert saved.suffix == ".txt"
    assert "o observed" in saved.read_text()


def test_command(capsys):
    assert cli.main(["info"]) == 0
    shown = capsys.readouterr().out
    for name in ("nbrnn", "numba", "numpy", "scipy", "vectors", "threads", "cache", "cuda"):
        assert f"\n{name} " in "\n" + shown
    with pytest.raises(SystemExit):
        cli.main([])
    with pytest.raises(SystemExit):
        cli.main(["nonsense"])


@pytest.mark.parametrize("name", ["missing/a.png", "a.foo", "", "."])
def test_a_picture_that_cannot_be_saved_is_refused_before_the_work(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        cli.main(["demo", "--output", name])
    assert "--output: must" in capsys.readouterr().err


def test_a_loss_of_ones_own_sees_the_steps_first():
    """Whatever the network's axes, where there are lengths."""
    net = nbrnn.GRU(3, 5, batch_first=True, rng=0)
    x = np.ones((2, 7, 3), np.float32)

    def loss(y, target, lengths=None):
        assert y.shape == target.shape == (7, 2, 5)
        assert lengths == [7, 2]
        return nbrnn.losses.mse(y, target, lengths)

    target = np.zeros((2, 7, 5), np.float32)
    seen = nbrnn.fit(net, (x, target, [7, 2]), loss, nbrnn.optim.Adam(net), 1, progress=False).loss[0]
    twin = nbrnn.GRU(3, 5, batch_first=True, rng=0)
    assert seen == nbrnn.losses.mse(twin(x, lengths=[7, 2])[0], target, [7, 2], batch_first=True)[0]


def test_gradients_that_are_not_finite_stop_training():
    net = nbrnn.GRU(1, 3, rng=0)
    before = net.flat.copy()
    loss = lambda y, target: (1.0, np.full_like(y, np.inf))
    x = np.ones((4, 2, 1), np.float32)
    with pytest.raises(FloatingPointError, match="gradients have norm"):
        nbrnn.fit(net, (x, x), loss, nbrnn.optim.Adam(net), 3, progress=False)
    np.testing.assert_array_equal(net.flat, before)
