"""Callbacks that watch a value: to stop, or to take smaller steps."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyconv.callbacks.base import Callback, Logs
from tinyconv.messages import suggest

if TYPE_CHECKING:
    from tinyconv.model import Sequential


class Monitor(Callback):
    """A callback that watches one value of an epoch's logs.

    ``mode`` is "min" (smaller is better), "max", or "auto": "min" for the loss, "max" for the model's metrics.
    """

    sign = -1.0  # times the value gives a number of which more is better

    def __init__(self, monitor: str, mode: str, min_delta: float = 0) -> None:
        if mode not in ("auto", "min", "max"):
            raise ValueError(f"Unknown mode: {mode!r}. {suggest(mode, ['auto', 'min', 'max'])}")
        self.monitor, self.mode, self.min_delta = monitor, mode, abs(min_delta)
        self.best: float | None = None

    def set_model(self, model: "Sequential") -> None:
        super().set_model(model)
        name = self.monitor.removeprefix("val_")
        if self.mode == "auto" and name != "loss" and name not in [metric.name for metric in model.metrics]:
            raise ValueError(
                f"{type(self).__name__} cannot watch {self.monitor!r}: is more of it better, or less? "
                f"{suggest(name, ['loss', *(metric.name for metric in model.metrics)])} Or pass mode='min' or 'max'."
            )
        self.sign = 1.0 if self.mode == "max" or (self.mode == "auto" and name != "loss") else -1.0

    def value(self, logs: Logs | None) -> float | None:
        """The watched value; None in an epoch without validation, if there are others with it."""
        logs = logs or {}
        if self.monitor in logs:
            return logs[self.monitor]
        validated = any(name.startswith("val_") for name in logs)
        if self.monitor.startswith("val_") and not validated and self.params["validation_freq"] > 1:
            return None
        hint = " Fix: fit with validation data." if self.monitor.startswith("val_") and not validated else ""
        raise ValueError(f"{type(self).__name__} cannot watch {self.monitor!r}. {suggest(self.monitor, logs)}{hint}")

    def improves(self, value: float, on: float | None) -> bool:
        """Whether a value is better than another by more than ``min_delta``; anything is better than none."""
        return on is None or self.sign * value - self.min_delta > self.sign * on

    def get_state(self) -> dict[str, Any]:
        return {"best": None if self.best is None else repr(self.best)}

    def set_state(self, state: dict[str, Any]) -> None:
        self.best = None if state["best"] is None else float(state["best"])


class EarlyStopping(Monitor):
    """Stop when a value no longer improves.

    Args:
        monitor: the value to watch.
        min_delta: a change smaller than this is no improvement.
        patience: how many epochs without improvement to wait.
        verbose: 1 says when and why it stops.
        mode: "min", "max" or "auto".
        baseline: a value that must be beaten.
        restore_best_weights: whether to end with the weights of the best epoch.
        start_from_epoch: how many epochs to wait before watching.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0,
        patience: int = 0,
        verbose: int = 0,
        mode: str = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        self.patience, self.verbose, self.baseline = patience, verbose, baseline
        self.restore_best_weights, self.start_from_epoch = restore_best_weights, start_from_epoch

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.wait, self.stopped_epoch, self.best_epoch = 0, 0, 0
        self.best = None
        self.best_weights: list[np.ndarray] | None = None

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        value = self.value(logs)
        if value is None or epoch < self.start_from_epoch:
            return
        if self.restore_best_weights and self.best_weights is None:
            self.best_weights, self.best_epoch = self.model.get_weights(), epoch
        self.wait += 1
        if self.improves(value, self.best):
            self.best, self.best_epoch = value, epoch
            if self.restore_best_weights:
                self.best_weights = self.model.get_weights()
            if self.baseline is None or self.improves(value, self.baseline):
                self.wait = 0
        elif self.wait >= self.patience and epoch > 0:
            self.stopped_epoch, self.model.stop_training = epoch, True

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self.stopped_epoch > 0 and self.verbose:
            print(f"Epoch {self.stopped_epoch + 1}: early stopping: {self.monitor} no longer improves.")
        if self.restore_best_weights and self.best_weights is not None:
            if self.verbose:
                print(f"Restoring the weights of the best epoch: {self.best_epoch + 1}.")
            self.model.set_weights(self.best_weights)

    def get_state(self) -> dict[str, Any]:
        counts = {"wait": self.wait, "stopped_epoch": self.stopped_epoch, "best_epoch": self.best_epoch}
        return {**super().get_state(), **counts, "best_weights": self.best_weights}

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self.wait, self.stopped_epoch, self.best_epoch = (
            int(state[name]) for name in ("wait", "stopped_epoch", "best_epoch")
        )
        self.best_weights = state["best_weights"]


class ReduceLROnPlateau(Monitor):
    """Take smaller steps when a value no longer improves.

    Args:
        monitor: the value to watch.
        factor: the learning rate is multiplied by this, less than 1.
        patience: how many epochs without improvement to wait.
        verbose: 1 says what it does.
        mode: "min", "max" or "auto".
        min_delta: a change smaller than this is no improvement.
        cooldown: how many epochs to leave the new learning rate alone.
        min_lr: the smallest learning rate.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        verbose: int = 0,
        mode: str = "auto",
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        if not 0 < factor < 1:
            raise ValueError(f"Invalid factor. Expected a number between 0 and 1. Received: {factor!r}.")
        self.factor, self.patience, self.verbose = factor, patience, verbose
        self.cooldown, self.min_lr = cooldown, min_lr

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.best, self.cooldown_counter, self.wait = None, 0, 0

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        rate = settable_rate(self)
        if logs is not None:
            logs["learning_rate"] = rate
        value = self.value(logs)
        if value is None:
            return
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.wait = 0
        if self.improves(value, self.best):
            self.best, self.wait = value, 0
        elif not self.cooldown_counter:
            self.wait += 1
            if self.wait >= self.patience and rate > self.min_lr:
                self._reduce(rate, epoch)

    def _reduce(self, rate: float, epoch: int) -> None:
        rate = max(rate * self.factor, self.min_lr)
        assert self.model.optimizer is not None
        self.model.optimizer.learning_rate = rate
        self.cooldown_counter, self.wait = self.cooldown, 0
        if self.verbose:
            print(f"Epoch {epoch + 1}: {self.monitor} no longer improves: learning rate {rate:g}.")

    def get_state(self) -> dict[str, Any]:
        return {**super().get_state(), "wait": self.wait, "cooldown_counter": self.cooldown_counter}

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self.wait, self.cooldown_counter = int(state["wait"]), int(state["cooldown_counter"])


class TerminateOnNaN(Callback):
    """Stop at the first batch after which the loss is no number; with ``raise_error`` by a RuntimeError."""

    def __init__(self, raise_error: bool = False) -> None:
        self.raise_error = raise_error

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        loss = (logs or {}).get("loss", 0.0)
        if math.isfinite(loss):
            return
        if self.raise_error:
            raise RuntimeError(f"The loss is {loss} at batch {batch}.")
        print(f"Batch {batch}: the loss is {loss}, training stops.")
        self.model.stop_training = True


def settable_rate(callback: Callback) -> float:
    """The learning rate, which a callback is about to set; an error if a schedule sets it already."""
    assert callback.model.optimizer is not None
    schedule = callback.model.optimizer.schedule
    if schedule is not None:
        raise TypeError(
            f"{type(callback).__name__} cannot set the learning rate: {type(schedule).__name__} does. "
            "Fix: compile with a number as learning_rate, or leave out the callback."
        )
    return callback.model.optimizer.learning_rate
