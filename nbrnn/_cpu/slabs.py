"""Sums over many rows of the products of two numbers of each: what gradients of weights are made of.

Rows of what is multiplied, x or h, are brought into *slabs* [rows][W], one for each vector, and of what with, the
gradients of the sums, the *factors*, a few vectors at a time: then both are read from front to back.
"""

from __future__ import annotations

from .._kernel import part
from . import digits, squares, tiles
from .digits import DEPTH, DIGITS, TILE
from .dx import all_finite
from .emit import Int, Vec
from .isa import AMX, Lanes
from .rows import address, primitive, spread_row

#: Bytes of the slabs of a tile, which stay in the first cache; and rows that are gathered at once, at most.
#: The matrix unit wants so many, since it takes long to give back what it has summed.
FIRST_CACHE, CHUNK = 30 * 1024, 320

#: Fewer rows than that are multiplied in vectors even where there is a matrix unit.
LEAST = 24

#: Vectors of gradients of the sums that are gathered at once.
GROUP = 8


def chunk(lanes: type[Lanes], W: int, item: int) -> int:
    """Rows that are gathered and multiplied at once, for vectors of W numbers of so many bytes."""
    if lanes is AMX:
        return CHUNK
    slabs = 1 + tiles.tile_of_outer(lanes, W)[1]
    return min(CHUNK, FIRST_CACHE // (slabs * W * item))


@primitive
def outer_of_slabs(e, panels, slabs, count, a, a_step, vectors, b, b_step, c, c_stride, rest, begun):
    """See ``tiles.outer``."""
    a, b, c = map(e.ptr, (a, b, c))
    tiles.outer(e, slabs, count, a, a_step, vectors, b, b_step, c, c_stride, rest, begun)


@primitive
def gather_slabs(e, panels, vectors, count, source, stride, to, step, sums, largest):
    """So many vectors of each of ``count`` rows, ``stride`` bytes apart, into slabs, ``step`` numbers apart, and their
    sums over the rows; and, where there is a matrix unit, their largest magnitudes.

    Several at a time: rows lie pages apart, so that reading anything of one costs more than reading a little more.
    """
    source, to, outs = e.ptr(source), e.ptr(to), [e.ptr(sums), e.ptr(largest)][: 1 + e.unit]

    def some(v: Int, size: int) -> None:
        def row(r: Int, *found: Vec) -> list[Vec]:
            values = [(source.after(r * stride) + (v + q) * e.W).load() for q in range(size)]
            for q, value in enumerate(values):
                (to + (v + q) * step + r * e.W).store(value)
            sums = [s + value for s, value in zip(found, values, strict=False)]
            return sums + [digits.larger(s, digits.magnitude(x)) for s, x in zip(found[size:], values, strict=False)]

        found = e.loop(count, [e.vec(0.0)] * (size * len(outs)), row)
        for q, value in enumerate(found):
            (outs[q // size] + (v + q % size) * e.W).store(value)

    tiles.each_tile(vectors, (GROUP if e.unit else 4, 1), some)


@primitive
def split_rows(e, panels, rows, count, n, vectors, to, misfits):
    """See ``digits.split``: of rows whose addresses are in a table."""
    if e.unit:
        table, last = e.ptr(rows), count - 1
        digits.split(e, lambda r: table.address_at(r.at_most(last)), count, n, vectors, e.ptr(to), e.ptr(misfits))


@primitive
def split_factors(e, panels, vectors, count, factors, step, to, largest, back):
    """See ``digits.split_turned``."""
    if e.unit:
        factors, to, largest, back = map(e.ptr, (factors, to, largest, back))
        digits.split_turned(e, vectors, count, factors, step, to, largest, back)


@primitive
def outer_of_digits(e, panels, vectors, count, a, back, beside, b, c, c_stride, rest, begun):
    """See ``squares.outer``."""
    if e.unit:
        a, back, b, c = map(e.ptr, (a, back, b, c))
        squares.outer(e, vectors, count, a, back, beside, b, c, c_stride, rest, begun)


@part
def fit_for_digits(panels, table, count, n, vector, columns, work):
    """Bring rows of n numbers into digits, if that is wanted: if there is a unit for them, rows are many, and none of
    their numbers is too large or too small for it.
    """
    if work.digits.size == 0 or count < LEAST:
        return False
    W, step = work.slabs.shape[2], (count + DEPTH - 1) // DEPTH * DIGITS * TILE
    to, misfits = address(work.digits) + (GROUP + vector) * step, address(work.limits)
    split_rows(panels, address(table), count, n, columns // W, to, misfits)
    return all_finite(panels, misfits, W)


@part
def gather_group(panels, count, n, source, stride, sums, fits, work):
    """The next n vectors of factors; their largest magnitudes, and digits if those of the slabs ``fits``."""
    to, step = address(work.factors), work.slabs.shape[1] * work.slabs.shape[2]
    largest = address(work.limits) + work.limits.strides[0]
    gather_slabs(panels, n, count, source, stride, to, step, sums, largest)
    if fits:
        back = largest + GROUP * work.limits.strides[0]
        split_factors(panels, n, count, to, step, address(work.digits), largest, back)


@part
def add_group(panels, fits, count, q, n, real, table, numbers, vector, total, first, begun, work):
    """Vectors [q, q + n) of factors times slabs from a vector on, for vectors [first, first + n) of m of the total:

    total[0, m, k] += sum over rows r < count of factors[m][r] * slabs[k][r]; or =, if nothing has ``begun``.

    By digits, if those of the slabs ``fits``, but for factors that aren't finite: of those, ``real`` columns are any,
    others only fill vectors.  There are slabs if they don't fit; else they are made of rows of so many ``numbers``.
    """
    item, (_, rows, W), columns = total.itemsize, work.slabs.shape, total.shape[2]
    rest, line, slab = total.shape[1] * columns, W * item, rows * W * item
    slabs, factors = address(work.slabs) + vector * slab, address(work.factors)
    largest = address(work.limits) + line
    back, step = largest + GROUP * line, (count + DEPTH - 1) // DEPTH * DIGITS * TILE
    each = max(n, 1)
    if fits and n > 0 and not all_finite(panels, largest + q * line, min(n * W, real - q * W)):
        each = each // each
        for r in range(count):
            spread_row(panels, slabs + r * line, rows * W, table[r], numbers)
    for i in range(0, n, each):
        to = address(total) + (first + i) * columns * line
        if fits and all_finite(panels, largest + (q + i) * line, min(each * W, real - (q + i) * W)):
            a, b = address(work.digits) + (q + i) * step, address(work.digits) + (GROUP + vector) * step
            scales = back + (q + i) * line
            outer_of_digits(panels, each, count, a, scales, columns // W, b, to, columns, rest, int(begun))
        else:
            a, step, vectors = factors + (q + i) * slab, rows * W, columns // W
            outer_of_slabs(panels, each, count, a, step, vectors, slabs, step, to, columns, rest, int(begun))
