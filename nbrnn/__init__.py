"""Recurrent neural networks for people who live in NumPy, SciPy and Numba."""

import importlib
from typing import TYPE_CHECKING, Any

from . import _inside, jit  # noqa: F401 (numba-cuda is led by the former)
from ._version import __version__
from .cells import GRUCell, LSTMCell, RNNCell
from .layers import GRU, LSTM, RNN
from .module import Gradients
from .networks import Sequential
from .pointwise import Dropout, Linear

if TYPE_CHECKING:
    from . import decoding, diagnostics, losses, optim, training
    from .embedding import Embedding
    from .generation import generate
    from .io import from_torch, load, save
    from .normalise import LayerNorm
    from .optim import clip_grad_norm
    from .pool import Pool
    from .seq2seq import Seq2Seq
    from .training import fit

#: What is imported when it is first asked for, and the module it stands in: who runs a layer shouldn't wait for what
#: trains one.
_LATER = {
    "Embedding": "embedding",
    "LayerNorm": "normalise",
    "Pool": "pool",
    "Seq2Seq": "seq2seq",
    "clip_grad_norm": "optim",
    "fit": "training",
    "from_torch": "io",
    "generate": "generation",
    "load": "io",
    "save": "io",
}
_MODULES = ("decoding", "diagnostics", "estimators", "io", "losses", "optim", "training")

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
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    if name in _LATER:
        value = globals()[name] = getattr(importlib.import_module(f".{_LATER[name]}", __name__), name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, *_LATER})
