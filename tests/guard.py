"""Every array of a run placed against a page that can't be touched.

    python -m tests.guard [--dtype float32] [--widths 512,256] [--kinds LSTM,GRU] [--quick] [--thin]

(``--widths own`` is the one in use here, ``others`` are all but that)

runs many shapes forward and back, with all arrays (what the user gives, what the layer returns, packed weights, tapes
and workspaces) ending at a protected page, and again beginning behind one; and compares all results, to the bit, with
those of a plain run.  A read or write past an end kills the process.  Every array that a kernel is given is looked at:
one that isn't placed so fails the sweep.
"""

from __future__ import annotations

import argparse
import bisect
import contextlib
import ctypes
import ctypes.util
import faulthandler
import gc
import math
import mmap
import sys

import numpy as np

import nbrnn
from nbrnn import _memory, jit
from nbrnn._cpu import isa, schedule, unit
from nbrnn._cpu.chosen import Chosen
from nbrnn._engine import batch
from tests.cases import DTYPES, KINDS, Case
from tests.kernels import CHOSEN
from tests.teams import TEAMS, forced

MODULES = {name: module for name, module in sys.modules.items() if name.startswith("nbrnn.")}
PAGE = mmap.PAGESIZE
PROT_NONE = 0
SIZES = [*range(1, 71), 127, 128, 129, 255, 256, 257, 499, 500, 501]
#: Cells that differ in memory, which relu doesn't from tanh.
ONE = ("LSTM", "GRU", "projected", "tanh")


class Arena:
    """Pages between two protected ones."""

    def __init__(self, pages):
        self.size = pages * PAGE
        self.memory = mmap.mmap(-1, self.size + 2 * PAGE)
        self.start = ctypes.addressof(ctypes.c_char.from_buffer(self.memory)) + PAGE
        libc = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
        for guard in (self.start - PAGE, self.start + self.size):
            if libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(PAGE), PROT_NONE):
                raise OSError(ctypes.get_errno(), "mprotect failed")

    def array(self, shape, dtype, at_end):
        count = math.prod(shape)
        size = count * np.dtype(dtype).itemsize
        offset = PAGE + (self.size - size if at_end else 0)
        return np.frombuffer(self.memory, dtype, count, offset).reshape(shape)


class Guarded:
    """Hands out arrays against protected pages; stands in for NumPy where the package makes arrays."""

    def __init__(self):
        self.arenas: dict[int, list[Arena]] = {}
        self.used: dict[int, int] = {}
        self.starts: list[tuple[int, int]] = []  # and sizes, of all arenas
        self.at_end = True
        self.count = 0

    def restart(self, at_end):
        self.used, self.at_end = {}, at_end

    def owns(self, array):
        """Whether an array lies between protected pages."""
        at = array.ctypes.data
        place = bisect.bisect_right(self.starts, (at, math.inf)) - 1
        return place >= 0 and at < sum(self.starts[place])

    def empty(self, shape, dtype=float):
        shape = tuple(shape) if np.ndim(shape) else (shape,)
        pages = -(-max(1, math.prod(shape) * np.dtype(dtype).itemsize) // PAGE)
        pages = 1 << (pages - 1).bit_length()
        pool, n = self.arenas.setdefault(pages, []), self.used.get(pages, 0)
        if n == len(pool):
            pool.append(Arena(pages))
            bisect.insort(self.starts, (pool[n].start, pool[n].size))
        self.used[pages] = n + 1
        self.count += 1
        array = pool[n].array(shape, dtype, self.at_end)
        array.view(np.uint8).fill(0xFF)  # NaN: nothing may rely on memory being clean
        return array

    def fresh(self, shape, dtype, zero=False):
        return (self.zeros if zero else self.empty)(shape, dtype)

    def zeros(self, shape, dtype=float):
        array = self.empty(shape, dtype)
        array.fill(0)
        return array

    def of(self, a):
        if a is None:
            return None
        array = self.empty(a.shape, a.dtype)
        array[...] = a
        return array

    def maybe(self, a):
        """A guarded copy of an array; anything else as it is."""
        return self.of(a) if isinstance(a, np.ndarray) else a

    def ascontiguousarray(self, a):
        return self.of(a)

    def array(self, a, *more, **options):
        return self.of(np.array(a, *more, **options))

    def __getattr__(self, name):
        return getattr(np, name)

    def watch(self, kernel_of):
        """A function that gives kernels, such that they take guarded arrays only."""

        def look(argument):
            if isinstance(argument, tuple):
                for part in argument:
                    look(part)
            elif isinstance(argument, np.ndarray) and argument.size:
                assert self.owns(argument), f"{argument.shape} {argument.dtype} is not guarded"

        def give(*variant):
            kernel = kernel_of(*variant)

            def run(*arguments):
                look(arguments)
                return kernel(*arguments)

            return run

        return give


@contextlib.contextmanager
def guard_package(guarded):
    """Let the package make its arrays with ``guarded`` inside the block."""
    before = []

    def replace(module, name, value):
        before.append((module, name, getattr(module, name)))
        setattr(module, name, value)

    for name, module in MODULES.items():
        # The desk of the threads and what is laid down for them stay where they are.
        if name not in ("nbrnn._memory", "nbrnn._cpu.workers", "nbrnn._cpu.pieces"):
            for function, replacement in (
                ("aligned", guarded.empty),
                ("aligned_zeros", guarded.zeros),
                ("aligned_copy", guarded.of),
                ("fresh", guarded.fresh),
            ):
                if getattr(module, function, None) is getattr(_memory, function):
                    replace(module, function, replacement)
            if name not in ("nbrnn._params", "nbrnn._cpu.dropout") and getattr(module, "np", None) is np:
                replace(module, "np", guarded)
    kernels = (
        "forward",
        "backward",
        "gradients",
        "dropout",
        "sum_choices",
        "choices",
        "digits",
        "dx_digits",
        "bytes_back",
    )
    for name in (f"{which}_kernel" for which in kernels):
        replace(unit, name, guarded.watch(getattr(unit, name)))
    replace(jit, "entry", guarded.watch(jit.entry))
    when = batch.Batch.when
    replace(batch.Batch, "when", lambda *given: schedule.When(*map(guarded.maybe, when(*given))))
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def forget(layer):
    """Let a layer make anew all that it keeps."""
    layer._stacks = None
    layer._rooms.clear()


def results(case, out):
    y, h, c, grads = case.train(rng=case.seed)
    inferred, _ = case.layer(case.user(case.x), out=case.user(out), **case.arguments())
    dh, dc = case.split(grads.state)
    made = [y, h, c, grads.x, dh, dc, grads.flat, inferred]
    if case.table is not None:
        x = case.user(Chosen(case.table, case.index))
        y, h, c, grads = case.train(x=x, rng=case.seed)
        made += [y, h, c, grads.x, grads.flat, case.layer(x, **case.arguments())[0]]
    if case.D == 1 and case.seed % 5 < 2:
        stream = case.layer.stream(case.B)
        made += [stream(row) for row in case.x]
        if case.B:
            single = case.layer.stream()
            made += [single(row[0]) for row in case.x]
    return [a for a in made if a is not None]


def shapes(quick, few=False, unit=False):
    """(I, H, B) around the sizes at which kernels change their ways; ``few``: for vectors of 8 numbers or fewer, of which
    four go together at most; ``unit``: and those from which on a matrix unit multiplies.
    """
    rng = np.random.default_rng(0)
    small = lambda most: int(rng.integers(1, most))
    for n in [n for n in SIZES if n < 40 or 127 <= n <= 129] if few else SIZES[:: 7 if quick else 1]:
        yield small(20), n, small(10)
        yield n, small(40), n
    if unit:
        # Blocks of 32 inputs, squares of 32 rows and of 2 vectors, whole and not, and more rows than there is room for.
        yield from [
            (128, 64, 8),
            (129, 65, 1),
            (143, 86, 16),
            (144, 96, 17),
            (145, 100, 31),
            (159, 128, 32),
            (160, 67, 33),
        ]
        yield from [(161, 255, 5), (255, 256, 13), (257, 257, 3), (128, 64, 200), (130, 70, 700)][:: 3 if quick else 1]
        # Blocks of 64 numbers of h, groups of 16 rows, fewer than the unit takes, and more than are brought into bytes.
        yield from [(2, 191, 1), (3, 192, 3), (5, 193, 4), (1, 257, 15), (7, 256, 17), (4, 200, 131)][
            :: 3 if quick else 1
        ]


def taken(kind, dtype, width):
    """Whether a thin sweep has this: all at the width that is in use; elsewhere one cell in each dtype.

    A width says how many numbers a vector has and how many vectors are summed at once; a cell, how many sums there are.
    So each width has two cells, another at each dtype, and each cell some width.  One that is no built-in cell has each
    width in one of the dtypes.
    """
    if isa.NAMES[width] is isa.current():
        return True
    place = list(isa.NAMES).index(width) + DTYPES.index(dtype)
    return kind == ONE[place % len(ONE)] if kind in KINDS else place % 2 == 0


def widths(named):
    """The names of vector widths."""
    own = [name for name, width in isa.NAMES.items() if width is isa.current()]
    given = {"own": own, "others": [name for name in isa.WIDTHS if name not in own]}
    return given.get(named) or named.split(",")


def sweep(kinds, dtype, names, quick, thin=False):
    """Number of cases and of guarded arrays; raises where results differ.

    The guarded runs come first: a plain run that writes where it must not could damage anything.
    """
    guarded, cases = Guarded(), 0
    for width in names:
        for kind in kinds:
            if thin and not taken(kind, dtype, width):
                continue
            few = thin and not quick and width != "512" and isa.NAMES[width] is not isa.current()
            for q, (I, H, B) in enumerate(shapes(quick, few, isa.NAMES[width] is isa.AMX and dtype == "float32")):
                options = dict(
                    T=2 + q % 2, B=B, I=I, H=H, P=1 + H // 2, L=1 + (q % 5 == 0), bidirectional=q % 3 == 0,
                    ragged=q % 2 == 0, cut=q % 4 == 1, stateful=True, seed=q, checkpoint=2 if q % 7 == 0 else None,
                    dropout=0.3 if q % 10 == 0 else 0.0, batch_first=q % 4 == 3,
                    recurrent_dropout=0.4 if q % 7 in (0, 3) else 0.0,
                )  # fmt: skip
                case = Case(kind, dtype, **options)
                case.table = case.index = None
                if q % 4 == 3 and (not thin or (isa.NAMES[width] is isa.current() and (kind, dtype) in CHOSEN)):
                    rng = np.random.default_rng(q)
                    case.table = rng.normal(size=(B, I)).astype(dtype)
                    case.index = rng.integers(0, B, (case.T, B))
                team = forced(*TEAMS[q % 5], wait=0.001) if q % 4 == 1 else contextlib.nullcontext()
                with isa.use(width):
                    with team:
                        got = [run_guarded(case, guarded, at_end) for at_end in (True, False)]
                    forget(case.layer)
                    wanted = results(case, np.empty_like(case.dy))
                for arrays in got:
                    cases += 1
                    for a, b in zip(arrays, wanted, strict=True):
                        np.testing.assert_array_equal(a, b, err_msg=f"{width} {case}")
    return cases, guarded.count


def run_guarded(case, guarded, at_end):
    """Results of a case, with every array against a protected page."""
    given = {name: getattr(case, name) for name in ("x", "dy", "h", "c", "dh", "dc", "resets", "table", "index")}
    with guard_package(guarded):
        guarded.restart(at_end)
        for name, array in given.items():
            setattr(case, name, guarded.of(array))
        forget(case.layer)
        made = [a.copy() for a in results(case, guarded.empty(case.dy.shape, case.dtype))]
    for name, array in given.items():
        setattr(case, name, array)
    return made


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--dtype", default=",".join(DTYPES))
    parser.add_argument("--widths", default=",".join(isa.WIDTHS))
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--thin", action="store_true", help="see taken")
    given = parser.parse_args()
    faulthandler.enable()
    gc.set_threshold(100_000)  # see conftest.py
    for dtype in given.dtype.split(","):
        cases, arrays = sweep(given.kinds.split(","), dtype, widths(given.widths), given.quick, given.thin)
        assert cases
        print(f"{dtype}: {cases} cases, {arrays} guarded arrays, 0 faults ({nbrnn.__file__})", flush=True)


if __name__ == "__main__":
    main()
