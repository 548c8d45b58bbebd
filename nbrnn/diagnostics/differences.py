"""Whether gradients are right: ``backward`` against differences of the loss itself."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _check
from ..module import Module, Seed, generator, require_on_cpu
from .probe import in_double, objective

Array = NDArray[Any]

#: Rounding of a loss, in units of its last place, that differences are allowed to show.
ROUNDING = 8


@dataclasses.dataclass(eq=False, repr=False)
class GradientCheck:
    """Gradients against differences of the loss.

    Attributes
    ----------
    errors : dict of str to float
        For ``x``, each part of the state and each parameter: the largest difference between gradient and differences,
        relative to the largest gradient in the same array.
    error : float
        The largest of all.
    where : (str, tuple of int)
        The array and the place in it where that is.
    gradient, difference : float
        What ``backward`` and the differences say there.
    tolerance : float
    checked : int
        How many numbers were tried.
    """

    errors: dict[str, float]
    error: float
    where: tuple[str, tuple[int, ...]]
    gradient: float
    difference: float
    tolerance: float
    checked: int

    @property
    def ok(self) -> bool:
        """Whether all errors are within the tolerance."""
        return self.error <= self.tolerance

    def __bool__(self) -> bool:
        return self.ok

    def __repr__(self) -> str:
        name, index = self.where
        lines = [
            f"<GradientCheck: {'right' if self.ok else 'WRONG'} at {self.checked:,} places, largest error "
            f"{self.error:.1e}, allowed {self.tolerance:.1e}>",
            f"  worst: {name}{list(index)}, by backward {self.gradient:.9g}, by differences {self.difference:.9g}",
        ]
        width = max(map(len, self.errors), default=0)
        for array, error in self.errors.items():
            lines.append(f"  {array:{width}}  {error:8.1e}{'' if error <= self.tolerance else '  WRONG'}")
        return "\n".join(lines)


def gradcheck(
    net: Module,
    x: Array,
    target: Any = None,
    loss: Any = None,
    *,
    lengths: Any = None,
    state: Any = None,
    eps: float = 1e-5,
    tolerance: float = 1e-6,
    samples: int | None = 50,
    rng: Seed = None,
) -> GradientCheck:
    """Compare ``backward`` with central differences, (L(p + eps) - L(p - eps)) / (2 eps), for x, state and parameters.

    All is done with a copy of the network in float64, whatever its dtype: the formulas are those of the network, and
    differences in float32 are too coarse to say anything.  Dropout that is set is applied, with the same mask each
    time.  For a cell or a part of your own this is the test to begin with.

    Parameters
    ----------
    net : Module
        A layer or a network.
    x : ndarray
        As the network takes it; integers are left as they are.
    target, loss
        As for ``fit``; without a loss, L is a sum of all outputs and final states with random weights, so that each
        counts.
    lengths : array_like of int, shape (B,), optional
        Steps of each sequence.
    state : as the network takes it, optional
        The initial state; None: the gradient for it is checked at zero.
    eps : float
        Step of the differences, > 0.  Where they disagree with the gradient, a tenth and a hundredth of it are tried
        too: across the kink of a relu differences mean nothing.
    tolerance : float
        Largest error that is still right, > 0.
    samples : int, optional
        How many numbers of each array are tried, drawn at random; None: all.  Each takes two runs of the network.
    rng : numpy.random.Generator, seed or None
        For what is drawn here: places, weights, dropout.

    Returns
    -------
    GradientCheck
        True where all is right: ``assert gradcheck(...)``.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong kind or shape.
    FloatingPointError
        The loss isn't finite.

    Notes
    -----
    An error is abs(gradient - difference) / (s + 8 u max(1, abs(L)) / (eps tolerance)): s is the largest gradient or
    difference in the array, u = 2^-52, and the second term is what rounding of L may do.

    Examples
    --------
    >>> import numpy as np, nbrnn
    >>> net = nbrnn.Sequential(nbrnn.GRU(2, 4, rng=0), nbrnn.Linear(4, 1, rng=1))
    >>> x = np.random.default_rng(2).normal(size=(6, 3, 2)).astype(np.float32)
    >>> report = nbrnn.diagnostics.gradcheck(net, x, np.zeros((6, 3, 1)), nbrnn.losses.mse, lengths=[6, 2, 4], rng=3)
    >>> report.ok, list(report.errors)[:3]
    (True, ['x', 'state[0]', '0.weight_ih_l0'])
    """
    if not isinstance(net, Module):
        raise TypeError(f"net must be a layer or a network, got {type(net).__name__}")
    require_on_cpu(net)
    if loss is not None and not callable(loss):
        raise TypeError(f"loss must be callable, got {type(loss).__name__}")
    if loss is None and target is not None:
        raise ValueError("loss must be given where there is a target, got None")
    eps = _check.number(eps, "eps", above=0)
    tolerance = _check.number(tolerance, "tolerance", above=0)
    samples = None if samples is None else _check.size(samples, "samples")
    random = generator(rng)
    _, after = net(x, state, lengths)  # says what is wrong with the arguments
    net, seed = in_double(net), int(random.integers(2**62))
    x = _double(np.asarray(x))
    state = _each(_double, _each(np.zeros_like, after) if state is None else state)

    y, after, tape = net.forward(x, state, lengths, rng=seed)
    weights = random.normal(size=y.shape), _each(lambda a: random.normal(size=a.shape), after)

    def value() -> float:
        y, after, _ = net.forward(x, state, lengths, rng=seed)
        if loss is not None:
            return float(objective(net, y, target, loss, lengths)[0])
        ends = zip(_leaves(after, ""), _leaves(weights[1], ""), strict=True)
        return float((y * weights[0]).sum() + sum((a * w).sum() for (_, a), (_, w) in ends))

    dy, dstate = weights if loss is None else (objective(net, y, target, loss, lengths)[1], None)
    grads = net.backward(tape, dy, dstate)
    here = value()
    if not math.isfinite(here):
        raise FloatingPointError(f"the loss must be finite to be checked, got {here}")
    flat = net.flat.copy()
    probing = _Probing(value, eps, tolerance, ROUNDING * 2.0**-52 * max(1.0, abs(here)))

    if x.dtype.kind == "f" and grads.x is not None:
        probing.compare("x", x, grads.x, _places(x.size, samples, random))
    for (name, part), (_, gradient) in zip(_leaves(state, "state"), _leaves(grads.state, ""), strict=True):
        probing.compare(name, part, gradient, _places(part.size, samples, random))

    def changed() -> None:
        net.flat = flat

    at = 0
    for name, gradient in grads.params.items():
        part = flat[at : at + gradient.size]
        at += gradient.size
        probing.compare(name, part, gradient, _places(part.size, samples, random), changed)
    return probing.report()


class _Probing:
    """Differences of ``value`` for one number after another, and what is found."""

    def __init__(self, value: Callable[[], float], eps: float, tolerance: float, rounding: float) -> None:
        self.value, self.eps, self.tolerance, self.rounding = value, eps, tolerance, rounding
        self.errors: dict[str, float] = {}
        self.worst: tuple[float, Any, float, float] = (-1.0, ("", ()), math.nan, math.nan)
        self.checked = 0

    def difference(self, numbers: Array, place: int, step: float, changed: Callable[[], None]) -> float:
        """Central difference for one of the numbers, which is put back."""
        flat, values = numbers.reshape(-1), []
        before = flat[place]
        for shifted in (before + step, before - step):
            flat[place] = shifted
            changed()
            values.append(self.value())
        flat[place] = before
        changed()
        return (values[0] - values[1]) / (2 * step)

    def compare(
        self, name: str, numbers: Array, gradient: Array, places: Array, changed: Callable[[], None] = lambda: None
    ) -> None:
        """Try those places of an array, whose numbers ``value`` depends on once ``changed`` has been called."""
        found = [self.difference(numbers, place, self.eps, changed) for place in places]
        largest = float(max(np.abs(gradient).max(initial=0), np.abs(found).max(initial=0)))
        self.errors[name] = 0.0
        for place, difference in zip(places, found, strict=True):
            given = float(gradient.reshape(-1)[place])
            error = self.error(given, difference, largest, self.eps)
            for step in (self.eps / 10, self.eps / 100):
                if error <= self.tolerance:
                    break
                again = self.difference(numbers, place, step, changed)
                error, difference = min(
                    (error, difference), (self.error(given, again, largest, step), again), key=lambda pair: pair[0]
                )
            self.errors[name] = max(self.errors[name], error)
            if error > self.worst[0]:
                self.worst = (
                    error,
                    (name, tuple(map(int, np.unravel_index(place, gradient.shape)))),
                    given,
                    difference,
                )
        self.checked += len(places)

    def error(self, given: float, difference: float, largest: float, step: float) -> float:
        error = abs(given - difference) / (largest + self.rounding / (step * self.tolerance))
        return math.inf if math.isnan(error) else error

    def report(self) -> GradientCheck:
        error, where, gradient, difference = self.worst
        return GradientCheck(self.errors, max(error, 0.0), where, gradient, difference, self.tolerance, self.checked)


def _places(size: int, samples: int | None, random: np.random.Generator) -> Array:
    """Indices to try."""
    if samples is None or samples >= size:
        return np.arange(size)
    return np.sort(random.choice(size, samples, replace=False))


def _each(f: Callable[[Array], Any], tree: Any) -> Any:
    """f of each array of a state."""
    if isinstance(tree, tuple | list):
        return tuple(_each(f, part) for part in tree)
    return None if tree is None else f(tree)


def _double(a: Array) -> Array:
    """A contiguous copy, in float64 if it is of floats."""
    return np.array(a, np.float64 if a.dtype.kind == "f" else None, order="C")


def _leaves(tree: Any, name: str) -> Iterator[tuple[str, Array]]:
    """The arrays of a state, with names."""
    if isinstance(tree, tuple | list):
        for q, part in enumerate(tree):
            yield from _leaves(part, f"{name}[{q}]")
    elif tree is not None:
        yield name, tree
