"""The kernel that brings parameters to where other kernels read them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import primitives

#: Threads of a block.
THREADS = 128
#: In place of a number's place: there is none.
NOWHERE = -1


def gather(dtype: np.dtype[Any]) -> Callable[..., None]:
    """The kernel for ``out[i] = source[first[i]]``, or 0 where that is ``NOWHERE``.

    To numbers from ``begin`` on, ``source[second[i - begin]]`` is added.
    """
    from numba import cuda

    read, write, zero = primitives.read(), primitives.write(), dtype.type(0)

    def kernel(source, first, second, begin, count, out):
        i = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if i < count:
            at = read(first, i)
            value = read(source, at) if at != NOWHERE else zero
            if i >= begin:
                at = read(second, i - begin)
                if at != NOWHERE:
                    value += read(source, at)
            write(out, i, value)

    return kernel
