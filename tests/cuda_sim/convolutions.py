"""Convolutions, dense layers and the fused step in the CUDA simulator, against the reference."""

import numpy as np
import pytest

from tests.cuda_sim.compare import Work, compare, floats, nothing
from tinyconv.kernels.cuda import conv_pool
from tinyconv.kernels.cuda.convolution import product

NONE = np.empty((0, 0, 0, 0), np.float32)

# image (N, H, W, C), filters (KH, KW, F), strides, padding (top, left), dilation, size of the output
CONVOLUTIONS = {
    "valid": ((2, 5, 5, 3), (3, 3, 5), (1, 1), (0, 0), (1, 1), (3, 3)),
    "same, even kernel": ((1, 4, 5, 2), (2, 4, 3), (1, 1), (0, 1), (1, 1), (4, 5)),
    "strides": ((1, 7, 6, 2), (3, 2, 3), (2, 3), (1, 0), (1, 1), (4, 2)),
    "dilation": ((1, 7, 8, 2), (3, 2, 3), (1, 1), (1, 1), (2, 3), (5, 6)),
    "1 x 1": ((3, 2, 2, 4), (1, 1, 6), (1, 1), (0, 0), (1, 1), (2, 2)),
    "one pixel": ((2, 1, 1, 1), (3, 3, 2), (1, 1), (1, 1), (1, 1), (1, 1)),
    "image larger than the windows": ((1, 6, 6, 1), (2, 2, 2), (3, 3), (0, 0), (1, 1), (2, 2)),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_conv2d(case):
    x_shape, (KH, KW, F), strides, padding, dilation, (OH, OW) = CONVOLUTIONS[case]
    random = np.random.default_rng(1)
    N, _, _, C = x_shape
    x, w, b = floats(random, *x_shape), floats(random, KH, KW, C, F), floats(random, F)
    dout = floats(random, N, OH, OW, F)
    work = Work("conv2d_workspace", dout.shape, x.shape, w.shape, strides, padding, dilation)
    geometry = strides, padding, dilation
    compare("conv2d_forward", nothing(N, OH, OW, F), x, w, b, work, *geometry, case == "valid")
    outputs = nothing(*x.shape), nothing(*w.shape), nothing(F)
    compare("conv2d_backward", *outputs, dout, x, w, work, *geometry)


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_conv2d_transpose(case):
    x_shape, (KH, KW, F), *geometry, (OH, OW) = CONVOLUTIONS[case]
    random = np.random.default_rng(4)
    N, _, _, C = x_shape
    x, w, b = floats(random, N, OH, OW, F), floats(random, KH, KW, C, F), floats(random, C)
    dout = floats(random, *x_shape)
    work = Work("conv2d_workspace", x.shape, x_shape, w.shape, *geometry)
    compare("conv2d_transpose_forward", nothing(*x_shape), x, w, b, work, *geometry)
    for dx in (nothing(*x.shape), *([NONE] if case == "strides" else [])):
        compare("conv2d_transpose_backward", dx, nothing(*w.shape), nothing(C), dout, x, w, work, *geometry)


def test_products_with_ragged_tiles_and_a_depth_cut_into_parts():
    random = np.random.default_rng(2)
    N, H, C, F = 1, 9, 1, 66  # forward, 81 rows and 66 columns: tiles of 64 with a rest; dw: a depth of 81, in parts
    x, w, b, dout = (
        floats(random, N, H, H, C),
        floats(random, 3, 3, C, F),
        floats(random, F),
        floats(random, N, H, H, F),
    )
    geometry = (1, 1), (1, 1), (1, 1)
    work = Work("conv2d_workspace", dout.shape, x.shape, w.shape, *geometry)
    assert product.parts_of(9 * C + 1, F, H * H)[0] > 1
    compare("conv2d_forward", nothing(*dout.shape), x, w, b, work, *geometry, True)
    compare("conv2d_backward", NONE, nothing(*w.shape), nothing(F), dout, x, w, work, *geometry)


def test_depth_is_cut_by_shapes_alone_and_covers_it():
    for rows, columns, depth in ((1, 1, 1), (128, 10, 1600), (54_000, 32, 9), (289, 64, 128 * 121), (0, 4, 4)):
        parts, part = product.parts_of(rows, columns, depth)
        assert part % product.DEPTH == 0
        assert (parts - 1) * part < depth <= parts * part


def test_a_nan_survives_relu():
    x = np.full((1, 2, 2, 1), np.nan, np.float32)
    w, b = np.ones((1, 1, 1, 1), np.float32), np.zeros(1, np.float32)
    geometry = (1, 1), (0, 0), (1, 1)
    work = Work("conv2d_workspace", x.shape, x.shape, w.shape, *geometry)
    compare("conv2d_forward", nothing(*x.shape), x, w, b, work, *geometry, True)


@pytest.mark.parametrize(
    ("N", "K", "F", "wanted"), [(3, 5, 2, True), (2, 70, 3, True), (2, 3, 70, True), (1, 1, 1, False)]
)
def test_dense(N, K, F, wanted):
    random = np.random.default_rng(3)
    x, w, b, dout = floats(random, N, K), floats(random, K, F), floats(random, F), floats(random, N, F)
    work = Work("dense_workspace", dout.shape, x.shape, w.shape)
    compare("dense_forward", nothing(N, F), x, w, b, work, not wanted)
    dx = nothing(N, K) if wanted else np.empty((0, 0), np.float32)
    compare("dense_backward", dx, nothing(K, F), nothing(F), dout, x, w, work)


# image (N, H, W, C), filters (KH, KW, F), padding, pooled size, whether dx is wanted
FUSED = {
    "MNIST's first layer": ((2, 6, 6, 1), (3, 3, 3), (0, 0), (2, 2), False),
    "with its dx": ((1, 6, 7, 1), (3, 3, 3), (1, 1), (3, 3), True),
    "many taps": ((3, 6, 6, 4), (3, 3, 9), (0, 0), (2, 2), True),
    "many taps, padded, an odd row and column dropped": ((2, 7, 5, 5), (3, 3, 4), (1, 1), (3, 2), True),
    "5 x 2": ((1, 7, 5, 4), (5, 2, 2), (2, 0), (3, 2), True),
    "1 x 1": ((2, 4, 4, 3), (1, 1, 2), (0, 0), (2, 2), True),
    "more channels than a block takes at once": ((1, 4, 4, 100), (3, 3, 1), (0, 0), (1, 1), False),
    "more filters than a block lists at once": ((1, 2, 2, 1), (1, 1, 130), (0, 0), (1, 1), True),
}


@pytest.mark.parametrize("case", FUSED)
def test_fused_step(case):
    x_shape, (KH, KW, F), padding, (PH, PW), wanted = FUSED[case]
    random = np.random.default_rng(4)
    N, _, _, C = x_shape
    out_shape, w_shape = (N, PH, PW, F), (KH, KW, C, F)
    # Small integers: the sums are exact, so that there are true ties, and the same winners on both sides.
    x, w, b = (random.integers(-2, 3, shape).astype(np.float32) for shape in (x_shape, w_shape, (F,)))
    work = Work("conv2d_relu_max_pool2d_workspace", out_shape, x_shape, w_shape, padding)
    argmax = np.full(out_shape, 9, np.int8)
    _, argmax, *_ = compare("conv2d_relu_max_pool2d_forward", nothing(*out_shape), argmax, x, w, b, work, padding)
    none = np.empty((0, 0, 0, 0), np.int8)
    compare("conv2d_relu_max_pool2d_forward", nothing(*out_shape), none, x, w, b, work, padding)
    dout = floats(random, *out_shape) * (random.random(out_shape) < 0.7)
    dx = nothing(*x_shape) if wanted else NONE
    outputs = dx, nothing(*w_shape), nothing(F)
    compare("conv2d_relu_max_pool2d_backward", *outputs, dout, argmax, x, w, work, padding, 2.0)


def test_fused_step_keeps_a_nan_visible_and_stops_at_zero():
    x = np.zeros((1, 2, 4, 1), np.float32)
    x[0, 0, 1, 0] = np.nan
    w, b = np.ones((1, 1, 1, 1), np.float32), np.zeros(1, np.float32)
    shape = (1, 1, 2, 1)
    work = Work("conv2d_relu_max_pool2d_workspace", shape, x.shape, w.shape, (0, 0))
    out, argmax, *_ = compare(
        "conv2d_relu_max_pool2d_forward", nothing(*shape), np.zeros(shape, np.int8), x, w, b, work, (0, 0)
    )
    assert np.isnan(out[0, 0, 0, 0])
    assert argmax.ravel().tolist() == [1, -1]


@pytest.mark.parametrize(
    "shape", [(3, 3, 1, 32, 13, 13), (3, 3, 32, 64, 5, 5), (7, 7, 64, 128, 56, 56), (31, 31, 3, 8, 1, 1)]
)
def test_tiles_of_the_fused_forward_fit_into_shared_memory_and_a_block(shape):
    KH, KW, C, F, PH, PW = shape
    groups, high, wide, deep = conv_pool._forward_tile(*shape)
    patch = (2 * high + KH - 1) * (2 * wide + KW - 1) * deep
    assert 4 * (patch + KH * KW * deep * groups * conv_pool.WIDE) <= 48 * 1024
    assert 1 <= groups * high * wide <= 256
    assert 1 <= deep <= C
    assert conv_pool._forward.__wrapped__(KH, KW, groups, high, wide, deep, False)
