"""Activations, and softmax.

The element-wise ones take 1-D arrays (any shape, flattened). Their backward passes read the *output* of the forward
pass, not its input: each of these derivatives can be written in terms of it, so the input need not be kept.
"""

import numpy as np


def relu_forward(out, x):
    """max(0, x), element by element; a NaN stays NaN. out and x: (M,), out overwritten."""
    out[...] = np.where(x < 0, 0, x)


def relu_backward(dx, dout, out):
    """dout where the output is positive, else 0: the derivative at 0 is taken as 0. dx overwritten; may be dout."""
    dx[...] = np.where(out <= 0, 0, dout)


def leaky_relu_forward(out, x, negative_slope):
    """x where x >= 0, else negative_slope * x (Maas et al., 2013; negative_slope >= 0). out overwritten."""
    out[...] = np.where(x < 0, negative_slope * x, x)


def leaky_relu_backward(dx, dout, out, negative_slope):
    """dout where the output is positive, else negative_slope * dout: x and its output have the same sign."""
    dx[...] = np.where(out > 0, dout, negative_slope * dout)


def elu_forward(out, x, alpha):
    """x where x > 0, else alpha * (exp(x) - 1) (Clevert et al., 2016). out overwritten."""
    out[...] = np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def elu_backward(dx, dout, out, alpha):
    """For x <= 0 the derivative is alpha * exp(x), which is out + alpha."""
    dx[...] = np.where(out > 0, dout, dout * (out + alpha))


def sigmoid_forward(out, x):
    """1 / (1 + exp(-x)), written with exp(-|x|) so that nothing overflows. out overwritten."""
    e = np.exp(-np.abs(x))
    out[...] = np.where(x >= 0, 1, e) / (1 + e)


def sigmoid_backward(dx, dout, out):
    """s' = s (1 - s)."""
    dx[...] = dout * out * (1 - out)


def tanh_forward(out, x):
    """The hyperbolic tangent. out overwritten."""
    np.tanh(x, out=out)


def tanh_backward(dx, dout, out):
    """tanh' = 1 - tanh^2."""
    dx[...] = dout * (1 - out * out)


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
