"""Random layers with random inputs, for all tests that compare or transform."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

import nbrnn
from tests.minimal_gated_unit import MGULayer
from tests.reference import cells, layers

KINDS = ("tanh", "relu", "GRU", "LSTM", "projected")
DTYPES = ("float32", "float64")


def examples(times):
    """Settings for so many times the examples that the profile has."""
    return settings(max_examples=round(times * settings().max_examples))


@dataclasses.dataclass
class Case:
    """What a layer and its inputs are made of; everything random follows from the seed."""

    kind: str = "LSTM"
    dtype: str = "float64"
    T: int = 5
    B: int = 3
    I: int = 2
    H: int = 4
    P: int = 0
    L: int = 1
    bidirectional: bool = False
    bias: bool = True
    batch_first: bool = False
    batched: bool = True
    dropout: float = 0.0
    recurrent_dropout: float = 0.0
    ragged: bool = False
    cut: bool = False
    stateful: bool = False
    checkpoint: Any = None
    strided: bool = False
    seed: int = 0

    def __post_init__(self):
        if not self.batched:
            self.B, self.ragged, self.batch_first = 1, False, False
        if self.kind == "projected":
            self.H = max(2, self.H)
            self.P = 1 + (max(1, self.P) - 1) % (self.H - 1)
        else:
            self.P = 0
        rng = np.random.default_rng(self.seed)
        options = dict(
            num_layers=self.L, bias=self.bias, batch_first=self.batch_first, dropout=self.dropout,
            bidirectional=self.bidirectional, dtype=self.dtype, rng=self.seed, recurrent_dropout=self.recurrent_dropout,
        )  # fmt: skip
        if self.kind in ("tanh", "relu"):
            self.layer = nbrnn.RNN(self.I, self.H, nonlinearity=self.kind, **options)
        elif self.kind == "MGU":
            self.layer = MGULayer(self.I, self.H, **options)
        elif self.kind == "GRU":
            self.layer = nbrnn.GRU(self.I, self.H, **options)
        else:
            self.layer = nbrnn.LSTM(self.I, self.H, proj_size=self.P, **options)
        self.K, self.D = self.P or self.H, 2 if self.bidirectional else 1
        units = self.L * self.D
        self.has_c = self.kind in ("LSTM", "projected")

        def draw(*shape):
            return rng.normal(size=shape).astype(self.dtype)

        # Time-major and batched; ``user`` turns them into what the layer takes.
        self.x, self.dy = draw(self.T, self.B, self.I), draw(self.T, self.B, self.D * self.K)
        self.h, self.c = draw(units, self.B, self.K), draw(units, self.B, self.H)
        self.dh, self.dc = draw(units, self.B, self.K), draw(units, self.B, self.H)
        if self.strided:  # which doesn't go the short way of small calls
            self.x = np.repeat(self.x, 2, 2)[:, :, ::2]
        if not self.stateful:
            self.h[:], self.c[:] = 0, 0
        self.lengths = rng.integers(0, self.T + 1, self.B) if self.ragged else None
        self.resets = rng.random((self.T, self.B)) < 0.3 if self.cut else None

    # Between (T, B, ...) and the user's axes

    def user(self, a):
        """A sequence array as the layer takes it."""
        if a is None:
            return None
        if not self.batched:
            return a[:, 0]
        return a.swapaxes(0, 1) if self.batch_first else a

    def ours(self, a):
        """The way back."""
        if not self.batched:
            return a[:, None]
        return a.swapaxes(0, 1) if self.batch_first else a

    def state(self, h, c):
        """A state as the layer takes it."""
        if not self.batched:
            h, c = h[:, 0], c[:, 0]
        return (h, c) if self.has_c else h

    def split(self, state):
        """(h, c), batched, from a layer's state; c may be None."""
        h, c = state if self.has_c else (state, None)
        if not self.batched:
            h, c = h[:, None], None if c is None else c[:, None]
        return h, c

    def arguments(self):
        """Keywords of a call."""
        given = {"lengths": self.lengths, "resets": self.user(self.resets)}
        if self.stateful:
            given["state"] = self.state(self.h, self.c)
        return given

    def train(self, x=None, dy=None, dstate=True, rng=None, checkpoint=None, **changed):
        """(y, h, c, grads), all (T, B, ...), of forward and backward."""
        arguments = self.arguments() | changed
        x, dy = self.user(self.x) if x is None else x, self.user(self.dy) if dy is None else dy
        y, state, tape = self.layer.forward(x, rng=rng, checkpoint=checkpoint or self.checkpoint, **arguments)
        grads = self.layer.backward(tape, dy, self.state(self.dh, self.dc) if dstate is True else dstate)
        return self.ours(y), *self.split(state), grads

    def reference(self):
        """The same layer in float64 loops."""
        if self.kind in ("tanh", "relu"):
            cell = cells.RNN(self.kind)
        else:
            cell = {"GRU": cells.GRU, "MGU": cells.MGU}.get(self.kind, cells.LSTM)()
        return layers.Layer(cell, self.layer.params, self.L, self.D, self.dropout, self.recurrent_dropout)


@st.composite
def cases(draw, **fixed):
    """Any case, small; ``fixed`` fields are given or drawn from strategies."""
    free = dict(
        kind=st.sampled_from(KINDS),
        dtype=st.sampled_from(DTYPES),
        T=st.integers(0, 9),
        B=st.integers(0, 9),
        I=st.integers(1, 19),
        H=st.one_of(st.integers(1, 20), st.sampled_from([31, 32, 33])),
        P=st.integers(1, 40),
        L=st.integers(1, 3),
        bidirectional=st.booleans(),
        bias=st.booleans(),
        batch_first=st.booleans(),
        batched=st.booleans(),
        ragged=st.booleans(),
        cut=st.booleans(),
        stateful=st.booleans(),
        checkpoint=st.sampled_from([None, None, 1, 2, 3, "sqrt", 100]),
        strided=st.booleans(),
        seed=st.integers(0, 10**6),
    )
    values = {}
    for name, strategy in (free | fixed).items():
        values[name] = draw(strategy) if isinstance(strategy, st.SearchStrategy) else strategy
    return Case(**values)
