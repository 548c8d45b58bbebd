"""A cuBLAS that is made up: its products on memory of the host, as its documentation says, by NumPy.

`Library` is one for `nbrnn._cuda.blas.Blas`; `nvmath` and `cupy` are modules for `sys.modules`, with the functions that the
packages of these names have.
"""

import contextlib
import ctypes
import types

import numpy as np

DTYPES = {"s": np.dtype("float32"), "d": np.dtype("float64")}
HOST, DEFAULT_MATH = 0, 0


def column_by_column(address, rows, columns, ld, dtype):
    """A matrix of the host's memory, whose columns begin ld numbers apart."""
    assert ld >= max(1, rows), "a leading dimension is less than a column"
    room = (ctypes.c_byte * (dtype.itemsize * ((columns - 1) * ld + rows))).from_address(address)
    flat = np.frombuffer(room, dtype)
    return np.lib.stride_tricks.as_strided(flat, (rows, columns), (dtype.itemsize, ld * dtype.itemsize))


def gemm(dtype, transa, transb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):
    """cublasSgemm, or cublasDgemm: C = alpha op(A) op(B) + beta C; what is in C doesn't matter if beta is 0."""
    assert transa in (0, 1)
    assert transb in (0, 1)
    assert m > 0
    assert n > 0
    assert k > 0
    alpha, beta = (np.frombuffer((ctypes.c_byte * dtype.itemsize).from_address(at), dtype)[0] for at in (alpha, beta))
    left = column_by_column(a, *((k, m) if transa else (m, k)), lda, dtype)
    right = column_by_column(b, *((n, k) if transb else (k, n)), ldb, dtype)
    out = column_by_column(c, m, n, ldc, dtype)
    product = alpha * ((left.T if transa else left) @ (right.T if transb else right))
    out[...] = product + beta * out if beta else product


def columns_of(dtype, transa, transb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):
    """(address, bytes, whether it is written) of each column that a product reads or writes."""
    one = np.frombuffer((ctypes.c_byte * dtype.itemsize).from_address(beta), dtype)[0]
    for address, rows, columns, ld, written in (
        (a, *((k, m) if transa else (m, k)), lda, False),
        (b, *((n, k) if transb else (k, n)), ldb, False),
        *[(c, m, n, ldc, False)] * bool(one),
        (c, m, n, ldc, True),
    ):
        for column in range(columns):
            yield address + column * ld * dtype.itemsize, rows * dtype.itemsize, written


class Library:
    """See `nbrnn._cuda.blas.Library`: what was asked of it, as (stream, dtype, arguments)."""

    package = "nobody"

    def __init__(self):
        self.calls = []

    def create(self):
        return 7

    def version(self, handle):
        return 130102

    def gemm(self, stream, dtype, handle, *arguments):
        assert handle == 7
        self.calls.append((stream, dtype, arguments))
        gemm(np.dtype(dtype), *arguments)


class State:
    """What both modules keep of themselves.

    Parameters
    ----------
    put : callable
        Gets a stream, what is to be done on it, and the columns (`columns_of`) that it uses; None: done at once.
    """

    def __init__(self, put=None):
        self.put = put or (lambda stream, work, columns: work())
        self.modes, self.streams, self.calls = {}, {}, []

    def create(self):
        handle = 0x70 + len(self.modes)
        self.modes[handle], self.streams[handle] = {}, 0
        return handle

    def set_mode(self, name, handle, mode):
        self.modes[handle][name] = mode

    def set_stream(self, handle, stream):
        assert handle in self.modes
        self.streams[handle] = stream

    def gemm(self, letter, handle, arguments):
        assert self.modes[handle] == {"math": DEFAULT_MATH, "pointers": HOST}
        stream = self.streams[handle]
        self.calls.append((letter, stream, arguments))
        dtype = DTYPES[letter]
        self.put(stream, lambda: gemm(dtype, *arguments), list(columns_of(dtype, *arguments)))


def nvmath(state):
    """`nvmath` and its modules, by name."""
    cublas = types.ModuleType("nvmath.bindings.cublas")
    cublas.create = state.create
    cublas.get_version = lambda handle: 130102

    def set_stream(handle, stream_id):
        state.set_stream(handle, stream_id)

    def set_math_mode(handle, mode):
        state.set_mode("math", handle, mode)

    def set_pointer_mode(handle, mode):
        state.set_mode("pointers", handle, mode)

    def sgemm(handle, transa, transb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):
        state.gemm("s", handle, (transa, transb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc))

    def dgemm(handle, transa, transb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):
        state.gemm("d", handle, (transa, transb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc))

    for function in (set_stream, set_math_mode, set_pointer_mode, sgemm, dgemm):
        setattr(cublas, function.__name__, function)
    return _modules(cublas)


def cupy(state):
    """`cupy`, `cupy_backends` and their modules, by name: products go to the current stream of CuPy."""
    cublas, module = types.ModuleType("cupy_backends.cuda.libs.cublas"), types.ModuleType("cupy")
    current = [0]
    cublas.create = state.create
    cublas.getVersion = lambda handle: 130102

    @contextlib.contextmanager
    def external_stream(ptr):
        current.append(ptr)
        try:
            yield
        finally:
            current.pop()

    def set_math_mode(handle, mode):
        state.set_mode("math", handle, mode)

    def set_pointer_mode(handle, mode):
        state.set_mode("pointers", handle, mode)

    def sgemm(handle, transa, transb, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc):
        state.set_stream(handle, current[-1])
        state.gemm("s", handle, (transa, transb, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc))

    def dgemm(handle, transa, transb, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc):
        state.set_stream(handle, current[-1])
        state.gemm("d", handle, (transa, transb, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc))

    cublas.setStream, cublas.setMathMode, cublas.setPointerMode = state.set_stream, set_math_mode, set_pointer_mode
    cublas.sgemm, cublas.dgemm = sgemm, dgemm
    module.cuda = types.SimpleNamespace(ExternalStream=external_stream)
    return {"cupy": module, **_modules(cublas)}


def _modules(inner):
    """A module and those that it is in, by name."""
    found = {inner.__name__: inner}
    while "." in inner.__name__:
        name, _, last = inner.__name__.rpartition(".")
        outer = types.ModuleType(name)
        setattr(outer, last, inner)
        found[name] = inner = outer
    return found
