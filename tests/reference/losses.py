"""Losses, one number after another: (value, derivative) of each, and their means."""

import math

import numpy as np


def square(y, z):
    return (y - z) ** 2, 2 * (y - z)


def absolute(y, z):
    return abs(y - z), float(np.sign(y - z))


def huber(y, z, delta=1.0):
    d = y - z
    if abs(d) <= delta:
        return d * d / 2, d
    return delta * (abs(d) - delta / 2), math.copysign(delta, d)


def binary(y, z, weight=1.0, pos_weight=1.0):
    """-weight (pos_weight z log sigmoid(y) + (1 - z) log sigmoid(-y))."""
    yes, no = np.logaddexp(0, -y), np.logaddexp(0, y)
    value = weight * (pos_weight * z * yes + (1 - z) * no)
    return value, weight * ((1 - z) * np.exp(-yes) - pos_weight * z * np.exp(-no))


def mean(f, y, target, lengths, **options):
    """(loss, dy) of y (T, B, n); an option is a number for all or an array (T, B, n)."""
    y, target = np.asarray(y, np.float64), np.asarray(target, np.float64)
    options = {name: np.broadcast_to(value, y.shape) for name, value in options.items()}
    total, count, dy = 0.0, 0, np.zeros(y.shape)
    for t, b, k in np.ndindex(y.shape):
        if t < lengths[b]:
            own = {name: float(value[t, b, k]) for name, value in options.items()}
            value, dy[t, b, k] = f(y[t, b, k], target[t, b, k], **own)
            total, count = total + value, count + 1
    return total / max(1, count), dy / max(1, count)


def cross_entropy(y, target, lengths, ignore_index=-100, weight=None, label_smoothing=0.0):
    """(loss, dy) of y (T, B, classes)."""
    y = np.asarray(y, np.float64)
    T, B, classes = y.shape
    weight = np.ones(classes) if weight is None else weight
    total, mass, dy = 0.0, 0.0, np.zeros(y.shape)
    for t in range(T):
        for b in range(B):
            c = target[t, b]
            if t >= lengths[b] or c == ignore_index:
                continue
            log_p = y[t, b] - np.logaddexp.reduce(y[t, b])
            wanted = label_smoothing / classes * np.asarray(weight, np.float64)
            wanted[c] += (1 - label_smoothing) * weight[c]
            total -= (wanted[wanted > 0] * log_p[wanted > 0]).sum()
            dy[t, b] = wanted.sum() * np.exp(log_p) - wanted
            mass += weight[c]
    return (total / mass, dy / mass) if mass else (0.0, 0 * dy)
