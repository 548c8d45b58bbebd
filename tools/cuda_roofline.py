"""What bounds a step on a GPU, on paper: an LSTM's forward pass in float32 on an A100 and an H100.

    python tools/cuda_roofline.py > docs/cuda_gates/roofline.csv

Peaks are those of the datasheets.  Latencies are assumed, from what is commonly published; nothing here was measured.
"""

from __future__ import annotations

import csv
import math
import sys
from dataclasses import dataclass

import numpy as np

from nbrnn._cells import LSTM
from nbrnn._cuda.plan import LARGEST, Plan

#: Bytes that a multiprocessor's shared memory (and first cache) gives in a cycle, and that it gets from L2.
SHARED, FROM_L2 = 128, 64
#: Cycles until a result is there: a number of shared memory, of L2, a multiply-add, an exchange between lanes, the
#: LSTM's formulas (two exponentials and two divisions one after another), a block's barrier.  Assumed.
OF_SHARED, OF_L2, OF_FMA, OF_SHUFFLE, OF_FORMULAS, OF_BARRIER = 30, 250, 4, 24, 220, 30
#: Seconds for all blocks to meet.  Assumed: a release, and an acquire that sees it, each by way of L2.
MEETING = 1.5e-6
#: (T, B, H), with as many inputs as units.
SIZES = [(100, 1, 64), (100, 16, 128), (200, 32, 256), (200, 64, 512), (100, 128, 1024)]


@dataclass(frozen=True)
class Device:
    """Of a datasheet: multiprocessors, float32 lanes of each, multiply-adds counted as two, bytes a second."""

    name: str
    processors: int
    lanes: int
    flops: float
    bandwidth: float

    @property
    def clock(self) -> float:
        """That the peak is meant for."""
        return self.flops / (2 * self.processors * self.lanes)


DEVICES = [Device("A100 SXM 40 GB", 108, 64, 19.5e12, 1.555e12), Device("H100 SXM", 132, 128, 67e12, 3.35e12)]


@dataclass(frozen=True)
class Work:
    """What a block does in a step, one tile of sequences after another.

    Attributes
    ----------
    family : str
    blocks, tiles : int
        Blocks of a launch, each on a multiprocessor of its own; tiles of a block.
    fma, loads : int
        For a tile: multiply-adds, and loads from shared memory or the first cache, of warps.
    from_l2 : int
        Bytes for a tile, of h.
    chain : int
        Cycles for a tile from a barrier to the next, if nothing had to queue.
    meeting : float
        Seconds.
    kept : str
        Where weights are.
    """

    family: str
    blocks: int
    tiles: int
    fma: int
    loads: int
    from_l2: int
    chain: int
    meeting: float
    kept: str


def chain(turns: int, lanes: int) -> int:
    """Cycles from h in shared memory to the next h there."""
    return OF_SHARED + turns * OF_FMA + round(math.log2(lanes)) * OF_SHUFFLE + OF_FORMULAS + OF_BARRIER


def in_a_block(B: int, H: int) -> Work:
    """A block for each tile of sequences (``plan``)."""
    plan = Plan(LSTM, np.dtype("f4"), H, min(4, B))
    split, warps = plan.forward, plan.forward.threads // 32
    products = split.turns * split.rows
    elsewhere = split.weights - split.in_registers
    part = round(100 * split.in_registers / split.weights)
    return Work(
        "a", plan.blocks(B), 1, warps * products * split.outputs * split.per_group, warps * (products + elsewhere), 0,
        chain(split.turns, split.lanes), 0.0, f"{part} % in registers" if part < 100 else "registers",
    )  # fmt: skip


def spread(device: Device, B: int, H: int) -> Work:
    """All multiprocessors together: a warp has a unit, its lanes share the sum over h."""
    warps, rows, turns = max(4, -(-H // device.processors)), min(4, B), -(-H // 32)
    products, fetched = turns * rows, rows * H * 4
    return Work(
        "b", -(-H // warps), -(-B // rows), warps * products * 4, warps * products + -(-fetched // SHARED), fetched,
        OF_L2 + OF_BARRIER + chain(turns, 32), MEETING, "registers",
    )  # fmt: skip


def row(device: Device, T: int, B: int, H: int) -> dict[str, str | int]:
    """A line of the table."""
    work = in_a_block(B, H) if H <= LARGEST else spread(device, B, H)
    flops, weights, kept_of_step = 2 * 4 * H * H * B, 4 * H * H * 4, LSTM.slots()
    cycles = work.tiles / device.clock
    seconds = {
        "FMA": work.fma * 32 / device.lanes * cycles,
        "shared": work.loads * cycles,
        "L2": work.from_l2 / FROM_L2 * cycles,
        "HBM": B * H * 4 * (4 + 1 + kept_of_step) / device.bandwidth,
        "latency": work.chain * cycles + work.meeting,
    }
    bound = max(seconds, key=lambda name: seconds[name])
    in_series = seconds["latency"] + max(seconds["FMA"], seconds["shared"])
    return {
        "device": device.name,
        "T, B, H": f"{T}, {B}, {H}",
        "family": work.family,
        "blocks": work.blocks,
        "MFLOP": short(flops / 1e6),
        "weights, KB": weights // 1024,
        "where": work.kept,
        **{f"{name}, µs": short(s * 1e6) for name, s in seconds.items()},
        "bound": bound,
        "in series, µs": short(in_series * 1e6),
        "of peak, %": short(100 * flops / (in_series * device.flops)),
        "inputs, µs": short(T * flops / device.flops * 1e6),
        "pass, ms": short((T * in_series + T * flops / device.flops) * 1e3),
    }


def short(x: float) -> str:
    """Two digits."""
    return f"{x:.2g}" if x < 10 else f"{float(f'{x:.2g}'):.0f}"


def main() -> None:
    lines = [row(device, *size) for device in DEVICES for size in SIZES]
    writer = csv.DictWriter(sys.stdout, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)


if __name__ == "__main__":
    main()
