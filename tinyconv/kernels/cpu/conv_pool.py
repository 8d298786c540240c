"""Conv -> ReLU -> 2 x 2 max-pool as one step: choose the algorithms, and run them.

Only pooled outputs and winners are written. ``convolution/choice.py`` says which algorithm computes what, and why; each
is a file of that folder. Backward, only the winners are visited (``pooled_winners.py``).

Parallel over tasks (see ``runtime/tasks.py``). ``work`` holds the packed (or transformed) filters, the filters one by
one, the bias filled up to whole panels, a scratch for each thread, and the partial sums of dw.
"""

import functools
from typing import NamedTuple

import numba

from tinyconv.kernels.cpu.convolution.choice import choose
from tinyconv.kernels.cpu.convolution.pooled import add_parts, bias_place, pooled_convolution, pooled_geometry
from tinyconv.kernels.cpu.registers.copies import copy
from tinyconv.kernels.cpu.registers.host import LANES
from tinyconv.kernels.cpu.registers.tile import tile_shape
from tinyconv.kernels.cpu.runtime.jobs import TASKS, Job, whole_lines
from tinyconv.kernels.cpu.runtime.tasks import NOTHING, floats, in_tasks, kernel


class PooledJobs(NamedTuple):
    """The jobs of a step, and the size of ``work``."""

    set_bias: Job
    forward: Job
    dx: Job
    dw: Job  # in partial sums
    add_parts: Job  # of dw
    size: int


@functools.lru_cache(1024)
def pooled_jobs(out_shape, x_shape, w_shape, padding):
    """The jobs of a step by the algorithms chosen for it, and where they have what in ``work``."""
    layer = pooled_convolution(out_shape, x_shape, w_shape, padding)
    chosen = choose(layer, pooled=True)
    forward, dx, sums = chosen.forward.forward(layer), chosen.dx.dx(layer), chosen.dw.dw(layer)
    N, F, K = layer.N, layer.F, layer.KH * layer.KW * layer.C
    columns, blocks = tile_shape(F)[1] * LANES, -(-F // sums.block)
    single = forward.filters
    bias = bias_place(single, w_shape)
    scratch, parts = bias + whole_lines(-(-F // columns) * columns), min(N, -(-TASKS // blocks))
    scratch_size = whole_lines(max(forward.scratch, dx.scratch, sums.scratch) + LANES)
    first = scratch + numba.config.NUMBA_NUM_THREADS * scratch_size
    part_size = blocks * sums.size
    places = {"single": single, "bias": bias, "scratch": scratch, "scratch_size": scratch_size, "sums": first}
    places |= {"sum_size": sums.size, "parts": parts, "rows": sums.rows}
    set_bias = Job(_set_bias, 1, (bias,))
    dw = Job(sums.kernel, parts * blocks, pooled_geometry(layer))
    layout = sums.size, sums.filter_step, sums.number_step, sums.bias
    adding = Job(add_parts, -(-K // LANES), (K, F, sums.block, parts, first, part_size, *layout))
    placed = (job.place(**places) for job in (forward, dx, dw))
    return PooledJobs(set_bias, *placed, adding, first + parts * part_size)


def conv2d_relu_max_pool2d_workspace(out_shape, x_shape, w_shape, padding):
    """See the top of the file."""
    return pooled_jobs(out_shape, x_shape, w_shape, padding).size


@in_tasks
def conv2d_relu_max_pool2d_prepare(work, w):
    """Pack or transform the filters, and put them one by one behind. Shapes of images do not matter here."""
    some = (0, 0, 0, w.shape[3]), (0, 0, 0, w.shape[2])
    choose(pooled_convolution(*some, w.shape, (0, 0)), pooled=True).forward.prepare(work, w)


@in_tasks
def conv2d_relu_max_pool2d_forward(out, argmax, x, w, b, work, padding):
    """Parallel over blocks of Winograd's tiles, or over images and bands of them."""
    found = pooled_jobs(out.shape, x.shape, w.shape, padding)
    found.set_bias.run(b, NOTHING, NOTHING, work)
    found.forward.run(out, x, argmax, work)


@kernel
def _set_bias(task, b, _, __, work, numbers):
    """The bias to where it is filled up with zeros."""
    (bias,) = numbers
    copy(work, bias, b, 0, b.size)


@in_tasks
def conv2d_relu_max_pool2d_backward(dx, dw, db, dout, argmax, x, w, work, padding, scale):
    """dw and db, parallel over parts of the batch and blocks of filters, then added; dx, parallel over images."""
    found = pooled_jobs(dout.shape, x.shape, w.shape, padding)
    found.dw.run(dout, x, argmax, work, floats(scale))
    found.add_parts.run(dw, db, NOTHING, work)
    if dx.size:
        found.dx.run(dx, dout, argmax, work, floats(scale))
