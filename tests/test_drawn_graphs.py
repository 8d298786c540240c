"""Drawn graphs of layers against live Keras: outputs, gradients, and three steps of training.

Keras' layers are called one after another on tensors (to build a model of each graph would take longer than all the
rest), and a few graphs are built as models of both, in which the order of the weights must be the same.
"""

import functools
import inspect

import numpy as np
import pytest
from hypothesis import assume, given, seed
from hypothesis import strategies as st

import tinyconv
from tests.peer import close, keras, listed, tf
from tests.strategies import examples, few, seeds

JOINS = ("Add", "Multiply", "Maximum", "Minimum", "Average", "Subtract", "Concatenate")
RANDOM = {"bias_initializer": "random_normal"}  # so that no weight begins with what hides a mistake
NORMS = {"beta_initializer": "random_normal", "gamma_initializer": "random_normal"}
SAME = {  # layers that leave an image's size as it is, and their arguments
    "BatchNormalization": {**NORMS, "moving_mean_initializer": "random_normal"},
    "LayerNormalization": NORMS,
    "Activation": {"activation": "tanh"},
    "LeakyReLU": {},
    "Rescaling": {"scale": 0.5, "offset": 0.1},
    "DepthwiseConv2D": {"kernel_size": 3, "padding": "same", **RANDOM},
    "MaxPooling2D": {"pool_size": 3, "strides": 1, "padding": "same"},
    "Dropout": {"rate": 0.0},
}
FILTERS = {  # layers with filters
    "Conv2D": {"kernel_size": 3, "padding": "same", "activation": "relu", **RANDOM},
    "SeparableConv2D": {"kernel_size": 2, "padding": "same", **RANDOM},
    "Conv2DTranspose": {"kernel_size": 3, "padding": "same", "activation": "elu", **RANDOM},
    "Dense": {"activation": "sigmoid", **RANDOM},
    "stack": {},
}
AUGMENTATION = {  # ranges without a width fix what is drawn, in training; at inference nothing is done
    "RandomRotation": {"factor": (0.13, 0.13), "fill_mode": "constant"},
    "RandomTranslation": {"height_factor": (0.31, 0.31), "width_factor": (-0.17, -0.17), "fill_mode": "reflect"},
    "RandomZoom": {"height_factor": (0.23, 0.23), "fill_mode": "nearest"},
}
KINDS = ("filters", "filters", "same", "same", "join", "join", "again", "half", "gate", "operators", "augmentation")


@st.composite
def drawings(draw):
    """A network as data: the channels of its inputs, its calls (what, with which arguments, on which values), and its
    outputs. Values are images: of 4 x 4 or 2 x 2 pixels, or one, and a few channels; so most of them can be joined."""
    channels = st.integers(1, 3)
    inputs = [draw(channels) for _ in range(draw(st.integers(1, 2)))]
    shapes = [(4, number) for number in inputs]  # side and channels of each value
    calls, reused = [], []
    for _ in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(KINDS))
        at = draw(st.integers(max(0, len(shapes) - 4), len(shapes) - 1))
        side, count = shapes[at]
        arguments, reads, shape = {}, [at], (side, count)
        if kind == "join":
            kind = draw(st.sampled_from(JOINS))
            reads += _partners(draw, kind, shapes, at)
            each = [shapes[i] for i in reads]
            total = sum(number for _, number in each) if kind == "Concatenate" else max(number for _, number in each)
            shape = (max(size for size, _ in each), total)
        elif kind == "filters":
            kind, filters = draw(st.sampled_from(sorted(FILTERS))), draw(channels)
            arguments = {**FILTERS[kind], ("units" if kind == "Dense" else "filters"): filters}
            reused.append((len(calls), count, filters))
            shape = (side, filters)
        elif kind == "again":
            fitting = [each for each in reused if each[1] == count]
            if not fitting:
                continue
            call, _, filters = draw(st.sampled_from(fitting))
            arguments, shape = {"call": call}, (side, filters)
        elif kind == "half":
            if side == 1:
                continue
            kind, arguments = draw(st.sampled_from(["AveragePooling2D", "MaxPooling2D"])), {"pool_size": 2}
            shape = (side // 2, count)
        elif kind == "gate":
            kind, arguments, shape = "GlobalAveragePooling2D", {"keepdims": True}, (1, count)
        elif kind == "augmentation":
            if at >= len(inputs):  # neighbours would be one pass over the pixels, and in Keras two
                continue
            kind = draw(st.sampled_from(sorted(AUGMENTATION)))
            arguments = AUGMENTATION[kind]
        elif kind == "same":
            kind = draw(st.sampled_from(sorted(SAME)))
            arguments = SAME[kind]
        calls.append((kind, arguments, reads))
        shapes.append(shape)
    outputs = [len(shapes) - 1]
    if draw(st.booleans()):
        outputs.append(draw(st.integers(0, len(shapes) - 1)))
    return inputs, calls, list(dict.fromkeys(outputs))


def _partners(draw, kind, shapes, at):
    """What else goes into a join: values of the same shape, or of one that is repeated."""
    side, count = shapes[at]

    def fits(shape):
        if kind == "Concatenate":
            return shape[0] == side
        return (shape[0] in (1, side) or side == 1) and (shape[1] in (1, count) or count == 1)

    first = draw(st.sampled_from([i for i, shape in enumerate(shapes) if fits(shape)]))
    more = [i for i, shape in enumerate(shapes) if shape in ((side, count), (1, 1))] if kind != "Concatenate" else []
    other = draw(st.sampled_from(more)) if more and kind != "Subtract" and draw(st.booleans()) else None
    return [first] if other is None else [first, other]


def layer_of(library, number, kind, arguments):
    """The layer of a call."""
    kinds, name = library.layers, f"layer_{number}"
    if kind == "stack":
        return library.Sequential([kinds.Conv2D(**arguments, kernel_size=1), kinds.Activation("tanh")], name=name)
    return getattr(kinds, kind)(**arguments, name=name)


@functools.cache
def knows_training(kind):
    """Whether what such a layer computes is another in training."""
    return "training" in inspect.signature(kind.call).parameters


def plain(layer, x, training=None):
    """Call a layer of Keras; one that is built without the care that Keras takes of its arguments, which takes most of
    the time."""
    if training is None:
        return layer(x)
    options = {"training": training} if knows_training(type(layer)) else {}
    return (layer.call if layer.built else layer)(x, **options)


def call(library, made, calls, values, **options):
    """Call the layers on these values; those that have not been ``made`` are made first. Returns all values."""
    values = list(values)
    for number, (kind, arguments, reads) in enumerate(calls):
        given_ = [values[read] for read in reads]
        if kind == "operators":
            values.append(0.5 * given_[0] - 0.25)
            continue
        if kind == "again":
            made[number] = made[arguments["call"]]
        elif number not in made:
            made[number] = layer_of(library, number, kind, arguments)
        values.append(plain(made[number], given_ if kind in JOINS else given_[0], **options))
    return values


def heads(library, made, outputs, values, **options):
    """What the network computes in the end: two numbers of each output."""
    found = []
    for i, at in enumerate(outputs):
        if ("top", i) not in made:
            made["pool", i] = library.layers.GlobalAveragePooling2D(name=f"pool_{i}")
            made["top", i] = library.layers.Dense(2, name=f"top_{i}")
        found.append(plain(made["top", i], plain(made["pool", i], values[at], **options), **options))
    return found


def model_of(library, drawing):
    """The network as a model."""
    inputs, calls, outputs = drawing
    sources = [library.Input((4, 4, channels), name=f"input_{i}") for i, channels in enumerate(inputs)]
    made = {}
    tops = heads(library, made, outputs, call(library, made, calls, sources))
    needed = [sources[i] for i in needed_inputs(drawing)]
    return library.Model(needed if len(needed) > 1 else needed[0], tops if len(tops) > 1 else tops[0])


def needed_inputs(drawing):
    """The inputs that the outputs depend on."""
    inputs, calls, outputs = drawing
    found, waiting = set(), list(outputs)
    while waiting:
        value = waiting.pop()
        found.add(value)
        if value >= len(inputs):
            waiting += [read for read in calls[value - len(inputs)][2] if read not in found]
    return [i for i in range(len(inputs)) if i in found]


def check(drawing, number, backend, rate=0.05):
    """Outputs at inference, gradients, and the weights after three steps of gradient descent."""
    inputs, calls, outputs = drawing
    rng = np.random.default_rng(number)
    xs = [rng.standard_normal((3, 4, 4, channels)).astype(np.float32) for channels in inputs]
    ys = [rng.standard_normal((3, 2)).astype(np.float32) for _ in outputs]
    weights = [1.0, 0.5][: len(outputs)]
    made, tensors = {}, [tf.constant(x) for x in xs]

    def theirs(training):
        values = call(keras, made, calls, tensors, training=training)
        return heads(keras, made, outputs, values, training=training)

    expected = theirs(False)
    ours = model_of(tinyconv, drawing)
    layers = {layer.name: layer for layer in made.values() if layer.name in ours._named and layer.weights}
    for name, layer in layers.items():
        ours.get_layer(name).set_weights(layer.get_weights())
    given_ = [xs[i] for i in needed_inputs(drawing)]
    x, y = (each if len(each) > 1 else each[0] for each in (given_, ys))
    ours.compile(tinyconv.optimizers.SGD(rate), ["mse"] * len(ys), loss_weights=weights, backend=backend)
    for found, wanted in zip(listed(ours.predict(x)), expected, strict=True):
        close(found, wanted.numpy(), 1e-5)
    gradients = ours.gradients(x, y)
    if backend == "reference":
        for name, weight in ours.trace(x, y).weights.items():
            close(weight.gradient if name in gradients else weight.value, gradients.get(name, weight.value), 1e-4)
    for step in range(3):
        with tf.GradientTape() as tape:
            loss = sum(w * tf.reduce_mean((out - y) ** 2) for w, out, y in zip(weights, theirs(True), ys, strict=True))
        variables = {name: layer.trainable_variables for name, layer in layers.items()}
        wanted = tape.gradient(loss, variables)
        for name, each in wanted.items() if step == 0 else ():
            found = [gradient for key, gradient in gradients.items() if key.startswith(f"{name}/")]
            for gradient, their_gradient in zip(found, each, strict=True):
                close(gradient, their_gradient.numpy(), 1e-4)
        for name, each in wanted.items():
            for variable, gradient in zip(variables[name], each, strict=True):
                variable.assign_sub(rate * gradient)
        ours.train_on_batch(x, y)
    for name, layer in layers.items():
        for found, wanted in zip(ours.get_layer(name).get_weights(), layer.get_weights(), strict=True):
            close(found, wanted, 1e-4)


def check_many(count, backend, chunk):
    keras.utils.set_random_seed(chunk)

    @seed(chunk)
    @examples(count, promised=True)
    @given(drawings(), seeds)
    def draw(drawing, number):
        check(drawing, number, backend)

    draw()


@pytest.mark.parametrize("chunk", few(range(10), 2))
def test_drawn_graphs_compute_and_learn_as_in_keras(chunk):
    check_many(50, "reference", chunk)


def test_drawn_graphs_on_the_cpu_kernels():
    check_many(8, "cpu", 100)


@examples(8)
@given(drawings(), seeds)
def test_drawn_models_have_the_weights_of_keras_in_its_order(drawing, number):
    assume(all(kind != "operators" for kind, _, _ in drawing[1]))  # which are no layers in Keras
    theirs, ours = model_of(keras, drawing), model_of(tinyconv, drawing)
    assert [layer.name for layer in ours.layers] == [layer.name for layer in theirs.layers]
    ours.set_weights(theirs.get_weights())
    rng = np.random.default_rng(number)
    xs = [rng.standard_normal((3, *tensor.shape[1:])).astype(np.float32) for tensor in theirs.inputs]
    expected = listed(theirs([tf.constant(x) for x in xs] if len(xs) > 1 else tf.constant(xs[0]), training=False))
    for found, wanted in zip(listed(ours.predict(xs if len(xs) > 1 else xs[0])), expected, strict=True):
        close(found, wanted.numpy(), 1e-5)
