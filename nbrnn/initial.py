"""Initial values of weights: what ``kernel_init`` and ``recurrent_init`` of a recurrent layer stand for.

Each function draws one matrix of so many rows (what comes out) and columns (what goes in).  A layer has one such matrix
for each gate, stacked; it draws them one by one, so that a gate's sizes count and not those of the stack.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _check
from ._params import checked

Array = NDArray[Any]
Draw = Callable[[tuple[int, int], np.random.Generator], ArrayLike]
Init = str | Draw | None


def orthogonal(shape: tuple[int, int], rng: np.random.Generator) -> Array:
    """A matrix with orthonormal rows, or columns, whichever are fewer; all such matrices are equally likely.

    Parameters
    ----------
    shape : (rows, columns)
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of float64

    References
    ----------
    A. M. Saxe, J. L. McClelland and S. Ganguli, arXiv:1312.6120 (2013); F. Mezzadri, "How to generate random matrices
    from the classical compact groups", Notices of the AMS 54 (2007), for the signs.

    Examples
    --------
    >>> import numpy as np, nbrnn
    >>> q = nbrnn.initial.orthogonal((3, 5), np.random.default_rng(0))
    >>> bool(np.allclose(q @ q.T, np.eye(3)))
    True
    """
    rows, columns = shape
    q, r = np.linalg.qr(rng.normal(size=(max(shape), min(shape))))
    q = q * np.where(np.diag(r) < 0, -1.0, 1.0)  # LAPACK's choice of signs would make some of them more likely
    return q if rows >= columns else q.T


def glorot(shape: tuple[int, int], rng: np.random.Generator) -> Array:
    """U(-a, a) with a = sqrt(6 / (columns + rows)): as much variance forward as back.

    Parameters
    ----------
    shape : (rows, columns)
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of float64

    References
    ----------
    X. Glorot and Y. Bengio, "Understanding the difficulty of training deep feedforward neural networks", AISTATS
    (2010), eq. 16.
    """
    bound = math.sqrt(6 / sum(shape))
    return rng.uniform(-bound, bound, shape)


def he(shape: tuple[int, int], rng: np.random.Generator) -> Array:
    """N(0, 2 / columns): for rectified sums.

    Parameters
    ----------
    shape : (rows, columns)
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of float64

    References
    ----------
    K. He et al., "Delving deep into rectifiers", arXiv:1502.01852 (2015), eq. 10.
    """
    return rng.normal(0, math.sqrt(2 / shape[1]), shape)


def identity(shape: tuple[int, int], rng: np.random.Generator) -> Array:
    """Ones on the diagonal, else zeros; nothing is drawn.

    Parameters
    ----------
    shape : (rows, columns)
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of float64

    References
    ----------
    Q. V. Le, N. Jaitly and G. E. Hinton, "A simple way to initialize recurrent networks of rectified linear units",
    arXiv:1504.00941 (2015).
    """
    return np.eye(*shape)


#: By the names that users give.
BY_NAME: dict[str, Draw] = {"orthogonal": orthogonal, "glorot": glorot, "he": he, "identity": identity}


def known(init: Any, name: str) -> Init:
    """One of the names, a function, or None."""
    if init is None or callable(init):
        return init
    if not isinstance(init, str):
        options = ", ".join(map(repr, BY_NAME))
        raise TypeError(f"{name} must be one of {options}, a function or None, got {type(init).__name__}")
    return str(_check.choice(init, name, tuple(BY_NAME)))


def stacked(init: str | Draw, name: str, shape: tuple[int, int], gates: int, rng: np.random.Generator) -> Array:
    """A layer's matrix for so many gates: block by block, or as a user's function gives it whole."""
    if callable(init):
        return checked(init(shape, rng), f"what {name} returns", shape)
    block = (shape[0] // gates, shape[1])
    return np.concatenate([np.asarray(BY_NAME[init](block, rng)) for _ in range(gates)])
