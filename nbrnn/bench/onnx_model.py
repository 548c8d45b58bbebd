"""A layer as an ONNX model, for the libraries that run such models."""

from __future__ import annotations

from typing import Any

import numpy as np

from .problem import Problem
from .timing import Array

#: Row blocks of our weights in ONNX's order of gates: (z, r, n) for the GRU, (i, o, f, g) for the LSTM.
ORDER = {"RNN": [0], "GRU": [1, 0, 2], "LSTM": [0, 3, 1, 2]}


def weights(problem: Problem, layer: int) -> list[Array]:
    """W (D, G*H, I), R (D, G*H, H) and B (D, 2*G*H) of a layer."""
    order, H = ORDER[problem.line.cell], problem.line.shape.H

    def turned(a: Array) -> Array:
        return a.reshape(len(order), H, *a.shape[1:])[order].reshape(a.shape)

    ways = [[turned(a) for a in problem.weights(layer, d)] for d in range(problem.line.shape.directions)]
    w, r = (np.stack([way[k] for way in ways]) for k in (0, 1))
    return [w, r, np.stack([np.concatenate(way[2:]) for way in ways])]


def model(problem: Problem, stateful: bool = False) -> Any:
    """The layer as an ONNX model with fixed shapes.

    Parameters
    ----------
    problem : Problem
    stateful : bool
        Whether the initial state is an input (for one layer only); else it is zero.

    Returns
    -------
    onnx.ModelProto
        Inputs: x (T, B, I); lengths (B,) where the sequences have their own; with ``stateful`` h and c (D, B, H).
        Outputs: y (T, B, D*H), then h and c (L*D, B, H).
    """
    import onnx
    from onnx import helper, numpy_helper

    line, shape = problem.line, problem.line.shape
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(line.dtype))
    states = ["h", "c"][: len(problem.states)]
    inputs = [helper.make_tensor_value_info("x", kind, [shape.T, shape.B, shape.I])]
    if shape.ragged:
        inputs.append(helper.make_tensor_value_info("lengths", onnx.TensorProto.INT32, [shape.B]))
    if stateful:
        inputs += [helper.make_tensor_value_info(s, kind, [shape.directions, shape.B, shape.H]) for s in states]

    constants = [numpy_helper.from_array(np.array([shape.T, shape.B, shape.directions * shape.H], np.int64), "rows")]
    nodes, given = [], "x"
    for layer in range(shape.layers):
        named = dict(zip([f"W{layer}", f"R{layer}", f"B{layer}"], weights(problem, layer), strict=True))
        constants += [numpy_helper.from_array(np.ascontiguousarray(a), name) for name, a in named.items()]
        options: dict[str, Any] = {"direction": "bidirectional" if shape.bidirectional else "forward"}
        options |= {"linear_before_reset": 1} if line.cell == "GRU" else {}
        nodes.append(
            helper.make_node(
                line.cell,
                [given, *named, "lengths" if shape.ragged else "", *(states if stateful else [])],
                [f"Y{layer}", *(f"{s}{layer}" for s in states)],
                hidden_size=shape.H,
                **options,
            )
        )
        # Y is (T, D, B, H).
        given = "y" if layer == shape.layers - 1 else f"y{layer}"
        nodes.append(helper.make_node("Transpose", [f"Y{layer}"], [f"turned{layer}"], perm=[0, 2, 1, 3]))
        nodes.append(helper.make_node("Reshape", [f"turned{layer}", "rows"], [given]))
    nodes += [
        helper.make_node("Concat", [f"{s}{layer}" for layer in range(shape.layers)], [f"{s}_after"], axis=0)
        for s in states
    ]
    outputs = [helper.make_tensor_value_info("y", kind, [shape.T, shape.B, shape.directions * shape.H])]
    outputs += [
        helper.make_tensor_value_info(f"{s}_after", kind, [shape.layers * shape.directions, shape.B, shape.H])
        for s in states
    ]
    graph = helper.make_graph(nodes, "layer", inputs, outputs, constants)
    # Versions that have been out for years: runtimes refuse models newer than themselves.
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    return made
