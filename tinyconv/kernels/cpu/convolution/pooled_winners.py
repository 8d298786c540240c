"""The backward pass of conv -> ReLU -> max-pool that visits only the winning positions.

Behind a 2 x 2 pooling at most one of four convolution outputs has a gradient, and where ReLU or a dropout gave zero
none has: early in training about a third of the pooled gradients are not zero, later a tenth. ``backward`` says it in
NumPy. The kernels turn "has a gradient" into the bits of an integer, and walk the bits that are set:

* dx: the winners at one of the four positions of a window all saw the same pixels. These are kept in registers while
  every such winner adds its filter, times its gradient, to them.
* dw (where rows of a filter are whole vectors): a winner adds the pixels that it saw, times its gradient, to its
  filter's gradient. The winners of a few images are first listed filter by filter; while a list is walked, the filter's
  gradient stays in registers. All filters of a block take their turn on the same few images, which are so read once
  from memory. It is summed in a fixed number of parts of the batch, which are then added in order: the bits do not
  depend on the number of threads.
"""

import functools
from typing import Any, NamedTuple

import numba
import numpy as np

from tinyconv.kernels.cpu.convolution.pooled import (
    Sums,
    floats_seen,
    pooled_geometry,
    read_windows,
)
from tinyconv.kernels.cpu.registers.copies import add, fill
from tinyconv.kernels.cpu.registers.host import LANES, REGISTERS
from tinyconv.kernels.cpu.registers.tile import tile_add_scaled, tile_load, tile_store
from tinyconv.kernels.cpu.registers.vector import (
    trailing_zeros,
    vector_bits,
    vector_fill,
    vector_load,
    vector_multiply_add,
    vector_store,
)
from tinyconv.kernels.cpu.runtime.jobs import Job, whole_lines
from tinyconv.kernels.cpu.runtime.tasks import helper, kernel
from tinyconv.kernels.cpu.runtime.views import same_memory

BITS = 64  # filters whose winners are the bits of one integer
LISTED = 100  # windows whose winners are listed together for dw: longer lists, but more that does not fit the cache


def backward(dx, dw, db, dout, argmax, x, w, padding, scale):
    """The method in NumPy, the twin of the kernels below: winner by winner."""
    KH, KW, _, _ = w.shape
    (top, left), (N, H, W, C) = padding, x.shape
    canvas = np.zeros((N, max(2 * dout.shape[1] + KH, H + top), max(2 * dout.shape[2] + KW, W + left), C), x.dtype)
    inside = slice(None), slice(top, top + H), slice(left, left + W)
    canvas[inside] = x
    dcanvas = np.zeros_like(canvas)
    dw[...], db[...] = 0, 0
    for n, i, j, f in np.argwhere((argmax >= 0) & (dout != 0)):
        row, column = 2 * i + argmax[n, i, j, f] // 2, 2 * j + argmax[n, i, j, f] % 2
        seen = n, slice(row, row + KH), slice(column, column + KW)
        gradient = scale * dout[n, i, j, f]
        dcanvas[seen] += gradient * w[..., f]
        dw[..., f] += gradient * canvas[seen]
        db[f] += gradient
    dx[...] = dcanvas[inside]


def has_whole_rows(layer):
    """Whether a row of a filter is whole vectors."""
    return layer.KW * layer.C % LANES == 0


def dx(layer):
    """The job of dx."""
    whole = has_whole_rows(layer)
    R, V = _filter_tile(layer) if whole else (1, 1)
    return Job(make_winners_to_pixels(R, V, whole), layer.N, pooled_geometry(layer), scratch=floats_seen(layer))


def dw(layer):
    """How dw is summed, where ``has_whole_rows``."""
    K, windows = layer.KH * layer.KW * layer.C, (layer.OH // 2) * (layer.OW // 2)
    images = images_listed.py_func(layer.N, windows)
    scratch = images * floats_seen(layer) + list_size.py_func(images * windows)
    kernel_ = make_winners_to_filters(*_filter_tile(layer))
    return Sums(kernel_, BITS, whole_lines((K + 1) * BITS), K, 1, K * BITS, scratch)


def _filter_tile(layer):
    """(R, V) of a filter in registers: all of its rows, or a piece of one."""
    KH, vectors = layer.KH, layer.KW * layer.C // LANES
    R = KH if KH * vectors <= REGISTERS - 8 else 1
    return R, max(v for v in range(1, (REGISTERS - 8) // R + 1) if vectors % v == 0)


@helper
def images_listed(N, windows):
    """How many of N images of so many windows are listed together."""
    return min(N, max(1, LISTED // windows))


@helper
def list_size(windows):
    """Floats that the lists of the winners of so many windows need."""
    return 2 * BITS + 2 * windows * BITS


@helper
def _alive(dout, argmax, place, count):
    """Which of ``count`` <= 64 filters, from ``place`` on, have a winner with a gradient that is not zero (a NaN is
    not): one bit for each."""
    bits, zero, nobody = np.int64(0), vector_fill(np.float32(0)), vector_fill(np.int32(-1))
    whole = count // LANES * LANES
    for i in range(0, whole, LANES):
        dead = vector_bits(vector_load(argmax, place + i) == nobody)
        bits |= (vector_bits(vector_load(dout, place + i) != zero) & ~dead) << i
    for i in range(whole, count):
        bits |= np.int64(dout[place + i] != 0 and argmax[place + i] >= 0) << i
    return bits


@helper
def _alive_by_position(dout, argmax, place, count):
    """The same, apart for each of the four positions of a winner."""
    alive, whole = _alive(dout, argmax, place, count), count // LANES * LANES
    first, second, third = np.int64(0), np.int64(0), np.int64(0)
    for i in range(0, whole, LANES):
        winner = vector_load(argmax, place + i)
        first |= vector_bits(winner == vector_fill(np.int32(0))) << i
        second |= vector_bits(winner == vector_fill(np.int32(1))) << i
        third |= vector_bits(winner == vector_fill(np.int32(2))) << i
    for i in range(whole, count):
        winner = argmax[place + i]
        first |= np.int64(winner == 0) << i
        second |= np.int64(winner == 1) << i
        third |= np.int64(winner == 2) << i
    return alive & first, alive & second, alive & third, alive & ~(first | second | third)


@helper
def _add_scaled(target, to, factor, source, at, size):
    """``target[to : to + size] += factor * source[at : at + size]``."""
    vector = vector_fill(factor)
    whole = size // LANES * LANES
    for i in range(0, whole, LANES):
        total = vector_multiply_add(vector, vector_load(source, at + i), vector_load(target, to + i))
        vector_store(total, target, to + i)
    for i in range(whole, size):
        target[to + i] += factor * source[at + i]


class Pixels(NamedTuple):
    """The pixels that a winner saw: rows ``row_size`` apart, from ``first`` on."""

    array: Any
    first: int
    row_size: int


@functools.cache
def _make_add_filters(R, V, whole):
    """What adds winners' filters to the pixels that they saw, R x V vectors of a filter at once, or row by row."""

    @helper(forceinline=True)
    def add_filters(pixels, bits, dout, place, scale, work, filters, KH, run):
        """Add filters, those whose bits are set, times their gradients to the pixels."""
        size = KH * run
        for k in range(0, KH, R):
            for i in range(0, run, V * LANES if whole else run):
                to, weights, left = pixels.first + k * pixels.row_size + i, filters + k * run + i, bits
                if whole:
                    tile = tile_load(pixels.array, to, pixels.row_size, R, V)
                    while left:
                        f = trailing_zeros(left)
                        left &= left - 1
                        tile = tile_add_scaled(tile, dout[place + f] * scale, work, weights + f * size, run)
                    tile_store(tile, pixels.array, to, pixels.row_size)
                else:
                    while left:
                        f = trailing_zeros(left)
                        left &= left - 1
                        _add_scaled(pixels.array, to, dout[place + f] * scale, work, weights + f * size, run)

    return add_filters


@functools.cache
def make_winners_to_pixels(R, V, whole):
    """The kernel of dx with R x V vectors of a filter at once; ``whole``: its rows are whole vectors."""
    add_filters = _make_add_filters(R, V, whole)

    @kernel
    def winners_to_pixels(task, dx, dout, argmax, work, g, scales):
        """dx (N, H, W, C) of one image."""
        n, run, scale = task, g.KW * g.C, np.float32(scales[0])
        height, width = 2 * g.PH + g.KH - 1, 2 * g.PW + g.KW - 1
        padded = g.top > 0 or g.left > 0 or height > g.H or width > g.W
        canvas, origin, row_size = dx, n * g.H * g.W * g.C, g.W * g.C
        fill(dx, origin, g.H * g.W * g.C, np.float32(0))
        if padded:
            canvas, origin, row_size = work, g.scratch + numba.get_thread_id() * g.scratch_size, width * g.C
            fill(work, origin, height * row_size, np.float32(0))
        place = n * g.PH * g.PW * g.F
        for i in range(g.PH):
            for j in range(g.PW):
                window = origin + 2 * i * row_size + 2 * j * g.C
                for f in range(0, g.F, BITS):
                    winners = _alive_by_position(dout, argmax, place + f, min(BITS, g.F - f))
                    for position in range(4):
                        bits = winners[position]
                        if bits:
                            pixel = window + (position >> 1) * row_size + (position & 1) * g.C
                            pixels = Pixels(canvas, pixel, row_size)
                            add_filters(
                                pixels, bits, dout, place + f, scale, work, g.single + f * g.KH * run, g.KH, run
                            )
                place += g.F
        if padded:
            _take_inside(dx, g, n, work, origin, height, width)

    return winners_to_pixels


@helper
def _take_inside(dx, g, n, work, canvas, height, width):
    """Copy what lies inside the image from the canvas, (height, width, C), to dx[n]; what lies beyond stays zero."""
    for y in range(max(0, -g.top), min(g.H, height - g.top)):
        for x in range(max(0, -g.left), min(g.W, width - g.left)):
            for c in range(g.C):
                dx[((n * g.H + y) * g.W + x) * g.C + c] = work[canvas + ((y + g.top) * width + x + g.left) * g.C + c]


@helper
def _list_winners(work, at, dout, argmax, g, some, f, sizes, scale):
    """The winners of up to BITS filters, from f on, in ``some`` images (the first, and how many): for each filter a
    list of the first pixels that they saw, relative to the first image, and a list of their gradients.

    At ``at`` are the lengths of the lists, then the sums of their gradients, then all pixels, and ``gap`` behind each
    pixel its gradient. Returns where the first list of pixels begins, how far apart lists are, and the gap.
    """
    integers, (first, images), (row_size, image_size) = same_memory(work, np.int32), some, sizes
    windows, count = g.PH * g.PW, min(BITS, g.F - f)
    sums, lists, room = at + BITS, at + 2 * BITS, images * windows
    fill(work, at, 2 * BITS, np.float32(0))  # the bits of the float 0 are those of the integer 0
    place = first * windows * g.F + f
    for image in range(images):
        for i in range(g.PH):
            for j in range(g.PW):
                pixel = image * image_size + 2 * i * row_size + 2 * j * g.C
                bits = _alive(dout, argmax, place, count)
                while bits:
                    lane = trailing_zeros(bits)
                    bits &= bits - 1
                    winner, gradient = np.int64(argmax[place + lane]), dout[place + lane] * scale
                    entry = lists + lane * room + np.int64(integers[at + lane])
                    integers[at + lane] += np.int32(1)
                    integers[entry] = np.int32(pixel + (winner >> 1) * row_size + (winner & 1) * g.C)
                    work[entry + room * BITS] = gradient
                    work[sums + lane] += gradient
                place += g.F
    return lists, room, room * BITS


@functools.cache
def make_winners_to_filters(R, V):
    """The kernel of dw for filters of whole vectors, R x V of them in registers."""

    @helper
    def add_pixels(work, total, source, origin, row_size, KH, run, first, count, gap):
        """Add to a filter's gradient the pixels of a list of ``count`` entries."""
        integers = same_memory(work, np.int32)
        for k in range(0, KH, R):
            for i in range(0, run, V * LANES):
                pixels = origin + k * row_size + i
                tile = tile_load(work, total + k * run + i, run, R, V)
                for entry in range(first, first + count):
                    place = pixels + np.int64(integers[entry])
                    tile = tile_add_scaled(tile, work[entry + gap], source, place, row_size)
                tile_store(tile, work, total + k * run + i, run)

    @kernel
    def winners_to_filters(task, dout, x, argmax, work, g, scales):
        """A partial sum of dw and db: one part of the batch, one block of BITS filters."""
        blocks, windows, run, height = -(-g.F // BITS), g.PH * g.PW, g.KW * g.C, 2 * g.PH + g.KH - 1
        part, f = task // blocks, task % blocks * BITS
        total = g.sums + task * g.sum_size
        fill(work, total, g.sum_size, np.float32(0))
        integers, scale = same_memory(work, np.int32), np.float32(scales[0])
        own = g.scratch + numba.get_thread_id() * g.scratch_size
        together, bias = images_listed(g.N, windows), total + g.KH * run * BITS
        copy, last = own + list_size(together * windows), (part + 1) * g.N // g.parts
        for n in range(part * g.N // g.parts, last, together):
            images = min(together, last - n)
            copied, origin, row_size, image_size = read_windows(g, x, n, images, -g.top, height, work, copy)
            source, sizes = work if copied else x, (row_size, image_size)
            lists, room, gap = _list_winners(work, own, dout, argmax, g, (n, images), f, sizes, scale)
            add(work, bias, work, own + BITS, BITS)
            for lane in range(BITS):
                count, first = np.int64(integers[own + lane]), lists + lane * room
                if count:
                    place = total + lane * g.KH * run
                    add_pixels(work, place, source, origin, row_size, g.KH, run, first, count, gap)

    return winners_to_filters
