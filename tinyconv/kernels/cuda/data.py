"""Moving samples between the data set and the batch, all of it on the device."""

from tinyconv.kernels.cuda.runtime.device import THREADS, blocks_for, cuda, divided, float32, launch
from tinyconv.kernels.reference.dropout import CURSOR, STEP


def gather_rows(out, x, order, counters):
    """See reference. One thread an element of the batch, a row of blocks for each sample."""
    N, D = out.shape
    launch(_gather_rows, (N, blocks_for(D)), THREADS, out, x, order, counters)


def gather_one_hot(out, labels, order, counters):
    """See reference. One thread an element of the targets."""
    launch(_gather_one_hot, blocks_for(out.size), THREADS, out, labels, order, counters, len(labels) // len(order))


def scatter_rows(result, x, counters):
    """See reference. One thread an element of the batch, a row of blocks for each sample."""
    N, D = x.shape
    launch(_scatter_rows, (N, blocks_for(D)), THREADS, result, x, counters)


def advance(counters, steps, samples):
    """See reference. A single thread."""
    launch(_advance, 1, 1, counters, steps, samples)


@cuda.jit
def _gather_rows(out, x, order, counters):
    n = cuda.blockIdx.x
    d = cuda.blockIdx.y * cuda.blockDim.x + cuda.threadIdx.x
    if d < out.shape[1]:
        out[n, d] = x[order[counters[CURSOR] + n], d]


@cuda.jit
def _gather_one_hot(out, labels, order, counters, per_sample):
    i = cuda.grid(1)
    if i < out.size:
        row, column = divided(i, out.shape[1])
        n, within = divided(row, per_sample)
        number = labels[order[counters[CURSOR] + n] * per_sample + within]
        out[row, column] = float32(1) if number == column else float32(0)


@cuda.jit
def _scatter_rows(result, x, counters):
    n = cuda.blockIdx.x
    d = cuda.blockIdx.y * cuda.blockDim.x + cuda.threadIdx.x
    if d < x.shape[1]:
        result[counters[CURSOR] + n, d] = x[n, d]


@cuda.jit
def _advance(counters, steps, samples):
    counters[STEP] += steps
    counters[CURSOR] += samples
