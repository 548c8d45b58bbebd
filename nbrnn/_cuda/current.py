"""Which machine ``layer.to("cuda")`` means."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from .machine import Machine

_given: Machine | None = None


def machine(ordinal: int = 0) -> Machine:
    """The device of that number, or what ``use`` says."""
    if _given is not None:
        return _given
    from .device import device

    return device(ordinal)


@contextlib.contextmanager
def use(given: Machine) -> Iterator[None]:
    """Within the block, take a machine for the device: an emulated one."""
    global _given
    before, _given = _given, given
    try:
        yield
    finally:
        _given = before
