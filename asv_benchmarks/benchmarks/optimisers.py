"""Steps of the optimisers, and bounds for gradients."""

import math

import numpy as np

import nbrnn
from nbrnn.module import Gradients

from .common import DTYPES


class Steps:
    """On one thread, for as many parameters as two nets have."""

    params = (("SGD", "RMSprop", "Adam", "AdamW"), (1_000, 300_000), DTYPES)
    param_names = ("optimiser", "parameters", "dtype")

    def setup(self, kind, size, dtype):
        net = nbrnn.Linear(size, 1, bias=False, dtype=dtype, rng=0)
        self.grads = Gradients(None, None, {}, np.random.default_rng(0).normal(size=size).astype(dtype))
        self.opt = getattr(nbrnn.optim, kind)(net)
        self.opt.step(self.grads)

    def time_step(self, kind, size, dtype):
        self.opt.step(self.grads)


class Clip:
    """Measuring the norm, and bounding each number."""

    params = ((1_000, 300_000), DTYPES)
    param_names = ("parameters", "dtype")

    def setup(self, size, dtype):
        self.grads = Gradients(None, None, {}, np.random.default_rng(0).normal(size=size).astype(dtype))
        nbrnn.clip_grad_norm(self.grads, math.inf)

    def time_norm(self, size, dtype):
        nbrnn.clip_grad_norm(self.grads, math.inf)

    def time_value(self, size, dtype):
        nbrnn.optim.clip_grad_value(self.grads, 1.0)
