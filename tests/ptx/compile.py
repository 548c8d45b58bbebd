"""Compilation of numba-cuda kernels for a named device, where there is no device and no driver.

numba-cuda asks for the current device while it compiles a device function that a kernel calls.  Within `device` it is
told one.  All names of that function in numba-cuda's modules are replaced, not only the one that is used today.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

#: Compute capabilities that kernels are compiled for: A100, H100, B200.
CAPABILITIES = ((8, 0), (9, 0), (10, 0))


@contextlib.contextmanager
def device(cc: tuple[int, int]) -> Iterator[None]:
    """Within this block numba-cuda takes the current device to have a compute capability."""
    import numba.cuda.dispatcher  # noqa: F401 (one of those that ask)
    from numba.cuda.cudadrv import devices

    fake = SimpleNamespace(
        compute_capability=cc, MAX_GRID_DIM_X=2**31 - 1, MAX_THREADS_PER_BLOCK=1024, name=b"none", id=0
    )
    asks = devices.get_current_device if hasattr(devices, "get_current_device") else None
    with contextlib.ExitStack() as stack:
        for name, module in list(sys.modules.items()):
            if name.startswith(("numba.cuda", "numba_cuda")) and module is not None:
                found = module.__dict__.get("get_current_device")
                if callable(found) and (asks is None or found is asks or name.endswith("dispatcher")):
                    stack.enter_context(mock.patch.object(module, "get_current_device", return_value=fake))
        yield


def compile_ptx(
    f: Callable[..., Any],
    signature: Any,
    cc: tuple[int, int] = (9, 0),
    *,
    fastmath: bool = False,
    lto: bool = False,
    **options: Any,
) -> str:
    """PTX of a kernel.

    Parameters
    ----------
    f : function
        As one writes it under `@cuda.jit`, but without that.
    signature : tuple
        Numba types of the arguments.
    cc : tuple of int
        Compute capability.
    fastmath : bool
    lto : bool
        Whether to optimise at link time, as `@cuda.jit` does where nvJitLink is installed.
    **options
        Of `numba.cuda.compile`, such as launch_bounds.
    """
    from numba import cuda

    with device(cc):
        output = "ltoir" if lto else "ptx"
        code, _ = cuda.compile(
            f, signature, device=False, abi="numba", cc=cc, fastmath=fastmath, output=output, **options
        )
    if lto:
        code = _linked(code, cc, "ptx")
    return code.decode().rstrip("\0") if isinstance(code, bytes) else code


def _linked(code: bytes, cc: tuple[int, int], what: str) -> bytes:
    """What nvJitLink makes of LTO code: "ptx" or "cubin"."""
    from cuda.core import Linker, LinkerOptions, ObjectCode  # type: ignore[import-untyped,unused-ignore]

    options = LinkerOptions(arch=f"sm_{cc[0]}{cc[1]}", link_time_optimization=True, ptx=what == "ptx")
    linker = Linker(ObjectCode.from_ltoir(code), options=options)
    return bytes(linker.link(what).code)


def has_numba_cuda() -> bool:
    """Whether numba-cuda and its compiler are installed, with a NumPy that it can use."""
    if not hasattr(np, "row_stack"):
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of NumPy 2.5, about what numba-cuda does
            import numba.cuda
            from numba.cuda.cudadrv import nvvm
    except ImportError:
        return False
    if "numba_cuda" not in sys.modules and "numba_cuda" not in str(getattr(numba.cuda, "__file__", "")):
        return False
    try:
        nvvm.NVVM()
    except Exception:
        return False
    return True


def tool(name: str) -> str | None:
    """Path of ptxas, nvdisasm or cuobjdump: of a pip package, or of the system."""
    for folder in sys.path:
        for found in sorted(Path(folder).glob(f"nvidia/cu*/bin/{name}")) if folder else ():
            return str(found)
    return shutil.which(name)


@dataclass(frozen=True)
class Resources:
    """What ptxas says of a kernel: registers of a thread, bytes of shared memory of a block, and of spills and stack."""

    registers: int
    shared: int
    stack: int
    spill_stores: int
    spill_loads: int
    barriers: int
    cubin: bytes


def assemble(ptx: str, cc: tuple[int, int] | None = None, *options: str) -> Resources:
    """Run ptxas on PTX; for its own target unless another is named.

    Raises
    ------
    RuntimeError
        With what ptxas complains of.
    """
    ptxas = tool("ptxas")
    if ptxas is None:
        raise RuntimeError("no ptxas: pip install cuda-toolkit[nvcc]")
    target = f"sm_{cc[0]}{cc[1]}" if cc else re.search(r"^\.target\s+(\w+)", ptx, re.M)[1]  # type: ignore[index]
    with tempfile.TemporaryDirectory() as folder:
        source, binary = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        source.write_text(ptx)
        command = [ptxas, "-v", f"-arch={target}", *options, "-o", str(binary), str(source)]
        done = subprocess.run(command, capture_output=True, text=True)
        said = done.stderr + done.stdout
        if done.returncode:
            raise RuntimeError(said)
        cubin = binary.read_bytes()

    def number(pattern: str) -> int:
        return max((int(n) for n in re.findall(pattern, said)), default=0)

    return Resources(
        registers=number(r"Used (\d+) registers"),
        shared=number(r"(\d+) bytes smem"),
        stack=number(r"(\d+) bytes stack frame"),
        spill_stores=number(r"(\d+) bytes spill stores"),
        spill_loads=number(r"(\d+) bytes spill loads"),
        barriers=number(r"used (\d+) barriers"),
        cubin=cubin,
    )


def machine_instructions(cubin: bytes) -> Counter[str]:
    """How often each machine instruction stands in a binary, by opcode with its modifiers.

    Raises
    ------
    RuntimeError
        nvdisasm isn't there (pip install nvidia-cuda-nvdisasm), or fails.
    """
    nvdisasm = tool("nvdisasm")
    if nvdisasm is None:
        raise RuntimeError("no nvdisasm: pip install nvidia-cuda-nvdisasm")
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder, "kernel.cubin")
        binary.write_bytes(cubin)
        done = subprocess.run([nvdisasm, "-c", str(binary)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    lines = re.findall(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", done.stdout, re.M)
    return Counter(lines)
