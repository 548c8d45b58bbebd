"""Networks in files, and from other libraries."""

from .network import load, save
from .torch import from_torch

__all__ = ["from_torch", "load", "save"]
