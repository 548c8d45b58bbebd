"""Recurrent neural networks for people who live in NumPy, SciPy and Numba."""

from . import diagnostics, jit, losses, optim
from ._version import __version__
from .cells import GRUCell, LSTMCell, RNNCell
from .layers import GRU, LSTM, RNN
from .module import Gradients
from .networks import Sequential
from .optim import clip_grad_norm
from .pointwise import Dropout, Linear
from .training import fit

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Dropout",
    "GRUCell",
    "Gradients",
    "LSTMCell",
    "Linear",
    "RNNCell",
    "Sequential",
    "__version__",
    "clip_grad_norm",
    "diagnostics",
    "fit",
    "jit",
    "losses",
    "optim",
]
