"""Winograd's minimal filtering: a 3 x 3 convolution with 4 multiplications for each output instead of 9.

Take a one-dimensional filter g of 3 taps. Two neighbouring outputs of it need 6 multiplications, or, if one first
builds the right sums, only 4:

    m0 = (d0 - d2) g0        m1 = (d1 + d2) (g0 + g1 + g2) / 2
    m3 = (d1 - d3) g2        m2 = (d2 - d1) (g0 - g1 + g2) / 2
    y0 = m0 + m1 + m2        y1 = m1 - m2 - m3

In two dimensions the same is done along rows and along columns: 4 x 4 pixels of the image and a 3 x 3 filter become
4 x 4 numbers each, 16 products give a 2 x 2 tile of outputs, which directly would take 36. And a 2 x 2 tile of outputs
is a pooling window: where pooling follows, the four go into ReLU and maximum without ever being stored
(``winograd_pooled.py``); otherwise they get their bias and ReLU and are written side by side (``conv.py``).

Summed over the channels, each of the 16 products is a matrix product, (tiles x channels) times (channels x filters),
and runs on the register tile. The transforms are sums of vectors: some 60 instructions for each vector of a tile's
channels or filters, where the products take 16 multiply-adds for each channel and vector of filters. So the method
pays where there are some dozens of channels and filters (see ``choice.py``).

A task takes a block of tiles, of several images or a part of one: transforms their pixels, and then, panel by panel of
filters, multiplies and transforms back. What it holds of them stays in the L2 cache, and every row of the register
tile but the block's last few is used.

The dx of such a convolution is another one: pixel y of x took part in output i at tap k = y + p - i, so dx sums dout
at y + p - k, which is a convolution of dout with the filters turned by 180 degrees, channels and filters exchanged, and
with padding 2 - p. ``prepare_dx`` turns the filters (``winograd_filters.py``), and the kernel is the same.

dw is another sum, and has a kernel of its own (``winograd_gradient.py``).

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

import numba
import numpy as np

from tinyconv.kernels.cpu.convolution import winograd_filters
from tinyconv.kernels.cpu.convolution.geometry import CACHED
from tinyconv.kernels.cpu.convolution.winograd_filters import four
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
from tinyconv.kernels.cpu.registers.copies import prefetch_part
from tinyconv.kernels.cpu.registers.host import LANES
from tinyconv.kernels.cpu.registers.tile import (
    pixel_offsets,
    stay_apart,
    tile_add_products,
    tile_shape,
    tile_store,
    tile_zeros,
)
from tinyconv.kernels.cpu.registers.vector import select, vector_fill, vector_load, vector_store
from tinyconv.kernels.cpu.runtime.jobs import TASKS, Job
from tinyconv.kernels.cpu.runtime.tasks import helper, kernel

prepare, prepare_dx = winograd_filters.prepare, winograd_filters.prepare_dx


def convolve(src, w, padding, size):
    """The method in NumPy: dst (N, *size, F) from src (N, H, W, C) and w (3, 3, C, F). The twin of the kernel below."""
    rows, columns = size
    down, across = -(-rows // 2), -(-columns // 2)
    pixels = transformed(src, padding, down, across)
    filters = np.einsum("ik,jl,klcf->ijcf", OF_TAPS, OF_TAPS, w)
    products = np.einsum("ijnyxc,ijcf->ijnyxf", pixels, filters)  # 16 matrix products
    dst = np.einsum("ik,jl,klnyxf->nyixjf", OF_PRODUCTS, OF_PRODUCTS, products)
    return dst.reshape(len(src), 2 * down, 2 * across, -1)[:, :rows, :columns]


def convolve_backward(dout, w, padding, size):
    """dx (N, *size, C) of such a convolution in NumPy: the same with the filters turned and transposed."""
    turned = w[::-1, ::-1].transpose(0, 1, 3, 2)
    return convolve(dout, turned, tuple(2 - p for p in padding), size)


def forward(layer, relu):
    """The job of the forward pass."""
    return job_of(tiling_of(layer)._replace(relu=relu), _write)


def dx(layer):
    """The job of dx: the forward pass of the convolution whose source is dout."""
    padding = tuple(2 - p for p in layer.padding)
    exchanged = {"OH": layer.H, "OW": layer.W, "F": layer.C, "H": layer.OH, "W": layer.OW, "C": layer.F}
    return job_of(tiling_of(layer._replace(padding=padding, **exchanged)), _write)


def tiling_of(layer):
    """The ``Tiling`` of a convolution, whose places in ``work`` are still to be filled in."""
    g, (R, V) = tiles_of(layer), tile_shape(layer.F)
    most = max(R, CACHED // (16 * (g.src_C + V * LANES)))
    blocks = max(1, -(-g.count // most), min(TASKS, -(-g.count // (2 * R))))
    block = max(1, -(-g.count // (blocks * R))) * R
    shares = min(g.dst_C // (V * LANES), -(-TASKS // -(-g.count // block)))
    return g._replace(block=block, shares=shares)


def job_of(g, finish):
    """The job of a tiling whose tiles of outputs go to ``finish``.

    A thread needs room for the transformed tiles, a panel of products, and one tile at the edge; and for
    ``prepare_dx`` for a block of filters.
    """
    R, V = tile_shape(g.dst_C)
    scratch = 16 * (g.block * (g.src_C + V * LANES) + 2 * SKEW + g.src_C)
    tasks, filters = -(-g.count // g.block) * g.shares, 16 * g.src_C * g.dst_C
    return Job(make_winograd(R, V, finish), tasks, g, filters, max(scratch, winograd_filters.SCRATCH))


@helper(forceinline=True)
def _back(m):
    """Four products to two outputs."""
    return m[0] + m[1] + m[2], m[1] - m[2] - m[3]


@helper(forceinline=True)
def outputs(work, products, size):
    """The 16 products of a tile, LANES filters, to its outputs: (top left, top right, bottom left, bottom right)."""
    a = _back(four(work, products, size))
    b = _back(four(work, products + 4 * size, size))
    c = _back(four(work, products + 8 * size, size))
    d = _back(four(work, products + 12 * size, size))
    left, right = _back((a[0], b[0], c[0], d[0])), _back((a[1], b[1], c[1], d[1]))
    return left[0], right[0], left[1], right[1]


@helper(forceinline=True)
def _rectify(vector, relu):
    """With ``relu``, 0 where the vector is below 0: a NaN is not below 0, and stays."""
    zero = vector_fill(np.float32(0))
    return select(vector < zero, zero, vector) if relu else vector


@helper
def _write(dst, b, work, g, place, first, columns, products, size):
    """Add the bias b, unless it is empty, to the outputs of a tile, filters first .. first + columns - 1, and write.

    Where there is no right or lower output its place is that of its neighbour, which is written after it.
    """
    n, i, j = place
    right = g.dst_C if 2 * j + 1 < g.dst_W else 0
    below = g.dst_W * g.dst_C if 2 * i + 1 < g.dst_H else 0
    at = ((n * g.dst_H + 2 * i) * g.dst_W + 2 * j) * g.dst_C + first
    for f in range(0, columns, LANES):
        bias = vector_load(b, first + f) if b.size else vector_fill(np.float32(0))
        four = outputs(work, products + f, size)
        vector_store(_rectify(four[3] + bias, g.relu), dst, at + f + below + right)
        vector_store(_rectify(four[2] + bias, g.relu), dst, at + f + below)
        vector_store(_rectify(four[1] + bias, g.relu), dst, at + f + right)
        vector_store(_rectify(four[0] + bias, g.relu), dst, at + f)


@functools.cache
def make_winograd(R, V, finish):
    """The kernel for matrix products in tiles of R x V, which hands each tile of outputs to ``finish``."""

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
    def winograd(task, dst, src, extra, work, g):
        """dst (N, dst_H, dst_W, dst_C), or what pooling leaves of it, from src (N, src_H, src_W, src_C) and the
        transformed filters: a block of tiles, all panels of filters or, where tiles are few, some. ``extra``: the
        bias, or argmax.

        Transform the pixels, then for each panel 16 matrix products, and transform back. What the next block will read
        of src below the rows that this one has read is prefetched, a piece with each product.
        """
        first, share = task // g.shares * g.block, task % g.shares
        columns, tiles = V * LANES, min(g.block, g.count - first)
        panels, size, product_size = g.dst_C // columns, g.block * g.src_C + SKEW, g.block * columns + SKEW
        pixels = g.scratch + numba.get_thread_id() * g.scratch_size
        products = pixels + 16 * size
        start = first_place(g, first)
        read_tiles(work, pixels, size, src, g, start, tiles, 0, g.src_C, products + 16 * product_size)
        coming = src.size * (first + g.block) // g.count + (2 - g.top) * g.src_W * g.src_C
        coming_size = src.size * g.block // g.count
        begin, end = share * panels // g.shares, (share + 1) * panels // g.shares
        for panel in range(begin, end):
            for k in range(16):
                prefetch_part(src, coming, coming_size, (panel - begin) * 16 + k, 1, (end - begin) * 16)
                weights = (panel * 16 + k) * g.src_C * columns
                multiply(work, products + k * product_size, pixels + k * size, weights, tiles, g.src_C)
            place = start
            for t in range(tiles):
                finish(dst, extra, work, g, place, panel * columns, columns, products + t * columns, product_size)
                place = next_place(g, place)

    return winograd
