"""Losses: ``loss, dy = f(y, target, lengths=None)``.

The loss is a float, the mean over all valid steps (and features, where y has as many as the target); dy is its gradient
for y, of y's shape and dtype, 0 where a step doesn't count.

Where y is on a GPU, target must be there too, and so are the results: the loss is an array of shape () in y's dtype and
of y's kind, and ``float(loss)`` waits for it.  Lengths and weights of classes or numbers stay on the host.  Whether
targets are in range can't be told there without waiting: where one isn't, the loss is NaN.  ``ctc`` runs on the CPU
only.
"""

from .classification import bce_with_logits, cross_entropy
from .connectionist import ctc
from .regression import huber, mae, mse

__all__ = ["bce_with_logits", "cross_entropy", "ctc", "huber", "mae", "mse"]
