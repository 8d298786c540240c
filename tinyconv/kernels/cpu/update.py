"""Optimisers. All parameters lie in one flat array, so that an update is one parallel pass over it, in blocks."""

import numpy as np
from numba import prange
from numba.np.unsafe.ndarray import to_fixed_tuple

from tinyconv.kernels.cpu.blocks import blocks, by_size, pieces, span
from tinyconv.kernels.cpu.jit import jit
from tinyconv.kernels.cpu.stack import same_memory
from tinyconv.kernels.cpu.tasks import kernel, run
from tinyconv.kernels.reference.dropout import STEP

TWO = np.float32(2)


@kernel
def _adam(task, params, m, v, grads, numbers):
    values = to_fixed_tuple(same_memory(numbers, np.float64), 7)
    rate, step_size, rest_1 = np.float32(values[0]), np.float32(values[1]), np.float32(values[2])
    rest_2, epsilon, weight_decay = np.float32(values[3]), np.float32(values[4]), np.float32(values[5])
    tasks = int(values[6])
    count = blocks(params.size)
    for block in range(task * count // tasks, (task + 1) * count // tasks):
        start, stop = span(block, params.size)
        theta, first, second, gradient = params[start:stop], m[start:stop], v[start:stop], grads[start:stop]
        for i in range(theta.size):
            g = gradient[i]
            first[i] += (g - first[i]) * rest_1
            second[i] += (g * g - second[i]) * rest_2
            decayed = theta[i] - theta[i] * rate * weight_decay
            theta[i] = decayed - step_size * first[i] / (np.sqrt(second[i]) + epsilon)


def adam_update(params, m, v, grads, counters, learning_rate, beta_1, beta_2, epsilon, weight_decay):
    """The few numbers that all parameters share are computed once, here. Parallel over blocks."""
    t = int(counters[STEP]) + 1
    rate = learning_rate[0]
    step_size = rate * np.float32((1 - beta_2**t) ** 0.5 / (1 - beta_1**t))
    tasks = pieces(params.size)
    numbers = rate, step_size, 1 - beta_1, 1 - beta_2, epsilon, weight_decay, tasks
    run(_adam, tasks, params, m, v, grads, np.array(numbers, np.float64).view(np.int64))


@by_size()
def _sgd(params, velocity, grads, learning_rate, momentum, nesterov):
    rate = learning_rate[0]
    for block in prange(blocks(params.size)):
        start, stop = span(block, params.size)
        theta, speed, gradient = params[start:stop], velocity[start:stop], grads[start:stop]
        for i in range(theta.size):
            step = rate * gradient[i]
            speed[i] = momentum * speed[i] - step
            theta[i] += momentum * speed[i] - step if nesterov else speed[i]


def sgd_update(params, velocity, grads, learning_rate, momentum, nesterov):
    """One pass."""
    _sgd(params, velocity, grads, learning_rate, np.float32(momentum), bool(nesterov))


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
