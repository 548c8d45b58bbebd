"""One step of one sequence through a stack, on users' own arrays: nothing is padded, nothing is allocated.

The sums of a block of units are formed as in ``steps``, for one row.  So few sums would wait for each other, since each
multiply-add needs the one before: the inputs are dealt out to a few sets of sums in turn.

The new h is written to y, which has as many numbers as h, since all blocks read the old one, and copied at the end.
The last block of units may be narrower than a vector: its part of a state goes by way of a vector on the stack.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.errors import TypingError
from numba.extending import intrinsic

from .._kernel import part
from .._nets import cell_of, is_net
from .emit import Emit, Int, Ptr, Vec, apart, joined
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


def accumulate(sums: list[Vec], row: Ptr, stride: Int | int, panels: Sequence[Ptr], count: Int) -> list[Vec]:
    """sums[v] + sum over k < count of row[k] * panel[k][v], k dealt out to a few sets if those are few.

    The numbers of the row are ``stride`` bytes apart; the vectors of panels follow each other in ``sums``.
    """
    e, n = row.e, len(sums)
    sets, each = max(1, min(UNDER_WAY // n, accumulators(e.lanes) // n)), n // len(panels)

    def add(k: Int, sums: Sequence[Vec]) -> list[Vec]:
        x, starts = row.after(k * stride).broadcast(), [panel + k * (each * e.W) for panel in panels]
        return [e.fma(x, starts[v // each].load(v % each * e.W), s) for v, s in enumerate(sums)]

    def several(q: Int, *flat: Vec) -> list[Vec]:
        made: list[Vec] = []
        for s in range(sets):
            k = q * sets + s
            made += add(k, flat[s * n : (s + 1) * n])
        return made

    flat = e.loop(count // sets, sums + [e.vec(0.0)] * ((sets - 1) * n), several)
    sums = flat[:n]
    for s in range(1, sets):
        sums = [a + b for a, b in zip(sums, flat[s * n : (s + 1) * n], strict=True)]
    if sets == 1:
        return sums
    done = count // sets * sets
    return e.loop(count % sets, sums, lambda k, *s: add(done + k, s))


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

        def block(j: Int, width: Int | None, count: int = 1) -> None:
            """Units [j U, j U + width); None: all U, of so many blocks."""
            starts, each = [w + (z.bias + (j + b) * (S * z.U)) for b in range(count)], G * blocks

            def add(sums: list[Vec], row: Ptr, stride: Int | int, weights_at: Int, inputs: Int) -> list[Vec]:
                panels = [w + (weights_at + (j + b) * (inputs * (G * z.U))) for b in range(count)]
                return accumulate(sums, row, stride, panels, inputs)

            sums = add([at.load(n * e.W) for at in starts for n in range(each)], x, x_stride, z.from_x, I)
            split, of_x, rest = (S - G) * blocks, [], []
            for b, at in enumerate(starts):
                of_block = sums[b * each : (b + 1) * each] + [at.load(n * e.W) for n in range(each, S * blocks)]
                of_x.append(of_block[:split])
                rest += of_block[split:]
            rest = add(rest, h, e.size, z.from_h, K)
            found = [of_x[b] + rest[b * each : (b + 1) * each] for b in range(count)]

            def load(p: Ptr, numbers: Int | None) -> Vec:
                return joined([spare.load(p + b * z.U, numbers) for b in range(count)])

            def store(p: Ptr, value: Vec, numbers: Int | None) -> None:
                for b, one in enumerate(apart(value, count, e)):
                    spare.store(p + b * z.U, one, numbers)

            for v in range(blocks):
                at, numbers = j * z.U + v * e.W, None if width is None else width - v * e.W
                carried = [h + (n + 1) * H + at for n in range(E)]
                old = None if cell.projected else load(h + at, numbers)
                (new_h, *new_c), _ = cell.forward(
                    tuple(joined([one[n * blocks + v] for one in found]) for n in range(S)),
                    (old, *(load(p, numbers) for p in carried)),
                )
                for p, value in zip(carried, new_c, strict=True):
                    store(p, value, numbers)
                if cell.projected:
                    project(new_h, at, e.integer(e.W) if numbers is None else numbers.at_most(e.W))
                else:
                    store(y + at, new_h, numbers)

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
        several = 2 if e.W > 1 and not cell.projected and 2 * G * blocks <= accumulators(e.lanes) else 1
        each_part(H, z.U, block, several)
        copy(e, h, e.integer(e.W), y, K)
        return [w + z.end, h, K, e.integer(e.size)]

    e.loop(net.L, [net.w, e.ptr(x), net.I, x_stride], layer)


def each_part(n: Int, size: int, body: Callable[..., None], several: int = 1) -> None:
    """``body(q, None)`` for each whole part of n numbers, then ``body(q, rest)`` for what remains, if anything.

    ``body(q, None, several)``: so many whole parts from q on, as often as there are so many.
    """
    whole, done = n // size, n.e.integer(0)
    if several > 1:
        done = whole // several * several
        n.e.each(whole // several, lambda q: body(q * several, None, several))
    n.e.each(whole - done, lambda q: body(done + q, None))
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


@part(inline=True)
def overlap(a, a_bytes, b, b_bytes):
    """Whether two stretches of memory have a byte in common."""
    return a < b + b_bytes and b < a + a_bytes


@part(inline=True)
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
