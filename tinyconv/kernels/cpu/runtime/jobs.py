"""Jobs: what a family of kernels plans for given shapes, once, and then runs again and again."""

from collections.abc import Callable
from typing import Any, NamedTuple

from tinyconv.kernels.cpu.runtime.tasks import flat, run

TASKS = 16  # into how many tasks a kernel is cut where the shapes allow: enough for some cores, few enough to be cheap


class Job(NamedTuple):
    """A part of a layer: the kernel, how many tasks it has, what it must know, and the memory that it needs."""

    kernel: Callable
    tasks: int
    numbers: Any  # a tuple of integers
    filters: int = 0  # floats of packed or transformed filters
    scratch: int = 0  # floats that a thread needs
    sums: int = 0  # floats of partial sums

    def run(self, first, second, third, work, *more):
        """Do it, on three arrays and ``work``; ``more`` is what the kernel takes behind its numbers."""
        run(self.kernel, self.tasks, *flat(first, second, third, work), self.numbers, *more)

    def place(self, **places):
        """The job that knows too where things are."""
        known = {name: place for name, place in places.items() if name in self.numbers._fields}
        return self._replace(numbers=self.numbers._replace(**known))


def whole_lines(size):
    """A size in floats, rounded up to whole cache lines."""
    return -(-size // 16) * 16
