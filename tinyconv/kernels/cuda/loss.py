"""Losses and metrics, one thread a row; and the running totals of an epoch."""

import math

import numpy as np

from tinyconv.kernels.cuda.activation import softmax_row, softmax_scale
from tinyconv.kernels.cuda.runtime.device import THREADS, blocks_for, cuda, divided, float32, inlined, launch
from tinyconv.kernels.reference.loss import EPSILON

LOWEST, HIGHEST = np.float32(EPSILON), np.float32(1 - EPSILON)  # of a probability
SQUARED, ABSOLUTE, HUBER = range(3)  # what is done with an error


def softmax_cross_entropy_forward(losses, probs, logits, targets):
    """See reference. One thread a row."""
    _rows(_softmax_cross_entropy_forward, losses, probs, logits, targets)


def softmax_cross_entropy_backward(dlogits, probs, targets):
    """See reference. One thread an element, which adds up its row's targets for itself."""
    launch(_softmax_cross_entropy_backward, blocks_for(probs.size), THREADS, dlogits, probs, targets)


def cross_entropy_forward(losses, probs, targets):
    """See reference. One thread a row."""
    _rows(_cross_entropy_forward, losses, probs, targets)


def cross_entropy_backward(dprobs, probs, targets):
    """See reference. One thread a row."""
    _rows(_cross_entropy_backward, dprobs, probs, targets)


def sigmoid_cross_entropy_forward(losses, probs, logits, targets):
    """See reference. One thread a row."""
    _rows(_sigmoid_cross_entropy_forward, losses, probs, logits, targets)


def sigmoid_cross_entropy_backward(dlogits, probs, targets):
    """See reference. One thread a row."""
    _rows(_sigmoid_cross_entropy_backward, dlogits, probs, targets)


def binary_cross_entropy_forward(losses, probs, targets):
    """See reference. One thread a row."""
    _rows(_binary_cross_entropy_forward, losses, probs, targets)


def binary_cross_entropy_backward(dprobs, probs, targets):
    """See reference. One thread a row."""
    _rows(_binary_cross_entropy_backward, dprobs, probs, targets)


def mean_squared_error_forward(losses, predictions, targets):
    """See reference. One thread a row."""
    _rows(_mean_size, losses, predictions, targets, SQUARED, float32(0))


def mean_squared_error_backward(dpredictions, predictions, targets):
    """See reference. One thread a row."""
    _rows(_mean_slope, dpredictions, predictions, targets, SQUARED, float32(0))


def mean_absolute_error_forward(losses, predictions, targets):
    """See reference. One thread a row."""
    _rows(_mean_size, losses, predictions, targets, ABSOLUTE, float32(0))


def mean_absolute_error_backward(dpredictions, predictions, targets):
    """See reference. One thread a row."""
    _rows(_mean_slope, dpredictions, predictions, targets, ABSOLUTE, float32(0))


def huber_forward(losses, predictions, targets, delta):
    """See reference. One thread a row."""
    _rows(_mean_size, losses, predictions, targets, HUBER, float32(delta))


def huber_backward(dpredictions, predictions, targets, delta):
    """See reference. One thread a row."""
    _rows(_mean_slope, dpredictions, predictions, targets, HUBER, float32(delta))


def smooth_targets(out, targets, smoothing, level):
    """See reference. One thread a row."""
    _rows(_smooth_targets, out, targets, float32(1 - smoothing), float32(smoothing * level))


def weigh(values, weights, factor, normalize):
    """See reference. One thread a row, which adds up all weights for itself if their sum is asked for."""
    _rows(_weigh, values, weights, np.float64(factor), bool(normalize))


def count_correct(correct, predictions, targets):
    """See reference. One thread a row."""
    _rows(_count_correct, correct, predictions, targets)


def count_binary_correct(correct, predictions, targets):
    """See reference. One thread a row."""
    _rows(_count_binary_correct, correct, predictions, targets)


def count_top_k(correct, predictions, targets, k):
    """See reference. One thread a row."""
    _rows(_count_top_k, correct, predictions, targets, k)


def count_outcomes(totals, predictions, targets, weights, thresholds, slot, column):
    """See reference. One block a threshold, and one for the sums of all; see :func:`accumulate`."""
    arrays = totals, predictions, targets, weights, thresholds
    launch(_count_outcomes, len(thresholds) + 1, THREADS, *arrays, slot, column)


def accumulate(totals, values, weights, slot, weight):
    """See reference. One block: each thread adds up every 128th value, in double precision, then they add in pairs."""
    launch(_accumulate, 1, THREADS, totals, values, weights, slot, np.float64(weight))


def _rows(kernel, first, *others):
    launch(kernel, blocks_for(len(first)), THREADS, first, *others)


@cuda.jit
def _softmax_cross_entropy_forward(losses, probs, logits, targets):
    m = cuda.grid(1)
    if m < logits.shape[0]:
        largest, total = softmax_scale(logits, m)
        log_total = math.log(total)
        loss = float32(0)
        c = 0
        while c < logits.shape[1]:
            loss -= targets[m, c] * (logits[m, c] - largest - log_total)
            c += 1
        losses[m] = loss
        softmax_row(probs, logits, m, largest, total)


@cuda.jit
def _softmax_cross_entropy_backward(dlogits, probs, targets):
    m, c = divided(cuda.grid(1), probs.shape[1])
    if m < probs.shape[0]:
        total = float32(0)
        other = 0
        while other < probs.shape[1]:
            total += targets[m, other]
            other += 1
        dlogits[m, c] = (probs[m, c] * total - targets[m, c]) / float32(probs.shape[0])


@cuda.jit
def _cross_entropy_forward(losses, probs, targets):
    m = cuda.grid(1)
    if m < probs.shape[0]:
        total = row_sum(probs, m)
        loss = float32(0)
        for c in range(probs.shape[1]):
            loss -= targets[m, c] * math.log(clip(probs[m, c] / total))
        losses[m] = loss


@cuda.jit
def _cross_entropy_backward(dprobs, probs, targets):
    m = cuda.grid(1)
    if m < probs.shape[0]:
        total = row_sum(probs, m)
        inner = float32(0)
        for c in range(probs.shape[1]):
            q = probs[m, c] / total
            if not clipped(q):
                inner -= targets[m, c]  # g q, with g = -t / q
        for c in range(probs.shape[1]):
            q = probs[m, c] / total
            g = float32(0) if clipped(q) else -targets[m, c] / q
            dprobs[m, c] = (g - inner) / total / float32(probs.shape[0])


@cuda.jit
def _sigmoid_cross_entropy_forward(losses, probs, logits, targets):
    m = cuda.grid(1)
    if m < logits.shape[0]:
        total = float32(0)
        for c in range(logits.shape[1]):
            z = logits[m, c]
            e = math.exp(-abs(z))
            probs[m, c] = (float32(1) if z >= float32(0) else e) / (float32(1) + e)
            total += max(z, float32(0)) - z * targets[m, c] + math.log1p(e)
        losses[m] = total / float32(logits.shape[1])


@cuda.jit
def _sigmoid_cross_entropy_backward(dlogits, probs, targets):
    m = cuda.grid(1)
    if m < probs.shape[0]:
        for c in range(probs.shape[1]):
            dlogits[m, c] = (probs[m, c] - targets[m, c]) / float32(probs.size)


@cuda.jit
def _binary_cross_entropy_forward(losses, probs, targets):
    m = cuda.grid(1)
    if m < probs.shape[0]:
        total = float32(0)
        for c in range(probs.shape[1]):
            q = clip(probs[m, c])
            t = targets[m, c]
            total -= t * math.log(q) + (float32(1) - t) * math.log1p(-q)
        losses[m] = total / float32(probs.shape[1])


@cuda.jit
def _binary_cross_entropy_backward(dprobs, probs, targets):
    m = cuda.grid(1)
    if m < probs.shape[0]:
        for c in range(probs.shape[1]):
            q = probs[m, c]
            slope = float32(0)
            if not clipped(q):
                slope = (q - targets[m, c]) / (q * (float32(1) - q)) / float32(probs.size)
            dprobs[m, c] = slope


@inlined
def size_of(error, kind, delta):
    size = abs(error)
    half = float32(0.5)
    huber = delta * size - half * delta * delta if size > delta else half * size * size
    return error * error if kind == SQUARED else size if kind == ABSOLUTE else huber


@inlined
def slope_of(error, kind, delta):
    sign = float32(1) if error > float32(0) else float32(-1) if error < float32(0) else error
    huber = delta if error > delta else -delta if error < -delta else error
    return float32(2) * error if kind == SQUARED else sign if kind == ABSOLUTE else huber


@cuda.jit
def _mean_size(losses, predictions, targets, kind, delta):
    m = cuda.grid(1)
    if m < predictions.shape[0]:
        total = float32(0)
        for c in range(predictions.shape[1]):
            total += size_of(predictions[m, c] - targets[m, c], kind, delta)
        losses[m] = total / float32(predictions.shape[1])


@cuda.jit
def _mean_slope(dpredictions, predictions, targets, kind, delta):
    m = cuda.grid(1)
    if m < predictions.shape[0]:
        for c in range(predictions.shape[1]):
            slope = slope_of(predictions[m, c] - targets[m, c], kind, delta)
            dpredictions[m, c] = slope / float32(predictions.size)


@cuda.jit
def _smooth_targets(out, targets, keep, add):
    m = cuda.grid(1)
    if m < out.shape[0]:
        for c in range(out.shape[1]):
            out[m, c] = targets[m, c] * keep + add


@cuda.jit
def _weigh(values, weights, factor, normalize):
    m = cuda.grid(1)
    if m < values.shape[0]:
        if normalize and weights.size > 0:
            total = np.float64(0)
            for k in range(weights.size):
                total += np.float64(weights[k])
            factor = factor * np.float64(weights.size) / total if total != 0 else np.float64(0)
        if weights.size > 0:
            factor *= np.float64(weights[m])
        for c in range(values.shape[1]):
            values[m, c] *= float32(factor)


@cuda.jit
def _count_correct(correct, predictions, targets):
    m = cuda.grid(1)
    if m < predictions.shape[0]:
        correct[m] = float32(1) if argmax(predictions, m) == argmax(targets, m) else float32(0)


@cuda.jit
def _count_binary_correct(correct, predictions, targets):
    m = cuda.grid(1)
    if m < predictions.shape[0]:
        count = 0
        for c in range(predictions.shape[1]):
            said = float32(1) if predictions[m, c] > float32(0.5) else float32(0)
            if said == targets[m, c]:
                count += 1
        correct[m] = float32(count) / float32(predictions.shape[1])


@cuda.jit
def _count_top_k(correct, predictions, targets, k):
    m = cuda.grid(1)
    if m < predictions.shape[0]:
        truth = predictions[m, argmax(targets, m)]
        larger = 0
        for c in range(predictions.shape[1]):
            if predictions[m, c] > truth:
                larger += 1
        finite = truth - truth == float32(0)
        correct[m] = float32(1) if larger < k and finite else float32(0)


@cuda.jit
def _count_outcomes(totals, predictions, targets, weights, thresholds, slot, column):
    sums = cuda.shared.array((2, THREADS), np.float64)
    t, k = cuda.threadIdx.x, cuda.blockIdx.x
    columns = predictions.shape[1] if column < 0 else 1
    true, false = np.float64(0), np.float64(0)
    for i in range(t, predictions.shape[0] * columns, THREADS):
        m, c = divided(i, columns)
        if column >= 0:
            c = column
        weight = np.float64(weights[m]) if weights.size > 0 else np.float64(1)
        if k == thresholds.size or predictions[m, c] > thresholds[k]:
            if targets[m, c] != float32(0):
                true += weight
            else:
                false += weight
    sums[0, t], sums[1, t] = true, false
    half = THREADS // 2
    while half > 0:
        cuda.syncthreads()
        if t < half:
            sums[0, t] += sums[0, t + half]
            sums[1, t] += sums[1, t + half]
        half //= 2
    if t == 0:
        first = 2 * thresholds.size if k == thresholds.size else k
        second = first + 1 if k == thresholds.size else thresholds.size + k
        totals[slot + first] += sums[0, 0]
        totals[slot + second] += sums[1, 0]


@cuda.jit
def _accumulate(totals, values, weights, slot, factor):
    sums = cuda.shared.array((2, THREADS), np.float64)
    t = cuda.threadIdx.x
    total, count = np.float64(0), np.float64(0)
    for i in range(t, values.size, THREADS):
        weight = np.float64(weights[i]) if weights.size > 0 else np.float64(1)
        total += weight * np.float64(values[i])
        count += weight
    sums[0, t], sums[1, t] = total, count
    half = THREADS // 2
    while half > 0:
        cuda.syncthreads()
        if t < half:
            sums[0, t] += sums[0, t + half]
            sums[1, t] += sums[1, t + half]
        half //= 2
    if t == 0:
        totals[slot] += factor * sums[0, 0]
        totals[slot + 1] += factor * sums[1, 0]


@inlined
def clip(q):
    """q within [EPSILON, 1 - EPSILON]; a NaN stays one."""
    if q < LOWEST:
        return LOWEST
    return HIGHEST if q > HIGHEST else q


@inlined
def clipped(q):
    """Whether clip changed q."""
    return q < LOWEST or q > HIGHEST


@inlined
def row_sum(x, m):
    """The sum of row m."""
    total = float32(0)
    for c in range(x.shape[1]):
        total += x[m, c]
    return total


@inlined
def argmax(x, m):
    """The column of row m's largest value, the first of equals; a NaN counts as the largest."""
    best = x[m, 0]
    place = 0
    for c in range(1, x.shape[1]):
        value = x[m, c]
        if value > best or (value != value and best == best):
            best = value
            place = c
    return place
