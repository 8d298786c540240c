"""Dropout, with the reference's random numbers.

The counters of one row are drawn several to a vector register: as each number is a pure function of its counter,
nothing has to wait for anything. The masks are the reference's, bit for bit.
"""

import numpy as np
from numba import prange

from tinyconv.kernels.cpu.blocks import by_size
from tinyconv.kernels.cpu.jit import jit
from tinyconv.kernels.cpu.stack import stack_array
from tinyconv.kernels.reference.dropout import FIRST_SAMPLE, STEP, keep_threshold

MASK, HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
MULTIPLIER_0, MULTIPLIER_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
WEYL_0, WEYL_1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
ZERO = np.float32(0)
CHUNK = 256  # units whose mask is drawn, and then used, before the next


@jit
def philox(c0, c1, c2, c3, k0, k1):
    """The reference's ten rounds, for one counter. All arguments are uint64 below 2**32."""
    for _ in range(10):
        p0, p1 = c0 * MULTIPLIER_0, c2 * MULTIPLIER_1
        c0, c1, c2, c3 = (p1 >> HALF) ^ c1 ^ k0, p1 & MASK, (p0 >> HALF) ^ c3 ^ k1, p0 & MASK
        k0, k1 = (k0 + WEYL_0) & MASK, (k1 + WEYL_1) & MASK
    return c0, c1, c2, c3


@jit
def draw(keep, first, stop, sample, step, layer, seed, threshold):
    """keep[u] = whether unit ``first`` + u of the sample lives, for the units before ``stop``."""
    k0, k1 = seed & MASK, seed >> HALF
    sample, step, layer = np.uint64(sample) & MASK, np.uint64(step) & MASK, np.uint64(layer) & MASK
    for i in range((stop - first + 3) // 4):
        w0, w1, w2, w3 = philox(np.uint64(first // 4 + i) & MASK, sample, step, layer, k0, k1)
        keep[4 * i] = w0 >= threshold
        keep[4 * i + 1] = w1 >= threshold
        keep[4 * i + 2] = w2 >= threshold
        keep[4 * i + 3] = w3 >= threshold


@by_size(cost=4)
def _dropout(out, x, counters, seed, layer, threshold, scale):
    N, units = x.shape
    chunks = (units + CHUNK - 1) // CHUNK
    for task in prange(N * chunks):
        n, first = np.int64(task) // chunks, np.int64(task) % chunks * CHUNK
        stop = min(units, first + CHUNK)
        keep = stack_array(CHUNK, np.bool_)
        draw(keep, first, stop, counters[FIRST_SAMPLE] + n, counters[STEP], layer, seed, threshold)
        o, v = out[n, first:stop], x[n, first:stop]
        for u in range(o.size):
            o[u] = v[u] * scale if keep[u] else ZERO


@by_size(cost=4)
def _dropout_pooled(out, argmax, counters, seed, layer, threshold, scale):
    N, units = out.shape
    chunks = (units + CHUNK - 1) // CHUNK
    for task in prange(N * chunks):
        n, first = np.int64(task) // chunks, np.int64(task) % chunks * CHUNK
        stop = min(units, first + CHUNK)
        keep = stack_array(CHUNK, np.bool_)
        draw(keep, first, stop, counters[FIRST_SAMPLE] + n, counters[STEP], layer, seed, threshold)
        o, winner = out[n, first:stop], argmax[n, first:stop]
        for u in range(o.size):
            o[u] = o[u] * scale if keep[u] else ZERO
        for u in range(o.size):
            winner[u] = winner[u] if keep[u] else np.int8(-1)


def _numbers(seed, layer, rate):
    """The kernels' last four arguments, always of the same types, so that Numba compiles once."""
    return np.uint64(seed), np.uint64(layer), np.uint64(keep_threshold(rate)), np.float32(1 / (1 - rate))


def dropout_forward(out, x, counters, seed, layer, rate):
    """Parallel over pieces of rows."""
    _dropout(out, x, counters, *_numbers(seed, layer, rate))


def dropout_backward(dx, dout, counters, seed, layer, rate):
    """The same mask again."""
    _dropout(dx, dout, counters, *_numbers(seed, layer, rate))


def dropout_pooled_forward(out, argmax, counters, seed, layer, rate):
    """Parallel over pieces of rows."""
    _dropout_pooled(out, argmax, counters, *_numbers(seed, layer, rate))
