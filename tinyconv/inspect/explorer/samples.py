"""The samples that the page shows: in which order, how they look, and what the model answers."""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyconv.distribution.parallel import alone
from tinyconv.inspect.explorer.data import Data
from tinyconv.inspect.explorer.requests import Request
from tinyconv.inspect.explorer.warp import warped
from tinyconv.network import Network
from tinyconv.plan import ops

MOST = 10_000  # samples that are answered and sorted
CHUNK = 500  # of them at once
SIZE = 40  # pixels of a small picture, at most
LISTS = ("worst", "test")


def question(model: Any) -> tuple[str, int]:
    """What the model decides, and among how many: "classes", "two" (yes or no), or just "numbers"."""
    shape = model.output_shape
    if isinstance(shape, list) or len(shape) != 2:
        return "numbers", 0
    last = model._graph().last_op()
    kind = last.kind if isinstance(last, ops.Activation) else "softmax" if isinstance(last, ops.Softmax) else "linear"
    loss = getattr(model.loss, "kind", None)
    if shape[1] > 1 and (kind == "softmax" or loss == "cross_entropy"):
        return "classes", shape[1]
    if shape[1] == 1 and (kind == "sigmoid" or loss == "binary_cross_entropy"):
        return "two", 2
    return "numbers", shape[1]


class Samples:
    """Samples with their labels, if there are any, and the model's answers as soon as they are known.

    Args:
        model: whose answers they are: a copy that nobody else changes.
        x: samples, or None: there is none yet.
        y: what is to be learned of them, or None.
        names: of the classes; None: their numbers.
    """

    def __init__(self, model: Network, x: Any, y: Any, names: Sequence[str] | None) -> None:
        self.model = model
        shapes = model.input_shape if isinstance(model.input_shape, list) else [model.input_shape]
        self.shapes: list[tuple[int, ...]] = [tuple(shape[1:]) for shape in shapes]
        self.lead = next((k for k, shape in enumerate(self.shapes) if _is_image(shape)), 0)
        self.kind, self.count = question(model)
        self.data = None if x is None else Data.of(model, x, y, MOST)
        self.names = list(names) if names is not None else [str(k) for k in range(self.count)]
        self.truths = None if self.data is None or self.data.ys is None else self._truths(self.data.ys[0])
        low, high = (0.0, 1.0) if self.data is None else (float(f(self._lead[:CHUNK])) for f in (np.min, np.max))
        self.range = (low, high if high > low else low + 1)
        self.answers: np.ndarray | None = None  # the class of each, or -1 where it is no question of classes
        self.order: list[int] = []  # worst mistakes first
        self.accuracy: float | None = None
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def __len__(self) -> int:
        return 0 if self.data is None else len(self.data)

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the leading input: the first that is a picture, if one is."""
        return self.shapes[self.lead]

    @property
    def _lead(self) -> np.ndarray:
        assert self.data is not None
        return self.data.xs[self.lead]

    @property
    def is_image(self) -> bool:
        """Whether a sample has a picture that can be drawn, turned and blurred."""
        return _is_image(self.shape)

    def _truths(self, y: np.ndarray) -> np.ndarray | None:
        """The class of each sample."""
        if self.kind == "numbers":
            return None
        flat = y.reshape(len(y), -1)
        return flat[:, 0].astype(int) if flat.shape[1] == 1 else flat.argmax(axis=1)

    # The model's answers

    def again(self, model: Network) -> None:
        """Ask another model, in a thread of its own."""
        self._stop.set()
        self._thread.join(20)
        self._stop.clear()
        self.model = model
        with self._lock:
            self.answers = None
        self.start()

    def start(self) -> None:
        """Ask the model about every sample; takes a while, so a thread of its own does it."""
        self._thread = threading.Thread(target=self.ask, daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until all answers are there."""
        self._thread.join()

    def ask(self) -> None:
        """Ask the model about every sample."""
        if self.data is None or not self.count:
            return
        outputs = []
        for start in range(0, len(self), CHUNK):
            if self._stop.is_set():
                return
            x = self.data.rows(slice(start, start + CHUNK)).x
            with alone():
                outputs.append(np.asarray(self.model.predict(x, verbose=0)))  # type: ignore[call-arg]
        rows = np.concatenate(outputs).reshape(len(self), -1).astype(np.float64)
        answers, wrongness = self._judged(rows)
        with self._lock:
            self.answers = answers
            if wrongness is not None:
                wrong = np.flatnonzero(wrongness > 0)
                self.order = wrong[np.argsort(-wrongness[wrong], kind="stable")].tolist()
                if self.truths is not None and answers is not None:
                    self.accuracy = float((answers == self.truths).mean())

    def close(self) -> None:
        self._stop.set()
        self._thread.join(5)

    def _judged(self, rows: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
        """The answers, and how wrong each is: 0 if it is right."""
        if self.kind == "numbers":
            if self.data is None or self.data.ys is None:
                return None, None
            return None, ((rows - self.data.ys[0].reshape(rows.shape)) ** 2).mean(axis=1)
        if self.kind == "two":
            rows = np.concatenate([1 - rows, rows], axis=1)
        answers = rows.argmax(axis=1)
        if self.truths is None:
            return answers, None
        at = np.arange(len(rows))
        margin = rows[at, answers] - rows[at, np.clip(self.truths, 0, rows.shape[1] - 1)]
        return answers, np.where(answers == self.truths, 0, np.maximum(margin, 1e-12))

    # For the page

    def page(self, request: Request) -> dict[str, Any]:
        """Some of a list: numbers, truths, answers and small pictures."""
        kind = request.choice("list", LISTS)
        with self._lock:
            numbers: Any = self.order if kind == "worst" else range(len(self))
            start = request.integer("from", 0, max(len(numbers), 1), 0)
            chosen = list(numbers[start : start + request.integer("count", 1, 60)])
            ready = self.answers is not None or not self.count or not len(self)
            about = {"total": len(numbers), "from": start, "ready": ready, "accuracy": self.accuracy}
            return about | self.listed(chosen)

    def listed(self, chosen: Sequence[int]) -> dict[str, Any]:
        """Samples by their numbers: truths, answers and, if they are pictures, these."""
        items = [{"index": i, "truth": self._at(self.truths, i), "answer": self._at(self.answers, i)} for i in chosen]
        return {"items": items} | ({"pictures": [self._small(i) for i in chosen]} if self.is_image else {})

    @staticmethod
    def _at(array: np.ndarray | None, i: int) -> int | None:
        return None if array is None else int(array[i])

    def _small(self, i: int) -> dict[str, Any]:
        x = self._lead[i].reshape(*self.shape[:2], -1).astype(np.float32)
        step = max(1, -(-max(x.shape[:2]) // SIZE))
        x = x[: x.shape[0] // step * step, : x.shape[1] // step * step]
        x = x.reshape(x.shape[0] // step, step, x.shape[1] // step, step, -1).mean(axis=(1, 3))
        low, high = self.range
        levels = np.clip((x - low) / (high - low) * 255, 0, 255).astype(np.uint8)
        return {"shape": list(levels.shape), "pixels": levels.reshape(-1).tolist()}

    def chosen(self, request: Request) -> tuple[Data, int | None]:
        """The sample that is asked for, one row, and its class. What is drawn stands for the leading input; the others
        are those of the sample, if there is one."""
        i = request.integer("index", 0, len(self) - 1, 0) if len(self) else None
        if self.data is not None and i is not None:
            found, truth = self.data.rows(slice(i, i + 1)), self._at(self.truths, i)
            found.xs = [x.astype(np.float32) for x in found.xs]
        else:
            found, truth = Data([np.full((1, *shape), self.range[0], np.float32) for shape in self.shapes], None), None
        if request.has("pixels"):
            low, high = self.range
            levels = request.bytes("pixels", int(np.prod(self.shape)))
            found.xs[self.lead] = (low + levels.astype(np.float32) / 255 * (high - low)).reshape(1, *self.shape)
            truth = request.integer("truth", 0, self.count - 1) if request.has("truth") and self.count else None
            found.ys = None if truth is None or self.kind == "numbers" else [self.target(truth)]
        if self.is_image:
            H, W = self.shape[:2]
            slide = {name: request.number(name, -most, most, 0.0) for name, most in _slides(H, W).items()}
            if any(slide.values()):
                found.xs[self.lead] = warped(found.xs[self.lead][0], **slide)[None]
        return found, truth

    def target(self, truth: int) -> np.ndarray:
        """What the loss wants to be told of a class."""
        if self.kind == "two" or getattr(self.model.loss, "sparse", False):
            return np.array([truth])
        return np.eye(self.count, dtype=np.float32)[truth : truth + 1]


def _is_image(shape: tuple[int, ...]) -> bool:
    return (len(shape) == 3 and shape[2] in (1, 3)) or len(shape) == 2


def _slides(H: int, W: int) -> dict[str, float]:
    """How far each slider goes."""
    return {"across": W / 2, "down": H / 2, "turn": 180.0, "blur": max(H, W) / 8}
