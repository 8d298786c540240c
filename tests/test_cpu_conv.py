"""The CPU convolutions, held to the reference in float64: any shape, between canaries, on one thread and on two."""

import concurrent.futures
import os
import platform
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import Window, examples, few, normal, seeds, windows
from tinyconv.kernels import reference
from tinyconv.kernels.cpu import conv
from tinyconv.kernels.cpu.convolution import choice, direct, filter_gradient, geometry
from tinyconv.kernels.memory import allocate

CANARY = np.float32(-77)
channel_counts = st.sampled_from([1, 2, 3, 5, 8, 15, 16, 17, 31, 32, 33, 40, 48, 64])


def between_canaries(*shape, fill=np.nan):
    """An array, and what lies before and after it."""
    size = int(np.prod(shape))
    raw = allocate((size + 64,), np.float32)
    raw[...] = CANARY
    array = raw[32 : 32 + size].reshape(shape)
    array[...] = fill
    return array, (raw[:32], raw[32 + size :])


def convolve(window, x, w, b, dout, relu=False, need_dx=True):
    """out, dx, dw and db of the CPU kernels; fails if they write anywhere else."""
    geometry = window.strides, window.before, window.dilation
    size = conv.conv2d_workspace(window.out_shape, window.x_shape, window.w_shape, *geometry)
    dx_shape = window.x_shape if need_dx else (0, 1, 1, 1)
    arrays, zones = zip(
        *(between_canaries(*shape) for shape in ((size,), dout.shape, dx_shape, w.shape, b.shape)), strict=True
    )
    work, out, dx, dw, db = arrays
    conv.conv2d_prepare(work, w, dout.shape, x.shape, *geometry)
    conv.conv2d_forward(out, x, w, b, work, *geometry, relu)
    conv.conv2d_backward(dx, dw, db, dout, x, w, work, *geometry)
    assert all((zone == CANARY).all() for pair in zones for zone in pair)
    return out, dx, dw, db


def expect(window, x, w, b, dout, relu=False):
    """The same of the reference, in float64."""
    geometry = window.strides, window.before, window.dilation
    x, w, b, dout = (array.astype(np.float64) for array in (x, w, b, dout))
    out, dx, dw, db = np.empty_like(dout), np.empty_like(x), np.empty_like(w), np.empty_like(b)
    reference.conv2d_forward(out, x, w, b, None, *geometry, relu)
    reference.conv2d_backward(dx, dw, db, dout, x, w, None, *geometry)
    return out, dx, dw, db


def inputs(window, seed):
    rng = np.random.default_rng(seed)
    shapes = window.x_shape, window.w_shape, (window.filters,), window.out_shape
    return [normal(rng, *shape, dtype=np.float32) for shape in shapes]


def check(window, seed, relu=False):
    """The CPU's results are the reference's, but for the rounding of so many additions."""
    arrays = inputs(window, seed)
    N, OH, OW, F = window.out_shape
    KH, KW, C, F = window.w_shape
    lengths = KH * KW * C + 1, KH * KW * F, N * OH * OW, N * OH * OW
    for result, truth, length in zip(
        convolve(window, *arrays, relu), expect(window, *arrays, relu), lengths, strict=True
    ):
        bound = np.finfo(np.float32).eps * np.sqrt(length) * 8
        np.testing.assert_allclose(result, truth, rtol=0, atol=bound * np.sqrt(length))


def check_threads(window):
    """All results have the same bits on one thread and on all."""
    threads, results = numba.get_num_threads(), []
    if threads == 1:
        pytest.skip("one thread only")
    arrays = inputs(window, 2)
    try:
        for count in (1, threads):
            numba.set_num_threads(count)
            results.append([result.tobytes() for result in convolve(window, *arrays)])
    finally:
        numba.set_num_threads(threads)
    assert results[0] == results[1]


@examples(60)
@given(windows(max_size=14), channel_counts, channel_counts, st.booleans(), seeds)
def test_any_convolution_is_the_references(window, channels, filters, relu, seed):
    check(window._replace(channels=channels, filters=filters), seed, relu)


@pytest.mark.parametrize(
    "window",
    few(
        [
            Window(2, (17, 16), 1, 40, (7, 5), (2, 3), (1, 1), "same"),
            Window(1, (1, 1), 3, 5, (3, 3), (1, 1), (1, 1), "same"),
            Window(3, (9, 8), 3, 20, (3, 3), (1, 1), (1, 1), "same"),
            Window(2, (12, 13), 2, 9, (2, 2), (3, 4), (1, 1), "valid"),
            Window(1, (12, 13), 3, 33, (3, 3), (1, 1), (2, 3), "valid"),
        ],
        2,
    ),
)
def test_dx_of_few_channels(window, monkeypatch):
    """Also where vectors are so short that it would not pay."""
    monkeypatch.setattr(choice, "has_few_channels", lambda layer: True)
    conv.jobs.cache_clear()
    check(window, 4)
    conv.jobs.cache_clear()


def test_the_table_of_algorithms():
    """One shape for each row."""

    def chosen(w_shape, strides=(1, 1), pooled=False):
        choice_ = choice.choose(
            geometry.convolution_of((8, 9, 9, w_shape[3]), (8, 9, 9, w_shape[2]), w_shape, strides), pooled
        )
        return [part.__name__.rpartition(".")[2] for part in choice_]

    assert chosen((3, 3, 32, 64)) == ["winograd", "winograd", "winograd_gradient"]
    assert chosen((3, 3, 32, 64), (2, 2)) == ["direct", "direct", "filter_gradient"]
    assert chosen((5, 5, 1, 64)) == ["direct", "col2im", "filter_gradient"]
    assert chosen((3, 3, 32, 64), pooled=True) == ["winograd_pooled", "pooled_winners", "pooled_winners"]
    assert chosen((3, 3, 5, 20), pooled=True) == ["pooled_direct", "pooled_winners", "pooled_unpooling"]
    patches = "pooled_patches" if choice.LANES == 16 else "pooled_unpooling"
    assert chosen((3, 3, 1, 32), pooled=True) == ["pooled_direct", "pooled_winners", patches]


@pytest.fixture
def small_cache(monkeypatch):
    """Kernels that think that the cache holds next to nothing, and so work in many bands and units."""
    for module in (geometry, direct, filter_gradient):
        for name, value in (("CACHED", 600), ("TASKS", 7)):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)
    conv.jobs.cache_clear()
    yield
    conv.jobs.cache_clear()


BANDED = [
    Window(2, (23, 9), 5, 40, (3, 3), (1, 1), (1, 1), "same"),
    Window(1, (30, 11), 3, 20, (5, 2), (2, 1), (1, 1), "valid"),
    Window(3, (25, 12), 4, 70, (3, 4), (3, 2), (1, 2), "same"),
    Window(40, (4, 4), 3, 33, (3, 3), (1, 1), (1, 1), "same"),
    Window(9, (3, 2), 17, 3, (1, 1), (1, 1), (1, 1), "valid"),
]


@pytest.mark.usefixtures("small_cache")
@pytest.mark.parametrize("window", few([BANDED[0], *BANDED[2:], BANDED[1]], 4))
def test_images_in_bands_and_batches_in_parts(window):
    check(window, 0)


@pytest.mark.parametrize("window", BANDED)
def test_many_images(window):
    check(window, 1, relu=True)


@pytest.mark.parametrize("window", BANDED)
def test_one_thread_and_two_give_the_same_bits(window):
    check_threads(window)


def test_a_sample_does_not_depend_on_its_batch():
    """The same bits alone as among others: the order of additions is that of taps and channels, always."""
    window = Window(5, (13, 13), 7, 35, (3, 3), (1, 1), (1, 1), "same")
    x, w, b, dout = inputs(window, 3)
    out, dx, _, _ = convolve(window, x, w, b, dout)
    alone = convolve(window._replace(batch=1), x[3:4], w, b, dout[3:4])
    assert alone[0].tobytes() == out[3:4].tobytes()
    assert alone[1].tobytes() == dx[3:4].tobytes()


def test_a_nan_stays_visible_also_behind_relu():
    window = Window(1, (6, 6), 2, 18, (3, 3), (1, 1), (1, 1), "valid")
    x, w, b, dout = inputs(window, 4)
    x[0, 2, 3, 1] = np.nan
    dout[0, 1, 1, 17] = np.nan
    for result, truth in zip(convolve(window, x, w, b, dout, True), expect(window, x, w, b, dout, True), strict=True):
        np.testing.assert_array_equal(np.isnan(result), np.isnan(truth))
        assert np.isnan(truth).any()


def test_a_dx_that_nobody_needs_is_not_computed():
    window = Window(2, (6, 6), 2, 3, (3, 3), (1, 1), (1, 1), "same")
    arrays = inputs(window, 5)
    without, whole = convolve(window, *arrays, need_dx=False), convolve(window, *arrays)
    assert without[1].size == 0
    assert [without[i].tobytes() for i in (0, 2, 3)] == [whole[i].tobytes() for i in (0, 2, 3)]


def test_a_call_allocates_no_arrays():
    window = Window(2, (40, 40), 16, 16, (3, 3), (1, 1), (1, 1), "same")
    x, w, b, dout = inputs(window, 6)
    geometry = window.strides, window.before, window.dilation
    size = conv.conv2d_workspace(window.out_shape, window.x_shape, window.w_shape, *geometry)
    work, out, dx, dw, db = (np.empty(shape, np.float32) for shape in (size, dout.shape, x.shape, w.shape, b.shape))

    def step():
        conv.conv2d_prepare(work, w, dout.shape, x.shape, *geometry)
        conv.conv2d_forward(out, x, w, b, work, *geometry, True)
        conv.conv2d_backward(dx, dw, db, dout, x, w, work, *geometry)

    step()
    tracemalloc.start()
    try:
        step()
        assert tracemalloc.get_traced_memory()[1] < 8 * 1024  # the smallest of the arrays has more
    finally:
        tracemalloc.stop()


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="names x86 processors")
@pytest.mark.skipif(choice.LANES == 4, reason="no vectors are narrower than this machine's")
@pytest.mark.long
def test_narrower_vectors():
    """A processor with AVX2 and one with SSE only, as Numba sees them, if this machine's vectors are wider: each in a
    process of its own, both at once, as nearly all of their time goes into compiling."""
    program = """
import sys
from tests import test_cpu_conv, test_cpu_dense
from tests.strategies import Window
from tinyconv.kernels.cpu.registers.host import LANES
assert str(LANES) == sys.argv[1], LANES
# As few sizes of tiles as can be, each of which is compiled.
test_cpu_conv.check(Window(2, (9, 8), 5, 13, (3, 2), (2, 1), (1, 2), "same"), 0)
test_cpu_conv.check(Window(2, (9, 8), 1, 32, (3, 3), (2, 1), (1, 1), "same"), 0)  # dx of few channels
test_cpu_conv.check(Window(3, (9, 8), 32, 32, (3, 3), (1, 1), (1, 1), "same"), 0, True)  # Winograd's
test_cpu_dense.check(9, 21, 17, 0, True)
"""

    def run(processor, lanes):
        environment = {**os.environ, "NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": ""}
        command = [sys.executable, "-c", program, lanes]
        return subprocess.run(command, cwd=Path(__file__).parents[1], env=environment, capture_output=True, text=True)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        narrower = [(name, lanes) for name, lanes in (("haswell", "8"), ("nehalem", "4")) if int(lanes) < choice.LANES]
        for done in pool.map(run, *zip(*narrower, strict=True)):
            assert done.returncode == 0, done.stderr
