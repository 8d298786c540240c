"""What all kernels of conv -> ReLU -> max-pool know, and how they read an image."""

from typing import NamedTuple

import numpy as np

from tinyconv.kernels.cpu.registers.copies import copy_window
from tinyconv.kernels.cpu.runtime.tasks import helper


class Step(NamedTuple):
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
    pieces: int  # plain forward: tasks for each image
    parts: int  # backward: partial sums of dw, each of a part of the batch
    single: int  # the filters one by one, (F, KH * KW * C); before them, at 0, the packed or transformed filters
    bias: int  # of the forward, filled up with zeros to whole panels
    scratch: int  # one scratch for each thread
    scratch_size: int
    sums: int  # the partial sums of dw: for each part, for each block of filters (see ``sparse.block_of``)
    sum_size: int
    end: int
    scale: int  # backward: a factor of all gradients, as the bits of a float64


COUNT = len(Step._fields)


@helper
def scale_of(s):
    """The factor of all gradients."""
    return np.float32(np.int64(s.scale).view(np.float64))


@helper
def read_image(s, x, n, images, top, height, work, at):
    """Where the pixels begin that ``height`` rows of image n need, from row ``top`` on.

    Whether they had to be copied to ``work[at:]``, since windows reach over the edge; where they begin, there or in x;
    how far apart their rows lie; and how far apart ``images`` such images.
    """
    width = 2 * s.PW + s.KW - 1
    if top >= 0 and s.left == 0 and top + height <= s.H and width <= s.W:
        return False, (n * s.H + top) * s.W * s.C, s.W * s.C, s.H * s.W * s.C
    size = height * width * s.C
    for i in range(images):
        start = (n + i) * s.H * s.W * s.C
        copy_window(work, at + i * size, x, start, (s.H, s.W, s.C), top, -s.left, height, width)
    return True, at, width * s.C, size
