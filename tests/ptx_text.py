"""Small kernels as PTX text, for tests of the emulator."""

from __future__ import annotations

import re

import numpy as np

from tests.ptx import launch

HEAD = ".version 9.0\n.target sm_90\n.address_size 64\n"
REGISTERS = """
    .reg .pred %p<20>; .reg .b16 %h<20>; .reg .b32 %r<60>; .reg .b64 %d<60>; .reg .f32 %f<60>; .reg .f64 %g<60>;
"""


def kernel(body, params=0, declare=""):
    """A kernel `k` whose parameters p0, p1, ... are pointers in %d50, %d51, ...; %r50 is the thread of the grid."""
    names = ", ".join(f".param .u64 p{i}" for i in range(params))
    loads = "".join(f"ld.param.u64 %d{50 + i}, [p{i}];\n" for i in range(params))
    start = "mov.u32 %r51, %tid.x; mov.u32 %r52, %ctaid.x; mov.u32 %r53, %ntid.x; mad.lo.s32 %r50, %r52, %r53, %r51;\n"
    return f"{HEAD}{declare}\n.visible .entry k({names})\n{{{REGISTERS}{loads}{start}{body}\nret;\n}}\n"


WIDTHS = {
    "b8": "u1",
    "u8": "u1",
    "s8": "i1",
    "b16": "u2",
    "u16": "u2",
    "s16": "i2",
    "b32": "u4",
    "u32": "u4",
    "s32": "i4",
}
WIDTHS |= {"b64": "u8", "u64": "u8", "s64": "i8", "f32": "f4", "f64": "f8", "f16": "f2"}


def register(type_, i):
    letter = {1: "h", 2: "h", 4: "r", 8: "d"}[np.dtype(WIDTHS[type_]).itemsize]
    return f"%{ {'f32': 'f', 'f64': 'g'}.get(type_, letter) }{i}"


def apply(instruction, out, *inputs, **options):
    """Results of one instruction for arrays: `apply("add.s32 D, A, B", "s32", ("s32", a), ("s32", b))`.

    Letters stand for operands: D for the result, A, B, C for the inputs.
    """
    arrays = [np.ascontiguousarray(np.asarray(x).astype(WIDTHS[t])) for t, x in inputs]
    n = max(len(np.atleast_1d(a)) for a in arrays)
    arrays = [np.array(np.broadcast_to(a, (n,))) for a in arrays]
    result = np.empty(n, WIDTHS[out])
    body, names = "", {"D": register(out, 0)}
    for i, ((t, _), letter) in enumerate(zip(inputs, "ABC", strict=False), 1):
        names[letter] = register(t, i)
        size = np.dtype(WIDTHS[t]).itemsize
        body += f"mad.wide.u32 %d40, %r50, {size}, %d{50 + i};\nld.global.{'b16' if t == 'f16' else t} {names[letter]}, [%d40];\n"
    body += re.sub(r"\b[ABCD]\b", lambda m: names[m[0]], instruction) + ";\n"
    body += f"mad.wide.u32 %d40, %r50, {result.dtype.itemsize}, %d50;\nst.global.{'b16' if out == 'f16' else out} [%d40], {names['D']};\n"
    launch(kernel(body, 1 + len(inputs)), 1, n, [result, *arrays], seed=options.pop("seed", None), **options)
    return result


def in_chunks(instruction, out, *inputs, **options):
    """The same for more numbers than a block has threads."""
    n = max(len(x) for _, x in inputs)
    parts = [apply(instruction, out, *((t, x[i : i + 1024]) for t, x in inputs), **options) for i in range(0, n, 1024)]
    return np.concatenate(parts)
