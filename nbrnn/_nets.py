"""Networks as compiled code sees them: a NamedTuple of one buffer and its sizes, whose *type* is the cell.

Every loop is one function; what a step computes follows from the class of the ``net`` it is given, through the
primitives of ``_cpu``.  The class's name holds a digest of the package's sources (and of the file that defines the
cell), so that a user's own cached function that takes a network is compiled anew after an upgrade, not served stale:
such a function's cache names the class, and old names lead nowhere.
"""

from __future__ import annotations

import inspect
import pathlib
import uuid
from collections import namedtuple
from typing import Any

from ._cells import GRU, LSTM, Cell, LSTMProjected, RNNRelu, RNNTanh
from ._kernel import SOURCE_DIGEST, UNSAVED, digest_of

#: w: the packed buffer (``_cpu.packing``); lanes: the vector width it is packed for, as a type; I, H, K: input size,
#: hidden size, output size (K = H unless projected).
FIELDS = ("w", "lanes", "I", "H", "K")

_CELLS: dict[type, type[Cell]] = {}
_CLASSES: dict[type[Cell], type] = {}


def net_class(cell: type[Cell]) -> Any:
    """The NamedTuple class of a cell's networks (made at the first call)."""
    if cell not in _CLASSES:
        name = f"{cell.__name__}Net_{_stamp(cell)}"
        made = namedtuple(name, FIELDS, module=__name__)  # type: ignore[misc]
        globals()[name] = made
        _CELLS[made] = cell
        _CLASSES[cell] = made
    return _CLASSES[cell]


def _stamp(cell: type[Cell]) -> str:
    """What changes with the source of the package and of the cell."""
    if cell.__module__.startswith(f"{__package__}."):
        return SOURCE_DIGEST
    try:
        return SOURCE_DIGEST[:8] + digest_of(pathlib.Path(inspect.getfile(cell)))[:8]
    except (OSError, TypeError):  # defined at a prompt: nothing tells one version from the next
        return UNSAVED + uuid.uuid4().hex[:8]


def cell_of(net_type: Any) -> type[Cell]:
    """The cell of a network's Numba type."""
    return _CELLS[net_type.instance_class]


def __getattr__(name: str) -> Any:
    """A throwaway class for the name of another version, so that a cache index that holds one can still be read."""
    if "Net_" in name:
        return namedtuple(name, FIELDS, module=__name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


for _cell in (RNNTanh, RNNRelu, GRU, LSTM, LSTMProjected):
    net_class(_cell)
