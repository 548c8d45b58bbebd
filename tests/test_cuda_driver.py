"""The driver by ctypes, and memory and streams of a device, on a libcuda that is made up."""

import copy
import ctypes
import gc
import os
import pathlib
import pickle
import re
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from nbrnn._cuda import device, driver
from nbrnn._cuda.driver import PROTOTYPES, SIGNATURES
from tests.fake_cuda import FakeCuda, installed
from tests.processes import finish, run, start

HEADERS = [
    *pathlib.Path("/usr/local").glob("cuda-*/include/cuda.h"),
    *(p for folder in sys.path if folder for p in pathlib.Path(folder).glob("nvidia/cu*/include/cuda.h")),
]
f4 = np.dtype("f4")


# The table


@pytest.mark.skipif(not HEADERS, reason="no cuda.h here")
@pytest.mark.parametrize("header", HEADERS, ids=str)
def test_functions_are_those_of_cuda_h(header):
    text = header.read_text()
    for name, kinds in PROTOTYPES.items():
        base = re.sub(r"_v\d+$", "", name)
        meant = re.findall(rf"^\s*#define {base} +(?:__CUDA_API_PT[DS][SZ]\()?({base}(?:_v\d+)?)\)?\s*$", text, re.M)
        assert set(meant) <= {name}, f"{base} is {meant} in C"
        assert meant or name == base, f"there is no {name}"
        declared = re.search(rf"^CUresult CUDAAPI {base}\(([^;]*)\);", text, re.M)
        arguments = [re.sub(r"\s+", " ", a).strip() for a in declared[1].split(",")]
        found = tuple(re.sub(r" ?(\**) ?\w+$", r" \1", a).strip() for a in arguments)
        assert found == kinds, name


CONSTANTS = {
    "CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT": driver.MULTIPROCESSORS,
    "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR": driver.MAJOR,
    "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR": driver.MINOR,
    "CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH": driver.COOPERATIVE,
    "CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN": driver.MOST_SHARED,
    "CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED": driver.MEMORY_POOLS,
    "CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES": driver._DYNAMIC_SHARED,
    "CU_POINTER_ATTRIBUTE_MEMORY_TYPE": driver._MEMORY_TYPE,
    "CU_JIT_ERROR_LOG_BUFFER": driver._ERROR_LOG,
    "CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES": driver._ERROR_LOG_SIZE,
    "CU_EVENT_DISABLE_TIMING": driver._NO_TIMING,
    "CU_MEM_ALLOCATION_TYPE_PINNED": 1,
    "CU_MEM_LOCATION_TYPE_DEVICE": 1,
    "CUDA_ERROR_INVALID_VALUE": driver.INVALID_VALUE,
    "CUDA_ERROR_OUT_OF_MEMORY": driver.OUT_OF_MEMORY,
    "CUDA_ERROR_NO_DEVICE": 100,
    "CUDA_ERROR_INVALID_HANDLE": 400,
    "CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE": 720,
    "CUDA_ERROR_UNSUPPORTED_PTX_VERSION": driver.UNSUPPORTED_PTX,
}


@pytest.mark.skipif(not HEADERS, reason="no cuda.h here")
@pytest.mark.parametrize("header", HEADERS, ids=str)
def test_numbers_are_those_of_cuda_h(header):
    text = header.read_text()
    for name, value in CONSTANTS.items():
        assert int(re.search(rf"\b{name}\s*=\s*(0x[0-9a-f]+|\d+)", text, re.I)[1], 0) == value, name
    pool = re.search(r"typedef enum CUmemPool_attribute_enum \{(.*?)\}", text, re.S)[1]
    order = re.findall(r"^\s*(CU_MEMPOOL_ATTR_\w+)", pool, re.M)
    assert order.index("CU_MEMPOOL_ATTR_RELEASE_THRESHOLD") + 1 == driver._RELEASE_THRESHOLD
    assert re.search(rf"{order[0]}\s*=\s*1\b", pool)
    errors = {int(n) for n in re.findall(r"\bCUDA_ERROR_\w+\s*=\s*(\d+)", text)}
    assert set(driver._MEANINGS) <= errors
    fields = re.search(r"struct CUmemPoolProps_st \{(.*?)\} CUmemPoolProps_v1", text, re.S)[1]
    names = re.findall(r"^\s*(?:unsigned )?\w+ \*?(\w+)(?:\[(\d+)\])?;", fields, re.M)
    expected = ["allocType", "handleTypes", "location", "win32SecurityAttributes", "maxSize", "usage", "reserved"]
    assert [n for n, _ in names] == expected
    assert names[-1][1] == "54"
    assert ctypes.sizeof(driver._PoolProperties) == 88


def test_all_functions_are_made_up():
    fake = FakeCuda()
    assert all(hasattr(fake, name) for name in SIGNATURES)


# What is missing, and what fails


def test_no_driver(monkeypatch):
    def none(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "WinDLL" if sys.platform == "win32" else "CDLL", none)
    with pytest.raises(RuntimeError, match=r"no NVIDIA driver: .* can't be loaded"):
        driver.open_library()


@pytest.mark.parametrize(
    "options, says",
    [
        ({"devices": 0}, "cuInit: CUDA_ERROR_NO_DEVICE .*CUDA_VISIBLE_DEVICES"),
        ({"version": 11080}, "driver is for CUDA 11.8, and nbrnn needs one for CUDA 12.0"),
        ({"without": ("cuMemAllocFromPoolAsync",)}, "has no cuMemAllocFromPoolAsync: update"),
    ],
)
def test_no_use(options, says):
    with pytest.raises(RuntimeError, match=says):
        driver.Driver(FakeCuda(**options))


def test_errors_name_function_code_and_meaning():
    with installed() as fake:
        on = device.device(0)
        made = on.put(np.zeros(3, f4))
        for code, says in [(700, "must be started anew"), (400, "another device"), (12345, "error 12345")]:
            fake.fail("cuMemsetD8Async", code)
            with pytest.raises(driver.CudaError, match=f"cuMemsetD8Async: .*{says}") as caught:
                on.zero(made)
            assert (caught.value.function, caught.value.code) == ("cuMemsetD8Async", code)
        np.testing.assert_array_equal(on.get(made), np.zeros(3, f4))
        del made, caught


def test_devices_by_number():
    with installed(devices=2) as fake:
        assert device.device(1) is device.device(1)
        assert device.device(1).ordinal == 1
        with pytest.raises(ValueError, match="`ordinal` must be that of one of 2 CUDA devices, got 2"):
            device.device(2)
        assert device.current() is device.device(0)
        fake.stack().append(fake.contexts[1])  # as by torch.cuda.device(1)
        assert device.current() is device.device(1)
        fake.stack().clear()
        assert "Made-up GPU" in repr(device.device(0))
        for again in (copy.deepcopy(device.device(1)), pickle.loads(pickle.dumps(device.device(1)))):
            assert again is device.device(1)
        with pytest.raises(TypeError, match="can't be copied or pickled"):
            copy.deepcopy(device.device(1).empty(3, f4))


# Memory


@pytest.mark.parametrize("pools", [True, False])
@pytest.mark.parametrize("deferred", [True, False])
def test_memory(pools, deferred):
    rng = np.random.default_rng(0)
    with installed(pools=pools, deferred=deferred):
        on = device.device(0)
        for dtype in ("f4", "f8", "i4", "i8", "u1"):
            given = rng.integers(0, 100, (3, 4)).astype(dtype)
            made = on.put(given.T)  # not contiguous
            wanted = given.T.reshape(-1).copy()
            given[...] = 0
            assert (made.size, made.dtype, made.nbytes) == (12, wanted.dtype, wanted.nbytes)
            np.testing.assert_array_equal(on.get(made), wanted)
            np.testing.assert_array_equal(on.get(made[2:7]), wanted[2:7])
            np.testing.assert_array_equal(on.get(made[2:][:-3][1:]), wanted[3:-3])
            assert on.get(made[5:2]).size == 0
            assert on.address(made[3:]) == on.address(made) + 3 * wanted.itemsize
            other = on.empty(5, wanted.dtype)
            on.copy(other, made[:5])
            on.zero(made[4:])
            np.testing.assert_array_equal(on.get(other), wanted[:5])
            np.testing.assert_array_equal(on.get(made), np.r_[wanted[:4], np.zeros(8, dtype)])
            seen = on.view(on.address(other), 2, wanted.dtype, owner=other)
            del other
            np.testing.assert_array_equal(on.get(seen), wanted[:2])
        for nothing in (on.empty(0, f4), on.put(np.zeros((0, 3), f4))):
            on.zero(nothing)
            on.copy(nothing, nothing)
            assert on.get(nothing).shape == (0,)
        with pytest.raises(ValueError, match="`into` must be as large"):
            on.copy(made, made[1:])
        with pytest.raises(TypeError, match="slices without steps"):
            made[::2]
        with pytest.raises(TypeError, match="slices without steps"):
            made[0]
        del made, seen, nothing


def test_memory_of_cycles_and_other_threads_is_given_back():
    with installed() as fake:
        on = device.device(0)
        cycle = [on.empty(100, f4)]
        cycle.append(cycle)
        made = [on.empty(100, f4)]
        del cycle
        thread = threading.Thread(target=made.clear)
        thread.start()
        thread.join()
        gc.collect()
        assert fake.live() == 0
        assert fake.calls["cuMemFreeAsync"] == 2
        failing = on.empty(3, f4)
        fake.fail("cuMemFreeAsync", 719)
        del failing  # says nothing
        fake.heap[next(a for a in fake.heap if fake.heap[a].live)].live = False


@pytest.mark.parametrize("pools", [True, False])
def test_too_much_memory(pools):
    with installed(memory=8192, pools=pools) as fake:
        on = device.device(0)
        kept = on.empty(1024, f4)
        with pytest.raises(MemoryError, match=r"0.06 MiB on CUDA device 0 \(Made-up GPU\): 0.00 MiB of its 0.01 MiB"):
            on.empty(16384, f4)
        assert on.get(on.put(np.ones(2, f4))).sum() == 2
        del kept
        again = on.empty(1900, f4)  # what was kept for other sizes has been given back
        assert fake.calls["cuMemPoolTrimTo"] == (1 if pools else 0)
        assert fake.calls["cuMemFree_v2"] == (0 if pools else 2)
        del again


def test_memory_is_used_again_where_there_are_no_pools():
    with installed(pools=False, deferred=True) as fake:
        on, stream = device.device(0), fake.new_stream()
        first = on.put(np.arange(100, dtype=f4))
        address = on.address(first)
        del first
        second = on.empty(90, f4)
        assert on.address(second) == address
        other = on.put(np.arange(90, dtype=f4))
        on.copy(second, other)
        third = on.empty(90, f4)
        on.copy(third, second)
        del second
        with on.on(stream):
            second = on.put(np.full(90, 7, f4))
            assert on.address(second) == address
            np.testing.assert_array_equal(on.get(second), np.full(90, 7))
        np.testing.assert_array_equal(on.get(third), np.arange(90))
        del second, third, other


def test_pinned_memory_may_change_too():
    with installed(deferred=True) as fake:
        on, source = device.device(0), np.arange(10, dtype=f4)
        fake.pinned.append(source)
        made = on.put(source)
        source[...] = 0
        np.testing.assert_array_equal(on.get(made), np.arange(10))
        del made


# Streams


def handles():
    yield 0, 0
    yield 1, 0  # the legacy stream by its other name
    yield np.int64(5), 5
    yield SimpleNamespace(cuda_stream=7), 7
    yield SimpleNamespace(ptr=8), 8
    yield SimpleNamespace(handle=ctypes.c_void_p(9)), 9
    yield SimpleNamespace(handle=ctypes.c_void_p(0)), 0
    yield SimpleNamespace(handle=SimpleNamespace(value=10)), 10
    yield SimpleNamespace(__cuda_stream__=lambda: (0, 11)), 11
    yield SimpleNamespace(__cuda_stream__=(0, 12), ptr=3), 12


@pytest.mark.parametrize("stream, handle", list(handles()))
def test_handles_of_streams(stream, handle):
    assert device.handle_of(stream) == handle


@pytest.mark.parametrize("stream", ["x", 1.5, True, -4, None, object(), SimpleNamespace(ptr="a")])
def test_what_is_no_stream(stream):
    with pytest.raises(TypeError, match="`stream` must be a CUDA stream of PyTorch"):
        device.handle_of(stream)


def test_streams_that_wont_do():
    with pytest.raises(TypeError, match="of version 0, got 1"):
        device.handle_of(SimpleNamespace(__cuda_stream__=lambda: (1, 11)))
    with pytest.raises(ValueError, match="must be a stream of its own"):
        device.handle_of(2)
    with installed():
        on = device.device(0)
        with pytest.raises(driver.CudaError, match="INVALID_HANDLE.*stream of another device"), on.on(0x7777):
            on.put(np.zeros(1, f4))


def test_work_is_put_on_the_stream_in_use():
    with installed() as fake:
        on, a, b = device.device(0), fake.new_stream(), fake.new_stream()
        fake.log.clear()
        with on.on(a):
            made = on.put(np.zeros(3, f4))
            with on.on(SimpleNamespace(ptr=b)), on.on(None):
                on.get(on.put(np.zeros(3, f4)))
            on.zero(made)
            del made
        with pytest.raises(KeyError), on.on(a):
            raise KeyError
        on.wait()
        on.empty(3, f4)
        one = ["cuMemAllocFromPoolAsync", "cuMemcpyHtoDAsync"]
        wanted = [(n, a) for n in one]
        wanted += [(n, b) for n in (*one, "cuMemcpyDtoHAsync", "cuMemFreeAsync")]
        wanted += [("cuMemsetD8Async", a), ("cuMemFreeAsync", a)]
        assert fake.log == [*wanted, ("cuMemAllocFromPoolAsync", 0), ("cuMemFreeAsync", 0)]


def between_streams(on, a, b):
    """Numbers that are right only if streams wait for each other where they must."""
    first = on.put(np.arange(50, dtype=f4))
    with on.on(a):
        second = on.empty(50, f4)
        on.copy(second, first)  # behind what wrote it
    on.zero(first)  # behind what read it
    with on.on(b):
        third = on.empty(50, f4)
        on.copy(third, second)
        on.copy(second, first)
        del first  # behind that
    zeros = on.get(second)
    with on.on(a):
        return on.get(third), zeros


def compare_between_streams():
    with installed(deferred=True) as fake:
        third, zeros = between_streams(device.device(0), fake.new_stream(), fake.new_stream())
        np.testing.assert_array_equal(third, np.arange(50))
        np.testing.assert_array_equal(zeros, np.zeros(50))
        assert not any(type(thing).__name__ == "Event" for thing in fake.objects.values())


def test_streams_wait_for_each_other():
    compare_between_streams()


def test_without_waiting_it_would_go_wrong(monkeypatch):
    monkeypatch.setattr(device.Device, "let_wait", lambda *streams: None)
    with pytest.raises(AssertionError):
        compare_between_streams()


def test_streams_that_only_read_wait_once():
    with installed(deferred=True) as fake:
        on, streams = device.device(0), [fake.new_stream(), fake.new_stream()]
        shared = on.put(np.arange(5, dtype=f4))
        for _ in range(10):
            for stream in streams:
                with on.on(stream):
                    on.copy(on.empty(5, f4), shared)
        assert fake.calls["cuStreamWaitEvent"] == 2
        on.zero(shared)
        assert fake.calls["cuStreamWaitEvent"] == 4
        del shared


def test_waiting_for_a_stream():
    with installed(deferred=True) as fake:
        on, theirs = device.device(0), fake.new_stream()
        with on.on(theirs):
            first = on.put(np.arange(5, dtype=f4))
        seen = on.view(first.address, 5, f4, first)  # nobody knows who writes it
        on.wait_for(theirs)
        np.testing.assert_array_equal(on.get(seen), np.arange(5))
        on.wait_for(0)
        on.wait_for(1)
        assert fake.calls["cuStreamWaitEvent"] == 1
        with on.on(theirs):
            on.wait_for(1)
        assert fake.calls["cuStreamWaitEvent"] == 2
        del first, seen


def test_a_stream_lives_as_long_as_its_memory():
    class Owner(SimpleNamespace):
        pass

    with installed() as fake:
        on, gone = device.device(0), []
        owner = Owner(ptr=fake.new_stream())
        Owner.__del__ = lambda self: gone.append(self.ptr)
        with on.on(owner):
            made = on.put(np.zeros(5, f4))
            other = made[2:]
        del owner
        gc.collect()
        assert not gone
        del made, other
        gc.collect()
        assert gone


def test_any_context_may_be_current():
    with installed() as fake:
        on = device.device(0)
        fake.stack().append(fake.foreign)
        made = on.put(np.arange(5, dtype=f4))
        np.testing.assert_array_equal(on.get(made), np.arange(5))
        fake.fail("cuMemsetD8Async", 1)
        with pytest.raises(driver.CudaError):
            on.zero(made)
        del made
        assert fake.stack() == [fake.foreign]
        fake.stack().clear()


def work_of_a_thread(fake, shared, seed, wrong):
    try:
        rng, on = np.random.default_rng(seed), device.device(0)
        with on.on(fake.new_stream()):
            for _ in range(60):
                given = rng.random(int(rng.integers(1, 40))).astype(f4)
                made, other = on.put(given), on.empty(given.size, f4)
                mine = rng.random() < 0.7
                on.copy(other, made if mine else shared[: given.size])
                on.copy(made, other)
                np.testing.assert_array_equal(on.get(made), given if mine else np.arange(given.size))
        assert not fake.stack()
    except BaseException as error:
        wrong.append(error)


@pytest.mark.parametrize("pools", [True, False])
def test_threads(pools):
    with installed(pools=pools, deferred=True) as fake:
        wrong, shared = [], [device.device(0).put(np.arange(40, dtype=f4))]
        threads = [threading.Thread(target=work_of_a_thread, args=(fake, shared[0], n, wrong)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        del threads, thread
        shared.clear()
        assert not wrong, wrong


# Processes

SETUP = """
import os, sys
import numpy as np
from nbrnn._cuda import device, driver
from tests.fake_cuda import FakeCuda
fake = FakeCuda()
driver.open_library = lambda: fake
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_is_told():
    code = """
made = device.device(0).put(np.zeros(3, "f4"))
child = os.fork()
if not child:
    frees = fake.calls["cuMemFreeAsync"]
    try:
        device.device(0).get(made)
    except RuntimeError as error:
        told = "forked after its parent began to use it" in str(error)
    del made
    os._exit(0 if told and fake.calls["cuMemFreeAsync"] == frees else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), device.device(0).get(made))
"""
    assert run(SETUP + code).strip() == "0 [0. 0. 0.]"


def test_the_end_of_a_process_is_quiet():
    code = """
class Keeps:
    def __del__(self):
        self.made = None
keeps = Keeps()
keeps.made = device.device(0).put(np.zeros(3, "f4"))
device.kept = device.device(0).put(np.zeros(3, "f4"))
sys.kept = keeps
print("done")
"""
    process = start(["-c", SETUP + code])
    error = process.stderr
    assert finish(process) == "done\n"
    assert error.closed


def test_nbrnn_is_imported_without_a_driver():
    code = (
        "import sys, nbrnn, nbrnn._cuda.device as d\n"
        "print(d._devices, d.cuda.load.cache_info().misses, any('numba.cuda' in m for m in sys.modules))"
    )
    assert run(code).strip() == "{} 0 False"
