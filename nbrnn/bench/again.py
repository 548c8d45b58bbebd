"""A compiled step, again and again."""

from __future__ import annotations

from .. import jit
from .._kernel import kernel


@kernel
def run_again(net, x, state, y, repeats):
    """``nbrnn.jit.run`` in compiled code."""
    for _ in range(repeats):
        jit.run(net, x, state, y)
