"""Conv -> ReLU -> 2 x 2 max-pool as one step.

Forward, the four pixels of a pooling window are four rows of the register tile, so the whole step ends in registers
(``pooled_stores.py``), and only pooled outputs and winners are written. Where filters are 3 x 3 and channels whole
vectors the products are Winograd's (``winograd.py``), else the plain ones of ``correlate_pool``. Backward see
``pooled_backward.py``.

Parallel over tasks (see ``tasks.py``). ``work`` holds the packed (or transformed) filters, the filters one by one, the
bias filled up to whole panels, a scratch for each thread, and the partial sums of dw.
"""

import functools

import numba
import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple

from tinyconv.kernels.cpu.convolution import pooled_backward, winograd
from tinyconv.kernels.cpu.convolution.geometry import whole_lines
from tinyconv.kernels.cpu.convolution.pooled import COUNT, Step, read_image
from tinyconv.kernels.cpu.registers.copies import copy, copy_panel, fill
from tinyconv.kernels.cpu.registers.host import LANES, REGISTERS
from tinyconv.kernels.cpu.registers.pooled_stores import tile_store_pooled, window_corners
from tinyconv.kernels.cpu.registers.tile import pixel_offsets, tile_load, tile_multiply_add, tile_shape
from tinyconv.kernels.cpu.runtime.tasks import NOTHING, in_tasks, kernel, run

TASKS = 16  # forward: images times bands of pooled rows, where the shapes allow
LEAST = 1 << 16  # multiply-adds of such a band: about a microsecond, beside which taking a task costs little


@functools.lru_cache(1024)
def _filters(w_shape):
    """Columns of a panel; and where in ``work`` the single filters, the bias and the rest begin."""
    KH, KW, C, F = w_shape
    columns = tile_shape(F)[1] * LANES
    panels, taps = -(-F // columns), 16 if winograd.applies(w_shape) else KH * KW
    single = panels * columns * taps * C
    bias = single + whole_lines(F * KH * KW * C)
    return columns, single, bias, bias + whole_lines(panels * columns)


@functools.lru_cache(1024)
def plan(out_shape, x_shape, w_shape, padding):
    """The ``Step`` of these shapes."""
    N, PH, PW, F = out_shape
    N, H, W, C = x_shape
    KH, KW, C, F = w_shape
    columns, single, bias, scratch = _filters(w_shape)
    image = (2 * PH + KH - 1) * (2 * PW + KW - 1) * C
    images = pooled_backward.images_of.py_func(N, PH * PW)
    needs = [images * image + pooled_backward.list_size.py_func(images * PH * PW)]
    if winograd.applies(w_shape):
        needs.append(winograd.scratch_size(_tiles(out_shape, x_shape, padding)))
    scratch_size = whole_lines(max(needs) + LANES)
    sums = scratch + numba.config.NUMBA_NUM_THREADS * scratch_size
    parts, sum_size = pooled_backward.parts_of(N, w_shape), whole_lines(pooled_backward.sum_size(w_shape))
    end = sums + parts * -(-F // pooled_backward.block_of(w_shape)) * sum_size
    places = (single, bias, scratch, scratch_size, sums, sum_size, end)
    pieces = max(1, min(PH, -(-TASKS // N), 4 * PH * PW * F * KH * KW * C // LEAST))
    return Step(N, PH, PW, F, H, W, C, KH, KW, *padding, pieces, parts, *places, scale=0)


def _tiles(out_shape, x_shape, padding):
    """A pooling window is a tile of Winograd's."""
    N, PH, PW, F = out_shape
    return winograd.plan((N, 2 * PH, 2 * PW, F), x_shape, padding)


@functools.lru_cache(1024)
def _forward(out_shape, x_shape, w_shape, padding):
    """The kernel of the forward pass, its number of tasks, and its numbers."""
    step = plan(out_shape, x_shape, w_shape, padding)
    if winograd.applies(w_shape):
        places = {"bias": step.bias, "scratch": step.scratch, "scratch_size": step.scratch_size}
        s = _tiles(out_shape, x_shape, padding)._replace(**places)
        return *winograd.kernel_of(s, pooled=True), np.array(s)
    return make_correlate_pool(step.F), step.N * step.pieces, numbers(out_shape, x_shape, w_shape, padding)


@functools.lru_cache(1024)
def numbers(out_shape, x_shape, w_shape, padding, scale=1.0):
    """The ``Step`` of these shapes as the kernels read it."""
    step = plan(out_shape, x_shape, w_shape, padding)
    return np.array(step._replace(scale=np.float64(scale).view(np.int64)))


def conv2d_relu_max_pool2d_workspace(out_shape, x_shape, w_shape, padding):
    """See the top of the file."""
    return plan(out_shape, x_shape, w_shape, padding).end


@in_tasks
def conv2d_relu_max_pool2d_prepare(work, w):
    """Pack or transform the filters, and put them one by one behind. Parallel over panels and blocks of channels."""
    prepare, tasks, sizes = _preparation(w.shape)
    run(prepare, tasks, w, NOTHING, NOTHING, work, sizes)


@functools.lru_cache(1024)
def _preparation(w_shape):
    """The kernel that prepares such filters, its number of tasks, and its numbers."""
    KH, KW, C, F = w_shape
    columns, single, bias, _ = _filters(w_shape)
    panels = -(-F // columns)
    if winograd.applies(w_shape):
        return winograd.prepare_pooled, panels * C // LANES, np.array([C, F, columns, single])
    return _prepare, panels, np.array([KH * KW * C, F, columns, single, bias])


@kernel
def _prepare(task, w, _, __, work, numbers):
    """A panel of filters (K, F) to [panel][k][columns of f], with zeros behind the last, and one by one to
    ``work[single:]``, (F, K); and zeros to where the panel's bias will be."""
    K, F, columns, single, bias = to_fixed_tuple(numbers, 5)
    first = task * columns
    copy_panel(work, first * K, w, 0, F, K, first, columns)
    fill(work, bias + first, columns, np.float32(0))
    for f in range(first, min(F, first + columns)):
        for k in range(K):
            work[single + f * K + k] = w[k * F + f]


@in_tasks
def conv2d_relu_max_pool2d_forward(out, argmax, x, w, b, work, padding):
    """Winograd's products, or plain ones. Parallel over blocks of Winograd's tiles, or images and bands of them."""
    run(_set_bias, 1, b, NOTHING, NOTHING, work, numbers(out.shape, x.shape, w.shape, padding))
    forward, tasks, sizes = _forward(out.shape, x.shape, w.shape, padding)
    run(forward, tasks, out, x, argmax, work, sizes)


@kernel
def _set_bias(task, b, _, __, work, numbers):
    """The bias to where it is filled up with zeros."""
    copy(work, Step(*to_fixed_tuple(numbers, COUNT)).bias, b, 0, b.size)


@in_tasks
def conv2d_relu_max_pool2d_backward(dx, dw, db, dout, argmax, x, w, work, padding, scale):
    """dw and db, parallel over parts of the batch and blocks of filters; then dx, parallel over images."""
    shapes = dout.shape, x.shape, w.shape, padding
    step, settings = plan(*shapes), numbers(*shapes, scale)
    sum_filters, adding = _gradient_of_filters(*shapes)
    run(sum_filters, step.parts * -(-step.F // pooled_backward.block_of(w.shape)), dout, x, argmax, work, settings)
    run(pooled_backward.add_parts, -(-step.KH * step.KW * step.C // LANES), dw, db, NOTHING, work, adding)
    if dx.size:
        run(pooled_backward.make_pixels(*pooled_backward.pixel_tile(w.shape)), step.N, dx, dout, argmax, work, settings)


@functools.lru_cache(1024)
def _gradient_of_filters(out_shape, x_shape, w_shape, padding):
    """The kernel of dw, and the numbers of the one that adds its partial sums."""
    step = plan(out_shape, x_shape, w_shape, padding)
    KH, KW, C, F = w_shape
    K = KH * KW * C
    if pooled_backward.is_sparse(w_shape):
        sums, strides = (
            pooled_backward.make_filters_sparse(*pooled_backward.sparse_tile(KH, KW * C)),
            (K, 1, K * pooled_backward.GROUP),
        )
    elif pooled_backward.is_patch(w_shape):
        sums, strides = pooled_backward.filters_patch, (1, LANES, K * LANES)
    else:
        sums, strides = (
            pooled_backward.make_filters_dense(pooled_backward.dense_rows(K)),
            (1, LANES, step.sum_size - LANES),
        )
    width = pooled_backward.block_of(w_shape)
    part_size = -(-F // width) * step.sum_size
    return sums, np.array([K, F, width, step.parts, step.sums, part_size, step.sum_size, *strides])


@functools.cache
def make_correlate_pool(F):
    """The plain forward kernel, for so many filters: tiles of ``windows`` pooling windows times V vectors."""
    V = tile_shape(F)[1]
    return _make_correlate_pool((REGISTERS - V - 1) // (4 * V), V)


@functools.cache
def _make_correlate_pool(windows, V):
    R = 4 * windows

    @kernel
    def correlate_pool(task, out, x, argmax, work, numbers):
        """out and argmax (N, PH, PW, F) from x (N, H, W, C): a band of pooled rows of one image."""
        s = Step(*to_fixed_tuple(numbers, COUNT))
        columns = V * LANES
        n, band = task // s.pieces, task % s.pieces
        first, last = band * s.PH // s.pieces, (band + 1) * s.PH // s.pieces
        own = s.scratch + numba.get_thread_id() * s.scratch_size
        height = 2 * (last - first) + s.KH - 1
        copied, origin, row_size, _ = read_image(s, x, n, 1, 2 * first - s.top, height, work, own)
        source = work if copied else x
        count, write = (last - first) * s.PW, (n * s.PH + first) * s.PW * s.F
        for column in range(0, s.F, columns):
            filters = column * s.KH * s.KW * s.C
            for window in range(0, count, windows):
                starts = pixel_offsets(window, count - 1, s.PW, 2 * row_size, 2 * s.C, windows)
                reads = window_corners(starts, s.C, row_size)
                tile = tile_load(work, s.bias + column, 0, R, V)
                for k in range(s.KH):
                    for i in range(s.KW * s.C):  # a row of a filter is contiguous, in the image and in the filters
                        place = filters + (k * s.KW * s.C + i) * columns
                        tile = tile_multiply_add(tile, source, reads, origin + k * row_size + i, work, place)
                writes = pixel_offsets(window, count - 1, count, 0, s.F, windows)
                tile_store_pooled(tile, out, argmax, writes, write + column, s.F - column)

    return correlate_pool
