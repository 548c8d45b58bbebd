"""Derive the polynomials of nbrnn/_cpu/exponential.py (needs mpmath: ``pip install mpmath``).

    python tools/expm1_coefficients.py

finds q of a given degree such that r + r^2 q(r) is closest to e^r - 1, in relative error, for |r| <= ln(2) / 2:
Remez' exchange algorithm, in 60 digits.  The coefficients are then rounded one at a time, from the lowest up, each
time fitting the others anew, so that rounding costs little.
"""

from __future__ import annotations

import mpmath as mp
import numpy as np

mp.mp.dps = 60
HALF = mp.log(2) / 2 * (1 + mp.mpf(2) ** -20)  # the reduced argument may overshoot by a rounding error


def q_exact(r):
    """(e^r - 1 - r) / r^2."""
    return mp.mpf(1) / 2 if r == 0 else (mp.expm1(r) - r) / r**2


def weight(r):
    """Relative error of the whole per error of q."""
    return r if r == 0 else r**2 / mp.expm1(r)


def remez(degree, known):
    """Coefficients 0..degree of q, of which ``known`` (the lowest) are given."""
    free = degree + 1 - len(known)
    points = [HALF * mp.cos(mp.pi * (2 * i + 1) / (2 * free + 2)) for i in range(free + 1)]
    grid = [HALF * mp.cos(mp.pi * i / 600) for i in range(601)]
    for _ in range(30):
        rows, right = [], []
        for i, r in enumerate(points):
            rows.append([r ** (len(known) + k) * weight(r) for k in range(free)] + [mp.mpf(-1) ** i])
            right.append((q_exact(r) - sum(c * r**k for k, c in enumerate(known))) * weight(r))
        solution = mp.lu_solve(mp.matrix(rows), mp.matrix(right))
        coefficients = list(known) + [solution[k] for k in range(free)]

        def error(r, c=coefficients):
            return (sum(a * r**k for k, a in enumerate(c)) - q_exact(r)) * weight(r)

        errors = [error(r) for r in grid]
        # one point for each stretch of equal sign, where the error is largest
        new, start = [], 0
        for i in range(1, len(grid) + 1):
            if i == len(grid) or mp.sign(errors[i]) != mp.sign(errors[start]):
                new.append(grid[max(range(start, i), key=lambda j: abs(errors[j]))])
                start = i
        while len(new) > free + 1:
            new.pop(0 if abs(error(new[0])) < abs(error(new[-1])) else -1)
        if len(new) < free + 1:
            break
        points = new
    return coefficients, max(abs(e) for e in errors)


def rounded(degree, dtype):
    known = []
    while len(known) <= degree:
        coefficients, worst = remez(degree, known) if len(known) < degree + 1 else (known, 0)
        known.append(mp.mpf(float(dtype(float(coefficients[len(known)])))))
    worst = max(
        abs((sum(a * r**k for k, a in enumerate(known)) - q_exact(r)) * weight(r))
        for r in (HALF * mp.mpf(i) / 500 for i in range(-500, 501))
    )
    return [float(c) for c in known], worst


for dtype, degree in ((np.float32, 5), (np.float64, 9)):
    coefficients, worst = rounded(degree, dtype)
    print(dtype.__name__, degree, f"largest relative error 2^{float(mp.log(worst, 2)):.1f}")
    for c in coefficients:
        print("   ", repr(c), float.hex(c))
