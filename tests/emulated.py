"""A machine for nbrnn's CUDA kernels that is emulated, so that they run where there is no device."""

import contextlib
import ctypes
import functools

import numpy as np

from nbrnn._cuda.direction import Direction, Sequences
from nbrnn._cuda.schedule import Schedule
from tests.ptx import Input, Output, launch, parse
from tests.ptx import compile as nvvm


@functools.cache
def ptx_of(kernel, cc, lto=False):
    """PTX of a kernel (`nbrnn._cuda.kernels.Kernel`)."""
    return nvvm.compile_ptx(kernel.make(), kernel.signature(), cc, lto=lto, launch_bounds=kernel.bounds)


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
    """

    def __init__(self, cc=(9, 0), schedule=None, processors=4):
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

    def launch(self, kernel, grid, arguments):
        assert not kernel.cooperative or np.prod(grid) <= self.resident(kernel)
        before = tuple(np.copy(a) if isinstance(a, np.ndarray) else a for a in arguments)
        run = self.execute(parsed(kernel, self.cc), kernel, grid, arguments)
        after = tuple(np.copy(a) if isinstance(a, np.ndarray) else a for a in arguments)
        self.runs.append((kernel, run))
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
        return wide, B * wide.shape[2], wide.shape[2]

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
        direction = Direction(machine, cell, weights, rows, chunk, family)
        schedule = Schedule.of(T, B, case.lengths, case.resets, bool(d))
        state = machine.put(case.h[d]), machine.put(case.c[d] if extras else np.zeros(0, case.dtype))
        own_y = Sequences(y.reshape(-1)[d * K :], y_time, y_batch)
        after_h, after_c, tape = direction.forward(
            schedule, Sequences(x.reshape(-1), x_time, x_batch), own_y, *state, keep, masks_of(case, d)
        )
        h.append(after_h.reshape(B, K))
        c.append(after_c.reshape(B, extras * H))
        if not keep:
            continue
        own_dy = Sequences(dy.reshape(-1)[d * K :], dy_time, dy_batch)
        dstate = machine.put(case.dh[d]), machine.put(case.dc[d] if extras else np.zeros(0, case.dtype))
        before_h, before_c, found = direction.backward(
            tape, own_dy, *dstate, Sequences(dx.reshape(-1), dx_time, dx_batch), d > 0
        )
        dh.append(before_h.reshape(B, K))
        dc.append(before_c.reshape(B, extras * H))
        gradients |= {n + suffix: a for n, a in found.items() if n + suffix in case.layer.params}
    return y[:, :, : D * K], np.array(h), np.array(c), dx[:, :, :I], np.array(dh), np.array(dc), gradients
