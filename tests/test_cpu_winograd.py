"""Convolutions that go by Winograd's method, forward, dx and dw, held to the reference. (Pooled: test_cpu_conv_pool.)

As in test_cpu_conv, whose helpers serve here too, all is written between canaries, and ``work`` begins as NaN.
"""

import functools
from typing import NamedTuple

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import examples, seeds
from tests.test_cpu_conv import check, check_threads, convolve, expect, inputs
from tinyconv.kernels import reference
from tinyconv.kernels.cpu import conv
from tinyconv.kernels.cpu.convolution import winograd, winograd_gradient
from tinyconv.kernels.cpu.convolution.choice import choose, winograd_pays
from tinyconv.kernels.cpu.convolution.geometry import convolution_of
from tinyconv.kernels.cpu.runtime.tasks import NOTHING

CHANNELS = [16, 32, 48, 64, 80]  # panels of one, two and three vectors


class Framed(NamedTuple):
    """A 3 x 3 convolution with any number of zeros on each side of the image."""

    batch: int
    size: tuple[int, int]
    channels: int
    filters: int
    before: tuple[int, int]
    after: tuple[int, int]

    strides = dilation = (1, 1)

    @property
    def x_shape(self):
        return (self.batch, *self.size, self.channels)

    @property
    def w_shape(self):
        return (3, 3, self.channels, self.filters)

    @property
    def out_shape(self):
        sizes = (n + p + q - 2 for n, p, q in zip(self.size, self.before, self.after, strict=True))
        return (self.batch, *sizes, self.filters)

    @property
    def by_winograd(self):
        return winograd_pays(convolution_of(self.out_shape, self.x_shape, self.w_shape))


@st.composite
def frames(draw):
    """Odd and even sizes, padding on any side, so that the output has at least three rows and columns."""
    border = st.tuples(st.integers(0, 2), st.integers(0, 2))
    before, after = draw(border), draw(border)
    size = tuple(draw(st.integers(max(1, 5 - p - q), 11)) for p, q in zip(before, after, strict=True))
    channels, filters = draw(st.sampled_from([(c, f) for c in CHANNELS for f in CHANNELS if max(c, f) > 16]))
    return Framed(draw(st.integers(1, 4)), size, channels, filters, before, after)


@examples(60)
@given(frames(), st.booleans(), seeds)
def test_any_border_is_the_references(frame, relu, seed):
    assert frame.by_winograd
    check(frame, seed, relu)


@examples(30)
@given(frames(), seeds)
def test_the_numpy_twins_are_the_convolution_and_its_gradient(frame, seed):
    """To the last digits of float64; and the kernels are their twins, to those of float32."""
    x, w, b, dout = inputs(frame, seed)
    results = convolve(frame, x, w, 0 * b, dout)
    exact = [array.astype(np.float64) for array in (x, w, dout)]
    twin = winograd.convolve(*exact[:2], frame.before, frame.out_shape[1:3])
    twin_dx = winograd.convolve_backward(*exact[:0:-1], frame.before, frame.size)
    twins = (twin, twin_dx, *winograd_gradient.filter_gradient(*exact[2::-2], frame.before))
    for result, ours, truth in zip(results, twins, expect(frame, x, w, 0 * b, dout), strict=True):
        np.testing.assert_allclose(ours, truth, rtol=1e-10, atol=1e-10 * np.abs(truth).max())
        np.testing.assert_allclose(result, ours, rtol=0, atol=2e-5 * np.abs(truth).max())


NAMED = [
    Framed(1, (32, 32), 64, 64, (1, 1), (1, 1)),
    Framed(2, (32, 31), 32, 64, (0, 0), (0, 0)),
    Framed(20, (13, 13), 32, 64, (0, 0), (0, 0)),
    Framed(40, (5, 6), 48, 32, (1, 2), (2, 0)),
    Framed(3, (1, 40), 16, 80, (2, 1), (2, 1)),
    Framed(1, (3, 3), 128, 128, (1, 1), (1, 1)),
    Framed(2, (9, 9), 32, 32, (4, 3), (1, 1)),  # dx begins within dout
]


@pytest.mark.parametrize("frame", NAMED)
def test_named_shapes(frame):
    assert frame.by_winograd
    check(frame, 0, relu=True)


@pytest.mark.parametrize("frame", NAMED)
def test_small_blocks_give_the_same_bits(frame, monkeypatch):
    """A cache that holds next to nothing: more tasks, some with a part of the filters only, and the same sums. (Those
    of dw depend on the number of its parts: one here.)"""
    arrays, geometry = inputs(frame, 1), (frame.strides, frame.before, frame.dilation)
    monkeypatch.setattr(winograd_gradient, "LEAST", 10**6)
    conv.jobs.cache_clear()
    whole, tasks = convolve(frame, *arrays), conv.jobs(frame.out_shape, frame.x_shape, frame.w_shape, *geometry)
    for module, name, value in (
        (winograd, "CACHED", 600),
        (winograd, "TASKS", 300),
        (winograd_gradient, "CACHED", 1),
        (winograd_gradient, "GROUP", 16),
    ):
        monkeypatch.setattr(module, name, value)
    conv.jobs.cache_clear()
    try:
        cut, more = convolve(frame, *arrays), conv.jobs(frame.out_shape, frame.x_shape, frame.w_shape, *geometry)
    finally:
        conv.jobs.cache_clear()
    if frame.out_shape[0] * frame.out_shape[1] * frame.out_shape[2] > 100:
        assert more.forward.tasks > tasks.forward.tasks
        assert more.dx.tasks > tasks.dx.tasks
        assert more.dw.numbers.block == 1 < tasks.dw.numbers.block
        assert more.dw.tasks > tasks.dw.tasks == -(-frame.channels // 64) * -(-frame.filters // 64)
    assert [a.tobytes() for a in cut] == [a.tobytes() for a in whole]


@pytest.mark.parametrize("frame", NAMED)
def test_one_thread_and_two_give_the_same_bits(frame):
    check_threads(frame)


def test_a_sample_does_not_depend_on_its_batch():
    """The same bits alone as among others; so the batch has no say in whether the method is used."""
    frame = Framed(5, (13, 12), 32, 64, (1, 1), (1, 1))
    x, w, b, dout = inputs(frame, 3)
    out, dx, _, _ = convolve(frame, x, w, b, dout)
    alone = convolve(frame._replace(batch=1), x[3:4], w, b, dout[3:4])
    assert alone[0].tobytes() == out[3:4].tobytes()
    assert alone[1].tobytes() == dx[3:4].tobytes()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_visible(value):
    """In its tiles it may reach other outputs too, but no further; and a NaN passes ReLU."""
    frame = Framed(3, (9, 9), 32, 32, (1, 1), (1, 1))
    x, w, b, dout = inputs(frame, 4)
    x[1, 4, 5, 3] = dout[1, 6, 2, 20] = value
    relu = bool(np.isnan(value))
    with np.errstate(invalid="ignore"):
        results, truths = convolve(frame, x, w, b, dout, relu), expect(frame, x, w, b, dout, relu)
    for result, truth in zip(results, truths, strict=True):
        assert not np.isfinite(truth).all()
        assert not np.isfinite(result[~np.isfinite(truth)]).any()
    out, dx = results[:2]
    for result, row, column in ((out, 4, 5), (dx, 6, 2)):
        result[1, row - 2 : row + 3, column - 2 : column + 3] = 0
        assert np.isfinite(result).all()


def test_a_dx_that_nobody_needs_is_not_computed():
    frame = Framed(2, (7, 6), 32, 48, (1, 1), (1, 1))
    arrays = inputs(frame, 5)
    without, whole = convolve(frame, *arrays, need_dx=False), convolve(frame, *arrays)
    assert without[1].size == 0
    assert [without[i].tobytes() for i in (0, 2, 3)] == [whole[i].tobytes() for i in (0, 2, 3)]


def bound(pixels, before, out_size, w):
    """(C + 20) u times 4 times the sum of |pixel| |weight| over an output's whole 4 x 4 tile; see ``winograd.py``."""
    sums = sums_of_tiles(pixels, before, out_size) @ np.abs(w).sum(axis=(0, 1), dtype=np.float64)
    tiles, (OH, OW) = (w.shape[2] + 20) * 2.0**-24 * 4 * sums, out_size
    return tiles.repeat(2, axis=1).repeat(2, axis=2)[:, :OH, :OW]


def sums_of_tiles(pixels, before, out_size):
    """The sum of |pixel| over each 4 x 4 tile: (N, down, across, C)."""
    N, H, W, C = pixels.shape
    (top, left), (OH, OW) = before, out_size
    down, across = -(-OH // 2), -(-OW // 2)
    framed = np.zeros((N, 2 * down + 2 + 2 * H, 2 * across + 2 + 2 * W, C))
    framed[:, top : top + H, left : left + W] = np.abs(pixels)
    parts = [framed[:, i : i + 2 * down : 2, j : j + 2 * across : 2] for i in range(4) for j in range(4)]
    return functools.reduce(np.add, parts)


def gradient_bound(frame, x, dout):
    """(T + P + 8) u times 4 times the sum, over the tiles, of the sum of |pixel| over the 4 x 4 and of |gradient| over
    the 2 x 2, with T tiles in each of P parts; see ``winograd_gradient.py``."""
    g = winograd_gradient.dw(convolution_of(frame.out_shape, frame.x_shape, frame.w_shape))[0].numbers
    (N, OH, OW, F), odd = dout.shape, [(0, 0), (0, dout.shape[1] % 2), (0, dout.shape[2] % 2), (0, 0)]
    gradients = np.pad(np.abs(dout), odd).reshape(N, g.down, 2, g.across, 2, F).sum(axis=(2, 4), dtype=np.float64)
    sums = np.einsum("nyxc,nyxf->cf", sums_of_tiles(x, frame.before, (OH, OW)), gradients)
    return (-(-g.count // g.parts) + g.parts + 8) * 2.0**-24 * 4 * sums


@examples(20)
@given(frames(), st.floats(-3, 3), seeds)
def test_the_error_bounds_are_kept(frame, exponent, seed):
    x, w, b, dout = inputs(frame, seed)
    rng = np.random.default_rng(seed)
    for array in (x, dout):
        array *= np.float32(10.0**exponent) * (rng.random(array.shape) < 0.5)
    out, dx, dw, _ = convolve(frame, x, w, 0 * b, dout)
    expected, expected_dx, expected_dw, _ = expect(frame, x, w, 0 * b, dout)
    assert (np.abs(out - expected) <= bound(x, frame.before, out.shape[1:3], w)).all()
    turned, missing = w[::-1, ::-1].transpose(0, 1, 3, 2), tuple(2 - p for p in frame.before)
    assert (np.abs(dx - expected_dx) <= bound(dout, missing, dx.shape[1:3], turned)).all()
    assert (np.abs(dw - expected_dw) <= gradient_bound(frame, x, dout)).all()


@pytest.mark.parametrize("channels", [32, 64, 128, 256, 512])
def test_the_error_bound_is_nearly_reached(channels):
    """The worst case of the docstring of ``winograd.py``, made on purpose: drawn numbers never come near it.

    The filter is its first tap alone. Channel 0 has one pixel just above 1 at (2, 2), which reaches the four outer
    products of an output, where it cancels; each further channel adds to every one of them slightly less than half a
    unit in the last place. All of that is lost.
    """
    frame = Framed(1, (5, 5), channels, channels, (0, 0), (0, 0))
    x, w, b, dout = (np.zeros_like(array) for array in inputs(frame, 0))
    row = np.array([2, 0, 1, 0], np.float32)
    x[0, :4, :4, 1:] = (np.float32(0.99 * 2.0**-24) * np.outer(row, row))[:, :, None]
    x[0, 2, 2, 0] = 1 + 2.0**-10
    w[0, 0] = 1
    out, expected = (f(frame, x, w, b, dout)[0][0, 0, 0] for f in (convolve, expect))
    share = np.abs(out - expected) / bound(x, frame.before, (3, 3), w)[0, 0, 0]
    assert (share <= 1).all()
    assert (share > 0.95 * channels / (channels + 20) - 0.05).all()  # what the 20 allows for besides is not all used
    assert channels < 256 or (share > 0.85).all()


@pytest.mark.parametrize("images", [16, 64, 256])
def test_the_error_bound_of_dw_is_nearly_reached(images, monkeypatch):
    """The same case with the roles exchanged: each image has one gradient, and one tile, the only one that it meets.
    The first has the pixel just above 1, and what the others add to the tap where it cancels is lost."""
    monkeypatch.setattr(winograd_gradient, "LEAST", 10**6)
    frame = Framed(images, (4, 4), 32, 32, (0, 0), (0, 0))
    x, _, _, dout = (np.zeros_like(array) for array in inputs(frame, 0))
    row = np.array([2, 0, 1, 0], np.float32)
    x[1:] = (np.float32(0.99 * 2.0**-24) * np.outer(row, row))[:, :, None]
    x[0, 2, 2] = 1 + 2.0**-10
    dout[:, 0, 0] = 1
    dw, expected = gradient(frame, dout, x)[0], x.sum(axis=0, dtype=np.float64)[0, 0, :, None]
    share = np.abs(dw[0, 0] - expected) / gradient_bound(frame, x, dout)
    assert (share <= 1).all()
    assert (share > 0.95 * images / (images + 8) - 0.05).all()


def gradient(frame, dout, x):
    """dw and db of the kernels of ``winograd_gradient.py``, wherever they would be used."""
    layer = convolution_of(frame.out_shape, frame.x_shape, frame.w_shape, padding=frame.before)
    sums, add_parts = winograd_gradient.dw(layer)
    places = {"scratch_size": sums.scratch, "sums": numba.config.NUMBA_NUM_THREADS * sums.scratch}
    work = np.full(places["sums"] + sums.sums, np.nan, np.float32)
    dw, db = (np.full(shape, np.nan, np.float32) for shape in (frame.w_shape, frame.filters))
    sums.place(**places).run(dout, x, NOTHING, work)
    add_parts.place(**places).run(dw, db, NOTHING, work)
    return dw, db


def test_a_transposed_convolution():
    """Its dw is that of the convolution whose dx it is, and its db the sum of other pixels."""
    frame = Framed(3, (9, 7), 32, 48, (1, 1), (1, 1))
    dout, w, b, x = inputs(frame, 6)
    geometry = frame.strides, frame.before, frame.dilation
    work = np.empty(conv.conv2d_workspace(x.shape, dout.shape, w.shape, *geometry), np.float32)
    conv.conv2d_prepare(work, w, x.shape, dout.shape, *geometry)
    results = [np.empty_like(x), np.empty_like(w), np.empty(frame.channels, np.float32)]
    conv.conv2d_transpose_backward(*results, dout, x, w, work, *geometry)
    truths = [array.astype(np.float64) for array in results]
    reference.conv2d_transpose_backward(*truths, *(a.astype(np.float64) for a in (dout, x, w)), None, *geometry)
    for result, truth in zip(results, truths, strict=True):
        np.testing.assert_allclose(result, truth, rtol=0, atol=1e-5 * np.abs(truth).max())


def test_when_the_method_is_used():

    def used(out, w, strides, dilation):
        layer = convolution_of(out, (out[0], 9, 9, w[2]), w, strides, (0, 0), dilation)
        assert (choose(layer).forward is winograd) == (choose(layer).dx is winograd)
        assert (choose(layer).forward is winograd) == (choose(layer).dw is winograd_gradient)
        return choose(layer).forward is winograd

    assert used((8, 3, 9, 64), (3, 3, 64, 64), (1, 1), (1, 1))
    assert used((1, 3, 3, 16), (3, 3, 16, 16), (1, 1), (1, 1))
    for out, w, strides, dilation in [
        ((8, 2, 9, 64), (3, 3, 64, 64), (1, 1), (1, 1)),  # too small
        ((8, 9, 9, 64), (3, 3, 8, 64), (1, 1), (1, 1)),  # too few channels
        ((8, 9, 9, 34), (3, 3, 64, 34), (1, 1), (1, 1)),  # no whole vectors
        ((8, 9, 9, 64), (3, 2, 64, 64), (1, 1), (1, 1)),
        ((8, 9, 9, 64), (3, 3, 64, 64), (2, 1), (1, 1)),
        ((8, 9, 9, 64), (3, 3, 64, 64), (1, 1), (1, 2)),
    ]:
        assert not used(out, w, strides, dilation)
