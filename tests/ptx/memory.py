"""The memories of a device: buffers at addresses, with gaps between them, and the checks of each access.

Addresses of global memory are generic ones.  Shared, local and constant memory have windows of their own: `cvta` adds
a window's start and `cvta.to` takes it off, so a generic address used with `ld.shared` is out of bounds, as on a device.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.ptx.clocks import Clocks
from tests.ptx.errors import Fault
from tests.ptx.grid import Grid
from tests.ptx.operands import Array, Lanes
from tests.ptx.races import NARROW, STRONG, Shadow

#: Where windows begin in generic addresses; 0 for global, whose addresses are generic.
WINDOWS = {"global": 0, "shared": 0x0001_0000_0000_0000, "local": 0x0002_0000_0000_0000, "const": 0x0003_0000_0000_0000}
WINDOW_SIZE = 0x0001_0000_0000_0000
#: The first address of each space, and bytes of nothing after each buffer.
FIRST = {"global": 0x7F00_0000_0000, "shared": 0x400, "local": 0x400, "const": 0x400}
GAP = {"global": 1 << 20, "shared": 0x400, "local": 0x400, "const": 0x400}
ALIGNMENT = 256


class Buffer:
    """Consecutive bytes, perhaps one copy for each block or thread.

    Parameters
    ----------
    space, name : str
        The name is for messages.
    address, size : int
        Within its space.
    data : ndarray of uint8
        All copies, one after the other, each `stride` bytes.
    copy_of : ndarray, shape (N,), or None
        Which copy each thread sees.
    writable : bool
    fresh : bool
        Whether nothing has been written yet.
    """

    def __init__(
        self,
        space: str,
        name: str,
        address: int,
        size: int,
        data: Array,
        stride: int,
        copy_of: Array | None,
        writable: bool,
        fresh: bool,
    ):
        self.space = space
        self.name, self.address, self.size, self.data = name, address, size, data
        self.stride, self.writable = stride, writable
        self.start_of = None if copy_of is None else copy_of * stride
        self.views: dict[Any, Array] = {}
        self.unit_shift = 0 if stride % 4 or size % 4 else 2
        self.written = np.zeros(len(data) >> self.unit_shift, bool) if fresh else None
        self.shadow: Shadow | None = None
        self.loads = 0

    def view(self, dtype: np.dtype[Any]) -> Array:
        found = self.views.get(dtype)
        if found is None:
            found = self.views[dtype] = self.data[: len(self.data) // dtype.itemsize * dtype.itemsize].view(dtype)
        return found

    def units(self, offset: Array, size: int) -> list[Array]:
        """Units that an access of a size touches; narrow accesses make units of bytes first."""
        if self.unit_shift and size < 4:
            self.unit_shift = 0
            if self.written is not None:
                self.written = np.repeat(self.written, 4)
            if self.shadow is not None:
                self.shadow.split(4)
        first = offset >> self.unit_shift if self.unit_shift else offset
        return [first + i if i else first for i in range(max(1, size >> self.unit_shift))]


class Space:
    """Buffers of one kind of memory, in the order of their addresses."""

    def __init__(self, name: str):
        self.name = name
        self.buffers: list[Buffer] = []
        self.next = FIRST[name]

    def room(self, size: int, alignment: int = ALIGNMENT) -> int:
        """Address for a new buffer."""
        at = -(-self.next // alignment) * alignment
        self.next = at + size + GAP[self.name]
        return at

    def find(self, low: int, high: int) -> Buffer | None:
        """The buffer that holds all from one address to another."""
        for buffer in self.buffers:
            if buffer.address <= low and high <= buffer.address + buffer.size:
                return buffer
        return None

    def near(self, address: int) -> str:
        """Words for an address that is in no buffer."""
        if not self.buffers:
            return f"there is no {self.name} memory"
        nearest = min(self.buffers, key=lambda b: min(abs(address - b.address), abs(address - b.address - b.size)))
        return f"byte {address - nearest.address} of {nearest.name}, which has {nearest.size} bytes"


class Memory:
    """All spaces of a launch, and accesses to them.

    Parameters
    ----------
    grid : Grid
    clocks : Clocks or None
        None to watch for no races.
    initialisation : bool
        Whether reading what was never written is a fault.
    profile : Profile or None
        Counts sectors and bank conflicts.
    """

    def __init__(self, grid: Grid, clocks: Clocks | None, initialisation: bool, profile: Any = None):
        self.grid, self.clocks, self.initialisation, self.profile = grid, clocks, initialisation, profile
        self.begin_anew()

    def begin_anew(self) -> None:
        """Drop all buffers, and what threads know of each other."""
        self.spaces = {name: Space(name) for name in WINDOWS}
        if self.clocks:
            self.clocks.begin_anew()

    def add(self, space: str, name: str, size: int, data: Array | None = None, writable: bool = True) -> Buffer:
        """Place a buffer: of given bytes, or fresh ones."""
        copies, copy_of = 1, None
        if space == "shared":
            copies, copy_of = self.grid.blocks, self.grid.block
        elif space == "local":
            copies, copy_of = self.grid.N, self.grid.lanes
        stride = -(-size // 16) * 16
        fresh = data is None
        if data is None:
            data = np.zeros(copies * stride, np.uint8)
            data.fill(0xCB)  # nothing may rely on memory being clean
        else:
            data = np.concatenate([data, np.zeros(stride - size, np.uint8)])
        place = self.spaces[space]
        buffer = Buffer(
            space, name, place.room(size), size, data, stride, copy_of, writable, fresh and self.initialisation
        )
        if self.clocks and writable and space in ("global", "shared"):
            buffer.shadow = Shadow(self.clocks, len(data) >> buffer.unit_shift, space == "shared", name)
        place.buffers.append(buffer)
        return buffer

    def each(
        self, space: str, address: Array, ix: Lanes, size: int, does: str
    ) -> list[tuple[Buffer, Array, Lanes, Array | None]]:
        """Buffers that addresses lie in: with offsets into their data, lanes, and which of the addresses (None: all)."""
        low, high = int(np.minimum.reduce(address)), int(np.maximum.reduce(address)) + size
        if space == "generic":
            first, last = low // WINDOW_SIZE, high // WINDOW_SIZE
            if first != last:
                return self._apart(space, address, ix, size, does)
            space = list(WINDOWS)[first] if 0 <= first < len(WINDOWS) else "global"
            if first:
                address = address - first * WINDOW_SIZE
                low, high = low - first * WINDOW_SIZE, high - first * WINDOW_SIZE
        buffer = self.spaces[space].find(low, high)
        if size > 1 and int(np.bitwise_or.reduce(address)) & (size - 1):
            self._misaligned(space, address, ix, size, does)
        if buffer is None:
            return self._apart(space, address, ix, size, does)
        offset = address - buffer.address
        if buffer.start_of is not None:
            offset += buffer.start_of[ix]
        return [(buffer, offset, ix, None)]

    def _misaligned(self, space: str, address: Array, ix: Lanes, size: int, does: str) -> None:
        i = int(np.flatnonzero(address & (size - 1))[0])
        at = int(address[i])
        raise Fault(
            "alignment",
            f"{does} {size} bytes at {self.spaces[space].near(at)}: the address must be a multiple of {size}",
            int(self.grid.lanes[ix][i]),
        )

    def _apart(
        self, space: str, address: Array, ix: Lanes, size: int, does: str
    ) -> list[tuple[Buffer, Array, Lanes, Array | None]]:
        """The same where threads access different buffers, or none."""
        lanes = self.grid.lanes[ix]
        parts: list[tuple[Buffer, Array, Lanes, Array | None]] = []
        left = np.ones(len(lanes), bool)
        while np.count_nonzero(left):
            i = int(np.argmax(left))
            at, name = int(address[i]), space
            if space == "generic":
                window = at // WINDOW_SIZE
                name = list(WINDOWS)[window] if 0 <= window < len(WINDOWS) else "global"
                at -= WINDOWS[name]
            buffer = self.spaces[name].find(at, at + size)
            if buffer is None:
                bad = f"{does} {size} bytes out of bounds, at {self.spaces[name].near(at)}"
                raise Fault("bounds", bad, int(lanes[i]))
            start = buffer.address + (WINDOWS[name] if space == "generic" else 0)
            here = np.flatnonzero(left & (address >= start) & (address + size <= start + buffer.size))
            offset = address[here] - start
            if np.count_nonzero((offset + buffer.address) & (size - 1)):
                self._misaligned(name, offset + buffer.address, lanes[here], size, does)
            if buffer.start_of is not None:
                offset = offset + buffer.start_of[lanes[here]]
            parts.append((buffer, offset, lanes[here], here))
            left[here] = False
        return parts

    def load(
        self,
        space: str,
        address: Array,
        ix: Lanes,
        dtype: np.dtype[Any],
        count: int,
        flags: int = 0,
        constant: bool = False,
    ) -> list[Array]:
        """Values at addresses: `count` arrays for a vector."""
        size = dtype.itemsize * count
        parts = self.each(space, address, ix, size, "reads")
        if len(parts) == 1:
            return self._load(*parts[0][:3], dtype, count, flags, constant)
        values = [np.empty(len(address), dtype) for _ in range(count)]
        for buffer, offset, lanes, here in parts:
            for into, got in zip(values, self._load(buffer, offset, lanes, dtype, count, flags, constant), strict=True):
                into[here] = got
        return values

    def _load(
        self, buffer: Buffer, offset: Array, ix: Lanes, dtype: np.dtype[Any], count: int, flags: int, constant: bool
    ) -> list[Array]:
        size = dtype.itemsize * count
        if buffer.written is not None or buffer.shadow is not None:
            lanes = self.grid.lanes[ix]
            units = buffer.units(offset, size)
            if buffer.written is not None:
                self._initialised(buffer, units, lanes)
            if buffer.shadow is not None:
                for unit in units:
                    buffer.shadow.reads(unit, lanes, ix, flags)
                if constant and buffer.shadow.write is not None and np.count_nonzero(buffer.shadow.write[units[0]]):
                    i = int(np.flatnonzero(buffer.shadow.write[units[0]])[0])
                    raise Fault(
                        "race",
                        f"reads {buffer.name} by ld.global.nc, which needs memory that the kernel doesn't write",
                        int(lanes[i]),
                    )
        if self.profile is not None:
            self.profile.access(buffer, offset, ix, size)
        view = buffer.view(dtype)
        at = offset >> (dtype.itemsize.bit_length() - 1) if dtype.itemsize > 1 else offset
        return [view[at + i] if i else view[at] for i in range(count)]

    def _initialised(self, buffer: Buffer, units: list[Array], lanes: Array) -> None:
        assert buffer.written is not None
        for unit in units:
            done = buffer.written[unit]
            if np.count_nonzero(done) < len(done):
                i = int(np.argmin(done))
                at = (
                    (int(unit[i]) << buffer.unit_shift) % buffer.stride
                    if buffer.start_of is not None
                    else int(unit[i]) << buffer.unit_shift
                )
                raise Fault(
                    "uninitialised", f"reads byte {at} of {buffer.name}, which nothing has written", int(lanes[i])
                )
        buffer.loads += 1
        if buffer.loads % 16 == 0 and buffer.stride == buffer.size and bool(buffer.written.all()):
            buffer.written = None

    def store(self, space: str, address: Array, ix: Lanes, values: list[Array], flags: int = 0) -> None:
        """Write values: one array for each part of a vector."""
        size = values[0].dtype.itemsize * len(values)
        for buffer, offset, lanes, here in self.each(space, address, ix, size, "writes"):
            self.before_write(buffer, offset, lanes, size, flags)
            if self.profile is not None:
                self.profile.access(buffer, offset, lanes, size)
            dtype = values[0].dtype
            view = buffer.view(dtype)
            at = offset >> (dtype.itemsize.bit_length() - 1) if dtype.itemsize > 1 else offset
            for i, value in enumerate(values):
                view[at + i if i else at] = value if here is None else value[here]

    def before_write(self, buffer: Buffer, offset: Array, ix: Lanes, size: int, flags: int) -> None:
        """The checks of a write."""
        if not buffer.writable:
            lane = int(self.grid.lanes[ix][0])
            raise Fault("read-only", f"writes {buffer.name}, which is only to be read", lane)
        if buffer.written is None and buffer.shadow is None:
            return
        units = buffer.units(offset, size)
        for unit in units:
            if buffer.shadow is not None:
                buffer.shadow.writes(unit, self.grid.lanes[ix], ix, flags)
            if buffer.written is not None:
                buffer.written[unit] = True

    def strong(self, buffer: Buffer, offset: Array, ix: Lanes, order: str, narrow: bool, kind: str) -> None:
        """Synchronise by a relaxed or stronger access."""
        if self.clocks:
            number = id(buffer)
            self.clocks.strong(self.grid.lanes[ix], lambda i: (number, int(offset[i])), order, not narrow, kind)


def flags_of(strong: bool, narrow: bool) -> int:
    """Flags of an access for `Shadow`."""
    return (STRONG if strong else 0) | (NARROW if narrow else 0)
