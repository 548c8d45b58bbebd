"""What GPU code asks of whatever it runs on: a device, or an emulator of one.

Arrays of a machine are *flat*: one dimension, numbers side by side.  They know ``size``, ``dtype`` and slices
(``array[begin:end]``, a view).  Shapes are the business of ``array.DeviceArray``.
"""

from __future__ import annotations

import contextlib
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .kernels import Kernel

Flat = Any


class Machine(Protocol):
    """Where arrays are, and kernels run.

    What is asked for is done in order, on the stream of the innermost ``on``; nothing but ``get`` waits for it.
    """

    #: Multiprocessors.
    processors: int
    #: (major, minor): what the device can do.
    cc: tuple[int, int]
    #: The device's number.
    ordinal: int
    #: Whether ``gemm`` is there: somebody asked for cuBLAS.
    has_gemm: bool

    @property
    def stream(self) -> int:
        """Handle of the stream in use; 0: the default one."""

    def empty(self, size: int, dtype: np.dtype[Any]) -> Flat:
        """A new array of so many numbers, which are anything."""

    def put(self, array: NDArray[Any]) -> Flat:
        """A new array with the numbers of an array of the host's, in C order; that may change afterwards."""

    def get(self, array: Flat) -> NDArray[Any]:
        """The numbers of an array, as a new array (size,) of the host's: waits for all that writes them."""

    def zero(self, array: Flat) -> None:
        """Set all bytes to 0."""

    def copy(self, into: Flat, source: Flat) -> None:
        """Copy as many numbers of the same dtype."""

    def address(self, array: Flat) -> int:
        """Where the first number stands."""

    def view(self, address: int, size: int, dtype: np.dtype[Any], owner: object) -> Flat:
        """Memory of somebody else as an array, which keeps ``owner`` alive."""

    def resident(self, kernel: Kernel) -> int:
        """How many blocks of a kernel can be there at the same time."""

    def launch(self, kernel: Kernel, grid: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
        """Run a kernel on so many blocks of its number of threads; one that is ``cooperative`` with all at once."""

    def gemm(
        self,
        a: Flat,
        b: Flat,
        c: Flat,
        sizes: tuple[int, int, int],
        strides: tuple[int, int, int],
        trans_a: bool,
        trans_b: bool,
        add: bool,
    ) -> None:
        """C = A B, or C + A B, by cuBLAS: sizes are M, N, K, and rows of A, B and C begin such strides apart."""

    def on(self, stream: Any) -> contextlib.AbstractContextManager[None]:
        """Within the block, use a stream: its handle, or None for the one in use."""

    def wait_for(self, stream: int) -> None:
        """Let the stream in use wait for all that another has been given so far; 1 is the default one, too."""
