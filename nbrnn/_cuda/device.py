"""A CUDA device: memory, streams and launches of kernels.  What is asked of it is described by ``machine.Machine``."""

from __future__ import annotations

import atexit
import contextlib
import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import compile as compiler
from . import driver as cuda
from .blas import Blas, wanted
from .kernels import Kernel
from .memory import WORDS, Block, Memory, Stream

#: Most blocks along each axis of a grid.
LARGEST_GRID = (2**31 - 1, 65535, 65535)
#: Without pools, memory is asked for in multiples of so many bytes, so that what is given back fits more often.
_STEP = 512
_LEGACY, _PER_THREAD = 1, 2


class _Loaded:
    """A kernel on a device."""

    __slots__ = ("arguments", "function", "kernel", "launch", "resident")

    def __init__(self, kernel: Kernel, function: int, launch: cuda.Launcher, resident: int) -> None:
        self.kernel, self.function, self.launch, self.resident = kernel, function, launch, resident
        self.arguments = tuple((a.dtype if a.way else None, a.way != "in") for a in kernel.arguments)


class Device:
    """A CUDA device; see ``machine.Machine``.

    Everything may be called by several threads at once; each has a current stream of its own, at first the default one.

    Parameters
    ----------
    ordinal : int
        Among those that CUDA_VISIBLE_DEVICES names.

    Attributes
    ----------
    ordinal : int
    name : str
    cc : tuple of int
        Compute capability.
    processors : int
        Multiprocessors.
    total_memory : int
        Bytes.
    driver : Driver
    blas : Blas or None
        What multiplies in place of our kernels, if NBRNN_CUBLAS asks for it when the device is first used.
    """

    def __init__(self, ordinal: int = 0) -> None:
        by_cublas = wanted()
        self.driver = driver = cuda.load()
        count = driver.count()
        if not 0 <= ordinal < count:
            raise ValueError(f"`ordinal` must be that of one of {count} CUDA devices, got {ordinal}")
        self.ordinal, handle = ordinal, driver.device(ordinal)
        self.name, self.total_memory = driver.name(handle), driver.total_memory(handle)
        self.cc = driver.attribute(cuda.MAJOR, handle), driver.attribute(cuda.MINOR, handle)
        self.processors = driver.attribute(cuda.MULTIPROCESSORS, handle)
        self._most_shared = driver.attribute(cuda.MOST_SHARED, handle)
        self._cooperative = driver.attribute(cuda.COOPERATIVE, handle) != 0
        self._context = driver.primary(handle)
        self._pool: int | None = None
        if driver.attribute(cuda.MEMORY_POOLS, handle):
            with self._context:
                self._pool = driver.pool(handle)
        self.blas: Blas | None = None
        if by_cublas:
            with self._context:
                self.blas = Blas.find()
        self.has_gemm = by_cublas
        self._free = driver.function("cuMemFreeAsync")
        #: Memory to be used again, by size: the fallback where there are no pools.
        self._spare: dict[int, list[tuple[int, Stream]]] = {}
        self._loaded: dict[int, _Loaded] = {}
        self._lock, self._local = threading.Lock(), threading.local()
        self._streams: weakref.WeakValueDictionary[int, Stream] = weakref.WeakValueDictionary()
        self._default = self._streams[0] = Stream(0)
        self._ended = False
        atexit.register(self._end)

    def __repr__(self) -> str:
        return f"<CUDA device {self.ordinal}: {self.name}, compute capability {self.cc[0]}.{self.cc[1]}>"

    def __reduce__(self) -> Any:
        """A copy is the device itself, and so is what comes of a pickle."""
        return device, (self.ordinal,)

    def _end(self) -> None:
        """The process ends, and all memory with it: nothing must be asked of a driver that may be gone."""
        self._ended = True

    # Streams

    @contextlib.contextmanager
    def on(self, stream: Any) -> Iterator[None]:
        """Within the block this thread uses a stream.

        A stream of PyTorch, CuPy, Numba or cuda.core, or its handle; None for the one in use.
        """
        before = self._stream()
        self._local.stream = before if stream is None else self._known(stream)
        try:
            yield
        finally:
            self._local.stream = before

    @property
    def stream(self) -> int:
        """Handle of the stream in use; 0: the default one."""
        return self._stream().handle

    def _stream(self) -> Stream:
        found: Stream = getattr(self._local, "stream", self._default)
        return found

    def _known(self, stream: Any) -> Stream:
        handle = handle_of(stream)
        found = self._streams.get(handle)
        if found is None:
            found = self._streams[handle] = Stream(handle, stream)
        return found

    def let_wait(self, stream: Stream, other: Stream) -> None:
        """Let a stream wait for all that another has been given so far; the context is current."""
        self.driver.let_wait(stream.handle, other.handle)

    def wait_for(self, stream: int) -> None:
        """See ``Machine``."""
        mine, other = self._stream(), self._known(stream)
        if other is not mine:
            with self._context:
                self.let_wait(mine, other)

    def wait(self) -> None:
        """Wait for all that the current stream has been given."""
        with self._context:
            self.driver.call("cuStreamSynchronize", self._stream().handle)

    # Memory

    def empty(self, size: int, dtype: np.dtype[Any]) -> Memory:
        """See ``Machine``."""
        dtype, block = np.dtype(dtype), None
        if size:
            with self._context:
                block = self._allocate(size * dtype.itemsize, self._stream())
        return Memory(block.address if block else 0, size, dtype, block)

    def _allocate(self, size: int, stream: Stream) -> Block:
        if self._pool is None:
            return self._reuse(-(-size // _STEP) * _STEP, stream)
        for attempt in range(2):
            try:
                return Block(self, self.driver.allocate_from(self._pool, size, stream.handle), size, stream)
            except cuda.CudaError as error:
                if error.code != cuda.OUT_OF_MEMORY:
                    raise
                if attempt == 0:  # what streams still have to give back, and what the pool keeps in other sizes
                    self.driver.call("cuStreamSynchronize", stream.handle)
                    self.driver.call("cuMemPoolTrimTo", self._pool, 0)
        raise self._too_much(size)

    def _reuse(self, size: int, stream: Stream) -> Block:
        with contextlib.suppress(KeyError, IndexError):
            address, last = self._spare[size].pop()
            if last is not stream:
                self.let_wait(stream, last)
            return Block(self, address, size, stream)
        for attempt in range(2):
            try:
                return Block(self, self.driver.allocate(size), size, stream)
            except cuda.CudaError as error:
                if error.code != cuda.OUT_OF_MEMORY:
                    raise
                if attempt == 0:
                    self._give_back()
        raise self._too_much(size)

    def _give_back(self) -> None:
        """Give the driver what is kept to be used again; that waits for all who use it."""
        for spare in list(self._spare.values()):
            with contextlib.suppress(IndexError):
                while True:
                    self.driver.call("cuMemFree_v2", spare.pop()[0])

    def _too_much(self, size: int) -> MemoryError:
        free, total = _bytes(self.driver.free_memory()), _bytes(self.total_memory)
        return MemoryError(
            f"no room for {_bytes(size)} on CUDA device {self.ordinal} ({self.name}): {free} of its {total} are free"
        )

    def free(self, block: Block) -> None:
        """Take memory back; never raises."""
        if self._ended or self.driver.forked:
            return
        try:
            with self._context:
                if block.only is not block.stream:
                    block.before(block.stream, True)
                if self._pool is None:
                    self._spare.setdefault(block.size, []).append((block.address, block.stream))
                else:
                    self._free(block.address, block.stream.handle)
        except Exception:
            return

    def put(self, array: NDArray[Any]) -> Memory:
        """See ``Machine``."""
        array = np.ascontiguousarray(array)
        into = self.empty(array.size, array.dtype)
        if array.size:
            with self._context:
                source = _address(array)
                if self.driver.knows(source):
                    array = array.copy()  # else it would be read later
                    source = _address(array)
                stream = self._stream().handle
                self.driver.call("cuMemcpyHtoDAsync_v2", into.address, source, array.nbytes, stream)
        return into

    def get(self, array: Memory) -> NDArray[Any]:
        """See ``Machine``."""
        found = np.empty(array.size, array.dtype)
        if array.size:
            stream = self._stream()
            with self._context:
                followed = self._before(stream, (array, False))
                self.driver.call("cuMemcpyDtoHAsync_v2", _address(found), array.address, found.nbytes, stream.handle)
                self._after(stream, followed)
                self.driver.call("cuStreamSynchronize", stream.handle)
        return found

    def zero(self, array: Memory) -> None:
        """See ``Machine``."""
        if array.size:
            stream = self._stream()
            with self._context:
                followed = self._before(stream, (array, True))
                self.driver.call("cuMemsetD8Async", array.address, 0, array.nbytes, stream.handle)
                self._after(stream, followed)

    def copy(self, into: Memory, source: Memory) -> None:
        """See ``Machine``."""
        if into.size != source.size or into.dtype != source.dtype:
            raise ValueError(f"`into` must be as large as `source`, got {into!r} and {source!r}")
        if into.size:
            stream = self._stream()
            with self._context:
                followed = self._before(stream, (into, True), (source, False))
                self.driver.call("cuMemcpyDtoDAsync_v2", into.address, source.address, into.nbytes, stream.handle)
                self._after(stream, followed)

    def address(self, array: Memory) -> int:
        """See ``Machine``."""
        return array.address

    def view(self, address: int, size: int, dtype: np.dtype[Any], owner: object) -> Memory:
        """See ``Machine``; for what others do to it on other streams, it is theirs to wait."""
        return Memory(address, size, np.dtype(dtype), None, owner)

    def _before(self, stream: Stream, *arrays: tuple[Memory, bool]) -> Sequence[tuple[Block, bool]]:
        """Prepare that arrays are read (False) or written (True) on a stream; ``_after`` wants to know the result."""
        followed = [(a.block, writes) for a, writes in arrays if a.block is not None and a.block.only is not stream]
        for block, writes in followed:
            block.before(stream, writes)
        return followed

    def _after(self, stream: Stream, followed: Sequence[tuple[Block, bool]]) -> None:
        for block, writes in followed:
            block.after(stream, writes)

    # Kernels

    def kernels(self) -> list[tuple[str, ...]]:
        """Keys of the kernels that have been loaded."""
        return [loaded.kernel.key for loaded in list(self._loaded.values())]

    def resident(self, kernel: Kernel) -> int:
        """See ``Machine``."""
        return (self._loaded.get(id(kernel)) or self._load(kernel)).resident

    def launch(self, kernel: Kernel, grid: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
        """See ``Machine``."""
        loaded = self._loaded.get(id(kernel)) or self._load(kernel)
        stream = self._stream()
        values: list[Any] = []
        followed: list[tuple[Memory, bool]] = []
        for (dtype, writes), argument in zip(loaded.arguments, arguments, strict=True):
            if dtype is None:
                values.append(argument)
                continue
            if argument.dtype is not dtype and argument.dtype != dtype:
                raise TypeError(f"{kernel.key[0]}: an argument must be of {dtype}, got {argument!r}")
            values.append(argument.words)
            if argument.block is not None and argument.block.only is not stream:
                followed.append((argument, writes))
        x, y, z = (*map(int, grid), 1, 1)[:3]
        if not (0 < x <= LARGEST_GRID[0] and 0 < y <= LARGEST_GRID[1] and 0 < z <= LARGEST_GRID[2]):
            raise ValueError(f"{kernel.key[0]}: a grid of {grid} blocks can't be launched")
        with self._context:
            waiting = self._before(stream, *followed) if followed else ()
            loaded.launch((x, y, z), stream.handle, values)
            self._after(stream, waiting)

    def gemm(
        self,
        a: Memory,
        b: Memory,
        c: Memory,
        sizes: tuple[int, int, int],
        strides: tuple[int, int, int],
        trans_a: bool,
        trans_b: bool,
        add: bool,
    ) -> None:
        """See ``Machine``."""
        if self.blas is None:
            raise RuntimeError(f"nobody asked for cuBLAS when {self!r} was first used")
        if not a.dtype == b.dtype == c.dtype:
            raise TypeError(f"a product must be of one dtype, got {a!r}, {b!r} and {c!r}")
        stream = self._stream()
        at = (a.address, strides[0], b.address, strides[1], c.address, strides[2])
        with self._context:
            followed = self._before(stream, (a, False), (b, False), (c, True))
            self.blas.gemm(c.dtype, trans_a, trans_b, *sizes, *at, add, stream.handle)
            self._after(stream, followed)

    def _load(self, kernel: Kernel) -> _Loaded:
        """Compile a kernel, and load it."""
        with self._lock:
            if id(kernel) in self._loaded:
                return self._loaded[id(kernel)]
            name, driver = kernel.key[0], self.driver
            if kernel.shared > self._most_shared:
                raise RuntimeError(
                    f"{name} needs {kernel.shared} bytes of shared memory, {self!r} has {self._most_shared}"
                )
            if kernel.cooperative and not self._cooperative:
                raise RuntimeError(f"{name} is a cooperative kernel, which {self!r} can't run")
            ptx = compiler.ptx_of(kernel, self.cc)
            with self._context:
                function = driver.load(ptx.encode(), compiler.entry(kernel).encode())
                if kernel.shared:
                    driver.set_shared(function, kernel.shared)
                resident = self.processors * driver.resident(function, kernel.threads, kernel.shared)
            kinds = [(f"{8 * WORDS}s", WORDS) if a.way else (a.dtype.char, 1) for a in kernel.arguments]
            launch = cuda.Launcher(driver, function, kinds, kernel.threads, kernel.shared, kernel.cooperative)
            # Kept by its address, which stays its own as long as it is kept: its hash takes longer than a launch.
            loaded = self._loaded[id(kernel)] = _Loaded(kernel, function, launch, resident)
            return loaded


def handle_of(stream: Any) -> int:
    """The handle of a stream of PyTorch, CuPy, Numba or cuda.core, or of whatever has ``__cuda_stream__``."""
    found = stream
    if hasattr(stream, "__cuda_stream__"):
        protocol = stream.__cuda_stream__
        version, found = protocol() if callable(protocol) else protocol
        if version != 0:
            raise TypeError(f"`stream` must have a __cuda_stream__ of version 0, got {version}")
    else:
        for name in ("cuda_stream", "ptr", "handle"):
            found = getattr(found, name, found)
    if hasattr(found, "value"):
        found = found.value or 0  # ctypes makes None of 0
    try:
        if isinstance(found, bool):
            raise TypeError
        handle = int(found)
        if handle < 0 or isinstance(found, (float, str)):
            raise TypeError
    except (TypeError, ValueError):
        raise TypeError(
            "`stream` must be a CUDA stream of PyTorch, CuPy, Numba or cuda.core, or its handle as an int, "
            f"got {type(stream).__name__}: {stream!r}"
        ) from None
    if handle == _PER_THREAD:
        raise ValueError("`stream` must be a stream of its own, got the default stream of whichever thread it is")
    return 0 if handle == _LEGACY else handle


def _address(array: NDArray[Any]) -> int:
    found: int = array.__array_interface__["data"][0]  # faster than array.ctypes.data
    return found


def _bytes(size: int) -> str:
    return f"{size / 2**30:,.2f} GiB" if size >= 2**27 else f"{size / 2**20:,.2f} MiB"


_devices: dict[int, Device] = {}
_lock = threading.Lock()


def device(ordinal: int = 0) -> Device:
    """The CUDA device of a number; always the same object."""
    with _lock:
        found = _devices.get(ordinal)
        if found is None:
            found = _devices[ordinal] = Device(ordinal)
        return found


def current() -> Device:
    """The device whose context is current in this thread, as by ``torch.cuda.device``; else the first one."""
    return device(cuda.load().current_device() or 0)
