"""Copying blocks of numbers to where inner loops want them, and fetching them in advance.

Loops run over slices: then the compiler knows that no index is negative, and moves whole vectors.
"""

import functools

import numpy as np

from tinyconv.kernels.cpu.registers.host import LANES
from tinyconv.kernels.cpu.registers.vector import prefetch, vector_load, vector_load_first, vector_store
from tinyconv.kernels.cpu.runtime.cutting import pieces, share
from tinyconv.kernels.cpu.runtime.tasks import NOTHING, flat, helper, kernel, run

BLOCK = 32  # channels that are packed at a time


@helper
def copy(target, at, source, start, size):
    """target[at : at + size] = source[start : start + size]."""
    line, numbers = target[at : at + size], source[start : start + size]
    for i in range(size):
        line[i] = numbers[i]


@helper
def add(target, at, source, start, size):
    """target[at : at + size] += source[start : start + size]."""
    line, numbers = target[at : at + size], source[start : start + size]
    for i in range(size):
        line[i] += numbers[i]


@helper
def fill(target, at, size, value):
    """target[at : at + size] = value."""
    line = target[at : at + size]
    for i in range(size):
        line[i] = value


@helper(forceinline=True)
def load(array, at, count):
    """A vector, or its first ``count`` numbers, and zeros."""
    return vector_load(array, at) if count >= LANES else vector_load_first(array, at, count)


@helper
def copy_panel(target, at, matrix, start, width, rows, first, columns):
    """Copy columns ``first ..`` of a matrix (rows, width), which lies at ``matrix[start:]``, to ``target[at:]``,
    (rows, columns), with zeros behind the last column. ``columns`` is a multiple of LANES."""
    count = min(columns, width - first)
    for place in range(start + first, start + first + rows * width, width):
        for column in range(0, columns, LANES):
            vector_store(load(matrix, place + column, count - column), target, at + column)
        at += columns


@helper
def copy_framed(target, at, row_size, image, start, size, frame):
    """Copy what an image of that ``size``, (H, W, C), which lies at ``image[start:]``, has inside of a frame (top,
    left, height, width) to ``target[at:]``, (height, width, C) with rows ``row_size`` apart, with zeros where the frame
    reaches over the edge."""
    (H, W, C), (top, left, height, width) = size, frame
    before = min(max(0, -left), width)
    inside = max(0, min(W, left + width) - max(0, left))
    for row in range(top, top + height):
        if 0 <= row < H and inside > 0:
            fill(target, at, before * C, np.float32(0))
            copy(target, at + before * C, image, start + (row * W + left + before) * C, inside * C)
            fill(target, at + (before + inside) * C, (width - before - inside) * C, np.float32(0))
        else:
            fill(target, at, width * C, np.float32(0))
        at += row_size


@helper(forceinline=True)
def prefetch_lines(array, first, last):
    """Prefetch ``array[first:last]``. (Not a call, before which a register tile would be put into memory.)"""
    for line in range(first, last, 16):
        prefetch(array, line)


@helper
def prefetch_part(array, start, size, part, count, parts):
    """Prefetch, of ``array[start : start + size]``, cut into ``parts`` parts, ``count`` of them from ``part`` on."""
    prefetch_lines(array, start + part * size // parts, start + min(part + count, parts) * size // parts)


def pack(work, w, taps, columns):
    """Pack filters (taps, C, F) in panels, [panel][tap][c][columns of f]. Parallel over taps and blocks of channels."""
    _run_pack(_pack_block, work, w, taps, columns, BLOCK)


def pack_transposed(work, w, taps, columns):
    """The same of the transposed filters: [panel][tap][f][columns of c]."""
    _run_pack(_pack_transposed, work, w, taps, columns, columns)


def _run_pack(pack_block, work, w, taps, columns, channels):
    C, F = w.shape[-2:]
    parts = taps * -(-C // channels)
    tasks = min(parts, pieces(w.size, cost=4))
    run(_packing(pack_block), tasks, *flat(w, NOTHING, NOTHING, work), (tasks, parts, taps, C, F, columns, channels))


@functools.cache
def _packing(pack_block):
    """The kernel that packs a task's share of the blocks, of so many channels and one tap each."""

    @kernel
    def pack_blocks(task, w, _, __, work, numbers):
        tasks, parts, taps, C, F, columns, channels = numbers
        first, last = share(task, tasks, parts)
        for part in range(first, last):
            tap, begin = part % taps, part // taps * channels
            pack_block(work, w, tap, (begin, min(channels, C - begin)), taps, C, F, columns)

    return pack_blocks


@helper
def _pack_block(work, w, tap, block, taps, C, F, columns):
    """A block of channels, which begins with one and has so many."""
    first, count = block
    for panel in range(-(-F // columns)):
        at = ((panel * taps + tap) * C + first) * columns
        copy_panel(work, at, w, (tap * C + first) * F, F, count, panel * columns, columns)


@helper
def _pack_transposed(work, w, tap, block, taps, C, F, columns):
    """A block, transposed: a panel's part of this tap."""
    (first, count), start = block, (tap * C + block[0]) * F
    at = (first * taps + tap * columns) * F
    for f in range(F):
        line = work[at + f * columns : at + (f + 1) * columns]
        for c in range(count):
            line[c] = w[start + f + c * F]
        for c in range(count, columns):
            line[c] = np.float32(0)
