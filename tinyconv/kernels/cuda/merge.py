"""Merges: one thread an element."""

from tinyconv.kernels.cuda.runtime.device import THREADS, blocks_for, cuda, divided, float32, launch


def add_to(out, x):
    """See reference."""
    _each(_add, out, out, x)


def add_forward(out, a, b):
    """See reference."""
    _each(_add, out, a, b)


def add_backward(da, db, dout):
    """See reference. A launch for each gradient that is wanted, as in the others."""
    _each(_rescale, da, dout, float32(1), float32(0))
    _each(_rescale, db, dout, float32(1), float32(0))


def multiply_forward(out, a, b):
    """See reference."""
    _each(_multiply, out, a, b)


def multiply_backward(da, db, dout, a, b):
    """See reference."""
    _each(_multiply, da, dout, b)
    _each(_multiply, db, dout, a)


def maximum_forward(out, a, b):
    """See reference."""
    _each(_maximum, out, a, b)


def maximum_backward(da, db, dout, a, b):
    """See reference."""
    _each(_maximum_gradient, da, dout, a, b, True)
    _each(_maximum_gradient, db, dout, a, b, False)


def concatenate_forward(out, x, offset):
    """See reference. One thread an element of x."""
    launch(_put_columns, blocks_for(x.size), THREADS, out, x, offset)


def concatenate_backward(dx, dout, offset):
    """See reference. One thread an element of dx."""
    launch(_take_columns, blocks_for(dx.size), THREADS, dx, dout, offset)


def rescale_forward(out, x, scale, shift):
    """See reference."""
    _each(_rescale, out, x, float32(scale), float32(shift))


def rescale_backward(dx, dout, scale):
    """See reference."""
    _each(_rescale, dx, dout, float32(scale), float32(0))


def _each(kernel, first, *others):
    launch(kernel, blocks_for(first.size), THREADS, first, *others)


@cuda.jit
def _add(out, a, b):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = a[i] + b[i]


@cuda.jit
def _multiply(out, a, b):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = a[i] * b[i]


@cuda.jit
def _maximum(out, a, b):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = a[i] if a[i] >= b[i] or a[i] != a[i] else b[i]


@cuda.jit
def _maximum_gradient(dx, dout, a, b, of_a):
    i = cuda.grid(1)
    if i < dx.size:
        dx[i] = dout[i] if (a[i] >= b[i]) == of_a else float32(0)


@cuda.jit
def _put_columns(out, x, offset):
    i = cuda.grid(1)
    if i < x.size:
        m, c = divided(i, x.shape[1])
        out[m, offset + c] = x[m, c]


@cuda.jit
def _take_columns(dx, dout, offset):
    i = cuda.grid(1)
    if i < dx.size:
        m, c = divided(i, dx.shape[1])
        dx[m, c] = dout[m, offset + c]


@cuda.jit
def _rescale(out, x, scale, shift):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = x[i] * scale + shift
