"""One vector register as a value: LANES numbers side by side, of which the register tile (``tile.py``) is made.

``+``, ``-``, ``*`` and comparisons act on all lanes at once; a comparison gives a vector of booleans, by which
``select`` chooses between two others, and which ``vector_bits`` turns into an integer.
"""

import operator

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, lower_builtin, type_callable

from tinyconv.kernels.cpu.registers.tile import (
    _FLOATS,
    _INT32,
    BOOLEANS,
    FLOATS,
    INTS,
    LANES,
    _fill,
    _lanes_below,
    _multiply_add,
    _pointer,
)


@intrinsic(prefer_literal=True)
def vector_fill(typing_context, value):
    """A vector with ``value`` in every lane: float32 of a float, int32 of an integer."""
    kind = FLOATS if isinstance(value, types.Float) else INTS

    def write(context, builder, signature, arguments):
        return _fill(builder, arguments[0])

    return kind(kind.element), write


@intrinsic(prefer_literal=True)
def vector_load(typing_context, array, offset):
    """The LANES float32 numbers from ``offset`` on; integers, which may be int8, become an int32 vector."""
    kind = FLOATS if array.dtype == types.float32 else INTS

    def write(context, builder, signature, arguments):
        llvm_type = ir.VectorType(context.get_value_type(array.dtype), LANES)
        place, offset = arguments
        pointer = _pointer(context, builder, array, place, offset, llvm_type)
        vector = builder.load(pointer, align=array.dtype.bitwidth // 8)
        return builder.sext(vector, ir.VectorType(_INT32, LANES)) if array.dtype.bitwidth < 32 else vector

    return kind(array, types.intp), write


@intrinsic(prefer_literal=True)
def vector_load_first(typing_context, array, offset, count):
    """The first ``count`` of the LANES float32 numbers from ``offset`` on, and zeros for the others, whose memory is
    not touched."""

    def write(context, builder, signature, arguments):
        place, offset, count = arguments
        pointer, mask = _pointer(context, builder, array, place, offset, _FLOATS), _lanes_below(builder, count)
        kind = ir.FunctionType(_FLOATS, [pointer.type, _INT32, mask.type, _FLOATS])
        load = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.load.v{LANES}f32.p0")
        return builder.call(load, [pointer, _INT32(4), mask, ir.Constant(_FLOATS, None)])

    return FLOATS(array, types.intp, types.intp), write


@intrinsic(prefer_literal=True)
def vector_store(typing_context, vector, array, offset):
    """Write the vector from ``offset`` on; an int32 vector into an int8 array keeps each lane's low byte."""

    def write(context, builder, signature, arguments):
        value, place, offset = arguments
        llvm_type = ir.VectorType(context.get_value_type(array.dtype), LANES)
        if llvm_type != value.type:
            value = builder.trunc(value, llvm_type)
        pointer = _pointer(context, builder, array, place, offset, llvm_type)
        builder.store(value, pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(vector, array, types.intp), write


@intrinsic
def vector_multiply_add(typing_context, a, b, c):
    """a * b + c, rounded once."""

    def write(context, builder, signature, arguments):
        return _multiply_add(builder, *arguments)

    return FLOATS(FLOATS, FLOATS, FLOATS), write


@intrinsic
def select(typing_context, condition, a, b):
    """a where the boolean vector ``condition`` is true, else b, lane by lane."""

    def write(context, builder, signature, arguments):
        return builder.select(*arguments)

    return a(BOOLEANS, a, a), write


@intrinsic
def vector_bits(typing_context, condition):
    """The boolean vector as one integer whose bit number i is lane i.

    With ``trailing_zeros`` this walks the lanes that are true, without a branch for those that are not::

        while bits:
            lane = trailing_zeros(bits)
            ...
            bits &= bits - 1  # clears the lowest bit that is set
    """

    def write(context, builder, signature, arguments):
        return builder.zext(builder.bitcast(arguments[0], ir.IntType(LANES)), ir.IntType(64))

    return types.int64(BOOLEANS), write


@intrinsic(prefer_literal=False)
def trailing_zeros(typing_context, bits):
    """The position of the lowest bit that is set in an integer other than 0."""

    def write(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), write


def _operator(symbol, operand, result, instruction):
    """Let ``symbol`` of two ``operand`` vectors write ``instruction(builder, a, b)``, which gives a ``result``."""

    @type_callable(symbol)
    def typed(context):
        return lambda a, b: result if a == operand and b == operand else None

    @lower_builtin(symbol, operand, operand)
    def write(context, builder, signature, arguments):
        return instruction(builder, *arguments)


_operator(operator.add, FLOATS, FLOATS, ir.IRBuilder.fadd)
_operator(operator.sub, FLOATS, FLOATS, ir.IRBuilder.fsub)
_operator(operator.mul, FLOATS, FLOATS, ir.IRBuilder.fmul)
_operator(operator.gt, FLOATS, BOOLEANS, lambda builder, a, b: builder.fcmp_ordered(">", a, b))
_operator(operator.lt, FLOATS, BOOLEANS, lambda builder, a, b: builder.fcmp_ordered("<", a, b))
_operator(operator.le, FLOATS, BOOLEANS, lambda builder, a, b: builder.fcmp_ordered("<=", a, b))
_operator(operator.ne, FLOATS, BOOLEANS, lambda builder, a, b: builder.fcmp_unordered("!=", a, b))  # NaN != NaN
_operator(operator.eq, INTS, BOOLEANS, lambda builder, a, b: builder.icmp_signed("==", a, b))
_operator(operator.and_, BOOLEANS, BOOLEANS, ir.IRBuilder.and_)
_operator(operator.or_, BOOLEANS, BOOLEANS, ir.IRBuilder.or_)
