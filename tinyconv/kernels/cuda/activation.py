"""Activations, and softmax: a thread for each element, or for each row of a softmax."""

import math

from tinyconv.kernels.cuda.runtime.device import THREADS, blocks_for, cuda, float32, launch


def relu_forward(out, x):
    """See reference. One thread an element."""
    _each(_relu_forward, out, x)


def relu_backward(dx, dout, out):
    """See reference. One thread an element."""
    _each(_relu_backward, dx, dout, out)


def leaky_relu_forward(out, x, negative_slope):
    """See reference. One thread an element."""
    _each(_leaky_relu_forward, out, x, float32(negative_slope))


def leaky_relu_backward(dx, dout, out, negative_slope):
    """See reference. One thread an element."""
    _each(_leaky_relu_backward, dx, dout, out, float32(negative_slope))


def elu_forward(out, x, alpha):
    """See reference. One thread an element."""
    _each(_elu_forward, out, x, float32(alpha))


def elu_backward(dx, dout, out, alpha):
    """See reference. One thread an element."""
    _each(_elu_backward, dx, dout, out, float32(alpha))


def sigmoid_forward(out, x):
    """See reference. One thread an element."""
    _each(_sigmoid_forward, out, x)


def sigmoid_backward(dx, dout, out):
    """See reference. One thread an element."""
    _each(_sigmoid_backward, dx, dout, out)


def tanh_forward(out, x):
    """See reference. One thread an element."""
    _each(_tanh_forward, out, x)


def tanh_backward(dx, dout, out):
    """See reference. One thread an element."""
    _each(_tanh_backward, dx, dout, out)


def softmax_forward(out, x):
    """See reference. One thread a row."""
    launch(_softmax_forward, blocks_for(len(x)), THREADS, out, x)


def softmax_backward(dx, dout, out):
    """See reference. One thread a row."""
    launch(_softmax_backward, blocks_for(len(out)), THREADS, dx, dout, out)


def _each(kernel, first, *others):
    launch(kernel, blocks_for(first.size), THREADS, first, *others)


@cuda.jit
def _relu_forward(out, x):
    i = cuda.grid(1)
    if i < out.size:
        value = x[i]
        out[i] = float32(0) if value < float32(0) else value


@cuda.jit
def _relu_backward(dx, dout, out):
    i = cuda.grid(1)
    if i < dx.size:
        dx[i] = float32(0) if out[i] <= float32(0) else dout[i]


@cuda.jit
def _leaky_relu_forward(out, x, negative_slope):
    i = cuda.grid(1)
    if i < out.size:
        value = x[i]
        out[i] = negative_slope * value if value < float32(0) else value


@cuda.jit
def _leaky_relu_backward(dx, dout, out, negative_slope):
    i = cuda.grid(1)
    if i < dx.size:
        dx[i] = dout[i] if out[i] > float32(0) else negative_slope * dout[i]


@cuda.jit
def _elu_forward(out, x, alpha):
    i = cuda.grid(1)
    if i < out.size:
        value = x[i]
        out[i] = value if value > float32(0) else alpha * math.expm1(value)


@cuda.jit
def _elu_backward(dx, dout, out, alpha):
    i = cuda.grid(1)
    if i < dx.size:
        dx[i] = dout[i] if out[i] > float32(0) else dout[i] * (out[i] + alpha)


@cuda.jit
def _sigmoid_forward(out, x):
    i = cuda.grid(1)
    if i < out.size:
        e = math.exp(-abs(x[i]))
        out[i] = (float32(1) if x[i] >= float32(0) else e) / (float32(1) + e)


@cuda.jit
def _sigmoid_backward(dx, dout, out):
    i = cuda.grid(1)
    if i < dx.size:
        dx[i] = dout[i] * out[i] * (float32(1) - out[i])


@cuda.jit
def _tanh_forward(out, x):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = math.tanh(x[i])


@cuda.jit
def _tanh_backward(dx, dout, out):
    i = cuda.grid(1)
    if i < dx.size:
        dx[i] = dout[i] * (float32(1) - out[i] * out[i])


@cuda.jit
def _softmax_forward(out, x):
    m = cuda.grid(1)
    if m < x.shape[0]:
        largest = x[m, 0]
        for c in range(x.shape[1]):
            largest = max(largest, x[m, c])
        total = float32(0)
        for c in range(x.shape[1]):
            e = math.exp(x[m, c] - largest)
            out[m, c] = e
            total += e
        for c in range(x.shape[1]):
            out[m, c] /= total


@cuda.jit
def _softmax_backward(dx, dout, out):
    m = cuda.grid(1)
    if m < out.shape[0]:
        inner = float32(0)
        for c in range(out.shape[1]):
            inner += dout[m, c] * out[m, c]
        for c in range(out.shape[1]):
            dx[m, c] = out[m, c] * (dout[m, c] - inner)
