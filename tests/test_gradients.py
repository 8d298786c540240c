"""Every backward pass of the reference, held to the definition of the derivative.

(f(x + h) - f(x - h)) / 2h, in float64, one element of every input at a time. A backward pass is asked for the gradient
of sum(weights * out) with random weights, so every element of its Jacobian takes part.
"""

import doctest

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.strategies import (
    Window,
    activations,
    distinct,
    examples,
    fused_pools,
    normal,
    one_hot,
    pools,
    seeds,
    windows,
)
from tinyconv.kernels import reference as k
from tinyconv.kernels.reference.warp import FILL_MODES, INTERPOLATIONS

NO_WORK = np.zeros(0)
rows_and_columns = st.tuples(st.integers(1, 4), st.integers(1, 6))


def central_differences(function, x, h=1e-6):
    """The gradient of ``function()`` with respect to ``x``, which it reads."""
    gradient = np.empty_like(x)
    for index in np.ndindex(x.shape):
        kept = x[index]
        x[index] = kept + h
        above = function()
        x[index] = kept - h
        below = function()
        x[index] = kept
        gradient[index] = (above - below) / (2 * h)
    return gradient


def check(function, *pairs, h=1e-6, tolerance=1e-7):
    """Each pair is (an input, the gradient that a backward pass gave for it)."""
    for x, gradient in pairs:
        expected = central_differences(function, x, h)
        scale = max(1.0, np.abs(expected).max(initial=0))
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=tolerance * scale)


@examples(60)
@given(windows(max_size=6, max_channels=3, max_window=3, max_batch=2), st.booleans(), seeds)
def test_conv2d(window, with_dx, seed):
    rng = np.random.default_rng(seed)
    x, w, b = normal(rng, *window.x_shape), normal(rng, *window.w_shape), normal(rng, window.filters)
    out, dout = np.empty(window.out_shape), normal(rng, *window.out_shape)
    geometry = window.strides, window.before, window.dilation

    def loss():
        k.conv2d_forward(out, x, w, b, NO_WORK, *geometry, False)
        return (out * dout).sum()

    dx, dw, db = np.full_like(x, np.nan) if with_dx else np.empty(0), np.full_like(w, np.nan), np.full_like(b, np.nan)
    k.conv2d_backward(dx, dw, db, dout, x, w, NO_WORK, *geometry)
    check(loss, (w, dw), (b, db), *([(x, dx)] if with_dx else []))


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 4)])
@pytest.mark.parametrize("window", [(1, 1), (2, 2), (4, 3)])
@pytest.mark.parametrize("strides", [(1, 1), (2, 3)])
def test_conv2d_same_padding_corners(size, window, strides):
    """1 x 1 images, even kernels, and kernels larger than the image, which "same" padding allows."""
    test_conv2d.hypothesis.inner_test(Window(1, size, 2, 2, window, strides, (1, 1), "same"), True, 0)


def window_margin(full):
    """How far the nearest tie or zero is, over all 2 x 2 windows of the convolution's output."""
    N, H, W, F = full.shape
    four = full[:, : H // 2 * 2, : W // 2 * 2].reshape(N, H // 2, 2, W // 2, 2, F).transpose(0, 1, 3, 5, 2, 4)
    ordered = np.sort(four.reshape(N, H // 2, W // 2, F, 4))
    ties = ordered[..., 3] - ordered[..., 2]
    return min(np.where(ordered[..., 3] > 0, ties, 1).min(), np.abs(ordered[..., 3]).min())


@examples(60)
@given(fused_pools(max_size=5, max_channels=2), st.sampled_from([0.0, 0.25, 0.5]), seeds)
def test_conv2d_relu_max_pool2d(window, rate, seed):
    """The fused step, without and with the dropout fused behind it."""
    rng = np.random.default_rng(seed)
    x, w, b = normal(rng, *window.x_shape), normal(rng, *window.w_shape), normal(rng, window.filters)
    full = np.empty(window.out_shape)
    k.conv2d_forward(full, x, w, b, NO_WORK, (1, 1), window.before, (1, 1), False)
    assume(window_margin(full) > 1e-3)
    N, OH, OW, F = window.out_shape
    out, argmax = np.empty((N, OH // 2, OW // 2, F)), np.empty((N, OH // 2, OW // 2, F), np.int8)
    dout = normal(rng, *out.shape)
    counters = np.array([3, 0, 7])

    def loss():
        k.conv2d_relu_max_pool2d_forward(out, argmax, x, w, b, NO_WORK, window.before)
        if rate:
            k.dropout_pooled_forward(out.reshape(N, -1), argmax.reshape(N, -1), counters, seed, 1, rate)
        return (out * dout).sum()

    loss()
    dx, dw, db = np.full_like(x, np.nan), np.full_like(w, np.nan), np.full_like(b, np.nan)
    k.conv2d_relu_max_pool2d_backward(dx, dw, db, dout, argmax, x, w, NO_WORK, window.before, 1 / (1 - rate))
    check(loss, (x, dx), (w, dw), (b, db))


@examples(60)
@given(windows(max_size=6, max_channels=3, max_window=3, max_batch=2), st.booleans(), seeds)
def test_conv2d_transpose(window, with_dx, seed):
    """Of the convolution that the window describes, from its output's shape to its input's."""
    rng = np.random.default_rng(seed)
    x, w, b = normal(rng, *window.out_shape), normal(rng, *window.w_shape), normal(rng, window.channels)
    out, dout = np.empty(window.x_shape), normal(rng, *window.x_shape)
    geometry = window.strides, window.before, window.dilation

    def loss():
        k.conv2d_transpose_forward(out, x, w, b, NO_WORK, *geometry)
        return (out * dout).sum()

    dx, dw, db = np.full_like(x, np.nan) if with_dx else np.empty(0), np.full_like(w, np.nan), np.full_like(b, np.nan)
    k.conv2d_transpose_backward(dx, dw, db, dout, x, w, NO_WORK, *geometry)
    check(loss, (w, dw), (b, db), *([(x, dx)] if with_dx else []))


@examples(60)
@given(windows(max_size=6, max_channels=3, max_window=3, max_batch=2), st.integers(1, 3), st.booleans(), seeds)
def test_depthwise_conv2d(window, multiplier, with_dx, seed):
    rng = np.random.default_rng(seed)
    channels = window.channels * multiplier
    x, w, b = normal(rng, *window.x_shape), normal(rng, *window.w_shape[:3], multiplier), normal(rng, channels)
    out, dout = np.empty((*window.out_shape[:3], channels)), normal(rng, *window.out_shape[:3], channels)
    geometry = window.strides, window.before, window.dilation

    def loss():
        k.depthwise_conv2d_forward(out, x, w, b, *geometry)
        return (out * dout).sum()

    dx, dw, db = np.full_like(x, np.nan) if with_dx else np.empty(0), np.full_like(w, np.nan), np.full_like(b, np.nan)
    k.depthwise_conv2d_backward(dx, dw, db, dout, x, w, *geometry)
    check(loss, (w, dw), (b, db), *([(x, dx)] if with_dx else []))


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 3), (4, 1)])
def test_images_of_other_sizes(rows, columns):
    rng = np.random.default_rng(6)
    x = normal(rng, 2, 3, 2, 2)
    padded, repeated = normal(rng, 2, 3 + rows, 2 + columns, 2), normal(rng, 2, 3 * rows, 2 * columns, 2)
    weights, others, dx = normal(rng, *padded.shape), normal(rng, *repeated.shape), np.full_like(x, np.nan)

    def loss():
        k.pad2d_forward(padded, x, (rows, columns - 1))
        return (padded * weights).sum()

    k.pad2d_backward(dx, weights, (rows, columns - 1))
    check(loss, (x, dx))

    def loss_of_blocks():
        k.upsample2d_forward(repeated, x)
        return (repeated * others).sum()

    k.upsample2d_backward(dx, others)
    check(loss_of_blocks, (x, dx))


@examples(60)
@given(pools(max_size=6, max_channels=2, max_batch=2), seeds)
def test_max_pool2d(window, seed):
    rng = np.random.default_rng(seed)
    x = distinct(rng, *window.x_shape)
    out, argmax = np.empty(window.pooled_shape), np.empty(window.pooled_shape, np.int32)
    dout = normal(rng, *out.shape)
    geometry = window.window, window.strides, window.before

    def loss():
        k.max_pool2d_forward(out, argmax, x, *geometry)
        return (out * dout).sum()

    loss()
    dx = np.full_like(x, np.nan)
    k.max_pool2d_backward(dx, dout, argmax, *geometry)
    check(loss, (x, dx))


@examples(60)
@given(pools(max_size=6, max_channels=2, max_batch=2), seeds)
def test_average_pool2d(window, seed):
    rng = np.random.default_rng(seed)
    x, out = normal(rng, *window.x_shape), np.empty(window.pooled_shape)
    dout = normal(rng, *out.shape)
    geometry = window.window, window.strides, window.before

    def loss():
        k.average_pool2d_forward(out, x, *geometry)
        return (out * dout).sum()

    dx = np.full_like(x, np.nan)
    k.average_pool2d_backward(dx, dout, *geometry)
    check(loss, (x, dx))


@examples(25)
@given(rows_and_columns, st.integers(1, 5), st.booleans(), seeds)
def test_dense(shape, units, with_dx, seed):
    rng = np.random.default_rng(seed)
    x, w, b = normal(rng, *shape), normal(rng, shape[1], units), normal(rng, units)
    out, dout = np.empty((shape[0], units)), normal(rng, shape[0], units)

    def loss():
        k.dense_forward(out, x, w, b, NO_WORK, False)
        return (out * dout).sum()

    dx, dw, db = np.full_like(x, np.nan) if with_dx else np.empty(0), np.full_like(w, np.nan), np.full_like(b, np.nan)
    k.dense_backward(dx, dw, db, dout, x, w, NO_WORK)
    check(loss, (w, dw), (b, db), *([(x, dx)] if with_dx else []))


@pytest.mark.parametrize("relu", ["dense", "conv2d"])
def test_relu_inside_a_product(relu):
    """``relu=True`` is ReLU of the plain product, whose gradient is ReLU's, then the product's."""
    rng = np.random.default_rng(0)
    x, w, b = normal(rng, 3, 5), normal(rng, 5, 4), normal(rng, 4)
    out, plain, expected = np.empty((3, 4)), np.empty((3, 4)), np.empty((3, 4))

    def forward(result, with_relu):
        if relu == "dense":
            k.dense_forward(result, x, w, b, NO_WORK, with_relu)
        else:
            image, filters = x.reshape(3, 1, 1, 5), w.reshape(1, 1, 5, 4)
            geometry = (1, 1), (0, 0), (1, 1)
            k.conv2d_forward(result.reshape(3, 1, 1, 4), image, filters, b, NO_WORK, *geometry, with_relu)

    forward(out, True)
    forward(plain, False)
    k.activation_forward(expected, plain, "relu", ())
    assert (plain < 0).any()
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize(("kind", "options"), activations())
@pytest.mark.parametrize("in_place", [False, True])
def test_activation(kind, options, in_place):
    rng = np.random.default_rng(1)
    x = distinct(rng, 80)
    out, dout = np.empty_like(x), normal(rng, 80)

    def loss():
        k.activation_forward(out, x, kind, options)
        return (out * dout).sum()

    loss()
    dx = dout.copy() if in_place else np.full_like(x, np.nan)
    k.activation_backward(dx, dx if in_place else dout, x, out, kind, options)
    check(loss, (x, dx))


def test_relu_is_flat_at_zero():
    """relu'(0) = 0, as every framework has it; and -0.0 is a zero."""
    dx = np.full(2, np.nan)
    zeros = np.array([0.0, -0.0])
    k.activation_backward(dx, np.ones(2), zeros, zeros, "relu", ())
    np.testing.assert_array_equal(dx, 0)


@pytest.mark.parametrize("name", ["add", "multiply", "maximum"])
@pytest.mark.parametrize("wanted", ["ab", "a", "b"])
def test_merge(name, wanted):
    rng = np.random.default_rng(3)
    a, b = distinct(rng, 2, 40)  # so that no step of the difference changes which is larger
    out, dout = np.empty(40), normal(rng, 40)
    forward = {"add": k.add_forward, "multiply": k.multiply_forward, "maximum": k.maximum_forward}[name]
    backward = {"add": k.add_backward, "multiply": k.multiply_backward, "maximum": k.maximum_backward}[name]

    def loss():
        forward(out, a, b)
        return (out * dout).sum()

    da, db = (np.full(40, np.nan) if each in wanted else np.empty(0) for each in "ab")
    backward(da, db, dout, *(() if name == "add" else (a, b)))
    check(loss, *((x, dx) for x, dx in ((a, da), (b, db)) if dx.size))


def test_a_value_with_two_readers_gets_the_sum_of_their_gradients():
    """y = x * x, read once by a product and once by a sum: L = sum(w * (x * y + y))."""
    rng = np.random.default_rng(4)
    x, w = normal(rng, 2, 10)
    y, product, out = np.empty((3, 10))

    def loss():
        k.multiply_forward(y, x, x)
        k.multiply_forward(product, x, y)
        k.add_forward(out, product, y)
        return (out * w).sum()

    loss()
    dproduct, dy, more, dx, other = np.full((5, 10), np.nan)
    k.add_backward(dproduct, dy, w)
    k.multiply_backward(dx, more, dproduct, x, y)
    k.add_to(dy, more)
    for half in range(2):  # x is both factors of y
        k.multiply_backward(*((other, np.empty(0)) if half else (np.empty(0), other)), dy, x, x)
        k.add_to(dx, other)
    check(loss, (x, dx))


@examples(20)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(1, 4), seeds)
def test_concatenate(widths, rows, seed):
    rng = np.random.default_rng(seed)
    parts, out = [normal(rng, rows, width) for width in widths], np.full((rows, sum(widths)), np.nan)
    dout = normal(rng, *out.shape)
    offsets = [sum(widths[:number]) for number in range(len(widths))]

    def loss():
        for x, offset in zip(parts, offsets, strict=True):
            k.concatenate_forward(out, x, offset)
        return (out * dout).sum()

    loss()
    np.testing.assert_array_equal(out, np.concatenate(parts, axis=1))
    for x, offset in zip(parts, offsets, strict=True):
        dx = np.full_like(x, np.nan)
        k.concatenate_backward(dx, dout, offset)
        check(loss, (x, dx))


def test_rescale():
    rng = np.random.default_rng(5)
    x, dout = normal(rng, 2, 10)
    out, dx = np.empty((2, 10))

    def loss():
        k.rescale_forward(out, x, 1 / 127.5, -1.0)
        return (out * dout).sum()

    k.rescale_backward(dx, dout, 1 / 127.5)
    check(loss, (x, dx))


@examples(25)
@given(rows_and_columns, seeds)
def test_softmax(shape, seed):
    rng = np.random.default_rng(seed)
    x, out, dout = 3 * normal(rng, *shape), np.empty(shape), normal(rng, *shape)

    def loss():
        k.softmax_forward(out, x)
        return (out * dout).sum()

    loss()
    dx = np.full_like(x, np.nan)
    k.softmax_backward(dx, dout, out)
    check(loss, (x, dx))


@examples(25)
@given(rows_and_columns, st.booleans(), seeds)
def test_softmax_cross_entropy(shape, hard, seed):
    """With targets that are classes, and with any numbers, which need not sum to one."""
    rng = np.random.default_rng(seed)
    logits, probs, losses = 3 * normal(rng, *shape), np.empty(shape), np.empty(shape[0])
    targets = one_hot(rng, *shape) if hard else rng.random(shape)

    def loss():
        k.softmax_cross_entropy_forward(losses, probs, logits, targets)
        return losses.mean()

    loss()
    dlogits = np.full_like(logits, np.nan)
    k.softmax_cross_entropy_backward(dlogits, probs, targets)
    check(loss, (logits, dlogits))


@examples(40)
@given(st.tuples(st.integers(1, 4), st.integers(2, 6)), st.booleans(), seeds)
def test_cross_entropy(shape, clipped, seed):
    """Of given probabilities, which need not sum to one; where one is clipped, its logarithm is flat."""
    rng = np.random.default_rng(seed)
    probs, targets, losses = 1 + rng.random(shape), rng.random(shape), np.empty(shape[0])
    if clipped:
        probs[:, 0] = 4e-8
        probs[0, 1:] = 1e-8 / shape[1]
        probs[0, -1] = 1  # and here nearly all of the row: clipped from above
    check_probabilities(k.cross_entropy_forward, k.cross_entropy_backward, probs, targets, losses)


@examples(40)
@given(rows_and_columns, st.booleans(), seeds)
def test_binary_cross_entropy(shape, clipped, seed):
    rng = np.random.default_rng(seed)
    probs, targets, losses = 0.05 + 0.9 * rng.random(shape), rng.random(shape), np.empty(shape[0])
    if clipped:
        probs[0, 0], probs[-1, -1] = 4e-8, 1 - 4e-8
    check_probabilities(k.binary_cross_entropy_forward, k.binary_cross_entropy_backward, probs, targets, losses)


def check_probabilities(forward, backward, probs, targets, losses):
    def loss():
        forward(losses, probs, targets)
        return losses.mean()

    dprobs = np.full_like(probs, np.nan)
    backward(dprobs, probs, targets)
    check(loss, (probs, dprobs), h=1e-8, tolerance=1e-5)  # a step small enough to stay on its side of the clipping


@examples(25)
@given(rows_and_columns, seeds)
def test_sigmoid_cross_entropy(shape, seed):
    rng = np.random.default_rng(seed)
    logits, probs, losses = 3 * normal(rng, *shape), np.empty(shape), np.empty(shape[0])
    targets = rng.random(shape)

    def loss():
        k.sigmoid_cross_entropy_forward(losses, probs, logits, targets)
        return losses.mean()

    loss()
    dlogits = np.full_like(logits, np.nan)
    k.sigmoid_cross_entropy_backward(dlogits, probs, targets)
    check(loss, (logits, dlogits))


ERRORS = {
    "mean_squared_error": (k.mean_squared_error_forward, k.mean_squared_error_backward, ()),
    "mean_absolute_error": (k.mean_absolute_error_forward, k.mean_absolute_error_backward, ()),
    "huber": (k.huber_forward, k.huber_backward, (0.7,)),
}


@pytest.mark.parametrize("name", ERRORS)
@examples(25)
@given(shape=rows_and_columns, weighted=st.booleans(), normalize=st.booleans(), seed=seeds)
def test_errors(name, shape, weighted, normalize, seed):
    """With rows that count by their weights, and without; the loss of the batch is the mean over its rows."""
    rng = np.random.default_rng(seed)
    predictions, targets, losses = normal(rng, *shape), normal(rng, *shape), np.empty(shape[0])
    distances = np.abs(predictions - targets)
    assume(np.abs(distances).min() > 1e-3 and np.abs(distances - 0.7).min() > 1e-3)
    weighing = rng.random(shape[0] if weighted else 0), 1.5, normalize
    forward, backward, options = ERRORS[name]

    def loss():
        forward(losses, predictions, targets, *options)
        k.weigh(losses[:, None], *weighing)
        return losses.mean()

    dpredictions = np.full_like(predictions, np.nan)
    backward(dpredictions, predictions, targets, *options)
    k.weigh(dpredictions, *weighing)
    check(loss, (predictions, dpredictions))


@examples(40)
@given(st.tuples(st.integers(2, 8), st.integers(1, 5)), st.booleans(), st.booleans(), seeds)
def test_batch_norm(shape, relu, with_dx, seed):
    rng = np.random.default_rng(seed)
    C = shape[1]
    x, gamma, beta = 1 + 2 * normal(rng, *shape), normal(rng, C), normal(rng, C)
    out, dout = np.empty(shape), normal(rng, *shape)
    mean, inv_std = np.empty(C), np.empty(C)

    def loss():
        forward(out, mean, inv_std, np.zeros(C), np.ones(C), x, gamma, beta, 0.9, 1e-2)
        return (out * dout).sum()

    forward = k.batch_norm_forward
    loss()
    dx = np.full_like(x, np.nan) if with_dx else np.empty(0)
    dgamma, dbeta = np.full(C, np.nan), np.full(C, np.nan)
    if relu:
        assume(np.abs(out).min() > 1e-3)
        forward = k.batch_norm_relu_forward
        k.batch_norm_relu_backward(dx, dgamma, dbeta, dout, x, gamma, beta, mean, inv_std)
    else:
        k.batch_norm_backward(dx, dgamma, dbeta, dout, x, gamma, mean, inv_std)
    check(loss, (gamma, dgamma), (beta, dbeta), *([(x, dx)] if with_dx else []))


@examples(40)
@given(st.tuples(st.integers(2, 8), st.integers(1, 5)), st.booleans(), st.booleans(), seeds)
def test_batch_norm_add_relu(shape, with_dx, in_place, seed):
    rng = np.random.default_rng(seed)
    C = shape[1]
    x, other, gamma, beta = 1 + 2 * normal(rng, *shape), normal(rng, *shape), normal(rng, C), normal(rng, C)
    out, dout = np.empty(shape), normal(rng, *shape)
    mean, inv_std = np.empty(C), np.empty(C)
    factors = dout.copy()

    def loss():
        kept = out, mean, inv_std
        k.batch_norm_add_relu_forward(*kept, np.zeros(C), np.ones(C), x, other, gamma, beta, 0.9, 1e-2)
        return (out * factors).sum()

    loss()
    assume(np.abs((x - mean) * inv_std * gamma + beta + other).min() > 1e-3)
    dx = np.full_like(x, np.nan) if with_dx else np.empty((0, 0))
    dother = dout if in_place else np.full_like(x, np.nan)
    dgamma, dbeta = np.full(C, np.nan), np.full(C, np.nan)
    k.batch_norm_add_relu_backward(dx, dother, dgamma, dbeta, dout, x, out, gamma, mean, inv_std)
    check(loss, (gamma, dgamma), (beta, dbeta), (other, dother), *([(x, dx)] if with_dx else []))


@examples(40)
@given(pools(max_size=6, max_channels=2, max_batch=2), st.booleans(), seeds)
def test_batch_norm_relu_max_pool2d(window, with_dx, seed):
    rng, C = np.random.default_rng(seed), window.channels
    x, gamma, beta = distinct(rng, *window.x_shape), normal(rng, C), normal(rng, C)
    assume(x.size > 2 * C)  # of two numbers, only their difference matters, and that is 1 or -1
    out, picked, mean, inv_std = (np.empty(shape) for shape in (*(window.pooled_shape,) * 2, C, C))
    argmax, dout = np.empty(out.shape, np.int8), normal(rng, *out.shape)
    geometry = window.window, window.strides, window.before

    def loss():
        kept = out, argmax, picked, mean, inv_std
        k.batch_norm_relu_max_pool2d_forward(*kept, np.zeros(C), np.ones(C), x, gamma, beta, 0.9, 1e-2, *geometry)
        return (out * dout).sum()

    loss()
    normal_x = (x - mean) * inv_std * gamma + beta
    assume(np.abs(normal_x).min() > 1e-3)  # not at ReLU's corner
    dx = np.full_like(x, np.nan) if with_dx else np.empty((0, 0, 0, 0))
    dgamma, dbeta = np.full(C, np.nan), np.full(C, np.nan)
    kept = dout, argmax, picked, x, gamma, beta, mean, inv_std
    k.batch_norm_relu_max_pool2d_backward(dx, dgamma, dbeta, *kept, *geometry)
    check(loss, (gamma, dgamma), (beta, dbeta), *([(x, dx)] if with_dx else []))


@examples(20)
@given(rows_and_columns, st.booleans(), seeds)
def test_batch_norm_inference(shape, in_place, seed):
    rng = np.random.default_rng(seed)
    C = shape[1]
    x, out, dout = normal(rng, *shape), np.empty(shape), normal(rng, *shape)
    gamma, beta, mean, variance = normal(rng, C), normal(rng, C), normal(rng, C), 0.1 + rng.random(C)

    def loss():
        k.batch_norm_inference(out, x, gamma, beta, mean, variance, 1e-2)
        return (out * dout).sum()

    dx = dout.copy() if in_place else np.full_like(x, np.nan)
    k.batch_norm_inference_backward(dx, dx if in_place else dout, gamma, variance, 1e-2)
    check(loss, (x, dx))


@examples(40)
@given(st.tuples(st.integers(1, 5), st.integers(2, 8)), st.booleans(), seeds)
def test_layer_norm(shape, with_dx, seed):
    rng = np.random.default_rng(seed)
    (M, C), x, gamma, beta = shape, 1 + 2 * normal(rng, *shape), normal(rng, shape[1]), normal(rng, shape[1])
    out, dout = np.empty(shape), normal(rng, *shape)
    mean, inv_std = np.empty(M), np.empty(M)

    def loss():
        k.layer_norm_forward(out, mean, inv_std, x, gamma, beta, 1e-2)
        return (out * dout).sum()

    loss()
    dx = np.full_like(x, np.nan) if with_dx else np.empty(0)
    dgamma, dbeta = np.full(C, np.nan), np.full(C, np.nan)
    k.layer_norm_backward(dx, dgamma, dbeta, dout, x, gamma, mean, inv_std)
    check(loss, (gamma, dgamma), (beta, dbeta), *([(x, dx)] if with_dx else []))


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("fill_mode", FILL_MODES)
def test_warp(fill_mode, interpolation):
    """Images seen through maps that show what lies beyond their edges too, and many pixels more than once."""
    rng = np.random.default_rng(7)
    x, warps = normal(rng, 3, 4, 3, 2), np.tile([1.0, 0, 0, 0, 1, 0], (3, 1)) + normal(rng, 3, 6)
    out, dout, dx = np.empty_like(x), normal(rng, *x.shape), np.full_like(x, np.nan)

    def loss():
        k.warp_forward(out, x, warps, NO_WORK, fill_mode, 0.5, interpolation)
        return (out * dout).sum()

    k.warp_backward(dx, dout, warps, NO_WORK, fill_mode, interpolation)
    check(loss, (x, dx))


@examples(25)
@given(st.tuples(st.integers(1, 4), st.integers(1, 9)), st.sampled_from([0.0, 0.1, 0.5, 0.9]), seeds)
def test_dropout(shape, rate, seed):
    rng = np.random.default_rng(seed)
    x, out, dout = normal(rng, *shape), np.empty(shape), normal(rng, *shape)
    counters = np.array([5, 0, 11])

    def loss():
        k.dropout_forward(out, x, counters, seed, 2, rate)
        return (out * dout).sum()

    dx = np.full_like(x, np.nan)
    k.dropout_backward(dx, dout, counters, seed, 2, rate)
    check(loss, (x, dx))


@pytest.mark.parametrize("power", [1, 2])
def test_penalty(power):
    """The penalty's gradient is added to what is there already; that of a magnitude is 0 at 0."""
    rng = np.random.default_rng(2)
    params, strength, penalty = distinct(rng, 20), np.abs(normal(rng, 20)), np.empty(1)
    strength[::3] = 0

    def loss():
        k.penalty_forward(penalty, params, strength, power)
        return penalty[0]

    grads = np.full(20, 10.0)
    k.penalty_backward(grads, params, strength, power)
    check(loss, (params, grads - 10))
    np.testing.assert_array_equal(grads[::3], 10)
    k.penalty_backward(grads, np.zeros(20), np.ones(20), power)
    np.testing.assert_array_equal(grads[::3], 10)


def test_the_worked_example_of_backpropagation():
    """The one in the docstring of the reference."""
    results = doctest.testmod(k)
    assert results.attempted >= 10
    assert results.failed == 0


def test_every_backward_is_checked_here():
    """A new backward pass in the contract needs its test in this file."""
    with open(__file__, encoding="utf-8") as file:
        text = file.read()
    backwards = {name for name in k.__all__ if name.endswith("_backward")}
    assert {name for name in backwards if f"k.{name}" not in text} == set()
