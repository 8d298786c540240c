"""Depthwise convolution. The innermost loop is over the channels, which lie side by side in memory.

Forward, a row of the result is one task's; of dx a row of the image, which collects from the outputs' rows that it took
part in; dw and db are sums of parts of the result's rows, which are added in order.
"""

import numpy as np

from tinyconv.kernels.cpu.runtime.cutting import copy_row, pieces, share
from tinyconv.kernels.cpu.runtime.jit import jit
from tinyconv.kernels.cpu.runtime.literals import ZERO
from tinyconv.kernels.cpu.runtime.tasks import in_tasks, kernel, run

PARTS, LEAST = 32, 16384  # into how many parts, at most, dw's sum is cut, and how many products each has, at least


@jit
def _taps(position, size, stride, before, dilation, limit):
    """The taps, from first to before stop, that lie inside the image in one axis, and the pixel of tap 0."""
    start = position * stride - before
    first, stop = max(-start, 0), limit - start
    if dilation > 1:  # a division is slow
        first, stop = (first + dilation - 1) // dilation, (stop + dilation - 1) // dilation
    return first, min(size, stop), start


@jit
def _add_products(out, x, w):
    """out[c, d] += x[c] * w[c, d], both flat."""
    D = out.size // x.size
    if D == 1:
        for c in range(x.size):
            out[c] += x[c] * w[c]
    else:
        for c in range(x.size):
            for d in range(c * D, (c + 1) * D):
                out[d] += x[c] * w[d]


@jit
def _add_sums(dx, dout, w):
    """dx[c] += the sum over d of dout[c, d] * w[c, d]."""
    D = dout.size // dx.size
    if D == 1:
        for c in range(dx.size):
            dx[c] += dout[c] * w[c]
    else:
        for c in range(dx.size):
            for d in range(c * D, (c + 1) * D):
                dx[c] += dout[d] * w[d]


@kernel
def _forward(task, tasks, out, x, w, b, strides, padding, dilation):
    N, OH, OW, F = out.shape
    H, W = x.shape[1:3]
    KH, KW = w.shape[:2]
    first, last = share(task, tasks, N * OH)
    for row in range(first, last):
        n, i = row // OH, row % OH
        top, bottom, y = _taps(i, KH, strides[0], padding[0], dilation[0], H)
        for j in range(OW):
            left, right, z = _taps(j, KW, strides[1], padding[1], dilation[1], W)
            o = out[n, i, j]
            copy_row(o, b)
            for k in range(top, bottom):
                for l in range(left, right):
                    _add_products(o, x[n, y + k * dilation[0], z + l * dilation[1]], w[k, l])


@in_tasks
def depthwise_conv2d_forward(out, x, w, b, strides, padding, dilation):
    """Parallel over rows of the result."""
    KH, KW, C, D = w.shape
    tasks = pieces(out.size, KH * KW)
    run(_forward, tasks, tasks, out, x, w.reshape(KH, KW, C * D), b, strides, padding, dilation)


@kernel
def _input_gradient(task, tasks, dx, dout, w, strides, padding, dilation):
    N, H, W, C = dx.shape
    OH, OW = dout.shape[1:3]
    KH, KW = w.shape[:2]
    first, last = share(task, tasks, N * H)
    for row in range(first, last):
        n, y = row // H, row % H
        dx[n, y, :, :] = ZERO
        for k in range(KH):
            i = (y + padding[0] - k * dilation[0]) // strides[0]
            if (i * strides[0] - padding[0] + k * dilation[0] != y) | (i < 0) | (i >= OH):
                continue
            for j in range(OW):
                left, right, z = _taps(j, KW, strides[1], padding[1], dilation[1], W)
                for l in range(left, right):
                    _add_sums(dx[n, y, z + l * dilation[1]], dout[n, i, j], w[k, l])


@kernel
def _filter_sums(task, sums, dout, x, strides, padding, dilation):
    """A part's sums: sums[task] (KH, KW, F), and in the last row of KH, at tap 0, db."""
    N, OH, OW, F = dout.shape
    H, W = x.shape[1:3]
    parts, KH, KW = sums.shape[0], sums.shape[1] - 1, sums.shape[2]
    first, last = share(task, parts, N * OH)
    total = sums[task]
    total[:] = ZERO
    for row in range(first, last):
        n, i = row // OH, row % OH
        top, bottom, y = _taps(i, KH, strides[0], padding[0], dilation[0], H)
        for j in range(OW):
            left, right, z = _taps(j, KW, strides[1], padding[1], dilation[1], W)
            g = dout[n, i, j]
            for k in range(top, bottom):
                for l in range(left, right):
                    _add_products(total[k, l], x[n, y + k * dilation[0], z + l * dilation[1]], g)
            bias = total[KH, 0]
            for f in range(F):
                bias[f] += g[f]


@kernel
def _add_parts(task, dw, db, sums):
    """The parts in order: row k of the filters, or, behind the last, db."""
    KH, KW = dw.shape[:2]
    for l in range(KW if task < KH else 1):
        total = dw[task, l] if task < KH else db
        total[:] = ZERO
        for part in range(len(sums)):
            each = sums[part, task, l]
            for f in range(total.size):
                total[f] += each[f]


@in_tasks
def depthwise_conv2d_backward(dx, dw, db, dout, x, w, strides, padding, dilation):
    """dw and db, parallel over parts of the result's rows, then over rows of the filters; dx over rows of the image."""
    KH, KW, C, D = w.shape
    parts = max(1, min(PARTS, dout.size * KH * KW // LEAST))
    sums = np.empty((parts, KH + 1, KW, C * D), np.float32)
    run(_filter_sums, parts, sums, dout, x, strides, padding, dilation)
    run(_add_parts, KH + 1, dw.reshape(KH, KW, C * D), db, sums)
    if dx.size:
        tasks = pieces(dx.size, KH * KW)
        run(_input_gradient, tasks, tasks, dx, dout, w.reshape(KH, KW, C * D), strides, padding, dilation)
