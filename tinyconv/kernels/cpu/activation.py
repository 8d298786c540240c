"""Activations. Each is one pass over its arrays, in blocks that the threads share.

``exp`` and its relatives are written out here, instead of calling the C library once for each number: as a few
multiplications and additions they run on whole vectors of numbers.
"""

import numpy as np
from numba import prange

from tinyconv.kernels.cpu.runtime.cutting import blocks, by_size, pieces, share, span
from tinyconv.kernels.cpu.runtime.jit import jit
from tinyconv.kernels.cpu.runtime.tasks import NOTHING, in_tasks, kernel, run

LOG2_E = np.float32(1.44269504)
LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)  # ln 2 in two parts: the first has few bits
ZERO, ONE, TWO, HALF = (np.float32(value) for value in (0, 1, 2, 0.5))


@jit
def exp(x):
    """e^x = 2^k e^r, with k a whole number and r at most ln(2) / 2 in size, for which a short polynomial is exact."""
    k, tail = _split(min(max(x, np.float32(-104)), np.float32(89)) if x == x else ZERO)
    low = k >> 1  # in two factors: 2^k itself may be too large or too small for a float, where e^x is not
    value = (tail + ONE) * _power_of_two(low) * _power_of_two(k - low)
    return value if x == x else x


@jit
def expm1(x):
    """e^x - 1 for x <= 0, without the loss of digits near 0."""
    k, tail = _split(max(x, np.float32(-20)) if x == x else ZERO)
    power = _power_of_two(k)
    value = (power - ONE) + power * tail
    return value if x == x else x


@jit
def _split(x):
    """k and e^r - 1, where x = k ln(2) + r. The polynomial is that of Cephes' expf (Moshier)."""
    k = np.floor(x * LOG2_E + HALF)
    r = x - k * LN2_HIGH - k * LN2_LOW
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    return np.int32(k), p * (r * r) + r


@jit
def _power_of_two(k):
    """2^k for -126 <= k <= 127: a float's exponent, written directly."""
    return np.int32((np.int32(k) + np.int32(127)) << np.int32(23)).view(np.float32)


@by_size()
def relu_forward(out, x):
    for block in prange(blocks(out.size)):
        start, stop = span(block, out.size)
        o, v = out[start:stop], x[start:stop]
        for i in range(o.size):
            o[i] = ZERO if v[i] < ZERO else v[i]


@kernel
def _relu_backward(task, dx, dout, out, _, numbers):
    first, last = share(task, numbers[0], dx.size)
    d, g, o = dx[first:last], dout[first:last], out[first:last]
    for i in range(d.size):
        d[i] = ZERO if o[i] <= ZERO else g[i]


@in_tasks
def relu_backward(dx, dout, out):
    """In tasks, unlike the other activations, since it follows most convolutions."""
    tasks = pieces(dx.size)
    run(_relu_backward, tasks, dx, dout, out, NOTHING, np.array([tasks]))


@by_size()
def leaky_relu_forward(out, x, negative_slope):
    slope = np.float32(negative_slope)
    for block in prange(blocks(out.size)):
        start, stop = span(block, out.size)
        o, v = out[start:stop], x[start:stop]
        for i in range(o.size):
            o[i] = slope * v[i] if v[i] < ZERO else v[i]


@by_size()
def leaky_relu_backward(dx, dout, out, negative_slope):
    slope = np.float32(negative_slope)
    for block in prange(blocks(out.size)):
        start, stop = span(block, dx.size)
        d, g, o = dx[start:stop], dout[start:stop], out[start:stop]
        for i in range(o.size):
            d[i] = g[i] if o[i] > ZERO else slope * g[i]


@by_size()
def elu_forward(out, x, alpha):
    alpha = np.float32(alpha)
    for block in prange(blocks(out.size)):
        start, stop = span(block, out.size)
        o, v = out[start:stop], x[start:stop]
        for i in range(o.size):
            o[i] = v[i] if v[i] > ZERO else alpha * expm1(v[i])


@by_size()
def elu_backward(dx, dout, out, alpha):
    alpha = np.float32(alpha)
    for block in prange(blocks(out.size)):
        start, stop = span(block, dx.size)
        d, g, o = dx[start:stop], dout[start:stop], out[start:stop]
        for i in range(o.size):
            d[i] = g[i] if o[i] > ZERO else g[i] * (o[i] + alpha)


@jit
def sigmoid(x):
    e = exp(-abs(x))
    return (ONE if x >= ZERO else e) / (ONE + e)


@by_size()
def sigmoid_forward(out, x):
    for block in prange(blocks(out.size)):
        start, stop = span(block, out.size)
        o, v = out[start:stop], x[start:stop]
        for i in range(o.size):
            o[i] = sigmoid(v[i])


@by_size()
def sigmoid_backward(dx, dout, out):
    for block in prange(blocks(out.size)):
        start, stop = span(block, dx.size)
        d, g, o = dx[start:stop], dout[start:stop], out[start:stop]
        for i in range(o.size):
            d[i] = g[i] * o[i] * (ONE - o[i])


@by_size()
def tanh_forward(out, x):
    """tanh |x| = (1 - e^(-2|x|)) / (1 + e^(-2|x|))."""
    for block in prange(blocks(out.size)):
        start, stop = span(block, out.size)
        o, v = out[start:stop], x[start:stop]
        for i in range(o.size):
            e = expm1(-TWO * abs(v[i]))
            o[i] = np.copysign(-e / (e + TWO), v[i])


@by_size()
def tanh_backward(dx, dout, out):
    for block in prange(blocks(out.size)):
        start, stop = span(block, dx.size)
        d, g, o = dx[start:stop], dout[start:stop], out[start:stop]
        for i in range(o.size):
            d[i] = g[i] * (ONE - o[i] * o[i])


@jit
def softmax_row(out, x):
    """Softmax of one row. Returns its maximum and the sum of exp(x - maximum), for the logarithm of the softmax."""
    largest = x[0]
    for c in range(1, x.size):
        if x[c] > largest or x[c] != x[c]:  # once largest is a NaN, nothing is larger
            largest = x[c]
    for c in range(x.size):
        out[c] = exp(x[c] - largest)
    total = ZERO
    for c in range(x.size):
        total += out[c]
    for c in range(x.size):
        out[c] /= total
    return largest, total


@kernel
def _softmax(task, out, x, _, __, numbers):
    C = numbers[2]
    first, last = share(task, numbers[0], numbers[1])
    for m in range(first, last):
        softmax_row(out[m * C : (m + 1) * C], x[m * C : (m + 1) * C])


@in_tasks
def softmax_forward(out, x):
    """The rows in parallel."""
    tasks = pieces(x.size, cost=4)
    run(_softmax, tasks, out, x, NOTHING, NOTHING, np.array([tasks, *x.shape]))


@by_size(cost=4)
def softmax_backward(dx, dout, out):
    """The rows in parallel."""
    M, C = out.shape
    for m in prange(M):
        dot = ZERO
        for c in range(C):
            dot += dout[m, c] * out[m, c]
        for c in range(C):
            dx[m, c] = out[m, c] * (dout[m, c] - dot)
