"""Training against Keras: losses, trajectories, epochs, evaluation, callbacks and everything fit reports."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyconv
from tests.peer import keras
from tests.strategies import examples, few
from tinyconv import callbacks, datasets, initializers
from tinyconv.optimizers import schedules

BACKENDS = ["reference", "cpu"]

BODY = [
    ("Conv2D", {"filters": 4, "kernel_size": 3, "activation": "relu"}),
    ("MaxPooling2D", {"pool_size": 2}),
    ("Conv2D", {"filters": 5, "kernel_size": 2, "padding": "same", "activation": "tanh"}),
    ("AveragePooling2D", {"pool_size": 2, "padding": "same"}),
    ("Flatten", {}),
]
IMAGE = (8, 9, 2)


def network(stack, shape=IMAGE, package=tinyconv):
    """The network of that package; here with the same weights each time."""
    tinyconv.utils.set_random_seed(0)
    layers = [getattr(package.layers, name)(**given) for name, given in stack]
    return package.Sequential([package.Input(shape), *layers])


def pair(stack, shape=IMAGE):
    """The same network here and in Keras, with the same weights."""
    ours, theirs = network(stack, shape), network(stack, shape, keras)
    theirs.set_weights(ours.get_weights())
    return ours, theirs


def head(units, activation):
    return [*BODY, ("Dense", {"units": units, "activation": activation})]


def data(samples, classes=4, seed=1):
    """Images, and their classes as one-hot rows."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, samples)
    x = rng.standard_normal((samples, *IMAGE)).astype(np.float32) + labels[:, None, None, None].astype(np.float32) / 4
    return x, np.eye(classes, dtype=np.float32)[labels]


def error(ours, theirs):
    """The largest difference over the largest magnitude."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    assert np.isfinite(ours).all()
    return float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-2))


def trajectory(model, x, y, batch_size, steps):
    """Loss and metrics of each step's own batch; the batches go round the data."""
    found = []
    for step in range(steps):
        batch = np.arange(step * batch_size, (step + 1) * batch_size) % len(x)
        found.append(model.train_on_batch(x[batch], y[batch]))
    return found


LOSSES = {
    "categorical": ("softmax", lambda losses: "categorical_crossentropy", lambda y: y),
    "categorical, soft targets": ("softmax", lambda losses: "categorical_crossentropy", lambda y: 0.7 * y + 0.075),
    "categorical from logits": (None, lambda losses: losses.CategoricalCrossentropy(from_logits=True), lambda y: y),
    "sparse": ("softmax", lambda losses: "sparse_categorical_crossentropy", lambda y: y.argmax(1)),
    "sparse from logits": (
        None,
        lambda losses: losses.SparseCategoricalCrossentropy(from_logits=True),
        lambda y: y.argmax(1),
    ),
    "binary": ("sigmoid", lambda losses: "binary_crossentropy", lambda y: y),
    "binary from logits": (None, lambda losses: losses.BinaryCrossentropy(from_logits=True), lambda y: y),
    "mean squared error": ("linear", lambda losses: "mse", lambda y: y),
}


@pytest.mark.parametrize("name", few(LOSSES, 2))
def test_loss(name):
    """Twenty steps with each loss, where the activation before it is absorbed and where it is not."""
    activation, make, targets = LOSSES[name]
    _, theirs = pair(head(4, activation))
    x, y = data(40)
    y = targets(y)
    theirs.compile("sgd", make(keras.losses), metrics=["accuracy"])
    peer = [trajectory(theirs, x, y, 8, 20), theirs.evaluate(x, y, verbose=0)]
    for fuse in (True, False):
        ours = network(head(4, activation))
        ours.compile("sgd", make(tinyconv.losses), metrics=["accuracy"], backend="cpu", fuse=fuse)
        assert error(trajectory(ours, x, y, 8, 20), peer[0]) < 1e-5
        assert error(ours.evaluate(x, y, verbose=0), peer[1]) < 1e-5


OPTIMIZERS = {
    "adam": lambda optimizers: "adam",
    "rmsprop, all of it": lambda optimizers: optimizers.RMSprop(
        0.01, rho=0.8, momentum=0.5, epsilon=1e-4, centered=True, weight_decay=0.1, global_clipnorm=0.5
    ),
    "momentum": lambda optimizers: optimizers.SGD(learning_rate=0.05, momentum=0.9),
    "adam 0.01": lambda optimizers: optimizers.Adam(learning_rate=0.01, beta_1=0.8, beta_2=0.99, epsilon=1e-4),
    "adamw": lambda optimizers: optimizers.AdamW(learning_rate=0.01, weight_decay=0.1),
    "adam, clipped": lambda optimizers: optimizers.Adam(0.01, weight_decay=0.1, clipnorm=0.05),
    "rmsprop": lambda optimizers: "rmsprop",
    "sgd": lambda optimizers: "sgd",
    "sgd, clipped": lambda optimizers: optimizers.SGD(0.05, momentum=0.9, weight_decay=0.1, clipvalue=0.01),
    "nesterov": lambda optimizers: optimizers.SGD(learning_rate=0.05, momentum=0.9, nesterov=True),
    "decay": lambda optimizers: optimizers.SGD(optimizers.schedules.ExponentialDecay(0.1, 5, 0.5)),
}


@pytest.mark.parametrize("name", few(OPTIMIZERS, 2))
def test_optimizer(name):
    """The losses of twenty steps and the weights after them."""
    _, theirs = pair(head(4, "softmax"))
    x, y = data(40)
    theirs.compile(OPTIMIZERS[name](keras.optimizers), "categorical_crossentropy")
    peer = trajectory(theirs, x, y, 8, 20)
    for backend in BACKENDS:
        ours = network(head(4, "softmax"))
        ours.compile(OPTIMIZERS[name](tinyconv.optimizers), "categorical_crossentropy", backend=backend)
        mine = trajectory(ours, x, y, 8, 20)
        assert error(mine, np.reshape(peer, np.shape(mine))) < 2e-5
        for weight, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
            assert error(weight, other) < 1e-4


REGULARIZERS = {
    "l2": lambda library: "l2",
    "L2": lambda library: library.regularizers.l2(0.05),
    "l1": lambda library: library.regularizers.L1(0.02),
    "L1L2": lambda library: library.regularizers.l1_l2(l1=0.01, l2=0.02),
}


@pytest.mark.parametrize("name", few(REGULARIZERS))
def test_regularizers(name):
    """The penalty is part of the loss, of training and of evaluation, and of the gradient."""
    models = []
    for package in (tinyconv, keras):
        penalty = REGULARIZERS[name](package)
        models.append(
            package.Sequential(
                [
                    package.Input((6,)),
                    package.layers.Dense(5, activation="tanh", kernel_regularizer=penalty, bias_regularizer=penalty),
                    package.layers.Dense(3, activation="softmax", kernel_regularizer=penalty),
                ]
            )
        )
    ours, theirs = models
    theirs.set_weights(ours.get_weights())
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((20, 6)).astype(np.float32), np.eye(3)[rng.integers(0, 3, 20)]
    ours.compile("sgd", "categorical_crossentropy", metrics=["accuracy"], backend="cpu")
    theirs.compile("sgd", "categorical_crossentropy", metrics=["accuracy"])
    mine, peer = (trajectory(model, x, y, 10, 10) for model in models)
    assert error(mine, peer) < 1e-5
    assert error(ours.evaluate(x, y, verbose=0), theirs.evaluate(x, y, verbose=0)) < 1e-5
    history, other = (model.fit(x, y, validation_data=(x, y), verbose=0, shuffle=False).history for model in models)
    for name in other:
        assert error(history[name], other[name]) < 1e-5, name


@pytest.mark.parametrize("loss", few(["sparse_categorical_crossentropy", "categorical_crossentropy", "mse"]))
def test_a_prediction_for_every_pixel(loss):
    """Several rows of output for each sample: a sample's loss is their mean, and an epoch counts them all."""
    stack = [("Conv2D", {"filters": 3, "kernel_size": 3, "activation": "softmax"})]
    labels = np.random.default_rng(0).integers(0, 3, (22, 6, 7))
    x, y = data(22)[0], labels if loss.startswith("sparse") else np.eye(3, dtype=np.float32)[labels]
    ours, theirs = pair(stack)
    ours.compile("sgd", loss, metrics=["accuracy"], backend="cpu")
    theirs.compile("sgd", loss, metrics=["accuracy"])
    settings = {"batch_size": 8, "epochs": 2, "validation_split": 0.2, "shuffle": False, "verbose": 0}
    mine, peer = (model.fit(x, y, **settings).history for model in (ours, theirs))
    for name in peer:
        assert error(mine[name], peer[name]) < 1e-5, name
    assert error(ours.predict(x), theirs.predict(x, verbose=0)) < 1e-5


def test_batch_normalization_in_training():
    """Batch statistics while training, moving ones in validation, also where they are folded into the layer before."""
    stack = [
        ("Conv2D", {"filters": 4, "kernel_size": 3, "use_bias": False}),
        ("BatchNormalization", {"momentum": 0.8}),
        ("Activation", {"activation": "relu"}),
        ("MaxPooling2D", {"pool_size": 2}),
        ("Flatten", {}),
        ("Dense", {"units": 6}),
        ("BatchNormalization", {"momentum": 0.7, "scale": False}),
        ("LeakyReLU", {}),
        ("Dense", {"units": 4, "activation": "softmax"}),
    ]
    x, y = data(44)
    settings = {"epochs": 3, "batch_size": 11, "validation_data": (x[:30], y[:30]), "shuffle": False, "verbose": 0}
    _, theirs = pair(stack)
    theirs.compile("sgd", "categorical_crossentropy", metrics=["accuracy"])
    peer, predicted = theirs.fit(x, y, **settings).history, theirs.predict(x, verbose=0)
    for backend in BACKENDS:
        ours = network(stack)
        ours.compile("sgd", "categorical_crossentropy", metrics=["accuracy"], backend=backend)
        mine = ours.fit(x, y, **settings).history
        for name in peer:
            assert error(mine[name], peer[name]) < 1e-4, name
        assert error(ours.predict(x), predicted) < 1e-4
        for weight, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
            assert error(weight, other) < 1e-3


@pytest.mark.long
def test_mnist_loss_curve():
    """Ten steps of the whole network on MNIST, from equal weights, dropout off; then evaluation and prediction."""
    stack = [
        ("Conv2D", {"filters": 32, "kernel_size": (3, 3), "activation": "relu"}),
        ("MaxPooling2D", {"pool_size": (2, 2)}),
        ("Conv2D", {"filters": 64, "kernel_size": (3, 3), "activation": "relu"}),
        ("MaxPooling2D", {"pool_size": (2, 2)}),
        ("Flatten", {}),
        ("Dropout", {"rate": 0.0}),
        ("Dense", {"units": 10, "activation": "softmax"}),
    ]
    (x, labels), (x_test, labels_test) = datasets.mnist.load_data()
    x, x_test = (images[:1280, :, :, None].astype("float32") / 255 for images in (x, x_test))
    y, y_test = (tinyconv.utils.to_categorical(numbers[:1280], 10) for numbers in (labels, labels_test))
    ours, theirs = pair(stack, (28, 28, 1))
    ours.compile("adam", "categorical_crossentropy", metrics=["accuracy"], backend="cpu")
    theirs.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
    mine, peer = (trajectory(model, x, y, 128, 10) for model in (ours, theirs))
    assert error(mine, peer) < 1e-4
    evaluation, other = (model.evaluate(x_test, y_test, batch_size=100, verbose=0) for model in (ours, theirs))
    assert error(evaluation, other) < 1e-3
    trained = theirs.get_weights()
    ours.set_weights(trained)  # Keras' weights load as they are, and mean the same to the last digits
    evaluation, other = (model.evaluate(x_test, y_test, batch_size=100, verbose=0) for model in (ours, theirs))
    assert error(evaluation, other) < 1e-5
    assert error(ours.predict(x_test, batch_size=100), theirs.predict(x_test, batch_size=100, verbose=0)) < 1e-5


@pytest.mark.parametrize("classes", few(["one-hot", "numbers"]))
def test_fit(classes):
    """Epochs of 54 samples in batches of 16, the last one ragged, after a validation split: the same History."""
    x, y = data(60)
    y = y if classes == "one-hot" else y.argmax(1)
    loss = "categorical_crossentropy" if classes == "one-hot" else "sparse_categorical_crossentropy"
    _, theirs = pair(head(4, "softmax"))
    theirs.compile("adam", loss, metrics=["accuracy"])
    settings = {"batch_size": 16, "epochs": 5, "initial_epoch": 2, "validation_split": 0.1, "shuffle": False}
    peer = theirs.fit(x, y, verbose=0, **settings)
    evaluation, predictions = theirs.evaluate(x, y, verbose=0), theirs.predict(x[:23], batch_size=5, verbose=0)
    for backend in BACKENDS:
        ours = network(head(4, "softmax"))
        ours.compile("adam", loss, metrics=["accuracy"], backend=backend)
        mine = ours.fit(x, y, verbose=0, **settings)
        assert set(mine.history) == set(peer.history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
        assert mine.epoch == peer.epoch == [2, 3, 4]
        for name in peer.history:
            assert error(mine.history[name], peer.history[name]) < 2e-5, name
        assert ours.optimizer.iterations == int(theirs.optimizer.iterations) == 3 * 4
        assert error(ours.evaluate(x, y, verbose=0), evaluation) < 2e-5
        assert ours.evaluate(x, y, verbose=0, return_dict=True).keys() == {"loss", "accuracy"}
        assert error(ours.predict(x[:23], batch_size=5), predictions) < 2e-5


def test_epoch_loss_is_sample_weighted():
    """A ragged last batch counts by its size: with weights that stay as they are, the epoch's loss is the data's."""
    x, y = data(54)
    ours, _ = pair(head(4, "softmax"))
    ours.compile(tinyconv.optimizers.SGD(0.0), "categorical_crossentropy", metrics=["accuracy"], backend="cpu")
    history = ours.fit(x, y, batch_size=16, verbose=0).history
    probabilities = ours.predict(x).astype(np.float64)
    loss, accuracy = -np.log(probabilities[y == 1]), probabilities.argmax(1) == y.argmax(1)
    assert history["loss"][0] == pytest.approx(loss.mean(), rel=1e-6)
    assert history["accuracy"][0] == accuracy.mean()
    batches = [loss[first : first + 16].mean() for first in range(0, 54, 16)]
    assert abs(np.mean(batches) - loss.mean()) > 1e-4  # the mean of the batches' means would have been noticed


def test_ragged_batches_do_not_disturb_each_other():
    """The plans of a full batch and of a ragged one share their memory."""
    x, y = data(37)
    ours, _ = pair([*BODY, ("BatchNormalization", {}), ("Dense", {"units": 4, "activation": "softmax"})])
    ours.compile("adam", "categorical_crossentropy", metrics=["accuracy"], backend="cpu")
    ours.fit(x, y, batch_size=16, verbose=0)
    whole = ours.predict(x, batch_size=37)
    for batch_size in (16, 5, 36, 1):
        np.testing.assert_allclose(ours.predict(x, batch_size=batch_size), whole, rtol=0, atol=1e-6)
    np.testing.assert_allclose([ours(image[None])[0] for image in x], whole, rtol=0, atol=1e-6)


def test_shuffling_trains_on_every_sample_once():
    """With a learning rate of zero a shuffled epoch sees the same samples, so its totals are the same."""
    x, y = data(53)
    ours, _ = pair(head(4, "softmax"))
    ours.compile(tinyconv.optimizers.SGD(0.0), "categorical_crossentropy", metrics=["accuracy"], backend="cpu")
    shuffled = ours.fit(x, y, batch_size=10, epochs=3, verbose=0).history
    plain = ours.evaluate(x, y, verbose=0, return_dict=True)
    np.testing.assert_allclose(shuffled["loss"], plain["loss"], rtol=1e-6)
    np.testing.assert_allclose(shuffled["accuracy"], plain["accuracy"], rtol=1e-6)


@pytest.mark.parametrize(
    ("loss", "columns"),
    [("categorical_crossentropy", 3), ("binary_crossentropy", 1), ("binary_crossentropy", 3), ("mse", 2), ("mse", 1)],
)
@pytest.mark.long
def test_accuracy_means_what_it_means_in_keras(loss, columns):
    """Which accuracy "accuracy" is depends on the columns of the output."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 6)).astype(np.float32)
    y = np.eye(columns)[rng.integers(0, columns, 50)] if columns > 1 else rng.integers(0, 2, (50, 1))
    activation = "softmax" if loss == "categorical_crossentropy" else "sigmoid"
    ours, theirs = pair([("Dense", {"units": columns, "activation": activation})], (6,))
    ours.compile("sgd", loss, metrics=["accuracy"], backend="reference")
    theirs.compile("sgd", loss, metrics=["accuracy"])
    assert error(ours.evaluate(x, y, verbose=0), theirs.evaluate(x, y, verbose=0)) < 1e-5


INITIALIZERS = {
    "zeros": {},
    "ones": {},
    "constant": {"value": 0.3},
    "random_uniform": {"minval": -0.2, "maxval": 0.1},
    "random_normal": {"mean": 1.0, "stddev": 0.1},
    "truncated_normal": {"mean": -1.0, "stddev": 0.2},
    "variance_scaling": {"scale": 3.0, "mode": "fan_out", "distribution": "uniform"},
    "glorot_uniform": {},
    "glorot_normal": {},
    "he_uniform": {},
    "he_normal": {},
    "lecun_uniform": {},
    "lecun_normal": {},
    "orthogonal": {"gain": 2.0},
}


@pytest.mark.parametrize("name", INITIALIZERS)
@pytest.mark.parametrize("shape", [(3, 3, 32, 96), (200, 300)])
def test_initial_weights(name, shape):
    """The same distribution as Keras': mean, deviation, the largest magnitude, and the middle half."""
    theirs = keras.initializers.get({"class_name": name, "config": INITIALIZERS[name]})(shape).numpy()
    kind = type(initializers.get(name))
    ours = kind(**INITIALIZERS[name])(shape, np.random.default_rng(0))
    assert ours.shape == theirs.shape
    spread = theirs.std()
    sampling = 6 * spread / np.sqrt(theirs.size) + 1e-7
    assert abs(ours.mean() - theirs.mean()) < 2 * sampling
    assert abs(ours.std() - spread) < 2 * sampling
    if name != "orthogonal" and ("normal" not in name or "random" not in name):  # the others end somewhere
        assert np.abs(ours).max() == pytest.approx(np.abs(theirs).max(), rel=0.01)
    np.testing.assert_allclose(np.quantile(ours, [0.25, 0.75]), np.quantile(theirs, [0.25, 0.75]), atol=4 * sampling)


def test_orthogonal_weights_are_orthogonal():
    """Columns where the matrix is tall, rows where it is wide; both signs occur."""
    for shape in ((3, 3, 4, 6), (5, 20), (7, 7)):
        matrix = initializers.Orthogonal(gain=3.0)(shape, np.random.default_rng(1)).reshape(-1, shape[-1])
        product = matrix.T @ matrix if matrix.shape[0] >= matrix.shape[1] else matrix @ matrix.T
        np.testing.assert_allclose(product, 9 * np.eye(len(product)), atol=1e-12)
        assert (matrix > 0).any()
        assert (matrix < 0).any()
    with pytest.raises(ValueError, match=r"Orthogonal needs .* two axes.*Received: \(3,\)"):
        initializers.Orthogonal()((3,), np.random.default_rng(0))


@pytest.mark.parametrize("name", dir(keras.initializers))
def test_every_name_of_an_initialiser_means_what_it_means_in_keras(name):
    """As an attribute and as a text; but for Identity and STFT."""
    theirs = getattr(keras.initializers, name)
    if name.startswith("_") or not isinstance(theirs, type) or theirs.__name__ in ("Identity", "STFT"):
        return
    assert getattr(initializers, name).__name__ == theirs.__name__
    if theirs is not keras.initializers.Initializer:
        assert type(initializers.get(name)).__name__ == theirs.__name__


def test_a_layers_initial_weights():
    """Glorot's uniform kernel and a bias of zeros, from the layer's own defaults; the moving variance is 1."""
    conv, dense = tinyconv.layers.Conv2D(96, 3), tinyconv.layers.Dense(100)
    conv.build((None, 8, 8, 32))
    dense.build((None, 250))
    for layer, limit in ((conv, np.sqrt(6 / (9 * 32 + 9 * 96))), (dense, np.sqrt(6 / 350))):
        kernel, bias = layer.get_weights()
        assert 0.99 * limit < np.abs(kernel).max() <= limit
        assert kernel.std() == pytest.approx(limit / np.sqrt(3), rel=0.02)
        assert not bias.any()
    norm = tinyconv.layers.BatchNormalization()
    norm.build((None, 3))
    np.testing.assert_array_equal(norm.get_weights(), [[1] * 3, [0] * 3, [0] * 3, [1] * 3])


@pytest.mark.long
def test_summary():
    """Every layer's name, type, shape and number of parameters, and the totals, as Keras prints them."""
    stack = [
        ("Conv2D", {"filters": 32, "kernel_size": (3, 3)}),
        ("BatchNormalization", {}),
        ("MaxPooling2D", {}),
        ("Conv2D", {"filters": 64, "kernel_size": (3, 3)}),
        ("GlobalAveragePooling2D", {}),
        ("Dropout", {"rate": 0.5}),
        ("Dense", {"units": 10}),
    ]
    keras.backend.clear_session()  # its layers' names start from no number again
    seen = []
    for package in (tinyconv, keras):
        layers = [getattr(package.layers, name)(**arguments) for name, arguments in stack]
        model = package.Sequential([package.Input((28, 28, 1)), *layers])
        lines = []
        model.summary(print_fn=lambda line, line_break=True, lines=lines: lines.append(line))
        text = re.sub("[│┃]", " ", "\n".join(lines))
        rows = re.findall(r"^ *(\w+) .*?(\(None[^)]*\)) +([\d,]+) *$", text, re.MULTILINE)
        seen.append((rows, re.findall(r"\(([A-Z]\w+2?D?)\)", text), re.findall(r"[\w-]+ params: [\d,]+", text)))
    assert len(seen[0][0]) == len(stack)
    assert seen[0] == seen[1]


class Recorder:
    """Notes every hook, its index, and the names in its logs."""

    def __init__(self):
        super().__init__()
        self.events = []


def record(hook):
    def noted(self, *arguments, **named):
        *index, logs = arguments if "logs" not in named else (*arguments, named["logs"])
        self.events.append((hook, *index, tuple(sorted(logs or {}))))

    return noted


HOOKS = [f"on_{phase}_{edge}" for phase in ("train", "test", "predict", "epoch") for edge in ("begin", "end")]
HOOKS += [f"on_{phase}_batch_{edge}" for phase in ("train", "test", "predict") for edge in ("begin", "end")]


def recorder(base):
    """A callback of that package that overrides every hook."""
    return type("Recording", (Recorder, base), {hook: record(hook) for hook in HOOKS})()


def simplified(events):
    """A hook without logs may be given None or nothing: its index is what counts."""
    return [(hook, *(part for part in rest if isinstance(part, int)), rest[-1]) for hook, *rest in events]


@pytest.mark.long
def test_callback_hooks():
    """The same hooks in the same order with the same names in their logs, from fit, evaluate and predict."""
    x, y = data(25)
    ours, theirs = pair(head(4, "softmax"))
    ours.compile("sgd", "categorical_crossentropy", metrics=["accuracy"], backend="cpu")
    theirs.compile("sgd", "categorical_crossentropy", metrics=["accuracy"])
    seen = []
    for model, base in ((ours, callbacks.Callback), (theirs, keras.callbacks.Callback)):
        recording = recorder(base)
        settings = {"batch_size": 10, "verbose": 0, "callbacks": [recording]}
        model.fit(x, y, epochs=2, validation_split=0.2, **settings)
        model.evaluate(x, y, **settings)
        model.predict(x, **settings)
        seen.append(simplified(recording.events))
        assert set(recording.params) >= {"epochs", "steps", "verbose"}
        assert recording.model is model
    assert seen[0] == seen[1]


class Watched:
    """What EarlyStopping needs of a model: weights that say how often it has been trained."""

    def __init__(self):
        self.trained, self.stop_training, self.metrics, self.history = 0, False, [], None

    def get_weights(self):
        return [np.array([self.trained])]

    def set_weights(self, weights):
        self.trained = int(weights[0][0])


def epochs_of(stopping, values, name):
    """Drive a callback through epochs whose logs hold these values; which epoch stopped, and the weights at the end."""
    model, last = Watched(), None
    stopping.set_model(model)
    stopping.on_train_begin()
    for epoch, value in enumerate(values):
        model.trained, last = epoch, epoch
        stopping.on_epoch_end(epoch, {name: value})
        if model.stop_training:
            break
    stopping.on_train_end()
    return last, model.trained, stopping.stopped_epoch, stopping.best_epoch


@examples(150)
@given(
    st.lists(st.integers(0, 8).map(lambda n: n / 4), min_size=1, max_size=9),
    st.fixed_dictionaries(
        {
            "patience": st.integers(0, 3),
            "min_delta": st.sampled_from([0, 0.25, 0.3]),
            "baseline": st.sampled_from([None, 1.0]),
            "restore_best_weights": st.booleans(),
            "start_from_epoch": st.integers(0, 3),
            "mode": st.sampled_from(["min", "max"]),
        }
    ),
)
def test_early_stopping(values, settings):
    """Whatever a value does over the epochs: the same epoch stops, and the same weights stay."""
    name = "val_loss" if settings["mode"] == "min" else "val_accuracy"
    ours = epochs_of(callbacks.EarlyStopping(monitor=name, **settings), values, name)
    assert ours == epochs_of(keras.callbacks.EarlyStopping(monitor=name, **settings), values, name)


def test_early_stopping_stops_fit():
    """The first epoch without improvement ends the training, and the best weights come back."""
    x, y = data(30)
    ours, _ = pair(head(4, "softmax"))
    ours.compile(tinyconv.optimizers.SGD(5.0), "categorical_crossentropy", backend="cpu")  # too fast to get better
    before = ours.evaluate(x, y, verbose=0)
    stopping = callbacks.EarlyStopping(monitor="loss", restore_best_weights=True)
    history = ours.fit(x, y, epochs=50, verbose=0, callbacks=stopping, shuffle=False, batch_size=30)
    assert len(history.epoch) < 50
    assert history.history["loss"][0] == pytest.approx(before, rel=1e-5)
    assert stopping.best_epoch == int(np.argmin(history.history["loss"]))


SCHEDULES = {
    "ExponentialDecay": [
        {"initial_learning_rate": 0.1, "decay_steps": 7, "decay_rate": 0.5},
        {"initial_learning_rate": 0.1, "decay_steps": 7, "decay_rate": 0.5, "staircase": True},
    ],
    "CosineDecay": [
        {"initial_learning_rate": 0.1, "decay_steps": 20},
        {"initial_learning_rate": 0.1, "decay_steps": 20, "alpha": 0.2},
        {"initial_learning_rate": 0.0, "decay_steps": 20, "alpha": 0.1, "warmup_target": 0.3, "warmup_steps": 10},
    ],
    "InverseTimeDecay": [
        {"initial_learning_rate": 0.1, "decay_steps": 7, "decay_rate": 0.5},
        {"initial_learning_rate": 0.1, "decay_steps": 7, "decay_rate": 0.5, "staircase": True},
    ],
    "PolynomialDecay": [
        {"initial_learning_rate": 0.1, "decay_steps": 12},
        {"initial_learning_rate": 0.1, "decay_steps": 12, "end_learning_rate": 0.02, "power": 0.5},
        {"initial_learning_rate": 0.1, "decay_steps": 12, "power": 2.0, "cycle": True},
    ],
    "PiecewiseConstantDecay": [{"boundaries": [5, 12], "values": [0.3, 0.2, 0.1]}],
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule(name):
    """The learning rate of forty steps."""
    for arguments in SCHEDULES[name]:
        ours, theirs = getattr(schedules, name)(**arguments), getattr(keras.optimizers.schedules, name)(**arguments)
        rates = [float(theirs(step)) for step in range(40)]
        np.testing.assert_allclose([ours(step) for step in range(40)], rates, rtol=1e-5, atol=1e-8)


def test_to_categorical():
    for labels, classes in (([0, 2, 1], None), ([[1], [0]], 4), (np.arange(6).reshape(2, 3), 6)):
        ours, theirs = (package.utils.to_categorical(labels, classes) for package in (tinyconv, keras))
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype


def test_optimizers_and_schedules_as_dictionaries():
    """The same as Keras', and back; a schedule within an optimiser too."""
    settings = {"name": "mine", "learning_rate": 0.02, "rho": 0.8, "momentum": 0.5, "centered": True, "clipvalue": 0.5}
    cosine = {"initial_learning_rate": 0.1, "decay_steps": 20}
    for rate in (0.02, "schedule"):
        made = []
        for package in (tinyconv, keras):
            optimizers = package.optimizers
            given = optimizers.schedules.CosineDecay(**cosine) if rate == "schedule" else rate
            made.append(optimizers.RMSprop(**settings | {"learning_rate": given}))
        ours, theirs = tinyconv.optimizers.serialize(made[0]), keras.optimizers.serialize(made[1])
        rates = [each["config"].pop("learning_rate") for each in (ours, theirs)]
        assert rates[0] == (rates[1] if rate == "schedule" else pytest.approx(rates[1]))
        assert ours == theirs | {"config": {name: theirs["config"][name] for name in ours["config"]}}
        ours["config"]["learning_rate"], theirs["config"]["learning_rate"] = rates
        again = tinyconv.optimizers.deserialize(ours)
        assert tinyconv.optimizers.serialize(again) == ours
        assert keras.optimizers.deserialize(ours).get_config()["rho"] == 0.8
    with pytest.raises(ValueError, match=r"RMSprop can clip in one way only\. Expected one of clipnorm, clipvalue, "):
        tinyconv.optimizers.RMSprop(clipnorm=1, clipvalue=1)


def test_a_batch_reports_its_own_loss_and_metrics_whatever_ran_before():
    """As since Keras 3.15, of several outputs and with weights; before, these were means since ``reset_metrics``."""
    rng = np.random.default_rng(8)
    x, weights = rng.random((12, 5), np.float32), rng.random(12).astype(np.float32)
    y = [rng.integers(0, 3, 12), rng.random((12, 1), np.float32)]
    found = []
    for library, more in ((keras, {}), (tinyconv, {"backend": "reference"})):
        kinds, source = library.layers, library.Input((5,))
        heads = [kinds.Dense(3, activation="softmax", name="a")(source), kinds.Dense(1, name="b")(source)]
        model = library.Model(source, heads)
        rows = iter(np.linspace(-1, 1, 24, dtype=np.float32))
        model.set_weights([np.array([next(rows) for _ in range(w.size)]).reshape(w.shape) for w in model.get_weights()])
        settings = {"metrics": [["accuracy"], ["mae"]], "weighted_metrics": [["accuracy"], []]}
        model.compile("sgd", ["sparse_categorical_crossentropy", "mse"], **settings, **more)

        class Reset(library.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                self.model.reset_metrics()

        reports = []
        for count in (4, 12):
            part = x[:count], [each[:count] for each in y]
            reports.append(model.train_on_batch(*part, sample_weight=[weights[:count], np.ones(count)]))
            reports.append(model.test_on_batch(*part))
            run = {"batch_size": 6, "shuffle": False, "verbose": 0, "callbacks": [Reset()]}
            logs = model.fit(x, y, sample_weight=[weights, np.ones(12)], **run).history
            reports.append([logs[key][0] for key in sorted(logs)])
            model.evaluate(x[:5], [each[:5] for each in y], verbose=0)
        found.append(reports)
    for ours, theirs in zip(found[1], found[0], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.long
def test_data_may_lack_the_last_axis_or_stand_in_a_list_or_a_dictionary():
    """A last axis of length 1 may be missing or be too many, and one input may be [x]."""
    rng = np.random.default_rng(9)
    x, y = rng.random((6, 4, 4, 1), np.float32), rng.random((6, 2), np.float32)

    def results(library, **more):
        kinds, found = library.layers, []
        for shape in ((4, 4, 1), (4, 4)):
            model = library.Sequential([library.Input(shape), kinds.Flatten(), kinds.Dense(2)])
            model.set_weights([np.linspace(-1, 1, w.size).reshape(w.shape) for w in model.get_weights()])
            model.compile("sgd", "mse", **more)
            run = {"batch_size": 6, "verbose": 0}
            for images, targets in ((x, y), (x[..., 0], y), ([x], [y]), ((x[..., 0],), y)):
                found.append(model.fit(images, targets, validation_data=(images, targets), **run).history["val_loss"])
            found += [model.predict(x[..., 0], verbose=0), model.evaluate([x], [y], verbose=0), model(x[..., 0])]
        b, a = library.Input((1,), name="b"), library.Input((1,), name="a")
        model = library.Model({"b": b, "a": a}, kinds.Subtract()([b, a]))
        found.append(model.predict({"a": np.arange(3.0), "b": np.ones(3)}, verbose=0))
        return found, model

    (ours, model), (theirs, keras_model) = results(tinyconv, backend="reference"), results(keras)
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5)
    assert model.input_names == ["a", "b"] == tinyconv.models.model_from_json(keras_model.to_json()).input_names
    image = tinyconv.Input((3,), name="c")
    with pytest.raises(ValueError, match=r"The input 'd' of Model has another name.*Fix: Input\(\.\.\., name='d'\)"):
        tinyconv.Model({"d": image}, image)
    with pytest.raises(ValueError, match="A dictionary of outputs is not supported; their names are output_names"):
        tinyconv.Model(image, {"c": image})


def test_regularizers_are_functions():
    weights = np.linspace(-1, 2, 12, dtype=np.float32).reshape(3, 4)
    for name, settings in (("L1", {"l1": 0.2}), ("L2", {"l2": 0.3}), ("L1L2", {"l1": 0.1, "l2": 0.5}), ("L1L2", {})):
        ours, theirs = (getattr(library.regularizers, name)(**settings)(weights) for library in (tinyconv, keras))
        assert ours == pytest.approx(float(theirs), rel=1e-5)
