"""Keras, on whichever backend there is; inference only."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from .onnx_model import ORDER
from .problem import Problem
from .timing import Contender, Results, Unsupported

BACKENDS = ("tensorflow", "jax", "torch")


def backend() -> str | None:
    """The backend that KERAS_BACKEND names, or the first that is installed; None without any."""
    asked = os.environ.get("KERAS_BACKEND")
    return asked or next((name for name in BACKENDS if importlib.util.find_spec(name)), None)


def contenders(problem: Problem, threads: Sequence[int]) -> list[Contender]:
    """Keras with all threads, called as a function and by ``predict_on_batch``."""
    line, shape = problem.line, problem.line.shape
    if line.mode == "training":
        raise Unsupported("inference only")
    if shape.ragged:
        raise Unsupported("no lengths")
    if line.dtype != "float32":
        raise Unsupported("float32 only: its products are of float32, whatever a layer's dtype")
    os.environ["KERAS_BACKEND"] = backend() or ""
    import keras

    given = keras.Input((shape.T, shape.I), batch_size=shape.B, dtype=line.dtype)
    y = given
    for layer in range(shape.layers):
        y = _layer(problem, layer)(y)
    net = keras.Model(given, y)
    for layer in range(shape.layers):
        net.layers[1 + layer].set_weights([a for d in range(shape.directions) for a in _weights(problem, layer, d)])
    x = np.ascontiguousarray(problem.x.swapaxes(0, 1))

    def call() -> Any:
        return keras.ops.convert_to_numpy(net(x))

    def read(y: Any) -> Results:
        return {"y": np.asarray(y).swapaxes(0, 1)}

    prepare = _prepare(max(threads))
    return [
        Contender("keras", max(threads), call, read, prepare, "call"),
        Contender("keras", max(threads), functools.partial(net.predict_on_batch, x), read, prepare, "predict_on_batch"),
    ]


def _prepare(threads: int) -> Any:
    if backend() != "torch":
        return lambda: None
    import torch

    return functools.partial(torch.set_num_threads, threads)


def _layer(problem: Problem, layer: int) -> Any:
    import keras

    line = problem.line
    kind = getattr(keras.layers, {"RNN": "SimpleRNN"}.get(line.cell, line.cell))
    made = kind(line.shape.H, return_sequences=True, dtype=line.dtype)
    return keras.layers.Bidirectional(made, dtype=line.dtype) if line.shape.bidirectional else made


def _weights(problem: Problem, layer: int, direction: int) -> list[Any]:
    """Kernel (I, G*H), recurrent kernel (H, G*H) and bias, of which only the GRU has two."""
    order, H = {**ORDER, "LSTM": [0, 1, 2, 3]}[problem.line.cell], problem.line.shape.H
    w_ih, w_hh, b_ih, b_hh = (
        a.reshape(len(order), H, *a.shape[1:])[order].reshape(a.shape) for a in problem.weights(layer, direction)
    )
    return [w_ih.T, w_hh.T, np.stack([b_ih, b_hh]) if problem.line.cell == "GRU" else b_ih + b_hh]
