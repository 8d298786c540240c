"""Pooling: a thread for each output forward, and for each pixel backward, which collects from its windows.

A block's x index is one row of one image, its y index and its threads are that row's columns and channels.
"""

import math

import numpy as np

from tinyconv.kernels.cuda.runtime.device import THREADS, blocks_for, cuda, divided, float32, launch


def max_pool2d_forward(out, argmax, x, pool_size, strides, padding):
    """See reference. One thread an output."""
    launch_rows(_max_pool2d_forward, out, out, argmax, x, pool_size, strides, padding, argmax.size > 0)


def max_pool2d_backward(dx, dout, argmax, pool_size, strides, padding):
    """See reference. One thread a pixel of dx: it asks every window it lies in whether it won."""
    launch_rows(max_pool2d_gradient, dx, dx, dout, argmax, pool_size, strides, padding)


def average_pool2d_forward(out, x, pool_size, strides, padding):
    """See reference. One thread an output."""
    launch_rows(_average_pool2d_forward, out, out, x, pool_size, strides, padding)


def average_pool2d_backward(dx, dout, pool_size, strides, padding):
    """See reference. One thread a pixel of dx: it collects its share of every window it lies in."""
    launch_rows(_average_pool2d_backward, dx, dx, dout, pool_size, strides, padding)


def launch_rows(kernel, image, *arguments):
    """As the top of the file says."""
    N, H, W, C = image.shape
    launch(kernel, (N * H, blocks_for(W * C)), THREADS, *arguments)


@cuda.jit
def _max_pool2d_forward(out, argmax, x, pool_size, strides, padding, keep):
    N, H, W, C = x.shape
    N, OH, OW, C = out.shape
    n, i = divided(cuda.blockIdx.x, OH)
    jc = cuda.blockIdx.y * cuda.blockDim.x + cuda.threadIdx.x
    if jc < OW * C:
        j, c = divided(jc, C)
        best = float32(-math.inf)
        winner = -1
        for k in range(pool_size[0]):
            row = i * strides[0] + k - padding[0]
            for l in range(pool_size[1]):
                column = j * strides[1] + l - padding[1]
                if (row >= 0) & (row < H) & (column >= 0) & (column < W):
                    value = x[n, row, column, c]
                    if winner < 0 or value > best or (value != value and best == best):
                        best = value
                        winner = k * pool_size[1] + l
        out[n, i, j, c] = best
        if keep:
            argmax[n, i, j, c] = np.int32(winner)


@cuda.jit
def max_pool2d_gradient(dx, dout, argmax, pool_size, strides, padding):
    N, H, W, C = dx.shape
    N, OH, OW, C = dout.shape
    n, row = divided(cuda.blockIdx.x, H)
    y = row + padding[0]
    xc = cuda.blockIdx.y * cuda.blockDim.x + cuda.threadIdx.x
    if xc < W * C:
        column, c = divided(xc, C)
        x = column + padding[1]
        total = float32(0)
        for k in range(pool_size[0]):
            i, between = divided(max(y - k, 0), strides[0])
            if y >= k and between == 0 and i < OH:
                for l in range(pool_size[1]):
                    j, between = divided(max(x - l, 0), strides[1])
                    if x >= l and between == 0 and j < OW:  # noqa: SIM102
                        if argmax[n, i, j, c] == k * pool_size[1] + l:
                            total += dout[n, i, j, c]
        dx[n, row, column, c] = total


@cuda.jit
def _average_pool2d_forward(out, x, pool_size, strides, padding):
    N, H, W, C = x.shape
    N, OH, OW, C = out.shape
    n, i = divided(cuda.blockIdx.x, OH)
    jc = cuda.blockIdx.y * cuda.blockDim.x + cuda.threadIdx.x
    if jc < OW * C:
        j, c = divided(jc, C)
        top = i * strides[0] - padding[0]
        left = j * strides[1] - padding[1]
        total = float32(0)
        for row in range(max(top, 0), min(top + pool_size[0], H)):
            for column in range(max(left, 0), min(left + pool_size[1], W)):
                total += x[n, row, column, c]
        height = min(top + pool_size[0], H) - max(top, 0)
        width = min(left + pool_size[1], W) - max(left, 0)
        out[n, i, j, c] = total / float32(height * width)


@cuda.jit
def _average_pool2d_backward(dx, dout, pool_size, strides, padding):
    N, H, W, C = dx.shape
    N, OH, OW, C = dout.shape
    n, row = divided(cuda.blockIdx.x, H)
    y = row + padding[0]
    xc = cuda.blockIdx.y * cuda.blockDim.x + cuda.threadIdx.x
    if xc < W * C:
        column, c = divided(xc, C)
        x = column + padding[1]
        total = float32(0)
        for k in range(pool_size[0]):
            i, between = divided(max(y - k, 0), strides[0])
            if y >= k and between == 0 and i < OH:
                top = i * strides[0] - padding[0]
                height = min(top + pool_size[0], H) - max(top, 0)
                for l in range(pool_size[1]):
                    j, between = divided(max(x - l, 0), strides[1])
                    if x >= l and between == 0 and j < OW:
                        left = j * strides[1] - padding[1]
                        width = min(left + pool_size[1], W) - max(left, 0)
                        total += dout[n, i, j, c] / float32(height * width)
        dx[n, row, column, c] = total
