"""What training leaves behind: a history, or the error it ended with."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclasses.dataclass
class History:
    """What happened in training, an entry for each epoch.

    Attributes
    ----------
    loss : list of float
        Mean over the epoch's batches, weighted by their numbers of sequences.
    validation : list of float
        Loss on the validation data after the epoch; empty without any.
    metric : list of float
        What ``metric`` gave for the validation data, or without any for the outputs in training; empty without it.
    norm : list of float
        Largest norm of the gradients of the parameters in the epoch, before clipping.
    lr : list of float
        Learning rate that the epoch ended with, before a schedule's step between epochs; empty if the optimiser has no
        ``lr``.
    seconds : list of float
        Time since the beginning; a resumed run goes on counting where it stood.
    best : int or None
        The epoch, from 0, whose weights were put back at the end; None if they are those of the last step.
    """

    loss: list[float] = dataclasses.field(default_factory=list)
    validation: list[float] = dataclasses.field(default_factory=list)
    metric: list[float] = dataclasses.field(default_factory=list)
    norm: list[float] = dataclasses.field(default_factory=list)
    lr: list[float] = dataclasses.field(default_factory=list)
    seconds: list[float] = dataclasses.field(default_factory=list)
    best: int | None = None


class NotFiniteError(FloatingPointError):
    """The loss, its gradients or the parameters after a step are not finite.

    The parameters of the network are those before the step.

    Attributes
    ----------
    epoch : int
        From 0.
    step : int
        Of the optimiser within the epoch, from 0.
    batch : int
        Place of the batch in the epoch's order, from 0.
    indices : ndarray of int
        What is in the batch: places in ``data``, of sequences where it is a list of sequences, else of the batch.
    """

    def __init__(self, message: str, epoch: int, step: int, batch: int, indices: Array) -> None:
        super().__init__(message)
        self.epoch, self.step, self.batch, self.indices = epoch, step, batch, np.array(indices)

    def __reduce__(self) -> Any:
        return type(self), (*self.args, self.epoch, self.step, self.batch, self.indices)
