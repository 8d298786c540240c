"""Callbacks against Keras' own, and runs that are interrupted."""

import contextlib
import csv
import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples
from test_saving import data, digest, make, train

import tinyconv
from tinyconv import callbacks
from tinyconv.saving import load_model, safetensors


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
    from peer import keras

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


@pytest.mark.parametrize("save_freq", ["epoch", 2])
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
    with pytest.raises(ValueError, match="does not fit the model: 'batch_normalization/beta' is no weight"):
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

    refused("is no backup of this version: KeyError\\('seed'\\)", arrays, seed="gone")
    refused("is no backup of this version: TypeError", arrays, epoch=[])
    refused("is no backup of this version: KeyError\\('x'\\)", arrays, callbacks=[{"dict": {"a": {"array": "x"}}}])
    refused("is no backup of this version: KeyError\\('kind'\\)", arrays, callbacks=[{"dict": {}}])
    refused("is no backup of this version: ValueError", arrays, callbacks=[{"float": "x"}])
    refused(
        "does not fit the model: 'conv2d/bias' is missing", {k: v for k, v in arrays.items() if "conv2d/bias" not in k}
    )


def test_only_the_backup_s_own_files_are_deleted(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    train(make(), 1, callbacks=callbacks.BackupAndRestore(tmp_path))
    assert os.listdir(tmp_path) == ["notes.txt"]
