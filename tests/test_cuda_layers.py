"""Recurrent layers on a GPU, an emulated one: what users call, against the float64 reference and the layers of the CPU."""

import copy
import itertools
import os
import pickle

import numpy as np
import pytest

import nbrnn
from nbrnn._cuda import current
from nbrnn._cuda.array import DeviceArray
from tests.cases import Case
from tests.ptx import compile as nvvm

if not nvvm.has_numba_cuda():
    pytest.skip("numba-cuda is not installed", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore")

from tests.emulated import Emulated  # noqa: E402
from tests.test_cuda_kernels import caught_in  # noqa: E402

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
#: Of the largest entry.
WITHIN = {"float32": 5e-6, "float64": 1e-12}
same = np.testing.assert_array_equal


def close(found, wanted, within, what=""):
    found = found.numpy() if isinstance(found, DeviceArray) else found
    assert found.shape == wanted.shape, what
    if wanted.size:
        error = np.abs(found - wanted).max() / max(np.abs(wanted).max(), 1e-30)
        assert error <= within, f"{what}: {error:.1e} of the largest entry"


def put(machine, value, gap=0):
    """A value on the device: arrays in tuples, too; with a gap, numbers that nobody may look at after each row."""
    if value is None or isinstance(value, tuple):
        return value and tuple(put(machine, part) for part in value)
    wide = np.full((*value.shape[:-1], value.shape[-1] + gap), np.nan, value.dtype)
    wide[..., : value.shape[-1]] = value
    whole = DeviceArray.put(machine, wide)
    return whole if gap == 0 else whole[(slice(None),) * (value.ndim - 1) + (slice(0, value.shape[-1]),)]


def host(value):
    """The way back."""
    return tuple(map(host, value)) if isinstance(value, tuple) else value.numpy()


class There:
    """A case on a device."""

    def __init__(self, machine, case, gap=0):
        self.case, self.layer, self.machine = case, copy.deepcopy(case.layer).to("cuda"), machine
        past = np.zeros((case.T, case.B), bool)
        if case.lengths is not None:
            past = np.arange(case.T)[:, None] >= case.lengths
        # Nobody looks at what stands past a sequence's end.
        x, dy = (np.where(past[:, :, None], np.nan, a).astype(a.dtype) for a in (case.x, case.dy))
        self.x, self.dy = (put(machine, np.ascontiguousarray(case.user(a)), gap) for a in (x, dy))
        arguments = case.arguments()
        self.arguments = arguments | {"state": put(machine, arguments.get("state"))}

    def infer(self, **more):
        y, state = self.layer(self.x, **self.arguments, **more)
        return [self.case.ours(host(y)), *self.split(state)]

    def split(self, state):
        """States, without a c where there is none."""
        return [a for a in self.case.split(host(state)) if a is not None]

    def train(self, retain=False, **more):
        """y, the state after, dx, the gradients for the state before, and those of the parameters."""
        case = self.case
        y, state, tape = self.layer.forward(self.x, **self.arguments, **more)
        dstate = put(self.machine, case.state(case.dh, case.dc))
        for _ in range(1 + retain):
            grads = self.layer.backward(tape, self.dy, dstate, retain=retain)
        self.grads = grads
        before = [case.ours(host(grads.x)), *self.split(grads.state)]
        return [case.ours(host(y)), *self.split(state), *before, host(grads.flat)]


def wanted(case, key=None):
    """The same of the reference, and of a call: y and the state after."""
    reference, has_c = case.reference(), case.has_c
    y, h, c, trace = reference.forward(case.x, case.h, case.c, case.lengths, case.resets, key)
    dx, dh, dc, gradients = reference.backward(trace, case.dy, case.dh, case.dc)
    flat = np.concatenate([gradients[name].reshape(-1) for name in case.layer.params])
    return [y, h, *[c] * has_c, dx, dh, *[dc] * has_c, flat]


def key_of(seed):
    return tuple(map(int, np.random.default_rng(seed).integers(0, 2**32, 2)))


def drawn(kind, dtype, H, rng, dropout, recurrent_dropout):
    """A random case."""
    L = int(rng.integers(1, 3 + LONG))
    return Case(
        kind=kind, dtype=dtype, H=H, P=int(rng.integers(1, H)), T=int(rng.integers(0, 5)), B=int(rng.integers(0, 5)),
        I=int(rng.integers(1, 6)), L=L, bidirectional=bool(rng.random() < 0.5), bias=bool(rng.random() < 0.7),
        batch_first=bool(rng.random() < 0.5), batched=bool(rng.random() < 0.8), ragged=bool(rng.random() < 0.6),
        cut=bool(rng.random() < 0.5), stateful=bool(rng.random() < 0.6), dropout=dropout,
        checkpoint=[None, None, 1, 2, "sqrt"][int(rng.integers(5))], recurrent_dropout=recurrent_dropout, seed=int(rng.integers(2**31)),
    )  # fmt: skip


def check(machine, case, gap=0):
    """All that a layer gives is what the reference gives."""
    there, within = There(machine, case, gap), WITHIN[case.dtype]
    dropped = case.dropout > 0 or case.recurrent_dropout > 0
    found = there.train(rng=case.seed, checkpoint=case.checkpoint)
    reference = wanted(case, key_of(case.seed) if dropped else None)
    for name, a, b in zip(
        ["y", "h", "c", "dx", "dh", "dc", "flat"] if case.has_c else ["y", "h", "dx", "dh", "flat"],
        found,
        reference,
        strict=True,
    ):
        close(a, b, within, f"{name} of {case}")
    if case.lengths is not None:
        past = np.arange(case.T)[:, None] >= case.lengths
        assert not found[0][past].any()
        assert not found[3 if case.has_c else 2][past].any()
    if not dropped:
        for a, b in zip(there.infer(), found[: 2 + case.has_c], strict=True):
            same(a, b)
    machine.launches.clear()  # they take memory
    machine.runs.clear()
    for name, a in there.grads.params.items():
        assert a.shape == case.layer.params[name].shape
    assert there.grads.flat.shape == case.layer.flat.shape


KINDS = {
    "tanh": "float64",
    "relu": "float32",
    "GRU": "float32",
    "LSTM": "float32",
    "projected": "float32",
    "MGU": "float64",
}


@pytest.mark.parametrize("kind", KINDS)
def test_random_cases(machine, kind):
    """Some cases for each cell: what takes long is to compile."""
    rng = np.random.default_rng(None if LONG else sum(map(ord, kind)))
    for n in range(40 if LONG else 3):
        dtype = str(rng.choice(list(WITHIN))) if LONG else KINDS[kind]
        case = drawn(kind, dtype, int(rng.integers(2, 12)) if LONG else 5, rng, 0.4 * (n % 2), 0.4 * (n == 1))
        check(machine, case, gap=int(rng.integers(0, 3)))


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_dropout_has_the_masks_of_the_cpu(machine, kind):
    case = Case(
        kind=kind, dtype="float32", H=5, T=4, B=3, I=2, L=2, dropout=0.5, bidirectional=True, ragged=True, stateful=True
    )
    y, *_ = There(machine, case).train(rng=7)
    want_y, *_ = case.train(rng=7)
    close(y, want_y, 5e-6)
    dropped = There(machine, case).layer
    twin = np.random.default_rng(0)
    rng = np.random.default_rng(0)
    dropped.forward(put(machine, case.x), rng=rng)
    twin.integers(0, 2**32, 2)
    assert rng.bit_generator.state == twin.bit_generator.state


LARGE = dict(kind="LSTM", dtype="float32", H=5, T=5, B=4, I=3, L=2, ragged=True, cut=True, stateful=True, seed=3)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_checkpoints_change_no_bits(machine, bidirectional):
    there = There(
        machine, Case(**LARGE | {"T": 3, "B": 3}, bidirectional=bidirectional, dropout=0.3, recurrent_dropout=0.3)
    )
    plain = there.train(rng=1)
    for every, retain in ((2, not bidirectional), (100, False)):
        found = there.train(retain, rng=1, checkpoint=every)
        for a, b in zip(found[:-1], plain[:-1], strict=True):
            same(a, b)
        close(found[-1], plain[-1], 1e-6)


def test_a_tape_that_is_retained(machine):
    there = There(machine, Case(**LARGE))
    for a, b in zip(there.train(retain=True), there.train(), strict=True):
        same(a, b)


def test_bits_dont_depend_on_the_batch(machine):
    case, chosen = Case(**LARGE, bidirectional=True), [3, 1]
    few = Case(**LARGE | {"B": 2}, bidirectional=True)
    few.lengths, few.resets = case.lengths[chosen], case.resets[:, chosen]
    few.layer = case.layer
    for name in ("x", "dy", "h", "c", "dh", "dc"):
        setattr(few, name, np.ascontiguousarray(getattr(case, name)[:, chosen]))
    for a, b in zip(There(machine, case).train()[:-1], There(machine, few).train()[:-1], strict=True):
        same(a[:, chosen], b)


def test_dy_and_dstate_may_be_missing(machine):
    case = Case(kind="LSTM", dtype="float32", H=5, T=3, B=2, I=2, seed=2)
    there = There(machine, case)
    for dy, dstate in itertools.product((there.dy, None), (None, (None, "dc"), ("dh", None))):
        given = dstate and tuple(n and getattr(case, n) for n in dstate)
        grads = case.layer.backward(case.layer.forward(case.x)[2], None if dy is None else case.dy, given)
        found = there.layer.backward(there.layer.forward(there.x)[2], dy, put(machine, given))
        close(found.flat, grads.flat, 5e-6)
        close(found.x, grads.x, 5e-6)
        close(found.state[1], grads.state[1], 5e-6)


@pytest.mark.parametrize("cls", [nbrnn.RNNCell, nbrnn.GRUCell, nbrnn.LSTMCell])
def test_cells(machine, cls):
    cell, rng = cls(3, 5, rng=0), np.random.default_rng(0)
    twin, x = copy.deepcopy(cell).to("cuda"), rng.normal(size=(2, 3)).astype("f")
    state = rng.normal(size=(2, 2, 5)).astype("f")
    state = tuple(state) if cls is nbrnn.LSTMCell else state[0]
    after, tape = cell.forward(x, state)
    found, tape_there = twin.forward(put(machine, x), put(machine, state))
    grads, grads_there = cell.backward(tape, after), twin.backward(tape_there, found)
    for a, b in ((found, after), (twin(put(machine, x), put(machine, state)), after), (grads_there.state, grads.state)):
        for p, q in zip(a, b, strict=True) if isinstance(a, tuple) else [(a, b)]:
            close(p, q, 5e-6)
    close(grads_there.flat, grads.flat, 5e-6)
    close(grads_there.x, grads.x, 5e-6)
    close(
        twin(put(machine, x[0]))[0] if isinstance(state, tuple) else twin(put(machine, x[0])),
        (cell(x[0])[0] if isinstance(state, tuple) else cell(x[0])),
        5e-6,
    )


class Foreign:
    """What another library's array says of itself."""

    def __init__(self, array):
        self.array, self.__cuda_array_interface__ = array, array.__cuda_array_interface__


def test_arrays_of_other_libraries(machine):
    rng = np.random.default_rng(0)
    layer, host_x, host_h = nbrnn.GRU(3, 5, rng=0), rng.normal(size=(4, 2, 3)).astype("f"), np.ones((1, 2, 5), "f")
    y, h, tape = layer.forward(host_x, host_h)
    grads = layer.backward(tape, y, h)
    layer.to("cuda")
    found, after, tape = layer.forward(Foreign(put(machine, host_x)), Foreign(put(machine, host_h)), lengths=[4, 4])
    given = layer.backward(tape, Foreign(found), Foreign(after))
    for a, b in ((found, y), (after, h), (given.x, grads.x), (given.state, grads.state), (given.flat, grads.flat)):
        close(a, b, 5e-6)


# What outlives a call.


def names(machine, since=0):
    return [kernel.key[0] for kernel, *_ in machine.launches[since:]]


class Counting(Emulated):
    """Counts what is asked of the machine."""

    def __init__(self):
        super().__init__()
        self.puts = self.empties = 0

    def put(self, array):
        self.puts += 1
        return super().put(array)

    def empty(self, size, dtype):
        self.empties += 1
        return super().empty(size, dtype)


def test_what_a_call_costs():
    """So that it can't grow unnoticed."""
    machine = Counting()

    def counted(call):
        machine.puts = machine.empties = 0
        before = len(machine.launches)
        result = call()
        return result, names(machine, before), machine.puts, machine.empties

    with current.use(machine):
        layer, x = nbrnn.LSTM(3, 5, rng=0).to("cuda"), put(machine, np.ones((4, 2, 3), "f"))
        assert counted(lambda: layer(x))[1] == ["gather", "product", "forward"]
        # y, h, c, the sums of the input; nothing saved
        assert counted(lambda: layer(x))[1:] == (["product", "forward"], 0, 5)
        (y, _, tape), *costs = counted(lambda: layer.forward(x))
        assert costs == [["product", "forward"], 0, 5]
        layer.backward(tape, y)
        # The parameters change: they are packed again, by one kernel, and nothing comes from the host.
        layer.flat = layer.flat
        (y, _, tape), *costs = counted(lambda: layer.forward(x))
        assert costs == [["gather", "product", "forward"], 0, 6]
        # dx, gradients, dh, dc, sums of parts
        costs = counted(lambda: layer.backward(tape, y))[1:]
        assert costs == (["backward", *["product"] * 3, "sum_rows", "sum_parts", "sum_parts"], 0, 5)
        # Of a batch with lengths: what there is of each step and sequence.
        names_of, puts = counted(lambda: layer(x, lengths=[4, 2]))[1:3]
        assert (names_of, puts) == (["offsets", "product", "forward"], 4)


@pytest.mark.parametrize("kind", ["GRU", "projected"])
def test_weights_follow_the_parameters(machine, kind):
    case = Case(kind=kind, dtype="float32", H=5, P=3, T=2, B=2, I=2, bidirectional=kind == "GRU", seed=1)
    there = There(machine, case)
    there.infer()
    case.layer.flat = np.random.default_rng(1).normal(size=case.layer.flat.size)
    there.layer.flat = case.layer.flat
    close(there.infer()[0], case.layer(case.x)[0], 5e-6)
    there.layer.params["weight_hh_l0"] = np.zeros(case.layer.params["weight_hh_l0"].shape)
    case.layer.params["weight_hh_l0"] = np.zeros(case.layer.params["weight_hh_l0"].shape)
    close(there.infer()[0], case.layer(case.x)[0], 5e-6)


def test_mutants_of_the_kernel_that_packs_are_caught(machine):
    layer = nbrnn.GRU(3, 5, rng=0).to("cuda")
    layer(put(machine, np.ones((1, 1, 3), "f")))
    left = caught_in(machine.launches[0])
    assert not left, "\n".join(map(str, left))


def test_streams_have_caches_of_their_own(machine):
    """What was made on one stream may not be there yet on another."""
    layer, x = nbrnn.GRU(3, 5, rng=0).to("cuda"), put(machine, np.ones((4, 2, 3), "f"))
    layer(x)
    machine.stream = 5
    before = len(machine.launches)
    layer(x, stream=7)
    assert names(machine, before)[0] == "gather"
    y, _, tape = layer.forward(x, stream=8)
    layer.backward(tape, y, stream=9)
    assert machine.streams == [None, 7, 8, 9]


def test_copies(machine, tmp_path):
    pytest.importorskip("safetensors")
    layer, x = nbrnn.LSTM(3, 5, rng=0).to("cuda"), put(machine, np.ones((4, 2, 3), "f"))
    y = host(layer(x)[0])
    for again in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        same(host(again(x)[0]), y)
    nbrnn.save(layer, tmp_path / "layer")
    loaded = nbrnn.load(tmp_path / "layer")
    assert loaded.device == "cpu"
    same(loaded.flat, host(layer.flat))
    layer.to("cpu")
    close(y, layer(np.ones((4, 2, 3), "f"))[0], 5e-6)


def test_results_belong_to_the_caller(machine):
    layer, x = nbrnn.LSTM(3, 5, rng=0).to("cuda"), put(machine, np.ones((4, 2, 3), "f"))
    y, state, tape = layer.forward(x)
    assert y.readonly
    _, before = layer(x, state)
    kept = host(before)
    # A state that is changed after ``forward`` is none of the tape's business.
    given = put(machine, host(state))
    *_, changed = layer.forward(x, given)
    *_, untouched = layer.forward(x, state)
    for part in given:
        part.flat[:] = 7
    same(host(layer.backward(changed, y).flat), host(layer.backward(untouched, y).flat))
    for part in (*state, *before, y):
        part.flat[:] = 9
    same(host(layer(x, given)[0]).shape, (4, 2, 5))
    assert not np.isnan(kept[0]).any()
    layer.backward(tape, y)


def test_out(machine):
    layer, x = nbrnn.GRU(3, 5, rng=0).to("cuda"), put(machine, np.ones((4, 2, 3), "f"))
    wide = DeviceArray.zeros(machine, (4, 2, 16), np.float32)
    y = layer(x, out=wide[:, :, 3:8])[0]
    same(host(y), host(layer(x)[0]))
    same(host(wide)[:, :, 3:8], host(y))
    assert not host(wide)[:, :, [0, 1, 2, *range(8, 16)]].any()
    # Beside x in the same memory.
    layer(wide[:, :, :3], out=wide[:, :, 3:8])
    before = len(machine.launches)
    for out, error, words in [
        (wide[:, :, :4], ValueError, "shape"),
        (wide[:, :, 2:7], ValueError, "overlap x"),
        (np.zeros((4, 2, 5), "f"), TypeError, "out must be an array on the GPU"),
        (DeviceArray.zeros(machine, (4, 2, 5), np.float64), TypeError, "float32"),
        (DeviceArray(machine, wide.flat[3:], (4, 2, 5), (0, 5, 1)), ValueError, "overlap itself"),
        (DeviceArray(machine, wide.flat[3:], (4, 2, 5), None, True), ValueError, "writeable"),
    ]:
        with pytest.raises(error, match=words):
            layer(wide[:, :, :3], out=out)
    h = DeviceArray.zeros(machine, (1, 2, 5), np.float32)
    with pytest.raises(ValueError, match="overlap state"):
        layer(wide[:1, :, :3], h, out=h)
    assert len(machine.launches) == before


# What is refused, before any kernel runs.


BAD = [
    ("x", lambda m, a: np.ones((4, 2, 3), "f"), TypeError, "x must be on the GPU"),
    ("x", lambda m, a: DeviceArray.zeros(m, (4, 2, 3), np.float64), TypeError, "x must be of dtype float32"),
    ("x", lambda m, a: DeviceArray.zeros(m, (4, 2, 2), np.float32), ValueError, "x must have shape"),
    ("x", lambda m, a: DeviceArray.zeros(m, (4, 3, 2), np.float32).swapaxes(1, 2), ValueError, "make it contiguous"),
    ("x", lambda m, a: DeviceArray.zeros(Emulated(), (4, 2, 3), np.float32), ValueError, "same device"),
    ("x", lambda m, a: DeviceArray(m, a.flat, (2**20, 2**12, 3), (0, 0, 1)), ValueError, "2\\*\\*31"),
    ("state", lambda m, a: (np.zeros((1, 2, 5), "f"),) * 2, TypeError, r"state\[0\] \(h\) must be an array on the GPU"),
    ("state", lambda m, a: DeviceArray.zeros(m, (1, 2, 5), np.float32), ValueError, "pair"),
    ("state", lambda m, a: np.zeros((1, 2, 5), "f"), TypeError, "pair"),
    ("state", lambda m, a: (DeviceArray.zeros(m, (1, 3, 5), np.float32),) * 2, ValueError, "shape"),
    ("state", lambda m, a: (DeviceArray.zeros(m, (1, 2, 6), np.float32)[:, :, :5],) * 2, ValueError, "contiguous"),
    ("lengths", lambda m, a: DeviceArray.zeros(m, (2,), np.int64), TypeError, "lengths must be on the host"),
    ("lengths", lambda m, a: [5, 1], ValueError, "lengths"),
    ("resets", lambda m, a: DeviceArray.zeros(m, (4, 2), np.bool_), TypeError, "resets must be on the host"),
    ("resets", lambda m, a: np.zeros((4, 3), bool), ValueError, "resets"),
]


@pytest.mark.parametrize("name, make, error, words", BAD, ids=[f"{n}-{w[:20]}" for n, _, _, w in BAD])
def test_bad_arguments(machine, name, make, error, words):
    layer, x = nbrnn.LSTM(3, 5, rng=0).to("cuda"), put(machine, np.ones((4, 2, 3), "f"))
    for call in (layer, layer.forward):
        with pytest.raises(error, match=words):
            call(**{"x": x} | {name: make(machine, x)})
    assert not machine.launches


def test_bad_gradients_leave_the_tape_usable(machine):
    layer, x = nbrnn.LSTM(3, 5, rng=0).to("cuda"), put(machine, np.ones((4, 2, 3), "f"))
    y, state, tape = layer.forward(x)
    before = len(machine.launches)
    for dy, dstate, error, words in [
        (host(y), None, TypeError, "dy must be an array on the GPU"),
        (y[1:], None, ValueError, "dy must have shape"),
        (y, host(state), TypeError, r"dstate\[0\] \(h\) must be an array on the GPU"),
        (y, state[0], ValueError, "dstate"),
    ]:
        with pytest.raises(error, match=words):
            layer.backward(tape, dy, dstate)
    assert len(machine.launches) == before
    layer.backward(tape, y, state)


def test_tapes(machine):
    layer, x = nbrnn.GRU(3, 5, rng=0).to("cuda"), put(machine, np.ones((4, 2, 3), "f"))
    y, _, tape = layer.forward(x)
    layer.backward(tape, y)
    with pytest.raises(RuntimeError, match="used"):
        layer.backward(tape, y)
    *_, tape = layer.forward(x)
    layer.flat = layer.flat
    with pytest.raises(RuntimeError, match="out of date"):
        layer.backward(tape, y)
    *_, tape = layer.forward(x)
    layer.to("cpu")
    with pytest.raises(RuntimeError, match="out of date"):
        layer.backward(tape, y)
    with pytest.raises(ValueError, match="another's"):
        nbrnn.GRU(3, 5).to("cuda").backward(tape, y)


def test_mixes_are_refused(machine):
    layer, x = nbrnn.GRU(3, 5, rng=0), np.ones((4, 2, 3), "f")
    with pytest.raises(TypeError, match=r"x must be on the CPU.*layer.to\('cuda'\)"):
        layer(put(machine, x))
    for call in (lambda: layer(x, stream=1), lambda: layer.forward(x, stream=1)):
        with pytest.raises(ValueError, match="stream must be None"):
            call()
    y, _, tape = layer.forward(x)
    with pytest.raises(ValueError, match="stream must be None"):
        layer.backward(tape, y, stream=1)
    layer.backward(tape, y)
    layer.to("cuda")
    with pytest.raises(TypeError, match=r"x must be on the GPU.*layer.to\('cpu'\)"):
        layer(x)
    cell = nbrnn.GRUCell(3, 5)
    with pytest.raises(TypeError, match="x must be on the CPU"):
        cell(put(machine, x[0]))
    with pytest.raises(TypeError, match="x must be on the GPU"):
        cell.to("cuda")(x[0])
    with pytest.raises(ValueError, match="stream needs a layer on the CPU"):
        layer.stream()
    assert not machine.launches
