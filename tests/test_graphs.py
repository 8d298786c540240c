"""Graphs of layers against Keras: well-known networks, their files and copies, and mistakes."""

import copy
import pickle
import threading

import numpy as np
import pytest

import tinyconv
from tests.peer import close, keras, listed
from tests.strategies import few
from tinyconv import Input, Model, Sequential, layers
from tinyconv.commands.predict import meaning
from tinyconv.plan.locks import ModelLock, join


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


def squeeze(library):
    """Channels weighed by what the image shows, and values of several shapes joined."""
    kinds = library.layers
    image = library.Input((8, 8, 3))
    x = kinds.Conv2D(4, 3, padding="same", activation="relu")(image)
    gate = kinds.Dense(4, activation="sigmoid")(kinds.GlobalAveragePooling2D(keepdims=True)(x))
    x = kinds.Multiply()([x, gate])
    x = kinds.Subtract()([x, kinds.GlobalMaxPooling2D()(x)])
    rows, columns = kinds.Conv2D(4, (1, 8))(x), kinds.Conv2D(1, (8, 1))(x)
    x = kinds.Minimum()([kinds.Maximum()([x, kinds.Average()([rows, columns])]), 2.0 * x])
    return library.Model(image, kinds.Dense(3, activation="softmax")(kinds.Flatten()(x)))


def siamese(library):
    kinds = library.layers
    left, right = library.Input((8, 8, 3)), library.Input((8, 8, 3))
    encoder = library.Sequential([kinds.Conv2D(4, 3, activation="relu"), kinds.Flatten(), kinds.Dense(5)])
    joined = kinds.Multiply()([encoder(left), encoder(right)])
    return library.Model([left, right], kinds.Dense(3, activation="softmax")(joined))


@pytest.mark.parametrize("network", few([siamese, residual, inception, squeeze], 2))
@pytest.mark.parametrize("backend", few(["cpu", "reference"]))
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


@pytest.mark.parametrize("network", few([inception, residual, siamese, squeeze], 2))
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


@pytest.mark.parametrize("network", [residual, inception, siamese, squeeze])
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
