"""Checks of what users pass: each error names the argument, what it was and what it should be."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def integer(value: Any, name: str) -> int:
    """An integer."""
    try:
        if not isinstance(value, (bool, np.bool_)):
            return operator.index(value)
    except TypeError:
        pass
    raise TypeError(f"{name} must be an integer, got {value!r} ({type(value).__name__})")


def size(value: Any, name: str, least: int = 1) -> int:
    """An integer >= least, and small enough that products of a few of them are still sizes."""
    number = integer(value, name)
    if number < least:
        raise ValueError(f"{name} must be >= {least}, got {number}")
    if number >= 2**48:
        raise ValueError(f"{name} must be < 2**48, got a number of {number.bit_length()} bits")
    return number


def flag(value: Any, name: str) -> bool:
    """True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r} ({type(value).__name__})")
    return bool(value)


def number(
    value: Any, name: str, least: float = -math.inf, most: float = math.inf, above: float | None = None
) -> float:
    """A finite real number within bounds (``above``: strictly greater)."""
    if isinstance(value, (bool, np.bool_, str, bytes)):
        raise TypeError(f"{name} must be a real number, got {value!r} ({type(value).__name__})")
    try:
        result = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a real number, got {value!r} ({type(value).__name__})") from None
    except OverflowError:
        result = math.inf
    bounds = [f">= {least:g}"] * (least > -math.inf) + [f"<= {most:g}"] * (most < math.inf)
    bounds += [] if above is None else [f"> {above:g}"]
    if not math.isfinite(result) or not least <= result <= most or (above is not None and result <= above):
        raise ValueError(f"{name} must be a finite number{' ' if bounds else ''}{' and '.join(bounds)}, got {value!r}")
    return result


def choice(value: Any, name: str, options: Sequence[Any]) -> Any:
    """One of the options."""
    if not isinstance(value, str) and value not in options:
        raise TypeError(f"{name} must be one of {', '.join(map(repr, options))}, got {type(value).__name__}")
    if value not in options:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, options))}, got {value!r}")
    return value


def float_dtype(value: Any) -> np.dtype[Any]:
    """float32 or float64, native byte order."""
    try:
        dtype = np.dtype(value)
    except (TypeError, ValueError):
        raise TypeError(f"dtype must be float32 or float64, got {value!r}") from None
    if value is None or dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise TypeError(f"dtype must be float32 or float64, got {value!r}")
    return dtype


def array(value: Any, name: str, dtype: np.dtype[Any]) -> Array:
    """An ndarray of exactly that dtype, in native byte order: a view of it."""
    if type(value) is np.ndarray and value.dtype == dtype:  # most often; what follows looks at the rest
        return value.view()
    if not isinstance(value, np.ndarray):
        _wrong_kind(value, name, dtype)
    _not_masked(value, name)
    if value.dtype != dtype:
        raise TypeError(
            f"{name} must be of dtype {dtype.name}, got {value.dtype}; "
            f"convert it: {_expression(name)}.astype(numpy.{dtype.name})"
        )
    return value.view(np.ndarray)


def _expression(name: str) -> str:
    """A name as it can be written: without the remark that may follow."""
    return name.split(" ")[0]


def _not_masked(value: Any, name: str) -> None:
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} must not be a masked array: fill it first, {_expression(name)}.filled(0)")


def plain(value: Any, name: str, what: str) -> Array:
    """An array of anything array-like."""
    _not_masked(value, name)
    try:
        return np.asarray(value)
    except ValueError:  # ragged
        raise ValueError(f"{name} must be {what}, got a sequence of unequal parts") from None


def real(value: Any, name: str) -> Array:
    """An array of real numbers of any dtype."""
    given = plain(value, name, "real numbers")
    if given.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be real numbers, got dtype {given.dtype}")
    return given


def _wrong_kind(value: Any, name: str, dtype: np.dtype[Any]) -> NoReturn:
    kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    raise TypeError(
        f"{name} must be a NumPy array of {dtype.name}, got {kind}; "
        f"convert it: numpy.asarray({_expression(name)}, dtype=numpy.{dtype.name})"
    )


def shape(value: Array, name: str, wanted: tuple[int | str, ...]) -> None:
    """Of that shape; a letter stands for any size."""
    if value.shape == wanted:
        return
    fits = value.ndim == len(wanted) and all(
        isinstance(w, str) or n == w for n, w in zip(value.shape, wanted, strict=True)
    )
    if not fits:
        expected = "(" + ", ".join(map(str, wanted)) + ("," if len(wanted) == 1 else "") + ")"
        raise ValueError(f"{name} must have shape {expected}, got {value.shape}")


def lengths(value: Any, batch: int, steps: int) -> Array:
    """(B,) integers in 0..T, as int64."""
    given = plain(value, "lengths", "integers")
    if given.size == 0 and given.ndim == 1:
        given = given.astype(np.int64)
    if given.dtype.kind not in "iu":
        raise TypeError(f"lengths must be integers, got dtype {given.dtype}")
    shape(given, "lengths", (batch,))
    found = given.astype(np.int64)
    if np.count_nonzero(found.view(np.uint64) > steps):  # negative ones are large there
        raise ValueError(f"lengths must lie in 0..{steps} (the steps of x), got {given.min()}..{given.max()}")
    return found


def mask(value: Any, name: str, wanted: tuple[int, ...]) -> Array:
    """Booleans of that shape, as an array of our own: a tape keeps it."""
    given = plain(value, name, "booleans")
    if given.size == 0 and given.ndim == 1:
        given = given.astype(np.bool_)
    if given.dtype != np.bool_:
        raise TypeError(f"{name} must be booleans, got dtype {given.dtype}")
    shape(given, name, wanted)
    return np.array(given, subok=False)


def output(
    out: Any, wanted: tuple[int, ...], dtype: np.dtype[Any], inputs: Sequence[tuple[str, Array | None]]
) -> Array:
    """An array to write results to: right shape, writeable, its numbers apart from each other and from the inputs'."""
    out = array(out, "out", dtype)
    shape(out, "out", wanted)
    if not out.flags.writeable:
        raise ValueError("out must be writeable, got a read-only array")
    if _overlaps_itself(out):
        raise ValueError(f"out must not overlap itself, got strides {out.strides} for shape {out.shape}")
    for name, given in inputs:
        if given is not None and _overlap(out, given):
            raise ValueError(f"out must not overlap {name}")
    return out


def _overlap(a: Array, b: Array) -> bool:
    try:
        return bool(np.shares_memory(a, b, max_work=10_000))  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True  # can't be told quickly: take no risk


def _overlaps_itself(a: Array) -> bool:
    """Whether two elements may share memory (True for some very unusual strides where they don't)."""
    if a.flags.c_contiguous:
        return False
    reach = a.itemsize
    for stride, n in sorted((abs(s), n) for s, n in zip(a.strides, a.shape, strict=True) if n > 1):
        if stride < reach:
            return a.size > 0
        reach = stride * (n - 1) + reach
    return False
