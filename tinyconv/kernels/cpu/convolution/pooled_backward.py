"""The backward pass of conv -> ReLU -> max-pool: it visits only the winning positions.

Behind a 2 x 2 pooling at most one of four convolution outputs has a gradient, and where ReLU or a dropout gave zero
none has: early in training about a third of the pooled gradients are not zero, later a tenth. So the kernels here turn
"has a gradient" into the bits of an integer, and walk the bits that are set.

* ``make_pixels`` (dx): the winners at one of the four positions of a window all saw the same pixels. These are kept in
  registers while every such winner adds its filter, times its gradient, to them.
* ``make_filters_sparse`` (dw, where rows of a filter are whole vectors): a winner adds the pixels that it saw, times
  its gradient, to its filter's. The winners of a few images are first listed filter by filter; while a list is walked,
  the filter's gradient stays in registers. All filters of a block take their turn on the same few images, which are
  so read once from memory.
* ``filters_patch`` (dw, 3 x 3 filters of one channel, where a vector has 16 lanes): the 4 x 4 pixels that a window sees
  are one register, from which each lane picks the pixel that its winner saw.
* ``make_filters_dense`` (dw, any shape): for each of the four positions the gradient, with the other positions' winners
  masked out, times the pixels.

The gradient of the filters is summed in a fixed number of parts of the batch, which are then added in order: the bits
do not depend on the number of threads.
"""

import functools

import numba
import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple

from tinyconv.kernels.cpu.convolution.pooled import COUNT, Step, read_image, scale_of
from tinyconv.kernels.cpu.registers.copies import add, fill
from tinyconv.kernels.cpu.registers.host import LANES, REGISTERS
from tinyconv.kernels.cpu.registers.pooled_stores import patch_load, tile_add_chosen, tile_multiply_add_vector
from tinyconv.kernels.cpu.registers.tile import pixel_offsets, tile_add_scaled, tile_load, tile_store, tile_zeros
from tinyconv.kernels.cpu.registers.vector import (
    select,
    trailing_zeros,
    vector_bits,
    vector_fill,
    vector_load,
    vector_multiply_add,
    vector_store,
)
from tinyconv.kernels.cpu.runtime.tasks import helper, kernel
from tinyconv.kernels.cpu.runtime.views import same_memory, stack_array

GROUP = 64  # filters whose winners are the bits of one integer
LISTED = 100  # windows whose winners are listed together for dw: longer lists, but more that does not fit the cache
TASKS = 16  # of dw, where the batch allows: parts of the batch times blocks of filters (see block_of)


def parts_of(N, w_shape):
    """The number of parts of the batch in which dw is summed."""
    return min(N, -(-TASKS // -(-w_shape[3] // block_of(w_shape))))


def block_of(w_shape):
    """Filters of a block: as many as have a bit in an integer, or a vector's lanes."""
    return GROUP if is_sparse(w_shape) else LANES


def sparse_tile(KH, run):
    """(R, V) of a filter's gradient in registers: all of its rows, or a piece of one."""
    vectors = run // LANES
    R = KH if KH * vectors <= REGISTERS - 8 else 1
    return R, max(v for v in range(1, (REGISTERS - 8) // R + 1) if vectors % v == 0)


def pixel_tile(w_shape):
    """(R, V, whole) for ``make_pixels``: where a row of a filter is not a whole number of vectors, row by row."""
    KH, KW, C, F = w_shape
    return (*sparse_tile(KH, KW * C), True) if is_sparse(w_shape) else (1, 1, False)


def is_sparse(w_shape):
    """Whether dw can be summed winner by winner: a row of a filter is whole vectors."""
    return w_shape[1] * w_shape[2] % LANES == 0


def is_patch(w_shape):
    """Whether what a window sees is one vector."""
    return LANES == 16 and w_shape[:3] == (3, 3, 1) and w_shape[3] % LANES == 0


def sum_size(w_shape):
    """Floats of one partial sum of a block of filters: their gradients, and those of their biases."""
    KH, KW, C, F = w_shape
    K = KH * KW * C
    R = 1 if is_sparse(w_shape) else dense_rows(K)
    return (-(-K // R) * R + 1) * block_of(w_shape)


def dense_rows(K):
    """Rows of a tile one vector wide over the K numbers of a window: as even as registers allow."""
    most = REGISTERS - 5
    return -(-K // -(-K // most))


@helper
def images_of(N, windows):
    """How many of N images of so many windows are listed together."""
    return min(N, max(1, LISTED // windows))


@helper
def list_size(windows):
    """Floats that the lists of the winners of so many windows need; the dense kernel's gradient needs no more."""
    return 2 * GROUP + 2 * windows * GROUP


@helper
def _alive(dout, argmax, place, count):
    """Which of ``count`` <= 64 filters, from ``place`` on, have a winner with a gradient that is not zero (a NaN is
    not): one bit for each."""
    bits, zero, nobody = np.int64(0), vector_fill(np.float32(0)), vector_fill(np.int32(-1))
    whole = count // LANES * LANES
    for i in range(0, whole, LANES):
        dead = vector_bits(vector_load(argmax, place + i) == nobody)
        bits |= (vector_bits(vector_load(dout, place + i) != zero) & ~dead) << i
    for i in range(whole, count):
        bits |= np.int64(dout[place + i] != 0 and argmax[place + i] >= 0) << i
    return bits


@helper
def _alive_by_position(dout, argmax, place, count):
    """The same, apart for each of the four positions of a winner."""
    alive, whole = _alive(dout, argmax, place, count), count // LANES * LANES
    first, second, third = np.int64(0), np.int64(0), np.int64(0)
    for i in range(0, whole, LANES):
        winner = vector_load(argmax, place + i)
        first |= vector_bits(winner == vector_fill(np.int32(0))) << i
        second |= vector_bits(winner == vector_fill(np.int32(1))) << i
        third |= vector_bits(winner == vector_fill(np.int32(2))) << i
    for i in range(whole, count):
        winner = argmax[place + i]
        first |= np.int64(winner == 0) << i
        second |= np.int64(winner == 1) << i
        third |= np.int64(winner == 2) << i
    return alive & first, alive & second, alive & third, alive & ~(first | second | third)


@helper
def _list_winners(work, at, dout, argmax, s, first, images, f, row_size, image_size):
    """The winners of up to GROUP filters, from f on, in ``images`` images, from ``first`` on: for each filter a list of
    the first pixels that they saw, relative to the first image, and a list of their gradients.

    At ``at`` are the lengths of the lists, then the sums of their gradients, then all pixels, and ``gap`` behind each
    pixel its gradient. Returns where the first list of pixels begins, how far apart lists are, and the gap.
    """
    integers, scale = same_memory(work, np.int32), scale_of(s)
    windows, count = s.PH * s.PW, min(GROUP, s.F - f)
    sums, lists, room = at + GROUP, at + 2 * GROUP, images * windows
    fill(work, at, 2 * GROUP, np.float32(0))  # the bits of the float 0 are those of the integer 0
    place = first * windows * s.F + f
    for image in range(images):
        for i in range(s.PH):
            for j in range(s.PW):
                pixel = image * image_size + 2 * i * row_size + 2 * j * s.C
                bits = _alive(dout, argmax, place, count)
                while bits:
                    lane = trailing_zeros(bits)
                    bits &= bits - 1
                    winner, gradient = np.int64(argmax[place + lane]), dout[place + lane] * scale
                    entry = lists + lane * room + np.int64(integers[at + lane])
                    integers[at + lane] += np.int32(1)
                    integers[entry] = np.int32(pixel + (winner >> 1) * row_size + (winner & 1) * s.C)
                    work[entry + room * GROUP] = gradient
                    work[sums + lane] += gradient
                place += s.F
    return lists, room, room * GROUP


@helper
def _add_scaled(target, to, factor, source, at, size):
    """``target[to : to + size] += factor * source[at : at + size]``."""
    vector = vector_fill(factor)
    whole = size // LANES * LANES
    for i in range(0, whole, LANES):
        total = vector_multiply_add(vector, vector_load(source, at + i), vector_load(target, to + i))
        vector_store(total, target, to + i)
    for i in range(whole, size):
        target[to + i] += factor * source[at + i]


@functools.cache
def make_pixels(R, V, whole):
    """The kernel of dx with R x V vectors of a filter at once; ``whole``: its rows are whole vectors."""

    @helper(forceinline=True)
    def add_filters(canvas, pixel, row_size, bits, dout, place, scale, work, filters, KH, run):
        """Add filters, those whose bits are set, times their gradients to the pixels that they saw."""
        size = KH * run
        for k in range(0, KH, R):
            for i in range(0, run, V * LANES if whole else run):
                to, weights, left = pixel + k * row_size + i, filters + k * run + i, bits
                if whole:
                    tile = tile_load(canvas, to, row_size, R, V)
                    while left:
                        f = trailing_zeros(left)
                        left &= left - 1
                        tile = tile_add_scaled(tile, dout[place + f] * scale, work, weights + f * size, run)
                    tile_store(tile, canvas, to, row_size)
                else:
                    while left:
                        f = trailing_zeros(left)
                        left &= left - 1
                        _add_scaled(canvas, to, dout[place + f] * scale, work, weights + f * size, run)

    @kernel
    def gradient_of_pixels(task, dx, dout, argmax, work, numbers):
        """dx (N, H, W, C) of one image."""
        s = Step(*to_fixed_tuple(numbers, COUNT))
        n, run, scale = task, s.KW * s.C, scale_of(s)
        height, width = 2 * s.PH + s.KH - 1, 2 * s.PW + s.KW - 1
        padded = s.top > 0 or s.left > 0 or height > s.H or width > s.W
        canvas, origin, row_size = dx, n * s.H * s.W * s.C, s.W * s.C
        fill(dx, origin, s.H * s.W * s.C, np.float32(0))
        if padded:
            canvas, origin, row_size = work, s.scratch + numba.get_thread_id() * s.scratch_size, width * s.C
            fill(work, origin, height * row_size, np.float32(0))
        place = n * s.PH * s.PW * s.F
        for i in range(s.PH):
            for j in range(s.PW):
                window = origin + 2 * i * row_size + 2 * j * s.C
                for f in range(0, s.F, GROUP):
                    winners = _alive_by_position(dout, argmax, place + f, min(GROUP, s.F - f))
                    for position in range(4):
                        bits = winners[position]
                        if bits:
                            pixel = window + (position >> 1) * row_size + (position & 1) * s.C
                            filters = s.single + f * s.KH * run
                            add_filters(canvas, pixel, row_size, bits, dout, place + f, scale, work, filters, s.KH, run)
                place += s.F
        if padded:
            _take_inside(dx, s, n, work, origin, height, width)

    return gradient_of_pixels


@helper
def _take_inside(dx, s, n, work, canvas, height, width):
    """Copy what lies inside the image from the canvas, (height, width, C), to dx[n]; what lies beyond stays zero."""
    for y in range(max(0, -s.top), min(s.H, height - s.top)):
        for x in range(max(0, -s.left), min(s.W, width - s.left)):
            for c in range(s.C):
                dx[((n * s.H + y) * s.W + x) * s.C + c] = work[canvas + ((y + s.top) * width + x + s.left) * s.C + c]


@functools.cache
def make_filters_sparse(R, V):
    """The kernel of dw for filters of whole vectors, R x V of them in registers."""

    @helper
    def add_pixels(work, total, source, origin, row_size, KH, run, first, count, gap):
        """Add to a filter's gradient the pixels of a list of ``count`` entries."""
        integers = same_memory(work, np.int32)
        for k in range(0, KH, R):
            for i in range(0, run, V * LANES):
                pixels = origin + k * row_size + i
                tile = tile_load(work, total + k * run + i, run, R, V)
                for entry in range(first, first + count):
                    place = pixels + np.int64(integers[entry])
                    tile = tile_add_scaled(tile, work[entry + gap], source, place, row_size)
                tile_store(tile, work, total + k * run + i, run)

    @kernel
    def filters_sparse(task, dout, x, argmax, work, numbers):
        """A partial sum of dw and db: one part of the batch, one block of GROUP filters."""
        s = Step(*to_fixed_tuple(numbers, COUNT))
        blocks, windows, run, height = -(-s.F // GROUP), s.PH * s.PW, s.KW * s.C, 2 * s.PH + s.KH - 1
        part, f = task // blocks, task % blocks * GROUP
        total = s.sums + task * s.sum_size
        fill(work, total, s.sum_size, np.float32(0))
        integers = same_memory(work, np.int32)
        own = s.scratch + numba.get_thread_id() * s.scratch_size
        together, bias = images_of(s.N, windows), total + s.KH * run * GROUP
        copy, last = own + list_size(together * windows), (part + 1) * s.N // s.parts
        for n in range(part * s.N // s.parts, last, together):
            images = min(together, last - n)
            copied, origin, row_size, image_size = read_image(s, x, n, images, -s.top, height, work, copy)
            source = work if copied else x
            lists, room, gap = _list_winners(work, own, dout, argmax, s, n, images, f, row_size, image_size)
            add(work, bias, work, own + GROUP, GROUP)
            for lane in range(GROUP):
                count, first = np.int64(integers[own + lane]), lists + lane * room
                if count:
                    place = total + lane * s.KH * run
                    add_pixels(work, place, source, origin, row_size, s.KH, run, first, count, gap)

    return filters_sparse


@kernel
def filters_patch(task, dout, x, argmax, work, numbers):
    """A partial sum of dw and db, for 3 x 3 filters of one channel: one part of the batch, one block of LANES filters,
    whose gradients stay in registers."""
    s = Step(*to_fixed_tuple(numbers, COUNT))
    blocks = s.F // LANES
    part, block = task // blocks, task % blocks
    copy = s.scratch + numba.get_thread_id() * s.scratch_size
    zero, scale, nobody = vector_fill(np.float32(0)), vector_fill(scale_of(s)), vector_fill(np.int32(-1))
    tile, bias = tile_zeros(9, 1), zero
    for n in range(part * s.N // s.parts, (part + 1) * s.N // s.parts):
        copied, origin, row_size, _ = read_image(s, x, n, 1, -s.top, 2 * s.PH + 2, work, copy)
        source = work if copied else x
        place = n * s.PH * s.PW * s.F + block * LANES
        for i in range(s.PH):
            for j in range(s.PW):
                winner = vector_load(argmax, place)
                gradient = select(winner == nobody, zero, scale * vector_load(dout, place))
                bias = bias + gradient
                patch = patch_load(source, origin + 2 * i * row_size + 2 * j, row_size)
                tile = tile_add_chosen(tile, patch, winner, gradient)
                place += s.F
    total = s.sums + task * s.sum_size
    tile_store(tile, work, total, LANES)
    vector_store(bias, work, total + 9 * LANES)


@helper
def _stage(work, at, dout, argmax, s, n, f, bias):
    """Image n's gradient of LANES filters from f on, scaled and 0 where nothing won, to ``work[at:]``, (windows,
    LANES), and behind it the winners, as integers. The gradients are also added to ``work[bias:]``."""
    integers = same_memory(work, np.int32)
    windows, count, scale = s.PH * s.PW, min(LANES, s.F - f), scale_of(s)
    place, winners = n * windows * s.F + f, at + windows * LANES
    for _ in range(windows):
        for lane in range(LANES):
            winner = np.int32(argmax[place + lane] if lane < count else -1)
            gradient = dout[place + lane] * scale if winner >= 0 else np.float32(0)
            integers[winners + lane] = winner
            work[at + lane] = gradient
            work[bias + lane] += gradient
        place, at, winners = place + s.F, at + LANES, winners + LANES


@functools.cache
def make_filters_dense(R):
    """The kernel of dw for any filters, R numbers of a window in registers."""

    @kernel
    def filters_dense(task, dout, x, argmax, work, numbers):
        """A partial sum of dw and db: one part of the batch, one block of LANES filters."""
        s = Step(*to_fixed_tuple(numbers, COUNT))
        blocks, windows, run = -(-s.F // LANES), s.PH * s.PW, s.KW * s.C
        part, block, K = task // blocks, task % blocks, s.KH * run
        total = s.sums + task * s.sum_size
        fill(work, total, s.sum_size, np.float32(0))
        integers, zero = same_memory(work, np.int32), vector_fill(np.float32(0))
        at = s.scratch + numba.get_thread_id() * s.scratch_size
        for n in range(part * s.N // s.parts, (part + 1) * s.N // s.parts):
            copy = at + 2 * windows * LANES
            copied, origin, row_size, _ = read_image(s, x, n, 1, -s.top, 2 * s.PH + s.KH - 1, work, copy)
            source = work if copied else x
            _stage(work, at, dout, argmax, s, n, block * LANES, total + s.sum_size - LANES)
            for row in range(0, K, R):
                reads = pixel_offsets(row, K - 1, run, row_size, 1, R)
                tile = tile_load(work, total + row * LANES, LANES, R, 1)
                for window in range(windows):
                    here = at + window * LANES
                    gradient, winner = vector_load(work, here), vector_load(integers, here + windows * LANES)
                    place = origin + 2 * (window // s.PW) * row_size + 2 * (window % s.PW) * s.C
                    for position in range(4):
                        mine = select(winner == vector_fill(np.int32(position)), gradient, zero)
                        pixel = place + position // 2 * row_size + position % 2 * s.C
                        tile = tile_multiply_add_vector(tile, source, reads, pixel, mine)
                tile_store(tile, work, total + row * LANES, LANES)

    return filters_dense


@kernel
def add_parts(task, dw, db, _, work, numbers):
    """Add the partial sums in order: LANES numbers of each filter, and in the first task the biases.

    In a partial sum, number k of filter ``lane`` stands at ``lane * filter_step + k * number_step``, and its bias at
    ``bias + lane``.
    """
    K, F, width, parts, sums, part_size, sum_size, filter_step, number_step, bias = to_fixed_tuple(numbers, 10)
    first = task * LANES
    count = min(LANES, K - first)
    total = stack_array(LANES, np.float32)
    for f in range(F):
        block = sums + f // width * sum_size
        place = block + f % width * filter_step + first * number_step
        fill(total, 0, LANES, np.float32(0))
        for _ in range(parts):
            if number_step == 1 and count == LANES:
                vector_store(vector_load(total, 0) + vector_load(work, place), total, 0)
            else:
                for k in range(count):
                    total[k] += work[place + k * number_step]
            place += part_size
        for k in range(count):
            dw[(first + k) * F + f] = total[k]
        if task == 0:
            db[f] = np.float32(0)
            for part in range(parts):
                db[f] += work[block + bias + f % width + part * part_size]
