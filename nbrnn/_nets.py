"""Networks as compiled code sees them: a NamedTuple of one buffer and its sizes, whose *type* is the cell.

Every loop is one function; what a step computes follows from the class of the ``net`` it is given, through the
primitives of ``_cpu``.  The class's name holds a digest of the package's sources and of the cell's formulas.  So what
is compiled for one cell is never taken for another's of the same name, and a user's own cached function that takes a
network is compiled anew after an upgrade, not served stale: such a function's cache names the class, and old names
lead nowhere.
"""

from __future__ import annotations

import hashlib
from collections import namedtuple
from typing import Any

from ._cells import Cell
from ._cells.trace import describe
from ._kernel import SOURCE_DIGEST

#: w: the packed buffer (``_cpu.packing``); I, H, K: input size, hidden size, output size (K = H unless projected); L:
#: how many layers' buffers stand in w, one after another.
FIELDS = ("w", "I", "H", "K", "L")

#: What a class stands for: a cell, and the vector width that w is packed for (one of ``_cpu.isa.NAMES``).
_MEANING: dict[type, tuple[type[Cell], type]] = {}
_CLASSES: dict[tuple[type[Cell], type], type] = {}


def _name(cell: type[Cell], lanes: type) -> str:
    formulas = hashlib.sha256(describe(cell).encode()).hexdigest()
    return f"{cell.__name__}Net{lanes.__name__}_{SOURCE_DIGEST[:8]}{formulas[:8]}"


def net_class(cell: type[Cell], lanes: type) -> Any:
    """The NamedTuple class of a cell's networks (made at the first call); one for cells that are equal."""
    if (cell, lanes) not in _CLASSES:
        name = _name(cell, lanes)
        if name not in globals():
            made = namedtuple(name, FIELDS, module=__name__)  # type: ignore[misc]
            globals()[name] = made
            _MEANING[made] = (cell, lanes)
        _CLASSES[cell, lanes] = globals()[name]
    return _CLASSES[cell, lanes]


def cell_of(net_type: Any) -> type[Cell]:
    """The cell of a network's Numba type, for code that is about to be compiled for it.

    Raises
    ------
    RuntimeError
        The cell's formulas have been changed since: the code would be kept, and served, as that of the old ones.
    """
    cell, lanes = _MEANING[net_type.instance_class]
    if _name(cell, lanes) != net_type.instance_class.__name__:
        raise RuntimeError(f"the formulas of cell {cell.__name__} have changed since its first use: make a new class")
    return cell


def lanes_of(net_type: Any) -> Any:
    """The vector width of a network's Numba type."""
    return _MEANING[net_type.instance_class][1]


def is_net(numba_type: Any) -> bool:
    """Whether a Numba type is that of a network."""
    return getattr(numba_type, "instance_class", None) in _MEANING


def __getattr__(name: str) -> Any:
    """A throwaway class for the name of another version, so that a cache index that holds one can still be read."""
    if "Net" in name:
        return namedtuple(name, FIELDS, module=__name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
