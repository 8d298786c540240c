"""A pooling window in registers: what happens to the four vectors of a 2 x 2 window after the convolution.

The four convolution outputs of a window are four vectors (LANES filters each). ReLU and max-pooling need nothing else,
so their result is found while the vectors are still in registers, and only one of four numbers is ever written.
"""

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types

from tinyconv.kernels.cpu.registers.host import LANES
from tinyconv.kernels.cpu.registers.instructions import (
    FLOAT_VECTOR,
    constant,
    in_registers,
    multiply_add,
    pointer,
    store_first,
)
from tinyconv.kernels.cpu.registers.vector import FLOATS, vector_multiply_add

_BYTES = ir.VectorType(ir.IntType(8), LANES)


def relu_and_pool(corners):
    """ReLU and maximum of a window's four vectors, and which won: 0 to 3, the first of equals, or -1 where ReLU gave 0.

    A NaN stays visible; which position wins where there is one is not said.
    """
    best = np.max(corners, axis=0)
    dead = best <= 0
    return np.where(dead, np.float32(0), best), np.where(dead, -1, np.argmax(corners, axis=0))


def _relu_and_pool(builder, corners):
    """Its instructions: two semi-finals and a final. Comparing with a NaN is false, so NaNs are looked for apart."""
    a, b, c, d = corners
    zero = constant(FLOAT_VECTOR, 0.0)
    b_wins, d_wins = builder.fcmp_ordered(">", b, a), builder.fcmp_ordered(">", d, c)
    above, below = builder.select(b_wins, b, a), builder.select(d_wins, d, c)
    below_wins = builder.fcmp_ordered(">", below, above)
    best = builder.select(below_wins, below, above)
    winner = builder.select(
        below_wins,
        builder.select(d_wins, constant(_BYTES, 3), constant(_BYTES, 2)),
        builder.select(b_wins, constant(_BYTES, 1), constant(_BYTES, 0)),
    )
    has_nan = builder.or_(builder.fcmp_unordered("uno", a, b), builder.fcmp_unordered("uno", c, d))
    best = builder.select(has_nan, constant(FLOAT_VECTOR, float("nan")), best)
    dead = builder.fcmp_ordered("<=", best, zero)
    return builder.select(dead, zero, best), builder.select(dead, constant(_BYTES, -1), winner)


def _store_pooled(context, builder, corners, out, argmax, types_, offset, columns):
    """Write the pooled vector, and the winners unless ``argmax`` is empty; of both at most ``columns`` lanes."""
    best, winner = _relu_and_pool(builder, corners)
    out_type, argmax_type = types_
    place = builder.bitcast(pointer(context, builder, out_type, out, offset), FLOAT_VECTOR.as_pointer())
    wanted = context.make_array(argmax_type)(context, builder, argmax).nitems
    wanted = builder.icmp_signed(">", wanted, ir.Constant(wanted.type, 0))
    store_first(builder, [(best, place)], columns)
    with builder.if_then(wanted):
        store_first(builder, [(winner, pointer(context, builder, argmax_type, argmax, offset, _BYTES))], columns)


def window_corners(offsets, right, down):
    """From where windows begin to where their four pixels do: (o, o + right, o + down, o + down + right) for each o."""
    return tuple(start + step for start in offsets for step in (0, right, down, down + right))


@in_registers(window_corners)
def _(typing_context, offsets, right, down):
    result = types.UniTuple(types.intp, 4 * len(offsets))

    def write(context, builder, signature, arguments):
        starts, right, down = arguments
        corners = []
        for i in range(len(offsets)):
            start = builder.extract_value(starts, i)
            below = builder.add(start, down)
            corners += [start, builder.add(start, right), below, builder.add(below, right)]
        return context.make_tuple(builder, signature.return_type, corners)

    return result(offsets, types.intp, types.intp), write


def tile_store_pooled(tile, out, argmax, offsets, offset, columns):
    """Pool a tile whose rows are the pixels of windows, four by four, and write window i to ``offsets[i] + offset``."""
    for window, start in enumerate(offsets):
        place, count = start + offset, min(columns, tile.shape[1])
        best, winner = relu_and_pool(tile[4 * window : 4 * window + 4, :count])
        out.reshape(-1)[place : place + count] = best
        if argmax.size:
            argmax.reshape(-1)[place : place + count] = winner


@in_registers(tile_store_pooled)
def _(typing_context, tile, out, argmax, offsets, offset, columns):
    def write(context, builder, signature, arguments):
        value, out_, argmax_, starts, offset, columns = arguments
        for i in range(tile.rows // 4):
            start = builder.add(builder.extract_value(starts, i), offset)
            for j in range(tile.vectors):
                corners = [builder.extract_value(value, (4 * i + k) * tile.vectors + j) for k in range(4)]
                skip = ir.Constant(offset.type, j * LANES)
                left = builder.sub(columns, skip)
                with builder.if_then(builder.icmp_signed(">", left, ir.Constant(left.type, 0))):
                    place = builder.add(start, skip)
                    _store_pooled(context, builder, corners, out_, argmax_, (out, argmax), place, left)
        return context.get_dummy_value()

    starts = types.UniTuple(types.intp, tile.rows // 4)
    return types.void(tile, out, argmax, starts, types.intp, types.intp), write


def vectors_store_pooled(a, b, c, d, out, argmax, offset):
    """Pool the window whose pixels' vectors are a b / c d, and write it to ``offset``."""
    tile_store_pooled(np.array([a, b, c, d]), out, argmax, (0,), offset, LANES)


@in_registers(vectors_store_pooled)
def _(typing_context, a, b, c, d, out, argmax, offset):
    def write(context, builder, signature, arguments):
        corners, (out_, argmax_, offset) = arguments[:4], arguments[4:]
        whole = ir.Constant(offset.type, LANES)
        _store_pooled(context, builder, corners, out_, argmax_, (out, argmax), offset, whole)
        return context.get_dummy_value()

    return types.void(FLOATS, FLOATS, FLOATS, FLOATS, out, argmax, types.intp), write


def patch_load(image, offset, row_size):
    """4 x 4 pixels of one channel, in rows ``row_size`` apart, as one vector of 16 lanes."""
    return np.concatenate([image.reshape(-1)[offset + i * row_size :][:4] for i in range(4)])


@in_registers(patch_load)
def _(typing_context, image, offset, row_size):
    def write(context, builder, signature, arguments):
        place, offset, row_size = arguments
        four, index = ir.VectorType(ir.FloatType(), 4), ir.IntType(32)
        rows = []
        for _ in range(4):
            rows.append(builder.load(pointer(context, builder, image, place, offset, four), align=4))
            offset = builder.add(offset, row_size)
        eight = ir.Constant(ir.VectorType(index, 8), list(range(8)))
        upper, lower = (builder.shuffle_vector(rows[i], rows[i + 1], eight) for i in (0, 2))
        return builder.shuffle_vector(upper, lower, ir.Constant(ir.VectorType(index, 16), list(range(16))))

    return FLOATS(image, types.intp, types.intp), write


def tile_add_chosen(tile, patch, winner, gradient):
    """``tile[3 i + j] += gradient * patch[i + winner // 2, j + winner % 2]``, for a tile one vector wide: each lane
    picks the pixel that its winner saw at tap (i, j). (AVX-512 has an instruction for it.)"""
    seen = patch.reshape(4, 4)
    chosen = [seen[i + winner // 2, j + winner % 2] for i in range(3) for j in range(3)]
    return vector_multiply_add(gradient, np.array(chosen), tile)


@in_registers(tile_add_chosen)
def _(typing_context, tile, patch, winner, gradient):
    def write(context, builder, signature, arguments):
        value, pixels, position, factor = arguments
        integers = position.type
        permute = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(FLOAT_VECTOR, [FLOAT_VECTOR, integers]), "llvm.x86.avx512.permvar.sf.512"
        )
        # In a row of four pixels, the winners 0, 1, 2, 3 are the pixels 0, 1, 4, 5.
        first = builder.add(position, builder.and_(position, constant(integers, 2)))
        for tap in range(9):
            pixel = builder.add(first, constant(integers, tap // 3 * 4 + tap % 3))
            chosen = builder.call(permute, [pixels, pixel])
            row = multiply_add(builder, chosen, factor, builder.extract_value(value, tap))
            value = builder.insert_value(value, row, tap)
        return value

    return tile(tile, patch, winner, gradient), write
