"""The emitter of vector code."""

import llvmlite.binding
import pytest
from llvmlite import ir
from numba import types

from nbrnn._cpu import isa
from nbrnn._cpu.emit import Emit


@pytest.mark.parametrize("dtype", [types.float32, types.float64])
@pytest.mark.parametrize("lanes", [isa.V512, isa.V256, isa.V128, isa.Scalar])
def test_wide_vectors_lie_on_the_stack_within_a_cache_line(lanes, dtype):
    """As LLVM reads what is said of a function: where a vector is wider than what a stack is aligned to anyway."""
    module = ir.Module()
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), []), "f")
    builder = ir.IRBuilder(function.append_basic_block())
    Emit(builder, dtype, lanes)
    builder.ret_void()
    assert ("alignstack=64" in str(llvmlite.binding.parse_assembly(str(module)))) == (lanes in (isa.V512, isa.V256))
