"""Mutants of kernels that are given as text: made as they should be, and all caught but those that change nothing."""

import numpy as np

from tests.ptx import Input, Output, launch, parse
from tests.ptx.mutate import mutants, survivors, try_mutants
from tests.ptx_text import kernel

SUM = """
    mul.wide.u32 %d1, %r50, 4; add.s64 %d2, %d50, %d1; ld.global.f32 %f1, [%d2];
    mul.wide.u32 %d3, %r51, 4; mov.u64 %d4, part; add.s64 %d4, %d4, %d3;
    st.shared.f32 [%d4], %f1;  // its own
    bar.sync 0;
    setp.ne.u32 %p1, %r51, 0; @%p1 bra END;
    mov.f32 %f2, 0f00000000; mov.u64 %d5, part; mov.u32 %r1, 0;
    MORE: ld.shared.f32 %f3, [%d5]; add.rn.f32 %f2, %f2, %f3; add.s64 %d5, %d5, 4; add.u32 %r1, %r1, 1;
    setp.lt.u32 %p2, %r1, %r53; @%p2 bra MORE;
    mad.wide.u32 %d6, %r52, 4, %d51; st.global.f32 [%d6], %f2; membar.gl; red.global.add.u32 [%d52], 1;
    WAIT: ld.acquire.gpu.global.u32 %r2, [%d52]; mov.u32 %r3, %nctaid.x; setp.lt.u32 %p3, %r2, %r3; @%p3 bra WAIT;
    setp.ne.u32 %p4, %r52, 0; @%p4 bra END;
    ld.global.v2.f32 {%f4, %f5}, [%d51]; add.rn.f32 %f6, %f4, %f5; st.global.f32 [%d51+8], %f6;
    END: {more}
"""
TEXT = kernel(SUM.replace("{more}", ""), 3, ".shared .align 4 .b8 part[256];")


def run(text):
    x, out = np.arange(128, dtype="f4"), np.full(3, np.nan, "f4")
    done = launch(text, 2, 64, [Input(x), Output(out), np.zeros(1, "u4")])
    assert out.tolist() == [2016, 6112, 8128]
    return done


def test_each_place_gives_one_mutant():
    found = list(mutants(TEXT))
    assert [m.kind for m in found] == ["store", "barrier", "store", "fence", "order", "store"]
    assert [m.after for m in found if m.kind == "order"] == ["ld.relaxed.gpu.global.u32 %r2, [%d52];"]
    assert found[-1].after == "st.global.f32 [%d51+12], %f6;"
    for m in found:
        parse(m.text)
        assert m.text.count("\n") == TEXT.count("\n")
        assert m.before.split()[0] in TEXT.splitlines()[m.line - 1]
    assert [m.kind for m in mutants(TEXT, "fence order")] == ["fence", "order"]


def test_all_are_caught():
    outcomes = try_mutants(TEXT, run)
    assert not survivors(outcomes), "\n".join(map(str, outcomes))
    assert sum("race: " in o.caught for o in outcomes) >= 3


def test_a_barrier_that_nobody_needs_is_reported():
    text = kernel(SUM.replace("{more}", "bar.sync 1;"), 3, ".shared .align 4 .b8 part[256];")
    (left,) = survivors(try_mutants(text, run))
    assert left.before == "bar.sync 1;"


def test_what_is_not_executed_is_not_tried():
    text = kernel(
        SUM.replace("{more}", "bra OUT;\nst.global.f32 [%d51], %f1;\nOUT:"), 3, ".shared .align 4 .b8 part[256];"
    )
    assert len(list(mutants(text))) == 7
    assert len(try_mutants(text, run)) == 6
