"""The base class of all callbacks, the list that calls them, and the history of a run."""

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tinyconv.saving import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tinyconv.model import Sequential

Logs = dict[str, float]

BATCH_HOOKS = tuple(f"on_{phase}_batch_{edge}" for phase in ("train", "test", "predict") for edge in ("begin", "end"))


@dataclass(frozen=True)
class Position:
    """Where a run goes on: the epoch, how many of its batches are done, and the totals of these."""

    epoch: int
    batch: int = 0
    totals: Sequence[float] = field(default=())


class Callback:
    """Base class: override the hooks you want.

    ``self.model`` is the model, ``self.params`` a dict with ``epochs``, ``steps`` and ``verbose``. ``logs`` holds the
    epoch's running mean of loss and metrics. ``self.model.stop_training = True`` ends training after this batch.

    A callback that remembers something from epoch to epoch can hand it over in ``get_state`` and take it back in
    ``set_state``: then :class:`BackupAndRestore` keeps it too.
    """

    model: "Sequential"
    params: dict[str, Any]
    runs_last = False  # after all others, the history included

    def set_model(self, model: "Sequential") -> None:
        self.model = model

    def set_params(self, params: dict[str, Any]) -> None:
        self.params = params

    def set_others(self, callbacks: "Sequence[Callback]") -> None:
        """All callbacks of the run, for those who look after the others."""

    def wants(self, hook: str) -> bool:
        """Whether a hook of this callback does anything: of the batches' hooks the others are never called."""
        return hook in vars(self) or getattr(type(self), hook) is not getattr(Callback, hook)

    def resume(self, model: "Sequential", samples: int, batch_size: int) -> Position | None:
        """Called before a run is prepared: restore the model and say where to go on, or return None."""
        return None

    def get_state(self) -> dict[str, Any]:
        """What the callback remembers: texts, whole numbers, finite floats, None, and lists of these or of arrays."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`get_state` gave, in a run that goes on; called after ``on_train_begin``."""

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

    def __init__(self, callbacks: Iterable[Callback] | Callback | None, model: "Sequential", params: Any) -> None:
        given = as_callbacks(callbacks)
        given.sort(key=lambda callback: callback.runs_last)
        self.callbacks = given
        self.wants = {hook: [callback for callback in given if callback.wants(hook)] for hook in BATCH_HOOKS}
        for callback in given:
            callback.set_params(params)
            callback.set_model(model)
            callback.set_others(given)

    def call(self, hook: str, *arguments: Any) -> None:
        """Call one hook of every callback, in order."""
        for callback in self.wants.get(hook, self.callbacks):
            getattr(callback, hook)(*arguments)


def as_callbacks(callbacks: Iterable[Callback] | Callback | None) -> list[Callback]:
    """One callback, several or none, as a list."""
    given = [callbacks] if isinstance(callbacks, Callback) else list(callbacks or ())
    for callback in given:
        if not isinstance(callback, Callback):
            raise TypeError(
                f"Invalid callback. Expected objects of type tinyconv.callbacks.Callback. Received: {callback!r}."
            )
    return given


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

    def to_json(self, path: str | os.PathLike | None = None) -> str:
        """The run as JSON, {"epoch": [...], "history": {name: [...]}}; also written to ``path`` if one is given.

        JSON knows no NaN and no infinity; they become null.
        """
        finite = {
            name: [value if math.isfinite(value) else None for value in values] for name, values in self.history.items()
        }
        text = json.dumps({"epoch": self.epoch, "history": finite}, indent=2, allow_nan=False)
        if path is not None:
            atomic.write(path, text.encode() + b"\n")
        return text

    def plot(self) -> "Figure":
        """The curves of the run as a matplotlib figure (needs the extra ``plot``)."""
        from tinyconv.plots import training_curves

        return training_curves(self.history)

    def get_state(self) -> dict[str, Any]:
        # As text: a loss may be NaN, and must come back as the same float.
        return {"epoch": self.epoch, **{f"history/{name}": list(map(repr, v)) for name, v in self.history.items()}}

    def set_state(self, state: dict[str, Any]) -> None:
        self.epoch = [int(epoch) for epoch in state["epoch"]]
        self.history = {
            key.removeprefix("history/"): [float(value) for value in values]
            for key, values in state.items()
            if key.startswith("history/")
        }
