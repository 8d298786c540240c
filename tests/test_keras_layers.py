"""Every layer against Keras: forward, and the gradient of the input and of every weight, in float32.

Configurations are drawn by hypothesis. Errors are relative to the largest magnitude in the array, at most 1e-5 for
outputs and 1e-4 for gradients; the largest error met is reported at the end of the run.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyconv
from tests.networks import run
from tests.peer import keras, tf
from tests.strategies import examples, fused_pools, pairs, pools, seeds, windows

FORWARD, BACKWARD = 1e-5, 1e-4  # the largest relative error
BACKENDS = ("reference", "cpu")
ACTIVATIONS = tuple(tinyconv.activations.NAMES)
KINKED = (
    "relu",
    "leaky_relu",
    "relu6",
    "hard_sigmoid",
    "hard_silu",
    "hard_swish",
)  # not differentiable everywhere: see draw_array

activations = st.sampled_from(ACTIVATIONS)
relus = st.fixed_dictionaries(
    {
        "max_value": st.sampled_from([None, 0.5, 2.1, 6.0]),
        "negative_slope": st.sampled_from([0.0, 0.3]),
        "threshold": st.sampled_from([0.0, 0.3, 0.5]),
    }
)

batches = st.integers(1, 4)
sides = st.one_of(st.integers(0, 3), pairs(0, 3), st.tuples(pairs(0, 3), pairs(0, 3)))
paddings = st.fixed_dictionaries({"padding": sides})
factors = st.sampled_from([1 / 255, -1.0, 0.5, 2])
images = st.tuples(st.integers(1, 7), st.integers(1, 7), st.integers(1, 6))
samples = st.one_of(st.integers(1, 12).map(lambda n: (n,)), st.tuples(st.integers(1, 5), st.integers(1, 9)), images)


@st.composite
def conv2d(draw):
    window = draw(windows(max_size=10, max_channels=6, max_window=5, keras=True))
    arguments = {
        "filters": window.filters,
        "kernel_size": window.window,
        "strides": window.strides,
        "padding": window.mode,
        "dilation_rate": window.dilation,
        "activation": draw(activations),
        "use_bias": draw(st.booleans()),
    }
    return [("Conv2D", arguments)], window.x_shape


def pooling(name):
    @st.composite
    def drawn(draw):
        window = draw(pools(max_size=10, max_channels=6))
        strides = draw(st.sampled_from([window.strides, None]))
        return [(name, {"pool_size": window.window, "strides": strides, "padding": window.mode})], window.x_shape

    return drawn()


@st.composite
def dense(draw):
    arguments = {
        "units": draw(st.integers(1, 9)),
        "activation": draw(activations),
        "use_bias": draw(st.booleans()),
    }
    return [("Dense", arguments)], (draw(batches), *draw(samples))


@st.composite
def batch_normalization(draw):
    """At least six numbers in each channel: with fewer the gradient is a difference of nearly equal numbers."""
    arguments = {
        "momentum": draw(st.sampled_from([0.99, 0.5, 0.0])),
        "epsilon": draw(st.sampled_from([1e-3, 0.1])),
        "center": draw(st.booleans()),
        "scale": draw(st.booleans()),
    }
    return [("BatchNormalization", arguments)], (draw(st.integers(6, 12)), *draw(samples))


@st.composite
def reshape(draw):
    """Any order of the sample's factors, one of which may be left out."""
    sample = draw(samples)
    target = draw(st.permutations(sample))
    if draw(st.booleans()):
        target[draw(st.integers(0, len(target) - 1))] = -1
    return [("Reshape", {"target_shape": tuple(target)})], (draw(batches), *sample)


@st.composite
def depthwise(draw):
    window = draw(windows(max_size=10, max_channels=20, max_window=5, keras=True))
    arguments = {
        "kernel_size": window.window,
        "strides": max(window.strides),  # TensorFlow's depthwise convolution has one for both axes
        "padding": window.mode,
        "depth_multiplier": draw(st.integers(1, 3)),
        "dilation_rate": window.dilation,
        "activation": draw(activations),
        "use_bias": draw(st.booleans()),
    }
    if draw(st.booleans()):
        return [("SeparableConv2D", {**arguments, "filters": window.filters})], window.x_shape
    return [("DepthwiseConv2D", arguments)], window.x_shape


@st.composite
def transposed(draw):
    """Any image, as a transposed convolution makes it larger. TensorFlow cannot dilate one on a CPU."""
    arguments = {
        "filters": draw(st.integers(1, 6)),
        "kernel_size": draw(pairs(1, 4)),
        "strides": draw(pairs(1, 3)),
        "padding": draw(st.sampled_from(["valid", "same"])),
        "activation": draw(activations),
        "use_bias": draw(st.booleans()),
    }
    return [("Conv2DTranspose", arguments)], (draw(batches), *draw(images))


@st.composite
def layer_normalization(draw):
    """Over at least three numbers: with fewer the gradient is a difference of nearly equal ones."""
    shape = (draw(batches), *draw(samples.filter(lambda shape: shape[-1] > 2)))
    axes = draw(st.integers(1, len(shape) - 1))
    arguments = {
        "axis": draw(st.sampled_from([-1, [-1], list(range(len(shape) - axes, len(shape)))])),
        "epsilon": draw(st.sampled_from([1e-3, 0.1])),
        "center": draw(st.booleans()),
        "scale": draw(st.booleans()),
    }
    return [("LayerNormalization", arguments)], shape


def simple(name, arguments, shapes=samples):
    """A layer with arguments, and a batch of the samples' shapes."""
    return st.tuples(
        arguments.map(lambda arguments: [(name, arguments)]), st.builds(lambda n, s: (n, *s), batches, shapes)
    )


@st.composite
def fused(draw):
    """Convolution, perhaps a normalisation, ReLU and 2 x 2 pooling, and a second product behind it."""
    window = draw(fused_pools(max_size=9, max_channels=5))
    conv = {"filters": window.filters, "kernel_size": window.window, "padding": window.mode}
    stack = [("Conv2D", {**conv, "activation": draw(st.sampled_from(["relu", "linear"]))})]
    if draw(st.booleans()):
        stack.append(("Activation", {"activation": "relu"}))
    stack.append(("MaxPooling2D", {"pool_size": draw(st.sampled_from([(2, 2), (2, 2), (2, 1)]))}))
    follower = draw(st.sampled_from(["dense", "conv", "nothing"]))
    if follower == "dense":
        stack += [("Flatten", {}), ("Dropout", {"rate": 0.0}), ("Dense", {"units": 3, "activation": "relu"})]
    elif follower == "conv":
        again = {"filters": 3, "kernel_size": draw(pairs(1, 3)), "padding": "same", "activation": "relu"}
        stack += [("Conv2D", again), ("GlobalAveragePooling2D", {})]
    return stack, window.x_shape


@st.composite
def wide(draw):
    """As many channels as fill several vector registers, and some more or fewer; a network's usual 3 x 3 among them."""
    channels, filters = (draw(st.sampled_from([1, 3, 16, 17, 31, 32, 48, 64, 65])) for _ in range(2))
    kernel_size = draw(st.sampled_from([(3, 3), (3, 3), (1, 1), (5, 4)]))
    strides, dilation = draw(st.sampled_from([(1, 1), (1, 1), (2, 1), (1, 2)]))
    conv = {"filters": filters, "kernel_size": kernel_size, "strides": strides, "dilation_rate": dilation}
    conv["padding"] = draw(st.sampled_from(["valid", "same"]))
    pooled = draw(st.booleans())
    conv["activation"] = "relu" if pooled else draw(st.sampled_from(["relu", "tanh"]))
    stack = [("Conv2D", conv), ("MaxPooling2D", {})] if pooled else [("Conv2D", conv)]
    stack += [("Flatten", {}), ("Dense", {"units": draw(st.sampled_from([9, 10, 70]))})]
    least = [(k - 1) * dilation + 1 + strides for k in kernel_size]  # so that there are two outputs to pool
    size = tuple(draw(st.integers(low, max(low, 13))) for low in least)
    return stack, (draw(batches), *size, channels)


def sensible(configuration):
    """Not a softmax of one column: it is 1, its gradient 0, and that is all one could compare."""
    [(name, arguments), *_], shape = configuration
    columns = arguments.get("filters", arguments.get("units", shape[-1] * arguments.get("depth_multiplier", 1)))
    return "softmax" not in (arguments.get("activation"), name.lower()) or columns > 1


KINDS = {
    "Conv2D": (conv2d(), 160),
    "MaxPooling2D": (pooling("MaxPooling2D"), 60),
    "AveragePooling2D": (pooling("AveragePooling2D"), 60),
    "GlobalAveragePooling2D": (simple("GlobalAveragePooling2D", st.just({}), images), 15),
    "DepthwiseConv2D": (depthwise(), 80),
    "Conv2DTranspose": (transposed(), 80),
    "LayerNormalization": (layer_normalization(), 40),
    "ZeroPadding2D": (simple("ZeroPadding2D", paddings, images), 20),
    "UpSampling2D": (simple("UpSampling2D", st.fixed_dictionaries({"size": pairs(1, 3)}), images), 20),
    "GlobalMaxPooling2D": (
        simple("GlobalMaxPooling2D", st.fixed_dictionaries({"keepdims": st.booleans()}), images),
        15,
    ),
    "Reshape": (reshape(), 15),
    "Rescaling": (simple("Rescaling", st.fixed_dictionaries({"scale": factors, "offset": factors})), 15),
    "Softmax": (simple("Softmax", st.just({})), 15),
    "Flatten": (simple("Flatten", st.just({})), 10),
    "Dense": (dense(), 60),
    "Activation": (simple("Activation", st.fixed_dictionaries({"activation": activations})), 50),
    "ReLU": (simple("ReLU", relus), 40),
    "LeakyReLU": (
        simple("LeakyReLU", st.fixed_dictionaries({"negative_slope": st.sampled_from([0.3, 0.0, 0.01])})),
        15,
    ),
    "ELU": (simple("ELU", st.fixed_dictionaries({"alpha": st.sampled_from([1.0, 0.3])})), 15),
    "BatchNormalization": (batch_normalization(), 50),
    "fused": (fused(), 80),
    "wide": (wide(), 40),
}


def draw_array(rng, shape, exact):
    """Normal numbers; or, where a kink or a tie may decide, multiples of 1/8: both sides meet it exactly then."""
    array = rng.integers(-8, 9, shape) / 8 if exact else rng.standard_normal(shape)
    return array.astype(np.float32)


def draw_weights(rng, layer, exact):
    """Normal ones so large that a product's results are normal too: no activation saturates."""
    arrays = [draw_array(rng, weight.shape, exact) for weight in layer.get_weights()]
    if not exact:
        arrays = [array / np.float32(np.sqrt(np.prod(array.shape[:-1]))) for array in arrays]
    if type(layer).__name__ == "BatchNormalization":
        arrays[-1] = np.abs(arrays[-1]) + np.float32(0.25)  # a variance
    return arrays


def is_exact(stack):
    """Not of a global maximum: where several are equal, TensorFlow shares the gradient among them."""
    return any(
        name.startswith("Max") or name in ("LeakyReLU", "ReLU") or arguments.get("activation") in KINKED
        for name, arguments in stack
    )


def with_keras(stack, x, rng, exact, training=True):
    """The weights drawn, and what :func:`networks.run` gives, from Keras."""
    peers, shape = [getattr(keras.layers, name)(**arguments) for name, arguments in stack], x.shape
    for peer in peers:
        peer.build(shape)
        peer.set_weights(draw_weights(rng, peer, exact))
        shape = peer.compute_output_shape(shape)
    weights = [array for peer in peers for array in peer.get_weights()]
    image, trained = tf.constant(x), [variable.value for peer in peers for variable in peer.trainable_variables]
    with tf.GradientTape() as tape:
        tape.watch(image)
        out = image
        for peer in peers:
            out = peer(out, training=training) if isinstance(peer, keras.layers.BatchNormalization) else peer(out)
    dout = draw_array(rng, out.shape, exact)
    dx, *gradients = tape.gradient(out, [image, *trained], tf.constant(dout))
    statistics = [variable.numpy() for peer in peers for variable in peer.non_trainable_variables]
    gradients = [gradient.numpy() for gradient in gradients]
    return weights, dout, (out.numpy(), dx.numpy(), gradients, statistics)


def relative_error(ours, theirs):
    """The largest difference over the largest magnitude (of zeros and rounding noise, over 0.01), of all arrays."""
    worst = 0.0
    for mine, peer in zip(ours, theirs, strict=True):
        assert mine.shape == peer.shape
        assert np.isfinite(mine).all()
        worst = max(worst, float(np.abs(mine - peer).max() / max(np.abs(peer).max(), 1e-2)))
    return worst


@pytest.mark.parametrize("kind", KINDS)
def test_layer(kind, record_property):
    configurations, count = KINDS[kind]
    worst = {"forward": 0.0, "gradients": 0.0}

    @examples(count)
    @given(configurations.filter(sensible), seeds)
    def check(configuration, seed):
        stack, shape = configuration
        rng, exact = np.random.default_rng(seed), is_exact(stack)
        x = draw_array(rng, shape, exact)
        weights, dout, (out, dx, gradients, statistics) = with_keras(stack, x, rng, exact)
        for backend in BACKENDS:
            for fuse in (True, False) if kind in ("fused", "wide") else (True,):
                mine = run(stack, weights, x, dout, backend, fuse=fuse)
                forward = relative_error([mine[0], *mine[3]], [out, *statistics])
                backward = relative_error([mine[1], *mine[2]], [dx, *gradients])
                worst["forward"], worst["gradients"] = max(worst["forward"], forward), max(worst["gradients"], backward)
                assert forward <= FORWARD, f"{backend}, fuse={fuse}: the output is off by {forward:.1e}"
                assert backward <= BACKWARD, f"{backend}, fuse={fuse}: a gradient is off by {backward:.1e}"

    check()
    record_property("max error against Keras", ", ".join(f"{part} {error:.1e}" for part, error in worst.items()))


def test_at_least_500_configurations():
    assert sum(count for _, count in KINDS.values()) >= 500
