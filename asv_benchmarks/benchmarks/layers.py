"""Forward and backward of the three cells."""

import numba
import numpy as np

import nbrnn

from .common import CELLS, DTYPES, SHAPES, THREADS, layer_and_inputs


class Grid:
    """Layers of all shapes: a call, and forward with backward."""

    params = (CELLS, SHAPES, DTYPES, THREADS)
    param_names = ("cell", "shape (T, B, I, H)", "dtype", "threads")

    def setup(self, cell, shape, dtype, threads):
        self.layer, self.x, self.dy = layer_and_inputs(cell, shape, dtype, threads)

    def time_inference(self, cell, shape, dtype, threads):
        self.layer(self.x)

    def time_training(self, cell, shape, dtype, threads):
        self.layer.backward(self.layer.forward(self.x)[2], self.dy)


KINDS = {"two layers": {"num_layers": 2}, "bidirectional": {"bidirectional": True}, "ragged": {}}


class Kinds:
    """Stacks, directions and sequences of different lengths, at (T, B, I, H) = (100, 32, 64, 128)."""

    params = (CELLS, tuple(KINDS), THREADS)
    param_names = ("cell", "kind", "threads")

    def setup(self, cell, kind, threads):
        self.lengths = np.random.default_rng(1).integers(1, 101, 32) if kind == "ragged" else None
        options = KINDS[kind]
        self.layer, self.x, self.dy = layer_and_inputs(
            cell, (100, 32, 64, 128), threads=threads, lengths=self.lengths, **options
        )

    def time_inference(self, cell, kind, threads):
        self.layer(self.x, lengths=self.lengths)

    def time_training(self, cell, kind, threads):
        self.layer.backward(self.layer.forward(self.x, lengths=self.lengths)[2], self.dy)


class Small:
    """Calls of ten steps of two sequences, (I, H) = (16, 32), in which little but the call itself takes time."""

    params = (("one layer", *KINDS, "other lengths each time"),)
    param_names = ("kind",)

    def setup(self, kind):
        self.lengths = [10, 7] if kind == "ragged" else None
        self.layer, x, _ = layer_and_inputs("LSTM", (10, 2, 16, 32), lengths=self.lengths, **KINDS.get(kind, {}))
        steps = range(1, 21) if kind == "other lengths each time" else [10] * 20
        self.inputs = [np.resize(x, (n, *x.shape[1:])) for n in steps]
        for x in self.inputs:
            self.layer.forward(x, lengths=self.lengths)

    def time_twenty_calls(self, kind):
        for x in self.inputs:
            self.layer(x, lengths=self.lengths)

    def time_twenty_training_steps(self, kind):
        for x in self.inputs:
            y, _, tape = self.layer.forward(x, lengths=self.lengths)
            self.layer.backward(tape, y)


class Parts:
    """Training of an LSTM taken apart, on one thread."""

    params = (SHAPES,)
    param_names = ("shape (T, B, I, H)",)

    def setup(self, shape):
        self.layer, self.x, self.dy = layer_and_inputs("LSTM", shape)
        self.tape = self.layer.forward(self.x)[2]

    def time_forward(self, shape):
        self.layer.forward(self.x)

    def time_backward(self, shape):
        self.layer.backward(self.tape, self.dy, retain=True)

    def time_checkpointed(self, shape):
        self.layer.backward(self.layer.forward(self.x, checkpoint="sqrt")[2], self.dy)

    def time_new_weights(self, shape):
        """As in an optimiser's loop: weights are packed anew."""
        self.layer.flat = self.layer.flat
        self.layer.backward(self.layer.forward(self.x)[2], self.dy)


class Dropout:
    """What drops numbers, by Philox: beside the layers it stands between."""

    params = ((16, 128, 500), DTYPES)
    param_names = ("n of (64, 64, n)", "dtype")

    def setup(self, n, dtype):
        self.drop, self.x = nbrnn.Dropout(0.3), np.ones((64, 64, n), dtype)

    def time_forward(self, n, dtype):
        self.drop.forward(self.x, rng=0)


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


class Linear:
    """The layer after a recurrent one: a decoder's step, a batch of steps, a training step's rows, a large vocabulary;
    and the loss.
    """

    params = (((1, 128, 60), (32, 128, 60), (4096, 128, 60), (4096, 512, 10000)), THREADS)
    param_names = ("(rows, inputs, outputs)", "threads")

    def setup(self, sizes, threads):
        numba.set_num_threads(threads)
        rows, inputs, outputs = sizes
        rng = np.random.default_rng(0)
        self.layer, self.x = nbrnn.Linear(inputs, outputs, rng=0), rng.normal(size=(rows, inputs)).astype(np.float32)
        self.y, self.target = self.layer(self.x)[0], rng.integers(0, outputs, rows)

    def time_inference(self, sizes, threads):
        self.layer(self.x)

    def time_training(self, sizes, threads):
        self.layer.backward(self.layer.forward(self.x)[2], self.y)

    def time_loss(self, sizes, threads):
        nbrnn.losses.cross_entropy(self.y, self.target)
