"""The base class of all callbacks, the list that calls them, and the history of a run."""

import inspect
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING, Any

from tinyconv.callbacks import curves
from tinyconv.checking import boolean
from tinyconv.checking.messages import received, refuse, suggest
from tinyconv.files import atomic
from tinyconv.network import Network

if TYPE_CHECKING:
    from matplotlib.figure import Figure


Logs = dict[str, float]

PHASES = ("train", "test", "predict")
BATCH_HOOKS = tuple(f"on_{phase}_batch_{edge}" for phase in PHASES for edge in ("begin", "end"))
HOOKS = (*(f"on_{what}_{edge}" for what in (*PHASES, "epoch") for edge in ("begin", "end")), *BATCH_HOOKS)
OLD_NAMES = {"on_train_batch_begin": "on_batch_begin", "on_train_batch_end": "on_batch_end"}


@dataclass(frozen=True)
class Position:
    """Where a run goes on: the epoch, how many of its batches are done, and the totals of these."""

    epoch: int
    batch: int = 0
    totals: Sequence[float] = field(default=())


BEGINNING = Position(0)


class Callback:
    """Base class: override the hooks you want.

    ``self.model`` is the model, ``self.params`` a dict with ``epochs``, ``steps`` and ``verbose``. ``logs`` holds the
    epoch's running mean of loss and metrics. ``self.model.stop_training = True`` ends training after this batch.

    A callback that remembers something from epoch to epoch can hand it over in ``get_state`` and take it back in
    ``set_state``: then :class:`BackupAndRestore` keeps it too.

    A copy (``copy.deepcopy``, pickle) remembers what the callback does, and belongs to no model yet.
    """

    params: dict[str, Any] | None = None
    _model: Network | None = None
    _others: "Sequence[Callback]" = ()  # the other callbacks of the run
    _at_work = False  # in a training
    uses_model = True  # so that it cannot be at work for two at once
    runs_last = False  # after all others, the history included
    adds: tuple[str, ...] = ()  # names that it adds to an epoch's logs

    def __init__(self) -> None: ...  # so that signatures and super() are as in Keras

    @property
    def model(self) -> Any:  # Sequential; None before the run. Any, so that hooks need not ask
        return self._model

    def set_model(self, model: Network) -> None:
        self._model = model

    def set_params(self, params: dict[str, Any]) -> None:
        self.params = params

    def set_others(self, callbacks: "Sequence[Callback]") -> None:
        """All callbacks of the run, for callbacks that look after the others."""
        self._others = [callback for callback in callbacks if callback is not self]

    def check_run(self) -> None:
        """Called before a training, and before ``on_train_begin`` of any callback: raise here what would go wrong at
        the end of an epoch, or of the run."""

    def wants(self, hook: str) -> bool:
        """Whether a hook of this callback does anything: of the batches' hooks the others are never called."""
        names = (hook, OLD_NAMES.get(hook, hook))
        return any(getattr(getattr(self, name), "__func__", None) is not getattr(Callback, name) for name in names)

    def is_due(self) -> bool:
        """Asked after every batch of a training: whether ``on_train_batch_end`` is to be called. A callback that only
        looks now and then lets the rest run at full speed."""
        return True

    def resume(self, model: Network, samples: int | None, batch_size: int | None) -> Position | None:
        """Called before a run is prepared: restore the model and say where to go on, or return None. Of a stream of
        batches ``samples`` is the number of batches, or None if unknown, and ``batch_size`` None."""
        return None

    def get_state(self) -> dict[str, Any]:
        """What the callback remembers: texts, numbers, None, arrays, and lists and dicts of these."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`get_state` gave, in a run that goes on; called after ``on_train_begin``."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_model", "_others", "_at_work")}

    def __repr__(self) -> str:
        """The class, and the arguments that are not as by default."""
        shown = []
        for name, parameter in inspect.signature(type(self)).parameters.items():
            value, default = vars(self).get(name, parameter.default), parameter.default
            same = value == default if isinstance(value, Real) and isinstance(default, Real) else value is default
            if not same and received(value) != received(default):
                shown.append(f" {name}={received(value)}")
        return f"<{type(self).__name__}{','.join(shown)}>"

    def on_batch_begin(self, batch: int, logs: Logs | None = None) -> None: ...  # an old name
    def on_batch_end(self, batch: int, logs: Logs | None = None) -> None: ...  # an old name
    def on_train_begin(self, logs: Logs | None = None) -> None: ...
    def on_train_end(self, logs: Logs | None = None) -> None: ...
    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None: ...
    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None: ...

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        self.on_batch_begin(batch, logs=logs)

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self.on_batch_end(batch, logs=logs)

    def on_test_begin(self, logs: Logs | None = None) -> None: ...
    def on_test_end(self, logs: Logs | None = None) -> None: ...
    def on_test_batch_begin(self, batch: int, logs: Logs | None = None) -> None: ...
    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None: ...
    def on_predict_begin(self, logs: Logs | None = None) -> None: ...
    def on_predict_end(self, logs: Logs | None = None) -> None: ...
    def on_predict_batch_begin(self, batch: int, logs: Logs | None = None) -> None: ...
    def on_predict_batch_end(self, batch: int, logs: Logs | None = None) -> None: ...


class CallbackList:
    """Several callbacks as one, for loops of your own, too: it has their hooks. A batch's hooks that nobody overrides
    cost nothing: ``wants`` says which callback wants which hook.

    Args:
        callbacks: the callbacks.
        add_history: whether to add a :class:`History`, if there is none.
        add_progbar: must be False.
        model: what they watch.
        params: what they are told: ``epochs``, ``steps``, ``verbose``; in a training ``validation_freq`` (0: none).

    As a context it is one run of its callbacks: no other model can use them meanwhile.
    """

    def __init__(
        self,
        callbacks: Iterable[Callback] | Callback | None = None,
        add_history: bool = False,
        add_progbar: bool = False,
        model: Network | None = None,
        **params: Any,
    ) -> None:
        refuse("CallbackList", {"add_progbar": add_progbar}, {"add_progbar": (False,)})
        given = as_callbacks(callbacks)
        if boolean("CallbackList", "add_history", add_history) and not any(isinstance(c, History) for c in given):
            given.append(History())
        given.sort(key=lambda callback: callback.runs_last)
        self.callbacks = given
        self.wants = {hook: [callback for callback in given if callback.wants(hook)] for hook in BATCH_HOOKS}
        for callback in given:
            if callback._at_work and callback.model is not model and callback.uses_model:
                raise RuntimeError(
                    f"{received(callback)} is at work in the run of another model. Fix: a callback of its own for each."
                )
        for callback in given:
            callback.set_params(params)
            if model is not None:
                callback.set_model(model)
            callback.set_others(given)
        if "validation_freq" in params:
            for callback in given:
                callback.check_run()

    def call(self, hook: str, *arguments: Any) -> None:
        """Call one hook of every callback, in order."""
        for callback in self.wants.get(hook, self.callbacks):
            getattr(callback, hook)(*arguments)

    def __getattr__(self, hook: str) -> Any:
        if hook not in HOOKS:
            raise AttributeError(f"CallbackList has no attribute {hook!r}. {suggest(hook, HOOKS)}")
        if hook.startswith(("on_epoch", *(f"on_{phase}_batch" for phase in PHASES))):
            return lambda number, logs=None: self.call(hook, number, logs)
        return lambda logs=None: self.call(hook, logs)

    def __enter__(self) -> None:
        for callback in self.callbacks:
            callback._at_work = True

    def __exit__(self, *error: object) -> None:
        for callback in self.callbacks:
            callback._at_work = False


def as_callbacks(callbacks: Any) -> list[Callback]:
    """One callback, several (in lists of lists, too) or none, as a list."""
    if callbacks is None:
        return []
    if isinstance(callbacks, CallbackList):
        return callbacks.callbacks[:]
    if isinstance(callbacks, Callback):
        return [callbacks]
    if isinstance(callbacks, str | bytes | dict) or hasattr(callbacks, "dtype") or not isinstance(callbacks, Iterable):
        fix = ""
        if isinstance(callbacks, type) and issubclass(callbacks, Callback):
            fix = f" Fix: an object, {callbacks.__name__}(...), instead of the class."
        elif type(callbacks).__module__.startswith("keras."):
            fix = f" Fix: tinyconv.callbacks.{type(callbacks).__name__}, or derive your class from Callback there."
        raise TypeError(
            f"Invalid callback. Expected objects of type tinyconv.callbacks.Callback. Received: "
            f"{received(callbacks)}.{fix}"
        )
    found: list[Callback] = []
    for each in callbacks:
        if each is None:
            raise TypeError("Invalid callback. Expected objects of type tinyconv.callbacks.Callback. Received: None.")
        found += as_callbacks(each)
    for i, callback in enumerate(found):
        if any(callback is other for other in found[:i]):
            raise ValueError(
                f"The same callback is given twice: {received(callback)}. It would count everything twice. "
                "Fix: give it once, or make a second one."
            )
    return found


class History(Callback):
    """What :meth:`Sequential.fit` returns: ``history`` maps each name to its values, one per epoch of ``epoch``."""

    def __init__(self) -> None:
        self.epoch: list[int] = []
        self.history: dict[str, list[float]] = {}

    def __repr__(self) -> str:
        count = len(self.epoch)
        loss = self.history.get("loss") or []
        course = " -> ".join(f"{value:.4g}" for value in (loss[0], loss[-1])[-len(loss) :]) if loss else ""
        return f"<History: {count} epoch{'s' * (count != 1)}{course and ', loss '}{course}>"

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.epoch, self.history = [], {}

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.epoch.append(epoch)
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(value)

    def to_json(self, path: str | os.PathLike | None = None) -> str:
        """The run as JSON, {"epoch": [...], "history": {name: [...]}}; also written to ``path`` if one is given.

        JSON knows no NaN and no infinity; they become null. What else a callback of yours has added becomes a text.
        """

        def plain(value: Any) -> Any:
            if isinstance(value, Real):
                return float(value) if math.isfinite(value) else None
            return str(value)

        history = {name: [plain(value) for value in values] for name, values in self.history.items()}
        text = json.dumps({"epoch": self.epoch, "history": history}, indent=2, allow_nan=False)
        if path is not None:
            atomic.write(path, text.encode() + b"\n")
        return text

    def plot(self) -> "Figure":
        """The curves of the run as a matplotlib figure (needs the extra ``plot``)."""
        return curves.training_curves(self.history)

    def get_state(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "history": self.history}

    def set_state(self, state: dict[str, Any]) -> None:
        self.epoch, self.history = list(state["epoch"]), dict(state["history"])
