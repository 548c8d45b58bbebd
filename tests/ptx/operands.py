"""Registers, constants and addresses as vectors over the threads of the grid.

Each operand is an array with one element per thread: registers are arrays, a constant is an array of stride 0.  An
instruction takes `array[ix]`, where `ix` is a slice or an array of thread numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tests.ptx.errors import PtxError
from tests.ptx.parse import SIZES, Kernel, split

DTYPES: dict[str, np.dtype[Any]] = {
    **{f"b{8 * n}": np.dtype(f"u{n}") for n in (1, 2, 4, 8)},
    **{f"u{8 * n}": np.dtype(f"u{n}") for n in (1, 2, 4, 8)},
    **{f"s{8 * n}": np.dtype(f"i{n}") for n in (1, 2, 4, 8)},
    "f16": np.dtype("f2"),
    "f32": np.dtype("f4"),
    "f64": np.dtype("f8"),
    "f16x2": np.dtype("u4"),
    "bf16": np.dtype("u2"),
    "bf16x2": np.dtype("u4"),
    "pred": np.dtype(bool),
}

Array = np.ndarray[Any, Any]
Lanes = Any  # a slice, or an array of lane numbers


class Register:
    """A register of all threads.

    Attributes
    ----------
    bits : ndarray, shape (N,)
        Unsigned integers, or bool for predicates.
    unclean : bool
        Whether it may hold a subnormal float32: instructions with `.ftz` look only then.
    written : ndarray, shape (N,), or None
        Which threads have written it; None where the text shows that all have before any reads it.
    """

    __slots__ = ("_views", "bits", "name", "type", "unclean", "written")

    def __init__(self, name: str, type_: str, N: int):
        self.name, self.type = name, type_
        self.bits = np.zeros(N, DTYPES[type_] if type_ == "pred" else f"u{SIZES[type_]}")
        self.unclean = False
        self.written: Array | None = None
        self._views: dict[str, Array] = {}

    def begin_anew(self) -> None:
        """Nobody has written it."""
        self.bits[:] = 0
        self.unclean = False
        if self.written is not None:
            self.written[:] = False

    def view(self, type_: str, what: str) -> Array:
        """The register as values of a type no wider than itself."""
        found = self._views.get(type_)
        if found is None:
            found = self._views[type_] = self._view(type_, what)
        return found

    def _view(self, type_: str, what: str) -> Array:
        dtype = DTYPES[type_]
        if (type_ == "pred") != (self.type == "pred"):
            raise PtxError(f"{what}: {self.name} is .{self.type}, not .{type_}")
        if dtype.itemsize > self.bits.itemsize:
            raise PtxError(f"{what}: {self.name} is .{self.type}, too narrow for .{type_}")
        # The low bytes come first: NumPy's arrays are little-endian on every machine that runs numba.
        return self.bits.view(dtype)[:: self.bits.itemsize // dtype.itemsize]


class Widened:
    """Stands for a register wider than the type written to it: numbers are extended by their sign or by zeros."""

    def __init__(self, register: Register, type_: str):
        self.signed = type_[0] == "s"
        self.narrow = DTYPES[type_]
        if self.narrow.kind == "f":
            self.narrow = np.dtype(f"u{self.narrow.itemsize}")
        self.bits = register.bits.view(f"i{register.bits.itemsize}") if self.signed else register.bits

    def __setitem__(self, ix: Lanes, values: Array) -> None:
        if values.dtype.kind == "f":
            values = values.view(self.narrow)
        self.bits[ix] = values.astype(self.narrow, copy=False)


class Nowhere:
    """The operand `_`, which takes results that nobody wants."""

    def __setitem__(self, ix: Lanes, values: Array) -> None:
        pass


Target = Any  # an array, or one of the two above


class Address(NamedTuple):
    """`[%rd1+8]`: an array of bases (signed 64 bits), or the name of a parameter, and an offset."""

    base: Array | None
    name: str
    offset: int


class Operands:
    """All registers of a launch, and what an operand's text stands for.

    Parameters
    ----------
    kernel : Kernel
        Declares the registers.
    N : int
        Number of threads.
    special : dict of str to ndarray
        Registers such as %tid.x.
    symbols : dict of str to int
        Addresses of variables.
    """

    def __init__(self, kernel: Kernel, N: int, special: dict[str, Array], symbols: dict[str, int]):
        self.kernel, self.N, self.special, self.symbols = kernel, N, special, symbols
        self.registers: dict[str, Register] = {}
        self.constants: dict[tuple[str, str], Array] = {}
        self.what = ""  # text of the instruction being decoded, and its registers
        self.read: set[Register] = set()
        self.written: set[Register] = set()
        self.flushed: set[Register] = set()  # read by instructions with .ftz, of all

    def register(self, name: str) -> Register:
        found = self.registers.get(name)
        if found is None:
            found = self.registers[name] = Register(name, self.kernel.type_of(name), self.N)
        return found

    def is_register(self, text: str) -> bool:
        """Whether an operand is a general register."""
        found = self.kernel.general.get(text)
        if found is None:
            try:
                found = bool(re.fullmatch(r"[%A-Za-z_][\w$]*", text)) and bool(self.kernel.type_of(text))
            except PtxError:
                found = False
            self.kernel.general[text] = found
        return found

    def source(self, text: str, type_: str) -> Array:
        """Values to read, by type: shape (N,)."""
        if text in self.special:
            values = self.special[text]
            wanted = DTYPES[type_].itemsize
            if wanted < values.itemsize:
                return values.view(DTYPES[type_])[:: values.itemsize // wanted]
            if wanted > values.itemsize:
                return values.astype(f"u{wanted}").view(DTYPES[type_])
            return values.view(DTYPES[type_])
        if self.is_register(text):
            register = self.register(text)
            self.read.add(register)
            return register.view(type_, self.what)
        values = self.constants.get((text, type_))
        if values is None:
            values = self.constants[text, type_] = np.broadcast_to(self.constant(text, type_), (self.N,))
        return values

    def constant(self, text: str, type_: str) -> Array:
        """Value of a literal or of a variable's address: shape (1,)."""
        dtype = DTYPES[type_]
        size = dtype.itemsize
        if found := re.fullmatch(r"0[fF]([0-9a-fA-F]{8})", text):
            bits, width, is_float = int(found[1], 16), 4, True
        elif found := re.fullmatch(r"0[dD]([0-9a-fA-F]{16})", text):
            bits, width, is_float = int(found[1], 16), 8, True
        elif re.fullmatch(r"-?(0[xX][0-9a-fA-F]+|\d+)U?", text):
            bits, width, is_float = self._integer(text), size, False
        elif text == "WARP_SZ":
            bits, width, is_float = 32, size, False
        elif found := re.fullmatch(r"([A-Za-z_$][\w$]*)(?:\s*\+\s*(\d+))?", text):
            if found[1] not in self.symbols:
                raise PtxError(f"{self.what}: nothing is called {found[1]}")
            bits, width, is_float = self.symbols[found[1]] + int(found[2] or 0), size, False
        else:
            raise PtxError(f"{self.what}: can't read the operand {text!r}")
        if type_ == "pred":
            return np.array([bool(bits)])
        if (is_float and width != size) or (dtype.kind == "f" and not is_float):
            raise PtxError(f"{self.what}: {text} is no .{type_}")
        return np.array([bits & (1 << 8 * size) - 1], f"u{size}").view(dtype)

    @staticmethod
    def _integer(text: str) -> int:
        text = text.rstrip("U")
        digits = text.lstrip("-")
        octal = len(digits) > 1 and digits[0] == "0" and digits.isdigit()
        return int(text, 8 if octal else 0)

    def target(self, text: str, type_: str, wide: bool = False) -> Target:
        """Where results of a type go: `target[ix] = values`; to registers wider than that only if `wide`."""
        if text == "_":
            return Nowhere()
        if not self.is_register(text):
            raise PtxError(f"{self.what}: {text} can't be written")
        register = self.register(text)
        self.written.add(register)
        if register.bits.itemsize > DTYPES[type_].itemsize and type_ != "pred":
            if not wide:
                raise PtxError(f"{self.what}: {text} is .{register.type}, too wide for .{type_}")
            return Widened(register, type_)
        return register.view(type_, self.what)

    def predicate(self, text: str) -> Array | tuple[Array]:
        """A predicate to read; a 1-tuple of it where negated."""
        if text.startswith("!"):
            return (self.source(text[1:], "pred"),)
        return self.source(text, "pred")

    def address(self, text: str) -> Address:
        """What stands between brackets."""
        found = re.fullmatch(r"\[\s*([%\w$]+)\s*(?:\+\s*(-?\s*\w+))?\s*\]", text)
        if not found:
            raise PtxError(f"{self.what}: can't read the address {text}")
        offset = int((found[2] or "0").replace(" ", ""), 0)
        name = found[1]
        if self.is_register(name):
            register = self.register(name)
            self.read.add(register)
            if register.bits.itemsize == 8:
                return Address(register.bits.view("i8"), "", offset)
            return Address(register.bits, "", offset)
        if name in self.symbols:
            return Address(np.broadcast_to(np.array([self.symbols[name]], "i8"), (self.N,)), name, offset)
        if name.isdigit() or name.startswith("0x"):
            return Address(np.broadcast_to(np.array([int(name, 0)], "i8"), (self.N,)), "", offset)
        return Address(None, name, offset)

    def vector(self, text: str, count: int) -> list[str]:
        """Parts of `{%r1, %r2}`, or the operand itself."""
        parts = split(text[1:-1]) if text.startswith("{") else [text]
        if len(parts) != count:
            raise PtxError(f"{self.what}: {text} should have {count} parts")
        return parts


def reader(values: Array | tuple[Array]) -> Callable[[Lanes], Array]:
    """Function that gives a predicate's values, negated or not."""
    if isinstance(values, tuple):
        negated = values[0]
        return lambda ix: ~negated[ix]
    return lambda ix: values[ix]
