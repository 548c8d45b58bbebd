"""The gated recurrent unit (Cho et al. 2014, arXiv:1406.1078, eq. 5-8), with the reset gate applied after the
product with U_n, as in cuDNN and torch:

    r  = sigmoid(a_r)
    z  = sigmoid(a_z)
    n  = tanh(W_n x + b_in + r * (U_n h + b_hn))
    h' = (1 - z) n + z h
"""

from __future__ import annotations

from .base import Cell
from .ops import sigmoid, tanh


class GRU(Cell):
    """Gates r (reset), z (update), n (new)."""

    gates = ("r", "z", "n")
    split = ("n",)
    saved = ("r", "z", "n", "n_h", "h")

    @staticmethod
    def forward(sums, state):
        n_x, a_r, a_z, n_h = sums
        (h,) = state
        r, z = sigmoid(a_r), sigmoid(a_z)
        n = tanh(n_x + r * n_h)
        return (n + z * (h - n),), (r, z, n, n_h, h)

    @staticmethod
    def backward(dstate, saved):
        (dh,), (r, z, n, n_h, h) = dstate, saved
        dn_x = dh * (1 - z) * (1 - n * n)
        da_r = dn_x * n_h * r * (1 - r)
        da_z = dh * (h - n) * z * (1 - z)
        return (dn_x, da_r, da_z, dn_x * r), (dh * z,)
