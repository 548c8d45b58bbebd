"""Estimators: scikit-learn's conventions, lists and arrays, bits, forecasts."""

import copy
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("sklearn")
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils import estimator_checks

import nbrnn
from nbrnn.estimators import Forecaster, SequenceClassifier, SequenceRegressor
from nbrnn.estimators.inputs import sequences
from nbrnn.estimators.scale import Scale
from nbrnn.estimators.series import Series, View

SMALL = dict(hidden_size=6, epochs=3, batch_size=8, random_state=0)


def drifts(count=40, C=2, ragged=True, seed=0):
    """Random walks that go up or down, and which."""
    rng = np.random.default_rng(seed)
    sign = np.where(np.arange(count) % 2, 1, -1)
    lengths = rng.integers(5, 15, count) if ragged else np.full(count, 9)
    X = [np.cumsum(rng.standard_normal((n, C)) + 0.7 * s, 0) for n, s in zip(lengths, sign, strict=True)]
    return X, np.where(sign > 0, "up", "down")


# What is given


def test_all_ways_to_give_sequences_are_one():
    X, y = drifts(ragged=False)
    objects = np.empty(len(X), object)
    objects[:] = X
    models = [SequenceClassifier(**SMALL).fit(given, y) for given in (X, np.stack(X), objects, tuple(X))]
    wanted = models[0].predict_proba(X)
    assert all(np.array_equal(model.predict_proba(X), wanted) for model in models)


def test_a_column_may_go_without_its_axis():
    X, y = drifts(C=1, ragged=False)
    flat = np.stack(X)[:, :, 0]
    a, b, c = (SequenceClassifier(**SMALL).fit(given, y) for given in (X, flat, list(flat)))
    assert a.n_features_in_ == b.n_features_in_ == c.n_features_in_ == 1
    assert np.array_equal(a.predict_proba(flat), b.predict_proba(X))
    assert np.array_equal(a.predict_proba(flat), c.predict_proba(X))


def test_float32_is_not_made_float64_and_nothing_is_changed():
    X = [np.ones((3, 2), np.float32), np.ones((4, 2), np.float32)]
    assert all(a is b for a, b in zip(sequences(X), X, strict=True))
    read_only, y = drifts()
    for x in read_only:
        x.flags.writeable = False
    SequenceClassifier(**SMALL).fit(read_only, y)


@pytest.mark.parametrize(
    "X, error, text",
    [
        (np.ones(5), ValueError, "Reshape your data"),
        (np.ones((2, 3, 2, 2)), ValueError, "4 dimension"),
        ([np.ones((3, 2)), np.ones((3, 1))], ValueError, r"X\[1\] must have 2 columns"),
        ([np.ones((3, 2)), np.ones((0, 2))], ValueError, r"X\[1\] must have at least one step"),
        ([np.ones((3, 2)), np.full((3, 2), np.nan)], ValueError, r"X\[1\] must be finite, got NaN or inf"),
        ([np.ones((3, 2)), np.full((3, 2), "a")], ValueError, r"X\[1\] must be real numbers"),
        ([np.ones((3, 2)), np.ones((3, 2)) * 1j], ValueError, "Complex"),
        ([], ValueError, "0 sequences"),
        ([np.ones((3, 2))] * 3, ValueError, "y must have an entry for each of the 3 sequences of X, got 2"),
    ],
)
def test_bad_sequences(X, error, text):
    with pytest.raises(error, match=text):
        SequenceClassifier(**SMALL).fit(X, [0, 1])


@pytest.mark.parametrize(
    "change, text",
    [
        (dict(cell="gruu"), "cell must be one of"),
        (dict(hidden_size=0), "hidden_size must be >= 1"),
        (dict(pool="sum"), "mode must be one of"),
        (dict(dropout=1.5), "must be a finite number"),
        (dict(validation_fraction=1.0), "validation_fraction must be < 1"),
        (dict(patience=3), "patience must be None where validation_fraction is 0"),
        (dict(lr=-1.0), "lr must"),
        (dict(epochs=0), "epochs must"),
    ],
)
def test_bad_parameters_are_found_by_fit(change, text):
    X, y = drifts()
    with pytest.raises(ValueError, match=text):
        SequenceClassifier(**SMALL).set_params(**change).fit(X, y)


def test_targets_that_do_not_fit():
    X, y = drifts()
    for model in (SequenceClassifier(**SMALL), SequenceRegressor(**SMALL)):
        with pytest.raises(ValueError, match="requires y to be passed"):
            model.fit(X, None)
        with pytest.raises(NotFittedError):
            model.predict(X)
    with pytest.raises(ValueError, match="at least two classes"):
        SequenceClassifier(**SMALL).fit(X, ["a"] * len(X))
    with pytest.raises(ValueError, match="loss must be one of"):
        SequenceRegressor(**SMALL, loss="l2").fit(X, np.arange(len(X)))
    with pytest.raises(ValueError, match="NaN"):
        SequenceRegressor(**SMALL).fit(X, np.full(len(X), np.nan))
    with pytest.raises(ValueError, match="X has 1 features, but SequenceClassifier is expecting 2"):
        SequenceClassifier(**SMALL).fit(X, y).predict([x[:, :1] for x in X])


# What is learned


@pytest.mark.parametrize("pool", ["mean", "max", "last"])
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_classifier_learns(cell, pool):
    X, y = drifts(80)
    model = SequenceClassifier(cell, 8, pool=pool, epochs=15, batch_size=8, random_state=0).fit(X[:50], y[:50])
    assert model.score(X[50:], y[50:]) >= 0.8
    assert model.classes_.tolist() == ["down", "up"]
    assert model.history_.loss[-1] < model.history_.loss[0]


def test_probabilities_logits_and_labels_agree():
    X, _ = drifts(60)
    three = SequenceClassifier(**SMALL, dtype="float64").fit(X, np.arange(60) % 3 * 10)
    p, z = three.predict_proba(X), three.decision_function(X)
    assert p.shape == z.shape == (60, 3)
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose(three.predict_log_proba(X), np.log(p), rtol=1e-9)
    np.testing.assert_allclose(p, np.exp(z) / np.exp(z).sum(1, keepdims=True), rtol=1e-9)
    assert np.array_equal(three.predict(X), np.array([0, 10, 20])[p.argmax(1)])
    two = SequenceClassifier(**SMALL, dtype="float64").fit(X, np.arange(60) % 2)
    z = two.decision_function(X)
    assert z.shape == (60,)
    np.testing.assert_allclose(two.predict_proba(X)[:, 1], 1 / (1 + np.exp(-z)), rtol=1e-9)


def test_outputs_are_those_of_the_network_on_each_sequence_alone():
    X, y = drifts(300)  # more than go through together
    model = SequenceClassifier(**SMALL, dtype="float64").fit(X, y)
    logits = [model.net_(model.scale_.to(x, float)[:, None], lengths=[len(x)])[0][0] for x in X]
    np.testing.assert_allclose(model.decision_function(X), np.diff(logits)[:, 0], rtol=1e-9, atol=1e-12)


def test_regressor_learns_targets_of_any_size():
    rng = np.random.default_rng(0)
    X = [rng.standard_normal((rng.integers(5, 15), 2)) for _ in range(150)]
    y = np.array([[1e4 + 300 * x[:, 0].mean(), -2e-3 * x[:, 1].mean()] for x in X])
    model = SequenceRegressor("gru", 12, epochs=25, batch_size=16, random_state=0).fit(X[:100], y[:100])
    assert model.score(X[100:], y[100:]) > 0.9
    assert model.predict(X).shape == (150, 2)
    one = SequenceRegressor("gru", 12, epochs=25, batch_size=16, random_state=0).fit(X[:100], y[:100, 0])
    assert one.predict(X).shape == (150,)
    assert one.score(X[100:], y[100:, 0]) > 0.9


def test_units_do_not_matter_where_scaled():
    X, _ = drifts(30)
    y = np.array([x.mean() for x in X])
    settings = SMALL | dict(dtype="float64")
    plain = SequenceRegressor(**settings).fit(X, y)
    other = SequenceRegressor(**settings).fit([1024 * x for x in X], 512 * y)
    np.testing.assert_allclose(other.predict([1024 * x for x in X]), 512 * plain.predict(X), rtol=1e-9)
    assert not np.allclose(SequenceRegressor(**settings, scale=False).fit(X, y).predict(X), plain.predict(X))


def test_scale():
    rng = np.random.default_rng(0)
    parts = [rng.standard_normal((n, 3)) * [1, 1e6, 0] + [1e9, 0, 0.1] for n in (4, 1, 9)]
    scale, rows = Scale.of(parts), np.concatenate(parts)
    np.testing.assert_allclose(scale.mean, rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(scale.deviation[:2], rows[:, :2].std(0), rtol=1e-6)
    assert scale.deviation[2] == 1
    np.testing.assert_allclose(scale.back(scale.to(rows, float)), rows, rtol=1e-12)


def test_part_held_back_is_not_learned_from():
    X, y = drifts(40)
    settings = SMALL | dict(validation_fraction=0.25)
    model = SequenceClassifier(**settings).fit(X, y)
    held = [q for q in range(40) if not np.array_equal(_refit_without(X, y, q, settings), model.scale_.mean)]
    assert len(held) == 30  # the others' numbers are in the scale
    assert (y[held] == "up").sum() == 15
    assert len(model.history_.validation) == SMALL["epochs"]
    stopped = SequenceClassifier(**settings | dict(patience=1, epochs=50, lr=0.3)).fit(X, y)
    assert stopped.history_.best is not None
    assert len(stopped.history_.loss) < 50


def _refit_without(X, y, place, settings):
    """The mean that scales, when the numbers of one sequence have changed."""
    changed = [x + 1000 * (q == place) for q, x in enumerate(X)]
    return SequenceClassifier(**settings | dict(epochs=1)).fit(changed, y).scale_.mean


# scikit-learn's machinery


def test_same_bits_for_a_seed_and_after_pickling():
    X, y = drifts()
    model = SequenceClassifier(**SMALL, dropout=0.3, recurrent_dropout=0.2, num_layers=2, bidirectional=True).fit(X, y)
    wanted = model.decision_function(X)
    again = clone(model)
    assert not hasattr(again, "net_")
    assert again.get_params() == model.get_params()
    for twin in (again.fit(X, y), pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert np.array_equal(twin.decision_function(X), wanted)
    assert not np.array_equal(clone(model).set_params(random_state=1).fit(X, y).decision_function(X), wanted)
    assert "SequenceClassifier(" in repr(model)


def test_grid_search_over_two_processes_is_that_over_one():
    X, y = drifts()
    grid = dict(hidden_size=[3, 6], dropout=[0.0, 0.5])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one, two = (
            GridSearchCV(SequenceClassifier("gru", epochs=2, random_state=0), grid, cv=2, n_jobs=jobs).fit(X, y)
            for jobs in (1, 2)
        )
    assert np.array_equal(one.cv_results_["mean_test_score"], two.cv_results_["mean_test_score"])
    assert one.best_params_ == two.best_params_
    assert np.array_equal(one.predict_proba(X), two.predict_proba(X))


def test_cross_validation_and_pipelines():
    X, y = drifts(ragged=False)
    log = FunctionTransformer(lambda a: [np.arctan(x) for x in a])
    scores = cross_val_score(make_pipeline(log, SequenceClassifier(**SMALL)), X, y, cv=3)
    assert scores.shape == (3,)
    assert np.isfinite(scores).all()
    scores = cross_val_score(SequenceRegressor(**SMALL), np.stack(X), np.arange(40.0), cv=2)
    assert np.isfinite(scores).all()
    flat = np.stack(X)[:, :, 0]
    assert make_pipeline(StandardScaler(), SequenceClassifier(**SMALL)).fit(flat, y).predict(flat).shape == (40,)


#: An (n, T) array is n sequences of one column, of any length: T isn't the number of features.
NOT_MEANT = dict.fromkeys(
    ["check_n_features_in", "check_n_features_in_after_fitting", "check_classifiers_train"],
    "T of an array (n, T) is the number of steps, not of features",
)
#: Trains until it is good.
LONG = ("check_classifiers_train", "check_regressors_train", "check_classifiers_classes", "check_regressors_int")


@pytest.mark.parametrize("model", [SequenceClassifier, SequenceRegressor])
def test_scikit_learns_own_checks(model):
    few = model(hidden_size=4, epochs=1)
    results = estimator_checks.check_estimator(
        few,
        expected_failed_checks=NOT_MEANT | dict.fromkeys(LONG, "learns too little in an epoch"),
        on_fail=None,
        on_skip=None,
    )
    assert [r["check_name"] for r in results if r["status"] == "failed"] == []
    assert sum(r["status"] == "passed" for r in results) >= 40


def test_scikit_learn_is_imported_when_it_is_needed():
    code = """
import sys
import nbrnn
assert "sklearn" not in sys.modules
class Without:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "sklearn":
            raise ModuleNotFoundError(name)
"""
    with_it = "nbrnn.estimators.SequenceClassifier\nassert 'sklearn' in sys.modules\n"
    without = """
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "sklearn" else found(name, *more)
try:
    nbrnn.estimators
except ImportError as error:
    assert "pip install 'nbrnn[learn]'" in str(error)
else:
    raise AssertionError("no error")
"""
    for rest in (with_it, without):
        subprocess.run([sys.executable, "-c", code + rest], check=True)
    with pytest.raises(AttributeError, match="has no attribute 'estimator'"):
        nbrnn.estimator  # noqa: B018


# Forecasts

QUICK = dict(hidden_size=8, epochs=2, random_state=0)


def waves(T=120, seed=0):
    rng = np.random.default_rng(seed)
    t = np.arange(T)
    return 50 + 10 * np.sin(2 * np.pi * t / 12) + 0.1 * t + rng.standard_normal(T)


@given(
    season=st.none() | st.integers(1, 6),
    seasons=st.integers(1, 3),
    flagged=st.booleans(),
    ahead=st.integers(1, 15),
    seed=st.integers(0, 99),
)
def test_a_network_is_told_nothing_of_what_comes(season, seasons, flagged, ahead, seed):
    rng = np.random.default_rng(seed)
    one = Series(rng.standard_normal((60, 2)), rng.standard_normal((60, 3)))
    view = View([one], season, seasons, flagged)
    origin = int(rng.integers(view.first + 3, 60 - ahead))
    at = np.arange(view.first, origin + ahead)
    origins = np.full(at.shape, origin)
    blind = Series(one.y.copy(), one.X)
    blind.y[origin:] = np.nan
    told = view.inputs(blind, at, origins)
    assert np.isfinite(told).all()
    assert np.array_equal(told, view.inputs(one, at, origins))
    # Before the origin nothing depends on it, and what the network is to give leads back to y.
    early = at[at < origin]
    assert np.array_equal(view.base(one, early, origins[: len(early)]), view.base(one, early, early))
    r = view.target(one, at, origins)
    np.testing.assert_allclose(view.forecast(blind, at, origins, r), one.y[at], rtol=1e-9, atol=1e-9)


def test_what_a_network_is_told_by_hand():
    y = np.array([3.0, 5, 4, 8, 7, 9, 6, 10])[:, None]
    X = np.array([1.0, 0, 0, 1, 1, 0, 0, 0])[:, None]
    view = View([Series(y, X)], 2, 2, True)
    (told,) = view.inputs(Series(y, X), np.array([6]), np.array([5]))  # step 6, known up to step 4
    back = view.residual.deviation[0]
    base = (y[4, 0] + y[2, 0]) / 2
    x = (X[:, 0] - X.mean()) / X.std()
    level = (base - y.mean()) / y.std()
    np.testing.assert_allclose(told, [0, 0, level, (y[4, 0] - base) / back, x[6], x[4] - x[6], x[2] - x[6]])
    # Step 7's last season, step 5, isn't known: one more back.
    assert view.base(Series(y, X), np.array([7]), np.array([5]))[0, 0] == (y[3, 0] + y[1, 0]) / 2


@pytest.mark.parametrize("strategy", ["direct", "recursive"])
@pytest.mark.parametrize("seasons", [1, 3])
def test_a_network_that_gives_nothing_is_the_seasonal_naive_forecast(strategy, seasons):
    y = waves()
    model = Forecaster(20, strategy, season=12, seasons=seasons, context=5, **QUICK).fit(y)
    for net in model.nets_:
        net.flat = 0 * net.flat
    last = y[-12 * seasons :].reshape(seasons, 12).mean(0)
    if strategy == "direct" or seasons == 1:
        np.testing.assert_allclose(model.predict(), np.concatenate([last, last[:8]]))
    else:
        np.testing.assert_allclose(model.predict()[:12], last)


@pytest.mark.parametrize("context", [None, 20])
def test_recursive_forecasts_go_on_from_forecasts(context):
    model = Forecaster(4, "recursive", context=context, dtype="float64", **QUICK).fit(waves())
    once = model.predict()
    assert once.shape == (4,)
    steps = []
    for _ in range(4):
        steps.append(model.predict(1)[0])
        model.update(steps[-1:])
    # With a context, what is read moves on as well.
    np.testing.assert_allclose(steps, once, rtol=1e-9 if context is None else 0.05)


@pytest.mark.parametrize("strategy", ["direct", "recursive"])
def test_update_is_as_if_it_had_been_known(strategy):
    y, X = waves(), np.random.default_rng(1).standard_normal((130, 2))
    model = Forecaster(6, strategy, season=12, n_networks=2, **QUICK).fit(y[:90], X[:90])
    assert len(model.nets_) == len(model.histories_) == 2
    first = model.predict(X=X[90:96])
    assert np.array_equal(first, model.predict_from(y[:90], X[:90], X[90:]))
    np.testing.assert_allclose(first[:2], model.predict(2, X[90:92]), rtol=1e-6)
    model.update(y[90:100], X[90:100]).update(y[100:], X[100:120])
    assert np.array_equal(model.predict(X=X[120:]), model.predict_from(y, X[:120], X[120:]))


@pytest.mark.parametrize("strategy", ["direct", "recursive"])
def test_forecaster_learns(strategy):
    y = waves(300)
    settings = dict(hidden_size=16, lr=0.02, context=24, epochs=25, random_state=0)
    model = Forecaster(12, strategy, **settings).fit(y[:250])
    naive = np.abs(y[249] - y[250:262]).mean()
    assert np.abs(model.predict() - y[250:262]).mean() < 0.5 * naive


def test_columns_known_ahead_are_used():
    rng = np.random.default_rng(0)
    X = rng.integers(0, 2, (260, 1)).astype(float)
    y = 5 + 3 * X[:, 0] + 0.1 * rng.standard_normal(260)
    settings = dict(hidden_size=8, lr=0.02, epochs=25, random_state=0)
    for season in (None, 7):  # with seasons, what X was a season before counts as well
        model = Forecaster(7, season=season, **settings).fit(y[:250], X[:250])
        assert np.abs(model.predict(X=X[250:]) - y[250:257]).mean() < 0.7


def test_several_series_of_several_numbers():
    ys = [np.stack([waves(n, n), -waves(n, n + 1)], 1) for n in (60, 90)]
    Xs = [np.zeros((n, 1)) for n in (60, 90)]
    model = Forecaster(5, **QUICK).fit(ys, Xs)
    found = model.predict(X=[np.zeros((5, 1))] * 2)
    assert [f.shape for f in found] == [(5, 2), (5, 2)]
    one = model.predict_from(ys[1], Xs[1], np.zeros((5, 1)))
    np.testing.assert_allclose(one, found[1], rtol=1e-6)
    assert model.update([ys[0][:3], ys[1][:2]], [Xs[0][:3], Xs[1][:2]]).predict(2, [np.zeros((2, 1))] * 2)[0].shape == (
        2,
        2,
    )


def test_forecaster_is_cloned_pickled_and_the_same_for_a_seed():
    y = waves()
    model = Forecaster(6, season=12, dropout=0.2, n_networks=2, **QUICK).fit(y)
    wanted = model.predict()
    for twin in (clone(model).fit(y), pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert np.array_equal(twin.predict(), wanted)
    assert not np.array_equal(model.nets_[0].flat, model.nets_[1].flat)
    assert not np.array_equal(clone(model).set_params(random_state=1).fit(y).predict(), wanted)


@pytest.mark.parametrize(
    "call, text",
    [
        (lambda m, y: m.set_params(horizon=0).fit(y), "horizon must be >= 1"),
        (lambda m, y: m.set_params(strategy="both").fit(y), "strategy must be one of"),
        (lambda m, y: m.set_params(season=0).fit(y), "season must be >= 1"),
        (lambda m, y: m.set_params(season=50).fit(y), "y must have at least 73 steps for these parameters, got 60"),
        (lambda m, y: m.fit(y * np.nan), "y must be finite"),
        (lambda m, y: m.fit(y[:, None, None]), r"y must have shape \(T,\) or \(T, k\)"),
        (lambda m, y: m.fit(y, y[:-1]), "X must have a row for each of the 60 steps"),
        (lambda m, y: m.fit([y, y], y), "X must be a list of 2 arrays"),
        (lambda m, y: m.fit([y, np.stack([y, y], 1)]), r"y\[1\] must have 1 columns"),
        (lambda m, y: m.fit(y).predict(7), "horizon must be <= 6"),
        (lambda m, y: m.fit(y).predict(X=y), "X must be None as for fit"),
        (lambda m, y: m.fit(y, y).predict(), "X must have 1 columns as for fit, got None"),
        (lambda m, y: m.fit(y, y).predict(X=y[:5]), r"X must have shape \(6, 1\)"),
        (lambda m, y: m.fit(y).update(np.stack([y, y], 1)), "y must have 1 columns as for fit, got 2"),
        (lambda m, y: m.fit(y).predict_from(y[:3]), "y must have at least 17 steps to forecast from, got 3"),
    ],
)
def test_what_a_forecaster_refuses(call, text):
    with pytest.raises(ValueError, match=text):
        call(Forecaster(6, **QUICK), waves(60))
    with pytest.raises(NotFittedError):
        Forecaster().predict()
