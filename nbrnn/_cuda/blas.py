"""Products of matrices by NVIDIA's cuBLAS, through nvmath-python or CuPy: only where somebody asked for it.

cuBLAS chooses kernels by the sizes of the matrices.  So a sequence's bits depend on its batch, and on the version of
the library: what is installed must never decide by itself.
"""

from __future__ import annotations

import ctypes
import os
import threading
from typing import Any, Protocol

import numpy as np

#: The environment variable that asks for it.
VARIABLE = "NBRNN_CUBLAS"
_INSTALL = f"pip install 'nbrnn[cublas]' (for a driver of CUDA 12: 'nbrnn[cublas12]'), or unset {VARIABLE}"
#: Names and numbers of cublas_api.h.  The default mode computes with no fewer bits than float32 has; TF32 is another.
_NOT_TRANSPOSED, _TRANSPOSED = 0, 1
_POINTERS_OF_HOST, _DEFAULT_MATH = 0, 0
#: The default stream by a name of its own: CuPy may mean another by 0 (CUPY_CUDA_PTDS).
_LEGACY = 1


def wanted() -> bool:
    """Whether NBRNN_CUBLAS asks for cuBLAS.

    Raises
    ------
    ValueError
        It is neither 0 nor 1.
    """
    value = os.environ.get(VARIABLE, "")
    if value not in ("", "0", "1"):
        raise ValueError(f"{VARIABLE} must be 0 or 1, got {value!r}")
    return value == "1"


class Library(Protocol):
    """cuBLAS as a package offers it; a context is current.  Without the package or the library, making one raises."""

    #: What pip calls the package.
    package: str

    def create(self) -> int:
        """A new handle for the current context, with scalars on the host and without TF32."""

    def version(self, handle: int) -> int:
        """10000 times the major, 100 times the minor version, and the patch."""

    def gemm(self, stream: int, dtype: str, handle: int, *arguments: int) -> None:
        """On a stream, cublasSgemm or cublasDgemm, with their arguments from transa to ldc; pointers are addresses."""


class Nvmath:
    """By ``nvmath.bindings.cublas``."""

    package = "nvmath-python"

    def __init__(self) -> None:
        from nvmath.bindings import cublas

        self._cublas, self._gemm = cublas, {"float32": cublas.sgemm, "float64": cublas.dgemm}

    def create(self) -> int:
        """See ``Library``."""
        handle: int = self._cublas.create()
        self._cublas.set_pointer_mode(handle, _POINTERS_OF_HOST)
        self._cublas.set_math_mode(handle, _DEFAULT_MATH)
        return handle

    def version(self, handle: int) -> int:
        """See ``Library``."""
        return int(self._cublas.get_version(handle))

    def gemm(self, stream: int, dtype: str, handle: int, *arguments: int) -> None:
        """See ``Library``."""
        self._cublas.set_stream(handle, stream)
        self._gemm[dtype](handle, *arguments)


class CuPy:
    """By ``cupy_backends.cuda.libs.cublas``, which multiplies on CuPy's current stream, whatever setStream has said."""

    package = "CuPy"

    def __init__(self) -> None:
        import cupy

        # In this form, which lets CuPy look for the library; `import cupy_backends.cuda.libs.cublas` doesn't.
        from cupy_backends.cuda.libs import cublas

        self._stream, self._cublas = cupy.cuda.ExternalStream, cublas
        self._gemm = {"float32": cublas.sgemm, "float64": cublas.dgemm}

    def create(self) -> int:
        """See ``Library``."""
        handle: int = self._cublas.create()
        self._cublas.setPointerMode(handle, _POINTERS_OF_HOST)
        self._cublas.setMathMode(handle, _DEFAULT_MATH)
        return handle

    def version(self, handle: int) -> int:
        """See ``Library``."""
        return int(self._cublas.getVersion(handle))

    def gemm(self, stream: int, dtype: str, handle: int, *arguments: int) -> None:
        """See ``Library``."""
        with self._stream(stream or _LEGACY):
            self._gemm[dtype](handle, *arguments)


class Blas:
    """Products on one device; its context is current whenever something is asked.

    The handle lives as long as the process: to destroy it would wait for the device.

    Parameters
    ----------
    library : Library

    Attributes
    ----------
    about : str
        Which cuBLAS that is, and through which package.
    """

    def __init__(self, library: Library) -> None:
        self._library, self._handle, self._lock = library, library.create(), threading.Lock()
        # cuBLAS reads 1 and 0 where they stand here.
        self._scalars = {
            "float32": (ctypes.c_float(0), ctypes.c_float(1)),
            "float64": (ctypes.c_double(0), ctypes.c_double(1)),
        }
        version = library.version(self._handle)
        number = f"{version // 10000}.{version // 100 % 100}.{version % 100}"
        self.about = f"cuBLAS {number} through {library.package}"

    @classmethod
    def find(cls) -> Blas:
        """By the first package that is there with its library.

        Raises
        ------
        RuntimeError
            None is; the message says why, and what to do.
        """
        reasons = []
        kinds: tuple[type[Nvmath] | type[CuPy], ...] = (Nvmath, CuPy)
        for kind in kinds:
            try:
                return cls(kind())
            except Exception as error:  # each package has its own for a library or driver that isn't there
                reasons.append(f"{kind.package}: {error or type(error).__name__}")
        raise RuntimeError(f"{VARIABLE} asks for cuBLAS, which can't be used ({'; '.join(reasons)}): {_INSTALL}")

    def gemm(
        self,
        dtype: np.dtype[Any],
        trans_a: bool,
        trans_b: bool,
        M: int,
        N: int,
        K: int,
        a: int,
        lda: int,
        b: int,
        ldb: int,
        c: int,
        ldc: int,
        add: bool,
        stream: int,
    ) -> None:
        """C = A B, or C + A B with ``add``, on a stream; matrices are addresses.

        A is (M, K), or (K, M) if ``trans_a``; B is (K, N), or (N, K) if ``trans_b``; rows begin lda, ldb, ldc numbers
        apart, which are no fewer than a row has.
        """
        zero, one = map(ctypes.addressof, self._scalars[dtype.name])
        ops = (_NOT_TRANSPOSED, _TRANSPOSED)
        # cuBLAS counts column by column, so that what stands here row by row is transposed to it: C' = B' A'.
        arguments = (ops[trans_b], ops[trans_a], N, M, K, one, b, ldb, a, lda, one if add else zero, c, ldc)
        try:
            with self._lock:  # the stream is the handle's
                self._library.gemm(stream, dtype.name, self._handle, *arguments)
        except Exception as error:
            raise RuntimeError(f"{self.about}: {type(error).__name__}: {error} (sizes {M}, {N}, {K})") from error
