"""Training: ``fit``, what it returns, and scores of a trained network."""

from .evaluate import Scores, evaluate
from .fitting import fit
from .history import History, NotFiniteError

__all__ = ["History", "NotFiniteError", "Scores", "evaluate", "fit"]
