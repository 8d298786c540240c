"""Pooling, parallel over rows of the result. The innermost loop is over the channels, which lie side by side in memory.

Backward is written the other way round than in the reference: a window does not hand its gradient to its pixels, but
each pixel collects from all windows that it lies in. So each number has one owner.
"""

import numpy as np
from numba import prange

from tinyconv.kernels.cpu.runtime.cutting import by_size, copy
from tinyconv.kernels.cpu.runtime.jit import jit

ZERO, ONE = np.float32(0), np.float32(1)


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


@jit
def _take_larger(best, pixels):
    for c in range(best.size):
        value = pixels[c]
        best[c] = value if (value > best[c]) | ((value != value) & (best[c] == best[c])) else best[c]


@jit
def _take_larger_and_where(best, winner, pixels, position):
    for c in range(best.size):
        value = pixels[c]
        wins = (value > best[c]) | ((value != value) & (best[c] == best[c]))
        best[c] = value if wins else best[c]
        winner[c] = position if wins else winner[c]


@by_size()
def _max_pool2d(out, x, pool_size, strides, padding):
    N, H, W, C = x.shape
    N, OH, OW, C = out.shape
    for row in prange(N * OH):
        n, i = np.int64(row) // OH, np.int64(row) % OH
        top, bottom = window(i, pool_size[0], strides[0], padding[0], H)
        for j in range(OW):
            left, right = window(j, pool_size[1], strides[1], padding[1], W)
            copy(out[n, i, j], x[n, top, left])
            for y in range(top, bottom):
                for z in range(left, right):
                    _take_larger(out[n, i, j], x[n, y, z])


@by_size()
def _max_pool2d_and_where(out, argmax, x, pool_size, strides, padding):
    N, H, W, C = x.shape
    N, OH, OW, C = out.shape
    for row in prange(N * OH):
        n, i = np.int64(row) // OH, np.int64(row) % OH
        top, bottom = window(i, pool_size[0], strides[0], padding[0], H)
        for j in range(OW):
            left, right = window(j, pool_size[1], strides[1], padding[1], W)
            corner = (i * strides[0] - padding[0]) * pool_size[1] + j * strides[1] - padding[1]
            copy(out[n, i, j], x[n, top, left])
            argmax[n, i, j] = top * pool_size[1] + left - corner
            for y in range(top, bottom):
                for z in range(left, right):
                    position = np.int32(y * pool_size[1] + z - corner)
                    _take_larger_and_where(out[n, i, j], argmax[n, i, j], x[n, y, z], position)


def max_pool2d_forward(out, argmax, x, pool_size, strides, padding):
    if argmax.size:
        _max_pool2d_and_where(out, argmax, x, pool_size, strides, padding)
    else:
        _max_pool2d(out, x, pool_size, strides, padding)


@jit
def _add_where(total, dout, argmax, position):
    for c in range(total.size):
        total[c] += dout[c] if argmax[c] == position else ZERO


@by_size()
def max_pool2d_backward(dx, dout, argmax, pool_size, strides, padding):
    N, H, W, C = dx.shape
    N, OH, OW, C = dout.shape
    for row in prange(N * H):
        n, y = np.int64(row) // H, np.int64(row) % H
        top, bottom = windows(y, pool_size[0], strides[0], padding[0], OH)
        for z in range(W):
            left, right = windows(z, pool_size[1], strides[1], padding[1], OW)
            dx[n, y, z] = ZERO
            for i in range(top, bottom):
                for j in range(left, right):
                    k, l = y + padding[0] - i * strides[0], z + padding[1] - j * strides[1]
                    position = np.int32(k * pool_size[1] + l)
                    _add_where(dx[n, y, z], dout[n, i, j], argmax[n, i, j], position)


@jit
def _add_scaled(total, values, factor):
    for c in range(total.size):
        total[c] += values[c] * factor


@by_size()
def average_pool2d_forward(out, x, pool_size, strides, padding):
    N, H, W, C = x.shape
    N, OH, OW, C = out.shape
    for row in prange(N * OH):
        n, i = np.int64(row) // OH, np.int64(row) % OH
        top, bottom = window(i, pool_size[0], strides[0], padding[0], H)
        for j in range(OW):
            left, right = window(j, pool_size[1], strides[1], padding[1], W)
            mean = out[n, i, j]
            mean[:] = ZERO
            for y in range(top, bottom):
                for z in range(left, right):
                    _add_scaled(mean, x[n, y, z], ONE)
            count = np.float32((bottom - top) * (right - left))
            for c in range(C):
                mean[c] /= count


@by_size()
def average_pool2d_backward(dx, dout, pool_size, strides, padding):
    N, H, W, C = dx.shape
    N, OH, OW, C = dout.shape
    for row in prange(N * H):
        n, y = np.int64(row) // H, np.int64(row) % H
        for z in range(W):
            dx[n, y, z] = ZERO
            top, bottom = windows(y, pool_size[0], strides[0], padding[0], OH)
            left, right = windows(z, pool_size[1], strides[1], padding[1], OW)
            for i in range(top, bottom):
                first, last = window(i, pool_size[0], strides[0], padding[0], H)
                for j in range(left, right):
                    start, stop = window(j, pool_size[1], strides[1], padding[1], W)
                    _add_scaled(dx[n, y, z], dout[n, i, j], ONE / np.float32((last - first) * (stop - start)))
