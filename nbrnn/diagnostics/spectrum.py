"""Singular values of the Jacobian from one hidden state to a later one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _check
from ..module import require_on_cpu
from ..recurrent import Recurrent
from .probe import remade

Array = NDArray[Any]

#: Sequences that run side by side where the Jacobians of several steps are computed at a time.
BATCH = 4096
#: Largest difference of the logarithms of numbers that are put into one matrix of floats.
SPREAD = 500.0


@dataclasses.dataclass(eq=False, repr=False)
class JacobianSpectrum:
    """Singular values of dh_T/dh_t, for the last step T and each t.

    Attributes
    ----------
    log10 : ndarray of float64, shape (steps, N)
        Their logarithms to base 10, in descending order; minus infinity for 0.  The values themselves, which may be too
        small or too large for a float, are ``singular_values``.
    t : ndarray of int, shape (steps,)
        The step of each row: h_t is the state after it.  The last is T itself, whose Jacobian is the identity.
    rates : ndarray of float64, shape (N,)
        Natural logarithm of the growth per step, in the mean over all steps: what become the Lyapunov exponents as the
        steps become many.  Negative: what is put into h fades, positive: it grows.
    of : "h" or "state"
    """

    log10: Array
    t: Array
    rates: Array
    of: str

    @property
    def singular_values(self) -> Array:
        """10 ** log10, shape (steps, N)."""
        with np.errstate(over="ignore"):
            return np.asarray(10.0**self.log10)

    def __repr__(self) -> str:
        what = "dh_T/dh_t" if self.of == "h" else "d(state)_T/d(state)_t"
        width = max(4, len(str(self.t[-1])))
        lines = [
            f"<JacobianSpectrum: {self.log10.shape[1]} singular values of {what}, T = {self.t[-1]}>",
            f"  {'t':>{width}}     largest      median    smallest",
        ]
        for row in sorted({0, len(self.t) // 2, len(self.t) - 1}):
            values = self.log10[row]
            shown = "".join(f"  {_power(v):>10}" for v in (values[0], values[len(values) // 2], values[-1]))
            lines.append(f"  {self.t[row]:{width}}{shown}")
        rates = [self.rates[0], self.rates[len(self.rates) // 2], self.rates[-1]]
        lines.append(f"  {'rate':>{width}}" + "".join(f"  {rate:10.3g}" for rate in rates))
        return "\n".join(lines)


def _power(log10: float) -> str:
    """10 ** log10 in three digits, beyond the range of floats too."""
    if not np.isfinite(log10) or abs(log10) < 300:
        return f"{10.0**log10:.3g}"
    exponent = int(np.floor(log10 + 1e-6))
    return f"{10 ** (log10 - exponent):.3g}e{exponent:+d}"


def jacobian_spectrum(
    layer: Recurrent, x: Array, state: Any = None, *, of: str = "h", steps: int | None = None
) -> JacobianSpectrum:
    """Singular values of dh_T/dh_t: by how much what differs in h_t still differs in h_T, in each direction of space.

    If the largest falls to nothing as t goes back from T, h_T has forgotten h_t, and no gradient comes back that far;
    if it grows without bounds, gradients explode.

    Parameters
    ----------
    layer : Recurrent
        Of one direction.  In a stack, h is that of all layers together.  Dropout is left out, as in a call.
    x : ndarray, shape (T, I), or (T, 1, I), or (1, T, I) with ``batch_first``
        One sequence of at least one step.
    state : as the layer takes it, optional
        The initial state.
    of : "h" or "state"
        "h": from h_t to h_T, whatever else the cell carries held fixed at t.  "state": from all that is carried to all
        that is carried, for the LSTM from (h, c) to (h, c), where the way through c shows.
    steps : int, optional
        How many of the last steps; None: all.

    Returns
    -------
    JacobianSpectrum

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong kind or shape, or the layer is bidirectional.
    FloatingPointError
        The states or the Jacobians aren't finite.

    Notes
    -----
    The states are the layer's own; the Jacobian of each step is computed by a copy of the layer in float64.  Their
    product isn't formed as it stands, where all but its largest singular values would drown in rounding: it is kept as
    a product of an orthogonal matrix, a triangular one and a diagonal one whose entries are logarithms, by one QR
    factorisation a step [1]_, and its singular values are those of the last two, which one-sided Jacobi rotations find
    to the last digits however far apart they lie [2]_.  What a single step makes smaller by 1e-15 or so than its
    neighbours, as the dead units of a relu, counts as 0.

    References
    ----------
    .. [1] L. Dieci and E. Van Vleck, "Computation of a few Lyapunov exponents for continuous and discrete dynamical
       systems", Applied Numerical Mathematics 17 (1995).
    .. [2] Z. Drmač and K. Veselić, "New fast and accurate Jacobi SVD algorithm: I", SIAM Journal on Matrix Analysis and
       Applications 29 (2008): LAPACK's xGEJSV.

    Examples
    --------
    With x = 0 and h = 0, tanh has slope 1, and the Jacobians are powers of the recurrent weights.

    >>> import numpy as np, nbrnn
    >>> layer = nbrnn.RNN(1, 2, bias=False, dtype=np.float64, rng=0)
    >>> layer.params["weight_hh_l0"] = np.diag([1.1, 0.001])
    >>> nbrnn.diagnostics.jacobian_spectrum(layer, np.zeros((200, 1)))
    <JacobianSpectrum: 2 singular values of dh_T/dh_t, T = 199>
         t     largest      median    smallest
         0    1.73e+08      1e-597      1e-597
       100    1.25e+04      1e-297      1e-297
       199           1           1           1
      rate      0.0953       -6.91       -6.91
    """
    if not isinstance(layer, Recurrent):
        raise TypeError(f"layer must be a recurrent layer, got {type(layer).__name__}")
    require_on_cpu(layer)
    if layer.bidirectional:
        raise ValueError("layer must be of one direction, this one is bidirectional")
    of = _check.choice(of, "of", ("h", "state"))
    axes = layer._axes
    call = axes.call(x, state, None, None)
    total, size, _ = call.x.shape
    if size != 1 or total == 0:
        raise ValueError(f"x must be one sequence of at least one step, got shape {np.shape(x)}")
    count = total if steps is None else _check.size(steps, "steps")
    if count > total:
        raise ValueError(f"steps must be at most {total} (the steps of x), got {count}")

    # The states before each step, from the layer's own arithmetic.
    runner = remade(layer, batch_first=False)
    runner.flat = layer.flat
    h, c, before = call.h, call.c, []
    for t in range(total):
        before.append((h[:, 0], c[:, 0]))
        _, after = runner(call.x[t : t + 1], axes.user_state(h, c, True))
        h, c = after if axes.E else (after, c)

    N, n = axes.L * (axes.K + axes.E * axes.H), axes.L * axes.K
    seen = n if of == "h" else N
    # (dh_T/dh_t)^T = Q P with P = e^d U: one step back, J^T Q = Q' R and P' = R P.
    Q, P = np.eye(N)[:, :seen], (np.zeros(seen), np.eye(seen))
    rows = [np.zeros(seen)]
    for jacobian in _jacobians(layer, call.x[total - count + 1 :, 0], before[total - count + 1 :]):
        Q, R = _factors(jacobian.T @ Q, float(np.linalg.norm(jacobian)))
        P = _multiply(R, *P)
        # Of (h, c) only h: these rows of Q.
        found = _singular(*(P if seen == N else _multiply(_factors(Q[:seen], 1.0)[1], *P)))
        rows.append(np.append(found, np.full(seen - len(found), -np.inf)))
    log10 = np.array(rows[::-1]) / np.log(10)
    with np.errstate(divide="ignore", invalid="ignore"):
        rates = rows[-1] / (count - 1)
    return JacobianSpectrum(log10, np.arange(total - count, total), rates, of)


def _jacobians(layer: Recurrent, x: Array, before: list[tuple[Array, Array]]) -> Iterator[Array]:
    """Jacobians of the steps, from the last to the first: of all that is carried after for all that is carried before.

    Row i is what ``backward`` gives for the i-th unit vector.
    """
    double = remade(layer, dtype=np.float64, batch_first=False)
    double.flat = layer.flat
    axes = double._axes
    K, C = axes.K, axes.E * axes.H
    N = axes.L * (K + C)
    unit = np.eye(N)

    def states(vectors: Array) -> Any:
        """(B, N) as a state."""
        h, c = np.split(vectors, [axes.L * K], axis=1)
        h, c = (a.reshape(len(vectors), axes.L, k).swapaxes(0, 1) for a, k in ((h, K), (c, C)))
        return axes.user_state(h, c, True)

    chunk = max(1, BATCH // N)
    for end in range(len(x), 0, -chunk):
        start = max(0, end - chunk)
        given = np.array([np.concatenate([h.ravel(), c.ravel()]) for h, c in before[start:end]], np.float64)
        inputs = np.repeat(x[start:end].astype(np.float64), N, 0)[None]
        _, _, tape = double.forward(inputs, states(np.repeat(given, N, 0)))
        found = double.backward(tape, None, states(np.tile(unit, (end - start, 1)))).state
        parts = found if axes.E else (found,)
        rows = np.concatenate([p.swapaxes(0, 1).reshape(len(inputs[0]), -1) for p in parts], 1)
        for t in reversed(range(end - start)):
            jacobian = rows[t * N : (t + 1) * N]
            if not np.isfinite(jacobian).all():
                raise FloatingPointError(f"the Jacobian {len(x) - start - t} steps before the end isn't finite")
            yield jacobian


def _factors(M: Array, size: float) -> tuple[Array, Array]:
    """M = Q R, Q of orthonormal columns, R in echelon form.

    No columns change places, as in a QR factorisation with pivoting: they are in the order in which what they multiply
    falls off.  But where M, which has errors of rounding of numbers of that size, isn't of full rank, a column that
    depends on those before it gives none of Q.
    """
    independent = np.arange(M.shape[1])
    Q, R = np.linalg.qr(M)
    if np.abs(np.diag(R)).min(initial=np.inf) > 1e-8 * size:
        return Q, R
    rank = np.sum(np.linalg.svd(M, compute_uv=False) > len(M) * np.finfo(M.dtype).eps * size)
    while len(independent) > rank:
        independent = np.delete(independent, np.argmin(np.abs(np.diag(R))))
        Q, R = np.linalg.qr(M[:, independent])
    R = Q.T @ M
    R[np.arange(M.shape[1]) < independent[:, None]] = 0
    return Q, R


def _multiply(R: Array, d: Array, U: Array) -> tuple[Array, Array]:
    """R e^d U as e^d' U', in whose rows the largest entry is 1."""
    with np.errstate(divide="ignore"):
        logs = np.log(np.abs(R)) + d
        shift = logs.max(1, initial=-np.inf)
        shift = np.where(np.isfinite(shift), shift, 0)
        U = (np.sign(R) * np.exp(logs - shift[:, None])) @ U
        largest = np.abs(U).max(1, initial=0)
        d = np.where(largest > 0, shift + np.log(largest), -np.inf)
    return d, U / np.where(largest > 0, largest, 1)[:, None]


def _singular(d: Array, U: Array) -> Array:
    """Natural logarithms of the singular values of e^d U, in descending order."""
    from scipy.linalg import lapack

    if len(d) == 0:
        return d
    order = np.argsort(-d)
    d, U = d[order], U[order]
    if d[0] - d[-1] > SPREAD:
        return _apart(d, U)
    # joba=0: to high relative accuracy where columns are of different size; jobr=0: down to the smallest floats.
    columns = np.asfortranarray(U.T * np.exp(d - d[0]))
    values, _, _, work, _, info = lapack.dgejsv(columns, joba=0, jobu=3, jobv=3, jobr=0, jobt=0, jobp=0)
    if info:
        raise ArithmeticError(f"LAPACK's dgejsv found no singular values (info {info})")
    with np.errstate(divide="ignore"):
        return np.asarray(np.sort(np.log(values) + np.log(work[0] / work[1]) + d[0])[::-1])


def _apart(d: Array, U: Array) -> Array:
    """The same where the rows, in descending order, are of sizes that no matrix of floats holds together.

    With U = L V, L lower triangular and V of orthonormal rows, e^d L has the same singular values.  Cut it in two at a
    gap of sizes: what stands left of the second block then matters as little as the square of the gap.
    """
    L = np.linalg.qr(U.T)[1].T
    with np.errstate(divide="ignore"):
        sizes = np.maximum(d + np.log(np.abs(np.diag(L))), d - SPREAD)
    # A gap in the lower half of what goes together: each block costs a factorisation.
    within = (sizes[1:] < sizes[0] - SPREAD / 2) & (sizes[:-1] >= sizes[0] - SPREAD)
    cut = 1 + np.argmax(np.where(within, sizes[:-1] - sizes[1:], -np.inf))
    parts = _singular(d[:cut], L[:cut, :cut]), _singular(d[cut:], L[cut:, cut:])
    return np.sort(np.concatenate(parts))[::-1]
