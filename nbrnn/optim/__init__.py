"""Optimisers: ``opt = Adam(net, lr=...)``, ``opt.step(grads)``; schedules of learning rates; bounds for gradients."""

from . import schedules
from .adam import Adam, AdamW
from .base import Optimizer
from .clip import bound, clip_grad_norm, clip_grad_value
from .rmsprop import RMSprop
from .sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "RMSprop", "bound", "clip_grad_norm", "clip_grad_value", "schedules"]
