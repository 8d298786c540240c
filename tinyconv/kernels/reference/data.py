"""Moving samples between the data set and the batch, and counting them."""

from tinyconv.kernels.reference.dropout import CURSOR, STEP


def gather_rows(out, x, order, counters):
    """Fill the batch: out[i] = x[order[cursor + i]], where cursor is counters[CURSOR].

    Shapes: out (N, D), overwritten; x (samples, D); order int64 (samples,), a permutation of the samples.
    """
    cursor = counters[CURSOR]
    out[...] = x[order[cursor : cursor + len(out)]]


def gather_one_hot(out, labels, order, counters):
    """Fill the batch's targets from class numbers: out[i, labels[order[cursor + i]]] = 1, else 0.

    Shapes: out (N, C), overwritten; labels int64 (samples,), each in 0..C-1; order as in :func:`gather_rows`. Labels
    with several numbers per sample, (samples * R,), fill R rows of out for each sample: out (N * R, C).
    """
    per_sample = len(labels) // len(order)
    cursor = counters[CURSOR]
    samples = order[cursor : cursor + len(out) // per_sample]
    numbers = labels.reshape(-1, per_sample)[samples].reshape(-1)
    out[...] = 0
    out[range(len(out)), numbers] = 1


def scatter_rows(result, x, counters):
    """Put the batch's results where they belong: result[cursor + i] = x[i]. Shapes: x (N, D), result (samples, D)."""
    cursor = counters[CURSOR]
    result[cursor : cursor + len(x)] = x


def advance(counters, steps, samples):
    """counters[STEP] += steps, counters[CURSOR] += samples: the last step of every batch."""
    counters[STEP] += steps
    counters[CURSOR] += samples
