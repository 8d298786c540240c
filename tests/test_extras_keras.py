"""The further basics together, in whole models beside Keras."""

import itertools

import numpy as np
import pytest

import tinyconv
from tests.peer import keras
from tests.strategies import few

BACKENDS = ["reference", "cpu"]


def stack(layers, regularizers):
    """Everything that is new, between convolutions and dense layers.

    No bias before a normalisation: its gradient is 0 but for rounding, of which Adam makes steps as large as any.
    """
    return [
        layers.Conv2D(4, 3, padding="same", use_bias=False, kernel_regularizer=regularizers.L2(0.03)),
        layers.BatchNormalization(momentum=0.8),
        layers.LeakyReLU(negative_slope=0.1),
        layers.MaxPooling2D(2),
        layers.Conv2D(5, 2, use_bias=False),
        layers.BatchNormalization(momentum=0.6, center=False, epsilon=0.01),
        layers.ELU(alpha=0.5),
        layers.Flatten(),
        layers.Dense(6, kernel_regularizer=regularizers.L2(0.01), use_bias=False),
        layers.BatchNormalization(scale=False),
        layers.Activation("elu"),
        layers.Dense(4, bias_regularizer=regularizers.L2(0.02)),
    ]


def models(last, loss, metrics, optimizer):
    """The same model in Keras and, for each backend, here, with the same weights."""
    made = []
    for package, options in ((keras, {}), *((tinyconv, {"backend": name}) for name in BACKENDS)):
        package.utils.set_random_seed(1)
        layers = [*stack(package.layers, package.regularizers), package.layers.Activation(last)]
        model = package.Sequential([package.Input((8, 7, 2)), *layers])
        model.compile(optimizer(package.optimizers), loss, metrics=metrics(package.metrics), **options)
        model.set_weights((made or [model])[0].get_weights())
        made.append(model)
    return made


def data(one_hot=True, samples=24):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((samples, 8, 7, 2)).astype(np.float32)
    y = rng.integers(0, 4, samples)
    return x, np.eye(4, dtype=np.float32)[y] if one_hot else y


CASES = {
    "adamw, cosine, top-k": (
        "softmax",
        "categorical_crossentropy",
        lambda metrics: ["accuracy", metrics.TopKCategoricalAccuracy(k=2)],
        lambda made: made.AdamW(made.schedules.CosineDecay(0.01, 9, warmup_target=0.02, warmup_steps=3), 0.05),
    ),
    "nesterov, exponential, sparse top-k": (
        "softmax",
        "sparse_categorical_crossentropy",
        lambda metrics: ["accuracy", metrics.SparseTopKCategoricalAccuracy(k=3)],
        lambda made: made.SGD(made.schedules.ExponentialDecay(0.02, 4, 0.7), momentum=0.9, nesterov=True),
    ),
    "adam, piecewise, binary": (
        "sigmoid",
        "binary_crossentropy",
        lambda metrics: ["accuracy", metrics.BinaryAccuracy(name="again")],
        lambda made: made.Adam(made.schedules.PiecewiseConstantDecay([2, 5], [0.01, 0.004, 0.001])),
    ),
}


@pytest.mark.parametrize("case", few(CASES))
def test_nine_steps_are_keras_nine_steps(case, record_property):
    """Losses, metrics, every weight and every moving statistic, and what is predicted afterwards."""
    last, loss, metrics, optimizer = CASES[case]
    theirs, *each = models(last, loss, metrics, optimizer)
    x, y = data(one_hot="sparse" not in loss)
    fit = {"batch_size": 8, "epochs": 3, "shuffle": False, "verbose": 0, "validation_data": (x, y)}
    expected, outputs = theirs.fit(x, y, **fit).history, np.asarray(theirs(x))
    for backend, ours in zip(BACKENDS, each, strict=True):
        history = ours.fit(x, y, **fit).history
        assert set(history) == set(expected)
        for name, values in expected.items():
            np.testing.assert_allclose(history[name], values, rtol=2e-4, atol=2e-5, err_msg=name)
        weights = zip(ours.get_weights(), theirs.get_weights(), strict=True)
        worst = max(np.abs(one - other).max() for one, other in weights)
        record_property(f"{backend}, largest difference of weights", worst)
        assert worst < 5e-5
        np.testing.assert_allclose(ours.predict(x), outputs, atol=2e-5)


def test_normalisation_disappears_into_the_product_before_it():
    """At inference: no step of its own after a convolution or a dense layer, and Keras' outputs all the same."""
    theirs, *each = models("softmax", "categorical_crossentropy", lambda metrics: [], lambda made: made.SGD(0.05))
    x, y = data()
    fit = {"batch_size": 8, "epochs": 2, "shuffle": False, "verbose": 0}
    theirs.fit(x, y, **fit)
    for ours in each:
        ours.fit(x, y, **fit)
        ours.set_weights(theirs.get_weights())
        np.testing.assert_allclose(ours.predict(x), np.asarray(theirs(x)), atol=2e-6)
        plan = ours._trainer.plan(24, training=False, with_loss=False)
        forward = [step.kernel_name for step in plan.steps["forward"]]
        assert "conv2d_forward" in forward
        assert not any(name.startswith("batch_norm") for name in forward)


def test_top_k_counts_ties_as_keras_does():
    """A class that shares its probability with others is among the first k if fewer than k are larger."""
    predictions = np.array([[0.2, 0.2, 0.2, 0.4], [0.25] * 4, [0.5, 0.5, 0.0, 0.0], [0.1, 0.2, 0.3, 0.4]], np.float32)
    y = np.eye(4, dtype=np.float32)[[0, 3, 2, 1]]
    for k in (1, 2, 3, 4):
        metric = tinyconv.metrics.TopKCategoricalAccuracy(k=k)
        ours = tinyconv.Sequential([tinyconv.Input((4,)), tinyconv.layers.Activation("linear")])
        ours.compile("sgd", "mse", metrics=[metric], backend="reference")
        found = ours.evaluate(predictions, y, verbose=0)[1]
        expected = keras.metrics.TopKCategoricalAccuracy(k=k)
        expected.update_state(y, predictions)
        assert found == pytest.approx(float(expected.result()))


def test_one_cycle_rises_to_its_peak_and_falls_to_almost_nothing():
    rate = tinyconv.optimizers.schedules.OneCycle(0.5, 200)
    rates = [rate(step) for step in range(260)]
    assert rates[0] == pytest.approx(0.5 / 25)
    assert max(rates) == rates[60] == pytest.approx(0.5)
    assert rates[30] == pytest.approx((0.5 + 0.5 / 25) / 2)  # half of half a cosine wave
    assert rates[200] == pytest.approx(0.5 / 25 / 1e4)
    assert all(later > earlier for earlier, later in itertools.pairwise(rates[:61]))
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[60:201]))
    assert rates[200:] == [rates[200]] * 60


def test_the_names_are_where_keras_has_them():
    """So that ``import tinyconv as keras`` is all that changes."""
    places = {
        "layers": ["BatchNormalization", "ELU", "LeakyReLU"],
        "optimizers": ["Adam", "AdamW", "SGD"],
        "optimizers.schedules": [
            "CosineDecay",
            "ExponentialDecay",
            "LearningRateSchedule",
            "PiecewiseConstantDecay",
        ],
        "callbacks": [
            "BackupAndRestore",
            "CSVLogger",
            "EarlyStopping",
            "LambdaCallback",
            "LearningRateScheduler",
            "ModelCheckpoint",
            "ReduceLROnPlateau",
            "TerminateOnNaN",
        ],
        "metrics": ["BinaryAccuracy", "SparseTopKCategoricalAccuracy", "TopKCategoricalAccuracy"],
        "losses": ["BinaryCrossentropy"],
        "regularizers": ["L2"],
        "saving": ["load_model", "save_model"],
    }
    for place, names in places.items():
        for name in names:
            for library in (tinyconv, keras):
                found = library
                for part in (*place.split("."), name):
                    found = getattr(found, part)
                assert callable(found), f"{place}.{name}"
