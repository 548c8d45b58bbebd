"""Memory of a device: flat arrays, what they are views of, and which stream must wait for which before using it.

Work on one stream is done in order.  Memory that is used on a second one is from then on followed: who has written it
last, and who has read it since.  Whoever uses it next is made to wait for those, if it hasn't waited since.
"""

from __future__ import annotations

import itertools
import struct
import weakref
from typing import Any, NoReturn, Protocol

import numpy as np

#: An array, as Numba hands it over: reference count, parent, numbers, their size, where they are, shape, strides.
WORDS = 7
_words = struct.Struct(f"@{WORDS}Q").pack
#: When something was asked of a stream: counts up.
_now = itertools.count(1)


class Stream:
    """Work in order.

    Parameters
    ----------
    handle : int
    owner : object
        What destroys the stream when it goes: kept for as long as memory belongs to the stream.

    Attributes
    ----------
    waited : mapping
        Up to when this stream has been made to wait for others.
    """

    __slots__ = ("__weakref__", "handle", "owner", "waited")

    def __init__(self, handle: int, owner: object = None) -> None:
        self.handle, self.owner = handle, owner
        self.waited: weakref.WeakKeyDictionary[Stream, int] = weakref.WeakKeyDictionary()


class Keeper(Protocol):
    """Whose memory it is."""

    def let_wait(self, stream: Stream, other: Stream) -> None:
        """Let a stream wait for all that another has been given so far."""

    def free(self, block: Block) -> None:
        """Take memory back; never raises."""


class Block:
    """Memory of a device, given back when nothing refers to it.

    Attributes
    ----------
    address, size : int
        In bytes.
    stream : Stream
        On which it was made, and is given back.
    only : Stream or None
        The only stream that has used it, if there is only one.
    """

    __slots__ = ("_keeper", "_reads", "_write", "address", "only", "size", "stream")

    def __init__(self, keeper: Keeper, address: int, size: int, stream: Stream) -> None:
        self._keeper, self.address, self.size, self.stream = keeper, address, size, stream
        self.only: Stream | None = stream
        self._write: tuple[Stream, int] = (stream, 0)
        self._reads: dict[Stream, int] = {}

    def before(self, stream: Stream, writes: bool) -> None:
        """Let a stream wait for whom it must before it reads or writes; needless for the ``only`` one."""
        if self.only is not None:
            self._write, self._reads, self.only = (self.only, next(_now)), {}, None
        for other, when in [self._write, *(self._reads.items() if writes else ())]:
            if other is not stream and stream.waited.get(other, 0) < when:
                begun = next(_now)
                self._keeper.let_wait(stream, other)
                stream.waited[other] = begun

    def after(self, stream: Stream, writes: bool) -> None:
        """Remember that a stream has been asked to read or write."""
        if writes:
            self._write, self._reads = (stream, next(_now)), {}
        else:
            self._reads[stream] = next(_now)

    def __del__(self) -> None:
        self._keeper.free(self)


class Memory:
    """A flat array on a device.

    Parameters
    ----------
    address : int
    size : int
        Numbers.
    dtype : dtype
    block : Block or None
        What it is a part of; None for somebody else's memory.
    owner : object
        Kept.

    Attributes
    ----------
    words : bytes
        What a kernel of Numba's is told of an array.
    """

    __slots__ = ("address", "block", "dtype", "owner", "size", "words")

    def __init__(
        self, address: int, size: int, dtype: np.dtype[Any], block: Block | None, owner: object = None
    ) -> None:
        self.address, self.size, self.dtype, self.block, self.owner = address, size, dtype, block, owner
        item = dtype.itemsize
        self.words = _words(0, 0, size, item, address, size, item)

    @property
    def nbytes(self) -> int:
        """Bytes."""
        return self.size * self.dtype.itemsize

    def __getitem__(self, at: slice) -> Memory:
        """A view of some numbers side by side."""
        if not isinstance(at, slice) or at.step not in (None, 1):
            raise TypeError(f"memory of a device has slices without steps, got [{at!r}]")
        begin, end, _ = at.indices(self.size)
        return Memory(
            self.address + begin * self.dtype.itemsize, max(0, end - begin), self.dtype, self.block, self.owner
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError("memory of a device can't be copied or pickled by itself: put() a copy of its numbers there")

    def __repr__(self) -> str:
        return f"<{self.size} numbers of {self.dtype} at {self.address:#x}>"
