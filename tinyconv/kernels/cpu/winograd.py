"""Winograd's minimal filtering: a 3 x 3 convolution with 4 multiplications for each output instead of 9.

Take a one-dimensional filter g of 3 taps. Two neighbouring outputs of it need 6 multiplications, or, if one first
builds the right sums, only 4:

    m0 = (d0 - d2) g0        m1 = (d1 + d2) (g0 + g1 + g2) / 2
    m3 = (d1 - d3) g2        m2 = (d2 - d1) (g0 - g1 + g2) / 2
    y0 = m0 + m1 + m2        y1 = m1 - m2 - m3

In two dimensions the same is done along rows and along columns: 4 x 4 pixels of the image and a 3 x 3 filter become
4 x 4 numbers each, 16 products give a 2 x 2 tile of outputs, which directly would take 36. And a 2 x 2 tile of outputs
is a pooling window: the four go into ReLU and maximum without ever being stored.

Summed over the channels, each of the 16 products is a matrix product, (tiles x channels) times (channels x filters),
and runs on the register tile. The transforms are sums of vectors, and cost little beside.

The price is rounding: sums of pixels are multiplied with sums of weights, and differences taken afterwards. With u the
unit roundoff (2**-24) and C channels, an output is off by at most about (C + 20) u times 9/4 of the sum of
|pixel| |weight| taken over the *whole 4 x 4 tile* and all absolute values; in practice a few times the error of the
direct sum. A test holds it to that bound.

Source: Lavin and Gray, "Fast algorithms for convolutional neural networks" (2016), sections 4.1 and 5.
"""

import functools

import numba
import numpy as np
from numba import prange

from tinyconv.kernels.cpu.conv import _copy_window
from tinyconv.kernels.cpu.host import REGISTERS
from tinyconv.kernels.cpu.jit import jit
from tinyconv.kernels.cpu.tile import (
    LANES,
    pixel_offsets,
    tile_multiply_add,
    tile_shape,
    tile_store,
    tile_zeros,
    vector_fill,
    vector_load,
    vector_store,
)
from tinyconv.kernels.cpu.window import vectors_store_pooled

FEW = 16  # images: below this, the panels of filters are tasks of their own


def applies(w_shape):
    """Whether the method is for such filters: 3 x 3, and whole vectors of channels and of filters."""
    KH, KW, C, F = w_shape
    return KH == KW == 3 and C % LANES == 0 and F % LANES == 0


def tile_rows(tiles, F):
    """(R, V): rows that share ``tiles`` out evenly, as many as fit in the registers beside V vectors of filters."""
    V = tile_shape(F)[1]
    most = (REGISTERS - V - 1) // V
    return -(-tiles // -(-tiles // most)), V


def scratch_size(out_shape, x_shape, w_shape, padding):
    """Floats that one thread needs: the padded image, its transformed tiles, and a panel of products."""
    N, PH, PW, F = out_shape
    C = x_shape[3]
    R, V = tile_rows(PH * PW, F)
    rows = -(-PH * PW // R) * R
    return (2 * PH + 2) * (2 * PW + 2) * C + 16 * PH * PW * C + 16 * rows * V * LANES


@jit(forceinline=True)
def _along(a, b, c, d):
    """Four pixels in a row to the four numbers that the filter's are multiplied with."""
    return a - c, b + c, c - b, b - d


@jit
def _store_column(work, at, step, column):
    """Write four vectors ``step`` apart."""
    vector_store(column[0], work, at)
    vector_store(column[1], work, at + step)
    vector_store(column[2], work, at + 2 * step)
    vector_store(column[3], work, at + 3 * step)


@jit
def _transform_pixels(work, at, size, image, place, row, C):
    """The 4 x 4 pixels at ``place`` to 16 numbers for each channel: number (i, j) to ``at + (4 i + j) * size``."""
    for c in range(0, C, LANES):
        p = place + c
        a = _along(*_four(image, p, C))
        b = _along(*_four(image, p + row, C))
        c_ = _along(*_four(image, p + 2 * row, C))
        d = _along(*_four(image, p + 3 * row, C))
        _store_column(work, at + c, 4 * size, _along(a[0], b[0], c_[0], d[0]))
        _store_column(work, at + c + size, 4 * size, _along(a[1], b[1], c_[1], d[1]))
        _store_column(work, at + c + 2 * size, 4 * size, _along(a[2], b[2], c_[2], d[2]))
        _store_column(work, at + c + 3 * size, 4 * size, _along(a[3], b[3], c_[3], d[3]))


@jit(forceinline=True)
def _four(array, at, step):
    """Four vectors ``step`` apart."""
    return (
        vector_load(array, at),
        vector_load(array, at + step),
        vector_load(array, at + 2 * step),
        vector_load(array, at + 3 * step),
    )


@jit(forceinline=True)
def _taps_along(a, b, c):
    """Three taps in a row to the four numbers that the pixels' are multiplied with."""
    half = vector_fill(np.float32(0.5))
    outer = half * (a + c)
    return a, outer + half * b, outer - half * b, c


@jit(parallel=True)
def transform_filters(work, w, columns):
    """Filters (3, 3, C, F) to [panel][16][C][columns of F]. Parallel over panels and channels."""
    KH, KW, C, F = w.shape
    flat, size, tap = w.reshape(-1), C * columns, C * F
    for index in prange(F // columns * C):
        task = np.int64(index)
        panel, c = task // C, task % C
        for f in range(0, columns, LANES):
            p = c * F + panel * columns + f
            at = (panel * 16 * C + c) * columns + f
            a = _taps_along(vector_load(flat, p), vector_load(flat, p + tap), vector_load(flat, p + 2 * tap))
            p += 3 * tap
            b = _taps_along(vector_load(flat, p), vector_load(flat, p + tap), vector_load(flat, p + 2 * tap))
            p += 3 * tap
            d = _taps_along(vector_load(flat, p), vector_load(flat, p + tap), vector_load(flat, p + 2 * tap))
            _store_column(work, at, 4 * size, _taps_along(a[0], b[0], d[0]))
            _store_column(work, at + size, 4 * size, _taps_along(a[1], b[1], d[1]))
            _store_column(work, at + 2 * size, 4 * size, _taps_along(a[2], b[2], d[2]))
            _store_column(work, at + 3 * size, 4 * size, _taps_along(a[3], b[3], d[3]))


@jit(forceinline=True)
def _back(m):
    """Four products to two outputs."""
    return m[0] + m[1] + m[2], m[1] - m[2] - m[3]


@jit
def _pool_products(out, argmax, at, b, f, work, products, size):
    """The 16 products of a tile, LANES filters from f on, to outputs: add the bias, pool, write."""
    a = _back(_four(work, products, size))
    b_ = _back(_four(work, products + 4 * size, size))
    c = _back(_four(work, products + 8 * size, size))
    d = _back(_four(work, products + 12 * size, size))
    left, right = _back((a[0], b_[0], c[0], d[0])), _back((a[1], b_[1], c[1], d[1]))
    bias = vector_load(b, f)
    vectors_store_pooled(left[0] + bias, right[0] + bias, left[1] + bias, right[1] + bias, out, argmax, at)


@functools.cache
def make_winograd(R, V):
    """The kernel for matrix products in tiles of R x V."""

    @jit(parallel=True)
    def winograd(out, argmax, x, b, work, padding, filters, scratch, scratch_size):
        """out and argmax (N, PH, PW, F) from x (N, H, W, C) and the transformed filters at ``work[filters:]``.

        Parallel over images, and over panels of filters where images are few. In a task: transform the image, then for
        each panel 16 matrix products, transform back, pool.
        """
        N, PH, PW, F = out.shape
        N, H, W, C = x.shape
        columns, tiles = V * LANES, PH * PW
        panels, rows, size = F // columns, -(-tiles // R) * R, tiles * C
        shares = panels if N < FEW else 1
        top, left = padding
        height, width = 2 * PH + 2, 2 * PW + 2
        flat_x, flat_out, flat_argmax = x.reshape(-1), out.reshape(-1), argmax.reshape(-1)
        for index in prange(N * shares):
            n, share = np.int64(index) // shares, np.int64(index) % shares
            pixels = scratch + numba.get_thread_id() * scratch_size
            products = pixels + 16 * size
            if top or left or height > H or width > W:
                copy = products + 16 * rows * columns
                _copy_window(work, copy, x, n, -top, -left, height, width)
                for t in range(tiles):
                    place = copy + (2 * (t // PW) * width + 2 * (t % PW)) * C
                    _transform_pixels(work, pixels + t * C, size, work, place, width * C, C)
            else:
                for t in range(tiles):
                    place = ((n * H + 2 * (t // PW)) * W + 2 * (t % PW)) * C
                    _transform_pixels(work, pixels + t * C, size, flat_x, place, W * C, C)
            for panel in range(share * panels // shares, (share + 1) * panels // shares):
                for k in range(16):
                    weights = filters + (panel * 16 + k) * C * columns
                    for t in range(0, tiles, R):
                        reads = pixel_offsets(t, tiles - 1, tiles, 0, C, R)
                        tile = tile_zeros(R, V)
                        for c in range(C):
                            tile = tile_multiply_add(
                                tile, work, reads, pixels + k * size + c, work, weights + c * columns
                            )
                        tile_store(tile, work, products + (k * rows + t) * columns, columns)
                for t in range(tiles):
                    at = (n * tiles + t) * F + panel * columns
                    for f in range(0, columns, LANES):
                        place = products + t * columns + f
                        _pool_products(
                            flat_out, flat_argmax, at + f, b, panel * columns + f, work, place, rows * columns
                        )

    return winograd
