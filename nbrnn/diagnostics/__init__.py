"""What goes on inside: gradients through time, Jacobians, saturated gates, and whether the gradients are right.

``gradient_flow``, ``jacobian_spectrum``, ``saturation`` and ``gradcheck`` give small results that print as a table;
``plot`` draws them, and the history of a training.
"""

from .differences import GradientCheck, gradcheck
from .flow import GradientFlow, gradient_flow
from .gates import GateSaturation, Saturation, saturation
from .pictures import plot
from .spectrum import JacobianSpectrum, jacobian_spectrum

__all__ = [
    "GateSaturation",
    "GradientCheck",
    "GradientFlow",
    "JacobianSpectrum",
    "Saturation",
    "gradcheck",
    "gradient_flow",
    "jacobian_spectrum",
    "plot",
    "saturation",
]
