"""Callbacks that write down what happens, or call a function of yours."""

import csv
import inspect
import math
import os
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tinyconv.callbacks.base import HOOKS, OLD_NAMES, Callback, Logs
from tinyconv.callbacks.monitors import check_rate_is_free, verbosity
from tinyconv.checking import boolean, console, invalid
from tinyconv.checking.messages import received, suggest
from tinyconv.files import atomic, targets


class CSVLogger(Callback):
    """One row per epoch in a table of values separated by commas.

    Args:
        filename: the file to write, in folders that are made if need be.
        separator: what stands between two values.
        append: whether to go on with a file that is there.

    The file is open only while a row is written. It is replaced when the first row comes, and a run that goes on with
    :class:`BackupAndRestore` goes on with its file.
    """

    def __init__(self, filename: str | os.PathLike, separator: str = ",", append: bool = False) -> None:
        self.filename, self.append = atomic.text_of(filename), boolean("CSVLogger", "append", append)
        if not isinstance(separator, str) or len(separator) != 1 or separator in '\r\n"\0':
            raise invalid("CSVLogger", "separator", "one character, such as ',' or ';'", separator)
        self.separator = separator
        self.keys: list[str] | None = None
        self.size: int | None = None  # of the file after the last row of this run; None: no row yet

    def check_run(self) -> None:
        targets.check_target(self.filename, parents=True)

    def _compare_header(self, header: list[str]) -> None:
        """Say so if a file that is gone on with has other columns."""
        with open(self.filename, newline="", encoding="utf-8", errors="replace") as file:
            found = next(csv.reader(file, delimiter=self.separator), header)
        if found != header:
            warnings.warn(
                f"{self.filename!r} has other columns than the rows that CSVLogger appends. "
                f"Expected {header}. Received: {received(found)}.",
                stacklevel=5,
            )

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.keys = self.size = None

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        logs = logs or {}
        if self.keys is None:
            self.keys = sorted(logs)
            if not any(key.startswith("val_") for key in self.keys):
                self.keys += [f"val_{key}" for key in self.keys]  # validation may come in a later epoch
        header = ["epoch", *self.keys]
        Path(self.filename).parent.mkdir(parents=True, exist_ok=True)
        if self.append and self.size is None and os.path.exists(self.filename):
            self._compare_header(header)
        mode = "w" if self.size is None and not self.append else "a"
        with open(self.filename, mode, newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter=self.separator)
            if not file.tell():
                writer.writerow(header)
            writer.writerow([epoch, *(_cell(logs.get(key, "NA")) for key in self.keys)])
            file.flush()
            self.size = file.tell()

    def get_state(self) -> dict[str, Any]:
        return {"keys": self.keys, "size": self.size}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on with the file as it was then: without the rows that were written since."""
        size = os.path.getsize(self.filename) if os.path.exists(self.filename) else 0
        if state["size"] is not None and size < state["size"]:
            warnings.warn(f"{self.filename!r} has lost rows since the backup was made.", stacklevel=2)
        elif state["size"]:
            os.truncate(self.filename, state["size"])
        self.keys, self.size = state["keys"], state["size"]


def _cell(value: Any) -> Any:
    """A value as Keras writes it: several ones as a list."""
    if isinstance(value, str) or not isinstance(value, Iterable) or (isinstance(value, np.ndarray) and not value.ndim):
        return value
    return f'"[{", ".join(map(str, value))}]"'


class LearningRateScheduler(Callback):
    """Set the learning rate at the beginning of each epoch.

    Args:
        schedule: a function of the epoch (from 0) and the current learning rate, or of the epoch alone.
        verbose: 1 says what it sets.
    """

    adds = ("learning_rate",)

    def __init__(self, schedule: Callable[..., float], verbose: int = 0) -> None:
        self.schedule, self.verbose = schedule, verbosity("LearningRateScheduler", verbose)
        expected = "a function of the epoch and the current learning rate, or of the epoch alone"
        if not callable(schedule):
            raise invalid("LearningRateScheduler", "schedule", expected, schedule)
        self.takes_rate = _takes(schedule, 2)
        if not self.takes_rate and not _takes(schedule, 1):
            raise invalid("LearningRateScheduler", "schedule", expected, schedule)

    def check_run(self) -> None:
        check_rate_is_free(self)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        current = float(self.model.optimizer.learning_rate)
        rate = self.schedule(epoch, current) if self.takes_rate else self.schedule(epoch)
        kind = isinstance(rate, float | np.floating)
        if not kind or not 0 <= rate < math.inf:
            raise ValueError(
                f"For epoch {epoch} the schedule of LearningRateScheduler gave no learning rate. Expected a "
                f"{'finite float of at least 0' if kind else 'float'}. Received: {received(rate)}."
            )
        self.model.optimizer.learning_rate = float(rate)
        if self.verbose:
            console.write(f"Epoch {epoch + 1}: learning rate {rate:g}.")

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if logs is not None:
            logs["learning_rate"] = float(self.model.optimizer.learning_rate)


def _takes(function: Callable[..., Any], count: int) -> bool:
    """Whether a function can be called with so many arguments, as far as can be known."""
    try:
        inspect.signature(function).bind(*[0] * count)
    except TypeError:
        return False
    except ValueError:  # a function of C that does not say
        return True
    return True


class LambdaCallback(Callback):
    """Functions as hooks: ``LambdaCallback(on_epoch_end=lambda epoch, logs: print(epoch, logs))``.

    Args:
        on_epoch_begin, on_epoch_end: called with the epoch and the logs.
        on_train_begin, on_train_end: called with the logs.
        on_train_batch_begin, on_train_batch_end: called with the batch and the logs.
        kwargs: any other hook of :class:`Callback`.
    """

    uses_model = False

    def __init__(
        self,
        on_epoch_begin: Callable[..., Any] | None = None,
        on_epoch_end: Callable[..., Any] | None = None,
        on_train_begin: Callable[..., Any] | None = None,
        on_train_end: Callable[..., Any] | None = None,
        on_train_batch_begin: Callable[..., Any] | None = None,
        on_train_batch_end: Callable[..., Any] | None = None,
        **kwargs: Callable[..., Any] | None,
    ) -> None:
        hooks = {
            "on_epoch_begin": on_epoch_begin,
            "on_epoch_end": on_epoch_end,
            "on_train_begin": on_train_begin,
            "on_train_end": on_train_end,
            "on_train_batch_begin": on_train_batch_begin,
            "on_train_batch_end": on_train_batch_end,
            **kwargs,
        }
        known = (*HOOKS, *OLD_NAMES.values())
        for name, function in hooks.items():
            if name not in known:
                raise TypeError(f"LambdaCallback has no hook {name!r}. {suggest(name, known)}")
            if function is None:
                continue
            if not callable(function):
                raise invalid("LambdaCallback", name, "a function", function)
            setattr(self, name, function)

    def __repr__(self) -> str:
        return f"<LambdaCallback {', '.join(name for name in vars(self) if name.startswith('on_'))}>"
