"""Optimisers. All parameters lie in one flat array, so that an update is one pass over it, of which each task has a
stretch."""

import numpy as np

from tinyconv.kernels.cpu.runtime.cutting import pieces, share_in_lines
from tinyconv.kernels.cpu.runtime.literals import ONE, TWO, ZERO
from tinyconv.kernels.cpu.runtime.tasks import floats, in_tasks, kernel, run
from tinyconv.kernels.reference.dropout import STEP

PART = 4096  # at least so many parameters make a part of the penalty,
PARTS = 16  # of which there are at most so many


@kernel
def _clip_values(task, tasks, grads, limits):
    limit = np.float32(limits[0])
    first, last = share_in_lines(task, tasks, grads.size)
    g = grads[first:last]
    for i in range(g.size):
        g[i] = -limit if g[i] < -limit else limit if g[i] > limit else g[i]


@in_tasks
def clip_values(grads, limit):
    tasks = pieces(grads.size)
    run(_clip_values, tasks, tasks, grads, floats(limit))


@kernel(reassociate=True)
def _sum_squares(part, sums, grads, parts):
    g = grads[parts[part, 0] : parts[part, 1]]
    total = 0.0
    for i in range(g.size):
        total += np.float64(g[i]) * np.float64(g[i])
    sums[part] = total


@kernel
def _scale(part, grads, sums, parts, limits):
    total, limit = 0.0, limits[0]
    for other in range(sums.size):
        if parts[other, 2] == parts[part, 2]:
            total += sums[other]
    norm = np.sqrt(total)
    scale = np.float32(limit / max(norm, limit) + (norm - norm))  # inf - inf, as NaN - NaN, is NaN
    g = grads[parts[part, 0] : parts[part, 1]]
    for i in range(g.size):
        g[i] *= scale


@in_tasks
def clip_norms(grads, sums, parts, limit):
    """A task for each part: first all sums, then the scaling, for which each task adds up its own norm."""
    run(_sum_squares, len(parts), sums, grads, parts)
    run(_scale, len(parts), grads, sums, parts, floats(limit))


@kernel
def _adam_rates(task, rates, learning_rate, counters, betas):
    """The two numbers that change from step to step, computed once for all parameters."""
    t = np.float64(counters[STEP] + 1)
    correction = (1 - betas[1] ** t) ** 0.5 / (1 - betas[0] ** t)
    rates[0], rates[1] = learning_rate[0], learning_rate[0] * np.float32(correction)


@kernel
def _adam(task, tasks, params, m, v, grads, rates, constants):
    rate, step_size, epsilon = rates[0], rates[1], np.float32(constants[2])
    rest_1, rest_2, decay = np.float32(1 - constants[0]), np.float32(1 - constants[1]), np.float32(constants[3])
    start, stop = share_in_lines(task, tasks, params.size)
    theta, first, second, gradient = params[start:stop], m[start:stop], v[start:stop], grads[start:stop]
    for i in range(theta.size):
        g = gradient[i]
        first[i] += (g - first[i]) * rest_1
        second[i] += (g * g - second[i]) * rest_2
        decayed = theta[i] - theta[i] * rate * decay
        theta[i] = decayed - step_size * first[i] / (np.sqrt(second[i]) + epsilon)


@in_tasks
def adam_update(params, m, v, grads, counters, learning_rate, beta_1, beta_2, epsilon, weight_decay):
    """First the rates that all parameters share."""
    tasks, rates = pieces(params.size), np.empty(2, np.float32)
    run(_adam_rates, 1, rates, learning_rate, counters, floats(beta_1, beta_2))
    run(_adam, tasks, tasks, params, m, v, grads, rates, floats(beta_1, beta_2, epsilon, weight_decay))


@kernel
def _rmsprop(task, tasks, params, mean_squares, velocity, means, grads, learning_rate, constants):
    rate, rho, rest = learning_rate[0], np.float32(constants[0]), np.float32(1 - constants[0])
    momentum, epsilon, decay = np.float32(constants[1]), np.float32(constants[2]), np.float32(constants[3])
    first, last = share_in_lines(task, tasks, params.size)
    theta, square, gradient = params[first:last], mean_squares[first:last], grads[first:last]
    speed, mean = velocity[first:last], means[first:last]
    for i in range(theta.size):
        g = gradient[i]
        variance = rho * square[i] + rest * g * g
        square[i] = variance
        if mean.size:
            mean[i] = rho * mean[i] + rest * g
            variance -= mean[i] * mean[i]
            variance = ZERO if variance < ZERO else variance
        step = rate * g / np.sqrt(variance + epsilon)
        if speed.size:
            speed[i] = step = momentum * speed[i] + step
        theta[i] = theta[i] - theta[i] * rate * decay - step


@in_tasks
def rmsprop_update(params, mean_squares, velocity, means, grads, learning_rate, rho, momentum, epsilon, weight_decay):
    tasks, constants = pieces(params.size), floats(rho, momentum, epsilon, weight_decay)
    run(_rmsprop, tasks, tasks, params, mean_squares, velocity, means, grads, learning_rate, constants)


@kernel
def _sgd(task, tasks, params, velocity, grads, learning_rate, nesterov, constants):
    rate, momentum, decay = learning_rate[0], np.float32(constants[0]), np.float32(constants[1])
    first, last = share_in_lines(task, tasks, params.size)
    theta, speed, gradient = params[first:last], velocity[first:last], grads[first:last]
    for i in range(theta.size):
        step = -rate * gradient[i]
        if speed.size:
            speed[i] = momentum * speed[i] + step
            step = momentum * speed[i] + step if nesterov else speed[i]
        theta[i] = theta[i] - theta[i] * rate * decay + step


@in_tasks
def sgd_update(params, velocity, grads, learning_rate, momentum, nesterov, weight_decay):
    tasks, constants = pieces(params.size), floats(momentum, weight_decay)
    run(_sgd, tasks, tasks, params, velocity, grads, learning_rate, bool(nesterov), constants)


@kernel(reassociate=True)
def _penalty_part(task, sums, params, strength, power):
    first, last = share_in_lines(task, sums.size, params.size)
    theta, s = params[first:last], strength[first:last]
    total = 0.0
    for i in range(theta.size):
        size = abs(np.float64(theta[i]))
        total += np.float64(s[i]) * (size * size if power == 2 else size)
    sums[task] = total


@kernel
def _penalty_sum(task, penalty, sums):
    total = 0.0
    for part in range(sums.size):
        total += sums[part]
    penalty[0] = total


@in_tasks
def penalty_forward(penalty, params, strength, power):
    """Parallel over parts of the sum, which are added in order."""
    parts = max(1, min(PARTS, params.size // PART))
    sums = np.empty(parts, np.float64)
    run(_penalty_part, parts, sums, params, strength, power)
    run(_penalty_sum, 1, penalty, sums)


@kernel
def _penalty_gradient(task, tasks, grads, params, strength, power):
    first, last = share_in_lines(task, tasks, grads.size)
    g, theta, s = grads[first:last], params[first:last], strength[first:last]
    for i in range(g.size):
        sign = ONE if theta[i] > ZERO else -ONE if theta[i] < ZERO else theta[i]
        g[i] += s[i] * (TWO * theta[i] if power == 2 else sign)


@in_tasks
def penalty_backward(grads, params, strength, power):
    tasks = pieces(grads.size)
    run(_penalty_gradient, tasks, tasks, grads, params, strength, power)
