"""Weights as the kernels read them, and gradients on their way back.

The step wants, for a *block* of U hidden units (U is one or two vectors), all gates of those units at once:

    forward buffer:  bias [J][S][U] | from x [J][I][G][U] | from h [J][K][G][U] | projection panels | bytes | digits

with J = ceil(H / U) blocks, G gates, S sums (``Cell``).  Units past H have weights 0; bytes of
"from h" (``whole_weights``) and digits of "from x" (``inputs``) are there for a matrix unit.  Products with a
transposed matrix, for the way back, are packed as ``tiles.product`` reads them, ``[panels][parts][depth][NV W]``:

    backward buffer: W_hh panels | W_hr panels          input buffer: W_ih panels | bytes of W_hh

All that is noted as assignments (``moves``), from the vector of a layer's and direction's parameters, or to that of
their gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._cells import Cell
from .._memory import aligned
from .._nets import cell_of
from . import whole
from .isa import BITS, Lanes
from .moves import Moves, Order, Shapes
from .tiles import NV


class Sizes(NamedTuple):
    """Sizes that follow from a cell's, in numbers.  Any integer may be an emitter's ``Int``.

    Everything that reads or writes a packed buffer or a workspace takes its strides from here.
    """

    W: int  #: numbers in a vector
    U: int  #: hidden units in a block of the step
    J: Any  #: blocks
    Hp: Any  #: a row of one slot, or of c: J * U
    Kp: Any  #: a row of h: K rounded up to whole panels
    Mp: Any  #: a row of what is projected: H rounded up to whole panels
    bias: Any  #: where the forward buffer's parts begin, as ``pack_forward`` has them
    from_x: Any
    from_h: Any
    projection: Any
    end: Any


def sizes(cell: type[Cell], W: int, I: Any, H: Any, K: Any) -> Sizes:
    """The sizes of a cell for vectors of W numbers."""
    U = block_vectors(cell) * W
    J = (H + (U - 1)) // U
    G, S = len(cell.gates), cell.sums()
    from_x = J * (S * U)
    from_h = from_x + J * I * (G * U)
    projection = from_h + J * K * (G * U)
    Kp, Mp = padded(K, NV * W), padded(H, NV * W)
    return Sizes(W, U, J, J * U, Kp, Mp, 0, from_x, from_h, projection, projection + (H * Kp if cell.projected else 0))


def known(e: Any, net: Any) -> tuple[type[Cell], Sizes]:
    """The cell and the sizes of a network in a primitive."""
    cell = cell_of(net.type)
    return cell, sizes(cell, e.W, net.I, net.H, net.K)


def whole_at(z: Sizes) -> Any:
    """Where a forward buffer for a matrix unit goes on with the bytes of W_hh: after a vector that says what they are
    good for.
    """
    return padded(z.end, z.W)


def digits_at(cell: type[Cell], z: Sizes, K: Any, in_bytes: bool) -> Any:
    """And where with the digits of W_ih, if it has them, likewise."""
    if not in_bytes:
        return whole_at(z)
    return whole_at(z) + z.W + z.J * (len(cell.gates) * block_vectors(cell)) * whole.column_numbers(1, K)


def whole_back_at(cell: type[Cell], z: Sizes, net: Any) -> Any:
    """The same for the bytes of W_hh in the backward buffer, after the input buffer; ``net`` has I, H and K."""
    G, panel = len(cell.gates), NV * z.W
    at = z.Kp * (net.H * G) + padded(net.I, panel) * (net.H * G)
    return padded(at + z.Mp * net.K if cell.projected else at, z.W)


def block_vectors(cell: type[Cell]) -> int:
    """Vectors of hidden units in a block of the step: with one gate only, two give the multiplier more to do."""
    return 2 if len(cell.gates) == 1 else 1


def padded(n: Any, to: int) -> Any:
    """n rounded up to a multiple."""
    return (n + (to - 1)) // to * to


def vector_numbers(lanes: type[Lanes], dtype: np.dtype[Any]) -> int:
    """Numbers of a dtype in a vector."""
    return max(1, BITS[lanes] // (8 * dtype.itemsize))


def pack_forward(cell: type[Cell], z: Sizes, weights: Shapes, I: int, H: int, K: int) -> Order:
    """What makes the forward buffer of parameters, which are weight_ih (G*H, I), weight_hh (G*H, K) and, where there
    are any, bias_ih, bias_hh (G*H,) and weight_hr (K, H).
    """
    G, S = len(cell.gates), cell.sums()
    shapes = {"bias": (z.J, S, z.U), "ih": (z.J, I, G, z.U), "hh": (z.J, K, G, z.U)}
    moves = Moves(weights, shapes | ({"projection": _panels_of(K, 1, H, z.W)} if cell.projected else {}))
    for way, gates, first in (("ih", cell.of_input(), 0), ("hh", cell.of_hidden(), S - G)):
        matrices = moves.source[f"weight_{way}"].reshape(G, H, -1)
        for j in range(z.J):  # each block as a whole, for its sake who writes it
            units = slice(j * z.U, min((j + 1) * z.U, H))
            to = moves.to[way][j].transpose(1, 2, 0)[:, : units.stop - units.start]
            for begin, end, source in _runs(cell, gates):
                moves.put(to[begin:end], matrices[source : source + end - begin, units])
        if f"bias_{way}" in weights:
            for g, gate in enumerate(gates):
                # Where a gate has one sum, of x and h, that starts from both biases.
                second = way == "hh" and gate not in cell.split
                bias, whole = moves.source[f"bias_{way}"][_rows(cell, gate, H)], H // z.U
                to = moves.to["bias"][:, first + g]
                moves.put(to[:whole], bias[: whole * z.U].reshape(whole, z.U), second)
                moves.put(to[whole:, : H % z.U], bias[None, whole * z.U :][: z.J - whole], second)
    if cell.projected:
        _panels(moves, moves.to["projection"][:, 0], moves.source["weight_hr"].T)
    return moves.order()


def pack_back(cell: type[Cell], z: Sizes, weights: Shapes, I: int, H: int, K: int) -> Order:
    """What makes the backward buffer, for ``carry`` and ``unproject``, which lead gradients from the sums to the h
    before the step; and after it the input buffer, for dx.
    """
    G = len(cell.gates)
    shapes = {"hh": _panels_of(K, G, H, z.W)} | ({"hr": _panels_of(H, 1, K, z.W)} if cell.projected else {})
    moves = Moves(weights, shapes | {"ih": _panels_of(I, G, H, z.W)})
    for way, gates in (("hh", cell.of_hidden()), ("ih", cell.of_input())):
        for g, gate in enumerate(gates):
            _panels(moves, moves.to[way][:, g], moves.source[f"weight_{way}"][_rows(cell, gate, H)])
    if cell.projected:
        _panels(moves, moves.to["hr"][:, 0], moves.source["weight_hr"])
    return moves.order()


def unpack(cell: type[Cell], totals: Shapes, weights: Shapes, H: int) -> Order:
    """What makes gradients of parameters of those summed by ``_cpu.gradients``, which lie one after another."""
    G, S = len(cell.gates), cell.sums()
    moves = Moves(totals, weights)
    sums = {name: a[0] for name, a in moves.source.items()}  # without what rounding has left over
    bias = sums["bias"].reshape(S, -1)[:, :H]
    for way, gates, first in (("ih", cell.of_input(), 0), ("hh", cell.of_hidden(), S - G)):
        to = moves.to[f"weight_{way}"]
        matrix = sums[f"w_{way}"].reshape(G, -1, sums[f"w_{way}"].shape[1])[:, :H, : to.shape[1]]
        for g, gate in enumerate(gates):
            moves.put(to[_rows(cell, gate, H)], matrix[g])
            if f"bias_{way}" in weights:
                moves.put(moves.to[f"bias_{way}"][_rows(cell, gate, H)], bias[first + g])
    if cell.projected:
        to = moves.to["weight_hr"]
        moves.put(to, sums["w_hr"][: to.shape[0], : to.shape[1]])
    return moves.order()


def readonly(buffer: NDArray[Any]) -> NDArray[Any]:
    """The same for those who may only read it."""
    view = buffer[:]
    view.flags.writeable = False
    return view


def join_forward(nets: list[Any]) -> Any:
    """The networks of a stack's layers as one."""
    first, w = nets[0], aligned((sum(net.w.size for net in nets),), nets[0].w.dtype)
    np.concatenate([net.w for net in nets], out=w)
    return first._replace(w=readonly(w), L=len(nets))


def _rows(cell: type[Cell], gate: str, H: int) -> slice:
    """A gate's rows of a matrix or a bias."""
    first = cell.gates.index(gate) * H
    return slice(first, first + H)


def _runs(cell: type[Cell], gates: tuple[str, ...]) -> Iterator[tuple[int, int, int]]:
    """(begin, end, source): gates[begin:end] are the cell's own from ``source`` on."""
    begin = 0
    for end in range(1, len(gates) + 1):
        source = cell.gates.index(gates[begin])
        if end == len(gates) or cell.gates.index(gates[end]) != source + end - begin:
            yield begin, end, source
            begin = end


def _panels_of(n: int, parts: int, depth: int, W: int) -> tuple[int, ...]:
    """The shape of panels for n outputs."""
    return padded(n, NV * W) // (NV * W), parts, depth, NV * W


def _panels(moves: Moves, to: NDArray[Any], matrix: NDArray[Any]) -> None:
    """(depth, n) to (ceil(n / (NV W)), depth, NV W); what is past n stays."""
    block, (depth, n) = to.shape[2], matrix.shape
    whole = n // block
    moves.put(to[:whole], matrix[:, : whole * block].reshape(depth, whole, block).swapaxes(0, 1))
    moves.put(to[whole:, :, : n % block], matrix[None, :, whole * block :][: len(to) - whole])
