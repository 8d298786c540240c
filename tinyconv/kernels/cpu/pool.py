"""Pooling, a vector of channels at a time, which lie side by side in memory; a window passes by in a register.

Backward is written the other way round than in the reference: a window does not hand its gradient to its pixels, but
each pixel collects from all windows that it lies in. So each number has one owner.
"""

import functools

import numpy as np

from tinyconv.kernels.cpu.registers.host import LANES
from tinyconv.kernels.cpu.registers.vector import (
    select,
    vector_fill,
    vector_load,
    vector_load_first,
    vector_store,
    vector_store_first,
)
from tinyconv.kernels.cpu.runtime.cutting import pieces, share
from tinyconv.kernels.cpu.runtime.jit import jit
from tinyconv.kernels.cpu.runtime.literals import ONE, ZERO
from tinyconv.kernels.cpu.runtime.tasks import helper, in_tasks, kernel, run

LOWEST = np.float32(-np.inf)
NOWHERE = np.zeros((0, 0, 0, 0), np.int32)  # for an argmax that a kernel does not use


@jit
def window(start, size, limit):
    """The pixels of a window, from first to before stop, that lie inside the image, in one axis; counted in the window,
    which begins at the pixel ``start``."""
    return max(-start, 0), min(size, limit - start)


@jit
def windows(pixel, size, stride, before, limit):
    """The windows, from first to before stop, that a pixel lies in, in one axis."""
    reach = pixel + before
    return max((reach - size + stride) // stride, 0), min(reach // stride + 1, limit)


@helper(forceinline=True)
def load_channels(array, at, count):
    """A vector of channels. Where they are fewer than its lanes, the numbers behind them come too, not zeros as from
    ``copies.load``: nobody stores them, and a mask takes longer and is needed only where the array ends."""
    return vector_load(array, at) if at + LANES <= array.size else vector_load_first(array, at, count)


def row_tasks(written, read):
    """How many tasks, each with some rows of the images that are written."""
    N, H, W, C = written.shape
    return min(N * H, pieces(max(written.size, read.size)))


@functools.cache
def _forward(reduce):
    """The kernel that calls ``reduce(out, argmax, at, x, corner, rows, columns, strides, count)`` for each window and
    vector of channels: where in the result it goes, where in memory the window begins, as if the image had no edge,
    which of its rows and columns lie inside, how far these are apart, and how many channels are left."""

    @kernel
    def pool2d_forward(task, tasks, out, argmax, x, pool_size, strides, padding):
        N, H, W, C = x.shape
        N, OH, OW, C = out.shape
        first, last = share(task, tasks, N * OH)
        for row in range(first, last):
            n, top = row // OH, row % OH * strides[0] - padding[0]
            rows = window(top, pool_size[0], H)
            for j in range(OW):
                left = j * strides[1] - padding[1]
                columns = window(left, pool_size[1], W)
                corner = ((n * H + top) * W + left) * C
                for c in range(0, C, LANES):
                    at = (row * OW + j) * C + c
                    reduce(out, argmax, at, x, corner + c, rows, columns, (W * C, C, pool_size[1]), C - c)

    return pool2d_forward


@functools.cache
def collecting(part):
    """The function that gives each pixel of a row of dx ``part(dout, argmax, at, position, weight, count)`` of each
    window that it lies in: where in memory the window's gradient is; which position of the window the pixel is; 1 over
    the number of its pixels inside the image; how many channels are left. ``last``: where the task's rows end."""

    @helper
    def collect(row, last, dx, dout, argmax, pool_size, strides, padding):
        N, H, W, C = dx.shape
        N, OH, OW, C = dout.shape
        n, y = row // H, row % H
        start, stop = windows(y, pool_size[0], strides[0], padding[0], OH)
        fresh = 0  # the first pixel of the row that nothing is written to yet
        for i in range(start, stop):
            top = i * strides[0] - padding[0]
            rows = window(top, pool_size[0], H)
            for j in range(OW):
                left = j * strides[1] - padding[1]
                columns = window(left, pool_size[1], W)
                weight = ONE / np.float32((rows[1] - rows[0]) * (columns[1] - columns[0]))
                at = ((n * OH + i) * OW + j) * C
                for l in range(columns[0], columns[1]):
                    z, position = left + l, (y - top) * pool_size[1] + l
                    _clear(dx, row * W, fresh, z, C, last)
                    for c in range(0, C, LANES):
                        more, to = part(dout, argmax, at + c, position, weight, C - c), (row * W + z) * C + c
                        if z >= fresh:
                            _store_channels(more, dx, to, C - c, last * W * C)
                        else:
                            vector_store_first(load_channels(dx, to, C - c) + more, dx, to, C - c)
                    fresh = max(fresh, z + 1)
        _clear(dx, row * W, fresh, W, C, last)

    return collect


@functools.cache
def _backward(part):
    """The kernel that does so with all rows."""
    collect = collecting(part)

    @kernel
    def pool2d_backward(task, tasks, dx, dout, argmax, pool_size, strides, padding):
        first, last = share(task, tasks, dx.shape[0] * dx.shape[1])
        for row in range(first, last):
            collect(row, last, dx, dout, argmax, pool_size, strides, padding)

    return pool2d_backward


@helper(forceinline=True)
def _clear(dx, row, fresh, stop, C, last):
    """Set to zero the pixels of a row from ``fresh`` on, to before ``stop``: no window has them."""
    for z in range(fresh, stop):
        for c in range(0, C, LANES):
            vector_store_first(vector_fill(ZERO), dx, (row + z) * C + c, C - c)


@helper(forceinline=True)
def _store_channels(vector, array, at, count, end):
    """Store a vector of channels. Where they are fewer than its lanes, what comes behind them is overwritten with the
    next pixel, up to ``end``, where the task's own part of the array ends: a mask takes longer."""
    if at + LANES <= end:
        vector_store(vector, array, at)
    else:
        vector_store_first(vector, array, at, count)


@helper(forceinline=True)
def _max(out, argmax, at, x, corner, rows, columns, strides, count):
    best = vector_fill(LOWEST)
    for k in range(rows[0], rows[1]):
        for l in range(columns[0], columns[1]):
            value = load_channels(x, corner + k * strides[0] + l * strides[1], count)
            best = select(holds(best, value), best, value)
    vector_store_first(best, out, at, count)


@helper(forceinline=True)
def holds(best, value):
    """Whether the best until now is as large as a value, or a NaN."""
    return (value <= best) | (best != best)


@helper(forceinline=True)
def _max_and_where(out, argmax, at, x, corner, rows, columns, strides, count):
    best, winner = vector_fill(LOWEST), vector_fill(rows[0] * strides[2] + columns[0])
    for k in range(rows[0], rows[1]):
        for l in range(columns[0], columns[1]):
            value = load_channels(x, corner + k * strides[0] + l * strides[1], count)
            stays = holds(best, value)
            best, winner = select(stays, best, value), select(stays, winner, vector_fill(k * strides[2] + l))
    vector_store_first(best, out, at, count)
    vector_store_first(winner, argmax, at, count)


@in_tasks
def max_pool2d_forward(out, argmax, x, pool_size, strides, padding):
    """Parallel over rows of the result."""
    tasks = row_tasks(out, x)
    reduce, winners = (_max_and_where, argmax) if argmax.size else (_max, NOWHERE)
    run(_forward(reduce), tasks, tasks, out, winners, x, pool_size, strides, padding)


@helper(forceinline=True)
def won(dout, argmax, at, position, weight, count):
    mine = load_channels(argmax, at, count) == vector_fill(position)
    return select(mine, load_channels(dout, at, count), vector_fill(ZERO))


@in_tasks
def max_pool2d_backward(dx, dout, argmax, pool_size, strides, padding):
    """Parallel over rows of dx."""
    tasks = row_tasks(dx, dout)
    run(_backward(won), tasks, tasks, dx, dout, argmax, pool_size, strides, padding)


@helper(forceinline=True)
def _mean(out, argmax, at, x, corner, rows, columns, strides, count):
    total = vector_fill(ZERO)
    for k in range(rows[0], rows[1]):
        for l in range(columns[0], columns[1]):
            total = total + load_channels(x, corner + k * strides[0] + l * strides[1], count)
    pixels = (rows[1] - rows[0]) * (columns[1] - columns[0])
    vector_store_first(total / vector_fill(np.float32(pixels)), out, at, count)


@in_tasks
def average_pool2d_forward(out, x, pool_size, strides, padding):
    """Parallel over rows of the result."""
    tasks = row_tasks(out, x)
    run(_forward(_mean), tasks, tasks, out, NOWHERE, x, pool_size, strides, padding)


@helper(forceinline=True)
def _share(dout, argmax, at, position, weight, count):
    return load_channels(dout, at, count) * vector_fill(weight)


@in_tasks
def average_pool2d_backward(dx, dout, pool_size, strides, padding):
    """Parallel over rows of dx."""
    tasks = row_tasks(dx, dout)
    run(_backward(_share), tasks, tasks, dx, dout, NOWHERE, pool_size, strides, padding)
