"""Losses of arrays on a device: the value is a number there, nothing waits for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .array import DeviceArray
from .distance import SQUARE, binary_kernel, distance_kernel
from .machine import Flat
from .pointwise import blocks
from .rows import ends_of, in_memory_order, side_by_side
from .single import mean
from .softmax import cross_entropy_kernel, rows_of_warps, targets_kernel
from .sums import reduced

Host = NDArray[Any]


class Steps:
    """y, what goes with it in the same order, and where its sequences end.

    Parameters
    ----------
    y : DeviceArray, shape (T, B, ...), or (B, T, ...) with ``batch_first``; or any without ``lengths``
    lengths : ndarray (B,) or None
    own : int
        Last axes that are a row's own.
    """

    def __init__(self, y: DeviceArray, lengths: Host | None, batch_first: bool, own: int = 0) -> None:
        array, self.swapped = in_memory_order(y) if y.ndim > 1 + own else (side_by_side(y), False)
        self.machine, self.dtype, self.y, self.shape = y.machine, y.dtype, array.numbers(), array.shape
        self.rows = math.prod(self.shape[: len(self.shape) - own])
        ends = ends_of(self.machine, lengths)
        if lengths is None:
            self.places: tuple[Any, ...] = (ends, 1, max(1, self.rows), 1, False)
        else:
            turned = bool(batch_first) != self.swapped
            T, B = self.shape[1::-1] if turned else self.shape[:2]
            self.places = (ends, T, B, self.rows // max(1, T * B), turned)

    def like_y(self, a: DeviceArray, dtype: np.dtype[Any]) -> Flat:
        """An array with the axes of y, or with the first of them, in y's order."""
        return side_by_side(a.swapaxes(0, 1) if self.swapped else a, dtype).numbers()

    def gradient(self) -> tuple[Flat, DeviceArray]:
        """Room for dy: in y's order, and as users see it."""
        made = DeviceArray.empty(self.machine, self.shape, self.dtype)
        return made.flat, made.swapaxes(0, 1) if self.swapped else made

    def nothing(self) -> tuple[DeviceArray, DeviceArray]:
        """The loss where nothing counts."""
        dy = DeviceArray.zeros(self.machine, self.shape, self.dtype)
        return DeviceArray.zeros(self.machine, (), self.dtype), dy.swapaxes(0, 1) if self.swapped else dy

    def total(self, terms: Flat) -> DeviceArray:
        """Their sum."""
        return DeviceArray(self.machine, reduced(self.machine, "sum", terms), ())


def distance(
    kind: int, y: DeviceArray, target: DeviceArray, lengths: Host | None, batch_first: bool, delta: float, numbers: int
) -> tuple[DeviceArray, DeviceArray]:
    """(loss, dy) of a kind of ``distance.distance``; ``numbers`` count."""
    steps, number = Steps(y, lengths, batch_first), y.dtype.type
    if numbers == 0:
        return steps.nothing()
    terms = steps.machine.empty(steps.rows, y.dtype)
    to, dy = steps.gradient()
    scale = (2 if kind == SQUARE else 1) / numbers
    arguments = (steps.y, steps.like_y(target, y.dtype), *steps.places, number(delta), number(1 / numbers))
    steps.machine.launch(distance_kernel(kind, y.dtype), blocks(steps.rows), (*arguments, number(scale), terms, to))
    return steps.total(terms), dy


def binary(
    y: DeviceArray,
    target: DeviceArray,
    lengths: Host | None,
    batch_first: bool,
    weights: Sequence[Host | None],
    numbers: int,
) -> tuple[DeviceArray, DeviceArray]:
    """(loss, dy) of the binary cross entropy; ``weights`` of numbers and of positives are the host's."""
    steps = Steps(y, lengths, batch_first)
    if numbers == 0:
        return steps.nothing()
    terms = steps.machine.empty(steps.rows, y.dtype)
    to, dy = steps.gradient()
    turned = [np.zeros(0, y.dtype) if w is None else w.swapaxes(0, 1) if steps.swapped else w for w in weights]
    given = [steps.machine.put(np.ascontiguousarray(w)) for w in turned]
    arguments = (steps.y, steps.like_y(target, y.dtype), *steps.places, *given, y.dtype.type(1 / numbers), terms, to)
    steps.machine.launch(binary_kernel(y.dtype), blocks(steps.rows), arguments)
    return steps.total(terms), dy


def cross_entropy(
    y: DeviceArray,
    target: DeviceArray,
    lengths: Host | None,
    batch_first: bool,
    ignored: int,
    weight: Host | None,
    smoothing: float,
) -> tuple[DeviceArray, DeviceArray]:
    """(loss, dy) of logits and classes; both are NaN where a target that counts is no class."""
    steps, number, classes = Steps(y, lengths, batch_first, 1), y.dtype.type, y.shape[-1]
    machine, rows = steps.machine, steps.rows
    if rows == 0:
        return steps.nothing()
    w = machine.put(np.zeros(0, y.dtype) if weight is None else weight.astype(y.dtype))
    chosen, weights = machine.empty(rows, np.dtype(np.int64)), machine.empty(rows, y.dtype)
    goal = steps.like_y(target, np.dtype(np.int64))
    machine.launch(targets_kernel(y.dtype), blocks(rows), (goal, w, *steps.places, classes, ignored, chosen, weights))
    total, losses = reduced(machine, "sum", weights), machine.empty(rows, y.dtype)
    even = smoothing / classes
    shares = number(1 - smoothing), number(even), number(even * (classes if weight is None else weight.sum()))
    to, dy = steps.gradient()
    arguments = (steps.y, chosen, total, w, *shares, classes, rows, losses, to)
    machine.launch(cross_entropy_kernel(y.dtype), rows_of_warps(rows), arguments)
    return mean(machine, losses, total), dy
