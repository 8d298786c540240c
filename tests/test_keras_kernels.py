"""The reference kernels against what they claim to be: the operations of Keras and TensorFlow.

In float64, so that a difference is a difference in meaning and no rounding hides it.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.peer import gradients, keras, tf
from tests.strategies import distinct, examples, normal, one_hot, pools, seeds, windows
from tinyconv import activations
from tinyconv.activations import Formula, relu_formula
from tinyconv.kernels import reference as k

NO_WORK = np.zeros(0)
rows_and_columns = st.tuples(st.integers(1, 6), st.integers(1, 8))


def agree(ours, theirs, tolerance=1e-12):
    """Equal, relative to the largest magnitude."""
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * max(1, np.abs(theirs).max(initial=0)))


def nans(*arrays):
    """Where gradients go: filled with NaN, so that an element nobody writes is seen."""
    return [np.full_like(array, np.nan) for array in arrays]


@examples(80)
@given(windows(keras=True), seeds)
def test_conv2d(window, seed):
    rng = np.random.default_rng(seed)
    x, w, b = normal(rng, *window.x_shape), normal(rng, *window.w_shape), normal(rng, window.filters)
    dout = normal(rng, *window.out_shape)

    def theirs(x, w, b):
        return keras.ops.conv(x, w, window.strides, window.mode, dilation_rate=window.dilation) + b

    out, dx, dw, db = nans(dout, x, w, b)
    geometry = window.strides, window.before, window.dilation
    k.conv2d_forward(out, x, w, b, NO_WORK, *geometry, False)
    k.conv2d_backward(dx, dw, db, dout, x, w, NO_WORK, *geometry)
    for mine, peer in zip((out, dx, dw, db), gradients(theirs, x, w, b, dout=dout), strict=True):
        agree(mine, peer)


@examples(80)
@given(pools(), st.integers(1, 4), seeds)
def test_max_pool2d(window, values, seed):
    """Few different values, so that there are ties: of equal values the first has the gradient, as in TensorFlow."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-values, 1, window.x_shape).astype(np.float64)
    dout = normal(rng, *window.pooled_shape)
    out, dx = nans(dout, x)
    argmax = np.full(out.shape, -9, np.int32)
    geometry = window.window, window.strides, window.before
    k.max_pool2d_forward(out, argmax, x, *geometry)
    k.max_pool2d_backward(dx, dout, argmax, *geometry)
    pool = keras.layers.MaxPooling2D(window.window, window.strides, window.mode, dtype="float64")
    for mine, peer in zip((out, dx), gradients(pool, x, dout=dout), strict=True):
        agree(mine, peer)


@examples(80)
@given(pools(), seeds)
def test_average_pool2d(window, seed):
    """With padding "same", the average of the pixels inside the image."""
    rng = np.random.default_rng(seed)
    x, dout = normal(rng, *window.x_shape), normal(rng, *window.pooled_shape)
    out, dx = nans(dout, x)
    geometry = window.window, window.strides, window.before
    k.average_pool2d_forward(out, x, *geometry)
    k.average_pool2d_backward(dx, dout, *geometry)
    pool = keras.layers.AveragePooling2D(window.window, window.strides, window.mode, dtype="float64")
    for mine, peer in zip((out, dx), gradients(pool, x, dout=dout), strict=True):
        agree(mine, peer)


@examples(20)
@given(rows_and_columns, st.integers(1, 5), seeds)
def test_dense(shape, units, seed):
    rng = np.random.default_rng(seed)
    x, w, b, dout = normal(rng, *shape), normal(rng, shape[1], units), normal(rng, units), normal(rng, shape[0], units)
    out, dx, dw, db = nans(dout, x, w, b)
    k.dense_forward(out, x, w, b, NO_WORK, False)
    k.dense_backward(dx, dw, db, dout, x, w, NO_WORK)
    peers = gradients(lambda x, w, b: tf.matmul(x, w) + b, x, w, b, dout=dout)
    for mine, peer in zip((out, dx, dw, db), peers, strict=True):
        agree(mine, peer)


ACTIVATIONS = [(name, (), formula) for name, formula in activations.FORMULAS.items()]
ACTIVATIONS += [
    ("leaky_relu", (0.25,), Formula("leaky_relu", (0.25,))),
    ("elu", (1.5,), Formula("elu", (1.5,))),
    ("gelu", (True,), Formula("approximate_gelu")),
    *(
        ("relu", arguments, relu_formula("relu", *arguments))
        for arguments in ((0.25,), (0.25, 1.5), (0.25, 1.5, 0.5), (0.0, 3.0), (0.0, None, 1.0), (0.25, None, 1.0))
    ),
]


@pytest.mark.parametrize(("name", "arguments", "formula"), ACTIVATIONS)
def test_activation(name, arguments, formula):
    """Functions of arrays, and their gradients; also at zero and where exponentials overflow."""
    rng = np.random.default_rng(0)
    x = 4 * normal(rng, 12, 10)
    x[0], x[1, :3] = 0, (-300, 300, 5)
    dout = normal(rng, 12, 10)
    with np.errstate(over="ignore"):
        out, dx = getattr(activations, name)(x, *arguments), np.full_like(x, np.nan)
        k.activation_backward(dx, dout, x, out, *formula)
    peers = gradients(lambda x: getattr(keras.activations, name)(x, *arguments), x, dout=dout)
    single = name in ("leaky_relu", "gelu")  # whose constants TensorFlow has in float32
    for mine, peer in zip((out, dx), peers, strict=True):
        agree(mine, peer, 1e-6 if single else 1e-12)


@pytest.mark.parametrize("axis", [-1, 0])
def test_softmax(axis):
    rng = np.random.default_rng(0)
    x, dout = 4 * normal(rng, 12, 10), normal(rng, 12, 10)
    dx = np.full_like(x, np.nan)
    out = activations.softmax(x, axis)
    peers = gradients(lambda x: keras.activations.softmax(x, axis), x, dout=dout)
    agree(out, peers[0])
    if axis == -1:
        k.softmax_backward(dx, dout, out)
        agree(dx, peers[1])


def test_activations_are_found_by_keras_names():
    for name, function in activations.NAMES.items():
        assert keras.activations.get(name).__name__ == function.__name__
        assert activations.get(name) is activations.get(function) is function
    assert activations.get(None) is activations.linear
    np.testing.assert_array_equal(activations.linear([1, 2]), np.float32([1, 2]))


@pytest.mark.parametrize("name", ["add", "multiply", "maximum"])
def test_merge(name):
    """Also where both are equal, and where one is a NaN."""
    rng = np.random.default_rng(0)
    a, b, dout = rng.integers(-2, 3, (3, 60)).astype(np.float64)
    a[3] = b[4] = np.nan
    out, da, db = nans(a, a, b)
    getattr(k, f"{name}_forward")(out, a, b)
    getattr(k, f"{name}_backward")(da, db, dout, *(() if name == "add" else (a, b)))
    peers = gradients(lambda a, b: getattr(keras.layers, name.capitalize())(dtype="float64")([a, b]), a, b, dout=dout)
    for mine, peer in zip((out, da, db), peers, strict=True):
        np.testing.assert_array_equal(mine, peer)


LOSSES = {
    "softmax_cross_entropy": lambda t, z: keras.losses.categorical_crossentropy(t, z, from_logits=True),
    "sigmoid_cross_entropy": lambda t, z: keras.losses.binary_crossentropy(t, z, from_logits=True),
    "cross_entropy": keras.losses.categorical_crossentropy,
    "binary_cross_entropy": keras.losses.binary_crossentropy,
    "mean_squared_error": keras.losses.mean_squared_error,
    "mean_absolute_error": keras.losses.mean_absolute_error,
    "huber": lambda t, p: keras.losses.huber(t, p, delta=0.75),
}


@pytest.mark.parametrize("name", LOSSES)
@examples(20)
@given(shape=st.tuples(st.integers(1, 6), st.integers(2, 8)), hard=st.booleans(), seed=seeds)
def test_loss(name, shape, hard, seed):
    """One loss per row, and the gradient of their mean; with targets that are classes or any shares of one.

    For targets that do not sum to one, TensorFlow's gradient of the softmax cross-entropy is documented to be wrong.
    """
    rng = np.random.default_rng(seed)
    targets = one_hot(rng, *shape) if hard else rng.dirichlet(np.ones(shape[1]), shape[0])
    predictions = 3 * normal(rng, *shape)
    if name in ("cross_entropy", "binary_cross_entropy"):
        predictions = rng.random(shape)
        predictions[0, 0], predictions[-1, -1] = 0, 1  # clipped
    losses, dpredictions, probs = np.full(shape[0], np.nan), np.full(shape, np.nan), np.empty(shape)
    forward, backward = getattr(k, f"{name}_forward"), getattr(k, f"{name}_backward")
    if name in ("softmax_cross_entropy", "sigmoid_cross_entropy"):
        forward(losses, probs, predictions, targets)
        backward(dpredictions, probs, targets)
    else:
        options = (0.75,) if name == "huber" else ()
        forward(losses, predictions, targets, *options)
        backward(dpredictions, predictions, targets, *options)
    dout = np.full(shape[0], 1 / shape[0])
    peer_losses, peer = gradients(lambda p: LOSSES[name](tf.constant(targets), p), predictions, dout=dout)
    agree(losses, peer_losses)
    agree(dpredictions, peer, 1e-9)


def test_sparse_targets_are_one_hot_ones():
    """Class numbers become the same targets that to_categorical makes, in the order of the epoch."""
    rng = np.random.default_rng(0)
    labels, order = rng.integers(0, 7, 20), rng.permutation(20)
    out = np.full((5, 7), np.nan)
    k.gather_one_hot(out, labels, order, np.array([0, 10, 0]))
    np.testing.assert_array_equal(out, keras.utils.to_categorical(labels[order[10:15]], 7))


METRICS = {
    "count_correct": (keras.metrics.categorical_accuracy, ()),
    "count_binary_correct": (lambda t, p: tf.reduce_mean(keras.metrics.binary_accuracy(t, p), axis=-1), ()),
    "count_top_k": (keras.metrics.top_k_categorical_accuracy, (3,)),
}


@pytest.mark.parametrize("name", METRICS)
@examples(20)
@given(shape=st.tuples(st.integers(1, 9), st.integers(3, 8)), seed=seeds)
def test_metric(name, shape, seed):
    """One number per row; predictions with two digits, so that there are ties."""
    rng = np.random.default_rng(seed)
    targets, predictions = one_hot(rng, *shape), (rng.integers(0, 6, shape) / 10).astype(np.float32)
    correct = np.full(shape[0], np.nan)
    metric, arguments = METRICS[name]
    getattr(k, name)(correct, predictions, targets, *arguments)
    np.testing.assert_allclose(correct, metric(targets, predictions, *arguments), atol=1e-6)


@examples(20)
@given(st.tuples(st.integers(2, 8), st.integers(1, 3), st.integers(1, 4)), seeds)
def test_batch_norm_add_relu(shape, seed):
    rng = np.random.default_rng(seed)
    x, other, dout, C = 1 + 2 * normal(rng, *shape), normal(rng, *shape), normal(rng, *shape), shape[-1]
    layer = keras.layers.BatchNormalization(momentum=0.7, epsilon=1e-2, dtype="float64")
    layer.build(shape)
    gamma, beta, moving = normal(rng, C), normal(rng, C), (np.zeros(C), np.ones(C))
    layer.set_weights([gamma, beta, *moving])
    rows = [array.reshape(-1, C) for array in (x, other, dout)]
    out, mean, inv_std, dx, dother, dgamma, dbeta = nans(rows[0], gamma, gamma, *rows[:2], gamma, beta)
    k.batch_norm_add_relu_forward(out, mean, inv_std, *moving, *rows[:2], gamma, beta, 0.7, 1e-2)
    gradients = dx, dother, dgamma, dbeta
    k.batch_norm_add_relu_backward(*gradients, rows[2], rows[0], out, gamma, mean, inv_std)
    with tf.GradientTape() as tape:
        image, second = tf.constant(x), tf.constant(other)
        tape.watch([image, second])
        peer_out = tf.nn.relu(layer(image, training=True) + second)
    agree(out.reshape(shape), peer_out.numpy(), 1e-9)
    peers = tape.gradient(peer_out, [image, second, layer.gamma.value, layer.beta.value], tf.constant(dout))
    for mine, peer in zip(gradients, peers, strict=True):
        agree(mine.reshape(peer.shape), peer.numpy(), 1e-8)
    for mine, peer in zip(moving, (layer.moving_mean, layer.moving_variance), strict=True):
        agree(mine, peer.numpy(), 1e-7)  # Keras rounds the momentum to float32


@examples(30)
@given(pools(), seeds)
def test_batch_norm_relu_max_pool2d(window, seed):
    rng, C = np.random.default_rng(seed), window.channels
    x, dout, gamma, beta = distinct(rng, *window.x_shape), normal(rng, *window.pooled_shape), *normal(rng, 2, C)
    layer = keras.layers.BatchNormalization(momentum=0.7, epsilon=1e-2, dtype="float64")
    layer.build(x.shape)
    layer.set_weights([gamma, beta, np.zeros(C), np.ones(C)])
    out, picked, mean, inv_std, dx, dgamma, dbeta = nans(dout, dout, gamma, gamma, x, gamma, beta)
    argmax, moving = np.full(out.shape, -9, np.int8), (np.zeros(C), np.ones(C))
    geometry = window.window, window.strides, window.before
    kept, affine = (out, argmax, picked, mean, inv_std), (x, gamma, beta)
    k.batch_norm_relu_max_pool2d_forward(*kept, *moving, *affine, 0.7, 1e-2, *geometry)
    kept, gradients = (argmax, picked), (dx, dgamma, dbeta)
    k.batch_norm_relu_max_pool2d_backward(*gradients, dout, *kept, *affine, mean, inv_std, *geometry)
    pool = keras.layers.MaxPooling2D(window.window, window.strides, window.mode, dtype="float64")
    with tf.GradientTape() as tape:
        image = tf.constant(x)
        tape.watch(image)
        peer_out = pool(tf.nn.relu(layer(image, training=True)))
    agree(out, peer_out.numpy(), 1e-9)
    peers = tape.gradient(peer_out, [image, layer.gamma.value, layer.beta.value], tf.constant(dout))
    for mine, peer in zip(gradients, peers, strict=True):
        agree(mine, peer.numpy(), 1e-7)
    for mine, peer in zip(moving, (layer.moving_mean, layer.moving_variance), strict=True):
        agree(mine, peer.numpy(), 1e-7)  # Keras rounds the momentum to float32


@examples(20)
@given(st.tuples(st.integers(2, 8), st.integers(1, 3), st.integers(1, 4)), st.booleans(), seeds)
def test_batch_norm(shape, relu, seed):
    """Training, the moving statistics after it, and inference with them; also with a ReLU behind it."""
    rng = np.random.default_rng(seed)
    x, dout, C = 1 + 2 * normal(rng, *shape), normal(rng, *shape), shape[-1]
    layer = keras.layers.BatchNormalization(momentum=0.7, epsilon=1e-3, dtype="float64")
    layer.build(shape)
    gamma, beta, moving_mean, moving_variance = normal(rng, C), normal(rng, C), normal(rng, C), 0.1 + rng.random(C)
    layer.set_weights([gamma, beta, moving_mean, moving_variance])

    flat = x.reshape(-1, C)
    out, dx, mean, inv_std, dgamma, dbeta = nans(flat, flat, gamma, gamma, gamma, beta)
    forward, inference = k.batch_norm_forward, k.batch_norm_inference
    activation = tf.identity
    if relu:
        forward, inference, activation = k.batch_norm_relu_forward, k.batch_norm_relu_inference, tf.nn.relu
    forward(out, mean, inv_std, moving_mean, moving_variance, flat, gamma, beta, 0.7, 1e-3)
    if relu:
        k.batch_norm_relu_backward(dx, dgamma, dbeta, dout.reshape(-1, C), flat, gamma, beta, mean, inv_std)
    else:
        k.batch_norm_backward(dx, dgamma, dbeta, dout.reshape(-1, C), flat, gamma, mean, inv_std)
    with tf.GradientTape() as tape:
        image = tf.constant(x)
        tape.watch(image)
        peer_out = activation(layer(image, training=True))
    peers = tape.gradient(peer_out, [image, layer.gamma.value, layer.beta.value], tf.constant(dout))
    agree(out.reshape(shape), peer_out.numpy(), 1e-9)
    for mine, peer in zip((dx.reshape(shape), dgamma, dbeta), peers, strict=True):
        agree(mine, peer.numpy(), 1e-8)
    agree(moving_mean, layer.moving_mean.numpy(), 1e-7)  # Keras rounds the momentum to float32
    agree(moving_variance, layer.moving_variance.numpy(), 1e-7)
    inference(out, flat, gamma, beta, moving_mean, moving_variance, 1e-3)
    layer.trainable = False
    with tf.GradientTape() as tape:
        tape.watch(image)
        peer_out = activation(layer(image, training=True))  # frozen: as at inference, in training too
    agree(out.reshape(shape), peer_out.numpy(), 1e-6)
    flat_dout = dout.reshape(-1, C) * (out > 0) if relu else dout.reshape(-1, C)
    k.batch_norm_inference_backward(dx, flat_dout, gamma, moving_variance, 1e-3)
    agree(dx.reshape(shape), tape.gradient(peer_out, image, tf.constant(dout)).numpy(), 1e-6)


@examples(20)
@given(windows(max_size=6, keras=True), seeds)
def test_batch_norm_folds_into_the_product_before_it(window, seed):
    rng = np.random.default_rng(seed)
    x, w, b = normal(rng, *window.x_shape), normal(rng, *window.w_shape), normal(rng, window.filters)
    F = window.filters
    gamma, beta, mean, variance = normal(rng, F), normal(rng, F), normal(rng, F), 0.1 + rng.random(F)
    geometry = window.strides, window.before, window.dilation
    out, folded, w_folded, b_folded = nans(np.empty(window.out_shape), np.empty(window.out_shape), w, b)
    k.conv2d_forward(out, x, w, b, NO_WORK, *geometry, False)
    k.batch_norm_inference(out.reshape(-1, F), out.reshape(-1, F), gamma, beta, mean, variance, 1e-3)
    k.batch_norm_fold(w_folded.reshape(-1, F), b_folded, w.reshape(-1, F), b, gamma, beta, mean, variance, 1e-3)
    k.conv2d_forward(folded, x, w_folded, b_folded, NO_WORK, *geometry, False)
    agree(folded, out)


EXACT = {"beta_1": 0.875, "beta_2": 1 - 2.0**-10, "epsilon": 2.0**-23}  # what float32, through which Keras passes
RATE, MOMENTUM, DECAY = 2.0**-7, 0.875, 2.0**-6  # every setting, has without rounding
RHO, EMPTY = 0.875, np.empty(0)


def adam(weight_decay):
    def update(params, moments, grads, counters, rate):
        k.adam_update(params, *moments[:2], grads, counters, rate, *EXACT.values(), weight_decay)

    return update


def rmsprop(momentum, centered, weight_decay):
    def update(params, moments, grads, counters, rate):
        velocity, means = moments[1] if momentum else EMPTY, moments[2] if centered else EMPTY
        epsilon = EXACT["epsilon"]
        k.rmsprop_update(params, moments[0], velocity, means, grads, rate, RHO, momentum, epsilon, weight_decay)

    return update


def sgd(momentum, nesterov, weight_decay=0.0):
    def update(params, moments, grads, counters, rate):
        velocity = moments[0] if momentum else EMPTY
        k.sgd_update(params, velocity, grads, rate, momentum, nesterov, weight_decay)

    return update


OPTIMIZERS = {
    "adam": (adam(0.0), lambda: keras.optimizers.Adam(RATE, **EXACT)),
    "adamw": (adam(DECAY), lambda: keras.optimizers.AdamW(RATE, weight_decay=DECAY, **EXACT)),
    "rmsprop": (rmsprop(0.0, False, 0.0), lambda: keras.optimizers.RMSprop(RATE, RHO, epsilon=EXACT["epsilon"])),
    "rmsprop, all of it": (
        rmsprop(MOMENTUM, True, DECAY),
        lambda: keras.optimizers.RMSprop(RATE, RHO, MOMENTUM, EXACT["epsilon"], True, weight_decay=DECAY),
    ),
    "sgd": (sgd(0.0, False), lambda: keras.optimizers.SGD(RATE)),
    "momentum": (sgd(MOMENTUM, False), lambda: keras.optimizers.SGD(RATE, momentum=MOMENTUM)),
    "nesterov": (sgd(MOMENTUM, True), lambda: keras.optimizers.SGD(RATE, momentum=MOMENTUM, nesterov=True)),
    "decay": (sgd(0.0, False, DECAY), lambda: keras.optimizers.SGD(RATE, weight_decay=DECAY)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-6), ("float64", 1e-12)])
def test_optimizer_trajectory(name, dtype, tolerance):
    """Twenty steps with the same gradients; among them zeros, tiny and huge ones."""
    rng = np.random.default_rng(3)
    params = normal(rng, 50, dtype=dtype)
    moments = np.zeros((3, 50), dtype)
    rate = np.array([RATE], dtype)
    update, make = OPTIMIZERS[name]
    optimizer, variable = make(), keras.Variable(params, dtype=dtype)
    scale = np.array([0, 1e-12, 1e-6, 1, 1e3] * 10)
    for step in range(20):
        grads = (scale * normal(rng, 50)).astype(dtype)
        update(params, moments, grads, np.array([step, 0, 0]), rate)
        optimizer.apply([tf.constant(grads)], [variable])
        np.testing.assert_allclose(params, variable.numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("clip", ["clipnorm", "clipvalue", "global_clipnorm"])
@pytest.mark.parametrize("limit", [0.5, 5.0, 50.0])
def test_clipping(clip, limit):
    """Two weights' gradients, clipped by value, each by its own norm, and together."""
    rng = np.random.default_rng(0)
    grads, sizes = normal(rng, 60), (25, 35)
    optimizer = keras.optimizers.SGD(1.0, **{clip: limit})
    expected = np.concatenate(optimizer._clip_gradients([tf.constant(g) for g in np.split(grads, sizes[:1])]))
    if clip == "clipvalue":
        k.clip_values(grads, limit)
    else:
        parts = np.array([(0, 10, 0), (10, 25, 0), (25, 60, clip == "clipnorm")])
        k.clip_norms(grads, np.empty(3), parts, limit)
    np.testing.assert_allclose(grads, expected, rtol=1e-12)
