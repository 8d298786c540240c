"""Convolutions of any shape, stride, padding and dilation: choose the algorithms, and run them.

``convolution/choice.py`` says which algorithm computes what, and why; each is a file of that folder, and all are built
on the register tile (``registers/tile.py``).

* Filters are packed in *panels* of V vectors, filled up with zeros, or transformed: what the inner loop reads is
  contiguous and has no tail.
* Where windows reach over the edge of the image, what a task needs is first copied into its thread's scratch, with a
  border of zeros: the inner loop has no bounds tests, and the copy stays in the L2 cache.
* Parallel over tasks (see ``runtime/tasks.py``) that each own a piece of the result; for dw, a piece of one of a fixed
  number of partial sums, which are then added in order. Neither depends on the number of threads, so nor do the bits.

``work`` holds the packed (or transformed) filters, a scratch for each thread, and the partial sums. dx packs its own
filters, to where the forward pass had its.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numba
import numpy as np

from tinyconv.kernels.cpu.convolution.choice import choose
from tinyconv.kernels.cpu.convolution.geometry import convolution_of
from tinyconv.kernels.cpu.registers.host import LANES
from tinyconv.kernels.cpu.runtime.cutting import pieces, share
from tinyconv.kernels.cpu.runtime.jobs import Job, whole_lines
from tinyconv.kernels.cpu.runtime.literals import ZERO
from tinyconv.kernels.cpu.runtime.tasks import NOTHING, in_tasks, kernel, run

PARTS, LEAST = 32, 16384  # into how many parts, at most, a sum over pixels is cut, and how many numbers each has


class Jobs(NamedTuple):
    """How the filters are prepared, the jobs of a convolution, and the size of ``work``."""

    prepare: Callable[[np.ndarray, np.ndarray], None]
    prepare_dx: Callable[[np.ndarray, np.ndarray], None]
    forward: Job
    dx: Job
    dw: Job  # in partial sums
    add_parts: Job  # of dw
    size: int


@functools.lru_cache(1024)
def jobs(out_shape, x_shape, w_shape, strides, padding, dilation, relu=False):
    """The jobs of a convolution by the algorithms chosen for it, and where they have what in ``work``."""
    layer = convolution_of(out_shape, x_shape, w_shape, strides, padding, dilation)
    chosen = choose(layer)
    forward, dx, (dw, add_parts) = chosen.forward.forward(layer, relu), chosen.dx.dx(layer), chosen.dw.dw(layer)
    scratch = whole_lines(max(forward.filters, dx.filters))
    scratch_size = whole_lines(max(forward.scratch, dx.scratch, dw.scratch) + 4 * LANES)
    sums = scratch + numba.config.NUMBA_NUM_THREADS * scratch_size
    places = {"scratch": scratch, "scratch_size": scratch_size, "sums": sums}
    placed = (job.place(**places) for job in (forward, dx, dw, add_parts))
    return Jobs(chosen.forward.prepare, chosen.dx.prepare_dx, *placed, sums + dw.sums)


def conv2d_workspace(out_shape, x_shape, w_shape, strides, padding, dilation):
    """See the top of the file."""
    return jobs(out_shape, x_shape, w_shape, strides, padding, dilation).size


@in_tasks
def conv2d_prepare(work, w, out_shape, x_shape, strides, padding, dilation):
    """Pack or transform the filters."""
    jobs(out_shape, x_shape, w.shape, strides, padding, dilation).prepare(work, w)


@in_tasks
def conv2d_forward(out, x, w, b, work, strides, padding, dilation, relu):
    """Parallel over images and bands of rows, or over blocks of Winograd's tiles."""
    jobs(out.shape, x.shape, w.shape, strides, padding, dilation, bool(relu)).forward.run(out, x, b, work)


@in_tasks
def conv2d_backward(dx, dw, db, dout, x, w, work, strides, padding, dilation):
    """dw and db, parallel over panels and partial sums, which are then added; dx as the forward."""
    found = jobs(dout.shape, x.shape, w.shape, strides, padding, dilation)
    found.dw.run(dout, x, NOTHING, work)
    found.add_parts.run(dw, db, NOTHING, work)
    if dx.size:
        found.prepare_dx(work, w)
        found.dx.run(dx, dout, NOTHING, work)


@kernel
def _add_bias(task, tasks, out, b):
    first, last = share(task, tasks, len(out))
    for m in range(first, last):
        o = out[m]
        for c in range(b.size):
            o[c] += b[c]


@in_tasks
def conv2d_transpose_prepare(work, w, out_shape, x_shape, strides, padding, dilation):
    """Pack or transform the filters of that convolution's dx."""
    jobs(out_shape, x_shape, w.shape, strides, padding, dilation).prepare_dx(work, w)


@in_tasks
def conv2d_transpose_forward(out, x, w, b, work, strides, padding, dilation):
    """That convolution's dx; then the bias, parallel over pixels."""
    jobs(x.shape, out.shape, w.shape, strides, padding, dilation).dx.run(out, x, NOTHING, work)
    tasks = pieces(out.size)
    run(_add_bias, tasks, tasks, out.reshape(-1, b.size), b)


@kernel
def _sum_parts(task, sums, dout):
    total = sums[task]
    total[:] = ZERO
    first, last = share(task, len(sums), len(dout))
    for m in range(first, last):
        g = dout[m]
        for c in range(g.size):
            total[c] += g[c]


@kernel
def _sum(task, db, sums):
    db[:] = ZERO
    for part in range(len(sums)):
        for c in range(db.size):
            db[c] += sums[part, c]


@in_tasks
def conv2d_transpose_backward(dx, dw, db, dout, x, w, work, strides, padding, dilation):
    """That convolution's dw, of which its db is of no use here; db in parts that are added in order; dx its forward."""
    found = jobs(x.shape, dout.shape, w.shape, strides, padding, dilation)
    found.dw.run(x, dout, NOTHING, work)
    found.add_parts.run(dw, np.empty(w.shape[3], np.float32), NOTHING, work)
    pixels = dout.reshape(-1, db.size)
    sums = np.empty((max(1, min(PARTS, dout.size // LEAST, len(pixels))), db.size), np.float32)
    run(_sum_parts, len(sums), sums, pixels)
    run(_sum, 1, db, sums)
    if dx.size:
        found.prepare(work, w)
        found.forward.run(dx, dout, np.zeros(w.shape[3], np.float32), work)
