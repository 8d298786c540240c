"""Moving samples between the data set and the batch: copies of rows, in tasks."""

import numpy as np

from tinyconv.kernels.cpu.runtime.cutting import copy, pieces, share
from tinyconv.kernels.cpu.runtime.tasks import NOTHING, in_tasks, kernel, run
from tinyconv.kernels.cpu.runtime.views import same_memory
from tinyconv.kernels.reference.dropout import CURSOR, STEP


@kernel
def _gather_rows(task, out, x, order, counters, numbers):
    tasks, N, D = numbers[0], numbers[1], numbers[2]
    samples, cursor = same_memory(order, np.int64), same_memory(counters, np.int64)[CURSOR]
    first, last = share(task, tasks, N)
    for n in range(first, last):
        place = samples[cursor + n] * D
        copy(out[n * D : (n + 1) * D], x[place : place + D])


@in_tasks
def gather_rows(out, x, order, counters):
    tasks = pieces(out.size)
    run(_gather_rows, tasks, out, x, order, counters, np.array([tasks, *out.shape]))


@kernel
def _gather_one_hot(task, out, labels, order, counters, numbers):
    tasks, N, C, per_sample = numbers[0], numbers[1], numbers[2], numbers[3]
    samples, cursor = same_memory(order, np.int64), same_memory(counters, np.int64)[CURSOR]
    classes = same_memory(labels, np.int64)
    first, last = share(task, tasks, N)
    for n in range(first, last):
        row = out[n * C : (n + 1) * C]
        for c in range(C):
            row[c] = 0
        row[classes[samples[cursor + n // per_sample] * per_sample + n % per_sample]] = 1


@in_tasks
def gather_one_hot(out, labels, order, counters):
    tasks = pieces(out.size)
    numbers = np.array([tasks, *out.shape, labels.size // order.size])
    run(_gather_one_hot, tasks, out, labels, order, counters, numbers)


@kernel
def _scatter_rows(task, result, x, counters, _, numbers):
    tasks, N, D = numbers[0], numbers[1], numbers[2]
    cursor = same_memory(counters, np.int64)[CURSOR]
    first, last = share(task, tasks, N)
    for n in range(first, last):
        copy(result[(cursor + n) * D : (cursor + n + 1) * D], x[n * D : (n + 1) * D])


@in_tasks
def scatter_rows(result, x, counters):
    tasks = pieces(x.size)
    run(_scatter_rows, tasks, result, x, counters, NOTHING, np.array([tasks, *x.shape]))


@kernel
def _advance(task, counters, _, __, ___, numbers):
    now = same_memory(counters, np.int64)
    now[STEP] += numbers[0]
    now[CURSOR] += numbers[1]


@in_tasks
def advance(counters, steps, samples):
    run(_advance, 1, counters, NOTHING, NOTHING, NOTHING, np.array([steps, samples]))
