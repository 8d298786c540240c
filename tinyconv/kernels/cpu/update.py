"""Optimisers. All parameters lie in one flat array, so that an update is one parallel pass over it, in blocks."""

import numpy as np
from numba import prange

from tinyconv.kernels.cpu.runtime.cutting import blocks, by_size, pieces, share, span
from tinyconv.kernels.cpu.runtime.jit import jit
from tinyconv.kernels.cpu.runtime.tasks import NOTHING, in_tasks, kernel, run
from tinyconv.kernels.cpu.runtime.views import same_memory
from tinyconv.kernels.reference.dropout import STEP

TWO = np.float32(2)


RATE, STEP_SIZE, BETA_1, BETA_2, EPSILON, DECAY, PIECES = range(7)  # Adam's numbers, as float64


@kernel
def _adam_step(task, learning_rate, counters, _, __, numbers):
    """The two numbers that change from step to step, computed once for all parameters."""
    values, t = same_memory(numbers, np.float64), np.float64(same_memory(counters, np.int64)[STEP] + 1)
    rate, correction = learning_rate[0], (1 - values[BETA_2] ** t) ** 0.5 / (1 - values[BETA_1] ** t)
    values[RATE], values[STEP_SIZE] = rate, rate * np.float32(correction)


@kernel
def _adam(task, params, m, v, grads, numbers):
    values = same_memory(numbers, np.float64)
    rate, step_size, epsilon = np.float32(values[RATE]), np.float32(values[STEP_SIZE]), np.float32(values[EPSILON])
    rest_1, rest_2, decay = np.float32(1 - values[BETA_1]), np.float32(1 - values[BETA_2]), np.float32(values[DECAY])
    first_block, last_block = share(task, int(values[PIECES]), blocks(params.size))
    for block in range(first_block, last_block):
        start, stop = span(block, params.size)
        theta, first, second, gradient = params[start:stop], m[start:stop], v[start:stop], grads[start:stop]
        for i in range(theta.size):
            g = gradient[i]
            first[i] += (g - first[i]) * rest_1
            second[i] += (g * g - second[i]) * rest_2
            decayed = theta[i] - theta[i] * rate * decay
            theta[i] = decayed - step_size * first[i] / (np.sqrt(second[i]) + epsilon)


@in_tasks
def adam_update(params, m, v, grads, counters, learning_rate, beta_1, beta_2, epsilon, weight_decay):
    """First the few numbers that all parameters share; then parallel over blocks."""
    tasks = pieces(params.size)
    numbers = np.array([0, 0, beta_1, beta_2, epsilon, weight_decay, tasks], np.float64).view(np.int64)
    run(_adam_step, 1, learning_rate, counters, NOTHING, NOTHING, numbers)
    run(_adam, tasks, params, m, v, grads, numbers)


@kernel
def _sgd(task, params, velocity, grads, learning_rate, numbers):
    rate, momentum = learning_rate[0], np.float32(same_memory(numbers, np.float64)[2])
    first, last = share(task, numbers[0], params.size)
    theta, speed, gradient = params[first:last], velocity[first:last], grads[first:last]
    for i in range(theta.size):
        step = rate * gradient[i]
        speed[i] = momentum * speed[i] - step
        theta[i] += momentum * speed[i] - step if numbers[1] else speed[i]


@in_tasks
def sgd_update(params, velocity, grads, learning_rate, momentum, nesterov):
    """Parallel over pieces."""
    tasks = pieces(params.size)
    numbers = np.array([tasks, bool(nesterov), np.float64(momentum).view(np.int64)])
    run(_sgd, tasks, params, velocity, grads, learning_rate, numbers)


@jit(reassociate=True)
def l2_forward(penalty, params, strength):
    """Serial: one sum, in an order that depends on its length alone."""
    total = 0.0
    for i in range(params.size):
        total += np.float64(strength[i]) * np.float64(params[i]) * np.float64(params[i])
    penalty[0] = total


@by_size()
def l2_backward(grads, params, strength):
    for block in prange(blocks(grads.size)):
        start, stop = span(block, grads.size)
        g, theta, s = grads[start:stop], params[start:stop], strength[start:stop]
        for i in range(g.size):
            g[i] += TWO * s[i] * theta[i]
