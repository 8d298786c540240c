"""A data set where the kernels can reach it, and a pass over it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyconv.plan.lowering import Plan
from tinyconv.plan.state import State


@dataclass
class Data:
    """A data set where the kernels can reach it: samples as rows, targets as rows or class numbers, and an order."""

    xs: tuple[Any, ...]  # for each input (samples, numbers per sample)
    ys: tuple[Any, ...]  # for each target (samples, numbers per sample), or class numbers (samples * R,)
    weights: tuple[Any, ...]  # for each target None, or (samples, rows of output of a sample)
    order: Any  # int64 (samples,)
    samples: int

    @classmethod
    def load(
        cls,
        state: State,
        xs: Sequence[np.ndarray],
        ys: Sequence[np.ndarray] = (),
        weights: Sequence[np.ndarray | None] = (),
    ) -> "Data":
        def on_kernels(array: np.ndarray) -> Any:
            if state.on_host or not isinstance(array, np.ndarray):  # it is there already
                return array
            there = state.kernels.allocate(array.shape, array.dtype)
            state.kernels.upload(there, array)
            return there

        samples = len(xs[0])
        rows = [y if is_sparse(y) else y.reshape(samples, -1) for y in ys]
        order = on_kernels(np.arange(samples, dtype=np.int64))
        inputs = tuple(on_kernels(x.reshape(samples, -1)) for x in xs)
        weighed = tuple(None if each is None else on_kernels(each) for each in weights)
        return cls(inputs, tuple(map(on_kernels, rows)), weighed, order, samples)


def is_sparse(y: Any) -> bool:
    """Whether targets are class numbers."""
    return bool(y.dtype.kind == "i")


@dataclass(frozen=True)
class Pass:
    """Everything one pass over a data set needs: a program for the full batch, and one for a ragged last one."""

    samples: int
    batch_size: int
    plans: dict[int, Plan]
    programs: dict[int, Callable[[], None]]

    def batches(self, begin: int = 0) -> Iterator[tuple[int, int]]:
        """The number and the size of each batch, from batch ``begin`` on."""
        for first in range(begin * self.batch_size, self.samples, self.batch_size):
            yield first // self.batch_size, min(self.batch_size, self.samples - first)
