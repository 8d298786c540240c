"""Callbacks against Keras' own, and runs that are interrupted."""

import contextlib
import copy
import csv
import io
import json
import os
import pickle
import re
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyconv
from tests.strategies import examples, few
from tests.test_saving import data, digest, make, train
from tinyconv import callbacks
from tinyconv.files import safetensors
from tinyconv.saving import load_model


class Interrupt(callbacks.Callback):
    """Stops everything after so many batches, as Ctrl-C would."""

    def __init__(self, batches):
        self.left = batches

    def on_train_batch_begin(self, batch, logs=None):
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1


# Against Keras


class Watched:
    """What these callbacks need of a model."""

    def __init__(self, keras_like):
        self.stop_training, self.metrics, self.history = False, [], None
        self.optimizer = type("Optimizer", (), {"learning_rate": 1.0, "name": "it"})()
        if not keras_like:
            self.optimizer = tinyconv.optimizers.SGD(1.0)


def drive(callback, model, epochs):
    """Every epoch's logs as the callback left them, and the learning rate after it."""
    callback.set_params({"validation_freq": 1})
    callback.set_model(model)
    callback.on_train_begin()
    seen = []
    for epoch, logs in enumerate(epochs):
        logs = dict(logs)
        callback.on_epoch_begin(epoch)
        callback.on_epoch_end(epoch, logs)
        seen.append((logs, float(model.optimizer.learning_rate)))
    callback.on_train_end()
    return seen


@pytest.fixture(scope="module")
def keras():
    from tests.peer import keras

    return keras


@examples(150)
@given(
    values=st.lists(st.integers(0, 8).map(lambda n: n / 4), min_size=1, max_size=12),
    settings=st.fixed_dictionaries(
        {
            "factor": st.sampled_from([0.5, 0.1]),
            "patience": st.integers(0, 3),
            "min_delta": st.sampled_from([0, 0.25, 1e-4]),
            "cooldown": st.integers(0, 2),
            "min_lr": st.sampled_from([0.0, 0.2]),
            "mode": st.sampled_from(["min", "max"]),
        }
    ),
)
def test_reduce_lr_on_plateau_does_what_keras_does(keras, values, settings):
    logs = [{"val_loss": value} for value in values]
    ours = drive(callbacks.ReduceLROnPlateau(**settings), Watched(False), logs)
    assert ours == drive(keras.callbacks.ReduceLROnPlateau(**settings), Watched(True), logs)


@pytest.mark.parametrize("schedule", [lambda epoch, rate: rate * 0.5, lambda epoch: 1.0 / (epoch + 1)])
def test_learning_rate_scheduler_does_what_keras_does(keras, schedule):
    logs = [{"loss": 1.0}] * 4
    ours = drive(callbacks.LearningRateScheduler(schedule), Watched(False), logs)
    assert ours == drive(keras.callbacks.LearningRateScheduler(schedule), Watched(True), logs)
    assert ours[3] == ({"loss": 1.0, "learning_rate": ours[3][1]}, ours[3][1])


@pytest.mark.parametrize("separator", [",", ";"])
def test_csv_logger_writes_what_keras_writes(keras, tmp_path, separator):
    first = [{"loss": 1.5, "accuracy": 0.25}, {"loss": 0.5, "accuracy": 0.5, "val_loss": 2.0, "val_accuracy": 0.125}]
    for library, name in ((callbacks, "ours"), (keras.callbacks, "theirs")):
        path = str(tmp_path / name)
        drive(library.CSVLogger(path, separator), Watched(library is not callbacks), first)
        drive(library.CSVLogger(path, separator, append=True), Watched(library is not callbacks), first[1:])
    ours, theirs = ((tmp_path / name).read_bytes().replace(b"\r\n", b"\n") for name in ("ours", "theirs"))
    assert ours == theirs
    assert len(ours.splitlines()) == 4


@examples(60)
@given(
    values=st.lists(st.integers(0, 6).map(lambda n: n / 4), min_size=1, max_size=8),
    mode=st.sampled_from(["min", "max"]),
    best_only=st.booleans(),
    threshold=st.sampled_from([None, 0.75]),
)
def test_model_checkpoint_saves_when_keras_does(keras, values, mode, best_only, threshold):
    saved = []
    for library in (callbacks, keras.callbacks):
        model, paths = Watched(library is not callbacks), []
        model.save = lambda path, overwrite=True, paths=paths: paths.append(os.fspath(path))
        checkpoint = library.ModelCheckpoint(
            "{epoch:02d}-{val_loss:.2f}.keras",
            mode=mode,
            save_best_only=best_only,
            initial_value_threshold=threshold,
        )
        drive(checkpoint, model, [{"val_loss": value} for value in values])
        saved.append(paths)
    assert saved[0] == saved[1]


@pytest.mark.parametrize("frequency", [1, 2, 3, 5])
def test_model_checkpoint_counts_batches_as_keras_does(keras, frequency, tmp_path):
    saved = []
    for library in (callbacks, keras.callbacks):
        model, paths = Watched(library is not callbacks), []
        model.save = lambda path, overwrite=True, paths=paths: paths.append(os.fspath(path))
        checkpoint = library.ModelCheckpoint("{epoch}-{batch}.keras", save_freq=frequency)
        checkpoint.set_model(model)
        for epoch in range(3):
            checkpoint.on_epoch_begin(epoch)
            for batch in range(4):
                checkpoint.on_train_batch_end(batch, {"loss": 1.0})
            checkpoint.on_epoch_end(epoch, {"loss": 1.0})
        saved.append(paths)
    assert saved[0] == saved[1]
    assert saved[0]


# In training


def test_the_history_holds_what_callbacks_add(tmp_path):
    history = train(make("sgd"), 3, callbacks=callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.5))
    assert history.history["learning_rate"] == pytest.approx([0.005, 0.0025, 0.00125])
    history.history["loss"][1] = float("nan")
    text = history.to_json(tmp_path / "history.json")
    assert json.loads((tmp_path / "history.json").read_text()) == json.loads(text)
    assert json.loads(text)["history"]["loss"][1] is None
    assert json.loads(text)["epoch"] == [0, 1, 2]


def test_checkpoints_can_be_loaded_and_only_the_best_is_kept(tmp_path):
    model, x_y = make(), data()
    path = tmp_path / "new" / "best.keras"
    checkpoint = callbacks.ModelCheckpoint(path, "loss", save_best_only=True, verbose=1)
    each = callbacks.ModelCheckpoint(tmp_path / "{epoch}-{batch}.safetensors", save_weights_only=True, save_freq=2)
    train(model, 3, callbacks=[checkpoint, each])
    assert checkpoint.best == pytest.approx(min(model.history.history["loss"]))
    assert load_model(path).evaluate(*x_y, verbose=0)[0] < make().evaluate(*x_y, verbose=0)[0]
    assert sorted(os.listdir(tmp_path)) == [
        "1-2.safetensors",
        "2-1.safetensors",
        "2-3.safetensors",
        "3-2.safetensors",
        "new",
    ]
    assert os.listdir(tmp_path / "new") == ["best.keras"]


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
def test_terminate_on_nan_stops_and_says_so(capsys):
    model = make(tinyconv.optimizers.SGD(1e30))
    history = train(model, 5, callbacks=callbacks.TerminateOnNaN())
    assert len(history.epoch) < 5
    assert "training stops" in capsys.readouterr().out
    with pytest.raises(RuntimeError, match=r"The loss is (nan|inf) at batch"):
        train(make(tinyconv.optimizers.SGD(1e30)), 5, callbacks=callbacks.TerminateOnNaN(raise_error=True))


def test_lambda_callback_calls_any_hook(capsys):
    called = []
    hooks = {name: lambda *rest, name=name: called.append(name) for name in callbacks.observers.HOOKS}
    model = make()
    train(model, 1, callbacks=callbacks.LambdaCallback(**hooks), validation_data=data())
    model.predict(data()[0], callbacks=callbacks.LambdaCallback(**hooks))
    assert set(called) == set(hooks)
    with pytest.raises(TypeError, match=r"LambdaCallback has no hook 'on_epoch_ende'. Did you mean 'on_epoch_end'"):
        callbacks.LambdaCallback(on_epoch_ende=print)


def test_a_value_that_is_not_validated_in_every_epoch_is_waited_for():
    stopping = callbacks.EarlyStopping(patience=0)
    history = train(make(), 4, callbacks=stopping, validation_data=data(1), validation_freq=2)
    assert len(history.history["val_loss"]) >= 1
    assert stopping.best is not None


def test_csv_logger_in_training(tmp_path):
    history = train(make(), 2, callbacks=callbacks.CSVLogger(tmp_path / "log.csv"))
    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows] == history.history["loss"]


@pytest.mark.parametrize(
    ("act", "kind", "message"),
    [
        (
            lambda: callbacks.ModelCheckpoint("m.h5"),
            ValueError,
            "Expected a name that ends in .keras. Received: 'm.h5'",
        ),
        (
            lambda: callbacks.ModelCheckpoint("m.keras", save_freq=0),
            ValueError,
            "Invalid save_freq of ModelCheckpoint. Expected 'epoch'",
        ),
        (
            lambda: callbacks.ReduceLROnPlateau(factor=1.5),
            ValueError,
            "Invalid factor of ReduceLROnPlateau. Expected a number",
        ),
        (
            lambda: callbacks.BackupAndRestore(""),
            ValueError,
            "Invalid backup_dir of BackupAndRestore. Expected a folder",
        ),
        (
            lambda: train(make(), 1, callbacks=callbacks.ModelCheckpoint("{val_los}.keras")),
            KeyError,
            "cannot fill in '{val_los}.keras': there is no 'val_los'",
        ),
        (
            lambda: train(make(), 1, callbacks=callbacks.EarlyStopping("val_acc")),
            ValueError,
            "EarlyStopping cannot watch 'val_acc': is more of it better, or less?",
        ),
        (
            lambda: train(make(), 1, callbacks=callbacks.LearningRateScheduler(lambda epoch: 1)),
            ValueError,
            "gave no learning rate. Expected a float. Received: 1",
        ),
        (
            lambda: train(
                make(tinyconv.optimizers.Adam(tinyconv.optimizers.schedules.CosineDecay(0.1, 5))),
                1,
                callbacks=callbacks.ReduceLROnPlateau("loss"),
            ),
            TypeError,
            "ReduceLROnPlateau cannot set the learning rate: CosineDecay does",
        ),
    ],
)
def test_mistakes_are_named(act, kind, message):
    with pytest.raises(kind) as error:
        act()
    assert message in str(error.value)


# Against Keras, over drawn runs

MONITORED = st.lists(
    st.one_of(
        st.integers(0, 20).map(lambda n: n / 10),  # no float32: Keras compares them as such
        st.floats(-2, 2, width=32),
        st.sampled_from([float("nan"), float("inf"), float("-inf"), None]),
    ),
    min_size=1,
    max_size=10,
)


class Counted(Watched):
    """A model whose weights say after which epoch they were."""

    trained = -1

    def get_weights(self):
        return [np.array([self.trained])]

    def set_weights(self, weights):
        self.trained = int(weights[0][0])


def story(library, callback, values):
    """What a callback makes of a monitored value over the epochs of two runs: learning rates, stops, weights."""
    model = Counted(library is not callbacks)
    callback.set_params({"validation_freq": 1})
    callback.set_model(model)
    told = []
    for _ in range(2):
        model.stop_training = False
        callback.on_train_begin({})
        for epoch, value in enumerate(values):
            model.trained = epoch
            callback.on_epoch_begin(epoch, {})
            callback.on_epoch_end(epoch, {"loss": 1.0} if value is None else {"loss": 1.0, "it": value})
            told.append((epoch, model.stop_training, np.float32(model.optimizer.learning_rate)))
            if model.stop_training:
                break
        callback.on_train_end({})
        told.append((model.trained, repr(callback.best), callback.wait))
    return told


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore:overflow encountered:RuntimeWarning")
@examples(200)
@given(
    values=MONITORED,
    settings=st.fixed_dictionaries(
        {
            "patience": st.integers(0, 3),
            "min_delta": st.sampled_from([0, 0.1, -0.1, 0.25, float("inf")]),
            "mode": st.sampled_from(["min", "max"]),
        }
    ),
    stopping=st.fixed_dictionaries(
        {
            "baseline": st.sampled_from([None, 1.0, 0.7, float("inf"), float("-inf")]),
            "restore_best_weights": st.booleans(),
            "start_from_epoch": st.integers(0, 3),
        }
    ),
    reducing=st.fixed_dictionaries(
        {
            "factor": st.sampled_from([0.0, 0.1, 0.5]),
            "cooldown": st.integers(0, 2),
            "min_lr": st.sampled_from([0.0, 0.1, 0.25]),
        }
    ),
)
def test_whatever_the_monitored_values_the_story_is_keras(keras, values, settings, stopping, reducing):
    for name, more in (("EarlyStopping", stopping), ("ReduceLROnPlateau", reducing)):
        ours, theirs = (
            story(library, getattr(library, name)(monitor="it", **settings, **more), values)
            for library in (callbacks, keras.callbacks)
        )
        assert ours == theirs, name


def test_the_old_names_of_the_batch_hooks_are_called_as_keras_calls_them(keras):
    """For batches of a training, by the new hooks' default; a new hook that is overridden hides the old one."""
    hooks = ("on_batch_begin", "on_batch_end", "on_train_batch_begin")
    seen = []
    for library in (callbacks, keras.callbacks):
        events = []

        class Old(library.Callback):
            def on_batch_begin(self, batch, logs=None, events=events):
                events.append(("begin", batch, sorted(logs)))

            def on_batch_end(self, batch, logs=None, events=events):
                events.append(("end", batch, sorted(logs)))

        lambdas = {hook: lambda batch, logs, hook=hook, e=events: e.append((hook, batch)) for hook in hooks[1:]}
        watching = [Old(), library.LambdaCallback(**lambdas)]
        if library is callbacks:
            train(make(), 1, callbacks=watching, validation_data=data())
        else:
            x, y = data()
            model = keras.Sequential([keras.Input((6, 6, 1)), keras.layers.Flatten(), keras.layers.Dense(4)])
            model.compile("sgd", "mse", metrics=["accuracy"])
            model.fit(x, y, batch_size=8, verbose=0, callbacks=watching, validation_data=(x, y))
        seen.append(events)
    assert seen[0] == seen[1]
    assert len(seen[0]) == 12


def test_the_hooks_and_their_order_are_keras_wherever_a_run_is_stopped(keras):
    """A callback that ends the training at its n-th event, whichever hook that is."""
    x, y = data()
    theirs = keras.Sequential([keras.Input((6, 6, 1)), keras.layers.Flatten(), keras.layers.Dense(4)])
    theirs.compile("sgd", "mse")
    stories = []
    for model, base in ((make(), callbacks.Callback), (theirs, keras.callbacks.Callback)):
        for stop_at in (1, 2, 3, 4, 9, 13, 18, 100):
            events = []

            def hook(name, events=events, stop_at=stop_at):
                def noted(self, *arguments, **logs):
                    events.append((name, *(number for number in arguments if isinstance(number, int))))
                    self.model.stop_training |= len(events) == stop_at

                return noted

            watching = type("Watching", (base,), {name: hook(name) for name in callbacks.base.HOOKS})()
            settings = {"batch_size": 8, "epochs": 3, "validation_freq": 2, "verbose": 0, "callbacks": [watching]}
            model.fit(x, y, validation_data=(x[:8], y[:8]), **settings)
            stories.append(events)
    half = len(stories) // 2
    assert stories[:half] == stories[half:]
    assert len({len(events) for events in stories}) > 3


def test_a_list_of_callbacks_serves_a_loop_of_one_s_own():
    called = []
    hooks = {name: lambda *rest, name=name: called.append((name, *rest)) for name in callbacks.base.HOOKS}
    listed = callbacks.CallbackList([callbacks.LambdaCallback(**hooks)], add_history=True, model=make(), epochs=1)
    for hook in callbacks.base.HOOKS:
        getattr(listed, hook)(*([3] if "batch" in hook or "epoch" in hook else []), {"loss": 1.0})
    assert [name for name, *_ in called] == list(callbacks.base.HOOKS)
    assert ("on_epoch_end", 3, {"loss": 1.0}) in called
    assert listed.callbacks[1].history == {"loss": [1.0]}
    with pytest.raises(AttributeError, match="Did you mean 'on_epoch_end'"):
        listed.on_epoch_ende  # noqa: B018
    with pytest.raises(ValueError, match=r"CallbackList\(add_progbar=True\) is not supported"):
        callbacks.CallbackList(add_progbar=True)


# Before the first step


def before_the_first_step(message, kind, callback, **more):
    """The error comes before anything is trained."""
    model = make()
    before = model.get_weights()
    with pytest.raises(kind) as error:
        train(model, 2, callbacks=callback, **more)
    assert message in str(error.value)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{}", "'{}' has no name"),
        ("{0}", "'{0}' has no name"),
        ("{epoch:02q}", "'{epoch:02q}' is not a format of 1"),
        ("{loss:d}", "'{loss:d}' is not a format of 0.5"),
        ("{epoch.x}", "'{epoch.x}' is not a format of 1"),
        ("{epoch[0]}", "'{epoch[0]}' is not a format of 1"),
        ("{epoch!z}", "'{epoch!z}' is not a format of 1"),
        ("{epoch:{loss}}", "'{epoch:{loss}}' is not a format of 1"),
        ("{epoch:9999999}", "'{epoch:9999999}' is not a format of 1"),
        ("{epoch:99999999999999999999}", "is not a format of 1"),
        ("{", "its braces do not match"),
        ("}", "its braces do not match"),
        ("{epoch", "its braces do not match"),
    ],
)
def test_a_wrong_format_is_named_when_the_checkpoint_is_made(name, message):
    with pytest.raises(ValueError, match="Expected fields such as") as error:
        callbacks.ModelCheckpoint(f"{name}.keras")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("{val_loss}", {}, "there is no 'val_loss'. Did you mean 'loss'? Expected one of 'loss', 'accuracy', 'epoch'."),
        ("{val_loss}", {}, "Fix: fit with validation data."),
        ("{acuracy}", {}, "there is no 'acuracy'. Did you mean 'accuracy'?"),
        ("{batch}", {}, "there is no 'batch'"),
        ("{learning_rate}", {}, "there is no 'learning_rate'"),
        ("{val_loss}", {"save_freq": 2}, "there is no 'val_loss'"),
        ("file/in/the/way", {}, "This is a file, not a folder to save in"),
        ("n" * 300, {}, "The name is too long"),
        ("folder", {}, "This is a folder"),
    ],
)
def test_a_checkpoint_that_cannot_be_saved_is_refused_before_the_first_step(
    tmp_path, monkeypatch, name, settings, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder.keras").mkdir()
    before_the_first_step(message, (ValueError, OSError), callbacks.ModelCheckpoint(f"{name}.keras", **settings))
    assert sorted(os.listdir()) == ["file", "folder.keras"]


def test_what_other_callbacks_add_can_be_watched_and_be_in_a_name(tmp_path):
    class Adding(callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["val_mine"] = np.float64(3 - epoch)

    others = [callbacks.LearningRateScheduler(lambda epoch: 0.5), Adding()]
    checkpoint = callbacks.ModelCheckpoint(tmp_path / "{val_mine:.0f} {learning_rate}.keras")
    stopping = callbacks.EarlyStopping("val_mine", mode="max")
    assert len(train(make("sgd"), 5, callbacks=[*others, checkpoint, stopping]).epoch) == 2
    assert sorted(os.listdir(tmp_path)) == ["2 0.5.keras", "3 0.5.keras"]


@pytest.mark.parametrize(
    ("make_callback", "kind", "message"),
    [
        (lambda: callbacks.BackupAndRestore("file"), OSError, "This is a file, not a folder to save in"),
        (lambda: callbacks.CSVLogger("file/log.csv"), OSError, "This is a file, not a folder to save in"),
        (lambda: callbacks.CSVLogger("."), OSError, "This is a folder"),
        (lambda: callbacks.EarlyStopping(), ValueError, "Fix: fit with validation data."),
        (lambda: callbacks.EarlyStopping("val_accuracy"), ValueError, "Fix: fit with validation data."),
        (lambda: callbacks.ReduceLROnPlateau(mode="min"), ValueError, "Fix: fit with validation data."),
        (
            lambda: callbacks.ModelCheckpoint("m.keras", save_best_only=True),
            ValueError,
            "ModelCheckpoint cannot watch 'val_loss'. Did you mean 'loss'?",
        ),
        (
            lambda: callbacks.ModelCheckpoint("m.keras", "nope", save_best_only=True, save_freq=1),
            ValueError,
            "ModelCheckpoint cannot watch 'nope': is more of it better, or less?",
        ),
        (lambda: callbacks.ReduceLROnPlateau("nope"), ValueError, "is more of it better, or less?"),
        (lambda: [callbacks.EarlyStopping("loss")] * 2, ValueError, "The same callback is given twice: <EarlyStopping"),
        (
            lambda: [callbacks.BackupAndRestore("a"), callbacks.BackupAndRestore("b")],
            ValueError,
            "A run can have one BackupAndRestore",
        ),
        (lambda: [[None]], TypeError, "Invalid callback"),
        (lambda: callbacks.EarlyStopping, TypeError, "Fix: an object, EarlyStopping(...), instead of the class."),
        (lambda: 5, TypeError, "Invalid callback. Expected objects of type tinyconv.callbacks.Callback. Received: 5."),
        (
            lambda: [remembering(object()), callbacks.BackupAndRestore("b")],
            TypeError,
            "BackupAndRestore cannot keep Remembering.get_state()['it'].",
        ),
    ],
)
def test_what_would_fail_later_fails_before_the_first_step(tmp_path, monkeypatch, make_callback, kind, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    before_the_first_step(message, kind, make_callback())
    assert os.listdir() == ["file"]


@pytest.mark.parametrize("name", ["m.keras", "m.weights.h5"])
def test_the_package_that_writes_a_checkpoint_must_be_there_before_the_first_step(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "h5py", None)
    checkpoint = callbacks.ModelCheckpoint(tmp_path / name, save_weights_only=name.endswith(".h5"))
    before_the_first_step("h5py: pip install 'tinyconv[save]'", ImportError, checkpoint)


def test_a_scheduled_rate_is_found_to_be_taken_before_an_epoch():
    for callback in (callbacks.LearningRateScheduler(lambda epoch: 0.1), callbacks.ReduceLROnPlateau("loss")):
        model = make(tinyconv.optimizers.SGD(tinyconv.optimizers.schedules.CosineDecay(0.1, 5)))
        with pytest.raises(TypeError, match="cannot set the learning rate: CosineDecay does"):
            train(model, 1, callbacks=callback)
        assert model.optimizer.iterations == 0


# Where Keras warns and goes on


@pytest.mark.parametrize(
    ("make_callback", "message", "more"),
    [
        (lambda: callbacks.EarlyStopping("loss", mode="mni"), "Unknown mode of EarlyStopping: 'mni'. Did you mean", {}),
        (lambda: callbacks.ReduceLROnPlateau("loss", mode=None), "Unknown mode of ReduceLROnPlateau: None.", {}),
        (lambda: callbacks.EarlyStopping("nope", mode="min"), "EarlyStopping cannot watch 'nope'.", {}),
        (
            lambda: callbacks.EarlyStopping(),
            "Fix: a validation_freq of at most 2, the number of epochs.",
            {"validation_data": data(1), "validation_freq": 3},
        ),
        (
            lambda: callbacks.ModelCheckpoint("m.keras", save_best_only=True, save_freq=2),
            "ModelCheckpoint saves without comparing: 'val_loss' is not known then, with save_freq=2.",
            {"validation_data": data(1)},
        ),
    ],
)
def test_training_goes_on_with_a_warning(tmp_path, monkeypatch, make_callback, message, more):
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match=re.escape(message)):
        history = train(make(), 2, callbacks=make_callback(), **more)
    assert len(history.epoch) == 2


def test_infinite_targets_are_welcome_and_nan_is_not():
    for value in (float("inf"), float("-inf"), np.float32("inf")):
        callbacks.EarlyStopping("loss", baseline=value)
        callbacks.ModelCheckpoint("m.keras", initial_value_threshold=value)
    for name in ("baseline", "min_delta"):
        with pytest.raises(ValueError, match=f"Invalid {name} of EarlyStopping. Expected a finite number"):
            callbacks.EarlyStopping(**{name: float("nan")})


# Arguments


@pytest.mark.parametrize(
    ("make_callback", "message"),
    [
        (lambda: callbacks.EarlyStopping(patience="a"), "Invalid patience of EarlyStopping. Expected an integer"),
        (lambda: callbacks.EarlyStopping(patience=1.5), "Invalid patience of EarlyStopping. Expected an integer"),
        (lambda: callbacks.EarlyStopping(monitor=None), "Invalid monitor of EarlyStopping. Expected the name"),
        (lambda: callbacks.EarlyStopping(verbose="a"), "Invalid verbose of EarlyStopping"),
        (lambda: callbacks.EarlyStopping(restore_best_weights="yes"), "Invalid restore_best_weights of EarlyStopping"),
        (lambda: callbacks.EarlyStopping(start_from_epoch=None), "Invalid start_from_epoch of EarlyStopping"),
        (lambda: callbacks.ReduceLROnPlateau(cooldown=0.5), "Invalid cooldown of ReduceLROnPlateau"),
        (lambda: callbacks.ReduceLROnPlateau(min_lr=-1), "Invalid min_lr of ReduceLROnPlateau"),
        (lambda: callbacks.ReduceLROnPlateau(epsilon=1), "ReduceLROnPlateau has no argument 'epsilon'"),
        (lambda: callbacks.ModelCheckpoint(None), "Invalid path. Expected a text or a pathlib.Path"),
        (lambda: callbacks.ModelCheckpoint("m.keras", save_freq=1.5), "Invalid save_freq of ModelCheckpoint. Expected"),
        (lambda: callbacks.ModelCheckpoint("m.keras", save_freq="epochs"), "Expected 'epoch' or a number of batches"),
        (
            lambda: callbacks.ModelCheckpoint("m.keras", save_best_only=None),
            "Invalid save_best_only of Model",
        ),
        (lambda: callbacks.BackupAndRestore(None), "Invalid backup_dir of BackupAndRestore. Expected a folder"),
        (lambda: callbacks.BackupAndRestore("b", False), "Invalid save_freq of BackupAndRestore"),
        (lambda: callbacks.BackupAndRestore("b", double_checkpoint=2), "Invalid double_checkpoint of BackupAndRestore"),
        (lambda: callbacks.CSVLogger(5), "Invalid path. Expected a text or a pathlib.Path"),
        (lambda: callbacks.CSVLogger("a", separator=""), "Invalid separator of CSVLogger. Expected one character"),
        (lambda: callbacks.CSVLogger("a", separator='"'), "Invalid separator of CSVLogger. Expected one character"),
        (lambda: callbacks.CSVLogger("a", append=None), "Invalid append of CSVLogger"),
        (lambda: callbacks.TerminateOnNaN("yes"), "Invalid raise_error of TerminateOnNaN"),
        (lambda: callbacks.LearningRateScheduler(0.1), "Invalid schedule of LearningRateScheduler"),
        (lambda: callbacks.LearningRateScheduler(lambda: 0.1), "Invalid schedule of LearningRateScheduler"),
        (lambda: callbacks.LearningRateScheduler(lambda a, b, c: a), "Invalid schedule of LearningRateScheduler"),
        (lambda: callbacks.LambdaCallback(5), "Invalid on_epoch_begin of LambdaCallback. Expected a function"),
    ],
)
def test_arguments_are_checked(make_callback, message):
    with pytest.raises((ValueError, TypeError)) as error:
        make_callback()
    assert message in str(error.value)
    assert "Received: " in str(error.value) or "has no argument" in str(error.value)


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), -0.1, None, 1, "a", np.zeros(2), True])
def test_a_schedule_must_give_learning_rates(rate):
    message = "For epoch 0 the schedule of LearningRateScheduler gave no learning rate."
    before_the_first_step(message, ValueError, callbacks.LearningRateScheduler(lambda epoch: rate))


def test_errors_inside_a_schedule_are_its_own():
    def schedule(epoch, rate):
        raise TypeError("mine")

    before_the_first_step("mine", TypeError, callbacks.LearningRateScheduler(schedule))


def test_what_only_keras_has_is_refused_by_name():
    for name in ("TensorBoard", "RemoteMonitor", "SwapEMAWeights", "OrbaxCheckpoint", "ProgbarLogger"):
        assert not hasattr(callbacks, name)
        with pytest.raises(AttributeError, match=rf"keras\.callbacks\.{name} is not supported by tinyconv\. Fix: "):
            getattr(callbacks, name)
    with pytest.raises(AttributeError, match="Did you mean 'EarlyStopping'"):
        callbacks.EarlyStoping  # noqa: B018


# The objects themselves


def test_reprs_say_what_an_object_is():
    assert repr(callbacks.EarlyStopping(patience=3, min_delta=0.0)) == "<EarlyStopping patience=3>"
    assert repr(callbacks.LambdaCallback(on_epoch_end=print)) == "<LambdaCallback on_epoch_end>"
    assert repr(callbacks.History()) == "<History: 0 epochs>"
    history = train(make(), 3)
    history.history["loss"] = [0.125, 0.1, 0.05]
    assert repr(history) == "<History: 3 epochs, loss 0.125 -> 0.05>"


def test_copies_work_and_belong_to_no_model(tmp_path):
    used = [callbacks.EarlyStopping("loss", patience=1), callbacks.CSVLogger(tmp_path / "log.csv")]
    history = train(make(), 2, callbacks=used)
    for copied in (copy.deepcopy([history, *used]), pickle.loads(pickle.dumps([history, *used]))):
        assert copied[0].history == history.history
        assert copied[1].best == used[0].best
        assert all(callback.model is None for callback in copied)
        assert train(make(), 2, callbacks=copied[1:]).history == history.history


def test_the_same_callbacks_in_two_runs_and_two_models_behave_as_new_ones(tmp_path):
    def fresh(name):
        early = callbacks.EarlyStopping("loss", min_delta=0.05, restore_best_weights=True)
        return [early, callbacks.ReduceLROnPlateau("loss", patience=1), callbacks.CSVLogger(tmp_path / name)]

    expected = make()
    train(expected, 6, callbacks=fresh("a"))
    used = fresh("b")
    train(make(seed=3), 6, callbacks=used)
    model = make()
    train(model, 6, callbacks=used)
    assert digest(model) == digest(expected)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_callback_at_work_for_one_model_is_refused_by_another():
    shared, other = callbacks.EarlyStopping("loss"), make()

    class Training(callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            train(other, 1, callbacks=shared)

    with pytest.raises(RuntimeError, match=r"EarlyStopping .* is at work in the run of another model"):
        train(make(), 2, callbacks=[shared, Training()])
    assert len(train(other, 1, callbacks=shared).epoch) == 1


def test_an_error_in_a_callback_comes_out_and_leaves_a_log_of_what_was(tmp_path):
    class Failing(callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise OSError("mine")

    model = make()
    with pytest.raises(OSError, match="mine"):
        train(model, 3, callbacks=[callbacks.CSVLogger(tmp_path / "log.csv"), Failing()])
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 3
    assert len(train(model, 2).epoch) == 2


@pytest.mark.parametrize("base", [callbacks.ModelCheckpoint, callbacks.BackupAndRestore])
def test_a_batch_hook_of_a_subclass_is_called(tmp_path, base):
    called = []

    class Mine(base):
        def on_train_batch_end(self, batch, logs=None):
            called.append(batch)
            super().on_train_batch_end(batch, logs)

    train(make(), 1, callbacks=Mine(tmp_path / "it.keras"))
    assert called == [0, 1, 2]


def test_what_callbacks_say_never_stops_a_run(tmp_path, monkeypatch):
    """Neither a name that the output cannot encode, nor nobody who listens."""

    class Deaf(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    for stream in (io.TextIOWrapper(io.BytesIO(), "ascii"), Deaf()):
        monkeypatch.setattr(sys, "stdout", stream)
        saying = [
            callbacks.ModelCheckpoint(tmp_path / "ä.safetensors", save_weights_only=True, verbose=1),
            callbacks.EarlyStopping("loss", min_delta=9, restore_best_weights=True, verbose=1),
            callbacks.ReduceLROnPlateau("loss", patience=1, min_delta=9, verbose=1),
            callbacks.LearningRateScheduler(lambda epoch: 0.1, verbose=1),
        ]
        assert len(train(make(), 4, callbacks=saying).epoch) == 2
        monkeypatch.undo()


def test_appending_to_a_file_with_other_columns_is_said(tmp_path):
    path = tmp_path / "log.csv"
    train(make(), 1, callbacks=callbacks.CSVLogger(path))
    train(make(), 1, callbacks=callbacks.CSVLogger(path, append=True))
    model = make()
    model.compile("adam", "mse", backend="reference")
    with pytest.warns(
        UserWarning, match=r"other columns .* \['epoch', 'loss', 'val_loss'\]. Received: \['epoch', 'acc"
    ):
        train(model, 1, callbacks=callbacks.CSVLogger(path, append=True))
    assert len(path.read_text().splitlines()) == 4


def test_csv_values_are_written_as_keras_writes_them(keras, tmp_path):
    logs = [{"a": np.float32(0.5), "b": [1, 2], "c": "é", "d": np.array(3)}, {"a": 1.0}]
    for library, name in ((callbacks, "ours"), (keras.callbacks, "theirs")):
        drive(library.CSVLogger(str(tmp_path / name)), Watched(library is not callbacks), logs)
    ours, theirs = ((tmp_path / name).read_bytes().replace(b"\r\n", b"\n") for name in ("ours", "theirs"))
    assert ours == theirs


# Backups


def everything(folder, **more):
    """Callbacks that remember things, and a backup of all of them."""
    return [
        callbacks.ReduceLROnPlateau("loss", patience=1, min_delta=0.1, factor=0.7),
        callbacks.EarlyStopping("loss", patience=5, min_delta=0.01, restore_best_weights=True),
        callbacks.BackupAndRestore(folder, **more),
    ]


@pytest.mark.parametrize("save_freq", ["epoch", 1, 2])
@pytest.mark.parametrize("interrupted_after", [0, 1, 3, 4, 7, 14])
def test_an_interrupted_run_ends_with_the_same_bits(tmp_path, save_freq, interrupted_after):
    """Five epochs of three batches; the second process begins with another seed, as it would."""
    whole = make()
    expected = train(whole, 5, callbacks=everything(tmp_path / "a", save_freq=save_freq))
    stopped = make()
    with pytest.raises(KeyboardInterrupt):
        train(stopped, 5, callbacks=[*everything(tmp_path / "b", save_freq=save_freq), Interrupt(interrupted_after)])
    backed_up = interrupted_after >= (3 if save_freq == "epoch" else save_freq)
    assert (tmp_path / "b").exists() is backed_up
    resumed = make(seed=5 if backed_up else 0)
    history = train(resumed, 5, callbacks=[*everything(tmp_path / "b", save_freq=save_freq), Interrupt(10**6)])
    assert digest(resumed) == digest(whole)
    assert (history.epoch, history.history) == (expected.epoch, expected.history)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("save_freq", few(["epoch", 2]))
def test_an_interrupted_run_ends_with_the_same_bits_on_the_fast_kernels(tmp_path, save_freq):
    def run(seed, folder, batches):
        model = make(seed=seed)
        model.compile("adam", "categorical_crossentropy", metrics=["accuracy"], backend="cpu")
        with contextlib.suppress(KeyboardInterrupt):
            train(model, 4, callbacks=[*everything(tmp_path / folder, save_freq=save_freq), Interrupt(batches)])
        return digest(model)

    whole = run(0, "a", 100)
    assert run(0, "b", 7) != whole
    assert run(6, "b", 100) == whole


def test_a_run_that_stopped_itself_does_not_go_on_after_a_restart(tmp_path):
    def stopping():
        early = callbacks.EarlyStopping("loss", min_delta=10, restore_best_weights=True)
        return [early, callbacks.BackupAndRestore(tmp_path / "b", delete_checkpoint=False)]

    first = make()
    assert len(train(first, 9, callbacks=stopping()).epoch) == 2
    again = make(seed=3)
    assert len(train(again, 9, callbacks=stopping()).epoch) == 2
    assert digest(again) == digest(first)


def test_a_damaged_backup_is_replaced_by_the_one_before(tmp_path):
    def run(epochs, folder, model, **more):
        backup = callbacks.BackupAndRestore(folder, delete_checkpoint=False, **more)
        train(model, epochs, callbacks=backup)
        return model

    whole = run(4, tmp_path / "a", make())
    run(3, tmp_path / "b", make(), double_checkpoint=True)
    latest = tmp_path / "b" / "latest.safetensors"
    latest.write_bytes(latest.read_bytes()[:-3])
    with pytest.warns(UserWarning, match=r"cannot be read: .*is damaged"):
        resumed = run(4, tmp_path / "b", make(seed=8), double_checkpoint=True)
    assert digest(resumed) == digest(whole)
    for name in ("latest", "previous"):
        (tmp_path / "b" / f"{name}.safetensors").write_bytes(b"nothing")
    with (
        pytest.warns(UserWarning, match=r"cannot be read"),
        pytest.raises(ValueError, match=r"Fix: delete the folder '.*' to start anew"),
    ):
        run(4, tmp_path / "b", make())


def test_a_backup_of_another_run_is_refused(tmp_path):
    train(make(), 1, callbacks=callbacks.BackupAndRestore(tmp_path, delete_checkpoint=False))
    x, y = data()
    with pytest.raises(ValueError, match=r"is the backup of another run: Expected .*'batch_size': 5.* Received: .*8"):
        make().fit(x, y, batch_size=5, epochs=2, verbose=0, callbacks=callbacks.BackupAndRestore(tmp_path))
    other = tinyconv.Sequential([tinyconv.Input((6, 6, 1)), tinyconv.layers.Flatten(), tinyconv.layers.Dense(4)])
    other.compile("adam", "mse", backend="reference")
    with pytest.raises(ValueError, match="does not fit the model: 'batch_normalization/beta' is not a weight"):
        train(other, 2, callbacks=callbacks.BackupAndRestore(tmp_path))


def test_a_backup_whose_content_is_not_as_written_is_refused(tmp_path):
    """The seal is right: somebody, or another version, has written something else."""
    train(make(), 1, callbacks=callbacks.BackupAndRestore(tmp_path, delete_checkpoint=False))
    path = tmp_path / "latest.safetensors"
    arrays, _ = safetensors.loads(path.read_bytes(), "it")
    state = json.loads(arrays["state"].tobytes())

    def refused(message, arrays, **changed):
        text = json.dumps({key: value for key, value in {**state, **changed}.items() if value != "gone"}).encode()
        path.write_bytes(safetensors.dumps({**arrays, "state": np.frombuffer(text, np.uint8)}))
        with pytest.raises(ValueError, match=message):
            train(make(), 2, callbacks=callbacks.BackupAndRestore(tmp_path))

    refused("is not a backup of this version: KeyError\\('seed'\\)", arrays, seed="gone")
    refused("is not a backup of this version: TypeError", arrays, epoch=[])
    refused("is not a backup of this version: KeyError\\('x'\\)", arrays, callbacks=[{"dict": {"a": {"array": "x"}}}])
    refused("is not a backup of this version: KeyError\\('kind'\\)", arrays, callbacks=[{"dict": {}}])
    refused("is not a backup of this version: ValueError", arrays, callbacks=[{"float": "x"}])
    refused(
        "does not fit the model: 'conv2d/bias' is missing", {k: v for k, v in arrays.items() if "conv2d/bias" not in k}
    )


def test_only_the_backup_s_own_files_are_deleted(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    train(make(), 1, callbacks=callbacks.BackupAndRestore(tmp_path))
    assert os.listdir(tmp_path) == ["notes.txt"]


def remembering(value):
    class Remembering(callbacks.Callback):
        it = value

        def get_state(self):
            return {"it": self.it}

        def set_state(self, state):
            self.it = state["it"]

    return Remembering()


@pytest.mark.parametrize("interrupted_after", [4, 7])
@pytest.mark.parametrize("append", [False, True])
def test_the_log_of_an_interrupted_run_is_that_of_a_whole_one(tmp_path, interrupted_after, append):
    for name in ("a", "b"):
        (tmp_path / name).write_text("epoch,accuracy,loss,val_accuracy,val_loss\n")

    def logged(name):
        log = callbacks.CSVLogger(tmp_path / name, append=append)
        return [log, callbacks.BackupAndRestore(tmp_path / f"{name} backup", save_freq=2)]

    train(make(), 5, callbacks=logged("a"))
    with pytest.raises(KeyboardInterrupt):
        train(make(), 5, callbacks=[*logged("b"), Interrupt(interrupted_after)])
    with (tmp_path / "b").open("a") as file:
        file.write("a row that came after the backup\r\n")
    train(make(seed=3), 5, callbacks=[*logged("b"), Interrupt(10**6)])
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()


def test_whatever_callbacks_remember_comes_back(tmp_path):
    value = {
        "text": "ä",
        "numbers": [1, -0.0, float("inf"), None, True, 2**60, np.float64(0.1)],
        "array": np.arange(6.0).reshape(2, 3),
        "arrays": [np.zeros(0, np.float32), [np.array(3)]],
        "empty": {"array": {}, "list": []},
    }

    def backup():
        return callbacks.BackupAndRestore(tmp_path, delete_checkpoint=False)

    train(make(), 1, callbacks=[remembering(value), backup()])
    again = remembering(None)
    train(make(), 2, callbacks=[again, backup()])
    assert repr(again.it) == repr({**value, "numbers": [*value["numbers"][:-1], 0.1]})


def test_a_run_goes_on_with_other_callbacks_and_a_warning(tmp_path):
    def run(epochs, *others):
        return train(make(), epochs, callbacks=[*others, callbacks.BackupAndRestore(tmp_path, delete_checkpoint=False)])

    run(2, callbacks.ReduceLROnPlateau("loss"), remembering(1), remembering(2))
    kept, new = remembering(0), callbacks.TerminateOnNaN()
    with pytest.warns(UserWarning, match=r"with ReduceLROnPlateau, with Rem.*, without Termi"):
        history = run(3, new, kept)
    assert kept.it == 1
    assert history.epoch == [0, 1, 2]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"optimizer": tinyconv.optimizers.SGD(0.1)}, "SGD("),
        ({"optimizer": tinyconv.optimizers.Adam(beta_1=0.5)}, "Adam(beta_1=0.5"),
        ({"optimizer": tinyconv.optimizers.Adam(tinyconv.optimizers.schedules.CosineDecay(0.1, 5))}, "CosineDecay("),
        ({"metrics": ["accuracy", "top_k_categorical_accuracy"]}, "TopKCategoricalAccuracy("),
        ({"loss": "mse"}, "MeanSquaredError("),
        ({"frozen": "conv2d"}, "Expected {'frozen': ['conv2d']}. Received: {'frozen': []}"),
    ],
)
def test_a_backup_of_a_run_with_other_settings_is_refused_and_changes_nothing(tmp_path, changed, message):
    train(make(), 1, callbacks=callbacks.BackupAndRestore(tmp_path, delete_checkpoint=False))
    settings = {"optimizer": "adam", "loss": "categorical_crossentropy", "metrics": ["accuracy"], **changed}
    frozen = settings.pop("frozen", None)
    model = make(seed=4)
    for layer in model.layers:
        layer.trainable = layer.name != frozen
    model.compile(**settings, backend="reference")
    before = model.get_weights()
    with pytest.raises(ValueError, match="is the backup of another run") as error:
        train(model, 2, callbacks=callbacks.BackupAndRestore(tmp_path))
    assert message in str(error.value)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_a_run_with_frozen_layers_is_resumed_to_the_same_bits(tmp_path):
    def run(seed, name, batches):
        model = make(seed=seed)
        model.layers[0].trainable = model.layers[1].trainable = False
        model.compile("adam", "categorical_crossentropy", metrics=["accuracy"], backend="reference")
        with contextlib.suppress(KeyboardInterrupt):
            train(model, 4, callbacks=[*everything(tmp_path / name, save_freq=2), Interrupt(batches)])
        return digest(model)

    whole = run(0, "a", 100)
    assert run(0, "b", 7) != whole
    assert run(6, "b", 100) == whole
