"""Each kernel with what a launcher must know of it: types of arguments, which of them it writes, how many threads.

Kernels are made by functions, for one cell, dtype and H each.  Numba's own cache on disk can't tell such kernels apart;
what is compiled can be kept under ``Kernel.key``, with the digest of the package's sources and the device.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._cells import Cell
from .._cells.trace import describe
from .._kernel import cached
from . import backward, cooperative, forward, gather, offsets, philox, product, stepwise
from .plan import Plan
from .spread import SpreadPlan

_SCHEDULE = "starts:in:i4 lengths:in:i4 order:in:i4 cuts:in:u1"
_FORWARD = (
    f"weights:in gx:in hidden_bias:in {_SCHEDULE} masks:in h:in c:in h_after:out c_after:out y:inout saved:out "
    "steps:i4 batch:i4 reverse:b1 y_time:i8 y_batch:i8"
)
_BACKWARD = (
    f"weights:in dy:in {_SCHEDULE} masks:in dh:in dc:in dh_before:out dc_before:out saved:inout "
    "steps:i4 batch:i4 reverse:b1 dy_time:i8 dy_batch:i8"
)
_PRODUCT = (
    "a:in a_index:in:i8 a_stride:i8 a_first:i4 b:in b_index:in:i8 b_stride:i8 second:in second_stride:i8 "
    "bias:in c:inout c_index:in:i8 c_stride:i8 c_first:i4 M:i4 N:i4 K:i4 chunk:i4 part:i8 add:b1"
)
_MOVE_ROWS = (
    "a:in a_index:in:i8 a_stride:i8 a_first:i4 second:in second_stride:i8 "
    "c:inout c_index:in:i8 c_stride:i8 c_first:i4 N:i4 add:b1"
)
_SUM_ROWS = "a:in stride:i8 rows:i4 columns:i4 chunk:i4 sums:out"
_SUM_PARTS = "parts:in stride:i8 count:i4 M:i4 N:i4 c:inout index:in:i8 add:b1"
#: What runs one step; each launch writes its own rows of arrays that are there for all steps.
_STEP = (
    "gx:in hidden_bias:in sums:in y:inout before:in:i8 now:in:i8 h:in cuts:in:u1 order:in:i4 c:inout m:inout "
    "saved:inout H:i4 first:i4 count:i4"
)
_STEP_BACK = "dy:in dy_index:in:i8 dm:in cuts:in:u1 order:in:i4 dh:inout dc:inout saved:inout H:i4 first:i4 count:i4"
_COOPERATIVE = (
    "weights:in gx:in hidden_bias:in starts:in:i4 order:in:i4 cuts:in:u1 y:inout before:in:i8 now:in:i8 h:in masks:in "
    "c:inout saved:out counter:inout:i8 steps:i4"
)
_COOPERATIVE_BACK = (
    "weights:in dy:in dy_index:in:i8 starts:in:i4 order:in:i4 cuts:in:u1 masks:in dh:inout dc:inout "
    "saved:inout counter:inout:i8 steps:i4"
)
_OTHER_STEPS = {
    "take_gradients": "dy:in dy_index:in:i8 order:in:i4 dh:inout out:inout out_stride:i8 K:i4 first:i4 count:i4",
    "feed": "y:in before:in:i8 h:in masks:in places:in:i8 out:inout K:i4 first:i4 count:i4",
    "add_masked": "through:in masks:in cuts:in:u1 order:in:i4 dh:inout K:i4 first:i4 count:i4",
    "finish": "y:inout h:in lengths:in:i4 order:in:i4 h_after:out K:i4 steps:i4 batch:i4 reverse:b1 "
    "y_time:i8 y_batch:i8",
}
_OFFSETS = (
    "starts:in:i4 lengths:in:i4 order:in:i4 cuts:in:u1 "
    "steps:i4 batch:i4 reverse:b1 time:i8 place:i8 before:b1 cut:b1 out:inout:i8"
)
_GATHER = "source:in first:in:i4 second:in:i4 begin:i4 count:i4 out:out"
_DROP = (
    "x:in y:inout key0:u8 key1:u8 threshold:u8 place:u8 t0:i8 "
    "steps:i8 size:i8 directions:i8 n:i8 x_time:i8 x_batch:i8 y_time:i8 y_batch:i8"
)


@dataclass(frozen=True)
class Argument:
    """A flat array that is read ("in"), written ("out") or both ("inout"), or a number ("")."""

    name: str
    way: str
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class Kernel:
    """What is launched.

    Attributes
    ----------
    key : tuple of str
        Tells it from all others that the same sources can make.
    make : callable
        Gives the function that numba-cuda compiles.
    arguments : tuple of Argument
    threads : int
        Of a block, always: the compiler deals out registers accordingly.
    cooperative : bool
        Whether its blocks wait for each other, so that all must be there at the same time.
    shared : int
        Bytes of shared memory of a block whose size the kernel leaves open.
    """

    key: tuple[str, ...]
    make: Callable[[], Callable[..., None]]
    arguments: tuple[Argument, ...]
    threads: int
    cooperative: bool = False
    shared: int = 0

    @property
    def bounds(self) -> tuple[int, int]:
        """Launch bounds: without the second, one block on a multiprocessor, ptxas spills to make room for more."""
        return self.threads, 1

    def signature(self) -> tuple[Any, ...]:
        """The types of the arguments, as Numba's."""
        from numba import from_dtype

        kinds = [from_dtype(a.dtype) for a in self.arguments]
        return tuple(k[::1] if a.way else k for a, k in zip(self.arguments, kinds, strict=True))


def arguments_of(text: str, dtype: np.dtype[Any]) -> tuple[Argument, ...]:
    """From words such as ``x:in`` (an array of that dtype), ``index:in:i8`` (of another), ``size:i4`` (a number)."""

    def one(word: str) -> Argument:
        name, way, *kind = word.split(":")
        if way in ("in", "out", "inout"):
            return Argument(name, way, np.dtype(kind[0]) if kind else dtype)
        return Argument(name, "", np.dtype(way))

    return tuple(map(one, text.split()))


@functools.cache
def forward_kernel(plan: Plan, keep: bool, masked: bool = False) -> Kernel:
    """See ``forward.forward``."""
    made = functools.partial(forward.forward, plan, keep, masked)
    key = _key("forward", plan, str(keep), str(masked))
    return Kernel(key, made, arguments_of(_FORWARD, plan.dtype), plan.forward.threads)


@functools.cache
def backward_kernel(plan: Plan, masked: bool = False) -> Kernel:
    """See ``backward.backward``."""
    made = functools.partial(backward.backward, plan, masked)
    return Kernel(_key("backward", plan, str(masked)), made, arguments_of(_BACKWARD, plan.dtype), plan.backward.threads)


@functools.cache
def cooperative_kernel(plan: SpreadPlan, keep: bool, masked: bool = False) -> Kernel:
    """See ``cooperative.forward``."""
    made, split = functools.partial(cooperative.forward, plan, keep, masked), plan.forward
    key = _key("cooperative", plan, str(plan.warps), str(keep), str(masked))
    return Kernel(key, made, arguments_of(_COOPERATIVE, plan.dtype), split.threads, True, split.shared)


@functools.cache
def cooperative_back_kernel(plan: SpreadPlan, masked: bool = False) -> Kernel:
    """See ``cooperative.backward``."""
    made, split = functools.partial(cooperative.backward, plan, masked), plan.backward
    key = _key("cooperative_back", plan, str(plan.warps), str(masked))
    return Kernel(key, made, arguments_of(_COOPERATIVE_BACK, plan.dtype), split.threads, True, split.shared)


def _key(name: str, plan: Plan | SpreadPlan, *more: str) -> tuple[str, ...]:
    return (name, describe(plan.cell), plan.dtype.name, str(plan.H), str(plan.rows), *more)


@functools.cache
def product_kernel(dtype: np.dtype[Any], trans_a: bool, trans_b: bool, rows: int = product.TILE) -> Kernel:
    """See ``product.product``."""
    made = functools.partial(product.product, dtype, trans_a, trans_b, rows)
    key = ("product", dtype.name, str(trans_a), str(trans_b), str(rows))
    return Kernel(key, made, arguments_of(_PRODUCT, dtype), product.THREADS)


@functools.cache
def move_rows_kernel(dtype: np.dtype[Any]) -> Kernel:
    """See ``product.move_rows``."""
    made = functools.partial(product.move_rows, dtype)
    return Kernel(("move_rows", dtype.name), made, arguments_of(_MOVE_ROWS, dtype), product.SUMMING)


@functools.cache
def sum_rows_kernel(dtype: np.dtype[Any]) -> Kernel:
    """See ``product.sum_rows``."""
    made = functools.partial(product.sum_rows, dtype)
    return Kernel(("sum_rows", dtype.name), made, arguments_of(_SUM_ROWS, dtype), product.SUMMING)


@functools.cache
def sum_parts_kernel(dtype: np.dtype[Any]) -> Kernel:
    """See ``product.sum_parts``."""
    made = functools.partial(product.sum_parts, dtype)
    return Kernel(("sum_parts", dtype.name), made, arguments_of(_SUM_PARTS, dtype), product.SUMMING)


@cached
def step_kernel(cell: type[Cell], dtype: np.dtype[Any], keep: bool) -> Kernel:
    """See ``stepwise.step``."""
    made = functools.partial(stepwise.step, cell, dtype, keep)
    key = ("step", describe(cell), dtype.name, str(keep))
    return Kernel(key, made, arguments_of(_STEP, dtype), stepwise.THREADS)


@cached
def step_back_kernel(cell: type[Cell], dtype: np.dtype[Any]) -> Kernel:
    """See ``stepwise.step_back``."""
    made = functools.partial(stepwise.step_back, cell, dtype)
    key = ("step_back", describe(cell), dtype.name)
    return Kernel(key, made, arguments_of(_STEP_BACK, dtype), stepwise.THREADS)


@functools.cache
def other_step_kernel(name: str, dtype: np.dtype[Any]) -> Kernel:
    """One of ``stepwise`` that knows no cell."""
    made = functools.partial(getattr(stepwise, name), dtype)
    return Kernel((name, dtype.name), made, arguments_of(_OTHER_STEPS[name], dtype), stepwise.THREADS)


@cached
def drop_kernel(dtype: np.dtype[Any]) -> Kernel:
    """See ``philox.drop``."""
    made = functools.partial(philox.drop, dtype)
    return Kernel(("drop", dtype.name), made, arguments_of(f"{_DROP} scale:{dtype.str}", dtype), philox.THREADS)


@cached
def offsets_kernel() -> Kernel:
    """See ``offsets.offsets``."""
    return Kernel(("offsets",), offsets.offsets, arguments_of(_OFFSETS, np.dtype(np.int64)), offsets.THREADS)


@cached
def gather_kernel(dtype: np.dtype[Any]) -> Kernel:
    """See ``gather.gather``."""
    made = functools.partial(gather.gather, dtype)
    return Kernel(("gather", dtype.name), made, arguments_of(_GATHER, dtype), gather.THREADS)
