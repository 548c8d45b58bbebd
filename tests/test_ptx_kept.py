"""A launch that is run again finds nothing of the one before."""

import numpy as np
import pytest

from tests.ptx import Fault, Input, Kept, Output, launch, parse
from tests.ptx_text import kernel

SHARED = ".shared .align 16 .b8 buffer[1024];"
AT = "mul.wide.u32 %d1, %r50, 4; add.s64 %d2, %d50, %d1; add.s64 %d3, %d51, %d1;"  # this thread's numbers of two arrays
MINE = "mov.u64 %d4, buffer; mul.wide.u32 %d5, %r51, 4; add.s64 %d4, %d4, %d5;"  # and its one in shared memory


def both(kept, module, args, **options):
    """What a kept launch writes, and how many bytes nobody wrote, which must be what a new one says."""
    results = []
    for k in (None, kept):
        arrays = [type(a)(a.array.copy()) if isinstance(a, (Input, Output)) else a for a in args]
        run = launch(module, 2, 32, arrays, kept=k, **options)
        results.append(([a.array.tolist() for a in arrays if isinstance(a, Output)], run.unwritten, run.steps))
    assert results[0] == results[1]
    return results[1]


def test_kept_launches_compute_what_new_ones_do():
    body = AT + MINE + (
        "ld.global.u32 %r1, [%d2]; st.shared.u32 [%d4], %r1; bar.sync 0; ld.shared.u32 %r2, [%d4];"
        "setp.gt.u32 %p1, %r2, 40; @%p1 st.global.u32 [%d3], %r2;"
    )  # fmt: skip
    module, kept, rng = parse(kernel(body, 2, SHARED)), Kept(), np.random.default_rng(0)
    for schedule in (None, None, 3, 3, None):
        x = rng.integers(0, 80, 64).astype("u4")
        _, unwritten, _ = both(kept, module, [Input(x), Output(np.zeros(64, "u4"))], schedule=schedule)
        assert unwritten[1] == 4 * np.count_nonzero(x <= 40)
        assert [len(v) for v in kept.launches.values()] == [1]
    # More memory than the kept one had, and less.
    for n in (64, 1000, 64):
        both(kept, module, [Input(np.full(n, 41, "u4")), Output(np.zeros(n, "u4"))])


@pytest.mark.parametrize(
    "kind, declare, body",
    [
        # Each thread writes what it reads afterwards only if its first argument says so.
        ("uninitialised", SHARED, MINE + "@%p1 st.shared.u32 [%d4], %r1; ld.shared.u32 %r2, [%d4];"),
        ("uninitialised", "", "@%p1 st.global.u32 [%d3], %r1; ld.global.u32 %r2, [%d3];"),
        ("register", "", "@%p1 mov.u32 %r9, 5; add.u32 %r2, %r9, 1;"),
        # A neighbour's number, with a barrier between or not.
        (
            "race", SHARED,
            MINE + "st.shared.u32 [%d4], %r1; @%p1 bar.sync 0; xor.b32 %r3, %r51, 31; mov.u64 %d6, buffer;"
            "mul.wide.u32 %d5, %r3, 4; add.s64 %d6, %d6, %d5; ld.shared.u32 %r2, [%d6];",
        ),
    ],
)  # fmt: skip
def test_kept_launches_find_what_new_ones_do(kind, declare, body):
    body = AT + "ld.global.u32 %r1, [%d2]; setp.gt.u32 %p1, %r1, 0;" + body + "st.global.u32 [%d3], %r2;"
    module, kept = parse(kernel(body, 2, declare)), Kept()

    def run(x):
        return launch(module, 2, 32, [Input(np.full(64, x, "u4")), Output(np.zeros(64, "u4"))], kept=kept)

    first = run(1)
    assert run(1) is first  # so it was kept
    with pytest.raises(Fault) as error:
        run(0)
    assert error.value.kind == kind
    assert not any(kept.launches.values())  # what has failed is not used again
    assert run(1) is not first
    assert run(1).unwritten == [0, 0]


def test_the_oldest_go_first():
    body = AT + "ld.global.u32 %r1, [%d2]; st.global.u32 [%d3], %r1;"
    module, kept = parse(kernel(body, 2)), Kept(most=10)
    args = [Input(np.zeros(64, "u4")), Output(np.zeros(64, "u4"))]
    launch(module, 2, 32, args, kept=kept)
    assert not kept.launches
    assert kept.held == 0
    few = Kept(most=4000)
    for block in (32, 64, 32):
        launch(module, 64 // block, block, args, kept=few)
    assert 0 < few.held <= 4000
