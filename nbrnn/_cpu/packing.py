"""Weights as the kernels read them, and gradients on their way back.

The step wants, for a *block* of U hidden units (U is one or two vectors), all gates of those units at once:

    forward buffer:  bias [J][S][U] | from x [J][I][G][U] | from h [J][K][G][U] | projection panels

with J = ceil(H / U) blocks, G gates, S sums (``Cell``).  Units past H have weights 0.  Products with a transposed
matrix, for the way back, are packed as ``tiles.product`` reads them, ``[panels][parts][depth][NV W]``:

    backward buffer: W_hh panels | W_hr panels          input buffer: W_ih panels
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._cells import Cell
from .._memory import aligned
from .._nets import net_class
from .isa import BITS, Lanes
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
    bias: Any  #: where the forward buffer's parts begin
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


def block_vectors(cell: type[Cell]) -> int:
    """Vectors of hidden units in a block of the step: with one gate only, two give the multiplier more to do."""
    return 2 if len(cell.gates) == 1 else 1


def padded(n: Any, to: int) -> Any:
    """n rounded up to a multiple."""
    return (n + (to - 1)) // to * to


def vector_numbers(lanes: type[Lanes], dtype: np.dtype[Any]) -> int:
    """Numbers of a dtype in a vector."""
    return max(1, BITS[lanes] // (8 * dtype.itemsize))


Weights = Mapping[str, NDArray[Any]]


def pack_forward(cell: type[Cell], lanes: type[Lanes], weights: Weights, I: int, H: int, K: int) -> Any:
    """The network of one layer and direction for ``step``, from torch-shaped weights.

    ``weights`` has weight_ih (G*H, I), weight_hh (G*H, K) and, where there are any, bias_ih, bias_hh (G*H,) and
    weight_hr (K, H).
    """
    w_ih, w_hh = weights["weight_ih"], weights["weight_hh"]
    z = sizes(cell, vector_numbers(lanes, w_ih.dtype), I, H, K)
    w = aligned((z.end,), w_ih.dtype)
    _blocks(_biases(cell, weights, H), z, w[z.bias : z.from_x])
    _blocks(_gates(cell.gates, cell.of_input(), w_ih, H), z, w[z.from_x : z.from_h])
    _blocks(_gates(cell.gates, cell.of_hidden(), w_hh, H), z, w[z.from_h : z.projection])
    if cell.projected:
        _panels(weights["weight_hr"].T[None], z.W, w[z.projection :])
    return _net(cell, w, lanes, I, H, K)


def join_forward(nets: list[Any]) -> Any:
    """The networks of a stack's layers as one."""
    first, w = nets[0], aligned((sum(net.w.size for net in nets),), nets[0].w.dtype)
    np.concatenate([net.w for net in nets], out=w)
    w.flags.writeable = False
    return first._replace(w=w, L=len(nets))


def pack_backward(cell: type[Cell], lanes: type[Lanes], weights: Weights, I: int, H: int, K: int) -> Any:
    """The network for ``carry`` and ``unproject``: what leads gradients from the sums to the h before the step."""
    w_hh = weights["weight_hh"]
    W = vector_numbers(lanes, w_hh.dtype)
    carried = len(w_hh) * padded(K, NV * W)
    projected = K * padded(H, NV * W) if cell.projected else 0
    w = aligned((carried + projected,), w_hh.dtype)
    _panels(_gates(cell.gates, cell.of_hidden(), w_hh, H), W, w[:carried])
    if cell.projected:
        _panels(weights["weight_hr"][None], W, w[carried:])
    return _net(cell, w, lanes, I, H, K)


def pack_input(cell: type[Cell], lanes: type[Lanes], weight_ih: NDArray[Any], H: int) -> NDArray[Any]:
    """Panels of W_ih, for dx."""
    W, (rows, I) = vector_numbers(lanes, weight_ih.dtype), weight_ih.shape
    w = aligned((rows * padded(I, NV * W),), weight_ih.dtype)
    _panels(_gates(cell.gates, cell.of_input(), weight_ih, H), W, w)
    return w


def _net(cell: type[Cell], w: NDArray[Any], lanes: type[Lanes], I: int, H: int, K: int, L: int = 1) -> Any:
    w.flags.writeable = False
    return net_class(cell, lanes)(w, I, H, K, L)


def _gates(order: tuple[str, ...], wanted: tuple[str, ...], matrix: NDArray[Any], H: int) -> NDArray[Any]:
    """(G*H, n) to (G, H, n), gates as wanted."""
    if order == wanted:
        return matrix.reshape(len(order), H, -1)
    return matrix.reshape(len(order), H, -1)[[order.index(g) for g in wanted]]


def _biases(cell: type[Cell], weights: Weights, H: int) -> NDArray[Any]:
    """(S, H, 1): what each sum starts from."""
    bias = np.zeros((cell.sums(), H, 1), weights["weight_ih"].dtype)
    if "bias_ih" in weights:
        G = len(cell.gates)
        bias[:G] += _gates(cell.gates, cell.of_input(), weights["bias_ih"], H)
        bias[cell.sums() - G :] += _gates(cell.gates, cell.of_hidden(), weights["bias_hh"], H)
    return bias


def _blocks(matrix: NDArray[Any], z: Sizes, to: NDArray[Any]) -> None:
    """(gates, H, n) to (J, n, gates, U), zeros past H.

    By way of a copy whose rows lie apart by an odd number of cache lines: those of a matrix with a power of two of
    columns would all fall into the same few places of a cache, which makes this take 2.5 times as long.
    """
    gates, H, n = matrix.shape
    blocks, line = to.reshape(z.J, n, gates, z.U), 64 // matrix.itemsize
    rows = np.zeros((gates, z.U, (n // line | 1) * line + 2 * line), matrix.dtype)[:, :, :n]
    for j, block in enumerate(blocks):
        first = j * z.U
        count = min(z.U, H - first)
        rows[:, :count] = matrix[:, first : first + count]
        rows[:, count:] = 0
        block[...] = rows.transpose(2, 0, 1)


def _panels(matrix: NDArray[Any], W: int, to: NDArray[Any]) -> None:
    """(parts, depth, n) to (ceil(n / (NV W)), parts, depth, NV W), zeros past n."""
    parts, depth, n = matrix.shape
    block = NV * W
    panels, whole = to.reshape(-1, parts, depth, block), n // block
    split = matrix[:, :, : whole * block].reshape(parts, depth, whole, block)
    panels[:whole] = split.transpose(2, 0, 1, 3)
    if whole < len(panels):
        panels[whole] = 0
        panels[whole, :, :, : n % block] = matrix[:, :, whole * block :]


def unpack(cell: type[Cell], totals: Any, H: int, to: Weights) -> None:
    """Gradients summed by ``_cpu.gradients`` into arrays named and shaped as the weights."""
    G, S = len(cell.gates), cell.sums()
    bias = totals.bias[0].reshape(S, -1)
    ways = (
        ("ih", cell.of_input(), totals.w_ih[0], bias[:G]),
        ("hh", cell.of_hidden(), totals.w_hh[0], bias[S - G :]),
    )
    for way, gates, weights, biases in ways:
        target = to[f"weight_{way}"]
        rows = weights.reshape(G, -1, weights.shape[1])[:, :H, : target.shape[1]]
        for g, name in enumerate(gates):
            first = cell.gates.index(name) * H
            target[first : first + H] = rows[g]
            if f"bias_{way}" in to:
                to[f"bias_{way}"][first : first + H] = biases[g, :H]
    if cell.projected:
        K = to["weight_hr"].shape[0]
        to["weight_hr"][:] = totals.w_hr[0, :K, :H]
