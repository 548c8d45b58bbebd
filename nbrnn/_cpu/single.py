"""One step of one sequence through a stack, on users' own arrays: nothing is padded, nothing is allocated.

The sums of a block of units are formed as in ``steps``, for one row.  So few sums would wait for each other, since each
multiply-add needs the one before: the inputs are dealt out to a few sets of sums in turn.

The new h is written to y, which has as many numbers as h, since all blocks read the old one, and copied at the end.
The last block of units may be narrower than a vector: its part of a state goes by way of a vector on the stack.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.errors import TypingError
from numba.extending import intrinsic

from .._kernel import kernel
from .._nets import cell_of, is_net
from .emit import Emit, Int, Ptr, Vec
from .isa import accumulators
from .packing import block_vectors, sizes
from .rows import copy, primitive, stack
from .tiles import NV

#: Multiply-adds that a processor has under way: two begin in each cycle, and take four.
UNDER_WAY = 8


class Spare:
    """A vector on the stack, by way of which less than a vector is read and written."""

    def __init__(self, e: Emit) -> None:
        self.e, self.at = e, stack(e, e.W)

    def load(self, source: Ptr, count: Int | None) -> Vec:
        """The first ``count`` numbers (None: a whole vector), and zeros."""
        if count is None:
            return source.load()
        self.at.store(0.0)
        self.e.each(count.at_most(self.e.W), lambda k: (self.at + k).put_number((source + k).number()))
        return self.at.load()

    def store(self, to: Ptr, value: Vec, count: Int | None) -> None:
        """The first ``count`` numbers of a vector (None: all)."""
        if count is None:
            to.store(value)
            return
        self.at.store(value)
        self.e.each(count.at_most(self.e.W), lambda k: (to + k).put_number((self.at + k).number()))


def accumulate(sums: list[Vec], row: Ptr, stride: Int | int, panel: Ptr, count: Int) -> list[Vec]:
    """sums[v] + sum over k < count of row[k] * panel[k][v], k dealt out to a few sets.

    The numbers of the row are ``stride`` bytes apart.
    """
    e, n = panel.e, len(sums)
    sets = max(1, min(UNDER_WAY // n, accumulators(e.lanes) // n))

    def add(k: Int, at: Ptr, sums: list[Vec]) -> list[Vec]:
        x = row.after(k * stride).broadcast()
        return [e.fma(x, at.load(v * e.W), s) for v, s in enumerate(sums)]

    def several(q: Int, *flat: Vec) -> list[Vec]:
        made: list[Vec] = []
        for s in range(sets):
            k = q * sets + s
            made += add(k, panel + k * (n * e.W), list(flat[s * n : (s + 1) * n]))
        return made

    flat = e.loop(count // sets, sums + [e.vec(0.0)] * ((sets - 1) * n), several)
    sums = flat[:n]
    for s in range(1, sets):
        sums = [a + b for a, b in zip(sums, flat[s * n : (s + 1) * n], strict=True)]
    if sets == 1:
        return sums
    done = count // sets * sets
    return e.loop(count % sets, sums, lambda k, *s: add(done + k, panel + (done + k) * (n * e.W), list(s)))


@primitive
def step_of_one(e, net, x, x_stride, state, y):
    """All layers of one step.

    ``x``: I numbers, ``x_stride`` bytes apart; ``state`` [L][1 + E][H]: for each layer h (its first K numbers) and what
    else the cell carries, in place; ``y``: K numbers.  ``net.w`` holds the layers' forward buffers one after another.
    """
    cell, H, K = cell_of(net.type), net.H, net.K
    blocks, G, S, E = block_vectors(cell), len(cell.gates), cell.sums(), cell.extras()
    state, y, spare = e.ptr(state), e.ptr(y), Spare(e)
    panel = NV * e.W

    def layer(q: Int, w: Ptr, x: Ptr, I: Int, x_stride: Int) -> list[Int | Ptr]:
        z = sizes(cell, e.W, I, H, K)
        h = state + q * ((1 + E) * H)

        def block(j: Int, width: Int | None) -> None:
            """Units [j U, j U + width); None: all U."""
            start = [(w + (z.bias + j * (S * z.U))).load(n * e.W) for n in range(S * blocks)]
            sums = accumulate(start[: G * blocks], x, x_stride, w + (z.from_x + j * (I * (G * z.U))), I)
            sums, split = sums + start[G * blocks :], (S - G) * blocks
            sums[split:] = accumulate(sums[split:], h, e.size, w + (z.from_h + j * (K * (G * z.U))), K)
            for v in range(blocks):
                at, count = j * z.U + v * e.W, None if width is None else width - v * e.W
                carried = [h + (n + 1) * H + at for n in range(E)]
                old = [None if cell.projected else spare.load(h + at, count)]
                (new_h, *new_c), _ = cell.forward(
                    tuple(sums[n * blocks + v] for n in range(S)), (*old, *(spare.load(p, count) for p in carried))
                )
                for p, value in zip(carried, new_c, strict=True):
                    spare.store(p, value, count)
                if cell.projected:
                    project(new_h, at, e.integer(e.W) if count is None else count.at_most(e.W))
                else:
                    spare.store(y + at, new_h, count)

        def project(m: Vec, first: Int, count: Int) -> None:
            """y += W_hr[:, first : first + count] m."""
            spare_m = Spare(e)
            spare_m.at.store(m)

            def part(p: Int, width: Int | None) -> None:
                to = y + p * panel
                counts = [None if width is None else width - v * e.W for v in range(NV)]
                start = [spare.load(to + v * e.W, counts[v]) for v in range(NV)]
                weights = w + (z.projection + p * (H * panel) + first * panel)

                def add(k: Int, *sums: Vec) -> list[Vec]:
                    number = (spare_m.at + k).broadcast()
                    return [e.fma(number, (weights + k * panel).load(v * e.W), s) for v, s in enumerate(sums)]

                for v, value in enumerate(e.loop(count, start, add)):
                    spare.store(to + v * e.W, value, counts[v])

            each_part(K, panel, part)

        if cell.projected:
            e.each(K, lambda k: (y + k).put_number(e.scalar_type(0.0)))
        each_part(H, z.U, block)
        copy(e, h, e.integer(e.W), y, K)
        return [w + z.end, h, K, e.integer(e.size)]

    e.loop(net.L, [net.w, e.ptr(x), net.I, x_stride], layer)


def each_part(n: Int, size: int, body: Callable[[Int, Int | None], None]) -> None:
    """``body(q, None)`` for each whole part of n numbers, then ``body(q, rest)`` for what remains, if anything."""
    whole = n // size
    n.e.each(whole, lambda q: body(q, None))
    n.e.each((n % size).at_most(1), lambda _: body(whole, n % size))


# What a caller's arrays must be: their types when the caller is compiled, their shapes when it runs.  Arrays aren't
# passed to other functions on the way: counting references would take longer than a small step.


def _checked(net: Any, axes: int, **arrays: Any) -> int:
    """Rows of a layer's state, from the types; raises if an array isn't of the net's dtype, or not contiguous."""
    if not is_net(net):
        raise TypingError(f"net must come from layer.jit(), got {net}")
    dtype = net.types[0].dtype
    for name, array in arrays.items():
        dimensions = 3 if name == "state" else axes
        if not isinstance(array, types.Array) or array.ndim != dimensions or array.dtype != dtype:
            raise TypingError(f"{name} must be an array of {dtype} with {dimensions} dimensions, got {array}")
        if name != "x" and (array.layout != "C" or not array.mutable):
            raise TypingError(f"{name} must be C-contiguous and writeable, got {array}")
    return len(cell_of(net).state)


def _constant(signature: Any, value: int) -> Any:
    return signature, lambda context, builder, signature, arguments: ir.Constant(ir.IntType(64), value)


@intrinsic
def rows_of_state(typingctx, net):
    """How many rows of H numbers the state of a layer has."""
    return _constant(types.int64(net), _checked(net, 1))


@intrinsic
def typed_step(typingctx, net, x, state, y):
    """The same, if the types of a step's arrays are as they must be."""
    return _constant(types.int64(net, x, state, y), _checked(net, 1, x=x, state=state, y=y))


@intrinsic
def typed_run(typingctx, net, x, state, y):
    """The same, for a sequence."""
    return _constant(types.int64(net, x, state, y), _checked(net, 2, x=x, state=state, y=y))


@kernel(inline=True)
def overlap(a, a_bytes, b, b_bytes):
    """Whether two stretches of memory have a byte in common."""
    return a < b + b_bytes and b < a + a_bytes


@kernel(inline=True)
def require_apart(x, n, stride, state, state_bytes, y, y_bytes, item):
    """Raise if n numbers that begin at x, a state and y have a byte in common."""
    reach = (n - 1) * stride
    start, size = x + min(reach, 0), abs(reach) + item
    if overlap(y, y_bytes, state, state_bytes):
        raise ValueError("y must not overlap state")
    if overlap(y, y_bytes, start, size):
        raise ValueError("y must not overlap x")
    if overlap(state, state_bytes, start, size):
        raise ValueError("x must not overlap state")
