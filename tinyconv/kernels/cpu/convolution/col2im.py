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

from tinyconv.kernels.cpu.convolution.geometry import dx_geometry
from tinyconv.kernels.cpu.registers.copies import copy, fill, pack_transposed
from tinyconv.kernels.cpu.registers.host import LANES
from tinyconv.kernels.cpu.registers.tile import pixel_offsets, tile_add_products, tile_shape, tile_store, tile_zeros
from tinyconv.kernels.cpu.registers.vector import vector_load, vector_load_first, vector_store
from tinyconv.kernels.cpu.runtime.jobs import Job
from tinyconv.kernels.cpu.runtime.tasks import helper, kernel


def prepare_dx(work, w):
    """Pack the filters as the matrix (F, KH * KW * C) in panels."""
    matrix = w.reshape(-1, w.shape[-1])
    pack_transposed(work, matrix, 1, tile_shape(len(matrix))[1] * LANES)


def dx(layer):
    """The job of dx."""
    R, V = tile_shape(layer.KH * layer.KW * layer.C)
    columns = V * LANES
    matrix_columns = -(-layer.KH * layer.KW * layer.C // columns) * columns
    g = dx_geometry(layer)
    height, width = _canvas_size.py_func(g)
    scratch = R * matrix_columns + height * width * layer.C + LANES
    return Job(make_col2im(R, V), layer.N, g, layer.F * matrix_columns, scratch)


@helper
def _canvas_size(g):
    """Rows and columns of the canvas: all windows, and all pixels, lie on it."""
    height = (g.src_H - 1) * g.stride + (g.KH - 1) * g.dilation + 1
    width = (g.src_W - 1) * g.stride_w + (g.KW - 1) * g.dilation_w + 1
    return max(height, g.dst_H + g.top), max(width, g.dst_W + g.left)


@helper
def _add_run(work, to, at, size):
    """``work[to : to + size] += work[at : at + size]``. Behind these, zeros are added to less than a vector."""
    for i in range(0, size, LANES):
        total = vector_load(work, to + i) + vector_load_first(work, at + i, size - i)
        vector_store(total, work, to + i)


@functools.cache
def make_col2im(R, V):
    """The kernel for tiles of R pixels of dout times V vectors of a window's numbers."""

    @helper
    def multiply(work, products, dout, at, pixel, g, panels):
        """The products of R pixels of dout, from ``pixel`` of the image at ``dout[at:]`` on, (R, panels * columns)."""
        columns, pixels = V * LANES, g.src_H * g.src_W
        reads = pixel_offsets(pixel, pixels - 1, pixels, 0, g.src_C, R)
        for panel in range(panels):
            weights = panel * g.src_C * columns
            tile = tile_add_products(tile_zeros(R, V), dout, reads, at, 1, work, weights, g.src_C)
            tile_store(tile, work, products + panel * columns, panels * columns)

    @helper
    def add_window(work, to, row_size, products, g):
        """Add a window's products to the canvas, on which the window begins at ``to``."""
        runs, size, step = g.KW, g.dst_C, g.dilation_w * g.dst_C
        if g.dilation_w == 1:  # neighbouring taps are one run of numbers
            runs, size = 1, g.KW * g.dst_C
        for k in range(g.KH):
            for l in range(runs):
                _add_run(
                    work, to + k * g.dilation * row_size + l * step, products + k * g.KW * g.dst_C + l * size, size
                )

    @kernel
    def col2im(task, dx, dout, _, work, g):
        """dx (N, dst_H, dst_W, dst_C) of one image from dout (N, src_H, src_W, src_C)."""
        panels = -(-g.KH * g.KW * g.dst_C // (V * LANES))
        height, width = _canvas_size(g)
        products = g.scratch + numba.get_thread_id() * g.scratch_size
        canvas, row_size = products + R * panels * V * LANES, width * g.dst_C
        fill(work, canvas, height * row_size, np.float32(0))
        for pixel in range(0, g.src_H * g.src_W, R):
            multiply(work, products, dout, task * g.src_H * g.src_W * g.src_C, pixel, g, panels)
            for r in range(min(R, g.src_H * g.src_W - pixel)):
                i, j = (pixel + r) // g.src_W, (pixel + r) % g.src_W
                to = canvas + i * g.stride * row_size + j * g.stride_w * g.dst_C
                add_window(work, to, row_size, products + r * panels * V * LANES, g)
        for y in range(g.dst_H):
            row = canvas + (y + g.top) * row_size + g.left * g.dst_C
            copy(dx, (task * g.dst_H + y) * g.dst_W * g.dst_C, work, row, g.dst_W * g.dst_C)

    return col2im
