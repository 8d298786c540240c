"""Two-dimensional convolution, forward and backward.

A convolutional layer slides a small window over an image. At every place it multiplies the window's pixels by each of
its filters and adds up: one number per filter and place. (In mathematics that is a cross-correlation, and a convolution
turns the filter by 180 degrees first. The field calls the former a convolution, and so does everything here.)

In the formulae n counts images, (i, j) places of the output, (u, v) pixels of the image, (k, l) taps of a filter, c
channels and f filters; the pairs s, d and p are strides, dilation and padding, each (vertical, horizontal).
"""

import numpy as np


def conv2d_workspace(out_shape, x_shape, w_shape, strides, padding, dilation):
    """The number of floats of ``work`` that the convolution needs: none here."""
    return 0


def conv2d_prepare(work, w, out_shape, x_shape, strides, padding, dilation):
    """Store in ``work`` what the forward pass needs to know of the filters ``w`` (KH, KW, C, F): nothing here."""


def conv2d_forward(out, x, w, b, work, strides, padding, dilation, relu):
    r"""Convolve, add the bias, and apply ReLU if asked to.

    .. math:: out_{n,i,j,f} = b_f + \sum_{k,l,c} x_{n,u,v,c} \; w_{k,l,c,f}
              \quad\text{with}\quad u = i s_0 + k d_0 - p_0,\; v = j s_1 + l d_1 - p_1

    where x is zero outside the image. With ``relu`` the result is max(0, .).

    Shapes: x (N, H, W, C), w (KH, KW, C, F), b (F,), out (N, OH, OW, F), overwritten.

    Source: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning" (2016), chapter 2.
    """
    windows = patches(x, out.shape, w.shape, strides, padding, dilation)
    out[...] = np.tensordot(windows, w, axes=3) + b
    if relu:
        out[out < 0] = 0  # not np.maximum(out, 0) by chance: a NaN compares false and stays visible


def conv2d_backward(dx, dw, db, dout, x, w, work, strides, padding, dilation):
    r"""The gradients of a convolution (without its activation).

    ``out`` is linear in x, in w and in b, so each gradient collects, over all outputs that an element took part in,
    the output's gradient times the element's partner in the product:

    .. math::
        db_f &= \sum_{n,i,j} dout_{n,i,j,f} \\
        dw_{k,l,c,f} &= \sum_{n,i,j} x_{n,u,v,c} \; dout_{n,i,j,f}
            \quad\text{with}\quad u = i s_0 + k d_0 - p_0,\; v = j s_1 + l d_1 - p_1 \\
        dx_{n,u,v,c} &= \sum_{k,l,f} dout_{n,i,j,f} \; w_{k,l,c,f}
            \quad\text{over all } i, j \text{ with } i s_0 + k d_0 - p_0 = u,\; j s_1 + l d_1 - p_1 = v

    For stride 1 both are convolutions again: dw slides the gradient over the image, and dx slides the filters, turned
    by 180 degrees, over the gradient (i = u + p - k d: as k goes up, i goes down).

    Shapes: dx (N, H, W, C), dw (KH, KW, C, F), db (F,): overwritten; dout (N, OH, OW, F), x, w as in the forward.
    A ``dx`` of size zero is not computed.

    Source: LeCun et al., "Gradient-based learning applied to document recognition" (1998), section II;
    Dumoulin and Visin (2016), chapter 4.
    """
    db[...] = dout.sum(axis=(0, 1, 2))
    windows = patches(x, dout.shape, w.shape, strides, padding, dilation)
    dw[...] = np.tensordot(windows, dout, axes=((0, 1, 2), (0, 1, 2)))
    if dx.size:
        _scatter(dx, dout, w, strides, padding, dilation)


def conv2d_transpose_prepare(work, w, out_shape, x_shape, strides, padding, dilation):
    """Store in ``work`` what the transposed convolution's forward pass needs to know of the filters: nothing here. The
    shapes are those of the convolution whose dx it is."""


def conv2d_transpose_forward(out, x, w, b, work, strides, padding, dilation):
    r"""The transpose of a convolution, and bias: what its backward pass does to a gradient, done to x.

    A convolution is linear, out = A x with a large sparse matrix A, and its backward pass is dx = A^T dout. Here A^T
    computes the output: every input pixel sends a window of numbers to the output, windows are ``strides`` apart, and
    where they overlap they add up. So images grow where a convolution of these strides makes them smaller.

    .. math:: out_{n,u,v,c} = b_c + \sum_{k,l,f} x_{n,i,j,f} \; w_{k,l,c,f}
              \quad\text{over all } i, j \text{ with } i s_0 + k d_0 - p_0 = u,\; j s_1 + l d_1 - p_1 = v

    Shapes: as of the convolution whose dx it is, x (N, OH, OW, F), w (KH, KW, C, F), b (C,), out (N, H, W, C),
    overwritten; ``work`` is that convolution's, too, as :func:`conv2d_transpose_prepare` leaves it.

    Source: Dumoulin and Visin (2016), chapter 4.
    """
    _scatter(out, x, w, strides, padding, dilation)
    out += b


def conv2d_transpose_backward(dx, dw, db, dout, x, w, work, strides, padding, dilation):
    r"""The transpose of A^T is A: dx is the convolution of dout. In the sum above x and w take part as dout and w do in
    a convolution's dx, so dw is that of the convolution, with the roles of x and dout exchanged:

    .. math::
        db_c &= \sum_{n,u,v} dout_{n,u,v,c} \\
        dw_{k,l,c,f} &= \sum_{n,i,j} dout_{n,u,v,c} \; x_{n,i,j,f}
            \quad\text{with}\quad u = i s_0 + k d_0 - p_0,\; v = j s_1 + l d_1 - p_1 \\
        dx_{n,i,j,f} &= \sum_{k,l,c} dout_{n,u,v,c} \; w_{k,l,c,f}

    Shapes as in the forward; dx, dw and db overwritten. A ``dx`` of size zero is not computed.
    """
    db[...] = dout.sum(axis=(0, 1, 2))
    windows = patches(dout, x.shape, w.shape, strides, padding, dilation)
    dw[...] = np.tensordot(windows, x, axes=((0, 1, 2), (0, 1, 2)))
    if dx.size:
        dx[...] = np.tensordot(windows, w, axes=3)


def _scatter(dx, dout, w, strides, padding, dilation):
    """A convolution's dx, one filter tap at a time: all outputs at once meet the tap's pixels, a strided grid of the
    padded image."""
    canvas, inside = padded(np.zeros_like(dx), dout.shape, w.shape, strides, padding, dilation)
    for k in range(w.shape[0]):
        for l in range(w.shape[1]):
            canvas[tap(k, l, dout.shape[1:3], strides, dilation)] += dout @ w[k, l].T
    dx[...] = canvas[inside]


def padded(x, out_shape, w_shape, strides, padding, dilation):
    """The image on a canvas of zeros as large as the windows reach, and where on the canvas the image lies."""
    N, H, W, C = x.shape
    top, left = padding
    height, width = (
        max((out - 1) * s + (k - 1) * d + 1, before + size)
        for out, s, k, d, before, size in zip(
            out_shape[1:3], strides, w_shape[:2], dilation, padding, (H, W), strict=True
        )
    )
    canvas = np.zeros((N, height, width, C), x.dtype)
    inside = (slice(None), slice(top, top + H), slice(left, left + W))
    canvas[inside] = x
    return canvas, inside


def tap(k, l, out_size, strides, dilation):
    """The index of all canvas pixels that tap (k, l) of the filter meets: (N, OH, OW, C)."""
    rows, columns = (
        slice(tap * d, tap * d + (out - 1) * s + 1, s)
        for tap, d, out, s in zip((k, l), dilation, out_size, strides, strict=True)
    )
    return slice(None), rows, columns


def patches(x, out_shape, w_shape, strides, padding, dilation):
    """Every window of the image, (N, OH, OW, KH, KW, C): "im2col"."""
    canvas, _ = padded(x, out_shape, w_shape, strides, padding, dilation)
    KH, KW = w_shape[:2]
    taps = [[canvas[tap(k, l, out_shape[1:3], strides, dilation)] for l in range(KW)] for k in range(KH)]
    return np.stack([np.stack(row, axis=3) for row in taps], axis=3)
