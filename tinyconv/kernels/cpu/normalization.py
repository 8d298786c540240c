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

import numpy as np

from tinyconv.kernels.cpu.runtime.cutting import pieces, share
from tinyconv.kernels.cpu.runtime.jit import jit
from tinyconv.kernels.cpu.runtime.literals import ONE, ZERO
from tinyconv.kernels.cpu.runtime.tasks import floats, in_tasks, kernel, run
from tinyconv.kernels.cpu.runtime.views import stack_array

CHUNK = 8192  # numbers of a chunk, 32 KB,
FEWEST, MOST = 16, 512  # but not fewer rows, nor more: sums in float32 should not be long
PARTS = 64  # of the batch, at most
WIDTH = 128  # channels that are added up at a time


def _parts(x):
    """The rows of a chunk, and how many parts the chunks make."""
    M, C = x.shape
    rows = min(MOST, max(FEWEST, CHUNK // C))
    return rows, min(PARTS, -(-M // rows))


def _blocks(C):
    """How many times WIDTH channels."""
    return -(-C // WIDTH)


@jit
def _rows_of(part, parts, rows, M):
    """The rows of a part, from and to: whole chunks."""
    first, last = share(part, parts, (M + rows - 1) // rows)
    return first * rows, min(last * rows, M)


@jit
def _channels(block, C):
    """The channels of a block, from and to."""
    return block * WIDTH, min((block + 1) * WIDTH, C)


@jit
def _add_rows(total, x, rows, channels):
    """total += x[rows].sum(axis=0), of these channels; four rows at a time, whose sum is added."""
    (start, stop), (first, last) = rows, channels
    whole = start + (stop - start) // 4 * 4
    for m in range(start, whole, 4):
        r0, r1, r2, r3 = x[m, first:last], x[m + 1, first:last], x[m + 2, first:last], x[m + 3, first:last]
        for c in range(last - first):
            total[c] += (r0[c] + r1[c]) + (r2[c] + r3[c])
    for m in range(whole, stop):
        r0 = x[m, first:last]
        for c in range(last - first):
            total[c] += r0[c]


@jit
def _add_deviations(total, squares, x, shift, rows, channels):
    """Add up, over these rows, x - shift and its square; two rows at a time."""
    (start, stop), (first, last) = rows, channels
    whole = start + (stop - start) // 2 * 2
    for m in range(start, whole, 2):
        r0, r1 = x[m, first:last], x[m + 1, first:last]
        for c in range(last - first):
            d0, d1 = r0[c] - shift[c], r1[c] - shift[c]
            total[c] += d0 + d1
            squares[c] += d0 * d0 + d1 * d1
    for m in range(whole, stop):
        r0 = x[m, first:last]
        for c in range(last - first):
            d0 = r0[c] - shift[c]
            total[c] += d0
            squares[c] += d0 * d0


@kernel
def _moments(task, parts, rows, moments, x):
    """moments[0, part] and [1, part] (C,): the mean of a part of x (M, C), and its sum of squared deviations."""
    M, C = x.shape
    start, end = _rows_of(task % parts, parts, rows, M)
    first, last = channels = _channels(task // parts, C)
    shift, total, squares = (
        stack_array(WIDTH, np.float32),
        stack_array(WIDTH, np.float32),
        stack_array(WIDTH, np.float32),
    )
    mean, deviations = moments[0, task % parts, first:last], moments[1, task % parts, first:last]
    mean[:] = 0
    deviations[:] = 0
    for m in range(start, end, rows):
        chunk = (m, min(m + rows, end))
        before, count = m - start, chunk[1] - m
        shift[:] = ZERO
        total[:] = ZERO
        squares[:] = ZERO
        _add_rows(shift, x, chunk, channels)
        for c in range(last - first):
            shift[c] /= np.float32(count)
        _add_deviations(total, squares, x, shift, chunk, channels)  # the mean is rounded: deviations do not sum to zero
        weight = count / (before + count)
        for c in range(last - first):
            rest = np.float64(total[c]) / count
            difference = np.float64(shift[c]) + rest - mean[c]
            mean[c] += difference * weight
            deviations[c] += np.float64(squares[c]) - rest * rest * count + difference * difference * (before * weight)


@kernel
def _statistics(task, cut, mean, inv_std, scale, moving_mean, moving_variance, moments, gamma, options):
    """The parts' moments together, and what they give for each channel."""
    (M, rows), momentum, epsilon = cut, np.float32(options[0]), np.float32(options[1])
    first, last = _channels(task, mean.size)
    parts = moments.shape[1]
    middle, deviations = stack_array(WIDTH, np.float64), stack_array(WIDTH, np.float64)
    middle[:] = 0
    deviations[:] = 0
    for part in range(parts):
        before, end = _rows_of(part, parts, rows, M)
        weight = (end - before) / end
        means, squares = moments[0, part, first:last], moments[1, part, first:last]
        for c in range(last - first):
            difference = means[c] - middle[c]
            middle[c] += difference * weight
            deviations[c] += squares[c] + difference * difference * (before * weight)
    for c in range(first, last):
        mean[c] = middle[c - first]
        variance = np.float32(deviations[c - first] / M)
        inv_std[c] = ONE / np.sqrt(variance + epsilon)
        scale[c] = inv_std[c] * gamma[c]
        moving_mean[c] = moving_mean[c] * momentum + mean[c] * (ONE - momentum)
        moving_variance[c] = moving_variance[c] * momentum + variance * (ONE - momentum)


@kernel
def _scale_and_shift(task, tasks, out, x, mean, scale, beta):
    """out = (x - mean) * scale + beta: some of the rows."""
    M, C = x.shape
    first, last = share(task, tasks, M)
    for m in range(first, last):
        o, v = out[m], x[m]
        for c in range(C):
            o[c] = (v[c] - mean[c]) * scale[c] + beta[c]


@in_tasks
def batch_norm_forward(out, mean, inv_std, moving_mean, moving_variance, x, gamma, beta, momentum, epsilon):
    """Parallel over parts of the rows, over channels, and over rows."""
    M, C = x.shape
    rows, parts = _parts(x)
    tasks, scale, moments = pieces(x.size), np.empty(C, np.float32), np.empty((2, parts, C), np.float64)
    cut, options = (M, rows), floats(momentum, epsilon)
    run(_moments, parts * _blocks(C), parts, rows, moments, x)
    run(_statistics, _blocks(C), cut, mean, inv_std, scale, moving_mean, moving_variance, moments, gamma, options)
    run(_scale_and_shift, tasks, tasks, out, x, mean, scale, beta)


@jit
def _add_gradients(total, products, dout, x, mean, rows, channels):
    """Add up, over these rows, dout and dout * (x - mean); two rows at a time."""
    (start, stop), (first, last) = rows, channels
    middle = mean[first:last]
    whole = start + (stop - start) // 2 * 2
    for m in range(start, whole, 2):
        g0, g1, r0, r1 = dout[m, first:last], dout[m + 1, first:last], x[m, first:last], x[m + 1, first:last]
        for c in range(last - first):
            total[c] += g0[c] + g1[c]
            products[c] += g0[c] * (r0[c] - middle[c]) + g1[c] * (r1[c] - middle[c])
    for m in range(whole, stop):
        g0, r0 = dout[m, first:last], x[m, first:last]
        for c in range(last - first):
            total[c] += g0[c]
            products[c] += g0[c] * (r0[c] - middle[c])


@kernel
def _gradient_sums(task, parts, rows, sums, dout, x, mean):
    """sums[0, part] and [1, part] (C,): of a part of the rows, the sums of dout and of dout * (x - mean)."""
    M, C = x.shape
    start, end = _rows_of(task % parts, parts, rows, M)
    first, last = channels = _channels(task // parts, C)
    total, products = stack_array(WIDTH, np.float32), stack_array(WIDTH, np.float32)
    totals, all_products = sums[0, task % parts, first:last], sums[1, task % parts, first:last]
    totals[:] = 0
    all_products[:] = 0
    for m in range(start, end, rows):
        total[:] = ZERO
        products[:] = ZERO
        _add_gradients(total, products, dout, x, mean, (m, min(m + rows, end)), channels)
        for c in range(last - first):
            totals[c] += total[c]
            all_products[c] += products[c]


@kernel
def _parameter_gradients(task, M, dgamma, dbeta, factors, sums, gamma, inv_std):
    """The parts' sums together, and three factors for each channel: dx is factors[0] times dout, plus factors[1] times
    (x - mean), plus factors[2]."""
    first, last = _channels(task, gamma.size)
    for c in range(first, last):
        total, products = 0.0, 0.0
        for part in range(sums.shape[1]):
            total += sums[0, part, c]
            products += sums[1, part, c]
        dbeta[c] = total
        dgamma[c] = products * inv_std[c]
        factors[0, c] = gamma[c] * inv_std[c]
        factors[1, c] = -factors[0, c] * inv_std[c] * dgamma[c] / np.float32(M)
        factors[2, c] = -factors[0, c] * dbeta[c] / np.float32(M)


@kernel
def _input_gradient(task, tasks, dx, dout, x, mean, factors):
    M, C = x.shape
    a, p, q = factors[0], factors[1], factors[2]
    first, last = share(task, tasks, M)
    for m in range(first, last):
        d, g, v = dx[m], dout[m], x[m]
        for c in range(C):
            d[c] = a[c] * g[c] + (p[c] * (v[c] - mean[c]) + q[c])


@in_tasks
def batch_norm_backward(dx, dgamma, dbeta, dout, x, gamma, mean, inv_std):
    """As forward. dx is linear in dout and x: the last line computes it from three factors for each channel."""
    M, C = x.shape
    rows, parts = _parts(x)
    factors, sums = np.empty((3, C), np.float32), np.empty((2, parts, C), np.float64)
    run(_gradient_sums, parts * _blocks(C), parts, rows, sums, dout, x, mean)
    run(_parameter_gradients, _blocks(C), M, dgamma, dbeta, factors, sums, gamma, inv_std)
    if dx.size:
        tasks = pieces(x.size)
        run(_input_gradient, tasks, tasks, dx, dout, x, mean, factors)


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
    run(_scale_and_shift, tasks, tasks, out, x, moving_mean, scale, beta)


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
