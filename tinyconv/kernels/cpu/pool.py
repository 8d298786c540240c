"""Pooling. The innermost loop is over the channels, which lie side by side in memory.

Backward is written the other way round than in the reference: a window does not hand its gradient to its pixels, but
each pixel collects from all windows that it lies in. So each number has one owner.
"""

import functools

import numpy as np

from tinyconv.kernels.cpu.runtime.cutting import copy_row, pieces, share
from tinyconv.kernels.cpu.runtime.jit import jit
from tinyconv.kernels.cpu.runtime.literals import ONE, ZERO
from tinyconv.kernels.cpu.runtime.tasks import helper, in_tasks, kernel, run

NOWHERE = np.zeros((0, 0, 0, 0), np.int32)  # for an argmax that a kernel does not use


@jit
def window(position, size, stride, before, limit):
    """The pixels, from first to before stop, of the window at ``position`` that lie inside the image, in one axis."""
    start = position * stride - before
    return max(start, 0), min(start + size, limit)


@jit
def windows(pixel, size, stride, before, limit):
    """The windows, from first to before stop, that a pixel lies in, in one axis."""
    reach = pixel + before
    return max((reach - size + stride) // stride, 0), min(reach // stride + 1, limit)


def _tasks(written, read):
    """How many tasks, each with some rows of the images that are written."""
    N, H, W, C = written.shape
    return min(N * H, pieces(max(written.size, read.size)))


@functools.cache
def _forward(reduce):
    """The kernel that calls ``reduce(out, argmax, x, place, rows, columns, corner, width)`` for each window: where in
    the result it is, which rows and columns of x it has, and where it begins, as if x had rows as long as its own."""

    @kernel
    def pool2d_forward(task, tasks, out, argmax, x, pool_size, strides, padding):
        N, H, W, C = x.shape
        N, OH, OW, C = out.shape
        first, last = share(task, tasks, N * OH)
        for row in range(first, last):
            n, i = row // OH, row % OH
            rows = window(i, pool_size[0], strides[0], padding[0], H)
            for j in range(OW):
                columns = window(j, pool_size[1], strides[1], padding[1], W)
                corner = (i * strides[0] - padding[0]) * pool_size[1] + j * strides[1] - padding[1]
                reduce(out, argmax, x, (n, i, j), rows, columns, corner, pool_size[1])

    return pool2d_forward


@functools.cache
def _backward(add):
    """The kernel that calls ``add(total, dout, argmax, place, pixel, image, pool_size, strides, padding)`` for each
    pixel and each window that it lies in: where in the result that is, where in the image, and how large it is."""

    @kernel
    def pool2d_backward(task, tasks, dx, dout, argmax, pool_size, strides, padding):
        N, H, W, C = dx.shape
        N, OH, OW, C = dout.shape
        first, last = share(task, tasks, N * H)
        for row in range(first, last):
            n, y = row // H, row % H
            top, bottom = windows(y, pool_size[0], strides[0], padding[0], OH)
            for z in range(W):
                left, right = windows(z, pool_size[1], strides[1], padding[1], OW)
                total = dx[n, y, z]
                total[:] = ZERO
                for i in range(top, bottom):
                    for j in range(left, right):
                        add(total, dout, argmax, (n, i, j), (y, z), (H, W), pool_size, strides, padding)

    return pool2d_backward


@helper(forceinline=True)
def _max(out, argmax, x, place, rows, columns, corner, width):
    n, i, j = place
    best = out[n, i, j]
    copy_row(best, x[n, rows[0], columns[0]])
    for y in range(rows[0], rows[1]):
        for z in range(columns[0], columns[1]):
            pixels = x[n, y, z]
            for c in range(best.size):
                value = pixels[c]
                best[c] = value if (value > best[c]) | ((value != value) & (best[c] == best[c])) else best[c]


@helper(forceinline=True)
def _max_and_where(out, argmax, x, place, rows, columns, corner, width):
    n, i, j = place
    best, winner = out[n, i, j], argmax[n, i, j]
    copy_row(best, x[n, rows[0], columns[0]])
    winner[:] = np.int32(rows[0] * width + columns[0] - corner)
    for y in range(rows[0], rows[1]):
        for z in range(columns[0], columns[1]):
            _take_larger(best, winner, x[n, y, z], np.int32(y * width + z - corner))


@jit
def _take_larger(best, winner, pixels, position):
    for c in range(best.size):
        value = pixels[c]
        wins = (value > best[c]) | ((value != value) & (best[c] == best[c]))
        best[c] = value if wins else best[c]
        winner[c] = position if wins else winner[c]


@in_tasks
def max_pool2d_forward(out, argmax, x, pool_size, strides, padding):
    """Parallel over rows of the result."""
    tasks = _tasks(out, x)
    reduce, winners = (_max_and_where, argmax) if argmax.size else (_max, NOWHERE)
    run(_forward(reduce), tasks, tasks, out, winners, x, pool_size, strides, padding)


@helper(forceinline=True)
def _add_where(total, dout, argmax, place, pixel, image, pool_size, strides, padding):
    (n, i, j), (y, z) = place, pixel
    k, l = y + padding[0] - i * strides[0], z + padding[1] - j * strides[1]
    position, gradient, winner = np.int32(k * pool_size[1] + l), dout[n, i, j], argmax[n, i, j]
    for c in range(total.size):
        total[c] += gradient[c] if winner[c] == position else ZERO


@in_tasks
def max_pool2d_backward(dx, dout, argmax, pool_size, strides, padding):
    """Parallel over rows of dx."""
    tasks = _tasks(dx, dout)
    run(_backward(_add_where), tasks, tasks, dx, dout, argmax, pool_size, strides, padding)


@jit
def _add_scaled(total, values, factor):
    for c in range(total.size):
        total[c] += values[c] * factor


@helper(forceinline=True)
def _mean(out, argmax, x, place, rows, columns, corner, width):
    n, i, j = place
    mean = out[n, i, j]
    mean[:] = ZERO
    for y in range(rows[0], rows[1]):
        for z in range(columns[0], columns[1]):
            _add_scaled(mean, x[n, y, z], ONE)
    count = np.float32((rows[1] - rows[0]) * (columns[1] - columns[0]))
    for c in range(mean.size):
        mean[c] /= count


@in_tasks
def average_pool2d_forward(out, x, pool_size, strides, padding):
    """Parallel over rows of the result."""
    tasks = _tasks(out, x)
    run(_forward(_mean), tasks, tasks, out, NOWHERE, x, pool_size, strides, padding)


@helper(forceinline=True)
def _add_part(total, dout, argmax, place, pixel, image, pool_size, strides, padding):
    n, i, j = place
    top, bottom = window(i, pool_size[0], strides[0], padding[0], image[0])
    left, right = window(j, pool_size[1], strides[1], padding[1], image[1])
    _add_scaled(total, dout[n, i, j], ONE / np.float32((bottom - top) * (right - left)))


@in_tasks
def average_pool2d_backward(dx, dout, pool_size, strides, padding):
    """Parallel over rows of dx."""
    tasks = _tasks(dx, dout)
    run(_backward(_add_part), tasks, tasks, dx, dout, NOWHERE, pool_size, strides, padding)
