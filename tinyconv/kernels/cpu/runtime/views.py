"""Memory seen in other ways than as the arrays of the caller: small arrays on the stack of the running thread, scratch
that costs nothing to get and is never shared; and the same memory as numbers of another type."""

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


@intrinsic
def same_memory(typing_context, array, dtype):
    """A 1-D array's memory as numbers of another type: ``array.view(dtype)``, but quick to compile."""
    array_type, width = types.Array(dtype.dtype, 1, "C"), dtype.dtype.bitwidth // 8

    def write(context, builder, signature, arguments):
        from numba.np.arrayobj import make_array, populate_array

        given = context.make_array(array)(context, builder, arguments[0])
        seen = make_array(array_type)(context, builder)
        data, size = builder.bitcast(given.data, seen.data.type), context.get_constant(types.intp, width)
        length = builder.sdiv(builder.mul(given.nitems, given.itemsize), size)
        populate_array(seen, data, shape=[length], strides=[size], itemsize=size, meminfo=given.meminfo)
        return seen._getvalue()

    return array_type(array, dtype), write
