"""Batch normalisation, in a few lines each way: sums of parts of the batch, from these what each channel needs, and one
pass that writes the result.

* Few channels make short rows. So rows stand side by side, as many as it takes, in one long row of ``columns`` numbers,
  and x is read straight on. What belongs to a channel is written out once for each of its columns.
* A part of the long rows is added up chunk by chunk. Inside of a chunk numbers are float32; chunks, and then parts, are
  added in float64 and in order. How many parts there are, and which rows are theirs, follows from the shape.
* The numbers of a chunk are added up as deviations from the mean of the chunks before it, so that no large numbers
  cancel in the sum of their squares; for the first chunk, that of its first rows stands in. So x is read once, not once
  for the mean and once more for the variance.
* The variance of several sets of rows is found from their means and variances, by the formula of Chan, Golub and
  LeVeque ("Updating formulae and a pairwise algorithm for computing sample variances", 1979): with n rows, mean a and
  sum of squared deviations s, and n', a', s' of other rows, all of them have the mean a + (a' - a) n' / (n + n') and
  the sum of squared deviations s + s' + (a' - a)^2 n n' / (n + n').

A ReLU behind it costs nothing: numbers below a *floor* become the floor, backward those that are not above it pass no
gradient, and without ReLU the floor is NaN, which nothing is below or equal to.
"""

import functools
import math
from typing import NamedTuple

import numpy as np

from tinyconv.kernels.cpu.registers.copies import load
from tinyconv.kernels.cpu.registers.host import LANES
from tinyconv.kernels.cpu.registers.vector import (
    prefetch,
    select,
    vector_fill,
    vector_load,
    vector_multiply_add,
    vector_store,
    vector_store_first,
)
from tinyconv.kernels.cpu.runtime.cutting import LINE, pieces, share
from tinyconv.kernels.cpu.runtime.literals import ONE, ZERO
from tinyconv.kernels.cpu.runtime.tasks import NOTHING, flat, floats, helper, in_tasks, kernel, run
from tinyconv.kernels.cpu.runtime.views import stack_array

LONG = 128  # numbers of a long row, at least, if the number of rows allows
CHUNK = 16384  # numbers of a chunk,
FEWEST, MOST = 16, 512  # but not fewer rows, nor more: sums in float32 should not be long
PARTS = 32  # of the batch, at most
WIDTH = 512  # columns that are added up at a time
AHEAD = 2048  # numbers, from one that is read to one that is asked for: memory is slower than what is done here
RELU, NO_RELU = floats(0), floats(np.nan)  # the floor


class Cut(NamedTuple):
    """x as long rows: how many, their numbers, the channels among these, the rows of a chunk, and how many parts the
    chunks make."""

    M: int
    columns: int
    C: int
    rows: int
    parts: int

    @property
    def tasks(self):
        """One for each part, and WIDTH of the columns."""
        return self.parts * -(-self.columns // WIDTH)

    @property
    def lines(self):
        """Tasks of what is done channel by channel."""
        return -(-self.C // LINE)


def cut_of(x, runs=0):
    """How x (M, C) is cut. ``runs``: a length of runs of rows, none of which a long row may leave."""
    M, C = x.shape
    aside = math.gcd(M, runs, 1 << max(0, math.ceil(math.log2(LONG / C))))
    columns = C * aside
    rows = min(MOST, max(FEWEST, CHUNK // columns))
    return Cut(M // aside, columns, C, rows, min(PARTS, -(-M // aside // rows)))


@helper
def _rows_of(part, cut):
    """The rows of a part, from and to: whole chunks."""
    first, last = share(part, cut.parts, (cut.M + cut.rows - 1) // cut.rows)
    return first * cut.rows, min(last * cut.rows, cut.M)


@helper
def _block(number, width, size):
    """The places of a block of that width, from and to."""
    return number * width, min((number + 1) * width, size)


@helper
def _clear(array):
    for c in range(array.size):
        array[c] = 0


@helper
def _add_deviations(total, squares, x, shift, columns, rows, block):
    """The sums of x - shift, and of its square, over these rows, of a block of columns: the first, and how many."""
    first, width = block
    _clear(total)
    _clear(squares)
    for at in range(rows[0] * columns + first, rows[1] * columns + first, columns):
        for c in range(0, width, LANES):
            prefetch(x, at + c + AHEAD)
            d = load(x, at + c, width - c) - vector_load(shift, c)
            vector_store(vector_load(total, c) + d, total, c)
            vector_store(vector_multiply_add(d, d, vector_load(squares, c)), squares, c)


@kernel
def _moments(task, cut, moments, x):
    """moments[0, part] and [1, part] (columns,): the mean of a part, and its sum of squared deviations."""
    part = task % cut.parts
    start, end = _rows_of(part, cut)
    first, last = _block(task // cut.parts, WIDTH, cut.columns)
    block, width = (first, last - first), -(-(last - first) // LANES) * LANES
    shift, total, squares = (
        stack_array(WIDTH, np.float32)[:width],
        stack_array(WIDTH, np.float32)[:width],
        stack_array(WIDTH, np.float32)[:width],
    )
    mean, deviations = moments[0, part, first:last], moments[1, part, first:last]
    _clear(mean)
    _clear(deviations)
    _clear(shift)
    glance = min(end - start, FEWEST)
    _add_deviations(total, squares, x, shift, cut.columns, (start, start + glance), block)
    for c in range(width):
        shift[c] = total[c] / np.float32(glance)
    for m in range(start, end, cut.rows):
        until = min(m + cut.rows, end)
        _add_deviations(total, squares, x, shift, cut.columns, (m, until), block)
        before, count = m - start, until - m
        weight = count / (before + count)
        for c in range(last - first):
            rest = np.float64(total[c]) / count
            difference = np.float64(shift[c]) + rest - mean[c]
            mean[c] += difference * weight
            deviations[c] += np.float64(squares[c]) - rest * rest * count + difference * difference * (before * weight)
            shift[c] = mean[c]


@kernel
def _statistics(task, cut, mean, inv_std, moving_mean, moving_variance, moments, options):
    """The parts' moments together, and what they give for each channel."""
    momentum, epsilon = np.float32(options[0]), np.float32(options[1])
    first, last = _block(task, LINE, cut.C)
    width = last - first
    middle, deviations, before = stack_array(LINE, np.float64), stack_array(LINE, np.float64), 0
    _clear(middle)
    _clear(deviations)
    for part in range(cut.parts):
        start, end = _rows_of(part, cut)
        for column in range(first, cut.columns, cut.C):
            weight = (end - start) / (before + end - start)
            means, squares = moments[0, part, column : column + width], moments[1, part, column : column + width]
            for c in range(width):
                difference = means[c] - middle[c]
                middle[c] += difference * weight
                deviations[c] += squares[c] + difference * difference * (before * weight)
            before += end - start
    for c in range(first, last):
        mean[c] = middle[c - first]
        variance = np.float32(deviations[c - first] / before)
        inv_std[c] = ONE / np.sqrt(variance + epsilon)
        moving_mean[c] = moving_mean[c] * momentum + mean[c] * (ONE - momentum)
        moving_variance[c] = moving_variance[c] * momentum + variance * (ONE - momentum)


@kernel
def _write_out(task, wide, mean, inv_std, gamma, beta):
    """What belongs to a channel, in each of its columns: out is (x - wide[0]) * wide[1] + wide[2]."""
    C = mean.size
    for column in range(wide.shape[1]):
        c = column % C
        wide[0, column] = mean[c]
        wide[1, column] = inv_std[c] * gamma[c]
        wide[2, column] = beta[c]


@helper(forceinline=True)
def normal(x, at, wide, c, count):
    """x - mean, and from it the result before ReLU; forward and backward, which must agree on where that is 0."""
    columns = wide.shape[1]
    prefetch(x, at + AHEAD)
    d = load(x, at, count) - load(wide, c, count)
    return d, vector_multiply_add(d, load(wide, columns + c, count), load(wide, 2 * columns + c, count))


@kernel
def _scale_and_shift(task, tasks, out, x, wide, floor):
    """The result, but not below the floor: some of the rows."""
    columns, lowest = wide.shape[1], vector_fill(np.float32(floor[0]))
    first, last = share(task, tasks, out.size // columns)
    for at in range(first * columns, last * columns, columns):
        for c in range(0, columns, LANES):
            _, y = normal(x, at + c, wide, c, columns - c)
            vector_store_first(select(y < lowest, lowest, y), out, at + c, columns - c)


def run_statistics(cut, statistics, x, options):
    """``statistics``: mean, inv_std, moving_mean and moving_variance."""
    moments = np.empty((2, cut.parts, cut.columns), np.float64)
    run(_moments, cut.tasks, cut, moments, *flat(x))
    run(_statistics, cut.lines, cut, *statistics, moments, options)


@kernel
def _normalize_and_add(task, tasks, out, x, other, wide):
    """The result, another value added, and ReLU: some of the rows."""
    columns, zero = wide.shape[1], vector_fill(ZERO)
    first, last = share(task, tasks, out.size // columns)
    for at in range(first * columns, last * columns, columns):
        for c in range(0, columns, LANES):
            count = columns - c
            prefetch(other, at + c + AHEAD)
            _, y = normal(x, at + c, wide, c, count)
            y = y + load(other, at + c, count)
            vector_store_first(select(y < zero, zero, y), out, at + c, count)


def _run_forward(out, statistics, x, gamma, beta, options, floor):
    cut = cut_of(x)
    run_statistics(cut, statistics, x, options)
    _run_scale_and_shift(cut, out, x, (*statistics[:2], gamma, beta), floor)


def run_write_out(cut, mean, inv_std, gamma, beta):
    """``wide``, (3, columns)."""
    wide = np.empty((3, cut.columns), np.float32)
    run(_write_out, 1, wide, mean, inv_std, gamma, beta)
    return wide


def _run_scale_and_shift(cut, out, x, channels, floor):
    """``channels``: mean, inv_std, gamma and beta."""
    wide, tasks = run_write_out(cut, *channels), pieces(x.size)
    run(_scale_and_shift, tasks, tasks, *flat(out, x), wide, floor)


@helper(forceinline=True)
def _passed(_, dout, x, __, at, wide, c, count, lowest):
    """Of a vector of dout what the ReLU lets pass; and x - mean."""
    prefetch(dout, at + AHEAD)
    d, y = normal(x, at, wide, c, count)
    return select(y <= lowest, vector_fill(ZERO), load(dout, at, count)), d


@helper(forceinline=True)
def _passed_on(dother, dout, x, out, at, wide, c, count, lowest):
    """The same where something was added before the ReLU: out says where that is 0. dother is handed what passes."""
    prefetch(dout, at + AHEAD)
    prefetch(x, at + AHEAD)
    prefetch(out, at + AHEAD)
    g = select(load(out, at, count) <= lowest, vector_fill(ZERO), load(dout, at, count))
    vector_store_first(g, dother, at, count)
    return g, load(x, at, count) - load(wide, c, count)


@functools.cache
def _gradient_sums(passed):
    """The kernel that adds up what ``passed(dother, dout, x, out, at, wide, c, count, lowest)`` gives."""

    @kernel
    def gradient_sums(task, cut, sums, dother, dout, x, out, wide, floor):
        """sums[0, part] and [1, part] (columns,): of a part, the sums of dout and of dout * (x - mean)."""
        part, lowest = task % cut.parts, vector_fill(np.float32(floor[0]))
        start, end = _rows_of(part, cut)
        first, last = _block(task // cut.parts, WIDTH, cut.columns)
        total, products = stack_array(WIDTH, np.float32), stack_array(WIDTH, np.float32)
        totals, all_products = sums[0, part, first:last], sums[1, part, first:last]
        _clear(totals)
        _clear(all_products)
        for m in range(start, end, cut.rows):
            _clear(total)
            _clear(products)
            for row in range(m, min(m + cut.rows, end)):
                at = row * cut.columns + first
                for c in range(0, last - first, LANES):
                    count = last - first - c
                    g, d = passed(dother, dout, x, out, at + c, wide, first + c, count, lowest)
                    vector_store(vector_load(total, c) + g, total, c)
                    vector_store(vector_multiply_add(g, d, vector_load(products, c)), products, c)
            for c in range(last - first):
                totals[c] += total[c]
                all_products[c] += products[c]

    return gradient_sums


@kernel
def _parameter_gradients(task, cut, M, dgamma, dbeta, pull, sums, gamma, inv_std):
    """The parts' sums together; and for dx, which is gamma * inv_std times dout, plus pull[0] times (x - mean), plus
    pull[1], these two. The mean and inv_std are those of M rows."""
    first, last = _block(task, LINE, cut.C)
    width = last - first
    totals, products = stack_array(LINE, np.float64), stack_array(LINE, np.float64)
    _clear(totals)
    _clear(products)
    for part in range(cut.parts):
        for column in range(first, cut.columns, cut.C):
            some, some_products = sums[0, part, column : column + width], sums[1, part, column : column + width]
            for c in range(width):
                totals[c] += some[c]
                products[c] += some_products[c]
    for c in range(first, last):
        dbeta[c] = totals[c - first]
        dgamma[c] = products[c - first] * inv_std[c]
        factor = -gamma[c] * inv_std[c] / np.float32(M)
        for column in range(c, cut.columns, cut.C):
            pull[0, column] = factor * inv_std[c] * dgamma[c]
            pull[1, column] = factor * dbeta[c]


@helper
def gradient_of_rows(first, last, dx, dout, x, wide, pull, floor):
    """dx (may be dout) of these long rows."""
    columns, lowest = wide.shape[1], vector_fill(np.float32(floor[0]))
    for at in range(first * columns, last * columns, columns):
        for c in range(0, columns, LANES):
            count = columns - c
            g, d = _passed(NOTHING, dout, x, NOTHING, at + c, wide, c, count, lowest)
            rest = vector_multiply_add(load(pull, c, count), d, load(pull, columns + c, count))
            vector_store_first(vector_multiply_add(load(wide, columns + c, count), g, rest), dx, at + c, count)


@kernel
def _input_gradient(task, tasks, dx, dout, x, wide, pull, floor):
    first, last = share(task, tasks, dx.size // wide.shape[1])
    gradient_of_rows(first, last, dx, dout, x, wide, pull, floor)


def run_parameter_gradients(cut, M, dgamma, dbeta, dout, x, channels, floor, sums_of=_passed, more=(NOTHING,) * 2):
    """dgamma and dbeta, and what dx needs to know: ``wide`` and ``pull``. M: the rows whose statistics mean and inv_std
    are. ``more``: dother and out, for ``sums_of``."""
    _, inv_std, gamma, _ = channels
    wide, pull = run_write_out(cut, *channels), np.empty((2, cut.columns), np.float32)
    sums = np.empty((2, cut.parts, cut.columns), np.float64)
    dother, out = more
    run(_gradient_sums(sums_of), cut.tasks, cut, sums, *flat(dother, dout, x, out), wide, floor)
    run(_parameter_gradients, cut.lines, cut, M, dgamma, dbeta, pull, sums, gamma, inv_std)
    return wide, pull


def _run_backward(dx, dgamma, dbeta, dout, x, channels, floor):
    """``channels``: mean, inv_std, gamma, and beta, which does not matter without ReLU."""
    wide, pull = run_parameter_gradients(cut_of(x), len(x), dgamma, dbeta, dout, x, channels, floor)
    _run_input_gradient(dx, dout, x, wide, pull, floor)


def _run_input_gradient(dx, dout, x, wide, pull, floor):
    if dx.size:
        tasks = pieces(x.size)
        run(_input_gradient, tasks, tasks, *flat(dx, dout, x), wide, pull, floor)


@in_tasks
def batch_norm_forward(out, mean, inv_std, moving_mean, moving_variance, x, gamma, beta, momentum, epsilon):
    """Parallel over parts of the rows, over channels, and over rows."""
    statistics = mean, inv_std, moving_mean, moving_variance
    _run_forward(out, statistics, x, gamma, beta, floats(momentum, epsilon), NO_RELU)


@in_tasks
def batch_norm_backward(dx, dgamma, dbeta, dout, x, gamma, mean, inv_std):
    """As forward. dx is linear in dout and x: the last line computes it from three factors for each channel."""
    _run_backward(dx, dgamma, dbeta, dout, x, (mean, inv_std, gamma, gamma), NO_RELU)


@in_tasks
def batch_norm_relu_forward(out, mean, inv_std, moving_mean, moving_variance, x, gamma, beta, momentum, epsilon):
    """As without ReLU."""
    statistics = mean, inv_std, moving_mean, moving_variance
    _run_forward(out, statistics, x, gamma, beta, floats(momentum, epsilon), RELU)


@in_tasks
def batch_norm_relu_backward(dx, dgamma, dbeta, dout, x, gamma, beta, mean, inv_std):
    """As without ReLU."""
    _run_backward(dx, dgamma, dbeta, dout, x, (mean, inv_std, gamma, beta), RELU)


@in_tasks
def batch_norm_add_relu_forward(
    out, mean, inv_std, moving_mean, moving_variance, x, other, gamma, beta, momentum, epsilon
):
    """As without the other value, but for the last line."""
    cut, tasks, statistics = cut_of(x), pieces(x.size), (mean, inv_std, moving_mean, moving_variance)
    run_statistics(cut, statistics, x, floats(momentum, epsilon))
    wide = run_write_out(cut, mean, inv_std, gamma, beta)
    run(_normalize_and_add, tasks, tasks, *flat(out, x, other), wide)


@in_tasks
def batch_norm_add_relu_backward(dx, dother, dgamma, dbeta, dout, x, out, gamma, mean, inv_std):
    """The sums see what the ReLU lets pass, and write it out; to the last line that is a gradient without ReLU."""
    channels, gradients = (mean, inv_std, gamma, gamma), (dgamma, dbeta)
    passing = RELU, _passed_on, (dother, out)
    wide, pull = run_parameter_gradients(cut_of(x), len(x), *gradients, dout, x, channels, *passing)
    _run_input_gradient(dx, dother, x, wide, pull, NO_RELU)


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
    scale = _run_inference_scale(gamma, moving_variance, epsilon)
    _run_scale_and_shift(cut_of(x), out, x, (moving_mean, scale, np.ones_like(scale), beta), NO_RELU)


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


@in_tasks
def batch_norm_relu_inference(out, x, gamma, beta, moving_mean, moving_variance, epsilon):
    """As without ReLU."""
    scale = _run_inference_scale(gamma, moving_variance, epsilon)
    _run_scale_and_shift(cut_of(x), out, x, (moving_mean, scale, np.ones_like(scale), beta), RELU)


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
