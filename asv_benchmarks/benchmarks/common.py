"""What all benchmarks share: cells, shapes, inputs.

NumPy's threads are held at one, since timings of small arrays jump with them; Numba's number, which nbrnn obeys, is a
parameter.  With NBRNN_BENCHMARKS=short a few shapes stand for all.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numba
import numpy as np

import nbrnn

CELLS = ("RNN", "GRU", "LSTM")
DTYPES = ("float32", "float64")
THREADS = (1, numba.config.NUMBA_NUM_THREADS) if numba.config.NUMBA_NUM_THREADS > 1 else (1,)

#: (T, B, I, H): one step; one sequence, with ever larger weights; small and large batches; a long sequence; odd sizes.
SHAPES = (
    (1, 1, 16, 16),
    (100, 1, 16, 64),
    (100, 1, 256, 256),
    (100, 1, 512, 1024),
    (100, 16, 64, 64),
    (50, 64, 128, 128),
    (50, 64, 256, 256),
    (50, 64, 512, 512),
    (1000, 1, 1, 32),
    (200, 32, 40, 256),
    (50, 64, 500, 500),
    (30, 7, 33, 97),
    (20, 512, 32, 64),
)
if os.environ.get("NBRNN_BENCHMARKS") == "short":
    SHAPES = ((1, 1, 16, 16), (100, 1, 256, 256), (100, 16, 64, 64), (50, 64, 256, 256), (30, 7, 33, 97))


def layer_and_inputs(cell, shape, dtype="float32", threads=1, lengths=None, **options):
    """(layer, x, dy) for a shape; kernels are compiled and weights packed, and calls use so many threads."""
    T, B, I, H = shape
    numba.set_num_threads(threads)
    rng = np.random.default_rng(0)
    layer = getattr(nbrnn, cell)(I, H, dtype=dtype, rng=rng, **options)
    directions = 2 if options.get("bidirectional") else 1
    x = rng.normal(size=(T, B, I)).astype(dtype)
    dy = rng.normal(size=(T, B, directions * H)).astype(dtype)
    layer(x, lengths=lengths)
    layer.backward(layer.forward(x, lengths=lengths)[2], dy)
    return layer, x, dy
