"""Connectionist temporal classification: all alignments of a sequence at once, forward and backward.

Equations are those of A. Graves et al., "Connectionist temporal classification", ICML 2006.  All is in logarithms, in
float64 for either dtype: there are only (2 U + 1) numbers a step, beside the classes.  Each row is taken relative to
its own largest number, whose logarithms are summed apart: so the digits of a row, and of the gradient, don't wear away
with the number of steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types

from .._cpu.loops import any_array, own_array
from .._kernel import cached, compiled, kernel, part


@part(allocates=True)
def _log_sum(a, b, c):
    """log(e^a + e^b + e^c)."""
    if b > a:
        a, b = b, a
    if c > a:
        a, c = c, a
    return a if a == -math.inf else a + math.log1p(math.exp(b - a) + math.exp(c - a))


@part(allocates=True)
def _peak(row, first, last):
    """Take row[first:last] relative to its largest, which is returned; -inf, and nothing done, where that is -inf."""
    peak = -math.inf
    for s in range(first, last):
        peak = max(peak, row[s])
    if peak > -math.inf:
        for s in range(first, last):
            row[s] -= peak
    return peak


@part(allocates=True)
def _all(dy, b, steps, value):
    """dy[:steps, b] = value."""
    for t in range(steps):
        for k in range(dy.shape[2]):
            dy[t, b, k] = value


@part(allocates=True)
def _logs(y, top, log_sum, t, b, symbols, first, last, row):
    """row[s] = log softmax(y[t, b])[symbols[s]] for first <= s < last."""
    for s in range(first, last):
        row[s] = (np.float64(y[t, b, symbols[s]]) - top[t, b]) - log_sum[t, b]


@part(allocates=True)
def _sequence(y, top, log_sum, b, n, symbols, skips, scale, mass, dy):
    """-log p of a sequence that is long enough; its gradient in dy, which comes with scale * softmax(y).

    Parameters
    ----------
    symbols : (S,), S = 2 U + 1
        The labels with blanks around each (l' in the paper).
    skips : (S,)
        Whether an alignment may come to a symbol from the last but one: past a blank between unequal labels.
    mass : (classes,) of zeros, and left so
    """
    S = len(symbols)
    alpha, e = np.full((n, S), -math.inf), np.empty(S)
    log_p = 0.0
    for t in range(n):
        # Symbols that can have been reached, and from which the end can be.
        first, last = max(0, S - 2 * (n - t)), min(S, 2 * (t + 1))
        _logs(y, top, log_sum, t, b, symbols, first, last, e)
        for s in range(first, last):  # eq. 5-8
            if t == 0:
                alpha[t, s] = e[s]
                continue
            before = alpha[t - 1]
            one = before[s - 1] if s > 0 else -math.inf
            two = before[s - 2] if skips[s] else -math.inf
            alpha[t, s] = e[s] + _log_sum(before[s], one, two)
        peak = _peak(alpha[t], first, last)
        if peak == -math.inf:
            return math.inf
        log_p += peak
    end = _log_sum(alpha[n - 1, S - 1], alpha[n - 1, S - 2] if S > 1 else -math.inf, -math.inf)
    if end == -math.inf:
        return math.inf
    # beta[s]: what follows step t if it stands at s, without step t itself (the paper's has it twice, eq. 13-15).
    beta, share = np.full(S, -math.inf), np.empty(S)
    for t in range(n - 1, -1, -1):
        first, last = max(0, S - 2 * (n - t)), min(S, 2 * (t + 1))
        if t == n - 1:
            beta[S - 1] = 0
            beta[max(0, S - 2)] = 0
        else:  # eq. 9-11; e is that of step t + 1
            for s in range(max(0, S - 2 * (n - t - 1)), min(S, last + 2)):
                beta[s] += e[s]
            for s in range(first, last):
                one = beta[s + 1] if s + 1 < S else -math.inf
                two = beta[s + 2] if s + 2 < S and skips[s + 2] else -math.inf
                beta[s] = _log_sum(beta[s], one, two)
            _peak(beta, first, last)
        _logs(y, top, log_sum, t, b, symbols, first, last, e)
        # How likely each symbol is at step t, given the labels: all of them together are certain.
        most, whole = -math.inf, 0.0
        for s in range(first, last):
            share[s] = alpha[t, s] + beta[s]
            most = max(most, share[s])
        for s in range(first, last):
            share[s] = math.exp(share[s] - most)
            whole += share[s]
        for s in range(first, last):
            mass[symbols[s]] += share[s] / whole
        for s in range(first, last):  # eq. 16: each label once, as a difference in float64
            k = symbols[s]
            if mass[k] != 0:
                dy[t, b, k] = scale * (math.exp(e[s]) - mass[k])
                mass[k] = 0
    return 0.0 - (log_p + end)  # not -0.0


@kernel(allocates=True)
def ctc(y, top, log_sum, labels, starts, lengths, scale, blank, loss, dy):
    """-log p of each sequence: inf where there is no alignment, with a gradient of 0.

    Parameters
    ----------
    y, dy : (T, B, classes), of any strides
        dy comes with scale * softmax(y), 0 past the ends (``softmax.softmax``).
    top, log_sum : (T, B)
        log softmax(y) = (y - top) - log_sum.
    labels, starts : labels[starts[b] : starts[b + 1]] are those of sequence b
    lengths, scale, loss : (B,)
    """
    mass = np.zeros(y.shape[2])
    for b in range(y.shape[1]):
        n, own = lengths[b], labels[starts[b] : starts[b + 1]]
        U = len(own)
        symbols, skips = np.full(2 * U + 1, blank), np.zeros(2 * U + 1, np.bool_)
        least = U
        for u in range(U):
            symbols[2 * u + 1] = own[u]
            skips[2 * u + 1] = u > 0 and own[u] != own[u - 1]
            least += u > 0 and own[u] == own[u - 1]
        undefined = False
        for t in range(n):
            undefined |= math.isnan(log_sum[t, b])
        if undefined:
            loss[b] = math.nan
            _all(dy, b, n, math.nan)
        elif n < least:
            loss[b] = math.inf
        elif n == 0:
            loss[b] = 0.0
        else:
            loss[b] = _sequence(y, top, log_sum, b, n, symbols, skips, scale[b], mass, dy)
        if loss[b] == math.inf:
            _all(dy, b, n, 0.0)


@cached
def ctc_kernel(dtype: np.dtype[Any]) -> Callable[..., None]:
    """The compiled ``ctc``."""
    rows, numbers, integers = own_array(np.float64, 2), own_array(np.float64, 1), own_array(np.int64, 1)
    given, dy = any_array(dtype, 3), any_array(dtype, 3, False)
    return compiled(ctc, (given, rows, rows, integers, integers, integers, numbers, types.int64, numbers, dy))
