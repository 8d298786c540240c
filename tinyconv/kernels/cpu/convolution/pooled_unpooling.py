"""dw of conv -> ReLU -> max-pool for filters of any shape.

For each of a window's four positions the gradient, with the other positions' winners masked out, times the pixels.
Summed in parts of the batch as in ``pooled_winners.py``.
"""

import functools

import numba
import numpy as np

from tinyconv.kernels.cpu.convolution.pooled import Sums, floats_seen, read_windows
from tinyconv.kernels.cpu.registers.copies import fill
from tinyconv.kernels.cpu.registers.host import LANES, REGISTERS
from tinyconv.kernels.cpu.registers.pooled_stores import tile_multiply_add_vector
from tinyconv.kernels.cpu.registers.tile import pixel_offsets, tile_load, tile_store
from tinyconv.kernels.cpu.registers.vector import select, vector_fill, vector_load
from tinyconv.kernels.cpu.runtime.jobs import whole_lines
from tinyconv.kernels.cpu.runtime.tasks import helper, kernel
from tinyconv.kernels.cpu.runtime.views import same_memory


def dw(layer):
    """How dw is summed: in tiles one vector wide over the K numbers of a window, as even as registers allow."""
    K, most = layer.KH * layer.KW * layer.C, REGISTERS - 5
    R = -(-K // -(-K // most))
    size = whole_lines((-(-K // R) * R + 1) * LANES)
    scratch = floats_seen(layer) + 2 * (layer.OH // 2) * (layer.OW // 2) * LANES
    return Sums(make_positions_to_filters(R), LANES, size, 1, LANES, size - LANES, scratch)


@helper
def _stage(work, at, dout, argmax, g, n, f, bias, scale):
    """Image n's gradient of LANES filters from f on, scaled and 0 where nothing won, to ``work[at:]``, (windows,
    LANES), and behind it the winners, as integers. The gradients are also added to ``work[bias:]``."""
    integers = same_memory(work, np.int32)
    windows, count = g.PH * g.PW, min(LANES, g.F - f)
    place, winners = n * windows * g.F + f, at + windows * LANES
    for _ in range(windows):
        for lane in range(LANES):
            winner = np.int32(argmax[place + lane] if lane < count else -1)
            gradient = dout[place + lane] * scale if winner >= 0 else np.float32(0)
            integers[winners + lane] = winner
            work[at + lane] = gradient
            work[bias + lane] += gradient
        place, at, winners = place + g.F, at + LANES, winners + LANES


@functools.cache
def make_positions_to_filters(R):
    """The kernel of dw for any filters, R numbers of a window in registers."""

    @kernel
    def positions_to_filters(task, dout, x, argmax, work, g, scales):
        """A partial sum of dw and db: one part of the batch, one block of LANES filters."""
        blocks, windows, run = -(-g.F // LANES), g.PH * g.PW, g.KW * g.C
        part, block, K = task // blocks, task % blocks, g.KH * run
        total = g.sums + task * g.sum_size
        fill(work, total, g.sum_size, np.float32(0))
        scale, integers, zero = np.float32(scales[0]), same_memory(work, np.int32), vector_fill(np.float32(0))
        at = g.scratch + numba.get_thread_id() * g.scratch_size
        for n in range(part * g.N // g.parts, (part + 1) * g.N // g.parts):
            copy = at + 2 * windows * LANES
            copied, origin, row_size, _ = read_windows(g, x, n, 1, -g.top, 2 * g.PH + g.KH - 1, work, copy)
            source = work if copied else x
            _stage(work, at, dout, argmax, g, n, block * LANES, total + g.sum_size - LANES, scale)
            for row in range(0, K, R):
                reads = pixel_offsets(row, K - 1, run, row_size, 1, R)
                tile = tile_load(work, total + row * LANES, LANES, R, 1)
                for window in range(windows):
                    here = at + window * LANES
                    gradient, winner = vector_load(work, here), vector_load(integers, here + windows * LANES)
                    place = origin + 2 * (window // g.PW) * row_size + 2 * (window % g.PW) * g.C
                    for position in range(4):
                        mine = select(winner == vector_fill(np.int32(position)), gradient, zero)
                        pixel = place + position // 2 * row_size + position % 2 * g.C
                        tile = tile_multiply_add_vector(tile, source, reads, pixel, mine)
                tile_store(tile, work, total + row * LANES, LANES)

    return positions_to_filters
