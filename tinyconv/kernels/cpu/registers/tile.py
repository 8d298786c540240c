"""The register tile: the one inner loop under every convolution and every dense layer.

A matrix product adds up *outer products*: for each k, a column of R numbers of x times a row of numbers of w, added to
a block of R rows of the result::

    tile[i, :] += x[i, k] * w[k, :]                  for i in 0 .. R-1

Written as plain loops, this reads two numbers from memory for each multiplication, and memory is where the time goes.
The cure is to keep the whole block, the *tile*, in the processor's registers while k runs. A vector register holds
LANES numbers, so the tile is R x V registers: R rows (samples or pixels), V * LANES columns (units or filters). One
step of k then loads V vectors of w and R single numbers of x, and does R * V fused multiply-adds of LANES numbers
each: with R = 8, V = 2 and 16 lanes that is 10 loads for 256 multiply-adds, and the processor, which can do one such
multiply-add and two loads in a cycle, is busy multiplying. The tile is written to memory once, at the end.

A compiler does not find this by itself, so ``vector.py`` and this file hand Numba two new types:

* a ``Vector``: one register, LANES numbers side by side. ``+``, ``*``, ``>`` act on all of them at once;
* a ``Tile``: R x V of them, as one value. LLVM, the compiler under Numba, sees an array of vectors whose every index
  is a constant, and gives each one a register.

To the NumPy twin of each function (see ``instructions.py``) a tile is an array (R, V * LANES). R and V must be
constants; for the rest the rules of ``vector.py`` hold.

A tile must be large enough that there are more multiply-adds than loads, and that enough of them are independent of
each other: each takes four cycles, and the next of the same vector must wait for it (see ``tile_shape``). The order in
which a number of the result is added up is the order of k, whatever the shape of the tile; so the result has the same
bits for every shape.

Source: Goto and van de Geijn, "Anatomy of high-performance matrix multiplication" (2008); Georganas et al., "Anatomy
of high-performance deep learning convolutions on SIMD architectures" (2018).
"""

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import models, register_model

from tinyconv.kernels.cpu.registers.host import LANES, REGISTERS
from tinyconv.kernels.cpu.registers.instructions import (
    FLOAT_VECTOR,
    INT32,
    fill,
    in_registers,
    multiply_add,
    pointer,
    prefetch_line,
    store_first,
)
from tinyconv.kernels.cpu.registers.vector import vector_multiply_add


def tile_shape(columns: int) -> tuple[int, int]:
    """The R and V of the tile for a result of so many columns.

    V is the one that leaves fewest vectors empty, R what the registers then allow beside V vectors of w and one of x,
    but at most 8: the addresses of the rows need registers too, and a small R leaves few rows empty at the end of an
    image.
    """
    vectors = -(-columns // LANES)
    V = min((2, 3, 1), key=lambda V: -(-vectors // V) * V)
    return min(8, (REGISTERS - 1) // V - 1), V


def window_tile(numbers: int, columns: int) -> tuple[int, int]:
    """The R and V of the tile for a filter's gradient: so many ``numbers`` of a window times so many columns.

    A window has few numbers, 9 or 27 in a first layer, so R is what cuts them evenly: at most 9, or what fits.
    """
    V = tile_shape(columns)[1]
    most = min(9, (REGISTERS - 1) // V - 1)
    return -(-numbers // -(-numbers // most)), V


class Tile(types.Type):
    """R rows of V float32 vectors."""

    def __init__(self, rows, vectors):
        self.rows, self.vectors = rows, vectors
        super().__init__(f"Tile({rows}, {vectors})")

    def places(self):
        """(row, vector, position in the LLVM array) of each register."""
        return [(i, j, i * self.vectors + j) for i in range(self.rows) for j in range(self.vectors)]


@register_model(Tile)
class _TileModel(models.PrimitiveModel):
    def __init__(self, manager, type_):
        super().__init__(manager, type_, ir.ArrayType(FLOAT_VECTOR, type_.rows * type_.vectors))


def _floats_at(builder, pointer, j, stride=None, i=0):
    """The address of vector j in row i of float32 rows that start at ``pointer`` and lie ``stride`` apart."""
    if i:
        pointer = builder.gep(pointer, [builder.mul(stride, ir.Constant(stride.type, i))])
    if j:
        pointer = builder.gep(pointer, [ir.Constant(ir.IntType(64), j * LANES)])
    return builder.bitcast(pointer, FLOAT_VECTOR.as_pointer())


def _build(builder, tile_type, vector_at):
    """A tile whose vector (i, j) is ``vector_at(i, j, position)``."""
    tile = ir.Constant(ir.ArrayType(FLOAT_VECTOR, tile_type.rows * tile_type.vectors), ir.Undefined)
    for i, j, position in tile_type.places():
        tile = builder.insert_value(tile, vector_at(i, j, position), position)
    return tile


def tile_zeros(R, V):
    """A tile of zeros."""
    return np.zeros((R, V * LANES), np.float32)


@in_registers(tile_zeros)
def _(typing_context, R, V):
    tile_type = Tile(R.literal_value, V.literal_value)

    def write(context, builder, signature, arguments):
        return _build(builder, tile_type, lambda i, j, position: ir.Constant(FLOAT_VECTOR, None))

    return tile_type(R, V), write


def stay_apart():
    """Forbid LLVM to inline the function that calls this: an inner loop that has all registers to itself."""


@in_registers(stay_apart)
def _(typing_context):
    def write(context, builder, signature, arguments):
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), write


def tile_load(array, offset, stride, R, V):
    """The tile whose row i is the V vectors at ``offset + i * stride``. With stride 0 all rows are the same."""
    rows = [array.reshape(-1)[offset + i * stride :][: V * LANES] for i in range(R)]
    return np.array(rows, np.float32)


@in_registers(tile_load)
def _(typing_context, array, offset, stride, R, V):
    tile_type = Tile(R.literal_value, V.literal_value)

    def write(context, builder, signature, arguments):
        first, stride = pointer(context, builder, array, *arguments[:2]), arguments[2]
        return _build(
            builder,
            tile_type,
            lambda i, j, position: builder.load(_floats_at(builder, first, j, stride, i), align=4),
        )

    return tile_type(array, types.intp, types.intp, R, V), write


def tile_store(tile, array, offset, stride):
    """Write row i of the tile to ``offset + i * stride``."""
    for i, row in enumerate(tile):
        array.reshape(-1)[offset + i * stride :][: row.size] = row


@in_registers(tile_store)
def _(typing_context, tile, array, offset, stride):
    def write(context, builder, signature, arguments):
        first, stride = pointer(context, builder, array, *arguments[1:3]), arguments[3]
        for i, j, position in tile.places():
            vector = builder.extract_value(arguments[0], position)
            builder.store(vector, _floats_at(builder, first, j, stride, i), align=4)
        return context.get_dummy_value()

    return types.void(tile, array, types.intp, types.intp), write


def tile_store_at(tile, array, offsets, offset, columns):
    """Write the first ``columns`` numbers of row i to ``offsets[i] + offset``: rows that begin anywhere, and may be
    narrower than the tile."""
    for row, start in zip(tile, offsets, strict=True):
        array.reshape(-1)[start + offset :][: max(0, columns)][: row.size] = row[: max(0, columns)]


@in_registers(tile_store_at)
def _(typing_context, tile, array, offsets, offset, columns):
    def write(context, builder, signature, arguments):
        value, place, starts, offset, columns = arguments
        here = pointer(context, builder, array, place, offset)
        rows = [builder.gep(here, [builder.extract_value(starts, i)]) for i in range(tile.rows)]
        for j in range(tile.vectors):
            stores = [
                (builder.extract_value(value, position), _floats_at(builder, rows[i], j))
                for i, column, position in tile.places()
                if column == j
            ]
            store_first(builder, stores, builder.sub(columns, ir.Constant(columns.type, j * LANES)))
        return context.get_dummy_value()

    return types.void(tile, array, types.UniTuple(types.intp, tile.rows), types.intp, types.intp), write


def tile_prefetch_at(array, offsets, offset, V):
    """Ask for the memory that ``tile_store_at`` will write a tile of V vectors to: a line that is not in the cache is
    first read, even if all of it is overwritten."""


@in_registers(tile_prefetch_at)
def _(typing_context, array, offsets, offset, V):
    def write(context, builder, signature, arguments):
        place, starts, offset, _ = arguments
        here = pointer(context, builder, array, place, offset)
        for i in range(len(offsets)):
            row = builder.gep(here, [builder.extract_value(starts, i)])
            for j in range(V.literal_value):
                prefetch_line(builder, _floats_at(builder, row, j), writing=True)
        return context.get_dummy_value()

    return types.void(array, offsets, types.intp, V), write


def tile_multiply_add(tile, x, offsets, k, w, w_offset):
    """``tile[i, :] += x[offsets[i] + k] * w[w_offset : w_offset + V * LANES]``: rows of x that begin anywhere."""
    numbers = x.reshape(-1)[np.add(offsets, k)]
    weights = w.reshape(-1)[w_offset : w_offset + tile.shape[1]]
    return vector_multiply_add(numbers[:, np.newaxis], weights, tile)


@in_registers(tile_multiply_add)
def _(typing_context, tile, x, offsets, k, w, w_offset):
    R = _rows_of(tile, offsets)

    def write(context, builder, signature, arguments):
        value, image, starts, k, weights, w_offset = arguments
        here = pointer(context, builder, x, image, k)
        numbers = (builder.load(builder.gep(here, [builder.extract_value(starts, i)])) for i in range(R))
        return _outer_product(builder, tile, value, numbers, pointer(context, builder, w, weights, w_offset))

    return tile(tile, x, types.UniTuple(types.intp, R), types.intp, w, types.intp), write


def tile_add_products(tile, x, offsets, start, step, w, w_offset, count):
    """The inner loop itself: ``count`` outer products::

        for k in range(count):
            tile[i, :] += x[offsets[i] + start + k * step] * w[w_offset + k * V * LANES : ...]

    Written here rather than with ``tile_multiply_add`` in a Python loop because LLVM would unroll that one, and run out
    of registers for the addresses. This way it is one pointer for x, one for w, and R offsets.
    """
    for k in range(count):
        tile = tile_multiply_add(tile, x, offsets, start + k * step, w, w_offset + k * tile.shape[1])
    return tile


@in_registers(tile_add_products)
def _(typing_context, tile, x, offsets, start, step, w, w_offset, count):
    R = _rows_of(tile, offsets)

    def write(context, builder, signature, arguments):
        value, image, starts, start, step, weights, w_offset, count = arguments
        first = pointer(context, builder, x, image, start), pointer(context, builder, w, weights, w_offset)
        return _add_products(builder, tile, value, first, starts, step, count)

    offset = types.intp
    return tile(tile, x, types.UniTuple(offset, R), offset, offset, w, offset, offset), write


def tile_add_rows(tile, x, offsets, start, steps, w, w_offset, w_steps, counts):
    """The same for rows of ``counts[-1]`` outer products, nested as often as there are counts before it: along the axis
    i, of ``counts[i]``, x goes on by ``steps[i]`` and w by ``w_steps[i]``. One call for many short rows, between which
    the tile stays where it is."""
    if len(counts) == 1:
        return tile_add_products(tile, x, offsets, start, steps[0], w, w_offset, counts[0])
    for i in range(counts[0]):
        places = start + i * steps[0], w_offset + i * w_steps[0]
        tile = tile_add_rows(tile, x, offsets, places[0], steps[1:], w, places[1], w_steps[1:], counts[1:])
    return tile


@in_registers(tile_add_rows)
def _(typing_context, tile, x, offsets, start, steps, w, w_offset, w_steps, counts):
    R, depth = _rows_of(tile, offsets), len(counts)

    def write(context, builder, signature, arguments):
        value, image, starts, start, steps, weights, w_offset, w_steps, counts = arguments
        first = pointer(context, builder, x, image, start), pointer(context, builder, w, weights, w_offset)
        steps, counts = (cgutils.unpack_tuple(builder, each, depth) for each in (steps, counts))
        w_steps = cgutils.unpack_tuple(builder, w_steps, depth - 1)

        def add_from(axis, sums, places):
            if axis == depth - 1:
                return _add_products(builder, tile, sums, places, starts, steps[axis], counts[axis])

            def add(sums, x_here, w_here):
                sums = add_from(axis + 1, sums, (x_here, w_here))
                return sums, builder.gep(x_here, [steps[axis]]), builder.gep(w_here, [w_steps[axis]])

            return _loop(builder, tile, sums, places, counts[axis], add)

        return add_from(0, value, first)

    offset = types.intp
    several, fewer = types.UniTuple(offset, depth), types.UniTuple(offset, depth - 1)
    return tile(tile, x, types.UniTuple(offset, R), offset, several, w, offset, fewer, several), write


def _add_products(builder, tile, sums, first, starts, step, count):
    """``count`` outer products: of the numbers whose places are ``starts``, and the vectors of w; ``first`` are the
    pointers to both."""
    columns = ir.Constant(count.type, tile.vectors * LANES)

    def add(sums, x_here, w_here):
        numbers = (builder.load(builder.gep(x_here, [builder.extract_value(starts, i)])) for i in range(tile.rows))
        sums = _outer_product(builder, tile, sums, numbers, w_here)
        return sums, builder.gep(x_here, [step]), builder.gep(w_here, [columns])

    return _loop(builder, tile, sums, first, count, add)


def _loop(builder, tile, value, pointers, count, body):
    """A loop of ``count`` rounds around a tile and two pointers, of which each of its registers is a variable:
    ``body`` takes them, and returns what they are in the next round. Returns the tile behind it."""
    before, one = builder.block, ir.Constant(count.type, 1)
    begin = [builder.extract_value(value, position) for _, _, position in tile.places()]
    loop, after = builder.append_basic_block("products"), builder.append_basic_block("after")
    builder.cbranch(builder.icmp_signed(">", count, ir.Constant(count.type, 0)), loop, after)

    builder.position_at_end(loop)
    here, left = [builder.phi(pointer_.type) for pointer_ in pointers], builder.phi(count.type)
    sums = [builder.phi(FLOAT_VECTOR) for _ in begin]
    current, *following = body(_build(builder, tile, lambda i, j, position: sums[position]), *here)
    end = [builder.extract_value(current, position) for _, _, position in tile.places()]
    left_next, last = builder.sub(left, one), builder.block
    branch = builder.cbranch(builder.icmp_signed(">", left_next, ir.Constant(count.type, 0)), loop, after)
    branch.set_metadata("llvm.loop", _not_unrolled(builder.module))
    for phi, first, next_ in zip([*here, left], [*pointers, count], [*following, left_next], strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(next_, last)

    builder.position_at_end(after)
    results = []
    for phi, first, next_ in zip(sums, begin, end, strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(next_, last)
        result = builder.phi(FLOAT_VECTOR)
        result.add_incoming(first, before)
        result.add_incoming(next_, last)
        results.append(result)
    return _build(builder, tile, lambda i, j, position: results[position])


def _not_unrolled(module):
    """The metadata of a loop that LLVM must not unroll: a node whose first operand is itself."""
    disable = module.add_metadata([ir.MetaDataString(module, "llvm.loop.unroll.disable")])
    node = module.add_metadata([disable])
    node.operands = (node, disable)
    return node


def _rows_of(tile, offsets):
    """R, if there are as many offsets."""
    if not (isinstance(offsets, types.UniTuple) and len(offsets) == tile.rows):
        raise TypeError(f"Expected a tuple of {tile.rows} offsets, one for each row of the tile. Received: {offsets}.")
    return tile.rows


def _outer_product(builder, tile_type, tile, numbers, w_pointer):
    """Add the outer product of ``numbers`` (one scalar for each row) and the V vectors at ``w_pointer``."""
    weights = [builder.load(_floats_at(builder, w_pointer, j), align=4) for j in range(tile_type.vectors)]
    for i, number in enumerate(numbers):
        row = fill(builder, number)
        for j, weight in enumerate(weights):
            position = i * tile_type.vectors + j
            vector = multiply_add(builder, row, weight, builder.extract_value(tile, position))
            tile = builder.insert_value(tile, vector, position)
    return tile


def tile_add_scaled(tile, factor, array, offset, stride):
    """``tile[i, :] += factor * array[offset + i * stride : ...]``: a multiple of a whole block of an array."""
    R, columns = tile.shape
    return vector_multiply_add(factor, tile_load(array, offset, stride, R, columns // LANES), tile)


@in_registers(tile_add_scaled)
def _(typing_context, tile, factor, array, offset, stride):
    def write(context, builder, signature, arguments):
        value, factor, place, offset, stride = arguments
        first, factor = pointer(context, builder, array, place, offset), fill(builder, factor)
        return _build(
            builder,
            tile,
            lambda i, j, position: multiply_add(
                builder,
                factor,
                builder.load(_floats_at(builder, first, j, stride, i), align=4),
                builder.extract_value(value, position),
            ),
        )

    return tile(tile, types.float32, array, types.intp, types.intp), write


def tile_relu(tile):
    """0 where the tile is below 0, else the tile: a NaN is not below 0, and stays."""
    return np.where(tile < 0, np.float32(0), tile)


@in_registers(tile_relu)
def _(typing_context, tile):
    def write(context, builder, signature, arguments):
        zero = ir.Constant(FLOAT_VECTOR, None)

        def rectified(i, j, position):
            vector = builder.extract_value(arguments[0], position)
            return builder.select(builder.fcmp_ordered("<", vector, zero), zero, vector)

        return _build(builder, tile, rectified)

    return tile(tile), write


def pixel_offsets(first, last, width, row_stride, column_stride, R):
    """Where the pixels first, first + 1, ..., R of them, begin in an image: a tuple of R offsets.

    Pixels are counted row by row, ``width`` to a row; pixel p begins at ``p // width * row_stride + p % width *
    column_stride``. Pixels beyond ``last`` get last's offset, so that a tile may safely read all of its R rows.
    """
    pixels = np.minimum(first + np.arange(R), last)
    return tuple(pixels // width * row_stride + pixels % width * column_stride)


@in_registers(pixel_offsets)
def _(typing_context, first, last, width, row_stride, column_stride, R):
    R = R.literal_value

    def write(context, builder, signature, arguments):
        pixel, last, width, row_stride, column_stride, _ = arguments
        one, zero = ir.Constant(pixel.type, 1), ir.Constant(pixel.type, 0)
        row, column = (  # both are small: a division of 64 bits takes up to three times as long as one of 32
            builder.zext(divide(builder.trunc(pixel, INT32), builder.trunc(width, INT32)), pixel.type)
            for divide in (builder.udiv, builder.urem)
        )
        offset = builder.add(builder.mul(row, row_stride), builder.mul(column, column_stride))
        to_next_row = builder.sub(row_stride, builder.mul(builder.sub(width, one), column_stride))
        offsets = [offset]
        for _ in range(R - 1):
            column = builder.add(column, one)
            wraps = builder.icmp_signed("==", column, width)
            step = builder.select(wraps, to_next_row, column_stride)
            column = builder.select(wraps, zero, column)
            offset = builder.add(offset, builder.select(builder.icmp_signed("<", pixel, last), step, zero))
            pixel = builder.add(pixel, one)
            offsets.append(offset)
        return context.make_tuple(builder, signature.return_type, offsets)

    return types.UniTuple(types.intp, R)(*[types.intp] * 5, types.literal(R)), write
