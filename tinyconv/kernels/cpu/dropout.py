"""Dropout, with the reference's random numbers.

The counters of one row are drawn several to a vector register: as each number is a pure function of its counter,
nothing has to wait for anything. The masks are the reference's, bit for bit.
"""

from typing import NamedTuple

import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple

from tinyconv.kernels.cpu.runtime.cutting import pieces, share
from tinyconv.kernels.cpu.runtime.tasks import NOTHING, helper, in_tasks, kernel, run
from tinyconv.kernels.cpu.runtime.views import same_memory, stack_array
from tinyconv.kernels.reference.dropout import FIRST_SAMPLE, STEP, keep_threshold

MASK, HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
MULTIPLIER_0, MULTIPLIER_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
WEYL_0, WEYL_1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
ZERO = np.float32(0)
CHUNK = 256  # units whose mask is drawn, and then used, before the next
COST = 4  # of a unit, as a multiple of a simple element-wise operation


@helper
def philox(c0, c1, c2, c3, k0, k1):
    """The reference's ten rounds, for one counter: uint64 of which only the lower halves count, on the way and in the
    result. (The multiplication of vectors has an instruction that ignores the upper halves.)"""
    for _ in range(10):
        p0, p1 = (c0 & MASK) * MULTIPLIER_0, (c2 & MASK) * MULTIPLIER_1
        c0, c1, c2, c3 = (p1 >> HALF) ^ c1 ^ k0, p1, (p0 >> HALF) ^ c3 ^ k1, p0
        k0, k1 = (k0 + WEYL_0) & MASK, (k1 + WEYL_1) & MASK
    return c0, c1, c2, c3


@helper(forceinline=True)
def draw(keep, first, stop, sample, step, layer, seed, threshold):
    """keep[u] = whether unit ``first`` + u of the sample lives, for the units before ``stop``."""
    k0, k1 = seed & MASK, seed >> HALF
    sample, step, layer = np.uint64(sample) & MASK, np.uint64(step) & MASK, np.uint64(layer) & MASK
    for i in range((stop - first + 3) // 4):
        w0, w1, w2, w3 = philox(np.uint64(first // 4 + i) & MASK, sample, step, layer, k0, k1)
        keep[4 * i] = w0 & MASK >= threshold
        keep[4 * i + 1] = w1 & MASK >= threshold
        keep[4 * i + 2] = w2 & MASK >= threshold
        keep[4 * i + 3] = w3 & MASK >= threshold


class Numbers(NamedTuple):
    """What a kernel must know."""

    N: int
    units: int
    tasks: int
    layer: int
    seed: int  # the same bits as the unsigned seed
    threshold: int
    scale: int  # the bits of a float64


COUNT = len(Numbers._fields)


@helper(forceinline=True)
def _draw_chunk(keep, s, counters, chunk):
    """Draw chunk number ``chunk`` of the batch's masks; returns where it begins in the batch, and its size."""
    chunks = (s.units + CHUNK - 1) // CHUNK
    n, first = chunk // chunks, chunk % chunks * CHUNK
    stop, sample = min(s.units, first + CHUNK), counters[FIRST_SAMPLE] + n
    draw(keep, first, stop, sample, counters[STEP], s.layer, np.uint64(s.seed), np.uint64(s.threshold))
    return n * s.units + first, stop - first


@helper
def _share(s, task):
    """A task's chunks, from and to."""
    return share(task, s.tasks, s.N * ((s.units + CHUNK - 1) // CHUNK))


@kernel
def _dropout(task, out, x, _, counters, numbers):
    s, scale = Numbers(*to_fixed_tuple(numbers, COUNT)), np.float32(same_memory(numbers, np.float64)[COUNT - 1])
    keep, now = stack_array(CHUNK, np.bool_), same_memory(counters, np.int64)
    first, last = _share(s, task)
    for chunk in range(first, last):
        start, size = _draw_chunk(keep, s, now, chunk)
        o, v = out[start : start + size], x[start : start + size]
        for u in range(size):
            o[u] = v[u] * scale if keep[u] else ZERO


@kernel
def _dropout_pooled(task, out, _, argmax, counters, numbers):
    s, scale = Numbers(*to_fixed_tuple(numbers, COUNT)), np.float32(same_memory(numbers, np.float64)[COUNT - 1])
    keep, now = stack_array(CHUNK, np.bool_), same_memory(counters, np.int64)
    first, last = _share(s, task)
    for chunk in range(first, last):
        start, size = _draw_chunk(keep, s, now, chunk)
        o, winner = out[start : start + size], argmax[start : start + size]
        for u in range(size):
            o[u] = o[u] * scale if keep[u] else ZERO
        for u in range(size):
            winner[u] = winner[u] if keep[u] else np.int8(-1)


def _numbers(shape, seed, layer, rate):
    """The number of tasks, and what they must know."""
    N, units = shape
    tasks = pieces(N * units, COST)
    scale = np.float64(1 / (1 - rate)).view(np.int64)
    return tasks, np.array([N, units, tasks, layer, np.uint64(seed).view(np.int64), keep_threshold(rate), scale])


@in_tasks
def dropout_forward(out, x, counters, seed, layer, rate):
    """Parallel over pieces of rows."""
    tasks, numbers = _numbers(out.shape, seed, layer, rate)
    run(_dropout, tasks, out, x, NOTHING, counters, numbers)


@in_tasks
def dropout_backward(dx, dout, counters, seed, layer, rate):
    """The same mask again."""
    dropout_forward(dx, dout, counters, seed, layer, rate)


@in_tasks
def dropout_pooled_forward(out, argmax, counters, seed, layer, rate):
    """Parallel over pieces of rows."""
    tasks, numbers = _numbers(out.shape, seed, layer, rate)
    run(_dropout_pooled, tasks, out, NOTHING, argmax, counters, numbers)
