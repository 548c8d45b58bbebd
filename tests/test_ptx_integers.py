"""Each integer instruction of the emulator against Python's integers."""

# ruff: noqa: B023 (functions of a loop are called within it)

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from tests.ptx import PtxError, launch, parse
from tests.ptx_text import HEAD, WIDTHS, apply, kernel


def numbers(type_, count=64, seed=0):
    """Numbers of all sizes, and those at the ends."""
    info = np.iinfo(WIDTHS[type_])
    rng = np.random.default_rng(seed)
    ends = [info.min, info.min + 1, info.max, info.max - 1, 0, 1, 2, -1 if info.min else 3]
    some = rng.integers(info.min, info.max, count - 8, WIDTHS[type_], endpoint=True) >> rng.integers(
        0, info.bits, count - 8
    ).astype(WIDTHS[type_])
    return rng.permutation(np.concatenate([np.array(ends, WIDTHS[type_]), some]))


def wrap(value, type_):
    """A Python integer as a number of a type."""
    info = np.iinfo(WIDTHS[type_])
    value &= (1 << info.bits) - 1
    return value - (1 << info.bits) if value > info.max else value


def against(instruction, f, out, *types, count=64):
    """Compare an instruction with a function of Python integers."""
    inputs = [(t, numbers(t, count, i)) for i, t in enumerate(types)]
    got = apply(instruction, out, *inputs)
    wanted = [wrap(int(f(*map(int, row))), out) for row in zip(*(x for _, x in inputs), strict=True)]
    assert got.tolist() == wanted, instruction


def quotient(a, b):
    q = abs(a) // abs(b)
    return -q if (a < 0) != (b < 0) else q


SIX = ["u16", "s16", "u32", "s32", "u64", "s64"]
WIDER = {"u16": "u32", "s16": "s32", "u32": "u64", "s32": "s64"}


@pytest.mark.parametrize("t", SIX)
def test_arithmetic_wraps_round(t):
    bits = int(t[1:])
    against(f"add.{t} D, A, B", lambda a, b: a + b, t, t, t)
    against(f"sub.{t} D, A, B", lambda a, b: a - b, t, t, t)
    against(f"mul.lo.{t} D, A, B", lambda a, b: a * b, t, t, t)
    against(f"mul.hi.{t} D, A, B", lambda a, b: a * b >> bits, t, t, t)
    against(f"mad.lo.{t} D, A, B, C", lambda a, b, c: a * b + c, t, t, t, t)
    against(f"sad.{t} D, A, B, C", lambda a, b, c: abs(a - b) + c, t, t, t, t)
    against(f"min.{t} D, A, B", min, t, t, t)
    against(f"max.{t} D, A, B", max, t, t, t)
    if t[0] == "s":
        against(f"neg.{t} D, A", lambda a: -a, t, t)
        against(f"abs.{t} D, A", abs, t, t)
    if t in WIDER:
        against(f"mul.wide.{t} D, A, B", lambda a, b: a * b, WIDER[t], t, t)
        against(f"mad.wide.{t} D, A, B, C", lambda a, b, c: a * b + c, WIDER[t], t, t, WIDER[t])
    if bits > 16:
        against(f"mad.hi.{t} D, A, B, C", lambda a, b, c: (a * b >> bits) + c, t, t, t, t)


@pytest.mark.parametrize("t", SIX)
def test_division_is_cut_towards_zero(t):
    def by(f):
        return lambda a, b: f(a, b) if b else (-1 if f is quotient else a)

    against(f"div.{t} D, A, B", by(quotient), t, t, t)
    against(f"rem.{t} D, A, B", by(lambda a, b: a - b * quotient(a, b)), t, t, t)


def test_saturating_addition():
    clip = lambda x: max(-(2**31), min(2**31 - 1, x))
    against("add.sat.s32 D, A, B", lambda a, b: clip(a + b), "s32", "s32", "s32")
    against("sub.sat.s32 D, A, B", lambda a, b: clip(a - b), "s32", "s32", "s32")


def test_carries_pass_from_one_instruction_to_the_next():
    halves = "mov.b64 {%r10, %r11}, A; mov.b64 {%r12, %r13}, B; "
    join = "; mov.b64 D, {%r14, %r15}"
    against(
        halves + "add.cc.u32 %r14, %r10, %r12; addc.u32 %r15, %r11, %r13" + join,
        lambda a, b: a + b,
        "u64",
        "u64",
        "u64",
    )
    against(
        halves + "sub.cc.u32 %r14, %r10, %r12; subc.u32 %r15, %r11, %r13" + join,
        lambda a, b: a - b,
        "u64",
        "u64",
        "u64",
    )
    product = "mul.lo.u32 %r14, %r10, %r12; mul.hi.u32 %r15, %r10, %r12; mad.lo.cc.u32 %r14, %r10, %r12, %r11; madc.hi.u32 %r15, %r10, %r12, %r13"
    low = lambda a: a & 0xFFFFFFFF
    against(halves + product + join, lambda a, b: low(a) * low(b) + (a >> 32) + (b >> 32 << 32), "u64", "u64", "u64")


@pytest.mark.parametrize("t", ["b16", "b32", "b64"])
def test_logic_and_shifts(t):
    bits = int(t[1:])
    u, s = "u" + t[1:], "s" + t[1:]
    for name, f in (("and", lambda a, b: a & b), ("or", lambda a, b: a | b), ("xor", lambda a, b: a ^ b)):
        against(f"{name}.{t} D, A, B", f, u, u, u)
    against(f"not.{t} D, A", lambda a: ~a, u, u)
    against(f"cnot.{t} D, A", lambda a: a == 0, u, u)
    for n in (0, 1, 7, bits - 1, bits, bits + 1, 255):
        against(f"shl.{t} D, A, {n}", lambda a: a << n, u, u)
        against(f"shr.{u} D, A, {n}", lambda a: a >> n, u, u)
        against(f"shr.{s} D, A, {n}", lambda a: a >> n, s, s)
    against(f"and.b32 %r9, B, 127; shl.{t} D, A, %r9", lambda a, n: a << (n & 127), u, u, "u32")
    against(f"and.b32 %r9, B, 127; shr.{s} D, A, %r9", lambda a, n: a >> (n & 127), s, s, "u32")


def test_funnel_shifts():
    both = lambda a, b: b << 32 | a
    against("shf.l.wrap.b32 D, A, B, C", lambda a, b, c: both(a, b) << (c & 31) >> 32, *["u32"] * 4)
    against("shf.r.wrap.b32 D, A, B, C", lambda a, b, c: both(a, b) >> (c & 31), *["u32"] * 4)
    against("shf.l.clamp.b32 D, A, B, C", lambda a, b, c: both(a, b) << min(c, 32) >> 32, *["u32"] * 4)
    against("shf.r.clamp.b32 D, A, B, C", lambda a, b, c: both(a, b) >> min(c, 32), *["u32"] * 4)


def test_bytes_are_permuted():
    def permute(a, b, c):
        data = (b << 32 | a).to_bytes(8, "little")
        picks = [(c >> 4 * i & 7, c >> 4 * i & 8) for i in range(4)]
        return int.from_bytes(bytes((0xFF if data[p] & 0x80 else 0) if s else data[p] for p, s in picks), "little")

    against("prmt.b32 D, A, B, C", permute, *["u32"] * 4)


@pytest.mark.parametrize("t", ["b32", "b64"])
def test_bits_are_counted_and_reversed(t):
    bits, u = int(t[1:]), "u" + t[1:]
    against(f"popc.{t} D, A", lambda a: bin(a).count("1"), "u32", u)
    against(f"clz.{t} D, A", lambda a: bits - a.bit_length(), "u32", u)
    against(f"brev.{t} D, A", lambda a: int(f"{a:0{bits}b}"[::-1], 2), u, u)


@pytest.mark.parametrize("t", ["u32", "s32", "u64", "s64"])
def test_fields_and_highest_bits(t):
    bits = int(t[1:])

    def extract(a, start, length):
        start, length = start & 255, length & 255
        if not length:
            return 0
        field = [a >> min(start + i, bits - 1) & 1 if t[0] == "s" or start + i < bits else 0 for i in range(bits)]
        top = min(start + length - 1, bits - 1)
        fill = (a >> top & 1) if t[0] == "s" else 0
        return sum((field[i] if i < length else fill) << i for i in range(bits))

    def find(a):
        a = ~a if a < 0 else a
        return a.bit_length() - 1

    against(f"bfind.{t} D, A", find, "u32", t)
    against(f"bfind.shiftamt.{t} D, A", lambda a: bits - 1 - find(a) if find(a) >= 0 else -1, "u32", t)
    against(f"bfe.{t} D, A, B, C", extract, t, t, "u32", "u32")
    for start, length in ((0, 8), (4, 28), (bits - 1, 1), (bits - 4, 8), (0, bits), (bits, 3), (3, 0), (200, 9)):
        against(f"bfe.{t} D, A, {start}, {length}", lambda a: extract(a, start, length), t, t)


@pytest.mark.parametrize("t", ["b32", "b64"])
def test_fields_are_put_in(t):
    bits, u = int(t[1:]), "u" + t[1:]
    for start, length in ((0, 8), (4, 28), (bits - 4, 8), (0, bits), (bits, 3), (3, 0), (16, 16), (1, 255)):
        mask = (1 << length) - 1 << start & (1 << bits) - 1
        against(f"bfi.{t} D, A, B, {start}, {length}", lambda a, b: a << start & mask | b & ~mask, u, u, u)


@pytest.mark.parametrize("table", [0, 0x96, 0xE8, 0xCA, 0xFE, 0x80, 0xFF, 0x3C])
def test_functions_of_three_bits(table):
    def look(a, b, c):
        return sum((table >> ((a >> i & 1) * 4 + (b >> i & 1) * 2 + (c >> i & 1)) & 1) << i for i in range(32))

    against(f"lop3.b32 D, A, B, C, {table:#x}", look, *["u32"] * 4)


@pytest.mark.parametrize("t", SIX)
def test_comparisons(t):
    signs = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
    if t[0] == "u":
        signs |= {"lo": "<", "ls": "<=", "hi": ">", "hs": ">="}
    for name, sign in signs.items():
        f = eval(f"lambda a, b: a {sign} b")
        against(f"setp.{name}.{t} %p1, A, B; selp.u32 D, 1, 0, %p1", f, "u32", t, t)
    for how, f in (("and", lambda p, q: p and q), ("or", lambda p, q: p or q), ("xor", lambda p, q: p != q)):
        text = f"setp.ne.{t} %p2, C, 0; setp.lt.{how}.{t} %p1|%p3, A, B, %p2; selp.u32 %r8, 1, 0, %p1; selp.u32 %r9, 2, 0, %p3; add.u32 D, %r8, %r9"
        against(text, lambda a, b, c: f(a < b, c != 0) + 2 * f(a >= b, c != 0), "u32", t, t, t)
        against(
            text.replace("%p2;", "!%p2;", 1), lambda a, b, c: f(a < b, c == 0) + 2 * f(a >= b, c == 0), "u32", t, t, t
        )


@pytest.mark.parametrize("to", ["u8", "s8", *SIX])
@pytest.mark.parametrize("source", ["u8", "s8", *SIX])
def test_integers_are_converted(source, to):
    info = np.iinfo(WIDTHS[to])
    against(f"cvt.{to}.{source} D, A", lambda a: a, to, source)
    against(f"cvt.sat.{to}.{source} D, A", lambda a: max(info.min, min(info.max, a)), to, source)


def test_narrow_results_are_extended_in_wide_registers():
    a = np.array([-1, 5, -128, 127], "i1")
    assert apply("cvt.s8.s8 %r9, A; mov.b32 D, %r9", "s32", ("s8", a)).tolist() == [-1, 5, -128, 127]
    assert apply("cvt.u8.s8 %r9, A; mov.b32 D, %r9", "s32", ("s8", a)).tolist() == [255, 5, 128, 127]


def test_registers_are_packed_and_unpacked():
    against("mov.b64 D, {A, B}", lambda a, b: b << 32 | a, "u64", "u32", "u32")
    against("mov.b64 {%r9, D}, A", lambda a: a >> 32, "u32", "u64")
    against("mov.b64 {D, _}, A", lambda a: a & 0xFFFFFFFF, "u32", "u64")
    against("mov.b32 D, {A, B}", lambda a, b: b << 16 | a, "u32", "u16", "u16")


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1))
@settings(max_examples=40)
def test_products_of_64_bits(a, b):
    x, y = np.array([a]), np.array([b])
    assert apply("mul.hi.s64 D, A, B", "s64", ("s64", x), ("s64", y)).tolist() == [a * b >> 64]
    high = (a % 2**64) * (b % 2**64) >> 64
    assert apply("mul.hi.u64 D, A, B", "u64", ("u64", x), ("u64", y)).tolist() == [high]


def test_scopes_have_registers_of_their_own():
    body = """
    mov.u32 %r1, 1;
    { .reg .b32 %r1; .reg .pred q; mov.u32 %r1, 2; setp.eq.s32 q, %r1, 2; @q st.global.u32 [%d50], %r1; }
    st.global.u32 [%d50+4], %r1;
    """
    out = np.zeros(2, "u4")
    launch(kernel(body, 1), 1, 1, [out])
    assert out.tolist() == [2, 1]


def test_special_registers():
    rows = [
        "%tid.x",
        "%tid.y",
        "%tid.z",
        "%ctaid.x",
        "%ctaid.y",
        "%ntid.y",
        "%nctaid.x",
        "%laneid",
        "%warpid",
        "%lanemask_lt",
        "%lanemask_ge",
    ]
    body = "mov.u32 %r1, %tid.y; mov.u32 %r2, %ntid.x; mov.u32 %r3, %tid.z; mov.u32 %r4, %ntid.y; mov.u32 %r5, %ctaid.y; mov.u32 %r6, %nctaid.x;"
    body += "mad.lo.u32 %r1, %r3, %r4, %r1; mad.lo.u32 %r1, %r1, %r2, %r51; mad.lo.u32 %r5, %r5, %r6, %r52; mad.lo.u32 %r1, %r5, 36, %r1;"
    body += f"mad.wide.u32 %d1, %r1, {4 * len(rows)}, %d50;"
    body += "".join(f"mov.u32 %r9, {name}; st.global.u32 [%d1+{4 * i}], %r9;" for i, name in enumerate(rows))
    out = np.zeros((2 * 3, 36, len(rows)), "u4")
    launch(kernel(body, 1), (2, 3), (4, 3, 3), [out])
    x, y, z, bx, by, ny, gx, lane, warp, below, above = out.transpose(2, 0, 1)
    t, b = np.arange(36), np.arange(6)[:, None]
    assert (x == t % 4).all()
    assert (y == t // 4 % 3).all()
    assert (z == t // 12).all()
    assert (bx == b % 2).all()
    assert (by == b // 2).all()
    assert (ny == 3).all()
    assert (gx == 2).all()
    assert (lane == t % 32).all()
    assert (warp == t // 32).all()
    assert (below == (1 << (t % 32)) - 1).all()
    assert (above == 2**32 - (1 << (t % 32))).all()


def test_indirect_jumps():
    body = """
    brx.idx %r51, TABLE;
    A: mov.u32 %r1, 10; bra END;
    B: mov.u32 %r1, 11; bra END;
    C: mov.u32 %r1, 12; bra END;
    TABLE: .branchtargets A, C, B;
    END: mad.wide.u32 %d1, %r51, 4, %d50; st.global.u32 [%d1], %r1;
    """
    out = np.zeros(3, "u4")
    launch(kernel(body, 1), 1, 3, [out])
    assert out.tolist() == [10, 12, 11]


def test_variables_have_initial_values():
    declare = ".global .align 4 .b8 table[8] = {1, 2, 0, 0, 255, 255, 255, 255};\n.const .align 4 .u32 constant[2] = {7, 0x10};"
    body = "mov.u64 %d1, table; cvta.global.u64 %d1, %d1; ld.global.u32 %r1, [%d1]; ld.global.s32 %r2, [table+4]; ld.const.u32 %r3, [constant+4];"
    body += "st.global.v4.u32 [%d50], {%r1, %r2, %r3, WARP_SZ};"
    out = np.zeros(4, "u4")
    launch(kernel(body, 1, declare), 1, 1, [out])
    assert out.tolist() == [0x201, 2**32 - 1, 16, 32]


@pytest.mark.parametrize(
    "instruction",
    [
        "frobnicate.s32 %r1, %r2", "add.s33 %r1, %r2, %r3", "add.fast.s32 %r1, %r2, %r3", "add.s32 %r1, %r2", "mov.u32 %r1, %nothing",
        "ld.global.v8.f32 %f1, [%d1]", "setp.lo.s32 %p1, %r1, %r2", "shl.b32 %d1, %r1, 2", "add.s32 %d1, %r1, %r2", "cvt.f32.s32 %f1, %r1",
        "bra NOWHERE", "call.uni f, ()", "wgmma.fence.sync.aligned", "atom.global.add.b32 %r1, [%d1], %r2", "add.s32 5, %r1, %r2",
        "ld.global.cluster.u32 %r1, [%d1]", "shfl.bfly.b32 %r1, %r2, 1, 31", "div.f32 %f1, %f2, %f3", "add.f32 %f1, %f2, 1", "bra.weird X; X:",
    ],
)  # fmt: skip
def test_what_is_not_known_is_refused_by_name(instruction):
    with pytest.raises(PtxError) as error:
        launch(kernel(f"mov.u64 %d1, 0; mov.u32 %r1, 0; mov.u32 %r2, 0; mov.u32 %r3, 0; {instruction};"), 1, 1, [])
    assert instruction.split(";")[0] in str(error.value)


def test_texts_that_cannot_be_read():
    with pytest.raises(PtxError, match="64"):
        parse(".address_size 32")
    with pytest.raises(PtxError, match="brace"):
        parse(HEAD + ".entry k() { ret; ")
    with pytest.raises(PtxError, match="parameters"):
        launch(kernel("", 1), 1, 1, [])
    with pytest.raises(PtxError, match="block of"):
        launch(kernel(""), 1, 2000, [])
