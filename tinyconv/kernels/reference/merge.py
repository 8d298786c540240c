"""Merges: one array computed from several, and the sum of gradients where one array has several readers.

The element-wise ones take 1-D arrays (any shape, flattened) of two inputs, a and b; more inputs are merged two by two.
A gradient da or db of size 0 is not wanted.
"""

import numpy as np


def add_to(out, x):
    """Add x to out: the gradient of a value with several readers. Each reader's backward pass gives the derivative of
    the loss by way of that reader alone, and by the chain rule the gradient is their sum.

    Shapes: out and x (M,), *accumulated* into out.
    """
    out += x


def add_forward(out, a, b):
    """a + b. out, a, b: (M,), out overwritten (may be a or b)."""
    np.add(a, b, out=out)


def add_backward(da, db, dout):
    """Both derivatives are 1, so both gradients are dout. da, db: (M,) or (0,), overwritten; dout: (M,)."""
    for dx in (da, db):
        if dx.size:
            dx[...] = dout


def multiply_forward(out, a, b):
    """a * b, element by element. out, a, b: (M,), out overwritten."""
    np.multiply(a, b, out=out)


def multiply_backward(da, db, dout, a, b):
    """By the product rule, da = dout * b and db = dout * a. da, db: (M,) or (0,), overwritten; the others (M,)."""
    if da.size:
        da[...] = dout * b
    if db.size:
        db[...] = dout * a


def maximum_forward(out, a, b):
    """The larger of a and b; a NaN where either is one. out, a, b: (M,), out overwritten."""
    np.maximum(a, b, out=out)


def maximum_backward(da, db, dout, a, b):
    """dout to the larger one and 0 to the other; where both are equal to a, as TensorFlow has it. Shapes as above."""
    if da.size:
        da[...] = np.where(a >= b, dout, 0)
    if db.size:
        db[...] = np.where(a >= b, 0, dout)


def concatenate_forward(out, x, offset):
    """Put x's columns into out[:, offset : offset + C]; once for each input, out is filled.

    Arrays of more axes are seen as matrices: all axes before the one along which they are joined are rows, that axis
    and those behind it are columns. Shapes: x (M, C), out (M, D) with offset + C <= D, those C columns overwritten.
    """
    out[:, offset : offset + x.shape[1]] = x


def concatenate_backward(dx, dout, offset):
    """The gradient of what was copied is where it was copied to. Shapes: dx (M, C), overwritten; dout (M, D)."""
    dx[...] = dout[:, offset : offset + dx.shape[1]]


def rescale_forward(out, x, scale, shift):
    """x * scale + shift, with two numbers for all elements. out and x: (M,), out overwritten (may be x)."""
    out[...] = x * x.dtype.type(scale) + x.dtype.type(shift)


def rescale_backward(dx, dout, scale):
    """The derivative is scale. dx and dout: (M,), dx overwritten (may be dout)."""
    dx[...] = dout * dout.dtype.type(scale)
