"""Recurrent neural networks for people who live in NumPy, SciPy and Numba."""

import importlib
from typing import Any

from . import decoding, diagnostics, jit, losses, optim, training
from ._version import __version__
from .cells import GRUCell, LSTMCell, RNNCell
from .embedding import Embedding
from .generation import generate
from .io import from_torch, load, save
from .layers import GRU, LSTM, RNN
from .module import Gradients
from .networks import Sequential
from .normalise import LayerNorm
from .optim import clip_grad_norm
from .pointwise import Dropout, Linear
from .pool import Pool
from .seq2seq import Seq2Seq
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
    "Seq2Seq",
    "Sequential",
    "__version__",
    "clip_grad_norm",
    "decoding",
    "diagnostics",
    "fit",
    "from_torch",
    "generate",
    "jit",
    "load",
    "losses",
    "optim",
    "save",
    "training",
]


def __getattr__(name: str) -> Any:
    """``nbrnn.estimators`` is imported when it is asked for: it needs scikit-learn, which takes a second."""
    if name == "estimators":
        return importlib.import_module(".estimators", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
