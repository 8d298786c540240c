"""One look at a sample: its trace, packed for the page, and the explanation of every number of it."""

import copy
import itertools
import math
import threading
from collections import OrderedDict
from typing import Any

import numpy as np

from tinyconv.inspect.explorer.breaker import Breaker
from tinyconv.inspect.explorer.columns import columns
from tinyconv.inspect.explorer.data import Data
from tinyconv.inspect.explorer.learner import Learner
from tinyconv.inspect.explorer.mistakes import MISTAKES
from tinyconv.inspect.explorer.requests import Refused, Request
from tinyconv.inspect.explorer.samples import Samples
from tinyconv.inspect.explorer.server import framed
from tinyconv.inspect.explorer.worker import compiled_again
from tinyconv.plan import ops
from tinyconv.trace.check import STEP
from tinyconv.trace.explanation import Explanation

KEPT = 6  # traces that can still be asked about
WHOLE = 400_000  # numbers of an array that is sent at once; of a larger one, maps as they are asked for
MOST_TERMS = 5_000  # of a sum, that are sent each on its own
MOST_OTHERS = 8  # terms beside the products: a bias, penalties
OTHERS = 31  # samples that a picture is shown with to a model that normalises over the batch

Array = np.ndarray


class Look:
    """A trace of a batch whose first sample is the one that is shown."""

    def __init__(self, model: Any, data: Data) -> None:
        self.model, self.batch = model, len(data)
        self.trace = model.trace(data.x) if data.ys is None else model.trace(data.x, data.y)
        self.columns = columns(model)
        self.lock = threading.Lock()

    def array(self, name: str, what: str) -> Array:
        """An array by the names of its layer and itself."""
        try:
            layer = self.trace[name]
        except (ValueError, KeyError):
            raise Refused(f"There is no layer {name!r}.") from None
        if what.startswith("step/"):
            weight = layer.weights.get(what.removeprefix("step/"))
            found = None if weight is None or weight.gradient is None else weight.step
        else:
            found = getattr(layer, what) if what in dir(layer) else None
        if not isinstance(found, np.ndarray):
            raise Refused(f"Layer {name!r} has no array {what!r} here.")
        return found

    def is_weight(self, name: str, what: str) -> bool:
        own = what.removeprefix("step/")
        return any(own.removeprefix(prefix) in self.trace[name].weights for prefix in ("", "d", "new_"))

    def shown(self, name: str, what: str) -> Array:
        """An array as the page has it: of a batch, the first sample."""
        found = self.array(name, what)
        return found if self.is_weight(name, what) else found[0]

    def names(self, number: int) -> dict[str, str]:
        """What a column shows in its bands: its values, and their gradients if there are any."""
        column = self.columns[number]
        found = {"value": "output"}
        layer = self.trace[column["name"]]
        if layer.doutput is not None:
            absorbed = column["activation"] in ("softmax", "sigmoid") and column["z"] and self._is_last(number)
            found["gradient"] = "dz" if absorbed else "doutput"
        for weight, each in layer.weights.items():
            found[f"weight/{weight}"] = weight
            if each.gradient is not None:
                found[f"step/{weight}"] = f"step/{weight}"
        return found

    def _is_last(self, number: int) -> bool:
        return all(number not in column["reads"] for column in self.columns)

    def packed(self, more: dict[str, Any]) -> bytes:
        """A JSON header, its length before it, and behind it float32: what the page keeps of a look."""
        blobs: list[bytes] = []
        offset, found = 0, []
        for number, column in enumerate(self.columns):
            entry: dict[str, Any] = {}
            for band, what in self.names(number).items():
                array = self.shown(column["name"], what)
                summary = {"what": what, "shape": list(array.shape), **_range(array)}
                if array.size <= WHOLE:
                    blobs.append(np.ascontiguousarray(array, np.float32).tobytes())
                    summary["at"], offset = offset, offset + array.size
                entry[band] = summary
            found.append(entry)
        known = {"loss": self.loss(), "step": self.trace.step, "broken": self.trace.first_broken}
        return framed({"columns": found, **known, **more}, blobs)

    def loss(self) -> dict[str, Any] | None:
        """The loss, and, of the first sample, where its gradient begins."""
        if self.trace.loss is None:
            return None
        found: dict[str, Any] = {"value": self.trace.loss, "after": self.trace.loss_after, "batch": self.batch}
        if len(self.trace.losses) == 1:
            (loss,) = self.trace.losses.values()
            found |= {"name": loss.name, "kind": loss.kind, "own": float(loss.losses[0])}
            size = loss.input.shape[-1]
            if size <= 1000 and loss.input.ndim == 2:
                found["targets"] = loss.targets[0].tolist()
                found["gradient"] = loss.dinput[0].tolist()
                found["outputs"] = (loss.input if loss.probs is None else loss.probs)[0].tolist()
        return found

    # Explanations

    def explained(self, request: Request) -> dict[str, Any]:
        if not request.has("layer"):
            with self.lock:
                return plain(self.whole_loss())
        name = request.choice("layer", list(self.trace))
        with self.lock:
            if name in self.trace.losses:
                return plain(self.trace[name].explain("losses", (0,)))
            what = request.choice("what", [*dir(self.trace[name]), *(f"step/{w}" for w in self.trace[name].weights)])
            return plain(self.explanation(name, what, self._place(request, name, what)))

    def whole_loss(self) -> Explanation:
        """Where the loss of the batch comes from: of several outputs that of each."""
        if self.trace.loss is None:
            raise Refused("There is no loss here.")
        return self.trace.explain_loss()

    def explanation(self, name: str, what: str, place: tuple[int, ...]) -> Explanation:
        """Where a number comes from: of an array by its name, or of what "step/kernel" adds to a weight."""
        if what.startswith("step/"):
            return self.trace[name].explain("step", what.removeprefix("step/"), place)
        return self.trace[name].explain(what, place)

    def _place(self, request: Request, name: str, what: str) -> tuple[int, ...]:
        array = self.array(name, what)
        if self.is_weight(name, what):
            return request.place("place", array.shape)
        return (0, *request.place("place", array.shape[1:]))

    def measured(self, request: Request) -> dict[str, Any]:
        """The slope of the loss along a number, beside its gradient."""
        name = request.choice("layer", list(self.trace))
        what = request.choice("what", [each for each in dir(self.trace[name]) if each.startswith("d")])
        place = self._place(request, name, what)
        with self.lock:
            try:
                found = self.trace[name].nudge(what, place)
            except ValueError as error:  # some gradients cannot be measured, and it says why
                return {"error": str(error)}
        if not all(map(math.isfinite, found.losses)):
            return {"error": "The loss is no finite number here."}
        return {
            "gradient": found.gradient,
            "slope": found.slope,
            "left": found.left,
            "right": found.right,
            "losses": found.losses,
            "step": STEP,
            "verdict": found.verdict,
            "digits": found.digits,
        }

    def maps(self, request: Request) -> bytes:
        """Maps of a large array, one after another, in float32."""
        name = request.choice("layer", list(self.trace))
        what = request.choice("what", [*dir(self.trace[name]), *(f"step/{w}" for w in self.trace[name].weights)])
        array = self.shown(name, what)
        first = request.integer("from", 0, array.shape[-1] - 1)
        last = min(array.shape[-1], first + request.integer("count", 1, 16))
        return np.ascontiguousarray(np.moveaxis(array[..., first:last], -1, 0), np.float32).tobytes()


def _range(array: Array) -> dict[str, Any]:
    finite = array[np.isfinite(array)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    return {"min": low, "max": high, "broken": int(array.size - finite.size)}


def plain(found: Explanation) -> dict[str, Any]:
    """An explanation for JSON, and, of a sum of products, all of them in columns."""
    sent = found.to_dict()
    rows = max(found.rows, key=lambda each: len(each.values), default=None)
    if rows is not None and 2 <= len(rows.values) <= MOST_TERMS and len(rows.columns) == 2:
        sent["products"] = {
            "columns": [
                {"name": c.name, "values": c.values.tolist(), "places": None if c.places is None else c.places.tolist()}
                for c in rows.columns
            ],
            "why": [rows.why(row) if not value else "" for row, value in enumerate(rows.values.tolist())],
            "values": rows.values.tolist(),
        }
        others = [term for each in found.rows if each is not rows for term in map(each.term, range(len(each.values)))]
        sent["others"] = [
            {"value": term.value, "factors": [{"name": f.name, "place": f.place} for f in term.factors]}
            for term in others[:MOST_OTHERS]
        ]
    return sent


class Looking:
    """Answers looks with a model of its own, and keeps the last few so that the page can ask about them."""

    def __init__(self, model: Any, samples: Samples) -> None:
        self.model, self.samples = compiled_again(model, backend="reference"), samples
        self.learner: Learner | None = None
        self.breaker: Breaker | None = None
        self._then: Any = None
        self._numbers = itertools.count(1)
        self._looks: OrderedDict[int, Look] = OrderedDict()
        self._lock = threading.Lock()
        self.learns = model.loss is not None
        self.batched = any(isinstance(node.op, ops.BatchNorm) and not node.op.frozen for _, node in model._graph())

    def look(self, request: Request) -> bytes:
        """A trace of the sample that is asked for."""
        return self._kept(*self.looked(request))

    def looked(self, request: Request) -> tuple[Look, dict[str, Any]]:
        """The same as an object; and what else there is to say of it."""
        data, truth = self.samples.chosen(request)
        assumed = False
        model, then = self._model_of(request)
        with self._lock:
            answer = self._answer(model, data)
            if data.ys is None and self.learns and self.samples.count and answer is not None:
                truth, assumed = answer, True
                data.ys = [self.samples.target(answer)]
            if not self.learns or not request.boolean("backward", True):
                data.ys = None
            if self.breaker is not None and request.has("mistake") and data.ys is not None:
                look = Look(model, self.breaker.batch(data))
            else:
                look = Look(model, self._with_others(data))
        return look, {"answer": answer, "truth": truth, "assumed": assumed, "moment": then}

    def _model_of(self, request: Request) -> tuple[Any, int | None]:
        """The model; or, while training is looked at, a copy as it is at a moment (without one: now)."""
        if self.breaker is not None and request.has("mistake"):
            return self.breaker.model(request.choice("mistake", list(MISTAKES))), None
        if self.learner is None or not request.boolean("training"):
            return self.model, None
        then = request.integer("moment", 0, 2**40) if request.has("moment") else None
        weights = self.learner.weights_at(then)
        with self._lock:
            if self._then is None:
                self._then = copy.deepcopy(self.model)
            self._then.set_weights(weights)
        return self._then, then

    def adopt(self) -> None:
        """Look at the model as it is trained by now, its optimiser included."""
        assert self.learner is not None
        self.learner.pause()
        model = compiled_again(copy.deepcopy(self.learner.model), backend="reference")
        with self._lock:
            self.model = model

    def _answer(self, model: Any, data: Data) -> int | None:
        """What the model says, as at inference: nothing is dropped."""
        if not self.samples.count or self.samples.kind == "numbers":
            return None
        row = np.asarray(model(data.x)).reshape(-1)
        return int(row[0] >= 0.5) if self.samples.kind == "two" else int(row.argmax())

    def _with_others(self, data: Data) -> Data:
        """A batch normalisation in training needs a batch: the picture first, then the first of the samples."""
        others = self.samples.data
        if data.ys is None or not self.batched or others is None or others.ys is None:
            return data
        return data.before(others.rows(slice(OTHERS)))

    def _kept(self, look: Look, more: dict[str, Any]) -> bytes:
        number = next(self._numbers)
        found = look.packed({"look": number, **more})
        with self._lock:
            self._looks[number] = look
            while len(self._looks) > KEPT:
                self._looks.popitem(last=False)
        return found

    def of(self, request: Request) -> Look:
        number = request.integer("look", 1, 2**53)
        with self._lock:
            if number not in self._looks:
                raise Refused("This look is no longer kept. Look again.")
            return self._looks[number]
