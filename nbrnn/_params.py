"""Parameters: one vector in memory, seen by name.

Kernels keep packed copies of the weights.  So every change must be noticed, and goes through ``params[name] = array``
or ``flat = vector``, or within the package ``_overwrite``; what is handed out is read-only for good: it views memory
that NumPy itself was only given to read, so that not even ``array.flags.writeable = True`` opens it.  (One way remains,
by a fault of NumPy's: ``ufunc.at`` writes to read-only vectors.  On what is handed out it is refused; on
``numpy.asarray`` of it, it can't be.)
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._check import real
from ._memory import ALIGNMENT

Array = NDArray[Any]


class ReadOnly(np.ndarray[Any, Any]):
    """A read-only view that says what to write instead of changing it in place."""

    def __setitem__(self, key: Any, value: Any) -> None:
        if not self.flags.writeable:
            _refuse()
        super().__setitem__(key, value)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        """Results of arithmetic are plain arrays; changing this one by it is refused.

        NumPy would refuse ``out=`` too, but lets ``ufunc.at`` write through a read-only vector.
        """
        for target in [inputs[0]] if method == "at" else out or ():
            if isinstance(target, ReadOnly) and not target.flags.writeable:
                _refuse()
        if out is not None:
            options["out"] = tuple(map(_bare, out))
        return getattr(ufunc, method)(*map(_bare, inputs), **options)

    def copy(self, order: Any = "C") -> Array:  # type: ignore[override]
        """A plain array of the same numbers, free to be changed."""
        return np.array(self, order=order, copy=True, subok=False)

    def __copy__(self) -> Array:  # type: ignore[override]
        return self.copy()

    def __deepcopy__(self, memo: Any) -> Array:  # type: ignore[override]
        return self.copy()

    def __reduce__(self) -> Any:
        return self.copy().__reduce__()


def _bare(a: Any) -> Any:
    return a.view(np.ndarray) if isinstance(a, ReadOnly) else a


def _refuse() -> NoReturn:
    raise ValueError(
        "parameters can't be changed in place: write layer.flat = layer.flat - g instead of layer.flat -= g, "
        "and layer.params[name] = array instead of layer.params[name][...] = array"
    )


class Storage:
    """Memory of a number of parameters: written through one array, read through others.

    On a device, ``_cuda.array.DeviceStorage`` is in its place.
    """

    #: The device; None: the host.
    machine: Any = None

    def __init__(self, size: int, dtype: np.dtype[Any]) -> None:
        try:
            room = bytearray(size * dtype.itemsize + ALIGNMENT)
        except MemoryError:
            gibibytes = size * dtype.itemsize / 2**30
            raise MemoryError(f"no memory for parameters: {size:,} of {dtype.name}, {gibibytes:,.1f} GiB") from None
        start = -np.frombuffer(room, np.uint8).ctypes.data % ALIGNMENT
        self.write = np.frombuffer(room, dtype, size, start)
        self.read = np.frombuffer(memoryview(room).toreadonly(), dtype, size, start).view(ReadOnly)

    def assign(self, into: Array, values: Any) -> None:
        """Copy values into a part of ``write``."""
        into[:] = values

    def numbers(self, raw: Array) -> Array:
        """A part of ``write``, as an array of the host's."""
        return raw

    def checked(self, value: Any, name: str, shape: tuple[int, ...]) -> Any:
        """A value that is on this device: none is."""
        return None


class Parameters(MutableMapping[str, Array]):
    """Named arrays that lie one after another in one vector.

    Parameters
    ----------
    shapes : mapping of str to tuple
        Names and shapes, in order.
    dtype : dtype

    Attributes
    ----------
    version : int
        Grows with every change.
    """

    #: Parameters of parts, which live in this vector too: see ``join``.
    _parts: tuple[Parameters, ...] = ()
    #: The whole that these are part of, as a weak reference.
    _whole: Callable[[], Parameters | None] = staticmethod(lambda: None)

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], dtype: Any) -> None:
        self.dtype = np.dtype(dtype)
        self.shapes = dict(shapes)
        self.size = sum(math.prod(s) for s in self.shapes.values())
        self.version = 0
        self.move(Storage(self.size, self.dtype), 0)

    @property
    def machine(self) -> Any:
        """The device that they are on; None: the host."""
        return self._storage.machine

    def move(self, storage: Any, start: int) -> None:
        """Live in another storage from now on, at that place of its vector; values go along."""
        before, former = getattr(self, "_write", None), getattr(self, "_storage", storage)
        self._storage = storage
        self._write = storage.write[start : start + self.size]
        self._flat = storage.read[start : start + self.size]
        #: The same for kernels: a plain array, on the host.
        self.vector: Any = np.asarray(self._flat) if storage.machine is None else None
        if before is not None:
            storage.assign(self._write, former.numbers(before))
        self._at: dict[str, slice] = {}
        at = 0
        for name, shape in self.shapes.items():
            self._at[name] = slice(at, at + math.prod(shape))
            at += math.prod(shape)
        self._views = {name: self._flat[at].reshape(self.shapes[name]) for name, at in self._at.items()}
        #: And by name.
        self.arrays: dict[str, Any] = {} if self.vector is None else self.views_of(self.vector)
        at = start
        for part in self._parts:
            part.move(storage, at)
            at += part.size

    @classmethod
    def join(cls, parts: Mapping[str, Parameters]) -> Parameters:
        """Parameters of several parts as one vector, named ``<part>.<name>``; the parts' own names go on working.

        Raises
        ------
        ValueError
            A part is there twice, or is part of something else already, or dtypes differ.
        """
        filled = {name: part for name, part in parts.items() if part.size}
        dtypes = {part.dtype for part in filled.values()}
        if len(dtypes) > 1:
            raise ValueError(f"all parts must have one dtype, got {', '.join(sorted(d.name for d in dtypes))}")
        if any(p._whole() for p in filled.values()) or len({id(p) for p in filled.values()}) < len(filled):
            raise ValueError("a part of a network can't be part of another, or stand in it twice: copy.deepcopy it")
        if len({id(part.machine) for part in filled.values()}) > 1:
            raise ValueError("all parts must be on the same device, got parts on several")
        shapes = {f"{name}.{key}": shape for name, part in filled.items() for key, shape in part.shapes.items()}
        whole = cls(shapes, dtypes.pop() if dtypes else np.float32)
        before = [part._storage.numbers(part._write).copy() for part in filled.values()]
        storages = [part._storage for part in filled.values() if part.machine is not None]
        whole._parts = tuple(filled.values())
        whole.move(storages[0].like(whole.size) if storages else Storage(whole.size, whole.dtype), 0)
        if before:
            whole.flat = np.concatenate(before)
        for part in whole._parts:
            part._whole = weakref.ref(whole)
        return whole

    def _changed(self) -> None:
        """Parts have changed with the whole, and so has the whole that these are part of; its other parts haven't."""
        self._parts_changed()
        whole = self._whole()
        while whole is not None:
            whole.version += 1
            whole = whole._whole()

    def _parts_changed(self) -> None:
        self.version += 1
        for part in self._parts:
            part._parts_changed()

    def _overwrite(self, change: Callable[..., Any], *more: Any) -> None:
        """Call ``change(vector, *more)``, which changes the one vector in place and doesn't keep it."""
        try:
            change(self._write, *more)
        finally:
            self._changed()

    @property
    def flat(self) -> Array:
        """All parameters as one read-only vector, in order."""
        # An object of its own: its shape and strides may be changed.
        return self._flat.view() if self.machine is None else self._flat

    @flat.setter
    def flat(self, vector: ArrayLike) -> None:
        self._storage.assign(self._write, self._checked(vector, "flat", (self.size,)))
        self._changed()

    def _checked(self, value: Any, name: str, shape: tuple[int, ...]) -> Any:
        """A value to be copied in: an array of the host's, or one on the device that the parameters are on."""
        here = self._storage.checked(value, name, shape)
        return checked(value, name, shape) if here is None else here

    def __getitem__(self, name: str) -> Array:
        return self._views[name].view() if self.machine is None else self._views[name]

    def __setitem__(self, name: str, value: ArrayLike) -> None:
        if name not in self.shapes:
            raise KeyError(f"no parameter {name!r}; there are {', '.join(self.shapes)}")
        given = self._checked(value, f"params[{name!r}]", self.shapes[name]).reshape(math.prod(self.shapes[name]))
        self._storage.assign(self._write[self._at[name]], given)
        self._changed()

    def __delitem__(self, name: str) -> None:
        raise TypeError("parameters can't be removed")

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def __reduce__(self) -> Any:
        """Copies, deep or not, and pickles are plain dictionaries of arrays of their own."""
        host = self.numpy()
        return dict, ({name: host[at].reshape(self.shapes[name]).copy() for name, at in self._at.items()},)

    def numpy(self) -> Array:
        """All parameters as one new vector of the host's."""
        return np.array(self._storage.numbers(self._write))

    def __repr__(self) -> str:
        return "{" + ", ".join(f"{name!r}: {shape}" for name, shape in self.shapes.items()) + "}"

    def views_of(self, vector: Any) -> dict[str, Any]:
        """A vector of as many numbers, seen by the same names and shapes."""
        return {name: vector[at].reshape(self.shapes[name]) for name, at in self._at.items()}


def checked(value: ArrayLike, name: str, shape: tuple[int, ...]) -> Array:
    """Value as a real array of that shape, or a TypeError or ValueError that names it."""
    array = real(value, name)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    return array
