"""Callbacks that write files to come back to: the best model so far, or everything a killed run needs to go on."""

import json
import os
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyconv import saving
from tinyconv.callbacks.base import Callback, Logs, Position
from tinyconv.callbacks.monitors import Monitor
from tinyconv.saving import atomic, checked_json, safetensors

if TYPE_CHECKING:
    from tinyconv.model import Sequential


def checked_frequency(save_freq: str | int) -> str | int:
    """ "epoch", or a positive number of batches."""
    if save_freq != "epoch" and (isinstance(save_freq, bool | str) or int(save_freq) < 1):
        raise ValueError(f"Invalid save_freq. Expected 'epoch' or a number of batches. Received: {save_freq!r}.")
    return save_freq


class ModelCheckpoint(Monitor):
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
        super().__init__(monitor, mode)
        self.filepath, self.verbose = os.fspath(filepath), verbose
        self.save_best_only, self.save_weights_only = save_best_only, save_weights_only
        self.save_freq = checked_frequency(save_freq)
        self.best = initial_value_threshold
        self.batches = 0  # since the last save
        kinds = (saving.KERAS_H5, saving.SAFETENSORS) if save_weights_only else (saving.KERAS_ARCHIVE,)
        saving.kind_of(self.filepath, *kinds)

    def set_model(self, model: "Sequential") -> None:
        if self.save_best_only:
            super().set_model(model)
        else:
            Callback.set_model(self, model)

    def wants(self, hook: str) -> bool:
        return super().wants(hook) and (self.save_freq != "epoch" or hook != "on_train_batch_end")

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self.batches += 1
        if self.batches >= int(self.save_freq):
            self.batches = 0
            self._save({"epoch": self.epoch + 1, "batch": batch + 1}, logs or {})

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if self.save_freq == "epoch":
            self._save({"epoch": epoch + 1}, logs or {})

    def _save(self, numbers: dict[str, int], logs: Logs) -> None:
        try:
            path = Path(self.filepath.format(**{**logs, **numbers}))
        except KeyError as error:
            raise KeyError(
                f"ModelCheckpoint cannot fill in {self.filepath!r}: there is no {error}. "
                f"Expected one of {', '.join(map(repr, [*numbers, *logs]))}."
            ) from None
        value = self.value(logs) if self.save_best_only else None
        where = f"Epoch {numbers['epoch']}"
        if value is not None:
            if not self.improves(value, self.best):
                if self.verbose:
                    print(f"{where}: {self.monitor} did not improve from {self.best:.5f}.")
                return
            self.best = value
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.save_weights_only:
            self.model.save_weights(path)
        else:
            self.model.save(path)
        if self.verbose:
            print(f"{where}: saved {path}" + ("." if value is None else f", {self.monitor} {value:.5f}."))

    def get_state(self) -> dict[str, Any]:
        return {**super().get_state(), "batches": self.batches}

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self.batches = int(state["batches"])


class BackupAndRestore(Callback):
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
        if not os.fspath(backup_dir):
            raise ValueError("Empty backup_dir. Expected a folder for the backup.")
        self.backup_dir, self.save_freq = Path(backup_dir), checked_frequency(save_freq)
        self.double_checkpoint, self.delete_checkpoint = double_checkpoint, delete_checkpoint
        self.others: Sequence[Callback] = ()
        self.states: list[dict[str, Any]] | None = None  # of the others, from a backup
        self.batches = self.epoch = 0

    def set_others(self, callbacks: Sequence[Callback]) -> None:
        self.others = [callback for callback in callbacks if callback is not self]

    def wants(self, hook: str) -> bool:
        return super().wants(hook) and (self.save_freq != "epoch" or hook != "on_train_batch_end")

    # Restoring

    def resume(self, model: "Sequential", samples: int, batch_size: int) -> Position | None:
        self.run = {"samples": samples, "batch_size": batch_size}
        found = self._read()
        if found is None:
            self.states = None
            return None
        arrays, state, where = found
        try:
            if state["run"] != self.run:
                raise ValueError(
                    f"{where} is the backup of another run: Expected {self.run}. Received: {state['run']}. "
                    "Fix: the same data and batch size, or another backup_dir."
                )
            self.states = [_with_arrays(each, arrays, f"callbacks/{i}") for i, each in enumerate(state["callbacks"])]
            epoch = self.NEVER if state["stopped"] else int(state["epoch"])
            position = Position(epoch, int(state["batch"]), arrays["totals"].tolist())
            self._restore(model, arrays, state, where)
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"{where} is no backup of this version: {error!r}. Fix: another backup_dir.") from None
        return position

    NEVER = 1 << 62  # the epoch at which a run goes on that had stopped itself

    def _read(self) -> tuple[dict[str, np.ndarray], dict[str, Any], str] | None:
        """The latest backup, or the one before if that is damaged; None if there is none."""
        damage: ValueError | None = None
        for name in (self.LATEST, self.PREVIOUS):
            path = self.backup_dir / name
            with suppress(FileNotFoundError):
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

    def _restore(self, model: "Sequential", arrays: dict[str, np.ndarray], state: dict[str, Any], where: str) -> None:
        assert model.optimizer is not None
        expected = saving.named_weights(model)
        found = _below(arrays, "weights")
        model.set_weights(saving.fitting(expected, found, where))
        moments = {slot: _below(arrays, f"optimizer/{slot}") for slot in model.optimizer.slots}
        model.restart(int(state["seed"]), int(state["iterations"]), moments)
        if state["learning_rate"] is not None:
            model.optimizer.learning_rate = float(state["learning_rate"])

    def on_train_begin(self, logs: Logs | None = None) -> None:
        if self.states is None:
            return
        kinds = [type(callback).__name__ for callback in self.others]
        if kinds != [state.pop("kind") for state in self.states]:
            raise ValueError("The backup was made with other callbacks. Fix: the same ones, in the same order.")
        for callback, state in zip(self.others, self.states, strict=True):
            if state:
                callback.set_state(state)

    # Backing up

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self.batches += 1
        if self.batches >= int(self.save_freq):
            self.batches = 0
            self._write(self.epoch, batch + 1)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if self.save_freq == "epoch":
            self._write(epoch + 1, 0)

    def _write(self, epoch: int, batch: int) -> None:
        model = self.model
        optimizer = model.optimizer
        assert optimizer is not None
        arrays: dict[str, np.ndarray] = {"totals": np.asarray(model.totals() if batch else [], np.float64)}
        arrays |= {f"weights/{name}": array for name, array in saving.named_weights(model).items()}
        for slot, moments in model.optimizer_state().items():
            arrays |= {f"optimizer/{slot}/{name}": array for name, array in moments.items()}
        states = []
        for i, callback in enumerate(self.others):
            state = {"kind": type(callback).__name__, **callback.get_state()}
            states.append(_without_arrays(state, arrays, f"callbacks/{i}"))
        state = {
            "epoch": epoch,
            "batch": batch,
            "stopped": bool(model.stop_training),
            "seed": model.seed,
            "iterations": optimizer.iterations,
            "learning_rate": optimizer.learning_rate if optimizer.schedule is None else None,
            "run": self.run,
            "callbacks": states,
        }
        arrays["state"] = np.frombuffer(json.dumps(state, allow_nan=False).encode(), np.uint8)
        self.backup_dir.mkdir(parents=True, exist_ok=True)
        latest = self.backup_dir / self.LATEST
        if self.double_checkpoint and latest.exists():
            atomic.write(self.backup_dir / self.PREVIOUS, latest.read_bytes())
        atomic.write(latest, safetensors.dumps(arrays))

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self.delete_checkpoint:
            for name in (self.LATEST, self.PREVIOUS):
                (self.backup_dir / name).unlink(missing_ok=True)
            with suppress(OSError):
                self.backup_dir.rmdir()  # only if it holds nothing else


def _below(arrays: dict[str, np.ndarray], path: str) -> dict[str, np.ndarray]:
    """The arrays under a path, by the rest of their names."""
    return {key[len(path) + 1 :]: array for key, array in arrays.items() if key.startswith(f"{path}/")}


def _without_arrays(state: dict[str, Any], arrays: dict[str, np.ndarray], path: str) -> dict[str, Any]:
    """A callback's state as JSON can hold it: a list of arrays goes into ``arrays``, and its length stays."""
    plain = {}
    for key, value in state.items():
        if isinstance(value, list) and value and isinstance(value[0], np.ndarray):
            arrays |= {f"{path}/{key}/{i}": array for i, array in enumerate(value)}
            value = {"arrays": len(value)}
        plain[key] = value
    return plain


def _with_arrays(state: dict[str, Any], arrays: dict[str, np.ndarray], path: str) -> dict[str, Any]:
    """The reverse of :func:`_without_arrays`."""
    return {
        key: [arrays[f"{path}/{key}/{i}"] for i in range(value["arrays"])] if isinstance(value, dict) else value
        for key, value in state.items()
    }
