"""JAX: the layer as a compiled ``lax.scan``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .problem import Problem, named_gradients, results
from .timing import Contender, Results


def contenders(problem: Problem, threads: Sequence[int]) -> list[Contender]:
    """JAX with all threads: their number is fixed when it starts."""
    import jax

    jax.config.update("jax_enable_x64", True)  # else float64 silently becomes float32
    state = [np.zeros_like(s) for s in problem.states]
    infer = jax.jit(lambda params, x, state: _layer(problem, params, x, state))

    def train(params: Any, x: Any, state: Any, dy: Any) -> Any:
        run = lambda params, x, state: _layer(problem, params, x, state)
        y, pull, after = jax.vjp(run, params, x, state, has_aux=True)
        return y, after, pull(dy)

    compiled = jax.jit(train)
    params = {name: jax.device_put(a) for name, a in problem.params.items()}

    def call() -> Any:
        if problem.line.mode == "training":
            found = compiled(params, problem.x, problem.states, problem.dy)
        else:
            found = infer(params, problem.x, state)
        return jax.block_until_ready(found)

    def read(returned: Any) -> Results:
        y, after, *grads = returned
        if not grads:
            return results(y, after)
        dparams, dx, dstate = grads[0]
        return results(y, after, named_gradients(dx, dstate, dparams))

    return [Contender("jax", max(threads), call, read)]


def _layer(problem: Problem, params: Any, x: Any, state: Any) -> Any:
    """(y, state after) of all layers and directions."""
    import jax.numpy as jnp

    shape, after = problem.line.shape, []
    for layer in range(shape.layers):
        outputs = []
        for d in range(shape.directions):
            name = f"_l{layer}" + ("_reverse" if d else "")
            weights = [params[kind + name] for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
            start = tuple(s[layer * shape.directions + d] for s in state)
            end, y = _direction(problem, weights, x, start, bool(d))
            outputs.append(y)
            after.append(end)
        x = jnp.concatenate(outputs, -1)
    return x, [jnp.stack(parts) for parts in zip(*after, strict=True)]


def _direction(problem: Problem, weights: Any, x: Any, start: Any, reverse: bool) -> Any:
    """(state after, y) of one layer in one direction: all input products first, then the steps."""
    import jax
    import jax.numpy as jnp

    w_ih, w_hh, b_ih, b_hh = weights
    cell, T = problem.line.cell, problem.line.shape.T
    sums = x @ w_ih.T + (b_ih if cell == "GRU" else b_ih + b_hh)
    running = np.arange(T)[:, None, None] < (T if problem.lengths is None else problem.lengths[:, None])

    def step(state: Any, given: Any) -> Any:
        a, runs = given
        new = _cell(cell, a, state, w_hh, b_hh)
        if problem.lengths is None:
            return new, new[0]
        return tuple(jnp.where(runs, n, s) for n, s in zip(new, state, strict=True)), jnp.where(runs, new[0], 0)

    given = (sums, np.broadcast_to(running, (T, *running.shape[1:])))
    return jax.lax.scan(step, start, given, reverse=reverse)


def _cell(cell: str, a: Any, state: Any, w_hh: Any, b_hh: Any) -> tuple[Any, ...]:
    """The new state, from the input's part of the sums."""
    import jax
    import jax.numpy as jnp

    hidden = state[0] @ w_hh.T
    if cell == "RNN":
        return (jnp.tanh(a + hidden),)
    if cell == "LSTM":
        i, f, g, o = jnp.split(a + hidden, 4, -1)
        c = jax.nn.sigmoid(f) * state[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jax.nn.sigmoid(o) * jnp.tanh(c), c
    r, z, n = jnp.split(a, 3, -1)
    r_h, z_h, n_h = jnp.split(hidden + b_hh, 3, -1)
    n = jnp.tanh(n + jax.nn.sigmoid(r + r_h) * n_h)
    return (n + jax.nn.sigmoid(z + z_h) * (state[0] - n),)
