"""Whole networks in the CUDA simulator: training, evaluation and prediction against the CPU's kernels."""

import numpy as np
import pytest

import tinyconv
from tests.cuda_sim.compare import on_device, on_host
from tinyconv import kernels, layers
from tinyconv.kernels import cuda
from tinyconv.kernels.cuda.runtime import memory

random = np.random.default_rng(6)


def digits(seed):
    """The MNIST network, smaller: its fused step, its dropout behind the pooling, its dense head."""
    tinyconv.utils.set_random_seed(seed)
    return tinyconv.Sequential(
        [
            tinyconv.Input(shape=(6, 6, 1)),
            layers.Conv2D(3, kernel_size=3, activation="relu"),
            layers.MaxPooling2D(pool_size=2),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(2, activation="softmax"),
        ]
    )


def general(seed):
    """What the fused step does not cover: strides, same padding, normalisation, other pooling, another activation."""
    tinyconv.utils.set_random_seed(seed)
    return tinyconv.Sequential(
        [
            tinyconv.Input(shape=(5, 5, 2)),
            layers.Conv2D(3, kernel_size=(3, 2), strides=2, padding="same"),
            layers.BatchNormalization(),
            layers.Activation("tanh"),
            layers.MaxPooling2D(pool_size=2, strides=1),
            layers.GlobalAveragePooling2D(),
            layers.Dense(2),
        ]
    )


def pair(make, optimizer, **settings):
    """The same network on both kernel sets, each with an optimizer of its own."""
    models = [make(3) for _ in range(2)]
    for model, backend in zip(models, ("cuda", "cpu"), strict=True):
        model.compile(backend=backend, optimizer=optimizer(), **settings)
    return models


def assert_equal_weights(left, right):
    for a, b in zip(left.get_weights(), right.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_training_agrees_with_the_cpu_over_a_ragged_last_batch():
    x = random.random((5, 6, 6, 1), dtype=np.float32)
    y = np.eye(2, dtype=np.float32)[random.integers(0, 2, 5)]
    ours, theirs = pair(
        digits, loss="categorical_crossentropy", optimizer=tinyconv.optimizers.Adam, metrics=["accuracy"]
    )
    histories = [model.fit(x, y, batch_size=3, verbose=0).history for model in (ours, theirs)]
    for name in histories[1]:
        np.testing.assert_allclose(histories[0][name], histories[1][name], rtol=1e-5)
    assert_equal_weights(ours, theirs)
    np.testing.assert_allclose(ours.predict(x, batch_size=5), theirs.predict(x, batch_size=5), rtol=1e-5)
    np.testing.assert_allclose(ours.evaluate(x, y, verbose=0), theirs.evaluate(x, y, verbose=0), rtol=1e-5)


def test_a_stream_of_batches_is_trained_as_arrays_are_by_the_reference():
    x, y = random.random((3, 4), dtype=np.float32), random.integers(0, 2, 3)
    models = []
    for backend in ("cuda", "reference"):
        tinyconv.utils.set_random_seed(3)
        model = tinyconv.Sequential([tinyconv.Input((4,)), layers.Dense(2, activation="softmax")])
        model.compile("sgd", "sparse_categorical_crossentropy", backend=backend)
        models.append(model)
    ours, theirs = models
    stream = [(x[:2], y[:2]), (x[2:], y[2:])]
    history = ours.fit(iter(stream), verbose=0, validation_data=iter(stream)).history
    expected = theirs.fit(x, y, batch_size=2, verbose=0, shuffle=False, validation_data=(x, y)).history
    for name in expected:
        np.testing.assert_allclose(history[name], expected[name], rtol=1e-5)
    assert_equal_weights(ours, theirs)
    result = ours.predict(iter(stream), on_device=True)
    np.testing.assert_allclose(on_host(result), theirs.predict(x), rtol=1e-5)


def test_a_general_network_agrees_with_the_cpu():
    x, y = random.standard_normal((2, 5, 5, 2)).astype(np.float32), random.random((2, 2), dtype=np.float32)
    ours, theirs = pair(general, loss="mse", optimizer=lambda: tinyconv.optimizers.SGD(0.1, momentum=0.9))
    losses = [[model.train_on_batch(x, y) for _ in range(2)] for model in (ours, theirs)]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    assert_equal_weights(ours, theirs)


def test_metrics_are_counted_beside_what_does_not_need_them():
    forward, penalty, backward = object(), object(), object()
    loss, metric = (cuda.accumulate, (1,)), (cuda.count_correct, ())
    before, after = ((forward, ()),), ((backward, ()), (cuda.advance, ()))
    assert memory._parted((*before, loss, metric, loss, *after)) == (before, (loss, metric, loss), after)
    assert memory._parted((*before, *after)) == ((*before, *after), (), ())
    assert memory._parted((*before, loss)) == (before, (loss,), ())
    penalised = (*before, loss, metric, (penalty, ()), loss, *after)  # the penalty is counted with the loss
    assert memory._parted(penalised) == (penalised, (), ())
    assert set(memory.COUNTING) <= set(kernels.contract())


def test_device_arrays_are_taken_as_they_are():
    array = cuda.allocate((3, 2), np.float32)
    assert cuda.as_device_array(array) is array
    with pytest.raises(TypeError, match="Expected an array on a CUDA device"):
        cuda.as_device_array([1.0])
    with pytest.raises(TypeError, match="Received one on DLPack device type 1"):
        cuda.as_device_array(np.zeros(3, np.float32))


def test_a_device_array_is_trained_on_and_predicted_without_leaving_the_device():
    x, y = random.random((3, 6, 6, 1), dtype=np.float32), np.array([0, 1, 1])
    there = on_device(x)
    model = digits(3)
    model.compile(loss="sparse_categorical_crossentropy", optimizer="adam", backend="cuda")
    result = model.predict(there, on_device=True)
    assert cuda.on_device(result)
    np.testing.assert_array_equal(on_host(result), model.predict(x))
    same = digits(3)
    same.compile(loss="sparse_categorical_crossentropy", optimizer="adam", backend="cuda")
    assert model.train_on_batch(there, y) == same.train_on_batch(x, y)
    with pytest.raises(ValueError, match=r"Expected \(batch, 6, 6, 1\), at least one sample. Received: \(108,\)"):
        model.predict(there.reshape(108))


def test_a_trace_is_the_references():
    """Its arrays are fetched from the device, and the model's are left as they are."""
    models = [digits(3) for _ in range(2)]
    x, y = random.random((2, 6, 6, 1), dtype=np.float32), np.array([0, 1])
    for model, backend in zip(models, ("cuda", "reference"), strict=True):
        model.compile("adam", "sparse_categorical_crossentropy", backend=backend)
    before = models[0].get_weights()
    ours, theirs = (model.trace(x, y) for model in models)
    for old, new in zip(before, models[0].get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-5)
    for name in ours:
        for what in dir(ours[name]) if hasattr(ours[name], "layer") else ["dinput", "losses"]:
            np.testing.assert_allclose(getattr(ours[name], what), getattr(theirs[name], what), rtol=1e-4, atol=1e-6)
