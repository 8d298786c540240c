"""Activations, and softmax: a thread for each element, or for each row of a softmax."""

import functools
import math

from tinyconv.kernels.cuda.runtime.device import THREADS, blocks_for, cuda, float32, inlined, launch
from tinyconv.kernels.reference.activation import SELU_ALPHA, SELU_SCALE

ZERO, HALF, ONE, TWO, THREE, SIX, LARGE = (float32(value) for value in (0, 0.5, 1, 2, 3, 6, 20))
SCALE, SCALED_ALPHA = float32(SELU_SCALE), float32(SELU_SCALE * SELU_ALPHA)
DENSITY = float32((2 * math.pi) ** -0.5)  # of the normal distribution, at 0
TWO_U, CUBED = float32(2 * (2 / math.pi) ** 0.5), float32(0.044715)  # gelu's approximation


def activation_forward(out, x, kind, options):
    """See reference. A kernel for each formula, one thread an element."""
    launch(_forward(FORMULAS[kind][0]), blocks_for(out.size), THREADS, out, x, _three(options))


def activation_backward(dx, dout, x, out, kind, options):
    """See reference. As the forward."""
    launch(_backward(FORMULAS[kind][1]), blocks_for(dx.size), THREADS, dx, dout, x, out, _three(options))


def softmax_forward(out, x):
    """See reference. One thread a row."""
    launch(_softmax_forward, blocks_for(len(x)), THREADS, out, x)


def softmax_backward(dx, dout, out):
    """See reference. One thread a row."""
    launch(_softmax_backward, blocks_for(len(out)), THREADS, dx, dout, out)


def _three(options):
    """As many options as any formula takes."""
    return tuple(float32(option) for option in (*options, 0, 0, 0)[:3])


@functools.cache
def _forward(formula):
    """The kernel of an activation: ``formula(x, options)`` of one element."""

    @cuda.jit
    def _activation_forward(out, x, options):
        i = cuda.grid(1)
        if i < out.size:
            out[i] = formula(x[i], options)

    return _activation_forward


@functools.cache
def _backward(formula):
    """The kernel of its gradient: ``formula(dout, x, out, options)`` of one element."""

    @cuda.jit
    def _activation_backward(dx, dout, x, out, options):
        i = cuda.grid(1)
        if i < dx.size:
            dx[i] = formula(dout[i], x[i], out[i], options)

    return _activation_backward


# The formulas of one element, as in the reference; p are the options.


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
    return x if x > ZERO else p[0] * math.expm1(x)


@inlined
def elu_gradient(dout, x, out, p):
    return dout if out > ZERO else dout * (out + p[0])


@inlined
def selu(x, _):
    return SCALE * x if x > ZERO else SCALED_ALPHA * math.expm1(x)


@inlined
def selu_gradient(dout, x, out, _):
    return dout * (out + SCALED_ALPHA if x < ZERO else SCALE)


@inlined
def sigmoid(x, _):
    e = math.exp(-abs(x))
    return (ONE if x >= ZERO else e) / (ONE + e)


@inlined
def sigmoid_gradient(dout, x, out, _):
    return dout * out * (ONE - out)


@inlined
def tanh(x, _):
    return math.tanh(x)


@inlined
def tanh_gradient(dout, x, out, _):
    return dout * (ONE - out * out)


@inlined
def exponential(x, _):
    return math.exp(x)


@inlined
def exponential_gradient(dout, x, out, _):
    return dout * out


@inlined
def softplus(x, _):
    return relu(x, _) + math.log1p(math.exp(-abs(x)))


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
def normal(x):
    """Phi(x)."""
    return HALF * math.erfc(-x * float32(0.5**0.5))


@inlined
def gelu(x, _):
    return x * normal(x)


@inlined
def gelu_gradient(dout, x, out, _):
    density = math.exp(-HALF * x * x) * DENSITY
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
    e = math.exp(LARGE if x > LARGE else x)
    n = e * (e + TWO)
    return n / (n + TWO)


# Value and gradient
FORMULAS = {
    "relu": (relu, relu_gradient),
    "leaky_relu": (leaky_relu, leaky_relu_gradient),
    "bounded_relu": (bounded_relu, bounded_relu_gradient),
    "elu": (elu, elu_gradient),
    "selu": (selu, selu_gradient),
    "sigmoid": (sigmoid, sigmoid_gradient),
    "tanh": (tanh, tanh_gradient),
    "exponential": (exponential, exponential_gradient),
    "softplus": (softplus, softplus_gradient),
    "softsign": (softsign, softsign_gradient),
    "hard_sigmoid": (hard_sigmoid, hard_sigmoid_gradient),
    "silu": (silu, silu_gradient),
    "hard_silu": (hard_silu, hard_silu_gradient),
    "gelu": (gelu, gelu_gradient),
    "approximate_gelu": (approximate_gelu, approximate_gelu_gradient),
    "mish": (mish, mish_gradient),
}


@cuda.jit
def _softmax_forward(out, x):
    m = cuda.grid(1)
    if m < x.shape[0]:
        largest, total = softmax_scale(x, m)
        softmax_row(out, x, m, largest, total)


@cuda.jit
def _softmax_backward(dx, dout, out):
    m = cuda.grid(1)
    if m < out.shape[0]:
        inner = float32(0)
        for c in range(out.shape[1]):
            inner += dout[m, c] * out[m, c]
        for c in range(out.shape[1]):
            dx[m, c] = out[m, c] * (dout[m, c] - inner)


@inlined
def softmax_scale(x, m):
    """The largest number of row m, and the sum of the exponentials of what all are above it.

    A loop for each thing wanted: the compiler lets no load of a loop overtake a store that might change it.
    """
    largest = x[m, 0]
    c = 1
    while c < x.shape[1]:
        largest = max(largest, x[m, c])
        c += 1
    total = float32(0)
    c = 0
    while c < x.shape[1]:
        total += math.exp(x[m, c] - largest)
        c += 1
    return largest, total


@inlined
def softmax_row(out, x, m, largest, total):
    """The softmax of row m, from its scale."""
    c = 0
    while c < x.shape[1]:
        out[m, c] = math.exp(x[m, c] - largest) / total
        c += 1
