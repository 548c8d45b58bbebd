"""A libcuda that is made up: memory of the host, and kernels run by the PTX emulator, behind the real one's functions.

Each function is made from the table that the real library is bound by (`nbrnn._cuda.driver.SIGNATURES`), and gets what
ctypes would hand to C: addresses and numbers.  What a launch runs on is read from the block of arguments it was given.
"""

# ruff: noqa: N802 (names of functions are those of the library)
import collections
import contextlib
import ctypes
import functools
import re
import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nbrnn._cuda import driver
from tests.ptx import PtxError, parse
from tests.ptx.kept import KEPT

INVALID_VALUE, OUT_OF_MEMORY, NO_DEVICE, INVALID_DEVICE, INVALID_PTX, UNSUPPORTED_PTX = 1, 2, 100, 101, 218, 222
INVALID_CONTEXT, INVALID_HANDLE, NOT_FOUND, LAUNCH_FAILED, TOO_LARGE = 201, 400, 500, 719, 720
NAMES = {
    INVALID_VALUE: b"CUDA_ERROR_INVALID_VALUE",
    OUT_OF_MEMORY: b"CUDA_ERROR_OUT_OF_MEMORY",
    NO_DEVICE: b"CUDA_ERROR_NO_DEVICE",
    INVALID_DEVICE: b"CUDA_ERROR_INVALID_DEVICE",
    INVALID_CONTEXT: b"CUDA_ERROR_INVALID_CONTEXT",
    INVALID_PTX: b"CUDA_ERROR_INVALID_PTX",
    UNSUPPORTED_PTX: b"CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
    INVALID_HANDLE: b"CUDA_ERROR_INVALID_HANDLE",
    NOT_FOUND: b"CUDA_ERROR_NOT_FOUND",
    LAUNCH_FAILED: b"CUDA_ERROR_LAUNCH_FAILED",
    TOO_LARGE: b"CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE",
}
GAP, PATTERN, ALIGNMENT = 256, 0x5A, 256


class RefusedError(Exception):
    """A function returns a code."""

    def __init__(self, code):
        super().__init__(NAMES.get(code, code))
        self.code = code


@dataclass
class Allocation:
    """Bytes between two gaps; which of them something has written."""

    room: Any
    address: int
    size: int
    pooled: bool
    written: Any = None
    live: bool = True

    @classmethod
    def of(cls, size, pooled):
        room = np.full(size + 2 * GAP + ALIGNMENT, PATTERN, np.uint8)
        address = -(-(room.ctypes.data + GAP) // ALIGNMENT) * ALIGNMENT
        made = cls(room, address, size, pooled, np.zeros(size, bool))
        made.data[:] = 0xFF  # NaN
        return made

    @property
    def data(self):
        start = self.address - self.room.ctypes.data
        return self.room[start : start + self.size]

    def check(self):
        start = self.address - self.room.ctypes.data
        assert (self.room[:start] == PATTERN).all(), "something was written in front of an allocation"
        assert (self.room[start + self.size :] == PATTERN).all(), "something was written behind an allocation"


@dataclass
class Event:
    stream: int | None = None
    done: bool = True


@dataclass
class Function:
    kernel: Any
    module: Any
    dynamic_shared: int = 48 * 1024


@dataclass
class State:
    """What a test may look at."""

    calls: collections.Counter = field(default_factory=collections.Counter)
    log: list = field(default_factory=list)  # (function, stream) of everything put on a stream
    problems: list = field(default_factory=list)  # exceptions inside the library: tests must look (`fake_cuda`)
    loaded: list = field(default_factory=list)  # PTX


@functools.lru_cache(256)
def parsed(text):
    return parse(text)


class FakeCuda(State):
    """See the module.

    Parameters
    ----------
    deferred : bool
        Nothing is done before a stream is waited for, and streams wait for each other only where they are told to.
    strict : bool
        A kernel may read nothing that hasn't been written.  Otherwise it finds NaN there, and what depends on it shows.
    processors, cc, devices, version, memory, pools
        What the devices say of themselves.
    """

    def __init__(
        self, *, deferred=False, processors=4, cc=(9, 0), devices=1, version=13000, memory=2**30, pools=True,
        cooperative=True, without=(), strict=False,
    ):  # fmt: skip
        super().__init__()
        self.strict = strict
        self.deferred, self.memory, self.devices, self.version, self.pools = deferred, memory, devices, version, pools
        self.attributes = {16: processors, 75: cc[0], 76: cc[1], 95: cooperative, 97: 227 * 1024, 115: pools}
        self.heap, self.freed, self.pinned = {}, [], []
        self.objects, self.streams, self.next = {}, {0: collections.deque()}, 0x1000
        self.local, self.lock = threading.local(), threading.RLock()
        self.orders = {}  # function: calls from now until it fails, code
        self.contexts = [0x100 + d for d in range(devices)]
        self.foreign = 0x99  # a context of somebody else
        for name, kinds in driver.SIGNATURES.items():
            if name not in without:
                prototype = ctypes.CFUNCTYPE(ctypes.c_int, *kinds)
                setattr(self, name, prototype(functools.partial(self.enter, name, getattr(self, "do_" + name))))

    # What tests order and ask

    def fail(self, name, code, after=0):
        """Let a function fail once, after so many calls that don't."""
        self.orders[name] = [after, code]

    def new_stream(self):
        handle = self.name(None)
        self.streams[handle] = collections.deque()
        return handle

    def live(self):
        """Bytes that are allocated and not freed."""
        return sum(a.size for a in self.heap.values() if a.live)

    def finish(self):
        """Do all that is still to be done, the last streams first, and see whether all went well."""
        for stream in reversed(self.streams):
            self.drain(stream)
        for allocation in self.heap.values():
            allocation.check()
        if self.problems:
            raise self.problems[0]

    # Entry

    def enter(self, name, function, *arguments):
        with self.lock:
            self.calls[name] += 1
            try:
                if name in self.orders:
                    self.orders[name][0] -= 1
                    if self.orders[name][0] < 0:
                        raise RefusedError(self.orders.pop(name)[1])
                function(*arguments)
            except RefusedError as refused:
                return refused.code
            except BaseException as error:
                self.problems.append(error)
                return LAUNCH_FAILED
            return 0

    def name(self, thing):
        self.next += 0x10
        self.objects[self.next] = thing
        return self.next

    def find(self, handle, kind):
        thing = self.objects.get(handle)
        if not isinstance(thing, kind):
            raise RefusedError(INVALID_HANDLE)
        return thing

    @staticmethod
    def give(pointer, kind, value):
        kind.from_address(pointer).value = value

    def stack(self):
        if not hasattr(self.local, "stack"):
            self.local.stack = []
        return self.local.stack

    def in_context(self):
        if not self.stack() or self.stack()[-1] not in self.contexts:
            raise RefusedError(INVALID_CONTEXT)

    def on(self, name, stream, work):
        """Put work on a stream."""
        self.in_context()
        stream = stream or 0
        if stream not in self.streams:
            raise RefusedError(INVALID_HANDLE)
        self.log.append((name, stream))
        self.streams[stream].append(work)
        if not self.deferred:
            self.drain(stream)

    def drain(self, stream, until=None):
        queue = self.streams[stream]
        while queue and not (until and until.done):
            queue.popleft()()

    def memory_at(self, address, size):
        """The live allocation that holds some bytes, and where in it."""
        for allocation in self.heap.values():
            if allocation.address <= address and address + size <= allocation.address + allocation.size:
                assert allocation.live, f"memory at {address:#x} is used after it was freed"
                return allocation, address - allocation.address
        raise AssertionError(f"{size} bytes at {address:#x} are in no allocation")

    # The functions

    def do_cuInit(self, flags):
        if not self.devices:
            raise RefusedError(NO_DEVICE)

    def do_cuDriverGetVersion(self, out):
        self.give(out, ctypes.c_int, self.version)

    def do_cuGetErrorName(self, code, out):
        if code not in NAMES:
            raise RefusedError(INVALID_VALUE)
        self.give(out, ctypes.c_char_p, NAMES[code])

    def do_cuDeviceGetCount(self, out):
        self.give(out, ctypes.c_int, self.devices)

    def do_cuDeviceGet(self, out, ordinal):
        if not 0 <= ordinal < self.devices:
            raise RefusedError(INVALID_DEVICE)
        self.give(out, ctypes.c_int, ordinal)

    def do_cuDeviceGetName(self, out, size, device):
        ctypes.memmove(out, b"Made-up GPU\0", 12)

    def do_cuDeviceTotalMem_v2(self, out, device):
        self.give(out, ctypes.c_size_t, self.memory)

    def do_cuDeviceGetAttribute(self, out, which, device):
        self.give(out, ctypes.c_int, int(self.attributes[which]))

    def do_cuDevicePrimaryCtxRetain(self, out, device):
        self.give(out, ctypes.c_void_p, self.contexts[device])

    def do_cuCtxGetCurrent(self, out):
        self.give(out, ctypes.c_void_p, self.stack()[-1] if self.stack() else None)

    def do_cuCtxGetDevice(self, out):
        if not self.stack():
            raise RefusedError(INVALID_CONTEXT)
        self.give(out, ctypes.c_int, self.contexts.index(self.stack()[-1]))

    def do_cuCtxPushCurrent_v2(self, context):
        self.stack().append(context)

    def do_cuCtxPopCurrent_v2(self, out):
        if not self.stack():
            raise RefusedError(INVALID_CONTEXT)
        self.give(out, ctypes.c_void_p, self.stack().pop())

    def do_cuModuleLoadDataEx(self, out, image, count, options, values):
        self.in_context()
        text = ctypes.string_at(image).decode()
        given = dict(
            zip(
                (ctypes.c_int * count).from_address(options), (ctypes.c_void_p * count).from_address(values),
                strict=True,
            )
        )  # fmt: skip
        major, minor = map(int, re.search(r"^\.version (\d+)\.(\d+)", text, re.M).groups())
        newest = (9, self.version % 1000 // 10) if self.version >= 13000 else (8, self.version % 1000 // 10)
        if (major, minor) > newest:
            raise RefusedError(UNSUPPORTED_PTX)
        try:
            if ".entry" not in text:
                raise PtxError("there is no kernel")
            module = parsed(text)
        except PtxError as error:
            log = str(error).encode()[: given[6] - 1] + b"\0"
            ctypes.memmove(given[5], log, len(log))
            raise RefusedError(INVALID_PTX) from error
        self.loaded.append(text)
        self.give(out, ctypes.c_void_p, self.name(module))

    def do_cuModuleGetFunction(self, out, module, name):
        module, name = self.objects[module], ctypes.string_at(name).decode()
        try:
            kernel = module.kernel(name)
        except PtxError:
            raise RefusedError(NOT_FOUND) from None
        self.give(out, ctypes.c_void_p, self.name(Function(kernel, module)))

    def do_cuFuncSetAttribute(self, function, which, value):
        if which != 8 or value > self.attributes[97]:
            raise RefusedError(INVALID_VALUE)
        self.find(function, Function).dynamic_shared = value

    def do_cuOccupancyMaxActiveBlocksPerMultiprocessor(self, out, function, threads, shared):
        self.find(function, Function)
        self.give(out, ctypes.c_int, 1)

    def do_cuLaunchKernel(
        self, function, gx, gy, gz, bx, by, bz, shared, stream, parameters, extra, name="cuLaunchKernel"
    ):
        assert extra is None
        function = self.find(function, Function)
        if shared > function.dynamic_shared or bx * by * bz > (function.kernel.max_threads or 1024):
            raise RefusedError(INVALID_VALUE)
        variables = function.kernel.params
        pointers = (ctypes.c_void_p * len(variables)).from_address(parameters)
        given = [ctypes.string_at(p, v.size) for p, v in zip(pointers, variables, strict=True)]
        work = functools.partial(self.execute, function, (gx, gy, gz), (bx, by, bz), shared, given)
        self.on(name, stream, work)

    def do_cuLaunchCooperativeKernel(self, function, gx, gy, gz, *rest):
        if gx * gy * gz > self.attributes[16]:
            raise RefusedError(TOO_LARGE)
        self.do_cuLaunchKernel(function, gx, gy, gz, *rest, None, name="cuLaunchCooperativeKernel")

    def execute(self, function, grid, block, shared, given):
        run = KEPT.take(function.module, grid, block, name=function.kernel.name, dynamic_shared=shared, seed=1)
        placed = {}
        for n, (variable, data) in enumerate(zip(function.kernel.params, given, strict=True)):
            if self.is_data(n, given):
                address, size = int.from_bytes(data, "little"), self.bytes_of(n, given)
                if size:
                    allocation, offset = self.memory_at(address, size)
                    buffer = placed.get(allocation.address, (None,))[0]
                    if buffer is None:
                        buffer = run.memory.add("global", f"allocation {len(placed)}", allocation.size)
                        buffer.data[: allocation.size] = allocation.data
                        if buffer.written is not None:
                            step = 1 << buffer.unit_shift
                            written = allocation.written.reshape(-1, step).any(1)
                            buffer.written[: allocation.size // step] = written | (not self.strict)
                        placed[allocation.address] = buffer, allocation
                    data = (buffer.address + offset).to_bytes(8, "little")
            run.params.give(variable, data)
        run.run()
        for buffer, allocation in placed.values():
            allocation.data[:] = buffer.data[: allocation.size]
            if buffer.written is None:
                allocation.written[:] = True
            else:
                units = buffer.written[: allocation.size >> buffer.unit_shift]
                allocation.written |= np.repeat(units, 1 << buffer.unit_shift)
        KEPT.put(run)

    @staticmethod
    def is_data(n, given):
        """Whether a parameter is the data of one of Numba's arrays: the fifth of seven."""
        if n < 4 or n + 2 >= len(given) or any(len(g) != 8 for g in given[n - 4 : n + 3]):
            return False
        count, parent, size, item, _, shape, stride = (int.from_bytes(g, "little") for g in given[n - 4 : n + 3])
        return count == parent == 0 and size == shape and item == stride and item in (1, 2, 4, 8)

    @staticmethod
    def bytes_of(n, given):
        return int.from_bytes(given[n - 2], "little") * int.from_bytes(given[n - 1], "little")

    def allocate(self, size, pooled):
        if size <= 0:
            raise RefusedError(INVALID_VALUE)
        if self.live() + size > self.memory:
            raise RefusedError(OUT_OF_MEMORY)
        made = Allocation.of(size, pooled)
        self.heap[made.address] = made
        return made.address

    def release(self, address, pooled):
        allocation = self.heap[address]
        assert allocation.live, "memory is freed twice"
        assert allocation.pooled == pooled, "memory is freed by the function for another kind"
        allocation.check()
        allocation.live = False

    def do_cuMemPoolCreate(self, out, properties):
        self.in_context()
        assert self.pools
        kind, handles, location, device = (ctypes.c_int * 4).from_address(properties)
        assert (kind, handles, location, device) == (1, 0, 1, self.contexts.index(self.stack()[-1]))
        self.give(out, ctypes.c_void_p, self.name("pool"))

    def do_cuMemPoolSetAttribute(self, pool, which, value):
        assert self.objects[pool] == "pool"
        assert which == 4
        assert ctypes.c_uint64.from_address(value).value == 2**64 - 1

    def do_cuMemPoolTrimTo(self, pool, size):
        assert self.objects[pool] == "pool"

    def do_cuMemAllocFromPoolAsync(self, out, size, pool, stream):
        assert self.objects[pool] == "pool"
        self.on("cuMemAllocFromPoolAsync", stream, lambda: None)
        self.give(out, ctypes.c_uint64, self.allocate(size, True))

    def do_cuMemFreeAsync(self, address, stream):
        self.on("cuMemFreeAsync", stream, functools.partial(self.release, address, True))

    def do_cuMemAlloc_v2(self, out, size):
        self.in_context()
        self.give(out, ctypes.c_uint64, self.allocate(size, False))

    def do_cuMemFree_v2(self, address):
        for stream in list(self.streams):
            self.drain(stream)
        self.release(address, False)

    def do_cuMemGetInfo_v2(self, free, total):
        self.in_context()
        self.give(free, ctypes.c_size_t, self.memory - self.live())
        self.give(total, ctypes.c_size_t, self.memory)

    def do_cuPointerGetAttribute(self, out, which, address):
        assert which == 2
        if not any(a.ctypes.data <= address < a.ctypes.data + a.nbytes for a in self.pinned):
            raise RefusedError(INVALID_VALUE)
        self.give(out, ctypes.c_uint, 1)

    def do_cuMemcpyHtoDAsync_v2(self, into, source, size, stream):
        pinned = any(a.ctypes.data <= source < a.ctypes.data + a.nbytes for a in self.pinned)
        staged = None if pinned else ctypes.string_at(source, size)

        def work():
            allocation, offset = self.memory_at(into, size)
            data = staged if staged is not None else ctypes.string_at(source, size)
            allocation.data[offset : offset + size] = np.frombuffer(data, np.uint8)
            allocation.written[offset : offset + size] = True

        self.on("cuMemcpyHtoDAsync", stream, work)

    def do_cuMemcpyDtoHAsync_v2(self, into, source, size, stream):
        def work():
            allocation, offset = self.memory_at(source, size)
            ctypes.memmove(into, allocation.data[offset:].ctypes.data, size)

        self.on("cuMemcpyDtoHAsync", stream, work)

    def do_cuMemcpyDtoDAsync_v2(self, into, source, size, stream):
        def work():
            (to, at), (of, begin) = self.memory_at(into, size), self.memory_at(source, size)
            to.data[at : at + size] = of.data[begin : begin + size]
            to.written[at : at + size] = of.written[begin : begin + size]

        self.on("cuMemcpyDtoDAsync", stream, work)

    def do_cuMemsetD8Async(self, into, value, size, stream):
        def work():
            allocation, offset = self.memory_at(into, size)
            allocation.data[offset : offset + size] = value
            allocation.written[offset : offset + size] = True

        self.on("cuMemsetD8Async", stream, work)

    def do_cuStreamSynchronize(self, stream):
        self.in_context()
        if (stream or 0) not in self.streams:
            raise RefusedError(INVALID_HANDLE)
        self.drain(stream or 0)

    def do_cuStreamWaitEvent(self, stream, event, flags):
        event = self.find(event, Event)

        def work():
            if not event.done:
                self.drain(event.stream, event)

        self.on("cuStreamWaitEvent", stream, work)

    def do_cuEventCreate(self, out, flags):
        self.in_context()
        self.give(out, ctypes.c_void_p, self.name(Event()))

    def do_cuEventRecord(self, event, stream):
        event = self.find(event, Event)
        event.stream, event.done = stream or 0, False
        self.on("cuEventRecord", stream, functools.partial(setattr, event, "done", True))

    def do_cuEventDestroy_v2(self, event):
        self.find(event, Event)
        del self.objects[event]


@contextlib.contextmanager
def installed(**options):
    """Within the block nbrnn runs on a made-up GPU; at its end all memory must have been given back."""
    import gc

    from nbrnn._cuda import device

    fake = FakeCuda(**options)
    before = driver.open_library, dict(device._devices)
    driver.open_library = lambda: fake
    driver.load.cache_clear()
    device._devices.clear()
    try:
        yield fake
        gc.collect()
        fake.finish()
        kept = sum(size for d in device._devices.values() for size, spare in d._spare.items() for _ in spare)
        assert fake.live() == kept, "memory is leaked"
    except Exception as error:
        if fake.problems and error is not fake.problems[0]:
            raise fake.problems[0] from error  # the reason, where there is only a code
        raise
    finally:
        for made in device._devices.values():
            made._end()
        driver.open_library = before[0]
        driver.load.cache_clear()
        device._devices.clear()
        device._devices.update(before[1])
