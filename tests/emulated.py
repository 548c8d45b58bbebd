"""A machine for nbrnn's CUDA kernels that is emulated, so that they run where there is no device."""

import contextlib
import ctypes
import functools

import numpy as np

from nbrnn._cuda import compile as compiler
from nbrnn._cuda.direction import Direction, Sequences, State
from nbrnn._cuda.placed import Placed
from nbrnn._cuda.schedule import Schedule
from tests.ptx import Input, Module, Output, launch, parse
from tests.ptx import compile as nvvm
from tests.ptx.kept import KEPT


@functools.cache
def ptx_of(kernel, cc, lto=False):
    """PTX of a kernel (`nbrnn._cuda.kernels.Kernel`); what the package compiles, it keeps for all processes."""
    if not lto:
        return compiler.ptx_of(kernel, cc)
    return nvvm.compile_ptx(kernel.make(), kernel.signature(), cc, lto=True, launch_bounds=kernel.bounds)


@functools.cache
def parsed(kernel, cc):
    return parse(ptx_of(kernel, cc))


class Emulated:
    """See `nbrnn._cuda.machine.Machine`.

    Parameters
    ----------
    cc : tuple of int
        Compute capability.
    schedule : int or None
        Seed of an adversarial scheduler.
    processors : int
        Multiprocessors; each has room for one block.
    blas : nbrnn._cuda.blas.Blas, optional
        What multiplies memory of the host.
    """

    def __init__(self, cc=(9, 0), schedule=None, processors=4, blas=None):
        self.blas, self.has_gemm = blas, blas is not None
        self.cc, self.schedule, self.processors, self.runs, self.launches = cc, schedule, processors, [], []
        self.streams, self.waits, self.ordinal, self.stream = [], [], 0, 0

    def empty(self, size, dtype):
        return np.full(size, np.nan if np.dtype(dtype).kind == "f" else 111, dtype)

    def put(self, array):
        return np.array(array).reshape(-1)

    def get(self, array):
        return np.array(array)

    def zero(self, array):
        array[...] = 0

    def copy(self, into, source):
        assert into.size == source.size
        assert into.dtype == source.dtype
        into[...] = source

    def address(self, array):
        return array.__array_interface__["data"][0]

    def view(self, address, size, dtype, owner):
        if size == 0:
            return np.empty(0, dtype)
        room = (ctypes.c_byte * (size * dtype.itemsize)).from_address(address)
        room.owner = owner  # lives as long as any view of it
        return np.frombuffer(room, dtype)

    def resident(self, kernel):
        return self.processors

    @contextlib.contextmanager
    def on(self, stream):
        self.streams.append(stream)
        before, self.stream = self.stream, self.stream if stream is None else stream
        try:
            yield
        finally:
            self.stream = before

    def wait_for(self, stream):
        self.waits.append((self.stream, stream))

    def gemm(self, a, b, c, sizes, strides, trans_a, trans_b, add):
        (M, N, K), (lda, ldb, ldc) = sizes, strides
        for array, rows, columns, stride in (
            (a, *((K, M) if trans_a else (M, K)), lda),
            (b, *((N, K) if trans_b else (K, N)), ldb),
            (c, M, N, ldc),
        ):
            assert array.dtype == c.dtype
            assert stride >= columns
            assert (rows - 1) * stride + columns <= array.size
        places = (self.address(a), lda, self.address(b), ldb, self.address(c), ldc)
        self.blas.gemm(c.dtype, trans_a, trans_b, M, N, K, *places, add, self.stream)

    def launch(self, kernel, grid, arguments):
        assert not kernel.cooperative or np.prod(grid) <= self.resident(kernel)
        before = tuple(np.copy(a) if isinstance(a, np.ndarray) else a for a in arguments)
        run = self.execute(parsed(kernel, self.cc), kernel, grid, arguments)
        after = tuple(np.copy(a) if isinstance(a, np.ndarray) else a for a in arguments)
        self.runs.append((kernel, run.unwritten))
        self.launches.append((kernel, grid, before, after))

    def execute(self, module, kernel, grid, arguments):
        """Run PTX, that of a kernel or a changed one."""
        given = []
        for argument, value in zip(kernel.arguments, arguments, strict=True):
            if argument.way:
                assert value.dtype == argument.dtype, argument
                assert value.ndim == 1, argument
                value = {"in": Input, "out": Output, "inout": lambda a: a}[argument.way](value)
            given.append(value)
        return launch(
            module,
            grid,
            kernel.threads,
            given,
            abi="numba",
            schedule=self.schedule,
            seed=1,
            dynamic_shared=kernel.shared,
            kept=KEPT if isinstance(module, Module) else None,
        )


#: Key of the dropout of a case.
KEY = (1, 2)


def masks_of(case, d):
    """Recurrent dropout's masks of a direction, flat; None without."""
    if not case.recurrent_dropout:
        return None
    fed = case.reference()._fed
    return np.concatenate([fed(KEY, d, b, case.K) for b in range(case.B)] or [[]]).astype(case.dtype)


def run_case(machine, cell, case, rows=4, chunk=256, gaps=0, keep=True, family=None):
    """What kernels make of a `tests.cases.Case` of one layer: y, h, c, dx, dh, dc and gradients, all as arrays.

    With ``gaps``, so many numbers of NaN stand after each row of x, y, dy and dx.
    """
    D, T, B, I, H, K = case.D, case.T, case.B, case.I, case.H, case.K
    extras = cell.extras()

    def spaced(array):
        wide = np.full((T, B, array.shape[2] + gaps), np.nan, array.dtype)
        wide[:, :, : array.shape[2]] = array
        return machine.put(wide), B * wide.shape[2], wide.shape[2]

    def got(array, *shape):
        return machine.get(array).reshape(shape)

    past = np.zeros((T, B), bool)
    if case.lengths is not None:
        past = np.arange(T)[:, None] >= case.lengths
    # Nobody looks at what stands past a sequence's end.
    x, x_time, x_batch = spaced(np.where(past[:, :, None], np.nan, case.x).astype(case.dtype))
    dy, dy_time, dy_batch = spaced(np.where(past[:, :, None], np.nan, case.dy).astype(case.dtype))
    y, y_time, y_batch = spaced(np.full((T, B, D * K), np.nan, case.dtype))
    dx, dx_time, dx_batch = spaced(np.zeros((T, B, I), case.dtype))
    h, c, dh, dc, gradients = [], [], [], [], {}
    for d in range(D):
        suffix = "_l0" + ("_reverse" if d else "")
        weights = {n.removesuffix(suffix): a for n, a in case.layer.params.items() if n.endswith(suffix)}
        shapes = {n: a.shape for n, a in weights.items()}
        direction = Direction(machine, cell, shapes, np.dtype(case.dtype), rows, chunk, family)
        packed = {n: machine.put(a) for n, a in direction.pack({n: np.asarray(a) for n, a in weights.items()}).items()}
        schedule = Placed(machine, Schedule.of(T, B, case.lengths, case.resets, bool(d)))

        def state(h, c):
            return State(machine.put(h), machine.put(c if extras else np.zeros(0, case.dtype)))

        def fresh():
            return State(*(machine.empty(B * n, np.dtype(case.dtype)) for n in (K, extras * H)))

        masks = masks_of(case, d)
        masks = masks if masks is None else machine.put(masks)
        own_y, after = Sequences(y[d * K :], y_time, y_batch), fresh()
        own_x, before_state = Sequences(x, x_time, x_batch), state(case.h[d], case.c[d])
        tape = direction.forward(packed, schedule, own_x, own_y, before_state, after, keep, masks)
        h.append(got(after.h, B, K))
        c.append(got(after.c, B, extras * H))
        if not keep:
            continue
        own_dy, before = Sequences(dy[d * K :], dy_time, dy_batch), fresh()
        found = {n: machine.empty(a.size, a.dtype) for n, a in weights.items()}
        own_dx = Sequences(dx, dx_time, dx_batch)
        direction.backward(tape, own_dy, state(case.dh[d], case.dc[d]), own_dx, before, found, d > 0)
        dh.append(got(before.h, B, K))
        dc.append(got(before.c, B, extras * H))
        gradients |= {n + suffix: machine.get(a) for n, a in found.items()}
    y, dx = got(y, T, B, y_batch)[:, :, : D * K], got(dx, T, B, dx_batch)[:, :, :I]
    return y, np.array(h), np.array(c), dx, np.array(dh), np.array(dc), gradients
