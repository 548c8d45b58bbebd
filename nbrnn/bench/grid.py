"""What is measured: lines of cell, dtype, mode and shape, and their floating-point operations."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Gates of each cell.
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}

CELLS = tuple(GATES)
DTYPES = ("float32", "float64")
MODES = ("inference", "training")


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes of a layer and its input, and which options are on.

    Parameters
    ----------
    T, B, I, H : int
        Steps, sequences, input size, hidden size.
    layers : int
        Layers on top of each other.
    bidirectional : bool
        Whether there are two directions.
    ragged : bool
        Whether the sequences have lengths of their own, uniform in 1..T.
    """

    T: int
    B: int
    I: int
    H: int
    layers: int = 1
    bidirectional: bool = False
    ragged: bool = False

    @property
    def directions(self) -> int:
        """Number of directions."""
        return 2 if self.bidirectional else 1

    def lengths(self) -> NDArray[np.int64] | None:
        """Lengths of the sequences, the same each time; None where all are T."""
        return np.random.default_rng(0).integers(1, self.T + 1, self.B) if self.ragged else None

    def steps(self) -> int:
        """Steps of all sequences together, without those past an end."""
        lengths = self.lengths()
        return self.T * self.B if lengths is None else int(lengths.sum())

    def __str__(self) -> str:
        options = [f"{self.layers} layers"] * (self.layers > 1)
        options += ["bidirectional"] * self.bidirectional + ["ragged"] * self.ragged
        return " ".join([f"{self.T},{self.B},{self.I},{self.H}", *options])


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of the table: what every contender is to compute.

    Parameters
    ----------
    cell : {"RNN", "GRU", "LSTM"}
    dtype : {"float32", "float64"}
    mode : {"inference", "training"}
        Training is forward and backward, with the gradients of x, of the initial state and of every parameter.
    shape : Shape
    """

    cell: str
    dtype: str
    mode: str
    shape: Shape

    def flops(self) -> int:
        """Floating-point operations of the matrix products: what every way to compute the result has in common.

        A step of a layer and direction has G H (I + H) multiply-adds, with G gates; the way back has twice those of
        the way forward.
        """
        s, gates = self.shape, GATES[self.cell]
        inputs = s.I + (s.layers - 1) * s.directions * s.H
        forward = 2 * s.steps() * s.directions * gates * s.H * (inputs + s.layers * s.H)
        return forward * (3 if self.mode == "training" else 1)

    def fields(self) -> dict[str, Any]:
        """For the JSON."""
        named = {"cell": self.cell, "dtype": self.dtype, "mode": self.mode}
        return named | dataclasses.asdict(self.shape) | {"flops": self.flops()}


#: One step, one sequence, a few and many sequences, small and large layers, sizes that are no multiple of a vector.
SHAPES = (
    Shape(1, 1, 16, 16),
    Shape(100, 1, 16, 64),
    Shape(100, 1, 256, 256),
    Shape(100, 1, 512, 1024),
    Shape(100, 16, 64, 64),
    Shape(50, 64, 128, 128),
    Shape(50, 64, 256, 256),
    Shape(50, 64, 512, 512),
    Shape(1000, 1, 1, 32),
    Shape(200, 32, 40, 256),
    Shape(50, 64, 500, 500),
    Shape(30, 7, 33, 97),
    Shape(20, 512, 32, 64),
    Shape(100, 32, 64, 128, layers=2),
    Shape(100, 32, 64, 128, bidirectional=True),
    Shape(100, 32, 64, 128, ragged=True),
)

#: For ``--quick``: one sequence, a small batch, a large one.
QUICK_SHAPES = (SHAPES[1], SHAPES[4], SHAPES[6])
QUICK_CELLS = ("LSTM",)
QUICK_DTYPES = ("float32",)

#: (I, H) of single steps from Python, and in compiled code.
STREAM_SIZES = ((1, 16), (16, 64), (64, 64), (256, 256))
JIT_SIZES = ((1, 16), (16, 64), (128, 128))
QUICK_SIZES = ((16, 64),)


def lines(cells: Iterable[str], dtypes: Iterable[str], modes: Iterable[str], shapes: Iterable[Shape]) -> Iterator[Line]:
    """All lines of a grid, in the order of the table."""
    cells, dtypes, shapes = tuple(cells), tuple(dtypes), tuple(shapes)
    for mode in modes:
        for dtype in dtypes:
            for cell in cells:
                for shape in shapes:
                    yield Line(cell, dtype, mode, shape)
