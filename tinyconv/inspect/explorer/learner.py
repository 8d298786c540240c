"""Training in the background, by ``fit`` at its full speed, and the moments that are kept of it."""

import copy
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from tinyconv import optimizers
from tinyconv.callbacks import Callback
from tinyconv.inspect.explorer.data import Data
from tinyconv.inspect.explorer.requests import Refused, Request
from tinyconv.inspect.explorer.samples import question
from tinyconv.inspect.explorer.worker import Worker, compiled_again, fresh_weights

UNSEEN = 1000  # test samples that are measured at every moment that is kept
MOST_KEPT = 48  # moments; when there are more, every second one goes, but for the first and the last
MOST_POINTS = 3000  # of the curves in one answer
EVERY = 0.05  # seconds between two looks at a training under way
WITHOUT_END = 2**31 - 1  # epochs
RATES = (1e-6, 10.0)
BATCHES = (1, 1024)

Array = np.ndarray


class Moment:
    """The weights after a step, and what the model is worth with them."""

    def __init__(self, step: int, weights: list[Array], unseen: tuple[float, float | None] | None) -> None:
        self.step, self.weights, self.unseen = step, weights, unseen


class Learner(Worker):
    """Trains a copy of a model in a thread of its own, by ``fit``. The thread alone changes the model; others ask and
    set under a lock what it does next, and never wait for a step. Between two steps, when something is due, ``fit``
    calls :meth:`_after`: there training pauses, takes over settings, and keeps moments.

    Args:
        model: compiled with a loss.
        train, test: samples and targets; ``test`` may be None.
    """

    def __init__(self, model: Any, train: tuple[Any, Any], test: tuple[Any, Any] | None) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        self.metrics = ["accuracy"] if question(model)[0] != "numbers" else None
        compiled_again(self.model, metrics=self.metrics)
        self.data = Data.of(model, *train)
        self.test = None if test is None else Data.of(model, *test, UNSEEN)
        self.step, self.points, self.moments = 0, [], []  # type: ignore[var-annotated]
        self.batch, self.rate = min(128, len(self.data)), float(self.model.optimizer.learning_rate)
        self.name = next(
            (name for name, kind in optimizers.NAMES.items() if type(self.model.optimizer) is kind), "adam"
        )
        self.speed, self.error = 0.0, ""
        self._wanted: dict[str, Any] = {"left": 0}  # left: steps to go, -1: without end
        self._seed = 0
        self._since, self._looked = 0, 0.0  # steps since the last look at the training under way, and when that was
        self._sums: tuple[float, float, float] = (0, 0, 0)  # of the epoch's samples then: number, losses, hits

    # Asked by the page

    def act(self, request: Request) -> dict[str, Any]:
        """Start, pause, one step, or over again; settings count from the next step on."""
        action = request.choice("action", ("start", "pause", "step", "over", "set"))
        wanted: dict[str, Any] = {"left": {"start": -1, "pause": 0, "step": 1, "over": 0}.get(action)}
        wanted |= {"rate": request.number("rate", *RATES)} if request.has("rate") else {}
        wanted |= {"batch": request.integer("batch", *BATCHES)} if request.has("batch") else {}
        wanted |= {"name": request.choice("optimizer", list(optimizers.NAMES))} if request.has("optimizer") else {}
        wanted |= {"over": True} if action == "over" else {}
        with self._wake:
            now = {"rate": self.rate, "batch": self.batch, "name": self.name}
            new = {name: value for name, value in wanted.items() if name in self._wanted or value != now.get(name)}
            self._wanted |= {name: value for name, value in new.items() if value is not None}
            self._rouse()
        return {}

    def progress(self, request: Request) -> dict[str, Any]:
        """Where training stands, and the curves from a point on."""
        since = request.integer("since", 0, 2**40, 0)
        with self._wake:
            points = self.points[since:]
            if len(points) > MOST_POINTS:
                points = points[:: -(-len(points) // MOST_POINTS)]
            return {
                "running": self._wanted["left"] != 0 or self._since > 0,  # or the page would not hear of those steps
                "step": self.step,
                "points": points,
                "count": len(self.points),
                "moments": [moment.step for moment in self.moments],
                "unseen": [[moment.step, *moment.unseen] for moment in self.moments if moment.unseen],
                "epoch": -(-len(self.data) // self.batch),
                "speed": self.speed,
                "error": self.error,
                "rate": self.rate,
                "batch": self.batch,
                "optimizer": self.name,
                "optimizers": list(optimizers.NAMES),
                "unseen_count": 0 if self.test is None else len(self.test),
            }

    def weights_at(self, step: int | None) -> list[Array]:
        """The weights at a moment that is kept; None: now."""
        with self._wake:
            found = [moment.weights for moment in self.moments if step is None or moment.step == step]
        if step is None:
            return self.model.get_weights()
        if not found:
            raise Refused(f"Step {step} is not kept.")
        return found[0]

    def film(self, request: Request) -> bytes:
        """A filter through all kept moments, in float32: (moments, rows, columns), or (moments, numbers)."""
        names = [name for name, _, _ in self.model._specs()]
        number = names.index(request.choice("weight", names))
        with self._wake:
            moments = [moment.weights[number] for moment in self.moments]
        shape: tuple[int, ...] = moments[0].shape if moments else (1,)
        last = request.integer("map", 0, shape[-1] - 1, 0)
        if len(shape) == 4:
            at = request.integer("slice", 0, shape[2] - 1, 0)
            moments = [weights[:, :, at] for weights in moments]
        return np.ascontiguousarray([weights[..., last] for weights in moments], np.float32).tobytes()

    def pause(self) -> None:
        """And wait until the step under way is done."""
        with self._wake:
            self._wanted["left"] = 0
        self.model.get_weights()

    # In the thread

    def _live(self) -> None:
        self._keep()
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closed or self._wanted["left"] or len(self._wanted) > 1)
                if self._closed:
                    return
                wanted, self._wanted = self._wanted, {"left": self._wanted["left"]}
            try:
                self._settle(wanted)
                if self._wanted["left"]:
                    watch, run = Watch(self), {"batch_size": self.batch, "epochs": WITHOUT_END, "verbose": 0}
                    self.model.fit(self.data.x, self.data.y, callbacks=[watch], **run)
            except (ValueError, TypeError, RuntimeError, MemoryError) as error:
                with self._wake:
                    self.error, self._wanted, self._since = str(error), {"left": 0}, 0

    def _settle(self, wanted: dict[str, Any]) -> None:
        """Take over what was asked for."""
        optimizer = self.model.optimizer
        if wanted.get("over"):
            self.model.set_weights(fresh_weights(self.model, self._seed))
            self._seed += 1
            compiled_again(self.model, type(optimizer).from_config(optimizer.get_config()), metrics=self.metrics)
            with self._wake:
                self.step, self.points, self.moments, self.error = 0, [], [], ""
            self._keep()
        if wanted.get("name", self.name) != self.name:
            self.name = wanted["name"]
            new = optimizers.NAMES[self.name](learning_rate=self.rate)  # type: ignore[call-arg]
            compiled_again(self.model, new, metrics=self.metrics)
        if "rate" in wanted:
            self.rate = wanted["rate"]
            self.model.optimizer.learning_rate = self.rate
        if "batch" in wanted:
            self.batch = min(wanted["batch"], len(self.data))

    # Between two steps of ``fit``

    def _begin_epoch(self) -> None:
        self._sums = (0, 0, 0)

    def _is_due(self) -> bool:
        """Whether there is anything to do after this step; until then training goes on at full speed."""
        self._since += 1
        asked = self._closed or self._wanted["left"] >= 0 or len(self._wanted) > 1
        return asked or self._at_moment() or time.perf_counter() - self._looked > EVERY

    def _at_moment(self) -> bool:
        return self.step + self._since >= next_moment(self.moments[-1].step if self.moments else 0)

    def _after(self, batch: int, logs: Mapping[str, float]) -> None:
        """Look at the training under way: count, keep a moment, wait while it is paused, end it for new settings."""
        keep = self._at_moment()
        self._count(batch, logs)
        if keep:
            self._keep()
        with self._wake:
            paused = self._wanted["left"] == 0
        if paused and self.moments[-1].step != self.step:
            self._keep()
        with self._wake:
            self._wake.wait_for(lambda: self._closed or self._wanted["left"] or len(self._wanted) > 1)
            if set(self._wanted) == {"left", "rate"}:  # all others need another run
                self._settle({"rate": self._wanted.pop("rate")})
            self.model.stop_training = self._closed or len(self._wanted) > 1
        self._looked = time.perf_counter()

    def _count(self, batch: int, logs: Mapping[str, float]) -> None:
        """A point of the curves: the mean over the steps since the last one, from the epoch's running means."""
        now, accuracy = time.perf_counter(), self._accuracy(logs)
        count = min((batch + 1) * self.batch, len(self.data))
        sums = (count, logs["loss"] * count, (accuracy or 0.0) * count)
        some, loss, hits = (a - b for a, b in zip(sums, self._sums, strict=True))
        self._sums = sums
        with self._wake:
            self.step += self._since
            self.points.append([self.step, loss / some, None if accuracy is None else hits / some])
            speed = self._since * self.batch / max(now - self._looked, 1e-9)
            self.speed = speed if not self.speed else 0.9 * self.speed + 0.1 * speed
            if self._wanted["left"] > 0:
                self._wanted["left"] = max(self._wanted["left"] - self._since, 0)
            self._since = 0

    def _accuracy(self, logs: Mapping[str, float]) -> float | None:
        return next((float(value) for name, value in logs.items() if "acc" in name), None)

    def _keep(self) -> None:
        unseen = None
        if self.test is not None:
            logs = self.model.test_on_batch(self.test.x, self.test.y, return_dict=True)
            unseen = (float(logs["loss"]), self._accuracy(logs))
        moment = Moment(self.step, self.model.get_weights(), unseen)
        with self._wake:
            self.moments.append(moment)
            if len(self.moments) > MOST_KEPT:
                self.moments = [*self.moments[0:-1:2], self.moments[-1]]


class Watch(Callback):
    """Tells the learner about the steps of ``fit``, when it wants to know."""

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self._learner = learner

    def is_due(self) -> bool:
        return self._learner._is_due()

    def on_train_begin(self, logs: Any = None) -> None:
        self._learner._looked = time.perf_counter()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._learner._begin_epoch()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._learner._after(batch, logs)


def next_moment(step: int) -> int:
    """Denser at the start: 0, 1, 2, 4, 7, 11, 16, 23 ..."""
    return step + max(1, round(0.4 * step) + (step > 1))
