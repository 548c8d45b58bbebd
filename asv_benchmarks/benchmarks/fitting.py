"""Epochs of fit: batching, forward, loss, backward, clipping, optimiser."""

import numpy as np

import nbrnn


class Epoch:
    """Sequences of 7 to 26 steps, put together by length; a long one in stretches."""

    def setup(self):
        rng = np.random.default_rng(0)
        self.xs = [rng.standard_normal((n, 12)).astype(np.float32) for n in rng.integers(7, 27, 270)]
        self.ragged = self.xs, [rng.integers(0, 9, len(x)) for x in self.xs]
        self.long = rng.standard_normal((1000, 16, 12)).astype(np.float32), rng.integers(0, 9, (1000, 16))
        self.net = nbrnn.Sequential(nbrnn.LSTM(12, 64, rng=0), nbrnn.Linear(64, 9, rng=1))
        self.opt = nbrnn.optim.Adam(self.net)
        self.time_ragged()
        self.time_stretches()

    def _fit(self, data, **options):
        loss = nbrnn.losses.cross_entropy
        nbrnn.fit(self.net, data, loss, self.opt, 1, clip_norm=1.0, rng=0, progress=False, **options)

    def time_ragged(self):
        self._fit(self.ragged)

    def time_stretches(self):
        self._fit(self.long, bptt=50)

    def time_putting_together(self):
        data = nbrnn.training.data.source(self.net, self.ragged, "data", 32)
        for indices in data.plan(np.random.default_rng(0)):
            data.batch(indices)
