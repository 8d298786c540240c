"""The dense layer: its three products, with the bias as in :mod:`conv` the weight of an input that is always one.

A convolution's kernels would do for an image of one pixel, but half of their time would go to finding that pixel.
"""

from tinyconv.kernels.cuda.conv import conv2d_workspace
from tinyconv.kernels.cuda.convolution.product import flat, multiply, product, product_gradients
from tinyconv.kernels.cuda.runtime.device import float32, index, inlined


def dense_workspace(out_shape, x_shape, w_shape):
    """Scratch for the parts of a product whose depth is cut, as for a convolution of one pixel with one tap."""
    (N, F), (N, K) = out_shape, x_shape
    return conv2d_workspace((N, 1, 1, F), (N, 1, 1, K), (1, 1, K, F), (1, 1), (0, 0), (1, 1))


def dense_prepare(work, w):
    """Nothing to prepare: the products read the weights as they are."""


def dense_forward(out, x, w, b, work, relu):
    """See reference. x @ w; bias and ReLU as it is stored."""
    (N, F), (K, F) = out.shape, w.shape
    multiply(_forward, flat(out), flat(x), flat(w), b, work, (N, F, K), (K, F), True, bool(relu))


def dense_backward(dx, dw, db, dout, x, w, work):
    """See reference. dw and db are one product, [x, 1].T @ dout; dx is the other, dout @ w.T, beside it."""
    (N, F), (K, F) = dout.shape, w.shape
    filters = _gradient, flat(x), flat(dout), (K + 1, F, N), (K, F)
    inputs = _backward, flat(dout), flat(w), (N, K, F), (K, F)
    product_gradients(flat(dx), flat(dw), db, work, filters, inputs)


@inlined
def inputs_row(row, shape):
    """Where a row of a matrix with K columns begins."""
    return row * shape[0], 0, 0


@inlined
def outputs_row(row, shape):
    """Where a row of a matrix with F columns begins."""
    return row * shape[1], 0, 0


@inlined
def place(column, shape):
    """How far into a row a column is."""
    return column, 0, 0


@inlined
def element(matrix, one, other, shape):
    """The element where a row and a column meet."""
    return matrix[index(one[0] + other[0])]


@inlined
def element_or_one(x, column, row, shape):
    """The same, and 1 in the column after the last: the one that gives db."""
    outside = column[0] >= shape[0]
    value = x[index(0 if outside else row[0] + column[0])]
    return float32(1) if outside else value


_forward = product(inputs_row, place, element, place, outputs_row, element, True, False)
_backward = product(outputs_row, place, element, outputs_row, place, element, True, True)
_gradient = product(place, inputs_row, element_or_one, place, outputs_row, element, False, False)
