"""Cutting an element-wise job into blocks, and not cutting a small one.

What a thread computes must not depend on how many threads there are, down to the last bit. So a job is cut into parts
whose bounds depend on its size alone. Kernels that work in tasks (``tasks.py``) cut it into ``pieces``, of which each
task has its ``share``; the other, simple kernels into ``blocks``, which a ``prange`` of their own deals out.
"""

import functools

import numpy as np

from tinyconv.kernels.cpu.runtime.jit import jit

BLOCK = 4096  # elements: 16 KB of each array, so that a few arrays' blocks fit the first-level cache
PIECE = 16384  # elements of a task: microseconds of work, beside which taking a task costs nothing
SERIAL = 16384  # elements: below this, waking other threads (2 us, 20 on a busy machine) costs more than it gains


def pieces(size, cost=1):
    """The number of tasks for a job of so many elements, each ``cost`` times as expensive as a simple one."""
    return max(1, -(-size * cost // PIECE))


@jit
def share(task, tasks, size):
    """Where a task's part of ``size`` things begins, and where it ends."""
    return task * size // tasks, (task + 1) * size // tasks


@jit
def blocks(size):
    """The number of blocks that ``size`` elements make."""
    return (size + BLOCK - 1) // BLOCK


@jit
def span(block, size):
    """Where a block begins, and where it ends."""
    start = np.int64(block) * BLOCK  # a prange counts in uint64, and uint64 times int64 is, in Numba, a float
    return start, min(start + BLOCK, size)


@jit
def copy(target, source):
    """Copy a 1-D array. (An assignment of one slice to another allocates, in case the two overlap.)"""
    for i in range(target.size):
        target[i] = source[i]


def by_size(position=0, cost=1):
    """A decorator: compile a kernel twice, serial and parallel, and choose at each call.

    The size of the argument at ``position`` decides, times what one element of it costs, as a multiple of a simple
    one; so the choice, like the blocks, depends on shapes alone.
    """

    def compile_both(function):
        one, many = jit(function), jit(parallel=True)(function)

        @functools.wraps(function)
        def kernel(*arguments):
            (one if arguments[position].size * cost <= SERIAL else many)(*arguments)

        return kernel

    return compile_both
