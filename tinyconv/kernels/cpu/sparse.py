"""The backward pass of conv -> ReLU -> max-pool: from winner to winner.

Behind a 2 x 2 pooling at most one of four convolution outputs has a gradient, and where ReLU or a dropout gave zero
none has: early in training about a third of the pooled gradients are not zero, later a tenth. The kernels here look at
LANES filters of a window at once, turn "not zero" into the bits of an integer, and walk the bits that are set.

* ``make_pixels`` (dx): a winner adds its filter, times its gradient, to the pixels that it saw. The winners of one
  window at one position saw the same pixels, whose gradient stays in registers meanwhile.
* ``make_filters_sparse`` (dw, where rows of a filter are whole vectors): a winner adds the pixels that it saw, times
  its gradient, to its filter. An image's winners are first listed filter by filter, so that a filter's gradient stays
  in registers while its list is walked, and the image in the first-level cache.
* ``make_filters_dense`` (dw, any shape; best where there are few channels, as in a first layer): for each of the four
  positions the gradient, with the other positions' winners masked out, times the pixels.

The gradient of the filters is summed in a fixed number of parts of the batch, which are then added in order: the bits
do not depend on the number of threads.
"""

import functools

import numba
import numpy as np
from numba import prange

from tinyconv.kernels.cpu.conv import _copy_window
from tinyconv.kernels.cpu.host import LANES, REGISTERS
from tinyconv.kernels.cpu.jit import jit
from tinyconv.kernels.cpu.tile import (
    pixel_offsets,
    select,
    tile_add_scaled,
    tile_load,
    tile_store,
    trailing_zeros,
    vector_bits,
    vector_fill,
    vector_load,
    vector_multiply_add,
    vector_store,
)
from tinyconv.kernels.cpu.window import tile_multiply_add_vector

GROUP = 64 // LANES  # blocks whose winners are the bits of one integer
TASKS = 16  # of dw, where the batch allows: parts of the batch times blocks of filters


def parts_of(N, F):
    """In how many parts of the batch dw is summed."""
    return min(N, -(-TASKS // -(-F // LANES)))


def sparse_tile(KH, run):
    """(R, V) of a filter's gradient in registers: all of its rows, or a piece of one."""
    vectors = run // LANES
    R = KH if KH * vectors <= REGISTERS - 8 else 1
    return R, max(v for v in range(1, (REGISTERS - 8) // R + 1) if vectors % v == 0)


def pixel_tile(w_shape):
    """(R, V, whole) for ``make_pixels``: where a row of a filter is no whole number of vectors, row by row."""
    KH, KW, C, F = w_shape
    return (*sparse_tile(KH, KW * C), True) if is_sparse(w_shape) else (1, 1, False)


def is_sparse(w_shape):
    """Whether dw can be summed winner by winner: a row of a filter is whole vectors."""
    return w_shape[1] * w_shape[2] % LANES == 0


def sum_size(w_shape):
    """Floats of one partial sum of a block of LANES filters: their gradients, and those of their biases."""
    KH, KW, C, F = w_shape
    K = KH * KW * C
    R = dense_rows(K)
    return (-(-K // R) * R + 1) * LANES


def dense_rows(K):
    """Rows of a tile one vector wide over the K numbers of a window: as even as registers allow."""
    most = REGISTERS - 5
    return -(-K // -(-K // most))


def scratch_size(out_shape):
    """Floats that one thread needs beside the image: the gradient and its winners; for dw of one block, and lists."""
    windows, blocks = out_shape[1] * out_shape[2], -(-out_shape[3] // LANES)
    return max(4, 2 * blocks) * windows * LANES + LANES


@jit
def _stage_block(work, numbers, at, dout, argmax, n, f, scale):
    """Image n's gradient of LANES filters from f on, scaled and 0 where nothing won, to ``work[at:]``, (windows,
    LANES); and behind it the winners, as integers. ``numbers`` is ``work`` seen as int32."""
    N, PH, PW, F = dout.shape
    windows, count = PH * PW, min(LANES, F - f)
    flat, winners = dout.reshape(-1), argmax.reshape(-1)
    zero, factor, nobody = vector_fill(np.float32(0)), vector_fill(scale), vector_fill(np.int32(-1))
    for window in range(windows):
        here, place = at + window * LANES, (n * windows + window) * F + f
        if count == LANES:
            winner = vector_load(winners, place)
            vector_store(winner, numbers, here + windows * LANES)
            gradient = select(winner == nobody, zero, factor * vector_load(flat, place))
            vector_store(gradient, work, here)
        else:
            vector_store(nobody, numbers, here + windows * LANES)
            vector_store(zero, work, here)
            for lane in range(count):
                numbers[here + windows * LANES + lane] = np.int32(winners[place + lane])
                if winners[place + lane] >= 0:
                    work[here + lane] = flat[place + lane] * scale


@jit(forceinline=True)
def _bits(work, at):
    """Which of LANES numbers are not zero. A NaN is not."""
    return vector_bits(vector_load(work, at) != vector_fill(np.float32(0)))


@jit(forceinline=True)
def _add_scaled(target, to, factor, source, at, size):
    """``target[to : to + size] += factor * source[at : at + size]``."""
    vector = vector_fill(factor)
    whole = size // LANES * LANES
    for i in range(0, whole, LANES):
        total = vector_multiply_add(vector, vector_load(source, at + i), vector_load(target, to + i))
        vector_store(total, target, to + i)
    for i in range(whole, size):
        target[to + i] += factor * source[at + i]


@jit
def _winners_at(work, numbers, at, windows, window, block, blocks, position):
    """Which of up to 4 * LANES <= 64 filters, blocks ``block ..``, won the window at that position with a gradient
    that is not zero: one bit for each."""
    bits, zero, here = np.int64(0), vector_fill(np.float32(0)), vector_fill(np.int32(position))
    for i in range(blocks):
        place = at + 2 * (block + i) * windows * LANES + window * LANES
        alive = vector_load(work, place) != zero
        bits |= vector_bits(alive & (vector_load(numbers, place + windows * LANES) == here)) << (i * LANES)
    return bits


@functools.cache
def make_pixels(R, V, whole):
    """The kernel of dx with R x V vectors of a window's pixels in registers; ``whole``: these are all of its rows."""

    @jit(parallel=True)
    def gradient_of_pixels(dx, dout, argmax, w_shape, work, padding, scale, filters, scratch, scratch_size):
        """dx (N, H, W, C). Parallel over images. ``work[filters:]`` holds the filters one by one, (F, KH * KW * C)."""
        N, PH, PW, F = dout.shape
        N, H, W, C = dx.shape
        KH, KW, C, F = w_shape
        windows, run, blocks = PH * PW, KW * C, -(-F // LANES)
        step = V * LANES if whole else run
        height, width = 2 * PH + KH - 1, 2 * PW + KW - 1
        padded = padding[0] > 0 or padding[1] > 0 or height > H or width > W
        flat, numbers = dx.reshape(-1), work.view(np.int32)
        for index in prange(N):
            n = np.int64(index)
            at = scratch + numba.get_thread_id() * scratch_size
            canvas, origin, row_size = flat, n * H * W * C, W * C
            for i in range(n * H * W * C, (n + 1) * H * W * C):
                flat[i] = np.float32(0)
            if padded:
                canvas, origin, row_size = work, at, width * C
                at += height * width * C
                for i in range(origin, at):
                    work[i] = np.float32(0)
            for block in range(blocks):
                place = at + 2 * block * windows * LANES
                _stage_block(work, numbers, place, dout, argmax, n, block * LANES, scale)
            for window in range(windows):
                first = origin + 2 * (window // PW) * row_size + 2 * (window % PW) * C
                for block in range(0, blocks, GROUP):
                    group = min(GROUP, blocks - block)
                    for position in range(4):
                        bits = _winners_at(work, numbers, at, windows, window, block, group, position)
                        pixel = first + position // 2 * row_size + position % 2 * C
                        if bits == 0:
                            continue
                        for k in range(0, KH, R):
                            for i in range(0, run, step):
                                to, left = pixel + k * row_size + i, bits
                                if whole:
                                    tile = tile_load(canvas, to, row_size, R, V)
                                while left:
                                    f = trailing_zeros(left)
                                    left &= left - 1
                                    lane = at + 2 * (block + f // LANES) * windows * LANES + window * LANES + f % LANES
                                    weights = filters + ((block * LANES + f) * KH + k) * run + i
                                    if whole:
                                        tile = tile_add_scaled(tile, work[lane], work, weights, run)
                                    else:
                                        _add_scaled(canvas, to, work[lane], work, weights, run)
                                if whole:
                                    tile_store(tile, canvas, to, row_size)
            if padded:
                _take_inside(dx, n, work, origin, height, width, padding[0], padding[1])

    return gradient_of_pixels


@jit
def _take_inside(dx, n, work, canvas, height, width, top, left):
    """Copy what lies inside the image from the canvas, (height, width, C), to dx[n]; what lies beyond stays zero."""
    N, H, W, C = dx.shape
    for y in range(max(0, -top), min(H, height - top)):
        for x in range(max(0, -left), min(W, width - left)):
            for c in range(C):
                dx[n, y, x, c] = work[canvas + ((y + top) * width + x + left) * C + c]


@jit
def _list_winners(work, numbers, at, windows, PW, row_size, C):
    """Turn a staged block into one list for each filter: of its winners' first pixels (relative to the image), and
    behind all of these, in the same order, of their gradients. The lists' lengths stand at the end."""
    lists = at + 2 * windows * LANES
    lengths = lists + 2 * windows * LANES
    for lane in range(LANES):
        numbers[lengths + lane] = np.int32(0)
    for window in range(windows):
        here = at + window * LANES
        bits = _bits(work, here)
        place = 2 * (window // PW) * row_size + 2 * (window % PW) * C
        while bits:
            lane = trailing_zeros(bits)
            bits &= bits - 1
            winner = np.int64(numbers[here + windows * LANES + lane])
            entry = lists + lane * windows + np.int64(numbers[lengths + lane])
            numbers[entry] = np.int32(place + winner // 2 * row_size + winner % 2 * C)
            work[entry + windows * LANES] = work[here + lane]
            numbers[lengths + lane] += np.int32(1)
    return lists, lengths


@jit
def _add_bias(work, total, at, windows):
    """Add a staged block's gradients, window by window, to ``work[total:]``."""
    bias = vector_load(work, total)
    for window in range(windows):
        bias = bias + vector_load(work, at + window * LANES)
    vector_store(bias, work, total)


@jit(forceinline=True)
def _image(x, n, work, at, padding, height, width):
    """Where image n begins, and its rows' size: in x, or, where windows reach over its edge, in a padded copy."""
    N, H, W, C = x.shape
    if padding[0] or padding[1] or height > H or width > W:
        _copy_window(work, at, x, n, -padding[0], -padding[1], height, width)
        return True, at, width * C, at + height * width * C
    return False, n * H * W * C, W * C, at


@functools.cache
def make_filters_sparse(R, V):
    """The kernel of dw for filters of whole vectors, R x V of them in registers."""

    @jit(parallel=True)
    def filters_sparse(dw, dout, argmax, x, work, padding, scale, parts, scratch, scratch_size, sums, sum_size):
        """Sum dw and db in parts. Parallel over parts of the batch and blocks of LANES filters."""
        N, PH, PW, F = dout.shape
        KH, KW, C, F = dw.shape
        windows, run, blocks = PH * PW, KW * C, -(-F // LANES)
        flat, numbers = x.reshape(-1), work.view(np.int32)
        height, width = 2 * PH + KH - 1, 2 * PW + KW - 1
        for index in prange(parts * blocks):
            task = np.int64(index)
            part, block = task // blocks, task % blocks
            total = sums + task * sum_size
            for i in range(total, total + sum_size):
                work[i] = np.float32(0)
            for n in range(part * N // parts, (part + 1) * N // parts):
                own = scratch + numba.get_thread_id() * scratch_size
                copied, origin, row_size, at = _image(x, n, work, own, padding, height, width)
                source = work if copied else flat
                _stage_block(work, numbers, at, dout, argmax, n, block * LANES, scale)
                _add_bias(work, total + KH * run * LANES, at, windows)
                lists, lengths = _list_winners(work, numbers, at, windows, PW, row_size, C)
                for lane in range(LANES):
                    first = lists + lane * windows
                    for k in range(0, KH, R):
                        for i in range(0, run, V * LANES):
                            place = total + (lane * KH + k) * run + i
                            tile = tile_load(work, place, run, R, V)
                            for entry in range(first, first + numbers[lengths + lane]):
                                pixel = origin + np.int64(numbers[entry]) + k * row_size + i
                                gradient = work[entry + windows * LANES]
                                tile = tile_add_scaled(tile, gradient, source, pixel, row_size)
                            tile_store(tile, work, place, run)

    return filters_sparse


@functools.cache
def make_filters_dense(R):
    """The kernel of dw for any filters, R numbers of a window in registers."""

    @jit(parallel=True)
    def filters_dense(dw, dout, argmax, x, work, padding, scale, parts, scratch, scratch_size, sums, sum_size):
        """Sum dw and db in parts. Parallel over parts of the batch and blocks of LANES filters."""
        N, PH, PW, F = dout.shape
        KH, KW, C, F = dw.shape
        windows, run, blocks = PH * PW, KW * C, -(-F // LANES)
        K = KH * run
        flat, numbers = x.reshape(-1), work.view(np.int32)
        height, width = 2 * PH + KH - 1, 2 * PW + KW - 1
        zero = vector_fill(np.float32(0))
        for index in prange(parts * blocks):
            task = np.int64(index)
            part, block = task // blocks, task % blocks
            total = sums + task * sum_size
            for i in range(total, total + sum_size):
                work[i] = np.float32(0)
            for n in range(part * N // parts, (part + 1) * N // parts):
                own = scratch + numba.get_thread_id() * scratch_size
                copied, origin, row_size, at = _image(x, n, work, own, padding, height, width)
                source = work if copied else flat
                _stage_block(work, numbers, at, dout, argmax, n, block * LANES, scale)
                _add_bias(work, total + sum_size - LANES, at, windows)
                for row in range(0, K, R):
                    reads = pixel_offsets(row, K - 1, run, row_size, 1, R)
                    tile = tile_load(work, total + row * LANES, LANES, R, 1)
                    for window in range(windows):
                        here = at + window * LANES
                        gradient = vector_load(work, here)
                        winner = vector_load(numbers, here + windows * LANES)
                        place = origin + 2 * (window // PW) * row_size + 2 * (window % PW) * C
                        for position in range(4):
                            mine = select(winner == vector_fill(np.int32(position)), gradient, zero)
                            pixel = place + position // 2 * row_size + position % 2 * C
                            tile = tile_multiply_add_vector(tile, source, reads, pixel, mine)
                    tile_store(tile, work, total + row * LANES, LANES)

    return filters_dense


@jit(parallel=True)
def add_parts(dw, db, work, parts, sums, sum_size, filter_stride, number_stride, bias):
    """Add the partial sums in order. Parallel over the numbers of a filter.

    In a partial sum, number k of filter ``lane`` stands at ``lane * filter_stride + k * number_stride``, and its bias
    at ``bias + lane``.
    """
    KH, KW, C, F = dw.shape
    K, blocks = KH * KW * C, -(-F // LANES)
    flat = dw.reshape(K, F)
    for index in prange(K + 1):
        k = np.int64(index)
        for f in range(F):
            lane = f % LANES
            place = sums + f // LANES * sum_size + (bias + lane if k == K else lane * filter_stride + k * number_stride)
            total = np.float32(0)
            for part in range(parts):
                total += work[place + part * blocks * sum_size]
            if k == K:
                db[f] = total
            else:
                flat[k, f] = total
