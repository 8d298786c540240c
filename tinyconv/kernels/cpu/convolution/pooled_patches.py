"""dw of conv -> ReLU -> max-pool for 3 x 3 filters of one channel, where a vector has 16 lanes.

The 4 x 4 pixels that a pooling window sees are then one register, from which each lane, a filter, picks the nine pixels
that its winner saw. Summed in parts of the batch as in ``pooled_winners.py``.
"""

import numba
import numpy as np

from tinyconv.kernels.cpu.convolution.pooled import Sums, floats_seen, read_windows
from tinyconv.kernels.cpu.registers.host import LANES
from tinyconv.kernels.cpu.registers.pooled_stores import patch_load, tile_add_chosen
from tinyconv.kernels.cpu.registers.tile import tile_store, tile_zeros
from tinyconv.kernels.cpu.registers.vector import select, vector_fill, vector_load, vector_store
from tinyconv.kernels.cpu.runtime.jobs import whole_lines
from tinyconv.kernels.cpu.runtime.tasks import kernel


def dw(layer):
    """How dw is summed."""
    return Sums(patches_to_filters, LANES, whole_lines(10 * LANES), 1, LANES, 9 * LANES, floats_seen(layer))


@kernel
def patches_to_filters(task, dout, x, argmax, work, g, scales):
    """A partial sum of dw and db, for 3 x 3 filters of one channel: one part of the batch, one block of LANES filters,
    whose gradients stay in registers."""
    blocks = g.F // LANES
    part, block = task // blocks, task % blocks
    copy = g.scratch + numba.get_thread_id() * g.scratch_size
    zero, scale, nobody = vector_fill(np.float32(0)), vector_fill(np.float32(scales[0])), vector_fill(np.int32(-1))
    tile, bias = tile_zeros(9, 1), zero
    for n in range(part * g.N // g.parts, (part + 1) * g.N // g.parts):
        copied, origin, row_size, _ = read_windows(g, x, n, 1, -g.top, 2 * g.PH + 2, work, copy)
        source = work if copied else x
        place = n * g.PH * g.PW * g.F + block * LANES
        for i in range(g.PH):
            for j in range(g.PW):
                winner = vector_load(argmax, place)
                gradient = select(winner == nobody, zero, scale * vector_load(dout, place))
                bias = bias + gradient
                patch = patch_load(source, origin + 2 * i * row_size + 2 * j, row_size)
                tile = tile_add_chosen(tile, patch, winner, gradient)
                place += g.F
    total = g.sums + task * g.sum_size
    tile_store(tile, work, total, LANES)
    vector_store(bias, work, total + 9 * LANES)
