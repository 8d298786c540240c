"""dw and db of a 3 x 3 convolution by the adjoint of Winograd's method: 16 multiplications where the sum has 36.

In one dimension (``winograd.py``) two outputs are y = A (U * V): U are the four numbers that 3 taps become, V those of
4 pixels, * multiplies them one by one, and A adds up. In this each y and each product is a sum, so gradients go
backwards through the same coefficients, transposed:

    the gradient of the products    E = A' dy       E0 = dy0, E1 = dy0 + dy1, E2 = dy0 - dy1, E3 = -dy1
    of a filter's four numbers      dU = V * E      summed over all tiles, each with its own pixels and outputs
    of its three taps               dg = G' dU      dg0 = dU0 + (dU1 + dU2) / 2
                                                    dg1 =       (dU1 - dU2) / 2
                                                    dg2 =       (dU1 + dU2) / 2 + dU3

In two dimensions the same is done along rows and along columns: a 2 x 2 tile of dout becomes 4 x 4 numbers, as its
4 x 4 pixels do, and 16 products take the place of the 36 of which dw is the sum. For C channels and F filters each is a
matrix product, (channels x tiles) times (tiles x filters): its register tile is a piece of dU, and its sum runs over
the tiles. E[1, 1] is the sum of the four gradients of a tile; summed over the tiles it is db.

The tiles are dealt out to a fixed number of *parts*, channels and filters to *groups*; a task is a part's share of a
group's dw. It goes through its tiles block by block: transforms the pixels and gradients of a block, which then lie in
the cache, and adds up the 16 products. At its end it turns dU into taps. A second job adds these partial sums in
order, so the bits do not depend on the threads.

The price is rounding. With u the unit roundoff (2**-24), T tiles in a part and P parts, a number of dw is off by at
most about (T + P + 8) u times 4 times the sum, over the tiles, of (the sum of |pixel| over the 4 x 4 tile, of its
channel) times (the sum of |gradient| over the 2 x 2 tile, of its filter). The 8 are the additions of the transforms:
two for V, two for E, four for the taps. The 4 is that of ``winograd.py``: a pixel, a gradient and a tap meet in the
same products with the same factors, whichever of the three is the result. Tests hold the kernel to the bound, and build
a case that comes close to it. In practice the error is about that of the direct sum, whose chains of additions are four
times as long. But as there, an infinite or NaN pixel or gradient reaches taps that it has no part in.

Source: Lavin and Gray, "Fast algorithms for convolutional neural networks" (2016), whose F(3 x 3, 2 x 2) this is in
other words: theirs multiplies pixels with gradients to get taps by the same 16 products.
"""

import functools
from typing import NamedTuple

import numba
import numpy as np

from tinyconv.kernels.cpu.convolution.geometry import CACHED
from tinyconv.kernels.cpu.convolution.winograd_filters import four, store_four
from tinyconv.kernels.cpu.convolution.winograd_tiles import (
    OF_PRODUCTS,
    OF_TAPS,
    SKEW,
    first_place,
    next_place,
    read_tiles,
    tiles_of,
    transformed,
)
from tinyconv.kernels.cpu.registers.copies import add, copy, fill, prefetch_lines
from tinyconv.kernels.cpu.registers.host import LANES
from tinyconv.kernels.cpu.registers.tile import (
    pixel_offsets,
    stay_apart,
    tile_add_products,
    tile_load,
    tile_shape,
    tile_store,
    tile_zeros,
)
from tinyconv.kernels.cpu.registers.vector import vector_fill, vector_load, vector_store
from tinyconv.kernels.cpu.runtime.cutting import share
from tinyconv.kernels.cpu.runtime.jobs import TASKS, Job
from tinyconv.kernels.cpu.runtime.tasks import helper, kernel

GROUP = 64  # channels, and filters, of a task, at most: dU, 16 numbers for each pair, stays in the cache
LEAST = 256  # tiles of a part, at least: dU is written out, and added up, once for each


def filter_gradient(dout, x, padding):
    """The method in NumPy: dw (3, 3, C, F) and db (F,) from dout (N, OH, OW, F) and x (N, H, W, C). The twin of the
    kernels below."""
    N, OH, OW, F = dout.shape
    down, across = -(-OH // 2), -(-OW // 2)
    pixels = transformed(x, padding, down, across)
    even = np.pad(dout, ((0, 0), (0, OH % 2), (0, OW % 2), (0, 0))).reshape(N, down, 2, across, 2, F)
    gradients = np.einsum("ki,lj,nykxlf->ijnyxf", OF_PRODUCTS, OF_PRODUCTS, even)
    products = np.einsum("ijnyxc,ijnyxf->ijcf", pixels, gradients)  # 16 matrix products
    dw = np.einsum("ik,jl,ijcf->klcf", OF_TAPS, OF_TAPS, products)
    return dw, gradients[1, 1].sum(axis=(0, 1, 2))


def dw(layer):
    """The jobs of dw and db: the partial sums, and what adds them up."""
    g, (R, V) = tiles_of(layer), tile_shape(layer.F)
    columns = V * LANES
    channels, panels = _even(layer.C, GROUP, LANES), _even(layer.F, GROUP, columns) // columns
    groups = -(-layer.C // channels) * -(-layer.F // (panels * columns))
    parts = max(1, min(-(-TASKS // groups), g.count // LEAST))
    block = max(1, min(-(-g.count // parts), CACHED // (16 * (channels + panels * columns))))
    g = g._replace(block=block, parts=parts, channels=channels, panels=panels)
    rows = -(-channels // R) * R
    scratch = 16 * (panels * columns * (rows + block) + channels * (block + 1) + 3 * SKEW) + panels * columns
    sums = parts * (9 * layer.C + 1) * layer.F
    return Job(make_winograd_gradient(R, V), parts * groups, g, scratch=scratch, sums=sums), Job(_add_parts, TASKS, g)


def _even(count, most, unit):
    """The size of groups, of ``most`` at most and all about the same size, into which ``count`` is cut, in units."""
    groups = -(-count // max(most, unit))
    return -(-count // (groups * unit)) * unit


class Group(NamedTuple):
    """A task's part of the tiles, its channels and filters, and where in ``work`` it has what: 16 matrices each of dU,
    [panel][channel][column of the panel], of the pixels, [tile][channel], and of the gradients, [panel][tile][column].
    """

    part: int
    c: int  # the first channel
    channels: int
    f: int  # the first filter
    filters: int
    rows: int  # those of a panel of dU: the channels, up to whole register tiles
    sizes: tuple[int, int, int]  # of a matrix of each kind
    total: int  # dU
    pixels: int
    gradients: int
    bias: int  # db of these filters, and behind it the pixels of a tile at the edge


@helper
def _group(task, g, R, columns):
    """What a task does, in register tiles of R channels and panels of so many columns."""
    across = -(-g.dst_C // (g.panels * columns))
    groups = -(-g.src_C // g.channels) * across
    part, group = task // groups, task % groups
    c, f = group // across * g.channels, group % across * g.panels * columns
    channels, filters = min(g.channels, g.src_C - c), min(g.panels * columns, g.dst_C - f)
    rows = -(-channels // R) * R
    sizes = rows * filters + SKEW, g.block * channels + SKEW, g.block * filters + SKEW
    total = g.scratch + numba.get_thread_id() * g.scratch_size
    pixels = total + 16 * sizes[0]
    gradients = pixels + 16 * sizes[1]
    return Group(part, c, channels, f, filters, rows, sizes, total, pixels, gradients, gradients + 16 * sizes[2])


@helper(forceinline=True)
def _spread(a, b):
    """The gradients of two outputs to those of the four products."""
    return a, a + b, a - b, vector_fill(np.float32(0)) - b


@helper(forceinline=True)
def _taps(m):
    """The gradients of four numbers to those of the three taps that they were made of."""
    half = vector_fill(np.float32(0.5))
    outer = half * (m[1] + m[2])
    return m[0] + outer, half * (m[1] - m[2]), outer + m[3]


@helper
def _write_taps(work, at, tap, total, size):
    """16 vectors of dU, ``size`` apart, to nine of dw, ``tap`` apart."""
    a, b = _taps(four(work, total, size)), _taps(four(work, total + 4 * size, size))
    c, d = _taps(four(work, total + 8 * size, size)), _taps(four(work, total + 12 * size, size))
    left, middle = _taps((a[0], b[0], c[0], d[0])), _taps((a[1], b[1], c[1], d[1]))
    right = _taps((a[2], b[2], c[2], d[2]))
    for row in range(3):
        vector_store(left[row], work, at + 3 * row * tap)
        vector_store(middle[row], work, at + (3 * row + 1) * tap)
        vector_store(right[row], work, at + (3 * row + 2) * tap)


@helper
def _read_gradients(work, at, dout, g, place, held, columns):
    """The 2 x 2 gradients of a tile, zero where there is no such output, to 16 numbers for each filter: (i, j) to
    ``at + (4 i + j) * sizes[2]``, panel behind panel. Their sums are added to db."""
    n, i, j = place
    right, below, zero = 2 * j + 1 < g.dst_W, 2 * i + 1 < g.dst_H, vector_fill(np.float32(0))
    start, row = ((n * g.dst_H + 2 * i) * g.dst_W + 2 * j) * g.dst_C + held.f, g.dst_W * g.dst_C
    for f in range(0, held.filters, LANES):
        p, to, size = start + f, at + f // columns * g.block * columns + f % columns, held.sizes[2]
        a, b = vector_load(dout, p), vector_load(dout, p + g.dst_C) if right else zero
        c = vector_load(dout, p + row) if below else zero
        d = vector_load(dout, p + row + g.dst_C) if right and below else zero
        left, other = _spread(a, c), _spread(b, d)
        four_sums = _spread(left[1], other[1])
        store_four(work, to, size, _spread(left[0], other[0]))
        store_four(work, to + 4 * size, size, four_sums)
        store_four(work, to + 8 * size, size, _spread(left[2], other[2]))
        store_four(work, to + 12 * size, size, _spread(left[3], other[3]))
        vector_store(vector_load(work, held.bias + f) + four_sums[1], work, held.bias + f)


@helper
def _read_block(work, x, dout, g, place, tiles, held, columns):
    """Transform the pixels and the gradients of so many tiles from ``place`` on; returns the place behind them."""
    border = held.bias + held.filters
    read_tiles(work, held.pixels, held.sizes[1], x, g, place, tiles, held.c, held.channels, border)
    for t in range(tiles):  # not in one loop: 32 places to write to, far apart, were too many at once
        _read_gradients(work, held.gradients + t * columns, dout, g, place, held, columns)
        place = next_place(g, place)
    return place


@helper
def _prefetch(array, width, columns, pixels, k):
    """Prefetch a 16th, number k, of what pixels[0] to before pixels[1] have in columns[0] to before columns[1]; a pixel
    is ``width`` numbers."""
    first, last = share(k, 16, pixels[1] - pixels[0])
    for row in range((pixels[0] + first) * width, (pixels[0] + last) * width, width):
        prefetch_lines(array, row + columns[0], row + columns[1])


@helper
def _write_part(work, at, g, held, columns):
    """dU as taps, and db, to a partial sum at ``work[at:]``, (9 * C + 1, F)."""
    for c in range(held.channels):
        for f in range(0, held.filters, LANES):
            total = held.total + (f // columns * held.rows + c) * columns + f % columns
            _write_taps(work, at + (held.c + c) * g.dst_C + held.f + f, g.src_C * g.dst_C, total, held.sizes[0])
    if held.c == 0:
        copy(work, at + 9 * g.src_C * g.dst_C + held.f, work, held.bias, held.filters)


@functools.cache
def make_winograd_gradient(R, V):
    """The kernel of the partial sums, for matrix products in tiles of R channels x V vectors of filters."""
    columns = V * LANES

    @helper
    def multiply(work, total, pixels, gradients, tiles, channels, begins):
        """One of the 16 matrix products: add (channels, tiles), which lie tile by tile, times (tiles, columns) to
        ``work[total:]``, (channels, columns)."""
        stay_apart()
        for c in range(0, channels, R):
            at, reads = total + c * columns, pixel_offsets(c, channels - 1, channels, 0, 1, R)
            tile = tile_zeros(R, V) if begins else tile_load(work, at, columns, R, V)
            tile = tile_add_products(tile, work, reads, pixels, channels, work, gradients, tiles)
            tile_store(tile, work, at, columns)

    @kernel
    def winograd_gradient(task, dout, x, _, work, g):
        """A part's sum of dw and db, of a group of channels and filters. What the next block will read of x, below the
        rows that this one has read, and of dout is prefetched, a piece with each product."""
        held = _group(task, g, R, columns)
        fill(work, held.bias, held.filters, np.float32(0))
        first, last = share(held.part, g.parts, g.count)
        place, border = first_place(g, first), (2 - g.top) * g.src_W
        for start in range(first, last, g.block):
            end = min(start + g.block, last)
            tiles, x_size, size = end - start, x.size // g.src_C, dout.size // g.dst_C
            place = _read_block(work, x, dout, g, place, tiles, held, columns)
            x_next = x_size * end // g.count + border, x_size * (end + tiles) // g.count + border
            next_ = size * end // g.count, size * (end + tiles) // g.count
            for k in range(16):
                _prefetch(x, g.src_C, (held.c, held.c + held.channels), x_next, k)
                _prefetch(dout, g.dst_C, (held.f, held.f + held.filters), next_, k)
                pixels, gradients = held.pixels + k * held.sizes[1], held.gradients + k * held.sizes[2]
                for f in range(0, held.filters, columns):
                    total = held.total + k * held.sizes[0] + f * held.rows
                    multiply(work, total, pixels, gradients + f * g.block, tiles, held.channels, start == first)
        _write_part(work, g.sums + held.part * (9 * g.src_C + 1) * g.dst_C, g, held, columns)

    return winograd_gradient


@kernel
def _add_parts(task, dw, db, _, work, g):
    """Add up a share of the rows of the partial sums, in order: those of dw, and db behind them."""
    F, rows = g.dst_C, 9 * g.src_C
    first, last = share(task, TASKS, rows + 1)
    for row in range(first, last):
        result, to = (dw, row * F) if row < rows else (db, 0)
        copy(result, to, work, g.sums + row * F, F)
        for part in range(1, g.parts):
            add(result, to, work, g.sums + (part * (rows + 1) + row) * F, F)
