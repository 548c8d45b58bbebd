"""The plain recurrent cell (Elman 1990).

h' = act(a),   a = W_ih x + b_ih + W_hh h + b_hh
"""

from __future__ import annotations

from .base import Cell
from .ops import relu, tanh, where_positive


class RNNTanh(Cell):
    """h' = tanh(a)."""

    gates = ("h",)
    saved = ("h_new",)

    @staticmethod
    def forward(sums, state):
        (a,) = sums
        h_new = tanh(a)
        return (h_new,), (h_new,)

    @staticmethod
    def backward(dstate, saved):
        (dh,), (h_new,) = dstate, saved
        return (dh * (1 - h_new * h_new),), (0,)


class RNNRelu(Cell):
    """h' = max(a, 0)."""

    gates = ("h",)
    saved = ("h_new",)

    @staticmethod
    def forward(sums, state):
        (a,) = sums
        h_new = relu(a)
        return (h_new,), (h_new,)

    @staticmethod
    def backward(dstate, saved):
        (dh,), (h_new,) = dstate, saved
        return (where_positive(h_new, dh),), (0,)
