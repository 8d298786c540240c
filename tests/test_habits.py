"""What users of Keras are used to: weights as variables, layers of their own, models from dictionaries, operators."""

import copy
import json
import pickle
import re
import threading

import numpy as np
import pytest

import tinyconv
from tests.peer import keras
from tinyconv import Input, Model, Sequential, activations, layers, models, optimizers, saving
from tinyconv.checking import absent

RNG = np.random.default_rng(1)


def stack(library=tinyconv):
    kinds = library.layers
    return library.Sequential(
        [
            library.Input((6, 6, 2)),
            kinds.Conv2D(3, 3, name="conv"),
            kinds.BatchNormalization(name="norm"),
            kinds.Flatten(),
            kinds.Dropout(0.5),
            kinds.Dense(2, use_bias=False, name="dense"),
        ]
    )


# Weights as variables


def test_weights_have_the_names_and_the_order_of_keras():
    ours, theirs = stack(), stack(keras)
    for kind in ("weights", "trainable_weights", "non_trainable_weights", "trainable_variables"):
        found, expected = ([(v.name, tuple(v.shape)) for v in getattr(model, kind)] for model in (ours, theirs))
        assert found == expected
    assert [v.path for v in ours.weights] == ["/".join(v.path.split("/")[-2:]) for v in theirs.weights]
    for mine, other in zip(ours.layers, theirs.layers, strict=True):
        for kind in ("weights", "trainable_weights", "non_trainable_weights", "trainable_variables"):
            assert [v.name for v in getattr(mine, kind)] == [v.name for v in getattr(other, kind)]
        assert mine.count_params() == other.count_params()
    ours.layers[0].trainable = theirs.layers[0].trainable = False
    assert len(ours.trainable_weights) == len(theirs.trainable_weights) == 3
    assert [v.trainable for v in ours.weights] == [False, False, True, True, False, False, True]
    assert ours.variables == ours.weights
    assert ours.non_trainable_variables == ours.non_trainable_weights


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_a_variable_shows_what_training_does_and_sets_what_training_uses(backend):
    model = stack()
    kernel = model.get_layer("conv").kernel
    assert kernel is model.layers[0].weights[0]
    model.compile("sgd", "mse", backend=backend)
    x, y = RNG.random((4, 6, 6, 2)), RNG.random((4, 2))
    before = kernel.numpy()
    model.train_on_batch(x, y)
    assert np.abs(kernel - before).max() > 0
    np.testing.assert_array_equal(kernel, model.get_weights()[0])
    kernel.assign(np.zeros(kernel.shape))
    model.layers[0].bias.assign_add([1.0, 2.0, 3.0])
    bias = model.layers[0].bias.numpy()
    np.testing.assert_allclose(model.layers[0](x)[0, 0, 0], bias, atol=1e-6)
    part = Model(model.input, model.layers[0].output)
    np.testing.assert_allclose(part.predict(x)[0, 0, 0], bias, atol=1e-6)
    model.layers[0].bias.assign_sub(bias)
    assert not model.predict(x)[:, :0].size
    assert not part.predict(x).any()


def test_a_variable_is_an_array_to_numpy():
    dense = layers.Dense(2)
    dense.build((None, 3))
    kernel = dense.kernel.assign(np.arange(6).reshape(3, 2))
    assert (kernel.shape, kernel.ndim, kernel.size, kernel.dtype, len(kernel)) == ((3, 2), 2, 6, "float32", 3)
    np.testing.assert_array_equal(np.ones((1, 3)) @ kernel, [[6, 9]])
    np.testing.assert_array_equal(2 * kernel[1] - 1, [3, 5])
    np.testing.assert_array_equal(np.asarray(kernel, np.float64), kernel.value)
    assert float(np.sum(kernel)) == 15
    assert kernel in {kernel: 1}
    assert repr(kernel) == "<Variable path=dense/kernel, shape=(3, 2), dtype=float32>"
    kernel.numpy()[...] = 7  # a copy
    assert kernel[0, 0] == 0


def test_mistakes_with_variables_are_named():
    dense = layers.Dense(2, use_bias=False)
    with pytest.raises(AttributeError, match=r"has no 'kernel' yet. Fix: build"):
        dense.kernel  # noqa: B018
    dense.build((None, 3))
    assert dense.bias is None
    with pytest.raises(AttributeError, match="'kernel' of layer 'dense'"):
        dense.kernel = np.zeros((3, 2))
    with pytest.raises(
        ValueError, match=r"Weight 'kernel' of 'dense' does not fit. Expected numbers of shape \(3, 2\)"
    ):
        dense.kernel.assign(np.zeros((2, 2)))
    with pytest.raises(TypeError, match="unsupported type"):
        dense.kernel.assign([["a", "b"]] * 3)
    with pytest.raises(TypeError, match="cannot be changed in place"):
        dense.kernel[0] = 1
    with pytest.raises(TypeError, match=r"Received: add into it. Fix: assign, assign_add"):
        dense.__dict__["kernel_"] = np.add(dense.kernel, 1, out=dense.kernel)
    with pytest.raises(ValueError, match="can only be copied"):
        np.array(dense.kernel, copy=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_variables_of_copies_are_their_own(copied):
    model = stack()
    kernel = model.layers[0].kernel
    other = copied(model)
    assert other.layers[0].kernel is other.layers[0].weights[0]
    other.layers[0].kernel.assign(np.zeros(kernel.shape))
    assert kernel.numpy().any()
    assert not other.get_weights()[0].any()


def test_variables_of_shared_layers_are_of_all_models():
    image = Input((4,))
    shared = layers.Dense(3, name="shared")
    hidden = shared(image)
    left, right = (Model(image, layers.Dense(1)(hidden)) for _ in range(2))
    for model in (left, right):
        model.compile("sgd", "mse", backend="reference")
        model.train_on_batch(np.ones((2, 4)), np.ones((2, 1)))
        np.testing.assert_array_equal(shared.kernel, model.get_weights()[0])
    shared.kernel.assign(np.zeros((4, 3)))
    assert not left.get_weights()[0].any()
    assert not right.predict(np.ones((1, 4))).any() or right.get_weights()[1].any()


def test_assigning_waits_for_a_step_to_end():
    model = Sequential([Input((3,)), layers.Dense(2)])
    kernel, done = model.layers[0].kernel, threading.Event()

    def assign():
        kernel.assign(np.ones((3, 2)))
        done.set()

    with model._lock:
        thread = threading.Thread(target=assign)
        thread.start()
        assert not done.wait(0.1)
    thread.join()
    assert (kernel.numpy() == 1).all()


def test_an_optimizers_numbers_answer_like_variables():
    optimizer = optimizers.SGD(0.5)
    assert (optimizer.learning_rate.numpy(), optimizer.iterations.numpy()) == (0.5, 0)
    optimizer.learning_rate.assign(0.25)
    optimizer.iterations.assign(3)
    assert (optimizer.learning_rate, optimizer.iterations) == (0.25, 3)
    assert type(copy.deepcopy(optimizer.learning_rate)) is float
    assert type(pickle.loads(pickle.dumps(optimizer.iterations))) is int
    assert json.dumps([optimizer.learning_rate, optimizer.iterations]) == "[0.25, 3]"


# Layers of one's own


@saving.register_keras_serializable("habits")
class Scaled(layers.Layer):
    """Every feature times a weight; a statistic of its own moves in training."""

    def __init__(self, power=1, **options):
        super().__init__(**options)
        self.power = power

    def build(self, input_shape):
        self.factor = self.add_weight(shape=(input_shape[-1],), initializer="ones", name="factor", regularizer="l2")
        self.steps = self.add_weight(initializer="zeros", trainable=False, name="steps")
        super().build(input_shape)
        self.built = True

    def call(self, inputs, training=False):
        if training:
            self.steps.assign_add(1)
        return (inputs * self.factor) ** self.power

    def backward(self, dx, dweights, dout, x, out, weights):
        slope = dout * self.power * (x * weights["factor"]) ** (self.power - 1)
        if dx.size:
            dx[...] = slope * weights["factor"]
        dweights["factor"][...] = (slope * x).reshape(-1, x.shape[-1]).sum(axis=0)


@pytest.mark.parametrize("power", [1, 2])
def test_a_layer_with_add_weight_has_the_right_gradients(power):
    assert tinyconv.check_gradients(Scaled(power), (2, 3)) < 1e-6


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_a_layer_with_add_weight_trains_and_is_saved(backend, tmp_path):
    model = Sequential([Input((4,)), layers.Dense(3), Scaled(2, name="mine"), layers.Dense(1)])
    model.compile(optimizers.SGD(0.01), "mse", backend=backend)
    x, y = RNG.random((8, 4)), RNG.random((8, 1))
    mine = model.get_layer("mine")
    history = model.fit(x, y, batch_size=4, epochs=3, verbose=0).history["loss"]
    assert history[-1] < history[0]
    assert (mine.steps.numpy(), mine.factor.trainable, mine.steps.trainable) == (6, True, False)
    assert [v.path for v in mine.weights] == ["mine/factor", "mine/steps"]
    assert mine.factor is mine.weights[0]
    assert mine.get_config() == {"name": "mine", "trainable": True, "power": 2}
    model.save(tmp_path / "m.keras")
    loaded = models.load_model(tmp_path / "m.keras", backend=backend)
    np.testing.assert_array_equal(loaded.predict(x), model.predict(x))
    assert loaded.train_on_batch(x, y) == model.train_on_batch(x, y)
    twin = copy.deepcopy(model)
    twin.get_layer("mine").factor.assign(np.zeros(3))
    assert mine.factor.numpy().any()
    for name in ("m.weights.h5", "m.safetensors"):
        model.save_weights(tmp_path / name)
        twin.load_weights(tmp_path / name)
        np.testing.assert_array_equal(twin.get_layer("mine").factor, mine.factor)


Ours = Scaled


def test_layers_of_ones_own_go_to_keras_and_come_back(tmp_path):
    """A class of the same name, registered with Keras, has the same weights there."""

    @keras.saving.register_keras_serializable("habits")
    class Scaled(keras.layers.Layer):
        def __init__(self, power=1, **options):
            super().__init__(**options)
            self.power = power

        def build(self, input_shape):
            self.factor = self.add_weight(shape=(input_shape[-1],), initializer="ones", name="factor")
            self.steps = self.add_weight(initializer="zeros", trainable=False, name="steps")

        def call(self, inputs):
            return (inputs * self.factor) ** self.power

        def get_config(self):
            return {**super().get_config(), "power": self.power}

    model = Sequential([Input((4,)), Ours(2, name="mine"), layers.Dense(1)])
    model.layers[0].factor.assign([1, 2, 3, 4])
    x = RNG.random((3, 4)).astype(np.float32)
    model.save(tmp_path / "ours.keras")
    theirs = keras.saving.load_model(tmp_path / "ours.keras")
    np.testing.assert_allclose(theirs.predict(x, verbose=0), model.predict(x), rtol=1e-5)
    theirs.save(tmp_path / "theirs.keras")
    again = models.load_model(tmp_path / "theirs.keras")
    np.testing.assert_array_equal(again.get_layer("mine").factor, [1, 2, 3, 4])
    assert again.get_layer("mine").get_config() == {"name": "mine", "trainable": True, "power": 2}


class Doubled(layers.Layer):
    def call(self, inputs):
        return 2 * np.concatenate([inputs, inputs], axis=-1)


def test_a_class_that_is_not_registered_has_to_be_told_of(tmp_path):
    model = Sequential([Input((3,)), Doubled(), layers.Dense(1)])
    assert model.layers[0].output.shape == (None, 6)
    model.compile("sgd", "mse", backend="reference")
    model.train_on_batch(np.ones((2, 3)), np.ones((2, 1)))  # no gradient passes it
    model.save(tmp_path / "m.keras")
    with pytest.raises(ValueError, match=r"'Doubled'.*is not supported.*custom_objects=\{'Doubled': ...\}"):
        models.load_model(tmp_path / "m.keras")
    wanted = model.predict(np.ones((1, 3)))
    custom = {"Doubled": Doubled}
    loaded = [models.load_model(tmp_path / "m.keras", custom_objects=custom)]
    with saving.custom_object_scope(custom):
        loaded.append(models.load_model(tmp_path / "m.keras"))
    for each in loaded:
        np.testing.assert_allclose(each.predict(np.ones((1, 3))), wanted, rtol=1e-6)
    config = model.to_json()
    assert type(models.model_from_json(config, custom).layers[0]) is Doubled
    assert type(Sequential.from_config(model.get_config(), custom).layers[0]) is Doubled


def test_registered_names_are_keras():
    assert saving.get_registered_name(Scaled) == "habits>Scaled"
    assert saving.get_registered_object("habits>Scaled") is Scaled
    assert saving.get_registered_object("nothing") is None
    assert saving.get_custom_objects()["habits>Scaled"] is Scaled
    assert saving.get_registered_name(Doubled) == "Doubled"
    with pytest.raises(TypeError, match="expected a class with get_config"):
        saving.register_keras_serializable()(len)
    with pytest.raises(ValueError, match="Invalid package"):
        saving.register_keras_serializable(package=3)
    with pytest.raises(ValueError, match="Invalid custom_objects"):
        saving.custom_object_scope([Scaled])


class Nowhere(layers.Layer):
    def __init__(self, table, **options):
        super().__init__(**options)
        self.table = table

    def call(self, inputs):
        return inputs


class Twice(layers.Layer):
    def build(self, input_shape):
        self.add_weight(shape=(2,), name="w")
        self.add_weight(shape=(2,), name="w")


class WrongShape(layers.Layer):
    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], 5)

    def call(self, inputs):
        return inputs


class Flat(layers.Layer):
    def call(self, inputs):
        return inputs.sum()


class Failing(layers.Layer):
    def call(self, inputs):
        raise RuntimeError("no")


class Unbegun(layers.Layer):
    def __init__(self):
        self.units = 3


class Within(layers.Layer):
    def __init__(self):
        super().__init__()
        self.inner = layers.Dense(3)


X = np.ones((2, 3), np.float32)
WRONG = {
    "two of one name": (lambda: Twice()(X), "has a weight called 'w' already"),
    "another shape": (lambda: WrongShape()(X), r"call returned a wrong shape. Expected \(2, 5\). Received: \(2, 3\)"),
    "no batch": (lambda: Flat()(X), r"call returned a wrong shape. Expected \(2, ...\), for a batch of 2"),
    "a failing call": (
        lambda: Failing()(X),
        r"call failed on zeros of shape \(2, 3\).*Fix: override compute_",
    ),
    "no constructor": (lambda: Unbegun()(X), r"Expected its __init__ to call super\(\).__init__"),
    "a layer within": (Within, "layers within a layer of one's own are not supported"),
    "too late": (lambda: made_late(), r"has its weights already. Expected add_weight in build\(\)"),
    "a constraint": (lambda: layers.Layer().add_weight(constraint=3), r"add_weight\(constraint=3\) is not supported"),
    "an argument": (lambda: Nowhere({"a": 1}).get_config(), "its argument 'table' is no number and no text"),
    "untrainable": (lambda: trained(Doubled()), "Doubled cannot be trained, and nothing before it"),
    "on a tensor": (lambda: activations.gelu(Input((3,)), approximate=True), "approximate_gelu of a tensor"),
    "a power": (lambda: Input((3,)) ** 2, "this operator is not supported"),
    "an array": (lambda: Input((3,)) + np.ones(3), r"Expected a number or a tensor"),
    "divided": (lambda: Input((3,)) / Input((3,)), "Expected a number. Fix: a layer"),
    "by zero": (lambda: Input((3,)) / 0, "Expected a number"),
    "three": (lambda: layers.Subtract()([Input((3,))] * 3), "Expected two tensors. Received: 3"),
    "no fit": (lambda: layers.add([Input((3, 2)), Input((2, 2))]), r"samples of shapes \(3, 2\), \(2, 2\)"),
}


def made_late():
    layer = Doubled()
    layer(X)
    layer.add_weight(shape=(3,))


def trained(layer):
    model = Sequential([Input((3,)), layers.Dense(3), layer, layers.Dense(1)])
    model.compile("sgd", "mse", backend="reference")
    model.train_on_batch(X, np.ones((2, 1)))


@pytest.mark.parametrize("name", WRONG)
def test_mistakes_are_named(name):
    make, message = WRONG[name]
    with pytest.raises((ValueError, TypeError), match=message):
        make()


# Models from dictionaries, texts and other models


def graph(library=tinyconv):
    kinds = library.layers
    image = library.Input((6, 6, 2), name="image")
    inner = library.Sequential([library.Input((6, 6, 2)), kinds.Conv2D(2, 3, padding="same")], name="inner")
    x = inner(image)
    x = kinds.add([x, inner(x), image], name="sum")
    gate = kinds.Dense(2, activation="sigmoid", name="gate")(kinds.GlobalAveragePooling2D(name="pool")(x))
    x = kinds.multiply([x, gate], name="gated")
    return library.Model(image, kinds.Dense(2, name="top")(kinds.Flatten(name="flat")(x)))


@pytest.mark.parametrize("make", [stack, graph])
def test_models_are_made_again_from_what_they_say(make):
    model, x = make(), RNG.random((2, 6, 6, 2)).astype(np.float32)
    model.compile(optimizers.Adam(0.01), "mse", metrics=["mae"], backend="reference")
    others = [
        type(model).from_config(model.get_config()),
        models.model_from_json(model.to_json(indent=1)),
        models.clone_model(model),
        models.clone_model(
            model, clone_function=lambda layer: type(layer).from_config(layer.get_config()), recursive=True
        ),
    ]
    for other in others:
        assert [layer.name for layer in other.layers] == [layer.name for layer in model.layers]
        assert np.abs(other.get_weights()[0] - model.get_weights()[0]).max() > 0
        other.set_weights(model.get_weights())
        np.testing.assert_allclose(other.predict(x), model.predict(x), atol=1e-6)
    for other in others[1:]:
        assert (other.loss.name, other.optimizer.learning_rate) == ("mean_squared_error", 0.01)


@pytest.mark.parametrize("make", [stack, graph])
def test_texts_go_to_keras_and_come_back(make):
    ours, theirs = make(), make(keras)
    x = RNG.random((2, 6, 6, 2)).astype(np.float32)
    there = keras.models.model_from_json(ours.to_json())
    there.set_weights(ours.get_weights())
    np.testing.assert_allclose(there.predict(x, verbose=0), ours.predict(x), atol=1e-5)
    here = models.model_from_json(theirs.to_json())
    here.set_weights(theirs.get_weights())
    np.testing.assert_allclose(here.predict(x), theirs.predict(x, verbose=0), atol=1e-5)


def test_a_stack_without_a_shape_is_made_again_without_one():
    other = Sequential.from_config(Sequential([layers.Dense(2)], name="mine").get_config())
    assert (other.built, other.name, len(other.layers)) == (False, "mine", 1)


def test_clones_can_have_other_layers():
    model = graph()
    seeded = models.clone_model(stack(), clone_function=lambda layer: copy.deepcopy(layer))
    assert type(seeded) is Sequential

    def with_dropout(layer, x):
        out = layer(x)
        return layers.Dropout(0.5)(out) if isinstance(layer, layers.Dense) else out

    other = models.clone_model(model, call_function=with_dropout)
    assert sum(isinstance(layer, layers.Dropout) for layer in other.layers) == 2
    with pytest.raises(ValueError, match="a Sequential calls no layers"):
        models.clone_model(stack(), call_function=with_dropout)
    with pytest.raises(ValueError, match=r"clone_model\(input_tensors=3\) is not supported"):
        models.clone_model(model, 3)
    with pytest.raises(ValueError, match="Invalid model of clone_model"):
        models.clone_model(layers.Dense(3))


# Inputs, shapes, summaries


def test_inputs_have_a_batch_size_where_they_are_given_one():
    for library in (keras, tinyconv):
        model = library.Sequential([library.Input((3,), batch_size=4, name="in"), library.layers.Dense(2)])
        assert (model.input_shape, model.output_shape) == ((4, 3), (4, 2))
        assert model.inputs[0].shape == (4, 3)
        assert model.predict(np.ones((2, 3)), verbose=0).shape == (2, 2)  # others are welcome
        source = library.Input(batch_shape=(4, 3), dtype="float32")
        assert library.Model(source, library.layers.Dense(2)(source)).output.shape == (4, 2)
        flat = library.Sequential([library.layers.Dense(2, input_dim=3), library.layers.Dense(1)])
        assert flat.input_shape == (None, 3)
    again = Sequential.from_config(model.get_config())
    assert again.input_shape == (4, 3)
    with pytest.raises(ValueError, match="and no batch_size beside it"):
        Input(batch_shape=(4, 3), batch_size=4)


def test_a_summary_shows_what_is_asked_for():
    def text(**options):
        found = []
        graph().summary(print_fn=found.append, **options)
        return found[0]

    assert "Trainable\n" not in text()
    nested = text(expand_nested=True, show_trainable=True)
    assert "   └ conv2d (Conv2D)" in nested
    assert "Trainable\n" in nested
    assert "yes" in nested
    short = text(layer_range=["sum", "gate"])
    assert ("pool (" in short, "top (" in short, "inner (" in short) == (True, False, False)
    assert max(map(len, text(line_length=60).splitlines())) <= 60
    for wrong in (["sum"], ["sum", "nope"], "su", [1, 2]):
        with pytest.raises(ValueError, match="layer_range"):
            text(layer_range=wrong)
    with pytest.raises(ValueError, match="line_length"):
        text(line_length=3)
    with pytest.raises(ValueError, match=r"summary\(positions=\[1\]\) is not supported"):
        text(positions=[1])


OBJECTS = {"Model": tinyconv.Sequential(), "Layer": layers.Flatten(), "Optimizer": tinyconv.optimizers.SGD()}


@pytest.mark.parametrize("where", absent.INSTEAD)
def test_what_keras_has_besides_is_refused_by_name(where):
    theirs, ours = keras, OBJECTS.get(where, tinyconv)
    for part in where.split(".") if where else ():
        theirs, ours = getattr(theirs, part), ours if where in OBJECTS else getattr(ours, part)
    old = ("add_metric", "minimize", "predict_classes")  # of Keras before 3
    for name in absent.INSTEAD[where]:
        assert hasattr(theirs, name) or name in old or name.endswith("_generator"), name
        assert not hasattr(ours, name)
        path = f"keras.{where}.{name}" if where else f"keras.{name}"
        with pytest.raises(AttributeError, match=rf"^{re.escape(path)} is not supported by tinyconv\. Fix: ."):
            getattr(ours, name)
    with pytest.raises(AttributeError, match="has no"):
        ours.nothing_of_that_name  # noqa: B018


def test_classes_and_functions_of_ones_own_are_refused_where_they_would_not_be_called():
    image = Input((3,))
    for name in ("train_step", "compute_loss", "call"):
        with pytest.raises(TypeError, match=rf"Mine\.{name}: models by subclassing are not supported .* Fix: ."):
            type("Mine", (tinyconv.Model,), {name: lambda self, *_: None})
    for base, fix in (("losses.Loss", "one of"), ("metrics.Metric", "a callback"), ("regularizers.Regularizer", "L1")):
        module, kind = base.split(".")
        with pytest.raises(TypeError, match=f"Mine cannot be made. {kind}e?s of one's own .* Fix: {fix}"):
            type("Mine", (getattr(getattr(tinyconv, module), kind),), {})
    model = tinyconv.Model(image, layers.Dense(2)(image))
    with pytest.raises(ValueError, match=r"Unknown loss: <function .* Fix: one of tinyconv\.losses"):
        model.compile("sgd", lambda y, p: y - p)
    with pytest.raises(ValueError, match=r"Unknown metric: .* Fix: a callback"):
        model.compile("sgd", "mse", metrics=[lambda y, p: y - p])
    with pytest.raises(ValueError, match=r"unknown activation: .* Fix: for a function of your own, a layer"):
        layers.Dense(2, activation=lambda x: x)
