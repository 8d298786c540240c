"""The dense layer on the register tile (see ``registers/tile.py``).

Forward and dx are one kernel, ``product``: tiles of R samples times V vectors of units, each a reduction over the
other axis; for dx the weights are transposed. dw, ``product_gradient``, reduces over the samples: its tiles are R rows
of dw times V vectors of units. ``dense_prepare`` packs the weights in *panels* of V vectors, filled up with zeros, so
that what an inner loop reads is contiguous and has no tail. Parallel over tasks (see ``runtime/tasks.py``), each of
which owns a piece of the result, and adds it up in the order of the reduction.

``work`` holds the packed weights, forward as they are and backward transposed, dout in panels, and one scratch for each
thread.
"""

import functools
from typing import NamedTuple

import numba
import numpy as np

from tinyconv.kernels.cpu.registers.copies import add, copy, copy_panel, fill, pack, pack_transposed
from tinyconv.kernels.cpu.registers.host import LANES, REGISTERS
from tinyconv.kernels.cpu.registers.tile import (
    pixel_offsets,
    tile_add_products,
    tile_load,
    tile_relu,
    tile_store_at,
    tile_zeros,
)
from tinyconv.kernels.cpu.runtime.jobs import TASKS, Job
from tinyconv.kernels.cpu.runtime.tasks import NOTHING, in_tasks, kernel

CACHED = 64 * 1024  # floats of packed weights that a task goes through for each tile: a quarter of 1 MiB of L2 cache


class DenseGeometry(NamedTuple):
    """What a kernel must know: shapes, how they are cut into tasks, and where in ``work`` things are.

    A product reads a source and writes a destination: forward x and out, for dx dout and dx. dw has a row for each unit
    of x and a column for each of dout.
    """

    N: int
    src_units: int
    dst_units: int
    relu: int = 0
    panels: int = 0  # product: per task
    tiles: int = 0  # product: of samples, per task
    rows: int = 0  # dw: per task
    gradient: int = 0
    scratch: int = 0
    scratch_size: int = 0


class DenseJobs(NamedTuple):
    """The jobs of a dense layer, and the size of ``work``."""

    forward: Job
    dx: Job
    panels: Job  # of dout, and db
    dw: Job
    size: int


def tile_of(samples, units):
    """R and V: half of the registers, so that batches, mostly powers of two, fill whole tiles; fewer rows for fewer
    samples."""
    V = 1 if units <= LANES else 2
    R = min(8, REGISTERS // (2 * V))
    while 2 * samples <= R:
        R //= 2
    return R, V


@functools.lru_cache(1024)
def dense_jobs(N, K, F, relu=False):
    """The jobs of a layer of F units on N samples of K numbers."""
    R, V = tile_of(N, F)
    columns = V * LANES
    gradient = max(-(-F // columns) * K, -(-K // columns) * F) * columns
    scratch = gradient + N * -(-F // columns) * columns
    rows = max(1, min(4, CACHED // max(1, N) // LANES)) * LANES  # of dw per task: their part of x fits the cache
    scratch_size = max(max(K, F) + columns, N * rows)
    end = scratch + numba.config.NUMBA_NUM_THREADS * scratch_size
    places = {"gradient": gradient, "scratch": scratch, "scratch_size": scratch_size}
    forward = _product(DenseGeometry(N, K, F, relu), R, V)
    dx = _product(DenseGeometry(N, F, K), R, V)
    g = DenseGeometry(N, K, F, rows=rows)
    panels, dw = Job(make_panels(V), -(-F // columns), g), Job(make_product_gradient(R, V), -(-K // rows), g)
    return DenseJobs(*(job.place(**places) for job in (forward, dx, panels, dw)), end)


def _product(g, R, V):
    """The job of forward or dx."""
    columns = V * LANES
    panels, tiles = -(-g.dst_units // columns), -(-g.N // R)
    together = min(panels, max(1, CACHED // (g.src_units * columns)))  # that stay in the cache while the tiles go by
    groups = -(-panels // together)
    tiles_per_task = max(1, tiles * groups // TASKS)
    g = g._replace(panels=together, tiles=tiles_per_task)
    return Job(make_product(R, V), groups * -(-tiles // tiles_per_task), g)


def dense_workspace(out_shape, x_shape, w_shape):
    """See the top of the file."""
    return dense_jobs(*x_shape, out_shape[1]).size


@in_tasks
def dense_prepare(work, w):
    """Pack the weights."""
    pack(work, w, 1, tile_of(1, w.shape[1])[1] * LANES)


@in_tasks
def dense_forward(out, x, w, b, work, relu):
    """Parallel over tiles of samples and groups of panels."""
    dense_jobs(*x.shape, out.shape[1], bool(relu)).forward.run(out, x, b, work)


@in_tasks
def dense_backward(dx, dw, db, dout, x, w, work):
    """dout into panels, and db: parallel over panels; dw: parallel over blocks of rows; dx: as the forward, with the
    transposed weights, which are packed here: a first layer needs none. They lie where the forward pass had its own."""
    jobs = dense_jobs(*x.shape, dout.shape[1])
    jobs.panels.run(db, dout, NOTHING, work)
    jobs.dw.run(dw, x, NOTHING, work)
    if dx.size:
        pack_transposed(work, w, 1, tile_of(1, w.shape[1])[1] * LANES)
        jobs.dx.run(dx, dout, NOTHING, work)


@functools.cache
def make_product(R, V):
    """The kernel of forward and dx for tiles of R samples times V vectors of units."""

    @kernel
    def product(task, dst, src, b, work, g):
        """dst (N, dst_units) = src (N, src_units) times the packed weights, plus b or, if that is empty, nothing."""
        columns = V * LANES
        panels, tiles = -(-g.dst_units // columns), -(-g.N // R)
        runs = -(-tiles // g.tiles)
        panel, first = task // runs * g.panels, task % runs * g.tiles
        bias = g.scratch + numba.get_thread_id() * g.scratch_size
        fill(work, bias, panels * columns, np.float32(0))
        copy(work, bias, b, 0, b.size)
        for row in range(first * R, min((first + g.tiles) * R, g.N), R):
            reads = pixel_offsets(row, g.N - 1, g.N, 0, g.src_units, R)
            writes = pixel_offsets(row, g.N - 1, g.N, 0, g.dst_units, R)
            for column in range(panel * columns, min(g.dst_units, (panel + g.panels) * columns), columns):
                tile = tile_load(work, bias + column, 0, R, V)
                tile = tile_add_products(tile, src, reads, 0, 1, work, column * g.src_units, g.src_units)
                if g.relu:
                    tile = tile_relu(tile)
                tile_store_at(tile, dst, writes, column, g.dst_units - column)

    return product


@functools.cache
def make_panels(V):
    """The kernel that copies dout in panels of V vectors, and adds up db."""

    @kernel
    def panels(task, db, dout, _, work, g):
        """One panel of dout (N, dst_units) to ``work``, (N, columns), and of db: the sum of its rows in order."""
        columns = V * LANES
        first = task * columns
        count = min(columns, g.dst_units - first)
        copy_panel(work, g.gradient + first * g.N, dout, 0, g.dst_units, g.N, first, columns)
        fill(db, first, count, np.float32(0))
        for n in range(g.N):
            add(db, first, dout, n * g.dst_units + first, count)

    return panels


@functools.cache
def make_product_gradient(R, V):
    """The kernel of dw for tiles of R inputs times V vectors of units."""

    @kernel
    def product_gradient(task, dw, x, _, work, g):
        """A block of rows of dw (src_units, dst_units) from x (N, src_units) and dout in panels.

        First the block's columns of x are copied to the scratch: read where they are, rows whose length is a power of
        two would all fall on the same few lines of the L1 cache.
        """
        columns, rows = V * LANES, g.rows
        first = task * rows
        count = min(rows, g.src_units - first)
        block = g.scratch + numba.get_thread_id() * g.scratch_size
        copy_panel(work, block, x, 0, g.src_units, g.N, first, rows)
        for column in range(0, g.dst_units, columns):
            for row in range(0, count, R):
                tile = tile_zeros(R, V)
                reads = pixel_offsets(row, count - 1, g.src_units, 0, 1, R)
                tile = tile_add_products(tile, work, reads, block, rows, work, g.gradient + column * g.N, g.N)
                writes = pixel_offsets(first + row, first + count - 1, g.src_units, 0, g.dst_units, R)
                tile_store_at(tile, dw, writes, column, g.dst_units - column)

    return product_gradient
