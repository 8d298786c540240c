"""Convolutions of any shape, stride, padding and dilation, on the register tile (see ``tile.py``).

Forward and dx are one kernel, ``correlate``: a pixel of the result is a sum, over the filter's taps, of a pixel of the
image times a matrix. For dx the "image" is dout and the matrices are transposed, and with strides the pixels fall into
classes of which each meets its own taps (see ``_axis``). The tile is R pixels times V vectors of filters; its reduction
runs over taps and channels. dw is ``correlate_gradient``: its tile is R numbers of a window times V vectors of
filters, and its reduction runs over pixels.

* Filters are packed by ``conv2d_prepare`` in *panels* of V vectors, filled up with zeros: what the inner loop reads is
  contiguous and has no tail.
* Where windows reach over the edge of the image, the rows that a task needs are first copied into its thread's
  scratch, with a border of zeros: the inner loop has no bounds tests, and the copy stays in the L2 cache.
* What runs in parallel (``prange``, whose index Numba takes for unsigned: hence the int64): tasks that each own a piece of the result; for dw, a piece of one of a fixed number of partial
  sums, which are then added in order. Neither depends on the number of threads, so nor do the bits.
"""

import functools
from typing import NamedTuple

import numba
import numpy as np
from numba import prange

from tinyconv.kernels.cpu.jit import jit
from tinyconv.kernels.cpu.tile import (
    LANES,
    pixel_offsets,
    tile_add_scaled,
    tile_load,
    tile_multiply_add,
    tile_relu,
    tile_shape,
    tile_store,
    tile_store_at,
)

CACHED = 96 * 1024  # floats that a task should read again and again, with a panel of filters beside: 3/8 of 1 MiB of L2
TASKS = 16  # into how many tasks a kernel is cut where the shapes allow: enough for some cores, few enough to be cheap
_NO_BIAS = np.zeros(0, np.float32)


class Layout(NamedTuple):
    """How a convolution is cut into tasks, and where everything lies in ``work`` (in floats)."""

    transposed: int  # the packed transposed filters; before them, at 0, the packed filters
    bias: int  # the bias, filled up to whole panels
    scratch: int  # one scratch for each thread
    scratch_size: int
    sums: int  # the partial sums of dw, and behind each of db
    end: int
    forward_rows: int  # rows of the result per task
    backward_rows: int  # rows of the result per task, in steps of the stride
    images: int  # dw: images per unit
    rows: int  # dw: rows of dout per unit; all of them, if images > 1
    parts: int  # dw: how many partial sums


@functools.lru_cache(1024)
def layout(out_shape, x_shape, w_shape, strides, dilation):
    """The layout of a convolution; see the class."""
    N, OH, OW, F = out_shape
    N, H, W, C = x_shape
    KH, KW, C, F = w_shape
    (R, V), (R_T, V_T) = tile_shape(F), tile_shape(C)
    reach = [(k - 1) * d for k, d in zip((KH, KW), dilation, strict=True)]

    def window(rows):
        return ((rows - 1) * strides[0] + reach[0] + 1) * ((OW - 1) * strides[1] + reach[1] + 1) * C

    def window_T(rows):
        return ((rows * strides[0] + reach[0]) // strides[0] + 2) * ((W + reach[1]) // strides[1] + 2) * F

    forward_rows = _cut(OH, N, lambda rows: window(rows), -(-2 * R // OW))
    backward_rows = _cut(-(-H // strides[0]), N, lambda rows: window_T(rows), -(-2 * R_T * strides[1] // W))
    panels = -(-F // (V * LANES))
    pixels = OW * V * LANES  # of one row of a panel of dout
    rows = _cut(OH, N * panels, lambda rows: window(rows) + rows * pixels, -(-128 // OW))
    images = 1
    if rows == OH:
        images = max(1, min(N * panels // TASKS, 256 // (OH * OW), CACHED // (window(OH) + OH * pixels)))
    units = -(-N // images) * -(-OH // rows)
    parts = min(units, -(-TASKS // panels))

    transposed = panels * KH * KW * C * V * LANES
    bias = transposed + -(-C // (V_T * LANES)) * KH * KW * F * V_T * LANES
    scratch = bias + max(F, C) + 4 * LANES
    scratch = -(-scratch // 16) * 16
    scratch_size = max(window(forward_rows), window_T(backward_rows), images * (window(rows) + rows * pixels))
    scratch_size = -(-scratch_size // 16) * 16 + 16
    sums = scratch + numba.config.NUMBA_NUM_THREADS * scratch_size
    end = sums + parts * panels * (KH * -(-KW * C // R) * R + R + 1) * V * LANES
    return Layout(transposed, bias, scratch, scratch_size, sums, end, forward_rows, backward_rows, images, rows, parts)


def _cut(rows, images, size, least):
    """How many of an image's ``rows`` a task takes: few enough that their ``size(rows)`` is at most CACHED and that
    there are TASKS tasks, but not fewer than ``least``."""
    bands = min(-(-TASKS // images), max(1, rows // least))
    while bands < rows and size(-(-rows // bands)) > CACHED:
        bands += 1
    return -(-rows // bands)


def conv2d_workspace(out_shape, x_shape, w_shape, strides, padding, dilation):
    """Packed filters, bias, scratch and partial sums: see ``Layout``."""
    return layout(out_shape, x_shape, w_shape, strides, dilation).end


def conv2d_prepare(work, w):
    """Pack the filters, and the transposed filters behind them. Parallel over panels and taps."""
    KH, KW, C, F = w.shape
    V, V_T = tile_shape(F)[1], tile_shape(C)[1]
    _pack(work, w, V * LANES, V_T * LANES)


@jit(parallel=True)
def _pack(work, w, columns, columns_T):
    """Pack to [panel][tap][c][columns of f], and to [panel][tap][f][columns of c]. w (KH, KW, C, F)."""
    KH, KW, C, F = w.shape
    panels, panels_T, taps = -(-F // columns), -(-C // columns_T), KH * KW
    transposed = panels * taps * C * columns
    for index in prange((panels + panels_T) * taps):
        task = np.int64(index)
        panel, tap = divmod(task, taps)
        matrix = w[tap // KW, tap % KW]
        if panel < panels:
            at, first, count = task * C * columns, panel * columns, min(columns, F - panel * columns)
            for c in range(C):
                line, numbers = work[at + c * columns : at + (c + 1) * columns], matrix[c, first : first + count]
                for f in range(count):
                    line[f] = numbers[f]
                for f in range(count, columns):
                    line[f] = 0
        else:
            first = (panel - panels) * columns_T
            at, count = transposed + (task - panels * taps) * F * columns_T, min(columns_T, C - first)
            for f in range(F):
                for c in range(columns_T):
                    work[at + f * columns_T + c] = matrix[first + c, f] if c < count else np.float32(0)


def conv2d_forward(out, x, w, b, work, strides, padding, dilation, relu):
    """Parallel over images and bands of rows; in a task, panel by panel, tile by tile."""
    KH, KW, C, F = w.shape
    plan = layout(out.shape, x.shape, w.shape, strides, dilation)
    correlate = make_correlate(*tile_shape(F))
    places = (0, plan.bias, plan.scratch, plan.scratch_size)
    correlate(out, x, b, work, (KH, KW), strides, padding, dilation, False, relu, plan.forward_rows, places)


def conv2d_backward(dx, dw, db, dout, x, w, work, strides, padding, dilation):
    """dw and db, parallel over panels and partial sums; then dx, parallel over images and bands of rows."""
    KH, KW, C, F = w.shape
    plan = layout(dout.shape, x.shape, w.shape, strides, dilation)
    correlate_gradient = make_correlate_gradient(*tile_shape(F))
    places = (plan.scratch, plan.scratch_size, plan.sums)
    correlate_gradient(dw, db, dout, x, work, strides, padding, dilation, plan.images, plan.rows, plan.parts, places)
    if dx.size:
        correlate = make_correlate(*tile_shape(C))
        places = (plan.transposed, plan.bias, plan.scratch, plan.scratch_size)
        correlate(
            dx, dout, _NO_BIAS, work, (KH, KW), strides, padding, dilation, True, False, plan.backward_rows, places
        )


@jit
def _axis(transposed, residue, size, K, s, d, p):
    """How one axis of a correlation goes: (count, read, read_step, write_step, taps, tap_step, k, k_step).

    Pixel q, 0 <= q < count, of the result stands at ``residue + q * write_step``; tap t, 0 <= t < taps, is number
    ``k + t * k_step`` of the filter, and meets the image's pixel ``read + q * read_step + t * tap_step``.

    Forward, that is the definition of a convolution. Transposed, pixel y of dx collects from all i and k with
    ``i * s + k * d - p = y``. Among the y of one residue, y = residue + q * s, these are the same k for all: every
    (s / gcd)-th from the smallest with ``(residue + p - k * d) % s == 0`` on; i goes down by d / gcd from tap to tap.
    """
    if not transposed:
        return size, -p, s, 1, K, d, 0, 1
    k = 0
    while k < K and (residue + p - k * d) % s:
        k += 1
    k_step = 1
    while (k_step * d) % s:
        k_step += 1
    taps = max(0, (K - k + k_step - 1) // k_step)
    return (size - residue + s - 1) // s, (residue + p - k * d) // s, 1, s, taps, -(k_step * d // s), k, k_step


@jit
def _window(transposed, first, last, K, s, d, p):
    """The first pixel of the image that the pixels ``first .. last`` of the result meet, and how many from there on."""
    if transposed:
        start = (first + p - (K - 1) * d) // s
        return start, (last + p) // s - start + 1
    return first * s - p, (last - first) * s + (K - 1) * d + 1


@jit
def _copy_window(target, at, image, n, top, left, height, width):
    """Copy rows top.. and columns left.. of image n to ``target[at:]``, (height, width, C), with zeros outside."""
    N, H, W, C = image.shape
    flat = image.reshape(-1)
    before = min(max(0, -left), width)
    inside = max(0, min(W, left + width) - max(0, left))
    for row in range(top, top + height):
        if 0 <= row < H and inside:
            start = ((n * H + row) * W + left + before) * C
            _fill(target, at, before * C, np.float32(0))
            _copy(target, at + before * C, flat, start, inside * C)
            _fill(target, at + (before + inside) * C, (width - before - inside) * C, np.float32(0))
        else:
            _fill(target, at, width * C, np.float32(0))
        at += width * C


@jit
def _copy(target, at, source, start, size):
    """target[at : at + size] = source[start : start + size], as slices: then the compiler knows that no index is
    negative, and moves whole vectors."""
    line, numbers = target[at : at + size], source[start : start + size]
    for i in range(size):
        line[i] = numbers[i]


@jit
def _fill(target, at, size, value):
    """target[at : at + size] = value."""
    line = target[at : at + size]
    for i in range(size):
        line[i] = value


@jit(forceinline=True)
def _add_taps(tile, image, reads, read, steps, filters, at, tap_size, KW, taps, ks, run, columns):
    """Add to the tile, tap after tap, ``run`` numbers of each pixel times ``run`` rows of the packed filters."""
    for t in range(taps[0]):
        for u in range(taps[1]):
            here = read + t * steps[0] + u * steps[1]
            row = at + ((ks[0] + t * ks[2]) * KW + ks[1] + u * ks[3]) * tap_size
            for c in range(run):
                tile = tile_multiply_add(tile, image, reads, here + c, filters, row + c * columns)
    return tile


@functools.cache
def make_correlate(R, V):
    """The kernel of forward and dx for tiles of R pixels times V vectors."""

    @jit(parallel=True)
    def correlate(out, image, b, work, filter_size, strides, padding, dilation, transposed, relu, rows, places):
        """out (N, OH, OW, F) from image (N, H, W, C), in tasks of ``rows`` rows (steps of the stride) of one image."""
        N, H, W, C = image.shape
        N, OH, OW, F = out.shape
        KH, KW = filter_size
        filters, bias, scratch, scratch_size = places
        step, step_w = strides if transposed else (1, 1)
        columns = V * LANES
        panels, panel_size = -(-F // columns), KH * KW * C * columns
        for f in range(panels * columns):
            work[bias + f] = b[f] if f < b.size else np.float32(0)
        bands = -(-OH // (rows * step))
        flat_image, flat_out = image.reshape(-1), out.reshape(-1)
        for index in prange(N * bands):
            task = np.int64(index)
            n, first = task // bands, task % bands * rows
            last = min((first + rows) * step, OH) - 1
            top, height = _window(transposed, first * step, last, KH, strides[0], dilation[0], padding[0])
            left, width = _window(transposed, 0, OW - 1, KW, strides[1], dilation[1], padding[1])
            if top >= 0 and left >= 0 and top + height <= H and left + width <= W:
                source, origin, row_size = flat_image, n * H * W * C, W * C
            else:
                source, origin = work, scratch + numba.get_thread_id() * scratch_size
                row_size = width * C
                _copy_window(work, origin, image, n, top, left, height, width)
                origin -= (top * width + left) * C
            for residues in range(step * step_w):
                v = _axis(transposed, residues // step_w, OH, KH, strides[0], dilation[0], padding[0])
                h = _axis(transposed, residues % step_w, OW, KW, strides[1], dilation[1], padding[1])
                taps, run, tap_step = (v[4], h[4]), C, h[5] * C
                if tap_step == C and h[7] == 1:  # neighbouring taps are one run, in the image and in the filters
                    taps, run = (v[4], 1), h[4] * C
                read = origin + (v[1] + first * v[2]) * row_size + h[1] * C
                write = ((n * OH + residues // step_w + first * v[3]) * OW + residues % step_w) * F
                pixels = (min(first + rows, v[0]) - first) * h[0]
                for panel in range(panels):
                    for pixel in range(0, pixels, R):
                        reads = pixel_offsets(pixel, pixels - 1, h[0], v[2] * row_size, h[2] * C, R)
                        tile = tile_load(work, bias + panel * columns, 0, R, V)
                        tile = _add_taps(
                            tile,
                            source,
                            reads,
                            read,
                            (v[5] * row_size, tap_step),
                            work,
                            filters + panel * panel_size,
                            C * columns,
                            KW,
                            taps,
                            (v[6], h[6], v[7], h[7]),
                            run,
                            columns,
                        )
                        if relu:
                            tile = tile_relu(tile)
                        writes = pixel_offsets(pixel, pixels - 1, h[0], v[3] * OW * F, h[3] * F, R)
                        tile_store_at(tile, flat_out, writes, write + panel * columns, F - panel * columns)

    return correlate


@functools.cache
def make_correlate_gradient(R, V):
    """The kernel of dw and db for tiles of R numbers of a window times V vectors of filters."""

    @jit(parallel=True)
    def correlate_gradient(dw, db, dout, x, work, strides, padding, dilation, images, rows, parts, places):
        """dw (KH, KW, C, F) and db (F,) from dout and x, in units of ``images`` images or ``rows`` rows of one image.

        Work through the units in order, each a reduction with the tile in registers, and add up in the partial sums
        of the task.
        """
        N, OH, OW, F = dout.shape
        N, H, W, C = x.shape
        KH, KW, C, F = dw.shape
        scratch, scratch_size, sums = places
        columns = V * LANES
        panels, bands = -(-F // columns), -(-OH // rows)
        units = -(-N // images) * bands
        slices, run = (1, KW * C) if dilation[1] == 1 else (KH, C)  # numbers of a window whose places have a pattern
        slice_size = KH * KW * C // slices
        sum_rows = -(-slice_size // R) * R
        sum_size = (slices * sum_rows + 1) * columns
        flat_x = x.reshape(-1)
        for index in prange(parts * panels):
            task = np.int64(index)
            part, panel = task // panels, task % panels
            total = sums + task * sum_size
            _fill(work, total, sum_size, np.float32(0))
            for unit in range(part * units // parts, (part + 1) * units // parts):
                n, first = unit // bands * images, unit % bands * rows
                count, last = min(images, N - n), min(first + rows, OH)
                gradient = scratch + numba.get_thread_id() * scratch_size
                copy = gradient + count * (last - first) * OW * columns
                _copy_panel(work, gradient, dout, n, count, first, last, panel * columns, columns)
                top, height = _window(False, first, last - 1, KH, strides[0], dilation[0], padding[0])
                left, width = _window(False, 0, OW - 1, KW, strides[1], dilation[1], padding[1])
                if top >= 0 and left >= 0 and top + height <= H and left + width <= W:
                    source, origin, row_size, image_size = flat_x, ((n * H + top) * W + left) * C, W * C, H * W * C
                else:
                    source, origin, row_size, image_size = work, copy, width * C, height * width * C
                    for i in range(count):
                        _copy_window(work, copy + i * image_size, x, n + i, top, left, height, width)
                for slice_ in range(slices):
                    base = origin + slice_ * dilation[0] * row_size
                    for row in range(0, slice_size, R):
                        stride = dilation[0] * row_size if slices == 1 else dilation[1] * C
                        reads = pixel_offsets(row, slice_size - 1, run, stride, 1, R)
                        place = total + (slice_ * sum_rows + row) * columns
                        tile = tile_load(work, place, columns, R, V)
                        at = gradient
                        for i in range(count):
                            for j in range(last - first):
                                here = base + i * image_size + j * strides[0] * row_size
                                for l in range(OW):
                                    tile = tile_multiply_add(tile, source, reads, here + l * strides[1] * C, work, at)
                                    at += columns
                        tile_store(tile, work, place, columns)
                bias = tile_load(work, total + slices * sum_rows * columns, 0, 1, V)
                for i in range(count * (last - first) * OW):
                    bias = tile_add_scaled(bias, np.float32(1), work, gradient + i * columns, 0)
                tile_store(bias, work, total + slices * sum_rows * columns, 0)
        _add_parts(dw, db, work, sums, parts, sum_size, slices, sum_rows, columns)

    return correlate_gradient


@jit
def _copy_panel(target, at, dout, n, images, first, last, column, columns):
    """Copy ``columns`` filters from ``column`` on, of rows first .. last - 1 of ``images`` images from n on, to
    ``target[at:]``, (pixels, columns), with zeros behind the last filter."""
    N, OH, OW, F = dout.shape
    count, flat = min(columns, F - column), dout.reshape(-1)
    for i in range(images):
        for j in range(first, last):
            for l in range(OW):
                _copy(target, at, flat, (((n + i) * OH + j) * OW + l) * F + column, count)
                _fill(target, at + count, columns - count, np.float32(0))
                at += columns


@jit(parallel=True)
def _add_parts(dw, db, work, sums, parts, sum_size, slices, sum_rows, columns):
    """Add the partial sums of dw and db in order. Parallel over the rows of dw (a row: all filters)."""
    KH, KW, C, F = dw.shape
    rows = KH * KW * C
    flat = dw.reshape(rows, F)
    panels = -(-F // columns)
    for index in prange(rows + 1):
        row = np.int64(index)
        at = slices * sum_rows if row == rows else row // (rows // slices) * sum_rows + row % (rows // slices)
        result = db if row == rows else flat[row]
        for panel in range(panels):
            first = panel * columns
            count = min(columns, F - first)
            total = result[first : first + count]
            for part in range(parts):
                place = sums + (part * panels + panel) * sum_size + at * columns
                numbers = work[place : place + count]
                if part == 0:
                    for f in range(count):
                        total[f] = numbers[f]
                else:
                    for f in range(count):
                        total[f] += numbers[f]
