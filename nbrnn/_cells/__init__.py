"""The mathematics of each cell, once: forward beside derivative."""

from .base import Cell
from .gru import GRU
from .lstm import LSTM, LSTMProjected
from .rnn import RNNRelu, RNNTanh

__all__ = ["GRU", "LSTM", "Cell", "LSTMProjected", "RNNRelu", "RNNTanh"]
