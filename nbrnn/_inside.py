"""Where numba-cuda meets a function of ``nbrnn.jit``, it is led to what stands in ``_cuda.thread``."""

from __future__ import annotations

import functools
from typing import Any

from . import jit


class OnCuda:
    """What numba-cuda is shown in place of a function: asked for its type, it makes what there is on the device."""

    def __init__(self, name: str) -> None:
        self.name = name

    @functools.cached_property
    def _numba_type_(self) -> Any:
        from numba.cuda.descriptor import cuda_target

        from ._cuda.thread import functions

        context, function = cuda_target.typing_context, functions()[self.name]
        context.refresh()
        return context.resolve_value_type(function)


# numba-cuda compiles a function made for the CPU anew, and keeps the result in this attribute, where it looks first.
for _function in (jit.output_size, jit.zero_state, jit.step, jit.run):
    _function._CUDATypingContext__dispatcher = OnCuda(_function.__name__)
