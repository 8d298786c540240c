"""Batch normalisation -> ReLU -> max-pool: a thread for each output forward, which normalises its window on the way.

Backward is the two families' own kernels, in place: dx first gets what pooling hands back, and then batch
normalisation's formula. The sums are over windows, not over pixels.
"""

import math

import numpy as np

from tinyconv.kernels.cuda.normalization import launch_dx, launch_statistics, launch_sums, rectified
from tinyconv.kernels.cuda.pool import launch_rows, max_pool2d_gradient
from tinyconv.kernels.cuda.runtime.device import cuda, divided, float32


def batch_norm_relu_max_pool2d_forward(
    out,
    argmax,
    picked,
    mean,
    inv_std,
    moving_mean,
    moving_variance,
    x,
    gamma,
    beta,
    momentum,
    epsilon,
    pool_size,
    strides,
    padding,
):
    """See reference. The statistics, with ``picked`` for their partial sums; then one thread an output."""
    rows, pixels = (array.reshape(array.size // gamma.size, gamma.size) for array in (picked, x))
    launch_statistics(rows, mean, inv_std, moving_mean, moving_variance, pixels, (momentum, epsilon))
    window = (*pool_size, *strides, *padding)
    launch_rows(_normalize_and_pool, out, out, argmax, picked, x, gamma, beta, mean, inv_std, window)


def batch_norm_relu_max_pool2d_backward(
    dx, dgamma, dbeta, dout, argmax, picked, x, gamma, beta, mean, inv_std, pool_size, strides, padding
):
    """See reference. The sums, with dx for their parts; then one thread a pixel, twice."""
    C, channels = gamma.size, (gamma, beta, mean, inv_std)
    rows, pixels, pooled, winners = (array.reshape(array.size // C, C) for array in (dx, x, dout, picked))
    launch_sums(rows, dgamma, dbeta, pooled, winners, channels, True)
    if dx.size:
        launch_rows(max_pool2d_gradient, dx, dx, dout, argmax, pool_size, strides, padding)
        launch_dx(rows, dgamma, dbeta, rows, pixels, channels, True)


@cuda.jit
def _normalize_and_pool(out, argmax, picked, x, gamma, beta, mean, inv_std, window):
    """``window``: its size, strides and padding, each vertical and horizontal."""
    N, H, W, C = x.shape
    N, OH, OW, C = out.shape
    n, i = divided(cuda.blockIdx.x, OH)
    jc = cuda.blockIdx.y * cuda.blockDim.x + cuda.threadIdx.x
    if jc < OW * C:
        j, c = divided(jc, C)
        factor = inv_std[c] * gamma[c]
        best = float32(-math.inf)
        number = float32(0)
        winner = -1
        for k in range(window[0]):
            row = i * window[2] + k - window[4]
            for l in range(window[1]):
                column = j * window[3] + l - window[5]
                if (row >= 0) & (row < H) & (column >= 0) & (column < W):
                    pixel = x[n, row, column, c]
                    value = rectified(cuda.fma(pixel - mean[c], factor, beta[c]), True)
                    if winner < 0 or value > best or (value != value and best == best):
                        best = value
                        number = pixel
                        winner = k * window[1] + l
        out[n, i, j, c] = best
        picked[n, i, j, c] = number
        argmax[n, i, j, c] = np.int8(winner)
