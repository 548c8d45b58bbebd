"""The kernels that most tests need, compiled or found in the cache."""

import os

import numpy as np

from nbrnn._cpu.chosen import Chosen
from tests.cases import DTYPES, KINDS, Case

#: Neighbours have nothing in common, and may be compiled at the same time.
NAMES = tuple(f"{kind} {dtype}" for kind in (*KINDS, "MGU") for dtype in DTYPES)

#: What layers are given inputs that are chosen from a few.  How those are read depends on the cell's sums and on how many
#: numbers a vector has, each by itself: every cell in one dtype, and one in both.  Relu's sums are tanh's.  The long run
#: has all.
CHOSEN = (("tanh", "float32"), ("tanh", "float64"), ("GRU", "float32"), ("LSTM", "float64"), ("projected", "float32"))
if os.environ.get("HYPOTHESIS_PROFILE") == "long":
    CHOSEN = tuple((kind, dtype) for kind in KINDS for dtype in DTYPES)


def make_ready(name):
    """What a layer of a kind and dtype runs: both ways, one step, and one step of one sequence."""
    kind, dtype = name.split()
    case = Case(kind, dtype)
    case.train()
    case.layer(case.x)
    case.layer.stream(case.B)(case.x[0])
    case.layer.stream()(case.x[0, 0])
    if (kind, dtype) in CHOSEN:
        x = Chosen(case.x[0], np.zeros((case.T, case.B), int))
        case.train(x=x)
        case.layer(x)
