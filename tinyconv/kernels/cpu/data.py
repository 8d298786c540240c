"""Moving samples between the data set and the batch: parallel copies of rows."""

import numpy as np
from numba import prange

from tinyconv.kernels.cpu.blocks import by_size, copy
from tinyconv.kernels.cpu.jit import jit
from tinyconv.kernels.reference.dropout import CURSOR, STEP


@by_size()
def gather_rows(out, x, order, counters):
    N, D = out.shape
    cursor = counters[CURSOR]
    for row in prange(N):
        i = np.int64(row)
        copy(out[i], x[order[cursor + i]])


@by_size()
def gather_one_hot(out, labels, order, counters):
    N, C = out.shape
    per_sample = labels.size // order.size
    cursor = counters[CURSOR]
    for row in prange(N):
        i = np.int64(row)
        sample = order[cursor + i // per_sample]
        out[i] = 0
        out[i, labels[sample * per_sample + i % per_sample]] = 1


@by_size(1)
def scatter_rows(result, x, counters):
    N, D = x.shape
    cursor = counters[CURSOR]
    for row in prange(N):
        i = np.int64(row)
        copy(result[cursor + i], x[i])


@jit
def advance(counters, steps, samples):
    counters[STEP] += steps
    counters[CURSOR] += samples
