"""Losses and metrics, parallel over the rows of the batch, each of which stands for itself."""

import numpy as np

from tinyconv.kernels.cpu.activation import exp, softmax_row
from tinyconv.kernels.cpu.runtime.cutting import pieces, share
from tinyconv.kernels.cpu.runtime.jit import jit
from tinyconv.kernels.cpu.runtime.literals import HALF, ONE, TWO, ZERO
from tinyconv.kernels.cpu.runtime.tasks import flat, floats, in_tasks, kernel, run
from tinyconv.kernels.reference.loss import EPSILON

LOWEST, HIGHEST = np.float32(EPSILON), np.float32(1 - EPSILON)  # of a probability
SQUARED, ABSOLUTE, HUBER = range(3)  # what is done with an error
COSTLY = 4  # of an element that takes a logarithm, as a multiple of a simple one


@jit
def _sum(row):
    total = ZERO
    for c in range(row.size):
        total += row[c]
    return total


@kernel
def _softmax_cross_entropy(task, tasks, losses, probs, logits, targets):
    first, last = share(task, tasks, losses.size)
    for m in range(first, last):
        z, t = logits[m], targets[m]
        largest, total = softmax_row(probs[m], z)
        log_total = np.log(total)
        loss = ZERO
        for c in range(z.size):
            loss -= t[c] * (z[c] - largest - log_total)
        losses[m] = loss


@in_tasks
def softmax_cross_entropy_forward(losses, probs, logits, targets):
    tasks = pieces(logits.size, COSTLY)
    run(_softmax_cross_entropy, tasks, tasks, losses, probs, logits, targets)


@kernel
def _softmax_cross_entropy_gradient(task, tasks, dlogits, probs, targets):
    M, C = probs.shape
    first, last = share(task, tasks, M)
    for m in range(first, last):
        d, q, t = dlogits[m], probs[m], targets[m]
        total = _sum(t)
        for c in range(C):
            d[c] = (q[c] * total - t[c]) / np.float32(M)


@in_tasks
def softmax_cross_entropy_backward(dlogits, probs, targets):
    tasks = pieces(probs.size)
    run(_softmax_cross_entropy_gradient, tasks, tasks, dlogits, probs, targets)


@jit
def _clip(probability):
    """NaN stays NaN: it is neither below nor above."""
    return LOWEST if probability < LOWEST else HIGHEST if probability > HIGHEST else probability


@kernel
def _cross_entropy(task, tasks, losses, probs, targets):
    first, last = share(task, tasks, losses.size)
    for m in range(first, last):
        q, t = probs[m], targets[m]
        total = _sum(q)
        loss = ZERO
        for c in range(q.size):
            loss -= t[c] * np.log(_clip(q[c] / total))
        losses[m] = loss


@in_tasks
def cross_entropy_forward(losses, probs, targets):
    tasks = pieces(probs.size, COSTLY)
    run(_cross_entropy, tasks, tasks, losses, probs, targets)


@jit
def _derivative(q, target):
    """Of -target * log(clip(q))."""
    return ZERO if (q < LOWEST) | (q > HIGHEST) else -target / q


@kernel
def _cross_entropy_gradient(task, tasks, dprobs, probs, targets):
    M, C = probs.shape
    first, last = share(task, tasks, M)
    for m in range(first, last):
        d, q, t = dprobs[m], probs[m], targets[m]
        total = _sum(q)
        dot = ZERO
        for c in range(C):
            dot += _derivative(q[c] / total, t[c]) * (q[c] / total)
        for c in range(C):
            d[c] = (_derivative(q[c] / total, t[c]) - dot) / total / np.float32(M)


@in_tasks
def cross_entropy_backward(dprobs, probs, targets):
    tasks = pieces(probs.size)
    run(_cross_entropy_gradient, tasks, tasks, dprobs, probs, targets)


@kernel
def _sigmoid_cross_entropy(task, tasks, losses, probs, logits, targets):
    C = logits.shape[1]
    first, last = share(task, tasks, losses.size)
    for m in range(first, last):
        q, t, row = probs[m], targets[m], logits[m]
        loss = ZERO
        for c in range(C):
            z = row[c]
            e = exp(-abs(z))
            q[c] = (ONE if z >= ZERO else e) / (ONE + e)
            loss += (ZERO if z < ZERO else z) - z * t[c] + np.log1p(e)
        losses[m] = loss / np.float32(C)


@in_tasks
def sigmoid_cross_entropy_forward(losses, probs, logits, targets):
    tasks = pieces(logits.size, COSTLY)
    run(_sigmoid_cross_entropy, tasks, tasks, losses, probs, logits, targets)


@kernel
def _sigmoid_cross_entropy_gradient(task, tasks, dlogits, probs, targets):
    M, C = probs.shape
    first, last = share(task, tasks, M)
    for m in range(first, last):
        for c in range(C):
            dlogits[m, c] = (probs[m, c] - targets[m, c]) / np.float32(M * C)


@in_tasks
def sigmoid_cross_entropy_backward(dlogits, probs, targets):
    tasks = pieces(probs.size)
    run(_sigmoid_cross_entropy_gradient, tasks, tasks, dlogits, probs, targets)


@kernel
def _binary_cross_entropy(task, tasks, losses, probs, targets):
    M, C = probs.shape
    first, last = share(task, tasks, M)
    for m in range(first, last):
        loss = ZERO
        for c in range(C):
            q = _clip(probs[m, c])
            loss -= targets[m, c] * np.log(q) + (ONE - targets[m, c]) * np.log1p(-q)
        losses[m] = loss / np.float32(C)


@in_tasks
def binary_cross_entropy_forward(losses, probs, targets):
    tasks = pieces(probs.size, COSTLY)
    run(_binary_cross_entropy, tasks, tasks, losses, probs, targets)


@kernel
def _binary_cross_entropy_gradient(task, tasks, dprobs, probs, targets):
    M, C = probs.shape
    first, last = share(task, tasks, M)
    for m in range(first, last):
        for c in range(C):
            q = probs[m, c]
            slope = (q - targets[m, c]) / (q * (ONE - q)) / np.float32(M * C)
            dprobs[m, c] = ZERO if (q < LOWEST) | (q > HIGHEST) else slope


@in_tasks
def binary_cross_entropy_backward(dprobs, probs, targets):
    tasks = pieces(probs.size)
    run(_binary_cross_entropy_gradient, tasks, tasks, dprobs, probs, targets)


@jit
def _size(error, kind, delta):
    if kind == SQUARED:
        return error * error
    size = abs(error)
    if kind == ABSOLUTE:
        return size
    return delta * size - HALF * delta * delta if size > delta else HALF * size * size


@jit
def _slope(error, kind, delta):
    if kind == SQUARED:
        return TWO * error
    if kind == ABSOLUTE:
        return ONE if error > ZERO else -ONE if error < ZERO else error  # a NaN stays one
    return delta if error > delta else -delta if error < -delta else error


@kernel
def _mean_size(task, tasks, losses, predictions, targets, kind, deltas):
    M, C = predictions.shape
    delta = np.float32(deltas[0])
    first, last = share(task, tasks, M)
    for m in range(first, last):
        total = ZERO
        for c in range(C):
            total += _size(predictions[m, c] - targets[m, c], kind, delta)
        losses[m] = total / np.float32(C)


@kernel
def _mean_slope(task, tasks, dpredictions, predictions, targets, kind, deltas):
    M, C = predictions.shape
    delta = np.float32(deltas[0])
    first, last = share(task, tasks, M)
    for m in range(first, last):
        for c in range(C):
            dpredictions[m, c] = _slope(predictions[m, c] - targets[m, c], kind, delta) / np.float32(M * C)


def _of_errors(work, out, predictions, targets, kind, delta=0.0):
    tasks = pieces(predictions.size)
    run(work, tasks, tasks, out, predictions, targets, kind, floats(delta))


@in_tasks
def mean_squared_error_forward(losses, predictions, targets):
    _of_errors(_mean_size, losses, predictions, targets, SQUARED)


@in_tasks
def mean_squared_error_backward(dpredictions, predictions, targets):
    _of_errors(_mean_slope, dpredictions, predictions, targets, SQUARED)


@in_tasks
def mean_absolute_error_forward(losses, predictions, targets):
    _of_errors(_mean_size, losses, predictions, targets, ABSOLUTE)


@in_tasks
def mean_absolute_error_backward(dpredictions, predictions, targets):
    _of_errors(_mean_slope, dpredictions, predictions, targets, ABSOLUTE)


@in_tasks
def huber_forward(losses, predictions, targets, delta):
    _of_errors(_mean_size, losses, predictions, targets, HUBER, delta)


@in_tasks
def huber_backward(dpredictions, predictions, targets, delta):
    _of_errors(_mean_slope, dpredictions, predictions, targets, HUBER, delta)


@kernel
def _smooth_targets(task, tasks, out, targets, constants):
    keep, add = np.float32(1 - constants[0]), np.float32(constants[0] * constants[1])
    first, last = share(task, tasks, out.size)
    for i in range(first, last):
        out[i] = targets[i] * keep + add


@in_tasks
def smooth_targets(out, targets, smoothing, level):
    tasks = pieces(out.size)
    run(_smooth_targets, tasks, tasks, *flat(out, targets), floats(smoothing, level))


@kernel
def _weigh(task, tasks, values, weights, normalize, factors):
    M, C = values.shape
    factor = factors[0]
    if normalize and weights.size:
        total = 0.0
        for m in range(M):
            total += weights[m]
        factor = factor * M / total if total != 0 else 0.0
    first, last = share(task, tasks, M)
    for m in range(first, last):
        weight = np.float32(factor * (weights[m] if weights.size else ONE))
        for c in range(C):
            values[m, c] *= weight


@in_tasks
def weigh(values, weights, factor, normalize):
    """Each task adds up the weights for itself, in order."""
    tasks = pieces(values.size)
    run(_weigh, tasks, tasks, values, weights, bool(normalize), floats(factor))


@jit
def _first_largest(row):
    """As NumPy's argmax: a NaN is larger than any number."""
    best = 0
    for c in range(1, row.size):
        if row[c] > row[best] or (row[c] != row[c] and row[best] == row[best]):
            best = c
    return best


@kernel
def _count_correct(task, tasks, correct, predictions, targets):
    first, last = share(task, tasks, correct.size)
    for m in range(first, last):
        correct[m] = ONE if _first_largest(predictions[m]) == _first_largest(targets[m]) else ZERO


@in_tasks
def count_correct(correct, predictions, targets):
    tasks = pieces(predictions.size)
    run(_count_correct, tasks, tasks, correct, predictions, targets)


@kernel
def _count_binary_correct(task, tasks, correct, predictions, targets):
    M, C = predictions.shape
    first, last = share(task, tasks, M)
    for m in range(first, last):
        right = 0
        for c in range(C):
            right += (ONE if predictions[m, c] > HALF else ZERO) == targets[m, c]
        correct[m] = np.float32(right) / np.float32(C)


@in_tasks
def count_binary_correct(correct, predictions, targets):
    tasks = pieces(predictions.size)
    run(_count_binary_correct, tasks, tasks, correct, predictions, targets)


@kernel
def _count_top_k(task, tasks, correct, predictions, targets, k):
    M, C = predictions.shape
    first, last = share(task, tasks, M)
    for m in range(first, last):
        truth = predictions[m, _first_largest(targets[m])]
        larger = 0
        for c in range(C):
            larger += predictions[m, c] > truth
        correct[m] = ONE if larger < k and np.isfinite(truth) else ZERO


@in_tasks
def count_top_k(correct, predictions, targets, k):
    tasks = pieces(predictions.size)
    run(_count_top_k, tasks, tasks, correct, predictions, targets, k)


@kernel
def _count_outcomes(task, totals, predictions, targets, weights, thresholds, slot, column):
    (M, C), K = predictions.shape, thresholds.size
    begin, end = (0, C) if column < 0 else (column, column + 1)
    true, false = 0.0, 0.0
    for m in range(M):
        weight = np.float64(weights[m]) if weights.size else 1.0
        for c in range(begin, end):
            if task == K or predictions[m, c] > thresholds[task]:
                if targets[m, c] != ZERO:
                    true += weight
                else:
                    false += weight
    totals[slot + (2 * K if task == K else task)] += true
    totals[slot + (2 * K + 1 if task == K else K + task)] += false


@in_tasks
def count_outcomes(totals, predictions, targets, weights, thresholds, slot, column):
    """A task for each threshold, and one for the sums of all."""
    run(
        _count_outcomes,
        len(thresholds) + 1,
        *(totals, predictions, targets, weights, thresholds, slot, column),
    )


@kernel
def _accumulate(task, totals, values, weights, slot, factors):
    total, count = 0.0, 0.0
    for m in range(values.size):
        weight = np.float64(weights[m]) if weights.size else 1.0
        total += weight * values[m]
        count += weight
    totals[slot] += factors[0] * total
    totals[slot + 1] += factors[0] * count


@in_tasks
def accumulate(totals, values, weights, slot, weight):
    """Serial: one number per sample."""
    run(_accumulate, 1, totals, values, weights, slot, floats(weight))
