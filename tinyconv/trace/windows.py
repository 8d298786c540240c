"""Which numbers meet in a sliding window: of an output, of a pixel, and of a weight.

A window's places (i, j) lie on a small grid and the pixels (u, v) under it on a large one, with u = i s + k d - p for
tap k, as in ``kernels.reference.conv``. A convolution's output is on the small grid, a transposed one's on the large.
"""

from dataclasses import dataclass

import numpy as np

Array = np.ndarray
Pair = tuple[int, int]
Columns = tuple[int | Array, ...]

MEETS, OUTSIDE, BETWEEN, NOBODY = range(4)
REASONS = ("", "outside the image", "between two windows", "no window stands there")


@dataclass(frozen=True)
class Link:
    """Pairs that meet: places on the small grid, on the large one, and in the weights (rows, axes); and, where two do
    not meet for real, why not: a number of REASONS."""

    small: Array
    large: Array
    weight: Array
    status: Array


def grid(*columns: int | Array) -> tuple[Array, ...]:
    """Arrays that are broadcast to one another, each flat."""
    return tuple(column.reshape(-1) for column in np.broadcast_arrays(*columns))


def places(*columns: int | Array) -> Array:
    """Places of that many axes, a row each."""
    return np.stack(grid(*columns), axis=1).astype(np.int64)


@dataclass(frozen=True)
class Windows:
    """Windows of one kind of layer: how they lie on the image."""

    small: Pair
    large: Pair
    size: Pair
    strides: Pair
    padding: Pair
    dilation: Pair = (1, 1)

    @property
    def _taps(self) -> tuple[Array, Array]:
        k, l = grid(*np.ogrid[: self.size[0], : self.size[1]])
        return k, l

    def under(self, i: int | Array, j: int | Array) -> tuple[Array, Array, Array, Array, Array]:
        """The taps (k, l) of a window and the pixels (u, v) under them; which of them lie in the image."""
        k, l = self._taps
        return self._pixels(i, j, k, l)

    def along(self, k: int, l: int) -> tuple[Array, Array, Array, Array, Array]:
        """All windows (i, j), and the pixel (u, v) under one tap of each."""
        i, j = grid(*np.ogrid[: self.small[0], : self.small[1]])
        _, _, u, v, status = self._pixels(i, j, k, l)
        return i, j, u, v, status

    def _pixels(self, i, j, k, l):  # type: ignore[no-untyped-def]
        u, v = (
            at * s + tap * d - p
            for at, tap, s, d, p in zip((i, j), (k, l), self.strides, self.dilation, self.padding, strict=True)
        )
        inside = (u >= 0) & (u < self.large[0]) & (v >= 0) & (v < self.large[1])
        return k, l, u, v, np.where(inside, MEETS, OUTSIDE)

    def over(self, u: int, v: int) -> tuple[Array, Array, Array, Array, Array]:
        """For every tap (k, l) the window (i, j) that has pixel (u, v) under it, if there is one."""
        k, l = self._taps
        status = np.full(k.shape, MEETS)
        found = []
        for axis, (at, tap) in enumerate(((u, k), (v, l))):
            steps = at + self.padding[axis] - tap * self.dilation[axis]
            between = steps % self.strides[axis] != 0
            status = np.where(between, BETWEEN, status)
            found.append(np.where(between, -1, steps // self.strides[axis]))
        i, j = found
        beyond = (i < 0) | (i >= self.small[0]) | (j < 0) | (j >= self.small[1])
        return k, l, i, j, np.where((status == MEETS) & beyond, NOBODY, status)


@dataclass(frozen=True)
class Filters:
    """Windows with filters: every channel of the large grid meets every channel of the small one; or, ``depthwise``,
    channel c meets channels c D to c D + D - 1."""

    windows: Windows
    batch: int
    weight_shape: tuple[int, int, int, int]  # rows, columns, channels of the large grid, of the small one (or D)
    depthwise: bool = False

    def of_small(self, n: int, i: int, j: int, f: int) -> Link:
        k, l, u, v, status = (column[:, None] for column in self.windows.under(i, j))
        c, last = self._large_channels(f)
        return link((n, i, j, f), (n, u, v, c), (k, l, c, last), status)

    def of_large(self, n: int, u: int, v: int, c: int) -> Link:
        k, l, i, j, status = (column[:, None] for column in self.windows.over(u, v))
        last = np.arange(self.weight_shape[3])[None, :]
        return link((n, i, j, self._small_channel(c, last)), (n, u, v, c), (k, l, c, last), status)

    def of_weight(self, k: int, l: int, c: int, last: int) -> Link:
        i, j, u, v, status = (column[None, :] for column in self.windows.along(k, l))
        n = np.arange(self.batch)[:, None]
        return link((n, i, j, self._small_channel(c, last)), (n, u, v, c), (k, l, c, last), status)

    def _large_channels(self, f: int):  # type: ignore[no-untyped-def]
        """The channels that meet channel f of the small grid, and where in the weights they do."""
        if self.depthwise:
            return f // self.weight_shape[3], f % self.weight_shape[3]
        return np.arange(self.weight_shape[2])[None, :], f

    def _small_channel(self, c, last):  # type: ignore[no-untyped-def]
        return c * self.weight_shape[3] + last if self.depthwise else last


def link(small: Columns, large: Columns, weight: Columns, status: Array) -> Link:
    """The places with these columns, which are broadcast to one another."""
    *columns, status = grid(*small, *large, *weight, status)
    return Link(places(*columns[:4]), places(*columns[4:8]), places(*columns[8:]), status)
