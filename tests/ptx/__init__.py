"""An emulator of PTX, in which CUDA kernels are tested on machines without a GPU: see README.md."""

from tests.ptx.call import Input, Output, launch
from tests.ptx.errors import Fault, PtxError
from tests.ptx.kept import Kept
from tests.ptx.machine import Launch
from tests.ptx.parse import Module, parse
from tests.ptx.program import Checks

__all__ = ["Checks", "Fault", "Input", "Kept", "Launch", "Module", "Output", "PtxError", "launch", "parse"]
