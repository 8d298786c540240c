"""What all kernels of conv -> ReLU -> max-pool know, how they read an image, and how partial sums of dw are added."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tinyconv.kernels.cpu.convolution.geometry import GAP, Convolution, read_pixels
from tinyconv.kernels.cpu.registers.copies import fill
from tinyconv.kernels.cpu.registers.host import LANES
from tinyconv.kernels.cpu.registers.vector import vector_load, vector_store
from tinyconv.kernels.cpu.runtime.jobs import whole_lines
from tinyconv.kernels.cpu.runtime.tasks import helper, kernel
from tinyconv.kernels.cpu.runtime.views import stack_array


def pooled_convolution(out_shape, x_shape, w_shape, padding):
    """The convolution of a step with these pooled outputs: as far as pooling looks at it."""
    N, PH, PW, F = out_shape
    _, H, W, C = x_shape
    return Convolution(N, 2 * PH, 2 * PW, F, H, W, C, *w_shape[:2], padding=padding)


class PooledGeometry(NamedTuple):
    """The shapes of a step, how it is cut into tasks, and where in ``work`` things lie (in floats)."""

    N: int  # images
    PH: int  # pooled rows and columns
    PW: int
    F: int  # filters
    H: int  # of an image
    W: int
    C: int
    KH: int  # of a filter
    KW: int
    top: int  # padding
    left: int
    bands: int = 0  # plain forward: tasks for each image
    parts: int = 0  # dw: partial sums, each of a part of the batch
    rows: int = 0  # dw of unpooled gradients: rows of windows at a time
    single: int = 0  # the filters one by one, (F, KH * KW * C); before them, at 0, the packed or transformed filters
    bias: int = 0  # of the forward, filled up with zeros to whole panels
    scratch: int = 0  # one scratch for each thread
    scratch_size: int = 0
    sums: int = 0  # the partial sums of dw: for each part, for each block of filters
    sum_size: int = 0


def pooled_geometry(layer, bands=0):
    """The shapes of a step; the rest is still to be filled in."""
    N, OH, OW, F, H, W, C, KH, KW, *_ = layer
    return PooledGeometry(N, OH // 2, OW // 2, F, H, W, C, KH, KW, *layer.padding, bands)


def floats_seen(layer):
    """Floats of the pixels that an image's pooling windows see."""
    return (layer.OH + layer.KH - 1) * ((layer.OW + layer.KW - 1) * layer.C + GAP)


def bias_place(single, w_shape):
    """Where in ``work`` the bias begins: behind the single filters, which begin at ``single``."""
    return single + whole_lines(math.prod(w_shape))


class Sums(NamedTuple):
    """How dw is summed: by which kernel, a block of how many filters at a time, and how a partial sum is laid out.

    Number k of a filter stands at ``filter * filter_step + k * number_step``, its bias at ``bias + filter``.
    """

    kernel: Callable
    block: int
    size: int
    filter_step: int
    number_step: int
    bias: int
    scratch: int  # floats that a thread needs
    rows: int = 0  # of windows at a time, where an image's are taken apart


@helper
def read_windows(g, x, n, images, top, height, work, at):
    """Where the pixels lie that ``height`` rows of pooling windows need, from row ``top`` of image n on, and of the
    images behind it: see ``read_pixels``."""
    return read_pixels(work, at, x, (g.H, g.W, g.C), n, images, (top, -g.left, height, 2 * g.PW + g.KW - 1))


@kernel
def add_parts(task, dw, db, _, work, numbers):
    """Add the partial sums in order: LANES numbers of each filter, and in the first task the biases. See ``Sums``."""
    K, F, width, parts, sums, part_size, sum_size, filter_step, number_step, bias = numbers
    first = task * LANES
    count = min(LANES, K - first)
    total = stack_array(LANES, np.float32)
    for f in range(F):
        block = sums + f // width * sum_size
        place = block + f % width * filter_step + first * number_step
        fill(total, 0, LANES, np.float32(0))
        for _ in range(parts):
            if number_step == 1 and count == LANES:
                vector_store(vector_load(total, 0) + vector_load(work, place), total, 0)
            else:
                for k in range(count):
                    total[k] += work[place + k * number_step]
            place += part_size
        for k in range(count):
            dw[(first + k) * F + f] = total[k]
        if task == 0:
            db[f] = np.float32(0)
            for part in range(parts):
                db[f] += work[block + bias + f % width + part * part_size]
