"""dw of conv -> ReLU -> max-pool for filters of any shape.

The pooled gradient is put back to where it came from, one of the four positions of its window, with zeros at the other
three; then dw is summed as that of any convolution (``filter_gradient.py``): a window's numbers times the gradient of
the filters' outputs, pixel after pixel. Three quarters of the products are with zeros, and still it takes less time
than looking for the others, where a row of a filter is not whole vectors. Summed in parts of the batch as in
``pooled_winners.py``.
"""

import functools

import numba
import numpy as np

from tinyconv.kernels.cpu.convolution.geometry import CACHED
from tinyconv.kernels.cpu.convolution.pooled import Sums, floats_seen, read_windows
from tinyconv.kernels.cpu.registers.copies import fill, load
from tinyconv.kernels.cpu.registers.host import LANES
from tinyconv.kernels.cpu.registers.tile import (
    pixel_offsets,
    tile_add_products,
    tile_load,
    tile_store,
    window_tile,
)
from tinyconv.kernels.cpu.registers.vector import select, vector_fill, vector_load, vector_store
from tinyconv.kernels.cpu.runtime.jobs import whole_lines
from tinyconv.kernels.cpu.runtime.tasks import helper, kernel


def dw(layer):
    """How dw is summed: a panel of filters at a time."""
    K = layer.KH * layer.KW * layer.C
    R, V = window_tile(K, layer.F)
    columns, row = V * LANES, 2 * layer.OW * V * LANES  # floats of the gradient under a row of windows
    bias, rows = -(-K // R) * R * columns, max(1, min(layer.OH // 2, CACHED // 2 // row))
    kernel_, scratch = make_unpooling_gradient(R, V), floats_seen(layer) + rows * row
    return Sums(kernel_, columns, whole_lines(bias + columns), 1, columns, bias, scratch, rows)


@helper
def _unpool(work, at, bias, dout, argmax, place, g, rows, columns, scale):
    """The gradient of a panel of filters under ``rows`` rows of windows, which begin at ``dout[place:]``, to
    ``work[at:]``, (2 * rows, 2 * PW, columns): scaled, and 0 where nothing won. It is also added to ``work[bias:]``."""
    zero, factor, nobody = vector_fill(np.float32(0)), vector_fill(scale), vector_fill(np.int32(-1))
    count, row_size = min(columns, g.F - place % g.F), 2 * g.PW * columns
    for _ in range(rows):
        for j in range(g.PW):
            for f in range(0, columns, LANES):
                winner, to = load(argmax, place + f, count - f), at + 2 * j * columns + f
                gradient = select(winner == nobody, zero, factor * load(dout, place + f, count - f))
                vector_store(vector_load(work, bias + f) + gradient, work, bias + f)
                for position in range(4):
                    mine = select(winner == vector_fill(np.int32(position)), gradient, zero)
                    vector_store(mine, work, to + position // 2 * row_size + position % 2 * columns)
            place += g.F
        at += 2 * row_size


@functools.cache
def make_unpooling_gradient(R, V):
    """The kernel of dw for tiles of R numbers of a window times V vectors of filters, some rows of windows at a time,
    whose gradient stays in the cache for all of the tiles."""
    columns = V * LANES

    @helper
    def add_products(work, total, gradient, source, reads, here, row_size, g, count):
        """Add to the tile at ``work[total:]`` a window's numbers, which begin at ``source[here:]``, times the gradient:
        ``count`` rows of pixels."""
        tile = tile_load(work, total, columns, R, V)
        for row in range(count):
            first, pixels = here + row * row_size, gradient + row * 2 * g.PW * columns
            tile = tile_add_products(tile, source, reads, first, g.C, work, pixels, 2 * g.PW)
        tile_store(tile, work, total, columns)

    @kernel
    def unpooling_gradient(task, dout, x, argmax, work, g, scales):
        """A partial sum of dw and db: one part of the batch, one panel of filters."""
        panels, run, scale = -(-g.F // columns), g.KW * g.C, np.float32(scales[0])
        part, panel, K = task // panels, task % panels, g.KH * run
        total = g.sums + task * g.sum_size
        bias = total + -(-K // R) * R * columns
        fill(work, total, g.sum_size, np.float32(0))
        gradient = g.scratch + numba.get_thread_id() * g.scratch_size
        for n in range(part * g.N // g.parts, (part + 1) * g.N // g.parts):
            copy = gradient + 4 * g.rows * g.PW * columns
            copied, origin, row_size, _ = read_windows(g, x, n, 1, -g.top, 2 * g.PH + g.KH - 1, work, copy)
            source = work if copied else x
            for first in range(0, g.PH, g.rows):
                count, place = min(g.rows, g.PH - first), (n * g.PH + first) * g.PW * g.F + panel * columns
                _unpool(work, gradient, bias, dout, argmax, place, g, count, columns, scale)
                here = origin + 2 * first * row_size
                for row in range(0, K, R):
                    reads, to = pixel_offsets(row, K - 1, run, row_size, 1, R), total + row * columns
                    add_products(work, to, gradient, source, reads, here, row_size, g, 2 * count)

    return unpooling_gradient
