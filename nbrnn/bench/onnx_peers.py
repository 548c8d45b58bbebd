"""ONNX Runtime and OpenVINO, both on the same ONNX model; inference only."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from .onnx_model import model
from .problem import Problem, results
from .timing import Array, Contender, Results, Step, Unsupported


def _inputs(problem: Problem) -> dict[str, Any]:
    if problem.line.mode == "training":
        raise Unsupported("inference only")
    lengths = {} if problem.lengths is None else {"lengths": problem.lengths.astype(np.int32)}
    return {"x": problem.x} | lengths


def _read(returned: Any) -> Results:
    y, *state = returned
    return results(y, state)


def onnxruntime(problem: Problem, threads: Sequence[int]) -> list[Contender]:
    """ONNX Runtime, once for each number of threads."""
    inputs = _inputs(problem)
    made = model(problem)
    runs = {n: functools.partial(_session(problem, made, n, inputs).run, None, inputs) for n in threads}
    return [Contender("onnxruntime", n, run, _read) for n, run in runs.items()]


def _session(problem: Problem, made: Any, threads: int, inputs: dict[str, Array]) -> Any:
    """A session that has run once."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong arrives as an exception
    try:
        session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
        session.run(None, inputs)
    except Exception as error:
        if problem.line.dtype == "float64":  # some versions have no such kernels, and say so in several ways
            raise Unsupported("float32 only") from error
        raise
    return session


def openvino(problem: Problem, threads: Sequence[int]) -> list[Contender]:
    """OpenVINO, once for each number of threads."""
    inputs = _inputs(problem)
    made = model(problem)
    runs = {n: functools.partial(_infer, *_request(problem, made, n), list(inputs.values())) for n in threads}
    return [Contender("openvino", n, run, _read) for n, run in runs.items()]


def _infer(request: Any, given: Sequence[Array], results: Sequence[Array], inputs: Sequence[Array]) -> Sequence[Array]:
    """Copy the inputs to where the request has its own, and run: faster than to hand it other arrays each time."""
    for to, array in zip(given, inputs, strict=True):
        np.copyto(to, array)
    request.infer()
    return results


def _request(problem: Problem, made: Any, threads: int) -> tuple[Any, list[Array], list[Array]]:
    """An inference request, and its inputs and outputs as arrays."""
    import openvino

    if problem.line.dtype != "float32":
        raise Unsupported("float32 only")
    core = openvino.Core()
    options = {
        "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16, where the processor has it
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    loaded = core.read_model(made.SerializeToString())
    request = core.compile_model(loaded, "CPU", options).create_infer_request()
    return request, [t.data for t in request.input_tensors], [t.data for t in request.output_tensors]


def onnxruntime_step(problem: Problem) -> Step:
    """A session of one step, on one thread."""
    names, state = ["x", "h", "c"][: 1 + len(problem.states)], [np.zeros_like(s) for s in problem.states]
    first = dict(zip(names, [problem.x, *state], strict=True))
    session = _session(problem, model(problem, stateful=True), 1, first)

    def run(x: Array, out: Array) -> Any:
        nonlocal state
        y, *state = session.run(None, dict(zip(names, (x, *state), strict=True)))
        return y

    return Step(run, (1, 1, problem.line.shape.I))


def openvino_step(problem: Problem) -> Step:
    """An inference request of one step, on one thread."""
    request, given, results = _request(problem, model(problem, stateful=True), 1)
    for state in results[1:]:
        state[...] = 0

    def run(x: Array, out: Array) -> Any:
        return _infer(request, given, results, [x, *results[1:]])[0]

    return Step(run, (1, 1, problem.line.shape.I))
