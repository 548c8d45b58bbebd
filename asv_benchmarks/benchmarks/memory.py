"""Largest memory of a process over long sequences."""

import numpy as np

import nbrnn

from .common import CELLS


class Peak:
    """T = 100,000 steps of (I, H) = (4, 32)."""

    params = (CELLS,)
    param_names = ("cell",)

    def setup(self, cell):
        self.layer = getattr(nbrnn, cell)(4, 32, rng=0)
        self.x = np.ones((100_000, 1, 4), np.float32)

    def peakmem_inference(self, cell):
        self.layer(self.x)

    def peakmem_training(self, cell):
        y, _, tape = self.layer.forward(self.x)
        self.layer.backward(tape, np.ones_like(y))

    def peakmem_training_checkpointed(self, cell):
        y, _, tape = self.layer.forward(self.x, checkpoint="sqrt")
        self.layer.backward(tape, np.ones_like(y))
