"""How long layers take on the GPU, beside cuDNN's by torch where that is installed with CUDA."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .. import layers
from .._cuda.array import DeviceArray
from .._cuda.device import Device
from ..bench.timing import Contender, measure

#: (T, B, H), with inputs of H numbers.
SHAPES = ((100, 1, 64), (100, 16, 128), (200, 32, 256), (200, 64, 512), (100, 128, 1024))
MODES = ("inference", "training")


def has_torch() -> bool:
    """Whether torch is installed, and can use a GPU."""
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())


def ours(cell: str, dtype: str, shape: tuple[int, int, int], mode: str, on: Device) -> Contender:
    """nbrnn; a call has ended when its results are there."""
    T, B, H = shape
    rng = np.random.default_rng(0)
    layer = getattr(layers, cell)(H, H, dtype=dtype, rng=0).to("cuda")
    x, dy = (DeviceArray.put(on, rng.standard_normal((T, B, H)).astype(dtype)) for _ in range(2))

    def infer() -> None:
        layer(x)
        on.wait()

    def train() -> None:
        layer.backward(layer.forward(x)[2], dy)
        on.wait()

    return Contender("nbrnn", 1, train if mode == "training" else infer, lambda returned: {})


def cudnn(cell: str, dtype: str, shape: tuple[int, int, int], mode: str) -> Contender:
    """The same by torch, with products in full float32 as nbrnn's are: without TF32."""
    import torch

    T, B, H = shape
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    kind = getattr(torch, dtype)
    module = getattr(torch.nn, cell)(H, H, device="cuda", dtype=kind)
    x, dy = (torch.randn(T, B, H, device="cuda", dtype=kind) for _ in range(2))
    x.requires_grad_(mode == "training")

    def infer() -> None:
        with torch.inference_mode():
            module(x)
        torch.cuda.synchronize()

    def train() -> None:
        torch.autograd.grad(module(x)[0], [x, *module.parameters()], dy)
        torch.cuda.synchronize()

    return Contender("torch", 1, train if mode == "training" else infer, lambda returned: {})


def run(
    cells: Sequence[str],
    dtypes: Sequence[str],
    seconds: float,
    on: Device,
    shapes: Sequence[tuple[int, int, int]] = SHAPES,
) -> Iterator[dict[str, Any]]:
    """A record of each line: medians and quartiles, in seconds."""
    with_torch = has_torch()
    for mode in MODES:
        for dtype in dtypes:
            for cell in cells:
                for shape in shapes:
                    record: dict[str, Any] = {"mode": mode, "cell": cell, "dtype": dtype}
                    record |= dict(zip("TBH", shape, strict=True)) | {"failed": None}
                    try:
                        contenders = [ours(cell, dtype, shape, mode, on)]
                        contenders += [cudnn(cell, dtype, shape, mode)] if with_torch else []
                        for contender in contenders:
                            contender.call()  # compiles
                        found = measure(contenders, seconds)
                    except (RuntimeError, MemoryError) as error:  # too large for this device
                        record["failed"] = f"{type(error).__name__}: {error}"
                    else:
                        for contender, timing in zip(contenders, found, strict=True):
                            record[contender.name] = {
                                "median": timing.median, "low": timing.low, "high": timing.high, "rounds": timing.rounds
                            }  # fmt: skip
                    yield record
