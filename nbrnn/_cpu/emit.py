"""Vector code, written as arithmetic.

``Emit`` turns expressions of three kinds of value into LLVM instructions at the place where a primitive is called:

- ``Int``: a 64-bit integer (a size, an index),
- ``Ptr``: the address of a number of the emitter's dtype; ``p + n`` is n numbers further,
- ``Vec``: a vector of W numbers; knows ``+ - * /`` with vectors and Python numbers, and the functions of a cell.

With W = 1 a ``Vec`` is a plain number, and everything above works unchanged.  Loads and stores assume no more
alignment than a number's own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types

from . import exponential
from .isa import AMX, AMX8, BITS, HAS_FMA, V512, Lanes

I64 = ir.IntType(64)
_POINTER = ir.PointerType()


#: Bytes of a cache line, and bits to which the stack is aligned in any case.
LINE, ALIGNED = 64, 128


def _align_stack(function: ir.Function) -> None:
    """Have vectors for which there is no register lie on the stack within a cache line.

    LLVM would put them at multiples of 16 bytes, and two lines had to be looked at for many of them, for more or fewer
    as the stack happened to begin in this process.
    """
    function.attributes.alignstack = LINE
    function.attributes.add("noredzone")  # which changes nothing here: llvmlite prints the former only beside another


def _lanes(first: int, count: int) -> ir.Constant:
    """So many lanes for a shuffle, one after another."""
    return ir.Constant(ir.VectorType(ir.IntType(32), count), list(range(first, first + count)))


class Emit:
    """Emits for one dtype and vector width at the position of an LLVM builder.

    Parameters
    ----------
    builder : llvmlite.ir.IRBuilder
    dtype : numba type
        float32 or float64.
    lanes : class
        One of ``isa.NAMES``.
    """

    def __init__(self, builder: ir.IRBuilder, dtype: types.Type, lanes: type[Lanes]) -> None:
        self.b = builder
        self.bits = dtype.bitwidth
        self.size = self.bits // 8
        self.W = max(1, BITS[lanes] // self.bits)
        self.lanes = V512 if lanes in (AMX, AMX8) else lanes
        #: Whether there is a matrix unit beside.
        self.unit = lanes in (AMX, AMX8) and self.bits == 32
        #: And whether steps use it.
        self.in_bytes = lanes is AMX8 and self.bits == 32
        self.scalar_type = ir.FloatType() if self.bits == 32 else ir.DoubleType()
        self._set_types()
        if BITS[lanes] > ALIGNED:
            _align_stack(builder.function)

    def _set_types(self) -> None:
        def wide(scalar: ir.Type) -> ir.Type:
            return scalar if self.W == 1 else ir.VectorType(scalar, self.W)

        self.bits_type, self.type = wide(ir.IntType(self.bits)), wide(self.scalar_type)
        self.suffix = f"f{self.bits}" if self.W == 1 else f"v{self.W}f{self.bits}"

    def beside(self, count: int) -> Emit:
        """An emitter of so many vectors (a power of 2) side by side, as one: LLVM does each operation for all of them
        before the next.
        """
        several = copy.copy(self)
        several.W *= count
        several._set_types()
        return several

    # Values

    def integer(self, x: Any) -> Int:
        """An integer: from a Python one, an LLVM one, or itself."""
        if isinstance(x, Int):
            return x
        return Int(self, I64(x) if isinstance(x, int) else x)

    def ptr(self, address: Any) -> Ptr:
        """A pointer from an address."""
        return Ptr(self, self.b.inttoptr(self.integer(address).x, _POINTER))

    def ptr_like(self, p: Ptr) -> Ptr:
        """The same address, of numbers that this emitter's vectors are made of."""
        return Ptr(self, p.x)

    def vec(self, x: Any) -> Vec:
        """A vector: from a Python number (in all lanes), or itself."""
        if isinstance(x, Vec):
            return x
        return Vec(self, ir.Constant(self.type, float(x) if self.W == 1 else [float(x)] * self.W))

    def bits_of(self, x: int) -> ir.Constant:
        """An integer in all lanes, as wide as the dtype."""
        return ir.Constant(self.bits_type, x if self.W == 1 else [x] * self.W)

    def intrinsic(self, name: str, result: ir.Type, arguments: Sequence[ir.Value]) -> ir.Value:
        """Call an LLVM intrinsic."""
        function = self.b.module.globals.get(name)
        if function is None:
            function = ir.Function(self.b.module, ir.FunctionType(result, [a.type for a in arguments]), name)
        return self.b.call(function, arguments)

    def fma(self, x: Vec, y: Vec, z: Vec) -> Vec:
        """X * y + z, in one rounding where the processor does that in one instruction."""
        if not HAS_FMA:
            return x * y + z
        return Vec(self, self.intrinsic(f"llvm.fma.{self.suffix}", self.type, [x.x, y.x, z.x]))

    # Control

    def loop(self, count: Int, carried: Sequence[Any], body: Callable[..., Sequence[Any]]) -> list[Any]:
        """``for i in range(count): carried = body(i, *carried)``; what is carried at the end.

        ``carried`` are values of this emitter, and keep their kinds.
        """
        b, before = self.b, self.b.block
        head, after = b.append_basic_block("loop"), b.append_basic_block("done")
        b.cbranch(b.icmp_signed(">", count.x, I64(0)), head, after)
        b.position_at_end(head)
        index = b.phi(I64)
        index.add_incoming(I64(0), before)
        phis = [b.phi(v.x.type) for v in carried]
        for phi, value in zip(phis, carried, strict=True):
            phi.add_incoming(value.x, before)
        results = list(body(Int(self, index), *(v.like(p) for v, p in zip(carried, phis, strict=True))))
        following, last = b.add(index, I64(1)), b.block
        index.add_incoming(following, last)
        for phi, value in zip(phis, results, strict=True):
            phi.add_incoming(value.x, last)
        b.cbranch(b.icmp_signed("<", following, count.x), head, after)
        b.position_at_end(after)
        ends = [b.phi(v.x.type) for v in carried]
        for end, value, result in zip(ends, carried, results, strict=True):
            end.add_incoming(value.x, before)
            end.add_incoming(result.x, last)
        return [v.like(end) for v, end in zip(carried, ends, strict=True)]

    def loop_by(
        self,
        size: int,
        count: Int,
        carried: Sequence[Any],
        body: Callable[..., Sequence[Any]],
        beside: tuple[Int, Callable[[Int], None]] | None = None,
    ) -> list[Any]:
        """The same, written out for ``size`` turns at a time, as often as there are so many.

        ``beside``: what else to do each time, if the number before it is 1, not 0.
        """
        times = count // size

        def turns(q: Int, *carried: Any) -> Sequence[Any]:
            for i in range(size):
                carried = tuple(body(q * size + i, *carried))
            return carried

        if beside is not None:
            wanted, more = beside

            def all_of_it(q: Int, *carried: Any) -> Sequence[Any]:
                more(q)
                return turns(q, *carried)

            carried = self.loop(times * wanted, carried, all_of_it)
            carried = self.loop(times * (1 - wanted), carried, turns)
        else:
            carried = self.loop(times, carried, turns)
        done = times * size
        return self.loop(count - done, carried, lambda i, *carried: body(done + i, *carried))

    def each(self, count: Int, body: Callable[[Int], None]) -> None:
        """``for i in range(count): body(i)``."""

        def run(i: Int) -> list[Any]:
            body(i)
            return []

        self.loop(count, [], run)


class Int:
    """A 64-bit integer."""

    __slots__ = ("e", "x")

    def __init__(self, e: Emit, x: ir.Value) -> None:
        self.e, self.x = e, x

    def like(self, x: ir.Value) -> Int:
        return Int(self.e, x)

    def __add__(self, other: Int | int) -> Int:
        return Int(self.e, self.e.b.add(self.x, self.e.integer(other).x))

    def __sub__(self, other: Int | int) -> Int:
        return Int(self.e, self.e.b.sub(self.x, self.e.integer(other).x))

    def __mul__(self, other: Int | int) -> Int:
        return Int(self.e, self.e.b.mul(self.x, self.e.integer(other).x))

    def __floordiv__(self, other: int) -> Int:
        """Of a number that is not negative."""
        return Int(self.e, self.e.b.udiv(self.x, I64(other)))

    def __mod__(self, other: int) -> Int:
        """Of a number that is not negative."""
        return Int(self.e, self.e.b.urem(self.x, I64(other)))

    def __rsub__(self, other: int) -> Int:
        return self.e.integer(other) - self

    __radd__, __rmul__ = __add__, __mul__

    def at_most(self, bound: Int | int) -> Int:
        """The smaller of the two."""
        other = self.e.integer(bound).x
        return Int(self.e, self.e.b.select(self.e.b.icmp_signed("<", self.x, other), self.x, other))


def truth(e: Emit, relation: str, a: Int, b: Int | int) -> Int:
    """1 where a relation holds, else 0."""
    return Int(e, e.b.zext(e.b.icmp_signed(relation, a.x, e.integer(b).x), I64))


class Ptr:
    """The address of a number of the emitter's dtype."""

    __slots__ = ("e", "x")

    def __init__(self, e: Emit, x: ir.Value) -> None:
        self.e, self.x = e, x

    def like(self, x: ir.Value) -> Ptr:
        return Ptr(self.e, x)

    def __add__(self, count: Int | int) -> Ptr:
        if isinstance(count, int) and count == 0:
            return self
        return Ptr(self.e, self.e.b.gep(self.x, [self.e.integer(count).x], source_etype=self.e.scalar_type))

    def after(self, count: Int) -> Ptr:
        """So many bytes further."""
        return Ptr(self.e, self.e.b.gep(self.x, [count.x], source_etype=ir.IntType(8)))

    def address_at(self, index: Int) -> Ptr:
        """Entry ``index`` of a table of addresses that starts here."""
        b = self.e.b
        entry = b.load(b.gep(self.x, [index.x], source_etype=I64), typ=I64, align=8)
        return Ptr(self.e, b.inttoptr(entry, _POINTER))

    def load(self, offset: Int | int = 0) -> Vec:
        """W numbers."""
        e = self.e
        return Vec(e, e.b.load((self + offset).x, typ=e.type, align=e.size))

    def store(self, value: Vec | float, offset: Int | int = 0) -> None:
        """W numbers."""
        e = self.e
        e.b.store(e.vec(value).x, (self + offset).x, align=e.size)

    def expect(self, to_write: bool = False, later: bool = False) -> None:
        """Have the processor fetch what is about to be read here (and written), while it does something else.

        ``later``: into the second cache only, since the first will have held much else before.
        """
        flag = ir.IntType(32)
        near = flag(2 if later else 3)
        self.e.intrinsic("llvm.prefetch.p0", ir.VoidType(), [self.x, flag(int(to_write)), near, flag(1)])

    def number(self, offset: Int | int = 0) -> ir.Value:
        """One number."""
        e = self.e
        return e.b.load((self + offset).x, typ=e.scalar_type, align=e.size)

    def put_number(self, value: ir.Value, offset: Int | int = 0) -> None:
        """One number."""
        e = self.e
        e.b.store(value, (self + offset).x, align=e.size)

    def broadcast(self, offset: Int | int = 0) -> Vec:
        """One number, in all lanes."""
        e, number = self.e, self.number(offset)
        if e.W == 1:
            return Vec(e, number)
        nothing = ir.Constant(e.type, ir.Undefined)
        first = e.b.insert_element(nothing, number, ir.IntType(32)(0))
        lane0 = ir.Constant(ir.VectorType(ir.IntType(32), e.W), [0] * e.W)
        return Vec(e, e.b.shuffle_vector(first, nothing, lane0))


class Vec:
    """W numbers."""

    __slots__ = ("e", "x")

    def __init__(self, e: Emit, x: ir.Value) -> None:
        self.e, self.x = e, x

    def like(self, x: ir.Value) -> Vec:
        return Vec(self.e, x)

    def __add__(self, other: Vec | float) -> Vec:
        return Vec(self.e, self.e.b.fadd(self.x, self.e.vec(other).x))

    def __sub__(self, other: Vec | float) -> Vec:
        return Vec(self.e, self.e.b.fsub(self.x, self.e.vec(other).x))

    def __rsub__(self, other: float) -> Vec:
        return self.e.vec(other) - self

    def __mul__(self, other: Vec | float) -> Vec:
        return Vec(self.e, self.e.b.fmul(self.x, self.e.vec(other).x))

    def __truediv__(self, other: Vec | float) -> Vec:
        return Vec(self.e, self.e.b.fdiv(self.x, self.e.vec(other).x))

    def __rtruediv__(self, other: float) -> Vec:
        return self.e.vec(other) / self

    def __neg__(self) -> Vec:
        return Vec(self.e, self.e.b.fneg(self.x))

    def __abs__(self) -> Vec:
        e = self.e
        bits = e.b.and_(e.b.bitcast(self.x, e.bits_type), e.bits_of((1 << e.bits - 1) - 1))
        return Vec(e, e.b.bitcast(bits, e.type))

    __radd__, __rmul__ = __add__, __mul__

    # Comparisons with a number choose lane by lane; those with NaN are false.

    def if_less(self, bound: float, then: Vec | float, otherwise: Vec | float) -> Vec:
        """``then`` where self < bound, else ``otherwise``."""
        e = self.e
        less = e.b.fcmp_ordered("<", self.x, e.vec(bound).x)
        return Vec(e, e.b.select(less, e.vec(then).x, e.vec(otherwise).x))

    def if_at_most(self, bound: float, then: Vec | float, otherwise: Vec | float) -> Vec:
        """``then`` where self <= bound, else ``otherwise``."""
        e = self.e
        less = e.b.fcmp_ordered("<=", self.x, e.vec(bound).x)
        return Vec(e, e.b.select(less, e.vec(then).x, e.vec(otherwise).x))

    def if_negative(self, then: Vec | float, otherwise: Vec | float) -> Vec:
        """``then`` where the sign is that of a negative number (-0 too), else ``otherwise``."""
        e = self.e
        negative = e.b.icmp_signed("<", e.b.bitcast(self.x, e.bits_type), e.bits_of(0))
        return Vec(e, e.b.select(negative, e.vec(then).x, e.vec(otherwise).x))

    # What cells are written in (_cells.ops)

    def exp(self) -> Vec:
        return exponential.exp(self)

    def sigmoid(self) -> Vec:
        return exponential.sigmoid(self)

    def tanh(self) -> Vec:
        return exponential.tanh(self)

    def relu(self) -> Vec:
        return self.if_less(0.0, 0.0, self)

    def where_positive(self, value: Vec) -> Vec:
        return self.if_at_most(0.0, 0.0, value)


def joined(vectors: Sequence[Vec]) -> Vec:
    """Vectors, a power of 2 of them, side by side as one (``Emit.beside``)."""
    while len(vectors) > 1:
        e = vectors[0].e.beside(2)
        pairs = zip(vectors[::2], vectors[1::2], strict=True)
        vectors = [Vec(e, e.b.shuffle_vector(a.x, b.x, _lanes(0, e.W))) for a, b in pairs]
    return vectors[0]


def apart(value: Vec, count: int, e: Emit) -> list[Vec]:
    """And back: ``e`` is the emitter of each."""
    if count == 1:
        return [value]
    return [Vec(e, e.b.shuffle_vector(value.x, value.x, _lanes(q * e.W, e.W))) for q in range(count)]


def load_beside(places: Sequence[Ptr]) -> Vec:
    """A vector from each of some places, a power of 2 of them, side by side as one."""
    return joined([p.load() for p in places])


def store_beside(places: Sequence[Ptr], value: Vec) -> None:
    """And back."""
    for p, part in zip(places, apart(value, len(places), places[0].e), strict=True):
        p.store(part)
