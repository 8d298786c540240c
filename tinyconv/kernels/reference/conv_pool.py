"""Convolution, ReLU and 2 x 2 max-pooling as one step, forward and backward.

Nothing new is computed: this is :mod:`~tinyconv.kernels.reference.conv`, ``activation`` and ``pool`` in a row. Fused,
the three need to remember less: the pooled outputs, and which of a window's four positions won.
"""

import numpy as np

from tinyconv.kernels.reference.conv import conv2d_backward, conv2d_forward
from tinyconv.kernels.reference.pool import max_pool2d_forward


def conv2d_relu_max_pool2d_workspace(out_shape, x_shape, w_shape, padding):
    """The number of floats of ``work`` that the fused step needs: none here."""
    return 0


def conv2d_relu_max_pool2d_prepare(work, w):
    """Store in ``work`` what the fused step needs to know of the filters ``w``: nothing here."""


def conv2d_relu_max_pool2d_forward(out, argmax, x, w, b, work, padding):
    """A convolution (strides and dilation 1), ReLU, and max-pooling over disjoint 2 x 2 windows, as one step.

    Only the pooled outputs are kept, and for each which of the window's four positions won (row by row: 0 1 / 2 3),
    or -1 where ReLU made the maximum zero: then nothing flows back. A last odd row or column that pooling drops is
    never computed.

    Shapes: x (N, H, W, C), w (KH, KW, C, F), b (F,), out (N, PH, PW, F) and argmax (the same, int8), overwritten.
    An ``argmax`` of size zero is not computed (inference).
    """
    N, PH, PW, F = out.shape
    full = np.empty((N, 2 * PH, 2 * PW, F), x.dtype)
    conv2d_forward(full, x, w, b, work, (1, 1), padding, (1, 1), True)
    winner = np.empty(out.shape, np.int32)
    max_pool2d_forward(out, winner, full, (2, 2), (2, 2), (0, 0))
    if argmax.size:
        winner[out <= 0] = -1  # relu'(0) = 0; a NaN is not <= 0, and its gradient stays visible
        argmax[...] = winner


def conv2d_relu_max_pool2d_backward(dx, dw, db, dout, argmax, x, w, work, padding, scale):
    """The gradients of the fused step: sparse, and exact.

    Of the four positions of a window only the winner received anything from the loss, and none did where ReLU gave
    zero. So the gradient of the convolution's output is ``scale * dout`` at the winner and zero elsewhere; the rest
    is :func:`conv2d_backward`. ``scale`` is 1, or 1 / (1 - rate) if a dropout was fused behind the pooling
    (see :func:`dropout_pooled_forward`).

    Shapes as in the forward; dx (N, H, W, C), dw (KH, KW, C, F), db (F,): overwritten. A ``dx`` of size zero is not
    computed.
    """
    N, PH, PW, F = dout.shape
    dfull = np.zeros((N, PH, 2, PW, 2, F), dout.dtype)
    for position in range(4):
        dfull[:, :, position // 2, :, position % 2] = np.where(argmax == position, scale * dout, 0)
    dfull = dfull.reshape(N, 2 * PH, 2 * PW, F)
    conv2d_backward(dx, dw, db, dfull, x, w, work, (1, 1), padding, (1, 1))
