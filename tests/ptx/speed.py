"""How fast the emulator is: `python -m tests.ptx.speed`.

The kernel is the inside of a recurrent one: each thread multiplies a row of weights, from global memory, with a state
in shared memory, applies a sigmoid, and writes its unit of the next state between two barriers.
"""

from __future__ import annotations

import time

import numpy as np

from tests.ptx import Checks, Input, Output, launch

K, STEPS = 64, 8


def text() -> str:
    """PTX of the kernel, for blocks of 256 threads."""
    products = "".join(
        f"ld.shared.f32 %f{2 + k % 2}, [%rd5+{4 * k}];\nfma.rn.ftz.f32 %f1, %f{10 + k}, %f{2 + k % 2}, %f1;\n"
        for k in range(K)
    )
    weights = "".join(f"ld.global.f32 %f{10 + k}, [%rd4+{4 * k}];\n" for k in range(K))
    return f"""
.version 9.0
.target sm_90
.address_size 64
.shared .align 4 .b8 state[1024];
.visible .entry recurrent(.param .u64 w, .param .u64 y, .param .u32 steps)
{{
    .reg .pred %p<4>; .reg .b32 %r<20>; .reg .f32 %f<100>; .reg .b64 %rd<20>;
    ld.param.u64 %rd1, [w]; ld.param.u64 %rd2, [y]; ld.param.u32 %r9, [steps];
    mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mad.lo.s32 %r4, %r2, %r3, %r1;
    mul.wide.s32 %rd3, %r4, {4 * K}; add.s64 %rd4, %rd1, %rd3;
    {weights}
    mov.u64 %rd5, state; mul.wide.s32 %rd6, %r1, 4; add.s64 %rd7, %rd5, %rd6;
    st.shared.f32 [%rd7], 0f3F000000; mul.wide.s32 %rd8, %r4, 4; add.s64 %rd9, %rd2, %rd8;
    mov.u32 %r5, 0;
STEP:
    bar.sync 0;
    mov.f32 %f1, 0f00000000;
    {products}
    mul.ftz.f32 %f4, %f1, 0fBFB8AA3B; ex2.approx.ftz.f32 %f5, %f4; add.ftz.f32 %f6, %f5, 0f3F800000; rcp.approx.ftz.f32 %f7, %f6;
    bar.sync 0;
    st.shared.f32 [%rd7], %f7; st.global.f32 [%rd9], %f7;
    add.s32 %r5, %r5, 1; setp.lt.s32 %p1, %r5, %r9; @%p1 bra STEP;
    ret;
}}
"""


def rate(lanes: int, checks: Checks, steps: int) -> float:
    """Instructions of threads per second, decoding included."""
    w = np.random.default_rng(0).normal(size=(lanes, K)).astype(np.float32) / 8
    y = np.zeros(lanes, np.float32)
    start = time.perf_counter()
    run = launch(text(), lanes // 256, 256, [Input(w), Output(y), steps], checks=checks)
    return run.lane_instructions / (time.perf_counter() - start)


def main() -> None:
    for lanes in (256, 16384):
        steps = STEPS * (16 if lanes == 256 else 1)
        found = {}
        for name, checks in (
            ("all checks", Checks()),
            ("addresses only", Checks(races=False, initialisation=False, registers=False)),
        ):
            found[name] = max(rate(lanes, checks, steps) for _ in range(3))
        print(
            f"{lanes:6,} threads: "
            + ", ".join(f"{v / 1e6:.0f} million instructions of threads a second ({k})" for k, v in found.items())
        )


if __name__ == "__main__":
    main()
