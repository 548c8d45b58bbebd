"""cuBLAS in place of our products: a made-up one, which computes by NumPy what NVIDIA's documentation says."""

import inspect
import itertools
import re
import sys

import numpy as np
import pytest

import nbrnn
from nbrnn._cells import GRU, LSTM, LSTMProjected
from nbrnn._cuda import blas, device, products
from nbrnn._cuda.array import DeviceArray
from nbrnn._cuda.blas import Blas
from nbrnn._cuda.products import Matrix, Products
from nbrnn._cuda.schedule import Schedule
from nbrnn.cli import info, main
from tests import fake_cublas
from tests.cases import Case
from tests.ptx import compile as nvvm

if not nvvm.has_numba_cuda():
    pytest.skip("numba-cuda is not installed", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore")

from nbrnn._cuda import current  # noqa: E402
from tests.emulated import Emulated, run_case  # noqa: E402
from tests.fake_cuda import installed  # noqa: E402
from tests.test_cuda_kernels import CELLS, WITHIN, caught_in, check, compare  # noqa: E402

f4, f8 = np.dtype("float32"), np.dtype("float64")
PACKAGES = {"nvmath": fake_cublas.nvmath, "cupy": fake_cublas.cupy}
LIBRARIES = {"nvmath": blas.Nvmath, "cupy": blas.CuPy}


@pytest.fixture
def none(monkeypatch):
    """No package has cuBLAS."""
    for name in [*sys.modules, "nvmath", "cupy"]:
        if name.split(".")[0] in ("nvmath", "cupy", "cupy_backends"):
            monkeypatch.setitem(sys.modules, name, None)
    return monkeypatch


def install(monkeypatch, package, put=None):
    """A made-up package, and what it keeps of itself."""
    state = fake_cublas.State(put)
    for name, module in PACKAGES[package](state).items():
        monkeypatch.setitem(sys.modules, name, module)
    return state


@pytest.fixture
def everything(monkeypatch):
    """All products are deep enough for cuBLAS."""
    monkeypatch.setattr(products, "DEEP", 1)


def emulated(**options):
    """A machine with cuBLAS, and that."""
    library = fake_cublas.Library()
    return Emulated(blas=Blas(library), **options), library


def names(machine):
    return [kernel.key[0] for kernel, *_ in machine.launches]


# One product


@pytest.mark.parametrize("package, dtype", list(itertools.product(PACKAGES, (f4, f8))))
def test_products_of_what_stands_row_by_row(none, package, dtype):
    """Rows of A are 5 numbers apart, of B 4, of C 6; nobody looks at what stands between them."""
    state, no = install(none, package), np.nan
    multiply = Blas(LIBRARIES[package]())
    a = np.array([[1, 2, 3, no, no], [4, 5, 6, no, no]], dtype)
    a_turned = np.array([[1, 4, no, no, no], [2, 5, no, no, no], [3, 6, no, no, no]], dtype)
    b = np.array([[1, 0, no, no], [2, 1, no, no], [0, 3, no, no]], dtype)
    b_turned = np.array([[1, 2, 0, no], [0, 1, 3, no]], dtype)
    old = np.array([[100, 200], [300, 400]])
    wanted = np.array([[5, 11], [14, 23]])  # 1 1 + 2 2 + 3 0, 1 0 + 2 1 + 3 3; 4 1 + 5 2 + 6 0, 4 0 + 5 1 + 6 3
    for trans_a, trans_b, add in itertools.product((False, True), (False, True), (False, True)):
        c = np.full((2, 6), no, dtype)
        if add:
            c[:, :2] = old
        left, right = a_turned if trans_a else a, b_turned if trans_b else b
        at = left.ctypes.data, 5, right.ctypes.data, 4, c.ctypes.data, 6
        multiply.gemm(dtype, trans_a, trans_b, 2, 2, 3, *at, add, 0x50)
        np.testing.assert_array_equal(c[:, :2], wanted + old if add else wanted)
        assert np.isnan(c[:, 2:]).all()
        letter, stream, (transa, transb, m, n, k, alpha, *places) = state.calls[-1]
        assert (letter, stream) == ("s" if dtype == f4 else "d", 0x50)
        assert (transa, transb, m, n, k) == (int(trans_b), int(trans_a), 2, 2, 3)
        beta = places.pop(4)
        assert places == [right.ctypes.data, 4, left.ctypes.data, 5, c.ctypes.data, 6]
        assert (alpha == beta) == add


def test_rows_and_columns_are_not_mixed_up():
    library = fake_cublas.Library()
    a, b, c = np.ones((2, 4), f4), np.ones((4, 3), f4), np.empty((2, 3), f4)
    Blas(library).gemm(f4, False, False, 2, 3, 4, a.ctypes.data, 4, b.ctypes.data, 3, c.ctypes.data, 3, False, 0)
    np.testing.assert_array_equal(c, np.full((2, 3), 4))
    assert library.calls[0][2][2:5] == (3, 2, 4)


def test_the_default_stream_has_a_name_of_its_own_for_cupy(none):
    state = install(none, "cupy")
    number = np.ones(1)
    Blas(blas.CuPy()).gemm(f8, False, False, 1, 1, 1, *[number.ctypes.data, 1] * 3, False, 0)
    assert state.calls[0][1] == 1


def test_what_cublas_refuses_is_said(none):
    class Refusing(fake_cublas.Library):
        def gemm(self, *arguments):
            raise KeyError("CUBLAS_STATUS_EXECUTION_FAILED")

    message = re.escape("cuBLAS 13.1.2 through nobody: KeyError: 'CUBLAS_STATUS_EXECUTION_FAILED' (sizes 2, 3, 4)")
    with pytest.raises(RuntimeError, match=message):
        Blas(Refusing()).gemm(f4, False, False, 2, 3, 4, 0, 4, 0, 3, 0, 3, False, 0)


# What is asked for, and what there is


@pytest.mark.parametrize("value, asked", [(None, False), ("", False), ("0", False), ("1", True)])
def test_who_asks_for_it(monkeypatch, value, asked):
    monkeypatch.delenv("NBRNN_CUBLAS", raising=False)
    if value is not None:
        monkeypatch.setenv("NBRNN_CUBLAS", value)
    assert blas.wanted() is asked


def test_other_values_are_refused(monkeypatch, capsys):
    monkeypatch.setenv("NBRNN_CUBLAS", "yes")
    with installed():
        with pytest.raises(ValueError, match="NBRNN_CUBLAS must be 0 or 1, got 'yes'"):
            device.device(0)
        assert main(["gpu-check", "--quick"]) == 1
        assert "NBRNN_CUBLAS must be 0 or 1" in info()
    assert "no GPU that can be used: NBRNN_CUBLAS must be 0 or 1, got 'yes'" in capsys.readouterr().out


def test_no_package(none, capsys):
    none.setenv("NBRNN_CUBLAS", "1")
    with installed():
        with pytest.raises(RuntimeError) as caught:
            device.device(0)
        assert main(["gpu-check", "--quick"]) == 1
    message = str(caught.value)
    for part in ("NBRNN_CUBLAS asks for cuBLAS", "nvmath-python: ", "CuPy: ", "pip install 'nbrnn[cublas]'", "unset"):
        assert part in message
    assert message in capsys.readouterr().out


def test_a_package_without_the_library(none):
    state, other = install(none, "nvmath"), install(none, "cupy")

    def missing():
        raise OSError("libcublas.so.13: cannot open shared object file")

    sys.modules["nvmath.bindings.cublas"].create = missing
    assert Blas.find().about == "cuBLAS 13.1.2 through CuPy"
    assert not state.modes
    assert list(other.modes.values()) == [{"pointers": fake_cublas.HOST, "math": fake_cublas.DEFAULT_MATH}]
    sys.modules["cupy_backends.cuda.libs.cublas"].create = missing
    with pytest.raises(RuntimeError, match=r"CuPy: libcublas\.so\.13: cannot open shared object file"):
        Blas.find()


def test_nothing_is_loaded_where_nobody_asks(monkeypatch):
    monkeypatch.delenv("NBRNN_CUBLAS", raising=False)
    state = install(monkeypatch, "nvmath")
    with installed():
        on = device.device(0)
        assert on.blas is None
        assert not on.has_gemm
        number = on.put(np.ones(1))
        with pytest.raises(RuntimeError, match="nobody asked for cuBLAS"):
            on.gemm(number, number, number, (1, 1, 1), (1, 1, 1), False, False, False)
        del number
        assert "products: nbrnn's own kernels (cuBLAS: NBRNN_CUBLAS=1)" in info()
    assert not state.modes


@pytest.mark.parametrize("package, called", [("nvmath", "nvmath-python"), ("cupy", "CuPy")])
def test_the_commands_say_which(none, capsys, package, called):
    none.setenv("NBRNN_CUBLAS", "1")
    install(none, package)
    with installed():
        assert f"products: cuBLAS 13.1.2 through {called}" in info()
        assert main(["gpu-check", "--quick", "--cell", "RNN", "--dtype", "float64"]) == 0
    assert f"\nproducts: cuBLAS 13.1.2 through {called}\n" in capsys.readouterr().out


# What calls it


@pytest.mark.parametrize(
    "kind, dtype",
    [*((kind, "float32") for kind in [*CELLS, "projected"]), ("LSTM", "float64"), ("projected", "float64")],
)
def test_all_that_a_step_by_step_layer_computes(everything, kind, dtype):
    """Ragged, with cuts, in both directions: rows are gathered and scattered; and all alike: they are a stride apart."""
    common = dict(kind=kind, dtype=dtype, H=19, P=7, T=4, B=5, I=3, bidirectional=True, stateful=True)
    for case in (
        Case(**common, ragged=True, cut=True, seed=4, recurrent_dropout=0.3 * (kind == "GRU")),
        Case(**common, seed=5),
    ):
        machine, library = emulated()
        check(case, machine, family="steps", gaps=1 + 2 * (kind == "GRU"))
        assert {name for _, name, _ in library.calls} == {dtype}
        assert "product" not in names(machine)
        # At each step there and back: one, or with a projection two; then for gx, dx, dW_ih, dW_hh, and dW_hr.
        steps = [len(Schedule.of(case.T, case.B, case.lengths, None, bool(d)).each()) for d in range(2)]
        assert len(library.calls) == sum((4 * n + 5) if case.P else (2 * n + 4) for n in steps)


@pytest.mark.parametrize("family", ["blocks", "spread"])
def test_large_products_of_other_families(everything, family):
    case = Case(kind="LSTM", dtype="float32", H=9, T=4, B=3, I=3, ragged=True, cut=True, stateful=True, seed=6)
    machine, library = emulated()
    check(case, machine, family=family)
    assert "product" not in names(machine)
    assert len(library.calls) == 4


def test_what_stands_a_stride_apart_is_not_moved(everything):
    case = Case(kind="LSTM", dtype="float32", H=6, T=5, B=3, I=4, seed=1)
    machine, library = emulated()
    run_case(machine, LSTM, case, family="steps")
    # The bias; the gradients of both weights to their places, and the h of all steps for that of W_hh.
    assert names(machine).count("move_rows") == 4
    # B rows at a time; of W_hh and of the state nothing is copied.
    assert {arguments[3] for _, _, arguments in library.calls[1:6]} == {3}
    # The same, last steps first: x is gathered, for gx and dW_ih, and dx scattered.
    machine, library = emulated()
    case = Case(kind="LSTM", dtype="float32", H=6, T=5, B=3, I=4, seed=1, bidirectional=True)
    run_case(machine, LSTM, case, family="steps")
    assert names(machine).count("move_rows") == 4 + 4 + 3


@pytest.mark.parametrize(
    "lengths, resets, alike",
    [
        (None, None, 4), ([3, 3], None, 3), ([0, 0], None, 0), ([3, 2], None, None),
        (None, np.zeros((4, 2), bool), None),
    ],
)  # fmt: skip
def test_which_sequences_are_alike(lengths, resets, alike):
    for reverse in (False, True):
        schedule = Schedule.of(4, 2, lengths, resets, reverse)
        assert schedule.alike == alike
        if alike:
            assert schedule.order.tolist() == [0, 1]
    assert Schedule.of(4, 0, None, None, False).alike is None


def test_shallow_products_stay_with_our_kernel():
    case = Case(kind="GRU", dtype="float32", H=70, T=3, B=3, I=5, stateful=True, seed=2)
    machine, library = emulated()
    check(case, machine, family="steps")
    # Inputs, and gradients of weights over 9 rows, are not deep: gx, dW_ih, dW_hh.
    assert names(machine).count("product") == 3
    depths = [arguments[4] for _, _, arguments in library.calls]
    assert depths == [70] * 3 + [210] * 3 + [210]


@pytest.mark.parametrize("add", [False, True])
def test_long_sums_are_made_in_parts(everything, add):
    machine, library = emulated()
    rng = np.random.default_rng(0)
    sums, given, old = rng.normal(size=(70, 5)), rng.normal(size=(70, 3)), rng.normal(size=(5, 3))
    out = machine.put(old)
    into = Matrix(out, 0, machine.put(np.arange(5)[::-1] * 3))
    multiply = Products(machine, f8, 2)
    multiply.gradient(Matrix(machine.put(sums), 5), Matrix(machine.put(given), 3), 70, into, (5, 3), add=add)
    assert [arguments[4] for _, _, arguments in library.calls] == [32, 32, 6]
    wanted = (sums.T @ given)[::-1] + add * old
    np.testing.assert_allclose(out.reshape(5, 3), wanted, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("trans_a, trans_b, add, bias", list(itertools.product((False, True), repeat=4)))
def test_rows_may_be_anywhere(everything, trans_a, trans_b, add, bias):
    """The same as our kernel: a first row, an index of each, a second array, rows of zeros, rows that nobody wants."""
    rng = np.random.default_rng(1)
    M, N, K = 4, 5, 3
    shape_a, shape_b = (K, M) if trans_a else (M, K), (N, K) if trans_b else (K, N)
    for a_index, b_index, c_index in itertools.product((False, True), repeat=3):
        found = []
        numbers = [rng.normal(size=200) for _ in range(5)]
        for machine in (Emulated(), emulated()[0]):
            a, b, c, second, biases = (machine.put(n) for n in numbers)
            orders = [[40, -2, -1, 7, 21, 90], [10, -3, 55, -1, 33], [9, 0, -1, 100, 30, 60]]
            at = [machine.put(np.array(order)) for order in orders]
            Products(machine, f8, 256).multiply(
                Matrix(a, 0, at[0], 1) if a_index else Matrix(a, 6, None, 1),
                Matrix(b, 0, at[1]) if b_index else Matrix(b, 8),
                Matrix(c, 0, at[2], 1) if c_index else Matrix(c, 7, None, 2),
                (M, N, K), trans_a, trans_b, (second, 11), biases[:N] if bias else None, add=add,
            )  # fmt: skip
            found.append(machine.get(c))
        assert shape_a[0] + 1 <= 6
        assert shape_b[0] <= 5
        np.testing.assert_allclose(found[1], found[0], rtol=1e-13, atol=1e-13)
        assert "product" not in names(machine)


def test_rows_that_overlap_are_copied(everything):
    """As of an array that is one row, repeated."""
    machine, library = emulated()
    a, b, c = machine.put(np.array([1.0, 2.0])), machine.put(np.array([[1.0], [1.0]])), machine.empty(3, f8)
    Products(machine, f8, 256).multiply(Matrix(a, 0), Matrix(b, 1), Matrix(c, 1), (3, 1, 2))
    np.testing.assert_array_equal(c, [3, 3, 3])
    assert names(machine) == ["move_rows"]


def test_mutants_of_what_moves_rows_are_caught(everything):
    case = Case(kind="GRU", dtype="float32", H=5, T=3, B=6, I=2, ragged=True, cut=True, stateful=True, seed=2)
    machine = check(case, emulated()[0], family="steps")
    for launch in [found for found in machine.launches if found[0].key[0] == "move_rows"][:4]:
        left = caught_in(launch)
        assert not left, "\n".join(map(str, left))


def test_linear(everything):
    machine, library = emulated()
    x = np.random.default_rng(0).normal(size=(4, 3, 6)).astype("f")
    dy = np.ones((4, 3, 2), np.float32)
    net = nbrnn.Linear(6, 2, rng=0)
    y, _, tape = net.forward(x)
    wanted = net.backward(tape, dy)
    with current.use(machine):
        there = nbrnn.Linear(6, 2, rng=0).to("cuda")
        found, _, tape = there.forward(DeviceArray.put(machine, x))
        grads = there.backward(tape, DeviceArray.put(machine, dy))
    compare(found.numpy(), y, WITHIN["float32"], "y")
    compare(grads.x.numpy(), wanted.x, WITHIN["float32"], "dx")
    for name, gradient in wanted.params.items():
        compare(grads.params[name].numpy(), gradient, WITHIN["float32"], name)
    assert len(library.calls) == 3
    assert "product" not in names(machine)


# On a device


def on_streams_of(fake):
    """Products are done in their turn on streams of a made-up GPU, on memory that has been written."""

    def put(stream, work, columns):
        def done():
            found = [(*fake.memory_at(address, size), size, written) for address, size, written in columns]
            for allocation, at, size, written in found:
                assert written or allocation.written[at : at + size].all(), "what a product reads has not been written"
            work()
            for allocation, at, size, written in found:
                allocation.written[at : at + size] |= written

        fake.on("gemm", stream, done)

    return put


@pytest.mark.parametrize("package, kind", [("nvmath", "GRU"), ("cupy", "projected")])
def test_on_a_device(none, everything, package, kind):
    """On the stream in use, in the device's context, waiting for nothing: numbers to the bit, and no one left behind."""
    case = Case(
        kind=kind, dtype="float32", H=9, P=4, T=3, B=4, I=3, ragged=True, cut=True, stateful=True, bidirectional=True,
        seed=3,
    )  # fmt: skip
    cell = LSTMProjected if case.P else GRU
    machine, library = emulated()
    *wanted, gradients = run_case(machine, cell, case, family="steps")
    none.setenv("NBRNN_CUBLAS", "1")
    with installed(deferred=True, strict=True) as fake:
        state = install(none, package, on_streams_of(fake))
        on = device.device(0)
        with on.on(fake.new_stream()):
            *found, others = run_case(on, cell, case, family="steps")
        assert {stream for _, stream in fake.log} == {max(fake.streams)}
        assert len(state.calls) == len(library.calls)
        assert fake.calls["cuStreamSynchronize"] == fake.calls["cuMemcpyDtoHAsync_v2"]
    for a, b in zip([*found, *others.values()], [*wanted, *gradients.values()], strict=True):
        np.testing.assert_array_equal(a, b)


def test_other_streams_are_waited_for(none):
    none.setenv("NBRNN_CUBLAS", "1")
    with installed(deferred=True) as fake:
        install(none, "nvmath", on_streams_of(fake))
        on, streams = device.device(0), [fake.new_stream() for _ in range(3)]
        with on.on(streams[0]):
            a, b = on.put(np.array([[1.0, 2.0], [3.0, 4.0]])), on.put(np.eye(2))
            c = on.empty(4, f8)
        with on.on(streams[1]):
            on.gemm(a, b, c, (2, 2, 2), (2, 2, 2), False, False, False)
        with on.on(streams[2]):
            on.copy(a, b)  # not before the product has read it
            np.testing.assert_array_equal(on.get(c), [1, 2, 3, 4])
        with pytest.raises(TypeError, match="of one dtype"):
            on.gemm(a, b, on.empty(4, f4), (2, 2, 2), (2, 2, 2), False, False, False)
        del a, b, c


# The packages themselves, where they are installed: they can be imported without a device

ARGUMENTS = (7, 0, 1, 2, 3, 4, 0, 0, 4, 0, 3, 0, 0, 3)


def test_functions_of_nvmath():
    try:
        from nvmath.bindings import cublas
    except ImportError as error:
        pytest.skip(str(error))
    for function, arguments in (
        (cublas.create, ()),
        (cublas.get_version, (7,)),
        (cublas.set_stream, (7, 0)),
        (cublas.set_math_mode, (7, 0)),
        (cublas.set_pointer_mode, (7, 0)),
        (cublas.sgemm, ARGUMENTS),
        (cublas.dgemm, ARGUMENTS),
    ):
        assert None not in inspect.signature(function).bind(*arguments).arguments.values()
    assert cublas.Math.DEFAULT_MATH == blas._DEFAULT_MATH
    assert cublas.PointerMode.HOST == blas._POINTERS_OF_HOST
    assert (cublas.Operation.N, cublas.Operation.T) == (blas._NOT_TRANSPOSED, blas._TRANSPOSED)
    state = fake_cublas.State()
    made_up = fake_cublas.nvmath(state)["nvmath.bindings.cublas"]
    for name in ("set_stream", "set_math_mode", "set_pointer_mode", "sgemm", "dgemm"):
        assert [*inspect.signature(getattr(made_up, name)).parameters] == [
            *inspect.signature(getattr(cublas, name)).parameters
        ], name


def test_functions_of_cupy():
    try:
        import cupy
        from cupy_backends.cuda.libs import cublas
    except ImportError as error:
        pytest.skip(str(error))
    gemm = "(intptr_t handle, int transa, int transb, int m, int n, int k, size_t alpha, size_t A, int lda, size_t B, int ldb, size_t beta, size_t C, int ldc)"
    wanted = {
        "create": "() -> intptr_t", "getVersion": "(intptr_t handle) -> int",
        "setMathMode": "(intptr_t handle, int mode)", "setPointerMode": "(intptr_t handle, int mode)",
        "sgemm": gemm, "dgemm": gemm,
    }  # fmt: skip
    for name, signature in wanted.items():
        assert getattr(cublas, name).__doc__.splitlines()[0] == name + signature
    assert next(iter(inspect.signature(cupy.cuda.ExternalStream).parameters)) == "ptr"
    assert cupy.cuda.ExternalStream(blas._LEGACY).ptr == 1
