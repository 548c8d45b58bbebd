"""fit, the demo, the command."""

import contextlib
import pickle
import sys

import numpy as np
import pytest

import nbrnn
from nbrnn import cli, demo
from nbrnn._progress import Progress
from tests.teams import forced


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


def test_progress_on_a_terminal_without_tqdm(capsys, monkeypatch):
    """A line is rewritten in place; what is said within an epoch is seen at once."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with Progress(5, "work", True) as bar:
        bar.skip(2)
        bar.say("something quite long")
        bar.say("short")
        bar.step("done")
    lines = capsys.readouterr().err.split("\r")
    assert "2/5" in lines[-3]
    assert lines[-3].endswith("something quite long")
    assert lines[-2].rstrip().endswith("short")
    assert len(lines[-2]) == len(lines[-3])  # nothing is left of what stood there
    assert "3/5" in lines[-1]
    assert lines[-1].rstrip().endswith("done")


def test_what_is_shown_within_a_long_epoch(monkeypatch):
    said = []
    monkeypatch.setattr(Progress, "say", lambda self, text: said.append(text))
    monkeypatch.setattr(nbrnn.training.run, "SHOWN", 0.0)
    net, x = model(), wave()
    nbrnn.fit(net, [(x, x)] * 3, nbrnn.losses.mse, nbrnn.optim.Adam(net), 2, progress=False)
    assert [text.split(",")[0] for text in said] == ["1/3 batches", "2/3 batches", "3/3 batches"] * 2
    assert all("loss" in text and "sequences/s" in text for text in said)


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


# Stopping early, schedules, metrics


def overfitting(seed=0):
    """Few noisy numbers to learn from, and others to be judged by."""
    rng = np.random.default_rng(seed)
    x, other = (rng.standard_normal((4, 6, 2)).astype(np.float32) for _ in range(2))
    return (x, rng.standard_normal((4, 6, 8))), (other, rng.standard_normal((4, 6, 8)))


def test_early_stopping_puts_the_best_parameters_back():
    data, validation = overfitting()
    net = nbrnn.GRU(2, 8, rng=0)
    flats = []
    history = nbrnn.fit(
        net, data, nbrnn.losses.mse, nbrnn.optim.Adam(net, lr=0.1), 200, validation=validation, patience=4,
        progress=False, callback=lambda epoch, history: flats.append(net.flat.copy()),
    )  # fmt: skip
    best = int(np.argmin(history.validation))
    assert history.best == best
    assert len(history.validation) == best + 1 + 4 < 200
    np.testing.assert_array_equal(net.flat, flats[best])
    assert nbrnn.training.evaluate(net, validation, nbrnn.losses.mse).loss == history.validation[best]


@pytest.mark.parametrize(
    "options, back",
    [({"patience": 50}, True), ({"restore_best": True}, True), ({"patience": 50, "restore_best": False}, False)],
)
def test_the_best_parameters_come_back_when_epochs_run_out_too(options, back):
    (data, validation), net, flats = overfitting(), nbrnn.GRU(2, 8, rng=0), []
    history = nbrnn.fit(
        net, data, nbrnn.losses.mse, nbrnn.optim.Adam(net, lr=0.1), 15, validation=validation, progress=False,
        callback=lambda epoch, history: flats.append(net.flat.copy()), **options,
    )  # fmt: skip
    best = int(np.argmin(history.validation))
    assert best < 14
    assert len(history.validation) == 15
    assert history.best == (best if back else None)
    np.testing.assert_array_equal(net.flat, flats[best if back else -1])


def test_a_decrease_must_be_large_enough_to_count():
    data, validation = overfitting()
    lengths = []
    for min_delta in (0.0, 1e6):
        net = nbrnn.GRU(2, 8, rng=0)
        history = nbrnn.fit(
            net, data, nbrnn.losses.mse, nbrnn.optim.Adam(net), 30, validation=validation, patience=3,
            min_delta=min_delta, progress=False,
        )  # fmt: skip
        lengths.append(len(history.loss))
    assert lengths[0] > 4
    assert lengths[1] == 4  # the first counts, whatever it is; then none


class Recorder:
    """A schedule that keeps what it is given."""

    def __init__(self):
        self.given = []

    def step(self, metric=None):
        self.given.append(metric)


def test_schedules_are_stepped_when_they_are_to_be():
    (x, target), validation = overfitting()
    data = [(x, target)] * 3
    runs = (
        (None, lambda s: s, lambda h: h.loss),
        (validation, lambda s: (s, "epoch"), lambda h: h.validation),
        (validation, lambda s: (s, "batch"), lambda h: [None] * 12),
    )
    for held_out, given, wanted in runs:
        net, schedule = nbrnn.GRU(2, 8, rng=0), Recorder()
        history = nbrnn.fit(
            net, data, nbrnn.losses.mse, nbrnn.optim.Adam(net), 4, validation=held_out, schedule=given(schedule),
            progress=False,
        )  # fmt: skip
        assert schedule.given == wanted(history)
    net, schedule = nbrnn.GRU(2, 8, rng=0), Recorder()
    nbrnn.fit(
        net, data, nbrnn.losses.mse, nbrnn.optim.Adam(net), 2, bptt=2, schedule=(schedule, "batch"), progress=False
    )
    assert len(schedule.given) == 2 * 3 * 2


def test_the_learning_rate_is_recorded():
    data, _ = overfitting()
    net = nbrnn.GRU(2, 8, rng=0)
    opt = nbrnn.optim.Adam(net, lr=0.1)

    class Half:
        def step(self, metric=None):
            opt.lr /= 2

    assert nbrnn.fit(net, data, nbrnn.losses.mse, opt, 3, schedule=Half(), progress=False).lr == [0.1, 0.05, 0.025]


def test_a_metric_in_training_and_on_validation_data():
    data, validation = overfitting()
    distance = lambda y, target, lengths: abs(y - target).mean() if lengths is None else 1 / 0
    net = nbrnn.GRU(2, 8, rng=0)
    opt = nbrnn.optim.Adam(net, lr=0.0)
    trained = nbrnn.fit(net, data, nbrnn.losses.mse, opt, 2, metric=distance, progress=False)
    held_out = nbrnn.fit(net, data, nbrnn.losses.mse, opt, 2, metric=distance, validation=validation, progress=False)
    for history, (x, target) in ((trained, data), (held_out, validation)):
        assert history.metric == [pytest.approx(abs(net(x)[0] - target).mean())] * 2


def test_bounds_for_gradients():
    """With plain descent, a step is the gradient itself."""
    (x, target), _ = overfitting()

    class Descent:
        def __init__(self, net):
            self.net = net

        def step(self, grads):
            self.steps = grads.flat.copy()

    kept = {}
    for name, options in (
        ("none", {}), ("norm", {"clip_norm": 0.01}), ("value", {"clip_value": 0.001}),
        ("both", {"clip_norm": 0.01, "clip_value": 0.001}),
    ):  # fmt: skip
        net = nbrnn.GRU(2, 8, rng=0)
        opt = Descent(net)
        history = nbrnn.fit(net, (x, target), nbrnn.losses.mse, opt, 1, progress=False, **options)
        kept[name] = opt.steps
        assert history.norm[0] == pytest.approx(np.linalg.norm(kept["none"]), rel=1e-6)
    assert np.linalg.norm(kept["norm"]) == pytest.approx(0.01, rel=1e-5)
    np.testing.assert_array_equal(kept["value"], np.clip(kept["none"], np.float32(-0.001), np.float32(0.001)))
    np.testing.assert_array_equal(kept["both"], np.clip(kept["norm"], np.float32(-0.001), np.float32(0.001)))


def test_all_callbacks_are_called_and_any_ends_training():
    data, _ = overfitting()
    net, calls = nbrnn.GRU(2, 8, rng=0), []

    def first(epoch, history):
        calls.append(("first", epoch, len(history.loss), len(history.seconds)))
        return epoch == 1

    callbacks = [first, lambda epoch, history: calls.append(("second", epoch))]
    nbrnn.fit(net, data, nbrnn.losses.mse, nbrnn.optim.Adam(net), 9, callback=callbacks, progress=False)
    assert calls == [("first", 0, 1, 1), ("second", 0), ("first", 1, 2, 2), ("second", 1)]


# What isn't finite


def test_numbers_that_are_not_finite_stop_training_before_the_step():
    """The error says where; the parameters are those of the last step."""
    rng = np.random.default_rng(0)
    xs = [rng.standard_normal((4, 2)).astype(np.float32) for _ in range(12)]
    bad = 7
    xs[bad][2, 1] = np.nan
    flats = []
    net = nbrnn.GRU(2, 3, rng=0)

    class Watched(nbrnn.optim.Adam):
        def step(self, grads):
            super().step(grads)
            flats.append(self.net.flat.copy())

    with pytest.raises(
        FloatingPointError, match=r"the loss is nan in epoch 0, step (\d), batch \1 \(data .*\b7\b"
    ) as caught:
        nbrnn.fit(
            net, (xs, [np.zeros((4, 3))] * 12), nbrnn.losses.mse, Watched(net), 3, batch_size=2, rng=3, progress=False
        )
    error = caught.value
    assert isinstance(error, nbrnn.training.NotFiniteError)
    assert bad in error.indices
    assert len(error.indices) == 2
    assert (error.epoch, error.step) == (0, error.batch)
    assert error.step == len(flats) > 0
    np.testing.assert_array_equal(net.flat, flats[-1])
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert (again.epoch, again.step, again.batch, again.indices.tolist()) == (
        error.epoch, error.step, error.batch, error.indices.tolist()
    )  # fmt: skip


def test_a_step_to_parameters_that_are_not_finite_is_taken_back():
    net = nbrnn.GRU(1, 3, rng=0)
    before, x = net.flat.copy(), np.ones((4, 2, 1), np.float32)

    class TooFar:
        def step(self, grads):
            with np.errstate(over="ignore"):
                net.flat = net.flat + np.float32(3e38) * np.float32(10) * np.sign(grads.flat)

    target = np.ones((4, 2, 3), np.float32)
    with pytest.raises(FloatingPointError, match="the parameters are not finite after a step in epoch 0, step 0"):
        nbrnn.fit(net, (x, target), nbrnn.losses.mse, TooFar(), 3, progress=False)
    np.testing.assert_array_equal(net.flat, before)


# Bits


def test_the_same_bits_for_any_number_of_threads():
    rng = np.random.default_rng(0)
    xs = [rng.standard_normal((k, 3)).astype(np.float32) for k in rng.integers(2, 12, 40)]
    targets = [rng.standard_normal((len(x), 5)) for x in xs]
    results = []
    for threads in (contextlib.nullcontext(), forced(2, 1), forced(3, 3)):
        net = nbrnn.Sequential(
            nbrnn.LSTM(3, 24, 2, dropout=0.2, rng=0), nbrnn.Dropout(0.3, rng=1), nbrnn.Linear(24, 5, rng=2)
        )
        opt = nbrnn.optim.Adam(net, lr=0.01)
        with threads:
            history = nbrnn.fit(net, (xs, targets), nbrnn.losses.mse, opt, 2, rng=5, clip_norm=0.5, progress=False)
        results.append((net.flat.tobytes(), history.loss, history.norm))
    assert results[0] == results[1] == results[2]


def test_more_bad_input():
    net, x = model(), wave()
    opt, mse, schedule = nbrnn.optim.Adam(net), nbrnn.losses.mse, Recorder()
    other = nbrnn.optim.Adam(model())
    for options, error, words in (
        ({"batch_size": 0}, ValueError, "batch_size must be >= 1"),
        ({"bptt": 0}, ValueError, "bptt must be >= 1"),
        ({"bptt": 2.5}, TypeError, "bptt must be an integer"),
        ({"clip_value": 0}, ValueError, "clip_value must be"),
        ({"schedule": 3}, TypeError, "schedule must have a method step, got int"),
        ({"schedule": nbrnn.optim.schedules.Step(other, 1)}, ValueError, "schedule must be one of the optimizer"),
        ({"schedule": (schedule, "step")}, ValueError, r"schedule\[1\] must be one of"),
        ({"schedule": (schedule, "epoch", 1)}, ValueError, "schedule must be a schedule, or a pair"),
        ({"metric": 3}, TypeError, "metric must be callable or None, got int"),
        ({"patience": 3}, ValueError, "validation must be given for patience"),
        ({"restore_best": True}, ValueError, "validation must be given for restore_best"),
        ({"patience": 0, "validation": (x, x)}, ValueError, "patience must be >= 1"),
        ({"min_delta": -1}, ValueError, "min_delta must be"),
        ({"restore_best": 1, "validation": (x, x)}, TypeError, "restore_best must be True or False"),
        ({"callback": 3}, TypeError, "callback must be callable"),
        ({"callback": [print, 3]}, TypeError, "callback must be callable"),
        ({"checkpoint_every": 3}, ValueError, "checkpoint_every must be None without checkpoint_dir"),
        ({"rng": "no"}, TypeError, "rng must be"),
        ({"optimizer": other}, ValueError, "optimizer must be one for net"),
        ({"validation": []}, ValueError, "validation must hold at least one batch"),
    ):
        with pytest.raises(error, match=words):
            nbrnn.fit(
                **(
                    {"net": net, "data": (x, x), "loss": mse, "optimizer": opt, "epochs": 1, "progress": False}
                    | options
                )
            )


def test_a_history_copies_and_pickles():
    history = nbrnn.training.History([1.0], best=0)
    assert pickle.loads(pickle.dumps(history)) == history
