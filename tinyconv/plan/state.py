"""Everything in a model that training changes, in the memory of one kernel set."""

import copy
import itertools
import math
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from tinyconv.kernels import memory
from tinyconv.plan.arena import Arena

# Where in the totals they begin, each with two numbers: the sum of all penalties (and a count that means nothing, as
# there may be several), and for each loss its sum and the number of samples. Then come the metrics.
PENALTY, LOSSES = 0, 2
PART = 16384  # elements of a part of the gradients: a task on the CPU, a block on a GPU


class State:
    """Parameters, gradients, moments, moving statistics, counters and totals.

    ``params`` and ``moving`` are the model's own arenas, in the computer's memory. A kernel set that works there uses
    them as they are; for one with a memory of its own (CUDA) the state holds copies: :meth:`push` sends the model's
    weights there, :meth:`pull` fetches them back.
    """

    def __init__(
        self,
        kernels: ModuleType,
        params: Arena,
        moving: Arena,
        *,
        seed: int = 0,
        slots: tuple[str, ...] = (),
        totals: int = LOSSES + 2,
        penalties: Mapping[int, Mapping[str, float]] | None = None,
    ) -> None:
        self.kernels = kernels
        self.dtype = params.flat.dtype
        self.seed = seed
        self.whole = 0  # the samples of the batch that a plan's are a shard of; 0: they are the batch
        self.on_host = kernels.allocate is memory.allocate
        self.host_params, self.host_moving = params, moving
        self.params = params if self.on_host else Arena(params.shapes, kernels, self.dtype)
        self.moving = moving if self.on_host else Arena(moving.shapes, kernels, self.dtype)
        self.grads = Arena(params.shapes, kernels, self.dtype)
        self.slots = {name: kernels.allocate(params.flat.shape, self.dtype) for name in slots}
        self.counters = kernels.allocate((3,), np.int64)
        self.learning_rate = kernels.allocate((1,), self.dtype)
        self.totals = kernels.allocate((totals,), np.float64)
        # By the power of the penalty, each parameter's strength
        self.penalties = {power: self._spread(strengths) for power, strengths in (penalties or {}).items() if strengths}
        self.push()

    def shard(self, whole: int, grads: Arena, totals: Any) -> "State":
        """For plans that compute a shard of a batch of ``whole`` samples: these weights and moments, but gradients,
        totals and counters of its own. The penalties are the whole batch's."""
        other = copy.copy(self)
        other.whole, other.grads, other.totals, other.penalties = whole, grads, totals, {}
        other.counters = self.kernels.allocate((3,), np.int64)
        return other

    def _spread(self, values: Mapping[str, float]) -> Any:
        """A flat array, laid out as the parameters, that holds each parameter's value of ``values``."""
        host = Arena(self.params.shapes, memory, self.dtype)  # type: ignore[arg-type]
        for name, value in values.items():
            host[name][...] = value
        flat = self.kernels.allocate(host.flat.shape, self.dtype)
        self.kernels.upload(flat, host.flat)
        return flat

    def slot(self, name: str) -> Any:
        """A moment of the optimiser; of size zero if it has none of that name."""
        return self.slots.get(name, self.kernels.allocate((0,), self.dtype))

    def parts(self, together: bool) -> Any:
        """The gradients in parts of at most PART elements, none of two weights: rows (begin, end, norm), for
        ``clip_norms``. A norm is that of one weight's gradient, or, ``together``, of all."""
        rows = []
        for number, (name, shape) in enumerate(self.grads.shapes.items()):
            begin, size = self.grads.offsets[name], math.prod(shape)
            cuts = [*range(begin, begin + size, PART), begin + size]
            rows += [(first, last, 0 if together else number) for first, last in itertools.pairwise(cuts)]
        parts = self.kernels.allocate((len(rows), 3), np.int64)
        self.kernels.upload(parts, np.array(rows, np.int64))
        return parts

    def push(self) -> None:
        """Send the model's weights to where the kernels work."""
        if not self.on_host:
            self.kernels.upload(self.params.flat, self.host_params.flat)
            self.kernels.upload(self.moving.flat, self.host_moving.flat)

    def pull(self) -> None:
        """Fetch the weights into the model's own arrays."""
        if not self.on_host:
            self.kernels.download(self.host_params.flat, self.params.flat)
            self.kernels.download(self.host_moving.flat, self.moving.flat)

    def set(self, array: Any, values: Any) -> None:
        """Write a few numbers into one of the state's small arrays."""
        self.kernels.upload(array, np.asarray(values, array.dtype).reshape(array.shape))

    def read(self, array: Any) -> np.ndarray:
        """One of the state's arrays as a NumPy array of its own."""
        host = np.empty(array.shape, array.dtype)
        self.kernels.download(host, array)
        return host
