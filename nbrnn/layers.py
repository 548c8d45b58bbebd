"""Recurrent layers: RNN, GRU and LSTM."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from . import _cells, _check, initial
from .module import Seed
from .recurrent import Recurrent


class RNN(Recurrent):
    """Plain recurrent layers (Elman).

    h_t = act(W_ih x_t + b_ih + W_hh h_(t-1) + b_hh)

    Parameters
    ----------
    input_size, hidden_size : int
        I and H, >= 1.
    num_layers : int
        Layers on top of each other; each takes the output of the one below.
    nonlinearity : "tanh" or "relu"
        act.
    bias : bool
        Whether there are b_ih and b_hh.
    batch_first : bool
        Whether x and y are (B, T, ...) rather than (T, B, ...).  States are not affected.
    dropout : float
        Probability, 0..1, with which ``forward`` drops each number that one layer hands to the next.
    bidirectional : bool
        Whether a second direction runs from each sequence's last step to its first.
    dtype : float32 or float64
        Of parameters, inputs, outputs and all arithmetic.
    rng : numpy.random.Generator, seed or None
        For the initial parameters, U(-1/sqrt(H), 1/sqrt(H)) where nothing else is said, and for dropout.
    recurrent_dropout : float
        Probability, 0..1, with which ``forward`` drops each number of h where it enters W_hh: the same ones at every
        step of a sequence, chosen anew for each sequence, layer and direction.
    kernel_init, recurrent_init : "orthogonal", "glorot", "he", "identity", a function or None
        What the weight_ih, the weight_hh begin with: see ``nbrnn.initial``; None: as the rest.  The names stand for a
        matrix drawn for each gate.  A function ``f(shape, rng)`` gives the whole matrix, gates one below the other; it
        is kept, so for the layer to be pickled it must stand at the top of a module.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong kind or out of range.

    References
    ----------
    J. L. Elman, "Finding structure in time", Cognitive Science 14 (1990); Y. Gal and Z. Ghahramani, arXiv:1512.05287
    (2016) for ``recurrent_dropout``.

    Examples
    --------
    >>> import numpy as np, nbrnn
    >>> layer = nbrnn.RNN(3, 5, rng=0)
    >>> y, h = layer(np.ones((7, 2, 3), np.float32))
    >>> y.shape, h.shape
    ((7, 2, 5), (1, 2, 5))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        dtype: DTypeLike = np.float32,
        rng: Seed = None,
        recurrent_dropout: float = 0.0,
        kernel_init: initial.Init = None,
        recurrent_init: initial.Init = None,
    ) -> None:
        self.nonlinearity: str = _check.choice(nonlinearity, "nonlinearity", ("tanh", "relu"))
        self.cell = _cells.RNNTanh if nonlinearity == "tanh" else _cells.RNNRelu
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            dtype=dtype,
            rng=rng,
            recurrent_dropout=recurrent_dropout,
            kernel_init=kernel_init,
            recurrent_init=recurrent_init,
        )


class GRU(Recurrent):
    """Gated recurrent units.

    r = sigmoid(W_ir x + b_ir + W_hr h + b_hr), z = sigmoid(W_iz x + b_iz + W_hz h + b_hz),
    n = tanh(W_in x + b_in + r (W_hn h + b_hn)), h' = (1 - z) n + z h

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional
        As for ``RNN``.  Weights hold the gates in the order r, z, n.
    dtype, rng, recurrent_dropout, kernel_init, recurrent_init
        As for ``RNN``.

    Raises
    ------
    TypeError, ValueError
        As for ``RNN``.

    References
    ----------
    K. Cho et al., "Learning phrase representations using RNN encoder-decoder", arXiv:1406.1078 (2014), eq. 5-8; the
    reset gate acts after the product with W_hn, as in cuDNN and torch.

    Examples
    --------
    >>> import numpy as np, nbrnn
    >>> layer = nbrnn.GRU(3, 5, num_layers=2, bidirectional=True, rng=0)
    >>> y, h = layer(np.ones((7, 2, 3), np.float32))
    >>> y.shape, h.shape
    ((7, 2, 10), (4, 2, 5))
    """

    cell = _cells.GRU


class LSTM(Recurrent):
    """Long short-term memory.

    i = sigmoid(W_ii x + b_ii + W_hi h + b_hi), likewise f and o, g = tanh(...),
    c' = f c + i g, h' = o tanh(c'), or with a projection h' = W_hr (o tanh(c'))

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional
        As for ``RNN``.  Weights hold the gates in the order i, f, g, o.
    proj_size : int
        P: size that h is projected to, 0 <= P < H; 0: no projection.
    dtype, rng, recurrent_dropout, kernel_init, recurrent_init
        As for ``RNN``.
    forget_bias : float, optional
        What b_if + b_hf begins with, exactly; 1 or more makes the cell remember from the start.  None: as the rest.

    Raises
    ------
    TypeError, ValueError
        As for ``RNN``.

    References
    ----------
    S. Hochreiter and J. Schmidhuber, "Long short-term memory", Neural Computation 9 (1997); F. Gers et al., "Learning
    to forget", Neural Computation 12 (2000); H. Sak et al., arXiv:1402.1128 (2014) for the projection; R. Jozefowicz et
    al., "An empirical exploration of recurrent network architectures", ICML (2015) for the bias of the forget gate.

    Examples
    --------
    >>> import numpy as np, nbrnn
    >>> layer = nbrnn.LSTM(3, 5, proj_size=2, rng=0)
    >>> y, (h, c) = layer(np.ones((7, 2, 3), np.float32))
    >>> y.shape, h.shape, c.shape
    ((7, 2, 2), (1, 2, 2), (1, 2, 5))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        dtype: DTypeLike = np.float32,
        rng: Seed = None,
        recurrent_dropout: float = 0.0,
        kernel_init: initial.Init = None,
        recurrent_init: initial.Init = None,
        forget_bias: float | None = None,
    ) -> None:
        H, P = _check.size(hidden_size, "hidden_size"), _check.size(proj_size, "proj_size", 0)
        if P >= H:
            raise ValueError(f"proj_size must be smaller than hidden_size ({H}), got {P}")
        if forget_bias is not None:
            self.forget_bias = _check.number(forget_bias, "forget_bias")
            if not _check.flag(bias, "bias"):
                raise ValueError(f"forget_bias must be None without biases, got {forget_bias!r} with bias=False")
        self.proj_size = P
        self.cell = _cells.LSTMProjected if P else _cells.LSTM
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            dtype=dtype,
            rng=rng,
            recurrent_dropout=recurrent_dropout,
            kernel_init=kernel_init,
            recurrent_init=recurrent_init,
        )
