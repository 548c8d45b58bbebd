"""``nbrnn.jit`` inside users' own CUDA kernels, compiled with no driver and run by the emulator, against the reference."""

import functools
import itertools

import numba
import numpy as np
import pytest

import nbrnn
from nbrnn._cells import GRU, LSTM, LSTMProjected, RNNRelu, RNNTanh
from nbrnn._cuda import current
from nbrnn._cuda.nets import thread_net, units
from tests.cases import Case
from tests.minimal_gated_unit import MGU
from tests.ptx import Fault, Input, Output, launch, parse
from tests.ptx import compile as nvvm
from tests.ptx.mutate import survivors, try_mutants

if not nvvm.has_numba_cuda():
    pytest.skip("numba-cuda is not installed", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore")

from numba import cuda  # noqa: E402
from numba.cuda import types  # noqa: E402
from numba.cuda.typing.typeof import typeof  # noqa: E402

from tests.emulated import Emulated  # noqa: E402
from tests.test_cuda_kernels import LONG, WITHIN, compare  # noqa: E402

CELLS = {"tanh": RNNTanh, "relu": RNNRelu, "GRU": GRU, "LSTM": LSTM, "projected": LSTMProjected, "MGU": MGU}
PLAIN = {"bidirectional": False, "stateful": True}


def net_of(case, layers=None):
    """A case's layer as kernels are given it."""
    params = case.layer.params
    by_layer = [
        {n.removesuffix(f"_l{k}"): np.array(a) for n, a in params.items() if n.endswith(f"_l{k}")}
        for k in range(case.L if layers is None else layers)
    ]
    return thread_net(Emulated(), CELLS[case.kind], by_layer)


def type_of(value):
    """The type that numba-cuda gives an argument."""
    return typeof(value.array if isinstance(value, Input | Output) else value)


# What a user writes.


def rollout(net, xs, states, ys):
    """Each thread steps a sequence of its own: xs (N, T, I), states (N, L, S, H), ys (N, T, K)."""
    i = cuda.grid(1)
    if i < xs.shape[0]:
        for t in range(xs.shape[1]):
            nbrnn.jit.step(net, xs[i, t], states[i], ys[i, t])


def rollout_side_by_side(net, xs, states, ys):
    """The same with sequences last: what neighbouring threads read and write stands side by side."""
    i = cuda.grid(1)
    if i < xs.shape[2]:
        for t in range(xs.shape[0]):
            nbrnn.jit.step(net, xs[t, :, i], states[:, :, :, i], ys[t, :, i])


def whole(net, xs, states, ys):
    i = cuda.grid(1)
    if i < xs.shape[0]:
        nbrnn.jit.run(net, xs[i], states[i], ys[i])


def simulate(net, start, states, sizes, last):
    """The output is the next input."""
    i = cuda.grid(1)
    if i < start.shape[0]:
        sizes[i] = nbrnn.jit.output_size(net)
        for _ in range(4):
            nbrnn.jit.step(net, start[i], states[i], last[i])
            for k in range(start.shape[1]):
                start[i, k] = last[i, k]


@functools.cache
def compiled(kernel, signature, cc=(9, 0), lto=False):
    return nvvm.compile_ptx(kernel, signature, cc, lto=lto)


@functools.cache
def parsed(text):
    return parse(text)


def given(net):
    """A network as the emulator is given it: its weights may only be read."""
    return (Input(net.w.flat), *net[1:])


def call(kernel, net, *arguments, threads=4, cc=(9, 0)):
    """Run a kernel."""
    signature = tuple(type_of(a) for a in (net, *arguments))
    text = compiled(kernel, signature, cc)
    count = next(a.array if isinstance(a, Input | Output) else a for a in arguments).shape[0]
    run = launch(parsed(text), -(-count // threads), threads, [given(net), *arguments], abi="numba", seed=1)
    return text, run


def ptx_of_rollout(kind, dtype, cc, lto):
    """PTX of ``rollout``, for the resources that it takes."""
    net = net_of(Case(kind=kind, dtype=dtype, L=1, **PLAIN))
    arrays = [types.Array(numba.from_dtype(np.dtype(dtype)), axes, "C") for axes in (3, 4, 3)]
    return compiled(rollout, (type_of(net), *arrays), cc, lto)


def state_of(case):
    """(B, L, S, H); with a projection, numbers that mean nothing stand behind h."""
    state = np.full((case.B, case.L, 1 + case.has_c, case.H), np.nan, case.dtype)
    state[:, :, 0, : case.K] = case.h.swapaxes(0, 1)
    if case.has_c:
        state[:, :, 1] = case.c.swapaxes(0, 1)
    return state


def check(case, kernel=rollout, cc=(9, 0)):
    """What a kernel gives for a case is what the reference gives."""
    want_y, want_h, want_c, _ = case.reference().forward(case.x, case.h, case.c, None, None)
    xs, state, ys = np.ascontiguousarray(case.x.swapaxes(0, 1)), state_of(case), np.empty((case.B, case.T, case.K))
    ys = ys.astype(case.dtype)
    text, run = call(kernel, net_of(case), Input(xs), state, Output(ys), cc=cc)
    within = WITHIN[case.dtype]
    compare(ys.swapaxes(0, 1), want_y, within, f"y of {case}")
    compare(state[:, :, 0, : case.K].swapaxes(0, 1), want_h, within, f"h of {case}")
    if case.has_c:
        compare(state[:, :, 1].swapaxes(0, 1), want_c, within, f"c of {case}")
    assert not np.any(run.unwritten)
    assert ".local" not in text
    if case.dtype == "float32":
        assert ".f64" not in text
    assert f"ld.global.nc.v{16 // np.dtype(case.dtype).itemsize}" in text
    return ys, state


def drawn(kind, dtype, rng):
    return Case(
        kind=kind, dtype=dtype, T=int(rng.integers(1, 5)), B=int(rng.integers(1, 8)), I=int(rng.integers(1, 12)),
        H=int(rng.integers(1, 20)), P=int(rng.integers(1, 20)), L=int(rng.integers(1, 4)), bias=bool(rng.random() < 0.7),
        seed=int(rng.integers(2**31)), **PLAIN,
    )  # fmt: skip


@pytest.mark.parametrize("kind, dtype", list(itertools.product(CELLS, WITHIN)))
def test_threads_step_sequences_of_their_own(kind, dtype):
    """One compilation for all sizes: those are arguments."""
    rng = np.random.default_rng(None if LONG else sum(map(ord, kind + dtype)))
    cc = ((8, 0), (9, 0))[(dtype == "float64") ^ (kind in ("relu", "LSTM"))]
    for _ in range(50 if LONG else 2):
        check(drawn(kind, dtype, rng), cc=cc)


def test_sequences_last_and_other_layouts():
    """The same, to rounding: which multiplications the compiler fuses with additions depends on the code around."""
    case = Case(kind="LSTM", dtype="float32", T=3, B=6, I=5, H=7, L=2, seed=3, **PLAIN)
    ys, state = check(case)
    xs, states = np.ascontiguousarray(case.x.transpose(0, 2, 1)), state_of(case).transpose(1, 2, 3, 0).copy()
    found = np.empty((case.T, case.K, case.B), case.dtype)
    net = net_of(case)
    signature = tuple(map(type_of, (net, Input(xs), states, Output(found))))
    text = compiled(rollout_side_by_side, signature)
    launch(parsed(text), 2, 3, [given(net), Input(xs), states, Output(found)], abi="numba")
    np.testing.assert_allclose(found.transpose(2, 0, 1), ys, atol=1e-6)
    np.testing.assert_allclose(states.transpose(3, 0, 1, 2), state, atol=1e-6)


def test_what_a_warp_reads():
    """Of weights one word for all; of x and the state a number for each, side by side if sequences come last."""
    case = Case(kind="LSTM", dtype="float32", T=1, B=32, I=8, H=8, L=1, seed=3, **PLAIN)
    net, first, last = net_of(case), state_of(case), state_of(case).transpose(1, 2, 3, 0).copy()
    xs = np.ascontiguousarray(case.x.swapaxes(0, 1))
    for kernel, arrays, most in (
        (rollout, (xs, first, np.zeros((32, 1, 8), "f")), 32),
        (rollout_side_by_side, (xs.transpose(1, 2, 0).copy(), last, np.zeros((1, 8, 32), "f")), 4),
    ):
        text = compiled(kernel, tuple(map(type_of, (net, *arrays))))
        run = launch(parsed(text), 1, 32, [given(net), *arrays], abi="numba", profile=True)
        sectors = {name.split()[1]: n / run.profile.requests[name] for name, n in run.profile.sectors.items()}
        assert sectors == {"0.0": 1, "1": most, "2": most, "3": most}


@pytest.mark.parametrize("kind", ["GRU", "projected"])
def test_moved_stores_are_caught(kind):
    case = Case(kind=kind, dtype="float32", T=2, B=3, I=2, H=5, P=3, L=2, seed=3, **PLAIN)
    xs, ys = np.ascontiguousarray(case.x.swapaxes(0, 1)), np.empty((3, 2, case.K), "f")
    net, states = net_of(case), state_of(case)
    text, _ = call(rollout, net, Input(xs), states, Output(ys))

    def run(text):
        again, found = state_of(case), np.empty_like(ys)
        done = launch(text, 1, 4, [given(net), Input(xs), again, Output(found)], abi="numba", seed=1)
        np.testing.assert_array_equal(found, ys)
        np.testing.assert_array_equal(again, states)
        return done

    left = survivors(try_mutants(text, run))
    assert not left, "\n".join(map(str, left))


@pytest.mark.parametrize("kind", ["GRU", "projected"])
def test_run(kind):
    case = Case(kind=kind, dtype="float64", T=4, B=3, I=2, H=5, P=3, L=2, seed=3, **PLAIN)
    check(case, whole)


def test_what_comes_out_may_go_in_again():
    """A simulation."""
    case = Case(kind="GRU", dtype="float32", T=1, B=5, I=6, H=6, L=2, seed=1, **PLAIN)
    reference, x, state = case.reference(), case.x, case.h
    for _ in range(4):
        x, state, _, _ = reference.forward(x, state, case.c, None, None)
    first, states = case.x[0].copy(), state_of(case)
    sizes, last = np.zeros(case.B, np.int64), np.empty((case.B, case.K), case.dtype)
    call(simulate, net_of(case), first, states, Output(sizes), Output(last))
    np.testing.assert_allclose(last, x[0], atol=1e-6)
    np.testing.assert_allclose(states[:, :, 0].swapaxes(0, 1), state, atol=1e-6)
    assert (sizes == 6).all()


@pytest.mark.parametrize("kind", CELLS)
def test_nothing_of_a_padded_unit_reaches_a_number(kind):
    """H is no multiple of U; a state that is infinite or NaN stays where it is."""
    case = Case(kind=kind, dtype="float64", T=2, B=3, I=2, H=units(CELLS[kind]) + 1, P=3, L=1, seed=3, **PLAIN)
    xs = np.ascontiguousarray(case.x.swapaxes(0, 1))
    ys, state = check(case)
    bad, other = state_of(case), np.empty_like(ys)
    bad[1, :, :, : case.K] = np.nan
    call(rollout, net_of(case), Input(xs), bad, Output(other))
    assert np.isnan(other[1]).all() or kind == "relu"
    np.testing.assert_array_equal(other[[0, 2]], ys[[0, 2]])
    np.testing.assert_array_equal(bad[[0, 2]], state[[0, 2]])


# What is refused, before anything is copied or launched: numba-cuda compiles first.


def refused(words, kernel=rollout, **changed):
    case = Case(kind="LSTM", dtype="float32", T=2, B=2, I=3, H=5, L=2, seed=3, **PLAIN)
    xs, ys = np.ascontiguousarray(case.x.swapaxes(0, 1)), np.zeros((2, 2, 5), np.float32)
    arguments = {"net": net_of(case), "xs": xs, "states": np.nan_to_num(state_of(case)), "ys": ys} | changed
    with pytest.raises(numba.TypingError, match=words):
        nvvm.compile_ptx(kernel, tuple(map(type_of, arguments.values())))


@pytest.mark.parametrize("kernel", [rollout, whole, simulate])
def test_the_net_of_a_layer_on_the_cpu_is_refused(kernel):
    more = {"last": np.zeros((2, 5), np.float32)} if kernel is simulate else {}
    refused(r'net must come from layer.to\("cuda"\).jit\(\) in a CUDA kernel, got that of a layer on the CPU', kernel,
            net=nbrnn.LSTM(3, 5, num_layers=2).jit(), **more)  # fmt: skip


def test_a_launch_is_refused_before_it_copies():
    """It compiles for the types of its arguments first; here there is no device to copy to."""
    net, arrays = (
        nbrnn.GRU(3, 5).jit(),
        [np.zeros((2, 2, 3), "f"), np.zeros((2, 1, 1, 5), "f"), np.zeros((2, 2, 5), "f")],
    )
    with nvvm.device((9, 0)), pytest.raises(numba.TypingError, match="got that of a layer on the CPU"):
        cuda.jit(rollout).specialize(net, *arrays)


def test_the_weights_are_taken_where_they_are():
    """By the interface of CUDA arrays, and no launch waits for a stream."""
    net = net_of(Case(kind="GRU", dtype="float32", L=1, **PLAIN))
    interface = net.w.__cuda_array_interface__
    assert interface["stream"] is None
    assert interface["data"] == (net.w.machine.address(net.w.flat), True)
    assert typeof(net).types[0] == types.Array(types.float32, 1, "C", readonly=True)


def test_wrong_types_are_told_when_compiled():
    wide = np.zeros((2, 2, 5))
    frozen = np.zeros((2, 2, 5), np.float32)
    frozen.flags.writeable = False
    refused("net must come from layer.to", net=(1, 2))
    refused("x must be an array of float32 with 1 dimensions, got array\\(float64", xs=wide)
    refused("x must be an array of float32 with 1 dimensions, got array\\(float32, 2d", xs=np.zeros((2, 2, 2, 3), "f"))
    refused("state must be an array of float32 with 3 dimensions", states=np.zeros((2, 5), "f"))
    refused("y must be an array of float32", ys=wide)
    refused("y must be writeable", ys=frozen)
    refused("x must be an array of float32 with 2 dimensions", whole, xs=np.zeros((2, 3), "f"))


def allocates(net, out):
    out[0] = nbrnn.jit.zero_state(net)[0, 0, 0]


def test_states_are_made_outside():
    net = net_of(Case(kind="GRU", dtype="float32", L=1, **PLAIN))
    with pytest.raises(numba.TypingError, match=r"zero_state can't allocate in a CUDA kernel.*shape \(L, S, H\)"):
        nvvm.compile_ptx(allocates, (type_of(net), types.float32[::1]))


@pytest.mark.parametrize("place, shape", [(1, (2, 2, 4)), (2, (2, 2, 2, 6)), (2, (2, 1, 2, 5)), (3, (2, 2, 6))])
def test_a_thread_with_arrays_of_wrong_shapes_stops(place, shape):
    """An exception, which numba-cuda reports under debug=True; else nothing is read or written."""
    case = Case(kind="LSTM", dtype="float32", T=2, B=2, I=3, H=5, L=2, seed=3, **PLAIN)
    arguments = [net_of(case), np.zeros((2, 2, 3), "f"), np.zeros((2, 2, 2, 5), "f"), np.zeros((2, 2, 5), "f")]
    arguments[place] = np.zeros(shape, "f")
    _, run = call(rollout, *arguments)
    assert not np.any(arguments[3])
    assert not np.any(arguments[2])


def test_memory_beyond_the_arrays_is_not_touched():
    """The emulator's checks see a network that claims to be larger."""
    case = Case(kind="GRU", dtype="float32", T=1, B=2, I=3, H=5, L=1, seed=3, **PLAIN)
    net = net_of(case)._replace(L=2)
    arrays = np.zeros((2, 1, 3), "f"), np.zeros((2, 2, 1, 5), "f"), np.zeros((2, 1, 5), "f")
    with pytest.raises(Fault, match="bounds"):
        call(rollout, net, *arrays)


def test_code_of_other_sources_or_formulas_is_never_taken_for_ours():
    """By the name of the network's class, which is in the key of numba-cuda's cache."""
    one, other = (type(net_of(Case(kind=k, dtype="float32", L=1, **PLAIN))) for k in ("tanh", "relu"))
    assert one is not other
    assert "Cuda" in one.__name__
    assert one is not type(nbrnn.RNN(3, 5).jit())


def test_a_layer_on_a_device_gives_it():
    case = Case(kind="projected", dtype="float64", T=2, B=3, I=4, H=5, L=2, **PLAIN, seed=3)
    wanted = net_of(case)
    with current.use(Emulated()):
        net = case.layer.to("cuda").jit()
        assert type(net) is type(wanted)
        assert net[1:] == wanted[1:]
        np.testing.assert_array_equal(net.w.flat, wanted.w.flat)
        case.layer.flat = np.zeros(case.layer.flat.size)
        assert net.w.flat.any()  # a snapshot
        with pytest.raises(ValueError, match="bidirectional"):
            nbrnn.LSTM(3, 5, bidirectional=True).to("cuda").jit()
