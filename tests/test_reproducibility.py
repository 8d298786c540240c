"""The same seed gives the same bits: again, on any number of threads, whatever is around it."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import tinyconv
from tests.strategies import few
from tinyconv import layers

# A network with every kind of reduction, dropout fused and not, a ragged last batch; what comes out is a digest.
PROGRAM = """
import hashlib, json, sys
import numpy as np
import tinyconv
from tinyconv import layers

backend, fuse, seed, optimizer = json.loads(sys.argv[1])
rng = np.random.default_rng(0)
x, y = rng.random((75, 14, 13, 3), np.float32), rng.integers(0, 10, 75)
tinyconv.utils.set_random_seed(seed)
model = tinyconv.Sequential([
    tinyconv.Input((14, 13, 3)),
    layers.Conv2D(19, 3, activation="relu"),
    layers.MaxPooling2D(2),
    layers.Dropout(0.2),
    layers.Conv2D(33, 3, padding="same", use_bias=False, kernel_regularizer="l2"),
    layers.BatchNormalization(),
    layers.Activation("tanh"),
    layers.AveragePooling2D(2, padding="same"),
    layers.Flatten(),
    layers.Dropout(0.5),
    layers.Dense(10, activation="softmax"),
])
model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], backend=backend, fuse=fuse)
history = model.fit(x, y, batch_size=32, epochs=3, validation_split=0.2, verbose=0).history
digest = hashlib.sha256()
for array in (*model.get_weights(), model.predict(x), np.array([history[name] for name in sorted(history)])):
    digest.update(np.ascontiguousarray(array).tobytes())
print(digest.hexdigest())
"""


def digest(threads=None, backend="cpu", fuse=True, seed=7, optimizer="adam", **environment):
    """SHA-256 of the weights, predictions and history of a short training in a process of its own."""
    environment = os.environ | environment
    if threads is not None:
        environment["NUMBA_NUM_THREADS"] = str(threads)
    arguments = [sys.executable, "-c", PROGRAM, json.dumps([backend, fuse, seed, optimizer])]
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1]


@pytest.fixture(scope="module")
def one_thread():
    return digest(threads=1)


@pytest.mark.parametrize("threads", few([3, 2]))
def test_any_number_of_threads(threads, one_thread):
    assert digest(threads) == one_thread


@pytest.mark.long
def test_again(one_thread):
    assert digest(threads=1) == one_thread


@pytest.mark.long
def test_another_seed(one_thread):
    assert digest(threads=1, seed=8) != one_thread


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_other_optimizers(optimizer):
    assert digest(1, optimizer=optimizer) == digest(2, optimizer=optimizer)


@pytest.mark.slow
def test_unfused():
    assert digest(1, fuse=False) == digest(2, fuse=False)


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_other_threading_layers(layer, one_thread):
    assert digest(2, NUMBA_THREADING_LAYER=layer) == one_thread


@pytest.mark.slow
def test_the_mnist_network():
    """The real one, on the real images: two epochs of 3,000."""
    program = PROGRAM.replace(
        "rng = np.random.default_rng(0)",
        "(images, numbers), _ = tinyconv.datasets.mnist.load_data(); rng = np.random.default_rng(0)",
    ).replace(
        "x, y = rng.random((75, 14, 13, 3), np.float32), rng.integers(0, 10, 75)",
        "x, y = images[:3000, ..., None] / np.float32(255), numbers[:3000]",
    )
    program = program.replace("(14, 13, 3)", "(28, 28, 1)")
    digests = set()
    for threads in ("1", "2"):
        environment = os.environ | {"NUMBA_NUM_THREADS": threads}
        arguments = [sys.executable, "-c", program, json.dumps(["cpu", True, 7, "adam"])]
        done = subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=600, check=True)
        digests.add(done.stdout.split()[-1])
    assert len(digests) == 1


def network(backend, fuse, dropout=0.5):
    tinyconv.utils.set_random_seed(3)
    model = tinyconv.Sequential(
        [
            tinyconv.Input((10, 9, 2)),
            layers.Conv2D(8, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dropout(dropout),
            layers.Dense(7, activation="relu"),
            layers.Dropout(dropout / 2),
            layers.Dense(4, activation="softmax"),
        ]
    )
    model.compile("sgd", "categorical_crossentropy", metrics=["accuracy"], backend=backend, fuse=fuse)
    return model


def data(samples=45):
    rng = np.random.default_rng(4)
    return rng.standard_normal((samples, 10, 9, 2)).astype(np.float32), np.eye(4)[rng.integers(0, 4, samples)]


def test_plans_and_kernel_sets_agree():
    """Fused or not, reference or CPU: with dropout on, and a ragged batch, the same up to rounding."""
    x, y = data()
    models = {(backend, fuse): network(backend, fuse) for backend in ("reference", "cpu") for fuse in (True, False)}
    histories = {key: model.fit(x, y, batch_size=16, epochs=3, verbose=0).history for key, model in models.items()}
    expected, weights = histories["reference", False], models["reference", False].get_weights()
    for key, model in models.items():
        np.testing.assert_allclose(histories[key]["loss"], expected["loss"], rtol=1e-5, err_msg=str(key))
        assert histories[key]["accuracy"] == expected["accuracy"], key
        for mine, other in zip(model.get_weights(), weights, strict=True):
            np.testing.assert_allclose(mine, other, rtol=0, atol=1e-5, err_msg=str(key))


def test_dropout_draws_anew_each_step():
    """Else an epoch would train half a network; and evaluation and prediction draw nothing."""
    x, y = data()
    model = network("cpu", True)
    model.compile(tinyconv.optimizers.SGD(0.0), "categorical_crossentropy", backend="cpu")
    losses = model.fit(x, y, batch_size=45, epochs=5, shuffle=False, verbose=0).history["loss"]
    assert len(set(losses)) == 5
    np.testing.assert_array_equal(model.predict(x), model.predict(x))
    assert model.evaluate(x, y, verbose=0) == model.evaluate(x, y, verbose=0)


def test_resuming_an_epoch_at_a_time():
    """fit for two epochs, twice, is fit for four epochs: the order and the masks go by the step, not by the call."""
    x, y = data()
    once, twice = network("cpu", True), network("cpu", True)
    once.fit(x, y, batch_size=16, epochs=4, verbose=0)
    twice.fit(x, y, batch_size=16, epochs=2, verbose=0)
    twice.fit(x, y, batch_size=16, epochs=4, initial_epoch=2, verbose=0)
    np.testing.assert_equal(twice.get_weights(), once.get_weights())


def test_watching_changes_nothing():
    """Validation, evaluation, prediction and hooks in between leave the training as it would have been."""
    x, y = data()
    alone, watched = network("cpu", True), network("cpu", True)
    alone.fit(x, y, batch_size=16, epochs=3, verbose=0)

    class Watcher(tinyconv.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.predict(x[:5])
            self.model.evaluate(x[:9], y[:9], verbose=0)

        def on_epoch_end(self, epoch, logs=None):
            self.model.predict(x[:5])
            self.model.evaluate(x, y, verbose=0)
            self.model(x[:2])
            self.model.gradients(x, y)

    watched.fit(x, y, batch_size=16, epochs=3, verbose=0, validation_data=(x[:7], y[:7]), callbacks=[Watcher()])
    np.testing.assert_equal(watched.get_weights(), alone.get_weights())
