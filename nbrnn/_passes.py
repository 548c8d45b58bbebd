"""What recurrent layers share between the CPU and GPUs: what a pass is told, and what it leaves for the way back."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from . import _check
from ._cpu.unit import draw_key
from ._engine.chain import Drop, RecurrentDrop
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


def drops_of(layer: Any, rng: np.random.Generator) -> tuple[Drop | None, RecurrentDrop | None]:
    """The dropouts of a pass, between layers and of what enters W_hh, which share one key."""
    between, recurrent = layer.dropout if layer.num_layers > 1 else 0.0, layer.recurrent_dropout
    if between == recurrent == 0:
        return None, None
    key = draw_key(rng)
    return Drop(between, key) if between > 0 else None, RecurrentDrop(recurrent, key) if recurrent > 0 else None


def checkpoint_every(checkpoint: Any, steps: int) -> int | None:
    """How many steps lie between kept states; None: all is kept."""
    if checkpoint is None:
        return None
    if isinstance(checkpoint, str):
        _check.choice(checkpoint, "checkpoint", ("sqrt",))
        return max(1, math.isqrt(max(0, steps - 1)) + 1)
    return _check.size(checkpoint, "checkpoint")
