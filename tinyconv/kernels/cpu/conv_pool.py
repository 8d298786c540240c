"""Conv -> ReLU -> 2 x 2 max-pool as one step.

Forward, the four pixels of a pooling window are four rows of the register tile, so the whole step ends in registers
(``window.py``), and only pooled outputs and winners are written. Where filters are 3 x 3 and channels whole vectors the
products are Winograd's (``winograd.py``), else the plain ones of ``conv.py``. Backward see ``sparse.py``.

``work`` holds the packed (or transformed) filters, the filters one by one, the bias filled up to whole panels, a
scratch for each thread, and the partial sums of dw.
"""

import functools
from typing import NamedTuple

import numba
import numpy as np
from numba import prange

from tinyconv.kernels.cpu import sparse, winograd
from tinyconv.kernels.cpu.conv import _copy_window
from tinyconv.kernels.cpu.host import LANES, REGISTERS
from tinyconv.kernels.cpu.jit import jit
from tinyconv.kernels.cpu.tile import pixel_offsets, tile_load, tile_multiply_add, tile_shape
from tinyconv.kernels.cpu.window import tile_store_pooled, window_corners

TASKS = 16  # forward: images times bands of pooled rows, where the shapes allow


class Layout(NamedTuple):
    """Where everything lies in ``work``, in floats."""

    single: int  # the filters one by one
    bias: int
    scratch: int
    scratch_size: int
    sums: int
    end: int


def _packed(w_shape):
    """Floats of the packed or transformed filters, and where the bias's whole panels end behind the single ones."""
    KH, KW, C, F = w_shape
    columns = tile_shape(F)[1] * LANES
    taps = 16 if winograd.applies(w_shape) else KH * KW
    return -(-F // columns) * columns * taps * C


@functools.lru_cache(1024)
def layout(out_shape, x_shape, w_shape, padding):
    """The layout of a fused step; see the class."""
    N, PH, PW, F = out_shape
    KH, KW, C, F = w_shape
    single = _packed(w_shape)
    bias = single + _lines(F * KH * KW * C)
    scratch = bias + _lines(F + 4 * LANES)
    image = (2 * PH + KH - 1) * (2 * PW + KW - 1) * C
    sizes = [image + sparse.scratch_size(out_shape)]
    if winograd.applies(w_shape):
        sizes.append(winograd.scratch_size(out_shape, x_shape, w_shape, padding))
    scratch_size = _lines(max(sizes)) + 16
    sums = scratch + numba.config.NUMBA_NUM_THREADS * scratch_size
    end = sums + sparse.parts_of(N, F) * -(-F // LANES) * _lines(sparse.sum_size(w_shape))
    return Layout(single, bias, scratch, scratch_size, sums, end)


def _lines(size):
    """A size in floats, rounded up to whole cache lines."""
    return -(-size // 16) * 16


def conv2d_relu_max_pool2d_workspace(out_shape, x_shape, w_shape, padding):
    """See the top of the file."""
    return layout(out_shape, x_shape, w_shape, padding).end


def conv2d_relu_max_pool2d_prepare(work, w):
    """Pack or transform the filters, and put them one by one behind. Parallel over panels."""
    columns = tile_shape(w.shape[3])[1] * LANES
    if winograd.applies(w.shape):
        winograd.transform_filters(work, w, columns)
        _transpose(work, w, _packed(w.shape))
    else:
        _pack(work, w, columns, _packed(w.shape))


@jit
def _transpose(work, w, single):
    """Filters (KH, KW, C, F) to ``work[single:]``, (F, KH, KW, C)."""
    KH, KW, C, F = w.shape
    K = KH * KW * C
    flat = w.reshape(K, F)
    for f in range(F):
        for k in range(K):
            work[single + f * K + k] = flat[k, f]


@jit
def _pack(work, w, columns, single):
    """Filters to [panel][tap][c][columns of f], with zeros behind the last, and transposed."""
    KH, KW, C, F = w.shape
    K = KH * KW * C
    flat = w.reshape(K, F)
    for panel in range(-(-F // columns)):
        for k in range(K):
            for f in range(columns):
                column = panel * columns + f
                work[(panel * K + k) * columns + f] = flat[k, column] if column < F else np.float32(0)
    _transpose(work, w, single)


def conv2d_relu_max_pool2d_forward(out, argmax, x, w, b, work, padding):
    """Winograd's products, or plain ones. Parallel over images and bands of pooled rows."""
    N, PH, PW, F = out.shape
    plan = layout(out.shape, x.shape, w.shape, padding)
    if winograd.applies(w.shape):
        kernel = winograd.make_winograd(*winograd.tile_rows(PH * PW, F))
        kernel(out, argmax, x, b, work, padding, 0, plan.scratch, plan.scratch_size)
        return
    V = tile_shape(F)[1]
    windows = (REGISTERS - V - 1) // (4 * V)
    bands = min(PH, -(-TASKS // N))
    kernel = make_correlate_pool(windows, V)
    kernel(out, argmax, x, b, work, w.shape[:2], padding, bands, plan.bias, plan.scratch, plan.scratch_size)


def conv2d_relu_max_pool2d_backward(dx, dw, db, dout, argmax, x, w, work, padding, scale):
    """dw and db, then dx; see ``sparse.py``."""
    N, PH, PW, F = dout.shape
    KH, KW, C, F = w.shape
    plan = layout(dout.shape, x.shape, w.shape, padding)
    parts, sum_size, scale = sparse.parts_of(N, F), _lines(sparse.sum_size(w.shape)), np.float32(scale)
    where = (plan.scratch, plan.scratch_size, plan.sums, sum_size)
    K = KH * KW * C
    if sparse.is_sparse(w.shape):
        kernel = sparse.make_filters_sparse(*sparse.sparse_tile(KH, KW * C))
        kernel(dw, dout, argmax, x, work, padding, scale, parts, *where)
        sparse.add_parts(dw, db, work, parts, plan.sums, sum_size, K, 1, K * LANES)
    else:
        kernel = sparse.make_filters_dense(sparse.dense_rows(K))
        kernel(dw, dout, argmax, x, work, padding, scale, parts, *where)
        sparse.add_parts(dw, db, work, parts, plan.sums, sum_size, 1, LANES, sum_size - LANES)
    if dx.size:
        where = (plan.single, plan.scratch, plan.scratch_size)
        kernel = sparse.make_pixels(*sparse.pixel_tile(w.shape))
        kernel(dx, dout, argmax, w.shape, work, padding, scale, *where)


@functools.cache
def make_correlate_pool(windows, V):
    """The plain forward kernel for tiles of ``windows`` pooling windows times V vectors of filters."""
    R = 4 * windows

    @jit(parallel=True)
    def correlate_pool(out, argmax, x, b, work, filter_size, padding, bands, bias, scratch, scratch_size):
        """out and argmax (N, PH, PW, F) from x (N, H, W, C), in tasks of one band of pooled rows of one image."""
        N, PH, PW, F = out.shape
        N, H, W, C = x.shape
        KH, KW = filter_size
        columns, panels = V * LANES, -(-F // (V * LANES))
        for f in range(panels * columns):
            work[bias + f] = b[f] if f < F else np.float32(0)
        flat_x, flat_out, flat_argmax = x.reshape(-1), out.reshape(-1), argmax.reshape(-1)
        for index in prange(N * bands):
            task = np.int64(index)
            n, first, last = task // bands, task % bands * PH // bands, (task % bands + 1) * PH // bands
            top, left = 2 * first - padding[0], -padding[1]
            height, width = 2 * (last - first) + KH - 1, 2 * PW + KW - 1
            if top >= 0 and left >= 0 and top + height <= H and left + width <= W:
                source, origin, row_size = flat_x, ((n * H + top) * W + left) * C, W * C
            else:
                source, origin, row_size = work, scratch + numba.get_thread_id() * scratch_size, width * C
                _copy_window(work, origin, x, n, top, left, height, width)
            count, write = (last - first) * PW, (n * PH + first) * PW * F
            for panel in range(panels):
                filters = panel * KH * KW * C * columns
                for window in range(0, count, windows):
                    starts = pixel_offsets(window, count - 1, PW, 2 * row_size, 2 * C, windows)
                    reads = window_corners(starts, C, row_size)
                    tile = tile_load(work, bias + panel * columns, 0, R, V)
                    for k in range(KH):
                        for i in range(KW * C):  # a row of a filter is contiguous, in the image and in the filters
                            place = filters + (k * KW * C + i) * columns
                            tile = tile_multiply_add(tile, source, reads, origin + k * row_size + i, work, place)
                    writes = pixel_offsets(window, count - 1, PW, PW * F, F, windows)
                    place = write + panel * columns
                    tile_store_pooled(tile, flat_out, flat_argmax, writes, place, F - panel * columns)

    return correlate_pool
