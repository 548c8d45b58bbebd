"""Values of CUDA kernels while they are emitted: what a cell's formulas are run on.

A formula is plain Python on values that know ``+ - * /`` (``_cells.ops``).  Compiled by Numba as it stands, ``1 - z``
would be a double: an int and a float32 make a float64 there, and a float32 kernel would compute in doubles, at a
sixty-fourth of the speed on most devices.  Here a Python number takes the type of the other side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

I32 = ir.IntType(32)
#: All lanes of a warp.
EVERYONE = ir.Constant(I32, 0xFFFFFFFF)


def call(b: Any, name: str, result: ir.Type, arguments: Sequence[ir.Value]) -> ir.Value:
    """Call a function of libdevice, or an intrinsic of LLVM."""
    function = b.module.globals.get(name)
    if function is None:
        function = ir.Function(b.module, ir.FunctionType(result, [a.type for a in arguments]), name)
    return b.call(function, arguments)


def assembly(b: Any, text: str, result: ir.Type, constraints: str, arguments: Sequence[ir.Value]) -> ir.Value:
    """An instruction of PTX that reads or writes memory, which stays where it is among all others that do."""
    kind = ir.FunctionType(result, [a.type for a in arguments])
    # "~{memory}": what is read or written before (or after) stays there.
    return b.call(ir.InlineAsm(kind, text, f"{constraints},~{{memory}}", side_effect=True), arguments)


class Scalar:
    """A float or double of a thread."""

    __slots__ = ("b", "x")

    def __init__(self, b: Any, x: ir.Value) -> None:
        self.b, self.x = b, x

    def like(self, other: Any) -> Scalar:
        """A value of this one's type, from itself or a Python number."""
        return other if isinstance(other, Scalar) else Scalar(self.b, ir.Constant(self.x.type, float(other)))

    def __add__(self, other: Any) -> Scalar:
        return Scalar(self.b, self.b.fadd(self.x, self.like(other).x))

    def __radd__(self, other: Any) -> Scalar:
        return self.like(other) + self

    def __sub__(self, other: Any) -> Scalar:
        return Scalar(self.b, self.b.fsub(self.x, self.like(other).x))

    def __rsub__(self, other: Any) -> Scalar:
        return self.like(other) - self

    def __mul__(self, other: Any) -> Scalar:
        return Scalar(self.b, self.b.fmul(self.x, self.like(other).x))

    def __rmul__(self, other: Any) -> Scalar:
        return self.like(other) * self

    def __truediv__(self, other: Any) -> Scalar:
        return Scalar(self.b, self.b.fdiv(self.x, self.like(other).x))

    def __rtruediv__(self, other: Any) -> Scalar:
        return self.like(other) / self

    def __neg__(self) -> Scalar:
        return self.like(-0.0) - self  # NVVM has no fneg

    # The functions of ``_cells.ops``.

    def _libdevice(self, name: str) -> Scalar:
        suffix = "f" if isinstance(self.x.type, ir.FloatType) else ""
        return Scalar(self.b, call(self.b, f"__nv_{name}{suffix}", self.x.type, [self.x]))

    def exp(self) -> Scalar:
        return self._libdevice("exp")

    def tanh(self) -> Scalar:
        # libdevice's own: ``math.tanh`` becomes an 11-bit approximation under fastmath.
        return self._libdevice("tanh")

    def sigmoid(self) -> Scalar:
        return 1 / (1 + (-self).exp())  # exp may be infinite: 1 / inf is 0

    def relu(self) -> Scalar:
        zero = self.like(0)
        return Scalar(self.b, self.b.select(self.b.fcmp_ordered("<", self.x, zero.x), zero.x, self.x))

    def where_positive(self, value: Any) -> Scalar:
        zero = self.like(0)
        return Scalar(self.b, self.b.select(self.b.fcmp_ordered("<=", self.x, zero.x), zero.x, self.like(value).x))

    # Beyond formulas.

    def fma(self, y: Scalar, z: Scalar) -> Scalar:
        """Self * y + z, rounded once."""
        suffix = "f32" if isinstance(self.x.type, ir.FloatType) else "f64"
        return Scalar(self.b, call(self.b, f"llvm.fma.{suffix}", self.x.type, [self.x, y.x, z.x]))

    def from_lane(self, mask: int) -> Scalar:
        """The value of the lane whose number differs by the bits of ``mask``; all lanes must take part."""
        b, kind = self.b, self.x.type
        if isinstance(kind, ir.FloatType):
            return Scalar(b, b.bitcast(_shuffle(b, b.bitcast(self.x, I32), mask), kind))
        long = ir.IntType(64)
        bits = b.bitcast(self.x, long)
        low, high = b.trunc(bits, I32), b.trunc(b.lshr(bits, long(32)), I32)
        low, high = b.zext(_shuffle(b, low, mask), long), b.zext(_shuffle(b, high, mask), long)
        return Scalar(b, b.bitcast(b.or_(b.shl(high, long(32)), low), kind))

    def if_not(self, condition: ir.Value, other: Scalar) -> Scalar:
        """``other`` where the condition holds, else self."""
        return Scalar(self.b, self.b.select(condition, other.x, self.x))


def _shuffle(b: Any, x: ir.Value, mask: int) -> ir.Value:
    both = ir.LiteralStructType((I32, ir.IntType(1)))
    butterfly, whole_warp = ir.Constant(I32, 3), ir.Constant(I32, 31)
    arguments = (EVERYONE, butterfly, x, ir.Constant(I32, mask), whole_warp)
    return b.extract_value(call(b, "llvm.nvvm.shfl.sync.i32", both, arguments), 0)


class Pointer:
    """Where numbers stand, one behind the other."""

    __slots__ = ("b", "x")

    def __init__(self, b: Any, x: ir.Value) -> None:
        self.b, self.x = b, x

    def __add__(self, offset: Any) -> Pointer:
        """So many numbers further; an offset that is a Python number costs nothing."""
        if isinstance(offset, int):
            offset = ir.Constant(ir.IntType(64), offset)
        return Pointer(self.b, self.b.gep(self.x, [offset], inbounds=True))

    def load(self) -> Scalar:
        return Scalar(self.b, self.b.load(self.x))

    def load_shared_by_blocks(self) -> Scalar:
        """What another block may have written: never from a cache that doesn't see that, and never moved elsewhere."""
        kind = self.x.type.pointee
        name, letter = ("f32", "f") if isinstance(kind, ir.FloatType) else ("f64", "d")
        text = f"ld.relaxed.gpu.global.{name} $0, [$1];"
        address = self.b.ptrtoint(self.x, ir.IntType(64))
        return Scalar(self.b, assembly(self.b, text, kind, f"={letter},l", [address]))

    def store(self, value: Scalar) -> None:
        self.b.store(value.x, self.x)


def sum_over_lanes(values: list[tuple[Scalar, ...]], lane: ir.Value, lanes: int) -> tuple[Scalar, ...]:
    """Sums over groups of ``lanes`` neighbouring lanes, of each of several tuples.

    Lane p is given the sums of tuple p // (lanes / len(values)).  Each exchange halves the number of tuples a lane
    looks after; when one is left, the lanes that share it all get its sums.  Which numbers are added to which doesn't
    depend on the number of tuples.  ``len(values)`` and ``lanes`` are powers of two, the latter not the smaller one.
    """
    b, mask = values[0][0].b, lanes // 2
    while mask:
        if len(values) > 1:
            half = len(values) // 2
            upper = b.icmp_unsigned("!=", b.and_(lane, I32(mask)), I32(0))
            values = [
                tuple(_share(low, high, upper, mask) for low, high in zip(*pair, strict=True))
                for pair in zip(values[:half], values[half:], strict=True)
            ]
        else:
            values = [tuple(value + value.from_lane(mask) for value in values[0])]
        mask //= 2
    return values[0]


def _share(low: Scalar, high: Scalar, upper: ir.Value, mask: int) -> Scalar:
    """A lane's part of two values: it keeps one, and gets the same of the lane that keeps the other."""
    return low.if_not(upper, high) + high.if_not(upper, low).from_lane(mask)
