"""Recurrent neural networks for people who live in NumPy, SciPy and Numba."""

from .layers import GRU, LSTM, RNN

__all__ = ["GRU", "LSTM", "RNN"]
__version__ = "0.1.0"
