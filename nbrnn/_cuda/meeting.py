"""What passes between blocks that run together (``cooperative``): counting who has come, reading what they wrote."""

from __future__ import annotations

import functools
from typing import Any

from llvmlite import ir

from .emit import Pointer, assembly
from .plan import Split
from .primitives import primitive
from .schedule import SECOND, ZEROS

#: Loads of a thread that are on their way at the same time.
_IN_FLIGHT = 16


def fetch_states(split: Split, masked: bool) -> Any:
    """``fetch(vectors, y, before, h, masks, order, start, lead, last, thread)``: h before the step, of a tile, into
    shared memory.

    The tile has sequence ``lead`` and those that follow, up to ``last``.  That of sequence i begins where entry
    ``start + i`` of ``before`` says (see ``read_row``); ``masked``, it is multiplied by row ``order[i]`` of masks.
    """
    from numba.cuda import types

    @primitive(lambda vectors, y, before, h, masks, order, start, lead, last, thread: types.none)
    def fetch_states(b, vectors, y, before, h, masks, order, start, lead, last, thread):
        long, rows = ir.IntType(64), []
        for row in range(split.rows):
            i = _at_most(b, b.add(lead, long(row)), last)
            at = (before + b.add(start, i)).load().x
            # Where there is nothing, something else is read and thrown away.
            sequence = b.select(b.icmp_signed("==", at, long(ZEROS)), long(0), b.sub(long(SECOND), at))
            in_h = h + b.mul(sequence, long(split.depth))
            base = Pointer(b, b.select(b.icmp_signed("<", at, long(0)), in_h.x, (y + at).x))
            mask = masks + b.mul(b.sext((order + i).load().x, long), long(split.depth)) if masked else None
            rows.append((base, b.icmp_signed("==", at, long(ZEROS)), mask))
        _fetch(split, vectors, rows, thread)

    return fetch_states


def fetch_rows(split: Split) -> Any:
    """``fetch(vectors, array, first, last, stride, offset, thread)``: rows of a tile into shared memory.

    They are ``stride`` apart, and the vectors of each begin ``offset`` numbers further.
    """
    from numba.cuda import types

    @primitive(lambda vectors, array, first, last, stride, offset, thread: types.none)
    def fetch_rows(b, vectors, array, first, last, stride, offset, thread):
        rows = [_at_most(b, b.add(first, ir.IntType(64)(row)), last) for row in range(split.rows)]
        _fetch(split, vectors, [(array + b.mul(row, stride) + offset, None, None) for row in rows], thread)

    return fetch_rows


def _at_most(b: Any, i: ir.Value, last: ir.Value) -> ir.Value:
    return b.select(b.icmp_signed("<", i, last), i, last)


def _fetch(split: Split, vectors: Pointer, rows: list[tuple[Pointer, Any, Any]], thread: ir.Value) -> None:
    """Vectors from [row][part][depth] to [row][part][room]; zeros for rows of which that is said, others masked."""
    b, long = vectors.b, ir.IntType(64)
    turns = range(0, split.depth, split.threads)
    wanted = [(row, part, k) for row in range(split.rows) for part in range(split.parts) for k in turns]
    for n in range(0, len(wanted), _IN_FLIGHT):
        group = wanted[n : n + _IN_FLIGHT]
        found = []
        for row, part, k in group:
            base, nothing, mask = rows[row]
            number = b.add(thread, long(k))
            if k + split.threads > split.depth:
                number = _at_most(b, number, long(split.depth - 1))
            value = (base + (part * split.depth) + number).load_shared_by_blocks()
            if nothing is not None:
                value = value.if_not(nothing, value.like(0))
            found.append(value if mask is None else value * (mask + number).load())
        for (row, part, k), value in zip(group, found, strict=True):
            to = vectors + ((row * split.parts + part) * split.room + k) + thread
            if k + split.threads > split.depth:
                with b.if_then(b.icmp_signed("<", thread, long(split.depth - k))):
                    to.store(value)
            else:
                to.store(value)


@functools.cache
def count_me() -> Any:
    """``count_me(counter)``: add 1, and pass on what is known to this thread."""
    from numba.cuda import types

    @primitive(lambda counter: types.none)
    def count_me(b, counter):
        long = ir.IntType(64)
        address = b.ptrtoint(counter.x, long)
        assembly(b, "red.release.gpu.global.add.u64 [$0], $1;", ir.VoidType(), "l,l", [address, long(1)])

    return count_me


@functools.cache
def look() -> Any:
    """``look(counter)``: the count, and what is known to those who have counted."""

    @primitive(lambda counter: counter.dtype)
    def look(b, counter):
        long = ir.IntType(64)
        return assembly(b, "ld.acquire.gpu.global.u64 $0, [$1];", long, "=l,l", [b.ptrtoint(counter.x, long)])

    return look
