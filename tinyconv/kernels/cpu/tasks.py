"""One parallel loop for all kernels that work in tasks.

Numba compiles whatever the body of a ``prange`` calls four times over, once for each wrapper around it; for a large
kernel that is seconds. So the loop is here, compiled once, and a kernel is a serial function of the number of its task
that the loop calls by its address.

Every kernel takes the same arguments: ``(task, a, b, c, work, numbers)``, three float32 arrays (the third may be int8)
and the layer's work, all flat, and an int64 array of whatever else it must know.
"""

import functools

import numba
import numpy as np
from numba import prange, types
from numba.extending import intrinsic

from tinyconv.kernels.cpu.jit import jit

_FLOATS, _INTEGERS = types.Array(types.float32, 1, "C"), types.Array(types.int64, 1, "C")


def _signature(c):
    """That of a kernel whose third array has type ``c``."""
    return types.void(types.int64, _FLOATS, _FLOATS, c, _FLOATS, _INTEGERS)


_SIGNATURES = {char: _signature(types.Array(kind, 1, "C")) for char, kind in (("f", types.float32), ("b", types.int8))}

helper = functools.partial(jit, no_cpython_wrapper=True, no_cfunc_wrapper=True)  # never called from Python
kernel = helper


def run(function, tasks: int, a, b, c, work, numbers) -> None:
    """Call ``function(task, a, b, c, work, numbers)``, a kernel, for each task in 0 .. tasks - 1, in parallel."""
    _run(_address(function, c.dtype.char), tasks, a.reshape(-1), b.reshape(-1), c.reshape(-1), work, numbers)


@functools.cache
def _address(function, char) -> int:
    """Where a kernel's machine code is; compiles it, or finds it in the cache."""
    signature = _SIGNATURES[char]
    numba.get_num_threads()  # starts the threads, whose number a kernel may ask for
    function.compile(signature)
    compiled = function.overloads[signature.args]
    return compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)


@intrinsic
def _call(typing_context, address, task, a, b, c, work, numbers):
    """Call the function at that address."""
    callee = _signature(c).args

    def write(context, builder, signature, arguments):
        function_type = context.call_conv.get_function_type(types.void, callee)
        function = builder.inttoptr(arguments[0], function_type.as_pointer())
        status, _ = context.call_conv.call_function(builder, function, types.void, callee, arguments[1:])
        with builder.if_then(status.is_error):
            context.call_conv.return_status_propagate(builder, status)
        return context.get_dummy_value()

    return types.void(types.intp, *callee), write


@jit(parallel=True)
def _run(address, tasks, a, b, c, work, numbers):
    if tasks == 1:
        _call(address, 0, a, b, c, work, numbers)  # and wake no other thread
    else:
        for index in prange(tasks):
            _call(address, np.int64(index), a, b, c, work, numbers)  # Numba takes the index for unsigned
