"""Kernels on a device whose libcuda is made up: compiled, kept on disk, loaded, and launched from blocks of arguments."""

import re
import struct

import numpy as np
import pytest

from nbrnn._cells import GRU
from nbrnn._cuda import compile as compiler
from nbrnn._cuda import device, driver, kernels
from nbrnn._cuda.kernels import Argument, Kernel
from nbrnn._cuda.plan import Plan
from tests.cases import Case
from tests.processes import run
from tests.ptx import compile as nvvm
from tests.ptx import parse

if not nvvm.has_numba_cuda():
    pytest.skip("numba-cuda is not installed", allow_module_level=True)

from numba import cuda

from tests.emulated import Emulated, ptx_of, run_case
from tests.fake_cuda import installed
from tests.test_cuda_kernels import CELLS, LONG

f4, f8, i4 = np.dtype("f4"), np.dtype("f8"), np.dtype("i4")


@pytest.fixture(autouse=True)
def _warnings(recwarn):
    """numba-cuda's advice, in the emulator's own compilation."""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and a list of kernels that are compiled."""
    compiled = []

    def noted(kernel, cc):
        compiled.append(kernel.key[0])
        return original(kernel, cc)

    original = compiler.compile_ptx
    monkeypatch.setattr(compiler, "folder", lambda: tmp_path)
    monkeypatch.setattr(compiler, "compile_ptx", noted)
    return compiled


def random_case(kind, dtype):
    rng = np.random.default_rng(sum(map(ord, kind + dtype)))
    return Case(
        kind=kind, dtype=dtype, H=int(rng.integers(2, 9)), T=3, B=5, I=3, bidirectional=bool(rng.random() < 0.3),
        ragged=True, cut=True, stateful=True, seed=3,
    )  # fmt: skip


@pytest.mark.parametrize(
    "kind, dtype, family, deferred",
    [("relu", "float32", "steps", False), ("GRU", "float32", "spread", True), ("LSTM", "float64", "blocks", True)]
    + [("LSTM", "float32", "spread", False), ("MGU", "float64", "steps", True), ("tanh", "float32", "blocks", True)]
    * LONG,
)
def test_bits_are_those_of_the_emulator(kind, dtype, family, deferred):
    """What reaches a kernel through libcuda is what was meant for it."""
    case = random_case(kind, dtype)
    *wanted, gradients = run_case(Emulated(), CELLS[kind], case, gaps=1, family=family)
    with installed(deferred=deferred, pools=kind != "GRU", strict=True) as fake, device.device(0).on(fake.new_stream()):
        *found, others = run_case(device.device(0), CELLS[kind], case, gaps=1, family=family)
        assert {stream for _, stream in fake.log} == {max(fake.streams)}
        assert fake.calls["cuModuleLoadDataEx"] == len(set(fake.loaded))
        assert (fake.calls["cuLaunchCooperativeKernel"] > 0) == (family == "spread")
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(a, b)
    assert others.keys() == gradients.keys()
    for name, array in others.items():
        np.testing.assert_array_equal(array, gradients[name])


def test_weights_of_another_stream_are_waited_for():
    case = random_case("GRU", "float32")
    wanted = run_case(Emulated(), GRU, case, keep=False)[0]
    with installed(deferred=True) as fake:
        on = device.device(0)

        class Wandering:
            """Each thing on another stream."""

            def __getattr__(self, name):
                if not callable(getattr(on, name)):
                    return getattr(on, name)

                def call(*arguments):
                    streams.append(streams.pop(0))
                    with on.on(streams[0]):
                        return getattr(on, name)(*arguments)

                return call

        streams = [0, fake.new_stream(), fake.new_stream()]
        np.testing.assert_array_equal(run_case(Wandering(), GRU, case, keep=False)[0], wanted)


# Kernels of our own


def made(name, body, arguments, threads=32, **options):
    """A kernel of a function of an array, and its numbers."""
    return Kernel((name, name), lambda: body, arguments, threads, **options)


def count(out, scale, flag, byte, long):
    i = cuda.grid(1)
    if i < out.shape[0] and flag:
        out[i] = scale * i + byte + long


COUNT = made(
    "count",
    count,
    (
        Argument("out", "out", f8), Argument("scale", "", f4), Argument("flag", "", np.dtype("b1")),
        Argument("byte", "", np.dtype("u1")), Argument("long", "", np.dtype("i8")),
    ),
)  # fmt: skip


def test_numbers_of_all_sizes():
    with installed() as fake:
        on = device.device(0)
        out = on.empty(40, f8)
        on.zero(out)
        on.launch(COUNT, (2,), (out, 0.5, np.bool_(True), 200, -(2**40)))
        np.testing.assert_array_equal(on.get(out), 0.5 * np.arange(40) + 200 - 2**40)
        on.launch(COUNT, (np.int64(2), 1), (out[1:3], np.float32(2), True, np.uint8(0), np.int64(0)))
        np.testing.assert_array_equal(on.get(out)[:4], [200 - 2**40, 0, 2, 201.5 - 2**40])
        parameters = parse(fake.loaded[0]).kernel("nbrnn_count").params
        assert [v.size for v in parameters] == [8] * 7 + [4, 1, 1, 8]
        assert len(on._loaded[id(COUNT)].launch._after[0]) == len(parameters)
        del out


def test_what_a_launch_refuses():
    with installed() as fake:
        on = device.device(0)
        out = on.empty(3, f8)
        rest = (1.0, True, 0, 0)
        with pytest.raises(TypeError, match="count: an argument must be of float64, got <3 numbers of float32"):
            on.launch(COUNT, (1,), (on.empty(3, f4), *rest))
        with pytest.raises(ValueError, match="zip"):
            on.launch(COUNT, (1,), (out,))
        with pytest.raises(struct.error):
            on.launch(COUNT, (1,), (out, 1.0, True, 300, 0))
        for grid in [(0,), (2**31,), (1, 65536), (1, 1, 65536), (1, 0)]:
            with pytest.raises(ValueError, match="count: a grid of"):
                on.launch(COUNT, grid, (out, *rest))
        assert fake.calls["cuLaunchKernel"] == 0
        fake.fail("cuLaunchKernel", 701)
        with pytest.raises(driver.CudaError, match="cuLaunchKernel: .*hasn't the registers"):
            on.launch(COUNT, (1,), (out, *rest))
        del out


def use_memory_that_is_freed():
    with installed(deferred=True):
        on = device.device(0)
        out = on.empty(3, f8)
        astray = on.view(out.address, 3, f8, None)
        del out
        on.wait()
        on.launch(COUNT, (1,), (astray, 1.0, True, 0, 0))
        on.wait()


def test_a_fault_of_a_kernel_comes_to_light():
    with pytest.raises(AssertionError, match="used after it was freed"):
        use_memory_that_is_freed()


def exchange(out, given):
    room = cuda.shared.array(0, np.float32)
    i = cuda.threadIdx.x
    room[i * 400] = given[i]
    cuda.syncthreads()
    out[i] = room[(31 - i) * 400]


def test_much_shared_memory():
    arguments = Argument("out", "out", f4), Argument("given", "in", f4)
    kernel = made("exchange", exchange, arguments, shared=32 * 400 * 4)
    with installed() as fake:
        on, out = device.device(0), device.device(0).empty(32, f4)
        on.launch(kernel, (1,), (out, on.put(np.arange(32, dtype=f4))))
        np.testing.assert_array_equal(on.get(out), np.arange(31, -1, -1))
        assert fake.calls["cuFuncSetAttribute"] == 1
        more = made("exchange", exchange, arguments, shared=2**18)
        with pytest.raises(RuntimeError, match="exchange needs 262144 bytes of shared memory, <CUDA device 0"):
            on.launch(more, (1,), (out, out))
        del out


def alone(out):
    if cuda.threadIdx.x == 0:
        out[cuda.blockIdx.x] = cuda.blockIdx.x


def test_cooperative_kernels():
    kernel = made("alone", alone, (Argument("out", "out", f4),), cooperative=True)
    with installed(processors=3) as fake:
        on, out = device.device(0), device.device(0).empty(4, f4)
        assert on.resident(kernel) == 3
        on.launch(kernel, (3,), (out,))
        np.testing.assert_array_equal(on.get(out[:3]), np.arange(3))
        assert (fake.calls["cuLaunchCooperativeKernel"], fake.calls["cuLaunchKernel"]) == (1, 0)
        with pytest.raises(driver.CudaError, match="LAUNCH_TOO_LARGE.*don't all fit"):
            on.launch(kernel, (4,), (out,))
        del out
    with installed(cooperative=False), pytest.raises(RuntimeError, match="alone is a cooperative kernel, which <CUDA"):
        device.device(0).resident(kernel)


# PTX


def bare(ptx):
    """PTX without what numba numbers anew each time."""
    ptx = re.sub(r"_cudapy_smem_\d+", "_smem", ptx)
    ptx = re.sub(r"_ZN08NumbaEnv\w+", "_env", ptx)
    return ptx.replace(re.search(r"\.entry\s+(\w+)", ptx)[1], "entry")


def test_what_is_loaded_is_what_the_emulator_runs():
    plan = Plan(GRU, f4, 5)
    for kernel in (kernels.forward_kernel(plan, True), kernels.product_kernel(f4, False, True)):
        ours = nvvm.compile_ptx(kernel.make(), kernel.signature(), (9, 0), launch_bounds=kernel.bounds)
        assert bare(compiler.compile_ptx(kernel, (9, 0))) == bare(ours) == bare(ptx_of(kernel, (9, 0))), kernel.key


def test_compute_capabilities(cache):
    kernel = kernels.sum_rows_kernel(f4)
    for cc, target in [((8, 9), "sm_89"), ((13, 0), "sm_121")]:
        assert f".target {target}\n" in compiler.ptx_of(kernel, cc)
    with pytest.raises(RuntimeError, match="compute capability 7.0"):
        compiler.ptx_of(kernel, (7, 0))


def test_ptx_that_the_driver_refuses(monkeypatch):
    kernel = kernels.sum_rows_kernel(f4)
    with installed(version=12040), pytest.raises(driver.CudaError) as caught:
        device.device(0).resident(kernel)
    said = str(caught.value)
    assert "CUDA_ERROR_UNSUPPORTED_PTX_VERSION" in said
    assert "for CUDA 12.4" in said
    assert "nbrnn[cuda12]" in said
    monkeypatch.setattr(compiler, "ptx_of", lambda kernel, cc: ".version 9.0\n.nonsense\n")
    with installed(), pytest.raises(driver.CudaError, match=r"(?s)INVALID_PTX.*It says:\n.+"):
        device.device(0).resident(kernel)


def test_ptx_is_compiled_once(cache, tmp_path):
    kernel, same = kernels.sum_rows_kernel(f4), kernels.sum_rows_kernel.__wrapped__(f4)
    first = compiler.ptx_of(kernel, (9, 0))
    assert compiler.ptx_of(same, (9, 0)) == first
    assert cache == ["sum_rows"]
    compiler.ptx_of(kernel, (8, 0))
    compiler.ptx_of(kernels.sum_rows_kernel(f8), (9, 0))
    assert cache == ["sum_rows"] * 3
    assert len(list(tmp_path.iterdir())) == 3


def test_damaged_files_are_noticed(cache, tmp_path):
    kernel = kernels.sum_rows_kernel(f4)
    text = bare(compiler.ptx_of(kernel, (9, 0)))
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    damaged = [b"", whole[:10], whole[:-1], whole[:500] + b"x" + whole[501:], b"\xff" * 99, whole.partition(b"\n")[2]]
    for n, blob in enumerate(damaged):
        path.write_bytes(blob)
        assert bare(compiler.ptx_of(kernel, (9, 0))) == text
        assert len(cache) == n + 2
    compiler.ptx_of(kernel, (9, 0))
    assert len(cache) == len(damaged) + 1


def test_what_others_left_behind_is_removed(cache, tmp_path):
    import os

    names = ["nbrnn-0123456789abcdef-sum_rows-0.ptx", "nbrnn-x.ptx.1.tmp", "else.ptx", "nbrnn-new.ptx.2.tmp"]
    for name in names:
        (tmp_path / name).write_text("")
    os.utime(tmp_path / names[1], (0, 0))
    compiler.ptx_of(kernels.sum_rows_kernel(f4), (9, 0))
    left = {p.name for p in tmp_path.iterdir()}
    assert left.isdisjoint(names[:2])
    assert left >= set(names[2:])
    assert len(left) == 3


def test_a_cache_that_cant_be_had(cache, tmp_path, monkeypatch):
    kernel = kernels.sum_rows_kernel(f4)
    monkeypatch.setattr(compiler, "folder", lambda: None)
    compiler.ptx_of(kernel, (9, 0))
    monkeypatch.setattr(compiler, "folder", lambda: tmp_path / "isn't there")
    compiler.ptx_of(kernel, (9, 0))
    monkeypatch.setattr(compiler, "folder", lambda: tmp_path)
    monkeypatch.setattr(compiler, "_digest", lambda: None)
    compiler.ptx_of(kernel, (9, 0))
    assert len(cache) == 3
    assert not list(tmp_path.iterdir())


def test_a_second_process_compiles_nothing(tmp_path):
    code = """
import sys, numpy as np
from nbrnn._cuda import compile, kernels
print(hash(compile.ptx_of(kernels.sum_rows_kernel(np.dtype("f4")), (9, 0))), "numba.cuda" in sys.modules)
print(compile.folder(), file=sys.stderr)
"""
    first, imported = run(code, cache=tmp_path, PYTHONHASHSEED=0).split()
    assert imported == "True"
    assert run(code, cache=tmp_path, PYTHONHASHSEED=0).split() == [first, "False"]
    assert len(list(tmp_path.rglob("nbrnn-*.ptx"))) == 1


def test_without_numba_cuda(monkeypatch, cache):
    monkeypatch.setattr(compiler, "_versions", lambda: tuple((n, None) for n in compiler._PACKAGES))
    compiler._compiler.cache_clear()
    with pytest.raises(RuntimeError, match=r"isn't installed: pip install 'nbrnn\[cuda\]'"):
        compiler.ptx_of(kernels.sum_rows_kernel(f4), (9, 0))
    monkeypatch.undo()
    assert compiler.missing() is None
    monkeypatch.delattr(np, "row_stack")
    monkeypatch.setattr(np, "__version__", "2.5.0")
    assert re.fullmatch(
        r"numba-cuda 0.30.\d can't compile with NumPy 2.5.0: pip install 'numpy<2.5'", compiler.missing()
    )
