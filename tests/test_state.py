"""Each state has one owner: configuration that cannot be written to, freezing, copies that are whole, optimisers."""

import copy
import gc
import pickle
import warnings

import numpy as np
import pytest

import tinyconv
from tests.peer import keras, traced
from tests.strategies import few
from tinyconv import layers, optimizers

RNG = np.random.default_rng(7)
X, Y = RNG.random((20, 8, 8, 1), np.float32), RNG.integers(0, 3, 20)


def network(library=tinyconv, optimizer="adam", compiled=True, trainable=True):
    stack = library.layers
    entries = [
        library.Input((8, 8, 1)),
        stack.Conv2D(4, 3, activation="relu"),
        stack.BatchNormalization(),
        stack.Flatten(),
        stack.Dense(3, activation="softmax"),
    ]
    model = library.Sequential(entries, trainable=trainable)
    if compiled:
        compile_(model, optimizer)
    return model


def compile_(model, optimizer):
    here = {"backend": "reference"} if isinstance(model, tinyconv.Sequential) else {}
    model.compile(optimizer=optimizer, loss="sparse_categorical_crossentropy", **here)


def fit(model, **options):
    return model.fit(X, Y, verbose=0, shuffle=False, **options).history["loss"]


def moved(before, model):
    return [bool((a != b).any()) for a, b in zip(before, model.get_weights(), strict=True)]


# Configuration


@pytest.mark.parametrize(
    ("layer", "name", "value"),
    [
        (layers.Conv2D(4, 3), "filters", 8),
        (layers.Conv2D(4, 3), "kernel_size", (5, 5)),
        (layers.Conv2D(4, 3), "strides", (2, 2)),
        (layers.Conv2D(4, 3), "padding", "same"),
        (layers.Conv2D(4, 3), "use_bias", False),
        (layers.Conv2D(4, 3), "activation", None),
        (layers.MaxPooling2D(2), "pool_size", (3, 3)),
        (layers.BatchNormalization(), "epsilon", 1.0),
        (layers.Dropout(0.5), "rate", 0.9),
    ],
    ids=lambda value: getattr(value, "name", None) or str(value),
)
def test_what_a_built_layer_was_built_from_is_frozen(layer, name, value):
    model = tinyconv.Sequential([tinyconv.Input((8, 8, 1)), layer])
    before = getattr(layer, name)
    with pytest.raises(
        AttributeError, match=rf"'{name}' of layer .* cannot be set any more.*Received.*Fix: make a new"
    ):
        setattr(layer, name, value)
    assert getattr(layer, name) == before
    assert model.predict(X).shape[0] == 20


def test_an_argument_set_before_building_is_checked_as_the_constructor_does():
    layer = layers.Dense(4)
    layer.units, layer.activation = 7, None
    assert layer(np.ones((2, 3))).shape == (2, 7)
    with pytest.raises(ValueError, match="units"):
        layers.Dense(4).units = "seven"
    with pytest.raises(ValueError, match="activation"):
        layers.Dense(4).activation = "rleu"


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: layers.Dense(4), "unit"),
        (lambda: layers.Dense(4), "forward"),
        (network, "optimiser"),
        (network, "predict"),
        (lambda: optimizers.Adam(), "lr"),
        (lambda: tinyconv.losses.MeanSquaredError(), "from_logit"),
        (lambda: tinyconv.initializers.HeNormal(), "sed"),
    ],
)
def test_unknown_attributes_are_refused(make, name):
    with pytest.raises(AttributeError, match=f"has no attribute {name!r} to set"):
        setattr(make(), name, 1)


@pytest.mark.parametrize(
    "name", ["optimizer", "loss", "metrics", "layers", "weights", "built", "input_shape", "history"]
)
def test_what_can_only_be_read_says_so(name):
    with pytest.raises(AttributeError, match=rf"'{name}' of model 'sequential' can be read, not set"):
        setattr(network(), name, None)


def test_a_layer_of_ones_own_keeps_what_it_likes():
    class Counting(layers.Layer):
        def __init__(self, start, **options):
            super().__init__(**options)
            self.count = start

        def forward(self, out, x, weights):
            self.count += 1
            self.cache = x.sum()
            out[...] = x

    layer = Counting(5)
    layer(np.ones((2, 3)))
    assert (layer.count, layer.cache) == (6, 6)


def test_an_object_shows_the_call_that_makes_it():
    for thing in (tinyconv.losses.MeanSquaredError(), optimizers.schedules.CosineDecay(0.1, decay_steps=10)):
        names = vars(tinyconv.losses) | vars(optimizers.schedules)
        again = eval(repr(thing), {}, names)
        assert type(again) is type(thing)
        assert again.get_config() == thing.get_config()
    assert repr(optimizers.schedules.CosineDecay(0.1, decay_steps=10)) == "CosineDecay(0.1, decay_steps=10)"


def test_weights_cannot_be_written_through_what_shows_them():
    model = network()
    for array in (*model.weights, *model.layers[0].weights, *model.layers[0].arrays.values()):
        with pytest.raises((ValueError, TypeError), match="read-only"):
            array[...] = 0
    with pytest.raises(TypeError):
        model.layers[0].arrays["kernel"] = np.zeros(3)


def test_a_model_without_a_shape_has_no_such_attribute():
    assert not hasattr(tinyconv.Sequential(), "input_shape")
    assert not hasattr(tinyconv.Sequential([layers.Dense(3)]), "output_shape")


def test_building_for_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"Expected \(None, 2\). Received: \(None, 4\)"):
        tinyconv.Sequential([tinyconv.Input((2,)), layers.Dense(3)]).build((None, 4))


def test_an_optimizer_that_has_trained_nothing_is_nobodys():
    """As in Keras: a model that was frozen whole can be given another head, and be trained with the same optimizer."""
    model = tinyconv.Sequential([tinyconv.Input((4,)), layers.Dense(3), layers.Dense(2)])
    model.trainable = False
    optimizer = tinyconv.optimizers.SGD(0.1)
    x, y = np.ones((4, 4), np.float32), np.ones((4, 2), np.float32)
    for unfrozen in (False, True):
        model.compile(optimizer, "mse", backend="reference")
        with warnings.catch_warnings(record=True):
            warnings.simplefilter("always")
            model.fit(x, y, verbose=0)
        assert optimizer.built is unfrozen
        model.trainable = True
        model.pop()
        model.add(layers.Dense(2, name="head"))


@pytest.mark.parametrize("name", ["a/b", "", 5, "a\0b", "a\nb", "a" * 1001])
def test_names_that_no_file_can_hold_are_refused(name):
    with pytest.raises(ValueError, match="name"):
        layers.Dense(2, name=name)
    with pytest.raises(ValueError, match="name"):
        tinyconv.Sequential(name=name)
    for thing in (layers.Dense(2), network(), network().layers[0]):
        with pytest.raises(ValueError, match="name"):
            thing.name = name


def test_a_renamed_layer_keeps_its_weights_and_moments():
    model, other = network(), network()
    other.set_weights(model.get_weights())
    fit(model)
    fit(other)
    model.layers[0].name = "first"
    assert model.get_layer("first") is model.layers[0]
    assert fit(model) == fit(other)
    with pytest.raises(ValueError, match="called 'dense' already"):
        model.layers[0].name = "dense"
    with pytest.raises(ValueError, match="Unknown layer: 'conv2d'"):
        model.get_layer("conv2d")


# Freezing


def frozen_run(library, how):
    """Which weights move, which are trainable, and how many moments there are, after freezing in one of many ways."""
    model = network(library)
    if how == "before the first step":
        model.layers[0].trainable = model.layers[1].trainable = False
    elif how == "whole model":
        model.trainable = False
    elif how == "constructor":
        model = network(library, trainable=False)
    elif how == "all but the last":
        model.trainable = False
        model.layers[-1].trainable = True
    elif how == "after a step, without compile":
        fit(model)
        model.layers[0].trainable = False
    elif how == "after a step, compiled again":
        fit(model)
        model.layers[0].trainable = False
        compile_(model, "adam")
    elif how == "compiled again with the same optimizer":
        fit(model)
        model.layers[0].trainable = False
        compile_(model, model.optimizer)
    elif how == "and back again":
        fit(model)
        model.layers[0].trainable = False
        compile_(model, model.optimizer)
        fit(model)
        model.layers[0].trainable = True
        compile_(model, model.optimizer)
    before = model.get_weights()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(model)
    counts = (len(model.trainable_weights), len(model.non_trainable_weights), len(model.weights))
    steps = int(model.optimizer.iterations) if counts[0] else None  # Keras counts no steps of nothing
    return moved(before, model), counts, [layer.trainable for layer in model.layers], steps


@pytest.mark.parametrize(
    "how",
    few(
        [
            "after a step, without compile",
            "before the first step",
            "whole model",
            "all but the last",
            "after a step, compiled again",
            "compiled again with the same optimizer",
            "and back again",
        ],
        2,
    ),
)
def test_freezing_is_keras_freezing(how):
    with traced():
        assert frozen_run(tinyconv, how) == frozen_run(keras, how)


def test_a_change_that_comes_too_late_is_said():
    model = network()
    fit(model)
    model.layers[0].trainable = False
    with pytest.warns(UserWarning, match="takes no effect before the model is compiled again") as caught:
        fit(model)
    assert caught[0].filename == __file__
    compile_(model, model.optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(model)


def test_a_model_of_which_nothing_is_trained_says_so():
    model = network(trainable=False)
    with pytest.warns(UserWarning, match="does not have any trainable weights"):
        fit(model)


def test_a_step_of_a_frozen_normalisation_is_keras_step():
    ours, theirs = (network(library, optimizer="sgd") for library in (tinyconv, keras))
    ours.set_weights(theirs.get_weights())
    for model in (ours, theirs):
        fit(model)
        model.layers[1].trainable = False
        compile_(model, "sgd")
        for _ in range(3):
            model.train_on_batch(X, Y)
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


def test_the_penalty_of_a_frozen_layer_is_not_in_the_loss():
    def loss(library):
        model = library.Sequential(
            [library.Input((4,)), library.layers.Dense(3, kernel_regularizer="l2", trainable=False)]
        )
        model.set_weights([np.ones((4, 3), np.float32), np.zeros(3, np.float32)])
        model.compile("sgd", "mse")
        return model.evaluate(np.ones((2, 4), np.float32), np.zeros((2, 3), np.float32), verbose=0)

    assert loss(tinyconv) == pytest.approx(float(loss(keras)), rel=1e-6)


def test_frozen_weights_are_counted_apart(capsys):
    model = network()
    model.layers[0].trainable = False
    model.summary()
    text = capsys.readouterr().out
    assert "Trainable params: 443" in text
    assert "Non-trainable params: 48" in text


# Copies


COPIES = {
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("when", ["not compiled", "before use", "after predict", "after fit", "after evaluate"])
def test_a_copy_is_whole_and_its_own(how, when):
    model = network(compiled=when != "not compiled")
    if when == "after fit":
        fit(model)
    if when == "after predict":
        model.predict(X)
    if when == "after evaluate":
        model.evaluate(X, Y, verbose=0)
    twin = COPIES[how](model)
    if when == "not compiled":
        compile_(model, "adam")
        compile_(twin, "adam")
    before = model.get_weights()
    losses = fit(twin, epochs=3)
    assert all(moved(before, twin))
    assert not any(moved(before, model))
    assert fit(model, epochs=3) == losses
    assert not any(moved(model.get_weights(), twin))
    assert twin.optimizer is not model.optimizer
    assert twin.optimizer.iterations == model.optimizer.iterations


def test_a_copied_layer_is_in_no_model():
    model = network()
    layer = copy.deepcopy(model.layers[0])
    layer.set_weights([np.zeros_like(array) for array in layer.get_weights()])
    assert any(array.any() for array in model.layers[0].get_weights())
    tinyconv.Sequential([tinyconv.Input((8, 8, 1)), layer])


# Optimisers


def test_compiling_again_with_the_same_optimizer_goes_on():
    model, other = network(), network()
    other.set_weights(model.get_weights())
    fit(model)
    fit(other)
    compile_(model, model.optimizer)
    assert model.optimizer.iterations == 1
    assert fit(model, epochs=3) == fit(other, epochs=3)
    assert not any(moved(model.get_weights(), other))


@pytest.mark.parametrize("kept", [True, False])
def test_an_optimizer_belongs_to_one_model(kept):
    optimizer = optimizers.SGD(optimizers.schedules.CosineDecay(0.1, 20))
    first = network(optimizer=optimizer)
    fit(first)
    if not kept:
        del first
        gc.collect()
    with pytest.raises(ValueError, match=r"has trained another model.*Fix: a new optimizer"):
        network(optimizer=optimizer)


def test_of_two_models_compiled_with_one_optimizer_the_first_to_be_trained_has_it():
    optimizer = optimizers.Adam()
    first, second = network(optimizer=optimizer), network(optimizer=optimizer)
    fit(second)
    before = first.get_weights()
    with pytest.raises(ValueError, match=r"built for other weights.*Fix: compile with a new optimizer"):
        fit(first)
    assert not any(moved(before, first))
    fit(second)


@pytest.mark.parametrize("what_between", ["nothing", "evaluate", "fit"])
def test_new_weights_need_a_new_optimizer(what_between):
    model = network()
    fit(model)
    model.pop()
    model.add(layers.Dense(3, activation="softmax"))  # of the same name and shape as the old one
    if what_between == "evaluate":
        model.evaluate(X, Y, verbose=0)  # which may use the new weights
    elif what_between == "fit":
        with pytest.raises(ValueError, match="Unknown weight"):  # and is refused again below
            fit(model)
    with pytest.raises(ValueError, match=r"Unknown weight: 'dense/kernel'.*compile with a new optimizer"):
        fit(model)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):  # its optimizer is as strange to it
        with pytest.raises(ValueError, match="Unknown weight: 'dense/kernel'"):
            fit(twin)
    compile_(model, "adam")
    assert len(fit(model)) == 1


def test_a_layer_that_comes_back_keeps_its_moments():
    model, other = network(), network()
    other.set_weights(model.get_weights())
    fit(model)
    fit(other)
    model.add(model.pop())
    assert fit(model) == fit(other)


def test_an_optimizer_says_where_it_is():
    schedule = optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)
    model = network(optimizer=optimizers.SGD(schedule))
    assert float(model.optimizer.learning_rate) == pytest.approx(0.1)
    fit(model)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.05)
    assert model.optimizer.schedule is schedule
    with pytest.raises(TypeError, match=r"follows a schedule, ExponentialDecay.*Expected another schedule"):
        model.optimizer.learning_rate = 0.25
    model.optimizer.learning_rate = optimizers.schedules.ExponentialDecay(0.25, 1, 0.5)
    assert (model.optimizer.learning_rate.numpy(), model.optimizer.iterations.numpy()) == (0.125, 1)
    with pytest.raises(AttributeError, match="a model has been trained with it"):
        model.optimizer.momentum = 0.5
    assert "iterations=1" in repr(model.optimizer)


@pytest.mark.parametrize("value", [-1, 1.5, "a", None, True, np.nan])
def test_iterations_are_a_count(value):
    with pytest.raises(ValueError, match="iterations"):
        optimizers.Adam().iterations = value


class Rates(optimizers.schedules.LearningRateSchedule):
    def __init__(self, rate):
        self.rate = rate

    def __call__(self, step):
        return self.rate


@pytest.mark.parametrize("rate", [None, np.nan, np.inf, -0.1, "fast", np.zeros(2)])
def test_a_schedule_that_gives_no_rate_stops_before_the_step(rate):
    model = network(optimizer=optimizers.SGD(Rates(rate)))
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"Rates.*Received"):
        fit(model)
    assert not any(moved(before, model))


def test_a_compile_that_fails_changes_nothing():
    model = network()
    fit(model)
    optimizer, loss = model.optimizer, model.loss
    for arguments in ({"loss": "mze"}, {"metrics": ["accurazy"]}, {"metrics": 5}, {"backend": "gpu"}, {"fuse": 3}):
        with pytest.raises((ValueError, TypeError)):
            model.compile(**{"optimizer": "sgd", **arguments})
        assert model.optimizer is optimizer
        assert model.loss is loss
    fit(model)


def test_a_run_cannot_lose_its_ground():
    class Meddling(tinyconv.callbacks.Callback):
        def __init__(self, what):
            self.what = what

        def on_epoch_end(self, epoch, logs=None):
            self.what(self.model)

    for what in (
        lambda model: model.pop(),
        lambda model: model.add(layers.Dense(2)),
        lambda model: compile_(model, "sgd"),
        lambda model: setattr(model.layers[0], "name", "other"),
    ):
        model = network()
        with pytest.raises(RuntimeError, match="in the middle of a run"):
            fit(model, callbacks=Meddling(what))
        fit(model)
