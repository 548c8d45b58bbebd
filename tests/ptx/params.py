"""Parameters: of the kernel, the same for all threads, and of calls."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.ptx.errors import PtxError
from tests.ptx.opcodes import Execute
from tests.ptx.operands import DTYPES, Address, Array, Lanes, Target
from tests.ptx.parse import Instruction, Variable


class Params:
    """What `.param` variables hold."""

    def __init__(self, N: int):
        self.N = N
        self.kernel: dict[str, Array] = {}  # bytes, which loads look at: given anew, they stay where they are
        self.calls: dict[str, Array] = {}  # shape (N, size)

    def begin_anew(self) -> None:
        """As before any call."""
        for room in self.calls.values():
            room[:] = 0

    def give(self, variable: Variable, value: object) -> None:
        """Set a parameter of the kernel: bytes, or a number."""
        if isinstance(value, bytes):
            data = value
        else:
            dtype = DTYPES[variable.type]
            if dtype.kind == "u":
                data = (int(value) & (1 << 8 * dtype.itemsize) - 1).to_bytes(dtype.itemsize, "little")  # type: ignore[call-overload]
            else:
                data = np.array(value, dtype).tobytes()
        if len(data) != variable.size:
            raise PtxError(f"parameter {variable.name} has {variable.size} bytes, not {len(data)}")
        self.kernel.setdefault(variable.name, np.empty(len(data), np.uint8))[:] = np.frombuffer(data, np.uint8)

    def declare(self, variable: Variable) -> None:
        """Make room for a parameter of a call."""
        self.calls.setdefault(variable.name, np.zeros((self.N, variable.size), np.uint8))

    def _room(self, ins: Instruction, address: Address, size: int) -> Array:
        if address.name not in self.calls:
            raise PtxError(f"{ins.text}: there is no parameter {address.name}")
        room = self.calls[address.name][:, address.offset : address.offset + size]
        if room.shape[1] != size or address.offset < 0:
            raise PtxError(f"{ins.text}: beyond the end of the parameter")
        return room

    def load(self, ins: Instruction, address: Address, targets: list[Target], dtype: np.dtype[Any]) -> Execute:
        size = dtype.itemsize
        values = []
        for i in range(len(targets)):
            at = address._replace(offset=address.offset + i * size)
            if address.name in self.kernel:
                data = self.kernel[address.name][at.offset : at.offset + size]
                if len(data) != size or at.offset < 0:
                    raise PtxError(f"{ins.text}: beyond the end of the parameter")
                values.append(np.broadcast_to(data.view(dtype), (self.N,)))
            else:
                values.append(self._room(ins, at, size).view(dtype)[:, 0])

        def run(ix: Lanes) -> None:
            for target, value in zip(targets, values, strict=True):
                target[ix] = value[ix]

        return run

    def store(self, ins: Instruction, address: Address, sources: list[Array], dtype: np.dtype[Any]) -> Execute:
        size = dtype.itemsize
        rooms = [
            self._room(ins, address._replace(offset=address.offset + i * size), size).view(dtype)[:, 0]
            for i in range(len(sources))
        ]

        def run(ix: Lanes) -> None:
            for room, source in zip(rooms, sources, strict=True):
                room[ix] = source[ix]

        return run
