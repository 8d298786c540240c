"""Small arrays that live on the stack of the running thread: scratch that costs nothing to get and is never shared."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


def _stack_array(typingctx, size, dtype):
    """An array of ``size`` (a constant) uninitialised elements: ``stack_array(16, np.float32)``.

    It is valid until the function returns. All passes through one line of a function get the same memory.
    """
    array_type = types.Array(dtype.dtype, 1, "C")
    length = size.literal_value

    def codegen(context, builder, signature, arguments):
        from numba.np.arrayobj import make_array, populate_array  # slow to import, and loaded by any compilation anyway

        memory = cgutils.alloca_once(builder, ir.ArrayType(context.get_data_type(dtype.dtype), length))
        memory.align = 64
        bytes_each = context.get_abi_sizeof(context.get_data_type(dtype.dtype))
        array = make_array(array_type)(context, builder)
        shape, strides, itemsize = (context.get_constant(types.intp, n) for n in (length, bytes_each, bytes_each))
        data = builder.bitcast(memory, array.data.type)
        populate_array(array, data, shape=[shape], strides=[strides], itemsize=itemsize, meminfo=None)
        return array._getvalue()

    return array_type(size, dtype), codegen


stack_array: Any = intrinsic(prefer_literal=True)(_stack_array)
