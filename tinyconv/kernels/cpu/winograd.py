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
from numba.np.unsafe.ndarray import to_fixed_tuple

from tinyconv.kernels.cpu.host import LANES, REGISTERS
from tinyconv.kernels.cpu.pooled import COUNT, Step, read_image
from tinyconv.kernels.cpu.tasks import helper, kernel
from tinyconv.kernels.cpu.tile import (
    pixel_offsets,
    stay_apart,
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
    """(R, V): as many rows as fit in the registers beside V vectors of filters, or one less, or half, whichever leaves
    the fewest rows of the last matrix empty. (A choice of three: every R is a kernel of its own to compile.)"""
    V = tile_shape(F)[1]
    most = (REGISTERS - V - 1) // V
    return min((most, most - 1, most // 2), key=lambda R: -(-tiles // R) * R), V


def shares(N, F):
    """Into how many tasks an image is cut: one, or, where images are few, its panels of filters."""
    return F // (tile_shape(F)[1] * LANES) if N < FEW else 1


def scratch_size(out_shape, C):
    """Floats that one thread needs: the padded image, its transformed tiles, and a panel of products."""
    N, PH, PW, F = out_shape
    R, V = tile_rows(PH * PW, F)
    rows = -(-PH * PW // R) * R
    return (2 * PH + 2) * (2 * PW + 2) * C + 16 * PH * PW * C + 16 * rows * V * LANES


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


@kernel
def prepare(task, w, _, __, work, numbers):
    """LANES channels of a panel of the filters (3, 3, C, F) to [panel][16][C][columns of F], and, one by one, to
    ``work[single:]``, (F, 9 * C)."""
    C, F, columns, single = to_fixed_tuple(numbers, 4)
    blocks, size, tap = C // LANES, C * columns, C * F
    panel, block = task // blocks, task % blocks
    for c in range(block * LANES, (block + 1) * LANES):
        for f in range(0, columns, LANES):
            p = c * F + panel * columns + f
            at = (panel * 16 * C + c) * columns + f
            a, b, d = _three(w, p, tap), _three(w, p + 3 * tap, tap), _three(w, p + 6 * tap, tap)
            _store_four(work, at, 4 * size, _taps_along(a[0], b[0], d[0]))
            _store_four(work, at + size, 4 * size, _taps_along(a[1], b[1], d[1]))
            _store_four(work, at + 2 * size, 4 * size, _taps_along(a[2], b[2], d[2]))
            _store_four(work, at + 3 * size, 4 * size, _taps_along(a[3], b[3], d[3]))
    for f in range(panel * columns, (panel + 1) * columns):
        for k in range(9):
            place = k * C + block * LANES
            filter_ = work[single + f * 9 * C + place : single + f * 9 * C + place + LANES]
            for c in range(LANES):
                filter_[c] = w[(place + c) * F + f]


@helper(forceinline=True)
def _back(m):
    """Four products to two outputs."""
    return m[0] + m[1] + m[2], m[1] - m[2] - m[3]


@helper
def _pool_products(out, argmax, at, work, bias, products, size):
    """The 16 products of a tile, LANES filters, to outputs: add the bias, pool, write."""
    a = _back(_four(work, products, size))
    b = _back(_four(work, products + 4 * size, size))
    c = _back(_four(work, products + 8 * size, size))
    d = _back(_four(work, products + 12 * size, size))
    left, right = _back((a[0], b[0], c[0], d[0])), _back((a[1], b[1], c[1], d[1]))
    bias_ = vector_load(work, bias)
    vectors_store_pooled(left[0] + bias_, right[0] + bias_, left[1] + bias_, right[1] + bias_, out, argmax, at)


@functools.cache
def make_winograd(R, V):
    """The kernel for matrix products in tiles of R x V."""

    @helper
    def multiply(work, products, pixels, weights, tiles, C):
        """One of the 16 matrix products: (tiles, C) times (C, columns) to ``work[products:]``, (rows, columns)."""
        stay_apart()
        columns = V * LANES
        for t in range(0, tiles, R):
            reads = pixel_offsets(t, tiles - 1, tiles, 0, C, R)
            tile = tile_zeros(R, V)
            for c in range(C):
                tile = tile_multiply_add(tile, work, reads, pixels + c, work, weights + c * columns)
            tile_store(tile, work, products + t * columns, columns)

    @kernel
    def winograd(task, out, x, argmax, work, numbers):
        """out and argmax (N, PH, PW, F) from x (N, H, W, C) and the transformed filters: one image, all panels of
        filters or, where images are few, some.

        Transform the image, then for each panel 16 matrix products, transform back, pool.
        """
        s = Step(*to_fixed_tuple(numbers, COUNT))
        n, share = task // s.pieces, task % s.pieces
        columns, tiles = V * LANES, s.PH * s.PW
        panels, rows, size = s.F // columns, -(-tiles // R) * R, tiles * s.C
        pixels = s.scratch + numba.get_thread_id() * s.scratch_size
        products = pixels + 16 * size
        copy = products + 16 * rows * columns
        copied, origin, row_size, _ = read_image(s, x, n, 1, -s.top, 2 * s.PH + 2, work, copy)
        image = work if copied else x
        for i in range(s.PH):
            for j in range(s.PW):
                place, at = origin + 2 * i * row_size + 2 * j * s.C, pixels + (i * s.PW + j) * s.C
                _transform_pixels(work, at, size, image, place, row_size, s.C)
        for panel in range(share * panels // s.pieces, (share + 1) * panels // s.pieces):
            for k in range(16):
                weights = (panel * 16 + k) * s.C * columns
                multiply(work, products + k * rows * columns, pixels + k * size, weights, tiles, s.C)
            for t in range(tiles):
                at = (n * tiles + t) * s.F
                for f in range(0, columns, LANES):
                    filter_ = panel * columns + f
                    place = products + t * columns + f
                    _pool_products(out, argmax, at + filter_, work, s.bias + filter_, place, rows * columns)

    return winograd
