"""From a plain Numba loop to the shipped kernel: what each idea is worth on this machine.

    python tools/ladder.py [--shape 50,64,256,256] [--single 100,1,256,256]

prints the rungs of the table in ``docs/kernels.rst``: an LSTM's forward pass in float32, inference, medians of calls
taken in turn.  Rungs in between are the shipped kernel with one of its parts replaced, compiled in a process (and a
cache) of their own.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time

import numba
import numpy as np

import nbrnn
from nbrnn._cpu import cost, steps, tiles


@numba.njit(error_model="numpy")
def sigmoid(x):
    return np.float32(1) / (np.float32(1) + math.exp(-x))


@numba.njit(error_model="numpy")
def loops(x, w_ih, w_hh, bias, y):
    """Everything one number at a time, in the order of the formulas."""
    T, B, I = x.shape
    H = w_hh.shape[1]
    h, c, sums = np.zeros((B, H), np.float32), np.zeros((B, H), np.float32), np.empty(4 * H, np.float32)
    for t in range(T):
        for b in range(B):
            for r in range(4 * H):
                total = bias[r]
                for k in range(I):
                    total += w_ih[r, k] * x[t, b, k]
                for k in range(H):
                    total += w_hh[r, k] * h[b, k]
                sums[r] = total
            for u in range(H):
                i, f = sigmoid(sums[u]), sigmoid(sums[H + u])
                g, o = math.tanh(sums[2 * H + u]), sigmoid(sums[3 * H + u])
                c[b, u] = f * c[b, u] + i * g
                y[t, b, u] = o * math.tanh(c[b, u])
            h[b] = y[t, b]


@numba.njit(error_model="numpy")
def products(x, w_ih, w_hh, bias, y):
    """The sums of a step by ``np.dot``: what most people would write."""
    T, B, _ = x.shape
    H = w_hh.shape[1]
    h, c = np.zeros((B, H), np.float32), np.zeros((B, H), np.float32)
    for t in range(T):
        sums = np.dot(x[t], w_ih.T) + np.dot(h, w_hh.T)
        for b in range(B):
            for u in range(H):
                i, f = sigmoid(sums[b, u] + bias[u]), sigmoid(sums[b, H + u] + bias[H + u])
                g, o = math.tanh(sums[b, 2 * H + u] + bias[2 * H + u]), sigmoid(sums[b, 3 * H + u] + bias[3 * H + u])
                c[b, u] = f * c[b, u] + i * g
                h[b, u] = o * math.tanh(c[b, u])
        y[t] = h


def one_row(*_):
    """Sizes of tiles: rows one by one."""
    return (1,)


#: Rungs: threads, whether tiles have several rows, whether inputs are multiplied ahead, and the name.
RUNGS = {
    "plain": "one number at a time, `@njit`",
    "dot": "`np.dot` for the sums of a step",
    "row": "packed panels, vectors, activations on the sums; rows one by one",
    "tile": "tiles of six rows",
    "ahead": "inputs of many steps at once, where rows are few",
    "threads": "two threads",
}


def median(call, seconds=3.0):
    """Median milliseconds."""
    call()
    taken, begun = [], time.perf_counter()
    while len(taken) < 3 or time.perf_counter() - begun < seconds:
        before = time.perf_counter()
        call()
        taken.append(time.perf_counter() - before)
    return 1e3 * statistics.median(taken)


def measure(rung, shape):
    """Milliseconds of a call."""
    T, B, I, H = shape
    rng = np.random.default_rng(0)
    x, layer = rng.normal(size=(T, B, I)).astype(np.float32), nbrnn.LSTM(I, H, rng=0)
    numba.set_num_threads(2 if rung == "threads" else 1)
    if rung in ("plain", "dot"):
        p, y = layer.params, np.empty((T, B, H), np.float32)
        given = [np.array(p["weight_ih_l0"]), np.array(p["weight_hh_l0"]), p["bias_ih_l0"] + p["bias_hh_l0"]]
        function = loops if rung == "plain" else products
        function(x, *given, y)
        np.testing.assert_allclose(y, layer(x)[0], atol=1e-5)
        return median(lambda: function(x, *given, y))
    if rung == "row":
        tiles.tile_rows = steps.tile_rows = one_row
    if rung in ("row", "tile"):
        cost.rows_ahead = lambda *_: 0
    return median(lambda: layer(x))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", default="50,64,256,256")
    parser.add_argument("--single", default="100,1,256,256")
    parser.add_argument("--rung", help=argparse.SUPPRESS)
    given = parser.parse_args()
    shapes = [tuple(map(int, text.split(","))) for text in (given.shape, given.single)]
    if given.rung:
        print(json.dumps([measure(given.rung, shape) for shape in shapes]))
        return
    print(f"{'ms a call at (T, B, I, H)':70s} {given.shape:>16s} {given.single:>16s}")
    for rung, name in RUNGS.items():
        with tempfile.TemporaryDirectory() as cache:
            command = [sys.executable, __file__, "--rung", rung, "--shape", given.shape, "--single", given.single]
            environment = os.environ | {"NUMBA_CACHE_DIR": cache, "OPENBLAS_NUM_THREADS": "1"}
            taken = json.loads(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout)
        print(f"{name:70s} {taken[0]:16.2f} {taken[1]:16.2f}", flush=True)


if __name__ == "__main__":
    main()
