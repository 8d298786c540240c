"""The forward pass of conv -> ReLU -> max-pool by Winograd's method, whose tiles of outputs are the pooling windows."""

import functools

from tinyconv.kernels.cpu.convolution.winograd import job_of, outputs, tiling_of
from tinyconv.kernels.cpu.convolution.winograd_filters import transform_filters, transpose
from tinyconv.kernels.cpu.registers.host import LANES
from tinyconv.kernels.cpu.registers.pooled_stores import vectors_store_pooled
from tinyconv.kernels.cpu.registers.tile import tile_shape
from tinyconv.kernels.cpu.registers.vector import vector_load
from tinyconv.kernels.cpu.runtime.jobs import Job
from tinyconv.kernels.cpu.runtime.tasks import NOTHING, helper, kernel


def prepare(work, w):
    """Transform the filters, and put them one by one behind. Parallel over panels and blocks of channels."""
    _preparation(w.shape).run(w, NOTHING, NOTHING, work)


@functools.lru_cache(1024)
def _preparation(w_shape):
    """The job that prepares filters of such a shape."""
    _, _, C, F = w_shape
    columns = tile_shape(F)[1] * LANES
    return Job(_prepare, F // columns * (C // LANES), (C, F, columns, 16 * C * F))


def forward(layer):
    """The job of the forward pass."""
    return job_of(tiling_of(layer), _pool)


@kernel
def _prepare(task, w, _, __, work, numbers):
    """LANES channels of a panel of the filters (3, 3, C, F) to [panel][16][C][columns of F], and, one by one, to
    ``work[single:]``, (F, 9 * C)."""
    C, F, columns, single = numbers
    blocks = C // LANES
    panel, c = task // blocks, task % blocks * LANES
    for f in range(0, columns, LANES):
        filter_ = panel * columns + f
        place, at = c * F + filter_, (panel * 16 * C + c) * columns + f
        transform_filters(work, at, C * columns, w, place, C * F, LANES, F, columns)
        transpose(work, single + filter_ * 9 * C + c, C, 9 * C, w, place, C * F, F)


@helper
def _pool(out, argmax, work, g, place, first, columns, products, size):
    """Add the bias to the outputs of a tile, filters first .. first + columns - 1; pool, and write."""
    n, i, j = place
    at = ((n * g.down + i) * g.across + j) * g.dst_C + first
    for f in range(0, columns, LANES):
        a, b, c, d = outputs(work, products + f, size)
        bias = vector_load(work, g.bias + first + f)
        vectors_store_pooled(a + bias, b + bias, c + bias, d + bias, out, argmax, at + f)
