"""A pass over a stream: each batch is passed to the kernels as it comes."""

import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from tinyconv.callbacks.base import BEGINNING, Position
from tinyconv.checking import inputs
from tinyconv.checking.inputs import Samples
from tinyconv.training.data import Draw, Turn, done_before, is_sparse
from tinyconv.training.streams import Stream, parts_of
from tinyconv.training.trainer import Trainer, are_given

Check = Callable[[Any, Any, Any], Samples]


class Ready(NamedTuple):
    """A batch as the kernels take it. ``check``: what tells other ranks which batch it is."""

    xs: Any
    ys: Any
    weights: Any
    check: int


def checksum(arrays: Iterable[np.ndarray | None]) -> int:
    """A number that differs where arrays do."""
    found = 0
    for array in arrays:
        if array is not None:
            found = zlib.crc32(np.ascontiguousarray(array).data.cast("B"), found)
    return found


class StreamPass:
    """A pass over batches of any sizes, which are prepared in another thread while the kernels are at work.

    Args:
        trainer: whose plans run the batches.
        stream: where they come from.
        check: what makes of inputs, targets and weights the arrays of a batch.
        training: whether to learn from them.
        results: a list that takes the outputs of each batch, for each output; without it there are losses.
    """

    def __init__(
        self,
        trainer: Trainer,
        stream: Stream,
        check: Check,
        training: bool,
        results: list[list[np.ndarray]] | None = None,
    ) -> None:
        self.trainer, self.stream, self.check = trainer, stream, check
        self.training, self.results, self.origin = training, results, 0
        self.shards = trainer.shards if results is None else None
        self.example: Ready | None = self._prepared(stream.first())
        self.size = len(self.example[0][0])
        if training:
            stream.reset()

    def begin(self, origin: int, epochs: int) -> None:
        self.origin, self.stream.epochs = origin, max(epochs, 1)

    @property
    def count(self) -> int | None:
        return self.stream.count

    @property
    def samples(self) -> int | None:
        """As if all batches were as large as the first."""
        return None if self.count is None else self.count * self.size

    def batches(self, position: Position = BEGINNING) -> Iterator[Turn]:
        if self.example is not None:
            self.example, self.stream.skip = None, self.done(position)
        if not self.training and self.results is None:
            self.stream.reset()
        for number, batch in self.stream.epoch(position.batch, self._prepared, self.trainer.give_way):
            yield self._turn(number, batch)
            del batch

    def kinds(self) -> list[Turn]:
        if self.example is None:
            return []
        turn = self._turn(0, self.example)
        return [turn._replace(run=partial(self._compute, turn.plan, self.example))]

    def done(self, position: Position) -> int:
        return done_before(position.epoch - self.origin, position.batch, self.stream.steps, self.stream.length)

    def cursor(self, position: Position) -> int:
        return 0

    def shuffle(self, draw: Draw) -> None:
        self.stream.draw = draw

    def has_more(self) -> bool:
        return self.stream.has_more(self.trainer.give_way)

    def close(self) -> None:
        self.stream.close()

    def _prepared(self, batch: Any) -> "Ready":
        """Everything that can be done before the kernels take the batch; in the reader's thread."""
        xs, ys, weights = self.check(*parts_of(batch, self.stream.argument))
        heads = self.trainer.heads
        rows = [
            inputs.one_hot(y, (len(y), h.shape[-1])) if is_sparse(y) else y for y, h in zip(ys, heads, strict=False)
        ]
        return Ready(xs, tuple(rows), weights, checksum((*xs, *rows, *weights)) if self.shards is not None else 0)

    def _turn(self, number: int, batch: "Ready") -> Turn:
        xs, _, weights, _ = batch
        plan: Any
        if self.shards is not None:
            plan = self.shards.batch(len(xs[0]), self.training, are_given(weights))
        else:
            plan = self.trainer.plan(len(xs[0]), self.training, self.results is None, are_given(weights))
        return Turn(number, len(xs[0]), plan, partial(self._run, plan, batch))

    def _run(self, plan: Any, batch: "Ready") -> None:
        self._compute(plan, batch)
        if self.results is not None:
            for found, out in zip(self.results, plan.outs, strict=True):
                found.append(self.trainer.state.read(out))

    def _compute(self, plan: Any, batch: "Ready") -> None:
        xs, ys, weights, check = batch
        if self.shards is not None:
            self.shards.check = check
            plan.load(xs, ys, weights)
            plan.step()()
            return
        self.trainer.load(plan, xs, ys or None, weights)
        self.trainer.step(plan, self.training)()
