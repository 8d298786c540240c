"""Two-dimensional convolution: each of its three products is :mod:`product`'s kernel, with its own way to find pixels.

The matrices of the products, of which only the small ones exist:

========  ===================  =====================  ==============  ========================================
product   rows                 depth                  columns         a, b
========  ===================  =====================  ==============  ========================================
forward   outputs (n, i, j)    taps (k, l, c)         filters f       pixels of x, w
dx        pixels (n, y, x)     taps (k, l, f)         channels c      outputs of dout, w
dw, db    taps (k, l, c), 1    outputs (n, i, j)      filters f       pixels of x and a row of ones, dout
========  ===================  =====================  ==============  ========================================

The bias is the weight of an input that is always one: a last row of ones makes db the last row of dw.
"""

import numpy as np

from tinyconv.kernels.cuda.conv_pool import (  # noqa: F401  (the fused step has its own file)
    conv2d_relu_max_pool2d_backward,
    conv2d_relu_max_pool2d_forward,
    conv2d_relu_max_pool2d_prepare,
    conv2d_relu_max_pool2d_workspace,
)
from tinyconv.kernels.cuda.convolution.product import (
    LANES,
    ROWS,
    add_parts,
    flat,
    multiply,
    multiply_parts,
    parts_of,
    product,
    product_gradients,
    scratch,
)
from tinyconv.kernels.cuda.runtime.device import blocks_for, cuda, divided, float32, index, inlined, launch


def conv2d_workspace(out_shape, x_shape, w_shape, strides, padding, dilation):
    """Scratch for the parts of a product whose depth is cut. Those of dw always go there; behind them, those of dx, or
    what of dw's product a transposed convolution has no use for."""
    (N, OH, OW, F), (N, H, W, C), (KH, KW, C, F) = out_shape, x_shape, w_shape
    outputs, pixels, taps = N * OH * OW, N * H * W, KH * KW * C
    gradient = parts_of(taps + 1, F, outputs)[0] * (taps + 1) * F
    return max(scratch(outputs, F, taps), gradient + max(F, scratch(pixels, C, KH * KW * F)))


def conv2d_prepare(work, w, out_shape, x_shape, strides, padding, dilation):
    """Nothing to prepare: the products read the filters as they are."""


def conv2d_forward(out, x, w, b, work, strides, padding, dilation, relu):
    """See reference. The product of the outputs' pixels and the filters; bias and ReLU as it is stored."""
    N, OH, OW, F = out.shape
    KH, KW, C, F = w.shape
    sizes = N * OH * OW, F, KH * KW * C
    shape = _shape(x, w, out, strides, padding, dilation)
    multiply(_forward, flat(out), flat(x), flat(w), b, work, sizes, shape, True, bool(relu))


def conv2d_backward(dx, dw, db, dout, x, w, work, strides, padding, dilation):
    """See reference. dw and db are one product, cut into parts along the outputs; dx is the other, beside it."""
    N, OH, OW, F = dout.shape
    N, H, W, C = x.shape
    KH, KW, C, F = w.shape
    shape = _shape(x, w, dout, strides, padding, dilation)
    filters = _gradient, flat(x), flat(dout), (KH * KW * C + 1, F, N * OH * OW), shape
    inputs = _backward, flat(dout), flat(w), (N * H * W, C, KH * KW * F), shape
    product_gradients(flat(dx), flat(dw), db, work, filters, inputs)


def conv2d_transpose_prepare(work, w, out_shape, x_shape, strides, padding, dilation):
    """Nothing to prepare, as for a convolution."""


def conv2d_transpose_forward(out, x, w, b, work, strides, padding, dilation):
    """See reference. The product of a convolution's dx, and the bias as it is stored."""
    (N, H, W, C), (KH, KW, C, F) = out.shape, w.shape
    shape = _shape(out, w, x, strides, padding, dilation)
    multiply(_backward, flat(out), flat(x), flat(w), b, work, (N * H * W, C, KH * KW * F), shape, True, False)


def conv2d_transpose_backward(dx, dw, db, dout, x, w, work, strides, padding, dilation):
    """See reference. The products of a convolution's dw and forward pass. Its db, behind dw in the sum of the parts, is
    of no use here; that of the bias is a kernel of its own."""
    (N, OH, OW, F), (KH, KW, C, F) = x.shape, w.shape
    shape = _shape(dout, w, x, strides, padding, dilation)
    taps, outputs = KH * KW * C, N * OH * OW
    parts, _ = parts_of(taps + 1, F, outputs)
    size = parts * (taps + 1) * F
    multiply_parts(_gradient, work[:size], flat(dout), flat(x), db, (taps + 1, F, outputs), shape)
    add_parts(flat(dw), work[size : size + F], work[:size], parts, db, False, False)
    launch(_sum_pixels, blocks_for(C, LANES), (LANES, ROWS), db, dout.reshape(dout.size // C, C))
    if dx.size:
        multiply(_forward, flat(dx), flat(dout), flat(w), db, work, (outputs, F, taps), shape, False, False)


@cuda.jit
def _sum_pixels(db, dout):
    sums = cuda.shared.array((ROWS, LANES), np.float32)
    lane = cuda.threadIdx.x
    row = cuda.threadIdx.y
    c = cuda.blockIdx.x * LANES + lane
    total = float32(0)
    if c < db.size:
        for m in range(row, dout.shape[0], ROWS):
            total += dout[m, c]
    sums[row, lane] = total
    cuda.syncthreads()
    if row == 0 and c < db.size:
        for r in range(1, ROWS):
            total += sums[r, lane]
        db[c] = total


def _shape(x, w, out, strides, padding, dilation):
    """All the integers that the small functions below want to know."""
    return (*map(int, (*x.shape[1:], *out.shape[1:3], *w.shape[:2], w.shape[3], *strides, *padding, *dilation)),)


@inlined
def output_place(row, shape):
    """Row (n, i, j) of the outputs: the image's first row of pixels, and where the window begins."""
    H, W, C, OH, OW, KH, KW, F, SH, SW, PT, PL, DH, DW = shape
    ni, j = divided(row, OW)
    n, i = divided(ni, OH)
    return n * H, i * SH - PT, j * SW - PL


@inlined
def tap_of_channels(depth, shape):
    """Depth (k, l, c) of the filters: how far into the window, and the channel."""
    H, W, C, OH, OW, KH, KW, F, SH, SW, PT, PL, DH, DW = shape
    kl, c = divided(depth, C)
    k, l = divided(kl, KW)
    return k * DH, l * DW, c


@inlined
def pixel(x, place, tap, shape):
    """The pixel at a place and a tap; 0 outside the image."""
    y = place[1] + tap[0]
    column = place[2] + tap[1]
    inside = (y >= 0) & (y < shape[0]) & (column >= 0) & (column < shape[1])
    at = ((place[0] + y) * shape[1] + column) * shape[2] + tap[2]
    value = x[index(at if inside else 0)]
    return value if inside else float32(0)


@inlined
def pixel_or_one(x, tap, place, shape):
    """The same with row and depth exchanged, and 1 in the row after the last tap: the row that gives db."""
    value = pixel(x, place, tap, shape)
    return float32(1) if tap[0] >= shape[5] * shape[12] else value


@inlined
def pixel_place(row, shape):
    """Row (n, y, x) of the pixels: the image's first row of outputs, and where the pixel lies in the padded image."""
    H, W, C, OH, OW, KH, KW, F, SH, SW, PT, PL, DH, DW = shape
    ny, x = divided(row, W)
    n, y = divided(ny, H)
    return n * OH, y + PT, x + PL


@inlined
def tap_of_filters(depth, shape):
    """Depth (k, l, f): how far into the window, and the filter."""
    H, W, C, OH, OW, KH, KW, F, SH, SW, PT, PL, DH, DW = shape
    kl, f = divided(depth, F)
    k, l = divided(kl, KW)
    return k * DH, l * DW, f


@inlined
def output(dout, place, tap, shape):
    """The gradient of the output whose tap lies on the pixel; 0 where there is none."""
    y = place[1] - tap[0]
    x = place[2] - tap[1]
    i, between_rows = divided(max(y, 0), shape[8])
    j, between_columns = divided(max(x, 0), shape[9])
    inside = (y >= 0) & (x >= 0) & (between_rows == 0) & (between_columns == 0) & (i < shape[3]) & (j < shape[4])
    at = ((place[0] + i) * shape[4] + j) * shape[7] + tap[2]
    value = dout[index(at if inside else 0)]
    return value if inside else float32(0)


@inlined
def filter_place(column, shape):
    """Column f of a matrix with F columns."""
    return column, 0, 0


@inlined
def filter_row(depth, shape):
    """A row of a matrix with F columns."""
    return depth * shape[7], 0, 0


@inlined
def channel_place(column, shape):
    """Column c of the turned filters: where channel c of a tap begins."""
    return column * shape[7], 0, 0


@inlined
def turned_row(depth, shape):
    """Depth (k, l, f) of the turned filters: tap (k, l), all of its channels before, then filter f."""
    kl, f = divided(depth, shape[7])
    return kl * (shape[2] * shape[7]), f, 0


@inlined
def weight(w, place, row, shape):
    """The value where both point."""
    return w[index(place[0] + row[0] + row[1])]


_forward = product(output_place, tap_of_channels, pixel, filter_place, filter_row, weight, True, False)
_backward = product(pixel_place, tap_of_filters, output, channel_place, turned_row, weight, True, True)
_gradient = product(tap_of_channels, output_place, pixel_or_one, filter_place, filter_row, weight, False, False)
