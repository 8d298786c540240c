"""A convolution's shapes, what its kernels know about it, and how its work is cut into tasks."""

from typing import NamedTuple

from tinyconv.kernels.cpu.registers.copies import copy_framed
from tinyconv.kernels.cpu.runtime.jobs import TASKS
from tinyconv.kernels.cpu.runtime.tasks import helper

CACHED = 96 * 1024  # floats that a task should read again and again, with a panel of filters beside: 3/8 of 1 MiB of L2
GAP = 16  # floats behind a row of copied pixels: else rows of a power of two all lie in the same few places of L1


class Convolution(NamedTuple):
    """The shapes of a convolution: out (N, OH, OW, F) from x (N, H, W, C) and w (KH, KW, C, F)."""

    N: int
    OH: int
    OW: int
    F: int
    H: int
    W: int
    C: int
    KH: int
    KW: int
    strides: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)  # top, left
    dilation: tuple[int, int] = (1, 1)


def convolution_of(out_shape, x_shape, w_shape, strides=(1, 1), padding=(0, 0), dilation=(1, 1)):
    """The convolution between arrays of these shapes."""
    _, H, W, C = x_shape
    return Convolution(*out_shape, H, W, C, *w_shape[:2], strides, padding, dilation)


class Geometry(NamedTuple):
    """What a kernel must know: shapes, how they are cut into tasks, and where in ``work`` things are (in floats).

    A kernel reads a source and writes a destination: forward x and out, for dx dout and dx. For dw the source is x, and
    the destination's shape that of dout.
    """

    N: int  # images
    src_H: int
    src_W: int
    src_C: int
    dst_H: int
    dst_W: int
    dst_C: int
    KH: int
    KW: int
    stride: int
    stride_w: int
    top: int  # the padding
    left: int
    dilation: int
    dilation_w: int
    transposed: int = 0  # whether this is dx
    relu: int = 0
    images: int = 0  # dw: images per unit
    rows: int = 0  # rows of the result (dx: times the stride) per task; dw: rows of dout per unit, all if images > 1
    group: int = 0  # panels whose filters stay in the cache while the tiles go by; dw: panels per task
    parts: int = 0  # dw: how many partial sums
    scratch: int = 0
    scratch_size: int = 0
    sums: int = 0


def forward_geometry(layer, **cut):
    """The source is x, the destination out."""
    N, OH, OW, F, H, W, C, KH, KW, strides, padding, dilation = layer
    return Geometry(N, H, W, C, OH, OW, F, KH, KW, *strides, *padding, *dilation, **cut)


def dx_geometry(layer, **cut):
    """The source is dout, the destination dx."""
    N, OH, OW, F, H, W, C, KH, KW, strides, padding, dilation = layer
    return Geometry(N, OH, OW, F, H, W, C, KH, KW, *strides, *padding, *dilation, transposed=True, **cut)


def floats_under(layer):
    """A function: the floats of x that so many rows of out meet."""

    def floats(rows):
        height = (rows - 1) * layer.strides[0] + (layer.KH - 1) * layer.dilation[0] + 1
        width = (layer.OW - 1) * layer.strides[1] + (layer.KW - 1) * layer.dilation[1] + 1
        return height * (width * layer.C + GAP)

    return floats


def cut_rows(rows, images, size, least):
    """How many of an image's ``rows`` a task takes: few enough that their ``size(rows)`` is at most CACHED and that
    there are TASKS tasks, but not fewer than ``least``."""
    bands = min(-(-TASKS // max(1, images)), max(1, rows // least))
    while bands < rows and size(-(-rows // bands)) > CACHED:
        bands += 1
    return -(-rows // bands)


@helper
def pixels_met(transposed, first, last, K, s, d, p):
    """The first pixel of the source that pixels ``first .. last`` of the destination meet, and how many from there on:
    along one axis, with K taps, stride s, dilation d and padding p."""
    if transposed:
        start = (first + p - (K - 1) * d) // s
        return start, (last + p) // s - start + 1
    return first * s - p, (last - first) * s + (K - 1) * d + 1


@helper
def read_pixels(work, at, src, size, n, images, frame):
    """Where the pixels of a frame (top, left, height, width) lie in each of ``images`` images from image n on.

    Whether they had to be copied to ``work[at:]``, since the frame reaches over the edge of an image of that ``size``,
    (H, W, C); where they begin, there or in ``src``; how far apart their rows are; and how far apart the images.
    """
    (H, W, C), (top, left, height, width) = size, frame
    if top >= 0 and left >= 0 and top + height <= H and left + width <= W:
        return False, ((n * H + top) * W + left) * C, W * C, H * W * C
    row_size = width * C + GAP
    for i in range(images):
        copy_framed(work, at + i * height * row_size, row_size, src, (n + i) * H * W * C, size, frame)
    return True, at, row_size, height * row_size
