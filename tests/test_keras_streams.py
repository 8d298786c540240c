"""The same generators and data sets in Keras and here: the same histories."""

import itertools
import warnings

import numpy as np
import pytest

import tinyconv
from tests.peer import keras

tf = pytest.importorskip("tensorflow")
RNG = np.random.default_rng(0)
X = RNG.standard_normal((22, 5)).astype(np.float32)
Y = RNG.integers(0, 3, 22).astype(np.int32)
W = RNG.random(22).astype(np.float32)
SIZES = [slice(first, first + 6) for first in range(0, 22, 6)]


@pytest.fixture(scope="module")
def pair():
    """The same network here and in Keras, compiled once; it has no dropout, and its optimiser no moments."""
    models = []
    for package in (tinyconv, keras):
        layers = package.layers
        model = package.Sequential([package.Input((5,)), layers.Dense(4, "tanh"), layers.Dense(3, "softmax")])
        settings = {"backend": "reference"} if package is tinyconv else {}
        model.compile(package.optimizers.SGD(0.1), "sparse_categorical_crossentropy", metrics=["acc"], **settings)
        models.append(model)
    return models


def same(pair, call):
    """Both models do the same, from the same weights."""
    ours, theirs = pair
    weights = ours.get_weights()
    theirs.set_weights(weights)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of ends, and of Keras' own about shuffling
        mine, peer = call(ours, tinyconv), call(theirs, keras)
        ours.set_weights(weights)
    if not isinstance(mine, dict):
        np.testing.assert_allclose(mine, peer, rtol=1e-4, atol=1e-6)
        return
    assert mine.keys() == peer.keys()
    for name in mine:
        np.testing.assert_allclose(mine[name], peer[name], rtol=1e-4, atol=1e-6)


def batches(*arrays):
    for size in SIZES:
        yield tuple(array[size] for array in arrays)


def endless(*arrays):
    return (batch for _ in itertools.count() for batch in batches(*arrays))


def numbered(package):
    """A PyDataset that sorts its batches anew between the epochs, as the documentation of Keras shows it."""

    class Numbered(package.utils.PyDataset):
        def __init__(self, *arrays):
            super().__init__()
            self.arrays, self.order, self.random = arrays, np.arange(22), np.random.default_rng(1)

        def __len__(self):
            return len(SIZES)

        def __getitem__(self, index):
            return tuple(array[self.order[SIZES[index]]] for array in self.arrays)

        def on_epoch_end(self):
            self.order = self.random.permutation(22)

    return Numbered


DATA = {
    "generator": lambda package, *arrays: endless(*arrays),
    "PyDataset": lambda package, *arrays: numbered(package)(*arrays),
    "tf.data": lambda package, *arrays: tf.data.Dataset.from_tensor_slices(arrays).batch(6),
    "Keras' PyDataset": lambda package, *arrays: numbered(keras)(*arrays),
}


@pytest.mark.parametrize("kind", DATA)
def test_histories_are_those_of_keras(pair, kind):
    """With weights of samples, and a validation over a part of the batches."""

    def fit(model, package):
        data = DATA[kind](package, X, Y, W)
        validation = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)
        steps = 3 if kind == "generator" else None
        settings = {"validation_data": validation, "validation_steps": 2, "shuffle": False, "verbose": 0}
        return model.fit(data, epochs=3, steps_per_epoch=steps, **settings).history

    same(pair, fit)


@pytest.mark.parametrize("kind", ["PyDataset", "tf.data", "arrays"])
@pytest.mark.parametrize("steps", [3, 5])
def test_steps_are_those_of_keras(pair, kind, steps):
    """An epoch that goes on where the last one ended, and one that runs out."""

    def fit(model, package):
        data = (X, Y, 6) if kind == "arrays" else (DATA[kind](package, X, Y),)
        if kind == "PyDataset":  # how far ahead batches are read is a matter of time, in both libraries
            data[0].on_epoch_end = lambda: None
        return model.fit(*data, epochs=3, steps_per_epoch=steps, shuffle=False, verbose=0).history

    same(pair, fit)


def test_evaluation_and_prediction_are_those_of_keras(pair):
    for steps in (None, 2):
        same(pair, lambda model, package, n=steps: model.evaluate(numbered(package)(X, Y, W), steps=n, verbose=0))
        same(pair, lambda model, package, n=steps: model.evaluate(X, Y, 6, 0, steps=n))
        same(pair, lambda model, package, n=steps: model.predict(batches(X, Y), steps=n, verbose=0))


def test_class_weights_of_a_data_set_are_those_of_keras(pair):
    weights = {0: 0.5, 1: 2.0, 2: 1.0}
    for kind in ("PyDataset", "tf.data"):

        def fit(model, package, kind=kind):
            return model.fit(DATA[kind](package, X, Y), class_weight=weights, shuffle=False, verbose=0).history

        same(pair, fit)


def test_the_order_of_calls_is_that_of_keras(pair):
    """Of the hooks of data sets."""
    logs = []

    def fit(model, package):
        log = []

        class Hooked(numbered(package)):
            def on_epoch_begin(self):
                log.append("begin")

            def on_epoch_end(self):
                log.append("end")

        logs.append(log)
        return model.fit(Hooked(X, Y), epochs=2, validation_data=Hooked(X, Y), verbose=0, shuffle=False).history

    same(pair, fit)
    assert logs[0] == logs[1]
