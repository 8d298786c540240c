"""A pass over a stream: each batch is passed to the kernels as it comes."""

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from tinyconv.callbacks.base import BEGINNING, Position
from tinyconv.checking.inputs import Samples
from tinyconv.training.data import Draw, Ready, Turn, done_before
from tinyconv.training.streams import Stream, parts_of
from tinyconv.training.trainer import Trainer, are_given, ready

Check = Callable[[Any, Any, Any], Samples]


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
        self.shards = shards = trainer.shards
        first = self._ready(stream.first())
        self.size = first.size
        self.example: Ready | None = first
        if shards is not None:  # predictions are made of whole batches, by ranks in turns
            self.owners = itertools.cycle([shards.ranks.rank] if stream.in_turns else range(shards.ranks.size))
            if results is None:
                self.example = first.part(shards.portion(first.size))
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

    def outputs(self) -> list[list[np.ndarray]]:
        """Of a prediction: of each output the batches, also those that other ranks had their turns with."""
        results = self.results or []
        if self.shards is None:
            return results
        turns = [itertools.zip_longest(*each) for each in zip(*self.shards.ranks.everyone(results), strict=True)]
        return [[batch for turn in each for batch in turn if batch is not None] for each in turns]

    def _ready(self, batch: Any) -> Ready:
        return ready(self.check(*parts_of(batch, self.stream.argument)), self.trainer.heads)

    def _prepared(self, batch: Any) -> Any:
        """Everything that can be done before the kernels take the batch, in the reader's thread: the batch, or what
        each rank gets of it."""
        whole = self._ready(batch)
        if self.shards is None:
            return whole
        if self.results is None:
            return self.shards.parts(whole)
        owner = next(self.owners)
        known = Ready(whole.size, (), (), (), owner)
        return [whole._replace(owner=owner) if rank == owner else known for rank in range(self.shards.ranks.size)]

    def _turn(self, number: int, batch: Ready) -> Turn:
        size, weighted = batch.size, are_given(batch.weights)
        plan: Any = None
        mine = self.shards is None or batch.owner in (None, self.shards.ranks.rank)
        if self.shards is not None and self.results is None:
            plan = self.shards.batch(size, self.training, weighted)
        elif mine:
            plan = self.trainer.plan(size, self.training, self.results is None, weighted)
        return Turn(number, size, plan, partial(self._run, plan, batch) if mine else lambda: None, batch.owner)

    def _run(self, plan: Any, batch: Ready) -> None:
        self._compute(plan, batch)
        if self.results is not None:
            for found, out in zip(self.results, plan.outs, strict=True):
                found.append(self.trainer.state.read(out))

    def _compute(self, plan: Any, batch: Ready) -> None:
        if self.shards is not None and self.results is None:
            plan.load(batch)
            plan.step()()
            return
        self.trainer.load(plan, batch.xs, batch.ys or None, batch.weights)
        self.trainer.step(plan, self.training)()
