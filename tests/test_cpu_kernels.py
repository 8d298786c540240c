"""Every CPU kernel, held to its reference.

The reference runs in float64, the kernel in float32: in as many tasks as it wants, and cut into many small ones, on
one thread and on two. The three must agree to the last bit. Its outputs lie between canaries, so that a write outside
of them does not go unseen. Convolutions and dense layers have files of their own.
"""

import inspect
import tracemalloc

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba.core.errors import NumbaError

from tests.strategies import Window, activations, examples, few, normal, one_hot, pools, seeds, windows
from tinyconv.kernels import contract, cpu, reference
from tinyconv.kernels.cpu.runtime import cutting
from tinyconv.kernels.cpu.runtime.jit import jit
from tinyconv.kernels.reference.dropout import keep_mask
from tinyconv.kernels.reference.warp import FILL_MODES, INTERPOLATIONS, KINDS

CANARY = np.uint8(0xA5)
sizes = st.one_of(st.integers(1, 80), st.integers(4000, 12400))  # less than a vector, and of many tasks
rows_and_columns = st.tuples(st.integers(1, 40), st.integers(1, 40))
SPECIAL = [0, -0.0, np.nan, np.inf, -np.inf, 1e-8, -1e-8, 88.8, -88.8, 1000, -1000, 1e-39]


def f32(rng, *shape):
    return normal(rng, *shape, dtype=np.float32)


def between_canaries(array):
    """A copy of an array, and the bytes before and after it."""
    raw = np.full(array.nbytes + 256, CANARY)
    copy = raw[128 : 128 + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy, (raw[:128], raw[128 + array.nbytes :])


def run(function, outputs, inputs, alias=None):
    """The outputs of a kernel. ``alias``: the input that is the first output at the same time."""
    copies, zones = zip(*(between_canaries(output) for output in outputs), strict=True)
    inputs = list(inputs)
    if alias is not None:
        copies[0][...] = inputs[alias]
        inputs[alias] = copies[0]
    function(*copies, *inputs)
    for zone in zones:
        assert (zone[0] == CANARY).all()
        assert (zone[1] == CANARY).all()
    return copies


def every_way(function, outputs, inputs, alias=None):
    """Run a kernel in as many tasks as it wants, and in many on one and on two threads: the same bits each time."""
    before, threads = cutting.PIECE, numba.get_num_threads()
    results = []
    try:
        for piece, count in ((before, 1), (50, 1), (50, threads)):
            cutting.PIECE = piece
            numba.set_num_threads(count)
            results.append(run(function, outputs, inputs, alias))
    finally:
        cutting.PIECE = before
        numba.set_num_threads(threads)
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert one.tobytes() == two.tobytes()
    return results[0]


def wide(value):
    return value.astype(np.float64) if isinstance(value, np.ndarray) and value.dtype == np.float32 else value


def check(name, outputs, *inputs, alias=None, rtol=3e-6, atol=1e-6):
    """A kernel and its reference give the same, but for rounding; integers exactly. Returns the kernel's results."""
    with np.errstate(all="ignore"):
        expected = run(getattr(reference, name), [wide(o) for o in outputs], [wide(i) for i in inputs], alias)
    results = every_way(getattr(cpu, name), outputs, inputs, alias)
    for result, truth in zip(results, expected, strict=True):
        if result.dtype.kind == "f":
            with np.errstate(over="ignore"):
                np.testing.assert_allclose(result, truth.astype(result.dtype), rtol=rtol, atol=atol)
        else:
            np.testing.assert_array_equal(result, truth)
    return results


def unset(*shape, dtype=np.float32):
    """An output that is to be overwritten."""
    return np.full(shape, np.nan if np.dtype(dtype).kind == "f" else -77, dtype)


@pytest.mark.parametrize(("kind", "options"), few(activations(), 6))
@examples(8)
@given(sizes, seeds)
def test_activations(kind, options, size, seed):
    """Forward; backward, also in place; and at zeros, infinities, NaN and numbers that overflow an exponential."""
    rng = np.random.default_rng(seed)
    x, dout = 4 * f32(rng, size), f32(rng, size)
    x[: len(SPECIAL)] = SPECIAL[:size]
    (out,) = check("activation_forward", [unset(size)], x, kind, options)
    assert np.isnan(out[2:3]).all()
    with np.errstate(all="ignore"):
        finite = np.nan_to_num(x), np.nan_to_num(out)
    check("activation_backward", [unset(size)], dout, *finite, kind, options)
    check("activation_backward", [unset(size)], dout, *finite, kind, options, alias=0)


def test_the_slope_of_relu_at_zero_is_zero():
    x = np.array([0, -0.0, 1], np.float32)
    (dx,) = check("activation_backward", [unset(3)], np.ones(3, np.float32), x, x, "relu", ())
    assert dx.tolist() == [0, 0, 1]


@examples(40)
@given(rows_and_columns, st.floats(0.1, 50), seeds)
def test_softmax(shape, scale, seed):
    rng = np.random.default_rng(seed)
    x = (scale * f32(rng, *shape)).astype(np.float32)
    (out,) = check("softmax_forward", [unset(*shape)], x, rtol=1e-5)
    check("softmax_backward", [unset(*shape)], f32(rng, *shape), out, rtol=1e-4, atol=2e-6)


def test_a_nan_in_a_row_spoils_that_row_alone():
    x = np.zeros((3, 20), np.float32)
    x[1, 7] = np.nan
    (out,) = check("softmax_forward", [unset(3, 20)], x)
    assert np.isnan(out).all(axis=1).tolist() == [False, True, False]
    losses, _ = check("softmax_cross_entropy_forward", [unset(3), unset(3, 20)], x, np.eye(3, 20, dtype=np.float32))
    assert np.isnan(losses).tolist() == [False, True, False]


@pytest.mark.parametrize("name", ["add", "multiply", "maximum"])
@examples(12)
@given(sizes, seeds)
def test_merges(name, size, seed):
    """Also where both are equal or one is a NaN, and where only one gradient is wanted."""
    rng = np.random.default_rng(seed)
    a, b, dout = rng.integers(-3, 4, (3, size)).astype(np.float32)
    a[:1], b[-1:] = np.nan, np.nan
    given = () if name == "add" else (a, b)
    check(f"{name}_forward", [unset(size)], a, b)
    both = check(f"{name}_backward", [unset(size), unset(size)], dout, *given)
    for place in range(2):
        wanted = [unset(size) if place == each else unset(0) for each in range(2)]
        (only,) = (each for each in check(f"{name}_backward", wanted, dout, *given) if each.size)
        assert only.tobytes() == both[place].tobytes()
    check("add_to", [dout], b)


@examples(12)
@given(sizes, st.floats(-3, 3), st.floats(-3, 3), seeds)
def test_rescale(size, scale, shift, seed):
    x = f32(np.random.default_rng(seed), size)
    check("rescale_forward", [unset(size)], x, scale, shift)
    check("rescale_backward", [unset(size)], x, scale)


@examples(40)
@given(st.integers(1, 50), st.one_of(st.integers(2, 70), st.integers(1000, 1500)), st.booleans(), seeds)
def test_layer_normalization(rows, columns, with_dx, seed):
    rng = np.random.default_rng(seed)
    x, dout = 2 + 3 * f32(rng, rows, columns), f32(rng, rows, columns)
    gamma, beta = f32(rng, columns), f32(rng, columns)
    outputs = [unset(rows, columns), unset(rows), unset(rows)]
    _, mean, inv_std = check("layer_norm_forward", outputs, x, gamma, beta, 1e-3, rtol=1e-4, atol=2e-5)
    outputs = [unset(rows, columns) if with_dx else unset(0, 0), unset(columns), unset(columns)]
    check("layer_norm_backward", outputs, dout, x, gamma, mean, inv_std, rtol=1e-4, atol=1e-4)


@examples(40)
@given(windows(max_size=10, max_channels=20, max_window=4), st.booleans(), seeds)
def test_transposed_convolution(window, with_dx, seed):
    rng = np.random.default_rng(seed)
    x, w, b = f32(rng, *window.out_shape), f32(rng, *window.w_shape), f32(rng, window.channels)
    geometry = window.strides, window.before, window.dilation
    shapes = window.out_shape, window.x_shape
    work = cpu.allocate((cpu.conv2d_workspace(*shapes, w.shape, *geometry),), np.float32)
    cpu.conv2d_transpose_prepare(work, w, *shapes, *geometry)
    check("conv2d_transpose_forward", [unset(*window.x_shape)], x, w, b, work, *geometry, rtol=1e-4, atol=1e-4)
    dx = unset(*x.shape) if with_dx else unset(0, 0, 0, 0)
    outputs, dout = [dx, unset(*w.shape), unset(*b.shape)], f32(rng, *window.x_shape)
    check("conv2d_transpose_backward", outputs, dout, x, w, work, *geometry, rtol=1e-4, atol=1e-4)


@examples(40)
@given(windows(max_size=12, max_channels=20, max_window=4), st.integers(1, 3), st.booleans(), seeds)
def test_depthwise_convolution(window, multiplier, with_dx, seed):
    rng = np.random.default_rng(seed)
    channels = window.channels * multiplier
    x, w, b = f32(rng, *window.x_shape), f32(rng, *window.w_shape[:3], multiplier), f32(rng, channels)
    shape, geometry = (*window.out_shape[:3], channels), (window.strides, window.before, window.dilation)
    check("depthwise_conv2d_forward", [unset(*shape)], x, w, b, *geometry, rtol=1e-5, atol=1e-5)
    dx = unset(*x.shape) if with_dx else unset(0, 0, 0, 0)
    outputs = [dx, unset(*w.shape), unset(channels)]
    check("depthwise_conv2d_backward", outputs, f32(rng, *shape), x, w, *geometry, rtol=1e-5, atol=1e-4)


@examples(12)
@given(st.tuples(st.integers(1, 3), *[st.integers(1, 9)] * 2, st.integers(1, 20)), *[st.integers(0, 3)] * 4, seeds)
def test_images_of_other_sizes(shape, top, bottom, left, right, seed):
    rng = np.random.default_rng(seed)
    N, H, W, C = shape
    padded, repeated = (N, top + H + bottom, left + W + right, C), (N, H * (top + 1), W * (left + 1), C)
    check("pad2d_forward", [unset(*padded)], f32(rng, *shape), (top, left))
    check("pad2d_backward", [unset(*shape)], f32(rng, *padded), (top, left))
    check("upsample2d_forward", [unset(*repeated)], f32(rng, *shape))
    check("upsample2d_backward", [unset(*shape)], f32(rng, *repeated))


@examples(12)
@given(st.integers(1, 300), st.integers(1, 70), st.integers(0, 9), st.integers(0, 9), seeds)
def test_concatenation(rows, columns, before, behind, seed):
    """Only its columns are written."""
    rng = np.random.default_rng(seed)
    out, x = f32(rng, rows, before + columns + behind), f32(rng, rows, columns)
    (joined,) = check("concatenate_forward", [out], x, before)
    check("concatenate_backward", [unset(rows, columns)], joined, before)


def probabilities(rng, shape, binary):
    """Some of them exactly 0 and 1, where logarithms are clipped."""
    probs = rng.random(shape, dtype=np.float32)
    probs[rng.random(shape) < 0.1] = 0
    if binary:
        probs[rng.random(shape) < 0.1] = 1
    else:
        probs[:, 0] += 0.5
    return probs


@examples(30)
@given(rows_and_columns, st.booleans(), seeds)
def test_categorical_losses(shape, soft, seed):
    """Targets of one class, and targets spread over several classes, that need not sum to one."""
    rng = np.random.default_rng(seed)
    targets = rng.random(shape, dtype=np.float32) if soft else one_hot(rng, *shape, dtype=np.float32)
    logits = 5 * f32(rng, *shape)
    rows = unset(shape[0])
    tolerance = {"rtol": 2e-5, "atol": 2e-5}
    _, probs = check("softmax_cross_entropy_forward", [rows, unset(*shape)], logits, targets, **tolerance)
    check("softmax_cross_entropy_backward", [unset(*shape)], probs, targets, **tolerance)
    probs = probabilities(rng, shape, binary=False)
    check("cross_entropy_forward", [rows], probs, targets, **tolerance)
    check("cross_entropy_backward", [unset(*shape)], probs, targets, rtol=1e-4, atol=1e-4)


@examples(30)
@given(rows_and_columns, seeds)
def test_binary_losses(shape, seed):
    rng = np.random.default_rng(seed)
    targets = (rng.random(shape) < 0.5).astype(np.float32)
    rows = unset(shape[0])
    tolerance = {"rtol": 2e-5, "atol": 2e-5}
    logits = 5 * f32(rng, *shape)
    _, probs = check("sigmoid_cross_entropy_forward", [rows, unset(*shape)], logits, targets, **tolerance)
    check("sigmoid_cross_entropy_backward", [unset(*shape)], probs, targets, **tolerance)
    probs = rng.uniform(0.01, 0.99, shape).astype(np.float32)
    probs[rng.random(shape) < 0.1] = 0
    check("binary_cross_entropy_forward", [rows], probs, targets, **tolerance)
    check("binary_cross_entropy_backward", [unset(*shape)], probabilities(rng, shape, True), targets, **tolerance)
    check("mean_squared_error_forward", [rows], logits, targets, **tolerance)
    check("mean_squared_error_backward", [unset(*shape)], logits, targets, **tolerance)
    check("mean_absolute_error_forward", [rows], logits, targets, **tolerance)
    check("mean_absolute_error_backward", [unset(*shape)], logits, targets, **tolerance)
    check("huber_forward", [rows], logits, targets, 0.5, **tolerance)
    check("huber_backward", [unset(*shape)], logits, targets, 0.5, **tolerance)
    check("smooth_targets", [unset(*shape)], targets, 0.1, 0.25, **tolerance)


def test_a_certain_wrong_answer_costs_what_the_clipped_probability_says():
    """In float32, where 1 - 1e-7 is rounded: compared with the float32 reference, not with the float64 one."""
    probs, targets = np.array([[0, 1.0]], np.float32), np.array([[1, 0.0]], np.float32)
    for name in ("cross_entropy_forward", "binary_cross_entropy_forward"):
        expected, losses = unset(1), unset(1)
        getattr(reference, name)(expected, probs, targets)
        getattr(cpu, name)(losses, probs, targets)
        np.testing.assert_allclose(losses, expected, rtol=1e-6)
        assert losses[0] > 7


@examples(30)
@given(rows_and_columns, st.integers(1, 6), seeds)
def test_metrics_with_ties_and_nan(shape, k, seed):
    rng = np.random.default_rng(seed)
    predictions = rng.integers(0, 3, shape).astype(np.float32) / 2  # 0, one half, 1: many ties, and the threshold
    predictions[rng.random(shape) < 0.03] = np.nan
    targets = one_hot(rng, *shape, dtype=np.float32)
    for name, extra in (("count_correct", ()), ("count_binary_correct", ()), ("count_top_k", (k,))):
        check(name, [unset(shape[0])], predictions, targets, *extra)


def test_totals_are_added_in_double_precision():
    totals = np.array([1e9, 5.0, 7.0])
    values, weights = np.full(100, 0.25, np.float32), np.full(100, 0.5, np.float32)
    (after,) = check("accumulate", [totals], values, weights[:0], 0, 2)
    assert after.tolist() == [1e9 + 50, 205, 7]
    (after,) = check("accumulate", [totals], values, weights, 1, 2)
    assert after.tolist() == [1e9, 30, 107]


@examples(20)
@given(rows_and_columns, st.booleans(), st.booleans(), st.integers(1, 30), seeds)
def test_weights_and_outcomes(shape, weighted, normalize, thresholds, seed):
    rng = np.random.default_rng(seed)
    predictions, targets = rng.random(shape, dtype=np.float32), one_hot(rng, *shape, dtype=np.float32)
    predictions[rng.random(shape) < 0.03] = np.nan
    weights = rng.random(shape[0] if weighted else 0, dtype=np.float32)
    check("weigh", [f32(rng, *shape)], weights, 1.5, normalize, rtol=1e-5)
    check("weigh", [f32(rng, *shape)], 0 * weights, 1.5, normalize)
    cuts = np.linspace(-0.1, 1.1, thresholds, dtype=np.float32)
    for column in (-1, shape[1] - 1):
        totals = np.zeros(2 * thresholds + 5)
        check("count_outcomes", [totals], predictions, targets, weights, cuts, 2, column)


def pooled(window, seed, kind):
    """An image for a pooling: normal numbers, small integers (ties), or with NaN here and there."""
    rng = np.random.default_rng(seed)
    x = f32(rng, *window.x_shape)
    if kind == "ties":
        x = np.round(x)
    if kind == "nan":
        x[rng.random(x.shape) < 0.1] = np.nan
    return rng, x, (window.window, window.strides, window.before)


@examples(60)
@given(pools(max_channels=40), seeds, st.sampled_from(["normal", "ties", "nan"]))
def test_max_pooling(window, seed, kind):
    rng, x, geometry = pooled(window, seed, kind)
    shape = window.pooled_shape
    out, argmax = check("max_pool2d_forward", [unset(*shape), unset(*shape, dtype=np.int32)], x, *geometry)
    for nothing in (np.zeros(0, np.int32), np.zeros((0, 0, 0, 0), np.int32)):
        (alone, _) = check("max_pool2d_forward", [unset(*shape), nothing], x, *geometry)
        assert alone.tobytes() == out.tobytes()
    check("max_pool2d_backward", [unset(*x.shape)], f32(rng, *shape), argmax, *geometry)


@examples(40)
@given(pools(max_channels=40), seeds)
def test_average_pooling(window, seed):
    rng, x, geometry = pooled(window, seed, "normal")
    check("average_pool2d_forward", [unset(*window.pooled_shape)], x, *geometry)
    check("average_pool2d_backward", [unset(*x.shape)], f32(rng, *window.pooled_shape), *geometry)


@pytest.mark.parametrize("mode", ["valid", "same"])
def test_pooling_a_large_image(mode):
    window = Window(2, (57, 41), 19, 1, (3, 2), (2, 3), (1, 1), mode)
    test_max_pooling.hypothesis.inner_test(window, 0, "ties")
    test_average_pooling.hypothesis.inner_test(window, 0)


@examples(30)
@given(st.integers(1, 300), st.integers(1, 140), st.booleans(), seeds)
def test_batch_normalization(rows, channels, with_dx, seed):
    rng = np.random.default_rng(seed)
    x, dout = f32(rng, rows, channels) + 3, f32(rng, rows, channels)
    gamma, beta, moving_mean, b = (f32(rng, channels) for _ in range(4))
    moving_variance = rng.random(channels, dtype=np.float32) + 0.1
    results = [unset(rows, channels), unset(channels), unset(channels), moving_mean, moving_variance]
    tolerance = {"rtol": 2e-5, "atol": 5e-5}
    _, mean, inv_std, _, _ = check("batch_norm_forward", results, x, gamma, beta, 0.9, 1e-2, **tolerance)
    gradients = [unset(rows, channels) if with_dx else unset(0), unset(channels), unset(channels)]
    check("batch_norm_backward", gradients, dout, x, gamma, mean, inv_std, rtol=1e-4, atol=2e-4)
    check("batch_norm_relu_forward", results, x, gamma, beta, 0.9, 1e-2, **tolerance)
    other = f32(rng, rows, channels)
    out, mean, inv_std, *_ = check(
        "batch_norm_add_relu_forward", results, x, other, gamma, beta, 0.9, 1e-2, **tolerance
    )
    both = [gradients[0], unset(rows, channels), *gradients[1:]]
    found = check("batch_norm_add_relu_backward", both, dout, x, out, gamma, mean, inv_std, rtol=1e-4, atol=2e-4)
    both[1] = shared = dout.copy()  # in place
    cpu.batch_norm_add_relu_backward(*both, shared, x, out, gamma, mean, inv_std)
    for one, again in zip(both, found, strict=True):
        assert one.tobytes() == again.tobytes()
    statistics = gamma, beta, moving_mean, moving_variance, 1e-3
    check("batch_norm_inference", [unset(rows, channels)], x, *statistics, alias=0, **tolerance)
    check("batch_norm_relu_inference", [unset(rows, channels)], x, *statistics, alias=0, **tolerance)
    factor = gamma, moving_variance, 1e-3
    check("batch_norm_inference_backward", [unset(rows, channels)], dout, *factor, alias=0, **tolerance)
    folded = [unset(rows, channels), unset(channels)]
    check("batch_norm_fold", folded, x, b, *statistics, **tolerance)


@examples(40)
@given(pools(max_channels=40), st.booleans(), st.sampled_from(["normal", "ties"]), seeds)
def test_a_normalisation_rectified_and_pooled(window, with_dx, kind, seed):
    rng, x, geometry = pooled(window, seed, kind)
    C, shape = window.channels, window.pooled_shape
    gamma, beta, moving_mean = (f32(rng, C) for _ in range(3))
    kept = [unset(*shape), unset(*shape, dtype=np.int8), unset(*shape), unset(C), unset(C)]
    results, arrays = [*kept, moving_mean, np.ones(C, np.float32)], (x, gamma, beta)
    found = check("batch_norm_relu_max_pool2d_forward", results, *arrays, 0.9, 1e-2, *geometry, rtol=2e-5, atol=5e-5)
    _, argmax, picked, mean, inv_std, *_ = found
    gradients = [unset(*x.shape) if with_dx else unset(0, 0, 0, 0), unset(C), unset(C)]
    given_ = f32(rng, *shape), argmax, picked, *arrays, mean, inv_std
    check("batch_norm_relu_max_pool2d_backward", gradients, *given_, *geometry, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("channels", [3, 32, 130])
def test_the_relu_behind_a_normalisation_agrees_with_itself(channels):
    """Backward finds the zeros of the forward pass to the last bit, where rounding alone decides the sign too; what is
    a NaN stays one."""
    rng = np.random.default_rng(channels)
    x = rng.integers(-2, 3, (400, channels)).astype(np.float32) * f32(rng, channels)
    dout, gamma, zero = f32(rng, 400, channels), f32(rng, channels), np.zeros(channels, np.float32)
    outputs = [unset(400, channels), unset(channels), unset(channels), zero.copy(), zero.copy()]
    out, mean, inv_std, *_ = run(cpu.batch_norm_forward, outputs, [x, gamma, zero, 0.9, 1e-3])
    beta = -out[0]  # numbers like those of the first row become 0, or what rounding leaves
    out, *_ = run(cpu.batch_norm_relu_forward, outputs, [x, gamma, beta, 0.9, 1e-3])
    gradients = [unset(400, channels), unset(channels), unset(channels)]
    every = every_way(cpu.batch_norm_relu_backward, gradients, [dout, x, gamma, beta, mean, inv_std])
    masked = np.where(out <= 0, np.float32(0), dout)
    for one, other in zip(
        every, run(cpu.batch_norm_backward, gradients, [masked, x, gamma, mean, inv_std]), strict=True
    ):
        assert one.tobytes() == other.tobytes()
    truth = [np.empty(array.shape) for array in gradients]
    reference.batch_norm_backward(*truth, *map(wide, (masked, x, gamma, mean, inv_std)))
    for one, other in zip(every, truth, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-4)
    x[7, 1] = np.nan
    out, mean, inv_std, *_ = run(cpu.batch_norm_relu_forward, outputs, [x, gamma, beta, 0.9, 1e-3])
    dx, *_ = run(cpu.batch_norm_relu_backward, gradients, [dout, x, gamma, beta, mean, inv_std])
    for array in (out, dx):
        np.testing.assert_array_equal(np.isnan(array).all(0), np.arange(channels) == 1)


def test_batch_statistics_are_added_up_precisely():
    """One million rows far from zero, whose mean a plain float32 sum gets wrong in the fourth digit."""
    rng = np.random.default_rng(0)
    x = 100 + f32(rng, 10**6, 1)
    one = np.ones(1, np.float32)
    outputs = [unset(*x.shape), unset(1), unset(1), one.copy(), one.copy()]
    cpu.batch_norm_forward(*outputs, x, one, one, 0.0, 0.0)
    np.testing.assert_allclose(outputs[1], x.mean(dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(outputs[4], x.astype(np.float64).var(), rtol=1e-5)
    x[: 10**6 // 64] += 1000  # a part that is nothing like the others
    x[:100] -= 5000  # and begins like nothing in it
    cpu.batch_norm_forward(*outputs, x, one, one, 0.0, 0.0)
    np.testing.assert_allclose(outputs[4], x.astype(np.float64).var(), rtol=1e-5)


@examples(20)
@given(sizes, st.sampled_from([0.0, 0.01]), st.integers(0, 100000), seeds)
def test_adam(size, weight_decay, step, seed):
    rng = np.random.default_rng(seed)
    state = [f32(rng, size), f32(rng, size), f32(rng, size) ** 2]
    counters, rate = np.array([step, 0, 0]), np.array([0.01], np.float32)
    check("adam_update", state, f32(rng, size), counters, rate, 0.9, 0.999, 1e-7, weight_decay, rtol=1e-5)


@examples(20)
@given(sizes, st.sampled_from([0, 0.0, 0.9]), st.booleans(), st.sampled_from([0.0, 0.01]), seeds)
def test_sgd_and_penalties(size, momentum, nesterov, decay, seed):
    rng = np.random.default_rng(seed)
    rate = np.array([0.01], np.float32)
    velocity = f32(rng, size if momentum else 0)
    check("sgd_update", [f32(rng, size), velocity], f32(rng, size), rate, momentum, nesterov, decay)
    params, strength = f32(rng, size), rng.random(size, dtype=np.float32)
    params[:1] = 0
    for power in (1, 2):
        check("penalty_forward", [unset(1)], params, strength, power)
        check("penalty_backward", [f32(rng, size)], params, strength, power)


@examples(20)
@given(sizes, st.sampled_from([0.0, 0.9]), st.booleans(), st.sampled_from([0.0, 0.01]), seeds)
def test_rmsprop(size, momentum, centered, decay, seed):
    rng = np.random.default_rng(seed)
    rate = np.array([0.01], np.float32)
    velocity, means = f32(rng, size if momentum else 0), f32(rng, size if centered else 0) * np.float32(0.1)
    state = [f32(rng, size), 0.1 + f32(rng, size) ** 2, velocity, means]
    check("rmsprop_update", state, f32(rng, size), rate, 0.9, momentum, 1e-7, decay, rtol=1e-4)


@examples(20)
@given(st.lists(st.integers(1, 5000), min_size=1, max_size=5), st.booleans(), st.sampled_from([0.1, 10, 1e3]), seeds)
def test_clipping(sizes, together, limit, seed):
    rng = np.random.default_rng(seed)
    ends = np.cumsum(sizes)
    norms = np.zeros(len(sizes)) if together else rng.integers(0, len(sizes), len(sizes))
    parts = np.stack([ends - sizes, ends, norms], axis=1).astype(np.int64)
    grads = f32(rng, ends[-1])
    check("clip_norms", [grads, np.zeros(len(sizes))], parts, limit)
    check("clip_values", [grads], limit)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_norm_that_is_not_finite_is_seen(value):
    """In the gradients that it is the norm of, and in no others."""
    parts = np.array([(0, 2, 0), (2, 4, 1)])
    for kernels, dtype in ((cpu, np.float32), (reference, np.float64)):
        grads = np.array([value, 1, 3, 4], dtype)
        kernels.clip_norms(grads, np.empty(2), parts, 1.0)
        np.testing.assert_allclose(grads, [np.nan, np.nan, 0.6, 0.8])


@examples(40)
@given(st.integers(1, 5), st.integers(1, 700), st.integers(0, 2**64 - 1), st.sampled_from([0, 0.25, 0.5, 0.9]), seeds)
def test_dropout_draws_the_masks_of_the_reference(samples, units, key, rate, seed):
    rng = np.random.default_rng(seed)
    counters = np.array([rng.integers(0, 2**40), 0, rng.integers(0, 2**40)])
    draw = counters, key, int(rng.integers(0, 50)), rate
    x = f32(rng, samples, units) + 10  # far from zero, so that a zero was dropped
    (out,) = check("dropout_forward", [unset(samples, units)], x, *draw)
    np.testing.assert_array_equal(out != 0, keep_mask(x.shape, *draw))
    check("dropout_forward", [unset(samples, units)], x, *draw, alias=0)
    check("dropout_backward", [unset(samples, units)], x, *draw, alias=0)
    winners = rng.integers(-1, 4, x.shape).astype(np.int8)
    check("dropout_pooled_forward", [np.where(winners < 0, 0, x), winners], *draw)


@examples(15)
@given(st.integers(1, 3), st.integers(0, 2**64 - 1), seeds)
def test_maps_are_the_references(layers, key, seed):
    """Drawn and composed: the same numbers, but for the last bit of a sine or a product."""
    rng = np.random.default_rng(seed)
    counters = np.array([rng.integers(0, 2**40), 0, rng.integers(0, 2**40)])
    moves = np.stack([rng.integers(0, len(KINDS), layers), rng.integers(0, 50, layers)], axis=1)
    ranges = rng.uniform(-2, 2, (layers, 4))
    check("draw_warps", [unset(300, 6)], counters, moves, ranges, (9, 4), key, rtol=1e-6, atol=1e-6)


@examples(30)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 9), st.sampled_from([1, 2, 7, 40]), st.integers(1, 3)),
    st.sampled_from(FILL_MODES),
    st.sampled_from(INTERPOLATIONS),
    st.sampled_from([0.1, 1.0, 3.0]),
    seeds,
)
def test_warp(shape, fill_mode, interpolation, strength, seed):
    rng = np.random.default_rng(seed)
    warps = np.tile([1, 0, 0, 0, 1, 0], (shape[0], 1)) + strength * normal(rng, shape[0], 6)
    frames = np.empty(shape[0] * (shape[1] + 3) * (shape[2] + 3), np.float32)  # for the most tasks there can be
    x, arrays = f32(rng, *shape), (warps.astype(np.float32), frames, fill_mode)
    check("warp_forward", [unset(*shape)], x, *arrays, 0.5, interpolation, rtol=1e-4, atol=1e-4)
    check("warp_backward", [unset(*shape)], x, *arrays, interpolation, rtol=1e-4, atol=1e-4)


def test_dropping_a_nan_gives_zero_and_keeping_it_gives_nan():
    x = np.full((2, 300), np.nan, np.float32)
    (out,) = check("dropout_forward", [unset(2, 300)], x, np.array([0, 0, 0]), 1, 0, 0.5)
    assert 0 < np.isnan(out).sum() < out.size
    assert (out[~np.isnan(out)] == 0).all()


@examples(20)
@given(st.integers(1, 40), st.integers(1, 300), st.integers(0, 20), seeds)
def test_moving_samples(batch, width, cursor, seed):
    rng = np.random.default_rng(seed)
    samples = cursor + batch + int(rng.integers(0, 9))
    counters = np.array([3, cursor, 0])
    order = rng.permutation(samples)
    check("gather_rows", [unset(batch, width)], f32(rng, samples, width), order, counters, rtol=0, atol=0)
    check("scatter_rows", [f32(rng, samples, width)], f32(rng, batch, width), counters, rtol=0, atol=0)
    for per_sample in (1, 3):
        labels = rng.integers(0, width, samples * per_sample)
        check("gather_one_hot", [unset(batch * per_sample, width)], labels, order, counters)
    (after,) = check("advance", [counters], 1, batch)
    assert after.tolist() == [4, cursor + batch, 0]


def test_signatures_are_those_of_the_contract():
    for name, arguments in contract().items():
        assert tuple(inspect.signature(getattr(cpu, name)).parameters) == arguments


def test_a_kernel_that_allocates_does_not_compile():
    @jit
    def kernel(out):
        out[:] = np.zeros(out.size)

    with pytest.raises(NumbaError):
        kernel(np.zeros(3))


def test_a_step_of_kernels_allocates_nothing():
    """Nor does the little Python around the kernels: NumPy hands out no array."""
    rng = np.random.default_rng(0)
    counters, rate = np.array([1, 0, 0]), np.array([0.01], np.float32)
    big = [f32(rng, 30000) for _ in range(4)]
    images, half = f32(rng, 8, 20, 20, 16), f32(rng, 8, 10, 10, 16)
    winners, rows = np.zeros(half.shape, np.int32), f32(rng, 64, 100)

    def step():
        cpu.activation_forward(big[0], big[1], "relu", ())
        cpu.max_pool2d_forward(half, winners, images, (2, 2), (2, 2), (0, 0))
        cpu.max_pool2d_backward(images, half, winners, (2, 2), (2, 2), (0, 0))
        cpu.softmax_cross_entropy_forward(big[3][:64], rows, rows, rows)
        cpu.dropout_forward(rows, rows, counters, 7, 0, 0.5)
        cpu.adam_update(*big, counters, rate, 0.9, 0.999, 1e-7, 0.0)

    step()
    tracemalloc.start()
    try:
        step()
        tracemalloc.reset_peak()
        start = tracemalloc.get_traced_memory()[0]
        step()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - start < 4096  # a few Python numbers; the smallest array here is 25 KB
