"""What recurrent layers share between the CPU and GPUs: what a pass is told, and what it leaves for the way back."""

from __future__ import annotations

import math
from typing import Any

from . import _check
from .module import Parametric, Tape


class RecurrentTape(Tape):
    """What ``forward`` of a recurrent layer leaves for ``backward``.

    ``kind`` says whose arrays a layer on a GPU was given; ``stack`` and ``record`` are of there or of the CPU.
    """

    def __init__(
        self,
        layer: Parametric,
        stack: Any,
        record: Any,
        batched: bool,
        x_shape: tuple[int, ...],
        y_shape: tuple[int, ...],
        kind: Any = None,
    ) -> None:
        super().__init__(layer)
        self.stack, self.record, self.batched, self.kind = stack, record, batched, kind
        self.x_shape, self.y_shape = x_shape, y_shape

    def _release(self) -> None:
        del self.stack, self.record


def checkpoint_every(checkpoint: Any, steps: int) -> int | None:
    """How many steps lie between kept states; None: all is kept."""
    if checkpoint is None:
        return None
    if isinstance(checkpoint, str):
        _check.choice(checkpoint, "checkpoint", ("sqrt",))
        return max(1, math.isqrt(max(0, steps - 1)) + 1)
    return _check.size(checkpoint, "checkpoint")
