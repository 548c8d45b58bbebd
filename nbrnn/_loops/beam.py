"""Prefix beam search: the labels that are most likely, all their alignments summed.

A. Hannun et al., "First-pass large vocabulary continuous speech recognition using bi-directional recurrent DNNs",
arXiv:1408.2873, algorithm 1, without a language model.  Prefixes are the nodes of a tree: each knows its parent and
its last label, so that a prefix is the same node however often it leaves the beam and comes back.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types

from .._cpu.loops import any_array, own_array
from .._kernel import cached, compiled, kernel, part

NONE = -1


@part(allocates=True)
def _log_sum(a, b):
    """log(e^a + e^b)."""
    if b > a:
        a, b = b, a
    return a if a == -math.inf else a + math.log1p(math.exp(b - a))


@part(allocates=True)
def _offer(score, entry, symbol, scores, entries, symbols, count):
    """Put a candidate into a heap with the worst on top, in place of that if it is full; returns how many there are."""
    if count == len(scores):
        if not score > scores[0]:
            return count
        k = 0  # down from the top
        while 2 * k + 1 < count:
            child = 2 * k + 1
            if child + 1 < count and scores[child + 1] < scores[child]:
                child += 1
            if scores[child] >= score:
                break
            scores[k], entries[k], symbols[k] = scores[child], entries[child], symbols[child]
            k = child
    else:
        k = count  # up from the bottom
        count += 1
        while k > 0 and scores[(k - 1) // 2] > score:
            above = (k - 1) // 2
            scores[k], entries[k], symbols[k] = scores[above], entries[above], symbols[above]
            k = above
    scores[k], entries[k], symbols[k] = score, entry, symbol
    return count


@part(allocates=True)
def _search(y, top, log_sum, b, n, beam, blank, out):
    """(number of labels, written to ``out``; their log probability) of one sequence."""
    C = y.shape[2]
    none = np.int64(NONE)  # not a literal, for which `_offer` would be compiled once more
    # The tree: node 0 is the empty prefix; children of a node are a list by way of their siblings.
    tree = np.full((5, 1 + n * beam), NONE)
    parent, last, child, sibling, place = tree[0], tree[1], tree[2], tree[3], tree[4]
    nodes = 1
    # The beam: node, and log p of the alignments that end in a blank, or don't, and of both.
    node, ends_blank, ends_label, both = np.zeros(beam, np.int64), np.empty(beam), np.empty(beam), np.empty(beam)
    ends_blank[0], ends_label[0], both[0], count = 0.0, -math.inf, 0.0, 1
    # The next one: candidates are a prefix as it is (symbol NONE), or with one more label.
    scores, entries, symbols = np.empty(beam), np.empty(beam, np.int64), np.empty(beam, np.int64)
    stay_blank, stay_label = np.empty(beam), np.empty(beam)
    before = np.empty(beam, np.int64)
    log_p, present = np.empty(C), np.full(C, NONE)
    for t in range(n):
        best = -math.inf
        for c in range(C):
            log_p[c] = (np.float64(y[t, b, c]) - top[t, b]) - log_sum[t, b]
            best = max(best, log_p[c])
        for i in range(count):
            place[node[i]] = i
        found: Any = np.int64(0)
        for i in range(count):
            v = node[i]
            stay_blank[i], stay_label[i] = both[i] + log_p[blank], -math.inf
            if v != 0:
                again = ends_label[i]
                j = place[parent[v]]
                if j != NONE:  # its parent is in the beam too, and becomes this one with the label
                    again = _log_sum(again, ends_blank[j] if last[parent[v]] == last[v] else both[j])
                stay_label[i] = again + log_p[last[v]]
            score = _log_sum(stay_blank[i], stay_label[i])
            if score > -math.inf:
                found = _offer(score, i, none, scores, entries, symbols, found)
        for i in range(count):
            v = node[i]
            if found == beam and both[i] + best <= scores[0]:
                continue
            u = child[v]
            while u != NONE:
                if place[u] != NONE:
                    present[last[u]] = i
                u = sibling[u]
            for c in range(C):
                if c != blank and present[c] != i:
                    # The same label again is another one only after a blank.
                    score = (ends_blank[i] if c == last[v] else both[i]) + log_p[c]
                    if score > -math.inf:
                        found = _offer(score, i, c, scores, entries, symbols, found)
        for c in range(C):
            present[c] = NONE
        for i in range(count):
            place[node[i]] = NONE
            before[i] = node[i]
        for q in range(found):
            i, c = entries[q], symbols[q]
            v = before[i]
            if c == NONE:
                node[q], ends_blank[q], ends_label[q] = v, stay_blank[i], stay_label[i]
                continue
            u = child[v]
            while u != NONE and last[u] != c:
                u = sibling[u]
            if u == NONE:
                u = nodes
                nodes += 1
                parent[u], last[u], sibling[u], child[v] = v, c, child[v], u
            node[q], ends_blank[q], ends_label[q] = u, -math.inf, scores[q]
        for q in range(found):  # a loop: a copy of slices would compile for seconds
            both[q] = scores[q]
        count = found
    first = 0
    for i in range(1, count):
        if both[i] > both[first]:
            first = i
    length, v = 0, node[first]
    while v != 0:
        length, v = length + 1, parent[v]
    v = node[first]
    for u in range(length - 1, -1, -1):
        out[u], v = last[v], parent[v]
    return length, both[first]


@kernel(allocates=True)
def search(y, top, log_sum, lengths, beam, blank, labels, counts, log_p):
    """Labels of each sequence, ``labels[b, :counts[b]]``, and their log probability.

    Parameters
    ----------
    y : (T, B, classes)
    top, log_sum : (T, B)
        log softmax(y) = (y - top) - log_sum.
    lengths, counts, log_p : (B,)
    beam : prefixes that are kept
    labels : (B, T)
    """
    for b in range(y.shape[1]):
        counts[b], log_p[b] = _search(y, top, log_sum, b, lengths[b], beam, blank, labels[b])


@cached
def search_kernel(dtype: np.dtype[Any]) -> Callable[..., None]:
    """The compiled ``search``."""
    rows, integers, table = own_array(np.float64, 2), own_array(np.int64, 1), own_array(np.int64, 2)
    size = types.int64
    return compiled(
        search,
        (any_array(dtype, 3), rows, rows, integers, size, size, table, integers, own_array(np.float64, 1)),
    )
