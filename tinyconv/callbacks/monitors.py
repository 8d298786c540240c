"""Callbacks that watch a value: to stop, or to take smaller steps."""

import math
import warnings
from numbers import Real
from typing import Any

import numpy as np

from tinyconv.callbacks.base import Callback, Logs
from tinyconv.checking import boolean, console, integer, invalid, number
from tinyconv.checking.messages import received, refuse, suggest
from tinyconv.network import Network


class MonitorCallback(Callback):
    """A callback that watches one value of an epoch's logs.

    Args:
        monitor: the value to watch: "loss", the name of a metric, or one of these after "val_".
        mode: "min" (smaller is better), "max", or "auto": "min" for the loss, "max" for the model's metrics.
        baseline: the best value so far.
        min_delta: a change smaller than this does not count as an improvement.

    Numbers are compared as float32, as in Keras.
    """

    def __init__(
        self, monitor: str = "val_loss", mode: str = "auto", baseline: float | None = None, min_delta: float = 0
    ) -> None:
        who = type(self).__name__
        if not isinstance(monitor, str) or not monitor:
            raise invalid(who, "monitor", "the name of a value, such as 'val_loss'", monitor)
        if not isinstance(mode, str) or mode not in ("auto", "min", "max"):
            warnings.warn(
                f"Unknown mode of {who}: {received(mode)}. {suggest(mode, ['auto', 'min', 'max'])} It falls back to "
                "'auto'.",
                stacklevel=3,
            )
            mode = "auto"
        self.monitor, self.mode = monitor, mode
        self.min_delta = abs(_real(who, "min_delta", min_delta))
        self.best = None if baseline is None else _real(who, "baseline", baseline)
        self.sign: int | None = None  # of a change for the better; None: not known yet

    def set_model(self, model: Network) -> None:
        super().set_model(model)
        self.sign = None

    def check_run(self) -> None:
        self._set_sign()
        names, more = self.names_of_epoch()
        if self.monitor in names or more:
            return
        message = f"{type(self).__name__} cannot watch {self.monitor!r}. {suggest(self.monitor, names)}"
        params = self.params or {}
        if self.monitor.startswith("val_") and not params.get("validation_freq"):
            raise ValueError(f"{message} Fix: fit with validation data.")
        if self.monitor.startswith("val_") and params["validation_freq"] > params["epochs"]:
            message += f" Fix: a validation_freq of at most {params['epochs']}, the number of epochs."
        warnings.warn(message, stacklevel=5)

    def names_of_batch(self) -> list[str]:
        """The names in the logs of a batch."""
        return list(self.model.log_names)

    def names_of_epoch(self) -> tuple[list[str], bool]:
        """The names in the logs of an epoch, and whether another callback, not of this package, may add more."""
        names = self.names_of_batch()
        params = self.params or {}
        if 0 < params.get("validation_freq", 0) <= params["epochs"]:
            names += [f"val_{name}" for name in names]
        names += sorted({name for callback in (self, *self._others) for name in callback.adds})
        homes = [getattr(callback.on_epoch_end, "__module__", None) or "" for callback in self._others]
        return names, not all(home.startswith("tinyconv.callbacks.") for home in homes)

    def value(self, logs: Logs | None) -> float | None:
        """The watched value; None, with a warning, where there is none. Without one in an epoch that is not validated,
        if others are."""
        self._set_sign()
        logs = logs or {}
        value = logs.get(self.monitor)
        if value is None:
            validated = any(name.startswith("val_") for name in logs)
            if validated or not self.monitor.startswith("val_") or (self.params or {}).get("validation_freq", 0) <= 1:
                warnings.warn(
                    f"{type(self).__name__} cannot watch {self.monitor!r}. {suggest(self.monitor, logs)}", stacklevel=4
                )
        return value

    def improves(self, value: float, on: float | None) -> bool:
        """Whether a value is better than another by more than ``min_delta``; anything is better than none."""
        self._set_sign()
        assert self.sign is not None
        if on is None:
            return True
        with np.errstate(over="ignore"):
            reached, needed = np.float32(value - self.sign * self.min_delta), np.float32(on)
        return bool(reached > needed if self.sign > 0 else reached < needed)

    def _set_sign(self) -> None:
        """Decide which values are better, which may need to know the model's metrics."""
        if self.sign is not None:
            return
        if self.mode != "auto":
            self.sign = 1 if self.mode == "max" else -1
            return
        name, metrics = self.monitor.removeprefix("val_"), [metric.name for metric in self.model.metrics]
        if name != "loss" and name not in metrics:
            raise ValueError(
                f"{type(self).__name__} cannot watch {self.monitor!r}: is more of it better, or less? "
                f"{suggest(name, ['loss', *metrics])} Or pass mode='min' or 'max'."
            )
        self.sign = -1 if name == "loss" else 1

    def get_state(self) -> dict[str, Any]:
        return {"best": self.best}

    def set_state(self, state: dict[str, Any]) -> None:
        self.best = state["best"]


class EarlyStopping(MonitorCallback):
    """Stop when a value no longer improves.

    Args:
        monitor: the value to watch.
        min_delta: a change smaller than this does not count as an improvement.
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
        super().__init__(monitor, mode, min_delta=min_delta)
        who = type(self).__name__
        self.patience, self.verbose = integer(who, "patience", patience, at_least=0), verbosity(who, verbose)
        self.baseline = None if baseline is None else _real(who, "baseline", baseline)
        self.restore_best_weights = boolean(who, "restore_best_weights", restore_best_weights)
        self.start_from_epoch = integer(who, "start_from_epoch", start_from_epoch, at_least=0)
        self._reset()

    def _reset(self) -> None:
        self.wait, self.stopped_epoch, self.best_epoch = 0, 0, 0
        self.best = None
        self.best_weights: list[np.ndarray] | None = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._reset()

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
            console.write(f"Epoch {self.stopped_epoch + 1}: early stopping: {self.monitor} no longer improves.")
        if self.restore_best_weights and self.best_weights is not None:
            if self.verbose:
                console.write(f"Restoring the weights of the best epoch: {self.best_epoch + 1}.")
            self.model.set_weights(self.best_weights)

    def get_state(self) -> dict[str, Any]:
        counts = {"wait": self.wait, "stopped_epoch": self.stopped_epoch, "best_epoch": self.best_epoch}
        return {**super().get_state(), **counts, "best_weights": self.best_weights}

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self.wait, self.stopped_epoch, self.best_epoch, self.best_weights = (
            state[name] for name in ("wait", "stopped_epoch", "best_epoch", "best_weights")
        )


class ReduceLROnPlateau(MonitorCallback):
    """Take smaller steps when a value no longer improves.

    Args:
        monitor: the value to watch.
        factor: the learning rate is multiplied by this, less than 1.
        patience: how many epochs without improvement to wait.
        verbose: 1 says what it does.
        mode: "min", "max" or "auto".
        min_delta: a change smaller than this does not count as an improvement.
        cooldown: how many epochs to leave the new learning rate alone.
        min_lr: the smallest learning rate.
    """

    adds = ("learning_rate",)

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
        **unsupported: Any,
    ) -> None:
        who = type(self).__name__
        known = ("monitor", "factor", "patience", "verbose", "mode", "min_delta", "cooldown", "min_lr")
        refuse(who, unsupported, {}, known)
        super().__init__(monitor, mode, min_delta=min_delta)
        self.factor = number(who, "factor", factor, at_least=0, below=1)
        self.patience, self.verbose = integer(who, "patience", patience, at_least=0), verbosity(who, verbose)
        self.cooldown = integer(who, "cooldown", cooldown, at_least=0)
        self.min_lr = number(who, "min_lr", min_lr, at_least=0)
        self._reset()

    def _reset(self) -> None:
        self.best, self.cooldown_counter, self.wait = None, 0, 0

    def check_run(self) -> None:
        super().check_run()
        check_rate_is_free(self)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._reset()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        rate = float(self.model.optimizer.learning_rate)
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
            if self.wait >= self.patience and np.float32(rate) > np.float32(self.min_lr):
                self._reduce(rate, epoch)

    def _reduce(self, rate: float, epoch: int) -> None:
        rate = max(rate * self.factor, self.min_lr)
        self.model.optimizer.learning_rate = rate
        self.cooldown_counter, self.wait = self.cooldown, 0
        if self.verbose:
            console.write(f"Epoch {epoch + 1}: {self.monitor} no longer improves: learning rate {rate:g}.")

    def get_state(self) -> dict[str, Any]:
        return {**super().get_state(), "wait": self.wait, "cooldown_counter": self.cooldown_counter}

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self.wait, self.cooldown_counter = state["wait"], state["cooldown_counter"]


class TerminateOnNaN(Callback):
    """Stop at the first batch after which the loss is not a number; with ``raise_error`` by a RuntimeError."""

    def __init__(self, raise_error: bool = False) -> None:
        self.raise_error = boolean("TerminateOnNaN", "raise_error", raise_error)

    def on_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        loss = (logs or {}).get("loss")
        if loss is None or math.isfinite(loss):
            return
        if self.raise_error:
            raise RuntimeError(f"The loss is {loss} at batch {batch}.")
        console.write(f"Batch {batch}: the loss is {loss}, training stops.")
        self.model.stop_training = True


def check_rate_is_free(callback: Callback) -> None:
    """An error if a schedule sets the learning rate, which a callback is about to set."""
    schedule = callback.model.optimizer.schedule
    if schedule is not None:
        raise TypeError(
            f"{type(callback).__name__} cannot set the learning rate: {type(schedule).__name__} does. "
            "Fix: compile with a number as learning_rate, or leave out the callback."
        )


def verbosity(who: str, verbose: Any) -> int:
    """0, or 1 (also True, or more) for a callback that says what it does."""
    return integer(who, "verbose", int(verbose) if isinstance(verbose, bool) else verbose, at_least=0)


def _real(who: str, name: str, value: Any) -> float:
    """A number; infinite ones are welcome, NaN is not, since nothing is better or worse than it."""
    if isinstance(value, Real) and not isinstance(value, bool) and math.isinf(value):
        return float(value)
    return number(who, name, value)
