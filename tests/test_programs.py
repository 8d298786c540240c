"""Programs drawn at random: models that are built, changed, compiled, trained, copied, frozen, saved, in any order.

Every program runs on tinyconv inside guard zones and, step by step, on Keras. What Keras refuses tinyconv refuses; what
Keras does comes out the same. Between two steps nobody may find a broken state: shapes, names and values agree.
"""

import copy
import pickle
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import tinyconv
from tests.peer import keras
from tests.strategies import examples
from tinyconv.kernels import memory

SHAPE, SAMPLES, CLASSES = (6, 6, 2), 5, 3
IMAGE_LAYERS = {
    "Conv2D": {"filters": 3, "kernel_size": 3, "activation": "relu", "padding": "same"},
    "MaxPooling2D": {"pool_size": 2, "padding": "same"},
    "AveragePooling2D": {"pool_size": 2, "padding": "same"},
    "BatchNormalization": {},
    "LeakyReLU": {},
    "Activation": {"activation": "tanh"},
    "Dropout": {"rate": 0.0},
}
HEADS = {"Flatten": {}, "GlobalAveragePooling2D": {}}
OPTIMIZERS = {
    "SGD": {"learning_rate": 0.05},
    "momentum": {"learning_rate": 0.02, "momentum": 0.9},
    # A bias before a batch normalisation has the gradient 0, of which rounding leaves a little: a large epsilon keeps
    # Adam from blowing that up to a whole step, in one library or the other.
    "Adam": {"learning_rate": 0.01, "epsilon": 1e-2},
}


def optimizer_of(library, name):
    return getattr(library.optimizers, "SGD" if name == "momentum" else name)(**OPTIMIZERS[name])


class Programs(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.guard = memory.guarded()
        self.guard.__enter__()
        self.backend = "reference"
        self.trained_since_compile = self.compiled = False

    def teardown(self):
        self.guard.__exit__(None, None, None)
        keras.backend.clear_session(free_memory=False)

    def both(self, action):
        """Do the same with both; what one refuses the other must refuse too. Returns the two results, or None."""
        results = []
        for library, model in ((tinyconv, self.ours), (keras, self.theirs)):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    results.append((action(library, model), None))
            except ValueError as error:
                results.append((None, error))
        (ours, our_error), (theirs, their_error) = results
        assert (our_error is None) == (their_error is None), f"tinyconv: {our_error}; Keras: {their_error}"
        return None if our_error is not None else (ours, theirs)

    def forbid_stale(self):
        """Keras, run eagerly, looks at ``trainable`` at once; compiled, as tinyconv, at the first step."""
        return self.compiled and not (self.trained_since_compile and self.frozen_changed)

    @initialize(data=st.data())
    def build(self, data):
        body = data.draw(st.lists(st.sampled_from(sorted(IMAGE_LAYERS)), max_size=3))
        head = data.draw(st.sampled_from(sorted(HEADS)))
        self.seed = data.draw(st.integers(0, 2**16))
        entries = [*((kind, IMAGE_LAYERS[kind]) for kind in body), (head, HEADS[head])]
        entries.append(("Dense", {"units": CLASSES, "activation": "softmax"}))
        models = []
        for library in (tinyconv, keras):
            stack = [
                getattr(library.layers, kind)(**options, name=f"layer_{place}")
                for place, (kind, options) in enumerate(entries)
            ]
            models.append(library.Sequential([library.Input(SHAPE), *stack]))
        self.ours, self.theirs = models
        self.count = len(entries)
        rng = np.random.default_rng(self.seed)
        self.x = rng.random((SAMPLES, *SHAPE), np.float32)
        self.y = rng.integers(0, CLASSES, SAMPLES)
        self.ours.set_weights(self.theirs.get_weights())
        self.frozen_changed = False

    @rule(name=st.sampled_from(sorted(OPTIMIZERS)), again=st.booleans())
    def compile(self, name, again):
        def compile_(library, model):
            here = {"backend": self.backend} if library is tinyconv else {}
            optimizer = model.optimizer if again and self.compiled else optimizer_of(library, name)
            model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], **here)

        assert self.both(compile_) is not None
        self.compiled, self.trained_since_compile, self.frozen_changed = True, False, False

    @precondition(lambda self: self.forbid_stale())
    @rule(steps=st.integers(1, 2))
    def train(self, steps):
        results = self.both(lambda _, model: [model.train_on_batch(self.x, self.y) for _ in range(steps)] and None)
        self.trained_since_compile |= results is not None

    @precondition(lambda self: self.forbid_stale())
    @rule(batch_size=st.sampled_from([2, 3, 5]))
    def fit(self, batch_size):
        options = {"batch_size": batch_size, "verbose": 0, "shuffle": False}
        results = self.both(lambda _, model: model.fit(self.x, self.y, **options).history["loss"])
        if results is not None:
            np.testing.assert_allclose(*results, rtol=1e-4, atol=1e-5)
            self.trained_since_compile = True

    @precondition(lambda self: self.compiled)
    @rule()
    def evaluate(self):
        results = self.both(lambda _, model: model.evaluate(self.x, self.y, verbose=0, batch_size=2))
        np.testing.assert_allclose(*results, rtol=1e-4, atol=1e-5)

    @rule(place=st.integers(0, 4), trainable=st.booleans())
    def freeze(self, place, trainable):
        def set_(_, model):
            model.layers[place % len(model.layers)].trainable = trainable

        self.both(set_)
        self.frozen_changed = True

    @rule(trainable=st.booleans())
    def freeze_all(self, trainable):
        """By the property itself: TensorFlow's objects ignore that an attribute is set to what it is already, so that
        Keras on TensorFlow, and only there, does not hand ``True`` on to its layers if the model is not frozen."""
        self.both(lambda _, model: type(model).trainable.fset(model, trainable))
        self.frozen_changed = True

    @rule()
    def new_head(self):
        self.count += 1
        name = f"layer_{self.count}"

        def replace(library, model):
            model.pop()
            model.add(library.layers.Dense(CLASSES, activation="softmax", name=name))

        self.both(replace)
        self.ours.set_weights(self.theirs.get_weights())

    @rule(how=st.sampled_from(["deepcopy", "pickle"]))
    def copy(self, how):
        original = self.ours
        self.ours = copy.deepcopy(original) if how == "deepcopy" else pickle.loads(pickle.dumps(original))
        before = [array.copy() for array in self.ours.get_weights()]
        original.set_weights([np.zeros_like(array) for array in original.get_weights()])
        for a, b in zip(before, self.ours.get_weights(), strict=True):
            assert (a == b).all()

    @precondition(lambda self: self.compiled and not self.frozen_changed)
    @rule()
    def save_and_load(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "m.keras")
            self.ours.save(path)
            names = [layer.name for layer in self.ours.layers]
            loaded = tinyconv.saving.load_model(path, backend=self.backend)
        assert [layer.name for layer in loaded.layers] == names
        for a, b in zip(loaded.get_weights(), self.ours.get_weights(), strict=True):
            assert (a == b).all()
        assert [layer.trainable for layer in loaded.layers] == [layer.trainable for layer in self.ours.layers]

    @rule()
    def rename(self):
        self.count += 1
        self.ours.layers[0].name = f"renamed_{self.count}"

    @rule(seed=st.integers(0, 99))
    def set_weights(self, seed):
        rng = np.random.default_rng(seed)
        weights = [np.float32(0.2) + rng.random(array.shape, np.float32) for array in self.theirs.get_weights()]
        self.both(lambda _, model: model.set_weights(weights))

    @rule(
        place=st.integers(0, 4),
        name=st.sampled_from(
            ["filters", "units", "strides", "kernel_size", "pool_size", "padding", "activation", "rate"]
        ),
        value=st.sampled_from([0, 1, 8, (2, 2), "same", None, "linear", 0.5, np.nan]),
    )
    def meddle(self, place, name, value):
        layer = self.ours.layers[place % len(self.ours.layers)]
        with pytest.raises(AttributeError):
            setattr(layer, name, value)

    @rule()
    def call_off(self):
        """A run that fails in its middle leaves a model that is whole."""

        class Stop(tinyconv.callbacks.Callback):
            def on_train_batch_begin(self, batch, logs=None):
                raise KeyboardInterrupt

        if self.compiled and self.forbid_stale():
            before = self.ours.get_weights()
            twin = copy.deepcopy(self.ours)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with pytest.raises((KeyboardInterrupt, ValueError)):  # ValueError: its optimiser is another's
                    twin.fit(self.x, self.y, verbose=0, callbacks=Stop())
            for a, b in zip(before, twin.get_weights(), strict=True):
                assert (a == b).all()

    @invariant()
    def is_whole(self):
        if not hasattr(self, "ours"):
            return
        ours, theirs = self.ours.get_weights(), self.theirs.get_weights()
        assert [array.shape for array in ours] == [array.shape for array in theirs]
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4)
        counts = [
            [len(kind) for kind in (model.trainable_weights, model.non_trainable_weights, model.weights)]
            for model in (self.ours, self.theirs)
        ]
        assert counts[0] == counts[1]
        predictions = self.ours.predict(self.x, batch_size=3)
        np.testing.assert_allclose(predictions, np.asarray(self.theirs(self.x)), rtol=2e-3, atol=2e-4)
        assert self.ours.count_params() == self.theirs.count_params()


@pytest.mark.long
def test_programs_drawn_at_random():
    settings = examples(200, promised=True)
    run_state_machine_as_test(Programs, settings=type(settings)(settings, stateful_step_count=10))
