"""The tiles of Winograd's method: how an image is cut into them, and their pixels transformed.

``winograd.py`` says what the method is; these are the parts that the forward pass, dx and dw share.
"""

from typing import NamedTuple

import numpy as np

from tinyconv.kernels.cpu.convolution.winograd_filters import four, store_four
from tinyconv.kernels.cpu.registers.host import LANES
from tinyconv.kernels.cpu.registers.vector import vector_fill, vector_load, vector_store
from tinyconv.kernels.cpu.runtime.tasks import helper

SKEW = 16  # floats; keeps the 16 matrices from lying whole pages apart, and so in the same few places of L1
TOGETHER = 2 * LANES  # channels of tiles that are transformed together: more would leave L1 before they are used again

# In one dimension: four pixels, and three taps, to four numbers each; and the four products of these to two outputs.
OF_PIXELS = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
OF_TAPS = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
OF_PRODUCTS = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])


class Tiling(NamedTuple):
    """What the kernel must know: the shapes, how the tiles are cut into tasks, and where in ``work`` things are.

    Tiles are counted through all images, row by row; tile (i, j) of an image covers the outputs (2 i, 2 j) to
    (2 i + 1, 2 j + 1), of which those beyond an odd last row or column do not exist.
    """

    src_H: int  # of the images that are read: x, or dout for dx
    src_W: int
    src_C: int
    dst_H: int  # of those that are written: out, or dx
    dst_W: int
    dst_C: int
    top: int  # padding
    left: int
    down: int  # tiles of an image
    across: int
    count: int  # tiles of all images
    block: int = 0  # tiles whose numbers a thread holds at a time: few enough that they stay in the cache
    shares: int = 0  # tasks that do the same tiles with other filters
    parts: int = 0  # dw: how many partial sums
    channels: int = 0  # dw: those of a task
    panels: int = 0  # dw: those of a task
    relu: int = 0
    filters: int = 0  # transformed
    bias: int = 0
    scratch: int = 0  # one for each thread
    scratch_size: int = 0
    sums: int = 0  # dw: the partial sums


def tiles_of(layer, **cut):
    """The ``Tiling`` of a convolution's output."""
    N, OH, OW, F, H, W, C, *_ = layer
    down, across = -(-OH // 2), -(-OW // 2)
    return Tiling(H, W, C, OH, OW, F, *layer.padding, down, across, N * down * across, **cut)


def transformed(src, padding, down, across):
    """The pixels of all tiles, transformed, in NumPy: (4, 4, N, down, across, C) from src (N, H, W, C)."""
    (top, left), border = padding, 2 * max(down, across) + max(padding) + 4
    around = np.pad(src, ((0, 0), (border, border), (border, border), (0, 0)))[:, border - top :, border - left :]
    tiles = np.array([[around[:, i:, j:][:, : 2 * down : 2, : 2 * across : 2] for j in range(4)] for i in range(4)])
    return np.einsum("ik,jl,klnyxc->ijnyxc", OF_PIXELS, OF_PIXELS, tiles)


@helper(forceinline=True)
def _along(a, b, c, d):
    """Four pixels in a row to the four numbers that the filter's are multiplied with."""
    return a - c, b + c, c - b, b - d


@helper
def _transform_pixels(work, at, size, image, place, steps, channels, tiles):
    """The 4 x 4 pixels at ``place`` to 16 numbers for each channel: number (i, j) to ``at + (4 i + j) * size``; and
    those of the next tiles in the row, whose numbers lie ``channels`` further. ``steps``: from one row of pixels to the
    next, and from one pixel to the next."""
    row, step = steps
    for c in range(0, channels, LANES):
        for t in range(tiles):
            p, to = place + 2 * t * step + c, at + t * channels + c
            a = _along(*four(image, p, step))
            b = _along(*four(image, p + row, step))
            c_ = _along(*four(image, p + 2 * row, step))
            d = _along(*four(image, p + 3 * row, step))
            store_four(work, to, 4 * size, _along(a[0], b[0], c_[0], d[0]))
            store_four(work, to + size, 4 * size, _along(a[1], b[1], c_[1], d[1]))
            store_four(work, to + 2 * size, 4 * size, _along(a[2], b[2], c_[2], d[2]))
            store_four(work, to + 3 * size, 4 * size, _along(a[3], b[3], c_[3], d[3]))


@helper
def first_place(g, tile):
    """Image, row and column of a tile."""
    n, rest = tile // (g.down * g.across), tile % (g.down * g.across)
    return n, rest // g.across, rest % g.across


@helper(forceinline=True)
def next_place(g, place):
    """Those of the next tile: counted, since a division takes as long as half of the work on a vector."""
    n, i, j = place
    if j + 1 < g.across:
        return n, i, j + 1
    return (n, i + 1, 0) if i + 1 < g.down else (n + 1, 0, 0)


@helper
def read_tiles(work, at, size, src, g, place, tiles, first, channels, border):
    """Transform the pixels of so many tiles from ``place`` on, so many channels from ``first`` on. Tiles side by side
    are a run, if they have few channels; where one reaches over the edge of the image, it is transformed alone, from a
    copy with zeros around, at ``work[border:]``."""
    row = g.src_W * g.src_C
    while tiles > 0:
        n, i, j = place
        top, left, run = 2 * i - g.top, 2 * j - g.left, 1
        start = ((n * g.src_H + top) * g.src_W + left) * g.src_C + first
        if top >= 0 and left >= 0 and top + 4 <= g.src_H and left + 4 <= g.src_W:
            run = min(tiles, g.across - j, (g.src_W - left - 4) // 2 + 1) if channels <= TOGETHER else 1
            _transform_pixels(work, at, size, src, start, (row, g.src_C), channels, run)
        else:
            _copy_tile(work, border, src, g, start, (top, left), channels)
            _transform_pixels(work, at, size, work, border, (4 * channels, channels), channels, 1)
        at, tiles, place = at + run * channels, tiles - run, next_place(g, (n, i, j + run - 1))


@helper
def _copy_tile(work, at, src, g, start, corner, channels):
    """The 4 x 4 pixels of a tile, which would begin at ``src[start:]``, to ``work[at:]``, with zeros where there are
    none."""
    for k in range(16):
        exists = 0 <= corner[0] + k // 4 < g.src_H and 0 <= corner[1] + k % 4 < g.src_W
        place = start + (k // 4 * g.src_W + k % 4) * g.src_C
        for c in range(0, channels, LANES):
            pixel = vector_load(src, place + c) if exists else vector_fill(np.float32(0))
            vector_store(pixel, work, at + k * channels + c)
