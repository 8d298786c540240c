"""What fit, evaluate and predict are given: arrays, or a data set that gives batches; and the pass over it."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from tinyconv.checking import count_of
from tinyconv.checking.arguments import Shape, is_stream
from tinyconv.checking.inputs import Samples, split_validation
from tinyconv.checking.messages import warn
from tinyconv.training.agreement import digest
from tinyconv.training.data import STEPS, Data, Loop, on_kernels
from tinyconv.training.streamed import StreamPass
from tinyconv.training.streams import Stream, parts_of
from tinyconv.training.trainer import Trainer

TRAINING, VALIDATION = "x of fit", "validation_data of fit"
Check = Callable[..., Samples]  # of inputs, targets, weights and, perhaps, class_weight


class Feed:
    """Data for one run.

    Args:
        argument: what messages call them: "x of fit".
        x, y, weights: arrays; or ``x`` is a data set, whose batches have targets and weights of their own.
        batch_size: samples of a batch of arrays; None: 32, or as many as ``steps`` batches need for all samples.
        steps: the batches of an epoch, or of the run; None: all.
        class_weight: weights of samples by their classes.
    """

    def __init__(
        self,
        argument: str,
        x: Any,
        y: Any = None,
        weights: Any = None,
        *,
        batch_size: Any = None,
        steps: Any = None,
        class_weight: Any = None,
    ) -> None:
        self.argument, self.given, self.class_weight = argument, (x, y, weights), class_weight
        self.steps: int | None = count_of(STEPS.get(argument, "steps"), steps)
        self.batch_size: int | None = count_of("batch_size", batch_size)
        self.arrays: Samples | None = None
        self.stream: Stream | None = None
        if is_stream(x):
            self._refuse_beside({"y": y, "sample_weight": weights}, "each batch is (x, y) or (x, y, sample_weight)")
            self.stream = Stream(x, argument, self.steps, anew=argument != TRAINING)
            if argument == VALIDATION:
                self.stream.first(hold=False)
            if batch_size is not None and argument != VALIDATION:
                warn(f"batch_size has no effect on {argument}: it is a data set, which has made its batches itself.")

    def _refuse_beside(self, arguments: dict[str, Any], fix: str) -> None:
        for name, value in arguments.items():
            if value is not None:
                raise ValueError(
                    f"{name} cannot be given beside a data set: {self.argument} is one. Expected None. Fix: {fix}."
                )

    @property
    def example(self) -> Any:
        """Inputs, to see their shape."""
        if self.stream is None:
            return self.given[0]
        batch = self.stream.first()
        return batch[0] if isinstance(batch, list | tuple) and batch else batch

    def check(self, check: Check) -> None:
        """Arrays are checked at once, a stream batch by batch."""
        self.checking = check if self.class_weight is None else partial(check, class_weight=self.class_weight)
        if self.stream is None:
            self.arrays = self.checking(*self.given)

    def split(self, share: float, **settings: Any) -> "Feed":
        """Give the last ``share`` of the samples away, to validate on, where classes have no weights."""
        if self.arrays is None:
            raise ValueError(
                f"validation_split is for arrays, and {self.argument} is a data set. Expected 0. "
                "Fix: validation_data=..., another data set."
            )
        other = Feed(VALIDATION, None, **settings)
        self.arrays, (xs, ys, weights) = split_validation(*self.arrays, share)
        other.arrays = xs, ys, weights if self.class_weight is None else (None,) * len(ys)
        return other

    @property
    def size(self) -> int:
        """Samples of a batch of arrays."""
        assert self.arrays is not None
        if self.batch_size is None:
            return 32 if self.steps is None else math.ceil(len(self.arrays[0][0]) / self.steps)
        return self.batch_size

    def described(self) -> dict[str, Any]:
        """What ranks that share a run must have in common."""
        if self.stream is not None:
            kind = f"{type(self.given[0]).__name__}, {self.stream.length} batches, steps={self.steps}"
            return {self.argument: kind, **self._first_read()}
        assert self.arrays is not None
        arrays = [each for some in self.arrays for each in some]
        shapes = ", ".join(str(None if each is None else each.shape) for each in arrays)
        same = {"arrays": shapes, "batches": f"batch_size={self.size}, steps={self.steps}", "numbers": digest(arrays)}
        return {f"{what} of {self.argument}": value for what, value in same.items()}

    def _first_read(self) -> dict[str, Any]:
        """What all ranks find in the first batch, if they read it. They share the reading if a batch depends on nothing
        but its number: where it is another one each time, what they draw would depend on how many they are."""
        stream = self.stream
        assert stream is not None
        first, again = stream.first(), stream.again
        if again is None:
            return {}
        once, twice = (
            digest([each for some in self.checking(*parts_of(batch, self.argument)) for each in some])
            for batch in (first, again)
        )
        stream.in_turns, stream.again = once == twice, None
        return {f"first batch of {self.argument}": once if stream.in_turns else "another one when it is read again"}

    @property
    def identity(self) -> tuple[int | None, int | None]:
        """What a run that goes on with a backup must have in common with it."""
        return (len(self.arrays[0][0]), self.size) if self.arrays is not None else (self.steps, None)

    def loop(self, trainer: Trainer, training: bool) -> Loop:
        """A pass for training, or for losses alone."""
        if self.stream is not None:
            return StreamPass(trainer, self.stream, self.checking, training)
        assert self.arrays is not None
        data = Data.load(trainer.state, *self.arrays)
        return trainer.pass_over(data, self.size, training, steps=self.steps, argument=self.argument)

    def prediction(self, trainer: Trainer, shapes: Sequence[Shape]) -> tuple[Loop, Callable[[bool], list[Any]]]:
        """A pass for outputs of these shapes, and what gives them after it: NumPy arrays, or the kernels' own."""
        state = trainer.state
        if self.stream is not None:
            parts: list[list[np.ndarray]] = [[] for _ in shapes]
            through = StreamPass(trainer, self.stream, self.checking, False, parts)

            def joined(on_device: bool) -> list[Any]:
                arrays = map(np.concatenate, through.outputs())
                return [on_kernels(state, each) if on_device else each for each in arrays]

            return through, joined
        assert self.arrays is not None
        data = Data.load(state, self.arrays[0])
        results = [state.kernels.allocate((data.samples, math.prod(shape)), np.float32) for shape in shapes]
        loop = trainer.pass_over(data, self.size, False, results, self.steps, self.argument)

        def read(on_device: bool) -> list[Any]:
            if loop.shared is not None:
                own = loop.shared.own
                mine = slice(own.start * self.size, own.stop * self.size)
                parts = loop.shared.ranks.everyone([each[mine] for each in results])
                return [*map(np.concatenate, zip(*parts, strict=True))]
            return [each[: loop.samples] if on_device else state.read(each[: loop.samples]) for each in results]

        return loop, read
