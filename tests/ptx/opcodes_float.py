"""Floating-point arithmetic, and conversions between all types."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from tests.ptx import arith
from tests.ptx.errors import PtxError
from tests.ptx.opcodes import Execute, Modifiers, elementwise, opcode, operands_of
from tests.ptx.operands import DTYPES, Array, Lanes
from tests.ptx.parse import Instruction

if TYPE_CHECKING:
    from tests.ptx.program import Program

MODES = "rn rz rm rp"
Function = Callable[..., Array]


def compute(
    ins: Instruction, mods: Modifiers, launch: Program, type_: str, f: Function, to: str | None = None
) -> Execute:
    """Execute d = f(a, ...), with `.ftz` on what goes in and comes out, and `.sat`."""
    texts = ins.operands[1:]
    target = launch.operands.target(ins.operands[0], to or type_, wide=to is not None)
    flushes = mods.has("ftz")
    if flushes and "f32" not in (type_, to):
        raise PtxError(f"{ins.text}: .ftz is for .f32")
    clips = mods.has("sat")
    if not (flushes or clips):
        return elementwise(f, target, [launch.operands.source(t, type_) for t in texts], launch.N)
    get = [launch.flushed(t, type_) if flushes else launch.fetch(t, type_) for t in texts]

    def finish(r: Array) -> Array:
        if clips:
            r = np.where(r > 0, np.minimum(r, r.dtype.type(1)), r.dtype.type(0))  # NaN becomes 0
        return arith.flush(r) if flushes and r.dtype == np.float32 else r

    if len(get) == 1:
        (one,) = get
        return lambda ix: target.__setitem__(ix, finish(f(one(ix))))
    if len(get) == 2:
        a, b = get
        return lambda ix: target.__setitem__(ix, finish(f(a(ix), b(ix))))
    a, b, c = get
    return lambda ix: target.__setitem__(ix, finish(f(a(ix), b(ix), c(ix))))


@opcode("add sub mul", "f32 f64")
def add(ins: Instruction, mods: Modifiers, launch: Program) -> Execute:
    operands_of(ins, 3)
    type_ = mods.type()
    mode, name = mods.take(MODES, "rn"), ins.opcode
    f: Function = {"add": np.add, "sub": np.subtract, "mul": np.multiply}[name]
    if mode != "rn":
        exact = {"add": Fraction.__add__, "sub": Fraction.__sub__, "mul": Fraction.__mul__}[name]
        plain = f
        if type_ == "f64":
            f = lambda a, b: arith.by_fractions(exact, "f64", mode, plain(a, b), a, b)
        elif name == "mul":
            f = lambda a, b: arith.mul32(a, b, mode)
        else:
            f = lambda a, b: arith.add32(a, b if name == "add" else -b, mode)
    return compute(ins, mods, launch, type_, f)


@opcode("fma mad", "f32 f64")
def fma(ins: Instruction, mods: Modifiers, launch: Program) -> Execute:
    """Rounded once."""
    operands_of(ins, 4)
    type_ = mods.type()
    mode = mods.take(MODES)
    if type_ == "f32" and mode == "rn" and "ftz" in ins.modifiers and "sat" not in ins.modifiers:
        mods.has("ftz")  # the commonest instruction of all: looks once at what comes out
        a, b, c = (launch.flushed(t, type_) for t in ins.operands[1:])
        d = launch.operands.target(ins.operands[0], type_)
        return lambda ix: d.__setitem__(ix, arith.fma32_flushed(a(ix), b(ix), c(ix)))
    if type_ == "f32":
        f: Function = arith.fma32 if mode == "rn" else lambda a, b, c: arith.fma32_directed(a, b, c, mode)
    elif mode == "rn":
        f = arith.fma64
    else:
        f = lambda a, b, c: arith.by_fractions(lambda x, y, z: x * y + z, "f64", mode, arith.fma64(a, b, c), a, b, c)
    return compute(ins, mods, launch, type_, f)


@opcode("div", "f32 f64")
def div(ins: Instruction, mods: Modifiers, launch: Program) -> Execute:
    """Rounded right, or `.approx` and `.full` with an error of 2 ulp."""
    operands_of(ins, 3)
    type_ = mods.type()
    how = mods.take(f"approx full {MODES}")
    f: Function = np.divide
    if how in ("approx", "full"):
        if type_ != "f32":
            raise PtxError(f"{ins.text}: only .f32 is divided approximately")

        def approximately(a: Array, b: Array) -> Array:
            q = a.astype(np.float64) / b
            ulp = np.spacing(np.abs(q).astype(np.float32)).astype(np.float64)
            r = launch.approx.moved(q, a * np.float32(3) + b, 0.0, np.where(np.isfinite(ulp), 1.5 * ulp, 0)).astype(
                np.float32
            )
            if how == "approx":  # large divisors: the reciprocal underflows
                big = (np.abs(b) > 2.0**126) & np.isfinite(b)
                r = np.where(big, np.where(np.isinf(a), np.float32(np.nan), np.copysign(np.float32(0), r)), r)
            return r

        f = approximately
    elif how != "rn":
        f = lambda a, b: arith.by_fractions(Fraction.__truediv__, type_, how, a / b, a, b)
    return compute(ins, mods, launch, type_, f)


def rounded(name: str, type_: str, mode: str) -> Function:
    """Square root or reciprocal by a rounding mode."""
    if name == "rcp":
        if mode == "rn":
            return lambda a: a.dtype.type(1) / a
        return lambda a: arith.by_fractions(lambda x: 1 / x, type_, mode, a.dtype.type(1) / a, a)
    if mode == "rn":
        return np.sqrt
    return lambda a: np.array([arith.square_root(float(x), type_, mode) for x in a]).astype(a.dtype)


#: Approximate functions of float32: exact function, relative error, absolute error (PTX's manual).
APPROXIMATE: dict[str, tuple[Function, float, float]] = {
    "rcp": (lambda x: 1.0 / x, 2.0**-23, 0.0),
    "sqrt": (np.sqrt, 2.0**-23, 0.0),
    "rsqrt": (lambda x: 1.0 / np.sqrt(x), 2.0**-22.9, 0.0),
    "ex2": (np.exp2, 2.0**-22.5, 0.0),
    "lg2": (np.log2, 0.0, 2.0**-22),
    "sin": (np.sin, 0.0, 2.0**-20.9),
    "cos": (np.cos, 0.0, 2.0**-20.9),
    "tanh": (np.tanh, 2.0**-11, 0.0),
}


@opcode("rcp sqrt rsqrt ex2 lg2 sin cos tanh", "f32 f64")
def function(ins: Instruction, mods: Modifiers, launch: Program) -> Execute:
    operands_of(ins, 2)
    type_, name = mods.type(), ins.opcode
    how = mods.take(f"approx {MODES}" if name in ("rcp", "sqrt") else "approx")
    if how != "approx":
        return compute(ins, mods, launch, type_, rounded(name, type_, how))
    if type_ == "f64" and name in ("rcp", "rsqrt") and mods.has("ftz"):
        return coarse(ins, launch, name)
    if type_ != "f32":
        raise PtxError(f"{ins.text}: only .f32 is approximate here")
    exact, relative, absolute = APPROXIMATE[name]

    def approximately(a: Array) -> Array:
        value = exact(a.astype(np.float64))
        error, fixed = relative, absolute
        if name == "lg2":  # absolute within (0.5, 2), relative outside
            near = (a > 0.5) & (a < 2)
            moved = np.where(
                near, launch.approx.moved(value, a, 0.0, absolute), launch.approx.moved(value, a, 2.0**-22)
            )
            return moved.astype(np.float32)
        if name in ("sin", "cos"):  # the error grows with the argument, beyond the first quadrant
            return np.clip(launch.approx.moved(value, a, 0.0, fixed * np.maximum(1, np.abs(a))), -1, 1).astype(
                np.float32
            )
        result = launch.approx.moved(value, a, error, fixed)
        if name == "tanh":
            result = np.clip(result, -1, 1)
        if name == "ex2":  # powers of whole numbers are exact: libdevice's erf and tanh of float64 rely on it
            result = np.where(a == np.rint(a), value, result)
        return result.astype(np.float32)

    return compute(ins, mods, launch, type_, approximately)


def coarse(ins: Instruction, launch: Program, name: str) -> Execute:
    """Reciprocals of float64 that look at, and give, the upper 32 bits only: the start of Newton's iterations."""
    upper = np.uint64(0xFFFFFFFF00000000)

    def run(a: Array) -> Array:
        x = (np.ascontiguousarray(a).view(np.uint64) & upper).view(np.float64)
        x = np.where(np.abs(x) < arith.SMALLEST["f64"], np.copysign(0.0, x), x)
        r = 1 / x if name == "rcp" else 1 / np.sqrt(x)
        r = np.where(np.abs(r) < arith.SMALLEST["f64"], np.copysign(0.0, r), r)
        return (r.view(np.uint64) & upper).view(np.float64)

    return elementwise(
        run, launch.operands.target(ins.operands[0], "f64"), [launch.operands.source(ins.operands[1], "f64")], launch.N
    )


@opcode("neg abs", "f32 f64")
def sign(ins: Instruction, mods: Modifiers, launch: Program) -> Execute:
    operands_of(ins, 2)
    return compute(ins, mods, launch, mods.type(), np.negative if ins.opcode == "neg" else np.abs)


@opcode("copysign", "f32 f64")
def copysign(ins: Instruction, mods: Modifiers, launch: Program) -> Execute:
    """The sign of a on b."""
    operands_of(ins, 3)
    return compute(ins, mods, launch, mods.type(), lambda a, b: np.copysign(b, a))


@opcode("min max", "f32 f64")
def minmax(ins: Instruction, mods: Modifiers, launch: Program) -> Execute:
    """Numbers win over NaN, unless `.NaN` is asked for."""
    operands_of(ins, 3)
    type_ = mods.type()
    f = arith.minimum if ins.opcode == "min" else arith.maximum
    if mods.has("NaN"):
        return compute(
            ins, mods, launch, type_, lambda a, b: np.where(np.isnan(a) | np.isnan(b), a.dtype.type(np.nan), f(a, b))
        )
    return compute(ins, mods, launch, type_, f)


@opcode("testp", "f32 f64")
def testp(ins: Instruction, mods: Modifiers, launch: Program) -> Execute:
    operands_of(ins, 2)
    type_ = mods.type()
    smallest = arith.SMALLEST[type_]
    subnormal = lambda a: (np.abs(a) < smallest) & (a != 0)
    tests: dict[str, Function] = {
        "finite": np.isfinite,
        "infinite": np.isinf,
        "number": lambda a: ~np.isnan(a),
        "notanumber": np.isnan,
        "subnormal": subnormal,
        "normal": lambda a: np.isfinite(a) & (np.abs(a) >= smallest),
    }
    return compute(ins, mods, launch, type_, tests[mods.take(" ".join(tests))], to="pred")


@opcode("cvt")
def cvt(ins: Instruction, mods: Modifiers, launch: Program) -> Execute:
    """Between any two types; integers from floats are cut to the range, NaN becomes 0."""
    if "tf32" in ins.modifiers or "bf16" in ins.modifiers or "bf16x2" in ins.modifiers:
        return _cvt_narrow(ins, mods, launch)
    operands_of(ins, 2)
    source = mods.type()
    to = mods.type()
    mode = mods.take(f"{MODES} rni rzi rmi rpi", "")
    S, D = DTYPES[source], DTYPES[to]
    if D.kind == "f" and S.kind == "f":
        return _cvt_floats(ins, mods, launch, source, to, mode)
    if S.kind == "f":
        return _cvt_to_integer(ins, mods, launch, source, to, mode)
    clips = mods.has("sat")
    a = launch.operands.source(ins.operands[1], source)
    d = launch.operands.target(ins.operands[0], to, wide=True)
    if D.kind == "f":
        if mode not in MODES.split():
            raise PtxError(f"{ins.text}: a rounding mode is needed")
        return lambda ix: d.__setitem__(ix, _integer_to_float(a[ix], to, mode))
    if mode:
        raise PtxError(f"{ins.text}: integers are not rounded")
    if clips:
        info, given = np.iinfo(D), np.iinfo(S)
        low, high = max(int(info.min), int(given.min)), min(int(info.max), int(given.max))
        return lambda ix: d.__setitem__(ix, np.clip(a[ix], S.type(low), S.type(high)).astype(D))
    return lambda ix: d.__setitem__(ix, a[ix].astype(D))


def _integer_to_float(a: Array, to: str, mode: str) -> Array:
    plain = a.astype(DTYPES[to])
    exact_in_double = a.dtype.itemsize <= 4
    if mode == "rn" or to == "f16":
        if to == "f16" and mode != "rn":
            raise PtxError("f16 is rounded to nearest only")
        return plain
    if to == "f64" and exact_in_double:
        return plain
    if exact_in_double:
        return arith.to_f32(a.astype(np.float64), mode)
    return np.array([arith.from_fraction(Fraction(int(i)), to, mode) for i in a]).astype(DTYPES[to])


def _cvt_floats(ins: Instruction, mods: Modifiers, launch: Program, source: str, to: str, mode: str) -> Execute:
    integral: dict[str, Function] = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}
    D = DTYPES[to]
    if mode in integral:
        f: Function = lambda a: integral[mode](a).astype(D)
    elif source == "f64" and to == "f32":
        f = lambda a: arith.to_f32(a, mode or "rn")
    elif D.itemsize < DTYPES[source].itemsize:
        if mode != "rn":
            raise PtxError(f"{ins.text}: only .rn is emulated")
        # Of float64 to float16, NumPy rounds once.
        f = lambda a: a.astype(D)
    else:
        f = lambda a: a.astype(D)
    return compute(ins, mods, launch, source, f, to=to)


def _cvt_to_integer(ins: Instruction, mods: Modifiers, launch: Program, source: str, to: str, mode: str) -> Execute:
    whole: dict[str, Function] = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}
    if mode not in whole:
        raise PtxError(f"{ins.text}: .rni, .rzi, .rmi or .rpi is needed")
    mods.has("sat")  # they are cut to the range anyway
    D = DTYPES[to]
    info = np.iinfo(D)
    low, high = float(info.min), float(2.0 ** (8 * D.itemsize - (D.kind == "i")))

    def run(a: Array) -> Array:
        x = whole[mode](a.astype(np.float64))
        inside = (x >= low) & (x < high)
        result = np.where(inside, x, 0).astype(D)
        return np.where(x >= high, D.type(info.max), np.where(x < low, D.type(info.min), result))

    return compute(ins, mods, launch, source, run, to=to)


def _cvt_narrow(ins: Instruction, mods: Modifiers, launch: Program) -> Execute:
    """The formats of tensor cores: tf32 and bf16."""
    operands = launch.operands
    if ins.modifiers[-1] in ("bf16",):
        operands_of(ins, 2)
        mods.type()
        if mods.type() != "f32":
            raise PtxError(f"{ins.text}: only to .f32 is emulated")
        a, d = operands.source(ins.operands[1], "b16"), operands.target(ins.operands[0], "f32")
        return lambda ix: d.__setitem__(ix, arith.from_bf16(a[ix]))
    if mods.type() != "f32":
        raise PtxError(f"{ins.text}: only from .f32 is emulated")
    if mods.has("tf32"):
        operands_of(ins, 2)
        mode = mods.take("rna rn")
        a, d = operands.source(ins.operands[1], "b32"), operands.target(ins.operands[0], "b32")

        def to_tf32(ix: Lanes) -> None:
            u = a[ix]
            half = np.uint32(0x1000) if mode == "rna" else np.uint32(0xFFF) + (u >> np.uint32(13) & np.uint32(1))
            finite = (u & np.uint32(0x7F800000)) != np.uint32(0x7F800000)
            d[ix] = np.where(finite, u + half, u) & np.uint32(0xFFFFE000)

        return to_tf32
    mode = mods.take("rn rz")
    both = mods.take("bf16x2 bf16") == "bf16x2"
    operands_of(ins, 3 if both else 2)
    x = [operands.source(o, "f32") for o in ins.operands[1:]]
    d = operands.target(ins.operands[0], "b32" if both else "b16")
    if not both:
        return lambda ix: d.__setitem__(ix, arith.to_bf16(x[0][ix], mode))
    return lambda ix: d.__setitem__(
        ix, arith.to_bf16(x[0][ix], mode).astype(np.uint32) << np.uint32(16) | arith.to_bf16(x[1][ix], mode)
    )
