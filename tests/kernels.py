"""The kernels that most tests need, compiled or found in the cache."""

from tests.cases import DTYPES, KINDS, Case

#: Neighbours have nothing in common, and may be compiled at the same time.
NAMES = tuple(f"{kind} {dtype}" for kind in (*KINDS, "MGU") for dtype in DTYPES)


def make_ready(name):
    """What a layer of a kind and dtype runs: both ways, one step, and one step of one sequence."""
    kind, dtype = name.split()
    case = Case(kind, dtype)
    case.train()
    case.layer(case.x)
    case.layer.stream(case.B)(case.x[0])
    case.layer.stream()(case.x[0, 0])
