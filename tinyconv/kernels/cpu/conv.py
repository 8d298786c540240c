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
* Parallel over tasks (see ``tasks.py``) that each own a piece of the result; for dw, a piece of one of a fixed number
  of partial sums, which are then added in order. Neither depends on the number of threads, so nor do the bits.

``work`` holds the packed filters, the packed transposed filters, a scratch for each thread, and the partial sums.
"""

import functools
from typing import NamedTuple

import numba
import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple

from tinyconv.kernels.cpu.copying import add, copy, copy_panel, copy_window, fill, pack
from tinyconv.kernels.cpu.tasks import NOTHING, helper, in_tasks, kernel, run
from tinyconv.kernels.cpu.tile import (
    LANES,
    pixel_offsets,
    prefetch,
    tile_add_products,
    tile_add_scaled,
    tile_load,
    tile_prefetch_at,
    tile_relu,
    tile_shape,
    tile_store,
    tile_store_at,
)

CACHED = 96 * 1024  # floats that a task should read again and again, with a panel of filters beside: 3/8 of 1 MiB of L2
TASKS = 16  # into how many tasks a kernel is cut where the shapes allow: enough for some cores, few enough to be cheap
BIAS_ROWS = 4  # db is added up in four sums, pixel by pixel in turn: additions that need not wait for each other


class Numbers(NamedTuple):
    """What a kernel must know: shapes, how they are cut into tasks, and where in ``work`` things are (in floats)."""

    N: int  # images
    H: int  # of what is read: x, or dout for dx
    W: int
    C: int
    OH: int  # of the result: out, or dx; for dw, of dout
    OW: int
    F: int
    KH: int
    KW: int
    stride: int
    stride_w: int
    top: int  # the padding
    left: int
    dilation: int
    dilation_w: int
    transposed: int  # whether this is dx
    relu: int
    images: int  # dw: images per unit
    rows: int  # rows of the result (dx: times the stride) per task; dw: rows of dout per unit, all if images > 1
    group: int  # panels whose filters stay in the cache while the tiles go by; dw: panels per task
    parts: int  # dw: how many partial sums
    filters: int
    scratch: int
    scratch_size: int
    sums: int


class Plan(NamedTuple):
    """The numbers of each kernel, and how many tasks it has; and the size of ``work``."""

    forward: tuple[np.ndarray, int]
    dx: tuple[np.ndarray, int]
    dw: tuple[np.ndarray, int]
    size: int


_COUNT = len(Numbers._fields)


@functools.lru_cache(1024)
def plan(out_shape, x_shape, w_shape, strides, padding, dilation, relu=False):
    """How a convolution is cut into tasks."""
    N, OH, OW, F = out_shape
    N, H, W, C = x_shape
    KH, KW, C, F = w_shape
    (R, V), (R_T, V_T) = tile_shape(F), tile_shape(C)
    columns, columns_T = V * LANES, V_T * LANES
    reach, reach_w = ((k - 1) * d for k, d in zip((KH, KW), dilation, strict=True))

    def window(rows):  # floats of x under so many rows of out
        return ((rows - 1) * strides[0] + reach + 1) * ((OW - 1) * strides[1] + reach_w + 1) * C

    def window_T(rows):  # floats of dout over so many (times the stride) rows of dx
        return ((rows * strides[0] + reach) // strides[0] + 2) * ((W + reach_w) // strides[1] + 2) * F

    rows = _cut(OH, N, window, -(-2 * R // OW))
    rows_T = _cut(-(-H // strides[0]), N, window_T, -(-2 * R_T * strides[1] // W))
    panels, sum_size = -(-F // columns), _sum_size(KH, KW * C, R, dilation[1] > 1) * columns
    cached, cached_T = (max(1, CACHED // (KH * KW * size)) for size in (C * columns, F * columns_T))
    group = max(1, min(panels, CACHED // 2 // sum_size))
    groups = -(-panels // group)
    gradient = OW * group * columns  # floats of a row of dout
    unit_rows = _cut(OH, N * groups, lambda rows: window(rows) + rows * gradient, -(-128 // OW))
    images = 1
    if unit_rows == OH:
        images = max(1, min(N * groups // TASKS, 256 // (OH * OW), CACHED // (window(OH) + OH * gradient)))
    units = -(-N // images) * -(-OH // unit_rows)
    parts = min(units, -(-TASKS // groups))

    transposed = panels * KH * KW * C * columns
    scratch = _lines(transposed + -(-C // columns_T) * KH * KW * F * columns_T)
    unit = images * (window(unit_rows) + unit_rows * gradient) + BIAS_ROWS * group * columns
    scratch_size = _lines(max(window(rows) + F, window_T(rows_T) + C, unit) + 4 * LANES)
    sums = scratch + numba.config.NUMBA_NUM_THREADS * scratch_size
    places = {"scratch": scratch, "scratch_size": scratch_size, "sums": sums}
    geometry = (KH, KW, *strides, *padding, *dilation)
    cut = {"images": images, "rows": unit_rows, "group": group, "parts": parts}
    return Plan(
        _numbers(N, H, W, C, OH, OW, F, *geometry, relu=relu, rows=rows, group=cached, **places),
        _numbers(
            N, OH, OW, F, H, W, C, *geometry, transposed=True, rows=rows_T, group=cached_T, filters=transposed, **places
        ),
        (_numbers(N, H, W, C, OH, OW, F, *geometry, **cut, **places)[0], parts * groups),
        sums + parts * panels * sum_size,
    )


def _numbers(*numbers, **more):
    """Numbers as an array, zero where nothing is said, and how many tasks ``correlate`` has with them."""
    s = Numbers(*numbers, *[0] * (_COUNT - len(numbers)))._replace(**more)
    return np.array(s, np.int64), s.N * -(-s.OH // max(1, s.rows * (s.stride if s.transposed else 1)))


def _cut(rows, images, size, least):
    """How many of an image's ``rows`` a task takes: few enough that their ``size(rows)`` is at most CACHED and that
    there are TASKS tasks, but not fewer than ``least``."""
    bands = min(-(-TASKS // max(1, images)), max(1, rows // least))
    while bands < rows and size(-(-rows // bands)) > CACHED:
        bands += 1
    return -(-rows // bands)


def _lines(size):
    """A size in floats, rounded up to whole cache lines."""
    return -(-size // 16) * 16


def conv2d_workspace(out_shape, x_shape, w_shape, strides, padding, dilation):
    """See the top of the file."""
    return plan(out_shape, x_shape, w_shape, strides, padding, dilation).size


@in_tasks
def conv2d_prepare(work, w):
    """Pack the filters, and the transposed filters behind them."""
    KH, KW, C, F = w.shape
    pack(work, w, KH * KW, tile_shape(F)[1] * LANES, tile_shape(C)[1] * LANES)


@in_tasks
def conv2d_forward(out, x, w, b, work, strides, padding, dilation, relu):
    """Parallel over images and bands of rows; in a task, tile by tile, and for each panel by panel."""
    numbers, tasks = plan(out.shape, x.shape, w.shape, strides, padding, dilation, bool(relu)).forward
    run(make_correlate(*tile_shape(w.shape[3])), tasks, out, x, b, work, numbers)


@in_tasks
def conv2d_backward(dx, dw, db, dout, x, w, work, strides, padding, dilation):
    """dw and db, parallel over panels and partial sums; then dx, as the forward."""
    KH, KW, C, F = w.shape
    cut = plan(dout.shape, x.shape, w.shape, strides, padding, dilation)
    R, V = tile_shape(F)
    run(make_correlate_gradient(R, V), cut.dw[1], dout, x, NOTHING, work, cut.dw[0])
    run(make_add_parts(R, V), KH * KW + 1, dw, db, NOTHING, work, cut.dw[0])
    if dx.size:
        run(make_correlate(*tile_shape(C)), cut.dx[1], dx, dout, NOTHING, work, cut.dx[0])


# Forward and dx -------------------------------------------------------------------------------------------------------


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


@helper
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


@helper
def _window(transposed, first, last, K, s, d, p):
    """The first pixel of the image that the pixels ``first .. last`` of the result meet, and how many from there on."""
    if transposed:
        start = (first + p - (K - 1) * d) // s
        return start, (last + p) // s - start + 1
    return first * s - p, (last - first) * s + (K - 1) * d + 1


@helper
def _taps_inside(axis, first, last, size):
    """Which taps, from and to, meet the image's ``size`` pixels for some of the result's pixels ``first .. last``."""
    start, stop = 0, axis.taps
    low, high = axis.read + first * axis.read_step, axis.read + last * axis.read_step
    while start < stop and (high + start * axis.tap_step < 0 or low + start * axis.tap_step >= size):
        start += 1
    while start < stop and (high + (stop - 1) * axis.tap_step < 0 or low + (stop - 1) * axis.tap_step >= size):
        stop -= 1
    return start, stop


@helper
def _prefetch_part(array, start, size, part, count, parts):
    """Prefetch, of ``array[start : start + size]``, cut into ``parts`` parts, ``count`` of them from ``part`` on."""
    for line in range(start + part * size // parts, start + min(part + count, parts) * size // parts, 16):
        prefetch(array, line)


@helper
def _prefetch_some(x, dout, coming):
    x_at, x_size, x_end, at, size, end = coming
    for line in range(x_at // 16 * 16, min(x_at + x_size, x_end), 16):
        prefetch(x, line)
    for line in range(at // 16 * 16, min(at + size, end), 16):
        prefetch(dout, line)
    return x_at + x_size, x_size, x_end, at + size, size, end


@functools.cache
def make_correlate(R, V):
    """The kernel of forward and dx for tiles of R pixels times V vectors."""

    @helper
    def correlate_panels(out, source, image, work, v, h, places, s, first, last, begin, end):
        """The columns begin .. end - 1 of the rows first .. last - 1 of the result, tile by tile. v and h: the axes.

        ``source`` is the image or its copy. What the next task will read is prefetched, a piece with each tile.
        """
        read, row_size, write, bias, coming, size = places
        taps, run = h.taps, s.C
        if h.tap_step == 1 and h.k_step == 1:  # neighbouring taps are one run of numbers, in image and filters
            taps, run = 1, h.taps * s.C
        tap_size = s.C * V * LANES
        pixels = last * h.count
        for pixel in range(first * h.count, pixels, R):
            start, stop = _taps_inside(v, pixel // h.count, (min(pixel + R, pixels) - 1) // h.count, s.H)
            reads = pixel_offsets(pixel, pixels - 1, h.count, v.read_step * row_size, h.read_step * s.C, R)
            _prefetch_part(image, coming, size, pixel - first * h.count, R, (last - first) * h.count)
            writes = pixel_offsets(pixel, pixels - 1, h.count, v.write_step * s.OW * s.F, h.write_step * s.F, R)
            for column in range(begin, end, V * LANES):
                tile_prefetch_at(out, writes, write + column, V)
                tile = tile_load(work, bias + column, 0, R, V)
                filters = s.filters + column * s.KH * s.KW * s.C
                for t in range(start, stop):
                    here, tap = read + t * v.tap_step * row_size, (v.k + t * v.k_step) * s.KW + h.k
                    for u in range(taps):
                        place = filters + (tap + u * h.k_step) * tap_size
                        tile = tile_add_products(tile, source, reads, here + u * h.tap_step * s.C, 1, work, place, run)
                if s.relu:
                    tile = tile_relu(tile)
                tile_store_at(tile, out, writes, write + column, s.F - column)

    @kernel
    def correlate(task, out, image, b, work, numbers):
        """out (N, OH, OW, F) from image (N, H, W, C): ``rows`` rows of one image, plus b (F,) if that is not empty."""
        s = Numbers(*to_fixed_tuple(numbers, _COUNT))
        step, step_w = (s.stride, s.stride_w) if s.transposed else (1, 1)
        bands = -(-s.OH // (s.rows * step))
        n, first = task // bands, task % bands * s.rows
        last = min((first + s.rows) * step, s.OH) - 1
        bias = s.scratch + numba.get_thread_id() * s.scratch_size
        panels = -(-s.F // (V * LANES))
        fill(work, bias, panels * V * LANES, np.float32(0))
        copy(work, bias, b, 0, b.size)
        top, height = _window(s.transposed, first * step, last, s.KH, s.stride, s.dilation, s.top)
        left, width = _window(s.transposed, 0, s.OW - 1, s.KW, s.stride_w, s.dilation_w, s.left)
        if top >= 0 and left >= 0 and top + height <= s.H and left + width <= s.W:
            source, origin, row_size = image, n * s.H * s.W * s.C, s.W * s.C
        else:
            source, origin, row_size = work, bias + panels * V * LANES, width * s.C
            copy_window(work, origin, image, n * s.H * s.W * s.C, (s.H, s.W, s.C), top, left, height, width)
            origin -= (top * width + left) * s.C  # where pixel (0, 0) of the image would be
        for residues in range(step * step_w):
            v = _axis(s.transposed, residues // step_w, s.OH, s.KH, s.stride, s.dilation, s.top)
            h = _axis(s.transposed, residues % step_w, s.OW, s.KW, s.stride_w, s.dilation_w, s.left)
            read = origin + v.read * row_size + h.read * s.C
            write = ((n * s.OH + residues // step_w) * s.OW + residues % step_w) * s.F
            last = min(first + s.rows, v.count)
            for column in range(0, s.F, s.group * V * LANES):
                end = min(s.F, column + s.group * V * LANES)
                size = s.H * s.W * s.C // bands if residues == column == 0 else 0
                places = read, row_size, write, bias, (task + 1) * size, size
                correlate_panels(out, source, image, work, v, h, places, s, first, last, column, end)

    return correlate


# dw -------------------------------------------------------------------------------------------------------------------


def _sum_size(KH, run, R, sliced):
    """Rows of the sums of a panel: see ``_sum_shape``."""
    return (KH * -(-run // R) * R if sliced else -(-KH * run // R) * R) + BIAS_ROWS


@helper
def _sum_shape(s, R):
    """Into how many slices a window is cut, the rows of a slice, and in the sums: whole tiles.

    The places of a window's numbers have a pattern of two strides, unless there is dilation: then those of each of its
    rows have. Behind the slices' sums come BIAS_ROWS rows for db.
    """
    slices = 1 if s.dilation_w == 1 else s.KH
    rows = s.KH * s.KW * s.C // slices
    return slices, rows, -(-rows // R) * R


@functools.cache
def make_correlate_gradient(R, V):
    """The kernel of the partial sums of dw and db, for tiles of R numbers of a window times V vectors of filters."""

    @helper
    def add_products(work, total, gradient, image, reads, here, steps, counts, start, stop, x, dout_, coming):
        """Add to the tile at ``work[total:]`` the numbers of the windows times dout, pixel after pixel.

        dout is the panel at ``work[gradient:]``; the windows begin at ``image[here:]`` and lie ``steps`` apart, as many
        as ``counts`` says: along images, rows and columns. Of the rows only start .. stop - 1 are used: the others meet
        nothing but the border. ``reads`` says where in a window the tile's numbers are.
        """
        tile = tile_load(work, total, V * LANES, R, V)
        for n in range(counts[0]):
            for i in range(start, stop):
                row, pixel = here + n * steps[0] + i * steps[1], gradient + (n * counts[1] + i) * counts[2] * V * LANES
                tile = tile_add_products(tile, image, reads, row, steps[2], work, pixel, counts[2])
                coming = _prefetch_some(x, dout_, coming)
        tile_store(tile, work, total, V * LANES)
        return coming

    @helper
    def add_bias(work, total, gradient, pixels):
        """Add to the BIAS_ROWS sums at ``work[total:]`` the pixels of dout, in turn."""
        tile = tile_load(work, total, V * LANES, BIAS_ROWS, V)
        for pixel in range(0, pixels, BIAS_ROWS):
            tile = tile_add_scaled(tile, np.float32(1), work, gradient + pixel * V * LANES, V * LANES)
        tile_store(tile, work, total, V * LANES)

    @helper
    def add_unit(unit, dout, x, work, s, panel, panels, gradient, total):
        """Add a unit's part of dw and db to the sums of ``panels`` panels at ``work[total:]``; scratch at gradient."""
        bands = -(-s.OH // s.rows)
        n, first = unit // bands * s.images, unit % bands * s.rows
        counts = (min(s.images, s.N - n), min(s.rows, s.OH - first), s.OW)
        pixels = counts[0] * counts[1] * s.OW
        size = -(-pixels // BIAS_ROWS) * BIAS_ROWS * V * LANES
        start_ = (n * s.OH + first) * s.OW * s.F
        for j in range(panels):
            at = gradient + j * size
            copy_panel(work, at, dout, start_, s.F, pixels, (panel + j) * V * LANES, V * LANES)
            fill(work, at + pixels * V * LANES, size - pixels * V * LANES, np.float32(0))
        top, height = _window(False, first, first + counts[1] - 1, s.KH, s.stride, s.dilation, s.top)
        left, width = _window(False, 0, s.OW - 1, s.KW, s.stride_w, s.dilation_w, s.left)
        source, origin = x, ((n * s.H + top) * s.W + left) * s.C
        row_size, image_size = s.W * s.C, s.H * s.W * s.C
        if top < 0 or left < 0 or top + height > s.H or left + width > s.W:
            source, origin = work, gradient + panels * size
            row_size, image_size = width * s.C, height * width * s.C
            for i in range(counts[0]):
                image = (n + i) * s.H * s.W * s.C
                copy_window(work, origin + i * image_size, x, image, (s.H, s.W, s.C), top, left, height, width)
        steps = (image_size, s.stride * row_size, s.stride_w * s.C)
        run, distance = (s.KW * s.C, s.dilation * row_size) if s.dilation_w == 1 else (s.C, s.dilation_w * s.C)
        slices, rows, sum_rows = _sum_shape(s, R)
        parts = panels * slices * -(-rows // R) * counts[0] * counts[1]
        size_x = counts[0] * min(counts[1] * s.stride, s.H) * s.W * s.C
        next_x, next_dout = (n * s.H + first * s.stride) * s.W * s.C + size_x, start_ + pixels * s.F
        coming = (
            next_x,
            -(-size_x // parts),
            next_x + size_x,
            next_dout,
            -(-pixels * s.F // parts),
            next_dout + pixels * s.F,
        )
        for j in range(panels):
            at = gradient + j * size
            for slice_ in range(slices):
                here = origin + slice_ * s.dilation * row_size
                for row in range(0, rows, R):
                    reads = pixel_offsets(row, rows - 1, run, distance, 1, R)
                    low = high = slice_  # the rows of the filter that the tile belongs to
                    if s.dilation_w == 1:
                        low, high = row // run, min(row + R - 1, rows - 1) // run
                    start = max(0, -((top + high * s.dilation) // s.stride))
                    stop = min(counts[1], -((top + low * s.dilation - s.H) // s.stride))
                    coming = add_products(
                        work,
                        total + row * V * LANES,
                        at,
                        source,
                        reads,
                        here,
                        steps,
                        counts,
                        start,
                        stop,
                        x,
                        dout,
                        coming,
                    )
                total += sum_rows * V * LANES
            add_bias(work, total, at, pixels)
            total += BIAS_ROWS * V * LANES

    @kernel
    def correlate_gradient(task, dout, x, _, work, numbers):
        """A group of panels of one partial sum.

        It goes through its units, each ``images`` images or ``rows`` rows of one image: few enough that what they hold
        of x and dout stays in the cache for all of the tiles.
        """
        s = Numbers(*to_fixed_tuple(numbers, _COUNT))
        panels, units = -(-s.F // (V * LANES)), -(-s.N // s.images) * -(-s.OH // s.rows)
        groups = -(-panels // s.group)
        part, panel = task // groups, task % groups * s.group
        count = min(s.group, panels - panel)
        slices, _, sum_rows = _sum_shape(s, R)
        size = (slices * sum_rows + BIAS_ROWS) * V * LANES
        total = s.sums + (part * panels + panel) * size
        fill(work, total, count * size, np.float32(0))
        scratch = s.scratch + numba.get_thread_id() * s.scratch_size
        for unit in range(part * units // s.parts, (part + 1) * units // s.parts):
            add_unit(unit, dout, x, work, s, panel, count, scratch, total)

    return correlate_gradient


@functools.cache
def make_add_parts(R, V):
    """The kernel that adds up the partial sums of dw and db."""

    @helper
    def add_row(result, start, work, at, s, size, rows):
        """``result[start : start + F]`` = the sum of the parts, and in each of ``rows`` rows, in order."""
        fill(result, start, s.F, np.float32(0))
        panels = -(-s.F // (V * LANES))
        for panel in range(panels):
            first = panel * V * LANES
            for part in range(s.parts):
                place = at + (part * panels + panel) * size
                for i in range(rows):
                    add(result, start + first, work, place + i * V * LANES, min(V * LANES, s.F - first))

    @kernel
    def add_parts(task, dw, db, _, work, numbers):
        """One tap of dw; the last task: db."""
        s = Numbers(*to_fixed_tuple(numbers, _COUNT))
        slices, rows, sum_rows = _sum_shape(s, R)
        size = (slices * sum_rows + BIAS_ROWS) * V * LANES
        if task == s.KH * s.KW:
            add_row(db, 0, work, s.sums + slices * sum_rows * V * LANES, s, size, BIAS_ROWS)
        else:
            for row in range(task * s.C, (task + 1) * s.C):
                at = s.sums + (row // rows * sum_rows + row % rows) * V * LANES
                add_row(dw, row * s.F, work, at, s, size, 1)

    return add_parts
