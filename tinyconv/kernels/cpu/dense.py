"""The dense layer on the register tile (see ``tile.py``).

Forward and dx are one kernel, ``product``: tiles of R samples times V vectors of units, each a reduction over the
other axis; for dx the weights are transposed. dw, ``product_gradient``, reduces over the samples: its tiles are R rows
of dw times V vectors of units. ``dense_prepare`` packs the weights in *panels* of V vectors, filled up with zeros, so
that what an inner loop reads is contiguous and has no tail. Parallel (``prange``, whose index Numba takes for unsigned:
hence the int64) over tasks that each own a piece of the result, and add it up in the order of the reduction.

``work`` holds the packed weights, the packed transposed weights, the bias and then the gradient in panels, and one
scratch for each thread.
"""

import functools

import numba
import numpy as np
from numba import prange

from tinyconv.kernels.cpu.jit import jit
from tinyconv.kernels.cpu.tile import (
    LANES,
    REGISTERS,
    pixel_offsets,
    tile_load,
    tile_multiply_add,
    tile_relu,
    tile_store_at,
    tile_zeros,
)

CACHED = 64 * 1024  # floats of packed weights that a task goes through for each tile: a quarter of 1 MiB of L2 cache
TASKS = 16  # into how many tasks a kernel is cut where the shapes allow: enough for some cores, few enough to be cheap
_NO_BIAS = np.zeros(0, np.float32)


def _tile(samples, units):
    """R and V: half of the registers, so that batches, mostly powers of two, fill whole tiles; fewer rows for fewer
    samples."""
    V = 1 if units <= LANES else 2
    R = REGISTERS // (2 * V)
    while 2 * samples <= R:
        R //= 2
    return R, V


def _sizes(w_shape, columns):
    """Floats of the packed weights, and of both: panels of ``columns`` units, and of ``columns`` inputs."""
    K, F = w_shape
    packed = -(-F // columns) * K * columns
    return packed, packed + -(-K // columns) * F * columns


def _rows(samples, R, columns):
    """dw: how many rows a task takes, a whole number of tiles whose columns of x fit the cache."""
    return max(1, min(4 * LANES, CACHED // samples) // R) * R


def dense_workspace(out_shape, x_shape, w_shape):
    """See the top of the file."""
    N, F = out_shape
    R, V = _tile(N, F)
    columns = V * LANES
    scratch = numba.config.NUMBA_NUM_THREADS * N * _rows(N, R, columns)
    bias = -(-max(w_shape) // columns) * columns
    return _sizes(w_shape, columns)[1] + max(bias, N * -(-F // columns) * columns + scratch)


def dense_prepare(work, w):
    """Pack the weights, and the transposed weights behind them. Parallel over blocks of rows of w."""
    columns = _tile(1, w.shape[1])[1] * LANES
    _pack(work, w, columns, _sizes(w.shape, columns)[0])


@jit(parallel=True)
def _pack(work, w, columns, transposed):
    """Pack to [panel][k][columns of f], and to [panel][f][columns of k]. w (K, F)."""
    K, F = w.shape
    panels = -(-F // columns)
    for index in prange(-(-K // columns)):
        block = np.int64(index)
        first, rows = block * columns, min(columns, K - block * columns)
        turned = transposed + block * F * columns
        for panel in range(panels):
            count = min(columns, F - panel * columns)
            for k in range(rows):
                at = (panel * K + first + k) * columns
                line, numbers = work[at : at + columns], w[first + k, panel * columns : panel * columns + count]
                for f in range(count):
                    line[f] = numbers[f]
                for f in range(count, columns):
                    line[f] = 0
            for k in range(columns):
                for f in range(panel * columns, min(F, (panel + 1) * columns)):
                    work[turned + f * columns + k] = w[first + k, f] if k < rows else np.float32(0)


def dense_forward(out, x, w, b, work, relu):
    """Parallel over tiles of samples and groups of panels."""
    R, V = _tile(*out.shape)
    bias = _sizes(w.shape, V * LANES)[1]
    make_product(R, V)(out, x, b, work, 0, bias, relu)


def dense_backward(dx, dw, db, dout, x, w, work):
    """dw and db, parallel over blocks of rows of dw; then dx, parallel as in the forward."""
    R, V = _tile(*dout.shape)
    transposed, gradient = _sizes(w.shape, V * LANES)
    make_product_gradient(R, V)(dw, db, dout, x, work, gradient, _rows(len(x), R, V * LANES))
    if dx.size:
        make_product(R, V)(dx, dout, _NO_BIAS, work, transposed, gradient, False)


@functools.cache
def make_product(R, V):
    """The kernel of forward and dx for tiles of R samples times V vectors of units."""

    @jit(parallel=True)
    def product(out, x, b, work, weights, bias, relu):
        """out (N, F) = x (N, K) times the packed weights, plus b (F,) or, if that is empty, nothing."""
        N, F = out.shape
        N, K = x.shape
        columns = V * LANES
        panels, tiles = -(-F // columns), -(-N // R)
        group = max(1, CACHED // (K * columns))  # panels that stay in the cache while the tiles go by
        groups = -(-panels // group)
        run = max(1, tiles * groups // TASKS)  # tiles in a row
        runs = -(-tiles // run)
        for f in range(panels * columns):
            work[bias + f] = b[f] if f < b.size else np.float32(0)
        for index in prange(groups * runs):
            task = np.int64(index)
            first_panel, first_tile = task // runs * group, task % runs * run
            for row in range(first_tile * R, min((first_tile + run) * R, N), R):
                reads = pixel_offsets(row, N - 1, N, 0, K, R)
                writes = pixel_offsets(row, N - 1, N, 0, F, R)
                for panel in range(first_panel, min(first_panel + group, panels)):
                    tile = tile_load(work, bias + panel * columns, 0, R, V)
                    at = weights + panel * K * columns
                    for k in range(K):
                        tile = tile_multiply_add(tile, x, reads, k, work, at + k * columns)
                    if relu:
                        tile = tile_relu(tile)
                    tile_store_at(tile, out, writes, panel * columns, F - panel * columns)

    return product


@functools.cache
def make_product_gradient(R, V):
    """The kernel of dw and db for tiles of R inputs times V vectors of units."""

    @jit(parallel=True)
    def product_gradient(dw, db, dout, x, work, gradient, rows):
        """dw (K, F) and db (F,) from dout (N, F) and x (N, K), in tasks of ``rows`` rows of dw.

        dout is first copied in panels, and each task's columns of x to its scratch: read where they are, rows of a
        power-of-two length would all fall on the same few lines of the L1 cache.
        """
        N, F = dout.shape
        N, K = x.shape
        columns = V * LANES
        panels = -(-F // columns)
        for index in prange(panels):
            panel = np.int64(index)
            _copy_panel(work, gradient + panel * N * columns, dout, panel * columns, columns)
            _sum_rows(db, dout, panel * columns, min((panel + 1) * columns, F))
        scratch = gradient + panels * N * columns
        for index in prange(-(-K // rows)):
            first = np.int64(index) * rows
            count = min(rows, K - first)
            block = scratch + numba.get_thread_id() * N * rows
            _copy_panel(work, block, x, first, rows)
            for panel in range(panels):
                for row in range(0, count, R):
                    tile = tile_zeros(R, V)
                    reads = pixel_offsets(row, count - 1, K, 0, 1, R)
                    at = gradient + panel * N * columns
                    for n in range(N):
                        tile = tile_multiply_add(tile, work, reads, block + n * rows, work, at + n * columns)
                    writes = pixel_offsets(first + row, first + count - 1, K, 0, F, R)
                    tile_store_at(tile, dw, writes, panel * columns, F - panel * columns)

    return product_gradient


@jit
def _copy_panel(target, at, matrix, first, columns):
    """Copy columns ``first ..`` of a matrix to ``target[at:]``, (rows, columns), with zeros behind its last column."""
    rows, width = matrix.shape
    count = min(columns, width - first)
    for n in range(rows):
        line, numbers = target[at : at + columns], matrix[n, first : first + count]
        for f in range(count):
            line[f] = numbers[f]
        for f in range(count, columns):
            line[f] = 0
        at += columns


@jit
def _sum_rows(total, matrix, first, last):
    """total[first:last] = the sum of the rows of those columns, in order."""
    totals = total[first:last]
    totals[:] = 0
    for n in range(len(matrix)):
        numbers = matrix[n, first:last]
        for f in range(len(totals)):
            totals[f] += numbers[f]
