"""Callbacks: code that is told what training is doing, with Keras' hooks in Keras' order."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyconv.messages import suggest

if TYPE_CHECKING:
    from tinyconv.model import Sequential

Logs = dict[str, float]

BATCH_HOOKS = tuple(f"on_{phase}_batch_{edge}" for phase in ("train", "test", "predict") for edge in ("begin", "end"))


class Callback:
    """Base class: override the hooks you want.

    ``self.model`` is the model, ``self.params`` a dict with ``epochs``, ``steps`` and ``verbose``. ``logs`` holds the
    epoch's running mean of loss and metrics. ``self.model.stop_training = True`` ends training after this batch.
    """

    model: "Sequential"
    params: dict[str, Any]

    def set_model(self, model: "Sequential") -> None:
        self.model = model

    def set_params(self, params: dict[str, Any]) -> None:
        self.params = params

    def on_train_begin(self, logs: Logs | None = None) -> None: ...
    def on_train_end(self, logs: Logs | None = None) -> None: ...
    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None: ...
    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None: ...
    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None: ...
    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None: ...
    def on_test_begin(self, logs: Logs | None = None) -> None: ...
    def on_test_end(self, logs: Logs | None = None) -> None: ...
    def on_test_batch_begin(self, batch: int, logs: Logs | None = None) -> None: ...
    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None: ...
    def on_predict_begin(self, logs: Logs | None = None) -> None: ...
    def on_predict_end(self, logs: Logs | None = None) -> None: ...
    def on_predict_batch_begin(self, batch: int, logs: Logs | None = None) -> None: ...
    def on_predict_batch_end(self, batch: int, logs: Logs | None = None) -> None: ...


class CallbackList:
    """Several callbacks as one. A batch's hooks that nobody overrides cost nothing: ``wants`` says who wants which."""

    def __init__(self, callbacks: "Iterable[Callback] | Callback | None", model: "Sequential", params: Any) -> None:
        given = [callbacks] if isinstance(callbacks, Callback) else list(callbacks or ())
        for callback in given:
            if not isinstance(callback, Callback):
                raise TypeError(
                    f"Invalid callback. Expected objects of type tinyconv.callbacks.Callback. Received: {callback!r}."
                )
        self.callbacks = given
        self.wants = {
            hook: [c for c in given if getattr(type(c), hook) is not getattr(Callback, hook)] for hook in BATCH_HOOKS
        }
        for callback in given:
            callback.set_params(params)
            callback.set_model(model)

    def call(self, hook: str, *arguments: Any) -> None:
        """Call one hook of every callback, in order."""
        for callback in self.wants.get(hook, self.callbacks):
            getattr(callback, hook)(*arguments)


class History(Callback):
    """What :meth:`Sequential.fit` returns: ``history`` maps each name to its values, one per epoch of ``epoch``."""

    def __init__(self) -> None:
        self.epoch: list[int] = []
        self.history: dict[str, list[float]] = {}

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.epoch, self.history = [], {}

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.epoch.append(epoch)
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(value)


class Monitor(Callback):
    """A callback that watches one value of an epoch's logs.

    ``mode`` is "min" (smaller is better), "max", or "auto": "max" where the name says accuracy, else "min".
    """

    def __init__(self, monitor: str, mode: str) -> None:
        if mode not in ("auto", "min", "max"):
            raise ValueError(f"Unknown mode: {mode!r}. {suggest(mode, ['auto', 'min', 'max'])}")
        self.monitor = monitor
        larger = mode == "max" or (mode == "auto" and ("acc" in monitor or monitor.endswith("auc")))
        self.sign = 1.0 if larger else -1.0

    def value(self, logs: Logs | None) -> float:
        """The watched value, as a number of which more is better."""
        logs = logs or {}
        if self.monitor not in logs:
            hint = " Fix: fit with validation data." if self.monitor.startswith("val_") else ""
            raise ValueError(
                f"{type(self).__name__} cannot watch {self.monitor!r}. {suggest(self.monitor, logs)}{hint}"
            )
        return self.sign * logs[self.monitor]


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
        super().__init__(monitor, mode)
        self.min_delta, self.patience, self.verbose, self.baseline = abs(min_delta), patience, verbose, baseline
        self.restore_best_weights, self.start_from_epoch = restore_best_weights, start_from_epoch

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.wait, self.stopped_epoch, self.best_epoch = 0, 0, 0
        self.best = -math.inf
        self.best_weights: list[np.ndarray] | None = None

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if epoch < self.start_from_epoch:
            return
        value = self.value(logs)
        if self.restore_best_weights and self.best_weights is None:
            self.best_weights, self.best_epoch = self.model.get_weights(), epoch
        self.wait += 1
        if value - self.min_delta > self.best:
            self.best, self.best_epoch = value, epoch
            if self.restore_best_weights:
                self.best_weights = self.model.get_weights()
            if self.baseline is None or value - self.min_delta > self.sign * self.baseline:
                self.wait = 0
            return
        if self.wait >= self.patience and epoch > 0:
            self.stopped_epoch, self.model.stop_training = epoch, True

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self.stopped_epoch > 0 and self.verbose:
            print(f"Epoch {self.stopped_epoch + 1}: early stopping: {self.monitor} no longer improves.")
        if self.restore_best_weights and self.best_weights is not None:
            if self.verbose:
                print(f"Restoring the weights of the best epoch: {self.best_epoch + 1}.")
            self.model.set_weights(self.best_weights)
