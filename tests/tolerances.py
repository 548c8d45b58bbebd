"""How far results may be from the reference: one table, by dtype and number of steps.

Errors are max|a - b| / max|b| of a whole tensor; where b is all zero, a must be too.
"""

import math

import numpy as np

PER_ROOT_STEP = {"float32": 1e-5, "float64": 1e-12}


def tolerance(dtype, steps):
    """Largest error allowed."""
    return PER_ROOT_STEP[np.dtype(dtype).name] * math.sqrt(max(1, steps))


def error(a, b):
    """Error of a against b."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert a.shape == b.shape, (a.shape, b.shape)
    if a.size == 0:
        return 0.0
    largest = np.abs(b).max()
    difference = np.abs(a - b).max()  # NaN anywhere makes this NaN
    if largest == 0:
        return 0.0 if difference == 0 else math.inf
    return float(difference / largest)


def assert_close(a, b, dtype, steps, what):
    """As near as the table wants."""
    found, allowed = error(a, b), tolerance(dtype, steps)
    assert found <= allowed, f"{what}: error {found:.2e}, allowed {allowed:.2e}"
