"""One vector register as a value: LANES numbers side by side, of which the register tile (``tile.py``) is made.

``+``, ``-``, ``*`` and comparisons act on all lanes at once; a comparison gives a vector of booleans, by which
``select`` chooses between two others, and which ``vector_bits`` turns into an integer.

To Numba a vector is a new type, which LLVM keeps in one register. To the NumPy twin of each function (see
``instructions.py``) it is an array of LANES numbers, and the operators are NumPy's own. Like NumPy's functions they
take arrays, and a place in an array is given as ``offset``: the number of elements before it in C order. Arrays must
be C-contiguous. There are no bounds tests.
"""

import operator

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import lower_builtin, models, register_model, type_callable

from tinyconv.kernels.cpu.registers.host import LANES
from tinyconv.kernels.cpu.registers.instructions import (
    INT32,
    fill,
    in_registers,
    lanes_below,
    load_masked,
    multiply_add,
    pointer,
    prefetch_line,
    store_first,
)


class Vector(types.Type):
    """LANES numbers of one kind: float32, int32, or booleans (what a comparison gives)."""

    def __init__(self, element):
        self.element = element
        super().__init__(f"Vector({element})")


_LLVM = {types.float32: ir.FloatType(), types.int32: INT32, types.boolean: ir.IntType(1)}
FLOATS, INTS, BOOLEANS = Vector(types.float32), Vector(types.int32), Vector(types.boolean)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, type_):
        super().__init__(manager, type_, ir.VectorType(_LLVM[type_.element], LANES))


def vector_fill(value):
    """A vector with ``value`` in every lane: float32 of a float, int32 of an integer."""
    return np.full(LANES, value, np.float32 if isinstance(value, np.floating) else np.int32)


@in_registers(vector_fill)
def _(typing_context, value):
    kind = FLOATS if isinstance(value, types.Float) else INTS

    def write(context, builder, signature, arguments):
        return fill(builder, arguments[0])

    return kind(kind.element), write


def vector_load(array, offset):
    """The LANES float32 numbers from ``offset`` on; integers, which may be int8, become an int32 vector."""
    return array.reshape(-1)[offset : offset + LANES].astype(np.float32 if array.dtype == np.float32 else np.int32)


@in_registers(vector_load)
def _(typing_context, array, offset):
    kind = FLOATS if array.dtype == types.float32 else INTS

    def write(context, builder, signature, arguments):
        llvm_type = ir.VectorType(context.get_value_type(array.dtype), LANES)
        place, offset = arguments
        first = pointer(context, builder, array, place, offset, llvm_type)
        return _widened(builder, builder.load(first, align=array.dtype.bitwidth // 8))

    return kind(array, types.intp), write


def vector_load_first(array, offset, count):
    """The first ``count`` of them, and zeros for the others, whose memory is not touched."""
    vector = np.zeros(LANES, np.float32 if array.dtype == np.float32 else np.int32)
    vector[: max(0, count)] = array.reshape(-1)[offset : offset + max(0, min(count, LANES))]
    return vector


@in_registers(vector_load_first)
def _(typing_context, array, offset, count):
    kind = FLOATS if array.dtype == types.float32 else INTS

    def write(context, builder, signature, arguments):
        place, offset, count = arguments
        llvm_type = ir.VectorType(context.get_value_type(array.dtype), LANES)
        first = pointer(context, builder, array, place, offset, llvm_type)
        return _widened(builder, load_masked(builder, first, lanes_below(builder, count), llvm_type))

    return kind(array, types.intp, types.intp), write


def _widened(builder, vector):
    """A vector as it is, or int8 as int32."""
    return builder.sext(vector, ir.VectorType(INT32, LANES)) if vector.type.element == ir.IntType(8) else vector


def _narrowed(context, builder, vector, array):
    """A vector as it is, or int32 as the int8 that the array has."""
    llvm_type = ir.VectorType(context.get_value_type(array.dtype), LANES)
    return vector if vector.type == llvm_type else builder.trunc(vector, llvm_type)


def vector_store(vector, array, offset):
    """Write the vector from ``offset`` on; an int32 vector into an int8 array keeps each lane's low byte."""
    array.reshape(-1)[offset : offset + LANES] = vector


@in_registers(vector_store)
def _(typing_context, vector, array, offset):
    def write(context, builder, signature, arguments):
        value, place, offset = arguments
        value = _narrowed(context, builder, value, array)
        first = pointer(context, builder, array, place, offset, value.type)
        builder.store(value, first, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(vector, array, types.intp), write


def vector_store_first(vector, array, offset, count):
    """Write the first ``count`` of the lanes from ``offset`` on, as :func:`vector_store` does; the memory behind
    them is not touched."""
    count = max(0, min(count, LANES))
    array.reshape(-1)[offset : offset + count] = vector[:count]


@in_registers(vector_store_first)
def _(typing_context, vector, array, offset, count):
    def write(context, builder, signature, arguments):
        value, place, offset, count = arguments
        value = _narrowed(context, builder, value, array)
        first = pointer(context, builder, array, place, offset, value.type)
        store_first(builder, [(value, first)], count)
        return context.get_dummy_value()

    return types.void(vector, array, types.intp, types.intp), write


def vector_multiply_add(a, b, c):
    """a * b + c, rounded once."""
    return (np.float64(a) * b + c).astype(np.float32)


@in_registers(vector_multiply_add)
def _(typing_context, a, b, c):
    def write(context, builder, signature, arguments):
        return multiply_add(builder, *arguments)

    return FLOATS(FLOATS, FLOATS, FLOATS), write


def select(condition, a, b):
    """a where the boolean vector ``condition`` is true, else b, lane by lane."""
    return np.where(condition, a, b)


@in_registers(select)
def _(typing_context, condition, a, b):
    def write(context, builder, signature, arguments):
        return builder.select(*arguments)

    return a(BOOLEANS, a, a), write


def vector_bits(condition):
    """The boolean vector as one integer whose bit number i is lane i.

    With ``trailing_zeros`` this walks the lanes that are true, without a branch for those that are not::

        while bits:
            lane = trailing_zeros(bits)
            ...
            bits &= bits - 1  # clears the lowest bit that is set
    """
    return sum(1 << int(lane) for lane in np.flatnonzero(condition))


@in_registers(vector_bits)
def _(typing_context, condition):
    def write(context, builder, signature, arguments):
        return builder.zext(builder.bitcast(arguments[0], ir.IntType(LANES)), ir.IntType(64))

    return types.int64(BOOLEANS), write


def trailing_zeros(bits):
    """The position of the lowest bit that is set in an integer other than 0."""
    return (bits & -bits).bit_length() - 1


@in_registers(trailing_zeros)
def _(typing_context, bits):
    def write(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), write


def prefetch(array, offset):
    """Ask for the cache line of an element to be brought to the L2 cache meanwhile. Nothing is computed, and the
    element need not exist."""


@in_registers(prefetch)
def _(typing_context, array, offset):
    def write(context, builder, signature, arguments):
        prefetch_line(builder, pointer(context, builder, array, *arguments), writing=False)
        return context.get_dummy_value()

    return types.void(array, types.intp), write


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
_operator(operator.truediv, FLOATS, FLOATS, ir.IRBuilder.fdiv)
_operator(operator.gt, FLOATS, BOOLEANS, lambda builder, a, b: builder.fcmp_ordered(">", a, b))
_operator(operator.lt, FLOATS, BOOLEANS, lambda builder, a, b: builder.fcmp_ordered("<", a, b))
_operator(operator.le, FLOATS, BOOLEANS, lambda builder, a, b: builder.fcmp_ordered("<=", a, b))
_operator(operator.ne, FLOATS, BOOLEANS, lambda builder, a, b: builder.fcmp_unordered("!=", a, b))  # NaN != NaN
_operator(operator.eq, INTS, BOOLEANS, lambda builder, a, b: builder.icmp_signed("==", a, b))
_operator(operator.and_, BOOLEANS, BOOLEANS, ir.IRBuilder.and_)
_operator(operator.or_, BOOLEANS, BOOLEANS, ir.IRBuilder.or_)
