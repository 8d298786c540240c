"""The dense layer on the register tile (see ``tile.py``).

Forward and dx are one kernel, ``product``: tiles of R samples times V vectors of units, each a reduction over the
other axis; for dx the weights are transposed. dw, ``product_gradient``, reduces over the samples: its tiles are R rows
of dw times V vectors of units. ``dense_prepare`` packs the weights in *panels* of V vectors, filled up with zeros, so
that what an inner loop reads is contiguous and has no tail. Parallel over tasks (see ``tasks.py``) that each own a
piece of the result, and add it up in the order of the reduction.

``work`` holds the packed weights, the packed transposed weights, dout in panels, and one scratch for each thread.
"""

import functools
from typing import NamedTuple

import numba
import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple

from tinyconv.kernels.cpu.registers.copies import add, copy, copy_panel, fill, pack
from tinyconv.kernels.cpu.registers.host import LANES, REGISTERS
from tinyconv.kernels.cpu.registers.tile import (
    pixel_offsets,
    tile_add_products,
    tile_load,
    tile_relu,
    tile_store_at,
    tile_zeros,
)
from tinyconv.kernels.cpu.runtime.tasks import NOTHING, in_tasks, kernel, run

CACHED = 64 * 1024  # floats of packed weights that a task goes through for each tile: a quarter of 1 MiB of L2 cache
TASKS = 16  # into how many tasks a kernel is cut where the shapes allow: enough for some cores, few enough to be cheap


class Numbers(NamedTuple):
    """What a kernel must know: shapes, how they are cut into tasks, and where in ``work`` things are."""

    N: int
    K: int  # product: of the sum; product_gradient: rows of dw
    F: int
    relu: int
    group: int  # product: panels per task; product_gradient: rows of dw per task
    tiles: int  # product: tiles of samples per task
    weights: int
    gradient: int
    scratch: int
    scratch_size: int


_COUNT = len(Numbers._fields)


def tile_of(samples, units):
    """R and V: half of the registers, so that batches, mostly powers of two, fill whole tiles; fewer rows for fewer
    samples."""
    V = 1 if units <= LANES else 2
    R = min(8, REGISTERS // (2 * V))
    while 2 * samples <= R:
        R //= 2
    return R, V


@functools.lru_cache(1024)
def plan(N, K, F, relu=False):
    """The numbers of the forward, dx and dw kernels, how many tasks each has, and the size of ``work``."""
    R, V = tile_of(N, F)
    columns = V * LANES
    transposed = -(-F // columns) * K * columns
    gradient = transposed + -(-K // columns) * F * columns
    scratch = gradient + N * -(-F // columns) * columns
    rows = max(1, min(4, CACHED // max(1, N) // LANES)) * LANES  # of dw per task: their part of x fits the cache
    scratch_size = max(max(K, F) + columns, N * rows)
    end = scratch + numba.config.NUMBA_NUM_THREADS * scratch_size

    def product(K, F, relu, weights):
        panels, tiles = -(-F // columns), -(-N // R)
        group = min(panels, max(1, CACHED // (K * columns)))  # panels that stay in the cache while the tiles go by
        groups = -(-panels // group)
        tiles_per_task = max(1, tiles * groups // TASKS)
        numbers = Numbers(N, K, F, relu, group, tiles_per_task, weights, gradient, scratch, scratch_size)
        return np.array(numbers), groups * -(-tiles // tiles_per_task)

    forward = product(K, F, relu, 0)
    dx = product(F, K, False, transposed)
    dw = np.array(Numbers(N, K, F, False, rows, 0, 0, gradient, scratch, scratch_size)), -(-K // rows)
    return forward, dx, dw, end


def dense_workspace(out_shape, x_shape, w_shape):
    """See the top of the file."""
    return plan(*x_shape, out_shape[1])[-1]


@in_tasks
def dense_prepare(work, w):
    """Pack the weights, and the transposed weights behind them."""
    columns = tile_of(1, w.shape[1])[1] * LANES
    pack(work, w, 1, columns, columns)


@in_tasks
def dense_forward(out, x, w, b, work, relu):
    """Parallel over tiles of samples and groups of panels."""
    numbers, tasks = plan(*x.shape, out.shape[1], bool(relu))[0]
    run(make_product(*tile_of(*out.shape)), tasks, out, x, b, work, numbers)


@in_tasks
def dense_backward(dx, dw, db, dout, x, w, work):
    """dout into panels, and db: parallel over panels; dw: parallel over blocks of rows; dx: as the forward."""
    R, V = tile_of(*dout.shape)
    _, product, gradient, _ = plan(*x.shape, dout.shape[1])
    run(make_panels(V), -(-dout.shape[1] // (V * LANES)), db, dout, NOTHING, work, gradient[0])
    run(make_product_gradient(R, V), gradient[1], dw, x, NOTHING, work, gradient[0])
    if dx.size:
        run(make_product(R, V), product[1], dx, dout, NOTHING, work, product[0])


@functools.cache
def make_product(R, V):
    """The kernel of forward and dx for tiles of R samples times V vectors of units."""

    @kernel
    def product(task, out, x, b, work, numbers):
        """out (N, F) = x (N, K) times the packed weights, plus b (F,) or, if that is empty, nothing."""
        s = Numbers(*to_fixed_tuple(numbers, _COUNT))
        columns = V * LANES
        panels, tiles = -(-s.F // columns), -(-s.N // R)
        runs = -(-tiles // s.tiles)
        panel, first = task // runs * s.group, task % runs * s.tiles
        bias = s.scratch + numba.get_thread_id() * s.scratch_size
        fill(work, bias, panels * columns, np.float32(0))
        copy(work, bias, b, 0, b.size)
        for row in range(first * R, min((first + s.tiles) * R, s.N), R):
            reads = pixel_offsets(row, s.N - 1, s.N, 0, s.K, R)
            writes = pixel_offsets(row, s.N - 1, s.N, 0, s.F, R)
            for column in range(panel * columns, min(s.F, (panel + s.group) * columns), columns):
                tile = tile_load(work, bias + column, 0, R, V)
                tile = tile_add_products(tile, x, reads, 0, 1, work, s.weights + column * s.K, s.K)
                if s.relu:
                    tile = tile_relu(tile)
                tile_store_at(tile, out, writes, column, s.F - column)

    return product


@functools.cache
def make_panels(V):
    """The kernel that copies dout in panels of V vectors, and adds up db."""

    @kernel
    def panels(task, db, dout, _, work, numbers):
        """One panel of dout (N, F) to ``work``, (N, columns), and its part of db (F,), the sum of its rows in order."""
        s = Numbers(*to_fixed_tuple(numbers, _COUNT))
        columns = V * LANES
        first = task * columns
        count = min(columns, s.F - first)
        copy_panel(work, s.gradient + first * s.N, dout, 0, s.F, s.N, first, columns)
        fill(db, first, count, np.float32(0))
        for n in range(s.N):
            add(db, first, dout, n * s.F + first, count)

    return panels


@functools.cache
def make_product_gradient(R, V):
    """The kernel of dw for tiles of R inputs times V vectors of units."""

    @kernel
    def product_gradient(task, dw, x, _, work, numbers):
        """A block of rows of dw (K, F) from x (N, K) and dout in panels.

        First the block's columns of x are copied to the scratch: read where they are, rows whose length is a power of
        two would all fall on the same few lines of the L1 cache.
        """
        s = Numbers(*to_fixed_tuple(numbers, _COUNT))
        columns, rows = V * LANES, s.group
        first = task * rows
        count = min(rows, s.K - first)
        block = s.scratch + numba.get_thread_id() * s.scratch_size
        copy_panel(work, block, x, 0, s.K, s.N, first, rows)
        for column in range(0, s.F, columns):
            for row in range(0, count, R):
                tile = tile_zeros(R, V)
                reads = pixel_offsets(row, count - 1, s.K, 0, 1, R)
                tile = tile_add_products(tile, work, reads, block, rows, work, s.gradient + column * s.N, s.N)
                writes = pixel_offsets(first + row, first + count - 1, s.K, 0, s.F, R)
                tile_store_at(tile, dw, writes, column, s.F - column)

    return product_gradient
