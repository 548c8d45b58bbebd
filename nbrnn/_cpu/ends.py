"""The end of a row: a vector of which only the first few numbers are there, the others aren't touched."""

from __future__ import annotations

from llvmlite import ir

from .emit import I64, Emit, Int, Ptr, Vec
from .rows import stack


def _lanes(e: Emit, relation: str, n: Int) -> ir.Value:
    """Lanes whose places have a relation to n (any integer)."""
    if e.W == 1:
        return e.b.icmp_signed(relation, I64(0), n.x)
    lane = e.bits_type.element
    index = ir.Constant(e.bits_type, list(range(e.W)))
    one = e.b.insert_element(ir.Constant(e.bits_type, ir.Undefined), e.b.trunc(n.x, lane), ir.IntType(32)(0))
    same = e.b.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), e.W), [0] * e.W))
    return e.b.icmp_signed(relation, index, same)


def first_lanes(e: Emit, n: Int) -> ir.Value:
    """Which lanes are below n (any integer)."""
    return _lanes(e, "<", n)


def lane_is(e: Emit, n: Int) -> ir.Value:
    """Which lane is number n, if any."""
    return _lanes(e, "==", n)


def load_first(p: Ptr, mask: ir.Value, otherwise: Vec | float = 0.0) -> Vec:
    """Numbers where the mask is true, else others."""
    e, nothing = p.e, p.e.vec(otherwise)
    if e.W == 1:
        spare = stack(e, 1)
        spare.store(nothing)
        return p.like(e.b.select(mask, p.x, spare.x)).load()
    align = ir.IntType(32)(e.size)
    return Vec(e, e.intrinsic(f"llvm.masked.load.{e.suffix}.p0", e.type, [p.x, align, mask, nothing.x]))


def store_first(p: Ptr, value: Vec, mask: ir.Value) -> None:
    """Numbers where the mask is true."""
    e = p.e
    if e.W == 1:
        p.like(e.b.select(mask, p.x, stack(e, 1).x)).store(value)
        return
    align = ir.IntType(32)(e.size)
    e.intrinsic(f"llvm.masked.store.{e.suffix}.p0", ir.VoidType(), [value.x, p.x, align, mask])
