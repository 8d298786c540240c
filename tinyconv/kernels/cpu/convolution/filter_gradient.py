"""dw and db of a convolution of any shape, stride, padding and dilation, on the register tile.

The tile is R numbers of a window times V vectors of filters, and its reduction runs over pixels: for each, the window's
numbers times the gradient of the filters' outputs. The pixels are cut into *units* that the cache holds, and the units
dealt out to a fixed number of partial sums, which are then added in order: so the bits do not depend on the threads.
"""

import functools
from typing import Any, NamedTuple

import numba
import numpy as np

from tinyconv.kernels.cpu.convolution.geometry import (
    CACHED,
    cut_rows,
    floats_under,
    forward_geometry,
    pixels_met,
    read_pixels,
)
from tinyconv.kernels.cpu.registers.copies import add, copy_panel, fill, prefetch_lines
from tinyconv.kernels.cpu.registers.host import LANES
from tinyconv.kernels.cpu.registers.tile import (
    pixel_offsets,
    tile_add_rows,
    tile_add_scaled,
    tile_load,
    tile_store,
    window_tile,
)
from tinyconv.kernels.cpu.runtime.jobs import TASKS, Job
from tinyconv.kernels.cpu.runtime.tasks import helper, kernel

BIAS_ROWS = 4  # db is added up in four sums, pixel by pixel in turn: additions that need not wait for each other


def dw(layer):
    """The jobs of dw and db: the partial sums, and what adds them up."""
    N, OH, OW, F, *_ = layer
    R, V = window_tile(_window_numbers(layer), F)
    columns, floats = V * LANES, floats_under(layer)
    panels, sum_size = -(-F // columns), _sum_size(layer, R) * columns
    group = max(1, min(panels, CACHED // 2 // sum_size))
    groups = -(-panels // group)
    row = OW * group * columns  # floats of a row of dout
    rows = cut_rows(OH, N * groups, lambda rows: floats(rows) + rows * row, -(-128 // OW))
    images = 1
    if rows == OH:
        images = max(1, min(N * groups // TASKS, 256 // (OH * OW), CACHED // (floats(OH) + OH * row)))
    units = -(-N // images) * -(-OH // rows)
    parts = min(units, -(-TASKS // groups))
    g = forward_geometry(layer, images=images, rows=rows, group=group, parts=parts)
    scratch = images * (floats(rows) + rows * row) + BIAS_ROWS * group * columns
    sums = Job(make_filter_gradient(R, V), parts * groups, g, scratch=scratch, sums=parts * panels * sum_size)
    return sums, Job(make_add_parts(R, V), layer.KH * layer.KW + 1, g)


def _window_numbers(layer):
    """How many numbers of a window tiles are cut from: of one of its rows, where there is dilation."""
    return layer.KW * layer.C * (1 if layer.dilation[1] > 1 else layer.KH)


def _sum_size(layer, R):
    """Rows of the sums of a panel: see ``_sum_shape``."""
    slices = layer.KH if layer.dilation[1] > 1 else 1
    return slices * -(-_window_numbers(layer) // R) * R + BIAS_ROWS


@helper
def _sum_shape(g, R):
    """Into how many slices a window is cut, the rows of a slice, and in the sums: whole tiles.

    The places of a window's numbers have a pattern of two strides, unless there is dilation: then those of each of its
    rows have. Behind the slices' sums come BIAS_ROWS rows for db.
    """
    slices = 1 if g.dilation_w == 1 else g.KH
    rows = g.KH * g.KW * g.src_C // slices
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
def _next_unit(x, dout, g, n, first, counts, pieces):
    """The unit behind ``counts`` images and rows from image n and row ``first`` on, in so many pieces."""
    x_size = counts[0] * min(counts[1] * g.stride, g.src_H) * g.src_W * g.src_C
    size = counts[0] * counts[1] * g.dst_W * g.dst_C
    x_place = (n * g.src_H + first * g.stride) * g.src_W * g.src_C + x_size
    place = (n * g.dst_H + first) * g.dst_W * g.dst_C + size
    x_piece, piece = -(-x_size // (16 * pieces)) * 16, -(-size // (16 * pieces)) * 16  # whole cache lines
    return Coming(x, x_place, x_piece, x_place + x_size, dout, place, piece, place + size)


@helper(forceinline=True)
def _prefetch_piece(c):
    """Prefetch the next piece; returns what is left."""
    prefetch_lines(c.x, c.x_place, min(c.x_place + c.x_piece, c.x_end))
    prefetch_lines(c.dout, c.place, min(c.place + c.piece, c.end))
    return Coming(c.x, c.x_place + c.x_piece, c.x_piece, c.x_end, c.dout, c.place + c.piece, c.piece, c.end)


@helper(forceinline=True)
def _together(counts):
    """How many images, and rows of them, go by between two pieces: of some dozens of pixels."""
    rows = min(counts[1], max(1, 64 // counts[2]))
    return max(1, 64 // (rows * counts[2])) if rows == counts[1] else 1, rows


class Unit(NamedTuple):
    """A unit of dout and the pixels of x under it: images n .. n + counts[0] - 1, and rows first .. of each."""

    n: int
    first: int
    counts: tuple[int, int, int]  # images, rows and columns of dout
    gradient: int  # dout in panels, at ``work[gradient:]``, each ``gradient_size`` long
    gradient_size: int
    pixels: Any  # x, or a copy with a border
    origin: int  # where the first window begins in them
    row_size: int
    image_size: int
    top: int  # row of x in which the first window begins


@functools.cache
def _make_add_products(R, V):
    """The inner loop, for tiles of R numbers of a window times V vectors of filters."""

    @helper
    def add_products(work, total, gradient, pixels, reads, here, steps, counts, used, coming):
        """Add to the tile at ``work[total:]`` the numbers of the windows times dout, pixel after pixel.

        dout is the panel at ``work[gradient:]``; the windows begin at ``pixels[here:]`` and lie ``steps`` apart, as
        many as ``counts`` says: along images, rows and columns. Of the rows only those from used[0] to before used[1]
        are: the others meet nothing but the border. ``reads`` says where in a window the tile's numbers are.
        """
        row, (images, rows) = counts[2] * V * LANES, _together(counts)
        tile = tile_load(work, total, V * LANES, R, V)
        for n in range(0, counts[0], images):
            for i in range(used[0], used[1], rows):
                place, pixel = here + n * steps[0] + i * steps[1], gradient + (n * counts[1] + i) * row
                several = min(images, counts[0] - n), min(rows, used[1] - i), counts[2]
                w_steps = counts[1] * row, row
                tile = tile_add_rows(tile, pixels, reads, place, steps, work, pixel, w_steps, several)
                coming = _prefetch_piece(coming)
        tile_store(tile, work, total, V * LANES)
        return coming

    return add_products


@functools.cache
def _make_add_bias(V):
    """The sum of a panel's pixels, V vectors wide."""

    @helper
    def add_bias(work, total, gradient, pixels):
        """Add to the BIAS_ROWS sums at ``work[total:]`` the pixels of dout, in turn."""
        tile = tile_load(work, total, V * LANES, BIAS_ROWS, V)
        for pixel in range(0, pixels, BIAS_ROWS):
            tile = tile_add_scaled(tile, np.float32(1), work, gradient + pixel * V * LANES, V * LANES)
        tile_store(tile, work, total, V * LANES)

    return add_bias


@functools.cache
def _make_read_unit(V):
    """The copy of a unit's dout into panels of V vectors, and, where need be, of its pixels."""

    @helper
    def read_unit(unit, dout, x, work, g, panel, panels, scratch):
        """Unit number ``unit``, of whose dout ``panels`` panels are copied, from number ``panel`` on."""
        bands = -(-g.dst_H // g.rows)
        n, first = unit // bands * g.images, unit % bands * g.rows
        counts = (min(g.images, g.N - n), min(g.rows, g.dst_H - first), g.dst_W)
        pixels = counts[0] * counts[1] * g.dst_W
        size = -(-pixels // BIAS_ROWS) * BIAS_ROWS * V * LANES
        start = (n * g.dst_H + first) * g.dst_W * g.dst_C
        for j in range(panels):
            at = scratch + j * size
            copy_panel(work, at, dout, start, g.dst_C, pixels, (panel + j) * V * LANES, V * LANES)
            fill(work, at + pixels * V * LANES, size - pixels * V * LANES, np.float32(0))
        top, height = pixels_met(False, first, first + counts[1] - 1, g.KH, g.stride, g.dilation, g.top)
        left, width = pixels_met(False, 0, g.dst_W - 1, g.KW, g.stride_w, g.dilation_w, g.left)
        shape, frame = (g.src_H, g.src_W, g.src_C), (top, left, height, width)
        copied, origin, row_size, image_size = read_pixels(work, scratch + panels * size, x, shape, n, counts[0], frame)
        return Unit(n, first, counts, scratch, size, work if copied else x, origin, row_size, image_size, top)

    return read_unit


@functools.cache
def _make_add_unit(R, V):
    """The tiles of a unit, R numbers of a window times V vectors of filters."""
    read_unit, add_products, add_bias = _make_read_unit(V), _make_add_products(R, V), _make_add_bias(V)

    @helper
    def add_unit(unit, dout, x, work, g, panel, panels, scratch, total):
        """Add a unit's part of dw and db to the sums of ``panels`` panels at ``work[total:]``."""
        u = read_unit(unit, dout, x, work, g, panel, panels, scratch)
        steps = (u.image_size, g.stride * u.row_size, g.stride_w * g.src_C)
        run, distance = (g.KW * g.src_C, g.dilation * u.row_size)
        if g.dilation_w > 1:
            run, distance = (g.src_C, g.dilation_w * g.src_C)
        slices, rows, sum_rows = _sum_shape(g, R)
        together = _together(u.counts)
        pieces = panels * slices * -(-rows // R) * -(-u.counts[0] // together[0]) * -(-u.counts[1] // together[1])
        coming = _next_unit(x, dout, g, u.n, u.first, u.counts, pieces)
        for j in range(panels):
            gradient = u.gradient + j * u.gradient_size
            for slice_ in range(slices):
                here = u.origin + slice_ * g.dilation * u.row_size
                for row in range(0, rows, R):
                    reads = pixel_offsets(row, rows - 1, run, distance, 1, R)
                    low = high = slice_  # the rows of the filter that the tile belongs to
                    if g.dilation_w == 1:
                        low, high = row // run, min(row + R - 1, rows - 1) // run
                    start = max(0, -((u.top + high * g.dilation) // g.stride))
                    used = start, min(u.counts[1], -((u.top + low * g.dilation - g.src_H) // g.stride))
                    to = total + row * V * LANES
                    coming = add_products(work, to, gradient, u.pixels, reads, here, steps, u.counts, used, coming)
                total += sum_rows * V * LANES
            add_bias(work, total, gradient, u.counts[0] * u.counts[1] * g.dst_W)
            total += BIAS_ROWS * V * LANES

    return add_unit


@functools.cache
def make_filter_gradient(R, V):
    """The kernel of the partial sums of dw and db, for tiles of R numbers of a window times V vectors of filters."""
    add_unit = _make_add_unit(R, V)

    @kernel
    def filter_gradient(task, dout, x, _, work, g):
        """A group of panels of one partial sum.

        It goes through its units, each ``images`` images or ``rows`` rows of one image: few enough that what they hold
        of x and dout stays in the cache for all of the tiles.
        """
        panels, units = -(-g.dst_C // (V * LANES)), -(-g.N // g.images) * -(-g.dst_H // g.rows)
        groups = -(-panels // g.group)
        part, panel = task // groups, task % groups * g.group
        count = min(g.group, panels - panel)
        slices, _, sum_rows = _sum_shape(g, R)
        size = (slices * sum_rows + BIAS_ROWS) * V * LANES
        total = g.sums + (part * panels + panel) * size
        fill(work, total, count * size, np.float32(0))
        scratch = g.scratch + numba.get_thread_id() * g.scratch_size
        for unit in range(part * units // g.parts, (part + 1) * units // g.parts):
            add_unit(unit, dout, x, work, g, panel, count, scratch, total)

    return filter_gradient


@functools.cache
def make_add_parts(R, V):
    """The kernel that adds up the partial sums of dw and db."""

    @helper
    def add_row(result, start, work, at, g, size, rows):
        """``result[start : start + dst_C]`` = the sum of the parts, and in each of ``rows`` rows, in order."""
        fill(result, start, g.dst_C, np.float32(0))
        panels = -(-g.dst_C // (V * LANES))
        for panel in range(panels):
            first = panel * V * LANES
            for part in range(g.parts):
                place = at + (part * panels + panel) * size
                for i in range(rows):
                    add(result, start + first, work, place + i * V * LANES, min(V * LANES, g.dst_C - first))

    @kernel
    def add_parts(task, dw, db, _, work, g):
        """One tap of dw; the last task: db."""
        slices, rows, sum_rows = _sum_shape(g, R)
        size = (slices * sum_rows + BIAS_ROWS) * V * LANES
        if task == g.KH * g.KW:
            add_row(db, 0, work, g.sums + slices * sum_rows * V * LANES, g, size, BIAS_ROWS)
        else:
            for row in range(task * g.src_C, (task + 1) * g.src_C):
                at = g.sums + (row // rows * sum_rows + row % rows) * V * LANES
                add_row(dw, row * g.dst_C, work, at, g, size, 1)

    return add_parts
