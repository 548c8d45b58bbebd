"""Losses: ``loss, dy = f(y, target, lengths=None)``.

The loss is a float, the mean over all valid steps (and features, where y has as many as the target); dy is its gradient
for y, of y's shape and dtype, 0 where a step doesn't count.
"""

from .classification import bce_with_logits, cross_entropy
from .connectionist import ctc
from .regression import huber, mae, mse

__all__ = ["bce_with_logits", "cross_entropy", "ctc", "huber", "mae", "mse"]
