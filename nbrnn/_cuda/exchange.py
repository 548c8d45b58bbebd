"""Arrays of other libraries, seen as ours, and ours as theirs.

No library is imported here that isn't there already: a value of its can't come from anywhere else.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from . import dlpack
from .array import DeviceArray
from .dlpack import Found
from .machine import Machine

#: Of the interface of CUDA arrays.
_VERSIONS = (2, 3)


class Kind:
    """A library's arrays: how results are given back to who came with one of them."""

    #: What is written behind an array of this library's to convert it; "" where there is nothing so short.
    conversion = ""
    #: Whether it is asked for its ``__cuda_array_interface__`` before DLPack.
    has_interface = True
    #: Its device's number; None: it doesn't say.
    ordinal: int | None = None
    #: Whether nobody may write to its arrays.
    readonly = False

    def wrap(self, array: DeviceArray) -> Any:
        """An array of ours as one of this library's, without a copy."""
        return array

    def stream(self) -> Any:
        """The stream that this library is using now; None: it has no say."""
        return None

    def check(self, value: Any, name: str) -> None:
        """Refuse values that are on a device but of no use."""


class _Torch(Kind):
    conversion = ".to(torch.{})"

    def __init__(self, torch: Any, value: Any) -> None:
        self._torch, self.ordinal = torch, value.get_device()

    def wrap(self, array: DeviceArray) -> Any:
        return self._torch.from_dlpack(array)

    def stream(self) -> Any:
        return self._torch.cuda.current_stream(self.ordinal).cuda_stream

    def check(self, value: Any, name: str) -> None:
        if value.requires_grad:
            raise TypeError(
                f"{name} must not require a gradient, since torch doesn't see what is computed here; "
                f"give {_expression(name)}.detach()"
            )


class _CuPy(Kind):
    conversion = '.astype("{}")'

    def __init__(self, cupy: Any, value: Any) -> None:
        self._cupy, self.ordinal = cupy, value.device.id

    def wrap(self, array: DeviceArray) -> Any:
        return self._cupy.from_dlpack(array)  # asarray would wait for our stream to be idle

    def stream(self) -> Any:
        return self._cupy.cuda.get_current_stream().ptr


class _Numba(Kind):
    def __init__(self, api: Any, value: Any) -> None:
        self._api, self._stream = api, value.stream

    def wrap(self, array: DeviceArray) -> Any:
        return self._api.as_cuda_array(array, sync=False)  # it is told our stream, and needn't wait for that to be idle

    def stream(self) -> Any:
        return int(self._stream) or None


class _JAX(Kind):
    conversion = '.astype("{}")'
    has_interface = False  # which, other than DLPack, doesn't tell it our stream
    readonly = True

    def wrap(self, array: DeviceArray) -> Any:
        return importlib.import_module("jax.dlpack").from_dlpack(array)


OURS = Kind()


def _is_of(value: Any, module: str, name: str) -> Any:
    """A module, if it has been imported and the value is of its class of that name; else None."""
    found = sys.modules.get(module)
    cls = getattr(found, name, None)
    return found if cls is not None and isinstance(value, cls) else None


def kind_of(value: Any) -> Kind | None:
    """The kind of a value that is on a device; None if it isn't on any."""
    if type(value) is np.ndarray:
        return None
    if isinstance(value, DeviceArray):
        return OURS
    if isinstance(value, np.ndarray | list | tuple | int | float):
        return None
    if torch := _is_of(value, "torch", "Tensor"):
        return _Torch(torch, value) if value.is_cuda else None
    if cupy := _is_of(value, "cupy", "ndarray"):
        return _CuPy(cupy, value)
    if _is_of(value, "numba.cuda.cudadrv.devicearray", "DeviceNDArray"):
        return _Numba(sys.modules["numba.cuda"], value)
    if _is_of(value, "jax", "Array"):
        return _JAX() if _dlpack_device(value) is not None else None
    try:
        found = _interface(value) is not None
    except Exception:  # there it is, and why it can't be had is said by ``adopted``
        found = True
    return OURS if found or _dlpack_device(value) is not None else None


def _dlpack_device(value: Any) -> int | None:
    """The number of the CUDA device that DLPack says a value is on; None if it isn't on any."""
    try:
        kind, ordinal = value.__dlpack_device__()
    except Exception:  # it may raise anything: an array of JAX on several devices, for one, or while it is traced
        return None
    return int(ordinal) if kind in (dlpack.CUDA, dlpack.MANAGED) else None


def adopted(machine: Machine, value: Any, name: str, dtype: np.dtype[Any] | None) -> DeviceArray | None:
    """A value that is on a device, without a copy; None if it isn't on any.

    The machine's stream waits for what has been asked of the value's library so far.

    Raises
    ------
    TypeError
        Its dtype isn't the one wanted (None: any), or it can't be read.
    ValueError
        It is on another device than the machine, or laid out as kernels can't read it.
    """
    kind = kind_of(value)
    if kind is None:
        return None
    if isinstance(value, DeviceArray):
        if value.machine is not machine:
            raise _elsewhere(name, machine, value.machine.ordinal)
        _check_dtype(name, dtype, value.dtype, value.dtype.name, kind)
        return value
    kind.check(value, name)
    found, ordinal = _found(machine, kind, value, name)
    if ordinal is not None and ordinal != machine.ordinal:
        raise _elsewhere(name, machine, ordinal)
    _check_dtype(name, dtype, found.dtype, found.dtype_name, kind)
    return _seen(machine, found, name, kind.readonly)


def _elsewhere(name: str, machine: Machine, ordinal: int) -> ValueError:
    return ValueError(
        f"{name} must be on the same device as the parameters, cuda:{machine.ordinal}, got one on cuda:{ordinal}"
    )


def _expression(name: str) -> str:
    """A name as it can be written: without the remark that may follow."""
    return name.split(" ")[0]


def _check_dtype(name: str, wanted: np.dtype[Any] | None, dtype: np.dtype[Any] | None, got: str, kind: Kind) -> None:
    if wanted is not None and dtype != wanted:
        conversion = (
            f"; convert it: {_expression(name)}{kind.conversion.format(wanted.name)}" if kind.conversion else ""
        )
        raise TypeError(f"{name} must be of dtype {wanted.name}, got {got}{conversion}")
    if dtype is None or not dtype.isnative or dtype.hasobject:
        raise TypeError(f"{name} must be of a dtype of NumPy's in native byte order, got {got}")


def _found(machine: Machine, kind: Kind, value: Any, name: str) -> tuple[Found, int | None]:
    """What a value says of itself, and the number of its device if it says that."""
    interface = _asked(lambda: _interface(value), name) if kind.has_interface else None
    if interface is not None:
        found, stream = _by_interface(interface, value, name)
        wait_for(machine, kind.stream() if stream is None else stream)
        return found, kind.ordinal
    return _asked(lambda: dlpack.take(_capsule(value, machine.stream or 1)), name), _dlpack_device(value)


def _interface(value: Any) -> Any:
    return getattr(value, "__cuda_array_interface__", None)


def _asked(ask: Callable[[], Any], name: str) -> Any:
    """What another library answers; whatever it finds wrong is said of the argument."""
    try:
        return ask()
    except Exception as error:
        raise TypeError(f"{name} must be an array that can be read, its library says: {error}") from error


def _capsule(value: Any, stream: int) -> Any:
    """By the newest protocol that it knows."""
    for options in ({"stream": stream, "max_version": (1, 0)}, {"stream": stream}):
        try:
            return value.__dlpack__(**options)
        except TypeError:
            pass
    return value.__dlpack__()


def wait_for(machine: Machine, stream: int | None) -> None:
    """Let the machine's stream wait for another; None: there is nothing to wait for."""
    if stream is not None and (stream or 1) != (machine.stream or 1):  # 0 and 1 are the same
        machine.wait_for(stream)


def _by_interface(interface: Any, owner: object, name: str) -> tuple[Found, int | None]:
    """What a ``__cuda_array_interface__`` says, and the stream to wait for."""
    try:
        version, shape, (address, readonly) = interface["version"], tuple(interface["shape"]), interface["data"]
        dtype, strides = np.dtype(interface["typestr"]), interface.get("strides")
        stream = interface.get("stream")
        strides = None if strides is None or 0 in shape else tuple(strides)
        if strides is not None and len(strides) != len(shape):
            raise ValueError(f"strides {strides} for shape {shape}")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise TypeError(f"{name} must have a valid __cuda_array_interface__, got {interface!r}") from error
    if version not in _VERSIONS:
        raise TypeError(f"{name} must have a __cuda_array_interface__ of version 2 or 3, got {version!r}")
    if interface.get("mask") is not None:
        raise TypeError(f"{name} must not be a masked array: fill it first")
    if stream == 0:
        raise ValueError(f"{name} must not have 0 for the stream of its __cuda_array_interface__, which could be two")
    return Found(address or 0, shape, strides, dtype, str(dtype), bool(readonly), owner), stream


def _seen(machine: Machine, found: Found, name: str, readonly: bool) -> DeviceArray:
    """What has been found as an array of ours."""
    dtype, shape, address = found.dtype, found.shape, found.address
    assert dtype is not None
    item, strides = dtype.itemsize, None
    if 0 in shape:
        return DeviceArray(machine, machine.view(address, 0, dtype, found.owner), shape, None, readonly)
    if found.strides is not None:
        along = [s for s, n in zip(found.strides, shape, strict=True) if n > 1]
        if any(s < 0 for s in along):
            raise ValueError(f"{name} must have no negative strides, got {found.strides} for shape {shape}")
        if any(s % item for s in along):
            raise ValueError(f"{name} must have strides that are multiples of {item} bytes, got {found.strides}")
        strides = tuple(s // item if n > 1 else 0 for s, n in zip(found.strides, shape, strict=True))
    if address == 0 or address % item:
        raise ValueError(f"{name} must begin at a multiple of {item} bytes, got address {address:#x}")
    extent = math.prod(shape) if strides is None else 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    flat = machine.view(address, extent, dtype, found.owner)
    return DeviceArray(machine, flat, shape, strides, readonly or found.readonly)
