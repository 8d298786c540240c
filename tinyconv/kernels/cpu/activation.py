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
from tinyconv.kernels.reference.activation import SELU_ALPHA, SELU_SCALE

inlined = functools.partial(jit, forceinline=True)  # a call for each element would keep a loop from being vectorised

LOG2_E = np.float32(1.44269504)
THREE, SIX, LARGE = (np.float32(value) for value in (3, 6, 20))
SCALE, SCALED_ALPHA = np.float32(SELU_SCALE), np.float32(SELU_SCALE * SELU_ALPHA)
TWO_U, CUBED = np.float32(2 * (2 / np.pi) ** 0.5), np.float32(0.044715)  # gelu's approximation
LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)  # ln 2 in two parts: the first has few bits


@inlined
def exp(x):
    """e^x = 2^k e^r, with k a whole number and r at most ln(2) / 2 in size, for which a short polynomial is exact."""
    k, tail = _split(min(max(x, np.float32(-104)), np.float32(89)) if x == x else ZERO)
    low = k >> 1  # in two factors: 2^k itself may be too large or too small for a float, where e^x is not
    value = (tail + ONE) * _power_of_two(low) * _power_of_two(k - low)
    return value if x == x else x


@inlined
def expm1(x):
    """e^x - 1 for x <= 0, without the loss of digits near 0."""
    k, tail = _split(max(x, np.float32(-20)) if x == x else ZERO)
    power = _power_of_two(k)
    value = (power - ONE) + power * tail
    return value if x == x else x


@inlined
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


@inlined
def _power_of_two(k):
    """2^k for -126 <= k <= 127: a float's exponent, written directly."""
    return np.int32((np.int32(k) + np.int32(127)) << np.int32(23)).view(np.float32)


@inlined
def log1p(x):
    """log(1 + x) for 0 <= x <= 1: 2 atanh z with z = x / (2 + x), whose series in z^2 <= 1/9 is short."""
    z = x / (TWO + x)
    w = z * z
    p = np.float32(1 / 13)
    p = p * w + np.float32(1 / 11)
    p = p * w + np.float32(1 / 9)
    p = p * w + np.float32(1 / 7)
    p = p * w + np.float32(1 / 5)
    p = p * w + np.float32(1 / 3)
    return TWO * (z + z * w * p)


@inlined
def normal(x):
    """Phi(x), which is erfc(-x / sqrt(2)) / 2; erfc(z) for z >= 0 as in Numerical Recipes (Press et al.), section 6.2,
    within 1.2e-7 of itself."""
    z = abs(x) * np.float32(0.5**0.5)
    t = ONE / (ONE + HALF * z)
    p = np.float32(0.17087277)
    p = p * t - np.float32(0.82215223)
    p = p * t + np.float32(1.48851587)
    p = p * t - np.float32(1.13520398)
    p = p * t + np.float32(0.27886807)
    p = p * t - np.float32(0.18628806)
    p = p * t + np.float32(0.09678418)
    p = p * t + np.float32(0.37409196)
    p = p * t + np.float32(1.00002368)
    p = p * t - np.float32(1.26551223)
    half = HALF * t * exp(p - z * z)
    return ONE - half if x >= ZERO else half


# The formulas of one element, as in the reference; p are the options, of which there are three at most.


@inlined
def relu(x, _):
    return ZERO if x < ZERO else x


@inlined
def relu_gradient(dout, x, out, _):
    return ZERO if out <= ZERO else dout


@inlined
def leaky_relu(x, p):
    return p[0] * x if x < ZERO else x


@inlined
def leaky_relu_gradient(dout, x, out, p):
    return dout if x > ZERO else p[0] * dout


@inlined
def bounded_relu(x, p):
    above = p[1] if x > p[1] else x
    below = p[0] * (x - p[2]) if p[0] != ZERO else ZERO
    return below if x <= p[2] else above


@inlined
def bounded_relu_gradient(dout, x, out, p):
    above = ZERO if (x == p[2]) | (x > p[1]) else dout
    return p[0] * dout if x < p[2] else above


@inlined
def elu(x, p):
    return x if x > ZERO else p[0] * expm1(x)


@inlined
def elu_gradient(dout, x, out, p):
    return dout if out > ZERO else dout * (out + p[0])


@inlined
def selu(x, _):
    return SCALE * x if x > ZERO else SCALED_ALPHA * expm1(x)


@inlined
def selu_gradient(dout, x, out, _):
    return dout * (out + SCALED_ALPHA if x < ZERO else SCALE)


@inlined
def sigmoid(x, _):
    e = exp(-abs(x))
    return (ONE if x >= ZERO else e) / (ONE + e)


@inlined
def sigmoid_gradient(dout, x, out, _):
    return dout * out * (ONE - out)


@inlined
def tanh(x, _):
    """tanh |x| = (1 - e^(-2|x|)) / (1 + e^(-2|x|))."""
    e = expm1(-TWO * abs(x))
    return np.copysign(-e / (e + TWO), x)


@inlined
def tanh_gradient(dout, x, out, _):
    return dout * (ONE - out * out)


@inlined
def exponential(x, _):
    return exp(x)


@inlined
def exponential_gradient(dout, x, out, _):
    return dout * out


@inlined
def softplus(x, _):
    return relu(x, _) + log1p(exp(-abs(x)))


@inlined
def softplus_gradient(dout, x, out, _):
    return dout * sigmoid(x, _)


@inlined
def softsign(x, _):
    return x / (ONE + abs(x))


@inlined
def softsign_gradient(dout, x, out, _):
    return dout / ((ONE + abs(x)) * (ONE + abs(x)))


@inlined
def hard_sigmoid(x, _):
    between = (x + THREE) / SIX
    return ONE if x > THREE else ZERO if x < -THREE else between


@inlined
def hard_sigmoid_gradient(dout, x, out, _):
    return dout / SIX if abs(x) < THREE else ZERO


@inlined
def silu(x, _):
    return x * sigmoid(x, _)


@inlined
def silu_gradient(dout, x, out, _):
    s = sigmoid(x, _)
    return dout * (s + out * (ONE - s))


@inlined
def hard_silu(x, _):
    return x * hard_sigmoid(x, _)


@inlined
def hard_silu_gradient(dout, x, out, _):
    return dout * hard_sigmoid(x, _) + x * hard_sigmoid_gradient(dout, x, out, _)


@inlined
def gelu(x, _):
    return x * normal(x)


@inlined
def gelu_gradient(dout, x, out, _):
    density = exp(-HALF * x * x) * np.float32((2 * np.pi) ** -0.5)
    return dout * (normal(x) + x * density)


@inlined
def approximate_gelu(x, _):
    """(1 + tanh u) / 2 is the sigmoid of 2u."""
    return x * sigmoid(_two_u(_clamped(x)), _)


@inlined
def approximate_gelu_gradient(dout, x, out, _):
    v = _clamped(x)
    s = sigmoid(_two_u(v), _)
    return dout * (s + v * (s * (ONE - s) * TWO_U * (ONE + THREE * CUBED * v * v)))


@inlined
def _two_u(x):
    return TWO_U * (x + CUBED * x * x * x)


@inlined
def _clamped(x):
    """Where an exponential of the rest is 0 or infinite for a float, x does not matter any more."""
    return LARGE if x > LARGE else -LARGE if x < -LARGE else x


@inlined
def mish(x, _):
    return x * _mish_share(x)


@inlined
def mish_gradient(dout, x, out, _):
    t = _mish_share(x)
    return dout * (t + x * (ONE - t * t) * sigmoid(x, _))


@inlined
def _mish_share(x):
    """tanh(log(1 + e^x)), in which the exponentials of the logarithm cancel: n / (n + 2) with n = e^x (e^x + 2)."""
    e = exp(LARGE if x > LARGE else x)
    n = e * (e + TWO)
    return n / (n + TWO)


# Value, gradient, and the cost of one as a multiple of a simple operation
FORMULAS = {
    "relu": (relu, relu_gradient, 1),
    "leaky_relu": (leaky_relu, leaky_relu_gradient, 1),
    "bounded_relu": (bounded_relu, bounded_relu_gradient, 1),
    "elu": (elu, elu_gradient, 4),
    "selu": (selu, selu_gradient, 4),
    "sigmoid": (sigmoid, sigmoid_gradient, 4),
    "tanh": (tanh, tanh_gradient, 4),
    "exponential": (exponential, exponential_gradient, 4),
    "softplus": (softplus, softplus_gradient, 4),
    "softsign": (softsign, softsign_gradient, 1),
    "hard_sigmoid": (hard_sigmoid, hard_sigmoid_gradient, 1),
    "silu": (silu, silu_gradient, 4),
    "hard_silu": (hard_silu, hard_silu_gradient, 1),
    "gelu": (gelu, gelu_gradient, 8),
    "approximate_gelu": (approximate_gelu, approximate_gelu_gradient, 4),
    "mish": (mish, mish_gradient, 4),
}


@functools.cache
def _forward(formula):
    """The kernel of an activation: ``formula(x, options)`` of one element."""

    @kernel
    def activation_value(task, tasks, out, x, options):
        first, last = share_in_lines(task, tasks, out.size)
        o, v = out[first:last], x[first:last]
        p = np.float32(options[0]), np.float32(options[1]), np.float32(options[2])
        for i in range(o.size):
            o[i] = formula(v[i], p)

    return activation_value


@functools.cache
def _backward(formula):
    """The kernel of its gradient: ``formula(dout, x, out, options)`` of one element."""

    @kernel
    def activation_gradient(task, tasks, dx, dout, x, out, options):
        first, last = share_in_lines(task, tasks, dx.size)
        d, g, v, o = dx[first:last], dout[first:last], x[first:last], out[first:last]
        p = np.float32(options[0]), np.float32(options[1]), np.float32(options[2])
        for i in range(d.size):
            d[i] = formula(g[i], v[i], o[i], p)

    return activation_gradient


@in_tasks
def activation_forward(out, x, kind, options):
    """A kernel for each formula."""
    value, _, cost = FORMULAS[kind]
    tasks = pieces(out.size, cost)
    run(_forward(value), tasks, tasks, out, x, floats(*options, 0, 0, 0))


@in_tasks
def activation_backward(dx, dout, x, out, kind, options):
    """As the forward."""
    _, gradient, cost = FORMULAS[kind]
    tasks = pieces(dx.size, cost)
    run(_backward(gradient), tasks, tasks, dx, dout, x, out, floats(*options, 0, 0, 0))


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
