"""Batch normalisation: sums over a channel in two phases, then one thread an element.

The contract gives these kernels no scratch. The first phase therefore writes its partial sums into the rows of the
output (``out`` or ``dx``), which the last phase overwrites; where ``dx`` is not wanted there is only one part.
"""

import math

import numpy as np

from tinyconv.kernels.cuda.runtime.device import THREADS, blocks_for, cuda, divided, float32, inlined, launch

LANES, ROWS = 32, 8  # a block of the first phase: 32 channels, and 8 threads that share each channel's rows
_PARTS, _LEAST = 64, 64  # into how many parts, at most, a channel is cut, and how many rows each has, at least


def batch_norm_forward(out, mean, inv_std, moving_mean, moving_variance, x, gamma, beta, momentum, epsilon):
    """See reference. Parts of the sums, the mean, parts of the squared deviations, the variance, the result."""
    _forward(out, mean, inv_std, moving_mean, moving_variance, x, (gamma, beta), (momentum, epsilon), False)


def batch_norm_backward(dx, dgamma, dbeta, dout, x, gamma, mean, inv_std):
    """See reference. Parts of both sums, the sums, then dx."""
    _backward(dx, dgamma, dbeta, dout, x, (gamma, gamma, mean, inv_std), False)


def batch_norm_relu_forward(out, mean, inv_std, moving_mean, moving_variance, x, gamma, beta, momentum, epsilon):
    """As without ReLU, which the last kernel adds."""
    _forward(out, mean, inv_std, moving_mean, moving_variance, x, (gamma, beta), (momentum, epsilon), True)


def batch_norm_relu_backward(dx, dgamma, dbeta, dout, x, gamma, beta, mean, inv_std):
    """As without ReLU; wherever dout is read, it is 0 where the forward pass's result is."""
    _backward(dx, dgamma, dbeta, dout, x, (gamma, beta, mean, inv_std), True)


def batch_norm_add_relu_forward(
    out, mean, inv_std, moving_mean, moving_variance, x, other, gamma, beta, momentum, epsilon
):
    """As without the other, which the last kernel adds. The first ones use out for their partial sums."""
    launch_statistics(out, mean, inv_std, moving_mean, moving_variance, x, (momentum, epsilon))
    launch(_normalize_and_add, blocks_for(x.size), THREADS, out, x, other, gamma, beta, mean, inv_std)


def batch_norm_add_relu_backward(dx, dother, dgamma, dbeta, dout, x, out, gamma, mean, inv_std):
    """See reference. What the ReLU lets pass, one thread an element; then as without it."""
    launch(_mask, blocks_for(x.size), THREADS, dother, dout, out)
    batch_norm_backward(dx, dgamma, dbeta, dother, x, gamma, mean, inv_std)


def launch_statistics(scratch, mean, inv_std, moving_mean, moving_variance, x, options):
    """The batch's mean and 1 / sigma, and the moving statistics. Partial sums go to the rows of ``scratch``."""
    M, C = x.shape
    parts = min(_PARTS, blocks_for(M, _LEAST), len(scratch))
    blocks = blocks_for(C, LANES)
    momentum, epsilon = (float32(option) for option in options)
    launch(_part_of_sum, (blocks, parts), (LANES, ROWS), scratch, x)
    launch(_mean, blocks_for(C), THREADS, mean, moving_mean, scratch, parts, M, momentum)
    launch(_part_of_squares, (blocks, parts), (LANES, ROWS), scratch, x, mean)
    launch(_inv_std, blocks_for(C), THREADS, inv_std, moving_variance, scratch, parts, M, momentum, epsilon)


def _forward(out, mean, inv_std, moving_mean, moving_variance, x, affine, options, relu):
    launch_statistics(out, mean, inv_std, moving_mean, moving_variance, x, options)
    launch(_normalize, blocks_for(x.size), THREADS, out, x, *affine, mean, inv_std, relu)


def launch_sums(scratch, dgamma, dbeta, dout, x, channels, relu):
    """dgamma and dbeta. ``channels``: gamma, beta, mean and inv_std; without ReLU beta does not matter. Partial sums go
    to the rows of ``scratch``, if it has two and more."""
    M, C = x.shape
    blocks = blocks_for(C, LANES)
    if scratch.size >= 2 * C:
        parts = min(_PARTS, blocks_for(M, _LEAST), len(scratch) // 2)
        launch(_part_of_gradients, (blocks, parts), (LANES, ROWS), scratch, scratch, dout, x, *channels, parts, relu)
        launch(_sum_gradients, blocks_for(C), THREADS, dgamma, dbeta, scratch, parts)
    else:
        one_row = dgamma.reshape(1, C), dbeta.reshape(1, C)
        launch(_part_of_gradients, (blocks, 1), (LANES, ROWS), *one_row, dout, x, *channels, 0, relu)


def launch_dx(dx, dgamma, dbeta, dout, x, channels, relu):
    """dx (may be dout), of the sums."""
    launch(_batch_norm_dx, blocks_for(x.size), THREADS, dx, dgamma, dbeta, dout, x, *channels, relu)


def _backward(dx, dgamma, dbeta, dout, x, channels, relu):
    launch_sums(dx, dgamma, dbeta, dout, x, channels, relu)
    if dx.size:
        launch_dx(dx, dgamma, dbeta, dout, x, channels, relu)


def batch_norm_inference(out, x, gamma, beta, moving_mean, moving_variance, epsilon):
    """See reference. One thread an element."""
    arguments = out, x, gamma, beta, moving_mean, moving_variance, float32(epsilon), False
    launch(_batch_norm_inference, blocks_for(x.size), THREADS, *arguments)


def batch_norm_inference_backward(dx, dout, gamma, moving_variance, epsilon):
    """See reference. One thread an element."""
    arguments = dx, dout, gamma, moving_variance, float32(epsilon)
    launch(_batch_norm_inference_dx, blocks_for(dx.size), THREADS, *arguments)


def batch_norm_relu_inference(out, x, gamma, beta, moving_mean, moving_variance, epsilon):
    """See reference. One thread an element."""
    arguments = out, x, gamma, beta, moving_mean, moving_variance, float32(epsilon), True
    launch(_batch_norm_inference, blocks_for(x.size), THREADS, *arguments)


def batch_norm_fold(w_folded, b_folded, w, b, gamma, beta, moving_mean, moving_variance, epsilon):
    """See reference. One thread a weight; those of the first row also fold the bias."""
    arguments = w_folded, b_folded, w, b, gamma, beta, moving_mean, moving_variance, float32(epsilon)
    launch(_batch_norm_fold, blocks_for(w.size), THREADS, *arguments)


@cuda.jit
def _part_of_sum(parts, x):
    sums = cuda.shared.array((ROWS, LANES), np.float32)
    lane = cuda.threadIdx.x
    row = cuda.threadIdx.y
    c = cuda.blockIdx.x * LANES + lane
    total = float32(0)
    if c < x.shape[1]:
        for m in range(cuda.blockIdx.y * ROWS + row, x.shape[0], cuda.gridDim.y * ROWS):
            total += x[m, c]
    sums[row, lane] = total
    cuda.syncthreads()
    if row == 0 and c < x.shape[1]:
        for r in range(1, ROWS):
            total += sums[r, lane]
        parts[cuda.blockIdx.y, c] = total


@cuda.jit
def _part_of_squares(parts, x, mean):
    sums = cuda.shared.array((ROWS, LANES), np.float32)
    lane = cuda.threadIdx.x
    row = cuda.threadIdx.y
    c = cuda.blockIdx.x * LANES + lane
    total = float32(0)
    if c < x.shape[1]:
        for m in range(cuda.blockIdx.y * ROWS + row, x.shape[0], cuda.gridDim.y * ROWS):
            deviation = x[m, c] - mean[c]
            total += deviation * deviation
    sums[row, lane] = total
    cuda.syncthreads()
    if row == 0 and c < x.shape[1]:
        for r in range(1, ROWS):
            total += sums[r, lane]
        parts[cuda.blockIdx.y, c] = total


@cuda.jit
def _mean(mean, moving_mean, sums, parts, M, momentum):
    c = cuda.grid(1)
    if c < mean.size:
        total = float32(0)
        for p in range(parts):
            total += sums[p, c]
        total /= float32(M)
        mean[c] = total
        moving_mean[c] = moving_mean[c] * momentum + total * (float32(1) - momentum)


@cuda.jit
def _inv_std(inv_std, moving_variance, sums, parts, M, momentum, epsilon):
    c = cuda.grid(1)
    if c < inv_std.size:
        total = float32(0)
        for p in range(parts):
            total += sums[p, c]
        total /= float32(M)
        inv_std[c] = float32(1) / math.sqrt(total + epsilon)
        moving_variance[c] = moving_variance[c] * momentum + total * (float32(1) - momentum)


@inlined
def rectified(value, relu):
    """ReLU, if it is wanted."""
    return float32(0) if relu and value < float32(0) else value


@inlined
def _passed(dout, value, relu):
    """Its gradient. ``value`` is what it starts from: an explicit fma, which no compiler rounds in another way here
    than in the forward pass."""
    return float32(0) if relu and value <= float32(0) else dout


@cuda.jit
def _normalize(out, x, gamma, beta, mean, inv_std, relu):
    i = cuda.grid(1)
    if i < x.size:
        m, c = divided(i, x.shape[1])
        out[m, c] = rectified(cuda.fma(x[m, c] - mean[c], inv_std[c] * gamma[c], beta[c]), relu)


@cuda.jit
def _normalize_and_add(out, x, other, gamma, beta, mean, inv_std):
    i = cuda.grid(1)
    if i < x.size:
        m, c = divided(i, x.shape[1])
        y = cuda.fma(x[m, c] - mean[c], inv_std[c] * gamma[c], beta[c])
        out[m, c] = rectified(y + other[m, c], True)


@cuda.jit
def _mask(dother, dout, out):
    i = cuda.grid(1)
    if i < out.size:
        m, c = divided(i, out.shape[1])
        dother[m, c] = _passed(dout[m, c], out[m, c], True)


@cuda.jit
def _part_of_gradients(gamma_parts, beta_parts, dout, x, gamma, beta, mean, inv_std, beta_row, relu):
    """Part p of dgamma's sum goes to row p of gamma_parts, of dbeta's to row beta_row + p of beta_parts."""
    gamma_sums = cuda.shared.array((ROWS, LANES), np.float32)
    beta_sums = cuda.shared.array((ROWS, LANES), np.float32)
    lane = cuda.threadIdx.x
    row = cuda.threadIdx.y
    c = cuda.blockIdx.x * LANES + lane
    dgamma = float32(0)
    dbeta = float32(0)
    if c < x.shape[1]:
        for m in range(cuda.blockIdx.y * ROWS + row, x.shape[0], cuda.gridDim.y * ROWS):
            deviation = x[m, c] - mean[c]
            passed = _passed(dout[m, c], cuda.fma(deviation, inv_std[c] * gamma[c], beta[c]), relu)
            dgamma += passed * (deviation * inv_std[c])
            dbeta += passed
    gamma_sums[row, lane] = dgamma
    beta_sums[row, lane] = dbeta
    cuda.syncthreads()
    if row == 0 and c < x.shape[1]:
        for r in range(1, ROWS):
            dgamma += gamma_sums[r, lane]
            dbeta += beta_sums[r, lane]
        gamma_parts[cuda.blockIdx.y, c] = dgamma
        beta_parts[beta_row + cuda.blockIdx.y, c] = dbeta


@cuda.jit
def _sum_gradients(dgamma, dbeta, sums, parts):
    c = cuda.grid(1)
    if c < dgamma.size:
        gamma_total = float32(0)
        beta_total = float32(0)
        for p in range(parts):
            gamma_total += sums[p, c]
            beta_total += sums[parts + p, c]
        dgamma[c] = gamma_total
        dbeta[c] = beta_total


@cuda.jit
def _batch_norm_dx(dx, dgamma, dbeta, dout, x, gamma, beta, mean, inv_std, relu):
    i = cuda.grid(1)
    if i < x.size:
        m, c = divided(i, x.shape[1])
        deviation = x[m, c] - mean[c]
        passed = _passed(dout[m, c], cuda.fma(deviation, inv_std[c] * gamma[c], beta[c]), relu)
        shift = (dbeta[c] + deviation * inv_std[c] * dgamma[c]) / float32(x.shape[0])
        dx[m, c] = gamma[c] * inv_std[c] * (passed - shift)


@cuda.jit
def _batch_norm_inference(out, x, gamma, beta, moving_mean, moving_variance, epsilon, relu):
    i = cuda.grid(1)
    if i < x.size:
        m, c = divided(i, x.shape[1])
        factor = gamma[c] / math.sqrt(moving_variance[c] + epsilon)
        out[m, c] = rectified((x[m, c] - moving_mean[c]) * factor + beta[c], relu)


@cuda.jit
def _batch_norm_inference_dx(dx, dout, gamma, moving_variance, epsilon):
    i = cuda.grid(1)
    if i < dx.size:
        m, c = divided(i, dx.shape[1])
        dx[m, c] = dout[m, c] * (gamma[c] / math.sqrt(moving_variance[c] + epsilon))


@cuda.jit
def _batch_norm_fold(w_folded, b_folded, w, b, gamma, beta, moving_mean, moving_variance, epsilon):
    i = cuda.grid(1)
    if i < w.size:
        k, f = divided(i, w.shape[1])
        factor = gamma[f] / math.sqrt(moving_variance[f] + epsilon)
        w_folded[k, f] = w[k, f] * factor
        if k == 0:
            b_folded[f] = (b[f] - moving_mean[f]) * factor + beta[f]
