"""Random layers and batches: what the GPU makes of them, compared with the CPU in float64."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._cuda.array import DeviceArray
from .._cuda.device import Device
from ..layers import GRU, LSTM, RNN
from ..recurrent import Recurrent

Array = NDArray[Any]

CELLS = ("RNN", "GRU", "LSTM")
DTYPES = ("float32", "float64")
#: The largest difference that is rounding, in parts of the largest number of an array.
WITHIN = {"float32": 5e-6, "float64": 1e-12}


class Sizes(NamedTuple):
    """What cases are drawn from: H from lowest to highest, the others up to so much."""

    lowest: int
    highest: int
    T: int
    B: int
    I: int


#: H so that one block of threads holds the weights; that all multiprocessors together do; that nothing does.
SIZES = (Sizes(1, 128, 40, 70, 200), Sizes(129, 700, 12, 20, 300), Sizes(1025, 1100, 6, 10, 300))
QUICK_SIZES = (Sizes(1, 12, 5, 6, 9),)


@dataclasses.dataclass(frozen=True)
class Case:
    """A layer and a batch; all that is random follows from the seed.

    Parameters
    ----------
    cell, dtype : str
    T, B, I, H, P, layers : int
        P: size of a projection, or 0.
    bidirectional, bias, ragged, resets, dropout : bool
        The last for both kinds.
    seed : int
    """

    cell: str
    dtype: str
    T: int
    B: int
    I: int
    H: int
    P: int
    layers: int
    bidirectional: bool
    bias: bool
    ragged: bool
    resets: bool
    dropout: bool
    seed: int

    def layer(self) -> Recurrent:
        """The layer, on the CPU."""
        rate = 0.3 if self.dropout else 0.0
        options: dict[str, Any] = {
            "num_layers": self.layers, "bias": self.bias, "bidirectional": self.bidirectional, "dtype": self.dtype,
            "rng": self.seed, "dropout": rate if self.layers > 1 else 0.0, "recurrent_dropout": rate,
        }  # fmt: skip
        if self.cell == "RNN":
            return RNN(self.I, self.H, nonlinearity=("tanh", "relu")[self.seed % 2], **options)
        if self.cell == "GRU":
            return GRU(self.I, self.H, **options)
        return LSTM(self.I, self.H, proj_size=self.P, **options)

    def __str__(self) -> str:
        options = [f"P={self.P}"] * (self.P > 0) + [f"{self.layers} layers"] * (self.layers > 1)
        options += [name for name in ("bidirectional", "ragged", "resets", "dropout") if getattr(self, name)]
        return " ".join([f"{self.cell} {self.dtype} T={self.T} B={self.B} I={self.I} H={self.H}", *options])


def cases(
    cells: Sequence[str], dtypes: Sequence[str], count: int, sizes: Sequence[Sizes] = SIZES, seed: int = 1
) -> Iterator[Case]:
    """So many random cases for each cell, dtype and range of sizes."""
    rng = np.random.default_rng(seed)

    def maybe(p: float) -> bool:
        return bool(rng.random() < p)

    for cell in cells:
        for dtype in dtypes:
            for size in sizes:
                for n in range(count):
                    H = int(np.exp(rng.uniform(np.log(size.lowest), np.log(size.highest + 1))))
                    yield Case(
                        cell=cell, dtype=dtype, T=int(rng.integers(1, size.T + 1)), B=int(rng.integers(1, size.B + 1)),
                        I=int(rng.integers(1, size.I + 1)), H=H,
                        P=int(rng.integers(1, H)) if cell == "LSTM" and H > 1 and n % 4 == 3 else 0,
                        layers=1 + maybe(0.3), bidirectional=maybe(0.4), bias=maybe(0.8), ragged=maybe(0.7),
                        resets=maybe(0.4), dropout=maybe(0.3), seed=int(rng.integers(2**31)),
                    )  # fmt: skip


class Numbers(dict[str, Array]):
    """y, the states after, and the gradients of a batch, by name."""

    @classmethod
    def of(cls, layer: Recurrent, batch: dict[str, Any], seed: int, put: Any, get: Any) -> Numbers:
        """Forward and backward of a layer, on arrays that ``put`` makes and ``get`` reads."""

        def state(name: str) -> Any:
            h, c = (put(a) for a in batch[name])
            return (h, c) if isinstance(layer, LSTM) else h

        def entries(state: Any) -> list[Array]:
            return [get(a) for a in (state if isinstance(state, tuple) else (state,))]

        more = {name: batch[name] for name in ("lengths", "resets")}
        x = put(batch["x"])
        y, after, tape = layer.forward(x, state("state"), rng=seed, **more)
        grads = layer.backward(tape, put(batch["dy"]), state("dstate"))
        found = {"y": get(y), "dx": get(grads.x)} | {f"d{name}": get(a) for name, a in grads.params.items()}
        for prefix, given in (("", after), ("d", grads.state)):
            found |= {f"{prefix}{name}": a for name, a in zip("hc", entries(given), strict=False)}
        if not batch["drops"]:  # a call never does
            found["y of a call"] = get(layer(x, state("state"), **more)[0])
        return cls(found)


def batch_of(case: Case, layer: Recurrent) -> dict[str, Any]:
    """What a case gives its layer, in float64."""
    rng, D = np.random.default_rng(case.seed), 2 if case.bidirectional else 1
    K, units = case.P or case.H, case.layers * D

    def draw(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(case.dtype).astype(np.float64)

    shapes = (units, case.B, K), (units, case.B, case.H)
    return {
        "x": draw(case.T, case.B, case.I),
        "dy": draw(case.T, case.B, D * K),
        "state": [draw(*s) for s in shapes],
        "dstate": [draw(*s) for s in shapes],
        "lengths": rng.integers(0, case.T + 1, case.B) if case.ragged else None,
        "resets": rng.random((case.T, case.B)) < 0.2 if case.resets else None,
        "drops": case.dropout,
    }


def errors(case: Case, on: Device) -> dict[str, float]:
    """The largest difference of each array, in parts of its largest number; infinite where something isn't finite."""
    layer = case.layer()
    exact = dataclasses.replace(case, dtype="float64").layer()
    exact.flat = np.asarray(layer.flat, np.float64)
    batch = batch_of(case, layer)
    wanted = Numbers.of(exact, batch, case.seed, lambda a: a, np.asarray)
    there = copy.deepcopy(layer).to("cuda")

    def put(array: Array) -> DeviceArray:
        return DeviceArray.put(on, array.astype(case.dtype))

    found = Numbers.of(there, batch, case.seed, put, lambda a: a.numpy())
    return {name: _error(found[name], wanted[name]) for name in wanted}


def _error(found: Array, wanted: Array) -> float:
    if not wanted.size:
        return 0.0
    if found.shape != wanted.shape or not np.isfinite(found).all():
        return np.inf
    largest = float(np.abs(wanted).max())
    return float(np.abs(found - wanted).max()) / (largest or 1.0)


def run(case: Case, on: Device) -> dict[str, Any]:
    """A record of a case: its errors, and whether they are rounding."""
    record: dict[str, Any] = dataclasses.asdict(case)
    try:
        found = errors(case, on)
    except Exception as error:  # whatever it is, the other cases have their turn
        return record | {"errors": {}, "worst": None, "ok": False, "failed": f"{type(error).__name__}: {error}"}
    worst = max(found, key=lambda name: found[name])
    ok = found[worst] <= WITHIN[case.dtype]
    shown = {name: value if np.isfinite(value) else None for name, value in found.items()}
    return record | {"errors": shown, "worst": worst, "ok": ok, "failed": None}
