"""Layers on a GPU; left out where there is none.  A call has ended when its results are there."""

import numpy as np

import nbrnn
from nbrnn._cuda.array import DeviceArray
from nbrnn.gpu_check import found
from nbrnn.gpu_check.times import SHAPES

from .common import CELLS, DTYPES


def machine():
    """The GPU."""
    try:
        return found.find()
    except found.MissingError as error:
        raise NotImplementedError(str(error)) from None  # asv leaves the benchmark out


class Layers:
    """A call, and forward with backward, with inputs as wide as the layer."""

    params = (CELLS, SHAPES, DTYPES)
    param_names = ("cell", "shape (T, B, H)", "dtype")

    def setup(self, cell, shape, dtype):
        self.on = machine()
        T, B, H = shape
        rng = np.random.default_rng(0)
        self.layer = getattr(nbrnn, cell)(H, H, dtype=dtype, rng=0).to("cuda")
        self.x, self.dy = (DeviceArray.put(self.on, rng.normal(size=(T, B, H)).astype(dtype)) for _ in range(2))
        self.time_inference(cell, shape, dtype)
        self.time_training(cell, shape, dtype)

    def time_inference(self, cell, shape, dtype):
        self.layer(self.x)
        self.on.wait()

    def time_training(self, cell, shape, dtype):
        self.layer.backward(self.layer.forward(self.x)[2], self.dy)
        self.on.wait()


class Machine:
    """What each operation on a device costs, without waiting for it."""

    def setup(self):
        self.on = machine()
        self.numbers = np.zeros(1000, np.float32)
        self.array = self.on.put(self.numbers)

    def time_empty(self):
        self.on.empty(1000, self.numbers.dtype)

    def time_put(self):
        self.on.put(self.numbers)

    def time_get(self):
        self.on.get(self.array)

    def time_zero(self):
        self.on.zero(self.array)
