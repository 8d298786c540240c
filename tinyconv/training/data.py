"""A data set where the kernels can reach it, and a pass over it."""

import bisect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import numpy as np

from tinyconv.callbacks.base import BEGINNING, Position
from tinyconv.checking.messages import warn
from tinyconv.distribution.ranks import Ranks
from tinyconv.plan.lowering import Plan
from tinyconv.plan.state import State

Draw = Callable[[int], np.ndarray]  # a permutation of so many numbers
STEPS = {"x of fit": "steps_per_epoch", "validation_data of fit": "validation_steps"}  # of others: "steps"


@dataclass
class Data:
    """A data set where the kernels can reach it: samples as rows, targets as rows or class numbers, and an order."""

    xs: tuple[Any, ...]  # for each input (samples, numbers per sample)
    ys: tuple[Any, ...]  # for each target (samples, numbers per sample), or class numbers (samples * R,)
    weights: tuple[Any, ...]  # for each target None, or (samples, rows of output of a sample)
    order: Any  # int64 (samples,)
    samples: int
    kernels: ModuleType

    @classmethod
    def load(
        cls,
        state: State,
        xs: Sequence[np.ndarray],
        ys: Sequence[np.ndarray] = (),
        weights: Sequence[np.ndarray | None] = (),
    ) -> "Data":
        samples = len(xs[0])
        rows = [y if is_sparse(y) else y.reshape(samples, -1) for y in ys]
        order = on_kernels(state, np.arange(samples, dtype=np.int64))
        inputs = tuple(on_kernels(state, x.reshape(samples, -1)) for x in xs)
        targets = tuple(on_kernels(state, y) for y in rows)
        weighed = tuple(None if each is None else on_kernels(state, each) for each in weights)
        return cls(inputs, targets, weighed, order, samples, state.kernels)


def on_kernels(state: State, array: Any) -> Any:
    """An array where the kernels can reach it."""
    if state.on_host or not isinstance(array, np.ndarray):  # it is there already
        return array
    there = state.kernels.allocate(array.shape, array.dtype)
    state.kernels.upload(there, array)
    return there


def is_sparse(y: Any) -> bool:
    """Whether targets are class numbers."""
    return bool(y.dtype.kind == "i")


def given(weights: Iterable[Any]) -> list[Any]:
    """Those that there are."""
    return [each for each in weights if each is not None]


def loader(plan: Plan, data: Data, targets: bool, counters: Any) -> list[tuple[Callable[..., None], tuple[Any, ...]]]:
    """The kernel calls that fill a plan's batch from a data set, at the cursor."""
    kernels, calls = plan.kernels, []
    pairs = [*zip(plan.xs, data.xs, strict=True)]
    if targets:
        pairs += zip(plan.all_targets, data.ys, strict=True)
        pairs += zip(plan.all_weights, given(data.weights), strict=True)
    for batch, whole in pairs:
        if is_sparse(whole):
            calls.append((kernels.gather_one_hot, (batch, whole, data.order, counters)))
        else:
            rows = batch.reshape((plan.batch_size, batch.size // plan.batch_size))
            calls.append((kernels.gather_rows, (rows, whole, data.order, counters)))
    return calls


class Ready(NamedTuple):
    """A batch of ``size`` samples as Python hands it to the kernels: targets are rows. Or what a rank needs of it;
    ``owner``: the only rank that computes it."""

    size: int
    xs: tuple[Any, ...]
    ys: tuple[Any, ...]
    weights: tuple[Any, ...]
    owner: int | None = None

    def part(self, samples: slice) -> "Ready":
        """These samples of it."""

        def rows(array: Any) -> Any:
            many = len(array) // self.size  # rows of a sample
            return array[samples.start * many : samples.stop * many]

        xs, ys, weights = (tuple(None if each is None else rows(each) for each in some) for some in self.arrays)
        return Ready(self.size, xs, ys, weights)

    @property
    def arrays(self) -> tuple[tuple[Any, ...], ...]:
        return self.xs, self.ys, self.weights


class Prepared(Protocol):
    """What is run for a batch: a plan, or the plans of its shards."""

    @property
    def batch_size(self) -> int: ...
    def program(self, *phases: str) -> Callable[[], None]: ...


class Turn(NamedTuple):
    """One batch of a pass: its number in the epoch, its samples, its plan, and what runs it; the rank that alone does
    so, where ranks share the batches of a prediction."""

    number: int
    size: int
    plan: Any  # Prepared; None of a batch that another rank computes
    run: Callable[[], None]
    owner: int | None = None


class Shared(NamedTuple):
    """Whose batches are whose: this one of the ``ranks`` computes its ``own``, and ``skip`` counts one of another's."""

    owners: Sequence[int]  # of all batches
    ranks: Ranks
    skip: Callable[[int], None]  # of so many samples

    @property
    def own(self) -> slice:
        """The numbers of this rank's batches, which are neighbours."""
        first = bisect.bisect_left(self.owners, self.ranks.rank)
        return slice(first, first + self.owners.count(self.ranks.rank))

    def turn(self, turn: Turn, number: int) -> Turn:
        """The turn of the batch of that number, as this rank takes it."""
        owner = self.owners[number]
        return turn._replace(owner=owner, run=turn.run if owner == self.ranks.rank else partial(self.skip, turn.size))


class Loop(Protocol):
    """A pass over data, as the loops see it: :class:`Pass`, or one over a stream of batches."""

    def begin(self, origin: int, epochs: int) -> None:
        """Before the first of so many epochs. The data begin with epoch ``origin``, which may have been earlier."""

    @property
    def samples(self) -> int | None:
        """The samples of an epoch, if they are known."""

    @property
    def count(self) -> int | None:
        """The batches of an epoch, if they are known."""

    def batches(self, position: Position) -> Iterator[Turn]:
        """What is left of the epoch."""

    def kinds(self) -> list[Turn]:
        """A batch of each size that is known in advance."""

    def done(self, position: Position) -> int:
        """The batches that came before, in the present order of the data."""

    def cursor(self, position: Position) -> int:
        """The samples that came before, for the kernels that look for the next ones in the order."""

    def shuffle(self, draw: Draw) -> None:
        """Put the data in another order, if they have one."""

    def has_more(self) -> bool:
        """Whether there are data for another epoch."""

    def close(self) -> None:
        """The run is over."""


@dataclass
class Pass:
    """Everything one pass over arrays needs: a program for the full batch, and one for a ragged last one.

    An epoch of ``steps`` batches goes on where the last one ended; the samples begin anew when they all had their turn.
    """

    data: Data
    batch_size: int
    plans: dict[int, Any]  # Prepared, for each size of a batch
    programs: dict[int, Callable[[], None]]
    steps: int | None = None  # None: all batches that there are
    argument: str = "x"
    shared: "Shared | None" = None  # each batch is one rank's
    origin: int = 0

    def begin(self, origin: int, epochs: int) -> None:
        self.origin = origin

    @property
    def length(self) -> int:
        """The number of batches of all samples."""
        return -(-self.data.samples // self.batch_size)

    @property
    def count(self) -> int:
        return self.steps or self.length

    @property
    def samples(self) -> int:
        return min(self.count * self.batch_size, self.data.samples)

    def batches(self, position: Position = BEGINNING) -> Iterator[Turn]:
        first, end = self.done(position), self.done(position) + self.count - position.batch
        for number in range(first, min(end, self.length)):
            yield self._turn(number - first + position.batch, number * self.batch_size)
        if end > self.length:
            warn_of_end(self.argument, self.count, self.length - first + position.batch)

    def _turn(self, number: int, first: int) -> Turn:
        size = min(self.batch_size, self.data.samples - first)
        turn = Turn(number, size, self.plans[size], self.programs[size])
        return turn if self.shared is None else self.shared.turn(turn, first // self.batch_size)

    def kinds(self) -> list[Turn]:
        return [Turn(0, size, plan, self.programs[size]) for size, plan in self.plans.items()]

    def done(self, position: Position) -> int:
        return done_before(position.epoch - self.origin, position.batch, self.steps, self.length)

    def cursor(self, position: Position) -> int:
        return min(self.done(position) * self.batch_size, self.data.samples)

    def shuffle(self, draw: Draw) -> None:
        self.data.kernels.upload(self.data.order, draw(self.data.samples))

    def has_more(self) -> bool:
        return True

    def close(self) -> None: ...


def done_before(epochs: int, batch: int, steps: int | None, length: int | None) -> int:
    """How many batches data of ``length`` batches have given since they last began, when so many epochs of ``steps``,
    and so many batches of the next one, are over."""
    if steps is None:
        return batch
    return (epochs % -(-length // steps) if length else epochs) * steps + batch


def warn_of_end(argument: str, expected: int, received: int) -> None:
    """Warn that an epoch ends early."""
    steps = STEPS.get(argument, "steps")
    warn(
        f"{argument} ran out of batches, so this pass ends early. Expected {expected} ({steps}). Received: {received}. "
        f"Fix: a smaller {steps}, or data without an end, such as .repeat() of a tf.data.Dataset gives."
    )
