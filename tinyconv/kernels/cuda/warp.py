"""Augmentation: affine maps, one thread an image; images seen through them, one thread an element that is written."""

import numpy as np

from tinyconv.kernels.cuda.dropout import philox
from tinyconv.kernels.cuda.image import place
from tinyconv.kernels.cuda.runtime.device import THREADS, blocks_for, cuda, divided, float32, inlined, launch
from tinyconv.kernels.reference.dropout import FIRST_SAMPLE, STEP
from tinyconv.kernels.reference.warp import FILL_MODES, KINDS

FLIP, ROTATE, SCALE, SHEAR, SHIFT, ZOOM = range(len(KINDS))
CONSTANT, NEAREST, REFLECT, WRAP = range(len(FILL_MODES))
_MASK = np.uint64(0xFFFFFFFF)
_UNIT = 1 / 2**32
_ZERO, _HALF, _ONE, _TWO = float32(0), float32(0.5), float32(1), float32(2)


def draw_warps(warps, counters, moves, ranges, size, seed):
    """See reference. One thread an image."""
    key = np.uint64(seed & (2**64 - 1))
    launch(_draw, blocks_for(len(warps)), THREADS, warps, counters, moves, ranges, *size, key)


def warp_workspace(x_shape):
    """No scratch memory is needed."""
    return 0


def warp_forward(out, x, warps, work, fill_mode, fill_value, interpolation):
    """See reference. One thread an element of out."""
    mode = FILL_MODES.index(fill_mode), interpolation == "nearest"
    launch(_warp, blocks_for(out.size), THREADS, out, x, warps, mode, float32(fill_value))


def warp_backward(dx, dout, warps, work, fill_mode, interpolation):
    """See reference. One thread a row of a channel of dx: it looks at all that the image is read for, in order."""
    mode = FILL_MODES.index(fill_mode), interpolation == "nearest"
    N, H, _, C = dx.shape
    launch(_warp_gradient, blocks_for(N * H * C), THREADS, dx, dout, warps, mode)


@inlined
def _turn(angle):
    """Cosine and sine, by the series of an eighth of the angle, which is then doubled three times. (The library's own
    want a stack for angles that are larger than any here.)"""
    x = angle * 0.125
    q = x * x
    sine = 1.0 - q * (1 / 210)
    sine = 1.0 - q * (1 / 156) * sine
    sine = 1.0 - q * (1 / 110) * sine
    sine = 1.0 - q * (1 / 72) * sine
    sine = 1.0 - q * (1 / 42) * sine
    sine = 1.0 - q * (1 / 20) * sine
    sine = x * (1.0 - q * (1 / 6) * sine)
    versine = 1.0 - q * (1 / 182)  # 1 - cos: what is small stays exact
    versine = 1.0 - q * (1 / 132) * versine
    versine = 1.0 - q * (1 / 90) * versine
    versine = 1.0 - q * (1 / 56) * versine
    versine = 1.0 - q * (1 / 30) * versine
    versine = 0.5 * q * (1.0 - q * (1 / 12) * versine)
    for _ in range(3):
        doubled = 2.0 * sine * (1.0 - versine)
        versine = 2.0 * sine * sine
        sine = doubled
    return 1.0 - versine, sine


@inlined
def _map(kind, first, second, sign):
    """The reference's map of one layer, but for where it moves the middle of the image to."""
    a0, a1, b0, b1 = 1.0, 0.0, 0.0, 1.0
    if kind == FLIP:
        a0 = 1.0 - (1.0 - sign) * first
        b1 = 1.0 - (1.0 - sign) * second
    if kind == ROTATE:
        a0, b0 = _turn(first)
        a1 = -b0
        b1 = a0
    if (kind == SCALE) | (kind == ZOOM):
        a0 = first
        b1 = first if kind == SCALE else second
    if kind == SHEAR:
        a1 = sign * first
        b0 = sign * second
    return a0, a1, b0, b1


@cuda.jit
def _draw(warps, counters, moves, ranges, height, width, key):
    n = cuda.grid(1)
    if n < warps.shape[0]:
        sample = np.uint64(counters[FIRST_SAMPLE] + n) & _MASK
        step = np.uint64(counters[STEP]) & _MASK
        a0, a1, a2, b0, b1, b2 = 1.0, 0.0, 0.0, 0.0, 1.0, 0.0
        for row in range(moves.shape[0]):
            kind = moves[row, 0]
            words = philox(np.uint64(0), sample, step, np.uint64(moves[row, 1]) & _MASK, key)
            first = ranges[row, 0] + words[0] * _UNIT * (ranges[row, 1] - ranges[row, 0])
            second = ranges[row, 2] + words[1] * _UNIT * (ranges[row, 3] - ranges[row, 2])
            c0, c1, d0, d1 = _map(kind, first, second, -1.0 if words[2] * _UNIT < 0.5 else 1.0)
            moved = (kind == SHEAR) | (kind == SHIFT)  # else the middle stays where it is
            x = 0.0 if moved else (width - 1) * 0.5
            y = 0.0 if moved else (height - 1) * 0.5
            c2 = -first if kind == SHIFT else x - c0 * x - c1 * y
            d2 = -second if kind == SHIFT else y - d0 * x - d1 * y
            a0, a1, a2 = a0 * c0 + a1 * d0, a0 * c1 + a1 * d1, a0 * c2 + a1 * d2 + a2
            b0, b1, b2 = b0 * c0 + b1 * d0, b0 * c1 + b1 * d1, b0 * c2 + b1 * d2 + b2
        warps[n, 0] = a0
        warps[n, 1] = a1
        warps[n, 2] = a2
        warps[n, 3] = b0
        warps[n, 4] = b1
        warps[n, 5] = b2


@inlined
def _floor(t):
    whole = float32(np.int64(t))
    return whole - _ONE if t < whole else whole


@inlined
def _neighbours(t, size, mode):
    """As in the reference: along an axis of ``size`` pixels the two between which t lies, and their weights."""
    fill_mode, nearest = mode
    length = float32(size)
    if fill_mode == CONSTANT:
        t = min(max(t, -_ONE), length)
    if fill_mode == WRAP:
        t -= length * _floor(t / length)
    if fill_mode == REFLECT:
        t += _HALF
        t -= _TWO * length * _floor(t / (_TWO * length))
        t = min(t, _TWO * length - t) - _HALF
    if (fill_mode == NEAREST) | (fill_mode == REFLECT):
        t = min(max(t, _ZERO), length - _ONE)
    if nearest:
        t = float32(np.int64(t - _HALF if t < _ZERO else t + _HALF))
    below = _floor(t)
    i = np.int64(below)
    j = i + 1
    after = t - below
    before = _ONE - after
    if fill_mode == CONSTANT:
        before = before if i >= 0 and i < size else _ZERO
        after = after if j < size else _ZERO
    if fill_mode == WRAP:
        i = i - size if i >= size else i
        j = 0 if size == 1 else (j - size if j >= size else j)
    last = np.int64(size - 1)
    return min(max(i, 0), last), min(max(j, 0), last), before, after


@inlined
def _place(m, n, row, y, x):
    """A coordinate of the place at which pixel (y, x) of image n is seen: x' for row 0, y' for row 1."""
    return m[n, 3 * row] * float32(x) + (m[n, 3 * row + 1] * float32(y) + m[n, 3 * row + 2])


@cuda.jit
def _warp(out, x, warps, mode, fill):
    element = cuda.grid(1)
    if element < out.size:
        n, y, z, c = place(element, out.shape)
        i, j, above, below = _neighbours(_place(warps, n, 1, y, z), out.shape[1], mode)
        k, l, left, right = _neighbours(_place(warps, n, 0, y, z), out.shape[2], mode)
        total = fill + above * left * (x[n, i, k, c] - fill) + above * right * (x[n, i, l, c] - fill)
        out[n, y, z, c] = total + below * left * (x[n, j, k, c] - fill) + below * right * (x[n, j, l, c] - fill)


@cuda.jit
def _warp_gradient(dx, dout, warps, mode):
    thread = cuda.grid(1)
    if thread < dx.shape[0] * dx.shape[1] * dx.shape[3]:
        row, c = divided(thread, dx.shape[3])
        n, mine = divided(row, dx.shape[1])
        for z in range(dx.shape[2]):
            dx[n, mine, z, c] = _ZERO
        for y in range(dx.shape[1]):
            for z in range(dx.shape[2]):
                i, j, above, below = _neighbours(_place(warps, n, 1, y, z), dx.shape[1], mode)
                weight = (above if i == mine else _ZERO) + (below if j == mine else _ZERO)
                if weight != _ZERO:
                    k, l, left, right = _neighbours(_place(warps, n, 0, y, z), dx.shape[2], mode)
                    dx[n, mine, k, c] += weight * left * dout[n, y, z, c]
                    dx[n, mine, l, c] += weight * right * dout[n, y, z, c]
