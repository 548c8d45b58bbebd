"""One step of each optimiser: a single pass over the parameters p, their gradients g and what an optimiser carries.

All vectors have one length and one dtype; so have the numbers, which callers compute in float64 and round once.  There
is no sum over elements and nothing is allocated, so LLVM makes vector code of each loop, and its width changes no bit.
What an optimiser may do without is None, and the branch then isn't compiled.
"""

import math

import numpy as np

from .._kernel import kernel


@kernel
def sgd(p, g, lr, decay):
    """p -= lr (g + decay p)."""
    for k in range(p.size):
        p[k] -= lr * (g[k] + decay * p[k])


@kernel
def momentum(p, g, buffer, lr, decay, mu, fresh):
    """b = mu b + fresh g,  p -= lr b."""
    for k in range(p.size):
        buffer[k] = mu * buffer[k] + fresh * (g[k] + decay * p[k])
        p[k] -= lr * buffer[k]


@kernel
def nesterov(p, g, buffer, lr, decay, mu, fresh):
    """b = mu b + fresh g,  p -= lr (g + mu b)."""
    for k in range(p.size):
        gradient = g[k] + decay * p[k]
        buffer[k] = mu * buffer[k] + fresh * gradient
        p[k] -= lr * (gradient + mu * buffer[k])


@kernel
def rmsprop(p, g, v, mean, buffer, lr, decay, alpha, rest, eps, mu):
    """v = alpha v + rest g^2,  p -= lr g / (sqrt(v) + eps); ``rest`` is 1 - alpha.

    With ``mean``, the variance v - mean^2 stands for v; with ``buffer``, b = mu b + g / (...) and p -= lr b.
    """
    zero = p.dtype.type(0)
    for k in range(p.size):
        gradient = g[k] + decay * p[k]
        v[k] = alpha * v[k] + rest * (gradient * gradient)
        spread = v[k]
        if mean is not None:
            mean[k] += rest * (gradient - mean[k])
            spread -= mean[k] * mean[k]
            # Rounding may leave a variance of nothing below 0.  (NaN isn't below, and stays.)
            if spread < zero:
                spread = zero
        way = gradient / (math.sqrt(spread) + eps)
        if buffer is not None:
            way += mu * buffer[k]
            buffer[k] = way
        p[k] -= lr * way


@kernel
def adam(p, g, m, v, v_max, size, shrink, decay, rest_1, b_2, rest_2, scale, eps):
    """m = m + rest_1 (g - m),  v = b_2 v + rest_2 g^2,  p = shrink p - size m / (scale sqrt(v) + eps).

    ``rest_1`` and ``rest_2`` are 1 - b_1 and 1 - b_2; ``size`` and ``scale`` correct for the moments' start at 0.  With
    ``v_max``, the largest v so far stands for v.
    """
    for k in range(p.size):
        gradient = g[k] + decay * p[k]
        m[k] += rest_1 * (gradient - m[k])
        v[k] = b_2 * v[k] + rest_2 * (gradient * gradient)
        square = v[k]
        if v_max is not None:
            square = np.maximum(square, v_max[k])  # NaN stays NaN
            v_max[k] = square
        p[k] = shrink * p[k] - size * m[k] / (scale * math.sqrt(square) + eps)


@kernel
def sum_of_squares(blocks, rest, sums):
    """Sum in float64 of the squares of ``blocks``, (n, L), and ``rest``, fewer than L; ``sums``, (L,), is work space.

    L partial sums are added up in a fixed order, so vector code of any width gives the same bits.  (L is not a
    constant: a loop of constant length would be unrolled before it could be made vector code.)
    """
    sums[:] = 0.0
    for block in range(blocks.shape[0]):
        for lane in range(sums.size):
            number = np.float64(blocks[block, lane])
            sums[lane] += number * number
    for lane in range(rest.size):
        number = np.float64(rest[lane])
        sums[lane] += number * number
    total = 0.0
    for lane in range(sums.size):
        total += sums[lane]
    return total
