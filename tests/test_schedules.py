"""Schedules of learning rates against torch's; states; bad input."""

import copy
import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nbrnn
from nbrnn.optim import SGD, schedules

NAN, INF = float("nan"), float("inf")


def optimiser(lr=0.3):
    return SGD(nbrnn.RNN(1, 2, rng=0), lr=lr)


def rates_of(schedule, calls, metrics=None):
    """The learning rates from the beginning on."""
    rates = [schedule.lr]
    for t in range(calls):
        schedule.step(None if metrics is None else metrics[t])
        rates.append(schedule.lr)
        assert schedule.lr == schedule.opt.lr
    return rates


def theirs(make, calls, metrics=None, lr=0.3):
    torch = pytest.importorskip("torch")
    opt = torch.optim.SGD([torch.zeros(1)], lr=lr)
    schedule = make(torch.optim.lr_scheduler, opt)
    rates = [opt.param_groups[0]["lr"]]
    for t in range(calls):
        opt.step()
        schedule.step(*[] if metrics is None else [metrics[t]])
        rates.append(opt.param_groups[0]["lr"])
    return rates


@pytest.mark.parametrize("settings", [(7, 0.5), (1, 0.9), (60, 0.1)])
def test_step(settings):
    ours = rates_of(schedules.Step(optimiser(), *settings), 50)
    np.testing.assert_allclose(ours, theirs(lambda t, opt: t.StepLR(opt, *settings), 50), rtol=1e-13)


@pytest.mark.parametrize("settings", [(50, 0.0), (50, 0.01), (20, 0.05)])
def test_cosine(settings):
    ours = rates_of(schedules.Cosine(optimiser(), *settings), 50)
    np.testing.assert_allclose(ours, theirs(lambda t, opt: t.CosineAnnealingLR(opt, *settings), 50), atol=1e-15)
    assert ours[settings[0]] == settings[1]


@pytest.mark.parametrize("steps", [2, 10, 50])
def test_warm_up(steps):
    ours = rates_of(schedules.WarmUp(optimiser(), steps), 50)
    expected = theirs(lambda t, opt: t.LinearLR(opt, 1 / steps, total_iters=steps - 1), 50)
    np.testing.assert_allclose(ours, expected, rtol=1e-13)
    assert ours[steps - 1] == 0.3
    assert rates_of(schedules.WarmUp(optimiser(), 1), 3) == [0.3] * 4


def test_warm_up_and_then_another():
    opt = optimiser()
    ours = rates_of(schedules.WarmUp(opt, 8, then=schedules.Cosine(opt, 40, 0.01)), 46)
    expected = theirs(
        lambda t, opt: t.SequentialLR(
            opt, [t.LinearLR(opt, 1 / 8, total_iters=7), t.CosineAnnealingLR(opt, 40, 0.01)], milestones=[7]
        ),
        46,
    )
    np.testing.assert_allclose(ours, expected, rtol=1e-12)
    for make in (
        lambda opt: schedules.Step(opt, 3),
        lambda opt: schedules.OneCycle(opt, 0.5, 30),
        lambda opt: schedules.WarmUp(opt, 4, then=schedules.Step(opt, 2)),
    ):
        opt, twin = optimiser(), optimiser()
        ours = rates_of(schedules.WarmUp(opt, 5, then=make(opt)), 30)
        alone = rates_of(make(twin), 26)
        assert ours[4:] == alone
        np.testing.assert_allclose(ours[:5], alone[0] * np.arange(1, 6) / 5, rtol=1e-15)


@pytest.mark.parametrize(
    "total, settings",
    [
        (51, {}),
        (60, {"pct_start": 0.5}),
        (51, {"pct_start": 0.0}),
        (51, {"div_factor": 10.0, "final_div_factor": 50.0}),
    ],
)
def test_one_cycle(total, settings):
    ours = rates_of(schedules.OneCycle(optimiser(), 0.7, total, **settings), 50)
    expected = theirs(lambda t, opt: t.OneCycleLR(opt, 0.7, total, cycle_momentum=False, **settings), 50)
    np.testing.assert_allclose(ours, expected, rtol=1e-12)


@given(st.integers(1, 40), st.floats(0, 1))
def test_one_cycle_has_its_ends_wherever_its_top_is(total, pct_start):
    rates = rates_of(schedules.OneCycle(optimiser(), 0.7, total, pct_start), total + 5)
    assert max(rates) <= 0.7 * (1 + 1e-12)
    assert min(rates) >= 0.7 / 25 / 1e4 * (1 - 1e-12)
    assert len(set(rates[total - 1 :])) == 1
    if pct_start * total > 1:
        assert rates[0] == pytest.approx(0.7 / 25)
    if pct_start * total < total:
        assert rates[-1] == pytest.approx(0.7 / 25 / 1e4)
    top = int(np.argmax(rates))
    assert (np.diff(rates[: top + 1]) >= 0).all()
    assert (np.diff(rates[top:]) <= 0).all()


@given(
    st.lists(st.sampled_from([1.0, 0.99995, 0.9999, 0.9, 0.5, -0.1, NAN, INF]), min_size=50, max_size=50),
    st.integers(0, 4),
    st.integers(0, 3),
    st.sampled_from([1e-4, 0.0, 0.2]),
    st.sampled_from([0.0, 0.05, 1.0]),
)
def test_plateau(metrics, patience, cooldown, threshold, lr_min):
    ours = schedules.Plateau(optimiser(), 0.5, patience, threshold, cooldown, lr_min)
    expected = theirs(
        lambda t, opt: t.ReduceLROnPlateau(
            opt, factor=0.5, patience=patience, threshold=threshold, cooldown=cooldown, min_lr=lr_min, eps=0
        ),
        50,
        metrics,
    )
    assert rates_of(ours, 50, metrics) == expected


def test_plateau_needs_a_metric_and_minds_no_other_change():
    opt = optimiser()
    schedule = schedules.Plateau(opt, factor=0.5, patience=0)
    for metric in (None, "low", [1.0]):
        with pytest.raises(TypeError, match="metric must be a real number"):
            schedule.step(metric)
    assert schedule.t == 0
    schedule.step(1)
    opt.lr = 0.2
    schedule.step(np.float32(1))
    assert opt.lr == 0.1


MAKERS = {
    "Step": lambda opt: schedules.Step(opt, 3, 0.7),
    "Cosine": lambda opt: schedules.Cosine(opt, 25, 0.01),
    "WarmUp": lambda opt: schedules.WarmUp(opt, 6),
    "WarmUp, Cosine": lambda opt: schedules.WarmUp(opt, 6, then=schedules.Cosine(opt, 30)),
    "WarmUp, Plateau": lambda opt: schedules.WarmUp(opt, 6, then=schedules.Plateau(opt, 0.5, 1)),
    "OneCycle": lambda opt: schedules.OneCycle(opt, 0.9, 21),
    "Plateau": lambda opt: schedules.Plateau(opt, 0.7, 2, cooldown=2),
}
OTHERS = {
    "Step": lambda opt: schedules.Step(opt, 1),
    "Cosine": lambda opt: schedules.Cosine(opt, 1),
    "WarmUp": lambda opt: schedules.WarmUp(opt, 1),
    "WarmUp, Cosine": lambda opt: schedules.WarmUp(opt, 1, then=schedules.Cosine(opt, 3)),
    "WarmUp, Plateau": lambda opt: schedules.WarmUp(opt, 1, then=schedules.Plateau(opt)),
    "OneCycle": lambda opt: schedules.OneCycle(opt, 1.0, 2),
    "Plateau": lambda opt: schedules.Plateau(opt),
}


@pytest.mark.parametrize("kind", MAKERS)
@given(st.integers(0, 20), st.lists(st.sampled_from([3.0, 2.0, 1.0]), min_size=35, max_size=35))
def test_states_go_on_to_the_bit(kind, calls, metrics):
    schedule = MAKERS[kind](optimiser())
    rates_of(schedule, calls, metrics)
    state = json.loads(json.dumps(schedule.state_dict(), allow_nan=False))
    twins = [copy.deepcopy(schedule), copy.copy(schedule), pickle.loads(pickle.dumps(schedule))]
    expected = rates_of(schedule, 15, metrics[calls:])
    for twin in twins:
        assert rates_of(twin, 15, metrics[calls:]) == expected
    fresh = OTHERS[kind](optimiser(0.01))
    inner = getattr(fresh, "then", None)
    fresh.load_state_dict(state)
    assert getattr(fresh, "then", None) is inner
    assert fresh.state_dict() == state
    assert rates_of(fresh, 15, metrics[calls:]) == expected
    assert fresh.state_dict() == schedule.state_dict()
    assert repr(fresh) == repr(schedule)


def test_optimisers_and_schedules_copied_together_belong_together():
    opt = optimiser()
    opt_2, schedule = copy.deepcopy((opt, schedules.Step(opt, 1, 0.5)))
    schedule.step()
    assert (opt.lr, opt_2.lr) == (0.3, 0.15)


def test_repr():
    opt = optimiser()
    cosine = schedules.Cosine(opt, 9)
    assert repr(cosine) == "<Cosine(total=9, lr_min=0.0) after 0 calls: lr 0.3>"
    warm = schedules.WarmUp(opt, 3, then=cosine)
    warm.step()
    assert repr(warm) == "<WarmUp(steps=3, then=Cosine(total=9, lr_min=0.0)) after 1 call: lr 0.2>"


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda opt: schedules.Step(3, 1), TypeError, "opt must be an optimiser of nbrnn.optim, got int"),
        (lambda opt: schedules.Step(opt, 0), ValueError, "every must be >= 1"),
        (lambda opt: schedules.Step(opt, 2.5), TypeError, "every must be an integer"),
        (lambda opt: schedules.Step(opt, 2, NAN), ValueError, "gamma must be"),
        (lambda opt: schedules.Cosine(opt, 0), ValueError, "total must be >= 1"),
        (lambda opt: schedules.Cosine(opt, 5, -1.0), ValueError, "lr_min must be"),
        (lambda opt: schedules.WarmUp(opt, 0), ValueError, "steps must be >= 1"),
        (lambda opt: schedules.WarmUp(opt, 3, opt), TypeError, "then must be a schedule or None, got SGD"),
        (
            lambda opt: schedules.WarmUp(opt, 3, schedules.Step(optimiser(), 3)),
            ValueError,
            "then must be .* same optimiser",
        ),
        (lambda opt: schedules.OneCycle(opt, -1.0, 5), ValueError, "lr_max must be"),
        (lambda opt: schedules.OneCycle(opt, 1.0, 5, 1.5), ValueError, "pct_start must be"),
        (lambda opt: schedules.OneCycle(opt, 1.0, 5, div_factor=0), ValueError, "div_factor must be"),
        (lambda opt: schedules.OneCycle(opt, 1.0, 5, final_div_factor=INF), ValueError, "final_div_factor must be"),
        (lambda opt: schedules.Plateau(opt, factor=2), ValueError, "factor must be"),
        (lambda opt: schedules.Plateau(opt, patience=-1), ValueError, "patience must be >= 0"),
        (lambda opt: schedules.Plateau(opt, threshold=-1), ValueError, "threshold must be"),
        (lambda opt: schedules.Plateau(opt, cooldown=0.5), TypeError, "cooldown must be an integer"),
        (lambda opt: schedules.Plateau(opt, lr_min=None), TypeError, "lr_min must be"),
    ],
)
def test_bad_input(make, error, words):
    opt = optimiser()
    with pytest.raises(error, match=words):
        make(opt)
    assert opt.lr == 0.3


def test_bad_states():
    opt = optimiser()
    begun = schedules.Step(opt, 3)
    begun.step()
    with pytest.raises(ValueError, match="then must not have begun, got <Step"):
        schedules.WarmUp(opt, 3, begun)
    warm = schedules.WarmUp(opt, 4, then=schedules.Plateau(opt))
    warm.step()
    state, before = warm.state_dict(), opt.lr
    for bad, error, words in (
        (None, TypeError, "state must be what state_dict.. of WarmUp gave, got NoneType"),
        (state | {"kind": "Step"}, ValueError, "state must be that of WarmUp, got that of Step"),
        ({k: v for k, v in state.items() if k not in ("t", "lr")}, ValueError, "lr, t missing"),
        (state | {"t": -1}, ValueError, r"state\['t'\] must be >= 0"),
        (state | {"lr": NAN}, ValueError, r"state\['lr'\] must be"),
        (state | {"base": None}, TypeError, r"state\['base'\] must be"),
        (state | {"steps": 0}, ValueError, "steps must be >= 1"),
        (state | {"then": None}, TypeError, "state must be what state_dict.. of Plateau gave"),
        (state | {"then": state["then"] | {"bad": "no"}}, TypeError, r"state\['bad'\] must be an integer"),
        (state | {"then": state["then"] | {"best": NAN}}, ValueError, r"state\['best'\] must be"),
    ):
        with pytest.raises(error, match=words):
            warm.load_state_dict(bad)
        assert (warm.state_dict(), opt.lr) == (state, before)
    with pytest.raises(ValueError, match=r"state\['then'\] must be None for a WarmUp with nothing after it"):
        schedules.WarmUp(opt, 4).load_state_dict(state)
