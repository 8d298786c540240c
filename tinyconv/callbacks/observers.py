"""Callbacks that write down what happens, or call a function of yours."""

import csv
import os
from collections.abc import Callable
from typing import IO, Any

import numpy as np

from tinyconv.callbacks.base import BATCH_HOOKS, Callback, Logs
from tinyconv.callbacks.monitors import settable_rate
from tinyconv.messages import suggest

HOOKS = (
    *(f"on_{what}_{edge}" for what in ("train", "test", "predict", "epoch") for edge in ("begin", "end")),
    *BATCH_HOOKS,
)


class CSVLogger(Callback):
    """One row per epoch in a table of values separated by commas.

    Args:
        filename: the file to write.
        separator: what stands between two values.
        append: whether to go on with a file that is there.
    """

    def __init__(self, filename: str | os.PathLike, separator: str = ",", append: bool = False) -> None:
        self.filename, self.separator, self.append = filename, separator, append
        self.file: IO[str] | None = None
        self.keys: list[str] | None = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.on_train_end()
        self.header = not (self.append and os.path.exists(self.filename) and os.path.getsize(self.filename))
        # Open until the end of training, so that two runs do not take turns in one file unnoticed.
        self.file = open(self.filename, "a" if self.append else "w", newline="")  # noqa: SIM115
        self.keys = None

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        logs = logs or {}
        assert self.file is not None
        writer = csv.writer(self.file, delimiter=self.separator)
        if self.keys is None:
            self.keys = sorted(logs)
            if not any(key.startswith("val_") for key in self.keys):
                self.keys += [f"val_{key}" for key in self.keys]  # validation may come in a later epoch
            if self.header:
                writer.writerow(["epoch", *self.keys])
        writer.writerow([epoch, *(logs.get(key, "NA") for key in self.keys)])
        self.file.flush()

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None


class LearningRateScheduler(Callback):
    """Set the learning rate at the beginning of each epoch.

    Args:
        schedule: a function of the epoch (from 0) and the current learning rate, or of the epoch alone.
        verbose: 1 says what it sets.
    """

    def __init__(self, schedule: Callable[..., float], verbose: int = 0) -> None:
        self.schedule, self.verbose = schedule, verbose

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        current = settable_rate(self)
        try:
            rate = self.schedule(epoch, current)
        except TypeError:
            rate = self.schedule(epoch)
        if not isinstance(rate, float | np.floating):
            raise ValueError(
                f"The schedule of LearningRateScheduler gave no learning rate. Expected a float. Received: {rate!r}."
            )
        assert self.model.optimizer is not None
        self.model.optimizer.learning_rate = float(rate)
        if self.verbose:
            print(f"Epoch {epoch + 1}: learning rate {rate:g}.")

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if logs is not None:
            logs["learning_rate"] = settable_rate(self)


class LambdaCallback(Callback):
    """Functions as hooks: ``LambdaCallback(on_epoch_end=lambda epoch, logs: print(epoch, logs))``."""

    def __init__(self, **hooks: Callable[..., Any] | None) -> None:
        for name, function in hooks.items():
            if name not in HOOKS:
                raise TypeError(f"LambdaCallback has no hook {name!r}. {suggest(name, HOOKS)}")
            if function is not None:
                setattr(self, name, function)
