r"""Activations, and softmax.

An activation is a function f of one number, applied to each. Its pair of formulas below says what f is and how a
gradient passes it, :math:`dx = dout \; f'(x)`, from the input x or from the output f(x), whichever takes less.
:data:`FORMULAS` has them all by name. (Conditions are put so that a NaN in x is one in the output too, and stays seen.)

Phi is the distribution function of the normal distribution, phi its density, and s the sigmoid.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np


def relu(x):
    """max(0, x)."""
    return np.where(x < 0, 0, x)


def relu_gradient(dout, x, out):
    """dout where the output is positive, else 0: the derivative at 0 is taken as 0."""
    return np.where(out <= 0, 0, dout)


def leaky_relu(x, negative_slope):
    """x where x >= 0, else negative_slope * x (Maas et al., 2013)."""
    return np.where(x < 0, negative_slope * x, x)


def leaky_relu_gradient(dout, x, out, negative_slope):
    """dout where x is positive, else negative_slope * dout."""
    return np.where(x > 0, dout, negative_slope * dout)


def bounded_relu(x, negative_slope, max_value, threshold):
    """x above the threshold, but at most max_value; below it, negative_slope * (x - threshold)."""
    below = negative_slope * (x - threshold) if negative_slope else 0
    return np.where(x <= threshold, below, np.where(x > max_value, max_value, x))


def bounded_relu_gradient(dout, x, out, negative_slope, max_value, threshold):
    """dout between the bounds, negative_slope * dout below, 0 above and just at the threshold."""
    return np.where(x < threshold, negative_slope * dout, np.where((x == threshold) | (x > max_value), 0, dout))


def elu(x, alpha):
    """x where x > 0, else alpha * (e^x - 1) (Clevert et al., 2016)."""
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def elu_gradient(dout, x, out, alpha):
    """For x <= 0 the derivative is alpha * e^x, which is out + alpha."""
    return np.where(out > 0, dout, dout * (out + alpha))


SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def selu(x):
    """scale * elu(x, alpha), with the two constants at which mean 0 and variance 1 are a fixed point of a dense layer
    whose weights have mean 0 and variance 1 / fan_in (Klambauer et al., 2017)."""
    return SELU_SCALE * elu(x, SELU_ALPHA)


def selu_gradient(dout, x, out):
    """As ELU's; the derivative at 0 is taken from the right."""
    return dout * np.where(x < 0, out + SELU_SCALE * SELU_ALPHA, SELU_SCALE)


def sigmoid(x):
    """1 / (1 + e^-x), written with e^-|x| so that nothing overflows."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


def sigmoid_gradient(dout, x, out):
    """s' = s (1 - s)."""
    return dout * out * (1 - out)


def tanh(x):
    """The hyperbolic tangent."""
    return np.tanh(x)


def tanh_gradient(dout, x, out):
    """tanh' = 1 - tanh^2."""
    return dout * (1 - out * out)


def exponential(x):
    """e^x."""
    return np.exp(x)


def exponential_gradient(dout, x, out):
    """It is its own derivative."""
    return dout * out


def softplus(x):
    """log(1 + e^x), a smooth ReLU: max(x, 0) + log(1 + e^-|x|), so that nothing overflows."""
    return np.where(x < 0, 0, x) + np.log1p(np.exp(-np.abs(x)))


def softplus_gradient(dout, x, out):
    """e^x / (1 + e^x), which is the sigmoid."""
    return dout * sigmoid(x)


def softsign(x):
    """x / (1 + |x|)."""
    return x / (1 + np.abs(x))


def softsign_gradient(dout, x, out):
    """1 / (1 + |x|)^2, on both sides of zero."""
    return dout / (1 + np.abs(x)) ** 2


def hard_sigmoid(x):
    """A sigmoid of three straight lines: x / 6 + 1 / 2, but not below 0 nor above 1."""
    return np.where(x > 3, 1, np.where(x < -3, 0, (x + 3) / 6))


def hard_sigmoid_gradient(dout, x, out):
    """1 / 6 where it rises."""
    return np.where(np.abs(x) < 3, dout / 6, 0)


def silu(x):
    """x s(x), also called swish (Hendrycks and Gimpel, 2016; Ramachandran et al., 2017)."""
    return x * sigmoid(x)


def silu_gradient(dout, x, out):
    """By the product rule s + x s (1 - s), which is s + out (1 - s)."""
    s = sigmoid(x)
    return dout * (s + out * (1 - s))


def hard_silu(x):
    """x times its hard sigmoid (Howard et al., "Searching for MobileNetV3", 2019)."""
    return x * hard_sigmoid(x)


def hard_silu_gradient(dout, x, out):
    """By the product rule."""
    return dout * hard_sigmoid(x) + x * hard_sigmoid_gradient(dout, x, out)


def gelu(x):
    """x Phi(x) (Hendrycks and Gimpel, 2016), where Phi(x) = (1 + erf(x / sqrt(2))) / 2 = erfc(-x / sqrt(2)) / 2."""
    return x * _normal(x)


def gelu_gradient(dout, x, out):
    """By the product rule, Phi(x) + x phi(x)."""
    return dout * (_normal(x) + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi))


def _normal(x):
    return np.reshape([math.erfc(-value / math.sqrt(2)) / 2 for value in x.flat], x.shape)


def approximate_gelu(x):
    """x (1 + tanh u) / 2 with u = sqrt(2 / pi) (x + 0.044715 x^3), from the same source."""
    return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def approximate_gelu_gradient(dout, x, out):
    """By the product and the chain rule, with t = tanh u: (1 + t + x (1 - t^2) u') / 2."""
    t = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    slope = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x**2)
    return dout * (1 + t + x * (1 - t * t) * slope) / 2


def mish(x):
    """x tanh(softplus(x)) (Misra, 2019)."""
    return x * np.tanh(softplus(x))


def mish_gradient(dout, x, out):
    """By the product and the chain rule, with t = tanh(softplus(x)): t + x (1 - t^2) s(x)."""
    t = np.tanh(softplus(x))
    return dout * (t + x * (1 - t * t) * sigmoid(x))


FORMULAS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
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


def activation_forward(out, x, kind, options):
    """out = f(x), element by element, with the f of that name and the further arguments that it takes.

    Shapes: out and x (M,), out overwritten (may be x).
    """
    out[...] = FORMULAS[kind][0](x, *options)


def activation_backward(dx, dout, x, out, kind, options):
    """dx = dout f'(x). Shapes: dx, dout, x and out (M,), dx overwritten (may be dout)."""
    dx[...] = FORMULAS[kind][1](dout, x, out, *options)


def softmax_forward(out, x):
    r"""Turn each row of scores into probabilities: :math:`out_{m,c} = e^{x_{m,c}} / \sum_k e^{x_{m,k}}`.

    The row's maximum is subtracted first: it cancels in the quotient, and no exponential overflows.

    Shapes: x and out (M, C), out overwritten.
    """
    e = np.exp(x - x.max(axis=1, keepdims=True))
    out[...] = e / e.sum(axis=1, keepdims=True)


def softmax_backward(dx, dout, out):
    r"""With p the output, :math:`\partial p_k / \partial x_c = p_k (\delta_{kc} - p_c)`, and so

    .. math:: dx_c = p_c \left( dout_c - \sum_k dout_k p_k \right)

    Shapes: dx, dout and out (M, C), dx overwritten.
    """
    dx[...] = out * (dout - (dout * out).sum(axis=1, keepdims=True))
