"""Losses and metrics. The rows of a batch are independent of each other, and so run in parallel if there are many."""

import numpy as np
from numba import prange

from tinyconv.kernels.cpu.activation import exp, softmax_row
from tinyconv.kernels.cpu.runtime.cutting import by_size, pieces, share
from tinyconv.kernels.cpu.runtime.jit import jit
from tinyconv.kernels.cpu.runtime.tasks import NOTHING, in_tasks, kernel, run
from tinyconv.kernels.cpu.runtime.views import same_memory
from tinyconv.kernels.reference.loss import EPSILON

ZERO, ONE, TWO, HALF = (np.float32(value) for value in (0, 1, 2, 0.5))
LOWEST, HIGHEST = np.float32(EPSILON), np.float32(1 - EPSILON)  # of a probability


@jit
def _sum(row):
    total = ZERO
    for c in range(row.size):
        total += row[c]
    return total


@kernel
def _softmax_cross_entropy(task, losses, probs, logits, targets, numbers):
    C = numbers[1]
    first, last = share(task, numbers[0], losses.size)
    for m in range(first, last):
        q, z, t = probs[m * C : (m + 1) * C], logits[m * C : (m + 1) * C], targets[m * C : (m + 1) * C]
        largest, total = softmax_row(q, z)
        log_total = np.log(total)
        loss = ZERO
        for c in range(C):
            loss -= t[c] * (z[c] - largest - log_total)
        losses[m] = loss


@in_tasks
def softmax_cross_entropy_forward(losses, probs, logits, targets):
    tasks = pieces(logits.size, cost=4)
    run(_softmax_cross_entropy, tasks, losses, probs, logits, targets, np.array([tasks, logits.shape[1]]))


@kernel
def _softmax_cross_entropy_backward(task, dlogits, probs, targets, _, numbers):
    M, C = numbers[1], numbers[2]
    first, last = share(task, numbers[0], M)
    for m in range(first, last):
        d, q, t = dlogits[m * C : (m + 1) * C], probs[m * C : (m + 1) * C], targets[m * C : (m + 1) * C]
        total = _sum(t)
        for c in range(C):
            d[c] = (q[c] * total - t[c]) / np.float32(M)


@in_tasks
def softmax_cross_entropy_backward(dlogits, probs, targets):
    tasks = pieces(probs.size)
    run(_softmax_cross_entropy_backward, tasks, dlogits, probs, targets, NOTHING, np.array([tasks, *probs.shape]))


@jit
def _clip(probability):
    """NaN stays NaN: it is neither below nor above."""
    return LOWEST if probability < LOWEST else HIGHEST if probability > HIGHEST else probability


@by_size(1, cost=4)
def cross_entropy_forward(losses, probs, targets):
    M, C = probs.shape
    for m in prange(M):
        total = _sum(probs[m])
        loss = ZERO
        for c in range(C):
            loss -= targets[m, c] * np.log(_clip(probs[m, c] / total))
        losses[m] = loss


@jit
def _derivative(q, target):
    """Of -target * log(clip(q))."""
    return ZERO if (q < LOWEST) | (q > HIGHEST) else -target / q


@by_size()
def cross_entropy_backward(dprobs, probs, targets):
    M, C = probs.shape
    for m in prange(M):
        total = _sum(probs[m])
        dot = ZERO
        for c in range(C):
            q = probs[m, c] / total
            dot += _derivative(q, targets[m, c]) * q
        for c in range(C):
            dprobs[m, c] = (_derivative(probs[m, c] / total, targets[m, c]) - dot) / total / np.float32(M)


@by_size(1, cost=4)
def sigmoid_cross_entropy_forward(losses, probs, logits, targets):
    M, C = logits.shape
    for m in prange(M):
        loss = ZERO
        for c in range(C):
            z = logits[m, c]
            e = exp(-abs(z))
            probs[m, c] = (ONE if z >= ZERO else e) / (ONE + e)
            loss += (ZERO if z < ZERO else z) - z * targets[m, c] + np.log1p(e)
        losses[m] = loss / np.float32(C)


@by_size()
def sigmoid_cross_entropy_backward(dlogits, probs, targets):
    M, C = probs.shape
    for m in prange(M):
        for c in range(C):
            dlogits[m, c] = (probs[m, c] - targets[m, c]) / np.float32(M * C)


@by_size(1, cost=4)
def binary_cross_entropy_forward(losses, probs, targets):
    M, C = probs.shape
    for m in prange(M):
        loss = ZERO
        for c in range(C):
            q = _clip(probs[m, c])
            loss -= targets[m, c] * np.log(q) + (ONE - targets[m, c]) * np.log1p(-q)
        losses[m] = loss / np.float32(C)


@by_size()
def binary_cross_entropy_backward(dprobs, probs, targets):
    M, C = probs.shape
    for m in prange(M):
        for c in range(C):
            q = probs[m, c]
            slope = (q - targets[m, c]) / (q * (ONE - q)) / np.float32(M * C)
            dprobs[m, c] = ZERO if (q < LOWEST) | (q > HIGHEST) else slope


@by_size(1)
def mean_squared_error_forward(losses, predictions, targets):
    M, C = predictions.shape
    for m in prange(M):
        total = ZERO
        for c in range(C):
            total += (predictions[m, c] - targets[m, c]) ** 2
        losses[m] = total / np.float32(C)


@by_size()
def mean_squared_error_backward(dpredictions, predictions, targets):
    M, C = predictions.shape
    for m in prange(M):
        for c in range(C):
            dpredictions[m, c] = TWO * (predictions[m, c] - targets[m, c]) / np.float32(M * C)


@jit
def _first_largest(row):
    """As NumPy's argmax: a NaN is larger than any number."""
    best = 0
    for c in range(1, row.size):
        if row[c] > row[best] or (row[c] != row[c] and row[best] == row[best]):
            best = c
    return best


@kernel
def _count_correct(task, correct, predictions, targets, _, numbers):
    C = numbers[1]
    first, last = share(task, numbers[0], correct.size)
    for m in range(first, last):
        found, truth = predictions[m * C : (m + 1) * C], targets[m * C : (m + 1) * C]
        correct[m] = ONE if _first_largest(found) == _first_largest(truth) else ZERO


@in_tasks
def count_correct(correct, predictions, targets):
    tasks = pieces(predictions.size)
    run(_count_correct, tasks, correct, predictions, targets, NOTHING, np.array([tasks, predictions.shape[1]]))


@by_size(1)
def count_binary_correct(correct, predictions, targets):
    M, C = predictions.shape
    for m in prange(M):
        right = 0
        for c in range(C):
            right += (ONE if predictions[m, c] > HALF else ZERO) == targets[m, c]
        correct[m] = np.float32(right) / np.float32(C)


@by_size(1)
def count_top_k(correct, predictions, targets, k):
    M, C = predictions.shape
    for m in prange(M):
        truth = predictions[m, _first_largest(targets[m])]
        larger = 0
        for c in range(C):
            larger += predictions[m, c] > truth
        correct[m] = ONE if larger < k and np.isfinite(truth) else ZERO


@kernel
def _accumulate(task, totals, values, _, __, numbers):
    total = 0.0
    for m in range(values.size):
        total += values[m]
    same_memory(totals, np.float64)[numbers[0]] += same_memory(numbers, np.float64)[1] * total


@in_tasks
def accumulate(totals, values, slot, weight):
    """Serial: one number per sample."""
    run(_accumulate, 1, totals, values, NOTHING, NOTHING, np.array([slot, np.float64(weight).view(np.int64)]))
