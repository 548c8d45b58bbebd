"""Arrays on a device with a shape, and parameters that live there."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from . import dlpack
from .machine import Flat, Machine


class DeviceArray:
    """Numbers on a device, seen with a shape.

    Basic indexing, ``reshape`` and ``swapaxes`` give views.  Nothing is copied to the host unless ``numpy`` (or, of a
    single number, ``float``) is called, which waits for all that writes it.

    Parameters
    ----------
    machine : Machine
    flat : flat array of the machine
        Begins with the first number.
    shape : tuple of int
    strides : tuple of int, optional
        In numbers; None: in C order.
    readonly : bool
        Whether it says so to others; a device doesn't see to it.
    """

    __slots__ = ("__weakref__", "flat", "machine", "readonly", "shape", "strides")

    def __init__(
        self,
        machine: Machine,
        flat: Flat,
        shape: tuple[int, ...],
        strides: tuple[int, ...] | None = None,
        readonly: bool = False,
    ) -> None:
        self.machine, self.flat, self.shape, self.readonly = machine, flat, shape, readonly
        self.strides = in_order(shape) if strides is None else strides

    @classmethod
    def empty(cls, machine: Machine, shape: tuple[int, ...], dtype: Any) -> DeviceArray:
        """A new array; its numbers are anything."""
        return cls(machine, machine.empty(math.prod(shape), np.dtype(dtype)), shape)

    @classmethod
    def zeros(cls, machine: Machine, shape: tuple[int, ...], dtype: Any) -> DeviceArray:
        """A new array of zeros."""
        made = cls.empty(machine, shape, dtype)
        machine.zero(made.flat)
        return made

    @classmethod
    def put(cls, machine: Machine, array: NDArray[Any]) -> DeviceArray:
        """A copy of an array of the host's."""
        return cls(machine, machine.put(array), array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the numbers."""
        return np.dtype(self.flat.dtype)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of numbers."""
        return math.prod(self.shape)

    @property
    def contiguous(self) -> bool:
        """Whether the numbers stand side by side in C order."""
        wanted = in_order(self.shape)
        return self.size == 0 or all(n == 1 or a == b for n, a, b in zip(self.shape, self.strides, wanted, strict=True))

    def numbers(self) -> Flat:
        """The numbers side by side, as a flat array: a view.

        Raises
        ------
        ValueError
            They don't stand so.
        """
        if not self.contiguous:
            raise ValueError(f"the array must be contiguous, got strides {self.strides} for shape {self.shape}")
        return self.flat[: self.size]

    def numpy(self) -> NDArray[Any]:
        """A copy on the host: waits for what writes it."""
        if self.size == 0:
            return np.zeros(self.shape, self.dtype)
        extent = 1 + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        host = self.machine.get(self.flat[:extent])
        strides = tuple(s * host.itemsize for s in self.strides)
        return np.ascontiguousarray(np.lib.stride_tricks.as_strided(host, self.shape, strides)).reshape(self.shape)

    def copy(self) -> DeviceArray:
        """Another array with the same numbers, which must be contiguous."""
        made = DeviceArray.empty(self.machine, self.shape, self.dtype)
        self.machine.copy(made.flat, self.numbers())
        return made

    def reshape(self, *shape: Any) -> DeviceArray:
        """The same numbers with another shape of as many; they must be contiguous."""
        wanted = tuple(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else tuple(shape)
        if math.prod(wanted) != self.size:
            raise ValueError(f"shape must have {self.size} numbers, got {wanted}")
        return DeviceArray(self.machine, self.numbers(), wanted, None, self.readonly)

    def swapaxes(self, a: int, b: int) -> DeviceArray:
        """With two axes exchanged."""
        shape, strides = list(self.shape), list(self.strides)
        shape[a], shape[b] = shape[b], shape[a]
        strides[a], strides[b] = strides[b], strides[a]
        return DeviceArray(self.machine, self.flat, tuple(shape), tuple(strides), self.readonly)

    def __getitem__(self, key: Any) -> DeviceArray:
        """Integers, slices with steps of 1 or more, None."""
        keys = list(key) if isinstance(key, tuple) else [key]
        if sum(k is not None for k in keys) > self.ndim:
            raise IndexError(f"too many indices for an array of {self.ndim} axes, got {len(keys)}")
        start, axis, shape, strides = 0, 0, [], []
        for k in keys:
            if k is None:
                shape.append(1)
                strides.append(0)
                continue
            n, s = self.shape[axis], self.strides[axis]
            axis += 1
            if isinstance(k, slice):
                begin, end, step = k.indices(n)
                if step < 1:
                    raise IndexError(f"a slice must have a step of 1 or more, got {step}")
                shape.append(len(range(begin, end, step)))
                strides.append(s * step)
                start += begin * s if shape[-1] else 0
            elif isinstance(k, int | np.integer) and -n <= k < n:
                start += int(k) % n * s
            else:
                raise IndexError(f"an index must be an integer in [-{n}, {n}), a slice or None, got {k!r}")
        return DeviceArray(
            self.machine,
            self.flat[start:],
            (*shape, *self.shape[axis:]),
            (*strides, *self.strides[axis:]),
            self.readonly,
        )

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("an array without axes has no length")
        return self.shape[0]

    def __float__(self) -> float:
        if self.size != 1:
            raise TypeError(f"only an array of one number can be a float, got shape {self.shape}")
        return float(self.numpy().reshape(-1)[0])

    def __bool__(self) -> bool:
        return bool(float(self))

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3: how other libraries see it without a copy."""
        itemsize = self.dtype.itemsize
        return {
            "version": 3,
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.machine.address(self.flat) if self.size else 0, self.readonly),
            "strides": None if self.contiguous else tuple(s * itemsize for s in self.strides),
            "stream": self.machine.stream or 1,  # 0 is forbidden; 1 is the same stream
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        """(2, the device's number): 2 stands for CUDA."""
        return dlpack.CUDA, self.machine.ordinal

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A capsule by which other libraries see it without a copy: the array API standard's ``__dlpack__``."""
        if dl_device is not None and tuple(dl_device) != self.__dlpack_device__():
            raise BufferError(f"dl_device must be {self.__dlpack_device__()}, where the array is, got {dl_device}")
        if stream == 0:
            raise ValueError("stream must not be 0, which could be two: 1 is the default one")
        machine, array = self.machine, self.copy() if copy else self
        theirs, ours = 1 if stream is None else stream, machine.stream or 1
        if theirs not in (-1, ours):  # -1: the consumer sees to it
            with machine.on(theirs):
                machine.wait_for(ours)
        return dlpack.give(
            machine.address(array.flat) if array.size else 0,
            array.shape,
            tuple(s * array.dtype.itemsize for s in array.strides),
            array.dtype,
            array.readonly,
            array,
            machine.ordinal,
            max_version is not None and max_version[0] >= 1,
            bool(copy),
        )

    def __array__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError("an array on the GPU isn't copied to the host by itself: call its numpy()")

    def __repr__(self) -> str:
        return f"<array on the GPU of shape {self.shape}, {self.dtype.name}>"


def in_order(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in numbers, of an array in C order."""
    return tuple(math.prod(shape[q + 1 :]) for q in range(len(shape)))


class DeviceStorage:
    """Memory of parameters on a device: what ``_params.Storage`` is on the host."""

    def __init__(
        self, machine: Machine, size: int, dtype: np.dtype[Any], adopt: Callable[..., DeviceArray | None]
    ) -> None:
        self.machine, self.dtype, self._adopt = machine, np.dtype(dtype), adopt
        self.write = machine.empty(size, self.dtype)
        self.read = DeviceArray(machine, self.write, (size,), None, True)

    def like(self, size: int) -> DeviceStorage:
        """Another of the same kind."""
        return DeviceStorage(self.machine, size, self.dtype, self._adopt)

    def assign(self, into: Flat, values: Any) -> None:
        """Copy values in: an array of the host's, or of this machine."""
        if isinstance(values, DeviceArray):
            self.machine.copy(into, values.numbers())
        else:
            self.machine.copy(into, self.machine.put(np.ascontiguousarray(values, self.dtype)))

    def numbers(self, raw: Flat) -> NDArray[Any]:
        """Numbers of a part, on the host."""
        return self.machine.get(raw)

    def checked(self, value: Any, name: str, shape: tuple[int, ...]) -> DeviceArray | None:
        """A value that is on this device, as an array of that shape; None if it isn't on any.

        Raises
        ------
        TypeError, ValueError
            Its dtype or shape is wrong, or it isn't contiguous.
        """
        array = self._adopt(self.machine, value, name, self.dtype)
        if array is not None and array.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
        if array is not None and not array.contiguous:
            raise ValueError(f"{name} must be contiguous, got strides {array.strides} for shape {array.shape}")
        return array
