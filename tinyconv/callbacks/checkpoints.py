"""Callbacks that write files to come back to: the best model so far, or everything a killed run needs to go on."""

import json
import math
import os
import re
import string
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from tinyconv.callbacks.base import Callback, Logs, Position
from tinyconv.callbacks.monitors import MonitorCallback, verbosity
from tinyconv.checking import boolean, console, integer, invalid
from tinyconv.checking.messages import received, suggest
from tinyconv.files import atomic, checked_json, safetensors, store, targets
from tinyconv.network import Network

FIELDS = "Expected fields such as {epoch:02d} or {val_loss:.2f}."
LONGEST_PATH = 10_000


class Periodic(Callback):
    """A callback that acts at the end of each epoch, or every so many batches."""

    save_freq: str | int
    batches = 0  # since it last acted
    epoch = 0

    def set_frequency(self, save_freq: Any) -> None:
        who, expected = type(self).__name__, "'epoch' or a number of batches, a positive integer"
        try:
            epochs = isinstance(save_freq, str) and save_freq == "epoch"
            self.save_freq = "epoch" if epochs else integer(who, "save_freq", save_freq)
        except ValueError:
            raise invalid(who, "save_freq", expected, save_freq) from None

    def wants(self, hook: str) -> bool:
        idle = hook == "on_train_batch_end" and self.save_freq == "epoch"
        mine = getattr(getattr(self, hook), "__func__", None) is Periodic.on_train_batch_end
        return not (idle and mine) and super().wants(hook)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        if self.save_freq == "epoch":
            return
        self.batches += 1
        if self.batches >= int(self.save_freq):
            self.batches = 0
            self.act(self.epoch, batch + 1, logs or {})

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if self.save_freq == "epoch":
            self.act(epoch + 1, 0, logs or {})

    def act(self, epoch: int, batch: int, logs: Logs) -> None:
        """Do it, when so many epochs, and so many batches of the next one, are done."""
        raise NotImplementedError


class NoSuchName(KeyError, ValueError):
    """A file's name asks for a value that is not there: a KeyError, as in Keras."""

    def __str__(self) -> str:
        return str(self.args[0])


class ModelCheckpoint(Periodic, MonitorCallback):
    """Save the model, or its weights, as training goes on.

    Args:
        filepath: where to; may hold the epoch, the batch and the logs: "{epoch:02d}-{val_loss:.2f}.keras". It ends in
            ".keras", or with ``save_weights_only`` in ".weights.h5" or ".safetensors".
        monitor: what decides which model is best.
        verbose: 1 says what is saved and why.
        save_best_only: whether to save only a model that is better than all before.
        save_weights_only: whether to save the weights without the model.
        mode: "min", "max" or "auto".
        save_freq: "epoch", or every so many batches.
        initial_value_threshold: what the first model must be better than.
    """

    def __init__(
        self,
        filepath: str | os.PathLike,
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: str = "auto",
        save_freq: str | int = "epoch",
        initial_value_threshold: float | None = None,
    ) -> None:
        who = type(self).__name__
        super().__init__(monitor, mode, initial_value_threshold)
        self.filepath, self.verbose = atomic.text_of(filepath), verbosity(who, verbose)
        self.save_best_only = boolean(who, "save_best_only", save_best_only)
        self.save_weights_only = boolean(who, "save_weights_only", save_weights_only)
        self.set_frequency(save_freq)
        self.kinds = (targets.KERAS_H5, targets.SAFETENSORS) if self.save_weights_only else (targets.KERAS_ARCHIVE,)
        targets.kind_of(self.filepath, *self.kinds)
        self._path({**dict.fromkeys(self._fields(), 0.5), "epoch": 1, "batch": 1})

    def check_run(self) -> None:
        by_batch = self.save_freq != "epoch"
        names, more = (self.names_of_batch(), False) if by_batch else self.names_of_epoch()
        if self.save_best_only and by_batch:
            self._set_sign()
            if self.monitor not in names:
                self._warn_of_no_value(names)
        elif self.save_best_only:
            super().check_run()
        logs: Logs = dict.fromkeys(names, 0.5)
        if more:
            logs = dict.fromkeys(self._fields(), 0.5) | logs
        last = self.params or {}
        for epoch, batch in ((1, 1), (last.get("epochs", 1), last.get("steps", 1))):
            numbers = {"epoch": epoch, "batch": batch} if by_batch else {"epoch": epoch}
            targets.check_target(self._path({**logs, **numbers}), *self.kinds, parents=True)

    def act(self, epoch: int, batch: int, logs: Logs) -> None:
        if batch:
            epoch += 1
        path = self._path({**({"batch": batch} if batch else {}), **logs, "epoch": epoch})
        value = logs.get(self.monitor) if self.save_best_only else None
        if value is not None:
            if not self.improves(value, self.best):
                if self.verbose:
                    console.write(f"Epoch {epoch}: {self.monitor} did not improve from {self.best:.5f}.")
                return
            self.best = value
        elif self.save_best_only:
            self._warn_of_no_value(logs)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        if self.save_weights_only:
            self.model.save_weights(path)
        else:
            self.model.save(path)
        if self.verbose:
            console.write(f"Epoch {epoch}: saved {path}" + ("." if value is None else f", {self.monitor} {value:.5f}."))

    def _warn_of_no_value(self, names: Iterable[str]) -> None:
        fix = " Fix: save_freq='epoch'." if self.save_freq != "epoch" and self.monitor.startswith("val_") else ""
        warnings.warn(
            f"ModelCheckpoint saves without comparing: {self.monitor!r} is not known then, with "
            f"save_freq={self.save_freq!r}. {suggest(self.monitor, names)}{fix}",
            stacklevel=5,
        )

    def _fields(self) -> list[str]:
        """The names of the values that the file's name asks for."""
        return [re.split(r"[.[]", name)[0] for _, name in self._pieces(self.filepath)]

    def _pieces(self, text: str) -> list[tuple[str, str]]:
        """The fields of a format, as they stand there and by name."""
        found = []
        try:
            for _, name, layout, conversion in string.Formatter().parse(text):
                if name is not None:
                    piece = name + (f"!{conversion}" if conversion else "") + (f":{layout}" if layout else "")
                    found += [*self._pieces(layout or ""), (f"{{{piece}}}", name)]
        except ValueError:
            raise ValueError(
                f"ModelCheckpoint cannot fill in {self.filepath!r}: its braces do not match. {FIELDS} "
                "Fix: '{{' and '}}' for braces that stay."
            ) from None
        return found

    def _path(self, values: Mapping[str, float]) -> str:
        """The file's name, filled in."""
        try:
            path = self.filepath.format(**values)
            if len(path) < LONGEST_PATH:
                return path
        except Exception:
            pass  # found below, where the field is known
        available = f"Available are {', '.join(map(repr, values))}."
        for piece, name in self._pieces(self.filepath):
            root = re.split(r"[.[]", name)[0]
            if not root or root.isdecimal():
                raise ValueError(f"ModelCheckpoint cannot fill in {self.filepath!r}: {piece!r} has no name. {FIELDS}")
            if root not in values:
                fix = " Fix: fit with validation data." if self._lacks_validation(root) else ""
                raise NoSuchName(
                    f"ModelCheckpoint cannot fill in {self.filepath!r}: there is no {root!r}. "
                    f"{suggest(root, values)}{fix}"
                )
            try:
                fine = len(piece.format(**values)) < LONGEST_PATH
            except Exception:
                fine = False
            if not fine:
                raise ValueError(
                    f"ModelCheckpoint cannot fill in {self.filepath!r}: {piece!r} is not a format of "
                    f"{received(values[root])}. {FIELDS} {available}"
                )
        raise ValueError(f"ModelCheckpoint cannot fill in {self.filepath!r}: the name is too long. {available}")

    def _lacks_validation(self, name: str) -> bool:
        params = self.params or {}
        return name.startswith("val_") and self.save_freq == "epoch" and params.get("validation_freq") == 0

    def get_state(self) -> dict[str, Any]:
        return {**super().get_state(), "batches": self.batches}

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self.batches = state["batches"]


class BackupAndRestore(Periodic):
    """Make a run survive its process: started again with the same arguments, it goes on where it was backed up.

    What is kept is everything that decides how training continues: weights, moments, step, learning rate, seed (and so
    the orders and masks still to come), the history, and what the other callbacks remember. So a run that is killed at
    any moment and started again ends with the same bits as one that was not.

    Args:
        backup_dir: a folder for this run's backup alone.
        save_freq: "epoch", or every so many batches.
        double_checkpoint: whether to keep the backup before the last one too, and to take it if the last is damaged.
        delete_checkpoint: whether to delete the backup when training has finished.
    """

    runs_last = True
    LATEST, PREVIOUS = "latest.safetensors", "previous.safetensors"

    def __init__(
        self,
        backup_dir: str | os.PathLike,
        save_freq: str | int = "epoch",
        double_checkpoint: bool = False,
        delete_checkpoint: bool = True,
    ) -> None:
        who = type(self).__name__
        if not isinstance(backup_dir, str | os.PathLike) or not os.fspath(backup_dir):
            raise invalid(who, "backup_dir", "a folder for the backup, a text or a pathlib.Path", backup_dir)
        self.backup_dir = Path(atomic.text_of(backup_dir))
        self.set_frequency(save_freq)
        self.double_checkpoint = boolean(who, "double_checkpoint", double_checkpoint)
        self.delete_checkpoint = boolean(who, "delete_checkpoint", delete_checkpoint)
        self.states: list[tuple[str, dict[str, Any]]] | None = None  # of the others, by class, from a backup

    def check_run(self) -> None:
        targets.check_target(self.backup_dir / self.LATEST, parents=True)
        if any(isinstance(callback, BackupAndRestore) for callback in self._others):
            raise ValueError("A run can have one BackupAndRestore. Received: another one. Fix: leave one out.")

    # Restoring

    def resume(self, model: Network, samples: int | None, batch_size: int | None) -> Position | None:
        self.states = None
        self.run = _description(model, samples, batch_size)
        found = self._read()
        if found is None:
            return None
        arrays, state, where = found
        try:
            run = dict(state["run"])
            states = [_decoded(each, arrays) for each in state["callbacks"]]
            kinds = [each.pop("kind") for each in states]
            epoch = self.NEVER if state["stopped"] else int(state["epoch"])
            position = Position(epoch, int(state["batch"]), arrays["totals"].tolist())
            seed, iterations, rate = int(state["seed"]), int(state["iterations"]), state["learning_rate"]
            rate = None if rate is None else float(rate)
        except (KeyError, TypeError, AttributeError, OverflowError, ValueError) as error:
            raise ValueError(f"{where} is not a backup of this version: {error!r}. Fix: another backup_dir.") from None
        weights = store.fitting(store.named_weights(model), _below(arrays, "weights"), where)
        names = [name for name in self.run if run.get(name) != self.run[name]]
        if names:
            raise ValueError(
                f"{where} is the backup of another run: Expected { {name: self.run[name] for name in names} }. "
                f"Received: { {name: run.get(name) for name in names} }. "
                "Fix: the same data, model and settings as when it was made, or another backup_dir."
            )
        moments = {}
        for slot, expected in model.optimizer_state().items():
            kept = {name: array for name, array in _below(arrays, f"optimizer/{slot}").items() if name in expected}
            moments[slot] = dict(zip(expected, store.fitting(dict(expected), kept, where), strict=True))
        if rate is not None:
            model.optimizer.learning_rate = rate  # type: ignore[union-attr]
        model.set_weights(weights)
        model.restart(seed, iterations, moments)
        self.states = list(zip(kinds, states, strict=True))
        return position

    NEVER = 1 << 62  # the epoch at which a run goes on that had stopped itself

    def _read(self) -> tuple[dict[str, np.ndarray], dict[str, Any], str] | None:
        """The latest backup, or the one before if that is damaged; None if there is none."""
        damage: ValueError | None = None
        for name in (self.LATEST, self.PREVIOUS):
            path = self.backup_dir / name
            with suppress(FileNotFoundError, NotADirectoryError):  # check_run says what is in the way
                try:
                    arrays, _ = safetensors.loads(path.read_bytes(), repr(str(path)))
                    state = checked_json.loads(arrays["state"].tobytes(), f"The state in {path}", 64 << 20)
                    return arrays, state, repr(str(path))
                except (ValueError, KeyError) as error:
                    damage = ValueError(f"{error} Fix: delete the folder {str(self.backup_dir)!r} to start anew.")
                    warnings.warn(f"The backup {path} cannot be read: {error}", stacklevel=4)
        if damage is not None:
            raise damage
        return None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._states({})  # what cannot be kept is said now
        if self.states is None:
            return
        before, now = [kind for kind, _ in self.states], [type(callback).__name__ for callback in self._others]
        gone, new = Counter(before) - Counter(now), Counter(now) - Counter(before)
        if gone or new:
            changes = [f"with {name}" for name in gone.elements()] + [f"without {name}" for name in new.elements()]
            warnings.warn(
                f"The backup in {str(self.backup_dir)!r} was made with other callbacks: {', '.join(changes)}. "
                "What is new begins anew, and what is gone is forgotten.",
                stacklevel=4,
            )
        for callback, kind in zip(self._others, now, strict=True):
            i = next((i for i, (name, _) in enumerate(self.states) if name == kind), None)
            if i is not None:
                _, state = self.states.pop(i)
                if state:
                    callback.set_state(state)

    # Backing up

    def act(self, epoch: int, batch: int, logs: Logs) -> None:
        model = self.model
        optimizer = model.optimizer
        assert optimizer is not None
        arrays: dict[str, np.ndarray] = {"totals": np.asarray(model.totals() if batch else [], np.float64)}
        arrays |= {f"weights/{name}": array for name, array in store.named_weights(model).items()}
        for slot, moments in model.optimizer_state().items():
            arrays |= {f"optimizer/{slot}/{name}": array for name, array in moments.items()}
        state = {
            "epoch": epoch,
            "batch": batch,
            "stopped": bool(model.stop_training),
            "seed": model.seed,
            "iterations": optimizer.iterations,
            "learning_rate": optimizer.learning_rate if optimizer.schedule is None else None,
            "run": self.run,
            "callbacks": self._states(arrays),
        }
        arrays["state"] = np.frombuffer(json.dumps(state, allow_nan=False).encode(), np.uint8)
        self.backup_dir.mkdir(parents=True, exist_ok=True)
        latest = self.backup_dir / self.LATEST
        if self.double_checkpoint and latest.exists():
            atomic.write(self.backup_dir / self.PREVIOUS, latest.read_bytes())
        atomic.write(latest, safetensors.dumps(arrays))

    def _states(self, arrays: dict[str, np.ndarray]) -> list[Any]:
        """What the other callbacks remember."""
        states = []
        for callback in self._others:
            kind = type(callback).__name__
            states.append(_encoded({**callback.get_state(), "kind": kind}, arrays, f"{kind}.get_state()"))
        return states

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self.delete_checkpoint:
            for name in (self.LATEST, self.PREVIOUS):
                (self.backup_dir / name).unlink(missing_ok=True)
            with suppress(OSError):
                self.backup_dir.rmdir()  # only if it holds nothing else


def _below(arrays: dict[str, np.ndarray], path: str) -> dict[str, np.ndarray]:
    """The arrays under a path, by the rest of their names."""
    return {key[len(path) + 1 :]: array for key, array in arrays.items() if key.startswith(f"{path}/")}


def _description(model: Network, samples: int | None, batch_size: int | None) -> dict[str, Any]:
    """What must be the same when a run goes on: a number as learning rate and the epochs may be others."""
    optimizer, loss = model.optimizer, model.loss
    assert optimizer is not None and loss is not None  # noqa: PT018
    settings = {name: value for name, value in optimizer.get_config().items() if name not in ("name", "learning_rate")}
    schedule = optimizer.schedule
    return {
        "samples": samples,
        "batch_size": batch_size,
        "optimizer": _as_text(optimizer, settings),
        "learning_rate": "a number" if schedule is None else _as_text(schedule, schedule.get_config()),
        "loss": _as_text(loss, loss.get_config()),
        "metrics": [_as_text(metric, metric.get_config()) for metric in model.metrics],
        "frozen": [path for path, layer in model._leaves if not (model.trainable and layer.trainable)],
    }


def _as_text(thing: object, config: dict[str, Any]) -> str:
    given = [f"{name}={value!r}" for name, value in config.items() if value is not None]
    return f"{type(thing).__name__}({', '.join(given)})"


def _encoded(value: Any, arrays: dict[str, np.ndarray], where: str) -> Any:
    """A callback's state as JSON can hold it: arrays go into ``arrays``; lists, dicts and odd floats are marked."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        name = f"callbacks/{len(arrays)}"
        arrays[name] = value
        return {"array": name}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_encoded(each, arrays, where) for each in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {key: _encoded(each, arrays, f"{where}[{key!r}]") for key, each in value.items()}}
    raise TypeError(
        f"BackupAndRestore cannot keep {where}. Expected texts, numbers, None, arrays, and lists and dicts of these. "
        f"Received: {received(value)}."
    )


def _decoded(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """The reverse of :func:`_encoded`."""
    if isinstance(value, list):
        return [_decoded(each, arrays) for each in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "array":
        return arrays[content]
    return float(content) if kind == "float" else {key: _decoded(each, arrays) for key, each in content.items()}
