"""Instructions of warps and blocks, atomics, memory and profiles, against NumPy or worked by hand."""

import numpy as np
import pytest

from tests.ptx import Fault, Input, Output, launch
from tests.ptx.arith import from_bf16, to_bf16
from tests.ptx_text import kernel

AT = "mul.wide.u32 %d1, %r50, 4; add.s64 %d2, %d50, %d1;"


def per_thread(body, block=64, grid=1, more=(), dtype="u4", **options):
    """What each thread has in %r1."""
    out = np.zeros(grid * block, dtype)
    launch(kernel(AT + body + "st.global.u32 [%d2], %r1;", 1 + len(more)), grid, block, [Output(out), *more], **options)
    return out


LANE = np.arange(64) % 32


@pytest.mark.parametrize(
    "mode, b, c, wanted",
    [
        ("bfly", 5, 31, LANE ^ 5),
        ("down", 3, 31, np.where(LANE + 3 < 32, LANE + 3, LANE)),
        ("up", 2, 0, np.where(LANE >= 2, LANE - 2, LANE)),
        ("idx", 7, 31, np.full(64, 7)),
        ("idx", 3, 0x181F, LANE // 8 * 8 + 3),
        ("down", 3, 0x181F, np.where(LANE % 8 + 3 < 8, LANE + 3, LANE)),
        ("up", 3, 0x1800, np.where(LANE % 8 >= 3, LANE - 3, LANE)),
        ("bfly", 4, 0x181F, LANE ^ 4),
        ("bfly", 8, 0x181F, np.where((LANE ^ 8) <= LANE // 8 * 8 + 7, LANE ^ 8, LANE)),
    ],
)
def test_shuffles(mode, b, c, wanted):
    assert (
        per_thread(f"mov.u32 %r3, %laneid; shfl.sync.{mode}.b32 %r1|%p1, %r3, {b}, {c}, -1;").tolist()
        == wanted.tolist()
    )
    inside = per_thread(
        f"mov.u32 %r3, %laneid; shfl.sync.{mode}.b32 %r3|%p1, %r3, {b}, {c}, -1; selp.u32 %r1, 1, 0, %p1;"
    )
    assert inside.tolist() == [int(w != l or mode == "idx") for w, l in zip(wanted, LANE, strict=True)]


def test_shuffles_of_the_lanes_that_a_mask_names():
    body = "setp.lt.u32 %p1, %r51, 40; selp.b32 %r4, 0xff, 0xffffff00, %p1; mov.u32 %r1, 99; @!%p1 bra E;"
    body += "setp.lt.u32 %p2, %r51, 32; @%p2 bra E; shfl.sync.bfly.b32 %r1, %r51, 1, 31, %r4; E:"
    assert per_thread(body).tolist() == [99] * 32 + [33, 32, 35, 34, 37, 36, 39, 38] + [99] * 24


def test_votes():
    body = "setp.lt.u32 %p1, %r51, 40; vote.sync.{}.{} {}, %p1, -1; "
    ballot = per_thread(body.format("ballot", "b32", "%r1"))
    assert ballot.tolist() == [0xFFFFFFFF] * 32 + [0xFF] * 32
    for name, wanted in (("all", (1, 0)), ("any", (1, 1)), ("uni", (1, 0))):
        got = per_thread(body.format(name, "pred", "%p2") + "selp.u32 %r1, 1, 0, %p2;")
        assert got.tolist() == [wanted[0]] * 32 + [wanted[1]] * 32
    assert per_thread("setp.ge.u32 %p1, %r51, 0; vote.sync.any.pred %p2, !%p1, -1; selp.u32 %r1, 1, 0, %p2;").sum() == 0


def test_matches():
    body = "and.b32 %r2, %r51, 3; match.any.sync.b32 %r1, %r2, -1;"
    assert per_thread(body).tolist() == [0x11111111 << (i % 4) for i in range(64)]
    body = "shr.u32 %r2, %r51, 5; cvt.u64.u32 %d9, %r2; match.all.sync.b64 %r1|%p1, %d9, -1; @!%p1 trap;"
    assert per_thread(body).tolist() == [0xFFFFFFFF] * 64
    assert per_thread("match.all.sync.b32 %r1, %r51, -1;").tolist() == [0] * 64


def test_reductions_of_a_warp():
    x = np.random.default_rng(0).integers(-100, 100, 64).astype("i4")
    rows = x.reshape(2, 32)
    cases = {
        "add.s32": rows.sum(1, dtype="i4"),
        "min.s32": rows.min(1),
        "max.s32": rows.max(1),
        "max.u32": rows.view("u4").max(1),
    }
    cases |= {
        f"{n}.b32": f.reduce(rows, axis=1)
        for n, f in (("and", np.bitwise_and), ("or", np.bitwise_or), ("xor", np.bitwise_xor))
    }
    for name, wanted in cases.items():
        got = per_thread(f"add.s64 %d3, %d51, %d1; ld.global.u32 %r2, [%d3]; redux.sync.{name} %r1, %r2, -1;", more=[x])
        np.testing.assert_array_equal(got.view(wanted.dtype), np.repeat(wanted, 32))


def test_threads_that_are_here():
    got = per_thread("mov.u32 %r1, 7; setp.lt.u32 %p1, %r51, 10; @%p1 bra E; activemask.b32 %r1; E:")
    assert got.tolist() == [7] * 10 + [0xFFFFFC00] * 22 + [0xFFFFFFFF] * 32


@pytest.mark.parametrize("schedule", [None, 3])
def test_reductions_of_a_block(schedule):
    pred = "setp.lt.u32 %p1, %r51, 40;"
    assert set(per_thread(pred + "bar.red.popc.u32 %r1, 0, %p1;", 64, 3, schedule=schedule)) == {40}
    assert set(per_thread(pred + "barrier.red.popc.u32 %r1, 1, 64, !%p1;", 64, 3, schedule=schedule)) == {24}
    for name, wanted in (("and", 0), ("or", 1)):
        assert set(
            per_thread(pred + f"bar.red.{name}.pred %p2, 0, %p1; selp.u32 %r1, 1, 0, %p2;", schedule=schedule)
        ) == {wanted}


ATOMICS = {
    "add.u32": (lambda o, a: o + a), "min.u32": min, "max.u32": max, "and.b32": (lambda o, a: o & a), "or.b32": (lambda o, a: o | a),
    "xor.b32": (lambda o, a: o ^ a), "exch.b32": (lambda o, a: a), "inc.u32": (lambda o, a: 0 if o >= a else o + 1),
    "dec.u32": (lambda o, a: a if o == 0 or o > a else o - 1),
}  # fmt: skip


@pytest.mark.parametrize("name", ATOMICS)
def test_atomics_go_one_after_the_other(name):
    rng = np.random.default_rng(1)
    values, start = rng.integers(1, 50, 64).astype("u4"), rng.integers(0, 20, 5).astype("u4")
    memory = start.copy()
    body = "add.s64 %d3, %d51, %d1; ld.global.u32 %r2, [%d3]; rem.u32 %r3, %r51, 5; mad.wide.u32 %d4, %r3, 4, %d52;"
    old = per_thread(body + f"atom.global.{name} %r1, [%d4], %r2;", more=[Input(values), memory])
    cells = start.astype(object).tolist()
    for i, a in enumerate(values.tolist()):
        assert old[i] == cells[i % 5]
        cells[i % 5] = ATOMICS[name](cells[i % 5], a)
    assert memory.tolist() == cells


def test_compare_and_swap():
    memory = np.zeros(1, "u4")
    old = per_thread("add.u32 %r2, %r51, 1; atom.global.cas.b32 %r1, [%d51], %r51, %r2;", more=[memory])
    assert memory[0] == 64
    assert old.tolist() == list(range(64))


@pytest.mark.parametrize("t, dtype", [("f32", "f4"), ("f64", "f8"), ("s64", "i8"), ("u64", "u8")])
def test_atomic_sums_of_other_types(t, dtype):
    x, total = np.linspace(0, 10, 96).astype(dtype), np.zeros(1, dtype)
    letter = {"f32": "f", "f64": "g"}.get(t, "d")
    body = f"mad.wide.u32 %d1, %r50, {x.itemsize}, %d50; ld.global.{t} %{letter}1, [%d1]; red.global.add.{'u64' if t == 's64' else t} [%d51], %{letter}1;"
    for schedule in (None, 1):
        total[:] = 0
        launch(kernel(body, 2), 3, 32, [x, total], schedule=schedule)
        np.testing.assert_allclose(total[0], x.sum(), rtol=1e-6)
    in_order = np.zeros((), dtype)
    for v in x:
        in_order = in_order + v
    launch(kernel(body, 2), 3, 32, [x, total := np.zeros(1, dtype)])
    assert total[0] == in_order


def test_signed_minimum_in_shared_memory():
    body = "setp.eq.u32 %p1, %r51, 0; @%p1 st.shared.u32 [s], 100; bar.sync 0; sub.s32 %r2, 20, %r51; atom.shared.min.s32 %r3, [s], %r2; bar.sync 0; ld.shared.u32 %r1, [s];"
    out = np.zeros(64, "i4")
    launch(kernel(AT + body + "st.global.u32 [%d2], %r1;", 1, ".shared .align 4 .b8 s[4];"), 1, 64, [out])
    assert set(out) == {-43}


@pytest.mark.parametrize("t, narrow", [("u8", "u1"), ("s8", "i1"), ("u16", "u2"), ("s16", "i2"), ("b8", "u1")])
def test_narrow_loads_are_extended(t, narrow):
    x = np.array([0, 1, 127, 200, 255, 128, 40000, 65535]).astype(narrow)
    out = np.zeros(8, "i4")
    size = x.itemsize
    body = f"mad.wide.u32 %d1, %r50, {size}, %d50; ld.global.{t} %r1, [%d1]; mad.wide.u32 %d2, %r50, 4, %d51; st.global.u32 [%d2], %r1;"
    launch(kernel(body, 2), 1, 8, [x, out])
    assert out.tolist() == x.astype("i4").tolist()


def test_vectors_and_caching_hints():
    x, out = np.arange(64, dtype="f4"), np.zeros(64, "f4")
    body = "mad.wide.u32 %d1, %r50, 16, %d50; ld.global.nc.L1::no_allocate.v4.f32 {%f1, %f2, %f3, %f4}, [%d1];"
    body += "mad.wide.u32 %d2, %r50, 16, %d51; st.global.cs.v2.f32 [%d2], {%f4, %f3}; st.global.wt.v2.f32 [%d2+8], {%f2, %f1};"
    launch(kernel(body, 2), 1, 16, [Input(x), Output(out)])
    assert out.tolist() == x.reshape(16, 4)[:, ::-1].reshape(-1).tolist()


def test_dynamic_shared_memory():
    declare = ".extern .shared .align 16 .b8 dynamic[];"
    body = "mov.u64 %d3, dynamic; mad.wide.u32 %d4, %r51, 4, %d3; st.shared.u32 [%d4], %r50; ld.shared.u32 %r1, [%d4]; st.global.u32 [%d2], %r1;"
    out = np.zeros(64, "u4")
    launch(kernel(AT + body, 1, declare), 2, 32, [out], dynamic_shared=128)
    assert out.tolist() == list(range(64))
    size = np.zeros(64, "u4")
    launch(
        kernel(AT + "mov.u32 %r1, %dynamic_smem_size; st.global.u32 [%d2], %r1;", 1), 2, 32, [size], dynamic_shared=124
    )
    assert size.tolist() == [124] * 64
    with pytest.raises(Fault, match="128 bytes|has 124"):
        launch(kernel(AT + body, 1, declare), 2, 32, [out], dynamic_shared=124)


def test_each_thread_has_its_own_local_memory():
    body = ".local .align 4 .b8 a[16]; and.b32 %r2, %r51, 3; mov.u64 %d3, a; mad.wide.u32 %d3, %r2, 4, %d3; st.local.u32 [%d3], %r50; cvta.local.u64 %d4, %d3; ld.u32 %r1, [%d4];"
    assert per_thread(body, 32, 2).tolist() == list(range(64))


def fragments(kind):
    """Kernel of one product of tensor cores: operands as a device's registers hold them, row by row."""
    K, shape = (8, "m16n8k8") if kind == "tf32" else (16, "m16n8k16")
    body = "mul.wide.u32 %d1, %r51, 16; add.s64 %d2, %d50, %d1; ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%d2]; mul.wide.u32 %d3, %r51, 8; add.s64 %d3, %d51, %d3;"
    body += "ld.global.v2.u32 {%r5, %r6}, [%d3]; add.s64 %d4, %d52, %d1; ld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%d4];"
    body += f"mma.sync.aligned.{shape}.row.col.f32.{kind}.{kind}.f32 {{%f5, %f6, %f7, %f8}}, {{%r1, %r2, %r3, %r4}}, {{%r5, %r6}}, {{%f1, %f2, %f3, %f4}};"
    return K, kernel(body + "st.global.v4.f32 [%d4], {%f5, %f6, %f7, %f8};", 3)


@pytest.mark.parametrize("kind", ["tf32", "bf16", "f16"])
def test_tensor_cores(kind):
    """The layout of registers is PTX's: lane = 4 * group + place."""
    K, text = fragments(kind)
    rng = np.random.default_rng(2)
    A, B, C = (
        rng.integers(-8, 8, (16, K)).astype("f4"),
        rng.integers(-8, 8, (K, 8)).astype("f4"),
        rng.integers(-8, 8, (16, 8)).astype("f4"),
    )
    pack = {
        "tf32": lambda v: v.view("u4"),
        "bf16": lambda v: to_bf16(v).astype("u4"),
        "f16": lambda v: v.astype("f2").view("u2").astype("u4"),
    }[kind]
    a, b, c = np.zeros((32, 4), "u4"), np.zeros((32, 2), "u4"), np.zeros((32, 4), "f4")
    for lane in range(32):
        g, p = divmod(lane, 4)
        for r in range(4):
            row, half = g + 8 * (r % 2), r // 2
            c[lane, r] = C[g + 8 * (r // 2), 2 * p + r % 2]
            if kind == "tf32":
                a[lane, r] = pack(A[row : row + 1, p + 4 * half].copy())[0]
            else:
                x = pack(A[row, 2 * p + 8 * half : 2 * p + 8 * half + 2].copy())
                a[lane, r] = x[0] | x[1] << 16
        for r in range(2):
            if kind == "tf32":
                b[lane, r] = pack(B[p + 4 * r, g : g + 1].copy())[0]
            else:
                x = pack(B[2 * p + 8 * r : 2 * p + 8 * r + 2, g].copy())
                b[lane, r] = x[0] | x[1] << 16
    launch(text, 1, 32, [a, b, c])
    D = np.zeros((16, 8), "f4")
    for lane in range(32):
        g, p = divmod(lane, 4)
        for r in range(4):
            D[g + 8 * (r // 2), 2 * p + r % 2] = c[lane, r]
    np.testing.assert_array_equal(D, A @ B + C)
    assert from_bf16(to_bf16(A)).tolist() == A.tolist()


def test_profiles():
    declare = ".shared .align 4 .b8 s[8192];"
    body = (
        AT + "ld.global.u32 %r1, [%d2]; mul.wide.u32 %d3, %r50, 128; add.s64 %d3, %d51, %d3; ld.global.u32 %r2, [%d3];"
    )
    body += "mov.u64 %d4, s; mad.wide.u32 %d5, %r51, 4, %d4; mad.wide.u32 %d6, %r51, 8, %d4; mad.wide.u32 %d7, %r51, 128, %d4;"
    for address in ("%d5", "%d6", "%d7"):
        body += f"st.shared.u32 [{address}], %r1; bar.sync 0;"
    run = launch(kernel(body, 2, declare), 1, 64, [np.zeros(64, "u4"), np.zeros(64 * 32, "u4")], profile=True)
    assert dict(run.profile.requests) == {"argument 0 (uint32 (64,))": 2, "argument 1 (uint32 (2048,))": 2}
    assert dict(run.profile.sectors) == {"argument 0 (uint32 (64,))": 8, "argument 1 (uint32 (2048,))": 64}
    assert run.profile.instructions["st.shared.u32"] == 6
    assert (run.profile.shared_requests, run.profile.shared_cycles) == (6, 2 * (1 + 2 + 32))
