"""Each kind of fault is found, and said with the place; and right kernels of the same shape pass."""

import numpy as np
import pytest

from tests.ptx import Checks, Fault, Input, Launch, Output, launch
from tests.ptx_text import kernel

SHARED = ".shared .align 16 .b8 buffer[1024];\n.shared .align 16 .b8 other[64];"
AT = "mul.wide.u32 %d1, %r50, 4; add.s64 %d2, %d50, %d1;"  # %d2: this thread's number of the first array
MINE = "mov.u64 %d3, buffer; mul.wide.u32 %d4, %r51, 4; add.s64 %d3, %d3, %d4;"  # %d3: the same of shared memory


def faulty(kind, body, *args, grid=1, block=32, declare="", match=None, **options):
    """Run a kernel that must fail in a way, whatever the order of threads."""
    for schedule in (None, 0, 1):
        copies = [type(a)(a.array.copy()) if isinstance(a, (Input, Output)) else np.copy(a) for a in args]
        with pytest.raises(Fault, match=match) as error:
            launch(kernel(body, len(args), declare), grid, block, copies, schedule=schedule, **options)
        assert error.value.kind == kind
        assert "kernel k" in str(error.value)
    return str(error.value)


def fine(body, *args, grid=1, block=32, declare="", schedules=(None, 0, 1), **options):
    """Run a kernel that is right, in several orders."""
    for schedule in schedules:
        copies = [a if isinstance(a, (Input, Output)) else np.copy(a) for a in args]
        run = launch(kernel(body, len(args), declare), grid, block, copies, schedule=schedule, **options)
    return run, copies


def zeros(n, dtype="u4"):
    return np.zeros(n, dtype)


# Addresses


def test_a_message_says_where():
    said = faulty("bounds", AT + "st.global.u32 [%d2], %r50;", zeros(20), block=32)
    assert "writes 4 bytes out of bounds, at byte" in said
    assert "argument 0 (uint32 (20,)), which has 80 bytes" in said
    assert "st.global.u32 [%d2], %r50, thread" in said
    assert "of block 0]" in said


@pytest.mark.parametrize("n", [31, 33, 64])
@pytest.mark.parametrize(
    "how",
    [
        "ld.global.u32 %r1, [%d2+{}];",
        "st.global.u32 [%d2+{}], %r50;",
        "atom.global.add.u32 %r1, [%d2+{}], 1;",
        "ld.u32 %r1, [%d2+{}];",
    ],
)
def test_global_memory_ends(how, n):
    fine(AT + how.format(0), zeros(n), zeros(n), block=n)
    faulty("bounds", AT + how.format(4), zeros(n), zeros(n), block=n)
    faulty("bounds", AT + how.format(-4), zeros(n), zeros(n), block=n)


def test_vectors_end_too():
    at = "mul.wide.u32 %d1, %r50, 16; add.s64 %d2, %d50, %d1; ld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%d2];"
    fine(at, zeros(32), block=8)
    faulty("bounds", at, zeros(31), block=8)


def test_odd_sizes_end_at_their_last_byte():
    at = "cvt.u64.u32 %d1, %r50; add.s64 %d2, %d50, %d1; ld.global.u8 %r1, [%d2];"
    fine(at, zeros(5, "u1"), block=5)
    faulty("bounds", at, zeros(5, "u1"), block=6)


@pytest.mark.parametrize("space", ["shared", "local"])
def test_other_memories_end(space):
    declare = "" if space == "local" else ".shared .align 4 .b8 a[128];\n.shared .align 4 .b8 b[64];"
    inside = ".local .align 4 .b8 a[128]; .local .align 4 .b8 b[64];" if space == "local" else ""
    body = inside + "mov.u64 %d3, a; mul.wide.u32 %d4, %r50, 4; add.s64 %d3, %d3, %d4; st.{}.u32 [%d3+{}], %r50;"
    fine(body.format(space, 0), declare=declare)
    faulty("bounds", body.format(space, 4), declare=declare, match=r"128 of a, which has 128 bytes")
    faulty("bounds", body.format(space, -4), declare=declare)


def test_generic_addresses_are_not_shared_ones():
    generic = "mov.u64 %d3, buffer; cvta.shared.u64 %d3, %d3; "
    fine(
        generic
        + "st.u32 [%d3], 5; cvta.to.shared.u64 %d4, %d3; ld.shared.u32 %r1, [%d4]; setp.ne.s32 %p1, %r1, 5; @%p1 trap;",
        block=1,
        declare=SHARED,
    )
    faulty("bounds", generic + "st.shared.u32 [%d3], 5;", block=1, declare=SHARED)


def test_generic_addresses_may_differ_in_their_memory():
    body = (
        AT
        + "setp.lt.u32 %p1, %r50, 16; "
        + MINE
        + "cvta.shared.u64 %d3, %d3; selp.b64 %d5, %d2, %d3, %p1; st.u32 [%d5], %r50; ld.u32 %r1, [%d5]; st.global.u32 [%d2], %r1;"
    )
    _, (out,) = fine(body, zeros(32), declare=SHARED)
    assert out.tolist() == list(range(32))


@pytest.mark.parametrize(
    "how",
    [
        "ld.global.u64 %d9, [%d2+4];",
        "ld.global.v2.u32 {%r1, %r2}, [%d2+4];",
        "ld.global.u32 %r1, [%d2+2];",
        "ld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%d2+8];",
    ],
)
def test_addresses_must_be_aligned(how):
    faulty("alignment", "mov.u64 %d2, %d50;" + how, zeros(32), block=1)


def test_inputs_are_not_written():
    body = AT + "ld.global.u32 %r1, [%d2]; st.global.u32 [%d2], %r1;"
    fine(body, zeros(32))
    faulty("read-only", body, Input(zeros(32)), match="only to be read")
    faulty("read-only", AT + "atom.global.add.u32 %r1, [%d2], 1;", Input(zeros(32)))


# Initialisation


def test_outputs_are_written_before_they_are_read():
    run, _ = fine(AT + "st.global.u32 [%d2], 1; ld.global.u32 %r1, [%d2];", Output(zeros(40)))
    assert run.unwritten == [32]
    faulty("uninitialised", AT + "ld.global.u32 %r1, [%d2];", Output(zeros(32)), match="byte 0 of argument 0")
    faulty(
        "uninitialised", AT + "st.global.u8 [%d2], 1; ld.global.u32 %r1, [%d2];", Output(zeros(32)), match="byte 1 of"
    )
    faulty("uninitialised", AT + "atom.global.add.u32 %r1, [%d2], 1;", Output(zeros(32)))
    fine(AT + "ld.global.u32 %r1, [%d2];", Output(zeros(32)), checks=Checks(initialisation=False))


def test_shared_and_local_memory_is_written_before_it_is_read():
    faulty("uninitialised", MINE + "ld.shared.u32 %r1, [%d3];", declare=SHARED)
    faulty("uninitialised", MINE + "st.shared.u32 [%d3], 1; ld.shared.v2.u32 {%r1, %r2}, [buffer+128];", declare=SHARED)
    faulty("uninitialised", ".local .align 4 .b8 a[16]; st.local.u32 [a], 1; ld.local.u32 %r1, [a+4];")
    fine(".local .align 8 .b8 a[16]; st.local.v2.u32 [a], {1, 2}; ld.local.u64 %d1, [a];")


def test_shared_memory_of_another_block_is_not_this_ones():
    body = "setp.eq.u32 %p1, %r52, 0; @%p1 st.shared.u32 [buffer], 7; setp.eq.u32 %p2, %r52, 1; @%p2 ld.shared.u32 %r1, [buffer];"
    faulty("uninitialised", body, grid=2, block=1, declare=SHARED)


def test_registers_are_written_before_they_are_read():
    faulty("register", "add.s32 %r1, %r2, 1;", match="reads %r2")
    faulty(
        "register", "setp.lt.u32 %p1, %r51, 16; @%p1 mov.u32 %r2, 1; add.s32 %r1, %r2, 1;", match="thread 16 of|thread"
    )
    fine("setp.lt.u32 %p1, %r51, 16; @%p1 mov.u32 %r2, 1; @!%p1 mov.u32 %r2, 2; add.s32 %r1, %r2, 1;")
    fine("setp.lt.u32 %p1, %r51, 16; @%p1 bra A; mov.u32 %r2, 1; bra B; A: mov.u32 %r2, 2; B: add.s32 %r1, %r2, 1;")
    faulty("register", "setp.lt.u32 %p1, %r51, 16; @%p1 bra B; mov.u32 %r2, 1; B: add.s32 %r1, %r2, 1;")
    faulty("register", "@%p1 add.s32 %r1, %r51, 1;", match="reads %p1")
    faulty("register", "@%p1 bra A; A:", match="reads %p1")
    # A copy of nothing is no fault until it is used.
    fine(
        "mov.u32 %r2, %r3; selp.b32 %r4, %r51, %r2, %p3; mov.u32 %r5, %r4;".replace("%p3", "%p2").replace(
            "mov.u32 %r2", "setp.ge.u32 %p2, %r51, 0; mov.u32 %r2"
        )
        + "add.s32 %r6, %r5, 1;"
    )
    faulty("register", "mov.u32 %r2, %r3; mov.u32 %r4, %r2; add.s32 %r1, %r4, 1;", match="reads %r4")
    fine("add.s32 %r1, %r2, 1;", checks=Checks(registers=False))


# Races within a block


LEFT = "add.s32 %r2, %r51, 1; rem.u32 %r2, %r2, %r53; mul.wide.u32 %d5, %r2, 4; mov.u64 %d6, buffer; add.s64 %d6, %d6, %d5;"
EXCHANGE = MINE + LEFT + "st.shared.u32 [%d3], %r51; {} ld.shared.u32 %r3, [%d6]; {} st.shared.u32 [%d3], %r3;"


@pytest.mark.parametrize("block", [32, 96, 100])
def test_a_missing_barrier_of_the_block(block):
    bar = "bar.sync 0;"
    fine(EXCHANGE.format(bar, bar), block=block, declare=SHARED)
    said = faulty(
        "race",
        EXCHANGE.format("", bar),
        block=block,
        declare=SHARED,
        checks=Checks(initialisation=False),
        match="has (written|read)",
    )
    assert "in buffer" in said
    faulty("race", EXCHANGE.format(bar, ""), block=block, declare=SHARED, match="has (read|written)")


def test_a_missing_barrier_of_the_warp():
    warp = "bar.warp.sync 0xffffffff;"
    fine(EXCHANGE.format(warp, warp), declare=SHARED)
    faulty("race", EXCHANGE.format("", warp), declare=SHARED, checks=Checks(initialisation=False))
    faulty("race", EXCHANGE.format(warp, ""), declare=SHARED)
    faulty(
        "race", EXCHANGE.format(warp, warp), block=64, declare=SHARED, checks=Checks(initialisation=False)
    )  # across warps


def test_a_shuffle_orders_no_memory():
    shuffle = "shfl.sync.bfly.b32 %r9, %r51, 1, 31, 0xffffffff;"
    faulty("race", EXCHANGE.format(shuffle, "bar.sync 0;"), declare=SHARED)


def test_barriers_of_half_a_warp():
    body = "setp.lt.u32 %p1, %r51, 16; selp.b32 %r8, 0xffff, 0xffff0000, %p1; xor.b32 %r2, %r51, {}; " + MINE
    body += "mul.wide.u32 %d5, %r2, 4; mov.u64 %d6, buffer; add.s64 %d6, %d6, %d5; st.shared.u32 [%d3], %r51; bar.warp.sync %r8; ld.shared.u32 %r3, [%d6];"
    fine(body.format(8), declare=SHARED)
    faulty("race", body.format(16), declare=SHARED, checks=Checks(initialisation=False))


def test_two_writers_of_one_place():
    faulty("race", "st.shared.u32 [buffer], %r51;", declare=SHARED, match="at the same time|has written")
    faulty("race", "st.global.u32 [%d50], %r50;", zeros(1), grid=2, block=1)
    fine("setp.eq.u32 %p1, %r51, 5; @%p1 st.shared.u32 [buffer], %r51;", declare=SHARED)
    fine("st.shared.u32 [buffer], %r51;", declare=SHARED, checks=Checks(races=False))


def test_races_are_seen_by_bytes():
    body = "mov.u64 %d3, buffer; cvt.u64.u32 %d4, %r51; add.s64 %d3, %d3, %d4; st.shared.u8 [%d3], %r51; {} ld.shared.u8 %r1, [%d3{}];"
    fine(body.format("", ""), declare=SHARED)
    faulty("race", body.format("", "+1"), declare=SHARED, checks=Checks(initialisation=False), block=32)
    fine(body.format("bar.sync 0;", "") + "st.shared.u8 [%d3], 1;", declare=SHARED)
    words = (
        MINE
        + "st.shared.u32 [%d3], 1; xor.b32 %r2, %r51, 1; mov.u64 %d6, buffer; mad.wide.u32 %d6, %r2, 4, %d6; {} ld.shared.u8 %r3, [%d6+2];"
    )
    fine(words.format("bar.sync 0;"), declare=SHARED)
    faulty("race", words.format(""), declare=SHARED, checks=Checks(initialisation=False))


def test_a_read_before_the_write_of_a_reader():
    """Thread 31 reads last, then writes: that thread 0 has read too must not be forgotten."""
    body = "setp.eq.u32 %p1, %r51, 0; @%p1 st.shared.u32 [buffer], 1; bar.sync 0; ld.shared.u32 %r1, [buffer]; {} setp.eq.u32 %p2, %r51, %r54; @%p2 st.shared.u32 [buffer], 2;"
    for writer in (0, 7, 31, 63):
        body_w = f"mov.u32 %r54, {writer}; " + body
        fine(body_w.format("bar.sync 0;"), block=64, declare=SHARED)
        faulty("race", body_w.format(""), block=64, declare=SHARED, match="has (read|written)")


def test_atomics_do_not_race_with_each_other():
    fine(
        "atom.shared.add.u32 %r1, [other], 1;".replace(
            "atom", "setp.eq.u32 %p1, %r51, 0; @%p1 st.shared.u32 [other], 0; bar.sync 0; atom"
        ),
        block=64,
        declare=SHARED,
    )
    add = "red.global.add.u32 [%d50], 1; {} setp.eq.u32 %p1, %r51, 3; @%p1 ld.global.u32 %r1, [%d50];"
    _, (total,) = fine(add.format("bar.sync 0;"), zeros(1), block=64)
    assert total[0] == 64
    faulty("race", add.format(""), zeros(1), block=64)
    faulty("race", "red.global.cta.add.u32 [%d50], 1;", zeros(1), grid=2, block=32)
    fine("red.global.cta.add.u32 [%d50], 1;", zeros(1), block=64)


def test_constant_loads_need_memory_that_nobody_writes():
    body = AT + "ld.global.nc.u32 %r1, [%d2]; {} st.global.u32 [%d2], %r1; {}"
    fine(body.format("", ""), zeros(32))
    faulty("race", body.format("", "ld.global.nc.u32 %r1, [%d2];"), zeros(32), match=r"ld\.global\.nc")


# Between blocks

#: Block 0 writes and raises a flag; block 1 waits for the flag and reads.
MESSAGE = """
    setp.eq.u32 %p9, %r52, 1; @%p9 bra WAIT;
    st.global.u32 [%d50], 42; {fence0}
    {store} bra END;
    WAIT: {load} setp.eq.u32 %p1, %r1, 0; @%p1 bra WAIT; {fence1}
    ld.global.u32 %r2, [%d50]; st.global.u32 [%d50+8], %r2;
    END:
"""
STRONG = dict(store="st.relaxed.gpu.global.u32 [%d50+4], 1;", load="ld.relaxed.gpu.global.u32 %r1, [%d50+4];")
ORDERED = dict(store="st.release.gpu.global.u32 [%d50+4], 1;", load="ld.acquire.gpu.global.u32 %r1, [%d50+4];")
RIGHT = {
    "release and acquire": ORDERED | dict(fence0="", fence1=""),
    "two fences": STRONG | dict(fence0="fence.acq_rel.gpu;", fence1="fence.sc.gpu;"),
    "old fences and volatile": dict(
        store="st.volatile.global.u32 [%d50+4], 1;",
        load="ld.volatile.global.u32 %r1, [%d50+4];",
        fence0="membar.gl;",
        fence1="membar.gl;",
    ),
    "a fence and an acquire": ORDERED | dict(store=STRONG["store"], fence0="membar.sys;", fence1=""),
    "atomics": dict(
        store="atom.release.gpu.global.exch.b32 %r3, [%d50+4], 1;",
        load="atom.acquire.gpu.global.add.u32 %r1, [%d50+4], 0;",
        fence0="",
        fence1="",
    ),
    "red": dict(
        store="red.release.gpu.global.add.u32 [%d50+4], 1;",
        load="atom.acq_rel.gpu.global.cas.b32 %r1, [%d50+4], 5, 5;",
        fence0="",
        fence1="",
    ),
    "system scope": dict(
        store="st.release.sys.global.u32 [%d50+4], 1;",
        load="ld.acquire.sys.global.u32 %r1, [%d50+4];",
        fence0="",
        fence1="",
    ),
}
WRONG = {
    "no release": ORDERED | dict(store=STRONG["store"], fence0="", fence1=""),
    "no acquire": ORDERED | dict(load=STRONG["load"], fence0="", fence1=""),
    "no fences": STRONG | dict(fence0="", fence1=""),
    "only the writer's fence": STRONG | dict(fence0="membar.gl;", fence1=""),
    "only the reader's fence": STRONG | dict(fence0="", fence1="membar.gl;"),
    "fences of a block": STRONG | dict(fence0="membar.cta;", fence1="membar.gl;"),
    "a reader's fence of a block": STRONG | dict(fence0="membar.gl;", fence1="membar.cta;"),
    "release to a block": ORDERED | dict(store="st.release.cta.global.u32 [%d50+4], 1;", fence0="", fence1=""),
    "a plain flag": dict(
        store="st.global.u32 [%d50+4], 1;",
        load="ld.acquire.gpu.global.u32 %r1, [%d50+4];",
        fence0="membar.gl;",
        fence1="",
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_messages_between_blocks(name):
    _, (memory,) = fine(MESSAGE.format(**RIGHT[name]), zeros(3), grid=2, block=1)
    assert memory.tolist() == [42, 1, 42]


@pytest.mark.parametrize("name", WRONG)
def test_messages_between_blocks_that_may_come_too_early(name):
    faulty("race", MESSAGE.format(**WRONG[name]), zeros(3), grid=2, block=1)


def test_messages_within_a_block_need_its_scope_only():
    within = MESSAGE.replace("%r52, 1", "%r51, 32").replace(
        "setp.eq.u32 %p9, %r51, 32",
        "setp.eq.u32 %p9, %r51, 32; setp.ne.u32 %p8, %r51, 0; setp.ne.and.u32 %p8, %r51, 32, %p8; @%p8 bra END",
    )
    cta = {k: v.replace(".gpu", ".cta") for k, v in RIGHT["release and acquire"].items()}
    fine(within.format(**cta), zeros(3), block=64)
    fine(within.format(**RIGHT["two fences"]), zeros(3), block=64)
    faulty("race", within.format(**WRONG["no release"]), zeros(3), block=64)


def test_a_release_tells_what_its_thread_has_learnt():
    """Block 0 tells block 1, which tells block 2; or which only passes the flag's atomic on."""
    body = """
    setp.eq.u32 %p1, %r52, 1; @%p1 bra ONE; setp.eq.u32 %p1, %r52, 2; @%p1 bra TWO;
    st.global.u32 [%d50], 42; red.release.gpu.global.add.u32 [%d50+4], 1; bra END;
    ONE: {first} setp.ne.u32 %p1, %r1, 1; @%p1 bra ONE; {second} bra END;
    TWO: ld.acquire.gpu.global.u32 %r1, [%d50+{flag}]; setp.ne.u32 %p1, %r1, {value}; @%p1 bra TWO;
    ld.global.u32 %r2, [%d50]; st.global.u32 [%d50+12], %r2;
    END:
    """
    acquire, relaxed = "ld.acquire.gpu.global.u32 %r1, [%d50+4];", "ld.relaxed.gpu.global.u32 %r1, [%d50+4];"
    tell = "st.release.gpu.global.u32 [%d50+8], 1;"
    fine(body.format(first=acquire, second=tell, flag=8, value=1), zeros(4), grid=3, block=1)
    faulty("race", body.format(first=relaxed, second=tell, flag=8, value=1), zeros(4), grid=3, block=1)
    # An atomic goes on with the release that it has read; a store ends it.
    last = body.replace("[%d50+{flag}]; setp", "[%d50+8]; setp").replace(
        "ld.global.u32 %r2", "ld.acquire.gpu.global.u32 %r4, [%d50+4]; ld.global.u32 %r2"
    )
    last = last.replace("TWO: ld.acquire", "TWO: ld.relaxed").replace(
        "{second}", "{second} st.relaxed.gpu.global.u32 [%d50+8], 1;"
    )
    fine(
        last.format(first=relaxed, second="red.relaxed.gpu.global.add.u32 [%d50+4], 1;", value=1),
        zeros(4),
        grid=3,
        block=1,
    )
    faulty(
        "race",
        last.format(first=relaxed, second="st.relaxed.gpu.global.u32 [%d50+4], 2;", value=1),
        zeros(4),
        grid=3,
        block=1,
    )


GRID_BARRIER = """
    {before}
    setp.ne.u32 %p1, %r51, 0; @%p1 bra WAITED;
    {fence} {arrive}
    SPIN: {look} mov.u32 %r6, %nctaid.x; setp.lt.u32 %p2, %r5, %r6; @%p2 bra SPIN; {after}
    WAITED: {behind}
"""
CROSS = (
    AT
    + """
    st.global.u32 [%d2], %r50;
    BARRIER
    mov.u32 %r7, %nctaid.x; mul.lo.u32 %r7, %r7, %r53; add.s32 %r8, %r50, %r53; rem.u32 %r8, %r8, %r7;
    mad.wide.u32 %d7, %r8, 4, %d50; ld.global.u32 %r9, [%d7]; mad.wide.u32 %d8, %r50, 4, %d51; st.global.u32 [%d8], %r9;
"""
)
PARTS = dict(
    before="bar.sync 0;",
    fence="",
    arrive="red.release.gpu.global.add.u32 [%d52], 1;",
    look="ld.acquire.gpu.global.u32 %r5, [%d52];",
    after="",
    behind="bar.sync 0;",
)
FENCED = PARTS | dict(
    fence="membar.gl;",
    arrive="atom.global.add.u32 %r5, [%d52], 1;",
    look="ld.volatile.global.u32 %r5, [%d52];",
    after="membar.gl;",
)


@pytest.mark.parametrize("parts", [PARTS, FENCED], ids=["release and acquire", "fences"])
def test_a_barrier_of_the_grid_by_hand(parts):
    args = [Output(zeros(192)), Output(zeros(192)), zeros(1)]
    text = CROSS.replace("BARRIER", GRID_BARRIER)
    fine(text.format(**parts), *args, grid=4, block=48)
    assert args[1].array.tolist() == [(i + 48) % 192 for i in range(192)]
    for name, value in parts.items():
        weaker = value.replace(".release", ".relaxed").replace(".acquire", ".relaxed")
        for less in {"" if name in ("before", "fence", "after", "behind") else weaker} - {value}:
            said = faulty(
                "race",
                text.format(**parts | {name: less}),
                *args,
                grid=4,
                block=48,
                checks=Checks(initialisation=False),
            )
            assert "no barrier or release" in said, name


# Barriers and deadlocks


def test_divergent_barriers():
    two = "setp.lt.u32 %p1, %r51, {}; @%p1 bra A; bar.sync 0; bra B; A: bar.sync 0; B:"
    for n in (16, 32):
        faulty("barrier", two.format(n), block=64, match="divergent")
    faulty("deadlock", "setp.lt.u32 %p1, %r51, 16; @%p1 bar.sync 0;", block=64, match="16 of 64 threads at barrier 0")
    said = faulty("deadlock", "setp.lt.u32 %p1, %r51, 16; @%p1 ret; bar.sync 0;", block=64)
    assert "16 threads have ended" in said
    assert "line " in said
    assert "bar.sync 0" in said


def test_barriers_with_a_count():
    """Producers go on; consumers wait for them."""
    body = (
        MINE
        + """
    setp.ge.u32 %p1, %r51, 32; @%p1 bra CONSUME;
    st.shared.u32 [%d3], %r51; {arrive} bra END;
    CONSUME: {wait} ld.shared.u32 %r1, [%d3+-128]; END:
    """
    )
    right = dict(arrive="bar.arrive 1, 64;", wait="bar.sync 1, 64;")
    fine(body.format(**right), block=64, declare=SHARED)
    fine(body.format(arrive="barrier.sync.aligned 3, 64;", wait="barrier.sync 3, 64;"), block=64, declare=SHARED)
    faulty("deadlock", body.format(arrive="", wait="bar.sync 1, 64;"), block=64, declare=SHARED)
    faulty(
        "barrier",
        body.format(arrive="bar.arrive 1, 48;", wait="bar.sync 1, 64;"),
        block=64,
        declare=SHARED,
        match="multiples of 32",
    )
    faulty(
        "barrier",
        body.format(arrive="bar.arrive 1, 64;", wait="bar.sync 1, 96;"),
        block=64,
        declare=SHARED,
        match="expect",
    )
    late = body.replace("st.shared.u32 [%d3], %r51; {arrive}", "{arrive} st.shared.u32 [%d3], %r51;")
    faulty("race", late.format(**right), block=64, declare=SHARED, checks=Checks(initialisation=False))


def test_threads_of_a_warp_that_never_meet():
    said = faulty(
        "deadlock", "setp.lt.u32 %p1, %r51, 8; @%p1 bra E; shfl.sync.bfly.b32 %r1, %r51, 1, 31, -1; E: bar.sync 0;"
    )
    assert "24 threads" in said
    assert "wait for others of their warp" in said
    faulty("warp", "shfl.sync.bfly.b32 %r1, %r51, 1, 31, 0xff;", match="not in the member mask")
    faulty("warp", "shfl.sync.bfly.b32 %r1, %r51, 16, 31, -1;", block=24, match="doesn't take part")
    fine("setp.lt.u32 %p1, %r51, 8; @%p1 ret; bar.warp.sync -1;")


def test_endless_loops_stop():
    limit = Checks(steps=500)
    faulty(
        "steps",
        "A: ld.volatile.global.u32 %r1, [%d50]; setp.eq.u32 %p1, %r1, 0; @%p1 bra A;",
        zeros(1),
        checks=limit,
        match="500 steps",
    )
    faulty("trap", "setp.eq.u32 %p1, %r51, 9; @%p1 trap;", match="stops itself")


CG = ".extern .func (.param .b32 r) cudaCGSynchronize (.param .b64 a, .param .b32 b);\n.extern .func (.param .b64 r) cudaCGGetIntrinsicHandle (.param .b32 a);"
SYNC = """
    { .param .b32 param0; st.param.b32 [param0+0], 1; .param .b64 retval0;
      call.uni (retval0), cudaCGGetIntrinsicHandle, (param0); ld.param.b64 %d30, [retval0+0]; }
    { .param .b64 param0; st.param.b64 [param0+0], %d30; .param .b32 param1; st.param.b32 [param1+0], 0; .param .b32 retval0;
      call.uni (retval0), cudaCGSynchronize, (param0, param1); }
"""


def test_cooperative_groups():
    args = [Output(zeros(192)), Output(zeros(192))]
    fine(CROSS.replace("BARRIER", SYNC), *args, grid=4, block=48, declare=CG)
    assert args[1].array.tolist() == [(i + 48) % 192 for i in range(192)]
    faulty(
        "race", CROSS.replace("BARRIER", ""), *args, grid=4, block=48, declare=CG, checks=Checks(initialisation=False)
    )
    faulty(
        "deadlock",
        "setp.eq.u32 %p1, %r50, 70; @%p1 ret;" + SYNC,
        grid=4,
        block=48,
        declare=CG,
        match="wait for the grid",
    )
    faulty("deadlock", "setp.lt.u32 %p1, %r51, 16; @%p1 bra E; bar.sync 0; E:" + SYNC, block=48, declare=CG)


def test_the_order_of_threads_depends_on_the_seed_only():
    body = "atom.global.add.u32 %r1, [%d51], 1; " + AT + "st.global.u32 [%d2], %r1;"

    def order(schedule):
        out = zeros(128)
        launch(kernel(body, 2), 2, 64, [out, zeros(1)], schedule=schedule)
        assert sorted(out) == list(range(128))
        return out.tolist()

    assert order(None) == list(range(128))
    assert order(1) == order(1) != order(2)


def test_launches_can_be_looked_into():
    run = Launch(kernel("mov.u32 %r1, 1;"), 2, 40)
    run.run()
    assert run.lane_instructions == 80 * 6
    assert run.done.all()
