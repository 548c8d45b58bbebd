"""Connectionist temporal classification by enumerating all alignments; prefix beam search with dictionaries."""

import itertools

import numpy as np


def log_softmax(y):
    y = np.asarray(y, np.float64)
    return y - np.logaddexp.reduce(y, -1)[..., None]


def labels_of(path, blank):
    """Repeats merged, blanks dropped."""
    return tuple(k for k, _ in itertools.groupby(path) if k != blank)


def alignments(y, blank):
    """(path, its labels, its log probability) of all there are, for y (T, classes)."""
    log_p = log_softmax(y)
    T, classes = log_p.shape
    for path in itertools.product(range(classes), repeat=T):
        yield path, labels_of(path, blank), sum(log_p[t, k] for t, k in enumerate(path))


def ctc(y, labels, blank):
    """(-log p(labels), its gradient for y); (inf, 0) without an alignment."""
    whole, share = -np.inf, np.full(y.shape, -np.inf)
    for path, own, log_p in alignments(y, blank):
        if own == tuple(labels):
            whole = np.logaddexp(whole, log_p)
            for t, k in enumerate(path):
                share[t, k] = np.logaddexp(share[t, k], log_p)
    if whole == -np.inf:
        return np.inf, np.zeros(y.shape)
    return -whole, np.exp(log_softmax(y)) - np.exp(share - whole)


def probabilities(y, blank):
    """{labels: log p} of all that y (T, classes) can stand for."""
    found = {}
    for _, own, log_p in alignments(y, blank):
        found[own] = np.logaddexp(found.get(own, -np.inf), log_p)
    return found


def beam_search(y, beam, blank):
    """(labels, log p) for y (T, classes): {prefix: [ends in a blank, doesn't]} after each step."""
    kept = {(): [0.0, -np.inf]}
    for row in log_softmax(y):
        found = {}

        def add(prefix, where, log_p, found=found):
            entry = found.setdefault(prefix, [-np.inf, -np.inf])
            entry[where] = np.logaddexp(entry[where], log_p)

        for prefix, (in_blank, in_label) in kept.items():
            both = np.logaddexp(in_blank, in_label)
            for c, log_p in enumerate(row):
                if c == blank:
                    add(prefix, 0, both + log_p)
                elif prefix and c == prefix[-1]:
                    add(prefix, 1, in_label + log_p)
                    add((*prefix, c), 1, in_blank + log_p)
                else:
                    add((*prefix, c), 1, both + log_p)
        kept = dict(sorted(found.items(), key=lambda item: -np.logaddexp(*item[1]))[:beam])
    best = max(kept, key=lambda prefix: np.logaddexp(*kept[prefix]))
    return best, np.logaddexp(*kept[best])
