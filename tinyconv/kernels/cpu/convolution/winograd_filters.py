"""Filters for Winograd's method (``winograd.py``): 3 x 3 taps to 4 x 4 numbers, for the forward pass and for dx."""

import functools

import numba
import numpy as np

from tinyconv.kernels.cpu.registers.host import LANES
from tinyconv.kernels.cpu.registers.tile import tile_shape
from tinyconv.kernels.cpu.registers.vector import vector_fill, vector_load, vector_store
from tinyconv.kernels.cpu.runtime.jobs import Job
from tinyconv.kernels.cpu.runtime.tasks import NOTHING, helper, kernel

SCRATCH = 9 * LANES * LANES  # floats that a thread needs


def prepare(work, w):
    """Transform the filters of a convolution."""
    _preparation(_transform, w.shape, w.shape[3]).run(w, NOTHING, NOTHING, work)


def prepare_dx(work, w):
    """Transform those of its dx."""
    _preparation(_transform_turned, w.shape, w.shape[2]).run(w, NOTHING, NOTHING, work)


@functools.lru_cache(1024)
def _preparation(kernel, w_shape, outputs):
    """The job that prepares filters of such a shape for so many channels of outputs."""
    _, _, C, F = w_shape
    return Job(kernel, C // LANES * (F // LANES), (C, F, tile_shape(outputs)[1] * LANES))


@helper(forceinline=True)
def four(array, at, step):
    """Four vectors ``step`` apart."""
    return (
        vector_load(array, at),
        vector_load(array, at + step),
        vector_load(array, at + 2 * step),
        vector_load(array, at + 3 * step),
    )


@helper(forceinline=True)
def store_four(work, at, step, four):
    """Write four vectors ``step`` apart."""
    vector_store(four[0], work, at)
    vector_store(four[1], work, at + step)
    vector_store(four[2], work, at + 2 * step)
    vector_store(four[3], work, at + 3 * step)


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


@helper
def transform_filters(work, at, size, w, place, tap, rows, row, columns):
    """LANES filters of so many channels, whose taps are matrices (channels, filters) with rows ``row`` apart and
    ``tap`` from one to the next, to 16 matrices: number (i, j) to ``at + (4 i + j) * size``, rows ``columns`` apart."""
    for c in range(rows):
        p, to = place + c * row, at + c * columns
        a, b, d = _three(w, p, tap), _three(w, p + 3 * tap, tap), _three(w, p + 6 * tap, tap)
        store_four(work, to, 4 * size, _taps_along(a[0], b[0], d[0]))
        store_four(work, to + size, 4 * size, _taps_along(a[1], b[1], d[1]))
        store_four(work, to + 2 * size, 4 * size, _taps_along(a[2], b[2], d[2]))
        store_four(work, to + 3 * size, 4 * size, _taps_along(a[3], b[3], d[3]))


@helper
def transpose(work, at, tap_to, row_to, w, place, tap, row):
    """LANES channels of LANES filters, of each tap: from (channels, filters) to (filters, channels)."""
    for k in range(9):
        for f in range(LANES):
            line = work[at + k * tap_to + f * row_to : at + k * tap_to + f * row_to + LANES]
            for c in range(LANES):
                line[c] = w[place + k * tap + c * row + f]


@kernel
def _transform(task, w, _, __, work, numbers):
    """LANES channels of as many filters (3, 3, C, F) to [panel][16][C][columns of F]."""
    C, F, columns = numbers
    c, f = task % (C // LANES) * LANES, task // (C // LANES) * LANES
    at = (f // columns * 16 * C + c) * columns + f % columns
    transform_filters(work, at, C * columns, w, c * F + f, C * F, LANES, F, columns)


@kernel
def _transform_turned(task, w, _, __, work, numbers):
    """The same of the filters turned by 180 degrees and transposed, (3, 3, F, C), to [panel][16][F][columns of C].

    The scratch behind holds the LANES x LANES transposed filters; read from the last tap to the first they are turned.
    """
    C, F, columns = numbers
    c, f = task % (C // LANES) * LANES, task // (C // LANES) * LANES
    block = LANES * LANES
    turned, at = 16 * C * F + numba.get_thread_id() * 9 * block, (c // columns * 16 * F + f) * columns + c % columns
    transpose(work, turned, block, LANES, w, c * F + f, C * F, F)
    transform_filters(work, at, F * columns, work, turned + 8 * block, -block, LANES, LANES, columns)
