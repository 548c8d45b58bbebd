"""From an encoder to a decoder: the final states of the one are the first of the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import _parts
from .module import Module
from .recurrent import Recurrent


def split(decoder: Module) -> tuple[list[Module], list[Module]]:
    """A decoder's parts up to the last recurrent one, and the others."""
    parts = _parts.leaves(decoder)
    at = max((q + 1 for q, part in enumerate(parts) if isinstance(part, Recurrent)), default=0)
    return parts[:at], parts[at:]


def require_fit(encoder: Module, decoder: Module) -> None:
    """Raise if the decoder can't begin where the encoder ends."""
    reading = _parts.recurrent(encoder, "encoder", one_way=False)
    writing = _parts.recurrent(decoder, "decoder", one_way=True)
    _parts.require_logits(decoder, "decoder")
    if not reading or len(reading) != len(writing):
        raise ValueError(
            "encoder and decoder must have as many recurrent parts, at least one, "
            f"got {len(reading)} and {len(writing)}"
        )
    if len({part.batch_first for part in reading + writing}) > 1:
        raise ValueError("batch_first must be the same for encoder and decoder, got both")
    for a, b in zip(reading, writing, strict=True):
        for what, had, wanted in (
            ("layers", a._axes.L, b._axes.L),
            ("numbers h", a._axes.D * a._axes.K, b._axes.K),
            ("numbers c", a._axes.D * a._axes.E * a._axes.H, b._axes.E * b._axes.H),
        ):
            if had != wanted:
                raise ValueError(
                    f"the state of {a!r} must fit {b!r}: all directions together it has {had} {what}, wanted {wanted}"
                )


def as_one(part: Recurrent, state: Any) -> Any:
    """States (L * D, B, n) of both directions as those of one, (L, B, D * n)."""
    if isinstance(state, tuple):
        return tuple(as_one(part, s) for s in state)
    L, D, (_, B, n) = part._axes.L, part._axes.D, state.shape
    return state.reshape(L, D, B, n).swapaxes(1, 2).reshape(L, B, D * n)


def apart(part: Recurrent, state: Any) -> Any:
    """The inverse."""
    if isinstance(state, tuple):
        return tuple(apart(part, s) for s in state)
    L, D, (_, B, n) = part._axes.L, part._axes.D, state.shape
    return state.reshape(L, B, D, n // D).swapaxes(1, 2).reshape(L * D, B, n // D)


def cross(reader: Sequence[Module], after: Sequence[Any], writer: Sequence[Module]) -> list[Any]:
    """The states that the parts of the decoder begin with, from those that the parts of the encoder end with."""
    states = iter([as_one(part, s) for part, s in zip(reader, after, strict=True) if isinstance(part, Recurrent)])
    return [next(states) if isinstance(part, Recurrent) else None for part in writer]


def cross_back(reader: Sequence[Module], dbefore: Sequence[Any], writer: Sequence[Module]) -> list[Any]:
    """The gradients for the latter, from those for the former."""
    states = iter([s for part, s in zip(writer, dbefore, strict=True) if isinstance(part, Recurrent)])
    return [apart(part, next(states)) if isinstance(part, Recurrent) else None for part in reader]
