"""Families of CUDA kernels for what one block can't hold, run by the emulator, against the float64 reference."""

import numpy as np
import pytest

from nbrnn._cells import GRU, LSTM, LSTMProjected
from nbrnn._cuda import kernels
from nbrnn._cuda.families import Blocks, Spread, Steps
from nbrnn._cuda.product import ACROSS, DEPTH
from nbrnn._cuda.spread import SpreadPlan
from tests.cases import Case
from tests.ptx import compile as nvvm

if not nvvm.has_numba_cuda():
    pytest.skip("numba-cuda is not installed", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore")

from nbrnn._cuda.direction import Direction  # noqa: E402
from tests.emulated import Emulated, ptx_of, run_case  # noqa: E402
from tests.test_cuda_kernels import CELLS, LONG, caught_in, check  # noqa: E402


def drawn(kind, dtype, H, rng, most=10 if LONG else 5):
    """A random case."""
    return Case(
        kind=kind, dtype=dtype, H=H, P=int(rng.integers(1, 40)), T=int(rng.integers(0, most)),
        B=int(rng.integers(1, most)), I=int(rng.integers(1, 20)), bidirectional=bool(rng.random() < 0.3),
        bias=bool(rng.random() < 0.7), ragged=bool(rng.random() < 0.7), cut=bool(rng.random() < 0.5),
        stateful=bool(rng.random() < 0.8), recurrent_dropout=0.3 * int(rng.integers(0, 2)),
        seed=int(rng.integers(2**31)),
    )  # fmt: skip


@pytest.mark.parametrize(
    "kind, dtype",
    [*((kind, "float32") for kind in [*CELLS, "projected"]), ("GRU", "float64"), ("projected", "float64")],
)
def test_random_cases_step_by_step(kind, dtype):
    rng = np.random.default_rng(None if LONG else sum(map(ord, kind + dtype)))
    sizes = (1, 33, 70) * 5 if LONG else rng.choice((1, 33, 70), 1)
    for H in map(int, sizes):
        check(drawn(kind, dtype, H, rng), Emulated(), family="steps", gaps=int(rng.integers(0, 3)))


@pytest.mark.parametrize("kind", ["LSTM", "projected"])
def test_sequences_that_are_all_alike_step_by_step(kind):
    """Whose rows stand a stride apart, the last steps first in the other direction."""
    case = Case(kind=kind, dtype="float32", H=18, P=5, T=4, B=3, I=2, bidirectional=True, stateful=True, seed=8)
    check(case, Emulated(), family="steps", gaps=1)
    case.lengths = np.full(3, 3)
    check(case, Emulated(), family="steps")


@pytest.mark.parametrize(
    "kind, dtype", [*((kind, "float32") for kind in CELLS), ("GRU", "float64"), ("LSTM", "float64")]
)
def test_random_cases_spread_over_multiprocessors(kind, dtype):
    rng = np.random.default_rng(None if LONG else sum(map(ord, kind + dtype)))
    for n in range(10 if LONG else 1):
        H, processors = int(rng.integers(1, 80)), int(rng.integers(4, 12))
        cc, schedule = ((8, 0), (9, 0))[(n + (kind == "relu")) % 2], int(rng.integers(1000)) if H < 20 else None
        machine = Emulated(cc, schedule, processors)
        check(drawn(kind, dtype, H, rng), machine, family="spread", gaps=int(rng.integers(0, 3)))


@pytest.mark.parametrize("kind, H, processors", [("GRU", 130, 17), ("LSTM", 256, 64)])
def test_more_than_one_block_can_hold(kind, H, processors):
    case = Case(kind=kind, dtype="float32", H=H, T=3, B=3, I=2, ragged=True, cut=True, stateful=True, seed=5)
    machine = check(case, Emulated(processors=processors))
    assert {"cooperative", "cooperative_back"} <= {kernel.key[0] for kernel, _ in machine.runs}


@pytest.mark.parametrize("seed", range(20 if LONG else 1))
def test_blocks_and_warps_in_any_order(seed):
    case = Case(kind="LSTM", dtype="float32", H=9, T=4, B=3, I=2, ragged=True, cut=True, bidirectional=True, seed=seed)
    check(case, Emulated(schedule=seed, processors=3), family="spread")


@pytest.mark.parametrize("kind, dtype", [("LSTM", "float32"), ("GRU", "float64")])
def test_recurrent_dropout_in_one_block(kind, dtype):
    case = Case(
        kind=kind, dtype=dtype, H=19, T=4, B=5, I=2, ragged=True, cut=True, stateful=True, bidirectional=True, seed=7,
        recurrent_dropout=0.4,
    )  # fmt: skip
    check(case, Emulated(), family="blocks")


def test_weights_that_find_no_room_in_registers():
    case = Case(kind="LSTM", dtype="float64", H=70, T=3, B=5, I=2, cut=True, stateful=True, seed=5)
    plan = SpreadPlan.of(LSTM, np.dtype("float64"), 70, 3, (8, 0))
    assert plan.forward.rest > 0
    check(case, Emulated((8, 0), processors=3), family="spread")


def test_a_layer_gets_what_it_fits():
    def family(cell, H, processors, dtype="float32", cc=(9, 0)):
        K = 2 if cell is LSTMProjected else H
        rows = len(cell.gates) * H
        shapes = {"weight_ih": (rows, 1), "weight_hh": (rows, K), "weight_hr": (K, H)}
        machine = Emulated(cc, processors=processors)
        return type(Direction(machine, cell, shapes, np.dtype(dtype)).family)

    for processors, cc in ((132, (9, 0)), (108, (8, 0))):
        for cell in (GRU, LSTM):
            assert family(cell, 128, processors, cc=cc) is Blocks
            assert family(cell, 129, processors, cc=cc) is Spread
        assert family(LSTM, 1024, processors, cc=cc) is Spread
        assert family(GRU, 1025, processors, cc=cc) is Steps
    assert family(LSTM, 1024, 132, "float64") is Spread
    assert family(LSTM, 1024, 108, "float64", (8, 0)) is Steps
    assert family(LSTM, 1024, 60, cc=(8, 0)) is Steps
    assert family(LSTM, 200, 4) is Steps
    assert family(LSTMProjected, 8, 132) is Steps
    shapes = {"weight_ih": (800, 1), "weight_hh": (800, 200)}
    with pytest.raises(ValueError, match="4 multiprocessors can't hold the weights of H = 200"):
        Direction(Emulated(processors=4), LSTM, shapes, np.dtype("float32"), family="spread")


@pytest.mark.parametrize(
    "kind, dtype, family",
    [
        ("LSTM", "float32", "spread"),
        *[("GRU", "float64", "spread")] * LONG,
        ("projected", "float32", "steps"),
    ],
)
def test_bits_of_a_sequence_dont_depend_on_batch_or_blocks(kind, dtype, family):
    # More than one tile of large products; and in the other batch, a smaller one.
    T, B, H = (3, 5, 41) if family == "spread" else (2, 18, 17)
    case = Case(
        kind=kind, dtype=dtype, H=H, P=4, T=T, B=B, I=3, ragged=True, cut=True, stateful=True, seed=4,
        recurrent_dropout=0.3 * (kind == "GRU"),
    )  # fmt: skip
    cell = LSTMProjected if case.P else CELLS[kind]

    def run(case, **options):
        return run_case(Emulated(processors=options.pop("processors", 3)), cell, case, family=family, **options)

    all_of_them = run(case)
    others = [run(case, processors=11, rows=1)] + [run(case, processors=5, rows=2)] * LONG if family == "spread" else []
    for other in others:
        for a, b in zip(all_of_them, other, strict=True):
            for one, two in zip(a.values(), b.values(), strict=True) if isinstance(a, dict) else [(a, b)]:
                np.testing.assert_array_equal(one, two)
    if case.recurrent_dropout:  # whose masks depend on the place in the batch
        for a, b in zip(all_of_them[:3], run(case, keep=False)[:3], strict=True):
            np.testing.assert_array_equal(a, b)
        return
    few, chosen = Case(kind=kind, dtype=dtype, H=H, P=4, T=T, B=2, I=3, seed=4), [3, 1]
    few.lengths, few.resets = case.lengths[chosen], case.resets[:, chosen]
    for name in ("x", "dy", "h", "c", "dh", "dc"):
        setattr(few, name, np.ascontiguousarray(getattr(case, name)[:, chosen]))
    for a, b in zip(all_of_them[:6], run(few)[:6], strict=True):
        np.testing.assert_array_equal(a[:, chosen], b)


def test_nan_stays_in_its_sequence():
    case = Case(kind="LSTM", dtype="float32", H=7, T=4, B=4, I=2, seed=1)
    for family in ("spread", "steps"):
        y = run_case(Emulated(), LSTM, case, keep=False, family=family)[0]
        case.x[1, 2, 0] = np.nan
        bad = run_case(Emulated(), LSTM, case, keep=False, family=family)[0]
        case.x[1, 2, 0] = 0.5
        assert np.isnan(bad[1:, 2]).all()
        kept = np.delete(np.arange(4), 2)
        np.testing.assert_array_equal(bad[:, kept], y[:, kept])


@pytest.mark.parametrize("T, B", [(0, 3), (3, 0), (0, 0)])
@pytest.mark.parametrize("family", ["spread", "steps"])
def test_nothing_to_do(family, T, B):
    case = Case(kind="LSTM", dtype="float64", H=3, T=T, B=B, I=2, stateful=True, recurrent_dropout=0.5, seed=1)
    check(case, Emulated(), family=family)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_mutants_of_cooperative_kernels_are_caught(kind):
    """Barriers and orders taken away, stores moved: each is a fault, or gives other numbers."""
    case = Case(
        kind=kind, dtype="float32", H=6, T=4, B=6, I=2, ragged=True, cut=True, stateful=True, seed=10,
        recurrent_dropout=0.5 * (kind == "GRU"),
    )  # fmt: skip
    assert sorted(case.lengths) == [1, 2, 3, 4, 4, 4]  # more than a tile, and less
    machine = check(case, Emulated(processors=2), family="spread")
    for launch in machine.launches:
        if launch[0].cooperative:
            left = caught_in(launch)
            assert not left, launch[0].key[0] + "\n" + "\n".join(map(str, left))


def test_the_order_of_memory_is_what_the_kernels_say():
    """A block counts itself by a release, waits by acquires, and reads what others write where it can be seen."""
    plan = SpreadPlan.of(LSTM, np.dtype("float32"), 256, 64, (9, 0))
    for kernel in (kernels.cooperative_kernel(plan, True), kernels.cooperative_back_kernel(plan)):
        text = ptx_of(kernel, (9, 0))
        assert text.count("red.release.gpu.global.add.u64") == 1
        assert text.count("ld.acquire.gpu.global.u64") >= 1
        assert text.count("ld.relaxed.gpu.global.f32") == (8 if kernel.key[0] == "cooperative" else 32)


@pytest.mark.parametrize("kind", ["GRU", "projected"])
def test_mutants_of_step_kernels_are_caught(kind):
    case = Case(
        kind=kind, dtype="float32", H=18, P=17, T=3, B=6, I=2, ragged=True, cut=True, stateful=True, seed=2,
        recurrent_dropout=0.5,
    )  # fmt: skip
    machine, seen = check(case, Emulated(), family="steps"), set()
    for launch in machine.launches:
        name, key = launch[0].key[0], launch[0].key
        # Products of a step: of few rows, and deep enough for more than one turn of the loop.
        few = name == "product" and key[-1] == str(ACROSS) and launch[2][-4] > DEPTH
        if key not in seen and (few or not name.startswith(("product", "sum"))):
            seen.add(key)
            left = caught_in(launch)
            assert not left, name + "\n" + "\n".join(map(str, left))
    assert {key[0] for key in seen} == {"offsets", "product", "step", "step_back", "feed", "add_masked", "finish"} | (
        {"take_gradients"} if case.P else set()
    )
