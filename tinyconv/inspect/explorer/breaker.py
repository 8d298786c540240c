"""What a mistake does to a model: its gradients, what the check says of them, and a short run with it and without."""

import copy
from typing import Any

import numpy as np

from tinyconv.inspect.explorer.data import Data
from tinyconv.inspect.explorer.mistakes import MISTAKES, Mistake, broken, kernels_of, line_of, put_in
from tinyconv.inspect.explorer.requests import Refused, Request
from tinyconv.inspect.explorer.worker import Worker, compiled_again, fresh_weights
from tinyconv.trace.check import AGREES, WRONG, Nudged

BATCH = 16  # of the short runs
UNSEEN = 200  # samples that their accuracy is measured on
PLACES = 2  # of each tensor, that are nudged
TRIED = 6  # and of those that the mistake has changed
TOLERANCE = 1e-3  # of a tensor's largest gradient
TOGETHER = 8  # samples of the batch that is looked at: a mean over one row would hide a forgotten division


class Result:
    """What is known of one mistake so far."""

    def __init__(self) -> None:
        self.state = "new"  # "waiting", "running", "done"
        self.losses: list[float] = []
        self.accuracy: float | None = None
        self.rows: list[dict[str, Any]] | None = None
        self.error = ""


class Breaker(Worker):
    """Makes mistakes on copies of a model, one at a time, in a thread of its own.

    ``steps``: of the short runs.

    Args:
        model: gives the model that is looked at, as it is now.
        samples: of the page.
        data: samples and targets to train with.
    """

    def __init__(self, model: Any, samples: Any, data: tuple[Any, Any]) -> None:
        super().__init__()
        self.steps = 60
        self._model, self._samples = model, samples
        self.data = Data.of(samples.model, *data)
        self._results = {name: Result() for name in MISTAKES}
        self._copies: dict[tuple[int, str], Any] = {}
        self._kernels: tuple[Any, set[str]] | None = None
        self._queue: list[tuple[str, Any]] = []
        self._running = False

    def batch(self, data: Data) -> Data:
        """A picture and some others."""
        return data.before(self.data.rows(slice(TOGETHER - 1)))

    def model(self, name: str) -> Any:
        """The model with a mistake, or with none."""
        model = self._model()
        with self._wake:
            if (id(model), name) not in self._copies:
                self._copies = {key: value for key, value in self._copies.items() if key[0] == id(model)}
                self._copies[id(model), name] = broken(model, MISTAKES[name])
            return self._copies[id(model), name]

    def _applies(self, mistake: Mistake) -> bool:
        """Whether the model runs any kernel that the mistake changes."""
        model = self._model()
        if self._kernels is None or self._kernels[0] is not model:
            self._kernels = model, kernels_of(model)
        return not mistake.changes or bool(self._kernels[1].intersection(mistake.changes))

    # Asked by the page

    def begin(self, request: Request) -> dict[str, Any]:
        """Find out about a mistake: at once about its gradients, then about training."""
        name = request.choice("mistake", list(MISTAKES))
        if not self._applies(MISTAKES[name]):
            raise Refused("This model has nothing that the mistake could be made in.")
        data, _ = self._samples.chosen(request)
        if data.ys is None:
            raise Refused("Choose a picture whose truth is known.")
        with self._wake:
            result = self._results[name]
            result.rows = None
            self._queue = [each for each in self._queue if each[0] not in (name, "none")]
            self._queue = [(name, self.batch(data)), ("none", None), *self._queue]
            result.state = "waiting" if result.state == "new" else result.state
            self._rouse()
        return {}

    def known(self, request: Request) -> dict[str, Any]:
        """What is known of every mistake."""
        found = []
        for name, mistake in MISTAKES.items():
            result = self._results[name]
            found.append(
                {
                    "id": name,
                    "title": mistake.title,
                    "remark": mistake.remark,
                    "line": line_of(mistake),
                    "applies": self._applies(mistake),
                    **{part: getattr(result, part) for part in ("state", "losses", "accuracy", "rows", "error")},
                }
            )
        return {"mistakes": found, "steps": self.steps, "batch": BATCH, "busy": bool(self._queue) or self._running}

    # In the thread

    def _live(self) -> None:
        while True:
            with self._wake:
                self._running = False
                self._wake.wait_for(lambda: self._closed or self._queue)
                if self._closed:
                    return
                name, batch = self._queue.pop(0)
                self._running = True
            result = self._results[name]
            try:
                if batch is not None:
                    result.rows = self._checked(name, batch)
                if result.accuracy is None:
                    result.state = "running"
                    self._train(MISTAKES[name], result)
                    result.state = "done"
            except (ValueError, TypeError, RuntimeError, MemoryError) as error:
                result.error, result.state = str(error), "done"

    def _checked(self, name: str, batch: Data) -> list[dict[str, Any]]:
        """Of every tensor, coming back from the loss, then the weights: random places are nudged, and those where the
        mistake has changed the gradient most."""
        trace, plain = self.model(name).trace(batch.x, batch.y), self.model("none").trace(batch.x, batch.y)
        found: dict[str, dict[str, Any]] = {}
        for row in trace.check(PLACES).rows:
            layer, _, what = row.tensor.rpartition(", ")
            if row.tensor not in found:
                found[row.tensor] = self._spoilt(trace[layer], plain[layer], what) or _entry(row, layer, what, 1.0)
            scale = float(np.abs(getattr(trace[layer], what)).max(initial=0)) or 1.0
            entry = _entry(row, layer, what, scale)
            if not found[row.tensor]["wrong"] and entry["error"] > found[row.tensor]["error"]:
                found[row.tensor] = entry
        return list(found.values())

    @staticmethod
    def _spoilt(layer: Any, plain: Any, what: str) -> dict[str, Any] | None:
        """The place where the mistake shows most, if nudging says so too: at a kink it may not."""
        mine, right = getattr(layer, what), getattr(plain, what)
        change, scale = np.abs(mine - right), float(max(np.abs(mine).max(initial=0), np.abs(right).max(initial=0)))
        for flat in np.argsort(-change, axis=None)[:TRIED]:
            place = tuple(int(i) for i in np.unravel_index(flat, change.shape))
            if change[place] <= TOLERANCE * scale:
                return None
            row = layer.nudge(what, place)
            if abs(row.gradient - row.slope) > TOLERANCE * scale:
                return {
                    **_entry(row, layer.name, what, scale),
                    "wrong": True,
                    "error": abs(row.gradient - row.slope) / scale,
                }
        return None

    def _train(self, mistake: Mistake, result: Result) -> None:
        """A short run from fresh weights; the same batches for all, but where their order is the mistake."""
        model = copy.deepcopy(self._model())
        optimizer = type(model.optimizer).from_config(model.optimizer.get_config())
        optimizer.learning_rate = float(optimizer.learning_rate) * mistake.rate
        compiled_again(model, optimizer, backend="reference", fuse=False)
        model.set_weights(fresh_weights(model, 0))
        put_in(model, mistake)
        order = np.random.default_rng(0).permutation(len(self.data))[: self.steps * BATCH]
        order = np.resize(order, self.steps * BATCH)
        if mistake.sorted:
            assert self.data.ys is not None
            labels = self.data.ys[0].reshape(len(self.data), -1)[order]
            order = order[np.argsort(labels[:, 0] if labels.shape[1] == 1 else labels.argmax(axis=1), kind="stable")]
        result.losses = []
        for step in range(self.steps):
            if self._closed:
                return
            some = self.data.rows(order[step * BATCH : (step + 1) * BATCH])
            result.losses.append(float(np.ravel(model.train_on_batch(some.x, some.y))[0]))
        samples = self._samples
        if samples.truths is not None:
            outputs = np.asarray(model(samples.data.rows(slice(UNSEEN)).x)).reshape(min(UNSEEN, len(samples)), -1)
            answers = outputs[:, 0] >= 0.5 if samples.kind == "two" else outputs.argmax(axis=1)
            result.accuracy = float((answers == samples.truths[:UNSEEN]).mean())
        else:
            result.accuracy = float("nan")


def _entry(row: Nudged, layer: str, what: str, scale: float) -> dict[str, Any]:
    """A number that was nudged, for the page. At a kink no slope can be right or wrong."""
    error = abs(row.gradient - row.slope) / scale if row.verdict == AGREES else 0.0
    found = {"layer": layer, "what": what, "error": error, "wrong": False, "place": list(row.place)}
    if row.verdict == WRONG:
        found |= {"error": abs(row.gradient - row.slope) / scale, "wrong": True}
    return {**found, "gradient": row.gradient, "slope": row.slope}
