"""Forward and dx of a convolution of any shape, stride, padding and dilation: one kernel, on the register tile.

A pixel of the destination is a sum, over the filter's taps, of a pixel of the source times a matrix. Forward, they are
out and x; for dx they are dx and dout, the matrices are transposed, and with strides the pixels fall into classes of
which each meets its own taps (see ``_axis``). The tile is R pixels times V vectors of the destination's channels; its
reduction runs over taps and the source's channels. (dx of few channels, which would leave most lanes empty, is in
``col2im.py``.)
"""

import functools
from typing import Any, NamedTuple

import numba
import numpy as np

from tinyconv.kernels.cpu.convolution.geometry import (
    CACHED,
    GAP,
    cut_rows,
    dx_geometry,
    floats_under,
    forward_geometry,
    pixels_met,
    read_pixels,
)
from tinyconv.kernels.cpu.registers.copies import copy, fill, pack, pack_transposed, prefetch_lines
from tinyconv.kernels.cpu.registers.host import LANES
from tinyconv.kernels.cpu.registers.tile import (
    pixel_offsets,
    tile_add_rows,
    tile_load,
    tile_prefetch_at,
    tile_relu,
    tile_shape,
    tile_store_at,
)
from tinyconv.kernels.cpu.runtime.jobs import Job
from tinyconv.kernels.cpu.runtime.tasks import helper, kernel


def prepare(work, w):
    """Pack the filters."""
    KH, KW, C, F = w.shape
    pack(work, w, KH * KW, tile_shape(F)[1] * LANES)


def prepare_dx(work, w):
    """Pack the transposed filters."""
    KH, KW, C, F = w.shape
    pack_transposed(work, w, KH * KW, tile_shape(C)[1] * LANES)


def forward(layer, relu):
    """The job of the forward pass."""
    N, OH, OW, F, *_ = layer
    R, V = tile_shape(F)
    columns, taps = V * LANES, layer.KH * layer.KW * layer.C
    floats = floats_under(layer)
    rows = cut_rows(OH, N, floats, -(-R // OW))
    g = forward_geometry(layer, relu=relu, rows=rows, group=max(1, CACHED // (taps * columns)))
    return Job(make_direct(R, V), N * -(-OH // rows), g, -(-F // columns) * taps * columns, floats(rows) + F)


def dx(layer):
    """The job of dx."""
    _, OH, OW, F, H, W, C, KH, KW, strides, _, dilation = layer
    R, V = tile_shape(C)
    columns, taps = V * LANES, KH * KW * F
    reach, reach_w = (KH - 1) * dilation[0], (KW - 1) * dilation[1]

    def floats(rows):  # of dout over so many (times the stride) rows of dx
        return ((rows * strides[0] + reach) // strides[0] + 2) * (((W + reach_w) // strides[1] + 2) * F + GAP)

    rows = cut_rows(-(-H // strides[0]), layer.N, floats, -(-R * strides[1] // W))
    g = dx_geometry(layer, rows=rows, group=max(1, CACHED // (taps * columns)))
    tasks = layer.N * -(-H // (rows * strides[0]))
    return Job(make_direct(R, V), tasks, g, -(-C // columns) * taps * columns, floats(rows) + C)


class Axis(NamedTuple):
    """How one axis of a convolution goes.

    Pixel q, 0 <= q < count, of the destination stands at ``residue + q * write_step``; tap t, 0 <= t < taps, is number
    ``k + t * k_step`` of the filter, and meets the source's pixel ``read + q * read_step + t * tap_step``.
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
def _taps_inside(axis, first, last, size):
    """Which taps, from and to, meet the source's ``size`` pixels for some of the destination's, ``first .. last``."""
    start, stop = 0, axis.taps
    low, high = axis.read + first * axis.read_step, axis.read + last * axis.read_step
    while start < stop and (high + start * axis.tap_step < 0 or low + start * axis.tap_step >= size):
        start += 1
    while start < stop and (high + (stop - 1) * axis.tap_step < 0 or low + (stop - 1) * axis.tap_step >= size):
        stop -= 1
    return start, stop


@helper(forceinline=True)
def _further(row, column, pixels, width):
    """Row and column so many pixels on: counted, since a division takes as long as several outer products."""
    column += pixels
    while column >= width:
        column -= width
        row += 1
    return row, column


class Band(NamedTuple):
    """A band of rows of one class of the destination's pixels: where tiles read and write.

    ``pixels`` is the source or a copy with a border, in which the first row of taps meets ``read``. What the next task
    will read, ``coming_size`` numbers of the source from ``coming`` on, is prefetched, a piece with each tile.
    """

    pixels: Any
    read: int
    row_size: int
    write: int
    bias: int
    first: int  # row, and before which the band ends
    last: int
    coming: int
    coming_size: int


@functools.cache
def _make_add_tiles(R, V):
    """The inner loops, for tiles of R pixels times V vectors."""

    @helper
    def add_tiles(dst, src, work, g, v, h, band, begin, end):
        """The columns begin .. end - 1 of a band, tile by tile. v and h: the axes."""
        taps, run = h.taps, g.src_C
        if h.tap_step == 1 and h.k_step == 1:  # neighbouring taps are one run of numbers, in source and filters
            taps, run = 1, h.taps * g.src_C
        first, pixels, row_size = band.first * h.count, band.last * h.count, band.row_size
        tap_size, tap_row = g.src_C * V * LANES, v.tap_step * row_size  # a tap's filters; the pixels of the tap below
        filter_row = v.k_step * g.KW * tap_size
        coming, piece = band.coming, -(-band.coming_size // max(1, pixels - first) * R // 16) * 16  # whole cache lines
        row, place_in_row = band.first, 0
        for pixel in range(first, pixels, R):
            last_row, _ = _further(row, place_in_row, min(R, pixels - pixel) - 1, h.count)
            start, stop = _taps_inside(v, row, last_row, g.src_H)
            row, place_in_row = _further(row, place_in_row, R, h.count)
            reads = pixel_offsets(pixel, pixels - 1, h.count, v.read_step * row_size, h.read_step * g.src_C, R)
            prefetch_lines(src, coming, min(coming + piece, band.coming + band.coming_size))
            coming += piece
            row_step, step = v.write_step * g.dst_W * g.dst_C, h.write_step * g.dst_C
            writes = pixel_offsets(pixel, pixels - 1, h.count, row_step, step, R)
            for column in range(begin, end, V * LANES):
                tile_prefetch_at(dst, writes, band.write + column, V)
                tile = tile_load(work, band.bias + column, 0, R, V)
                here, filters = band.read + start * tap_row, column * g.KH * g.KW * g.src_C
                for u in range(taps):
                    tap = (v.k + start * v.k_step) * g.KW + h.k + u * h.k_step
                    place, weights = here + u * h.tap_step * g.src_C, filters + tap * tap_size
                    steps, counts = (tap_row, 1), (stop - start, run)
                    tile = tile_add_rows(tile, band.pixels, reads, place, steps, work, weights, (filter_row,), counts)
                if g.relu:
                    tile = tile_relu(tile)
                tile_store_at(tile, dst, writes, band.write + column, g.dst_C - column)

    return add_tiles


@functools.cache
def make_direct(R, V):
    """The kernel of forward and dx for tiles of R pixels times V vectors."""
    add_tiles = _make_add_tiles(R, V)

    @kernel
    def direct(task, dst, src, b, work, g):
        """dst (N, dst_H, dst_W, dst_C) from src (N, src_H, src_W, src_C): ``rows`` rows of one image, plus b (dst_C,)
        if that is not empty."""
        step, step_w = (g.stride, g.stride_w) if g.transposed else (1, 1)
        bands = -(-g.dst_H // (g.rows * step))
        n, first = task // bands, task % bands * g.rows
        last = min((first + g.rows) * step, g.dst_H) - 1
        bias = g.scratch + numba.get_thread_id() * g.scratch_size
        panels = -(-g.dst_C // (V * LANES))
        fill(work, bias, panels * V * LANES, np.float32(0))
        copy(work, bias, b, 0, b.size)
        top, height = pixels_met(g.transposed, first * step, last, g.KH, g.stride, g.dilation, g.top)
        left, width = pixels_met(g.transposed, 0, g.dst_W - 1, g.KW, g.stride_w, g.dilation_w, g.left)
        size, frame = (g.src_H, g.src_W, g.src_C), (top, left, height, width)
        copied, origin, row_size, _ = read_pixels(work, bias + panels * V * LANES, src, size, n, 1, frame)
        pixels = work if copied else src
        origin -= top * row_size + left * g.src_C  # where pixel (0, 0) of the source is, or would be
        for residues in range(step * step_w):
            v = _axis(g.transposed, residues // step_w, g.dst_H, g.KH, g.stride, g.dilation, g.top)
            h = _axis(g.transposed, residues % step_w, g.dst_W, g.KW, g.stride_w, g.dilation_w, g.left)
            read = origin + v.read * row_size + h.read * g.src_C
            write = ((n * g.dst_H + residues // step_w) * g.dst_W + residues % step_w) * g.dst_C
            for column in range(0, g.dst_C, g.group * V * LANES):
                end = min(g.dst_C, column + g.group * V * LANES)
                coming = g.src_H * g.src_W * g.src_C // bands if residues == column == 0 else 0
                row = min(first + g.rows, v.count)
                band = Band(pixels, read, row_size, write, bias, first, row, (task + 1) * coming, coming)
                add_tiles(dst, src, work, g, v, h, band, column, end)

    return direct
