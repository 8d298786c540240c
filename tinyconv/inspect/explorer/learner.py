"""Training in the background, at full speed, and the moments that are kept of it."""

import copy
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyconv import optimizers
from tinyconv.inspect.explorer.requests import Refused, Request
from tinyconv.inspect.explorer.samples import question
from tinyconv.inspect.explorer.worker import Worker, fresh_weights

UNSEEN = 1000  # test samples that are measured at every moment that is kept
MOST_KEPT = 48  # moments; when there are more, every second one goes, but for the first and the last
MOST_POINTS = 3000  # of the curves in one answer
RATES = (1e-6, 10.0)
BATCHES = (1, 1024)

Array = np.ndarray


class Moment:
    """The weights after a step, and what the model is worth with them."""

    def __init__(self, step: int, weights: list[Array], unseen: tuple[float, float | None] | None) -> None:
        self.step, self.weights, self.unseen = step, weights, unseen


class Learner(Worker):
    """Trains a copy of a model in a thread of its own. The thread alone touches the model; others ask and set under a
    lock what it does next, and never wait for a step.

    Args:
        model: compiled with a loss.
        train, test: samples and targets; ``test`` may be None.
    """

    def __init__(self, model: Any, train: Sequence[Any], test: Sequence[Any] | None) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        self.backend = model._compiled["backend"]
        self.metrics = ["accuracy"] if question(model)[0] != "numbers" else []
        self.model.compile(self.model.optimizer, self.model.loss, metrics=self.metrics, backend=self.backend)
        shape = (-1, *model.input_shape[1:])
        self.x, self.y = np.asarray(train[0]).reshape(shape), np.asarray(train[1])
        self.test = (
            None if test is None else (np.asarray(test[0])[:UNSEEN].reshape(shape), np.asarray(test[1])[:UNSEEN])
        )
        self.step, self.points, self.moments = 0, [], []  # type: ignore[var-annotated]
        self.batch, self.rate = min(128, len(self.x)), float(self.model.optimizer.learning_rate)
        self.name = next(
            (name for name, kind in optimizers.NAMES.items() if type(self.model.optimizer) is kind), "adam"
        )
        self.speed, self.error = 0.0, ""
        self._wanted: dict[str, Any] = {"left": 0}  # left: steps to go, -1: without end
        self._order, self._at, self._seed = np.arange(0), 0, 0

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
            self._wanted |= {name: value for name, value in wanted.items() if value is not None}
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
                "running": self._wanted["left"] != 0,
                "step": self.step,
                "points": points,
                "count": len(self.points),
                "moments": [moment.step for moment in self.moments],
                "unseen": [[moment.step, *moment.unseen] for moment in self.moments if moment.unseen],
                "epoch": -(-len(self.x) // self.batch),
                "speed": self.speed,
                "error": self.error,
                "rate": self.rate,
                "batch": self.batch,
                "optimizer": self.name,
                "optimizers": list(optimizers.NAMES),
                "unseen_count": 0 if self.test is None else len(self.test[0]),
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
                wanted, go = self._wanted, self._wanted["left"] != 0
                self._wanted = {"left": max(wanted["left"] - 1, 0) if wanted["left"] > 0 else wanted["left"]}
            try:
                self._settle(wanted)
                if go:
                    self._train()
                if self._wanted["left"] == 0 and (not self.moments or self.moments[-1].step != self.step):
                    self._keep()
            except (ValueError, TypeError, RuntimeError, MemoryError) as error:
                with self._wake:
                    self.error, self._wanted = str(error), {"left": 0}

    def _settle(self, wanted: dict[str, Any]) -> None:
        """Take over what was asked for."""
        optimizer = self.model.optimizer
        if wanted.get("over"):
            self.model.set_weights(fresh_weights(self.model, self._seed))
            self._seed += 1
            self._compile(type(optimizer).from_config(optimizer.get_config()))
            with self._wake:
                self.step, self.points, self.moments, self._at, self.error = 0, [], [], len(self._order), ""
            self._keep()
        if wanted.get("name", self.name) != self.name:
            self.name = wanted["name"]
            self._compile(optimizers.NAMES[self.name](learning_rate=self.rate))  # type: ignore[call-arg]
        if "rate" in wanted:
            self.rate = wanted["rate"]
            self.model.optimizer.learning_rate = self.rate
        if "batch" in wanted:
            self.batch = min(wanted["batch"], len(self.x))

    def _compile(self, optimizer: Any) -> None:
        self.model.compile(optimizer, self.model.loss, metrics=self.metrics, backend=self.backend)

    def _train(self) -> None:
        """One step, on the next batch of the epoch."""
        start = time.perf_counter()
        if self._at >= len(self._order):
            rng = np.random.default_rng((self._seed, self.step))
            self._order, self._at = rng.permutation(len(self.x)), 0
        chosen = np.sort(self._order[self._at : self._at + self.batch])
        self._at += self.batch
        logs = self.model.train_on_batch(self.x[chosen], self.y[chosen], return_dict=True)
        seconds = time.perf_counter() - start
        with self._wake:
            self.step += 1
            self.points.append([self.step, logs["loss"], self._accuracy(logs)])
            speed = len(chosen) / max(seconds, 1e-9)
            self.speed = speed if not self.speed else 0.9 * self.speed + 0.1 * speed
        if self.step >= next_moment(self.moments[-1].step if self.moments else 0):
            self._keep()

    def _accuracy(self, logs: dict[str, float]) -> float | None:
        return next((float(value) for name, value in logs.items() if "acc" in name), None)

    def _keep(self) -> None:
        unseen = None
        if self.test is not None:
            logs = self.model.test_on_batch(*self.test, return_dict=True)
            unseen = (float(logs["loss"]), self._accuracy(logs))
        moment = Moment(self.step, self.model.get_weights(), unseen)
        with self._wake:
            self.moments.append(moment)
            if len(self.moments) > MOST_KEPT:
                self.moments = [*self.moments[0:-1:2], self.moments[-1]]


def next_moment(step: int) -> int:
    """Denser at the start: 0, 1, 2, 4, 7, 11, 16, 23 ..."""
    return step + max(1, round(0.4 * step) + (step > 1))
