"""Runs that are interrupted, however brutally, come to the same bits as if they had not been."""

import copy
import functools
import json
import os
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nbrnn
from nbrnn.io import container
from nbrnn.optim import schedules
from nbrnn.training.checkpoints import Folder, digest, pack, unpack
from tests.processes import finish, start

pytest.importorskip("safetensors")

mse = nbrnn.losses.mse


def ragged(n=18, seed=0):
    rng = np.random.default_rng(seed)
    xs = [rng.standard_normal((k, 2)).astype(np.float32) for k in rng.integers(1, 12, n)]
    return xs, [rng.standard_normal((len(x), 3)) for x in xs]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    """Only processes that are killed wait for their disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class InterruptedTrainingError(Exception):
    """What stands for anything that ends a process."""


class Setup:
    """A run as a script makes it, with everything that must be remembered: dropout, stretches, a schedule."""

    def __init__(self, plateau=False, **options):
        lstm = nbrnn.LSTM(2, 6, 2, dropout=0.2, rng=0)
        self.net = nbrnn.Sequential(lstm, nbrnn.Dropout(0.3, rng=1), nbrnn.Linear(6, 3, rng=2))
        self.optimizer = nbrnn.optim.Adam(self.net, lr=0.03)
        schedule = schedules.Plateau(self.optimizer, patience=0) if plateau else schedules.Cosine(self.optimizer, 40)
        self.options = {
            "batch_size": 4, "bptt": 5, "validation": ragged(5, 1), "patience": 4, "clip_norm": 0.7, "rng": 3,
            "schedule": schedule if plateau else (schedule, "batch"),
            "metric": lambda y, target, lengths: float(y[0, 0, 0]), "progress": False,
        } | options  # fmt: skip

    def fit(self, epochs=4, data=None, **more):
        return nbrnn.fit(self.net, data or ragged(), mse, self.optimizer, epochs, **(self.options | more))

    def interrupted(self, step, folder, epochs=4, **more):
        """The same, until the optimiser has done so many steps; whether it came to that."""
        counted, inner = 0, self.optimizer.step

        def step_or_not(grads):
            nonlocal counted
            if counted == step:
                raise InterruptedTrainingError
            counted += 1
            inner(grads)

        vars(self.optimizer)["step"] = step_or_not
        try:
            self.fit(epochs, checkpoint_dir=folder, **more)
        except InterruptedTrainingError:
            return True
        finally:
            del vars(self.optimizer)["step"]
        return False


def outcome(net, history, optimizer=None):
    """All bits there are."""
    told = {k: v for k, v in vars(history).items() if k != "seconds"}
    moments = None if optimizer is None else {k: np.array(v).tobytes() for k, v in optimizer.state_dict().items()}
    return net.flat.tobytes(), told, moments


@functools.cache
def unbroken(epochs=4, **options):
    run = Setup(**options)
    history = run.fit(epochs)
    return outcome(run.net, history, run.optimizer)


def state_of(rng):
    return rng.bit_generator.state


@pytest.mark.parametrize("every", [None, 1, 3])
@pytest.mark.parametrize("options", [{}, {"plateau": True}, {"bptt": None}, {"rng": None, "shuffle": False}], ids=str)
def test_a_run_that_is_resumed_has_the_bits_of_one_that_was_not_interrupted(tmp_path, every, options):
    for q, step in enumerate((0, 1, 7, 18)):
        folder = tmp_path / str(q)
        assert Setup(**options).interrupted(step, folder, checkpoint_every=every)
        run = Setup(**options)
        history = run.fit(checkpoint_dir=folder, checkpoint_every=every)
        assert outcome(run.net, history, run.optimizer) == unbroken(**options)
        assert len(history.seconds) == len(history.loss)


def test_a_run_that_is_interrupted_all_the_time(tmp_path):
    """A new process each time, which comes two steps farther than its last checkpoint."""
    times = 0
    while Setup().interrupted(2, tmp_path, checkpoint_every=2):
        times += 1
    assert times > 10
    run = Setup()
    history = run.fit(checkpoint_dir=tmp_path)
    assert outcome(run.net, history, run.optimizer) == unbroken()


def test_a_run_without_a_seed_goes_on_in_the_same_process_or_another(tmp_path):
    """Whatever the network, the optimiser and the generators have been used for meanwhile."""
    same = Setup(rng=None)
    assert same.interrupted(11, tmp_path / "a", checkpoint_every=4)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    same.net.flat = np.ones_like(same.net.flat)
    same.net.forward(np.ones((2, 1, 2), np.float32))
    same.options["schedule"][0].step()
    fresh = Setup(rng=None)
    wanted = outcome(fresh.net, fresh.fit(checkpoint_dir=tmp_path / "b"), fresh.optimizer)
    assert outcome(same.net, same.fit(checkpoint_dir=tmp_path / "a"), same.optimizer) == wanted


def test_generators_go_on_where_they_stood(tmp_path):
    rng, twin = np.random.default_rng(9), np.random.default_rng(9)
    Setup(rng=twin).fit()
    Setup(rng=rng).interrupted(11, tmp_path)
    fresh = np.random.default_rng(1234)
    Setup(rng=fresh).fit(checkpoint_dir=tmp_path)
    assert state_of(fresh) == state_of(twin)


@pytest.mark.parametrize("kind", ["MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64"])
def test_all_kinds_of_generators(tmp_path, kind):
    make = lambda: np.random.Generator(getattr(np.random, kind)(7))
    wanted = Setup(rng=make())
    history = wanted.fit()
    Setup(rng=make()).interrupted(11, tmp_path, checkpoint_every=2)
    run = Setup(rng=make())
    assert outcome(run.net, run.fit(checkpoint_dir=tmp_path)) == outcome(wanted.net, history)


def test_the_last_two_are_kept(tmp_path):
    Setup(patience=None).fit(3, checkpoint_dir=tmp_path, checkpoint_every=2)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert len(names) == 2
    first, second = (int(name[11:17]) for name in names)
    assert second == first + 1 > 5


@pytest.mark.parametrize("patience", [None, 2])
def test_a_finished_run_goes_on_with_more_epochs(tmp_path, patience):
    run = Setup(patience=patience)
    early = run.fit(2, checkpoint_dir=tmp_path)
    assert len(early.loss) == 2
    again = Setup(patience=patience)
    history = again.fit(9, checkpoint_dir=tmp_path)
    assert outcome(again.net, history, again.optimizer) == unbroken(9, patience=patience)
    # And once more with nothing left to do, in this and in a fresh process.
    for same in (again, Setup(patience=patience)):
        history = same.fit(9, checkpoint_dir=tmp_path)
        assert outcome(same.net, history, same.optimizer) == unbroken(9, patience=patience)


def test_a_run_that_a_callback_has_ended_stays_ended(tmp_path):
    for _ in range(2):
        run = Setup()
        assert len(run.fit(9, checkpoint_dir=tmp_path, callback=lambda epoch, history: epoch == 1).loss) == 2


def test_another_run_is_refused_and_says_why(tmp_path):
    Setup().fit(1, checkpoint_dir=tmp_path)
    xs, targets = ragged()
    changed = [targets[0] + 1e-9, *targets[1:]]
    for options, data, words in (
        ({"clip_norm": 0.5}, None, "clip_norm was 0.7, is 0.5"),
        ({"batch_size": 5, "bptt": None}, None, "batch_size was 4, is 5; bptt was 5, is None"),
        ({"rng": 4}, None, "rng was 3, is 4"),
        ({"validation": ragged(5, 2)}, None, "validation was"),
        ({"plateau": True}, None, "schedule: stepped was 'batch', is 'epoch'; schedule: kind was 'Cosine', is"),
        ({}, (xs, changed), "data was"),
        ({"metric": None}, None, "metric was '<lambda>', is None"),
    ):
        with pytest.raises(ValueError, match="checkpoint_dir must not hold another run's checkpoints: .*" + words):
            Setup(**options).fit(1, data, checkpoint_dir=tmp_path)
    run = Setup()
    for net, optimizer, words in (
        (nbrnn.GRU(2, 3, rng=0), nbrnn.optim.Adam, "network was"),
        (copy.deepcopy(run.net), functools.partial(nbrnn.optim.Adam, betas=(0.8, 0.99)), "optimizer: betas was"),
        (copy.deepcopy(run.net), nbrnn.optim.SGD, "optimizer: kind was 'Adam', is 'SGD'"),
        (copy.deepcopy(run.net), nbrnn.optim.Adam, "schedule: base was 0.03, is 0.001"),
    ):
        run.net, run.optimizer = net, optimizer(net)
        run.options["schedule"] = schedules.Cosine(run.optimizer, 40), "batch"
        before = net.flat.copy()
        with pytest.raises(ValueError, match=words):
            run.fit(1, checkpoint_dir=tmp_path)
        np.testing.assert_array_equal(net.flat, before)


def test_without_a_schedule_the_learning_rate_belongs_to_the_run(tmp_path):
    run = Setup(schedule=None)
    run.fit(1, checkpoint_dir=tmp_path)
    run.optimizer.lr = 0.5
    with pytest.raises(ValueError, match=r"optimizer: lr was 0.03, is 0.5"):
        run.fit(2, checkpoint_dir=tmp_path)


def test_optimisers_that_cannot_be_kept_are_refused(tmp_path):
    class Plain:
        def step(self, grads):
            pass

    run = Setup(schedule=None)
    run.optimizer = Plain()
    with pytest.raises(TypeError, match="optimizer must have a method state_dict, got Plain"):
        run.fit(1, checkpoint_dir=tmp_path)
    with pytest.raises(TypeError, match="schedule must have a method state_dict, got Plain"):
        Setup(schedule=Plain()).fit(1, checkpoint_dir=tmp_path)


def test_folders_that_are_none(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ValueError, match="checkpoint_dir must be a folder, got a file"):
        Setup().fit(1, checkpoint_dir=file)
    with pytest.raises(TypeError, match="checkpoint_dir must be a path, got int"):
        Setup().fit(1, checkpoint_dir=3)
    container.write(tmp_path / "checkpoint-000007.safetensors", {"a": np.ones(3)}, {"what": "another's"})
    with pytest.raises(ValueError, match="checkpoint_dir must hold checkpoints of fit, got other files"):
        Setup().fit(1, checkpoint_dir=tmp_path)


# Damaged files


def broken_run(tmp_path):
    Setup().interrupted(20, tmp_path, checkpoint_every=2)
    return sorted(tmp_path.glob("*.safetensors"))


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path):
    before, last = broken_run(tmp_path)
    whole = last.read_bytes()
    for damage in (b"", whole[:100], whole[:-1], whole[:2000] + bytes([whole[2000] ^ 1]) + whole[2001:]):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        (folder / before.name).write_bytes(before.read_bytes())
        (folder / last.name).write_bytes(damage)
        run = Setup()
        with pytest.warns(RuntimeWarning, match=f"{last.name} can't be read, the one before is used"):
            history = run.fit(checkpoint_dir=folder)
        assert outcome(run.net, history, run.optimizer) == unbroken()


def test_the_good_one_stays_until_two_better_ones_are_written(tmp_path):
    before, last = broken_run(tmp_path)
    last.write_bytes(b"")
    folder = Folder(tmp_path)
    with pytest.warns(RuntimeWarning, match="can't be read"):
        value = folder.read()
    folder.write(value)
    assert len(list(tmp_path.iterdir())) == 2
    assert before.exists()
    assert not last.exists()
    folder.write(value)
    assert len(list(tmp_path.iterdir())) == 2
    assert not before.exists()


def test_if_none_can_be_read_they_are_named(tmp_path):
    before, last = broken_run(tmp_path)
    for file in (before, last):
        file.write_bytes(file.read_bytes()[:-5])
    with (
        pytest.warns(RuntimeWarning, match="can't be read"),
        pytest.raises(ValueError, match=f"damaged are .*{before.name}, .*{last.name}"),
    ):
        Setup().fit(checkpoint_dir=tmp_path)


def test_what_a_killed_writer_left_goes(tmp_path):
    left = tmp_path / container.TEMPORARY.replace("*", "0123")
    left.write_bytes(b"half")
    mine = tmp_path / "notes.txt"
    mine.write_text("not ours")
    Setup().fit(1, checkpoint_dir=tmp_path)
    assert not left.exists()
    assert mine.exists()


# SIGKILL

#: Does the same run over and over, in a process of its own each time, until one comes to its end.  All but the last
#: are killed: so many seconds after a checkpoint appears, or at one of the calls of a function of os, before or (+)
#: after it is done.
SCRIPT = """
import json, os, signal, sys, time
import numpy as np
from tests import test_checkpoints as t

def watch(inner, number, after):
    def watched(*a, **k):
        nonlocal number
        number -= 1
        if number == 0 and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        done = inner(*a, **k)
        if number == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return done
    return watched

folder = sys.argv[1]
for how, number in json.loads(sys.argv[2]):
    before = set(os.listdir(folder))
    child = os.fork()
    if child == 0:
        if how not in ("wait", "end"):
            name = how.removesuffix("+")
            setattr(os, name, watch(getattr(os, name), number, how.endswith("+")))
        run = t.Setup(**t.LONG)
        history = run.fit(t.EPOCHS, checkpoint_dir=folder, checkpoint_every=3)
        np.save(os.path.join(folder, "flat.npy"), run.net.flat)
        print(repr([history.loss, history.validation]), flush=True)
        os._exit(0)
    if how == "wait":
        at_work = lambda: os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        while set(os.listdir(folder)) <= before and at_work():
            time.sleep(0.001)
        time.sleep(number)
        os.kill(child, signal.SIGKILL)  # it may have come to its end, but is still there to be asked how
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if how == "wait":
        print("killed" if code == -signal.SIGKILL else "ended")
    else:
        assert code == (0 if how == "end" else -signal.SIGKILL), (how, code)
    if how == "unlink":
        print(*sorted(os.listdir(folder)))
"""
EPOCHS, LONG = 10, {"patience": 10}


def killed_and_ended(folder, *how):
    """What was printed by runs that were killed and one that came to the end of an unbroken run."""
    printed = finish(start(["-c", SCRIPT, str(folder), json.dumps([*how, ["end", 0]])]), timeout=120).splitlines()
    run = Setup(**LONG)
    history = run.fit(EPOCHS)
    assert np.load(folder / "flat.npy").tobytes() == run.net.flat.tobytes()
    assert printed.pop() == repr([history.loss, history.validation])
    return printed


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork, no SIGKILL")
def test_kill_at_any_moment(tmp_path):
    """Mid-epoch, mid-write: wherever it strikes."""
    waits = np.random.default_rng().uniform(0, [0.01, 0.1, 0.1, 0.1, 0.1])
    assert "killed" in killed_and_ended(tmp_path, *(["wait", after] for after in waits))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork, no SIGKILL")
def test_kill_while_a_checkpoint_is_written(tmp_path):
    """With the file not yet on the disk, not yet in its place, there while older ones aren't yet gone."""
    printed = killed_and_ended(tmp_path, ["fsync", 7], ["replace", 5], ["replace+", 4], ["fsync+", 6], ["unlink", 4])
    (names,) = printed
    assert len(names.split()) == 3  # killed before the oldest went


# What is written


kept = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("ab#", max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.sampled_from(["a", "b.c", "at"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(kept)
def test_what_is_packed_comes_back(value):
    tensors = {}
    assert repr(unpack(pack({"it": value}, tensors), tensors)) == repr({"it": value})
    assert not tensors


def test_arrays_and_numbers_are_packed():
    value = {"a": [np.arange(3), (np.float32(0.1), np.int64(3), np.bool_(True))], "b": {"c": np.ones((2, 0))}}
    tensors = {}
    back = unpack(pack(value, tensors), tensors)
    assert set(tensors) == {"a.0", "b.c"}
    assert back["a"][1] == (float(np.float32(0.1)), 3, True)
    assert back["a"][0] is value["a"][0]
    assert np.isnan(unpack(pack([float("nan")], {}), {})[0])
    with pytest.raises(TypeError, match="must be arrays, numbers, texts, lists, tuples or dicts, got object for a"):
        pack({"a": object()}, {})
    with pytest.raises(TypeError, match="keys of what a checkpoint holds must be texts, got 3"):
        pack({3: 4}, {})


def test_digests_tell_data_apart():
    a, b = np.arange(6.0), np.arange(6.0)
    b[3] = np.nextafter(3, 4)
    different = [[a], [b], [a, a], [a.reshape(2, 3)], [a.astype(np.float32)], [(a, None)], [(a, [6])], [], [a[:0]]]
    assert len({digest(d) for d in different}) == len(different)
    assert digest([a.reshape(2, 3).T]) == digest([np.ascontiguousarray(a.reshape(2, 3).T)])
