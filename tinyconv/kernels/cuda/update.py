"""Optimisers, one thread a parameter, over the flat arenas; and penalties on large weights."""

import math

import numpy as np

from tinyconv.kernels.cuda.runtime.device import THREADS, blocks_for, cuda, float32, launch
from tinyconv.kernels.reference.dropout import STEP

_MANY = 512  # threads of the one block that adds up a penalty


def clip_values(grads, limit):
    """See reference. One thread a gradient."""
    launch(_clip_values, blocks_for(grads.size), THREADS, grads, float32(limit))


def clip_norms(grads, sums, parts, limit):
    """See reference. One block a part, twice: first all sums, then the scaling, each thread with its own norm."""
    launch(_sum_squares, len(parts), THREADS, sums, grads, parts)
    launch(_scale, len(parts), THREADS, grads, sums, parts, np.float64(limit))


def adam_update(params, m, v, grads, counters, learning_rate, beta_1, beta_2, epsilon, weight_decay):
    """See reference. One thread a parameter.

    1 - beta ** t, in float32, would lose half its digits to cancellation while t is small. It is -expm1(t * log(beta)),
    which loses none; the logarithm is taken once, here, in double precision.
    """
    rests, logs = (float32(1 - beta_1), float32(1 - beta_2)), (_log(beta_1), _log(beta_2))
    rates = *rests, *logs, float32(epsilon), float32(weight_decay)
    launch(_adam_update, blocks_for(params.size), THREADS, params, m, v, grads, counters, learning_rate, rates)


def rmsprop_update(params, mean_squares, velocity, means, grads, learning_rate, rho, momentum, epsilon, weight_decay):
    """See reference. One thread a parameter."""
    arrays = params, mean_squares, velocity, means, grads, learning_rate
    rates = tuple(map(float32, (rho, 1 - rho, momentum, epsilon, weight_decay)))
    launch(_rmsprop_update, blocks_for(params.size), THREADS, *arrays, rates)


def sgd_update(params, velocity, grads, learning_rate, momentum, nesterov, weight_decay):
    """See reference. One thread a parameter."""
    arguments = params, velocity, grads, learning_rate, float32(momentum), bool(nesterov), float32(weight_decay)
    launch(_sgd_update, blocks_for(params.size), THREADS, *arguments)


def penalty_forward(penalty, params, strength, power):
    """See reference. One block: each thread adds up every 512th term, in double precision, then they add in pairs."""
    launch(_penalty_forward, 1, _MANY, penalty, params, strength, power == 2)


def penalty_backward(grads, params, strength, power):
    """See reference. One thread a parameter."""
    launch(_penalty_backward, blocks_for(grads.size), THREADS, grads, params, strength, power == 2)


def _log(beta):
    return float32(math.log(beta) if beta > 0 else -math.inf)


@cuda.jit
def _clip_values(grads, limit):
    i = cuda.grid(1)
    if i < grads.size:
        g = grads[i]
        grads[i] = -limit if g < -limit else limit if g > limit else g


@cuda.jit
def _sum_squares(sums, grads, parts):
    shared = cuda.shared.array(THREADS, np.float64)
    t, s = cuda.threadIdx.x, cuda.blockIdx.x
    total = np.float64(0)
    for i in range(parts[s, 0] + t, parts[s, 1], THREADS):
        total += np.float64(grads[i]) * np.float64(grads[i])
    shared[t] = total
    half = THREADS // 2
    while half > 0:
        cuda.syncthreads()
        if t < half:
            shared[t] += shared[t + half]
        half //= 2
    if t == 0:
        sums[s] = shared[0]


@cuda.jit
def _scale(grads, sums, parts, limit):
    t, s = cuda.threadIdx.x, cuda.blockIdx.x
    total = np.float64(0)
    for other in range(sums.size):
        if parts[other, 2] == parts[s, 2]:
            total += sums[other]
    norm = math.sqrt(total)
    scale = float32(limit / max(norm, limit) + (norm - norm))  # inf - inf, as NaN - NaN, is NaN
    for i in range(parts[s, 0] + t, parts[s, 1], THREADS):
        grads[i] *= scale


@cuda.jit
def _adam_update(params, m, v, grads, counters, learning_rate, rates):
    rest_1, rest_2, log_1, log_2, epsilon, weight_decay = rates
    i = cuda.grid(1)
    if i < params.size:
        t = float32(counters[STEP] + 1)
        rate = learning_rate[0]
        step_size = rate * (math.sqrt(-math.expm1(t * log_2)) / -math.expm1(t * log_1))
        theta = params[i]
        theta -= theta * rate * weight_decay
        g = grads[i]
        first = m[i] + (g - m[i]) * rest_1
        second = v[i] + (g * g - v[i]) * rest_2
        m[i] = first
        v[i] = second
        params[i] = theta - step_size * first / (math.sqrt(second) + epsilon)


@cuda.jit
def _rmsprop_update(params, mean_squares, velocity, means, grads, learning_rate, rates):
    rho, rest, momentum, epsilon, weight_decay = rates
    i = cuda.grid(1)
    if i < params.size:
        rate = learning_rate[0]
        g = grads[i]
        variance = rho * mean_squares[i] + rest * g * g
        mean_squares[i] = variance
        if means.size > 0:
            mean = rho * means[i] + rest * g
            means[i] = mean
            variance -= mean * mean
            variance = float32(0) if variance < float32(0) else variance
        step = rate * g / math.sqrt(variance + epsilon)
        if velocity.size > 0:
            step += momentum * velocity[i]
            velocity[i] = step
        params[i] = params[i] - params[i] * rate * weight_decay - step


@cuda.jit
def _sgd_update(params, velocity, grads, learning_rate, momentum, nesterov, weight_decay):
    i = cuda.grid(1)
    if i < params.size:
        rate = learning_rate[0]
        step = -rate * grads[i]
        if velocity.size > 0:
            u = momentum * velocity[i] + step
            velocity[i] = u
            step = momentum * u + step if nesterov else u
        params[i] = params[i] - params[i] * rate * weight_decay + step


@cuda.jit
def _penalty_forward(penalty, params, strength, squared):
    sums = cuda.shared.array(_MANY, np.float64)
    t = cuda.threadIdx.x
    total = np.float64(0)
    for i in range(t, params.size, _MANY):
        size = abs(np.float64(params[i]))
        total += np.float64(strength[i]) * (size * size if squared else size)
    sums[t] = total
    half = _MANY // 2
    while half > 0:
        cuda.syncthreads()
        if t < half:
            sums[t] += sums[t + half]
        half //= 2
    if t == 0:
        penalty[0] = float32(sums[0])


@cuda.jit
def _penalty_backward(grads, params, strength, squared):
    i = cuda.grid(1)
    if i < grads.size:
        theta = params[i]
        sign = float32(1) if theta > float32(0) else float32(-1) if theta < float32(0) else theta
        grads[i] += strength[i] * (float32(2) * theta if squared else sign)
