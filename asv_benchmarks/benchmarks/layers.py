"""Forward and backward of the three cells."""

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
