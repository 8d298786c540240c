"""Dropout, with the reference's random numbers.

The counters of one row are drawn several to a vector register: as each number is a pure function of its counter,
nothing has to wait for anything. The masks are the reference's, bit for bit.
"""

from typing import NamedTuple

import numpy as np

from tinyconv.kernels.cpu.runtime.cutting import pieces, share
from tinyconv.kernels.cpu.runtime.literals import ZERO
from tinyconv.kernels.cpu.runtime.tasks import floats, helper, in_tasks, kernel, run
from tinyconv.kernels.cpu.runtime.views import stack_array
from tinyconv.kernels.reference.dropout import FIRST_SAMPLE, MULTIPLIERS, STEP, WEYL, keep_threshold

LOW, WORD = np.uint64(0xFFFFFFFF), np.uint64(32)  # the lower half of a uint64, and how long it is
MULTIPLIER_0, MULTIPLIER_1 = MULTIPLIERS
WEYL_0, WEYL_1 = map(np.uint64, WEYL)
CHUNK = 256  # units whose mask is drawn, and then used, before the next
COST = 4  # of a unit, as a multiple of a simple element-wise operation


@helper
def philox(c0, c1, c2, c3, k0, k1):
    """The reference's ten rounds, for one counter: uint64 of which only the lower halves count, on the way and in the
    result. (The multiplication of vectors has an instruction that ignores the upper halves.)"""
    for _ in range(10):
        p0, p1 = (c0 & LOW) * MULTIPLIER_0, (c2 & LOW) * MULTIPLIER_1
        c0, c1, c2, c3 = (p1 >> WORD) ^ c1 ^ k0, p1, (p0 >> WORD) ^ c3 ^ k1, p0
        k0, k1 = (k0 + WEYL_0) & LOW, (k1 + WEYL_1) & LOW
    return c0, c1, c2, c3


@helper(forceinline=True)
def draw(keep, first, stop, sample, step, layer, seed, threshold):
    """keep[u] = whether unit ``first`` + u of the sample lives, for the units before ``stop``."""
    k0, k1 = seed & LOW, seed >> WORD
    sample, step, layer = np.uint64(sample) & LOW, np.uint64(step) & LOW, np.uint64(layer) & LOW
    for i in range((stop - first + 3) // 4):
        w0, w1, w2, w3 = philox(np.uint64(first // 4 + i) & LOW, sample, step, layer, k0, k1)
        keep[4 * i] = w0 & LOW >= threshold
        keep[4 * i + 1] = w1 & LOW >= threshold
        keep[4 * i + 2] = w2 & LOW >= threshold
        keep[4 * i + 3] = w3 & LOW >= threshold


class Draw(NamedTuple):
    """What decides a mask, beside the counters."""

    layer: int
    seed: int  # the same bits as the unsigned seed
    threshold: int


@helper(forceinline=True)
def _draw_chunk(keep, units, counters, how, chunk):
    """Draw chunk number ``chunk`` of the batch's masks. Returns its sample, and its units: from, and to before."""
    chunks = (units + CHUNK - 1) // CHUNK
    n, first = chunk // chunks, chunk % chunks * CHUNK
    stop, sample = min(units, first + CHUNK), counters[FIRST_SAMPLE] + n
    draw(keep, first, stop, sample, counters[STEP], how.layer, np.uint64(how.seed), np.uint64(how.threshold))
    return n, first, stop


@helper
def _chunks(task, tasks, out):
    """A task's chunks, from and to."""
    N, units = out.shape
    return share(task, tasks, N * ((units + CHUNK - 1) // CHUNK))


@kernel
def _dropout(task, tasks, out, x, counters, how, scales):
    keep, scale = stack_array(CHUNK, np.bool_), np.float32(scales[0])
    start, end = _chunks(task, tasks, out)
    for chunk in range(start, end):
        n, first, stop = _draw_chunk(keep, out.shape[1], counters, how, chunk)
        o, v = out[n, first:stop], x[n, first:stop]
        for u in range(o.size):
            o[u] = v[u] * scale if keep[u] else ZERO


@kernel
def _dropout_pooled(task, tasks, out, argmax, counters, how, scales):
    keep, scale = stack_array(CHUNK, np.bool_), np.float32(scales[0])
    start, end = _chunks(task, tasks, out)
    for chunk in range(start, end):
        n, first, stop = _draw_chunk(keep, out.shape[1], counters, how, chunk)
        o, winner = out[n, first:stop], argmax[n, first:stop]
        for u in range(o.size):
            o[u] = o[u] * scale if keep[u] else ZERO
        for u in range(o.size):
            winner[u] |= np.int8(keep[u]) - np.int8(1)  # -1, all of whose bits are set, where it is dropped


def _run(function, out, other, counters, seed, layer, rate):
    """Parallel over pieces of rows."""
    tasks = pieces(out.size, COST)
    how = Draw(layer, int(np.uint64(seed).view(np.int64)), keep_threshold(rate))
    run(function, tasks, tasks, out, other, counters, how, floats(1 / (1 - rate)))


@in_tasks
def dropout_forward(out, x, counters, seed, layer, rate):
    _run(_dropout, out, x, counters, seed, layer, rate)


@in_tasks
def dropout_backward(dx, dout, counters, seed, layer, rate):
    """The same mask again."""
    _run(_dropout, dx, dout, counters, seed, layer, rate)


@in_tasks
def dropout_pooled_forward(out, argmax, counters, seed, layer, rate):
    _run(_dropout_pooled, out, argmax, counters, seed, layer, rate)
