"""Graphs of layers against Keras: outputs, gradients and steps of drawn and of well-known networks."""

import copy
import pickle
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from peer import keras, tf
from strategies import examples, seeds

import tinyconv
from tinyconv import Input, Model, Sequential, layers
from tinyconv.__main__ import meaning
from tinyconv.plan.locks import ModelLock, join

JOINS = ("Add", "Multiply", "Maximum", "Average", "Concatenate")


@st.composite
def drawings(draw):
    """A network as data: the shapes of its inputs, its calls (what, on which values), and its outputs.

    Values are images of one size and a few channels, or pooled ones of half of it; so most of them can be joined.
    """
    channels = st.integers(1, 3)
    inputs = [draw(channels) for _ in range(draw(st.integers(1, 2)))]
    shapes = [(4, number) for number in inputs]  # side and channels of each value
    calls, convolutions = [], []
    for _ in range(draw(st.integers(1, 8))):
        kind = draw(st.sampled_from(["Conv2D", "again", "BatchNormalization", "tanh", "MaxPooling2D", "stack", "join"]))
        at = draw(st.integers(max(0, len(shapes) - 4), len(shapes) - 1))
        side, count = shapes[at]
        if kind == "join":
            how = draw(st.sampled_from(JOINS))
            fits = [
                i for i, shape in enumerate(shapes) if shape[0] == side and (how == "Concatenate" or shape[1] == count)
            ]
            others = draw(st.lists(st.sampled_from(fits), min_size=1, max_size=2))
            reads = [at, *others]
            shapes.append((side, sum(shapes[i][1] for i in reads) if how == "Concatenate" else count))
            calls.append((how, {}, reads))
        elif kind in ("Conv2D", "stack"):
            filters = draw(channels)
            arguments = {"filters": filters, "kernel_size": draw(st.integers(1, 3)), "padding": "same"}
            if kind == "Conv2D":
                convolutions.append((len(calls), count, filters))
            calls.append((kind, {**arguments, "activation": draw(st.sampled_from(["relu", "tanh", None]))}, [at]))
            shapes.append((side, filters))
        elif kind == "again":
            fitting = [each for each in convolutions if each[1] == count]
            if fitting:
                call, _, filters = draw(st.sampled_from(fitting))
                calls.append(("again", {"call": call}, [at]))
                shapes.append((side, filters))
        elif kind == "MaxPooling2D" and side < 2:
            continue
        else:
            calls.append((kind, {}, [at]))
            shapes.append((side // 2 if kind == "MaxPooling2D" else side, count))
    outputs = [len(shapes) - 1]
    if draw(st.booleans()):
        outputs.append(draw(st.integers(0, len(shapes) - 1)))
    return inputs, calls, list(dict.fromkeys(outputs))


def build(library, drawing):
    """The drawing as a model of tinyconv or of Keras."""
    inputs, calls, outputs = drawing
    kinds = library.layers
    values = sources = [library.Input((4, 4, channels), name=f"input_{i}") for i, channels in enumerate(inputs)]
    values, made = list(values), {}
    for number, (kind, arguments, reads) in enumerate(calls):
        name = f"layer_{number}"
        if kind == "again":
            layer = made[arguments["call"]]
        elif kind == "stack":
            layer = library.Sequential([kinds.Conv2D(**arguments), kinds.Activation("tanh")], name=name)
        elif kind == "tanh":
            layer = kinds.Activation("tanh", name=name)
        else:
            layer = getattr(kinds, kind)(**arguments, name=name)
        made[number] = layer
        given_ = [values[read] for read in reads]
        values.append(layer(given_ if kind in JOINS else given_[0]))
    tops = [kinds.Dense(2, name=f"top_{i}")(kinds.GlobalAveragePooling2D()(values[at])) for i, at in enumerate(outputs)]
    needed = [source for i, source in enumerate(sources) if i in reachable(calls, len(inputs), outputs)]
    return library.Model(needed if len(needed) > 1 else needed[0], tops if len(tops) > 1 else tops[0])


def reachable(calls, inputs, outputs):
    """The values that the outputs depend on."""
    found, waiting = set(), list(outputs)
    while waiting:
        value = waiting.pop()
        found.add(value)
        if value >= inputs:
            waiting += [read for read in calls[value - inputs][2] if read not in found]
    return found


def listed(x):
    return list(x) if isinstance(x, list | tuple) else [x]


def steps_of_keras(model, xs, ys, weights, rate):
    """Gradients of the first step, and the weights after three of gradient descent."""
    first = None
    for _ in range(3):
        with tf.GradientTape() as tape:
            outs = listed(model([tf.constant(x) for x in xs] if len(xs) > 1 else tf.constant(xs[0]), training=True))
            loss = sum(w * tf.reduce_mean((out - y) ** 2) for w, out, y in zip(weights, outs, ys, strict=True))
        variables = model.trainable_variables
        gradients = tape.gradient(loss, variables)
        first = first or [np.array(each) for each in gradients]
        for variable, gradient in zip(variables, gradients, strict=True):
            variable.assign_sub(rate * gradient)
    return first, model.get_weights()


def check(drawing, seed, backend, rate=0.05):
    theirs, ours = build(keras, drawing), build(tinyconv, drawing)
    rng = np.random.default_rng(seed)
    initial = [0.5 * rng.standard_normal(w.shape).astype(np.float32) for w in theirs.get_weights()]
    initial = [np.abs(w) + 0.1 if "variance" in v.path else w for w, v in zip(initial, theirs.weights, strict=True)]
    theirs.set_weights(initial)
    ours.set_weights(initial)
    xs = [rng.standard_normal((5, *tensor.shape[1:])).astype(np.float32) for tensor in theirs.inputs]
    x = xs if len(xs) > 1 else xs[0]
    ys = [rng.standard_normal((5, 2)).astype(np.float32) for _ in theirs.outputs]
    expected = listed(theirs([tf.constant(each) for each in xs] if len(xs) > 1 else tf.constant(xs[0])))
    for found, wanted in zip(listed(ours.predict(x)), expected, strict=True):
        close(found, np.array(wanted), 1e-5)
    weights = [1.0, 0.5][: len(ys)]
    ours.compile(tinyconv.optimizers.SGD(rate), ["mse"] * len(ys), loss_weights=weights, backend=backend)
    y = ys if len(ys) > 1 else ys[0]
    gradients = list(ours.gradients(x, y).values())
    wanted, after = steps_of_keras(theirs, xs, ys, weights, rate)
    for found, gradient in zip(gradients, wanted, strict=True):
        close(found, gradient, 1e-4)
    for _ in range(3):
        ours.train_on_batch(x, y)
    for found, weight in zip(ours.get_weights(), after, strict=True):
        close(found, weight, 1e-4)


def close(found, wanted, tolerance):
    assert found.shape == wanted.shape
    scale = max(1.0, float(np.abs(wanted).max(initial=0)))
    assert float(np.abs(found - wanted).max(initial=0)) <= tolerance * scale


@examples(60)
@given(drawings(), seeds)
def test_drawn_graphs_compute_and_learn_as_in_keras(drawing, seed):
    check(drawing, seed, "reference")


@examples(8)
@given(drawings(), seeds)
def test_drawn_graphs_on_the_cpu_kernels(drawing, seed):
    check(drawing, seed, "cpu")


def residual(library):
    kinds = library.layers
    x = source = library.Input((8, 8, 3))
    for filters in (4, 6):
        y = kinds.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        y = kinds.Activation("relu")(kinds.BatchNormalization()(y))
        y = kinds.BatchNormalization()(kinds.Conv2D(filters, 3, padding="same", use_bias=False)(y))
        x = kinds.Activation("relu")(kinds.Add()([y, kinds.Conv2D(filters, 1)(x)]))
    return library.Model(source, kinds.Dense(3, activation="softmax")(kinds.GlobalAveragePooling2D()(x)))


def inception(library):
    kinds = library.layers
    source = library.Input((8, 8, 3))
    towers = [
        kinds.Conv2D(2, 1, activation="relu")(source),
        kinds.Conv2D(3, 3, padding="same", activation="relu")(kinds.Conv2D(2, 1)(source)),
        kinds.Conv2D(2, 1)(kinds.MaxPooling2D(3, strides=1, padding="same")(source)),
    ]
    x = kinds.Flatten()(kinds.Concatenate()(towers))
    return library.Model(source, kinds.Dense(3, activation="softmax")(x))


def siamese(library):
    kinds = library.layers
    left, right = library.Input((8, 8, 3)), library.Input((8, 8, 3))
    encoder = library.Sequential([kinds.Conv2D(4, 3, activation="relu"), kinds.Flatten(), kinds.Dense(5)])
    joined = kinds.Multiply()([encoder(left), encoder(right)])
    return library.Model([left, right], kinds.Dense(3, activation="softmax")(joined))


@pytest.mark.parametrize("network", [residual, inception, siamese])
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_well_known_networks_train_as_in_keras(network, backend):
    theirs, ours = network(keras), network(tinyconv)
    ours.set_weights(theirs.get_weights())
    rng = np.random.default_rng(3)
    xs = [rng.random((12, 8, 8, 3), np.float32) for _ in listed(ours.inputs)]
    x, y = xs if len(xs) > 1 else xs[0], rng.integers(0, 3, 12)
    settings = {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]}
    theirs.compile(keras.optimizers.SGD(0.1), **settings)
    ours.compile(tinyconv.optimizers.SGD(0.1), **settings, backend=backend)
    run = {"batch_size": 4, "epochs": 2, "shuffle": False, "verbose": 0, "validation_data": (x, y)}
    history, found = theirs.fit(x, y, **run).history, ours.fit(x, y, **run).history
    assert found.keys() == history.keys()
    for name, values in history.items():
        np.testing.assert_allclose(found[name], values, atol=2e-4, err_msg=name)


@pytest.mark.parametrize("network", [residual, inception, siamese])
def test_graphs_go_to_keras_and_come_back(network, tmp_path):
    ours = network(tinyconv)
    rng = np.random.default_rng(4)
    x = [rng.random((3, 8, 8, 3), np.float32) for _ in ours.inputs]
    x = x if len(x) > 1 else x[0]
    wanted = ours.predict(x)
    ours.save(tmp_path / "ours.keras")
    theirs = keras.saving.load_model(tmp_path / "ours.keras")
    close(theirs.predict(x, verbose=0), wanted, 1e-5)
    theirs.save(tmp_path / "theirs.keras")
    again = tinyconv.saving.load_model(tmp_path / "theirs.keras", backend="reference")
    np.testing.assert_array_equal(again.predict(x), wanted)
    assert [layer.name for layer in again.layers] == [layer.name for layer in theirs.layers]
    for name in ("w.weights.h5", "w.safetensors"):
        ours.save_weights(tmp_path / name)
        other = network(tinyconv)
        other.load_weights(tmp_path / name)
        np.testing.assert_array_equal(other.predict(x), wanted)
    theirs.save_weights(tmp_path / "keras.weights.h5")
    other.load_weights(tmp_path / "keras.weights.h5")


@pytest.mark.parametrize("network", [residual, inception, siamese])
def test_graphs_compute_the_same_in_onnx_runtime(network, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    model = network(tinyconv)
    rng = np.random.default_rng(9)
    x = [rng.random((3, 8, 8, 3), np.float32) for _ in model.inputs]
    tinyconv.export.to_onnx(model, tmp_path / "m.onnx")
    session = runtime.InferenceSession(tmp_path / "m.onnx")
    names = model.input_names if len(x) > 1 else ["input"]
    (found,) = session.run(None, dict(zip(names, x, strict=True)))
    close(found, model.predict(x if len(x) > 1 else x[0]), 1e-5)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_of_graphs_are_whole_and_apart(copied):
    model = siamese(tinyconv)
    rng = np.random.default_rng(5)
    x, y = [rng.random((4, 8, 8, 3), np.float32) for _ in range(2)], rng.integers(0, 3, 4)
    model.compile("adam", "sparse_categorical_crossentropy", backend="reference")
    model.train_on_batch(x, y)
    other = copied(model)
    before = model.predict(x)
    np.testing.assert_array_equal(other.predict(x), before)
    assert other.train_on_batch(x, y) == model.train_on_batch(x, y)
    np.testing.assert_array_equal(other.predict(x), model.predict(x))
    other.set_weights([np.zeros_like(w) for w in other.get_weights()])
    assert np.abs(model.predict(x) - before).max() > 0
    part = Model(other.input, other.layers[-1].output)
    np.testing.assert_array_equal(part.predict(x), other.predict(x))


def test_models_share_the_weights_of_the_layers_that_they_share():
    image = Input((8, 8, 1))
    features = layers.Flatten()(layers.Conv2D(2, 3, activation="relu", name="shared")(image))
    left, right = (Model(image, layers.Dense(1, name=name)(features)) for name in ("left", "right"))
    x, y = np.random.default_rng(6).random((8, 8, 8, 1), np.float32), np.ones((8, 1), np.float32)
    for model in (left, right):
        model.compile("sgd", "mse", backend="reference")
    for trained, other in ((left, right), (right, left), (left, right)):
        before = other.get_weights()[0].copy()
        trained.fit(x, y, epochs=2, verbose=0)
        assert np.abs(trained.get_layer("shared").get_weights()[0] - before).max() > 0
        np.testing.assert_array_equal(other.get_weights()[0], trained.get_weights()[0])
        assert np.isfinite(other.evaluate(x, y, verbose=0))
    left.get_layer("shared").set_weights([np.zeros((3, 3, 1, 2)), np.zeros(2)])
    assert not right.get_weights()[0].any()
    np.testing.assert_array_equal(right.predict(x), np.broadcast_to(right.get_weights()[-1], (8, 1)))


def test_a_part_of_a_model_is_a_model():
    model = residual(tinyconv)
    inner = model.get_layer("activation_1").output
    features = Model(model.input, inner)
    x = np.random.default_rng(7).random((2, 8, 8, 3), np.float32)
    assert features.predict(x).shape == (2, *inner.shape[1:])
    rest = Model(inner, model.output)
    np.testing.assert_allclose(rest.predict(features.predict(x)), model.predict(x), atol=1e-6)


def test_a_part_may_use_the_layer_before_its_beginning_again():
    vector = Input((3,))
    shared = layers.Dense(3, name="shared")
    middle = shared(vector)
    part = Model(middle, layers.Add()([shared(middle), middle]))
    x = np.random.default_rng(8).random((2, 3), np.float32)
    np.testing.assert_allclose(part.predict(x), shared(x) + x, atol=1e-6)
    assert [path for path, _ in part._leaves] == ["shared", "add"]


def test_layer_outputs_follow_the_graph():
    """Each layer's output is what a model that ends there computes, whatever the order of the layers."""
    model = residual(tinyconv)
    x = np.random.default_rng(10).random((2, 8, 8, 3), np.float32)
    outputs = tinyconv.explain.layer_outputs(model, x)
    assert list(outputs) == [use.path for use in model._uses]
    for name, output in outputs.items():
        np.testing.assert_allclose(output, Model(model.input, model.get_layer(name).output).predict(x), atol=1e-6)
    twins = siamese(tinyconv)
    pair = [x, x[::-1].copy()]
    outputs = tinyconv.explain.layer_outputs(twins, pair)
    np.testing.assert_allclose(outputs["dense"], twins.predict(pair), atol=1e-6)
    assert "sequential/conv2d" in outputs


def test_pictures_of_several_inputs_are_refused():
    with pytest.raises(ValueError, match="with 2 inputs and 1 outputs"):
        tinyconv.explain.input_gradient(siamese(tinyconv), np.ones((1, 8, 8, 3)), [0])
    with pytest.raises(ValueError, match="with 2 inputs and 1 outputs"):
        tinyconv.plots.feature_maps(siamese(tinyconv), np.ones((8, 8, 3)))


@pytest.mark.parametrize("end", [lambda x: layers.Softmax()(x), lambda x: Sequential([layers.Softmax()])(x)])
def test_the_command_line_sees_how_a_graph_ends(end):
    """A softmax that is a layer, or in a model within, is not applied again."""
    vector = Input((4,))
    assert meaning(Model(vector, end(layers.Dense(3)(vector)))) == ("classes", None)


@pytest.mark.parametrize("held", [0, 1])
def test_a_lock_that_is_held_can_be_joined(held):
    """Whichever of the two stands for both: ``add`` joins the lock that it holds."""
    pair = sorted((ModelLock(), ModelLock()), key=id)
    with pair[held], pair[held]:
        join(pair)
        assert not acquired_elsewhere(pair[0])
    for lock in pair:
        assert acquired_elsewhere(lock)
        with lock:
            assert not acquired_elsewhere(pair[0])
    assert pair[0].root is pair[1].root


def acquired_elsewhere(lock):
    """Whether another thread gets the lock; it gives it back."""

    def try_it():
        got.append(lock.acquire(timeout=0.2))
        if got[0]:
            lock.release()

    got = []
    thread = threading.Thread(target=try_it)
    thread.start()
    thread.join()
    return got[0]


def test_freezing_a_model_within_freezes_its_layers():
    base = Sequential([Input((4,)), layers.Dense(3), layers.BatchNormalization()], name="base")
    base.trainable = False
    vector = Input((4,))
    model = Model(vector, layers.Dense(1)(base(vector)))
    model.compile("adam", "mse", backend="reference")
    before = base.get_weights()
    model.fit(np.ones((4, 4)), np.ones((4, 1)), verbose=0)
    assert len(model.trainable_weights) == 2
    for now, then in zip(base.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
    assert [path for path, _ in model._leaves] == ["base/dense", "base/batch_normalization", "dense"]


WRONG = {
    "another input": (
        lambda a, b: Model(a, layers.Add()([layers.Dense(2)(a), layers.Dense(2)(b)])),
        "depend on the input 'b', which is not among its inputs",
    ),
    "no tensors": (lambda a, b: Model(3, 4), "Invalid inputs of Model. Expected a tensor"),
    "nothing": (lambda a, b: Model(), "Models by subclassing are not supported"),
    "one twice": (lambda a, b: Model([a, a], layers.Dense(2)(a)), "has the same input twice"),
    "other shapes": (lambda a, b: layers.Add()([a, layers.Dense(2)(b)]), r"samples of shapes \(4,\), \(2,\)"),
    "one of them": (lambda a, b: layers.Add()(a), r"at least two tensors. Received: 1. Fix: Add\(\)\(\[a, b\]\)"),
    "two for one": (lambda a, b: layers.Dense(2)([a, b]), "takes one input. Received: 2 tensors"),
    "numbers": (lambda a, b: layers.Add()([a, np.ones(4)]), "Tensors and numbers cannot be mixed"),
    "the batch's axis": (
        lambda a, b: layers.Concatenate(axis=0),
        "invalid axis. Expected an axis of a sample",
    ),
    "no such axis": (lambda a, b: layers.Concatenate(axis=3)([a, b]), r"an axis of samples of shape \(4,\)"),
    "names": (
        lambda a, b: Model(a, layers.Dense(2, name="x")(layers.Dense(3, name="x")(a))),
        "has a layer called 'x' already",
    ),
    "too few losses": (
        lambda a, b: Model(a, [a, layers.Dense(2)(a)]).compile(loss=["mse"]),
        "Invalid loss. Expected one entry for each of 'a', 'dense'",
    ),
    "an unknown output": (
        lambda a, b: Model(a, [layers.Dense(1)(a), layers.Dense(2)(a)]).compile(loss={"densee": "mse"}),
        "Unknown name in loss. Expected some of 'dense', 'dense_1'",
    ),
    "no numbers": (lambda a, b: np.asarray(layers.Dense(2)(a)), "has no numbers: it is a value that a model"),
}


@pytest.mark.parametrize("name", WRONG)
def test_mistakes_are_named(name):
    make, message = WRONG[name]
    with pytest.raises((ValueError, TypeError), match=message):
        make(Input((4,), name="a"), Input((4,), name="b"))


def test_inputs_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="differ in length"):
        siamese(tinyconv).predict([np.ones((3, 8, 8, 3)), np.ones((2, 8, 8, 3))])
