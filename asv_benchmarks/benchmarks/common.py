"""What all benchmarks share: cells, shapes, inputs.

Numba's threads are left alone; NumPy's are held at one, since timings of small arrays jump with them.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

import nbrnn

CELLS = ("RNN", "GRU", "LSTM")
DTYPES = ("float32", "float64")

#: (T, B, I, H): one step; one sequence; small and large batches; a long sequence; odd sizes.
SHAPES = (
    (1, 1, 16, 16),
    (100, 1, 256, 256),
    (100, 16, 64, 64),
    (50, 64, 256, 256),
    (1000, 1, 1, 32),
    (30, 7, 33, 97),
)


def layer_and_inputs(cell, shape, dtype="float32", **options):
    """(layer, x, dy) for a shape; kernels are compiled and weights packed."""
    T, B, I, H = shape
    rng = np.random.default_rng(0)
    layer = getattr(nbrnn, cell)(I, H, dtype=dtype, rng=rng, **options)
    directions = 2 if options.get("bidirectional") else 1
    x = rng.normal(size=(T, B, I)).astype(dtype)
    dy = rng.normal(size=(T, B, directions * H)).astype(dtype)
    layer(x)
    layer.backward(layer.forward(x)[2], dy)
    return layer, x, dy
