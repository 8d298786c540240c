"""What the kernels of a convolution know about it, and how its work is cut into tasks."""

from collections.abc import Callable
from typing import Any, NamedTuple

from tinyconv.kernels.cpu.runtime.tasks import helper

CACHED = 96 * 1024  # floats that a task should read again and again, with a panel of filters beside: 3/8 of 1 MiB of L2
TASKS = 16  # into how many tasks a kernel is cut where the shapes allow: enough for some cores, few enough to be cheap


class Numbers(NamedTuple):
    """What a kernel must know: shapes, how they are cut into tasks, and where in ``work`` things are (in floats)."""

    N: int  # images
    H: int  # of what is read: x, or dout for dx
    W: int
    C: int
    OH: int  # of the result: out, or dx; for dw, of dout
    OW: int
    F: int
    KH: int
    KW: int
    stride: int
    stride_w: int
    top: int  # the padding
    left: int
    dilation: int
    dilation_w: int
    transposed: int  # whether this is dx
    relu: int
    images: int  # dw: images per unit
    rows: int  # rows of the result (dx: times the stride) per task; dw: rows of dout per unit, all if images > 1
    group: int  # panels whose filters stay in the cache while the tiles go by; dw: panels per task
    parts: int  # dw: how many partial sums
    filters: int
    scratch: int
    scratch_size: int
    sums: int


COUNT = len(Numbers._fields)


class Pass(NamedTuple):
    """One pass over a batch: the kernel, how many tasks it has, and what it must know."""

    kernel: Callable
    tasks: int
    numbers: Any  # a NamedTuple, until its places in ``work`` are known: then an array


def numbers_of(*numbers, **more):
    """Numbers, zero where nothing is said."""
    return Numbers(*numbers, *[0] * (COUNT - len(numbers)))._replace(**more)


def window_size(rows, OW, w_shape, strides, dilation):
    """Floats of x under so many rows of out."""
    KH, KW, C, F = w_shape
    height = (rows - 1) * strides[0] + (KH - 1) * dilation[0] + 1
    return height * ((OW - 1) * strides[1] + (KW - 1) * dilation[1] + 1) * C


def cut_rows(rows, images, size, least):
    """How many of an image's ``rows`` a task takes: few enough that their ``size(rows)`` is at most CACHED and that
    there are TASKS tasks, but not fewer than ``least``."""
    bands = min(-(-TASKS // max(1, images)), max(1, rows // least))
    while bands < rows and size(-(-rows // bands)) > CACHED:
        bands += 1
    return -(-rows // bands)


def whole_lines(size):
    """A size in floats, rounded up to whole cache lines."""
    return -(-size // 16) * 16


@helper
def window(transposed, first, last, K, s, d, p):
    """The first pixel of the image that the pixels ``first .. last`` of the result meet, and how many from there on."""
    if transposed:
        start = (first + p - (K - 1) * d) // s
        return start, (last + p) // s - start + 1
    return first * s - p, (last - first) * s + (K - 1) * d + 1
