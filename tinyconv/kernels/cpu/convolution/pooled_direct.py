"""The forward pass of conv -> ReLU -> max-pool for filters of any shape.

The four pixels of a pooling window are four rows of the register tile, so the whole step ends in registers
(``pooled_stores.py``). Parallel over images and bands of pooled rows.
"""

import functools

import numba
import numpy as np

from tinyconv.kernels.cpu.convolution.pooled import (
    bias_place,
    floats_seen,
    pooled_geometry,
    read_windows,
)
from tinyconv.kernels.cpu.registers.copies import copy_panel, fill
from tinyconv.kernels.cpu.registers.host import LANES, REGISTERS
from tinyconv.kernels.cpu.registers.pooled_stores import tile_store_pooled, window_corners
from tinyconv.kernels.cpu.registers.tile import pixel_offsets, tile_load, tile_multiply_add, tile_shape
from tinyconv.kernels.cpu.runtime.jobs import TASKS, Job
from tinyconv.kernels.cpu.runtime.tasks import NOTHING, kernel

LEAST = 1 << 16  # multiply-adds of a band: about a microsecond, beside which taking a task costs little


def prepare(work, w):
    """Pack the filters, and put them one by one behind. Parallel over panels."""
    _preparation(w.shape).run(w, NOTHING, NOTHING, work)


@functools.lru_cache(1024)
def _preparation(w_shape):
    """The job that prepares filters of such a shape."""
    KH, KW, C, F = w_shape
    columns = tile_shape(F)[1] * LANES
    single = -(-F // columns) * columns * KH * KW * C
    return Job(_prepare, -(-F // columns), (KH * KW * C, F, columns, single, bias_place(single, w_shape)))


@kernel
def _prepare(task, w, _, __, work, numbers):
    """A panel of filters (K, F) to [panel][k][columns of f], with zeros behind the last, and one by one to
    ``work[single:]``, (F, K); and zeros to where the panel's bias will be."""
    K, F, columns, single, bias = numbers
    first = task * columns
    copy_panel(work, first * K, w, 0, F, K, first, columns)
    fill(work, bias + first, columns, np.float32(0))
    for f in range(first, min(F, first + columns)):
        for k in range(K):
            work[single + f * K + k] = w[k * F + f]


def forward(layer):
    """The job of the forward pass."""
    V, taps = tile_shape(layer.F)[1], layer.KH * layer.KW * layer.C
    products = layer.OH * layer.OW * layer.F * taps
    bands = max(1, min(layer.OH // 2, -(-TASKS // layer.N), products // LEAST))
    filters = -(-layer.F // (V * LANES)) * V * LANES * taps
    make = make_direct_pooled((REGISTERS - V - 1) // (4 * V), V)
    return Job(make, layer.N * bands, pooled_geometry(layer, bands), filters, floats_seen(layer))


@functools.cache
def make_direct_pooled(windows, V):
    """The kernel for tiles of ``windows`` pooling windows times V vectors of filters."""
    R = 4 * windows

    @kernel
    def direct_pooled(task, out, x, argmax, work, g):
        """out and argmax (N, PH, PW, F) from x (N, H, W, C): a band of pooled rows of one image."""
        columns = V * LANES
        n, band = task // g.bands, task % g.bands
        first, last = band * g.PH // g.bands, (band + 1) * g.PH // g.bands
        own = g.scratch + numba.get_thread_id() * g.scratch_size
        height = 2 * (last - first) + g.KH - 1
        copied, origin, row_size, _ = read_windows(g, x, n, 1, 2 * first - g.top, height, work, own)
        source = work if copied else x
        count, write = (last - first) * g.PW, (n * g.PH + first) * g.PW * g.F
        for column in range(0, g.F, columns):
            filters = column * g.KH * g.KW * g.C
            for window in range(0, count, windows):
                starts = pixel_offsets(window, count - 1, g.PW, 2 * row_size, 2 * g.C, windows)
                reads = window_corners(starts, g.C, row_size)
                tile = tile_load(work, g.bias + column, 0, R, V)
                for k in range(g.KH):
                    for i in range(g.KW * g.C):  # a row of a filter is contiguous, in the image and in the filters
                        place = filters + (k * g.KW * g.C + i) * columns
                        tile = tile_multiply_add(tile, source, reads, origin + k * row_size + i, work, place)
                writes = pixel_offsets(window, count - 1, count, 0, g.F, windows)
                tile_store_pooled(tile, out, argmax, writes, write + column, g.F - column)

    return direct_pooled
