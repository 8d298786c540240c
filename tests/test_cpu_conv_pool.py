"""The fused conv -> ReLU -> max-pool of the CPU, forward and backward, is held to its reference."""

import hypothesis.strategies as st
import numba
import numpy as np
import pytest
from hypothesis import given

from tests.strategies import examples, few
from tinyconv.kernels import cpu, memory, reference
from tinyconv.kernels.cpu import conv_pool
from tinyconv.kernels.cpu.convolution import pooled_unpooling, pooled_winners, winograd_pooled
from tinyconv.kernels.cpu.convolution.choice import choose
from tinyconv.kernels.cpu.convolution.pooled import pooled_convolution
from tinyconv.kernels.cpu.registers.host import LANES

NOTHING = np.zeros((0, 0, 0, 0), np.float32)


def between_canaries(shape, dtype=np.float32, canary=77):
    """An aligned array with a line of canaries before and behind it, and a function that checks that they live."""
    size = int(np.prod(shape))
    line = 64
    whole = memory.allocate((size + 2 * line,), dtype)
    whole[...] = canary
    inner = whole[line : line + size].reshape(shape)

    def alive():
        return (whole[:line] == canary).all() and (whole[line + size :] == canary).all()

    return inner, alive


def arrays(seed, N, H, W, C, F, KH, KW, padding):
    """x, w, b and the pooled shape of one drawn step."""
    rng = np.random.default_rng(seed)
    top, left, bottom, right = padding
    OH, OW = H + top + bottom - KH + 1, W + left + right - KW + 1
    x = rng.standard_normal((N, H, W, C), np.float32)
    w = rng.standard_normal((KH, KW, C, F), np.float32) / np.float32(np.sqrt(KH * KW * C))
    b = rng.standard_normal(F, np.float32) / 4
    return rng, x, w, b, (N, OH // 2, OW // 2, F)


# Some of each kind, since each kind is compiled: few channels, odd numbers, Winograd, whole vectors without Winograd.
FILTERS = [(3, 3, 1, 32), (2, 4, 5, 7), (3, 3, 32, 64), (3, 3, 16, 48)]
MORE_FILTERS = [(3, 3, 3, 20), (5, 5, 16, 17), (2, 2, 8, 70)]  # panels of three vectors, too


@st.composite
def steps(draw, filters):
    """Sizes for which there is at least one window."""
    KH, KW, C, F = draw(st.sampled_from(filters))
    padding = tuple(draw(st.integers(0, k - 1)) for k in (KH, KW, KH, KW))
    N, H, W = draw(st.integers(1, 4)), KH + draw(st.integers(1, 9)), KW + draw(st.integers(1, 9))
    return draw(st.integers(0, 2**32 - 1)), N, H, W, C, F, KH, KW, padding


def forward(x, w, b, shape, padding):
    work = memory.allocate((cpu.conv2d_relu_max_pool2d_workspace(shape, x.shape, w.shape, padding),), np.float32)
    (out, alive), (argmax, alive_argmax) = between_canaries(shape), between_canaries(shape, np.int8)
    cpu.conv2d_relu_max_pool2d_prepare(work, w)
    cpu.conv2d_relu_max_pool2d_forward(out, argmax, x, w, b, work, padding)
    assert alive()
    assert alive_argmax()
    return out, argmax, work


@pytest.mark.parametrize("filters", few([FILTERS, MORE_FILTERS]), ids=["some", "more"])
@examples(40)
@given(st.data())
def test_forward_is_the_reference(filters, data):
    step = data.draw(steps(filters))
    *_, padding = step
    _, x, w, b, shape = arrays(*step)
    out, argmax, _ = forward(x, w, b, shape, padding[:2])
    expected, winners = np.empty(shape, np.float64), np.empty(shape, np.int8)
    doubles = [a.astype(np.float64) for a in (x, w, b)]
    reference.conv2d_relu_max_pool2d_forward(expected, winners, *doubles, np.zeros(0), padding[:2])
    error = np.abs(out - expected).max()
    assert error <= 2e-5 * max(1, np.abs(expected).max())
    # Winners may differ only where two values of a window are as good as equal, or one as good as zero.
    full = np.empty((shape[0], 2 * shape[1], 2 * shape[2], shape[3]))
    reference.conv2d_forward(full, *doubles, np.zeros(0), (1, 1), padding[:2], (1, 1), False)
    corners = full.reshape(shape[0], shape[1], 2, shape[2], 2, shape[3]).transpose(0, 1, 3, 5, 2, 4).reshape(*shape, 4)
    chosen = np.take_along_axis(corners, np.maximum(argmax, 0)[..., None].astype(np.int64), -1)[..., 0]
    assert np.abs(np.maximum(chosen, 0) - expected)[argmax >= 0].max(initial=0) <= 4e-5 * max(1, np.abs(full).max())
    assert np.abs(expected[argmax < 0]).max(initial=0) <= 4e-5 * max(1, np.abs(full).max())


@pytest.mark.parametrize("filters", few([FILTERS, MORE_FILTERS]), ids=["some", "more"])
@examples(40)
@given(st.data(), st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.sampled_from([1.0, 2.0]))
def test_backward_is_the_reference(filters, data, density, scale):
    step = data.draw(steps(filters))
    *_, padding = step
    rng, x, w, b, shape = arrays(*step)
    _, _, work = forward(x, w, b, shape, padding[:2])
    argmax = rng.integers(-1, 4, shape, np.int8)
    dout = (rng.standard_normal(shape) * (rng.random(shape) < density)).astype(np.float32)
    (dx, alive), (dw, alive_dw), (db, alive_db) = (between_canaries(a.shape) for a in (x, w, b))
    cpu.conv2d_relu_max_pool2d_backward(dx, dw, db, dout, argmax, x, w, work, padding[:2], scale)
    assert alive()
    assert alive_dw()
    assert alive_db()
    expected = [np.empty(a.shape) for a in (x, w, b)]
    doubles = [a.astype(np.float64) for a in (x, w)]
    reference.conv2d_relu_max_pool2d_backward(
        *expected, dout.astype(np.float64), argmax, *doubles, np.zeros(0), padding[:2], scale
    )
    twins = [np.empty(a.shape) for a in (x, w, b)]
    pooled_winners.backward(*twins, dout.astype(np.float64), argmax, *doubles, padding[:2], scale)
    for ours, twin, theirs in zip((dx, dw, db), twins, expected, strict=True):
        np.testing.assert_allclose(twin, theirs, rtol=1e-10, atol=1e-10)  # the winners are all there is
        assert np.abs(ours - theirs).max() <= 2e-5 * max(1, np.abs(theirs).max())
    before = dw.copy()
    cpu.conv2d_relu_max_pool2d_backward(NOTHING, dw, db, dout, argmax, x, w, work, padding[:2], scale)
    assert (dw == before).all()  # a dx that nobody wants changes nothing else


def test_a_gradient_is_unpooled_row_by_row_where_the_cache_is_small(monkeypatch):
    """dw of an image whose gradient the cache does not hold: rows of windows at a time, of which the last are fewer."""
    step = 7, 3, 16, 9, 5, 20, 3, 3, (1, 1, 1, 1)
    rng, x, w, b, shape = arrays(*step)
    argmax, dout = rng.integers(-1, 4, shape, np.int8), rng.standard_normal(shape, np.float32)
    found = []
    for cached in (pooled_unpooling.CACHED, 6 * 2 * 2 * shape[2] * 2 * 2 * LANES, 1):
        monkeypatch.setattr(pooled_unpooling, "CACHED", cached)
        conv_pool.pooled_jobs.cache_clear()
        _, _, work = forward(x, w, b, shape, (1, 1))
        (dx, _), (dw, alive_dw), (db, alive_db) = (between_canaries(a.shape) for a in (x, w, b))
        cpu.conv2d_relu_max_pool2d_backward(dx, dw, db, dout, argmax, x, w, work, (1, 1), 2.0)
        assert alive_dw()
        assert alive_db()
        found.append((dw.tobytes(), db.tobytes()))
    conv_pool.pooled_jobs.cache_clear()
    assert found[0] == found[1] == found[2]  # whichever: pixel after pixel


@pytest.mark.parametrize("shape", [(20, 9, 9, 1, 32), (20, 9, 9, 32, 64), (20, 9, 9, 5, 20)])
def test_the_bits_do_not_depend_on_the_threads(shape):
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("one core only")
    N, H, W, C, F = shape
    rng, x, w, b, pooled = arrays(0, N, H, W, C, F, 3, 3, (1, 1, 1, 1))
    argmax = rng.integers(-1, 4, pooled, np.int8)
    dout = rng.standard_normal(pooled).astype(np.float32)
    before, found = numba.get_num_threads(), []
    try:
        for threads in (1, 2):
            numba.set_num_threads(threads)
            out, winners, work = forward(x, w, b, pooled, (1, 1))
            gradients = [np.empty_like(a) for a in (x, w, b)]
            cpu.conv2d_relu_max_pool2d_backward(*gradients, dout, argmax, x, w, work, (1, 1), 2.0)
            found.append([a.tobytes() for a in (out, winners, *gradients)])
    finally:
        numba.set_num_threads(before)
    assert found[0] == found[1]


@pytest.mark.parametrize("C", [1, 32])
def test_a_nan_stays_visible(C):
    _, x, w, b, shape = arrays(1, 2, 8, 8, C, 32, 3, 3, (0, 0, 0, 0))
    x[1, 3, 3, 0] = np.nan
    out, argmax, work = forward(x, w, b, shape, (0, 0))
    assert not np.isnan(out[0]).any()
    assert np.isnan(out[1]).any()
    assert (argmax[np.isnan(out)] >= 0).all()
    dout = np.ones(shape, np.float32)
    dout[0, 0, 0, 0] = np.nan
    argmax[0, 0, 0, 0] = 0
    gradients = [np.empty_like(a) for a in (x, w, b)]
    cpu.conv2d_relu_max_pool2d_backward(*gradients, dout, argmax, x, w, work, (0, 0), 1.0)
    assert np.isnan(gradients[0][0]).any()
    assert np.isnan(gradients[2][0])


def test_of_equal_values_the_first_wins():
    x, w, b = np.ones((1, 6, 6, 16), np.float32), np.ones((3, 3, 16, 16), np.float32), np.zeros(16, np.float32)
    _, argmax, _ = forward(x, w, b, (1, 2, 2, 16), (0, 0))
    assert (argmax == 0).all()
    _, argmax, _ = forward(x, -w, b, (1, 2, 2, 16), (0, 0))
    assert (argmax == -1).all()
    _, argmax, _ = forward(x, 0 * w, b, (1, 2, 2, 16), (0, 0))
    assert (argmax == -1).all()  # relu'(0) = 0


@examples(20)
@given(st.integers(0, 2**32 - 1), st.sampled_from([16, 32]), st.floats(-3, 3))
def test_winograd_keeps_its_error_bound(seed, C, exponent):
    """(C + 20) u times 4 times the sum of |pixel| |weight| over the whole 4 x 4 tile; see ``winograd.py``."""
    rng, x, w, b, shape = arrays(seed, 2, 8, 8, C, 16, 3, 3, (0, 0, 0, 0))
    assert choose(pooled_convolution(shape, x.shape, w.shape, (0, 0)), pooled=True).forward is winograd_pooled
    x *= np.float32(10.0**exponent) * (rng.random(x.shape) < 0.5)
    out, _, _ = forward(x, w, 0 * b, shape, (0, 0))
    expected, winners = np.empty(shape), np.empty(shape, np.int8)
    reference.conv2d_relu_max_pool2d_forward(
        expected, winners, x.astype(np.float64), w.astype(np.float64), 0.0 * b, np.zeros(0), (0, 0)
    )
    pixels = np.stack(
        [np.abs(x[:, i : i + 2 * shape[1] : 2, j : j + 2 * shape[2] : 2]) for i in range(4) for j in range(4)]
    )
    total = np.einsum("tnhwc,cf->nhwf", pixels.astype(np.float64), np.abs(w).sum(axis=(0, 1), dtype=np.float64))
    assert (np.abs(out - expected) <= (C + 20) * 2.0**-24 * 4 * total).all()
