"""A trace beside Keras: every array of a step, layer by layer."""

import numpy as np
import pytest

import tinyconv
from tests.peer import keras
from tinyconv import optimizers


def stack(package):
    """A model with one of each usual layer, named as the packages name them."""
    layers = package.layers
    return package.Sequential(
        [
            package.Input((8, 7, 2)),
            layers.Conv2D(4, 3, padding="same", activation="relu", kernel_regularizer="l2"),
            layers.BatchNormalization(momentum=0.8),
            layers.MaxPooling2D(2),
            layers.SeparableConv2D(3, 2, activation="elu"),
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.LayerNormalization(),
            layers.Dense(4, activation="softmax", bias_regularizer="l1"),
        ]
    )


def graph(package):
    """A shared layer, a model within, and merges."""
    layers = package.layers
    image = package.Input((6,), name="image")
    inner = package.Model(image, layers.Dense(5, activation="tanh", name="code")(image), name="encoder")
    left, right = package.Input((6,), name="left"), package.Input((6,), name="right")
    shared = layers.Dense(5, activation="relu", name="shared")
    a, b = shared(inner(left)), shared(inner(right))
    out = layers.Dense(2, name="out")(layers.Concatenate(name="joined")([layers.Multiply(name="product")([a, b]), a]))
    return package.Model([left, right], out)


@pytest.mark.parametrize("network", [stack, graph])
def test_every_array_is_keras(network, record_property):
    tinyconv.utils.set_random_seed(1)
    ours, theirs = network(tinyconv), network(keras)
    rng = np.random.default_rng(0)
    if network is stack:
        loss, x, y = "sparse_categorical_crossentropy", rng.standard_normal((5, 8, 7, 2)), rng.integers(0, 4, 5)
    else:
        loss, x, y = "mse", [rng.standard_normal((5, 6)) for _ in range(2)], rng.standard_normal((5, 2))
    ours.compile("adam", loss, backend="reference")
    ours.train_on_batch(x, y)
    theirs.compile("adam", loss)
    before = theirs.get_weights()
    found = ours.trace(x, y).compare(theirs)
    record_property("largest relative difference to Keras", found.largest)
    assert found.largest <= 1e-4
    compared = {each.tensor for each in found.rows}
    for name, weight in ours.trace(x, y).weights.items():
        layer, _, own = name.rpartition("/")
        assert f"{layer}, new_{own}" in compared
        assert (f"{layer}, d{own}" in compared) == (weight.gradient is not None)
    assert {"shared:1, dinput", "encoder/code, output", "joined, dinput_1", "loss"} <= compared or network is stack
    assert any("draws at random" in note for note in found.notes) == (network is stack)
    for old, new in zip(before, theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    forward = ours.trace(x).compare(theirs)
    assert forward.largest <= 1e-5
    assert "output" in str(forward)
    assert "arrays compared with Keras" in repr(forward)


@pytest.mark.parametrize(
    "optimizer",
    [
        optimizers.Adam(optimizers.schedules.CosineDecay(0.1, 10), clipnorm=0.1),
        optimizers.AdamW(0.1, weight_decay=0.1),
        optimizers.RMSprop(0.1, momentum=0.5, centered=True, global_clipnorm=0.2),
        optimizers.SGD(0.1, momentum=0.9, nesterov=True, clipvalue=0.01),
        optimizers.SGD(0.1),
    ],
    ids=lambda optimizer: optimizer.name,
)
def test_every_step_is_keras(optimizer):
    ours, theirs = (
        package.Sequential([package.Input((4,)), package.layers.Dense(3), package.layers.Dense(2)])
        for package in (tinyconv, keras)
    )
    ours.compile(optimizer, "mse", backend="reference")
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((5, 4)), rng.standard_normal((5, 2))
    for _ in range(3):
        ours.train_on_batch(x, y)
    found = [each for each in ours.trace(x, y).compare(theirs).rows if ", new_" in each.tensor]
    assert len(found) == 4
    assert max(each.difference for each in found) <= 1e-6


def test_what_cannot_be_compared_is_named():
    ours, theirs = stack(tinyconv), graph(keras)
    ours.compile("sgd", backend="reference")
    trace = ours.trace(np.zeros((1, 8, 7, 2)))
    with pytest.raises(
        ValueError, match=r"The layers differ. Expected Conv2D 'conv2d', .* Received: Dense 'encoder/code'"
    ):
        trace.compare(theirs)
    with pytest.raises(ValueError, match="Expected a model of Keras with the same layers"):
        trace.compare(ours)
