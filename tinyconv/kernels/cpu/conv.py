"""Convolutions of any shape, stride, padding and dilation: which kernels compute them, and where things are stored.

Forward and dx are one kernel, ``direct.py``, or, for most 3 x 3 convolutions, Winograd's method, which needs fewer
multiplications (``winograd.py``); dx of few channels is ``col2im.py``, and dw ``filter_gradient.py``. All run on
the register tile (``tile.py``).

* Filters are packed by ``conv2d_prepare`` in *panels* of V vectors, filled up with zeros, or transformed: what the
  inner loop reads is contiguous and has no tail.
* Where windows reach over the edge of the image, what a task needs is first copied into its thread's scratch, with a
  border of zeros: the inner loop has no bounds tests, and the copy stays in the L2 cache.
* Parallel over tasks (see ``tasks.py``) that each own a piece of the result; for dw, a piece of one of a fixed number
  of partial sums, which are then added in order. Neither depends on the number of threads, so nor do the bits.

``work`` holds the packed (or transformed) filters, those of dx, a scratch for each thread, and the partial sums.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numba
import numpy as np

from tinyconv.kernels.cpu.convolution import direct, filter_gradient, winograd
from tinyconv.kernels.cpu.convolution.geometry import Pass, whole_lines
from tinyconv.kernels.cpu.registers.host import LANES
from tinyconv.kernels.cpu.registers.tile import tile_shape
from tinyconv.kernels.cpu.runtime.tasks import NOTHING, in_tasks, run


class Plan(NamedTuple):
    """How the filters are prepared, the passes, and the size of ``work``."""

    prepare: Callable[[np.ndarray, np.ndarray], None]
    forward: Pass
    dx: Pass
    dw: Pass
    size: int


@functools.lru_cache(1024)
def plan(out_shape, x_shape, w_shape, strides, padding, dilation, relu=False):
    """How a convolution is computed, cut into tasks, and laid out in ``work``."""
    shapes, geometry = (out_shape, x_shape, w_shape), (strides, padding, dilation)
    by_winograd = winograd.pays(out_shape, w_shape, strides, dilation)
    prepare, forward, dx, filters, needs = (_winograd if by_winograd else direct.plan)(*shapes, *geometry, relu)
    dw, sums_size, unit = filter_gradient.plan(*shapes, *geometry)
    scratch, scratch_size = whole_lines(filters), whole_lines(max(needs, unit) + 4 * LANES)
    sums = scratch + numba.config.NUMBA_NUM_THREADS * scratch_size
    places = {"scratch": scratch, "scratch_size": scratch_size}
    passes = (_place(forward, **places), _place(dx, **places), _place(dw, **places, sums=sums))
    return Plan(prepare, *passes, sums + sums_size)


def _place(pass_, **places):
    """The pass with its numbers as an array."""
    return pass_._replace(numbers=np.array(pass_.numbers._replace(**places), np.int64))


def _winograd(out_shape, x_shape, w_shape, strides, padding, dilation, relu):
    """What ``correlate.plan`` says, where forward and dx go by Winograd's method."""
    size = winograd.filters_size(w_shape)
    forward = winograd.plan(out_shape, x_shape, padding)._replace(relu=relu)
    dx = winograd.plan(x_shape, out_shape, tuple(2 - p for p in padding))._replace(filters=size)
    passes = (Pass(*winograd.kernel_of(s), s) for s in (forward, dx))
    return winograd.prepare, *passes, 2 * size, winograd.scratch_size(forward, dx)


def conv2d_workspace(out_shape, x_shape, w_shape, strides, padding, dilation):
    """See the top of the file."""
    return plan(out_shape, x_shape, w_shape, strides, padding, dilation).size


@in_tasks
def conv2d_prepare(work, w, out_shape, x_shape, strides, padding, dilation):
    """Pack or transform the filters, and those of dx behind them."""
    plan(out_shape, x_shape, w.shape, strides, padding, dilation).prepare(work, w)


@in_tasks
def conv2d_forward(out, x, w, b, work, strides, padding, dilation, relu):
    """Parallel over images and bands of rows, or over blocks of Winograd's tiles."""
    forward = plan(out.shape, x.shape, w.shape, strides, padding, dilation, bool(relu)).forward
    run(forward.kernel, forward.tasks, out, x, b, work, forward.numbers)


@in_tasks
def conv2d_backward(dx, dw, db, dout, x, w, work, strides, padding, dilation):
    """dw and db, parallel over panels and partial sums; then dx, as the forward."""
    KH, KW, C, F = w.shape
    cut = plan(dout.shape, x.shape, w.shape, strides, padding, dilation)
    run(cut.dw.kernel, cut.dw.tasks, dout, x, NOTHING, work, cut.dw.numbers)
    run(filter_gradient.make_add_parts(*tile_shape(F)), KH * KW + 1, dw, db, NOTHING, work, cut.dw.numbers)
    if dx.size:
        run(cut.dx.kernel, cut.dx.tasks, dx, dout, NOTHING, work, cut.dx.numbers)
