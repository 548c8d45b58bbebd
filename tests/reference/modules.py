"""Parts of a network without state, forward and backward, one sequence after another in float64: NumPy alone."""

import numpy as np


def embedding(weight, x, lengths, dy, padding_idx=None):
    """(y, dweight) for x (T, B)."""
    weight, dy = np.asarray(weight, np.float64), np.asarray(dy, np.float64)
    y, dweight = np.zeros((*x.shape, weight.shape[1])), np.zeros_like(weight)
    for b, length in enumerate(lengths):
        for t in range(length):
            y[t, b] = weight[x[t, b]]
            if x[t, b] != padding_idx:
                dweight[x[t, b]] += dy[t, b]
    return y, dweight


def pool(mode, x, lengths, dy):
    """(y, dx) for x (T, B, n)."""
    x, dy = np.asarray(x, np.float64), np.asarray(dy, np.float64)
    y, dx = np.zeros(x.shape[1:]), np.zeros_like(x)
    for b, length in enumerate(lengths):
        if length == 0:
            continue
        for i in range(x.shape[2]):
            steps = x[:length, b, i]
            if mode == "mean":
                y[b, i] = sum(steps) / length
                dx[:length, b, i] = dy[b, i] / length
            else:
                at = length - 1 if mode == "last" else list(steps).index(max(steps))
                y[b, i] = steps[at]
                dx[at, b, i] = dy[b, i]
    return y, dx


def layer_norm(x, weight, bias, eps, dy):
    """(y, dx, dweight, dbias) for x (N, n), with the whole Jacobian of each row."""
    x, dy = np.asarray(x, np.float64), np.asarray(dy, np.float64)
    n = x.shape[1]
    y, dx, dweight, dbias = np.zeros_like(x), np.zeros_like(x), np.zeros(n), np.zeros(n)
    centre = np.eye(n) - 1 / n
    for r in range(len(x)):
        c = centre @ x[r]
        s = np.sqrt(c @ c / n + eps)
        z = c / s
        y[r] = z * weight + bias
        dweight += dy[r] * z
        dbias += dy[r]
        jacobian = centre / s - np.outer(z, z @ centre) / (n * s)  # dz / dx; ds / dx = z C / n
        dx[r] = (dy[r] * weight) @ jacobian
    return y, dx, dweight, dbias
