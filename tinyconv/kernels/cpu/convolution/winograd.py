"""Winograd's minimal filtering: a 3 x 3 convolution with 4 multiplications for each output instead of 9.

Take a one-dimensional filter g of 3 taps. Two neighbouring outputs of it need 6 multiplications, or, if one first
builds the right sums, only 4:

    m0 = (d0 - d2) g0        m1 = (d1 + d2) (g0 + g1 + g2) / 2
    m3 = (d1 - d3) g2        m2 = (d2 - d1) (g0 - g1 + g2) / 2
    y0 = m0 + m1 + m2        y1 = m1 - m2 - m3

In two dimensions the same is done along rows and along columns: 4 x 4 pixels of the image and a 3 x 3 filter become
4 x 4 numbers each, 16 products give a 2 x 2 tile of outputs, which directly would take 36. And a 2 x 2 tile of outputs
is a pooling window: where pooling follows, the four go into ReLU and maximum without ever being stored
(``conv_pool.py``); otherwise they get their bias and ReLU and are written side by side (``conv.py``).

Summed over the channels, each of the 16 products is a matrix product, (tiles x channels) times (channels x filters),
and runs on the register tile. The transforms are sums of vectors: some 60 instructions for each vector of a tile's
channels or filters, where the products take 16 multiply-adds for each channel and vector of filters. So the method
pays where there are some dozens of channels and filters (see ``pays``).

A task takes a block of tiles, of several images or a part of one: transforms their pixels, and then, panel by panel of
filters, multiplies and transforms back. What it holds of them stays in the L2 cache, and every row of the register
tile but the block's last few is used.

The dx of such a convolution is another one: pixel y of x took part in output i at tap k = y + p - i, so dx sums dout
at y + p - k, which is a convolution of dout with the filters turned by 180 degrees, channels and filters exchanged, and
with padding 2 - p. ``prepare`` turns the filters, and the kernel is the same.

The price is rounding: sums of pixels are multiplied by sums of weights, and differences are taken afterwards. With u
the unit roundoff (2**-24) and C channels, an output is off by at most about (C + 20) u times 4 times the sum, over the
channels, of (the sum of all |pixel| of the *whole 4 x 4 tile*) times (the sum of all |weight|). Why 4: in one dimension
d2 meets g0 in all three products of y0, with the factors 1, 1/2 and 1/2. Exactly, the three cancel; their roundings add
up to twice |d2| |g0|, no pair meets with more, and the second dimension doubles it again. Tests hold the kernel to the
bound, and build the case that comes close to it. In practice the error is about half of the direct sum's, whose chains
of additions are nine times as long. But a small output beside large ones is rounded as they are, and an infinite or NaN
pixel or weight reaches all four outputs of its tiles, including those that it has no part in.

Source: Lavin and Gray, "Fast algorithms for convolutional neural networks" (2016), sections 4.1 and 5.
"""

import functools
from typing import NamedTuple

import numba
import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple

from tinyconv.kernels.cpu.convolution.geometry import CACHED, TASKS
from tinyconv.kernels.cpu.registers.copies import prefetch_part
from tinyconv.kernels.cpu.registers.host import LANES, REGISTERS
from tinyconv.kernels.cpu.registers.pooled_stores import vectors_store_pooled
from tinyconv.kernels.cpu.registers.tile import (
    pixel_offsets,
    stay_apart,
    tile_add_products,
    tile_shape,
    tile_store,
    tile_zeros,
)
from tinyconv.kernels.cpu.registers.vector import select, vector_fill, vector_load, vector_store
from tinyconv.kernels.cpu.runtime.tasks import NOTHING, helper, kernel, run

SKEW = 16  # floats; keeps the 16 matrices from lying whole pages apart, and so in the same few places of L1


class Tiles(NamedTuple):
    """What the kernel must know: the shapes, how the tiles are cut into tasks, and where in ``work`` things are.

    Tiles are counted through all images, row by row; tile (i, j) of an image covers the outputs (2 i, 2 j) to
    (2 i + 1, 2 j + 1), of which those beyond an odd last row or column do not exist.
    """

    H: int  # of an image
    W: int
    C: int
    OH: int  # of the outputs
    OW: int
    F: int
    top: int  # padding
    left: int
    down: int  # tiles of an image
    across: int
    count: int  # tiles of all images
    block: int  # tiles of a task: few enough that what it holds of them stays in the cache
    shares: int  # tasks that do the same tiles with other filters
    relu: int = 0
    filters: int = 0  # transformed
    bias: int = 0
    scratch: int = 0  # one for each thread
    scratch_size: int = 0


COUNT = len(Tiles._fields)


def applies(w_shape):
    """Whether the method is for such filters: 3 x 3, and whole vectors of channels and of filters."""
    KH, KW, C, F = w_shape
    return KH == KW == 3 and C % LANES == 0 and F % LANES == 0


def pays(out_shape, w_shape, strides, dilation):
    """Whether a convolution, and its dx, should go this way: where measured, it is then 1.1 to 2 times faster.

    With fewer channels or filters the transforms cost what the products save, and with 2 x 2 outputs or fewer most of a
    tile would be border. The batch has no say, though for a single image of 4 x 4 it is a loss: a sample must have the
    same bits in every batch.
    """
    N, OH, OW, F = out_shape
    KH, KW, C, F = w_shape
    enough = min(C, F) >= 16 and max(C, F) >= 32 and min(OH, OW) > 2
    return enough and applies(w_shape) and strides == dilation == (1, 1)


def tile_rows(F):
    """(R, V): as many rows as fit in the registers beside V vectors of filters."""
    V = tile_shape(F)[1]
    return (REGISTERS - V - 1) // V, V


def plan(out_shape, x_shape, padding):
    """The ``Tiles`` of a convolution with these outputs, whose places in ``work`` are still to be filled in."""
    N, OH, OW, F = out_shape
    N, H, W, C = x_shape
    down, across = -(-OH // 2), -(-OW // 2)
    count, (R, V) = N * down * across, tile_rows(F)
    most = max(R, CACHED // (16 * (C + V * LANES)))
    blocks = max(1, -(-count // most), min(TASKS, -(-count // (2 * R))))
    block = max(1, -(-count // (blocks * R))) * R
    shares = min(F // (V * LANES), -(-TASKS // -(-count // block)))
    return Tiles(H, W, C, OH, OW, F, *padding, down, across, count, block, shares)


def filters_size(w_shape):
    """Floats of the transformed filters of a convolution; those of its dx take as many."""
    _, _, C, F = w_shape
    return 16 * C * F


def scratch_size(*plans):
    """Floats that one thread needs: the transformed tiles, a panel of products, and one tile at the edge; and for
    ``prepare`` a block of filters."""
    sizes = [16 * (s.block * (s.C + tile_rows(s.F)[1] * LANES) + 2 * SKEW + s.C) for s in plans]
    return max(*sizes, 9 * LANES * LANES)


def kernel_of(s, pooled=False):
    """The kernel for a plan, and its number of tasks."""
    return make_winograd(*tile_rows(s.F), pooled), -(-s.count // s.block) * s.shares


@helper(forceinline=True)
def _along(a, b, c, d):
    """Four pixels in a row to the four numbers that the filter's are multiplied with."""
    return a - c, b + c, c - b, b - d


@helper(forceinline=True)
def _four(array, at, step):
    """Four vectors ``step`` apart."""
    return (
        vector_load(array, at),
        vector_load(array, at + step),
        vector_load(array, at + 2 * step),
        vector_load(array, at + 3 * step),
    )


@helper(forceinline=True)
def _store_four(work, at, step, four):
    """Write four vectors ``step`` apart."""
    vector_store(four[0], work, at)
    vector_store(four[1], work, at + step)
    vector_store(four[2], work, at + 2 * step)
    vector_store(four[3], work, at + 3 * step)


@helper
def _transform_pixels(work, at, size, image, place, row, C):
    """The 4 x 4 pixels at ``place`` to 16 numbers for each channel: number (i, j) to ``at + (4 i + j) * size``."""
    for c in range(0, C, LANES):
        p = place + c
        a = _along(*_four(image, p, C))
        b = _along(*_four(image, p + row, C))
        c_ = _along(*_four(image, p + 2 * row, C))
        d = _along(*_four(image, p + 3 * row, C))
        _store_four(work, at + c, 4 * size, _along(a[0], b[0], c_[0], d[0]))
        _store_four(work, at + c + size, 4 * size, _along(a[1], b[1], c_[1], d[1]))
        _store_four(work, at + c + 2 * size, 4 * size, _along(a[2], b[2], c_[2], d[2]))
        _store_four(work, at + c + 3 * size, 4 * size, _along(a[3], b[3], c_[3], d[3]))


@helper(forceinline=True)
def _taps_along(a, b, c):
    """Three taps in a row to the four numbers that the pixels' are multiplied with."""
    half = vector_fill(np.float32(0.5))
    outer = half * (a + c)
    return a, outer + half * b, outer - half * b, c


@helper(forceinline=True)
def _three(w, at, step):
    """Three taps' vectors, ``step`` apart, transformed."""
    return _taps_along(vector_load(w, at), vector_load(w, at + step), vector_load(w, at + 2 * step))


@helper
def _transform_filters(work, at, size, w, place, tap, rows, row, columns):
    """LANES filters of so many channels, whose taps are matrices (channels, filters) with rows ``row`` apart and
    ``tap`` from one to the next, to 16 matrices: number (i, j) to ``at + (4 i + j) * size``, rows ``columns`` apart."""
    for c in range(rows):
        p, to = place + c * row, at + c * columns
        a, b, d = _three(w, p, tap), _three(w, p + 3 * tap, tap), _three(w, p + 6 * tap, tap)
        _store_four(work, to, 4 * size, _taps_along(a[0], b[0], d[0]))
        _store_four(work, to + size, 4 * size, _taps_along(a[1], b[1], d[1]))
        _store_four(work, to + 2 * size, 4 * size, _taps_along(a[2], b[2], d[2]))
        _store_four(work, to + 3 * size, 4 * size, _taps_along(a[3], b[3], d[3]))


@helper
def _transpose(work, at, tap_to, row_to, w, place, tap, row):
    """LANES channels of LANES filters, of each tap: from (channels, filters) to (filters, channels)."""
    for k in range(9):
        for f in range(LANES):
            line = work[at + k * tap_to + f * row_to : at + k * tap_to + f * row_to + LANES]
            for c in range(LANES):
                line[c] = w[place + k * tap + c * row + f]


@kernel
def prepare_pooled(task, w, _, __, work, numbers):
    """LANES channels of a panel of the filters (3, 3, C, F) to [panel][16][C][columns of F], and, one by one, to
    ``work[single:]``, (F, 9 * C)."""
    C, F, columns, single = to_fixed_tuple(numbers, 4)
    blocks = C // LANES
    panel, c = task // blocks, task % blocks * LANES
    for f in range(0, columns, LANES):
        filter_ = panel * columns + f
        place, at = c * F + filter_, (panel * 16 * C + c) * columns + f
        _transform_filters(work, at, C * columns, w, place, C * F, LANES, F, columns)
        _transpose(work, single + filter_ * 9 * C + c, C, 9 * C, w, place, C * F, F)


def prepare(work, w):
    """Transform the filters of a convolution and, behind them, those of its dx."""
    tasks, numbers = _preparation(w.shape)
    run(_prepare, tasks, w, NOTHING, NOTHING, work, numbers)


@functools.lru_cache(1024)
def _preparation(w_shape):
    """The number of tasks of ``_prepare``, and its numbers."""
    _, _, C, F = w_shape
    columns, columns_T = (tile_shape(size)[1] * LANES for size in (F, C))
    return F // columns * (C // LANES), np.array([C, F, columns, columns_T])


@kernel
def _prepare(task, w, _, __, work, numbers):
    """LANES channels of a panel of the filters (3, 3, C, F) to [panel][16][C][columns of F], and behind these, for dx,
    of the filters turned by 180 degrees and transposed, (3, 3, F, C), to [panel][16][F][columns of C].

    The scratch behind both holds LANES x LANES transposed filters; read from the last tap to the first they are turned.
    """
    C, F, columns, columns_T = to_fixed_tuple(numbers, 4)
    blocks, block_size, tap = C // LANES, LANES * LANES, C * F
    panel, c = task // blocks, task % blocks * LANES
    turned = 32 * C * F + numba.get_thread_id() * 9 * block_size
    back = 16 * C * F + c // columns_T * 16 * F * columns_T + c % columns_T
    for f in range(panel * columns, (panel + 1) * columns, LANES):
        place, at = c * F + f, (panel * 16 * C + c) * columns + f % columns
        _transform_filters(work, at, C * columns, w, place, tap, LANES, F, columns)
        _transpose(work, turned, block_size, LANES, w, place, tap, F)
        last, at = turned + 8 * block_size, back + f * columns_T
        _transform_filters(work, at, F * columns_T, work, last, -block_size, LANES, LANES, columns_T)


@helper(forceinline=True)
def _back(m):
    """Four products to two outputs."""
    return m[0] + m[1] + m[2], m[1] - m[2] - m[3]


@helper
def _first(s, tile):
    """Image, row and column of a tile."""
    n, rest = tile // (s.down * s.across), tile % (s.down * s.across)
    return n, rest // s.across, rest % s.across


@helper(forceinline=True)
def _next(s, place):
    """Those of the next tile: counted, since a division takes as long as half of the work on a vector."""
    n, i, j = place
    if j + 1 < s.across:
        return n, i, j + 1
    return (n, i + 1, 0) if i + 1 < s.down else (n + 1, 0, 0)


@helper
def _read(work, at, size, x, s, place, border):
    """Transform the pixels of a tile; where it reaches over the edge of the image, of a copy with zeros around."""
    n, i, j = place
    top, left = 2 * i - s.top, 2 * j - s.left
    start, row = ((n * s.H + top) * s.W + left) * s.C, s.W * s.C
    if top >= 0 and left >= 0 and top + 4 <= s.H and left + 4 <= s.W:
        _transform_pixels(work, at, size, x, start, row, s.C)
        return
    for k in range(16):
        exists = 0 <= top + k // 4 < s.H and 0 <= left + k % 4 < s.W
        for c in range(0, s.C, LANES):
            pixel = vector_load(x, start + k // 4 * row + k % 4 * s.C + c) if exists else vector_fill(np.float32(0))
            vector_store(pixel, work, border + k * s.C + c)
    _transform_pixels(work, at, size, work, border, 4 * s.C, s.C)


@helper(forceinline=True)
def _outputs(work, products, size):
    """The 16 products of a tile, LANES filters, to its outputs: (top left, top right, bottom left, bottom right)."""
    a = _back(_four(work, products, size))
    b = _back(_four(work, products + 4 * size, size))
    c = _back(_four(work, products + 8 * size, size))
    d = _back(_four(work, products + 12 * size, size))
    left, right = _back((a[0], b[0], c[0], d[0])), _back((a[1], b[1], c[1], d[1]))
    return left[0], right[0], left[1], right[1]


@helper
def _pool(out, argmax, work, s, place, first, columns, products, size):
    """Add the bias to the outputs of a tile, filters first .. first + columns - 1; pool, and write."""
    n, i, j = place
    at = ((n * s.down + i) * s.across + j) * s.F + first
    for f in range(0, columns, LANES):
        a, b, c, d = _outputs(work, products + f, size)
        bias = vector_load(work, s.bias + first + f)
        vectors_store_pooled(a + bias, b + bias, c + bias, d + bias, out, argmax, at + f)


@helper(forceinline=True)
def _rectify(vector, relu):
    """With ``relu``, 0 where the vector is below 0: a NaN is not below 0, and stays."""
    zero = vector_fill(np.float32(0))
    return select(vector < zero, zero, vector) if relu else vector


@helper
def _write(out, b, work, s, place, first, columns, products, size):
    """Add the bias b, unless it is empty, to the outputs of a tile, filters first .. first + columns - 1, and write.

    Where there is no right or lower output its place is that of its neighbour, which is written after it.
    """
    n, i, j = place
    right = s.F if 2 * j + 1 < s.OW else 0
    below = s.OW * s.F if 2 * i + 1 < s.OH else 0
    at = ((n * s.OH + 2 * i) * s.OW + 2 * j) * s.F + first
    for f in range(0, columns, LANES):
        bias = vector_load(b, first + f) if b.size else vector_fill(np.float32(0))
        four = _outputs(work, products + f, size)
        vector_store(_rectify(four[3] + bias, s.relu), out, at + f + below + right)
        vector_store(_rectify(four[2] + bias, s.relu), out, at + f + below)
        vector_store(_rectify(four[1] + bias, s.relu), out, at + f + right)
        vector_store(_rectify(four[0] + bias, s.relu), out, at + f)


@functools.cache
def make_winograd(R, V, pooled):
    """The kernel for matrix products in tiles of R x V; with ``pooled``, of the step that ends in max-pooling."""
    finish = _pool if pooled else _write

    @helper
    def multiply(work, products, pixels, weights, tiles, C):
        """One of the 16 matrix products: (tiles, C) times (C, columns) to ``work[products:]``, (tiles, columns).

        All matrices have room for whole register tiles: what is multiplied behind the last tile is never looked at.
        """
        stay_apart()
        columns = V * LANES
        reads = pixel_offsets(0, R - 1, R, 0, C, R)
        for t in range(0, tiles, R):
            tile = tile_add_products(tile_zeros(R, V), work, reads, pixels + t * C, 1, work, weights, C)
            tile_store(tile, work, products + t * columns, columns)

    @kernel
    def winograd(task, out, x, extra, work, numbers):
        """out (N, OH, OW, F), or what pooling leaves of it, from x (N, H, W, C) and the transformed filters: a block
        of tiles, all panels of filters or, where tiles are few, some. ``extra``: the bias, or argmax.

        Transform the pixels, then for each panel 16 matrix products, and transform back. What the next block will read
        of x below the rows that this one has read is prefetched, a piece with each product.
        """
        s = Tiles(*to_fixed_tuple(numbers, COUNT))
        first, share = task // s.shares * s.block, task % s.shares
        columns, tiles = V * LANES, min(s.block, s.count - first)
        panels, size, product_size = s.F // columns, s.block * s.C + SKEW, s.block * columns + SKEW
        pixels = s.scratch + numba.get_thread_id() * s.scratch_size
        products = pixels + 16 * size
        start = place = _first(s, first)
        for t in range(tiles):
            _read(work, pixels + t * s.C, size, x, s, place, products + 16 * product_size)
            place = _next(s, place)
        coming = x.size * (first + s.block) // s.count + (2 - s.top) * s.W * s.C
        coming_size = x.size * s.block // s.count
        begin, end = share * panels // s.shares, (share + 1) * panels // s.shares
        for panel in range(begin, end):
            for k in range(16):
                prefetch_part(x, coming, coming_size, (panel - begin) * 16 + k, 1, (end - begin) * 16)
                weights = s.filters + (panel * 16 + k) * s.C * columns
                multiply(work, products + k * product_size, pixels + k * size, weights, tiles, s.C)
            place = start
            for t in range(tiles):
                finish(out, extra, work, s, place, panel * columns, columns, products + t * columns, product_size)
                place = _next(s, place)

    return winograd
