"""Memory kept between calls: most often the next one is like the last, and new memory costs more than it looks.

The system hands out memory page by page, each cleared when it is first touched; for a training step of a middling
layer that alone is a tenth of the time.  A layer therefore keeps what a call worked in, outliving the packed weights,
which change with every step of an optimiser.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any

#: Bytes that a layer keeps beside the last room given back, and of the largest room that is kept.
BESIDE, LARGEST = 2**26, 2**30


class Rooms:
    """Spare memory by what it is for: one room for each key, the oldest forgotten first.

    Threads may share it: what is taken nobody else has.
    """

    def __init__(self) -> None:
        self._spare: dict[Hashable, tuple[Any, int]] = {}
        self._size = 0
        self._lock = threading.RLock()  # a tape may be dropped, and give back, in the midst of anything

    def take(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What was given back under that key, or something new."""
        with self._lock:
            spare = self._spare.pop(key, None)
            if spare is not None:
                self._size -= spare[1]
        return make() if spare is None else spare[0]

    def give(self, key: Hashable, room: Any, size: int) -> None:
        """Keep a room of so many bytes, which nothing refers to any more, for the next call."""
        if size > LARGEST:
            return
        with self._lock:
            before = self._spare.pop(key, None)
            self._spare[key] = room, size
            self._size += size if before is None else size - before[1]
            while self._size > size + BESIDE:
                self._size -= self._spare.pop(next(iter(self._spare)))[1]

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._spare.clear()
            self._size = 0

    def __reduce__(self) -> Any:
        return Rooms, ()
