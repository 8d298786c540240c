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
* What runs in parallel (``prange``, whose index Numba takes for unsigned: hence the int64): tasks that each own a
  piece of the result; for dw, a piece of one of a fixed number of partial sums, which are then added in order. Neither
  depends on the number of threads, so nor do the bits.
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
    stay_apart,
    tile_add_scaled,
    tile_load,
    tile_multiply_add,
    tile_relu,
    tile_shape,
    tile_store,
    tile_store_at,
)

CACHED = 96 * 1024  # floats that a task should read again and again, with a panel of filters beside: 3/8 of 1 MiB of L2
BIAS_ROWS = (
    4  # into how many sums db is split, pixel by pixel: independent additions, which need not wait for each other
)
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
    group: int  # dw: panels per task
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
    columns = V * LANES
    panels, sum_size = -(-F // columns), (KH * -(-KW * C // R) * R + R + BIAS_ROWS) * columns
    group = max(1, min(panels, CACHED // 2 // sum_size))
    groups = -(-panels // group)
    pixels = OW * group * columns  # numbers in one row of dout
    rows = _cut(OH, N * groups, lambda rows: window(rows) + rows * pixels, -(-128 // OW))
    images = 1
    if rows == OH:
        images = max(1, min(N * groups // TASKS, 256 // (OH * OW), CACHED // (window(OH) + OH * pixels)))
    units = -(-N // images) * -(-OH // rows)
    parts = min(units, -(-TASKS // groups))

    transposed = panels * KH * KW * C * columns
    bias = transposed + -(-C // (V_T * LANES)) * KH * KW * F * V_T * LANES
    scratch = _lines(bias + max(F, C) + 6 * LANES)
    gradient = images * rows * pixels + BIAS_ROWS * group * columns
    scratch_size = _lines(max(window(forward_rows), window_T(backward_rows), images * window(rows) + gradient) + LANES)
    sums = scratch + numba.config.NUMBA_NUM_THREADS * scratch_size
    end = sums + parts * panels * sum_size
    return Layout(
        transposed, bias, scratch, scratch_size, sums, end, forward_rows, backward_rows, images, rows, group, parts
    )


def _lines(size):
    """A size in floats, rounded up to whole cache lines."""
    return -(-size // 16) * 16


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
    cut = (plan.images, plan.rows, plan.group, plan.parts)
    places = (plan.scratch, plan.scratch_size, plan.sums)
    correlate_gradient(dw, db, dout, x, work, strides, padding, dilation, cut, places)
    if dx.size:
        correlate = make_correlate(*tile_shape(C))
        places = (plan.transposed, plan.bias, plan.scratch, plan.scratch_size)
        correlate(
            dx, dout, _NO_BIAS, work, (KH, KW), strides, padding, dilation, True, False, plan.backward_rows, places
        )


class Axis(NamedTuple):
    """How one axis of a correlation goes.

    Pixel q, 0 <= q < count, of the result stands at ``residue + q * write_step``; tap t, 0 <= t < taps, is number
    ``k + t * k_step`` of the filter, and meets the image's pixel ``read + q * read_step + t * tap_step``.
    """

    count: int
    read: int
    read_step: int
    write_step: int
    taps: int
    tap_step: int
    k: int
    k_step: int


@jit
def _axis(transposed, residue, size, K, s, d, p):
    """Forward, an axis is the definition of a convolution: output q and tap k meet pixel ``q * s + k * d - p``.

    Transposed, pixel y of dx collects from all i and k with ``i * s + k * d - p = y``. Among the y of one residue,
    y = residue + q * s, these are the same k for all: every (s / gcd)-th from the smallest on for which
    ``(residue + p - k * d) % s == 0``; and i goes down by d / gcd from tap to tap.
    """
    if not transposed:
        return Axis(size, -p, s, 1, K, d, 0, 1)
    k = 0
    while k < K and (residue + p - k * d) % s:
        k += 1
    k_step = 1
    while (k_step * d) % s:
        k_step += 1
    taps = max(0, (K - k + k_step - 1) // k_step)
    return Axis((size - residue + s - 1) // s, (residue + p - k * d) // s, 1, s, taps, -(k_step * d // s), k, k_step)


@jit
def _taps_inside(axis, first, last, size):
    """Which taps, from and to, meet the image's ``size`` pixels for some of the result's pixels ``first .. last``."""
    start, stop = 0, axis.taps
    low, high = axis.read + first * axis.read_step, axis.read + last * axis.read_step
    while start < stop and (high + start * axis.tap_step < 0 or low + start * axis.tap_step >= size):
        start += 1
    while start < stop and (high + (stop - 1) * axis.tap_step < 0 or low + (stop - 1) * axis.tap_step >= size):
        stop -= 1
    return start, stop


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


@functools.cache
def make_correlate(R, V):
    """The kernel of forward and dx for tiles of R pixels times V vectors."""

    @jit
    def correlate_panel(out, image, work, vertical, horizontal, places, sizes, first, last, relu):
        """One panel of the rows first .. last - 1 of the result, tile by tile."""
        stay_apart()
        read, write, filters, bias, columns = places
        H, row_size, C, KW, out_row_size, F = sizes
        width = horizontal.count
        taps, run = horizontal.taps, C
        if horizontal.tap_step == 1 and horizontal.k_step == 1:  # neighbouring taps are one run of numbers
            taps, run = 1, horizontal.taps * C
        pixels = last * width
        for pixel in range(first * width, pixels, R):
            start, stop = _taps_inside(vertical, pixel // width, (min(pixel + R, pixels) - 1) // width, H)
            reads = pixel_offsets(pixel, pixels - 1, width, vertical.read_step * row_size, horizontal.read_step * C, R)
            tile = tile_load(work, bias, 0, R, V)
            for t in range(start, stop):
                for u in range(taps):
                    here = read + t * vertical.tap_step * row_size + u * horizontal.tap_step * C
                    tap = (vertical.k + t * vertical.k_step) * KW + horizontal.k + u * horizontal.k_step
                    row = filters + tap * C * V * LANES
                    for c in range(run):
                        tile = tile_multiply_add(tile, image, reads, here + c, work, row + c * V * LANES)
            if relu:
                tile = tile_relu(tile)
            writes = pixel_offsets(
                pixel, pixels - 1, width, vertical.write_step * out_row_size, horizontal.write_step * F, R
            )
            tile_store_at(tile, out, writes, write, columns)

    @jit
    def correlate_rows(task, out, image, work, filter_size, strides, padding, dilation, transposed, relu, rows, places):
        """One task of ``correlate``: ``rows`` rows (steps of the stride) of one image, all panels."""
        N, H, W, C = image.shape
        N, OH, OW, F = out.shape
        KH, KW = filter_size
        filters, bias, scratch, scratch_size = places
        step, step_w = strides if transposed else (1, 1)
        bands = -(-OH // (rows * step))
        n, first = task // bands, task % bands * rows
        last = min((first + rows) * step, OH) - 1
        top, height = _window(transposed, first * step, last, KH, strides[0], dilation[0], padding[0])
        left, width = _window(transposed, 0, OW - 1, KW, strides[1], dilation[1], padding[1])
        if top >= 0 and left >= 0 and top + height <= H and left + width <= W:
            source, origin, row_size = image.reshape(-1), n * H * W * C, W * C
        else:
            source, origin, row_size = work, scratch + numba.get_thread_id() * scratch_size, width * C
            _copy_window(work, origin, image, n, top, left, height, width)
            origin -= (top * width + left) * C  # where pixel (0, 0) of the image would be
        sizes = (H, row_size, C, KW, OW * F, F)
        for residues in range(step * step_w):
            v = _axis(transposed, residues // step_w, OH, KH, strides[0], dilation[0], padding[0])
            h = _axis(transposed, residues % step_w, OW, KW, strides[1], dilation[1], padding[1])
            read = origin + v.read * row_size + h.read * C
            write = ((n * OH + residues // step_w) * OW + residues % step_w) * F
            for column in range(0, F, V * LANES):
                places = (read, write + column, filters + column * KH * KW * C, bias + column, F - column)
                last = min(first + rows, v.count)
                correlate_panel(out.reshape(-1), source, work, v, h, places, sizes, first, last, relu)

    @jit(parallel=True)
    def correlate(out, image, b, work, filter_size, strides, padding, dilation, transposed, relu, rows, places):
        """out (N, OH, OW, F) from image (N, H, W, C): correlated, plus b (F,) or, if that is empty, nothing."""
        N, OH, OW, F = out.shape
        bias = work[places[1] : places[1] + -(-F // (V * LANES)) * V * LANES]
        _fill(bias, 0, bias.size, np.float32(0))
        _copy(bias, 0, b, 0, b.size)
        step = strides[0] if transposed else 1
        for index in prange(N * -(-OH // (rows * step))):
            correlate_rows(
                np.int64(index),
                out,
                image,
                work,
                filter_size,
                strides,
                padding,
                dilation,
                transposed,
                relu,
                rows,
                places,
            )

    return correlate


@functools.cache
def make_correlate_gradient(R, V):
    """The kernel of dw and db for tiles of R numbers of a window times V vectors of filters."""

    @jit
    def add_products(work, total, gradient, image, reads, here, steps, counts):
        """Add to the tile at ``work[total:]`` the numbers of the windows times dout, pixel after pixel.

        dout is the panel at ``work[gradient:]``; the windows begin at ``image[here:]`` and lie ``steps`` apart, as many
        as ``counts`` says: along images, rows and columns. ``reads`` says where in a window the tile's numbers are.
        """
        stay_apart()
        tile = tile_load(work, total, V * LANES, R, V)
        for n in range(counts[0]):
            for i in range(counts[1]):
                row = here + n * steps[0] + i * steps[1]
                for j in range(counts[2]):
                    tile = tile_multiply_add(tile, image, reads, row + j * steps[2], work, gradient + j * V * LANES)
                gradient += counts[2] * V * LANES
        tile_store(tile, work, total, V * LANES)

    @jit
    def add_bias(work, total, gradient, pixels):
        """Add to the BIAS_ROWS sums at ``work[total:]`` the pixels of dout, in turn."""
        stay_apart()
        tile = tile_load(work, total, V * LANES, BIAS_ROWS, V)
        for pixel in range(0, pixels, BIAS_ROWS):
            tile = tile_add_scaled(tile, np.float32(1), work, gradient + pixel * V * LANES, V * LANES)
        tile_store(tile, work, total, V * LANES)

    @jit
    def add_unit(unit, panels, dout, x, work, filter_size, strides, padding, dilation, cut, places):
        """Add a unit's part of dw and db, for the given panels (first and count), to the sums at ``work[total:]``."""
        N, OH, OW, F = dout.shape
        N, H, W, C = x.shape
        KH, KW = filter_size
        images, rows, slices, slice_rows = cut
        gradient, total = places
        bands = -(-OH // rows)
        n, first = unit // bands * images, unit % bands * rows
        counts = (min(images, N - n), min(rows, OH - first), OW)
        pixels = counts[0] * counts[1] * OW
        size = -(-pixels // BIAS_ROWS) * BIAS_ROWS * V * LANES
        for j in range(panels[1]):
            at = gradient + j * size
            _copy_panel(work, at, dout, n, counts, first, (panels[0] + j) * V * LANES, V * LANES)
            _fill(work, at + pixels * V * LANES, size - pixels * V * LANES, np.float32(0))
        top, height = _window(False, first, first + counts[1] - 1, KH, strides[0], dilation[0], padding[0])
        left, width = _window(False, 0, OW - 1, KW, strides[1], dilation[1], padding[1])
        if top >= 0 and left >= 0 and top + height <= H and left + width <= W:
            source, origin = x.reshape(-1), ((n * H + top) * W + left) * C
            row_size, image_size = W * C, H * W * C
        else:
            source, origin = work, gradient + panels[1] * size
            row_size, image_size = width * C, height * width * C
            for i in range(counts[0]):
                _copy_window(work, origin + i * image_size, x, n + i, top, left, height, width)
        steps = (image_size, strides[0] * row_size, strides[1] * C)
        # The window's numbers, or each slice of them, lie in runs at one distance.
        run, distance = (KW * C, dilation[0] * row_size) if dilation[1] == 1 else (C, dilation[1] * C)
        slice_size = KH * KW * C // slices
        for j in range(panels[1]):
            at = gradient + j * size
            for slice_ in range(slices):
                here = origin + slice_ * dilation[0] * row_size
                for row in range(0, slice_size, R):
                    reads = pixel_offsets(row, slice_size - 1, run, distance, 1, R)
                    add_products(work, total + row * V * LANES, at, source, reads, here, steps, counts)
                total += slice_rows * V * LANES
            add_bias(work, total, at, pixels)
            total += BIAS_ROWS * V * LANES

    @jit
    def add_units(task, dout, x, work, filter_size, strides, padding, dilation, cut, places):
        """One task of ``correlate_gradient``: a group of panels of one partial sum."""
        N, OH, OW, F = dout.shape
        KH, KW = filter_size
        images, rows, group, parts = cut
        scratch, scratch_size, sums = places
        panels, units = -(-F // (V * LANES)), -(-N // images) * -(-OH // rows)
        groups = -(-panels // group)
        part, panel = task // groups, task % groups * group
        count = min(group, panels - panel)
        slices, slice_rows, sum_size = sum_shape(filter_size, x.shape[3], dilation)
        total = sums + (part * panels + panel) * sum_size
        gradient = scratch + numba.get_thread_id() * scratch_size
        _fill(work, total, count * sum_size, np.float32(0))
        for unit in range(part * units // parts, (part + 1) * units // parts):
            add_unit(
                unit,
                (panel, count),
                dout,
                x,
                work,
                filter_size,
                strides,
                padding,
                dilation,
                (images, rows, slices, slice_rows),
                (gradient, total),
            )

    @jit
    def sum_shape(filter_size, C, dilation):
        """Into how many slices a window is cut, the rows of each's sums, and the floats of a panel's sums.

        The places of a window's numbers have a pattern of two strides, unless there is dilation: then those of each
        row have.
        """
        KH, KW = filter_size
        slices = 1 if dilation[1] == 1 else KH
        slice_rows = -(-KH * KW * C // slices // R) * R
        return slices, slice_rows, (slices * slice_rows + BIAS_ROWS) * V * LANES

    @jit(parallel=True)
    def correlate_gradient(dw, db, dout, x, work, strides, padding, dilation, cut, places):
        """dw (KH, KW, C, F) and db (F,) from dout and x.

        A task owns a group of panels of one partial sum. It goes through its units, each ``images`` images or ``rows``
        rows of one image: small enough that what it reads of x and dout stays in the cache for all of the tiles.
        """
        KH, KW, C, F = dw.shape
        group, parts = cut[2:]
        groups = -(-F // (group * V * LANES))
        for index in prange(parts * groups):
            add_units(np.int64(index), dout, x, work, (KH, KW), strides, padding, dilation, cut, places)
        slices, slice_rows, sum_size = sum_shape((KH, KW), C, dilation)
        for index in prange(KH * KW * C):
            row = np.int64(index)
            slice_size = KH * KW * C // slices
            at = places[2] + (row // slice_size * slice_rows + row % slice_size) * V * LANES
            _add_parts(dw.reshape(KH * KW * C, F)[row], work, at, parts, sum_size, V * LANES, False)
        _add_parts(db, work, places[2] + slices * slice_rows * V * LANES, parts, sum_size, V * LANES, True)

    return correlate_gradient


@jit
def _copy_panel(target, at, dout, n, counts, first, column, columns):
    """Copy ``columns`` filters from ``column`` on, of images n.. and rows first.. of dout (as many as ``counts`` says),
    to ``target[at:]``, (pixels, columns), with zeros behind the last filter."""
    N, OH, OW, F = dout.shape
    count, flat = min(columns, F - column), dout.reshape(-1)
    for i in range(counts[0]):
        for j in range(first, first + counts[1]):
            for l in range(OW):
                _copy(target, at, flat, (((n + i) * OH + j) * OW + l) * F + column, count)
                _fill(target, at + count, columns - count, np.float32(0))
                at += columns


@jit
def _add_parts(row, work, at, parts, sum_size, columns, bias):
    """A row of dw, or the bias: add up its partial sums, which lie panel by panel from ``work[at:]`` on, in order."""
    F = len(row)
    panels = -(-F // columns)
    _fill(row, 0, F, np.float32(0))
    for panel in range(panels):
        first = panel * columns
        for part in range(parts):
            place = at + (part * panels + panel) * sum_size
            for i in range(BIAS_ROWS if bias else 1):
                _add(row, first, work, place + i * columns, min(columns, F - first))


@jit
def _add(target, at, source, start, size):
    """target[at : at + size] += source[start : start + size]."""
    line, numbers = target[at : at + size], source[start : start + size]
    for i in range(size):
        line[i] += numbers[i]
