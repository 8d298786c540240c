"""dx of a convolution with few channels: first the products, then each to the pixel that it belongs to.

The kernel in ``direct.py`` has the channels of dx in the lanes of a vector, and with three channels thirteen lanes
of sixteen stay empty. Here the lanes hold all numbers of a window, KH * KW * C of them: a pixel of dout times the
filters is what the window that it came from gets, and the windows are added up, where they overlap, on a *canvas* as
large as the image with its border. (Written with whole matrices, this is the product and the "col2im" of many
libraries.)

The tile is R pixels of dout times V vectors of the window's numbers; its reduction runs over filters. Parallel over
images only, so that each canvas has one owner: dx of a single image is the work of one thread.

Source: Chellapilla, Puri and Simard, "High performance convolutional neural networks for document processing" (2006).
"""

import functools

import numba
import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple

from tinyconv.kernels.cpu.convolution.geometry import COUNT, Numbers, Pass, numbers_of
from tinyconv.kernels.cpu.registers.copies import copy, fill, pack
from tinyconv.kernels.cpu.registers.host import LANES
from tinyconv.kernels.cpu.registers.tile import pixel_offsets, tile_add_products, tile_shape, tile_store, tile_zeros
from tinyconv.kernels.cpu.registers.vector import vector_load, vector_load_first, vector_store
from tinyconv.kernels.cpu.runtime.tasks import helper, kernel


def pays(w_shape):
    """Whether dx should go this way: the channels fill far fewer lanes than a window's numbers do."""
    KH, KW, C, F = w_shape
    return _filled(C) < 0.6 * _filled(KH * KW * C)


def _filled(numbers):
    """The share of lanes that so many numbers use."""
    columns = tile_shape(numbers)[1] * LANES
    return numbers / (-(-numbers // columns) * columns)


def prepare(work, w, columns):
    """Pack the filters for the forward pass and, behind them, as the matrix (F, KH * KW * C) in panels."""
    matrix = w.reshape(-1, w.shape[-1])
    pack(work, matrix, 1, columns, tile_shape(len(matrix))[1] * LANES)


def plan(out_shape, x_shape, w_shape, strides, padding, dilation, filters):
    """The pass, and the floats of its filters, which begin at ``filters``, and of its scratch."""
    N, OH, OW, F = out_shape
    N, H, W, C = x_shape
    KH, KW, C, F = w_shape
    R, V = tile_shape(KH * KW * C)
    columns = V * LANES
    matrix_columns = -(-KH * KW * C // columns) * columns
    numbers = numbers_of(N, OH, OW, F, H, W, C, KH, KW, *strides, *padding, *dilation, filters=filters)
    height, width = _canvas_size.py_func(numbers)
    return Pass(make_scatter(R, V), N, numbers), F * matrix_columns, R * matrix_columns + height * width * C + LANES


@helper
def _canvas_size(s):
    """Rows and columns of the canvas: all windows, and all pixels, lie on it."""
    height = (s.H - 1) * s.stride + (s.KH - 1) * s.dilation + 1
    width = (s.W - 1) * s.stride_w + (s.KW - 1) * s.dilation_w + 1
    return max(height, s.OH + s.top), max(width, s.OW + s.left)


@helper
def _add_run(work, to, at, size):
    """``work[to : to + size] += work[at : at + size]``. Behind these, zeros are added to less than a vector."""
    for i in range(0, size, LANES):
        total = vector_load(work, to + i) + vector_load_first(work, at + i, size - i)
        vector_store(total, work, to + i)


@functools.cache
def make_scatter(R, V):
    """The kernel for tiles of R pixels of dout times V vectors of a window's numbers."""

    @helper
    def multiply(work, products, dout, at, pixel, s, panels):
        """The products of R pixels of dout, from ``pixel`` of the image at ``dout[at:]`` on, (R, panels * columns)."""
        columns, pixels = V * LANES, s.H * s.W
        reads = pixel_offsets(pixel, pixels - 1, pixels, 0, s.C, R)
        for panel in range(panels):
            weights = s.filters + panel * s.C * columns
            tile = tile_add_products(tile_zeros(R, V), dout, reads, at, 1, work, weights, s.C)
            tile_store(tile, work, products + panel * columns, panels * columns)

    @helper
    def add_window(work, to, row_size, products, s):
        """Add a window's products to the canvas, on which the window begins at ``to``."""
        runs, size, step = s.KW, s.F, s.dilation_w * s.F
        if s.dilation_w == 1:  # neighbouring taps are one run of numbers
            runs, size = 1, s.KW * s.F
        for k in range(s.KH):
            for l in range(runs):
                _add_run(work, to + k * s.dilation * row_size + l * step, products + k * s.KW * s.F + l * size, size)

    @kernel
    def scatter(task, dx, dout, _, work, numbers):
        """dx (N, OH, OW, F) of one image from dout (N, H, W, C)."""
        s = Numbers(*to_fixed_tuple(numbers, COUNT))
        panels = -(-s.KH * s.KW * s.F // (V * LANES))
        height, width = _canvas_size(s)
        products = s.scratch + numba.get_thread_id() * s.scratch_size
        canvas, row_size = products + R * panels * V * LANES, width * s.F
        fill(work, canvas, height * row_size, np.float32(0))
        for pixel in range(0, s.H * s.W, R):
            multiply(work, products, dout, task * s.H * s.W * s.C, pixel, s, panels)
            for r in range(min(R, s.H * s.W - pixel)):
                i, j = (pixel + r) // s.W, (pixel + r) % s.W
                to = canvas + i * s.stride * row_size + j * s.stride_w * s.F
                add_window(work, to, row_size, products + r * panels * V * LANES, s)
        for y in range(s.OH):
            row = canvas + (y + s.top) * row_size + s.left * s.F
            copy(dx, (task * s.OH + y) * s.OW * s.F, work, row, s.OW * s.F)

    return scatter
