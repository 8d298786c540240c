"""Activations: one pass over the arrays, of which each task has a stretch.

``exp`` and its relatives are written out here, instead of calling the C library once for each number: as a few
multiplications and additions they run on whole vectors of numbers.
"""

import functools

import numpy as np

from tinyconv.kernels.cpu.runtime.cutting import pieces, share, share_in_lines
from tinyconv.kernels.cpu.runtime.jit import jit
from tinyconv.kernels.cpu.runtime.literals import HALF, ONE, TWO, ZERO
from tinyconv.kernels.cpu.runtime.tasks import floats, in_tasks, kernel, run

LOG2_E = np.float32(1.44269504)
LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)  # ln 2 in two parts: the first has few bits


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


@functools.cache
def _forward(formula):
    """The kernel of an activation: ``formula(x, option)`` of one element."""

    @kernel
    def activation_forward(task, tasks, out, x, options):
        first, last = share_in_lines(task, tasks, out.size)
        o, v, option = out[first:last], x[first:last], np.float32(options[0])
        for i in range(o.size):
            o[i] = formula(v[i], option)

    return activation_forward


@functools.cache
def _backward(formula):
    """The kernel of its gradient: ``formula(dout, out, option)`` of one element."""

    @kernel
    def activation_backward(task, tasks, dx, dout, out, options):
        first, last = share_in_lines(task, tasks, dx.size)
        d, g, o, option = dx[first:last], dout[first:last], out[first:last], np.float32(options[0])
        for i in range(d.size):
            d[i] = formula(g[i], o[i], option)

    return activation_backward


def _run_forward(formula, out, x, option=0.0, cost=1):
    tasks = pieces(out.size, cost)
    run(_forward(formula), tasks, tasks, out, x, floats(option))


def _run_backward(formula, dx, dout, out, option=0.0):
    tasks = pieces(dx.size)
    run(_backward(formula), tasks, tasks, dx, dout, out, floats(option))


@jit
def _relu(x, _):
    return ZERO if x < ZERO else x


@in_tasks
def relu_forward(out, x):
    _run_forward(_relu, out, x)


@jit
def _relu_gradient(dout, out, _):
    return ZERO if out <= ZERO else dout


@in_tasks
def relu_backward(dx, dout, out):
    _run_backward(_relu_gradient, dx, dout, out)


@jit
def _leaky_relu(x, slope):
    return slope * x if x < ZERO else x


@in_tasks
def leaky_relu_forward(out, x, negative_slope):
    _run_forward(_leaky_relu, out, x, negative_slope)


@jit
def _leaky_relu_gradient(dout, out, slope):
    return dout if out > ZERO else slope * dout


@in_tasks
def leaky_relu_backward(dx, dout, out, negative_slope):
    _run_backward(_leaky_relu_gradient, dx, dout, out, negative_slope)


@jit
def _elu(x, alpha):
    return x if x > ZERO else alpha * expm1(x)


@in_tasks
def elu_forward(out, x, alpha):
    _run_forward(_elu, out, x, alpha, cost=4)


@jit
def _elu_gradient(dout, out, alpha):
    return dout if out > ZERO else dout * (out + alpha)


@in_tasks
def elu_backward(dx, dout, out, alpha):
    _run_backward(_elu_gradient, dx, dout, out, alpha)


@jit
def _sigmoid(x, _):
    e = exp(-abs(x))
    return (ONE if x >= ZERO else e) / (ONE + e)


@in_tasks
def sigmoid_forward(out, x):
    _run_forward(_sigmoid, out, x, cost=4)


@jit
def _sigmoid_gradient(dout, out, _):
    return dout * out * (ONE - out)


@in_tasks
def sigmoid_backward(dx, dout, out):
    _run_backward(_sigmoid_gradient, dx, dout, out)


@jit
def _tanh(x, _):
    e = expm1(-TWO * abs(x))
    return np.copysign(-e / (e + TWO), x)


@in_tasks
def tanh_forward(out, x):
    """tanh |x| = (1 - e^(-2|x|)) / (1 + e^(-2|x|))."""
    _run_forward(_tanh, out, x, cost=4)


@jit
def _tanh_gradient(dout, out, _):
    return dout * (ONE - out * out)


@in_tasks
def tanh_backward(dx, dout, out):
    _run_backward(_tanh_gradient, dx, dout, out)


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
def _softmax(task, tasks, out, x):
    first, last = share(task, tasks, len(out))
    for m in range(first, last):
        softmax_row(out[m], x[m])


@in_tasks
def softmax_forward(out, x):
    """Parallel over rows."""
    tasks = pieces(x.size, cost=4)
    run(_softmax, tasks, tasks, out, x)


@kernel
def _softmax_gradient(task, tasks, dx, dout, out):
    first, last = share(task, tasks, len(out))
    for m in range(first, last):
        d, g, o = dx[m], dout[m], out[m]
        dot = ZERO
        for c in range(d.size):
            dot += g[c] * o[c]
        for c in range(d.size):
            d[c] = o[c] * (g[c] - dot)


@in_tasks
def softmax_backward(dx, dout, out):
    """Parallel over rows."""
    tasks = pieces(out.size)
    run(_softmax_gradient, tasks, tasks, dx, dout, out)
