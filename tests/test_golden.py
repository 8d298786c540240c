"""Parity with Keras where there is no Keras: against the files that ``golden/generate.py`` wrote with it."""

import json
from pathlib import Path

import numpy as np
import pytest

import tinyconv
from tests.networks import run
from tinyconv import datasets, layers, optimizers

GOLDEN = Path(__file__).parent / "golden"
BACKENDS = ["reference", "cpu"]


def load(name):
    with np.load(GOLDEN / name) as archive:
        return dict(archive)


LAYERS, TRAINING, MNIST = load("layers.npz"), load("training.npz"), load("mnist.npz")
CASES, OPTIMIZERS = json.loads(str(LAYERS["cases"])), json.loads(str(TRAINING["optimizers"]))


def numbered(arrays, prefix):
    """The arrays prefix0, prefix1, and so on."""
    return [arrays[f"{prefix}{i}"] for i in range(sum(key.startswith(prefix) for key in arrays))]


def agree(ours, theirs, tolerance):
    """Equal, relative to the largest magnitude."""
    assert np.shape(ours) == np.shape(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * max(np.abs(theirs).max(), 1e-2))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda number: f"{number}-{CASES[number][0]}")
def test_layer(number, backend):
    """The output, the gradient of the input, and those of the weights."""
    x, dout = LAYERS[f"{number}/x"], LAYERS[f"{number}/dout"]
    out, dx, dweights, _ = run([CASES[number]], numbered(LAYERS, f"{number}/weight_"), x, dout, backend)
    agree(out, LAYERS[f"{number}/out"], 1e-5)
    agree(dx, LAYERS[f"{number}/dx"], 1e-4)
    for ours, theirs in zip(dweights, numbered(LAYERS, f"{number}/dweight_"), strict=True):
        agree(ours, theirs, 1e-4)


def network(description, shape):
    stack = [getattr(layers, name)(**arguments) for name, arguments in json.loads(str(description))]
    return tinyconv.Sequential([tinyconv.Input(shape), *stack])


def train(model, x, y, batch_size, steps):
    """The loss and the accuracy of each step's own batch; the batches go round the data."""
    batches = [np.arange(step * batch_size, (step + 1) * batch_size) % len(x) for step in range(steps)]
    return np.array([model.train_on_batch(x[batch], y[batch]) for batch in batches])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("number", range(len(OPTIMIZERS)), ids=lambda number: f"{number}-{OPTIMIZERS[number][0]}")
def test_training(number, fuse, backend):
    """Twenty steps of a small network: every loss, the weights after them, an evaluation and the predictions."""
    name, arguments = OPTIMIZERS[number]
    x, y = TRAINING["x"], TRAINING["y"]
    model = network(TRAINING["network"], x.shape[1:])
    model.set_weights(numbered(TRAINING, "initial_"))
    optimizer = getattr(optimizers, name)(**arguments)
    model.compile(optimizer, "categorical_crossentropy", metrics=["accuracy"], backend=backend, fuse=fuse)
    agree(train(model, x, y, 8, 20), TRAINING[f"{number}/losses"], 1e-4)
    for ours, theirs in zip(model.get_weights(), numbered(TRAINING, f"{number}/final_"), strict=True):
        agree(ours, theirs, 1e-4)
    agree(model.evaluate(x, y, batch_size=16, verbose=0), TRAINING[f"{number}/evaluation"], 1e-4)
    agree(model.predict(x, batch_size=16), TRAINING[f"{number}/predictions"], 1e-4)


@pytest.mark.parametrize("backend", [pytest.param("reference", marks=pytest.mark.slow), "cpu"])
def test_mnist_loss_curve(backend):
    """Ten steps of the whole network on the first images of MNIST, from equal weights, and an evaluation after them."""
    (x, labels), _ = datasets.mnist.load_data()
    x, y = x[:1280, :, :, None] / np.float32(255), tinyconv.utils.to_categorical(labels[:1280], 10)
    model = network(MNIST["network"], (28, 28, 1))
    model.set_weights([weights / np.float32(256) for weights in numbered(MNIST, "initial_")])
    model.compile("adam", "categorical_crossentropy", metrics=["accuracy"], backend=backend)
    agree(train(model, x, y, 128, 10), MNIST["losses"], 1e-4)
    agree(model.evaluate(x, y, batch_size=128, verbose=0), MNIST["evaluation"], 1e-3)
