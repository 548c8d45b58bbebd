"""What this machine can do: multiply-adds a second, and bytes a second out of each level of its caches."""

from __future__ import annotations

import math
import os
import pathlib
import platform
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .._cpu import isa
from .._cpu.rows import address, primitive
from .._kernel import kernel
from .._memory import aligned_zeros

#: Sizes of the data caches where the system doesn't say, in bytes.
DEFAULT_CACHES = {"L1": 32 << 10, "L2": 1 << 20, "L3": 16 << 20}
LEAST_MEMORY, MOST_MEMORY = 64 << 20, 1 << 30

#: Many short runs, of which the best counts: some are left alone by whatever else runs on the machine.
SECONDS, REPEATS = 0.01, 15


class Buffer(NamedTuple):
    """Numbers to work on, and the width of vectors to use."""

    w: Any
    lanes: Any


def chains(lanes: type[isa.Lanes]) -> int:
    """Independent chains of multiply-adds: enough to fill the pipelines, few enough for the registers."""
    return 24 if isa.accumulators(lanes) == 24 else 12


@primitive
def multiply_adds(e, net, count):
    """``count`` times ``sum = sum * a + b`` in each chain; a, b and the sums come from memory and go there, so that the
    compiler can't know them, or leave anything out.
    """
    at, n = net.w, chains(e.lanes)
    a, b = at.load(), at.load(e.W)
    sums = [at.load((2 + k) * e.W) for k in range(n)]
    sums = e.loop(count, sums, lambda _, *sums: [e.fma(s, a, b) for s in sums])
    for k in range(n):
        at.store(sums[k], (2 + k) * e.W)


@primitive
def read_sums(e, net, first, blocks):
    """Add up ``blocks`` times 8 vectors from an address on, into the first 8 of ``net.w``."""
    at, source = net.w, e.ptr(first)

    def body(q, *sums):
        block = source + q * (8 * e.W)
        return [s + block.load(k * e.W) for k, s in enumerate(sums)]

    sums = e.loop(blocks, [at.load(k * e.W) for k in range(8)], body)
    for k in range(8):
        at.store(sums[k], k * e.W)


@kernel
def run_multiply_adds(net, count):
    """A compiled function of the primitive."""
    multiply_adds(net, count)


@kernel
def run_reads(net, data, blocks, repeats):
    """Read an array so many times."""
    for _ in range(repeats):
        read_sums(net, address(data), blocks)


def _numbers(dtype: Any, lanes: type[isa.Lanes]) -> int:
    """Numbers in a vector."""
    return max(1, isa.BITS[lanes] // (8 * np.dtype(dtype).itemsize))


def fastest(works: Sequence[Callable[[int], None]]) -> float:
    """Units a second of work that all threads do at once, each ``works[k](units)``: the best of a few runs."""
    units = 1
    while (taken := _together(works, units)) < SECONDS:
        units = max(2 * units, math.ceil(units * SECONDS / max(taken, 1e-6)))
    return max(units / _together(works, units) for _ in range(REPEATS))


def _together(works: Sequence[Callable[[int], None]], units: int) -> float:
    """Seconds until all of them are done, from when all of them have begun."""
    if len(works) == 1:
        begun = time.perf_counter()
        works[0](units)
        return time.perf_counter() - begun
    start = threading.Barrier(len(works) + 1)

    def run(work: Callable[[int], None]) -> None:
        start.wait()
        work(units)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    start.wait()
    begun = time.perf_counter()
    for thread in threads:
        thread.join()
    return time.perf_counter() - begun


def peak(dtype: str, threads: int = 1) -> float:
    """GFLOP/s of multiply-adds in registers, of all threads together."""
    lanes = isa.current()
    W, n = _numbers(dtype, lanes), chains(lanes)

    def work() -> Callable[[int], None]:
        w = aligned_zeros(((2 + n) * W,), dtype)
        w[:W], w[W:] = 0.5, 1.0  # sums go to 2: neither infinite nor subnormal
        net = Buffer(w, lanes())
        run_multiply_adds(net, 1)  # compiled before it is timed
        return lambda units: run_multiply_adds(net, 1000 * units)

    return threads * 2 * n * W * 1000 * fastest([work() for _ in range(threads)]) / 1e9


def bandwidth(size: int, threads: int = 1) -> float:
    """GB/s of reads, of all threads together, each from ``size`` bytes of its own again and again."""
    lanes = isa.current()
    block = 8 * _numbers(np.float32, lanes)
    blocks = max(1, size // (4 * block))

    def work() -> Callable[[int], None]:
        net = Buffer(aligned_zeros((block,), np.float32), lanes())
        data = aligned_zeros((blocks * block,), np.float32)
        run_reads(net, data, blocks, 1)
        return lambda units: run_reads(net, data, blocks, units)

    return threads * 4 * block * blocks * fastest([work() for _ in range(threads)]) / 1e9


def caches() -> dict[str, tuple[int, bool]]:
    """By level, the bytes of the first processor's data cache, and whether other processors share it."""
    found = {}
    for index in sorted(pathlib.Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size, sharing = (
                (index / name).read_text().strip() for name in ("level", "type", "size", "shared_cpu_list")
            )
        except OSError:
            continue
        if kind != "Instruction" and size.endswith("K") and size != "0K":
            found[f"L{level}"] = int(size[:-1]) << 10, not sharing.isdigit()
    return found or {level: (size, level == "L3") for level, size in DEFAULT_CACHES.items()}


def working_sets(threads: int = 1) -> dict[str, int]:
    """Bytes that each thread reads again and again, by the level they come from.

    Half of the first two caches; of the third, which may have to be shared with strangers, the geometric mean with the
    second; and of memory twice as much as the last cache holds, within 64 MiB and 1 GiB (4 MiB for each thread at
    least).
    """
    sets, before = {}, 0
    for level, (size, shared) in caches().items():
        part = size // 2 if level in ("L1", "L2") else math.isqrt(before * size)
        sets[level] = max(part // (threads if shared else 1), 4096)
        before = size
    sets["memory"] = max(min(max(2 * before, LEAST_MEMORY), MOST_MEMORY) // threads, 4 << 20)
    return sets


def measure(threads: Sequence[int], dtypes: Sequence[str] = ("float32", "float64")) -> dict[str, Any]:
    """All of it, for each number of threads."""
    return {
        "peak": [{"dtype": dtype, "threads": n, "gflops": peak(dtype, n)} for n in threads for dtype in dtypes],
        "bandwidth": [
            {"level": level, "threads": n, "bytes": size, "gigabytes": bandwidth(size, n)}
            for n in threads
            for level, size in working_sets(n).items()
        ],
    }


def processor() -> str:
    """The processor's name, as the system gives it."""
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def description() -> dict[str, Any]:
    """What the figures were taken on."""
    return {
        "processor": processor(),
        "target": isa.processor(),
        "vectors": isa.describe(),
        "processors": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "caches": {level: size for level, (size, _) in caches().items()},
    }
