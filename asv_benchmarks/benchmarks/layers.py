"""Forward and backward of the three cells."""

import numpy as np

import nbrnn

from .common import CELLS, DTYPES, SHAPES, layer_and_inputs


class Inference:
    """A call: y and the final state."""

    params = (CELLS, SHAPES, DTYPES)
    param_names = ("cell", "shape (T, B, I, H)", "dtype")

    def setup(self, cell, shape, dtype):
        self.layer, self.x, _ = layer_and_inputs(cell, shape, dtype)

    def time_call(self, cell, shape, dtype):
        self.layer(self.x)


class Training:
    """forward with a tape, then backward with all gradients."""

    params = (CELLS, SHAPES, DTYPES)
    param_names = ("cell", "shape (T, B, I, H)", "dtype")

    def setup(self, cell, shape, dtype):
        self.layer, self.x, self.dy = layer_and_inputs(cell, shape, dtype)
        self.tape = self.layer.forward(self.x)[2]

    def time_forward(self, cell, shape, dtype):
        self.layer.forward(self.x)

    def time_backward(self, cell, shape, dtype):
        self.layer.backward(self.tape, self.dy, retain=True)

    def time_forward_backward(self, cell, shape, dtype):
        self.layer.backward(self.layer.forward(self.x)[2], self.dy)

    def time_checkpointed(self, cell, shape, dtype):
        self.layer.backward(self.layer.forward(self.x, checkpoint="sqrt")[2], self.dy)


class Compiled:
    """A thousand steps inside compiled code."""

    params = (CELLS, ((1, 16), (16, 64), (128, 128)))
    param_names = ("cell", "(I, H)")

    def setup(self, cell, sizes):
        layer, self.x, _ = layer_and_inputs(cell, (1000, 1, *sizes))
        self.net, self.x = layer.jit(), self.x[:, 0]
        self.state, self.y = nbrnn.jit.zero_state(self.net), np.empty((1000, sizes[1]), np.float32)
        nbrnn.jit.run(self.net, self.x, self.state, self.y)

    def time_thousand_steps(self, cell, sizes):
        nbrnn.jit.run(self.net, self.x, self.state, self.y)


class Stream:
    """One step from Python."""

    params = (CELLS, ((16, 64), (128, 128)))
    param_names = ("cell", "(I, H)")

    def setup(self, cell, sizes):
        layer, x, _ = layer_and_inputs(cell, (1, 1, *sizes))
        self.stream, self.x = layer.stream(), x[0, 0]
        self.out = self.stream(self.x)

    def time_step(self, cell, sizes):
        self.stream(self.x, self.out)
