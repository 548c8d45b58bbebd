"""Attention of Luong and others: each step of a decoder looks back at all outputs of the encoder.

For the outputs h_t (K,) of the decoder and s_j (S,) of the encoder::

    score(h_t, s_j) = h_t . s_j  ("dot")  or  h_t . W_a s_j  ("general")         eq. 8
    a_t             = softmax over j of score(h_t, s_j)                           eq. 7
    c_t             = sum over j of a_t(j) s_j
    h~_t            = tanh(W_c [c_t; h_t])                                        eq. 5

M.-T. Luong, H. Pham and C. D. Manning, "Effective approaches to attention-based neural machine translation", EMNLP
2015.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from ._cpu.activation import activate
from ._cpu.linear import product, product_of_columns
from ._memory import require
from ._params import Array, Parameters
from .module import Parametric, Seed

KINDS = (None, "dot", "general")


@dataclasses.dataclass
class Memory:
    """What there is to look back at.

    Attributes
    ----------
    s : (B, J, S)
        Outputs of the encoder, 0 past a sequence's end.
    keys : (B, J, K)
        What h is compared with: s, or W_a s.
    outside : (B, 1, J) bool, or None
        What lies past the ends; None: nothing.
    """

    s: Array
    keys: Array
    outside: Array | None

    def take(self, rows: Array) -> Memory:
        """Of the sequences at these places."""
        s = self.s[rows]
        keys = s if self.keys is self.s else self.keys[rows]
        return Memory(s, keys, None if self.outside is None else self.outside[rows])


@dataclasses.dataclass
class Looked:
    """What ``forward`` leaves for the way back; all (B, T, ...)."""

    memory: Memory
    joined: Array  # [c; h], (B, T, S + K)
    weights: Array  # a, (B, T, J)
    y: Array  # h~, (B, T, K)


class Attention(Parametric):
    """The parameters of attention, and what is done with them.

    Parameters
    ----------
    kind : "dot" or "general"
    source_size : int
        S, size of the encoder's outputs.
    size : int
        K, size of the decoder's; the same for "dot".
    dtype : dtype
    rng : numpy.random.Generator, seed or None
        For the initial parameters, uniform within 1/sqrt(n) for n inputs: W_c (K, S + K) and, for "general",
        W_a (K, S).
    """

    def __init__(self, kind: str, source_size: int, size: int, dtype: np.dtype[np.floating], rng: Seed) -> None:
        super().__init__(rng)
        self.kind, self.source_size, self.size = kind, source_size, size
        shapes = {"weight_a": (size, source_size)} if kind == "general" else {}
        shapes["weight_c"] = (size, source_size + size)
        require(lambda: "attention", dtype, parameters=sum(map(math.prod, shapes.values())))
        self._parameters = Parameters(shapes, dtype)
        for name, shape in shapes.items():
            bound = 1 / math.sqrt(shape[1])
            self.params[name] = self._rng.uniform(-bound, bound, shape)
        self._fix()

    def memory(self, s: Array, lengths: Array | None) -> Memory:
        """For s (J, B, S), which is 0 past the ends."""
        s = np.ascontiguousarray(s.swapaxes(0, 1))
        keys = s if self.kind == "dot" else _product(s, self._parameters.arrays["weight_a"], across=True)
        return Memory(s, keys, None if lengths is None else np.arange(s.shape[1]) >= lengths[:, None, None])

    def __call__(self, memory: Memory, h: Array) -> Array:
        """h~ (B, T, K) for h (B, T, K)."""
        return self.forward(memory, h).y

    def forward(self, memory: Memory, h: Array) -> Looked:
        """The same, with all that the way back needs.  Without a step to look at, c is 0."""
        weights = softmax(h @ memory.keys.swapaxes(1, 2), memory.outside)
        joined = np.concatenate([weights @ memory.s, h], -1)
        y = activate("tanh", _product(joined, self._parameters.arrays["weight_c"], across=True))
        return Looked(memory, joined, weights, y)

    def backward(self, looked: Looked, dy: Array) -> tuple[Array, Array, Array]:
        """(dh, ds, gradients of the parameters as one vector) for dy; dh (B, T, K), ds (J, B, S)."""
        s, keys, weights = looked.memory.s, looked.memory.keys, looked.weights
        S, K = self.source_size, self.size
        flat = np.empty(self._parameters.size, dy.dtype)
        gradients = self._parameters.views_of(flat)
        dz = dy * (1 - looked.y * looked.y)
        product_of_columns(dz.reshape(-1, K), looked.joined.reshape(-1, S + K), gradients["weight_c"])
        djoined = _product(dz, self._parameters.arrays["weight_c"])
        dc, dh, h = djoined[..., :S], djoined[..., S:], looked.joined[..., S:]
        ds = weights.swapaxes(1, 2) @ dc
        dweights = dc @ s.swapaxes(1, 2)
        dscores = weights * (dweights - (dweights * weights).sum(-1, keepdims=True))
        dkeys = dscores.swapaxes(1, 2) @ h
        if self.kind == "general":
            product_of_columns(dkeys.reshape(-1, K), s.reshape(-1, S), gradients["weight_a"])
            dkeys = _product(dkeys, self._parameters.arrays["weight_a"])
        return dh + dscores @ keys, (ds + dkeys).swapaxes(0, 1), flat


def _product(a: Array, matrix: Array, across: bool = False) -> Array:
    """See ``product``; a has axes before its last one."""
    c = product(a.reshape(-1, a.shape[-1]), matrix, across=across)
    return c.reshape(*a.shape[:-1], c.shape[1])


def softmax(scores: Array, outside: Array | None) -> Array:
    """Over the last axis, 0 outside; zeros where all is outside, or there is nothing."""
    if outside is not None:
        scores = np.where(outside, scores.dtype.type(-np.inf), scores)
    top = scores.max(-1, keepdims=True, initial=-np.inf)
    weights = activate("exp", scores - np.where(top > -np.inf, top, scores.dtype.type(0)))
    total = weights.sum(-1, keepdims=True)
    return weights / np.where(total > 0, total, scores.dtype.type(1))
