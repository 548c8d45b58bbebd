"""DLPack capsules: how arrays on a device pass between libraries without a copy.

Capsules of ours are made by NumPy, from an array over addresses that it never looks at, and are then told their device:
so what frees them is compiled, and safe while an exception is on its way or the interpreter ends.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import numpy as np

#: Types of devices: memory of a GPU, memory that moves between it and the host.
CUDA, MANAGED = 2, 13
_READONLY, _COPIED = 1, 2
_OLD, _VERSIONED = b"dltensor", b"dltensor_versioned"
#: By what they are called once somebody has taken what is in them.
_USED = {name: b"used_" + name for name in (_OLD, _VERSIONED)}


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("delete", ctypes.c_void_p))


class _ManagedVersioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("delete", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


def _of_python(name: str, result: Any, *arguments: Any) -> Any:
    # Not ctypes.pythonapi.name: its types are everybody's to change.
    return ctypes.PYFUNCTYPE(result, *arguments)((name, ctypes.pythonapi))


_is_valid = _of_python("PyCapsule_IsValid", ctypes.c_int, ctypes.py_object, ctypes.c_char_p)
_pointer = _of_python("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
_rename = _of_python("PyCapsule_SetName", ctypes.c_int, ctypes.py_object, ctypes.c_char_p)
_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def _content(capsule: Any) -> tuple[bytes, int]:
    """What a capsule is called, and where its struct is."""
    for name in (_VERSIONED, _OLD):
        if _is_valid(capsule, name):
            return name, _pointer(capsule, name)
    raise BufferError(f"a DLPack capsule that nobody has used is needed, got {capsule!r}")


# Out


class _Foreign:
    """Somebody's numbers as NumPy asks for them, with what is kept as long as it has them."""

    __slots__ = ("__array_interface__", "owner")

    def __init__(self, interface: dict[str, Any], owner: object) -> None:
        self.__array_interface__, self.owner = interface, owner


def give(
    address: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    dtype: np.dtype[Any],
    readonly: bool,
    owner: object,
    ordinal: int,
    versioned: bool,
    copied: bool = False,
) -> Any:
    """A capsule for an array on a device; strides are in bytes.

    ``owner`` lives as long as somebody has the numbers.

    Raises
    ------
    BufferError
        It is read-only, which can't be said without a version.
    """
    if readonly and not versioned:
        raise BufferError("a read-only array can't be given to a library that doesn't know DLPack 1.0: give its copy()")
    data = (address or dtype.itemsize, readonly)  # NumPy asks for an address even where there are no numbers
    array = np.asarray(
        _Foreign({"version": 3, "shape": shape, "strides": strides, "typestr": dtype.str, "data": data}, owner)
    )
    try:
        capsule = array.__dlpack__(max_version=(1, 0)) if versioned else array.__dlpack__()
    except TypeError:  # NumPy < 2.1: anyone who knows versions must also take capsules without
        if readonly:
            raise BufferError("a read-only array needs NumPy 2.1 to be given by DLPack: give its copy()") from None
        capsule = array.__dlpack__()
    name, at = _content(capsule)
    managed = (_Managed if name == _OLD else _ManagedVersioned).from_address(at)
    managed.tensor.device_type, managed.tensor.device_id = CUDA, ordinal
    managed.tensor.data = address
    if copied and isinstance(managed, _ManagedVersioned):
        managed.flags |= _COPIED
    return capsule


# In

_KINDS = {0: "i", 1: "u", 2: "f", 5: "c", 6: "b"}
_NAMES = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 5: "complex", 6: "bool"}


class _Taken:
    """What was in a capsule: told when nobody needs it any more."""

    __slots__ = ("_at", "_delete")

    def __init__(self, at: int, delete: int | None) -> None:
        self._at, self._delete = at, _Deleter(delete) if delete else None

    def __del__(self) -> None:
        if self._delete is not None:
            self._delete(self._at)


class Found(NamedTuple):
    """An array somewhere, as its library describes it."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None  #: in bytes; None: in C order
    dtype: np.dtype[Any] | None  #: None: one that NumPy hasn't got
    dtype_name: str
    readonly: bool
    owner: object  #: what must live as long as the numbers are used


def take(capsule: Any) -> Found:
    """What is in a capsule, which is then used up.

    Raises
    ------
    BufferError
        It isn't a DLPack capsule, or has been used, or is of a version to come.
    """
    name, at = _content(capsule)
    managed = (_Managed if name == _OLD else _ManagedVersioned).from_address(at)
    readonly = False
    if isinstance(managed, _ManagedVersioned):
        if managed.major != 1:
            raise BufferError(f"a DLPack capsule of version 1 is needed, got {managed.major}.{managed.minor}")
        readonly = bool(managed.flags & _READONLY)
    tensor, delete = managed.tensor, managed.delete
    _rename(capsule, _USED[name])
    owner = _Taken(at, delete)
    ndim, bits, lanes = tensor.ndim, tensor.bits, tensor.lanes
    dtype, dtype_name = None, f"{_NAMES.get(tensor.code, 'unknown')}{bits}" + (f"x{lanes}" if lanes != 1 else "")
    if tensor.code in _KINDS and bits % 8 == 0 and lanes == 1:
        dtype = np.dtype(f"{_KINDS[tensor.code]}{bits // 8}")
        dtype_name = dtype.name
    strides = tuple(s * (bits * lanes // 8) for s in tensor.strides[:ndim]) if tensor.strides else None
    shape = tuple(tensor.shape[:ndim]) if ndim else ()
    return Found((tensor.data or 0) + tensor.offset, shape, strides, dtype, dtype_name, readonly, owner)
