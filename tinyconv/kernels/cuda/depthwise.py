"""Depthwise convolution: one thread an element of the result or of dx; a block for 32 filters at a tap of dw."""

import numpy as np

from tinyconv.kernels.cuda.image import place
from tinyconv.kernels.cuda.runtime.device import THREADS, blocks_for, cuda, divided, float32, launch

LANES, ROWS = 32, 8  # a block of the sums: 32 filters, and 8 threads that share each filter's outputs


def depthwise_conv2d_forward(out, x, w, b, strides, padding, dilation):
    """See reference. One thread an element of out."""
    launch(_depthwise_forward, blocks_for(out.size), THREADS, out, x, w, b, (*strides, *padding, *dilation))


def depthwise_conv2d_backward(dx, dw, db, dout, x, w, strides, padding, dilation):
    """See reference. One thread an element of dx. For dw a block at each tap, and one more for db, whose tap has an
    input that is always one: each thread adds up some of the outputs, and one of them what they found, in order."""
    KH, KW, C, D = w.shape
    geometry = (*strides, *padding, *dilation)
    blocks = blocks_for(C * D, LANES), KH * KW + 1
    launch(_depthwise_sums, blocks, (LANES, ROWS), dw, db, dout, x, geometry)
    if dx.size:
        launch(_depthwise_dx, blocks_for(dx.size), THREADS, dx, dout, w, geometry)


@cuda.jit
def _depthwise_forward(out, x, w, b, geometry):
    element = cuda.grid(1)
    if element < out.size:
        SH, SW, PT, PL, DH, DW = geometry
        n, i, j, f = place(element, out.shape)
        c, d = divided(f, w.shape[3])
        total = b[f]
        for k in range(w.shape[0]):
            y = i * SH - PT + k * DH
            for l in range(w.shape[1]):
                z = j * SW - PL + l * DW
                inside = (y >= 0) & (y < x.shape[1]) & (z >= 0) & (z < x.shape[2])
                value = x[n, y if inside else 0, z if inside else 0, c]
                total += value * w[k, l, c, d] if inside else float32(0)
        out[n, i, j, f] = total


@cuda.jit
def _depthwise_dx(dx, dout, w, geometry):
    element = cuda.grid(1)
    if element < dx.size:
        SH, SW, PT, PL, DH, DW = geometry
        n, y, z, c = place(element, dx.shape)
        D = w.shape[3]
        total = float32(0)
        for k in range(w.shape[0]):
            above = y + PT - k * DH
            i, between_rows = divided(max(above, 0), SH)
            for l in range(w.shape[1]):
                before = z + PL - l * DW
                j, between_columns = divided(max(before, 0), SW)
                inside = (above >= 0) & (before >= 0) & (between_rows == 0) & (between_columns == 0)
                inside = inside & (i < dout.shape[1]) & (j < dout.shape[2])
                for d in range(D):
                    value = dout[n, i if inside else 0, j if inside else 0, c * D + d]
                    total += value * w[k, l, c, d] if inside else float32(0)
        dx[n, y, z, c] = total


@cuda.jit
def _depthwise_sums(dw, db, dout, x, geometry):
    sums = cuda.shared.array((ROWS, LANES), np.float32)
    SH, SW, PT, PL, DH, DW = geometry
    N, OH, OW, F = dout.shape
    lane = cuda.threadIdx.x
    row = cuda.threadIdx.y
    f = cuda.blockIdx.x * LANES + lane
    k, l = divided(cuda.blockIdx.y, dw.shape[1])
    of_bias = k == dw.shape[0]
    c, d = divided(f, dw.shape[3])
    total = float32(0)
    if f < F:
        for output in range(row, N * OH * OW, ROWS):
            ni, j = divided(output, OW)
            n, i = divided(ni, OH)
            y = i * SH - PT + k * DH
            z = j * SW - PL + l * DW
            inside = (y >= 0) & (y < x.shape[1]) & (z >= 0) & (z < x.shape[2])
            value = x[n, y if inside else 0, z if inside else 0, c]
            factor = value if inside else float32(0)
            total += dout[n, i, j, f] * (float32(1) if of_bias else factor)
    sums[row, lane] = total
    cuda.syncthreads()
    if row == 0 and f < F:
        for r in range(1, ROWS):
            total += sums[r, lane]
        if of_bias:
            db[f] = total
        else:
            dw[k, l, c, d] = total
