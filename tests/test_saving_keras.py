"""Files exchanged with real Keras, in both directions."""

import re
import warnings

import h5py
import numpy as np
import pytest

import tinyconv
from tests.peer import keras
from tests.strategies import few
from tinyconv.saving import load_model

KINDS = ["everything", "plain", "more"]
OPTIMIZERS = ["adam", "adamw", "sgd", "momentum", "scheduled", "rmsprop", "centered"]
EACH_ONCE = [*(("everything", optimizer) for optimizer in OPTIMIZERS), ("plain", "adam"), ("more", "adam")]
SEED = 3


def build(library, kind, optimizer="adam"):
    """The same model in Keras or in tinyconv."""
    layers = library.layers
    library.utils.set_random_seed(SEED)
    if kind == "plain":
        stack = [
            layers.Conv2D(4, 3, activation="relu"),
            layers.MaxPooling2D((2, 2)),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(3, activation="softmax"),
        ]
    elif kind == "more":
        stack = [
            layers.Rescaling(0.5, offset=-0.1),
            layers.ZeroPadding2D(((1, 0), (0, 2))),
            layers.DepthwiseConv2D(2, depth_multiplier=2, activation="relu6", depthwise_initializer="he_uniform"),
            layers.SeparableConv2D(
                5,
                3,
                padding="same",
                activation=library.activations.silu,
                depthwise_regularizer=library.regularizers.L1(0.02),
                pointwise_regularizer=library.regularizers.L1L2(0.01, 0.02),
            ),
            layers.LayerNormalization(),
            layers.Activation("gelu"),
            layers.Conv2DTranspose(3, 3, strides=2, padding="same", activation="selu", kernel_initializer="orthogonal"),
            layers.ReLU(max_value=2.0, negative_slope=0.1),
            layers.MaxPooling2D(3),
            layers.UpSampling2D((1, 2)),
            layers.LayerNormalization(axis=[1, 2, 3], epsilon=0.01, center=False),
            layers.Reshape((-1, 6)),
            layers.Dense(4, activation="softplus"),
            layers.Reshape((4, -1, 2)),
            layers.GlobalMaxPooling2D(),
            layers.Dense(3),
            layers.Softmax(),
        ]
    else:
        stack = [
            layers.Conv2D(4, 3, padding="same", kernel_regularizer=library.regularizers.L2(0.02)),
            layers.BatchNormalization(momentum=0.9, epsilon=0.01),
            layers.LeakyReLU(negative_slope=0.1),
            layers.AveragePooling2D((2, 2), padding="same"),
            layers.Conv2D(5, (2, 1), strides=(1, 2), use_bias=False, kernel_initializer="he_normal"),
            layers.BatchNormalization(scale=False),
            layers.ELU(alpha=0.5),
            layers.Conv2D(2, 2, dilation_rate=(1, 2), padding="same", activation="leaky_relu"),
            layers.Activation("tanh"),
            layers.MaxPooling2D((1, 2), strides=1),
            layers.Dense(3, activation="sigmoid", name="on_pixels"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4, kernel_initializer=library.initializers.RandomNormal(stddev=0.3)),
            layers.Dropout(0.25, seed=7),
            layers.Dense(3, activation="softmax"),
        ]
    model = library.Sequential([library.Input((7, 8, 2)), *stack], name="exchanged")
    made = library.optimizers
    chosen = {
        "adam": lambda: made.Adam(0.01, beta_1=0.8),
        "adamw": lambda: made.AdamW(0.01, weight_decay=0.1),
        "sgd": lambda: made.SGD(0.1),
        "momentum": lambda: made.SGD(0.1, momentum=0.9, nesterov=True),
        "rmsprop": lambda: made.RMSprop(0.01, clipnorm=1.0),
        "centered": lambda: made.RMSprop(
            made.schedules.PolynomialDecay(0.01, 20), momentum=0.5, centered=True, weight_decay=0.1, global_clipnorm=2.0
        ),
        "scheduled": lambda: made.Adam(
            made.schedules.CosineDecay(0.02, 20, warmup_target=0.03, warmup_steps=2), epsilon=1e-6
        ),
    }[optimizer]()
    top = library.metrics.TopKCategoricalAccuracy(k=2)
    model.compile(
        optimizer=chosen,
        loss="categorical_crossentropy",
        metrics=["accuracy", top],
    )
    return model


@pytest.fixture(autouse=True)
def _reference(monkeypatch):
    monkeypatch.setenv("TINYCONV_BACKEND", "reference")


def data():
    rng = np.random.default_rng(0)
    return rng.random((24, 7, 8, 2), np.float32), np.eye(3, dtype=np.float32)[rng.integers(0, 3, 24)]


def fit(model, epochs=1):
    """Without shuffling; dropout draws differ between the libraries, so a test of continued training has none."""
    x, y = data()
    model.fit(x, y, batch_size=8, epochs=epochs, shuffle=False, verbose=0)


def difference(model, other):
    x, _ = data()
    return np.abs(np.asarray(model(x)) - np.asarray(other(x))).max()


@pytest.mark.parametrize("kind", few(KINDS))
def test_keras_weights_load_here_and_ours_in_keras(tmp_path, kind, record_property):
    theirs, ours = build(keras, kind), build(tinyconv, kind)
    fit(theirs)
    theirs.save_weights(tmp_path / "theirs.weights.h5")
    ours.load_weights(tmp_path / "theirs.weights.h5")
    there = difference(theirs, ours)
    assert there < 1e-6
    fit(ours)
    ours.save_weights(tmp_path / "ours.weights.h5")
    theirs.load_weights(tmp_path / "ours.weights.h5")
    back = difference(theirs, ours)
    assert back < 1e-6
    record_property("largest difference", max(there, back))


@pytest.mark.parametrize(("kind", "optimizer"), few(EACH_ONCE))
def test_whole_models_load_in_both_directions(tmp_path, kind, optimizer):
    theirs = build(keras, kind, optimizer)
    fit(theirs)
    theirs.save(tmp_path / "theirs.keras")
    ours = load_model(tmp_path / "theirs.keras")
    assert difference(theirs, ours) < 1e-6
    assert ours.name == theirs.name
    assert [layer.name for layer in ours.layers] == [layer.name for layer in theirs.layers]
    ours.save(tmp_path / "ours.keras")
    again = keras.models.load_model(tmp_path / "ours.keras")
    assert difference(again, ours) < 1e-6
    for one, other in zip(again.layers, theirs.layers, strict=True):
        assert type(one) is type(other)
        assert one.get_config() == other.get_config()
    assert {**again.optimizer.get_config(), "name": ""} == {**theirs.optimizer.get_config(), "name": ""}
    for one, other in zip(again.optimizer.variables, theirs.optimizer.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


@pytest.mark.parametrize("optimizer", few(OPTIMIZERS, 2))
def test_training_goes_on_in_the_other_library_as_it_would_have(tmp_path, optimizer, record_property):
    """Three steps here, three there, and back: the moments, the step count and the learning rate arrive."""
    theirs = without_dropout(keras, optimizer)
    fit(theirs)
    theirs.save(tmp_path / "theirs.keras")
    ours = load_model(tmp_path / "theirs.keras")
    fit(theirs)
    fit(ours)
    worst = weight_difference(theirs, ours)
    ours.save(tmp_path / "ours.keras")
    again = keras.models.load_model(tmp_path / "ours.keras")
    assert int(again.optimizer.iterations) == 6
    fit(again)
    fit(theirs)
    worst = max(worst, weight_difference(theirs, again))
    record_property("largest difference of weights", worst)
    assert worst < 1e-5


def without_dropout(library, optimizer):
    model = build(library, "plain", optimizer)
    kept = [layer for layer in model.layers if "dropout" not in layer.name]
    library.utils.set_random_seed(SEED)
    plain = library.Sequential([library.Input((7, 8, 2)), *kept])
    plain.compile(model.optimizer, "categorical_crossentropy")
    return plain


def weight_difference(model, other):
    pairs = zip(model.get_weights(), other.get_weights(), strict=True)
    return max(np.abs(one - two).max() for one, two in pairs)


def test_a_keras_model_that_was_never_trained_has_no_moments_yet(tmp_path):
    theirs = build(keras, "plain")
    theirs.save(tmp_path / "m.keras")
    ours = load_model(tmp_path / "m.keras")
    assert ours.optimizer.iterations == 0
    assert ours.optimizer.beta_1 == 0.8
    fit(ours)


def test_our_weights_file_is_laid_out_as_keras_does(tmp_path):
    theirs, ours = build(keras, "everything"), build(tinyconv, "everything")
    fit(theirs)
    theirs.save_weights(tmp_path / "theirs.weights.h5")
    fit(ours)
    ours.save_weights(tmp_path / "ours.weights.h5")

    def layout(path):
        found = {}
        with h5py.File(path) as file:
            file.visititems(lambda name, item: found.update({name: getattr(item, "shape", dict(item.attrs))}))
        return found

    expected, found = layout(tmp_path / "theirs.weights.h5"), layout(tmp_path / "ours.weights.h5")
    names = {path: item for path, item in found.items() if isinstance(item, dict) and "name" in item}
    assert set(found) == set(expected)
    assert {path: found[path] for path in found if path not in names} == {
        path: expected[path] for path in expected if path not in names
    }


def test_a_model_keras_trained_with_what_tinyconv_has_not_is_refused_by_name(tmp_path):
    def refused(stack, message, optimizer="adam"):
        model = keras.Sequential([keras.Input((6, 6, 2)), *stack])
        model.compile(optimizer, "mse")
        model.save(tmp_path / "m.keras")
        with pytest.raises(ValueError, match=message):
            load_model(tmp_path / "m.keras")

    layers = keras.layers
    refused([layers.Cropping2D(1)], "'Cropping2D' of 'keras.layers' is not supported by tinyconv")
    refused([layers.Conv2D(4, 2, groups=2)], r"Conv2D\(groups=2\) is not supported by tinyconv")
    refused([layers.Conv2D(4, 2, activation="celu")], "unknown activation: 'celu'")
    refused(
        [layers.Conv2D(4, 2, kernel_regularizer="orthogonal_regularizer")],
        "'OrthogonalRegularizer' of 'keras.regularizers' is not supported",
    )
    refused([layers.Dense(4, kernel_constraint="non_neg")], "kernel_constraint.*is not supported")
    refused([layers.Dense(4, dtype="float16")], r"Dense\(dtype='float16'\) is not supported")
    refused([layers.Dense(4)], "optimizer: 'Lion' of 'keras.optimizers' is not supported", "lion")


@pytest.mark.parametrize("name", sorted(tinyconv.initializers.NAMES))
def test_every_initialiser_keeps_its_settings(tmp_path, name):
    ours = tinyconv.Sequential([tinyconv.Input((3,)), tinyconv.layers.Dense(2, kernel_initializer=name)])
    ours.save(tmp_path / "m.keras")
    theirs = keras.models.load_model(tmp_path / "m.keras")
    made = getattr(keras.initializers, type(tinyconv.initializers.get(name)).__name__)()
    expected = keras.layers.Dense(2, kernel_initializer=made).get_config()["kernel_initializer"]
    assert theirs.layers[0].get_config()["kernel_initializer"] == expected
    theirs.save(tmp_path / "m.keras")
    found = load_model(tmp_path / "m.keras").layers[0].kernel_initializer
    assert type(found) is type(tinyconv.initializers.get(name))
    assert found.get_config() == tinyconv.initializers.get(name).get_config()


@pytest.mark.parametrize("loss", sorted(tinyconv.losses.NAMES))
def test_every_loss_and_metric_arrives(tmp_path, loss):
    metrics = sorted(tinyconv.metrics.NAMES)
    ours = tinyconv.Sequential([tinyconv.Input((3,)), tinyconv.layers.Dense(2)])
    ours.compile("sgd", loss, metrics=metrics)
    ours.save(tmp_path / "m.keras")
    theirs = keras.models.load_model(tmp_path / "m.keras")
    assert theirs.loss.name == tinyconv.losses.get(loss).name
    theirs.save(tmp_path / "m.keras")
    found = load_model(tmp_path / "m.keras")
    assert found.loss.name == tinyconv.losses.get(loss).name
    found._need_trainer("a test", None)
    assert [metric.name for metric in found.metrics] == metrics


def test_a_schedule_that_keras_has_not_is_kept_for_tinyconv(tmp_path):
    ours = tinyconv.Sequential([tinyconv.Input((3,)), tinyconv.layers.Dense(2)])
    ours.compile(tinyconv.optimizers.Adam(tinyconv.optimizers.schedules.OneCycle(0.1, 30)), "mse")
    ours.save(tmp_path / "m.keras")
    found = load_model(tmp_path / "m.keras").optimizer
    assert [found.learning_rate_at(step) for step in range(30)] == [
        ours.optimizer.learning_rate_at(step) for step in range(30)
    ]
    x = np.ones((2, 3), np.float32)
    theirs = keras.models.load_model(tmp_path / "m.keras", compile=False)
    np.testing.assert_allclose(np.asarray(theirs(x)), ours(x), rtol=1e-6)


# Frozen layers, names, and arrays in the configuration


def frozen_net(library, frozen):
    kernel = library.initializers.Constant(np.linspace(-0.5, 0.5, 24).reshape(2, 2, 2, 3))
    model = library.Sequential(
        [
            library.Input((7, 8, 2)),
            library.layers.Conv2D(3, 2, kernel_initializer=kernel, use_bias=False, name="first"),
            library.layers.BatchNormalization(name="normalised"),
            library.layers.Flatten(name="flat"),
            library.layers.Dense(3, activation="softmax", name="last"),
        ],
        name="net",
    )
    for name in frozen:
        model.get_layer(name).trainable = False
    model.compile(
        optimizer=library.optimizers.Adam(0.01, name="mine"),
        loss=library.losses.CategoricalCrossentropy(name="distance"),
        metrics=[library.metrics.CategoricalAccuracy(name="hits")],
    )
    return model


FROZEN = [[], ["first"], ["normalised"], ["first", "normalised"], ["last"], ["first", "normalised", "last"]]


@pytest.mark.parametrize("frozen", few(FROZEN[3:] + FROZEN[:3]), ids=" ".join)
@pytest.mark.parametrize("libraries", [(keras, tinyconv), (tinyconv, keras)], ids=["keras", "tinyconv"])
def test_frozen_layers_are_frozen_in_the_other_library_too(tmp_path, libraries, frozen):
    library, other = libraries
    model = frozen_net(library, frozen)
    fit(model)
    model.save(tmp_path / "m.keras")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*Skipping variable loading")
        loaded = other.saving.load_model(tmp_path / "m.keras")
    assert [layer.trainable for layer in loaded.layers] == [layer.name not in frozen for layer in model.layers]
    assert (loaded.name, loaded.optimizer.name, loaded.loss.name) == ("net", "mine", "distance")
    before = loaded.get_weights()
    fit(model)
    fit(loaded)
    kept = {"first": [0], "normalised": [1, 2, 3, 4], "last": [5, 6]}
    for name, places in kept.items():
        for place in places:
            same = np.array_equal(before[place], loaded.get_weights()[place])
            assert same == (name in frozen), (name, place)
    for ours, theirs in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-6)


def test_a_frozen_model_is_loaded_as_keras_loads_it(tmp_path):
    model = frozen_net(keras, [])
    model.trainable = False
    model.save(tmp_path / "m.keras")
    ours, theirs = load_model(tmp_path / "m.keras"), keras.saving.load_model(tmp_path / "m.keras")
    assert ours.trainable == theirs.trainable
    assert [layer.trainable for layer in ours.layers] == [layer.trainable for layer in theirs.layers] == [False] * 4


def test_the_configurations_are_equal(tmp_path):
    frozen_net(keras, ["first"]).save(tmp_path / "theirs.keras")
    load_model(tmp_path / "theirs.keras").save(tmp_path / "ours.keras")
    again, theirs = (keras.saving.load_model(tmp_path / f"{name}.keras") for name in ("ours", "theirs"))
    for one, other in zip(again.layers[1:], theirs.layers[1:], strict=True):
        assert one.get_config() == other.get_config()
    np.testing.assert_array_equal(again.layers[0].kernel_initializer.value, theirs.layers[0].kernel_initializer.value)
    assert again.optimizer.get_config() == theirs.optimizer.get_config()
    assert again.loss.get_config() == theirs.loss.get_config()


def test_an_optimiser_that_has_trained_takes_the_state_of_keras(tmp_path):
    theirs, ours = frozen_net(keras, ["first"]), frozen_net(tinyconv, ["first"])
    fit(theirs)
    fit(ours)
    theirs.save_weights(tmp_path / "m.weights.h5")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours.load_weights(tmp_path / "m.weights.h5")
    moments = ours.optimizer_state()["momentum"]
    assert list(moments) == ["normalised/gamma", "normalised/beta", "last/kernel", "last/bias"]
    np.testing.assert_array_equal(moments["last/kernel"], theirs.optimizer.variables[6].numpy())


@pytest.mark.parametrize("library", [keras, tinyconv])
def test_skipped_layers_are_the_same_as_in_keras(tmp_path, library):
    model = frozen_net(keras, [])
    fit(model)
    model.save_weights(tmp_path / "m.weights.h5")
    other = library.Sequential(
        [
            library.Input((7, 8, 2)),
            library.layers.Conv2D(3, 2, name="first"),  # has a bias too
            library.layers.BatchNormalization(name="normalised"),
            library.layers.Flatten(),
            library.layers.Dense(5, name="last"),
        ]
    )
    before = other.get_weights()
    with pytest.warns(UserWarning, match=r"first|2 layers were skipped"):
        other.load_weights(tmp_path / "m.weights.h5", skip_mismatch=True)
    expected = [*before[:2], *model.get_weights()[1:5], *before[6:]]
    for ours, theirs in zip(other.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def operators(library):
    """A network of operators and of functions of tensors, which are layers here and none in Keras."""
    kinds, use = library.layers, library.activations
    image = library.Input((4, 4, 3))
    x = kinds.Conv2D(3, 1, bias_initializer="random_normal")(image)
    y = 1 - 0.5 * (image - x) + x * image / 4 - 0.25
    y = use.relu(y, max_value=2.0, threshold=0.1) + use.gelu(-x) - use.leaky_relu(x)
    y = use.softmax(kinds.Conv2D(3, 3, padding="same")(2 + y)) + use.softplus(y)
    source = library.Input((4, 4, 3))
    inner = library.Model(source, use.tanh(kinds.Conv2D(3, 2, padding="same")(source) - source), name="inner")
    return library.Model(image, kinds.Dense(2)(kinds.Flatten()(inner(y) + use.elu(x, 0.5))))


def test_operators_and_functions_of_tensors_go_to_keras_and_come_back(tmp_path):
    theirs, ours = operators(keras), operators(tinyconv)
    ours.set_weights(theirs.get_weights())
    rng = np.random.default_rng(4)
    x, y = rng.standard_normal((4, 4, 4, 3)).astype(np.float32), rng.standard_normal((4, 2))
    expected = theirs.predict(x, verbose=0)
    ours.save(tmp_path / "ours.keras")
    theirs.save(tmp_path / "theirs.keras")
    loaded, back = load_model(tmp_path / "theirs.keras"), keras.saving.load_model(tmp_path / "ours.keras")
    told = tinyconv.models.model_from_json(theirs.to_json())
    told.set_weights(theirs.get_weights())
    for model in (ours, loaded, told, tinyconv.Model.from_config(theirs.get_config())):
        model.compile(tinyconv.optimizers.SGD(0.1), "mse", backend="reference")
    for model in (ours, loaded, told, back):
        np.testing.assert_allclose(model.predict(x, verbose=0), expected, atol=1e-5)
    theirs.compile(keras.optimizers.SGD(0.1), "mse")
    theirs.train_on_batch(x, y)
    loaded.train_on_batch(x, y)
    for found, wanted in zip(loaded.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_operations_of_keras_are_read_as_layers_or_refused_by_name():
    ops, image = keras.ops, keras.Input((4, 4, 3))
    read = {
        "Add": ops.add(image, image),
        "Subtract": ops.subtract(image, 2.0 * image),
        "Rescaling": ops.divide(ops.negative(ops.multiply(3, image)), 2),
        "Maximum": ops.maximum(image, -image),
        "Minimum": ops.minimum(image, 0.5 * image),
        "ReLU": ops.maximum(image, 0),
        "Concatenate": ops.concatenate([image, image], axis=1),
        "Reshape": ops.reshape(image, (-1, 8, 6)),
        "GlobalAveragePooling2D": ops.mean(image, axis=(1, 2), keepdims=True),
        "GlobalMaxPooling2D": ops.max(image, axis=[1, 2]),
        "ELU": ops.elu(image, 0.5),
        "Activation": ops.tanh(ops.sigmoid(ops.silu(ops.relu6(ops.selu(ops.exp(image)))))),
        "Softmax": ops.softmax(ops.softplus(ops.softsign(ops.hard_sigmoid(ops.hard_silu(ops.relu(image)))))),
    }
    x = np.random.default_rng(5).standard_normal((2, 4, 4, 3)).astype(np.float32)
    theirs = keras.Model(image, list(read.values()))
    ours = tinyconv.models.model_from_json(theirs.to_json())
    for name, found, expected in zip(read, ours(x), theirs(x), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6, err_msg=name)
    assert set(read) <= {type(layer).__name__ for layer in ours.layers}
    refused = {
        "GetItem()": image[:, 1:],
        "Square()": ops.square(image),
        "TrueDivide() with 2": 2 / image,
        "Maximum() with 1": ops.maximum(image, 1),
        "Multiply() with {'class_name': '__numpy__'": image * np.ones(3, np.float32),
        "Gelu(approximate=True)": ops.gelu(image),
        "Mean(axis=-1, keepdims=False)": ops.mean(image, axis=-1),
        "Reshape(newshape=[2, -1])": ops.reshape(image, (2, -1)),
    }
    for name, tensor in refused.items():
        with pytest.raises(ValueError, match=re.escape(f"the operation {name}")):
            tinyconv.models.model_from_json(keras.Model(image, tensor).to_json())
