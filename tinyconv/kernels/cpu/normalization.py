"""Batch normalisation, in three lines each way: sums of parts of the batch, from these what each channel needs, and one
pass that writes the result.

* A part is added up chunk by chunk: few enough rows that they stay in the cache while they are read again. Inside of a
  chunk numbers are float32; chunks, and then parts, are added in float64 and in order. How many parts there are, and
  which rows are theirs, follows from the shape.
* The variance of several sets of rows is found from their means and variances, by the formula of Chan, Golub and
  LeVeque ("Updating formulae and a pairwise algorithm for computing sample variances", 1979): with n rows, mean a and
  sum of squared deviations s, and n', a', s' of other rows, all of them have the mean a + (a' - a) n' / (n + n') and
  the sum of squared deviations s + s' + (a' - a)^2 n n' / (n + n'). So x comes from memory once, not once for the mean
  and once more for the variance.
* What depends on the channel alone is computed once, and kept for the last line.
"""

from typing import NamedTuple

import numpy as np

from tinyconv.kernels.cpu.registers.host import LANES
from tinyconv.kernels.cpu.registers.vector import (
    vector_load,
    vector_load_first,
    vector_multiply_add,
    vector_store,
)
from tinyconv.kernels.cpu.runtime.cutting import pieces, share
from tinyconv.kernels.cpu.runtime.literals import ONE
from tinyconv.kernels.cpu.runtime.tasks import flat, floats, helper, in_tasks, kernel, run
from tinyconv.kernels.cpu.runtime.views import stack_array

CHUNK = 8192  # numbers of a chunk, 32 KB,
FEWEST, MOST = 16, 512  # but not fewer rows, nor more: sums in float32 should not be long
PARTS = 64  # of the batch, at most
WIDTH = 128  # channels that are added up at a time


class Cut(NamedTuple):
    """The shape of x, the rows of a chunk, and how many parts the chunks make."""

    M: int
    C: int
    rows: int
    parts: int

    @property
    def tasks(self):
        """One for each part, and WIDTH of the channels."""
        return self.parts * self.blocks

    @property
    def blocks(self):
        """How many times WIDTH channels there are."""
        return -(-self.C // WIDTH)


def _cut(x):
    M, C = x.shape
    rows = min(MOST, max(FEWEST, CHUNK // C))
    return Cut(M, C, rows, min(PARTS, -(-M // rows)))


@helper
def _rows_of(part, cut):
    """The rows of a part, from and to: whole chunks."""
    first, last = share(part, cut.parts, (cut.M + cut.rows - 1) // cut.rows)
    return first * cut.rows, min(last * cut.rows, cut.M)


@helper
def _channels(block, C):
    """The channels of a block, from and to."""
    return block * WIDTH, min((block + 1) * WIDTH, C)


@helper(forceinline=True)
def _load(x, at, count):
    """A vector of x, or its first ``count`` numbers, and zeros."""
    return vector_load(x, at) if count >= LANES else vector_load_first(x, at, count)


@helper
def _add_rows(total, x, C, rows, channels):
    """Add up x over these rows, of these channels; four rows at a time, whose sum is added."""
    (start, stop), (first, last) = rows, channels
    whole = start + (stop - start) // 4 * 4
    for m in range(start, whole, 4):
        for c in range(0, last - first, LANES):
            at, count = m * C + first + c, last - first - c
            two, two_more = (
                _load(x, at, count) + _load(x, at + C, count),
                _load(x, at + 2 * C, count) + _load(x, at + 3 * C, count),
            )
            vector_store(vector_load(total, c) + (two + two_more), total, c)
    for m in range(whole, stop):
        for c in range(0, last - first, LANES):
            vector_store(vector_load(total, c) + _load(x, m * C + first + c, last - first - c), total, c)


@helper
def _add_deviations(total, squares, x, shift, C, rows, channels):
    """Add up, over these rows, x - shift and its square; four rows at a time."""
    (start, stop), (first, last) = rows, channels
    whole = start + (stop - start) // 4 * 4
    for m in range(start, whole, 4):
        for c in range(0, last - first, LANES):
            at, count, middle = m * C + first + c, last - first - c, vector_load(shift, c)
            d0, d1 = _load(x, at, count) - middle, _load(x, at + C, count) - middle
            d2, d3 = _load(x, at + 2 * C, count) - middle, _load(x, at + 3 * C, count) - middle
            vector_store(vector_load(total, c) + ((d0 + d1) + (d2 + d3)), total, c)
            four = vector_multiply_add(d0, d0, d1 * d1) + vector_multiply_add(d2, d2, d3 * d3)
            vector_store(vector_load(squares, c) + four, squares, c)
    for m in range(whole, stop):
        for c in range(0, last - first, LANES):
            d = _load(x, m * C + first + c, last - first - c) - vector_load(shift, c)
            vector_store(vector_load(total, c) + d, total, c)
            vector_store(vector_multiply_add(d, d, vector_load(squares, c)), squares, c)


@helper
def _clear(array):
    for c in range(array.size):
        array[c] = 0


@kernel
def _moments(task, cut, moments, x):
    """moments[0, part] and [1, part] (C,): the mean of a part of x (M, C), and its sum of squared deviations."""
    part = task % cut.parts
    start, end = _rows_of(part, cut)
    first, last = channels = _channels(task // cut.parts, cut.C)
    shift, total, squares = (
        stack_array(WIDTH, np.float32),
        stack_array(WIDTH, np.float32),
        stack_array(WIDTH, np.float32),
    )
    mean, deviations = moments[0, part, first:last], moments[1, part, first:last]
    _clear(mean)
    _clear(deviations)
    for m in range(start, end, cut.rows):
        chunk = (m, min(m + cut.rows, end))
        before, count = m - start, chunk[1] - m
        _clear(shift)
        _clear(total)
        _clear(squares)
        _add_rows(shift, x, cut.C, chunk, channels)
        for c in range(WIDTH):
            shift[c] /= np.float32(count)
        _add_deviations(total, squares, x, shift, cut.C, chunk, channels)
        weight = count / (before + count)
        for c in range(last - first):
            rest = np.float64(total[c]) / count  # as the shift is a mean that was rounded
            difference = np.float64(shift[c]) + rest - mean[c]
            mean[c] += difference * weight
            deviations[c] += np.float64(squares[c]) - rest * rest * count + difference * difference * (before * weight)


@kernel
def _statistics(task, cut, mean, inv_std, scale, moving_mean, moving_variance, moments, gamma, options):
    """The parts' moments together, and what they give for each channel."""
    momentum, epsilon = np.float32(options[0]), np.float32(options[1])
    first, last = _channels(task, cut.C)
    middle, deviations = stack_array(WIDTH, np.float64), stack_array(WIDTH, np.float64)
    _clear(middle)
    _clear(deviations)
    for part in range(cut.parts):
        before, end = _rows_of(part, cut)
        weight = (end - before) / end
        means, squares = moments[0, part, first:last], moments[1, part, first:last]
        for c in range(last - first):
            difference = means[c] - middle[c]
            middle[c] += difference * weight
            deviations[c] += squares[c] + difference * difference * (before * weight)
    for c in range(first, last):
        mean[c] = middle[c - first]
        variance = np.float32(deviations[c - first] / cut.M)
        inv_std[c] = ONE / np.sqrt(variance + epsilon)
        scale[c] = inv_std[c] * gamma[c]
        moving_mean[c] = moving_mean[c] * momentum + mean[c] * (ONE - momentum)
        moving_variance[c] = moving_variance[c] * momentum + variance * (ONE - momentum)


@kernel
def _scale_and_shift(task, tasks, out, x, mean, scale, beta):
    """out = (x - mean) * scale + beta: some of the rows."""
    C = mean.size
    whole = C // LANES * LANES
    first, last = share(task, tasks, out.size // C)
    for row in range(first * C, last * C, C):
        for c in range(0, whole, LANES):
            d, factor = vector_load(x, row + c) - vector_load(mean, c), vector_load(scale, c)
            vector_store(vector_multiply_add(d, factor, vector_load(beta, c)), out, row + c)
        for c in range(whole, C):
            out[row + c] = (x[row + c] - mean[c]) * scale[c] + beta[c]


@in_tasks
def batch_norm_forward(out, mean, inv_std, moving_mean, moving_variance, x, gamma, beta, momentum, epsilon):
    """Parallel over parts of the rows, over channels, and over rows."""
    cut, tasks = _cut(x), pieces(x.size)
    scale, moments = np.empty(cut.C, np.float32), np.empty((2, cut.parts, cut.C), np.float64)
    options = floats(momentum, epsilon)
    run(_moments, cut.tasks, cut, moments, *flat(x))
    run(_statistics, cut.blocks, cut, mean, inv_std, scale, moving_mean, moving_variance, moments, gamma, options)
    run(_scale_and_shift, tasks, tasks, *flat(out, x), mean, scale, beta)


@helper
def _add_gradients(total, products, dout, x, mean, rows, channels):
    """Add up, over these rows, dout and dout * (x - mean); two rows at a time."""
    (start, stop), (first, last), C = rows, channels, mean.size
    whole = start + (stop - start) // 2 * 2
    for m in range(start, whole, 2):
        for c in range(0, last - first, LANES):
            at, count, middle = m * C + first + c, last - first - c, _load(mean, first + c, last - first - c)
            g0, g1 = _load(dout, at, count), _load(dout, at + C, count)
            d0, d1 = _load(x, at, count) - middle, _load(x, at + C, count) - middle
            vector_store(vector_load(total, c) + (g0 + g1), total, c)
            vector_store(vector_load(products, c) + vector_multiply_add(g0, d0, g1 * d1), products, c)
    for m in range(whole, stop):
        for c in range(0, last - first, LANES):
            at, count = m * C + first + c, last - first - c
            g, d = _load(dout, at, count), _load(x, at, count) - _load(mean, first + c, count)
            vector_store(vector_load(total, c) + g, total, c)
            vector_store(vector_multiply_add(g, d, vector_load(products, c)), products, c)


@kernel
def _gradient_sums(task, cut, sums, dout, x, mean):
    """sums[0, part] and [1, part] (C,): of a part of the rows, the sums of dout and of dout * (x - mean)."""
    part = task % cut.parts
    start, end = _rows_of(part, cut)
    first, last = channels = _channels(task // cut.parts, cut.C)
    total, products = stack_array(WIDTH, np.float32), stack_array(WIDTH, np.float32)
    totals, all_products = sums[0, part, first:last], sums[1, part, first:last]
    _clear(totals)
    _clear(all_products)
    for m in range(start, end, cut.rows):
        _clear(total)
        _clear(products)
        _add_gradients(total, products, dout, x, mean, (m, min(m + cut.rows, end)), channels)
        for c in range(last - first):
            totals[c] += total[c]
            all_products[c] += products[c]


@kernel
def _parameter_gradients(task, cut, dgamma, dbeta, factors, sums, gamma, inv_std):
    """The parts' sums together, and three factors for each channel: dx is factors[0] times dout, plus factors[1] times
    (x - mean), plus factors[2]."""
    first, last = _channels(task, cut.C)
    for c in range(first, last):
        total, products = 0.0, 0.0
        for part in range(cut.parts):
            total += sums[0, part, c]
            products += sums[1, part, c]
        dbeta[c] = total
        dgamma[c] = products * inv_std[c]
        factors[0, c] = gamma[c] * inv_std[c]
        factors[1, c] = -factors[0, c] * inv_std[c] * dgamma[c] / np.float32(cut.M)
        factors[2, c] = -factors[0, c] * dbeta[c] / np.float32(cut.M)


@kernel
def _input_gradient(task, tasks, dx, dout, x, mean, factors):
    C = mean.size
    a, p, q = factors[0], factors[1], factors[2]
    whole = C // LANES * LANES
    first, last = share(task, tasks, dx.size // C)
    for row in range(first * C, last * C, C):
        for c in range(0, whole, LANES):
            d = vector_load(x, row + c) - vector_load(mean, c)
            rest = vector_multiply_add(vector_load(p, c), d, vector_load(q, c))
            vector_store(vector_multiply_add(vector_load(a, c), vector_load(dout, row + c), rest), dx, row + c)
        for c in range(whole, C):
            dx[row + c] = a[c] * dout[row + c] + (p[c] * (x[row + c] - mean[c]) + q[c])


@in_tasks
def batch_norm_backward(dx, dgamma, dbeta, dout, x, gamma, mean, inv_std):
    """As forward. dx is linear in dout and x: the last line computes it from three factors for each channel."""
    cut, tasks = _cut(x), pieces(x.size)
    factors, sums = np.empty((3, cut.C), np.float32), np.empty((2, cut.parts, cut.C), np.float64)
    run(_gradient_sums, cut.tasks, cut, sums, *flat(dout, x), mean)
    run(_parameter_gradients, cut.blocks, cut, dgamma, dbeta, factors, sums, gamma, inv_std)
    if dx.size:
        run(_input_gradient, tasks, tasks, *flat(dx, dout, x), mean, factors)


@kernel
def _inference_scale(task, scale, gamma, moving_variance, epsilon):
    for c in range(scale.size):
        scale[c] = gamma[c] / np.sqrt(moving_variance[c] + np.float32(epsilon[0]))


def _run_inference_scale(gamma, moving_variance, epsilon):
    """The factor of each channel, for the next line."""
    scale = np.empty(gamma.size, np.float32)
    run(_inference_scale, 1, scale, gamma, moving_variance, floats(epsilon))
    return scale


@in_tasks
def batch_norm_inference(out, x, gamma, beta, moving_mean, moving_variance, epsilon):
    """The channels' factors, then parallel over rows."""
    tasks, scale = pieces(x.size), _run_inference_scale(gamma, moving_variance, epsilon)
    run(_scale_and_shift, tasks, tasks, *flat(out, x), moving_mean, scale, beta)


@kernel
def _scale(task, tasks, dx, dout, scale):
    M, C = dx.shape
    first, last = share(task, tasks, M)
    for m in range(first, last):
        d, g = dx[m], dout[m]
        for c in range(C):
            d[c] = g[c] * scale[c]


@in_tasks
def batch_norm_inference_backward(dx, dout, gamma, moving_variance, epsilon):
    """As the forward."""
    tasks, scale = pieces(dx.size), _run_inference_scale(gamma, moving_variance, epsilon)
    run(_scale, tasks, tasks, dx, dout, scale)


@kernel
def _fold_bias(task, b_folded, b, scale, beta, moving_mean):
    for f in range(b.size):
        b_folded[f] = (b[f] - moving_mean[f]) * scale[f] + beta[f]


@in_tasks
def batch_norm_fold(w_folded, b_folded, w, b, gamma, beta, moving_mean, moving_variance, epsilon):
    """The channels' factors, then the weights, parallel over rows, and the bias."""
    tasks, scale = pieces(w.size), _run_inference_scale(gamma, moving_variance, epsilon)
    run(_scale, tasks, tasks, w_folded, w, scale)
    run(_fold_bias, 1, b_folded, b, scale, beta, moving_mean)
