"""Bad input: the same result as the clean array, or an error that says what, where, expected, received and the fix.

Never a Numba error, a crash or a silently wrong answer.
"""

import threading

import numpy as np
import pytest

import tinyconv
from tinyconv import callbacks, initializers, layers, losses, metrics, optimizers, regularizers

BACKENDS = ["reference", "cpu"]
IMAGE, CLASSES = (6, 5, 2), 3


def network(backend="reference", loss="categorical_crossentropy", optimizer="sgd", **settings):
    tinyconv.utils.set_random_seed(1)
    model = tinyconv.Sequential(
        [
            tinyconv.Input(IMAGE),
            layers.Conv2D(3, 2, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(CLASSES, activation="softmax"),
        ],
        name="small",
    )
    model.compile(optimizer, loss, metrics=["accuracy"], backend=backend, **settings)
    return model


def images(samples=7):
    """Integers from 0 to 9, which every type can hold."""
    return np.random.default_rng(2).integers(0, 10, (samples, *IMAGE)).astype(np.float32)


def labels(samples=7):
    return np.random.default_rng(3).integers(0, CLASSES, samples)


def strided(array):
    wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
    wide[..., ::2] = array
    return wide[..., ::2]


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def unaligned(array):
    raw = np.zeros(array.nbytes + 1, np.uint8)
    view = raw[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


VARIANTS = {
    "float64": lambda x: x.astype(np.float64),
    "float16": lambda x: x.astype(np.float16),
    "uint8": lambda x: x.astype(np.uint8),
    "int64": lambda x: x.astype(np.int64),
    "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "read-only": read_only,
    "strided": strided,
    "reversed": lambda x: x[::-1].copy()[::-1],
    "Fortran": np.asfortranarray,
    "transposed": lambda x: np.ascontiguousarray(x.T).T,
    "unaligned": unaligned,
    "list": lambda x: x.tolist(),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", VARIANTS)
def test_any_layout_and_type_gives_the_clean_arrays_result(name, backend):
    """Bit for bit, in training, evaluation, prediction and a call; and the user's array stays as it was."""
    x, y = images(), labels()
    given, targets = VARIANTS[name](x), VARIANTS[name](y) if name != "float16" else y
    results = []
    for a, b in ((x, y), (given, targets)):
        model = network(backend, "sparse_categorical_crossentropy")
        history = model.fit(a, b, batch_size=3, epochs=2, verbose=0).history
        step = model.train_on_batch(a, b)
        results.append((history, step, model.evaluate(a, b, verbose=0), model.predict(a), model(a)))
        results[-1] += (*model.get_weights(), layers.MaxPooling2D(2)(a))
    for clean, other in zip(*results, strict=True):
        np.testing.assert_equal(other, clean)
    np.testing.assert_array_equal(given, x)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_hot_targets_of_any_layout(backend):
    x, y = images(), np.eye(CLASSES, dtype=np.float32)[labels()]
    expected = network(backend).fit(x, y, epochs=2, verbose=0).history
    for name, variant in VARIANTS.items():
        assert network(backend).fit(x, variant(y), epochs=2, verbose=0).history == expected, name
    assert network(backend).fit(x, y.astype(bool), epochs=2, verbose=0).history == expected


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_column_of_labels(backend):
    """(samples, 1) means the same as (samples,)."""
    model = network(backend, "sparse_categorical_crossentropy")
    assert model.evaluate(images(), labels()[:, None], verbose=0) == model.evaluate(images(), labels(), verbose=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_in_the_input_stays_visible(backend):
    """No kernel may turn a NaN into a number: the loss is NaN, and so is that sample's prediction, alone."""
    x = images()
    x[2, 3, 3, 1] = np.nan
    model = network(backend)
    predictions = model.predict(x)
    assert np.isnan(predictions[2]).all()
    assert np.isfinite(np.delete(predictions, 2, axis=0)).all()
    history = model.fit(x, np.eye(CLASSES)[labels()], batch_size=7, verbose=0).history
    assert np.isnan(history["loss"]).all()
    assert np.isnan(model.get_weights()[-1]).all()


def one_hot():
    return np.eye(CLASSES)[labels()]


def sparse():
    return network(loss="sparse_categorical_crossentropy")


def fit(model, x=None, y=None, **settings):
    settings = {"verbose": 0, **settings}
    return model.fit(images() if x is None else x, one_hot() if y is None else y, **settings)


def with_value(array, index, value):
    array = array.astype(np.float64) if isinstance(value, float) else array.astype(np.int64)
    array[index] = value
    return array


# What is done, the type of the error, and parts of its text.
INPUTS = {
    "one image without batch axis": (
        lambda: network().predict(images()[0]),
        ValueError,
        ["input of model 'small'", "Expected (batch, 6, 5, 2)", "Received: (6, 5, 2)", "x[None]"],
    ),
    "neither batch nor channel axis": (
        lambda: tinyconv.Sequential([tinyconv.Input((6, 5, 1)), layers.Flatten()]).predict(np.zeros((6, 5))),
        ValueError,
        ["Expected (batch, 6, 5, 1)", "Received: (6, 5)", "x[None, ..., None]"],
    ),
    "channels first": (
        lambda: network().predict(np.moveaxis(images(), -1, 1)),
        ValueError,
        ["Received: (7, 2, 6, 5)", "np.moveaxis(x, 1, -1)"],
    ),
    "wrong rank": (lambda: network()(np.zeros((7, 60))), ValueError, ["Expected (batch, 6, 5, 2)", "(7, 60)"]),
    "wrong size": (lambda: fit(network(), np.zeros((7, 6, 6, 2))), ValueError, ["Received: (7, 6, 6, 2)"]),
    "a number": (lambda: network().predict(3.0), ValueError, ["has no axes", "a single number"]),
    "empty": (lambda: network().predict(images()[:0]), ValueError, ["is empty", "Received: shape (0, 6, 5, 2)"]),
    "empty fit": (lambda: fit(network(), images()[:0], one_hot()[:0]), ValueError, ["is empty", "at least one sample"]),
    "nothing": (
        lambda: network().fit(None, one_hot()),
        TypeError,
        ["unsupported type", "Received: None (dtype object)"],
    ),
    "strings": (lambda: network().predict(np.full((7, *IMAGE), "a")), TypeError, ["Expected numbers", "dtype <U1"]),
    "complex": (lambda: network().predict(images() * 1j), TypeError, ["Expected numbers", "complex"]),
    "objects": (lambda: network().predict(images().astype(object)), TypeError, ["Received: dtype object"]),
    "ragged list": (
        lambda: network().predict([[1, 2], [3]]),
        TypeError,
        ["not an array", "Received: [[1, 2], [3]] (list)"],
    ),
    "a layer's rank": (
        lambda: layers.MaxPooling2D(2)(np.zeros((3, 4))),
        ValueError,
        ["'max_pooling2d' expected images", "(height, width, channels)", "Received: samples of shape (4,)"],
    ),
    "a built layer's shape": (
        lambda: [layer := layers.Dense(3), layer(np.zeros((2, 4))), layer(np.zeros((2, 5)))],
        ValueError,
        ["layer 'dense'", "Expected (batch, 4)", "Received: (2, 5)"],
    ),
}

TARGETS = {
    "label too large": (
        lambda: fit(sparse(), y=with_value(labels(), 4, 3)),
        ValueError,
        ["label is out of range", "Expected 0 to 2, as the model has 3 outputs", "Received: 3 at position 4"],
    ),
    "huge label": (lambda: fit(sparse(), y=with_value(labels(), 0, 10**9)), ValueError, ["Received: 1000000000"]),
    "negative label": (
        lambda: fit(sparse(), y=with_value(labels(), 6, -1)),
        ValueError,
        ["Received: -1 at position 6"],
    ),
    "unsigned label": (
        lambda: sparse().evaluate(images(), np.full(7, 2**64 - 1, np.uint64)),
        ValueError,
        ["Received: 18446744073709551615"],
    ),
    "NaN label": (lambda: fit(sparse(), y=with_value(labels(), 1, np.nan)), ValueError, ["NaN", "first at [1]"]),
    "half a label": (lambda: fit(sparse(), y=with_value(labels(), 1, 0.5)), ValueError, ["Expected integers", "0.5"]),
    "NaN target": (lambda: fit(network(), y=with_value(one_hot(), (2, 1), np.nan)), ValueError, ["first at [2, 1]"]),
    "infinite target": (lambda: fit(network(), y=with_value(one_hot(), (0, 0), np.inf)), ValueError, ["infinity"]),
    "too few": (
        lambda: fit(network(), y=one_hot()[:5]),
        ValueError,
        ["differ in length", "one target per sample, 7", "(5, 3)"],
    ),
    "too many": (lambda: network().evaluate(images()[:5], one_hot()), ValueError, ["one target per sample, 5"]),
    "none": (lambda: network().fit(images()), ValueError, ["No targets", "Received: None"]),
    "numbers for rows": (
        lambda: fit(network(), y=labels()),
        ValueError,
        ["(batch, 3)", "Received: (7,)", "'sparse_categorical_crossentropy'", "to_categorical(y, 3)"],
    ),
    "rows for numbers": (
        lambda: fit(sparse(), y=one_hot()),
        ValueError,
        ["Expected class numbers of shape (batch)", "Received: (7, 3)", "'categorical_crossentropy'"],
    ),
    "other classes": (lambda: fit(network(), y=np.eye(4)[labels()]), ValueError, ["(batch, 3)", "Received: (7, 4)"]),
    "strings": (lambda: fit(network(), y=np.full((7, 3), "a")), TypeError, ["targets", "Expected numbers"]),
    "validation data": (
        lambda: fit(network(), validation_data=(images(), one_hot()[:3])),
        ValueError,
        ["one target per sample, 7"],
    ),
    "validation pair": (lambda: fit(network(), validation_data=images()), ValueError, ["Expected a pair (x, y)"]),
    "to_categorical": (
        lambda: tinyconv.utils.to_categorical([0, 5], 3),
        ValueError,
        ["Expected 0 to 2", "Received: 5 at index (1,)"],
    ),
}


def shrinking(*more):
    return tinyconv.Sequential(
        [tinyconv.Input((28, 28, 1)), layers.Conv2D(4, 3), layers.MaxPooling2D(2), layers.Conv2D(4, 3), *more]
    )


STRUCTURE = {
    "kernel too large": (
        lambda: shrinking(layers.MaxPooling2D(2), layers.Conv2D(4, 7)),
        ValueError,
        [
            "Layer 'conv2d_2' does not fit",
            "7 x 7",
            "Received: 5 x 5",
            "Fix: a smaller kernel_size",
            "(28, 28, 1) → conv2d (26, 26, 4) → max_pooling2d (13, 13, 4) → conv2d_1 (11, 11, 4) → max_pooling2d_1 (5,",
        ],
    ),
    "pool too large": (lambda: shrinking(layers.MaxPooling2D(12)), ValueError, ["smaller pool_size", "→ conv2d_1 (11"]),
    "dilated too large": (lambda: shrinking(layers.Conv2D(1, 3, dilation_rate=6)), ValueError, ["cover 13 x 13"]),
    "images after Flatten": (
        lambda: shrinking(layers.Flatten(), layers.Conv2D(1, 3)),
        ValueError,
        ["expected images", "Received: samples of shape (484,)", "→ flatten (484,)"],
    ),
    "no input shape": (
        lambda: tinyconv.Sequential([layers.Dense(3)]).build(),
        ValueError,
        ["does not know its input shape", "Input(shape=...)"],
    ),
    "no layers": (
        lambda: tinyconv.Sequential([tinyconv.Input((3,))]).predict(np.zeros((2, 3))),
        ValueError,
        ["has no layers", "Sequential.add"],
    ),
    "not a layer": (lambda: tinyconv.Sequential([3]), TypeError, ["expected a tinyconv layer", "Received: 3"]),
    "a class": (lambda: tinyconv.Sequential([layers.Flatten]), TypeError, ["expected a tinyconv layer", "Flatten"]),
    "twice": (lambda: tinyconv.Sequential([a := layers.Dense(2), a]), ValueError, ["'dense' is in the model already"]),
    "two inputs": (
        lambda: tinyconv.Sequential([tinyconv.Input((3,)), tinyconv.Input((3,))]),
        ValueError,
        ["Input must be the first"],
    ),
    "same name": (
        lambda: tinyconv.Sequential([layers.Dense(2, name="a"), layers.Dense(2, name="a")]),
        ValueError,
        ["a layer called 'a' already"],
    ),
    "pop of nothing": (lambda: tinyconv.Sequential().pop(), ValueError, ["no layers to pop"]),
    "shape with None": (lambda: tinyconv.Input((None, 28, 1)), ValueError, ["positive integers", "(None, 28, 1)"]),
    "shape of zero": (lambda: tinyconv.Input((0, 28, 1)), ValueError, ["positive integers", "Received: (0, 28, 1)"]),
    "too few weights": (
        lambda: network().set_weights([np.zeros(3)]),
        ValueError,
        ["Wrong number of weights for 'small'", "Expected 4 arrays", "conv2d/kernel (2, 2, 2, 3)", "Received: 1"],
    ),
    "weight of another shape": (
        lambda: [model := network(), model.set_weights([weight.T for weight in model.get_weights()])],
        ValueError,
        ["'conv2d/kernel'", "Expected numbers of shape (2, 2, 2, 3)", "shape (3, 2, 2, 2)"],
    ),
    "unknown layer name": (lambda: network().get_layer("conv"), ValueError, ["Unknown layer: 'conv'", "'conv2d'"]),
}

ORDER = {
    "fit before compile": (
        lambda: tinyconv.Sequential([layers.Dense(2)], name="m").fit(np.zeros((2, 3)), np.zeros((2, 2))),
        ValueError,
        ["Model 'm' is not compiled", "compile(loss=..., optimizer=...) before fit()"],
    ),
    "evaluate before compile": (
        lambda: tinyconv.Sequential([layers.Dense(2)]).evaluate(np.zeros((2, 3)), np.zeros((2, 2))),
        ValueError,
        ["not compiled", "before evaluate()"],
    ),
    "train_on_batch before compile": (
        lambda: tinyconv.Sequential([layers.Dense(2)]).train_on_batch(np.zeros((2, 3)), np.zeros((2, 2))),
        ValueError,
        ["not compiled", "before train_on_batch()"],
    ),
    "fit without a loss": (lambda: fit(network(loss=None)), ValueError, ["has no loss", "compile(loss=...)"]),
}

NAMES = {
    "optimizer": (
        lambda: network(optimizer="adan"),
        ValueError,
        ["Unknown optimizer: 'adan'", "Did you mean 'adam'?", "Expected one of 'adam', 'adamw', 'rmsprop', 'sgd'"],
    ),
    "optimizer class": (lambda: network(optimizer=optimizers.Adam), ValueError, ["Unknown optimizer", "Adam"]),
    "loss": (
        lambda: network(loss="categorical_crossentrpy"),
        ValueError,
        ["Unknown loss: 'categorical_crossentrpy'", "Did you mean 'categorical_crossentropy'?"],
    ),
    "metric": (
        lambda: [
            model := tinyconv.Sequential([layers.Dense(2)]),
            model.compile("sgd", "mse", metrics=["acuracy"]),
            model.fit(np.zeros((2, 3)), np.zeros((2, 2)), verbose=0),
        ],
        ValueError,
        ["Unknown metric: 'acuracy'", "Did you mean 'accuracy'?"],
    ),
    "activation": (
        lambda: layers.Dense(3, activation="rleu", name="head"),
        ValueError,
        ["Layer 'head': unknown activation: 'rleu'", "Did you mean 'relu'?"],
    ),
    "activation layer": (lambda: layers.Activation("Tanh"), ValueError, ["'Tanh'", "Did you mean 'tanh'?"]),
    "initializer": (
        lambda: layers.Dense(3, kernel_initializer="glorot"),
        ValueError,
        ["Unknown initializer: 'glorot'", "Did you mean 'glorot_"],
    ),
    "regularizer": (
        lambda: layers.Dense(3, kernel_regularizer="l3"),
        ValueError,
        ["Unknown regularizer: 'l3'", "'l2'"],
    ),
    "padding": (lambda: layers.Conv2D(3, 3, padding="sane"), ValueError, ["unknown padding: 'sane'", "mean 'same'?"]),
    "backend": (lambda: network("cpuu"), ValueError, ["Unknown backend: 'cpuu'", "Did you mean 'cpu'?"]),
    "monitor": (
        lambda: fit(network(), callbacks=[callbacks.EarlyStopping()]),
        ValueError,
        ["EarlyStopping cannot watch 'val_loss'", "Did you mean 'loss'?", "validation data"],
    ),
    "variance scaling": (
        lambda: initializers.VarianceScaling(mode="fan"),
        ValueError,
        ["Unknown mode of VarianceScaling: 'fan'"],
    ),
}

UNSUPPORTED = {
    "groups": (
        lambda: layers.Conv2D(4, 3, groups=2),
        ValueError,
        ["Conv2D(groups=2) is not supported by tinyconv yet", "Expected 1"],
    ),
    "channels_first": (
        lambda: layers.MaxPooling2D(2, data_format="channels_first"),
        ValueError,
        ["MaxPooling2D(data_format='channels_first')", "'channels_last'"],
    ),
    "dtype": (lambda: layers.Dense(3, dtype="float16"), ValueError, ["Dense(dtype='float16')", "'float32'"]),
    "trainable": (lambda: layers.Dense(3, trainable="no"), ValueError, ["trainable of Dense", "True or False", "'no'"]),
    "constraint": (lambda: layers.Dense(3, kernel_constraint="x"), ValueError, ["Dense(kernel_constraint='x')"]),
    "noise_shape": (lambda: layers.Dropout(0.5, noise_shape=(1,)), ValueError, ["Dropout(noise_shape=(1,))"]),
    "Input": (lambda: tinyconv.Input((3,), sparse=True), ValueError, ["Input(sparse=True) is not supported"]),
    "typing error": (lambda: layers.Conv2D(4, 3, stride=2), TypeError, ["Conv2D has no argument 'stride'"]),
    "amsgrad": (lambda: optimizers.Adam(amsgrad=True), ValueError, ["Adam(amsgrad=True) is not supported"]),
    "use_ema": (lambda: optimizers.SGD(use_ema=True), ValueError, ["SGD(use_ema=True) is not supported"]),
    "optimizer's typing error": (lambda: optimizers.SGD(lr=0.1), TypeError, ["SGD has no argument 'lr'"]),
    "fit's typing error": (lambda: fit(network(), epoch=3), TypeError, ["fit() has no argument 'epoch'"]),
    "compile's typing error": (lambda: network(los="mse"), TypeError, ["compile() has no argument 'los'"]),
    "axis": (lambda: losses.CategoricalCrossentropy(axis=1), ValueError, ["CategoricalCrossentropy(axis=1)"]),
}

VALUES = {
    "filters": (lambda: layers.Conv2D(0, 3), ValueError, ["invalid filters", "positive integer", "Received: 0"]),
    "filters of a fraction": (lambda: layers.Conv2D(2.5, 3), ValueError, ["invalid filters", "Received: 2.5"]),
    "kernel_size": (lambda: layers.Conv2D(1, (3, 3, 3)), ValueError, ["invalid kernel_size", "Received: (3, 3, 3)"]),
    "kernel_size of zero": (lambda: layers.Conv2D(1, (3, 0)), ValueError, ["invalid kernel_size", "Received: (3, 0)"]),
    "strides": (lambda: layers.Conv2D(1, 3, strides="2"), ValueError, ["invalid strides", "Received: '2'"]),
    "strides and dilation": (
        lambda: layers.Conv2D(1, 3, strides=2, dilation_rate=2),
        ValueError,
        ["strides and dilation_rate cannot both be above 1", "strides=(2, 2), dilation_rate=(2, 2)"],
    ),
    "units": (lambda: layers.Dense(-1), ValueError, ["invalid units", "Received: -1"]),
    "units of True": (lambda: layers.Dense(True), ValueError, ["invalid units", "Received: True"]),
    "rate of one": (lambda: layers.Dropout(1), ValueError, ["invalid rate", "less than 1", "Received: 1"]),
    "rate of NaN": (lambda: layers.Dropout(float("nan")), ValueError, ["invalid rate", "Received: nan"]),
    "momentum": (
        lambda: layers.BatchNormalization(momentum=2),
        ValueError,
        ["at least 0 and of at most 1", "Received: 2"],
    ),
    "axis": (
        lambda: layers.BatchNormalization(axis=1)(np.zeros((2, 3, 3, 4))),
        ValueError,
        ["axis=1 is not supported", "Expected the last axis"],
    ),
    "learning rate": (lambda: optimizers.Adam(-0.1), ValueError, ["learning_rate of Adam", "Received: -0.1"]),
    "learning rate of NaN": (lambda: optimizers.SGD(float("nan")), ValueError, ["learning_rate of SGD", "nan"]),
    "learning rate of text": (lambda: optimizers.SGD("fast"), ValueError, ["learning_rate of SGD", "'fast'"]),
    "beta": (lambda: optimizers.Adam(beta_1=1.0), ValueError, ["Invalid beta_1 of Adam", "less than 1"]),
    "l2": (lambda: regularizers.L2(-1), ValueError, ["Received: -1"]),
    "k": (lambda: metrics.TopKCategoricalAccuracy(k=0), ValueError, ["Invalid k", "Received: 0"]),
    "batch_size": (lambda: fit(network(), batch_size=0), ValueError, ["Invalid batch_size", "Received: 0"]),
    "batch_size of a fraction": (lambda: network().predict(images(), batch_size=2.5), ValueError, ["Received: 2.5"]),
    "epochs": (lambda: fit(network(), epochs=-1), ValueError, ["Invalid epochs of fit", "Received: -1"]),
    "validation_split": (
        lambda: fit(network(), validation_split=1.5),
        ValueError,
        ["Invalid validation_split", "Received: 1.5"],
    ),
    "validation_split of too few": (
        lambda: fit(network(), images()[:1], one_hot()[:1], validation_split=0.5),
        ValueError,
        ["no samples for training", "Received: 1 samples"],
    ),
    "callback": (lambda: fit(network(), callbacks=[print]), TypeError, ["Invalid callback", "print"]),
    "seed": (lambda: tinyconv.utils.set_random_seed(-1), ValueError, ["Invalid seed", "Received: -1"]),
}

ALL = {
    f"{group}: {name}": case
    for group, cases in {
        "input": INPUTS,
        "targets": TARGETS,
        "structure": STRUCTURE,
        "order": ORDER,
        "name": NAMES,
        "unsupported": UNSUPPORTED,
        "value": VALUES,
    }.items()
    for name, case in cases.items()
}


@pytest.mark.parametrize("name", ALL)
def test_message(name):
    action, kind, parts = ALL[name]
    with pytest.raises(kind) as caught:
        action()
    assert type(caught.value) is kind
    text = str(caught.value)
    missing = [part for part in parts if part not in text]
    assert not missing, text


def test_an_unknown_backend_in_the_environment_is_named(monkeypatch):
    monkeypatch.setenv("TINYCONV_BACKEND", "gpu")
    with pytest.raises(ValueError, match="Unknown TINYCONV_BACKEND: 'gpu'"):
        network(None)


def test_the_environment_chooses_the_backend(monkeypatch):
    monkeypatch.setenv("TINYCONV_BACKEND", "reference")
    assert network(None).plan.kernels is tinyconv.kernels.load("reference")


def test_a_failed_call_changes_nothing():
    """Neither the weights nor the optimiser's steps; and the model goes on working."""
    model = network()
    before = model.get_weights()
    for name in ("label too large", "NaN target", "too few"):
        with pytest.raises(ValueError, match=r"\w"):
            ALL[f"targets: {name}"][0]()
    with pytest.raises(ValueError, match="differ in length"):
        fit(model, y=one_hot()[:5])
    np.testing.assert_equal(model.get_weights(), before)
    assert model.optimizer.iterations == 0
    fit(model)


def test_a_layer_that_does_not_fit_is_not_added():
    model = shrinking()
    with pytest.raises(ValueError, match="does not fit"):
        model.add(layers.Conv2D(1, 20))
    assert [layer.name for layer in model.layers] == ["conv2d", "max_pooling2d", "conv2d_1"]
    assert model.predict(np.zeros((1, 28, 28, 1))).shape == (1, 11, 11, 4)


def test_layers_of_a_model_that_failed_are_free():
    stack = [layers.Conv2D(2, 3), layers.Conv2D(2, 9)]
    with pytest.raises(ValueError, match="does not fit"):
        tinyconv.Sequential([tinyconv.Input((8, 8, 1)), *stack])
    assert tinyconv.Sequential([tinyconv.Input((11, 11, 1)), layers.Flatten()]).pop()._owner is None
    assert tinyconv.Sequential([tinyconv.Input((8, 8, 1)), stack[0]]).output_shape == (None, 6, 6, 2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_layers_weights_are_the_models(backend):
    """What is set through a layer counts at once, also where a plan had prepared itself for the weights before."""
    model, other, x = network(backend), network(backend), images()
    model.predict(x)
    kernel, bias = model.layers[0].get_weights()
    model.layers[0].set_weights([kernel + 1, bias - 1])
    other.set_weights(model.get_weights())
    np.testing.assert_array_equal(model.predict(x), other.predict(x))
    np.testing.assert_array_equal(model(x), other(x))


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_threads_may_predict_at_once(backend):
    """Each gets its own images' results, also from the first call, which compiles and builds the plan."""
    model = network(backend)
    inputs = [images(32 + number) * (number + 1) for number in range(4)]
    clean = network(backend)
    expected = [clean.predict(x, batch_size=8) for x in inputs]
    found: list = [None] * len(inputs)
    start = threading.Barrier(len(inputs))

    def work(number):
        start.wait()
        for _ in range(10):
            found[number] = model.predict(inputs[number], batch_size=8)
            if not np.array_equal(found[number], expected[number]):
                return

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for mine, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mine, other)
