"""torch, eager."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from .problem import Problem, named_gradients, results
from .timing import Array, Contender, Results, Step


def contenders(problem: Problem, threads: Sequence[int]) -> list[Contender]:
    """torch, once for each number of threads."""
    import torch

    module, x = _module(problem), torch.from_numpy(problem.x)
    lengths = None if problem.lengths is None else torch.from_numpy(problem.lengths)

    def run(x: Any, state: Any) -> Any:
        if lengths is None:
            return module(x, state)
        packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
        y, after = module(packed, state)
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, total_length=len(x))
        return y, after

    def infer() -> Any:
        with torch.inference_mode():
            return run(x, None)

    def train() -> Any:
        y, after = run(leaf, states if len(states) == 2 else states[0])
        return y, after, torch.autograd.grad(y, [leaf, *states, *module.parameters()], dy)

    def read(returned: Any) -> Results:
        y, after, *grads = returned
        after = [a.detach().numpy() for a in (after if isinstance(after, tuple) else [after])]
        if not grads:
            return results(y.numpy(), after)
        dx, *rest = (g.numpy() for g in grads[0])
        names = [name for name, _ in module.named_parameters()]
        dparams = dict(zip(names, rest[len(states) :], strict=True))
        return results(y.detach().numpy(), after, named_gradients(dx, rest[: len(states)], dparams))

    if problem.line.mode == "training":
        leaf, dy = x.requires_grad_(), torch.from_numpy(problem.dy)
        states = tuple(torch.from_numpy(a).requires_grad_() for a in problem.states)
    call = train if problem.line.mode == "training" else infer
    return [Contender("torch", n, call, read, functools.partial(torch.set_num_threads, n)) for n in threads]


def _module(problem: Problem) -> Any:
    """A torch module with the problem's parameters."""
    import torch

    line, shape = problem.line, problem.line.shape
    module = getattr(torch.nn, line.cell)(
        shape.I,
        shape.H,
        num_layers=shape.layers,
        bidirectional=shape.bidirectional,
        dtype=getattr(torch, line.dtype),
    )
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(torch.from_numpy(problem.params[name]))
    return module


def step(problem: Problem) -> Step:
    """One step of torch's cell, on one thread."""
    import torch

    line = problem.line
    cell = getattr(torch.nn, line.cell + "Cell")(line.shape.I, line.shape.H, dtype=getattr(torch, line.dtype))
    with torch.no_grad():
        for parameter, array in zip(cell.parameters(), problem.weights(0, 0), strict=True):
            parameter.copy_(torch.from_numpy(array))
    state: Any = None

    def run(x: Array, out: Array) -> Any:
        nonlocal state
        state = cell(torch.from_numpy(x), state)
        return (state[0] if isinstance(state, tuple) else state).numpy()

    torch.set_num_threads(1)
    return Step(run, (1, line.shape.I), torch.inference_mode)
