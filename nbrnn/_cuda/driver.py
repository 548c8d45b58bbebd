"""NVIDIA's driver, libcuda, by ctypes: what it offers, and what its errors mean.

Contexts are the devices' *primary* ones, so that arrays and streams of PyTorch, CuPy and Numba are valid here, and ours
there.  Addresses and handles are plain ints for everybody else.
"""

from __future__ import annotations

import ctypes
import functools
import os
import struct
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

#: What is called, with the types of arguments as in cuda.h (tests/test_cuda_driver.py compares them).
FUNCTIONS = """
    cuInit: unsigned int
    cuDriverGetVersion: int *
    cuGetErrorName: CUresult, const char **
    cuDeviceGetCount: int *
    cuDeviceGet: CUdevice *, int
    cuDeviceGetName: char *, int, CUdevice
    cuDeviceTotalMem_v2: size_t *, CUdevice
    cuDeviceGetAttribute: int *, CUdevice_attribute, CUdevice
    cuDevicePrimaryCtxRetain: CUcontext *, CUdevice
    cuCtxGetCurrent: CUcontext *
    cuCtxGetDevice: CUdevice *
    cuCtxPushCurrent_v2: CUcontext
    cuCtxPopCurrent_v2: CUcontext *
    cuModuleLoadDataEx: CUmodule *, const void *, unsigned int, CUjit_option *, void **
    cuModuleGetFunction: CUfunction *, CUmodule, const char *
    cuFuncSetAttribute: CUfunction, CUfunction_attribute, int
    cuOccupancyMaxActiveBlocksPerMultiprocessor: int *, CUfunction, int, size_t
    cuLaunchKernel: CUfunction, unsigned int, unsigned int, unsigned int, unsigned int, unsigned int, unsigned int,
        unsigned int, CUstream, void **, void **
    cuLaunchCooperativeKernel: CUfunction, unsigned int, unsigned int, unsigned int, unsigned int, unsigned int,
        unsigned int, unsigned int, CUstream, void **
    cuMemPoolCreate: CUmemoryPool *, const CUmemPoolProps *
    cuMemPoolSetAttribute: CUmemoryPool, CUmemPool_attribute, void *
    cuMemPoolTrimTo: CUmemoryPool, size_t
    cuMemAllocFromPoolAsync: CUdeviceptr *, size_t, CUmemoryPool, CUstream
    cuMemFreeAsync: CUdeviceptr, CUstream
    cuMemAlloc_v2: CUdeviceptr *, size_t
    cuMemFree_v2: CUdeviceptr
    cuMemGetInfo_v2: size_t *, size_t *
    cuPointerGetAttribute: void *, CUpointer_attribute, CUdeviceptr
    cuMemcpyHtoDAsync_v2: CUdeviceptr, const void *, size_t, CUstream
    cuMemcpyDtoHAsync_v2: void *, CUdeviceptr, size_t, CUstream
    cuMemcpyDtoDAsync_v2: CUdeviceptr, CUdeviceptr, size_t, CUstream
    cuMemsetD8Async: CUdeviceptr, unsigned char, size_t, CUstream
    cuStreamSynchronize: CUstream
    cuStreamWaitEvent: CUstream, CUevent, unsigned int
    cuEventCreate: CUevent *, unsigned int
    cuEventRecord: CUevent, CUstream
    cuEventDestroy_v2: CUevent
"""
_NUMBERS: dict[str, Any] = {
    "int": ctypes.c_int,
    "unsigned int": ctypes.c_uint,
    "unsigned char": ctypes.c_ubyte,
    "size_t": ctypes.c_size_t,
    "CUdevice": ctypes.c_int,
    "CUdeviceptr": ctypes.c_uint64,
}
_HANDLES = ("CUcontext", "CUmodule", "CUfunction", "CUstream", "CUevent", "CUmemoryPool")


def _kind(name: str) -> Any:
    if name.endswith("*") or name in _HANDLES:
        return ctypes.c_void_p
    return _NUMBERS.get(name, ctypes.c_int)  # an enumeration


def _parse(text: str) -> dict[str, tuple[str, ...]]:
    lines = text.replace(",\n", ",").strip().splitlines()
    split = (line.partition(":") for line in lines)
    return {name.strip(): tuple(kind.strip() for kind in kinds.split(",")) for name, _, kinds in split}


#: The types of C of each function's arguments.
PROTOTYPES = _parse(FUNCTIONS)
#: The same as ctypes.
SIGNATURES: dict[str, tuple[Any, ...]] = {name: tuple(map(_kind, kinds)) for name, kinds in PROTOTYPES.items()}

#: The oldest driver that will do: that of CUDA 12.0.
OLDEST = 12000
#: Names and numbers of cuda.h.
MULTIPROCESSORS, MAJOR, MINOR, COOPERATIVE, MOST_SHARED, MEMORY_POOLS = 16, 75, 76, 95, 97, 115
_DYNAMIC_SHARED, _RELEASE_THRESHOLD, _MEMORY_TYPE = 8, 4, 2
_ERROR_LOG, _ERROR_LOG_SIZE, _NO_TIMING = 5, 6, 2
INVALID_VALUE, OUT_OF_MEMORY, UNSUPPORTED_PTX, LARGEST_LOG = 1, 2, 222, 8192

_MEANINGS = {
    1: "an argument is out of range: a fault of nbrnn, please report it",
    2: "the device has no memory left",
    34: "the libcuda that was found is the toolkit's stub and no driver: take its folder out of LD_LIBRARY_PATH",
    46: "another process has the device for itself, or it is being reset",
    100: "no CUDA device can be seen: is there one, and does CUDA_VISIBLE_DEVICES name it?",
    218: "the driver can't read the kernel's PTX",
    221: "the driver's compiler of PTX, libnvidia-ptxjitcompiler, is missing: install the driver whole",
    UNSUPPORTED_PTX: "the driver is older than the compiler that made the kernel: update the driver, or install "
    "a numba-cuda for older ones (pip install 'nbrnn[cuda12]')",
    223: "CUDA_DISABLE_PTX_JIT is set, and nbrnn's kernels are PTX: unset it",
    201: "the device's context has been destroyed: was the device reset?",
    400: "a stream of another device, or one that is gone",
    700: "a kernel used memory that isn't there; the process must be started anew",
    701: "the device hasn't the registers or threads that the kernel asks for",
    702: "the kernel ran longer than the device's watchdog allows; the process must be started anew",
    715: "a kernel met an instruction that the device doesn't know; the process must be started anew",
    716: "a kernel used a misaligned address: an array must begin at a multiple of its numbers' size",
    719: "a kernel failed; the process must be started anew",
    720: "the blocks of a cooperative kernel don't all fit on the device at the same time",
    801: "this device or driver can't do that",
    802: "the system isn't ready for CUDA yet (is nvidia-fabricmanager running?)",
    803: "the driver's parts are of different versions: load its kernel module anew, or restart the machine",
    804: "the installed forward-compatibility package doesn't know this device",
    900: "not possible while the stream is captured into a graph",
    999: "the driver doesn't say what is wrong (after a suspend, loading nvidia-uvm anew helps)",
}


class CudaError(RuntimeError):
    """A function of the driver failed.

    Attributes
    ----------
    function, name : str
    code : int
    """

    def __init__(self, function: str, name: str, code: int, more: str = "") -> None:
        meaning = _MEANINGS.get(code)
        super().__init__(f"{function}: {name}" + (f" ({meaning})" if meaning else "") + more)
        self.function, self.name, self.code = function, name, code


class _PoolProperties(ctypes.Structure):
    """CUmemPoolProps: memory of a device, not to be shared with other processes."""

    _fields_ = (
        ("allocation", ctypes.c_int),
        ("handles", ctypes.c_int),
        ("location", ctypes.c_int),
        ("device", ctypes.c_int),
        ("security", ctypes.c_void_p),
        ("most", ctypes.c_size_t),
        ("usage", ctypes.c_ushort),
        ("reserved", ctypes.c_ubyte * 54),
    )


class Driver:
    """The driver's functions; one that fails raises ``CudaError``.

    Parameters
    ----------
    library : object
        Has the functions as ctypes makes them.

    Attributes
    ----------
    version : int
        1000 times the major and 10 times the minor version of CUDA that the driver is for.
    forked : bool
        Whether this is a child of the process that began to use CUDA: nothing works there.
    """

    def __init__(self, library: Any) -> None:
        self._library, self.forked = library, False
        self._functions: dict[str, Callable[..., int]] = {}
        self.version = self._out("cuDriverGetVersion", ctypes.c_int)
        if self.version < OLDEST:
            raise RuntimeError(
                f"the NVIDIA driver is for CUDA {version_text(self.version)}, and nbrnn needs one for CUDA "
                f"{version_text(OLDEST)} or newer: update the driver"
            )
        for name in SIGNATURES:
            self.function(name)
        self.call("cuInit", 0)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=functools.partial(setattr, self, "forked", True))

    def function(self, name: str) -> Callable[..., int]:
        """One of ``SIGNATURES``, for those who are in a hurry; it returns 0, or a code for ``error``."""
        found = self._functions.get(name)
        if found is None:
            try:
                function = getattr(self._library, name)
            except AttributeError:
                raise RuntimeError(f"the NVIDIA driver has no {name}: update the driver") from None
            function.argtypes, function.restype = SIGNATURES[name], ctypes.c_int
            found = self._functions[name] = function
        return found

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function."""
        code = self._functions[name](*arguments)
        if code:
            raise self.error(name, code)

    def error(self, function: str, code: int, more: str = "") -> CudaError:
        """What to raise if a function has returned a code that isn't 0."""
        text = ctypes.c_char_p()
        self.function("cuGetErrorName")(code, ctypes.byref(text))
        return CudaError(function, (text.value or b"error %d" % code).decode(), code, more)

    def _out(self, name: str, kind: Any, *arguments: Any) -> Any:
        """Call a function whose first argument is where it puts a number or handle."""
        room = kind()
        code = self.function(name)(ctypes.byref(room), *arguments)
        if code:
            raise self.error(name, code)
        return room.value

    # Devices and contexts

    def count(self) -> int:
        """Devices."""
        return int(self._out("cuDeviceGetCount", ctypes.c_int))

    def device(self, ordinal: int) -> int:
        """A device's handle."""
        return int(self._out("cuDeviceGet", ctypes.c_int, ordinal))

    def current_device(self) -> int | None:
        """The device of the context that is current in this thread, if one is."""
        if not self._out("cuCtxGetCurrent", ctypes.c_void_p):
            return None
        return int(self._out("cuCtxGetDevice", ctypes.c_int))

    def name(self, device: int) -> str:
        """What it is called."""
        room = ctypes.create_string_buffer(256)
        self.call("cuDeviceGetName", room, len(room), device)
        return room.value.decode(errors="replace")

    def total_memory(self, device: int) -> int:
        """Bytes that the device has."""
        return int(self._out("cuDeviceTotalMem_v2", ctypes.c_size_t, device))

    def attribute(self, which: int, device: int) -> int:
        """A number that describes a device."""
        return int(self._out("cuDeviceGetAttribute", ctypes.c_int, which, device))

    def primary(self, device: int) -> Context:
        """The device's primary context, which lives as long as this process."""
        return Context(self, self._out("cuDevicePrimaryCtxRetain", ctypes.c_void_p, device))

    # Memory

    def pool(self, device: int) -> int:
        """A pool of memory of our own, which keeps what is given back to it."""
        properties = _PoolProperties(allocation=1, location=1, device=device)
        pool = int(self._out("cuMemPoolCreate", ctypes.c_void_p, ctypes.byref(properties)))
        self.call("cuMemPoolSetAttribute", pool, _RELEASE_THRESHOLD, ctypes.byref(ctypes.c_uint64(2**64 - 1)))
        return pool

    def allocate_from(self, pool: int, size: int, stream: int) -> int:
        """Address of so many bytes of a pool, there from now on for work on a stream."""
        return int(self._out("cuMemAllocFromPoolAsync", ctypes.c_uint64, size, pool, stream))

    def allocate(self, size: int) -> int:
        """Address of so many bytes."""
        return int(self._out("cuMemAlloc_v2", ctypes.c_uint64, size))

    def free_memory(self) -> int:
        """Bytes that nobody has, of the current context's device."""
        total = ctypes.c_size_t()
        return int(self._out("cuMemGetInfo_v2", ctypes.c_size_t, ctypes.byref(total)))

    def knows(self, address: int) -> bool:
        """Whether memory of the host is the driver's, or made known to it: copies from there wait for nothing."""
        kind = ctypes.c_uint()
        code = self._functions["cuPointerGetAttribute"](ctypes.byref(kind), _MEMORY_TYPE, address)
        if code not in (0, INVALID_VALUE):
            raise self.error("cuPointerGetAttribute", code)
        return code == 0

    # Streams

    def let_wait(self, stream: int, other: int) -> None:
        """Let a stream wait for all that another has been given so far."""
        event = self._out("cuEventCreate", ctypes.c_void_p, _NO_TIMING)
        try:
            self.call("cuEventRecord", event, other)
            self.call("cuStreamWaitEvent", stream, event, 0)
        finally:
            self.call("cuEventDestroy_v2", event)  # once it has happened

    # Kernels

    def load(self, ptx: bytes, name: bytes) -> int:
        """A kernel, compiled by the driver."""
        log = ctypes.create_string_buffer(LARGEST_LOG)
        options = (ctypes.c_int * 2)(_ERROR_LOG, _ERROR_LOG_SIZE)
        values = (ctypes.c_void_p * 2)(ctypes.addressof(log), LARGEST_LOG)
        module = ctypes.c_void_p()
        try:
            self.call("cuModuleLoadDataEx", ctypes.byref(module), ptx, 2, options, values)
        except CudaError as error:
            said = log.value.decode(errors="replace").strip()
            more = f"\nThe driver is for CUDA {version_text(self.version)}." + (f"  It says:\n{said}" if said else "")
            raise CudaError(error.function, error.name, error.code, more) from None
        return int(self._out("cuModuleGetFunction", ctypes.c_void_p, module, name))

    def set_shared(self, function: int, size: int) -> None:
        """Let a kernel have so much shared memory whose size it leaves open."""
        self.call("cuFuncSetAttribute", function, _DYNAMIC_SHARED, size)

    def resident(self, function: int, threads: int, shared: int) -> int:
        """Blocks of a kernel that one multiprocessor has room for."""
        return int(self._out("cuOccupancyMaxActiveBlocksPerMultiprocessor", ctypes.c_int, function, threads, shared))


class Context:
    """Within the block, a context is current in this thread."""

    __slots__ = ("_driver", "_handle", "_pop", "_popped", "_push")

    def __init__(self, driver: Driver, handle: int) -> None:
        self._driver, self._handle = driver, ctypes.c_void_p(handle)
        self._push, self._pop = driver.function("cuCtxPushCurrent_v2"), driver.function("cuCtxPopCurrent_v2")
        self._popped = ctypes.byref(ctypes.c_void_p())

    def __enter__(self) -> None:
        if self._driver.forked:
            raise RuntimeError(
                "CUDA can't be used in a process that was forked after its parent began to use it: begin in the "
                'child, or make processes by multiprocessing.get_context("spawn")'
            )
        code = self._push(self._handle)
        if code:
            raise self._driver.error("cuCtxPushCurrent", code)

    def __exit__(self, *error: object) -> None:
        self._pop(self._popped)


class Launcher:
    """A kernel with room for its arguments, from where the driver reads them at a launch.

    Parameters
    ----------
    function : int
        The kernel.
    arguments : sequence of (str, int)
        Of each: how the module struct packs it, and of how many equal parameters it consists.
    threads, shared : int
        Of each block; the second in bytes.
    cooperative : bool
    """

    def __init__(
        self,
        driver: Driver,
        function: int,
        arguments: Sequence[tuple[str, int]],
        threads: int,
        shared: int,
        cooperative: bool,
    ) -> None:
        formats, offsets = "@", []
        for text, parts in arguments:
            # Each begins at a multiple of the size of one of its parameters.
            size = struct.calcsize(text) // parts
            begin = -(-struct.calcsize(formats) // size) * size
            formats += f"{begin - struct.calcsize(formats)}x{text}"
            offsets += [begin + size * part for part in range(parts)]
        packer = struct.Struct(formats)
        self._room, self._pack, self._lock = (
            ctypes.create_string_buffer(packer.size),
            packer.pack_into,
            threading.Lock(),
        )
        start = ctypes.addressof(self._room)
        pointers = (ctypes.c_void_p * len(offsets))(*(start + offset for offset in offsets))
        self._driver, self._name = driver, "cuLaunchCooperativeKernel" if cooperative else "cuLaunchKernel"
        self._launch = driver.function(self._name)
        self._function = ctypes.c_void_p(function)
        self._block = threads, 1, 1, shared
        self._after = (pointers,) if cooperative else (pointers, None)

    def __call__(self, grid: tuple[int, int, int], stream: int, values: Sequence[Any]) -> None:
        """Run the kernel on so many blocks."""
        with self._lock:  # the driver has copied the arguments when it returns
            self._pack(self._room, 0, *values)
            code = self._launch(self._function, *grid, *self._block, stream, *self._after)
        if code:
            raise self._driver.error(self._name, code)


def version_text(version: int) -> str:
    """12040 is 12.4."""
    return f"{version // 1000}.{version % 1000 // 10}"


def open_library() -> Any:
    """The driver's library."""
    if sys.platform == "win32":
        name, opened = "nvcuda.dll", ctypes.WinDLL
    else:
        name, opened = "libcuda.so.1", ctypes.CDLL
    try:
        return opened(name)
    except OSError as error:
        raise RuntimeError(
            f"no NVIDIA driver: {name} can't be loaded ({error}); to run on a GPU, install NVIDIA's driver "
            "(in a container: start it with the GPU, as by --gpus all)"
        ) from None


@functools.cache
def load() -> Driver:
    """The driver of this machine."""
    return Driver(open_library())
