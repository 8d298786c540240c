"""Augmentation: affine maps, drawn for each image, and images seen through them.

An image is copied into a frame of the pixels beyond its edge, a channel at a time. So a place in it has four neighbours
wherever it is, and nothing is tested for each pixel. A row is seen in stretches of CHUNK pixels: first the places of
all, in vector registers; then their neighbours, which lie anywhere, one by one; then what is between them, in vectors
again.
"""

import math
from typing import NamedTuple

import numpy as np

from tinyconv.kernels.cpu.dropout import LOW, WORD, philox
from tinyconv.kernels.cpu.runtime.cutting import pieces, share
from tinyconv.kernels.cpu.runtime.literals import HALF, ONE, TWO, ZERO
from tinyconv.kernels.cpu.runtime.tasks import floats, helper, in_tasks, kernel, run
from tinyconv.kernels.cpu.runtime.views import stack_array
from tinyconv.kernels.reference.dropout import FIRST_SAMPLE, STEP
from tinyconv.kernels.reference.warp import FILL_MODES, KINDS

FLIP, ROTATE, SCALE, SHEAR, SHIFT, ZOOM = range(len(KINDS))
CONSTANT, NEAREST, REFLECT, WRAP = range(len(FILL_MODES))
DRAW_COST, COST = 500, 4  # of a map, and of a pixel, as multiples of a simple element-wise operation
CHUNK = 32  # pixels of a row
UNIT = np.float64(1 / 2**32)
RIGHT = np.uint64(1)
INFINITE = np.float32(np.inf)


@helper
def _map(kind, first, second, sign, height, width):
    """The reference's map of one layer."""
    a0, a1, a2, b0, b1, b2 = 1.0, 0.0, 0.0, 0.0, 1.0, 0.0
    if kind == FLIP:
        a0, b1 = 1 - (1 - sign) * first, 1 - (1 - sign) * second
    elif kind == ROTATE:
        a0, a1, b0, b1 = math.cos(first), -math.sin(first), math.sin(first), math.cos(first)
    elif (kind == SCALE) | (kind == ZOOM):
        a0, b1 = first, first if kind == SCALE else second
    elif kind == SHEAR:
        a1, b0 = sign * first, sign * second
    elif kind == SHIFT:
        a2, b2 = -first, -second
    if (kind != SHEAR) & (kind != SHIFT):
        y, x = (height - 1) / 2, (width - 1) / 2
        a2, b2 = x - a0 * x - a1 * y, y - b0 * x - b1 * y
    return a0, a1, a2, b0, b1, b2


@kernel
def _draw(task, tasks, warps, counters, moves, ranges, numbers):
    height, width, key = numbers
    key = np.uint64(key)
    step = np.uint64(counters[STEP]) & LOW
    first, last = share(task, tasks, len(warps))
    for n in range(first, last):
        sample = np.uint64(counters[FIRST_SAMPLE] + n) & LOW
        a0, a1, a2, b0, b1, b2 = 1.0, 0.0, 0.0, 0.0, 1.0, 0.0
        for row in range(len(moves)):
            words = philox(np.uint64(0), sample, step, np.uint64(moves[row, 1]) & LOW, key & LOW, key >> WORD)
            u, v = (words[0] & LOW) * UNIT, (words[1] & LOW) * UNIT
            u = ranges[row, 0] + u * (ranges[row, 1] - ranges[row, 0])
            v = ranges[row, 2] + v * (ranges[row, 3] - ranges[row, 2])
            sign = -1.0 if (words[2] & LOW) * UNIT < 0.5 else 1.0
            c0, c1, c2, d0, d1, d2 = _map(moves[row, 0], u, v, sign, height, width)
            a0, a1, a2 = a0 * c0 + a1 * d0, a0 * c1 + a1 * d1, a0 * c2 + a1 * d2 + a2
            b0, b1, b2 = b0 * c0 + b1 * d0, b0 * c1 + b1 * d1, b0 * c2 + b1 * d2 + b2
        for i, number in enumerate((a0, a1, a2, b0, b1, b2)):
            warps[n, i] = number


@in_tasks
def draw_warps(warps, counters, moves, ranges, size, seed):
    """Parallel over images."""
    tasks = pieces(len(warps) * len(moves), DRAW_COST)
    numbers = (*size, int(np.uint64(seed).view(np.int64)))
    run(_draw, tasks, tasks, warps, counters, moves, ranges, numbers)


class Mode(NamedTuple):
    """What lies beyond the edge, and whether places are rounded."""

    fill_mode: int
    nearest: int


def _mode(fill_mode, interpolation):
    return Mode(FILL_MODES.index(fill_mode), int(interpolation == "nearest"))


def _tasks(shape):
    """One task for some images, which a frame of its own serves."""
    return min(shape[0], pieces(math.prod(shape), COST))


def warp_workspace(x_shape):
    """A frame for each task."""
    return _tasks(x_shape) * (x_shape[1] + 3) * (x_shape[2] + 3)


@helper(fastmath=set())
def _place(slope, along, start):
    """A coordinate of the place that is looked at, rounded after each operation, as in the reference."""
    return slope * along + start


@helper
def _edge(size, mode):
    """What ``_within`` does to a coordinate along ``size`` pixels, in numbers, so that all modes run through one loop:
    the period with which the image is repeated, if it is, where it is mirrored, and the bounds."""
    length = np.float32(size)
    if mode.fill_mode == REFLECT:
        return TWO * length, TWO * length, HALF, ZERO, length - ONE
    if mode.fill_mode == NEAREST:
        return ZERO, INFINITE, ZERO, ZERO, length - ONE
    return length if mode.fill_mode == WRAP else ZERO, INFINITE, ZERO, -ONE, length


@helper
def _within(t, edge, nearest):
    """A coordinate brought into the frame, as in the reference."""
    period, mirror, half, low, high = edge
    if period > ZERO:
        t += half
        t -= period * np.floor(t / period)
        t = min(t, mirror - t) - half
    t = min(max(t, low), high)
    return np.trunc(t + (-HALF if t < ZERO else HALF)) if nearest else t


@helper(forceinline=True)
def _look(looks, m, y, first, size, edges, nearest):
    """Where CHUNK pixels of a row, from ``first`` on, are seen: the first of the four neighbours, by its number in the
    frame, and how far below and to the right of it the place is."""
    corners, down, right = looks
    start_x, start_y = _place(m[1], np.float32(y), m[2]), _place(m[4], np.float32(y), m[5])
    for at in range(CHUNK):
        along = np.float32(np.int32(first + at))
        px = _within(_place(m[0], along, start_x), edges[1], nearest)
        py = _within(_place(m[3], along, start_y), edges[0], nearest)
        i, j = np.floor(py), np.floor(px)
        down[at], right[at] = py - i, px - j
        corners[at] = (np.int32(i) + 1) * (size[1] + 3) + np.int32(j) + 1


@helper(forceinline=True)
def _copy(target, target_step, source, source_step, count):
    """Every step-th number of one array to another; in vectors where both steps are 1."""
    if (target_step == 1) & (source_step == 1):
        for i in range(count):
            target[i] = source[i]
    else:
        for i in range(count):
            target[i * target_step] = source[i * source_step]


@helper(forceinline=True)
def _frame(frame, image, size, channel, mode):
    """One channel of an image into its frame: a row and a column stand before it and two behind, which hold the value
    that is filled in, or, where the image is repeated, those of the other side."""
    H, W, C = size
    S = W + 3
    for i in range(H):
        _copy(frame[(i + 1) * S + 1 :], 1, image[i * W * C + channel :], C, W)
    if mode.fill_mode == WRAP:
        for i in range(1, H + 1):
            line = frame[i * S : (i + 1) * S]
            line[0], line[W + 1], line[W + 2] = line[W], line[1], line[1 + 1 % W]
        for i, like in ((0, H), (H + 1, 1), (H + 2, 1 + 1 % H)):
            _copy(frame[i * S :], 1, frame[like * S :], 1, S)


@kernel
def _warp(task, tasks, out, x, warps, work, mode, fills):
    N, H, W, C = out.shape
    size, S, fill = (H, W, C), W + 3, np.float32(fills[0])
    frame = work[task * (H + 3) * S : (task + 1) * (H + 3) * S]
    edges = _edge(H, mode), _edge(W, mode)
    looks = stack_array(CHUNK, np.int32), stack_array(CHUNK, np.float32), stack_array(CHUNK, np.float32)
    p, q = stack_array(CHUNK, np.float32), stack_array(CHUNK, np.float32)
    r, s = stack_array(CHUNK, np.float32), stack_array(CHUNK, np.float32)
    corners, down, right = looks
    for i in range(frame.size):
        frame[i] = fill
    first, last = share(task, tasks, N)
    for n in range(first, last):
        for channel in range(C):
            _frame(frame, x[n].reshape(-1), size, channel, mode)
            for y in range(H):
                line = out[n, y].reshape(-1)
                for start in range(0, W, CHUNK):
                    _look(looks, warps[n], y, start, size, edges, mode.nearest != 0)
                    count = min(CHUNK, W - start)
                    for at in range(count):
                        corner = np.uint64(corners[at])
                        p[at], q[at] = frame[corner], frame[corner + RIGHT]
                        r[at], s[at] = frame[corner + np.uint64(S)], frame[corner + np.uint64(S + 1)]
                    for at in range(CHUNK):
                        above, below = p[at] + right[at] * (q[at] - p[at]), r[at] + right[at] * (s[at] - r[at])
                        p[at] = above + down[at] * (below - above)
                    _copy(line[start * C + channel :], C, p, 1, count)


@in_tasks
def warp_forward(out, x, warps, work, fill_mode, fill_value, interpolation):
    """Parallel over images."""
    tasks = _tasks(x.shape)
    run(_warp, tasks, tasks, out, x, warps, work, _mode(fill_mode, interpolation), floats(fill_value))


@kernel
def _warp_gradient(task, tasks, dx, dout, warps, work, mode):
    N, H, W, C = dx.shape
    size, S = (H, W, C), W + 3
    frame = work[task * (H + 3) * S : (task + 1) * (H + 3) * S]
    edges = _edge(H, mode), _edge(W, mode)
    looks = stack_array(CHUNK, np.int32), stack_array(CHUNK, np.float32), stack_array(CHUNK, np.float32)
    corners, down, right = looks
    first, last = share(task, tasks, N)
    for n in range(first, last):
        for channel in range(C):
            frame[:] = ZERO
            for y in range(H):
                for start in range(0, W, CHUNK):
                    _look(looks, warps[n], y, start, size, edges, mode.nearest != 0)
                    for at in range(min(CHUNK, W - start)):
                        corner, grad = np.int64(corners[at]), dout[n, y, start + at, channel]
                        below = down[at] * grad
                        for place, part in ((corner, grad - below), (corner + S, below)):
                            frame[place + 1] += right[at] * part
                            frame[place] += part - right[at] * part
            _take_down(dx[n], frame, size, channel, mode)


@helper
def _take_down(image, frame, size, channel, mode):
    """The adjoint of ``_frame``."""
    H, W, C = size
    S = W + 3
    if mode.fill_mode == WRAP:
        for row in range(H + 3):
            for j in range(2):
                frame[row * S + 1 + j % W] += frame[row * S + W + 1 + j]
        for i in range(2):
            for j in range(1, W + 1):
                frame[(1 + i % H) * S + j] += frame[(H + 1 + i) * S + j]
    for i in range(H):
        for j in range(W):
            image[i, j, channel] = frame[(i + 1) * S + j + 1]


@in_tasks
def warp_backward(dx, dout, warps, work, fill_mode, interpolation):
    """Parallel over images, each of which one task writes."""
    tasks = _tasks(dx.shape)
    run(_warp_gradient, tasks, tasks, dx, dout, warps, work, _mode(fill_mode, interpolation))
