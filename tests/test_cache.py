"""The cache on disk: what is compiled when, that nothing stale is served, and that no failure of it reaches a user."""

import os
import pathlib
import sys
import time

import numpy as np
import pytest

import nbrnn
from nbrnn._cells import Cell
from nbrnn._cells.ops import tanh
from nbrnn._cpu.schedule import steps_done
from nbrnn.recurrent import Recurrent
from tests.processes import copy_of_package, edit, finish, run, start

#: Prints a number that depends on everything, and how often a kernel came from the cache or didn't.
SCRIPT = """
import numpy as np, nbrnn
from nbrnn._cpu.forward import forward
layer = nbrnn.GRU(3, 5, rng=0)
y, h = layer(np.linspace(-1, 1, 24, dtype=np.float32).reshape(4, 2, 3))
print(repr(float(y.astype(float).sum())), sum(forward.stats.cache_hits.values()), sum(forward.stats.cache_misses.values()))
"""


#: The same of a kernel that is compiled in a moment, for what doesn't depend on which it is.
QUICK = """
import numpy as np, nbrnn
from nbrnn._cpu.activation import _exp, activate
y = activate("exp", np.linspace(-1, 1, 24, dtype=np.float32))
print(repr(float(y.astype(float).sum())), sum(_exp.stats.cache_hits.values()), sum(_exp.stats.cache_misses.values()))
"""


#: One step of one sequence: the same packing and formulas as all steps of a layer, in a tenth of the code.
STEP = """
import numpy as np, nbrnn
from nbrnn.jit import step
y = nbrnn.GRU(3, 5, rng=0).stream()(np.linspace(-1, 1, 3, dtype=np.float32))
print(repr(float(y.astype(float).sum())), sum(step.stats.cache_hits.values()), sum(step.stats.cache_misses.values()))
"""


def answer(script=SCRIPT, **where):
    """(sum, hits, misses) of a script.  What isn't optimised much is compiled in half the time."""
    less = {"NUMBA_OPT": 1} if script == SCRIPT else {}
    total, hits, misses = run(script, **less | where).split()
    return float(total), int(hits), int(misses)


def quick_answer(**where):
    return answer(QUICK, **where)


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A cache that holds what the script needs, and what the script said that filled it."""
    cache = tmp_path_factory.mktemp("filled")
    return cache, answer(cache=cache)


@pytest.fixture(scope="module")
def right(filled):
    return filled[1][0]


@pytest.fixture(scope="module")
def quick():
    return quick_answer()[0]


def test_second_process_compiles_nothing(filled, right):
    cache, first = filled
    assert first == (right, 0, 1)
    assert answer(cache=cache) == (right, 1, 0)


def test_parts_of_kernels_are_neither_kept_nor_called(filled):
    """They are in the machine code of kernels, and have none of their own."""
    assert {path.name.split("-")[0] for path in filled[0].rglob("*.nbc")} == {"forward.forward", "moves.move"}
    with pytest.raises(TypeError, match="steps_done is a part of kernels: it can be called by compiled code only"):
        steps_done(1, 2, 3)


def test_one_specialisation_for_each_variant():
    """Whatever the arrays, shapes and flags: two forward kernels, one backward, one for the gradients, one for dropout."""
    code = """
import numpy as np, nbrnn
from nbrnn._cpu import backward, dropout, forward, gradients
for options in ({}, dict(num_layers=2, bidirectional=True), dict(batch_first=True), dict(bias=False),
                dict(num_layers=2, dropout=0.5), dict(recurrent_dropout=0.5)):
    for dtype in (np.float32, np.float64):
        layer = nbrnn.LSTM(3, 5, dtype=dtype, **options)
        x = np.ones((4, 6, 3), dtype)
        still = x.copy(); still.flags.writeable = False
        for given in (x, still, x[::-1], x[:, ::2], np.asfortranarray(x), np.broadcast_to(x[:1, :1], x.shape), x[:, 0]):
            lengths = None if given.ndim == 2 else [2] * given.shape[0 if layer.batch_first else 1]
            layer(given); layer(given, lengths=lengths)
            y, state = layer(given)
            layer(given, state, resets=np.zeros(given.shape[:-1], bool), out=np.empty_like(y))
            for every in (None, 2):
                y, state, tape = layer.forward(given, lengths=lengths, checkpoint=every)
                layer.backward(tape, y, state if every else None)
        if not layer.bidirectional:
            layer.stream()(x[0, 0]); layer.stream(6)(x[0])
print(*(len(k.signatures) for k in (forward.forward, backward.backward, gradients.gradients, dropout.dropout)))
"""
    assert run(code).split() == ["4", "2", "2", "2"]  # two dtypes


EDITS = [
    ("_cells/gru.py", "return (n + z * (h - n),), (r, z, n, n_h, h)", "return (n + z * (n - h),), (r, z, n, n_h, h)"),
    ("_cpu/exponential.py", "one) / e.fma(high, p, high + one)", "one) / e.fma(high, p, high + 1.5 * one)"),
    ("_cpu/packing.py", 'second = way == "hh" and gate not in cell.split', "second = False"),
]


def test_an_edit_is_never_served_stale(tmp_path):
    """Nor what was before it: each is undone when the next is made."""
    folder = copy_of_package(tmp_path)
    right, hits, misses = answer(STEP, folder=folder)
    assert (hits, misses) == (0, 1)
    assert answer(STEP, folder=folder) == (right, 1, 0)
    seen = {right}
    for file, before, after in EDITS:
        text = (folder / "nbrnn" / file).read_text()
        edit(folder / "nbrnn" / file, before, after)
        changed, hits, misses = answer(STEP, folder=folder)
        assert changed not in seen, file
        assert (hits, misses) == (0, 1), file
        seen.add(changed)
        (folder / "nbrnn" / file).write_text(text)
    assert answer(STEP, folder=folder) == (right, 0, 1)


CELL = """
from nbrnn._cells import Cell
from nbrnn._cells.ops import tanh
from nbrnn.recurrent import Recurrent

class Mine(Cell):
    gates = ("h",)
    saved = ("h_new",)

    def forward(sums, state):
        h_new = tanh(sums[0])
        return (h_new,), (h_new,)

class Layer(Recurrent):
    cell = Mine
"""
RUN_CELL = STEP.replace("nbrnn.GRU(", "Layer(")


def test_an_edit_of_a_cell_of_ones_own_is_never_served_stale(tmp_path):
    """A cell in a file outside the package; a package whose name begins with ours is outside too."""
    folder = copy_of_package(tmp_path)
    (folder / "nbrnn_mine").mkdir()
    file = folder / "nbrnn_mine" / "__init__.py"
    file.write_text(CELL)

    def own():
        total, *counts = run("from nbrnn_mine import Layer\n" + RUN_CELL, folder=folder).split()
        return float(total), counts

    first, counts = own()
    assert counts == ["0", "1"]
    assert own() == (first, ["1", "0"])
    edit(file, "tanh(sums[0])", "tanh(2 * sums[0])")
    second, counts = own()
    assert second != first
    assert counts == ["0", "1"]
    edit(file, "tanh(2 * sums[0])", "tanh(sums[0])")
    assert own()[0] == first


def test_cells_are_told_apart_by_their_formulas(tmp_path):
    """Not by their files: at a prompt, made by a function, with a helper from elsewhere."""
    totals = {}
    for factor in (1, 2, 1, 2):
        code = CELL.replace("tanh(sums[0])", f"tanh({factor} * sums[0])")
        total, *counts = run(code + RUN_CELL, cache=tmp_path).split()
        assert counts == (["1", "0"] if factor in totals else ["0", "1"])
        assert totals.setdefault(factor, total) == total
    assert len(set(totals.values())) == 2


def test_cells_made_by_a_function_are_told_apart():
    x = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)

    def steps(layer):
        stream = layer.stream()
        return np.array([stream(row) for row in x])

    def make(factor):
        class Mine(Cell):
            gates = ("h",)
            saved = ("h_new",)

            @staticmethod
            def forward(sums, state):
                h_new = tanh(factor * sums[0])
                return (h_new,), (h_new,)

            @staticmethod
            def backward(dstate, saved):
                return (factor * dstate[0] * (1 - saved[0] * saved[0]),), (0,)

        return type("Layer", (Recurrent,), {"cell": Mine})(3, 5, rng=0)

    once, twice, again = (steps(make(factor)) for factor in (1, 2, 1))
    assert (once != twice).any()
    np.testing.assert_array_equal(once, again)
    np.testing.assert_array_equal(once, steps(nbrnn.RNN(3, 5, rng=0)))


def test_a_cell_that_was_changed_is_refused_not_kept(tmp_path):
    """Its code would be served to others as that of the cell's own formulas."""
    code = """
import numpy as np, nbrnn
from nbrnn._cells import GRU
GRU.backward = staticmethod(lambda dstate, saved: (tuple(0 * s for s in saved[:4]), (dstate[0],)))
layer = nbrnn.GRU(3, 5)
try:
    layer(np.ones((4, 2, 3), np.float32))
except Exception as error:
    print("RuntimeError" in repr(error) or isinstance(error, RuntimeError), "have changed" in str(error))
"""
    assert run(code, cache=tmp_path).split() == ["True", "True"]
    assert not list(tmp_path.rglob("forward.forward-*.nbc"))


def test_leftovers_of_killed_processes_are_swept(tmp_path, quick):
    quick_answer(cache=tmp_path)
    (file,) = tmp_path.rglob("activation._exp-*.nbc")
    old, young = (file.with_name(f"{file.name}.{name}.tmp") for name in ("old", "young"))
    for leftover, age in ((old, 2 * 3600), (young, 0)):
        leftover.write_bytes(b"half")
        os.utime(leftover, (time.time() - age,) * 2)
    file.unlink()
    assert quick_answer(cache=tmp_path) == (quick, 0, 1)
    assert not old.exists()
    assert young.exists()


def test_every_source_file_of_the_core_is_in_the_key(tmp_path):
    from nbrnn._kernel import SOURCE_DIGEST, core_of

    code = "from nbrnn._kernel import SOURCE_DIGEST; print(SOURCE_DIGEST)"
    folder = copy_of_package(tmp_path)
    assert run(code, folder=folder).strip() == SOURCE_DIGEST
    files = core_of(folder / "nbrnn")
    assert {"forward.py", "gru.py", "ops.py", "jit.py", "_kernel.py", "tiles.py"} <= {file.name for file in files}
    # Each file by itself; the digest is computed as the package computes it, in one process.
    code = """
import pathlib, sys
from nbrnn._kernel import SOURCE_DIGEST, core_of, digest_of
files = core_of(pathlib.Path(sys.modules["nbrnn"].__file__).parent)
assert digest_of(*files) == SOURCE_DIGEST
seen = {SOURCE_DIGEST}
for file in files:
    text = file.read_text()
    file.write_text(text + "# edited\\n")
    seen.add(digest_of(*files))
    file.write_text(text)
print(len(seen))
"""
    assert int(run(code, folder=folder)) == 1 + len(files)


def test_a_kernel_outside_of_the_core_has_its_own_file_in_the_key(tmp_path):
    """And its edits compile nothing else anew."""
    folder = copy_of_package(tmp_path)
    edit(
        folder / "nbrnn" / "networks.py",
        "Array = NDArray[Any]",
        "Array = NDArray[Any]\nfrom ._kernel import kernel\n@kernel\ndef triple(x):\n    return 3 * x\n",
    )
    code = """
from nbrnn.networks import triple
print(triple(1.5), sum(triple.stats.cache_hits.values()), sum(triple.stats.cache_misses.values()))
"""
    assert run(code, folder=folder).split() == ["4.5", "0", "1"]
    assert run(code, folder=folder).split() == ["4.5", "1", "0"]
    assert quick_answer(folder=folder)[1:] == (0, 1)
    edit(folder / "nbrnn" / "networks.py", "3 * x", "5 * x")
    assert run(code, folder=folder).split() == ["7.5", "0", "1"]
    assert quick_answer(folder=folder)[1:] == (1, 0)


def damage_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_all(path):
    path.write_bytes(b"")


def damage_one_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [damage_half, damage_all, damage_one_bit])
def test_damaged_files_are_compiled_again(tmp_path, quick, damage):
    quick_answer(cache=tmp_path)
    files = list(tmp_path.rglob("*.nbc"))
    assert files
    for path in files:
        damage(path)
    assert quick_answer(cache=tmp_path) == (quick, 0, 1)
    assert quick_answer(cache=tmp_path) == (quick, 1, 0)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="as root, needs Linux's capabilities")
def test_read_only_package_folder(tmp_path, quick):
    """Neither the package nor a home can be written to: right answers, one warning, nothing cached."""
    folder = copy_of_package(tmp_path / "package")
    everything = [tmp_path, *tmp_path.rglob("*")]
    for path in everything:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        where = dict(folder=folder, obey=True, HOME=tmp_path, XDG_CACHE_HOME=tmp_path)
        total, hits, misses = run("import warnings; warnings.simplefilter('ignore')\n" + QUICK, **where).split()
        assert (float(total), int(hits), int(misses)) == (quick, 0, 1)
        assert not list(tmp_path.rglob("*.nbc"))
        _, err = start(["-W", "always", "-c", QUICK], **where).communicate(timeout=300)
        assert err.count("compiles anew in each process") == 1
    finally:
        for path in everything:
            path.chmod(0o755)


def test_four_processes_starting_cold_at_once(tmp_path, quick):
    started = [start(["-c", QUICK], cache=tmp_path) for _ in range(4)]
    totals = [float(finish(process).split()[0]) for process in started]
    assert totals == [quick] * 4
    assert quick_answer(cache=tmp_path) == (quick, 1, 0)
    assert not [p for p in tmp_path.rglob("*") if p.suffix == ".tmp"]


def test_old_versions_leave_nothing_behind(tmp_path, quick):
    folder = copy_of_package(tmp_path)
    quick_answer(folder=folder)
    before = sorted(p.name for p in folder.rglob("*.nbc"))
    for n in range(2):
        with open(folder / "nbrnn" / "_check.py", "a") as file:
            file.write(f"# {n}\n")
        assert quick_answer(folder=folder) == (quick, 0, 1)
    after = sorted(p.name for p in folder.rglob("*.nbc"))
    assert len(after) == len(before)
    assert set(after).isdisjoint(before)


def test_moved_interface_means_no_cache(tmp_path, quick):
    """A Numba without the private names that the cache overrides."""
    code = "from numba.core import caching; del caching.Cache._index_key\nimport warnings; warnings.simplefilter('ignore')\n"
    total, hits, misses = run(code + QUICK, cache=tmp_path).split()
    assert (float(total), int(hits), int(misses)) == (quick, 0, 1)
    assert not list(pathlib.Path(tmp_path).rglob("*.nbc"))


def test_moved_interface_means_that_parts_are_compiled(tmp_path):
    """A Numba without the private name that leaves them uncompiled: they do the same."""
    code = "import numba.core.compiler as c\nFlags, c.Flags = c.Flags, object\nimport nbrnn\nc.Flags = Flags\n"
    tell = """
from nbrnn._cpu.single import require_apart
print(*(type(found.entry_point).__name__ for found in require_apart.overloads.values()))
"""
    total, hits, misses, kind = run(code + STEP + tell, cache=tmp_path).split()
    assert (int(hits), int(misses), kind) == (0, 1, "builtin_function_or_method")
    known = run(STEP + tell, cache=tmp_path / "other").split()
    assert known == [total, "0", "1", "_Nowhere"]


def test_switches_of_numba(tmp_path, filled, right, quick):
    """Kernels run where a user debugs functions of their own; what is compiled differently is cached apart."""
    one, *counts = answer(STEP, cache=tmp_path, NUMBA_DISABLE_JIT=1)
    assert counts == [0, 1]
    assert answer(STEP, cache=tmp_path) == (one, 1, 0)
    cache, _ = filled
    assert answer(cache=cache, NUMBA_DISABLE_JIT=1) == (right, 1, 0)
    assert answer(cache=cache, NUMBA_BOUNDSCHECK=1) == (right, 0, 1)
    assert answer(cache=cache) == (right, 1, 0)
    strict = "import warnings; warnings.simplefilter('error')\n"
    assert abs(float(run(strict + SCRIPT, cache=tmp_path, NUMBA_OPT=0).split()[0]) - right) < 1e-5
    for _ in range(2):
        assert abs(float(run(strict + QUICK, cache=tmp_path, NUMBA_OPT=0).split()[0]) - quick) < 1e-5


def test_user_functions_that_take_a_network_are_compiled_anew_after_an_upgrade(tmp_path):
    """The class of a network carries the digest, and the name of an old one can still be read from a cache."""
    folder = copy_of_package(tmp_path)
    (folder / "user.py").write_text("""
import numba, nbrnn
@numba.njit(cache=True)
def size(net):
    return net.H
print(size(nbrnn.GRU(3, 5, rng=0).jit()), sum(size.stats.cache_hits.values()))
""")

    def hits():
        return finish(start(["user.py"], folder=folder)).split()

    assert hits() == ["5", "0"]
    assert hits() == ["5", "1"]
    with open(folder / "nbrnn" / "_check.py", "a") as file:
        file.write("# upgraded\n")
    assert hits() == ["5", "0"]
    assert hits() == ["5", "1"]
