"""The long short-term memory (Hochreiter and Schmidhuber 1997; with the forget gate of Gers et al. 2000):

    i = sigmoid(a_i)    f = sigmoid(a_f)    g = tanh(a_g)    o = sigmoid(a_o)
    c' = f c + i g
    h' = o tanh(c')

With a projection (Sak et al. 2014, arXiv:1402.1128), h' = W_hr (o tanh(c')).
"""

from __future__ import annotations

from .base import Cell
from .ops import sigmoid, tanh


class LSTM(Cell):
    """Gates i (input), f (forget), g (cell), o (output)."""

    gates = ("i", "f", "g", "o")
    state = ("h", "c")
    saved = ("i", "f", "g", "o", "c")

    @staticmethod
    def forward(sums, state):
        a_i, a_f, a_g, a_o = sums
        _, c = state
        i, f, g, o = sigmoid(a_i), sigmoid(a_f), tanh(a_g), sigmoid(a_o)
        c_new = f * c + i * g
        return (o * tanh(c_new), c_new), (i, f, g, o, c)

    @staticmethod
    def backward(dstate, saved):
        (dh, dc), (i, f, g, o, c) = dstate, saved
        m = tanh(f * c + i * g)
        dc = dc + dh * o * (1 - m * m)
        da_i = dc * g * i * (1 - i)
        da_f = dc * c * f * (1 - f)
        da_g = dc * i * (1 - g * g)
        da_o = dh * m * o * (1 - o)
        return (da_i, da_f, da_g, da_o), (0, dc * f)


class LSTMProjected(LSTM):
    """The same, with h' projected."""

    projected = True
