"""From nothing to the first result: import, cold and warm start, each in processes of their own."""

import os
import subprocess
import sys
import tempfile
import time

from .common import CELLS

FORWARD = """
import time
import numba, numpy as np
begun = time.perf_counter()
import nbrnn
imported = time.perf_counter()
layer = nbrnn.{cell}(16, 32, rng=0)
x = np.ones((10, 2, 16), np.float32)
layer(x)
called = time.perf_counter()
y, state, tape = layer.forward(x)
layer.backward(tape, y.copy())
print(imported - begun, called - imported, time.perf_counter() - called)
"""


def seconds(cell, cache):
    """(import after numba, first forward, first training step) of a new process."""
    environment = os.environ | {"NUMBA_CACHE_DIR": cache}
    shown = subprocess.run(
        [sys.executable, "-c", FORWARD.format(cell=cell)], env=environment, check=True, capture_output=True, text=True
    )
    return tuple(map(float, shown.stdout.split()))


class Starts:
    """One start with an empty cache, and the median of five with what that has left: done once for all that follows."""

    params = (CELLS,)
    param_names = ("cell",)
    unit = "seconds"
    timeout = 300

    def setup_cache(self):
        results = {}
        for cell in CELLS:
            with tempfile.TemporaryDirectory() as cache:
                cold = seconds(cell, cache)
                runs = sorted(seconds(cell, cache) for _ in range(5))
            results[cell] = cold, [sorted(part)[2] for part in zip(*runs, strict=True)]
        return results


class Cold(Starts):
    """Everything is compiled."""

    def track_first_forward(self, results, cell):
        return results[cell][0][1]

    def track_first_training_step(self, results, cell):
        return results[cell][0][2]


class Warm(Starts):
    """Everything comes from the cache."""

    def track_import_after_numba(self, results, cell):
        return results[cell][1][0]

    def track_first_forward(self, results, cell):
        return results[cell][1][1]

    def track_first_training_step(self, results, cell):
        return results[cell][1][2]


def track_import_numba():
    """For comparison: what import numba costs here."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import numba"], check=True)
    return time.perf_counter() - begun


track_import_numba.unit = "seconds"
