"""The race detector against plain reachability: random kernels of three threads in two blocks."""

import itertools

import numpy as np
import pytest

from tests.ptx import Fault, Launch
from tests.ptx import launch as run_kernel
from tests.ptx.machine import NOWHERE
from tests.ptx_text import kernel

#: Threads 0 and 1 are block 0's, 2 and 3 block 1's; each runs a list of these on two words and two flags.
SIMPLE = ["ld.global.u32 %r1, [%d50+{w}];", "st.global.u32 [%d50+{w}], 1;"]
STRONG = [
    "st.release.{s}.global.u32 [%d51+{f}], 1;",
    "ld.acquire.{s}.global.u32 %r1, [%d51+{f}];",
    "red.relaxed.{s}.global.add.u32 [%d51+{f}], 1;",
]
STRONG += [
    "ld.relaxed.{s}.global.u32 %r1, [%d51+{f}];",
    "st.relaxed.{s}.global.u32 [%d51+{f}], 1;",
    "fence.acq_rel.{s};",
]
BLOCK = [0, 0, 1, 1]


def parts(op):
    """Kind, order, scope and place of an instruction."""
    words = op.split()[0].strip(";").split(".")
    place = op[op.index("[") : op.index("]")] if "[" in op else None
    order = next((w for w in words if w in ("acquire", "release", "relaxed", "acq_rel")), None)
    return words[0], order, "cta" in words, place


def reachable(trace):
    """Pairs (earlier, later) of a trace that are ordered, from the definitions of the memory model."""
    n = len(trace)
    before = np.zeros((n, n), bool)
    for i, j in itertools.combinations(range(n), 2):
        before[i, j] = trace[i][0] == trace[j][0]
    for i, (t, op) in enumerate(trace):  # patterns that end in the strong write i
        kind, order, narrow, place = parts(op)
        if kind not in ("st", "red") or order is None:
            continue
        starts = [(i, narrow)] if order == "release" else []
        # All fences before it; the last of each scope is enough, but all are right.
        starts += [
            (k, parts(trace[k][1])[2] or narrow)
            for k in range(i)
            if trace[k][0] == t and parts(trace[k][1])[0] == "fence"
        ]
        seen, open_ = set(), True
        for j in range(i + 1, n):
            u, other = trace[j]
            k2, o2, narrow2, place2 = parts(other)
            if place2 != place or not open_:
                continue
            if k2 == "st":
                open_ = False
            elif k2 in ("ld", "red") and o2:
                ends = [(j, narrow2)] if o2 == "acquire" else []
                ends += [
                    (m, parts(trace[m][1])[2] or narrow2)
                    for m in range(j + 1, n)
                    if trace[m][0] == u and parts(trace[m][1])[0] == "fence"
                ]
                for (a, x), (b, y) in itertools.product(starts, ends):
                    if t != u and (not (x or y) or BLOCK[t] == BLOCK[u]):
                        seen.add((a, b))
        for a, b in seen:
            before[a, b] = True
    for k in range(n):
        before |= before[:, k : k + 1] & before[k : k + 1, :]
    return before


def races(trace):
    """Whether any two instructions race."""
    before = reachable(trace)
    for i, j in itertools.combinations(range(len(trace)), 2):
        (t, a), (u, b) = trace[i], trace[j]
        (ka, oa, na, pa), (kb, ob, nb, pb) = parts(a), parts(b)
        if t == u or pa is None or pa != pb or (ka == kb == "ld") or before[i, j]:
            continue
        strong = oa is not None and ob is not None
        if not (strong and (not (na or nb) or BLOCK[t] == BLOCK[u])):
            return True
    return False


class Ordered(Launch):
    """A launch whose threads run one instruction at a time in a given order."""

    def _next(self):
        ready = self.at != NOWHERE
        if not ready.any():
            return None
        if self.setup:  # up to each thread's own part
            lowest = int(self.at[ready].min())
            self.setup = lowest < self.start
            if self.setup:
                return lowest, np.flatnonzero(self.at == lowest), NOWHERE, 1
        while self.turns:
            t = self.turns.pop(0)
            return int(self.at[t]), np.array([t]), NOWHERE, 1
        t = int(np.flatnonzero(ready)[0])
        return int(self.at[t]), np.array([t]), NOWHERE, 1


def emulate(trace, monkeypatch):
    """Whether the emulator finds a race, and in how many instructions."""
    body = ""
    for t in range(4):
        body += f"setp.eq.u32 %p{t + 1}, %r50, {t}; @%p{t + 1} bra T{t};"
    body += "bra END;"
    for t in range(4):
        mine = [op for u, op in trace if u == t]
        body += f"T{t}:" + "".join(f"{op} bra L{t}_{i}; L{t}_{i}:" for i, op in enumerate(mine)) + "bra END;"
    text = kernel(body + "END:", 2)
    monkeypatch.setattr(Ordered, "setup", True, raising=False)
    monkeypatch.setattr(Ordered, "turns", [t for t, _ in trace], raising=False)
    monkeypatch.setattr(Ordered, "start", 5, raising=False)
    monkeypatch.setattr("tests.ptx.call.Launch", Ordered)
    try:
        run_kernel(text, 2, 2, [np.zeros(2, "u4"), np.zeros(2, "u4")])
    except Fault as fault:
        return fault.kind == "race"
    return False


@pytest.mark.parametrize("seed", range(8))
def test_random_kernels(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    found = [0, 0]
    for _ in range(40):
        trace = []
        scope = "cta" if rng.random() < 0.2 else "gpu"  # of all: only the last of a thread's operations is kept
        for _ in range(int(rng.integers(3, 12))):
            ops = SIMPLE if rng.random() < 0.35 else STRONG
            op = ops[rng.integers(len(ops))].format(
                w=4 * rng.integers(2) * (rng.random() < 0.3), f=4 * int(rng.random() < 0.2), s=scope
            )
            trace.append((int(rng.integers(4)), op.replace("+0.0]", "]").replace("+0]", "]")))
        wanted = races(trace)
        got = emulate(trace, monkeypatch)
        assert got == wanted, "\n".join(f"{t}: {op}" for t, op in trace)
        found[wanted] += 1
    assert min(found) > 3
