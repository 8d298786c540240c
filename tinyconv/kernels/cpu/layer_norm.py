"""Layer normalisation: a row at a time, but for the sums over rows, which are added up in parts, and these in order."""

import numpy as np

from tinyconv.kernels.cpu.runtime.cutting import pieces, share
from tinyconv.kernels.cpu.runtime.jit import jit
from tinyconv.kernels.cpu.runtime.literals import ONE, ZERO
from tinyconv.kernels.cpu.runtime.tasks import floats, in_tasks, kernel, run

PARTS, LEAST = 32, 16384  # into how many parts, at most, the sums are cut, and how many numbers each has, at least


@jit(reassociate=True)
def _mean(row):
    total = ZERO
    for c in range(row.size):
        total += row[c]
    return total / np.float32(row.size)


@jit(reassociate=True)
def _variance(row, mean):
    total = ZERO
    for c in range(row.size):
        total += (row[c] - mean) * (row[c] - mean)
    return total / np.float32(row.size)


@kernel
def _normalize(task, tasks, out, mean, inv_std, x, gamma, beta, epsilon):
    first, last = share(task, tasks, len(x))
    for m in range(first, last):
        o, v = out[m], x[m]
        middle = _mean(v)
        factor = ONE / np.sqrt(_variance(v, middle) + np.float32(epsilon[0]))
        mean[m], inv_std[m] = middle, factor
        for c in range(v.size):
            o[c] = (v[c] - middle) * factor * gamma[c] + beta[c]


@in_tasks
def layer_norm_forward(out, mean, inv_std, x, gamma, beta, epsilon):
    """Parallel over rows."""
    tasks = pieces(x.size)
    run(_normalize, tasks, tasks, out, mean, inv_std, x, gamma, beta, floats(epsilon))


@kernel
def _sums(task, sums, dout, x, mean, inv_std):
    """sums[0, part] and [1, part] (C,): of a part of the rows, the sums of dout times the normalised x, and of dout."""
    products, totals = sums[0, task], sums[1, task]
    products[:] = ZERO
    totals[:] = ZERO
    first, last = share(task, sums.shape[1], len(x))
    for m in range(first, last):
        g, v, middle, factor = dout[m], x[m], mean[m], inv_std[m]
        for c in range(g.size):
            products[c] += g[c] * ((v[c] - middle) * factor)
            totals[c] += g[c]


@kernel
def _add_parts(task, dgamma, dbeta, sums):
    out = dgamma if task == 0 else dbeta
    out[:] = ZERO
    for part in range(sums.shape[1]):
        each = sums[task, part]
        for c in range(out.size):
            out[c] += each[c]


@jit(reassociate=True)
def _gradient_means(dout, x, gamma, mean, inv_std):
    """The means over a row of g = dout * gamma, and of g times the normalised x."""
    total, product = ZERO, ZERO
    for c in range(dout.size):
        g = dout[c] * gamma[c]
        total += g
        product += g * ((x[c] - mean) * inv_std)
    return total / np.float32(dout.size), product / np.float32(dout.size)


@kernel
def _input_gradient(task, tasks, dx, dout, x, gamma, mean, inv_std):
    first, last = share(task, tasks, len(x))
    for m in range(first, last):
        d, g, v, middle, factor = dx[m], dout[m], x[m], mean[m], inv_std[m]
        total, product = _gradient_means(g, v, gamma, middle, factor)
        for c in range(d.size):
            d[c] = factor * (g[c] * gamma[c] - total - (v[c] - middle) * factor * product)


@in_tasks
def layer_norm_backward(dx, dgamma, dbeta, dout, x, gamma, mean, inv_std):
    """dgamma and dbeta, parallel over parts of the rows; dx, parallel over rows."""
    M, C = x.shape
    parts = max(1, min(PARTS, x.size // LEAST, M))
    sums = np.empty((2, parts, C), np.float32)
    run(_sums, parts, sums, dout, x, mean, inv_std)
    run(_add_parts, 2, dgamma, dbeta, sums)
    if dx.size:
        tasks = pieces(x.size)
        run(_input_gradient, tasks, tasks, dx, dout, x, gamma, mean, inv_std)
