r"""Augmentation: every image seen through an affine map that is drawn for it, anew at every step.

A digit that is turned a little is the same digit, and a network that has seen it turned, shifted and stretched has more
to learn from than one that has seen it once. Each of these is a map from a pixel of the output, x to the right and y
down, to the place of the input at which it is seen:

.. math:: x' = a_0 x + a_1 y + a_2 \qquad y' = b_0 x + b_1 y + b_2

Maps compose. If the first image is warped by M1, and the result by M2, a pixel p is seen at M2 p of the second image,
which is seen at M1 M2 p of the first. So any number of them is one map, M1 M2 M3 ..., and one pass over the pixels.

A place lies between four pixels, and its colour is between theirs (bilinear interpolation): with i and j the whole
numbers below y' and x', and v and u what is left of these,

.. math:: out_{yx} = (1 - v) \big((1 - u) \, x_{i,j} + u \, x_{i,j+1}\big)
                       + v \big((1 - u) \, x_{i+1,j} + u \, x_{i+1,j+1}\big)

Beyond its edge an image goes on as ``fill_mode`` says: "constant", with fill_value; "nearest", with the pixels of the
edge, aaaa|abcd|dddd; "reflect", mirrored, dcba|abcd|dcba; "wrap", repeated, abcd|abcd|abcd. With
interpolation="nearest" the place is rounded to that of a pixel first. Source: Keras' preprocessing layers, which take
the same maps. (On TensorFlow, their "wrap" jumps from the last pixel to the first; on Keras' other backends and here
the two have a place between them like any two neighbours.)
"""

import numpy as np

from tinyconv.kernels.reference.dropout import FIRST_SAMPLE, STEP, philox

FILL_MODES = ("constant", "nearest", "reflect", "wrap")
INTERPOLATIONS = ("bilinear", "nearest")
KINDS = ("flip", "rotate", "scale", "shear", "shift", "zoom")  # of maps


def draw_warps(warps, counters, moves, ranges, size, seed):
    """Draw a map for each image: those of some layers, composed in their order.

    A row of ``moves`` is (the number of a kind in KINDS, the number of the layer in the model); that of ``ranges`` says
    from where to where the map's two numbers are drawn, which are uniform. Sample n draws the words of the counter (0,
    sample, step, layer): two for the numbers, and one for a sign.

    Shapes: warps (N, 6), overwritten: rows (a0, a1, a2, b0, b1, b2); counters int64 (3,); moves int64 (L, 2); ranges
    float64 (L, 4). ``size`` is (height, width) of an image, ``seed`` the model's 64-bit seed.
    """
    sample = counters[FIRST_SAMPLE] + np.arange(len(warps))
    total = np.eye(3)
    for (kind, layer), (low, high, second_low, second_high) in zip(moves, ranges, strict=True):
        words = np.stack(philox(0, sample, np.int64(counters[STEP]), layer, seed)) / 2.0**32
        first, second = low + words[0] * (high - low), second_low + words[1] * (second_high - second_low)
        total = total @ _map(KINDS[kind], first, second, np.where(words[2] < 0.5, -1.0, 1.0), size)
    warps[...] = total[:, :2].reshape(-1, 6)


def _map(kind, first, second, sign, size):
    """The maps of one layer, (N, 3, 3), from what was drawn for them, (N,) each.

    * "flip": mirrored where the sign is -1, along x if ``first`` is 1, along y if ``second`` is;
    * "shift": by ``first`` pixels to the right and ``second`` down;
    * "rotate": by ``first`` radians, anticlockwise as one sees it;
    * "zoom": out by ``first`` along x and ``second`` along y; "scale": out by ``first`` along both;
    * "shear": x' moves by sign * ``first`` with y, y' by sign * ``second`` with x.
    """
    warp = np.tile(np.eye(3), (len(first), 1, 1))
    if kind == "flip":
        warp[:, 0, 0], warp[:, 1, 1] = 1 - (1 - sign) * first, 1 - (1 - sign) * second
    elif kind == "rotate":
        warp[:, 0, 0], warp[:, 0, 1] = np.cos(first), -np.sin(first)
        warp[:, 1, 0], warp[:, 1, 1] = np.sin(first), np.cos(first)
    elif kind in ("scale", "zoom"):
        warp[:, 0, 0], warp[:, 1, 1] = first, first if kind == "scale" else second
    elif kind == "shear":
        warp[:, 0, 1], warp[:, 1, 0] = sign * first, sign * second
    elif kind == "shift":
        warp[:, 0, 2], warp[:, 1, 2] = -first, -second
    if kind not in ("shear", "shift"):  # the middle of the image stays where it is
        middle = np.array([size[1] - 1, size[0] - 1]) / 2
        warp[:, :2, 2] = middle - warp[:, :2, :2] @ middle
    return warp


def warp_workspace(x_shape):
    """The reference needs no scratch memory."""
    return 0


def warp_forward(out, x, warps, work, fill_mode, fill_value, interpolation):
    """See every image through its map.

    Shapes: x and out (N, H, W, C), out overwritten; warps (N, 6).
    """
    out[...] = fill_value
    for place, weight in corners(x.shape, warps, fill_mode, interpolation):
        out += weight * (x[place] - x.dtype.type(fill_value))


def warp_backward(dx, dout, warps, work, fill_mode, interpolation):
    r"""The adjoint: as out is a weighted sum of pixels, each pixel gets the sum of its readers' gradients.

    :math:`out_p = \sum_q W_{pq} x_q` + what was filled in, so :math:`dx_q = \sum_p W_{pq} \, dout_p`: the same four
    pixels with the same weights, written to instead of read. Shapes as in the forward; dx overwritten.
    """
    dx[...] = 0
    for place, weight in corners(dx.shape, warps, fill_mode, interpolation):
        np.add.at(dx, place, weight * dout)


def corners(shape, warps, fill_mode, interpolation):
    """For each of the four pixels around every place: (sample, row, column), and weight (N, H, W, 1)."""
    N, H, W, _ = shape
    y, x = np.arange(H, dtype=warps.dtype)[:, None], np.arange(W, dtype=warps.dtype)
    a, b = warps.reshape(N, 2, 3, 1, 1).transpose(1, 2, 0, 3, 4)
    columns, rows = (m[0] * x + (m[1] * y + m[2]) for m in (a, b))
    sample = np.arange(N)[:, None, None]
    for i, of_row in _neighbours(rows, H, fill_mode, interpolation):
        for j, of_column in _neighbours(columns, W, fill_mode, interpolation):
            yield (sample, i, j), (of_row * of_column)[..., None]


def _neighbours(t, size, fill_mode, interpolation):
    """Along an axis of ``size`` pixels: the two between which t lies, and their weights; zero for one that is not
    there, and for which fill_value stands."""
    if fill_mode == "constant":
        t = np.clip(t, -1, size)  # farther out nothing changes
    elif fill_mode == "wrap":
        t = np.mod(t, size)
    elif (
        fill_mode == "reflect"
    ):  # back and forth between two mirrors, half a pixel before the first and behind the last
        t = np.mod(t + 0.5, 2 * size)
        t = np.minimum(t, 2 * size - t) - 0.5
    if fill_mode in ("nearest", "reflect"):
        t = np.clip(t, 0, size - 1)
    if interpolation == "nearest":
        t = np.trunc(t + np.copysign(0.5, t))
    below = np.floor(t)
    for index, weight in ((below, 1 - (t - below)), (below + 1, t - below)):
        if fill_mode == "wrap":
            index = np.mod(index, size)
        there = (index >= 0) & (index < size) if fill_mode == "constant" else True
        yield np.clip(index, 0, size - 1).astype(np.intp), np.where(there, weight, 0).astype(t.dtype)
