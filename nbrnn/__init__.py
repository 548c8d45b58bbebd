"""Recurrent neural networks for people who live in NumPy, SciPy and Numba."""

from . import jit, losses, optim
from ._version import __version__
from .cells import GRUCell, LSTMCell, RNNCell
from .embedding import Embedding
from .io import from_torch, load, save
from .layers import GRU, LSTM, RNN
from .module import Gradients
from .networks import Sequential
from .normalise import LayerNorm
from .optim import clip_grad_norm
from .pointwise import Dropout, Linear
from .pool import Pool
from .training import fit

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Dropout",
    "Embedding",
    "GRUCell",
    "Gradients",
    "LSTMCell",
    "LayerNorm",
    "Linear",
    "Pool",
    "RNNCell",
    "Sequential",
    "__version__",
    "clip_grad_norm",
    "fit",
    "from_torch",
    "jit",
    "load",
    "losses",
    "optim",
    "save",
]
