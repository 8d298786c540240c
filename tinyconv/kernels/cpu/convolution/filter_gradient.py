"""dw and db of a convolution of any shape, stride, padding and dilation, on the register tile.

The tile is R numbers of a window times V vectors of filters, and its reduction runs over pixels: for each, the window's
numbers times the gradient of the filters' outputs. The pixels are cut into *units* that the cache holds, and the units
dealt out to a fixed number of partial sums, which are then added in order: so the bits do not depend on the threads.
"""

import functools
from typing import Any, NamedTuple

import numba
import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple

from tinyconv.kernels.cpu.convolution.geometry import (
    CACHED,
    COUNT,
    TASKS,
    Numbers,
    Pass,
    cut_rows,
    numbers_of,
    window,
    window_size,
)
from tinyconv.kernels.cpu.registers.copies import add, copy_panel, copy_window, fill
from tinyconv.kernels.cpu.registers.host import LANES
from tinyconv.kernels.cpu.registers.tile import (
    pixel_offsets,
    tile_add_products,
    tile_add_scaled,
    tile_load,
    tile_shape,
    tile_store,
)
from tinyconv.kernels.cpu.registers.vector import prefetch
from tinyconv.kernels.cpu.runtime.tasks import helper, kernel

BIAS_ROWS = 4  # db is added up in four sums, pixel by pixel in turn: additions that need not wait for each other


def plan(out_shape, x_shape, w_shape, strides, padding, dilation):
    """dw and db: the pass, and the floats of all partial sums and of a unit."""
    N, OH, OW, F = out_shape
    N, H, W, C = x_shape
    KH, KW, C, F = w_shape
    R, V = tile_shape(F)
    window_of = functools.partial(window_size, OW=OW, w_shape=w_shape, strides=strides, dilation=dilation)
    columns = V * LANES
    panels, sum_size = -(-F // columns), _sum_size(KH, KW * C, R, dilation[1] > 1) * columns
    group = max(1, min(panels, CACHED // 2 // sum_size))
    groups = -(-panels // group)
    gradient = OW * group * columns  # floats of a row of dout
    rows = cut_rows(OH, N * groups, lambda rows: window_of(rows) + rows * gradient, -(-128 // OW))
    images = 1
    if rows == OH:
        images = max(1, min(N * groups // TASKS, 256 // (OH * OW), CACHED // (window_of(OH) + OH * gradient)))
    units = -(-N // images) * -(-OH // rows)
    parts = min(units, -(-TASKS // groups))
    geometry = (KH, KW, *strides, *padding, *dilation)
    numbers = numbers_of(N, H, W, C, OH, OW, F, *geometry, images=images, rows=rows, group=group, parts=parts)
    unit = images * (window_of(rows) + rows * gradient) + BIAS_ROWS * group * columns
    return Pass(make_correlate_gradient(R, V), parts * groups, numbers), parts * panels * sum_size, unit


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


class Coming(NamedTuple):
    """What the next unit will read of x and dout, to be prefetched a piece at a time between the products of this one:
    the place of the next piece, its size, and the end. (A prefetch waits if too many are under way.)"""

    x: Any
    x_place: int
    x_piece: int
    x_end: int
    dout: Any
    place: int
    piece: int
    end: int


@helper
def _next_unit(x, dout, s, n, first, counts, pieces):
    """The unit behind ``counts`` images and rows from image n and row ``first`` on, in so many pieces."""
    x_size, size = counts[0] * min(counts[1] * s.stride, s.H) * s.W * s.C, counts[0] * counts[1] * s.OW * s.F
    x_place, place = (n * s.H + first * s.stride) * s.W * s.C + x_size, (n * s.OH + first) * s.OW * s.F + size
    x_piece, piece = -(-x_size // (16 * pieces)) * 16, -(-size // (16 * pieces)) * 16  # whole cache lines
    return Coming(x, x_place, x_piece, x_place + x_size, dout, place, piece, place + size)


@helper(forceinline=True)
def _prefetch_piece(c):
    """Prefetch the next piece; returns what is left. (Not a call, before which the tile would be put into memory.)"""
    for line in range(c.x_place, min(c.x_place + c.x_piece, c.x_end), 16):
        prefetch(c.x, line)
    for line in range(c.place, min(c.place + c.piece, c.end), 16):
        prefetch(c.dout, line)
    return Coming(c.x, c.x_place + c.x_piece, c.x_piece, c.x_end, c.dout, c.place + c.piece, c.piece, c.end)


@functools.cache
def make_correlate_gradient(R, V):
    """The kernel of the partial sums of dw and db, for tiles of R numbers of a window times V vectors of filters."""

    @helper
    def add_products(work, total, gradient, image, reads, here, steps, counts, used, coming):
        """Add to the tile at ``work[total:]`` the numbers of the windows times dout, pixel after pixel.

        dout is the panel at ``work[gradient:]``; the windows begin at ``image[here:]`` and lie ``steps`` apart, as many
        as ``counts`` says: along images, rows and columns. Of the rows only those from used[0] to before used[1] are:
        the others meet nothing but the border. ``reads`` says where in a window the tile's numbers are.
        """
        tile = tile_load(work, total, V * LANES, R, V)
        for n in range(counts[0]):
            for i in range(used[0], used[1]):
                row, pixel = here + n * steps[0] + i * steps[1], gradient + (n * counts[1] + i) * counts[2] * V * LANES
                tile = tile_add_products(tile, image, reads, row, steps[2], work, pixel, counts[2])
                coming = _prefetch_piece(coming)
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
        start = (n * s.OH + first) * s.OW * s.F
        for j in range(panels):
            at = gradient + j * size
            copy_panel(work, at, dout, start, s.F, pixels, (panel + j) * V * LANES, V * LANES)
            fill(work, at + pixels * V * LANES, size - pixels * V * LANES, np.float32(0))
        top, height = window(False, first, first + counts[1] - 1, s.KH, s.stride, s.dilation, s.top)
        left, width = window(False, 0, s.OW - 1, s.KW, s.stride_w, s.dilation_w, s.left)
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
        pieces = panels * slices * -(-rows // R) * counts[0] * counts[1]
        coming = _next_unit(x, dout, s, n, first, counts, pieces)
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
                    used = start, min(counts[1], -((top + low * s.dilation - s.H) // s.stride))
                    to = total + row * V * LANES
                    coming = add_products(work, to, at, source, reads, here, steps, counts, used, coming)
                total += sum_rows * V * LANES
            add_bias(work, total, at, pixels)
            total += BIAS_ROWS * V * LANES

    @kernel
    def correlate_gradient(task, dout, x, _, work, numbers):
        """A group of panels of one partial sum.

        It goes through its units, each ``images`` images or ``rows`` rows of one image: few enough that what they hold
        of x and dout stays in the cache for all of the tiles.
        """
        s = Numbers(*to_fixed_tuple(numbers, COUNT))
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
        s = Numbers(*to_fixed_tuple(numbers, COUNT))
        slices, rows, sum_rows = _sum_shape(s, R)
        size = (slices * sum_rows + BIAS_ROWS) * V * LANES
        if task == s.KH * s.KW:
            add_row(db, 0, work, s.sums + slices * sum_rows * V * LANES, s, size, BIAS_ROWS)
        else:
            for row in range(task * s.C, (task + 1) * s.C):
                at = s.sums + (row // rows * sum_rows + row % rows) * V * LANES
                add_row(dw, row * s.F, work, at, s, size, 1)

    return add_parts
