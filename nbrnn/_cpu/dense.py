"""Products of matrices with many rows, for parts of a network that know no time.

What rows are multiplied by is brought into a panel just before, and used while it is in a core's own caches: so nothing
needs to be kept from call to call.  A number of C is one sum in one order, whatever the tile, the panel, the member or
the piece it falls to.
"""

from __future__ import annotations

from .._kernel import kernel, part
from .panels import (
    NV,
    add_all,
    add_columns,
    copy_panel,
    put_rows,
    times,
    turn_panel,
    vectors_of,
)
from .rows import address, copy_row, zero_padded
from .team import assemble, nought, offer, part_ways, share

#: Numbers of a sum that are formed at a time, and rows: a panel and those rows stay in a core's own caches.
DEPTH, ROWS = 512, 512

#: To bring a panel into place takes as long as to multiply so many rows by it.
PACKING = 8

#: Rows that the sums of ``columns`` are formed of, before they are added to the totals.
CHUNK = 256

#: Rows that are copied at a time.
FEW = 16


def product_size(rows: int, depth: int, block: int, turned: bool) -> int:
    """Numbers that a member of ``product`` wants: a panel, rows of one, what sums begin with, and rows of A turned."""
    rows, depth = min(rows, ROWS), min(depth, DEPTH)
    return (depth + rows + 1) * block + turned * rows * (depth + block)


def columns_size(height: int, panels: int, block: int) -> int:
    """Numbers that a member of ``columns`` wants: panels, a row of zeros, rows of sums."""
    return (CHUNK * panels + 1 + height) * block + height * CHUNK


@part
def parts(seat, n, m, block, W):
    """(begin, end, first, last): a member's rows and panels, by rows or by panels, whichever leaves less to do.

    To read a row of A counts as much as half of the products of a vector.
    """
    vectors, panels = (m + W - 1) // W, (m + block - 1) // block
    each, few = (n + seat.members - 1) // seat.members, (panels + seat.members - 1) // seat.members
    if (each + PACKING) * (2 * vectors + 1) <= (n + PACKING) * (2 * min(few * (block // W), vectors) + 1):
        begin, end = share(n, seat.member, seat.members)
        return begin, end, nought(), panels
    first, last = share(panels, seat.member, seat.members)
    return nought(), n, first, last


#: How a matrix is given that rows are to be multiplied by: as it is; turned; brought into panels before, by ``pack``.
AS_IS, ACROSS, PACKED = range(3)


@kernel
def pack(room, b, to):
    """All panels of a matrix (m, n) that is given ``ACROSS``, one after another."""
    (m, n), item, block = b.shape, b.itemsize, room.block
    for j in range(0, m, block):
        width, step = min(block, m - j), b.strides[0]
        vectors = vectors_of(width, block // NV)
        turn_panel(room, address(to) + j * n * item, address(b) + j * step, step // item, n, width, vectors)


@kernel
def product(seat, team, room, a, b, how, bias, c):
    """C = A B + bias.

    Parameters
    ----------
    seat, team : as for ``forward.forward``
    room : Room
    a : (N, n), contiguous in one of its axes
    b : (n, m), ``ACROSS`` (m, n), contiguous in the inner axis; ``PACKED`` (1, ...), what ``pack`` made of (m, n)
    how : one of these
    bias : (m,), contiguous, or of size 0
    c : (N, m), contiguous in the inner axis
    """
    if seat.members == 0:
        seat = assemble(team, offer())
    (rows, whole_depth), m, item, block = a.shape, c.shape[1], a.itemsize, room.block
    W = block // NV
    begin, end, first, last = parts(seat, rows, m, block, W)
    own = address(room.w) + seat.member * room.size * item
    nothing = own + min(whole_depth, DEPTH) * block * item
    spare = nothing + block * item
    # How far apart the numbers of a row are means nothing if it has one.
    turned, across = spare + min(rows, ROWS) * block * item, whole_depth > 1 and a.strides[1] != item
    for k in range(0, whole_depth, DEPTH):
        depth = min(DEPTH, whole_depth - k)
        for r in range(begin, end, ROWS):
            count = min(ROWS, end - r)
            source, step_of_a = address(a) + r * a.strides[0] + k * a.strides[1], a.strides[0] // item
            if across:
                groups = (depth + W - 1) // W
                turn_panel(room, turned, source, a.strides[1] // item, count, depth, groups)
                source, step_of_a = turned, groups * W
            for j in range(first * block, last * block, block):
                width = min(block, m - j)
                vectors = vectors_of(width, W)
                panel, step = own, b.strides[0]
                if how == ACROSS:
                    turn_panel(room, panel, address(b) + j * step + k * item, step // item, depth, width, vectors)
                elif how == AS_IS:
                    copy_panel(room, panel, address(b) + k * step + j * item, step // item, depth, width, vectors)
                else:
                    panel = address(b) + (j * whole_depth + k * vectors * W) * item
                # What isn't a whole panel goes by way of spare rows.
                to, step = address(c) + r * c.strides[0] + j * item, c.strides[0]
                out, out_step = (to, step) if width == vectors * W else (spare, vectors * W * item)
                start, start_step = out, out_step
                if k == 0:
                    start, start_step = nothing, nought()
                    zero_padded(room, nothing, block)
                    if bias.size > 0:
                        copy_row(room, nothing, address(bias) + j * item, width)
                elif out != to:
                    copy_panel(room, out, to, step // item, count, width, vectors)
                times(
                    room, vectors, count, source, step_of_a, depth, panel, start, start_step // item, out,
                    out_step // item,
                )  # fmt: skip
                if out != to:
                    put_rows(room, to, step // item, out, count, width, vectors)
    part_ways(seat)


@kernel
def columns(seat, team, room, a, b, begin, end, total, bias, c):
    """C = A^T B, and the sums of the columns of A: what rows [begin, end) add to them.  After the last rows, C.

    Parameters
    ----------
    seat, team : as for ``forward.forward``
    room : Room
    a, b : (N, m), (N, n), contiguous in their inner axes
    total : (2, panels, m, block): [0] the sums so far, [1] what rounding has left over
    bias : (2, whole vectors) the same of the columns of A, or of size 0
    c : (m, n), contiguous in the inner axis
    """
    if seat.members == 0:
        seat = assemble(team, offer())
    item, block, (m, n) = a.itemsize, room.block, c.shape
    W = block // NV
    top, low, first, last = parts(seat, m, n, block, W)
    panels = address(room.w) + seat.member * room.size * item
    nothing = panels + (last - first) * block * CHUNK * item
    sums = nothing + block * item
    turned = sums + (low - top) * block * item
    zero_padded(room, nothing, block)
    left, right = share((m + W - 1) // W, seat.member, seat.members)
    for r in range(begin, end, CHUNK):
        count = min(CHUNK, end - r)
        source = address(a) + r * a.strides[0]
        turn_panel(room, turned, source + top * item, a.strides[0] // item, low - top, count, CHUNK // W)
        # A few rows at a time, so that memory is read from front to back.
        for k in range(0, count, FEW):
            for j in range(first * block, last * block, block):
                width = min(block, n - j)
                vectors = vectors_of(width, W)
                beside = address(b) + (r + k) * b.strides[0] + j * item
                to = panels + ((j - first * block) * CHUNK + k * vectors * W) * item
                copy_panel(room, to, beside, b.strides[0] // item, min(FEW, count - k), width, vectors)
        for j in range(first, last):
            vectors = vectors_of(n - j * block, W)
            panel = panels + (j - first) * block * CHUNK * item
            times(room, vectors, low - top, turned, CHUNK, count, panel, nothing, 0, sums, vectors * W)
            to = address(total) + (j * m * block + top * vectors * W) * item
            add_all(room, (low - top) * vectors, sums, to, total.size // 2)
        if bias.size > 0:
            columns_here = min(right * W, m) - left * W
            at = address(bias) + left * W * item
            add_columns(room, count, source + left * W * item, a.strides[0] // item, columns_here, at, bias.shape[1])
    if end == a.shape[0]:
        for j in range(first, last):
            vectors, step = vectors_of(n - j * block, W), c.strides[0]
            source = address(total) + (j * m * block + top * vectors * W) * item
            to = address(c) + top * step + j * block * item
            put_rows(room, to, step // item, source, low - top, min(block, n - j * block), vectors)
    part_ways(seat)
