"""Attention of Luong and others in plain loops: one sequence, float64."""

import numpy as np


def attend(h, s, weight_c, weight_a=None):
    """(h~ (T, K), weights (T, J)) for h (T, K) and s (J, S); weight_c (K, S + K), weight_a (K, S) or None for "dot"."""
    h, s = np.asarray(h, np.float64), np.asarray(s, np.float64)
    result, all_weights = [], []
    for h_t in h:
        scores = np.array([h_t @ (s_j if weight_a is None else weight_a @ s_j) for s_j in s])  # eq. 8
        weights = np.exp(scores - scores.max()) if len(s) else scores  # eq. 7
        weights = weights / weights.sum() if len(s) else scores
        context = sum((a * s_j for a, s_j in zip(weights, s, strict=True)), np.zeros(s.shape[1]))
        result.append(np.tanh(weight_c @ np.concatenate([context, h_t])))  # eq. 5
        all_weights.append(weights)
    return np.array(result).reshape(len(h), len(weight_c)), np.array(all_weights).reshape(len(h), len(s))
