"""Real kernels, compiled by numba-cuda for devices that aren't there, executed by the emulator."""

import math
import re

import numpy as np
import pytest

from tests.ptx import Fault, Input, Output, launch
from tests.ptx import compile as nvvm
from tests.ptx.mutate import survivors, try_mutants

if not nvvm.has_numba_cuda():
    pytest.skip("numba-cuda is not installed", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore")

from llvmlite import ir  # noqa: E402
from numba import cuda, float32, int32  # noqa: E402
from numba.cuda import types  # noqa: E402
from numba.cuda.extending import intrinsic  # noqa: E402

V, M, C = types.float32[::1], types.float32[:, ::1], types.float32[:, :, ::1]
I, D = types.int32[::1], types.float64[::1]
EVERY = [
    pytest.param(cc, fast, id=f"sm_{cc[0]}{cc[1]}{'-fast' if fast else ''}")
    for cc in nvvm.CAPABILITIES
    for fast in (False, True)
]


def empty(*shape):
    return np.full(shape, np.nan, np.float32)


def check(ptx, run, kinds="barrier fence order store"):
    """All mutants are caught."""
    left = survivors(try_mutants(ptx, run, kinds))
    assert not left, "\n".join(map(str, left))


def block_sum(x, out):
    """Sums of blocks, by halves in shared memory."""
    part = cuda.shared.array(128, float32)
    i, t = cuda.grid(1), cuda.threadIdx.x
    part[t] = x[i] if i < x.shape[0] else float32(0)
    cuda.syncthreads()
    n = 64
    while n > 0:
        if t < n:
            part[t] += part[t + n]
        cuda.syncthreads()
        n //= 2
    if t == 0:
        out[cuda.blockIdx.x] = part[0]


@pytest.mark.parametrize("cc, fast", EVERY)
def test_sums_in_shared_memory(cc, fast):
    ptx = nvvm.compile_ptx(block_sum, (V, V), cc, fastmath=fast)
    x = np.random.default_rng(0).normal(size=300).astype("f")

    def run(text, schedule=None):
        out = empty(3)
        done = launch(text, 3, 128, [Input(x), Output(out)], abi="numba", schedule=schedule)
        np.testing.assert_allclose(out, [x[:128].sum(), x[128:256].sum(), x[256:].sum()], rtol=1e-4, atol=1e-5)
        return done

    run(ptx, 0)
    # The loop's last barrier of all isn't needed; unrolled, it is an instruction of its own.
    left = survivors(try_mutants(ptx, run))
    assert len(left) <= 1
    assert all(m.kind == "barrier" for m in left)


def exchange(x, y, out, steps):
    """Each thread takes its neighbour's number, across blocks."""
    grid = cuda.cg.this_grid()
    i = cuda.grid(1)
    n = x.shape[0]
    j = (i + 1) % n
    for _ in range(steps):
        y[i] = x[j]
        grid.sync()
        x[i] = y[i] + float32(1)
        grid.sync()
    out[i] = x[j]


@pytest.mark.parametrize("cc, fast", EVERY)
def test_barriers_of_cooperative_groups(cc, fast):
    ptx = nvvm.compile_ptx(exchange, (V, V, V, types.int32), cc, fastmath=fast)
    start = np.arange(160, dtype="f")

    def run(text, schedule=None):
        x, y, out = start.copy(), empty(160), empty(160)
        done = launch(text, 5, 32, [x, Output(y), Output(out), 3], abi="numba", schedule=schedule)
        assert out.tolist() == (np.roll(start, -4) + 3).tolist()
        return done

    run(ptx, 0)
    check(ptx, run)


def _assembly(result, text, constraints, side_effect=True):
    """An intrinsic of one instruction on an address: hoisted out of no loop."""

    @intrinsic
    def operation(typing, array, index, value):
        from numba.cuda.np import arrayobj

        signature = types.int32(array, types.int64, types.int32)

        def codegen(context, builder, sig, args):
            base = arrayobj.make_array(sig.args[0])(context, builder, args[0]).data
            pointer = builder.gep(base, [args[1]])
            kind = ir.FunctionType(ir.IntType(32), [pointer.type, ir.IntType(32)])
            return builder.call(ir.InlineAsm(kind, text, constraints, side_effect=True), [pointer, args[2]])

        return signature, codegen

    return operation


add_release = _assembly(int32, "atom.release.gpu.global.add.u32 $0, [$1], $2;", "=r,l,r,~{memory}")
load_acquire = _assembly(int32, "ld.acquire.gpu.global.u32 $0, [$1];", "=r,l,r,~{memory}")


def exchange_by_hand(x, y, out, counter, steps):
    """The same with a barrier of atomics."""
    i = cuda.grid(1)
    n = x.shape[0]
    j = (i + 1) % n
    goal = int32(0)
    for s in range(2 * steps):
        if s % 2 == 0:
            y[i] = x[j]
        else:
            x[i] = y[i] + float32(1)
        cuda.syncthreads()
        goal += cuda.gridDim.x
        if cuda.threadIdx.x == 0:
            add_release(counter, 0, 1)
            while load_acquire(counter, 0, 0) < goal:
                pass
        cuda.syncthreads()
    out[i] = x[j]


def exchange_by_fences(x, y, out, counter, steps):
    """The same with relaxed atomics and fences."""
    i = cuda.grid(1)
    n = x.shape[0]
    j = (i + 1) % n
    goal = int32(0)
    for s in range(2 * steps):
        if s % 2 == 0:
            y[i] = x[j]
        else:
            x[i] = y[i] + float32(1)
        cuda.syncthreads()
        goal += cuda.gridDim.x
        if cuda.threadIdx.x == 0:
            cuda.threadfence()
            cuda.atomic.add(counter, 0, 1)
            while cuda.atomic.add(counter, 0, 0) < goal:
                pass
            cuda.threadfence()
        cuda.syncthreads()
    out[i] = x[j]


@pytest.mark.parametrize("cc, fast", EVERY)
@pytest.mark.parametrize("kernel", [exchange_by_hand, exchange_by_fences])
def test_barriers_of_atomics(kernel, cc, fast):
    ptx = nvvm.compile_ptx(kernel, (V, V, V, I, types.int32), cc, fastmath=fast)
    start = np.arange(160, dtype="f")

    def run(text, schedule=None):
        x, y, out = start.copy(), empty(160), empty(160)
        done = launch(text, 5, 32, [x, Output(y), Output(out), np.zeros(1, "i4"), 2], abi="numba", schedule=schedule)
        assert out.tolist() == (np.roll(start, -3) + 2).tolist()
        return done

    run(ptx, 0)
    check(ptx, run)


@cuda.jit(device=True)
def sigmoid(x):
    return float32(1) / (float32(1) + math.exp(-x))


@cuda.jit(device=True)
def tanh(x):
    return float32(2) * sigmoid(float32(2) * x) - float32(1)


def make_lstm(H, rows):
    """One block for a few rows of the batch; a thread for each gate's unit, its weights in registers."""
    G = 4 * H

    def lstm(gates_x, w_hh, h0, c0, y, h, c):
        """gates_x: (T, B, 4H) = x W_ih' + b, in the order i f g o; y: (T, B, H)."""
        state = cuda.shared.array((rows, H), float32)
        gates = cuda.shared.array((rows, G), float32)
        weights = cuda.local.array(H, float32)
        j = cuda.threadIdx.x
        first = cuda.blockIdx.x * int32(rows)
        B = h0.shape[0]
        for k in range(H):
            weights[k] = w_hh[j, k]
        for e in range(j, rows * H, 4 * H):
            b, u = e // H, e % H
            if first + b < B:
                state[b, u] = h0[first + b, u]
                c[first + b, u] = c0[first + b, u]
            else:
                state[b, u] = float32(0)
        cuda.syncthreads()
        for t in range(gates_x.shape[0]):
            for b in range(rows):
                if first + b < B:
                    a = gates_x[t, first + b, j]
                    for k in range(H):
                        a += weights[k] * state[b, k]
                    gates[b, j] = tanh(a) if 2 * H <= j < 3 * H else sigmoid(a)
            cuda.syncthreads()
            for e in range(j, rows * H, 4 * H):
                b, u = e // H, e % H
                if first + b < B:
                    new = gates[b, H + u] * c[first + b, u] + gates[b, u] * gates[b, 2 * H + u]
                    c[first + b, u] = new
                    state[b, u] = gates[b, 3 * H + u] * tanh(new)
                    y[t, first + b, u] = state[b, u]
            cuda.syncthreads()
        for e in range(j, rows * H, 4 * H):
            b, u = e // H, e % H
            if first + b < B:
                h[first + b, u] = state[b, u]

    return lstm


LSTM = (C, M, M, M, C, M, M)


def lstm_reference(gates_x, w_hh, h, c):
    sigma = lambda a: 1 / (1 + np.exp(-a))
    y, w, h, c = [], w_hh.T.astype("f8"), h.astype("f8"), c.astype("f8")
    for x in gates_x.astype("f8"):
        i, f, g, o = np.split(x + h @ w, 4, axis=1)
        c = sigma(f) * c + sigma(i) * np.tanh(g)
        h = sigma(o) * np.tanh(c)
        y.append(h)
    return np.array(y), h, c


def run_lstm(ptx, T, B, H, rows, seed=0, **options):
    rng = np.random.default_rng(seed)
    make = lambda *s: rng.normal(size=s).astype("f")
    inputs = make(T, B, 4 * H), make(4 * H, H) / np.float32(math.sqrt(H)), make(B, H), make(B, H)
    y, h, c = empty(T, B, H), empty(B, H), empty(B, H)
    done = launch(
        ptx, -(-B // rows), 4 * H, [*map(Input, inputs), Output(y), Output(h), Output(c)], abi="numba", **options
    )
    for got, wanted in zip((y, h, c), lstm_reference(*inputs), strict=True):
        np.testing.assert_allclose(got, wanted, atol=3e-6)
    assert done.unwritten == [0] * 7
    return done


@pytest.mark.parametrize("cc, fast", EVERY)
def test_lstm(cc, fast):
    H, rows = 16, 3
    ptx = nvvm.compile_ptx(make_lstm(H, rows), LSTM, cc, fastmath=fast, launch_bounds=4 * H)
    for T, B in ((1, 1), (3, 4), (4, 7)):
        run_lstm(ptx, T, B, H, rows)
    run_lstm(ptx, 2, 4, H, rows, schedule=1)
    assert not re.search(r"\.f64", ptx)


def test_mutants_of_the_lstm():
    ptx = nvvm.compile_ptx(make_lstm(8, 2), LSTM, (9, 0), fastmath=True)
    check(ptx, lambda text: run_lstm(text, 3, 3, 8, 2))


@pytest.mark.parametrize("short", [4, 5, 6])
def test_an_output_that_is_too_small(short):
    ptx = nvvm.compile_ptx(make_lstm(8, 2), LSTM)
    arrays = [empty(2, 3, 32), empty(32, 8), empty(3, 8), empty(3, 8), empty(2, 3, 8), empty(3, 8), empty(3, 8)]
    arrays = [a * 0 for a in arrays]
    arrays[short] = arrays[short][:-1].copy()
    with pytest.raises(Fault, match="out of bounds") as error:
        launch(ptx, 2, 32, arrays, abi="numba")
    assert error.value.kind == "bounds"


FUNCTIONS = {
    "tanh": (math.tanh, np.tanh, -5, 5), "exp": (math.exp, np.exp, -20, 20), "expm1": (math.expm1, np.expm1, -3, 3),
    "log": (math.log, np.log, 0.01, 50), "log1p": (math.log1p, np.log1p, -0.9, 9), "sqrt": (math.sqrt, np.sqrt, 0, 9),
    "sin": (math.sin, np.sin, -9, 9), "cos": (math.cos, np.cos, -9, 9), "erf": (math.erf, np.vectorize(math.erf), -3, 3),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_numbas(name):
    scalar, vector, low, high = FUNCTIONS[name]

    def apply(x, out):
        i = cuda.grid(1)
        if i < x.shape[0]:
            out[i] = scalar(x[i])

    for type_, dtype, tolerance in ((V, "f4", 4e-7), (D, "f8", 1e-15)):
        if name in ("sin", "cos") and dtype == "f8":
            continue  # numba's have a function that isn't inlined
        x = np.linspace(low, high, 200).astype(dtype)
        for cc in nvvm.CAPABILITIES:
            ptx = nvvm.compile_ptx(apply, (type_, type_), cc)
            out = np.full(200, np.nan, dtype)
            launch(ptx, 2, 128, [Input(x), Output(out)], abi="numba", seed=1)
            wanted = vector(x.astype("f8"))
            np.testing.assert_allclose(out, wanted, rtol=2 * tolerance, atol=tolerance, err_msg=str(cc))


def test_atomic_functions_of_numbas():
    def kernel(x, sums, ends, counts):
        part = cuda.shared.array(4, float32)
        i, t = cuda.grid(1), cuda.threadIdx.x
        if t < 4:
            part[t] = 0
        cuda.syncthreads()
        cuda.atomic.add(part, t % 4, x[i])
        cuda.atomic.max(ends, 0, x[i])
        cuda.atomic.min(ends, 1, x[i])
        cuda.syncthreads()
        if t < 4:
            cuda.atomic.add(sums, t, part[t])
        n = cuda.syncthreads_count(int32(t < 5))
        if t == 0:
            cuda.atomic.add(counts, 0, n)
        low = cuda.ballot_sync(0xFFFFFFFF, t % 3 == 0)
        if t == 32:
            counts[2 + cuda.blockIdx.x] = cuda.popc(low)

    x = np.random.default_rng(3).permutation(256).astype("f")
    for cc in nvvm.CAPABILITIES:
        ptx = nvvm.compile_ptx(kernel, (V, V, V, I), cc)
        sums, ends, counts = np.zeros(4, "f"), np.array([-9, 999], "f"), np.zeros(6, "i4")
        launch(ptx, 4, 64, [Input(x), sums, ends, counts], abi="numba", schedule=0)
        assert sums.tolist() == [x[i::4].sum() for i in range(4)]
        assert ends.tolist() == [255, 0]
        assert counts.tolist() == [20, 0, 11, 11, 11, 11]


def test_tuples_of_arrays():
    def kernel(net, x):
        i = cuda.grid(1)
        x[i] = net[0][i] + net[1][i] * float32(2)

    ptx = nvvm.compile_ptx(kernel, (types.UniTuple(V, 2), V))
    a, b, out = np.arange(32, dtype="f"), np.ones(32, "f"), empty(32)
    launch(ptx, 1, 32, [(Input(a), b), Output(out)], abi="numba")
    assert out.tolist() == (a + 2).tolist()


@pytest.mark.skipif(nvvm.tool("ptxas") is None, reason="no ptxas")
def test_resources():
    ptx = nvvm.compile_ptx(make_lstm(64, 2), LSTM, fastmath=True, launch_bounds=256)
    found = nvvm.assemble(ptx)
    assert 64 < found.registers <= 255
    assert found.shared == 4 * 2 * (64 + 256)
    assert (found.stack, found.spill_stores, found.spill_loads) == (0, 0, 0)
    few = nvvm.assemble(nvvm.compile_ptx(make_lstm(64, 2), LSTM), None, "-maxrregcount=24")
    assert few.spill_stores > 0
    with pytest.raises(RuntimeError, match="ptxas"):
        nvvm.assemble(ptx.replace("bar.sync", "bar.stink", 1))
    if nvvm.tool("nvdisasm"):
        counts = nvvm.machine_instructions(found.cubin)
        assert sum(n for name, n in counts.items() if name.startswith("FFMA")) >= 64
        assert not any(name.startswith(("DFMA", "DADD", "DMUL")) for name in counts)


def test_optimised_at_link_time():
    pytest.importorskip("cuda.core")
    try:
        ptx = nvvm.compile_ptx(make_lstm(8, 2), LSTM, lto=True, fastmath=True)
    except Exception as error:
        pytest.skip(f"no nvJitLink: {error}")
    run_lstm(ptx, 3, 3, 8, 2)
