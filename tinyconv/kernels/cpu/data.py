"""Moving samples between the data set and the batch: copies of rows."""

from tinyconv.kernels.cpu.runtime.cutting import copy_row, pieces, share
from tinyconv.kernels.cpu.runtime.literals import ONE, ZERO
from tinyconv.kernels.cpu.runtime.tasks import in_tasks, kernel, run
from tinyconv.kernels.reference.dropout import CURSOR, STEP


@kernel
def _gather_rows(task, tasks, out, x, order, counters):
    first, last = share(task, tasks, len(out))
    for n in range(first, last):
        copy_row(out[n], x[order[counters[CURSOR] + n]])


@in_tasks
def gather_rows(out, x, order, counters):
    tasks = pieces(out.size)
    run(_gather_rows, tasks, tasks, out, x, order, counters)


@kernel
def _gather_one_hot(task, tasks, out, labels, order, counters):
    M, C = out.shape
    per_sample = labels.size // order.size
    first, last = share(task, tasks, M)
    for m in range(first, last):
        sample = order[counters[CURSOR] + m // per_sample]
        row = out[m]
        for c in range(C):
            row[c] = ZERO
        row[labels[sample * per_sample + m % per_sample]] = ONE


@in_tasks
def gather_one_hot(out, labels, order, counters):
    tasks = pieces(out.size)
    run(_gather_one_hot, tasks, tasks, out, labels, order, counters)


@kernel
def _scatter_rows(task, tasks, result, x, counters):
    first, last = share(task, tasks, len(x))
    for n in range(first, last):
        copy_row(result[counters[CURSOR] + n], x[n])


@in_tasks
def scatter_rows(result, x, counters):
    tasks = pieces(x.size)
    run(_scatter_rows, tasks, tasks, result, x, counters)


@kernel
def _advance(task, counters, steps, samples):
    counters[STEP] += steps
    counters[CURSOR] += samples


@in_tasks
def advance(counters, steps, samples):
    run(_advance, 1, counters, steps, samples)
