"""The tiled product: one kernel for the convolution, both of its gradients, and the dense layer.

All of them are a matrix product, ``out[r, c] = sum over d of a[r, d] * b[d, c]``, whose matrices need not stand in
memory as such: an element of ``a`` is a pixel that is found from the row (which output, say) and the depth (which tap
of the filter). So :func:`product` makes a kernel from six small functions: for each of the two matrices, where a row
(or column) begins, what a depth adds to it, and the value at both together.

A block of 256 threads owns a tile of 64 x 64 results. It walks along the depth 16 at a time: all threads together
copy 64 x 16 of ``a`` and 16 x 64 of ``b`` into shared memory, then each adds 16 outer products of 4 values of ``a``
and 4 of ``b`` to the 4 x 4 results that it keeps in registers: 16 multiply-adds for two loads of four floats.

A small result has few tiles, and would leave most of the GPU idle. Then the depth is cut into parts, a block for
each; they go to scratch and :func:`add_parts` adds them in order. How many follows from the shapes alone.
"""

import numpy as np

from tinyconv.kernels.cuda.runtime.device import (
    VECTOR,
    blocks_for,
    cuda,
    divided,
    float32,
    index,
    inlined,
    launch,
    together,
)

TILE, DEPTH, SIDE = 64, 16, 4  # results of a block; depth of a round; results of a thread (each squared, but DEPTH)
THREADS = (TILE // SIDE) ** 2
PITCH = TILE + 4  # a tile's row in shared memory: the padding keeps threads off each other's memory banks
LANES, ROWS = 32, 8  # a block of add_parts: 32 neighbouring elements, and 8 threads that share each one's parts
_BLOCKS = 264  # about two blocks for each multiprocessor of a large GPU: fewer than this, and the depth is cut


def parts_of(rows: int, columns: int, depth: int) -> tuple[int, int]:
    """Into how many parts the depth is cut, and how deep each is (a multiple of DEPTH)."""
    tiles = blocks_for(rows, TILE) * blocks_for(columns, TILE)
    parts = max(1, min(_BLOCKS // max(tiles, 1), blocks_for(depth, 2 * DEPTH)))
    part = blocks_for(blocks_for(depth, parts), DEPTH) * DEPTH
    return blocks_for(depth, part), part


def scratch(rows: int, columns: int, depth: int) -> int:
    """How many floats of scratch the parts of a product need; none where there is only one."""
    parts, _ = parts_of(rows, columns, depth)
    return parts * rows * columns if parts > 1 else 0


def multiply(kernel, out, a, b, bias, work, sizes, shape, finish, relu):
    """out (flat) = a @ b of ``sizes`` (rows, columns, depth), then, if ``finish``, plus bias and through ReLU."""
    rows, columns, depth = sizes
    parts, part = parts_of(rows, columns, depth)
    if parts == 1:
        grid = blocks_for(rows, TILE), blocks_for(columns, TILE)
        launch(kernel, grid, THREADS, out, a, b, bias, (*sizes, part), shape, finish, relu)
        return
    sums = work[: parts * rows * columns]
    multiply_parts(kernel, sums, a, b, bias, sizes, shape)
    add_parts(out, out, sums, parts, bias, finish, relu)


def product_gradients(dx, dw, db, work, filters, inputs):
    """dw and db as one product, always in parts along its depth; and if wanted dx as another one, beside it. Each is
    given as (kernel, a, b, sizes, shape); all arrays are flat."""
    rows, columns, depth = filters[3]
    parts, _ = parts_of(rows, columns, depth)
    sums, work = work[: parts * rows * columns], work[parts * rows * columns :]

    def filter_gradient():
        kernel, a, b, sizes, shape = filters
        multiply_parts(kernel, sums, a, b, db, sizes, shape)
        add_parts(dw, db, sums, parts, db, False, False)

    def input_gradient():
        kernel, a, b, sizes, shape = inputs
        multiply(kernel, dx, a, b, db, work, sizes, shape, False, False)

    if dx.size:
        together(input_gradient, filter_gradient)
    else:
        filter_gradient()


def flat(array):
    """The array as one row of numbers, without a copy."""
    return array.reshape(array.size)


def multiply_parts(kernel, sums, a, b, bias, sizes, shape):
    """The parts of a product, one after the other in ``sums``."""
    rows, columns, depth = sizes
    parts, part = parts_of(rows, columns, depth)
    grid = blocks_for(rows, TILE), blocks_for(columns, TILE), parts
    launch(kernel, grid, THREADS, sums, a, b, bias, (*sizes, part), shape, False, False)


def add_parts(out, rest, sums, parts, bias, finish, relu):
    """Add up the parts; what exceeds ``out`` goes to ``rest``. Eight threads share an element's parts, in order."""
    size = sums.size // parts
    arguments = out, rest, sums, size, parts, bias, finish, relu
    launch(_add_parts, blocks_for(size, LANES), (LANES, ROWS), *arguments)


@cuda.jit
def _add_parts(out, rest, sums, size, parts, bias, finish, relu):
    shared = cuda.shared.array((ROWS, LANES), np.float32)
    lane = cuda.threadIdx.x
    row = cuda.threadIdx.y
    i = cuda.blockIdx.x * LANES + lane
    total = float32(0)
    if i < size:
        p = row
        while p < parts:
            total += sums[index(p * size + i)]
            p += ROWS
    shared[row, lane] = total
    cuda.syncthreads()
    if row == 0 and i < size:
        for r in range(1, ROWS):
            total += shared[r, lane]
        if finish:
            _, column = divided(i, bias.size)
            total += bias[column]
            if relu and total < float32(0):
                total = float32(0)
        if i < out.size:
            out[i] = total
        else:
            rest[i - out.size] = total


def product(row_of_a, depth_of_a, value_of_a, column_of_b, depth_of_b, value_of_b, a_along_depth, b_along_depth):
    """Make the kernel of one product.

    ``row_of_a(row, shape)`` and ``depth_of_a(depth, shape)`` each give three integers, from which
    ``value_of_a(a, row's three, depth's three, shape)`` finds the value; the same for b. ``a_along_depth`` says which
    way a lies in memory: neighbouring threads read along the depth, else along the rows.
    """
    find_a, read_a, store_a = _copying(row_of_a, depth_of_a, value_of_a, a_along_depth)
    find_b, read_b, store_b = _copying(column_of_b, depth_of_b, value_of_b, b_along_depth)

    @cuda.jit
    def product_kernel(out, a, b, bias, sizes, shape, finish, relu):
        tile_a = cuda.shared.array((DEPTH, PITCH), np.float32, VECTOR)
        tile_b = cuda.shared.array((DEPTH, PITCH), np.float32, VECTOR)
        places_a = cuda.local.array((SIDE, 3), np.int64)
        places_b = cuda.local.array((SIDE, 3), np.int64)
        copied_a = cuda.local.array(SIDE, np.float32)
        copied_b = cuda.local.array(SIDE, np.float32)
        sums = cuda.local.array((SIDE, SIDE), np.float32)
        rows, columns, depth, part = sizes
        t = cuda.threadIdx.x
        row = cuda.blockIdx.x * TILE
        column = cuda.blockIdx.y * TILE
        d = cuda.blockIdx.z * part
        stop = min(d + part, depth)
        find_a(places_a, t, row, rows, shape)
        find_b(places_b, t, column, columns, shape)
        for q in range(SIDE):
            for p in range(SIDE):
                sums[q, p] = float32(0)

        while d < stop:
            read_a(copied_a, a, places_a, t, d, stop, shape)
            read_b(copied_b, b, places_b, t, d, stop, shape)
            store_a(tile_a, copied_a, t)
            store_b(tile_b, copied_b, t)
            cuda.syncthreads()
            k = 0
            while k < DEPTH:
                for q in range(SIDE):
                    left = tile_a[index(k), index(t // 16 * SIDE + q)]
                    for p in range(SIDE):
                        sums[q, p] += left * tile_b[index(k), index(t % 16 * SIDE + p)]
                k += 1
            cuda.syncthreads()
            d += DEPTH

        for q in range(SIDE):
            for p in range(SIDE):
                r = row + t // 16 * SIDE + q
                c = column + t % 16 * SIDE + p
                if r < rows and c < columns:
                    value = sums[q, p]
                    if finish:
                        value += bias[c]
                        if relu and value < float32(0):
                            value = float32(0)
                    out[index((cuda.blockIdx.z * rows + r) * columns + c)] = value

    return product_kernel


def _copying(place_of, depth_of, value_of, along_depth):
    """Three functions with which a thread copies its SIDE values of one matrix's tile: where they are, read, store.

    Beyond the last row, column or depth the last one is read again; only depth must count as 0.
    """

    @inlined
    def find(places, t, first, end, shape):
        for q in range(SIDE):
            at = min(first + (t // DEPTH + q * 16 if along_depth else t % TILE), end - 1)
            places[q, 0], places[q, 1], places[q, 2] = place_of(at, shape)

    @inlined
    def read(copied, matrix, places, t, d, stop, shape):
        for q in range(SIDE):
            k = d + (t % DEPTH if along_depth else t // TILE + q * 4)
            place = (places[q, 0], places[q, 1], places[q, 2])
            value = value_of(matrix, place, depth_of(min(k, stop - 1), shape), shape)
            copied[q] = value if k < stop else float32(0)

    @inlined
    def store(tile, copied, t):
        for q in range(SIDE):
            k = t % DEPTH if along_depth else t // TILE + q * 4
            r = t // DEPTH + q * 16 if along_depth else t % TILE
            tile[index(k), index(r)] = copied[q]

    return find, read, store
