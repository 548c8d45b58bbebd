"""Numbers below the smallest normal one: 0 on the way back and in an optimiser, what they were everywhere else."""

import llvmlite.binding as llvm
import numpy as np
import pytest
from llvmlite import ir

import nbrnn
from nbrnn._cpu import isa, subnormal
from tests.teams import TEAMS, forced

H = 20


def count_subnormal(a):
    return np.count_nonzero((a != 0) & (np.abs(a) < np.finfo(a.dtype).tiny))


def known_here():
    """Whether this thread knows them, as operands and as results."""
    tiny, least = (np.array(n, np.float32) for n in (np.finfo("float32").tiny, np.finfo("float32").smallest_subnormal))
    return bool(tiny * np.float32(0.5) != 0 and least * np.float32(2.0**30) != 0)


def gradients(kind, dtype, T=200, B=5, hidden=H):
    """Of inputs, states and weights, where they fall below the smallest number on their way to the first step."""
    layer = kind(3, hidden, dtype=dtype, rng=0)
    layer.flat = layer.flat * 0.3
    gates = layer.cell.gates
    if "z" in gates or "f" in gates:  # that forget soon
        layer.params["bias_ih_l0"] = np.repeat([-2.0 if gate in "zf" else 0.0 for gate in gates], hidden)
    rng = np.random.default_rng(0)
    x, dy = rng.normal(size=(T, B, 3)), np.zeros((T, B, hidden))
    dy[-1] = rng.normal(size=(B, hidden))
    _, _, tape = layer.forward(x.astype(dtype))
    return layer.backward(tape, dy.astype(dtype))


def of_state(grads):
    return grads.state[0] if isinstance(grads.state, tuple) else grads.state


@pytest.mark.parametrize(("kind", "width"), [(nbrnn.GRU, "512"), *[(nbrnn.RNN, width) for width in isa.WIDTHS]])
def test_gradients_vanish_without_them(kind, width):
    true = gradients(kind, "float64")
    with isa.use(width):
        found = gradients(kind, "float32")
    size, tiny = np.abs(true.x), np.finfo("float32").tiny
    assert ((size < tiny / 4) & (size > tiny / 2**20)).any()  # some would be subnormal
    assert count_subnormal(found.x) == 0
    assert not found.x[0].any()
    assert not of_state(found).any()
    error, largest = np.abs(found.x - true.x).max((1, 2)), size.max((1, 2))
    assert (error <= np.maximum(1e-4 * largest, 16 * tiny)).all()
    assert known_here()


@pytest.mark.parametrize("team", TEAMS)
def test_the_same_bits_for_every_team(team):
    expected = gradients(nbrnn.GRU, "float32")
    with forced(*team):
        found = gradients(nbrnn.GRU, "float32")
    np.testing.assert_array_equal(found.x, expected.x)
    np.testing.assert_array_equal(found.flat, expected.flat)
    assert known_here()


@pytest.mark.skipif(not isa.HAS_UNIT, reason="no matrix unit here")
def test_on_a_matrix_unit():
    found = gradients(nbrnn.LSTM, "float32", B=20, hidden=192)
    with isa.use("512"):
        expected = gradients(nbrnn.LSTM, "float32", B=20, hidden=192)
    assert count_subnormal(found.x) == 0
    assert not found.x[0].any()
    for t in range(0, 200, 10):
        largest = np.abs(expected.x[t]).max()
        assert np.abs(found.x[t] - expected.x[t]).max() <= max(1e-4 * largest, 1e-36), t
    assert known_here()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "optimizer",
    [lambda net: nbrnn.optim.Adam(net, lr=1e-3, betas=(0.5, 0.5)), lambda net: nbrnn.optim.SGD(net, lr=1e-3, momentum=0.5)],
    ids=["Adam", "SGD"],
)  # fmt: skip
def test_what_an_optimiser_carries_comes_to_nothing(optimizer, dtype):
    net = nbrnn.Linear(3, 2, dtype=dtype, rng=0)
    opt = optimizer(net)
    y, _, tape = net.forward(np.ones((1, 1, 3), dtype))
    grads = net.backward(tape, np.ones_like(y))
    opt.step(grads)
    grads.flat[:] = 0
    for _ in range(1200):
        opt.step(grads)
        for vector in opt._vectors.values():
            assert vector is None or count_subnormal(vector) == 0
    tiny = np.finfo(dtype).tiny
    assert all(np.abs(vector).max() <= 4 * tiny for vector in opt._vectors.values() if vector is not None)
    assert known_here()


def test_a_thread_gets_its_state_back_where_a_loop_fails():
    def fail():
        assert not known_here()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        subnormal.flushed(fail)()
    assert known_here()


@pytest.mark.parametrize(
    ("machine", "triple", "expected"),
    [
        ("x86_64", "x86_64-unknown-linux-gnu", ["stmxcsr", "ldmxcsr"]),
        ("arm64", "aarch64-unknown-linux-gnu", ["mrs", "msr"]),
        ("unknown", "x86_64-unknown-linux-gnu", []),
    ],
)
def test_processors(machine, triple, expected):
    module = ir.Module()
    function = ir.Function(module, ir.FunctionType(ir.IntType(64), []), "f")
    b = ir.IRBuilder(function.append_basic_block())
    before = subnormal.read(b, machine)
    subnormal.write(b, machine, subnormal.flushing(b, machine, before))
    b.ret(before)
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple(triple).create_target_machine(opt=2)
    text = target.emit_assembly(llvm.parse_assembly(str(module)))
    assert [word for word in ("stmxcsr", "ldmxcsr", "mrs", "msr") if word in text] == expected
