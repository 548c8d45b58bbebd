"""Networks for users' own CUDA kernels: a NamedTuple of one buffer on the device and its sizes, as on the CPU.

A thread steps a sequence of its own (``thread.step``).  All threads of a warp read the same weight at the same time:
one word of a cache, handed to all.  What they don't share are x and the state: a number of those is read once for a
*block* of U hidden units, all gates, whose sums are in registers.  So what a number of x meets stands side by side:

    bias [S][U], from x [I][G][U], from h [K][G][U], projection [K][U]      for each of ceil(H / U) blocks,

with G gates, S sums (``Cell``), and all layers one behind the other.  U is a multiple of 4, so that weights are read
16 bytes at a time, which is as many numbers in a fourth of the instructions.  Units past H have weights 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._cells import Cell
from .._kernel import CUDA_CORE, core_of, digest_of
from .._nets import cell_of, is_net, lanes_of, net_class
from .machine import Machine

Weights = Mapping[str, NDArray[Any]]

#: In place of a vector width, in what a network's class stands for.  Its name goes into that of the class, and into the
#: cache of users' kernels: what was compiled by other sources is never taken for ours.
THREAD = type(f"Cuda{digest_of(*core_of(Path(__file__).parents[1], CUDA_CORE))[:8]}", (), {})


def units(cell: type[Cell]) -> int:
    """U: such that 8 to 16 products use a number of x, and as many sums stay in registers."""
    return 4 if len(cell.gates) > 2 else 8


class Constant:
    """A vector on a device that has arrived and doesn't change.

    Others see it by the interface of CUDA arrays alone, and that names no stream: numba-cuda, for one, makes the stream
    wait, or waits itself, at every launch that is given an array with more to say.

    Parameters
    ----------
    machine : Machine
    array : ndarray, shape (n,)
        Of the host's: copied.
    """

    __slots__ = ("flat", "machine")

    def __init__(self, machine: Machine, array: NDArray[Any]) -> None:
        self.machine, self.flat = machine, machine.put(array)
        machine.get(self.flat[:1])  # waits

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3."""
        return {
            "version": 3,
            "shape": (self.flat.size,),
            "typestr": self.flat.dtype.str,
            "data": (self.machine.address(self.flat), True),
            "strides": None,
            "stream": None,
        }


def thread_net(machine: Machine, cell: type[Cell], layers: Sequence[Weights]) -> Any:
    """What ``jit()`` of a layer on a device returns.

    Parameters
    ----------
    machine : Machine
    cell : type of Cell
    layers : sequence of mappings
        For each layer, from the first, arrays of the host's: torch's weight_ih (G*H, I or K), weight_hh (G*H, K), and
        where there are any bias_ih, bias_hh (G*H,) and weight_hr (K, H).

    Returns
    -------
    NamedTuple
        An array that numba-cuda takes as it is, and numbers.
    """
    rows, K = layers[0]["weight_hh"].shape
    w = np.concatenate([pack(cell, weights) for weights in layers])
    H = rows // len(cell.gates)
    return net_class(cell, THREAD)(Constant(machine, w), layers[0]["weight_ih"].shape[1], H, K, len(layers))


def pack(cell: type[Cell], weights: Weights) -> NDArray[Any]:
    """A layer's buffer, flat."""
    w_ih, w_hh, G, S, U = weights["weight_ih"], weights["weight_hh"], len(cell.gates), cell.sums(), units(cell)
    H = len(w_hh) // G
    bias = np.zeros((S, H), w_ih.dtype)
    if "bias_ih" in weights:
        bias[:G] += _by_gate(cell, cell.of_input(), weights["bias_ih"])
        bias[S - G :] += _by_gate(cell, cell.of_hidden(), weights["bias_hh"])
    parts = [
        bias[None],
        _by_gate(cell, cell.of_input(), w_ih).transpose(2, 0, 1),
        _by_gate(cell, cell.of_hidden(), w_hh).transpose(2, 0, 1),
    ]
    if cell.projected:
        parts.append(weights["weight_hr"][:, None])
    blocks = -(-H // U)
    packed = []
    for part in parts:  # (n, gates or sums or 1, H)
        full = np.zeros((*part.shape[:2], blocks * U), w_ih.dtype)
        full[:, :, :H] = part
        packed.append(full.reshape(*part.shape[:2], blocks, U).transpose(2, 0, 1, 3).reshape(blocks, -1))
    return np.concatenate(packed, axis=1).reshape(-1)


def _by_gate(cell: type[Cell], wanted: tuple[str, ...], matrix: NDArray[Any]) -> NDArray[Any]:
    """(G*H, ...) to (G, H, ...), gates as wanted."""
    order = cell.gates
    return matrix.reshape(len(order), -1, *matrix.shape[1:])[[order.index(g) for g in wanted]]


def cell_of_thread(net: Any) -> type[Cell] | None:
    """The cell of a network's type as numba-cuda has it; None if it is that of a layer on the CPU.

    Raises
    ------
    LookupError
        It isn't a network.
    """
    if not is_net(net):
        raise LookupError
    return cell_of(net) if lanes_of(net) is THREAD else None
