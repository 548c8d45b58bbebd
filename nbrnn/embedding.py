"""Embedding: a vector for each of a number of things, looked up by its index."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import _check
from ._cpu.chosen import Chosen
from ._cuda.array import DeviceArray
from ._cuda.rows import ends_of, side_by_side
from ._cuda.table import add_to_rows, looked_up
from ._loops.scatter import add_rows
from ._memory import fresh, require
from ._params import Parameters
from .module import Seed
from .stateless import Stateless, StatelessTape, inside

Array = NDArray[Any]


class Embedding(Stateless):
    """y = weight[x]: the vector of each index.

    x is an array of integers 0..num_embeddings-1, of any dtype, (T, B) or without ``lengths`` of any shape (...); y is
    (..., embedding_dim).  What stands in x past a sequence's end may be anything.  There is no gradient for indices:
    ``grads.x`` is None, and in a network an Embedding is the first part.

    In a network whose second part is recurrent no vector is looked up where they are chosen often: what each adds to
    that part's sums is computed once (on the CPU).  That changes no more than last bits of gradients.

    On a GPU no error can be raised for what x holds without waiting for it: the vector of an index that is out of range
    is NaN there.

    Parameters
    ----------
    num_embeddings, embedding_dim : int
        How many vectors, and their size, >= 1.
    padding_idx : int, optional
        An index that stands for nothing: its vector is 0 at first, and its gradient always.  As in an array,
        -1 is the last.
    dtype : float32 or float64
    rng : numpy.random.Generator, seed or None
        For the initial vectors, N(0, 1).

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong kind or out of range.

    Examples
    --------
    >>> import numpy as np, nbrnn
    >>> layer = nbrnn.Embedding(26, 8, rng=0)
    >>> x = np.array([[0, 7], [25, 7]])
    >>> y, _ = layer(x)
    >>> y.shape, bool((y[0, 1] == layer.params["weight"][7]).all())
    ((2, 2, 8), True)
    """

    _x_axes = 2

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        *,
        padding_idx: int | None = None,
        dtype: DTypeLike = np.float32,
        rng: Seed = None,
    ) -> None:
        super().__init__(rng)
        self.num_embeddings = n = _check.size(num_embeddings, "num_embeddings")
        self.embedding_dim = _check.size(embedding_dim, "embedding_dim")
        if padding_idx is not None:
            padding_idx = _check.integer(padding_idx, "padding_idx")
            if not -n <= padding_idx < n:
                raise ValueError(f"padding_idx must lie in {-n}..{n - 1}, got {padding_idx}")
            padding_idx %= n
        self.padding_idx = padding_idx
        self.dtype = _check.float_dtype(dtype)
        shape = (n, self.embedding_dim)
        require(lambda: "Embedding", self.dtype, parameters=n * self.embedding_dim)
        self._parameters = Parameters({"weight": shape}, self.dtype)
        weight = self._rng.normal(size=shape)
        if padding_idx is not None:
            weight[padding_idx] = 0
        self.params["weight"] = weight
        self._fix()

    def _check_x(self, x: Any) -> Array:
        if isinstance(x, DeviceArray):
            if x.dtype.kind not in "iu":
                raise TypeError(f"x must be integers, got dtype {x.dtype}")
            return x  # type: ignore[return-value]
        if not isinstance(x, np.ndarray):
            raise TypeError(
                f"x must be a NumPy array of integers, got {type(x).__name__}; convert it: numpy.asarray(x)"
            )
        if x.dtype.kind not in "iu":
            raise TypeError(f"x must be integers, got dtype {x.dtype}; convert it: x.astype(numpy.int64)")
        return _check.array(x, "x", x.dtype)

    def _index(self, x: Array, ends: Array | None) -> tuple[NDArray[np.int64], Array | None]:
        """x, checked, as a copy that must not change any more, and which of it counts; 0 for the rest."""
        counts = None if ends is None else inside(ends, len(x))
        if counts is not None:
            x = np.where(counts, x, x.dtype.type(0))
        if x.size and not (x.min() >= 0 and x.max() < self.num_embeddings):
            raise ValueError(f"x must lie in 0..{self.num_embeddings - 1}, got {x.min()}..{x.max()}")
        return x.astype(np.int64), counts

    def _choose(self, x: Any, state: Any, lengths: Any) -> tuple[Chosen, StatelessTape]:
        """As ``forward``, but y as a choice out of the vectors: ``backward`` wants the gradient for those."""
        weight = np.asarray(self.params["weight"])
        y = Chosen(weight, self._index(*self._enter(x, state, lengths))[0])
        return y, StatelessTape(self, weight, (None, None))

    def _run(self, x: Array, ends: Array | None, rng: np.random.Generator | None) -> tuple[Array, Any]:
        y_size = x.size * self.embedding_dim
        require(lambda: f"Embedding for x of shape {x.shape}", self.dtype, y=y_size)
        index, counts = self._index(x, ends)
        # It has been checked: clipping spares NumPy doing so.
        y = fresh((*x.shape, self.embedding_dim), self.dtype)
        self._parameters.arrays["weight"].take(index, axis=0, mode="clip", out=y)
        if counts is not None:
            y[~counts] = 0
        return y, (index, counts)

    def _back(self, kept: Any, dy: Array, gradients: Mapping[str, Array]) -> None:
        index, counts = kept
        if index is None:
            gradients["weight"][...] = dy
        else:
            if counts is not None:
                index, dy = index[counts], dy[counts]
            elif dy.ndim == 3 and not dy.flags.c_contiguous and dy.swapaxes(0, 1).flags.c_contiguous:
                index, dy = index.swapaxes(0, 1), dy.swapaxes(0, 1)
            add_rows(gradients["weight"], index.reshape(-1), dy.reshape(-1, self.embedding_dim))
        if self.padding_idx is not None:
            gradients["weight"][self.padding_idx] = 0

    def _run_there(
        self, x: DeviceArray, ends: Array | None, rng: np.random.Generator | None
    ) -> tuple[DeviceArray, Any]:
        index = side_by_side(x, np.dtype(np.int64))
        return looked_up(self._own("weight"), index, ends_of(x.machine, ends))

    def _back_there(self, kept: Any, dy: DeviceArray, gradients: Mapping[str, DeviceArray]) -> None:
        add_to_rows(kept, side_by_side(dy), self.padding_idx, gradients["weight"])
