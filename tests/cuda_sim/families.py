"""Every other kernel in the CUDA simulator, against the reference; and the memory functions."""

import logging

import numpy as np
import pytest

from tests.cuda_sim.compare import Work, compare, floats, nothing, on_device, on_host
from tests.strategies import activations
from tinyconv import kernels
from tinyconv.kernels import cuda
from tinyconv.kernels.cuda.runtime import device
from tinyconv.kernels.reference.warp import FILL_MODES, KINDS

random = np.random.default_rng(5)
SAMPLE = np.array([-3.0, -0.5, -0.0, 0.0, 0.25, 2.0, 90.0, -90.0, np.nan], np.float32)


def test_the_set_is_complete_and_loads():
    assert kernels.load("cuda") is cuda
    for name, arguments in kernels.contract().items():
        function = getattr(cuda, name)
        assert tuple(function.__code__.co_varnames[: function.__code__.co_argcount]) == arguments, name
    for name in kernels.MEMORY:
        assert callable(getattr(cuda, name))


@pytest.mark.parametrize(("kind", "options"), activations())
def test_activations(kind, options):
    with np.errstate(all="ignore"):
        out, *_ = compare("activation_forward", nothing(9), SAMPLE, kind, options)
        compare("activation_backward", nothing(9), floats(random, 9), SAMPLE, out, kind, options)


def test_an_array_of_several_blocks_and_in_place():
    x = floats(random, 300)
    compare("activation_forward", nothing(300), x, "relu", ())
    dout = on_device(x)
    ones = on_device(np.ones(300, np.float32))
    cuda.activation_backward(dout, dout, ones, ones, "relu", ())
    np.testing.assert_array_equal(on_host(dout), x)


def test_softmax():
    x = floats(random, 3, 5) * 30
    out, _ = compare("softmax_forward", nothing(3, 5), x)
    compare("softmax_backward", nothing(3, 5), floats(random, 3, 5), out)


@pytest.mark.parametrize("name", ["add", "multiply", "maximum"])
def test_merges(name):
    a, b, dout = floats(random, 9), floats(random, 9), floats(random, 9)
    a[2], a[3], b[4] = b[2], np.nan, np.nan
    given = () if name == "add" else (a, b)
    compare(f"{name}_forward", nothing(9), a, b)
    for sizes in ((9, 9), (9, 0), (0, 9)):
        compare(f"{name}_backward", *(nothing(size) for size in sizes), dout, *given)
    compare("add_to", a, b)
    compare("rescale_forward", nothing(9), a, 0.3, 2.0)
    compare("rescale_backward", nothing(9), a, 0.3)


def test_concatenation():
    compare("concatenate_forward", floats(random, 5, 9), floats(random, 5, 3), 4)
    compare("concatenate_backward", nothing(5, 3), floats(random, 5, 9), 4)


def one_hot(M, C):
    return np.eye(C, dtype=np.float32)[random.integers(0, C, M)]


def test_softmax_cross_entropy():
    logits, targets = floats(random, 4, 6) * 20, one_hot(4, 6)
    targets[1] = 0.3
    _, probs, *_ = compare("softmax_cross_entropy_forward", nothing(4), nothing(4, 6), logits, targets)
    compare("softmax_cross_entropy_backward", nothing(4, 6), probs, targets)


def test_cross_entropy_of_probabilities():
    probs = np.array([[0.2, 0.5, 0.3], [1, 0, 0], [0, 2, 2], [1e-9, 1, 0]], np.float32)
    for targets in (one_hot(4, 3), np.eye(3, dtype=np.float32)[[0, 0, 1, 0]]):
        compare("cross_entropy_forward", nothing(4), probs, targets)
        compare("cross_entropy_backward", nothing(4, 3), probs, targets)


def test_binary_losses():
    logits, targets = floats(random, 3, 4) * 20, (random.random((3, 4)) < 0.5).astype(np.float32)
    _, probs, *_ = compare("sigmoid_cross_entropy_forward", nothing(3), nothing(3, 4), logits, targets)
    compare("sigmoid_cross_entropy_backward", nothing(3, 4), probs, targets)
    probs = np.array([[0, 1, 0.5, 0.9], [1e-8, 0.1, 0.2, 0.7], [1, 1, 0, 0]], np.float32)
    compare("binary_cross_entropy_forward", nothing(3), probs, targets)
    compare("binary_cross_entropy_backward", nothing(3, 4), probs, targets)
    compare("count_binary_correct", nothing(3), probs, targets)


def test_mean_squared_error():
    compare("mean_squared_error_forward", nothing(3), floats(random, 3, 4), floats(random, 3, 4))
    compare("mean_squared_error_backward", nothing(3, 4), floats(random, 3, 4), floats(random, 3, 4))
    compare("mean_absolute_error_forward", nothing(3), floats(random, 3, 4), floats(random, 3, 4))
    compare("mean_absolute_error_backward", nothing(3, 4), floats(random, 3, 4), floats(random, 3, 4))
    compare("huber_forward", nothing(3), floats(random, 3, 4), floats(random, 3, 4), 0.5)
    compare("huber_backward", nothing(3, 4), floats(random, 3, 4), floats(random, 3, 4), 0.5)


@pytest.mark.parametrize("weights", [[], [0.5, 2.0, 0.25], [1.0, -1.0, 0.0]])
def test_weights(weights):
    weights = np.array(weights, np.float32)
    compare("smooth_targets", nothing(3, 4), floats(random, 3, 4), 0.1, 0.25)
    for normalize in (False, True):
        compare("weigh", floats(random, 3, 4), weights, 1.5, normalize)
    predictions, targets = random.random((3, 4), dtype=np.float32), np.eye(4, dtype=np.float32)[[2, 0, 3]]
    thresholds = np.array([0.2, 0.6], np.float32)
    for column in (-1, 3):
        compare("count_outcomes", np.arange(7.0), predictions, targets, weights, thresholds, 1, column)


def test_counting():
    predictions = np.array([[1, 3, 3], [2, 2, 1], [0, np.nan, 5], [0, 0, 1]], np.float32)
    targets = np.array([[0, 1, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    compare("count_correct", nothing(4), predictions, targets)
    for k in (1, 2, 3):
        compare("count_top_k", nothing(4), predictions, targets, k)


def test_accumulate():
    for weights in (floats(random, 300), nothing(0)):
        compare("accumulate", np.array([1.5, 2.5, 3.5]), floats(random, 300), weights, 1, 0.25, tolerance=1e-12)


@pytest.mark.parametrize("counters", [(0, 0, 0), (3, 64, 1_000), (2**33 + 5, 0, 2**32 + 1)])
def test_dropout_draws_the_reference_masks(counters):
    counters = np.array(counters, np.int64)
    x = floats(random, 3, 11)
    for rate in (0.0, 0.4):
        arguments = counters, 2**64 - 17, 2, rate
        compare("dropout_forward", nothing(3, 11), x, *arguments, tolerance=1e-6)
        compare("dropout_backward", nothing(3, 11), x, *arguments, tolerance=1e-6)
        argmax = random.integers(0, 4, (3, 11)).astype(np.int8)
        compare("dropout_pooled_forward", x, argmax, *arguments, tolerance=1e-6)


@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize(
    ("strides", "padding", "dilation", "size"), [((1, 1), (1, 0), (1, 1), (5, 3)), ((2, 1), (0, 1), (1, 2), (2, 2))]
)
def test_depthwise_convolution(multiplier, strides, padding, dilation, size):
    x, w, b = floats(random, 2, 5, 4, 3), floats(random, 3, 2, 3, multiplier), floats(random, 3 * multiplier)
    shape = 2, *size, 3 * multiplier
    geometry = strides, padding, dilation
    compare("depthwise_conv2d_forward", nothing(*shape), x, w, b, *geometry)
    dout = floats(random, *shape)
    for dx in (nothing(*x.shape), nothing(0, 0, 0, 0)):
        compare("depthwise_conv2d_backward", dx, nothing(*w.shape), nothing(*b.shape), dout, x, w, *geometry)


def test_images_of_other_sizes():
    x = floats(random, 2, 3, 4, 3)
    compare("pad2d_forward", nothing(2, 6, 5, 3), x, (2, 0))
    compare("pad2d_backward", nothing(2, 3, 4, 3), floats(random, 2, 6, 5, 3), (2, 0))
    compare("upsample2d_forward", nothing(2, 6, 12, 3), x)
    compare("upsample2d_backward", nothing(2, 3, 4, 3), floats(random, 2, 6, 12, 3))


@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
@pytest.mark.parametrize("fill_mode", FILL_MODES)
def test_warps(fill_mode, interpolation):
    """Maps of every kind, drawn and composed; images seen through them, far beyond their edges too."""
    counters, moves = np.array([2**33 + 5, 0, 2**32 + 1]), np.array([[kind, 3 * kind] for kind in range(len(KINDS))])
    ranges = np.array(
        [[0, 1, 1, 1], [-3, 3, 0, 0], [0.5, 2, 0, 0], [0.1, 0.2, 0, 0.3], [-2, 2, -1, 1], [0.8, 1.3, 1, 2]]
    )
    warps, *_ = compare("draw_warps", nothing(2, 6), counters, moves, ranges, (4, 5), 2**64 - 17, tolerance=1e-6)
    x, work = floats(random, 2, 4, 5, 2), Work("warp_workspace", (2, 4, 5, 2))
    compare("warp_forward", nothing(2, 4, 5, 2), x, warps, work, fill_mode, 0.5, interpolation)
    compare("warp_backward", nothing(2, 4, 5, 2), x, warps, work, fill_mode, interpolation)


# image, pool_size, strides, padding, size of the output
POOLS = {
    "halves": ((2, 4, 6, 3), (2, 2), (2, 2), (0, 0), (2, 3)),
    "overlapping": ((1, 5, 5, 2), (3, 3), (1, 2), (0, 0), (3, 2)),
    "same": ((1, 5, 4, 1), (3, 2), (2, 2), (1, 0), (3, 2)),
    "gaps": ((1, 7, 7, 1), (2, 2), (3, 3), (0, 0), (2, 2)),
}


@pytest.mark.parametrize("case", POOLS)
def test_pooling(case):
    x_shape, pool_size, strides, padding, (OH, OW) = POOLS[case]
    geometry = pool_size, strides, padding
    shape = (x_shape[0], OH, OW, x_shape[3])
    x = random.integers(0, 3, x_shape).astype(np.float32)  # few values: many ties
    x.flat[7] = np.nan
    argmax = np.full(shape, 99, np.int32)
    _, argmax, *_ = compare("max_pool2d_forward", nothing(*shape), argmax, x, *geometry)
    compare("max_pool2d_forward", nothing(*shape), np.empty((0, 0, 0, 0), np.int32), x, *geometry)
    compare("max_pool2d_backward", nothing(*x_shape), floats(random, *shape), argmax, *geometry)
    compare("average_pool2d_forward", nothing(*shape), x, *geometry)
    compare("average_pool2d_backward", nothing(*x_shape), floats(random, *shape), *geometry)


@pytest.mark.parametrize("case", POOLS)
def test_normalised_rectified_and_pooled(case):
    x_shape, *geometry, (OH, OW) = POOLS[case]
    N, *_, C = x_shape
    x, (gamma, beta, mean, variance) = floats(random, *x_shape), (np.abs(floats(random, C)) + 0.5 for _ in range(4))
    shape = (N, OH, OW, C)
    beta -= 1
    kept = nothing(*shape), np.full(shape, 99, np.int8), nothing(*shape), nothing(C), nothing(C)
    arrays = *kept, mean, variance, x, gamma, beta
    _, argmax, picked, mu, inv_std, *_ = compare("batch_norm_relu_max_pool2d_forward", *arrays, 0.9, 1e-3, *geometry)
    arrays = nothing(C), nothing(C), floats(random, *shape), argmax, picked, x, gamma, beta, mu, inv_std
    for dx in (nothing(*x_shape), np.empty((0, 0, 0, 0), np.float32)):
        compare("batch_norm_relu_max_pool2d_backward", dx, *arrays, *geometry, tolerance=1e-4)


@pytest.mark.parametrize("M", [1, 3, 70])
def test_batch_normalisation(M):
    C = 3
    x = floats(random, M, C) * 3 + 5
    gamma, beta, mean, variance = (np.abs(floats(random, C)) + 0.5 for _ in range(4))
    beta -= 1
    for relu in ("", "relu_"):
        arrays = nothing(M, C), nothing(C), nothing(C), mean, variance, x, gamma, beta
        _, mu, inv_std, *_ = compare(f"batch_norm_{relu}forward", *arrays, 0.9, 1e-3)
        arrays = nothing(C), nothing(C), floats(random, M, C), x, gamma, *([beta] if relu else []), mu, inv_std
        for dx in (nothing(M, C), np.empty((0, 0), np.float32)):
            compare(f"batch_norm_{relu}backward", dx, *arrays, tolerance=1e-4)
        compare(f"batch_norm_{relu}inference", nothing(M, C), x, gamma, beta, mean, variance, 1e-3)
    other, dout = floats(random, M, C), floats(random, M, C)
    arrays = nothing(M, C), nothing(C), nothing(C), mean, variance, x, other, gamma, beta
    out, mu, inv_std, *_ = compare("batch_norm_add_relu_forward", *arrays, 0.9, 1e-3)
    for dx in (nothing(M, C), np.empty((0, 0), np.float32)):
        arrays = dx, nothing(M, C), nothing(C), nothing(C), dout, x, out, gamma, mu, inv_std
        compare("batch_norm_add_relu_backward", *arrays, tolerance=1e-4)
    compare("batch_norm_inference_backward", nothing(M, C), dout, gamma, variance, 1e-3)
    compare("batch_norm_fold", nothing(M, C), nothing(C), x, beta, gamma, beta, mean, variance, 1e-3)


@pytest.mark.parametrize("C", [1, 5, 150])
def test_layer_normalisation(C):
    x, dout, gamma, beta = floats(random, 3, C) * 3 + 5, floats(random, 3, C), floats(random, C), floats(random, C)
    _, mean, inv_std, *_ = compare(
        "layer_norm_forward", nothing(3, C), nothing(3), nothing(3), x, gamma, beta, 0.1, tolerance=1e-4
    )
    for dx in (nothing(3, C), nothing(0, 0)):
        given = dx, nothing(C), nothing(C), dout, x, gamma, mean, inv_std
        compare("layer_norm_backward", *given, tolerance=1e-4)


@pytest.mark.parametrize("step", [0, 1, 999, 10**6])
def test_adam(step):
    P = 5
    state = floats(random, P), floats(random, P) * 0.1, np.abs(floats(random, P)) * 0.1
    counters, rate = np.array([step, 0, 0]), np.array([0.01], np.float32)
    for betas, decay in (((0.9, 0.999), 0.0), ((0.0, 0.99), 0.1)):
        compare("adam_update", *state, floats(random, P), counters, rate, *betas, 1e-7, decay, tolerance=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd(nesterov):
    arrays = floats(random, 4), floats(random, 4), floats(random, 4), np.array([0.1], np.float32)
    compare("sgd_update", *arrays, 0.9, nesterov, 0.1)
    compare("sgd_update", arrays[0], nothing(0), *arrays[2:], 0.0, nesterov, 0.0)


@pytest.mark.parametrize("full", [False, True])
def test_rmsprop(full):
    state = floats(random, 4), 1 + floats(random, 4) ** 2, *(floats(random, 4 * full) * 0.1 for _ in range(2))
    rate = np.array([0.1], np.float32)
    compare("rmsprop_update", *state, floats(random, 4), rate, 0.9, 0.9 * full, 1e-7, 0.1 * full)


def test_clipping():
    grads, parts = floats(random, 500), np.array([(0, 300, 0), (300, 310, 1), (310, 500, 0)])
    for limit in (0.5, 1e3):
        compare("clip_norms", grads, nothing(3).astype(np.float64), parts, limit)
        compare("clip_values", grads, limit)


@pytest.mark.parametrize("power", [1, 2])
def test_penalties(power):
    params, strength = floats(random, 600), np.abs(floats(random, 600))
    params[0] = 0
    compare("penalty_forward", nothing(1), params, strength, power)
    compare("penalty_backward", floats(random, 600), params, strength, power)


def test_moving_samples():
    x, order = floats(random, 6, 5), random.permutation(6)
    labels, several = random.integers(0, 4, 6), random.integers(0, 4, 12)
    for cursor, N in ((0, 4), (4, 2)):  # the second is a ragged last batch
        counters = np.array([9, cursor, 0])
        compare("gather_rows", nothing(N, 5), x, order, counters)
        compare("gather_one_hot", nothing(N, 4), labels, order, counters)
        compare("gather_one_hot", nothing(2 * N, 4), several, order, counters)
        compare("scatter_rows", nothing(6, 5), floats(random, N, 5), counters)
        compare("advance", counters, 1, N)


def test_allocate_upload_download():
    array = cuda.allocate((2, 3), np.float32)
    assert on_host(array).tolist() == [[0, 0, 0], [0, 0, 0]]
    cuda.upload(array, np.arange(6).reshape(2, 3))
    part = array.reshape(6)[2:4]
    host = np.zeros((2, 2), np.float32)[:, 0]  # a strided destination
    cuda.download(host, part)
    assert host.tolist() == [2, 3]


def test_record_runs_all_calls_and_says_once_where_there_are_no_graphs(caplog):
    counters = on_device(np.zeros(3, np.int64))
    run = cuda.record([(cuda.advance, (counters, 1, 10)), (cuda.advance, (counters, 1, 5))])
    with caplog.at_level(logging.WARNING, "tinyconv"):
        for _ in range(3):
            run()
    assert on_host(counters).tolist() == [6, 45, 0]
    said = (
        "CUDA graphs cannot be used here (the simulator has none); every kernel is launched by Python, which is slower."
    )
    assert [r.getMessage() for r in caplog.records] == ([said] if device.SIMULATED else [])


def test_same_bits_every_time():
    values = floats(random, 1000)
    totals = [on_device(np.zeros(2)) for _ in range(2)]
    for total in totals:
        cuda.accumulate(total, on_device(values), on_device(nothing(0)), 0, 1.0)
    assert on_host(totals[0]).tobytes() == on_host(totals[1]).tobytes()
