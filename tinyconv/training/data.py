"""A data set where the kernels can reach it, and a pass over it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyconv.plan.lowering import Plan
from tinyconv.plan.state import State


@dataclass
class Data:
    """A data set where the kernels can reach it: samples as rows, targets as rows or class numbers, and an order."""

    x: Any  # (samples, numbers per sample)
    y: Any  # None, (samples, numbers per sample), or class numbers (samples * R,)
    order: Any  # int64 (samples,)
    samples: int
    sparse: bool

    @classmethod
    def load(cls, state: State, x: np.ndarray, y: np.ndarray | None) -> "Data":
        def on_kernels(array: np.ndarray) -> Any:
            if state.on_host or not isinstance(array, np.ndarray):  # it is there already
                return array
            there = state.kernels.allocate(array.shape, array.dtype)
            state.kernels.upload(there, array)
            return there

        samples = len(x)
        sparse = y is not None and y.dtype.kind == "i"
        rows = None if y is None else on_kernels(y if sparse else y.reshape(samples, -1))
        order = on_kernels(np.arange(samples, dtype=np.int64))
        return cls(on_kernels(x.reshape(samples, -1)), rows, order, samples, sparse)


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
