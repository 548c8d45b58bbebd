"""Estimators with scikit-learn's conventions: classification and regression of sequences, forecasts of series.

They need scikit-learn, ``pip install 'nbrnn[learn]'``, which ``import nbrnn`` alone doesn't import.
"""

import importlib.util

if importlib.util.find_spec("sklearn") is None:
    raise ImportError("nbrnn.estimators needs scikit-learn: pip install 'nbrnn[learn]'")

from .classifier import SequenceClassifier
from .forecaster import Forecaster
from .regressor import SequenceRegressor

__all__ = ["Forecaster", "SequenceClassifier", "SequenceRegressor"]
