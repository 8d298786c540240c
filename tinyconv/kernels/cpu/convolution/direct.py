"""Forward and dx of a convolution of any shape, stride, padding and dilation: one kernel, on the register tile.

A pixel of the result is a sum, over the filter's taps, of a pixel of the image times a matrix. For dx the "image" is
dout and the matrices are transposed, and with strides the pixels fall into classes of which each meets its own taps
(see ``_axis``). The tile is R pixels times V vectors of filters; its reduction runs over taps and channels. (dx of few
channels, which would leave most lanes empty, is in ``col2im.py``.)
"""

import functools
from typing import NamedTuple

import numba
import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple

from tinyconv.kernels.cpu.convolution import col2im
from tinyconv.kernels.cpu.convolution.geometry import (
    CACHED,
    COUNT,
    Numbers,
    Pass,
    cut_rows,
    numbers_of,
    window,
    window_size,
)
from tinyconv.kernels.cpu.registers.copies import copy, copy_window, fill, pack, prefetch_part
from tinyconv.kernels.cpu.registers.host import LANES
from tinyconv.kernels.cpu.registers.tile import (
    pixel_offsets,
    tile_add_products,
    tile_load,
    tile_prefetch_at,
    tile_relu,
    tile_shape,
    tile_store_at,
)
from tinyconv.kernels.cpu.runtime.tasks import helper, kernel


def plan(out_shape, x_shape, w_shape, strides, padding, dilation, relu):
    """Forward and dx by ``correlate``: how filters are packed, the passes, and the floats of filters and scratch."""
    N, OH, OW, F = out_shape
    N, H, W, C = x_shape
    KH, KW, C, F = w_shape
    R, V = tile_shape(F)
    columns = V * LANES
    window_of = functools.partial(window_size, OW=OW, w_shape=w_shape, strides=strides, dilation=dilation)
    rows = cut_rows(OH, N, window_of, -(-2 * R // OW))
    group = max(1, CACHED // (KH * KW * C * columns))
    geometry = (KH, KW, *strides, *padding, *dilation)
    numbers = numbers_of(N, H, W, C, OH, OW, F, *geometry, relu=relu, rows=rows, group=group)
    forward = Pass(make_correlate(R, V), N * -(-OH // rows), numbers)
    size = -(-F // columns) * KH * KW * C * columns
    if col2im.pays(w_shape):
        prepare = functools.partial(col2im.prepare, columns=columns)
        dx, size_T, scratch_T = col2im.plan(out_shape, x_shape, w_shape, strides, padding, dilation, size)
    else:
        prepare = functools.partial(pack, taps=KH * KW, columns=columns, columns_T=tile_shape(C)[1] * LANES)
        dx, size_T, scratch_T = _transposed(out_shape, x_shape, w_shape, strides, padding, dilation, size)
    return prepare, forward, dx, size + size_T, max(window_of(rows) + F, scratch_T)


def _transposed(out_shape, x_shape, w_shape, strides, padding, dilation, filters):
    """dx: the pass, and the floats of its filters, which begin at ``filters``, and of its scratch."""
    N, OH, OW, F = out_shape
    N, H, W, C = x_shape
    KH, KW, C, F = w_shape
    R, V = tile_shape(C)
    columns, (reach, reach_w) = V * LANES, ((KH - 1) * dilation[0], (KW - 1) * dilation[1])

    def window_of(rows):  # floats of dout over so many (times the stride) rows of dx
        return ((rows * strides[0] + reach) // strides[0] + 2) * ((W + reach_w) // strides[1] + 2) * F

    rows = cut_rows(-(-H // strides[0]), N, window_of, -(-2 * R * strides[1] // W))
    group = max(1, CACHED // (KH * KW * F * columns))
    geometry = (KH, KW, *strides, *padding, *dilation)
    cut = {"transposed": True, "rows": rows, "group": group, "filters": filters}
    numbers = numbers_of(N, OH, OW, F, H, W, C, *geometry, **cut)
    dx = Pass(make_correlate(R, V), N * -(-H // (rows * strides[0])), numbers)
    return dx, -(-C // columns) * KH * KW * F * columns, window_of(rows) + C


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
def _taps_inside(axis, first, last, size):
    """Which taps, from and to, meet the image's ``size`` pixels for some of the result's pixels ``first .. last``."""
    start, stop = 0, axis.taps
    low, high = axis.read + first * axis.read_step, axis.read + last * axis.read_step
    while start < stop and (high + start * axis.tap_step < 0 or low + start * axis.tap_step >= size):
        start += 1
    while start < stop and (high + (stop - 1) * axis.tap_step < 0 or low + (stop - 1) * axis.tap_step >= size):
        stop -= 1
    return start, stop


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
            prefetch_part(image, coming, size, pixel - first * h.count, R, (last - first) * h.count)
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
        s = Numbers(*to_fixed_tuple(numbers, COUNT))
        step, step_w = (s.stride, s.stride_w) if s.transposed else (1, 1)
        bands = -(-s.OH // (s.rows * step))
        n, first = task // bands, task % bands * s.rows
        last = min((first + s.rows) * step, s.OH) - 1
        bias = s.scratch + numba.get_thread_id() * s.scratch_size
        panels = -(-s.F // (V * LANES))
        fill(work, bias, panels * V * LANES, np.float32(0))
        copy(work, bias, b, 0, b.size)
        top, height = window(s.transposed, first * step, last, s.KH, s.stride, s.dilation, s.top)
        left, width = window(s.transposed, 0, s.OW - 1, s.KW, s.stride_w, s.dilation_w, s.left)
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
