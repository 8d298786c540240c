"""Losses and metrics that are called, and weights of samples and classes, against Keras over drawn settings."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyconv
from tests.peer import keras
from tests.strategies import examples, few, seeds

REDUCTIONS = ["sum_over_batch_size", "sum", "mean", "mean_with_sample_weight", "none", None]
smoothing = st.sampled_from([0.0, 0.1, 1.0])
LOSSES = {
    "CategoricalCrossentropy": st.fixed_dictionaries({"from_logits": st.booleans(), "label_smoothing": smoothing}),
    "SparseCategoricalCrossentropy": st.fixed_dictionaries({"from_logits": st.booleans()}),
    "BinaryCrossentropy": st.fixed_dictionaries({"from_logits": st.booleans(), "label_smoothing": smoothing}),
    "MeanSquaredError": st.just({}),
    "MeanAbsoluteError": st.just({}),
    "Huber": st.fixed_dictionaries({"delta": st.sampled_from([0.3, 1.0, 5.0])}),
}
FUNCTIONS = {
    "CategoricalCrossentropy": "categorical_crossentropy",
    "SparseCategoricalCrossentropy": "sparse_categorical_crossentropy",
    "BinaryCrossentropy": "binary_crossentropy",
    "MeanSquaredError": "mean_squared_error",
    "MeanAbsoluteError": "mean_absolute_error",
    "Huber": "huber",
}


def agree(ours, theirs, tolerance=1e-5):
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


def predicted(rng, shape, scores):
    """Scores, or probabilities."""
    z = 2 * rng.standard_normal(shape).astype(np.float32)
    e = np.exp(z)
    return z if scores else e / e.sum(axis=-1, keepdims=True)


def targets_of(rng, shape, sparse):
    labels = rng.integers(0, shape[-1], shape[:-1])
    return labels if sparse else np.eye(shape[-1], dtype=np.float32)[labels]


@pytest.mark.parametrize("name", LOSSES)
@examples(40)
@given(
    data=st.data(),
    shape=st.sampled_from([(1, 2), (7, 4), (3, 5, 4), (5,)]),
    reduction=st.sampled_from(REDUCTIONS),
    weighing=st.sampled_from(["none", "rows", "number", "zeros"]),
    seed=seeds,
)
def test_a_called_loss(name, data, shape, reduction, weighing, seed):
    """The object, with weights and a reduction, and the function of its name, which gives one number per row."""
    rng, settings = np.random.default_rng(seed), data.draw(LOSSES[name])
    sparse = name.startswith("Sparse")
    if sparse and len(shape) == 1:
        return
    scores = settings.get("from_logits", "entropy" not in name)
    y_pred, y_true = predicted(rng, shape, scores), targets_of(rng, shape, sparse)
    rows = shape[:-1]
    weight = {"none": None, "rows": rng.random(rows), "number": 2.5, "zeros": np.zeros(rows)}[weighing]
    if (weighing == "number" and np.prod(rows) == 1) or (weighing != "number" and not rows):
        weight = None  # here Keras takes an axis away that the number has not
    ours, theirs = (getattr(library.losses, name)(reduction=reduction, **settings) for library in (tinyconv, keras))
    agree(ours(y_true, y_pred, weight), theirs(y_true, y_pred, weight))
    function = FUNCTIONS[name]
    mine, peer = (getattr(library.losses, function)(y_true, y_pred, **settings) for library in (tinyconv, keras))
    agree(mine, peer)


def test_axes_of_length_one_at_the_end_may_be_missing():
    rng = np.random.default_rng(0)
    numbers, column = rng.random(6).astype(np.float32), rng.random((6, 1)).astype(np.float32)
    for y_true, y_pred in ((numbers, column), (column, numbers), (column, column), (numbers, numbers)):
        for name in ("MeanSquaredError", "MeanAbsoluteError", "Huber"):
            ours, theirs = (getattr(library.losses, name)(reduction=None) for library in (tinyconv, keras))
            agree(ours(y_true, y_pred), theirs(y_true, y_pred))
        for name in ("BinaryAccuracy", "MeanAbsoluteError", "Precision", "AUC"):
            ours, theirs = (getattr(library.metrics, name)() for library in (tinyconv, keras))
            agree(ours(y_true > 0.5, y_pred), theirs(y_true > 0.5, y_pred))


def test_what_a_called_loss_refuses():
    loss = tinyconv.losses.MeanSquaredError()
    for arguments, message in {
        (((1, 2),), ((1, 2, 3),)): r"The targets have the wrong shape for 'mean_squared_error'",
        (((1, 2), (3, 4)), ((1, 2), (3, 4)), (1, 2, 3)): r"Invalid sample_weight of mean_squared_error.*\(2,\)",
        (1.0, 2.0): r"Expected at least one row",
    }.items():
        with pytest.raises(ValueError, match=message):
            loss(*arguments)
    with pytest.raises(
        ValueError, match=r"Invalid reduction of MeanSquaredError\. Expected one of 'sum_over_batch_size'"
    ):
        tinyconv.losses.MeanSquaredError(reduction="average")
    model = tinyconv.Sequential([tinyconv.Input((2,)), tinyconv.layers.Dense(2)])
    model.compile("sgd", tinyconv.losses.MeanSquaredError(reduction="none"), backend="reference")
    with pytest.raises(ValueError, match=r"Training minimises one number\. Expected a reduction of the loss"):
        model.fit(np.ones((2, 2)), np.ones((2, 2)), verbose=0)


METRICS = {
    "CategoricalAccuracy": [{}],
    "SparseCategoricalAccuracy": [{}],
    "BinaryAccuracy": [{}],
    "TopKCategoricalAccuracy": [{"k": 2}],
    "SparseTopKCategoricalAccuracy": [{"k": 2}],
    "MeanSquaredError": [{}],
    "MeanAbsoluteError": [{}],
    "Precision": [{}, {"thresholds": 0.2}, {"class_id": 1}],
    "Recall": [{}, {"thresholds": 0.2}, {"thresholds": 0.1, "class_id": 2}],
    "AUC": [
        {},
        {"curve": "PR"},
        {"curve": "PR", "num_thresholds": 30, "summation_method": "minoring"},
        {"summation_method": "majoring"},
        {"thresholds": [0.5, 0.1, 0.7]},
    ],
}


@pytest.mark.parametrize("name", METRICS)
@examples(15)
@given(data=st.data(), samples=st.integers(1, 30), classes=st.integers(3, 5), seed=seeds)
def test_a_metric_step_by_step(name, data, samples, classes, seed):
    """Three batches, some with weights; then anew."""
    rng, settings = np.random.default_rng(seed), data.draw(st.sampled_from(METRICS[name]))
    ours, theirs = (getattr(library.metrics, name)(**settings) for library in (tinyconv, keras))
    for _ in range(2):
        for _ in range(3):
            shape = (samples, classes)
            y_pred, y_true = predicted(rng, shape, False), targets_of(rng, shape, name.startswith("Sparse"))
            weights = rng.random(samples) if data.draw(st.booleans()) else None
            agree(ours(y_true, y_pred, weights), theirs(y_true, y_pred, weights))
        agree(ours.result(), theirs.result())
        ours.reset_state()
        theirs.reset_state()
        assert ours.result() == float(theirs.result()) == 0


def networks(units, activation):
    """The same small network in Keras and, for each backend, here, with the same weights, and a penalty in its loss."""
    made = []
    for library in (keras, tinyconv, tinyconv):
        layers, l2 = library.layers, library.regularizers.L2(0.01)
        hidden = layers.Dense(5, activation="tanh", kernel_regularizer=l2)
        made.append(library.Sequential([library.Input((6,)), hidden, layers.Dense(units, activation=activation)]))
    for model in made[1:]:
        model.set_weights(made[0].get_weights())
    return made


TASKS = {
    "smoothed": (3, "softmax", lambda losses: losses.CategoricalCrossentropy(label_smoothing=0.1), ["accuracy", "mae"]),
    "sparse from scores": (
        3,
        None,
        lambda losses: losses.SparseCategoricalCrossentropy(from_logits=True),
        ["accuracy"],
    ),
    "yes or no": (1, "sigmoid", lambda losses: "binary_crossentropy", ["accuracy", "AUC", "Precision", "Recall"]),
    "yes or no from scores": (
        1,
        None,
        lambda losses: losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.2),
        ["accuracy", "mse"],
    ),
    "sum": (2, None, lambda losses: losses.Huber(0.5, reduction="sum"), ["mae", "mse"]),
    "weighted mean": (2, None, lambda losses: losses.MeanSquaredError(reduction="mean_with_sample_weight"), ["mae"]),
    "function": (2, None, lambda losses: losses.mean_absolute_error, ["mae"]),
}


@pytest.mark.parametrize("name", few(TASKS))
def test_weights_in_training(name):
    """Histories of epochs with a ragged last batch, with weights of samples, of classes and without any, after a
    split and with validation data that have weights; then single batches."""
    units, activation, loss, metrics = TASKS[name]
    models = networks(units, activation)
    rng = np.random.default_rng(0)
    x, labels, weights = (
        rng.standard_normal((22, 6)).astype(np.float32),
        rng.integers(0, max(units, 2), 22),
        rng.random(22),
    )
    y = labels if name.startswith("sparse") else np.eye(units)[labels] if units > 1 else labels[:, None]
    for model, backend in zip(models, (None, "reference", "cpu"), strict=True):
        library, more = (tinyconv, {"backend": backend}) if backend else (keras, {})
        optimizer = library.optimizers.SGD(0.1)
        model.compile(optimizer, loss(library.losses), metrics=metrics, weighted_metrics=metrics, **more)

    def all_of_them(method, *data, **settings):
        theirs, *each = (getattr(model, method)(*data, **settings) for model in models)
        for ours in each:
            found, expected = (ours.history, theirs.history) if method == "fit" else (ours, theirs)
            assert found.keys() == expected.keys()
            for key in expected:
                agree(found[key], expected[key], 3e-5)

    fit = {"batch_size": 8, "verbose": 0, "shuffle": False}
    for epochs, more in enumerate(({}, {"sample_weight": weights}, {"class_weight": {0: 3.0, 1: 0.5}})):
        data = (x[:11], y[:11], weights[:11])
        all_of_them("fit", x, y, epochs=1 + epochs % 2, validation_data=data, **fit, **more)
    all_of_them("fit", x, y, validation_split=0.3, sample_weight=weights, **fit)
    all_of_them("fit", x, y, validation_split=0.3, class_weight={0: 2.0}, **fit)
    evaluate = {"sample_weight": weights, "verbose": 0, "batch_size": 8}
    all_of_them("evaluate", x, y, return_dict=True, **evaluate)
    expected, *lists = (model.evaluate(x, y, **evaluate) for model in models)
    for found in lists:
        agree(found, expected, 3e-5)
    for _ in range(2):
        all_of_them("train_on_batch", x, y, sample_weight=weights, return_dict=True)
        all_of_them("train_on_batch", x, y, class_weight={1: 3.0}, return_dict=True)
        all_of_them("test_on_batch", x, y, sample_weight=weights, return_dict=True)


def test_weights_of_the_rows_of_a_sample():
    """A network with a prediction for every pixel: the weights multiply the losses one by one, or sample by sample."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((6, 4, 5, 2)).astype(np.float32), rng.integers(0, 3, (6, 4, 5))
    weights = rng.random((6, 4, 5)).astype(np.float32)
    models = []
    for library in (tinyconv, keras):
        conv = library.layers.Conv2D(3, 1, activation="softmax")
        models.append(library.Sequential([library.Input((4, 5, 2)), conv]))
        extra = {"backend": "reference"} if library is tinyconv else {}
        settings = {"metrics": ["accuracy"], "weighted_metrics": ["accuracy"], **extra}
        models[-1].compile("sgd", "sparse_categorical_crossentropy", **settings)
    models[1].set_weights(models[0].get_weights())
    settings = {"sample_weight": weights, "batch_size": 4, "verbose": 0, "shuffle": False}
    mine, peer = (model.fit(x, y, **settings).history for model in models)
    for key in peer:
        agree(mine[key], peer[key])
    of_samples = models[0].evaluate(x, y, sample_weight=weights[:, 0, 0], verbose=0)
    of_rows = models[0].evaluate(x, y, sample_weight=weights[:, :1, :1].repeat(4, 1).repeat(5, 2), verbose=0)
    assert of_samples == of_rows


def test_what_weights_are_refused():
    _, model, _ = networks(2, "softmax")
    model.compile("sgd", "categorical_crossentropy", backend="reference")
    x, y = np.ones((4, 6)), np.eye(2)[[0, 1, 1, 0]]
    for settings, message in (
        ({"sample_weight": np.ones(3)}, r"wrong shape\. Expected one for each of 4 samples\. Received: \(3,\)"),
        ({"sample_weight": [1, 2, np.nan, 1]}, r"\(sample_weight\) hold a NaN or an infinity, first at \[2\]"),
        ({"class_weight": [1, 2]}, r"Invalid class_weight\. Expected a dictionary of weights by class number"),
        ({"class_weight": {0: "a"}}, r"Invalid class_weight\[0\]\. Expected a number"),
        (
            {"class_weight": {0: 1}, "sample_weight": np.ones(4)},
            r"sample_weight and class_weight cannot be given together",
        ),
        ({"validation_data": (x, y, np.ones(4), 0)}, r"Expected a pair \(x, y\), \(x, y, weights\) or a data set"),
    ):
        with pytest.raises(ValueError, match=message):
            model.fit(x, y, verbose=0, **settings)


def test_a_metric_knows_what_evaluate_found():
    _, model, _ = networks(1, "sigmoid")
    auc = tinyconv.metrics.AUC()
    model.compile("sgd", "binary_crossentropy", metrics=[auc], backend="reference")
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((30, 6)), rng.integers(0, 2, 30)
    assert model.evaluate(x, y, verbose=0, return_dict=True)["auc"] == auc.result()
    auc.reset_state()
    assert auc(y, model.predict(x)) == pytest.approx(model.evaluate(x, y, verbose=0)[1])


def two_outputs(library):
    """A network that says of which of three kinds something is, and whether something else holds."""
    layers = library.layers
    start = library.Input((6,))
    hidden = layers.Dense(5, activation="tanh", kernel_regularizer=library.regularizers.L2(0.01))(start)
    kind = layers.Dense(3, activation="softmax", name="kind")(hidden)
    return library.Model(start, [kind, layers.Dense(1, activation="sigmoid", name="holds")(hidden)])


SEVERAL = {
    "lists": {
        "loss": ["categorical_crossentropy", "binary_crossentropy"],
        "loss_weights": [1.0, 0.3],
        "metrics": [["accuracy"], ["accuracy", "AUC"]],
        "weighted_metrics": [["accuracy"], ["mae"]],
    },
    "nothing here and there": {
        "loss": ["categorical_crossentropy", "mse"],
        "metrics": [None, ["mae"]],
        "weighted_metrics": [None, ["mae"]],
    },
}


@pytest.mark.parametrize("name", few(SEVERAL))
def test_weights_of_several_outputs(name):
    """Weights for all outputs, or for each its own. Batches of equal size: Keras' means of the losses of single outputs
    are means of the batches' means, those of tinyconv are means over samples."""
    rng = np.random.default_rng(0)
    x, weights = rng.standard_normal((40, 6)).astype(np.float32), rng.random((2, 40))
    y = [np.eye(3)[rng.integers(0, 3, 40)], rng.integers(0, 2, (40, 1))]
    models = [two_outputs(library) for library in (tinyconv, keras)]
    models[1].set_weights(models[0].get_weights())
    models[0].compile("sgd", **SEVERAL[name], backend="reference")
    models[1].compile("sgd", **SEVERAL[name])
    for given_ in (None, weights[0], [weights[0], weights[1]]):
        settings = {"sample_weight": given_, "batch_size": 20, "verbose": 0, "shuffle": False}
        mine, peer = (model.fit(x, y, **settings).history for model in models)
        assert mine.keys() == peer.keys()
        for key in peer:
            agree(mine[key], peer[key])
    with pytest.raises(ValueError, match="class_weight is for models with one output"):
        models[0].fit(x, y, class_weight={0: 1.0}, verbose=0)
