"""What a network is made of, and the generators that its parts draw from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..module import Parametric


def inside(net: Parametric) -> Iterator[tuple[str, Any]]:
    """The network, all its parts and all their generators, each with the place where it stands."""
    seen: set[int] = set()

    def walk(value: Any, path: str) -> Iterator[tuple[str, Any]]:
        if isinstance(value, np.random.Generator):
            yield path, value  # each time: parts may share one
        elif isinstance(value, Parametric):
            if id(value) not in seen:
                seen.add(id(value))
                yield path, value
                yield from walk(vars(value), path)
        elif isinstance(value, dict | list | tuple):
            for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
                yield from walk(inner, f"{path}.{name}")

    return walk(net, "net")


def generators(net: Parametric) -> dict[str, np.random.Generator]:
    """By where they stand."""
    return {path: thing for path, thing in inside(net) if isinstance(thing, np.random.Generator)}


def check_one_way(net: Parametric) -> None:
    """Raise if a part is bidirectional."""
    for path, part in inside(net):
        if getattr(part, "bidirectional", False):
            raise ValueError(f"bptt must be None for a network with bidirectional parts, got {part!r} ({path})")
