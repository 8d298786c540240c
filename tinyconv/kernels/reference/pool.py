"""Pooling: one number for each window of each channel, its maximum or its average."""

import numpy as np


def max_pool2d_forward(out, argmax, x, pool_size, strides, padding):
    r"""The largest value of each window, and where it stood.

    .. math:: out_{n,i,j,c} = \max_{k,l} x_{n,\; i s_h + k - p_t,\; j s_w + l - p_l,\; c}

    Pixels outside the image do not take part. ``argmax`` is the winner's place in its window, counted row by row
    (k * PW + l); of equal values the first wins. A NaN beats every number, so that it stays visible.

    Shapes: x (N, H, W, C), out (N, OH, OW, C) and argmax (the same, int32), overwritten. An ``argmax`` of size zero
    is not computed (inference).
    """
    best = np.full(out.shape, -np.inf, x.dtype)
    winner = np.full(out.shape, -1, np.int32)
    for position, rows, columns, image_rows, image_columns in _positions(
        out.shape, x.shape, pool_size, strides, padding
    ):
        value = x[:, image_rows][:, :, image_columns]
        here = np.ix_(range(out.shape[0]), rows, columns)
        wins = (winner[here] < 0) | (value > best[here]) | (np.isnan(value) & ~np.isnan(best[here]))
        best[here] = np.where(wins, value, best[here])
        winner[here] = np.where(wins, position, winner[here])
    out[...] = best
    if argmax.size:
        argmax[...] = winner


def max_pool2d_backward(dx, dout, argmax, pool_size, strides, padding):
    """Hand each window's gradient to the pixel that won it.

    The maximum is locally the winner itself, so its derivative is 1 with respect to the winner and 0 with respect to
    the others. Windows may overlap: a pixel that won several collects from all of them.

    Shapes: dx (N, H, W, C), overwritten; dout and argmax (N, OH, OW, C).
    """
    dx[...] = 0
    for position, rows, columns, image_rows, image_columns in _positions(
        dout.shape, dx.shape, pool_size, strides, padding
    ):
        here = np.ix_(range(dout.shape[0]), rows, columns)
        there = np.ix_(range(dout.shape[0]), image_rows, image_columns)
        dx[there] += np.where(argmax[here] == position, dout[here], 0)


def average_pool2d_forward(out, x, pool_size, strides, padding):
    """The mean of each window, over those of its pixels that lie inside the image (as TensorFlow counts).

    Shapes: x (N, H, W, C), out (N, OH, OW, C), overwritten.
    """
    out[...] = 0
    for _, rows, columns, image_rows, image_columns in _positions(out.shape, x.shape, pool_size, strides, padding):
        out[np.ix_(range(out.shape[0]), rows, columns)] += x[:, image_rows][:, :, image_columns]
    out /= _window_sizes(out.shape, x.shape, pool_size, strides, padding)


def average_pool2d_backward(dx, dout, pool_size, strides, padding):
    """Every pixel of a window of m pixels gets 1/m of the window's gradient; overlapping windows add up.

    Shapes: dx (N, H, W, C), overwritten; dout (N, OH, OW, C).
    """
    share = dout / _window_sizes(dout.shape, dx.shape, pool_size, strides, padding)
    dx[...] = 0
    for _, rows, columns, image_rows, image_columns in _positions(dout.shape, dx.shape, pool_size, strides, padding):
        there = np.ix_(range(dout.shape[0]), image_rows, image_columns)
        dx[there] += share[np.ix_(range(dout.shape[0]), rows, columns)].astype(dx.dtype)


def _positions(out_shape, x_shape, pool_size, strides, padding):
    """For each position of a window, row by row: its number, the outputs (rows, columns) for which it lies inside the
    image, and the image's rows and columns that it then falls on."""
    for k in range(pool_size[0]):
        rows, image_rows = _inside(k, out_shape[1], x_shape[1], strides[0], padding[0])
        for l in range(pool_size[1]):
            columns, image_columns = _inside(l, out_shape[2], x_shape[2], strides[1], padding[1])
            yield k * pool_size[1] + l, rows, columns, image_rows, image_columns


def _inside(offset, out_size, size, stride, before):
    outputs = np.arange(out_size)
    pixels = outputs * stride + offset - before
    inside = (pixels >= 0) & (pixels < size)
    return outputs[inside], pixels[inside]


def _window_sizes(out_shape, x_shape, pool_size, strides, padding):
    """How many pixels of each window lie inside the image: (1, OH, OW, 1)."""
    count = np.zeros((1, out_shape[1], out_shape[2], 1), np.int64)
    for _, rows, columns, _, _ in _positions(out_shape, x_shape, pool_size, strides, padding):
        count[np.ix_([0], rows, columns)] += 1
    return count
