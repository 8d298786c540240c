"""Dropout from counter-based random numbers: one thread draws for four units, without asking anybody."""

import numpy as np

from tinyconv.kernels.cuda.runtime.device import THREADS, blocks_for, cuda, float32, inlined, launch
from tinyconv.kernels.reference.dropout import FIRST_SAMPLE, MULTIPLIERS, STEP, WEYL, keep_threshold

_MULTIPLIER_0, _MULTIPLIER_1 = MULTIPLIERS
_WEYL_0, _WEYL_1 = map(np.uint64, WEYL)
_MASK, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


def dropout_forward(out, x, counters, seed, layer, rate):
    """See reference. One thread draws four random integers and treats four units, a row of blocks for each sample."""
    N, units = x.shape
    key, threshold, scale = _constants(seed, rate)
    launch(_dropout, (N, _quarters(units)), THREADS, out, x, counters, key, layer, threshold, scale)


def dropout_backward(dx, dout, counters, seed, layer, rate):
    """See reference: the same mask and scale, on the gradient."""
    dropout_forward(dx, dout, counters, seed, layer, rate)


def dropout_pooled_forward(out, argmax, counters, seed, layer, rate):
    """See reference. One thread treats four units."""
    N, units = out.shape
    key, threshold, scale = _constants(seed, rate)
    launch(_dropout_pooled, (N, _quarters(units)), THREADS, out, argmax, counters, key, layer, threshold, scale)


def _quarters(units):
    return blocks_for(blocks_for(units, 4))


def _constants(seed, rate):
    return np.uint64(seed & (2**64 - 1)), np.uint64(keep_threshold(rate)), float32(1 / (1 - rate))


@inlined
def philox(c0, c1, c2, c3, key):
    """Philox4x32-10: four random 32-bit integers, each in a uint64, for the counter (c0, c1, c2, c3)."""
    k0 = key & _MASK
    k1 = key >> _HALF
    for _ in range(10):
        p0 = c0 * _MULTIPLIER_0
        p1 = c2 * _MULTIPLIER_1
        c0 = (p1 >> _HALF) ^ c1 ^ k0
        c1 = p1 & _MASK
        c2 = (p0 >> _HALF) ^ c3 ^ k1
        c3 = p0 & _MASK
        k0 = (k0 + _WEYL_0) & _MASK
        k1 = (k1 + _WEYL_1) & _MASK
    return c0, c1, c2, c3


@inlined
def draw(block, n, counters, key, layer):
    """The four integers of units 4 * block .. 4 * block + 3 of the batch's sample n, in this step and layer."""
    sample = np.uint64(counters[FIRST_SAMPLE] + n) & _MASK
    step = np.uint64(counters[STEP]) & _MASK
    return philox(np.uint64(block), sample, step, np.uint64(layer) & _MASK, key)


@cuda.jit
def _dropout(out, x, counters, key, layer, threshold, scale):
    n = cuda.blockIdx.x
    block = cuda.blockIdx.y * cuda.blockDim.x + cuda.threadIdx.x
    if 4 * block < x.shape[1]:
        words = draw(block, n, counters, key, layer)
        for i in range(4):
            u = 4 * block + i
            if u < x.shape[1]:
                out[n, u] = x[n, u] * scale if words[i] >= threshold else float32(0)


@cuda.jit
def _dropout_pooled(out, argmax, counters, key, layer, threshold, scale):
    n = cuda.blockIdx.x
    block = cuda.blockIdx.y * cuda.blockDim.x + cuda.threadIdx.x
    if 4 * block < out.shape[1]:
        words = draw(block, n, counters, key, layer)
        for i in range(4):
            u = 4 * block + i
            if u < out.shape[1]:
                if words[i] >= threshold:
                    out[n, u] *= scale
                else:
                    out[n, u] = float32(0)
                    argmax[n, u] = np.int8(-1)
