"""Batch normalisation in training, ReLU and max-pooling as one step, forward and backward.

Nothing new is computed: this is :mod:`~tinyconv.kernels.reference.normalization` and ``pool`` in a row. Fused, they
need to remember less: of the pixels that lose, neither what ReLU gave nor its gradient is ever stored.
"""

import numpy as np

from tinyconv.kernels.reference.normalization import batch_norm_relu_backward, batch_norm_relu_forward
from tinyconv.kernels.reference.pool import max_pool2d_backward, max_pool2d_forward


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
    """Normalise each channel of x over the batch and all pixels, keep what is positive, and of each window the largest.

    ``argmax`` is the winner's place in its window, as :func:`max_pool2d_forward` has it, and ``picked`` the winner's x,
    which is all that the sums of the backward pass need of x.

    Shapes: x (N, H, W, C), out and picked (N, OH, OW, C) and argmax (the same, int8: so a window has at most 128
    pixels), overwritten; all others as in :func:`batch_norm_forward`.
    """
    normal, C = np.empty_like(x), gamma.size
    statistics = mean, inv_std, moving_mean, moving_variance
    rows = normal.reshape(-1, C), *statistics, x.reshape(-1, C)
    batch_norm_relu_forward(*rows, gamma, beta, momentum, epsilon)
    winner = np.empty(out.shape, np.int32)
    max_pool2d_forward(out, winner, normal, pool_size, strides, padding)
    argmax[...] = winner
    n, i, j, c = np.indices(out.shape, sparse=True)
    k, l = np.divmod(winner, pool_size[1])
    picked[...] = x[n, i * strides[0] - padding[0] + k, j * strides[1] - padding[1] + l, c]


def batch_norm_relu_max_pool2d_backward(
    dx, dgamma, dbeta, dout, argmax, picked, x, gamma, beta, mean, inv_std, pool_size, strides, padding
):
    r"""The gradients: what :func:`max_pool2d_backward` gives each pixel is handed to :func:`batch_norm_relu_backward`.

    Of the sums over pixels that the latter needs only winners contribute, each as often as windows chose it. With w for
    a window, and :math:`y_w`, :math:`\\hat x_w` for its winner's,

    .. math:: d\\beta = \\sum_w dout_w \\, [y_w > 0], \\qquad d\\gamma = \\sum_w dout_w \\, [y_w > 0] \\, \\hat x_w

    for which ``picked`` is enough. But dx of a pixel that won nothing is not 0: it has moved the mean and the variance.

    Shapes as in the forward; dx (N, H, W, C), dgamma and dbeta (C,), overwritten. A ``dx`` of size zero is not
    computed.
    """
    normal_gradient = np.empty_like(x)
    max_pool2d_backward(normal_gradient, dout, argmax, pool_size, strides, padding)
    rows, pixels, dnormal = (image.reshape(-1, gamma.size) for image in (dx, x, normal_gradient))
    batch_norm_relu_backward(rows, dgamma, dbeta, dnormal, pixels, gamma, beta, mean, inv_std)
