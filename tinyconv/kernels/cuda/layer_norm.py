"""Layer normalisation: a block for each row; and for the sums over rows, a block for 32 columns."""

import math

import numpy as np

from tinyconv.kernels.cuda.runtime.device import THREADS, blocks_for, cuda, float32, launch

LANES, ROWS = 32, 8  # a block of the sums: 32 columns, and 8 threads that share each column's rows


def layer_norm_forward(out, mean, inv_std, x, gamma, beta, epsilon):
    """See reference. The threads of a block share a row, and add in pairs what they found."""
    launch(_layer_norm_forward, len(x), THREADS, out, mean, inv_std, x, gamma, beta, float32(epsilon))


def layer_norm_backward(dx, dgamma, dbeta, dout, x, gamma, mean, inv_std):
    """See reference. The sums over rows; and dx as the forward."""
    launch(_layer_norm_sums, blocks_for(x.shape[1], LANES), (LANES, ROWS), dgamma, dbeta, dout, x, mean, inv_std)
    if dx.size:
        launch(_layer_norm_dx, len(x), THREADS, dx, dout, x, gamma, mean, inv_std)


@cuda.jit
def _layer_norm_forward(out, mean, inv_std, x, gamma, beta, epsilon):
    sums = cuda.shared.array(THREADS, np.float32)
    m = cuda.blockIdx.x
    t = cuda.threadIdx.x
    C = x.shape[1]
    total = float32(0)
    for c in range(t, C, THREADS):
        total += x[m, c]
    sums[t] = total
    half = THREADS // 2
    while half > 0:
        cuda.syncthreads()
        if t < half:
            sums[t] += sums[t + half]
        half //= 2
    cuda.syncthreads()
    middle = sums[0] / float32(C)
    cuda.syncthreads()
    total = float32(0)
    for c in range(t, C, THREADS):
        total += (x[m, c] - middle) * (x[m, c] - middle)
    sums[t] = total
    half = THREADS // 2
    while half > 0:
        cuda.syncthreads()
        if t < half:
            sums[t] += sums[t + half]
        half //= 2
    cuda.syncthreads()
    factor = float32(1) / math.sqrt(sums[0] / float32(C) + epsilon)
    if t == 0:
        mean[m] = middle
        inv_std[m] = factor
    for c in range(t, C, THREADS):
        out[m, c] = (x[m, c] - middle) * factor * gamma[c] + beta[c]


@cuda.jit
def _layer_norm_dx(dx, dout, x, gamma, mean, inv_std):
    sums = cuda.shared.array(THREADS, np.float32)
    products = cuda.shared.array(THREADS, np.float32)
    m = cuda.blockIdx.x
    t = cuda.threadIdx.x
    C = x.shape[1]
    middle = mean[m]
    factor = inv_std[m]
    total = float32(0)
    product = float32(0)
    for c in range(t, C, THREADS):
        g = dout[m, c] * gamma[c]
        total += g
        product += g * ((x[m, c] - middle) * factor)
    sums[t] = total
    products[t] = product
    half = THREADS // 2
    while half > 0:
        cuda.syncthreads()
        if t < half:
            sums[t] += sums[t + half]
            products[t] += products[t + half]
        half //= 2
    cuda.syncthreads()
    of_g = sums[0] / float32(C)
    of_product = products[0] / float32(C)
    for c in range(t, C, THREADS):
        normal = (x[m, c] - middle) * factor
        dx[m, c] = factor * (dout[m, c] * gamma[c] - of_g - normal * of_product)


@cuda.jit
def _layer_norm_sums(dgamma, dbeta, dout, x, mean, inv_std):
    products = cuda.shared.array((ROWS, LANES), np.float32)
    sums = cuda.shared.array((ROWS, LANES), np.float32)
    lane = cuda.threadIdx.x
    row = cuda.threadIdx.y
    c = cuda.blockIdx.x * LANES + lane
    product = float32(0)
    total = float32(0)
    if c < x.shape[1]:
        for m in range(row, x.shape[0], ROWS):
            product += dout[m, c] * ((x[m, c] - mean[m]) * inv_std[m])
            total += dout[m, c]
    products[row, lane] = product
    sums[row, lane] = total
    cuda.syncthreads()
    if row == 0 and c < x.shape[1]:
        for r in range(1, ROWS):
            product += products[r, lane]
            total += sums[r, lane]
        dgamma[c] = product
        dbeta[c] = total
