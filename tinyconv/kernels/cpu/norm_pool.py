"""Batch normalisation -> ReLU -> max-pool as one step: what is normalised is only ever in a register.

Forward, each window reads its pixels of x and normalises them on the way. Backward, only winners have a gradient, so
the sums over the batch are sums over the pooled arrays; then each row of dx collects the gradients of its windows and,
while it is in the cache, gets the rest of batch normalisation's formula.
"""

from tinyconv.kernels.cpu.normalization import (
    RELU,
    cut_of,
    gradient_of_rows,
    normal,
    run_parameter_gradients,
    run_statistics,
    run_write_out,
)
from tinyconv.kernels.cpu.pool import LOWEST, collecting, holds, load_channels, row_tasks, window, won
from tinyconv.kernels.cpu.registers.host import LANES
from tinyconv.kernels.cpu.registers.vector import select, vector_fill, vector_store_first
from tinyconv.kernels.cpu.runtime.cutting import share
from tinyconv.kernels.cpu.runtime.literals import ZERO
from tinyconv.kernels.cpu.runtime.tasks import flat, floats, helper, in_tasks, kernel, run


@helper(forceinline=True)
def _pick(x, corner, wide, c, rows, columns, steps):
    """Of a window and a vector of channels, from ``c`` on, of which ``steps[3]`` are left: the largest number after
    ReLU, where in the window it is, and what it was in x. See ``pool.py`` for the others."""
    best, picked = vector_fill(LOWEST), vector_fill(ZERO)
    winner = vector_fill(rows[0] * steps[2] + columns[0])
    for k in range(rows[0], rows[1]):
        for l in range(columns[0], columns[1]):
            at = corner + k * steps[0] + l * steps[1]
            _, y = normal(x, at, wide, c, steps[3])
            value = select(y < vector_fill(ZERO), vector_fill(ZERO), y)
            keep = holds(best, value)
            best, picked = select(keep, best, value), select(keep, picked, load_channels(x, at, steps[3]))
            winner = select(keep, winner, vector_fill(k * steps[2] + l))
    return best, winner, picked


@kernel
def _normalize_and_pool(task, tasks, out, argmax, picked, x, wide, pool_size, strides, padding):
    N, H, W, C = x.shape
    N, OH, OW, C = out.shape
    first, last = share(task, tasks, N * OH)
    for row in range(first, last):
        n, top = row // OH, row % OH * strides[0] - padding[0]
        rows = window(top, pool_size[0], H)
        for j in range(OW):
            left = j * strides[1] - padding[1]
            columns = window(left, pool_size[1], W)
            corner = ((n * H + top) * W + left) * C
            for c in range(0, C, LANES):
                at, steps = (row * OW + j) * C + c, (W * C, C, pool_size[1], C - c)
                best, winner, number = _pick(x, corner + c, wide, c, rows, columns, steps)
                vector_store_first(best, out, at, C - c)
                vector_store_first(winner, argmax, at, C - c)
                vector_store_first(number, picked, at, C - c)


@in_tasks
def batch_norm_relu_max_pool2d_forward(
    out,
    argmax,
    picked,
    mean,
    inv_std,
    moving_mean,
    moving_variance,
    x,
    gamma,
    beta,
    momentum,
    epsilon,
    pool_size,
    strides,
    padding,
):
    """The statistics as without pooling; then parallel over rows of the result."""
    pixels, tasks = x.reshape(-1, x.shape[-1]), row_tasks(out, x)
    statistics = mean, inv_std, moving_mean, moving_variance
    run_statistics(cut_of(pixels), statistics, pixels, floats(momentum, epsilon))
    wide = run_write_out(cut_of(pixels, 1), mean, inv_std, gamma, beta)
    run(_normalize_and_pool, tasks, tasks, out, argmax, picked, x, wide, pool_size, strides, padding)


_collect = collecting(won)


@kernel
def _gather_gradient(task, tasks, dx, dout, argmax, x, wide, pull, floor, pool_size, strides, padding):
    """A row's gradients of what was pooled, and from them those of x."""
    N, H, W, C = dx.shape
    first, last = share(task, tasks, N * H)
    long_rows = W * C // wide.shape[1]
    numbers = dx.reshape(-1)
    for row in range(first, last):
        _collect(row, last, dx, dout, argmax, pool_size, strides, padding)
        start = row * long_rows
        gradient_of_rows(start, start + long_rows, numbers, numbers, x, wide, pull, floor)


@in_tasks
def batch_norm_relu_max_pool2d_backward(
    dx, dgamma, dbeta, dout, argmax, picked, x, gamma, beta, mean, inv_std, pool_size, strides, padding
):
    """The sums over windows, as without pooling over pixels; then parallel over rows of dx."""
    N, H, W, C = x.shape
    pooled = dout.reshape(-1, C), picked.reshape(-1, C)
    channels = mean, inv_std, gamma, beta
    wide, pull = run_parameter_gradients(cut_of(pooled[0], W), N * H * W, dgamma, dbeta, *pooled, channels, RELU)
    if dx.size:
        tasks, geometry = row_tasks(dx, dout), (pool_size, strides, padding)
        run(_gather_gradient, tasks, tasks, dx, dout, argmax, *flat(x), wide, pull, RELU, *geometry)
