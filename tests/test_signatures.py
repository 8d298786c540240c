"""The arguments of everything that has a namesake in Keras: names, order and defaults are Keras'.

What differs is listed with its reason; an entry that no longer differs, or that belongs to nothing, fails too. And an
argument of Keras that tinyconv has not is refused by name, wherever it stands.
"""

import inspect

import keras
import pytest

import tinyconv
from tests.public import MODULES, is_fixed, parameters, public, required
from tinyconv import callbacks, initializers, layers, losses, metrics, optimizers

KERAS = {
    **{name: getattr(keras, name) for name in MODULES if name != "schedules"},
    "schedules": keras.optimizers.schedules,
}
CLASSES = [  # whose methods are compared too
    (tinyconv.Sequential, keras.Sequential),
    (tinyconv.Model, keras.Model),
    (layers.Layer, keras.layers.Layer),
    (layers.Conv2D, keras.layers.Conv2D),
    (optimizers.Adam, keras.optimizers.Adam),
    (optimizers.schedules.CosineDecay, keras.optimizers.schedules.CosineDecay),
    (losses.MeanSquaredError, keras.losses.MeanSquaredError),
    (metrics.BinaryAccuracy, keras.metrics.BinaryAccuracy),
    (initializers.GlorotUniform, keras.initializers.GlorotUniform),
    (callbacks.Callback, keras.callbacks.Callback),
]
NONE, ABSENT = inspect.Parameter.empty, object()

# By function: what tinyconv has otherwise, {argument: default}, and why. What Keras has not stands behind the rest.
OWN = "an argument of tinyconv's own, behind Keras'"
DIFFERENCES = {
    "initializers.Initializer": (
        {"seed": None},
        "all of tinyconv's initialisers have a seed; Keras' base class has none",
    ),
    "GlorotUniform.__call__": ({"dtype": ABSENT, "rng": NONE}, "tinyconv's own generator is drawn from"),
    "metrics.get": ({"output_shape": None}, "which accuracy is meant depends on it"),
    "optimizers.Optimizer": (
        {p.name: p.default for p in parameters(keras.src.optimizers.base_optimizer.BaseOptimizer)},
        "Keras' base class takes *args, **kwargs, and means these",
    ),
    "layers.Layer": ({"input_shape": None, "input_dim": None}, "Keras takes them in **kwargs"),
    "BinaryAccuracy.__call__": ({"y_true": NONE, "y_pred": NONE, "sample_weight": None}, "Keras takes *args"),
    "Sequential.compile": (
        {"backend": None, "fuse": True},
        OWN,
    ),
    "Sequential.predict": ({"verbose": 0, "on_device": False}, "a prediction prints nothing; " + OWN),
    "Sequential.__call__": ({"x": NONE, "training": None}, "Keras takes *args"),
    "Model.compile": ({"backend": None, "fuse": True}, OWN),
    "Model.predict": ({"verbose": 0, "on_device": False}, "a prediction prints nothing; " + OWN),
    "Model.__call__": ({"x": NONE, "training": None}, "Keras takes *args"),
    "Model.build": ({"input_shape": None}, "a graph has its weights from the beginning"),
    "models.load_model": ({"backend": None}, OWN),
    "Layer.compute_output_shape": ({"input_shape": NONE}, "Keras' base class takes *args"),
    "Layer.call": ({"inputs": NONE}, "Keras takes *args"),
    "Layer.__call__": ({"x": NONE, "training": False, "backend": "reference"}, "Keras takes *args; " + OWN),
    "Conv2D.__call__": ({"x": NONE, "training": False, "backend": "reference"}, "Keras takes *args; " + OWN),
    "saving.load_model": ({"backend": None}, OWN),
}


def methods(kind):
    """The public methods of a class, inherited ones included."""
    found = inspect.getmembers(kind, inspect.isfunction)
    return {name: value for name, value in found if not name.startswith("_") or name == "__call__"}


def namesakes():
    """Every function and class of tinyconv's with its namesake in Keras."""
    found = {
        "Input": (tinyconv.Input, keras.Input),
        "Sequential": (tinyconv.Sequential.__init__, keras.Sequential.__init__),
    }
    for prefix, module in MODULES.items():
        for name, ours in public(module).items():
            theirs = getattr(KERAS[prefix], name, None)
            if theirs is not None:
                found[f"{prefix}.{name}"] = (ours, theirs)
    found["layers.Layer"] = (layers.Layer.__init__, keras.layers.Layer.__init__)
    for ours, theirs in CLASSES:
        for name, method in methods(ours).items():
            if callable(getattr(theirs, name, None)):
                found[f"{ours.__name__}.{name}"] = (method, getattr(theirs, name))
    return found


ALL = namesakes()


def test_all_of_the_library_is_compared():
    assert len(ALL) > 100
    assert DIFFERENCES.keys() <= ALL.keys()


@pytest.mark.parametrize("name", sorted(ALL))
def test_names_order_and_defaults_are_those_of_keras(name):
    ours, theirs = ([(p.name, p.default) for p in parameters(function)] for function in ALL[name])
    changes, _ = DIFFERENCES.get(name, ({}, ""))
    expected = [(argument, changes.get(argument, default)) for argument, default in theirs]
    expected += [(argument, default) for argument, default in changes.items() if argument not in dict(theirs)]
    assert ours == [(argument, default) for argument, default in expected if default is not ABSENT]
    assert not changes or ours != theirs, "it no longer differs"


@pytest.mark.parametrize("name", [name for name, (_, reason) in DIFFERENCES.items() if OWN in reason])
def test_own_arguments_cannot_be_taken_for_one_of_keras(name):
    """They have no place that an argument of a later Keras could take."""
    ours, theirs = ALL[name]
    known = {p.name for p in parameters(theirs)}
    own = [p for p in parameters(ours) if known and p.name not in known]
    assert all(p.kind is p.KEYWORD_ONLY for p in own)


def unsupported():
    """Every argument of Keras that tinyconv refuses, as (name of the class, class, argument)."""
    tables = {
        "layers": layers.arguments.NEUTRAL | layers.base.NEUTRAL | layers.core.KERAS_INPUT,
        "initializers": initializers.NEUTRAL,
        "losses": losses.NEUTRAL,
        "metrics": metrics.NEUTRAL,
        "optimizers": optimizers.NEUTRAL,
    }
    for name, (ours, theirs) in ALL.items():
        table = tables.get(name.partition(".")[0], {})
        if inspect.isclass(theirs):
            for place, parameter in enumerate(parameters(ours)):
                if is_fixed(ours, parameter.name, table):
                    yield pytest.param(ours, place, parameter.name, id=f"{name}, {parameter.name}")


@pytest.mark.parametrize(("kind", "place", "argument"), list(unsupported()))
def test_what_is_not_supported_is_refused_by_name_in_every_position(kind, place, argument):
    given = required(kind)
    before = parameters(kind)[:place]
    values = [given.get(p.name, p.default) for p in before]
    if kind is layers.InputLayer and place:
        values[:1], given = [(3,)], {"shape": (3,)}
    message = rf"\({argument}='something'\) is not supported by tinyconv yet\. Expected "
    with pytest.raises(ValueError, match=message):
        kind(*values, "something")
    with pytest.raises(ValueError, match=message):
        kind(**given, **{argument: "something"})


def test_an_unknown_argument_is_refused_with_a_suggestion():
    cases = {
        lambda: layers.Dense(3, activaton="relu"): "Dense has no argument 'activaton'. Did you mean 'activation'?",
        lambda: layers.Flatten(nmae="a"): "Flatten has no argument 'nmae'. Did you mean 'name'?",
        lambda: losses.MeanSquaredError(reducton=None): "Did you mean 'reduction'?",
        lambda: initializers.HeNormal(sed=3): "HeNormal has no argument 'sed'. Did you mean 'seed'?",
        lambda: metrics.BinaryAccuracy(treshold=0.5): "Did you mean 'threshold'?",
        lambda: tinyconv.Input((3,), shap=3): "Did you mean 'shape'?",
        lambda: layers.Conv2D(3): "Conv2D lacks the argument 'kernel_size'",
    }
    for call, message in cases.items():
        with pytest.raises(TypeError) as caught:
            call()
        assert message in str(caught.value)


def test_the_second_argument_of_input_is_the_batch_size():
    assert tinyconv.Input((3,), 32).shape == (32, 3)
    assert tinyconv.Input(batch_shape=(None, 3)).shape == (None, 3)
