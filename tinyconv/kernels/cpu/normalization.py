"""Batch normalisation: sums over the batch for each channel, then one pass over everything.

The sums are parallel over groups of channels, so that each sum has one owner that adds it up in a fixed order: some
rows at a time in float32, and those partial sums in double precision.
"""

import numpy as np
from numba import prange

from tinyconv.kernels.cpu.runtime.cutting import by_size
from tinyconv.kernels.cpu.runtime.jit import jit
from tinyconv.kernels.cpu.runtime.views import stack_array

GROUP = 16  # channels that one thread adds up: a cache line
ROWS = 16  # rows added in float32 before the sum is added in double
STRIP = 64  # rows that one thread writes
ZERO, ONE = np.float32(0), np.float32(1)


def column_sums(term):
    """A function that adds up term(a, x, mean) over the rows, for ``width`` channels from ``first``, into ``sums``."""

    @jit
    def add_up(sums, a, x, mean, first, width):
        M, C = x.shape
        mean_row = mean[first : first + width]
        partial = stack_array(GROUP, np.float32)
        sums[:] = 0
        for start in range(0, M, ROWS):
            partial[:] = 0
            for m in range(start, min(start + ROWS, M)):
                a_row, x_row = a[m, first : first + width], x[m, first : first + width]
                for c in range(width):
                    partial[c] += term(a_row[c], x_row[c], mean_row[c])
            for c in range(width):
                sums[c] += partial[c]

    return add_up


@jit
def _value(a, x, mean):
    return a


@jit
def _squared_deviation(a, x, mean):
    return (x - mean) * (x - mean)


@jit
def _times_deviation(a, x, mean):
    return a * (x - mean)


_add_values = column_sums(_value)
_add_squared_deviations = column_sums(_squared_deviation)
_add_times_deviations = column_sums(_times_deviation)


@by_size()
def _statistics(x, mean, inv_std, moving_mean, moving_variance, momentum, epsilon):
    M, C = x.shape
    for group in prange((C + GROUP - 1) // GROUP):
        first = np.int64(group) * GROUP
        width = min(GROUP, C - first)
        sums = stack_array(GROUP, np.float64)
        _add_values(sums, x, x, mean, first, width)
        for c in range(width):
            mean[first + c] = sums[c] / M
        _add_squared_deviations(sums, x, x, mean, first, width)
        for c in range(width):
            variance = np.float32(sums[c] / M)
            channel = first + c
            moving_mean[channel] = moving_mean[channel] * momentum + mean[channel] * (ONE - momentum)
            moving_variance[channel] = moving_variance[channel] * momentum + variance * (ONE - momentum)
            inv_std[channel] = ONE / np.sqrt(variance + epsilon)


@by_size()
def _normalize(out, x, mean, inv_std, gamma, beta):
    M, C = x.shape
    for strip in prange((M + STRIP - 1) // STRIP):
        start = np.int64(strip) * STRIP
        for m in range(start, min(start + STRIP, M)):
            for c in range(C):
                out[m, c] = (x[m, c] - mean[c]) * (inv_std[c] * gamma[c]) + beta[c]


def batch_norm_forward(out, mean, inv_std, moving_mean, moving_variance, x, gamma, beta, momentum, epsilon):
    """Two passes for the statistics, parallel over channels, and one for the result, parallel over rows."""
    _statistics(x, mean, inv_std, moving_mean, moving_variance, np.float32(momentum), np.float32(epsilon))
    _normalize(out, x, mean, inv_std, gamma, beta)


@by_size(2)
def _parameter_gradients(dgamma, dbeta, dout, x, mean, inv_std):
    M, C = x.shape
    for group in prange((C + GROUP - 1) // GROUP):
        first = np.int64(group) * GROUP
        width = min(GROUP, C - first)
        sums = stack_array(GROUP, np.float64)
        _add_values(sums, dout, x, mean, first, width)
        for c in range(width):
            dbeta[first + c] = sums[c]
        _add_times_deviations(sums, dout, x, mean, first, width)
        for c in range(width):
            dgamma[first + c] = sums[c] * inv_std[first + c]


@by_size()
def _input_gradient(dx, dgamma, dbeta, dout, x, gamma, mean, inv_std):
    M, C = x.shape
    for strip in prange((M + STRIP - 1) // STRIP):
        start = np.int64(strip) * STRIP
        for m in range(start, min(start + STRIP, M)):
            for c in range(C):
                normal = (x[m, c] - mean[c]) * inv_std[c]
                share = (dbeta[c] + normal * dgamma[c]) / np.float32(M)
                dx[m, c] = gamma[c] * inv_std[c] * (dout[m, c] - share)


def batch_norm_backward(dx, dgamma, dbeta, dout, x, gamma, mean, inv_std):
    """One pass for the parameters' gradients, parallel over channels, and one for dx, parallel over rows."""
    _parameter_gradients(dgamma, dbeta, dout, x, mean, inv_std)
    if dx.size:
        _input_gradient(dx, dgamma, dbeta, dout, x, gamma, mean, inv_std)


@by_size()
def _inference(out, x, gamma, beta, moving_mean, moving_variance, epsilon):
    M, C = x.shape
    for strip in prange((M + STRIP - 1) // STRIP):
        start = np.int64(strip) * STRIP
        for m in range(start, min(start + STRIP, M)):
            for c in range(C):
                factor = gamma[c] / np.sqrt(moving_variance[c] + epsilon)
                out[m, c] = (x[m, c] - moving_mean[c]) * factor + beta[c]


def batch_norm_inference(out, x, gamma, beta, moving_mean, moving_variance, epsilon):
    """Parallel over rows. The factor is computed anew for each number: that is cheaper than a place to keep it."""
    _inference(out, x, gamma, beta, moving_mean, moving_variance, np.float32(epsilon))


@by_size()
def _inference_gradient(dx, dout, gamma, moving_variance, epsilon):
    M, C = dx.shape
    for strip in prange((M + STRIP - 1) // STRIP):
        start = np.int64(strip) * STRIP
        for m in range(start, min(start + STRIP, M)):
            for c in range(C):
                dx[m, c] = dout[m, c] * (gamma[c] / np.sqrt(moving_variance[c] + epsilon))


def batch_norm_inference_backward(dx, dout, gamma, moving_variance, epsilon):
    """As the forward: parallel over rows, with a factor computed anew for each number."""
    _inference_gradient(dx, dout, gamma, moving_variance, np.float32(epsilon))


@jit
def _fold(w_folded, b_folded, w, b, gamma, beta, moving_mean, moving_variance, epsilon):
    K, F = w.shape
    for k in range(K):
        for f in range(F):
            w_folded[k, f] = w[k, f] * (gamma[f] / np.sqrt(moving_variance[f] + epsilon))
    for f in range(F):
        factor = gamma[f] / np.sqrt(moving_variance[f] + epsilon)
        b_folded[f] = (b[f] - moving_mean[f]) * factor + beta[f]


def batch_norm_fold(w_folded, b_folded, w, b, gamma, beta, moving_mean, moving_variance, epsilon):
    """Serial: it runs once, before a prediction."""
    _fold(w_folded, b_folded, w, b, gamma, beta, moving_mean, moving_variance, np.float32(epsilon))
