"""A cell of one's own in one file: the minimal gated unit (Zhou et al. 2016, arXiv:1603.09420), with the forget gate
after the product, as the GRU's reset gate:

    f  = sigmoid(a_f)
    n  = tanh(W_n x + b_in + f * (U_n h + b_hn))
    h' = (1 - f) h + f n
"""

from nbrnn._cells import Cell
from nbrnn._cells.ops import sigmoid, tanh
from nbrnn.recurrent import Recurrent


class MGU(Cell):
    """Gates f (forget), n (new)."""

    gates = ("f", "n")
    split = ("n",)
    saved = ("f", "n", "n_h", "h")

    @staticmethod
    def forward(sums, state):
        n_x, a_f, n_h = sums
        (h,) = state
        f = sigmoid(a_f)
        n = tanh(n_x + f * n_h)
        return (h + f * (n - h),), (f, n, n_h, h)

    @staticmethod
    def backward(dstate, saved):
        (dh,), (f, n, n_h, h) = dstate, saved
        dn_x = dh * f * (1 - n * n)
        da_f = (dh * (n - h) + dn_x * n_h) * f * (1 - f)
        return (dn_x, da_f, dn_x * f), (dh * (1 - f),)


class MGULayer(Recurrent):
    """Layers of minimal gated units, with everything that RNN, GRU and LSTM can do."""

    cell = MGU
